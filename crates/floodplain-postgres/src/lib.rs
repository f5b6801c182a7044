//! The PostgreSQL wire: frontend/backend protocol 3 over any [`Database`], and the only home of `pgwire`.
//!
//! Simple and extended queries, parameters and results in text and binary, portals with row limits, cancel requests, TLS,
//! SCRAM-SHA-256 for the users that a [`Login`] knows. Statements only read: what sets or ends a transaction is answered
//! and changes nothing. Not here yet: `pg_catalog`, COPY; each is refused in the protocol's own words.

mod database;
mod encode;
mod handler;
mod parameter;
mod session;

mod connection;
mod login;
mod serve;
mod tls;

pub use arrow::datatypes::DataType;
pub use database::{Database, Described, QueryError, Rows, Value};
pub use login::{Demand, Login, Refused, ScramVerifier, TrustLoopback};
pub use serve::{Entrance, serve, serve_at};
pub use tls::{Tls, TlsError};
