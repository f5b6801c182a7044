//! Our server and a foreign subscriber, as processes.

use super::now;
use crate::run;
use anyhow::{Context as _, Result, bail, ensure};
use std::{
    fs,
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
    time::Duration,
};

/// The client identifier of the subscriber.
const SUBSCRIBER: &str = "real-input-subscriber";

/// The release binary of this workspace, whatever the shell says of its configuration.
fn floodplain() -> Command {
    let mut command = Command::new(run::target().join("release/floodplain"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("FLOODPLAIN_") {
            command.env_remove(name);
        }
    }
    command
}

/// Our server on one data folder, always on the same addresses.
#[derive(Debug)]
pub(super) struct Broker {
    folder: PathBuf,
    addresses: [String; 3],
    child: Child,
}

impl Broker {
    /// Starts it on free ports.
    pub(super) fn start(folder: &Path) -> Result<Self> {
        let any = ["127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"].map(str::to_owned);
        let (child, addresses) = spawn(folder, &any)?;
        Ok(Self { folder: folder.to_owned(), addresses, child })
    }

    pub(super) fn mqtt(&self) -> SocketAddr {
        self.addresses[0].parse().expect("the server wrote an address")
    }

    /// kill -9.
    pub(super) fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Starts it again where it was.
    pub(super) fn restart(&mut self) -> Result<()> {
        (self.child, _) = spawn(&self.folder, &self.addresses)?;
        Ok(())
    }

    /// SIGTERM; it must end by itself, with success.
    pub(super) fn stop(&mut self) -> Result<()> {
        run::run(Command::new("kill").arg("-TERM").arg(self.child.id().to_string()))?;
        let deadline = now() + Duration::from_secs(30);
        loop {
            if let Some(status) = self.child.try_wait()? {
                ensure!(status.success(), "the server ended with {status}");
                return Ok(());
            }
            ensure!(now() < deadline, "the server did not stop within 30 s");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Runs one of our commands that ask the server.
    pub(super) fn floodplain(&self, args: &[&str]) -> Result<()> {
        let url = format!("http://{}", self.addresses[1]);
        let output = floodplain().args(args).args(["--url", &url]).output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "`floodplain {}` ended with {}: {said}", args.join(" "), output.status);
        Ok(())
    }

    /// What `psql` prints of a query: CSV with a header.
    pub(super) fn psql(&self, query: &str) -> Result<String> {
        let (host, port) = self.addresses[2].rsplit_once(':').context("an address has a port")?;
        let output = Command::new("psql")
            .args(["--no-psqlrc", "--csv", "--host", host, "--port", port, "--username", "anna", "--command", query])
            .arg("floodplain")
            .env("PGTZ", "UTC")
            .output()
            .context("start psql")?;
        ensure!(output.status.success(), "psql ended with {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?)
    }

    /// All records of the test as SQL has them, in the order of the log.
    pub(super) fn rows(&self) -> Result<Vec<LogRow>> {
        let query = "SELECT topic, json_get_int(payload, 'n') AS n, json_get_str(payload, 'timestamp') AS timestamp, \
                     json_get_float(payload, 'value') AS value, encode(payload, 'hex') AS hex FROM records \
                     WHERE stream = 'telemetry' AND topic_matches(topic, 'traffic/#') \
                     ORDER BY \"partition\", generation, \"offset\"";
        let output = floodplain()
            .args(["sql", "--output", "csv", "--url", &format!("http://{}", self.addresses[1]), query])
            .stderr(Stdio::inherit())
            .output()?;
        ensure!(output.status.success(), "`floodplain sql` ended with {}", output.status);
        let text = String::from_utf8(output.stdout)?;
        text.lines().skip(1).map(LogRow::parse).collect()
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        // Already gone after `kill` and `stop`.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn spawn(folder: &Path, addresses: &[String; 3]) -> Result<(Child, [String; 3])> {
    let ready = folder.join("ready.json");
    if ready.exists() {
        fs::remove_file(&ready)?;
    }
    let log = fs::OpenOptions::new().create(true).append(true).open(folder.join("server.log"))?;
    let mut child = floodplain()
        .args(["serve", "--ready-file"])
        .arg(&ready)
        .env("FLOODPLAIN_DATA_DIR", folder.join("data"))
        .env("FLOODPLAIN_MQTT__ADDRESS", &addresses[0])
        .env("FLOODPLAIN_HTTP__ADDRESS", &addresses[1])
        .env("FLOODPLAIN_POSTGRES__ADDRESS", &addresses[2])
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("start the server")?;
    let deadline = now() + Duration::from_secs(60);
    loop {
        let text = fs::read_to_string(&ready).unwrap_or_default();
        if text.trim_end().ends_with('}') {
            let field = |name: &str| {
                let rest = text.split_once(&format!("\"{name}\"")).map(|(_, rest)| rest);
                let value = rest.and_then(|rest| rest.split('"').nth(1)).map(str::to_owned);
                value.with_context(|| format!("no {name} in {text}"))
            };
            return Ok((child, [field("mqtt")?, field("http")?, field("postgres")?]));
        }
        if let Some(status) = child.try_wait()? {
            bail!("the server ended with {status}");
        }
        if now() > deadline {
            child.kill()?;
            bail!("the server was not ready within 60 s");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// One record, as SQL gives its typed values.
#[derive(Debug)]
pub(super) struct LogRow {
    pub(super) topic: String,
    pub(super) n: usize,
    pub(super) timestamp: String,
    pub(super) value: f64,
    pub(super) payload: Vec<u8>,
}

impl LogRow {
    /// No field needs quotes.
    fn parse(line: &str) -> Result<Self> {
        let fields: Vec<&str> = line.split(',').collect();
        let [topic, n, timestamp, value, hex] = fields[..] else { bail!("row {line:?}") };
        let row = || format!("row {line:?}");
        let payload: Option<Vec<u8>> =
            (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(hex.get(at..at + 2)?, 16).ok()).collect();
        Ok(Self {
            topic: topic.to_owned(),
            n: n.parse().with_context(row)?,
            timestamp: timestamp.to_owned(),
            value: value.parse().with_context(row)?,
            payload: payload.with_context(row)?,
        })
    }
}

/// One delivery.
#[derive(Debug)]
pub(super) struct Delivery {
    pub(super) topic: String,
    pub(super) payload: String,
    /// The connection that it came on, from 1 on. Each ends with a life of the server.
    pub(super) connection: usize,
}

/// `mosquitto_sub` with a session that lasts; it connects again by itself.
#[derive(Debug)]
pub(super) struct Subscriber {
    child: Child,
    /// Shared with the thread that reads its output.
    received: Arc<Mutex<Vec<Delivery>>>,
    reader: Option<JoinHandle<Result<()>>>,
}

impl Subscriber {
    /// Subscribes first, so that nothing is missed, then listens.
    pub(super) fn start(address: SocketAddr, folder: &Path) -> Result<Self> {
        let command = || {
            let mut command = Command::new("mosquitto_sub");
            command.args(["-h", &address.ip().to_string(), "-p", &address.port().to_string()]);
            command.args(["-i", SUBSCRIBER, "-c", "-q", "1", "-v", "-t", "traffic/#"]);
            command.stdin(Stdio::null());
            command
        };
        run::run(command().arg("-E"))?;
        let log = fs::File::create(folder.join("mosquitto_sub.log"))?;
        // It also says when it connects: in one stream with the messages, so nothing can come late.
        let mut child =
            command().arg("-d").stdout(Stdio::piped()).stderr(log).spawn().context("start mosquitto_sub")?;
        let output = child.stdout.take().context("output of mosquitto_sub")?;
        let received = Arc::new(Mutex::new(Vec::new()));
        let shared = Arc::clone(&received);
        let reader = std::thread::spawn(move || -> Result<()> {
            let mut connection = 0;
            for line in BufReader::new(output).lines() {
                let line = line?;
                if let Some(event) = line.strip_prefix("Client ") {
                    connection += usize::from(event.ends_with("received CONNACK (0)"));
                    continue;
                }
                if !line.starts_with("traffic/") {
                    // The answer to its SUBSCRIBE.
                    continue;
                }
                let (topic, payload) = line.split_once(' ').with_context(|| format!("mosquitto_sub wrote {line:?}"))?;
                let (topic, payload) = (topic.to_owned(), payload.to_owned());
                let mut received = shared.lock().unwrap_or_else(PoisonError::into_inner);
                received.push(Delivery { topic, payload, connection });
            }
            Ok(())
        });
        Ok(Self { child, received, reader: Some(reader) })
    }

    fn with<T>(&self, look: impl FnOnce(&mut Vec<Delivery>) -> T) -> T {
        look(&mut self.received.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn received(&self) -> usize {
        self.with(|received| received.len())
    }

    pub(super) fn wait_until(&mut self, reached: impl Fn(usize) -> bool, patience: Duration) -> Result<()> {
        let deadline = now() + patience;
        while !reached(self.received()) {
            if let Some(status) = self.child.try_wait()? {
                bail!("mosquitto_sub ended with {status}");
            }
            ensure!(now() < deadline, "only {} deliveries within {patience:?}", self.received());
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Waits for so many different messages. Too few is a difference, found by the comparison.
    pub(super) fn wait_for_distinct(&mut self, count: usize, patience: Duration) -> Result<()> {
        let deadline = now() + patience;
        loop {
            let distinct = self.with(|received| {
                let keys = received.iter().map(|d| (d.topic.as_str(), d.payload.as_str()));
                keys.collect::<std::collections::BTreeSet<_>>().len()
            });
            if distinct >= count || now() > deadline {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    pub(super) fn stop(&mut self) -> Result<Vec<Delivery>> {
        self.child.kill()?;
        self.child.wait()?;
        self.reader.take().map_or(Ok(()), |reader| reader.join().expect("the reader does not panic"))?;
        Ok(self.with(std::mem::take))
    }
}
