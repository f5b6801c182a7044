//! `floodplain doctor`: whether this machine can keep what the server promises.

mod kafka;

use crate::{
    clock,
    output::{self, Output, OutputArgs, write_table},
    settings::ConfigArgs,
};
use anyhow::{Context as _, Result, bail};
use floodplain_server::{Class, Config, Snapshots, format_size};
use std::{
    fs,
    io::{self, Write as _},
    net::{SocketAddr, TcpListener},
    path::Path,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// Syncs that are timed: enough for a p99, one second on an ordinary disk.
const SYNCS: usize = 200;
/// No medium is faster than this, not even one with a capacitor behind its cache: a sync that
/// returns earlier has not left the kernel.
const IMPLAUSIBLE: Duration = Duration::from_micros(8);
/// Above this an acknowledgement waits noticeably.
const SLOW: Duration = Duration::from_millis(50);
/// Connections need a descriptor each.
const FILES_MIN: u64 = 65_536;
/// Below this share the log starts to remove or refuse.
const SPACE_MIN_PERCENT: u64 = 10;
/// A clock before this was never set: 2026-01-01.
const EARLIEST_UNIX_SECONDS: u64 = 1_767_225_600;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    config: ConfigArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Ok,
    Warning,
    Failed,
}

impl Verdict {
    fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Failed => "failed",
        }
    }
}

#[derive(Debug)]
struct Finding {
    check: &'static str,
    verdict: Verdict,
    text: String,
    /// Figures for programs.
    data: serde_json::Value,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let config = args.config.load()?;
    fs::create_dir_all(&config.data_dir)
        .with_context(|| format!("cannot create the data folder {}", config.data_dir.display()))?;
    let findings = examine(&config)?;
    let printed = print(&findings, args.output.output);
    let failed = findings.iter().filter(|finding| finding.verdict == Verdict::Failed).count();
    if failed > 0 {
        bail!("{failed} of {} checks failed", findings.len());
    }
    printed
}

fn examine(config: &Config) -> Result<Vec<Finding>> {
    let sync = sync(&config.data_dir)?;
    let mut findings = match &config.kafka {
        None => {
            let promise = acknowledgement(config.broker.ack_class, sync.verdict);
            vec![sync, promise]
        }
        Some(kafka) => kafka::findings(kafka, config.broker.ack_class),
    };
    findings.extend([file_system(&config.data_dir)?, space(&config.data_dir)?]);
    if config.snapshots != Snapshots::DataFolder {
        findings.push(snapshots(config));
    }
    findings.push(file_limit()?);
    findings.push(clock());
    for (check, address) in [
        ("port mqtt", config.mqtt_address),
        ("port http", config.http_address),
        ("port postgres", config.postgres_address),
    ] {
        findings.push(port(check, address));
    }
    Ok(findings)
}

fn print(findings: &[Finding], output: Output) -> Result<()> {
    match output {
        Output::Table => {
            let header = ["check", "verdict", "finding"].map(str::to_owned);
            let rows: Vec<Vec<String>> = findings
                .iter()
                .map(|finding| vec![finding.check.to_owned(), finding.verdict.word().to_owned(), finding.text.clone()])
                .collect();
            write_table(&mut output::stdout(), &header, &rows)?;
        }
        Output::Json => {
            let rows: Vec<serde_json::Value> = findings
                .iter()
                .map(|finding| {
                    serde_json::json!({
                        "check": finding.check,
                        "verdict": finding.verdict.word(),
                        "finding": finding.text,
                        "data": finding.data,
                    })
                })
                .collect();
            writeln!(output::stdout(), "{}", serde_json::to_string_pretty(&rows)?)?;
        }
    }
    Ok(())
}

/// Times `fdatasync` as the journal uses it: a small append to an open file, then a sync.
fn sync(folder: &Path) -> Result<Finding> {
    let path = folder.join(format!("doctor-{}.tmp", std::process::id()));
    let measured = time_syncs(&path);
    // Removing comes first, so that a failed measurement leaves nothing behind either.
    let removed = fs::remove_file(&path);
    let mut times = measured.with_context(|| format!("cannot write and sync in {}", folder.display()))?;
    removed.with_context(|| format!("cannot remove {}", path.display()))?;
    times.sort_unstable();
    let (p50, p99) = (times[SYNCS / 2], times[SYNCS * 99 / 100]);
    let (verdict, comment) = judge_sync(p50);
    let text = format!("fdatasync p50 {} µs, p99 {} µs: {comment}", p50.as_micros(), p99.as_micros());
    let data = serde_json::json!({ "p50_us": micros(p50), "p99_us": micros(p99), "syncs": SYNCS });
    Ok(Finding { check: "sync", verdict, text, data })
}

