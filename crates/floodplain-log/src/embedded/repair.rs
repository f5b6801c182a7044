//! Keeping what is damaged, and making a segment anew from the frames that are whole.

use crate::{
    Partition,
    disk::{Disk, DiskFile},
    files::{self, DataFile, SET_ASIDE, read_up_to, write_all_at},
    metrics::LogMetrics,
    segment::{FrameList, Segment, SegmentError, Source, is_whole_at, write_segment},
};
use std::{collections::BTreeMap, io, ops::Range, path::Path, sync::Arc};

/// `set-aside/` has at most this part of the disk: bytes beyond it are reported and counted, and not kept. Nobody empties
/// it but the operator, and a disk that damages files again and again must not fill itself with what it has damaged.
const SET_ASIDE_PART: u64 = 50;

/// Why bytes are set aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// A write that a crash has cut off: every kill may leave one, and nothing in it was acknowledged with class `all`.
    Torn,
    /// Bytes that were synced are not what they were.
    Damage,
}

/// Copies a range of a file into `set-aside/`, durably. The same range is kept once.
pub(super) fn set_aside_range(
    disk: &dyn Disk,
    dir: &Path,
    metrics: &LogMetrics,
    cause: Cause,
    name: &str,
    file: &dyn DiskFile,
    range: &Range<u64>,
) -> io::Result<()> {
    let kept = format!("{name}-{:x}-{:x}", range.start, range.end);
    let len = range.end - range.start;
    set_aside(disk, dir, metrics, cause, &kept, len, |buf, at| read_up_to(file, buf, range.start + at))
}

/// Keeps bytes in `set-aside/`, durably, under the name of their file and their checksum.
pub(super) fn set_aside_bytes(
    disk: &dyn Disk,
    dir: &Path,
    metrics: &LogMetrics,
    cause: Cause,
    name: &str,
    bytes: &[u8],
) -> io::Result<()> {
    let kept = format!("{name}-{:08x}", crc32c::crc32c(bytes));
    set_aside(disk, dir, metrics, cause, &kept, bytes.len() as u64, |buf, at| {
        let rest = &bytes[at as usize..];
        let len = rest.len().min(buf.len());
        buf[..len].copy_from_slice(&rest[..len]);
        Ok(len)
    })
}

fn set_aside(
    disk: &dyn Disk,
    dir: &Path,
    metrics: &LogMetrics,
    cause: Cause,
    name: &str,
    len: u64,
    mut fill: impl FnMut(&mut [u8], u64) -> io::Result<usize>,
) -> io::Result<()> {
    let dir = dir.join(SET_ASIDE);
    disk.create_dir_all(&dir)?;
    match cause {
        Cause::Torn => metrics.torn_ranges.increment(1),
        Cause::Damage => metrics.damaged_ranges.increment(1),
    }
    let kept = disk.list(&dir)?.iter().filter(|entry| entry.name != name).map(|entry| entry.len_bytes).sum::<u64>();
    if kept + len > disk.space(&dir)?.total_bytes / SET_ASIDE_PART {
        metrics.not_kept_bytes.increment(len);
        let dir = dir.display();
        tracing::error!(name, bytes = len, kept, %dir, "damaged bytes are not kept, the folder is full; move its files away");
        return Ok(());
    }
    let path = dir.join(name);
    let tmp = files::tmp(&path);
    let file = files::create_afresh(disk, &tmp)?;
    let mut buf = vec![0; len.min(1 << 20) as usize];
    let mut at = 0;
    while at < len {
        let want = (len - at).min(buf.len() as u64) as usize;
        let read = fill(&mut buf[..want], at)?;
        if read == 0 {
            break;
        }
        write_all_at(&*file, &buf[..read], at)?;
        at += read as u64;
    }
    file.sync()?;
    disk.rename(&tmp, &path)?;
    disk.sync_dir(&dir)?;
    metrics.set_aside_bytes.set((kept + at) as f64);
    Ok(())
}

