//! Tables of history: what was decoded, as of the moment a query asks.

mod alerts;
mod events;
mod filter;
mod fleet;
mod latest;
mod plan;
mod provider;
mod schema;
mod system;

pub use events::letter_text;
pub use schema::Tables;

pub(crate) use latest::Latest;
pub(crate) use schema::PublicSchema;
