//! Generates every packet a server or a client may receive.
//!
//! The strings are leaked, so that packets borrow for ever: a test run makes a few megabytes of them.

use std::num::{NonZeroU16, NonZeroU32};

use floodplain_mqtt::{
    Ack, Auth, AuthCode, Connack, ConnackCode, ConnackProperties, Connect, ConnectProperties, Disconnect,
    DisconnectCode, MessageProperties, MessagePropertiesBuf, Packet, PacketId, PubackCode, Publish, PubrelCode, QoS,
    ReasonCode, RetainHandling, Role, Suback, SubackCode, Subscribe, Subscription, SubscriptionOptions, Unsuback,
    UnsubackCode, Unsubscribe, UserProperties, Version, Will,
};
use proptest::{collection::vec, option::of, prelude::*, sample::select};

/// A packet with the version it is written in and the side that receives it.
pub(crate) type Case = (Version, Role, Packet<'static>);

fn text() -> BoxedStrategy<&'static str> {
    prop_oneof![
        3 => select(&["", "a", "key", "\u{FEFF}x", "ä€😀", "a b", "$x"][..]),
        2 => "[a-zA-Z0-9/ +#ä€-]{0,24}".prop_map(leak),
        1 => (120_usize..140).prop_map(|len| leak("y".repeat(len))),
    ]
    .boxed()
}

fn topic() -> BoxedStrategy<&'static str> {
    prop_oneof![
        1 => select(&["a", "/", "a/b", "ml/site3/dev17/m", "$SYS/x", "ä/€"][..]),
        1 => "[a-z0-9/ $é]{1,30}".prop_map(leak),
    ]
    .boxed()
}

fn filter(version: Version) -> BoxedStrategy<&'static str> {
    let plain = prop_oneof![
        1 => topic(),
        1 => select(&["#", "+", "+/+", "a/#", "a/+/b", "/+", "//", "$SYS/#"][..]),
    ];
    match version {
        Version::V311 => plain.boxed(),
        Version::V5 => prop_oneof![
            4 => plain.prop_filter("shared filters have their own rules", |filter| !filter.starts_with("$share/")),
            1 => select(&["$share/g/a", "$share/g/#", "$share/group/+/x"][..]),
        ]
        .boxed(),
    }
}

fn leak(text: String) -> &'static str {
    text.leak()
}

fn bytes() -> BoxedStrategy<&'static [u8]> {
    vec(any::<u8>(), 0..20).prop_map(|bytes| &*bytes.leak()).boxed()
}

fn users() -> BoxedStrategy<UserProperties<'static>> {
    vec((text(), text()), 0..4).prop_map(|pairs| UserProperties::from(&*pairs.leak())).boxed()
}

fn qos() -> BoxedStrategy<QoS> {
    select(&[QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce][..]).boxed()
}

fn id() -> BoxedStrategy<PacketId> {
    (1..=u16::MAX).prop_map(|id| PacketId::new(id).unwrap()).boxed()
}

fn code<C: ReasonCode>(all: &'static [C]) -> BoxedStrategy<C> {
    select(all).boxed()
}

fn message_properties(alias: bool) -> BoxedStrategy<MessageProperties<'static>> {
    let alias = if alias { of(1..=u16::MAX).boxed() } else { Just(None).boxed() };
    let fields = (of(any::<bool>()), of(any::<u32>()), of(text()), of(topic()), of(bytes()), users(), alias);
    fields
        .prop_map(|(utf8, expiry, content, response, correlation, users, alias)| {
            let built: &'static mut MessagePropertiesBuf = Box::leak(Box::default());
            // User properties stand on both sides of the others: the order between kinds does not matter.
            let mut users = users.iter();
            if let Some((name, value)) = users.next() {
                built.user(name, value).unwrap();
            }
            if let Some(utf8) = utf8 {
                built.payload_is_utf8(utf8).unwrap();
            }
            if let Some(secs) = expiry {
                built.message_expiry_secs(secs).unwrap();
            }
            if let Some(text) = content {
                built.content_type(text).unwrap();
            }
            if let Some(topic) = response {
                built.response_topic(topic).unwrap();
            }
            if let Some(alias) = alias.and_then(NonZeroU16::new) {
                built.topic_alias(alias).unwrap();
            }
            if let Some(data) = correlation {
                built.correlation_data(data).unwrap();
            }
            for (name, value) in users {
                built.user(name, value).unwrap();
            }
            built.properties().unwrap()
        })
        .boxed()
}

