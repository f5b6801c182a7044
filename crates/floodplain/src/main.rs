//! The `floodplain` command: the server, and the tools around it.
//!
//! Each command is a module with its arguments (`Args`) and a `run` that takes them. Results go to
//! standard output, logs to standard error; the exit code is 0 for done, 1 for failed, 2 for misuse.

mod output;

use clap::{CommandFactory, Parser, Subcommand};
use std::process::ExitCode;

/// The data platform for fleets of connected devices.
#[derive(Debug, Parser)]
#[command(name = "floodplain", version, max_term_width = 110, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print a completion script, for example `floodplain completions bash > /etc/bash_completion.d/floodplain`
    Completions {
        /// The shell it is for
        shell: clap_complete::Shell,
    },
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "floodplain", &mut std::io::stdout());
            Ok(())
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let error: anyhow::Error = error;
            eprintln!("floodplain: {error:#}");
            ExitCode::FAILURE
        }
    }
}
