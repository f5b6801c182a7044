//! The chores of the project: the gate, the tests with what they need, fault campaigns, real input.

mod ci;
mod console;
mod kafka;
mod real_input;
mod run;
mod tests;
mod tidy;
mod tools;

use anyhow::{Context as _, Result, ensure};
use run::cargo;
use std::process::ExitCode;

const HELP: &str = "\
cargo xtask COMMAND

  ci                      the whole gate: check, then test
  check                   fmt, tidy, deny, clippy, doc, fuzz targets
  test                    install what the tests need, then run all of them
  console                 the console's own tests
  mutants                 build faults into the log; its crash tests must find each
  tools                   install what the tests need (nothing, if it is there)
  tidy                    small rules that no lint knows
  faults [ARGS]           power cuts on real file systems (needs root) and long kill loops
  real-input --data DIR   recorded series through mosquitto_pub and paho-mqtt, killed in the middle
  fuzz TARGET [ARGS]      fuzz a codec (needs the nightly toolchain and cargo-fuzz)
  bench [FILTER]          benches of all crates
  kafka up|status|down    three brokers of Apache Kafka on this machine, which stay until `down`

Tools are kept in ${FLOODPLAIN_TEST_TOOLS:-$HOME/.cache/floodplain/tools}.
Set FLOODPLAIN_TEST_OFFLINE=1 to fail rather than download.";

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let command = args.next().unwrap_or_default();
    let rest: Vec<String> = args.collect();
    let result = match command.as_str() {
        "ci" => ci::ci(),
        "check" => ci::check(),
        "test" => tests::test(),
        "console" => tests::console(),
        "mutants" => tests::mutants(),
        "tools" => tools::install().map(drop),
        "tidy" => tidy::tidy(),
        "faults" => faults(&rest),
        "real-input" => real_input::run(&rest),
        "fuzz" => fuzz(&rest),
        "bench" => bench(&rest),
        "kafka" => kafka::run(&rest),
        "help" | "--help" | "-h" => {
            println!("{HELP}");
            Ok(())
        }
        _ => {
            eprintln!("{HELP}");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The campaigns that take too long, or need too many rights, for every run of the tests.
fn faults(args: &[String]) -> Result<()> {
    let tools = tools::install()?;
    run::Steps::all(|steps| {
        steps.step("power cuts", || {
            let mut command = cargo();
            command
                .args(["run", "--release", "--package", "floodplain-testkit", "--bin", "powercut", "--"])
                .args(args)
                .env("FLOODPLAIN_TEST_TOOLS", tools.folder());
            println!("$ {}", run::show(&command));
            let status = command.status().context("cannot start cargo")?;
            // It has said what it needs (root, usually); the rest of the campaign needs less, and runs.
            ensure!(status.success(), "powercut ended with {status}");
            Ok(())
        })?;
        steps.step("kill loops", || {
            // The same tests as in `cargo xtask test`, with ten times the cycles.
            run::run(
                cargo()
                    .args(["test", "--release", "--package", "floodplain", "--test", "blackbox", "kill"])
                    .env("FLOODPLAIN_TEST_TOOLS", tools.folder())
                    .env("FLOODPLAIN_TEST_KILLS", "1000"),
            )
        })
    })
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
