//! The owner's side of sleeping sessions: which filters are wanted, what waits for them.

use crate::{
    Worker,
    folds::{Change, CloseReason, Event, Lost, Positions},
    jobs::Work,
    nodes::EndedByLog,
    owner::{Answer, Page, Question},
};
use floodplain_log::{Read, ReadError};
use floodplain_mqtt::DisconnectCode;
use floodplain_types::{Class, Position, TopicFilter};
use std::{sync::Arc, time::Duration};

/// Postings in one answer, of all partitions together.
const PAGE: usize = 64;
/// How often what all sessions have passed is looked for.
const SCAN_EVERY: Duration = Duration::from_secs(10);
/// Sessions looked at in one tick.
const SCAN_SESSIONS: usize = 2_000;

impl Worker {
    /// Tells all owners what the sessions of this worker want; once, after the replay.
    pub(crate) fn tell_filters(&mut self) {
        for at in 0..self.owner.requests.len() {
            let requests = &mut self.owner.requests[at];
            let source = requests.partition.index;
            let sessions = requests.sessions.fold_mut();
            sessions.begin_scan();
            let lowest = sessions.scan_lowest(usize::MAX).unwrap_or_default();
            for (filter, start) in lowest {
                self.tell_all(|| Question::Wanted { source, filter: filter.clone(), start: start.clone(), only: None });
            }
            self.tell_all(|| Question::Told);
        }
    }

    fn tell_all(&mut self, question: impl Fn() -> Question) {
        for worker in 0..self.shared.workers() {
            self.ask(worker, question());
        }
    }

    /// Passes on what has changed in the sessions of a partition.
    pub(crate) fn sessions_changed(&mut self, source: u32, changes: Vec<Change>) {
        for change in changes {
            match change {
                Change::FilterWanted { filter, start } => {
                    self.tell_all(|| Question::Wanted {
                        source,
                        filter: filter.clone(),
                        start: start.clone(),
                        only: None,
                    });
                }
                Change::FilterDropped { filter } => {
                    self.tell_all(|| Question::Dropped { source, filter: filter.clone(), only: None });
                }
                Change::Opened { client, run, taken_over, .. } if run != self.shared.run => {
                    self.node_heard(source, run);
                    if let Some(epoch) = taken_over {
                        let why = DisconnectCode::SessionTakenOver;
                        self.ended_by_the_log(client.as_str(), EndedByLog { epoch, why });
                    }
                }
                Change::Alive { run } => self.node_heard(source, run),
                Change::Died { run } => self.node_died(source, run),
                Change::Closed { client, epoch, reason: CloseReason::ServerDied } => {
                    let why = DisconnectCode::ServerBusy;
                    self.ended_by_the_log(client.as_str(), EndedByLog { epoch, why });
                }
                // Connections end where they live: on this worker, before the log says so.
                Change::Opened { .. } | Change::Closed { .. } | Change::Ended { .. } => {}
            }
        }
    }

    /// Looks, a part at a time, for the lowest positions that sessions need: what is before them
    /// leaves the index.
    pub(crate) fn scan_sessions(&mut self) {
        if self.steady.since(self.owner.scanned_at) > SCAN_EVERY {
            self.owner.scanned_at = self.steady;
            for requests in self.owner.requests.iter_mut().filter(|requests| !requests.is_scanning) {
                if requests.sessions.fold().filters().next().is_some() {
                    requests.sessions.fold_mut().begin_scan();
                    requests.is_scanning = true;
                }
            }
        }
        for at in 0..self.owner.requests.len() {
            let requests = &mut self.owner.requests[at];
            if !requests.is_scanning {
                continue;
            }
            let source = requests.partition.index;
            if let Some(lowest) = requests.sessions.fold_mut().scan_lowest(SCAN_SESSIONS) {
                requests.is_scanning = false;
                let lowest: Arc<[(TopicFilter, Positions)]> = lowest.into();
                self.tell_all(|| Question::Lowest { source, lowest: lowest.clone() });
            }
        }
        for at in 0..self.owner.data.len() {
            let data = &mut self.owner.data[at];
            let start = self.shared.log.start(data.partition);
            let index = data.waiting.fold_mut();
            if start > data.start {
                data.start = start;
                index.retention(start);
            }
            let partition = data.index;
            for lost in index.take_lost() {
                self.tell_all(|| Question::Lost { partition, lost: lost.clone() });
            }
        }
    }

