//! `{"columns":[{"name":…,"type":…}],"rows":[{…},…],"row_count":2,"warnings":[],"stats":{…}}`

use super::value::{Values, json_text};
use crate::{Column, QueryResult};
use datafusion::arrow::{array::RecordBatch, error::ArrowError};

const NEVER: &str = "writing to a Vec cannot fail";

pub(super) fn start(out: &mut Vec<u8>, columns: &[Column]) {
    out.extend_from_slice(b"{\"columns\":");
    serde_json::to_writer(&mut *out, columns).expect(NEVER);
    out.extend_from_slice(b",\"rows\":[");
}

pub(super) fn rows(
    out: &mut Vec<u8>,
    columns: &[Column],
    batch: &RecordBatch,
    mut first: bool,
) -> Result<(), ArrowError> {
    let values = batch.columns().iter().map(Values::new).collect::<Result<Vec<_>, _>>()?;
    let names = columns.iter().map(|column| {
        let mut name = Vec::new();
        json_text(&column.name, &mut name);
        name.push(b':');
        name
    });
    let names: Vec<_> = names.collect();
    for row in 0..batch.num_rows() {
        out.extend_from_slice(if first { b"\n{" } else { b",\n{" });
        first = false;
        for (idx, (name, values)) in names.iter().zip(&values).enumerate() {
            if idx > 0 {
                out.push(b',');
            }
            out.extend_from_slice(name);
            values.json(row, out)?;
        }
        out.push(b'}');
    }
    Ok(())
}

/// Ends the object; `error` is JSON.
pub(super) fn end(out: &mut Vec<u8>, result: &QueryResult, error: Option<&str>) {
    let stats = result.stats();
    out.extend_from_slice(b"],\n\"row_count\":");
    serde_json::to_writer(&mut *out, &stats.rows).expect(NEVER);
    out.extend_from_slice(b",\"warnings\":");
    serde_json::to_writer(&mut *out, &result.warnings()).expect(NEVER);
    let elapsed_ms = u64::try_from(stats.elapsed.as_millis()).unwrap_or(u64::MAX);
    let stats = serde_json::json!({ "bytes_read": stats.bytes_read, "elapsed_ms": elapsed_ms });
    out.extend_from_slice(b",\"stats\":");
    serde_json::to_writer(&mut *out, &stats).expect(NEVER);
    if let Some(error) = error {
        out.extend_from_slice(b",\"error\":");
        out.extend_from_slice(error.as_bytes());
    }
    out.extend_from_slice(b"}\n");
}
