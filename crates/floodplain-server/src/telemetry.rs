//! Logs to standard error, metrics for Prometheus.

use crate::{Config, StartError};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use std::{io::IsTerminal, sync::OnceLock};
use tracing_subscriber::EnvFilter;

/// Buckets of every `_seconds` histogram: a sync takes 20 µs to 5 ms on ordinary disks, up to
/// seconds on a bad day.
const SECONDS_BUCKETS: [f64; 15] =
    [50e-6, 100e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3, 100e-3, 250e-3, 500e-3, 1.0, 5.0];

/// The filter that `tracing.level` means.
pub(crate) fn filter(level: &str) -> Option<EnvFilter> {
    // A word that is no level would be taken for the name of a crate, and nothing be logged.
    let is_known =
        |part: &str| part.contains(['=', ':', '_']) || part.parse::<tracing::Level>().is_ok() || part == "off";
    level.split(',').all(|part| is_known(part.trim())).then(|| EnvFilter::try_new(level).ok()).flatten()
}

/// Starts logging to standard error as the configuration says; a second call changes nothing.
pub fn start_logs(config: &Config) {
    let filter = filter(&config.tracing_level).unwrap_or_default();
    // What it cannot write it would say on standard error too, and panic: a server must not stop working with its reader of logs.
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).log_internal_errors(false);
    let started = if config.tracing_format == "json" {
        builder.json().flatten_event(true).try_init()
    } else {
        builder.with_ansi(std::io::stderr().is_terminal()).try_init()
    };
    // Another server in this process has started them: theirs serve both.
    drop(started);
}

/// Logs why a server did not start, where logs are read by programs; whether that was done.
pub fn log_start_error(config: &Config, error: &StartError) -> bool {
    use std::error::Error as _;
    let is_json = config.tracing_format == "json";
    if is_json {
        let (mut text, mut cause) = (error.to_string(), error.source());
        while let Some(error) = cause {
            text = format!("{text}: {error}");
            cause = error.source();
        }
        tracing::error!(error = text, "server did not start");
    }
    is_json
}

/// The recorder behind the `metrics` facade of this process, installed on first use.
pub(crate) fn metrics() -> &'static PrometheusHandle {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    HANDLE.get_or_init(|| {
        let recorder = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS_BUCKETS)
            .expect("the buckets are not empty")
            .build_recorder();
        let handle = recorder.handle();
        // Fails if a host program has installed its own; then ours stays empty.
        drop(metrics::set_global_recorder(recorder));
        handle
    })
}
