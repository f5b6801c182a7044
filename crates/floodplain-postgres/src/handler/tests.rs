use crate::rig::{Client, Door, Rig, bind, execute, message, parse, query, sync, wait_until};
use std::sync::{Arc, atomic::Ordering};
use tokio::{io::AsyncWriteExt as _, net::TcpStream};

fn ok(kinds: &str) -> (String, String) {
    (kinds.to_owned(), String::new())
}

fn failed(kinds: &str, error: &str) -> (String, String) {
    (kinds.to_owned(), error.to_owned())
}

#[tokio::test]
async fn a_portal_gives_as_many_rows_as_are_asked_for() {
    let rig = Rig::new().await;
    let mut client = Client::new(rig.address).await;
    for max_rows in [0, 4, i32::MAX, -1, i32::MIN] {
        let asked = [parse("", "three"), bind("", "", &[]), execute("", max_rows), sync()];
        assert_eq!(client.ask(&asked).await, ok("12DDDCZ"), "{max_rows}");
    }
    let asked = [parse("", "three"), bind("", "", &[]), execute("", 2), execute("", 2), execute("", 2), sync()];
    assert_eq!(client.ask(&asked).await, ok("12DDsDCCZ"));
    rig.stop().await;
}

#[tokio::test]
async fn rows_are_sent_as_they_come_and_end_with_the_client() {
    let rig = Rig::new().await;
    let extended = [parse("", "endless"), bind("", "", &[]), execute("", 0), sync()].concat();
    for asked in [extended, query("endless")] {
        let mut client = Client::new(rig.address).await;
        client.stream.write_all(&asked).await.unwrap();
        for _ in 0..10_000 {
            assert!(b"12TD".contains(&client.receive().await.unwrap().0));
        }
        assert_eq!(rig.made.open.load(Ordering::SeqCst), 1);
        drop(client);
        wait_until("the query ends", || rig.made.open.load(Ordering::SeqCst) == 0).await;
    }
    rig.stop().await;
}

#[tokio::test]
async fn a_cancel_request_ends_a_query_among_its_rows() {
    let rig = Rig::new().await;
    let extended = [parse("", "endless"), bind("", "", &[]), execute("", 0), sync()].concat();
    for asked in [extended, query("endless")] {
        let mut client = Client::new(rig.address).await;
        client.stream.write_all(&asked).await.unwrap();
        while client.receive().await.unwrap().0 != b'D' {}
        let mut other = TcpStream::connect(rig.address).await.unwrap();
        other.write_all(&[&b"\0\0\0\x10\x04\xd2\x16\x2e"[..], &client.key].concat()).await.unwrap();
        let (kinds, error) = client.answers().await;
        assert!(kinds.ends_with("DEZ") && error.starts_with("57014"), "{error}");
        assert_eq!(rig.made.open.load(Ordering::SeqCst), 0);
        assert_eq!(client.ask(&[query("three")]).await, ok("TDDDCZ"));
    }
    rig.stop().await;
}

#[tokio::test]
async fn portals_end_with_their_transaction() {
    let rig = Rig::new().await;
    let mut client = Client::new(rig.address).await;
    let suspended = [parse("s", "three"), bind("p", "s", &[]), execute("p", 1), sync()];
    assert_eq!(client.ask(&suspended).await, ok("12DsZ"));
    assert_eq!(rig.made.open.load(Ordering::SeqCst), 0);
    let (kinds, error) = client.ask(&[execute("p", 1), sync()]).await;
    assert!(kinds == "EZ" && error.contains("Portal not found"), "{error}");

    assert_eq!(client.ask(&[query("BEGIN")]).await, ok("CZ"));
    assert_eq!(client.ask(&[bind("p", "s", &[]), execute("p", 1), sync()]).await, ok("2DsZ"));
    assert_eq!(client.ask(&[execute("p", 1), sync()]).await, ok("DsZ"));
    assert_eq!(client.ask(&[query("COMMIT")]).await, ok("CZ"));
    assert_eq!(rig.made.open.load(Ordering::SeqCst), 0);
    rig.stop().await;
}

#[tokio::test]
async fn a_query_has_many_statements_and_a_prepared_one_has_one() {
    let rig = Rig::new().await;
    let mut client = Client::new(rig.address).await;
    for (text, expected) in [
        ("SET timezone = 'UTC'; three", ok("CTDDDCZ")),
        ("BEGIN; three; COMMIT", ok("CTDDDCCZ")),
        (";; three ; -- ;\n", ok("TDDDCZ")),
        (" ; -- nothing", ok("IZ")),
        ("BEGIN READ ONLY; DELETE FROM engine; three", failed("CEZ", "25006 DELETE FROM engine writes 17")),
        ("ROLLBACK; three", ok("CTDDDCZ")),
    ] {
        assert_eq!(client.ask(&[query(text)]).await, expected, "{text}");
    }
    for text in ["SET timezone = 'UTC'; three", "three; three", "BEGIN READ ONLY; DELETE FROM engine"] {
        let expected = failed("EZ", "42601 cannot insert multiple commands into a prepared statement");
        assert_eq!(client.ask(&[parse("", text), sync()]).await, expected, "{text}");
    }
    let (kinds, _) = client.ask(&[parse("", "SET a = 'x;y';"), bind("", "", &[]), execute("", 0), sync()]).await;
    assert_eq!(kinds, "12CZ");
    rig.stop().await;
}

