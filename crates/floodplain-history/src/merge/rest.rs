//! `_rest`: the JSON object of what has no column, merged field by field.

use serde_json::value::RawValue;
use std::{collections::HashMap, fmt};

/// The fields of an object in their order, each name once, values untouched: numbers keep all their digits.
#[derive(Default)]
struct Fields<'a> {
    fields: Vec<(String, &'a str)>,
    at: HashMap<String, usize>,
}

impl<'a> Fields<'a> {
    /// `None` if the text is no object.
    fn of(text: &'a str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }

    /// Adds a field or replaces its value; returns the value that was there.
    fn set(&mut self, name: String, value: &'a str) -> Option<&'a str> {
        match self.at.get(&name) {
            Some(&at) => Some(std::mem::replace(&mut self.fields[at].1, value)),
            None => {
                self.at.insert(name.clone(), self.fields.len());
                self.fields.push((name, value));
                None
            }
        }
    }

    /// Adds what is newer; returns how many values were replaced by different ones. `null` replaces nothing.
    fn merge(&mut self, newer: Fields<'a>) -> u64 {
        let mut replaced = 0;
        for (name, value) in newer.fields {
            if value != NULL {
                replaced += u64::from(self.set(name, value).is_some_and(|before| before != NULL && before != value));
            } else if !self.at.contains_key(&name) {
                self.set(name, value);
            }
        }
        replaced
    }
}

const NULL: &str = "null";

impl<'de: 'a, 'a> serde::Deserialize<'de> for Fields<'a> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut fields = Fields::default();
                while let Some((name, value)) = map.next_entry::<String, &RawValue>()? {
                    fields.set(name, value.get());
                }
                Ok(fields)
            }
        }
        deserializer.deserialize_map(Visitor)
    }
}

/// One object of several, given oldest first: of each field the newest value that is not `null`,
/// fields in the order in which they first appear. A text that is no object is older than all.
pub(super) fn merge(texts: &[&str]) -> String {
    let mut objects = texts.iter().filter_map(|text| Fields::of(text));
    let Some(mut merged) = objects.next() else { return texts.last().copied().unwrap_or_default().to_owned() };
    objects.for_each(|newer| {
        merged.merge(newer);
    });
    let mut out = String::from("{");
    for (name, value) in &merged.fields {
        if out.len() > 1 {
            out.push(',');
        }
        out.push_str(&serde_json::Value::from(&**name).to_string());
        out.push(':');
        out.push_str(value);
    }
    out.push('}');
    out
}

/// How many fields of objects, given oldest first, were followed by a different value that is not `null`.
pub(super) fn overwritten<'a>(texts: impl Iterator<Item = &'a str>) -> u64 {
    let mut merged = Fields::default();
    texts.filter_map(Fields::of).map(|newer| merged.merge(newer)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(texts: &[&str], merged: &str, overwritten_values: u64) {
        assert_eq!(merge(texts), merged, "{texts:?}");
        assert_eq!(overwritten(texts.iter().copied()), overwritten_values, "{texts:?}");
    }

    #[test]
    fn fields_merge_one_by_one() {
        check(&[r#"{"a":1,"b":2}"#, r#"{"b":3,"c":4}"#], r#"{"a":1,"b":3,"c":4}"#, 1);
        check(&[r#"{"a":1}"#, r#"{"a":1}"#], r#"{"a":1}"#, 0);
        check(&[r#"{"a":1}"#, r#"{"a":null,"d":null}"#], r#"{"a":1,"d":null}"#, 0);
        check(&[r#"{"a":null}"#, r#"{"a":"x\u00e9\""}"#], r#"{"a":"x\u00e9\""}"#, 0);
        check(&[r#"{"q\"\n":{"deep":[1, 2]}}"#, "{}"], r#"{"q\"\n":{"deep":[1, 2]}}"#, 0);
        check(&[r#"{"a":1}"#, r#"{"a":2}"#, r#"{"a":1}"#], r#"{"a":1}"#, 2);
    }

    #[test]
    fn numbers_keep_their_digits() {
        let digits = r#"{"n":123456789012345678901234567890.10}"#;
        check(&[digits, "{}"], digits, 0);
    }

    #[test]
    fn what_is_no_object_is_not_made_worse() {
        check(&["[1]", "{bad"], "{bad", 0);
        check(&["[1]", r#"{"a":1}"#, "7"], r#"{"a":1}"#, 0);
    }
}
