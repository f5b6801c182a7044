//! `GET /api/v1/overview`: how the server is, once or every second.
//!
//! One task takes a sample per second from the first question on; all who ask share it. Totals count since the start of
//! the process. What is not known is `null`.

use crate::{
    follow::{Right, event_stream},
    problem::Problem,
    request::Query,
    router::{Api, Stop},
    time::Time,
};
use axum::{
    Extension,
    body::{Body, Bytes},
    extract::State,
    http::{HeaderValue, header},
    response::{IntoResponse as _, Response},
};
use floodplain_access::Caller;
use floodplain_history::bindings::Binding;
use floodplain_log::{Disk, Partition};
use floodplain_types::{Class, Position, Timestamp};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, VecDeque},
    convert::Infallible,
    fmt,
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};
use tokio::{
    sync::{OnceCell, OwnedSemaphorePermit, Semaphore, watch},
    time::{Instant, MissedTickBehavior},
};
use tokio_util::sync::CancellationToken;
use utoipa::{IntoParams, ToSchema};

const EVERY: Duration = Duration::from_secs(1);
/// How far back the percentiles of syncs look, in samples.
const SYNCS_OF: usize = 60;
/// How long a sample waits to see how far decoding is behind.
const LAG_MAX: Duration = Duration::from_millis(500);

/// What the overview says of the server beside its metrics.
#[derive(Clone)]
pub struct Node {
    pub version: &'static str,
    pub started: Timestamp,
    /// Threads that own connections and partitions.
    pub workers: usize,
    /// Where it listens for MQTT; with the real port where port 0 was asked for.
    pub mqtt_address: SocketAddr,
    /// What a PUBACK promises at least.
    pub ack_class: Class,
    pub data_dir: PathBuf,
    pub disk: Arc<dyn Disk>,
    /// Why the log acknowledges nothing more, if so.
    pub poisoned: Arc<dyn Fn() -> Option<String> + Send + Sync>,
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node").field("data_dir", &self.data_dir).finish_non_exhaustive()
    }
}

/// How the server is. Totals count since its start.
#[derive(Serialize, ToSchema)]
pub(crate) struct Overview {
    time: Time,
    uptime_seconds: u64,
    version: &'static str,
    /// Threads that own connections and partitions.
    workers: usize,
    /// Where clients of MQTT connect: IP address and port.
    #[schema(value_type = String)]
    mqtt_address: SocketAddr,
    ack: Ack,
    /// Of MQTT, now.
    connections: u64,
    /// Of MQTT, also those whose client is away.
    sessions: u64,
    /// Null while the past of the log is being read.
    #[schema(required)]
    devices: Option<usize>,
    /// Null while the past of the log is being read.
    #[schema(required)]
    topics: Option<usize>,
    subscriptions: u64,
    /// What is published, by MQTT and HTTP.
    r#in: Rate,
    /// What is delivered to clients of MQTT.
    out: Rate,
    rows_per_second: f64,
    /// Messages that were published.
    messages_total: u64,
    /// Messages that somebody was too slow for.
    dropped_total: u64,
    /// Dead letters.
    dlq_total: u64,
    sync: Syncs,
    /// How long it takes until what is committed now is rows.
    decode_lag_ms: u64,
    disk: DiskUse,
    log: LogState,
    /// For how many devices an alert fires; null: this server has no alerts.
    #[schema(required)]
    alerts_firing: Option<usize>,
}

/// What an acknowledgement of MQTT promises at least.
#[derive(Serialize, ToSchema)]
struct Ack {
    /// `all`, `leader` or `none`.
    class: &'static str,
    /// For people.
    says: String,
}

/// How much comes or goes, by the last second.
#[derive(Serialize, ToSchema)]
struct Rate {
    messages_per_second: f64,
    /// Of payloads.
    bytes_per_second: f64,
}

/// How long `fdatasync` took in the last minute; null: there was none.
#[derive(Serialize, ToSchema)]
struct Syncs {
    #[schema(required)]
    p50_ms: Option<f64>,
    #[schema(required)]
    p99_ms: Option<f64>,
}

/// The file system of the data, and what the server has on it.
#[derive(Serialize, ToSchema)]
struct DiskUse {
    data_dir: String,
    /// Null: the system does not say.
    #[schema(required)]
    free_bytes: Option<u64>,
    /// Null: the system does not say.
    #[schema(required)]
    total_bytes: Option<u64>,
    log_bytes: u64,
    /// Null: this server keeps no tables.
    #[schema(required)]
    history_bytes: Option<u64>,
}

