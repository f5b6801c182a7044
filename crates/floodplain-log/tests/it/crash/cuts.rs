//! Thousands of power cuts, each at a seeded call to the disk.

use super::{
    first_seed,
    world::{End, World},
};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// How many times the power goes in one run.
const CUTS: u64 = 10_000;
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
                }
            });
        }
    });
    let (cuts, acked) = (cuts.into_inner(), acked.into_inner());
    println!("{cuts} power cuts, {acked} acknowledged messages looked for");
    assert!(cuts >= CUTS && acked > CUTS, "the run was worth something: {cuts} cuts, {acked} acknowledged");
}
