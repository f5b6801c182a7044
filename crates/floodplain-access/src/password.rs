//! Passwords: which ones do, and how they are checked without stopping anybody else.

use crate::{
    Error,
    scram::{self, hmac},
    secret,
};
use argon2::{
    Argon2,
    password_hash::{PasswordHasher as _, PasswordVerifier as _},
};
use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};

/// Shortest password, in characters.
pub const PASSWORD_CHARS_MIN: usize = 12;

/// Longest password, in bytes of UTF-8; bounds what one request makes us prepare.
pub const PASSWORD_BYTES_MAX: usize = 1024;

/// Passwords that are checked at a time; each takes 19 MiB and some ten milliseconds of a core.
const AT_ONCE: usize = 2;

/// Logins that wait for their turn; more are refused as busy.
const WAITING_MAX: usize = 64;

/// For so long a right password is known by a keyed hash, so that a client that sends it with each request (HTTP Basic)
/// does not cost a check each time.
const KNOWN_TIME: Duration = Duration::from_secs(60);

/// Right passwords that are known; beyond it, all are forgotten.
const KNOWN_MAX: usize = 1024;

/// Distinct characters below which length says nothing.
const DISTINCT_MIN: usize = 5;

/// What is left of many long passwords without the digits and signs around it.
const OBVIOUS: &[&str] = &[
    "admin",
    "administrator",
    "changeme",
    "changemeplease",
    "changeit",
    "default",
    "floodplain",
    "iloveyou",
    "letmein",
    "letmeinplease",
    "letmeinnow",
    "monkey",
    "mypassword",
    "newpassword",
    "passphrase",
    "passw0rd",
    "password",
    "passwordpassword",
    "passwort",
    "p@ssw0rd",
    "p@ssword",
    "pa$$word",
    "qwerty",
    "qwertyuiop",
    "qwertyuiopasdf",
    "qwertz",
    "qwertzuiop",
    "qazwsx",
    "qazwsxedc",
    "qazwsxedcrfv",
    "secret",
    "secretpassword",
    "superuser",
    "supersecret",
    "temp",
    "temporary",
    "test",
    "testpassword",
    "thisisapassword",
    "trustno",
    "welcome",
    "welcometo",
    "zaqxsw",
    "asdfghjkl",
    "zxcvbnm",
    "correcthorsebatterystaple",
    "correct horse battery staple",
];

/// `password` as SASLprep prepares it (RFC 4013), so that one password has one form whatever keyboard it comes from.
///
/// `None` if it is too long or has characters that cannot be prepared; then no user has it.
fn prepare(password: &str) -> Option<String> {
    if password.is_empty() || password.len() > PASSWORD_BYTES_MAX {
        return None;
    }
    stringprep::saslprep(password).ok().filter(|prepared| !prepared.is_empty()).map(|prepared| prepared.into_owned())
}

/// Prepares a new password of `user`, if it does.
///
/// # Errors
/// [`Error::PasswordWeak`] says which rule it breaks.
pub(crate) fn accept(user: &str, password: &str) -> Result<String, Error> {
    let weak = |reason: &str| Err(Error::PasswordWeak { reason: reason.to_owned() });
    if password.len() > PASSWORD_BYTES_MAX {
        return Err(Error::PasswordWeak { reason: format!("a password has at most {PASSWORD_BYTES_MAX} bytes") });
    }
    if password.chars().count() < PASSWORD_CHARS_MIN {
        return Err(Error::PasswordWeak { reason: format!("a password has at least {PASSWORD_CHARS_MIN} characters") });
    }
    let Some(prepared) = prepare(password) else {
        return weak(
            "the password has characters that not every client sends alike (RFC 4013): leave out emoji and control characters",
        );
    };
    let lower = prepared.to_lowercase();
    let chars: Vec<char> = lower.chars().collect();
    if prepared.chars().count() < PASSWORD_CHARS_MIN {
        return weak("the password is too short without its invisible characters");
    }
    let mut distinct = chars.clone();
    distinct.sort_unstable();
    distinct.dedup();
    let step = |pair: &[char]| (pair[0] as u32).abs_diff(pair[1] as u32) <= 1;
    let steps = chars.windows(2).filter(|pair| step(pair)).count();
    let stem = lower.trim_matches(|c: char| !c.is_alphabetic());
    if distinct.len() < DISTINCT_MIN || steps * 3 > chars.len() * 2 || OBVIOUS.contains(&stem) {
        return weak("the password is one that others try first");
    }
    if lower.contains(user) && lower.replace(user, "").chars().count() < 8 {
        return weak("the password is hardly more than the name of the user");
    }
    Ok(prepared)
}

