//! Limits of queries.

use floodplain_types::TenantId;
use std::time::Duration;

/// How much of the machine queries may take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The tenant whose streams are visible.
    pub tenant: TenantId,
    /// Threads of one query; also the number of partitions of the log that it reads at once.
    pub threads: usize,
    /// What is added to the niceness of these threads (0 to 19).
    pub niceness: u8,
    /// How long a query takes before its threads run only when no other thread wants to, so that commits and live
    /// delivery go first.
    pub short: Duration,
    /// Memory that sorts, joins and aggregates of all running queries may take together.
    pub memory_max_bytes: usize,
    /// How long one query may take, waiting for its turn and for a slow reader of its rows included.
    pub time_max: Duration,
    /// How many rows one query may return.
    pub rows_max: u64,
    /// How many queries run at once; more wait for their turn.
    pub running_max: usize,
    /// How many queries wait for their turn; more are refused.
    pub waiting_max: usize,
    /// How long the text of a query may be.
    pub text_max_bytes: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            tenant: TenantId::default_tenant(),
            threads: std::thread::available_parallelism().map_or(2, usize::from),
            niceness: 10,
            short: Duration::from_millis(200),
            memory_max_bytes: 256 << 20,
            time_max: Duration::from_secs(60),
            rows_max: 1_000_000,
            running_max: 8,
            waiting_max: 64,
            text_max_bytes: 256 << 10,
        }
    }
}
