//! The engine on a real Apache Kafka of three brokers.
//!
//! Needs a JDK (17 or later) and `kcat` on the path, Kafka's jars in `$FLOODPLAIN_TEST_TOOLS/kafka` (default `~/.cache/floodplain/tools`),
//! and a Python with `confluent-kafka` beside them; `cargo xtask tools` puts them there.
#![allow(clippy::unwrap_used)]

mod conformance;
mod fixture;
mod mock;
mod nodes;
mod outcomes;
mod outside;
mod owners;
mod roles;
mod security;
mod statistics;
mod transactions;
