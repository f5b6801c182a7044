//! Who observes rows sees each at least once, and what it has to keep is kept before a file has the row.

use crate::engine::{World, run};
use floodplain_history::{
    Error,
    observe::{Observed, Observer},
};
use floodplain_types::Position;
use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

#[derive(Debug, Default)]
pub(crate) struct Watcher {
    rows: Mutex<Vec<String>>,
    settled: AtomicUsize,
    fails: AtomicBool,
}

impl Watcher {
    pub(crate) fn seen(&self) -> Vec<String> {
        self.rows.lock().unwrap().clone()
    }
}

impl Observer for Watcher {
    fn row(&self, observed: &Observed<'_>) {
        let Observed { topic, position, number, row, .. } = observed;
        let fields: Vec<_> = row.fields().map(|field| format!("{}={:?}", field.name, field.value)).collect();
        let (table, device, offset) = (row.table(), row.device(), position.offset);
        self.rows.lock().unwrap().push(format!("{topic} {table} {device} {offset}/{number} {}", fields.join(" ")));
    }

    fn settle(&self) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        if self.fails.load(Ordering::Relaxed) {
            return Err("the log is full".into());
        }
        self.settled.store(self.rows.lock().unwrap().len(), Ordering::Relaxed);
        Ok(())
    }
}

pub(crate) fn watched() -> (World, Arc<Watcher>) {
    let (mut world, watcher) = (World::new(), Arc::new(Watcher::default()));
    world.config.observer = Some(watcher.clone());
    (world, watcher)
}

#[test]
fn every_row_of_a_table_is_seen_with_its_place() {
    let (world, watcher) = watched();
    world.publish("devices/a/env", br#"[{"time":1700000000000,"v":1},{"time":1700000001000,"v":2}]"#);
    world.publish("devices/a/env", br#"{"v": "text"}"#);
    world.publish("home/a/light", b"on");
    run(&mut world.engine().unwrap());
    let rows = watcher.seen();
    assert_eq!(
        rows,
        [
            "devices/a/env env a 0/0 v=Float(1.0)",
            "devices/a/env env a 0/1 v=Float(2.0)",
            "devices/a/env env a 1/0 v=Text(\"text\")"
        ]
    );
}

#[test]
fn no_row_gets_into_a_file_before_it_is_settled() {
    let (mut world, watcher) = watched();
    // Everything is due at once.
    world.config.flush_bytes = 1;
    let partition = world.publish("devices/a/env", br#"{"v": 1}"#);
    let mut engine = world.engine().unwrap();
    assert!(engine.step().unwrap(), "it decodes");
    watcher.fails.store(true, Ordering::Relaxed);
    for _ in 0..3 {
        assert!(matches!(engine.step(), Err(Error::Observer(_))));
        assert!(matches!(engine.flush_all(), Err(Error::Observer(_))));
    }
    assert_eq!(engine.handle().replay_from(partition), Position::ZERO);
    assert!(world.disk.files().iter().all(|(path, _)| path.extension().is_none_or(|end| end != "parquet")));
    // After a crash the row comes again.
    drop(engine);
    watcher.fails.store(false, Ordering::Relaxed);
    let mut engine = world.engine().unwrap();
    run(&mut engine);
    assert_eq!(watcher.seen().len(), 2);
    assert_eq!(watcher.settled.load(Ordering::Relaxed), 2);
    assert!(engine.handle().replay_from(partition) > Position::ZERO, "now it is in a file");
    drop(engine);
    run(&mut world.engine().unwrap());
    assert_eq!(watcher.seen().len(), 2, "and does not come again");
}
