//! What clients are told when there is too much, and what it costs.

use super::{PERFECT, clean, lasting};
use crate::{
    rig::{Rig, connect, packet},
    seams::{Access, Admission, Denied, OpenLoopback, Policy, Principal},
    work,
};
use floodplain_types::Class;
use std::{net::SocketAddr, sync::atomic::Ordering, time::Duration};

/// Everything below `busy` has to wait.
#[derive(Debug)]
struct Busy;

const BUSY: Denied = Denied::Busy { retry_after: Duration::from_millis(1_500) };

impl Policy for Busy {
    fn publish(&self, _: &Principal, topic: &str) -> Result<(), Denied> {
        if topic == "busy" { Err(BUSY) } else { Ok(()) }
    }
    fn subscribe(&self, principal: &Principal, filter: &str) -> Result<(), Denied> {
        self.publish(principal, filter)
    }
    fn speaks_for(&self, principal: &Principal, device: &str) -> bool {
        OpenLoopback.speaks_for(principal, device)
    }
    fn class(&self, _: &Principal, _: &str) -> Class {
        Class::All
    }
}

impl Admission for Busy {
    fn connect(&self, _: SocketAddr) -> Result<(), Denied> {
        Err(BUSY)
    }
}

const WORDS: &[u8] = b"\x13\x1f\x00\x10try again in 2 s";

/// A packet with these words among its properties, or none.
fn with_words(first: u8, before: &[u8], words: &[u8], behind: &[u8]) -> Vec<u8> {
    packet(first, &[before, words, behind].concat())
}

#[test]
fn who_comes_too_early_is_told_when_to_try_again() {
    let mut rig = Rig::new(PERFECT, 1);
    rig.access = || Access { admission: Box::new(Busy), ..Access::open_loopback() };
    rig.crash(PERFECT, 2);
    for (level, expected) in [(5, with_words(0x20, b"\x00\x89", WORDS, b"")), (4, vec![0x20, 2, 0, 3])] {
        let client = rig.client();
        rig.send(client, &connect(level, 2, &[], "c"));
        rig.expect(client, &expected);
        rig.expect_close(client);
    }
}

#[test]
fn what_comes_too_early_is_refused_with_the_time_to_wait() {
    let mut rig = Rig::new(PERFECT, 1);
    rig.access = || Access { policy: Box::new(Busy), ..Access::open_loopback() };
    rig.crash(PERFECT, 2);
    // Request Problem Information 0 leaves words out where they are not asked for (MQTT 5.0 §3.1.2.11.7).
    for (asks, words) in [(&[][..], WORDS), (&[0x17, 0][..], b"\x00")] {
        let client = rig.client();
        rig.send(client, &connect(5, 2, asks, "c"));
        rig.turn_until(|rig| rig.has_output(client));
        rig.take(client);
        rig.send(client, &packet(0x82, b"\x00\x01\x00\x00\x04busy\x01"));
        rig.expect(client, &with_words(0x90, b"\x00\x01", words, b"\x97"));
        // No code is final for a message: the client is sent away for so long.
        rig.send(client, &packet(0x32, b"\x00\x04busy\x00\x01\x00x"));
        rig.expect(client, &with_words(0xe0, b"\x89", WORDS, b""));
        rig.expect_close(client);
    }
}

/// A packet of any length.
pub(super) fn long(first: u8, body: &[u8]) -> Vec<u8> {
    let (mut out, mut len) = (vec![first], body.len());
    while len >= 0x80 {
        out.push(len as u8 | 0x80);
        len >>= 7;
    }
    out.push(len as u8);
    out.extend(body);
    out
}

