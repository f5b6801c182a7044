//! Finding one element of a JSON text without building the rest of it.

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use std::fmt;

/// One step of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step<'p> {
    Key(&'p str),
    /// Counts from the end where negative.
    Index(i64),
}

/// The text of the element at `path`.
///
/// `None` if there is no such element, or if `json` is not one whole JSON text. Of several members with one name
/// the last wins.
pub(super) fn seek<'j>(json: &'j [u8], path: &[Step<'_>]) -> Option<&'j str> {
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let found = Seek { path }.deserialize(&mut deserializer).ok()?;
    deserializer.end().ok()?;
    found
}

/// Number of members or elements; `None` for what has neither.
pub(super) fn length(json: &str) -> Option<i64> {
    let mut deserializer = serde_json::Deserializer::from_str(json);
    let count = deserializer.deserialize_any(Count).ok()?;
    i64::try_from(count?).ok()
}

struct Seek<'p> {
    path: &'p [Step<'p>],
}

impl<'de> DeserializeSeed<'de> for Seek<'_> {
    type Value = Option<&'de str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        if self.path.is_empty() {
            let raw = <&RawValue as serde::Deserialize>::deserialize(deserializer)?;
            return Ok(Some(raw.get()));
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seek<'_> {
    type Value = Option<&'de str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(matches) = map.next_key_seed(KeyIs(self.path[0]))? {
            if matches {
                found = map.next_value_seed(Seek { path: &self.path[1..] })?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        match self.path[0] {
            Step::Index(wanted) if wanted >= 0 => {
                let mut idx = 0;
                let mut found = None;
                loop {
                    if idx == wanted {
                        match seq.next_element_seed(Seek { path: &self.path[1..] })? {
                            Some(element) => found = element,
                            None => return Ok(found),
                        }
                    } else if seq.next_element::<IgnoredAny>()?.is_none() {
                        return Ok(found);
                    }
                    idx += 1;
                }
            }
            Step::Index(from_end) => {
                let mut elements: Vec<&'de RawValue> = Vec::new();
                while let Some(element) = seq.next_element()? {
                    elements.push(element);
                }
                let idx = usize::try_from(elements.len() as i64 + from_end).ok();
                let element = idx.and_then(|idx| elements.get(idx));
                Ok(element.and_then(|element| seek(element.get().as_bytes(), &self.path[1..])))
            }
            Step::Key(_) => {
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                Ok(None)
            }
        }
    }

    // A path does not go on below these.
    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(None)
    }
    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(None)
    }
    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        Ok(None)
    }
    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(None)
    }
    fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> {
        Ok(None)
    }
    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }
}

/// Compares a member's name without keeping it.
struct KeyIs<'p>(Step<'p>);

impl<'de> DeserializeSeed<'de> for KeyIs<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for KeyIs<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a member's name")
    }

    fn visit_str<E>(self, name: &str) -> Result<bool, E> {
        Ok(self.0 == Step::Key(name))
    }
}

struct Count;

impl<'de> Visitor<'de> for Count {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object or an array")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut count = 0;
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {
            count += 1;
        }
        Ok(Some(count))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut count = 0;
        while seq.next_element::<IgnoredAny>()?.is_some() {
            count += 1;
        }
        Ok(Some(count))
    }

    fn visit_str<E: serde::de::Error>(self, _: &str) -> Result<Self::Value, E> {
        Err(E::custom("text has no length here"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds() {
        use Step::{Index, Key};
        let json = r#" {"a": {"b": [1, "x", {"c": null}]}, "d": 1, "d": 2, "é\"": true} "#;
        for (path, expected) in [
            (&[][..], Some(json.trim())),
            (&[Key("d")], Some("2")),
            (&[Key("a"), Key("b"), Index(1)], Some("\"x\"")),
            (&[Key("a"), Key("b"), Index(-1), Key("c")], Some("null")),
            (&[Key("a"), Key("b"), Index(3)], None),
            (&[Key("a"), Key("b"), Index(-4)], None),
            (&[Key("a"), Index(0)], None),
            (&[Key("d"), Key("e")], None),
            (&[Key("é\"")], Some("true")),
            (&[Key("missing")], None),
        ] {
            assert_eq!(seek(json.as_bytes(), path), expected, "{path:?}");
        }
    }

    #[test]
    fn refuses_what_is_not_json() {
        for bad in ["", "{", r#"{"a":1"#, r#"{"a":1} x"#, r#"{"a":1,}"#, "{'a':1}", "\u{feff}{}", "{\"a\":01}"] {
            assert_eq!(seek(bad.as_bytes(), &[Step::Key("a")]), None, "{bad}");
        }
        assert_eq!(seek(b"{\"a\":\"\xff\"}", &[Step::Key("a")]), None);
        let deep = "[".repeat(100_000);
        assert_eq!(seek(deep.as_bytes(), &[Step::Index(0)]), None);
    }

    #[test]
    fn counts() {
        for (json, expected) in
            [("[]", Some(0)), ("[1,[2]]", Some(2)), (r#"{"a":1}"#, Some(1)), ("3", None), ("\"x\"", None)]
        {
            assert_eq!(length(json), expected, "{json}");
        }
    }
}
