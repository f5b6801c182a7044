//! One fault after the other, and what is there in the end.

use crate::{
    Asked,
    devices::{Load, longest_gap},
    hurt::Fault,
    owner::Owner,
    table::{Struck, Table},
};
use anyhow::{Context as _, Result, bail, ensure};
use floodplain_log::{Log, Partition, WatermarkSink};
use floodplain_log_kafka::{KafkaConfig, KafkaLog};
use floodplain_testkit::{
    Copies, Report, Stamp, Violation,
    folding::{Counted, FoldStreams, each},
    kafka::{KafkaCluster, KafkaJars, KafkaOptions},
};
use floodplain_types::{Clock, Position, SystemClock};
use rand::{SeedableRng as _, rngs::SmallRng};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Of each stream, and slots.
pub(crate) const PARTITIONS: u32 = 4;
const OWNERS: usize = 2;
/// How long the cluster may need to mend, and the fold to catch up.
const PATIENCE: Duration = Duration::from_secs(180);
/// Acknowledgements of each partition between two faults, at least.
const ACKS_BETWEEN: usize = 50;
/// An owner that dies is missed after 10 s; its transaction may then stand as long, and the coordinator may move.
const TOPICS: [&str; 5] =
    ["default.input", "default.counts", "default._folds", "__consumer_offsets", "__transaction_state"];

/// As production has it, but for what grows with the machine, and with all records until the end.
pub(crate) fn kafka_config(bootstrap: &str) -> KafkaConfig {
    KafkaConfig { producers: 2, retention: None, ..KafkaConfig::new(bootstrap.split(',')) }
}

/// What runs, and is hurt.
#[derive(Debug)]
pub(crate) struct Campaign {
    // Dropped in this order.
    pub(crate) owners: Vec<Owner>,
    pub(crate) load: Arc<Load>,
    observer: Arc<KafkaLog>,
    outputs: Arc<Moved>,
    pub(crate) cluster: KafkaCluster,
    /// Acknowledged while two of three brokers were gone.
    pub(crate) acked_alone: usize,
}

/// When the end of each partition of the outputs moved.
#[derive(Debug, Default)]
struct Moved(Mutex<BTreeMap<Partition, Vec<Instant>>>);

impl WatermarkSink for Moved {
    fn advanced(&self, watermarks: &[(Partition, Position)]) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (partition, _) in watermarks {
            all.entry(*partition).or_default().push(Instant::now());
        }
    }
}

/// Whether all was well. What each fault did, and the table, go to stdout.
pub(crate) fn run(asked: &Asked) -> Result<bool> {
    println!("faults: {} faults, seed {}", asked.faults, asked.seed);
    let dir = tempfile::Builder::new().prefix("floodplain-faults-").tempdir()?;
    let log = std::fs::File::create(dir.path().join("log"))?;
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_max_level(tracing::Level::INFO);
    subscriber.with_writer(Mutex::new(log)).init();
    let result = in_dir(dir.path(), asked);
    if !matches!(result, Ok(true)) {
        println!("faults: logs and data are in {}", dir.keep().display());
    }
    result
}

fn in_dir(dir: &std::path::Path, asked: &Asked) -> Result<bool> {
    let options =
        KafkaOptions { proxied: true, start_timeout: Duration::from_secs(300), ..KafkaOptions::recommended() };
    let cluster = KafkaCluster::start(&KafkaJars::find()?, 3, dir, options)?;
    let observer = KafkaLog::open(clock(), kafka_config(&cluster.bootstrap()))?;
    let streams = FoldStreams::open(&*observer, PARTITIONS);
    let outputs = Arc::new(Moved::default());
    observer.watch(Arc::clone(&outputs) as Arc<dyn WatermarkSink>);
    let writers = KafkaLog::open(clock(), writers_config(&cluster.bootstrap()))?;
    let load = Arc::new(Load::new(writers, streams.input.clone()));
    let owners =
        (0..OWNERS).map(|number| Owner::start(number, &cluster.bootstrap(), dir)).collect::<Result<Vec<_>>>()?;
    let mut campaign = Campaign { owners, load, observer, outputs, cluster, acked_alone: 0 };
    let load = Arc::clone(&campaign.load);
    let began = Instant::now();
    let mut table = Table::default();
    std::thread::scope(|scope| {
        for (submitter, device) in (0..).zip(load.devices()) {
            let load = &load;
            scope.spawn(move || load.run(&device, submitter));
        }
        let done = campaign.strike(&streams, asked, &mut table);
        load.stop();
        done
    })?;
    println!("faults: {} faults in {} min; all is read", asked.faults, began.elapsed().as_secs() / 60);
    let verdict = campaign.verdict(&streams)?;
    table.print();
    verdict.print(&campaign);
    Ok(verdict.is_clean() && campaign.acked_alone == 0)
}

