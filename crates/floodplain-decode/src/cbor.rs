//! CBOR (RFC 8949), read in the shape of JSON.
//!
//! Integers stay integers and floats stay floats. Byte strings are bytes. A text with tag 0 is a text, a number with
//! tag 1 becomes the text of that time, bignums (tags 2 and 3) are integers; other tags are passed over. Names may be
//! texts or integers. Null and undefined are absent.

use std::borrow::Cow;

use minicbor::{
    data::Type,
    decode::{Decoder, Error},
};

use crate::{
    document::{Kind, Scalar, Source},
    failure::Refusal,
    rows::{Builder, Slot, Span},
    time::{self, TimeUnit},
    write_json::{self, write},
};

/// Arrays, objects and tags inside each other; well-formed payloads that go deeper are refused.
const MAX_NESTING: usize = 64;

/// A payload that is one well-formed item.
#[derive(Debug)]
pub(crate) struct Cbor<'a> {
    payload: &'a [u8],
}

fn refusal(error: &Error, at: usize) -> Refusal {
    let reason = if error.is_end_of_input() { "it ends inside of a value".to_owned() } else { error.to_string() };
    Refusal::decode(error.position().unwrap_or(at), format!("payload is not cbor: {reason}"))
}

impl<'a> Cbor<'a> {
    /// Checks that `payload` is one item, whole and well-formed.
    pub(crate) fn new(payload: &'a [u8]) -> Result<Self, Refusal> {
        let cbor = Self { payload };
        let mut decoder = cbor.at(0);
        cbor.skip(&mut decoder, 0)?;
        let end = decoder.position();
        if end < payload.len() {
            let left = payload.len() - end;
            return Err(Refusal::decode(
                end,
                format!("payload is not cbor: bytes are left after the first value: {left}"),
            ));
        }
        Ok(cbor)
    }

