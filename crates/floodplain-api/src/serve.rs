//! Connections: taken, bounded, ended.

use crate::{
    Api,
    access::Peer,
    router::{self, Sockets},
    stall::Stall,
};
use hyper::service::Service as _;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use std::{io, net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Before accepting again after the system refused, for example for want of file descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// Answers HTTP/1.1 on `listener` until `stop`, then ends idle connections at once, others after their answer, and
/// WebSockets after their close; at the latest after [`Limits::stop_time_max`](crate::Limits::stop_time_max).
///
/// # Cancel safety
/// Dropping it leaves connections to end by themselves.
pub async fn serve(listener: TcpListener, api: Api, stop: CancellationToken) {
    let limits = api.limits;
    let connections = TaskTracker::new();
    let places = Arc::new(Semaphore::new(limits.connections_max));
    let cut = CancellationToken::new();
    let router = router::router(api, stop.clone(), Sockets { tasks: connections.clone(), cut: cut.clone() });
    loop {
        let (stream, peer, place) = tokio::select! {
            () = stop.cancelled() => break,
            accepted = accept(&listener, &places) => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept an http connection");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            },
        };
        let (service, stop, cut) = (TowerToHyperService::new(router.clone()), stop.clone(), cut.clone());
        let service = hyper::service::service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
            request.extensions_mut().insert(Peer(peer.ip()));
            service.call(request)
        });
        connections.spawn(async move {
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(limits.head_time_max)
                .serve_connection(TokioIo::new(Stall::new(stream, limits.stall_time_max)), service)
                .with_upgrades();
            let mut connection = std::pin::pin!(connection);
            let ended = tokio::select! {
                ended = connection.as_mut() => ended,
                () = stop.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    tokio::select! {
                        ended = connection => ended,
                        () = cut.cancelled() => Ok(()),
                    }
                }
            };
            if let Err(error) = ended {
                tracing::debug!(%error, "http connection ended");
            }
            drop(place);
        });
    }
    drop(listener);
    connections.close();
    if tokio::time::timeout(limits.stop_time_max, connections.wait()).await.is_err() {
        tracing::warn!(open = connections.len(), "http answers were cut off at the deadline");
        cut.cancel();
        connections.wait().await;
    }
}

async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> io::Result<(TcpStream, SocketAddr, tokio::sync::OwnedSemaphorePermit)> {
    let place = Arc::clone(places).acquire_owned().await.map_err(io::Error::other)?;
    let (stream, peer) = listener.accept().await?;
    // Small answers leave at once; a connection works without.
    stream.set_nodelay(true).unwrap_or_default();
    Ok((stream, peer, place))
}
