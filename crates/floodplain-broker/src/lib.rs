//! MQTT sessions, subscriptions, retained messages and QoS on the log: state machines without sockets.
//!
//! A [`Worker`] owns connections and partitions. Its driver (the gateway) gives it bytes, mail and
//! time, and carries out its [`Effect`]s. [`Broker`] opens the streams and builds the workers.

mod broker;
mod worker;

mod acks;
mod append;
mod catchup;
mod close;
mod config;
mod connect;
mod connection;
mod deliver;
mod denied;
mod dlq;
mod estate;
mod fences;
pub mod folds;
mod held;
mod index;
mod jobs;
mod mailbox;
mod metrics;
mod nodes;
mod owner;
mod publication;
mod publish;
mod retained;
#[cfg(test)]
mod rig;
mod roster;
mod router;
pub mod seams;
mod session;
mod subscribe;
#[cfg(test)]
mod tests;
mod wheel;
mod work;

pub use broker::{Broker, Environment, StartError};
pub use config::BrokerConfig;
pub use connect::is_assigned_id;
pub use jobs::{JOB_THREADS, Job};
pub use mailbox::Mailbox;
pub use roster::{ClientState, Roster, SessionState};
pub use worker::{CloseKind, Effect, Handoff, Shared, Worker};

/// A connection of one worker. The slot is used again, the pair is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ConnId {
    pub slot: u32,
    pub generation: u32,
}
