//! A table at one moment: files and runs that do not change, whatever is flushed or compacted meanwhile.

mod handle;
mod plan;
mod stream;

pub use handle::FileHandle;
pub use stream::PartRows;

use crate::{Result, columns::Columns, file::FileWriter, filter::Filter, merge::MergeStats, run::Run};
use arrow::array::RecordBatch;
use std::sync::Arc;

/// What a query sees of a table. Cheap to clone.
#[derive(Debug, Clone)]
pub struct TableSnapshot {
    columns: Arc<Columns>,
    sources: Arc<[Source]>,
}

impl TableSnapshot {
    /// The rows of `files` and `runs`, as `columns` has them.
    ///
    /// Rows may be in several of them. Where rows of one `_seq` differ, because their record was decoded
    /// again, runs win over files, and later ones over earlier ones.
    ///
    /// # Errors
    /// [`crate::Error::Schema`] if a run's columns cannot become those of `columns`.
    pub fn new(
        columns: Arc<Columns>,
        files: impl IntoIterator<Item = Arc<FileHandle>>,
        runs: impl IntoIterator<Item = Run>,
    ) -> Result<Self> {
        let mut sources: Vec<Source> = files.into_iter().map(Source::File).collect();
        for run in runs {
            sources.push(Source::Run(run.upcast(&columns)?));
        }
        Ok(Self { columns, sources: sources.into() })
    }

    /// The columns of the table.
    #[must_use]
    pub const fn columns(&self) -> &Arc<Columns> {
        &self.columns
    }

    /// The parts of the table that have rows which match, by time: each row is in one part, and parts can be
    /// read in any order, by several threads, or not at all.
    ///
    /// # Errors
    /// [`crate::Error::Schema`] for runs that are not what they should be.
    pub fn parts(&self, filter: &Filter) -> Result<Vec<ScanPart>> {
        let extents = self.sources.iter().map(Source::extent).collect::<Result<Vec<_>>>()?;
        let part = |unit: plan::Unit| ScanPart {
            columns: self.columns.clone(),
            sources: unit.sources.iter().map(|&at| self.sources[at].clone()).collect(),
            filter: Filter { time: filter.time.intersection(unit.times), devices: filter.devices.clone() },
            merges: unit.merges,
        };
        Ok(plan::plan(&extents, filter).into_iter().map(part).collect())
    }

    /// All rows that match `filter`, the columns `projection` of them, part by part. Within a part, rows are
    /// sorted by key if they come from several files, or else as in their file, which is the same.
    ///
    /// # Errors
    /// Like [`Self::parts`]; reading has errors of its own.
    pub fn scan(&self, projection: &[usize], filter: &Filter) -> Result<Scan> {
        let parts = self.parts(filter)?.into_iter();
        Ok(Scan { parts, projection: projection.to_vec(), current: None, is_over: false })
    }
}

/// Writes all rows of `files` and `runs` with all their versions, as the writer's columns have them: a
/// flush, or a compaction. Blocks; takes memory for a few batches of each source.
///
/// The sum of overwritten values in what is returned belongs into [`FileWriter::finish`].
///
/// # Errors
/// Those of reading and writing; the new file is then of no use, and what is read is as it was.
pub fn rewrite(files: &[Arc<FileHandle>], runs: &[Run], writer: &mut FileWriter) -> Result<MergeStats> {
    let columns = writer.columns().clone();
    let snapshot = TableSnapshot::new(columns.clone(), files.iter().cloned(), runs.iter().cloned())?;
    stream::rewrite(&columns, &snapshot.sources, writer)
}

/// Rows that are read together because they may be versions of each other.
#[derive(Debug, Clone)]
pub struct ScanPart {
    columns: Arc<Columns>,
    sources: Vec<Source>,
    filter: Filter,
    merges: bool,
}

impl ScanPart {
    /// Whether versions have to be merged; else rows stream as they are.
    #[must_use]
    pub const fn merges(&self) -> bool {
        self.merges
    }

    /// No more rows than this come out.
    #[must_use]
    pub fn rows_max(&self) -> u64 {
        self.sources.iter().map(Source::rows).sum()
    }

    /// The rows that match, the columns `projection` of them, in batches of at most
    /// [`crate::merge::BATCH_ROWS`]. Blocks while it is iterated over; takes memory for a few
    /// batches of each file.
    ///
    /// # Errors
    /// [`crate::Error`] of a file that cannot be opened.
    pub fn rows(&self, projection: &[usize]) -> Result<PartRows> {
        stream::open(&self.columns, &self.sources, projection, &self.filter, self.merges)
    }
}

/// The rows of a snapshot. After an error there are no more.
#[derive(Debug)]
pub struct Scan {
    parts: std::vec::IntoIter<ScanPart>,
    projection: Vec<usize>,
    current: Option<PartRows>,
    is_over: bool,
}

impl Iterator for Scan {
    type Item = Result<RecordBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.is_over {
            if let Some(current) = &mut self.current {
                match current.next() {
                    Some(Ok(rows)) => return Some(Ok(rows)),
                    Some(Err(error)) => {
                        self.is_over = true;
                        return Some(Err(error));
                    }
                    None => self.current = None,
                }
            }
            match self.parts.next().map(|part| part.rows(&self.projection)) {
                Some(Ok(rows)) => self.current = Some(rows),
                Some(Err(error)) => {
                    self.is_over = true;
                    return Some(Err(error));
                }
                None => self.is_over = true,
            }
        }
        None
    }
}

/// Sorted rows, wherever they are.
#[derive(Debug, Clone)]
enum Source {
    File(Arc<FileHandle>),
    Run(Run),
}

impl Source {
    fn extent(&self) -> Result<plan::Extent<'_>> {
        Ok(match self {
            Self::File(file) => {
                let facts = &file.entry().facts;
                plan::Extent {
                    times: facts.times(),
                    min_device: &facts.min_device,
                    max_device: &facts.max_device,
                    is_merged: facts.is_merged,
                }
            }
            Self::Run(run) => {
                let (min_device, max_device) = run.devices()?;
                plan::Extent { times: run.times(), min_device, max_device, is_merged: run.is_merged() }
            }
        })
    }

    fn rows(&self) -> u64 {
        match self {
            Self::File(file) => file.entry().facts.rows,
            Self::Run(run) => run.rows(),
        }
    }
}
