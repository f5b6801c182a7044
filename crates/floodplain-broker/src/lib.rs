//! MQTT sessions, subscriptions, retained messages and QoS on the log: state machines without sockets.
//!
//! A [`Worker`] owns connections and partitions. Its driver (the gateway) gives it bytes, mail and
//! time, and carries out its [`Effect`]s. [`Broker`] opens the streams and builds the workers.

mod broker;
mod worker;

mod connection;
mod connect;
mod publish;
mod subscribe;
mod deliver;
mod acks;
mod close;
mod session;
mod catchup;
mod retained;
mod owner;
mod index;
mod append;
mod mailbox;
mod jobs;
mod dlq;
mod router;
mod publication;
mod wheel;
mod metrics;
mod config;
pub mod folds;
pub mod seams;
#[cfg(test)]
mod rig;
#[cfg(test)]
mod tests;

pub use broker::{Broker, StartError};
pub use config::BrokerConfig;
pub use jobs::Job;
pub use mailbox::Mailbox;
pub use worker::{CloseKind, Effect, Handoff, Shared, Worker};

/// A connection of one worker. The slot is used again, the pair is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ConnId {
    pub slot: u32,
    pub generation: u32,
}
