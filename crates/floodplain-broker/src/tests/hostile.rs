//! Clients that mean harm, or are very many.

use super::*;

/// Records in the stream `requests`.
fn events(rig: &Rig) -> usize {
    let streams = rig.log.streams();
    let stream = streams.iter().find(|found| found.id.stream.as_str() == "requests").unwrap();
    let parts = (0..stream.partitions).map(|index| rig.log.read(stream.partition(index), Position::ZERO, usize::MAX));
    parts.flat_map(|read| read.unwrap().batches).map(|batch| batch.batch.records().unwrap().iter().count()).sum()
}

/// Thousands that come, and thousands that are lost, in one turn: no unit of the log grows with their number.
#[test]
fn a_crowd_makes_no_large_unit() {
    let mut rig = Rig::new(PERFECT, 1);
    let crowd: Vec<ClientId> = (0..6_000).map(|_| rig.client()).collect();
    for (n, client) in crowd.iter().enumerate() {
        let mut bytes = vec![0x10, 0x8c, 0x02];
        bytes.extend(b"\x00\x04MQTT\x04\x00\x00\x3c\x01\x00");
        bytes.extend(format!("{n:0256}").as_bytes());
        rig.send_in_turn(*client, &bytes);
    }
    for client in &crowd {
        rig.expect(*client, &[0x20, 2, 0, 0]);
    }
    let opened = events(&rig);
    crowd.iter().for_each(|client| rig.hang_up_in_turn(*client));
    let is_lost = |rig: &mut Rig| events(rig) >= opened + 6_000;
    rig.turn_until(is_lost);
    assert!(is_lost(&mut rig));
    let largest = rig.largest_unit.load(Ordering::Relaxed);
    assert!(largest < 640 << 10, "{largest} bytes");
}

/// While the log takes nothing, a SUBSCRIBE of a lasting session is left in the socket.
#[test]
fn what_is_to_be_stored_waits_in_the_socket_while_the_log_takes_nothing() {
    for bytes in [&packet(0x82, b"\x00\x02\x00\x01u\x01")[..], &packet(0xa2, b"\x00\x02\x00\x01t")] {
        let mut rig = Rig::new(PERFECT, 1);
        let subscriber = lasting(&mut rig, "sub", 0);
        rig.send(subscriber, &packet(0x82, b"\x00\x01\x00\x01t\x01"));
        rig.expect(subscriber, b"\x90\x03\x00\x01\x01");
        rig.set_adversity(Adversity { refused: 1_000, ..PERFECT });
        rig.send(subscriber, b"\x32\x05\x00\x01x\x00\x09");
        rig.turn_until(|rig| rig.is_pressed(subscriber));
        assert!(!rig.send_in_turn(subscriber, bytes), "{bytes:02x?}");
        rig.take(subscriber);
        rig.set_adversity(PERFECT);
        rig.advance(Duration::from_millis(100));
        rig.expect(subscriber, b"\x40\x02\x00\x09");
        rig.turn_until(|rig| rig.has_output(subscriber));
        assert_eq!(rig.take(subscriber)[0], if bytes[0] == 0x82 { 0x90 } else { 0xb0 });
    }
}

/// Memory is bounded for a client that asks and never reads, and it is not forgotten when it reads on.
#[test]
fn a_client_that_does_not_read_its_answers_is_not_read() {
    let mut rig = Rig::new(PERFECT, 1);
    let client = clean(&mut rig, "deaf");
    rig.reads(client, false);
    let pings = b"\xc0\x00".repeat(32 << 10);
    let mut sent = 0;
    while {
        sent += pings.len();
        rig.send_in_turn(client, &pings)
    } {
        rig.turn();
        assert!(rig.unread(client) < 3 << 20, "{} bytes", rig.unread(client));
    }
    // The keep-alive runs on only as long as it does not read.
    rig.advance(Duration::from_secs(60));
    rig.reads(client, true);
    rig.advance(Duration::from_secs(60));
    assert!(rig.is_open(client));
    assert!(rig.send_in_turn(client, b""));
    let pongs = rig.take(client);
    assert_eq!(pongs.len(), sent);
    rig.reads(client, false);
    while rig.send_in_turn(client, &pings) {
        rig.turn();
    }
    rig.advance(Duration::from_secs(60));
    rig.advance(Duration::from_secs(60));
    rig.expect_close(client);
}

