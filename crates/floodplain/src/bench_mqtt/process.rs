//! What the kernel knows about a process.

use anyhow::{Context, Result};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::time::Duration;

/// Lifts the limit of open files as far as allowed, for us and for brokers that are started here.
pub(super) fn raise_file_limit() -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })
        .context("raise the limit of open files")
}

/// The fields of proc(5) `stat` from the third on.
fn stat(pid: u32) -> Result<Vec<String>> {
    let path = format!("/proc/{pid}/stat");
    let text = std::fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    // The second field is a name in brackets that may hold spaces.
    let (_, rest) = text.rsplit_once(')').with_context(|| format!("{path} has no name"))?;
    Ok(rest.split_whitespace().map(str::to_owned).collect())
}

/// Whether a child has ended that nobody has waited for yet.
pub(crate) fn has_ended(pid: u32) -> Result<bool> {
    Ok(stat(pid)?.first().is_some_and(|state| state == "Z"))
}

/// CPU time of all threads of a process so far, user and system, in ticks of usually 10 ms.
pub(crate) fn cpu(pid: u32) -> Result<Duration> {
    let fields = stat(pid)?;
    // utime and stime are fields 14 and 15.
    let ticks = |at: usize| -> Result<u64> { Ok(fields.get(at).context("short line")?.parse()?) };
    let ticks =
        ticks(11).and_then(|user| Ok(user + ticks(12)?)).with_context(|| format!("read times of process {pid}"))?;
    Ok(Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64))
}

/// Resident memory of a process in KiB.
pub(crate) fn rss_kib(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/status");
    let text = std::fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|rest| rest.trim().trim_end_matches("kB").trim().parse().ok());
    number.with_context(|| format!("{path} has no VmRSS"))
}

/// CPU time and memory of the broker, and our own CPU time, at one moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sample {
    pub(super) broker_cpu: Option<Duration>,
    pub(super) broker_rss_kib: Option<u64>,
    own_cpu: Duration,
    at: std::time::Instant,
}

impl Sample {
    pub(super) fn take(pid: Option<u32>) -> Result<Self> {
        Ok(Self {
            broker_cpu: pid.map(cpu).transpose()?,
            broker_rss_kib: pid.map(rss_kib).transpose()?,
            own_cpu: cpu(std::process::id())?,
            at: crate::client::now(),
        })
    }

    pub(super) fn seconds_since(&self, earlier: &Self) -> f64 {
        self.at.duration_since(earlier.at).as_secs_f64()
    }

    pub(super) fn broker_cpu_s_since(&self, earlier: &Self) -> Option<f64> {
        Some(self.broker_cpu?.saturating_sub(earlier.broker_cpu?).as_secs_f64())
    }

    /// Share of one core that we used ourselves.
    pub(super) fn generator_load_since(&self, earlier: &Self) -> f64 {
        self.own_cpu.saturating_sub(earlier.own_cpu).as_secs_f64() / self.seconds_since(earlier)
    }
}
