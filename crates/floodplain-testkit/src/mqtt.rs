//! Clients of MQTT for tests, written a second time from bytes up.

pub mod client;
pub mod session;
pub mod wire;