fn will(version: Version) -> BoxedStrategy<Will<'static>> {
    let (properties, delay) = match version {
        Version::V311 => (Just(MessageProperties::default()).boxed(), Just(0).boxed()),
        Version::V5 => (message_properties(false), any::<u32>().boxed()),
    };
    (topic(), bytes(), qos(), any::<bool>(), delay, properties)
        .prop_map(|(topic, payload, qos, retain, delay_secs, properties)| Will {
            topic,
            payload,
            qos,
            retain,
            delay_secs,
            properties,
        })
        .boxed()
}

/// Method and data.
fn authentication() -> BoxedStrategy<(Option<&'static str>, Option<&'static [u8]>)> {
    prop_oneof![
        2 => Just((None, None)),
        1 => (text(), of(bytes())).prop_map(|(method, data)| (Some(method), data)),
    ]
    .boxed()
}

fn connect(version: Version) -> BoxedStrategy<Packet<'static>> {
    let properties = match version {
        Version::V311 => Just(ConnectProperties::default()).boxed(),
        Version::V5 => (
            (of(any::<u32>()), of(any::<NonZeroU16>()), of(any::<NonZeroU32>()), of(any::<u16>())),
            (of(any::<bool>()), of(any::<bool>()), users(), authentication()),
        )
            .prop_map(|((expiry, receive, size, alias), (response, problem, user_properties, (method, data)))| {
                ConnectProperties {
                    session_expiry_interval_secs: expiry,
                    receive_maximum: receive,
                    maximum_packet_size: size,
                    topic_alias_maximum: alias,
                    request_response_information: response,
                    request_problem_information: problem,
                    user_properties,
                    authentication_method: method,
                    authentication_data: data,
                }
            })
            .boxed(),
    };
    let level3 = if version == Version::V311 { any::<bool>().boxed() } else { Just(false).boxed() };
    (level3, any::<bool>(), any::<u16>(), text(), of(will(version)), of(text()), of(bytes()), properties)
        .prop_map(move |(level3, clean_start, keep_alive_secs, client_id, will, username, password, properties)| {
            Packet::Connect(Connect {
                version,
                level3,
                clean_start,
                keep_alive_secs,
                client_id,
                will,
                username,
                password: password.filter(|_| username.is_some() || version == Version::V5),
                properties,
            })
        })
        .boxed()
}

fn connack(version: Version) -> BoxedStrategy<Packet<'static>> {
    if version == Version::V311 {
        let codes = select(&[0_u8, 1, 2, 3, 4, 5][..]);
        return (any::<bool>(), codes)
            .prop_map(|(present, code)| {
                let code = ConnackCode::from_return_code(code).unwrap();
                Packet::Connack(Connack::new(code, present && code == ConnackCode::Success))
            })
            .boxed();
    }
    let flags = (of(any::<bool>()), of(any::<bool>()), of(any::<bool>()), of(any::<bool>()));
    let texts = (of(text()), of(text()), of(text()), of(text()));
    let numbers =
        (of(any::<u32>()), of(any::<NonZeroU16>()), of(any::<NonZeroU32>()), of(any::<u16>()), of(any::<u16>()));
    let maximum_qos = of(select(&[QoS::AtMostOnce, QoS::AtLeastOnce][..]));
    (any::<bool>(), code(ConnackCode::ALL), numbers, flags, texts, maximum_qos, users(), authentication())
        .prop_map(|(present, code, numbers, flags, texts, maximum_qos, user_properties, authentication)| {
            Packet::Connack(Connack {
                session_present: present && !code.is_failure(),
                code,
                properties: ConnackProperties {
                    session_expiry_interval_secs: numbers.0,
                    receive_maximum: numbers.1,
                    maximum_qos,
                    retain_available: flags.0,
                    maximum_packet_size: numbers.2,
                    assigned_client_identifier: texts.0,
                    topic_alias_maximum: numbers.3,
                    reason_string: texts.1,
                    user_properties,
                    wildcard_subscription_available: flags.1,
                    subscription_identifiers_available: flags.2,
                    shared_subscription_available: flags.3,
                    server_keep_alive_secs: numbers.4,
                    response_information: texts.2,
                    server_reference: texts.3,
                    authentication_method: authentication.0,
                    authentication_data: authentication.1,
                },
            })
        })
        .boxed()
}

