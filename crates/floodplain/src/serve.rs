//! `floodplain serve`

use crate::settings::ConfigArgs;
use anyhow::Result;
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
    let server = Server::start(&config)?;
    if let Some(path) = &args.ready_file {
        server.write_ready_file(path)?;
    }
    server.wait_for_signal();
    server.stop();
    Ok(())
}