/// A client says DISCONNECT and is gone while we still write: its will is not published [MQTT-3.14.4-3].
#[test]
fn disconnect_counts_although_the_socket_takes_nothing_any_more() {
    let mut rig = Rig::new(PERFECT, 1);
    let witness = clean(&mut rig, "witness");
    rig.send(witness, &packet(0x82, b"\x00\x01\x00\x01w\x00"));
    rig.expect(witness, b"\x90\x03\x00\x01\x00");
    for says_so in [true, false] {
        let client = rig.client();
        rig.send(client, &packet(0x10, b"\x00\x04MQTT\x04\x06\x00\x3c\x00\x01c\x00\x01w\x00\x04gone"));
        rig.expect(client, &[0x20, 2, 0, 0]);
        let opened = events(&rig);
        rig.deafen(client);
        rig.send(client, b"\xc0\x00");
        if says_so {
            rig.send(client, b"\xe0\x00");
        }
        rig.hang_up(client);
        assert_eq!(rig.take(client), b"");
        rig.turn_until(|rig| events(rig) > opened);
        assert_eq!(events(&rig), opened + 1);
        if !says_so {
            rig.turn_until(|rig| rig.has_output(witness));
        }
        let got = rig.take(witness);
        assert_eq!(got.ends_with(b"gone"), !says_so, "{got:02x?}");
    }
}

/// However many connections send a CONNECT slowly: together they hold little.
#[test]
fn slow_greetings_are_bounded_together() {
    let mut rig = Rig::new(PERFECT, 1);
    // 800,000 bytes are announced, all but the last four come.
    let mut slow = vec![0x10, 0x80, 0xea, 0x30];
    slow.resize(800_000, 0);
    let short = rig.client();
    rig.send(short, &connect(4, 2, &[], "short")[..9]);
    let crowd: Vec<ClientId> = (0..200).map(|_| rig.client()).collect();
    for client in &crowd {
        for part in slow.chunks(64 << 10) {
            rig.send_in_turn(*client, part);
        }
        rig.turn();
    }
    let open = crowd.iter().filter(|client| rig.is_open(**client)).count();
    assert!((70..100).contains(&open), "{open} of them are still there");
    // Who says little, or comes later, is served.
    rig.send(short, &connect(4, 2, &[], "short")[9..]);
    rig.expect(short, &[0x20, 2, 0, 0]);
    clean(&mut rig, "later");
    for client in crowd {
        if rig.is_open(client) {
            rig.hang_up(client);
        }
    }
    let again = rig.client();
    for part in slow.chunks(64 << 10) {
        rig.send_in_turn(again, part);
    }
    rig.turn();
    assert!(rig.is_open(again), "what is gone takes no room");
}

/// A packet with more filters than a session may have is refused before they are looked at.
#[test]
fn more_filters_in_a_packet_than_in_a_session_are_refused() {
    let mut rig = Rig::new(PERFECT, 1);
    for (first, options) in [(0x82, &b"\x00"[..]), (0xa2, b"")] {
        let client = clean(&mut rig, "many");
        let body = [b"\x00\x01", &[b"\x00\x01a", options].concat().repeat(10_001)[..]].concat();
        let len = body.len();
        let head = [first, len as u8 | 0x80, (len >> 7) as u8 | 0x80, (len >> 14) as u8];
        rig.send(client, &[&head[..], &body].concat());
        rig.expect_close(client);
        let client = clean(&mut rig, "many");
        let body = &body[..2 + (body.len() - 2) / 10_001 * 10_000];
        let len = body.len();
        let head = [first, len as u8 | 0x80, (len >> 7) as u8 | 0x80, (len >> 14) as u8];
        rig.send(client, &[&head[..], body].concat());
        rig.turn_until(|rig| rig.has_output(client));
        assert_eq!(rig.take(client)[0], first + 0x0e);
    }
}
