//! RecordBatch v2, the byte format of Apache Kafka in which records are kept and moved.
//!
//! The layout is written down in `docs/formats/record.md`. A [`Batch`] is opaque: it is checked
//! once when it enters, and its records are decoded only by those who need them.

mod builder;
#[cfg(test)]
mod tests;

pub use builder::BatchBuilder;
pub(crate) use builder::HeaderParts;

use crate::varint;
use bytes::Bytes;
use std::{borrow::Cow, io::Read as _};

/// What a batch of several records takes at most in the streams of a broker: whoever needs one record of it by its position reads so
/// much, and to find it up to a block of batches before it and a page of an index, of 4 KiB each. Of 64 records that is 1 MiB.
pub const BATCH_BYTES: usize = 8 << 10;

/// Bytes before the records.
pub const HEADER_BYTES: usize = 61;
/// How many bytes the records of one batch may have when decompressed: what a hostile zstd frame
/// can make us allocate.
pub const MAX_RECORDS_BYTES: usize = 64 << 20;

/// Bytes in front of those that `batchLength` counts.
const LENGTH_END: usize = 12;
/// The checksum covers everything from here: the base offset and the leader epoch stay outside.
const CRC_FROM: usize = 21;

const COMPRESSION_MASK: i16 = 0b111;
const LOG_APPEND_TIME: i16 = 1 << 3;

