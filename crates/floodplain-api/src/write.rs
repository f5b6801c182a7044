//! `POST /write` (InfluxDB 1.x) and `POST /api/v2/write` (2.x): line protocol.
//!
//! Each line goes to the topic `devices/{device}/{measurement}`, where the device is what the tag `device` says, or else
//! the tag `host`, or else `http`. Lines of one topic are one message; all of a request commit together. Clients do not send bad
//! lines again, so they are kept, too, as they came: a decoder refuses them once more, which makes a dead letter.

use crate::{
    body,
    influx::{BadLine, InfluxError, User},
    messages::{PUBLISHER, Publish},
    openapi::choice,
    router::Api,
    topics::fits,
};
use axum::{
    body::{Body, Bytes},
    extract::{Query, State, rejection::QueryRejection},
    http::{HeaderMap, StatusCode, header},
};
use floodplain_decode::{Decoder, Definition, Failure, Input, Outcome, Role, Row, Rows, Stage, TimeUnit, Value};
use floodplain_history::route::LINE_PROTOCOL;
use floodplain_log::{MAX_UNIT_BYTES, MessageRef};
use floodplain_types::{Class, DeviceId, validate_topic};
use serde::Deserialize;
use std::{collections::BTreeMap, fmt::Write as _, io::Read as _, sync::Arc};
use utoipa::{IntoParams, openapi::Object};
use utoipa_axum::{router::OpenApiRouter, routes};

/// Bytes of a body, and of what it is when it is unpacked; a commit takes 8 MiB.
const BODY_BYTES_MAX: usize = 5 << 20;
/// Bytes of lines in one message, if one line has not more.
const MESSAGE_BYTES: usize = 256 << 10;
/// Where bad lines go.
const REFUSED_TOPIC: &str = "devices/http/refused_lines";
/// Bad lines that an answer names.
const BAD_LINES_MAX: usize = 100;
/// The unit of times, if the request names none.
const PRECISION: &str = "ns";
const LINES: &str = "up to 5 MiB, also when unpacked; Content-Encoding may be gzip";
/// Tags that name the device, the first one that is there.
const DEVICE_TAG: &str = "device";
const HOST_TAG: &str = "host";

pub(crate) fn routes() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::default().routes(routes!(write_v1)).routes(routes!(write_v2))
}

// What is not named here (`db`, `rp`, `org`, `bucket`) is for servers with several databases.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct WriteQuery {
    /// The unit of times.
    #[param(schema_with = precision, required = false)]
    precision: Option<String>,
}

fn precision() -> Object {
    choice(PRECISION, ["n", "ns", "u", "us", "ms", "s", "m", "h"])
}

/// Line protocol, as InfluxDB 1.x takes it
///
/// Writes all good lines, and then says which were bad.
///
/// A client that goes away may still have written.
#[utoipa::path(post, path = "/write", params(WriteQuery, User, ("db" = Option<String>, Query, description = "not looked at")),
    request_body(content = String, content_type = "text/plain", description = LINES),
    responses((status = 204, description = "all lines are committed"), InfluxError))]
async fn write_v1(
    State(api): State<Arc<Api>>,
    query: Result<Query<WriteQuery>, QueryRejection>,
    headers: HeaderMap,
    body: Body,
) -> Result<StatusCode, InfluxError> {
    run(&api, query, &headers, body).await.map(|()| StatusCode::NO_CONTENT)
}

/// Line protocol, as InfluxDB 2.x takes it
///
/// Writes all good lines, and then says which were bad.
///
/// A client that goes away may still have written.
#[utoipa::path(post, path = "/api/v2/write", params(WriteQuery, User, ("org" = Option<String>, Query, description = "not looked at"),
        ("bucket" = Option<String>, Query, description = "not looked at")),
    request_body(content = String, content_type = "text/plain", description = LINES),
    responses((status = 204, description = "all lines are committed"), InfluxError))]
async fn write_v2(
    State(api): State<Arc<Api>>,
    query: Result<Query<WriteQuery>, QueryRejection>,
    headers: HeaderMap,
    body: Body,
) -> Result<StatusCode, InfluxError> {
    run(&api, query, &headers, body).await.map(|()| StatusCode::NO_CONTENT)
}

