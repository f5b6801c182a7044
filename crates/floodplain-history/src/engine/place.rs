//! From a record to rows in buffers.

use super::{Engine, commit};
use crate::{
    Result,
    bindings::{BUILTIN, Binding, Bindings},
    buffer::{Cell, RowHead, WindowBuffer},
    catalog::CatalogFold,
    dedup::Dedup,
    letters::{self, Letter},
    observe::Observed,
    raw::{PAYLOAD, PAYLOAD_BASE64, Raw, TOPIC},
    route::{MESSAGES, is_line_protocol},
    schema::cell,
    tables::{Buffer, Table, folder},
    window::Window,
};
use floodplain_decode::{
    ColumnType, Input, Outcome, Row, Value,
    schema::{Assignment, Change, TableSchema},
};
use floodplain_log::{MessageRef, ReadBatch, Record};
use floodplain_types::{Position, Timestamp};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};
use tracing::warn;

/// Space for the work on one record.
#[derive(Debug, Default)]
pub(super) struct Placing {
    assignment: Assignment,
    text: String,
    changes: BTreeMap<String, Vec<Change>>,
    /// Which rows of the message repeat those of earlier ones; the rest do not.
    pub(super) repeats: Vec<bool>,
    /// Rows that were put into buffers, and messages with something that was refused.
    pub(super) rows: u64,
    pub(super) failed: u64,
    /// Letters of what was decoded again.
    pub(super) letters: Vec<Letter>,
}

/// A record, and what is known of it.
#[derive(Clone, Copy)]
pub(super) struct Found<'a> {
    pub(super) source: usize,
    pub(super) position: Position,
    pub(super) message: &'a MessageRef<'a>,
    pub(super) received: Timestamp,
    /// It was decoded before.
    pub(super) is_again: bool,
}

/// A row that is ready for a buffer.
struct Ready<'a> {
    table: &'a str,
    device: &'a str,
    time: Option<Timestamp>,
    /// It has no key of its own, whatever its time.
    is_alone: bool,
    row: u32,
}

/// A record as a message, and when it was received.
pub(super) fn message_of<'a>(batch: &ReadBatch, record: &Record<'a>) -> (MessageRef<'a>, Timestamp) {
    let message = MessageRef::parse(record).unwrap_or_else(|_| {
        // What a Kafka client has written has no topic, and is kept all the same.
        let (key, payload) = (record.key.unwrap_or_default(), record.value.unwrap_or_default());
        MessageRef { key, payload, ..MessageRef::default() }
    });
    let received = Timestamp::from_millis(batch.batch.timestamp_ms(record));
    (message, message.ingest_time_ns.map_or(received, Timestamp))
}

/// Rows with their numbers, without those that repeat others.
fn unrepeated<'r>(rows: impl Iterator<Item = Row<'r>>, repeats: &[bool]) -> impl Iterator<Item = (u32, Row<'r>)> {
    (0..).zip(rows).filter(|(number, _)| !repeats.get(*number as usize).copied().unwrap_or(false))
}

impl Engine {
    /// Decodes a record into buffers. All of its rows are there afterwards, or after an error none.
    pub(super) fn place(
        &mut self,
        source: usize,
        batch: &ReadBatch,
        record: &Record<'_>,
        position: Position,
    ) -> Result<()> {
        self.place_record(source, batch, record, position, false, None)
    }

    /// The same for a record that was decoded before, if it is one of the binding `only`. Letters are left in [`Placing::letters`].
    pub(super) fn place_again(
        &mut self,
        source: usize,
        batch: &ReadBatch,
        record: &Record<'_>,
        position: Position,
        only: Option<&str>,
    ) -> Result<()> {
        self.place_record(source, batch, record, position, true, only)
    }

    fn place_record(
        &mut self,
        source: usize,
        batch: &ReadBatch,
        record: &Record<'_>,
        position: Position,
        is_again: bool,
        only: Option<&str>,
    ) -> Result<()> {
        let (message, received) = message_of(batch, record);
        let found = Found { source, position, message: &message, received, is_again };
        // Of messages of other bindings, too: to a dedup id bindings make no difference.
        let is_stored_again = self.is_stored_again(found);
        if let Some(only) = only {
            let bindings = self.shared.bindings.get();
            if bindings.target(&message).map_or(BUILTIN, |(binding, _)| binding.name()) != only {
                return Ok(());
            }
        }
        let (mut rows, mut placing) = (std::mem::take(&mut self.rows), std::mem::take(&mut self.placing));
        let placed = self.place_message(found, is_stored_again, &mut rows, &mut placing);
        (self.rows, self.placing) = (rows, placing);
        placed
    }

