//! All tests, and the tests of the tests.

use crate::{
    real_input,
    run::{GROUPS, Steps, cargo, run, show, target},
    tools::{self, Tools},
};
use anyhow::{Context as _, Result, bail, ensure};
use std::process::Stdio;

/// Faults built into the log on purpose; the suite must find each.
const MUTANTS: [(&str, &str); 2] = [
    ("ack_before_sync", "an append of class `all` is acknowledged before the sync"),
    ("no_folder_sync", "the entry of a new file is never made durable"),
];

pub(crate) fn test() -> Result<()> {
    Steps::all(steps)
}

/// The steps of `cargo xtask test`.
pub(crate) fn steps(steps: &mut Steps) -> Result<()> {
    let tools = steps.step("tools", tools::install)?;
    steps.step("build tests", || all(&tools, &["--no-run"]))?;
    steps.step("tests", || all(&tools, &[]))?;
    steps.step("real input", || real_input::made_up(&tools))?;
    each_mutant(&tools, steps)
}

/// The mutants alone.
pub(crate) fn mutants() -> Result<()> {
    let tools = tools::install()?;
    Steps::all(|steps| each_mutant(&tools, steps))
}

fn each_mutant(tools: &Tools, steps: &mut Steps) -> Result<()> {
    MUTANTS.iter().try_for_each(|(name, what)| steps.step(&format!("mutant {name}"), || mutant(tools, name, what)))
}

/// Everything in the release profile, so that the demo, the tests and the benches share artefacts. Goes on after a
/// failed test, so that one run shows all of them.
fn all(tools: &Tools, args: &[&str]) -> Result<()> {
    let failed: Vec<String> = GROUPS
        .iter()
        .filter_map(|packages| {
            let mut command = cargo();
            command.args(["test", "--release", "--locked", "--no-fail-fast"]).args(*packages).args(args);
            run(command.env("FLOODPLAIN_TEST_TOOLS", tools.folder())).err()
        })
        .map(|error| error.to_string())
        .collect();
    ensure!(failed.is_empty(), "{}", failed.join("; "));
    Ok(())
}

/// Builds the log with a fault and runs its crash tests, which must fail.
fn mutant(tools: &Tools, name: &str, what: &str) -> Result<()> {
    println!("the crash tests must fail when {what}");
    let crash_tests = || {
        let mut command = cargo();
        command
            .args(["test", "--release", "--locked", "--package", "floodplain-log", "--test", "it"])
            .arg("--target-dir")
            .arg(target().join("mutants"))
            .env("RUSTFLAGS", format!("--cfg floodplain_mutant=\"{name}\""))
            .env("FLOODPLAIN_TEST_TOOLS", tools.folder());
        command
    };
    // A mutant that does not build has not been found.
    run(crash_tests().arg("--no-run"))?;
    let mut command = crash_tests();
    command.arg("crash").stderr(Stdio::null());
    println!("$ {}", show(&command));
    let output = command.output().context("cannot start cargo")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let found: Vec<&str> =
        text.lines().filter_map(|line| line.strip_prefix("test ")?.strip_suffix(" ... FAILED")).collect();
    if output.status.success() || found.is_empty() {
        println!("{text}");
        bail!("no crash test has found the mutant `{name}`, so they cannot be trusted");
    }
    // Not the tests' own words: here a failure is what is wanted.
    found.iter().for_each(|test| println!("mutant `{name}` was found by {test}"));
    Ok(())
}