async fn run(
    api: &Api,
    query: Result<Query<WriteQuery>, QueryRejection>,
    headers: &HeaderMap,
    body: Body,
) -> Result<(), InfluxError> {
    let invalid = |message: String| InfluxError::new(StatusCode::BAD_REQUEST, message);
    let Query(query) = query.map_err(|error| invalid(error.body_text()))?;
    let precision = query.precision.as_deref().filter(|precision| !precision.is_empty()).unwrap_or(PRECISION);
    let unit = precision.parse::<TimeUnit>().ok().filter(|unit| *unit != TimeUnit::Auto);
    let unit = unit.ok_or_else(|| invalid(format!("precision {precision:?} is unknown: use ns, us, ms, s, m or h")))?;
    let is_packed = match headers.get(header::CONTENT_ENCODING).map(|value| value.as_bytes()) {
        None | Some(b"" | b"identity") => false,
        Some(b"gzip") => true,
        Some(_) => {
            let message = "content encoding is gzip or identity";
            return Err(InfluxError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message));
        }
    };
    // What is unpacked takes as much as it likes, up to the limit; and lines are written anew.
    let _room = match is_packed {
        true => api.messages.admit(&HeaderMap::new(), BODY_BYTES_MAX, 2)?,
        false => api.messages.admit(headers, BODY_BYTES_MAX, 2)?,
    };
    let body = body::read(body, BODY_BYTES_MAX, api.limits.body_time_max).await?;
    let limits = *api.messages.limits();
    let decode = move || -> Result<Batch, InfluxError> {
        let body = if is_packed { unpack(&body)? } else { body };
        Batch::decode(&body, unit, limits.topic_bytes_max, limits.topic_levels_max)
    };
    let batch = tokio::task::spawn_blocking(decode).await;
    let batch = batch.map_err(|error| InfluxError::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))??;
    let content_type = lines_of(unit);
    let refused = batch.refused_lines.iter().map(|lines| refused_message(lines, &content_type));
    let unplaced = batch.unplaced.iter().map(|lines| refused_message(lines.as_bytes(), "text/plain"));
    let messages: Vec<Publish<'_>> = batch.messages.iter().map(Group::message).chain(refused).chain(unplaced).collect();
    if !messages.is_empty() {
        api.messages.publish(&messages, Class::All).await?;
    }
    metrics::counter!("floodplain_http_written_lines_total").increment(batch.written);
    metrics::counter!("floodplain_http_refused_lines_total").increment(batch.refused);
    if batch.refused == 0 {
        return Ok(());
    }
    let first = batch.bad.first().map_or(String::new(), |bad| match bad.line {
        Some(line) => format!("line {line}: {}", bad.message),
        None => bad.message.clone(),
    });
    let written = if batch.written > 0 { "partial write" } else { "nothing was written" };
    let message = format!("{written}: {first} ({} lines written, {} refused and kept)", batch.written, batch.refused);
    Err(invalid(message).with_lines(batch.bad))
}

fn unpack(packed: &[u8]) -> Result<Bytes, InfluxError> {
    let mut body = Vec::new();
    let unpacked = flate2::read::MultiGzDecoder::new(packed).take(BODY_BYTES_MAX as u64 + 1).read_to_end(&mut body);
    unpacked.map_err(|error| InfluxError::new(StatusCode::BAD_REQUEST, format!("body is no gzip: {error}")))?;
    if body.len() > BODY_BYTES_MAX {
        let message = format!("body may have {BODY_BYTES_MAX} bytes when it is unpacked");
        return Err(InfluxError::new(StatusCode::PAYLOAD_TOO_LARGE, message));
    }
    Ok(body.into())
}

/// The content type of lines whose times have this unit.
fn lines_of(unit: TimeUnit) -> String {
    format!("{LINE_PROTOCOL}; precision={unit}")
}

fn refused_message<'a>(payload: &'a [u8], content_type: &'a str) -> Publish<'a> {
    let message = MessageRef {
        topic: REFUSED_TOPIC,
        payload,
        key: PUBLISHER.as_bytes(),
        qos: 1,
        content_type: Some(content_type),
        ..MessageRef::default()
    };
    Publish { message, user_properties: &[] }
}

/// Lines of one topic.
#[derive(Debug)]
struct Group {
    topic: String,
    device: String,
    lines: String,
}

impl Group {
    fn message(&self) -> Publish<'_> {
        let message = MessageRef {
            topic: &self.topic,
            payload: self.lines.as_bytes(),
            key: self.device.as_bytes(),
            qos: 1,
            content_type: Some(LINE_PROTOCOL),
            publisher: Some(PUBLISHER),
            ..MessageRef::default()
        };
        Publish { message, user_properties: &[] }
    }
}

