//! InfluxDB line protocol.
//!
//! `measurement[,tag=value…] field=value[,field=value…] [timestamp]`. The measurement is the table, tags are key
//! columns, fields are columns. A bad line is a failure and the others are rows.
//!
//! Where the protocol leaves a choice: several spaces count as one, and may stand before and behind a line; of two fields
//! with one name the last counts; two tags with one name are bad; a field with the name of a tag goes to the
//! overflow column; names are not empty; a number may begin with a plus sign.

use crate::{
    failure::{DecoderVersion, Failure, Refusal, Stage},
    number,
    rows::{self, Builder, Role, RowHead, Slot, Span},
    time::TimeUnit,
};
use std::ops::Range;

/// Failures that are kept of one payload. One bad line of two bytes takes a hundred times as much in a failure.
pub const MAX_FAILURES: usize = 1_000;
/// Longest text of a field, without its escapes. Also what InfluxDB takes.
const MAX_TEXT_BYTES: usize = 64 << 10;

/// Tags of a line. As many columns as a table has.
const MAX_TAGS: usize = 1_024;

/// What a definition says about lines.
#[derive(Debug, Clone)]
pub(crate) struct Lines {
    pub precision: TimeUnit,
    /// The tag that names the device, where many devices speak through one sender.
    pub device_tag: Option<String>,
    /// Tags that describe the device.
    pub attributes: Vec<String>,
}

/// Bytes that end or bend a part of a line.
const COMMA: u8 = 1;
const SPACE: u8 = 2;
const NEWLINE: u8 = 4;
const EQUALS: u8 = 8;
const BACKSLASH: u8 = 16;

const CLASSES: [u8; 256] = {
    let mut classes = [0; 256];
    classes[b',' as usize] = COMMA;
    classes[b' ' as usize] = SPACE;
    classes[b'\n' as usize] = NEWLINE;
    classes[b'=' as usize] = EQUALS;
    classes[b'\\' as usize] = BACKSLASH;
    classes
};

/// Reads `text` line by line. Failures go to `failures`, where the bad lines are to `refused`; returns how many there were.
///
/// `bad_bytes` are the places, in order, at which the payload was not UTF-8: lines that hold one are bad.
pub(crate) fn decode(
    text: &str,
    lines: &Lines,
    bad_bytes: &[usize],
    version: DecoderVersion,
    out: &mut Builder<'_>,
    failures: &mut Vec<Failure>,
    refused: &mut Vec<Range<usize>>,
) -> u64 {
    let mut parser = Parser { bytes: text.as_bytes(), text, at: 0, line: 1, lines };
    let mut count = 0;
    while parser.next_line() {
        let (start, line) = (parser.at, parser.line);
        let read = parser.line(out);
        let whole = read.is_ok();
        let result = read.and_then(|head| {
            if let Some(at) = bad_bytes.get(bad_bytes.partition_point(|at| *at < start)).filter(|at| **at < parser.at) {
                return Err(Refusal::decode(*at, "line is not utf-8"));
            }
            if let (Some(tag), None) = (&lines.device_tag, head.device) {
                return Err(Refusal::new(Stage::Device, start, format!("line has no tag {tag:?} to name its device")));
            }
            out.close(head, None)
        });
        let Err(Refusal { stage, reason, at }) = result else { continue };
        out.abort();
        count += 1;
        if failures.len() < MAX_FAILURES {
            let byte_position = if stage == Stage::Limit { start } else { at };
            let reason = reason.into_owned();
            failures.push(Failure { stage, reason, byte_position, line: Some(line), decoder_version: version });
        }
        if stage == Stage::Limit {
            // The lines behind it would meet the same limit.
            refused.push(start..text.len());
            return count;
        }
        if !whole {
            parser.resume(start, line, at);
        }
        match refused.last_mut() {
            // Nothing but the end of a line is between them.
            Some(last) if last.end + 1 >= start => last.end = parser.at,
            _ => refused.push(start..parser.at),
        }
    }
    count
}

struct Parser<'a> {
    bytes: &'a [u8],
    text: &'a str,
    at: usize,
    /// Of `at`, from 1.
    line: u32,
    lines: &'a Lines,
}

impl<'a> Parser<'a> {
    fn peek(&self) -> u8 {
        // The end of the payload ends a line.
        self.bytes.get(self.at).copied().unwrap_or(b'\n')
    }

    fn spaces(&mut self) {
        while self.bytes.get(self.at) == Some(&b' ') {
            self.at += 1;
        }
    }

