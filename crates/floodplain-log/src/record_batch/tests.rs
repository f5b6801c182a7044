use super::*;
use proptest::prelude::*;

type Plain = (i64, Option<Vec<u8>>, Option<Vec<u8>>, Vec<(String, Vec<u8>)>);

fn build(records: &[Plain], compression: Compression) -> Batch {
    let mut builder = BatchBuilder::new();
    for (timestamp, key, value, headers) in records {
        let headers = headers.iter().map(|(name, value)| (name.as_str(), value.as_slice()));
        builder.push(*timestamp, key.as_deref(), value.as_deref(), headers).unwrap();
    }
    builder.finish(compression).unwrap()
}

fn plain(batch: &Batch) -> Vec<Plain> {
    let records = batch.records().unwrap();
    let plain = |record: Record<'_>| {
        let headers = record.headers().map(|header| header.unwrap());
        (
            batch.timestamp_ms(&record),
            record.key.map(<[u8]>::to_vec),
            record.value.map(<[u8]>::to_vec),
            headers.map(|(name, value)| (name.to_owned(), value.unwrap().to_vec())).collect(),
        )
    };
    records.iter().map(|record| plain(record.unwrap())).collect()
}

fn one() -> Batch {
    build(&[(5, Some(b"k".to_vec()), Some(b"v".to_vec()), vec![("h".into(), b"x".to_vec())])], Compression::None)
}

/// The bytes are what Kafka's documentation of the format says, field by field.
#[test]
fn layout_of_a_small_batch() {
    let batch = one();
    let b = batch.as_bytes();
    let record = [0x16, 0, 0, 0, 2, b'k', 2, b'v', 2, 2, b'h', 2, b'x'];
    assert_eq!(&b[..8], &[0; 8]);
    assert_eq!(b[8..12], (49 + record.len() as u32).to_be_bytes());
    assert_eq!(b[12..17], [0xff, 0xff, 0xff, 0xff, 2]);
    assert_eq!(b[17..21], crc32c::crc32c(&b[21..]).to_be_bytes());
    assert_eq!(b[21..27], [0; 6]);
    assert_eq!((b[34], b[42]), (5, 5));
    assert_eq!(b[43..57], [0xff; 14]);
    assert_eq!(b[57..61], [0, 0, 0, 1]);
    assert_eq!(b[61..], [&[0x18][..], &record[1..]].concat()[..]);
}

#[test]
fn the_base_offset_is_outside_the_checksum() {
    let moved = Batch::parse(one().with_base_offset(1 << 40).as_bytes().clone()).unwrap();
    assert_eq!(moved.base_offset(), 1 << 40);
    assert_eq!(plain(&moved), plain(&one()));
}

