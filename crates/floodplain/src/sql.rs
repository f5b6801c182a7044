//! `floodplain sql`: a query over HTTP, its rows on standard output.

mod interactive;
mod line;
mod terminal;
mod words;

use crate::{
    http::{Http, ServerArgs},
    output::{self, write_table},
};
use anyhow::{Context as _, Result, bail};
use clap::CommandFactory as _;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Value, value::RawValue};
use std::{
    borrow::Cow,
    collections::BTreeMap,
    fmt,
    io::{self, IsTerminal as _, Read, Write},
};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// One SELECT, EXPLAIN, SHOW or DESCRIBE; `-` reads it from standard input. Without one, in a terminal, queries are asked
    /// for: `\?` tells how
    query: Option<String>,
    /// How to print the rows
    #[arg(long, value_enum, default_value_t, value_name = "FORM")]
    output: Form,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
enum Form {
    /// Aligned columns, for people
    #[default]
    Table,
    /// The answer of the HTTP API: columns, rows, statistics
    Json,
    /// RFC 4180 with a header line
    Csv,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let Some(query) = &args.query else {
        if io::stdin().is_terminal() {
            return interactive::run(&args.server);
        }
        let message = "a query is missing: standard input is no terminal; `-` reads one query from it";
        crate::Cli::command().error(clap::error::ErrorKind::MissingRequiredArgument, message).exit();
    };
    let http = args.server.open()?;
    let query = match query.as_str() {
        "-" => io::read_to_string(io::stdin()).context("cannot read the query from standard input")?,
        query => query.to_owned(),
    };
    let mut out = output::stdout();
    match args.output {
        Form::Table => {
            let mut table = Table::default();
            let rest = read(post(&http, &query)?, &mut table)?;
            write_table(&mut out, &table.header, &table.rows)?;
            rest.report()
        }
        Form::Json => {
            // As it comes; read along, because only the end says whether these are all rows.
            let mut copy = Copy { from: post(&http, &query)?, to: &mut out, failed: None };
            let rest = read(&mut copy, &mut ());
            copy.failed.map_or(Ok(()), Err)?;
            out.flush()?;
            rest?.error()
        }
        Form::Csv => {
            let mut csv = Csv { out: io::BufWriter::new(out), columns: Vec::new() };
            let rest = read(post(&http, &query)?, &mut csv);
            csv.out.flush()?;
            rest?.report()
        }
    }
}

/// Sends a query; the body of the answer, as JSON, if it is a success.
fn post(http: &Http, query: &str) -> Result<impl Read + use<>> {
    http.send("POST", "sql", Some(&serde_json::json!({ "query": query })))
}

#[derive(Debug, serde::Deserialize)]
struct Column {
    name: String,
    #[serde(rename = "type")]
    data_type: String,
}

/// Values as they stand in the answer: a number that became an `f64` could lose digits.
type Row = BTreeMap<String, Box<RawValue>>;

/// Takes the rows one by one: a long answer is never in memory as a whole.
trait Sink {
    fn start(&mut self, columns: Vec<Column>) -> io::Result<()>;
    fn row(&mut self, row: &Row) -> io::Result<()>;
}

/// What comes after the rows.
#[derive(Debug, Default)]
struct Rest {
    warnings: Vec<Value>,
    error: Value,
}

impl Rest {
    /// After the first rows the status can no longer tell: the server says it at the end.
    fn error(&self) -> Result<()> {
        match self.error["detail"].as_str() {
            Some(detail) => bail!("these are not all rows: {detail}"),
            None if self.error.is_null() => Ok(()),
            None => bail!("these are not all rows: {}", self.error),
        }
    }

    /// The same, for the forms that have no place for a warning.
    fn report(&self) -> Result<()> {
        for warning in &self.warnings {
            eprintln!("floodplain: warning: {}", warning.as_str().map_or_else(|| warning.to_string(), str::to_owned));
        }
        self.error()
    }
}

fn read(body: impl Read, sink: &mut dyn Sink) -> Result<Rest> {
    let mut failed = None;
    let mut json = serde_json::Deserializer::from_reader(io::BufReader::new(body));
    let answer = Answer { sink, failed: &mut failed };
    let read = json.deserialize_map(answer).and_then(|rest| json.end().map(|()| rest));
    failed.map_or(Ok(()), Err)?;
    read.context("the answer broke off, or is not the JSON of a result")
}

