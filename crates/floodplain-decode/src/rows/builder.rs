//! Writing rows.

use std::{borrow::Cow, mem};

use super::{FieldSlot, Head, MAX_FIELDS, OWN, ROW_IDX, Role, Rows, Slot, Span, str_of};
use crate::{
    failure::{Refusal, Stage},
    write_json,
};

/// Up to here a row is searched for duplicate names pair by pair, where hashes ask for it.
const FEW: usize = 64;

/// Cheap and not secret: what equal hashes may cost is bounded by [`Builder::close`].
pub(crate) fn hash(name: &[u8]) -> u32 {
    const FACTOR: u64 = 0x9E37_79B9_7F4A_7C15;
    let mut state = name.len() as u64;
    let mut chunks = name.chunks_exact(8);
    for chunk in &mut chunks {
        let word = u64::from_le_bytes(chunk.try_into().expect("chunks of 8"));
        state = (state.rotate_left(23) ^ word).wrapping_mul(FACTOR);
    }
    let mut word = 0;
    for byte in chunks.remainder() {
        word = word << 8 | u64::from(*byte);
    }
    ((state.rotate_left(23) ^ word).wrapping_mul(FACTOR) >> 32) as u32
}

/// Where a row gets its device time from, if no better field comes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TimeCandidate {
    /// The lower, the better.
    pub rank: u8,
    /// Among the fields of the row.
    pub field_idx: usize,
    pub time: i64,
}

/// What a new row says besides its fields.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct RowHead {
    pub table: Option<Span>,
    pub device: Option<Span>,
    pub time: Option<i64>,
}

/// Writes rows. `text` is the payload as text, or empty.
#[derive(Debug)]
pub(crate) struct Builder<'b> {
    rows: &'b mut Rows,
    text: &'b str,
    /// For positions of values that were borrowed from it.
    payload: &'b [u8],
}

impl<'b> Builder<'b> {
    pub(crate) fn new(rows: &'b mut Rows, text: &'b str, payload: &'b [u8]) -> Self {
        Self { rows, text, payload }
    }

    fn limit(what: &str) -> Refusal {
        Refusal::new(Stage::Limit, 0, format!("payload gives more than {what}"))
    }

    /// The place of a text: where it stands if it is part of the payload, else that of a copy.
    pub(crate) fn keep(&mut self, text: &str) -> Result<Span, Refusal> {
        let start = (text.as_ptr() as usize).wrapping_sub(self.text.as_ptr() as usize);
        if start < self.text.len() && start + text.len() <= self.text.len() {
            return Ok(Span { start: start as u32, len: text.len() as u32 });
        }
        self.copy(|out| out.push_str(text))
    }

    /// A place in the payload's text.
    pub(crate) fn borrowed(start: usize, end: usize) -> Span {
        Span { start: start as u32, len: (end - start) as u32 }
    }

    /// Writes a new text.
    pub(crate) fn copy(&mut self, write: impl FnOnce(&mut String)) -> Result<Span, Refusal> {
        let start = self.rows.text.len();
        write(&mut self.rows.text);
        if self.rows.text.len() > self.rows.max_text_bytes {
            self.rows.text.truncate(start);
            return Err(Self::limit(&format!("{} bytes of names and texts", self.rows.max_text_bytes)));
        }
        Ok(Span { start: start as u32 | OWN, len: (self.rows.text.len() - start) as u32 })
    }

    /// Writes a new text by a function that may fail.
    pub(crate) fn try_copy(&mut self, write: impl FnOnce(&mut String) -> Result<(), Refusal>) -> Result<Span, Refusal> {
        let mut failed = Ok(());
        let span = self.copy(|out| failed = write(out))?;
        failed.map(|()| span)
    }

    /// The place of bytes that are part of the payload, or of a copy.
    pub(crate) fn keep_bytes(&mut self, bytes: &[u8]) -> Span {
        let start = (bytes.as_ptr() as usize).wrapping_sub(self.payload.as_ptr() as usize);
        if start < self.payload.len() && start + bytes.len() <= self.payload.len() {
            return Span { start: start as u32, len: bytes.len() as u32 };
        }
        let start = self.rows.bytes.len();
        self.rows.bytes.extend_from_slice(bytes);
        Span { start: start as u32 | OWN, len: bytes.len() as u32 }
    }

