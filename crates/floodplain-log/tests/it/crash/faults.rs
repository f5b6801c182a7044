//! The n-th call fails, for every n, every kind of call on every kind of file, from every state that a
//! log may have to start from.

use super::{
    first_seed,
    states::Start,
    world::{End, Life, World},
};
use floodplain_log::{Outcome, Refusal};
use floodplain_testkit::{Fault, Op, Rule};
use std::collections::BTreeSet;

const ANY: [Op; 13] = [
    Op::Create,
    Op::Open,
    Op::List,
    Op::CreateDirAll,
    Op::Rename,
    Op::Remove,
    Op::SyncDir,
    Op::Space,
    Op::Lock,
    Op::Read,
    Op::Write,
    Op::Sync,
    Op::Len,
];
/// What a full disk may refuse: removing a file needs space, too, where the file system keeps a journal.
const NEED_SPACE: [Op; 7] = [Op::Create, Op::CreateDirAll, Op::Rename, Op::Remove, Op::SyncDir, Op::Write, Op::Sync];

/// A kind of call on a kind of file.
type Site = (Op, String);

/// The sites at which a call must fail in each run of the tests. One where none does is not reached any more: then
/// the steps, or the states, no longer show what they are for.
pub(super) fn call_sites() -> BTreeSet<Site> {
    const NEW: [&str; 8] = [
        "log/catalog.tmp",
        "log/catalog.copy.tmp",
        "log/checkpoint.tmp",
        "log/checkpoint.copy.tmp",
        "log/journal.tmp",
        "log/segment.tmp",
        "set-aside/journal.tmp",
        "set-aside/segment.tmp",
    ];
    const OLD: [&str; 6] =
        ["log/catalog", "log/catalog.copy", "log/checkpoint", "log/checkpoint.copy", "log/journal", "log/segment"];
    let sites: [(Op, &[&[&str]]); 13] = [
        (Op::Create, &[&["log/journal"], &NEW]),
        (Op::Write, &[&["log/journal", "log/catalog", "log/catalog.copy"], &NEW]),
        (Op::Sync, &[&["log/journal", "log/catalog", "log/catalog.copy"], &NEW]),
        (Op::Rename, &[&NEW]),
        (Op::Remove, &[&["log/journal", "log/segment"]]),
        (Op::SyncDir, &[&["data/log", "log/set-aside"]]),
        (Op::CreateDirAll, &[&["data/log", "log/set-aside"]]),
        (Op::Open, &[&OLD]),
        (Op::Read, &[&["log/journal.tmp", "log/segment.tmp"], &OLD]),
        (Op::Len, &[&["log/journal.tmp", "log/segment.tmp"], &OLD]),
        (Op::List, &[&["data/log"]]),
        (Op::Space, &[&["data/log"]]),
        (Op::Lock, &[&["log/lock"]]),
    ];
    let all =
        sites.iter().flat_map(|(op, kinds)| kinds.iter().copied().flatten().map(|kind| (*op, (*kind).to_owned())));
    all.collect()
}

/// The same steps in each run; whatever is refused is left out.
fn steps(world: &mut World, life: &mut Life, never_fails: bool) {
    let mut poisoned = false;
    for step in 0..16 {
        match step % 8 {
            1 => drop(world.create_stream(life)),
            3 => world.trim(life),
            5 => world.peek(life),
            7 => drop(life.log.maintain()),
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

/// How the calls of a test fail.
#[derive(Debug, Clone, Copy)]
struct Failure {
    fault: Fault,
    /// All calls after the failed one fail as well.
    then_all: bool,
    /// Only calls of these kinds fail.
    of: &'static [Op],
    /// It is no failure to the log.
    harmless: bool,
}

/// What one run has made, and what of it failed.
struct Run {
    called: BTreeSet<Site>,
    hit: BTreeSet<Site>,
}

impl Failure {
    /// The n-th call at this site fails while the log is opened and used; then all that was promised is there.
    fn run(self, start: &World, (op, kind): &Site, n: u64) -> Run {
        let mut world = start.again();
        let failing = world.disk.clone();
        let rule = Rule::nth(n, self.fault).of(*op).on_kind(kind);
        failing.fail(if self.then_all { rule.then_all() } else { rule });
        let opened = world.open_unchecked();
        assert!(!self.harmless || opened.is_some(), "seed {}, call {n}: a short write is no failure", world.seed);
        if let Some(mut life) = opened {
            steps(&mut world, &mut life, self.harmless);
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
        let called = failing.stats().calls_on.into_keys().filter(|(op, _)| self.of.contains(op));
        Run { called: called.collect(), hit: failing.hit() }
    }

    /// All n at all sites, also at those that are only reached once something has failed.
    fn at_every_call(self) {
        let (mut hit, mut runs) = (BTreeSet::new(), 0);
        for start in Start::ALL {
            let world = start.world(first_seed());
            // A site that is never called, to learn which are.
            let mut left = self.run(&world, &(Op::Lock, String::new()), 1).called;
            let mut done = BTreeSet::new();
            while let Some(site) = left.pop_first() {
                for n in 1.. {
                    println!("{start:?}, seed {}, {self:?} at call {n} of {site:?}", world.seed);
                    let run = self.run(&world, &site, n);
                    let has_failed = run.hit.contains(&site);
                    left.extend(run.called.into_iter().filter(|called| *called != site && !done.contains(called)));
                    hit.extend(run.hit);
                    runs += 1;
                    if !has_failed {
                        break;
                    }
                }
                done.insert(site);
            }
        }
        let mut expected = call_sites();
        expected.retain(|(op, _)| self.of.contains(op));
        println!("{self:?}: {runs} runs; also at {:?}", hit.difference(&expected).collect::<Vec<_>>());
        let missing: Vec<_> = expected.difference(&hit).collect();
        assert!(missing.is_empty(), "{self:?}: no call failed at {missing:?}");
    }
}

#[test]
fn any_call_fails_once_with_an_io_error() {
    Failure { fault: Fault::Eio, then_all: false, of: &ANY, harmless: false }.at_every_call();
}

#[test]
fn all_calls_from_any_one_on_fail_with_an_io_error() {
    Failure { fault: Fault::Eio, then_all: true, of: &ANY, harmless: false }.at_every_call();
}

#[test]
fn any_call_finds_the_disk_full() {
    Failure { fault: Fault::Enospc, then_all: false, of: &NEED_SPACE, harmless: false }.at_every_call();
}

#[test]
fn any_write_is_short_and_nothing_fails() {
    Failure { fault: Fault::Short, then_all: false, of: &[Op::Write], harmless: true }.at_every_call();
}
