//! The PostgreSQL wire: frontend/backend protocol 3 over any [`Database`], and the only home of `pgwire`.
//!
//! Simple and extended queries, parameters and results in text and binary, portals with row limits, cancel requests.
//! Statements only read: what sets or ends a transaction is answered and changes nothing. Not here yet: TLS, passwords,
//! `pg_catalog`, COPY; each is refused in the protocol's own words.

mod database;
mod encode;
mod handler;
mod parameter;
mod serve;
mod session;

pub use database::{Database, Described, QueryError, Rows, Value};
pub use serve::serve;
