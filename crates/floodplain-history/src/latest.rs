//! The newest value of each column of each device: an index, so that nobody has to scan for it.
//!
//! A value wins by (time, `_time_ns`, `_seq`), as it does in a scan. The index of a table is made from its files and
//! buffers in the background when somebody asks for it first, and follows every row from then on; before, and where it
//! cannot tell (two rows of one key that came in another order, files that were removed), a scan answers. All indexes
//! together have [`BYTES_MAX`]: a table that does not fit is scanned.

pub(crate) mod indexer;

pub use indexer::LatestRows;

use crate::{
    Result,
    buffer::{Cell, RowHead},
    columns::{Columns, FIRST, Heads, KeyCell, Kind, ordered, text},
    file::FileFacts,
    filter::Devices,
};
use arrow::{
    array::{
        Array as _, ArrayRef, AsArray as _, BooleanBuilder, Float64Builder, Int64Builder, RecordBatch, StringBuilder,
        TimestampMicrosecondBuilder,
    },
    datatypes::{Float64Type, Int64Type, Schema, SchemaRef},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

/// Bytes of the indexes of all tables together.
const BYTES_MAX: usize = 256 << 20;
/// Rows that are taken out of an index, or put into it, before others get their turn.
pub(crate) const ROWS_PER_TURN: usize = 1024;
/// More devices that a scan has to answer for, and the index is of no use: it is made anew.
const UNSURE_MAX: usize = 1024;
/// What an entry takes beside its columns, and its name.
const ENTRY_BYTES: usize = 160;

/// Which row is the newer one: event time in µs and ns, then place in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Stamp {
    time: (i64, i16),
    seq: (i32, i64, i32),
    /// The row is never merged with others.
    is_alone: bool,
}

#[derive(Debug, Clone, PartialEq)]
enum Stored {
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(Box<str>),
}

impl Stored {
    fn heap_bytes(&self) -> usize {
        if let Self::Text(text) = self { text.len() } else { 0 }
    }
}

impl From<Cell<'_>> for Stored {
    fn from(cell: Cell<'_>) -> Self {
        match cell {
            Cell::Bool(value) => Self::Bool(value),
            Cell::Int(value) => Self::Int(value),
            Cell::Float(value) => Self::Float(value),
            Cell::Text(value) => Self::Text(value.into()),
        }
    }
}

type Newest = Option<(Stamp, Stored)>;

/// The newest values of one device and one set of key columns.
#[derive(Debug)]
struct Entry {
    newest: Stamp,
    /// By index among the table's own columns.
    cells: Vec<Newest>,
    rest: Newest,
}

/// Where rows come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    /// As they were decoded, in the order of the log but for replays.
    Log,
    /// Rows of one key are one row already, which says only how old its newest value is.
    Scan,
    /// The same, and no rows come from elsewhere.
    ScanAlone,
}

/// Puts a value where it belongs; false if which value is the newer one cannot be told.
fn put(slot: &mut Newest, stamp: Stamp, value: Stored, origin: Origin) -> bool {
    use std::cmp::Ordering::{Equal, Greater, Less};
    let Some((held, _)) = slot else {
        *slot = Some((stamp, value));
        return true;
    };
    match stamp.time.cmp(&held.time) {
        Less => return true,
        Greater => {}
        Equal if origin == Origin::ScanAlone => {
            if stamp.seq < held.seq {
                return true;
            }
        }
        Equal if stamp.is_alone != held.is_alone => return false,
        Equal => match (stamp.seq.cmp(&held.seq), origin) {
            // Decoded again: what comes from the log is the later of the two.
            (Equal, Origin::Log) | (Greater, Origin::Log) => {}
            (Equal | Less, Origin::Scan | Origin::ScanAlone) => return true,
            (Greater, Origin::Scan) | (Less, Origin::Log) if !stamp.is_alone => return false,
            (Less, Origin::Log) => return true,
            (Greater, Origin::Scan | Origin::ScanAlone) => {}
        },
    }
    *slot = Some((stamp, value));
    true
}

