//! What the suites run against: a list of addresses, or a server of our own per test.

use anyhow::{Context, Result, bail, ensure};
use floodplain_testkit::Program;
use serde_json::Value;
use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

/// One broker under test, with names that no other test uses.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) mqtt: SocketAddr,
    /// Prefix of all topics and client identifiers of this test on this broker.
    pub(crate) prefix: String,
    _server: Option<Server>,
}

impl Target {
    /// A topic or filter of this test.
    pub(crate) fn topic(&self, rest: &str) -> String {
        format!("{}/{rest}", self.prefix)
    }

    /// A client identifier of this test.
    pub(crate) fn id(&self, rest: &str) -> String {
        format!("{}-{rest}", self.prefix)
    }
}

/// Runs `test` on every address of `FLOODPLAIN_TEST_MQTT` (comma separated), or on a fresh
/// server of our own if that is not set.
pub(crate) fn each(test: impl Fn(&Target) -> Result<()>) {
    each_of(std::env::var("FLOODPLAIN_TEST_MQTT").ok().as_deref(), test);
}

fn each_of(addresses: Option<&str>, test: impl Fn(&Target) -> Result<()>) {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let prefix = || format!("t{}x{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let run = |target: &Target| {
        if let Err(e) = test(target) {
            panic!("on {}: {e:#}", target.mqtt);
        }
    };
    match addresses {
        Some(list) => {
            for address in list.split(',') {
                let mqtt = address.trim().parse().unwrap_or_else(|e| panic!("FLOODPLAIN_TEST_MQTT: {address:?}: {e}"));
                run(&Target { mqtt, prefix: prefix(), _server: None });
            }
        }
        None => {
            let server = Server::fresh().expect("start our own server");
            run(&Target { mqtt: server.mqtt, prefix: prefix(), _server: Some(server) });
        }
    }
}

#[test]
fn a_list_of_addresses_is_tried_one_by_one() {
    let servers = [Server::fresh().unwrap(), Server::fresh().unwrap()];
    let list = servers.each_ref().map(|server| server.mqtt.to_string()).join(", ");
    let tried = std::cell::RefCell::new(Vec::new());
    each_of(Some(&list), |target| {
        tried.borrow_mut().push(target.mqtt);
        crate::wire::BOTH.iter().try_for_each(|version| crate::publish::delivered_qos(target, *version))
    });
    assert_eq!(tried.into_inner(), servers.each_ref().map(|server| server.mqtt));
}

/// Like [`each`], with both protocol versions.
pub(crate) fn each_version(test: impl Fn(&Target, crate::wire::Version) -> Result<()>) {
    for version in crate::wire::BOTH {
        each(|target| test(target, version).with_context(|| format!("{version:?}")));
    }
}

/// Our own server of this build; killed when dropped.
#[derive(Debug)]
pub(crate) struct Server {
    process: floodplain_testkit::Server,
    /// Present if the data folder belongs to this server alone.
    _folder: Option<tempfile::TempDir>,
}

impl std::ops::Deref for Server {
    type Target = floodplain_testkit::Server;

    fn deref(&self) -> &Self::Target {
        &self.process
    }
}

impl Server {
    /// A server on free ports with an empty data folder.
    pub(crate) fn fresh() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let process = program(folder.path()).start()?;
        Ok(Self { process, _folder: Some(folder) })
    }

    /// Starts the binary of this build on `folder` and waits until it accepts traffic.
    pub(crate) fn start(folder: &Path) -> Result<Self> {
        Self::of(&program(folder))
    }

    /// Starts a program and waits until it accepts traffic.
    pub(crate) fn of(program: &Program) -> Result<Self> {
        Ok(Self { process: program.start()?, _folder: None })
    }

    /// Runs SQL over HTTP and returns the rows as JSON objects.
    pub(crate) fn sql(&self, query: &str) -> Result<Vec<Value>> {
        let body = serde_json::json!({ "query": query }).to_string();
        let answer = self.ask("POST", "/api/v1/sql", &body)?;
        let mut value: Value = serde_json::from_str(&answer).with_context(|| format!("answer to {query}: {answer}"))?;
        ensure!(value.get("error").is_none(), "{query}: {}", value["error"]);
        match value["rows"].take() {
            Value::Array(rows) => Ok(rows),
            _ => bail!("no rows in the answer to {query}: {answer}"),
        }
    }

    /// Waits until the `n` of a query is this one.
    pub(crate) fn heard(&self, query: &str, n: u64) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(30);
        while self.sql(query)?[0]["n"] != n {
            ensure!(Instant::now() < deadline, "{query} did not become {n} within 30 s");
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// kill -9, and waits until the process is gone.
    pub(crate) fn kill(self) -> Result<()> {
        self.process.kill()
    }

    /// SIGTERM, and waits until the process has ended with success.
    pub(crate) fn terminate(self) -> Result<()> {
        self.process.terminate()
    }
}

/// With its log on the brokers of `FLOODPLAIN_TEST_KAFKA` (`HOST:PORT,...`), if that is set and the build can do it: in topics
/// of its own, which go by the name of its folder.
pub(crate) fn program(folder: &Path) -> Program {
    let Ok(brokers) = std::env::var("FLOODPLAIN_TEST_KAFKA") else { return embedded(folder) };
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    let name: String = name.chars().filter(char::is_ascii_alphanumeric).collect();
    on_kafka(folder, &name, &brokers)
}

fn embedded(folder: &Path) -> Program {
    Program::new(Path::new(env!("CARGO_BIN_EXE_floodplain")), folder)
}

/// With its log in topics of these brokers that begin with the name of the log.
pub(crate) fn on_kafka(folder: &Path, log: &str, brokers: &str) -> Program {
    let variables = vec![
        ("FLOODPLAIN_LOG__ENGINE", "kafka".to_owned()),
        ("FLOODPLAIN_KAFKA__BROKERS", brokers.to_owned()),
        ("FLOODPLAIN_KAFKA__TOPIC_PREFIX", format!("{log}-")),
        // Many servers, one after the other, share small brokers.
        ("FLOODPLAIN_MQTT__PARTITIONS", "4".to_owned()),
        ("FLOODPLAIN_KAFKA__SLOTS", "4".to_owned()),
    ];
    Program { variables, ..embedded(folder) }
}

/// A tool that `cargo xtask tools` installs or checks.
pub(crate) fn tool(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
        .unwrap_or_else(|| panic!("{name} is missing: run cargo xtask tools"))
}
