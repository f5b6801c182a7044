//! Where a record is, and what its acknowledgement promised.

use std::fmt;

/// The place of a record in its partition: opaque and ordered.
///
/// Positions of one partition grow, but may have holes (transaction markers and compaction on
/// Kafka, set-aside damage on the embedded engine). Code above the log compares positions and
/// reads from one; it never counts with them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Position {
    pub generation: u32,
    pub offset: u64,
}

impl Position {
    /// Before the first record of a stream.
    pub const ZERO: Self = Self { generation: 0, offset: 0 };

    /// The position `offset` of generation `generation`.
    #[must_use]
    pub const fn new(generation: u32, offset: u64) -> Self {
        Self { generation, offset }
    }

    /// The least position that is greater than this one: where to read on after this record.
    #[must_use]
    pub const fn next(self) -> Self {
        Self { generation: self.generation, offset: self.offset + 1 }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.generation, self.offset)
    }
}

impl std::str::FromStr for Position {
    type Err = std::num::ParseIntError;

    /// Reads what `Display` prints: `generation:offset`, or a bare offset of generation 0.
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let (generation, offset) = s.split_once(':').unwrap_or(("0", s));
        Ok(Self { generation: generation.parse()?, offset: offset.parse()? })
    }
}

/// What an acknowledgement promises. Ordered: a greater class promises more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Class {
    /// Nothing is promised; the record joins the next commit group and nobody waits.
    None,
    /// Embedded: handed to the operating system, survives a crash of this process. Kafka: acks=1.
    Leader,
    /// Embedded: synced, survives a power cut. Kafka: acks=all with min ISR 2.
    All,
}

impl Class {
    /// The name used in config, user properties and headers.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Leader => "leader",
            Self::All => "all",
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for Class {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        match s {
            "none" => Ok(Self::None),
            "leader" => Ok(Self::Leader),
            "all" => Ok(Self::All),
            other => Err(format!("unknown durability class {other:?}: use none, leader or all")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_order_by_generation_first() {
        assert!(Position::new(1, 0) > Position::new(0, u64::MAX));
        assert_eq!("1:7".parse::<Position>().unwrap(), Position::new(1, 7));
        assert_eq!("7".parse::<Position>().unwrap(), Position::new(0, 7));
        assert_eq!(Position::new(3, 9).to_string(), "3:9");
        assert!("x".parse::<Position>().is_err());
    }

    #[test]
    fn classes_order_by_promise() {
        assert!(Class::None < Class::Leader && Class::Leader < Class::All);
        assert_eq!("leader".parse(), Ok(Class::Leader));
        assert!("most".parse::<Class>().is_err());
    }
}
