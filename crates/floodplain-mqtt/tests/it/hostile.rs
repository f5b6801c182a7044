//! Bytes that nobody should send: never a panic, never an allocation, and what passes is a real packet.

use floodplain_mqtt::{Decoder, Encoder, Frame, Packet, Role, Version};
use proptest::{collection::vec, prelude::*, sample::Index};

use crate::{
    allocations::allocated_bytes,
    check::packet,
    packets::{case, decoder},
};

/// Reads everything of a packet that is read lazily, without allocating.
fn touch(packet: &Packet<'_>) -> usize {
    let users =
        |users: floodplain_mqtt::UserProperties<'_>| users.iter().map(|(k, v)| k.len() + v.len()).sum::<usize>();
    match packet {
        Packet::Connect(c) => {
            users(c.properties.user_properties) + c.will.map_or(0, |will| users(will.properties.user_properties()))
        }
        Packet::Connack(c) => users(c.properties.user_properties),
        Packet::Publish(p) => {
            let p = p.properties;
            users(p.user_properties())
                + p.subscription_ids().count()
                + p.content_type().map_or(0, str::len)
                + p.response_topic().map_or(0, str::len)
                + p.correlation_data().map_or(0, <[u8]>::len)
                + p.message_expiry_secs().map_or(0, |_| 1)
        }
        Packet::Puback(a) | Packet::Pubrec(a) => users(a.user_properties),
        Packet::Pubrel(a) | Packet::Pubcomp(a) => users(a.user_properties),
        Packet::Subscribe(s) => {
            users(s.user_properties) + s.subscriptions.iter().map(|s| s.filter.len()).sum::<usize>()
        }
        Packet::Suback(s) => users(s.user_properties) + s.codes.len(),
        Packet::Unsubscribe(u) => users(u.user_properties) + u.filters.iter().map(str::len).sum::<usize>(),
        Packet::Unsuback(u) => users(u.user_properties) + u.codes.len(),
        Packet::Disconnect(d) => users(d.user_properties),
        Packet::Auth(a) => users(a.user_properties),
        Packet::Pingreq | Packet::Pingresp => 0,
    }
}

/// Decodes without a heap, and whatever is accepted can be written and is read as the same again.
fn survive(decoder: Decoder, bytes: &[u8]) -> Result<(), TestCaseError> {
    let (found, heap) = allocated_bytes(|| {
        let found = decoder.next(bytes);
        if let Ok(Some((packet, _))) = &found {
            std::hint::black_box(touch(packet));
        }
        found
    });
    prop_assert_eq!(heap, 0, "decoding allocates nothing");
    if let Ok(Some((packet, len))) = found {
        prop_assert!(len <= bytes.len());
        let version = match packet {
            Packet::Connect(connect) => connect.version,
            _ => decoder.version().unwrap(),
        };
        let mut again = Vec::new();
        Encoder::new(version).encode(&packet, &mut again).unwrap();
        prop_assert_eq!(decoder.next(&again), Ok(Some((packet, again.len()))));
    }
    Ok(())
}

fn every_decoder() -> [Decoder; 5] {
    let mut server4 = Decoder::server(1 << 20);
    let mut server5 = server4;
    server4.set_version(Version::V311);
    server5.set_version(Version::V5);
    let client = |version| Decoder::client(version, 1 << 20);
    [Decoder::server(1 << 20), server4, server5, client(Version::V311), client(Version::V5)]
}

/// One change to the body of a packet; its length is then written anew.
#[derive(Debug, Clone)]
pub(crate) enum Change {
    Set(Index, u8),
    /// Near the start, where the structure is.
    SetEarly(usize, u8),
    Flip(Index, u8),
    Cut(Index),
    Insert(Index, u8),
    Remove(Index),
    Append(Vec<u8>),
}

pub(crate) fn change() -> BoxedStrategy<Change> {
    let special =
        proptest::sample::select(&[0_u8, 1, 2, 3, 0x0B, 0x23, 0x26, 0x7F, 0x80, 0xC0, 0xED, 0xFF, b'#', b'+'][..]);
    prop_oneof![
        (any::<Index>(), special.clone()).prop_map(|(at, byte)| Change::Set(at, byte)),
        (0..16_usize, prop_oneof![special, any::<u8>()]).prop_map(|(at, byte)| Change::SetEarly(at, byte)),
        (any::<Index>(), 0..8_u8).prop_map(|(at, bit)| Change::Flip(at, bit)),
        any::<Index>().prop_map(Change::Cut),
        (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Change::Insert(at, byte)),
        any::<Index>().prop_map(Change::Remove),
        vec(any::<u8>(), 1..6).prop_map(Change::Append),
    ]
    .boxed()
}

impl Change {
    pub(crate) fn apply(&self, body: &mut Vec<u8>) {
        match self {
            Self::Append(bytes) => body.extend_from_slice(bytes),
            Self::Insert(at, byte) => body.insert(at.index(body.len() + 1), *byte),
            _ if body.is_empty() => {}
            Self::Set(at, byte) => *at.get_mut(body) = *byte,
            Self::SetEarly(at, byte) => {
                let at = at % body.len();
                body[at] = *byte;
            }
            Self::Flip(at, bit) => *at.get_mut(body) ^= 1 << bit,
            Self::Cut(at) => body.truncate(at.index(body.len())),
            Self::Remove(at) => drop(body.remove(at.index(body.len()))),
        }
    }
}

/// The bytes of a generated packet after some changes to first byte and body.
pub(crate) fn mutant() -> BoxedStrategy<(Version, Role, Vec<u8>)> {
    let first_byte = prop_oneof![9 => Just(0), 1 => any::<u8>()];
    (case(), vec(change(), 0..4), first_byte)
        .prop_map(|((version, receiver, valid), changes, flips)| {
            let mut bytes = Vec::new();
            Encoder::new(version).encode(&valid, &mut bytes).unwrap();
            let any_side = decoder(version, receiver, bytes[0]);
            let Ok(Frame::Complete { first_byte, body }) = any_side.frame(&bytes) else { panic!("a packet") };
            let mut body = bytes[body].to_vec();
            changes.iter().for_each(|change| change.apply(&mut body));
            (version, receiver, packet(first_byte ^ flips, &body))
        })
        .boxed()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes(bytes in vec(any::<u8>(), 0..80)) {
        for decoder in every_decoder() {
            survive(decoder, &bytes)?;
        }
    }

    #[test]
    fn random_bodies(first_byte in any::<u8>(), body in vec(prop_oneof![Just(0), 0..4_u8, any::<u8>()], 0..40)) {
        let bytes = packet(first_byte, &body);
        for decoder in every_decoder() {
            survive(decoder, &bytes)?;
        }
    }

    #[test]
    fn changed_packets((_, _, bytes) in mutant()) {
        for decoder in every_decoder() {
            survive(decoder, &bytes)?;
        }
    }
}
