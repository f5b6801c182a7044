//! Rows as JSON, CSV or Arrow.

mod arrow;
mod csv;
mod json;
mod value;

use crate::{Error, QueryResult};
use bytes::Bytes;
use datafusion::arrow::error::ArrowError;

/// How rows are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// One object: `columns` (name and type), `rows` (an object each), then `row_count`, `warnings` and `stats`.
    Json,
    /// RFC 4180 with a header line.
    Csv,
    /// Arrow's IPC stream: schema, batches, end.
    Arrow,
}

impl Format {
    /// The media type.
    #[must_use]
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Csv => "text/csv; charset=utf-8; header=present",
            Self::Arrow => "application/vnd.apache.arrow.stream",
        }
    }
}

/// How much is gathered before it is handed on.
const CHUNK_BYTES: usize = 64 << 10;

/// The bytes of a result, chunk by chunk. Dropping it cancels the query.
#[derive(Debug)]
pub struct Encoder {
    result: QueryResult,
    format: Format,
    state: State,
    text: Vec<u8>,
    /// For [`Format::Arrow`], from the start on.
    arrow: Option<arrow::Writer>,
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    Start,
    Rows,
    Done,
}

impl Encoder {
    pub(crate) fn new(result: QueryResult, format: Format) -> Self {
        Self { result, format, state: State::Start, text: Vec::new(), arrow: None }
    }

    /// The next chunk, of about 64 KiB; `None` at the end. A small result is one chunk.
    ///
    /// # Errors
    /// [`Error`], also in the middle of a result; then [`Self::fail`] gives a proper end.
    ///
    /// # Cancel safety
    /// Nothing is lost if the future is dropped.
    pub async fn next(&mut self) -> Option<Result<Bytes, Error>> {
        if self.state == State::Start {
            match self.format {
                Format::Json => json::start(&mut self.text, self.result.columns()),
                Format::Csv => csv::start(&mut self.text, self.result.columns()),
                Format::Arrow => {
                    let (schema, columns) = (self.result.schema(), self.result.columns());
                    match arrow::Writer::start(&mut self.text, schema, columns) {
                        Ok(writer) => self.arrow = Some(writer),
                        Err(error) => return Some(Err(self.broken(&error))),
                    }
                }
            }
            self.state = State::Rows;
        }
        while self.state == State::Rows && self.text.len() < CHUNK_BYTES {
            let first = self.result.rows == 0;
            match self.result.next().await {
                Some(Ok(batch)) => {
                    let written = match (&mut self.arrow, self.format) {
                        (Some(arrow), _) => arrow.rows(&mut self.text, &batch),
                        (None, Format::Json) => json::rows(&mut self.text, self.result.columns(), &batch, first),
                        (None, _) => csv::rows(&mut self.text, &batch),
                    };
                    if let Err(error) = written {
                        return Some(Err(self.broken(&error)));
                    }
                }
                Some(Err(error)) => {
                    self.state = State::Done;
                    return Some(Err(error));
                }
                None => {
                    if self.format == Format::Json {
                        json::end(&mut self.text, &self.result, None);
                    }
                    if let Some(arrow) = &mut self.arrow
                        && let Err(error) = arrow.end(&mut self.text)
                    {
                        return Some(Err(self.broken(&error)));
                    }
                    self.state = State::Done;
                }
            }
        }
        if self.text.is_empty() { None } else { Some(Ok(std::mem::take(&mut self.text).into())) }
    }

    fn broken(&mut self, error: &ArrowError) -> Error {
        self.state = State::Done;
        Error::Internal { message: error.to_string() }
    }

    /// Whether everything was handed on.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.state == State::Done && self.text.is_empty()
    }

    /// The rest of the text after an error in the middle: rows that were not handed on yet and, as JSON, the end of
    /// the object with `error`, which must be JSON itself. CSV and Arrow have no place for an error: `None`, break off
    /// instead.
    #[must_use]
    pub fn fail(mut self, error: &str) -> Option<Bytes> {
        if self.format != Format::Json {
            return None;
        }
        json::end(&mut self.text, &self.result, Some(error));
        Some(self.text.into())
    }
}
