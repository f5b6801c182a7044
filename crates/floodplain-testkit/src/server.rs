//! The server as a real process, and what it says over HTTP.

#![expect(clippy::disallowed_methods, reason = "other processes do not run by a clock of ours")]

use anyhow::{Context as _, Result, bail, ensure};
use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// Far beyond what a start takes that reads the log again, on a busy machine.
const START_MAX: Duration = Duration::from_secs(60);
/// Queries have the lowest priority of all, so other programs can hold them up for long.
const ANSWER_MAX: Duration = Duration::from_secs(300);

/// What a shell says must not become the configuration of a test.
pub fn without_our_variables(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("FLOODPLAIN_") {
            command.env_remove(name);
        }
    }
}

/// A server that can be started, again and again on the same data.
#[derive(Debug, Clone)]
pub struct Program {
    /// The command `floodplain`.
    pub binary: PathBuf,
    /// For its logs and the ready file; also for `floodplain.toml`, if the test has left one there.
    pub folder: PathBuf,
    pub data: PathBuf,
    /// Keys of the configuration, each as its variable.
    pub variables: Vec<(&'static str, String)>,
}

impl Program {
    /// With its data in `folder/data`.
    #[must_use]
    pub fn new(binary: &Path, folder: &Path) -> Self {
        let (binary, data) = (binary.to_owned(), folder.join("data"));
        Self { binary, folder: folder.to_owned(), data, variables: Vec::new() }
    }

    /// Starts it on free ports, and does not wait.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn spawn(&self) -> Result<Starting> {
        let ready = self.folder.join("ready.json");
        match std::fs::remove_file(&ready) {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(e).context("remove the old ready file"),
            _ => {}
        }
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.folder.join("server.log"))?;
        let mut command = Command::new(&self.binary);
        without_our_variables(&mut command);
        let config = self.folder.join("floodplain.toml");
        if config.is_file() {
            command.env("FLOODPLAIN_CONFIG", config);
        }
        let child = command
            .arg("serve")
            .arg("--ready-file")
            .arg(&ready)
            .current_dir(&self.folder)
            .env("FLOODPLAIN_DATA_DIR", &self.data)
            .env("FLOODPLAIN_MQTT__ADDRESS", "127.0.0.1:0")
            .env("FLOODPLAIN_HTTP__ADDRESS", "127.0.0.1:0")
            .env("FLOODPLAIN_POSTGRES__ADDRESS", "127.0.0.1:0")
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("start {}", self.binary.display()))?;
        Ok(Starting { process: Process(child), ready, log: self.folder.join("server.log") })
    }

    /// Starts it on free ports, and waits until it accepts traffic.
    ///
    /// # Errors
    /// It ends, or is not ready in time: with its last words.
    pub fn start(&self) -> Result<Server> {
        self.spawn()?.ready()
    }

    /// All that it has logged.
    ///
    /// # Errors
    /// There is nothing to be read.
    pub fn logged(&self) -> Result<String> {
        std::fs::read_to_string(self.folder.join("server.log")).context("read the logs of the server")
    }
}

/// Killed when dropped.
#[derive(Debug)]
struct Process(Child);

impl Process {
    /// kill -9, and waits until it is gone.
    fn kill(&mut self) -> Result<()> {
        self.0.kill()?;
        self.0.wait()?;
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Already gone after `kill`.
        drop(self.kill());
    }
}

/// A server that does not accept traffic yet. Killed when dropped.
#[derive(Debug)]
pub struct Starting {
    process: Process,
    ready: PathBuf,
    log: PathBuf,
}

impl Starting {
    /// Waits until it accepts traffic.
    ///
    /// # Errors
    /// It ends, or is not ready in time: with its last words.
    pub fn ready(mut self) -> Result<Server> {
        let deadline = Instant::now() + START_MAX;
        let addresses = loop {
            let text = std::fs::read_to_string(&self.ready).unwrap_or_default();
            // Half a file is read again.
            if text.trim_end().ends_with('}') {
                break text;
            }
            if let Some(status) = self.process.0.try_wait()? {
                bail!("the server ended with {status}: {}", tail(&self.log));
            }
            ensure!(Instant::now() < deadline, "the server was not ready within {START_MAX:?}: {}", tail(&self.log));
            std::thread::sleep(Duration::from_millis(2));
        };
        // `{"mqtt": "127.0.0.1:1883", ...}`, without escapes.
        let address = |name: &str| -> Result<SocketAddr> {
            let value = addresses.split_once(&format!("\"{name}\"")).and_then(|(_, rest)| rest.split('"').nth(1));
            value.with_context(|| format!("no {name} in {addresses}"))?.parse().context("address")
        };
        Ok(Server { mqtt: address("mqtt")?, http: address("http")?, process: self.process, token: None })
    }

    /// kill -9, and waits until the process is gone.
    ///
    /// # Errors
    /// It cannot be killed.
    pub fn kill(mut self) -> Result<()> {
        self.process.kill()
    }
}

