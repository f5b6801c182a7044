//! What a question for latest values costs: `cargo bench -p floodplain-history --bench latest [devices]`.
//!
//! Devices with seven columns and twenty rows each, in buffers; wall time of one question, the median of a hundred.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use floodplain_history::{
    engine::{Engine, EngineConfig},
    filter::Devices,
    route::DefaultRoute,
};
use floodplain_log::{Append, BatchBuilder, Compression, Log, MessageRef};
use floodplain_testkit::{FaultDisk, ModelLog};
use floodplain_types::{Class, Clock as _, ManualClock, StreamId, StreamName, TenantId, Timestamp};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

const ROWS: usize = 20;

fn main() {
    let devices: usize = std::env::args().skip(1).find_map(|arg| arg.parse().ok()).unwrap_or(5000);
    let clock = Arc::new(ManualClock::new(Timestamp::from_millis(1_700_000_000_000)));
    let log = ModelLog::new(clock.clone());
    let open = |name: &str, partitions| {
        let stream = StreamName::new(name).unwrap();
        log.open_stream(&StreamId { tenant: TenantId::default_tenant(), stream, generation: 0 }, partitions).unwrap()
    };
    let (input, state, manifest) = (open("telemetry", 2), open("state", 2), open("_history", 1));
    let config = EngineConfig::new("/history", vec![input.clone()], state, manifest);
    let route = Arc::new(DefaultRoute::default());
    let disk = Arc::new(FaultDisk::new(1));
    let mut engine = Engine::open(config, disk, Arc::new(log.clone()), clock.clone(), route).unwrap();
    for row in 0..ROWS {
        for device in 0..devices {
            clock.advance(Duration::from_micros(100));
            let (topic, key) = (format!("devices/truck-{device}/readings"), format!("truck-{device}"));
            let values: Vec<String> = (0..7).map(|at| format!(r#""v{at}":{}.5"#, device * 7 + row + at)).collect();
            let payload = format!("{{{}}}", values.join(","));
            let (payload, key) = (payload.as_bytes(), key.as_bytes());
            let message = MessageRef { topic: &topic, payload, key, qos: 1, ..MessageRef::default() };
            let mut builder = BatchBuilder::new();
            message.write(&mut builder, clock.now().as_millis(), std::iter::empty()).unwrap();
            let batch = builder.finish(Compression::None).unwrap();
            log.submit(Append { batches: vec![(input.partition_of(key), batch)], class: Class::All }, None);
        }
        while engine.step().unwrap() {}
    }
    let handle = engine.handle();
    let columns = handle.snapshot("readings").unwrap().unwrap().columns().clone();
    let started = Instant::now();
    while handle.latest(&columns, &Devices::All).unwrap().is_none() {
        std::thread::sleep(Duration::from_millis(1));
    }
    println!("the index of {devices} devices, {} rows: {:?}", devices * ROWS, started.elapsed());
    for (what, asked) in [("one device", Devices::only(["truck-42"])), ("all devices", Devices::All)] {
        let mut times: Vec<Duration> = (0..100)
            .map(|_| {
                let started = Instant::now();
                let found = handle.latest(&columns, &asked).unwrap().unwrap();
                assert!(found.rows.iter().any(|rows| rows.num_rows() > 0));
                started.elapsed()
            })
            .collect();
        times.sort_unstable();
        println!("{what}: {:?}", times[50]);
    }
}
