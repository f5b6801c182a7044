//! HTTP: SQL, metrics, health.
//!
//! | Request | Answer |
//! |---|---|
//! | `POST /api/v1/sql` | rows as JSON or CSV, see `docs/guides/sql.md` |
//! | `GET /metrics` | Prometheus text |
//! | `GET /healthz` | 200 while the process answers at all |
//! | `GET /readyz` | 200 while traffic is accepted, else 503 and the reason |
//!
//! Errors are `application/problem+json` (RFC 9457) with a `code` that does not change.

mod router;
mod serve;
mod stall;

mod origin;
mod problem;
mod sql;

pub use router::{Api, Limits, Readiness};
pub use serve::serve;
