//! Payload bytes to rows of typed values, without I/O.
//!
//! A [`Definition`] (TOML or JSON) says how payloads are read, a [`Decoder`] reads them into [`Rows`], a buffer
//! that is used again for the next payload. Text that stands in the payload as it is wanted is not copied.
//!
//! ```
//! use floodplain_decode::{Decoder, Definition, Input, Outcome, Rows, Value};
//!
//! let definition: Definition = serde_json::from_str(r#"{"decoder": "json", "time": {"field": "at", "unit": "s"}}"#)?;
//! let decoder = Decoder::new(definition);
//! let mut rows = Rows::new();
//! let payload = br#"{"at": 1700000000, "engine": {"temp": 90.5}}"#;
//! let input = Input { payload, content_type: None, device: "truck-1", table: "readings" };
//! let Outcome::Rows(decoded) = decoder.decode(&input, &mut rows) else { panic!("JSON is declared") };
//! let row = decoded.rows().next().expect("an object is a row");
//! assert_eq!(row.time().map(|time| time.0), Some(1_700_000_000_000_000_000));
//! let field = row.fields().next().expect("one field");
//! assert_eq!((field.name, field.value), ("engine.temp", Value::Float(90.5)));
//! assert!(decoded.failures().is_empty());
//! # Ok::<(), serde_json::Error>(())
//! ```
//!
//! **The same bytes, content type, device, table and [`DecoderVersion`] give the same rows**, on every machine: no
//! clock, no locale, no order of a hash map takes part. Nothing here panics on any input; memory is bounded by a
//! multiple of the payload and by [`MAX_FIELDS`].
//!
//! [`schema`] decides which column of a table a field goes to, and what goes to the overflow column.

mod decoder;
mod definition;
mod failure;
mod rows;
mod value;

mod cbor;
mod checksum;
mod document;
mod json;
mod layout;
mod line_protocol;
mod plain;

mod number;
mod time;
mod write_json;

pub mod schema;

pub use decoder::{Decoder, Input, Outcome};
pub use definition::{Definition, DefinitionError};
pub use failure::{DecoderVersion, Failure, Stage};
pub use layout::LayoutColumn;
pub use line_protocol::MAX_FAILURES;
pub use rows::{Decoded, Field, MAX_FIELDS, Role, Row, Rows};
pub use time::TimeUnit;
pub use value::{ColumnType, ElementType, List, Value};
