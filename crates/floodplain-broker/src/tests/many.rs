//! Very many sessions, and what concerns all of them at once.

use super::{PERFECT, clean, lasting, values};
use crate::{
    folds::{Event, Open, RunId, Will},
    owner::TURN_STEPS,
    rig::Rig,
};
use floodplain_fold::STEP_ITEMS;
use floodplain_log::{Append, BatchBuilder, Compression};
use floodplain_types::{Class, Clock as _, Topic};
use std::{collections::BTreeSet, time::Duration};

const MANY: usize = 3 * TURN_STEPS * STEP_ITEMS;

/// Sessions of partition 0 whose connections an earlier run of the server had.
fn write_sessions(rig: &Rig, count: usize, will_delay_s: u32) {
    let stream = rig.log.streams().into_iter().find(|stream| stream.id.stream.as_str() == "requests").unwrap();
    let clients: Vec<String> = (0..count).map(|n| format!("c{n}")).collect();
    for chunk in clients.chunks(1000) {
        let mut builder = BatchBuilder::new();
        for client in chunk {
            let will = Will {
                topic: Topic::new("gone").unwrap(),
                payload: client.clone().into_bytes().into(),
                qos: 1,
                retain: false,
                delay_s: will_delay_s,
                expiry_s: None,
                payload_format: None,
                content_type: None,
                response_topic: None,
                correlation: None,
                user_properties: Vec::new(),
                stream: 0,
            };
            let open = Open {
                run: RunId(77),
                protocol_level: 5,
                takes_over: false,
                clean_start: true,
                session_expiry_s: 100_000,
                keep_alive_s: 30,
                peer: String::new(),
                will: Some(will),
            };
            let value = Event::Open(Box::new(open)).encode();
            let now = rig.clock.now().as_millis();
            builder.push(now, Some(client.as_bytes()), Some(&value), []).unwrap();
        }
        let batch = builder.finish(Compression::None).unwrap();
        rig.log.submit(Append { batches: vec![(stream.partition(0), batch)], class: Class::All }, None);
    }
    while rig.log.watermark(stream.partition(0)).offset < count as u64 {
        rig.pump();
    }
}

/// So many sessions have a will that waits for its delay.
fn waiting_wills(rig: &Rig) -> usize {
    let requests = rig.workers.iter().flat_map(|worker| &worker.owner.requests);
    requests.flat_map(|requests| requests.sessions.fold().sessions()).filter(|(_, s)| s.will_at.is_some()).count()
}

#[test]
fn wills_that_are_due_at_once_let_others_be_served() {
    let mut rig = Rig::new(PERFECT, 1);
    write_sessions(&rig, MANY, 5);
    rig.crash(PERFECT, 1);
    assert_eq!(waiting_wills(&rig), MANY);
    let other = clean(&mut rig, "other");
    rig.clock.advance(Duration::from_secs(6));
    rig.advance(Duration::ZERO);
    let mut turns = 0;
    while waiting_wills(&rig) > 0 {
        let before = waiting_wills(&rig);
        rig.send(other, &[0xc0, 0]);
        assert_eq!(rig.take(other), [0xd0, 0], "it is answered in the same turn");
        let done = before - waiting_wills(&rig);
        assert!(done <= TURN_STEPS * STEP_ITEMS, "{done} in one turn");
        turns += 1;
        assert!(turns < 1000);
    }
    assert!(turns > 2, "{turns}");
    rig.turn_until(|rig| values(rig, "telemetry").len() >= MANY);
    let wills = values(&rig, "telemetry");
    assert_eq!((wills.len(), wills.into_iter().collect::<BTreeSet<_>>().len()), (MANY, MANY), "each once");
}

#[test]
fn wills_of_many_are_sent_once_though_the_server_dies_in_the_middle() {
    for turns in [1, 3, 8] {
        let mut rig = Rig::new(PERFECT, 1);
        write_sessions(&rig, MANY, 5);
        rig.crash(PERFECT, 1);
        rig.clock.advance(Duration::from_secs(6));
        rig.advance(Duration::ZERO);
        (0..turns).for_each(|_| rig.turn());
        rig.crash(PERFECT, 2);
        for _ in 0..40 {
            rig.advance(Duration::from_millis(500));
        }
        let wills = values(&rig, "telemetry");
        assert_eq!((wills.len(), wills.into_iter().collect::<BTreeSet<_>>().len()), (MANY, MANY), "{turns}: each once");
    }
}

#[test]
fn a_large_state_is_copied_while_connections_are_served() {
    let mut rig = Rig::new(PERFECT, 1);
    write_sessions(&rig, 3 * MANY, 3600);
    rig.crash(PERFECT, 1);
    let is_copying = |rig: &Rig| {
        let requests = rig.workers.iter().flat_map(|worker| &worker.owner.requests);
        requests.filter(|requests| requests.sessions.is_copying()).count()
    };
    rig.turn_until(|rig| {
        rig.advance(Duration::from_secs(1));
        is_copying(rig) > 0
    });
    let mut turns = 0;
    while is_copying(&rig) > 0 {
        // What happens meanwhile is in the state, and not in the copy.
        let client = lasting(&mut rig, &format!("new{turns}"), 0);
        rig.hang_up(client);
        turns += 1;
        assert!(turns < 1000);
    }
    assert!(turns > 0);
    rig.turn();
    rig.crash(PERFECT, 2);
    lasting(&mut rig, "new0", 1);
    assert_eq!(waiting_wills(&rig), 3 * MANY);
    // The snapshots hold all: the log may go.
    for _ in 0..3 {
        rig.advance(Duration::from_secs(130));
        (0..40).for_each(|_| rig.turn());
    }
    rig.trim_all(&["requests"]);
    rig.crash(PERFECT, 3);
    lasting(&mut rig, "new0", 1);
    assert_eq!(waiting_wills(&rig), 3 * MANY);
}
