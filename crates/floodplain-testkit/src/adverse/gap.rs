//! Batches with offsets that no record has, as compaction leaves them.

use floodplain_log::{Batch, Compression, HEADER_BYTES};

/// The batch with `width` offsets that no record has before its record number `at` (at least 1, so that the
/// batch starts with a record), or behind the last one; there it is in a compressed batch, too.
pub(super) fn with_gap(batch: &Batch, at: u32, width: u32) -> Option<Batch> {
    let mut bytes = batch.as_bytes()[..HEADER_BYTES].to_vec();
    if batch.compression() == Compression::None {
        for (record, idx) in (&batch.records().ok()?).into_iter().zip(0..) {
            let record = record.ok()?;
            let moved = record.offset_delta + if idx >= at { width } else { 0 };
            // Length, attributes (one byte), timestamp delta, offset delta, the rest.
            let body = &record.bytes[varint_bytes(record.bytes)?..];
            let delta_at = 1 + varint_bytes(&body[1..])?;
            let rest = &body[delta_at + varint_bytes(&body[delta_at..])?..];
            let delta = varint(moved);
            bytes.extend(varint((delta_at + delta.len() + rest.len()) as u32));
            bytes.extend_from_slice(&body[..delta_at]);
            bytes.extend(delta);
            bytes.extend_from_slice(rest);
        }
    } else {
        bytes.extend_from_slice(&batch.as_bytes()[HEADER_BYTES..]);
    }
    // RecordBatch v2: length at 8 of what follows it, checksum at 17 of what follows it, last offset delta at 23.
    let len = i32::try_from(bytes.len() - 12).ok()?;
    bytes[8..12].copy_from_slice(&len.to_be_bytes());
    bytes[23..27].copy_from_slice(&(batch.last_offset_delta() + width).to_be_bytes());
    let crc = crc32c::crc32c(&bytes[21..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    Batch::parse(bytes.into()).ok()
}

/// How many bytes the number at the front has.
fn varint_bytes(bytes: &[u8]) -> Option<usize> {
    Some(bytes.iter().position(|byte| byte & 0x80 == 0)? + 1)
}

/// A positive number, zigzag, seven bits a byte, lowest first.
fn varint(number: u32) -> Vec<u8> {
    let (mut left, mut bytes) = (u64::from(number) << 1, Vec::new());
    while left >= 0x80 {
        bytes.push((left & 0x7f) as u8 | 0x80);
        left >>= 7;
    }
    bytes.push(left as u8);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use floodplain_log::BatchBuilder;

    #[test]
    fn a_gap_moves_offsets_and_nothing_else() {
        for compression in [Compression::None, Compression::Zstd] {
            for at in 1..=100 {
                let mut builder = BatchBuilder::new();
                for i in 0..100_i64 {
                    let value = "x".repeat(i as usize);
                    builder.push(i * i, Some(b"k"), Some(value.as_bytes()), [("name", &b"value"[..])]).unwrap();
                }
                let batch = builder.finish(compression).unwrap();
                let torn = with_gap(&batch, at, 3).unwrap();
                assert_eq!((torn.record_count(), torn.last_offset_delta()), (100, 102));
                let is_moved = |idx| batch.compression() == Compression::None && idx >= at;
                let (records, torn_records) = (batch.records().unwrap(), torn.records().unwrap());
                for ((record, torn_record), idx) in records.iter().zip(&torn_records).zip(0..) {
                    let (record, torn_record) = (record.unwrap(), torn_record.unwrap());
                    assert_eq!(torn_record.offset_delta, record.offset_delta + if is_moved(idx) { 3 } else { 0 });
                    assert_eq!((torn_record.key, torn_record.value), (record.key, record.value));
                    assert_eq!(torn.timestamp_ms(&torn_record), batch.timestamp_ms(&record));
                    assert!(torn_record.headers().eq(record.headers()));
                }
                assert_eq!(torn_records.iter().count(), 100);
            }
        }
    }
}
