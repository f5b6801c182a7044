//! Servers whose log is on three brokers of Apache Kafka: killed, and brokers killed under them; two that share the work.
//!
//! The other suites run there, too, one server for each test: with `FLOODPLAIN_TEST_KAFKA=HOST:PORT,...`, the brokers of
//! `cargo xtask kafka up`.

use crate::{
    client::{Client, PATIENCE},
    kill,
    target::{Server, on_kafka},
    wire::{Connect, Version},
};
use anyhow::{Context, Result, ensure};
use floodplain_testkit::{
    Copies, History, Program,
    kafka::{KafkaCluster, KafkaJars, KafkaOptions},
    mqtt::{
        client::Line,
        session::{Publisher, Subscriber, ended},
    },
};
use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};
use tempfile::TempDir;

const EXPIRY_S: u32 = 3_600;

/// Three brokers, and a folder for the servers.
struct Kafka {
    // Dropped in this order.
    cluster: KafkaCluster,
    folder: TempDir,
    _turn: MutexGuard<'static, ()>,
}

impl Kafka {
    /// For one test at a time: brokers want most of a small machine.
    fn start() -> Result<Self> {
        static TURN: Mutex<()> = Mutex::new(());
        // A test before that has failed has had brokers of its own.
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let folder = tempfile::tempdir()?;
        let options = KafkaOptions { start_timeout: Duration::from_secs(400), ..KafkaOptions::default() };
        let cluster = KafkaCluster::start(&KafkaJars::find()?, 3, &folder.path().join("brokers"), options)?;
        Ok(Self { cluster, folder, _turn: turn })
    }

    /// A server with a part of the folder for itself. All have one log.
    fn program(&self, name: &str) -> Result<Program> {
        let folder = self.folder.path().join(name);
        std::fs::create_dir_all(&folder)?;
        let mut program = on_kafka(&folder, "test", &self.cluster.bootstrap());
        program.variables.push(("FLOODPLAIN_KAFKA__SESSION_TIMEOUT", "6s".to_owned()));
        Ok(program)
    }
}

/// The same without tables, which another one keeps.
fn without_tables(program: Program) -> Program {
    let mut variables = program.variables;
    variables.push(("FLOODPLAIN_HISTORY__ENABLED", "off".to_owned()));
    Program { variables, ..program }
}

fn slots(server: &Server) -> Result<u64> {
    let metrics = server.metrics()?;
    let line = metrics.lines().find_map(|line| line.strip_prefix("floodplain_log_kafka_slots_owned "));
    Ok(line.context("no metric of slots")?.parse()?)
}

/// Payloads of the rows of topics below `prefix`, in the order of each topic: here the log may have a message of QoS 2 twice,
/// under one dedup id, and all that is made of it has it once.
fn rows(server: &Server, prefix: &str) -> Result<Vec<Vec<u8>>> {
    let query = format!("SELECT payload FROM messages WHERE topic LIKE '{prefix}/%' ORDER BY topic, _seq['offset']");
    let payload = |row: &serde_json::Value| row["payload"].as_str().map(|text| text.as_bytes().to_vec());
    server.sql(&query)?.iter().map(|row| payload(row).with_context(|| format!("no payload: {row}"))).collect()
}