/// Why bytes are not a batch or a record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// Fewer bytes than the format needs, or more than its length field says.
    #[error("record batch has {got} bytes, {expected} are expected")]
    Length { got: usize, expected: usize },
    /// Older message formats are not read; Kafka 4 has dropped them too.
    #[error("record batch has magic {0}, only 2 is read")]
    Magic(u8),
    /// The bytes have changed since they were written.
    #[error("record batch has checksum {found:08x}, its header says {expected:08x}")]
    Checksum { found: u32, expected: u32 },
    /// A field of the batch header is out of its range.
    #[error("record batch has {field} {value}")]
    Field { field: &'static str, value: i64 },
    /// The batch is whole, but its records cannot be read here.
    #[error("unsupported compression {0}: send the records with zstd or uncompressed")]
    Compression(&'static str),
    /// The compressed records do not decompress.
    #[error("records do not decompress: {0}")]
    Decompress(String),
    /// More records than [`MAX_RECORDS_BYTES`], or a builder that is full.
    #[error("records take more than {max} bytes")]
    TooLarge { max: usize },
    /// A batch of several records would pass the limit of its builder.
    #[error("batch is full")]
    Full,
    /// A record breaks the format.
    #[error("record is malformed: {0}")]
    Record(&'static str),
}

/// How the records of a batch are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    None,
    Zstd,
    /// Written by some Kafka clients; kept as it is, not read.
    Other(&'static str),
}

/// One whole, checked RecordBatch v2. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch(Bytes);

impl Batch {
    /// Checks length, magic, checksum and the ranges of the header; the records stay as they are.
    ///
    /// # Errors
    /// [`BatchError`] says what is wrong.
    pub fn parse(bytes: Bytes) -> Result<Self, BatchError> {
        Self::check(&bytes)?;
        Ok(Self(bytes))
    }

    /// The checks of [`Self::parse`], on borrowed bytes.
    pub(crate) fn check(bytes: &[u8]) -> Result<(), BatchError> {
        if bytes.len() < HEADER_BYTES {
            return Err(BatchError::Length { got: bytes.len(), expected: HEADER_BYTES });
        }
        let expected = i32_at(bytes, 8).saturating_add(LENGTH_END as i32);
        if usize::try_from(expected) != Ok(bytes.len()) {
            return Err(BatchError::Length { got: bytes.len(), expected: usize::try_from(expected).unwrap_or(0) });
        }
        if bytes[16] != 2 {
            return Err(BatchError::Magic(bytes[16]));
        }
        let (found, expected) = (crc32c::crc32c(&bytes[CRC_FROM..]), i32_at(bytes, 17) as u32);
        if found != expected {
            return Err(BatchError::Checksum { found, expected });
        }
        let (base, last, count) = (i64_at(bytes, 0), i64::from(i32_at(bytes, 23)), i64::from(i32_at(bytes, 57)));
        for (field, value, ok) in [
            ("base offset", base, base >= 0 && base.checked_add(last).is_some()),
            ("last offset delta", last, last >= 0),
            // Compaction may leave fewer records than offsets, never more.
            ("record count", count, count >= 0 && count <= last + 1),
        ] {
            if !ok {
                return Err(BatchError::Field { field, value });
            }
        }
        Ok(())
    }

    /// Takes bytes that were checked before, by [`Self::parse`] or by the checksum around them.
    pub(crate) fn trusted(bytes: Bytes) -> Self {
        debug_assert!(bytes.len() >= HEADER_BYTES);
        Self(bytes)
    }

    fn i16_at(&self, at: usize) -> i16 {
        i16::from_be_bytes([self.0[at], self.0[at + 1]])
    }

    /// The batch as Kafka encodes it.
    #[must_use]
    pub fn as_bytes(&self) -> &Bytes {
        &self.0
    }

    /// The batch with another base offset, copied. The checksum does not cover it.
    #[must_use]
    pub fn with_base_offset(&self, base_offset: u64) -> Self {
        let mut bytes = self.0.to_vec();
        patch_base_offset(&mut bytes, base_offset);
        Self(bytes.into())
    }

    /// What the header says of the rest but for the base offset: so it is the same wherever the batch is.
    #[must_use]
    pub fn checksum(&self) -> u32 {
        i32_at(&self.0, 17) as u32
    }

    /// The offset of the first record.
    #[must_use]
    pub fn base_offset(&self) -> u64 {
        i64_at(&self.0, 0) as u64
    }

    /// How far the last offset of the batch is from the first.
    #[must_use]
    pub fn last_offset_delta(&self) -> u32 {
        i32_at(&self.0, 23) as u32
    }

    /// How many records there are, by the header.
    #[must_use]
    pub fn record_count(&self) -> u32 {
        i32_at(&self.0, 57) as u32
    }

    /// What the timestamp deltas of the records add to, in milliseconds since 1970.
    #[must_use]
    pub fn base_timestamp_ms(&self) -> i64 {
        i64_at(&self.0, 27)
    }

    /// The greatest timestamp in milliseconds since 1970.
    #[must_use]
    pub fn max_timestamp_ms(&self) -> i64 {
        i64_at(&self.0, 35)
    }

    /// Whether the broker set the time: then every record has [`Self::max_timestamp_ms`].
    #[must_use]
    pub fn has_log_append_time(&self) -> bool {
        self.i16_at(21) & LOG_APPEND_TIME != 0
    }

    /// Producer id, epoch and base sequence of an idempotent Kafka producer.
    #[must_use]
    pub fn producer(&self) -> Option<(i64, i16, i32)> {
        let id = i64_at(&self.0, 43);
        (id >= 0).then(|| (id, self.i16_at(51), i32_at(&self.0, 53)))
    }

    /// The timestamp of `record`, which must come from this batch, in milliseconds since 1970.
    #[must_use]
    pub fn timestamp_ms(&self, record: &Record<'_>) -> i64 {
        self.timestamp_base_ms(record).saturating_add(record.timestamp_delta_ms)
    }

    /// What to add the timestamp delta of `record` to, whoever set the time.
    pub(crate) fn timestamp_base_ms(&self, record: &Record<'_>) -> i64 {
        if self.has_log_append_time() {
            self.max_timestamp_ms().saturating_sub(record.timestamp_delta_ms)
        } else {
            self.base_timestamp_ms()
        }
    }

    /// How the records are compressed.
    #[must_use]
    pub fn compression(&self) -> Compression {
        match self.i16_at(21) & COMPRESSION_MASK {
            0 => Compression::None,
            1 => Compression::Other("gzip"),
            2 => Compression::Other("snappy"),
            3 => Compression::Other("lz4"),
            4 => Compression::Zstd,
            _ => Compression::Other("of an unknown kind"),
        }
    }

    /// The records, decompressed if need be (to [`MAX_RECORDS_BYTES`] at most).
    ///
    /// # Errors
    /// [`BatchError::Compression`] for what only other readers understand,
    /// [`BatchError::Decompress`] and [`BatchError::TooLarge`] for a bad zstd frame.
    pub fn records(&self) -> Result<Records<'_>, BatchError> {
        let raw = &self.0[HEADER_BYTES..];
        let data = match self.compression() {
            Compression::None => Cow::Borrowed(raw),
            Compression::Zstd => Cow::Owned(decompress(raw)?),
            Compression::Other(name) => return Err(BatchError::Compression(name)),
        };
        Ok(Records { data, count: self.record_count(), last_offset_delta: self.last_offset_delta() })
    }
}

fn i32_at(bytes: &[u8], at: usize) -> i32 {
    i32::from_be_bytes(bytes[at..at + 4].try_into().expect("a slice of four"))
}

fn i64_at(bytes: &[u8], at: usize) -> i64 {
    i64::from_be_bytes(bytes[at..at + 8].try_into().expect("a slice of eight"))
}

/// Writes `base_offset` into the bytes of a batch.
pub(crate) fn patch_base_offset(bytes: &mut [u8], base_offset: u64) {
    bytes[..8].copy_from_slice(&base_offset.to_be_bytes());
}

fn decompress(raw: &[u8]) -> Result<Vec<u8>, BatchError> {
    let failed = |error: std::io::Error| BatchError::Decompress(error.to_string());
    let mut decoder = zstd::stream::read::Decoder::with_buffer(raw).map_err(failed)?;
    // A frame may ask for a window of its own choice; 8 MiB is what level 19 uses.
    decoder.window_log_max(23).map_err(failed)?;
    let mut out = Vec::new();
    decoder.take(MAX_RECORDS_BYTES as u64 + 1).read_to_end(&mut out).map_err(failed)?;
    if out.len() > MAX_RECORDS_BYTES {
        return Err(BatchError::TooLarge { max: MAX_RECORDS_BYTES });
    }
    Ok(out)
}

/// The records of one batch, ready to be iterated over by reference.
#[derive(Debug, Clone)]
pub struct Records<'b> {
    data: Cow<'b, [u8]>,
    count: u32,
    last_offset_delta: u32,
}

