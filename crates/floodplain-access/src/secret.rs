//! Random secrets that are shown once, and kept as their hash.

use crate::Error;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use sha2::{Digest as _, Sha256};
use std::fmt;

/// What API tokens start with, so that people and scanners know one.
pub const TOKEN_PREFIX: &str = "fp_";

const RANDOM_BYTES: usize = 32;
/// Prefix and base64url of 32 bytes.
const CHARS_MAX: usize = TOKEN_PREFIX.len() + 43;

/// 256 random bits as text, perhaps with a prefix. Not printed by `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub(crate) fn draw(prefix: &str) -> Result<Self, Error> {
        Ok(Self(format!("{prefix}{}", URL_SAFE_NO_PAD.encode(random::<RANDOM_BYTES>()?))))
    }

    /// The secret itself, for the one who is to have it.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

pub(crate) fn random<const N: usize>() -> Result<[u8; N], Error> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes)?;
    Ok(bytes)
}

/// What is kept of a secret: SHA-256 in hexadecimal. No salt and no stretching: nobody guesses 256 random bits.
pub(crate) fn hash(secret: &str) -> String {
    hex(&Sha256::digest(secret))
}

/// Whether `text` may be a secret with `prefix`; what is not need not be looked up.
pub(crate) fn looks_like(prefix: &str, text: &str) -> bool {
    text.len() <= CHARS_MAX
        && text.strip_prefix(prefix).is_some_and(|rest| {
            rest.len() == CHARS_MAX - TOKEN_PREFIX.len()
                && rest.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
        })
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_differ_and_do_not_show() {
        let (one, two) = (Secret::draw(TOKEN_PREFIX).unwrap(), Secret::draw(TOKEN_PREFIX).unwrap());
        assert_ne!(one, two);
        assert!(looks_like(TOKEN_PREFIX, one.reveal()) && !looks_like("", one.reveal()));
        assert!(looks_like("", Secret::draw("").unwrap().reveal()));
        assert!(!format!("{one:?}").contains(&one.reveal()[3..]));
        assert_ne!(hash(one.reveal()), hash(two.reveal()));
        // FIPS 180-4, the example of one block.
        assert_eq!(hash("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        for noise in ["", "fp_", "fp_x", &"x".repeat(100_000), &format!("fp_{}", "ü".repeat(43))] {
            assert!(!looks_like(TOKEN_PREFIX, noise));
        }
    }
}
