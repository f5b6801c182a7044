//! What can go wrong.

use std::{path::PathBuf, time::Duration};

/// The cause of a failed statement; the database's own types stay inside.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Why a request to the registry was not done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the name of a {what} is {rule}")]
    NameInvalid { what: &'static str, rule: &'static str },
    /// Too easy to guess, or of characters that not every client sends alike.
    #[error("{reason}")]
    PasswordWeak { reason: String },
    #[error("user {user} exists already")]
    UserExists { user: String },
    #[error("there is no user {user}")]
    UserUnknown { user: String },
    #[error("{user} is the last admin: make another user admin first")]
    LastAdmin { user: String },
    #[error("there is no token {id}")]
    TokenUnknown { id: String },
    #[error("the token would have expired already")]
    ExpiryPast,
    #[error("there are {limit} {what} already, which is the limit")]
    TooMany { what: &'static str, limit: u32 },
    #[error("the first user exists already: log in")]
    SetupDone,
    #[error("the setup link is not valid: the server prints a new one each time it starts")]
    SetupTokenWrong,
    /// Nobody can log in, and nobody but the setup link makes users.
    #[error("no user exists yet: open the setup link that the server printed when it started")]
    SetupNeeded,
    /// Says not which of the two it was.
    #[error("user or password is wrong")]
    LoginFailed,
    #[error("too many failed logins: try again in {} s", retry_after.as_secs())]
    SlowDown { retry_after: Duration },
    #[error("too many passwords are being checked")]
    Busy,
    #[error("the registry database failed")]
    Database(#[source] Cause),
    #[error("the system gives no random numbers")]
    Random(#[source] Cause),
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error.into())
    }
}

impl From<getrandom::Error> for Error {
    fn from(error: getrandom::Error) -> Self {
        Self::Random(error.into())
    }
}

/// Why the registry could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Nothing was changed.
    #[error("{path} was written by a newer version (its schema has step {version}); use that version, or a backup")]
    NewerSchema { path: PathBuf, version: i64 },
    #[error("cannot bring {path} up to date")]
    Migrate { path: PathBuf, source: Cause },
    #[error("cannot open {path}")]
    Open { path: PathBuf, source: Cause },
}
