use super::*;
use crate::folds::LostReason;
use proptest::prelude::*;

fn position() -> impl Strategy<Value = Position> {
    (0_u32..3, any::<u64>()).prop_map(|(generation, offset)| Position::new(generation, offset))
}

fn positions() -> impl Strategy<Value = Positions> {
    prop::collection::vec((0_u32..99, position()), 0..5).prop_map(|items| items.into_iter().collect())
}

fn filter() -> impl Strategy<Value = TopicFilter> {
    "[a-z/]{1,9}(/#)?".prop_map(|text| TopicFilter::new(&text).unwrap())
}

fn text() -> impl Strategy<Value = String> {
    ".{0,9}"
}

fn bytes() -> impl Strategy<Value = Bytes> {
    prop::collection::vec(any::<u8>(), 0..9).prop_map(Bytes::from)
}

fn will() -> impl Strategy<Value = Will> {
    (
        ("[a-z/]{1,9}", bytes(), 0_u8..3, any::<bool>(), any::<u32>(), 0_u32..16),
        any::<Option<u32>>(),
        any::<Option<u8>>(),
        (proptest::option::of(text()), proptest::option::of(text()), proptest::option::of(bytes())),
        prop::collection::vec((text(), text()), 0..3),
    )
        .prop_map(
            |((topic, payload, qos, retain, delay_s, stream), expiry_s, payload_format, texts, user_properties)| Will {
                topic: Topic::new(&topic).unwrap(),
                payload,
                qos,
                retain,
                delay_s,
                expiry_s,
                payload_format,
                content_type: texts.0,
                response_topic: texts.1,
                correlation: texts.2,
                user_properties,
                stream,
            },
        )
}

fn progress() -> impl Strategy<Value = Progress> {
    let state = prop_oneof![
        Just(OutboundState::AwaitsPuback),
        Just(OutboundState::AwaitsPubrec),
        Just(OutboundState::AwaitsPubcomp)
    ];
    let outbound =
        (0_u32..9, position(), state).prop_map(|(partition, position, state)| Outbound { partition, position, state });
    let partition = (0_u32..9, position(), prop::collection::vec(position(), 0..3))
        .prop_map(|(partition, cursor, done)| PartitionProgress { partition, cursor, done });
    (
        prop::collection::vec(partition, 0..3),
        prop::collection::vec((any::<u16>(), proptest::option::of(outbound)), 0..3),
        prop::collection::vec((filter(), proptest::option::of(text())), 0..3),
        letters(),
    )
        .prop_map(|(partitions, outbound, retained, letters)| Progress { partitions, outbound, retained, letters })
}

fn letters() -> impl Strategy<Value = Vec<Letter>> {
    let letter = (text(), 0_u32..9, position(), position(), any::<u64>())
        .prop_map(|(reason, partition, from, to, count)| Letter { reason: reason.into(), partition, from, to, count });
    prop::collection::vec(letter, 0..3)
}

fn lost() -> impl Strategy<Value = Lost> {
    let reason = prop_oneof![Just(LostReason::QueueFull), Just(LostReason::Retention), Just(LostReason::Damage)];
    (filter(), position(), position(), any::<u64>(), reason).prop_map(|(filter, first, last, count, reason)| Lost {
        filter,
        first,
        last,
        count,
        reason,
    })
}

fn event() -> impl Strategy<Value = Event> {
    let open = (any::<(u64, u8, bool, bool, u32, u16)>(), text(), proptest::option::of(will())).prop_map(
        |((run, protocol_level, takes_over, clean_start, session_expiry_s, keep_alive_s), peer, will)| {
            Event::Open(Box::new(Open {
                run: RunId(run),
                protocol_level,
                takes_over,
                clean_start,
                session_expiry_s,
                keep_alive_s,
                peer,
                will,
            }))
        },
    );
    let subscription = (filter(), 0_u8..3, any::<(bool, bool, bool, Option<u32>)>()).prop_map(
        |(filter, qos, (no_local, retain_as_published, retained_due, id))| Subscription {
            filter,
            qos,
            no_local,
            retain_as_published,
            id,
            retained_due,
        },
    );
    let close = (position(), 0_u8..8, any::<(bool, Option<u32>)>(), progress()).prop_map(
        |(epoch, reason, (fires_will, session_expiry_s), progress)| {
            let reason = CloseReason::from_code(reason).unwrap();
            Event::Close(Box::new(Close { epoch, reason, fires_will, session_expiry_s, progress }))
        },
    );
    prop_oneof![
        open,
        (position(), prop::collection::vec(subscription, 0..4), positions())
            .prop_map(|(epoch, subscriptions, start)| Event::Subscribe { epoch, subscriptions, start }),
        (position(), prop::collection::vec(filter(), 0..4))
            .prop_map(|(epoch, filters)| Event::Unsubscribe { epoch, filters }),
        (position(), progress()).prop_map(|(epoch, progress)| Event::Progress { epoch, progress }),
        (0_u32..99, lost()).prop_map(|(partition, lost)| Event::Lost { partition, lost }),
        (position(), letters()).prop_map(|(epoch, letters)| Event::Buried { epoch, letters }),
        (position(), any::<u16>(), any::<bool>()).prop_map(|(epoch, packet_id, is_apart)| Event::Received {
            epoch,
            packet_id,
            is_apart
        }),
        (position(), any::<u16>()).prop_map(|(epoch, packet_id)| Event::Released { epoch, packet_id }),
        close,
        Just(Event::Tick),
        any::<u64>().prop_map(|run| Event::ServerStart { run: RunId(run) }),
        any::<u64>().prop_map(|run| Event::NodeAlive { run: RunId(run) }),
        any::<u64>().prop_map(|run| Event::NodeDied { run: RunId(run) }),
    ]
}

