//! Ports that stay ours while a broker is down.

use super::error::{Error, Result};
use socket2::{Domain, Socket, Type};
use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
};

/// The ports of one node.
#[derive(Debug, Clone)]
pub(super) struct Ports {
    pub(super) client: u16,
    pub(super) broker: u16,
    pub(super) controller: u16,
    /// Shared by the copies of these ports.
    held: Arc<Mutex<Vec<Socket>>>,
}

impl Ports {
    pub(super) fn new([client, broker, controller]: [u16; 3]) -> Self {
        Self { client, broker, controller, held: Arc::default() }
    }

    /// Ports that the kernel has free, held.
    pub(super) fn choose() -> Result<Self> {
        let failed = || Error::what("choose a free port");
        let sockets = [hold(0), hold(0), hold(0)];
        let mut held = Vec::new();
        for socket in sockets {
            held.push(socket.map_err(failed())?);
        }
        let mut numbers = [0; 3];
        for (number, socket) in numbers.iter_mut().zip(&held) {
            let address = socket.local_addr().map_err(failed())?;
            *number = address.as_socket().map_or(0, |address| address.port());
        }
        let ports = Self::new(numbers);
        *ports.held.lock().unwrap_or_else(PoisonError::into_inner) = held;
        Ok(ports)
    }

    /// Whether nobody else has them. If so they are held from now on.
    pub(super) fn hold(&self) -> bool {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let is_free = |port| std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
        let numbers = [self.client, self.broker, self.controller];
        if !numbers.into_iter().all(is_free) {
            return false;
        }
        let sockets: io::Result<Vec<Socket>> = numbers.into_iter().map(hold).collect();
        sockets.map(|sockets| *held = sockets).is_ok()
    }
}

/// A socket that has the port and does not listen. Kafka, which sets `SO_REUSEADDR` as we do, can listen there
/// nevertheless; but the kernel gives the port to nobody who asks for any, nor to a client that connects. (Such a client,
/// trying again and again to reach a dead broker, would in the end come from the broker's own port, and reach itself.)
pub(crate) fn hold(port: u16) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into())?;
    Ok(socket)
}
