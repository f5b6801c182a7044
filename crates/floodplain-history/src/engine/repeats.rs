//! Which messages, and rows, repeat earlier ones.
//!
//! Ids are nowhere written down: before a partition is decoded from some position on, what was received in the window
//! before it is read again. So a start, a change of bindings and a job that decodes again all begin alike. On a log that keeps
//! units whole, and without a binding that looks for repeats, nothing is read and nothing is known.

use super::{
    Engine, READ_BYTES,
    place::{Found, Placing, message_of},
};
use crate::{
    Result,
    bindings::{Binding, Bindings, Counts},
    dedup::{IDS_MAX, RecentIds, Sighting, WINDOW},
    route::Target,
};
use floodplain_decode::{Input, Outcome, Row, Rows};
use floodplain_log::{MessageRef, Partition, ReadBatch, ReadError, Record};
use floodplain_types::{Position, Timestamp};
use std::time::Duration;

/// Messages of one partition are received about in the order in which they are in the log; more than so much earlier none
/// is, unless the clock was set back. Then one that repeats another may be taken for a new one after a restart.
const DISORDER: Duration = Duration::from_secs(60);

/// The ids of one partition.
#[derive(Debug)]
pub(super) struct Ids {
    /// Those that bindings look for.
    declared: RecentIds,
    /// Dedup ids, apart: many of them do not make the log forget what a binding has asked for. `None` on a log that keeps
    /// units whole.
    dedup_ids: Option<RecentIds>,
    /// Those of the records before it are known.
    pub(super) until: Position,
    /// Reading goes on up to here.
    towards: Position,
}

impl Ids {
    /// Whether the log has a message a second time, by its dedup id, which is known from now on; `None` if it has none, or nobody looks
    /// for it.
    fn is_stored_again(&mut self, message: &MessageRef<'_>, position: Position, received: Timestamp) -> Option<bool> {
        let (ids, id) = (self.dedup_ids.as_mut()?, message.dedup_id?);
        // It was given by a broker, whatever bindings there were.
        let sighting = Sighting { binding: "", window: WINDOW, position, received };
        Some(ids.is_repeat(&sighting, message.key, id.as_bytes()))
    }

    fn take_forgotten(&mut self) -> u64 {
        self.declared.take_forgotten() + self.dedup_ids.as_mut().map_or(0, RecentIds::take_forgotten)
    }
}

impl Engine {
    /// Whether the ids before the next record of a source are known, or nobody looks for them; reads some, if not.
    pub(super) fn knows_ids(&mut self, at: usize) -> Result<bool> {
        let (mut ids, window) = (self.sources[at].ids.take(), self.window_of_ids());
        let reached = self.reach(at, &mut ids, self.sources[at].position, window);
        self.sources[at].ids = ids;
        reached
    }

    /// The same for what is decoded again, from `position` on.
    pub(super) fn knows_ids_again(&mut self, source: usize, position: Position) -> Result<bool> {
        self.reach_again(source, position, self.window_of_ids())
    }

    /// The same for a message that has a letter. It has repeated none by its dedup id, or it would have no letter; so the messages
    /// before each letter are not read for that.
    pub(super) fn knows_ids_of_letter(&mut self, source: usize, position: Position) -> Result<bool> {
        let window = self.shared.bindings.get().dedup_window_max();
        self.reach_again(source, position, window)
    }

    fn reach_again(&mut self, source: usize, position: Position, window: Option<Duration>) -> Result<bool> {
        let mut ids = self.again.take().filter(|(of, _)| *of == source).map(|(_, ids)| ids);
        let reached = self.reach(source, &mut ids, position, window);
        self.again = ids.map(|ids| (source, ids));
        reached
    }

    /// How long ids must be known; `None` if nobody looks for them.
    fn window_of_ids(&self) -> Option<Duration> {
        let of_dedup_ids = (!self.log.keeps_units_whole()).then_some(WINDOW);
        self.shared.bindings.get().dedup_window_max().max(of_dedup_ids)
    }

