//! The broker as its clients see it: raw sockets and clients that were not written here.
//!
//! Runs against a fresh server of this build, or against every address in
//! `FLOODPLAIN_TEST_MQTT` (comma separated), so that the suites themselves can be tried on
//! another broker: `FLOODPLAIN_TEST_MQTT=127.0.0.1:1883 cargo test --release --test blackbox`.
//! Mosquitto 2.0.11 (`max_queued_messages 0`) passes all but the cases where it differs from the
//! standard: reserved flags, PUBREL of an unknown id, takeover reason, a third repeat at QoS 2,
//! receive maximum, announced size, CONNECT deadline, will delay beyond the session's end.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests with real clocks and processes")]

mod target;

mod clients;
mod commands;
mod connect;
mod counted;
mod flow;
#[cfg(feature = "kafka")]
mod kafka;
mod kill;
mod limits;
mod malformed;
mod publish;
mod resume;
mod retained;
mod sessions;
mod streams;
mod subscribe;
mod will;

use floodplain_testkit::mqtt::{client, wire};
