//! The listener as clients see it: bytes in, bytes out, on the real log.
#![allow(clippy::unwrap_used)]

mod basics;
mod protocol;
mod server;
mod sessions;
mod takeover;