    /// What comes next of what is decoded again.
    pub(super) fn pass_again(&mut self, next: Position) {
        self.again.iter_mut().for_each(|(_, ids)| ids.until = next);
    }

    /// Bindings have changed.
    pub(super) fn forget_ids(&mut self) {
        let is_looked_for = self.shared.bindings.get().dedup_window_max().is_some();
        for source in &mut self.sources {
            match &mut source.ids {
                // Dedup ids are known whatever bindings there are.
                Some(ids) if !is_looked_for => ids.declared = RecentIds::new(IDS_MAX, WINDOW),
                ids => *ids = None,
            }
        }
        self.again = None;
    }

    /// Brings `ids` to `position` by at most one read; whether they are there.
    fn reach(
        &mut self,
        source: usize,
        ids: &mut Option<Ids>,
        position: Position,
        window: Option<Duration>,
    ) -> Result<bool> {
        let bindings = self.shared.bindings.get();
        let Some(window) = window else {
            *ids = None;
            return Ok(true);
        };
        let partition = self.sources[source].partition;
        let ids = match ids {
            Some(known) if known.until == position => return Ok(true),
            Some(known) if known.until < position && known.towards == position => known,
            _ => {
                let begin = self.begin_of_window(partition, position, window)?;
                match ids {
                    // What is further back makes no difference.
                    Some(known) if known.until < position => {
                        (known.until, known.towards) = (known.until.max(begin), position);
                        known
                    }
                    _ => {
                        let declared = RecentIds::new(IDS_MAX, window);
                        let dedup_ids = (!self.log.keeps_units_whole()).then(|| RecentIds::new(IDS_MAX, WINDOW));
                        ids.insert(Ids { declared, dedup_ids, until: begin, towards: position })
                    }
                }
            }
        };
        if ids.until == position {
            return Ok(true);
        }
        let read = match self.log.read(partition, ids.until, READ_BYTES) {
            Err(ReadError::Trimmed { start: next, .. } | ReadError::Corrupt { next, .. }) if next > ids.until => {
                ids.until = next.min(position);
                return Ok(ids.until == position);
            }
            read => read?,
        };
        for batch in &read.batches {
            let Ok(records) = batch.batch.records() else { continue };
            for record in records.iter().map_while(std::result::Result::ok) {
                let at = batch.position(&record);
                if at >= ids.until && at < position {
                    note(&bindings, ids, batch, &record, at, &mut self.rows);
                }
            }
        }
        ids.until = if read.next > ids.until { read.next.min(position) } else { position };
        Ok(ids.until == position)
    }

    /// Before it nothing was received that the record at `position` may repeat.
    fn begin_of_window(&self, partition: Partition, position: Position, window: Duration) -> Result<Position> {
        let read = self.log.read(partition, position, 1).ok();
        let received = read.iter().flat_map(|read| &read.batches).find_map(|batch| {
            let records = batch.batch.records().ok()?;
            let mut records = records.iter().map_while(std::result::Result::ok);
            let record = records.find(|record| batch.position(record) >= position)?;
            Some(message_of(batch, &record).1)
        });
        let oldest = received.unwrap_or_else(|| self.now()) - window - DISORDER;
        let begin = self.log.position_at(partition, oldest.as_millis())?;
        Ok(begin.max(self.log.start(partition)).min(position))
    }

    /// Knows a record that is not decoded again, because nobody asked for it.
    pub(super) fn note_again(&mut self, batch: &ReadBatch, record: &Record<'_>, position: Position) {
        let bindings = self.shared.bindings.get();
        if let Some((_, ids)) = &mut self.again {
            note(&bindings, ids, batch, record, position, &mut self.rows);
        }
    }

    fn ids_of(&mut self, found: Found<'_>) -> Option<&mut Ids> {
        if found.is_again {
            return self.again.as_mut().map(|(_, ids)| ids);
        }
        self.sources[found.source].ids.as_mut()
    }

