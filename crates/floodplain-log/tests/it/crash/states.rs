//! States of the disk that a log may have to start from, each made from a seed and looked at.

use super::{
    engine::{self, config},
    world::{DIR, End, Life, World},
};
use floodplain_log::{Outcome, RecoveryReport};
use floodplain_testkit::{Fault, FaultDisk, Op, Rule};
use std::path::{Path, PathBuf};

/// What a start finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Start {
    /// Journals and segments, closed in order.
    Closed,
    /// After a power cut: the last group is cut off, and the one before it is not known to be synced.
    TornAndDoubtful,
    /// A group below the last synced position is damaged.
    DamagedJournal,
    /// The index of a segment is damaged.
    DamagedSegment,
    /// A journal that its segment was made from is still there.
    JournalBesideSegment,
    /// So many small segments that they become one.
    SmallSegments,
}

impl Start {
    pub(super) const ALL: [Self; 6] = [
        Self::Closed,
        Self::TornAndDoubtful,
        Self::DamagedJournal,
        Self::DamagedSegment,
        Self::JournalBesideSegment,
        Self::SmallSegments,
    ];

    /// A world whose disk is in this state, by the first seed from `seed` on that leads there.
    pub(super) fn world(self, seed: u64) -> World {
        const TRIES: u64 = 200;
        (0..TRIES)
            .find_map(|i| self.try_world(seed + i))
            .unwrap_or_else(|| panic!("no seed from {seed} on leads to {self:?}"))
    }

    fn try_world(self, seed: u64) -> Option<World> {
        let mut world = World::new(seed);
        let mut life = world.recover(false);
        world.create_stream(&life).ok()?;
        fill(&mut world, &mut life, if self == Self::SmallSegments { 14 } else { 18 });
        match self {
            Self::Closed => world.end_of_life(life, End::Closed),
            Self::TornAndDoubtful => {
                world.disk.fail(Rule::nth(1, Fault::Eio).of(Op::Write).on_kind("log/journal"));
                world.append(&mut life);
                if world.wait(&mut life) != Some(Outcome::Unknown) {
                    return None;
                }
                world.disk.heal();
                world.end_of_life(life, End::PowerCut);
            }
            Self::DamagedJournal => {
                world.end_of_life(life, End::Closed);
                let (path, _) = files(&world.disk, "journal-").into_iter().max_by_key(|(_, len)| *len)?;
                // In the records of the first group.
                world.disk.damage(&path, |bytes| bytes.iter_mut().skip(200).take(8).for_each(|byte| *byte ^= 1));
            }
            Self::DamagedSegment => {
                life.log.maintain().ok()?;
                world.end_of_life(life, End::Closed);
                let (path, _) = files(&world.disk, "segment-").into_iter().max_by_key(|(_, len)| *len)?;
                world.disk.damage(&path, |bytes| {
                    let footer = bytes.len() - 20;
                    bytes[footer] ^= 1;
                });
            }
            Self::JournalBesideSegment => {
                world.disk.fail(Rule::nth(1, Fault::Eio).of(Op::Remove).on_kind("log/journal").for_ever());
                drop(life.log.maintain());
                world.end_of_life(life, End::Closed);
                world.disk.heal();
            }
            // With longer journals from the next start on.
            Self::SmallSegments => {
                life.log.maintain().ok()?;
                world.end_of_life(life, End::Closed);
            }
        }
        let copy = world.disk.duplicate(seed);
        let config = config(&mut world.rng.clone());
        let (log, report) = engine::open_with(&copy, &world.clock, config).ok()?;
        log.maintain().ok()?;
        let is_it = match self {
            Self::SmallSegments => files(&copy, "segment-").len() + 4 < files(&world.disk, "segment-").len(),
            _ => self.is_found(&world.disk, &report),
        };
        if is_it && self == Self::DamagedJournal {
            world.forgive_damage(&*log);
        }
        is_it.then_some(world)
    }

    fn is_found(self, disk: &FaultDisk, report: &RecoveryReport) -> bool {
        let is_whole = report.torn.is_empty() && report.corrupt.is_empty() && report.rebuilt.is_empty();
        match self {
            Self::Closed => is_whole && !files(disk, "segment-").is_empty() && !files(disk, "journal-").is_empty(),
            Self::TornAndDoubtful => !report.torn.is_empty() && report.copied_bytes > 0,
            Self::DamagedJournal => report.corrupt.iter().any(|range| range.file.starts_with("journal-")),
            Self::DamagedSegment => !report.rebuilt.is_empty(),
            Self::SmallSegments => is_whole,
            Self::JournalBesideSegment => {
                let number = |hex: &str| u64::from_str_radix(hex, 16).unwrap();
                let ranges: Vec<_> = names(disk, "segment-")
                    .iter()
                    .map(|name| name.split_once('-').map(|(first, last)| number(first)..=number(last)).unwrap())
                    .collect();
                is_whole
                    && names(disk, "journal-").iter().any(|seq| ranges.iter().any(|range| range.contains(&number(seq))))
            }
        }
    }
}

/// Appends and trims until there are journals and segments.
fn fill(world: &mut World, life: &mut Life, steps: u32) {
    for step in 0..steps {
        match step {
            6 => drop(world.create_stream(life)),
            12 => world.trim(life),
            _ => world.append(life),
        }
        world.wait(life);
    }
}

/// Files of the log whose names start so.
fn files(disk: &FaultDisk, prefix: &str) -> Vec<(PathBuf, u64)> {
    let mut files = disk.files();
    files.retain(|(path, _)| {
        path.parent() == Some(Path::new(DIR))
            && path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix))
    });
    files
}

/// What their names say behind the prefix.
fn names(disk: &FaultDisk, prefix: &str) -> Vec<String> {
    let name = |(path, _): (PathBuf, u64)| path.file_name().unwrap().to_string_lossy()[prefix.len()..].to_owned();
    files(disk, prefix).into_iter().map(name).collect()
}
