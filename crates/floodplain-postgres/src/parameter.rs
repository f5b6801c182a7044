//! Parameters as clients send them.

use crate::encode::{date_days, timestamp_us};
use chrono::{DateTime, NaiveDate, NaiveDateTime};
use floodplain_types::Parameter;
use pgwire::api::Type;

/// The value of a parameter; `Err` has what is wrong with it.
pub(crate) fn value(pg: &Type, is_binary: bool, bytes: Option<&[u8]>) -> Result<Parameter, String> {
    let Some(bytes) = bytes else { return Ok(Parameter::Null) };
    if is_binary { from_binary(pg, bytes) } else { from_text(pg, bytes) }
}

fn from_binary(pg: &Type, bytes: &[u8]) -> Result<Parameter, String> {
    fn array<const N: usize>(bytes: &[u8]) -> Result<[u8; N], String> {
        bytes.try_into().map_err(|_| format!("has {} bytes, its type has {N}", bytes.len()))
    }
    Ok(match *pg {
        Type::BOOL => Parameter::Bool(array::<1>(bytes)? != [0]),
        Type::INT2 => Parameter::Int(i16::from_be_bytes(array(bytes)?).into()),
        Type::INT4 | Type::OID => Parameter::Int(i32::from_be_bytes(array(bytes)?).into()),
        Type::INT8 => Parameter::Int(i64::from_be_bytes(array(bytes)?)),
        Type::FLOAT4 => Parameter::Float(f32::from_be_bytes(array(bytes)?).into()),
        Type::FLOAT8 => Parameter::Float(f64::from_be_bytes(array(bytes)?)),
        Type::BYTEA => Parameter::Bytes(bytes.to_vec()),
        Type::TIMESTAMP | Type::TIMESTAMPTZ => Parameter::Timestamp(timestamp_us(i64::from_be_bytes(array(bytes)?))),
        Type::DATE => Parameter::Date(date_days(i32::from_be_bytes(array(bytes)?))),
        Type::TEXT | Type::VARCHAR | Type::BPCHAR | Type::NAME | Type::UNKNOWN => {
            Parameter::Text(text(bytes)?.to_owned())
        }
        ref other => return Err(format!("has type {other}, which is not known here in binary; send it as text")),
    })
}

fn from_text(pg: &Type, bytes: &[u8]) -> Result<Parameter, String> {
    let text = text(bytes)?;
    let wrong = || format!("{text:?} is no value of type {pg}");
    Ok(match *pg {
        Type::BOOL => match text.to_ascii_lowercase().as_str() {
            "t" | "true" | "y" | "yes" | "on" | "1" => Parameter::Bool(true),
            "f" | "false" | "n" | "no" | "off" | "0" => Parameter::Bool(false),
            _ => return Err(wrong()),
        },
        Type::INT2 | Type::INT4 | Type::INT8 | Type::OID => Parameter::Int(text.trim().parse().map_err(|_| wrong())?),
        Type::FLOAT4 | Type::FLOAT8 | Type::NUMERIC => Parameter::Float(text.trim().parse().map_err(|_| wrong())?),
        Type::BYTEA => Parameter::Bytes(hex(text).ok_or_else(wrong)?),
        Type::TIMESTAMP | Type::TIMESTAMPTZ => Parameter::Timestamp(time(text.trim()).ok_or_else(wrong)?),
        Type::DATE => {
            let date: NaiveDate = text.trim().parse().map_err(|_| wrong())?;
            let days = date.signed_duration_since(NaiveDate::default()).num_days();
            Parameter::Date(days.try_into().map_err(|_| wrong())?)
        }
        _ => Parameter::Text(text.to_owned()),
    })
}

fn text(bytes: &[u8]) -> Result<&str, String> {
    std::str::from_utf8(bytes).map_err(|_| "is not UTF-8".to_owned())
}

/// `\x00ff`.
fn hex(text: &str) -> Option<Vec<u8>> {
    let digits = text.strip_prefix("\\x")?.as_bytes();
    let pair = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    digits.len().is_multiple_of(2).then(|| digits.chunks(2).map(pair).collect())?
}

/// Times with and without a zone; without one they are UTC.
fn time(text: &str) -> Option<i64> {
    // PostgreSQL's "+00" is not RFC 3339's "+00:00".
    let zoned = ["%Y-%m-%d %H:%M:%S%.f%#z", "%Y-%m-%dT%H:%M:%S%.f%#z"];
    let plain = ["%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M:%S%.f"];
    let found = zoned.iter().find_map(|form| DateTime::parse_from_str(text, form).ok());
    found
        .map(|time| time.timestamp_micros())
        .or_else(|| DateTime::parse_from_rfc3339(text).ok().map(|time| time.timestamp_micros()))
        .or_else(|| {
            let found = plain.iter().find_map(|form| NaiveDateTime::parse_from_str(text, form).ok());
            found.map(|time| time.and_utc().timestamp_micros())
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_in_text_and_binary() {
        let text = |pg: Type, text: &str| value(&pg, false, Some(text.as_bytes()));
        assert_eq!(text(Type::INT4, "-5"), Ok(Parameter::Int(-5)));
        assert_eq!(text(Type::FLOAT8, "NaN").map(|v| matches!(v, Parameter::Float(f) if f.is_nan())), Ok(true));
        assert_eq!(text(Type::BOOL, "TRUE"), Ok(Parameter::Bool(true)));
        assert_eq!(text(Type::BYTEA, "\\x00fF"), Ok(Parameter::Bytes(vec![0, 255])));
        for same in
            ["2026-11-26 17:00:00+00", "2026-11-26T18:00:00+01:00", "2026-11-26 17:00:00", "2026-11-26T17:00:00Z"]
        {
            assert_eq!(text(Type::TIMESTAMPTZ, same), Ok(Parameter::Timestamp(1_795_712_400_000_000)), "{same}");
        }
        assert_eq!(text(Type::DATE, "2000-01-02"), Ok(Parameter::Date(10_958)));
        assert_eq!(text(Type::UNKNOWN, "x"), Ok(Parameter::Text("x".to_owned())));
        for (pg, bad) in [(Type::INT8, "x"), (Type::BOOL, "maybe"), (Type::BYTEA, "\\x0"), (Type::TIMESTAMP, "soon")] {
            assert!(text(pg, bad).is_err(), "{bad}");
        }
        let binary = |pg: Type, bytes: &[u8]| value(&pg, true, Some(bytes));
        assert_eq!(binary(Type::INT2, &[0xff, 0xfe]), Ok(Parameter::Int(-2)));
        assert_eq!(binary(Type::TIMESTAMPTZ, &0_i64.to_be_bytes()), Ok(Parameter::Timestamp(946_684_800_000_000)));
        assert_eq!(binary(Type::DATE, &1_i32.to_be_bytes()), Ok(Parameter::Date(10_958)));
        assert!(binary(Type::INT8, &[1]).is_err() && binary(Type::NUMERIC, &[1]).is_err());
        assert!(binary(Type::TEXT, &[0xff]).is_err());
        assert_eq!(value(&Type::INT8, true, None), Ok(Parameter::Null));
    }
}
