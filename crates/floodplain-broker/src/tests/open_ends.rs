//! On a log that does all that it may: also refused, lost to another owner, or without a known outcome. Clients come again
//! and repeat what was not answered.

use super::{take_and_ack, take_retained};
use crate::rig::{ClientId, Rig, connect, packet};
use floodplain_testkit::Adversity;
use std::{collections::BTreeSet, time::Duration};

const HARSH: Adversity = Adversity::HARSH;

/// Connects until that is accepted: with an unknown outcome the server says that it is unavailable (3.1.1: 3).
pub(super) fn connected(rig: &mut Rig, flags: u8, id: &str) -> ClientId {
    loop {
        let client = rig.client();
        rig.send(client, &connect(4, flags, &[], id));
        match rig.take_or_end(client, 4).as_deref() {
            Some([0x20, 2, _, 0]) => return client,
            None | Some([0x20, 2, 0, 3]) => {}
            other => panic!("{other:02x?}"),
        }
    }
}

/// Connects as `sub` and subscribes to one filter, until both are answered.
fn subscribed(rig: &mut Rig, flags: u8, filter: &[u8]) -> ClientId {
    loop {
        let client = connected(rig, flags, "sub");
        rig.send(client, &packet(0x82, &[&[0, 1], filter].concat()));
        match rig.take_or_end(client, 5) {
            // A SUBSCRIBE that was not answered is stored, and what it asks for comes before the next one is.
            Some(publish) if publish[0] & 0xf0 == 0x30 => {
                rig.hang_up(client);
                return connected(rig, flags, "sub");
            }
            Some(suback) => {
                assert_eq!(suback, [0x90, 3, 0, 1, *filter.last().unwrap()]);
                return client;
            }
            None => {}
        }
    }
}

/// Publishes with QoS 1 until that is acknowledged, on as many connections as it takes; gives the number of repeats.
fn published(rig: &mut Rig, publisher: &mut ClientId, id: &str, flags: u8, topic: &[u8], payload: [u8; 2]) -> u32 {
    for repeats in 0.. {
        let dup = if repeats > 0 { 8 } else { 0 };
        let len = [0, topic.len() as u8];
        rig.send(*publisher, &packet(0x32 | flags | dup, &[&len, topic, &[0, 7], &payload].concat()));
        if let Some(puback) = rig.take_or_end(*publisher, 4) {
            assert_eq!(puback, [0x40, 2, 0, 7]);
            return repeats;
        }
        *publisher = connected(rig, 2, id);
    }
    unreachable!("it comes through some day")
}

/// A sleeping subscriber and a publisher with refusals, lost ownership and unknown outcomes as well: who hears nothing comes again and repeats. Gives
/// how often the publisher had to.
pub(super) fn nothing_acknowledged_is_lost_where_outcomes_are_unknown(
    make: impl Fn(Adversity, u64) -> Rig,
    seed: u64,
) -> u32 {
    const COUNT: u16 = 150;
    let mut rig = make(HARSH, seed);
    let mut subscriber = subscribed(&mut rig, 0, b"\x00\x01t\x01");
    let mut publisher = connected(&mut rig, 2, "pub");
    let (mut got, mut repeats) = (BTreeSet::new(), 0);
    for i in 1..=COUNT {
        let [high, low] = i.to_be_bytes();
        let mut first = 0x32;
        loop {
            rig.send(publisher, &[first, 7, 0, 1, b't', high, low, high, low]);
            if let Some(puback) = rig.take_or_end(publisher, 4) {
                assert_eq!(puback, [0x40, 2, high, low]);
                break;
            }
            publisher = connected(&mut rig, 2, "pub");
            (first, repeats) = (0x3a, repeats + 1);
        }
        if (u64::from(i) + seed).is_multiple_of(60) {
            rig.crash(HARSH, seed + u64::from(i));
            publisher = connected(&mut rig, 2, "pub");
        }
        if !rig.is_open(subscriber) {
            subscriber = connected(&mut rig, 0, "sub");
        }
        got.extend(take_and_ack(&mut rig, subscriber));
    }
    for _ in 0..10_000 {
        if got.len() == usize::from(COUNT) {
            return repeats;
        }
        if !rig.is_open(subscriber) {
            subscriber = connected(&mut rig, 0, "sub");
        }
        got.extend(take_and_ack(&mut rig, subscriber));
        rig.advance(Duration::from_millis(20));
    }
    let lost: Vec<u16> = (1..=COUNT).filter(|i| !got.contains(i)).collect();
    panic!("seed {seed}: lost {lost:?}");
}