    fn place_message(
        &mut self,
        found: Found<'_>,
        is_stored_again: Option<bool>,
        rows: &mut floodplain_decode::Rows,
        placing: &mut Placing,
    ) -> Result<()> {
        let message = found.message;
        let (route, bindings) = (self.route.clone(), self.shared.bindings.get());
        let bound = bindings.target(message);
        let binding = bound.map(|(binding, _)| binding);
        let counts = binding.map_or(bindings.builtin(), |binding| binding.counts());
        if !found.is_again {
            counts.matched();
        }
        placing.repeats.clear();
        // Both are asked, so that both ids are known.
        let of_binding =
            bound.as_ref().and_then(|(binding, target)| self.repeats_message(found, binding, target.device));
        if let Some(is_repeat) = of_binding.max(is_stored_again) {
            self.count_repeats(found, counts, u64::from(is_repeat));
            if is_repeat {
                bound.iter().for_each(|(binding, target)| self.note_rows(found, binding, target, rows));
                return Ok(());
            }
        }
        let target = bound.map(|(_, target)| target).or_else(|| route.target(message));
        let Some(target) = target else { return self.place_raw(found, 0, None, placing) };
        let (payload, content_type) = (message.payload, message.content_type);
        let input = Input { payload, content_type, device: target.device, table: target.table };
        let outcome = target.decoder.decode(&input, rows);
        let Outcome::Rows(decoded) = outcome else { return self.place_raw(found, 0, None, placing) };
        let is_of_rows = |binding: &&Binding| binding.dedup().is_some_and(Dedup::is_of_rows);
        if let Some(binding) = binding.filter(is_of_rows) {
            self.repeats_rows(found, binding, decoded.rows(), placing);
            let count = placing.repeats.iter().filter(|is_repeat| **is_repeat).count();
            self.count_repeats(found, counts, count as u64);
            if count == placing.repeats.len() && count > 0 && decoded.failures().is_empty() {
                return Ok(());
            }
        }
        if decoded.rows().any(|row| !self.may_have_table(row.table(), &bindings)) {
            if !found.is_again {
                metrics::counter!("floodplain_history_table_refused_total").increment(1);
            }
            return self.place_raw(found, 0, None, placing);
        }
        // First all schemas, so that a record is placed whole.
        loop {
            for row in unrepeated(decoded.rows(), &placing.repeats).map(|(_, row)| row) {
                self.schema(row.table()).assign(&row, found.position, &mut placing.assignment);
                for change in placing.assignment.changes() {
                    let changes = placing.changes.entry(row.table().to_owned()).or_default();
                    if !changes.contains(change) {
                        changes.push(change.clone());
                    }
                }
            }
            if placing.changes.is_empty() {
                break;
            }
            self.propose(&mut placing.changes)?;
        }
        if let Some(binding) = binding {
            let tables = unrepeated(decoded.rows(), &placing.repeats).map(|(_, row)| row.table());
            self.mark_tables(binding, tables)?;
        }
        let rules = self.shared.rules.borrow().clone();
        let mut old_rows = 0;
        let repeats = std::mem::take(&mut placing.repeats);
        for (number, row) in unrepeated(decoded.rows(), &repeats) {
            if self.is_too_old(found, &row, rules.retention(row.table())) {
                old_rows += 1;
            } else {
                self.place_row(found, number, &row, placing);
            }
        }
        placing.repeats = repeats;
        let refused = decoded.failures().first();
        let mut letter = None;
        if old_rows > 0 {
            metrics::counter!("floodplain_history_older_than_retention_total").increment(old_rows);
            placing.failed += u64::from(refused.is_none());
            // One letter for a message: that of what was not understood says more.
            let has_letter = refused.is_some() && binding.map_or(is_line_protocol(message), Binding::is_declared);
            if !has_letter {
                let (name, place) = (binding.map_or(BUILTIN, Binding::name), self.letter_place(found));
                letter = Some(letters::too_old(place, message, &target, name, old_rows));
            }
        }
        if let Some(failure) = refused {
            let count = decoded.refused_count();
            metrics::counter!("floodplain_history_refused_total").increment(count);
            placing.failed += 1;
            if !found.is_again {
                counts.failed();
            }
            // The content type of lines declares them, too.
            if binding.map_or(is_line_protocol(message), Binding::is_declared) {
                let (name, place) = (binding.map_or(BUILTIN, Binding::name), self.letter_place(found));
                let letter = letters::refused(place, message, target.device, name, failure, count);
                self.write(found, letter, placing);
                return Ok(());
            }
            self.place_raw(found, decoded.rows().len() as u32, Some(&failure.reason), placing)?;
        }
        // Nothing can fail any more, so it is written once.
        letter.into_iter().for_each(|letter| self.write(found, letter, placing));
        Ok(())
    }

