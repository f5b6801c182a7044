//! What still waits for sessions that have ended: found by the owners of the data, told to the log, and so to `dlq`.
//!
//! The session fold keeps an ended session until [`Event::Buried`]. Its worker asks all owners what their indexes hold
//! for it, and appends that event with what they say. A crash in between asks again.

use crate::{
    Worker,
    folds::{EndReason, Event, Letter, Positions},
    owner::{Answer, Question},
};
use floodplain_types::{Class, ClientId, Position, Timestamp, TopicFilter};
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// Ended sessions of one partition of `requests` that are asked about at once.
const ASKED_MAX: usize = 256;
/// After so long without an end, for want of room in the log, the owners are asked again.
const ASK_AGAIN: Duration = Duration::from_secs(30);
/// Postings that are looked at in one turn, and in one page.
const TURN_POSTINGS: usize = 16_384;
const PAGE: usize = 1024;

/// Sessions of a partition of `requests` that are asked about.
pub(crate) type Burials = BTreeMap<(ClientId, Position), Burial>;

/// What is known so far of what one session leaves.
#[derive(Debug)]
pub(crate) struct Burial {
    asked_at: Timestamp,
    /// Workers that have not answered.
    left: u32,
    letters: Vec<Letter>,
}

/// A session that has ended, as its worker asks the owners about it.
#[derive(Debug, Clone)]
pub(crate) struct Estate {
    /// The worker that asks.
    worker: u32,
    /// Index of the partition of `requests`.
    source: u32,
    client: ClientId,
    epoch: Position,
    asked_at: Timestamp,
    at: Timestamp,
    reason: &'static str,
    wanted: Arc<[(TopicFilter, Positions)]>,
    done: Arc<[(u32, Position)]>,
}

/// What the index of one worker holds of it.
#[derive(Debug)]
pub(crate) struct Left {
    source: u32,
    client: ClientId,
    epoch: Position,
    asked_at: Timestamp,
    letters: Vec<Letter>,
}

/// An estate that is being looked through.
#[derive(Debug)]
pub(crate) struct Search {
    estate: Estate,
    /// Data partitions to look at, where to go on, and up to where the index must have come.
    parts: Vec<(u32, Position, Position)>,
    letters: Vec<Letter>,
}

const fn reason(end: EndReason) -> &'static str {
    match end {
        EndReason::Expired => "session expired",
        EndReason::CleanStart => "session discarded by its client",
        EndReason::NoExpiry => "session ended with its connection",
    }
}

impl Worker {
    /// Asks about the sessions of a partition of `requests` that have ended.
    pub(crate) fn ask_for_ended(&mut self, at: usize) {
        let workers = self.shared.workers();
        let requests = &mut self.owner.requests[at];
        let fold = requests.sessions.fold();
        if requests.burials.is_empty() && fold.ended().next().is_none() {
            return;
        }
        if !requests.is_owned(&self.shared.fences) {
            // The owner asks, and whoever is the owner next.
            requests.burials.clear();
            return;
        }
        let (source, asked_at) = (requests.partition.index, self.steady);
        requests.burials.retain(|(client, epoch), burial| {
            fold.has_ended(client, *epoch) && asked_at.since(burial.asked_at) < ASK_AGAIN
        });
        let mut estates = Vec::new();
        for (client, epoch, ended) in fold.ended() {
            if requests.burials.len() >= ASKED_MAX {
                break;
            }
            let key = (client.clone(), epoch);
            if requests.burials.contains_key(&key) {
                continue;
            }
            requests.burials.insert(key, Burial { asked_at, left: workers, letters: Vec::new() });
            estates.push(Estate {
                worker: self.idx,
                source,
                client: client.clone(),
                epoch,
                asked_at,
                at: ended.at,
                reason: reason(ended.reason),
                wanted: ended.wanted.as_slice().into(),
                done: ended.done.as_slice().into(),
            });
        }
        for estate in estates {
            for worker in 0..workers {
                self.ask(worker, Question::Left(estate.clone()));
            }
        }
    }

    /// A worker asks what our partitions hold for a session that has ended.
    pub(crate) fn left(&mut self, estate: Estate) {
        let log = &self.shared.log;
        let parts = self.owner.data.iter();
        let parts = parts.map(|data| (data.index, Position::ZERO, log.watermark(data.partition))).collect();
        self.owner.searches.push_back(Search { estate, parts, letters: Vec::new() });
        self.owner.dirty = true;
    }

    /// Goes on looking, a bounded number of postings at a time.
    pub(crate) fn search_estates(&mut self) {
        let mut budget = TURN_POSTINGS;
        for _ in 0..self.owner.searches.len() {
            let Some(mut search) = self.owner.searches.pop_front() else { return };
            self.search(&mut search, &mut budget);
            if search.parts.is_empty() {
                let Search { estate: Estate { worker, source, client, epoch, asked_at, .. }, letters, .. } = search;
                self.reply(worker, Answer::Left(Left { source, client, epoch, asked_at, letters }));
            } else {
                self.owner.searches.push_back(search);
            }
            if budget == 0 {
                // There is more to do, and nothing else to wait for.
                self.owner.dirty = true;
                return;
            }
        }
    }

    fn search(&self, search: &mut Search, budget: &mut usize) {
        let Search { estate, parts, letters } = search;
        let filters = || estate.wanted.iter().map(|(filter, _)| filter.as_str());
        let mut behind = Vec::new();
        while *budget > 0
            && let Some((partition, from, until)) = parts.pop()
        {
            let Some(data) = self.owner.data.iter().find(|data| data.index == partition) else { continue };
            let index = data.waiting.fold();
            if data.waiting.position() < until || index.is_short(filters()) {
                behind.push((partition, from, until));
                continue;
            }
            let wanted = estate.wanted.iter();
            let wanted = wanted.map(|(filter, start)| (filter.as_str(), from.max(start.get(partition))));
            let page = index.page(wanted, PAGE);
            *budget = budget.saturating_sub(page.postings.len().max(1));
            if page.postings.len() >= PAGE {
                parts.push((partition, page.next, until));
            }
            let ended_ms = estate.at.as_millis();
            let waiting = page.postings.iter().map(|posting| posting.reference);
            let waiting = waiting.filter(|reference| reference.base_timestamp_ms <= ended_ms);
            for position in waiting.map(|reference| reference.position) {
                if estate.done.binary_search(&(partition, position)).is_ok() {
                    continue;
                }
                match letters.iter_mut().find(|letter| letter.partition == partition) {
                    Some(letter) => (letter.to, letter.count) = (position, letter.count + 1),
                    None => letters.push(Letter {
                        reason: estate.reason.into(),
                        partition,
                        from: position,
                        to: position,
                        count: 1,
                    }),
                }
            }
        }
        parts.extend(behind);
    }

    /// An owner has said what it holds.
    pub(crate) fn left_answer(&mut self, answer: Left) {
        let Left { source, client, epoch, asked_at, letters } = answer;
        let Some(requests) = self.owner.requests.iter_mut().find(|requests| requests.partition.index == source) else {
            return;
        };
        let burial = requests.burials.get_mut(&(client.clone(), epoch));
        let Some(burial) = burial.filter(|burial| burial.asked_at == asked_at && burial.left > 0) else { return };
        burial.left -= 1;
        burial.letters.extend(letters);
        if burial.left == 0 {
            let letters = std::mem::take(&mut burial.letters);
            self.metrics.undelivered.increment(letters.iter().map(|letter| letter.count).sum());
            self.append_event(Class::All, client.as_str(), source, &Event::Buried { epoch, letters });
        }
    }
}
