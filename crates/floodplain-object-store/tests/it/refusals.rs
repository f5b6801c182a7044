//! What is wrong with the configuration is said, with what to do about it.

use crate::support::{FOLDER, config, names, snapshot, snapshots, store, told};
use floodplain_fold::Objects as _;
use floodplain_object_store::{AccessKey, ObjectStore, OpenError, S3Config};
use floodplain_testkit::S3Server;
use std::{
    fs,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{Ipv4Addr, TcpListener},
};

/// What a list, a write and a read say.
fn answers(config: &S3Config) -> [(io::ErrorKind, String); 3] {
    let store = store(config);
    let listed = store.list(FOLDER).unwrap_err();
    let written = store.put("a/x", b"x".to_vec()).unwrap_err();
    let read = store.get("a/x").unwrap_err();
    [listed, written, read].map(|error| (error.kind(), told(&error)))
}

#[test]
fn a_wrong_key_or_secret_is_access_refused() {
    let server = S3Server::start().unwrap();
    let right = config(&server);
    let dir = tempfile::tempdir().unwrap();
    let other = dir.path().join("secret");
    fs::write(&other, "another secret").unwrap();
    let id = S3Server::ACCESS_KEY.to_owned();
    for key in
        [AccessKey { id: "nobody".to_owned(), secret_file: server.secret_file() }, AccessKey { id, secret_file: other }]
    {
        let wrong = S3Config { access_key: Some(key), ..right.clone() };
        assert_eq!(store(&wrong).delete("a/x").unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        for (kind, told) in answers(&wrong) {
            assert_eq!(kind, io::ErrorKind::PermissionDenied, "{told}");
            for part in ["s3://fleet/a/b at http://127.0.0.1:", "the access key and its secret must be right"] {
                assert!(told.contains(part), "{told}");
            }
            assert!(!told.contains("another secret") && !told.contains(S3Server::SECRET), "{told}");
        }
    }
    snapshots(&store(&right)).write(&snapshot(10, 10)).unwrap();
    assert!(!format!("{:?}", store(&right)).contains(S3Server::SECRET));
}

#[test]
fn a_bucket_that_is_not_there_is_to_be_made() {
    let server = S3Server::start().unwrap();
    let config = S3Config { bucket: "nowhere".to_owned(), ..config(&server) };
    let error = store(&config).list(FOLDER).unwrap_err();
    for part in ["the bucket of s3://nowhere/a/b at http", "does not exist: make it, or correct its name"] {
        assert!(told(&error).contains(part), "{}", told(&error));
    }
    let error = snapshots(&store(&config)).load(|_| Ok(())).unwrap_err();
    assert!(told(&error).contains("make it"), "not as if there were no snapshots: {error}");
    fs::create_dir(server.objects().with_file_name("nowhere")).unwrap();
    snapshots(&store(&config)).write(&snapshot(10, 10)).unwrap();
    assert_eq!(names(&store(&config)).len(), 1);
}

/// Amazon's own words for what the server of these tests says otherwise, or not at all.
#[test]
fn what_amazon_answers_is_understood() {
    let server = S3Server::start().unwrap();
    let xml = |code: &str| {
        format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code><Message>m</Message></Error>")
    };
    for (status, code, kind, says) in [
        ("404 Not Found", "NoSuchBucket", io::ErrorKind::Other, "make it, or correct its name"),
        ("403 Forbidden", "InvalidAccessKeyId", io::ErrorKind::PermissionDenied, "refuses access"),
        ("403 Forbidden", "AccessDenied", io::ErrorKind::PermissionDenied, "refuses access"),
        ("503 Service Unavailable", "SlowDown", io::ErrorKind::Other, "does not answer as it should"),
        ("400 Bad Request", "AuthorizationHeaderMalformed", io::ErrorKind::Other, "AuthorizationHeaderMalformed"),
    ] {
        let endpoint = Some(format!("http://127.0.0.1:{}", answering(status, xml(code))));
        let config = S3Config { endpoint, ..config(&server) };
        for (found, told) in answers(&config) {
            assert_eq!(found, kind, "{code}: {told}");
            assert!(told.contains(says) && told.contains(code), "{code}: {told}");
        }
    }
}

/// Answers every request so. The port that it listens on.
fn answering(status: &'static str, body: String) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let (mut client, mut head) = (BufReader::new(client.unwrap()), String::new());
            while client.read_line(&mut head).is_ok_and(|read| read > 2) {}
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            let length = length.map_or(0, |length| length.parse().unwrap());
            client.read_exact(&mut vec![0; length]).unwrap();
            let answer =
                format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len());
            client.get_mut().write_all(answer.as_bytes()).unwrap();
        }
    });
    port
}

#[test]
fn a_secret_that_cannot_be_read_is_told_with_its_path() {
    let server = S3Server::start().unwrap();
    let key = AccessKey { id: "x".to_owned(), secret_file: "/does/not/exist".into() };
    let error = ObjectStore::s3(&S3Config { access_key: Some(key), ..config(&server) }).unwrap_err();
    assert!(matches!(error, OpenError::Secret { .. }) && error.to_string().contains("/does/not/exist"), "{error}");
}

#[test]
fn http_is_spoken_only_if_it_may() {
    let server = S3Server::start().unwrap();
    let store = store(&S3Config { allow_http: false, ..config(&server) });
    assert!(store.list(FOLDER).is_err());
}