    /// Goes to the start of the next line with content.
    fn next_line(&mut self) -> bool {
        loop {
            match self.bytes.get(self.at) {
                None => return false,
                Some(b'\n') => {
                    self.at += 1;
                    self.line = self.line.saturating_add(1);
                }
                Some(b' ' | b'\t' | b'\r') => self.at += 1,
                Some(b'#') => self.skip_line(),
                Some(_) => return true,
            }
        }
    }

    fn skip_line(&mut self) {
        let left = self.bytes.get(self.at..).unwrap_or_default();
        self.at += left.iter().position(|byte| *byte == b'\n').unwrap_or(left.len());
    }

    /// Goes on behind a bad line, and behind texts in it: what stands in a text is no line.
    fn resume(&mut self, start: usize, line: u32, bad_at: usize) {
        self.at = start;
        self.part(SPACE | NEWLINE, COMMA | EQUALS | SPACE);
        let mut opened = None;
        while let Some(byte) = self.bytes.get(self.at) {
            match (byte, opened) {
                (b'\n', None) => break,
                (b'"', None) if self.bytes[..self.at].last() == Some(&b'=') => opened = Some(self.at),
                (b'"', Some(_)) => opened = None,
                (b'\\', Some(_)) => self.at += 1,
                _ => {}
            }
            self.at += 1;
        }
        // A text without end: it cannot be told how far it goes, so the next lines are lines.
        self.at = opened.unwrap_or(self.at).max(bad_at).min(self.bytes.len());
        self.skip_line();
        let newlines = self.bytes[start..self.at].iter().filter(|byte| **byte == b'\n').count();
        self.line = line.saturating_add(u32::try_from(newlines).unwrap_or(u32::MAX));
    }

    fn line(&mut self, out: &mut Builder<'_>) -> Result<RowHead, Refusal> {
        let start = self.at;
        let mut head = RowHead::default();
        let measurement = self.part(COMMA | SPACE | NEWLINE, COMMA | SPACE);
        if measurement.is_empty() {
            return Err(Refusal::decode(start, "line has no measurement"));
        }
        head.table = Some(self.keep(measurement, out)?.0);
        while self.peek() == b',' {
            self.at += 1;
            self.tag(&mut head, out)?;
        }
        self.spaces();
        if self.at_end_of_line() {
            return Err(Refusal::decode(self.at, "line has no fields"));
        }
        loop {
            self.field(out)?;
            if self.peek() != b',' {
                break;
            }
            self.at += 1;
        }
        self.spaces();
        if !self.at_end_of_line() {
            head.time = Some(self.timestamp()?);
            self.spaces();
            if !self.at_end_of_line() {
                return Err(Refusal::decode(self.at, "line goes on behind its timestamp"));
            }
        }
        Ok(head)
    }

    /// Also passes over the `\r` of `\r\n`.
    fn at_end_of_line(&mut self) -> bool {
        match self.peek() {
            b'\n' => true,
            b'\r' if matches!(self.bytes.get(self.at + 1), None | Some(b'\n')) => {
                self.at += 1;
                true
            }
            _ => false,
        }
    }

    /// Reads up to one of `stops`, where a backslash before one of `escapable` is none. Leaves out the `\r` of `\r\n`.
    fn part(&mut self, stops: u8, escapable: u8) -> Part {
        let start = self.at;
        let mut escaped = false;
        let mut at = start;
        while let Some(byte) = self.bytes.get(at) {
            let class = CLASSES[usize::from(*byte)] & (stops | BACKSLASH);
            if class == 0 {
                at += 1;
            } else if class != BACKSLASH {
                break;
            } else if self.bytes.get(at + 1).is_some_and(|next| CLASSES[usize::from(*next)] & escapable != 0) {
                escaped = true;
                at += 2;
            } else {
                at += 1;
            }
        }
        if at > start && self.bytes[at - 1] == b'\r' && matches!(self.bytes.get(at), None | Some(b'\n')) {
            at -= 1;
        }
        self.at = at;
        Part { start, end: at, escapable: if escaped { escapable } else { 0 } }
    }

    /// The place of a part, where it is without its escapes, and its hash.
    fn keep(&self, part: Part, out: &mut Builder<'_>) -> Result<(Span, u32), Refusal> {
        if part.escapable == 0 {
            return Ok((Builder::borrowed(part.start, part.end), rows::hash(&self.bytes[part.start..part.end])));
        }
        let span = out.copy(|text| unescape(&self.text[part.start..part.end], part.escapable, text))?;
        Ok((span, rows::hash(out.str(span).as_bytes())))
    }

