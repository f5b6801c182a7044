//! Changes of the manifest: flushes, compactions, expiry.

use super::{Engine, commit};
use crate::{
    Error, Result,
    buffer::overwritten_values,
    columns::Columns,
    file::{FileSpec, FileWriter, OffsetRange},
    manifest::{Cause, Flushed, ManifestRecord},
    run::Run,
    snapshot::{FileHandle, rewrite},
    tables::Buffer,
    window::Window,
};
use floodplain_types::Position;
use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

/// Snapshots of manifest and schemas are written after so many bytes of records.
const SNAPSHOT_BYTES: u64 = 4 << 20;
/// So many files of one day and about one size become one.
const COMPACTED_FILES: usize = 4;
/// Larger files are left alone, and not more rows are rewritten at once where two files have fewer: decoding waits while
/// files are made into one, about half a second for so many rows.
const COMPACTED_ROWS: u64 = 1 << 20;
const DAY_US: i64 = 86_400_000_000;

/// A change that has begun. Its files are written one after another, then its record is appended.
#[derive(Debug)]
pub(super) struct Pending {
    record: ManifestRecord,
    /// Files that are still to be written.
    parts: Vec<Part>,
}

/// What becomes one file.
#[derive(Debug)]
struct Part {
    columns: Arc<Columns>,
    dir: PathBuf,
    level: u8,
    runs: Vec<Run>,
    files: Vec<Arc<FileHandle>>,
    ranges: Vec<OffsetRange>,
    decoder_version: u32,
}

pub(super) type BufferKey = (String, Window);

impl Engine {
    /// All buffers, with their bytes, and whether they are old.
    pub(super) fn buffers(&self) -> Vec<(BufferKey, usize, bool)> {
        let (now, tables) = (self.mark(), self.shared.tables());
        let buffers =
            tables.iter().flat_map(|(name, table)| table.buffers.iter().map(move |(window, b)| (name, window, b)));
        let buffer = |(name, window, buffer): (&String, &Window, &Buffer)| {
            ((name.clone(), *window), buffer.rows.bytes(), self.is_old(buffer, now))
        };
        buffers.map(buffer).collect()
    }

    /// The buffers that are to be flushed now.
    pub(super) fn due(&self) -> Vec<BufferKey> {
        let mut buffers = self.buffers();
        let bytes = buffers.iter().map(|(_, bytes, _)| bytes).sum::<usize>();
        metrics::gauge!("floodplain_history_buffered_bytes").set(bytes as f64);
        if bytes > self.config.buffers_bytes_max || buffers.len() > self.config.buffers_max {
            // The largest half: fewer files than one by one.
            buffers.sort_by_key(|(_, bytes, _)| std::cmp::Reverse(*bytes));
            buffers.truncate(buffers.len().div_ceil(2));
        } else {
            buffers.retain(|(_, bytes, is_old)| *bytes >= self.config.flush_bytes || *is_old);
        }
        buffers.into_iter().map(|(key, ..)| key).collect()
    }

    /// Takes buffers away, to be written. Their rows stay visible.
    pub(super) fn begin_flush(&mut self, due: &[BufferKey]) -> Result<()> {
        // Once the record is there, nothing before it is decoded again.
        self.append_letters()?;
        let mut record = ManifestRecord::new(self.manifest.fold().version() + 1, Cause::Flush);
        let decoder_version = self.decoder_version();
        let mut parts = Vec::with_capacity(due.len());
        let mut tables = self.shared.tables();
        for (name, window) in due {
            let Some(table) = tables.get_mut(name) else { continue };
            let Some(buffer) = table.buffers.get_mut(window) else { continue };
            let (runs, ranges) = (buffer.rows.seal()?.to_vec(), buffer.rows.ranges());
            for range in &ranges {
                let source = self.sources.iter().find(|source| *source.name == *range.partition);
                let to = source.map_or(range.to, |source| source.position);
                let (table, partition) = (name.clone(), range.partition.clone());
                record.flushed.push(Flushed { table, window: *window, partition, to });
            }
            let (columns, dir) = (table.columns.clone(), table.dir.clone());
            parts.push(Part { columns, dir, level: 0, runs, files: Vec::new(), ranges, decoder_version });
        }
        // Only now that nothing can fail.
        for (name, window) in due {
            let Some(table) = tables.get_mut(name) else { continue };
            if let Some(mut buffer) = table.buffers.remove(window) {
                table.flushing.extend_from_slice(buffer.rows.seal()?);
            }
        }
        for source in &self.sources {
            let open = tables.values().flat_map(|table| table.buffers.values());
            let first = open.filter_map(|buffer| buffer.first.get(&source.name).copied()).min();
            let from = first.map_or(source.position, |first| first.min(source.position));
            record.replay_from.push((source.name.to_string(), from));
        }
        drop(tables);
        self.pending = Some(Pending { record, parts });
        Ok(())
    }

