//! Gives records to a fold without a log, the way a runner does.

use super::Event;
use floodplain_fold::{Fold, Input, Output, Outputs, STEP_ITEMS, fold_in_steps};
use floodplain_log::{Batch, BatchBuilder, Compression, MessageRef, ReadBatch};
use floodplain_types::{Position, Timestamp};

#[derive(Debug)]
pub(crate) struct Feed<F> {
    pub(crate) fold: F,
    pub(crate) next: u64,
    pub(crate) log_time: i64,
    /// Items of work in one step.
    pub(crate) step_items: usize,
    /// The snapshot when a copy began, and so much of the copy.
    pub(crate) copying: Option<(Vec<u8>, Vec<u8>)>,
}

impl<F: Default> Default for Feed<F> {
    fn default() -> Self {
        Self { fold: F::default(), next: 0, log_time: 0, step_items: STEP_ITEMS, copying: None }
    }
}

pub(crate) fn seconds(s: i64) -> Timestamp {
    Timestamp::from_millis(s * 1000)
}

impl<F: Fold> Feed<F> {
    /// Folds one batch at this time in seconds; gives the position of its first record and what
    /// was emitted.
    pub(crate) fn batch(&mut self, batch: Batch) -> (Position, Vec<Output>) {
        let base = Position::new(0, self.next);
        self.next += u64::from(batch.last_offset_delta()) + 1;
        let batch = ReadBatch { base, batch, at: self.next * 1000 };
        let (mut out, mut emitted) = (Outputs::default(), Vec::new());
        for record in &batch.batch.records().unwrap() {
            let record = record.unwrap();
            let position = batch.position(&record);
            self.log_time = self.log_time.max(batch.batch.timestamp_ms(&record));
            let log_time = Timestamp::from_millis(self.log_time);
            let input = Input { partition: 3, position, log_time, record: &record, batch: &batch };
            fold_in_steps(&mut self.fold, &input, &mut out, self.step_items);
            emitted.extend(out.drain());
        }
        (base, emitted)
    }

    /// An event of a client; an empty client is for the whole partition.
    pub(crate) fn event(&mut self, at_s: i64, client: &str, event: &Event) -> (Position, Vec<Output>) {
        self.event_with_id(at_s, client, event, None)
    }

    pub(crate) fn event_with_id(
        &mut self,
        at_s: i64,
        client: &str,
        event: &Event,
        id: Option<&str>,
    ) -> (Position, Vec<Output>) {
        let mut builder = BatchBuilder::new();
        let key = (!client.is_empty()).then_some(client.as_bytes());
        let headers: Vec<_> = id.into_iter().map(|id| ("fp.x", id.as_bytes())).collect();
        builder.push(at_s * 1000, key, Some(&event.encode()), headers).unwrap();
        self.batch(builder.finish(Compression::None).unwrap())
    }

    pub(crate) fn message(&mut self, at_s: i64, message: &MessageRef<'_>) -> Position {
        self.batch(message_batch(at_s, message)).0
    }

    /// Goes on with a copy of the state, or begins one: about `len` bytes. A whole one must be what the state was.
    pub(crate) fn copy_on(&mut self, len: usize) {
        if self.copying.is_none() {
            self.copying = Some((self.bytes(), Vec::new()));
            self.fold.begin_copy();
        }
        let Some((expected, copy)) = &mut self.copying else { return };
        let max_len = copy.len() + len.max(1);
        if self.fold.copy_part(copy, max_len) {
            assert!(expected == copy, "the copy is not what the state was when it began");
            self.copying = None;
        }
    }

    /// Copies the rest.
    pub(crate) fn copy_all(&mut self) {
        while self.copying.is_some() {
            self.copy_on(1);
        }
    }

    /// The state was replaced, and the copy is gone with it.
    pub(crate) fn drop_copy(&mut self) {
        self.copying = None;
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.fold.snapshot(&mut bytes);
        bytes
    }
}

pub(crate) fn message_batch(at_s: i64, message: &MessageRef<'_>) -> Batch {
    let mut builder = BatchBuilder::new();
    message.write(&mut builder, at_s * 1000, std::iter::empty()).unwrap();
    builder.finish(Compression::None).unwrap()
}

pub(crate) fn message<'a>(key: &'a str, topic: &'a str, payload: &'a [u8], qos: u8) -> MessageRef<'a> {
    MessageRef { key: key.as_bytes(), topic, payload, qos, ..MessageRef::default() }
}
