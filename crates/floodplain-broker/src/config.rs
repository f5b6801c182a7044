//! Limits of the broker.

use floodplain_types::{Class, StreamName};
use std::time::Duration;

/// What the broker grants and announces; the defaults suit a fleet of small devices.
#[derive(Debug, Clone)]
pub struct BrokerConfig {
    /// Partitions of the streams, where they are created. Fixed from then on.
    pub partitions: u32,
    /// Data streams beside `telemetry`; those that the log has already need not be named.
    pub streams: Vec<StreamName>,
    /// Class of QoS 1 and 2 where no client asks for more.
    pub ack_class: Class,
    /// Largest packet that is accepted, in bytes of the whole packet. A record may have about as
    /// much; larger payloads belong into an object store and are referred to.
    pub maximum_packet_size: u32,
    /// QoS 1 and 2 messages that a client may have open; wanted rate times 10 ms.
    pub receive_maximum: u16,
    /// Inbound topic aliases per connection.
    pub topic_alias_maximum: u16,
    /// Topic aliases that we use towards a client that allows as many.
    pub outbound_aliases: u16,
    /// QoS 1 and 2 messages that we have open with one client, if it allows as much.
    pub outbound_window: u16,
    /// Longest keep-alive; a client that asks for more (or for none) is told this one. `None` leaves
    /// it to the client.
    pub keep_alive_max: Option<Duration>,
    /// Longest life of a session without a connection; 3.1.1 sessions that are not clean get it.
    pub session_expiry_max: Duration,
    /// From accept to CONNECT.
    pub connect_deadline: Duration,
    /// Connections per worker that have not sent CONNECT yet; beyond it they are closed at accept.
    pub half_open_max: usize,
    /// How long an acknowledgement is held while the log cannot take or confirm it.
    pub hold_max: Duration,
    /// Longest topic name or filter in bytes.
    pub topic_bytes_max: usize,
    /// Levels of a topic name or filter.
    pub topic_levels_max: usize,
    /// Subscriptions of one session.
    pub subscriptions_max: usize,
    /// Sessions that outlive their connection; a client beyond that is refused one, 0x97 in 5.0.
    pub sessions_max: usize,
    /// How often folds write a snapshot, in bytes of records folded since the last one.
    pub snapshot_bytes: u64,
}

impl Default for BrokerConfig {
    fn default() -> Self {
        Self {
            partitions: 16,
            streams: Vec::new(),
            ack_class: Class::All,
            // 900 KiB of payload and room for topic and properties.
            maximum_packet_size: (900 << 10) + (16 << 10),
            receive_maximum: 256,
            topic_alias_maximum: 32,
            outbound_aliases: 16,
            outbound_window: 64,
            keep_alive_max: None,
            session_expiry_max: Duration::from_secs(7 * 24 * 3600),
            connect_deadline: Duration::from_secs(10),
            half_open_max: 4096,
            hold_max: Duration::from_secs(10),
            topic_bytes_max: 65_535,
            topic_levels_max: 256,
            subscriptions_max: 10_000,
            sessions_max: 4_000_000,
            snapshot_bytes: 64 << 20,
        }
    }
}
