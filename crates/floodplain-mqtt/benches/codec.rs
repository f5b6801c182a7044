//! Nanoseconds per PUBLISH: reading one, and writing one delivery, in both versions. 100 bytes of payload.
//!
//! `cargo bench -p floodplain-mqtt`
#![expect(clippy::disallowed_methods, reason = "a bench measures with the real clock")]
#![allow(clippy::unwrap_used)]

use std::{hint::black_box, time::Instant};

use floodplain_mqtt::{
    Decoder, Encoder, MessageProperties, MessagePropertiesBuf, Packet, PacketId, Publish, QoS, Version,
};

const TOPIC: &str = "ml/site3/dev17/m";
// A round is shorter than a time slice of the scheduler, so that some rounds run undisturbed.
const ROUNDS: usize = 2_000;
const CALLS: u32 = 2_000;

/// Prints the best of some rounds: the machine's other work only ever adds.
fn measure(what: &str, mut call: impl FnMut()) {
    let mut best = f64::INFINITY;
    for _ in 0..ROUNDS {
        let start = Instant::now();
        for _ in 0..CALLS {
            call();
        }
        best = best.min(start.elapsed().as_secs_f64() * 1e9 / f64::from(CALLS));
    }
    println!("{what:<86} {best:7.1} ns");
}

fn main() {
    let payload = [7_u8; 100];
    let mut rich = MessagePropertiesBuf::new();
    rich.message_expiry_secs(60).unwrap().content_type("application/json").unwrap().user("unit", "km/h").unwrap();
    for (name, version, properties) in [
        ("3.1.1", Version::V311, MessageProperties::default()),
        ("5.0", Version::V5, MessageProperties::default()),
        ("5.0, expiry, content type, a user property", Version::V5, rich.properties().unwrap()),
    ] {
        for qos in [QoS::AtMostOnce, QoS::AtLeastOnce] {
            let packet_id = (qos != QoS::AtMostOnce).then_some(PacketId::MIN);
            let publish = Publish { qos, packet_id, properties, ..Publish::new(TOPIC, &payload) };
            let mut bytes = Vec::new();
            Encoder::new(version).encode(&Packet::Publish(publish), &mut bytes).unwrap();
            let mut decoder = Decoder::server(1 << 20);
            decoder.set_version(version);
            let label = format!("QoS {} {name}", qos as u8);
            measure(&format!("decode {label}"), || {
                black_box(decoder.next(black_box(&bytes)).unwrap());
            });

            let mut out = Vec::with_capacity(64 << 10);
            measure(&format!("encode {label}"), || {
                if out.len() > 60 << 10 {
                    out.clear();
                }
                Encoder::new(version).encode(black_box(&Packet::Publish(publish)), &mut out).unwrap();
            });
        }
    }
    let ack = [0x40, 2, 0, 1];
    let mut decoder = Decoder::server(1 << 20);
    decoder.set_version(Version::V5);
    measure("decode PUBACK 5.0", || {
        black_box(decoder.next(black_box(&ack)).unwrap());
    });
    let mut out = Vec::with_capacity(64 << 10);
    measure("encode PUBACK 5.0", || {
        if out.len() > 60 << 10 {
            out.clear();
        }
        let ack = Packet::Puback(floodplain_mqtt::Ack::new(black_box(PacketId::MIN)));
        Encoder::new(Version::V5).encode(&ack, &mut out).unwrap();
    });
}
