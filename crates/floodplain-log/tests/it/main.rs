//! What the log promises, tried from outside.
#![allow(clippy::unwrap_used)]

mod kafka;
