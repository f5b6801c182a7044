//! From the log to files: one owner reads records, buffers rows, writes files and keeps them few.
//!
//! [`Engine`] has no thread: who has one calls [`Engine::step`] until there is nothing to do. What a step could not
//! do, because disk or log refused, it does at the next one. Order of a flush: buffer, file, manifest record, and only
//! then the buffer is forgotten; so after a crash anywhere each row is in a file or is decoded again.

mod change;
mod command;
mod commit;
mod dead_letters;
mod keeping;
mod orphans;
mod place;
mod repeats;
mod replay;

pub use commit::Wake;
pub use keeping::LogRetention;
pub(crate) use keeping::Mark;

use crate::{
    Error, Result,
    bindings::{Binding, Bindings},
    catalog::CatalogFold,
    documents::DocumentFold,
    jobs::Jobs,
    letters,
    manifest::ManifestFold,
    observe::Observer,
    route::Route,
    table_rules::{TableRules, TableSettings},
    tables::{Shared, Table, folder},
};
use change::Pending;
use command::{Answer, Change};
pub(crate) use commit::{fold, open_fold};
use dead_letters::Letters;
use floodplain_decode::{Rows, schema::TableSchema};
use floodplain_fold::Runner;
use floodplain_log::{Disk, Log, Partition, ReadError, Stream};
use floodplain_types::{Clock, Position, StreamId, StreamName, Timestamp};
use place::Placing;
use repeats::Ids;
use replay::Unsaved;
use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};
use tracing::error;

/// Bytes asked for in one read: what is decoded between two looks at buffers.
const READ_BYTES: usize = 256 << 10;

/// So many reads of live records, if there are any, then one of a job that decodes old ones again.
const LIVE_READS: u32 = 8;

/// Between two looks at the time a stop flushes so much: about so many bytes of buffers, or so many of them.
const FLUSHED_BYTES: usize = 16 << 20;
const FLUSHED_FILES: usize = 64;

/// What the engine reads and how much it keeps.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// Folder of the files, and of the folds' snapshots. Nobody else writes here.
    pub dir: PathBuf,
    /// The streams whose messages become rows, in the order of [`floodplain_log::DataStreams`], which must not change.
    pub inputs: Vec<Stream>,
    /// Where schemas are ordered.
    pub state: Stream,
    /// Where the manifest's records are, all in partition 0.
    pub manifest: Stream,
    /// Bytes of all buffers; beyond it the largest are flushed before more is read.
    pub buffers_bytes_max: usize,
    /// Buffers of all tables and windows.
    pub buffers_max: usize,
    /// A buffer that is so large is flushed.
    pub flush_bytes: usize,
    /// A buffer that is so old is flushed.
    pub flush_age: Duration,
    /// What the log keeps; `None` if that is all. Buffers are flushed, and snapshots written, well before it forgets their records.
    pub log_retention: Option<LogRetention>,
    /// More tables are not made by themselves: their messages go to [`crate::route::MESSAGES`].
    pub tables_max: usize,
    /// How old rows of a table may become, where nothing is set for it while the server runs; else bindings say it.
    pub retention: BTreeMap<String, Duration>,
    /// Bytes of all files; beyond it the oldest are removed.
    pub files_bytes_max: Option<u64>,
    /// Who else wants each row.
    pub observer: Option<Arc<dyn Observer>>,
    /// Bindings of the configuration file: they are taken up at the first step, and do not change by themselves.
    pub bindings: Vec<Arc<Binding>>,
}

impl EngineConfig {
    /// The defaults.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>, inputs: Vec<Stream>, state: Stream, manifest: Stream) -> Self {
        Self {
            dir: dir.into(),
            inputs,
            state,
            manifest,
            buffers_bytes_max: 256 << 20,
            buffers_max: 4096,
            flush_bytes: 64 << 20,
            flush_age: Duration::from_secs(600),
            log_retention: None,
            tables_max: 256,
            retention: BTreeMap::new(),
            files_bytes_max: None,
            observer: None,
            bindings: Vec::new(),
        }
    }
}

