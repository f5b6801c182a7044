//! `cargo xtask kafka`: a cluster of Apache Kafka for a person, by what starts it for the tests; and what the log on one costs.

use crate::{
    run::{self, GROUPS, cargo, target},
    tools,
};
use anyhow::{Context as _, Result, ensure};

/// Hands the command on to the test kit, with what it needs installed.
pub(crate) fn run(args: &[String]) -> Result<()> {
    if args.first().is_some_and(|verb| verb == "speed") {
        return speed(&args[1..]);
    }
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

/// The table of `docs/performance.md`, on brokers of its own; takes the seconds of each measurement.
fn speed(args: &[String]) -> Result<()> {
    let tools = tools::install_kafka()?;
    // As the gate builds it, so that there is one set of artefacts.
    run::run(cargo().args(["build", "--release", "--locked"]).args(GROUPS[0]).args(["--bins", "--examples"]))?;
    let examples = target().join("release/examples");
    run::run(
        std::process::Command::new(examples.join("kafka-speed"))
            .arg(target().join("release/floodplain"))
            .args(args)
            .env("FLOODPLAIN_TEST_TOOLS", tools.folder()),
    )
}
