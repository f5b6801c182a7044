//! SCRAM-SHA-256: what the server keeps of a password so that PostgreSQL clients can log in without sending it.

use crate::{Error, secret};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use floodplain_types::ScramVerifier;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256};

/// Eight times PostgreSQL's default; costs the client, not the server, some ten milliseconds per login.
const ITERATIONS: u32 = 32_768;

const SALT_BYTES: usize = 16;

/// From a password that SASLprep has prepared, with a new salt. Takes some ten milliseconds.
pub(crate) fn verifier(prepared: &str) -> Result<ScramVerifier, Error> {
    Ok(with(prepared, &secret::random::<SALT_BYTES>()?, ITERATIONS))
}

/// RFC 5802 §3.
fn with(prepared: &str, salt: &[u8], iterations: u32) -> ScramVerifier {
    let mut salted = [0; 32];
    pbkdf2::pbkdf2_hmac::<Sha256>(prepared.as_bytes(), salt, iterations, &mut salted);
    let stored_key = Sha256::digest(hmac(&salted, b"Client Key")).into();
    ScramVerifier { salt: salt.to_vec(), iterations, stored_key, server_key: hmac(&salted, b"Server Key") }
}

/// For a name that no user has: looks like any other, is the same each time, and no password fits it. So nobody learns
/// from the salt which users exist (RFC 5802 §9).
pub(crate) fn made_up(key: &[u8], name: &str) -> ScramVerifier {
    let part = |what: &str| hmac(key, format!("{what} {name}").as_bytes());
    let salt = part("salt")[..SALT_BYTES].to_vec();
    ScramVerifier { salt, iterations: ITERATIONS, stored_key: part("stored key"), server_key: part("server key") }
}

/// As PostgreSQL keeps it in `pg_authid.rolpassword`.
pub(crate) fn to_text(verifier: &ScramVerifier) -> String {
    let ScramVerifier { salt, iterations, stored_key, server_key } = verifier;
    let [salt, stored, server] = [&salt[..], stored_key, server_key].map(|it| STANDARD.encode(it));
    format!("SCRAM-SHA-256${iterations}:{salt}${stored}:{server}")
}

pub(crate) fn parse(text: &str) -> Option<ScramVerifier> {
    let (head, keys) = text.strip_prefix("SCRAM-SHA-256$")?.split_once('$')?;
    let ((iterations, salt), (stored, server)) = (head.split_once(':')?, keys.split_once(':')?);
    let key = |text: &str| STANDARD.decode(text).ok()?.try_into().ok();
    Some(ScramVerifier {
        salt: STANDARD.decode(salt).ok()?,
        iterations: iterations.parse().ok()?,
        stored_key: key(stored)?,
        server_key: key(server)?,
    })
}

pub(crate) fn hmac(key: &[u8], message: &[u8]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(message);
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// RFC 7677 §3: the whole conversation of user `user` with password `pencil`.
    #[test]
    fn the_example_of_the_standard() {
        let salt = STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
        let verifier = with("pencil", &salt, 4096);
        let message = "n=user,r=rOprNGfwEbeRWgbNEkqO,\
                       r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,\
                       c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
        let proof = STANDARD.decode("dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=").unwrap();
        let signature = hmac(&verifier.stored_key, message.as_bytes());
        let client_key: Vec<u8> = proof.iter().zip(signature).map(|(a, b)| a ^ b).collect();
        assert_eq!(<[u8; 32]>::from(Sha256::digest(&client_key)), verifier.stored_key);
        let server = hmac(&verifier.server_key, message.as_bytes());
        assert_eq!(STANDARD.encode(server), "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
    }

    /// RFC 4231 §4.2 and §4.3.
    #[test]
    fn hmac_is_the_standards() {
        let hex = |key: &[u8], message: &[u8]| secret::hex(&hmac(key, message));
        let expected = "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7";
        assert_eq!(hex(&[0x0b; 20], b"Hi There"), expected);
        let expected = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
        assert_eq!(hex(b"Jefe", b"what do ya want for nothing?"), expected);
    }

    #[test]
    fn made_up_ones_stay_and_differ() {
        let one = made_up(b"key", "anna");
        assert_eq!(one, made_up(b"key", "anna"));
        assert_ne!(one, made_up(b"key", "bert"));
        assert_ne!(one, made_up(b"other", "anna"));
        assert_eq!((one.salt.len(), one.iterations), (SALT_BYTES, ITERATIONS));
        assert!(!format!("{one:?}").contains("stored_key"));
    }

    proptest! {
        #[test]
        fn text_and_back(salt in prop::collection::vec(any::<u8>(), 0..40), iterations: u32, stored: [u8; 32], server: [u8; 32]) {
            let verifier = ScramVerifier { salt, iterations, stored_key: stored, server_key: server };
            prop_assert_eq!(parse(&to_text(&verifier)), Some(verifier));
        }

        #[test]
        fn noise_is_no_verifier(text in "\\PC{0,80}|SCRAM-SHA-256\\$[0-9a-zA-Z+/=:$]{0,80}") {
            if let Some(verifier) = parse(&text) {
                prop_assert_eq!(parse(&to_text(&verifier)), Some(verifier));
            }
        }
    }
}
