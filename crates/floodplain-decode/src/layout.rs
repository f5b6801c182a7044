//! Declared binary layouts.

use std::collections::BTreeMap;

use crate::{
    checksum::Algorithm,
    failure::{Refusal, Stage},
    rows::{Builder, Role, RowHead, Slot, TimeCandidate},
    time::TimeUnit,
    value::ColumnType,
    write_json::write,
};

mod reader;
use reader::Reader;

/// A column that a layout writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayoutColumn {
    pub name: String,
    pub column_type: ColumnType,
    pub role: Role,
}

#[derive(Debug, Clone)]
pub(crate) struct Layout {
    pub items: Vec<Item>,
    /// All names, one after another: they are copied into the buffer of rows at once.
    pub names: String,
    pub time_unit: TimeUnit,
    pub checksum: Option<Checksum>,
}

#[derive(Debug, Clone)]
pub(crate) struct Checksum {
    pub algorithm: Algorithm,
    pub big: bool,
    /// Position of the checksum; `None`: at the end, and not part of what the fields read.
    pub at: Option<usize>,
    pub from: Option<usize>,
    pub to: Option<usize>,
}

#[derive(Debug, Clone)]
pub(crate) enum Item {
    Number {
        named: Named,
        number: NumberType,
        big: bool,
        reading: Reading,
    },
    Bits {
        bytes: usize,
        big: bool,
        bits: Vec<Bit>,
    },
    Bytes {
        named: Named,
        length: Length,
        big: bool,
    },
    Text {
        named: Named,
        length: Length,
        big: bool,
    },
    Skip(usize),
    /// Each item is a row, which repeats the fields outside.
    Group {
        count: Count,
        big: bool,
        items: Vec<Item>,
    },
}

/// A name as part of [`Layout::names`], and what is declared for it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Named {
    pub start: usize,
    pub end: usize,
    pub hash: u32,
    pub key: bool,
    pub time: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NumberType {
    U8,
    U16,
    U24,
    U32,
    U64,
    I8,
    I16,
    I24,
    I32,
    I64,
    F32,
    F64,
}

pub(crate) type Labels = BTreeMap<i128, String>;

/// What a number becomes.
#[derive(Debug, Clone)]
pub(crate) enum Reading {
    /// With a scale or offset a float, else as sent.
    Plain {
        scaled: Option<(f64, f64)>,
        null: Option<i64>,
    },
    Bool,
    Labels {
        labels: Labels,
        null: Option<i64>,
    },
}

#[derive(Debug, Clone)]
pub(crate) struct Bit {
    pub named: Named,
    pub at: u32,
    pub width: u32,
    pub signed: bool,
    pub reading: Reading,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Length {
    Fixed(usize),
    U8,
    U16,
    /// Up to a zero byte, which is read too.
    Zero,
    Rest,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Count {
    Fixed(usize),
    Prefix(NumberType),
    End,
}

impl NumberType {
    pub(crate) fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "u8" => Self::U8,
            "u16" => Self::U16,
            "u24" => Self::U24,
            "u32" => Self::U32,
            "u64" => Self::U64,
            "i8" => Self::I8,
            "i16" => Self::I16,
            "i24" => Self::I24,
            "i32" => Self::I32,
            "i64" => Self::I64,
            "f32" => Self::F32,
            "f64" => Self::F64,
            _ => return None,
        })
    }

    pub(crate) const fn is_float(self) -> bool {
        matches!(self, Self::F32 | Self::F64)
    }

    pub(crate) const fn len(self) -> usize {
        match self {
            Self::U8 | Self::I8 => 1,
            Self::U16 | Self::I16 => 2,
            Self::U24 | Self::I24 => 3,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 => 8,
        }
    }
}

impl Length {
    const fn min_len(self) -> usize {
        match self {
            Self::Fixed(bytes) => bytes,
            Self::U8 | Self::Zero => 1,
            Self::U16 => 2,
            Self::Rest => 0,
        }
    }
}

impl Item {
    pub(crate) fn min_len(&self) -> usize {
        match self {
            Self::Number { number, .. } => number.len(),
            Self::Bits { bytes, .. } | Self::Skip(bytes) => *bytes,
            Self::Bytes { length, .. } | Self::Text { length, .. } => length.min_len(),
            Self::Group { .. } => 0,
        }
    }

