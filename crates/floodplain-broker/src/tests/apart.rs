//! A log that does not keep units whole: of a QoS 2 message and its `Received` it may have one without the other.

use super::open_ends::connected;
use crate::rig::{ClientId, Rig, packet};
use floodplain_testkit::Adversity;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

const TORN: Adversity = Adversity { torn: true, unknown: 100, ..Adversity::HARSH };

/// A subscriber with QoS 2 to `t` and a lasting session, which comes again when its connection ends.
struct Subscriber {
    client: ClientId,
    /// What it has got, and how often.
    got: BTreeMap<u16, u32>,
    /// In this order.
    order: Vec<u16>,
    /// Ids of messages that it has, and that were not released.
    taken: BTreeSet<u16>,
}

impl Subscriber {
    fn new(rig: &mut Rig) -> Self {
        let client = connected(rig, 0, "sub");
        let mut subscriber = Self { client, got: BTreeMap::new(), order: Vec::new(), taken: BTreeSet::new() };
        rig.send(client, &packet(0x82, b"\x00\x01\x00\x01t\x02"));
        while rig.take_or_end(subscriber.client, 5).is_none() {
            subscriber.client = connected(rig, 0, "sub");
            rig.send(subscriber.client, &packet(0x82, b"\x00\x01\x00\x01t\x02"));
        }
        subscriber
    }

    /// Answers all that has come.
    fn answer(&mut self, rig: &mut Rig) {
        if !rig.is_open(self.client) {
            self.client = connected(rig, 0, "sub");
        }
        let bytes = rig.take(self.client);
        let mut rest = &bytes[..];
        while let [first, len, behind @ ..] = rest {
            let (body, behind) = behind.split_at(usize::from(*len));
            match (first & 0xf6, body) {
                (0x34, [0, 1, b't', high, low, payload @ ..]) => {
                    if self.taken.insert(u16::from_be_bytes([*high, *low])) {
                        let number = u16::from_be_bytes(payload.try_into().unwrap());
                        *self.got.entry(number).or_default() += 1;
                        self.order.push(number);
                    }
                    rig.send(self.client, &[0x50, 2, *high, *low]);
                }
                (0x62, [high, low]) => {
                    self.taken.remove(&u16::from_be_bytes([*high, *low]));
                    rig.send(self.client, &[0x70, 2, *high, *low]);
                }
                other => panic!("{other:02x?}"),
            }
            rest = behind;
        }
    }

    /// Waits until all is there, and sees that no more came.
    fn has_each_once(&mut self, rig: &mut Rig, count: u16, seed: u64) {
        for _ in 0..10_000 {
            if self.got.len() == usize::from(count) && self.taken.is_empty() {
                break;
            }
            rig.advance(Duration::from_millis(20));
            self.answer(rig);
        }
        // A copy would come a moment later.
        for _ in 0..50 {
            rig.advance(Duration::from_millis(20));
            self.answer(rig);
        }
        let wrong: Vec<_> =
            (1..=count).map(|n| (n, self.got.get(&n).copied().unwrap_or(0))).filter(|(_, count)| *count != 1).collect();
        assert!(wrong.is_empty(), "seed {seed}: came another number of times than once: {wrong:?}");
    }
}

/// Says something until it has its answer, on as many connections as it takes; gives the number of repeats.
fn says(rig: &mut Rig, client: &mut ClientId, first: &[u8], again: &[u8], answer: &[u8]) -> u32 {
    if rig.is_open(*client) {
        rig.send(*client, first);
    }
    for repeats in 0.. {
        if let Some(answered) = rig.take_or_end(*client, answer.len()) {
            assert_eq!(answered, answer);
            return repeats;
        }
        *client = connected(rig, 0, "pub");
        rig.send(*client, again);
    }
    unreachable!("it comes through some day")
}

/// Gives how often something was repeated.
fn qos_2_comes_once(seed: u64) -> u32 {
    const COUNT: u16 = 120;
    let mut rig = Rig::new(TORN, seed);
    let mut subscriber = Subscriber::new(&mut rig);
    let mut publisher = connected(&mut rig, 0, "pub");
    let mut repeats = 0;
    for n in 1..=COUNT {
        // A small client takes the same id for every message.
        let id = n % 2 + 1;
        let ([high, low], [of_id, id]) = (n.to_be_bytes(), id.to_be_bytes());
        let publish = |dup: u8| packet(0x34 | dup, &[0, 1, b't', of_id, id, high, low]);
        repeats += says(&mut rig, &mut publisher, &publish(0), &publish(8), &[0x50, 2, of_id, id]);
        if (u64::from(n) + seed).is_multiple_of(50) {
            rig.crash(TORN, seed + u64::from(n));
        }
        let pubrel = [0x62, 2, of_id, id];
        repeats += says(&mut rig, &mut publisher, &pubrel, &pubrel, &[0x70, 2, of_id, id]);
        subscriber.answer(&mut rig);
    }
    subscriber.has_each_once(&mut rig, COUNT, seed);
    repeats
}

