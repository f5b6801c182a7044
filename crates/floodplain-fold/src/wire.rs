//! Writing and reading the small binary forms of events and snapshots.
//!
//! Numbers are LEB128, byte strings carry their length in front. There is one way to write a
//! value, and [`Get`] refuses all others, so equal values have equal bytes.

use floodplain_types::{Position, Timestamp};

/// Why bytes could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The bytes end inside a value.
    #[error("bytes end inside a value")]
    Short,
    /// A number has more bytes than it needs, or than its type holds.
    #[error("number is too long or not in its shortest form")]
    Number,
    /// A value that only some numbers may take has another one.
    #[error("{what} has the unknown value {value}")]
    Unknown { what: &'static str, value: u64 },
    /// A value breaks a rule of its own.
    #[error("{0} is not valid")]
    Invalid(&'static str),
    /// Bytes are left after the last value.
    #[error("{0} bytes are left after the last value")]
    Trailing(usize),
}

/// Appends values to a byte vector.
pub trait Put {
    /// One byte.
    fn put_byte(&mut self, value: u8);
    /// A number in its shortest form.
    fn put_u64(&mut self, value: u64);
    /// Length, then bytes.
    fn put_bytes(&mut self, value: &[u8]);
    /// Length, then UTF-8.
    fn put_str(&mut self, value: &str) {
        self.put_bytes(value.as_bytes());
    }
    /// 0 or 1.
    fn put_bool(&mut self, value: bool) {
        self.put_byte(u8::from(value));
    }
    /// Generation, then offset.
    fn put_position(&mut self, value: Position) {
        self.put_u64(u64::from(value.generation));
        self.put_u64(value.offset);
    }
    /// Nanoseconds since 1970, in zigzag form.
    fn put_time(&mut self, value: Timestamp) {
        self.put_u64(((value.0 << 1) ^ (value.0 >> 63)) as u64);
    }
    /// 0, or 1 and the value.
    fn put_option<T>(&mut self, value: Option<T>, put: impl FnOnce(&mut Self, T)) {
        self.put_bool(value.is_some());
        if let Some(value) = value {
            put(self, value);
        }
    }
}

impl Put for Vec<u8> {
    fn put_byte(&mut self, value: u8) {
        self.push(value);
    }

    fn put_u64(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.push(value as u8);
    }

    fn put_bytes(&mut self, value: &[u8]) {
        self.put_u64(value.len() as u64);
        self.extend_from_slice(value);
    }
}

/// Reads values from the front of a byte slice.
#[derive(Debug, Clone, Copy)]
pub struct Get<'a>(&'a [u8]);