#[test]
fn sleepers_get_all_that_was_acknowledged_where_outcomes_are_unknown() {
    let repeats: u32 = (0..6).map(|seed| nothing_acknowledged_is_lost_where_outcomes_are_unknown(Rig::new, seed)).sum();
    assert!(repeats > 10, "the publisher repeated {repeats} messages only");
}

/// Retained messages of a lasting session on a log that does all that it may: whichever connection breaks off, all that
/// were acknowledged come. Gives the number of repeats.
pub(super) fn retained_messages_survive_where_outcomes_are_unknown(
    make: impl Fn(Adversity, u64) -> Rig,
    seed: u64,
) -> u32 {
    const COUNT: u16 = 60;
    let mut rig = make(HARSH, seed);
    let mut publisher = connected(&mut rig, 2, "pub");
    let mut repeats = 0;
    for i in 1..=COUNT {
        let topic = [b't', b'a' + (i / 26) as u8, b'a' + (i % 26) as u8];
        repeats += published(&mut rig, &mut publisher, "pub", 1, &topic, i.to_be_bytes());
    }
    let mut client = subscribed(&mut rig, 0, b"\x00\x01#\x01");
    let mut got = BTreeSet::new();
    for round in 0..500 {
        for _ in 0..3 + round % 5 {
            rig.advance(Duration::from_millis(20));
            got.extend(take_retained(&mut rig, client));
        }
        if got.len() == usize::from(COUNT) {
            return repeats;
        }
        match round % 8 {
            3 => rig.crash(HARSH, seed + round),
            6 => rig.hang_up(client),
            _ => {}
        }
        if !rig.is_open(client) {
            client = connected(&mut rig, 0, "sub");
        }
    }
    panic!("seed {seed}: only {} of {COUNT} came", got.len());
}

#[test]
fn retained_messages_come_where_outcomes_are_unknown() {
    let repeats: u32 = (0..6).map(|seed| retained_messages_survive_where_outcomes_are_unknown(Rig::new, seed)).sum();
    assert!(repeats > 5, "the publisher repeated {repeats} messages only");
}

/// Clients of two partitions take turns, each until it is acknowledged: the last one counts, also where a repeat of one
/// before it is stored.
#[test]
fn the_later_retained_message_counts_where_outcomes_are_unknown() {
    let mut repeats = 0;
    for seed in 0..6 {
        let mut rig = Rig::new(HARSH, seed);
        let ids: Vec<String> = (0..6).map(|n| format!("p{n}")).collect();
        let mut publishers: Vec<_> = ids.iter().map(|id| connected(&mut rig, 2, id)).collect();
        for round in 0..4_u8 {
            for (n, id) in ids.iter().enumerate() {
                let last = [round, n as u8];
                if !rig.is_open(publishers[n]) {
                    publishers[n] = connected(&mut rig, 2, id);
                }
                repeats += published(&mut rig, &mut publishers[n], id, 1, b"t", last);
                let expected = packet(0x31, &[&[0, 1, b't'][..], &last].concat());
                let got = loop {
                    let subscriber = subscribed(&mut rig, 2, b"\x00\x01t\x00");
                    let got = rig.take_or_end(subscriber, expected.len());
                    rig.hang_up(subscriber);
                    if let Some(got) = got {
                        break got;
                    }
                };
                assert_eq!(got, expected, "seed {seed}");
            }
        }
    }
    assert!(repeats > 5, "the publishers repeated {repeats} messages only");
}
