//! Retained messages for a new subscription (MQTT 5.0 §3.3.1.3, §3.8.4).
//!
//! Every worker is asked for what its partitions retain, page by page; of two messages on one topic
//! the newer wins. A worker answers once it has folded all that it had appended when it was asked,
//! so a subscriber sees what was published before it subscribed, at QoS 0 too.

use crate::{
    ConnId, Worker,
    folds::{Candidate, Positions, RetainedPage, newest},
    mailbox::Mail,
    owner::{Answer, Question},
    publication::{Delivery, Publication},
    router::Wanted,
    session::Queued,
    subscribe::effective,
};
use floodplain_log::{MessageRef, Record};
use floodplain_types::{Timestamp, TopicFilter};
use std::{
    collections::{HashSet, VecDeque},
    rc::Rc,
    sync::Arc,
};

/// Topics per page and worker.
const PAGE: usize = 64;
/// No further page is asked for while this many messages wait for the client.
const QUEUED_MAX: usize = 64;
/// Nor while this much output does.
const BACKLOG_MAX: usize = 64 << 10;

/// Subscriptions whose retained messages are due after their SUBACK.
#[derive(Debug, Default)]
pub(crate) struct RetainedWish {
    pub(crate) filters: Vec<(TopicFilter, Wanted)>,
    /// From here on messages of QoS 1 and 2 come live, so they must not come as retained ones, too.
    pub(crate) live_from: Positions,
    /// The topic after which they are.
    pub(crate) after: Option<Arc<str>>,
    /// An earlier connection got the others, and those with QoS 0.
    pub(crate) is_resumed: bool,
}

/// What a session still has to get.
#[derive(Debug)]
pub(crate) struct Lookup {
    filters: VecDeque<(TopicFilter, Wanted)>,
    live_from: Positions,
    is_resumed: bool,
    /// Where a lasting session keeps how far it is with the first filter.
    due: Option<u32>,
    after: Option<Arc<str>>,
    pages: Vec<RetainedPage>,
    /// Workers that have not answered yet; 0 while nothing is asked.
    missing: u32,
}

/// How the retained messages of one filter are delivered.
#[derive(Debug, Clone, Copy)]
struct How<'a> {
    wanted: Wanted,
    live_from: &'a Positions,
    is_resumed: bool,
    due: Option<u32>,
}

impl Worker {
    /// Starts to look up retained messages.
    pub(crate) fn ask_retained(&mut self, conn: ConnId, wish: RetainedWish) {
        let Some(session) = self.get(conn).and_then(|c| c.session.as_deref_mut()) else { return };
        let RetainedWish { filters, live_from, after, is_resumed } = wish;
        let filters = filters.into();
        let lookup = Lookup { filters, live_from, is_resumed, due: None, after, pages: Vec::new(), missing: 0 };
        session.lookups.push_back(lookup);
        self.look_on(conn);
    }

    /// Asks for the next page, if the client has room for it.
    pub(crate) fn look_on(&mut self, conn: ConnId) {
        let workers = self.shared.workers();
        let Some(connection) = self.get(conn) else { return };
        let backlog = connection.backlog();
        let Some(session) = connection.session.as_deref_mut() else { return };
        let queued = session.out.queue.len();
        let Some(lookup) = session.lookups.front_mut().filter(|lookup| lookup.missing == 0) else { return };
        if queued >= QUEUED_MAX || backlog >= BACKLOG_MAX {
            connection.wants_room = true;
            return;
        }
        let Some((filter, wanted)) = lookup.filters.front().cloned() else { return };
        let after = lookup.after.clone();
        if wanted.qos > 0 && lookup.due.is_none() && session.expiry_s > 0 {
            lookup.due = Some(session.out.retained_due(&filter, after.clone()));
        }
        lookup.missing = workers;
        let worker = self.idx;
        self.ask(worker, Question::Retained { worker, conn, filter, after, limit: PAGE, behind: Vec::new() });
    }

