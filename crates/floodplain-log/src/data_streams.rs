//! The streams that hold messages of devices: `telemetry`, and those that the configuration declares beside it.

use crate::{Log, Partition, Refusal, Stream};
use floodplain_types::{StreamId, StreamName, TenantId, partition_index};
use std::sync::Arc;

/// The data stream that is always there, and the first.
pub const TELEMETRY: &str = "telemetry";
/// Streams that hold something else, now or one day. So do all whose name begins with `_`, which is where new ones of the
/// server belong: this list must not grow, since somebody may have declared the name.
const RESERVED: [&str; 8] = ["telemetry", "requests", "state", "downlink", "dlq", "alerts", "events", "audit"];
/// Longest name of a data stream.
const NAME_BYTES_MAX: usize = 64;

/// Why the data streams could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum DataStreamsError {
    /// A declared name is not one that a data stream may have.
    #[error("{0}")]
    Name(String),
    /// More streams than positions are kept for.
    #[error("{declared} would be data stream {count} of at most {max}: a stream stays once it was declared", max = DataStreams::MAX)]
    TooMany { declared: StreamName, count: usize },
    /// A stream is new and could not be created.
    #[error("cannot open stream {stream}")]
    Open { stream: String, source: Refusal },
    /// A device would be in another partition of it than of `telemetry`.
    #[error("stream {stream} has {found} partitions, and telemetry has {expected}: it cannot hold messages of devices")]
    Partitions { stream: StreamName, found: u32, expected: u32 },
}

/// The data streams of a tenant, `telemetry` first, then the others in the order in which they were created.
///
/// All have the same number of partitions, so a device is in the same partition of each. A partition of any of them
/// has an *index among all*: number of the stream times partitions of a stream, plus its index in the stream. So the
/// partitions of `telemetry` have the same index in both ways, and since no stream ever leaves the catalog of the log,
/// an index means the same partition for ever: folds and records may hold it.
#[derive(Debug, Clone)]
pub struct DataStreams {
    streams: Arc<[Stream]>,
    /// Of each stream.
    partitions: u32,
}

impl From<Stream> for DataStreams {
    /// `telemetry` alone.
    fn from(telemetry: Stream) -> Self {
        Self { partitions: telemetry.partitions, streams: Arc::new([telemetry]) }
    }
}

impl DataStreams {
    /// Data streams of a tenant, `telemetry` among them.
    pub const MAX: usize = 16;

    /// Opens `telemetry`, all data streams that the log has, and those that are `declared`, creating what is new with
    /// as many partitions as `telemetry` has; `telemetry` with `partitions` if it is new itself.
    ///
    /// A stream that was declared once and is not now is opened, too: sessions and tables may still be on their way
    /// through it.
    ///
    /// # Errors
    /// [`DataStreamsError`].
    pub fn open(
        log: &dyn Log,
        tenant: &TenantId,
        partitions: u32,
        declared: &[StreamName],
    ) -> Result<Self, DataStreamsError> {
        let open = |name: &StreamName, partitions| {
            let id = StreamId { tenant: tenant.clone(), stream: name.clone(), generation: 0 };
            let opened = log.open_stream(&id, partitions);
            opened.map_err(|source| DataStreamsError::Open { stream: id.to_string(), source })
        };
        let telemetry = StreamName::new(TELEMETRY).expect("the name of the stream is valid");
        let mut streams = vec![open(&telemetry, partitions)?];
        let partitions = streams[0].partitions;
        let mut known: Vec<Stream> = log.streams();
        known.retain(|stream| {
            let id = &stream.id;
            // Whoever has made it with other partitions did not make it for messages of devices.
            let is_data = Self::check_name(&id.stream).is_ok() && stream.partitions == partitions;
            id.tenant == *tenant && id.generation == 0 && is_data
        });
        known.sort_by_key(|stream| stream.number);
        streams.extend(known);
        let mut new: Vec<&StreamName> = Vec::new();
        for name in declared {
            Self::check_name(name).map_err(DataStreamsError::Name)?;
            if !new.contains(&name) && !streams.iter().any(|stream| stream.id.stream == *name) {
                new.push(name);
            }
            // Before any is made: it would stay.
            if streams.len() + new.len() > Self::MAX {
                return Err(DataStreamsError::TooMany { declared: name.clone(), count: streams.len() + new.len() });
            }
        }
        for name in new {
            let stream = open(name, partitions)?;
            if stream.partitions != partitions {
                let (stream, found) = (name.clone(), stream.partitions);
                return Err(DataStreamsError::Partitions { stream, found, expected: partitions });
            }
            streams.push(stream);
        }
        Ok(Self { streams: streams.into(), partitions })
    }

    /// Whether a data stream may be declared with this name: lower-case letters, digits, `-` and `_`, a letter first,
    /// and none of the streams that the server has for other things.
    ///
    /// # Errors
    /// Says what is wrong.
    pub fn check_name(name: &StreamName) -> Result<(), String> {
        let name = name.as_str();
        let is_safe = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_');
        let begins = name.bytes().next().is_some_and(|b| b.is_ascii_lowercase());
        if !begins || name.len() > NAME_BYTES_MAX || !name.bytes().all(is_safe) {
            return Err(format!(
                "{name:?} is no name for a stream: 1 to {NAME_BYTES_MAX} lower-case letters, digits, - and _, a letter first"
            ));
        }
        if RESERVED.contains(&name) {
            return Err(format!("stream {name:?} is one of the server's own: declare another name"));
        }
        Ok(())
    }

