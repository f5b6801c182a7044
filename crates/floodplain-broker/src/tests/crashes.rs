//! Letters over crashes, from seeds: whatever a session does not get is told once, or as `docs/formats/dlq.md` says.

use super::SLOPPY;
use crate::rig::{ClientId, Rig, connect};
use floodplain_log::header;
use floodplain_testkit::Adversity;
use floodplain_types::Position;
use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// Everything that a log may do to those who append in order, but for unknown outcomes: after one of those the process
/// has to be started again, which these tests do anyway.
const ADVERSE: Adversity = Adversity { refused: 30, ..SLOPPY };
const SEEDS: u64 = 24;
const STEP: Duration = Duration::from_millis(100);

/// Partition, first and last offset, count.
type Range = (u32, u64, u64, u64);

/// Partition, position, dedup id and value.
type Stored = (u32, Position, Option<Vec<u8>>, Vec<u8>);

/// All records of a stream.
fn records(rig: &Rig, stream: &str) -> Vec<Stored> {
    let streams = rig.log.streams();
    let stream = streams.iter().find(|found| found.id.stream.as_str() == stream).unwrap();
    let mut all = Vec::new();
    for index in 0..stream.partitions {
        let partition = stream.partition(index);
        for batch in rig.log.read(partition, rig.log.start(partition), usize::MAX).unwrap().batches {
            for record in &batch.batch.records().unwrap() {
                let record = record.unwrap();
                let mut headers = record.headers().map(Result::unwrap);
                let id = headers.find(|(name, _)| *name == header::DEDUP_ID).map(|(_, id)| id.unwrap().to_vec());
                all.push((index, batch.position(&record), id, record.value.unwrap_or_default().to_vec()));
            }
        }
    }
    all
}

/// What the letters of session `sub` say, each letter once.
fn letters(rig: &Rig) -> Vec<(String, Range)> {
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    for (_, _, id, value) in records(rig, "dlq") {
        let text = String::from_utf8(value).unwrap();
        // The engine has repeated it.
        if id.is_some_and(|id| !seen.insert(id)) || !text.contains(r#""session":"sub""#) {
            continue;
        }
        let member = |name: &str| {
            let (_, rest) = text.split_once(&format!("\"{name}\":")).unwrap();
            rest.trim_start_matches('"').split(['"', ',', '}']).next().unwrap().to_owned()
        };
        let offset = |name: &str| member(name).strip_prefix("0:").unwrap().parse::<u64>().unwrap();
        let range =
            (member("partition").parse().unwrap(), offset("from"), offset("to"), member("count").parse().unwrap());
        found.push((member("reason"), range));
    }
    found.sort_unstable();
    found
}

fn told(rig: &Rig) -> u64 {
    letters(rig).iter().map(|(_, (.., count))| count).sum()
}

/// Time passes until something is so, or the process is dead.
fn until(rig: &mut Rig, what: &str, done: impl Fn(&mut Rig) -> bool) {
    for _ in 0..3_000 {
        if rig.is_dead() || done(rig) {
            return;
        }
        rig.advance(STEP);
    }
    panic!("{what} does not come");
}

/// Connects as `sub`; there is a CONNACK unless the process has died.
fn sub(rig: &mut Rig, bytes: &[u8]) -> ClientId {
    let client = rig.client();
    rig.send(client, bytes);
    until(rig, "CONNACK", |rig| rig.has_output(client));
    client
}

/// A session of 1,000 s.
const LASTS: [u8; 5] = [0x11, 0, 0, 0x03, 0xe8];

/// What makes a session lose its messages. It is called again after a crash, and must bear that it has done all already.
struct Case {
    reason: &'static str,
    /// Properties of the messages.
    properties: &'static [u8],
    /// How many of the messages are lost, of so many.
    lost: fn(u64) -> u64,
    lose: fn(&mut Rig, Position),
}

/// Wakes the session, and answers each QoS 1 message with this code.
fn wakes(rig: &mut Rig, connect: &[u8], code: u8) {
    let client = sub(rig, connect);
    let mut rest = Vec::new();
    for _ in 0..40 {
        rig.advance(STEP);
        rest.extend(rig.take(client));
        while let Some((packet, behind)) = split(&rest) {
            if packet[0] & 0xf0 == 0x30 {
                // Topic `t`, behind a header of three bytes: the payload is long.
                let id = [packet[6], packet[7]];
                let puback = if code == 0 { vec![0x40, 2, id[0], id[1]] } else { vec![0x40, 3, id[0], id[1], code] };
                rig.send(client, &puback);
            }
            rest = behind;
        }
    }
    rig.hang_up(client);
}