    /// Version of the rows' making: of a row that two files have, the values of the greater version count.
    fn decoder_version(&self) -> u32 {
        1 + self.shared.bindings.get().version()
    }

    /// Files of a table of one day that have about one size become one.
    pub(super) fn begin_compact(&mut self) -> bool {
        let tables = self.shared.tables();
        for (name, table) in tables.iter() {
            let mut groups: BTreeMap<(i64, u32, u32), Vec<&Arc<FileHandle>>> = BTreeMap::new();
            for file in table.files.values().filter(|file| file.entry().facts.rows < COMPACTED_ROWS) {
                let facts = &file.entry().facts;
                let (first, last) = (facts.min_time_us.div_euclid(DAY_US), facts.max_time_us.div_euclid(DAY_US));
                // Files of wrong clocks span days; they stay among themselves.
                let day = if first == last { first } else { i64::MAX };
                // Rows of an older decoder must stay older than what was decoded again, whatever they are joined with.
                let group = (day, facts.rows.max(1).ilog2() / 2, facts.decoder_version);
                groups.entry(group).or_default().push(file);
            }
            let mut groups = groups.into_iter();
            let Some(((.., decoder_version), files)) = groups.find(|(_, files)| files.len() >= COMPACTED_FILES) else {
                continue;
            };
            let mut rows = 0;
            let fits = |file: &&&Arc<FileHandle>| {
                rows += file.entry().facts.rows;
                rows <= COMPACTED_ROWS
            };
            let fitting = files.iter().take(2 * COMPACTED_FILES).take_while(fits).count().max(2);
            let files: Vec<_> = files.into_iter().take(fitting).cloned().collect();
            let mut ranges: BTreeMap<String, (Position, Position)> = BTreeMap::new();
            for range in files.iter().flat_map(|file| &file.entry().facts.ranges) {
                let known = ranges.entry(range.partition.clone()).or_insert((range.from, range.to));
                *known = (known.0.min(range.from), known.1.max(range.to));
            }
            let range = |(partition, (from, to))| OffsetRange { partition, from, to };
            let mut record = ManifestRecord::new(self.manifest.fold().version() + 1, Cause::Compact);
            record.removes = files.iter().map(|file| (name.clone(), file.entry().name.clone())).collect();
            let (columns, dir) = (table.columns.clone(), table.dir.clone());
            let ranges = ranges.into_iter().map(range).collect();
            let part = Part { columns, dir, level: 1, runs: Vec::new(), files, ranges, decoder_version };
            self.pending = Some(Pending { record, parts: vec![part] });
            return true;
        }
        false
    }

    /// Files whose rows are all too old, and the oldest that do not fit the disk budget.
    pub(super) fn begin_expire(&mut self) -> bool {
        let mut record = ManifestRecord::new(self.manifest.fold().version() + 1, Cause::Expire);
        let (now, rules) = (self.now(), self.shared.rules.borrow().clone());
        let tables = self.shared.tables();
        let mut kept = Vec::new();
        for (name, table) in tables.iter() {
            let oldest_us = rules.retention(name).map(|keep| (now - keep).0.div_euclid(1000));
            for file in table.files.values() {
                let entry = file.entry();
                if oldest_us.is_some_and(|oldest| entry.facts.max_time_us < oldest) {
                    record.removes.push((name.clone(), entry.name.clone()));
                } else {
                    kept.push((entry.facts.max_time_us, name, entry));
                }
            }
        }
        if let Some(budget) = self.config.files_bytes_max {
            let mut bytes: u64 = kept.iter().map(|(.., entry)| entry.bytes).sum();
            kept.sort_by_key(|(max_time_us, name, entry)| (*max_time_us, *name, entry.name.clone()));
            for (_, name, entry) in kept {
                if bytes <= budget {
                    break;
                }
                bytes -= entry.bytes;
                record.removes.push((name.clone(), entry.name.clone()));
            }
        }
        drop(tables);
        let begins = !record.removes.is_empty();
        if begins {
            metrics::counter!("floodplain_history_expired_files_total").increment(record.removes.len() as u64);
            self.pending = Some(Pending { record, parts: Vec::new() });
        }
        begins
    }

