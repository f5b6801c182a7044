//! What the log promises, tried from outside.
#![allow(clippy::unwrap_used)]

mod conformance;
mod crash;
mod kafka;
mod order;
mod sectors;
mod wide;
