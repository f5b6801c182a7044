//! The columns of `records`, and how a record fills them.

use datafusion::{
    arrow::{
        array::{
            ArrayRef, BinaryBuilder, BooleanBuilder, Int16Builder, Int32Builder, Int64Builder, RecordBatch,
            RecordBatchOptions, StringBuilder, TimestampNanosecondBuilder,
        },
        datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit},
        error::ArrowError,
    },
    common::Result,
};
use floodplain_log::{MessageRef, Record};
use floodplain_types::{Position, StreamId};
use serde::ser::{SerializeMap as _, Serializer as _};
use std::sync::Arc;

/// What one row is made of.
pub(super) struct Row<'a> {
    pub(super) stream: &'a StreamId,
    pub(super) partition: u32,
    pub(super) position: Position,
    pub(super) received_ns: i64,
    pub(super) record: &'a Record<'a>,
    /// `None` for records that are no messages, and where no column asks for it.
    pub(super) message: Option<&'a MessageRef<'a>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Name {
    Tenant,
    Stream,
    Partition,
    Generation,
    Offset,
    Position,
    Device,
    Topic,
    Received,
    EventTime,
    Payload,
    ContentType,
    Qos,
    Retain,
    ExpirySeconds,
    Publisher,
    ResponseTopic,
    Correlation,
    UserProperties,
}

