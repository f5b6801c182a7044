//! Deliveries: the template, the single write and the plain encoder agree.

use std::num::NonZeroU16;

use floodplain_mqtt::{
    Decoder, Delivery, EncodeError, Encoder, MessageProperties, MessagePropertiesBuf, OutboundPublish, Packet,
    PacketId, Publish, QoS, TopicAlias, Version,
};
use proptest::{collection::vec, option::of, prelude::*, sample::select};

use crate::allocations::allocated_bytes;

fn read(version: Version, bytes: &[u8]) -> Publish<'_> {
    match Decoder::client(version, u32::MAX).next(bytes) {
        Ok(Some((Packet::Publish(publish), len))) if len == bytes.len() => publish,
        other => panic!("{bytes:02x?}: {other:?}"),
    }
}

fn alias() -> BoxedStrategy<TopicAlias> {
    let number = || any::<NonZeroU16>();
    prop_oneof![Just(TopicAlias::None), number().prop_map(TopicAlias::Set), number().prop_map(TopicAlias::Use)].boxed()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_delivery_says_what_it_was_told(
        version in select(&[Version::V311, Version::V5][..]),
        qos in select(&[QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce][..]),
        (retain, dup, id) in (any::<bool>(), any::<bool>(), 1..=u16::MAX),
        topic_alias in alias(),
        topic in "[a-z/]{1,200}",
        (published_expiry, left) in (of(any::<u32>()), of(any::<u32>())),
        subscription_ids in vec(1..=268_435_455_u32, 0..4),
        users in vec(("[a-z]{0,9}", "[a-z]{0,90}"), 0..3),
        received_alias in of(any::<NonZeroU16>()),
        payload in vec(any::<u8>(), 0..300),
    ) {
        let mut built = MessagePropertiesBuf::new();
        for (name, value) in &users {
            built.user(name, value).unwrap();
        }
        if let Some(secs) = published_expiry {
            built.message_expiry_secs(secs).unwrap();
        }
        if let Some(alias) = received_alias {
            built.topic_alias(alias).unwrap();
        }
        built.content_type("text").unwrap();
        let properties = built.properties().unwrap();
        let packet_id = (qos != QoS::AtMostOnce).then(|| PacketId::new(id).unwrap());
        let delivery =
            Delivery { packet_id, dup, topic_alias, subscription_ids: &subscription_ids, message_expiry_secs: left };

        let message = OutboundPublish::new(version, qos, retain, &topic, &properties, &payload);
        let shared = message.encode().unwrap();
        prop_assert_eq!((shared.version(), shared.qos()), (version, qos));
        let mut single = b"before".to_vec();
        message.write_to(&delivery, u32::MAX, &mut single).unwrap();
        let mut copied = b"before".to_vec();
        shared.write_to(&delivery, u32::MAX, &mut copied).unwrap();
        let mut gathered = b"before".to_vec();
        shared.write_head_to(&delivery, u32::MAX, &mut gathered).unwrap();
        gathered.extend_from_slice(&shared.tail());
        prop_assert_eq!(&single, &copied);
        prop_assert_eq!(&single, &gathered);

        let bytes = &single[6..];
        let found = read(version, bytes);
        prop_assert_eq!((found.qos, found.retain, found.packet_id), (qos, retain, packet_id));
        prop_assert_eq!(found.dup, dup && qos != QoS::AtMostOnce);
        prop_assert_eq!(found.payload, &payload[..]);
        let p = found.properties;
        if version == Version::V311 {
            prop_assert!(p.is_empty());
            prop_assert_eq!(found.topic, &topic[..]);
        } else {
            let (name, number) = match topic_alias {
                TopicAlias::None => (&topic[..], None),
                TopicAlias::Set(number) => (&topic[..], Some(number)),
                TopicAlias::Use(number) => ("", Some(number)),
            };
            prop_assert_eq!((found.topic, p.topic_alias()), (name, number));
            // Decremented where the message has an expiry, and never invented [MQTT-3.3.2-6].
            prop_assert_eq!(p.message_expiry_secs(), published_expiry.map(|secs| left.unwrap_or(secs)));
            prop_assert!(p.subscription_ids().eq(subscription_ids.iter().copied()));
            prop_assert_eq!(p.content_type(), Some("text"));
            prop_assert!(p.user_properties().iter().eq(users.iter().map(|(k, v)| (&k[..], &v[..]))));
        }

        // The receiver's limit is met exactly, in all three ways, and the output left alone.
        let len = bytes.len() as u32;
        for limit in [len, len - 1] {
            let expected = if limit == len { Ok(()) } else { Err(EncodeError::TooLarge { len: bytes.len(), max: limit }) };
            let mut out = b"before".to_vec();
            prop_assert_eq!(message.write_to(&delivery, limit, &mut out), expected);
            prop_assert_eq!(out.len() > 6, expected.is_ok());
            let before = out.len();
            prop_assert_eq!(shared.write_to(&delivery, limit, &mut out), expected);
            prop_assert_eq!(out.len() > before, expected.is_ok());
            let before = out.len();
            prop_assert_eq!(shared.write_head_to(&delivery, limit, &mut out), expected);
            prop_assert_eq!(out.len() > before, expected.is_ok());
        }

        // A packet identifier where there is none to be, and the other way round.
        let wrong = Delivery { packet_id: packet_id.xor(Some(PacketId::MIN)), ..delivery };
        let mut out = Vec::new();
        prop_assert_eq!(message.write_to(&wrong, u32::MAX, &mut out), Err(EncodeError::PacketId));
        prop_assert_eq!(shared.write_to(&wrong, u32::MAX, &mut out), Err(EncodeError::PacketId));
        prop_assert!(out.is_empty());
    }
}

#[test]
fn a_plain_delivery_is_the_packet_itself() {
    for version in [Version::V311, Version::V5] {
        let message =
            OutboundPublish::new(version, QoS::AtLeastOnce, true, "a/b", &MessageProperties::default(), b"hi");
        let shared = message.encode().unwrap();
        let id = PacketId::new(0x1234).unwrap();
        let mut expected = Vec::new();
        let publish =
            Publish { qos: QoS::AtLeastOnce, retain: true, packet_id: Some(id), ..Publish::new("a/b", b"hi") };
        Encoder::new(version).encode(&Packet::Publish(publish), &mut expected).unwrap();
        let mut out = Vec::new();
        shared.write_to(&Delivery { packet_id: Some(id), ..Delivery::default() }, u32::MAX, &mut out).unwrap();
        assert_eq!(out, expected);
        assert_eq!(shared.len(), expected.len());
    }
}

/// The hot path of a fan-out: nothing but copies into buffers that are there.
#[test]
fn deliveries_do_not_allocate() {
    let payload = [7; 100];
    let mut out = Vec::with_capacity(4096);
    for version in [Version::V311, Version::V5] {
        let message = OutboundPublish::new(
            version,
            QoS::AtLeastOnce,
            false,
            "ml/site1/dev1/m",
            &MessageProperties::default(),
            &payload,
        );
        let shared = message.encode().unwrap();
        for subscription_ids in [&[][..], &[5, 300]] {
            let delivery = Delivery { packet_id: Some(PacketId::MIN), subscription_ids, ..Delivery::default() };
            let (written, heap) = allocated_bytes(|| {
                shared
                    .write_to(&delivery, u32::MAX, &mut out)
                    .and_then(|()| message.write_to(&delivery, u32::MAX, &mut out))
            });
            assert_eq!((written, heap), (Ok(()), 0));
        }
    }
}
