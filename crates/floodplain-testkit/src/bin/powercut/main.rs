//! Cuts the power of real file systems under load, and looks for what was acknowledged.
//!
//! ```text
//! cargo run --release -p floodplain-testkit --bin powercut -- --cuts 50 --fs ext4,xfs [--seed 1]
//! cargo run --release -p floodplain-testkit --bin powercut -- server --program target/release/floodplain --cuts-each 10
//! ```
//!
//! Something writes to a loop-mounted file system: a child process to a log, which says what was acknowledged, and when;
//! or `floodplain serve` to its data folder, with clients that note what they have heard. At a random moment the file
//! system is shut down (as by pulling the plug: nothing that is not synced reaches the image any more), the process is
//! killed, the image is mounted anew, and what is there is compared.
//!
//! A machine without power acknowledges nothing, but a process on a file system that is shutting down
//! may: XFS lets a sync that runs at that moment succeed. So what was acknowledged after the plug
//! was pulled counts as unknown.
//!
//! Exit code 0: nothing was lost. 1: something was. 77: not run, because it needs root, loop
//! devices and the tools `mount`, `umount` and `mkfs.<fs>` (Debian: `xfsprogs`, `e2fsprogs`).

mod image;
mod log;
mod server;

use anyhow::{Context as _, bail};
use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

const NOT_RUN: u8 = 77;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [writer, dir, number] = &args[..]
        && writer == "writer"
    {
        return match log::write_until_it_fails(Path::new(dir), number) {
            Ok(()) => ExitCode::SUCCESS,
            // The parent pulls the plug: an error is how a writer ends.
            Err(_) => ExitCode::FAILURE,
        };
    }
    match campaign(&args) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("powercut: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn campaign(args: &[String]) -> anyhow::Result<ExitCode> {
    let (of_server, args) = match args {
        [first, rest @ ..] if first == "server" => (true, rest),
        args => (false, args),
    };
    let (mut cuts, mut cuts_each, mut file_systems, mut seed) = (50_u64, 10_u64, "ext4,xfs".to_owned(), 1_u64);
    let mut program = None;
    for pair in args.chunks(2) {
        let [flag, value] = pair else { bail!("{:?} needs a value", pair[0]) };
        match (flag.as_str(), of_server) {
            ("--cuts", false) => cuts = value.parse()?,
            ("--cuts-each", true) => cuts_each = value.parse()?,
            ("--program", true) => program = Some(PathBuf::from(value)),
            ("--fs", _) => file_systems.clone_from(value),
            ("--seed", _) => seed = value.parse()?,
            (_, false) => bail!("unknown flag {flag}: use --cuts, --fs and --seed"),
            (_, true) => bail!("unknown flag {flag}: use --program, --cuts-each, --fs and --seed"),
        }
    }
    let file_systems: Vec<&str> = file_systems.split(',').collect();
    if let Err(reason) = image::can_run(&file_systems) {
        println!("powercut: not run: {reason:#}");
        return Ok(ExitCode::from(NOT_RUN));
    }
    if of_server {
        let program = program.context("--program is needed: the command floodplain")?;
        let program = program.canonicalize().with_context(|| format!("no {}", program.display()))?;
        server::campaign(&program, cuts_each, &file_systems, seed)?;
    } else {
        log::campaign(cuts, &file_systems, seed)?;
    }
    Ok(ExitCode::SUCCESS)
}
