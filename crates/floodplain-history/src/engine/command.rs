//! Changes of bindings, and the begin of jobs, while the engine runs.
//!
//! A change of bindings takes four steps, one after another on the engine's thread, so nothing is decoded meanwhile:
//! buffers are written to files, whose manifest record says that nothing before the decoded positions is read again; the
//! next document is appended to `state`; it is taken up; the one who asked is told. A crash before the append leaves the old
//! document and no row of the new one, a crash after it the new document and no record that must be decoded by the old.

use super::{Engine, Source, commit};
use crate::{
    Error, Result,
    bindings::{BUILTIN, Binding, BindingError, Bindings},
    documents::{Document, DocumentFold},
    jobs::{Job, JobState, Jobs, LETTERS_MAX, Left, Progress, Replay},
    table_rules::TableSettings,
    tables::{Command, Reply},
};
use floodplain_fold::Runner;
use floodplain_log::{Partition, Stream};
use floodplain_types::{Position, Timestamp};
use std::{sync::Arc, time::Duration};
use tracing::info;

/// A change that has been asked for and has not been made yet.
#[derive(Debug)]
pub(super) enum Change {
    Bindings(Bindings, Answer),
    Jobs(Jobs, Reply<String>),
    /// How old rows of a table may become.
    Retain(String, Option<Duration>, Reply<()>),
}

/// Who is told.
#[derive(Debug)]
pub(super) enum Answer {
    Put(String, Reply<Arc<Binding>>),
    Remove(Reply<()>),
    /// The configuration file has other bindings than at the last start.
    Nobody,
}

impl Engine {
    /// Makes the next change that somebody has asked for; whether there was anything to do.
    pub(super) fn obey(&mut self) -> Result<bool> {
        if self.is_prune_due {
            let bindings = self.shared.bindings.get();
            self.change_tables(|settings| Some(settings.without_gone(&bindings)))?;
            self.is_prune_due = false;
        }
        if self.change.is_none() {
            let Some(command) = self.shared.next_command() else { return Ok(false) };
            self.change = self.prepare(command)?;
        }
        match &self.change {
            None => return Ok(true),
            Some(Change::Bindings(next, _)) => {
                // Somebody may have seen these records in the tables that the bindings of before have for them.
                if self.sources.iter().any(|source| source.position < source.seen_until) {
                    return Ok(false);
                }
                let next = next.clone();
                self.flush_all()?;
                commit_document(
                    &self.log,
                    &self.wake,
                    &self.config.state,
                    &mut self.documents.bindings,
                    &next,
                    &[],
                    self.clock.now(),
                )?;
                info!(version = next.version(), bindings = next.list().len(), "bindings have changed");
                self.shared.bindings.set(Arc::new(next));
                self.set_rules();
                // Which message repeats which is by the bindings of now, whatever was decoded by those of before.
                self.forget_ids();
                self.is_prune_due = true;
            }
            Some(Change::Jobs(next, _)) => {
                let next = next.clone();
                commit_document(
                    &self.log,
                    &self.wake,
                    &self.config.state,
                    &mut self.documents.jobs,
                    &next,
                    &[],
                    self.clock.now(),
                )?;
                self.set_jobs(next);
            }
            Some(Change::Retain(table, retention, _)) => {
                let (table, retention) = (table.clone(), *retention);
                self.change_tables(|settings| Some(settings.with_retention(&table, retention)))?;
                self.has_grown = true;
            }
        }
        // Who asked may have gone away meanwhile.
        match self.change.take() {
            Some(Change::Bindings(next, Answer::Put(name, reply))) => {
                let binding = next.get(&name).cloned().ok_or(BindingError::Unknown(name));
                drop(reply.send(binding));
            }
            Some(Change::Bindings(_, Answer::Remove(reply)) | Change::Retain(_, _, reply)) => drop(reply.send(Ok(()))),
            Some(Change::Jobs(next, reply)) => {
                let name = next.list().last().map(|job| job.name.clone());
                drop(reply.send(name.ok_or(BindingError::Stopped)));
            }
            Some(Change::Bindings(_, Answer::Nobody)) | None => {}
        }
        Ok(true)
    }

    /// What has to be done; what is refused, or changes nothing, is answered here.
    fn prepare(&self, command: Command) -> Result<Option<Change>> {
        let bindings = self.shared.bindings.get();
        Ok(match command {
            Command::Put(binding, reply) => {
                let name = binding.name().to_owned();
                match self.check_stream(&binding).and_then(|()| bindings.with(*binding)) {
                    Err(error) => {
                        drop(reply.send(Err(error)));
                        None
                    }
                    Ok(next) if next.version() == bindings.version() => {
                        drop(reply.send(next.get(&name).cloned().ok_or(BindingError::Unknown(name))));
                        None
                    }
                    Ok(next) => Some(Change::Bindings(next, Answer::Put(name, reply))),
                }
            }
            Command::Remove(name, reply) => match bindings.without(&name) {
                Err(error) => {
                    drop(reply.send(Err(error)));
                    None
                }
                Ok(next) => Some(Change::Bindings(next, Answer::Remove(reply))),
            },
            Command::Retain(table, retention, reply) => {
                let is_there = self.shared.tables().contains_key(&table);
                if is_there {
                    Some(Change::Retain(table, retention, reply))
                } else {
                    drop(reply.send(Err(BindingError::UnknownTable(table))));
                    None
                }
            }
            Command::Replay(replay, reply) => match self.check_replay(&replay, &bindings) {
                Err(error) => {
                    drop(reply.send(Err(error)));
                    None
                }
                Ok(()) => {
                    let left = self.ranges(&replay)?;
                    // Only about as many: positions may have holes.
                    let count = |left: &Left| left.to.offset.saturating_sub(left.from.offset);
                    let progress = Progress { total: left.iter().map(count).sum(), ..Progress::default() };
                    let (state, started) = (JobState::Running, self.clock.now());
                    let job = |name| Job { name, replay, state, progress, started, ended: None, left };
                    Some(Change::Jobs(self.jobs.with(job), reply))
                }
            },
        })
    }