proptest! {
    #[test]
    fn an_event_reads_back(event in event()) {
        let bytes = event.encode();
        prop_assert_eq!(Event::decode(&bytes), Ok(event));
        for len in 0..bytes.len() {
            prop_assert!(Event::decode(&bytes[..len]).is_err(), "cut to {}", len);
        }
    }

    #[test]
    fn any_bytes_are_refused_or_one_event(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
        for kind in 0..10 {
            let bytes = [&[1, kind], &bytes[..]].concat();
            if let Ok(event) = Event::decode(&bytes) {
                prop_assert_eq!(event.encode(), bytes, "an event has one form");
            }
        }
    }
}

/// The bytes outlive a release: a change here is a new version beside the old one.
#[test]
fn the_bytes_of_version_1() {
    let epoch = Position::new(0, 300);
    let subscription = Subscription {
        filter: TopicFilter::new("a/#").unwrap(),
        qos: 2,
        no_local: true,
        retain_as_published: false,
        id: Some(7),
        retained_due: false,
    };
    let due = Subscription { id: None, no_local: false, qos: 1, retained_due: true, ..subscription.clone() };
    for (event, expected) in [
        (Event::Tick, &[1, 8][..]),
        (Event::ServerStart { run: RunId(128) }, &[1, 9, 0x80, 1]),
        (Event::NodeAlive { run: RunId(128) }, &[1, 18, 0x80, 1]),
        (Event::NodeDied { run: RunId(128) }, &[1, 19, 0x80, 1]),
        (Event::Received { epoch, packet_id: 9, is_apart: false }, &[1, 5, 0, 0xac, 2, 9]),
        (Event::Released { epoch, packet_id: 9 }, &[1, 6, 0, 0xac, 2, 9]),
        (
            Event::Subscribe {
                epoch,
                subscriptions: vec![subscription],
                start: [(4, Position::new(0, 5))].into_iter().collect(),
            },
            &[1, 2, 0, 0xac, 2, 1, 3, b'a', b'/', b'#', 0x16, 7, 3, 4, 0, 5],
        ),
        (
            Event::Open(Box::new(Open {
                run: RunId(1),
                protocol_level: 5,
                takes_over: false,
                clean_start: true,
                session_expiry_s: 60,
                keep_alive_s: 30,
                peer: "p".to_owned(),
                will: None,
            })),
            &[1, 1, 1, 5, 1, 60, 30, 1, b'p', 0],
        ),
        (
            Event::Open(Box::new(Open {
                run: RunId(1),
                protocol_level: 4,
                takes_over: true,
                clean_start: false,
                session_expiry_s: 0,
                keep_alive_s: 0,
                peer: String::new(),
                will: None,
            })),
            &[1, 16, 1, 4, 0, 0, 0, 0, 0],
        ),
        (
            Event::Close(Box::new(Close {
                epoch,
                reason: CloseReason::KeepAlive,
                fires_will: true,
                session_expiry_s: Some(0),
                progress: Progress {
                    partitions: vec![PartitionProgress { partition: 2, cursor: Position::new(0, 8), done: vec![] }],
                    outbound: vec![(6, None)],
                    ..Progress::default()
                },
            })),
            &[1, 7, 0, 0xac, 2, 2, 1, 1, 0, 1, 2, 0, 8, 0, 1, 6, 0],
        ),
        (
            Event::Subscribe { epoch, subscriptions: vec![due], start: Positions::default() },
            &[1, 2, 0, 0xac, 2, 1, 3, b'a', b'/', b'#', 0x21, 0],
        ),
        (
            Event::Progress {
                epoch,
                progress: Progress {
                    retained: vec![
                        (TopicFilter::new("a").unwrap(), Some("t".to_owned())),
                        (TopicFilter::new("b").unwrap(), None),
                    ],
                    ..Progress::default()
                },
            },
            &[1, 10, 0, 0xac, 2, 0, 0, 2, 1, b'a', 1, 1, b't', 1, b'b', 0],
        ),
    ] {
        assert_eq!(event.encode(), expected, "{event:?}");
    }
}
