//! What the tests of every crate need to hurt the log, and to say whether it was hurt.
//!
//! - [`FaultDisk`]: a disk in memory that loses power, fills up and fails.
//! - [`History`]: what was published, how it ended, and what was read: loss, order, duplicates.

mod fault_disk;
mod history;

pub use fault_disk::{Fault, FaultDisk, Op, Rule, Stats};
pub use history::{Copies, History, Report, Stamp, StampError, Violation};
