//! Why a payload, or a line of it, gave no row.

use std::borrow::Cow;
use std::fmt;

/// What a decoder refused, with everything that the dead-letter stream says about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub stage: Stage,
    /// Lower case, with the values that it is about.
    pub reason: String,
    /// Where in the payload, in bytes from its start.
    pub byte_position: usize,
    /// Where in line protocol, counted from 1: the line in which the bad line starts.
    pub line: Option<u32>,
    pub decoder_version: DecoderVersion,
}

/// Which step refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stage {
    /// The bytes are not what the decoder reads.
    Decode,
    /// An event time cannot be read, or is outside of the years 1677 to 2262.
    Time,
    /// A checksum does not match.
    Checksum,
    /// A line does not name its device.
    Device,
    /// The payload gives more than the decoder holds at once.
    Limit,
}

impl Stage {
    /// The name in the dead-letter stream.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Decode => "decode",
            Self::Time => "time",
            Self::Checksum => "checksum",
            Self::Device => "device",
            Self::Limit => "limit",
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Names one way of reading payloads: the decoder, the revision of its code, and its definition.
///
/// Payloads that this version refused are worth another try with any other version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DecoderVersion {
    /// The name of the decoder, as in its definition.
    pub decoder: &'static str,
    /// Raised whenever a release reads some bytes otherwise than the one before.
    pub revision: u16,
    /// CRC-32C of the stored form of the definition.
    pub definition: u32,
}

impl fmt::Display for DecoderVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{:08x}", self.decoder, self.revision, self.definition)
    }
}

/// A [`Failure`] on its way out: who decodes adds line and version.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub stage: Stage,
    /// Most are fixed texts: what is not reported costs nothing.
    pub reason: Cow<'static, str>,
    pub at: usize,
}

impl Refusal {
    pub(crate) fn new(stage: Stage, at: usize, reason: impl Into<Cow<'static, str>>) -> Self {
        Self { stage, reason: reason.into(), at }
    }

    pub(crate) fn decode(at: usize, reason: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Stage::Decode, at, reason)
    }
}
