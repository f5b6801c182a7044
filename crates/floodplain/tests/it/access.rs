//! Users, tokens and logins of a real server, and what a kill leaves of them.

use crate::process::{Server, floodplain, poll, run, stderr, stdout};
use serde_json::{Value, json};
use std::{path::Path, process::Output};
use ureq::http::{Request, Response};

pub(crate) const PASSWORD: &str = "a password of anna";

/// The link of the last start.
pub(crate) fn setup_link(server: &Server) -> String {
    poll("setup link", || {
        let logged = server.logged();
        let (_, rest) = logged.rsplit_once("link=")?;
        // A line that is whole.
        let (line, _) = rest.split_once('\n')?;
        Some(line.split_whitespace().next()?.trim_matches('"').to_owned())
    })
}

pub(crate) fn send(
    server: &Server,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &Value,
) -> Response<ureq::Body> {
    let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).proxy(None).build().into();
    let mut request = Request::builder().method(method).uri(format!("http://{}{path}", server.http));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.header("Content-Type", "application/json");
    if body.is_null() {
        agent.run(request.body(()).unwrap()).unwrap()
    } else {
        agent.run(request.body(body.to_string()).unwrap()).unwrap()
    }
}

fn status(server: &Server, method: &str, path: &str, headers: &[(&str, &str)], body: &Value) -> u16 {
    send(server, method, path, headers, body).status().as_u16()
}

fn cookie(response: &Response<ureq::Body>) -> String {
    let cookie = response.headers()["set-cookie"].to_str().unwrap();
    cookie.split(';').next().unwrap().to_owned()
}

/// A command against the server, with a token in the environment.
fn command(folder: &Path, server: &Server, token: &str, args: &[&str]) -> Output {
    let url = format!("http://{}", server.http);
    floodplain(folder).args(args).args(["--url", &url]).env("FLOODPLAIN_TOKEN", token).output().unwrap()
}

fn done(output: &Output) -> String {
    assert!(output.status.success(), "{}", stderr(output));
    stdout(output)
}

fn failed(output: &Output, text: &str) {
    assert_eq!(output.status.code(), Some(1), "{}", stdout(output));
    assert!(stderr(output).contains(text), "{}", stderr(output));
}