/// What a body is.
#[derive(Debug, Default)]
struct Batch {
    messages: Vec<Group>,
    /// Lines that no decoder understands, as they came.
    refused_lines: Vec<Vec<u8>>,
    /// Lines that are well, but have a name that is no level of a topic.
    unplaced: Option<String>,
    written: u64,
    refused: u64,
    bad: Vec<BadLine>,
}

impl Batch {
    fn decode(body: &[u8], unit: TimeUnit, bytes_max: usize, levels_max: usize) -> Result<Self, InfluxError> {
        let decoder = Decoder::new(Definition::line_protocol());
        let content_type = lines_of(unit);
        let input = Input { payload: body, content_type: Some(&content_type), device: PUBLISHER, table: "" };
        let mut rows = Rows::new();
        let Outcome::Rows(decoded) = decoder.decode(&input, &mut rows) else { return Ok(Self::default()) };
        if let Some(failure) = decoded.failures().iter().find(|failure| failure.stage == Stage::Limit) {
            return Err(InfluxError::new(StatusCode::PAYLOAD_TOO_LARGE, failure.reason.clone()));
        }
        let bad = |failure: &Failure| BadLine { line: failure.line, message: failure.reason.clone() };
        let mut batch = Self {
            refused: decoded.refused_count(),
            bad: decoded.failures().iter().take(BAD_LINES_MAX).map(bad).collect(),
            ..Self::default()
        };
        let mut bytes: usize = decoded.refused().iter().map(|lines| lines.len() + 1).sum();
        for line in
            decoded.refused().iter().flat_map(|lines| body[lines.clone()].split_inclusive(|byte| *byte == b'\n'))
        {
            match batch.refused_lines.last_mut().filter(|lines| lines.len() + line.len() < MESSAGE_BYTES) {
                Some(lines) => lines.extend_from_slice(line),
                None => batch.refused_lines.push(line.to_vec()),
            }
            if let Some(lines) = batch.refused_lines.last_mut().filter(|lines| !lines.ends_with(b"\n")) {
                lines.push(b'\n');
            }
        }
        // The last message of each topic.
        let mut last: BTreeMap<String, usize> = BTreeMap::new();
        for row in decoded.rows() {
            let (device, is_tag) = device(&row);
            let topic = format!("devices/{device}/{}", row.table());
            if let Err(message) = check(device, &row, &topic, bytes_max, levels_max) {
                batch.refused += 1;
                if batch.bad.len() < BAD_LINES_MAX {
                    batch.bad.push(BadLine { line: None, message });
                }
                let unplaced = batch.unplaced.get_or_insert_default();
                let before = unplaced.len();
                put_line(unplaced, &row, false);
                bytes += unplaced.len() - before;
                continue;
            }
            let at = last.get(&topic).copied().filter(|at| batch.messages[*at].lines.len() < MESSAGE_BYTES);
            let at = at.unwrap_or_else(|| {
                bytes += topic.len() + device.len();
                let group = Group { topic: topic.clone(), device: device.to_owned(), lines: String::new() };
                batch.messages.push(group);
                batch.messages.len() - 1
            });
            last.insert(topic, at);
            let group = &mut batch.messages[at];
            let before = group.lines.len();
            put_line(&mut group.lines, &row, is_tag);
            bytes += group.lines.len() - before;
            if bytes as u64 > MAX_UNIT_BYTES {
                let message = format!("what is written at once may have {MAX_UNIT_BYTES} bytes: write fewer lines");
                return Err(InfluxError::new(StatusCode::PAYLOAD_TOO_LARGE, message));
            }
            batch.written += 1;
        }
        Ok(batch)
    }
}

/// The device of a line, and whether it has a tag `device` for it.
fn device<'r>(row: &Row<'r>) -> (&'r str, bool) {
    let tag = |wanted: &str| {
        row.fields().find_map(|field| match field.value {
            Value::Text(text) if field.role == Role::Key && field.name == wanted => Some(text),
            _ => None,
        })
    };
    match tag(DEVICE_TAG) {
        Some(device) => (device, true),
        None => (tag(HOST_TAG).unwrap_or(PUBLISHER), false),
    }
}

