//! The database: opened, claimed, asked who somebody is.

use crate::{
    Caller, Error, OpenError, Role, Secret,
    name::user_name,
    password::{self, Kept, Passwords},
    scram, secret,
    throttle::Throttle,
    users,
};
use floodplain_types::{Clock, ScramVerifier, Timestamp};
use sqlx::{
    SqlitePool,
    migrate::{MigrateError, Migrator},
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};
use std::{
    fmt,
    net::IpAddr,
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};
use subtle::ConstantTimeEq as _;
use tracing::{info, warn};

static MIGRATIONS: Migrator = sqlx::migrate!("./migrations");

/// Statements at a time; the next ones wait. SQLite writes one at a time whatever this is.
const CONNECTIONS: u32 = 4;

/// How long a statement waits for another one's write, and for a connection.
const PATIENCE: Duration = Duration::from_secs(5);

/// Users, sessions and tokens, and the throttle of failed logins. Clones share one.
#[derive(Clone)]
pub struct Registry {
    inner: Arc<Inner>,
}

struct Inner {
    pool: SqlitePool,
    clock: Arc<dyn Clock>,
    passwords: Passwords,
    throttle: Throttle,
    /// Whether a user exists. Once one does, one always does.
    claimed: AtomicBool,
    epoch: AtomicU64,
    /// In memory only: it is of no use after this process.
    setup: Mutex<Option<Secret>>,
    /// See [`scram::made_up`].
    scram_key: String,
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry").field("claimed", &self.is_claimed()).finish_non_exhaustive()
    }
}

/// Which part of a list is wanted.
#[derive(Debug, Clone, Copy)]
pub struct Page<'a> {
    /// The last key of the page before; empty for the first page.
    pub after: &'a str,
    /// At least 1.
    pub limit: u32,
}

/// What the PostgreSQL wire needs to check a client's proof.
#[derive(Debug, Clone)]
pub struct Scram {
    pub verifier: ScramVerifier,
    /// Who it is once the proof fits; `None` if nobody has that name, and then no proof fits.
    pub caller: Option<Caller>,
}

impl Registry {
    /// Opens the database at `path`, makes it if there is none, and brings its schema up to date.
    ///
    /// What is written is synced before it is answered. One process at a time may have it open; the lock of the log sees to
    /// that.
    ///
    /// # Errors
    /// [`OpenError`]; a file of a newer version is not touched.
    pub async fn open(path: &Path, clock: Arc<dyn Clock>) -> Result<Self, OpenError> {
        let failed = |source: crate::Cause| OpenError::Open { path: path.to_owned(), source };
        create(path).map_err(|error| failed(error.into()))?;
        let options = SqliteConnectOptions::new()
            .filename(path)
            .journal_mode(SqliteJournalMode::Wal)
            // With WAL the default does not survive a power cut.
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(PATIENCE)
            .pragma("trusted_schema", "OFF");
        let pool = SqlitePoolOptions::new()
            .max_connections(CONNECTIONS)
            .acquire_timeout(PATIENCE)
            .connect_with(options)
            .await
            .map_err(|error| failed(error.into()))?;
        MIGRATIONS.run(&pool).await.map_err(|error| match error {
            MigrateError::VersionMissing(version) | MigrateError::VersionTooNew(version, _) => {
                OpenError::NewerSchema { path: path.to_owned(), version }
            }
            other => OpenError::Migrate { path: path.to_owned(), source: other.into() },
        })?;
        Self::start(pool, clock).await.map_err(|error| failed(error.into()))
    }

