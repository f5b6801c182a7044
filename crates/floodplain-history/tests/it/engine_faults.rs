//! A power cut or a failing disk at every call of a flush, a compaction and a start: each row is there once.

use crate::{
    engine::{Row, World, cut_at_every_call, rows, run},
    hostile::Hostile,
};
use floodplain_history::{Error, engine::Engine, route::DefaultRoute};
use floodplain_log::Log as _;
use floodplain_testkit::{AdverseLog, Adversity, Fault, Rule, wait_until};
use proptest::prelude::*;
use std::{collections::BTreeMap, sync::Arc};

const TABLES: [&str; 2] = ["env", "power"];

/// Rows from readers, and how many are stored in files once all is flushed.
fn check(world: &World, count: u64, what: &str) {
    let expected = expected(count);
    let mut engine = world.engine().unwrap();
    run(&mut engine);
    for (table, expected) in TABLES.iter().zip(&expected) {
        assert_eq!(rows(&engine.handle(), table), *expected, "{what}: {table}");
    }
    engine.flush_all().unwrap();
    let mut engine = world.engine().unwrap();
    let in_files: u64 = TABLES
        .iter()
        .filter_map(|table| engine.handle().snapshot(table).unwrap())
        .flat_map(|snapshot| snapshot.parts(&floodplain_history::filter::Filter::ALL).unwrap())
        .map(|part| part.rows_max())
        .sum();
    assert_eq!(in_files, count, "{what}: none lost, none twice");
    run(&mut engine);
    for (table, expected) in TABLES.iter().zip(&expected) {
        assert_eq!(rows(&engine.handle(), table), *expected, "{what}: {table} from files");
    }
}

/// Windows of several hours, both partitions, columns that are new now and then, rows that share a key.
fn record(i: i64) -> (usize, String, i64, String, f64) {
    let time_ms = 1_700_000_000_000 + (i * 7919 % 13) * 3_600_000 - 50_000_000;
    let value = if i % 5 == 4 { i as f64 + 0.5 } else { i as f64 };
    ((i % 2) as usize, format!("d{}", i % 3), time_ms, format!("v{}", i / 8), value)
}

