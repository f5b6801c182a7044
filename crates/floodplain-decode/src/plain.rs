//! Payloads that are one number or truth value, written as text.

use crate::{
    failure::Refusal,
    json, number,
    rows::{Builder, Role, RowHead, Slot},
};

/// Reads a number or `true` or `false`, with white space around it, as the column `column`.
///
/// Besides JSON's forms a plus sign, `.5` and `5.` are numbers. An infinity or "not a number" is none.
pub(crate) fn decode(text: &str, column: &str, out: &mut Builder<'_>) -> Result<(), Refusal> {
    let value = text.trim_ascii();
    let slot = match value {
        "true" => Slot::Bool(true),
        "false" => Slot::Bool(false),
        _ if number::scan(value.as_bytes()).is_some_and(|decimal| decimal.len == value.len()) => number(value, out)?,
        _ => {
            let at = value.as_ptr() as usize - text.as_ptr() as usize;
            let mut shown: String = value.chars().take(64).collect();
            if shown.len() < value.len() {
                shown.push('…');
            }
            return Err(Refusal::decode(at, format!("payload is {shown:?}, which is no number, true or false")));
        }
    };
    column_value(column, slot, out)
}

fn number(value: &str, out: &mut Builder<'_>) -> Result<Slot, Refusal> {
    let slot = json::number(value, out)?;
    if let Slot::Rest(_) = slot {
        // The overflow column takes JSON, which knows fewer forms.
        let digits = value.trim_start_matches('+');
        let json = serde_json::from_str::<&serde_json::value::RawValue>(digits).is_ok();
        return Ok(Slot::Rest(if json {
            out.keep(digits)?
        } else {
            out.copy(|text| crate::write_json::text(value, text))?
        }));
    }
    Ok(slot)
}

/// A row with one column.
pub(crate) fn column_value(column: &str, slot: Slot, out: &mut Builder<'_>) -> Result<(), Refusal> {
    let (name, hash) = out.name(column.into())?;
    out.push(name, hash, slot, Role::Value)?;
    out.close(RowHead::default(), None)
}
