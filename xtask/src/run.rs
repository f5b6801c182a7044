//! Running programs, and saying how long each step took.

use crate::tools;
use anyhow::{Context as _, Result, bail};
use std::{
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

/// The folder of the workspace.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace").to_owned()
}

/// The cargo that runs us, in the folder of the workspace, as if a person had typed it.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    // Cargo has told us of the package xtask. A build script that asks to run again when such a variable changes, as ring's does,
    // would run again whenever another clone builds, or a person does, and all that is built on it with it: most of DataFusion.
    let of_package = |name: &str| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_");
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(of_package)) {
        command.env_remove(name);
    }
    if tools::is_offline() {
        command.env("CARGO_NET_OFFLINE", "true");
    }
    command
}

/// The target folder of this run.
pub(crate) fn target() -> PathBuf {
    // Cargo takes it from the working folder, which is the workspace for every command here.
    root().join(std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into()))
}

/// The packages, in groups that are built one after the other. A codec that `floodplain-mqtt` is compared with wants
/// features of crates that all of DataFusion is built on; alone it does not make that be compiled a second time.
pub(crate) const GROUPS: [&[&str]; 2] =
    [&["--workspace", "--exclude", "floodplain-mqtt", KAFKA[0], KAFKA[1]], &["--package", "floodplain-mqtt"]];

/// Builds the log on Apache Kafka, too, which the program leaves out unless it is asked for.
pub(crate) const KAFKA: [&str; 2] = ["--features", "floodplain/kafka"];

/// Prints and runs `command`; its output goes where ours goes.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    println!("$ {}", show(command));
    let status = command.status().with_context(|| format!("cannot start {:?}", command.get_program()))?;
    if !status.success() {
        bail!("`{}` ended with {status}", show(command));
    }
    Ok(())
}

/// The command as one would type it, with the variables that were set for it.
pub(crate) fn show(command: &Command) -> String {
    let mut words: Vec<String> = command
        .get_envs()
        .filter_map(|(name, value)| Some(format!("{}='{}'", name.to_string_lossy(), value?.to_string_lossy())))
        .collect();
    let program = Path::new(command.get_program());
    words.push(program.file_name().unwrap_or_default().to_string_lossy().into_owned());
    words.extend(command.get_args().map(|arg| {
        let arg = arg.to_string_lossy();
        if arg.contains(' ') { format!("'{arg}'") } else { arg.into_owned() }
    }));
    words.join(" ")
}

/// The steps of one run and how long each took.
#[derive(Debug, Default)]
pub(crate) struct Steps {
    done: Vec<(String, Duration, bool)>,
}

impl Steps {
    /// Runs `action`, which makes steps, and prints the closing table, whether it fails or not.
    pub(crate) fn all(action: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        let mut steps = Self::default();
        let result = action(&mut steps);
        steps.print();
        result
    }

    /// Runs one step, printing its name before and its duration after it.
    pub(crate) fn step<T>(&mut self, name: &str, action: impl FnOnce() -> Result<T>) -> Result<T> {
        println!("\n==> {name}");
        #[expect(clippy::disallowed_methods, reason = "the duration of a step is what we print")]
        let started = Instant::now();
        let result = action();
        let took = started.elapsed();
        println!("<== {name}: {} after {}", if result.is_ok() { "passed" } else { "FAILED" }, clock(took));
        self.done.push((name.to_owned(), took, result.is_ok()));
        result.with_context(|| format!("step \"{name}\" failed"))
    }

    /// Runs all of these steps, whatever becomes of those before, and fails with the first error.
    pub(crate) fn each(&mut self, steps: &[(&str, &dyn Fn() -> Result<()>)]) -> Result<()> {
        let results: Vec<Result<()>> = steps.iter().map(|(name, action)| self.step(name, action)).collect();
        results.into_iter().collect()
    }

    fn print(&self) {
        println!("\n{:<40} {:>8}  result", "step", "min:s");
        for (name, took, passed) in &self.done {
            println!("{name:<40} {:>8}  {}", clock(*took), if *passed { "passed" } else { "FAILED" });
        }
        let total = self.done.iter().map(|(_, took, _)| *took).sum();
        println!("{:<40} {:>8}", "total", clock(total));
    }
}

fn clock(took: Duration) -> String {
    let seconds = took.as_secs();
    format!("{}:{:02}.{}", seconds / 60, seconds % 60, took.subsec_millis() / 100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_step_holds_up_none_of_the_others() {
        let mut steps = Steps::default();
        let result = steps.each(&[
            ("one", &|| Ok(())),
            ("two", &|| bail!("it needs root")),
            ("three", &|| bail!("it needs a disk")),
            ("four", &|| Ok(())),
        ]);
        assert_eq!(format!("{:#}", result.unwrap_err()), "step \"two\" failed: it needs root");
        let done: Vec<_> = steps.done.iter().map(|(name, _, passed)| (name.as_str(), *passed)).collect();
        assert_eq!(done, [("one", true), ("two", false), ("three", false), ("four", true)]);
    }
}
