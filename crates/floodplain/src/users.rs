//! `floodplain user` and `floodplain token`: who may come in, over HTTP.

use crate::{
    http::{ServerArgs, read_password},
    output::{self, Output, OutputArgs, write_table},
};
use anyhow::{Context as _, Result};
use clap::Subcommand;
use serde_json::{Value, json};
use std::{io::Write as _, path::PathBuf};

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub(crate) enum Role {
    /// Reads
    Viewer,
    /// Also publishes, and changes what becomes of messages
    Editor,
    /// Also decides who may come in
    Admin,
}

impl Role {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Editor => "editor",
            Self::Admin => "admin",
        }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum UserCommand {
    /// List the users
    List {
        #[command(flatten)]
        output: OutputArgs,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Add a user; the first one is made by the link that the server prints
    Add {
        /// Letters, digits and `. _ - @`
        user: String,
        /// What the user may do
        #[arg(long, value_enum)]
        role: Role,
        /// File with the user's password in its first line; `-` is standard input
        #[arg(long, value_name = "PATH")]
        password_file: PathBuf,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Give a user another role
    Role {
        user: String,
        /// What the user may do from now on
        #[arg(value_enum)]
        role: Role,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Give a user another password, which ends the user's sessions
    Passwd {
        user: String,
        /// File with the new password in its first line; `-` is standard input
        #[arg(long, value_name = "PATH")]
        password_file: PathBuf,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Remove a user; API tokens that the user made stay
    Remove {
        user: String,
        #[command(flatten)]
        server: ServerArgs,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// List the tokens, without what they are
    List {
        #[command(flatten)]
        output: OutputArgs,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Make a token and print it, this once
    Create {
        /// What it is for
        name: String,
        /// What its bearer may do
        #[arg(long, value_enum)]
        role: Role,
        /// When it stops to count, for example 2027-01-31T00:00:00Z [default: never]
        #[arg(long, value_name = "TIME")]
        expires: Option<String>,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Remove a token; it does not count from now on
    Remove {
        /// As `token list` prints it
        id: String,
        #[command(flatten)]
        server: ServerArgs,
    },
}

pub(crate) fn run_user(command: &UserCommand) -> Result<()> {
    match command {
        UserCommand::List { output, server } => {
            list(server, output.output, "users", &["user", "role", "created", "last_login"])
        }
        UserCommand::Add { user, role, password_file, server } => {
            let body = json!({ "user": user, "password": read_password(password_file)?, "role": role.as_str() });
            server.open()?.ask("POST", "users", Some(&body)).map(drop)
        }
        UserCommand::Role { user, role, server } => {
            server.open()?.ask("PATCH", &path("users", user), Some(&json!({ "role": role.as_str() }))).map(drop)
        }
        UserCommand::Passwd { user, password_file, server } => {
            let body = json!({ "password": read_password(password_file)? });
            server.open()?.ask("PATCH", &path("users", user), Some(&body)).map(drop)
        }
        UserCommand::Remove { user, server } => server.open()?.ask("DELETE", &path("users", user), None).map(drop),
    }
}

pub(crate) fn run_token(command: &TokenCommand) -> Result<()> {
    match command {
        TokenCommand::List { output, server } => {
            list(server, output.output, "tokens", &["id", "name", "role", "created", "last_used", "expires"])
        }
        TokenCommand::Create { name, role, expires, server } => {
            let body = json!({ "name": name, "role": role.as_str(), "expires": expires });
            let made = server.open()?.ask("POST", "tokens", Some(&body))?;
            let token = made["token"].as_str().context("the answer has no token")?;
            Ok(writeln!(output::stdout(), "{token}")?)
        }
        TokenCommand::Remove { id, server } => server.open()?.ask("DELETE", &path("tokens", id), None).map(drop),
    }
}

fn list(server: &ServerArgs, output: Output, what: &str, columns: &[&str]) -> Result<()> {
    // As many as there can be.
    let answer = server.open()?.ask("GET", &format!("{what}?limit=1000"), None)?;
    let items = answer[what].as_array().context("the answer has no list")?;
    let mut out = output::stdout();
    match output {
        Output::Json => writeln!(out, "{}", serde_json::to_string_pretty(items)?)?,
        Output::Table => {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let rows: Vec<Vec<String>> =
                items.iter().map(|item| columns.iter().map(|column| text(&item[*column])).collect()).collect();
            let header: Vec<String> = columns.iter().map(|column| (*column).to_owned()).collect();
            write_table(&mut out, &header, &rows)?;
        }
    }
    Ok(())
}

/// `folder/name`, with what has a meaning in a path percent-encoded (RFC 3986 §2.1).
pub(crate) fn path(folder: &str, name: &str) -> String {
    let byte = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'~' | b'@' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    format!("{folder}/{}", name.bytes().map(byte).collect::<String>())
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_name_stays_one_segment() {
        assert_eq!(super::path("users", "anna.b@x"), "users/anna%2Eb@x");
        assert_eq!(super::path("users", "../t?ä"), "users/%2E%2E%2Ft%3F%C3%A4");
    }
}