    /// The streams in order.
    #[must_use]
    pub fn list(&self) -> &[Stream] {
        &self.streams
    }

    /// The first one.
    #[must_use]
    pub fn telemetry(&self) -> &Stream {
        &self.streams[0]
    }

    /// Number of the stream with this name, 0 for `telemetry`.
    #[must_use]
    pub fn number_of(&self, name: &str) -> Option<u32> {
        self.streams.iter().position(|stream| stream.id.stream.as_str() == name).map(|number| number as u32)
    }

    /// Partitions of each stream.
    #[must_use]
    pub const fn partitions_each(&self) -> u32 {
        self.partitions
    }

    /// Partitions of all streams: the first index that there is not.
    #[must_use]
    pub fn partitions(&self) -> u32 {
        self.streams.len() as u32 * self.partitions
    }

    /// All partitions with their indexes among all.
    pub fn all(&self) -> impl Iterator<Item = (u32, Partition)> + '_ {
        let partitions = self.streams.iter().flat_map(|stream| (0..stream.partitions).map(|at| stream.partition(at)));
        (0..).zip(partitions)
    }

    /// The stream that holds the partition with this index among all, which must be less than [`Self::partitions`], and
    /// its index in there.
    #[must_use]
    pub fn place(&self, index: u32) -> (&Stream, u32) {
        // Without other streams there is nothing to divide.
        if index < self.partitions {
            return (&self.streams[0], index);
        }
        (&self.streams[(index / self.partitions) as usize], index % self.partitions)
    }

    /// The partition with this index among all, which must be less than [`Self::partitions`].
    #[must_use]
    pub fn partition(&self, index: u32) -> Partition {
        let (stream, index) = self.place(index);
        stream.partition(index)
    }

    /// Index among all of a partition; `None` if it is of another stream.
    #[must_use]
    pub fn index_of(&self, partition: Partition) -> Option<u32> {
        let number = self.streams.iter().position(|stream| stream.number == partition.stream)?;
        Some(self.index(number as u32, partition.index))
    }

    /// Index among all of the partition `index` of stream `number`. An unknown number counts as 0.
    #[must_use]
    pub fn index(&self, number: u32, index: u32) -> u32 {
        self.known(number) * self.partitions + index
    }

    /// The number, or 0 if there is no stream with it.
    #[must_use]
    pub fn known(&self, number: u32) -> u32 {
        if (number as usize) < self.streams.len() { number } else { 0 }
    }

    /// Index among all of the partition of stream `number` that holds the records with this key.
    #[must_use]
    pub fn index_of_key(&self, number: u32, key: &[u8]) -> u32 {
        self.index(number, partition_index(key, self.partitions))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Embedded, EmbeddedConfig, OsDisk};
    use floodplain_types::SystemClock;

    fn names(names: &[&str]) -> Vec<StreamName> {
        names.iter().map(|name| StreamName::new(name).unwrap()).collect()
    }

    fn order(streams: &DataStreams) -> Vec<&str> {
        streams.list().iter().map(|stream| stream.id.stream.as_str()).collect()
    }

    #[test]
    fn the_order_is_that_of_creation_and_survives_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let tenant = TenantId::default_tenant();
        let open = |partitions, declared: &[&str]| {
            let config = EmbeddedConfig::new(folder.path());
            let (log, _) = Embedded::open(Arc::new(OsDisk), Arc::new(SystemClock), config).unwrap();
            // What else there is does not count.
            for name in ["requests", "_folds", "state"] {
                let stream = StreamName::new(name).unwrap();
                log.open_stream(&StreamId { tenant: tenant.clone(), stream, generation: 0 }, 4).unwrap();
            }
            let streams = DataStreams::open(&*log, &tenant, partitions, &names(declared));
            log.close();
            streams
        };
        assert_eq!(order(&open(4, &[]).unwrap()), ["telemetry"]);
        assert_eq!(order(&open(4, &["slow", "fast"]).unwrap()), ["telemetry", "slow", "fast"]);
        // Once declared, there for ever, in the same place; and other partitions come with no other configuration.
        let streams = open(8, &["also", "fast"]).unwrap();
        assert_eq!(order(&streams), ["telemetry", "slow", "fast", "also"]);
        assert_eq!((streams.partitions_each(), streams.partitions()), (4, 16));
        for (index, partition) in streams.all() {
            assert_eq!((streams.partition(index), streams.index_of(partition)), (partition, Some(index)));
            let (stream, at) = streams.place(index);
            assert_eq!(stream.partition(at), partition);
        }
        assert_eq!(streams.number_of("fast"), Some(2));
        assert_eq!(streams.index_of_key(2, b"device"), 8 + streams.index_of_key(0, b"device"));
        assert_eq!(streams.index_of(Partition { stream: 99, index: 0 }), None);
        let many: Vec<String> = (0..13).map(|n| format!("s{n}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let error = open(4, &many).unwrap_err();
        assert!(matches!(&error, DataStreamsError::TooMany { count: 17, .. }), "{error}");
    }

    #[test]
    fn names_are_lower_case_and_not_those_of_the_server() {
        for (name, is_good) in [
            ("fast", true),
            ("site-2_raw", true),
            ("Fast", false),
            ("2nd", false),
            ("a.b", false),
            ("_folds", false),
            ("telemetry", false),
            ("dlq", false),
            (&"a".repeat(65), false),
        ] {
            assert_eq!(DataStreams::check_name(&StreamName::new(name).unwrap()).is_ok(), is_good, "{name}");
        }
    }
}
