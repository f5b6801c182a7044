//! Which files a table has, and from where the log must be read again: a fold over the manifest's records.
//!
//! A record is the only commit point: a file exists when a record names it. All records of a manifest
//! are in one partition. Each says which version of the manifest its writer knew, and is void if
//! that was not the newest: an append that is repeated because its outcome was unknown happens once.

mod record;

pub use record::{Cause, Flushed, ManifestRecord, RecordError};

use crate::{
    file::{FileEntry, v1},
    window::Window,
};
use floodplain_fold::{
    Fold, Input, Loss, Outputs, RestoreError,
    wire::{Get, Put, WireError},
};
use floodplain_types::Position;
use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    sync::Arc,
};

/// The files of all tables of a tenant, and how far the log is in them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ManifestFold {
    version: u64,
    tables: BTreeMap<String, Table>,
    /// By table, window and partition.
    flushed: BTreeMap<(String, Window, String), Position>,
    replay_from: BTreeMap<String, Position>,
    void: u64,
    /// What was found missing on the way here. No part of the state: a replay may find less.
    lacks_records: bool,
}

#[derive(Debug, Clone, Default, PartialEq)]
struct Table {
    files: BTreeMap<String, Arc<FileEntry>>,
    /// Overwritten values that no file has any more: of files that have expired, or were counted twice before they were joined.
    past_overwritten: u64,
}

impl ManifestFold {
    /// How many records have applied. The next one must have this version plus one.
    #[must_use]
    pub const fn version(&self) -> u64 {
        self.version
    }

    /// Tables that have, or had, files.
    pub fn tables(&self) -> impl Iterator<Item = &str> {
        self.tables.keys().map(String::as_str)
    }

    /// Files of a table, by name.
    pub fn files(&self, table: &str) -> impl Iterator<Item = &Arc<FileEntry>> {
        self.tables.get(table).into_iter().flat_map(|table| table.files.values())
    }

    /// A file of a table.
    #[must_use]
    pub fn file(&self, table: &str, name: &str) -> Option<&Arc<FileEntry>> {
        self.tables.get(table)?.files.get(name)
    }

    /// The position before which all rows of a window are in files; zero if nothing is known, which
    /// says nothing about positions before [`Self::replay_from`].
    #[must_use]
    pub fn flushed_to(&self, table: &str, window: Window, partition: &str) -> Position {
        let key = (table.to_owned(), window, partition.to_owned());
        self.flushed.get(&key).copied().unwrap_or(Position::ZERO)
    }

    /// The position of a partition from which on nothing is in any file.
    #[must_use]
    pub fn flushed_until(&self, partition: &str) -> Position {
        let flushed = self.flushed.iter().filter(|((_, _, name), _)| name == partition).map(|(_, to)| *to);
        flushed.max().unwrap_or_default().max(self.replay_from(partition))
    }

    /// Whether a row is in a file already, so that a replay skips it.
    #[must_use]
    pub fn is_flushed(&self, table: &str, window: Window, partition: &str, position: Position) -> bool {
        position < self.replay_from(partition) || position < self.flushed_to(table, window, partition)
    }

    /// The position from which the records of a partition must be read again after a start.
    #[must_use]
    pub fn replay_from(&self, partition: &str) -> Position {
        self.replay_from.get(partition).copied().unwrap_or(Position::ZERO)
    }

    /// All partitions of which something is in files, with [`Self::replay_from`].
    pub fn partitions(&self) -> impl Iterator<Item = (&str, Position)> {
        self.replay_from.iter().map(|(partition, from)| (partition.as_str(), *from))
    }

    /// How many values were overwritten in a table, as far as its files knew: versions of one row
    /// that are in different files count when the files are compacted. Never falls.
    #[must_use]
    pub fn overwritten_values(&self, table: &str) -> u64 {
        self.tables.get(table).map_or(0, |table| {
            table
                .files
                .values()
                .fold(table.past_overwritten, |sum, file| sum.saturating_add(file.facts.overwritten_values))
        })
    }

    /// How many records changed nothing, because they were not the next version or made no sense.
    #[must_use]
    pub const fn void_records(&self) -> u64 {
        self.void
    }

    /// Whether records are missing, by their versions or by what the log says: then it does not know all files that there are.
    #[must_use]
    pub const fn lacks_records(&self) -> bool {
        self.lacks_records
    }

    /// Folds the value of a record; returns whether it applied.
    pub fn apply_value(&mut self, value: &[u8]) -> bool {
        let record = ManifestRecord::decode(value);
        // Whoever has written it has seen those before it.
        self.lacks_records |= record.as_ref().is_ok_and(|record| record.version > self.version.saturating_add(1));
        let applies = record.is_ok_and(|record| self.apply_record(record));
        self.void += u64::from(!applies);
        applies
    }

