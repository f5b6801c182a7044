//! API tokens: for programs, with a role of their own.

use crate::{
    Caller, Error, Page, Registry, Role, Secret, TOKEN_PREFIX,
    name::token_name,
    registry::{count, new_id, stored_role},
    secret,
};
use floodplain_types::Timestamp;
use std::time::Duration;
use tracing::{debug, info};

const TOKENS_MAX: u32 = 1_000;

/// Uses within so long are noted once: a note costs a sync.
pub(crate) const USED_STEP: Duration = Duration::from_secs(60);

/// A token as it is listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    pub id: String,
    pub name: String,
    pub role: Role,
    pub created: Timestamp,
    /// To a minute.
    pub last_used: Option<Timestamp>,
    pub expires: Option<Timestamp>,
}

type Row = (String, String, String, i64, Option<i64>, Option<i64>);

impl Registry {
    /// Tokens by id, those too that have expired.
    ///
    /// # Errors
    /// Failures of the database.
    pub async fn tokens(&self, page: Page<'_>) -> Result<Vec<Token>, Error> {
        let rows: Vec<Row> = sqlx::query_as(
            "SELECT id, name, role, created, last_used, expires FROM tokens WHERE id > $1 ORDER BY id LIMIT $2",
        )
        .bind(page.after)
        .bind(i64::from(page.limit))
        .fetch_all(self.pool())
        .await?;
        let token = |(id, name, role, created, last_used, expires): Row| {
            let (last_used, expires) = (last_used.map(Timestamp::from_millis), expires.map(Timestamp::from_millis));
            let (role, created) = (stored_role(&role)?, Timestamp::from_millis(created));
            Ok(Token { id, name, role, created, last_used, expires })
        };
        rows.into_iter().map(token).collect()
    }

    /// Makes a token; its secret is returned here and never again.
    ///
    /// # Errors
    /// [`Error::NameInvalid`], [`Error::ExpiryPast`], [`Error::TooMany`], [`Error::SetupNeeded`] and failures of the
    /// database.
    pub async fn add_token(
        &self,
        by: &Caller,
        name: &str,
        role: Role,
        expires: Option<Timestamp>,
    ) -> Result<(Token, Secret), Error> {
        if !self.is_claimed() {
            return Err(Error::SetupNeeded);
        }
        let created = Timestamp::from_millis(self.now().as_millis());
        if expires.is_some_and(|expires| expires <= created) {
            return Err(Error::ExpiryPast);
        }
        let expires = expires.map(|expires| Timestamp::from_millis(expires.as_millis()));
        let (id, name, secret) = (new_id()?, token_name(name)?, Secret::draw(TOKEN_PREFIX)?);
        let added = sqlx::query(
            "INSERT INTO tokens (id, hash, name, role, created, created_by, expires)
             SELECT $1, $2, $3, $4, $5, $6, $7 WHERE (SELECT count(*) FROM tokens) < $8",
        )
        .bind(&id)
        .bind(secret::hash(secret.reveal()))
        .bind(&name)
        .bind(role.as_str())
        .bind(created.as_millis())
        .bind(by.to_string())
        .bind(expires.map(Timestamp::as_millis))
        .bind(i64::from(TOKENS_MAX))
        .execute(self.pool())
        .await?;
        if added.rows_affected() == 0 {
            return Err(Error::TooMany { what: "tokens", limit: TOKENS_MAX });
        }
        info!(%by, token = %id, name, %role, "a token was made");
        Ok((Token { id, name, role, created, last_used: None, expires }, secret))
    }

    /// Whose token it is, if it is there and has not expired.
    ///
    /// # Errors
    /// Failures of the database.
    pub async fn by_token(&self, token: &str) -> Result<Option<Caller>, Error> {
        if !secret::looks_like(TOKEN_PREFIX, token) {
            count("token", "refused");
            return Ok(None);
        }
        let now = self.now().as_millis();
        let row: Option<(String, String, Option<i64>)> = sqlx::query_as(
            "SELECT id, role, last_used FROM tokens WHERE hash = $1 AND (expires IS NULL OR expires > $2)",
        )
        .bind(secret::hash(token))
        .bind(now)
        .fetch_optional(self.pool())
        .await?;
        count("token", if row.is_some() { "accepted" } else { "refused" });
        let Some((id, role, last_used)) = row else { return Ok(None) };
        if last_used.is_none_or(|used| used <= (self.now() - USED_STEP).as_millis()) {
            let noted = sqlx::query("UPDATE tokens SET last_used = $2 WHERE id = $1")
                .bind(&id)
                .bind(now)
                .execute(self.pool())
                .await;
            if let Err(error) = noted {
                debug!(%error, token = %id, "the use of a token was not noted");
            }
        }
        Ok(Some(Caller { user: None, token: Some(id), role: stored_role(&role)? }))
    }

    /// Removes a token; it counts no more from now on.
    ///
    /// # Errors
    /// [`Error::TokenUnknown`] and failures of the database.
    pub async fn remove_token(&self, by: &Caller, id: &str) -> Result<(), Error> {
        let removed = sqlx::query("DELETE FROM tokens WHERE id = $1").bind(id).execute(self.pool()).await?;
        if removed.rows_affected() == 0 {
            return Err(Error::TokenUnknown { id: id.to_owned() });
        }
        info!(%by, token = %id, "a token was removed");
        Ok(())
    }
}
