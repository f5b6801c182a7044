//! History against a model that is too simple to be wrong, and on a disk that loses power.
#![allow(clippy::unwrap_used)]

mod bindings;
mod buffers;
mod dedup;
mod engine;
mod engine_faults;
mod files;
mod fixture;
mod hostile;
mod keeping;
mod latest;
mod merging;
mod model;
mod observing;
mod overwritten;
mod owner;
mod retention;
mod scans;
mod stored_twice;
mod streams;
mod torn_letters;
