//! RFC 4180: lines end in CR LF; what holds a comma, a quote or a line end is quoted. NULL is an empty field, an
//! empty text is `""`.

use super::value::Values;
use crate::Column;
use datafusion::arrow::{array::RecordBatch, error::ArrowError};

pub(super) fn start(out: &mut Vec<u8>, columns: &[Column]) {
    for (idx, column) in columns.iter().enumerate() {
        if idx > 0 {
            out.push(b',');
        }
        field(out, &column.name, column.name.is_empty());
    }
    out.extend_from_slice(b"\r\n");
}

pub(super) fn rows(out: &mut Vec<u8>, batch: &RecordBatch) -> Result<(), ArrowError> {
    let values = batch.columns().iter().map(Values::new).collect::<Result<Vec<_>, _>>()?;
    // A line of one empty field would be an empty line, which readers skip.
    let alone = values.len() == 1;
    let mut text = String::new();
    for row in 0..batch.num_rows() {
        for (idx, values) in values.iter().enumerate() {
            if idx > 0 {
                out.push(b',');
            }
            text.clear();
            values.text(row, &mut text)?;
            field(out, &text, values.is_empty_text(row) || (alone && text.is_empty()));
        }
        out.extend_from_slice(b"\r\n");
    }
    Ok(())
}

fn field(out: &mut Vec<u8>, text: &str, quote: bool) {
    if !quote && !text.contains([',', '"', '\r', '\n']) {
        out.extend_from_slice(text.as_bytes());
        return;
    }
    out.push(b'"');
    out.extend_from_slice(text.replace('"', "\"\"").as_bytes());
    out.push(b'"');
}