    pub(crate) fn takes_all(&self) -> bool {
        matches!(
            self,
            Self::Bytes { length: Length::Rest, .. }
                | Self::Text { length: Length::Rest, .. }
                | Self::Group { count: Count::End, .. }
        )
    }

    /// Calls `each` with every name, and whether it stands for a number that may be a time.
    pub(crate) fn each_named(items: &mut [Self], each: &mut impl FnMut(&mut Named, bool)) {
        for item in items {
            match item {
                Self::Number { named, reading, .. } => each(named, matches!(reading, Reading::Plain { .. })),
                Self::Bits { bits, .. } => {
                    for bit in bits {
                        each(&mut bit.named, matches!(bit.reading, Reading::Plain { .. }));
                    }
                }
                Self::Bytes { named, .. } | Self::Text { named, .. } => each(named, false),
                Self::Skip(_) => {}
                Self::Group { items, .. } => Self::each_named(items, each),
            }
        }
    }
}

impl Reading {
    const fn column_type(&self, float: bool) -> ColumnType {
        match self {
            Self::Plain { scaled: Some(_), .. } => ColumnType::Float64,
            Self::Plain { scaled: None, .. } if float => ColumnType::Float64,
            Self::Plain { .. } => ColumnType::Int64,
            Self::Bool => ColumnType::Bool,
            Self::Labels { .. } => ColumnType::Text,
        }
    }
}

impl Layout {
    /// The columns in the order of the layout, without the event time.
    pub(crate) fn columns(&self) -> Vec<LayoutColumn> {
        fn walk(layout: &Layout, items: &[Item], out: &mut Vec<LayoutColumn>) {
            for item in items {
                let mut push = |named: &Named, column_type| {
                    if !named.time {
                        let role = if named.key { Role::Key } else { Role::Value };
                        out.push(LayoutColumn {
                            name: layout.names[named.start..named.end].to_owned(),
                            column_type,
                            role,
                        });
                    }
                };
                match item {
                    Item::Number { named, number, reading, .. } => push(named, reading.column_type(number.is_float())),
                    Item::Bits { bits, .. } => {
                        bits.iter().for_each(|bit| push(&bit.named, bit.reading.column_type(false)))
                    }
                    Item::Bytes { named, .. } => push(named, ColumnType::Bytes),
                    Item::Text { named, .. } => push(named, ColumnType::Text),
                    Item::Skip(_) => {}
                    Item::Group { items, .. } => walk(layout, items, out),
                }
            }
        }
        let mut columns = Vec::new();
        walk(self, &self.items, &mut columns);
        columns
    }

    /// Reads one payload into rows: one, or one for each item of the group.
    pub(crate) fn decode(&self, payload: &[u8], out: &mut Builder<'_>) -> Result<(), Refusal> {
        let end = self.verify(payload)?;
        let names = out.copy(|text| text.push_str(&self.names))?;
        let mut run = Run { layout: self, names, reader: Reader::new(payload, end), time: None };
        let mut group = None;
        for item in &self.items {
            if let Item::Group { count, big, items } = item {
                group = Some(run.skip_group(*count, *big, items)?);
            } else {
                run.item(item, out)?;
            }
        }
        if run.reader.left() > 0 {
            let (at, left) = (run.reader.at(), run.reader.left());
            return Err(Refusal::decode(at, format!("bytes are left after the last field: {left}")));
        }
        let Some((start, count, items)) = group else {
            return out.close(RowHead::default(), run.time);
        };
        let outer_time = run.time;
        let outer = out.take_open();
        run.reader.seek(start);
        for _ in 0..count {
            out.extend_open(&outer)?;
            run.time = outer_time;
            for item in items {
                run.item(item, out)?;
            }
            out.close(RowHead::default(), run.time)?;
        }
        out.separate_equal_times();
        Ok(())
    }

