//! The first form of definitions, written by users and stored.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    checksum::Algorithm,
    layout::{Bit, Checksum, Count, Item, Labels, Layout, Length, Named, NumberType, Reading},
};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Stored {
    pub format: u32,
    pub definition: Definition,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Format {
    pub format: u32,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "decoder", rename_all = "kebab-case")]
pub(crate) enum Definition {
    Auto(Auto),
    Json(Document),
    Number(Single),
    Text(Single),
    Cbor(Document),
    LineProtocol(Lines),
    Struct(Struct),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Time {
    pub field: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Auto {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time: Option<Time>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Document {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time: Option<Time>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rows: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub lists: Vec<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub types: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Single {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub column: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Lines {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub precision: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_tag: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub attributes: Vec<String>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Endian {
    #[default]
    Big,
    Little,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Struct {
    #[serde(default)]
    pub endian: Endian,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<Time>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checksum: Option<Sum>,
    pub fields: Vec<Field>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Sum {
    #[serde(rename = "type")]
    pub algorithm: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endian: Option<Endian>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<usize>,
}

/// A number of bytes or items, or the name of what says it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum Size {
    Fixed(usize),
    By(String),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Field {
    #[serde(rename = "type")]
    pub kind: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endian: Option<Endian>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset: Option<f64>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub null: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub length: Option<Size>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bits: Vec<BitField>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<Size>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<Field>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct BitField {
    pub name: String,
    /// From the least significant bit of the group.
    pub at: u32,
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub width: u32,
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset: Option<f64>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub null: Option<i64>,
}

const fn one() -> u32 {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
const fn is_one(width: &u32) -> bool {
    *width == 1
}

/// Checks a layout.
pub(crate) fn layout(wire: &Struct) -> Result<Layout, String> {
    let mut compiler = Compiler { wire, names: String::new(), seen: Vec::new() };
    let mut items = compiler.items(&wire.fields, true)?;
    if let Some(at) = items.iter().position(Item::takes_all)
        && at + 1 != items.len()
    {
        return Err(format!("field {} takes all that is left: it must be the last one", at + 1));
    }
    if items.iter().filter(|item| matches!(item, Item::Group { .. })).count() > 1 {
        return Err("a layout has at most one group: its items are the rows".to_owned());
    }
    let time = super::time(wire.time.as_ref())?;
    let declared = wire.time.iter().map(|time| &time.field).chain(&wire.keys);
    for name in declared {
        if !compiler.seen.contains(name) {
            return Err(format!("there is no field {name:?} in the layout"));
        }
    }
    if let Some(time) = &time {
        let mut fits = false;
        Item::each_named(&mut items, &mut |named, is_number| fits |= named.time && is_number);
        if !fits {
            return Err(format!("event time field {:?} must be a number, without labels", time.field));
        }
    }
    let checksum = wire.checksum.as_ref().map(|sum| checksum(sum, wire.endian)).transpose()?;
    let time_unit = time.map(|time| time.unit).unwrap_or_default();
    Ok(Layout { items, names: compiler.names, time_unit, checksum })
}

fn checksum(wire: &Sum, endian: Endian) -> Result<Checksum, String> {
    let algorithm: Algorithm = wire.algorithm.parse()?;
    if let (Some(from), Some(to)) = (wire.from, wire.to)
        && from > to
    {
        return Err(format!("checksum from {from} to {to} covers nothing"));
    }
    let big = wire.endian.unwrap_or(endian) == Endian::Big;
    Ok(Checksum { algorithm, big, at: wire.at, from: wire.from, to: wire.to })
}

struct Compiler<'w> {
    wire: &'w Struct,
    names: String,
    seen: Vec<String>,
}

impl Compiler<'_> {
    fn items(&mut self, fields: &[Field], outer: bool) -> Result<Vec<Item>, String> {
        fields
            .iter()
            .enumerate()
            .map(|(idx, field)| {
                let label =
                    field.name.as_ref().map_or_else(|| format!("field {}", idx + 1), |name| format!("field {name:?}"));
                self.item(field, outer).map_err(|reason| format!("{label}: {reason}"))
            })
            .collect()
    }

    fn item(&mut self, field: &Field, outer: bool) -> Result<Item, String> {
        let kind = field.kind.as_str();
        let number = NumberType::from_name(kind);
        let big = field.endian.unwrap_or(self.wire.endian) == Endian::Big;
        let mut unused = Vec::new();
        let mut only = |used: bool, given: bool, what: &str| {
            if given && !used {
                unused.push(what.to_owned());
            }
        };
        let reads = number.is_some();
        only(!matches!(kind, "skip" | "bits" | "group"), field.name.is_some(), "name");
        only(reads, field.scale.is_some(), "scale");
        only(reads, field.offset.is_some(), "offset");
        only(reads, !field.labels.is_empty(), "labels");
        only(reads, field.null.is_some(), "null");
        only(matches!(kind, "skip" | "bytes" | "text" | "bits"), field.length.is_some(), "length");
        only(kind == "bits", !field.bits.is_empty(), "bits");
        only(kind == "group", field.count.is_some(), "count");
        only(kind == "group", !field.fields.is_empty(), "fields");
        if !unused.is_empty() {
            return Err(format!("{} does not go with type {kind:?}", unused.join(", ")));
        }
        if let Some(number) = number {
            let reading = reading(number.is_float(), field.scale, field.offset, &field.labels, field.null)?;
            let named = self.name(field.name.as_deref())?;
            return Ok(Item::Number { named, number, big, reading });
        }
        let fixed = |what: &str| match &field.length {
            Some(Size::Fixed(bytes)) if *bytes > 0 => Ok(*bytes),
            _ => Err(format!("{what} needs a length in bytes, more than 0")),
        };
        Ok(match kind {
            "bool" => Item::Number {
                named: self.name(field.name.as_deref())?,
                number: NumberType::U8,
                big,
                reading: Reading::Bool,
            },
            "skip" => Item::Skip(fixed("skip")?),
            "bytes" | "text" => {
                let length = match field.length.as_ref().ok_or("a length is needed")? {
                    Size::Fixed(bytes) => Length::Fixed(*bytes),
                    Size::By(by) => match by.as_str() {
                        "u8" => Length::U8,
                        "u16" => Length::U16,
                        "rest" => Length::Rest,
                        "zero" if kind == "text" => Length::Zero,
                        other => {
                            return Err(format!(
                                "unknown length {other:?}: use a number, u8, u16, rest, or zero for texts"
                            ));
                        }
                    },
                };
                let named = self.name(field.name.as_deref())?;
                if kind == "text" { Item::Text { named, length, big } } else { Item::Bytes { named, length, big } }
            }
            "bits" => {
                let bytes = fixed("bits")?;
                if bytes > 8 || field.bits.is_empty() {
                    return Err("a bit group has 1 to 8 bytes, and bits".to_owned());
                }
                let bits = field.bits.iter().map(|bit| self.bit(bit, bytes)).collect::<Result<_, _>>()?;
                Item::Bits { bytes, big, bits }
            }
            "group" if outer => {
                let count = match field.count.as_ref().ok_or("a count is needed")? {
                    Size::Fixed(count) => Count::Fixed(*count),
                    Size::By(by) => match by.as_str() {
                        "u8" => Count::Prefix(NumberType::U8),
                        "u16" => Count::Prefix(NumberType::U16),
                        "u32" => Count::Prefix(NumberType::U32),
                        "end" => Count::End,
                        other => return Err(format!("unknown count {other:?}: use a number, u8, u16, u32 or end")),
                    },
                };
                let items = self.items(&field.fields, false)?;
                if items.iter().map(Item::min_len).sum::<usize>() == 0 {
                    return Err("an item of a group needs at least one byte".to_owned());
                }
                if items.iter().any(Item::takes_all) {
                    return Err("no field of a group may take all that is left".to_owned());
                }
                Item::Group { count, big, items }
            }
            "group" => return Err("a group inside of a group".to_owned()),
            other => return Err(format!("unknown type {other:?}")),
        })
    }

    fn bit(&mut self, bit: &BitField, bytes: usize) -> Result<Bit, String> {
        let name = &bit.name;
        let group = bytes as u32 * 8;
        if bit.width == 0 || bit.at.checked_add(bit.width).is_none_or(|end| end > group) {
            return Err(format!("bits {name:?}: {} bits at {} are not in a group of {group}", bit.width, bit.at));
        }
        let signed = match bit.kind.as_deref() {
            None | Some("unsigned" | "bool") => false,
            Some("signed") => true,
            Some(other) => return Err(format!("bits {name:?}: unknown type {other:?}: use unsigned, signed or bool")),
        };
        let reading = if bit.kind.as_deref() == Some("bool") {
            if bit.scale.or(bit.offset).is_some() || !bit.labels.is_empty() || bit.null.is_some() {
                return Err(format!("bits {name:?}: scale, offset, labels and null do not go with bool"));
            }
            Reading::Bool
        } else {
            reading(false, bit.scale, bit.offset, &bit.labels, bit.null)?
        };
        Ok(Bit { named: self.name(Some(name))?, at: bit.at, width: bit.width, signed, reading })
    }

    fn name(&mut self, name: Option<&str>) -> Result<Named, String> {
        let name = name.filter(|name| !name.is_empty()).ok_or("a name is needed")?;
        if self.seen.iter().any(|seen| seen == name) {
            return Err("the name is used twice".to_owned());
        }
        self.seen.push(name.to_owned());
        let start = self.names.len();
        self.names.push_str(name);
        Ok(Named {
            start,
            end: self.names.len(),
            hash: crate::rows::hash(name.as_bytes()),
            key: self.wire.keys.iter().any(|key| key == name),
            time: self.wire.time.as_ref().is_some_and(|time| time.field == name),
        })
    }
}

fn reading(
    float: bool,
    scale: Option<f64>,
    offset: Option<f64>,
    labels: &BTreeMap<String, String>,
    null: Option<i64>,
) -> Result<Reading, String> {
    let scaled = scale.is_some() || offset.is_some();
    if scale.is_some_and(|scale| !scale.is_finite()) || offset.is_some_and(|offset| !offset.is_finite()) {
        return Err("scale and offset must be finite".to_owned());
    }
    if !labels.is_empty() {
        if scaled || float {
            return Err("labels go with integers, without scale and offset".to_owned());
        }
        let labels = labels
            .iter()
            .map(|(value, label)| {
                let value =
                    value.parse().map_err(|_| format!("label {label:?} is for {value:?}, which is no integer"))?;
                Ok((value, label.clone()))
            })
            .collect::<Result<Labels, String>>()?;
        return Ok(Reading::Labels { labels, null });
    }
    if float && null.is_some() {
        return Err("null goes with integers; a float says NaN".to_owned());
    }
    Ok(Reading::Plain { scaled: scaled.then(|| (scale.unwrap_or(1.0), offset.unwrap_or(0.0))), null })
}
