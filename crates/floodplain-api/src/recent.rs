//! The newest records of a partition that somebody asks for: the log is read forwards, so from ever earlier times on until
//! there are enough.

use floodplain_log::{Log, Partition, ReadBatch, ReadError, Record};
use floodplain_types::{Position, Timestamp};
use std::{collections::VecDeque, time::Duration};

/// How far back from the newest record it is read, one after another; then from the start of the log.
const BACK: [Duration; 4] = [
    Duration::from_secs(60),
    Duration::from_secs(60 * 60),
    Duration::from_secs(24 * 60 * 60),
    Duration::from_secs(30 * 24 * 60 * 60),
];
/// What is read at most to find more than the last minute has.
const READ_BYTES_MAX: usize = 64 << 20;
const CHUNK_BYTES: usize = 1 << 20;
/// Bytes of what is found, as it will be sent; one always fits.
const FOUND_BYTES_MAX: usize = 4 << 20;

/// What was found, oldest first.
struct Found<T> {
    items: VecDeque<(T, usize)>,
    bytes: usize,
}

/// The newest `limit` items that lookers find in `partition`, newest first. `last` is about when the newest came. Each
/// looker of `make` sees records in the order of the log and gives items with their sizes in bytes. Blocks.
///
/// # Errors
/// [`ReadError`] of a disk that does not read.
pub(crate) fn newest<T, L>(
    log: &dyn Log,
    partition: Partition,
    last: Timestamp,
    limit: usize,
    make: impl Fn() -> L,
) -> Result<Vec<T>, ReadError>
where
    L: FnMut(&ReadBatch, &Record<'_>, Position) -> Vec<(T, usize)>,
{
    let (first, end) = (log.start(partition), log.watermark(partition));
    let mut best = Found { items: VecDeque::new(), bytes: 0 };
    let mut left = READ_BYTES_MAX;
    let mut before = None;
    for back in BACK.into_iter().map(Some).chain([None]) {
        let from = match back {
            Some(back) => log.position_at(partition, (last - back).as_millis())?.max(first),
            None => first,
        };
        if before == Some(from) && from > first {
            continue;
        }
        let mut found = Found { items: VecDeque::new(), bytes: 0 };
        let is_first = before.is_none();
        let is_whole =
            read(log, partition, from..end, limit, if is_first { None } else { Some(&mut left) }, make(), &mut found)?;
        if !is_whole {
            break;
        }
        let is_full = found.items.len() >= limit || found.bytes >= FOUND_BYTES_MAX;
        best = found;
        before = Some(from);
        if is_full || from <= first {
            break;
        }
    }
    Ok(best.items.into_iter().rev().map(|(item, _)| item).collect())
}

/// False if more than `left` had to be read.
fn read<T>(
    log: &dyn Log,
    partition: Partition,
    range: std::ops::Range<Position>,
    limit: usize,
    mut left: Option<&mut usize>,
    mut look: impl FnMut(&ReadBatch, &Record<'_>, Position) -> Vec<(T, usize)>,
    found: &mut Found<T>,
) -> Result<bool, ReadError> {
    let mut at = range.start;
    while at < range.end {
        let read = match log.read_cached(partition, at, CHUNK_BYTES) {
            Some(read) => read,
            None => match log.read(partition, at, CHUNK_BYTES) {
                Ok(read) => read,
                Err(ReadError::Trimmed { start: next, .. } | ReadError::Corrupt { next, .. }) if next > at => {
                    at = next;
                    continue;
                }
                Err(error) => return Err(error),
            },
        };
        for batch in &read.batches {
            if let Some(left) = &mut left {
                let bytes = batch.batch.as_bytes().len();
                if bytes > **left {
                    return Ok(false);
                }
                **left -= bytes;
            }
            let Ok(records) = batch.batch.records() else { continue };
            for record in records.iter().map_while(Result::ok) {
                let position = batch.position(&record);
                if position < at || position >= range.end {
                    continue;
                }
                for (item, bytes) in look(batch, &record, position) {
                    found.bytes += bytes;
                    found.items.push_back((item, bytes));
                    while found.items.len() > limit || (found.bytes > FOUND_BYTES_MAX && found.items.len() > 1) {
                        found.bytes -= found.items.pop_front().map_or(0, |(_, bytes)| bytes);
                    }
                }
            }
        }
        if read.next <= at {
            break;
        }
        at = read.next;
    }
    Ok(true)
}
