//! A server, a client with little patience, and what stands between the two.

use floodplain_fold::{Emitted, Objects, Snapshot, SnapshotMeta, Snapshots};
use floodplain_object_store::{AccessKey, ObjectStore, Patience, S3Config};
use floodplain_testkit::S3Server;
use floodplain_types::{PartitionId, Position, StreamId, StreamName, TenantId, Timestamp};
use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, Shutdown, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    time::Duration,
};

pub(crate) fn config(server: &S3Server) -> S3Config {
    S3Config {
        bucket: S3Server::BUCKET.to_owned(),
        prefix: "a/b".to_owned(),
        endpoint: Some(server.endpoint()),
        region: None,
        access_key: Some(AccessKey { id: S3Server::ACCESS_KEY.to_owned(), secret_file: server.secret_file() }),
        allow_http: true,
        patience: Patience {
            connect: Duration::from_millis(500),
            // A busy machine answers the slowest request in that time.
            request: Duration::from_secs(30),
            total: Duration::from_secs(1),
        },
    }
}

pub(crate) fn store(config: &S3Config) -> Arc<ObjectStore> {
    Arc::new(ObjectStore::s3(config).unwrap())
}

pub(crate) const FOLDER: &str = "sums/default.input-3";

fn partition() -> PartitionId {
    let (tenant, stream) = (TenantId::default_tenant(), StreamName::new("input").unwrap());
    PartitionId { stream: StreamId { tenant, stream, generation: 0 }, index: 3 }
}

pub(crate) fn snapshots(store: &Arc<ObjectStore>) -> Snapshots {
    Snapshots::of(store.clone(), "sums", &partition())
}

/// One of so many bytes, which do not compress.
pub(crate) fn snapshot(offset: u64, bytes: usize) -> Snapshot {
    let mut state = Vec::with_capacity(bytes);
    let mut word = 0x9e37_79b9_7f4a_7c15_u64 ^ offset;
    while state.len() < bytes {
        word ^= word << 13;
        word ^= word >> 7;
        word ^= word << 17;
        state.extend_from_slice(&word.to_le_bytes());
    }
    let position = Position::new(0, offset);
    Snapshot {
        meta: SnapshotMeta {
            fold: "sums".to_owned(),
            format: 1,
            partition: partition().to_string(),
            position,
            log_time: Timestamp(0),
            emitted: Emitted::default(),
            folds_from: Position::ZERO,
        },
        state,
    }
}

/// The offset of the newest, and how many were set aside.
pub(crate) fn newest(store: &Arc<ObjectStore>) -> (Option<u64>, usize) {
    let loaded = snapshots(store).load(|_| Ok(())).unwrap();
    (loaded.meta.map(|meta| meta.position.offset), loaded.set_aside.len())
}

/// Names below [`FOLDER`], in order.
pub(crate) fn names(store: &Arc<ObjectStore>) -> Vec<String> {
    let mut names = store.list(FOLDER).unwrap();
    names.sort();
    names
}

/// An error with all its causes.
pub(crate) fn told(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// Stands before the server on `port` until clients have said so many bytes; then `end` is called, and from then on there are no
/// connections. The port that it listens on.
pub(crate) fn cut_after(port: u16, bytes: usize, end: impl FnOnce() + Send + 'static) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let own = listener.local_addr().unwrap().port();
    let end: Box<dyn FnOnce() + Send> = Box::new(end);
    let left = Arc::new(Mutex::new((bytes, Some(end))));
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let left = Arc::clone(&left);
            std::thread::spawn(move || pass(client.unwrap(), port, &left));
        }
    });
    own
}

type Left = Mutex<(usize, Option<Box<dyn FnOnce() + Send>>)>;

fn pass(mut client: TcpStream, port: u16, left: &Left) {
    // A client of a server that is gone is left alone.
    let Ok(mut server) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)) else { return };
    let (mut from, mut to) = (server.try_clone().unwrap(), client.try_clone().unwrap());
    std::thread::spawn(move || drop(std::io::copy(&mut from, &mut to)));
    let mut buffer = vec![0; 16 << 10];
    while let Ok(read @ 1..) = client.read(&mut buffer) {
        let mut left = left.lock().unwrap();
        let passed = read.min(left.0);
        left.0 -= passed;
        drop(server.write_all(&buffer[..passed]));
        if left.0 == 0 {
            if let Some(end) = left.1.take() {
                end();
            }
            break;
        }
    }
    drop((client.shutdown(Shutdown::Both), server.shutdown(Shutdown::Both)));
}