/// What is kept of a password.
pub(crate) struct Kept {
    /// Argon2id as a PHC string.
    pub(crate) hash: String,
    /// [`scram::to_text`].
    pub(crate) scram: String,
}

/// Checks passwords, a few at a time and off the runtime.
pub(crate) struct Passwords {
    places: Arc<Semaphore>,
    waiting: Semaphore,
    /// Of this process: what is in `known` is of no use elsewhere.
    key: [u8; 32],
    /// By keyed hash of user, stored hash and password, so a change of the password forgets it.
    known: Mutex<HashMap<[u8; 32], Instant>>,
    /// Checked in place of the hash that an unknown user has not, so that it takes as long.
    nobody: String,
}

impl fmt::Debug for Passwords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Passwords").finish_non_exhaustive()
    }
}

/// The right to have one password checked.
pub(crate) type Turn = OwnedSemaphorePermit;

impl Passwords {
    pub(crate) async fn new() -> Result<Self, Error> {
        let password = secret::Secret::draw("")?;
        Ok(Self {
            places: Arc::new(Semaphore::new(AT_ONCE)),
            waiting: Semaphore::new(WAITING_MAX),
            key: secret::random()?,
            known: Mutex::default(),
            nobody: blocking(move || hash(password.reveal())).await??,
        })
    }

    /// Waits for a turn.
    ///
    /// # Errors
    /// [`Error::Busy`] if too many wait already.
    pub(crate) async fn turn(&self) -> Result<Turn, Error> {
        let _waiting = self.waiting.try_acquire().map_err(|_| Error::Busy)?;
        Arc::clone(&self.places).acquire_owned().await.map_err(|_| Error::Busy)
    }

    /// Hashes a password that [`accept`] has prepared, for the database.
    pub(crate) async fn keep(&self, prepared: String) -> Result<Kept, Error> {
        let turn = self.turn().await?;
        blocking(move || {
            let kept = Kept { hash: hash(&prepared)?, scram: scram::to_text(&scram::verifier(&prepared)?) };
            drop(turn);
            Ok(kept)
        })
        .await?
    }

    /// Whether this is the user's password and was so a moment ago.
    pub(crate) fn is_known(&self, user: &str, stored: &str, password: &str) -> bool {
        let Some(prepared) = prepare(password) else { return false };
        let until = self.known().get(&self.mark(user, stored, &prepared)).copied();
        until.is_some_and(|until| Instant::now() < until)
    }

    /// Whether `password` is the one that `stored` was made of; takes as long without `stored`.
    pub(crate) async fn is_right(
        &self,
        turn: Turn,
        user: &str,
        stored: Option<&str>,
        password: &str,
    ) -> Result<bool, Error> {
        let prepared = prepare(password);
        let text = prepared.clone().unwrap_or_default();
        let hash = stored.unwrap_or(&self.nobody).to_owned();
        let fits = blocking(move || {
            let fits = Argon2::default().verify_password(text.as_bytes(), hash.as_str()).is_ok();
            drop(turn);
            fits
        })
        .await?;
        let (Some(stored), Some(prepared), true) = (stored, prepared, fits) else { return Ok(false) };
        let mark = self.mark(user, stored, &prepared);
        let mut known = self.known();
        if known.len() >= KNOWN_MAX {
            known.clear();
        }
        known.insert(mark, Instant::now() + KNOWN_TIME);
        Ok(true)
    }

    /// `user` and `stored` have no NUL.
    fn mark(&self, user: &str, stored: &str, prepared: &str) -> [u8; 32] {
        hmac(&self.key, [user, stored, prepared].join("\0").as_bytes())
    }

