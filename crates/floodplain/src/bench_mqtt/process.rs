//! What the kernel knows about a process.

use anyhow::{Context, Result};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::{collections::BTreeMap, time::Duration};

/// Lifts the limit of open files as far as allowed, for us and for brokers that are started here.
pub(super) fn raise_file_limit() -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })
        .context("raise the limit of open files")
}

/// The name in proc(5) `stat`, and the fields from the third on.
fn stat(path: &str) -> Result<(String, Vec<String>)> {
    let text = std::fs::read_to_string(path).with_context(|| format!("read {path}"))?;
    // The second field is a name in brackets that may hold spaces.
    let named = text.rsplit_once(')').and_then(|(head, rest)| Some((head.split_once('(')?.1, rest)));
    let (name, rest) = named.with_context(|| format!("{path} has no name"))?;
    Ok((name.to_owned(), rest.split_whitespace().map(str::to_owned).collect()))
}

/// Time in the program itself, and in the kernel for it, in ticks of usually 10 ms.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Times {
    pub(super) user: Duration,
    pub(super) system: Duration,
}

impl Times {
    /// Of the fields of [`stat`].
    fn of(fields: &[String]) -> Result<Self> {
        let per_second = rustix::param::clock_ticks_per_second() as f64;
        // utime and stime are fields 14 and 15.
        let time = |at: usize| -> Result<Duration> {
            let ticks: u64 = fields.get(at).context("short line")?.parse()?;
            Ok(Duration::from_secs_f64(ticks as f64 / per_second))
        };
        Ok(Self { user: time(11)?, system: time(12)? })
    }
}

/// Times of the threads of a process by their names; numbers at the end of names do not count.
fn threads(pid: u32) -> Result<BTreeMap<String, Times>> {
    let path = format!("/proc/{pid}/task");
    let mut threads: BTreeMap<String, Times> = BTreeMap::new();
    for entry in std::fs::read_dir(&path).with_context(|| format!("list {path}"))? {
        // It may have ended since.
        let Ok((name, fields)) = stat(&format!("{path}/{}/stat", entry?.file_name().display())) else { continue };
        let times = Times::of(&fields).with_context(|| format!("read times of a thread of process {pid}"))?;
        let sum =
            threads.entry(name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '-').to_owned()).or_default();
        sum.user += times.user;
        sum.system += times.system;
    }
    Ok(threads)
}

/// Whether a child has ended that nobody has waited for yet.
pub(crate) fn has_ended(pid: u32) -> Result<bool> {
    Ok(stat(&format!("/proc/{pid}/stat"))?.1.first().is_some_and(|state| state == "Z"))
}

/// CPU time of all threads of a process so far, user and system, in ticks of usually 10 ms.
pub(crate) fn cpu(pid: u32) -> Result<Duration> {
    let (_, fields) = stat(&format!("/proc/{pid}/stat"))?;
    let times = Times::of(&fields).with_context(|| format!("read times of process {pid}"))?;
    Ok(times.user + times.system)
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
#[derive(Debug, Clone)]
pub(super) struct Sample {
    pub(super) broker_cpu: Option<Duration>,
    pub(super) broker_rss_kib: Option<u64>,
    /// Of the broker, by name.
    threads: BTreeMap<String, Times>,
    own_cpu: Duration,
    at: std::time::Instant,
}

impl Sample {
    pub(super) fn take(pid: Option<u32>) -> Result<Self> {
        Ok(Self {
            broker_cpu: pid.map(cpu).transpose()?,
            broker_rss_kib: pid.map(rss_kib).transpose()?,
            threads: pid.map(threads).transpose()?.unwrap_or_default(),
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

    /// What the threads of the broker have used since, those that have used anything.
    pub(super) fn threads_since(&self, earlier: &Self) -> Vec<(String, Times)> {
        let since = |(name, now): (&String, &Times)| {
            let before = earlier.threads.get(name).copied().unwrap_or_default();
            let user = now.user.saturating_sub(before.user);
            let system = now.system.saturating_sub(before.system);
            (name.clone(), Times { user, system })
        };
        self.threads.iter().map(since).filter(|(_, times)| *times != Times::default()).collect()
    }

    /// Share of one core that we used ourselves.
    pub(super) fn generator_load_since(&self, earlier: &Self) -> f64 {
        self.own_cpu.saturating_sub(earlier.own_cpu).as_secs_f64() / self.seconds_since(earlier)
    }
}