/// The first packet, and what is behind it.
fn split(bytes: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let (len, head) = match bytes {
        [_, low, ..] if low & 0x80 == 0 => (usize::from(*low), 2),
        [_, low, high, ..] => (usize::from(low & 0x7f) | usize::from(*high) << 7, 3),
        _ => return None,
    };
    let packet = bytes.get(..head + len)?;
    Some((packet.to_vec(), bytes[head + len..].to_vec()))
}

/// Messages for a session that sleeps; it loses them, and the process dies in the midst of that, up to three times.
fn told_once(case: &Case, seed: u64) {
    let mut chance = SmallRng::seed_from_u64(seed);
    let mut rig = Rig::new(ADVERSE, seed);
    let client = sub(&mut rig, &connect(5, 2, &LASTS, "sub"));
    rig.take(client);
    rig.send(client, b"\x82\x07\x00\x01\x00\x00\x01t\x01");
    until(&mut rig, "SUBACK", |rig| rig.has_output(client));
    assert_eq!(rig.take(client), b"\x90\x04\x00\x01\x00\x01", "seed {seed}");
    rig.hang_up(client);
    let publisher = sub(&mut rig, &connect(5, 2, &[], "pub"));
    rig.take(publisher);
    for id in 1..=chance.random_range(2..=6_u8) {
        let payload = [b'x'; 200];
        let body = [&[0, 1, b't', 0, id, case.properties.len() as u8], case.properties, &payload[..]].concat();
        rig.send(publisher, &[&[0x32, body.len() as u8 | 0x80, (body.len() >> 7) as u8], &body[..]].concat());
        until(&mut rig, "PUBACK", |rig| rig.has_output(publisher));
        assert_eq!(rig.take(publisher), [0x40, 2, 0, id], "seed {seed}");
    }
    rig.hang_up(publisher);
    let messages = records(&rig, "telemetry");
    let positions: Vec<(u32, u64)> = messages.iter().map(|(index, at, ..)| (*index, at.offset)).collect();
    let lost = (case.lost)(messages.len() as u64);
    rig.advance(Duration::from_secs(5));

    for n in 0..chance.random_range(0..=3_u64) {
        rig.dies_after(chance.random_range(1..80));
        (case.lose)(&mut rig, messages[0].1);
        while !rig.is_dead() {
            rig.advance(STEP);
        }
        rig.crash(ADVERSE, seed + 1_000 * (n + 1));
    }
    (case.lose)(&mut rig, messages[0].1);
    for _ in 0..3_000 {
        if told(&rig) >= lost {
            break;
        }
        rig.advance(STEP);
    }
    let check = |rig: &mut Rig| {
        for _ in 0..100 {
            rig.advance(STEP);
        }
        let letters = letters(rig);
        let mut covered = BTreeMap::<(u32, u64), u32>::new();
        for (reason, (partition, from, to, _)) in &letters {
            assert_eq!(reason, case.reason, "seed {seed}: {letters:?}");
            for at in positions.iter().filter(|(index, at)| index == partition && (from..=to).contains(&at)) {
                *covered.entry(*at).or_default() += 1;
            }
        }
        let count: u64 = letters.iter().map(|(_, (.., count))| count).sum();
        assert_eq!((count, covered.len() as u64), (lost, lost), "{} seed {seed}: {letters:?}", case.reason);
        assert!(covered.values().all(|times| *times == 1), "{} seed {seed}: {letters:?}", case.reason);
        letters
    };
    let before = check(&mut rig);
    rig.crash(ADVERSE, seed + 10_000);
    assert_eq!(check(&mut rig), before, "nothing is told again");
}

fn told_once_for_all_seeds(case: &Case) {
    (0..SEEDS).for_each(|seed| told_once(case, seed));
}

const fn all(messages: u64) -> u64 {
    messages
}

const fn one(_: u64) -> u64 {
    1
}

#[test]
fn what_expired_is_told_once() {
    told_once_for_all_seeds(&Case {
        reason: "expired",
        // Two seconds.
        properties: &[0x02, 0, 0, 0, 2],
        lost: all,
        lose: |rig, _| wakes(rig, &connect(5, 0, &LASTS, "sub"), 0),
    });
}

