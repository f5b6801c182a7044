//! SQL over a log whose content is known.
#![allow(clippy::unwrap_used)]

mod alerts;
mod damage;
mod engine;
mod fleet;
mod guide;
mod lag;
mod pushdown;
mod slt;
