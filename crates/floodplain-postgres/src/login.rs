//! Who may come in: nobody is asked, or SCRAM-SHA-256 (RFC 5802, RFC 7677).

use crate::frame;
use async_trait::async_trait;
use floodplain_types::ScramVerifier;
use futures::Sink;
use pgwire::{
    api::{
        ClientInfo, ConnectionManager, METADATA_USER,
        auth::{
            AuthDriver, ServerParameterProvider, StartupHandler,
            driver::AuthOutcome,
            mechanism::{AuthMechanism, AuthState},
            protocol_negotiation,
            sasl::{
                SCRAM_SHA_256_METHOD, SCRAM_SHA_256_PLUS_METHOD,
                scram::{ScramSecret, ScramServerAuth, ScramServerAuthWaitingForClientFinal},
            },
            save_startup_parameters_to_metadata,
        },
    },
    error::{ErrorInfo, PgWireError, PgWireResult},
    messages::{
        PgWireBackendMessage, PgWireFrontendMessage,
        startup::{Authentication, PasswordMessageFamily},
    },
};
use std::{
    fmt::{self, Debug},
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

/// What a client must show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Demand {
    /// Nothing.
    Trust,
    /// That it knows the password of this verifier. For a user that does not exist, give one that no password fits: the
    /// salt must not tell who exists (RFC 5802 §9).
    Scram(ScramVerifier),
}

/// Why a client may not even try.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refused {
    /// SQLSTATE (PostgreSQL, appendix A), for example `28000`.
    pub sqlstate: &'static str,
    pub message: String,
}

/// Knows the users.
#[async_trait]
pub trait Login: Debug + Send + Sync + 'static {
    /// Whether `user` may try to come in from `peer`, for example not after too many failures. Asked when a client comes
    /// and again when its proof is there: others may have failed meanwhile.
    ///
    /// # Errors
    /// [`Refused`], which ends the connection.
    fn allowed(&self, user: &str, peer: SocketAddr) -> Result<(), Refused>;

    /// What `user` must show who comes from `peer`.
    ///
    /// # Errors
    /// [`Refused`], which ends the connection.
    async fn demand(&self, user: &str, peer: SocketAddr) -> Result<Demand, Refused>;

    /// Is told once how the attempt of a client ended that was asked for a proof; a failure must count before the first
    /// await. Clients that go away without giving one have learnt nothing and are not reported.
    async fn ended(&self, user: &str, peer: SocketAddr, succeeded: bool);

    /// Changes at the latest when a change of what [`Self::demand`] says is reported as done. Asked with each statement: a
    /// client to whom something else is demanded than it has shown is sent away.
    fn epoch(&self) -> u64;
}

/// Answers messages until a client is in.
pub(crate) struct Startup<P> {
    driver: AuthDriver<P>,
    login: Arc<dyn Login>,
    /// With a certificate, to which a proof on TLS can be bound (RFC 5929 §4, `tls-server-end-point`).
    bound: Option<ScramServerAuth>,
}

impl<P> Debug for Startup<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Startup").field("login", &self.login).finish_non_exhaustive()
    }
}

impl<P: ServerParameterProvider> Startup<P> {
    /// `certificate_pem` is that of the server if it speaks TLS.
    pub(crate) fn new(
        login: Arc<dyn Login>,
        parameters: P,
        connections: Arc<ConnectionManager>,
        certificate_pem: Option<&[u8]>,
    ) -> Self {
        let bound = certificate_pem.and_then(|pem| {
            let mut scram = ScramServerAuth::new();
            // Signature algorithms without a hash of their own have no binding (RFC 5929 §4.1): then it is not offered.
            scram.configure_certificate(pem).ok().map(|()| scram)
        });
        Self { driver: AuthDriver::new(parameters).with_connection_manager(connections), login, bound }
    }

    /// Whether a client that is in would still come in by what it has shown.
    ///
    /// # Errors
    /// Ends the connection: SQLSTATE 57P01, or why users cannot be asked.
    pub(crate) async fn still(&self, client: &(impl ClientInfo + Sync)) -> PgWireResult<()> {
        let gone = || fatal("57P01", "the user or its password has changed: log in again".to_owned());
        let shown = client.session_extensions().get::<Shown>().ok_or_else(gone)?;
        let epoch = self.login.epoch();
        if shown.epoch.load(Ordering::Relaxed) == epoch {
            return Ok(());
        }
        let user = client.metadata().get(METADATA_USER).map_or("", String::as_str);
        if self.login.demand(user, client.socket_addr()).await.map_err(refuse)? != shown.demand {
            return Err(gone());
        }
        shown.epoch.store(epoch, Ordering::Relaxed);
        Ok(())
    }
}

/// By what a client has come in, and when that was known to be enough.
struct Shown {
    demand: Demand,
    epoch: AtomicU64,
}

fn refuse(refused: Refused) -> PgWireError {
    count("refused");
    fatal(refused.sqlstate, refused.message)
}

