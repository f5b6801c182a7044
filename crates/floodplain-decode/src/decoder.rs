//! One door to all decoders.

use crate::{
    cbor::Cbor,
    checksum,
    definition::{Definition, Plan},
    document::{self, Shape, VALUE},
    failure::{DecoderVersion, Failure, Refusal, Stage},
    json::Json,
    layout::LayoutColumn,
    line_protocol, plain,
    rows::{Builder, Decoded, Rows, Slot},
    time::TimeUnit,
};

/// Raised whenever the code reads some bytes otherwise than the release before, for any decoder.
const REVISION: u16 = 1;
/// Positions in the payload are kept in 31 bits.
const MAX_PAYLOAD_BYTES: usize = (1 << 31) - 1;

/// A payload and what is known about it.
#[derive(Debug, Clone, Copy)]
pub struct Input<'a> {
    pub payload: &'a [u8],
    /// As the sender gave it. `application/cbor` lets `auto` read CBOR; of line protocol's the parameter `precision` wins
    /// over the definition's: `text/plain; precision=ms`.
    pub content_type: Option<&'a str>,
    /// The device that the record is keyed by.
    pub device: &'a str,
    /// The table that the binding names.
    pub table: &'a str,
}

/// What came of a payload.
#[derive(Debug, Clone, Copy)]
#[must_use]
pub enum Outcome<'r> {
    /// Rows, failures, or (line protocol) both.
    Rows(Decoded<'r>),
    /// Nothing is declared and the payload is nothing that is understood without: keep it as it is. No failure.
    Undecoded,
}

/// Reads payloads as a definition says.
#[derive(Debug, Clone)]
pub struct Decoder {
    plan: Plan,
    version: DecoderVersion,
}

impl Decoder {
    /// A decoder for a checked definition.
    #[must_use]
    pub fn new(definition: Definition) -> Self {
        let stored = checksum::crc32c(definition.to_stored().as_bytes());
        let version = DecoderVersion { decoder: definition.decoder(), revision: REVISION, definition: stored };
        Self { plan: definition.plan, version }
    }

    /// What changes whenever the same bytes may give other rows.
    #[must_use]
    pub const fn version(&self) -> DecoderVersion {
        self.version
    }

    /// The columns that a `struct` writes, in their order and without the event time. `None` for all other
    /// decoders: payloads decide.
    #[must_use]
    pub fn columns(&self) -> Option<Vec<LayoutColumn>> {
        match &self.plan {
            Plan::Struct(layout) => Some(layout.columns()),
            _ => None,
        }
    }

    /// Reads one payload into `rows`, whose former content is gone.
    ///
    /// What cannot be read is a [`Failure`], and then the payload gives no row; except that of line protocol only
    /// the bad lines are missing.
    pub fn decode<'r>(&self, input: &Input<'r>, rows: &'r mut Rows) -> Outcome<'r> {
        let Input { payload, device, table, .. } = *input;
        rows.reset(payload.len());
        if payload.len() > MAX_PAYLOAD_BYTES {
            let reason = format!("payload has {} bytes, more than {MAX_PAYLOAD_BYTES}", payload.len());
            return self.refused(Refusal::new(Stage::Limit, 0, reason), input, rows);
        }
        let result = match &self.plan {
            Plan::Auto(shape) => {
                return match auto(input, shape, rows) {
                    Ok(text) => Outcome::Rows(rows.view(payload, text, device, table)),
                    // Somebody has named the event time, so that is declared.
                    Err(Some(refusal)) if refusal.stage == Stage::Time => self.refused(refusal, input, rows),
                    Err(_) => {
                        rows.forget();
                        Outcome::Undecoded
                    }
                };
            }
            Plan::LineProtocol(lines) => {
                let text = self.line_protocol(lines, input, rows);
                return Outcome::Rows(rows.view(payload, text, device, table));
            }
            Plan::Json(shape) => utf8(payload).and_then(|text| json(text, payload, shape, rows).map(|()| text)),
            Plan::Number(column) => utf8(payload)
                .and_then(|text| plain::decode(text, column, &mut Builder::new(rows, text, payload)).map(|()| text)),
            Plan::Text(column) => utf8(payload).and_then(|text| {
                let mut out = Builder::new(rows, text, payload);
                let slot = Slot::Text(out.keep(text)?);
                plain::column_value(column, slot, &mut out).map(|()| text)
            }),
            Plan::Cbor(shape) => cbor(payload, shape, rows).map(|()| ""),
            Plan::Struct(layout) => layout.decode(payload, &mut Builder::new(rows, "", payload)).map(|()| ""),
        };
        match result {
            Ok(text) => Outcome::Rows(rows.view(payload, text, device, table)),
            Err(refusal) => self.refused(refusal, input, rows),
        }
    }

