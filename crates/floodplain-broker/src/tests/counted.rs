//! What clients do not get is counted: every counter that `docs/guides/running.md` lists, when it happens and only then.

use super::{PERFECT, clean};
use crate::rig::{ClientId, Rig, connect};
use floodplain_log::{Outcome, Refusal};
use floodplain_testkit::Adversity;
use std::{collections::BTreeSet, time::Duration};

const GUIDE: &str = include_str!("../../../../docs/guides/running.md");

/// The counters of the guide that are the broker's, each with every value of its label.
fn documented() -> BTreeSet<String> {
    let quoted = |cell: &'static str| cell.split('`').skip(1).step_by(2);
    let rows = GUIDE.lines().filter(|line| line.starts_with("| `floodplain_broker_"));
    let series = rows.flat_map(|line| {
        let cells: Vec<&str> = line.split('|').collect();
        let name = quoted(cells[1]).next().unwrap();
        let mut reasons: Vec<String> = quoted(cells[2]).map(|reason| format!("{name} {reason}")).collect();
        if reasons.is_empty() {
            reasons.push(name.to_owned());
        }
        reasons
    });
    series.collect()
}

/// How often; [`SOME`] is any number above zero.
type Counted = (&'static str, u64);
const SOME: u64 = u64::MAX;

/// Each with all that it makes the broker count, without `floodplain_broker_` and `_total`.
const SCENARIOS: &[(fn() -> Rig, &[Counted])] = &[
    (held, &[("dropped_connections held", 1), ("refused_appends", SOME)]),
    (append_too_large, &[("dropped_connections append_too_large", 1), ("refused_appends", 1)]),
    (packet_too_large, &[("dropped_connections packet_too_large", 1)]),
    (log_refused, &[("dropped_messages log_refused", 3), ("refused_appends", 1)]),
    (log_full, &[("dropped_messages log_refused", 3), ("refused_appends", 1)]),
    (log_unknown, &[("dropped_messages log_unknown", 3), ("unknown_appends", 1)]),
    (log_behind, &[("paused_publishers log", 1), ("refused_appends", SOME)]),
    (too_many_acks, &[("paused_publishers acks", 1)]),
    (unread_answers, &[("paused_publishers output", 1)]),
];

#[test]
fn what_is_refused_dropped_and_lost_is_counted() {
    let documented = documented();
    for (scenario, expected) in SCENARIOS {
        let rig = scenario();
        let counted = rig.counts.of("floodplain_broker_").into_iter().filter(|(name, _)| documented.contains(name));
        let counted: Vec<(String, u64)> = counted.collect();
        let full = |name: &str| match name.split_once(' ') {
            Some((name, reason)) => format!("floodplain_broker_{name}_total {reason}"),
            None => format!("floodplain_broker_{name}_total"),
        };
        let is_some = |name: &str| expected.iter().any(|(some, count)| *count == SOME && full(some) == name);
        let counted =
            counted.into_iter().map(|(name, count)| (name.clone(), if is_some(&name) { SOME } else { count }));
        let mut expected: Vec<(String, u64)> = expected.iter().map(|(name, count)| (full(name), *count)).collect();
        expected.sort_unstable();
        assert_eq!(counted.collect::<Vec<_>>(), expected);
    }
}

const PUBLISH: &[u8] = b"\x32\x06\x00\x01t\x00\x01x";
/// Three with QoS 0.
const PUBLISHES: &[u8] = b"\x30\x04\x00\x01tx\x30\x04\x00\x01tx\x30\x04\x00\x01tx";

/// A client, on a log whose appends will end so.
fn ending(outcome: fn() -> Outcome) -> (Rig, ClientId) {
    let mut rig = Rig::new(PERFECT, 1);
    let client = clean(&mut rig, "c");
    (0..5).for_each(|_| rig.turn());
    *rig.faults.outcome.lock().unwrap() = Some(outcome);
    (rig, client)
}

fn held() -> Rig {
    let (mut rig, client) = ending(|| Outcome::Refused(Refusal::DiskFull { free_bytes: 0, reserve_bytes: 1 }));
    rig.send(client, &[PUBLISH, b"\x32\x06\x00\x01t\x00\x02x"].concat());
    (0..11).for_each(|_| rig.advance(Duration::from_secs(1)));
    rig.expect_close(client);
    rig
}

fn append_too_large() -> Rig {
    let (mut rig, client) = ending(|| Outcome::Refused(Refusal::TooLarge { bytes: 2, max_bytes: 1 }));
    rig.send(client, PUBLISH);
    rig.expect_close(client);
    *rig.faults.outcome.lock().unwrap() = None;
    rig
}

/// CONNACK is longer than this.
fn packet_too_large() -> Rig {
    let mut rig = Rig::new(PERFECT, 1);
    let client = rig.client();
    rig.send(client, &connect(5, 2, &[0x27, 0, 0, 0, 10], "c"));
    rig.expect_close(client);
    rig
}

fn log_refused() -> Rig {
    let (mut rig, client) = ending(|| Outcome::Refused(Refusal::Poisoned { cause: "a sync".into() }));
    rig.send(client, PUBLISHES);
    (0..5).for_each(|_| rig.turn());
    rig
}

fn log_full() -> Rig {
    let (mut rig, client) = ending(|| Outcome::Refused(Refusal::DiskFull { free_bytes: 0, reserve_bytes: 1 }));
    rig.send(client, PUBLISHES);
    (0..5).for_each(|_| rig.turn());
    rig
}

fn log_unknown() -> Rig {
    let (mut rig, client) = ending(|| Outcome::Unknown);
    rig.send(client, PUBLISHES);
    (0..5).for_each(|_| rig.turn());
    rig
}

fn log_behind() -> Rig {
    let mut rig = Rig::new(PERFECT, 1);
    let client = clean(&mut rig, "c");
    rig.set_adversity(Adversity { refused: 1_000, ..PERFECT });
    rig.send(client, PUBLISH);
    rig.turn_until(|rig| rig.is_pressed(client));
    assert!(!rig.send_in_turn(client, PUBLISH));
    rig
}

fn too_many_acks() -> Rig {
    let mut rig = Rig::new(PERFECT, 1);
    let client = clean(&mut rig, "c");
    rig.hold(true);
    assert!(!rig.send_in_turn(client, &PUBLISH.repeat(1_100)));
    rig
}

fn unread_answers() -> Rig {
    let mut rig = Rig::new(PERFECT, 1);
    let client = clean(&mut rig, "c");
    rig.reads(client, false);
    while rig.send_in_turn(client, &b"\xc0\x00".repeat(32 << 10)) {
        rig.turn();
    }
    rig
}
