//! Reading a file.

use super::{FileEntry, FileFacts, blocks::BLOCK_BYTES, blocks::Input, prune, v1};
use crate::{
    Error, Result,
    columns::{Columns, DEVICE, SEQ, TIME, timestamp_type},
    filter::Filter,
    merge::BATCH_ROWS,
};
use arrow::{
    array::{AsArray, RecordBatch},
    datatypes::{DataType, TimestampMicrosecondType},
};
use floodplain_log::Disk;
use parquet::{
    arrow::{
        ProjectionMask,
        arrow_reader::{
            ArrowPredicateFn, ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader,
            ParquetRecordBatchReaderBuilder, RowFilter,
        },
    },
    file::{metadata::PageIndexPolicy, reader::ChunkReader as _},
};
use std::{path::Path, sync::Arc};

/// An open file: its footer is checked, each block is checked when it is read. Cheap to clone.
#[derive(Debug, Clone)]
pub struct FileReader {
    input: Input,
    known: Arc<Known>,
}

/// What the footer of a file has told: enough to open it again without reading its tail.
#[derive(Debug)]
pub(crate) struct Known {
    metadata: ArrowReaderMetadata,
    facts: FileFacts,
    tail_at: u64,
    blocks: Arc<[u64]>,
}

impl FileReader {
    /// Opens the file of `entry` in `dir`. Blocks.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Damaged`] if it is not the file that the entry speaks of;
    /// [`Error::Newer`] if a newer version of this program wrote it.
    pub fn open(disk: &dyn Disk, dir: &Path, entry: &FileEntry) -> Result<Self> {
        let path = dir.join(&entry.name);
        let input = Input::open(disk, &path, entry.bytes, entry.tail_at, Some(entry.tail_crc))?;
        let reader = Self::of(input)?;
        if reader.known.facts != entry.facts {
            return Err(reader.input.damaged("its footer speaks of another file than its entry"));
        }
        Ok(reader)
    }

    fn of(input: Input) -> Result<Self> {
        let options =
            ArrowReaderOptions::new().with_skip_arrow_metadata(true).with_page_index_policy(PageIndexPolicy::Required);
        let metadata = ArrowReaderMetadata::load(&input, options).map_err(|error| input.explain(&error))?;
        let footer = Footer::of(&input, &metadata)?;
        let columns = metadata.schema().fields();
        // What pruning relies on.
        let types = [(DEVICE, DataType::Utf8), (TIME, timestamp_type())];
        if types.iter().any(|(at, data_type)| columns.get(*at).map(|column| column.data_type()) != Some(data_type))
            || columns.get(SEQ).is_none_or(|column| column.name() != "_seq")
        {
            return Err(input.damaged("it lacks columns that every file has"));
        }
        let rows: i64 = metadata.metadata().row_groups().iter().map(|group| group.num_rows()).sum();
        if u64::try_from(rows) != Ok(footer.facts.rows) {
            return Err(input.damaged(format!("it has {rows} rows, not {}", footer.facts.rows)));
        }
        let Footer { facts, tail_at, blocks } = footer;
        let (input, blocks) = (input.with_blocks(tail_at, blocks.clone())?, blocks);
        Ok(Self { input, known: Arc::new(Known { metadata, facts, tail_at, blocks }) })
    }

    /// Opens the file of `entry` once more.
    pub(crate) fn reopen(disk: &dyn Disk, dir: &Path, entry: &FileEntry, known: &Arc<Known>) -> Result<Self> {
        let path = dir.join(&entry.name);
        let input = Input::reopen(disk, &path, entry.bytes, known.tail_at, known.blocks.clone())?;
        Ok(Self { input, known: known.clone() })
    }

    pub(crate) const fn known(&self) -> &Arc<Known> {
        &self.known
    }

    /// What the file holds.
    #[must_use]
    pub fn facts(&self) -> &FileFacts {
        &self.known.facts
    }

    /// Whether the rows are in the order of the keys of `columns`: not if a column of the file became a key later.
    pub(crate) fn is_sorted_for(&self, columns: &Columns) -> bool {
        let metadata = self.known.metadata.metadata();
        let (schema, leaves) =
            (metadata.file_metadata().schema_descr(), metadata.file_metadata().schema_descr().columns());
        let root_id = |leaf: usize| {
            let info = schema.get_column_root(leaf).get_basic_info();
            info.has_id().then(|| info.id())
        };
        let sorting = metadata.row_groups().first().and_then(|group| group.sorting_columns());
        let sorted_by: Vec<i32> = sorting
            .into_iter()
            .flatten()
            .filter_map(|column| root_id(usize::try_from(column.column_idx).ok()?))
            .collect();
        let keys = columns.keys().iter().map(|&key| columns.field_id(key));
        let mut missing = keys.filter(|id| !sorted_by.contains(id));
        !missing.any(|id| (0..leaves.len()).any(|leaf| root_id(leaf) == Some(id)))
    }

    /// Reads the whole file and compares it with the checksum of its entry. Blocks.
    ///
    /// # Errors
    /// [`Error::Damaged`], [`Error::Io`].
    pub fn verify(&self, entry: &FileEntry) -> Result<()> {
        let found = self.input.checksum()?;
        if found == entry.checksum { Ok(()) } else { Err(self.input.damaged("checksum of the file does not match")) }
    }

