//! Sessions of browsers.

use crate::{
    Caller, Error, Registry, Secret,
    registry::{count, stored_role},
    secret,
    tokens::USED_STEP,
};
use std::time::Duration;
use tracing::debug;

/// A session that nobody uses for so long ends.
pub const SESSION_IDLE_MAX: Duration = Duration::from_secs(12 * 3600);

/// A session ends after so long however much it is used.
pub const SESSION_TIME_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

/// Browsers of one user; with one more, the session that is oldest ends.
const SESSIONS_MAX: u32 = 16;

impl Registry {
    /// Starts a session of a user whom the setup has made; see [`Self::login_session`] for others.
    ///
    /// # Errors
    /// [`Error::UserUnknown`] if the user is gone meanwhile or `caller` is none, and failures of the database.
    pub async fn start_session(&self, caller: &Caller) -> Result<Secret, Error> {
        self.insert_session(caller, None).await
    }

    /// With `password`, only if the user still has the password of that hash: whoever changes it ends all sessions.
    pub(crate) async fn insert_session(&self, caller: &Caller, password: Option<&str>) -> Result<Secret, Error> {
        let user = caller.user.clone().unwrap_or_default();
        let (session, now) = (Secret::draw("")?, self.now());
        let mut transaction = self.pool().begin().await?;
        let added = sqlx::query(
            "INSERT INTO sessions (hash, user_name, created, last_used)
             SELECT $1, name, $3, $3 FROM users WHERE name = $2 AND password = coalesce($4, password)",
        )
        .bind(secret::hash(session.reveal()))
        .bind(&user)
        .bind(now.as_millis())
        .bind(password)
        .execute(&mut *transaction)
        .await?;
        if added.rows_affected() == 0 {
            return Err(Error::UserUnknown { user });
        }
        // A good moment to forget what has ended, of others too.
        sqlx::query("DELETE FROM sessions WHERE created <= $1 OR last_used <= $2")
            .bind((now - SESSION_TIME_MAX).as_millis())
            .bind((now - SESSION_IDLE_MAX).as_millis())
            .execute(&mut *transaction)
            .await?;
        sqlx::query(
            "DELETE FROM sessions WHERE user_name = $1 AND hash NOT IN
             (SELECT hash FROM sessions WHERE user_name = $1 ORDER BY created DESC, hash LIMIT $2)",
        )
        .bind(&user)
        .bind(i64::from(SESSIONS_MAX))
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(session)
    }

    /// Whose session it is, if it has not ended.
    ///
    /// # Errors
    /// Failures of the database.
    pub async fn by_session(&self, session: &str) -> Result<Option<Caller>, Error> {
        if !secret::looks_like("", session) {
            count("session", "refused");
            return Ok(None);
        }
        let (hash, now) = (secret::hash(session), self.now());
        let row: Option<(String, String, i64)> = sqlx::query_as(
            "SELECT users.name, users.role, sessions.last_used FROM sessions JOIN users ON users.name = sessions.user_name
             WHERE sessions.hash = $1 AND sessions.created > $2 AND sessions.last_used > $3",
        )
        .bind(&hash)
        .bind((now - SESSION_TIME_MAX).as_millis())
        .bind((now - SESSION_IDLE_MAX).as_millis())
        .fetch_optional(self.pool())
        .await?;
        count("session", if row.is_some() { "accepted" } else { "refused" });
        let Some((name, role, last_used)) = row else { return Ok(None) };
        if last_used <= (now - USED_STEP).as_millis() {
            let noted = sqlx::query("UPDATE sessions SET last_used = $2 WHERE hash = $1")
                .bind(&hash)
                .bind(now.as_millis())
                .execute(self.pool())
                .await;
            if let Err(error) = noted {
                debug!(%error, "the use of a session was not noted");
            }
        }
        Ok(Some(Caller::user(name, stored_role(&role)?)))
    }

    /// Ends a session; one that is none is fine.
    ///
    /// # Errors
    /// Failures of the database.
    pub async fn end_session(&self, session: &str) -> Result<(), Error> {
        sqlx::query("DELETE FROM sessions WHERE hash = $1").bind(secret::hash(session)).execute(self.pool()).await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Change, Role};
    use floodplain_types::{ManualClock, Timestamp};
    use std::sync::Arc;

    #[tokio::test]
    async fn a_password_that_changes_during_the_login_starts_no_session() {
        let folder = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::new(Timestamp::from_millis(1_700_000_000_000)));
        let registry = Registry::open(&folder.path().join("registry.db"), clock).await.unwrap();
        let token = registry.setup_token().unwrap();
        let anna = registry.setup(token.reveal(), "anna", "correct horse battery").await.unwrap();
        registry.add_user(&anna, "bert", "a password of bert", Role::Editor).await.unwrap();
        let bert = Caller::user("bert".to_owned(), Role::Editor);
        let stored: String = sqlx::query_scalar("SELECT password FROM users WHERE name = 'bert'")
            .fetch_one(registry.pool())
            .await
            .unwrap();
        assert!(registry.insert_session(&bert, Some(&stored)).await.is_ok());
        let change = Change { role: None, password: Some("another password of his") };
        registry.change_user(&anna, "bert", change).await.unwrap();
        let late = registry.insert_session(&bert, Some(&stored)).await;
        assert!(matches!(late, Err(Error::UserUnknown { .. })), "{late:?}");
    }
}
