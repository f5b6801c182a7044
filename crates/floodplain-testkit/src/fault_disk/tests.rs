//! Each fault really shows: a double that never hurts proves nothing.

use super::*;

fn path(name: &str) -> PathBuf {
    Path::new("d").join(name)
}

/// A disk with a synced folder `d` and a synced file `d/a` that holds `old`.
fn disk_with_a_synced_file() -> (FaultDisk, Arc<dyn DiskFile>) {
    let disk = FaultDisk::new(1);
    disk.create_dir_all(Path::new("d")).unwrap();
    let file = disk.create(&path("a")).unwrap();
    file.write_at(b"old", 0).unwrap();
    file.sync().unwrap();
    disk.sync_dir(Path::new("d")).unwrap();
    (disk, file)
}

/// What 400 power cuts of the same disk leave of a file: every result that was seen.
fn results_of_cuts(disk: &FaultDisk, name: &str) -> BTreeSet<Option<Vec<u8>>> {
    (0..400).map(|seed| disk.power_cut(seed).contents(&path(name))).collect()
}

fn some(bytes: &[u8]) -> Option<Vec<u8>> {
    Some(bytes.to_vec())
}

#[test]
fn synced_bytes_survive_every_cut_and_unsynced_ones_may_not() {
    let (disk, file) = disk_with_a_synced_file();
    assert_eq!(results_of_cuts(&disk, "a"), BTreeSet::from([some(b"old")]));
    let disk = disk.process_crash();
    drop(file);
    let file = disk.open(&path("a")).unwrap();
    file.write_at(b"NEW!", 0).unwrap();
    assert_eq!(disk.contents(&path("a")), some(b"NEW!"), "seen at once");
    let seen = results_of_cuts(&disk, "a");
    for expected in [&b"old"[..], b"old\0", b"NEW", b"NEW!"] {
        assert!(seen.contains(&some(expected)), "{expected:?} is possible");
    }
    let disk = disk.process_crash();
    assert_eq!(disk.contents(&path("a")), some(b"NEW!"), "a killed process loses nothing it wrote");
    disk.open(&path("a")).unwrap().sync().unwrap();
    assert_eq!(results_of_cuts(&disk, "a"), BTreeSet::from([some(b"NEW!")]));
}

#[test]
fn long_writes_tear_at_sectors_in_any_order() {
    let (disk, file) = disk_with_a_synced_file();
    file.write_at(&[7; 3 * 512], 0).unwrap();
    let third_without_first = results_of_cuts(&disk, "a")
        .into_iter()
        .flatten()
        .any(|bytes| bytes.len() == 3 * 512 && bytes[..3] == *b"old" && bytes[2 * 512..] == [7; 512]);
    assert!(third_without_first);
}

#[test]
fn a_new_file_needs_both_syncs() {
    let (disk, _file) = disk_with_a_synced_file();
    let new = disk.create(&path("b")).unwrap();
    new.write_at(b"data", 0).unwrap();
    new.sync().unwrap();
    assert_eq!(results_of_cuts(&disk, "b"), BTreeSet::from([None, some(b"data")]), "the name may be lost");
    let disk = disk.process_crash();
    disk.sync_dir(Path::new("d")).unwrap();
    assert_eq!(results_of_cuts(&disk, "b"), BTreeSet::from([some(b"data")]));

    let disk = disk.process_crash();
    disk.create(&path("c")).unwrap().write_at(b"x", 0).unwrap();
    disk.sync_dir(Path::new("d")).unwrap();
    assert_eq!(
        results_of_cuts(&disk, "c"),
        BTreeSet::from([some(b""), some(b"\0"), some(b"x")]),
        "the bytes may be lost"
    );
}