/// Whether the log takes records.
#[derive(Serialize, ToSchema)]
struct LogState {
    /// Why it takes none before the next start; null: it does.
    #[schema(required)]
    poisoned: Option<String>,
}

/// The samples, from the first question on.
#[derive(Debug, Clone)]
pub(crate) struct Samples {
    newest: Arc<OnceCell<watch::Receiver<Bytes>>>,
    /// Places of those who follow.
    followers: Arc<Semaphore>,
}

impl Samples {
    pub(crate) fn new(followers_max: usize) -> Self {
        Self { newest: Arc::default(), followers: Arc::new(Semaphore::new(followers_max)) }
    }

    /// The newest sample; later ones follow until the server stops.
    async fn watch(&self, api: &Arc<Api>, stop: &CancellationToken) -> watch::Receiver<Bytes> {
        let start = async || {
            let mut sampler = Sampler { api: Arc::clone(api), past: VecDeque::new(), lag: Duration::ZERO };
            let (sender, receiver) = watch::channel(sampler.sample().await);
            let stop = stop.clone();
            tokio::spawn(async move {
                let mut ticks = tokio::time::interval(EVERY);
                ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
                ticks.tick().await;
                loop {
                    tokio::select! {
                        () = stop.cancelled() => return,
                        _ = ticks.tick() => {}
                    }
                    if sender.send(sampler.sample().await).is_err() {
                        return;
                    }
                }
            });
            receiver
        };
        self.newest.get_or_init(start).await.clone()
    }
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(crate) struct FollowQuery {
    /// That it is there counts, not its value: `?follow`.
    follow: Option<String>,
}

/// How the server is; with ?follow every second, as server-sent events
#[utoipa::path(get, path = "/api/v1/overview", params(FollowQuery),
    responses((status = 200, description = "totals since the start; null is what is not known",
        content((Overview = "application/json"), (String = "text/event-stream"))), Problem))]
pub(crate) async fn overview(
    State(api): State<Arc<Api>>,
    Extension(all): Extension<Samples>,
    Extension(Stop(stop)): Extension<Stop>,
    Extension(caller): Extension<Caller>,
    Query(query): Query<FollowQuery>,
) -> Result<Response, Problem> {
    let mut samples = all.watch(&api, &stop).await;
    if query.follow.is_none() {
        let body = samples.borrow().clone();
        return Ok(([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], body).into_response());
    }
    let place = Arc::clone(&all.followers).try_acquire_owned();
    let place =
        place.map_err(|_| Problem::of("followers_full", "the overview has as many followers as it may: try again"))?;
    samples.mark_changed();
    type Follower = (watch::Receiver<Bytes>, CancellationToken, Right, OwnedSemaphorePermit);
    let next = |(mut samples, stop, mut right, place): Follower| async move {
        loop {
            tokio::select! {
                () = stop.cancelled() => return None,
                () = right.due() => if !right.holds().await {
                    return None;
                },
                changed = samples.changed() => {
                    changed.ok()?;
                    break;
                }
            }
        }
        let sample = samples.borrow_and_update().clone();
        let event = Bytes::from([b"data: ", &sample[..], b"\n\n"].concat());
        Some((Ok::<_, Infallible>(event), (samples, stop, right, place)))
    };
    Ok(event_stream(Body::from_stream(futures::stream::unfold((samples, stop, Right::new(&api, caller), place), next))))
}

struct Sampler {
    api: Arc<Api>,
    /// The newest last.
    past: VecDeque<(Instant, Meters)>,
    /// How far decoding was behind at the last sample.
    lag: Duration,
}