impl Name {
    /// In the order of the table.
    const ALL: [(Self, &'static str, bool); 19] = [
        (Self::Tenant, "tenant", false),
        (Self::Stream, "stream", false),
        (Self::Partition, "partition", false),
        (Self::Generation, "generation", false),
        (Self::Offset, "offset", false),
        (Self::Position, "position", false),
        (Self::Device, "device", true),
        (Self::Topic, "topic", true),
        (Self::Received, "received", false),
        (Self::EventTime, "event_time", true),
        (Self::Payload, "payload", true),
        (Self::ContentType, "content_type", true),
        (Self::Qos, "qos", true),
        (Self::Retain, "retain", true),
        (Self::ExpirySeconds, "expiry_seconds", true),
        (Self::Publisher, "publisher", true),
        (Self::ResponseTopic, "response_topic", true),
        (Self::Correlation, "correlation", true),
        (Self::UserProperties, "user_properties", true),
    ];

    fn data_type(self) -> DataType {
        match self {
            Self::Partition | Self::Generation => DataType::Int32,
            Self::Offset | Self::ExpirySeconds => DataType::Int64,
            Self::Received | Self::EventTime => DataType::Timestamp(TimeUnit::Nanosecond, Some("UTC".into())),
            Self::Payload | Self::Correlation => DataType::Binary,
            Self::Qos => DataType::Int16,
            Self::Retain => DataType::Boolean,
            Self::Tenant
            | Self::Stream
            | Self::Position
            | Self::Device
            | Self::Topic
            | Self::ContentType
            | Self::Publisher
            | Self::ResponseTopic
            | Self::UserProperties => DataType::Utf8,
        }
    }

    /// Whether the headers of the record must be decoded.
    fn is_in_headers(self) -> bool {
        match self {
            Self::Tenant
            | Self::Stream
            | Self::Partition
            | Self::Generation
            | Self::Offset
            | Self::Position
            | Self::Device
            | Self::Payload => false,
            Self::Topic
            | Self::Received
            | Self::EventTime
            | Self::ContentType
            | Self::Qos
            | Self::Retain
            | Self::ExpirySeconds
            | Self::Publisher
            | Self::ResponseTopic
            | Self::Correlation
            | Self::UserProperties => true,
        }
    }
}

/// The whole table.
pub(super) fn schema() -> SchemaRef {
    let fields = Name::ALL.iter().map(|(name, text, nullable)| Field::new(*text, name.data_type(), *nullable));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// Whether a projection of the table needs the headers of the records.
pub(super) fn need_headers(projection: &[usize]) -> bool {
    projection.iter().any(|idx| Name::ALL[*idx].0.is_in_headers())
}

enum Builder {
    Text(StringBuilder),
    Binary(BinaryBuilder),
    Int16(Int16Builder),
    Int32(Int32Builder),
    Int64(Int64Builder),
    Boolean(BooleanBuilder),
    Time(TimestampNanosecondBuilder),
}

impl Builder {
    fn new(data_type: &DataType) -> Self {
        match data_type {
            DataType::Binary => Self::Binary(BinaryBuilder::new()),
            DataType::Int16 => Self::Int16(Int16Builder::new()),
            DataType::Int32 => Self::Int32(Int32Builder::new()),
            DataType::Int64 => Self::Int64(Int64Builder::new()),
            DataType::Boolean => Self::Boolean(BooleanBuilder::new()),
            DataType::Timestamp(..) => Self::Time(TimestampNanosecondBuilder::new().with_data_type(data_type.clone())),
            _ => Self::Text(StringBuilder::new()),
        }
    }

    fn text(&mut self, value: Option<&str>) {
        if let Self::Text(builder) = self {
            builder.append_option(value);
        }
    }

    fn binary(&mut self, value: Option<&[u8]>) {
        if let Self::Binary(builder) = self {
            builder.append_option(value);
        }
    }

    fn int(&mut self, value: Option<i64>) {
        // The columns hold partition numbers, QoS and the like, which fit their types.
        match self {
            Self::Int16(builder) => builder.append_option(value.and_then(|value| i16::try_from(value).ok())),
            Self::Int32(builder) => builder.append_option(value.and_then(|value| i32::try_from(value).ok())),
            Self::Int64(builder) => builder.append_option(value),
            Self::Time(builder) => builder.append_option(value),
            _ => {}
        }
    }

    fn boolean(&mut self, value: Option<bool>) {
        if let Self::Boolean(builder) = self {
            builder.append_option(value);
        }
    }

    fn finish(&mut self) -> ArrayRef {
        match self {
            Self::Text(builder) => Arc::new(builder.finish()),
            Self::Binary(builder) => Arc::new(builder.finish()),
            Self::Int16(builder) => Arc::new(builder.finish()),
            Self::Int32(builder) => Arc::new(builder.finish()),
            Self::Int64(builder) => Arc::new(builder.finish()),
            Self::Boolean(builder) => Arc::new(builder.finish()),
            Self::Time(builder) => Arc::new(builder.finish()),
        }
    }
}

/// Collects rows of a projection of the table into batches.
pub(super) struct Columns {
    schema: SchemaRef,
    columns: Vec<(Name, Builder)>,
    rows: usize,
    bytes: usize,
    scratch: String,
}

impl Columns {
    /// Rows per batch: what DataFusion's operators are tuned for.
    const ROWS_MAX: usize = 8192;
    /// Bytes of payload per batch, so that large messages do not make large batches.
    const BYTES_MAX: usize = 4 << 20;

    pub(super) fn new(schema: SchemaRef, projection: &[usize]) -> Self {
        let columns = projection.iter().map(|idx| {
            let name = Name::ALL[*idx].0;
            (name, Builder::new(&name.data_type()))
        });
        Self { schema, columns: columns.collect(), rows: 0, bytes: 0, scratch: String::new() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows == 0
    }

    pub(super) fn is_full(&self) -> bool {
        self.rows >= Self::ROWS_MAX || self.bytes >= Self::BYTES_MAX
    }

    /// Counts rows of which no column is wanted.
    pub(super) fn push_empty(&mut self, rows: usize) {
        debug_assert!(self.columns.is_empty());
        self.rows += rows;
    }

    pub(super) fn push(&mut self, row: &Row<'_>) {
        self.rows += 1;
        self.bytes += row.record.bytes.len();
        let message = row.message;
        for (name, builder) in &mut self.columns {
            match name {
                Name::Tenant => builder.text(Some(row.stream.tenant.as_str())),
                Name::Stream => builder.text(Some(row.stream.stream.as_str())),
                Name::Partition => builder.int(Some(row.partition.into())),
                Name::Generation => builder.int(Some(row.position.generation.into())),
                Name::Offset => builder.int(i64::try_from(row.position.offset).ok()),
                Name::Position => {
                    self.scratch.clear();
                    std::fmt::Write::write_fmt(&mut self.scratch, format_args!("{}", row.position))
                        .expect("writing to a String cannot fail");
                    builder.text(Some(&self.scratch));
                }
                Name::Device => builder.text(row.record.key.and_then(|key| std::str::from_utf8(key).ok())),
                Name::Topic => builder.text(message.map(|message| message.topic)),
                Name::Received => builder.int(Some(row.received_ns)),
                Name::EventTime => builder.int(message.and_then(|message| message.event_time_ns)),
                Name::Payload => builder.binary(row.record.value),
                Name::ContentType => builder.text(message.and_then(|message| message.content_type)),
                Name::Qos => builder.int(message.map(|message| message.qos.into())),
                Name::Retain => builder.boolean(message.map(|message| message.retain)),
                Name::ExpirySeconds => {
                    builder.int(message.and_then(|message| message.expiry_seconds).map(i64::from));
                }
                Name::Publisher => {
                    let publisher = message.map(MessageRef::publisher_or_key);
                    builder.text(publisher.filter(|publisher| !publisher.is_empty()));
                }
                Name::ResponseTopic => builder.text(message.and_then(|message| message.response_topic)),
                Name::Correlation => {
                    let correlation = message.and_then(|message| message.correlation);
                    builder.binary(correlation.map(|correlation| correlation.data()).as_deref());
                }
                Name::UserProperties => builder.text(message.and_then(user_properties).as_deref()),
            }
        }
    }

    /// The rows so far; starts again with none.
    pub(super) fn finish(&mut self) -> Result<RecordBatch, ArrowError> {
        let arrays = self.columns.iter_mut().map(|(_, builder)| builder.finish()).collect();
        let options = RecordBatchOptions::new().with_row_count(Some(self.rows));
        (self.rows, self.bytes) = (0, 0);
        RecordBatch::try_new_with_options(Arc::clone(&self.schema), arrays, &options)
    }
}

/// A JSON object: a text per name, or an array of texts where the name was given more than once.
fn user_properties(message: &MessageRef<'_>) -> Option<String> {
    let properties: Vec<_> = message.user_properties().collect();
    if properties.is_empty() {
        return None;
    }
    let mut out = Vec::new();
    let mut serializer = serde_json::Serializer::new(&mut out);
    let mut map = serializer.serialize_map(None).ok()?;
    for (idx, (name, value)) in properties.iter().enumerate() {
        let same = |(other, _): &&(&str, &str)| other == name;
        if properties[..idx].iter().any(|property| same(&property)) {
            continue;
        }
        let values: Vec<_> = properties.iter().filter(same).map(|(_, value)| *value).collect();
        if values.len() == 1 { map.serialize_entry(name, value) } else { map.serialize_entry(name, &values) }.ok()?;
    }
    map.end().ok()?;
    String::from_utf8(out).ok()
}
