//! Listeners and threads: MQTT over TCP on the broker's workers.
//!
//! Each thread is a current-thread tokio runtime with its own SO_REUSEPORT listener and one worker.
//! After CONNECT a socket moves to the thread whose worker owns the client's device.

mod doorbell;
mod gateway;
mod listen;
mod metrics;
mod run;
mod thread;

pub use gateway::{Gateway, GatewayConfig};
pub use run::Run;

use floodplain_broker::StartError;
use std::{io, net::SocketAddr};

/// Why the gateway could not start, or not stop in time.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no TLS and no authentication yet.
    #[error(
        "refusing to listen on {address}: without TLS and authentication only loopback addresses are allowed, use 127.0.0.1 or ::1"
    )]
    NotLoopback { address: SocketAddr },
    /// The address is in use, or not ours.
    #[error("cannot listen on {address}")]
    Listen { address: SocketAddr, source: io::Error },
    /// The system gives no more threads or file descriptors.
    #[error("cannot start thread {name}")]
    Thread { name: String, source: io::Error },
    /// The broker's state could not be built.
    #[error(transparent)]
    Broker(#[from] StartError),
    /// A thread has panicked; its message is in the log.
    #[error("thread {name} has panicked")]
    Panicked { name: String },
}