/// Walks through the answer.
struct Answer<'a> {
    sink: &'a mut dyn Sink,
    /// Why the sink wants no more.
    failed: &'a mut Option<io::Error>,
}

impl<'de> Visitor<'de> for Answer<'_> {
    type Value = Rest;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with columns and rows")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<Rest, A::Error> {
        let mut rest = Rest::default();
        while let Some(name) = map.next_key::<String>()? {
            match name.as_str() {
                "columns" => {
                    let columns = map.next_value()?;
                    self.taken(|sink| sink.start(columns))?;
                }
                "rows" => map.next_value_seed(Rows(&mut self))?,
                "warnings" => rest.warnings = map.next_value()?,
                "error" => rest.error = map.next_value()?,
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(rest)
    }
}

impl Answer<'_> {
    fn taken<E: serde::de::Error>(&mut self, take: impl FnOnce(&mut dyn Sink) -> io::Result<()>) -> Result<(), E> {
        take(self.sink).map_err(|error| {
            *self.failed = Some(error);
            E::custom("cannot write")
        })
    }
}

struct Rows<'a, 'b>(&'a mut Answer<'b>);

impl<'de> DeserializeSeed<'de> for Rows<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Rows<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of rows")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut rows: A) -> Result<(), A::Error> {
        while let Some(row) = rows.next_element::<Row>()? {
            self.0.taken(|sink| sink.row(&row))?;
        }
        Ok(())
    }
}

/// Passes over the rows.
impl Sink for () {
    fn start(&mut self, _: Vec<Column>) -> io::Result<()> {
        Ok(())
    }

    fn row(&mut self, _: &Row) -> io::Result<()> {
        Ok(())
    }
}

/// Copies what is read through it.
struct Copy<R, W> {
    from: R,
    to: W,
    failed: Option<io::Error>,
}

impl<R: Read, W: Write> Read for Copy<R, W> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.from.read(buffer)?;
        self.to.write_all(&buffer[..length]).map_err(|error| {
            let kind = error.kind();
            self.failed = Some(error);
            kind
        })?;
        Ok(length)
    }
}

#[derive(Debug, Default)]
struct Table {
    header: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Sink for Table {
    fn start(&mut self, columns: Vec<Column>) -> io::Result<()> {
        self.header = columns.into_iter().map(|column| column.name).collect();
        Ok(())
    }

    fn row(&mut self, row: &Row) -> io::Result<()> {
        // As people read it: nothing for NULL, one line.
        let cell = |name: &String| text(row, name).unwrap_or_default().replace(['\n', '\r', '\t'], " ");
        self.rows.push(self.header.iter().map(cell).collect());
        Ok(())
    }
}

/// RFC 4180 as the server writes it, which has no place in it for warnings.
struct Csv<W: Write> {
    out: W,
    columns: Vec<Column>,
}

impl<W: Write> Csv<W> {
    fn line<'a>(&mut self, cells: impl Iterator<Item = Option<Cow<'a, str>>>) -> io::Result<()> {
        // A line of one empty field would be an empty line, which readers skip.
        let alone = self.columns.len() == 1;
        for (idx, cell) in cells.enumerate() {
            let comma = if idx > 0 { "," } else { "" };
            let quote = cell.as_ref().map_or(alone, |text| text.is_empty() || text.contains([',', '"', '\r', '\n']));
            let text = cell.unwrap_or_default();
            if quote {
                write!(self.out, "{comma}\"{}\"", text.replace('"', "\"\""))?;
            } else {
                write!(self.out, "{comma}{text}")?;
            }
        }
        self.out.write_all(b"\r\n")
    }
}

impl<W: Write> Sink for Csv<W> {
    fn start(&mut self, columns: Vec<Column>) -> io::Result<()> {
        self.columns = columns;
        let names: Vec<String> = self.columns.iter().map(|column| column.name.clone()).collect();
        self.line(names.iter().map(|name| Some(name.into())))
    }

