//! Letters on a log of which a part of an append may be all that is found: each refused message has one, whoever crashed, and
//! whoever went on.

use crate::{
    bindings::{ALL, declare, letters, of_kind, values},
    engine::{World, run},
    hostile::{Hostile, ONCE},
};
use floodplain_history::jobs::{JobState, Replay};
use floodplain_testkit::Adversity;
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    future::Future as _,
    pin::pin,
    task::{Context, Waker},
};

const OFTEN: Adversity = Adversity { refused: 100, unknown: 300, torn: true, ..Adversity::NONE };
/// Without what a log puts among records that nobody sees: a part may be nothing, and has no place for it.
const HARSH: Adversity = Adversity { unknown: 200, torn: true, holes: 0, gaps: 0, ..ONCE };
/// More than there are partitions of messages, so that one read brings letters for several of them.
const LETTER_PARTITIONS: u32 = 5;

fn plants(decoder: &str) -> Value {
    json!({ "filter": "plants/+", "device_level": 2, "table": { "name": decoder }, "decoder": { "format": decoder } })
}

/// Every third one is JSON.
fn publish(world: &World, from: u32, to: u32) {
    for n in from..to {
        let payload = if n % 3 == 0 { format!(r#"{{"n": {n}}}"#) } else { format!("bad {n}") };
        world.publish(&format!("plants/p{}", n % 7), payload.as_bytes());
    }
}

fn declare_plants(hostile: &mut Hostile<'_>, decoder: &str) {
    let before = hostile.engine.handle().bindings().version();
    while hostile.engine.handle().bindings().version() == before {
        let handle = hostile.engine.handle();
        let asked = handle.put_binding(declare("plants", plants(decoder)));
        assert!(pin!(asked).poll(&mut Context::from_waker(Waker::noop())).is_pending());
        hostile.drain();
    }
}

fn replay(hostile: &mut Hostile<'_>, replay: &Replay) {
    let count = hostile.engine.handle().jobs().list().len();
    loop {
        let handle = hostile.engine.handle();
        if handle.jobs().list().get(count).is_some_and(|job| job.state == JobState::Done) {
            return;
        }
        if handle.jobs().list().len() == count {
            let asked = handle.replay(replay.clone());
            assert!(pin!(asked).poll(&mut Context::from_waker(Waker::noop())).is_pending());
        }
        hostile.drain();
    }
}

/// How many records of a kind there are about each message.
fn counts(world: &World, kind: &str) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for letter in of_kind(&letters(world), kind) {
        *counts.entry(format!("{}/{}", letter["partition"], letter["from"])).or_default() += 1;
    }
    counts
}

fn each_has_one(world: &World, refused: usize, what: &str) {
    for _ in 0..2 {
        let counts = counts(world, "decode");
        assert!(counts.values().all(|count| *count == 1), "{what}: a letter twice: {counts:?}");
        assert_eq!(counts.len(), refused, "{what}: {counts:?}");
        // Whoever decodes again what is in no file has nothing to add.
        run(&mut world.engine().unwrap());
    }
}

/// Runs `work` from many seeds, with crashes and without; what is torn must be enough to mean something.
fn from_many_seeds(work: impl Fn(&mut Hostile<'_>, &World), check: impl Fn(&World, &str)) {
    let (mut torn, mut refused, mut crashes, mut unknown) = (0, 0, 0, 0);
    for seed in 0..40 {
        let world = World::with_letters_in(LETTER_PARTITIONS);
        let (adversity, goes_on) = (if seed % 4 < 2 { OFTEN } else { HARSH }, seed % 2 == 1);
        let mut hostile = Hostile::new(&world, adversity, seed);
        if goes_on {
            hostile = hostile.going_on();
        }
        work(&mut hostile, &world);
        torn += hostile.torn();
        (refused, crashes, unknown) = (refused + hostile.refused, crashes + hostile.crashes, unknown + hostile.unknown);
        drop(hostile);
        check(&world, &format!("seed {seed}"));
    }
    assert!(
        torn > 4 && refused > 20 && crashes > 20 && unknown > 20,
        "{torn} torn, {refused} refusals, {crashes} crashes, {unknown} unknown ends"
    );
}

#[test]
fn a_torn_append_leaves_one_letter_for_each_message() {
    let work = |hostile: &mut Hostile<'_>, world: &World| {
        declare_plants(hostile, "json");
        for part in 0..6 {
            publish(world, part * 21, part * 21 + 21);
            hostile.drain();
            if part % 3 == 2 {
                hostile.flush();
            }
        }
    };
    from_many_seeds(work, |world, what| each_has_one(world, 84, what));
}

#[test]
fn a_torn_append_of_a_replay_leaves_one_letter_for_each_message() {
    let work = |hostile: &mut Hostile<'_>, world: &World| {
        publish(world, 0, 63);
        hostile.drain();
        declare_plants(hostile, "json");
        replay(hostile, &ALL);
        assert_eq!(counts(world, "decode").len(), 42, "when the job is over they are there");
        declare_plants(hostile, "text");
        replay(hostile, &Replay::Letters { ids: None, reason: None });
    };
    let check = |world: &World, what: &str| {
        each_has_one(world, 42, what);
        // Marks may be there twice.
        let marks = counts(world, "replayed");
        assert!(marks.keys().eq(counts(world, "decode").keys()), "{what}: {marks:?}");
        let mut engine = world.engine().unwrap();
        run(&mut engine);
        assert_eq!(values(&engine.handle(), "text", "value").len(), 42, "{what}");
        assert_eq!(values(&engine.handle(), "json", "n").len(), 21, "{what}");
    };
    from_many_seeds(work, check);
}
