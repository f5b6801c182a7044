//! The server dies, freezes and loses bytes: the snapshots that were there are there.

use crate::support::{FOLDER, config, cut_after, names, newest, snapshot, snapshots, store, told};
use floodplain_fold::{Objects as _, SnapshotError};
use floodplain_object_store::{ObjectStore, Patience, S3Config};
use floodplain_testkit::S3Server;
use std::{
    fs,
    sync::{Arc, Mutex},
    time::Duration,
};

const KIB: usize = 1 << 10;

#[test]
fn what_was_written_survives_the_server() {
    let mut server = S3Server::start().unwrap();
    let store = store(&config(&server));
    snapshots(&store).write(&snapshot(10, KIB)).unwrap();
    server.kill().unwrap();
    let error = snapshots(&store).load(|_| Ok(())).unwrap_err();
    assert!(told(&error).contains("is its address right, and is it running?"), "{}", told(&error));
    let error = snapshots(&store).write(&snapshot(20, KIB)).unwrap_err();
    assert!(matches!(error, SnapshotError::Io { action: "write", .. }), "{error}");
    server.restart().unwrap();
    assert_eq!(newest(&store), (Some(10), 0));
    snapshots(&store).write(&snapshot(20, KIB)).unwrap();
    assert_eq!((newest(&store), names(&store).len()), ((Some(20), 0), 2));
}

/// After so many bytes of a write: of a small object, and of one that goes in parts.
#[test]
fn a_server_that_is_killed_in_the_middle_of_a_write_has_the_snapshots_before_it() {
    for (size, cuts) in
        [(4 * KIB, [1, 700, 2000]), (1 << 20, [5000, 300 * KIB, 1000 * KIB]), (9 << 20, [200, 1 << 20, 17 << 19])]
    {
        for cut in cuts {
            let server = S3Server::start().unwrap();
            let (port, direct) = (server.port(), config(&server));
            let near = store(&direct);
            for offset in [10, 15] {
                snapshots(&near).write(&snapshot(offset, KIB)).unwrap();
            }
            let server = Arc::new(Mutex::new(server));
            let killed = Arc::clone(&server);
            let proxy = cut_after(port, cut, move || killed.lock().unwrap().kill().unwrap());
            let patience = Patience { total: Duration::from_millis(200), ..direct.patience };
            let far = S3Config { endpoint: Some(format!("http://127.0.0.1:{proxy}")), patience, ..direct.clone() };
            let written = snapshots(&store(&far)).write(&snapshot(20, size));
            assert!(matches!(written, Err(SnapshotError::Io { action: "write", .. })), "{size}, {cut}: {written:?}");
            server.lock().unwrap().restart().unwrap();
            assert_eq!(names(&near).len(), 2, "{size}, {cut}: {:?}", names(&near));
            assert_eq!(newest(&near), (Some(15), 0), "{size}, {cut}");
            snapshots(&near).write(&snapshot(20, size)).unwrap();
            assert_eq!((newest(&near), names(&near).len()), ((Some(20), 0), 2), "{size}, {cut}");
        }
    }
}

/// The kernel accepts connections for it, so it looks as if it were slow.
#[test]
fn a_frozen_server_fails_calls_in_time() {
    let server = S3Server::start().unwrap();
    let mut config = config(&server);
    config.patience.request = Duration::from_millis(500);
    let store = store(&config);
    snapshots(&store).write(&snapshot(10, KIB)).unwrap();
    server.freeze(true).unwrap();
    let listed = store.list(FOLDER).unwrap_err();
    let written = snapshots(&store).write(&snapshot(20, KIB)).unwrap_err();
    server.freeze(false).unwrap();
    for told in [told(&listed), told(&written)] {
        assert!(told.contains("does not answer as it should") && told.contains("timed out"), "{told}");
    }
    // It may have heard of the write and gone on with it.
    let (found, set_aside) = newest(&store);
    assert!(matches!(found, Some(10 | 20)) && set_aside == 0, "{found:?}");
    snapshots(&store).write(&snapshot(30, KIB)).unwrap();
    assert_eq!(newest(&store), (Some(30), 0));
}

/// Behind the back of the server.
#[test]
fn an_object_that_lost_bytes_is_set_aside() {
    for left in [0, 1, 30, 500] {
        let server = S3Server::start().unwrap();
        let store = store(&config(&server));
        for offset in [10, 20] {
            snapshots(&store).write(&snapshot(offset, KIB)).unwrap();
        }
        let name = "snapshot-00000000-0000000000000014";
        let file = server.objects().join("a/b").join(FOLDER).join(name);
        fs::File::options().write(true).open(&file).unwrap().set_len(left).unwrap();
        assert_eq!(newest(&store), (Some(10), 1), "{left}");
        assert_eq!(names(&store)[0], format!("damaged-{name}"), "{left}");
        assert_eq!(store.get(&format!("{FOLDER}/damaged-{name}")).unwrap().len() as u64, left);
        assert_eq!(newest(&store), (Some(10), 0), "{left}: once");
    }
}

/// S3 gives a thousand names at a time.
#[test]
fn more_objects_than_one_answer_names_are_all_seen() {
    let server = S3Server::start().unwrap();
    let store = store(&config(&server));
    let folder = server.objects().join("a/b").join(FOLDER);
    fs::create_dir_all(folder.join("below")).unwrap();
    for offset in 1..=1004 {
        fs::write(folder.join(format!("snapshot-00000000-{offset:016x}")), "damaged, all of them").unwrap();
    }
    fs::write(folder.join("below/snapshot-00000000-00000000000fffff"), "of another fold").unwrap();
    assert_eq!(names(&store).len(), 1004);
    snapshots(&store).write(&snapshot(2000, KIB)).unwrap();
    assert_eq!(names(&store), ["snapshot-00000000-00000000000003ec", "snapshot-00000000-00000000000007d0"]);
    assert_eq!(newest(&store), (Some(2000), 0));
}

/// Workers open folds on threads that drive a runtime.
#[test]
fn it_may_be_called_and_dropped_on_a_thread_of_a_runtime() {
    let server = S3Server::start().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let store = store(&config(&server));
        assert_eq!(newest(&store), (None, 0));
        drop::<Arc<ObjectStore>>(store);
    });
}
