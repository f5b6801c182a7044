//! Start: streams, folds replayed, one worker per thread.

use crate::{
    BrokerConfig, Worker,
    fences::Fences,
    folds::{self, Event, PresenceFold, RetainedFold, RunId, SessionFold, StreamNames, WaitingIndex},
    mailbox::{Mail, Mailbox},
    nodes::Nodes,
    owner::{DataPartition, Owner, RequestPartition},
    roster::Roster,
    router::Routes,
    seams::Access,
    worker::Shared,
};
use floodplain_fold::{Fold, Next, Objects, OpenError, Runner, RunnerConfig, RunnerError, Settled, Snapshots};
use floodplain_log::{
    Append, BatchBuilder, Compression, DataStreams, DataStreamsError, Log, Outcome, Owners, Partition, ReadError,
    Refusal, Reply, Stream,
};
use floodplain_types::{Class, Clock, StreamId, StreamName, TenantId};
use std::sync::{Arc, mpsc};

/// Why the broker could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A stream is new and could not be created.
    #[error("cannot open stream {stream}")]
    Stream { stream: String, source: Refusal },
    /// The streams of messages cannot be opened.
    #[error(transparent)]
    Data(#[from] DataStreamsError),
    /// A fold cannot start from its snapshots.
    #[error(transparent)]
    Fold(#[from] OpenError),
    /// A fold cannot replay.
    #[error(transparent)]
    Replay(#[from] RunnerError),
    /// The log cannot be read.
    #[error("cannot read the log")]
    Read(#[from] ReadError),
    /// The log does not take the record that says this server has started.
    #[error("the log takes no records: {0}")]
    Log(String),
    /// More workers than a set of workers has room for.
    #[error("{0} workers are too many, at most 64 are supported")]
    Workers(usize),
}

/// What the broker stands on.
#[derive(Debug)]
pub struct Environment {
    pub access: Access,
    pub log: Arc<dyn Log>,
    /// Who says which partitions this process folds with outputs: all, on the embedded engine.
    pub owners: Arc<dyn Owners>,
    /// Where snapshots of folds are, below `folds/`.
    pub snapshots: Arc<dyn Objects>,
    pub clock: Arc<dyn Clock>,
    /// Tells this run of the server from all others.
    pub run: u64,
    /// The runs before of the same server, as far as they are known: where the log is shared their connections are then gone at
    /// once, else when the others have missed it.
    pub previous_runs: Vec<u64>,
}

/// What workers are built from. Shared by the threads that build them.
#[derive(Debug)]
pub struct Broker {
    shared: Arc<Shared>,
    snapshots: Arc<dyn Objects>,
    positions: Stream,
    /// What this server says first.
    starts: Vec<Event>,
}

impl Broker {
    /// Opens the streams and prepares `workers` workers.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn open(config: BrokerConfig, environment: Environment, workers: usize) -> Result<Self, StartError> {
        let Environment { access, log, owners, snapshots, clock, run, previous_runs } = environment;
        if !(1..=64).contains(&workers) {
            return Err(StartError::Workers(workers));
        }
        let data = DataStreams::open(&*log, &TenantId::default_tenant(), config.partitions, &config.streams)?;
        let open = |name: &str| {
            let id = StreamId {
                tenant: TenantId::default_tenant(),
                stream: StreamName::new(name).expect("our stream names are valid"),
                generation: 0,
            };
            log.open_stream(&id, data.partitions_each())
                .map_err(|source| StartError::Stream { stream: id.to_string(), source })
        };
        let (requests, dlq, positions) = (open(folds::REQUESTS)?, open(folds::DLQ)?, open(folds::FOLDS)?);
        let mailboxes: Vec<_> = (0..workers as u32).map(|idx| Arc::new(Mailbox::new(idx, workers as u32))).collect();
        for mailbox in &mailboxes {
            log.watch(mailbox.clone());
        }
        let starts = if log.is_shared() {
            previous_runs.into_iter().map(|run| Event::NodeDied { run: RunId(run) }).collect()
        } else {
            vec![Event::ServerStart { run: RunId(run) }]
        };
        let listener = log.is_shared().then(|| format!("mqtt@{run:016x}").into());
        let shared = Arc::new(Shared {
            config,
            access,
            log,
            clock,
            routes: Routes::default(),
            mailboxes,
            data,
            requests,
            dlq,
            run: RunId(run),
            listener,
            fences: Arc::new(Fences::new(owners.slots())),
            owners,
        });
        shared.owners.watch(shared.fences.clone());
        Ok(Self { shared, snapshots, positions, starts })
    }

    /// Builds worker `idx`, replaying the folds of its partitions. Blocks.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn worker(&self, idx: usize) -> Result<Worker, StartError> {
        let shared = &self.shared;
        let is_whole = shared.log.keeps_units_whole();
        let mine = |stream: &Stream| -> Vec<Partition> {
            let indexes = (0..stream.partitions).filter(|index| shared.owner_of(*index) == idx as u32);
            indexes.map(|index| stream.partition(index)).collect()
        };
        let mut requests = Vec::new();
        let mut unsaid = Vec::new();
        for partition in mine(&shared.requests) {
            let names = StreamNames::from(&shared.data);
            let mut sessions = self.replayed(SessionFold::of(names, is_whole), partition)?;
            sessions.fold_mut().watch();
            // Connections of the run before are gone: their wills are due, their sessions sleep.
            for event in &self.starts {
                if !self.say(event, partition)? {
                    unsaid.push((partition.index, event));
                }
            }
            self.replay(&mut sessions)?;
            let presence = self.replayed(PresenceFold::default(), partition)?;
            let nodes = Nodes::of(sessions.fold(), shared.run);
            requests.push(RequestPartition::new(partition, shared.slot_of(partition.index), sessions, presence, nodes));
        }
        let mut data = Vec::new();
        for (index, partition) in shared.data.all().filter(|(index, _)| shared.owner_of(*index) == idx as u32) {
            let retained = self.replayed(RetainedFold::of(index - partition.index, is_whole), partition)?;
            let waiting = self.replayed(WaitingIndex::of(is_whole), partition)?;
            data.push(DataPartition::new(partition, index, retained, waiting));
        }
        let owner = Owner::new(data, requests, shared.workers());
        let mut worker = Worker::new(idx as u32, shared.clone(), owner);
        worker.tell_filters();
        for (index, event) in unsaid {
            worker.append_event(Class::All, "", index, event);
        }
        Ok(worker)
    }

    fn replayed<F: Fold>(&self, fold: F, partition: Partition) -> Result<Runner<F>, StartError> {
        let log = &*self.shared.log;
        let Some(id) = log.partition_id(partition) else {
            return Err(ReadError::UnknownPartition(partition).into());
        };
        let config = RunnerConfig {
            partition,
            snapshots: Snapshots::of(self.snapshots.clone(), &format!("folds/{}", F::NAME), &id),
            id,
            outputs: self.outputs(),
            folds: F::EMITS.then(|| self.positions.clone()),
        };
        let mut runner = Runner::open(fold, config, log)?;
        self.replay(&mut runner)?;
        Ok(runner)
    }

    /// The streams that folds append to, by the names that they have for them.
    fn outputs(&self) -> Vec<(&'static str, Stream)> {
        let data = folds::DATA.into_iter().zip(self.shared.data.list().iter().cloned());
        data.chain([(folds::DLQ, self.shared.dlq.clone())]).collect()
    }

    /// Appends what this server says first; false if the log has no room now, as on a full disk: then the worker says
    /// it when there is, before anything else.
    fn say(&self, event: &Event, partition: Partition) -> Result<bool, StartError> {
        let mut batch = BatchBuilder::new();
        let value = event.encode();
        let now = self.shared.clock.now().as_millis();
        let none = std::iter::empty::<(&str, &[u8])>();
        batch.push(now, None, Some(&value), none).expect("a small record fits an empty batch");
        let batches = batch.finish(Compression::None).map(|batch| (partition, batch)).into_iter().collect();
        match ended(|reply| self.shared.log.submit(Append { batches, class: Class::All }, Some(reply))) {
            Outcome::Committed(_) => Ok(true),
            Outcome::Refused(Refusal::DiskFull { .. } | Refusal::Overloaded { .. } | Refusal::Behind { .. }) => {
                Ok(false)
            }
            Outcome::Refused(refusal) => Err(StartError::Log(refusal.to_string())),
            Outcome::Unknown => Err(StartError::Log("the outcome of an append is unknown".to_owned())),
        }
    }

    /// Folds up to the watermark, and appends what that emits if the slot is owned. Where it is not yet, or the log has no
    /// room now, the worker goes on.
    fn replay<F: Fold>(&self, runner: &mut Runner<F>) -> Result<(), StartError> {
        let Shared { log, clock, owners, fences, .. } = &*self.shared;
        let log = &**log;
        loop {
            runner.owned_by(fences.of(self.shared.slot_of(runner.partition().index)));
            match runner.next(log, clock.now()) {
                Next::Append(unit) => {
                    let Some(fence) = runner.fence() else { return Ok(()) };
                    match runner.on_outcome(ended(|reply| owners.commit(fence, unit, reply))) {
                        Ok(Settled::Retry(refusal)) => {
                            tracing::warn!(%refusal, fold = F::NAME, "the log takes nothing now, its folds catch up later");
                            return Ok(());
                        }
                        Err(RunnerError::Fenced { .. }) => {}
                        settled => drop(settled?),
                    }
                }
                Next::Read { partition, from, max_bytes } => {
                    let read = log.read(partition, from, max_bytes);
                    match read {
                        Ok(read) => drop(runner.on_read(log, partition, from, Ok(&read))?),
                        Err(error) => drop(runner.on_read(log, partition, from, Err(error))?),
                    }
                }
                Next::Step => runner.step(),
                Next::Idle => return Ok(()),
            }
        }
    }

    /// What asks the workers about their clients.
    #[must_use]
    pub fn roster(&self) -> Roster {
        Roster::new(Arc::clone(&self.shared))
    }

    /// Tells all workers to stop: clients are told and disconnected, and what they have said is
    /// waited for.
    pub fn stop(&self) {
        for mailbox in &self.shared.mailboxes {
            mailbox.post([Mail::Stop]);
        }
    }
}

/// Blocks until the end of what `append` appends.
fn ended(append: impl FnOnce(Reply)) -> Outcome {
    #[derive(Debug)]
    struct Sink(mpsc::SyncSender<Outcome>);
    impl floodplain_log::CompletionSink for Sink {
        fn complete(&self, completions: Vec<floodplain_log::Completion>) {
            for completion in completions {
                // The receiver waits below until it has one.
                drop(self.0.try_send(completion.outcome));
            }
        }
    }
    let (sender, receiver) = mpsc::sync_channel(1);
    append(Reply { sink: Arc::new(Sink(sender)), tag: 0 });
    receiver.recv().unwrap_or(Outcome::Unknown)
}