fn clock() -> Arc<dyn Clock> {
    Arc::new(SystemClock)
}

/// A process that is killed waits for nothing.
fn writers_config(bootstrap: &str) -> KafkaConfig {
    KafkaConfig { close_timeout: Duration::ZERO, ..kafka_config(bootstrap) }
}

impl Campaign {
    /// A log for the writers' next process.
    pub(crate) fn open(&self) -> Result<Arc<KafkaLog>> {
        Ok(KafkaLog::open(clock(), writers_config(&self.cluster.bootstrap()))?)
    }

    fn strike(&mut self, streams: &FoldStreams, asked: &Asked, table: &mut Table) -> Result<()> {
        let mut rng = SmallRng::seed_from_u64(asked.seed);
        let faults = asked.faults;
        self.mend(streams).context("before the first fault")?;
        let began = Instant::now();
        for number in 1..=faults {
            let fault = Fault::draw(&mut rng, &asked.only);
            // What is said when it does not end well.
            tracing::info!(number, %fault, "fault");
            let at = Instant::now();
            let what = fault.run(self, &mut rng).with_context(|| format!("fault {number}: {fault}"))?;
            self.mend(streams).with_context(|| format!("after fault {number}: {fault}, {what}"))?;
            let struck = Struck { outage: self.load.outage(at), outputs: self.outputs_outage(streams, at) };
            let left = began.elapsed() / u32::try_from(number)? * u32::try_from(faults - number)?;
            println!(
                "faults: {number}/{faults}, {} min left: {fault} ({what}): nothing acknowledged for {:.1} s, no outputs for {:.1} s",
                left.as_secs() / 60,
                struck.outage.as_secs_f64(),
                struck.outputs.as_secs_f64()
            );
            table.add(fault, struck);
        }
        Ok(())
    }

    /// Waits until all copies are in sync, and each partition acknowledges and has outputs again.
    fn mend(&mut self, streams: &FoldStreams) -> Result<()> {
        self.wait("all copies are in sync", |campaign| {
            TOPICS.iter().all(|topic| {
                let partitions = campaign.cluster.topic(topic);
                partitions.is_ok_and(|all| !all.is_empty() && all.iter().all(|one| one.in_sync.len() == 3))
            })
        })?;
        let before = self.load.acked();
        self.wait("each partition acknowledges", |campaign| {
            campaign.load.acked().iter().zip(&before).all(|(now, before)| *now >= before + ACKS_BETWEEN)
        })?;
        let ends: Vec<Position> =
            (0..PARTITIONS).map(|index| self.observer.watermark(streams.counts.partition(index))).collect();
        self.wait("each slot has outputs", |campaign| {
            let watermark = |index| campaign.observer.watermark(streams.counts.partition(index));
            (0..PARTITIONS).zip(&ends).all(|(index, before)| watermark(index) > *before)
        })
    }

