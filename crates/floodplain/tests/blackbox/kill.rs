//! kill -9 of the real process under load, again and again on one data folder.
//!
//! Publishers at QoS 1 and 2 and a subscriber keep their sessions over all restarts and follow the
//! protocol to the letter, so the history checker may be strict: what was acknowledged is in the
//! log and at the subscribers, QoS 2 exactly once, in the order of each publisher.
//!
//! `FLOODPLAIN_TEST_KILLS` sets the number of kills under load (100); those during a start come on
//! top. `FLOODPLAIN_TEST_SEED` repeats a run.

use crate::{
    client::{Client, PATIENCE},
    target::{Server, program},
    wire::{Connect, Packet, Version},
};
use anyhow::{Context, Result, ensure};
use floodplain_testkit::{
    Copies, History, Program,
    mqtt::session::{Publisher, Subscriber, ended},
};
use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

const EXPIRY_S: u32 = 3_600;

/// xorshift64*: a kill moment from a seed.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % bound
    }
}

pub(crate) fn of_qos(payloads: &[Vec<u8>], qos: u8) -> impl Iterator<Item = &[u8]> {
    let mark = format!("qos{qos} ");
    payloads.iter().map(Vec::as_slice).filter(move |p| String::from_utf8_lossy(p).contains(&mark))
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|e| panic!("{name}={text}: {e}")))
}

pub(crate) fn seed() -> u64 {
    let time = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    number("FLOODPLAIN_TEST_SEED", time.as_nanos() as u64 | 1)
}

#[test]
fn killed_a_hundred_times_nothing_acknowledged_is_lost() {
    let (kills, seed) = (number("FLOODPLAIN_TEST_KILLS", 100), seed());
    let folder = tempfile::tempdir().expect("a folder");
    if let Err(e) = kill_loop(kills, seed, &program(folder.path()), |server| server.log("kill/%")) {
        panic!("FLOODPLAIN_TEST_SEED={seed}: {e:#}");
    }
}

#[test]
fn sigterm_tells_the_clients_and_keeps_what_was_acknowledged() {
    let test = || -> Result<()> {
        let folder = tempfile::tempdir()?;
        let server = Server::start(folder.path())?;
        let session = Connect::lasting(Version::V5, "reader", EXPIRY_S);
        let (mut reader, _) = Client::resume(server.mqtt, &session)?;
        reader.subscribe("kill/#", 1)?;
        reader.cut();
        let mut idle =
            [Client::clean(server.mqtt, Version::V5, "v5")?, Client::clean(server.mqtt, Version::V311, "v311")?];
        let history = History::new();
        let mut publisher = Publisher::new("kill", "p", Version::V5, 1);
        let address = server.mqtt;
        std::thread::scope(|scope| -> Result<()> {
            let load = scope.spawn(|| publisher.run(address, &history, false));
            let deadline = Instant::now() + PATIENCE;
            while history.acked() < 100 {
                ensure!(Instant::now() < deadline, "only {} messages were acknowledged", history.acked());
                std::thread::sleep(Duration::from_millis(5));
            }
            server.terminate()?;
            let end = load.join().expect("the publisher does not panic");
            ensure!(end.is_err(), "the publisher was not told");
            Ok(())
        })?;
        let [v5, v311] = &mut idle;
        let (v5, v311) = (v5.until_closed()?, v311.until_closed()?);
        ensure!(v5 == [Packet::Disconnect { code: 0x8b }] && v311.is_empty(), "{v5:?} {v311:?}");

        let server = Server::start(folder.path())?;
        let (mut reader, present) = Client::resume(server.mqtt, &session)?;
        ensure!(present);
        let mut got = Vec::new();
        while (got.len() as u64) < history.acked() {
            got.push(reader.message()?.payload);
        }
        for payloads in [&got, &server.log("kill/%")?] {
            let report = history.check(payloads.iter().map(Vec::as_slice), Copies::PerAttempt);
            ensure!(report.violations.is_empty(), "{report}");
        }
        Ok(())
    };
    if let Err(e) = test() {
        panic!("{e:#}");
    }
}

