//! `floodplain table`: what there is of tables, and how old their rows may become, over HTTP.

use crate::{
    http::{Http, ServerArgs},
    output::{self, Output, OutputArgs, write_table},
    users::path,
};
use anyhow::{Context as _, Result};
use clap::Subcommand;
use serde_json::{Value, json};
use std::io::Write as _;

#[derive(Debug, Subcommand)]
pub(crate) enum TableCommand {
    /// List the tables
    List {
        #[command(flatten)]
        output: OutputArgs,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Show one table with its columns
    Show {
        /// Name of the table
        table: String,
        #[command(flatten)]
        output: OutputArgs,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Set how old rows of a table may become
    Set {
        /// Name of the table
        table: String,
        /// Age at which rows go, for example 30d or 12h; `none` leaves it to the configuration and to bindings
        #[arg(long, value_name = "AGE")]
        retention: String,
        #[command(flatten)]
        server: ServerArgs,
    },
}

/// What is shown of a table.
const COLUMNS: [&str; 9] =
    ["table", "rows", "files", "bytes", "from", "to", "overwritten_values", "retention", "binding"];

pub(crate) fn run(command: &TableCommand) -> Result<()> {
    match command {
        TableCommand::List { output, server } => {
            let tables = tables(&server.open()?)?;
            match output.output {
                Output::Json => json_to(&Value::Array(tables)),
                Output::Table => print(&COLUMNS, &tables),
            }
        }
        TableCommand::Show { table, output, server } => {
            let tables = tables(&server.open()?)?;
            let found = tables.into_iter().find(|found| found["table"] == *table);
            let found =
                found.with_context(|| format!("there is no table {table:?} (floodplain errors table_unknown)"))?;
            if output.output == Output::Json {
                return json_to(&found);
            }
            print(&COLUMNS, std::slice::from_ref(&found))?;
            if let Some(source) = found["retention_source"].as_str() {
                let says = match source {
                    "table" => "set for this table",
                    "config" => "of the configuration file",
                    _ => "of a binding",
                };
                writeln!(output::stdout(), "\nretention is {says}")?;
            }
            writeln!(output::stdout())?;
            print(&["name", "type", "role"], found["columns"].as_array().map_or(&[], Vec::as_slice))
        }
        TableCommand::Set { table, retention, server } => {
            let retention = Some(retention).filter(|age| *age != "none");
            let body = json!({ "retention": retention });
            server.open()?.ask("PATCH", &path("tables", table), Some(&body)).map(drop)
        }
    }
}

fn tables(http: &Http) -> Result<Vec<Value>> {
    let mut answer = http.ask("GET", "tables", None)?;
    let Value::Array(tables) = answer["tables"].take() else { anyhow::bail!("the answer has no list") };
    Ok(tables)
}

fn json_to(value: &Value) -> Result<()> {
    Ok(writeln!(output::stdout(), "{}", serde_json::to_string_pretty(value)?)?)
}

fn print(columns: &[&str], items: &[Value]) -> Result<()> {
    let cell = |value: &Value| match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let rows: Vec<Vec<String>> =
        items.iter().map(|item| columns.iter().map(|column| cell(&item[*column])).collect()).collect();
    write_table(&mut output::stdout(), &columns.iter().map(|column| (*column).to_owned()).collect::<Vec<_>>(), &rows)
        .map_err(Into::into)
}
