//! What workers ask each other of their partitions, and what they answer.

use super::DataPartition;
use crate::{
    ConnId, Worker,
    estate::{Estate, Left},
    folds::{Lost, Positions, Posting, RetainedPage},
};
use floodplain_types::{Position, TopicFilter};
use std::sync::Arc;

/// What one worker asks another.
#[derive(Debug)]
pub(crate) enum Question {
    /// A page of what your partitions retain, once you have folded all that you have appended.
    ///
    /// Goes to the asking worker first, which then asks the others: they must also have folded what it has appended to
    /// their partitions, at these positions.
    Retained {
        worker: u32,
        conn: ConnId,
        filter: TopicFilter,
        after: Option<Arc<str>>,
        limit: usize,
        behind: Vec<(u32, Position)>,
    },
    /// What waits for these filters in these partitions, from there on.
    Waiting {
        worker: u32,
        conn: ConnId,
        /// Filters, and the first position that each sees.
        wanted: Arc<[(TopicFilter, Positions)]>,
        parts: Vec<(u32, Position)>,
    },
    /// A session of `source` waits for a filter from these positions on.
    Wanted { source: u32, filter: TopicFilter, start: Positions, only: Option<u32> },
    /// No session of `source` does any more.
    Dropped { source: u32, filter: TopicFilter, only: Option<u32> },
    /// What the sessions of `source` still need at the lowest.
    Lowest { source: u32, lowest: Arc<[(TopicFilter, Positions)]> },
    /// A partition of `requests` has told all its filters.
    Told,
    /// A session has ended: what still waits for it?
    Left(Estate),
    /// What is known of clients, asked from outside.
    Clients(crate::roster::Asked),
    /// What is retained, asked from outside.
    RetainedOutside(crate::roster::AskedRetained),
    /// Messages of a filter in a partition were given up: who needed them?
    Lost { partition: u32, lost: Lost },
}

/// A part of what waits in one partition.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) partition: u32,
    pub(crate) postings: Vec<Posting>,
    /// Where to go on.
    pub(crate) next: Position,
    /// Nothing is left before `next`, and all from there on comes live.
    pub(crate) is_live: bool,
}

/// What it is told.
#[derive(Debug)]
pub(crate) enum Answer {
    Retained { conn: ConnId, pages: Vec<RetainedPage> },
    Waiting { conn: ConnId, pages: Vec<Page> },
    Left(Left),
}

/// A question that waits until what was appended before it is folded.
#[derive(Debug)]
pub(super) struct Barrier {
    /// Units with smaller tags must have ended.
    mark: u64,
    /// Then so many batches of each data partition must have been folded.
    counts: Option<Vec<u64>>,
    question: Question,
}

impl Worker {
    /// Answers a question, now or when what was appended before it is folded.
    pub(crate) fn question(&mut self, question: Question) {
        let question = match question {
            Question::Retained { .. } => question,
            Question::Clients(asked) => return self.clients_question(asked),
            Question::RetainedOutside(asked) => return self.retained_outside(asked),
            other => return self.index_question(other),
        };
        self.submit();
        let mark = self.appends.mark();
        self.owner.barriers.push_back(Barrier { mark, counts: None, question });
        self.owner.dirty = true;
    }

    pub(super) fn lift_barriers(&mut self) {
        let oldest = self.appends.oldest();
        while let Some(mut barrier) = self.owner.barriers.pop_front() {
            if barrier.mark > oldest {
                self.owner.barriers.push_front(barrier);
                return;
            }
            let data = &self.owner.data;
            let counts = barrier.counts.get_or_insert_with(|| data.iter().map(|data| data.sent_in).collect());
            let Question::Retained { behind, .. } = &barrier.question else { continue };
            let is_behind = |data: &DataPartition| {
                behind.iter().any(|(index, base)| *index == data.index && data.retained.position() <= *base)
            };
            if data.iter().zip(counts).any(|(data, count)| data.sent_out < *count || is_behind(data)) {
                self.owner.barriers.push_front(barrier);
                return;
            }
            self.answer_question(barrier.question);
        }
    }

    fn answer_question(&mut self, question: Question) {
        let Question::Retained { worker, conn, filter, after, limit, .. } = question else { return };
        if worker == self.idx {
            let behind: Vec<_> = self.owner.sent_away.iter().map(|(index, base)| (*index, *base)).collect();
            for other in (0..self.shared.workers()).filter(|other| *other != worker) {
                let (filter, after, behind) = (filter.clone(), after.clone(), behind.clone());
                self.ask(other, Question::Retained { worker, conn, filter, after, limit, behind });
            }
        }
        let page = |data: &DataPartition| data.retained.fold().page(filter.as_str(), after.as_deref(), limit);
        let pages = self.owner.data.iter().map(page).collect();
        self.reply(worker, Answer::Retained { conn, pages });
    }

    /// An answer has come.
    pub(crate) fn answer(&mut self, answer: Answer) {
        match answer {
            Answer::Retained { conn, pages } => self.retained_answer(conn, pages),
            Answer::Waiting { conn, pages } => self.waiting_answer(conn, pages),
            Answer::Left(left) => self.left_answer(left),
        }
    }
}
