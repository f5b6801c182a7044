//! The `floodplain` command: the server, and the tools around it.
//!
//! Each command is a module with its arguments (`Args`) and a `run` that takes them. Results go to
//! standard output, logs to standard error; the exit code is 0 for done, 1 for failed, 2 for misuse.

mod alert;
mod bench_ingest;
mod bench_mqtt;
mod bindings;
mod browser;
mod client;
mod clock;
mod demo;
mod doctor;
mod errors;
mod http;
mod numbers;
mod output;
mod serve;
mod settings;
mod sim;
mod sql;
mod tables;
mod users;

use clap::{CommandFactory, Parser, Subcommand};
use std::{io::Write as _, process::ExitCode};

/// The data platform for fleets of connected devices.
#[derive(Debug, Parser)]
#[command(name = "floodplain", version, max_term_width = 110, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the server until SIGTERM or SIGINT
    Serve(serve::Args),
    /// Run a server, a simulated fleet and live counts in this terminal; needs nothing else
    Demo(demo::Args),
    /// Publish one message, or one per line of standard input
    Pub(client::PublishArgs),
    /// Print messages as they come
    Sub(client::SubscribeArgs),
    /// Ask a running server in SQL, over HTTP
    Sql(sql::Args),
    /// Simulate a fleet of devices that publish
    Sim(sim::Args),
    /// Measure a broker under load
    #[command(subcommand)]
    Bench(BenchCommand),
    /// Check or show the configuration
    #[command(subcommand)]
    Config(settings::ConfigCommand),
    /// Examine this machine: honesty and latency of syncs, file limit, clock, disk space, ports
    Doctor(doctor::Args),
    /// List, add, change and remove users of a running server
    #[command(subcommand)]
    User(users::UserCommand),
    /// List, make and remove API tokens of a running server
    #[command(subcommand)]
    Token(users::TokenCommand),
    /// List, set and remove alerts of a running server
    #[command(subcommand)]
    Alert(alert::AlertCommand),
    /// List, set, remove and test bindings: which messages become rows of which table
    #[command(subcommand)]
    Binding(Box<bindings::BindingCommand>),
    /// List tables, and set how old their rows may become
    #[command(subcommand)]
    Table(tables::TableCommand),
    /// Decode messages of the log again, by the bindings of now
    Replay(bindings::ReplayArgs),
    /// List what was refused or not delivered, and decode it again
    #[command(subcommand)]
    Dlq(bindings::DlqCommand),
    /// Explain a code of the server's answers, or list all
    Errors(errors::Args),
    /// Print a completion script, for example `floodplain completions bash > /etc/bash_completion.d/floodplain`
    Completions {
        /// The shell it is for
        shell: clap_complete::Shell,
    },
    /// Print the version
    Version,
}

#[derive(Debug, Subcommand)]
enum BenchCommand {
    /// The load shapes of docs/performance.md on any MQTT broker
    Mqtt(bench_mqtt::Args),
    /// Rows into this program and other databases of time series, and what they cost there
    Ingest(bench_ingest::Args),
}

fn main() -> ExitCode {
    let result = match &Cli::parse().command {
        Command::Serve(args) => serve::run(args),
        Command::Demo(args) => demo::run(args),
        Command::Pub(args) => client::run_publish(args),
        Command::Sub(args) => client::run_subscribe(args),
        Command::Sql(args) => sql::run(args),
        Command::Sim(args) => sim::run(args),
        Command::Bench(BenchCommand::Mqtt(args)) => bench_mqtt::run(args),
        Command::Bench(BenchCommand::Ingest(args)) => bench_ingest::run(args),
        Command::Config(command) => settings::run(command),
        Command::Doctor(args) => doctor::run(args),
        Command::User(command) => users::run_user(command),
        Command::Token(command) => users::run_token(command),
        Command::Alert(command) => alert::run(command),
        Command::Binding(command) => bindings::run_binding(command),
        Command::Table(command) => tables::run(command),
        Command::Replay(args) => bindings::run_replay(args),
        Command::Dlq(command) => bindings::run_dlq(command),
        Command::Errors(args) => errors::run(args),
        Command::Completions { shell } => {
            // Into memory first: the generator panics if it cannot write.
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Cli::command(), "floodplain", &mut script);
            output::stdout().write_all(&script).map_err(Into::into)
        }
        Command::Version => writeln!(output::stdout(), "floodplain {}", env!("CARGO_PKG_VERSION")).map_err(Into::into),
    };
    match result {
        // A reader such as `head` that has seen enough is no failure.
        Err(error) if output::Closed::is_cause_of(&error) => ExitCode::SUCCESS,
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<serve::Logged>() => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("floodplain: {error:#}");
            // A wrong configuration is misuse, like a wrong flag.
            if error.is::<floodplain_server::ConfigError>() { ExitCode::from(2) } else { ExitCode::FAILURE }
        }
    }
}
