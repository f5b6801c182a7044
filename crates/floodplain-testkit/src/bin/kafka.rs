//! A cluster of Apache Kafka on this machine, as `cargo xtask kafka` offers it.
//!
//! `up` and `down` start and stop brokers that outlive this process; `status` says how they are; `run` starts some that
//! live as long as this process, which ends with its input.

use anyhow::{Context as _, Result, bail};
use floodplain_testkit::kafka::{KafkaCluster, KafkaJars, KafkaOptions, NodeId};
use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

const HELP: &str = "\
kafka up|status|down|run [--brokers N] [--dir DIR] [--output text|json]

  up      start brokers that stay, or those of them that do not run
  status  which brokers run, and which node leads the controllers
  down    stop all brokers in order; their data stay
  run     start brokers that end with this command, which ends with its input

Three brokers, with their data, logs and pids in ${FLOODPLAIN_TEST_TOOLS:-$HOME/.cache/floodplain/tools}/kafka-cluster.";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let done = match Command::parse(&args) {
        Ok(command) => command.run(),
        Err(error) => {
            eprintln!("kafka: {error:#}\n\n{HELP}");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("kafka: {error:#}");
            ExitCode::FAILURE
        }
    }
}

struct Command {
    verb: Verb,
    brokers: u32,
    dir: Option<PathBuf>,
    json: bool,
}

enum Verb {
    Up,
    Status,
    Down,
    Run,
    Help,
}

/// How a broker is.
struct Broker {
    id: NodeId,
    pid: Option<u32>,
    /// Whether the controller has heard of it lately.
    is_live: bool,
}

impl Command {
    fn parse(args: &[String]) -> Result<Self> {
        let (verb, flags) = args.split_first().context("say what to do")?;
        let verb = match verb.as_str() {
            "up" => Verb::Up,
            "status" => Verb::Status,
            "down" => Verb::Down,
            "run" => Verb::Run,
            "help" | "--help" | "-h" => Verb::Help,
            other => bail!("unknown command {other}"),
        };
        let mut command = Self { verb, brokers: 3, dir: None, json: false };
        for pair in flags.chunks(2) {
            match pair {
                [flag, number] if flag == "--brokers" => {
                    command.brokers = number.parse().with_context(|| format!("{flag} {number}"))?;
                }
                [flag, dir] if flag == "--dir" => command.dir = Some(dir.into()),
                [flag, output] if flag == "--output" && ["text", "json"].contains(&output.as_str()) => {
                    command.json = output == "json";
                }
                _ => bail!("cannot understand {}", pair.join(" ")),
            }
        }
        Ok(command)
    }

    fn run(&self) -> Result<()> {
        if let Verb::Help = self.verb {
            println!("{HELP}");
            return Ok(());
        }
        let jars = KafkaJars::find()?;
        let dir = self.dir.clone().unwrap_or_else(|| jars.folder().with_file_name("kafka-cluster"));
        match self.verb {
            Verb::Up => {
                // For people who may work and measure with it for days: with the compiler that makes code fast.
                let options = KafkaOptions {
                    quick_compiler: false,
                    // Topics of a hundred servers want half of it.
                    heap_mib: 1024,
                    outlives_us: true,
                    ..KafkaOptions::recommended()
                };
                self.status(&KafkaCluster::start(&jars, self.brokers, &dir, options)?, &dir);
            }
            Verb::Status => self.status(&KafkaCluster::attach(&jars, &dir)?, &dir),
            Verb::Down => {
                let cluster = KafkaCluster::attach(&jars, &dir)?;
                cluster.stop()?;
                self.status(&cluster, &dir);
            }
            Verb::Run => {
                let cluster = KafkaCluster::start(&jars, self.brokers, &dir, KafkaOptions::default())?;
                self.status(&cluster, &dir);
                std::io::copy(&mut std::io::stdin(), &mut std::io::sink()).context("read the input")?;
            }
            Verb::Help => {}
        }
        Ok(())
    }

    fn status(&self, cluster: &KafkaCluster, dir: &Path) {
        // Nobody answers where nobody runs, or without a majority: then none lives, and none leads.
        let live = cluster.live_brokers().unwrap_or_default();
        let controller = cluster.controller().ok();
        let brokers: Vec<Broker> = cluster
            .nodes()
            .map(|id| Broker { id, pid: cluster.pid(id).ok().flatten(), is_live: live.contains(&id) })
            .collect();
        let bootstrap = cluster.bootstrap();
        if self.json {
            let brokers: Vec<serde_json::Value> = brokers
                .iter()
                .map(|Broker { id, pid, is_live }| serde_json::json!({ "id": id.0, "pid": pid, "live": is_live }))
                .collect();
            let controller = controller.map(|id| id.0);
            let dir = dir.to_string_lossy();
            let all = serde_json::json!({
                "bootstrap": bootstrap, "controller": controller, "brokers": brokers, "dir": dir
            });
            println!("{all}");
            return;
        }
        if brokers.is_empty() {
            println!("no cluster in {}; `up` makes one", dir.display());
            return;
        }
        for Broker { id, pid, is_live } in &brokers {
            let how = match (pid, is_live) {
                (None, _) => "does not run".to_owned(),
                (Some(pid), true) => format!("lives, pid {pid}"),
                (Some(pid), false) => format!("runs, pid {pid}, but the controller does not hear it"),
            };
            let leads = if controller == Some(*id) { ", leads the controllers" } else { "" };
            println!("broker {id} {how}{leads}");
        }
        println!("data and logs: {}", dir.display());
        println!("bootstrap: {bootstrap}");
    }
}
