//! Limits, cancelling, freshness, formats.

use crate::fleet::{Fleet, NINE, ask, embedded, json, lines, message};
use floodplain_sql::{Config, Error, Format, Location};
use floodplain_testkit::{AdverseLog, Adversity, ModelLog, wait_until};
use floodplain_types::Timestamp;
use std::{sync::Arc, time::Duration};

/// Never ends by itself, needs little memory.
const ENDLESS: &str = "SELECT count(*) FROM generate_series(1, 1000000) a, generate_series(1, 1000000) b \
                       WHERE a.value % 7 = b.value % 11";

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

#[test]
fn sees_what_was_acknowledged_before() {
    let dir = tempfile::tempdir().unwrap();
    for fleet in [Fleet::empty(), Fleet::on(|clock| embedded(dir.path(), clock))] {
        let sql = fleet.sql();
        for n in 1..=50_usize {
            let device = format!("d-{}", n % 7);
            fleet.publish("telemetry", &message(&device, "t", b"1"), &[]);
            assert_eq!(lines(&sql, "SELECT count(*) FROM records"), [n.to_string()]);
        }
    }
}

/// Holes, duplicates, unknown outcomes, late watermarks: everything acknowledged is found once its watermark is told,
/// and no position twice.
#[test]
fn a_hostile_log_is_read_whole() {
    for seed in 0..4 {
        let fleet = Fleet::on(|clock| AdverseLog::start(Arc::new(ModelLog::new(clock)), Adversity::HARSH, seed));
        let sql = fleet.sql();
        let mut committed = Vec::new();
        for n in 0..100 {
            let (device, payload) = (format!("d-{}", n % 7), n.to_string());
            if fleet.try_publish("telemetry", &message(&device, "t", payload.as_bytes()), &[]) {
                committed.push(payload);
            }
        }
        let found = || lines(&sql, "SELECT DISTINCT utf8(payload) FROM records");
        let all = || {
            let found = found();
            committed.iter().all(|payload| found.contains(payload))
        };
        wait_until("all that was acknowledged is found", &|| {}, all);
        let doubled = lines(&sql, "SELECT partition, offset FROM records GROUP BY 1, 2 HAVING count(*) > 1");
        assert!(doubled.is_empty(), "seed {seed}: {doubled:?}");
    }
}

#[test]
fn answers_json() {
    let answer = json(
        &Fleet::sample().sql(),
        "SELECT a.device, b.device, a.qos, a.retain, a.received, a.payload, 12345678901234567 AS big, 1.5 AS f, NULL AS n, \
         [1, 2] AS l, named_struct('a', 1) AS s FROM records a JOIN records b ON a.position = b.position \
         AND a.device = b.device WHERE a.device IN ('motor-1', 'thermo-1') ORDER BY 1",
    );
    let expected = serde_json::json!([
        { "device": "motor-1", "device_2": "motor-1", "qos": 2, "retain": true,
          "received": "2026-11-21T09:10:00.000001234Z", "payload": { "base64": "/wAB" },
          "big": 12_345_678_901_234_567_i64, "f": 1.5, "n": null, "l": [1, 2], "s": { "a": 1 } },
        { "device": "thermo-1", "device_2": "thermo-1", "qos": 0, "retain": false,
          "received": "2026-11-21T09:10:00Z", "payload": "21.5",
          "big": 12_345_678_901_234_567_i64, "f": 1.5, "n": null, "l": [1, 2], "s": { "a": 1 } },
    ]);
    assert_eq!(answer["rows"], expected);
    let types: Vec<_> = answer["columns"].as_array().unwrap().iter().map(|c| c["type"].as_str().unwrap()).collect();
    let expected =
        ["text", "text", "smallint", "boolean", "timestamp", "binary", "bigint", "double", "null", "array", "struct"];
    assert_eq!(types, expected);
    assert_eq!(answer["row_count"], 2);
    assert_eq!(answer["warnings"], serde_json::json!([]));
    assert!(answer["stats"]["bytes_read"].as_u64().unwrap() > 0);
}

#[test]
fn json_of_no_rows_is_whole() {
    let answer = json(&Fleet::empty().sql(), "SELECT device FROM records");
    assert_eq!(answer["rows"], serde_json::json!([]));
    assert_eq!(answer["columns"], serde_json::json!([{ "name": "device", "type": "text" }]));
}

#[test]
fn mistakes_have_a_place() {
    let sql = Fleet::empty().sql();
    for (query, expected) in [
        ("SELECT *\n  FORM records", Some(Location { line: 2, column: 8 })),
        ("SELECT device,\n  devise FROM records", Some(Location { line: 2, column: 3 })),
        ("SELECT 'x", Some(Location { line: 1, column: 8 })),
        ("", None),
    ] {
        let error = ask(&sql, query, Format::Json).unwrap_err();
        assert_eq!(error.location(), expected, "{query}: {error:?}");
    }
}

