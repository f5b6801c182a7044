//! Power cuts below the log alone.

use super::image::Image;
use anyhow::{Context as _, bail, ensure};
use floodplain_log::{
    Append, BatchBuilder, CompletionSink, Compression, Embedded, EmbeddedConfig, Log, OsDisk, Outcome, Reply, Stream,
};
use floodplain_testkit::{Copies, History, Outcomes, Stamp};
use floodplain_types::{Class, Clock as _, StreamId, StreamName, SystemClock, TenantId};
use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};
use std::{
    collections::VecDeque,
    io::{BufRead, BufReader, BufWriter, Write as _},
    path::Path,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
        mpsc,
    },
    time::Duration,
};

/// After so many cuts the file system is made anew.
const CUTS_PER_IMAGE: u64 = 10;
const PARTITIONS: u32 = 8;
/// Each writer counts from here times its number, so that no sequence comes twice.
const SEQS_PER_WRITER: u64 = 1 << 32;

/// Cuts `cuts` times in all, on each file system as often.
pub(super) fn campaign(cuts: u64, file_systems: &[&str], seed: u64) -> anyhow::Result<()> {
    let (mut rng, mut acked, mut copied) = (SmallRng::seed_from_u64(seed), 0, 0);
    for (i, fs) in file_systems.iter().enumerate() {
        let share = cuts / file_systems.len() as u64 + u64::from((i as u64) < cuts % file_systems.len() as u64);
        let mut left = share;
        while left > 0 {
            let here = left.min(CUTS_PER_IMAGE);
            let sums = cut_one_image(fs, here, &mut rng)?;
            (acked, copied) = (acked + sums.0, copied + sums.1);
            left -= here;
        }
        println!("powercut: {fs}: {share} cuts, nothing acknowledged was lost");
    }
    println!("powercut: {cuts} cuts, {acked} acknowledged messages found, {copied} bytes above the last sync kept");
    Ok(())
}

/// Nanoseconds since 1970, on the clock that parent and child share.
fn now_ns() -> i64 {
    SystemClock.now().0
}

fn open(dir: &Path) -> anyhow::Result<(Arc<Embedded>, u64)> {
    // Small journals, so that cuts hit their ends and the making of segments too.
    let config = EmbeddedConfig { journal_bytes: 1 << 20, reserve_bytes: Some(32 << 20), ..EmbeddedConfig::new(dir) };
    let (log, report) = Embedded::open(Arc::new(OsDisk), Arc::new(SystemClock), config)?;
    ensure!(report.corrupt.is_empty(), "a power cut is no damage, but found {:?}", report.corrupt);
    Ok((log, report.copied_bytes))
}

fn stream(log: &dyn Log) -> anyhow::Result<Stream> {
    let (tenant, stream) = (TenantId::default_tenant(), StreamName::new("load")?);
    Ok(log.open_stream(&StreamId { tenant, stream, generation: 0 }, PARTITIONS)?)
}

/// Cuts, and gives the acknowledged messages and the bytes that recovery had to write again.
fn cut_one_image(fs: &str, cuts: u64, rng: &mut SmallRng) -> anyhow::Result<(u64, u64)> {
    let mut image = Image::make(fs)?;
    image.mount()?;
    let dir = image.mount_point().join("log");
    let (history, mut copied) = (Arc::new(History::new()), 0);
    for cut in 0..cuts {
        let acked_before = history.acked();
        let mut child = Command::new(std::env::current_exe()?)
            .arg("writer")
            .arg(&dir)
            .arg(cut.to_string())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let lines = BufReader::new(child.stdout.take().context("stdout is piped")?);
        let (first_ack, under_load) = mpsc::sync_channel(1);
        let pulled_at_ns = Arc::new(AtomicI64::new(i64::MAX));
        let recorder = std::thread::spawn({
            let (history, pulled_at_ns) = (Arc::clone(&history), Arc::clone(&pulled_at_ns));
            move || record(lines, &history, &first_ack, &pulled_at_ns)
        });
        let started = under_load.recv_timeout(Duration::from_secs(60)).is_ok();
        // The moment is the fault: nothing is waited for.
        std::thread::sleep(Duration::from_micros(rng.random_range(1_000..500_000)));
        pulled_at_ns.store(now_ns(), Ordering::SeqCst);
        let pulled = image.pull_the_plug();
        child.kill()?;
        child.wait()?;
        ensure!(recorder.join().is_ok(), "the output of the writer cannot be read");
        pulled?;
        ensure!(started, "{fs}, cut {cut}: the writer acknowledged nothing within a minute");
        image.unmount()?;
        image.mount()?;

        let (log, rewritten) = open(&dir).with_context(|| format!("{fs}, cut {cut}: the log does not open"))?;
        copied += rewritten;
        let payloads = read_all(&*log)?;
        let report = history.check(payloads.iter().map(Vec::as_slice), Copies::PerAttempt);
        println!(
            "powercut: {fs}, cut {cut}: {} acknowledged since the last one; {report}",
            history.acked() - acked_before
        );
        ensure!(report.violations.is_empty(), "{fs}, cut {cut}: {report}");
        history.settle(payloads.iter().map(Vec::as_slice));
    }
    image.unmount()?;
    Ok((history.acked(), copied))
}

