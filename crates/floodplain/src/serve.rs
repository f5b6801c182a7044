//! `floodplain serve`

use crate::settings::ConfigArgs;
use anyhow::{Context as _, Result};
use floodplain_server::{Server, log_start_error, start_logs};
use std::path::PathBuf;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Write the addresses to this file, as JSON, once traffic is accepted; it is removed when stopping begins
    #[arg(long, value_name = "PATH")]
    ready_file: Option<PathBuf>,
    #[command(flatten)]
    config: ConfigArgs,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let config = args.config.load()?;
    start_logs(&config);
    if let Some(path) = &args.ready_file {
        // One of an earlier run must not say that this one is ready.
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove the old ready file {}", path.display()));
            }
            _ => {}
        }
    }
    let server = Server::start(&config).map_err(|error| {
        let is_logged = log_start_error(&config, &error);
        if is_logged { anyhow::Error::new(Logged) } else { error.into() }
    })?;
    server.announce_setup();
    if let Some(path) = &args.ready_file {
        server.write_ready_file(path)?;
    }
    server.wait_for_signal(None);
    if let Some(path) = &args.ready_file {
        // It may have been taken away already; the server stops either way.
        std::fs::remove_file(path).unwrap_or_default();
    }
    server.stop();
    Ok(())
}

/// A failure that the logs have told; nothing is left to print.
#[derive(Debug)]
pub(crate) struct Logged;

impl std::fmt::Display for Logged {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("see the logs")
    }
}

impl std::error::Error for Logged {}