/// `stored` is what the server has of the messages, once for each time that it took one.
pub(crate) fn kill_loop(
    kills: u64,
    seed: u64,
    program: &Program,
    stored: impl Fn(&Server) -> Result<Vec<Vec<u8>>>,
) -> Result<()> {
    let mut chance = Chance(seed);
    // One history per QoS: the rules for copies differ.
    let histories = [History::new(), History::new()];
    let history = |qos: u8| &histories[usize::from(qos) - 1];
    let mut publishers: Vec<Publisher> = [(Version::V311, 1), (Version::V5, 1), (Version::V311, 2), (Version::V5, 2)]
        .map(|(version, qos)| Publisher::new("kill", "p", version, qos))
        .into();
    let mut live = Subscriber::new("live", Version::V5, 2);
    let mut sleeper = Subscriber::new("sleeper", Version::V311, 1);

    // Both subscriptions stand before the first message and the first kill.
    let server = Server::of(program)?;
    for subscriber in [&mut live, &mut sleeper] {
        let mut client = subscriber.connect(server.mqtt)?;
        client.subscribe("kill/#", subscriber.qos)?;
        client.cut();
    }
    server.kill()?;

    let acked = || histories.iter().map(History::acked).sum::<u64>();
    // Under load: something was acknowledged in the life that the kill ended.
    let (mut under_load, mut idle, mut starts_killed, mut recovery) = (0, 0, 0, Vec::new());
    while under_load < kills {
        let cycle = under_load + idle + starts_killed;
        ensure!(idle <= kills, "{idle} of {cycle} lives ended before anything was acknowledged");
        if chance.below(10) == 0 {
            // In the middle of recovery.
            let starting = program.spawn()?;
            std::thread::sleep(Duration::from_millis(chance.below(60)));
            starting.kill()?;
            starts_killed += 1;
            continue;
        }
        let since = Instant::now();
        let server = Server::of(program).with_context(|| format!("start after kill {cycle}"))?;
        recovery.push(since.elapsed());
        let acked_before = acked();
        let address = server.mqtt;
        let life = Duration::from_millis(20 + chance.below(300));
        std::thread::scope(|scope| -> Result<()> {
            let mut threads: Vec<_> = publishers
                .iter_mut()
                .map(|publisher| {
                    scope.spawn(move || {
                        let result = publisher.run(address, history(publisher.qos), false);
                        ended(result).with_context(|| publisher.name.clone())
                    })
                })
                .collect();
            let live = &mut live;
            threads.push(scope.spawn(move || {
                let result = live.connect(address).and_then(|mut client| live.run(&mut client, |_| false));
                ended(result).context("live subscriber")
            }));
            // The moment of the kill is the point of the test.
            std::thread::sleep(life);
            server.kill()?;
            threads.into_iter().try_for_each(|thread| thread.join().expect("clients do not panic"))
        })
        .with_context(|| format!("kill {cycle}"))?;
        *if acked() > acked_before { &mut under_load } else { &mut idle } += 1;
    }

    // The last life: everybody finishes.
    let server = Server::of(program)?;
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| -> Result<()> {
        let (address, done, live) = (server.mqtt, &done, &mut live);
        let reader = scope.spawn(move || {
            let mut client = live.connect(address)?;
            let deadline = Instant::now() + PATIENCE * 3;
            live.run(&mut client, |live| {
                let all = || live.got.iter().collect::<BTreeSet<_>>().len() as u64 >= acked();
                done.load(Ordering::Acquire) && (all() || Instant::now() > deadline)
            })?;
            client.leave()
        });
        for publisher in &mut publishers {
            publisher.run(address, history(publisher.qos), true)?;
        }
        done.store(true, Ordering::Release);
        reader.join().expect("the subscriber does not panic")
    })?;
    let mut client = sleeper.connect(server.mqtt)?;
    let deadline = Instant::now() + PATIENCE * 3;
    sleeper.run(&mut client, |s| s.got.len() as u64 >= acked() || Instant::now() > deadline)?;
    client.leave()?;

    let log = stored(&server)?;
    recovery.sort_unstable();
    println!(
        "{under_load} kills under load, {idle} before anything was acknowledged, {starts_killed} during a start; \
         start p50 {:?}, worst {:?}",
        recovery.get(recovery.len() / 2),
        recovery.last()
    );
    for (reader, payloads, copies) in [
        ("log", &log, [Copies::PerAttempt, Copies::PerAttempt]),
        ("live subscriber", &live.got, [Copies::Any, Copies::PerAttempt]),
        ("sleeping subscriber", &sleeper.got, [Copies::Any, Copies::Any]),
    ] {
        for qos in [1, 2] {
            let report = history(qos).check(of_qos(payloads, qos), copies[usize::from(qos) - 1]);
            println!("{reader}, QoS {qos}: {report}");
            ensure!(report.violations.is_empty(), "{reader}, QoS {qos}: {report}");
            ensure!(report.acked > kills, "{reader}, QoS {qos}: too little happened: {report}");
        }
    }
    Ok(())
}
