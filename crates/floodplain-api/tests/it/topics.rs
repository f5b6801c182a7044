//! `POST /api/v1/topics/{topic}` and `GET /api/v1/topics`.

use crate::client::{Answer, Server};
use floodplain_api::{Limits, MessageLimits};
use floodplain_sql::Config;
use floodplain_testkit::Adversity;
use std::time::Duration;

pub(crate) async fn publish(server: &Server, path: &str, payload: &str) -> Answer {
    server.request("POST", &format!("/api/v1/topics/{path}"), "Content-Type: application/json\r\n", payload).await
}

#[tokio::test]
async fn the_answer_has_the_position_of_what_was_committed() {
    let server = Server::start().await;
    let answer = publish(&server, "devices/d-1/engine?qos=2&retain=true", r#"{"rpm": 1450}"#).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let position = answer.json()["position"].as_str().unwrap().to_owned();
    let query = "SELECT concat_ws('/', stream, partition, generation, \"offset\") AS position, device, qos, retain, \
                 content_type, publisher, utf8(payload) AS payload FROM records WHERE topic = 'devices/d-1/engine'";
    let rows = server.query(query).await.json()["rows"].clone();
    let wanted = serde_json::json!([{
        "position": position, "device": "d-1", "qos": 2, "retain": true, "content_type": "application/json",
        "publisher": "http", "payload": r#"{"rpm": 1450}"#,
    }]);
    assert_eq!(rows, wanted);
    // Names without a device are the publisher's; what curl says unasked is no content type; `%2B` and `%23` are none.
    let form = "Content-Type: application/x-www-form-urlencoded\r\n";
    let answer = server.request("POST", "/api/v1/topics//home/k%C3%BCche", form, "").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let query =
        "SELECT device, content_type, qos, octet_length(payload) AS size FROM records WHERE topic = '/home/küche'";
    let rows = server.query(query).await.json()["rows"].clone();
    assert_eq!(rows, serde_json::json!([{ "device": "http", "content_type": null, "qos": 1, "size": 0 }]));
}

#[tokio::test]
async fn mistakes_publish_nothing() {
    let limits = MessageLimits { payload_bytes_max: 100, topic_levels_max: 3, ..MessageLimits::default() };
    let server = Server::of(Config::default(), Limits::default(), limits).await;
    let long = "x".repeat(101);
    for (path, payload, status, code) in [
        ("a?qos=0", "1", 400, "qos_invalid"),
        ("a?qos=3", "1", 400, "qos_invalid"),
        ("a?qos=one", "1", 400, "query_invalid"),
        ("a?quality=1", "1", 400, "query_invalid"),
        ("a?class=none", "1", 400, "class_invalid"),
        ("a/%23", "1", 400, "topic_invalid"),
        ("%2B/a", "1", 400, "topic_invalid"),
        ("a%00", "1", 400, "topic_invalid"),
        ("%ff", "1", 400, "topic_invalid"),
        ("a/b/c/d", "1", 400, "topic_invalid"),
        ("a", &long, 413, "body_too_large"),
    ] {
        publish(&server, path, payload).await.assert_problem(status, code);
    }
    let chunked = format!(
        "POST /api/v1/topics/a HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n\
         65\r\n{long}\r\n0\r\n\r\n"
    );
    server.raw(chunked.as_bytes()).await.assert_problem(413, "body_too_large");
    let answer = server.request("PUT", "/api/v1/topics/a", "", "1").await;
    answer.assert_problem(405, "method_not_allowed");
    let rows = server.query("SELECT count(*) AS n FROM records WHERE topic <> 't/x'").await.json()["rows"].clone();
    assert_eq!(rows, serde_json::json!([{ "n": 0 }]));
}

#[tokio::test]
async fn what_the_log_refuses_is_503_with_a_hint() {
    let server = Server::start().await;
    for (adversity, codes) in [
        (Adversity { refused: 1000, ..Adversity::NONE }, &["overloaded", "disk_full"][..]),
        (Adversity { fenced: 1000, ..Adversity::NONE }, &["not_owner"]),
        (Adversity { unknown: 1000, ..Adversity::NONE }, &["commit_unknown"]),
    ] {
        server.log.set_adversity(adversity);
        is_503_with_a_hint(&server, codes).await;
    }
}

/// Whatever is published is 503, with one of these codes.
async fn is_503_with_a_hint(server: &Server, codes: &[&str]) {
    let answer = publish(server, "a", "1").await;
    let code = answer.json()["code"].as_str().unwrap_or_default().to_owned();
    assert!(codes.contains(&code.as_str()), "{answer:?}");
    answer.assert_problem(503, &code);
    assert!(answer.head.contains("retry-after: "), "{answer:?}");
    // Telegraf keeps lines for 503, and for no 4xx.
    for path in ["/write", "/api/v2/write"] {
        let answer = server.request("POST", path, "", "a f=1").await;
        let json = answer.json();
        assert_eq!((answer.status, json["code"].as_str()), (503, Some("unavailable")), "{path}: {answer:?}");
        assert!(answer.head.contains("retry-after: ") && json["error"].is_string(), "{path}: {answer:?}");
    }
}

/// After a failed write or sync nothing is taken any more, by whatever way it comes; what is there can be read.
#[tokio::test]
async fn a_poisoned_log_takes_nothing_and_can_be_read() {
    let server = Server::start().await;
    assert_eq!(publish(&server, "a", "1").await.status, 200);
    server.log.poison("cannot sync journal 1");
    for _ in 0..3 {
        is_503_with_a_hint(&server, &["log_poisoned"]).await;
    }
    let answer = publish(&server, "a", "1").await;
    assert!(answer.json()["detail"].as_str().unwrap().contains("cannot sync journal 1"), "{answer:?}");
    let rows = server.query("SELECT count(*) AS n FROM records").await.json()["rows"].clone();
    assert_eq!(rows, serde_json::json!([{ "n": 4 }]));
}

#[tokio::test]
async fn a_commit_whose_end_is_not_known_is_said_to_be_so() {
    let server = Server::start().await;
    server.log.set_adversity(Adversity { unknown: 1_000, ..Adversity::NONE });
    publish(&server, "a", "1").await.assert_problem(503, "commit_unknown");
}

#[tokio::test]
async fn topics_are_a_tree_and_can_be_searched() {
    let server = Server::start().await;
    for (path, payload) in [("a/x/1?retain=true", "12"), ("a/x/2", "3"), ("b", "4")] {
        assert_eq!(publish(&server, path, payload).await.status, 200);
    }
    // The first question starts the index; until it has read the log it says so.
    let answer = async |query: &str| {
        loop {
            let answer = server.get(&format!("/api/v1/topics{query}")).await;
            assert_eq!(answer.status, 200, "{answer:?}");
            if answer.json()["complete"] == true {
                break answer.json();
            }
        }
    };
    let names = |json: &serde_json::Value| {
        let topics = json["topics"].as_array().unwrap().iter();
        topics.map(|node| format!("{} {} {}", node["topic"], node["messages"], node["children"])).collect::<Vec<_>>()
    };
    let tokio_deadline = tokio::time::timeout(crate::events::PATIENCE, answer(""));
    let level = tokio_deadline.await.expect("the index is complete in time");
    assert_eq!(names(&level), [r#""a" 2 1"#, r#""b" 1 0"#, r#""t" 3 1"#]);
    let level = answer("?prefix=a/x&limit=1").await;
    assert_eq!((names(&level), &level["next"]), (vec![r#""a/x/1" 1 0"#.to_owned()], &"1".into()));
    assert_eq!((&level["topics"][0]["retained"], &level["topics"][0]["bytes"]), (&true.into(), &2.into()));
    let level = answer("?prefix=a/x&limit=1&after=1").await;
    assert_eq!((names(&level), level["next"].is_null()), (vec![r#""a/x/2" 1 0"#.to_owned()], true));
    assert_eq!(names(&answer("?search=x/2").await), [r#""a/x/2" 1 0"#]);
    // The first level may be empty, and is not the root.
    assert_eq!(publish(&server, "%2Fhome/kitchen", "6").await.status, 200);
    let empty = async {
        while names(&answer("?prefix=").await) != [r#""/home" 1 1"#] {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(crate::events::PATIENCE, empty).await.expect("what is below the empty level");
    // What comes later is counted, too.
    assert_eq!(publish(&server, "b", "5").await.status, 200);
    let counted = async {
        while names(&answer("?search=b").await) != [r#""b" 2 0"#] {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(crate::events::PATIENCE, counted).await.expect("a message is counted");
    server.get("/api/v1/topics?limit=0").await.assert_problem(400, "limit_invalid");
    server.get("/api/v1/topics?page=1").await.assert_problem(400, "query_invalid");
}
