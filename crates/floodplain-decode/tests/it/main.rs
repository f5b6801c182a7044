#![allow(clippy::unwrap_used)]

mod allocations;
mod check;

mod cbor;
mod json;
mod lines;
mod plain;

mod schema;