/// Whether device and measurement can be levels of a topic.
fn check(device: &str, row: &Row<'_>, topic: &str, bytes_max: usize, levels_max: usize) -> Result<(), String> {
    for (what, name) in [("device", device), ("measurement", row.table())] {
        if name.contains('/') || name.chars().any(char::is_control) {
            return Err(format!("{what} {name:.64?} holds a slash or a control character"));
        }
    }
    if device.len() > DeviceId::MAX_BYTES {
        return Err(format!("device has {} bytes, the limit is {}", device.len(), DeviceId::MAX_BYTES));
    }
    fits(topic, bytes_max, levels_max).map_err(|problem| problem.to_text())?;
    validate_topic(topic).map_err(|error| error.to_string())
}

/// Writes a row as a line with its time in nanoseconds; without the tag `device`, whose value is the device.
fn put_line(out: &mut String, row: &Row<'_>, has_device_tag: bool) {
    put_escaped(out, row.table(), &[',', ' ']);
    let is_device = |name: &str, role: Role| has_device_tag && role == Role::Key && name == DEVICE_TAG;
    for tag in row.fields().filter(|field| field.role == Role::Key && !is_device(field.name, field.role)) {
        out.push(',');
        put_escaped(out, tag.name, &[',', '=', ' ']);
        out.push('=');
        if let Value::Text(text) = tag.value {
            put_escaped(out, text, &[',', '=', ' ']);
        }
    }
    let mut separator = ' ';
    for field in row.fields().filter(|field| field.role != Role::Key) {
        out.push(separator);
        separator = ',';
        put_escaped(out, field.name, &[',', '=', ' ']);
        out.push('=');
        put_value(out, &field.value);
    }
    if let Some(time) = row.time() {
        write!(out, " {}", time.0).expect("writing to a String cannot fail");
    }
    out.push('\n');
}

fn put_value(out: &mut String, value: &Value<'_>) {
    const NEVER: &str = "writing to a String cannot fail";
    match value {
        Value::Bool(value) => write!(out, "{value}").expect(NEVER),
        Value::Int(value) => write!(out, "{value}i").expect(NEVER),
        // With an exponent where that is shorter: 1e308 has 309 digits.
        Value::Float(value) => write!(out, "{value:?}").expect(NEVER),
        Value::Text(text) => put_text(out, text),
        // A field with the name of a tag, or an integer that only unsigned ones hold, as JSON.
        Value::Rest(json) => match serde_json::from_str(json) {
            Ok(serde_json::Value::String(text)) => put_text(out, &text),
            Ok(serde_json::Value::Number(number)) if number.is_u64() && !number.is_i64() => {
                write!(out, "{number}u").expect(NEVER);
            }
            Ok(serde_json::Value::Number(number)) if number.is_i64() => write!(out, "{number}i").expect(NEVER),
            _ => out.push_str(json),
        },
        // Line protocol has neither.
        Value::Bytes(_) | Value::List(_) => out.push_str("\"\""),
    }
}

fn put_text(out: &mut String, text: &str) {
    out.push('"');
    put_escaped(out, text, &['"', '\\']);
    out.push('"');
}