#[test]
fn renames_and_removals_are_certain_only_after_the_folder_sync() {
    let (disk, file) = disk_with_a_synced_file();
    disk.rename(&path("a"), &path("b")).unwrap();
    drop(file);
    let names = |disk: &FaultDisk| -> BTreeSet<Vec<String>> {
        (0..200)
            .map(|seed| disk.power_cut(seed).files().iter().map(|(path, _)| path.display().to_string()).collect())
            .collect()
    };
    assert_eq!(
        names(&disk),
        BTreeSet::from([vec!["d/a".to_owned()], vec!["d/b".to_owned()]]),
        "never both, never none"
    );
    let disk = disk.process_crash();
    disk.sync_dir(Path::new("d")).unwrap();
    disk.remove(&path("b")).unwrap();
    assert_eq!(names(&disk), BTreeSet::from([vec![], vec!["d/b".to_owned()]]));
    let disk = disk.process_crash();
    disk.sync_dir(Path::new("d")).unwrap();
    assert_eq!(names(&disk), BTreeSet::from([vec![]]));
}

#[test]
fn a_rename_between_folders_needs_both_folder_syncs() {
    let (disk, _file) = disk_with_a_synced_file();
    disk.create_dir_all(Path::new("e")).unwrap();
    disk.rename(&path("a"), Path::new("e/a")).unwrap();
    disk.sync_dir(Path::new("e")).unwrap();
    assert!((0..100).any(|seed| disk.power_cut(seed).contents(&path("a")).is_some()));
    let disk = disk.process_crash();
    disk.sync_dir(Path::new("d")).unwrap();
    assert!((0..100).all(|seed| disk.power_cut(seed).contents(Path::new("e/a")).is_some()));
}

#[test]
fn the_power_goes_at_the_chosen_call() {
    let (disk, file) = disk_with_a_synced_file();
    disk.cut_at_call(2);
    assert_eq!(file.write_at(b"1", 3).unwrap(), 1);
    assert!(!disk.is_frozen());
    assert!(file.sync().is_err());
    assert!(disk.is_frozen());
    assert!(file.read_at(&mut [0], 0).is_err() && disk.list(Path::new("d")).is_err() && file.sync().is_err());
    assert_eq!(results_of_cuts(&disk, "a"), BTreeSet::from([some(b"old"), some(b"old1"), some(b"old\0")]));
}

#[test]
fn equal_seeds_give_equal_disks() {
    let run = |seed| {
        let (disk, file) = disk_with_a_synced_file();
        for i in 0..50 {
            file.write_at(&[i; 700], u64::from(i) * 300).unwrap();
            drop(disk.create(&path(&format!("f{i}"))).unwrap());
        }
        let disk = disk.power_cut(seed);
        disk.files().into_iter().map(|(path, _)| (disk.contents(&path), path)).collect::<Vec<_>>()
    };
    assert_eq!(run(5), run(5));
    assert_ne!(run(5), run(6));
}

#[test]
fn the_nth_call_fails_once_or_for_ever() {
    let (disk, file) = disk_with_a_synced_file();
    disk.fail(Rule::nth(2, Fault::Eio).of(Op::Read));
    let mut buf = [0; 3];
    assert!(file.read_at(&mut buf, 0).is_ok());
    assert!(file.len().is_ok(), "another kind does not count");
    assert_eq!(file.read_at(&mut buf, 0).unwrap_err().raw_os_error(), Some(5));
    assert!(file.read_at(&mut buf, 0).is_ok());
    assert_eq!(disk.faults_fired(), 1);

    disk.fail(Rule::nth(1, Fault::Enospc).on("a").for_ever());
    assert!(disk.list(Path::new("d")).is_ok(), "another path does not count");
    for _ in 0..3 {
        assert_eq!(file.write_at(b"x", 0).unwrap_err().kind(), io::ErrorKind::StorageFull);
    }
    disk.heal();
    assert!(file.write_at(b"x", 0).is_ok());
}

#[test]
fn a_short_write_says_how_much_it_took() {
    let (disk, file) = disk_with_a_synced_file();
    disk.fail(Rule::nth(1, Fault::Short).of(Op::Write));
    let taken = file.write_at(&[1; 100], 3).unwrap();
    assert!((1..100).contains(&taken));
    assert_eq!(file.len().unwrap(), 3 + taken as u64);
}

