//! What sessions read of the files of the embedded log when they come back. Everything that they want is in segments.

use super::{clean, lasting, limits::long};
use crate::rig::{ClientId, Rig, packet};
use floodplain_log::EmbeddedConfig;

/// Bytes of a payload, and of the PUBLISH with it that a subscriber is sent: topic `t`, QoS 1.
const PAYLOAD: usize = 100;
const PACKET: usize = 2 + 3 + 2 + PAYLOAD;

/// A log of small files, that reads little from memory: what workers have just appended, but nothing that waits.
fn on_disk(journal_bytes: u64) -> Rig {
    Rig::on_disk_with(EmbeddedConfig {
        journal_bytes,
        tail_bytes: 64 << 10,
        reserve_bytes: Some(0),
        ..EmbeddedConfig::new("/data/log")
    })
}

/// Lets house-keeping do all it has to do, and says how many segments there are.
fn to_segments(rig: &Rig) -> usize {
    rig.embedded.as_ref().unwrap().maintain().unwrap();
    rig.disk.files().iter().filter(|(path, _)| path.to_string_lossy().contains("/segment-")).count()
}

/// Takes what a subscriber was sent and acknowledges it; gives how many messages there were.
fn take_and_ack(rig: &mut Rig, client: ClientId) -> usize {
    let bytes = rig.take(client);
    let packets = bytes.chunks(PACKET);
    packets.clone().for_each(|packet| {
        assert_eq!((packet.len(), packet[0] & 0xf6, &packet[2..5]), (PACKET, 0x32, &b"\x00\x01t"[..]));
        rig.send_in_turn(client, &[0x40, 2, packet[5], packet[6]]);
    });
    rig.turn();
    packets.len()
}

/// Publishes `messages` small messages of several devices, of which the sleeper wants one in `every`, and wakes it. Gives the
/// bytes of the records that it was sent, those that the broker asked the log for, and those that the log asked the disk for.
fn wake(messages: usize, every: usize) -> (u64, u64, u64) {
    const DEVICES: usize = 10;
    const BURST: usize = 50;
    let mut rig = on_disk(256 << 10);
    let sleeper = lasting(&mut rig, "sleeper", 0);
    rig.send(sleeper, &packet(0x82, b"\x00\x01\x00\x01t\x01"));
    rig.expect(sleeper, b"\x90\x03\x00\x01\x01");
    rig.hang_up(sleeper);
    let devices: Vec<_> = (0..DEVICES).map(|n| clean(&mut rig, &format!("device-{n}"))).collect();
    for first in (0..messages).step_by(DEVICES * BURST) {
        for (n, device) in devices.iter().enumerate() {
            for i in 0..BURST {
                let topic = if (first + n * BURST + i).is_multiple_of(every) { b't' } else { b'n' };
                let body = [&[0, 1, topic, 0, i as u8 + 1][..], &[7; PAYLOAD]].concat();
                rig.send_in_turn(*device, &long(0x32, &body));
            }
        }
        for device in &devices {
            let mut acks = 0;
            rig.turn_until(|rig| {
                acks += rig.take(*device).len();
                acks == 4 * BURST
            });
            assert_eq!(acks, 4 * BURST);
        }
    }
    let segments = to_segments(&rig);
    assert!(segments * (200 << 10) > messages * PAYLOAD, "{segments} segments have nearly all");
    let before = (rig.disk.stats().read_bytes, rig.counts.get("floodplain_broker_resume_read_bytes_total"));
    let sleeper = lasting(&mut rig, "sleeper", 1);
    let mut got = 0;
    rig.turn_until(|rig| {
        got += take_and_ack(rig, sleeper);
        got >= messages / every
    });
    assert_eq!(got, messages / every);
    let delivered = rig.counts.get("floodplain_broker_resume_delivered_bytes_total");
    assert!(delivered >= (got * PAYLOAD) as u64);
    let asked = rig.counts.get("floodplain_broker_resume_read_bytes_total") - before.1;
    (delivered, asked, rig.disk.stats().read_bytes - before.0)
}

/// At most twice what it delivers, and 1 MiB: that is the promise. What is read beside the records is far less.
#[test]
fn a_session_that_wakes_reads_little_more_of_segments_than_it_gets() {
    for (messages, every) in [(20_000, 1), (40_000, 100)] {
        let (delivered, asked, read) = wake(messages, every);
        println!("1 in {every}: {delivered} bytes delivered, {asked} asked for, {read} read");
        assert!(read <= 2 * delivered + (1 << 20), "{read} bytes read for {delivered}");
        assert_eq!(asked, delivered, "records are asked for one by one, each once");
        assert!(read <= delivered + delivered / 20 + (256 << 10), "{read} bytes read for {delivered}");
    }
}

/// Retained messages that were sent and not acknowledged stand in no list: they are read with what was appended in one batch with them.
#[test]
fn a_retained_message_that_is_owed_is_read_from_segments_without_its_neighbours() {
    const MESSAGES: u8 = 60;
    let mut rig = on_disk(4 << 20);
    let publisher = clean(&mut rig, "pub");
    for n in 0..MESSAGES {
        let body = [b"\x00\x03r/", &[b'0' + n][..], &[0, n + 1], &[7; PAYLOAD]].concat();
        rig.send_in_turn(publisher, &long(0x33, &body));
        for id in 1..=200 {
            rig.send_in_turn(publisher, &long(0x32, &[b"\x00\x01n\x01", &[id][..], &[7; 2_000]].concat()));
        }
        let mut acks = 0;
        rig.turn_until(|rig| {
            acks += rig.take(publisher).len();
            acks == 4 * 201
        });
        assert_eq!(acks, 4 * 201);
    }
    assert!(to_segments(&rig) > 4);
    let mut resume = |code| {
        let before = rig.disk.stats().read_bytes;
        let client = lasting(&mut rig, "sub", code);
        if code == 0 {
            rig.send(client, &packet(0x82, b"\x00\x01\x00\x03r/+\x01"));
        }
        let (mut got, expected) = (0, usize::from(MESSAGES) * (PACKET + 2));
        rig.turn_until(|rig| {
            got += rig.take(client).len();
            got >= expected
        });
        assert!(got >= expected, "{got} of {expected} bytes came");
        rig.hang_up(client);
        (0..5).for_each(|_| rig.turn());
        rig.disk.stats().read_bytes - before
    };
    resume(0);
    let read = resume(1);
    let delivered = rig.counts.get("floodplain_broker_resume_delivered_bytes_total");
    println!("{delivered} bytes delivered, {read} read");
    assert!(read <= 2 * delivered + (1 << 20), "{read} bytes read for {delivered}");
}
