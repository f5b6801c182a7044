//! What the workers know of their clients, asked from outside: one page per question, so that no question takes long.

use crate::{
    Worker,
    folds::{CloseReason, Presence, RetainedPage, Session},
    mailbox::Mail,
    owner::{DataPartition, Question, RequestPartition},
    worker::Shared,
};
use floodplain_types::{ClientId, Position, Timestamp, TopicFilter};
use std::{collections::BTreeSet, fmt, sync::Arc};

/// Filters that are listed of one client; all are counted.
const FILTERS_MAX: usize = 64;

/// A client that is connected, has a session, or was here within the last week.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientState {
    pub client: ClientId,
    pub is_connected: bool,
    /// When that became so, in log time; `None` for a session whose last connection is forgotten.
    pub since: Option<Timestamp>,
    /// Why the last connection has ended, while there is none.
    pub closed: Option<CloseReason>,
    /// Address of the newest connection.
    pub peer: Option<String>,
    pub protocol_level: Option<u8>,
    pub session: Option<SessionState>,
}

/// The session of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionState {
    /// Seconds that it outlives its connection: 0 ends with it, [`crate::folds::NEVER_EXPIRES`] stays.
    pub expiry_s: u32,
    /// The first 64 filters and their QoS.
    pub subscriptions: Vec<(String, u8)>,
    /// How many there are.
    pub subscriptions_count: usize,
}

/// Which clients are asked for.
#[derive(Debug, Clone)]
pub(crate) enum Which {
    /// So many, by client id, behind this one.
    After(Option<Arc<str>>, usize),
    One(Arc<str>),
}

/// A question of [`Roster`], and where its answer goes.
pub(crate) struct Asked {
    pub(crate) which: Which,
    pub(crate) reply: Box<dyn FnOnce(Vec<ClientState>) + Send>,
}

/// A question about retained messages, and where its answer goes.
pub(crate) struct AskedRetained {
    filter: TopicFilter,
    after: Option<Arc<str>>,
    limit: usize,
    /// Up to where the worker's partitions must be folded first: what was committed when it was asked.
    until: Vec<Position>,
    reply: Box<dyn FnOnce(Vec<RetainedPage>) + Send>,
}

impl fmt::Debug for AskedRetained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AskedRetained").field("filter", &self.filter).finish_non_exhaustive()
    }
}

impl fmt::Debug for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Asked").field("which", &self.which).finish_non_exhaustive()
    }
}

/// Asks the workers of a broker. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Roster {
    shared: Arc<Shared>,
}

impl Roster {
    /// Clients in one page of one worker, at most.
    pub const PAGE_MAX: usize = 256;

    pub(crate) const fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// How many workers there are: so often the reply is called for each question, unless the broker stops.
    #[must_use]
    pub fn workers(&self) -> usize {
        self.shared.mailboxes.len()
    }

    /// Asks each worker for its first `limit` clients behind `after`, by client id, and at most [`Self::PAGE_MAX`]. The reply
    /// is called on the workers' threads: it must not block. Who asks bounds how many questions wait.
    pub fn page(&self, after: Option<&str>, limit: usize, reply: impl Fn(Vec<ClientState>) + Clone + Send + 'static) {
        self.ask(&Which::After(after.map(Arc::from), limit.min(Self::PAGE_MAX)), reply);
    }

    /// Asks each worker for one client; those who do not have it reply with none.
    pub fn one(&self, client: &str, reply: impl Fn(Vec<ClientState>) + Clone + Send + 'static) {
        self.ask(&Which::One(client.into()), reply);
    }

    /// Asks each worker for a page of what its partitions retain of `filter`, behind the topic `after`; `limit` messages of
    /// each partition at most. What is committed before this call is in it. [`crate::folds::newest`] makes one page of all.
    pub fn retained(
        &self,
        filter: &TopicFilter,
        after: Option<&str>,
        limit: usize,
        reply: impl Fn(Vec<RetainedPage>) + Clone + Send + 'static,
    ) {
        let after: Option<Arc<str>> = after.map(Arc::from);
        for mailbox in &self.shared.mailboxes {
            let (filter, after, reply) = (filter.clone(), after.clone(), Box::new(reply.clone()));
            let asked = AskedRetained { filter, after, limit, until: Vec::new(), reply };
            mailbox.post([Mail::Question(Question::RetainedOutside(asked))]);
        }
    }