/// A partition that is decoded.
#[derive(Debug)]
struct Source {
    partition: Partition,
    /// Number of its stream among the inputs, and its index among the partitions of all of them.
    stream: u32,
    index: u32,
    /// Its lasting name.
    name: Arc<str>,
    position: Position,
    /// Rows of records before it may be in files already.
    flushed_until: Position,
    /// Records before it may have been decoded, and seen, before the start: by the bindings of then.
    seen_until: Position,
    /// Of the records before `position`; while no binding looks for repeats nothing is known.
    ids: Option<Ids>,
}

impl Source {
    fn pass(&mut self, next: Position) {
        self.position = next;
        self.ids.iter_mut().for_each(|ids| ids.until = next);
    }
}

/// What `state` says of bindings, jobs and tables.
#[derive(Debug)]
struct Documents {
    bindings: Runner<DocumentFold<Bindings>>,
    jobs: Runner<DocumentFold<Jobs>>,
    tables: Runner<DocumentFold<TableSettings>>,
}

/// Owner of the tables of one tenant.
#[derive(Debug)]
pub struct Engine {
    config: EngineConfig,
    disk: Arc<dyn Disk>,
    log: Arc<dyn Log>,
    clock: Arc<dyn Clock>,
    route: Arc<dyn Route>,
    shared: Arc<Shared>,
    wake: Arc<Wake>,
    catalogs: Vec<Runner<CatalogFold<TableSchema>>>,
    manifest: Runner<ManifestFold>,
    documents: Documents,
    letters: Letters,
    /// What somebody has asked for and is not done yet.
    change: Option<Change>,
    /// With progress that is not in the log yet.
    jobs: Jobs,
    unsaved: Unsaved,
    /// Ids of what a job decodes again: of the source that it was at last.
    again: Option<(usize, Ids)>,
    /// Tables may be written down as those of bindings that are gone.
    is_prune_due: bool,
    /// Reads of live records since a job had its turn.
    live_reads: u32,
    sources: Vec<Source>,
    /// The source that is read next.
    turn: usize,
    /// A change of the manifest that has begun; no other begins before its end.
    pending: Option<Pending>,
    next_file: u64,
    /// The folder says that it has files.
    has_noted_files: bool,
    /// When snapshots were written the last time, or when it was opened if they were not.
    snapshots: (Mark, bool),
    /// Files have been added since it was last looked at what is too old, or too much.
    has_grown: bool,
    rows: Rows,
    placing: Placing,
}

impl Engine {
    /// Folds schemas, bindings and manifest up to their watermarks, and removes files that no manifest names. Blocks.
    ///
    /// `route` is for messages that no binding takes. Letters of decoders go to the stream [`letters::STREAM`] of the same
    /// tenant, which is made with as many partitions as `state` if there is none.
    ///
    /// # Errors
    /// Those of disk and log; [`Error::Manifest`] if a table has files and no schema, or if the manifest does not know all files
    /// that there are: nothing was removed then.
    pub fn open(
        config: EngineConfig,
        disk: Arc<dyn Disk>,
        log: Arc<dyn Log>,
        clock: Arc<dyn Clock>,
        route: Arc<dyn Route>,
    ) -> Result<Self> {
        let snapshots = config.dir.join("folds");
        let open = |index| open_fold(&*log, &disk, &snapshots, config.state.partition(index));
        let catalogs = (0..config.state.partitions).map(open).collect::<Result<Vec<_>>>()?;
        let manifest = open_fold(&*log, &disk, &snapshots, config.manifest.partition(0))?;
        let document = |key: &str| config.state.partition_of(key.as_bytes());
        let documents = Documents {
            bindings: open_fold(&*log, &disk, &snapshots, document(crate::bindings::KEY))?,
            jobs: open_fold(&*log, &disk, &snapshots, document(crate::jobs::KEY))?,
            tables: open_fold(&*log, &disk, &snapshots, document(crate::table_rules::KEY))?,
        };
        let name = StreamName::new(letters::STREAM).expect("the name of the stream is valid");
        let id = StreamId { tenant: config.state.id.tenant.clone(), stream: name, generation: 0 };
        let stream = log.open_stream(&id, config.state.partitions)?;
        let marks = (0..stream.partitions).map(|index| open_fold(&*log, &disk, &snapshots, stream.partition(index)));
        let letters = Letters::new(&*log, stream.clone(), marks.collect::<Result<_>>()?);
        let wake = Arc::new(Wake::default());
        let mut engine = Self {
            shared: Arc::new(Shared::new(wake.clone(), config.tables_max)),
            wake,
            catalogs,
            manifest,
            documents,
            letters,
            change: None,
            jobs: Jobs::default(),
            unsaved: Unsaved::default(),
            again: None,
            is_prune_due: true,
            live_reads: 0,
            sources: Vec::new(),
            turn: 0,
            pending: None,
            next_file: 0,
            has_noted_files: false,
            snapshots: (Mark::default(), false),
            has_grown: true,
            rows: Rows::new(),
            placing: Placing::default(),
            config,
            disk,
            log,
            clock,
            route,
        };
        engine.snapshots.0 = engine.mark();
        engine.log.watch(engine.wake.clone());
        for catalog in &mut engine.catalogs {
            commit::fold(&*engine.log, catalog, engine.clock.now())?;
        }
        engine.open_manifest()?;
        engine.open_documents()?;
        engine.open_tables()?;
        engine.open_sources();
        Ok(engine)
    }

