//! What the suites run against: a list of addresses, or a server of our own per test.

use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
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

/// Our own server as a real process; killed when dropped.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    pub(crate) mqtt: SocketAddr,
    pub(crate) http: SocketAddr,
    /// Present if the data folder belongs to this server alone.
    _folder: Option<tempfile::TempDir>,
}

impl Server {
    /// A server on free ports with an empty data folder.
    pub(crate) fn fresh() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let mut server = Self::start(folder.path())?;
        server._folder = Some(folder);
        Ok(server)
    }

    /// Starts the binary of this build on `data` and waits until it accepts traffic.
    pub(crate) fn start(data: &Path) -> Result<Self> {
        let ready = data.join("ready.json");
        let mut child = spawn(data, &ready)?;
        let deadline = Instant::now() + Duration::from_secs(60);
        let addresses: Value = loop {
            // Half a file is not JSON: then it is read again.
            if let Ok(text) = std::fs::read_to_string(&ready)
                && let Ok(value) = serde_json::from_str(&text)
            {
                break value;
            }
            if let Some(status) = child.try_wait()? {
                bail!("the server ended with {status}: {}", tail(&data.join("server.log")));
            }
            if Instant::now() > deadline {
                child.kill()?;
                child.wait()?;
                bail!("the server was not ready within 60 s: {}", tail(&data.join("server.log")));
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        let address = |name: &str| -> Result<SocketAddr> {
            addresses[name].as_str().with_context(|| format!("no {name} in {addresses}"))?.parse().context("address")
        };
        Ok(Self { mqtt: address("mqtt")?, http: address("http")?, child, _folder: None })
    }

    /// Starts the binary and kills it after `life`, ready or not.
    pub(crate) fn start_and_kill(data: &Path, life: Duration) -> Result<()> {
        let mut child = spawn(data, &data.join("ready.json"))?;
        std::thread::sleep(life);
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// kill -9, and waits until the process is gone.
    pub(crate) fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// SIGTERM, and waits until the process has ended with success.
    pub(crate) fn terminate(mut self) -> Result<()> {
        let sent = Command::new("kill").arg("-TERM").arg(self.child.id().to_string()).status()?;
        anyhow::ensure!(sent.success(), "kill -TERM ended with {sent}");
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            if let Some(status) = self.child.try_wait()? {
                anyhow::ensure!(status.success(), "the server ended with {status}");
                return Ok(());
            }
            anyhow::ensure!(Instant::now() < deadline, "the server did not end within 30 s of SIGTERM");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Payloads of all records whose topic is like `pattern`, in the order of the log per device.
    pub(crate) fn log(&self, pattern: &str) -> Result<Vec<Vec<u8>>> {
        let rows = self.sql(&format!(
            "SELECT utf8(payload) AS payload FROM records WHERE stream = 'telemetry' AND topic LIKE '{pattern}' \
             ORDER BY \"partition\", generation, \"offset\""
        ))?;
        let payload = |row: &Value| row["payload"].as_str().map(|text| text.as_bytes().to_vec());
        rows.iter().map(|row| payload(row).with_context(|| format!("no payload in {row}"))).collect()
    }

    /// Waits until the `n` of a query is this one.
    pub(crate) fn heard(&self, query: &str, n: u64) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(30);
        while self.sql(query)?[0]["n"] != n {
            anyhow::ensure!(Instant::now() < deadline, "{query} did not become {n} within 30 s");
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// The values of a counter: of all its labels, or of one as in `name{reason="busy"}`.
    pub(crate) fn counted(&self, counter: &str) -> Result<u64> {
        let metrics = http_get(self.http, "/metrics")?;
        let mut values = metrics.lines().filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            let is_it = series == counter || series.split_once('{').is_some_and(|(name, _)| name == counter);
            is_it.then(|| value.parse::<u64>())
        });
        let first = values.next().with_context(|| format!("no {counter}: {metrics}"))??;
        values.try_fold(first, |sum, value| Ok(sum + value?))
    }

    /// All of `/metrics`.
    pub(crate) fn metrics(&self) -> Result<String> {
        http_get(self.http, "/metrics")
    }

    /// Runs SQL over HTTP and returns the rows as JSON objects.
    pub(crate) fn sql(&self, query: &str) -> Result<Vec<Value>> {
        let body = serde_json::json!({ "query": query }).to_string();
        let answer = http_post(self.http, "/api/v1/sql", &body)?;
        let mut value: Value = serde_json::from_str(&answer).with_context(|| format!("answer to {query}: {answer}"))?;
        anyhow::ensure!(value.get("error").is_none(), "{query}: {}", value["error"]);
        match value["rows"].take() {
            Value::Array(rows) => Ok(rows),
            _ => bail!("no rows in the answer to {query}: {answer}"),
        }
    }
}

fn spawn(data: &Path, ready: &Path) -> Result<Child> {
    match std::fs::remove_file(ready) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e).context("remove the old ready file"),
        _ => {}
    }
    let log = std::fs::OpenOptions::new().create(true).append(true).open(data.join("server.log"))?;
    let mut command = Command::new(env!("CARGO_BIN_EXE_floodplain"));
    without_our_variables(&mut command);
    // A test may leave a configuration in the folder of its server.
    let config = data.join("floodplain.toml");
    if config.is_file() {
        command.env("FLOODPLAIN_CONFIG", config);
    }
    command
        .arg("serve")
        .arg("--ready-file")
        .arg(ready)
        .env("FLOODPLAIN_DATA_DIR", data.join("data"))
        .env("FLOODPLAIN_MQTT__ADDRESS", "127.0.0.1:0")
        .env("FLOODPLAIN_HTTP__ADDRESS", "127.0.0.1:0")
        .env("FLOODPLAIN_POSTGRES__ADDRESS", "127.0.0.1:0")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("start the server")
}

/// What the shell of a developer says must not become the configuration of a test.
pub(crate) fn without_our_variables(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("FLOODPLAIN_") {
            command.env_remove(name);
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Already gone after `kill`.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn tail(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<&str> = text.lines().rev().take(20).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join("\n")
}

/// A POST over a plain socket; returns the body of a 200.
fn http_post(address: SocketAddr, path: &str, body: &str) -> Result<String> {
    let headers = format!(
        "Content-Type: application/json\r\nAccept: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    http(address, &format!("POST {path} HTTP/1.0\r\nHost: {address}\r\n{headers}"))
}

/// A GET over a plain socket; returns the body of a 200.
fn http_get(address: SocketAddr, path: &str) -> Result<String> {
    http(address, &format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n"))
}

/// HTTP/1.0: no chunks, the body ends with the connection.
fn http(address: SocketAddr, request: &str) -> Result<String> {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, rest) = answer.split_once("\r\n\r\n").context("no HTTP head")?;
    let status = head.lines().next().unwrap_or_default();
    anyhow::ensure!(status.split(' ').nth(1) == Some("200"), "{status}: {rest}");
    Ok(rest.to_owned())
}

/// A tool that `cargo xtask tools` installs or checks.
pub(crate) fn tool(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
        .unwrap_or_else(|| panic!("{name} is missing: run cargo xtask tools"))
}

/// Python with paho-mqtt 2.x.
pub(crate) fn python() -> PathBuf {
    let tools = std::env::var_os("FLOODPLAIN_TEST_TOOLS")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache/floodplain/tools")));
    let python = tools.map(|tools| tools.join("venv/bin/python3"));
    match python {
        Some(python) if python.is_file() => python,
        _ => panic!("python with paho-mqtt is missing: run cargo xtask tools"),
    }
}
