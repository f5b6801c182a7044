//! Bytes from the front, with names for what is missing.

use super::Length;
use crate::failure::Refusal;

#[derive(Debug)]
pub(super) struct Reader<'p> {
    payload: &'p [u8],
    at: usize,
    end: usize,
}

impl<'p> Reader<'p> {
    pub(super) fn new(payload: &'p [u8], end: usize) -> Self {
        Self { payload, at: 0, end }
    }

    pub(super) fn at(&self) -> usize {
        self.at
    }

    pub(super) fn left(&self) -> usize {
        self.end - self.at
    }

    pub(super) fn seek(&mut self, at: usize) {
        self.at = at;
    }

    pub(super) fn take(&mut self, len: usize, label: impl FnOnce() -> String) -> Result<&'p [u8], Refusal> {
        let left = self.left();
        if len > left {
            let reason =
                format!("payload is too short: {} needs {len} bytes at byte {}, {left} are left", label(), self.at);
            return Err(Refusal::decode(self.at, reason));
        }
        let taken = &self.payload[self.at..self.at + len];
        self.at += len;
        Ok(taken)
    }

    pub(super) fn sized(&mut self, length: Length, big: bool, label: impl Fn() -> String) -> Result<&'p [u8], Refusal> {
        let len = match length {
            Length::Fixed(len) => len,
            Length::U8 => unsigned(self.take(1, &label)?, big) as usize,
            Length::U16 => unsigned(self.take(2, &label)?, big) as usize,
            Length::Rest => self.left(),
            Length::Zero => {
                let left = &self.payload[self.at..self.end];
                let Some(len) = left.iter().position(|byte| *byte == 0) else {
                    return Err(Refusal::decode(
                        self.end,
                        format!("payload is too short: {} has no zero at its end", label()),
                    ));
                };
                let text = self.take(len, &label)?;
                self.at += 1;
                return Ok(text);
            }
        };
        self.take(len, label)
    }
}

/// At most eight bytes as a number.
pub(super) fn unsigned(bytes: &[u8], big: bool) -> u64 {
    let join = |value: u64, byte: &u8| value << 8 | u64::from(*byte);
    if big { bytes.iter().fold(0, join) } else { bytes.iter().rev().fold(0, join) }
}

/// The two's complement of `width` bits, 1 to 64.
pub(super) fn signed(value: u64, width: u32) -> i128 {
    let shift = 64 - width;
    i128::from((value << shift) as i64 >> shift)
}