/// Bytes that are in `set-aside/` of this log.
pub(super) fn set_aside_bytes_of(disk: &dyn Disk, dir: &Path) -> io::Result<u64> {
    match disk.list(&dir.join(SET_ASIDE)) {
        Ok(entries) => Ok(entries.iter().map(|entry| entry.len_bytes).sum()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(error),
    }
}

/// Writes a segment under a passing name, syncs it, and gives it its lasting one.
///
/// Damaged frames are set aside and left out. Before the segment gets its name, `keep_ends` makes
/// durable where partitions end: a frame that is left out may have been the last of its own.
pub(super) fn make_segment(
    disk: &dyn Disk,
    dir: &Path,
    metrics: &LogMetrics,
    (first, last): (u64, u64),
    sources: &[Source],
    keep_ends: &dyn Fn() -> io::Result<()>,
) -> io::Result<Segment> {
    let path = dir.join(DataFile::Segment { first, last }.name());
    let tmp = files::tmp(&path);
    let file = files::create_afresh(disk, &tmp)?;
    let written = match write_segment(&*file, first, last, sources).and_then(|written| file.sync().map(|()| written)) {
        Ok(written) => written,
        Err(error) => {
            // It holds space that the log may need; if that fails too, the next start removes it.
            if let Err(error) = disk.remove(&tmp) {
                tracing::warn!(%error, path = %tmp.display(), "cannot remove an unfinished segment");
            }
            return Err(error);
        }
    };
    for (source, range) in &written.damaged {
        let Source { name, file, .. } = &sources[*source];
        tracing::error!(file = name, from = range.start, to = range.end, "frame is damaged, its records are a hole");
        set_aside_range(disk, dir, metrics, Cause::Damage, name, &**file, range)?;
    }
    if !written.damaged.is_empty() {
        keep_ends()?;
    }
    disk.rename(&tmp, &path)?;
    disk.sync_dir(dir)?;
    metrics.segment_bytes.increment(written.bytes);
    Segment::open(&*file, first, last).map_err(io::Error::other)
}

/// Copies a file over itself, under a name that is then synced.
///
/// After a folder's sync has failed, a name may be there only until the power goes, whatever later
/// syncs say: so nothing that this file replaces may be removed before its name is given anew.
pub(super) fn write_file_again(disk: &dyn Disk, dir: &Path, name: &str) -> io::Result<()> {
    let path = dir.join(name);
    let old = disk.open(&path)?;
    let tmp = files::tmp(&path);
    let new = files::create_afresh(disk, &tmp)?;
    let mut buf = vec![0; 1 << 20];
    let mut at = 0;
    loop {
        let read = read_up_to(&*old, &mut buf, at)?;
        if read == 0 {
            break;
        }
        write_all_at(&*new, &buf[..read], at)?;
        at += read as u64;
    }
    new.sync()?;
    disk.rename(&tmp, &path)?;
    disk.sync_dir(dir)
}

/// Makes a segment with a damaged index anew from its frames; the damaged file is kept whole.
pub(super) fn rebuild_segment(
    disk: &dyn Disk,
    dir: &Path,
    metrics: &LogMetrics,
    (first, last): (u64, u64),
    keep_ends: &dyn Fn() -> io::Result<()>,
) -> io::Result<Segment> {
    let name = DataFile::Segment { first, last }.name();
    let file: Arc<dyn DiskFile> = disk.open(&dir.join(&name))?;
    let len = file.len()?;
    set_aside_range(disk, dir, metrics, Cause::Damage, &name, &*file, &(0..len))?;
    // The footer may be what is damaged, so the end of the frames is not known: index pages and
    // footer simply hold no frames.
    let (frames, _) = Segment::scan(&*file, len)?;
    let source = Source { name, file, frames };
    keep_ends()?;
    make_segment(disk, dir, metrics, (first, last), &[source], keep_ends)
}

/// The whole frames of a segment, and whether there is no damage in it.
pub(super) fn whole_frames(disk: &dyn Disk, dir: &Path, (first, last): (u64, u64)) -> io::Result<(FrameList, bool)> {
    let file = disk.open(&dir.join(DataFile::Segment { first, last }.name()))?;
    let index = Segment::open(&*file, first, last).and_then(|segment| {
        segment.each_part(&*file, |_| ())?;
        Ok(segment.frames_end())
    });
    let end = match index {
        Err(SegmentError::Io { source, .. }) => return Err(source),
        Err(SegmentError::Damaged { .. }) => None,
        Ok(end) => Some(end),
    };
    let (mut frames, bad) = Segment::scan(&*file, end.map_or_else(|| file.len(), Ok)?)?;
    let found = frames.len();
    let mut result = Ok(());
    frames.retain(|(partition, frame)| {
        is_whole_at(&*file, *partition, frame).unwrap_or_else(|error| {
            result = Err(error);
            false
        })
    });
    result?;
    let is_whole = end.is_some() && bad.is_empty() && frames.len() == found;
    Ok((frames, is_whole))
}

/// Of frames with the same offsets those of the first source stay.
pub(super) fn leave_out_overlaps(sources: &mut [Source]) {
    let mut taken = BTreeMap::<(Partition, u64), u64>::new();
    for source in sources {
        source.frames.retain(|(partition, frame)| {
            let before = taken.range(..=(*partition, frame.last())).next_back();
            let is_free = before.is_none_or(|((of, _), last)| of != partition || *last < frame.base);
            if is_free {
                taken.insert((*partition, frame.base), frame.last());
            }
            is_free
        });
    }
}