#[test]
fn what_is_too_large_is_told_once() {
    told_once_for_all_seeds(&Case {
        reason: "larger than the client's maximum packet size",
        properties: &[],
        lost: all,
        lose: |rig, _| {
            let properties = [&LASTS[..], &[0x27, 0, 0, 0, 190]].concat();
            wakes(rig, &connect(5, 0, &properties, "sub"), 0);
        },
    });
}

#[test]
fn what_the_client_refuses_is_told_once() {
    told_once_for_all_seeds(&Case {
        reason: "refused by the client: not authorized (0x87)",
        properties: &[],
        lost: all,
        lose: |rig, _| wakes(rig, &connect(5, 0, &LASTS, "sub"), 0x87),
    });
}

#[test]
fn what_cannot_be_read_is_told_once() {
    told_once_for_all_seeds(&Case {
        reason: "it cannot be read",
        properties: &[],
        lost: one,
        lose: |rig, first| {
            *rig.faults.unreadable.lock().unwrap() = Some(first.offset);
            wakes(rig, &connect(5, 0, &LASTS, "sub"), 0);
        },
    });
}

#[test]
fn what_damage_has_taken_is_told_once() {
    told_once_for_all_seeds(&Case {
        reason: "the log is damaged",
        properties: &[],
        lost: one,
        lose: |rig, first| {
            *rig.faults.damaged.lock().unwrap() = Some(first.offset);
            wakes(rig, &connect(5, 0, &LASTS, "sub"), 0);
        },
    });
}

#[test]
fn what_retention_has_removed_is_told_once() {
    told_once_for_all_seeds(&Case {
        reason: "retention has removed it",
        properties: &[],
        lost: all,
        lose: |rig, _| {
            rig.trim_all(&["telemetry"]);
            for _ in 0..40 {
                rig.advance(STEP);
            }
        },
    });
}

#[test]
fn what_waits_for_a_session_that_expires_is_told_once() {
    told_once_for_all_seeds(&Case {
        reason: "session expired",
        properties: &[],
        lost: all,
        lose: |rig, _| {
            for _ in 0..20 {
                rig.advance(Duration::from_secs(100));
            }
        },
    });
}

#[test]
fn what_waits_for_a_session_that_is_discarded_is_told_once() {
    told_once_for_all_seeds(&Case {
        reason: "session discarded by its client",
        properties: &[],
        lost: all,
        lose: |rig, _| {
            let client = sub(rig, &connect(5, 2, &LASTS, "sub"));
            rig.hang_up(client);
        },
    });
}

#[test]
fn what_waits_for_a_session_that_its_client_ends_is_told_once() {
    told_once_for_all_seeds(&Case {
        reason: "session ended with its connection",
        properties: &[],
        lost: all,
        lose: |rig, _| {
            let client = sub(rig, &connect(5, 0, &LASTS, "sub"));
            // DISCONNECT, session expiry 0.
            rig.send(client, b"\xe0\x07\x00\x05\x11\x00\x00\x00\x00");
        },
    });
}

/// More than the index holds for one filter. It is built anew at each start, and gives up the same messages again.
#[test]
fn what_is_too_much_to_wait_is_told_once() {
    let mut rig = Rig::new(Adversity::NONE, 1);
    let client = sub(&mut rig, &connect(5, 2, &LASTS, "sub"));
    rig.take(client);
    rig.send(client, b"\x82\x07\x00\x01\x00\x00\x01t\x01");
    until(&mut rig, "SUBACK", |rig| rig.has_output(client));
    rig.hang_up(client);
    let publisher = rig.client();
    rig.send(publisher, &connect(4, 2, &[], "pub"));
    rig.expect(publisher, &[0x20, 2, 0, 0]);
    let (messages, acks) = (b"\x32\x05\x00\x01t\x00\x01".repeat(1_000), b"\x40\x02\x00\x01".repeat(1_000));
    // 2^18 and a few.
    for _ in 0..263 {
        rig.send(publisher, &messages);
        rig.expect(publisher, &acks);
    }
    rig.hang_up(publisher);
    for life in 1..=3 {
        for _ in 0..60 {
            rig.advance(STEP);
        }
        let letters = letters(&rig);
        let [(reason, (3, 0, to, count))] = &letters[..] else { panic!("life {life}: {letters:?}") };
        assert_eq!((reason.as_str(), to + 1), ("too many messages wait", *count), "life {life}");
        assert!((856..263_000).contains(count), "life {life}: {letters:?}");
        rig.crash(Adversity::NONE, life);
    }
}
