//! Folds, runners and snapshots, on the model log, on the adverse log, and on a disk that fails.
#![allow(clippy::unwrap_used)]

mod counted;
mod crash;
mod follow;
mod homes;
mod replay;
mod snapshots;
mod support;
