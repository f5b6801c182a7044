//! Which records a query can want, as far as its predicates say so in words that the log understands.

use datafusion::{
    arrow::datatypes::{DataType, TimeUnit},
    common::ScalarValue,
    logical_expr::{BinaryExpr, Expr, Operator},
};
use std::{collections::BTreeSet, fmt, ops::RangeInclusive};

/// A conjunction of what was understood; the default leaves everything that is not hidden.
///
/// Streams whose names start with `_` are ours; they are seen only by those who name them.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Scope {
    streams: Option<BTreeSet<String>>,
    devices: Option<BTreeSet<String>>,
    partitions: Option<BTreeSet<i64>>,
    generations: Option<BTreeSet<i64>>,
    offsets: RangeInclusive<i64>,
    /// Nanoseconds since 1970.
    received: RangeInclusive<i64>,
}

impl Default for Scope {
    fn default() -> Self {
        let all = i64::MIN..=i64::MAX;
        Self { streams: None, devices: None, partitions: None, generations: None, offsets: all.clone(), received: all }
    }
}

impl Scope {
    /// Takes `filter` into account; false, and nothing is changed, if it was not understood in full.
    pub(crate) fn narrow(&mut self, filter: &Expr) -> bool {
        match filter {
            Expr::BinaryExpr(BinaryExpr { left, op: Operator::And, right }) => {
                let mut both = self.clone();
                let understood = both.narrow(left) && both.narrow(right);
                if understood {
                    *self = both;
                }
                understood
            }
            // The optimizer turns a short IN list into a chain of OR.
            Expr::BinaryExpr(BinaryExpr { op: Operator::Or, .. }) => {
                let mut values = Vec::new();
                let Some(column) = equalities(filter, &mut values) else { return false };
                self.one_of(&column, &values)
            }
            Expr::BinaryExpr(BinaryExpr { left, op, right }) => match (column(left), literal(right)) {
                (Some(name), Some(value)) => self.compare(name, *op, value),
                _ => match (literal(left), column(right), op.swap()) {
                    (Some(value), Some(name), Some(op)) => self.compare(name, op, value),
                    _ => false,
                },
            },
            Expr::InList(list) if !list.negated => {
                let values: Option<Vec<_>> = list.list.iter().map(literal).collect();
                match (column(&list.expr), values) {
                    (Some(name), Some(values)) => self.one_of(name, &values),
                    _ => false,
                }
            }
            Expr::Between(between) if !between.negated => {
                let (Some(name), Some(low), Some(high)) =
                    (column(&between.expr), literal(&between.low), literal(&between.high))
                else {
                    return false;
                };
                let mut both = self.clone();
                let understood = both.compare(name, Operator::GtEq, low) && both.compare(name, Operator::LtEq, high);
                if understood {
                    *self = both;
                }
                understood
            }
            _ => false,
        }
    }

    fn compare(&mut self, column: &str, op: Operator, value: &ScalarValue) -> bool {
        if op == Operator::Eq && self.one_of(column, &[value]) {
            return true;
        }
        let (range, value) = match column {
            "offset" => (&mut self.offsets, integer(value)),
            "received" => (&mut self.received, nanoseconds(value)),
            _ => return false,
        };
        let Some(value) = value else { return false };
        let (low, high) = (*range.start(), *range.end());
        *range = match op {
            Operator::Eq => low.max(value)..=high.min(value),
            Operator::GtEq => low.max(value)..=high,
            Operator::LtEq => low..=high.min(value),
            Operator::Gt => match value.checked_add(1) {
                Some(value) => low.max(value)..=high,
                None => return false,
            },
            Operator::Lt => match value.checked_sub(1) {
                Some(value) => low..=high.min(value),
                None => return false,
            },
            _ => return false,
        };
        true
    }

    fn one_of(&mut self, column: &str, values: &[&ScalarValue]) -> bool {
        fn keep<T: Ord + Clone>(set: &mut Option<BTreeSet<T>>, values: Option<BTreeSet<T>>) -> bool {
            let Some(values) = values else { return false };
            *set = Some(match set.take() {
                Some(old) => old.intersection(&values).cloned().collect(),
                None => values,
            });
            true
        }
        let texts = || values.iter().map(|value| text(value)).collect();
        let integers = || values.iter().map(|value| integer(value)).collect();
        match column {
            "stream" => keep(&mut self.streams, texts()),
            "device" => keep(&mut self.devices, texts()),
            "partition" => keep(&mut self.partitions, integers()),
            "generation" => keep(&mut self.generations, integers()),
            _ => false,
        }
    }

