//! Tells others over HTTP, in the background: a bounded queue, a few threads, some tries.
//!
//! What is for one URL goes there in order; a URL that does not answer delays no other. The queue is in memory: who fills it
//! hears of the end of each delivery, and brings again what had none when the process ended.

use crate::{rule::Webhook, transition::Receipt};
use floodplain_types::{Clock, Timestamp};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt, io,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tracing::{debug, warn};

/// Deliveries that wait; of more the oldest is dropped and counted.
pub const QUEUE_MAX: usize = 1024;
/// One slow URL takes one of them.
const THREADS: usize = 4;
/// How long a thread rests if nothing is due.
const IDLE: Duration = Duration::from_secs(1);

/// Sends one request.
pub trait Post: Send + Sync + fmt::Debug {
    /// Sends `body`, JSON, by POST and returns the status; follows no redirect. Blocks, with a time limit.
    ///
    /// # Errors
    /// What went wrong, without the URL, which may be a secret.
    fn post(&self, webhook: &Webhook, body: &str) -> Result<u16, String>;
}

/// How often a delivery is tried, and how long it waits before the second time; then twice as long each time.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    pub tries: u32,
    pub first_wait: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { tries: 6, first_wait: Duration::from_secs(1) }
    }
}

/// How the last try of an alert ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Last {
    pub time: Timestamp,
    pub status: Option<u16>,
    pub error: Option<String>,
}

/// Told of the end of a delivery, whether it was taken or given up. Must not wait.
pub type Ended = Arc<dyn Fn(&Receipt) + Send + Sync>;

#[derive(Debug)]
struct Delivery {
    alert: Arc<str>,
    webhook: Webhook,
    body: String,
    receipt: Option<Receipt>,
    tried: u32,
    due: Timestamp,
    /// A thread is at it.
    is_under_way: bool,
    number: u64,
}

#[derive(Debug, Default)]
struct State {
    queue: VecDeque<Delivery>,
    last: BTreeMap<Arc<str>, Last>,
    number: u64,
    is_stopping: bool,
}

struct Shared {
    post: Arc<dyn Post>,
    ended: Ended,
    clock: Arc<dyn Clock>,
    patience: Patience,
    state: Mutex<State>,
    moved: Condvar,
}

/// The queue and its threads.
pub struct Webhooks(Arc<Shared>);

impl fmt::Debug for Webhooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Webhooks").field("waiting", &self.0.lock().queue.len()).finish_non_exhaustive()
    }
}

impl Webhooks {
    /// Starts the threads.
    ///
    /// # Errors
    /// What the system says if it gives no thread.
    pub fn start(post: Arc<dyn Post>, clock: Arc<dyn Clock>, patience: Patience, ended: Ended) -> io::Result<Self> {
        let (state, moved) = (Mutex::default(), Condvar::new());
        let shared = Arc::new(Shared { post, ended, clock, patience, state, moved });
        for _ in 0..THREADS {
            let shared = shared.clone();
            std::thread::Builder::new().name("webhook".to_owned()).spawn(move || shared.run())?;
        }
        Ok(Self(shared))
    }

    /// Queues a delivery; never waits. Its end is told with `receipt`, if there is one.
    pub fn send(&self, alert: &Arc<str>, webhook: &Webhook, body: String, receipt: Option<Receipt>) {
        let due = self.0.clock.now();
        let mut state = self.0.lock();
        if state.queue.len() >= QUEUE_MAX {
            // What is under way has been taken care of.
            let oldest = state.queue.iter().position(|delivery| !delivery.is_under_way).unwrap_or(0);
            state.queue.remove(oldest);
            metrics::counter!("floodplain_alerts_webhooks_total", "outcome" => "dropped").increment(1);
        }
        state.number += 1;
        let (number, alert, webhook) = (state.number, alert.clone(), webhook.clone());
        state.queue.push_back(Delivery { alert, webhook, body, receipt, tried: 0, due, is_under_way: false, number });
        drop(state);
        self.0.moved.notify_one();
    }

    /// How the last try of an alert ended, since the start of the process.
    #[must_use]
    pub fn last(&self, alert: &str) -> Option<Last> {
        self.0.lock().last.get(alert).cloned()
    }

