//! Writes batches.

use super::{Batch, BatchError, CRC_FROM, Compression, HEADER_BYTES, LENGTH_END, MAX_RECORDS_BYTES};
use crate::varint;

/// Level 1: four times faster than the default for a few per cent more bytes, on batches of JSON.
const ZSTD_LEVEL: i32 = 1;

/// Builds one batch after the other, straight into a buffer that it hands out.
///
/// ```
/// # use floodplain_log::{BatchBuilder, Compression};
/// let mut builder = BatchBuilder::new();
/// builder.push(1_700_000_000_000, Some(b"truck-1"), Some(b"21.5"), [("fp.t", b"t/1".as_slice())])?;
/// let batch = builder.finish(Compression::None).expect("one record was pushed");
/// assert_eq!(batch.record_count(), 1);
/// # Ok::<(), floodplain_log::BatchError>(())
/// ```
#[derive(Default)]
pub struct BatchBuilder {
    /// Header (filled in at the end) and records; empty while no record was pushed.
    buf: Vec<u8>,
    count: u32,
    base_timestamp_ms: i64,
    max_timestamp_ms: i64,
    /// A batch of several records is not larger.
    limit_bytes: Option<usize>,
    compressor: Option<zstd::bulk::Compressor<'static>>,
    /// For values that must be encoded before they are written.
    pub(crate) scratch: Vec<u8>,
}

impl std::fmt::Debug for BatchBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BatchBuilder").field("count", &self.count).field("len", &self.buf.len()).finish_non_exhaustive()
    }
}

/// A header whose name is put together on the way: `prefix` + `name`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HeaderParts<'h> {
    pub prefix: &'static str,
    pub name: &'h str,
    pub value: &'h [u8],
}

impl BatchBuilder {
    /// A builder that allocates with the first record.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A builder of batches that have one record or at most `limit_bytes`, uncompressed.
    #[must_use]
    pub fn limited(limit_bytes: usize) -> Self {
        Self { limit_bytes: Some(limit_bytes), ..Self::default() }
    }

    /// How many records were pushed since the last batch.
    #[must_use]
    pub fn record_count(&self) -> u32 {
        self.count
    }

    /// Whether no record was pushed since the last batch.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// How many bytes the batch would have now, uncompressed.
    #[must_use]
    pub fn len_bytes(&self) -> usize {
        self.buf.len()
    }

