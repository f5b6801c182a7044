//! Users, roles, tokens, sessions; and that strangers get nothing.

use crate::client::{Answer, Server};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use std::time::Duration;

const PASSWORD: &str = "a password of anna";

/// Everything that strangers may not ask, with the least role that may.
const GUARDED: [(&str, &str, &str); 20] = [
    ("POST", "/api/v1/sql", "viewer"),
    ("GET", "/api/v1/topics", "viewer"),
    ("GET", "/api/v1/topics/a", "viewer"),
    ("GET", "/api/v1/subscribe", "viewer"),
    ("GET", "/api/v1/overview", "viewer"),
    ("GET", "/api/v1/tables", "viewer"),
    ("POST", "/api/v1/topics/a", "editor"),
    ("POST", "/write", "editor"),
    ("POST", "/api/v2/write", "editor"),
    ("GET", "/metrics", "viewer"),
    ("GET", "/api/v1/users", "admin"),
    ("POST", "/api/v1/users", "admin"),
    ("PATCH", "/api/v1/users/anna", "admin"),
    ("DELETE", "/api/v1/users/anna", "admin"),
    ("GET", "/api/v1/tokens", "admin"),
    ("POST", "/api/v1/tokens", "admin"),
    ("DELETE", "/api/v1/tokens/t-0", "admin"),
    ("GET", "/api/v1/what-comes-later", "viewer"),
    ("PUT", "/api/v1/what-comes-later", "editor"),
    ("POST", "/what-comes-later", "editor"),
];

impl Server {
    async fn json(&self, method: &str, path: &str, headers: &str, body: &str) -> Answer {
        let headers = format!("{headers}Content-Type: application/json\r\n");
        self.request(method, &format!("/api/v1/{path}"), &headers, body).await
    }

