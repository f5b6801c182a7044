//! The address of the PostgreSQL wire, which is not built yet: each client is told so in its own
//! protocol, and what to use instead.

use std::{io, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time,
};
use tokio_util::sync::CancellationToken;
use tracing::debug;

/// Clients served at a time; the rest wait in the listener's queue.
const CONNECTIONS_MAX: usize = 64;
/// A client that says nothing for this long is dropped.
const TIMEOUT: Duration = Duration::from_secs(5);
/// PostgreSQL itself refuses longer startup packets (`MAX_STARTUP_PACKET_LENGTH`).
const STARTUP_BYTES_MAX: u32 = 10_000;

// PostgreSQL "Message Formats": the code in place of a protocol version.
const CANCEL_REQUEST: u32 = 80_877_102;
const SSL_REQUEST: u32 = 80_877_103;
const GSSENC_REQUEST: u32 = 80_877_104;

/// Answers clients until `stop`.
pub(crate) async fn run(listener: TcpListener, stop: CancellationToken) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = accept(&listener, &permits) => accepted,
        };
        match accepted {
            Ok((stream, permit)) => {
                tokio::spawn(async move {
                    if let Ok(Err(error)) = time::timeout(TIMEOUT, answer(stream)).await {
                        debug!(%error, "postgres client went away");
                    }
                    drop(permit);
                });
            }
            Err(error) => {
                // Out of descriptors, most likely: wait rather than spin.
                tracing::warn!(%error, "postgres listener cannot accept");
                time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn accept(
    listener: &TcpListener,
    permits: &Arc<Semaphore>,
) -> io::Result<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let permit = Arc::clone(permits).acquire_owned().await.expect("the semaphore is never closed");
    let (stream, _) = listener.accept().await?;
    Ok((stream, permit))
}

async fn answer(mut stream: TcpStream) -> io::Result<()> {
    // At most one request for each kind of encryption comes before the startup message.
    for _ in 0..3 {
        let length = stream.read_u32().await?;
        let code = stream.read_u32().await?;
        match code {
            SSL_REQUEST | GSSENC_REQUEST => stream.write_all(b"N").await?,
            CANCEL_REQUEST => return Ok(()),
            _ => {
                if !(8..=STARTUP_BYTES_MAX).contains(&length) {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, "invalid length of startup packet"));
                }
                // Read what was sent, or closing would reset the connection before the answer is seen.
                let mut rest = vec![0; (length - 8) as usize];
                stream.read_exact(&mut rest).await?;
                stream.write_all(&not_built_yet()).await?;
                return stream.shutdown().await;
            }
        }
    }
    Ok(())
}

/// ErrorResponse: 'E', length, fields each with a type byte and a NUL, then a NUL.
fn not_built_yet() -> Vec<u8> {
    let fields = [
        ('S', "FATAL"),
        ('V', "FATAL"),
        ('C', "0A000"),
        ('M', "the PostgreSQL wire is not built yet; use POST /api/v1/sql or floodplain sql"),
    ];
    let mut body = Vec::new();
    for (kind, text) in fields {
        body.push(kind as u8);
        body.extend_from_slice(text.as_bytes());
        body.push(0);
    }
    body.push(0);
    let length = u32::try_from(body.len() + 4).expect("a constant of some hundred bytes");
    let mut message = vec![b'E'];
    message.extend_from_slice(&length.to_be_bytes());
    message.extend_from_slice(&body);
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn conversation(chunks: &[&[u8]]) -> Vec<u8> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let server = tokio::spawn(run(listener, stop.clone()));
        let mut client = TcpStream::connect(address).await.unwrap();
        for chunk in chunks {
            client.write_all(chunk).await.unwrap();
        }
        client.shutdown().await.unwrap();
        let mut got = Vec::new();
        if let Err(error) = client.read_to_end(&mut got).await {
            // What was sent beyond the first eight bytes of nonsense is never read.
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        }
        stop.cancel();
        server.await.unwrap();
        got
    }

    #[tokio::test]
    async fn a_startup_message_gets_an_error_that_says_what_to_use() {
        // SSLRequest, then a startup message of protocol 3.0 with user "x".
        let startup = b"\0\0\0\x10\0\x03\0\0user\0x\0\0";
        let got = conversation(&[b"\0\0\0\x08\x04\xd2\x16\x2f", startup]).await;
        assert_eq!(got[0], b'N');
        assert_eq!(got[1], b'E');
        assert_eq!(u32::from_be_bytes(got[2..6].try_into().unwrap()) as usize, got.len() - 2);
        let text = String::from_utf8(got[6..].to_vec()).unwrap();
        assert!(
            text.contains("SFATAL\0") && text.contains("C0A000\0") && text.ends_with("floodplain sql\0\0"),
            "{text}"
        );
    }

    #[tokio::test]
    async fn nonsense_and_cancel_requests_get_nothing() {
        assert_eq!(conversation(&[b"GET / HTTP/1.1\r\n\r\n"]).await, b"");
        assert_eq!(conversation(&[b"\0\0\0\x10\x04\xd2\x16\x2e\0\0\0\x01\0\0\0\x02"]).await, b"");
    }
}