    /// Checks the checksum. Returns where the fields end.
    fn verify(&self, payload: &[u8]) -> Result<usize, Refusal> {
        let Some(sum) = &self.checksum else { return Ok(payload.len()) };
        let len = sum.algorithm.len();
        let short = || {
            let have = payload.len();
            Refusal::new(Stage::Checksum, have, format!("payload of {have} bytes is too short for its checksum"))
        };
        let at = match sum.at {
            Some(at) => at,
            None => payload.len().checked_sub(len).ok_or_else(short)?,
        };
        let behind = at.checked_add(len).filter(|behind| *behind <= payload.len()).ok_or_else(short)?;
        // A checksum in front of what it covers, or behind it.
        let (from, to) = match (sum.from, sum.to) {
            (None, None) if at == 0 => (behind, payload.len()),
            (Some(from), None) if from > at => (from, payload.len()),
            (from, to) => (from.unwrap_or(0), to.unwrap_or(at)),
        };
        let covered = payload.get(from..to).ok_or_else(short)?;
        let expected = sum.algorithm.of(covered);
        let given = reader::unsigned(&payload[at..behind], sum.big) as u32;
        if given != expected {
            let width = 2 * len;
            let reason = format!("checksum is {given:0width$x}, bytes {from} to {to} give {expected:0width$x}");
            return Err(Refusal::new(Stage::Checksum, at, reason));
        }
        Ok(if sum.at.is_some() { payload.len() } else { at })
    }
}

/// One payload that is being read.
struct Run<'l, 'p> {
    layout: &'l Layout,
    names: crate::rows::Span,
    reader: Reader<'p>,
    time: Option<TimeCandidate>,
}

/// What is known of a number before it becomes a value.
#[derive(Clone, Copy)]
enum Raw {
    Int(i128),
    Float(f64),
}