    /// The rows that match `filter`, in the order of the file, in batches of at most [`BATCH_ROWS`]:
    /// the columns `projection` as `columns` has them today. Blocks while it is iterated over.
    ///
    /// # Errors
    /// [`Error::Damaged`]; [`Error::Schema`] if the file's columns cannot become those of `columns`.
    pub fn rows(&self, columns: Arc<Columns>, projection: &[usize], filter: &Filter) -> Result<FileRows> {
        let Known { metadata, facts, .. } = &*self.known;
        let schema = metadata.parquet_schema();
        let wanted: Vec<i32> = projection.iter().map(|&column| columns.field_id(column)).collect();
        let roots = schema
            .root_schema()
            .get_fields()
            .iter()
            .enumerate()
            .filter(|(_, root)| root.get_basic_info().has_id() && wanted.contains(&root.get_basic_info().id()));
        let mask = ProjectionMask::roots(schema, roots.map(|(i, _)| i));
        let pruned = prune::prune(metadata.metadata(), schema, filter).map_err(|reason| self.input.damaged(reason))?;
        let mut builder = ParquetRecordBatchReaderBuilder::new_with_metadata(self.input.clone(), metadata.clone())
            .with_batch_size(BATCH_ROWS)
            .with_projection(mask)
            .with_row_groups(pruned.row_groups);
        if let Some(selection) = pruned.selection {
            builder = builder.with_row_selection(selection);
        }
        if !filter.covers(facts.times()) {
            let filter = filter.clone();
            let matches = move |rows: RecordBatch| {
                let time = rows.column(1).as_primitive::<TimestampMicrosecondType>().values();
                Ok(filter.matches(rows.column(0).as_string(), time))
            };
            let predicate = ArrowPredicateFn::new(ProjectionMask::roots(schema, [DEVICE, TIME]), matches);
            builder = builder.with_row_filter(RowFilter::new(vec![Box::new(predicate)]));
        }
        let reader = builder.build().map_err(|error| self.input.explain(&error))?;
        Ok(FileRows { input: self.input.clone(), reader: Some(reader), columns, projection: projection.to_vec() })
    }
}

/// Rows of one file. After an error there are no more.
#[derive(Debug)]
pub struct FileRows {
    input: Input,
    reader: Option<ParquetRecordBatchReader>,
    columns: Arc<Columns>,
    projection: Vec<usize>,
}

impl Iterator for FileRows {
    type Item = Result<RecordBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        let rows = match self.reader.as_mut()?.next()? {
            Ok(batch) => self.columns.upcast(&batch, &self.projection),
            Err(error) => Err(self.input.explain(&error)),
        };
        if rows.is_err() {
            self.reader = None;
        }
        Some(rows)
    }
}

/// Makes the entry of a file again from the file alone, for a manifest that was lost. Blocks, and
/// takes memory for the whole file.
///
/// # Errors
/// [`Error::Damaged`] if a block or the footer is not what was written; [`Error::Newer`], [`Error::Io`].
pub fn read_entry(disk: &dyn Disk, dir: &Path, name: &str) -> Result<FileEntry> {
    let path = dir.join(name);
    let len = disk.open(&path).and_then(|file| file.len()).map_err(|source| Error::Io {
        action: "open",
        path: path.clone(),
        source,
    })?;
    let reader = FileReader::of(Input::open(disk, &path, len, 0, None)?)?;
    let input = &reader.input;
    // Every block is checked by being read.
    let tail_at = input.tail_at();
    let mut at = 0;
    while at < tail_at {
        let size = (tail_at - at).min(BLOCK_BYTES as u64);
        input.get_bytes(at, size as usize).map_err(|error| input.explain(&error))?;
        at += size;
    }
    Ok(FileEntry {
        name: name.to_owned(),
        facts: reader.known.facts.clone(),
        bytes: len,
        tail_at,
        tail_crc: crc32c::crc32c(input.tail()),
        checksum: input.checksum()?,
    })
}

/// What our own part of a footer says.
struct Footer {
    facts: FileFacts,
    tail_at: u64,
    blocks: Arc<[u64]>,
}

impl Footer {
    fn of(input: &Input, metadata: &ArrowReaderMetadata) -> Result<Self> {
        let all = metadata.metadata().file_metadata().key_value_metadata();
        let find = |key: &str| -> Result<&str> {
            let found = all.and_then(|all| all.iter().find(|pair| pair.key == key)?.value.as_deref());
            found.ok_or_else(|| input.damaged(format!("its footer lacks {key}")))
        };
        let format = find(super::KEY_FORMAT)?;
        match format.parse::<u32>() {
            Ok(super::FORMAT) => {}
            Ok(newer) if newer > super::FORMAT => return Err(input.newer(format!("format {newer}"))),
            _ => return Err(input.damaged(format!("format {format:?}"))),
        }
        let facts: v1::Facts = serde_json::from_str(find(super::KEY_FACTS)?).map_err(|error| input.damaged(error))?;
        let (tail_at, blocks) = parse_blocks(find(super::KEY_BLOCKS)?)
            .ok_or_else(|| input.damaged(format!("{} does not parse", super::KEY_BLOCKS)))?;
        Ok(Self { facts: facts.into(), tail_at, blocks: blocks.into() })
    }
}

fn parse_blocks(text: &str) -> Option<(u64, Vec<u64>)> {
    let mut parts = text.split(' ');
    let (block, tail_at, sums) = (parts.next()?, parts.next()?, parts.next()?);
    if block.parse() != Ok(BLOCK_BYTES) || parts.next().is_some() || !sums.is_ascii() {
        return None;
    }
    let sum = |digits: &[u8]| u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok();
    let sums = sums.as_bytes().chunks(16).map(|digits| (digits.len() == 16).then(|| sum(digits)).flatten());
    Some((tail_at.parse().ok()?, sums.collect::<Option<_>>()?))
}
