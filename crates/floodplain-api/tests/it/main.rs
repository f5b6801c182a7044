//! The HTTP interface over real sockets.
#![allow(clippy::unwrap_used)]

mod access;
mod client;
mod events;
mod follow;
mod health;
mod openapi;
mod query;
mod refuse;
mod socket;
mod topics;
