//! `floodplain binding`, `floodplain replay` and `floodplain dlq`: where messages go, over HTTP.

use crate::{
    client::parse_pair,
    http::{Http, ServerArgs},
    output::{self, Output, OutputArgs, write_table},
    users::path,
};
use anyhow::{Context as _, Result, bail, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use clap::Subcommand;
use serde_json::{Map, Value, json};
use std::{
    io::{IsTerminal as _, Write as _},
    path::{Path, PathBuf},
    time::Duration,
};

/// How often a waiting command asks how far a replay is.
const LOOK: Duration = Duration::from_millis(200);
const BAR_WIDTH: u64 = 30;

#[derive(Debug, Subcommand)]
pub(crate) enum BindingCommand {
    /// List the bindings, in the order in which they are asked
    List {
        #[command(flatten)]
        output: OutputArgs,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Add a binding, or put it into the place of the one of its name
    Set {
        /// Letters, digits and `. _ -`
        name: String,
        #[command(flatten)]
        declaration: Declaration,
        #[command(flatten)]
        output: OutputArgs,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Remove a binding; the rows that it has made stay
    Delete {
        name: String,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Show what would become of a message; nothing is stored
    Test {
        /// Topic of the message
        topic: String,
        /// Payload as text
        #[arg(short, long, value_name = "TEXT", required_unless_present = "payload_file")]
        message: Option<String>,
        /// File with the payload
        #[arg(long, value_name = "PATH", conflicts_with = "message")]
        payload_file: Option<PathBuf>,
        /// Content type of the message
        #[arg(long, value_name = "TYPE")]
        content_type: Option<String>,
        /// User property of the message as NAME=VALUE; may be repeated
        #[arg(short = 'D', long = "property", value_parser = parse_pair, value_name = "NAME=VALUE")]
        properties: Vec<(String, String)>,
        /// Test this binding, whatever others say; without it and without --filter that of the topic
        #[arg(long, value_name = "NAME", conflicts_with = "filter")]
        binding: Option<String>,
        #[command(flatten)]
        declaration: Declaration,
        #[command(flatten)]
        output: OutputArgs,
        #[command(flatten)]
        server: ServerArgs,
    },
}

/// A binding, as flags.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Binding")]
pub(crate) struct Declaration {
    /// Topics that it is for
    #[arg(long, value_name = "FILTER")]
    filter: Option<String>,
    /// Stream that takes the messages, one of `[[streams]]` in the configuration
    #[arg(long, value_name = "NAME", default_value = "telemetry")]
    stream: String,
    /// Level of the topic that names the device, counted from 1 [default: the device that publishes]
    #[arg(long, value_name = "N")]
    device_level: Option<u16>,
    /// Table of the rows
    #[arg(long, value_name = "NAME", conflicts_with = "table_level")]
    table: Option<String>,
    /// Level of the topic that names the table
    #[arg(long, value_name = "N")]
    table_level: Option<u16>,
    /// Format of the payloads: auto, json, number, text, cbor, `line_protocol` or struct
    #[arg(long, value_name = "FORMAT", default_value = "auto")]
    format: String,
    /// JSON file with what else the decoder is told: types, fields, checksum, …
    #[arg(long, value_name = "PATH")]
    decoder_file: Option<PathBuf>,
    /// Field with the time of the event
    #[arg(long, value_name = "FIELD")]
    time_field: Option<String>,
    /// Field that belongs to the key of a row, beside device and time; may be repeated
    #[arg(long = "key-column", value_name = "FIELD")]
    key_columns: Vec<String>,
    /// Age at which rows of the table go, for example 30d [default: never]
    #[arg(long, value_name = "AGE")]
    retention: Option<String>,
    /// What a PUBACK of these topics waits for: all, leader or none [default: mqtt.ack_class]
    #[arg(long, value_parser = ["all", "leader", "none"])]
    class: Option<String>,
    /// User property with an id: a message that repeats one of the same device makes no row
    #[arg(long, value_name = "NAME", conflicts_with = "dedup_field")]
    dedup_property: Option<String>,
    /// Field with an id: a row that repeats one of the same device is none
    #[arg(long, value_name = "FIELD")]
    dedup_field: Option<String>,
    /// How long an id is known, at most 1h [default: 10m]
    #[arg(long, value_name = "TIME")]
    dedup_window: Option<String>,
}

impl Declaration {
    fn dedup(&self) -> Result<Value> {
        let mut dedup = match (&self.dedup_property, &self.dedup_field) {
            (Some(name), _) => json!({ "property": name }),
            (None, Some(name)) => json!({ "field": name }),
            (None, None) => {
                ensure!(self.dedup_window.is_none(), "--dedup-window needs --dedup-property or --dedup-field");
                return Ok(Value::Null);
            }
        };
        if let Some(window) = &self.dedup_window {
            dedup["window"] = json!(window);
        }
        Ok(dedup)
    }

    fn to_json(&self) -> Result<Value> {
        let filter = self.filter.as_ref().context("--filter is needed")?;
        let table = match (&self.table, self.table_level) {
            (Some(name), None) => json!({ "name": name }),
            (None, Some(level)) => json!({ "level": level }),
            _ => bail!("--table or --table-level is needed"),
        };
        let mut decoder: Map<String, Value> = match &self.decoder_file {
            None => Map::new(),
            Some(file) => {
                serde_json::from_slice(&read(file)?).with_context(|| format!("{} is no JSON object", file.display()))?
            }
        };
        decoder.entry("format").or_insert_with(|| json!(self.format));
        Ok(json!({
            "filter": filter, "stream": self.stream, "device_level": self.device_level, "table": table, "decoder": decoder,
            "time_field": self.time_field, "key_columns": self.key_columns, "retention": self.retention,
            "class": self.class, "dedup": self.dedup()?,
        }))
    }
}

#[derive(Debug, clap::Args)]
pub(crate) struct ReplayArgs {
    /// Only messages of this binding; `default` is what no binding takes
    #[arg(long, value_name = "NAME")]
    binding: Option<String>,
    /// Only messages of this stream [default: of all that take messages]
    #[arg(long, value_name = "NAME")]
    stream: Option<String>,
    /// Only messages received from then on, for example 2026-11-26T11:00:00Z
    #[arg(long, value_name = "TIME")]
    from: Option<String>,
    /// Only messages received before
    #[arg(long, value_name = "TIME")]
    to: Option<String>,
    #[command(flatten)]
    wait: WaitArgs,
}

#[derive(Debug, clap::Args)]
pub(crate) struct WaitArgs {
    /// Do not wait for the end
    #[arg(long)]
    no_wait: bool,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DlqCommand {
    /// List what was refused or not delivered, newest first
    List {
        /// Only with this reason
        #[arg(long)]
        reason: Option<String>,
        /// Only of this binding
        #[arg(long)]
        binding: Option<String>,
        #[command(flatten)]
        output: OutputArgs,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Decode the messages of letters again, by the bindings of now
    Replay {
        /// As `dlq list` prints them [default: all]
        ids: Vec<String>,
        /// Only those with this reason
        #[arg(long)]
        reason: Option<String>,
        #[command(flatten)]
        wait: WaitArgs,
    },
}

pub(crate) fn run_binding(command: &BindingCommand) -> Result<()> {
    match command {
        BindingCommand::List { output, server } => {
            let answer = server.open()?.ask("GET", "bindings", None)?;
            let columns = [
                "name",
                "filter",
                "stream",
                "device_level",
                "table",
                "decoder",
                "dedup",
                "matched",
                "failed",
                "duplicates",
                "version",
                "source",
            ];
            print(output.output, &answer["bindings"], &columns)
        }
        BindingCommand::Set { name, declaration, output, server } => {
            let set = server.open()?.ask("PUT", &path("bindings", name), Some(&declaration.to_json()?))?;
            match output.output {
                Output::Json => Ok(writeln!(output::stdout(), "{}", serde_json::to_string_pretty(&set)?)?),
                Output::Table => Ok(()),
            }
        }
        BindingCommand::Delete { name, server } => {
            server.open()?.ask("DELETE", &path("bindings", name), None).map(drop)
        }
        BindingCommand::Test {
            topic,
            message,
            payload_file,
            content_type,
            properties,
            binding,
            declaration,
            output,
            server,
        } => {
            let payload = match payload_file {
                Some(file) => read(file)?,
                None => message.clone().unwrap_or_default().into_bytes(),
            };
            let http = server.open()?;
            let binding = match binding {
                Some(name) => stored(&http, name)?,
                None if declaration.filter.is_some() => declaration.to_json()?,
                None => Value::Null,
            };
            let body = json!({ "binding": binding, "topic": topic, "payload_base64": STANDARD.encode(payload),
                "content_type": content_type, "user_properties": properties });
            show(output.output, &http.ask("POST", "bindings/test", Some(&body))?)
        }
    }
}

pub(crate) fn run_replay(args: &ReplayArgs) -> Result<()> {
    let body = json!({ "binding": args.binding, "stream": args.stream, "from": args.from, "to": args.to });
    begin("replay", &body, &args.wait)
}

pub(crate) fn run_dlq(command: &DlqCommand) -> Result<()> {
    match command {
        DlqCommand::List { reason, binding, output, server } => {
            let mut query = "dlq?limit=1000".to_owned();
            for (name, value) in [("reason", reason), ("binding", binding)] {
                if let Some(value) = value {
                    query.push_str(&format!("&{}", path(name, value).replacen('/', "=", 1)));
                }
            }
            let answer = server.open()?.ask("GET", &query, None)?;
            let columns = ["id", "time", "kind", "stage", "reason", "binding", "topic", "byte_position", "replayed"];
            print(output.output, &answer["entries"], &columns)?;
            if answer["next"].is_string() {
                writeln!(
                    std::io::stderr(),
                    "these are the newest 1,000; the table dlq has all: floodplain sql \"SELECT * FROM dlq\""
                )?;
            }
            Ok(())
        }
        DlqCommand::Replay { ids, reason, wait } => {
            let ids = (!ids.is_empty()).then_some(ids);
            begin("dlq/replay", &json!({ "ids": ids, "reason": reason }), wait)
        }
    }
}

fn read(file: &Path) -> Result<Vec<u8>> {
    std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))
}

/// The declaration of a binding that the server has.
fn stored(http: &Http, name: &str) -> Result<Value> {
    let answer = http.ask("GET", "bindings", None)?;
    let found = answer["bindings"].as_array().and_then(|list| list.iter().find(|binding| binding["name"] == name));
    let mut binding = found.cloned().with_context(|| format!("there is no binding {name:?}"))?;
    ensure!(binding["builtin"] != true, "binding {name:?} is built in: leave --binding out to see it work");
    if let Value::Object(members) = &mut binding {
        for added in ["version", "matched", "failed", "duplicates", "builtin", "source"] {
            members.remove(added);
        }
    }
    Ok(binding)
}

/// What a cell shows: a table or a decoder in one word, other texts as they are.
fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Object(members) => match (members.get("format"), members.get("name"), members.get("level")) {
            (Some(Value::String(text)), ..) | (None, Some(Value::String(text)), _) => text.clone(),
            (None, None, Some(level)) => format!("level {level}"),
            (None, None, None) if members.contains_key("property") => format!("property {}", cell(&value["property"])),
            (None, None, None) if members.contains_key("field") => format!("field {}", cell(&value["field"])),
            _ => value.to_string(),
        },
        other => other.to_string(),
    }
}

fn print(output: Output, items: &Value, columns: &[&str]) -> Result<()> {
    let items = items.as_array().context("the answer has no list")?;
    let mut out = output::stdout();
    match output {
        Output::Json => writeln!(out, "{}", serde_json::to_string_pretty(items)?)?,
        Output::Table => {
            let row = |item: &Value| columns.iter().map(|column| cell(&item[*column])).collect();
            let rows: Vec<Vec<String>> = items.iter().map(row).collect();
            write_table(&mut out, &columns.iter().map(|column| (*column).to_owned()).collect::<Vec<_>>(), &rows)?;
        }
    }
    Ok(())
}

/// What would become of a message; it is a failure if it would be refused.
fn show(output: Output, answer: &Value) -> Result<()> {
    let mut out = output::stdout();
    if output == Output::Json {
        writeln!(out, "{}", serde_json::to_string_pretty(answer)?)?;
    } else {
        writeln!(out, "binding {}, device {}", cell(&answer["binding"]), cell(&answer["device"]))?;
        for row in answer["rows"].as_array().into_iter().flatten() {
            let time = row["time"].as_str().unwrap_or("the time of ingest");
            let id = row["id"].as_str().map_or_else(String::new, |id| format!(", id {id}"));
            writeln!(out, "\ntable {}, device {}, {time}{id}", cell(&row["table"]), cell(&row["device"]))?;
            let fields: Vec<Vec<String>> = row["fields"]
                .as_array()
                .into_iter()
                .flatten()
                .map(|field| {
                    let name = match &field["column"] {
                        Value::Null => format!("{} (in _rest)", cell(&field["name"])),
                        column if *column == field["name"] => cell(column),
                        column => format!("{} (as {})", cell(&field["name"]), cell(column)),
                    };
                    [name].into_iter().chain(["role", "type", "value"].map(|name| cell(&field[name]))).collect()
                })
                .collect();
            write_table(&mut out, &["field", "role", "type", "value"].map(str::to_owned), &fields)?;
        }
    }
    let failure = &answer["failure"];
    if failure.is_null() {
        return Ok(());
    }
    let at = failure["byte_position"].as_u64().map_or_else(String::new, |at| format!(" at byte {at}"));
    bail!("refused in stage {}{at}: {}", cell(&failure["stage"]), cell(&failure["reason"]))
}

/// Begins a job, and waits for its end.
fn begin(what: &str, body: &Value, wait: &WaitArgs) -> Result<()> {
    let http = wait.server.open()?;
    let begun = http.ask("POST", what, Some(body))?;
    let name = begun["job"].as_str().context("the answer names no job")?;
    let is_seen = std::io::stderr().is_terminal();
    let job = loop {
        let answer = http.ask("GET", "replay", None)?;
        let job = answer["jobs"].as_array().and_then(|jobs| jobs.iter().find(|job| job["job"] == name));
        let job = job.cloned().with_context(|| format!("the server does not know replay {name} any more"))?;
        let is_over = job["state"] != "running";
        if is_seen && !wait.no_wait {
            bar(&job, is_over)?;
        }
        if is_over || wait.no_wait {
            break job;
        }
        std::thread::sleep(LOOK);
    };
    let columns = ["job", "state", "records", "total", "rows", "failed"];
    match wait.output.output {
        Output::Json => Ok(writeln!(output::stdout(), "{}", serde_json::to_string_pretty(&job)?)?),
        Output::Table => print(Output::Table, &json!([job]), &columns),
    }
}

fn bar(job: &Value, is_over: bool) -> Result<()> {
    let (records, total) = (job["records"].as_u64().unwrap_or(0), job["total"].as_u64().unwrap_or(0));
    let done = if is_over { BAR_WIDTH } else { (records * BAR_WIDTH / total.max(1)).min(BAR_WIDTH) };
    let (done, left) = ("#".repeat(done as usize), "-".repeat((BAR_WIDTH - done) as usize));
    let mut err = std::io::stderr();
    write!(err, "\r[{done}{left}] {records} of {total}")?;
    if is_over {
        writeln!(err)?;
    }
    Ok(err.flush()?)
}