    fn refused<'r>(&self, refusal: Refusal, input: &Input<'r>, rows: &'r mut Rows) -> Outcome<'r> {
        let Refusal { stage, reason, at } = refusal;
        rows.forget();
        rows.push_failure(Failure {
            stage,
            reason: reason.into_owned(),
            byte_position: at,
            line: None,
            decoder_version: self.version,
        });
        rows.set_refused_count(1);
        Outcome::Rows(rows.view(input.payload, "", input.device, input.table))
    }

    fn line_protocol<'r>(&self, lines: &line_protocol::Lines, input: &Input<'r>, rows: &mut Rows) -> &'r str {
        let mut lines = std::borrow::Cow::Borrowed(lines);
        if let Some(precision) = input.content_type.and_then(precision) {
            lines.to_mut().precision = precision;
        }
        let (mut failures, mut refused) = rows.take_failures();
        let (count, text, repaired) = match std::str::from_utf8(input.payload) {
            Ok(text) => {
                let mut out = Builder::new(rows, text, input.payload);
                let count =
                    line_protocol::decode(text, &lines, &[], self.version, &mut out, &mut failures, &mut refused);
                (count, text, String::new())
            }
            Err(_) => {
                let (text, bad) = line_protocol::repair(input.payload);
                let mut out = Builder::new(rows, &text, input.payload);
                let count =
                    line_protocol::decode(&text, &lines, &bad, self.version, &mut out, &mut failures, &mut refused);
                (count, "", text)
            }
        };
        rows.set_failures(failures, refused);
        rows.set_refused_count(count);
        rows.set_repaired(repaired);
        text
    }
}

fn utf8(payload: &[u8]) -> Result<&str, Refusal> {
    std::str::from_utf8(payload).map_err(|error| Refusal::decode(error.valid_up_to(), "payload is not utf-8"))
}

fn json(text: &str, payload: &[u8], shape: &Shape, rows: &mut Rows) -> Result<(), Refusal> {
    let json = Json::new(text);
    document::decode(&json, json.document()?, shape, &mut Builder::new(rows, text, payload))
}

fn cbor(payload: &[u8], shape: &Shape, rows: &mut Rows) -> Result<(), Refusal> {
    let cbor = Cbor::new(payload)?;
    document::decode(&cbor, 0, shape, &mut Builder::new(rows, "", payload))
}

/// Reads what needs no declaration; returns the payload as text. `Err` is for what cannot be read, with the reason
/// where there is one.
fn auto<'r>(input: &Input<'r>, shape: &Shape, rows: &mut Rows) -> Result<&'r str, Option<Refusal>> {
    let payload = input.payload;
    let media = input.content_type.map(|text| text.split(';').next().unwrap_or_default().trim_ascii());
    if media.is_some_and(|media| media.eq_ignore_ascii_case("application/cbor") || media.ends_with("+cbor")) {
        return cbor(payload, shape, rows).map(|()| "").map_err(Some);
    }
    let text = std::str::from_utf8(payload).map_err(|_| None)?;
    let value = text.trim_ascii();
    match value.as_bytes().first() {
        None => return Err(None),
        // What begins like JSON and is none is no text that anybody wants in a column.
        Some(b'{' | b'[' | b'"') => return json(text, payload, shape, rows).map(|()| text).map_err(Some),
        Some(_) if value == "null" => return json(text, payload, shape, rows).map(|()| text).map_err(Some),
        Some(_) => {}
    }
    let mut out = Builder::new(rows, text, payload);
    if plain::decode(text, VALUE, &mut out).is_ok() {
        return Ok(text);
    }
    if value.chars().any(|char| char.is_control() && !matches!(char, '\t' | '\n' | '\r')) {
        return Err(None);
    }
    let slot = Slot::Text(out.keep(value)?);
    plain::column_value(VALUE, slot, &mut out)?;
    Ok(text)
}

/// The parameter `precision` of a content type.
fn precision(content_type: &str) -> Option<TimeUnit> {
    content_type.split(';').skip(1).find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        name.trim_ascii()
            .eq_ignore_ascii_case("precision")
            .then(|| value.trim_ascii().trim_matches('"').parse().ok())?
    })
}
