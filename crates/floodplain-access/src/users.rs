//! Users: listed, added, changed, removed.

use crate::{
    Caller, Error, Page, Registry, Role,
    name::user_name,
    password::{self, Kept},
    registry::stored_role,
};
use floodplain_types::Timestamp;
use tracing::{debug, info};

/// More would be a directory service's work.
const USERS_MAX: u32 = 1_000;

/// A user as it is listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    pub name: String,
    pub role: Role,
    pub created: Timestamp,
    pub last_login: Option<Timestamp>,
}

/// What is to change of a user; `None` stays.
#[derive(Clone, Copy, Default)]
pub struct Change<'a> {
    pub role: Option<Role>,
    pub password: Option<&'a str>,
}

impl std::fmt::Debug for Change<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Change").field("role", &self.role).finish_non_exhaustive()
    }
}

impl Registry {
    /// Users by name.
    ///
    /// # Errors
    /// Failures of the database.
    pub async fn users(&self, page: Page<'_>) -> Result<Vec<User>, Error> {
        let rows: Vec<(String, String, i64, Option<i64>)> =
            sqlx::query_as("SELECT name, role, created, last_login FROM users WHERE name > $1 ORDER BY name LIMIT $2")
                .bind(page.after)
                .bind(i64::from(page.limit))
                .fetch_all(self.pool())
                .await?;
        let user = |(name, role, created, last_login): (_, String, _, Option<i64>)| {
            let last_login = last_login.map(Timestamp::from_millis);
            Ok(User { name, role: stored_role(&role)?, created: Timestamp::from_millis(created), last_login })
        };
        rows.into_iter().map(user).collect()
    }

    /// Adds a user. The first one is made by [`Registry::setup`] only.
    ///
    /// # Errors
    /// [`Error::NameInvalid`], [`Error::PasswordWeak`], [`Error::UserExists`], [`Error::TooMany`], [`Error::SetupNeeded`],
    /// [`Error::Busy`] and failures of the database.
    pub async fn add_user(&self, by: &Caller, user: &str, password: &str, role: Role) -> Result<User, Error> {
        if !self.is_claimed() {
            return Err(Error::SetupNeeded);
        }
        let name = user_name(user)?;
        let kept = self.passwords().keep(password::accept(&name, password)?).await?;
        let created = Timestamp::from_millis(self.now().as_millis());
        let added = sqlx::query(
            "INSERT INTO users (name, role, password, scram, created)
             SELECT $1, $2, $3, $4, $5 WHERE (SELECT count(*) FROM users) < $6 ON CONFLICT (name) DO NOTHING",
        )
        .bind(&name)
        .bind(role.as_str())
        .bind(kept.hash)
        .bind(kept.scram)
        .bind(created.as_millis())
        .bind(i64::from(USERS_MAX))
        .execute(self.pool())
        .await?;
        if added.rows_affected() == 0 {
            return Err(match self.user_exists(&name).await? {
                true => Error::UserExists { user: name },
                false => Error::TooMany { what: "users", limit: USERS_MAX },
            });
        }
        info!(%by, user = %name, %role, "a user was added");
        Ok(User { name, role, created, last_login: None })
    }

    /// Changes role, password or both. A new password ends the user's sessions; a new role counts from the next request on.
    ///
    /// # Errors
    /// [`Error::UserUnknown`], [`Error::LastAdmin`], [`Error::PasswordWeak`], [`Error::Busy`] and failures of the database.
    pub async fn change_user(&self, by: &Caller, user: &str, change: Change<'_>) -> Result<(), Error> {
        let name = user_name(user).map_err(|_| Error::UserUnknown { user: user.to_owned() })?;
        let kept = match change.password {
            Some(password) => Some(self.passwords().keep(password::accept(&name, password)?).await?),
            None => None,
        };
        let (registry, role, logged_name) = (self.clone(), change.role, name.clone());
        // In a task: the epoch must follow a commit, whatever becomes of the caller.
        let write = async move { registry.write_change(name, role, kept).await };
        tokio::spawn(write).await.map_err(|_| Error::Busy)??;
        let role = change.role.map(Role::as_str);
        info!(%by, user = %logged_name, role, password = change.password.is_some(), "a user was changed");
        Ok(())
    }

    async fn write_change(&self, name: String, role: Option<Role>, kept: Option<Kept>) -> Result<(), Error> {
        // It starts with a write, so that what it reads stays true until the commit.
        let mut transaction = self.pool().begin().await?;
        let changed = sqlx::query(
            "UPDATE users SET role = coalesce($2, role) WHERE name = $1 AND (role <> 'admin'
             OR coalesce($2, role) = 'admin' OR (SELECT count(*) FROM users WHERE role = 'admin') > 1)",
        )
        .bind(&name)
        .bind(role.map(Role::as_str))
        .execute(&mut *transaction)
        .await?;
        if changed.rows_affected() == 0 {
            drop(transaction);
            return Err(self.why_not(name).await?);
        }
        if let Some(kept) = kept {
            sqlx::query("UPDATE users SET password = $2, scram = $3 WHERE name = $1")
                .bind(&name)
                .bind(kept.hash)
                .bind(kept.scram)
                .execute(&mut *transaction)
                .await?;
            sqlx::query("DELETE FROM sessions WHERE user_name = $1").bind(&name).execute(&mut *transaction).await?;
        }
        let committed = transaction.commit().await;
        // Whatever became of it.
        self.next_epoch();
        Ok(committed?)
    }

    /// Removes a user with the user's sessions. API tokens that the user made stay.
    ///
    /// # Errors
    /// [`Error::UserUnknown`], [`Error::LastAdmin`] and failures of the database.
    pub async fn remove_user(&self, by: &Caller, user: &str) -> Result<(), Error> {
        let name = user_name(user).map_err(|_| Error::UserUnknown { user: user.to_owned() })?;
        let (registry, key) = (self.clone(), name.clone());
        // In a task: as in `change_user`.
        let removed = tokio::spawn(async move {
            let removed = sqlx::query(
                "DELETE FROM users WHERE name = $1
                 AND (role <> 'admin' OR (SELECT count(*) FROM users WHERE role = 'admin') > 1)",
            )
            .bind(key)
            .execute(registry.pool())
            .await;
            registry.next_epoch();
            removed
        });
        let removed = removed.await.map_err(|_| Error::Busy)??;
        if removed.rows_affected() == 0 {
            return Err(self.why_not(name).await?);
        }
        info!(%by, user = %name, "a user was removed");
        Ok(())
    }

    async fn why_not(&self, user: String) -> Result<Error, Error> {
        Ok(if self.user_exists(&user).await? { Error::LastAdmin { user } } else { Error::UserUnknown { user } })
    }

    async fn user_exists(&self, name: &str) -> Result<bool, Error> {
        let count: i64 =
            sqlx::query_scalar("SELECT count(*) FROM users WHERE name = $1").bind(name).fetch_one(self.pool()).await?;
        Ok(count > 0)
    }
}

/// A login counts although the disk is full.
pub(crate) async fn note_login(registry: &Registry, name: &str) {
    let noted = sqlx::query("UPDATE users SET last_login = $2 WHERE name = $1")
        .bind(name)
        .bind(registry.now().as_millis())
        .execute(registry.pool())
        .await;
    if let Err(error) = noted {
        debug!(%error, user = name, "the time of a login was not noted");
    }
}
