//! What a real server of object storage does to its clients: it dies, freezes, refuses, and has many objects.
#![allow(clippy::unwrap_used)]

mod faults;
mod refusals;
mod support;
