//! One JVM: started so that it cannot outlive the test, found again by its pid file if it may.

use super::{
    config,
    error::{Error, Result},
};
use rustix::process::{Pid, Signal, getppid, kill_process, set_parent_process_death_signal, setsid};
use std::{
    fs::{self, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        LazyLock,
        mpsc::{SyncSender, sync_channel},
    },
};

/// So much of the end of a log is looked at for an error.
const TAIL_BYTES: u64 = 1 << 20;
/// So many lines of it are shown.
const TAIL_LINES: usize = 60;

/// A broker's process.
#[derive(Debug)]
pub(super) enum Process {
    /// Started by us, when its log had so many bytes.
    Child(Child, u64),
    /// Started by a process before us, with this configuration file.
    Found(Pid, PathBuf),
}

impl Process {
    /// Starts `command` with its output in the log of `dir`, and notes its pid there.
    pub(super) fn spawn(mut command: Command, dir: &Path, outlives_us: bool) -> Result<Self> {
        let path = log_path(dir);
        let log = OpenOptions::new().create(true).append(true).open(&path).map_err(Error::io(&path))?;
        let errors = log.try_clone().map_err(Error::io(&path))?;
        let log_bytes = log.metadata().map_err(Error::io(&path))?.len();
        command.stdin(Stdio::null()).stdout(log).stderr(errors).current_dir(dir);
        detach(&mut command, outlives_us);
        let child = spawn_from_keeper(command).map_err(Error::Java)?;
        let pid_path = pid_path(dir);
        fs::write(&pid_path, format!("{}\n", child.id())).map_err(Error::io(&pid_path))?;
        Ok(Self::Child(child, log_bytes))
    }

    /// The process that the pid file of `dir` names, if it is still that one.
    pub(super) fn find(dir: &Path) -> Option<Self> {
        let pid = fs::read_to_string(pid_path(dir)).ok()?.trim().parse().ok().and_then(Pid::from_raw)?;
        let config = config::path(dir);
        is_broker(pid, &config).then_some(Self::Found(pid, config))
    }

    pub(super) fn pid(&self) -> u32 {
        match self {
            Self::Child(child, _) => child.id(),
            Self::Found(pid, _) => pid.as_raw_nonzero().get().unsigned_abs(),
        }
    }

    /// Sends a signal; none to a process that is gone.
    pub(super) fn signal(&self, signal: Signal) -> Result<()> {
        let pid = match self {
            // It is ours until `end` has waited for it, so its number is nobody else's.
            Self::Child(child, _) => Pid::from_child(child),
            Self::Found(pid, config) if is_broker(*pid, config) => *pid,
            Self::Found(..) => return Ok(()),
        };
        match kill_process(pid, signal) {
            Err(rustix::io::Errno::SRCH) => Ok(()),
            result => result.map_err(|errno| Error::what(format!("signal process {}", self.pid()))(errno.into())),
        }
    }

    /// The end of what it has logged into `dir`.
    pub(super) fn log_tail(&self, dir: &Path) -> String {
        let from = if let Self::Child(_, from) = self { *from } else { 0 };
        tail(&log_path(dir), from)
    }

    /// How it has ended, if it has.
    pub(super) fn end(&mut self) -> Result<Option<String>> {
        match self {
            Self::Child(child, _) => {
                let status = child.try_wait().map_err(Error::what("wait for a broker"))?;
                Ok(status.map(|status| status.to_string()))
            }
            Self::Found(pid, config) => Ok((!is_broker(*pid, config)).then(|| "gone".to_owned())),
        }
    }
}

/// Whether this process is the broker of this configuration, and not one that got its number later.
fn is_broker(pid: Pid, config: &Path) -> bool {
    let line = fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).unwrap_or_default();
    line.split(|byte| *byte == 0).any(|word| word == config.as_os_str().as_encoded_bytes())
}

/// A session of its own, so that no Ctrl-C and no hang-up comes there; and death with us, if it should not outlive us.
#[expect(unsafe_code, reason = "std has no safe way to do something between fork and exec")]
fn detach(command: &mut Command, outlives_us: bool) {
    let us = rustix::process::getpid();
    let between = move || {
        setsid()?;
        if !outlives_us {
            set_parent_process_death_signal(Some(Signal::KILL))?;
            // We may have died before that was set.
            if getppid() != Some(us) {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
        }
        Ok(())
    };
    // SAFETY: between fork and exec only system calls are made (setsid, prctl, getppid): nothing allocates or locks.
    unsafe { command.pre_exec(between) };
}

/// Starts `command` so that it does not outlive us.
pub(crate) fn spawn_bound(mut command: Command) -> io::Result<Child> {
    detach(&mut command, false);
    spawn_from_keeper(command)
}

type Order = (Command, SyncSender<io::Result<Child>>);

/// Starts a process from a thread that lives as long as this process does. The kernel sends the death signal when the
/// thread ends that started the process; a test's thread ends long before the process, and its cluster may go on.
fn spawn_from_keeper(command: Command) -> io::Result<Child> {
    // One at a time: who finds the queue full waits.
    static KEEPER: LazyLock<SyncSender<Order>> = LazyLock::new(|| {
        let (sender, orders) = sync_channel::<Order>(1);
        let run = move || {
            for (mut command, reply) in orders {
                // Who ordered waits for the reply, so it is there.
                drop(reply.send(command.spawn()));
            }
        };
        // Without the thread the queue has no receiver, and the order below fails.
        drop(std::thread::Builder::new().name("kafka-keeper".to_owned()).spawn(run));
        sender
    });
    let (reply, answer) = sync_channel(1);
    KEEPER.send((command, reply)).map_err(|_| io::Error::other("the thread that starts brokers is not there"))?;
    answer.recv().map_err(io::Error::other)?
}

/// Removes the pid file of a process that is gone.
pub(super) fn forget(dir: &Path) {
    drop(fs::remove_file(pid_path(dir)));
}

fn pid_path(dir: &Path) -> PathBuf {
    dir.join("pid")
}

pub(super) fn log_path(dir: &Path) -> PathBuf {
    dir.join("log")
}

/// What is said in a log from byte `from` on that matters most: the last lines that are no mere information, or just
/// the last ones.
fn tail(path: &Path, from: u64) -> String {
    let read = || -> io::Result<Vec<u8>> {
        let mut file = fs::File::open(path)?;
        let length = file.seek(SeekFrom::End(0))?;
        file.seek(SeekFrom::Start(from.max(length.saturating_sub(TAIL_BYTES))))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = match read() {
        Ok(bytes) => bytes,
        Err(error) => return format!("{}: {error}", path.display()),
    };
    let text = String::from_utf8_lossy(&bytes);
    let last = |lines: Vec<&str>| lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n");
    // Brokers that look for each other say so again and again.
    let is_chatter = |line: &str| line.contains("] INFO ") || line.contains("Node may not be available");
    let matters = last(text.lines().filter(|line| !is_chatter(line)).collect());
    let text = if matters.is_empty() { last(text.lines().collect()) } else { matters };
    format!("{text}\n(all of it: {})", path.display())
}
