//! What the broker and the log know of clients and devices, for SQL and HTTP.

use floodplain_api::{Messages, Retained, RetainedPage, RetainedSource};
use floodplain_broker::{
    ClientState, Roster,
    folds::{Event, NEVER_EXPIRES, newest, protocol},
    is_assigned_id,
};
use floodplain_sql::{Client, Device, Fleet, Happening, LongFiring, Session, Traffic, Unanswered};
use floodplain_streams::Alerts;
use floodplain_types::{Clock as _, SystemClock, TopicFilter};
use std::{collections::BTreeMap, time::Duration};
use tokio::sync::{Semaphore, mpsc};

/// Questions that the broker's workers are asked at once; more wait.
const ASKED_MAX: usize = 4;
/// Retained messages of one partition in one page.
const RETAINED_PAGE: usize = 64;
/// How long a worker may take to answer. It does so between two batches of its work.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(5);

/// Asks the broker, the index of topics, and alerts.
#[derive(Debug)]
pub(crate) struct Known {
    roster: Roster,
    messages: Messages,
    /// None where another server watches.
    alerts: Option<Alerts>,
    asking: Semaphore,
}

impl Known {
    pub(crate) const fn new(roster: Roster, messages: Messages, alerts: Option<Alerts>) -> Self {
        Self { roster, messages, alerts, asking: Semaphore::const_new(ASKED_MAX) }
    }

    /// The answers of all workers.
    async fn gather<T>(&self, ask: impl FnOnce(&Roster, mpsc::Sender<Vec<T>>)) -> Result<Vec<T>, Unanswered> {
        let late = |_| Unanswered(format!("the broker did not answer within {ANSWER_TIME_MAX:?}"));
        let stopping = || Unanswered("the server is stopping".to_owned());
        let _turn = self.asking.acquire().await.map_err(|_| stopping())?;
        let (sender, mut answers) = mpsc::channel(self.roster.workers());
        ask(&self.roster, sender);
        let mut gathered = Vec::new();
        let all = async {
            for _ in 0..self.roster.workers() {
                gathered.append(&mut answers.recv().await.ok_or_else(stopping)?);
            }
            Ok(())
        };
        tokio::time::timeout(ANSWER_TIME_MAX, all).await.map_err(late)??;
        Ok(gathered)
    }

    /// What the workers say of clients, by client id.
    async fn ask(&self, ask: impl FnOnce(&Roster, mpsc::Sender<Vec<ClientState>>)) -> Result<Vec<Client>, Unanswered> {
        let mut clients: Vec<_> = self.gather(ask).await?.into_iter().map(client).collect();
        clients.sort_unstable_by(|one, other| one.client_id.cmp(&other.client_id));
        Ok(clients)
    }
}

#[async_trait::async_trait]
impl Fleet for Known {
    fn happenings(&self, request: &[u8]) -> Vec<Happening> {
        // What does not decode was not written by us, or by a newer version.
        let events = Event::decode(request).map(|event| event.describe()).unwrap_or_default();
        events.into_iter().map(|told| Happening { kind: told.kind, detail: told.detail }).collect()
    }

    async fn long_firing(&self) -> Result<Vec<LongFiring>, Unanswered> {
        let Some(alerts) = self.alerts.clone() else { return Ok(Vec::new()) };
        let long = tokio::task::spawn_blocking(move || alerts.long_firing()).await;
        let long = long.map_err(|error| Unanswered(format!("alerts gave no answer: {error}")))?.into_iter();
        let row = |(rule, firing): (std::sync::Arc<str>, floodplain_streams::Firing)| LongFiring {
            rule: rule.to_string(),
            device: firing.device.to_string(),
            since: firing.since,
            value: firing.value,
        };
        Ok(long.map(row).collect())
    }

