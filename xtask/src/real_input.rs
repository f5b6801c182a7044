//! Recorded series through foreign MQTT clients, with a kill in the middle.

use anyhow::{Result, bail};

/// Runs the main job on the files of a folder.
pub(crate) fn run(args: &[String]) -> Result<()> {
    bail!("usage: cargo xtask real-input --data DIR, got {args:?}")
}
