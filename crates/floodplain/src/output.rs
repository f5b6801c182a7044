//! How results are printed: a table for people, JSON for programs.

use std::{
    fmt,
    io::{self, Write},
};

/// Standard output for results. When its reader has gone, writing fails with [`Closed`] in the error.
#[derive(Debug)]
pub(crate) struct Stdout(io::StdoutLock<'static>);

pub(crate) fn stdout() -> Stdout {
    Stdout(io::stdout().lock())
}

impl Write for Stdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes).map_err(closed)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush().map_err(closed)
    }
}

fn closed(error: io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::BrokenPipe { io::Error::new(error.kind(), Closed) } else { error }
}

/// A reader such as `head` has seen enough of our standard output. A socket that breaks is no such thing.
#[derive(Debug)]
pub(crate) struct Closed;

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("nobody reads standard output any more")
    }
}

impl std::error::Error for Closed {}

impl Closed {
    /// Whether this is why a command ended.
    pub(crate) fn is_cause_of(error: &anyhow::Error) -> bool {
        let io = |cause: &'_ (dyn std::error::Error + 'static)| {
            let inner = cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
            inner.is_some_and(|inner| inner.is::<Self>())
        };
        error.chain().any(io)
    }
}

/// Form of a result on standard output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub(crate) enum Output {
    /// Aligned columns, for people
    #[default]
    Table,
    /// One JSON document, for programs; its fields stay
    Json,
}

/// Flattened into the arguments of each command that prints a result.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct OutputArgs {
    /// How to print the result
    #[arg(long, value_enum, default_value_t, value_name = "FORM")]
    pub(crate) output: Output,
}

/// Writes `rows` below `header` in aligned columns; a column whose cells are all numbers is
/// aligned to the right.
pub(crate) fn write_table(out: &mut dyn Write, header: &[String], rows: &[Vec<String>]) -> io::Result<()> {
    let width = |text: &str| text.chars().count();
    let mut widths: Vec<usize> = header.iter().map(|name| width(name)).collect();
    let mut numeric = vec![!rows.is_empty(); header.len()];
    for row in rows {
        for (column, cell) in row.iter().enumerate().take(header.len()) {
            widths[column] = widths[column].max(width(cell));
            numeric[column] &= cell.is_empty() || cell.parse::<f64>().is_ok();
        }
    }
    let mut write_row = |cells: &[String]| {
        let mut line = String::new();
        for (column, cell) in cells.iter().enumerate().take(header.len()) {
            let pad = " ".repeat(widths[column].saturating_sub(width(cell)));
            let gap = if column == 0 { "" } else { "  " };
            let cell = if numeric[column] { format!("{gap}{pad}{cell}") } else { format!("{gap}{cell}{pad}") };
            line.push_str(&cell);
        }
        writeln!(out, "{}", line.trim_end())
    };
    write_row(header)?;
    write_row(&widths.iter().map(|width| "-".repeat(*width)).collect::<Vec<_>>())?;
    rows.iter().try_for_each(|row| write_row(row))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stand_right_and_text_left() {
        let mut out = Vec::new();
        let rows = [vec!["a".to_owned(), "5".to_owned()], vec!["long".to_owned(), "-12.5".to_owned()]];
        write_table(&mut out, &["name".to_owned(), "v".to_owned()], &rows).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "name      v\n----  -----\na         5\nlong  -12.5\n");
    }
}
