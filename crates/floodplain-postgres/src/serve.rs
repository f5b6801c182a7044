//! The listener.

use crate::{
    Database,
    handler::{Handler, Shared},
};
use pgwire::{api::ConnectionManager, tokio::process_socket};
use std::{sync::Arc, time::Duration};
use tokio::{net::TcpListener, sync::Semaphore};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Clients at a time; the rest wait in the listener's queue.
const CONNECTIONS_MAX: usize = 256;

/// Serves clients until `stop`, then ends all connections.
pub async fn serve(listener: TcpListener, database: Arc<dyn Database>, stop: CancellationToken) {
    let connections = Arc::new(ConnectionManager::new());
    let shared = Shared { database, connections, ids: Default::default() };
    let handler = Handler(Arc::new(shared));
    let (permits, tasks) = (Arc::new(Semaphore::new(CONNECTIONS_MAX)), TaskTracker::new());
    let gauge = metrics::gauge!("floodplain_postgres_connections_count");
    loop {
        let permit = Arc::clone(&permits).acquire_owned().await.expect("the semaphore is never closed");
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let (handler, stop, gauge) = (handler.clone(), stop.clone(), gauge.clone());
                tasks.spawn(async move {
                    gauge.increment(1.0);
                    tokio::select! {
                        () = stop.cancelled() => {}
                        ended = process_socket(stream, None, handler) => {
                            if let Err(error) = ended {
                                tracing::debug!(%peer, %error, "postgres client went away");
                            }
                        }
                    }
                    gauge.decrement(1.0);
                    drop(permit);
                });
            }
            Err(error) => {
                // Out of descriptors, most likely: wait rather than spin.
                tracing::warn!(%error, "postgres listener cannot accept");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    tasks.close();
    tasks.wait().await;
}