/// The entries of one table.
#[derive(Debug)]
pub(crate) struct Index {
    /// By device, then key columns.
    entries: BTreeMap<Box<[u8]>, Entry>,
    /// Devices that only a scan knows.
    unsure: BTreeSet<Box<str>>,
    bytes: usize,
    /// Of all indexes.
    all_bytes: Arc<AtomicUsize>,
}

impl Drop for Index {
    fn drop(&mut self) {
        self.all_bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Some entries as rows.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) rows: RecordBatch,
    /// Where to go on.
    pub(crate) next: Option<Box<[u8]>>,
}

/// The newest value of a column.
#[derive(Debug, Clone, PartialEq)]
pub struct LatestValue {
    pub column: String,
    /// As [`crate::ColumnSummary::data_type`].
    pub data_type: &'static str,
    /// Event time in µs.
    pub time_us: i64,
    pub value: Value,
}

/// A value of a column.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
}

/// The end of the device in a key: no text has this byte.
const END: u8 = 0xff;

fn device_key(device: &str) -> Vec<u8> {
    let mut key = Vec::with_capacity(device.len() + 1);
    key.extend_from_slice(device.as_bytes());
    key.push(END);
    key
}

fn device_of(key: &[u8]) -> &str {
    let device = key.split(|byte| *byte == END).next().unwrap_or_default();
    std::str::from_utf8(device).unwrap_or_default()
}

/// Keys without the nulls at their end: key columns that come later change no key.
fn push_keys<'a>(key: &mut Vec<u8>, cells: impl Iterator<Item = KeyCell<'a>>) {
    let mut end = key.len();
    for cell in cells {
        match cell {
            KeyCell::Null => key.push(0),
            KeyCell::Bool(value) => key.extend_from_slice(&[1, value.into()]),
            KeyCell::Int(value) | KeyCell::Float(value) => {
                key.push(2);
                key.extend_from_slice(&value.to_be_bytes());
            }
            KeyCell::Text(text) => {
                key.push(3);
                key.extend_from_slice(text.as_bytes());
                key.push(END);
            }
        }
        if cell != KeyCell::Null {
            end = key.len();
        }
    }
    key.truncate(end);
}

impl Index {
    pub(crate) fn new(all_bytes: &Arc<AtomicUsize>) -> Self {
        Self { entries: BTreeMap::new(), unsure: BTreeSet::new(), bytes: 0, all_bytes: all_bytes.clone() }
    }