    fn open_manifest(&mut self) -> Result<()> {
        let now = self.clock.now();
        if !self.log.keeps_units_whole() {
            // There a record of a process that has died may show late, and files that it names are no orphans. What is in front of
            // this one is seen, and what is not never comes.
            let fence = commit::append(&*self.log, &self.wake, self.config.manifest.partition(0), b"fence", b"", now)?;
            commit::fold_past(&*self.log, &self.wake, &mut self.manifest, fence, now)?;
        }
        commit::fold(&*self.log, &mut self.manifest, now)
    }

    fn open_documents(&mut self) -> Result<()> {
        let now = self.clock.now();
        commit::fold(&*self.log, &mut self.documents.bindings, now)?;
        commit::fold(&*self.log, &mut self.documents.jobs, now)?;
        commit::fold(&*self.log, &mut self.documents.tables, now)?;
        for marks in &mut self.letters.marks {
            commit::fold(&*self.log, marks, now)?;
        }
        let bindings = self.documents.bindings.fold().document().clone();
        for binding in &self.config.bindings {
            self.check_stream(binding).map_err(Error::Bindings)?;
        }
        match bindings.with_fixed(&self.config.bindings) {
            Ok(next) if next.version() == bindings.version() => {}
            Ok(next) => self.change = Some(Change::Bindings(next, Answer::Nobody)),
            Err(error) => return Err(Error::Bindings(error)),
        }
        self.shared.bindings.set(bindings);
        self.set_rules();
        self.set_jobs((**self.documents.jobs.fold().document()).clone());
        Ok(())
    }

    /// Says what counts for tables, now that bindings or settings are others.
    fn set_rules(&self) {
        let bindings = self.shared.bindings.get();
        let rules = TableRules::new(self.documents.tables.fold().document(), &self.config.retention, &bindings);
        self.shared.rules.send_replace(Arc::new(rules));
    }

    fn open_tables(&mut self) -> Result<()> {
        let mut tables = self.shared.tables();
        for (name, schema) in self.catalogs.iter().flat_map(|catalog| catalog.fold().iter()) {
            let dir = self.config.dir.join(folder(name));
            self.disk.create_dir_all(&dir).map_err(|source| Error::Io {
                action: "create",
                path: dir.clone(),
                source,
            })?;
            tables.insert(name.to_owned(), Table::new(name, schema, dir)?);
        }
        let manifest = self.manifest.fold();
        for name in manifest.tables() {
            let Some(table) = tables.get_mut(name) else {
                return Err(Error::Manifest(format!("table {name:?} has files and no schema")));
            };
            manifest.files(name).for_each(|entry| table.add(&self.disk, entry.clone()));
            table.overwritten_values = manifest.overwritten_values(name);
        }
        self.check_files(tables.values())?;
        self.remove_orphans(tables.values())?;
        drop(tables);
        // If it has lost something, then files that are not there any more.
        if self.manifest.fold().lacks_records() { commit::write_snapshot_anyway(&mut self.manifest) } else { Ok(()) }
    }