    /// Forgets the results of other alerts.
    pub fn keep(&self, is_known: impl Fn(&str) -> bool) {
        self.0.lock().last.retain(|alert, _| is_known(alert));
    }

    /// Begins no other delivery. What is under way ends by itself; nobody waits for it.
    pub fn stop(&self) {
        let mut state = self.0.lock();
        state.is_stopping = true;
        let left = state.queue.len();
        drop(state);
        self.0.moved.notify_all();
        if left > 0 {
            warn!(deliveries = left, "webhooks were not told of everything");
        }
    }
}

impl Drop for Webhooks {
    fn drop(&mut self) {
        self.0.lock().is_stopping = true;
        self.0.moved.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        let mut state = self.lock();
        while !state.is_stopping {
            let now = self.clock.now();
            let Some(at) = next(&state.queue, now) else {
                let rest = rest(&state.queue, now);
                state = self.moved.wait_timeout(state, rest).unwrap_or_else(PoisonError::into_inner).0;
                continue;
            };
            let delivery = &mut state.queue[at];
            delivery.is_under_way = true;
            let (webhook, body, number) = (delivery.webhook.clone(), delivery.body.clone(), delivery.number);
            drop(state);
            let result = self.post.post(&webhook, &body);
            state = self.lock();
            let receipt = self.end(&mut state, number, result);
            self.moved.notify_one();
            if let Some(receipt) = receipt {
                drop(state);
                (self.ended)(&receipt);
                state = self.lock();
            }
        }
    }

    /// Ends a try; the receipt, if that was the last one.
    fn end(&self, state: &mut State, number: u64, result: Result<u16, String>) -> Option<Receipt> {
        let now = self.clock.now();
        let at = state.queue.iter().position(|delivery| delivery.number == number)?;
        let delivery = &mut state.queue[at];
        delivery.is_under_way = false;
        delivery.tried += 1;
        let (status, error) = match result {
            Ok(status) => (Some(status), None),
            Err(error) => (None, Some(error)),
        };
        let is_done = status.is_some_and(|status| (200..300).contains(&status));
        // RFC 9110 §15: what may be otherwise next time.
        let may_help = status.is_none_or(|status| status >= 500 || status == 408 || status == 429);
        let alert = delivery.alert.clone();
        let origin = delivery.webhook.origin();
        let outcome = if is_done {
            "delivered"
        } else if may_help && delivery.tried < self.patience.tries {
            delivery.due = now + self.patience.first_wait * 2_u32.saturating_pow(delivery.tried - 1);
            debug!(%alert, origin, ?status, ?error, "webhook is tried again later");
            "retried"
        } else {
            warn!(%alert, origin, ?status, ?error, tries = delivery.tried, "webhook was not told");
            "failed"
        };
        metrics::counter!("floodplain_alerts_webhooks_total", "outcome" => outcome).increment(1);
        state.last.insert(alert, Last { time: now, status, error });
        if outcome == "retried" { None } else { state.queue.remove(at)?.receipt }
    }
}

/// The first that is due, and the first of its URL.
fn next(queue: &VecDeque<Delivery>, now: Timestamp) -> Option<usize> {
    let mut before = BTreeSet::new();
    queue.iter().position(|delivery| {
        let is_first = before.insert(delivery.webhook.url());
        is_first && !delivery.is_under_way && delivery.due <= now
    })
}