    pub(crate) fn str(&self, span: Span) -> &str {
        str_of(span, self.text, &self.rows.text)
    }

    /// Number of fields that the open row has so far.
    pub(crate) fn len(&self) -> usize {
        self.rows.fields.len() - self.rows.open
    }

    pub(crate) fn push(&mut self, name: Span, hash: u32, slot: Slot, role: Role) -> Result<(), Refusal> {
        if self.rows.fields.len() + self.rows.items.len() >= MAX_FIELDS {
            return Err(Self::limit(&format!("{MAX_FIELDS} values")));
        }
        self.rows.fields.push(FieldSlot { slot, name, hash, role });
        Ok(())
    }

    pub(crate) fn set(&mut self, field_idx: usize, slot: Slot) {
        let at = self.rows.open + field_idx;
        if let Some(field) = self.rows.fields.get_mut(at) {
            field.slot = slot;
        }
    }

    /// The hash of the name of a field of the open row.
    pub(crate) fn hash_of(&self, field_idx: usize) -> Option<u32> {
        self.rows.fields.get(self.rows.open + field_idx).map(|field| field.hash)
    }

    /// Whether a field of the open row has a name.
    pub(crate) fn has_name(&self, field_idx: usize, name: Span) -> bool {
        self.rows.fields.get(self.rows.open + field_idx).is_some_and(|field| self.str(field.name) == self.str(name))
    }

    /// Whether no later field of the open row has the name of this one.
    pub(crate) fn is_last_of_name(&self, field_idx: usize) -> bool {
        let fields = self.rows.fields.get(self.rows.open + field_idx..).unwrap_or_default();
        let Some((field, later)) = fields.split_first() else { return false };
        later.iter().all(|other| other.hash != field.hash || self.str(other.name) != self.str(field.name))
    }

    /// Takes all fields of the open row away.
    pub(crate) fn take_open(&mut self) -> Vec<FieldSlot> {
        self.rows.fields.split_off(self.rows.open)
    }

    /// Puts fields into the open row, as often as needed.
    pub(crate) fn extend_open(&mut self, fields: &[FieldSlot]) -> Result<(), Refusal> {
        if self.rows.fields.len() + fields.len() > MAX_FIELDS {
            return Err(Self::limit(&format!("{MAX_FIELDS} values")));
        }
        self.rows.fields.extend_from_slice(fields);
        Ok(())
    }

    /// Forgets the open row.
    pub(crate) fn abort(&mut self) {
        self.rows.fields.truncate(self.rows.open);
    }

    pub(crate) fn items_len(&self) -> usize {
        self.rows.items.len()
    }

    pub(crate) fn push_item(&mut self, slot: Slot) -> Result<(), Refusal> {
        if self.rows.fields.len() + self.rows.items.len() >= MAX_FIELDS {
            return Err(Self::limit(&format!("{MAX_FIELDS} values")));
        }
        self.rows.items.push(slot);
        Ok(())
    }

    pub(crate) fn items_from(&mut self, first: usize) -> &mut [Slot] {
        self.rows.items.get_mut(first..).unwrap_or_default()
    }

    pub(crate) fn truncate_items(&mut self, len: usize) {
        self.rows.items.truncate(len);
    }

    /// Ends the open row. Of fields with one name the last stays; a field with the name of a key goes to overflow.
    pub(crate) fn close(&mut self, head: RowHead, time: Option<TimeCandidate>) -> Result<(), Refusal> {
        if self.rows.heads.len() >= MAX_FIELDS {
            return Err(Self::limit(&format!("{MAX_FIELDS} rows")));
        }
        self.replace_duplicates()?;
        if let Some(candidate) = time {
            self.set(candidate.field_idx, Slot::Absent);
        }
        let rows = &mut *self.rows;
        rows.heads.push(Head {
            first: rows.open as u32,
            end: rows.fields.len() as u32,
            table: head.table,
            device: head.device,
            time: head.time.or(time.map(|candidate| candidate.time)),
            row_idx: 0,
            row_idx_taken: false,
        });
        rows.open = rows.fields.len();
        Ok(())
    }

