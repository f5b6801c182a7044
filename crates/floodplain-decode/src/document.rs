//! From documents (JSON, CBOR) to rows: which field becomes which column of which row.
//!
//! - An object is a row. Nested objects become columns with dotted names of at most [`MAX_DEPTH`] parts; what is
//!   nested deeper, or has a longer name than [`MAX_NAME_BYTES`], is one value for the overflow column.
//! - An array of objects is a row for each object: at the top, or as the field that the definition names, or, where
//!   it names none, as the only field of the top object that is such an array. All other fields of the object
//!   around it are repeated in each row; where a row has a field of that name, its own counts.
//! - Any other array goes to the overflow column, unless it is declared as a list and has scalars of one type.
//! - A document that is a scalar, or an array with anything but objects, is one row with the column `value`.
//! - The event time is the declared field, or else the first of the usual names that has a time. A row of an array
//!   takes its own before that of the object around it.

use std::{borrow::Cow, collections::HashMap};

use crate::{
    failure::{Refusal, Stage},
    number::{self, is_exact},
    rows::{Builder, Role, RowHead, Slot, Span, TimeCandidate},
    time::{self, TimeUnit},
    value::{ColumnType, ElementType},
    write_json,
};

/// Parts of a dotted column name.
const MAX_DEPTH: usize = 5;
/// Longer names of nested fields are not built; as `schema` makes no columns with longer names.
pub(crate) const MAX_NAME_BYTES: usize = 255;
/// Arrays of objects in one object among which names are compared.
const FEW_ARRAYS: usize = 8;
/// The column of what has no name.
pub(crate) const VALUE: &str = "value";
/// The rank of a time of the object around rows: behind every own one.
const OUTER_RANK: u8 = 100;

/// What a definition declares about documents.
#[derive(Debug, Clone, Default)]
pub(crate) struct Shape {
    pub time: Option<TimeField>,
    pub rows: Option<String>,
    /// By dotted name. Only looked up, never walked: its order decides nothing.
    pub specials: HashMap<String, Special>,
}

#[derive(Debug, Clone)]
pub(crate) struct TimeField {
    pub field: String,
    pub unit: TimeUnit,
}

/// What is declared for one field.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Special {
    pub time: bool,
    pub key: bool,
    pub list: bool,
    pub declared: Option<ColumnType>,
}

impl Shape {
    pub(crate) fn special(&mut self, name: &str) -> &mut Special {
        self.specials.entry(name.to_owned()).or_default()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Null,
    Scalar,
    Array,
    Object,
}

/// A scalar, and its digits if it was written as a number.
pub(crate) struct Scalar<'a> {
    pub slot: Slot,
    pub digits: &'a str,
}

