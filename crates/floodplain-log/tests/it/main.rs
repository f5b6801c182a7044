//! What the log promises, tried from outside.
#![allow(clippy::unwrap_used)]

mod commit;
mod conformance;
mod counted;
mod crash;
mod fixture;
mod kafka;
mod order;
mod memory;
mod sectors;
mod seeds;
mod wide;