fn put_escaped(out: &mut String, text: &str, escaped: &[char]) {
    for char in text.chars() {
        if escaped.contains(&char) {
            out.push('\\');
        }
        out.push(char);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(body: &str, unit: TimeUnit) -> Batch {
        Batch::decode(body.as_bytes(), unit, 1000, 10).unwrap()
    }

    fn lines(body: &str, unit: TimeUnit) -> Vec<(String, String)> {
        decode(body, unit).messages.into_iter().map(|group| (group.topic, group.lines)).collect()
    }

    #[test]
    fn lines_go_to_the_topics_of_their_devices() {
        let body = "cpu,device=d-1,core=0 load=0.5,n=3i 1700000000\n\
                    cpu,core=1,device=d-1 load=1 1700000001\n\
                    cpu,host=h load=2\n\
                    mem free=7u,ok=t,name=\"a \\\"b\\\" \\\\\"\n";
        let topic = |topic: &str, lines: &str| (topic.to_owned(), lines.to_owned());
        assert_eq!(
            lines(body, TimeUnit::Seconds),
            [
                topic(
                    "devices/d-1/cpu",
                    "cpu,core=0 load=0.5,n=3i 1700000000000000000\ncpu,core=1 load=1.0 1700000001000000000\n"
                ),
                topic("devices/h/cpu", "cpu,host=h load=2.0\n"),
                topic("devices/http/mem", "mem free=7i,ok=true,name=\"a \\\"b\\\" \\\\\"\n"),
            ]
        );
    }

    #[test]
    fn lines_do_not_grow_beyond_what_is_committed_at_once() {
        let once = lines("m f=1e308,g=5e-324\n", TimeUnit::Nanoseconds).remove(0).1;
        assert_eq!(once, "m f=1e308,g=5e-324\n");
        // Each line is a device of its own, whose topic is as long as the line.
        let body: String = (0..40_000).map(|n| format!("{:m<200},device={n} f=1\n", "")).collect();
        let refused = Batch::decode(body.as_bytes(), TimeUnit::Nanoseconds, 1000, 10).unwrap_err();
        assert_eq!(refused.status, StatusCode::PAYLOAD_TOO_LARGE, "{refused:?}");
    }

    #[test]
    fn what_is_written_anew_reads_the_same() {
        for line in [
            "a\\,b\\ c,t\\=1=v\\,\\ \\=x f\\ 1=1e300,g=-2.5e-7,h=18446744073709551615u 1\n",
            "m,a\\\\,b=c f=\"line\nbreak, \\\\ and \\\" quote\"\n",
            "m,f=tag f=5i,g=1 -1\n",
        ] {
            let once = lines(line, TimeUnit::Nanoseconds).remove(0).1;
            let twice = lines(&once, TimeUnit::Nanoseconds).remove(0).1;
            assert_eq!(once, twice, "{line}");
            let rows = |line: &str| {
                let (decoder, mut rows) = (Decoder::new(Definition::line_protocol()), Rows::new());
                let input = Input { payload: line.as_bytes(), content_type: None, device: "d", table: "" };
                let Outcome::Rows(decoded) = decoder.decode(&input, &mut rows) else { panic!("lines are declared") };
                assert!(decoded.failures().is_empty(), "{:?}", decoded.failures());
                decoded
                    .rows()
                    .map(|row| format!("{:?} {:?} {:?}", row.table(), row.time(), row.fields().collect::<Vec<_>>()))
                    .collect::<Vec<_>>()
            };
            assert_eq!(rows(line), rows(&once), "{line}");
        }
    }

    #[test]
    fn bad_lines_are_named_and_good_ones_are_kept() {
        let batch = decode("a f=1\nb\na/b f=1\nc f=x\n\nd f=2\n", TimeUnit::Nanoseconds);
        assert_eq!((batch.written, batch.refused), (2, 3));
        assert_eq!(batch.bad.iter().map(|bad| bad.line).collect::<Vec<_>>(), [Some(2), Some(4), None]);
        assert_eq!(batch.refused_lines, [b"b\nc f=x\n"]);
        assert_eq!(batch.unplaced.as_deref(), Some("a/b f=1.0\n"));
        // Also the bytes of what is no text.
        let batch = Batch::decode(b"a f=\"\xff\"\nb f=1", TimeUnit::Nanoseconds, 1000, 10).unwrap();
        assert_eq!((batch.written, batch.refused_lines), (1, vec![b"a f=\"\xff\"\n".to_vec()]));
        // And of very many, message by message.
        let batch = decode(&"bad line\n".repeat(100_000), TimeUnit::Nanoseconds);
        assert_eq!((batch.refused, batch.refused_lines.concat().len()), (100_000, 900_000));
        assert!(batch.refused_lines.iter().all(|lines| lines.len() <= MESSAGE_BYTES));
    }

    #[test]
    fn long_batches_become_several_messages() {
        let body = "m,device=d f=\"0123456789012345678901234567890123456789\"\n".repeat(10_000);
        let batch = decode(&body, TimeUnit::Nanoseconds);
        assert_eq!(batch.written, 10_000);
        assert!(batch.messages.len() > 1 && batch.messages.iter().all(|group| group.lines.len() < MESSAGE_BYTES + 100));
    }

    #[test]
    fn bombs_do_not_go_off() {
        use std::io::Write as _;
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        for _ in 0..100 {
            encoder.write_all(&[b' '; 1 << 20]).unwrap();
        }
        let packed = encoder.finish().unwrap();
        assert_eq!(unpack(&packed).unwrap_err().status, StatusCode::PAYLOAD_TOO_LARGE);
        assert_eq!(unpack(b"no gzip").unwrap_err().status, StatusCode::BAD_REQUEST);
    }
}
