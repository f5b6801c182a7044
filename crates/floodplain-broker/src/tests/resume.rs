//! Very many sessions that come back at once: what they read, and what they hold.

use super::{PERFECT, clean, lasting, take_and_ack};
use crate::{
    jobs::{FETCHES_MAX, Work},
    rig::{ClientId, Rig, connect, packet},
};
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
    for id in 1..=MESSAGES as u8 {
        let head = [0x32, 0xa5, 0x9c, 0x01, 0, 1, b't', 0, id];
        rig.send(publisher, &[&head[..], &[7; LARGE]].concat());
        rig.expect(publisher, &[0x40, 2, 0, id]);
    }
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
