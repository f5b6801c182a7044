//! The registry as its callers see it, on real files.
#![allow(clippy::unwrap_used)]

mod files;
mod logins;
mod postgres;
mod rig;
mod sessions;
mod tokens;
mod users;