    fn open_sources(&mut self) {
        let manifest = self.manifest.fold();
        let of_stream = |(number, stream): (u32, &Stream)| {
            let partitions = (0..stream.partitions).map(|index| stream.partition(index));
            partitions.map(move |partition| (number, partition)).collect::<Vec<_>>()
        };
        let partitions = (0..).zip(&self.config.inputs).flat_map(of_stream);
        for (index, (stream, partition)) in (0..).zip(partitions) {
            let Some(id) = self.log.partition_id(partition) else { continue };
            let name: Arc<str> = id.to_string().into();
            let (position, flushed_until) = (manifest.replay_from(&name), manifest.flushed_until(&name));
            let seen_until = self.log.watermark(partition);
            self.sources.push(Source {
                partition,
                stream,
                index,
                name,
                position,
                flushed_until,
                seen_until,
                ids: None,
            });
        }
        let positions: BTreeMap<_, _> = self.sources.iter().map(|source| (source.partition, source.position)).collect();
        self.shared.decoded.send_replace(positions.clone());
        self.shared.replay_from.send_replace(positions);
    }

    pub(crate) const fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub(crate) const fn wake(&self) -> &Arc<Wake> {
        &self.wake
    }

    /// What readers ask. Waits of a reader end only if somebody goes on calling [`Self::step`].
    #[must_use]
    pub fn handle(&self) -> crate::Handle {
        crate::Handle::new(self.shared.clone(), self.log.clone())
    }

    /// Does the next thing: ends a change of the manifest, flushes, removes what is too old or too much after a flush,
    /// decodes some records, or, with nothing to decode, makes one file of several. Returns whether there was anything
    /// to do.
    ///
    /// # Errors
    /// Those of disk and log. Nothing is lost: the next call tries again.
    pub fn step(&mut self) -> Result<bool> {
        // Rows that are in a file are not decoded again, so what they have caused is durable before that.
        self.settle()?;
        if self.pending.is_some() {
            self.go_on()?;
            return Ok(true);
        }
        if !self.letters.waiting.is_empty() {
            self.append_letters()?;
            (0..self.sources.len()).for_each(|at| self.advance(at, self.sources[at].position));
        }
        if self.obey()? {
            return Ok(true);
        }
        let due = self.due();
        if !due.is_empty() {
            self.begin_flush(&due)?;
            return Ok(true);
        }
        // However much there is to decode: the budget holds.
        if std::mem::take(&mut self.has_grown) && self.begin_expire() {
            return Ok(true);
        }
        if self.live_reads < LIVE_READS && self.decode()? {
            self.live_reads += 1;
            return Ok(true);
        }
        self.live_reads = 0;
        if self.replay()? || self.decode()? {
            return Ok(true);
        }
        Ok(self.begin_expire() || self.begin_compact())
    }

    /// Flushes all buffers, so that nothing before the decoded positions is read again.
    ///
    /// # Errors
    /// Those of disk and log; what was flushed stays flushed.
    pub fn flush_all(&mut self) -> Result<()> {
        self.settle()?;
        while self.pending.is_some() {
            self.go_on()?;
        }
        let all: Vec<_> = self.buffers().into_iter().map(|(key, ..)| key).collect();
        let manifest = self.manifest.fold();
        let is_behind = self.sources.iter().any(|source| manifest.replay_from(&source.name) < source.position);
        if !all.is_empty() || is_behind {
            self.begin_flush(&all)?;
            self.go_on()?;
        }
        Ok(())
    }