impl Records<'_> {
    /// The records in order. After an error nothing follows.
    #[must_use]
    pub fn iter(&self) -> RecordIter<'_> {
        RecordIter {
            data: &self.data,
            at: 0,
            left: self.count,
            next_delta: 0,
            last_offset_delta: self.last_offset_delta,
        }
    }
}

impl<'r> IntoIterator for &'r Records<'_> {
    type Item = Result<Record<'r>, BatchError>;
    type IntoIter = RecordIter<'r>;
    fn into_iter(self) -> RecordIter<'r> {
        self.iter()
    }
}

/// Iterator over the records of a batch.
#[derive(Debug, Clone)]
pub struct RecordIter<'r> {
    data: &'r [u8],
    at: usize,
    left: u32,
    next_delta: u32,
    last_offset_delta: u32,
}

impl<'r> RecordIter<'r> {
    fn step(&mut self) -> Result<Record<'r>, BatchError> {
        let mut rest = &self.data[self.at..];
        let before = rest.len();
        let body = varint::take_int(&mut rest)
            .and_then(|len| usize::try_from(len).ok())
            .filter(|len| *len <= rest.len())
            .ok_or(BatchError::Record("length"))?;
        let end = self.at + (before - rest.len()) + body;
        let mut record = Record::parse(&self.data[self.at..end])?;
        record.at = self.at as u32;
        if record.offset_delta < self.next_delta || record.offset_delta > self.last_offset_delta {
            return Err(BatchError::Record("offset delta"));
        }
        self.next_delta = record.offset_delta.saturating_add(1);
        self.at = end;
        Ok(record)
    }
}

