//! The listener.

use crate::{
    Database, Login, Tls, connection,
    handler::{Handler, Shared, server_parameters},
    login::{Startup, count_error},
};
use futures::FutureExt as _;
use metrics::Gauge;
use pgwire::api::ConnectionManager;
use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};
use tokio::{
    net::TcpListener,
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Clients at a time; the rest wait in the listener's queue.
const CONNECTIONS_MAX: usize = 256;

/// How long a client may take for TLS and its login.
const LOGIN_TIME_MAX: Duration = Duration::from_secs(30);

/// Who may come in, and how.
#[derive(Debug, Clone)]
pub struct Entrance {
    pub login: Arc<dyn Login>,
    /// Without it, clients that ask for TLS are told that there is none.
    pub tls: Option<Tls>,
}

/// Serves clients that `entrance` lets in until `stop`, then ends all connections.
pub async fn serve(listener: TcpListener, database: Arc<dyn Database>, entrance: Entrance, stop: CancellationToken) {
    let Entrance { login, tls } = entrance;
    let connections = Arc::new(ConnectionManager::new());
    let certificate = tls.as_ref().map(|tls| &*tls.certificate_pem);
    let startup =
        Startup::new(login, server_parameters(database.server_version()), Arc::clone(&connections), certificate);
    let shared = Shared { database, connections, startup: Arc::new(startup) };
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
                let (handler, tls, stop) = (handler.clone(), tls.clone(), stop.clone());
                let open = Open::new(&gauge, permit);
                tasks.spawn(async move {
                    let _open = open;
                    let served = connection::serve(stream, tls.as_ref(), handler, LOGIN_TIME_MAX);
                    tokio::select! {
                        () = stop.cancelled() => {}
                        // A defect that one client finds is no other's affair.
                        ended = AssertUnwindSafe(served).catch_unwind() => match ended {
                            Ok(Ok(())) => {}
                            Ok(Err(error)) => tracing::debug!(%peer, %error, "postgres client went away"),
                            Err(_) => {
                                count_error("XX000");
                                tracing::error!(%peer, "serving a postgres client panicked; its connection is closed");
                            }
                        }
                    }
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

/// A connection counts until this is dropped.
struct Open(Gauge, #[expect(dead_code, reason = "held")] OwnedSemaphorePermit);

impl Open {
    fn new(gauge: &Gauge, permit: OwnedSemaphorePermit) -> Self {
        gauge.increment(1.0);
        Self(gauge.clone(), permit)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}

#[cfg(test)]
mod tests;
