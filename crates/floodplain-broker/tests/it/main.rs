//! The broker's folds on logs that misbehave.
#![allow(clippy::unwrap_used)]

mod folds;
