//! Wills as records.

use crate::folds::{DATA, TELEMETRY, Will};
use floodplain_fold::Output;
use floodplain_log::{BatchBuilder, Compression, Correlation, MessageRef};
use floodplain_types::{ClientId, Position};

/// The will as a message of its client.
pub(super) fn will_record(builder: &mut BatchBuilder, client: &ClientId, epoch: Position, will: &Will) -> Output {
    let epoch = epoch.to_string();
    let message = MessageRef {
        topic: will.topic.as_str(),
        payload: &will.payload,
        key: client.as_str().as_bytes(),
        qos: will.qos,
        retain: will.retain,
        expiry_seconds: will.expiry_s,
        content_type: will.content_type.as_deref(),
        response_topic: will.response_topic.as_deref(),
        correlation: will.correlation.as_deref().map(Correlation::Raw),
        payload_format: will.payload_format,
        session_epoch: Some(&epoch),
        ..MessageRef::default()
    };
    let user = will.user_properties.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    // The writer of messages knows the headers; it writes into a batch, so they are read back.
    message.write(builder, 0, user).expect("a will fits an empty batch: it came in one packet");
    let batch = builder.finish(Compression::None).expect("one record was pushed");
    let records = batch.records().expect("the batch is ours");
    let record = records.iter().next().and_then(Result::ok).expect("the batch has one record");
    let headers = record.headers().map_while(Result::ok);
    Output {
        stream: DATA.get(will.stream as usize).copied().unwrap_or(TELEMETRY),
        key: message.key.to_vec(),
        value: Some(will.payload.to_vec()),
        headers: headers.map(|(name, value)| (name.to_owned(), value.unwrap_or_default().to_vec())).collect(),
    }
}