fn wait(what: &str, condition: impl Fn() -> Result<bool>) -> Result<Duration> {
    let since = Instant::now();
    while !condition()? {
        ensure!(since.elapsed() < PATIENCE * 6, "{what}: not within {:?}", PATIENCE * 6);
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(since.elapsed())
}

#[test]
fn the_guide_lists_all_that_the_log_counts() {
    let kafka = Kafka::start().unwrap();
    crate::counted::lists_what_is_counted(&Server::of(&kafka.program("server").unwrap()).unwrap(), true);
}

#[test]
fn a_server_that_is_killed_again_and_again_loses_nothing() {
    let kafka = Kafka::start().unwrap();
    let seed = kill::seed();
    if let Err(e) = kill::kill_loop(3, seed, &kafka.program("server").unwrap(), |server| rows(server, "kill")) {
        panic!("FLOODPLAIN_TEST_SEED={seed}: {e:#}");
    }
}

#[test]
fn two_servers_share_the_work_and_one_goes_on_alone() {
    if let Err(e) = two_servers() {
        panic!("{e:#}");
    }
}

fn two_servers() -> Result<()> {
    let kafka = Kafka::start()?;
    let programs = [kafka.program("keeper")?, without_tables(kafka.program("other")?), kafka.program("second-keeper")?];
    let keeper = Server::of(&programs[0])?;
    let other = Server::of(&programs[1])?;
    wait("both have a part of the work", || {
        let (one, two) = (slots(&keeper)?, slots(&other)?);
        Ok(one > 0 && two > 0 && one + two == 4)
    })?;

    // Clients of one server have nothing to do with those of the other; all are folded by both.
    let mut clients = Vec::new();
    for (server, name) in [(&keeper, "one"), (&other, "two")] {
        let session = Connect::lasting(Version::V5, name, EXPIRY_S);
        let (mut client, is_present) = Client::resume(server.mqtt, &session)?;
        ensure!(!is_present);
        client.subscribe(&format!("devices/{name}/+"), 1)?;
        client.say(&format!("devices/{name}/engine"), r#"{"rpm": 1}"#, 1)?;
        client.hears(&format!("devices/{name}/engine"), r#"{"rpm": 1}"#)?;
        clients.push((client, session));
    }
    // What comes from elsewhere arrives as well, at each QoS.
    let mut guest = Client::clean(other.mqtt, Version::V311, "guest")?;
    for qos in [0, 1, 2] {
        let text = format!("{{\"qos\": {qos}}}");
        guest.say("devices/one/qos", &text, qos)?;
        clients[0].0.hears("devices/one/qos", &text)?;
    }
    keeper.heard("SELECT count(*) AS n FROM engine", 2)?;
    keeper.heard("SELECT count(*) AS n FROM qos", 3)?;
    for (method, path, body, says) in [
        ("POST", "/api/v1/sql", r#"{"query": "SELECT * FROM engine"}"#, "this server keeps no tables of payloads"),
        ("GET", "/api/v1/tables", "", "kept_elsewhere"),
    ] {
        let Err(refused) = other.ask(method, path, body) else { anyhow::bail!("{path} is answered") };
        ensure!(refused.to_string().contains(says), "{refused}");
    }
    // A binding that is made at the one is followed by the other.
    let binding = r#"{"filter": "yard/+/gate", "device_level": 2, "table": {"name": "gates"}}"#;
    let made = keeper.ask("PUT", "/api/v1/bindings/yard", binding)?;
    ensure!(made.contains("yard/+/gate"), "{made}");
    guest.say("yard/g1/gate", r#"{"open": true}"#, 1)?;
    keeper.heard("SELECT count(*) AS n FROM gates", 1)?;

    // There is one keeper.
    let Err(error) = Server::of(&programs[2]) else { anyhow::bail!("two servers keep the tables") };
    ensure!(format!("{error:#}").contains("history.enabled=off"), "{error:#}");

    // Files of tables are where they were written.
    let keeper = {
        keeper.terminate()?;
        let Err(error) = Server::of(&programs[2]) else { anyhow::bail!("it has none of the files") };
        ensure!(format!("{error:#}").contains("none of them is in"), "{error:#}");
        Server::of(&programs[0])?
    };
    wait("both have a part of the work again", || Ok(slots(&keeper)? > 0 && slots(&keeper)? + slots(&other)? == 4))?;
    keeper.heard("SELECT count(*) AS n FROM engine", 2)?;

    // One dies: its clients go to the other one, with their sessions, and its part of the work goes there, too.
    let since = Instant::now();
    keeper.kill()?;
    let mut publisher = Client::clean(other.mqtt, Version::V5, "publisher")?;
    publisher.say("devices/one/engine", r#"{"rpm": 2}"#, 1)?;
    let (mut client, is_present) = Client::resume(other.mqtt, &clients[0].1)?;
    ensure!(is_present, "its session is not there");
    wait("all of the work is done by the other", || Ok(slots(&other)? == 4))?;
    let moved = since.elapsed();
    client.hears("devices/one/engine", r#"{"rpm": 2}"#)?;
    println!("slots have moved {moved:?} after the kill, what waited was there after {:?}", since.elapsed());

    // It comes back, to its tables and a part of the work.
    let keeper = Server::of(&programs[0])?;
    wait("both have a part of the work again", || Ok(slots(&keeper)? > 0 && slots(&keeper)? + slots(&other)? == 4))?;
    keeper.heard("SELECT count(*) AS n FROM engine", 3)?;
    let (mut client, is_present) = Client::resume(keeper.mqtt, &clients[0].1)?;
    ensure!(is_present);
    guest.say("devices/one/engine", r#"{"rpm": 3}"#, 2)?;
    client.hears("devices/one/engine", r#"{"rpm": 3}"#)?;
    Ok(())
}

#[test]
fn a_broker_that_is_killed_takes_nothing_with_it() {
    if let Err(e) = killed_broker() {
        panic!("{e:#}");
    }
}

fn killed_broker() -> Result<()> {
    let kafka = Kafka::start()?;
    let server = Server::of(&kafka.program("server")?)?;
    let histories = [History::new(), History::new()];
    let history = |qos: u8| &histories[usize::from(qos) - 1];
    let mut publishers: Vec<Publisher> = [1, 2].map(|qos| Publisher::new("broker", "p", Version::V5, qos)).into();
    let mut live = Subscriber::new("live", Version::V5, 2);
    let mut client = live.connect(server.mqtt)?;
    client.subscribe("broker/#", 2)?;
    let acked = || histories.iter().map(History::acked).sum::<u64>();
    let (line, is_over) = (Line::from(server.mqtt), AtomicBool::new(false));
    std::thread::scope(|scope| -> Result<()> {
        let (address, line, is_over, live) = (server.mqtt, &line, &is_over, &mut live);
        let load: Vec<_> = publishers
            .iter_mut()
            .map(|publisher| {
                scope.spawn(move || {
                    // What a broker has not answered may end a connection.
                    while !line.is_cut() {
                        ended(publisher.run(line.clone(), history(publisher.qos), false))?;
                    }
                    // What is open.
                    publisher.run(address, history(publisher.qos), true)
                })
            })
            .collect();
        let reader = scope.spawn(move || {
            let deadline = Instant::now() + PATIENCE * 12;
            let is_all = |live: &Subscriber| {
                let is_all = is_over.load(Ordering::Acquire) && live.got.len() as u64 >= acked();
                is_all || Instant::now() > deadline
            };
            while !is_all(live) {
                ended(live.run(&mut client, is_all))?;
                if !is_all(live) {
                    client = live.connect(address)?;
                }
            }
            anyhow::Ok(())
        });
        let hurt = || -> Result<()> {
            for broker in kafka.cluster.nodes() {
                let before = acked();
                wait("messages are acknowledged", || Ok(acked() > before + 20))?;
                kafka.cluster.kill(broker)?;
                let before = acked();
                let stall = wait("and go on without a broker", || Ok(acked() > before + 20))?;
                println!("broker {broker:?} was killed: 20 more messages were acknowledged after {stall:?}");
                kafka.cluster.restart(broker)?;
                kafka.cluster.wait_until_ready()?;
            }
            Ok(())
        };
        let hurt = hurt();
        line.cut();
        let load = load.into_iter().try_for_each(|thread| thread.join().expect("clients do not panic"));
        is_over.store(true, Ordering::Release);
        load?;
        reader.join().expect("the subscriber does not panic")?;
        hurt
    })?;
    let rows = rows(&server, "broker")?;
    for (reader, payloads) in [("rows", &rows), ("subscriber", &live.got)] {
        for qos in [1, 2] {
            let report = history(qos).check(kill::of_qos(payloads, qos), Copies::PerAttempt);
            println!("{reader}, QoS {qos}: {report}");
            ensure!(report.violations.is_empty() && report.acked > 20, "{reader}, QoS {qos}: {report}");
        }
    }
    Ok(())
}