/// Takes the lines of a writer: `i`nvoked, `a`cknowledged, `r`efused, each with its time.
fn record(lines: impl BufRead, history: &History, first_ack: &mpsc::SyncSender<()>, pulled_at_ns: &AtomicI64) {
    for line in lines.lines() {
        let Ok(line) = line else { return };
        // The last line may be cut short by the kill; what it would have said stays open.
        let mut words = line.split(' ');
        let mut word = || words.next();
        let (Some(what), Some(client), Some(seq), Some(time_ns), Some(".")) = (word(), word(), word(), word(), word())
        else {
            continue;
        };
        let (Ok(seq), Ok(time_ns)) = (seq.parse(), time_ns.parse::<i64>()) else { continue };
        let stamp = Stamp::new(client, seq);
        match what {
            "i" => history.invoke(&stamp),
            "a" if time_ns < pulled_at_ns.load(Ordering::SeqCst) => {
                history.ok(&stamp);
                // Full means that it was said before.
                first_ack.try_send(()).ok();
            }
            "r" => history.fail(&stamp),
            _ => {}
        }
    }
}

fn read_all(log: &dyn Log) -> anyhow::Result<Vec<Vec<u8>>> {
    let (stream, mut payloads) = (stream(log)?, Vec::new());
    for index in 0..PARTITIONS {
        let partition = stream.partition(index);
        let mut at = log.start(partition);
        while at < log.watermark(partition) {
            let read = log.read(partition, at, 1 << 20)?;
            for batch in &read.batches {
                for record in &batch.batch.records()? {
                    payloads.push(record?.value.unwrap_or_default().to_vec());
                }
            }
            at = read.next;
        }
    }
    Ok(payloads)
}

/// The child: appends as fast as it can and prints what becomes of it.
pub(super) fn write_until_it_fails(dir: &Path, number: &str) -> anyhow::Result<()> {
    const ROUNDS_UNDER_WAY: usize = 3;
    let number: u64 = number.parse()?;
    let mut rng = SmallRng::seed_from_u64(number);
    let (log, _) = open(dir)?;
    let stream = stream(&*log)?;
    let mut out = BufWriter::new(std::io::stdout().lock());
    let (outcomes, mut tag) = (Outcomes::new(), 0);
    let mut seqs = [number * SEQS_PER_WRITER; PARTITIONS as usize];
    let mut rounds: VecDeque<Vec<(u64, Vec<Stamp>)>> = VecDeque::new();
    loop {
        let (mut round, mut appends) = (Vec::new(), Vec::new());
        for _ in 0..rng.random_range(1..40) {
            let index = rng.random_range(0..PARTITIONS);
            let (mut builder, mut stamps) = (BatchBuilder::new(), Vec::new());
            for _ in 0..rng.random_range(1..4) {
                let seq = &mut seqs[index as usize];
                let stamp = Stamp::new(&format!("p{index}"), *seq);
                *seq += 1;
                builder.push(1, None, Some(&stamp.payload(rng.random_range(0..3_000))), [])?;
                writeln!(out, "i {} {} 0 .", stamp.client, stamp.seq)?;
                stamps.push(stamp);
            }
            let batch = builder.finish(Compression::None).context("a record was pushed")?;
            appends.push(Append { batches: vec![(stream.partition(index), batch)], class: Class::All });
            round.push((tag + round.len() as u64, stamps));
        }
        // Said before it is done: what is found later was always heard of.
        out.flush()?;
        for append in appends {
            let sink = Arc::clone(&outcomes) as Arc<dyn CompletionSink>;
            log.submit(append, Some(Reply { sink, tag }));
            tag += 1;
        }
        rounds.push_back(round);
        if rounds.len() == ROUNDS_UNDER_WAY {
            for (tag, stamps) in rounds.pop_front().unwrap_or_default() {
                let what = match outcomes.wait(tag, &|| ()) {
                    Outcome::Committed(_) => "a",
                    Outcome::Refused(_) => "r",
                    Outcome::Unknown => "u",
                };
                let time_ns = now_ns();
                for Stamp { client, seq } in stamps {
                    writeln!(out, "{what} {client} {seq} {time_ns} .")?;
                }
            }
            out.flush()?;
        }
        if let Some(cause) = log.poisoned() {
            bail!("poisoned: {cause}");
        }
    }
}
