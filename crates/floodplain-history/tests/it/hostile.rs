//! An engine on a log that refuses, delays, repeats, leaves holes, and does not say what became of an append: then the process
//! is gone, and another one begins. Or it goes on, as it may on a log that says so of a broker.

use crate::engine::World;
use floodplain_history::{Error, engine::Engine, route::DefaultRoute};
use floodplain_log::Log as _;
use floodplain_testkit::{AdverseLog, Adversity, wait_until};
use std::{sync::Arc, time::Duration};

/// [`Adversity::HARSH`], but for appends that are written twice: a letter, unlike a row, is then there twice.
pub(crate) const ONCE: Adversity = Adversity { duplicates: 0, ..Adversity::HARSH };

pub(crate) struct Hostile<'w> {
    world: &'w World,
    log: Arc<AdverseLog>,
    pub(crate) engine: Engine,
    pub(crate) refused: u64,
    pub(crate) crashes: u64,
    /// How often it went on without knowing what became of an append.
    pub(crate) unknown: u64,
    goes_on: bool,
    /// Looks that found nothing to do before all was decoded.
    looks: u32,
    what: String,
}

impl<'w> Hostile<'w> {
    pub(crate) fn new(world: &'w World, adversity: Adversity, seed: u64) -> Self {
        let log = AdverseLog::start(Arc::new(world.log.clone()), adversity, seed);
        let (engine, what) = (open(world, &log), format!("{adversity:?}, seed {seed}"));
        let (refused, crashes, unknown, looks) = (0, 0, 0, 60_000);
        Self { world, log, engine, refused, crashes, unknown, goes_on: false, looks, what }
    }

    /// The process does not end where it does not know what became of an append.
    pub(crate) fn going_on(mut self) -> Self {
        self.goes_on = true;
        self
    }

    /// How many appends were torn.
    pub(crate) fn torn(&self) -> u64 {
        self.log.struck().unknown_torn
    }

    /// What a call has come to; `None` if it has to be made again.
    fn outcome<T>(&mut self, done: Result<T, Error>) -> Option<T> {
        match done {
            Ok(done) => return Some(done),
            Err(Error::Refused(_)) => self.refused += 1,
            Err(Error::Unknown) if self.goes_on => self.unknown += 1,
            Err(Error::Unknown) => {
                self.crashes += 1;
                self.engine = open(self.world, &self.log);
            }
            Err(error) => panic!("{}: {error}: {error:?}", self.what),
        }
        None
    }

    /// Works until all that was published is decoded, and there is nothing else to do.
    pub(crate) fn drain(&mut self) {
        loop {
            let done = self.engine.step();
            if self.outcome(done) != Some(false) {
                continue;
            }
            let is_decoded = |(partition, end)| self.engine.handle().decoded(partition) == end;
            if self.world.watermarks().into_iter().all(is_decoded) {
                return;
            }
            // What was appended shows late.
            self.looks -= 1;
            assert!(self.looks > 0, "{}: a minute without anything to do", self.what);
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    pub(crate) fn flush(&mut self) {
        loop {
            let done = self.engine.flush_all();
            if self.outcome(done).is_some() {
                return;
            }
        }
    }
}

fn open(world: &World, log: &Arc<AdverseLog>) -> Engine {
    // Who begins to read asks the log for its end, and that is the true one.
    let streams = world.log.streams();
    let partitions = || streams.iter().flat_map(|stream| (0..stream.partitions).map(|index| stream.partition(index)));
    let is_seen = || partitions().all(|partition| log.watermark(partition) == world.log.watermark(partition));
    wait_until("all that was written is seen", &|| {}, is_seen);
    loop {
        let (disk, route) = (Arc::new(world.disk.clone()), Arc::new(DefaultRoute::default()));
        match Engine::open(world.config.clone(), disk, log.clone(), world.clock.clone(), route) {
            Ok(engine) => return engine,
            Err(error) => assert!(matches!(error, Error::Refused(_) | Error::Unknown), "{error}"),
        }
    }
}
