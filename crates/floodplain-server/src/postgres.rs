//! SQL and users for the PostgreSQL wire.

use floodplain_access::Registry;
use floodplain_postgres::{DataType, Database, Demand, Described, Login, QueryError, Refused, Rows};
use floodplain_sql::{Error, Sql};
use floodplain_types::Parameter;
use futures::{StreamExt as _, stream};
use std::net::SocketAddr;

/// Users log in with the password that they have everywhere; every role may read.
#[derive(Debug)]
pub(crate) struct Users(pub(crate) Registry);

#[async_trait::async_trait]
impl Login for Users {
    fn allowed(&self, user: &str, peer: SocketAddr) -> Result<(), Refused> {
        if !self.0.is_claimed() {
            return Ok(());
        }
        let slow = |error: floodplain_access::Error| Refused { sqlstate: "28000", message: error.to_string() };
        self.0.may_prove(user, peer.ip()).map_err(slow)
    }

    async fn demand(&self, user: &str, _: SocketAddr) -> Result<Demand, Refused> {
        if !self.0.is_claimed() {
            // The listener is on loopback, so who reaches it is on this machine.
            return Ok(Demand::Trust);
        }
        let scram = self.0.scram(user).await.map_err(|error| {
            tracing::error!(%error, "the registry cannot be asked");
            Refused { sqlstate: "58000", message: "users cannot be looked up now".to_owned() }
        })?;
        Ok(Demand::Scram(scram.verifier))
    }

    async fn ended(&self, user: &str, peer: SocketAddr, succeeded: bool) {
        self.0.proven(user, peer.ip(), succeeded).await;
    }

    fn epoch(&self) -> u64 {
        self.0.epoch()
    }
}

#[derive(Debug)]
pub(crate) struct Queries(pub(crate) Sql);

#[async_trait::async_trait]
impl Database for Queries {
    fn server_version(&self) -> String {
        format!("{} (Floodplain {})", floodplain_sql::SERVER_VERSION, env!("CARGO_PKG_VERSION"))
    }

    async fn describe(&self, user: &str, text: &str, declared: &[Option<DataType>]) -> Result<Described, QueryError> {
        let description = self.0.for_user(user).describe(text, declared).await;
        let description = description.map_err(|error| failed(&error, text))?;
        Ok(Described { parameters: description.parameters, schema: description.schema })
    }

    async fn query(&self, user: &str, text: &str, parameters: Vec<Parameter>) -> Result<Rows, QueryError> {
        let result = self.0.for_user(user).query_with(text, parameters).await.map_err(|error| failed(&error, text))?;
        let schema = result.schema().clone();
        let batches = stream::unfold(result, |mut result| async {
            let batch = result.next().await?;
            Some((batch.map_err(|error| failed(&error, "")), result))
        });
        Ok(Rows { schema, batches: batches.boxed() })
    }
}

/// The SQLSTATE of an error (PostgreSQL, appendix A), and where it is in `text`.
fn failed(error: &Error, text: &str) -> QueryError {
    let sqlstate = match error {
        Error::Syntax { .. } => "42601",
        Error::UnknownTable { .. } => "42P01",
        Error::UnknownColumn { .. } => "42703",
        Error::UnknownFunction { .. } => "42883",
        Error::Invalid { .. } => "42000",
        Error::ReadOnly { .. } => "25006",
        Error::TooLong { .. } | Error::TooComplex { .. } | Error::Rows { .. } => "54000",
        Error::Execution { .. } => "22000",
        Error::Time { .. } => "57014",
        Error::Memory { .. } => "53200",
        Error::Busy { .. } => "53300",
        Error::Lag { .. } => "55000",
        Error::Log { .. } => "58030",
        Error::Stopping => "57P01",
        Error::Internal { .. } => "XX000",
    };
    let position = error.location().and_then(|at| {
        let line = usize::try_from(at.line).ok()?.checked_sub(1)?;
        let before: usize = text.split('\n').take(line).map(|line| line.chars().count() + 1).sum();
        Some(before + usize::try_from(at.column).ok()?)
    });
    QueryError { sqlstate, message: error.to_string(), position }
}
