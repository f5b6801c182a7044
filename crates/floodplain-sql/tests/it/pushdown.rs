//! What a query does not want, it does not read.

use crate::fleet::{Fleet, NINE, ask, embedded, json, lines, message};
use floodplain_log::{BatchBuilder, Compression};
use floodplain_sql::{Format, Sql};
use floodplain_types::Timestamp;

const DEVICES: i64 = 20;
const MINUTES: i64 = 240;

/// Four hours of twenty devices, in batches of one minute.
fn large() -> Fleet {
    fill(Fleet::empty())
}

fn fill(fleet: Fleet) -> Fleet {
    let stream = fleet.stream("telemetry");
    let payload = [b'x'; 200];
    for minute in 0..MINUTES {
        let ms = NINE + minute * 60_000;
        fleet.clock.set(Timestamp::from_millis(ms));
        let batches = (0..DEVICES).map(|device| {
            let key = format!("d-{device}");
            let message = message(&key, "t", &payload);
            let mut builder = BatchBuilder::new();
            for _ in 0..5 {
                message.write(&mut builder, ms, [].into_iter()).unwrap();
            }
            (stream.partition_of(key.as_bytes()), builder.finish(Compression::None).unwrap())
        });
        assert!(crate::fleet::submit(&*fleet.log, batches.collect()));
    }
    fleet
}

#[test]
fn device_and_time_read_a_fraction() {
    check_fraction(&large().sql());
}

#[test]
fn device_and_time_read_a_fraction_of_files() {
    let dir = tempfile::tempdir().unwrap();
    let fleet = fill(Fleet::on(|clock| embedded(dir.path(), clock)));
    check_fraction(&fleet.sql());
}

fn check_fraction(sql: &Sql) {
    let read = |predicate: &str| {
        let answer = json(sql, &format!("SELECT count(utf8(payload)) AS n FROM records WHERE {predicate}"));
        (answer["rows"][0]["n"].as_i64().unwrap(), answer["stats"]["bytes_read"].as_u64().unwrap())
    };
    let (all, all_bytes) = read("true");
    assert_eq!(all, DEVICES * MINUTES * 5);
    let (found, device_bytes) = read("device = 'd-3'");
    assert_eq!(found, MINUTES * 5);
    assert!(device_bytes < all_bytes / 2, "a device is in one of 4 partitions: {device_bytes} of {all_bytes}");
    let (found, bytes) = read("device = 'd-3' AND received >= '2026-11-21T12:00:00Z'");
    assert_eq!(found, 60 * 5);
    assert!(bytes <= device_bytes / 3, "a quarter of the time: {bytes} of {device_bytes}");
    let early = "device = 'd-3' AND received >= '2026-11-21T09:00:00Z' AND received < '2026-11-21T09:01:00Z'";
    let (found, bytes) = read(early);
    assert_eq!(found, 5);
    assert!(bytes <= device_bytes / 50, "a minute, and one for the clock: {bytes} of {device_bytes}");
    let (found, bytes) = read("stream = 'requests'");
    assert_eq!((found, bytes), (0, 0));
    let (_, bytes) = read("partition = 2 AND offset < 10");
    assert!(bytes < all_bytes / 100, "{bytes} of {all_bytes}");
}

#[test]
fn a_limit_stops_the_scan() {
    let sql = large().sql();
    let answer = json(&sql, "SELECT payload FROM records WHERE device = 'd-3' LIMIT 3");
    assert_eq!(answer["row_count"], 3);
    let read = answer["stats"]["bytes_read"].as_u64().unwrap();
    assert!(read < 100_000, "{read}");
}

#[test]
fn explain_shows_what_was_pushed_down() {
    let sql = Fleet::sample().sql();
    for (query, expected) in [
        (
            "SELECT topic FROM records WHERE stream = 'telemetry' AND device = 'truck-1' AND offset > 2 LIMIT 7",
            "RecordsExec: partitions=1, columns=[topic], pushed=[stream in {\"telemetry\"}, device in {\"truck-1\"}, \
             offset 3..=], limit=7",
        ),
        ("SELECT count(*) FROM records", "RecordsExec: partitions=8, columns=[], pushed=[]"),
        (
            "SELECT device FROM records WHERE partition IN (0, 1) AND topic = 'x'",
            "RecordsExec: partitions=6, columns=[device, topic], pushed=[partition in {0, 1}]",
        ),
        (
            "SELECT device FROM records WHERE received >= '2026-11-21T09:00:00Z'",
            "pushed=[received 1795251600000000000..=",
        ),
    ] {
        let plan = ask(&sql, &format!("EXPLAIN {query}"), Format::Csv).unwrap().replace("\"\"", "\"");
        assert!(plan.contains(expected), "{query}:\n{plan}");
    }
    let analyzed = ask(&sql, "EXPLAIN ANALYZE SELECT device FROM records", Format::Csv).unwrap();
    assert!(analyzed.contains("bytes_read=") && analyzed.contains("records_decoded="), "{analyzed}");
}

#[test]
fn all_partitions_are_read_once() {
    let sql = large().sql();
    let counts = lines(&sql, "SELECT partition, count(*), count(DISTINCT position) FROM records GROUP BY 1 ORDER BY 1");
    assert_eq!(counts.len(), 4);
    for line in counts {
        let fields: Vec<_> = line.split(',').collect();
        assert_eq!(fields[1], fields[2], "{line}");
    }
}
