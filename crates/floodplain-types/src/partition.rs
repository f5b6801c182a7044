//! Streams, partitions, and the partitioner that all Kafka clients written in Java use.

use crate::{StreamName, TenantId};
use std::fmt;

/// A stream in one generation. Resharding starts the next generation.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamId {
    pub tenant: TenantId,
    pub stream: StreamName,
    pub generation: u32,
}

impl fmt::Display for StreamId {
    /// `<tenant>.<stream>`, as Kafka clients see it, with `@<generation>` after the first one.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.tenant, self.stream)?;
        if self.generation > 0 { write!(f, "@{}", self.generation) } else { Ok(()) }
    }
}

/// One partition of a stream: the unit of order and of ownership.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PartitionId {
    pub stream: StreamId,
    pub index: u32,
}

impl fmt::Display for PartitionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.stream, self.index)
    }
}

/// MurmurHash2, 32 bit, with the seed and the signedness of Kafka's Java client
/// (`org.apache.kafka.common.utils.Utils.murmur2`).
#[must_use]
pub fn murmur2(data: &[u8]) -> u32 {
    const SEED: u32 = 0x9747_b28c;
    const M: u32 = 0x5bd1_e995;
    const R: u32 = 24;

    let mut h = SEED ^ (data.len() as u32);
    let mut words = data.chunks_exact(4);
    for word in &mut words {
        let mut k = u32::from_le_bytes([word[0], word[1], word[2], word[3]]).wrapping_mul(M);
        k ^= k >> R;
        h = h.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    let tail = words.remainder();
    if !tail.is_empty() {
        for (i, byte) in tail.iter().enumerate() {
            h ^= u32::from(*byte) << (8 * i);
        }
        h = h.wrapping_mul(M);
    }
    h ^= h >> 13;
    h = h.wrapping_mul(M);
    h ^ (h >> 15)
}

/// The partition of a record with this key: `(murmur2(key) & 0x7fffffff) % partitions`.
///
/// `partitions` must not be zero; a stream always has at least one.
#[must_use]
pub fn partition_index(key: &[u8], partitions: u32) -> u32 {
    (murmur2(key) & 0x7fff_ffff) % partitions
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Expected values are those that Kafka's own `UtilsTest` documents, as signed integers.
    #[test]
    fn murmur2_equals_kafkas_java_client() {
        for (key, expected) in [
            ("21", -973_932_308_i32),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
        ] {
            assert_eq!(murmur2(key.as_bytes()) as i32, expected, "{key}");
        }
    }

    #[test]
    fn partition_is_in_range() {
        for p in 1..200 {
            assert!(partition_index(format!("device-{p}").as_bytes(), p) < p);
        }
    }
}
