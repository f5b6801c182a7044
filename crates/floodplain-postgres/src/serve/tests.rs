use crate::rig::{Client, Rig, message, query, wait_until};
use metrics::{Counter, Gauge, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};
use tokio::{io::AsyncWriteExt as _, net::TcpStream};

/// The gauge of open connections.
#[derive(Debug, Default)]
struct Connections(Arc<AtomicU64>);

impl Connections {
    fn count(&self) -> f64 {
        f64::from_bits(self.0.load(Ordering::SeqCst))
    }
}

impl Recorder for Connections {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> Counter {
        Counter::noop()
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        assert_eq!(key.name(), "floodplain_postgres_connections_count");
        Gauge::from_arc(Arc::clone(&self.0))
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> metrics::Histogram {
        metrics::Histogram::noop()
    }
}

#[tokio::test]
async fn a_panic_ends_one_connection_and_is_counted_off() {
    let connections = Connections::default();
    let _recording = metrics::set_default_local_recorder(&connections);
    let rig = Rig::new().await;
    let mut other = Client::new(rig.address).await;
    let mut client = Client::new(rig.address).await;
    wait_until("two are open", || connections.count() == 2.0).await;
    let (kinds, _) = client.ask(&[query("panic")]).await;
    assert_eq!(kinds, "");
    let mut short = TcpStream::connect(rig.address).await.unwrap();
    short.write_all(&message(b'P', &[0, 0])).await.unwrap();
    drop((client, short));
    wait_until("one is open", || connections.count() == 1.0).await;
    assert_eq!(other.ask(&[query("three")]).await.0, "TDDDCZ");
    drop(other);
    wait_until("none is open", || connections.count() == 0.0).await;
    rig.stop().await;
}
