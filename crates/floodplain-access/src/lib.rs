//! Who may come in: users with roles, passwords, API tokens, browser sessions, in a database of their own.
//!
//! [`Registry`] is `registry.db` in the data folder, a SQLite file; its migrations and statements are ones that PostgreSQL
//! has, too. HTTP, the console and the PostgreSQL wire ask the same registry, so one password serves all three: beside its
//! Argon2id hash stands a SCRAM-SHA-256 verifier.
//!
//! While no user exists the installation is *unclaimed*: each start draws a new setup token, whose bearer makes the first
//! admin; nothing has a default password. From then on there is always an admin.
//!
//! Secrets are kept as hashes only, and `Debug` shows none. What changes is logged at level `info` with who did it.

mod error;
mod name;
mod role;

mod password;
mod scram;
mod secret;
mod throttle;

mod registry;
mod sessions;
mod tokens;
mod users;

pub use error::{Cause, Error, OpenError};
pub use name::{NAME_CHARS_MAX, user_name};
pub use password::{PASSWORD_BYTES_MAX, PASSWORD_CHARS_MIN};
pub use registry::{Page, Registry, Scram};
pub use role::{Caller, NoRole, Role};
pub use secret::{Secret, TOKEN_PREFIX};
pub use sessions::{SESSION_IDLE_MAX, SESSION_TIME_MAX};
pub use throttle::Throttle;
pub use tokens::Token;
pub use users::{Change, User};