    fn known(&self) -> MutexGuard<'_, HashMap<[u8; 32], Instant>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Argon2id, m = 19 MiB, t = 2, p = 1 (RFC 9106; the OWASP minimum), with a new salt.
fn hash(prepared: &str) -> Result<String, Error> {
    let salt = secret::random::<16>()?;
    let hash = Argon2::default().hash_password_with_salt(prepared.as_bytes(), &salt);
    Ok(hash.expect("salt and password have lengths that argon2 takes").to_string())
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Error> {
    // It ends early only when the runtime stops.
    tokio::task::spawn_blocking(work).await.map_err(|_| Error::Busy)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn obvious_passwords_are_refused() {
        for bad in [
            "",
            "short",
            "elevenchars",
            "aaaaaaaaaaaaaaaa",
            "abababababababab",
            "123456789012",
            "abcdefghijkl",
            "Password1234",
            "!!administrator!!",
            "Qwertyuiop12",
            "Floodplain2026!",
            "annemarie-annemarie",
            "twelve chars\u{7}",
            "tw\u{ad}el\u{ad}ve\u{ad}le",
            "crab 🦀 of twelve",
            &"long".repeat(300),
        ] {
            assert!(matches!(accept("annemarie", bad), Err(Error::PasswordWeak { .. })), "{bad:?}");
        }
        for good in ["correct horse battery", "kN8#vQ2!mZ5x", "blåbærsyltetøy", "пароль из слов", "annemarie likes tea"]
        {
            accept("annemarie", good).unwrap_or_else(|error| panic!("{good}: {error}"));
        }
    }

    /// RFC 4013 §3.
    #[test]
    fn passwords_are_prepared() {
        for (password, prepared) in [
            ("I\u{ad}X", Some("IX")),
            ("user", Some("user")),
            ("USER", Some("USER")),
            ("\u{aa}", Some("a")),
            ("\u{2168}", Some("IX")),
            ("\u{7}", None),
            ("\u{627}1", None),
        ] {
            assert_eq!(prepare(password).as_deref(), prepared, "{password:?}");
        }
        // The same letter from two keyboards.
        assert_eq!(prepare("bl\u{e5}b\u{e6}r"), prepare("bla\u{30a}b\u{e6}r"));
    }

    #[tokio::test]
    async fn a_right_password_is_known_until_it_changes() {
        let passwords = Passwords::new().await.unwrap();
        let kept = passwords.keep("a right password".to_owned()).await.unwrap();
        assert!(kept.hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{}", kept.hash);
        let right = async |stored: Option<&str>, password: &str| {
            let turn = passwords.turn().await.unwrap();
            passwords.is_right(turn, "anna", stored, password).await.unwrap()
        };
        assert!(!passwords.is_known("anna", &kept.hash, "a right password"));
        assert!(!right(Some(&kept.hash), "a wrong password").await);
        assert!(!right(Some(&kept.hash), "\u{7}").await);
        assert!(!right(None, "a right password").await);
        assert!(!passwords.is_known("anna", &kept.hash, "a right password"));
        assert!(right(Some(&kept.hash), "a right password").await);
        assert!(passwords.is_known("anna", &kept.hash, "a right password"));
        assert!(!passwords.is_known("anna", &kept.hash, "a wrong password"));
        assert!(!passwords.is_known("bert", &kept.hash, "a right password"));
        let again = passwords.keep("a right password".to_owned()).await.unwrap();
        assert!(!passwords.is_known("anna", &again.hash, "a right password"));
    }

    #[tokio::test]
    async fn a_crowd_is_refused_and_nobody_else_waits_for_it() {
        let passwords = Arc::new(Passwords::new().await.unwrap());
        let held = [passwords.turn().await.unwrap(), passwords.turn().await.unwrap()];
        let crowd: Vec<_> = (0..WAITING_MAX)
            .map(|_| {
                let passwords = Arc::clone(&passwords);
                tokio::spawn(async move { passwords.turn().await.map(drop) })
            })
            .collect();
        while passwords.waiting.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        assert!(matches!(passwords.turn().await, Err(Error::Busy)));
        drop(held);
        for waiting in crowd {
            waiting.await.unwrap().unwrap();
        }
    }

    proptest! {
        #[test]
        fn what_is_accepted_is_prepared_once_and_for_all(password in "\\PC{10,40}") {
            if let Ok(prepared) = accept("anna", &password) {
                prop_assert_eq!(prepare(&prepared), Some(prepared.clone()));
                prop_assert!(prepared.chars().count() >= PASSWORD_CHARS_MIN);
            }
        }
    }
}
