//! The command as its users see it: real processes, exit codes, files, signals.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests with real clocks and processes")]

mod postgres;
mod process;

mod access;
mod alerts;
mod bindings;
mod cli;
mod conformance;
mod console;
mod devices;
mod guides;
mod http;
mod openapi;
mod serve;
mod tables;