#[expect(clippy::disallowed_methods, reason = "the time of a sync is what is measured")]
fn time_syncs(path: &Path) -> io::Result<Vec<Duration>> {
    let mut file = fs::File::create_new(path)?;
    (0..SYNCS)
        .map(|_| {
            file.write_all(&[0x5a; 512])?;
            let started = Instant::now();
            file.sync_data()?;
            Ok(started.elapsed())
        })
        .collect()
}

fn judge_sync(p50: Duration) -> (Verdict, String) {
    if p50 < IMPLAUSIBLE {
        let text = "faster than any disk; something between here and the disk ignores syncs, so a power cut takes \
                    acknowledged messages: turn off the write cache that lies about them, or take another data_dir";
        (Verdict::Failed, text.to_owned())
    } else if p50 > SLOW {
        (
            Verdict::Warning,
            "slow, and each acknowledgement waits for it: a disk with power-loss protection syncs in less than 1 ms"
                .to_owned(),
        )
    } else {
        let per_second = 1_000_000 / p50.as_micros().max(1);
        (Verdict::Ok, format!("plausible as far as time can tell, about {per_second} commit groups per second"))
    }
}

/// What a client may take from a PUBACK here.
fn acknowledgement(class: Class, sync: Verdict) -> Finding {
    let (verdict, text) = match (class, sync) {
        (Class::All, Verdict::Failed) => (
            Verdict::Failed,
            "sent after the sync, which cannot be trusted here (see above): survives kill -9, maybe no power cut",
        ),
        (Class::All, _) => (
            Verdict::Ok,
            "sent when the disk says that it has the message: survives kill -9 and a power cut; a binding may promise less for its topics",
        ),
        _ => (
            Verdict::Warning,
            "mqtt.ack_class is leader: sent before the disk has the message; survives a crash of the process, no power cut",
        ),
    };
    let class = if class == Class::All { "all" } else { "leader" };
    Finding { check: "acknowledgement", verdict, text: text.to_owned(), data: serde_json::json!({ "class": class }) }
}

/// Whether the folder, which exists, is in memory only.
pub(crate) fn is_memory(folder: &Path) -> bool {
    file_system(folder).is_ok_and(|finding| finding.verdict == Verdict::Failed && finding.text.contains("memory"))
}

fn file_system(folder: &Path) -> Result<Finding> {
    let folder = folder.canonicalize().with_context(|| format!("cannot resolve {}", folder.display()))?;
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let (kind, options) = mount_of(&mounts, &folder).unwrap_or(("unknown", ""));
    let (verdict, comment) = match kind {
        "tmpfs" | "ramfs" => {
            (Verdict::Failed, "memory, not a disk: a restart of the machine takes everything; set data_dir to a disk")
        }
        _ if is_remote(kind) => (
            Verdict::Warning,
            "what a sync means here is decided elsewhere; ask who runs it, or set data_dir to a local disk",
        ),
        _ if options.split(',').any(|option| matches!(option, "nobarrier" | "barrier=0")) => {
            (Verdict::Failed, "barriers are off: a power cut takes synced data; mount it without nobarrier")
        }
        _ => (Verdict::Ok, "a local file system"),
    };
    let data = serde_json::json!({ "type": kind, "options": options });
    Ok(Finding { check: "file system", verdict, text: format!("{kind}: {comment}"), data })
}

/// File systems whose disk is another machine's, or another program's.
fn is_remote(kind: &str) -> bool {
    let exact = ["nfs", "nfs4", "cifs", "smb3", "9p", "virtiofs", "overlay", "ceph", "lustre", "gfs2", "ocfs2", "fuse"];
    // `fuse.sshfs` and the like; `fuseblk` is a local disk.
    exact.contains(&kind) || kind.starts_with("fuse.")
}

/// Type and options of the mount that holds `folder`: the longest matching mount point, the last
/// of those.
fn mount_of<'a>(mounts: &'a str, folder: &Path) -> Option<(&'a str, &'a str)> {
    let mut best: Option<(usize, &str, &str)> = None;
    for line in mounts.lines() {
        let mut fields = line.split(' ').skip(1);
        let (Some(point), Some(kind), Some(options)) = (fields.next(), fields.next(), fields.next()) else { continue };
        let length = Path::new(point).components().count();
        if folder.starts_with(point) && best.is_none_or(|(longest, ..)| length >= longest) {
            best = Some((length, kind, options));
        }
    }
    best.map(|(_, kind, options)| (kind, options))
}

