//! What is known of a file: in the manifest, and without what only the whole file can tell, in its footer.

use crate::filter::TimeRange;
use floodplain_types::Position;

/// Records of one partition that went into a file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct OffsetRange {
    /// Lasting name of the partition, as [`floodplain_types::PartitionId`] prints it.
    pub partition: String,
    /// The first record.
    pub from: Position,
    /// Behind the last record.
    pub to: Position,
}

/// What a file holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileFacts {
    pub table: String,
    /// 0: flushed from a buffer; 1: made of other files.
    pub level: u8,
    /// Version of the table's schema that its columns have.
    pub schema_version: u32,
    /// Version of the decoder that made its rows.
    pub decoder_version: u32,
    /// At least 1.
    pub rows: u64,
    /// Least and greatest event time in µs since 1970.
    pub min_time_us: i64,
    pub max_time_us: i64,
    /// Least and greatest device.
    pub min_device: String,
    pub max_device: String,
    /// Sorted by partition.
    pub ranges: Vec<OffsetRange>,
    /// Whether no two rows of the file become one: a reader that meets no other file here need not merge.
    pub is_merged: bool,
    /// [`crate::merge::MergeStats::overwritten_values`] of the rows of this file.
    pub overwritten_values: u64,
}

impl FileFacts {
    /// Event times of its rows.
    #[must_use]
    pub const fn times(&self) -> TimeRange {
        TimeRange::new(self.min_time_us, self.max_time_us)
    }
}

/// A file of the manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileEntry {
    /// Name within the folder of the table's files.
    pub name: String,
    pub facts: FileFacts,
    /// Length of the file.
    pub bytes: u64,
    /// Where page index and footer start; what is before is checked block by block.
    pub tail_at: u64,
    /// CRC-32C of the bytes from `tail_at` on.
    pub tail_crc: u32,
    /// XXH3 (128 bit) of the whole file.
    pub checksum: u128,
}

/// The stored form, version 1: in the manifest's records and in footers.
pub(crate) mod v1 {
    use serde::{Deserialize, Serialize};

    /// (generation, offset)
    type Position = (u32, u64);

    #[derive(Debug, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    pub(crate) struct Facts {
        table: String,
        level: u8,
        schema_version: u32,
        decoder_version: u32,
        rows: u64,
        time_us: (i64, i64),
        device: (String, String),
        ranges: Vec<(String, Position, Position)>,
        is_merged: bool,
        overwritten_values: u64,
    }

    #[derive(Debug, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    pub(crate) struct Entry {
        name: String,
        bytes: u64,
        tail_at: u64,
        tail_crc32c: u32,
        xxh3: String,
        facts: Facts,
    }

    impl From<&super::FileFacts> for Facts {
        fn from(facts: &super::FileFacts) -> Self {
            let position = |position: super::Position| (position.generation, position.offset);
            let range =
                |range: &super::OffsetRange| (range.partition.clone(), position(range.from), position(range.to));
            Self {
                table: facts.table.clone(),
                level: facts.level,
                schema_version: facts.schema_version,
                decoder_version: facts.decoder_version,
                rows: facts.rows,
                time_us: (facts.min_time_us, facts.max_time_us),
                device: (facts.min_device.clone(), facts.max_device.clone()),
                ranges: facts.ranges.iter().map(range).collect(),
                is_merged: facts.is_merged,
                overwritten_values: facts.overwritten_values,
            }
        }
    }

    impl From<Facts> for super::FileFacts {
        fn from(facts: Facts) -> Self {
            let position = |(generation, offset)| super::Position::new(generation, offset);
            let range =
                |(partition, from, to)| super::OffsetRange { partition, from: position(from), to: position(to) };
            Self {
                table: facts.table,
                level: facts.level,
                schema_version: facts.schema_version,
                decoder_version: facts.decoder_version,
                rows: facts.rows,
                min_time_us: facts.time_us.0,
                max_time_us: facts.time_us.1,
                min_device: facts.device.0,
                max_device: facts.device.1,
                ranges: facts.ranges.into_iter().map(range).collect(),
                is_merged: facts.is_merged,
                overwritten_values: facts.overwritten_values,
            }
        }
    }

    impl From<&super::FileEntry> for Entry {
        fn from(entry: &super::FileEntry) -> Self {
            Self {
                name: entry.name.clone(),
                bytes: entry.bytes,
                tail_at: entry.tail_at,
                tail_crc32c: entry.tail_crc,
                xxh3: format!("{:032x}", entry.checksum),
                facts: (&entry.facts).into(),
            }
        }
    }

    impl TryFrom<Entry> for super::FileEntry {
        type Error = std::num::ParseIntError;

        fn try_from(entry: Entry) -> Result<Self, Self::Error> {
            Ok(Self {
                name: entry.name,
                bytes: entry.bytes,
                tail_at: entry.tail_at,
                tail_crc: entry.tail_crc32c,
                checksum: u128::from_str_radix(&entry.xxh3, 16)?,
                facts: entry.facts.into(),
            })
        }
    }
}