    /// A name, up to and over its `=`.
    fn name(&mut self, what: &str, out: &mut Builder<'_>) -> Result<(Span, u32), Refusal> {
        let start = self.at;
        let part = self.part(COMMA | EQUALS | SPACE | NEWLINE, COMMA | EQUALS | SPACE);
        if part.is_empty() {
            return Err(Refusal::decode(start, format!("{what} has no name")));
        }
        if self.peek() != b'=' {
            let name = self.text.get(part.start..part.end).unwrap_or_default();
            return Err(Refusal::decode(self.at, format!("{what} {name:.64?} has no value")));
        }
        self.at += 1;
        self.keep(part, out)
    }

    fn tag(&mut self, head: &mut RowHead, out: &mut Builder<'_>) -> Result<(), Refusal> {
        let start = self.at;
        let (name, hash) = self.name("tag", out)?;
        let value_at = self.at;
        let value = self.part(COMMA | EQUALS | SPACE | NEWLINE, COMMA | EQUALS | SPACE);
        if value.is_empty() {
            return Err(Refusal::decode(value_at, format!("tag {:.64?} is empty", out.str(name))));
        }
        if self.peek() == b'=' {
            return Err(Refusal::decode(self.at, format!("value of tag {:.64?} has a bare '='", out.str(name))));
        }
        let (value, _) = self.keep(value, out)?;
        if self.lines.device_tag.as_deref() == Some(out.str(name)) {
            if head.device.is_some() {
                return Err(Refusal::decode(start, format!("tag {:.64?} is given twice", out.str(name))));
            }
            head.device = Some(value);
            return Ok(());
        }
        if out.len() >= MAX_TAGS {
            return Err(Refusal::decode(start, format!("line has more than {MAX_TAGS} tags")));
        }
        if (0..out.len()).any(|idx| out.hash_of(idx) == Some(hash) && out.has_name(idx, name)) {
            return Err(Refusal::decode(start, format!("tag {:.64?} is given twice", out.str(name))));
        }
        let attribute =
            !self.lines.attributes.is_empty() && self.lines.attributes.iter().any(|tag| tag == out.str(name));
        out.push(name, hash, Slot::Text(value), if attribute { Role::Attribute } else { Role::Key })
    }

    fn field(&mut self, out: &mut Builder<'_>) -> Result<(), Refusal> {
        let (name, hash) = self.name("field", out)?;
        let at = self.at;
        let slot = match self.peek() {
            b'"' => self.string(name, out)?,
            b't' | b'T' | b'f' | b'F' => self.bool(name, out)?,
            _ => self.number(name, out)?,
        };
        match self.peek() {
            b',' | b' ' | b'\n' => {}
            _ if self.at_end_of_line() => {}
            _ => return Err(self.bad_value(at, name, out)),
        }
        out.push(name, hash, slot, Role::Value)
    }

    /// Names the value as far as the next comma, space or newline.
    fn bad_value(&mut self, at: usize, name: Span, out: &Builder<'_>) -> Refusal {
        self.at = at;
        let part = self.part(COMMA | SPACE | NEWLINE, 0);
        let value = self.text.get(part.start..part.end).unwrap_or_default();
        self.at = at;
        if value.is_empty() {
            return Refusal::decode(at, format!("field {:.64?} has no value", out.str(name)));
        }
        Refusal::decode(at, format!("field {:.64?} is {value:.64}, which is no number, text or boolean", out.str(name)))
    }

    fn bool(&mut self, name: Span, out: &Builder<'_>) -> Result<Slot, Refusal> {
        let at = self.at;
        let part = self.part(COMMA | SPACE | NEWLINE, 0);
        Ok(Slot::Bool(match &self.bytes[part.start..part.end] {
            b"t" | b"T" | b"true" | b"True" | b"TRUE" => true,
            b"f" | b"F" | b"false" | b"False" | b"FALSE" => false,
            _ => return Err(self.bad_value(at, name, out)),
        }))
    }

    fn number(&mut self, name: Span, out: &mut Builder<'_>) -> Result<Slot, Refusal> {
        let at = self.at;
        let text = &self.bytes[at.min(self.bytes.len())..];
        let Some(decimal) = number::scan(text) else { return Err(self.bad_value(at, name, out)) };
        self.at += decimal.len;
        let suffix = self.peek();
        if suffix != b'i' && suffix != b'u' {
            let value = decimal.to_f64(text);
            if value.is_infinite() {
                return Err(Refusal::decode(
                    at,
                    format!("field {:.64?} is beyond the range of a float", out.str(name)),
                ));
            }
            return Ok(Slot::Float(value));
        }
        self.at += 1;
        if let Some(value) = decimal.to_i64().filter(|value| suffix == b'i' || *value >= 0) {
            return Ok(Slot::Int(value));
        }
        if suffix == b'u' && decimal.integer && !decimal.negative {
            // Digits of an unsigned integer that no column holds: the overflow column does.
            let start = if text.first() == Some(&b'+') { at + 1 } else { at };
            let digits = Builder::borrowed(start, at + decimal.len);
            if out.str(digits).parse::<u64>().is_ok() {
                let number = out.str(digits).trim_start_matches('0').to_owned();
                return Ok(Slot::Rest(out.keep(&number)?));
            }
        }
        if decimal.integer && decimal.negative <= (suffix == b'i') {
            return Err(Refusal::decode(at, format!("field {:.64?} is beyond the range of an integer", out.str(name))));
        }
        Err(self.bad_value(at, name, out))
    }

