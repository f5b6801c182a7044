//! Statements on SUBSCRIBE, UNSUBSCRIBE and their answers that bytes alone decide.

use floodplain_mqtt::{Packet, RetainHandling, SubscriptionOptions, share};

use crate::check::{
    Is::{Filter, Good, Malformed, Protocol},
    Who::{Client4, Client5, Server4, Server5},
    check, check_all, packet,
};

#[test]
fn a_filter_is_needed() {
    check_all(&[
        ("SUBSCRIBE [MQTT-3.8.3-2]", Server5, 0x82, b"\0\x01\0", Protocol),
        ("SUBSCRIBE [3:3.8.3-3]", Server4, 0x82, b"\0\x01", Protocol),
        ("UNSUBSCRIBE [MQTT-3.10.3-2]", Server5, 0xA2, b"\0\x01\0", Protocol),
        ("UNSUBSCRIBE [3:3.10.3-2]", Server4, 0xA2, b"\0\x01", Protocol),
        ("SUBACK has a code per filter [MQTT-3.9.3-1]", Client5, 0x90, b"\0\x01\0", Protocol),
        ("SUBACK has a code per filter", Client4, 0x90, b"\0\x01", Protocol),
        ("UNSUBACK has a code per filter [MQTT-3.11.3-1]", Client5, 0xB0, b"\0\x01\0", Protocol),
        ("UNSUBACK has none in 3.1.1", Client4, 0xB0, b"\0\x01", Good),
    ]);
}

/// Every options byte, in both versions.
#[test]
fn subscription_options() {
    for byte in 0..=255_u8 {
        let expected = match byte {
            0x40.. => Malformed,
            _ if byte & 3 == 3 => Protocol,
            _ if byte & 0x30 == 0x30 => Protocol,
            _ => Good,
        };
        check("options [MQTT-3.8.3-5], §3.8.3.1", Server5, 0x82, &[0, 1, 0, 0, 1, b'a', byte], expected);
        assert_eq!(
            SubscriptionOptions::from_byte(byte).map(SubscriptionOptions::to_byte),
            (expected == Good).then_some(byte)
        );
        let expected = match byte {
            4.. => Malformed,
            3 => Protocol,
            _ => Good,
        };
        check("QoS only [3:3.8.3-4]", Server4, 0x82, &[0, 1, 0, 1, b'a', byte], expected);
    }
    let bytes = packet(0x82, b"\0\x01\x02\x0B\x07\0\x01a\x2E\0\x03b/#\0");
    let Ok(Some((Packet::Subscribe(found), _))) = Server5.decoder().next(&bytes) else { panic!("a SUBSCRIBE") };
    assert_eq!(found.subscription_id.unwrap().get(), 7);
    let [first, second] = found.subscriptions.iter().collect::<Vec<_>>()[..] else { panic!("two filters") };
    assert_eq!((first.filter, second.filter), ("a", "b/#"));
    let options = first.options;
    assert!(options.no_local && options.retain_as_published && options.qos as u8 == 2);
    assert_eq!(options.retain_handling, RetainHandling::DoNotSend);
}

#[test]
fn filters_follow_the_rules() {
    for (statement, filter, expected) in [
        ("# alone", "#", Good),
        ("+ alone", "+", Good),
        ("# last [MQTT-4.7.1-1; 3:4.7.1-2]", "a/#", Good),
        ("# not last", "#/a", Filter),
        ("# inside a level", "a#", Filter),
        ("+ fills its level [MQTT-4.7.1-2; 3:4.7.1-3]", "a/+/b", Good),
        ("+ inside a level", "a+/b", Filter),
        ("empty levels", "//", Good),
        ("empty [MQTT-4.7.3-1; 3:4.7.3-1]", "", Filter),
    ] {
        let string = [&(filter.len() as u16).to_be_bytes()[..], filter.as_bytes()].concat();
        check(statement, Server4, 0x82, &[b"\0\x01", &string[..], b"\0"].concat(), expected);
        check(statement, Server5, 0x82, &[b"\0\x01\0", &string[..], b"\0"].concat(), expected);
        check(statement, Server4, 0xA2, &[b"\0\x01", &string[..]].concat(), expected);
        check(statement, Server5, 0xA2, &[b"\0\x01\0", &string[..]].concat(), expected);
        // One bad filter spoils the packet: it cannot be told from garbage.
        check(statement, Server5, 0x82, &[b"\0\x01\0\0\x01a\0", &string[..], b"\0"].concat(), expected);
    }
}

#[test]
fn shared_filters_follow_the_rules_in_5_0() {
    for (filter, expected) in [
        ("$share/g/a", Good),
        ("$share/g/#", Good),
        ("$share/g//", Good),
        ("$share/g/$share/h/a", Good),
        // The name has a character [MQTT-4.8.2-1], and a filter follows it [MQTT-4.8.2-2].
        ("$share//a", Filter),
        ("$share/g", Filter),
        ("$share/g/", Filter),
        ("$share/g+/a", Filter),
        ("$share/+/a", Filter),
        ("$share/g#/a", Filter),
        ("$share/#", Filter),
        ("$share/g/a#", Filter),
        ("$share", Good),
        ("$shared/g/+", Good),
    ] {
        let string = [&(filter.len() as u16).to_be_bytes()[..], filter.as_bytes()].concat();
        check(filter, Server5, 0x82, &[b"\0\x01\0", &string[..], b"\0"].concat(), expected);
        check(filter, Server5, 0xA2, &[b"\0\x01\0", &string[..]].concat(), expected);
    }
    assert_eq!(share("$share/g/a/+"), Ok(Some(("g", "a/+"))));
    assert_eq!(share("a/+"), Ok(None));
    check_all(&[
        ("no local on a shared filter [MQTT-3.8.3-4]", Server5, 0x82, b"\0\x01\0\0\x0A$share/g/a\x04", Protocol),
        ("no local elsewhere", Server5, 0x82, b"\0\x01\0\0\x01a\x04", Good),
        ("3.1.1 knows no shared filters", Server4, 0x82, b"\0\x01\0\x08$share/g\0", Good),
    ]);
}