fn publish(world: &World, from: i64, to: i64) {
    for i in from..to {
        let (table, device, time, column, value) = record(i);
        let payload = format!(r#"{{"time":{time},"{column}":{value},"n":"{i}"}}"#);
        world.publish(&format!("devices/{device}/{}", TABLES[table]), payload.as_bytes());
    }
}

/// What readers must see of the first `count` records.
fn expected(count: u64) -> Vec<Vec<Row>> {
    let mut tables = [BTreeMap::new(), BTreeMap::new()];
    for i in 0..count as i64 {
        let (table, device, time, column, value) = record(i);
        let row: &mut Row = tables[table].entry((device.clone(), time)).or_default();
        row.insert("device".to_owned(), device);
        row.insert("time".to_owned(), (time * 1000).to_string());
        row.insert(column, value.to_string());
        row.insert("n".to_owned(), i.to_string());
    }
    tables.into_iter().map(|table| table.into_values().collect()).collect()
}

/// Everything the engine does with a disk, from a start to a compaction.
fn work(world: &World) -> Result<(), Error> {
    let mut engine = world.engine()?;
    let drain = |engine: &mut Engine| -> Result<(), Error> {
        while engine.step()? {}
        Ok(())
    };
    for part in 0..5 {
        publish(world, part * 8, part * 8 + 8);
        drain(&mut engine)?;
        engine.flush_all()?;
    }
    drain(&mut engine)?;
    engine.write_snapshots()
}

/// The same with a failing disk: what fails is tried again.
fn work_on(world: &World) -> u64 {
    let mut failures = 0;
    let mut engine = loop {
        match world.engine() {
            Ok(engine) => break engine,
            Err(_) => failures += 1,
        }
    };
    for part in 0..5 {
        publish(world, part * 8, part * 8 + 8);
        loop {
            match engine.step() {
                Ok(true) => {}
                Ok(false) => break,
                Err(_) => failures += 1,
            }
            assert!(failures < 10, "one failure is one failure");
        }
        while engine.flush_all().is_err() {
            failures += 1;
        }
    }
    loop {
        match engine.step() {
            Ok(true) => {}
            Ok(false) => break,
            Err(_) => failures += 1,
        }
    }
    failures
}

#[test]
fn a_power_cut_at_any_call_loses_and_doubles_no_row() {
    let cuts = cut_at_every_call(work, |world, what| {
        let published =
            (0..2).map(|i| floodplain_log::Log::watermark(&world.log, world.input.partition(i)).offset).sum();
        check(world, published, what);
    });
    assert!(cuts > 100, "{cuts} calls are too few to be all of them");
}

#[test]
fn a_failure_of_any_call_loses_and_doubles_no_row() {
    let (mut n, mut felt) = (1, 0);
    loop {
        let world = World::new();
        world.disk.fail(Rule::nth(n, Fault::Eio));
        felt += work_on(&world);
        if world.disk.faults_fired() == 0 {
            break;
        }
        world.disk.heal();
        check(&world, 40, &format!("failure at call {n}"));
        n += 1;
    }
    assert!(felt > 50, "{felt} of {n} failures were noticed");
}

#[test]
fn a_hostile_log_loses_and_doubles_no_row() {
    let (mut refused, mut crashes) = (0, 0);
    for seed in 0..12 {
        let world = World::new();
        let mut hostile = Hostile::new(&world, Adversity::HARSH, seed);
        for part in 0..5 {
            publish(&world, part * 8, part * 8 + 8);
            hostile.drain();
            hostile.flush();
        }
        hostile.drain();
        (refused, crashes) = (refused + hostile.refused, crashes + hostile.crashes);
        drop(hostile);
        check(&world, 40, &format!("seed {seed}"));
    }
    assert!(refused > 5 && crashes > 5, "{refused} refusals, {crashes} crashes");
}

/// Where the log is on other machines, what a process that died has written may show only when the next one has begun.
#[test]
fn a_change_of_files_that_shows_late_takes_no_file() {
    let world = World::new();
    publish(&world, 0, 8);
    let mut first = world.engine().unwrap();
    run(&mut first);
    // It shows nothing new before it is pumped.
    let apart = Adversity { torn: true, ..Adversity::NONE };
    let late = AdverseLog::new(Arc::new(world.log.clone()), apart, 1);
    first.flush_all().unwrap();
    drop(first);
    let manifest = world.config.manifest.partition(0);
    let written = world.log.watermark(manifest);
    assert!(late.watermark(manifest) < written);
    let second = std::thread::scope(|scope| {
        let open = || {
            let (disk, route) = (Arc::new(world.disk.clone()), Arc::new(DefaultRoute::default()));
            let mut second =
                Engine::open(world.config.clone(), disk, late.clone(), world.clock.clone(), route).unwrap();
            run(&mut second);
            second
        };
        let opened = scope.spawn(open);
        let pump = || {
            if world.log.watermark(manifest) > written {
                late.pump();
            }
        };
        wait_until("the start", &pump, || opened.is_finished());
        opened.join().unwrap()
    });
    for (table, expected) in TABLES.iter().zip(&expected(8)) {
        assert_eq!(rows(&second.handle(), table), *expected, "{table}");
    }
    drop(second);
    check(&world, 8, "after one more start");
}

#[derive(Debug, Clone)]
enum Step {
    Publish(i64),
    Work,
    Flush,
    Restart,
    Cut(u64),
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn any_order_of_flushes_compactions_and_starts_gives_the_same_table(
        steps in prop::collection::vec(
            prop_oneof![
                4 => (1..9_i64).prop_map(Step::Publish),
                8 => Just(Step::Work),
                3 => Just(Step::Flush),
                1 => Just(Step::Restart),
                1 => (1..30_u64).prop_map(Step::Cut),
            ],
            1..60,
        ),
    ) {
        let mut world = World::new();
        let mut engine = world.engine().unwrap();
        let mut count = 0;
        for (seed, step) in steps.into_iter().enumerate() {
            let done = match step {
                Step::Publish(more) => {
                    publish(&world, count, count + more);
                    count += more;
                    Ok(())
                }
                Step::Work => engine.step().map(drop),
                Step::Flush => engine.flush_all(),
                Step::Cut(n) => {
                    world.disk.cut_at_call(n);
                    Ok(())
                }
                Step::Restart => {
                    world.disk = world.disk.process_crash();
                    engine = world.engine().unwrap();
                    Ok(())
                }
            };
            if world.disk.is_frozen() {
                world.disk = world.disk.power_cut(seed as u64);
                engine = world.engine().unwrap();
            } else {
                done.unwrap();
            }
        }
        world.disk.cancel_cut();
        drop(engine);
        check(&world, count as u64, "at the end");
    }
}