/// Until the next is due.
fn rest(queue: &VecDeque<Delivery>, now: Timestamp) -> Duration {
    let waiting = queue.iter().filter(|delivery| !delivery.is_under_way && delivery.due > now);
    waiting.map(|delivery| delivery.due.since(now)).min().unwrap_or(IDLE).min(IDLE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rule::{Rule, v1};
    use floodplain_testkit::wait_until;
    use floodplain_types::{Position, SystemClock};

    fn webhook(url: &str) -> Webhook {
        let json = serde_json::json!({ "name": "a", "kind": "silent", "minutes": 1, "webhook": url });
        Rule::try_from(serde_json::from_value::<v1::Alert>(json).unwrap()).unwrap().webhook.unwrap()
    }

    /// Answers what the path says, and remembers what it got.
    #[derive(Debug, Default)]
    struct Listener {
        got: Mutex<Vec<String>>,
        ended: Arc<Mutex<Vec<u64>>>,
        /// Requests to `/wait` last until somebody sets it.
        go: (Mutex<bool>, Condvar),
    }

    impl Post for Listener {
        fn post(&self, webhook: &Webhook, body: &str) -> Result<u16, String> {
            let path = webhook.url().rsplit_once('/').unwrap().1;
            self.got.lock().unwrap().push(format!("{path} {body}"));
            match path {
                "wait" => {
                    let go = self.go.0.lock().unwrap();
                    drop(self.go.1.wait_while(go, |go| !*go).unwrap());
                    Ok(200)
                }
                "broken" => Err("connection refused".to_owned()),
                status => Ok(status.parse().unwrap()),
            }
        }
    }

    fn start(listener: &Arc<Listener>) -> Webhooks {
        let patience = Patience { tries: 3, first_wait: Duration::from_millis(1) };
        let ended = listener.ended.clone();
        let ended = Arc::new(move |receipt: &Receipt| ended.lock().unwrap().push(receipt.position.offset));
        Webhooks::start(listener.clone(), Arc::new(SystemClock), patience, ended).unwrap()
    }

    #[test]
    fn tries_end_at_a_success_or_at_what_no_try_mends() {
        for (path, tries, status) in [
            ("200", 1, Some(200)),
            ("404", 1, Some(404)),
            ("302", 1, Some(302)),
            ("503", 3, Some(503)),
            ("broken", 3, None),
        ] {
            let listener = Arc::new(Listener::default());
            let webhooks = start(&listener);
            let alert: Arc<str> = "a".into();
            let receipt = Receipt { alert: alert.clone(), device: "d".into(), position: Position::new(0, 7) };
            webhooks.send(&alert, &webhook(&format!("http://h/{path}")), "x".to_owned(), Some(receipt));
            wait_until("the webhook", &|| (), || webhooks.0.lock().queue.is_empty());
            assert_eq!(listener.got.lock().unwrap().len(), tries, "{path}");
            wait_until("the receipt", &|| (), || *listener.ended.lock().unwrap() == [7]);
            let last = webhooks.last("a").unwrap();
            assert_eq!((last.status, last.error.is_some()), (status, status.is_none()));
            webhooks.keep(|_| false);
            assert_eq!(webhooks.last("a"), None);
        }
    }

    #[test]
    fn what_is_for_one_url_is_in_order_and_delays_no_other() {
        let listener = Arc::new(Listener::default());
        let webhooks = start(&listener);
        let alert: Arc<str> = "a".into();
        for n in 0..20 {
            webhooks.send(&alert, &webhook("http://h/wait"), n.to_string(), None);
        }
        webhooks.send(&alert, &webhook("http://h/200"), "other".to_owned(), None);
        wait_until("the webhook", &|| (), || listener.got.lock().unwrap().contains(&"200 other".to_owned()));
        *listener.go.0.lock().unwrap() = true;
        listener.go.1.notify_all();
        wait_until("the webhook", &|| (), || webhooks.0.lock().queue.is_empty());
        let got = listener.got.lock().unwrap();
        let waited: Vec<_> = got.iter().filter_map(|got| got.strip_prefix("wait ")).collect();
        assert_eq!(waited, (0..20).map(|n| n.to_string()).collect::<Vec<_>>());
    }

    #[test]
    fn the_oldest_is_dropped_when_too_many_wait() {
        let listener = Arc::new(Listener::default());
        let webhooks = start(&listener);
        let alert: Arc<str> = "a".into();
        webhooks.send(&alert, &webhook("http://h/wait"), "under way".to_owned(), None);
        wait_until("the webhook", &|| (), || !listener.got.lock().unwrap().is_empty());
        for n in 0..QUEUE_MAX {
            webhooks.send(&alert, &webhook("http://h/wait"), n.to_string(), None);
        }
        let state = webhooks.0.lock();
        assert_eq!((state.queue.len(), state.queue[0].body.as_str()), (QUEUE_MAX, "under way"));
        assert_eq!((state.queue[1].body.as_str(), state.queue.back().unwrap().body.as_str()), ("1", "1023"));
        drop(state);
        *listener.go.0.lock().unwrap() = true;
        listener.go.1.notify_all();
    }
}
