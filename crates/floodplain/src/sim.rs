//! A simulated fleet: seeded devices that publish JSON at QoS 1, and now and then misbehave.
//!
//! What a device publishes is a function of the seed, its number and the number of the reading, but for `time`, which is
//! that of the machine; so is the arrival at the server. Each device is a client of its own, so
//! that its identity is its own; a few threads drive all of them.

mod device;
mod fleet;

pub(crate) use fleet::{Counts, Fleet};

use crate::{
    client::now,
    numbers,
    output::{self, Output, OutputArgs, write_table},
};
use anyhow::Result;
use std::{io::Write as _, net::ToSocketAddrs, time::Duration};

/// Arguments of `floodplain sim`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The broker as HOST:PORT
    #[arg(long, default_value = "127.0.0.1:1883", value_name = "ADDRESS")]
    address: String,
    /// Devices: trucks, thermostats, motors and soil sensors in turn
    #[arg(long, default_value_t = 100, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    devices: u32,
    /// Readings per second of all devices together; one per device if left out
    #[arg(long, value_name = "PER_SECOND", value_parser = numbers::rate)]
    rate: Option<f64>,
    /// End after so many seconds; run until stopped if left out
    #[arg(long, value_parser = numbers::seconds)]
    seconds: Option<f64>,
    /// End after so many readings
    #[arg(long, value_name = "COUNT")]
    count: Option<u64>,
    /// What the fleet does follows from this number
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Share of devices with a fault: drop-out, drift, wrong clock or bad payload
    #[arg(long, default_value_t = 0.1, value_name = "SHARE", value_parser = numbers::share)]
    faults: f64,
    /// Threads that drive the devices
    #[arg(long, default_value_t = 2, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=64))]
    threads: u32,
    #[command(flatten)]
    output: OutputArgs,
}

/// Runs the command: live counts to standard error every second, the sum to standard output.
///
/// # Errors
/// A server that cannot be reached at the start; later the fleet connects again by itself.
pub(crate) fn run(args: &Args) -> Result<()> {
    let address = args.address.to_socket_addrs()?.next();
    let address = address.ok_or_else(|| anyhow::anyhow!("{} has no address", args.address))?;
    let running = Fleet {
        address,
        devices: args.devices,
        rate_per_s: args.rate.unwrap_or(f64::from(args.devices)),
        count: args.count,
        seed: args.seed,
        faults: args.faults,
        threads: args.threads,
    }
    .start()?;
    let end = args.seconds.map(|seconds| now() + Duration::from_secs_f64(seconds));
    let mut before = 0;
    let mut next = now() + Duration::from_secs(1);
    while !running.is_finished() && end.is_none_or(|end| now() < end) {
        std::thread::sleep(Duration::from_millis(20));
        if now() >= next {
            next += Duration::from_secs(1);
            let counts = running.counts();
            eprintln!("{}, {} acknowledged in the last second", counts, counts.acked - before);
            before = counts.acked;
        }
    }
    let counts = running.stop()?;
    match args.output.output {
        Output::Json => writeln!(output::stdout(), "{}", counts.json())?,
        Output::Table => {
            let rows: Vec<Vec<String>> =
                counts.table().into_iter().map(|(name, value)| vec![name.to_owned(), value]).collect();
            write_table(&mut output::stdout(), &["measure".to_owned(), "value".to_owned()], &rows)?;
        }
    }
    Ok(())
}
