//! Zigzag varints, as Kafka's `ByteUtils` writes them.

/// Appends `value`; 1 to 10 bytes.
pub(crate) fn put(buf: &mut Vec<u8>, value: i64) {
    let mut rest = zigzag(value);
    while rest >= 0x80 {
        buf.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    buf.push(rest as u8);
}

/// How many bytes [`put`] appends.
pub(crate) const fn size(value: i64) -> usize {
    let bits = 64 - (zigzag(value) | 1).leading_zeros() as usize;
    bits.div_ceil(7)
}

const fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

/// Takes a 64-bit value from the front of `input`; `None` if it ends early or is too long.
pub(crate) fn take_long(input: &mut &[u8]) -> Option<i64> {
    let mut raw = 0_u64;
    for (idx, byte) in input.iter().enumerate().take(10) {
        raw |= u64::from(byte & 0x7f) << (7 * idx);
        if byte & 0x80 == 0 {
            // The tenth byte has room for one bit only.
            if idx == 9 && *byte > 1 {
                return None;
            }
            *input = &input[idx + 1..];
            return Some((raw >> 1) as i64 ^ -((raw & 1) as i64));
        }
    }
    None
}

/// Takes a 32-bit value from the front of `input`; `None` if it ends early or does not fit.
pub(crate) fn take_int(input: &mut &[u8]) -> Option<i32> {
    let mut rest = *input;
    let value = i32::try_from(take_long(&mut rest)?).ok()?;
    // Kafka reads at most five bytes for an int.
    if input.len() - rest.len() > 5 {
        return None;
    }
    *input = rest;
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_encodings() {
        for (value, bytes) in
            [(0, &[0_u8][..]), (-1, &[1]), (1, &[2]), (63, &[0x7e]), (64, &[0x80, 1]), (-65, &[0x81, 1])]
        {
            let mut buf = Vec::new();
            put(&mut buf, value);
            assert_eq!(buf, bytes, "{value}");
        }
    }

    #[test]
    fn overlong_and_cut_values_are_refused() {
        assert_eq!(take_long(&mut &[0x80_u8; 10][..]), None);
        assert_eq!(take_long(&mut &[0xff_u8; 3][..]), None);
        assert_eq!(take_long(&mut &[][..]), None);
        let mut big = Vec::new();
        put(&mut big, i64::from(i32::MAX) + 1);
        assert_eq!(take_int(&mut &big[..]), None);
        assert_eq!(take_int(&mut &[0x80, 0x80, 0x80, 0x80, 0x80, 0][..]), None);
    }

    proptest! {
        #[test]
        fn round_trip(value: i64, small: i32) {
            for value in [value, i64::from(small)] {
                let mut buf = Vec::new();
                put(&mut buf, value);
                prop_assert_eq!(buf.len(), size(value));
                let mut rest = &buf[..];
                prop_assert_eq!(take_long(&mut rest), Some(value));
                prop_assert!(rest.is_empty());
            }
        }
    }
}