    /// Takes in a row as it was decoded.
    pub(crate) fn add(
        &mut self,
        columns: &Columns,
        head: &RowHead<'_>,
        cells: &[(usize, Cell<'_>)],
        rest: Option<&str>,
    ) {
        let key_cell = |column: &usize| {
            let cell = cells.iter().find(|(at, _)| FIRST + at == *column);
            cell.map_or(KeyCell::Null, |(_, cell)| match *cell {
                Cell::Bool(value) => KeyCell::Bool(value),
                Cell::Int(value) => KeyCell::Int(value),
                Cell::Float(value) => KeyCell::Float(ordered(value)),
                Cell::Text(text) => KeyCell::Text(text),
            })
        };
        let mut key = device_key(head.device);
        push_keys(&mut key, columns.keys().iter().map(key_cell));
        let position = head.position;
        let (Some(generation), Ok(offset), Ok(row)) =
            (head.generation(), i64::try_from(position.offset), i32::try_from(head.row))
        else {
            return;
        };
        let stamp = Stamp {
            time: (head.time_us, head.time_ns),
            seq: (generation, offset, row),
            is_alone: head.time_us == head.received_us,
        };
        self.put(key, stamp, cells.iter().map(|(at, cell)| (*at, Stored::from(*cell))), rest, Origin::Log);
    }

    /// Takes in rows of a scan, with all columns. `is_alone`: no others come.
    ///
    /// # Errors
    /// [`crate::Error::Schema`] if they are not rows of `columns`.
    pub(crate) fn add_scanned(&mut self, columns: &Columns, rows: &RecordBatch, is_alone: bool) -> Result<()> {
        let origin = if is_alone { Origin::ScanAlone } else { Origin::Scan };
        let heads = Heads::whole(columns, rows)?;
        for row in 0..rows.num_rows() {
            let mut key = device_key(heads.device.value(row));
            push_keys(&mut key, (0..heads.key_count()).map(|at| heads.key(at, row)));
            let (time, seq) = ((heads.time[row], heads.time_ns[row]), heads.seq(row));
            let stamp = Stamp { time, seq, is_alone: heads.is_append(row) };
            let cells = columns.own().iter().enumerate().filter_map(|(at, own)| {
                let array = rows.column(FIRST + at);
                array.is_valid(row).then(|| {
                    let value = match own.kind {
                        Kind::Bool => Stored::Bool(array.as_boolean().value(row)),
                        Kind::Int => Stored::Int(array.as_primitive::<Int64Type>().value(row)),
                        Kind::Float => Stored::Float(array.as_primitive::<Float64Type>().value(row)),
                        Kind::Text => Stored::Text(array.as_string::<i32>().value(row).into()),
                    };
                    (at, value)
                })
            });
            let rest = text(rows.column(columns.rest()).as_string(), row);
            self.put(key, stamp, cells, rest, origin);
        }
        Ok(())
    }

    fn put(
        &mut self,
        key: Vec<u8>,
        stamp: Stamp,
        cells: impl Iterator<Item = (usize, Stored)>,
        rest: Option<&str>,
        origin: Origin,
    ) {
        let mut bytes = 0;
        let entry = match self.entries.get_mut(&key[..]) {
            Some(entry) => entry,
            None => {
                bytes += ENTRY_BYTES + key.len();
                let entry = Entry { newest: stamp, cells: Vec::new(), rest: None };
                self.entries.entry(key.clone().into()).or_insert(entry)
            }
        };
        entry.newest = entry.newest.max(stamp);
        let mut freed = 0;
        let mut is_sure = true;
        for (at, value) in cells {
            if at >= entry.cells.len() {
                bytes += (at + 1 - entry.cells.len()) * size_of::<Newest>();
                entry.cells.reserve_exact(at + 1 - entry.cells.len());
                entry.cells.resize(at + 1, None);
            }
            freed += heap_bytes(&entry.cells[at]);
            is_sure &= put(&mut entry.cells[at], stamp, value, origin);
            bytes += heap_bytes(&entry.cells[at]);
        }
        if let Some(rest) = rest {
            // Of rows of one key the fields of `_rest` are merged, one by one.
            let merges = |(held, _): &(Stamp, Stored)| {
                held.time == stamp.time && held.seq != stamp.seq && !(held.is_alone && stamp.is_alone)
            };
            is_sure &= origin == Origin::ScanAlone || !entry.rest.as_ref().is_some_and(merges);
            freed += heap_bytes(&entry.rest);
            is_sure &= put(&mut entry.rest, stamp, Stored::Text(rest.into()), origin);
            bytes += heap_bytes(&entry.rest);
        }
        if !is_sure {
            self.unsure.insert(device_of(&key).into());
        }
        self.bytes = self.bytes + bytes - freed;
        self.all_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.all_bytes.fetch_sub(freed, Ordering::Relaxed);
    }

    /// Whether all indexes together are larger than they may be.
    pub(crate) fn is_too_large(&self) -> bool {
        self.all_bytes.load(Ordering::Relaxed) > BYTES_MAX
    }

    /// Whether too many devices have to be scanned.
    pub(crate) fn is_spent(&self) -> bool {
        self.unsure.len() > UNSURE_MAX
    }

    /// A file was removed: what may have been in it is known by a scan alone.
    pub(crate) fn removed(&mut self, facts: &FileFacts) {
        for (key, entry) in &self.entries {
            let device = device_of(key);
            let is_old = |newest: &Newest| newest.as_ref().is_some_and(|(at, _)| at.time.0 <= facts.max_time_us);
            if *facts.min_device <= *device
                && *device <= *facts.max_device
                && (entry.newest.time.0 <= facts.max_time_us || is_old(&entry.rest) || entry.cells.iter().any(is_old))
            {
                self.unsure.insert(device.into());
            }
        }
    }

    /// Those of these devices that have to be scanned.
    pub(crate) fn unsure(&self, devices: &Devices) -> BTreeSet<Box<str>> {
        self.unsure.iter().filter(|device| devices.contains(device)).cloned().collect()
    }

    /// Some entries of these devices behind `after`, but of those that have to be scanned.
    ///
    /// # Errors
    /// [`crate::Error`] if Arrow does not take the rows.
    pub(crate) fn page(&self, columns: &Columns, devices: &Devices, after: Option<&[u8]>) -> Result<Page> {
        let mut found = Vec::new();
        let mut next = None;
        match devices {
            Devices::All => {
                let from = (after.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded);
                let mut count = 0;
                for (key, entry) in self.entries.range::<[u8], _>(from).take(ROWS_PER_TURN) {
                    count += 1;
                    next = Some(key);
                    found.push((device_of(key), entry));
                }
                next = next.filter(|_| count == ROWS_PER_TURN);
            }
            // As many as a query names.
            Devices::In(devices) => {
                for device in devices.iter() {
                    found.extend(self.of(device).map(|(key, entry)| (device_of(key), entry)));
                }
            }
        }
        found.retain(|(device, _)| !self.unsure.contains(*device));
        Ok(Page { rows: rows(columns, &found)?, next: next.cloned() })
    }

    fn of(&self, device: &str) -> impl Iterator<Item = (&[u8], &Entry)> {
        let start = device_key(device);
        let behind = self.entries.range::<[u8], _>((Bound::Included(&start[..]), Bound::Unbounded));
        behind.take_while(move |(key, _)| key.starts_with(&start)).map(|(key, entry)| (&**key, entry))
    }

    /// The newest values of one device, those of all its key columns together; `None` if a scan is needed.
    pub(crate) fn values(&self, columns: &Columns, device: &str) -> Option<Vec<LatestValue>> {
        let mut newest: Vec<Newest> = vec![None; columns.own().len()];
        if self.unsure.contains(device) {
            return None;
        }
        for (_, entry) in self.of(device) {
            for (slot, cell) in newest.iter_mut().zip(&entry.cells) {
                if let Some((stamp, value)) = cell
                    && slot.as_ref().is_none_or(|(held, _)| held < stamp)
                {
                    *slot = Some((*stamp, value.clone()));
                }
            }
        }
        let values = columns.own().iter().zip(newest).filter_map(|(own, newest)| {
            let (stamp, value) = newest?;
            let value = match (own.kind, value) {
                (Kind::Float, Stored::Int(value)) => Value::Float(value as f64),
                (_, Stored::Bool(value)) => Value::Bool(value),
                (_, Stored::Int(value)) => Value::Int(value),
                (_, Stored::Float(value)) => Value::Float(value),
                (_, Stored::Text(value)) => Value::Text(value.into()),
            };
            let data_type = own.kind.name();
            Some(LatestValue { column: own.name.clone(), data_type, time_us: stamp.time.0, value })
        });
        Some(values.collect())
    }
}

fn heap_bytes(newest: &Newest) -> usize {
    newest.as_ref().map_or(0, |(_, value)| value.heap_bytes())
}

/// The columns that [`Index::page`] has of a table: all but those of `_time_ns`, `_seq` and `_received`.
pub(crate) fn projection(columns: &Columns) -> Vec<usize> {
    (0..columns.schema().fields().len()).filter(|at| *at < 2 || *at >= FIRST).collect()
}

/// The schema of these rows: device and time, the table's own columns, `_rest`.
///
/// # Panics
/// Never: the columns are there.
#[must_use]
pub fn latest_schema(columns: &Columns) -> SchemaRef {
    let fields = projection(columns).into_iter().map(|at| columns.schema().field(at).clone());
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

fn rows(columns: &Columns, found: &[(&str, &Entry)]) -> Result<RecordBatch> {
    let mut devices = StringBuilder::new();
    let mut times = TimestampMicrosecondBuilder::new().with_timezone("UTC");
    let mut rest = StringBuilder::new();
    for (device, entry) in found {
        devices.append_value(device);
        times.append_value(entry.newest.time.0);
        rest.append_option(stored_text(&entry.rest));
    }
    let mut arrays: Vec<ArrayRef> = vec![Arc::new(devices.finish()), Arc::new(times.finish())];
    for (at, own) in columns.own().iter().enumerate() {
        let cells = found.iter().map(|(_, entry)| entry.cells.get(at).unwrap_or(&None));
        arrays.push(column(own.kind, cells));
    }
    arrays.push(Arc::new(rest.finish()));
    columns.batch(latest_schema(columns), arrays, found.len())
}

fn stored_text(newest: &Newest) -> Option<&str> {
    match newest {
        Some((_, Stored::Text(text))) => Some(text),
        _ => None,
    }
}

fn column<'a>(kind: Kind, cells: impl Iterator<Item = &'a Newest>) -> ArrayRef {
    let values = cells.map(|newest| newest.as_ref().map(|(_, value)| value));
    match kind {
        Kind::Bool => {
            let mut builder = BooleanBuilder::new();
            values.for_each(|value| {
                builder.append_option(if let Some(Stored::Bool(v)) = value { Some(*v) } else { None })
            });
            Arc::new(builder.finish())
        }
        Kind::Int => {
            let mut builder = Int64Builder::new();
            values.for_each(|value| {
                builder.append_option(if let Some(Stored::Int(v)) = value { Some(*v) } else { None })
            });
            Arc::new(builder.finish())
        }
        Kind::Float => {
            let mut builder = Float64Builder::new();
            values.for_each(|value| {
                builder.append_option(match value {
                    Some(Stored::Float(value)) => Some(*value),
                    Some(Stored::Int(value)) => Some(*value as f64),
                    _ => None,
                });
            });
            Arc::new(builder.finish())
        }
        Kind::Text => {
            let mut builder = StringBuilder::new();
            values.for_each(|value| {
                builder.append_option(if let Some(Stored::Text(v)) = value { Some(v) } else { None })
            });
            Arc::new(builder.finish())
        }
    }
}

/// The index of a table, as far as it is there.
#[derive(Debug, Default)]
pub(crate) enum State {
    /// Nobody has asked.
    #[default]
    Unasked,
    /// Rows that come are in it, those that were there before are on their way. The number of the build.
    Building(u64, Index),
    Ready(Index),
    /// It did not fit: scans answer.
    TooLarge,
}

impl State {
    pub(crate) const fn index_mut(&mut self) -> Option<&mut Index> {
        match self {
            Self::Building(_, index) | Self::Ready(index) => Some(index),
            Self::Unasked | Self::TooLarge => None,
        }
    }

    pub(crate) const fn index(&self) -> Option<&Index> {
        match self {
            Self::Building(_, index) | Self::Ready(index) => Some(index),
            Self::Unasked | Self::TooLarge => None,
        }
    }

    /// Takes in a row that was put into a buffer.
    pub(crate) fn add(
        &mut self,
        columns: &Columns,
        head: &RowHead<'_>,
        cells: &[(usize, Cell<'_>)],
        rest: Option<&str>,
    ) {
        if let Some(index) = self.index_mut() {
            index.add(columns, head, cells, rest);
            self.bound();
        }
    }

    /// Gives up what has become too large, or of no use.
    pub(crate) fn bound(&mut self) {
        let Some(index) = self.index() else { return };
        if index.is_too_large() {
            metrics::counter!("floodplain_history_latest_refused_total").increment(1);
            tracing::warn!("the index of latest values of a table is too large: scans answer");
            *self = Self::TooLarge;
        } else if index.is_spent() {
            *self = Self::Unasked;
        }
    }

    /// A file of the table was removed.
    pub(crate) fn removed(&mut self, facts: &FileFacts) {
        match self {
            // Its rows may still be on their way.
            Self::Building(..) => *self = Self::Unasked,
            Self::Ready(index) => {
                index.removed(facts);
                self.bound();
            }
            Self::Unasked | Self::TooLarge => {}
        }
    }

    /// The table has other columns now. More columns change nothing, other types or keys do.
    pub(crate) fn columns_changed(&mut self, before: &Columns, after: &Columns) {
        let same =
            before.own().iter().zip(after.own()).all(|(one, other)| {
                one.field_id == other.field_id && one.kind == other.kind && one.is_key == other.is_key
            });
        if !same {
            *self = Self::Unasked;
        }
    }
}
