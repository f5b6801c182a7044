#![allow(clippy::unwrap_used)]

mod allocations;
mod check;

mod bytes;
mod connecting;
mod encoding;
mod publishing;
mod subscribing;

mod packets;

mod differential;
mod hostile;
mod round_trip;
mod seeds;
