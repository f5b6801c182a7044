#![allow(clippy::unwrap_used)]

mod allocations;
mod check;

mod cbor;
mod definitions;
mod json;
mod layouts;
mod lines;
mod plain;

mod schema;

mod documents;
mod hostile;
mod line_round_trip;
mod seeds;
