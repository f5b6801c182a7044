//! Thousands of power cuts, each at a seeded call to the disk.

use super::{
    faults::call_sites,
    first_seed,
    world::{End, World},
};
use floodplain_testkit::Op;
use std::{
    collections::BTreeSet,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

/// How many times the power goes during a call in one run.
const CUTS: u64 = 10_000;
/// Of them in a recovery, at least.
const CUTS_IN_RECOVERY: u64 = CUTS / 10;
/// Then the next seed starts with an empty disk: what is checked after each cut stays small.
const LIVES_PER_WORLD: u32 = 25;

/// Sets the flag when it is dropped by a panic, so that the other threads stop as well.
struct StopOthers<'a>(&'a AtomicBool);

impl Drop for StopOthers<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn power_cuts_lose_nothing_acknowledged() {
    let (next_seed, cuts, acked) = (AtomicU64::new(first_seed()), AtomicU64::new(0), AtomicU64::new(0));
    let (cuts_in_recovery, cut_at) = (AtomicU64::new(0), Mutex::new(BTreeSet::<(Op, String)>::new()));
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let _stop = StopOthers(&stop);
                while cuts.load(Ordering::Relaxed) < CUTS && !stop.load(Ordering::Relaxed) {
                    let mut world = World::new(next_seed.fetch_add(1, Ordering::Relaxed));
                    for _ in 0..LIVES_PER_WORLD {
                        let life = world.recover(true);
                        world.live(life);
                    }
                    let life = world.recover(false);
                    acked.fetch_add(world.history.acked(), Ordering::Relaxed);
                    world.end_of_life(life, End::Closed);
                    cuts.fetch_add(world.cuts, Ordering::Relaxed);
                    cuts_in_recovery.fetch_add(world.cuts_in_recovery, Ordering::Relaxed);
                    cut_at.lock().unwrap().append(&mut world.cut_at);
                }
            });
        }
    });
    let (cuts, acked, in_recovery) = (cuts.into_inner(), acked.into_inner(), cuts_in_recovery.into_inner());
    println!("{cuts} power cuts, {in_recovery} of them in a recovery, {acked} acknowledged messages looked for");
    assert!(cuts >= CUTS && acked > CUTS, "the run was worth something: {cuts} cuts, {acked} acknowledged");
    assert!(in_recovery >= CUTS_IN_RECOVERY, "only {in_recovery} cuts were in a recovery");
    let cut_at = cut_at.into_inner().unwrap();
    // What is set aside, and what is merged, is too little for so many cuts to be sure to fall there.
    let changes = call_sites().into_iter().filter(|(op, kind)| {
        matches!(op, Op::Create | Op::Write | Op::Sync | Op::Rename | Op::Remove | Op::SyncDir)
            && !kind.contains("set-aside")
            && (*op, kind.as_str()) != (Op::Remove, "log/segment")
    });
    let missing: Vec<_> = changes.filter(|site| !cut_at.contains(site)).collect();
    assert!(missing.is_empty(), "the power never went during {missing:?}");
}
