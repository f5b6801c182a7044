//! A reader that stops costs a publisher nothing: neither turns of its worker, nor units of the log.

use super::{PERFECT, clean, limits::long};
use crate::rig::{Rig, connect, packet};
use std::collections::BTreeSet;

/// What each of many messages takes until its PUBACK, turns and units of the log, beside a subscriber that reads nothing.
fn costs(qos: u8, subscriber: Option<u8>) -> Vec<(u32, usize)> {
    let mut rig = Rig::new(PERFECT, 1);
    if let Some(flags) = subscriber {
        let subscriber = rig.client();
        rig.send(subscriber, &connect(4, flags, &[], "sub"));
        rig.expect(subscriber, &[0x20, 2, 0, 0]);
        rig.send(subscriber, &packet(0x82, &[0, 1, 0, 1, b't', qos]));
        rig.expect(subscriber, &[0x90, 3, 0, 1, qos]);
        rig.reads(subscriber, false);
    }
    // Of the subscriber's worker, and of the other one.
    let publishers: Vec<_> = (0..8).map(|n| clean(&mut rig, &format!("p{n}"))).collect();
    let workers: BTreeSet<_> = publishers.iter().map(|publisher| rig.worker_of(*publisher)).collect();
    assert_eq!(workers.len(), 2);
    // More than sockets and queues hold.
    let message = long(0x32, &[&b"\x00\x01t\x00\x01"[..], &[7; 60_000]].concat());
    let cost = |n| {
        let publisher = publishers[n % publishers.len()];
        rig.classes.lock().unwrap().clear();
        assert!(rig.send_in_turn(publisher, &message), "it is read on");
        let mut turns = 0;
        while !rig.has_output(publisher) {
            rig.turn();
            turns += 1;
            assert!(turns < 100);
        }
        assert_eq!(rig.take(publisher), b"\x40\x02\x00\x01");
        (turns, rig.classes.lock().unwrap().len())
    };
    (0..200).map(cost).collect()
}

#[test]
fn a_reader_that_stops_costs_a_publisher_nothing() {
    for qos in 0..=2 {
        let alone = costs(qos, None);
        assert_eq!(costs(qos, Some(2)), alone, "clean session, QoS {qos}");
        // The identifiers of those that were sent must be in the log: that is a window of them, and then no more.
        let lasting = costs(qos, Some(0));
        let turns = |costs: &[(u32, usize)]| costs.iter().map(|(turns, _)| *turns).collect::<Vec<_>>();
        assert_eq!(turns(&lasting), turns(&alone), "lasting session, QoS {qos}");
        assert_eq!(lasting[100..], alone[100..], "lasting session, QoS {qos}");
    }
}
