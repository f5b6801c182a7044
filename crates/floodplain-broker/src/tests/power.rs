//! The machine loses its power at any call on its disk, which has the log and the snapshots of folds.

use super::{PERFECT, clean, stored};
use crate::{
    BrokerConfig,
    rig::{ClientId, Rig, connect, packet},
};
use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};
use std::collections::{BTreeMap, BTreeSet};

/// Turns in which what is synced would long have been answered.
const TURNS: u32 = 50;

/// A subscriber with QoS 2 to `t` that comes and goes, and keeps its side of the session.
#[derive(Debug, Default)]
pub(super) struct Sleeper {
    /// What it has got, and how often.
    pub(super) got: BTreeMap<String, u32>,
    /// QoS 2 ids of messages that it has, and that were not released.
    taken: BTreeSet<u16>,
}

impl Sleeper {
    /// Subscribes, and sleeps.
    pub(super) fn new(rig: &mut Rig) -> Self {
        let client = rig.client();
        rig.send(client, &connect(4, 0, &[], "sleeper"));
        rig.expect(client, &[0x20, 2, 0, 0]);
        rig.send(client, &packet(0x82, b"\x00\x01\x00\x01t\x02"));
        rig.expect(client, b"\x90\x03\x00\x01\x02");
        rig.hang_up(client);
        Self::default()
    }

    /// Wakes until it has got all of these, and sleeps again. False: the power went before.
    pub(super) fn wake(&mut self, rig: &mut Rig, all: &BTreeMap<String, u32>) -> bool {
        let client = rig.client();
        rig.send(client, &connect(4, 0, &[], "sleeper"));
        let mut is_known = false;
        while !is_known || !self.taken.is_empty() || !all.keys().all(|payload| self.got.contains_key(payload)) {
            if !comes(rig, client) {
                assert!(rig.disk.is_frozen(), "only {:?} came", self.got);
                return false;
            }
            let bytes = rig.take(client);
            let mut rest = &bytes[..];
            while let [first, len, behind @ ..] = rest {
                let (body, behind) = behind.split_at(usize::from(*len));
                match (first & 0xf6, body) {
                    (0x20, [present, 0]) => {
                        assert_eq!(*present, 1, "the session was lost");
                        is_known = true;
                    }
                    (0x32 | 0x34, [0, 1, b't', high, low, payload @ ..]) => {
                        let is_qos_2 = first & 6 == 4;
                        if !is_qos_2 || self.taken.insert(u16::from_be_bytes([*high, *low])) {
                            *self.got.entry(String::from_utf8(payload.to_vec()).unwrap()).or_default() += 1;
                        }
                        rig.send(client, &[if is_qos_2 { 0x50 } else { 0x40 }, 2, *high, *low]);
                    }
                    (0x62, [high, low]) => {
                        self.taken.remove(&u16::from_be_bytes([*high, *low]));
                        rig.send(client, &[0x70, 2, *high, *low]);
                    }
                    other => panic!("{other:02x?}"),
                }
                rest = behind;
            }
        }
        rig.hang_up(client);
        true
    }
}

/// Waits until the client is sent something; false if it never is, since the power is gone.
fn comes(rig: &mut Rig, client: ClientId) -> bool {
    rig.turn_until(|rig| rig.has_output(client) || rig.disk.is_frozen());
    // What was synced before is answered.
    if rig.disk.is_frozen() {
        (0..TURNS).for_each(|_| rig.turn());
    }
    rig.has_output(client)
}

/// A publisher with a lasting session.
struct Publisher {
    client: ClientId,
    cuts: u64,
    seed: u64,
}

impl Publisher {
    /// Starts the machine again, and comes back.
    fn comes_back(&mut self, rig: &mut Rig) {
        self.cuts += 1;
        rig.lose_power(PERFECT, self.seed * 1_000 + self.cuts);
        self.client = rig.client();
        rig.send(self.client, &connect(4, 0, &[], "pub"));
        rig.expect(self.client, &[0x20, 2, 1, 0]);
    }

    /// Sends this, or `again` after each power cut, until it has its answer.
    fn says(&mut self, rig: &mut Rig, first: &[u8], again: &[u8], answer: &[u8]) {
        rig.send(self.client, first);
        while !comes(rig, self.client) {
            self.comes_back(rig);
            rig.send(self.client, again);
        }
        rig.expect(self.client, answer);
    }
}

/// Gives how often the power went.
fn nothing_acknowledged_is_lost_over_power_cuts(seed: u64) -> u64 {
    const COUNT: u8 = 100;
    // Some for each partition.
    let config = BrokerConfig { snapshot_bytes: 1_000, ..BrokerConfig::default() };
    let mut rig = Rig::on_disk(PERFECT, seed, config);
    let mut chance = SmallRng::seed_from_u64(seed);
    let mut sleeper = Sleeper::new(&mut rig);
    let client = rig.client();
    rig.send(client, &connect(4, 0, &[], "pub"));
    rig.expect(client, &[0x20, 2, 0, 0]);
    let mut publisher = Publisher { client, cuts: 0, seed };
    for n in 1..=COUNT {
        if n % 4 == 0 {
            rig.disk.cut_at_call(chance.random_range(1..40));
        }
        let qos = 1 + n % 2;
        // Retained.
        let publish = |dup: u8| packet(0x31 | qos << 1 | dup, &[&[0, 1, b't', 0, n], name(n).as_bytes()].concat());
        let kind = if qos == 1 { 0x40 } else { 0x50 };
        publisher.says(&mut rig, &publish(0), &publish(8), &[kind, 2, 0, n]);
        if qos == 2 {
            let pubrel = [0x62, 2, 0, n];
            publisher.says(&mut rig, &pubrel, &pubrel, &[0x70, 2, 0, n]);
        }
        if n % 10 == 0 {
            rig.disk.cancel_cut();
            if rig.disk.is_frozen() {
                publisher.comes_back(&mut rig);
            }
            let all = stored(&rig);
            rig.disk.cut_at_call(chance.random_range(1..40));
            while !sleeper.wake(&mut rig, &all) {
                publisher.comes_back(&mut rig);
            }
        }
    }
    rig.disk.cancel_cut();
    publisher.comes_back(&mut rig);
    let stored = stored(&rig);
    assert!(sleeper.wake(&mut rig, &stored));
    for n in 1..=COUNT {
        for (whose, found) in [("log", &stored), ("sleeper", &sleeper.got)] {
            let count = found.get(&name(n)).copied().unwrap_or(0);
            assert!(count == 1 || count > 1 && n % 2 == 0, "seed {seed}, {whose}: {} is there {count} times", name(n));
        }
    }
    assert_eq!(stored.len(), usize::from(COUNT), "seed {seed}");
    let late = clean(&mut rig, "late");
    rig.send(late, &packet(0x82, b"\x00\x01\x00\x01t\x00"));
    let retained = packet(0x31, &[b"\x00\x01t", name(COUNT).as_bytes()].concat());
    rig.expect(late, &[&b"\x90\x03\x00\x01\x00"[..], &retained].concat());
    publisher.cuts
}

fn name(n: u8) -> String {
    format!("message {n}")
}

#[test]
fn sleepers_get_all_that_was_acknowledged_over_power_cuts() {
    let cuts: Vec<u64> = (0..6).map(nothing_acknowledged_is_lost_over_power_cuts).collect();
    assert!(cuts.iter().all(|cuts| *cuts > 10), "{cuts:?}");
}