    /// Goes on with the change that has begun, to its end.
    pub(super) fn go_on(&mut self) -> Result<()> {
        if self.pending.as_ref().is_some_and(|pending| !pending.parts.is_empty()) {
            self.note_files()?;
        }
        while let Some(part) = self.pending.as_ref().and_then(|pending| pending.parts.last()) {
            self.next_file += 1;
            let name = format!("{:010}-{}.parquet", self.manifest.fold().version() + 1, self.next_file);
            let (level, ranges, decoder_version) = (part.level, part.ranges.clone(), part.decoder_version);
            let spec = FileSpec { name, level, decoder_version, ranges };
            let made = self.disk.create_dir_all(&part.dir);
            made.map_err(|source| Error::Io { action: "create", path: part.dir.clone(), source })?;
            let mut writer = FileWriter::create(self.disk.clone(), &part.dir, part.columns.clone(), spec)?;
            let stats = rewrite(&part.files, &part.runs, &mut writer)?;
            // Copies of one row in two runs are not told apart before they are merged; what was told is not taken back.
            let entry = writer.finish(stats.overwritten_values.max(overwritten_values(&part.runs)))?;
            if let Some(pending) = &mut self.pending {
                pending.record.adds.push(entry);
                pending.parts.pop();
            }
        }
        let Some(pending) = &self.pending else { return Ok(()) };
        let value = pending.record.encode();
        let partition = self.config.manifest.partition(0);
        // After an unknown end the same record is appended again: it applies once.
        let position = commit::append(&*self.log, &self.wake, partition, b"manifest", &value, self.now())?;
        let now = self.now();
        commit::fold_past(&*self.log, &self.wake, &mut self.manifest, position, now)?;
        self.end_change()?;
        if self.manifest.bytes_since_snapshot() > SNAPSHOT_BYTES {
            self.write_snapshots()?;
        }
        Ok(())
    }

    fn end_change(&mut self) -> Result<()> {
        let Some(Pending { record, .. }) = &self.pending else { return Ok(()) };
        let manifest = self.manifest.fold();
        let is_there = |table: &str, name: &str| manifest.file(table, name).is_some();
        if manifest.version() != record.version
            || !record.adds.iter().all(|entry| is_there(&entry.facts.table, &entry.name))
            || record.removes.iter().any(|(table, name)| is_there(table, name))
        {
            let (found, wanted) = (manifest.version(), record.version);
            return Err(Error::Manifest(format!("it is at version {found}, a change to {wanted} did not apply")));
        }
        let mut tables = self.shared.tables();
        let mut overwritten = 0;
        for entry in &record.adds {
            let Some(table) = tables.get_mut(&entry.facts.table) else { continue };
            table.add(&self.disk, Arc::new(entry.clone()));
            let count = manifest.overwritten_values(&entry.facts.table);
            overwritten += count.saturating_sub(table.overwritten_values);
            table.overwritten_values = count;
        }
        metrics::counter!("floodplain_history_overwritten_values_total").increment(overwritten);
        if record.cause == Cause::Flush {
            self.has_grown = true;
            tables.values_mut().for_each(|table| table.flushing.clear());
        }
        let mut replaced = Vec::with_capacity(record.removes.len());
        for (table, name) in &record.removes {
            let Some(table) = tables.get_mut(table) else { continue };
            if let Some(file) = table.files.remove(name) {
                if record.cause == Cause::Expire {
                    table.latest.removed(&file.entry().facts);
                }
                replaced.push(file);
            }
        }
        drop(tables);
        // The last reader of a file removes it.
        replaced.iter().for_each(|file| file.replaced());
        let positions = self.sources.iter().map(|source| (source.partition, manifest.replay_from(&source.name)));
        self.shared.replay_from.send_replace(positions.collect());
        self.pending = None;
        Ok(())
    }
}
