//! Writing a file.

use super::{
    FileEntry, FileFacts, OffsetRange,
    blocks::{BLOCK_BYTES, Output},
    v1,
};
use crate::{
    Error, Result,
    columns::{Columns, Heads, Kind, text},
};
use arrow::array::RecordBatch;
use floodplain_log::Disk;
use parquet::{
    arrow::{ArrowWriter, arrow_writer::ArrowWriterOptions},
    basic::{Compression, Encoding, ZstdLevel},
    errors::ParquetError,
    file::{
        metadata::{KeyValue, SortingColumn},
        properties::{EnabledStatistics, WriterProperties, WriterPropertiesBuilder},
    },
    schema::types::ColumnPath,
};
use std::{
    cmp::Ordering,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

/// Rows of a row group: what one reader decodes at a time, and what statistics can skip.
pub const ROW_GROUP_ROWS: usize = 131_072;
/// Rows of a page, at most: the least that a reader of one device decodes.
const PAGE_ROWS: usize = 16_384;
/// Level 3: one level up costs three times the CPU and saves a hundredth (reference, section 8).
const ZSTD_LEVEL: i32 = 3;
/// With more different numbers than about 4,096 in a row group a dictionary does not pay; the writer
/// starts each row group with one and goes over to the other encoding when it is full.
const NUMBERS_DICTIONARY_BYTES: usize = 4096 * 8;
/// Texts pay longer: each is kept once instead of each time.
const TEXT_DICTIONARY_BYTES: usize = 1 << 18;
/// Devices are sorted and come in runs: nothing is smaller than their dictionary.
const DEVICE_DICTIONARY_BYTES: usize = 1 << 22;
/// Named by Parquet readers that work around mistakes of certain writers. Not our version: that would
/// make other bytes of equal rows.
const CREATED_BY: &str = "floodplain version 1";

/// What the writer cannot see in the rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileSpec {
    /// Name of the file, never used before; no path.
    pub name: String,
    /// 0: flushed from a buffer; 1: made of other files.
    pub level: u8,
    pub decoder_version: u32,
    /// Records whose rows are in the file; in any order.
    pub ranges: Vec<OffsetRange>,
}

/// Writes one file of sorted rows. Blocks.
///
/// Dropped without [`Self::finish`], it removes what it wrote.
#[derive(Debug)]
pub struct FileWriter {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    path: PathBuf,
    columns: Arc<Columns>,
    spec: FileSpec,
    writer: Option<ArrowWriter<Output>>,
    seen: Seen,
}

/// What was seen of the rows.
#[derive(Debug, Default)]
struct Seen {
    rows: u64,
    times: Option<(i64, i64)>,
    min_device: Option<String>,
    last: Option<RecordBatch>,
    has_versions: bool,
}

impl FileWriter {
    /// Creates the file `dir/name`. The folder must be there.
    ///
    /// # Errors
    /// [`Error::Io`]: if there is such a file already, too. It is then left alone.
    pub fn create(disk: Arc<dyn Disk>, dir: &Path, columns: Arc<Columns>, spec: FileSpec) -> Result<Self> {
        let path = dir.join(&spec.name);
        let file = disk.create(&path).map_err(|source| Error::Io { action: "create", path: path.clone(), source })?;
        let mut writer = Self { disk, dir: dir.to_owned(), path, columns, spec, writer: None, seen: Seen::default() };
        let options = ArrowWriterOptions::new()
            .with_properties(properties(&writer.columns))
            // The types of our columns follow from those of Parquet: no second schema, no map without order.
            .with_skip_arrow_metadata(true);
        let schema = writer.columns.schema().clone();
        let made = ArrowWriter::try_new_with_options(Output::new(file), schema, options);
        writer.writer = Some(made.map_err(|error| writer.columns.failed("write", error))?);
        Ok(writer)
    }

    /// Adds rows: sorted by key and `_seq`, and after all rows that were added before.
    ///
    /// # Errors
    /// [`Error::Unsorted`], [`Error::Schema`], [`Error::Io`]; the file is of no use afterwards.
    pub fn write(&mut self, rows: &RecordBatch) -> Result<()> {
        if rows.num_rows() == 0 {
            return Ok(());
        }
        if rows.schema_ref() != self.columns.schema() {
            return Err(self.columns.mismatch("batch to be written has other columns".to_owned()));
        }
        self.seen.see(&self.columns, rows).map_err(|row| match row {
            SeeError::Unsorted(row) => Error::Unsorted { path: self.path.clone(), row },
            SeeError::Other(error) => error,
        })?;
        let Some(writer) = &mut self.writer else { return Ok(()) };
        writer.write(rows).map_err(|error| failed(&self.path, &self.columns, error))
    }

