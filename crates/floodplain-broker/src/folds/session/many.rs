//! What one event does to many sessions: item by item, in as many steps as it takes.

use super::{Ended, SessionFold, emit};
use crate::folds::{CloseReason, Gone, Letter, Lost, LostReason, StreamNames};
use floodplain_fold::Outputs;
use floodplain_types::{ClientId, Position, Timestamp};
use std::{
    ops::Bound::{Excluded, Unbounded},
    time::Duration,
};

/// How long letters about what the index has given up are gathered, so that a session which sleeps through a flood is
/// not told of each part.
const GATHER: Duration = Duration::from_secs(1);
/// Of the sessions that one loss concerns each is told so much later than the one before.
const GATHER_STEP: Duration = Duration::from_millis(10);

/// Work that is begun.
#[derive(Debug)]
pub(super) enum Many {
    /// Connections of some runs are gone. Done up to a client.
    Gone { gone: Gone, now: Timestamp, done: Option<ClientId> },
    /// Messages were given up that sessions with the filter may need. Done up to a client; the next is told at `due`.
    Lost { partition: u32, lost: Lost, due: Timestamp, done: Option<ClientId> },
    /// The same of sessions that have ended.
    LostOfEnded { partition: u32, lost: Lost, done: Option<(ClientId, Position)> },
}

impl Many {
    pub(super) const fn gone(gone: Gone, now: Timestamp) -> Self {
        Self::Gone { gone, now, done: None }
    }

    pub(super) fn lost(partition: u32, lost: Lost, now: Timestamp) -> Self {
        Self::Lost { partition, lost, due: now + GATHER, done: None }
    }
}

impl SessionFold {
    /// Does as much of this work as the step may, and keeps the rest.
    pub(super) fn work(&mut self, many: Many, out: &mut Outputs) {
        self.many = match many {
            Many::Gone { gone, now, done } => self.gone(gone, now, done, out),
            Many::Lost { partition, lost, due, done } => self.lost(partition, lost, due, done, out),
            Many::LostOfEnded { partition, lost, done } => self.lost_of_ended(partition, lost, done, out),
        };
    }

    fn gone(&mut self, gone: Gone, now: Timestamp, mut done: Option<ClientId>, out: &mut Outputs) -> Option<Many> {
        loop {
            let from = done.clone().map_or(Unbounded, Excluded);
            let mut sessions = self.sessions.range::<ClientId, _>((from, Unbounded));
            let lost = loop {
                let (client, session) = sessions.next()?;
                if !out.spend() {
                    return Some(Many::Gone { gone, now, done });
                }
                done = Some(client.clone());
                if session.is_connected && gone.has(session.run) {
                    break client.clone();
                }
            };
            self.end_connection(&lost, CloseReason::ServerDied, now, out);
        }
    }

    /// The index has given up messages: notes it for the sessions that needed them, which then do so no more. Said
    /// again, it changes nothing.
    fn lost(
        &mut self,
        partition: u32,
        lost: Lost,
        mut due: Timestamp,
        mut done: Option<ClientId>,
        out: &mut Outputs,
    ) -> Option<Many> {
        while let Some(client) = self.filters.get(&lost.filter).and_then(|kept| kept.after(done.as_ref())) {
            if !out.spend() {
                return Some(Many::Lost { partition, lost, due, done });
            }
            if let Some(mut session) = self.remove(&client) {
                if let Some(from) = session.lose(partition, &lost) {
                    session.letters.note(letter(partition, &lost, from));
                    session.letters_at.get_or_insert(due);
                    due = due + GATHER_STEP;
                }
                self.insert(client.clone(), session);
            }
            done = Some(client);
        }
        self.lost_of_ended(partition, lost, None, out)
    }

    fn lost_of_ended(
        &mut self,
        partition: u32,
        lost: Lost,
        done: Option<(ClientId, Position)>,
        out: &mut Outputs,
    ) -> Option<Many> {
        if self.filters.get(&lost.filter).is_none_or(|kept| !kept.has_ended()) {
            return None;
        }
        let mut done = done;
        let from = done.clone().map_or(Unbounded, Excluded);
        for (key, ended) in self.ended.range_mut::<(ClientId, Position), _>((from, Unbounded)) {
            if !out.spend() {
                return Some(Many::LostOfEnded { partition, lost, done });
            }
            if let Some(copy) = &mut self.copy {
                copy.touch_ended(key, Some(ended));
            }
            ended.lose(&key.0, partition, &lost, &self.names, out);
            done = Some(key.clone());
        }
        None
    }
}

impl Ended {
    fn lose(&mut self, client: &ClientId, partition: u32, lost: &Lost, names: &StreamNames, out: &mut Outputs) {
        // As in [`Session::lose`]: it may be said again.
        let told = (partition, lost.last);
        let is_damage = lost.reason == LostReason::Damage;
        if is_damage && self.done.binary_search(&told).is_ok() {
            return;
        }
        let mut is_told = false;
        for (_, from) in self.wanted.iter_mut().filter(|(filter, _)| *filter == lost.filter) {
            let needed = from.get(partition);
            if needed <= lost.last {
                emit(client, &[letter(partition, lost, needed)], names, out);
                is_told = true;
                if !is_damage {
                    *from = from.with(partition, lost.last.next());
                }
            }
        }
        if is_told
            && is_damage
            && let Err(at) = self.done.binary_search(&told)
        {
            self.done.insert(at, told);
        }
    }
}

fn letter(partition: u32, lost: &Lost, from: Position) -> Letter {
    Letter {
        reason: lost.reason.text().into(),
        partition,
        from: from.max(lost.first),
        to: lost.last,
        count: lost.count,
    }
}