    fn wait(&mut self, what: &str, holds: impl Fn(&Self) -> bool) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !holds(self) {
            self.owners.iter_mut().try_for_each(Owner::must_run)?;
            if Instant::now() > deadline {
                bail!("waited {} s in vain: {what}", PATIENCE.as_secs());
            }
            std::thread::park_timeout(Duration::from_millis(50));
        }
        Ok(())
    }

    fn outputs_outage(&self, streams: &FoldStreams, from: Instant) -> Duration {
        let all = self.outputs.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of = |index| all.get(&streams.counts.partition(index)).map(|moved| longest_gap(moved, from));
        (0..PARTITIONS).filter_map(of).max().unwrap_or_default()
    }

    /// Reads all once the fold has come to the end.
    fn verdict(&mut self, streams: &FoldStreams) -> Result<Verdict> {
        // Writers have ended, so the ends stand.
        let total: u64 = self.load.acked().iter().sum::<usize>() as u64;
        ensure!(total > 0, "nothing was acknowledged");
        let expected: Vec<Vec<Counted>> =
            (0..PARTITIONS).map(|index| streams.expected(&*self.observer, index).0).collect();
        let count: usize = expected.iter().map(Vec::len).sum();
        let deadline = Instant::now() + PATIENCE;
        let mut found = streams.found(&*self.observer);
        while found.len() < count && Instant::now() < deadline {
            std::thread::park_timeout(Duration::from_secs(1));
            found = streams.found(&*self.observer);
        }
        self.owners.iter_mut().try_for_each(Owner::end)?;
        let mut payloads = Vec::new();
        for index in 0..PARTITIONS {
            each(&*self.observer, &streams.input, index, |_, record| {
                payloads.push(record.value.unwrap_or_default().to_vec());
            });
        }
        let raw = self.load.history.check(payloads.iter().map(Vec::as_slice), Copies::PerAttempt);
        let effect = self.load.history.check(found.iter().map(|output| output.value.as_slice()), Copies::PerAttempt);
        // Stricter than the history: there a repeat may come where its last attempt allows.
        let (mut last, mut again, mut reordered) = (BTreeMap::new(), 0, 0);
        let mut seen = BTreeSet::new();
        for output in &found {
            let Stamp { client, seq } = Stamp::parse(&output.value).context("an output is no payload")?;
            let newest = last.entry(client.clone()).or_insert(0);
            if !seen.insert((client, seq)) {
                again += 1;
            } else if seq < *newest {
                reordered += 1;
            }
            *newest = seq.max(*newest);
        }
        let mut left: BTreeMap<Counted, i64> = BTreeMap::new();
        expected.into_iter().flatten().for_each(|output| *left.entry(output).or_default() += 1);
        found.into_iter().for_each(|output| *left.entry(output).or_default() -= 1);
        let missing = left.values().filter(|count| **count > 0).sum::<i64>();
        let more = -left.values().filter(|count| **count < 0).sum::<i64>();
        Ok(Verdict { raw, effect, again, reordered, missing, more })
    }
}

/// What was found in the end.
struct Verdict {
    /// What devices have sent, as it is in the log.
    raw: Report,
    /// As the fold has said it.
    effect: Report,
    /// Outputs of one record beyond the first.
    again: u64,
    /// Outputs behind that of a later record of their device.
    reordered: u64,
    /// Against a replay of the whole input.
    missing: i64,
    more: i64,
}

impl Verdict {
    fn count(&self, is: impl Fn(&Violation) -> bool) -> (usize, usize) {
        let count = |report: &Report| report.violations.iter().filter(|violation| is(violation)).count();
        (count(&self.raw), count(&self.effect))
    }

    /// Records that the client has sent twice by itself are no fault: the fold drops them.
    fn is_clean(&self) -> bool {
        let of_raw = self.raw.violations.iter().filter(|violation| !matches!(violation, Violation::Duplicate(_)));
        let violations = of_raw.count() + self.effect.violations.len();
        violations == 0 && self.again == 0 && self.reordered == 0 && self.missing == 0 && self.more == 0
    }

    fn print(&self, campaign: &Campaign) {
        let (unknown, refused, repeated) = campaign.load.ends();
        let lost = self.count(|violation| matches!(violation, Violation::Lost(_)));
        let order = self.count(|violation| matches!(violation, Violation::Order(_)));
        let twice = self.count(|violation| matches!(violation, Violation::Duplicate(_)));
        println!("\n| | records | outputs of the fold |");
        println!("|---|--:|--:|");
        println!("| acknowledged | {} | |", self.raw.acked);
        println!("| without a known outcome, refused, sent again | {unknown}, {refused}, {repeated} | |");
        println!("| read | {} | {} |", self.raw.read, self.effect.read);
        println!("| lost | {} | {} |", lost.0, lost.1);
        println!("| doubled, since they were sent again | {} | {} |", self.raw.duplicates, self.again);
        println!("| doubled by the log | {} | {} |", twice.0, twice.1);
        println!("| reordered | {} | {} |", order.0, self.reordered.max(order.1 as u64));
        println!("| missing, too many against a replay | | {}, {} |", self.missing, self.more);
        println!("| acknowledged while two of three brokers were gone | {} | |", campaign.acked_alone);
        for report in [&self.raw, &self.effect].iter().filter(|report| !report.violations.is_empty()) {
            println!("\n{report}");
        }
    }
}
