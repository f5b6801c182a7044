//! A server of object storage as a real process: `s3s-fs`, which keeps objects as files.

use crate::{
    kafka::{hold, spawn_bound},
    wait_until,
};
use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use socket2::Socket;
use std::{
    fs::{self, File},
    net::{Ipv4Addr, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
};
use tempfile::TempDir;

/// Killed when dropped, and its objects with it.
#[derive(Debug)]
pub struct S3Server {
    folder: TempDir,
    port: u16,
    /// Keeps the port ours while the server is down.
    _held: Socket,
    process: Option<Child>,
}

impl S3Server {
    /// The bucket that is there.
    pub const BUCKET: &str = "fleet";
    /// Who may do everything, and by which secret.
    pub const ACCESS_KEY: &str = "floodplain";
    /// Its secret.
    pub const SECRET: &str = "a secret of this test";

    /// Starts one with an empty bucket.
    ///
    /// # Errors
    /// It is not installed, or does not start.
    pub fn start() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        fs::create_dir_all(folder.path().join("objects").join(Self::BUCKET))?;
        fs::write(folder.path().join("secret"), format!("{}\n", Self::SECRET))?;
        let held = hold(0).context("choose a free port")?;
        let port = held.local_addr()?.as_socket().map_or(0, |address| address.port());
        let mut server = Self { folder, port, _held: held, process: None };
        server.restart()?;
        Ok(server)
    }

    /// Starts it again, on the same port and objects, once it was killed.
    ///
    /// # Errors
    /// It does not start.
    pub fn restart(&mut self) -> Result<()> {
        ensure!(self.process.is_none(), "it runs");
        let program = crate::tools().join("cargo/bin/s3s-fs");
        let log = File::options().create(true).append(true).open(self.folder.path().join("log"))?;
        let mut command = Command::new(&program);
        command.args(["--host", "127.0.0.1", "--port"]).arg(self.port.to_string());
        command.args(["--access-key", Self::ACCESS_KEY, "--secret-key", Self::SECRET]);
        command.arg(self.folder.path().join("objects"));
        command.env("RUST_LOG", "warn").stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let started = spawn_bound(command);
        let missing = || format!("cannot start {}: run `cargo xtask tools`, which installs it", program.display());
        self.process = Some(started.with_context(missing)?);
        let listens = || TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_ok();
        wait_until("the server of object storage listens", &|| (), listens);
        Ok(())
    }

    /// kill -9, and waits until it is gone.
    ///
    /// # Errors
    /// The system does not let us.
    pub fn kill(&mut self) -> Result<()> {
        let Some(mut process) = self.process.take() else { return Ok(()) };
        process.kill()?;
        process.wait()?;
        Ok(())
    }

    /// From now on it accepts connections, as the kernel does that for it, and answers nothing; or it goes on.
    ///
    /// # Errors
    /// It does not run.
    pub fn freeze(&self, is_frozen: bool) -> Result<()> {
        let process = self.process.as_ref().context("it does not run")?;
        let signal = if is_frozen { Signal::STOP } else { Signal::CONT };
        Ok(kill_process(Pid::from_child(process), signal)?)
    }

    /// Its port on loopback.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The URL of its endpoint.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// A file that holds the secret.
    #[must_use]
    pub fn secret_file(&self) -> PathBuf {
        self.folder.path().join("secret")
    }

    /// Where it keeps the objects of the bucket, each as the file that its key is the path of.
    #[must_use]
    pub fn objects(&self) -> PathBuf {
        self.folder.path().join("objects").join(Self::BUCKET)
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        // Already gone after `kill`.
        drop(self.kill());
    }
}
