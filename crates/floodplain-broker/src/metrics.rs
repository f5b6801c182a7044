//! Counters of the broker, made once per worker.

use crate::seams::Denied;
use floodplain_mqtt::ConnackCode;
use metrics::{Counter, Gauge, counter, gauge};

/// Why something that a client asked for was refused: label `reason`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    BadCredential,
    NotAuthorized,
    Unavailable,
    Busy,
    /// A limit of this server: sessions, subscriptions.
    Quota,
    TooLarge,
    /// Not what the standard or this server allows.
    Invalid,
}

impl Why {
    const ALL: [(Self, &'static str); 7] = [
        (Self::BadCredential, "bad_credential"),
        (Self::NotAuthorized, "not_authorized"),
        (Self::Unavailable, "unavailable"),
        (Self::Busy, "busy"),
        (Self::Quota, "quota"),
        (Self::TooLarge, "too_large"),
        (Self::Invalid, "invalid"),
    ];
}

impl From<Denied> for Why {
    fn from(denied: Denied) -> Self {
        match denied {
            Denied::BadCredential => Self::BadCredential,
            Denied::NotAuthorized => Self::NotAuthorized,
            Denied::Unavailable => Self::Unavailable,
            Denied::Busy { .. } => Self::Busy,
        }
    }
}

impl From<ConnackCode> for Why {
    fn from(code: ConnackCode) -> Self {
        match code {
            ConnackCode::BadUserNameOrPassword => Self::BadCredential,
            ConnackCode::NotAuthorized => Self::NotAuthorized,
            ConnackCode::ServerUnavailable => Self::Unavailable,
            ConnackCode::ServerBusy => Self::Busy,
            ConnackCode::QuotaExceeded => Self::Quota,
            _ => Self::Invalid,
        }
    }
}

/// One counter for each reason that there can be.
#[derive(Clone)]
pub(crate) struct Refused([Counter; Why::ALL.len()]);

impl Refused {
    fn new(name: &'static str, never: Why) -> Self {
        Self(Why::ALL.map(|(why, reason)| match why == never {
            true => Counter::noop(),
            false => counter!(name, "reason" => reason),
        }))
    }

    pub(crate) fn count(&self, why: impl Into<Why>) {
        self.0[why.into() as usize].increment(1);
    }
}

/// Handles of one worker; all workers share the same names.
#[derive(Clone)]
pub(crate) struct Metrics {
    pub(crate) connections: Gauge,
    pub(crate) sessions: Gauge,
    pub(crate) subscriptions: Gauge,
    pub(crate) received: [Counter; 3],
    pub(crate) delivered: [Counter; 3],
    /// Payloads.
    pub(crate) received_bytes: Counter,
    pub(crate) delivered_bytes: Counter,
    pub(crate) appends_refused: Counter,
    pub(crate) appends_unknown: Counter,
    /// CONNECTs that were answered with a refusal.
    pub(crate) refused_connections: Refused,
    /// PUBLISHes that were not taken.
    pub(crate) refused_messages: Refused,
    /// Filters that were not granted.
    pub(crate) refused_subscriptions: Refused,
    /// Connections that we ended for no fault of their clients: an acknowledgement was held for too long, the log takes no
    /// unit as large, or a packet that the client must get is larger than it allows.
    pub(crate) dropped_held: Counter,
    pub(crate) dropped_append_too_large: Counter,
    pub(crate) dropped_packet_too_large: Counter,
    /// QoS 0 that was lost, by reason.
    pub(crate) dropped_log_refused: Counter,
    pub(crate) dropped_log_unknown: Counter,
    pub(crate) dropped_outbox_full: Counter,
    pub(crate) dropped_mailbox_full: Counter,
    pub(crate) dropped_expired: Counter,
    pub(crate) dropped_too_large: Counter,
    /// QoS 1 and 2 that a session did not get, by reason; each is in `dlq`.
    pub(crate) undelivered: Counter,
    pub(crate) refused_by_client: Counter,
    pub(crate) takeovers: Counter,
    pub(crate) protocol_errors: Counter,
    pub(crate) keep_alive_timeouts: Counter,
    pub(crate) connect_timeouts: Counter,
    pub(crate) refused_greeting: Counter,
    pub(crate) receive_maximum_exceeded: Counter,
    pub(crate) lagging: Counter,
    pub(crate) fetches_waiting: Gauge,
    pub(crate) mailbox_gaps: Counter,
    /// Bytes of the records, or of the batches around them, that sessions which are behind have asked the log for. What the log reads to
    /// find them is counted there.
    pub(crate) resume_read_bytes: Counter,
    /// Bytes of the records that they were sent of it.
    pub(crate) resume_delivered_bytes: Counter,
    /// Clients that are not read for a while, by reason.
    pub(crate) paused_log: Counter,
    pub(crate) paused_acks: Counter,
    pub(crate) paused_output: Counter,
    pub(crate) behind_reads: Counter,
    pub(crate) refused_sessions: Counter,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Metrics")
    }
}

