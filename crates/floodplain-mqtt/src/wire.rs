//! The data types of §1.5: reading borrows and never allocates, writing appends to a `Vec<u8>`.

use floodplain_types::TopicError;

use crate::{DecodeError, EncodeError};

/// The greatest value of a variable byte integer (§1.5.5).
pub(crate) const VARINT_MAX: u32 = 268_435_455;

pub(crate) const SHORT: DecodeError = DecodeError::Malformed("a field runs past the end of the packet (§1.2)");

/// What is left of a packet's body.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) const fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (head, rest) = self.0.split_first_chunk().ok_or(SHORT)?;
        self.0 = rest;
        Ok(*head)
    }

    pub(crate) fn bytes(&mut self, len: usize) -> Result<&'a [u8], DecodeError> {
        let (head, rest) = self.0.split_at_checked(len).ok_or(SHORT)?;
        self.0 = rest;
        Ok(head)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, DecodeError> {
        Ok(u8::from_be_bytes(self.array()?))
    }

    pub(crate) fn u16(&mut self) -> Result<u16, DecodeError> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, DecodeError> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    /// A byte that may be 0 or 1: every property of type Byte is one (§2.2.2.2).
    pub(crate) fn bool(&mut self) -> Result<bool, DecodeError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(DecodeError::Protocol("a byte property is neither 0 nor 1 (§3.1.2.11, §3.2.2.3, §3.3.2.3)")),
        }
    }

    pub(crate) fn varint(&mut self) -> Result<u32, DecodeError> {
        match varint(self.0)? {
            Some((value, len)) => {
                self.0 = &self.0[len..];
                Ok(value)
            }
            None => Err(SHORT),
        }
    }

    pub(crate) fn string(&mut self) -> Result<&'a str, DecodeError> {
        let bytes = self.binary()?;
        // Refuses surrogates and overlong forms [MQTT-1.5.4-1]; keeps EF BB BF [MQTT-1.5.4-3].
        let text = std::str::from_utf8(bytes)
            .map_err(|_| DecodeError::Malformed("string is not well-formed UTF-8 [MQTT-1.5.4-1; 3:1.5.3-1]"))?;
        if holds(bytes, |byte| byte == 0) {
            return Err(DecodeError::Malformed("string holds U+0000 [MQTT-1.5.4-2; 3:1.5.3-2]"));
        }
        Ok(text)
    }

    pub(crate) fn binary(&mut self) -> Result<&'a [u8], DecodeError> {
        let len = self.u16()?;
        self.bytes(usize::from(len))
    }

    pub(crate) fn pair(&mut self) -> Result<(&'a str, &'a str), DecodeError> {
        Ok((self.string()?, self.string()?))
    }

    /// Every byte of a packet belongs to a field.
    pub(crate) fn finish(self) -> Result<(), DecodeError> {
        if self.is_empty() { Ok(()) } else { Err(DecodeError::Malformed("bytes follow the last field (§1.2)")) }
    }
}

/// Whether a byte is `bad`. Looks at all of them: without an early exit the compiler takes many at once,
/// and strings that pass are the rule.
pub(crate) fn holds(bytes: &[u8], bad: impl Fn(u8) -> bool) -> bool {
    bytes.iter().fold(false, |found, &byte| found | bad(byte))
}

/// A topic name whose bytes [`Reader::string`] has checked: what [`floodplain_types::validate_topic`] adds.
pub(crate) fn check_topic(topic: &str) -> Result<(), DecodeError> {
    if topic.is_empty() {
        Err(DecodeError::TopicName(TopicError::Empty))
    } else if holds(topic.as_bytes(), |byte| byte == b'+' || byte == b'#') {
        Err(DecodeError::TopicName(TopicError::WildcardInName))
    } else {
        Ok(())
    }
}

/// Value and length of the variable byte integer at the start of `buf`; `None` while it is incomplete.
pub(crate) fn varint(buf: &[u8]) -> Result<Option<(u32, usize)>, DecodeError> {
    match padded_varint(buf)? {
        Some((value, len)) if len > varint_len(value) => Err(PADDED),
        other => Ok(other),
    }
}

pub(crate) const PADDED: DecodeError =
    DecodeError::Malformed("variable byte integer is not in its shortest form [MQTT-1.5.5-1]");