#[async_trait]
impl<P: ServerParameterProvider> StartupHandler for Startup<P> {
    async fn on_startup<C>(&self, client: &mut C, message: PgWireFrontendMessage) -> PgWireResult<()>
    where
        C: ClientInfo + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let outcome = match message {
            PgWireFrontendMessage::Startup(startup) => {
                protocol_negotiation(client, &startup).await?;
                save_startup_parameters_to_metadata(client, &startup);
                let user = client.metadata().get(METADATA_USER).filter(|user| !user.is_empty());
                let user = user.cloned().ok_or(PgWireError::UserNameRequired)?;
                let peer = client.socket_addr();
                // Before what it is the epoch of: a change in between is noticed with the first statement.
                let epoch = self.login.epoch().into();
                self.login.allowed(&user, peer).map_err(refuse)?;
                let demand = self.login.demand(&user, peer).await.map_err(refuse)?;
                client.session_extensions().insert(Shown { demand: demand.clone(), epoch });
                let scram = self.bound.clone().filter(|_| client.is_secure());
                let attempt = Attempt { login: Arc::clone(&self.login), user, peer, scram, step: Step::Begin(demand) };
                self.driver.begin_authentication(client, Box::new(attempt)).await?
            }
            PgWireFrontendMessage::PasswordMessageFamily(message) => {
                self.driver.advance_authentication(client, message).await?
            }
            _ => return Err(fatal("08P01", "a startup message or a password was expected".to_owned())),
        };
        match outcome {
            AuthOutcome::InProgress => Ok(()),
            AuthOutcome::Authenticated { final_message, .. } => {
                self.driver.complete_authentication(client, final_message).await
            }
        }
    }
}

/// One client that wants in.
struct Attempt {
    login: Arc<dyn Login>,
    user: String,
    peer: SocketAddr,
    /// Where the proof can be bound to TLS.
    scram: Option<ScramServerAuth>,
    step: Step,
}

enum Step {
    Begin(Demand),
    ClientFirst(ScramVerifier),
    ClientFinal(Box<ScramServerAuthWaitingForClientFinal>),
    Over,
}

#[async_trait]
impl AuthMechanism for Attempt {
    async fn begin(&mut self, _: &(dyn ClientInfo + Send + Sync)) -> PgWireResult<AuthState> {
        let Step::Begin(demand) = std::mem::replace(&mut self.step, Step::Over) else {
            return Err(PgWireError::InvalidSASLState);
        };
        match demand {
            Demand::Trust => {
                count("trusted");
                Ok(AuthState::Ok { final_message: None, identity: None })
            }
            Demand::Scram(verifier) => {
                self.step = Step::ClientFirst(verifier);
                // The best one first, as PostgreSQL has it.
                let bound = self.scram.as_ref().map(|_| SCRAM_SHA_256_PLUS_METHOD.to_owned());
                let names = bound.into_iter().chain([SCRAM_SHA_256_METHOD.to_owned()]).collect();
                Ok(AuthState::InProgress(Authentication::SASL(names)))
            }
        }
    }

    async fn next(
        &mut self,
        _: &(dyn ClientInfo + Send + Sync),
        message: PasswordMessageFamily,
    ) -> PgWireResult<AuthState> {
        match std::mem::replace(&mut self.step, Step::Over) {
            Step::ClientFirst(verifier) => {
                if let PasswordMessageFamily::Raw(body) = &message
                    && !frame::fits_sasl_initial(body)
                {
                    return Err(fatal("08P01", "invalid message format".to_owned()));
                }
                let first = message.into_sasl_initial_response()?;
                let is_bound = first.auth_method == SCRAM_SHA_256_PLUS_METHOD && self.scram.is_some();
                let data = first.data.unwrap_or_default();
                // RFC 5802 §6: the name of the mechanism and the binding flag "p" go together.
                if !(is_bound || first.auth_method == SCRAM_SHA_256_METHOD) || is_bound != data.starts_with(b"p=") {
                    return Err(PgWireError::UnsupportedSASLAuthMethod(first.auth_method));
                }
                let ScramVerifier { salt, iterations, stored_key, server_key } = verifier;
                let secret = ScramSecret::Verifier {
                    salt,
                    iterations: iterations as usize,
                    stored_key: stored_key.to_vec(),
                    server_key: server_key.to_vec(),
                };
                let scram = self.scram.take().unwrap_or_default();
                let (server_first, waiting) = scram.on_client_first_message_with_secret(&data, secret)?;
                self.step = Step::ClientFinal(Box::new(waiting));
                Ok(AuthState::InProgress(Authentication::SASLContinue(server_first.into())))
            }
            Step::ClientFinal(waiting) => {
                let proof = message.into_sasl_response()?;
                self.login.allowed(&self.user, self.peer).map_err(refuse)?;
                let checked = waiting.on_client_final_message(&proof.data);
                self.login.ended(&self.user, self.peer, checked.is_ok()).await;
                count(if checked.is_ok() { "proven" } else { "failed" });
                let server_final = checked.map_err(|error| match error {
                    // The name in the proof is not used (PostgreSQL, "SCRAM-SHA-256 Authentication").
                    PgWireError::InvalidPassword(_) => {
                        fatal("28P01", format!("password authentication failed for user \"{}\"", self.user))
                    }
                    other => other,
                })?;
                let final_message = Some(Authentication::SASLFinal(server_final.into()));
                Ok(AuthState::Ok { final_message, identity: None })
            }
            Step::Begin(_) | Step::Over => Err(PgWireError::InvalidSASLState),
        }
    }
}

fn count(outcome: &'static str) {
    metrics::counter!("floodplain_postgres_logins_total", "outcome" => outcome).increment(1);
}

/// An error that ends the connection.
pub(crate) fn fatal(sqlstate: &'static str, message: String) -> PgWireError {
    count_error(sqlstate);
    PgWireError::UserError(Box::new(ErrorInfo::new("FATAL".to_owned(), sqlstate.to_owned(), message)))
}

pub(crate) fn count_error(sqlstate: &'static str) {
    metrics::counter!("floodplain_postgres_errors_total", "sqlstate" => sqlstate).increment(1);
}