    fn at(&self, position: usize) -> Decoder<'a> {
        let mut decoder = Decoder::new(self.payload);
        decoder.set_position(position);
        decoder
    }

    /// Passes over one item.
    fn skip(&self, decoder: &mut Decoder<'a>, depth: usize) -> Result<(), Refusal> {
        let at = decoder.position();
        if depth > MAX_NESTING {
            return Err(Refusal::decode(at, format!("payload is nested deeper than {MAX_NESTING} levels")));
        }
        let bad = |error: Error| refusal(&error, at);
        match decoder.datatype().map_err(bad)? {
            Type::Bool => decoder.bool().map(drop).map_err(bad),
            Type::Null => decoder.null().map_err(bad),
            Type::Undefined => decoder.undefined().map_err(bad),
            Type::Simple => decoder.simple().map(drop).map_err(bad),
            Type::F16 | Type::F32 | Type::F64 => decoder.f64().map(drop).map_err(bad),
            Type::Bytes | Type::BytesIndef => bytes(decoder).map(drop).map_err(bad),
            Type::String | Type::StringIndef => text(decoder).map(drop).map_err(bad),
            Type::Tag => {
                decoder.tag().map_err(bad)?;
                self.skip(decoder, depth + 1)
            }
            Type::Array | Type::ArrayIndef => {
                let mut left = decoder.array().map_err(bad)?;
                while more(decoder, &mut left).map_err(bad)? {
                    self.skip(decoder, depth + 1)?;
                }
                Ok(())
            }
            Type::Map | Type::MapIndef => {
                let mut left = decoder.map().map_err(bad)?;
                while more(decoder, &mut left).map_err(bad)? {
                    self.skip(decoder, depth + 1)?;
                    self.skip(decoder, depth + 1)?;
                }
                Ok(())
            }
            Type::Break => Err(Refusal::decode(at, "payload is not cbor: a break without beginning")),
            Type::Unknown(byte) => Err(Refusal::decode(at, format!("payload is not cbor: {byte:02x} begins no value"))),
            _ => decoder.int().map(drop).map_err(bad),
        }
    }

    /// A decoder behind the tags of an item, and the last of them.
    fn untagged(&self, item: usize) -> Result<(Decoder<'a>, Option<u64>), Refusal> {
        let mut decoder = self.at(item);
        let mut tag = None;
        while matches!(decoder.datatype(), Ok(Type::Tag)) {
            tag = Some(decoder.tag().map_err(|error| refusal(&error, item))?.as_u64());
        }
        Ok((decoder, tag))
    }

    fn key(&self, decoder: &mut Decoder<'a>) -> Result<Cow<'a, str>, Refusal> {
        let at = decoder.position();
        let bad = |error: Error| refusal(&error, at);
        match decoder.datatype().map_err(bad)? {
            Type::String | Type::StringIndef => text(decoder).map_err(bad),
            Type::U8 | Type::U16 | Type::U32 | Type::U64 | Type::I8 | Type::I16 | Type::I32 | Type::I64 | Type::Int => {
                Ok(Cow::Owned(i128::from(decoder.int().map_err(bad)?).to_string()))
            }
            other => Err(Refusal::decode(at, format!("a name is of type {other}, neither text nor integer"))),
        }
    }

    fn write(&self, item: usize, text: &mut String) -> Result<(), Refusal> {
        let (mut decoder, tag) = self.untagged(item)?;
        let bad = |error: Error| refusal(&error, item);
        match self.kind(item) {
            Kind::Null => text.push_str("null"),
            Kind::Array => {
                let mut left = decoder.array().map_err(bad)?;
                let mut before = '[';
                while more(&mut decoder, &mut left).map_err(bad)? {
                    text.push(before);
                    before = ',';
                    self.write(decoder.position(), text)?;
                    self.skip(&mut decoder, 0)?;
                }
                text.push_str(if before == '[' { "[]" } else { "]" });
            }
            Kind::Object => {
                let mut left = decoder.map().map_err(bad)?;
                let mut before = '{';
                while more(&mut decoder, &mut left).map_err(bad)? {
                    text.push(before);
                    before = ',';
                    write_json::text(&self.key(&mut decoder)?, text);
                    text.push(':');
                    self.write(decoder.position(), text)?;
                    self.skip(&mut decoder, 0)?;
                }
                text.push_str(if before == '{' { "{}" } else { "}" });
            }
            Kind::Scalar => match plain(&mut decoder, tag).map_err(bad)? {
                Plain::Bool(value) => text.push_str(if value { "true" } else { "false" }),
                Plain::Int(value) => write(text, format_args!("{value}")),
                Plain::Float(value) => write_json::float(value, text),
                Plain::Text(value) => write_json::text(&value, text),
                Plain::Bytes(value) => write_json::bytes(&value, text),
                Plain::Simple(value) => write(text, format_args!("\"simple({value})\"")),
            },
        }
        Ok(())
    }
}

/// Whether another element or member follows; passes over the break at the end.
fn more(decoder: &mut Decoder<'_>, left: &mut Option<u64>) -> Result<bool, Error> {
    match left {
        Some(0) => Ok(false),
        Some(count) => {
            *count -= 1;
            Ok(true)
        }
        None if decoder.datatype()? == Type::Break => {
            decoder.set_position(decoder.position() + 1);
            Ok(false)
        }
        None => Ok(true),
    }
}

fn text<'a>(decoder: &mut Decoder<'a>) -> Result<Cow<'a, str>, Error> {
    if decoder.datatype()? == Type::String {
        return decoder.str().map(Cow::Borrowed);
    }
    decoder.str_iter()?.collect::<Result<String, Error>>().map(Cow::Owned)
}

fn bytes<'a>(decoder: &mut Decoder<'a>) -> Result<Cow<'a, [u8]>, Error> {
    if decoder.datatype()? == Type::Bytes {
        return decoder.bytes().map(Cow::Borrowed);
    }
    let mut joined = Vec::new();
    for part in decoder.bytes_iter()? {
        joined.extend_from_slice(part?);
    }
    Ok(Cow::Owned(joined))
}

