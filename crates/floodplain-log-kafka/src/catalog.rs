//! Which streams there are, and in which order they came: the records of one topic.

use crate::topic;
use floodplain_log::Stream;
use floodplain_types::{PartitionId, StreamId};
use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

/// The value of a record of the topic, as `docs/formats/kafka-streams.md` says it.
pub(crate) mod v1 {
    use floodplain_types::{StreamId, StreamName, TenantId};
    use serde::{Deserialize, Serialize};

    const VERSION: u32 = 1;

    #[derive(Debug, Serialize, Deserialize)]
    pub(crate) struct Entry {
        version: u32,
        tenant: String,
        stream: String,
        generation: u32,
        partitions: u32,
    }

    impl Entry {
        pub(crate) fn encode(id: &StreamId, partitions: u32) -> Vec<u8> {
            let (tenant, stream) = (id.tenant.to_string(), id.stream.to_string());
            let entry = Self { version: VERSION, tenant, stream, generation: id.generation, partitions };
            serde_json::to_vec(&entry).expect("a struct of text and numbers is JSON")
        }

        pub(crate) fn decode(value: &[u8]) -> Result<(StreamId, u32), String> {
            let entry: Self = serde_json::from_slice(value).map_err(|error| error.to_string())?;
            if entry.version != VERSION {
                return Err(format!("version {} is not {VERSION}", entry.version));
            }
            if entry.partitions == 0 {
                return Err("a stream has at least one partition".to_owned());
            }
            let tenant = TenantId::new(&entry.tenant).map_err(|error| error.to_string())?;
            let stream = StreamName::new(&entry.stream).map_err(|error| error.to_string())?;
            Ok((StreamId { tenant, stream, generation: entry.generation }, entry.partitions))
        }
    }
}

/// A stream with what is known of its partitions.
#[derive(Debug)]
pub(crate) struct OpenStream {
    pub(crate) stream: Stream,
    pub(crate) topic: Arc<str>,
    /// By index.
    pub(crate) bounds: Box<[Bounds]>,
}

/// Start and watermark of a partition. Both only grow.
#[derive(Debug, Default)]
pub(crate) struct Bounds {
    start: AtomicU64,
    end: AtomicU64,
}

impl Bounds {
    pub(crate) fn start(&self) -> u64 {
        self.start.load(Ordering::Acquire)
    }

    pub(crate) fn end(&self) -> u64 {
        self.end.load(Ordering::Acquire)
    }

    /// Whether the start has moved.
    pub(crate) fn starts_at(&self, start: u64) -> bool {
        self.start.fetch_max(start, Ordering::AcqRel) < start
    }

    pub(crate) fn ends_at(&self, end: u64) {
        self.end.fetch_max(end, Ordering::AcqRel);
    }
}

impl OpenStream {
    pub(crate) fn bounds(&self, index: u32) -> Option<&Bounds> {
        self.bounds.get(index as usize)
    }

    pub(crate) fn partition_id(&self, index: u32) -> Option<PartitionId> {
        (index < self.stream.partitions).then(|| PartitionId { stream: (*self.stream.id).clone(), index })
    }
}

/// All streams that were read from the topic.
#[derive(Debug, Default)]
pub(crate) struct Catalog {
    by_number: Vec<Arc<OpenStream>>,
    by_id: HashMap<Arc<StreamId>, u32>,
    by_topic: HashMap<Arc<str>, u32>,
}

impl Catalog {
    /// The stream that is the next one but `others`.
    pub(crate) fn next(&self, others: usize, id: &StreamId, partitions: u32, prefix: &str) -> Arc<OpenStream> {
        let number = (self.by_number.len() + others) as u32;
        let stream = Stream { id: Arc::new(id.clone()), number, partitions };
        let bounds = (0..partitions).map(|_| Bounds::default()).collect();
        Arc::new(OpenStream { stream, topic: topic::name(prefix, id).into(), bounds })
    }

    pub(crate) fn insert(&mut self, stream: Arc<OpenStream>) {
        debug_assert_eq!(stream.stream.number as usize, self.by_number.len());
        self.by_id.insert(Arc::clone(&stream.stream.id), stream.stream.number);
        self.by_topic.insert(Arc::clone(&stream.topic), stream.stream.number);
        self.by_number.push(stream);
    }

    pub(crate) fn get(&self, number: u32) -> Option<&Arc<OpenStream>> {
        self.by_number.get(number as usize)
    }

    pub(crate) fn by_id(&self, id: &StreamId) -> Option<&Arc<OpenStream>> {
        self.by_id.get(id).and_then(|number| self.get(*number))
    }

    pub(crate) fn by_topic(&self, topic: &str) -> Option<&Arc<OpenStream>> {
        self.by_topic.get(topic).and_then(|number| self.get(*number))
    }

    pub(crate) fn all(&self) -> &[Arc<OpenStream>] {
        &self.by_number
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use floodplain_types::{StreamName, TenantId};

    fn id(tenant: &str, stream: &str, generation: u32) -> StreamId {
        StreamId { tenant: TenantId::new(tenant).unwrap(), stream: StreamName::new(stream).unwrap(), generation }
    }

    #[test]
    fn entries_come_back_and_nonsense_does_not() {
        let encoded = v1::Entry::encode(&id("acme", "telemetry", 1), 16);
        let text = r#"{"version":1,"tenant":"acme","stream":"telemetry","generation":1,"partitions":16}"#;
        assert_eq!(String::from_utf8(encoded.clone()).unwrap(), text);
        assert_eq!(v1::Entry::decode(&encoded), Ok((id("acme", "telemetry", 1), 16)));
        for (from, to, told) in [
            ("\"version\":1", "\"version\":2", "version 2"),
            ("\"partitions\":16", "\"partitions\":0", "at least one"),
            ("acme", "a/b", "letters"),
            ("{", "", "expected"),
        ] {
            let error = v1::Entry::decode(text.replace(from, to).as_bytes()).unwrap_err();
            assert!(error.contains(told), "{error}");
        }
    }

    #[test]
    fn numbers_are_given_in_order() {
        let mut catalog = Catalog::default();
        let (a, b) = (catalog.next(0, &id("t", "a", 0), 2, "p-"), catalog.next(1, &id("t", "b", 0), 1, "p-"));
        catalog.insert(a);
        catalog.insert(b);
        let a = catalog.by_topic("p-t.a").unwrap();
        assert_eq!((a.stream.number, a.stream.partitions), (0, 2));
        assert_eq!(catalog.by_id(&id("t", "b", 0)).unwrap().stream.number, 1);
        assert_eq!(a.partition_id(2), None);
    }

    #[test]
    fn bounds_only_grow() {
        let bounds = Bounds::default();
        assert!(bounds.starts_at(3) && !bounds.starts_at(3) && !bounds.starts_at(2));
        bounds.ends_at(9);
        bounds.ends_at(5);
        assert_eq!((bounds.start(), bounds.end()), (3, 9));
    }
}
