//! Seeds of the fuzz target `mqtt_decode`: packets of every type, both versions and both sides, by our own encoder.
//!
//! `FLOODPLAIN_WRITE_SEEDS=1 cargo test --release -p floodplain-mqtt --test it seeds` writes them anew.

use crate::packets::{case, decoder};
use floodplain_mqtt::{Encoder, Role, Version};
use proptest::{
    strategy::{Strategy as _, ValueTree as _},
    test_runner::TestRunner,
};
use std::{collections::BTreeMap, fs, path::PathBuf};

/// Of each kind of packet: most are different in what they leave out.
const OF_EACH: usize = 2;
/// Long packets teach a fuzzer little.
const BYTES_MAX: usize = 200;

/// Version, receiver, packet type.
type Kind = (u8, u8, u8);

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds/mqtt_decode")
}

fn kind(version: Version, receiver: Role, first: u8) -> Kind {
    (version as u8, u8::from(receiver == Role::Client), first >> 4)
}

/// The first byte of an input says who receives it, and what is known of the version.
const fn who((version, receiver, packet): Kind) -> u8 {
    match (receiver, packet, version) {
        (0, 1, _) => 0,
        (0, _, version) if version == Version::V5 as u8 => 2,
        (0, ..) => 1,
        (_, _, version) if version == Version::V5 as u8 => 4,
        _ => 3,
    }
}

fn name((version, receiver, packet): Kind, n: usize) -> String {
    let version = if version == Version::V5 as u8 { "v5" } else { "v311" };
    format!("{version}-{}-type{packet:02}-{n}", if receiver == 0 { "server" } else { "client" })
}

/// The same on every machine, as long as the strategies stay.
fn generated() -> BTreeMap<Kind, Vec<Vec<u8>>> {
    let mut runner = TestRunner::deterministic();
    let mut found = BTreeMap::<Kind, Vec<Vec<u8>>>::new();
    for _ in 0..5_000 {
        let (version, receiver, packet) = case().new_tree(&mut runner).unwrap().current();
        let mut bytes = Vec::new();
        Encoder::new(version).encode(&packet, &mut bytes).unwrap();
        let kind = kind(version, receiver, bytes[0]);
        let seeds = found.entry(kind).or_default();
        let input = [&[who(kind)], &bytes[..]].concat();
        if input.len() <= BYTES_MAX && seeds.len() < OF_EACH && !seeds.contains(&input) {
            seeds.push(input);
        }
    }
    found
}

#[test]
fn seeds_hold_every_packet_that_there_is() {
    let generated = generated();
    if std::env::var_os("FLOODPLAIN_WRITE_SEEDS").is_some() {
        fs::create_dir_all(folder()).unwrap();
        for (kind, inputs) in &generated {
            for (n, input) in inputs.iter().enumerate() {
                fs::write(folder().join(name(*kind, n)), input).unwrap();
            }
        }
    }
    for (kind, inputs) in generated {
        for n in 0..inputs.len() {
            let path = folder().join(name(kind, n));
            let input = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            assert_eq!(input[0], who(kind), "{}", path.display());
            let version = if kind.0 == Version::V5 as u8 { Version::V5 } else { Version::V311 };
            let receiver = if kind.1 == 0 { Role::Server } else { Role::Client };
            let decoder = decoder(version, receiver, input[1]);
            let (_, len) = decoder.next(&input[1..]).unwrap().unwrap();
            assert_eq!((len, input[1] >> 4), (input.len() - 1, kind.2), "{}", path.display());
        }
    }
}
