//! Rows of one table and one window until they are in a file.
//!
//! Rows are appended to column builders as they arrive. What the builders hold is sealed into sorted
//! [`Run`]s, which queries share without copying; runs of about the same size are joined, so there are
//! few of them however often a query asks.

mod builders;

use crate::{
    Result, columns::Columns, file::OffsetRange, filter::TimeRange, merge::BATCH_ROWS, run::Run, window::Window,
};
use builders::Builders;
use floodplain_types::Position;
use std::sync::Arc;

/// Runs of so many rows are not joined any more: sorting them again would cost more than it saves.
const JOINED_ROWS: u64 = 131_072;
/// And runs of so many bytes, so that a column stays far from the 2 GiB that Arrow allows.
const JOINED_BYTES: usize = 64 << 20;
/// So many rows are joined for nothing but to count their overwritten values: some milliseconds.
const COUNTED_ROWS: u64 = 2 * BATCH_ROWS as u64;
/// Builders with so many bytes are sealed, however few rows they have.
const SEALED_BYTES: usize = 8 << 20;
/// Bits of `_seq.generation` that are the generation.
const STREAM_SHIFT: u32 = 24;

/// What every row has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowHead<'a> {
    pub device: &'a str,
    /// Event time in µs since 1970; `received_us` if the row has none.
    pub time_us: i64,
    /// Nanoseconds within the µs, 0 to 999.
    pub time_ns: i16,
    /// Number of the data stream that the record is in, 0 for `telemetry`: below [`floodplain_log::DataStreams::MAX`].
    pub stream: u32,
    /// The record that the row is from, and the index of the row within it.
    pub position: Position,
    pub row: u32,
    /// Time of ingest in µs since 1970; `time_us` if the row is never merged with others, and only then.
    pub received_us: i64,
}

impl RowHead<'_> {
    /// The first part of `_seq`: the generation, and from bit [`STREAM_SHIFT`] on the number of the stream, so that rows
    /// of two streams are never taken for one. `None` if there is no room for it.
    pub(crate) fn generation(&self) -> Option<i32> {
        let is_small = self.position.generation < 1 << STREAM_SHIFT && self.stream < 1 << (31 - STREAM_SHIFT);
        is_small.then_some((self.stream << STREAM_SHIFT | self.position.generation) as i32)
    }
}

/// A value of a column of the table's own.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Cell<'a> {
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(&'a str),
}

/// What was found in each of some runs.
pub(crate) fn overwritten_values(runs: &[Run]) -> u64 {
    runs.iter().map(Run::overwritten_values).sum()
}

/// The rows of one window of a table that are in no file yet.
#[derive(Debug)]
pub struct WindowBuffer {
    columns: Arc<Columns>,
    window: Window,
    open: Builders,
    runs: Vec<Run>,
    ranges: Vec<(Arc<str>, Position, Position)>,
    times: Option<(i64, i64)>,
    appended: u64,
}

impl WindowBuffer {
    /// An empty buffer.
    #[must_use]
    pub fn new(columns: Arc<Columns>, window: Window) -> Self {
        let open = Builders::new(&columns);
        Self { columns, window, open, runs: Vec::new(), ranges: Vec::new(), times: None, appended: 0 }
    }

