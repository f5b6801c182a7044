//! The whole gate, cheapest step first.

use crate::{
    run::{GROUPS, KAFKA, Steps, cargo, run, target},
    tests, tidy, tools,
};
use anyhow::{Context as _, Result};
use std::process::{Command, Stdio};

pub(crate) fn ci() -> Result<()> {
    Steps::all(|steps| {
        check_steps(steps)?;
        tests::steps(steps)
    })?;
    println!("\nall green");
    Ok(())
}

/// What can be said of the code without running it.
pub(crate) fn check() -> Result<()> {
    Steps::all(check_steps)
}

fn check_steps(steps: &mut Steps) -> Result<()> {
    steps.step("toolchain", components)?;
    steps.step("fmt", || run(cargo().args(["fmt", "--all", "--check"])))?;
    steps.step("tidy", tidy::tidy)?;
    steps.step("deny", || {
        let deny = tools::cargo_deny()?;
        // Advisories need a database from the network: a separate, optional step.
        run(Command::new(deny)
            .args(["--all-features", "check", "bans", "licenses", "sources"])
            .current_dir(crate::run::root()))
    })?;
    steps.step("clippy", || {
        // The server alone is without Kafka, as whoever builds the program has it.
        GROUPS.iter().chain([&["--package", "floodplain-server"][..]].iter()).try_for_each(|packages| {
            let mut command = cargo();
            command.arg("clippy").args(*packages).args(["--all-targets", "--locked", "--", "--deny", "warnings"]);
            run(&mut command)
        })
    })?;
    steps.step("doc", || {
        run(cargo()
            .args(["doc", "--workspace", "--no-deps", "--locked", "--document-private-items"])
            .args(KAFKA)
            .env("RUSTDOCFLAGS", "--deny warnings --allow rustdoc::private_intra_doc_links"))
    })?;
    steps.step("fuzz targets", || {
        run(cargo().args(["fmt", "--manifest-path", "fuzz/Cargo.toml", "--check"]))?;
        // Compiled, not linked: libFuzzer itself is of no use here, and would have to be built.
        run(cargo()
            .args(["clippy", "--locked", "--manifest-path", "fuzz/Cargo.toml", "--", "--deny", "warnings"])
            .env("CARGO_TARGET_DIR", target())
            .env("CUSTOM_LIBFUZZER_PATH", "not-linked/libfuzzer.a"))
    })
}

/// rustfmt and clippy, which a minimal toolchain lacks.
fn components() -> Result<()> {
    for (program, component) in [("fmt", "rustfmt"), ("clippy", "clippy")] {
        let present = cargo()
            .args([program, "--version"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success());
        if !present {
            tools::may_download(component)?;
            run(Command::new("rustup").args(["component", "add", component]))
                .with_context(|| format!("the gate needs {component}; install it for this toolchain"))?;
        }
    }
    run(Command::new("rustc").arg("--version"))
}