fn publish(version: Version) -> BoxedStrategy<Packet<'static>> {
    let properties = match version {
        Version::V311 => Just(MessageProperties::default()).boxed(),
        Version::V5 => prop_oneof![Just(MessageProperties::default()), message_properties(true)].boxed(),
    };
    (any::<bool>(), qos(), any::<bool>(), id(), topic(), any::<bool>(), properties, bytes())
        .prop_map(|(dup, qos, retain, id, topic, by_alias, properties, payload)| {
            let by_alias = by_alias && properties.topic_alias().is_some();
            Packet::Publish(Publish {
                dup: dup && qos != QoS::AtMostOnce,
                qos,
                retain,
                packet_id: (qos != QoS::AtMostOnce).then_some(id),
                topic: if by_alias { "" } else { topic },
                properties,
                payload,
            })
        })
        .boxed()
}

fn ack<C: ReasonCode>(version: Version, all: &'static [C]) -> BoxedStrategy<Ack<'static, C>> {
    match version {
        Version::V311 => id().prop_map(Ack::new).boxed(),
        Version::V5 => (id(), code(all), of(text()), users())
            .prop_map(|(id, code, reason_string, user_properties)| Ack {
                reason_string,
                user_properties,
                ..Ack::with_code(id, code)
            })
            .boxed(),
    }
}

fn subscribe(version: Version) -> BoxedStrategy<Packet<'static>> {
    let plain = qos().prop_map(SubscriptionOptions::new);
    let (options, id_and_users) = match version {
        Version::V311 => (plain.boxed(), Just((None, UserProperties::default())).boxed()),
        Version::V5 => {
            let handling = [RetainHandling::Send, RetainHandling::SendIfNew, RetainHandling::DoNotSend];
            let options = (qos(), any::<bool>(), any::<bool>(), 0..3_usize);
            (
                options
                    .prop_map(move |(qos, no_local, retain_as_published, at)| SubscriptionOptions {
                        qos,
                        no_local,
                        retain_as_published,
                        retain_handling: handling[at],
                    })
                    .boxed(),
                (of((1..=268_435_455_u32).prop_map(|id| NonZeroU32::new(id).unwrap())), users()).boxed(),
            )
        }
    };
    let one = (filter(version), options).prop_map(|(filter, mut options)| {
        options.no_local &= !filter.starts_with("$share/");
        Subscription { filter, options }
    });
    (id(), id_and_users, vec(one, 1..5))
        .prop_map(|(id, (subscription_id, user_properties), subscriptions)| {
            Packet::Subscribe(Subscribe {
                subscription_id,
                user_properties,
                ..Subscribe::new(id, subscriptions.leak())
            })
        })
        .boxed()
}

fn words(version: Version) -> BoxedStrategy<(Option<&'static str>, UserProperties<'static>)> {
    match version {
        Version::V311 => Just((None, UserProperties::default())).boxed(),
        Version::V5 => (of(text()), users()).boxed(),
    }
}

fn suback(version: Version) -> BoxedStrategy<Packet<'static>> {
    let codes = match version {
        Version::V311 => &SubackCode::ALL[..4],
        Version::V5 => SubackCode::ALL,
    };
    (id(), vec(code(codes), 1..5), words(version))
        .prop_map(|(id, codes, (reason_string, user_properties))| {
            Packet::Suback(Suback { reason_string, user_properties, ..Suback::new(id, codes.leak()) })
        })
        .boxed()
}