    async fn start(pool: SqlitePool, clock: Arc<dyn Clock>) -> Result<Self, Error> {
        sqlx::query("INSERT INTO secrets (name, value) VALUES ('scram', $1) ON CONFLICT (name) DO NOTHING")
            .bind(Secret::draw("")?.reveal())
            .execute(&pool)
            .await?;
        let scram_key = sqlx::query_scalar("SELECT value FROM secrets WHERE name = 'scram'").fetch_one(&pool).await?;
        let users: i64 = sqlx::query_scalar("SELECT count(*) FROM users").fetch_one(&pool).await?;
        let setup = if users == 0 { Some(Secret::draw("")?) } else { None };
        let inner = Inner {
            pool,
            clock,
            passwords: Passwords::new().await?,
            throttle: Throttle::default(),
            claimed: AtomicBool::new(users > 0),
            epoch: AtomicU64::new(0),
            setup: Mutex::new(setup),
            scram_key,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Whether a user exists. While none does, whoever reaches a loopback listener may do everything:
    /// [`Caller::unclaimed`].
    #[must_use]
    pub fn is_claimed(&self) -> bool {
        self.inner.claimed.load(Ordering::Acquire)
    }

    /// The secret of the setup link, until the first user exists. Each start draws another.
    #[must_use]
    pub fn setup_token(&self) -> Option<Secret> {
        self.setup_secret().clone()
    }

    /// Makes the first user, an admin.
    ///
    /// # Errors
    /// [`Error::SetupDone`], [`Error::SetupTokenWrong`], [`Error::NameInvalid`], [`Error::PasswordWeak`], [`Error::Busy`]
    /// and failures of the database.
    pub async fn setup(&self, token: &str, user: &str, password: &str) -> Result<Caller, Error> {
        {
            // No throttle: nobody guesses 256 random bits.
            let setup = self.setup_secret();
            let Some(expected) = setup.as_ref() else { return Err(Error::SetupDone) };
            if !bool::from(expected.reveal().as_bytes().ct_eq(token.as_bytes())) {
                warn!("a setup token was wrong");
                return Err(Error::SetupTokenWrong);
            }
        }
        let name = user_name(user)?;
        let kept = self.passwords().keep(password::accept(&name, password)?).await?;
        // In a task: a caller that goes away must not leave a user behind and the door open.
        let registry = self.clone();
        tokio::spawn(async move { registry.add_first(name, kept).await }).await.map_err(|_| Error::Busy)?
    }

    async fn add_first(&self, name: String, kept: Kept) -> Result<Caller, Error> {
        // One statement, so that of two at a time one finds the other's user.
        let added = sqlx::query(
            "INSERT INTO users (name, role, password, scram, created, last_login)
             SELECT $1, 'admin', $2, $3, $4, $4 WHERE NOT EXISTS (SELECT 1 FROM users)",
        )
        .bind(&name)
        .bind(kept.hash)
        .bind(kept.scram)
        .bind(self.now().as_millis())
        .execute(self.pool())
        .await?;
        self.claim();
        if added.rows_affected() == 0 {
            return Err(Error::SetupDone);
        }
        info!(user = %name, "the first admin was made by the setup link");
        Ok(Caller::user(name, Role::Admin))
    }

    /// Checks a password.
    ///
    /// # Errors
    /// [`Error::LoginFailed`], [`Error::SlowDown`] after too many failures of this user or address, [`Error::Busy`],
    /// [`Error::SetupNeeded`] and failures of the database.
    ///
    /// # Cancel safety
    /// A dropped call may leave a wrong password uncounted; its result is not known then.
    pub async fn login(&self, user: &str, password: &str, address: IpAddr) -> Result<Caller, Error> {
        self.check_counted(user, password, address).await.map(|(caller, _)| caller)
    }

    /// Checks a password, and starts a session of its user; what is returned is for the cookie.
    ///
    /// # Errors
    /// As [`Self::login`]; [`Error::UserUnknown`] if user or password have changed meanwhile.
    ///
    /// # Cancel safety
    /// As [`Self::login`].
    pub async fn login_session(&self, user: &str, password: &str, address: IpAddr) -> Result<Secret, Error> {
        let (caller, stored) = self.check_counted(user, password, address).await?;
        self.insert_session(&caller, Some(&stored)).await
    }

    async fn check_counted(&self, user: &str, password: &str, address: IpAddr) -> Result<(Caller, String), Error> {
        let checked = self.check_password(user, password, address).await;
        let outcome = match &checked {
            Ok(_) => "accepted",
            Err(Error::LoginFailed) => "refused",
            Err(Error::SlowDown { .. } | Error::Busy) => "throttled",
            Err(_) => "failed",
        };
        count("password", outcome);
        checked
    }

    /// The user, and the hash of the password that was right.
    async fn check_password(&self, user: &str, password: &str, address: IpAddr) -> Result<(Caller, String), Error> {
        if !self.is_claimed() {
            return Err(Error::SetupNeeded);
        }
        let slow = |retry_after| Error::SlowDown { retry_after };
        self.throttle().check(user, address).map_err(slow)?;
        // What no user can be called is nobody's name, and takes as long to find out.
        let name = user_name(user).unwrap_or_default();
        let found = self.password_of(&name).await?;
        if let Some((stored, role)) = &found
            && self.passwords().is_known(&name, stored, password)
        {
            return Ok((Caller::user(name, *role), stored.clone()));
        }
        let turn = self.passwords().turn().await?;
        // Others may have failed while this one waited.
        self.throttle().check(user, address).map_err(slow)?;
        let stored = found.as_ref().map(|(stored, _)| stored.as_str());
        let is_right = self.passwords().is_right(turn, &name, stored, password).await?;
        match found {
            Some((stored, role)) if is_right => {
                self.throttle().succeeded(&name);
                users::note_login(self, &name).await;
                Ok((Caller::user(name, role), stored))
            }
            _ => {
                self.note_failure(user, address);
                Err(Error::LoginFailed)
            }
        }
    }

    fn note_failure(&self, user: &str, address: IpAddr) {
        self.throttle().failed(user, address);
        warn!(user = %user_name(user).unwrap_or_default(), %address, "a login failed");
    }

    async fn password_of(&self, name: &str) -> Result<Option<(String, Role)>, Error> {
        let row: Option<(String, String)> = sqlx::query_as("SELECT password, role FROM users WHERE name = $1")
            .bind(name)
            .fetch_optional(self.pool())
            .await?;
        row.map(|(password, role)| Ok((password, stored_role(&role)?))).transpose()
    }

    /// What to check the proof of a PostgreSQL client against (RFC 5802). Ask [`Self::may_prove`] before, and tell
    /// [`Self::proven`] after.
    ///
    /// # Errors
    /// Failures of the database.
    pub async fn scram(&self, user: &str) -> Result<Scram, Error> {
        let name = user_name(user).ok();
        let row: Option<(String, String)> = sqlx::query_as("SELECT scram, role FROM users WHERE name = $1")
            .bind(&name)
            .fetch_optional(self.pool())
            .await?;
        let (Some(name), Some((verifier, role))) = (&name, row) else {
            // In whatever case it is written a name has one salt, as one that is known has.
            let asked = name.as_deref().unwrap_or(user);
            let verifier = scram::made_up(self.inner.scram_key.as_bytes(), asked);
            return Ok(Scram { verifier, caller: None });
        };
        let verifier = scram::parse(&verifier).ok_or_else(|| damaged("a SCRAM verifier"))?;
        Ok(Scram { verifier, caller: Some(Caller::user(name.clone(), stored_role(&role)?)) })
    }

    /// Whether a proof of `user` from `address` may be checked now. Ask when the client comes and again when its proof is
    /// there: others may have failed meanwhile.
    ///
    /// # Errors
    /// [`Error::SlowDown`].
    pub fn may_prove(&self, user: &str, address: IpAddr) -> Result<(), Error> {
        self.throttle().check(user, address).map_err(|retry_after| {
            count("password", "throttled");
            Error::SlowDown { retry_after }
        })
    }

    /// Takes note of a proof that was right or wrong, as [`Self::login`] does of a password.
    ///
    /// # Cancel safety
    /// A failure counts before the first await.
    pub async fn proven(&self, user: &str, address: IpAddr, is_right: bool) {
        if is_right {
            count("password", "accepted");
            let name = user_name(user).unwrap_or_default();
            self.throttle().succeeded(&name);
            users::note_login(self, &name).await;
        } else {
            count("password", "refused");
            self.note_failure(user, address);
        }
    }

    /// Changes with each change of who may come in by which password, before it is reported as done.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.inner.epoch.load(Ordering::Acquire)
    }

    pub(crate) fn next_epoch(&self) {
        self.inner.epoch.fetch_add(1, Ordering::AcqRel);
    }

    /// Whether this caller could still come in: the user is there, the token is there and has not expired, or there is
    /// still no user at all. For what goes on long after it was let in.
    ///
    /// # Errors
    /// Failures of the database.
    pub async fn knows(&self, caller: &Caller) -> Result<bool, Error> {
        let found: i64 = match (&caller.user, &caller.token) {
            (Some(user), _) => {
                sqlx::query_scalar("SELECT count(*) FROM users WHERE name = $1")
                    .bind(user)
                    .fetch_one(self.pool())
                    .await?
            }
            (None, Some(token)) => {
                sqlx::query_scalar("SELECT count(*) FROM tokens WHERE id = $1 AND (expires IS NULL OR expires > $2)")
                    .bind(token)
                    .bind(self.now().as_millis())
                    .fetch_one(self.pool())
                    .await?
            }
            (None, None) => return Ok(!self.is_claimed()),
        };
        Ok(found > 0)
    }

    /// Counts failed logins, whatever protocol they come by.
    #[must_use]
    pub fn throttle(&self) -> &Throttle {
        &self.inner.throttle
    }

    /// Closes the database; calls that come later fail. A process that ends without it loses nothing.
    pub async fn close(&self) {
        self.pool().close().await;
    }

    pub(crate) fn pool(&self) -> &SqlitePool {
        &self.inner.pool
    }

    pub(crate) fn passwords(&self) -> &Passwords {
        &self.inner.passwords
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.inner.clock.now()
    }

    fn claim(&self) {
        self.inner.claimed.store(true, Ordering::Release);
        *self.setup_secret() = None;
        self.next_epoch();
    }

    fn setup_secret(&self) -> MutexGuard<'_, Option<Secret>> {
        self.inner.setup.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes an empty file that nobody but its owner reads, if there is none; SQLite gives its other files the same rights.
fn create(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;
    if path.exists() {
        return Ok(());
    }
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)?;
    std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?.sync_all()?;
    std::fs::File::open(folder)?.sync_all()
}

pub(crate) fn stored_role(text: &str) -> Result<Role, Error> {
    text.parse().map_err(|_| damaged("a role"))
}

fn damaged(what: &str) -> Error {
    Error::Database(format!("{what} in it is none").into())
}

pub(crate) fn count(credential: &'static str, outcome: &'static str) {
    metrics::counter!("floodplain_access_checks_total", "credential" => credential, "outcome" => outcome).increment(1);
}

/// Ids of tokens and the like: 64 random bits, no secret.
pub(crate) fn new_id() -> Result<String, Error> {
    Ok(format!("t-{}", secret::hex(&secret::random::<8>()?)))
}