    /// The columns of its rows.
    #[must_use]
    pub const fn columns(&self) -> &Arc<Columns> {
        &self.columns
    }

    /// Rows so far.
    #[must_use]
    pub const fn rows(&self) -> u64 {
        self.seen.rows
    }

    /// Bytes so far, with about what is not encoded yet.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.writer.as_ref().map_or(0, |writer| (writer.bytes_written() + writer.in_progress_size()) as u64)
    }

    /// Completes the file and makes it durable: first its bytes, then its name.
    ///
    /// When this returns, the file survives a power cut. `overwritten_values` is the sum of
    /// [`crate::merge::MergeStats::overwritten_values`] of its rows.
    ///
    /// # Errors
    /// [`Error::Schema`] without any row; [`Error::Io`]. The file may then be there or not, and is in no manifest.
    pub fn finish(mut self, overwritten_values: u64) -> Result<FileEntry> {
        let facts = self.facts(overwritten_values)?;
        let Some(mut writer) = self.writer.take() else {
            return Err(self.columns.mismatch("file was not started".to_owned()));
        };
        match self.complete(&mut writer, facts) {
            Ok(entry) => Ok(entry),
            Err(error) => {
                // For drop to remove what there is.
                self.writer = Some(writer);
                Err(error)
            }
        }
    }

    fn facts(&self, overwritten_values: u64) -> Result<FileFacts> {
        let Seen { rows, times, min_device, last, has_versions } = &self.seen;
        let (Some((min_time_us, max_time_us)), Some(min_device), Some(last)) = (times, min_device, last) else {
            return Err(self.columns.mismatch("a file without rows".to_owned()));
        };
        let mut ranges = self.spec.ranges.clone();
        ranges.sort();
        Ok(FileFacts {
            table: self.columns.table().to_owned(),
            level: self.spec.level,
            schema_version: self.columns.version(),
            decoder_version: self.spec.decoder_version,
            rows: *rows,
            min_time_us: *min_time_us,
            max_time_us: *max_time_us,
            min_device: min_device.clone(),
            max_device: Heads::whole(&self.columns, last)?.device.value(0).to_owned(),
            ranges,
            is_merged: !has_versions,
            overwritten_values,
        })
    }

    fn complete(&self, writer: &mut ArrowWriter<Output>, facts: FileFacts) -> Result<FileEntry> {
        let failed = |error| failed(&self.path, &self.columns, error);
        let io = |action, path: &Path, source| Error::Io { action, path: path.to_owned(), source };
        writer.flush().map_err(failed)?;
        writer.sync().map_err(|source| io("write", &self.path, source))?;
        let blocks = writer.inner_mut().end_blocks().map_err(|source| io("write", &self.path, source))?;
        let blocks = blocks.iter().map(|sum| format!("{sum:016x}")).collect::<String>();
        let tail_at = writer.inner().len();
        let mut add = |key: &str, value: String| writer.append_key_value_metadata(KeyValue::new(key.to_owned(), value));
        add(super::KEY_FORMAT, super::FORMAT.to_string());
        add(super::KEY_FACTS, to_json(&self.columns, &v1::Facts::from(&facts))?);
        add(super::KEY_BLOCKS, format!("{BLOCK_BYTES} {tail_at} {blocks}"));
        writer.finish().map_err(failed)?;
        let sums = writer.inner_mut().finish().map_err(|source| io("sync", &self.path, source))?;
        self.disk.sync_dir(&self.dir).map_err(|source| io("sync", &self.dir, source))?;
        Ok(FileEntry {
            name: self.spec.name.clone(),
            facts,
            bytes: sums.bytes,
            tail_at: sums.tail_at,
            tail_crc: sums.tail_crc,
            checksum: sums.checksum,
        })
    }
}

impl Drop for FileWriter {
    fn drop(&mut self) {
        if self.writer.take().is_some()
            && let Err(error) = self.disk.remove(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "unfinished history file could not be removed");
        }
    }
}

pub(super) fn to_json(columns: &Columns, value: &impl serde::Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(|error| columns.failed("describe", error))
}

fn failed(path: &Path, columns: &Columns, error: ParquetError) -> Error {
    match error {
        ParquetError::External(source) => match source.downcast::<io::Error>() {
            Ok(source) => Error::Io { action: "write", path: path.to_owned(), source: *source },
            Err(source) => columns.failed("write", source),
        },
        error => columns.failed("write", error),
    }
}

enum SeeError {
    Unsorted(u64),
    Other(Error),
}