    fn apply_record(&mut self, record: ManifestRecord) -> bool {
        if !self.is_next(&record) {
            return false;
        }
        self.version += 1;
        let tables: BTreeSet<&String> = record.removes.iter().map(|(table, _)| table).collect();
        let counts: Vec<(String, u64)> =
            tables.into_iter().map(|table| (table.clone(), self.overwritten_values(table))).collect();
        for (table, name) in &record.removes {
            if let Some(table) = self.tables.get_mut(table) {
                table.files.remove(name);
            }
        }
        for entry in record.adds {
            let table = self.tables.entry(entry.facts.table.clone()).or_default();
            table.files.insert(entry.name.clone(), Arc::new(entry));
        }
        // What files had stays counted: they have expired, or two of them had copies of one row.
        for (name, before) in counts {
            let missing = before.saturating_sub(self.overwritten_values(&name));
            let Some(table) = self.tables.get_mut(&name) else { continue };
            table.past_overwritten = table.past_overwritten.saturating_add(missing);
        }
        for Flushed { table, window, partition, to } in record.flushed {
            let known = self.flushed.entry((table, window, partition)).or_default();
            *known = to.max(*known);
        }
        let moves = !record.replay_from.is_empty();
        for (partition, from) in record.replay_from {
            let known = self.replay_from.entry(partition).or_default();
            *known = from.max(*known);
        }
        if moves {
            // Rows before it are never read again.
            self.flushed.retain(|(_, _, partition), to| {
                self.replay_from.get(partition).is_none_or(|replay_from| *to > *replay_from)
            });
        }
        true
    }

    /// A record applies as a whole or not at all.
    fn is_next(&self, record: &ManifestRecord) -> bool {
        let mut gone = BTreeSet::new();
        let mut come = BTreeSet::new();
        let removes = record
            .removes
            .iter()
            .all(|(table, name)| self.file(table, name).is_some() && gone.insert((table.as_str(), name.as_str())));
        let adds = record.adds.iter().all(|entry| {
            let key = (entry.facts.table.as_str(), entry.name.as_str());
            self.file(key.0, key.1).is_none() && come.insert(key)
        });
        let cause = match record.cause {
            Cause::Flush => record.removes.is_empty(),
            Cause::Compact => true,
            Cause::Expire => record.adds.is_empty(),
        };
        Some(record.version) == self.version.checked_add(1) && removes && adds && cause
    }
}

impl Fold for ManifestFold {
    const NAME: &'static str = "manifest";
    const FORMAT: u16 = 1;
    const EMITS: bool = false;

    fn apply(&mut self, input: &Input<'_>, _out: &mut Outputs) {
        self.apply_value(input.record.value.unwrap_or_default());
    }

    fn missed(&mut self, _lost: &Range<Position>, _loss: Loss) {
        self.lacks_records = true;
    }

    fn snapshot(&self, out: &mut Vec<u8>) {
        out.put_u64(self.version);
        out.put_u64(self.void);
        out.put_u64(self.tables.len() as u64);
        for (name, table) in &self.tables {
            out.put_str(name);
            out.put_u64(table.past_overwritten);
            out.put_u64(table.files.len() as u64);
            for file in table.files.values() {
                out.put_bytes(&serde_json::to_vec(&v1::Entry::from(&**file)).unwrap_or_default());
            }
        }
        out.put_u64(self.flushed.len() as u64);
        for ((table, window, partition), to) in &self.flushed {
            out.put_str(table);
            out.put_u64(window.number() as u64);
            out.put_str(partition);
            out.put_position(*to);
        }
        out.put_u64(self.replay_from.len() as u64);
        for (partition, from) in &self.replay_from {
            out.put_str(partition);
            out.put_position(*from);
        }
    }

    fn restore(&mut self, format: u16, bytes: &[u8]) -> Result<(), RestoreError> {
        if format != Self::FORMAT {
            return Err(RestoreError::Format { found: format, newest: Self::FORMAT });
        }
        let mut get = Get::new(bytes);
        let (version, void) = (get.u64()?, get.u64()?);
        let tables = get.list(|get| Ok((get.str()?.to_owned(), restore_table(get)?)))?.into_iter().collect();
        let flushed = get.list(|get| {
            let (table, window) = (get.str()?.to_owned(), Window::from_number(get.u64()? as i64));
            Ok(((table, window, get.str()?.to_owned()), get.position()?))
        })?;
        let replay_from = get.list(|get| Ok((get.str()?.to_owned(), get.position()?)))?;
        get.end()?;
        let (flushed, replay_from) = (flushed.into_iter().collect(), replay_from.into_iter().collect());
        *self = Self { version, tables, flushed, replay_from, void, lacks_records: false };
        Ok(())
    }
}

fn restore_table(get: &mut Get<'_>) -> Result<Table, WireError> {
    let past_overwritten = get.u64()?;
    let files = get.list(|get| {
        let entry: v1::Entry = serde_json::from_slice(get.bytes()?).map_err(|_| WireError::Invalid("file entry"))?;
        let entry = FileEntry::try_from(entry).map_err(|_| WireError::Invalid("file entry"))?;
        Ok((entry.name.clone(), Arc::new(entry)))
    })?;
    Ok(Table { files: files.into_iter().collect(), past_overwritten })
}

#[cfg(test)]
mod tests;
