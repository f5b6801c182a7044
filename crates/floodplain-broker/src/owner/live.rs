//! Live delivery after commit, in offset order, of what this worker and others have appended.

use super::{DataPartition, Owner};
use crate::{
    Worker,
    append::Sent,
    publication::{Placed, Publication},
};
use floodplain_log::{MessageRef, Partition, Read, ReadBatch};
use floodplain_types::{Position, Timestamp};
use std::sync::Arc;

/// Publications of a worker that wait to be folded. Beyond that they are read from the log again, as those of others are.
pub(crate) const SENT_BYTES_MAX: usize = 32 << 20;
/// Batches of those that are known together.
const UNKEPT_BATCHES: u64 = 1024;

impl Owner {
    /// A unit with these publications is committed.
    pub(crate) fn sent(&mut self, partition: Partition, sent: Sent) {
        let has_room = self.sent_bytes() + sent.bytes <= SENT_BYTES_MAX;
        if let Some(data) = self.data.iter_mut().find(|data| data.partition == partition) {
            data.sent_in += 1;
            if sent.base < data.delivered {
                // Read before it was acknowledged, and delivered then.
                data.sent_out += 1;
            } else {
                data.keep(sent, has_room);
            }
        }
        self.dirty = true;
    }

    /// What the publications hold that wait to be folded.
    pub(crate) fn sent_bytes(&self) -> usize {
        self.data.iter().map(|data| data.sent_bytes).sum()
    }

    /// A unit with a batch for a data partition of another worker has ended.
    pub(crate) fn sent_away(&mut self, partition: u32, base: Position) {
        let last = self.sent_away.entry(partition).or_default();
        *last = base.max(*last);
    }
}

impl DataPartition {
    fn keep(&mut self, mut sent: Sent, has_room: bool) {
        if !has_room {
            (sent.publications, sent.bytes) = (None, 0);
            let last = self.sent.back_mut().filter(|last| last.publications.is_none());
            if let Some(last) = last.filter(|last| last.batches < UNKEPT_BATCHES) {
                last.batches += 1;
                last.base = sent.base;
                return;
            }
        }
        self.sent_bytes += sent.bytes;
        self.sent.push_back(sent);
    }

    fn take_sent(&mut self, is_folded: impl FnOnce(&Sent) -> bool) -> Option<Sent> {
        let sent = self.sent.pop_front_if(|sent| is_folded(sent))?;
        self.sent_out += sent.batches;
        self.sent_bytes -= sent.bytes;
        Some(sent)
    }

    /// The publications of a batch: as they were sent, or decoded if somebody else appended it.
    fn publications(&mut self, batch: &ReadBatch, listener: Option<&str>) -> Vec<Placed> {
        while self.take_sent(|sent| sent.base < batch.base).is_some() {}
        // An engine may leave out offsets between its records: then only they know where they are.
        let is_dense = batch.batch.last_offset_delta() + 1 == batch.batch.record_count();
        let sent = self.take_sent(|sent| sent.base == batch.base);
        // And one that cuts batches otherwise may have others' records there.
        let is_same = |sent: &Sent| sent.checksum == batch.batch.checksum();
        if let Some(publications) = sent.filter(is_same).and_then(|sent| sent.publications)
            && is_dense
        {
            let base = batch.base;
            let place = |delta: u32| Position { offset: base.offset + u64::from(delta), ..base };
            let placed = publications.into_iter();
            return placed.map(|(delta, publication)| Placed { position: place(delta), publication }).collect();
        }
        decode(batch, self.index, listener)
    }
}

/// Reads the messages of a batch; what is no message is nobody's to deliver.
fn decode(batch: &ReadBatch, partition: u32, listener: Option<&str>) -> Vec<Placed> {
    let Ok(records) = batch.batch.records() else { return Vec::new() };
    let messages = records.iter().map_while(Result::ok).filter_map(|record| {
        let message = MessageRef::parse(&record).ok()?;
        // QoS 0 went out when it came in, unless another server has taken it, or a fold has emitted it: those have dedup ids.
        if message.qos == 0 && message.dedup_id.is_none() && (listener.is_none() || message.listener == listener) {
            return None;
        }
        let ingest = Timestamp::from_millis(batch.batch.timestamp_ms(&record));
        let publisher = message.publisher_or_key().into();
        let publication = Publication::new(&message, message.user_properties(), partition, ingest, publisher);
        Some(Placed { position: batch.position(&record), publication: Arc::new(publication) })
    });
    messages.collect()
}

impl Worker {
    /// Posts what has gathered for another worker.
    pub(crate) fn post_committed(&mut self, worker: u32) {
        for (partition, batch) in std::mem::take(&mut self.owner.outgoing[worker as usize]) {
            self.shared.mailboxes[worker as usize].post_committed(partition, batch);
        }
    }

    /// Live delivery of what was read, in offset order.
    pub(super) fn deliver_read(&mut self, at: usize, read: &Read, repeats: &[Position]) {
        let shared = self.shared.clone();
        for batch in &read.batches {
            let data = &mut self.owner.data[at];
            let partition = data.index;
            let delivered = data.delivered;
            let placed = data.publications(batch, shared.listener.as_deref());
            let is_new =
                |placed: &Placed| placed.position >= delivered && repeats.binary_search(&placed.position).is_err();
            for placed in placed.into_iter().filter(is_new) {
                self.route_committed(partition, placed);
            }
        }
        let data = &mut self.owner.data[at];
        data.delivered = data.delivered.max(read.next);
    }

    fn route_committed(&mut self, partition: u32, placed: Placed) {
        if placed.publication.qos == 0 {
            self.route_at_once(&placed.publication);
            return;
        }
        let (workers, local) = self.router.find(&self.shared.routes, placed.publication.topic());
        let mut others = workers & !(1 << self.idx);
        while others != 0 {
            let worker = others.trailing_zeros() as usize;
            self.owner.outgoing[worker].entry(partition).or_default().push(placed.clone());
            others &= others - 1;
        }
        if !local.is_empty() {
            self.deliver_committed(partition, &placed, &local);
        }
    }
}