    fn row(&mut self, row: &Row) -> io::Result<()> {
        let special = |column: &Column| {
            let json = row.get(&column.name)?.get();
            match column.data_type.as_str() {
                "binary" => Some(format!("base64:{}", json.strip_prefix(r#"{"base64":""#)?.strip_suffix(r#""}"#)?)),
                // JSON tells 2.0 from 2 and knows exponents; what is a text is NaN or infinite.
                "double" => Some(json.parse::<f64>().ok()?.to_string()),
                _ => None,
            }
        };
        let cell = |column: &Column| special(column).map(Cow::Owned).or_else(|| text(row, &column.name));
        let cells: Vec<_> = self.columns.iter().map(cell).collect();
        self.line(cells.into_iter())
    }
}

/// A value without the quotes of a text; `None` for NULL.
fn text<'a>(row: &'a Row, name: &str) -> Option<Cow<'a, str>> {
    let json = row.get(name)?.get();
    match json.as_bytes().first() {
        Some(b'n') => None,
        Some(b'"') => Some(serde_json::from_str(json).map_or(json.into(), Cow::Owned)),
        _ => Some(json.into()),
    }
}

/// The first row of a query, for the commands that show a figure.
pub(crate) fn first_row(url: &str, query: &str) -> Result<Value> {
    let answer: Value = serde_json::from_reader(post(&Http::new(url), query)?)?;
    answer["rows"].get(0).cloned().context("the query gave no row")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_become_a_table_in_the_order_of_the_columns() {
        let answer = serde_json::json!({
            "columns": [{"name": "device", "type": "Utf8"}, {"name": "kmh", "type": "Float64"}],
            "rows": [{"kmh": 61.5, "device": "truck-7"}, {"kmh": null, "device": "two\nlines"}],
        });
        let mut table = Table::default();
        read(answer.to_string().as_bytes(), &mut table).unwrap().report().unwrap();
        let mut out = Vec::new();
        write_table(&mut out, &table.header, &table.rows).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text, "device      kmh\n---------  ----\ntruck-7    61.5\ntwo lines\n");
    }

    #[test]
    fn no_digit_is_lost() {
        let json = r#"{"columns": [{"name": "d", "type": "decimal"}], "rows": [{"d": 12345678901234567890.12345}]}"#;
        let mut table = Table::default();
        read(json.as_bytes(), &mut table).unwrap();
        assert_eq!(table.rows, [["12345678901234567890.12345"]]);
    }

    #[test]
    fn a_result_that_was_cut_off_is_an_error_in_every_form() {
        let cut = r#"{"columns": [], "rows": [{}], "row_count": 1, "error": {"detail": "too many rows"}}"#;
        let rest = read(cut.as_bytes(), &mut ()).unwrap();
        for error in [rest.error(), rest.report()] {
            assert!(error.unwrap_err().to_string().contains("too many rows"));
        }
        for broken in ["", "{", r#"{"columns": [], "rows": [{}"#, "[]", r#"{"columns": [], "rows": []} more"#] {
            assert!(read(broken.as_bytes(), &mut Table::default()).is_err(), "{broken}");
        }
    }

    #[test]
    fn warnings_are_read_beside_csv() {
        let json = r#"{"columns": [{"name": "a", "type": "text"}, {"name": "b", "type": "binary"}],
            "rows": [{"a": "x, \"y\"", "b": {"base64": "/w=="}}, {"a": null, "b": ""}],
            "warnings": ["8 bytes are damaged"]}"#;
        let mut csv = Csv { out: Vec::new(), columns: Vec::new() };
        // As the server writes it, without spaces.
        let rest = read(json.replace(": ", ":").as_bytes(), &mut csv).unwrap();
        assert_eq!(rest.warnings, ["8 bytes are damaged"]);
        assert_eq!(String::from_utf8(csv.out).unwrap(), "a,b\r\n\"x, \"\"y\"\"\",base64:/w==\r\n,\"\"\r\n");
    }

    #[test]
    fn a_closed_output_ends_the_copy_by_its_own_error() {
        struct Gone;
        impl Write for Gone {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut copy = Copy { from: &b"{}"[..], to: Gone, failed: None };
        assert!(read(&mut copy, &mut ()).is_err());
        assert_eq!(copy.failed.unwrap().kind(), io::ErrorKind::BrokenPipe);
    }
}