#[test]
fn qos_2_comes_once_where_a_message_may_be_stored_without_its_id() {
    let repeats: u32 = (0..8).map(qos_2_comes_once).sum();
    assert!(repeats > 50, "only {repeats} repeats");
}

/// Gives how many messages were repeated.
fn all_that_is_open_comes_once(seed: u64) -> usize {
    // The least that the server takes by default has room for more.
    const OPEN: u16 = 250;
    let mut rig = Rig::new(TORN, seed);
    let mut subscriber = Subscriber::new(&mut rig);
    let mut publisher = connected(&mut rig, 0, "pub");
    let mut unanswered: BTreeSet<u16> = (1..=OPEN).collect();
    let (mut dup, mut crashes, mut repeats) = (0, 2, 0);
    loop {
        let publish = |id: &u16| {
            let [high, low] = id.to_be_bytes();
            packet(0x34 | dup, &[0, 1, b't', high, low, high, low])
        };
        rig.send(publisher, &unanswered.iter().flat_map(publish).collect::<Vec<u8>>());
        if crashes > 0 {
            // With all of them open, and some of them stored.
            (0..=seed % 5).for_each(|_| rig.advance(Duration::from_millis(20)));
            rig.crash(TORN, seed + crashes);
            crashes -= 1;
        }
        while !unanswered.is_empty()
            && let Some(answer) = rig.take_or_end(publisher, 4)
        {
            let [0x50, 2, high, low] = answer[..] else { panic!("{answer:02x?}") };
            unanswered.remove(&u16::from_be_bytes([high, low]));
        }
        subscriber.answer(&mut rig);
        if unanswered.is_empty() {
            break;
        }
        repeats += unanswered.len();
        dup = 8;
        publisher = connected(&mut rig, 0, "pub");
    }
    for id in 1..=OPEN {
        let [high, low] = id.to_be_bytes();
        let pubrel = [0x62, 2, high, low];
        says(&mut rig, &mut publisher, &pubrel, &pubrel, &[0x70, 2, high, low]);
        subscriber.answer(&mut rig);
    }
    subscriber.has_each_once(&mut rig, OPEN, seed);
    repeats
}

#[test]
fn as_many_as_a_client_may_have_open_come_once() {
    let repeats: usize = (0..8).map(all_that_is_open_comes_once).sum();
    assert!(repeats > 1000, "only {repeats} repeats");
}

/// Units are for several partitions each, and end when the slowest of those has answered. Gives how many ended before
/// an earlier one.
fn qos_2_comes_in_order(seed: u64) -> u64 {
    const COUNT: u16 = 240;
    const AT_ONCE: u16 = 8;
    let mut rig = Rig::new(Adversity { torn: true, ..Adversity::MILD }, seed);
    let mut subscriber = Subscriber::new(&mut rig);
    let publisher = connected(&mut rig, 0, "pub");
    let others: Vec<_> = (0..6).map(|n| connected(&mut rig, 2, &format!("other-{n}"))).collect();
    let mut answers = Vec::new();
    for n in 1..=COUNT {
        let [high, low] = n.to_be_bytes();
        // In one turn with what those publish whose turn it is.
        for (at, other) in others.iter().enumerate().filter(|(at, _)| (usize::from(n) + at) % 3 == 0) {
            assert!(rig.send_in_turn(*other, &packet(0x32, &[0, 1, b'o', high, low])), "{at}");
        }
        rig.send(publisher, &packet(0x34, &[0, 1, b't', high, low, high, low]));
        subscriber.answer(&mut rig);
        if n % AT_ONCE == 0 {
            rig.advance(Duration::from_millis(20));
        }
        answers.extend(rig.take(publisher));
        while answers.len() >= 4 {
            let rest = answers.split_off(4);
            match answers[..] {
                [0x50, 2, high, low] => rig.send(publisher, &[0x62, 2, high, low]),
                [0x70, 2, _, _] => {}
                _ => panic!("{answers:02x?}"),
            }
            answers = rest;
        }
    }
    subscriber.has_each_once(&mut rig, COUNT, seed);
    assert!(subscriber.order.is_sorted(), "seed {seed}: {:?}", subscriber.order);
    rig.overtaken()
}

#[test]
fn qos_2_comes_in_order_where_units_end_in_another() {
    let overtaken: u64 = (0..8).map(qos_2_comes_in_order).sum();
    assert!(overtaken > 100, "only {overtaken} units have overtaken others");
}
