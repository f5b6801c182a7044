//! The HTTP interface over real sockets.
#![allow(clippy::unwrap_used)]

mod access;
mod client;
mod health;
mod query;
mod refuse;
