//! How long records wait for others of their batch.

use std::time::Duration;

/// Weight of the newest observation.
const NEW: f64 = 0.2;

/// One produce request carries one partition, so waiting a moment costs about as many requests as partitions were
/// written to meanwhile. The wait is chosen so that this stays within a budget of requests, between two bounds: on a
/// quiet node it is the least, and where many partitions get a few records each it grows.
///
/// Where the permit pool fills, brokers are slower than the load: then only batches can still grow, so the wait goes
/// to the most, with the fill of the pool.
#[derive(Debug, Clone)]
pub(crate) struct Linger {
    min: Duration,
    max: Duration,
    requests_per_second: f64,
    /// Partitions written to in one turn, smoothed.
    partitions: f64,
}

impl Linger {
    pub(crate) fn new((min, max): (Duration, Duration), requests_per_second: f64) -> Self {
        Self { min, max: max.max(min), requests_per_second: requests_per_second.max(1.0), partitions: 0.0 }
    }

    /// Takes in how many partitions the last turn wrote to.
    pub(crate) fn observe(&mut self, partitions: usize) {
        self.partitions += NEW * (partitions as f64 - self.partitions);
    }

    /// The next wait; `used` is the filled part of the permit pool, 0 to 1.
    pub(crate) fn wait(&self, used: f64) -> Duration {
        let by_budget = Duration::from_secs_f64(self.partitions / self.requests_per_second);
        // Half full is where callers stop taking work.
        let by_fill = self.max.mul_f64((2.0 * used).clamp(0.0, 1.0));
        by_budget.max(by_fill).clamp(self.min, self.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn settled(partitions: usize) -> Linger {
        let mut linger = Linger::new((2 * MS, 25 * MS), 2_000.0);
        (0..100).for_each(|_| linger.observe(partitions));
        linger
    }

    #[test]
    fn requests_keep_to_their_budget_between_the_bounds() {
        assert_eq!(settled(1).wait(0.0), 2 * MS);
        let twenty = settled(20).wait(0.0);
        assert!(twenty > 9 * MS && twenty < 11 * MS, "{twenty:?}");
        assert_eq!(settled(64).wait(0.0), 25 * MS);
    }

    #[test]
    fn a_filling_pool_makes_batches_grow() {
        let linger = settled(1);
        assert!(linger.wait(0.25) > linger.wait(0.1));
        assert_eq!(linger.wait(0.5), 25 * MS);
        assert_eq!(linger.wait(1.5), 25 * MS);
    }

    #[test]
    fn it_follows_the_load_down_again() {
        let mut linger = settled(64);
        (0..100).for_each(|_| linger.observe(1));
        assert_eq!(linger.wait(0.0), 2 * MS);
    }
}