    fn replace_duplicates(&mut self) -> Result<(), Refusal> {
        let open = self.rows.open;
        let count = self.rows.fields.len() - open;
        if count <= FEW {
            let mut seen = 0_u64;
            for later in open..open + count {
                let hash = self.rows.fields[later].hash;
                let bit = 1 << (hash & 63);
                if seen & bit != 0 {
                    for earlier in open..later {
                        if self.rows.fields[earlier].hash == hash {
                            self.replace(earlier, later)?;
                        }
                    }
                }
                seen |= bit;
            }
            return Ok(());
        }
        // Sorted by name where hashes are equal, so that no choice of names costs more than sorting does.
        let mut order = mem::take(&mut self.rows.order);
        order.clear();
        order.extend((open..open + count).map(|idx| (self.rows.fields[idx].hash, idx as u32)));
        let name = |idx: u32| self.str(self.rows.fields[idx as usize].name);
        order.sort_unstable_by(|a, b| a.0.cmp(&b.0).then_with(|| name(a.1).cmp(name(b.1))).then(a.1.cmp(&b.1)));
        // The first of a name may be a key, which none of the others replaces.
        let mut first = 0;
        for later in 1..order.len() {
            let same = |a: (u32, u32), b: (u32, u32)| {
                let name = |idx: u32| self.str(self.rows.fields[idx as usize].name);
                a.0 == b.0 && name(a.1) == name(b.1)
            };
            if !same(order[first], order[later]) {
                first = later;
                continue;
            }
            self.replace(order[first].1 as usize, order[later].1 as usize)?;
            if first + 1 < later {
                self.replace(order[later - 1].1 as usize, order[later].1 as usize)?;
            }
        }
        self.rows.order = order;
        Ok(())
    }

    /// Lets the later of two fields stand for both if they have one name.
    fn replace(&mut self, earlier: usize, later: usize) -> Result<(), Refusal> {
        let (first, second) = (self.rows.fields[earlier], self.rows.fields[later]);
        if self.str(first.name) != self.str(second.name) {
            return Ok(());
        }
        if first.role == second.role {
            self.rows.fields[earlier].slot = Slot::Absent;
        } else if !matches!(second.slot, Slot::Absent | Slot::Rest(_)) {
            let mut json = String::new();
            if let Some(value) = self.rows.view(self.payload, self.text, "", "").value(second.slot) {
                write_json::value(value, &mut json);
            }
            self.rows.fields[later].slot = Slot::Rest(self.copy(|out| out.push_str(&json))?);
        }
        Ok(())
    }

    /// Gives rows that have one device time a key of their own: without it the table would make them one row.
    /// Rows with declared key fields are left as they are.
    pub(crate) fn separate_equal_times(&mut self) {
        let rows = &mut *self.rows;
        if rows.heads.len() < 2 {
            return;
        }
        let mut order: Vec<(i64, u32)> =
            rows.heads.iter().enumerate().filter_map(|(idx, head)| Some((head.time?, idx as u32))).collect();
        order.sort_unstable();
        let row_idx_hash = hash(ROW_IDX.as_bytes());
        let mut equal = 0;
        for pair in order.windows(2) {
            equal = if pair[0].0 == pair[1].0 { equal + 1 } else { 0 };
            let head = &mut rows.heads[pair[1].1 as usize];
            let fields = &rows.fields[head.first as usize..head.end as usize];
            if equal == 0 || fields.iter().any(|field| field.role == Role::Key && !matches!(field.slot, Slot::Absent)) {
                continue;
            }
            head.row_idx = equal;
            head.row_idx_taken = fields
                .iter()
                .any(|field| field.hash == row_idx_hash && str_of(field.name, self.text, &rows.text) == ROW_IDX);
        }
    }

    /// The place of a name, and its hash.
    pub(crate) fn name(&mut self, name: Cow<'_, str>) -> Result<(Span, u32), Refusal> {
        let hash = hash(name.as_bytes());
        Ok((self.keep(&name)?, hash))
    }
}
