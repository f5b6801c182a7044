//! Counters of the gateway.

use metrics::{Counter, counter};

/// Handles of one thread; all threads share the same names.
pub(crate) struct Metrics {
    pub(crate) accepted: Counter,
    pub(crate) refused_half_open: Counter,
    pub(crate) failed_accepts: Counter,
    pub(crate) turns: Counter,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Metrics")
    }
}

impl Metrics {
    pub(crate) fn new() -> Self {
        Self {
            accepted: counter!("floodplain_gateway_accepted_connections_total"),
            refused_half_open: counter!("floodplain_gateway_refused_connections_total", "reason" => "half_open"),
            failed_accepts: counter!("floodplain_gateway_failed_accepts_total"),
            turns: counter!("floodplain_gateway_turns_total"),
        }
    }
}
