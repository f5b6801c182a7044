//! The records of stream `_folds`: how far the outputs of a fold have been committed.

use crate::wire::{Get, Put, WireError};
use floodplain_types::{PartitionId, Position};
use std::fmt;

/// How far outputs went: all those of records before `position`, and the first `number` of those
/// that the record at `position` caused.
///
/// Counting inside a record lets one record cause more outputs than fit one append unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Emitted {
    pub position: Position,
    pub number: u32,
}

impl fmt::Display for Emitted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.position, self.number)
    }
}

/// The value of a record in `_folds`.
///
/// It commits in one unit with the outputs it speaks of. One that repeats what is known is a
/// fence: appended after an open outcome or a restart, it shows by its position that nothing of
/// its writer that was sent before it can still come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PositionRecord {
    pub emitted: Emitted,
}

const VERSION: u8 = 1;

impl PositionRecord {
    /// The key of all records of one fold of one partition.
    #[must_use]
    pub fn key(fold: &str, partition: &PartitionId) -> Vec<u8> {
        format!("{fold}/{partition}").into_bytes()
    }

    /// The value of the record.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![VERSION];
        bytes.put_position(self.emitted.position);
        bytes.put_u64(u64::from(self.emitted.number));
        bytes
    }

    /// Reads the value of a record.
    ///
    /// # Errors
    /// [`WireError`] for another version or damaged bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let mut get = Get::new(bytes);
        match get.byte()? {
            VERSION => {}
            other => return Err(WireError::Unknown { what: "version of a position record", value: u64::from(other) }),
        }
        let emitted = Emitted { position: get.position()?, number: get.u32()? };
        get.end()?;
        Ok(Self { emitted })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_record_reads_back() {
        let record = PositionRecord { emitted: Emitted { position: Position::new(2, 300), number: 7 } };
        assert_eq!(PositionRecord::decode(&record.encode()), Ok(record));
        assert_eq!(record.encode(), [1, 2, 0xac, 2, 7], "the bytes outlive a release");
        assert!(PositionRecord::decode(&[2, 0, 0, 0]).is_err());
        assert!(PositionRecord::decode(&[1, 0, 0, 0, 0]).is_err());
    }
}
