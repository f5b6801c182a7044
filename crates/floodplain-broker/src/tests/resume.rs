//! Very many sessions that come back at once, and folds that are behind: what they read, and what they hold.

use super::{PERFECT, clean, lasting, take_and_ack};
use crate::{
    jobs::{FETCHES_MAX, Work},
    owner::SENT_BYTES_MAX,
    rig::{ClientId, Rig, connect, packet},
};
use floodplain_testkit::Adversity;
use std::sync::atomic::Ordering;

/// Sessions that sleep, and want what comes to `t`.
fn sleepers(rig: &mut Rig, count: usize) {
    for n in 0..count {
        let client = lasting(rig, &format!("s{n}"), 0);
        rig.send(client, &packet(0x82, b"\x00\x01\x00\x01t\x01"));
        rig.expect(client, b"\x90\x03\x00\x01\x01");
        rig.hang_up(client);
    }
}

fn awake(rig: &mut Rig, count: usize) -> Vec<ClientId> {
    (0..count).map(|n| lasting(rig, &format!("s{n}"), 1)).collect()
}

fn publish(rig: &mut Rig, publisher: ClientId, number: u16) {
    let [high, low] = number.to_be_bytes();
    rig.send(publisher, &[0x32, 7, 0, 1, b't', high, low, high, low]);
    rig.expect(publisher, &[0x40, 2, high, low]);
}

#[test]
fn fetches_of_sessions_wait_their_turn_and_reads_for_folds_do_not() {
    const COUNT: usize = 60;
    let mut rig = Rig::new(PERFECT, 1);
    sleepers(&mut rig, COUNT);
    let publisher = clean(&mut rig, "pub");
    (1..=3).for_each(|n| publish(&mut rig, publisher, n));
    rig.jobs = Some(Vec::new());
    let clients = awake(&mut rig, COUNT);
    (0..20).for_each(|_| rig.turn());
    let fetches = |rig: &Rig| {
        let jobs = rig.jobs.iter().flatten();
        jobs.filter(|job| matches!(job.work, Work::Fetch { .. } | Work::ReadAt { .. })).count()
    };
    let waiting = |rig: &Rig| rig.counts.gauge("floodplain_broker_waiting_fetches_count");
    assert_eq!(fetches(&rig), 2 * FETCHES_MAX);
    assert_eq!(waiting(&rig), (COUNT - 2 * FETCHES_MAX) as f64);
    // Who goes away leaves its place, and who comes again has one.
    rig.hang_up(clients[COUNT - 1]);
    let again = lasting(&mut rig, &format!("s{}", COUNT - 1), 1);
    (0..5).for_each(|_| rig.turn());
    assert!(waiting(&rig) <= (COUNT - 2 * FETCHES_MAX + 1) as f64);
    // Nothing is in memory any more: the fold of the partition reads, and nobody is before it.
    rig.faults.is_cold.store(true, Ordering::Relaxed);
    publish(&mut rig, publisher, 4);
    (0..5).for_each(|_| rig.turn());
    let is_read = |job: &crate::Job| matches!(job.work, Work::Read { .. });
    assert!(rig.jobs.iter().flatten().any(is_read), "{:?}", rig.jobs);
    assert_eq!(fetches(&rig), 2 * FETCHES_MAX);
    rig.run_jobs();
    for client in clients[..COUNT - 1].iter().copied().chain([again]) {
        let mut got = Vec::new();
        while got.len() < 4 {
            rig.turn_until(|rig| rig.has_output(client));
            assert!(rig.has_output(client), "only {got:?} came");
            got.extend(take_and_ack(&mut rig, client));
        }
        assert_eq!(got, [1, 2, 3, 4]);
    }
    (0..20).for_each(|_| rig.turn());
    assert_eq!(waiting(&rig), 0.0);
}

/// One message is 20,004 bytes with its topic.
const LARGE: usize = 20_000;

fn publish_large(rig: &mut Rig, publisher: ClientId, id: u16) {
    let [high, low] = id.to_be_bytes();
    rig.send(publisher, &[&[0x32, 0xa5, 0x9c, 0x01, 0, 1, b't', high, low][..], &[7; LARGE]].concat());
    rig.expect(publisher, &[0x40, 2, high, low]);
}