impl<'l> Run<'l, '_> {
    /// Passes over a group, so that the fields behind it are known before its rows are written.
    fn skip_group(
        &mut self,
        count: Count,
        big: bool,
        items: &'l [Item],
    ) -> Result<(usize, usize, &'l [Item]), Refusal> {
        let declared = match count {
            Count::Fixed(count) => count,
            Count::Prefix(number) => {
                reader::unsigned(self.reader.take(number.len(), || "count of a group".into())?, big) as usize
            }
            Count::End => usize::MAX,
        };
        let start = self.reader.at();
        let mut found = 0;
        while found < declared && (!matches!(count, Count::End) || self.reader.left() > 0) {
            for item in items {
                self.pass(item)?;
            }
            found += 1;
        }
        Ok((start, found, items))
    }

    fn pass(&mut self, item: &Item) -> Result<(), Refusal> {
        let layout = self.layout;
        match item {
            Item::Number { named, number, .. } => self.reader.take(number.len(), || layout.label(named)).map(drop),
            Item::Bits { bytes, bits, .. } => self.reader.take(*bytes, || layout.bits_label(bits)).map(drop),
            Item::Skip(bytes) => self.reader.take(*bytes, || "skipped bytes".into()).map(drop),
            Item::Bytes { named, length, big } | Item::Text { named, length, big } => {
                self.reader.sized(*length, *big, || layout.label(named)).map(drop)
            }
            Item::Group { .. } => Ok(()),
        }
    }

    fn item(&mut self, item: &Item, out: &mut Builder<'_>) -> Result<(), Refusal> {
        let layout = self.layout;
        match item {
            Item::Number { named, number, big, reading } => {
                let at = self.reader.at();
                let bytes = self.reader.take(number.len(), || layout.label(named))?;
                let raw = match number {
                    NumberType::F32 => Raw::Float(f64::from(f32::from_bits(reader::unsigned(bytes, *big) as u32))),
                    NumberType::F64 => Raw::Float(f64::from_bits(reader::unsigned(bytes, *big))),
                    NumberType::U8 | NumberType::U16 | NumberType::U24 | NumberType::U32 | NumberType::U64 => {
                        Raw::Int(i128::from(reader::unsigned(bytes, *big)))
                    }
                    _ => Raw::Int(reader::signed(reader::unsigned(bytes, *big), number.len() as u32 * 8)),
                };
                self.number(named, raw, reading, at, out)
            }
            Item::Bits { bytes, big, bits } => {
                let at = self.reader.at();
                let group = reader::unsigned(self.reader.take(*bytes, || layout.bits_label(bits))?, *big);
                for bit in bits {
                    let value = group >> bit.at & (u64::MAX >> (64 - bit.width));
                    let raw = if bit.signed { reader::signed(value, bit.width) } else { i128::from(value) };
                    self.number(&bit.named, Raw::Int(raw), &bit.reading, at, out)?;
                }
                Ok(())
            }
            Item::Bytes { named, length, big } => {
                let bytes = self.reader.sized(*length, *big, || layout.label(named))?;
                let slot = Slot::Bytes(out.keep_bytes(bytes));
                self.push(named, slot, out)
            }
            Item::Text { named, length, big } => {
                let mut bytes = self.reader.sized(*length, *big, || layout.label(named))?;
                let start = self.reader.at() - bytes.len() - usize::from(matches!(length, Length::Zero));
                if matches!(length, Length::Fixed(_)) {
                    // Padded with zeros.
                    bytes = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
                }
                let text = std::str::from_utf8(bytes).map_err(|error| {
                    Refusal::decode(start + error.valid_up_to(), format!("{} is not utf-8", layout.label(named)))
                })?;
                let slot = Slot::Text(out.keep(text)?);
                self.push(named, slot, out)
            }
            Item::Skip(bytes) => self.reader.take(*bytes, || "skipped bytes".into()).map(drop),
            Item::Group { .. } => Ok(()),
        }
    }

    fn number(
        &mut self,
        named: &Named,
        raw: Raw,
        reading: &Reading,
        at: usize,
        out: &mut Builder<'_>,
    ) -> Result<(), Refusal> {
        let is_null =
            |null: &Option<i64>| matches!((null, raw), (Some(null), Raw::Int(raw)) if i128::from(*null) == raw);
        let slot = match (reading, raw) {
            (Reading::Plain { null, .. } | Reading::Labels { null, .. }, _) if is_null(null) => return Ok(()),
            (Reading::Plain { scaled: Some((scale, offset)), .. }, raw) => {
                let value = match raw {
                    Raw::Int(value) => value as f64,
                    Raw::Float(value) => value,
                };
                Slot::Float(value * scale + offset)
            }
            (_, Raw::Float(value)) => Slot::Float(value),
            (Reading::Plain { .. }, Raw::Int(value)) => match i64::try_from(value) {
                Ok(value) => Slot::Int(value),
                Err(_) => Slot::Rest(out.copy(|text| write(text, format_args!("{value}")))?),
            },
            (Reading::Bool, Raw::Int(value)) => Slot::Bool(value != 0),
            (Reading::Labels { labels, .. }, Raw::Int(value)) => Slot::Text(match labels.get(&value) {
                Some(label) => out.keep(label)?,
                // A value without label is kept as the digits that it is.
                None => out.copy(|text| write(text, format_args!("{value}")))?,
            }),
        };
        if named.time {
            let unit = self.layout.time_unit;
            let time = match slot {
                Slot::Int(value) => unit.of_int(value),
                Slot::Float(value) => unit.of_float(value),
                _ => None,
            };
            let Some(time) = time else {
                let value = match raw {
                    Raw::Int(value) => value.to_string(),
                    Raw::Float(value) => format!("{value:?}"),
                };
                let reason = format!("event time {} is {value}, which is no time in {unit}", self.layout.label(named));
                return Err(Refusal::new(Stage::Time, at, reason));
            };
            self.time = Some(TimeCandidate { rank: 0, field_idx: out.len(), time });
        }
        self.push(named, slot, out)
    }

    fn push(&self, named: &Named, slot: Slot, out: &mut Builder<'_>) -> Result<(), Refusal> {
        let role = if named.key { Role::Key } else { Role::Value };
        out.push(self.names.part(named.start, named.end), named.hash, slot, role)
    }
}

impl Layout {
    fn label(&self, named: &Named) -> String {
        format!("field {:?}", &self.names[named.start..named.end])
    }

    fn bits_label(&self, bits: &[Bit]) -> String {
        bits.first().map_or_else(String::new, |bit| format!("bits of {}", self.label(&bit.named)))
    }
}