#[test]
fn a_failed_write_leaves_any_prefix() {
    let lengths: BTreeSet<u64> = (0..200)
        .map(|seed| {
            let disk = FaultDisk::new(seed);
            let file = disk.create(Path::new("a")).unwrap();
            disk.fail(Rule::nth(1, Fault::Eio).of(Op::Write));
            assert!(file.write_at(&[1; 9], 0).is_err());
            file.len().unwrap()
        })
        .collect();
    assert_eq!(lengths, (0..=9).collect());
}

#[test]
fn after_a_failed_sync_a_good_one_does_not_bring_the_bytes_back() {
    let results: BTreeSet<Option<Vec<u8>>> = (0..200)
        .map(|seed| {
            let disk = FaultDisk::new(seed);
            let file = disk.create(Path::new("a")).unwrap();
            disk.sync_dir(Path::new("")).unwrap();
            file.write_at(b"lost", 0).unwrap();
            disk.fail(Rule::nth(1, Fault::Eio).of(Op::Sync));
            assert!(file.sync().is_err());
            file.sync().unwrap();
            assert_eq!(disk.contents(Path::new("a")), some(b"lost"), "programs still see it");
            disk.power_cut(seed).contents(Path::new("a"))
        })
        .collect();
    assert!(results.contains(&some(b"")) && results.contains(&some(b"lost")), "{results:?}");
}

#[test]
fn after_a_failed_folder_sync_the_name_is_certain_only_with_the_next() {
    let kept = |again: bool| -> BTreeSet<bool> {
        let run = |seed| {
            let disk = FaultDisk::new(seed);
            disk.create(Path::new("a")).unwrap().sync().unwrap();
            disk.fail(Rule::nth(1, Fault::Eio).of(Op::SyncDir));
            assert!(disk.sync_dir(Path::new("")).is_err());
            if again {
                disk.sync_dir(Path::new("")).unwrap();
            }
            disk.power_cut(seed).contents(Path::new("a")).is_some()
        };
        (0..100).map(run).collect()
    };
    assert_eq!(kept(false), BTreeSet::from([false, true]));
    assert_eq!(kept(true), BTreeSet::from([true]));
}

#[test]
fn a_strict_disk_forgets_the_entries_of_a_failed_folder_sync_whatever_later_ones_say() {
    let lost = |seed| {
        let disk = FaultDisk::new(seed);
        disk.forget_failed_entries();
        disk.create(Path::new("a")).unwrap().sync().unwrap();
        disk.fail(Rule::nth(1, Fault::Eio).of(Op::SyncDir));
        assert!(disk.sync_dir(Path::new("")).is_err());
        disk.create(Path::new("b")).unwrap().sync().unwrap();
        disk.sync_dir(Path::new("")).unwrap();
        assert_eq!(disk.files().len(), 2, "programs see both");
        // A name that is given anew is as certain as any.
        disk.rename(Path::new("b"), Path::new("c")).unwrap();
        disk.sync_dir(Path::new("")).unwrap();
        let found = disk.power_cut(seed);
        assert!(found.contents(Path::new("c")).is_some());
        found.contents(Path::new("a")).is_none()
    };
    assert_eq!((0..100).map(lost).collect::<BTreeSet<_>>(), BTreeSet::from([false, true]));
}

#[test]
fn a_closed_gate_holds_a_call_and_no_other() {
    let (disk, file) = disk_with_a_synced_file();
    let gate = disk.close_gate(Op::Sync, "d/a");
    file.write_at(b"new", 0).unwrap();
    std::thread::scope(|scope| {
        let held = scope.spawn(|| file.sync());
        gate.wait_for_a_call();
        let mut buf = [0; 3];
        assert_eq!(file.read_at(&mut buf, 0).unwrap(), 3);
        disk.create(&path("b")).unwrap().sync().unwrap();
        assert_eq!(disk.stats().calls[&Op::Sync], 2, "the call has not been made");
        drop(gate);
        held.join().unwrap().unwrap();
    });
    assert_eq!(results_of_cuts(&disk, "a"), BTreeSet::from([some(b"new")]));
}