    pub(crate) fn has_stream(&self, name: &str) -> bool {
        match &self.streams {
            Some(streams) => streams.contains(name),
            None => !name.starts_with('_'),
        }
    }

    pub(crate) fn has_generation(&self, generation: u32) -> bool {
        self.generations.as_ref().is_none_or(|set| set.contains(&i64::from(generation)))
    }

    /// The partitions, of `count`, that can hold a wanted record.
    pub(crate) fn partitions_of(&self, count: u32) -> Vec<u32> {
        let of_devices: Option<BTreeSet<u32>> = self.devices.as_ref().map(|devices| {
            devices.iter().map(|device| floodplain_types::partition_index(device.as_bytes(), count)).collect()
        });
        (0..count)
            .filter(|index| of_devices.as_ref().is_none_or(|set| set.contains(index)))
            .filter(|index| self.partitions.as_ref().is_none_or(|set| set.contains(&i64::from(*index))))
            .collect()
    }

    /// Whether a record with this key can be wanted.
    pub(crate) fn has_device(&self, key: Option<&[u8]>) -> bool {
        match (&self.devices, key) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(devices), Some(key)) => std::str::from_utf8(key).is_ok_and(|key| devices.contains(key)),
        }
    }

    /// Offsets that are wanted; `None` if there can be none.
    pub(crate) fn offsets(&self) -> Option<RangeInclusive<u64>> {
        let low = u64::try_from(*self.offsets.start()).unwrap_or(0);
        let high = u64::try_from(*self.offsets.end()).ok()?;
        (low <= high).then_some(low..=high)
    }

    /// Ingest times that are wanted, in nanoseconds since 1970; `None` if there can be none.
    pub(crate) fn received(&self) -> Option<RangeInclusive<i64>> {
        (!self.received.is_empty()).then(|| self.received.clone())
    }

    /// Whether ingest times matter, for which headers are needed.
    pub(crate) fn looks_at_times(&self) -> bool {
        self.received != (i64::MIN..=i64::MAX)
    }

    /// Whether single records must be looked at, and not only whole partitions.
    pub(crate) fn looks_at_records(&self) -> bool {
        let all = Self::default();
        self.devices.is_some() || self.offsets != all.offsets || self.received != all.received
    }
}

impl fmt::Display for Scope {
    /// For EXPLAIN: only what was pushed down.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = Self::default();
        let mut separator = "";
        let mut item = |f: &mut fmt::Formatter<'_>, text: String| {
            write!(f, "{separator}{text}")?;
            separator = ", ";
            Ok(())
        };
        if let Some(streams) = &self.streams {
            item(f, format!("stream in {streams:?}"))?;
        }
        if let Some(devices) = &self.devices {
            item(f, format!("device in {devices:?}"))?;
        }
        if let Some(partitions) = &self.partitions {
            item(f, format!("partition in {partitions:?}"))?;
        }
        if let Some(generations) = &self.generations {
            item(f, format!("generation in {generations:?}"))?;
        }
        if self.offsets != all.offsets {
            item(f, format!("offset {}", range(&self.offsets, |offset| offset.to_string())))?;
        }
        if self.received != all.received {
            let time = |ns| ScalarValue::TimestampNanosecond(Some(ns), Some("UTC".into())).to_string();
            item(f, format!("received {}", range(&self.received, time)))?;
        }
        Ok(())
    }
}

fn range(range: &RangeInclusive<i64>, show: impl Fn(i64) -> String) -> String {
    let low = if *range.start() == i64::MIN { String::new() } else { show(*range.start()) };
    let high = if *range.end() == i64::MAX { String::new() } else { show(*range.end()) };
    format!("{low}..={high}")
}

/// `c = 1 OR c = 2 OR …`: the column and its values.
fn equalities<'e>(expr: &'e Expr, values: &mut Vec<&'e ScalarValue>) -> Option<String> {
    match expr {
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Or, right }) => {
            let name = equalities(left, values)?;
            (equalities(right, values)? == name).then_some(name)
        }
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Eq, right }) => {
            let (name, value) = match (column(left), literal(right)) {
                (Some(name), Some(value)) => (name, value),
                _ => (column(right)?, literal(left)?),
            };
            values.push(value);
            Some(name.to_owned())
        }
        Expr::InList(list) if !list.negated => {
            for value in &list.list {
                values.push(literal(value)?);
            }
            Some(column(&list.expr)?.to_owned())
        }
        _ => None,
    }
}

fn column(expr: &Expr) -> Option<&str> {
    match expr {
        Expr::Column(column) => Some(&column.name),
        _ => None,
    }
}

