//! Rows as JSON or CSV.

mod csv;
mod json;
mod value;

use crate::{Error, QueryResult};
use bytes::Bytes;

/// How rows are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// One object: `columns` (name and type), `rows` (an object each), then `row_count`, `warnings` and `stats`.
    Json,
    /// RFC 4180 with a header line.
    Csv,
}

impl Format {
    /// The media type.
    #[must_use]
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Csv => "text/csv; charset=utf-8; header=present",
        }
    }
}

/// How much text is gathered before it is handed on.
const CHUNK_BYTES: usize = 64 << 10;

/// The text of a result, chunk by chunk. Dropping it cancels the query.
#[derive(Debug)]
pub struct Encoder {
    result: QueryResult,
    format: Format,
    state: State,
    text: Vec<u8>,
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    Start,
    Rows,
    Done,
}

impl Encoder {
    pub(crate) fn new(result: QueryResult, format: Format) -> Self {
        Self { result, format, state: State::Start, text: Vec::new() }
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
            }
            self.state = State::Rows;
        }
        while self.state == State::Rows && self.text.len() < CHUNK_BYTES {
            let first = self.result.rows == 0;
            match self.result.next().await {
                Some(Ok(batch)) => {
                    let written = match self.format {
                        Format::Json => json::rows(&mut self.text, self.result.columns(), &batch, first),
                        Format::Csv => csv::rows(&mut self.text, &batch),
                    };
                    if let Err(error) = written {
                        self.state = State::Done;
                        return Some(Err(Error::Internal { message: error.to_string() }));
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
                    self.state = State::Done;
                }
            }
        }
        if self.text.is_empty() { None } else { Some(Ok(std::mem::take(&mut self.text).into())) }
    }

    /// Whether everything was handed on.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.state == State::Done && self.text.is_empty()
    }

    /// The rest of the text after an error in the middle: rows that were not handed on yet and, as JSON, the end of
    /// the object with `error`, which must be JSON itself. CSV has no place for an error: `None`, break off instead.
    #[must_use]
    pub fn fail(mut self, error: &str) -> Option<Bytes> {
        if self.format == Format::Csv {
            return None;
        }
        json::end(&mut self.text, &self.result, Some(error));
        Some(self.text.into())
    }
}
