//! All tests, and the tests of the tests.

use crate::{
    console, real_input,
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
    steps.step("console", || console::test(&tools))?;
    steps.step("build tests", || all(&tools, &["--no-run"]))?;
    steps.step("tests", || all(&tools, &[]))?;
    steps.step("real input", || real_input::made_up(&tools))?;
    each_mutant(&tools, steps)
}

/// The console's own tests alone.
pub(crate) fn console() -> Result<()> {
    let tools = tools::install()?;
    Steps::all(|steps| steps.step("console", || console::test(&tools)))
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

/// Builds the log, and the disk that loses power, with a fault and runs the crash tests, one of which must say that a
/// message was lost: a test that fails for another reason shows nothing.
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
    let found = found_by(&text);
    if output.status.success() || found.is_empty() {
        println!("{text}");
        bail!("no crash test has found that messages are lost by the mutant `{name}`, so they cannot be trusted");
    }
    // Not the tests' own words: here a failure is what is wanted.
    found.iter().for_each(|test| println!("mutant `{name}` was found by {test}"));
    Ok(())
}

/// The tests that have failed because an acknowledged message was lost, by what the test binary printed: the text of
/// `Violation::Lost` of `floodplain-testkit` in the part of a failed test.
fn found_by(printed: &str) -> Vec<&str> {
    let (mut test, mut found) = (None, Vec::new());
    for line in printed.lines() {
        if let Some(name) = line.strip_prefix("---- ").and_then(|rest| rest.strip_suffix(" stdout ----")) {
            test = Some(name);
        } else if line == "failures:" {
            test = None;
        } else if line.trim_start().starts_with("lost: ") && line.ends_with(" was acknowledged and is not read") {
            found.extend(test.take());
        }
    }
    found
}

#[cfg(test)]
mod found {
    use super::*;

    #[test]
    fn a_mutant_is_found_by_a_lost_message_alone() {
        const PRINTED: &str = r#"
test crash::cuts::one ... FAILED
failures:

---- crash::cuts::one stdout ----
seed 1, the last calls on the disk before this one:

thread 'crash::cuts::one' panicked at crates/floodplain-testkit/src/history.rs:107:9:
seed 1 after 3 cuts: 9 attempts, 5 acknowledged, 2 read, 0 duplicates, 2 violations
  lost: Stamp { client: "s0/1", seq: 3 } was acknowledged and is not read
  lost: Stamp { client: "s0/1", seq: 4 } was acknowledged and is not read

---- crash::states::two stdout ----
thread 'crash::states::two' panicked at crates/floodplain-log/tests/it/crash/world.rs:1:9:
seed 1: stream default.s0 was created
  lost: the other sock

---- crash::full::three stdout ----
  lost: Stamp { client: "s1/0", seq: 0 } was acknowledged and is not read

failures:
    crash::cuts::one
    crash::states::two
    crash::full::three
  lost: Stamp { client: "s1/0", seq: 0 } was acknowledged and is not read
"#;
        assert_eq!(found_by(PRINTED), ["crash::cuts::one", "crash::full::three"]);
        assert_eq!(found_by("test crash::cuts::one ... FAILED\nerror: test failed\n"), [""; 0]);
    }
}