    /// Questions about the index, and what is told to it.
    pub(crate) fn index_question(&mut self, question: Question) {
        let is_of = |only: Option<u32>, partition: u32| only.is_none_or(|only| only == partition);
        match question {
            Question::Retained { .. } | Question::Clients(_) | Question::RetainedOutside(_) => {}
            Question::Waiting { .. } => {
                self.owner.asked.push(question);
                self.owner.dirty = true;
            }
            Question::Wanted { source, filter, start, only } => {
                for data in self.owner.data.iter_mut().filter(|data| is_of(only, data.index)) {
                    let position = data.waiting.position();
                    data.interest.wanted(data.waiting.fold_mut(), position, source, &filter, &start);
                    data.wants_backfill = true;
                    data.is_dirty = true;
                }
                self.owner.dirty = true;
            }
            Question::Dropped { source, filter, only } => {
                for data in self.owner.data.iter_mut().filter(|data| is_of(only, data.index)) {
                    data.interest.dropped(data.waiting.fold_mut(), source, &filter);
                }
            }
            Question::Lowest { source, lowest } => {
                for data in &mut self.owner.data {
                    data.interest.lowest(data.waiting.fold_mut(), source, &lowest);
                }
            }
            Question::Told => {
                self.owner.told += 1;
                if self.owner.told == self.shared.requests.partitions {
                    for data in &mut self.owner.data {
                        data.interest.settle(data.waiting.fold_mut());
                    }
                }
            }
            Question::Left(estate) => self.left(estate),
            Question::Lost { partition, lost } => self.lost(partition, &lost),
        }
    }

    /// Answers the sessions that asked what waits for them; those whose filters are still being
    /// looked for are asked again later.
    pub(crate) fn answer_waiting(&mut self) {
        for question in std::mem::take(&mut self.owner.asked) {
            let Question::Waiting { worker, conn, wanted, parts } = question else { continue };
            let mut pages = Vec::new();
            let mut later = Vec::new();
            let mut room = PAGE;
            for (partition, from) in parts {
                let page = match room {
                    // Its turn comes when the session has those.
                    0 => Some(Page { partition, postings: Vec::new(), next: from, is_live: false }),
                    _ => self.page(partition, from, &wanted, room),
                };
                room -= page.as_ref().map_or(0, |page| page.postings.len());
                match page {
                    Some(page) => pages.push(page),
                    None => later.push((partition, from)),
                }
            }
            if !later.is_empty() {
                self.owner.asked.push(Question::Waiting { worker, conn, wanted, parts: later });
            }
            if !pages.is_empty() {
                self.reply(worker, Answer::Waiting { conn, pages });
            }
        }
    }

    fn page(&self, partition: u32, from: Position, wanted: &[(TopicFilter, Positions)], limit: usize) -> Option<Page> {
        let data = self.owner.data.iter().find(|data| data.index == partition)?;
        // The log's start counts as known: what retention has taken was reported.
        let from = from.max(self.shared.log.start(data.partition));
        let filters = wanted.iter().map(|(filter, start)| (filter.as_str(), from.max(start.get(partition))));
        let page = data.waiting.fold().page(filters, limit);
        let position = data.waiting.position();
        if data.waiting.fold().is_short(wanted.iter().map(|(filter, _)| filter.as_str())) {
            return None;
        }
        // An index that is short of records is complete up to its own position.
        let next = if page.postings.len() < limit { position } else { page.next };
        let is_live = page.postings.is_empty() && position == data.delivered;
        if page.postings.is_empty() && !is_live {
            return None;
        }
        Some(Page { partition, postings: page.postings, next, is_live })
    }

    /// Reads the log for filters that are wanted from before what the index knows.
    pub(crate) fn backfill(&mut self, at: usize) {
        let data = &mut self.owner.data[at];
        if data.is_backfilling || !data.wants_backfill {
            return;
        }
        match data.waiting.fold_mut().needs_backfill() {
            Some((from, _)) => {
                data.is_backfilling = true;
                let (index, partition) = (data.index, data.partition);
                self.run_job(Work::Backfill { index, partition, from });
            }
            None => data.wants_backfill = false,
        }
    }

    pub(crate) fn backfilled(&mut self, partition: u32, read: Result<Read, ReadError>) {
        let Some(data) = self.owner.data.iter_mut().find(|data| data.index == partition) else { return };
        data.is_backfilling = false;
        let index = data.waiting.fold_mut();
        match read {
            Ok(read) => index.backfill(&read),
            Err(ReadError::Trimmed { start, .. }) => {
                index.retention(start);
                index.backfill(&Read { next: start, ..Read::default() });
            }
            Err(ReadError::Corrupt { next, reason, .. }) => {
                tracing::error!(%next, reason, "what waits for sessions is damaged, going on behind it");
                let from = index.needs_backfill().map_or(next, |(from, _)| from);
                index.backfill(&Read { next, damaged: vec![from..next], ..Read::default() });
            }
            Err(error) => {
                // It is tried again at the next tick; until then the sessions wait.
                tracing::error!(%error, "what waits for sessions cannot be read");
                return;
            }
        }
        data.is_dirty = true;
        self.owner.dirty = true;
    }

    /// Messages were given up: the sessions of our partitions that needed them are to be told.
    fn lost(&mut self, partition: u32, lost: &Lost) {
        for at in 0..self.owner.requests.len() {
            let requests = &self.owner.requests[at];
            if requests.sessions.fold().keeps(&lost.filter) {
                let index = requests.partition.index;
                self.append_event(Class::All, "", index, &Event::Lost { partition, lost: lost.clone() });
            }
        }
    }
}
