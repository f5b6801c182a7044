//! The n-th call fails, for every n until a run has no failure.

use super::{
    first_seed,
    world::{End, Life, World},
};
use floodplain_log::{Outcome, Refusal};
use floodplain_testkit::{Fault, Op, Rule};

/// The same forty steps in each run; whatever is refused is left out.
fn steps(world: &mut World, life: &mut Life, never_fails: bool) {
    let mut poisoned = false;
    for step in 0..40 {
        match step % 8 {
            3 => world.trim(life),
            5 => drop(world.create_stream(life)),
            6 => world.peek(life),
            _ => world.append(life),
        }
        let Some(outcome) = world.wait(life) else { continue };
        match outcome {
            Outcome::Committed(_) => {
                assert!(!poisoned, "no acknowledgement after a failure");
            }
            Outcome::Unknown | Outcome::Refused(Refusal::Poisoned { .. }) => poisoned = true,
            Outcome::Refused(_) => {}
        }
        assert!(!never_fails || !poisoned, "a short write is no failure");
    }
}

/// Lets the n-th call that the rule counts fail, for n = 1, 2, ... until a run has no failure.
/// `calls_min` such calls there must be, or the steps prove little.
fn fail_every_call(name: &str, calls_min: u64, rule: impl Fn(u64) -> Rule, never_fails: bool) {
    for seed in first_seed()..first_seed() + 3 {
        let failed = (1..).find(|n| !fails(seed, rule(*n), *n, never_fails)).unwrap_or(0) - 1;
        println!("{name}: {failed} runs with a failure, seed {seed}");
        assert!(failed >= calls_min, "{name}: the steps make {failed} calls that can fail");
    }
}

/// One run; whether a call failed.
fn fails(seed: u64, rule: Rule, n: u64, never_fails: bool) -> bool {
    let mut world = World::new(seed);
    let mut life = world.recover(false);
    while world.create_stream(&life).is_err() {}
    steps(&mut world, &mut life, true);
    world.end_of_life(life, End::Closed);

    let failing = world.disk.clone();
    failing.fail(rule);
    let opened = world.open_unchecked();
    assert!(!never_fails || opened.is_some(), "seed {seed}, call {n}: a short write is no failure");
    if let Some(mut life) = opened {
        steps(&mut world, &mut life, never_fails);
        world.end_of_life(life, if n.is_multiple_of(2) { End::ProcessCrash } else { End::PowerCut });
    }
    world.disk.heal();
    let life = world.recover(false);
    world.end_of_life(life, End::PowerCut);
    let mut life = world.recover(false);
    steps(&mut world, &mut life, true);
    world.end_of_life(life, End::Closed);
    let life = world.recover(false);
    world.end_of_life(life, End::Closed);
    failing.faults_fired() > 0
}

#[test]
fn any_call_fails_once_with_an_io_error() {
    fail_every_call("EIO once", 80, |n| Rule::nth(n, Fault::Eio), false);
}

#[test]
fn all_calls_from_any_one_on_fail_with_an_io_error() {
    fail_every_call("EIO for ever", 80, |n| Rule::nth(n, Fault::Eio).for_ever(), false);
}

#[test]
fn any_call_finds_the_disk_full() {
    fail_every_call("ENOSPC once", 80, |n| Rule::nth(n, Fault::Enospc), false);
}

#[test]
fn any_read_fails() {
    fail_every_call("EIO on read", 20, |n| Rule::nth(n, Fault::Eio).of(Op::Read), false);
}

#[test]
fn any_write_is_short_and_nothing_fails() {
    fail_every_call("short write", 20, |n| Rule::nth(n, Fault::Short).of(Op::Write), true);
}

/// Linux may take pages for clean after a failed sync: the next sync succeeds without them.
#[test]
fn any_sync_fails_and_the_next_one_succeeds_without_the_bytes() {
    fail_every_call("failed sync", 15, |n| Rule::nth(n, Fault::Eio).of(Op::Sync), false);
    fail_every_call("failed folder sync", 4, |n| Rule::nth(n, Fault::Eio).of(Op::SyncDir), false);
}