#[test]
fn a_power_cut_opens_the_gates() {
    let (disk, file) = disk_with_a_synced_file();
    let gate = disk.close_gate(Op::Write, "d/a");
    std::thread::scope(|scope| {
        let held = scope.spawn(|| file.write_at(b"new", 0));
        gate.wait_for_a_call();
        let after = disk.power_cut(1);
        assert!(held.join().unwrap().is_err());
        assert_eq!(after.contents(&path("a")), some(b"old"));
    });
}

#[test]
fn files_have_kinds() {
    for (path, kind) in [
        ("data/log/journal-000000000000000a", "log/journal"),
        ("data/log/segment-0000000000000001-0000000000000002.tmp", "log/segment.tmp"),
        ("data/log/set-aside/journal-0000000000000001-20-5f", "set-aside/journal"),
        ("data/log/set-aside", "log/set-aside"),
        ("data/log", "data/log"),
        ("catalog", "/catalog"),
    ] {
        assert_eq!(file_kind(Path::new(path)), kind);
    }
}

#[test]
fn a_rule_can_be_the_beginning_of_the_end() {
    let (disk, file) = disk_with_a_synced_file();
    disk.fail(Rule::nth(2, Fault::Eio).of(Op::Sync).on_kind("d/a").then_all());
    file.sync().unwrap();
    disk.list(Path::new("d")).unwrap();
    file.sync().unwrap_err();
    disk.list(Path::new("d")).unwrap_err();
    file.sync().unwrap_err();
    let hit = [(Op::List, "/d".to_owned()), (Op::Sync, "d/a".to_owned())];
    assert_eq!(disk.hit(), BTreeSet::from(hit));
}

#[test]
fn a_full_disk_takes_what_fits_and_then_nothing() {
    let (disk, file) = disk_with_a_synced_file();
    disk.set_total_bytes(10);
    assert_eq!(disk.space(Path::new("d")).unwrap(), Space { free_bytes: 7, total_bytes: 10 });
    assert_eq!(file.write_at(&[1; 9], 3).unwrap(), 7);
    assert_eq!(file.write_at(&[1; 2], 10).unwrap_err().kind(), io::ErrorKind::StorageFull);
    assert_eq!(file.write_at(b"over", 0).unwrap(), 4, "overwriting needs no space");
    disk.set_total_bytes(12);
    assert_eq!(file.write_at(&[1; 2], 10).unwrap(), 2);
}

#[test]
fn names_behave() {
    let (disk, _file) = disk_with_a_synced_file();
    let kind = |result: io::Result<Arc<dyn DiskFile>>| result.map(drop).unwrap_err().kind();
    assert_eq!(kind(disk.create(&path("a"))), io::ErrorKind::AlreadyExists);
    assert_eq!(kind(disk.open(&path("b"))), io::ErrorKind::NotFound);
    assert_eq!(kind(disk.create(Path::new("no/a"))), io::ErrorKind::NotFound);
    assert_eq!(disk.list(Path::new("no")).unwrap_err().kind(), io::ErrorKind::NotFound);
    assert_eq!(disk.list(Path::new("d")).unwrap(), [Entry { name: "a".into(), len_bytes: 3 }]);
    let guard = disk.lock(&path("lock")).unwrap();
    assert_eq!(disk.lock(&path("lock")).map(drop).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    drop(guard);
    assert!(disk.lock(&path("lock")).is_ok());
}

#[test]
fn damage_outlives_a_cut() {
    let (disk, _file) = disk_with_a_synced_file();
    assert!(disk.damage(&path("a"), |bytes| bytes[0] ^= 1));
    assert_eq!(results_of_cuts(&disk, "a"), BTreeSet::from([some(b"nld")]));
    assert!(!disk.damage(&path("b"), |_| ()));
}

#[test]
fn open_files_are_counted() {
    let (disk, file) = disk_with_a_synced_file();
    let second = disk.open(&path("a")).unwrap();
    assert_eq!((disk.stats().open_files, disk.stats().open_files_max), (2, 2));
    drop((file, second));
    assert_eq!((disk.stats().open_files, disk.stats().open_files_max), (0, 2));
}
