//! HTTP: messages, SQL, metrics, health.
//!
//! | Request | Answer |
//! |---|---|
//! | `POST /api/v1/sql` | rows as JSON or CSV, see `docs/guides/sql.md` |
//! | `POST /api/v1/topics/{topic}` | the position of the message, once it is committed |
//! | `GET /api/v1/topics` | which topics there are |
//! | `GET /api/v1/topics/{filter}?follow` | messages as they are committed: server-sent events |
//! | `GET /api/v1/subscribe` | the same by WebSocket |
//! | `POST /write`, `POST /api/v2/write` | 204 once the lines of InfluxDB's line protocol are committed |
//! | `POST /query`, `GET /ping` | what InfluxDB's clients begin with |
//! | `GET /api/v1/devices` | which devices there are, and below it what is known of one |
//! | `GET /api/v1/overview` | how the server is, once or every second |
//! | `GET /api/v1/tables` | which tables there are |
//! | `/api/v1/alerts` | rules, who fires, and what a rule would say now |
//! | `/api/v1/bindings`, `replay`, `dlq` | where messages go, and decoding them again, see `docs/guides/bindings.md` |
//! | `GET /` | the console |
//! | `/api/v1/me`, `setup`, `login`, `logout`, `users`, `tokens` | who may come in, see `docs/guides/access.md` |
//! | `GET /metrics` | Prometheus text |
//! | `GET /healthz` | 200 while the process answers at all |
//! | `GET /readyz` | 200 while traffic is accepted, else 503 and the reason |
//!
//! From the first user on, all below `/api` but `me`, `setup`, `login` and `logout`, `/metrics`, and all that is no GET need a
//! session, a token or a password, and role editor where something may change (`access::needs`). A handler that needs more
//! says so in its arguments (`access::Admin`).
//!
//! Routes are made by `routes!` from handlers with `#[utoipa::path]`, so each is described: [`openapi`] derives the document.
//!
//! Errors are `application/problem+json` (RFC 9457) with a `code` that does not change; [`CODES`] explains each.

mod router;
mod serve;
mod stall;

mod access;
mod body;
mod codes;
mod openapi;
mod origin;
mod paging;
mod problem;
mod request;
mod time;

mod alerts;

mod login;
mod tokens;
mod users;

mod devices;
mod messages;
mod recent;
mod retained;
mod sql;
mod topics;

mod follow;
mod index;
mod message;
mod tail;

mod bindings;
mod dlq;
mod tables;

mod console;
mod influx;
mod overview;
mod write;

pub use codes::{CODES, Code, find as find_code};
pub use messages::{Bound, BoundOf, MessageLimits, Messages};
pub use overview::Node;
pub use retained::{Retained, RetainedPage, RetainedSource};
pub use router::{Api, Limits, Readiness};
pub use serve::serve;
pub use tail::TailLimits;
