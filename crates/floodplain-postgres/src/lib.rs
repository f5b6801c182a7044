//! The PostgreSQL wire: frontend/backend protocol 3 over any [`Database`], and the only home of `pgwire`.
//!
//! Simple and extended queries, parameters and results in text and binary, portals with row limits, cancel requests, TLS,
//! SCRAM-SHA-256 for the users that a [`Login`] knows. Statements only read: what sets or ends a transaction is answered
//! and changes nothing. Not here yet: COPY, which is refused in the protocol's own words. What a message may have, and what
//! a connection may keep, is bounded.

mod database;
mod encode;
mod handler;
mod kept;
mod parameter;
mod session;
mod split;

mod connection;
mod frame;
mod login;
mod serve;
mod tls;

#[cfg(test)]
mod rig;

pub use arrow::datatypes::DataType;
pub use database::{Database, Described, QueryError, Rows};
pub use login::{Demand, Login, Refused};
pub use serve::{Entrance, serve};
pub use tls::{Tls, TlsError};
