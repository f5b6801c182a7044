//! Bits flip and bytes vanish on the disk: it is noticed, set aside, and the rest is served.

use super::{
    engine::{self, config},
    first_seed,
    world::{DIR, End, World},
};
use floodplain_log::{Append, Embedded, Log, Outcome, RecoveryReport, Reply};
use floodplain_testkit::{Counts, FaultDisk, Outcomes, Stamp, batch_of};
use floodplain_types::{Class, Position};
use rand::{Rng as _, SeedableRng as _, rngs::SmallRng, seq::SliceRandom as _};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

/// Everything in a log, by partition.
type Contents = BTreeMap<String, Vec<(Position, Stamp)>>;

/// Reads all that is served. Whatever is served must be what was published.
fn contents(log: &Embedded, context: &str) -> Contents {
    let mut contents = Contents::new();
    for stream in log.streams() {
        for index in 0..stream.partitions {
            let partition = stream.partition(index);
            let payloads = engine::read_all(log, partition);
            let stamps = payloads.into_iter().map(|(position, payload)| {
                let stamp = Stamp::parse(&payload).unwrap_or_else(|error| panic!("{context}: served {error}"));
                (position, stamp)
            });
            contents.insert(format!("{}/{index}", stream.id.stream), stamps.collect());
        }
    }
    contents
}

/// A disk with journals and segments full of acknowledged messages, closed in order.
fn full_disk(seed: u64) -> (World, Contents) {
    let mut world = World::new(seed);
    for _ in 0..4 {
        let mut life = world.recover(false);
        world.create_stream(&life).unwrap();
        for _ in 0..30 {
            world.append(&mut life);
            world.wait(&mut life);
        }
        world.end_of_life(life, End::Closed);
    }
    let copy = world.disk.duplicate(0);
    let (log, _) = engine::open_with(&copy, &world.clock, config(&mut world.rng)).unwrap();
    let contents = contents(&log, "undamaged");
    (world, contents)
}

struct Found {
    missing: usize,
    /// A partition that gave a position a second time.
    reused: Option<String>,
    report: RecoveryReport,
    reported: u64,
    set_aside: usize,
}

/// Opens the damaged disk, compares, appends, opens again.
fn look(disk: &FaultDisk, world: &World, whole: &Contents, context: &str) -> Found {
    let mut rng = SmallRng::seed_from_u64(7);
    let reported = Counts::default();
    let open = |rng: &mut SmallRng| {
        metrics::with_local_recorder(&reported, || engine::open_with(disk, &world.clock, config(rng)))
            .unwrap_or_else(|error| panic!("{context}: does not open: {error}"))
    };
    let (log, report) = open(&mut rng);
    let served = contents(&log, context);
    let mut missing = 0;
    for (partition, whole) in whole {
        let served = served.get(partition).unwrap_or_else(|| panic!("{context}: {partition} is gone"));
        let mut rest = whole.iter();
        for seen in served {
            assert!(rest.any(|expected| expected == seen), "{context}: {partition} serves {seen:?}, in another place");
        }
        missing += whole.len() - served.len();
    }
    let reused = append_to_all(&log, whole, context);
    drop(log);
    let (log, _) = open(&mut rng);
    let again = contents_without_new(&log, context);
    assert_eq!(again, served, "{context}: the same is served after a restart");
    drop(log);
    let set_aside = disk.files().iter().filter(|(path, _)| path.starts_with(Path::new(DIR).join("set-aside"))).count();
    Found { missing, reused, report, reported: reported.get("floodplain_log_damaged_ranges_total"), set_aside }
}

const NEW: &str = "new";

fn contents_without_new(log: &Embedded, context: &str) -> Contents {
    let mut contents = contents(log, context);
    contents.values_mut().for_each(|stamps| stamps.retain(|(_, stamp)| stamp.client != NEW));
    contents
}

