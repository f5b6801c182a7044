//! `floodplain errors`: what the codes of the server's answers mean.

use crate::output::{self, Output, OutputArgs, write_table};
use anyhow::{Context as _, Result};
use floodplain_server::{CODES, Code, find_code};
use serde_json::{Value, json};
use std::io::Write as _;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The `code` of an answer; all are listed without it
    code: Option<String>,
    #[command(flatten)]
    output: OutputArgs,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let mut out = output::stdout();
    let Some(code) = &args.code else {
        match args.output.output {
            Output::Json => {
                let all: Vec<Value> = CODES.iter().map(to_json).collect();
                writeln!(out, "{}", serde_json::to_string_pretty(&all)?)?;
            }
            Output::Table => {
                let row = |code: &Code| vec![code.code.to_owned(), code.status.to_string(), code.title.to_owned()];
                let header = ["code", "status", "title"].map(str::to_owned);
                write_table(&mut out, &header, &CODES.iter().map(row).collect::<Vec<_>>())?;
            }
        }
        return Ok(());
    };
    let found = find_code(code).with_context(|| format!("there is no code {code}; floodplain errors lists all"))?;
    match args.output.output {
        Output::Json => writeln!(out, "{}", serde_json::to_string_pretty(&to_json(found))?)?,
        Output::Table => {
            let Code { code, status, title, meaning, remedy } = found;
            writeln!(out, "{code} (HTTP {status}): {title}\n\n{meaning}\n\nWhat to do: {remedy}")?;
        }
    }
    Ok(())
}

fn to_json(code: &Code) -> Value {
    let Code { code, status, title, meaning, remedy } = code;
    json!({ "code": code, "status": status, "title": title, "meaning": meaning, "remedy": remedy })
}
