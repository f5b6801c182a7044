//! SQL over the log, and the only home of DataFusion.
//!
//! [`Sql::query`] runs one read-only statement on threads of its own and gives a [`QueryResult`], whose rows come in
//! Arrow's `RecordBatch`es or, by [`QueryResult::encode`], as JSON or CSV. The table `records` is the log itself:
//! nothing is copied, and a query that starts after an acknowledgement sees what was acknowledged.

mod config;
mod crew;
mod engine;
mod error;
mod fleet;
mod parameter;
mod result;

mod records;
mod tables;

mod catalog;

mod functions;
mod turns;

mod encode;

pub use catalog::SERVER_VERSION;
pub use config::Config;
pub use encode::{Encoder, Format};
pub use engine::Sql;
pub use error::{Error, Location};
pub use fleet::{Client, Device, Fleet, Happening, LongFiring, Session, Traffic, Unanswered};
pub use parameter::Description;
pub use result::{Column, QueryResult, Stats};
pub use tables::{Tables, letter_text};
