//! Deadlines of connections, a quarter of a quarter coarse.

use std::collections::VecDeque;

/// Buckets of the wheel; a deadline further away is looked at again after this many quarters of a quarter.
const BUCKETS: u64 = 512;

/// A timer wheel with buckets of a quarter of a quarter for all connections of a worker.
///
/// It never cancels: an entry that comes up is checked against what the connection says by then,
/// and put back if it was early. So a connection that sends costs nothing here.
#[derive(Debug)]
pub(crate) struct Wheel {
    buckets: VecDeque<Vec<(u32, u32)>>,
    /// What the first bucket stands for.
    quarter: u64,
}

impl Wheel {
    pub(crate) fn new(quarter: u64) -> Self {
        Self { buckets: (0..BUCKETS).map(|_| Vec::new()).collect(), quarter }
    }

    /// Brings up (`slot`, `generation`) at `quarter`, or earlier if that is far away; returns when.
    pub(crate) fn add(&mut self, quarter: u64, slot: u32, generation: u32) -> u64 {
        let ahead = quarter.saturating_sub(self.quarter).min(BUCKETS - 1);
        self.buckets[ahead as usize].push((slot, generation));
        self.quarter + ahead
    }

    /// Takes what is due up to and including `quarter`.
    pub(crate) fn due(&mut self, quarter: u64, out: &mut Vec<(u32, u32)>) {
        for _ in 0..BUCKETS.min((quarter + 1).saturating_sub(self.quarter)) {
            let mut bucket = self.buckets.pop_front().expect("the wheel has a fixed number of buckets");
            out.append(&mut bucket);
            if bucket.capacity() > 1024 {
                bucket = Vec::new();
            }
            self.buckets.push_back(bucket);
        }
        self.quarter = self.quarter.max(quarter + 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn due(wheel: &mut Wheel, quarter: u64) -> Vec<u32> {
        let mut out = Vec::new();
        wheel.due(quarter, &mut out);
        out.into_iter().map(|(slot, _)| slot).collect()
    }

    #[test]
    fn entries_come_up_at_their_quarter_or_early_if_far() {
        let mut wheel = Wheel::new(1000);
        wheel.add(1002, 1, 0);
        wheel.add(1000, 2, 0);
        wheel.add(9999, 3, 0);
        wheel.add(5, 4, 0);
        assert_eq!(due(&mut wheel, 1001), [2, 4]);
        assert_eq!(due(&mut wheel, 1002), [1]);
        assert_eq!(due(&mut wheel, 1000 + BUCKETS - 2), []);
        assert_eq!(due(&mut wheel, 1000 + BUCKETS - 1), [3]);
        wheel.add(1002 + BUCKETS, 5, 0);
        // A jump of the clock over the whole wheel loses nothing.
        assert_eq!(due(&mut wheel, 99_000), [5]);
        wheel.add(99_001, 6, 0);
        assert_eq!(due(&mut wheel, 99_001), [6]);
    }
}