    /// Has a letter appended before its message counts as decoded, or with the record of the job that decodes it again.
    fn write(&mut self, found: Found<'_>, letter: Letter, placing: &mut Placing) {
        if found.is_again { placing.letters.push(letter) } else { self.letters.push(letter) }
    }

    /// Whether a row was too old for its table when it was received, and is in no file yet.
    fn is_too_old(&self, found: Found<'_>, row: &Row<'_>, keep: Option<Duration>) -> bool {
        let Some(keep) = keep else { return false };
        let Some(time) = row.time().or(found.message.event_time_ns.map(Timestamp)) else { return false };
        found.received.since(time) > keep && !self.is_in_file(found, row.table(), time)
    }

    fn is_in_file(&self, found: Found<'_>, table: &str, time: Timestamp) -> bool {
        let source = &self.sources[found.source];
        let window = Window::of(time.0.div_euclid(1000), found.received.0.div_euclid(1000));
        !found.is_again
            && found.position < source.flushed_until
            && self.manifest.fold().is_flushed(table, window, &source.name, found.position)
    }

    /// Writes down that a binding has rows in these tables, but for the one that it names.
    fn mark_tables<'t>(&mut self, binding: &Binding, tables: impl Iterator<Item = &'t str>) -> Result<()> {
        let settings = self.documents.tables.fold().document();
        let is_new = |table: &&str| binding.table() != Some(*table) && !settings.has(table, binding.name());
        let new: BTreeSet<&str> = tables.filter(is_new).collect();
        if !new.is_empty() && !self.change_tables(|settings| settings.with_tables(binding.name(), &new))? {
            metrics::counter!("floodplain_history_unmarked_tables_total").increment(1);
        }
        Ok(())
    }

    fn may_have_table(&self, table: &str, bindings: &Bindings) -> bool {
        let count = self.catalogs.iter().map(|catalog| catalog.fold().len()).sum();
        bindings.may_have_table(table, self.config.tables_max, |name| self.known(name).is_some(), count)
    }

    fn known(&self, table: &str) -> Option<&Arc<TableSchema>> {
        let partition = self.config.state.partition_of(&CatalogFold::<TableSchema>::key(table));
        self.catalogs[partition.index as usize].fold().get(table)
    }

    fn schema(&self, table: &str) -> Arc<TableSchema> {
        self.known(table).cloned().unwrap_or_default()
    }

    /// Has changes ordered by `state`; what became of them is in the schemas afterwards.
    fn propose(&mut self, changes: &mut BTreeMap<String, Vec<Change>>) -> Result<()> {
        while let Some((table, changes)) = changes.pop_first() {
            let mut schema = (*self.schema(&table)).clone();
            changes.iter().for_each(|change| {
                schema.apply(change);
            });
            let key = CatalogFold::<TableSchema>::key(&table);
            let partition = self.config.state.partition_of(&key);
            let value = schema.to_stored();
            let position = commit::append(&*self.log, &self.wake, partition, &key, value.as_bytes(), self.now())?;
            let (now, catalog) = (self.now(), &mut self.catalogs[partition.index as usize]);
            commit::fold_past(&*self.log, &self.wake, catalog, position, now)?;
        }
        Ok(())
    }

    fn place_row(&self, found: Found<'_>, number: u32, row: &Row<'_>, placing: &mut Placing) {
        let schema = self.schema(row.table());
        let Placing { assignment, text, .. } = placing;
        schema.assign(row, found.position, assignment);
        text.clear();
        // What has to be written out is written first: cells borrow the text.
        let mut parts = Vec::new();
        for (_, value) in assignment.columns(row) {
            let from = text.len();
            if cell(value, text).is_none() {
                parts.push(from..text.len());
            }
        }
        let (mut parts, mut unused) = (parts.into_iter(), String::new());
        let cells: Vec<(usize, Cell<'_>)> = assignment
            .columns(row)
            .map(|(column, value)| match value {
                Value::Bytes(_) | Value::List(_) | Value::Rest(_) => {
                    (column, Cell::Text(parts.next().map_or("", |part| &text[part])))
                }
                value => (column, cell(value, &mut unused).unwrap_or(Cell::Text(""))),
            })
            .collect();
        let (table, device, time) = (row.table(), row.device(), row.time());
        let time = time.or(found.message.event_time_ns.map(Timestamp));
        let ready = Ready { table, device, time, is_alone: assignment.must_append(), row: number };
        let is_placed = self.buffer(found, &ready, &schema, &cells, assignment.rest());
        placing.rows += u64::from(is_placed);
        // What is decoded again is no news.
        if let Some(observer) = self.config.observer.as_ref().filter(|_| !found.is_again) {
            let Found { position, message, received, source, .. } = found;
            let partition = self.sources[source].index;
            observer.row(&Observed { topic: message.topic, partition, position, number, received, time, row });
        }
    }

    /// Keeps a message as it came, with the reason if it was refused.
    fn place_raw(&mut self, found: Found<'_>, row: u32, refused: Option<&str>, placing: &mut Placing) -> Result<()> {
        let message = found.message;
        let schema = loop {
            let schema = self.schema(MESSAGES);
            let missing = [TOPIC, PAYLOAD, PAYLOAD_BASE64].into_iter().filter(|name| schema.column_of(name).is_none());
            let add = |name: &str| Change::Add {
                field: name.to_owned(),
                column_type: ColumnType::Text,
                wide: false,
                key: false,
                first_seen: found.position,
            };
            let changes: Vec<Change> = missing.map(add).collect();
            if changes.is_empty() {
                break schema;
            }
            placing.changes.insert(MESSAGES.to_owned(), changes);
            self.propose(&mut placing.changes)?;
        };
        let raw = Raw::of(message, refused);
        let cells = [(TOPIC, message.topic), (raw.column, &*raw.payload)];
        let cells = cells.into_iter().filter_map(|(name, text)| Some((schema.column_of(name)?, Cell::Text(text))));
        let device = String::from_utf8_lossy(message.key);
        let time = message.event_time_ns.map(Timestamp);
        let ready = Ready { table: MESSAGES, device: &device, time, is_alone: true, row };
        let is_placed = self.buffer(found, &ready, &schema, &cells.collect::<Vec<_>>(), raw.rest.as_deref());
        placing.rows += u64::from(is_placed);
        Ok(())
    }

    /// Where the message of a letter is.
    fn letter_place(&self, found: Found<'_>) -> letters::Place<'_> {
        let partition = self.sources[found.source].partition;
        let stream = self.config.inputs.iter().find(|stream| stream.number == partition.stream);
        let stream = stream.map_or("", |stream| stream.id.stream.as_str());
        letters::Place { stream, partition: partition.index, position: found.position }
    }

    /// Puts a row into its buffer, unless it is in a file; whether it was put there.
    fn buffer(
        &self,
        found: Found<'_>,
        ready: &Ready<'_>,
        schema: &Arc<TableSchema>,
        cells: &[(usize, Cell<'_>)],
        rest: Option<&str>,
    ) -> bool {
        let source = &self.sources[found.source];
        let received_us = found.received.0.div_euclid(1000);
        let time = ready.time.unwrap_or(found.received);
        let (time_us, time_ns) = (time.0.div_euclid(1000), time.0.rem_euclid(1000) as i16);
        let window = Window::of(time_us, received_us);
        if self.is_in_file(found, ready.table, time) {
            return false;
        }
        // Rows that must not be merged are marked by equal times; so one that may be has another than its own.
        let received_us = match ready.time {
            None => time_us,
            Some(_) if ready.is_alone => time_us,
            Some(_) => received_us + i64::from(received_us == time_us),
        };
        let (position, row, device) = (found.position, ready.row, ready.device);
        let stream = source.stream;
        let head = RowHead { device, time_us, time_ns, stream, position, row, received_us };
        let placed = self.table(ready.table, schema, |table| {
            let new = || Buffer {
                rows: WindowBuffer::new(table.columns.clone(), window),
                since: self.mark(),
                first: BTreeMap::new(),
            };
            let buffer = table.buffers.entry(window).or_insert_with(new);
            if !found.is_again {
                buffer.first.entry(source.name.clone()).or_insert(position);
            }
            buffer.rows.append(&source.name, &head, cells, rest)?;
            table.latest.add(&table.columns, &head, cells, rest);
            Ok(())
        });
        let is_placed = placed.is_ok();
        if is_placed {
            metrics::counter!("floodplain_history_rows_total").increment(1);
        }
        if let Err(error) = placed {
            // It is in the log; and no row may keep those behind it from being seen.
            warn!(table = ready.table, partition = %source.name, offset = position.offset, %error, "row was not stored");
            metrics::counter!("floodplain_history_dropped_rows_total").increment(1);
        }
        is_placed
    }

    /// The table with at least the columns of `schema`.
    fn table(&self, name: &str, schema: &Arc<TableSchema>, then: impl FnOnce(&mut Table) -> Result<()>) -> Result<()> {
        let mut tables = self.shared.tables();
        if !tables.contains_key(name) {
            tables.insert(name.to_owned(), Table::new(name, schema, self.config.dir.join(folder(name)))?);
        }
        let Some(table) = tables.get_mut(name) else { return Ok(()) };
        if u64::from(table.columns.version()) < schema.version() {
            table.set_schema(name, schema)?;
        }
        then(table)
    }
}
