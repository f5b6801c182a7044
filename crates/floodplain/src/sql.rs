//! `floodplain sql`: a query over HTTP, its rows on standard output.

use crate::{output::write_table, settings::ConfigArgs};
use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use std::io::{self, Read as _, Write as _};
use std::time::Duration;

/// Longer than any query may run: the server ends those that take too long, and says so.
const PATIENCE: Duration = Duration::from_secs(3_600);
const CONNECT_PATIENCE: Duration = Duration::from_secs(5);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// One SELECT, EXPLAIN, SHOW or DESCRIBE; `-` reads it from standard input
    query: String,
    /// How to print the rows
    #[arg(long, value_enum, default_value_t, value_name = "FORM")]
    output: Form,
    /// Server, for example http://127.0.0.1:8080 [default: http.address of the configuration]
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    #[command(flatten)]
    config: ConfigArgs,
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
    let url = match &args.url {
        Some(url) => url.trim_end_matches('/').to_owned(),
        None => format!("http://{}", args.config.load()?.http_address),
    };
    let query = match args.query.as_str() {
        "-" => io::read_to_string(io::stdin()).context("cannot read the query from standard input")?,
        query => query.to_owned(),
    };
    let mut body = post(&url, &query, args.output)?;
    let mut out = io::stdout().lock();
    if args.output == Form::Table {
        let answer = serde_json::from_reader(body).context("the answer is not the JSON of a result")?;
        return print_table(&mut out, &answer);
    }
    io::copy(&mut body, &mut out).context("the answer broke off")?;
    if args.output == Form::Json {
        writeln!(out)?;
    }
    Ok(())
}

/// Sends a query; the body of the answer if it is a success.
fn post(url: &str, query: &str, form: Form) -> Result<impl io::Read + use<>> {
    let accept = if form == Form::Csv { "text/csv" } else { "application/json" };
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .timeout_connect(Some(CONNECT_PATIENCE))
        .timeout_global(Some(PATIENCE))
        // The server is this machine's or a named one; a proxy would only hide it.
        .proxy(None)
        .build()
        .into();
    let response = agent
        .post(format!("{url}/api/v1/sql"))
        .header("Content-Type", "application/json")
        .header("Accept", accept)
        .send(serde_json::json!({ "query": query }).to_string())
        .with_context(|| format!("cannot ask {url}; is the server running there?"))?;
    let status = response.status();
    let mut body = response.into_body().into_reader();
    if status.is_success() {
        return Ok(body);
    }
    let mut text = String::new();
    body.read_to_string(&mut text).context("the answer broke off")?;
    // RFC 9457, problem details.
    let problem: Value = serde_json::from_str(&text).unwrap_or_default();
    match problem["detail"].as_str().or(problem["title"].as_str()) {
        Some(detail) => bail!("{detail}"),
        None => bail!("{url} answered {status}: {}", text.trim()),
    }
}

fn print_table(out: &mut dyn io::Write, answer: &Value) -> Result<()> {
    let columns = answer["columns"].as_array().context("the answer has no columns")?;
    let rows = answer["rows"].as_array().context("the answer has no rows")?;
    let header: Vec<String> =
        columns.iter().map(|column| column["name"].as_str().unwrap_or_default().to_owned()).collect();
    let cells: Vec<Vec<String>> = rows.iter().map(|row| header.iter().map(|name| cell(&row[name])).collect()).collect();
    write_table(out, &header, &cells)?;
    for warning in answer["warnings"].as_array().into_iter().flatten() {
        eprintln!("floodplain: warning: {}", warning.as_str().map_or_else(|| warning.to_string(), str::to_owned));
    }
    // After the first rows the status can no longer tell: the server says it at the end.
    match answer["error"]["detail"].as_str() {
        Some(detail) => bail!("these are not all rows: {detail}"),
        None => Ok(()),
    }
}

/// A value as people read it: no quotes around text, nothing for NULL, one line.
fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.replace(['\n', '\r', '\t'], " "),
        other => other.to_string(),
    }
}

/// The first row of a query, for the commands that show a figure.
pub(crate) fn first_row(url: &str, query: &str) -> Result<Value> {
    let answer: Value = serde_json::from_reader(post(url, query, Form::Json)?)?;
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
        let mut out = Vec::new();
        print_table(&mut out, &answer).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text, "device      kmh\n---------  ----\ntruck-7    61.5\ntwo lines\n");
        let cut = serde_json::json!({ "columns": [], "rows": [], "error": { "detail": "too many rows" } });
        assert!(print_table(&mut Vec::new(), &cut).unwrap_err().to_string().contains("too many rows"));
    }
}
