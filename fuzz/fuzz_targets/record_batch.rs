//! Any bytes as a RecordBatch v2: no panic and no run-away memory, with and without a checksum that fits.
#![no_main]

use bytes::Bytes;
use floodplain_log::{Batch, HEADER_BYTES, MessageRef, Record};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    if let Ok(record) = Record::parse(input) {
        read(&record);
    }
    if let Ok(batch) = Batch::parse(Bytes::copy_from_slice(input)) {
        read_batch(&batch);
    }
    // Past the checksum: the length, the magic and the checksum are made to fit.
    if input.len() >= HEADER_BYTES {
        let mut bytes = input.to_vec();
        bytes[8..12].copy_from_slice(&(input.len() as i32 - 12).to_be_bytes());
        bytes[16] = 2;
        let checksum = crc32c::crc32c(&bytes[21..]);
        bytes[17..21].copy_from_slice(&checksum.to_be_bytes());
        if let Ok(batch) = Batch::parse(bytes.into()) {
            read_batch(&batch);
        }
    }
});

fn read_batch(batch: &Batch) {
    let moved = batch.with_base_offset(batch.base_offset() / 2);
    assert_eq!(
        Batch::parse(moved.as_bytes().clone()).as_ref(),
        Ok(&moved),
        "the checksum does not cover the base offset"
    );
    let Ok(records) = batch.records() else { return };
    for record in records.iter().flatten() {
        assert!(record.offset_delta <= batch.last_offset_delta());
        read(&record);
        assert_eq!(Record::parse(record.bytes).map(|again| again.value), Ok(record.value));
    }
}

fn read(record: &Record<'_>) {
    record.headers().for_each(drop);
    if let Ok(message) = MessageRef::parse(record) {
        message.user_properties().for_each(drop);
    }
}
