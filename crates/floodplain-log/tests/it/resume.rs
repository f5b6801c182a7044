//! What single records cost that are fetched by their references, a few at a time, as a broker does for a session that comes back: little more
//! than their own bytes, however many there are between them.

use floodplain_log::{
    Append, BATCH_BYTES, BatchBuilder, CompletionSink, Compression, Embedded, EmbeddedConfig, Log, Outcome, Partition,
    RecordRef, Reply,
};
use floodplain_testkit::{Counts, FaultDisk, Outcomes, Stamp};
use floodplain_types::{Class, Clock, ManualClock, Position, StreamId, StreamName, TenantId, Timestamp};
use std::sync::Arc;

const PARTITIONS: u32 = 8;
/// Records of 100 bytes in each partition.
const RECORDS: u64 = 4_000;
/// Records of one batch.
const BATCH: u64 = 20;
/// Records that are fetched at once.
const PORTION: usize = 64;
/// Of the index of a segment.
const PAGE: u64 = 4096;

struct Bed {
    disk: FaultDisk,
    clock: Arc<ManualClock>,
    counts: Counts,
}

impl Bed {
    fn open(&self) -> Arc<Embedded> {
        let config = EmbeddedConfig {
            journal_bytes: 256 << 10,
            tail_bytes: 0,
            reserve_bytes: Some(0),
            ..EmbeddedConfig::new("/log")
        };
        let clock = Arc::clone(&self.clock) as Arc<dyn Clock>;
        metrics::with_local_recorder(&self.counts, || Embedded::open(Arc::new(self.disk.clone()), clock, config))
            .unwrap()
            .0
    }

    fn segments(&self) -> u64 {
        self.disk.files().iter().filter(|(path, _)| path.to_string_lossy().contains("segment-")).count() as u64
    }
}

fn stamp(partition: Partition, number: u64) -> Stamp {
    Stamp::new(&format!("p{}", partition.index), number)
}

/// A log with everything in segments.
fn filled() -> (Bed, Vec<Partition>) {
    let clock = Arc::new(ManualClock::new(Timestamp::from_millis(1_000)));
    let bed = Bed { disk: FaultDisk::new(1), clock, counts: Counts::default() };
    let log = bed.open();
    let id = StreamId { tenant: TenantId::default_tenant(), stream: StreamName::new("s").unwrap(), generation: 0 };
    let stream = log.open_stream(&id, PARTITIONS).unwrap();
    let partitions: Vec<_> = (0..PARTITIONS).map(|index| stream.partition(index)).collect();
    let outcomes = Outcomes::new();
    for first in (0..RECORDS).step_by(BATCH as usize) {
        let batch = |partition: Partition| {
            let mut builder = BatchBuilder::limited(BATCH_BYTES);
            for number in first..first + BATCH {
                builder.push(1, Some(b"device"), Some(&stamp(partition, number).payload(100)), []).unwrap();
            }
            (partition, builder.finish(Compression::None).unwrap())
        };
        let batches = partitions.iter().map(|partition| batch(*partition)).collect();
        let sink = Arc::clone(&outcomes) as Arc<dyn CompletionSink>;
        log.submit(Append { batches, class: Class::All }, Some(Reply { sink, tag: first }));
        assert!(matches!(outcomes.wait(first, &|| ()), Outcome::Committed(_)));
    }
    drop(log);
    // What was the active journal becomes a segment, too.
    bed.open().maintain().unwrap();
    assert!(bed.segments() > 10, "{} segments", bed.segments());
    (bed, partitions)
}

/// References to every `every`-th record.
fn references(log: &dyn Log, partition: Partition, every: u64) -> Vec<RecordRef> {
    let (mut refs, mut at) = (Vec::new(), Position::ZERO);
    while at < log.watermark(partition) {
        let read = log.read(partition, at, 64 << 10).unwrap();
        for batch in &read.batches {
            let records = batch.batch.records().unwrap();
            let found = records.iter().map(|record| batch.record_ref(&record.unwrap()));
            refs.extend(found.filter(|reference| reference.position.offset.is_multiple_of(every)));
        }
        at = read.next;
    }
    assert_eq!(refs.len() as u64, RECORDS / every);
    refs
}

/// Fetches records in portions, of one partition after the other, and checks them; gives their bytes.
fn fetch(log: &dyn Log, wanted: &[(Partition, Vec<RecordRef>)]) -> u64 {
    let mut bytes = 0;
    let portions = wanted.iter().map(|(_, refs)| refs.len().div_ceil(PORTION)).max().unwrap();
    for portion in 0..portions {
        for (partition, refs) in wanted {
            let Some(refs) = refs.chunks(PORTION).nth(portion) else { continue };
            let fetched = log.fetch(*partition, refs).unwrap();
            assert_eq!(fetched.len(), refs.len());
            for (record, reference) in fetched.iter().zip(refs) {
                assert_eq!(record.position, reference.position);
                let value = floodplain_log::Record::parse(&record.bytes).unwrap().value.unwrap();
                assert_eq!(Stamp::parse(value), Ok(stamp(*partition, record.position.offset)));
                bytes += record.bytes.len() as u64;
            }
        }
    }
    bytes
}

#[test]
fn records_in_segments_are_fetched_with_little_beside_them() {
    let (bed, partitions) = filled();
    for every in [1, 10, 100] {
        let log = bed.open();
        let wanted: Vec<_> = partitions.iter().map(|p| (*p, references(&*log, *p, every))).collect();
        drop(log);
        // Nothing of it is in memory. House-keeping looks for what retention may take, once, and reads no more then.
        let log = bed.open();
        log.maintain().unwrap();
        let read = || bed.disk.stats().read_bytes;
        let counted = || bed.counts.get("floodplain_log_read_bytes_total");
        let index = || bed.counts.get("floodplain_log_index_read_bytes_total");
        let before = (read(), counted(), index());
        let delivered = fetch(&*log, &wanted);
        let first = read() - before.0;
        println!("1 in {every}: {delivered} bytes delivered, {first} read");
        assert!(first <= 2 * delivered + (1 << 20), "1 in {every}: {first} bytes read for {delivered}");
        // Of each segment the page that says where its partitions are, once.
        assert!(first <= delivered + bed.segments() * PAGE, "1 in {every}: {first} bytes read for {delivered}");
        assert_eq!((counted() - before.1, index() - before.2), (first, first - delivered), "counters tell the same");
        // The next session that wants them finds these pages in memory.
        let before = read();
        assert_eq!(fetch(&*log, &wanted), delivered);
        assert_eq!(read() - before, delivered);
    }
}
