//! Reading the sources of one part.

use super::Source;
use crate::{
    Result,
    columns::{Columns, DEVICE, Heads, RECEIVED, SEQ, TIME, TIME_NS},
    file::{FileRows, FileWriter},
    filter::Filter,
    merge::{Keep, MergeStats, run_projected},
    run::Run,
};
use arrow::array::RecordBatch;
use std::{cmp::Ordering, collections::VecDeque, sync::Arc};

/// Rows of one part. After an error there are no more.
#[derive(Debug)]
pub struct PartRows {
    columns: Arc<Columns>,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    /// Sources that have nothing to do with each other, one after another.
    Straight(VecDeque<SourceRows>),
    Merging(Box<Merging>),
}

/// Opens the sources of a part.
pub(super) fn open(
    columns: &Arc<Columns>,
    sources: &[Source],
    projection: &[usize],
    filter: &Filter,
    merges: bool,
) -> Result<PartRows> {
    let columns = columns.clone();
    if !merges {
        let sources = sources.iter().map(|source| SourceRows::open(source, &columns, projection, filter));
        let kind = Kind::Straight(sources.collect::<Result<_>>()?);
        return Ok(PartRows { columns, kind });
    }
    let mut all = vec![DEVICE, TIME, TIME_NS, SEQ, RECEIVED];
    all.extend(columns.keys());
    for column in projection {
        if !all.contains(column) {
            all.push(*column);
        }
    }
    let output = projection.iter().filter_map(|column| all.iter().position(|c| c == column)).collect();
    let merging = Merging::open(&columns, sources, all, output, filter, Keep::Newest)?;
    Ok(PartRows { columns, kind: Kind::Merging(Box::new(merging)) })
}

/// Writes all versions of the rows of `sources`.
pub(super) fn rewrite(columns: &Arc<Columns>, sources: &[Source], writer: &mut FileWriter) -> Result<MergeStats> {
    let all: Vec<usize> = (0..columns.schema().fields().len()).collect();
    let mut merging = Merging::open(columns, sources, all.clone(), all, &Filter::ALL, Keep::Versions)?;
    while let Some(batch) = merging.next(columns)? {
        writer.write(&batch)?;
    }
    Ok(merging.stats)
}

impl Iterator for PartRows {
    type Item = Result<RecordBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = match &mut self.kind {
            Kind::Straight(sources) => loop {
                match sources.front_mut()?.next() {
                    None => drop(sources.pop_front()),
                    next => break next,
                }
            },
            Kind::Merging(merging) => merging.next(&self.columns).transpose(),
        };
        if matches!(next, Some(Err(_))) {
            self.kind = Kind::Straight(VecDeque::new());
        }
        next
    }
}

/// Rows of one source that match.
#[derive(Debug)]
enum SourceRows {
    Nothing,
    File(FileRows),
    Run { run: Run, next: usize, projection: Vec<usize>, filter: Filter },
}

impl SourceRows {
    fn open(source: &Source, columns: &Arc<Columns>, projection: &[usize], filter: &Filter) -> Result<Self> {
        Ok(match source {
            Source::File(file) => {
                let file = file.open()?;
                if !file.is_sorted_for(columns) {
                    // Rare, and takes memory for the whole file, until it is made into another one.
                    let all: Vec<usize> = (0..columns.schema().fields().len()).collect();
                    let rows = file.rows(columns.clone(), &all, filter)?.collect::<Result<Vec<_>>>()?;
                    let rows: Vec<_> = rows.into_iter().filter(|rows| rows.num_rows() > 0).collect();
                    return Ok(match Run::new(columns, &rows)? {
                        Some(run) => Self::open(&Source::Run(run), columns, projection, filter)?,
                        None => Self::Nothing,
                    });
                }
                Self::File(file.rows(columns.clone(), projection, filter)?)
            }
            Source::Run(run) => {
                let (projection, filter) = (projection.to_vec(), filter.clone());
                Self::Run { run: run.clone(), next: 0, projection, filter }
            }
        })
    }
}

impl Iterator for SourceRows {
    type Item = Result<RecordBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Self::Nothing => None,
            Self::File(rows) => rows.find(|rows| !rows.as_ref().is_ok_and(|rows| rows.num_rows() == 0)),
            Self::Run { run, next, projection, filter } => loop {
                if *next == run.batches().len() {
                    return None;
                }
                *next += 1;
                if let Some(rows) = run.matching(*next - 1, projection, filter).transpose() {
                    return Some(rows);
                }
            },
        }
    }
}

/// Merges sorted sources as they come: all rows up to where every source has been read.
#[derive(Debug)]
struct Merging {
    /// The columns that are read: those that are wanted and those that say which rows are one.
    all: Vec<usize>,
    /// Where the wanted ones are among them.
    output: Vec<usize>,
    sources: Vec<Pending>,
    ready: VecDeque<RecordBatch>,
    keep: Keep,
    stats: MergeStats,
}