    fn ask(&self, which: &Which, reply: impl Fn(Vec<ClientState>) + Clone + Send + 'static) {
        for mailbox in &self.shared.mailboxes {
            let asked = Asked { which: which.clone(), reply: Box::new(reply.clone()) };
            mailbox.post([Mail::Question(Question::Clients(asked))]);
        }
    }
}

impl Worker {
    pub(crate) fn clients_question(&self, asked: Asked) {
        let found = match &asked.which {
            Which::One(client) => self.owner.requests.iter().filter_map(|of| self.client_state(of, client)).collect(),
            Which::After(after, limit) => {
                let after = after.as_deref();
                let mut names = BTreeSet::new();
                for of in &self.owner.requests {
                    let present = of.presence.fold().after(after).take(*limit).map(|(client, _)| client.as_str());
                    let stored = of.sessions.fold().after(after).take(*limit).map(|(client, _)| client.as_str());
                    names.extend(present.chain(stored));
                }
                let names = names.into_iter().take(*limit);
                names.filter_map(|name| self.owner.requests.iter().find_map(|of| self.client_state(of, name))).collect()
            }
        };
        (asked.reply)(found);
    }

    /// Answers once all that is committed now is folded.
    pub(crate) fn retained_outside(&mut self, mut asked: AskedRetained) {
        let log = &self.shared.log;
        asked.until = self.owner.data.iter().map(|data| log.watermark(data.partition)).collect();
        self.owner.outside.push(asked);
        self.owner.dirty = true;
    }

    pub(crate) fn answer_outside(&mut self) {
        let data = &self.owner.data;
        let is_folded = |asked: &mut AskedRetained| {
            data.iter().zip(&asked.until).all(|(data, end)| data.retained.position() >= *end)
        };
        for AskedRetained { filter, after, limit, reply, .. } in self.owner.outside.extract_if(.., is_folded) {
            let page = |data: &DataPartition| data.retained.fold().page(filter.as_str(), after.as_deref(), limit);
            reply(data.iter().map(page).collect());
        }
    }

    fn client_state(&self, of: &RequestPartition, client: &str) -> Option<ClientState> {
        let (presence, stored) = (of.presence.fold().get(client), of.sessions.fold().session(client));
        let is_connected = match (presence, stored) {
            (Some(presence), _) => presence.is_connected,
            (None, Some(stored)) => stored.is_connected,
            (None, None) => return None,
        };
        Some(ClientState {
            client: ClientId::new(client).ok()?,
            is_connected,
            since: presence.map(|presence| presence.since).or_else(|| stored.and_then(|stored| stored.closed_at)),
            closed: presence.and_then(|presence| presence.closed),
            peer: presence.map(|Presence { peer, .. }| peer.to_string()),
            protocol_level: presence.map(|Presence { protocol_level, .. }| *protocol_level),
            session: stored.map(|stored| self.session_state(client, stored)),
        })
    }

    /// The fold knows the subscriptions of lasting sessions alone, the connection those of every connected one.
    fn session_state(&self, client: &str, stored: &Session) -> SessionState {
        let live = self.clients.get(client).and_then(|conn| self.connections.get(conn.slot as usize));
        let (subscriptions, subscriptions_count) = match live.and_then(|connection| connection.session.as_deref()) {
            Some(live) => {
                let listed = live.subscriptions.iter().take(FILTERS_MAX);
                let listed = listed.map(|held| (held.filter.as_str().to_owned(), held.wanted.qos));
                (listed.collect(), live.subscriptions.len())
            }
            None => {
                let listed = stored.subscriptions().iter().take(FILTERS_MAX).map(|held| &held.subscription);
                let listed = listed.map(|held| (held.filter.as_str().to_owned(), held.qos));
                (listed.collect(), stored.subscriptions().len())
            }
        };
        SessionState { expiry_s: stored.expiry_s, subscriptions, subscriptions_count }
    }
}
