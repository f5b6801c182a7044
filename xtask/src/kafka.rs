//! `cargo xtask kafka`: a cluster of Apache Kafka for a person, by what starts it for the tests.

use crate::{run::cargo, tools};
use anyhow::{Context as _, Result, ensure};

/// Hands the command on to the test kit, with what it needs installed.
pub(crate) fn run(args: &[String]) -> Result<()> {
    // Who asks how it is, or ends it, needs nothing new.
    let tools = if args.first().is_some_and(|verb| verb == "up") { tools::install_kafka()? } else { tools::present()? };
    let mut command = cargo();
    command.args([
        "run",
        "--quiet",
        "--release",
        "--locked",
        "--package",
        "floodplain-testkit",
        "--bin",
        "kafka",
        "--",
    ]);
    command.args(args).env("FLOODPLAIN_TEST_TOOLS", tools.folder());
    // Not shown: the output is an answer, maybe JSON.
    let status = command.status().context("cannot start cargo")?;
    ensure!(status.success(), "the command `kafka` ended with {status}");
    Ok(())
}