fn literal(expr: &Expr) -> Option<&ScalarValue> {
    match expr {
        Expr::Literal(value, _) if !value.is_null() => Some(value),
        _ => None,
    }
}

fn text(value: &ScalarValue) -> Option<String> {
    value.try_as_str().flatten().map(str::to_owned)
}

fn integer(value: &ScalarValue) -> Option<i64> {
    if !value.data_type().is_integer() {
        return None;
    }
    match value.cast_to(&DataType::Int64).ok()? {
        ScalarValue::Int64(value) => value,
        _ => None,
    }
}

/// Type coercion has made the literal a timestamp; other literals are left to DataFusion.
fn nanoseconds(value: &ScalarValue) -> Option<i64> {
    match value {
        ScalarValue::TimestampNanosecond(Some(ns), Some(_)) => Some(*ns),
        ScalarValue::TimestampSecond(Some(_), Some(_))
        | ScalarValue::TimestampMillisecond(Some(_), Some(_))
        | ScalarValue::TimestampMicrosecond(Some(_), Some(_)) => {
            let zone = Some("UTC".into());
            match value.cast_to(&DataType::Timestamp(TimeUnit::Nanosecond, zone)).ok()? {
                ScalarValue::TimestampNanosecond(ns, _) => ns,
                _ => None,
            }
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use datafusion::prelude::{col, lit};

    fn time(ns: i64) -> Expr {
        Expr::Literal(ScalarValue::TimestampNanosecond(Some(ns), Some("UTC".into())), None)
    }

    #[test]
    fn understands() {
        for (filter, expected) in [
            (col("stream").eq(lit("telemetry")), r#"stream in {"telemetry"}"#),
            (lit("d").eq(col("device")), r#"device in {"d"}"#),
            (col("device").eq(lit("a")).or(col("device").eq(lit("b"))), r#"device in {"a", "b"}"#),
            (col("partition").in_list(vec![lit(3_i32), lit(1_i64)], false), "partition in {1, 3}"),
            (col("generation").eq(lit(0_i32)), "generation in {0}"),
            (col("offset").gt(lit(5_i64)).and(col("offset").lt_eq(lit(9_i64))), "offset 6..=9"),
            (col("offset").between(lit(5_i64), lit(9_i64)), "offset 5..=9"),
            (lit(5_i64).lt(col("offset")), "offset 6..="),
            (col("received").gt_eq(time(0)).and(col("received").lt(time(1))), "received 0..=0"),
        ] {
            let mut scope = Scope::default();
            assert!(scope.narrow(&filter), "{filter}");
            let shown = scope.to_string().replace("TimestampNanosecond(", "").replace(", Some(\"UTC\"))", "");
            assert_eq!(shown, expected, "{filter}");
        }
    }

    #[test]
    fn leaves_the_rest_alone() {
        for filter in [
            col("stream").not_eq(lit("telemetry")),
            col("stream").like(lit("t%")),
            col("device").eq(col("publisher")),
            col("device").eq(lit("a")).or(col("stream").eq(lit("b"))),
            col("device").in_list(vec![lit("a")], true),
            col("topic").eq(lit("a")),
            col("offset").gt(lit(1.5)),
            col("device").eq(lit("a")).and(col("topic").eq(lit("b"))),
            col("offset").gt(lit(i64::MAX)),
        ] {
            let mut scope = Scope::default();
            assert!(!scope.narrow(&filter), "{filter}");
            assert_eq!(scope, Scope::default(), "{filter}");
        }
    }

    #[test]
    fn hides_our_own_streams_unless_they_are_named() {
        let mut scope = Scope::default();
        assert!(scope.has_stream("telemetry") && !scope.has_stream("_folds"));
        scope.narrow(&col("stream").eq(lit("_folds")));
        assert!(scope.has_stream("_folds") && !scope.has_stream("telemetry"));
    }

    #[test]
    fn a_device_is_in_one_partition() {
        let mut scope = Scope::default();
        assert_eq!(scope.partitions_of(3), [0, 1, 2]);
        scope.narrow(&col("device").eq(lit("truck-1")));
        assert_eq!(scope.partitions_of(16), [floodplain_types::partition_index(b"truck-1", 16)]);
        scope.narrow(&col("device").eq(lit("truck-2")));
        assert!(scope.partitions_of(16).is_empty());
    }

    #[test]
    fn empty_ranges_are_seen() {
        let mut scope = Scope::default();
        scope.narrow(&col("offset").lt(lit(0_i64)));
        assert_eq!(scope.offsets(), None);
        let mut scope = Scope::default();
        scope.narrow(&col("received").lt(time(5)).and(col("received").gt(time(5))));
        assert_eq!(scope.received(), None);
    }
}
