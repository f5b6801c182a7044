//! A client that says good-bye on one connection and comes back on another.

use crate::server::{Server, packet, text};
use floodplain_broker::{
    BrokerConfig,
    seams::{Access, Denied, OpenLoopback, Policy, Principal},
};
use floodplain_types::Class;
use std::sync::{
    Mutex,
    mpsc::{Receiver, SyncSender, sync_channel},
};

/// Holds the thread of the gateway in the middle of a turn: it says that it has come to a message on topic `stop`, and
/// waits until it may go on.
#[derive(Debug)]
struct Stop(Mutex<(SyncSender<()>, Receiver<()>)>);

impl Policy for Stop {
    fn publish(&self, _: &Principal, topic: &str) -> Result<(), Denied> {
        if topic == "stop" {
            let stop = self.0.lock().unwrap();
            stop.0.send(()).unwrap();
            stop.1.recv().unwrap();
        }
        Ok(())
    }
    fn subscribe(&self, principal: &Principal, filter: &str) -> Result<(), Denied> {
        OpenLoopback.subscribe(principal, filter)
    }
    fn speaks_for(&self, principal: &Principal, device: &str) -> bool {
        OpenLoopback.speaks_for(principal, device)
    }
    fn class(&self, principal: &Principal, topic: &str) -> Class {
        OpenLoopback.class(principal, topic)
    }
}

/// The DISCONNECT is in the socket before the new CONNECT is, but the runtime has been told of the new socket only: the
/// old one is read all the same, and there is no will [MQTT-3.14.4-3; 3:3.14.4-3].
#[test]
fn good_bye_counts_before_the_runtime_has_told_of_it() {
    let (come, has_come) = sync_channel(1);
    let (go_on, may_go_on) = sync_channel(1);
    let policy = Box::new(Stop(Mutex::new((come, may_go_on))));
    let access = Access { policy, ..Access::open_loopback() };
    // One thread, so that everything is in one order.
    let server = Server::start_of(tempfile::tempdir().unwrap(), 1, BrokerConfig::default(), access);

    let mut listener = server.v3("listener");
    listener.send(&packet(0x82, &[b"\x00\x01", &text("w")[..], b"\x01"].concat()));
    listener.expect(b"\x90\x03\x00\x01\x01");
    let with_will =
        packet(0x10, &[b"\x00\x04MQTT\x04\x0e\x00\x3c", &text("c")[..], &text("w"), &text("gone")].concat());
    let mut old = server.raw();
    old.send(&with_will);
    old.expect(b"\x20\x02\x00\x00");
    // Its slot, by which sockets are served in order, is before that of the new connection.
    let mut stopper = server.v3("stopper");
    let mut new = server.raw();
    // Connections are accepted one after the other: with this one, the new one has been, too.
    server.v3("last").expect_pong();

    let stop = packet(0x30, &text("stop"));
    stopper.send(&stop);
    has_come.recv().unwrap();
    // The thread stands still. What its runtime will be told next: there is another stop, and half a CONNECT.
    stopper.send(&stop);
    new.send(&with_will[..8]);
    go_on.send(()).unwrap();
    has_come.recv().unwrap();
    // It stands still again, in the turn in which it was told so. Only now:
    old.send(b"\xe0\x00");
    new.send(&with_will[8..]);
    go_on.send(()).unwrap();

    new.expect(b"\x20\x02\x00\x00");
    new.send(&packet(0x32, &[&text("w")[..], b"\x00\x01end"].concat()));
    new.expect(b"\x40\x02\x00\x01");
    let heard = listener.packet();
    assert!(heard.ends_with(b"end"), "{}", String::from_utf8_lossy(&heard));
    old.expect_close();
}
