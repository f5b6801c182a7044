//! `GET /api/v1/topics/{filter}?follow`.

use crate::{
    client::Server,
    events::{Events, PATIENCE},
    topics::publish,
};
use floodplain_access::Role;
use floodplain_api::{Limits, MessageLimits, TailLimits};
use floodplain_sql::Config;
use std::time::Duration;

async fn with_tail(tail: TailLimits) -> Server {
    let limits = MessageLimits { tail, ..MessageLimits::default() };
    Server::of(Config::default(), Limits::default(), limits).await
}

#[tokio::test]
async fn a_follower_gets_what_is_committed_from_then_on() {
    let server = Server::start().await;
    assert_eq!(publish(&server, "a/before", "0").await.status, 200);
    let mut all = Events::open(&server, "/api/v1/topics/%23?follow").await;
    all.follows().await;
    let mut one = Events::open(&server, "/api/v1/topics/a/%2B?follow").await;
    one.follows().await;
    let mut position = None;
    for (topic, payload) in [("a/1", "1"), ("b/1", "2"), ("a/2", "3")] {
        position = Some(publish(&server, topic, payload).await.json()["position"].clone());
    }
    assert_eq!(one.message().await, ("a/1".to_owned(), "1".to_owned()));
    let (name, message) = one.next().await.unwrap();
    assert_eq!(
        (name.as_str(), &message["topic"], Some(&message["position"])),
        ("message", &"a/2".into(), position.as_ref())
    );
    for member in ["device", "received", "qos", "retain", "content_type", "user_properties", "payload_base64", "size"] {
        assert!(message.get(member).is_some(), "{member}: {message}");
    }
    let mut heard = [all.message().await.1, all.message().await.1, all.message().await.1];
    // Two topics may be in two partitions.
    heard.sort_unstable();
    assert_eq!(heard, ["1", "2", "3"]);
}

#[tokio::test]
async fn a_slow_reader_is_told_how_many_it_missed() {
    let server = with_tail(TailLimits { waiting_max: 4, ..TailLimits::default() }).await;
    let mut slow = Events::open(&server, "/api/v1/topics/slow?follow").await;
    slow.follows().await;
    let mut quick = Events::open(&server, "/api/v1/topics/end?follow").await;
    quick.follows().await;
    // More than the buffers of two sockets take.
    let payload = "x".repeat(500_000);
    let sent = 60;
    for _ in 0..sent {
        assert_eq!(publish(&server, "slow", &payload).await.status, 200);
    }
    // The same partition: who hears of the end knows that all before it was given out.
    assert_eq!(publish(&server, "end", "").await.status, 200);
    quick.message().await;
    let (mut heard, mut skipped) = (0, 0);
    while heard + skipped < sent {
        let (name, data) = slow.next().await.expect("a stream that goes on");
        match name.as_str() {
            "message" => heard += 1,
            "skipped" => skipped += data["count"].as_u64().unwrap(),
            other => panic!("{other}"),
        }
    }
    assert!(heard > 0 && skipped > 0, "{heard} heard, {skipped} skipped");
    assert_eq!(heard + skipped, sent);
}

#[tokio::test]
async fn followers_are_bounded_and_give_their_place_back() {
    let server = with_tail(TailLimits { followers_max: 1, ..TailLimits::default() }).await;
    let first = Events::open(&server, "/api/v1/topics/a?follow").await;
    let answer = server.get("/api/v1/topics/a?follow").await;
    answer.assert_problem(503, "followers_full");
    drop(first);
    let second = async {
        // Until the server has seen that the first one is gone.
        while server.request("HEAD", "/api/v1/topics/a?follow", "", "").await.status != 200 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(PATIENCE, second).await.expect("a place in time");
}

#[tokio::test]
async fn what_cannot_be_followed_is_said() {
    let server = Server::start().await;
    server.get("/api/v1/topics/a").await.assert_problem(400, "follow_missing");
    server.get("/api/v1/topics/a%23?follow").await.assert_problem(400, "topic_invalid");
    server.get("/api/v1/topics/a?follow&since=1").await.assert_problem(400, "query_invalid");
}

#[tokio::test]
async fn streams_end_when_the_server_stops() {
    let server = Server::start().await;
    let mut events = Events::open(&server, "/api/v1/topics/a?follow").await;
    events.follows().await;
    server.stop.cancel();
    // Sooner than answers that have to be cut off.
    tokio::time::timeout(Duration::from_secs(4), server.running).await.expect("stops in time").unwrap();
    assert_eq!(events.next().await, None);
}

#[tokio::test]
async fn streams_end_when_who_follows_may_not_any_more() {
    let limits = Limits { caller_check_every: Duration::from_millis(10), ..Limits::default() };
    let server = Server::limited(Config::default(), limits).await;
    let follow = "/api/v1/topics/a?follow";
    // The connection ends with its answer.
    let close = "Connection: close\r\n";
    let mut nobody = Events::open_with(&server, follow, close).await;
    let mut sampled = Events::open_with(&server, "/api/v1/overview?follow", close).await;
    nobody.follows().await;
    let setup = server.registry.setup_token().unwrap();
    let anna = server.registry.setup(setup.reveal(), "anna", "correct horse battery").await.unwrap();
    assert_eq!(nobody.next().await, None, "from the first user on, nobody is nobody");
    while sampled.next().await.is_some() {}

    let (token, secret) = server.registry.add_token(&anna, "t", Role::Viewer, None).await.unwrap();
    let header = format!("{close}Authorization: Bearer {}\r\n", secret.reveal());
    let mut with_token = Events::open_with(&server, follow, &header).await;
    with_token.follows().await;
    let mut kept = Events::open_with(&server, follow, &header).await;
    kept.follows().await;
    // Somebody who may is not disturbed.
    let editor = server.registry.add_token(&anna, "e", Role::Editor, None).await.unwrap().1;
    let headers = format!("Authorization: Bearer {}\r\n", editor.reveal());
    for n in 0..20 {
        tokio::time::sleep(Duration::from_millis(2)).await;
        let answer = server.request("POST", "/api/v1/topics/a", &headers, &n.to_string()).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(with_token.message().await.1, n.to_string());
    }
    server.registry.remove_token(&anna, &token.id).await.unwrap();
    while with_token.next().await.is_some() {}
    while kept.next().await.is_some() {}
}