/// Takes large messages and acknowledges them; gives how many there were.
fn take_large(rig: &mut Rig, client: ClientId, rest: &mut Vec<u8>) -> usize {
    rest.extend(rig.take(client));
    let mut count = 0;
    while rest.len() >= LARGE + 9 {
        let packet: Vec<u8> = rest.drain(..LARGE + 9).collect();
        assert_eq!((packet[0] & 0xf6, &packet[4..7]), (0x32, &b"\x00\x01t"[..]));
        rig.send_in_turn(client, &[0x40, 2, packet[7], packet[8]]);
        count += 1;
    }
    count
}

#[test]
fn sessions_that_come_back_and_do_not_read_hold_little_together() {
    const COUNT: usize = 300;
    const MESSAGES: usize = 60;
    let mut rig = Rig::new(PERFECT, 1);
    sleepers(&mut rig, COUNT);
    let publisher = clean(&mut rig, "pub");
    (1..=MESSAGES as u16).for_each(|id| publish_large(&mut rig, publisher, id));
    let wake = |n| {
        let client = rig.client();
        rig.reads(client, false);
        rig.send(client, &connect(4, 0, &[], &format!("s{n}")));
        client
    };
    let clients: Vec<ClientId> = (0..COUNT).map(wake).collect();
    let held = |rig: &Rig| rig.workers.iter().map(|worker| worker.held.bytes()).sum::<usize>();
    let mut before = usize::MAX;
    while before != held(&rig) {
        before = held(&rig);
        (0..20).for_each(|_| rig.turn());
    }
    let each = 2 * LARGE;
    let fetching = FETCHES_MAX * ((256 << 10) + LARGE);
    let most = 2 * ((64 << 20) + fetching) + COUNT * each;
    assert!(held(&rig) > 128 << 20 && held(&rig) <= most, "{} of {most} bytes are held", held(&rig));
    // Those that read get all, whatever the others hold.
    for client in clients.iter().step_by(30) {
        rig.reads(*client, true);
        rig.expect(*client, &[0x20, 2, 1, 0]);
        let (mut count, mut rest) = (0, Vec::new());
        for _ in 0..1_000 {
            count += take_large(&mut rig, *client, &mut rest);
            rig.turn();
        }
        assert_eq!(count, MESSAGES, "all, and none twice");
    }
}

/// The disk does not answer, so a partition is not folded, while messages are acknowledged: they are not kept in memory until
/// it is. Subscribers get all of them once, also those of batches with offsets that no record has.
#[test]
fn messages_that_wait_for_their_fold_are_bounded() {
    for adversity in [PERFECT, Adversity { gaps: 300, holes: 200, ..PERFECT }] {
        let mut rig = Rig::new(adversity, 1);
        let subscriber = clean(&mut rig, "sub");
        rig.send(subscriber, &packet(0x82, b"\x00\x01\x00\x01t\x01"));
        rig.expect(subscriber, b"\x90\x03\x00\x01\x01");
        let publisher = clean(&mut rig, "pub");
        rig.faults.is_cold.store(true, Ordering::Relaxed);
        rig.jobs = Some(Vec::new());
        let messages = 3 * SENT_BYTES_MAX / 2 / LARGE;
        (1..=messages).for_each(|id| publish_large(&mut rig, publisher, id as u16));
        let sent = |rig: &Rig| rig.workers.iter().map(|worker| worker.owner.sent_bytes()).max().unwrap();
        assert!((SENT_BYTES_MAX - 2 * LARGE..=SENT_BYTES_MAX).contains(&sent(&rig)), "{}", sent(&rig));
        // Whoever asks what is retained waits for all that was said before.
        let asker = clean(&mut rig, "pub2");
        rig.send(asker, b"\x31\x04\x00\x01rx");
        rig.send(asker, &packet(0x82, b"\x00\x01\x00\x01r\x00"));
        rig.faults.is_cold.store(false, Ordering::Relaxed);
        rig.run_jobs();
        let (mut count, mut rest) = (0, Vec::new());
        for _ in 0..20 * messages {
            count += take_large(&mut rig, subscriber, &mut rest);
            rig.turn();
        }
        assert_eq!(count, messages);
        assert_eq!(sent(&rig), 0);
        rig.expect(asker, b"\x90\x03\x00\x01\x00\x31\x04\x00\x01rx");
    }
}