fn unsuback(version: Version) -> BoxedStrategy<Packet<'static>> {
    let count = if version == Version::V311 { 0..1 } else { 1..5 };
    (id(), vec(code(UnsubackCode::ALL), count), words(version))
        .prop_map(|(id, codes, (reason_string, user_properties))| {
            Packet::Unsuback(Unsuback { reason_string, user_properties, ..Unsuback::new(id, codes.leak()) })
        })
        .boxed()
}

fn unsubscribe(version: Version) -> BoxedStrategy<Packet<'static>> {
    (id(), vec(filter(version), 1..5), words(version))
        .prop_map(|(id, filters, (_, user_properties))| {
            Packet::Unsubscribe(Unsubscribe { user_properties, ..Unsubscribe::new(id, filters.leak()) })
        })
        .boxed()
}

fn disconnect(version: Version, receiver: Role) -> BoxedStrategy<Packet<'static>> {
    if version == Version::V311 {
        return Just(Packet::Disconnect(Disconnect::new(DisconnectCode::NormalDisconnection))).boxed();
    }
    (code(DisconnectCode::ALL), of(any::<u32>()), of(text()), users(), of(text()))
        .prop_map(move |(code, expiry, reason_string, user_properties, server_reference)| {
            Packet::Disconnect(Disconnect {
                code,
                session_expiry_interval_secs: expiry.filter(|_| receiver == Role::Server),
                reason_string,
                user_properties,
                server_reference,
            })
        })
        .boxed()
}

fn auth() -> BoxedStrategy<Packet<'static>> {
    (code(AuthCode::ALL), text(), of(bytes()), of(text()), users())
        .prop_map(|(code, method, data, reason_string, user_properties)| {
            Packet::Auth(Auth { reason_string, user_properties, ..Auth::new(code, method, data) })
        })
        .boxed()
}

/// What `receiver` may get in `version`; each packet type as often as the others.
pub(crate) fn packet(version: Version, receiver: Role) -> BoxedStrategy<Packet<'static>> {
    let mut kinds = vec![
        publish(version),
        ack(version, PubackCode::ALL).prop_map(Packet::Puback).boxed(),
        ack(version, PubackCode::ALL).prop_map(Packet::Pubrec).boxed(),
        ack(version, PubrelCode::ALL).prop_map(Packet::Pubrel).boxed(),
        ack(version, PubrelCode::ALL).prop_map(Packet::Pubcomp).boxed(),
    ];
    if version == Version::V5 {
        kinds.push(auth());
    }
    match receiver {
        Role::Server => kinds.extend([
            connect(version),
            subscribe(version),
            unsubscribe(version),
            Just(Packet::Pingreq).boxed(),
            disconnect(version, receiver),
        ]),
        Role::Client => {
            kinds.extend([connack(version), suback(version), unsuback(version), Just(Packet::Pingresp).boxed()]);
            if version == Version::V5 {
                kinds.push(disconnect(version, receiver));
            }
        }
    }
    proptest::strategy::Union::new(kinds).boxed()
}

/// Any packet of any version to any side.
pub(crate) fn case() -> BoxedStrategy<Case> {
    let sides = [
        (Version::V311, Role::Server),
        (Version::V311, Role::Client),
        (Version::V5, Role::Server),
        (Version::V5, Role::Client),
    ];
    let each =
        sides.map(|(version, role)| packet(version, role).prop_map(move |packet| (version, role, packet)).boxed());
    proptest::strategy::Union::new(each).boxed()
}

/// A decoder for `packet` of a [`Case`].
pub(crate) fn decoder(version: Version, receiver: Role, first_byte: u8) -> floodplain_mqtt::Decoder {
    let mut decoder = match receiver {
        Role::Server => floodplain_mqtt::Decoder::server(u32::MAX),
        Role::Client => floodplain_mqtt::Decoder::client(version, u32::MAX),
    };
    if first_byte >> 4 != 1 {
        decoder.set_version(version);
    }
    decoder
}