    /// Adds a row of a record of `partition` (its lasting name). `cells` are by index among
    /// [`Columns::own`]; what is not given is null. `rest` is a JSON object.
    ///
    /// # Errors
    /// [`crate::Error::Schema`] if a cell has the type of another column, its column does not exist or
    /// is given twice, or a number is out of its range: the row is then not added.
    pub fn append(
        &mut self,
        partition: &Arc<str>,
        head: &RowHead<'_>,
        cells: &[(usize, Cell<'_>)],
        rest: Option<&str>,
    ) -> Result<()> {
        self.open.append(&self.columns, head, cells, rest)?;
        let (min, max) = self.times.unwrap_or((head.time_us, head.time_us));
        self.times = Some((min.min(head.time_us), max.max(head.time_us)));
        self.appended += 1;
        let next = head.position.next();
        let known = self.ranges.iter_mut().find(|(name, ..)| Arc::ptr_eq(name, partition) || name == partition);
        match known {
            Some((_, from, to)) => (*from, *to) = ((*from).min(head.position), (*to).max(next)),
            None => self.ranges.push((partition.clone(), head.position, next)),
        }
        if self.open.rows() >= BATCH_ROWS || self.open.bytes() >= SEALED_BYTES {
            self.seal().map(|_| ())
        } else {
            Ok(())
        }
    }

    /// All rows as sorted runs. Costs nothing if no row was added since the last call.
    ///
    /// # Errors
    /// Those of [`Run::new`].
    pub fn seal(&mut self) -> Result<&[Run]> {
        if self.open.rows() > 0 {
            let batch = self.open.finish(&self.columns)?;
            self.runs.extend(Run::new(&self.columns, &[batch])?);
            while let [.., before, last] = &self.runs[..]
                && before.rows() < 2 * last.rows()
                && before.rows() + last.rows() <= JOINED_ROWS
                && before.bytes() + last.bytes() <= JOINED_BYTES
            {
                let joined = Run::join(&self.columns, &self.runs[self.runs.len() - 2..])?;
                self.runs.truncate(self.runs.len() - 2);
                self.runs.extend(joined);
            }
        }
        Ok(&self.runs)
    }

    /// How many values of its rows were overwritten by others of them, as far as they have been sorted together: all, as long
    /// as there are few.
    pub fn overwritten_values(&mut self) -> u64 {
        // What cannot be sorted says so to whoever needs the rows.
        let rows = self.seal().map(|runs| runs.iter().map(Run::rows).sum());
        if self.runs.len() > 1
            && rows.is_ok_and(|rows: u64| rows <= COUNTED_ROWS)
            && let Ok(Some(joined)) = Run::join(&self.columns, &self.runs)
        {
            self.runs = vec![joined];
        }
        overwritten_values(&self.runs)
    }

    /// Goes over to a later version of the table's schema; the rows that are there follow.
    ///
    /// # Errors
    /// Those of [`Columns::upcast`]; the buffer then has the columns it had.
    pub fn set_columns(&mut self, columns: Arc<Columns>) -> Result<()> {
        self.seal()?;
        self.runs = self.runs.iter().map(|run| run.upcast(&columns)).collect::<Result<_>>()?;
        self.open = Builders::new(&columns);
        self.columns = columns;
        Ok(())
    }

    /// The columns of its rows.
    #[must_use]
    pub const fn columns(&self) -> &Arc<Columns> {
        &self.columns
    }

    /// The window.
    #[must_use]
    pub const fn window(&self) -> Window {
        self.window
    }

    /// How many rows were added, each as often as it came.
    #[must_use]
    pub const fn appended(&self) -> u64 {
        self.appended
    }

    /// About what it takes in memory.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.open.bytes() + self.runs.iter().map(Run::bytes).sum::<usize>()
    }

    /// Event times of its rows; `None` without any.
    #[must_use]
    pub fn times(&self) -> Option<TimeRange> {
        self.times.map(|(min, max)| TimeRange::new(min, max))
    }

    /// Records that its rows are from, sorted by partition.
    #[must_use]
    pub fn ranges(&self) -> Vec<OffsetRange> {
        let range = |(name, from, to): &(Arc<str>, Position, Position)| OffsetRange {
            partition: name.to_string(),
            from: *from,
            to: *to,
        };
        let mut ranges: Vec<OffsetRange> = self.ranges.iter().map(range).collect();
        ranges.sort();
        ranges
    }

    /// The first record of `partition` that has rows here: the log may not be forgotten from there on.
    #[must_use]
    pub fn first_position(&self, partition: &str) -> Option<Position> {
        self.ranges.iter().find(|(name, ..)| &**name == partition).map(|(_, from, _)| *from)
    }
}