enum Plain<'a> {
    Bool(bool),
    Int(i128),
    Float(f64),
    Text(Cow<'a, str>),
    Bytes(Cow<'a, [u8]>),
    Simple(u8),
}

fn plain<'a>(decoder: &mut Decoder<'a>, tag: Option<u64>) -> Result<Plain<'a>, Error> {
    let value = match decoder.datatype()? {
        Type::Bool => Plain::Bool(decoder.bool()?),
        Type::Simple => Plain::Simple(decoder.simple()?),
        Type::F16 | Type::F32 | Type::F64 => Plain::Float(decoder.f64()?),
        Type::Bytes | Type::BytesIndef => Plain::Bytes(bytes(decoder)?),
        Type::String | Type::StringIndef => Plain::Text(text(decoder)?),
        _ => Plain::Int(decoder.int()?.into()),
    };
    let epoch = match (tag, &value) {
        (Some(1), Plain::Int(value)) => i64::try_from(*value).ok().and_then(|value| TimeUnit::Seconds.of_int(value)),
        (Some(1), Plain::Float(value)) => TimeUnit::Seconds.of_float(*value),
        (Some(tag @ (2 | 3)), Plain::Bytes(bytes)) => {
            // RFC 8949 §3.4.3. Longer ones stay bytes.
            let digits = bytes.iter().skip_while(|byte| **byte == 0);
            if digits.clone().count() <= 15 {
                let value = digits.fold(0_i128, |value, byte| value << 8 | i128::from(*byte));
                return Ok(Plain::Int(if tag == 2 { value } else { -1 - value }));
            }
            None
        }
        _ => None,
    };
    Ok(epoch.map_or(value, |epoch| Plain::Text(Cow::Owned(time::to_text(epoch)))))
}

impl<'a> Source<'a> for Cbor<'a> {
    /// Where the item starts, at its tags.
    type Item = usize;

    fn kind(&self, item: usize) -> Kind {
        match self.untagged(item).map(|(decoder, _)| decoder.datatype()) {
            Ok(Ok(Type::Map | Type::MapIndef)) => Kind::Object,
            Ok(Ok(Type::Array | Type::ArrayIndef)) => Kind::Array,
            Ok(Ok(Type::Null | Type::Undefined)) => Kind::Null,
            _ => Kind::Scalar,
        }
    }

    fn position(&self, item: usize) -> usize {
        item
    }

    fn scalar(&self, item: usize, out: &mut Builder<'_>) -> Result<Scalar<'a>, Refusal> {
        let (mut decoder, tag) = self.untagged(item)?;
        let slot = match plain(&mut decoder, tag).map_err(|error| refusal(&error, item))? {
            Plain::Bool(value) => Slot::Bool(value),
            Plain::Float(value) => Slot::Float(value),
            Plain::Int(value) => match i64::try_from(value) {
                Ok(value) => Slot::Int(value),
                Err(_) => Slot::Rest(out.copy(|text| write(text, format_args!("{value}")))?),
            },
            Plain::Text(value) => Slot::Text(out.keep(&value)?),
            Plain::Bytes(value) => Slot::Bytes(out.keep_bytes(&value)),
            Plain::Simple(value) => Slot::Rest(out.copy(|text| write(text, format_args!("\"simple({value})\"")))?),
        };
        Ok(Scalar { slot, digits: "" })
    }

    fn members(
        &self,
        item: usize,
        mut each: impl FnMut(Cow<'_, str>, usize) -> Result<(), Refusal>,
    ) -> Result<(), Refusal> {
        let (mut decoder, _) = self.untagged(item)?;
        let bad = |error: Error| refusal(&error, item);
        let mut left = decoder.map().map_err(bad)?;
        while more(&mut decoder, &mut left).map_err(bad)? {
            let key = self.key(&mut decoder)?;
            let value = decoder.position();
            self.skip(&mut decoder, 0)?;
            each(key, value)?;
        }
        Ok(())
    }

    fn elements(&self, item: usize, mut each: impl FnMut(usize) -> Result<(), Refusal>) -> Result<(), Refusal> {
        let (mut decoder, _) = self.untagged(item)?;
        let bad = |error: Error| refusal(&error, item);
        let mut left = decoder.array().map_err(bad)?;
        while more(&mut decoder, &mut left).map_err(bad)? {
            let element = decoder.position();
            self.skip(&mut decoder, 0)?;
            each(element)?;
        }
        Ok(())
    }

    fn all_objects(&self, item: usize) -> Result<bool, Refusal> {
        let (mut any, mut all) = (false, true);
        self.elements(item, |element| {
            any = true;
            all &= self.kind(element) == Kind::Object;
            Ok(())
        })?;
        Ok(any && all)
    }

    fn json(&self, item: usize, out: &mut Builder<'_>) -> Result<Span, Refusal> {
        out.try_copy(|text| self.write(item, text))
    }
}