impl Seen {
    /// Takes note of rows; fails at the first one that is not after the one before it.
    fn see(&mut self, columns: &Columns, rows: &RecordBatch) -> Result<(), SeeError> {
        let heads = Heads::whole(columns, rows).map_err(SeeError::Other)?;
        let mut step = |ordering: Ordering, heads: &Heads<'_>, other: &Heads<'_>, i: usize, j: usize| match ordering {
            Ordering::Less => true,
            Ordering::Greater => false,
            // Of one key only versions may follow each other, or rows without a time of their own.
            Ordering::Equal => {
                self.has_versions |= !heads.is_append(i) && !other.is_append(j);
                heads.seq(i) < other.seq(j)
            }
        };
        if let Some(last) = &self.last {
            let last = Heads::whole(columns, last).map_err(SeeError::Other)?;
            if !step(last.compare_keys(0, &heads, 0), &last, &heads, 0, 0) {
                return Err(SeeError::Unsorted(self.rows));
            }
        }
        for i in 1..rows.num_rows() {
            let ordering = match heads.time[i - 1].cmp(&heads.time[i]) {
                // Most rows have the device of the row before, and a later time.
                Ordering::Less if heads.key_count() == 0 && heads.device.value(i - 1) == heads.device.value(i) => {
                    Ordering::Less
                }
                _ => heads.compare_keys(i - 1, &heads, i),
            };
            if !step(ordering, &heads, &heads, i - 1, i) {
                return Err(SeeError::Unsorted(self.rows + i as u64));
            }
        }
        let (mut min, mut max) = self.times.unwrap_or((i64::MAX, i64::MIN));
        heads.time.iter().for_each(|&time| (min, max) = (min.min(time), max.max(time)));
        self.times = Some((min, max));
        if self.min_device.is_none() {
            self.min_device = text(heads.device, 0).map(str::to_owned);
        }
        self.rows += rows.num_rows() as u64;
        self.last = Some(rows.slice(rows.num_rows() - 1, 1));
        Ok(())
    }
}

fn properties(columns: &Columns) -> WriterProperties {
    let sorting = |leaf: usize| SortingColumn { column_idx: leaf as i32, descending: false, nulls_first: true };
    // `_seq` takes three leaves: columns of the table itself are two further right among the leaves.
    let mut order = vec![sorting(0)];
    order.extend(columns.keys().iter().map(|&key| sorting(key + 2)));
    order.extend([sorting(1), sorting(2)]);
    let mut properties = WriterProperties::builder()
        .set_created_by(CREATED_BY.to_owned())
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(ZSTD_LEVEL).unwrap_or_default()))
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
        .set_data_page_row_count_limit(PAGE_ROWS)
        .set_statistics_enabled(EnabledStatistics::Page)
        .set_sorting_columns(Some(order))
        .set_dictionary_page_size_limit(NUMBERS_DICTIONARY_BYTES);
    let delta = |properties: WriterPropertiesBuilder, path: &[&str]| {
        let path = column_path(path);
        properties
            .set_column_dictionary_enabled(path.clone(), false)
            .set_column_encoding(path, Encoding::DELTA_BINARY_PACKED)
    };
    let fallback = |properties: WriterPropertiesBuilder, path: &[&str], encoding: Encoding, dictionary_bytes: usize| {
        let path = column_path(path);
        properties
            .set_column_dictionary_page_size_limit(path.clone(), dictionary_bytes)
            .set_column_encoding(path, encoding)
    };
    properties = fallback(properties, &["device"], Encoding::DELTA_BYTE_ARRAY, DEVICE_DICTIONARY_BYTES);
    for path in [&["time"][..], &["_seq", "offset"], &["_received"]] {
        properties = delta(properties, path);
    }
    for path in [&["_time_ns"][..], &["_seq", "generation"], &["_seq", "row"]] {
        properties = fallback(properties, path, Encoding::DELTA_BINARY_PACKED, NUMBERS_DICTIONARY_BYTES);
    }
    for column in columns.own() {
        let path = [column.name.as_str()];
        properties = match column.kind {
            Kind::Bool => properties,
            Kind::Int => fallback(properties, &path, Encoding::DELTA_BINARY_PACKED, NUMBERS_DICTIONARY_BYTES),
            Kind::Float => fallback(properties, &path, Encoding::BYTE_STREAM_SPLIT, NUMBERS_DICTIONARY_BYTES),
            Kind::Text => fallback(properties, &path, Encoding::DELTA_LENGTH_BYTE_ARRAY, TEXT_DICTIONARY_BYTES),
        };
    }
    properties = fallback(properties, &["_rest"], Encoding::DELTA_LENGTH_BYTE_ARRAY, TEXT_DICTIONARY_BYTES);
    properties.build()
}

/// Columns may have dots in their names: a path is a list, never a text.
fn column_path(parts: &[&str]) -> ColumnPath {
    ColumnPath::new(parts.iter().map(|&part| part.to_owned()).collect())
}