    /// Whether the log has a message a second time; `None` if nobody can say.
    pub(super) fn is_stored_again(&mut self, found: Found<'_>) -> Option<bool> {
        self.ids_of(found)?.is_stored_again(found.message, found.position, found.received)
    }

    /// Whether a message has the id of an earlier one; `None` if it has none of its own.
    pub(super) fn repeats_message(&mut self, found: Found<'_>, binding: &Binding, device: &str) -> Option<bool> {
        let dedup = binding.dedup()?;
        let id = dedup.of_message(found.message)?;
        let sighting = sighting(found, binding, dedup.window);
        Some(self.ids_of(found)?.declared.is_repeat(&sighting, device, id.as_bytes()))
    }

    /// Knows the ids of the rows of a message that is left out as a whole, as whoever reads it again does.
    pub(super) fn note_rows(&mut self, found: Found<'_>, binding: &Binding, target: &Target<'_>, rows: &mut Rows) {
        let (Some(dedup), Some(ids)) = (binding.dedup(), self.ids_of(found)) else { return };
        if dedup.is_of_rows() {
            let sighting = sighting(found, binding, dedup.window);
            note_rows(&mut ids.declared, &sighting, binding, target, found.message, rows);
        }
    }

    /// Finds out which rows have the ids of rows of earlier messages.
    pub(super) fn repeats_rows<'r>(
        &mut self,
        found: Found<'_>,
        binding: &Binding,
        rows: impl Iterator<Item = Row<'r>>,
        placing: &mut Placing,
    ) {
        let (Some(dedup), Some(ids)) = (binding.dedup(), self.ids_of(found)) else { return };
        let sighting = sighting(found, binding, dedup.window);
        let mut text = String::new();
        placing.repeats.extend(rows.map(|row| {
            text.clear();
            dedup.of_row(&row, &mut text) && ids.declared.is_repeat(&sighting, row.device(), text.as_bytes())
        }));
    }

    pub(super) fn count_repeats(&mut self, found: Found<'_>, counts: &Counts, count: u64) {
        let forgotten = self.ids_of(found).map_or(0, Ids::take_forgotten);
        if found.is_again {
            return;
        }
        metrics::counter!("floodplain_history_dedup_forgotten_total").increment(forgotten);
        metrics::counter!("floodplain_history_duplicates_total").increment(count);
        counts.duplicates(count);
    }
}

fn sighting<'a>(found: Found<'a>, binding: &'a Binding, window: Duration) -> Sighting<'a> {
    Sighting { binding: binding.name(), window, position: found.position, received: found.received }
}

/// Knows the ids of a record, whatever they repeat.
fn note(
    bindings: &Bindings,
    ids: &mut Ids,
    batch: &ReadBatch,
    record: &Record<'_>,
    position: Position,
    rows: &mut Rows,
) {
    let (message, received) = message_of(batch, record);
    ids.is_stored_again(&message, position, received);
    let Some((binding, target)) = bindings.target(&message) else { return };
    let Some(dedup) = binding.dedup() else { return };
    let sighting = Sighting { binding: binding.name(), window: dedup.window, position, received };
    if let Some(id) = dedup.of_message(&message) {
        ids.declared.is_repeat(&sighting, target.device, id.as_bytes());
    }
    if dedup.is_of_rows() {
        note_rows(&mut ids.declared, &sighting, binding, &target, &message, rows);
    }
}

fn note_rows(
    ids: &mut RecentIds,
    sighting: &Sighting<'_>,
    binding: &Binding,
    target: &Target<'_>,
    message: &MessageRef<'_>,
    rows: &mut Rows,
) {
    let Some(dedup) = binding.dedup() else { return };
    let (payload, content_type) = (message.payload, message.content_type);
    let input = Input { payload, content_type, device: target.device, table: target.table };
    let Outcome::Rows(decoded) = target.decoder.decode(&input, rows) else { return };
    let mut text = String::new();
    for row in decoded.rows() {
        text.clear();
        if dedup.of_row(&row, &mut text) {
            ids.is_repeat(sighting, row.device(), text.as_bytes());
        }
    }
}