    /// Adds a record and returns its offset delta.
    ///
    /// # Errors
    /// [`BatchError::TooLarge`] if the batch would pass [`MAX_RECORDS_BYTES`], [`BatchError::Full`] if it would pass the
    /// limit and [`Self::finish`] makes room; nothing is added then.
    pub fn push<'h, H>(
        &mut self,
        timestamp_ms: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: H,
    ) -> Result<u32, BatchError>
    where
        H: IntoIterator<Item = (&'h str, &'h [u8])>,
        H::IntoIter: Clone,
    {
        let headers = headers.into_iter().map(|(name, value)| HeaderParts { prefix: "", name, value });
        self.push_parts(timestamp_ms, key, value, headers)
    }

    pub(crate) fn push_parts<'h>(
        &mut self,
        timestamp_ms: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: impl Iterator<Item = HeaderParts<'h>> + Clone,
    ) -> Result<u32, BatchError> {
        let first = self.count == 0;
        let timestamp_delta = if first { 0 } else { timestamp_ms.wrapping_sub(self.base_timestamp_ms) };
        let nullable = |bytes: Option<&[u8]>| bytes.map_or(1, |b| varint::size(b.len() as i64) + b.len());

        // The length comes first in a record, so sizes are added up before anything is written.
        let (mut header_count, mut header_bytes) = (0_i64, 0_usize);
        for HeaderParts { prefix, name, value } in headers.clone() {
            let name_len = prefix.len() + name.len();
            header_count += 1;
            header_bytes += varint::size(name_len as i64) + name_len + varint::size(value.len() as i64) + value.len();
        }
        let body = 1
            + varint::size(timestamp_delta)
            + varint::size(i64::from(self.count))
            + nullable(key)
            + nullable(value)
            + varint::size(header_count)
            + header_bytes;
        if self.buf.len() + body + 5 > MAX_RECORDS_BYTES {
            return Err(BatchError::TooLarge { max: MAX_RECORDS_BYTES });
        }

        if !first && self.limit_bytes.is_some_and(|limit| self.buf.len() + varint::size(body as i64) + body > limit) {
            return Err(BatchError::Full);
        }

        if first {
            self.buf.resize(HEADER_BYTES, 0);
            (self.base_timestamp_ms, self.max_timestamp_ms) = (timestamp_ms, timestamp_ms);
        }
        self.max_timestamp_ms = self.max_timestamp_ms.max(timestamp_ms);
        let buf = &mut self.buf;
        buf.reserve(body + 5);
        varint::put(buf, body as i64);
        let start = buf.len();
        buf.push(0);
        varint::put(buf, timestamp_delta);
        varint::put(buf, i64::from(self.count));
        for bytes in [key, value] {
            match bytes {
                None => varint::put(buf, -1),
                Some(bytes) => {
                    varint::put(buf, bytes.len() as i64);
                    buf.extend_from_slice(bytes);
                }
            }
        }
        varint::put(buf, header_count);
        for HeaderParts { prefix, name, value } in headers {
            varint::put(buf, (prefix.len() + name.len()) as i64);
            buf.extend_from_slice(prefix.as_bytes());
            buf.extend_from_slice(name.as_bytes());
            varint::put(buf, value.len() as i64);
            buf.extend_from_slice(value);
        }
        debug_assert_eq!(buf.len() - start, body);
        self.count += 1;
        Ok(self.count - 1)
    }

    /// The batch of what was pushed, or `None` if nothing was; the builder starts afresh.
    ///
    /// [`Compression::Zstd`] keeps the records uncompressed where that is not smaller.
    /// [`Compression::Other`] is not written and counts as none.
    #[must_use]
    pub fn finish(&mut self, compression: Compression) -> Option<Batch> {
        if self.count == 0 {
            return None;
        }
        let mut attributes = 0_i16;
        // A buffer of the exact size: batches wait in queues and must not hold more than they say.
        let mut bytes = Vec::with_capacity(self.buf.len());
        if compression == Compression::Zstd && self.compress_into(&mut bytes) {
            attributes = 4;
        } else {
            bytes.clear();
            bytes.extend_from_slice(&self.buf);
        }
        let last_delta = self.count - 1;
        bytes[..8].fill(0);
        let len = (bytes.len() - LENGTH_END) as u32;
        put(&mut bytes, 8, &len.to_be_bytes());
        put(&mut bytes, 12, &(-1_i32).to_be_bytes());
        bytes[16] = 2;
        put(&mut bytes, 21, &attributes.to_be_bytes());
        put(&mut bytes, 23, &last_delta.to_be_bytes());
        put(&mut bytes, 27, &self.base_timestamp_ms.to_be_bytes());
        put(&mut bytes, 35, &self.max_timestamp_ms.to_be_bytes());
        // No idempotent producer: id, epoch and sequence are all -1.
        bytes[43..57].fill(0xff);
        put(&mut bytes, 57, &self.count.to_be_bytes());
        let crc = crc32c::crc32c(&bytes[CRC_FROM..]);
        put(&mut bytes, 17, &crc.to_be_bytes());
        self.buf.clear();
        self.count = 0;
        // One large batch must not make the builder large for ever.
        self.buf.shrink_to(1 << 20);
        Some(Batch(bytes.into()))
    }

    /// Header room and compressed records; false if that does not pay.
    fn compress_into(&mut self, bytes: &mut Vec<u8>) -> bool {
        if self.compressor.is_none() {
            self.compressor = zstd::bulk::Compressor::new(ZSTD_LEVEL).ok();
        }
        let Some(compressor) = &mut self.compressor else { return false };
        let Ok(compressed) = compressor.compress(&self.buf[HEADER_BYTES..]) else { return false };
        if compressed.len() + HEADER_BYTES >= self.buf.len() {
            return false;
        }
        *bytes = Vec::with_capacity(HEADER_BYTES + compressed.len());
        bytes.resize(HEADER_BYTES, 0);
        bytes.extend_from_slice(&compressed);
        true
    }
}

fn put(bytes: &mut [u8], at: usize, field: &[u8]) {
    bytes[at..at + field.len()].copy_from_slice(field);
}
