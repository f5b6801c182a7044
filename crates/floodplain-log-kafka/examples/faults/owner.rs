//! A process that owns slots and folds, until it is told to end.

use crate::campaign::{PARTITIONS, kafka_config};
use anyhow::{Context as _, Result, ensure};
use floodplain_log::{Disk, Fence, Log, OsDisk, Owners, Slot};
use floodplain_log_kafka::{KafkaLog, KafkaOwners, OwnersConfig};
use floodplain_testkit::{
    folding::{Driver, Drove, FoldStreams},
    owning::Node,
};
use floodplain_types::{Clock as _, SystemClock};
use std::{
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

/// The argument that makes this program one.
pub(crate) const VERB: &str = "owner";
/// Records between two snapshots of a slot, in bytes.
const SNAPSHOT_BYTES: u64 = 256 << 10;
/// What runs for a commit may need all its timeouts, more than once.
const PATIENCE: Duration = Duration::from_secs(600);

pub(crate) fn owners_config() -> OwnersConfig {
    OwnersConfig { slots: PARTITIONS, ..OwnersConfig::default() }
}

/// Folds what it owns until its input ends.
pub(crate) fn run(args: &[String]) -> Result<()> {
    let [bootstrap, dir] = args else { anyhow::bail!("owner BOOTSTRAP DIR") };
    tracing_subscriber::fmt().with_max_level(tracing::Level::INFO).with_ansi(false).with_writer(std::io::stderr).init();
    // A thread that panics is a finding, not something to be survived.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        hook(info);
        std::process::exit(101);
    }));
    let dir = std::fs::canonicalize(dir)?;
    std::env::set_current_dir(&dir)?;
    let log = KafkaLog::open(Arc::new(SystemClock), kafka_config(bootstrap))?;
    let owners = KafkaOwners::open(&log, owners_config())?;
    let mut node = Node::new(Arc::clone(&log) as Arc<dyn Log>, Arc::clone(&owners) as Arc<dyn Owners>, Arc::new(|| ()));
    node.patience = PATIENCE;
    let node = Arc::new(node);
    let stops = Arc::new(AtomicBool::new(false));
    let works = std::thread::spawn({
        let (node, stops) = (Arc::clone(&node), Arc::clone(&stops));
        move || work(&node, &stops)
    });
    std::io::stdin().read_to_end(&mut Vec::new())?;
    stops.store(true, Ordering::Relaxed);
    ensure!(works.join().is_ok(), "it has said what is wrong");
    owners.close();
    Ok(())
}

/// A thread for each fence.
fn work(node: &Arc<Node>, stops: &Arc<AtomicBool>) {
    let disk: Arc<dyn Disk> = Arc::new(OsDisk);
    let mut running: Vec<(Fence, JoinHandle<()>)> = Vec::new();
    while !stops.load(Ordering::Relaxed) {
        for fence in node.held.fences() {
            if running.iter().any(|(other, _)| *other == fence) {
                continue;
            }
            // Snapshots of a slot have one writer at a time: who worked for it before has ended, or soon does.
            let before = running.iter().position(|(other, _)| other.slot() == fence.slot());
            let before = before.map(|at| running.swap_remove(at).1);
            let (node, stops, disk) = (Arc::clone(node), Arc::clone(stops), Arc::clone(&disk));
            let work = move || {
                if let Some(before) = before {
                    before.join().expect("it would have ended the process");
                }
                fold(&node, fence, &disk, &stops);
            };
            running.push((fence, std::thread::spawn(work)));
        }
        std::thread::park_timeout(Duration::from_millis(20));
    }
    running.into_iter().for_each(|(_, thread)| thread.join().expect("it would have ended the process"));
}

fn fold(node: &Node, fence: Fence, disk: &Arc<dyn Disk>, stops: &AtomicBool) {
    let streams = FoldStreams::open(&*node.log, PARTITIONS);
    let index =
        (0..PARTITIONS).find(|index| slot(&streams, *index) == fence.slot()).expect("each slot has a partition");
    if node.held.fence(fence.slot()) != Some(fence) {
        return;
    }
    let mut driver = Driver::new(node, &streams, index, disk);
    driver.read_bytes = 64 << 10;
    loop {
        driver.now = SystemClock.now();
        match driver.step() {
            Drove::Lost => return,
            Drove::On => {}
            Drove::Idle if stops.load(Ordering::Relaxed) && driver.runner().is_settled() => return,
            Drove::Idle => {
                if driver.runner().bytes_since_snapshot() > SNAPSHOT_BYTES {
                    driver.snapshot();
                }
                if !node.held.fences().contains(&fence) {
                    return;
                }
                std::thread::park_timeout(Duration::from_millis(5));
            }
        }
    }
}

fn slot(streams: &FoldStreams, index: u32) -> Slot {
    floodplain_log::slot_of(&streams.input.id.tenant, index, PARTITIONS)
}

/// Such a process, as the campaign sees it.
#[derive(Debug)]
pub(crate) struct Owner {
    number: usize,
    bootstrap: String,
    dir: PathBuf,
    /// The process, and what ends it when it is dropped.
    process: Option<(Child, Option<ChildStdin>)>,
}

impl Owner {
    pub(crate) fn start(number: usize, bootstrap: &str, dir: &Path) -> Result<Self> {
        let dir = dir.join(format!("owner-{number}"));
        std::fs::create_dir_all(&dir)?;
        let mut owner = Self { number, bootstrap: bootstrap.to_owned(), dir, process: None };
        owner.launch()?;
        Ok(owner)
    }

    /// Starts it with what it has on its disk.
    pub(crate) fn launch(&mut self) -> Result<()> {
        let log = File::options().create(true).append(true).open(self.dir.join("log"))?;
        let mut child = Command::new(std::env::current_exe()?)
            .arg(VERB)
            .arg(&self.bootstrap)
            .arg(&self.dir)
            .stdin(Stdio::piped())
            .stderr(log)
            .spawn()?;
        let input = child.stdin.take();
        self.process = Some((child, input));
        Ok(())
    }

    fn child(&mut self) -> Result<&mut Child> {
        let process = self.process.as_mut();
        process.map(|(child, _)| child).with_context(|| format!("owner {} does not run", self.number))
    }

    /// Fails if it has ended by itself.
    pub(crate) fn must_run(&mut self) -> Result<()> {
        let (number, log) = (self.number, self.dir.join("log"));
        let ended = self.child()?.try_wait()?;
        ensure!(ended.is_none(), "owner {number} has ended by itself ({ended:?}): see {}", log.display());
        Ok(())
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) -> Result<()> {
        let child = self.child()?;
        child.kill()?;
        child.wait()?;
        self.process = None;
        Ok(())
    }

    /// SIGSTOP or SIGCONT.
    pub(crate) fn signal(&mut self, signal: &str) -> Result<()> {
        let pid = self.child()?.id().to_string();
        let status = Command::new("kill").args([signal, &pid]).status()?;
        ensure!(status.success(), "kill {signal} {pid}");
        Ok(())
    }

    /// Lets it end as a process should.
    pub(crate) fn end(&mut self) -> Result<()> {
        let Some((child, input)) = &mut self.process else { return Ok(()) };
        drop(input.take());
        let status = child.wait()?;
        ensure!(status.success(), "owner {} ended with {status}: see {}", self.number, self.dir.join("log").display());
        self.process = None;
        Ok(())
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        if let Some((child, _)) = &mut self.process {
            drop((child.kill(), child.wait()));
        }
    }
}
