//! What is known of clients and devices, as SQL and HTTP ask for it.

use floodplain_types::Timestamp;
use std::fmt;

/// A client that is connected, has a session, or was here not long ago.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Client {
    pub client_id: String,
    pub device: String,
    pub connected: bool,
    /// When that became so.
    pub since: Option<Timestamp>,
    /// Why the last connection has ended, while there is none.
    pub reason: Option<&'static str>,
    /// Where the newest connection comes from.
    pub address: Option<String>,
    pub protocol: Option<&'static str>,
    pub session: Option<Session>,
}

/// What the server keeps for a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// Whether it outlives the connection.
    pub lasting: bool,
    /// How long; `None` for ever.
    pub expiry_seconds: Option<u32>,
    /// The first filters and their QoS.
    pub subscriptions: Vec<(String, u8)>,
    /// How many there are.
    pub subscriptions_count: usize,
}

/// What the log holds of a device, from its oldest message that is still there on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Traffic {
    pub messages: u64,
    pub bytes: u64,
    pub first: Timestamp,
    pub last: Timestamp,
}

/// A device that has sent a message, or is a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    pub device: String,
    pub client: Option<Client>,
    /// `None` if it has sent no message that the log still holds.
    pub traffic: Option<Traffic>,
}

/// Something that happened to a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Happening {
    pub kind: &'static str,
    pub detail: String,
}

/// An alert that fires for a device by a transition that the log does not hold any more.
#[derive(Debug, Clone, PartialEq)]
pub struct LongFiring {
    pub rule: String,
    pub device: String,
    pub since: Timestamp,
    pub value: Option<f64>,
}

/// Whoever knows did not answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unanswered(pub String);

/// Knows clients and devices. Pages are by name: what lies behind `after`, at most `limit`, less only at the end.
#[async_trait::async_trait]
pub trait Fleet: fmt::Debug + Send + Sync {
    /// What a record of stream `requests` says. Called for many records: no waiting.
    fn happenings(&self, request: &[u8]) -> Vec<Happening>;

    /// What fires since before the oldest record of the log.
    ///
    /// # Errors
    /// [`Unanswered`].
    async fn long_firing(&self) -> Result<Vec<LongFiring>, Unanswered> {
        Ok(Vec::new())
    }

    /// # Errors
    /// [`Unanswered`].
    async fn clients(&self, after: Option<&str>, limit: usize) -> Result<Vec<Client>, Unanswered>;

    /// # Errors
    /// [`Unanswered`]; also while the log's past is still being read, of which the text tells.
    async fn devices(&self, after: Option<&str>, limit: usize) -> Result<Vec<Device>, Unanswered>;

    /// One of [`Self::devices`].
    ///
    /// # Errors
    /// As [`Self::devices`].
    async fn device(&self, device: &str) -> Result<Option<Device>, Unanswered>;
}

impl Device {
    /// The time of its newest message, or of the last change of its connection if that is later.
    #[must_use]
    pub fn last_seen(&self) -> Option<Timestamp> {
        let since = self.client.as_ref().and_then(|client| client.since);
        self.traffic.map(|traffic| traffic.last).max(since)
    }

    /// The time of its oldest message that the log still holds, or else of the last change of its connection.
    #[must_use]
    pub fn first_seen(&self) -> Option<Timestamp> {
        let since = self.client.as_ref().and_then(|client| client.since);
        self.traffic.map(|traffic| traffic.first).or(since)
    }
}
