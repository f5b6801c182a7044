//! The chores of the project: the gate, the tests with what they need, fault campaigns, real input.

mod ci;
mod console;
mod faults;
mod kafka;
mod real_input;
mod run;
mod tests;
mod tidy;
mod tools;

use anyhow::{Context as _, Result};
use run::cargo;
use std::process::ExitCode;

/// What a command is given behind its name.
type Action = fn(&[String]) -> Result<()>;

/// Each with its arguments, and what it is for.
const COMMANDS: [(&str, &str, Action); 12] = [
    ("ci", "the whole gate: check, then test", |_| ci::ci()),
    ("check", "fmt, tidy, deny, clippy, doc, fuzz targets", |_| ci::check()),
    ("test", "install what the tests need, then run all of them", |_| tests::test()),
    ("console", "the console's own tests", |_| tests::console()),
    ("mutants", "build faults into the log; its crash tests must find each", |_| tests::mutants()),
    ("tools", "install what the tests need (nothing, if it is there)", |_| tools::install().map(drop)),
    ("tidy", "small rules that no lint knows", |_| tidy::tidy()),
    (
        "faults [ARGS]",
        "power cuts of the log and of the server (needs root), long kill loops; --engine kafka: brokers",
        faults::run,
    ),
    (
        "real-input --data DIR",
        "recorded series through mosquitto_pub and paho-mqtt, killed in the middle",
        real_input::run,
    ),
    ("fuzz TARGET [ARGS]", "fuzz a codec (needs the nightly toolchain and cargo-fuzz)", fuzz),
    ("bench [FILTER]", "benches of all crates", bench),
    (
        "kafka up|status|down",
        "three brokers of Apache Kafka on this machine, which stay until `down`; speed [SECONDS]: what the log costs there",
        kafka::run,
    ),
];

/// What `name` does, without its arguments.
fn command(name: &str) -> Option<Action> {
    let mut found = COMMANDS.iter().filter(|(usage, ..)| usage.split(' ').next() == Some(name));
    found.next().map(|&(.., action)| action)
}

fn help() -> String {
    let mut text = "cargo xtask COMMAND\n\n".to_owned();
    for (usage, what, _) in COMMANDS {
        text.push_str(&format!("  {usage:<24}{what}\n"));
    }
    text + "\nTools are kept in ${FLOODPLAIN_TEST_TOOLS:-$HOME/.cache/floodplain/tools}.\n\
            Set FLOODPLAIN_TEST_OFFLINE=1 to fail rather than download."
}

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let name = args.next().unwrap_or_default();
    if ["help", "--help", "-h"].contains(&name.as_str()) {
        println!("{}", help());
        return ExitCode::SUCCESS;
    }
    let Some(action) = command(&name) else {
        eprintln!("{}", help());
        return ExitCode::from(2);
    };
    match action(&args.collect::<Vec<_>>()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn fuzz(args: &[String]) -> Result<()> {
    let target = args.first().context("name a target: one of the files in fuzz/fuzz_targets, without .rs")?;
    // What is found is kept in the first folder; the second is part of the repository, and only read.
    let (found, seeds) = (format!("fuzz/corpus/{target}"), format!("fuzz/seeds/{target}"));
    std::fs::create_dir_all(run::root().join(&found)).with_context(|| format!("create {found}"))?;
    // Another toolchain must not inherit this one's cargo.
    run::run(
        std::process::Command::new("cargo")
            .env_remove("CARGO")
            .env_remove("RUSTUP_TOOLCHAIN")
            .args(["+nightly", "fuzz", "run", target, &found, &seeds])
            .args(&args[1..])
            .current_dir(run::root()),
    )
    .context("fuzzing needs `rustup toolchain install nightly` and `cargo install cargo-fuzz`")
}

fn bench(args: &[String]) -> Result<()> {
    run::GROUPS.iter().try_for_each(|packages| {
        run::run(cargo().args(["bench", "--locked"]).args(*packages).args(["--bench", "*", "--"]).args(args))
    })
}