    /// The pages of one worker have come.
    pub(crate) fn retained_answer(&mut self, conn: ConnId, mut pages: Vec<RetainedPage>) {
        let now = self.now;
        let Some(session) = self.get(conn).and_then(|c| c.session.as_deref_mut()) else { return };
        let Some(lookup) = session.lookups.front_mut() else { return };
        lookup.pages.append(&mut pages);
        lookup.missing = lookup.missing.saturating_sub(1);
        if lookup.missing > 0 {
            return;
        }
        let (found, next) = newest(std::mem::take(&mut lookup.pages), now);
        let Some((_, wanted)) = lookup.filters.front().cloned() else { return };
        let live_from = lookup.live_from.clone();
        lookup.after = next;
        let (is_resumed, due) = (lookup.is_resumed, lookup.due);
        let mut is_done = false;
        let is_found = lookup.after.is_none();
        if is_found {
            lookup.due = None;
            lookup.filters.pop_front();
            if lookup.filters.is_empty() {
                session.lookups.pop_front();
                is_done = true;
                if session.lookups.is_empty() {
                    session.lookups = VecDeque::new();
                }
            }
        }
        for candidate in found {
            let how = How { wanted, live_from: &live_from, is_resumed, due };
            self.deliver_retained(conn, &candidate, &how, now);
        }
        if is_found
            && let Some(session) = self.get(conn).and_then(|c| c.session.as_deref_mut())
            && let Some(due) = session.out.due(due)
        {
            due.is_found = true;
            due.is_unlogged = true;
        }
        if is_done && let Some(session) = self.get(conn).and_then(|c| c.session.as_deref_mut()) {
            session.retained_due -= 1;
            if session.retained_due == 0 {
                session.came_live = HashSet::new();
            }
        }
        self.pump(conn);
        self.look_on(conn);
    }

    fn deliver_retained(
        &mut self,
        conn: ConnId,
        candidate: &Candidate,
        &How { wanted, live_from, is_resumed, due }: &How<'_>,
        now: Timestamp,
    ) {
        let Some(held) = &candidate.record else { return };
        let Ok(record) = Record::parse(&held.bytes) else { return };
        let Ok(message) = MessageRef::parse(&record) else { return };
        // Messages of QoS 0 went live when they were appended, whatever their position. Live ones come before the page
        // that holds them: through the same mailbox, or at once.
        if message.qos > 0 && candidate.stamp.position >= live_from.get(candidate.stamp.partition) {
            return;
        }
        let ingest = Timestamp::from_millis(held.base_timestamp_ms.saturating_add(record.timestamp_delta_ms));
        let publisher: Arc<str> = message.publisher_or_key().into();
        let users = message.user_properties();
        let publication = Publication::new(&message, users, candidate.stamp.partition, ingest, publisher);
        if publication.is_expired(now) {
            return;
        }
        let Some(session) = self.get(conn).and_then(|c| c.session.as_deref_mut()) else { return };
        if message.qos == 0 && (is_resumed || session.came_live.contains(message.topic)) {
            return;
        }
        if wanted.no_local && *session.client == *publication.publisher {
            return;
        }
        let qos = effective(message.qos, wanted.qos);
        let ids: Option<Rc<[u32]>> = (wanted.id != 0).then(|| Rc::from([wanted.id]));
        if qos == 0 {
            let how = Delivery {
                v5: session.is_v5(),
                qos: 0,
                retain: true,
                dup: false,
                packet_id: 0,
                subscription_ids: ids.as_deref().unwrap_or_default(),
                expiry_seconds: publication.expiry_left(now),
                topic_alias: None,
            };
            self.write_at_once(conn.slot, &publication, how);
            return;
        }
        session.out.push(Queued {
            publication: Arc::new(publication),
            position: candidate.stamp.position,
            is_tracked: false,
            qos,
            retain: true,
            ids,
            again: None,
            due,
        });
        if let Some(due) = session.out.due(due) {
            due.queued += 1;
        }
    }

    pub(crate) fn ask(&mut self, worker: u32, question: Question) {
        if worker == self.idx {
            // Not by mail: what this worker delivers to itself does not pass its mailbox either.
            self.question(question);
        } else {
            self.shared.mailboxes[worker as usize].post([Mail::Question(question)]);
        }
    }

    pub(crate) fn reply(&mut self, worker: u32, answer: Answer) {
        if worker == self.idx {
            self.answer(answer);
        } else {
            self.post_committed(worker);
            self.shared.mailboxes[worker as usize].post([Mail::Answer(answer)]);
        }
    }
}
