//! Hurts a cluster of three brokers, the owners of a fold and its writers at random, and looks for what was acknowledged.
//!
//! ```text
//! cargo run --release -p floodplain-log-kafka --features kafka --example faults -- --faults 200 [--seed 1] [--only kill]
//! ```
//!
//! Devices write records of class `all` with dedup ids, and repeat in order what they have not heard of. Two processes
//! share the slots of a fold that says each record once more, in transactions. One fault after the other is drawn: a
//! broker is killed, frozen, cut off or muted in one of its roles, two of three are gone, all are killed, an owner is
//! killed or frozen, the writers' process dies. In the end all is read: what was acknowledged is there, in the order of
//! its device, and the outputs are those of a replay, each once.
//!
//! Brokers count as dead after 6 s, owners after 10 s, as in production. The seed decides which faults there are and how
//! long each lasts; what runs when it strikes is not repeated. `--only` takes those whose names have this text.
//!
//! Exit code 0: nothing was lost, doubled in effect or reordered. 1: something was; data and logs are kept. 2: misuse.
#![allow(clippy::disallowed_methods, reason = "outages are measured by the clock on the wall")]

mod campaign;
mod devices;
mod hurt;
mod owner;
mod table;

use anyhow::{Context as _, Result, bail};
use std::process::ExitCode;

const HELP: &str = "faults [--faults 200] [--seed N] [--only TEXT]";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [verb, rest @ ..] = &args[..]
        && verb == owner::VERB
    {
        return owner::run(rest).map_or_else(failed, |()| ExitCode::SUCCESS);
    }
    let asked = match flags(&args) {
        Ok(asked) => asked,
        Err(error) => {
            eprintln!("faults: {error:#}\n\n{HELP}");
            return ExitCode::from(2);
        }
    };
    match campaign::run(&asked) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => failed(error),
    }
}

#[expect(clippy::needless_pass_by_value, reason = "it ends here")]
fn failed(error: anyhow::Error) -> ExitCode {
    eprintln!("faults: {error:#}");
    ExitCode::FAILURE
}

/// What a campaign is asked to do.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) faults: u64,
    pub(crate) seed: u64,
    /// Part of the names of the faults to draw.
    pub(crate) only: String,
}

fn flags(args: &[String]) -> Result<Asked> {
    let mut asked = Asked { faults: 200, seed: rand::random(), only: String::new() };
    for pair in args.chunks(2) {
        let [flag, value] = pair else { bail!("{:?} needs a value", pair[0]) };
        let number = || value.parse().with_context(|| format!("{flag} {value}"));
        match flag.as_str() {
            "--faults" => asked.faults = number()?,
            "--seed" => asked.seed = number()?,
            "--only" => asked.only.clone_from(value),
            _ => bail!("unknown flag {flag}"),
        }
    }
    if hurt::Fault::names().all(|name| !name.contains(&asked.only)) {
        bail!("no fault is called so: {}", asked.only);
    }
    Ok(asked)
}