    /// Flushes buffers like [`Self::flush_all`], the largest first, for as long as `limit` says; whether all of them. The rest is
    /// decoded again at the next start.
    ///
    /// # Errors
    /// Those of disk and log; what was flushed stays flushed.
    pub fn flush_within(&mut self, limit: Duration) -> Result<bool> {
        let deadline = self.now() + limit;
        self.settle()?;
        while self.pending.is_some() {
            self.go_on()?;
        }
        loop {
            let mut buffers = self.buffers();
            if buffers.is_empty() {
                return self.flush_all().map(|()| true);
            }
            if self.now() >= deadline {
                return Ok(false);
            }
            buffers.sort_by_key(|(_, bytes, _)| std::cmp::Reverse(*bytes));
            let mut bytes = 0;
            let fits = |(_, more, _): &&(_, usize, _)| {
                let before = bytes;
                bytes += more;
                before < FLUSHED_BYTES
            };
            let some: Vec<_> =
                buffers.iter().take_while(fits).take(FLUSHED_FILES).map(|(key, ..)| key.clone()).collect();
            self.begin_flush(&some)?;
            self.go_on()?;
        }
    }

    /// Writes snapshots of schemas and manifest, so that the next start reads less of the log. Blocks.
    ///
    /// # Errors
    /// [`Error::Fold`]; earlier snapshots are still there.
    pub fn write_snapshots(&mut self) -> Result<()> {
        self.catalogs.iter_mut().try_for_each(commit::write_snapshot)?;
        commit::write_snapshot(&mut self.documents.bindings)?;
        commit::write_snapshot(&mut self.documents.jobs)?;
        commit::write_snapshot(&mut self.documents.tables)?;
        let now = self.clock.now();
        for marks in &mut self.letters.marks {
            commit::fold(&*self.log, marks, now)?;
            commit::write_snapshot(marks)?;
        }
        commit::write_snapshot(&mut self.manifest)
    }

    /// Decodes what one read of one partition brings; `false` if all partitions are at their watermarks.
    fn decode(&mut self) -> Result<bool> {
        for _ in 0..self.sources.len() {
            let at = self.turn % self.sources.len();
            self.turn = at + 1;
            let Source { partition, position: from, seen_until, .. } = self.sources[at];
            // What comes after a change was asked for at the start must not be decoded by the bindings of before.
            let until = if let Some(Change::Bindings(..)) = self.change { Some(seen_until) } else { None };
            if from >= self.log.watermark(partition) || until.is_some_and(|until| from >= until) {
                continue;
            }
            if !self.knows_ids(at)? {
                return Ok(true);
            }
            let name = &self.sources[at].name;
            let read = match self.log.read(partition, from, READ_BYTES) {
                Err(ReadError::Trimmed { start: next, .. } | ReadError::Corrupt { next, .. }) if next > from => {
                    error!(partition = %name, %from, to = %next, "records are gone before their rows were in files");
                    metrics::counter!("floodplain_history_lost_ranges_total").increment(1);
                    self.advance(at, next);
                    return Ok(true);
                }
                read => read?,
            };
            for lost in read.damaged.iter().filter(|lost| lost.end > from) {
                error!(partition = %name, from = %lost.start, to = %lost.end, "damage of the log has taken records");
                metrics::counter!("floodplain_history_lost_ranges_total").increment(1);
            }
            for batch in &read.batches {
                let Ok(records) = batch.batch.records() else {
                    metrics::counter!("floodplain_history_unreadable_batches_total").increment(1);
                    continue;
                };
                for record in records.iter().map_while(Result::ok) {
                    let position = batch.position(&record);
                    if position >= self.sources[at].position && until.is_none_or(|until| position < until) {
                        self.place(at, batch, &record, position)?;
                        // What fails later does not place this record again.
                        self.sources[at].pass(position.next());
                    }
                }
            }
            let next = until.map_or(read.next, |until| read.next.min(until));
            let next = self.sources[at].position.max(next);
            self.append_letters()?;
            self.advance(at, next);
            return Ok(true);
        }
        Ok(false)
    }

    fn settle(&self) -> Result<()> {
        self.config.observer.as_ref().map_or(Ok(()), |observer| observer.settle().map_err(Error::Observer))
    }

    fn advance(&mut self, at: usize, next: Position) {
        let source = &mut self.sources[at];
        source.pass(next);
        self.shared.decoded.send_modify(|decoded| {
            decoded.insert(source.partition, next);
        });
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }
}
