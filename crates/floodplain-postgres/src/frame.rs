//! Messages of a client, cut from its bytes and looked through before `pgwire` decodes them.
//!
//! pgwire waits for up to 1 GiB, and relies on the lengths and counts inside a message.

use crate::login::fatal;
use bytes::BytesMut;
use pgwire::{
    api::{ClientInfo as _, PgWireConnectionState},
    error::{PgWireError, PgWireResult},
    messages::PgWireFrontendMessage,
    tokio::server::PgWireMessageServerCodec,
};
use std::panic::{AssertUnwindSafe, catch_unwind};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio_util::codec::{Decoder as _, Framed};

/// The largest message of who has not logged in. The longest of them, a startup message, has 10,000 bytes in PostgreSQL.
pub(crate) const LOGIN_BYTES_MAX: usize = 16 << 10;

/// The largest message of who has: a statement's text, or all its parameters.
pub(crate) const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// What is read at once, and kept of the buffer when it is empty.
const READ_BYTES: usize = 16 << 10;

/// Whether TLS and login are behind `socket`.
pub(crate) fn has_begun<S, T: 'static>(socket: &Framed<T, PgWireMessageServerCodec<S>>) -> bool {
    use PgWireConnectionState::{AuthenticationInProgress, AwaitingSslRequest, AwaitingStartup};
    !matches!(socket.state(), AwaitingSslRequest | AwaitingStartup | AuthenticationInProgress)
}

/// The next message; `None` if the client has gone away.
///
/// # Errors
/// What ends the connection, because where the next message begins is not known: SQLSTATE 54000 for a message that is too
/// long, 08P01 for one that is none; and those of the socket.
///
/// # Cancel safety
/// What has been read of a message may be lost: the connection must end.
pub(crate) async fn next<S, T>(
    socket: &mut Framed<T, PgWireMessageServerCodec<S>>,
) -> PgWireResult<Option<PgWireFrontendMessage>>
where
    T: AsyncRead + Unpin + 'static,
{
    let mut read = std::mem::take(socket.read_buffer_mut());
    let has_kind = !matches!(socket.state(), PgWireConnectionState::AwaitingStartup);
    let max_bytes = if has_begun(socket) { MESSAGE_BYTES_MAX } else { LOGIN_BYTES_MAX };
    let bytes = loop {
        match length(&read, has_kind)? {
            Some(bytes) if bytes > max_bytes => {
                let message = format!("a message of {bytes} bytes is longer than {max_bytes}");
                return Err(fatal("54000", message));
            }
            Some(bytes) if bytes <= read.len() => break bytes,
            _ => {}
        }
        read.reserve(READ_BYTES);
        if socket.get_mut().read_buf(&mut read).await? == 0 {
            return Ok(None);
        }
    };
    // A copy: what is kept of a message must not keep the buffer.
    let mut frame = BytesMut::from(&read[..bytes]);
    if read.len() == bytes && read.capacity() > READ_BYTES {
        read = BytesMut::new();
    } else {
        drop(read.split_to(bytes));
    }
    *socket.read_buffer_mut() = read;
    if has_kind && !fits(frame[0], &frame[5..]) {
        return Err(invalid());
    }
    let decoded = catch_unwind(AssertUnwindSafe(|| socket.codec_mut().decode(&mut frame))).map_err(|_| invalid())?;
    match decoded {
        Ok(Some(message)) => Ok(Some(message)),
        Ok(None) => Err(invalid()),
        Err(PgWireError::UserError(info)) => Err(PgWireError::UserError(info)),
        Err(error) => Err(fatal("08P01", error.to_string())),
    }
}

fn invalid() -> PgWireError {
    fatal("08P01", "invalid message format".to_owned())
}

/// Bytes of the whole message, as soon as they are known.
fn length(read: &[u8], has_kind: bool) -> PgWireResult<Option<usize>> {
    let (kind_bytes, least) = if has_kind { (1, 4) } else { (0, 8) };
    let Some(length) = read.get(kind_bytes..).and_then(|read| read.first_chunk::<4>()) else { return Ok(None) };
    match usize::try_from(i32::from_be_bytes(*length)) {
        Ok(length) if length >= least => Ok(Some(kind_bytes + length)),
        _ => Err(fatal("08P01", "invalid message length".to_owned())),
    }
}

/// Whether the texts, lengths and counts of a message end where it ends (PostgreSQL 16, "Message Formats").
fn fits(kind: u8, body: &[u8]) -> bool {
    let mut body = Body(body);
    let read = match kind {
        b'B' => body.bind(),
        b'C' | b'D' => body.skip(1).and_then(|()| body.text()),
        b'E' => body.text().and_then(|()| body.skip(4)),
        b'P' => body.parse(),
        b'Q' | b'f' => body.text(),
        b'H' | b'S' | b'X' | b'c' => Some(()),
        // Password messages depend on what was asked for; pgwire knows no others.
        _ => return true,
    };
    read.is_some() && body.0.is_empty()
}

/// Whether the body of a SASLInitialResponse is one.
pub(crate) fn fits_sasl_initial(body: &[u8]) -> bool {
    let mut body = Body(body);
    let read = body.text().and_then(|()| body.value());
    read.is_some() && body.0.is_empty()
}

/// What is left of a message.
struct Body<'a>(&'a [u8]);

impl Body<'_> {
    fn skip(&mut self, bytes: usize) -> Option<()> {
        self.0 = self.0.get(bytes..)?;
        Some(())
    }

    fn text(&mut self) -> Option<()> {
        let end = self.0.iter().position(|byte| *byte == 0)?;
        self.skip(end + 1)
    }

    fn count(&mut self) -> Option<usize> {
        let (count, rest) = self.0.split_first_chunk::<2>()?;
        self.0 = rest;
        Some(u16::from_be_bytes(*count).into())
    }

    /// A length, -1 for NULL, and so many bytes.
    fn value(&mut self) -> Option<()> {
        let (length, rest) = self.0.split_first_chunk::<4>()?;
        self.0 = rest;
        match i32::from_be_bytes(*length) {
            -1 => Some(()),
            length => self.skip(length.try_into().ok()?),
        }
    }

    fn parse(&mut self) -> Option<()> {
        self.text()?;
        self.text()?;
        let types = self.count()?;
        self.skip(4 * types)
    }

    fn bind(&mut self) -> Option<()> {
        self.text()?;
        self.text()?;
        let formats = self.count()?;
        self.skip(2 * formats)?;
        for _ in 0..self.count()? {
            self.value()?;
        }
        let formats = self.count()?;
        self.skip(2 * formats)
    }
}
