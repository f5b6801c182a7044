//! Tables of history: what was decoded, as of the moment a query asks.

mod filter;
mod plan;
mod provider;
mod schema;

pub use schema::Tables;

pub(crate) use schema::PublicSchema;
