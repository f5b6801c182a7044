//! The PostgreSQL wire, frontend/backend protocol 3, and the only home of `pgwire`.
//!
//! So far: TLS, who may come in, and the life of a connection.

mod connection;
mod login;
mod tls;

pub use login::{Demand, Login, Refused, ScramVerifier};
pub use tls::{Tls, TlsError};