/// A server that accepts traffic. Killed when dropped.
#[derive(Debug)]
pub struct Server {
    process: Process,
    pub mqtt: SocketAddr,
    pub http: SocketAddr,
    /// The API token that its requests carry.
    pub token: Option<String>,
}

impl Server {
    /// kill -9, and waits until the process is gone.
    ///
    /// # Errors
    /// It cannot be killed.
    pub fn kill(mut self) -> Result<()> {
        self.process.kill()
    }

    /// kill -9 while others still look at it.
    ///
    /// # Errors
    /// It cannot be killed.
    pub fn stop_now(&self) -> Result<()> {
        self.signal("KILL")
    }

    /// Of its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.0.id()
    }

    fn signal(&self, name: &str) -> Result<()> {
        let sent = Command::new("kill").args(["-s", name]).arg(self.pid().to_string()).status()?;
        ensure!(sent.success(), "kill -s {name} ended with {sent}");
        Ok(())
    }

    /// SIGTERM.
    ///
    /// # Errors
    /// It cannot be sent.
    pub fn tell_to_stop(&self) -> Result<()> {
        self.signal("TERM")
    }

    /// SIGTERM, and waits until the process has ended with success.
    ///
    /// # Errors
    /// It has not.
    pub fn terminate(mut self) -> Result<()> {
        self.tell_to_stop()?;
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            if let Some(status) = self.process.0.try_wait()? {
                ensure!(status.success(), "the server ended with {status}");
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "the server did not end within 30 s of SIGTERM");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Payloads of all records whose topic is like `pattern`, in the order of the log per device.
    ///
    /// # Errors
    /// Those of [`Self::csv`].
    pub fn log(&self, pattern: &str) -> Result<Vec<Vec<u8>>> {
        let lines = self.csv(&format!(
            "SELECT encode(payload, 'hex') FROM records WHERE stream = 'telemetry' AND topic LIKE '{pattern}' \
             ORDER BY \"partition\", generation, \"offset\""
        ))?;
        lines.iter().map(|line| unhex(line).with_context(|| format!("no payload in {line:?}"))).collect()
    }

    /// The values of a counter: of all its labels, or of one as in `name{reason="busy"}`.
    ///
    /// # Errors
    /// There is none of this name.
    pub fn counted(&self, counter: &str) -> Result<u64> {
        let metrics = self.metrics()?;
        let mut values = metrics.lines().filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            let is_it = series == counter || series.split_once('{').is_some_and(|(name, _)| name == counter);
            is_it.then(|| value.parse::<u64>())
        });
        let first = values.next().with_context(|| format!("no {counter}: {metrics}"))??;
        values.try_fold(first, |sum, value| Ok(sum + value?))
    }

    /// All of `/metrics`.
    ///
    /// # Errors
    /// Those of [`Self::get`].
    pub fn metrics(&self) -> Result<String> {
        self.get("/metrics")
    }

    /// The rows of a query, each a line of CSV.
    ///
    /// # Errors
    /// Those of [`Self::ask`].
    pub fn csv(&self, query: &str) -> Result<Vec<String>> {
        let headers = "Accept: text/csv\r\nContent-Type: text/plain\r\n";
        let answer = self.request("POST", "/api/v1/sql", headers, query).with_context(|| query.to_owned())?;
        Ok(answer.lines().skip(1).map(str::to_owned).collect())
    }

    /// The body of the answer to a GET.
    ///
    /// # Errors
    /// There is no answer, or one without success.
    pub fn get(&self, path: &str) -> Result<String> {
        self.ask("GET", path, "")
    }

    /// The body of the answer to a request with a JSON body, or with none.
    ///
    /// # Errors
    /// There is no answer, or one without success.
    pub fn ask(&self, method: &str, path: &str, body: &str) -> Result<String> {
        let content = if body.is_empty() { "" } else { "Content-Type: application/json\r\n" };
        self.request(method, path, &format!("Accept: application/json\r\n{content}"), body)
    }

    fn request(&self, method: &str, path: &str, headers: &str, body: &str) -> Result<String> {
        let (address, length) = (self.http, body.len());
        let token = self.token.iter().map(|token| format!("Authorization: Bearer {token}\r\n")).collect::<String>();
        let headers = format!("Host: {address}\r\n{headers}{token}Content-Length: {length}\r\n");
        // HTTP/1.0: no chunks, the body ends with the connection.
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(ANSWER_MAX))?;
        stream.write_all(format!("{method} {path} HTTP/1.0\r\n{headers}\r\n{body}").as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (head, rest) = answer.split_once("\r\n\r\n").context("no HTTP head")?;
        let status = head.lines().next().unwrap_or_default();
        ensure!(status.split(' ').nth(1).is_some_and(|code| code.starts_with('2')), "{status}: {rest}");
        Ok(rest.to_owned())
    }
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = |at: usize| u8::from_str_radix(text.get(at..at + 2)?, 16).ok();
    (0..text.len()).step_by(2).map(digits).collect()
}

fn tail(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<&str> = text.lines().rev().take(20).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join("\n")
}