#[tokio::test]
async fn other_columns_than_were_told_are_refused() {
    let rig = Rig::new().await;
    let mut client = Client::new(rig.address).await;
    let run = || [bind("", "s", &[]), execute("", 0), sync()];
    assert_eq!(client.ask(&[parse("s", "changing"), sync()]).await, ok("1Z"));
    assert_eq!(client.ask(&run()).await, ok("2DDDCZ"));
    rig.made.has_changed.store(true, Ordering::SeqCst);
    let expected = failed("2EZ", "0A000 cached plan must not change result type");
    assert_eq!(client.ask(&run()).await, expected);
    assert_eq!(rig.made.open.load(Ordering::SeqCst), 0);
    assert_eq!(client.ask(&[parse("s", "changing"), sync()]).await, ok("1Z"));
    assert_eq!(client.ask(&run()).await, ok("2DDDCZ"));
    // What only the value of a parameter changes is as it was told.
    let bare = [parse("", "bare"), bind("", "", &["1"]), execute("", 0), sync()];
    assert_eq!(client.ask(&bare).await, ok("12DDDCZ"));
    rig.stop().await;
}

#[tokio::test]
async fn what_a_connection_keeps_is_bounded() {
    let rig = Rig::new().await;
    let mut client = Client::new(rig.address).await;
    let many = |from: u32, to: u32| (from..to).map(|n| parse(&format!("s{n}"), "three")).chain([sync()]);
    let (kinds, error) = client.ask(&many(0, 1_001).collect::<Vec<_>>()).await;
    assert_eq!((kinds.as_str(), &error[..5]), (format!("{}EZ", "1".repeat(1_000)).as_str(), "53400"));
    // Drivers close them by a message, or by a statement.
    assert_eq!(client.ask(&[message(b'C', b"Ss7\0"), parse("one", "three"), sync()]).await, ok("31Z"));
    assert_eq!(client.ask(&[query("DEALLOCATE s8"), parse("two", "three"), sync()]).await, ok("CZ"));
    assert_eq!(client.answers().await, ok("1Z"));
    assert_eq!(client.ask(&[query("DEALLOCATE ALL")]).await, ok("CZ"));
    assert_eq!(client.ask(&many(0, 1_000).collect::<Vec<_>>()).await.1, "");

    let mut client = Client::new(rig.address).await;
    let long = format!("SET a = '{}'", "x".repeat(12 << 20));
    assert_eq!(client.ask(&[parse("a", &long), parse("b", &long), sync()]).await, ok("11Z"));
    let (kinds, error) = client.ask(&[parse("c", &long), sync()]).await;
    assert!(kinds == "EZ" && error.starts_with("53400"), "{error}");
    assert_eq!(client.ask(&[query("DISCARD ALL")]).await, ok("CZ"));
    assert_eq!(client.ask(&[parse("c", &long), sync()]).await, ok("1Z"));
    rig.stop().await;
}

#[tokio::test]
async fn who_would_not_come_in_any_more_is_sent_away() {
    let door = Arc::new(Door::default());
    let rig = Rig::with(door.clone()).await;
    let extended = [parse("", "three"), bind("", "", &[]), execute("", 0), sync()];
    let mut clients = Vec::new();
    for asked in [vec![query("three")], extended.to_vec(), vec![bind("", "s", &[]), execute("", 0), sync()]] {
        let mut client = Client::new(rig.address).await;
        assert_eq!(client.ask(&[parse("s", "three"), sync()]).await, ok("1Z"));
        clients.push((client, asked));
    }
    // Others come and go.
    door.epoch.fetch_add(1, Ordering::SeqCst);
    for (client, asked) in &mut clients {
        let (kinds, error) = client.ask(asked).await;
        assert!(kinds.ends_with("DDDCZ") && error.is_empty(), "{kinds} {error}");
    }
    door.is_claimed.store(true, Ordering::SeqCst);
    door.epoch.fetch_add(1, Ordering::SeqCst);
    for (client, asked) in &mut clients {
        let (kinds, error) = client.ask(asked).await;
        assert!(!kinds.contains('D') && error.starts_with("57P01"), "{kinds} {error}");
        assert!(client.receive().await.is_none());
    }
    rig.stop().await;
}