/// A format that documents come in. An `Item` is a value that has not been read yet.
pub(crate) trait Source<'a> {
    type Item: Copy;

    fn kind(&self, item: Self::Item) -> Kind;

    /// Where a value starts in the payload.
    fn position(&self, item: Self::Item) -> usize;

    /// Reads a value that is neither array nor object.
    fn scalar(&self, item: Self::Item, out: &mut Builder<'_>) -> Result<Scalar<'a>, Refusal>;

    /// Calls `each` with name and value of each member of an object.
    fn members(
        &self,
        item: Self::Item,
        each: impl FnMut(Cow<'_, str>, Self::Item) -> Result<(), Refusal>,
    ) -> Result<(), Refusal>;

    /// Calls `each` with each element of an array.
    fn elements(&self, item: Self::Item, each: impl FnMut(Self::Item) -> Result<(), Refusal>) -> Result<(), Refusal>;

    /// Whether an array has elements, and all of them are objects.
    fn all_objects(&self, item: Self::Item) -> Result<bool, Refusal>;

    /// The value as JSON text.
    fn json(&self, item: Self::Item, out: &mut Builder<'_>) -> Result<Span, Refusal>;
}

/// Turns one document into rows.
pub(crate) fn decode<'a, S: Source<'a>>(
    source: &S,
    document: S::Item,
    shape: &Shape,
    out: &mut Builder<'_>,
) -> Result<(), Refusal> {
    let mut walk = Walk { source, shape, path: String::new(), time: None, rows: Vec::new(), outer: true };
    match source.kind(document) {
        Kind::Object => walk.document(document, out)?,
        Kind::Array if source.all_objects(document)? => walk.expand(document, out)?,
        Kind::Array if is_empty(source, document)? => {}
        Kind::Array => walk.single(document, out)?,
        Kind::Scalar | Kind::Null => walk.single(document, out)?,
    }
    out.separate_equal_times();
    Ok(())
}

fn is_empty<'a, S: Source<'a>>(source: &S, item: S::Item) -> Result<bool, Refusal> {
    let mut empty = true;
    source.elements(item, |_| {
        empty = false;
        Ok(())
    })?;
    Ok(empty)
}

struct Walk<'s, S, I> {
    source: &'s S,
    shape: &'s Shape,
    /// The dotted name of the object that is being read, with a dot at its end.
    path: String,
    time: Option<TimeCandidate>,
    /// Arrays of objects that may become rows, and their fields.
    rows: Vec<(I, usize)>,
    /// Whether rows may still be found inside.
    outer: bool,
}

impl<'a, S: Source<'a>> Walk<'_, S, S::Item> {
    /// A top that is no row.
    fn single(&mut self, item: S::Item, out: &mut Builder<'_>) -> Result<(), Refusal> {
        self.field(Cow::Borrowed(VALUE), item, 1, out)?;
        out.close(RowHead::default(), self.time)
    }

    /// A top that is an object.
    fn document(&mut self, item: S::Item, out: &mut Builder<'_>) -> Result<(), Refusal> {
        self.object(item, 1, out)?;
        // Only the last of a name counts. With many there is no single one anyway: that is not worth the search.
        if self.rows.len() <= FEW_ARRAYS {
            self.rows.retain(|(_, field_idx)| out.is_last_of_name(*field_idx));
        }
        if let [(array, field_idx)] = self.rows[..] {
            out.set(field_idx, Slot::Absent);
            return self.expand(array, out);
        }
        // Which of several would it be? Whoever knows declares it.
        for (array, field_idx) in std::mem::take(&mut self.rows) {
            let slot = Slot::Rest(self.source.json(array, out)?);
            out.set(field_idx, slot);
        }
        out.close(RowHead::default(), self.time)
    }

    /// Writes a row for each element, with the fields of the open row in front.
    fn expand(&mut self, array: S::Item, out: &mut Builder<'_>) -> Result<(), Refusal> {
        self.outer = false;
        let around = out.take_open();
        let outer_time = self.time.map(|time| TimeCandidate { rank: time.rank + OUTER_RANK, ..time });
        let source = self.source;
        source.elements(array, |element| {
            out.extend_open(&around)?;
            self.time = outer_time;
            self.object(element, 1, out)?;
            out.close(RowHead::default(), self.time)
        })
    }

    fn object(&mut self, item: S::Item, depth: usize, out: &mut Builder<'_>) -> Result<(), Refusal> {
        let source = self.source;
        source.members(item, |key, value| self.field(key, value, depth, out))
    }

    fn field(&mut self, key: Cow<'_, str>, item: S::Item, depth: usize, out: &mut Builder<'_>) -> Result<(), Refusal> {
        let kind = self.source.kind(item);
        if kind == Kind::Object && depth < MAX_DEPTH && self.path.len() + key.len() < MAX_NAME_BYTES {
            let (before, fields) = (self.path.len(), out.len());
            self.path.push_str(&key);
            self.path.push('.');
            self.object(item, depth + 1, out)?;
            self.path.truncate(before);
            if out.len() > fields {
                return Ok(());
            }
            // An empty object is there, too.
        }
        // A name without nesting is mostly a part of the payload.
        let (name, hash) = if self.path.is_empty() {
            out.name(key)?
        } else {
            let before = self.path.len();
            self.path.push_str(&key);
            let name = out.name(Cow::Borrowed(&self.path));
            self.path.truncate(before);
            name?
        };
        let special = if self.shape.specials.is_empty() {
            Special::default()
        } else {
            self.shape.specials.get(out.str(name)).copied().unwrap_or_default()
        };
        let slot = match kind {
            Kind::Null => {
                self.no_time(hash, out, name);
                Slot::Absent
            }
            Kind::Scalar => {
                let scalar = self.source.scalar(item, out)?;
                self.event_time(&scalar, item, name, hash, special, depth, out)?;
                special.declared.map_or(Ok(scalar.slot), |declared| coerce(&scalar, declared, out))?
            }
            Kind::Array => {
                self.no_time(hash, out, name);
                self.array(item, name, special, depth, out)?
            }
            Kind::Object => {
                self.no_time(hash, out, name);
                Slot::Rest(self.source.json(item, out)?)
            }
        };
        let role = if special.key { Role::Key } else { Role::Value };
        out.push(name, hash, slot, role)
    }

    fn array(
        &mut self,
        item: S::Item,
        name: Span,
        special: Special,
        depth: usize,
        out: &mut Builder<'_>,
    ) -> Result<Slot, Refusal> {
        let wanted = self.outer
            && match &self.shape.rows {
                Some(declared) => declared == out.str(name),
                None => depth == 1 && !special.list,
            };
        if wanted && self.source.all_objects(item)? {
            self.rows.push((item, out.len()));
            return Ok(Slot::Absent);
        }
        if special.list
            && let Some(list) = self.list(item, out)?
        {
            return Ok(list);
        }
        Ok(Slot::Rest(self.source.json(item, out)?))
    }

    /// Scalars of one type, or nothing.
    fn list(&self, item: S::Item, out: &mut Builder<'_>) -> Result<Option<Slot>, Refusal> {
        let first = out.items_len();
        let mut plain = true;
        self.source.elements(item, |element| {
            plain &= self.source.kind(element) == Kind::Scalar;
            if plain {
                let slot = self.source.scalar(element, out)?.slot;
                out.push_item(slot)?;
            }
            Ok(())
        })?;
        let element = if plain { one_type(out.items_from(first)) } else { None };
        let Some(element) = element else {
            out.truncate_items(first);
            return Ok(None);
        };
        Ok(Some(Slot::List { element, first: first as u32, len: (out.items_len() - first) as u32 }))
    }

    /// A later field takes the place of an earlier one of its name, also as the event time.
    fn no_time(&mut self, hash: u32, out: &Builder<'_>, name: Span) {
        if let Some(time) = self.time
            && out.hash_of(time.field_idx) == Some(hash)
            && out.has_name(time.field_idx, name)
        {
            self.time = None;
        }
    }

    #[expect(clippy::too_many_arguments, reason = "all that is known about a field")]
    fn event_time(
        &mut self,
        scalar: &Scalar<'_>,
        item: S::Item,
        name: Span,
        hash: u32,
        special: Special,
        depth: usize,
        out: &Builder<'_>,
    ) -> Result<(), Refusal> {
        self.no_time(hash, out, name);
        if let Some(declared) = &self.shape.time {
            if special.time {
                let Some((time, _)) = read_time(scalar, declared.unit, out) else {
                    return Err(self.not_a_time(scalar, item, declared, out));
                };
                self.time = Some(TimeCandidate { rank: 0, field_idx: out.len(), time });
            }
            return Ok(());
        }
        if depth > 1 {
            return Ok(());
        }
        let Some(rank) = time::usual_rank(out.str(name)) else { return Ok(()) };
        if self.time.is_some_and(|found| found.rank <= rank) {
            return Ok(());
        }
        if let Some((time, is_number)) = read_time(scalar, TimeUnit::Auto, out)
            && (!is_number || time >= time::EARLIEST_UNDECLARED)
        {
            self.time = Some(TimeCandidate { rank, field_idx: out.len(), time });
        }
        Ok(())
    }

    fn not_a_time(&self, scalar: &Scalar<'_>, item: S::Item, declared: &TimeField, out: &Builder<'_>) -> Refusal {
        let value = match scalar.slot {
            Slot::Text(text) => {
                let mut shown: String = out.str(text).chars().take(64).collect();
                if shown.len() < out.str(text).len() {
                    shown.push('…');
                }
                format!("{shown:?}")
            }
            Slot::Bool(value) => value.to_string(),
            Slot::Int(value) => value.to_string(),
            Slot::Float(value) => format!("{value:?}"),
            _ => "a value of another kind".to_owned(),
        };
        let TimeField { field, unit } = declared;
        let unit = if *unit == TimeUnit::Auto { String::new() } else { format!(" in {unit}") };
        let reason = format!("event time field {field:?} is {value}, which is no time{unit} from 1677 to 2262");
        Refusal::new(Stage::Time, self.source.position(item), reason)
    }
}

