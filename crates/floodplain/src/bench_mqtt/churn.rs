//! Shape e: 50 loops of connect, CONNACK, DISCONNECT, close.

use super::{Load, Report, process::Sample};
use crate::client::{
    now,
    wires::{Poll, Wire, connect_packet, encode},
};
use anyhow::{Context, Result, bail, ensure};
use floodplain_mqtt::{Disconnect, DisconnectCode, Packet, ReasonCode};
use std::time::Duration;

const LOOPS: usize = 50;

pub(super) fn run(load: &Load) -> Result<Report> {
    let mut poll = Poll::new()?;
    let goodbye = encode(load.version, &Packet::Disconnect(Disconnect::new(DisconnectCode::NormalDisconnection)))?;
    let mut opened = 0_u64;
    let mut open = || -> Result<Wire> {
        let mut wire = Wire::open(load.address, load.version)?;
        // Never the same client twice: no broker has to sort out who is who.
        opened += 1;
        wire.send(&connect_packet(load.version, &format!("bench-churn-{opened}"))?)?;
        // A reset instead of a FIN: no port waits in TIME_WAIT.
        socket2::SockRef::from(&wire.stream).set_linger(Some(Duration::ZERO)).context("linger")?;
        Ok(wire)
    };
    for _ in 0..LOOPS {
        poll.add(open()?)?;
    }
    let mut done = 0_u64;
    let mut scratch = vec![0; 4_096];
    let mut ready = Vec::new();
    let mut turn = |poll: &mut Poll, duration: Duration| -> Result<u64> {
        let (end, first) = (now() + duration, done);
        while now() < end {
            poll.wait(Duration::from_secs(1), &mut ready)?;
            for index in ready.drain(..) {
                let mut welcome = false;
                let open_still = poll.wires[index].receive(&mut scratch, |packet| match packet {
                    Packet::Connack(connack) => {
                        ensure!(!connack.code.is_failure(), "refused: {:?}", connack.code);
                        welcome = true;
                        Ok(())
                    }
                    other => bail!("expected CONNACK, got {other:?}"),
                })?;
                ensure!(open_still, "the broker closed a connection");
                if welcome {
                    poll.send(index, &goodbye)?;
                    poll.replace(index, open()?)?;
                    done += 1;
                }
            }
        }
        Ok(done - first)
    };
    turn(&mut poll, load.warm_up)?;
    let before = Sample::take(load.pid)?;
    let count = turn(&mut poll, load.measure)?;
    let after = Sample::take(load.pid)?;
    Ok(Report {
        shape: "e".to_owned(),
        unit: "connections",
        count,
        seconds: after.seconds_since(&before),
        lost: 0,
        broker_cpu_s: after.broker_cpu_s_since(&before),
        broker_threads: after.threads_since(&before),
        generator_load: after.generator_load_since(&before),
        delivery: None,
        ack: None,
        kib_per_connection: None,
        broker_rss_kib: after.broker_rss_kib,
    })
}
