//! Seeds of the fuzz target `record_batch`: batches by our own builder.
//!
//! `FLOODPLAIN_WRITE_SEEDS=1 cargo test --release -p floodplain-log --test it seeds` writes them anew.

use floodplain_log::{Batch, BatchBuilder, Compression, Correlation, MessageRef};
use std::{fs, path::PathBuf};

const TIME_MS: i64 = 1_700_000_000_000;

/// A message with all that a message may have.
fn whole_message() -> MessageRef<'static> {
    MessageRef {
        topic: "plant/d-7/engine",
        payload: br#"{"rpm":1450}"#,
        key: b"d-7",
        qos: 2,
        retain: true,
        expiry_seconds: Some(3_600),
        content_type: Some("application/json"),
        response_topic: Some("answers/7"),
        correlation: Some(Correlation::Raw(b"\x00\xff")),
        event_time_ns: Some(1),
        ingest_time_ns: Some(TIME_MS * 1_000_000 + 7),
        publisher: Some("gateway"),
        payload_format: Some(1),
        listener: Some("mqtt"),
        dedup_id: Some("1.0.1"),
        session_epoch: Some("0:5"),
        record: None,
    }
}

fn batch(compression: Compression, write: impl FnOnce(&mut BatchBuilder)) -> Vec<u8> {
    let mut builder = BatchBuilder::new();
    write(&mut builder);
    builder.finish(compression).unwrap().as_bytes().to_vec()
}

fn generated() -> Vec<(&'static str, Vec<u8>)> {
    let several = |builder: &mut BatchBuilder| {
        for n in 0..4_u8 {
            let headers = (0..n).map(|_| ("name", &b"value"[..]));
            builder.push(TIME_MS + i64::from(n) * 300, Some(&[b'k', n]), Some(&[n; 40]), headers).unwrap();
        }
    };
    let whole = |builder: &mut BatchBuilder| {
        whole_message().write(builder, TIME_MS, [("a", "b"), ("\u{e4}", "")].into_iter()).unwrap();
    };
    vec![
        ("bare", batch(Compression::None, |builder| _ = builder.push(0, None, None, []).unwrap())),
        ("tombstone", batch(Compression::None, |builder| _ = builder.push(TIME_MS, Some(b"d-7"), None, []).unwrap())),
        ("several", batch(Compression::None, several)),
        ("several-zstd", batch(Compression::Zstd, several)),
        ("message", batch(Compression::None, whole)),
        ("message-zstd", batch(Compression::Zstd, whole)),
    ]
}

#[test]
fn seeds_are_batches_as_they_are_written() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds/record_batch");
    for (name, bytes) in generated() {
        let path = folder.join(name);
        if std::env::var_os("FLOODPLAIN_WRITE_SEEDS").is_some() {
            fs::create_dir_all(&folder).unwrap();
            fs::write(&path, &bytes).unwrap();
        }
        let seed = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let (seed, now) = (Batch::parse(seed.into()).unwrap(), Batch::parse(bytes.into()).unwrap());
        // Compressed bytes may differ with the version of zstd.
        let records = |batch: &Batch| -> Vec<Vec<u8>> {
            batch.records().unwrap().iter().map(|record| record.unwrap().bytes.to_vec()).collect()
        };
        assert_eq!(records(&seed), records(&now), "{name}");
    }
}
