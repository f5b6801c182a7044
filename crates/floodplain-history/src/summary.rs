//! What there is of a table, for people.

use crate::{
    columns::{Columns, DEVICE, FIRST, TIME},
    filter::TimeRange,
    table_rules::{TableRule, TableRules},
    tables::Table,
};

/// A table at one moment, by what is known without reading its files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableSummary {
    pub table: String,
    pub columns: Vec<ColumnSummary>,
    /// Rows before those with one key become one.
    pub rows: u64,
    pub files: u64,
    /// Of the files.
    pub bytes: u64,
    /// Event times; `None` while there are no rows.
    pub times: Option<TimeRange>,
    /// Values that newer ones of the same key have replaced, as far as both were seen together: in memory, in one file, or in
    /// files that were made into one. Never falls while the server runs.
    pub overwritten_values: u64,
    /// Whose it is, and how old its rows may become.
    pub rule: TableRule,
}

/// A column of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ColumnSummary {
    pub name: String,
    /// `Float64`, `Int64`, `Utf8`, `Boolean`, `Timestamp`, or `Struct` for `_seq`.
    pub data_type: &'static str,
    /// `key`, `value` or `system`.
    pub role: &'static str,
}

impl TableSummary {
    /// Sorts what is in buffers and not sorted yet.
    pub(crate) fn of(table: &mut Table, rules: &TableRules) -> Self {
        let mut overwritten_values = table.overwritten_values + crate::buffer::overwritten_values(&table.flushing);
        for buffer in table.buffers.values_mut() {
            overwritten_values += buffer.rows.overwritten_values();
        }
        let facts = || table.files.values().map(|file| &file.entry().facts);
        let buffered = table.buffers.values().map(|buffer| buffer.rows.appended()).sum::<u64>();
        let flushing = table.flushing.iter().map(crate::run::Run::rows).sum::<u64>();
        let times = facts().map(|facts| facts.times());
        let times = times.chain(table.buffers.values().filter_map(|buffer| buffer.rows.times()));
        let times = times.chain(table.flushing.iter().map(crate::run::Run::times));
        Self {
            table: table.columns.table().to_owned(),
            columns: columns(&table.columns),
            rows: buffered + flushing + facts().map(|facts| facts.rows).sum::<u64>(),
            files: table.files.len() as u64,
            bytes: table.files.values().map(|file| file.entry().bytes).sum(),
            times: times
                .reduce(|one, other| TimeRange::new(one.min_us.min(other.min_us), one.max_us.max(other.max_us))),
            overwritten_values,
            rule: rules.get(table.columns.table()).cloned().unwrap_or_default(),
        }
    }
}

fn columns(columns: &Columns) -> Vec<ColumnSummary> {
    let fields = columns.schema().fields();
    let leading = ["Utf8", "Timestamp", "Int16", "Struct", "Timestamp"];
    let leading = leading.into_iter().enumerate().map(|(at, data_type)| {
        let role = if at == DEVICE || at == TIME { "key" } else { "system" };
        ColumnSummary { name: fields[at].name().clone(), data_type, role }
    });
    debug_assert_eq!(leading.len(), FIRST);
    let own = columns.own().iter().map(|column| ColumnSummary {
        name: column.name.clone(),
        data_type: column.kind.name(),
        role: if column.is_key { "key" } else { "value" },
    });
    let rest = &fields[columns.rest()];
    let rest = ColumnSummary { name: rest.name().clone(), data_type: "Utf8", role: "system" };
    leading.chain(own).chain([rest]).collect()
}