impl<'r> Iterator for RecordIter<'r> {
    type Item = Result<Record<'r>, BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            if self.at < self.data.len() {
                self.at = self.data.len();
                return Some(Err(BatchError::Record("more bytes than records")));
            }
            return None;
        }
        self.left -= 1;
        let record = self.step();
        if record.is_err() {
            self.left = 0;
            self.at = self.data.len();
        }
        Some(record)
    }
}

/// One record, borrowed from its batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    /// What to add to the base offset of the batch.
    pub offset_delta: u32,
    /// What to add to the base timestamp of the batch, in milliseconds.
    pub timestamp_delta_ms: i64,
    /// The device or object; decides the partition.
    pub key: Option<&'a [u8]>,
    /// The payload; `None` is a tombstone, not an empty payload.
    pub value: Option<&'a [u8]>,
    /// Exactly the encoded record, for [`Record::parse`].
    pub bytes: &'a [u8],
    /// Where `bytes` start behind the header of an uncompressed batch.
    pub(crate) at: u32,
    headers: Headers<'a>,
}

impl<'a> Record<'a> {
    /// Decodes exactly one record; its headers are looked at when they are asked for.
    ///
    /// # Errors
    /// [`BatchError::Record`] names the field that breaks the format.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, BatchError> {
        let mut rest = bytes;
        let len = varint::take_int(&mut rest).ok_or(BatchError::Record("length"))?;
        if usize::try_from(len) != Ok(rest.len()) {
            return Err(BatchError::Record("length"));
        }
        // Attributes of a record are unused in version 2.
        rest = rest.get(1..).ok_or(BatchError::Record("attributes"))?;
        let timestamp_delta_ms = varint::take_long(&mut rest).ok_or(BatchError::Record("timestamp delta"))?;
        let offset_delta = varint::take_int(&mut rest)
            .and_then(|delta| u32::try_from(delta).ok())
            .ok_or(BatchError::Record("offset delta"))?;
        let key = take_nullable(&mut rest).ok_or(BatchError::Record("key"))?;
        let value = take_nullable(&mut rest).ok_or(BatchError::Record("value"))?;
        let count = varint::take_int(&mut rest)
            .and_then(|count| u32::try_from(count).ok())
            .ok_or(BatchError::Record("header count"))?;
        let headers = Headers { rest, left: count };
        Ok(Self { offset_delta, timestamp_delta_ms, key, value, bytes, at: 0, headers })
    }

    /// The headers in order; names may repeat.
    #[must_use]
    pub fn headers(&self) -> Headers<'a> {
        self.headers
    }
}

/// Iterator over the headers of a record: name and value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Headers<'a> {
    rest: &'a [u8],
    left: u32,
}

impl<'a> Headers<'a> {
    fn step(&mut self) -> Result<(&'a str, Option<&'a [u8]>), BatchError> {
        let name = take_nullable(&mut self.rest).flatten().ok_or(BatchError::Record("header name"))?;
        let name = std::str::from_utf8(name).map_err(|_| BatchError::Record("header name is not UTF-8"))?;
        let value = take_nullable(&mut self.rest).ok_or(BatchError::Record("header value"))?;
        Ok((name, value))
    }
}

impl<'a> Iterator for Headers<'a> {
    type Item = Result<(&'a str, Option<&'a [u8]>), BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            if self.rest.is_empty() {
                return None;
            }
            self.rest = &[];
            return Some(Err(BatchError::Record("bytes behind the headers")));
        }
        self.left -= 1;
        let header = self.step();
        if header.is_err() {
            (self.left, self.rest) = (0, &[]);
        }
        Some(header)
    }
}

/// Takes length and bytes; a length of -1 is null.
#[expect(clippy::option_option, reason = "outer: well formed; inner: null")]
fn take_nullable<'a>(rest: &mut &'a [u8]) -> Option<Option<&'a [u8]>> {
    match varint::take_int(rest)? {
        -1 => Some(None),
        len => {
            let (bytes, after) = rest.split_at_checked(usize::try_from(len).ok()?)?;
            *rest = after;
            Some(Some(bytes))
        }
    }
}
