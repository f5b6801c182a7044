//! What the log promises, tried from outside.
#![allow(clippy::unwrap_used)]

mod aside;
mod commit;
mod conformance;
mod crash;
mod fixture;
mod kafka;
mod memory;
mod order;
mod owners;
mod resume;
mod sectors;
mod seeds;
mod wide;