fn reseal(mut bytes: Vec<u8>) -> Bytes {
    let crc = crc32c::crc32c(&bytes[CRC_FROM..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    bytes.into()
}

#[test]
fn what_only_kafka_clients_write() {
    // Idempotent producer and LogAppendTime.
    let mut bytes = one().as_bytes().to_vec();
    bytes[43..51].copy_from_slice(&77_i64.to_be_bytes());
    bytes[51..53].copy_from_slice(&3_i16.to_be_bytes());
    bytes[53..57].copy_from_slice(&9_i32.to_be_bytes());
    bytes[22] |= 1 << 3;
    bytes[35..43].copy_from_slice(&123_i64.to_be_bytes());
    let batch = Batch::parse(reseal(bytes)).unwrap();
    assert_eq!(batch.producer(), Some((77, 3, 9)));
    assert_eq!(batch.timestamp_ms(&batch.records().unwrap().iter().next().unwrap().unwrap()), 123);

    for (code, name) in [(1, "gzip"), (2, "snappy"), (3, "lz4")] {
        let mut bytes = one().as_bytes().to_vec();
        bytes[22] = code;
        let batch = Batch::parse(reseal(bytes)).unwrap();
        assert_eq!(batch.records().unwrap_err(), BatchError::Compression(name));
    }
}

#[test]
fn a_zstd_bomb_is_bounded() {
    let bomb = zstd::bulk::compress(&vec![0; MAX_RECORDS_BYTES + 1], 1).unwrap();
    let mut bytes = one().as_bytes()[..HEADER_BYTES].to_vec();
    bytes.extend(bomb);
    bytes[22] = 4;
    let len = (bytes.len() - LENGTH_END) as u32;
    bytes[8..12].copy_from_slice(&len.to_be_bytes());
    let batch = Batch::parse(reseal(bytes)).unwrap();
    assert_eq!(batch.records().unwrap_err(), BatchError::TooLarge { max: MAX_RECORDS_BYTES });
}

#[test]
fn an_empty_builder_has_no_batch() {
    assert!(BatchBuilder::new().finish(Compression::None).is_none());
}

#[test]
fn a_builder_starts_afresh() {
    let mut builder = BatchBuilder::new();
    for timestamp in [7, 9] {
        builder.push(timestamp, None, None, []).unwrap();
        let batch = builder.finish(Compression::Zstd).unwrap();
        assert_eq!(
            (batch.base_timestamp_ms(), batch.max_timestamp_ms(), batch.record_count()),
            (timestamp, timestamp, 1)
        );
    }
}

fn records() -> impl Strategy<Value = Vec<Plain>> {
    let bytes = || proptest::collection::vec(any::<u8>(), 0..200);
    let headers = proptest::collection::vec((".{0,12}", bytes()), 0..4);
    let time = prop_oneof![0..i64::MAX / 2, Just(0)];
    proptest::collection::vec((time, proptest::option::of(bytes()), proptest::option::of(bytes()), headers), 1..20)
}

/// Walks over everything that a reader may ask for.
fn walk(batch: &Batch) {
    let Ok(records) = batch.records() else { return };
    for record in records.iter().flatten() {
        for header in record.headers() {
            if header.is_err() {
                break;
            }
        }
        let _ = (batch.timestamp_ms(&record), crate::MessageRef::parse(&record).is_ok());
    }
}

proptest! {
    #[test]
    fn round_trip(records in records(), zstd: bool) {
        let batch = build(&records, if zstd { Compression::Zstd } else { Compression::None });
        let parsed = Batch::parse(batch.as_bytes().clone()).unwrap();
        prop_assert_eq!(plain(&parsed), &records[..]);
        prop_assert_eq!(parsed.last_offset_delta() as usize, records.len() - 1);
        prop_assert_eq!(parsed.max_timestamp_ms(), records.iter().map(|r| r.0).max().unwrap());
        for record in &parsed.records().unwrap() {
            let record = record.unwrap();
            let again = Record::parse(record.bytes).unwrap();
            prop_assert_eq!((again.key, again.value), (record.key, record.value));
        }
    }

    #[test]
    fn any_change_under_the_checksum_is_found(records in records(), at: prop::sample::Index, bit in 0..8) {
        let mut bytes = build(&records, Compression::None).as_bytes().to_vec();
        let at = 16 + at.index(bytes.len() - 16);
        bytes[at] ^= 1_u8 << bit;
        prop_assert!(Batch::parse(bytes.into()).is_err());
    }

    #[test]
    fn no_bytes_panic(records in records(), zstd: bool, hits in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)) {
        let mut bytes = build(&records, if zstd { Compression::Zstd } else { Compression::None }).as_bytes().to_vec();
        for (at, byte) in hits {
            let at = CRC_FROM + at.index(bytes.len() - CRC_FROM);
            bytes[at] = byte;
        }
        if let Ok(batch) = Batch::parse(reseal(bytes)) {
            walk(&batch);
        }
    }

    #[test]
    fn noise_does_not_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        if let Ok(record) = Record::parse(&bytes) {
            let _ = (record.headers().count(), crate::MessageRef::parse(&record).is_ok());
        }
        if let Ok(batch) = Batch::parse(bytes.into()) {
            walk(&batch);
        }
    }
}
