//! The parts of the test kit that stand outside of this process.
#![allow(clippy::unwrap_used)]

mod kafka;
