//! JSON (RFC 8259), read by `serde_json` member by member: no tree is built, and what is not looked at is only passed over.

use std::{borrow::Cow, cell::RefCell, fmt};

use serde::{
    Deserializer as _,
    de::{self, DeserializeSeed, MapAccess, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

use crate::{
    document::{Kind, Scalar, Source},
    failure::Refusal,
    number::{self, is_exact},
    rows::{Builder, Slot, Span},
};

/// A payload that is text.
#[derive(Debug)]
pub(crate) struct Json<'a> {
    text: &'a str,
}

impl<'a> Json<'a> {
    pub(crate) const fn new(text: &'a str) -> Self {
        Self { text }
    }

    /// The document: checked only as far as its kind shows.
    pub(crate) fn document(&self) -> Result<&'a str, Refusal> {
        let document = self.text.trim_matches(JSON_SPACE);
        match document.as_bytes().first() {
            None => Err(Refusal::decode(self.text.len(), "payload is empty")),
            Some(b'{' | b'[') => Ok(document),
            // A scalar: nothing checks it later.
            Some(_) => match serde_json::from_str::<&RawValue>(document) {
                Ok(raw) => Ok(raw.get()),
                Err(error) => Err(self.refusal(document, &error)),
            },
        }
    }

    fn offset(&self, item: &str) -> usize {
        (item.as_ptr() as usize).saturating_sub(self.text.as_ptr() as usize)
    }

    fn refusal(&self, item: &str, error: &serde_json::Error) -> Refusal {
        // Lines and columns count from 1, columns in bytes.
        let start = match error.line() {
            0 | 1 => 0,
            line => {
                item.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').nth(line - 2).map_or(0, |(at, _)| at + 1)
            }
        };
        let at = (start + error.column().saturating_sub(1)).min(item.len());
        let text = error.to_string();
        let reason = text.split(" at line ").next().unwrap_or(&text);
        Refusal::decode(self.offset(item) + at, format!("payload is not json: {reason}"))
    }

    /// Runs a visitor over an item to its end.
    fn walk<V: Visitor<'a, Value = ()>>(
        &self,
        item: &'a str,
        visitor: V,
        failed: &RefCell<Option<Refusal>>,
    ) -> Result<(), Refusal> {
        let mut deserializer = serde_json::Deserializer::from_str(item);
        let result = deserializer.deserialize_any(visitor).and_then(|()| deserializer.end());
        result.map_err(|error| failed.take().unwrap_or_else(|| self.refusal(item, &error)))
    }
}

const JSON_SPACE: [char; 4] = [' ', '\t', '\n', '\r'];

impl<'a> Source<'a> for Json<'a> {
    type Item = &'a str;

    fn kind(&self, item: &'a str) -> Kind {
        match item.as_bytes().first() {
            Some(b'{') => Kind::Object,
            Some(b'[') => Kind::Array,
            Some(b'n') => Kind::Null,
            _ => Kind::Scalar,
        }
    }

    fn position(&self, item: &'a str) -> usize {
        self.offset(item)
    }

    fn scalar(&self, item: &'a str, out: &mut Builder<'_>) -> Result<Scalar<'a>, Refusal> {
        let plain = |slot| Ok(Scalar { slot, digits: "" });
        match item.as_bytes().first() {
            Some(b'"') => {
                let inside = item.get(1..item.len().saturating_sub(1)).unwrap_or_default();
                if !inside.as_bytes().contains(&b'\\') {
                    return plain(Slot::Text(out.keep(inside)?));
                }
                let text: String = serde_json::from_str(item).map_err(|error| self.refusal(item, &error))?;
                plain(Slot::Text(out.keep(&text)?))
            }
            Some(b't') => plain(Slot::Bool(true)),
            Some(b'f') => plain(Slot::Bool(false)),
            _ => Ok(Scalar { slot: number(item, out)?, digits: item }),
        }
    }

    fn members(
        &self,
        item: &'a str,
        each: impl FnMut(Cow<'_, str>, &'a str) -> Result<(), Refusal>,
    ) -> Result<(), Refusal> {
        let failed = RefCell::new(None);
        self.walk(item, Members { each, failed: &failed }, &failed)
    }

    fn elements(&self, item: &'a str, each: impl FnMut(&'a str) -> Result<(), Refusal>) -> Result<(), Refusal> {
        let failed = RefCell::new(None);
        self.walk(item, Elements { each, failed: &failed }, &failed)
    }

    fn all_objects(&self, item: &'a str) -> Result<bool, Refusal> {
        // Most arrays say no with their first element.
        let first = item.get(1..).unwrap_or_default().trim_start_matches(JSON_SPACE);
        if !first.starts_with('{') {
            return Ok(false);
        }
        let mut all = true;
        self.elements(item, |element| {
            all &= element.starts_with('{');
            Ok(())
        })?;
        Ok(all)
    }

    fn json(&self, item: &'a str, out: &mut Builder<'_>) -> Result<Span, Refusal> {
        out.keep(item)
    }
}

/// JSON does not tell 20 from 20.5, so numbers are floats, but for integers that floats do not hold.
pub(crate) fn number(text: &str, out: &mut Builder<'_>) -> Result<Slot, Refusal> {
    let Some(decimal) = number::scan(text.as_bytes()) else { return Ok(Slot::Rest(out.keep(text)?)) };
    if decimal.integer {
        match decimal.to_i64() {
            Some(value) if !is_exact(value) => return Ok(Slot::Int(value)),
            Some(_) => {}
            None => return Ok(Slot::Rest(out.keep(text)?)),
        }
    }
    let value = decimal.to_f64(text.as_bytes());
    Ok(if value.is_finite() { Slot::Float(value) } else { Slot::Rest(out.keep(text)?) })
}

struct Members<'f, F> {
    each: F,
    failed: &'f RefCell<Option<Refusal>>,
}

struct Elements<'f, F> {
    each: F,
    failed: &'f RefCell<Option<Refusal>>,
}

/// Leaves the real reason where [`Json::walk`] finds it.
fn stop<E: de::Error>(failed: &RefCell<Option<Refusal>>, refusal: Refusal) -> E {
    failed.replace(Some(refusal));
    E::custom("")
}

impl<'a, F: FnMut(Cow<'_, str>, &'a str) -> Result<(), Refusal>> Visitor<'a> for Members<'_, F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'a>>(mut self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key_seed(Key)? {
            let value: &'a RawValue = map.next_value()?;
            (self.each)(key, value.get()).map_err(|refusal| stop(self.failed, refusal))?;
        }
        Ok(())
    }
}

impl<'a, F: FnMut(&'a str) -> Result<(), Refusal>> Visitor<'a> for Elements<'_, F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'a>>(mut self, mut elements: A) -> Result<(), A::Error> {
        while let Some(value) = elements.next_element::<&'a RawValue>()? {
            (self.each)(value.get()).map_err(|refusal| stop(self.failed, refusal))?;
        }
        Ok(())
    }
}

/// A name, borrowed where it has no escapes.
struct Key;

impl<'a> DeserializeSeed<'a> for Key {
    type Value = Cow<'a, str>;

    fn deserialize<D: de::Deserializer<'a>>(self, deserializer: D) -> Result<Cow<'a, str>, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'a> Visitor<'a> for Key {
    type Value = Cow<'a, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_borrowed_str<E>(self, name: &'a str) -> Result<Cow<'a, str>, E> {
        Ok(Cow::Borrowed(name))
    }

    fn visit_str<E>(self, name: &str) -> Result<Cow<'a, str>, E> {
        Ok(Cow::Owned(name.to_owned()))
    }
}