/// Like [`varint`], in any form: 3.1.1 asks for no more than four bytes (3: §2.2.3), and small clients pad.
pub(crate) fn padded_varint(buf: &[u8]) -> Result<Option<(u32, usize)>, DecodeError> {
    let mut value = 0;
    for (i, &byte) in buf.iter().take(4).enumerate() {
        value |= u32::from(byte & 0x7F) << (7 * i);
        if byte & 0x80 == 0 {
            return Ok(Some((value, i + 1)));
        }
    }
    if buf.len() >= 4 {
        return Err(DecodeError::Malformed("variable byte integer has more than four bytes (§1.5.5; 3: §2.2.3)"));
    }
    Ok(None)
}

pub(crate) const fn varint_len(value: u32) -> usize {
    match value {
        0..=127 => 1,
        128..=16_383 => 2,
        16_384..=2_097_151 => 3,
        _ => 4,
    }
}

pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u32) {
    debug_assert!(value <= VARINT_MAX, "callers check the length first");
    while value > 0x7F {
        out.push((value & 0x7F) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

pub(crate) fn put_binary(out: &mut Vec<u8>, bytes: &[u8]) -> Result<(), EncodeError> {
    let len = u16::try_from(bytes.len()).map_err(|_| EncodeError::FieldTooLong { len: bytes.len() })?;
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(bytes);
    Ok(())
}

pub(crate) fn put_string(out: &mut Vec<u8>, text: &str) -> Result<(), EncodeError> {
    if holds(text.as_bytes(), |byte| byte == 0) {
        return Err(EncodeError::Nul);
    }
    put_binary(out, text.as_bytes())
}

/// Writes what `body` appends behind its length. Most bodies are short: one byte is kept for the
/// length, and a longer one moves the body.
pub(crate) fn put_with_length(
    out: &mut Vec<u8>,
    body: impl FnOnce(&mut Vec<u8>) -> Result<(), EncodeError>,
) -> Result<(), EncodeError> {
    let at = out.len();
    out.push(0);
    body(out)?;
    let len = out.len() - at - 1;
    let value = u32::try_from(len).ok().filter(|&value| value <= VARINT_MAX);
    let value = value.ok_or(EncodeError::TooLarge { len, max: VARINT_MAX })?;
    if value <= 0x7F {
        out[at] = value as u8;
        return Ok(());
    }
    let mut length = Vec::with_capacity(4);
    put_varint(&mut length, value);
    out.splice(at..=at, length);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variable_byte_integers_at_their_borders() {
        for (value, bytes) in [
            (0, &[0x00][..]),
            (127, &[0x7F]),
            (128, &[0x80, 0x01]),
            (16_383, &[0xFF, 0x7F]),
            (16_384, &[0x80, 0x80, 0x01]),
            (2_097_151, &[0xFF, 0xFF, 0x7F]),
            (2_097_152, &[0x80, 0x80, 0x80, 0x01]),
            (VARINT_MAX, &[0xFF, 0xFF, 0xFF, 0x7F]),
        ] {
            let mut out = Vec::new();
            put_varint(&mut out, value);
            assert_eq!(out, bytes);
            assert_eq!(varint_len(value), bytes.len());
            assert_eq!(varint(bytes), Ok(Some((value, bytes.len()))));
            assert_eq!(varint(&bytes[..bytes.len() - 1]), Ok(None), "{value}");
        }
        for bad in [&[0x80, 0x00][..], &[0x81, 0x80, 0x00], &[0x80, 0x80, 0x80, 0x80], &[0xFF; 5]] {
            assert!(varint(bad).is_err(), "{bad:x?}");
        }
    }

    #[test]
    fn topic_names_are_judged_as_everywhere() {
        for topic in ["", "a", "/", "a/+", "#", "a#b", "ä", "$SYS/a", "\u{2B00}\u{2300}"] {
            let expected = floodplain_types::validate_topic(topic).map_err(DecodeError::TopicName);
            assert_eq!(check_topic(topic), expected, "{topic}");
        }
    }

    #[test]
    fn lengths_grow_in_place() {
        for len in [0, 127, 128, 16_383, 16_384, 70_000] {
            let mut out = vec![9];
            put_with_length(&mut out, |out| {
                out.resize(out.len() + len, 7);
                Ok(())
            })
            .unwrap();
            let mut reader = Reader(&out[1..]);
            assert_eq!(reader.varint().unwrap() as usize, len);
            assert_eq!(reader.rest(), vec![7; len]);
        }
    }
}
