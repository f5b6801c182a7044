//! One socket from its first byte to its last.

use crate::{Tls, frame};
use futures::SinkExt as _;
use pgwire::{
    api::{ClientInfo as _, ErrorHandler as _, PgWireConnectionState, PgWireServerHandlers},
    error::{ErrorInfo, PgWireError},
    messages::{PgWireBackendMessage, PgWireFrontendMessage},
    tokio::server::{MaybeTls, negotiate_tls, process_error, process_message},
};
use std::{io, sync::Arc, time::Duration};
use tokio::{
    net::TcpStream,
    time::{Instant, timeout_at},
};

/// Serves a client until it goes away or a fatal error ends its session. TLS and login must be done within `login_time_max`.
///
/// pgwire has a loop of its own, which keeps what a client sent in clear before TLS began.
///
/// # Errors
/// Of the socket, and bytes that are no TLS.
pub(crate) async fn serve<H: PgWireServerHandlers>(
    stream: TcpStream,
    tls: Option<&Tls>,
    handlers: H,
    login_time_max: Duration,
) -> io::Result<()> {
    let (startup, copy, cancel) = (handlers.startup_handler(), handlers.copy_handler(), handlers.cancel_handler());
    let (simple, extended) = (handlers.simple_query_handler(), handlers.extended_query_handler());
    let deadline = Instant::now() + login_time_max;
    let late = || io::Error::new(io::ErrorKind::TimedOut, "the client did not log in in time");
    let acceptor = tls.map(|tls| tls.acceptor.clone());
    let Some(socket) = timeout_at(deadline, negotiate_tls(stream, acceptor)).await.map_err(|_| late())?? else {
        return Ok(());
    };
    // CVE-2021-23214: whoever sits between could put queries of his own in front of the client's.
    if matches!(socket.get_ref(), MaybeTls::Tls(_)) && !socket.read_buffer().is_empty() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "unencrypted data after the SSL request"));
    }
    let mut socket = socket;
    loop {
        let has_begun = frame::has_begun(&socket);
        let message = match has_begun {
            true => frame::next(&mut socket).await,
            false => timeout_at(deadline, frame::next(&mut socket)).await.map_err(|_| late())?,
        };
        let message = match message {
            Ok(None | Some(PgWireFrontendMessage::Terminate(_))) => return Ok(()),
            Ok(Some(message)) => message,
            Err(PgWireError::IoError(error)) => return Err(error),
            Err(error) => {
                let info = ErrorInfo::from(error);
                tracing::debug!(peer = %socket.socket_addr(), error = info.message, "postgres client sent no message");
                let sent = socket.send(PgWireBackendMessage::ErrorResponse(info.into()));
                return timeout_at(Instant::now() + login_time_max, sent).await.unwrap_or(Ok(()));
            }
        };
        let is_cancel = matches!(message, PgWireFrontendMessage::CancelRequest(_));
        let is_extended = match socket.state() {
            PgWireConnectionState::CopyInProgress(is_extended) => is_extended,
            _ => message.is_extended_query(),
        };
        let processed = process_message(
            message,
            &mut socket,
            Arc::clone(&startup),
            Arc::clone(&simple),
            Arc::clone(&extended),
            Arc::clone(&copy),
            Arc::clone(&cancel),
        );
        let processed = match has_begun {
            true => processed.await,
            false => timeout_at(deadline, processed).await.map_err(|_| late())?,
        };
        if let Err(mut error) = processed {
            handlers.error_handler().on_error(&socket, &mut error);
            let is_fatal = error.is_fatal();
            process_error(&mut socket, error, is_extended).await?;
            if is_fatal {
                return Ok(());
            }
        }
        if is_cancel {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests;