impl Sampler {
    /// Takes a sample; its JSON, one line.
    async fn sample(&mut self) -> Bytes {
        let api = Arc::clone(&self.api);
        let lag = self.decode_lag().await;
        // Rendering and the index of topics take some milliseconds, the disk may take longer.
        let gather = move || {
            let meters = Meters::parse(&api.metrics.render());
            let space = api.node.disk.space(&api.node.data_dir).ok();
            let history: Option<u64> = api.tables.as_ref().map(|tables| tables.handle.files_bytes());
            let counts = api.messages.tail().index(|index| index.counts());
            let firing = api.alerts.as_ref().map(floodplain_streams::Alerts::firing_count);
            (meters, space, history, counts, firing)
        };
        let Ok((meters, space, history, counts, firing)) = tokio::task::spawn_blocking(gather).await else {
            return Bytes::from_static(b"{}");
        };
        let now = Instant::now();
        let last = self.past.back().map(|(at, last)| (now.duration_since(*at).as_secs_f64(), last));
        let rate = |of: fn(&Meters) -> f64| {
            last.map_or(0.0, |(seconds, last)| (of(&meters) - of(last)).max(0.0) / seconds.max(1e-3))
        };
        let received = |meters: &Meters| {
            meters.sum("floodplain_broker_received_messages_total")
                + meters.sum("floodplain_http_received_messages_total")
        };
        let received_bytes = |meters: &Meters| {
            meters.sum("floodplain_broker_received_bytes_total") + meters.sum("floodplain_http_received_bytes_total")
        };
        let delivered = |meters: &Meters| meters.sum("floodplain_broker_delivered_messages_total");
        let delivered_bytes = |meters: &Meters| meters.sum("floodplain_broker_delivered_bytes_total");
        let rows = |meters: &Meters| meters.sum("floodplain_history_rows_total");
        // The first minute tells of all syncs since the start.
        let before = self.past.front().filter(|_| self.past.len() == SYNCS_OF).map(|(_, meters)| &meters.syncs);
        let (p50, p99) = (quantile(&meters.syncs, before, 0.5), quantile(&meters.syncs, before, 0.99));
        let api = &self.api;
        let (node, clock) = (&api.node, api.messages.clock());
        let says = match node.ack_class {
            Class::All => "A PUBACK is sent after fdatasync: the message survives a power cut.",
            Class::Leader => {
                "A PUBACK is sent when the operating system has the message: it survives a crash of the program, not a \
                 power cut."
            }
            Class::None => "A PUBACK promises nothing.",
        };
        // An operator may have chosen less for some topics.
        let weaker: Vec<String> = api.tables.as_ref().map_or_else(Vec::new, |tables| {
            let class = |binding: &Arc<Binding>| {
                let class = binding.class().filter(|class| *class < node.ack_class)?;
                Some(format!("{} ({})", binding.name(), class.as_str()))
            };
            tables.handle.bindings().list().iter().filter_map(class).collect()
        });
        let says = match weaker.join(", ") {
            weaker if weaker.is_empty() => says.to_owned(),
            weaker => format!("{says} Bindings promise less for their topics: {weaker}."),
        };
        let (devices, topics) = counts.map(|(topics, devices)| (devices, topics)).unzip();
        let sample = Overview {
            time: Time(clock.now()),
            uptime_seconds: clock.now().since(node.started).as_secs(),
            version: node.version,
            workers: node.workers,
            mqtt_address: node.mqtt_address,
            ack: Ack { class: node.ack_class.as_str(), says },
            connections: whole(meters.sum("floodplain_broker_connections_count")),
            sessions: whole(meters.sum("floodplain_broker_sessions_count")),
            devices,
            topics,
            subscriptions: whole(meters.sum("floodplain_broker_subscriptions_count")),
            r#in: Rate { messages_per_second: rate(received), bytes_per_second: rate(received_bytes) },
            out: Rate { messages_per_second: rate(delivered), bytes_per_second: rate(delivered_bytes) },
            rows_per_second: rate(rows),
            messages_total: whole(received(&meters)),
            dropped_total: whole(meters.sum("floodplain_broker_dropped_messages_total")),
            dlq_total: whole(
                meters.sum("floodplain_broker_undelivered_messages_total")
                    + meters.sum("floodplain_history_dead_letters_total"),
            ),
            sync: Syncs { p50_ms: p50.map(|seconds| seconds * 1e3), p99_ms: p99.map(|seconds| seconds * 1e3) },
            decode_lag_ms: lag.as_millis() as u64,
            disk: DiskUse {
                data_dir: node.data_dir.display().to_string(),
                free_bytes: space.map(|space| space.free_bytes),
                total_bytes: space.map(|space| space.total_bytes),
                log_bytes: whole(meters.sum("floodplain_log_size_bytes")),
                history_bytes: history,
            },
            log: LogState { poisoned: (node.poisoned)() },
            alerts_firing: firing,
        };
        let sample = serde_json::to_vec(&sample).expect("an overview holds only texts and numbers");
        self.past.push_back((now, meters));
        if self.past.len() > SYNCS_OF {
            self.past.pop_front();
        }
        sample.into()
    }

