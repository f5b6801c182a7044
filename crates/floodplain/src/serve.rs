//! `floodplain serve`

use crate::settings::ConfigArgs;
use anyhow::{Context as _, Result};
use floodplain_server::{Server, start_logs};
use std::path::PathBuf;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Write the addresses to this file, as JSON, once traffic is accepted
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
    let server = Server::start(&config)?;
    if let Some(path) = &args.ready_file {
        server.write_ready_file(path)?;
    }
    server.wait_for_signal(None);
    server.stop();
    Ok(())
}
