//! The threads of a query, and how they give way to the rest of the server.
//!
//! A thread of lower niceness still keeps its core for whole time slices, a few milliseconds or some ten, while an
//! acknowledgement waits: only threads of the scheduling class `SCHED_IDLE` (sched(7)) are put aside at once by any other. They get,
//! though, next to nothing on a machine that has nothing to spare. So each query has threads of its own: they begin with
//! a higher niceness, with which a short query gets its share of a busy machine, and are moved to that class once the
//! query has taken [`Config::short`]. Leaving the class again needs a privilege: threads that were moved end with their query,
//! others serve the next one.

use crate::{Config, Error};
use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};
use tokio::runtime::{Handle, Runtime};

/// Enough for the deepest expression that a query may have; memory is used only where it is touched.
const STACK_BYTES: usize = 32 << 20;

/// A thread looks so often, counted in polls, whether its query was cancelled or out of time: a poll of a join may take a
/// second, and of the runtime's own 61 a query would go on for a minute.
const LOOK_EVERY: u32 = 2;

/// The crews that wait for a query.
#[derive(Debug)]
pub(crate) struct Crews {
    threads: usize,
    blocking_max: usize,
    niceness: i32,
    short: Duration,
    idle_max: usize,
    idle: Mutex<Vec<(Threads, Pool)>>,
}

/// The threads of one query.
#[derive(Debug)]
pub(crate) struct Crew {
    home: Weak<Crews>,
    threads: Threads,
    pool: Option<Pool>,
    has_ended: bool,
}

/// Stops its threads without waiting for them: a query that computes is dropped at its next await.
#[derive(Debug)]
struct Pool(Option<Runtime>);

#[derive(Debug, Clone, Default)]
struct Threads(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// As the system numbers them. One that ends takes itself out first, so that no other thread has its number.
    running: BTreeSet<libc::pid_t>,
    gives_way: bool,
    /// How many queries these threads have served: the time of an earlier one says nothing of this one.
    queries: u64,
}

impl Crews {
    pub(crate) fn new(config: &Config) -> Self {
        let threads = config.threads.max(1);
        Self {
            threads,
            // A reader that waits for a thread must not be what those who have one wait for.
            blocking_max: (threads * config.running_max.max(1)).saturating_add(8),
            niceness: config.niceness.into(),
            short: config.short,
            idle_max: config.running_max.max(1),
            idle: Mutex::default(),
        }
    }

    /// Threads for one query, which begins now. Must be called in a runtime, which keeps the time.
    ///
    /// # Errors
    /// [`Error::Internal`] if the system gives no threads.
    pub(crate) fn take(self: &Arc<Self>) -> Result<Crew, Error> {
        let idle = self.idle().pop();
        let (threads, pool) = idle.map_or_else(|| self.start(), Ok)?;
        let mut state = threads.state();
        state.queries += 1;
        let query = state.queries;
        drop(state);
        let (late, short) = (threads.clone(), self.short);
        tokio::spawn(async move {
            tokio::time::sleep(short).await;
            late.give_way(query);
        });
        Ok(Crew { home: Arc::downgrade(self), threads, pool: Some(pool), has_ended: false })
    }

    fn start(&self) -> Result<(Threads, Pool), Error> {
        let threads = Threads::default();
        let (niceness, starting, stopping) = (self.niceness, threads.clone(), threads.clone());
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(self.threads)
            .max_blocking_threads(self.blocking_max)
            .thread_name("sql")
            .thread_stack_size(STACK_BYTES)
            .enable_time()
            .global_queue_interval(LOOK_EVERY)
            .event_interval(LOOK_EVERY)
            .on_thread_start(move || starting.add(niceness))
            .on_thread_stop(move || stopping.remove())
            .build()
            .map_err(|error| Error::Internal { message: format!("cannot start the threads of a query: {error}") })?;
        Ok((threads, Pool(Some(runtime))))
    }

    fn idle(&self) -> MutexGuard<'_, Vec<(Threads, Pool)>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Crew {
    /// Where its tasks are spawned.
    pub(crate) fn handle(&self) -> Option<Handle> {
        Some(self.pool.as_ref()?.0.as_ref()?.handle().clone())
    }

    /// The query has come to its end, so nothing of it runs any more: another may have its threads.
    pub(crate) fn ended(mut self) {
        self.has_ended = true;
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        let Some(pool) = self.pool.take() else { return };
        let mut state = self.threads.state();
        // Its time is over, if it did not pass.
        state.queries += 1;
        let is_fresh = !state.gives_way;
        drop(state);
        if let Some(home) = self.home.upgrade().filter(|_| self.has_ended && is_fresh) {
            let mut idle = home.idle();
            if idle.len() < home.idle_max {
                idle.push((self.threads.clone(), pool));
            }
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

impl Threads {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The thread that calls. On Linux a priority belongs to a thread; failing to be polite is no reason to fail.
    fn add(&self, niceness: i32) {
        if niceness > 0
            && let Err(error) = rustix::process::setpriority_process(None, niceness)
        {
            tracing::debug!(%error, "thread of a query keeps its priority");
        }
        let thread = this_thread();
        let mut state = self.state();
        state.running.insert(thread);
        if state.gives_way {
            run_when_idle(thread);
        }
    }

    /// The thread that calls, which ends.
    fn remove(&self) {
        self.state().running.remove(&this_thread());
    }

    /// From now on these threads run only when no other wants to, if they still serve their `query`-th query.
    fn give_way(&self, query: u64) {
        let mut state = self.state();
        if state.queries == query {
            state.gives_way = true;
            state.running.iter().copied().for_each(run_when_idle);
        }
    }
}

/// As the system numbers it.
#[expect(unsafe_code, reason = "rustix has it behind a feature that would compile DataFusion once more")]
fn this_thread() -> libc::pid_t {
    // SAFETY: the call takes nothing and cannot fail.
    unsafe { libc::gettid() }
}

/// Moves a thread of this process to the class of idle ones.
#[expect(unsafe_code, reason = "sched_setscheduler has no safe door yet")]
fn run_when_idle(thread: libc::pid_t) {
    // SAFETY: all fields of `sched_param` are integers, for which zero is a value, and the one that SCHED_IDLE takes.
    let parameters: libc::sched_param = unsafe { std::mem::zeroed() };
    // SAFETY: the system reads `parameters` during the call and keeps nothing of it.
    if unsafe { libc::sched_setscheduler(thread, libc::SCHED_IDLE, &raw const parameters) } != 0 {
        tracing::debug!(error = %std::io::Error::last_os_error(), "thread of a query keeps its scheduling class");
    }
}
