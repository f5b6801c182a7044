//! Counters of the log. Handles are made once.

use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};

#[derive(Clone)]
pub(crate) struct LogMetrics {
    pub appends: Counter,
    pub refused: Counter,
    pub unknown: Counter,
    pub batches: Counter,
    pub records: Counter,
    pub appended_bytes: Counter,
    pub groups: Counter,
    pub journal_bytes: Counter,
    pub append_seconds: Histogram,
    pub write_seconds: Histogram,
    pub sync_seconds: Histogram,
    pub queue_bytes: Gauge,
    pub poisoned: Gauge,
    /// Bytes that reads have taken from files, and those of them that are index pages.
    pub read_bytes: Counter,
    pub index_read_bytes: Counter,
    pub damaged_ranges: Counter,
    pub torn_ranges: Counter,
    pub not_kept_bytes: Counter,
    pub set_aside_bytes: Gauge,
    pub log_bytes: Gauge,
    pub segments: Gauge,
    pub retained_partitions: Counter,
    pub retained_bytes: Counter,
    pub retained_segments: Counter,
    pub house_errors: Counter,
    pub segment_bytes: Counter,
}

impl LogMetrics {
    pub(crate) fn new() -> Self {
        Self {
            appends: counter!("floodplain_log_appends_total"),
            refused: counter!("floodplain_log_appends_refused_total"),
            unknown: counter!("floodplain_log_appends_unknown_total"),
            batches: counter!("floodplain_log_batches_total"),
            records: counter!("floodplain_log_records_total"),
            appended_bytes: counter!("floodplain_log_appended_bytes_total"),
            groups: counter!("floodplain_log_groups_total"),
            journal_bytes: counter!("floodplain_log_journal_bytes_total"),
            append_seconds: histogram!("floodplain_log_append_duration_seconds"),
            write_seconds: histogram!("floodplain_log_write_duration_seconds"),
            sync_seconds: histogram!("floodplain_log_sync_duration_seconds"),
            queue_bytes: gauge!("floodplain_log_queue_bytes"),
            poisoned: gauge!("floodplain_log_poisoned"),
            read_bytes: counter!("floodplain_log_read_bytes_total"),
            index_read_bytes: counter!("floodplain_log_index_read_bytes_total"),
            damaged_ranges: counter!("floodplain_log_damaged_ranges_total"),
            torn_ranges: counter!("floodplain_log_torn_ranges_total"),
            not_kept_bytes: counter!("floodplain_log_not_kept_bytes_total"),
            segment_bytes: counter!("floodplain_log_segment_written_bytes_total"),
            house_errors: counter!("floodplain_log_house_errors_total"),
            retained_segments: counter!("floodplain_log_retention_segments_total"),
            retained_bytes: counter!("floodplain_log_retention_bytes_total"),
            retained_partitions: counter!("floodplain_log_retention_starts_moved_total"),
            segments: gauge!("floodplain_log_segments"),
            log_bytes: gauge!("floodplain_log_size_bytes"),
            set_aside_bytes: gauge!("floodplain_log_set_aside_bytes"),
        }
    }
}

impl std::fmt::Debug for LogMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LogMetrics")
    }
}
