//! What the tests of every crate need to hurt the log, and to say whether it was hurt.
//!
//! - [`FaultDisk`]: a disk in memory that loses power, fills up and fails.
//! - [`History`]: what was published, how it ended, and what was read: loss, order, duplicates.
//! - [`AdverseLog`]: a log that is as hard to use as its contract allows.
//! - [`ModelLog`]: the contract of the log in memory, as the least code that keeps it.
//! - [`Counts`]: what a test makes the program count.
//! - [`folding`] and [`owning`]: a fold of which everybody knows what it must say, and nodes that share slots.
//! - [`conformance`]: what every engine behind the log must do.
//! - [`mqtt`]: clients that say any byte, and clients whose sessions survive what the server does.
//! - [`Program`] and [`Server`]: the server as a process.
//! - [`S3Server`]: a real server of object storage on this machine, to be killed and frozen.
//! - [`kafka`]: a real Apache Kafka on this machine, to be killed, frozen and cut off.

mod adverse;
pub mod conformance;
mod counts;
mod fault_disk;
pub mod folding;
mod history;
pub mod kafka;
mod model;
pub mod mqtt;
pub mod owning;
mod s3;
mod server;
mod wait;

pub use adverse::{AdverseLog, Adversity, Struck};
pub use counts::{Counts, documented};
pub use fault_disk::{Fault, FaultDisk, Gate, Op, Rule, Stats, file_kind};
pub use history::{Copies, History, Report, Stamp, StampError, Violation};
pub use model::{ModelLog, batch_of};
pub use s3::S3Server;
pub use server::{Program, Server, Starting, without_our_variables};
pub use wait::{Outcomes, wait_at_most, wait_until};

use std::path::{Path, PathBuf};

/// Where `cargo xtask tools` has put what the tests need: `$FLOODPLAIN_TEST_TOOLS`, or `~/.cache/floodplain/tools`.
#[must_use]
pub fn tools() -> PathBuf {
    let tools = std::env::var_os("FLOODPLAIN_TEST_TOOLS").map(Into::into);
    let home = || std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache/floodplain/tools"));
    tools.or_else(home).unwrap_or_default()
}

/// The Python among the tools, which has the modules that tests need.
///
/// # Panics
/// If it is not there.
#[must_use]
pub fn python() -> PathBuf {
    let python = tools().join("venv/bin/python3");
    assert!(python.is_file(), "{} is missing: run `cargo xtask tools`", python.display());
    python
}