    async fn clients(&self, after: Option<&str>, limit: usize) -> Result<Vec<Client>, Unanswered> {
        let mut found: Vec<Client> = Vec::new();
        loop {
            let after = found.last().map(|client| client.client_id.as_str()).or(after);
            let wanted = (limit - found.len()).min(Roster::PAGE_MAX);
            let mut page =
                self.ask(|roster, to| roster.page(after, wanted, move |page| drop(to.try_send(page)))).await?;
            page.truncate(wanted);
            let is_last = page.len() < wanted;
            found.append(&mut page);
            if is_last || found.len() >= limit {
                return Ok(found);
            }
        }
    }

    async fn devices(&self, after: Option<&str>, limit: usize) -> Result<Vec<Device>, Unanswered> {
        let mut found: Vec<Device> = Vec::new();
        let mut after = after.map(str::to_owned);
        loop {
            let traffic = self.messages.devices(after.as_deref(), limit).await?;
            let clients = self.clients(after.as_deref(), limit).await?;
            let mut page: BTreeMap<String, (Option<Client>, Option<Traffic>)> = BTreeMap::new();
            for (device, traffic) in traffic {
                page.entry(device).or_default().1 = Some(traffic);
            }
            for client in clients {
                let device = client.device.clone();
                page.entry(device).or_default().0 = Some(client);
            }
            let is_last = page.len() < limit;
            let page = page.into_iter().take(limit);
            let page: Vec<_> = page.map(|(device, (client, traffic))| Device { device, client, traffic }).collect();
            after = page.last().map(|last| last.device.clone());
            found.extend(page.into_iter().filter(is_device));
            if is_last || found.len() >= limit {
                found.truncate(limit);
                return Ok(found);
            }
        }
    }

    async fn device(&self, device: &str) -> Result<Option<Device>, Unanswered> {
        let traffic = self.messages.traffic(device).await?;
        let clients = self.ask(|roster, to| roster.one(device, move |found| drop(to.try_send(found)))).await?;
        let client = clients.into_iter().next();
        let is_known = client.is_some() || traffic.is_some();
        let device = Device { device: device.to_owned(), client, traffic };
        Ok(Some(device).filter(|device| is_known && is_device(device)))
    }
}

#[async_trait::async_trait]
impl RetainedSource for Known {
    async fn page(&self, filter: &str, after: Option<&str>) -> Result<RetainedPage, Unanswered> {
        let filter = TopicFilter::new(filter).map_err(|error| Unanswered(error.to_string()))?;
        let ask = |roster: &Roster, to: mpsc::Sender<_>| {
            roster.retained(&filter, after, RETAINED_PAGE, move |pages| drop(to.try_send(pages)));
        };
        let (found, next) = newest(self.gather(ask).await?, SystemClock.now());
        let messages = found.into_iter().filter_map(|candidate| {
            let (stamp, record) = (candidate.stamp, candidate.record?);
            let (partition, position) = (stamp.partition, stamp.position);
            let base_timestamp_ms = record.base_timestamp_ms;
            Some(Retained { partition, position, record: record.bytes, base_timestamp_ms })
        });
        Ok(RetainedPage { messages: messages.collect(), next: next.map(|topic| topic.to_string()) })
    }
}

/// Who came without a name, said nothing of itself and has gone, is nobody.
fn is_device(device: &Device) -> bool {
    let stays = |client: &Client| client.connected || client.session.is_some();
    device.traffic.is_some() || device.client.as_ref().is_some_and(stays) || !is_assigned_id(&device.device)
}

fn client(state: ClientState) -> Client {
    let client_id = state.client.as_str().to_owned();
    Client {
        // Everybody is who they say they are (`Access::open_loopback`): the device is the client id.
        device: client_id.clone(),
        client_id,
        connected: state.is_connected,
        since: state.since,
        reason: state.closed.map(|reason| reason.text()),
        address: state.peer,
        protocol: state.protocol_level.map(protocol),
        session: state.session.map(|session| Session {
            lasting: session.expiry_s > 0,
            expiry_seconds: Some(session.expiry_s).filter(|seconds| *seconds != NEVER_EXPIRES),
            subscriptions: session.subscriptions,
            subscriptions_count: session.subscriptions_count,
        }),
    }
}
