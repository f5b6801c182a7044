//! Queries from a terminal, one after another.

use super::{
    line::{self, Input},
    terminal::Raw,
    words::{Names, is_complete},
};
use crate::http::{Http, ServerArgs};
use anyhow::{Context as _, Result, bail};
use rustix::event::Timespec;
use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

const HISTORY_MAX: usize = 1_000;
/// How often it is looked whether a query has ended: nobody notices so short a time.
const TICK: Timespec = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
/// Ctrl-C.
const INTERRUPT: u8 = 3;

const HELP: &str = "\
Write a query and end it with a semicolon; Tab completes, Ctrl-C cancels, Ctrl-D leaves.
  \\d          tables and views       \\d NAME     columns of one
  \\dt         tables                 \\timing     show how long queries take
  \\q          leave                  \\?          this help";

const TABLES: &str = "SELECT table_name AS name, table_type AS type FROM information_schema.tables";

const PROMPT: &str = "floodplain> ";
/// Of the second line of a query and those after it.
const CONTINUED: &str = "        ... ";

/// Reads and runs queries until the end of input.
pub(super) fn run(server: &ServerArgs) -> Result<()> {
    if server.reads_stdin() {
        bail!("the terminal is for queries: the password must come from a file");
    }
    let http = server.open()?;
    // A server that is not there shows now, not at the first query.
    let mut session = Session { names: names(&http)?, http, history: History::open(), is_timed: false };
    println!("floodplain {}: \\? for help", env!("CARGO_PKG_VERSION"));
    let (mut input, mut typed) = (String::new(), Vec::new());
    loop {
        let prompt = if input.is_empty() { PROMPT } else { CONTINUED };
        match line::read(prompt, &session.history.entries, &session.names, &mut typed)? {
            Input::Line(line) => input.push_str(&line),
            // What was typed is dropped.
            Input::Interrupted => {
                input.clear();
                continue;
            }
            Input::Eof => return Ok(()),
        }
        if !is_complete(&input) {
            input.push('\n');
            continue;
        }
        let entry = std::mem::take(&mut input);
        let entry = entry.trim();
        if entry.is_empty() {
            continue;
        }
        session.history.add(entry);
        if !session.take(entry)? {
            return Ok(());
        }
    }
}

struct Session {
    http: Http,
    names: Names,
    history: History,
    is_timed: bool,
}

impl Session {
    /// Does what was asked; whether to go on.
    fn take(&mut self, entry: &str) -> Result<bool> {
        let (word, rest) = entry.split_once(char::is_whitespace).unwrap_or((entry, ""));
        let name = rest.trim().trim_end_matches(';').trim_matches('"');
        match word.trim_end_matches(';') {
            "\\q" => return Ok(false),
            "\\?" | "\\h" => println!("{HELP}"),
            "\\timing" => {
                self.is_timed = !self.is_timed;
                println!("timing is {}", if self.is_timed { "on" } else { "off" });
            }
            "\\d" | "\\dt" => match names(&self.http) {
                Ok(names) => {
                    self.names = names;
                    if name.is_empty() || self.names.tables.contains_key(name) {
                        ask(&description(name), self.is_timed)?;
                    } else {
                        println!("there is no table {name}");
                    }
                }
                Err(error) => println!("{error:#}"),
            },
            command if command.starts_with('\\') => println!("there is no command {command}: \\? for help"),
            _ => ask(entry, self.is_timed)?,
        }
        Ok(true)
    }
}

/// What was asked before, oldest first.
struct History {
    entries: Vec<String>,
    file: Option<PathBuf>,
}

impl History {
    fn open() -> Self {
        let file = history_file();
        let text = file.as_ref().and_then(|file| fs::read_to_string(file).ok()).unwrap_or_default();
        let mut entries: Vec<String> = text.lines().map(str::to_owned).collect();
        entries.drain(..entries.len().saturating_sub(HISTORY_MAX));
        Self { entries, file }
    }

    /// Lines become one. A comment to the end of a line would then hide the rest, so such an entry is left out.
    fn add(&mut self, entry: &str) {
        let line = entry.lines().map(str::trim).collect::<Vec<_>>().join(" ");
        if entry.contains("--") || self.entries.last() == Some(&line) {
            return;
        }
        self.entries.push(line);
        if self.entries.len() > HISTORY_MAX {
            self.entries.remove(0);
        }
        if let Some(file) = &self.file
            && let Err(error) = self.save(file)
        {
            eprintln!("floodplain: cannot write {}: {error:#}", file.display());
            self.file = None;
        }
    }

    /// For this user's eyes.
    fn save(&self, file: &Path) -> Result<()> {
        if let Some(folder) = file.parent() {
            fs::create_dir_all(folder)?;
        }
        let mut out = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(file)?;
        Ok(out.write_all((self.entries.join("\n") + "\n").as_bytes())?)
    }
}

fn description(name: &str) -> String {
    if name.is_empty() {
        return format!("{TABLES} ORDER BY 1");
    }
    format!(
        "SELECT column_name AS column, data_type AS type, is_nullable AS nullable FROM information_schema.columns \
         WHERE table_name = '{}' ORDER BY ordinal_position",
        name.replace('\'', "''")
    )
}

fn names(http: &Http) -> Result<Names> {
    let query = "SELECT table_name, column_name FROM information_schema.columns";
    let answer = http.ask("POST", "sql", Some(&serde_json::json!({ "query": query })))?;
    let mut tables: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for row in answer["rows"].as_array().context("the answer has no rows")? {
        if let (Some(table), Some(column)) = (row["table_name"].as_str(), row["column_name"].as_str()) {
            tables.entry(table.to_owned()).or_default().insert(column.to_owned());
        }
    }
    Ok(Names { tables })
}

/// Of this user: `floodplain/sql_history` where the XDG base directories have the state of programs.
fn history_file() -> Option<PathBuf> {
    let state = env::var_os("XDG_STATE_HOME").filter(|path| !path.is_empty()).map(PathBuf::from);
    let state = state.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".local/state")))?;
    Some(state.join("floodplain/sql_history"))
}

/// Runs a query as a process of its own, which Ctrl-C can end: its connection closes, and the server ends the query.
fn ask(query: &str, is_timed: bool) -> Result<()> {
    let program = env::current_exe().context("cannot find this program")?;
    // Ctrl-C is a byte, not a signal, so that it does not end this process, too.
    let terminal = Raw::new()?;
    #[expect(clippy::disallowed_methods, reason = "a person waits for a query; nothing is tested by this time")]
    let started = std::time::Instant::now();
    let mut child = Command::new(program)
        .args(env::args_os().skip(1))
        .arg("--")
        .arg(query.trim_end_matches(';'))
        .stdin(Stdio::null())
        .spawn()
        .context("cannot start a query")?;
    let mut is_cancelled = false;
    while child.try_wait()?.is_none() {
        // A terminal that has gone is the end, too.
        let is_interrupt = |keys: Vec<u8>| keys.is_empty() || keys.contains(&INTERRUPT);
        if terminal.read_within(&TICK)?.is_some_and(is_interrupt) && !is_cancelled {
            child.kill()?;
            is_cancelled = true;
        }
    }
    drop(terminal);
    if is_cancelled {
        println!("cancelled");
    }
    if is_timed {
        println!("{:.3} ms", started.elapsed().as_secs_f64() * 1e3);
    }
    Ok(())
}