#[test]
fn nonsense_is_refused() {
    let sql = Fleet::empty().sql();
    let deep = format!("SELECT {}1{}", "(".repeat(20_000), ")".repeat(20_000));
    let odd = "\u{202e}\u{0}";
    for query in ["\0", odd, ";;;", "--", "/*", "SELECT * FROM", "\"", "SELECT 'x", &deep[..1_500]] {
        let error = ask(&sql, query, Format::Json).unwrap_err();
        assert!(matches!(error, Error::Syntax { .. } | Error::Invalid { .. }), "{query:.40}: {error:?}");
    }
    assert!(matches!(ask(&sql, &deep, Format::Json), Err(Error::TooComplex { .. })));
    let long = "x".repeat(Config::default().text_max_bytes + 1);
    assert!(matches!(ask(&sql, &long, Format::Json), Err(Error::TooLong { .. })));
}

/// As deep as the limit allows, in every way that the parser does not bound itself: no stack runs over.
#[test]
fn deep_queries_are_planned_or_refused() {
    // On a machine with other things to do its threads must not stand still.
    let sql = Fleet::sample().sql_with(Config { short: Duration::from_secs(3600), ..Config::default() });
    for (start, link, end) in [
        ("SELECT 1", "+1", ""),
        ("SELECT offset", "+offset", " FROM records"),
        ("SELECT 'a'", "||'a'", ""),
        ("SELECT device FROM records WHERE offset=1", " OR offset=1", ""),
        ("SELECT device FROM records WHERE offset=1", " AND offset=offset", ""),
        ("SELECT 1", "::int", ""),
        ("SELECT payload", "->'a'", " FROM records"),
        ("SELECT NULL", " IS NULL", ""),
        ("SELECT 1", " UNION ALL SELECT 1", ""),
        ("SELECT ", "NOT ", "true"),
        ("SELECT ", "-", "1"),
        ("SELECT [1]", "[1]", ""),
    ] {
        let words = link.split_whitespace().count().max(1) * 2;
        let query = format!("{start}{}{end}", link.repeat(1_900 / words));
        // Being refused is fine too; that the process goes on is what matters, and that it is not at it for a minute.
        let answer = ask(&sql, &query, Format::Csv);
        assert!(!matches!(answer, Err(Error::Time { .. })), "{link}: {answer:?}");
        assert_eq!(lines(&sql, "SELECT 1"), ["1"], "after {link}");
    }
    // A long list is not deep.
    let list: Vec<String> = (0..20_000).map(|n| n.to_string()).collect();
    let query = format!("SELECT count(*) FROM records WHERE offset IN ({})", list.join(","));
    assert_eq!(lines(&sql, &query), ["16"]);
}

#[test]
fn rows_are_limited() {
    let sql = Fleet::sample().sql_with(Config { rows_max: 5, ..Config::default() });
    assert_eq!(lines(&sql, "SELECT device FROM records LIMIT 5").len(), 5);
    runtime().block_on(async {
        let mut result = sql.query("SELECT device FROM records").await.unwrap();
        let mut rows = 0;
        let error = loop {
            match result.next().await.unwrap() {
                Ok(batch) => rows += batch.num_rows(),
                Err(error) => break error,
            }
        };
        assert_eq!((rows, error), (5, Error::Rows { limit: 5 }));
        assert!(result.next().await.is_none());
    });
}

#[test]
fn time_is_limited() {
    let limit = Duration::from_millis(200);
    let sql = Fleet::empty().sql_with(Config { time_max: limit, ..Config::default() });
    assert_eq!(ask(&sql, ENDLESS, Format::Json).unwrap_err(), Error::Time { limit });
    wait_until("the pool is free again", &|| {}, || sql.running() == 0);
}

#[test]
fn memory_is_limited() {
    let sql = Fleet::empty().sql_with(Config { memory_max_bytes: 1 << 20, ..Config::default() });
    let query = "SELECT value, count(*) FROM generate_series(1, 3000000) GROUP BY value ORDER BY value DESC";
    let error = ask(&sql, query, Format::Csv).unwrap_err();
    assert!(matches!(error, Error::Memory { limit_bytes: 1_048_576, .. }), "{error:?}");
}