fn dropped(reason: &'static str) -> Counter {
    counter!("floodplain_broker_dropped_messages_total", "reason" => reason)
}

fn dropped_connections(reason: &'static str) -> Counter {
    counter!("floodplain_broker_dropped_connections_total", "reason" => reason)
}

fn paused(reason: &'static str) -> Counter {
    counter!("floodplain_broker_paused_publishers_total", "reason" => reason)
}

fn by_qos(name: &'static str) -> [Counter; 3] {
    ["0", "1", "2"].map(|qos| counter!(name, "qos" => qos))
}

impl Metrics {
    pub(crate) fn new() -> Self {
        Self {
            connections: gauge!("floodplain_broker_connections_count"),
            sessions: gauge!("floodplain_broker_sessions_count"),
            subscriptions: gauge!("floodplain_broker_subscriptions_count"),
            received: by_qos("floodplain_broker_received_messages_total"),
            delivered: by_qos("floodplain_broker_delivered_messages_total"),
            received_bytes: counter!("floodplain_broker_received_bytes_total"),
            delivered_bytes: counter!("floodplain_broker_delivered_bytes_total"),
            appends_refused: counter!("floodplain_broker_refused_appends_total"),
            appends_unknown: counter!("floodplain_broker_unknown_appends_total"),
            refused_connections: Refused::new("floodplain_broker_refused_connections_total", Why::TooLarge),
            refused_messages: Refused::new("floodplain_broker_refused_messages_total", Why::Quota),
            refused_subscriptions: Refused::new("floodplain_broker_refused_subscriptions_total", Why::TooLarge),
            dropped_held: dropped_connections("held"),
            dropped_append_too_large: dropped_connections("append_too_large"),
            dropped_packet_too_large: dropped_connections("packet_too_large"),
            dropped_log_refused: dropped("log_refused"),
            dropped_log_unknown: dropped("log_unknown"),
            dropped_outbox_full: dropped("outbox_full"),
            dropped_mailbox_full: dropped("mailbox_full"),
            dropped_expired: dropped("expired"),
            dropped_too_large: dropped("too_large"),
            undelivered: counter!("floodplain_broker_undelivered_messages_total"),
            refused_by_client: counter!("floodplain_broker_refused_by_client_total"),
            takeovers: counter!("floodplain_broker_takeovers_total"),
            protocol_errors: counter!("floodplain_broker_protocol_errors_total"),
            keep_alive_timeouts: counter!("floodplain_broker_keep_alive_timeouts_total"),
            connect_timeouts: counter!("floodplain_broker_connect_timeouts_total"),
            refused_greeting: counter!("floodplain_broker_refused_greetings_total"),
            receive_maximum_exceeded: counter!("floodplain_broker_receive_maximum_exceeded_total"),
            lagging: counter!("floodplain_broker_lagging_sessions_total"),
            fetches_waiting: gauge!("floodplain_broker_waiting_fetches_count"),
            mailbox_gaps: counter!("floodplain_broker_mailbox_gaps_total"),
            resume_read_bytes: counter!("floodplain_broker_resume_read_bytes_total"),
            resume_delivered_bytes: counter!("floodplain_broker_resume_delivered_bytes_total"),
            paused_log: paused("log"),
            paused_acks: paused("acks"),
            paused_output: paused("output"),
            behind_reads: counter!("floodplain_broker_reads_behind_memory_total"),
            refused_sessions: counter!("floodplain_broker_refused_sessions_total"),
        }
    }
}