#[test]
fn from_the_setup_link_to_roles_and_over_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let server = Server::start(folder);
    assert_eq!(status(&server, "GET", "/metrics", &[], &Value::Null), 200);
    let first_link = setup_link(&server);
    // Another start, another link; the old one is of no use.
    drop(server);
    let server = Server::start(folder);
    let link = poll("another link", || Some(setup_link(&server)).filter(|link| *link != first_link));
    let (url, token) = link.split_once("/setup#").unwrap();
    assert_eq!(url, format!("http://{}", server.http));
    let setup = |token: &str| json!({ "token": token, "user": "anna", "password": PASSWORD });
    let (_, old) = first_link.split_once('#').unwrap();
    assert_eq!(status(&server, "POST", "/api/v1/setup", &[], &setup(old)), 403);
    let made = send(&server, "POST", "/api/v1/setup", &[], &setup(token));
    assert_eq!(made.status(), 204);
    let cookie = cookie(&made);
    assert_eq!(status(&server, "POST", "/api/v1/setup", &[], &setup(token)), 409);

    // Closed to strangers.
    let query = json!({ "query": "SELECT count(*) AS n FROM records" });
    for (method, path) in [("GET", "/metrics"), ("POST", "/api/v1/sql"), ("GET", "/api/v1/users")] {
        let body = if method == "POST" { &query } else { &Value::Null };
        assert_eq!(status(&server, method, path, &[], body), 401, "{path}");
    }
    failed(&command(folder, &server, "", &["sql", "SELECT 1"]), "floodplain errors login_needed");
    failed(&command(folder, &server, "fp_x", &["sql", "SELECT 1"]), "floodplain errors token_invalid");
    assert_eq!(server.get("/healthz").0, 200);

    // By session, by password, by token.
    let origin = format!("http://{}", server.http);
    let session = [("Cookie", cookie.as_str()), ("Origin", origin.as_str())];
    assert_eq!(status(&server, "POST", "/api/v1/sql", &session, &query), 200);
    std::fs::write(folder.join("anna.password"), format!("{PASSWORD}\n")).unwrap();
    std::fs::write(folder.join("bert.password"), "a password of bert\n").unwrap();
    let login = ["--login", "anna", "--login-password-file", "anna.password"];
    let create = |name: &str, role: &str| {
        let args = [&["token", "create", name, "--role", role][..], &login].concat();
        done(&command(folder, &server, "", &args)).trim().to_owned()
    };
    let (admin, viewer) = (create("for the admin", "admin"), create("grafana", "viewer"));
    assert!(admin.starts_with("fp_") && admin.len() == 46);
    let table = done(&command(folder, &server, &viewer, &["sql", "SELECT 1 AS one"]));
    assert!(table.contains("one"), "{table}");
    failed(&command(folder, &server, &viewer, &["user", "list"]), "floodplain errors role_missing");
    let add = ["user", "add", "bert", "--role", "editor", "--password-file", "bert.password"];
    done(&command(folder, &server, &admin, &add));
    failed(&command(folder, &server, &admin, &add), "user bert exists already");
    failed(&command(folder, &server, &admin, &["user", "remove", "anna"]), "last admin");
    done(&command(folder, &server, &admin, &["user", "role", "bert", "viewer"]));
    assert!(!server.logged().contains(&admin) && !server.logged().contains(PASSWORD));

    // A kill leaves all of it as it was, and needs no setup.
    server.signal("KILL");
    let mut server = server;
    server.wait();
    let before = server.logged().matches("/setup#").count();
    let server = Server::start(folder);
    assert_eq!(server.logged().matches("/setup#").count(), before);
    let origin = format!("http://{}", server.http);
    let session = [("Cookie", cookie.as_str()), ("Origin", origin.as_str())];
    assert_eq!(status(&server, "POST", "/api/v1/sql", &session, &query), 200);
    let users: Value =
        serde_json::from_str(&done(&command(folder, &server, &admin, &["user", "list", "--output", "json"]))).unwrap();
    let users: Vec<_> =
        users.as_array().unwrap().iter().map(|user| (user["user"].as_str(), user["role"].as_str())).collect();
    assert_eq!(users, [(Some("anna"), Some("admin")), (Some("bert"), Some("viewer"))]);

    // A token that is removed, a password that is changed.
    let tokens: Value =
        serde_json::from_str(&done(&command(folder, &server, &admin, &["token", "list", "--output", "json"]))).unwrap();
    let grafana = tokens.as_array().unwrap().iter().find(|token| token["name"] == "grafana").unwrap();
    assert!(grafana["last_used"].is_string(), "{grafana}");
    done(&command(folder, &server, &admin, &["token", "remove", grafana["id"].as_str().unwrap()]));
    failed(&command(folder, &server, &viewer, &["sql", "SELECT 1"]), "token_invalid");
    std::fs::write(folder.join("new.password"), "another password").unwrap();
    done(&command(folder, &server, &admin, &["user", "passwd", "anna", "--password-file", "new.password"]));
    assert_eq!(status(&server, "POST", "/api/v1/sql", &session, &query), 401);
    failed(&command(folder, &server, "", &[&["user", "list"][..], &login].concat()), "login_failed");
    let logged_in =
        send(&server, "POST", "/api/v1/login", &[], &json!({ "user": "anna", "password": "another password" }));
    assert_eq!(logged_in.status(), 204);

    // Guesses wait.
    let guess = json!({ "user": "bert", "password": "a wrong password" });
    let slow =
        (0..50).map(|_| send(&server, "POST", "/api/v1/login", &[], &guess)).find(|answer| answer.status() == 429);
    let slow = slow.expect("slowed down");
    assert!(slow.headers()["retry-after"].to_str().unwrap().parse::<u64>().unwrap() >= 1);
}

#[test]
fn a_quiet_log_does_not_hide_the_setup_link() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("floodplain.toml"), "tracing.level = \"error\"\n").unwrap();
    let server = Server::start(folder.path());
    let link = format!("this link makes the first one, once: http://{}/setup#", server.http);
    poll("setup link", || server.logged().contains(&link).then_some(()));
}

#[test]
fn what_is_no_registry_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("data")).unwrap();
    std::fs::write(folder.path().join("data/registry.db"), "not a database, whatever it is".repeat(100)).unwrap();
    let output = run(
        folder.path(),
        &[
            "serve",
            "--data-dir",
            "data",
            "--http-address",
            "127.0.0.1:0",
            "--mqtt-address",
            "127.0.0.1:0",
            "--postgres-address",
            "127.0.0.1:0",
        ],
    );
    failed(&output, "cannot open the registry of users: cannot open data/registry.db");
}

#[test]
fn codes_are_explained() {
    let folder = tempfile::tempdir().unwrap();
    let all = done(&run(folder.path(), &["errors"]));
    let json: Value = serde_json::from_str(&done(&run(folder.path(), &["errors", "--output", "json"]))).unwrap();
    for entry in json.as_array().unwrap() {
        let code = entry["code"].as_str().unwrap();
        assert!(all.contains(code), "{code}");
        let one = done(&run(folder.path(), &["errors", code]));
        for field in ["code", "title", "meaning", "remedy"] {
            assert!(one.contains(entry[field].as_str().unwrap()), "{code}: {one}");
        }
    }
    failed(&run(folder.path(), &["errors", "no_such_code"]), "there is no code no_such_code");
}