/// The pool of memory does not see what a function computes for one batch.
#[test]
fn functions_that_make_much_out_of_little_are_bounded() {
    let sql = Fleet::sample().sql_with(Config { memory_max_bytes: 8 << 20, ..Config::default() });
    for query in [
        "SELECT repeat('x', 2000000000)",
        "SELECT length(repeat('x', 9223372036854775807))",
        "SELECT length(repeat('x', value * 1000)) FROM generate_series(1, 8000)",
        "SELECT lpad('x', 2000000000)",
        "SELECT length(rpad(device, 1000000, 'ab')) FROM records",
    ] {
        let error = ask(&sql, query, Format::Csv).unwrap_err();
        assert!(matches!(error, Error::Memory { limit_bytes: 8_388_608, .. }), "{query}: {error:?}");
    }
    for query in [
        "SELECT range(1000000000)",
        "SELECT generate_series(1, 1000000000)",
        "SELECT array_repeat('x', 1000000000)",
        "SELECT list_repeat('x', 1000000000)",
        "SELECT array_resize([1], 1000000000, 2)",
        "SELECT list_resize([1], 1000000000, 2)",
    ] {
        let error = ask(&sql, query, Format::Csv).unwrap_err();
        assert!(matches!(error, Error::UnknownFunction { .. }), "{query}: {error:?}");
    }
    let query = "SELECT repeat('ab', 3), lpad('x', 3, '-'), rpad(NULL, 3), repeat('x', -1), lpad('é', 2)";
    assert_eq!(lines(&sql, query), ["ababab,--x,,\"\", é"]);
    assert_eq!(lines(&sql, "SELECT repeat(device, 2) FROM records WHERE device = 'motor-1'"), ["motor-1motor-1"]);
}

/// Joins whose steps are long: of each only one or two fit the pool.
#[test]
fn a_dropped_result_ends_its_query() {
    // On a machine with nothing to spare it takes a while until they see that they are to end.
    let (time_max, patience) = (Duration::from_secs(3600), Duration::from_secs(300));
    let sql = Fleet::empty().sql_with(Config { running_max: 1, waiting_max: 1, time_max, ..Config::default() });
    let large = "FROM generate_series(1, 3000000) a, generate_series(1, 3000000) b";
    let loops = format!("SELECT count(*) {large} WHERE a.value + b.value = 7");
    let cross = format!("SELECT sum(a.value - b.value) {large}");
    let same = format!("SELECT sum(a.value - b.value) {large} WHERE a.value % 2 = b.value % 2");
    runtime().block_on(async {
        for query in [ENDLESS, &loops, &cross, &same] {
            for _ in 0..3 {
                let result = sql.query(query).await.unwrap();
                // It has begun to compute, as far as one can tell from here.
                tokio::time::sleep(Duration::from_millis(300)).await;
                drop(result);
            }
            // Waits for its turn, which comes only when the others are gone.
            let one = tokio::time::timeout(patience, sql.query("SELECT 1"));
            let mut one = one.await.unwrap_or_else(|_| panic!("{query} goes on")).unwrap();
            assert_eq!(one.next().await.unwrap().unwrap().num_rows(), 1);
        }
    });
}

#[test]
fn too_many_queries_are_refused() {
    let sql = Fleet::empty().sql_with(Config { running_max: 1, waiting_max: 1, ..Config::default() });
    runtime().block_on(async {
        let running = sql.query(ENDLESS).await.unwrap();
        let other = sql.clone();
        let waiting = tokio::spawn(async move { other.query("SELECT 1").await.map(|_| ()) });
        tokio::task::yield_now().await;
        let refused = sql.query("SELECT 1").await.unwrap_err();
        assert_eq!(refused, Error::Busy { running: 1, waiting: 1 });
        drop(running);
        waiting.await.unwrap().unwrap();
    });
}

#[test]
fn a_query_that_nobody_reads_stands_still() {
    let fleet = Fleet::empty();
    let payload = [b'x'; 100_000];
    for n in 0..1_000 {
        fleet.publish("telemetry", &message(&format!("d-{}", n % 100), "t", &payload), &[]);
    }
    let sql = fleet.sql();
    runtime().block_on(async {
        let query = "SELECT payload FROM records";
        let mut unread = sql.query(query).await.unwrap();
        assert!(unread.next().await.unwrap().is_ok());
        // Another one comes to its end meanwhile.
        let (mut read, mut rows) = (sql.query(query).await.unwrap(), 0);
        while let Some(batch) = read.next().await {
            rows += batch.unwrap().num_rows();
        }
        assert_eq!(rows, 1_000);
        let (part, whole) = (unread.stats().bytes_read, read.stats().bytes_read);
        assert!(whole >= 100_000_000 && part < whole / 2, "{part} of {whole} bytes were read ahead");
    });
}

/// Niceness and scheduling class of the threads of queries, as proc_pid_stat(5) has them.
fn sql_threads() -> Vec<(i32, u32)> {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
    let threads = tasks.filter_map(|task| {
        let read = |name| std::fs::read_to_string(task.path().join(name)).unwrap_or_default();
        let stat = read("stat");
        // Behind the name in parentheses: state is field 3, nice 19, policy 41.
        let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
        (read("comm").trim() == "sql").then_some((fields.get(16)?.parse().ok()?, fields.get(38)?.parse().ok()?))
    });
    threads.collect()
}

