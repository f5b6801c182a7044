//! Journals after a restart: what counts, what is written again, what is set aside.

use super::{Cause, Context as _, DamagedRange, OpenError, Recovery};
use crate::{
    Partition,
    checkpoint::{self, Checkpoint},
    disk::DiskFile,
    files::{self, DataFile, write_all_at},
    frame::{Group, JournalPos},
    journal::{self, FrameAt, Journal, Scan},
};
use std::{
    collections::BTreeMap,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

/// A journal file and what was found in it.
struct Scanned {
    seq: u64,
    path: PathBuf,
    file: Arc<dyn DiskFile>,
    scan: Scan,
    /// Bytes behind its end that were synced, as other journals say.
    lost: Option<Range<u64>>,
}

impl Scanned {
    fn at(&self, pos: u64) -> JournalPos {
        JournalPos { seq: self.seq, pos }
    }

    fn name(&self) -> String {
        DataFile::Journal { seq: self.seq }.name()
    }

    /// Where this file takes over, by its first group: what other journals have from there on does
    /// not count.
    fn takes_over(&self) -> Option<JournalPos> {
        let (pos, first) = self.scan.groups.first()?;
        (*pos == journal::HEADER as u64 && first.synced.seq > 0 && first.synced.seq < self.seq).then_some(first.synced)
    }

    /// Forgets what lies at or behind `end`.
    fn cut(&mut self, end: JournalPos) {
        let end = match end.seq.cmp(&self.seq) {
            std::cmp::Ordering::Less => 0,
            std::cmp::Ordering::Equal => end.pos,
            std::cmp::Ordering::Greater => return,
        };
        let scan = &mut self.scan;
        scan.groups.retain(|(pos, _)| *pos < end);
        scan.frames.retain(|(_, frame)| frame.pos < end);
        scan.bad.retain(|range| range.start < end);
        if let Some(last) = scan.bad.last_mut() {
            last.end = last.end.min(end);
        }
        scan.len = scan.len.min(end);
    }
}

impl Recovery {
    /// Checks all journals, sets damage aside, and writes again what was not known to be synced.
    pub(super) fn journals(&mut self, seqs: Vec<u64>) -> Result<(), OpenError> {
        let mut scans = Vec::with_capacity(seqs.len());
        for seq in seqs {
            let path = self.dir.join(DataFile::Journal { seq }.name());
            let file = self.disk.open(&path).context("open", &path)?;
            let scan = journal::scan(&*file, seq, self.salt).context("read", &path)?;
            self.report.scanned_bytes += scan.len;
            self.report.groups += scan.groups.len() as u64;
            let last = scan.groups.last().map_or(0, |(_, group)| group.number);
            self.next_group = self.next_group.max(last + 1);
            scans.push(Scanned { seq, path, file, scan, lost: None });
        }
        self.find_lost_bytes(&mut scans);
        for idx in 1..scans.len() {
            let (before, rest) = scans.split_at_mut(idx);
            if let Some(end) = rest[0].takes_over() {
                before.iter_mut().for_each(|earlier| earlier.cut(end));
            }
        }
        let synced = scans.iter().map(|scanned| scanned.scan.synced).max().unwrap_or_default();
        for scanned in &scans {
            self.set_damage_aside(scanned, synced)?;
            for (partition, frame) in &scanned.scan.frames {
                self.parts.entry(*partition).or_default().reach(frame.last() + 1, frame.end_at());
            }
        }
        let last = scans.last().map_or(0, |scanned| scanned.seq);
        if !self.report.corrupt.is_empty() {
            // What the damaged groups said of positions must outlive them.
            self.store_checkpoint(last)?;
        }
        // The tail is written first: only then may a file that it has emptied go.
        let mut tail = Vec::new();
        let mut empty = Vec::new();
        for scanned in scans {
            if let Some(path) = self.journal(scanned, synced, &mut tail)? {
                empty.push(path);
            }
        }
        self.write_tail(&tail)?;
        if !empty.is_empty() {
            // They are no loss, so they must not be missed by the next start.
            self.store_checkpoint(last)?;
        }
        for path in empty {
            self.disk.remove(&path).context("remove", &path)?;
        }
        Ok(())
    }

    fn store_checkpoint(&mut self, covers: u64) -> Result<(), OpenError> {
        self.covers = self.covers.max(covers);
        let checkpoint = Checkpoint { covers: self.covers, parts: self.parts.clone() };
        checkpoint.store(&*self.disk, &self.dir).context("write", &self.dir.join(checkpoint::NAMES[0]))
    }

    /// Reports synced bytes of which the file system knows nothing any more: journals that are shorter than
    /// later ones say, or gone. Nobody can tell whose records they held.
    fn find_lost_bytes(&mut self, scans: &mut [Scanned]) {
        let mut claims = BTreeMap::<u64, u64>::new();
        for scanned in scans.iter() {
            for claim in scanned.takes_over().into_iter().chain([scanned.scan.synced]) {
                let end = claims.entry(claim.seq).or_default();
                *end = claim.pos.max(*end);
            }
        }
        for (seq, end) in claims {
            let found = scans.iter_mut().find(|scanned| scanned.seq == seq);
            let start = match &found {
                Some(scanned) if scanned.scan.settled < end => scanned.scan.len,
                Some(_) => continue,
                // Retention removes files in the order of their sequences, and segments hold the rest.
                None if seq <= self.covers || self.segments.iter().any(|segment| segment.last >= seq) => continue,
                None => journal::HEADER as u64,
            };
            if start >= end {
                continue;
            }
            let range = DamagedRange { file: DataFile::Journal { seq }.name(), bytes: start..end };
            tracing::error!(file = range.file, from = start, to = end, "bytes of a journal are gone");
            self.metrics.damaged_ranges.increment(1);
            self.report.corrupt.push(range);
            self.skip_positions(end - start);
            if let Some(scanned) = found {
                scanned.lost = Some(start..end);
            }
        }
    }

    /// Keeps what is no whole group, and sees to it that none of its positions is used again.
    fn set_damage_aside(&mut self, scanned: &Scanned, synced: JournalPos) -> Result<(), OpenError> {
        for bytes in &scanned.scan.bad {
            let range = DamagedRange { file: scanned.name(), bytes: bytes.clone() };
            // A write that was cut off leaves bytes that can be read.
            let is_torn = scanned.at(bytes.start) >= synced && !files::is_any_unreadable(&*scanned.file, bytes);
            let cause = if is_torn { Cause::Torn } else { Cause::Damage };
            self.set_aside_range(cause, &range, &*scanned.file)?;
            if is_torn {
                self.report.torn.push(range);
                continue;
            }
            tracing::error!(file = range.file, from = bytes.start, to = bytes.end, "journal is damaged");
            self.report.corrupt.push(range);
            let salvage = journal::salvage(&*scanned.file, bytes).context("read", &scanned.path)?;
            for (partition, frame) in salvage.frames {
                self.parts.entry(partition).or_default().reach(frame.last() + 1, frame.end_at());
            }
            if salvage.unknown_bytes > 0 {
                self.skip_positions(salvage.unknown_bytes);
            }
        }
        Ok(())
    }

    /// Moves the end of every partition past all records that so many bytes can have held.
    fn skip_positions(&mut self, bytes: u64) {
        // A record has at least seven bytes; compression makes of one byte some thousand.
        let offsets = (bytes << 12).max(1 << 24);
        for partition in &self.all_partitions {
            self.parts.entry(*partition).or_default();
        }
        for bounds in self.parts.values_mut() {
            bounds.end += offsets;
            bounds.end_at += bytes;
        }
    }

    /// Makes the synced part of a journal readable, and adds what is behind it to `tail`. Gives the
    /// path if nothing of the file is needed any more.
    fn journal(
        &mut self,
        mut scanned: Scanned,
        synced: JournalPos,
        tail: &mut Vec<(Arc<dyn DiskFile>, PathBuf, u64, Group)>,
    ) -> Result<Option<PathBuf>, OpenError> {
        let is_passed = |(partition, frame): &(Partition, FrameAt)| {
            self.parts.get(partition).is_some_and(|bounds| frame.last() < bounds.start)
        };
        // Retention has taken it, and a power cut brought it back.
        if scanned.scan.frames.iter().all(is_passed) {
            return Ok(Some(scanned.path));
        }
        if scanned.lost.is_some() || scanned.scan.bad.iter().any(|range| scanned.at(range.start) < synced) {
            self.write_without_damage(&mut scanned)?;
        } else {
            // A group behind the newest place that is known to be synced may be in memory only, or
            // gone with the next power cut.
            let doubtful = |pos: u64| scanned.at(pos) >= synced;
            let groups = scanned.scan.groups.iter().filter(|(pos, group)| doubtful(*pos) && group.frame_count > 0);
            tail.extend(groups.map(|(pos, group)| (Arc::clone(&scanned.file), scanned.path.clone(), *pos, *group)));
            scanned.cut(synced.max(scanned.at(0)));
        }
        if scanned.scan.frames.is_empty() {
            return Ok(Some(scanned.path));
        }
        self.add_journal(scanned);
        Ok(None)
    }

    /// Lets readers have the frames that were found.
    fn add_journal(&mut self, scanned: Scanned) {
        let Scanned { seq, file, scan, .. } = scanned;
        self.trusted = JournalPos { seq, pos: scan.data_end() };
        let mut journal = Journal::new(seq, file);
        journal.len = scan.data_end();
        for (partition, frame) in scan.frames {
            let next = self.journal_ends.entry(partition).or_default();
            if frame.base < *next {
                tracing::error!(seq, pos = frame.pos, "frame repeats positions, leaving it out");
                continue;
            }
            *next = frame.last() + 1;
            journal.push(partition, frame);
        }
        self.journals.push(journal);
    }

    /// Copies the whole groups of a journal over it, so that its damage is not found again.
    fn write_without_damage(&mut self, scanned: &mut Scanned) -> Result<(), OpenError> {
        let Scanned { seq, path, file, scan, lost } = scanned;
        let groups = scan.groups.iter().filter(|(_, group)| group.frame_count > 0);
        let groups: Vec<_> = groups.map(|(pos, group)| (Arc::clone(file), path.clone(), *pos, *group)).collect();
        // What the first group says of earlier journals stays true. What the others say of this file
        // is not: groups have moved, and if the folder's sync fails here, the next start must not
        // trust this one.
        let claim = |group: &Group| if group.synced.seq < *seq { group.synced } else { JournalPos::default() };
        let settled = scan.settled.max(scan.len).max(lost.as_ref().map_or(0, |range| range.end));
        let new = self.write_groups(path, *seq, settled, &groups, claim)?;
        *scan = journal::scan(&*new, *seq, self.salt).context("read", path)?;
        *file = new;
        Ok(())
    }

    /// Writes groups that were not known to be synced into a journal of their own.
    fn write_tail(&mut self, tail: &[(Arc<dyn DiskFile>, PathBuf, u64, Group)]) -> Result<(), OpenError> {
        let Some((_, _, pos, first)) = tail.first() else { return Ok(()) };
        // A file that goes altogether hands on what it said of those before it.
        let hands_on = *pos == journal::HEADER as u64 && first.synced.seq > 0 && first.synced.seq < first.seq;
        let start = if hands_on { first.synced } else { JournalPos { seq: first.seq, pos: *pos } };
        let seq = self.next_seq;
        self.next_seq += 1;
        let path = self.dir.join(DataFile::Journal { seq }.name());
        self.report.copied_bytes = tail.iter().map(|(.., group)| u64::from(group.len)).sum();
        // The new file takes over where the tail began, and claims nothing for itself: if the
        // folder's sync fails here, the next start writes the tail once more.
        let file = self.write_groups(&path, seq, 0, tail, |_| start)?;
        let scan = journal::scan(&*file, seq, self.salt).context("read", &path)?;
        self.add_journal(Scanned { seq, path, file, scan, lost: None });
        Ok(())
    }

    /// Writes groups to a new file, syncs it, gives it its name, and syncs the folder.
    fn write_groups(
        &self,
        path: &Path,
        seq: u64,
        settled: u64,
        groups: &[(Arc<dyn DiskFile>, PathBuf, u64, Group)],
        claim: impl Fn(&Group) -> JournalPos,
    ) -> Result<Arc<dyn DiskFile>, OpenError> {
        let tmp = files::tmp(path);
        let new = files::create_afresh(&*self.disk, &tmp).context("create", &tmp)?;
        journal::write_header(&*new, seq, self.salt, settled).context("write", &tmp)?;
        let mut len = journal::HEADER as u64;
        let mut buf = Vec::new();
        for (old, old_path, pos, group) in groups {
            buf.resize(group.len as usize, 0);
            files::read_exact_at(&**old, &mut buf, *pos).context("read", old_path)?;
            // The checksum is made anew, so the bytes must be those that were found to be whole.
            if Group::parse(&buf, self.salt).is_none_or(|(found, _)| found != *group) {
                let source =
                    std::io::Error::new(std::io::ErrorKind::InvalidData, "a group has changed while it was read");
                return Err(source).context("read", old_path);
            }
            Group { seq, synced: claim(group), ..*group }.seal(&mut buf, self.salt);
            write_all_at(&*new, &buf, len).context("write", &tmp)?;
            len += u64::from(group.len);
        }
        new.sync().context("sync", &tmp)?;
        self.disk.rename(&tmp, path).context("rename", &tmp)?;
        self.disk.sync_dir(&self.dir).context("sync", &self.dir)?;
        Ok(new)
    }
}