fn space(folder: &Path) -> Result<Finding> {
    let space = rustix::fs::statvfs(folder).with_context(|| format!("cannot examine {}", folder.display()))?;
    let (free, total) = (space.f_bavail * space.f_frsize, space.f_blocks * space.f_frsize);
    let percent = free * 100 / total.max(1);
    let (verdict, advice) = if percent < SPACE_MIN_PERCENT {
        (Verdict::Warning, ": make room, or lower log.retention and the budget of the tables")
    } else {
        (Verdict::Ok, "")
    };
    let text = format!("{} of {} free ({percent} %){advice}", format_size(free), format_size(total));
    let data = serde_json::json!({ "free_bytes": free, "total_bytes": total });
    Ok(Finding { check: "disk space", verdict, text, data })
}

fn file_limit() -> Result<Finding> {
    let limits = fs::read_to_string("/proc/self/limits").context("cannot read /proc/self/limits")?;
    let soft = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))
        .and_then(|rest| rest.split_whitespace().next())
        .context("/proc/self/limits does not name the limit of open files")?;
    let limit = if soft == "unlimited" { u64::MAX } else { soft.parse()? };
    let (verdict, comment) = if limit < FILES_MIN {
        (Verdict::Warning, format!("about as many connections; raise it with `ulimit -n {FILES_MIN}` or LimitNOFILE="))
    } else {
        (Verdict::Ok, "enough for as many connections".to_owned())
    };
    let data = serde_json::json!({ "limit": limit });
    Ok(Finding { check: "file limit", verdict, text: format!("{soft}: {comment}"), data })
}

/// Whether the store of `snapshots.url` works.
fn snapshots(config: &Config) -> Finding {
    let (verdict, text) = match config.snapshots.probe(&config.data_dir) {
        Ok(place) => (Verdict::Ok, format!("an object was written, listed, read and removed: {place}")),
        Err(error) => (Verdict::Failed, error),
    };
    Finding { check: "snapshots", verdict, text, data: serde_json::json!({}) }
}

fn clock() -> Finding {
    #[expect(clippy::disallowed_methods, reason = "the wall clock is what is examined")]
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let synchronized = clock::is_synchronized();
    let (verdict, text) = if now.as_secs() < EARLIEST_UNIX_SECONDS {
        (Verdict::Failed, "stands before 2026, it was never set: set it, or run chrony")
    } else if synchronized == Some(true) {
        (Verdict::Ok, "kept in step by the kernel")
    } else {
        (
            Verdict::Warning,
            "nothing that the kernel knows of keeps it in step, ingest times may drift: run chrony or systemd-timesyncd",
        )
    };
    let data = serde_json::json!({ "unix_seconds": now.as_secs(), "synchronized": synchronized });
    Finding { check: "clock", verdict, text: text.to_owned(), data }
}

fn port(check: &'static str, address: SocketAddr) -> Finding {
    let (verdict, text) = match TcpListener::bind(address) {
        Ok(_) => (Verdict::Ok, format!("{address} is free")),
        Err(error) => (Verdict::Warning, format!("{address} cannot be used ({error}); a server may be running")),
    };
    Finding { check, verdict, text, data: serde_json::json!({ "address": address.to_string() }) }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sync_that_is_too_fast_is_not_believed() {
        for (us, verdict) in [
            (0, Verdict::Failed),
            (7, Verdict::Failed),
            (20, Verdict::Ok),
            (5_000, Verdict::Ok),
            (60_000, Verdict::Warning),
        ] {
            assert_eq!(judge_sync(Duration::from_micros(us)).0, verdict, "{us} µs");
        }
    }

    #[test]
    fn what_an_acknowledgement_means_depends_on_class_and_sync() {
        for (class, sync, verdict, text) in [
            (Class::All, Verdict::Ok, Verdict::Ok, "kill -9 and a power cut"),
            (Class::All, Verdict::Failed, Verdict::Failed, "cannot be trusted"),
            (Class::Leader, Verdict::Ok, Verdict::Warning, "no power cut"),
        ] {
            let finding = acknowledgement(class, sync);
            assert!(finding.verdict == verdict && finding.text.contains(text), "{finding:?}");
        }
    }

    #[test]
    fn disks_of_others_are_told_from_local_ones() {
        for (kind, expected) in [
            ("ext4", false),
            ("xfs", false),
            ("fuseblk", false),
            ("fuse.sshfs", true),
            ("virtiofs", true),
            ("nfs4", true),
        ] {
            assert_eq!(is_remote(kind), expected, "{kind}");
        }
    }

    #[test]
    fn the_longest_mount_point_wins() {
        let mounts = "/dev/a / ext4 rw 0 0\ntmpfs /data tmpfs rw 0 0\n/dev/b /data/log xfs rw,nobarrier 0 0\n";
        for (folder, kind) in [("/home", "ext4"), ("/data", "tmpfs"), ("/data/log/x", "xfs"), ("/database", "ext4")] {
            assert_eq!(mount_of(mounts, Path::new(folder)).unwrap().0, kind, "{folder}");
        }
    }
}
