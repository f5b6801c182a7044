//! Nanoseconds per row and MB/s of payload: decoding alone, and with the way of every field to its column.
//!
//! `cargo bench -p floodplain-decode`
#![expect(clippy::disallowed_methods, reason = "a bench measures with the real clock")]
#![allow(clippy::unwrap_used)]

use std::{fmt::Write as _, hint::black_box, time::Instant};

use floodplain_decode::{
    Decoder, Input, Outcome, Rows,
    schema::{Assignment, TableSchema},
};
use floodplain_types::Position;

// A round is shorter than a time slice of the scheduler, so that some rounds run undisturbed.
const ROUNDS: usize = 400;
const ROUND_BYTES: usize = 400_000;

/// Prints the best of some rounds: the machine's other work only ever adds.
fn measure(what: &str, rows: usize, bytes: usize, mut call: impl FnMut()) {
    let calls = (ROUND_BYTES / bytes).max(1);
    let mut best = f64::INFINITY;
    for _ in 0..ROUNDS {
        let start = Instant::now();
        for _ in 0..calls {
            call();
        }
        best = best.min(start.elapsed().as_secs_f64() / calls as f64);
    }
    let (per_row, rate) = (best * 1e9 / rows as f64, bytes as f64 / best / 1e6);
    println!("{what:<52} {per_row:8.1} ns/row {rate:8.0} MB/s {:8.2} M rows/s", 1e3 / per_row);
}

fn bench(what: &str, definition: &str, payload: &[u8]) {
    let decoder = Decoder::new(serde_json::from_str(definition).unwrap());
    let input = Input { payload, content_type: None, device: "truck-1", table: "readings" };
    let mut buffer = Rows::new();
    let (mut schema, mut assignment) = (TableSchema::new(), Assignment::new());
    let Outcome::Rows(decoded) = decoder.decode(&input, &mut buffer) else { panic!("{what}") };
    assert!(decoded.failures().is_empty() && decoded.rows().len() > 0, "{decoded:?}");
    let rows = decoded.rows().len();
    for row in decoded.rows() {
        schema.assign(&row, Position::ZERO, &mut assignment);
        for change in assignment.changes() {
            schema.apply(change);
        }
    }
    let label = format!("{what}, {} bytes, {} columns", payload.len() / rows, schema.columns().len());
    measure(&label, rows, payload.len(), || {
        let _outcome = black_box(decoder.decode(black_box(&input), &mut buffer));
    });
    measure("    and columns", rows, payload.len(), || {
        let Outcome::Rows(decoded) = decoder.decode(black_box(&input), &mut buffer) else { return };
        for row in decoded.rows() {
            schema.assign(&row, Position::ZERO, &mut assignment);
            assert!(assignment.changes().is_empty());
            for column in assignment.columns(&row) {
                black_box(column);
            }
        }
    });
}

fn main() {
    let json = br#"{"time":"2026-11-25T10:00:00.123Z","latitude":52.31854,"longitude":4.66477,"elevation":124,"velocity":71,"heading":221,"grade":3,"fuel_consumption":25.4,"engine":{"temp":90.5,"on":true},"driver":"Trish"}"#;
    bench("json, an object", r#"{"decoder":"json"}"#, json);
    bench("json undeclared, an object", r#"{"decoder":"auto"}"#, json);
    bench("number undeclared", r#"{"decoder":"auto"}"#, b"21.75");
    let rows: Vec<_> = (0..100)
        .map(|row| format!(r#"{{"ts":{},"temp":{}.5,"hum":{}}}"#, 1_764_064_800 + row, row, 100 - row))
        .collect();
    bench(
        "json, rows in an array",
        r#"{"decoder":"json"}"#,
        format!("{{\"site\":\"n\",\"r\":[{}]}}", rows.join(",")).as_bytes(),
    );

    let mut cbor = b"\xAA".to_vec();
    for field in 0..10_u8 {
        cbor.extend_from_slice(&[0x66, b'f', b'i', b'e', b'l', b'd', b'0' + field, 0xFB]);
        cbor.extend_from_slice(&(f64::from(field) * 1.25).to_be_bytes());
    }
    bench("cbor, 10 floats", r#"{"decoder":"cbor"}"#, &cbor);

    let mut lines = String::new();
    for row in 0..1_000_u32 {
        let f = |step: u32| f64::from(row * step % 10_000) / 100.0;
        writeln!(
            lines,
            "cpu,hostname=host_{},region=eu-west-1,os=Ubuntu22.04LTS usage_user={},usage_system={},usage_idle={},usage_nice={},usage_iowait={},usage_irq={},usage_softirq={},usage_steal={},usage_guest={},usage_guest_nice={} {}",
            row % 100, f(7), f(11), f(13), f(17), f(19), f(23), f(29), f(31), f(37), f(41), 1_764_064_800_000_000_000 + i64::from(row)
        ).unwrap();
    }
    bench("line protocol, 3 tags, 10 floats", r#"{"decoder":"line-protocol"}"#, lines.as_bytes());
    let mut lines = String::new();
    for row in 0..1_000_u32 {
        writeln!(
            lines,
            "readings,name=truck_{} status={}i,ok=t,state=\"on\" {}",
            row % 100,
            row % 6,
            1_764_064_800_000_000_000 + i64::from(row)
        )
        .unwrap();
    }
    bench("line protocol, a tag, 3 fields", r#"{"decoder":"line-protocol"}"#, lines.as_bytes());

    let layout = r#"{"decoder":"struct","endian":"little","time":{"field":"at","unit":"s"},"checksum":{"type":"crc16-modbus"},"fields":[
        {"name":"at","type":"u32"},{"name":"temp","type":"i16","scale":0.1},{"name":"hum","type":"u16","scale":0.01},
        {"name":"lat","type":"i32","scale":1e-7},{"name":"lon","type":"i32","scale":1e-7},
        {"type":"bits","length":1,"bits":[{"name":"door","at":0,"type":"bool"},{"name":"mode","at":1,"width":3,"labels":{"0":"off","1":"on"}}]},
        {"name":"battery","type":"u8"}]}"#;
    let mut frame = vec![0xE0, 0x7E, 0x25, 0x69, 0xFF, 0, 0x10, 0x27, 1, 2, 3, 4, 5, 6, 7, 8, 0b11, 0x63];
    let crc = frame.iter().fold(0xFFFF_u16, |crc, byte| {
        (0..8).fold(crc ^ u16::from(*byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xA001 } else { crc >> 1 })
    });
    frame.extend_from_slice(&crc.to_le_bytes());
    bench("struct, 7 columns, crc16", layout, &frame);
}