#[test]
fn threads_of_a_long_query_run_only_when_no_other_wants_to() {
    const SCHED_IDLE: u32 = 5;
    // No other test has this niceness.
    let config = |short| Config { niceness: 7, threads: 2, short, ..Config::default() };
    let patient = Fleet::empty().sql_with(config(Duration::from_secs(3600)));
    let strict = Fleet::empty().sql_with(config(Duration::ZERO));
    // Time goes on while a thread waits here.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(async {
        let of = |class: u32| sql_threads().into_iter().filter(|thread| *thread == (7, class)).count();
        for _ in 0..3 {
            let mut short = patient.query("SELECT 1").await.unwrap();
            while short.next().await.transpose().unwrap().is_some() {}
            wait_until("a short query ends", &|| {}, || patient.running() == 0);
            // A thread that has just begun takes its niceness then.
            wait_until("the threads of queries are there", &|| {}, || of(0) >= 2);
            assert_eq!((of(0), of(SCHED_IDLE)), (2, 0), "short queries share their threads");
        }
        let running = strict.query(ENDLESS).await.unwrap();
        wait_until("threads of a long query give way", &|| {}, || of(0) == 2 && of(SCHED_IDLE) >= 2);
        drop(running);
        wait_until("they end with their query", &|| {}, || of(SCHED_IDLE) == 0);
    });
}

#[test]
fn time_ranges_include_what_they_say() {
    let fleet = Fleet::empty();
    for second in 0..100_i64 {
        fleet.clock.set(Timestamp::from_millis(NINE + second * 1000));
        fleet.publish("telemetry", &message("d", "t", b"1"), &[]);
    }
    let sql = fleet.sql();
    for (predicate, expected) in [
        ("received >= '2026-11-21T09:00:10Z'", "90"),
        ("received > '2026-11-21T09:00:10Z'", "89"),
        ("received < '2026-11-21T09:00:10Z'", "10"),
        ("received <= '2026-11-21T09:00:10Z'", "11"),
        ("received = '2026-11-21T09:00:10Z'", "1"),
        ("received > '2026-11-21T09:00:10Z' AND received < '2026-11-21T09:00:10.5Z'", "0"),
        ("received > '2026-11-21T09:00:10+00:00'::timestamptz - INTERVAL '5 seconds'", "94"),
        ("received > TIMESTAMP '2026-11-21 09:00:10'", "89"),
        ("received >= '2027-01-01'", "0"),
        ("received < '1970-01-01'", "0"),
        ("offset < 10 AND received >= '2026-11-21T09:00:05Z'", "5"),
        ("offset BETWEEN 5 AND 6", "2"),
        ("offset = 99", "1"),
        ("offset > 99", "0"),
        ("position = '0:7'", "1"),
        ("received < now()", "100"),
    ] {
        let count = lines(&sql, &format!("SELECT count(*) FROM records WHERE {predicate}"));
        let rows = lines(&sql, &format!("SELECT device, received FROM records WHERE {predicate}"));
        assert_eq!((count[0].as_str(), rows.len().to_string().as_str()), (expected, expected), "{predicate}");
    }
}

#[test]
fn what_is_unknown_is_told_by_its_kind() {
    let sql = Fleet::sample().sql();
    let error = |query: &str| ask(&sql, query, Format::Csv).unwrap_err();
    for query in [
        "SELECT 1 FROM nowhere",
        "SELECT 1 FROM records WHERE device IN (SELECT device FROM public.nowhere)",
        "WITH here AS (SELECT 1) SELECT * FROM here, nowhere",
        "EXPLAIN SELECT 1 FROM elsewhere.nowhere.records",
        "DESCRIBE nowhere",
    ] {
        let error = error(query);
        assert!(matches!(error, Error::UnknownTable { .. }), "{query}: {error:?}");
    }
    for query in ["SELECT nothing FROM records", "SELECT device FROM records ORDER BY records.nothing"] {
        let error = error(query);
        assert!(matches!(error, Error::UnknownColumn { .. }), "{query}: {error:?}");
    }
    // The text does not decide.
    for query in
        ["SELECT missing_table('table not found') FROM records", "SELECT count(*), nothing(1) OVER () FROM records"]
    {
        let error = error(query);
        assert!(matches!(error, Error::UnknownFunction { .. }), "{query}: {error:?}");
    }
    let error = error("WITH here AS (SELECT 1) SELECT unnest(1) FROM here");
    assert!(matches!(error, Error::Invalid { .. }), "{error:?}");
}
