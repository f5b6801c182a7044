//! Any bytes to any side: no panic; what is accepted is written and read as the same packet, no shorter
//! input is accepted in its place.
#![no_main]

use floodplain_mqtt::{Connack, Decoder, Encoder, Frame, Packet, Version, connect_refusal};
use libfuzzer_sys::fuzz_target;

const MAX_PACKET_SIZE: u32 = 1 << 20;

fuzz_target!(|input: &[u8]| {
    let Some((&who, mut bytes)) = input.split_first() else { return };
    let mut decoder = match who % 5 {
        0..=2 => Decoder::server(MAX_PACKET_SIZE),
        3 => Decoder::client(Version::V311, MAX_PACKET_SIZE),
        _ => Decoder::client(Version::V5, MAX_PACKET_SIZE),
    };
    match who % 5 {
        1 => decoder.set_version(Version::V311),
        2 => decoder.set_version(Version::V5),
        _ => {}
    }
    // A connection: one packet after another, until one is refused or incomplete.
    loop {
        match decoder.next(bytes) {
            Ok(Some((packet, len))) => {
                accepted(decoder, packet, &bytes[..len]);
                if let Packet::Connect(connect) = packet {
                    decoder.set_version(connect.version);
                }
                bytes = &bytes[len..];
            }
            Ok(None) => return,
            Err(error) => {
                assert!(!error.to_string().is_empty());
                if let Ok(Frame::Complete { body, .. }) = decoder.frame(bytes)
                    && let Some((version, code)) = connect_refusal(&bytes[body], &error)
                {
                    let refusal = Packet::Connack(Connack::new(code, false));
                    Encoder::new(version).encode(&refusal, &mut Vec::new()).expect("a version says its refusals");
                }
                return;
            }
        }
    }
});

fn accepted(decoder: Decoder, packet: Packet<'_>, bytes: &[u8]) {
    let version = match packet {
        Packet::Connect(connect) => connect.version,
        _ => decoder.version().expect("only CONNECT comes without"),
    };
    let mut again = Vec::new();
    Encoder::new(version).encode(&packet, &mut again).expect("what was read can be written");
    assert_eq!(decoder.next(&again), Ok(Some((packet, again.len()))));
    if let Some((_, cut)) = bytes.split_last() {
        assert!(
            matches!(decoder.frame(cut), Ok(Frame::Incomplete { needed }) if needed == bytes.len() || needed == cut.len() + 1)
        );
    }
}