    /// How long it takes until what is committed now is decoded; grows while that does not happen.
    async fn decode_lag(&mut self) -> Duration {
        let Some(tables) = &self.api.tables else { return Duration::ZERO };
        let log = self.api.messages.log();
        let partitions = |stream: &floodplain_log::Stream| -> Vec<(Partition, Position)> {
            let partitions = (0..stream.partitions).map(|index| stream.partition(index));
            partitions.map(|partition| (partition, log.watermark(partition))).collect()
        };
        let watermarks: Vec<_> = tables.inputs.iter().flat_map(partitions).collect();
        let start = Instant::now();
        self.lag = match tables.handle.wait_decoded(&watermarks, LAG_MAX).await {
            Ok(()) => start.elapsed(),
            Err(_) => (self.lag + EVERY).max(LAG_MAX),
        };
        self.lag
    }
}

fn whole(value: f64) -> u64 {
    value.max(0.0) as u64
}

/// Upper bounds in seconds, ascending, and how many were at most that.
type Buckets = Vec<(f64, f64)>;

/// What `/metrics` says, by name, summed over labels.
#[derive(Debug, Default)]
struct Meters {
    sums: BTreeMap<String, f64>,
    syncs: Buckets,
}

impl Meters {
    /// Reads the Prometheus text format.
    fn parse(text: &str) -> Self {
        let mut meters = Self::default();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let Some((series, value)) = line.rsplit_once(' ') else { continue };
            let Ok(value) = value.parse::<f64>() else { continue };
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            if name == "floodplain_log_sync_duration_seconds_bucket" {
                let bound = labels.split_once("le=\"").and_then(|(_, rest)| rest.split_once('"')?.0.parse().ok());
                meters.syncs.extend(bound.map(|bound: f64| (bound, value)));
            } else if !name.ends_with("_bucket") {
                *meters.sums.entry(name.to_owned()).or_default() += value;
            }
        }
        meters.syncs.sort_by(|one, other| one.0.total_cmp(&other.0));
        meters
    }

    fn sum(&self, name: &str) -> f64 {
        self.sums.get(name).copied().unwrap_or(0.0)
    }
}

/// The quantile `q` in seconds of what came between two samples, as Prometheus estimates it; `None` if nothing came.
fn quantile(now: &Buckets, before: Option<&Buckets>, q: f64) -> Option<f64> {
    let earlier = |bound: f64| {
        let found = before.and_then(|before| before.iter().find(|(of, _)| of.total_cmp(&bound).is_eq()));
        found.map_or(0.0, |(_, count)| *count)
    };
    let counts: Buckets = now.iter().map(|(bound, count)| (*bound, count - earlier(*bound))).collect();
    let total = counts.last().map_or(0.0, |(_, count)| *count);
    if total <= 0.0 {
        return None;
    }
    let rank = q * total;
    let (mut low, mut below) = (0.0, 0.0);
    for (bound, count) in counts {
        if count >= rank {
            // Beyond the last bound nothing is known but that.
            let share = if count > below { (rank - below) / (count - below) } else { 1.0 };
            return Some(if bound.is_finite() { low + (bound - low) * share } else { low });
        }
        (low, below) = (bound, count);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# TYPE a counter\na{x=\"1\"} 2\na{x=\"2\"} 3\nb 1.5\n\
        floodplain_log_sync_duration_seconds_bucket{le=\"0.001\"} 10\n\
        floodplain_log_sync_duration_seconds_bucket{le=\"0.01\"} 20\n\
        floodplain_log_sync_duration_seconds_bucket{le=\"+Inf\"} 20\n\
        floodplain_log_sync_duration_seconds_sum 1\n";

    #[test]
    fn metrics_are_summed_over_labels() {
        let meters = Meters::parse(TEXT);
        assert_eq!((meters.sum("a"), meters.sum("b"), meters.sum("c")), (5.0, 1.5, 0.0));
        assert_eq!(meters.syncs, [(0.001, 10.0), (0.01, 20.0), (f64::INFINITY, 20.0)]);
    }

    #[test]
    fn quantiles_are_of_what_came_in_between() {
        let now = Meters::parse(TEXT).syncs;
        let check = |now: &Buckets, before: Option<&Buckets>, q: f64, expected: f64| {
            let found = quantile(now, before, q).unwrap();
            assert!((found - expected).abs() < 1e-9, "{q}: {found}, not {expected}");
        };
        check(&now, None, 0.5, 0.001);
        check(&now, None, 0.75, 0.0055);
        let before = vec![(0.001, 10.0), (0.01, 10.0), (f64::INFINITY, 10.0)];
        check(&now, Some(&before), 1.0, 0.01);
        check(&vec![(1.0, 0.0), (f64::INFINITY, 4.0)], None, 0.5, 1.0);
        assert_eq!(quantile(&now, Some(&now.clone()), 0.5), None);
    }
}