    fn string(&mut self, name: Span, out: &mut Builder<'_>) -> Result<Slot, Refusal> {
        let opened = self.at;
        let start = opened + 1;
        let mut at = start;
        let mut escapes = 0;
        let mut newlines = 0;
        loop {
            match self.bytes.get(at) {
                None => {
                    // The lines behind the quote may be good.
                    return Err(Refusal::decode(opened, format!("text of field {:.64?} has no end", out.str(name))));
                }
                Some(b'"') => break,
                Some(b'\\') if matches!(self.bytes.get(at + 1), Some(b'"' | b'\\')) => {
                    escapes += 1;
                    at += 2;
                }
                Some(byte) => {
                    newlines += u32::from(*byte == b'\n');
                    at += 1;
                }
            }
        }
        self.at = at + 1;
        let len = at - start - escapes;
        if len > MAX_TEXT_BYTES {
            let reason = format!("text of field {:.64?} has {len} bytes, more than {MAX_TEXT_BYTES}", out.str(name));
            return Err(Refusal::decode(at, reason));
        }
        self.line = self.line.saturating_add(newlines);
        if escapes == 0 {
            return Ok(Slot::Text(Builder::borrowed(start, at)));
        }
        let raw = &self.text[start..at];
        Ok(Slot::Text(out.copy(|text| {
            let mut rest = raw;
            while let Some(at) = rest.find('\\') {
                // Only these two are escaped, any other backslash is one.
                let escape = usize::from(matches!(rest.as_bytes().get(at + 1), Some(b'"' | b'\\')));
                text.push_str(&rest[..at]);
                text.push_str(&rest[at + escape..=at + escape]);
                rest = &rest[at + escape + 1..];
            }
            text.push_str(rest);
        })?))
    }

    fn timestamp(&mut self) -> Result<i64, Refusal> {
        let at = self.at;
        let part = self.part(SPACE | NEWLINE, 0);
        let text = &self.bytes[part.start..part.end];
        let number = number::scan(text).filter(|decimal| decimal.len == text.len() && decimal.integer);
        let shown = self.text.get(part.start..part.end).unwrap_or_default();
        let Some(number) = number else {
            self.at = at;
            return Err(Refusal::new(Stage::Time, at, format!("timestamp is {shown:.64?}, which is no integer")));
        };
        let unit = self.lines.precision;
        number.to_i64().and_then(|value| unit.of_int(value)).ok_or_else(|| {
            let reason = format!("timestamp {shown:.64} in {unit} is outside of the years 1677 to 2262");
            Refusal::new(Stage::Time, at, reason)
        })
    }
}

/// A part of a line: `escapable` is 0 if it has no escapes.
#[derive(Clone, Copy)]
struct Part {
    start: usize,
    end: usize,
    escapable: u8,
}

impl Part {
    const fn is_empty(self) -> bool {
        self.start == self.end
    }
}

/// Appends `raw` without the backslashes before what they escape.
fn unescape(raw: &str, escapable: u8, text: &mut String) {
    let mut plain = 0;
    let bytes = raw.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at] == b'\\' && bytes.get(at + 1).is_some_and(|next| CLASSES[usize::from(*next)] & escapable != 0) {
            text.push_str(&raw[plain..at]);
            plain = at + 1;
            at += 1;
        }
        at += 1;
    }
    text.push_str(&raw[plain..]);
}

/// A copy of `payload` in which each byte that is not UTF-8 is replaced, so that positions stay; and their places.
pub(crate) fn repair(payload: &[u8]) -> (String, Vec<usize>) {
    let mut text = String::with_capacity(payload.len());
    let mut bad = Vec::new();
    for chunk in payload.utf8_chunks() {
        text.push_str(chunk.valid());
        for _ in chunk.invalid() {
            bad.push(text.len());
            text.push('\u{1A}');
        }
    }
    (text, bad)
}
