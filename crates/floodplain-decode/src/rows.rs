//! The buffer of rows: written by decoders, read by whoever stores them.

use std::{fmt, mem, ops::Range};

use floodplain_types::Timestamp;

use crate::{
    failure::Failure,
    value::{ElementType, List, Value},
};

mod builder;
pub(crate) use builder::{Builder, RowHead, TimeCandidate, hash};

/// Most fields, nulls and items of lists that one payload may give; fields of an outer object count once for each
/// row that repeats them.
///
/// 32 bytes each: at most 32 MiB for a payload that was made for this. Real payloads have tens to thousands.
pub const MAX_FIELDS: usize = 1 << 20;
/// Column names that grow with nesting are written out; this bounds how much more text than payload there may be.
const MAX_TEXT_FACTOR: usize = 8;
const MIN_TEXT_BYTES: usize = 1 << 20;
/// What a buffer keeps for the next payload, in elements of each of its vectors.
const KEPT: usize = 1 << 16;
/// A key column for rows of one payload that would otherwise replace each other.
const ROW_IDX: &str = "row_idx";
const ROW_IDX_TAKEN: &str = "row_idx_";

/// The part that a field has in its row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Role {
    #[default]
    Value,
    /// Belongs to the row key, with device and time.
    Key,
    /// A tag that describes the device: stored like a value, and no part of the row key.
    Attribute,
}

/// A place in a text: in that of the payload, or (bit 31 of `start`) in that of the buffer.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Span {
    start: u32,
    len: u32,
}

const OWN: u32 = 1 << 31;

impl Span {
    /// A part of the text, by positions in it.
    pub(crate) const fn part(self, start: usize, end: usize) -> Self {
        Self { start: self.start + start as u32, len: (end - start) as u32 }
    }
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Slot {
    /// A null, or a field that another one has replaced.
    Absent,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(Span),
    Bytes(Span),
    Rest(Span),
    List {
        element: ElementType,
        first: u32,
        len: u32,
    },
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct FieldSlot {
    pub slot: Slot,
    pub name: Span,
    pub hash: u32,
    pub role: Role,
}

#[derive(Debug, Clone, Copy, Default)]
struct Head {
    first: u32,
    end: u32,
    table: Option<Span>,
    device: Option<Span>,
    time: Option<i64>,
    /// Not 0: how many earlier rows of the payload have the same time.
    row_idx: u32,
    row_idx_taken: bool,
}

/// A buffer that decoders write to and that is used again: after some payloads it allocates no more.
#[derive(Debug, Default)]
pub struct Rows {
    text: String,
    bytes: Vec<u8>,
    fields: Vec<FieldSlot>,
    items: Vec<Slot>,
    heads: Vec<Head>,
    failures: Vec<Failure>,
    /// Lines of the payload that gave no row.
    refused: Vec<Range<usize>>,
    refused_count: u64,
    /// Where the fields of the row begin that is being written.
    open: usize,
    order: Vec<(u32, u32)>,
    /// Stands for a payload that is not UTF-8 in some places.
    repaired: String,
    max_text_bytes: usize,
}

impl Rows {
    /// An empty buffer.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Empties the buffer. What an unusually large payload has taken is given back.
    pub(crate) fn reset(&mut self, payload_len: usize) {
        self.text.clear();
        self.text.shrink_to(KEPT * 16);
        self.bytes.clear();
        self.bytes.shrink_to(KEPT * 16);
        self.repaired.clear();
        self.repaired.shrink_to(0);
        self.fields.clear();
        self.fields.shrink_to(KEPT);
        self.items.clear();
        self.items.shrink_to(KEPT);
        self.heads.clear();
        self.heads.shrink_to(KEPT);
        self.order.clear();
        self.order.shrink_to(KEPT);
        self.failures.clear();
        self.refused.clear();
        self.refused.shrink_to(KEPT);
        self.refused_count = 0;
        self.open = 0;
        self.max_text_bytes = (payload_len.saturating_mul(MAX_TEXT_FACTOR) + MIN_TEXT_BYTES).min(OWN as usize - 1);
    }

    /// Forgets all rows; for a decoder that tries one reading and then another.
    pub(crate) fn forget(&mut self) {
        self.heads.clear();
        self.fields.clear();
        self.items.clear();
        self.open = 0;
    }

    pub(crate) fn push_failure(&mut self, failure: Failure) {
        self.failures.push(failure);
    }

    pub(crate) fn take_failures(&mut self) -> (Vec<Failure>, Vec<Range<usize>>) {
        (mem::take(&mut self.failures), mem::take(&mut self.refused))
    }

    pub(crate) fn set_failures(&mut self, failures: Vec<Failure>, refused: Vec<Range<usize>>) {
        (self.failures, self.refused) = (failures, refused);
    }

    pub(crate) fn set_refused_count(&mut self, count: u64) {
        self.refused_count = count;
    }

    pub(crate) fn set_repaired(&mut self, text: String) {
        self.repaired = text;
    }

    pub(crate) fn view<'r>(&'r self, payload: &'r [u8], text: &'r str, device: &'r str, table: &'r str) -> Decoded<'r> {
        let text = if self.repaired.is_empty() { text } else { &self.repaired };
        Decoded { rows: self, payload, text, device, table }
    }
}

