//! Records of the manifest. Format: `docs/formats/manifest.md`.

use crate::{file::FileEntry, window::Window};
use floodplain_types::Position;

/// Why files change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// Rows of buffers became files, or positions moved: nothing is removed.
    Flush,
    /// Files became other files with the same rows.
    Compact,
    /// Files are not needed any more: nothing is added.
    Expire,
}

/// How far rows of a window are in files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flushed {
    pub table: String,
    pub window: Window,
    /// Lasting name of the partition.
    pub partition: String,
    /// All rows of this window whose records are before it are in files.
    pub to: Position,
}

/// One change of the manifest: all of it happens, or nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestRecord {
    /// One more than the version of the manifest that the writer knew.
    pub version: u64,
    pub cause: Cause,
    pub adds: Vec<FileEntry>,
    /// Table and name of files that are not needed any more.
    pub removes: Vec<(String, String)>,
    pub flushed: Vec<Flushed>,
    /// Lasting name of a partition, and the position before which all its rows are in files.
    pub replay_from: Vec<(String, Position)>,
}

/// Why bytes are no record of the manifest.
#[derive(Debug, thiserror::Error)]
#[error("record of the manifest does not decode: {0}")]
pub struct RecordError(String);

impl ManifestRecord {
    /// A change that does nothing yet.
    #[must_use]
    pub fn new(version: u64, cause: Cause) -> Self {
        let (adds, removes, flushed, replay_from) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Self { version, cause, adds, removes, flushed, replay_from }
    }

    /// The value of its record.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        // Numbers, texts and lists of them always have a JSON form.
        serde_json::to_vec(&v1::Record::from(self)).unwrap_or_default()
    }

    /// Reads what [`Self::encode`] wrote.
    ///
    /// # Errors
    /// [`RecordError`] for anything else, and for records of newer versions of this program.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let record: v1::Record = serde_json::from_slice(bytes).map_err(|error| RecordError(error.to_string()))?;
        record.try_into().map_err(|error: std::num::ParseIntError| RecordError(error.to_string()))
    }
}

pub(super) mod v1 {
    use crate::file::v1::Entry;
    use serde::{Deserialize, Serialize};

    type Position = (u32, u64);

    #[derive(Debug, Serialize, Deserialize)]
    enum Format {
        #[serde(rename = "floodplain.manifest.1")]
        V1,
    }

    #[derive(Debug, Serialize, Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Cause {
        Flush,
        Compact,
        Expire,
    }

    #[derive(Debug, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    pub(super) struct Record {
        format: Format,
        version: u64,
        cause: Cause,
        adds: Vec<Entry>,
        removes: Vec<(String, String)>,
        /// Table, number of the window, partition, position.
        flushed: Vec<(String, i64, String, Position)>,
        replay_from: Vec<(String, Position)>,
    }

    fn pair(position: super::Position) -> Position {
        (position.generation, position.offset)
    }

    fn position((generation, offset): Position) -> super::Position {
        super::Position::new(generation, offset)
    }

    impl From<&super::ManifestRecord> for Record {
        fn from(record: &super::ManifestRecord) -> Self {
            let flushed = |f: &super::Flushed| (f.table.clone(), f.window.number(), f.partition.clone(), pair(f.to));
            Self {
                format: Format::V1,
                version: record.version,
                cause: match record.cause {
                    super::Cause::Flush => Cause::Flush,
                    super::Cause::Compact => Cause::Compact,
                    super::Cause::Expire => Cause::Expire,
                },
                adds: record.adds.iter().map(Into::into).collect(),
                removes: record.removes.clone(),
                flushed: record.flushed.iter().map(flushed).collect(),
                replay_from: record.replay_from.iter().map(|(partition, to)| (partition.clone(), pair(*to))).collect(),
            }
        }
    }

    impl TryFrom<Record> for super::ManifestRecord {
        type Error = std::num::ParseIntError;

        fn try_from(record: Record) -> Result<Self, Self::Error> {
            let flushed = |(table, window, partition, to)| super::Flushed {
                table,
                window: super::Window::from_number(window),
                partition,
                to: position(to),
            };
            Ok(Self {
                version: record.version,
                cause: match record.cause {
                    Cause::Flush => super::Cause::Flush,
                    Cause::Compact => super::Cause::Compact,
                    Cause::Expire => super::Cause::Expire,
                },
                adds: record.adds.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
                removes: record.removes,
                flushed: record.flushed.into_iter().map(flushed).collect(),
                replay_from: record.replay_from.into_iter().map(|(name, from)| (name, position(from))).collect(),
            })
        }
    }
}
