//! The console in a real browser, against a real server; and the files it is made of.

use crate::{
    access::setup_link,
    process::{Server, python},
};
use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    path::Path,
};

/// Head and body of the answer.
fn get(server: &Server, path: &str, headers: &str) -> (String, Vec<u8>) {
    let mut stream = TcpStream::connect(server.http).unwrap();
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {}\r\n{headers}\r\n", server.http).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
    (String::from_utf8(answer[..end].to_vec()).unwrap().to_ascii_lowercase(), answer[end..].to_vec())
}

fn header<'h>(head: &'h str, name: &str) -> &'h str {
    let line = head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    line.unwrap_or_else(|| panic!("{name} is missing: {head}"))
}

#[test]
fn every_built_file_is_served_as_it_is() {
    let dist = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../ui/dist");
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let mut count = 0;
    for (below, path) in [("", "/"), ("a", "/a/")] {
        for entry in std::fs::read_dir(dist.join(below)).unwrap() {
            let entry = entry.unwrap();
            if entry.path().is_dir() {
                continue;
            }
            let name = entry.file_name().into_string().unwrap();
            let path = if name == "index.html" { "/".to_owned() } else { format!("{path}{name}") };
            let (head, body) = get(&server, &path, "");
            assert!(head.starts_with("http/1.0 200") || head.starts_with("http/1.1 200"), "{path}: {head}");
            assert!(body == std::fs::read(entry.path()).unwrap(), "{path} is not the file of ui/dist");
            let media = match path.rsplit_once('.') {
                Some((_, "js")) => "text/javascript; charset=utf-8",
                Some((_, "css")) => "text/css; charset=utf-8",
                Some((_, "svg")) => "image/svg+xml",
                Some((_, "txt")) => "text/plain; charset=utf-8",
                _ => "text/html; charset=utf-8",
            };
            assert_eq!(header(&head, "content-type"), media, "{path}");
            assert!(header(&head, "content-security-policy").starts_with("default-src 'self'"), "{head}");
            assert_eq!(header(&head, "x-content-type-options"), "nosniff");
            assert_eq!(header(&head, "cache-control"), "no-cache");
            let tag = header(&head, "etag").to_owned();
            let (head, body) = get(&server, &path, &format!("If-None-Match: {tag}\r\n"));
            assert!(head.contains(" 304 ") && body.is_empty(), "{path}: {head}");
            count += 1;
        }
    }
    assert!(count > 20, "only {count} files");
    assert_eq!(get(&server, "/setup", "").1, get(&server, "/", "").1);
    for path in ["/a/nothing.js", "/a/..%2findex.html", "/nowhere", "/api/v1/nowhere"] {
        assert!(get(&server, path, "").0.contains(" 404 "), "{path}");
    }
}

#[test]
fn the_console_works_in_a_browser() {
    let folder = tempfile::tempdir().unwrap();
    // A stream beside `telemetry`, which a binding of the console names.
    std::fs::write(folder.path().join("floodplain.toml"), "[[streams]]\nname = \"raw\"\n").unwrap();
    let server = Server::start(folder.path());
    let (http, port) = (format!("http://{}/", server.http), server.mqtt.port().to_string());
    let printed = python("console.py", &[&http, &port]);
    assert!(printed.ends_with("all pages are well\n"), "{printed}");
}

#[test]
fn the_console_takes_users_from_the_setup_link_to_their_roles() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let printed = python("console_access.py", &[&format!("http://{}/", server.http), &setup_link(&server)]);
    assert!(printed.ends_with("everybody may what they may\n"), "{printed}");
}

#[test]
fn the_demo_opens_its_console() {
    let printed = python("demo.py", &[env!("CARGO_BIN_EXE_floodplain")]);
    assert!(printed.ends_with("the console is one step away\n"), "{printed}");
}
