//! HTTP: SQL, metrics, health.
//!
//! | Request | Answer |
//! |---|---|
//! | `POST /api/v1/sql` | rows as JSON or CSV, see `docs/guides/sql.md` |
//! | `/api/v1/me`, `setup`, `login`, `logout`, `users`, `tokens` | who may come in, see `docs/guides/access.md` |
//! | `GET /metrics` | Prometheus text |
//! | `GET /healthz` | 200 while the process answers at all |
//! | `GET /readyz` | 200 while traffic is accepted, else 503 and the reason |
//!
//! From the first user on, all below `/api` but `me`, `setup`, `login` and `logout`, `/metrics`, and all that is no GET need a
//! session, a token or a password, and role editor where something may change (`access::needs`). A handler that needs more
//! says so in its arguments (`access::Admin`).
//!
//! Errors are `application/problem+json` (RFC 9457) with a `code` that does not change; [`CODES`] explains each.

mod router;
mod serve;
mod stall;

mod access;
mod body;
mod codes;
mod origin;
mod paging;
mod problem;

mod login;
mod sql;
mod tokens;
mod users;

pub use codes::{CODES, Code, find as find_code};
pub use router::{Api, Limits, Readiness};
pub use serve::serve;