#[test]
fn a_packet_with_very_many_filters_is_no_square_of_work() {
    const FILTERS: usize = 5_000;
    let mut rig = Rig::new(PERFECT, 1);
    let client = lasting(&mut rig, "c", 0);
    let filters = |behind: &[u8]| {
        let each = (0..FILTERS).map(|n| [b"\x00\x05".as_slice(), format!("{n:05}").as_bytes(), behind].concat());
        each.collect::<Vec<_>>().concat()
    };
    let subscribe = long(0x82, &[b"\x00\x01", &filters(b"\x01")[..]].concat());
    let unsubscribe = long(0xa2, &[b"\x00\x02", &filters(b"")[..]].concat());
    for bytes in [&subscribe, &subscribe, &unsubscribe] {
        work::take();
        rig.send(client, bytes);
        rig.turn_until(|rig| rig.has_output(client));
        rig.turn();
        rig.take(client);
        let done = work::take();
        assert!(done < 6 * FILTERS as u64, "{done} steps");
    }
    let subscriptions = |rig: &Rig| {
        let requests = rig.workers.iter().flat_map(|worker| &worker.owner.requests);
        requests
            .filter_map(|requests| requests.sessions.fold().session("c"))
            .map(|c| c.subscriptions().len())
            .sum::<usize>()
    };
    assert_eq!(subscriptions(&rig), 0);
    rig.send(client, &subscribe);
    rig.turn_until(|rig| rig.has_output(client));
    assert_eq!(subscriptions(&rig), FILTERS);
}

/// Resume reads at most twice what it delivers, and 1 MiB: also of retained messages, which lie behind the cursor.
#[test]
fn retained_messages_that_are_owed_are_read_batch_by_batch() {
    const MESSAGES: u8 = 40;
    let mut rig = Rig::new(PERFECT, 1);
    let publisher = clean(&mut rig, "pub");
    for n in 0..MESSAGES {
        let body = [b"\x00\x03r/", &[b'0' + n][..], &[0, n + 1], &[7; 8_000]].concat();
        rig.send_in_turn(publisher, &long(0x33, &body));
    }
    rig.turn_until(|rig| rig.has_output(publisher));
    let client = lasting(&mut rig, "sub", 0);
    rig.send(client, &packet(0x82, b"\x00\x01\x00\x03r/+\x01"));
    let delivered = usize::from(MESSAGES) * 8_000;
    let mut got = 0;
    for _ in 0..200 {
        rig.turn();
        got += rig.take(client).len();
    }
    assert!(got > delivered, "{got}");
    rig.hang_up(client);
    (0..5).for_each(|_| rig.turn());
    rig.bytes_read.store(0, Ordering::Relaxed);
    let client = lasting(&mut rig, "sub", 1);
    let mut got = 0;
    for _ in 0..200 {
        rig.turn();
        got += rig.take(client).len();
    }
    assert!(got > delivered, "{got}");
    let read = rig.bytes_read.load(Ordering::Relaxed) as usize;
    assert!(read <= 2 * delivered + (1 << 20), "{read} bytes read for {delivered}");
}

/// However much was appended in one turn with it.
#[test]
fn a_retained_message_that_is_owed_is_read_without_its_neighbours() {
    const MESSAGES: u8 = 60;
    let mut rig = Rig::new(PERFECT, 1);
    let publisher = clean(&mut rig, "pub");
    for n in 0..MESSAGES {
        let body = [b"\x00\x03r/", &[b'0' + n][..], &[0, n + 1], &[7; 100]].concat();
        rig.send_in_turn(publisher, &long(0x33, &body));
        for id in 1..=40 {
            rig.send_in_turn(publisher, &long(0x32, &[b"\x00\x01n\x01", &[id][..], &[7; 10_000]].concat()));
        }
        rig.turn_until(|rig| rig.has_output(publisher));
        rig.take(publisher);
    }
    let mut resume = |code| {
        rig.bytes_read.store(0, Ordering::Relaxed);
        let client = lasting(&mut rig, "sub", code);
        if code == 0 {
            rig.send(client, &packet(0x82, b"\x00\x01\x00\x03r/+\x01"));
        }
        let mut got = 0;
        for _ in 0..400 {
            rig.turn();
            got += rig.take(client).len();
        }
        assert!(got > usize::from(MESSAGES) * 100, "{got}");
        rig.hang_up(client);
        (0..5).for_each(|_| rig.turn());
        (got, rig.bytes_read.load(Ordering::Relaxed) as usize)
    };
    resume(0);
    let (delivered, read) = resume(1);
    assert!(read <= 2 * delivered + (1 << 20), "{read} bytes read for {delivered}");
}