impl<'a> Get<'a> {
    /// Reads from `bytes`.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// What has not been read yet.
    #[must_use]
    pub const fn rest(&self) -> &'a [u8] {
        self.0
    }

    /// Checks that nothing is left.
    ///
    /// # Errors
    /// [`WireError::Trailing`].
    pub const fn end(&self) -> Result<(), WireError> {
        if self.0.is_empty() { Ok(()) } else { Err(WireError::Trailing(self.0.len())) }
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], WireError> {
        let (head, tail) = self.0.split_at_checked(len).ok_or(WireError::Short)?;
        self.0 = tail;
        Ok(head)
    }

    /// One byte.
    ///
    /// # Errors
    /// [`WireError::Short`].
    pub fn byte(&mut self) -> Result<u8, WireError> {
        Ok(self.take(1)?[0])
    }

    /// A number in its shortest form.
    ///
    /// # Errors
    /// [`WireError`] if the number is cut, too long or not in its shortest form.
    pub fn u64(&mut self) -> Result<u64, WireError> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return Err(WireError::Number);
            }
            value |= bits << shift;
            if byte < 0x80 {
                return if byte == 0 && shift > 0 { Err(WireError::Number) } else { Ok(value) };
            }
        }
        Err(WireError::Number)
    }

    /// A number that fits its type.
    ///
    /// # Errors
    /// Like [`Self::u64`].
    pub fn u32(&mut self) -> Result<u32, WireError> {
        u32::try_from(self.u64()?).map_err(|_| WireError::Number)
    }

    /// A number that fits its type.
    ///
    /// # Errors
    /// Like [`Self::u64`].
    pub fn u16(&mut self) -> Result<u16, WireError> {
        u16::try_from(self.u64()?).map_err(|_| WireError::Number)
    }

    /// The number of items that follow, each at least one byte long: never more than bytes are left.
    ///
    /// # Errors
    /// [`WireError::Short`] for a count that cannot be true, so that nothing is reserved for it.
    pub fn count(&mut self) -> Result<usize, WireError> {
        let count = self.u64()?;
        if count > self.0.len() as u64 { Err(WireError::Short) } else { Ok(count as usize) }
    }

    /// Length, then bytes.
    ///
    /// # Errors
    /// [`WireError::Short`].
    pub fn bytes(&mut self) -> Result<&'a [u8], WireError> {
        let len = self.count()?;
        self.take(len)
    }

    /// Length, then UTF-8.
    ///
    /// # Errors
    /// [`WireError`] if the bytes are cut or not UTF-8.
    pub fn str(&mut self) -> Result<&'a str, WireError> {
        std::str::from_utf8(self.bytes()?).map_err(|_| WireError::Invalid("text"))
    }

    /// 0 or 1.
    ///
    /// # Errors
    /// [`WireError::Unknown`] for anything else.
    pub fn bool(&mut self) -> Result<bool, WireError> {
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(WireError::Unknown { what: "boolean", value: u64::from(other) }),
        }
    }

    /// Generation, then offset.
    ///
    /// # Errors
    /// Like [`Self::u64`].
    pub fn position(&mut self) -> Result<Position, WireError> {
        Ok(Position::new(self.u32()?, self.u64()?))
    }

    /// Nanoseconds since 1970.
    ///
    /// # Errors
    /// Like [`Self::u64`].
    pub fn time(&mut self) -> Result<Timestamp, WireError> {
        let zigzag = self.u64()?;
        Ok(Timestamp((zigzag >> 1) as i64 ^ -((zigzag & 1) as i64)))
    }

    /// 0, or 1 and the value.
    ///
    /// # Errors
    /// Those of `get`.
    pub fn option<T>(&mut self, get: impl FnOnce(&mut Self) -> Result<T, WireError>) -> Result<Option<T>, WireError> {
        if self.bool()? { Ok(Some(get(self)?)) } else { Ok(None) }
    }

    /// A count, then so many items.
    ///
    /// # Errors
    /// Those of `get`.
    pub fn list<T>(&mut self, mut get: impl FnMut(&mut Self) -> Result<T, WireError>) -> Result<Vec<T>, WireError> {
        let count = self.count()?;
        // An item may be much larger in memory than its one byte here: let the vector grow by itself.
        let mut items = Vec::with_capacity(count.min(1024));
        for _ in 0..count {
            items.push(get(self)?);
        }
        Ok(items)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_one_form() {
        for value in [0, 1, 127, 128, 300, u64::from(u32::MAX), u64::MAX] {
            let mut bytes = Vec::new();
            bytes.put_u64(value);
            let mut get = Get::new(&bytes);
            assert_eq!(get.u64(), Ok(value));
            assert_eq!(get.end(), Ok(()));
            assert_eq!(Get::new(&bytes[..bytes.len() - 1]).u64(), Err(WireError::Short));
        }
        assert_eq!(Get::new(&[0x80, 0]).u64(), Err(WireError::Number), "longer than needed");
        assert_eq!(Get::new(&[0xff; 11]).u64(), Err(WireError::Number), "longer than 64 bits");
        assert_eq!(Get::new(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2]).u64(), Err(WireError::Number));
    }

    #[test]
    fn times_before_1970_survive() {
        for time in [0, 1, -1, i64::MAX, i64::MIN] {
            let mut bytes = Vec::new();
            bytes.put_time(Timestamp(time));
            assert_eq!(Get::new(&bytes).time(), Ok(Timestamp(time)));
        }
    }

    #[test]
    fn a_count_never_promises_more_than_there_is() {
        assert_eq!(Get::new(&[0xff, 0xff, 0x7f, 1]).bytes(), Err(WireError::Short));
        assert_eq!(Get::new(&[5, 1]).list(|get| get.byte()), Err(WireError::Short));
        assert_eq!(Get::new(&[2, 7, 8]).list(|get| get.byte()), Ok(vec![7, 8]));
        assert_eq!(Get::new(&[2]).bool(), Err(WireError::Unknown { what: "boolean", value: 2 }));
    }
}