/// A time, and whether it was a number.
fn read_time(scalar: &Scalar<'_>, unit: TimeUnit, out: &Builder<'_>) -> Option<(i64, bool)> {
    if let Some(decimal) = number::scan(scalar.digits.as_bytes()) {
        return Some((unit.of_decimal(decimal)?, true));
    }
    match scalar.slot {
        Slot::Text(text) => time::of_text_or_number(out.str(text), unit),
        Slot::Int(value) => Some((unit.of_int(value)?, true)),
        Slot::Float(value) => Some((unit.of_float(value)?, true)),
        _ => None,
    }
}

/// The value in the type that is declared for it, if it has one there; else as it is.
fn coerce(scalar: &Scalar<'_>, declared: ColumnType, out: &mut Builder<'_>) -> Result<Slot, Refusal> {
    let slot = scalar.slot;
    let text = match slot {
        Slot::Text(text) => out.str(text).trim_ascii(),
        _ => scalar.digits,
    };
    let decimal = number::scan(text.as_bytes()).filter(|decimal| decimal.len == text.len());
    let changed = match (declared, slot) {
        (ColumnType::Int64, Slot::Float(_) | Slot::Text(_)) => {
            let float = if let Slot::Float(value) = slot { number::whole(value) } else { None };
            decimal.and_then(|decimal| decimal.to_i64()).or(float).map(Slot::Int)
        }
        (ColumnType::Float64, Slot::Int(value)) => is_exact(value).then_some(Slot::Float(value as f64)),
        (ColumnType::Float64, Slot::Text(_)) => {
            decimal.map(|decimal| decimal.to_f64(text.as_bytes())).filter(|value| value.is_finite()).map(Slot::Float)
        }
        (ColumnType::Bool, Slot::Text(_)) => match text {
            "true" => Some(Slot::Bool(true)),
            "false" => Some(Slot::Bool(false)),
            _ => None,
        },
        (ColumnType::Text, Slot::Rest(_) | Slot::Int(_) | Slot::Float(_)) if !scalar.digits.is_empty() => {
            Some(Slot::Text(out.keep(scalar.digits)?))
        }
        (ColumnType::Text, Slot::Int(value)) => {
            Some(Slot::Text(out.copy(|text| write_json::write(text, format_args!("{value}")))?))
        }
        (ColumnType::Text, Slot::Float(value)) => {
            Some(Slot::Text(out.copy(|text| write_json::write(text, format_args!("{value:?}")))?))
        }
        (ColumnType::Text, Slot::Bool(value)) => Some(Slot::Text(out.keep(if value { "true" } else { "false" })?)),
        _ => None,
    };
    Ok(changed.unwrap_or(slot))
}

/// Gives all items one type. Integers become floats among floats, if they can.
fn one_type(items: &mut [Slot]) -> Option<ElementType> {
    let element = |slot: &Slot| {
        Some(match slot {
            Slot::Bool(_) => ElementType::Bool,
            Slot::Int(_) => ElementType::Int64,
            Slot::Float(_) => ElementType::Float64,
            Slot::Text(_) => ElementType::Text,
            _ => return None,
        })
    };
    let first = element(items.first()?)?;
    if items.iter().all(|item| element(item) == Some(first)) {
        return Some(first);
    }
    let widens = |item: &Slot| match item {
        Slot::Float(_) => true,
        Slot::Int(value) => is_exact(*value),
        _ => false,
    };
    if !items.iter().all(widens) {
        return None;
    }
    for item in items {
        if let Slot::Int(value) = *item {
            *item = Slot::Float(value as f64);
        }
    }
    Some(ElementType::Float64)
}