#[derive(Debug)]
struct Pending {
    rows: SourceRows,
    /// Rows that were read and have not come out, in order.
    batches: Vec<RecordBatch>,
    is_over: bool,
}

impl Pending {
    fn pull(&mut self) -> Result<()> {
        match self.rows.next().transpose()? {
            Some(batch) => self.batches.push(batch),
            None => self.is_over = true,
        }
        Ok(())
    }
}

impl Merging {
    fn open(
        columns: &Arc<Columns>,
        sources: &[Source],
        all: Vec<usize>,
        output: Vec<usize>,
        filter: &Filter,
        keep: Keep,
    ) -> Result<Self> {
        let open = |source| -> Result<Pending> {
            Ok(Pending { rows: SourceRows::open(source, columns, &all, filter)?, batches: Vec::new(), is_over: false })
        };
        let sources = sources.iter().map(open).collect::<Result<_>>()?;
        Ok(Self { all, output, sources, ready: VecDeque::new(), keep, stats: MergeStats::default() })
    }

    fn next(&mut self, columns: &Columns) -> Result<Option<RecordBatch>> {
        loop {
            if let Some(batch) = self.ready.pop_front() {
                return Ok(Some(batch));
            }
            for source in &mut self.sources {
                if !source.is_over && source.batches.is_empty() {
                    source.pull()?;
                }
            }
            let taken = self.take(columns)?;
            if taken.is_empty() {
                // Nothing is below what every source has shown: those that hold it up must show more.
                if self.sources.iter().all(|source| source.is_over && source.batches.is_empty()) {
                    return Ok(None);
                }
                let bound = self.bound(columns)?;
                for at in bound {
                    self.sources[at].pull()?;
                }
                continue;
            }
            let merged = run_projected(columns, &self.all, &taken, self.keep)?;
            self.stats.add(&merged.stats);
            for batch in merged.batches {
                let arrays = self.output.iter().map(|&at| batch.column(at).clone()).collect();
                let projection: Vec<usize> = self.output.iter().map(|&at| self.all[at]).collect();
                self.ready.push_back(columns.batch(columns.projected(&projection), arrays, batch.num_rows())?);
            }
        }
    }

    fn heads<'a>(&self, columns: &Columns, batch: &'a RecordBatch) -> Result<Heads<'a>> {
        Heads::of(columns, batch, |column| self.all.iter().position(|&c| c == column))
    }

    /// The sources that have more to show and whose last row is the least.
    fn bound(&self, columns: &Columns) -> Result<Vec<usize>> {
        let mut least: Vec<usize> = Vec::new();
        for (at, source) in self.sources.iter().enumerate() {
            let Some(last) = source.batches.last().filter(|_| !source.is_over) else { continue };
            let heads = self.heads(columns, last)?;
            let ordering = match least.first().and_then(|&first| self.sources[first].batches.last()) {
                None => Ordering::Less,
                Some(other) => {
                    let other_heads = self.heads(columns, other)?;
                    heads.compare_keys(last.num_rows() - 1, &other_heads, other.num_rows() - 1)
                }
            };
            match ordering {
                Ordering::Less => least = vec![at],
                Ordering::Equal => least.push(at),
                Ordering::Greater => {}
            }
        }
        Ok(least)
    }

    /// Takes all rows whose keys are less than the last ones of all sources that have more to show.
    /// A row with just such a key may have versions that were not read yet.
    fn take(&mut self, columns: &Columns) -> Result<Vec<RecordBatch>> {
        let bound = self.bound(columns)?;
        let bound = bound.first().and_then(|&at| self.sources[at].batches.last()).cloned();
        let Some(bound) = bound else {
            return Ok(self.sources.iter_mut().flat_map(|source| source.batches.drain(..)).collect());
        };
        let bound_heads = self.heads(columns, &bound)?;
        let bound_row = bound.num_rows() - 1;
        let mut taken = Vec::new();
        let mut left = Vec::with_capacity(self.sources.len());
        for source in &self.sources {
            let mut keep = Vec::new();
            for batch in &source.batches {
                let heads = self.heads(columns, batch)?;
                let below =
                    partition_point(batch.num_rows(), |row| heads.compare_keys(row, &bound_heads, bound_row).is_lt());
                if below > 0 {
                    taken.push(batch.slice(0, below));
                }
                if below < batch.num_rows() {
                    keep.push(batch.slice(below, batch.num_rows() - below));
                }
            }
            left.push(keep);
        }
        for (source, keep) in self.sources.iter_mut().zip(left) {
            source.batches = keep;
        }
        Ok(taken)
    }
}

/// The number of rows for which `is_below` holds; it holds for none after one for which it does not.
fn partition_point(rows: usize, is_below: impl Fn(usize) -> bool) -> usize {
    let (mut low, mut high) = (0, rows);
    while low < high {
        let middle = low.midpoint(high);
        if is_below(middle) { low = middle + 1 } else { high = middle }
    }
    low
}