    /// With the admin `anna`; her cookie as a header, with the Origin that browsers send.
    async fn claimed() -> (Self, String) {
        let server = Self::start().await;
        let token = server.registry.setup_token().unwrap();
        let body = format!(r#"{{"token":"{}","user":"Anna","password":"{PASSWORD}"}}"#, token.reveal());
        let answer = server.json("POST", "setup", "", &body).await;
        assert_eq!(answer.status, 204, "{answer:?}");
        let cookie = server.cookie(&answer);
        (server, cookie)
    }

    fn cookie(&self, answer: &Answer) -> String {
        let line = answer.head.lines().find_map(|line| line.strip_prefix("set-cookie: ")).unwrap();
        for attribute in ["httponly", "samesite=strict", "path=/", "max-age="] {
            assert!(line.contains(attribute), "{line}");
        }
        // `Answer` has the head in lower case; sessions come from the whole one.
        let whole = answer.raw_head.lines().find_map(|line| line.strip_prefix("set-cookie: ")).unwrap();
        let pair = whole.split(';').next().unwrap();
        format!("Cookie: other=1; {pair}\r\nOrigin: http://{}\r\n", self.address)
    }

    /// An API token as a header, and its id.
    async fn token(&self, admin: &str, role: &str) -> (String, String) {
        let body = format!(r#"{{"name":"a program","role":"{role}"}}"#);
        let made = self.json("POST", "tokens", admin, &body).await;
        assert_eq!(made.status, 201, "{made:?}");
        let (id, token) = (made.json()["id"].clone(), made.json()["token"].clone());
        (format!("Authorization: Bearer {}\r\n", token.as_str().unwrap()), id.as_str().unwrap().to_owned())
    }
}

fn basic(user: &str, password: &str) -> String {
    format!("Authorization: Basic {}\r\n", STANDARD.encode(format!("{user}:{password}")))
}

#[tokio::test]
async fn before_the_first_user_this_machine_may_do_everything() {
    let server = Server::start().await;
    let me = server.get("/api/v1/me").await.json();
    assert_eq!(
        me,
        serde_json::json!({"user": null, "role": "admin", "claimed": false, "version": env!("CARGO_PKG_VERSION")})
    );
    assert_eq!(server.query("SELECT 1").await.status, 200);
    assert_eq!(server.get("/metrics").await.status, 200);
    assert_eq!(server.get("/api/v1/users").await.json()["users"], serde_json::json!([]));
    // But not make users or tokens without the link, nor log in.
    let body = format!(r#"{{"user":"eve","password":"{PASSWORD}","role":"admin"}}"#);
    server.json("POST", "users", "", &body).await.assert_problem(409, "setup_needed");
    server.json("POST", "tokens", "", r#"{"name":"x","role":"admin"}"#).await.assert_problem(409, "setup_needed");
    let body = format!(r#"{{"user":"eve","password":"{PASSWORD}"}}"#);
    server.json("POST", "login", "", &body).await.assert_problem(409, "setup_needed");
}

#[tokio::test]
async fn the_setup_link_works_once_and_closes_the_door() {
    let server = Server::start().await;
    let token = server.registry.setup_token().unwrap();
    let setup = async |token: &str, password: &str| {
        let body = format!(r#"{{"token":"{token}","user":"anna","password":"{password}"}}"#);
        server.json("POST", "setup", "", &body).await
    };
    setup("wrong", PASSWORD).await.assert_problem(403, "setup_token_wrong");
    setup(token.reveal(), "short").await.assert_problem(422, "password_weak");
    let done = setup(token.reveal(), PASSWORD).await;
    assert_eq!(done.status, 204, "{done:?}");
    let cookie = server.cookie(&done);
    setup(token.reveal(), PASSWORD).await.assert_problem(409, "setup_done");

    for (method, path, _) in GUARDED {
        for headers in ["", "Cookie: floodplain_session=x\r\n", "Authorization: Negotiate x\r\n"] {
            let answer = server.request(method, path, headers, "").await;
            answer.assert_problem(401, "login_needed");
            assert!(answer.head.contains("www-authenticate: bearer"), "{answer:?}");
        }
    }
    for path in ["/healthz", "/readyz"] {
        assert_eq!(server.get(path).await.status, 200, "{path}");
    }
    let me = server.get("/api/v1/me").await.json();
    assert!(me["user"].is_null() && me["role"].is_null() && me["claimed"] == true, "{me}");
    let me = server.request("GET", "/api/v1/me", &cookie, "").await.json();
    assert_eq!((&me["user"], &me["role"]), (&"anna".into(), &"admin".into()), "{me}");
}

#[tokio::test]
async fn a_session_begins_and_ends() {
    let (server, _) = Server::claimed().await;
    let body = format!(r#"{{"user":"ANNA","password":"{PASSWORD}"}}"#);
    let login = server.json("POST", "login", "", &body).await;
    assert_eq!(login.status, 204, "{login:?}");
    let cookie = server.cookie(&login);
    let query = async |headers: &str| server.request("POST", "/api/v1/sql", headers, "SELECT 1").await;
    assert_eq!(query(&cookie).await.status, 200);
    // What a browser sends for a page that is not ours, and what no browser sends.
    let only_cookie = cookie.lines().next().unwrap().to_owned() + "\r\n";
    query(&only_cookie).await.assert_problem(403, "origin_missing");
    query(&format!("{only_cookie}Origin: http://evil.example\r\n")).await.assert_problem(403, "foreign_origin");
    assert_eq!(server.request("GET", "/api/v1/users", &only_cookie, "").await.status, 200);

    let logout = server.json("POST", "logout", &cookie, "").await;
    assert_eq!(logout.status, 204, "{logout:?}");
    assert!(
        logout.head.contains("set-cookie: floodplain_session=;") && logout.head.contains("max-age=0"),
        "{logout:?}"
    );
    query(&cookie).await.assert_problem(401, "login_needed");
    assert_eq!(server.json("POST", "logout", "", "").await.status, 204);
}

#[tokio::test]
async fn each_role_may_what_it_may() {
    let (server, admin) = Server::claimed().await;
    for role in ["viewer", "editor", "admin"] {
        let (token, id) = server.token(&admin, role).await;
        for (method, path, needs) in GUARDED {
            // Nothing here is a whole request: who may is told what is wrong with it.
            let answer = server.request(method, path, &token, "").await;
            if needs == "admin" && role != "admin" || needs == "editor" && role == "viewer" {
                answer.assert_problem(403, "role_missing");
            } else {
                assert!(![401, 403].contains(&answer.status), "{role} {method} {path}: {answer:?}");
            }
        }
        // As clients of InfluxDB write it.
        let influx = token.replace("Bearer", "Token");
        assert_eq!(server.request("GET", "/metrics", &influx, "").await.status, 200);
        let me = server.request("GET", "/api/v1/me", &token, "").await.json();
        assert_eq!((me["user"].is_null(), &me["role"]), (true, &role.into()), "{me}");
        let list = server.request("GET", "/api/v1/tokens", &admin, "").await.json();
        let listed = list["tokens"].as_array().unwrap().iter().find(|one| one["id"] == id.as_str()).unwrap().clone();
        assert_eq!(
            (&listed["name"], &listed["role"], &listed["expires"]),
            (&"a program".into(), &role.into(), &serde_json::Value::Null)
        );
        assert!(listed["last_used"].is_string() && listed["token"].is_null(), "{listed}");
        let path = format!("tokens/{id}");
        assert_eq!(server.json("DELETE", &path, &admin, "").await.status, 204);
        server.json("DELETE", &path, &admin, "").await.assert_problem(404, "token_unknown");
        server.request("GET", "/metrics", &token, "").await.assert_problem(401, "token_invalid");
    }
}

#[tokio::test]
async fn a_token_expires() {
    let (server, admin) = Server::claimed().await;
    for bad in ["tomorrow", "2001-01-01T00:00:00Z", "2027-01-01T00:00:00", ""] {
        let body = format!(r#"{{"name":"x","role":"viewer","expires":"{bad}"}}"#);
        server.json("POST", "tokens", &admin, &body).await.assert_problem(422, "expiry_invalid");
    }
    let expires = floodplain_types::Clock::now(&*server.clock) + Duration::from_secs(60);
    let text = chrono::DateTime::from_timestamp_nanos(expires.0).to_rfc3339();
    let body = format!(r#"{{"name":"x","role":"viewer","expires":"{text}"}}"#);
    let made = server.json("POST", "tokens", &admin, &body).await;
    let token = format!("Authorization: bearer {}\r\n", made.json()["token"].as_str().unwrap());
    assert_eq!(server.request("GET", "/metrics", &token, "").await.status, 200);
    server.clock.advance(Duration::from_secs(60));
    server.request("GET", "/metrics", &token, "").await.assert_problem(401, "token_invalid");
}

#[tokio::test]
async fn users_come_change_and_go() {
    let (server, admin) = Server::claimed().await;
    let body = r#"{"user":"Bert","password":"a password of bert","role":"viewer"}"#;
    let added = server.json("POST", "users", &admin, body).await;
    assert_eq!(added.status, 201, "{added:?}");
    assert_eq!((&added.json()["user"], &added.json()["last_login"]), (&"bert".into(), &serde_json::Value::Null));
    server.json("POST", "users", &admin, body).await.assert_problem(409, "user_exists");
    let metrics = async |headers: &str| server.request("GET", "/metrics", headers, "").await;
    assert_eq!(metrics(&basic("bert", "a password of bert")).await.status, 200);
    let list = server.request("GET", "/api/v1/users?limit=1", &admin, "").await.json();
    assert_eq!((list["users"].as_array().unwrap().len(), &list["next"]), (1, &"anna".into()), "{list}");
    let list = server.request("GET", "/api/v1/users?limit=1&after=anna", &admin, "").await.json();
    assert_eq!((&list["users"][0]["user"], &list["next"]), (&"bert".into(), &serde_json::Value::Null), "{list}");
    assert!(list["users"][0]["last_login"].is_string(), "{list}");

    let change = r#"{"password":"another password","role":"editor"}"#;
    assert_eq!(server.json("PATCH", "users/BERT", &admin, change).await.status, 204);
    metrics(&basic("bert", "a password of bert")).await.assert_problem(401, "login_failed");
    assert_eq!(metrics(&basic("bert", "another password")).await.status, 200);
    server.json("PATCH", "users/carl", &admin, change).await.assert_problem(404, "user_unknown");
    server.json("PATCH", "users/anna", &admin, r#"{"role":"viewer"}"#).await.assert_problem(409, "last_admin");
    server.json("DELETE", "users/anna", &admin, "").await.assert_problem(409, "last_admin");
    assert_eq!(server.json("DELETE", "users/bert", &admin, "").await.status, 204);
    metrics(&basic("bert", "another password")).await.assert_problem(401, "login_failed");
}

#[tokio::test]
async fn what_is_malformed_is_told() {
    let (server, admin) = Server::claimed().await;
    for body in ["", "{}", "[]", r#"{"user":1}"#, r#"{"user":"x","password":"y","role":"viewer","more":1}"#, "\u{0}"] {
        server.json("POST", "users", &admin, body).await.assert_problem(400, "bad_request");
    }
    let body = r#"{"user":"bert","password":"a password of bert","role":"root"}"#;
    server.json("POST", "users", &admin, body).await.assert_problem(422, "role_invalid");
    let body = r#"{"user":"be rt","password":"a password of bert","role":"viewer"}"#;
    server.json("POST", "users", &admin, body).await.assert_problem(422, "name_invalid");
    let plain = format!("{admin}Content-Type: text/plain\r\n");
    server.request("POST", "/api/v1/users", &plain, body).await.assert_problem(415, "unsupported_media_type");
    let long = format!(r#"{{"user":"{}"}}"#, "x".repeat(20_000));
    server.json("POST", "login", "", &long).await.assert_problem(413, "body_too_large");
    for (query, code) in [
        ("limit=0", "limit_invalid"),
        ("limit=1001", "limit_invalid"),
        ("limit=x", "query_invalid"),
        ("limit=-1", "query_invalid"),
        ("more=1", "query_invalid"),
    ] {
        let path = format!("/api/v1/users?{query}");
        server.request("GET", &path, &admin, "").await.assert_problem(400, code);
    }
    server.json("DELETE", "users/%ff", &admin, "").await.assert_problem(400, "bad_request");
    for credentials in ["Basic", "Basic %%%", "Basic QWxhZGRpbg=="] {
        let headers = format!("Authorization: {credentials}\r\n");
        server.request("GET", "/metrics", &headers, "").await.assert_problem(401, "login_failed");
    }
}

#[tokio::test]
async fn guesses_are_slowed_down_and_sessions_are_not() {
    let (server, admin) = Server::claimed().await;
    let mut refused = None;
    for n in 0..50 {
        let body = format!(r#"{{"user":"anna","password":"guess number {n}"}}"#);
        let answer = server.json("POST", "login", "", &body).await;
        if answer.status == 429 {
            refused = Some(answer);
            break;
        }
        answer.assert_problem(401, "login_failed");
    }
    let refused = refused.expect("slowed down");
    refused.assert_problem(429, "login_slow_down");
    let wait = refused.head.lines().find_map(|line| line.strip_prefix("retry-after: ")).unwrap();
    assert!((1..=60).contains(&wait.parse::<u64>().unwrap()), "{wait}");
    // By whatever protocol it is tried.
    for _ in 0..8 {
        server.registry.throttle().failed("anna", [127, 0, 0, 1].into());
    }
    server.request("GET", "/metrics", &basic("anna", PASSWORD), "").await.assert_problem(429, "login_slow_down");
    // Clients of InfluxDB throw their lines away for any status of 4xx that no login mends.
    for path in ["/write", "/api/v2/write", "/query"] {
        let answer = server.request("POST", path, &basic("anna", PASSWORD), "a f=1").await;
        assert_eq!((answer.status, answer.json()["code"].as_str()), (503, Some("unavailable")), "{path}: {answer:?}");
        let wait = answer.head.lines().find_map(|line| line.strip_prefix("retry-after: ")).unwrap();
        assert!(wait.parse::<u64>().unwrap() > 1, "{path}: {wait}");
    }
    assert_eq!(server.request("GET", "/metrics", &admin, "").await.status, 200);
}

/// InfluxDB 1.x has a user in the query, too.
#[tokio::test]
async fn who_writes_lines_may_say_so_in_the_query() {
    let (server, _) = Server::claimed().await;
    let password = PASSWORD.replace(' ', "%20");
    for (user, status) in
        [(format!("?u=anna&p={password}"), 204), ("?u=anna&p=wrong".to_owned(), 401), (String::new(), 401)]
    {
        let answer = server.request("POST", &format!("/write{user}"), "", "a f=1").await;
        assert_eq!(answer.status, status, "{user}: {answer:?}");
    }
    // Nowhere else.
    server.request("GET", &format!("/metrics?u=anna&p={password}"), "", "").await.assert_problem(401, "login_needed");
}
