//! Counters of the gateway.

use metrics::{Counter, counter};

/// Handles of one thread; all threads share the same names.
pub(crate) struct Metrics {
    pub(crate) accepted: Counter,
    pub(crate) refused_half_open: Counter,
    pub(crate) failed_accepts: Counter,
    /// Connections that were closed before their clients could read why, or lost on their way between threads.
    pub(crate) dropped_linger_full: Counter,
    pub(crate) dropped_unread_input: Counter,
    pub(crate) dropped_not_moved: Counter,
    pub(crate) turns: Counter,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Metrics")
    }
}

fn dropped(reason: &'static str) -> Counter {
    counter!("floodplain_gateway_dropped_connections_total", "reason" => reason)
}

impl Metrics {
    pub(crate) fn new() -> Self {
        Self {
            accepted: counter!("floodplain_gateway_accepted_connections_total"),
            refused_half_open: counter!("floodplain_gateway_refused_connections_total", "reason" => "half_open"),
            failed_accepts: counter!("floodplain_gateway_failed_accepts_total"),
            dropped_linger_full: dropped("linger_full"),
            dropped_unread_input: dropped("unread_input"),
            dropped_not_moved: dropped("not_moved"),
            turns: counter!("floodplain_gateway_turns_total"),
        }
    }
}
