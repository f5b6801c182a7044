//! Messages of a consumer as batches.

use floodplain_log::{Batch, BatchBuilder, BatchError, Compression, HEADER_BYTES, ReadBatch, Record};
use floodplain_types::Position;
use rdkafka::{
    Message, Timestamp,
    bindings::{rd_kafka_header_get_all, rd_kafka_headers_t, rd_kafka_message_headers, rd_kafka_resp_err_t},
    message::BorrowedMessage,
};
use std::{borrow::Cow, ffi::CStr, ptr};

/// Makes batches of consumed messages, one of each.
///
/// librdkafka gives records one by one and does not say which batch they came in. Batches of our own making must be
/// the same whoever reads them, from wherever, at whatever time: folds keep references into them. One record is the
/// only cut with that property that needs no agreement.
#[derive(Debug, Default)]
pub(crate) struct Encoder {
    builder: BatchBuilder,
    headers: Vec<(String, Vec<u8>)>,
}

impl Encoder {
    /// The batch of this message, with its offset in it.
    pub(crate) fn encode(&mut self, message: &BorrowedMessage<'_>) -> Result<Batch, BatchError> {
        let offset = u64::try_from(message.offset()).unwrap_or(0);
        let time_ms = match message.timestamp() {
            Timestamp::CreateTime(ms) | Timestamp::LogAppendTime(ms) => ms,
            Timestamp::NotAvailable => 0,
        };
        self.headers.clear();
        each_header(message, |name, value| self.headers.push((name.into_owned(), value.to_vec())));
        let headers = self.headers.iter().map(|(name, value)| (name.as_str(), value.as_slice()));
        self.builder.push(time_ms, message.key(), message.payload(), headers)?;
        let batch = self.builder.finish(Compression::None).expect("one record was pushed");
        Ok(batch.with_base_offset(offset))
    }
}

/// A record that was read, as a batch of its own.
pub(crate) fn read_batch(generation: u32, batch: &Batch) -> ReadBatch {
    let offset = batch.base_offset();
    ReadBatch { base: Position::new(generation, offset), batch: batch.clone(), at: offset }
}

/// Exactly the encoded record of such a batch.
pub(crate) fn bytes_of(batch: &Batch) -> bytes::Bytes {
    batch.as_bytes().slice(HEADER_BYTES..)
}

/// Names that are not UTF-8, which some other producer must have written, get replacement characters: rdkafka's own
/// accessor would panic.
#[expect(unsafe_code, reason = "headers with any name, which rdkafka does not offer")]
fn each_header(message: &BorrowedMessage<'_>, mut each: impl FnMut(Cow<'_, str>, &[u8])) {
    let mut headers: *mut rd_kafka_headers_t = ptr::null_mut();
    // SAFETY: the message is alive for the whole function, and its headers with it. librdkafka parses them once, on
    // the first call, and nobody else has this message.
    let found = unsafe { rd_kafka_message_headers(message.ptr(), &mut headers) };
    if found != rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR || headers.is_null() {
        return;
    }
    for idx in 0.. {
        let (mut name, mut value, mut len) = (ptr::null(), ptr::null(), 0);
        // SAFETY: `headers` came from the live message above; the three results are written on success only.
        let got = unsafe { rd_kafka_header_get_all(headers, idx, &mut name, &mut value, &mut len) };
        if got != rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR || name.is_null() {
            return;
        }
        // SAFETY: librdkafka ends names with a zero byte; they live as long as the message.
        let name = unsafe { CStr::from_ptr(name) }.to_string_lossy();
        let value = if value.is_null() {
            // Our format has no null for values of headers.
            &[][..]
        } else {
            // SAFETY: `len` bytes at `value` belong to the message.
            unsafe { std::slice::from_raw_parts(value.cast::<u8>(), len) }
        };
        each(name, value);
    }
}

/// Whether every record of a batch can be given to a producer: decodes them all.
pub(crate) fn check(batch: &Batch, mut each: impl FnMut(&Record<'_>)) -> Result<(), BatchError> {
    for record in &batch.records()? {
        let record = record?;
        for header in record.headers() {
            header?;
        }
        each(&record);
    }
    Ok(())
}
