//! The command as its users see it: real processes, exit codes, files, signals.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests with real clocks and processes")]

mod postgres;
mod process;

mod cli;
mod guides;
mod serve;
mod tables;
