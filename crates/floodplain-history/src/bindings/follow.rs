//! The bindings of a log whose tables another server keeps.

use super::{Bindings, CurrentBindings, KEY};
use crate::{
    Error, Result,
    documents::DocumentFold,
    engine::{Wake, fold, open_fold},
};
use floodplain_log::{Disk, Log, Stream};
use floodplain_types::Clock;
use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};
use tracing::{error, warn};

/// How long the thread rests when nothing wakes it.
const IDLE: Duration = Duration::from_secs(1);

/// Follows the bindings in stream `state` on a thread of its own, and changes none. A change counts here a moment after it
/// counts for who has made it. Dropping it ends the thread.
#[derive(Debug)]
pub struct BindingsFollower {
    current: Arc<CurrentBindings>,
    wake: Arc<Wake>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl BindingsFollower {
    /// Reads what there is, then goes on with what comes. `dir` is that of [`History`](crate::History), in case that this
    /// server has kept the tables before; nothing is written there. Blocks.
    ///
    /// # Errors
    /// Those of disk and log.
    pub fn open(
        dir: &Path,
        disk: Arc<dyn Disk>,
        log: Arc<dyn Log>,
        clock: Arc<dyn Clock>,
        state: &Stream,
    ) -> Result<Self> {
        let partition = state.partition_of(KEY.as_bytes());
        let mut runner = open_fold::<DocumentFold<Bindings>>(&*log, &disk, &dir.join("folds"), partition)?;
        let (current, wake, stop) = (Arc::<CurrentBindings>::default(), Arc::<Wake>::default(), Arc::default());
        log.watch(wake.clone());
        let (known, wakes, stopping) = (current.clone(), wake.clone(), Arc::<AtomicBool>::clone(&stop));
        let mut step = move || {
            let folded = fold(&*log, &mut runner, clock.now());
            let bindings = runner.fold().document();
            if !known.are(bindings) {
                known.set(bindings.clone());
            }
            folded
        };
        step()?;
        let run = move || {
            while !stopping.load(Ordering::Acquire) {
                wakes.wait(IDLE);
                if let Err(error) = step() {
                    warn!(%error, cause = ?error, "bindings cannot be followed, it is tried again");
                    metrics::counter!("floodplain_history_failures_total").increment(1);
                }
            }
        };
        let thread = std::thread::Builder::new().name("bindings".to_owned()).spawn(run);
        let thread =
            thread.map_err(|source| Error::Io { action: "start the thread of", path: "bindings".into(), source })?;
        Ok(Self { current, wake, stop, thread: Some(thread) })
    }

    /// The bindings of each moment.
    #[must_use]
    pub const fn current(&self) -> &Arc<CurrentBindings> {
        &self.current
    }
}

impl Drop for BindingsFollower {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.wake.wake();
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            error!("thread of bindings has panicked");
        }
    }
}
