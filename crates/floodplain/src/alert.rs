//! `floodplain alert`: what is watched for, and for whom it fires, over HTTP.

use crate::{
    http::{ServerArgs, read_password},
    output::{self, Output, OutputArgs, write_table},
    users::path,
};
use anyhow::{Context as _, Result};
use clap::Subcommand;
use serde_json::{Value, json};
use std::{io::Write as _, path::PathBuf};

#[derive(Debug, Subcommand)]
pub(crate) enum AlertCommand {
    /// List the alerts, and how many devices each fires for
    List {
        #[command(flatten)]
        output: OutputArgs,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Make an alert, or change the one with this name
    Set(Box<SetArgs>),
    /// Remove an alert; what it fires for ends
    Delete {
        name: String,
        #[command(flatten)]
        server: ServerArgs,
    },
}

#[derive(Debug, clap::Args)]
pub(crate) struct SetArgs {
    /// Lower-case letters, digits, - and _
    name: String,
    #[command(flatten)]
    when: When,
    /// Table of the column, with --above and --below
    #[arg(long, value_name = "TABLE")]
    table: Option<String>,
    /// Column that is compared, with --above and --below
    #[arg(long, value_name = "COLUMN")]
    column: Option<String>,
    /// Only these devices; `*` stands for any text [default: all]
    #[arg(long, value_name = "PATTERN")]
    devices: Option<String>,
    /// Tell this URL of each change, by POST
    #[arg(long, value_name = "URL", conflicts_with = "webhook_file")]
    webhook: Option<String>,
    /// File with the URL in its first line; `-` is standard input. For URLs that are secret
    #[arg(long, value_name = "PATH")]
    webhook_file: Option<PathBuf>,
    /// Keep it, and do not watch
    #[arg(long)]
    off: bool,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct When {
    /// Fires when a device sends nothing for so many minutes, such as 5 or 0.5
    #[arg(long, value_name = "MINUTES")]
    silent: Option<f64>,
    /// Fires when a value is greater
    #[arg(long, value_name = "LIMIT", allow_negative_numbers = true)]
    above: Option<f64>,
    /// Fires when a value is less
    #[arg(long, value_name = "LIMIT", allow_negative_numbers = true)]
    below: Option<f64>,
}

pub(crate) fn run(command: &AlertCommand) -> Result<()> {
    match command {
        AlertCommand::List { output, server } => list(server, output.output),
        AlertCommand::Set(args) => set(args),
        AlertCommand::Delete { name, server } => server.open()?.ask("DELETE", &path("alerts", name), None).map(drop),
    }
}

fn set(args: &SetArgs) -> Result<()> {
    let When { silent, above, below } = args.when;
    let kind = match (silent, above) {
        (Some(_), _) => "silent",
        (None, Some(_)) => "above",
        (None, None) => "below",
    };
    let webhook = match &args.webhook_file {
        Some(file) => Some(read_password(file)?),
        None => args.webhook.clone(),
    };
    let body = json!({
        "name": args.name,
        "kind": kind,
        "table": args.table,
        "column": args.column,
        "value": above.or(below),
        "minutes": silent,
        "devices": args.devices,
        "webhook": webhook,
        "enabled": !args.off,
    });
    args.server.open()?.ask("PUT", &path("alerts", &args.name), Some(&body)).map(drop)
}

fn list(server: &ServerArgs, output: Output) -> Result<()> {
    let answer = server.open()?.ask("GET", "alerts", None)?;
    let alerts = answer["alerts"].as_array().context("the answer has no list")?;
    let mut out = output::stdout();
    match output {
        Output::Json => writeln!(out, "{}", serde_json::to_string_pretty(alerts)?)?,
        Output::Table => {
            let header = ["name", "fires when", "devices", "state", "firing", "fired", "webhook"];
            let rows: Vec<Vec<String>> = alerts.iter().map(row).collect();
            write_table(&mut out, &header.map(str::to_owned), &rows)?;
        }
    }
    Ok(())
}

fn row(alert: &Value) -> Vec<String> {
    let text = |name: &str| alert[name].as_str().unwrap_or_default();
    let when = match text("kind") {
        "silent" => format!("silent for {} min", alert["minutes"]),
        kind => format!("{}.{} {kind} {}", text("table"), text("column"), alert["value"]),
    };
    let state = match (alert["enabled"].as_bool(), text("origin")) {
        (Some(false), _) => "off",
        (_, "config") => "on (file)",
        _ => "on",
    };
    let last = &alert["last_webhook"];
    let webhook = match (last["status"].as_u64(), last["error"].as_str(), alert["webhook"].is_string()) {
        (Some(status), ..) => format!("status {status}"),
        (None, Some(error), _) => error.to_owned(),
        (None, None, true) => "not told yet".to_owned(),
        (None, None, false) => String::new(),
    };
    let devices = alert["devices"].as_str().unwrap_or("all");
    let count = |name: &str| alert[name].as_u64().unwrap_or_default().to_string();
    vec![
        text("name").to_owned(),
        when,
        devices.to_owned(),
        state.to_owned(),
        count("firing_count"),
        count("fired_total"),
        webhook,
    ]
}
