//! The command, and a server of it in a folder of its own.

use serde_json::Value;
use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    time::{Duration, Instant},
};

/// Nothing here takes this long on a machine that works.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The command of this build in an empty folder, with none of our variables set.
pub(crate) fn floodplain(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_floodplain"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("FLOODPLAIN_") {
            command.env_remove(name);
        }
    }
    command.current_dir(folder).stdin(Stdio::null());
    command
}

pub(crate) fn run(folder: &Path, args: &[&str]) -> Output {
    floodplain(folder).args(args).output().unwrap()
}

pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Calls `probe` until it gives something.
pub(crate) fn poll<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = probe() {
            return value;
        }
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A server on free ports; killed when dropped.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    pub(crate) mqtt: SocketAddr,
    pub(crate) http: SocketAddr,
    pub(crate) postgres: SocketAddr,
    log: PathBuf,
}

impl Server {
    /// Starts a server whose data folder is `folder/data`, and waits until it is ready.
    pub(crate) fn start(folder: &Path) -> Self {
        let ready = folder.join("ready.json");
        let log = folder.join("server.log");
        // The server removes an old one, but not before we would look.
        drop(std::fs::remove_file(&ready));
        let mut child = floodplain(folder)
            .args(["serve", "--data-dir", "data", "--ready-file", "ready.json"])
            .args(["--mqtt-address", "127.0.0.1:0", "--http-address", "127.0.0.1:0"])
            .args(["--postgres-address", "127.0.0.1:0"])
            .stdout(Stdio::null())
            .stderr(std::fs::File::options().create(true).append(true).open(&log).unwrap())
            .spawn()
            .unwrap();
        let addresses: Value = poll("ready file", || {
            if let Some(status) = child.try_wait().unwrap() {
                panic!("the server ended with {status}: {}", std::fs::read_to_string(&log).unwrap_or_default());
            }
            // It appears in one step, so what is there is whole.
            Some(serde_json::from_str(&std::fs::read_to_string(&ready).ok()?).unwrap())
        });
        let address = |name: &str| addresses[name].as_str().unwrap().parse().unwrap();
        let (mqtt, http, postgres) = (address("mqtt"), address("http"), address("postgres"));
        Self { child, mqtt, http, postgres, log }
    }

    /// What it has logged so far.
    pub(crate) fn logged(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// Sends a signal such as `TERM`.
    pub(crate) fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &id]).status().unwrap().success());
    }

    /// Waits for the end of the process.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        poll("end of the server", || self.child.try_wait().unwrap())
    }

    /// A POST; status and body.
    pub(crate) fn post(&self, path: &str, headers: &str, body: &str) -> (u16, String) {
        let length = body.len();
        self.ask(&format!(
            "POST {path} HTTP/1.0\r\nHost: {}\r\n{headers}Content-Length: {length}\r\n\r\n{body}",
            self.http
        ))
    }

    /// A GET; status and body.
    pub(crate) fn get(&self, path: &str) -> (u16, String) {
        self.ask(&format!("GET {path} HTTP/1.0\r\nHost: {}\r\n\r\n", self.http))
    }

    /// HTTP/1.0: no chunks, the body ends with the connection.
    pub(crate) fn ask(&self, request: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.http).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let mut line = request.split(' ');
        crate::openapi::check(line.next().unwrap(), line.next().unwrap(), status, head, body);
        (status, body.to_owned())
    }
}

/// A script of ours in `tests/it`, run by the Python of the test tools; what it prints.
pub(crate) fn python(script: &str, args: &[&str]) -> String {
    script_output(Command::new("timeout").arg("240").arg(floodplain_testkit::python()), script, args)
}

/// A class of ours in `tests/it`, run by Java with the jars in `<jars>/lib` of the test tools; what it prints.
pub(crate) fn java(script: &str, jars: &str, args: &[&str]) -> String {
    let class_path = floodplain_testkit::tools().join(jars).join("lib/*");
    script_output(Command::new("timeout").args(["240", "java", "-cp"]).arg(class_path), script, args)
}

fn script_output(command: &mut Command, script: &str, args: &[&str]) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it").join(script);
    let output = command.arg(script).args(args).output().unwrap();
    assert!(output.status.success(), "{}\n{}\n{}", output.status, stdout(&output), stderr(&output));
    stdout(&output)
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
