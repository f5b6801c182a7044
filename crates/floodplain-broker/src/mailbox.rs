//! What one worker hears from the others and from the log: batches, one wake-up each.

use crate::{
    jobs::JobResult,
    owner::{Answer, Question},
    publication::{Placed, Publication},
};
use floodplain_log::{Completion, CompletionSink, Partition, WatermarkSink};
use floodplain_types::Position;
use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

/// Bytes of publications that may wait in one mailbox. Beyond it QoS 0 is dropped and counted, and
/// QoS 1 and 2 are read from the log later.
const MAILBOX_BYTES_MAX: usize = 8 << 20;

/// One thing to do, in the order it was posted.
#[derive(Debug)]
pub(crate) enum Mail {
    /// QoS 0, as it came in.
    AtOnce(Vec<Arc<Publication>>),
    /// QoS 1 and 2 of one data partition after their commit, in offset order. Known by its index among all, here and below.
    Committed {
        partition: u32,
        batch: Vec<Placed>,
    },
    /// From this position on, publications of the partition were not posted for want of room.
    Gap {
        partition: u32,
        from: Position,
    },
    Question(Question),
    Answer(Answer),
    JobDone(JobResult),
    /// Stop: say good-bye to the clients, then settle.
    Stop,
}

/// What was in a mailbox.
#[derive(Debug, Default)]
pub(crate) struct Letters {
    pub(crate) completions: Vec<Completion>,
    /// The newest of each partition.
    pub(crate) watermarks: Vec<(Partition, Position)>,
    pub(crate) mail: Vec<Mail>,
    bytes: usize,
    /// Partitions with a [`Mail::Gap`] on its way.
    gaps: Vec<u32>,
}

/// The mailbox of one worker. Shared by its worker, who takes, and all others, who post.
pub struct Mailbox {
    letters: Mutex<Letters>,
    wake: OnceLock<Box<dyn Fn() + Send + Sync>>,
    worker: u32,
    workers: u32,
}

impl fmt::Debug for Mailbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mailbox").field("worker", &self.worker).finish_non_exhaustive()
    }
}

impl Mailbox {
    pub(crate) fn new(worker: u32, workers: u32) -> Self {
        Self { letters: Mutex::default(), wake: OnceLock::new(), worker, workers }
    }

    /// Sets what wakes the worker's thread; only the first call counts.
    pub fn on_mail(&self, wake: impl Fn() + Send + Sync + 'static) {
        // A second thread for one worker would be a fault of the program; the first one stays.
        drop(self.wake.set(Box::new(wake)));
    }

    fn lock(&self) -> MutexGuard<'_, Letters> {
        self.letters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ring(&self) {
        if let Some(wake) = self.wake.get() {
            wake();
        }
    }

    /// Takes everything, leaving the (empty) vectors of `letters` to be filled next.
    pub(crate) fn take(&self, letters: &mut Letters) {
        debug_assert!(letters.mail.is_empty() && letters.completions.is_empty() && letters.watermarks.is_empty());
        letters.bytes = 0;
        letters.gaps.clear();
        std::mem::swap(&mut *self.lock(), letters);
    }

    /// Posts without a limit of its own: answers and questions are bounded by who asks.
    pub(crate) fn post(&self, mail: impl IntoIterator<Item = Mail>) {
        self.lock().mail.extend(mail);
        self.ring();
    }

    /// Posts QoS 0 publications; returns how many were dropped because the mailbox is full.
    pub(crate) fn post_at_once(&self, batch: Vec<Arc<Publication>>) -> usize {
        let bytes: usize = batch.iter().map(|publication| publication.len_bytes()).sum();
        let mut letters = self.lock();
        if letters.bytes + bytes > MAILBOX_BYTES_MAX {
            return batch.len();
        }
        letters.bytes += bytes;
        letters.mail.push(Mail::AtOnce(batch));
        drop(letters);
        self.ring();
        0
    }

    /// Posts committed publications of one partition, or that there is a gap if there is no room.
    pub(crate) fn post_committed(&self, partition: u32, batch: Vec<Placed>) {
        let Some(first) = batch.first() else { return };
        let bytes: usize = batch.iter().map(|placed| placed.publication.len_bytes()).sum();
        let mut letters = self.lock();
        let has_gap = letters.gaps.contains(&partition);
        if has_gap || letters.bytes + bytes > MAILBOX_BYTES_MAX {
            if has_gap {
                // Whoever comes to the gap leaves live delivery from there on anyway.
                return;
            }
            letters.gaps.push(partition);
            let from = first.position;
            letters.mail.push(Mail::Gap { partition, from });
        } else {
            letters.bytes += bytes;
            letters.mail.push(Mail::Committed { partition, batch });
        }
        drop(letters);
        self.ring();
    }
}

impl CompletionSink for Mailbox {
    fn complete(&self, mut completions: Vec<Completion>) {
        self.lock().completions.append(&mut completions);
        self.ring();
    }
}

impl WatermarkSink for Mailbox {
    fn advanced(&self, watermarks: &[(Partition, Position)]) {
        let mut mine = watermarks.iter().filter(|(p, _)| p.index % self.workers == self.worker).peekable();
        if mine.peek().is_none() {
            return;
        }
        let mut letters = self.lock();
        for (partition, position) in mine {
            match letters.watermarks.iter_mut().find(|(p, _)| p == partition) {
                Some((_, newest)) => *newest = (*newest).max(*position),
                None => letters.watermarks.push((*partition, *position)),
            }
        }
        drop(letters);
        self.ring();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use floodplain_log::MessageRef;
    use floodplain_types::Timestamp;

    fn publication(bytes: usize) -> Arc<Publication> {
        let payload = vec![0; bytes];
        let message = MessageRef { topic: "t", payload: &payload, qos: 1, ..MessageRef::default() };
        Arc::new(Publication::new(&message, [].into_iter(), 0, Timestamp(0), "p".into()))
    }

    #[test]
    fn a_full_mailbox_drops_qos_0_and_leaves_a_gap_for_the_rest() {
        let mailbox = Mailbox::new(0, 1);
        let big = publication(MAILBOX_BYTES_MAX / 2);
        let placed = |offset| Placed { position: Position::new(0, offset), publication: big.clone() };
        assert_eq!(mailbox.post_at_once(vec![big.clone()]), 0);
        assert_eq!(mailbox.post_at_once(vec![big.clone()]), 1);
        mailbox.post_committed(3, vec![placed(7)]);
        mailbox.post_committed(3, vec![placed(8)]);
        let mut letters = Letters::default();
        mailbox.take(&mut letters);
        assert_eq!(letters.mail.len(), 2);
        assert!(matches!(letters.mail[1], Mail::Gap { partition: 3, from } if from.offset == 7));
        letters.mail.clear();
        mailbox.post_committed(3, vec![placed(9)]);
        mailbox.take(&mut letters);
        assert!(matches!(&letters.mail[..], [Mail::Committed { partition: 3, .. }]));
    }

    #[test]
    fn only_own_partitions_and_the_newest_watermark() {
        let mailbox = Mailbox::new(1, 2);
        let partition = |index| Partition { stream: 0, index };
        mailbox.advanced(&[(partition(0), Position::new(0, 9)), (partition(1), Position::new(0, 5))]);
        mailbox.advanced(&[(partition(1), Position::new(0, 6))]);
        let mut letters = Letters::default();
        mailbox.take(&mut letters);
        assert_eq!(letters.watermarks, [(partition(1), Position::new(0, 6))]);
    }
}
