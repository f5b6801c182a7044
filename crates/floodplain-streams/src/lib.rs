//! What happens as data flows: so far alerts. (The home of continuous queries and detectors, once they are built.)
//!
//! - [`rule`]: what an alert watches for. [`rules`]: all of them, one document in stream `state`.
//! - [`transition`]: an alert starts or ends to fire for a device. [`states`]: who is firing, folded from these records.
//! - [`evaluator`]: rows and silence in, transitions out; no I/O, no clock.
//! - [`heard`]: when each device was last heard, folded from its messages.
//! - [`Alerts`]: all of it on the log, and the thread that notices silence. [`webhook`]: tells others over HTTP.

pub mod rule;
pub mod rules;
pub mod states;
pub mod transition;

pub mod evaluator;
pub mod heard;

mod alerts;
mod error;
mod store;
pub mod webhook;

pub use alerts::{Alert, Alerts, AlertsConfig, Firing, Service, Silent};
pub use error::{Error, Result};
