//! Which rows a query can want, as far as its predicates say so in words that history understands.

use datafusion::{
    common::ScalarValue,
    logical_expr::{BinaryExpr, Expr, Operator},
};
use floodplain_history::filter::{Devices, Filter, TimeRange};
use std::collections::BTreeSet;

/// Takes `expr` into account; false, and nothing is changed, if it was not understood in full.
pub(super) fn narrow(filter: &mut Filter, expr: &Expr) -> bool {
    let mut both = filter.clone();
    let understood = match expr {
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::And, right }) => {
            narrow(&mut both, left) && narrow(&mut both, right)
        }
        // The optimizer turns a short IN list into a chain of OR.
        Expr::BinaryExpr(BinaryExpr { op: Operator::Or, .. }) => {
            let mut devices = BTreeSet::new();
            equalities(expr, &mut devices) && only(&mut both, devices)
        }
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => match (column(left), literal(right)) {
            (Some(name), Some(value)) => compare(&mut both, name, *op, value),
            _ => match (literal(left), column(right), op.swap()) {
                (Some(value), Some(name), Some(op)) => compare(&mut both, name, op, value),
                _ => false,
            },
        },
        Expr::InList(list) if !list.negated && column(&list.expr) == Some("device") => {
            let devices: Option<BTreeSet<_>> = list.list.iter().map(|item| text(literal(item)?)).collect();
            devices.is_some_and(|devices| only(&mut both, devices))
        }
        Expr::Between(between) if !between.negated => {
            match (column(&between.expr), literal(&between.low), literal(&between.high)) {
                (Some(name), Some(low), Some(high)) => {
                    compare(&mut both, name, Operator::GtEq, low) && compare(&mut both, name, Operator::LtEq, high)
                }
                _ => false,
            }
        }
        _ => false,
    };
    if understood {
        *filter = both;
    }
    understood
}

fn compare(filter: &mut Filter, column: &str, op: Operator, value: &ScalarValue) -> bool {
    match (column, op) {
        ("device", Operator::Eq) => text(value).is_some_and(|device| only(filter, [device].into())),
        ("time", _) => {
            let Some(us) = microseconds(value) else { return false };
            let range = match op {
                Operator::Eq => Some(TimeRange::new(us, us)),
                Operator::GtEq => Some(TimeRange::new(us, i64::MAX)),
                Operator::LtEq => Some(TimeRange::new(i64::MIN, us)),
                Operator::Gt => us.checked_add(1).map(|us| TimeRange::new(us, i64::MAX)),
                Operator::Lt => us.checked_sub(1).map(|us| TimeRange::new(i64::MIN, us)),
                _ => None,
            };
            let Some(range) = range else { return false };
            filter.time = filter.time.intersection(range);
            true
        }
        _ => false,
    }
}

fn only(filter: &mut Filter, devices: BTreeSet<String>) -> bool {
    let devices = match &filter.devices {
        Devices::All => devices,
        Devices::In(old) => old.intersection(&devices).cloned().collect(),
    };
    filter.devices = Devices::only(devices);
    true
}

/// The devices of `device = 'a' OR device = 'b' ...`.
fn equalities(expr: &Expr, devices: &mut BTreeSet<String>) -> bool {
    let Expr::BinaryExpr(BinaryExpr { left, op, right }) = expr else { return false };
    match op {
        Operator::Or => equalities(left, devices) && equalities(right, devices),
        Operator::Eq => match (column(left), literal(right).and_then(text)) {
            (Some("device"), Some(device)) => {
                devices.insert(device);
                true
            }
            _ => false,
        },
        _ => false,
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
        Expr::Literal(value, _) => Some(value),
        _ => None,
    }
}

fn text(value: &ScalarValue) -> Option<String> {
    value.try_as_str().flatten().map(str::to_owned)
}

/// Exactly; a finer value is left to the query.
fn microseconds(value: &ScalarValue) -> Option<i64> {
    match value {
        ScalarValue::TimestampSecond(Some(s), _) => s.checked_mul(1_000_000),
        ScalarValue::TimestampMillisecond(Some(ms), _) => ms.checked_mul(1_000),
        ScalarValue::TimestampMicrosecond(Some(us), _) => Some(*us),
        ScalarValue::TimestampNanosecond(Some(ns), _) => (ns % 1_000 == 0).then_some(ns / 1_000),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use datafusion::{
        logical_expr::{col, lit},
        prelude::in_list,
    };

    fn us(us: i64) -> Expr {
        lit(ScalarValue::TimestampMicrosecond(Some(us), Some("UTC".into())))
    }

    #[test]
    fn what_history_understands_is_pushed_down() {
        let narrowed = |expr: Expr| {
            let mut filter = Filter::ALL;
            narrow(&mut filter, &expr).then_some(filter)
        };
        let time = |min, max| Some(Filter { time: TimeRange::new(min, max), ..Filter::ALL });
        let devices =
            |devices: &[&str]| Some(Filter { devices: Devices::only(devices.iter().copied()), ..Filter::ALL });
        assert_eq!(narrowed(col("time").gt(us(5))), time(6, i64::MAX));
        assert_eq!(narrowed(us(5).gt(col("time"))), time(i64::MIN, 4));
        assert_eq!(narrowed(col("time").between(us(5), us(9))), time(5, 9));
        assert_eq!(narrowed(col("time").gt_eq(us(5)).and(col("time").lt(us(9)))), time(5, 8));
        assert_eq!(narrowed(col("device").eq(lit("a"))), devices(&["a"]));
        assert_eq!(narrowed(col("device").eq(lit("a")).or(col("device").eq(lit("b")))), devices(&["a", "b"]));
        assert_eq!(narrowed(in_list(col("device"), vec![lit("a"), lit("c")], false)), devices(&["a", "c"]));
        assert_eq!(narrowed(col("device").eq(lit("a")).and(col("device").eq(lit("b")))), devices(&[]));
        for other in [
            col("oil").eq(lit(1)),
            in_list(col("device"), vec![lit("a")], true),
            col("device").gt(lit("a")),
            col("device").eq(lit("a")).or(col("oil").eq(lit("b"))),
            col("time").gt(us(5)).and(col("oil").eq(lit(1))),
            col("time").gt(lit(ScalarValue::TimestampNanosecond(Some(5), None))),
        ] {
            assert_eq!(narrowed(other.clone()), None, "{other}");
        }
    }
}
