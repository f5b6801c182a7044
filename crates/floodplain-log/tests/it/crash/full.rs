//! A full disk refuses before anything is torn, goes on being read, and takes appends again by
//! itself when there is space.

use super::world::{End, Life, World};
use floodplain_log::{Outcome, Refusal};

/// Appends until one is refused, or `limit` were not.
fn fill(world: &mut World, life: &mut Life, limit: usize) -> Option<Refusal> {
    for _ in 0..limit {
        world.append(life);
        match world.wait(life) {
            Some(Outcome::Refused(refusal)) => return Some(refusal),
            Some(Outcome::Committed(_)) | None => {}
            Some(Outcome::Unknown) => panic!("seed {}: a full disk tears nothing", world.seed),
        }
    }
    None
}

#[test]
fn a_full_disk_refuses_is_read_and_resumes() {
    for seed in 1..=20 {
        let mut world = World::new(seed);
        let mut life = world.recover(false);
        world.create_stream(&life).unwrap();
        assert_eq!(fill(&mut world, &mut life, 30), None);
        for _ in 0..3 {
            world.disk.set_total_bytes(world.disk.used_bytes() + (80 << 10));
            let refusal = fill(&mut world, &mut life, 10_000);
            assert!(
                matches!(refusal, Some(Refusal::DiskFull { free_bytes, reserve_bytes }) if free_bytes <= reserve_bytes + (64 << 10)),
                "seed {seed}: {refusal:?}"
            );
            world.disk.set_total_bytes(world.disk.used_bytes() + 100);
            assert!(matches!(world.create_stream(&life), Err(Refusal::DiskFull { .. })), "seed {seed}");
            assert!(matches!(fill(&mut world, &mut life, 1), Some(Refusal::DiskFull { .. })), "seed {seed}");
            // All that was acknowledged can be read while the disk is full, and after a restart on it.
            world.look_at(&life);
            world.disk.set_total_bytes(1 << 40);
            assert_eq!(fill(&mut world, &mut life, 5), None, "seed {seed}: appends resume by themselves");
        }
        world.disk.set_total_bytes(world.disk.used_bytes() + (80 << 10));
        assert!(fill(&mut world, &mut life, 10_000).is_some());
        world.end_of_life(life, End::PowerCut);
        let life = world.recover(false);
        world.end_of_life(life, End::Closed);
        world.disk.set_total_bytes(1 << 40);
        let mut life = world.recover(false);
        assert_eq!(fill(&mut world, &mut life, 5), None);
        world.end_of_life(life, End::PowerCut);
        let life = world.recover(false);
        world.end_of_life(life, End::Closed);
    }
}