    /// Changes the settings of tables, which take effect at once; whether there is such a change.
    pub(super) fn change_tables(&mut self, change: impl Fn(&TableSettings) -> Option<TableSettings>) -> Result<bool> {
        let partition = self.config.state.partition_of(TableSettings::KEY.as_bytes());
        loop {
            let now = self.clock.now();
            // An append whose end was not known may have come before this one: then it is changed anew.
            commit::fold(&*self.log, &mut self.documents.tables, now)?;
            let settings = self.documents.tables.fold().document();
            let Some(next) = change(settings) else { return Ok(false) };
            if next.version() == settings.version() {
                self.set_rules();
                return Ok(true);
            }
            let (key, value) = (TableSettings::KEY.as_bytes(), next.encode());
            let position = commit::append(&*self.log, &self.wake, partition, key, &value, now)?;
            commit::fold_past(&*self.log, &self.wake, &mut self.documents.tables, position, now)?;
        }
    }

    fn check_replay(&self, replay: &Replay, bindings: &Bindings) -> Result<(), BindingError> {
        // A second one would write down how far the first is before its rows are in files.
        if let Some(running) = self.jobs.running() {
            return Err(BindingError::ReplayRunning(self.jobs.list[running].name.clone()));
        }
        match replay {
            Replay::Range { binding: Some(name), .. } if name != BUILTIN && bindings.get(name).is_none() => {
                Err(BindingError::Unknown(name.clone()))
            }
            Replay::Range { from: Some(from), to: Some(to), .. } if from >= to => {
                Err(BindingError::Invalid("from is not before to".to_owned()))
            }
            Replay::Range { stream: Some(stream), .. } => self.input(stream).map(drop),
            Replay::Letters { ids: Some(ids), .. } if ids.len() > LETTERS_MAX => {
                Err(BindingError::Invalid(format!("{} letters are more than {LETTERS_MAX}", ids.len())))
            }
            _ => Ok(()),
        }
    }

    /// Whether the stream of a binding is there.
    pub(super) fn check_stream(&self, binding: &Binding) -> Result<(), BindingError> {
        self.input(binding.stream()).map(drop)
    }

    fn input(&self, name: &str) -> Result<&Stream, BindingError> {
        let found = self.config.inputs.iter().find(|stream| stream.id.stream.as_str() == name);
        found.ok_or_else(|| BindingError::UnknownStream(name.to_owned()))
    }

    /// Where the messages, or the letters, of a replay are. What comes later is decoded by the bindings of now anyway.
    fn ranges(&self, replay: &Replay) -> Result<Vec<Left>> {
        let range = |index: u32, partition: Partition, since: Option<Timestamp>, to: Position| -> Result<Left> {
            let start = self.log.start(partition);
            let from = match since {
                Some(time) => self.log.position_at(partition, time.as_millis())?.max(start),
                None => start,
            };
            Ok(Left { partition: index, from: from.min(to), to })
        };
        match replay {
            Replay::Range { stream, from, .. } => {
                let only = stream.as_ref().and_then(|name| self.input(name).ok()).map(|stream| stream.number);
                let is_of = |source: &&Source| only.is_none_or(|number| number == source.partition.stream);
                let sources = self.sources.iter().filter(is_of);
                sources.map(|source| range(source.index, source.partition, *from, source.position)).collect()
            }
            Replay::Letters { .. } => {
                let partitions = (0..self.letters.stream.partitions).map(|index| self.letters.stream.partition(index));
                let whole = |of: Partition| range(of.index, of, None, self.log.watermark(of));
                partitions.map(whole).collect()
            }
        }
    }

    pub(super) fn set_jobs(&mut self, jobs: Jobs) {
        self.shared.jobs.send_replace(Arc::new(jobs.clone()));
        self.jobs = jobs;
    }
}

/// Appends the next document and folds it, with other records in the same unit. After an unknown end it may be called again:
/// the unit is not appended a second time if it is there.
pub(super) fn commit_document<D: Document>(
    log: &Arc<dyn floodplain_log::Log>,
    wake: &Arc<commit::Wake>,
    state: &Stream,
    runner: &mut Runner<DocumentFold<D>>,
    next: &D,
    with: &[commit::Entry<'_>],
    now: Timestamp,
) -> Result<()> {
    commit::fold(&**log, runner, now)?;
    let value = next.encode();
    if runner.fold().document().version() < next.version() {
        let partition = state.partition_of(D::KEY.as_bytes());
        let mut entries = vec![commit::Entry { partition, key: D::KEY.as_bytes(), value: &value, is_json: false }];
        entries.extend_from_slice(with);
        let position = commit::append_unit(&**log, wake, &entries, now)?;
        commit::fold_past(&**log, wake, runner, position, now)?;
    }
    let document = runner.fold().document();
    if document.version() == next.version() && document.encode() == value {
        return Ok(());
    }
    let (found, wanted) = (document.version(), next.version());
    Err(Error::Manifest(format!("document {} is at version {found}, a change to {wanted} did not apply", D::KEY)))
}
