//! What the tests of every crate need to hurt the log, and to say whether it was hurt.
//!
//! - [`FaultDisk`]: a disk in memory that loses power, fills up and fails.
//! - [`History`]: what was published, how it ended, and what was read: loss, order, duplicates.
//! - [`AdverseLog`]: a log that is as hard to use as its contract allows.
//! - [`conformance`]: what every engine behind the log must do.

mod adverse;
pub mod conformance;
mod fault_disk;
mod history;
mod wait;

pub use adverse::{AdverseLog, Adversity, Struck};
pub use fault_disk::{Fault, FaultDisk, Op, Rule, Stats};
pub use history::{Copies, History, Report, Stamp, StampError, Violation};
pub use wait::{Outcomes, wait_until};
