//! The terminal, byte by byte.

use anyhow::{Context as _, Result};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    termios::{InputModes, LocalModes, OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr},
};
use std::io;

/// Standard input gives each byte at once, shows none, and makes no signals of them, until this is dropped.
#[derive(Debug)]
pub(super) struct Raw {
    before: Termios,
}

impl Raw {
    pub(super) fn new() -> Result<Self> {
        let before = tcgetattr(io::stdin()).context("cannot read the modes of the terminal")?;
        let mut raw = before.clone();
        raw.local_modes -= LocalModes::ISIG | LocalModes::ICANON | LocalModes::ECHO | LocalModes::IEXTEN;
        raw.input_modes -= InputModes::ICRNL | InputModes::IXON;
        tcsetattr(io::stdin(), OptionalActions::Now, &raw).context("cannot set the modes of the terminal")?;
        Ok(Self { before })
    }

    /// Waits for bytes; none is the end.
    pub(super) fn read(&self) -> Result<Vec<u8>> {
        let mut bytes = [0; 256];
        loop {
            match rustix::io::read(io::stdin(), &mut bytes) {
                Ok(length) => return Ok(bytes[..length].to_vec()),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error).context("cannot read from the terminal"),
            }
        }
    }

    /// The same, for `time` at most; `None` if nothing came.
    pub(super) fn read_within(&self, time: &Timespec) -> Result<Option<Vec<u8>>> {
        let stdin = io::stdin();
        let mut events = [PollFd::new(&stdin, PollFlags::IN)];
        match poll(&mut events, Some(time)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => Ok(None),
            Ok(_) => self.read().map(Some),
            Err(error) => Err(error).context("cannot wait for the terminal"),
        }
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if let Err(error) = tcsetattr(io::stdin(), OptionalActions::Now, &self.before) {
            eprintln!("floodplain: cannot restore the modes of the terminal: {error}");
        }
    }
}

/// Columns of the terminal.
pub(super) fn width() -> usize {
    tcgetwinsize(io::stdout()).map_or(80, |size| if size.ws_col == 0 { 80 } else { size.ws_col.into() })
}