/// Every partition takes an append. Gives one that used a position again.
fn append_to_all(log: &Embedded, whole: &Contents, context: &str) -> Option<String> {
    let (outcomes, mut reused) = (Outcomes::new(), None);
    for stream in log.streams() {
        for index in 0..stream.partitions {
            let batches = vec![(stream.partition(index), batch_of(b"k", &Stamp::new(NEW, 1).payload(0), 1))];
            let sink = Arc::clone(&outcomes) as Arc<dyn floodplain_log::CompletionSink>;
            log.submit(Append { batches, class: Class::All }, Some(Reply { sink, tag: 1 }));
            let Outcome::Committed(positions) = outcomes.wait(1, &|| ()) else { panic!("{context}: no append") };
            let name = format!("{}/{index}", stream.id.stream);
            let last = whole.get(&name).and_then(|stamps| stamps.last());
            if last.is_some_and(|(last, _)| positions[0] <= *last) {
                reused = Some(name);
            }
        }
    }
    reused
}

/// All files but most segments: they are many, and alike.
fn files(disk: &FaultDisk, rng: &mut SmallRng) -> Vec<(PathBuf, u64)> {
    let is_segment = |path: &Path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("segment-"));
    let all = disk.files().into_iter().filter(|(_, len)| *len > 0);
    let (mut segments, mut files): (Vec<_>, Vec<_>) = all.partition(|(path, _)| is_segment(path));
    segments.shuffle(rng);
    segments.truncate(4);
    files.extend(segments);
    files
}

/// Each bit of damage costs at most what shares a checksum with it.
#[test]
fn flipped_bits_are_found_and_the_rest_is_served() {
    let (mut losses, mut kinds) = (0, BTreeMap::<String, u32>::new());
    for seed in first_seed()..first_seed() + 10 {
        let (world, whole) = full_disk(seed);
        let mut rng = SmallRng::seed_from_u64(seed);
        for (path, len) in files(&world.disk, &mut rng) {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            for _ in 0..10 {
                let (at, bit) = (rng.random_range(0..len) as usize, rng.random_range(0..8));
                let context = format!("seed {seed}, bit {bit} of byte {at} of {len} of {name}");
                let disk = world.disk.duplicate(seed);
                assert!(disk.damage(&path, |bytes| bytes[at] ^= 1 << bit));
                let found = look(&disk, &world, &whole, &context);
                *kinds.entry(name.split('-').next().unwrap().to_owned()).or_default() += 1;
                losses += u32::from(found.missing > 0);
                // A cursor that has passed the lost record must not be past a new one.
                assert_eq!(found.reused, None, "{context}: a position is used again");
                assert!(found.missing <= 40, "{context}: {} messages are gone", found.missing);
                if found.missing > 0 {
                    assert!(found.reported > 0 || !found.report.corrupt.is_empty(), "{context}: nobody was told");
                    assert!(
                        !name.starts_with("catalog") && !name.starts_with("checkpoint"),
                        "{context}: there are two"
                    );
                }
            }
        }
    }
    println!("{losses} losses of {kinds:?}");
    assert!(losses > 10 && kinds.len() >= 4, "{losses} {kinds:?}");
}

/// A file is cut short, or a sector of it reads as zeros.
#[test]
fn lost_sectors_and_lengths_are_found_and_the_rest_is_served() {
    for seed in first_seed()..first_seed() + 6 {
        let (world, whole) = full_disk(seed);
        let mut rng = SmallRng::seed_from_u64(seed);
        let is_journal =
            |path: &Path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("journal-"));
        let journals = world.disk.files().into_iter().map(|(path, _)| path).filter(|path| is_journal(path));
        let newest_journal = journals.max().unwrap_or_default();
        for (path, len) in files(&world.disk, &mut rng) {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            for cut_short in [false, true, false, true] {
                let at = rng.random_range(0..len) as usize;
                let context = format!("seed {seed}, byte {at} of {len} of {name}, cut short: {cut_short}");
                let disk = world.disk.duplicate(seed);
                let mut is_between_groups = false;
                disk.damage(&path, |bytes| {
                    is_between_groups = bytes[at..].starts_with(b"FPGR");
                    if cut_short {
                        bytes.truncate(at);
                    } else {
                        let end = bytes.len().min(at + 512);
                        bytes[at..end].fill(0);
                    }
                });
                let found = look(&disk, &world, &whole, &context);
                // The newest journal without its last groups is what it was before they were written: no other file
                // tells of them yet.
                let is_unknowable = cut_short && is_between_groups && path == newest_journal;
                if found.missing > 0 && !is_unknowable {
                    assert!(
                        found.reported > 0 || !found.report.corrupt.is_empty() || found.set_aside > 0,
                        "{context}: {} messages are gone and nobody was told",
                        found.missing
                    );
                }
            }
        }
    }
}
