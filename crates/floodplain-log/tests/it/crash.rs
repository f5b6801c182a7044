//! Power cuts, crashes, failing and full disks, damage: nothing that was acknowledged is lost.
//!
//! `FLOODPLAIN_TEST_SEED` sets the first seed; a failure prints the seed it needs.

mod cuts;
mod damage;
mod engine;
mod faults;
mod full;
mod states;
mod world;

/// The first seed of a run.
fn first_seed() -> u64 {
    std::env::var("FLOODPLAIN_TEST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1)
}