/// What a payload gave: rows, and failures for what gave none. Both may be there only for line protocol.
#[derive(Clone, Copy)]
pub struct Decoded<'r> {
    rows: &'r Rows,
    payload: &'r [u8],
    text: &'r str,
    device: &'r str,
    table: &'r str,
}

impl<'r> Decoded<'r> {
    /// The rows, in the order of the payload.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = Row<'r>> + use<'r> {
        let decoded = *self;
        self.rows.heads.iter().map(move |head| Row { decoded, head })
    }

    /// What was refused: the payload, or lines of it. At most [`MAX_FAILURES`](crate::MAX_FAILURES)
    /// are kept for one payload.
    #[must_use]
    pub fn failures(&self) -> &'r [Failure] {
        &self.rows.failures
    }

    /// How many failures there were, also those that are not kept.
    #[must_use]
    pub const fn refused_count(&self) -> u64 {
        self.rows.refused_count
    }

    /// Where in the payload the lines are that were refused, in order, neighbours as one; of line protocol alone.
    #[must_use]
    pub fn refused(&self) -> &'r [Range<usize>] {
        &self.rows.refused
    }

    pub(crate) fn items(self, first: u32, len: u32) -> impl ExactSizeIterator<Item = Value<'r>> + use<'r> {
        let items = self.rows.items.get(first as usize..first as usize + len as usize).unwrap_or_default();
        items.iter().map(move |slot| self.value(*slot).unwrap_or(Value::Bool(false)))
    }

    fn str(self, span: Span) -> &'r str {
        str_of(span, self.text, &self.rows.text)
    }

    fn value(self, slot: Slot) -> Option<Value<'r>> {
        Some(match slot {
            Slot::Absent => return None,
            Slot::Bool(value) => Value::Bool(value),
            Slot::Int(value) => Value::Int(value),
            Slot::Float(value) => Value::Float(value),
            Slot::Text(span) => Value::Text(self.str(span)),
            Slot::Rest(span) => Value::Rest(self.str(span)),
            Slot::Bytes(span) => {
                let (from, start) = if span.start & OWN == 0 {
                    (self.payload, span.start)
                } else {
                    (&*self.rows.bytes, span.start & !OWN)
                };
                Value::Bytes(from.get(start as usize..start as usize + span.len as usize).unwrap_or_default())
            }
            Slot::List { element, first, len } => {
                Value::List(List { decoded: self, element, first, len, widened: false })
            }
        })
    }
}

impl fmt::Debug for Decoded<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows: Vec<_> = self.rows().collect();
        f.debug_struct("Decoded").field("rows", &rows).field("failures", &self.failures()).finish_non_exhaustive()
    }
}

fn str_of<'r>(span: Span, text: &'r str, own: &'r str) -> &'r str {
    let (from, start) = if span.start & OWN == 0 { (text, span.start) } else { (own, span.start & !OWN) };
    // Spans are made from slices of these texts, so this is never the default.
    from.get(start as usize..start as usize + span.len as usize).unwrap_or_default()
}

/// One row.
#[derive(Clone, Copy)]
pub struct Row<'r> {
    decoded: Decoded<'r>,
    head: &'r Head,
}

/// One field of a row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Field<'r> {
    pub name: &'r str,
    pub value: Value<'r>,
    pub role: Role,
}

impl<'r> Row<'r> {
    /// The table that the row is for: the input's, or the measurement of a line.
    #[must_use]
    pub fn table(&self) -> &'r str {
        self.head.table.map_or(self.decoded.table, |span| self.decoded.str(span))
    }

    /// The device that the row is about: the input's, or the one that a line names.
    #[must_use]
    pub fn device(&self) -> &'r str {
        self.head.device.map_or(self.decoded.device, |span| self.decoded.str(span))
    }

    /// The time that the device gave. Without one the table stores the row at the time at which it was received, and
    /// never merges it with another.
    #[must_use]
    pub fn time(&self) -> Option<Timestamp> {
        self.head.time.map(Timestamp)
    }

    /// The fields in the order of the payload, without nulls and without the event time. A name comes once, except
    /// that a line may have a tag and a field of one name: then the field comes as [`Value::Rest`].
    pub fn fields(&self) -> impl Iterator<Item = Field<'r>> + use<'r> {
        let (decoded, head) = (self.decoded, self.head);
        let slots = decoded.rows.fields.get(head.first as usize..head.end as usize).unwrap_or_default();
        let row_idx = (head.row_idx > 0).then(|| Field {
            name: if head.row_idx_taken { ROW_IDX_TAKEN } else { ROW_IDX },
            value: Value::Int(i64::from(head.row_idx)),
            role: Role::Key,
        });
        slots
            .iter()
            .filter_map(move |field| {
                let value = decoded.value(field.slot)?;
                Some(Field { name: decoded.str(field.name), value, role: field.role })
            })
            .chain(row_idx)
    }
}

impl fmt::Debug for Row<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut row = f.debug_struct("Row");
        row.field("table", &self.table()).field("device", &self.device()).field("time", &self.time());
        row.field("fields", &self.fields().collect::<Vec<_>>()).finish()
    }
}
