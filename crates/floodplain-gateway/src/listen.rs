//! Listening sockets: one per thread on the same port.

use crate::Error;
use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};
use std::{
    net::{SocketAddr, TcpListener},
    time::Duration,
};

/// Connections that wait for accept. Linux cuts it to `net.core.somaxconn`.
const BACKLOG: i32 = 4096;
/// Frees what a NAT has forgotten even where MQTT's keep-alive is off or long.
const TCP_KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const TCP_KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const TCP_KEEPALIVE_PROBES: u32 = 3;
/// How long sent bytes may stay unacknowledged: as long as the probes take.
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(90);

/// Binds `count` listeners to one address; port 0 takes a free port for all of them.
///
/// Options that accepted sockets inherit on Linux are set here once, which saves six system
/// calls per connection.
pub(crate) fn bind(address: SocketAddr, count: usize) -> Result<(SocketAddr, Vec<TcpListener>), Error> {
    if !address.ip().is_loopback() {
        return Err(Error::NotLoopback { address });
    }
    // SO_REUSEPORT would let two servers share a port without a word, each with half the clients.
    probe(address).map_err(|source| Error::Listen { address, source })?;
    let first = bind_one(address).map_err(|source| Error::Listen { address, source })?;
    let address = first.local_addr().map_err(|source| Error::Listen { address, source })?;
    let mut listeners = vec![first];
    while listeners.len() < count {
        listeners.push(bind_one(address).map_err(|source| Error::Listen { address, source })?);
    }
    Ok((address, listeners))
}

/// Fails if somebody listens at `address`.
fn probe(address: SocketAddr) -> std::io::Result<()> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())
}

fn bind_one(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    // Without it Nagle's algorithm waits for the peer's delayed ACK: 5 to 40 ms.
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(
        &TcpKeepalive::new()
            .with_time(TCP_KEEPALIVE_IDLE)
            .with_interval(TCP_KEEPALIVE_INTERVAL)
            .with_retries(TCP_KEEPALIVE_PROBES),
    )?;
    socket.set_tcp_user_timeout(Some(TCP_USER_TIMEOUT))?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use socket2::SockRef;

    #[test]
    fn one_free_port_for_all_and_options_are_inherited() {
        let (address, listeners) = bind("127.0.0.1:0".parse().unwrap(), 3).unwrap();
        for listener in &listeners {
            assert_eq!(listener.local_addr().unwrap(), address);
        }
        let client = std::net::TcpStream::connect(address).unwrap();
        let accepted = loop {
            if let Some(accepted) = listeners.iter().find_map(|listener| listener.accept().ok()) {
                break accepted.0;
            }
        };
        let socket = SockRef::from(&accepted);
        assert!(socket.tcp_nodelay().unwrap());
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(TCP_USER_TIMEOUT));
        drop(client);
    }

    #[test]
    fn a_port_that_is_taken_is_refused() {
        let (address, _listeners) = bind("127.0.0.1:0".parse().unwrap(), 2).unwrap();
        assert!(matches!(bind(address, 2), Err(Error::Listen { .. })));
    }

    #[test]
    fn other_addresses_are_refused() {
        let refused = bind("0.0.0.0:0".parse().unwrap(), 1);
        assert!(matches!(refused, Err(Error::NotLoopback { .. })));
    }
}
