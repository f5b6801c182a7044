//! One connection: what `pgwire` asks, answered by a [`Database`].

use crate::{
    Database, Described, QueryError, Rows,
    encode::{self, fields, pg_type},
    kept::{Kept, What},
    login::Startup,
    parameter,
    session::{self, Session},
    split,
};
use arrow::datatypes::{DataType, Schema, SchemaRef};
use async_trait::async_trait;
use floodplain_types::Parameter;
use futures::{
    Sink, SinkExt as _, StreamExt as _,
    future::{Either, select},
    stream,
};
use pgwire::{
    api::{
        ClientInfo, ClientPortalStore, ConnectionHandle, ConnectionManager, DEFAULT_NAME, ErrorHandler, METADATA_USER,
        NoopHandler, PgWireConnectionState, PgWireServerHandlers, Type,
        auth::{DefaultServerParameterProvider, StartupHandler},
        cancel::{CancelHandler, DefaultCancelHandler},
        copy::CopyHandler,
        portal::{Format, Portal, PortalExecutionState},
        query::{
            ExtendedQueryHandler, SimpleQueryHandler, send_execution_response, send_partial_query_response,
            send_query_response, send_ready_for_query,
        },
        results::{FieldInfo, QueryResponse, Response, Tag},
        stmt::{QueryParser, StoredStatement},
        store::{Entry, PortalStore},
    },
    error::{ErrorInfo, PgWireError, PgWireResult},
    messages::{
        PgWireBackendMessage,
        extendedquery::{
            Bind, BindComplete, Close, CloseComplete, Execute, Parse, ParseComplete, Sync as SyncMessage,
            TARGET_TYPE_BYTE_PORTAL, TARGET_TYPE_BYTE_STATEMENT,
        },
        response::{EmptyQueryResponse, TransactionStatus},
        simplequery::Query,
    },
};
use std::{fmt::Debug, pin::pin, sync::Arc};

/// Shared by all connections.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) database: Arc<dyn Database>,
    pub(crate) connections: Arc<ConnectionManager>,
    pub(crate) startup: Arc<Startup<DefaultServerParameterProvider>>,
}

#[derive(Debug, Clone)]
pub(crate) struct Handler(pub(crate) Arc<Shared>);

/// A prepared statement.
#[derive(Debug, Clone)]
pub(crate) struct Prepared {
    text: Arc<str>,
    /// Types that the client has given to parameters.
    declared: Arc<[Option<DataType>]>,
    parameters: Vec<Type>,
    /// As the client is told.
    schema: SchemaRef,
    session: Option<Session>,
}

impl From<QueryError> for PgWireError {
    fn from(error: QueryError) -> Self {
        metrics::counter!("floodplain_postgres_errors_total", "sqlstate" => error.sqlstate).increment(1);
        let mut info = ErrorInfo::new("ERROR".to_owned(), error.sqlstate.to_owned(), error.message);
        info.position = error.position.map(|position| position.to_string());
        Self::UserError(Box::new(info))
    }
}

fn answer(session: Session) -> Response {
    match session {
        Session::Empty => Response::EmptyQuery,
        Session::Begin => Response::TransactionStart(Tag::new("BEGIN")),
        Session::End(tag) => Response::TransactionEnd(Tag::new(tag)),
        Session::Done(tag) => Response::Execution(Tag::new(tag)),
    }
}

fn user(client: &impl ClientInfo) -> &str {
    client.metadata().get(METADATA_USER).map_or("", String::as_str)
}

/// By which a cancel request finds the connection of `client`.
fn connection(client: &impl ClientInfo) -> Option<Arc<ConnectionHandle>> {
    client.session_extensions().get::<Arc<ConnectionHandle>>().map(|handle| Arc::<ConnectionHandle>::clone(&handle))
}

/// Runs `work` until it ends or a cancel request for this connection comes.
async fn until_cancelled<T>(
    connection: Option<Arc<ConnectionHandle>>,
    work: impl Future<Output = PgWireResult<T>>,
) -> PgWireResult<T> {
    let Some(connection) = connection else { return work.await };
    let cancelled = connection.start_query().await;
    match select(pin!(work), cancelled).await {
        Either::Left((ended, _)) => ended,
        Either::Right(_) => Err(PgWireError::QueryCanceled),
    }
}

/// Whether the client could be told of `other` what it was told of `one`.
fn are_alike(one: &SchemaRef, other: &SchemaRef) -> bool {
    one.fields().len() == other.fields().len()
        && one
            .fields()
            .iter()
            .zip(other.fields())
            .all(|(one, other)| one.name() == other.name() && pg_type(one.data_type()) == pg_type(other.data_type()))
}

/// Feeds the answer to one statement; rows with their description.
async fn send<C>(client: &mut C, response: Response) -> PgWireResult<()>
where
    C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
    C::PortalStore: PortalStore,
    C::Error: Debug,
    PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
{
    let status = client.transaction_status();
    match response {
        Response::EmptyQuery => {
            client.feed(PgWireBackendMessage::EmptyQueryResponse(EmptyQueryResponse::new())).await?
        }
        Response::Query(rows) => send_query_response(client, rows, true).await?,
        Response::Execution(tag) => send_execution_response(client, tag).await?,
        Response::TransactionStart(tag) => {
            send_execution_response(client, tag).await?;
            client.set_transaction_status(status.to_in_transaction_state());
        }
        Response::TransactionEnd(tag) => {
            send_execution_response(client, tag).await?;
            Kept::of(client).clear_portals(client.portal_store());
            client.set_transaction_status(status.to_idle_state());
        }
        _ => return Err(failed("XX000", "this answer is never given".to_owned()).into()),
    }
    Ok(())
}

fn failed(sqlstate: &'static str, message: String) -> QueryError {
    QueryError { sqlstate, message, position: None }
}

/// Carries out `DEALLOCATE` and `DISCARD`: drivers keep the number of their statements down by it.
fn discard<C>(client: &C, session: Session, text: &str)
where
    C: ClientInfo + ClientPortalStore,
    C::PortalStore: PortalStore,
{
    let (kept, store) = (Kept::of(client), client.portal_store());
    let name = text.trim().rsplit(char::is_whitespace).next().unwrap_or_default();
    match session {
        Session::Done("DISCARD ALL") => {
            kept.clear_portals(store);
            kept.clear_statements(store);
        }
        Session::Done("DEALLOCATE") if name.eq_ignore_ascii_case("all") => kept.clear_statements(store),
        Session::Done("DEALLOCATE") => {
            let quoted = name.strip_prefix('"').and_then(|name| name.strip_suffix('"'));
            let name = quoted.map_or_else(|| name.to_ascii_lowercase(), |name| name.replace("\"\"", "\""));
            kept.forget(What::Statement, &name);
            store.rm_statement(&name);
        }
        _ => {}
    }
}

impl Handler {
    /// Columns have the types that the client was told of `statement`.
    async fn run(
        &self,
        user: &str,
        text: &str,
        parameters: Vec<Parameter>,
        format: &Format,
        statement: Option<&Prepared>,
    ) -> PgWireResult<Response> {
        metrics::counter!("floodplain_postgres_queries_total").increment(1);
        let Rows { mut schema, batches } = self.0.database.query(user, text, parameters).await?;
        if !encode::has_formats(format, schema.fields().len()) {
            let message = "the number of result formats is not that of the columns".to_owned();
            return Err(failed("08P01", message).into());
        }
        if let Some(statement) = statement.filter(|statement| !are_alike(&statement.schema, &schema)) {
            // A value may say more of its column than `$1` did, so this need not be another table.
            let Described { schema: now, .. } =
                self.0.database.describe(user, &statement.text, &statement.declared).await?;
            if !are_alike(&statement.schema, &now) || now.fields().len() != schema.fields().len() {
                return Err(failed("0A000", "cached plan must not change result type".to_owned()).into());
            }
            schema = Arc::clone(&statement.schema);
        }
        let fields = Arc::new(fields(&schema, format));
        let of = Arc::clone(&fields);
        let rows = batches.flat_map(move |batch| {
            let rows = batch.and_then(|batch| encode::rows(&batch, &of));
            stream::iter(match rows {
                Ok(rows) => rows.into_iter().map(Ok).collect::<Vec<_>>(),
                Err(error) => vec![Err(PgWireError::from(error))],
            })
        });
        Ok(Response::Query(QueryResponse::new(fields, rows)))
    }

    /// The statements of a Query message, one after the other; with the first that fails the rest is not run.
    async fn simple<C>(&self, client: &mut C, text: &str) -> PgWireResult<()>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let statements = split::statements(text);
        if statements.is_empty() {
            send(client, Response::EmptyQuery).await?;
        }
        for (start, statement) in statements {
            self.0.startup.still(client).await?;
            let responses = SimpleQueryHandler::do_query(self, client, statement).await;
            for response in responses.map_err(|error| moved(error, &text[..start]))? {
                send(client, response).await?;
            }
        }
        Ok(())
    }

    /// Sends rows of a portal as they come, `max_rows` of them if that is not 0.
    async fn execute<C>(&self, client: &mut C, portal: &Portal<Prepared>, max_rows: usize) -> PgWireResult<()>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore<Statement = Prepared>,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let state = portal.state();
        let mut state = state.lock().await;
        if matches!(*state, PortalExecutionState::Initial) {
            match ExtendedQueryHandler::do_query(self, client, portal, max_rows).await? {
                Response::Query(rows) => *state = PortalExecutionState::Suspended(rows),
                other => return send(client, other).await,
            }
        }
        let PortalExecutionState::Suspended(rows) = &mut *state else {
            return send_execution_response(client, Tag::new("SELECT").with_rows(0)).await;
        };
        if !send_partial_query_response(client, rows, max_rows).await? {
            *state = PortalExecutionState::Finished;
        }
        Ok(())
    }
}

/// An error of a statement that has `before` in front of it.
fn moved(mut error: PgWireError, before: &str) -> PgWireError {
    if let PgWireError::UserError(info) = &mut error
        && let Some(position) = info.position.as_ref().and_then(|position| position.parse::<usize>().ok())
    {
        info.position = Some((position + before.chars().count()).to_string());
    }
    error
}

/// What clients are told of the server as they come in.
pub(crate) fn server_parameters(version: String) -> DefaultServerParameterProvider {
    let mut parameters = DefaultServerParameterProvider::default();
    parameters.server_version = version;
    parameters.default_transaction_read_only = true;
    parameters.is_superuser = false;
    parameters
}

#[async_trait]
impl SimpleQueryHandler for Handler {
    async fn on_query<C>(&self, client: &mut C, query: Query) -> PgWireResult<()>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        if !matches!(client.state(), PgWireConnectionState::ReadyForQuery) {
            return Err(PgWireError::NotReadyForQuery);
        }
        client.set_state(PgWireConnectionState::QueryInProgress);
        let connection = connection(client);
        until_cancelled(connection, self.simple(client, &query.query)).await?;
        client.set_state(PgWireConnectionState::ReadyForQuery);
        let status = client.transaction_status();
        send_ready_for_query(client, status).await
    }

    async fn do_query<C>(&self, client: &mut C, query: &str) -> PgWireResult<Vec<Response>>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        match session::statement(query) {
            Some(session) => {
                discard(client, session, query);
                Ok(vec![answer(session)])
            }
            None => Ok(vec![self.run(user(client), query, Vec::new(), &Format::UnifiedText, None).await?]),
        }
    }
}

#[async_trait]
impl QueryParser for Handler {
    type Statement = Prepared;

    async fn parse_sql<C>(&self, client: &C, sql: &str, types: &[Option<Type>]) -> PgWireResult<Option<Prepared>>
    where
        C: ClientInfo + Unpin + Send + Sync,
    {
        let text: Arc<str> = sql.into();
        if split::statements(sql).len() > 1 {
            let message = "cannot insert multiple commands into a prepared statement".to_owned();
            return Err(failed("42601", message).into());
        }
        if let Some(session) = session::statement(sql) {
            return Ok(Some(Prepared {
                text,
                declared: Arc::default(),
                parameters: Vec::new(),
                schema: Arc::new(Schema::empty()),
                session: Some(session),
            }));
        }
        let known = |idx: usize| types.get(idx).cloned().flatten().filter(|given| *given != Type::UNKNOWN);
        let declared: Arc<[_]> = (0..types.len()).map(|idx| known(idx).as_ref().and_then(encode::arrow_type)).collect();
        let Described { parameters, schema } = self.0.database.describe(user(client), sql, &declared).await?;
        let inferred = |found: &Option<DataType>| found.as_ref().map_or(Type::TEXT, pg_type);
        let parameters = parameters.iter().enumerate();
        let parameters = parameters.map(|(idx, found)| known(idx).unwrap_or_else(|| inferred(found))).collect();
        Ok(Some(Prepared { text, declared, parameters, schema, session: None }))
    }

    fn get_parameter_types(&self, statement: &Prepared) -> PgWireResult<Vec<Type>> {
        Ok(statement.parameters.clone())
    }

    fn get_result_schema(&self, statement: &Prepared, format: Option<&Format>) -> PgWireResult<Vec<FieldInfo>> {
        let text = Format::UnifiedText;
        let format = format.filter(|format| encode::has_formats(format, statement.schema.fields().len()));
        Ok(fields(&statement.schema, format.unwrap_or(&text)))
    }
}

#[async_trait]
impl ExtendedQueryHandler for Handler {
    type Statement = Prepared;
    type QueryParser = Self;

    fn query_parser(&self) -> Arc<Self> {
        Arc::new(self.clone())
    }

    async fn on_parse<C>(&self, client: &mut C, message: Parse) -> PgWireResult<()>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore<Statement = Prepared>,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        self.0.startup.still(client).await?;
        let (kept, name) = (Kept::of(client), message.name.as_deref().unwrap_or(DEFAULT_NAME));
        match StoredStatement::parse(client, &message, self.query_parser()).await? {
            Some(stored) => {
                let columns = stored.statement.schema.fields().len();
                let bytes = message.query.len() + 64 * message.type_oids.len() + 256 * columns;
                kept.keep(What::Statement, name, bytes)?;
                client.portal_store().put_statement(Arc::new(stored));
            }
            None => {
                kept.keep(What::Statement, name, 0)?;
                client.portal_store().put_empty_statement(name);
            }
        }
        Ok(client.feed(PgWireBackendMessage::ParseComplete(ParseComplete::new())).await?)
    }

    async fn on_bind<C>(&self, client: &mut C, message: Bind) -> PgWireResult<()>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore<Statement = Prepared>,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let statement = message.statement_name.as_deref().unwrap_or(DEFAULT_NAME);
        let portal = message.portal_name.as_deref().unwrap_or(DEFAULT_NAME);
        let values = message.parameters.iter().map(|value| 64 + value.as_ref().map_or(0, |value| value.len()));
        let formats = message.parameter_format_codes.len() + message.result_column_format_codes.len();
        let bytes = values.sum::<usize>() + 2 * formats;
        match client.portal_store().get_statement(statement) {
            Some(Entry::Value(stored)) => {
                Kept::of(client).keep(What::Portal, portal, bytes)?;
                client.portal_store().put_portal(Arc::new(Portal::try_new(&message, stored)?));
            }
            Some(Entry::Empty) if message.parameters.is_empty() => {
                Kept::of(client).keep(What::Portal, portal, bytes)?;
                client.portal_store().put_empty_portal(portal);
            }
            Some(Entry::Empty) => {
                let message = "parameters came for a statement that is empty".to_owned();
                return Err(failed("08P01", message).into());
            }
            None => return Err(PgWireError::StatementNotFound(statement.to_owned())),
        }
        Ok(client.feed(PgWireBackendMessage::BindComplete(BindComplete::new())).await?)
    }

    async fn on_execute<C>(&self, client: &mut C, message: Execute) -> PgWireResult<()>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore<Statement = Prepared>,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        if !matches!(client.state(), PgWireConnectionState::ReadyForQuery) {
            return Err(PgWireError::NotReadyForQuery);
        }
        self.0.startup.still(client).await?;
        let name = message.name.as_deref().unwrap_or(DEFAULT_NAME);
        let portal = match client.portal_store().get_portal(name) {
            Some(Entry::Value(portal)) => portal,
            Some(Entry::Empty) => return send(client, Response::EmptyQuery).await,
            None => return Err(PgWireError::PortalNotFound(name.to_owned())),
        };
        client.set_state(PgWireConnectionState::QueryInProgress);
        // "Zero denotes no limit" (message Execute); PostgreSQL takes negative ones so, too.
        let max_rows = usize::try_from(message.max_rows).unwrap_or(0);
        let connection = connection(client);
        let ended = until_cancelled(connection, self.execute(client, &portal, max_rows)).await;
        client.set_state(PgWireConnectionState::ReadyForQuery);
        if ended.is_err() {
            // It cannot go on; its query ends with it.
            Kept::of(client).forget(What::Portal, name);
            client.portal_store().rm_portal(name);
        }
        ended
    }

    async fn on_sync<C>(&self, client: &mut C, _: SyncMessage) -> PgWireResult<()>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore<Statement = Prepared>,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let status = client.transaction_status();
        // Portals live as long as their transaction, which ends here unless `BEGIN` began it ("Extended Query").
        if matches!(status, TransactionStatus::Idle) {
            Kept::of(client).clear_portals(client.portal_store());
        }
        send_ready_for_query(client, status).await
    }

    async fn on_close<C>(&self, client: &mut C, message: Close) -> PgWireResult<()>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore<Statement = Prepared>,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let (kept, name) = (Kept::of(client), message.name.as_deref().unwrap_or(DEFAULT_NAME));
        match message.target_type {
            TARGET_TYPE_BYTE_STATEMENT => {
                kept.forget(What::Statement, name);
                client.portal_store().rm_statement(name);
            }
            TARGET_TYPE_BYTE_PORTAL => {
                kept.forget(What::Portal, name);
                client.portal_store().rm_portal(name);
            }
            other => return Err(PgWireError::InvalidTargetType(other)),
        }
        Ok(client.feed(PgWireBackendMessage::CloseComplete(CloseComplete::new())).await?)
    }

    async fn do_query<C>(&self, client: &mut C, portal: &Portal<Prepared>, _max_rows: usize) -> PgWireResult<Response>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore<Statement = Prepared>,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let statement = &portal.statement.statement;
        let format = &portal.result_column_format;
        if let Some(session) = statement.session {
            discard(client, session, &statement.text);
            return Ok(answer(session));
        }
        let (given, wanted) = (portal.parameters.len(), statement.parameters.len());
        if given != wanted || !encode::has_formats(&portal.parameter_format, given) {
            let message = format!("{given} parameters came for a statement that has {wanted}");
            return Err(failed("08P01", message).into());
        }
        let mut parameters = Vec::with_capacity(given);
        for (idx, (bytes, pg)) in portal.parameters.iter().zip(&statement.parameters).enumerate() {
            let value = parameter::value(pg, portal.parameter_format.is_binary(idx), bytes.as_deref());
            let wrong = |message| failed("22P02", format!("parameter ${} {message}", idx + 1));
            parameters.push(value.map_err(wrong)?);
        }
        self.run(user(client), &statement.text, parameters, format, Some(statement)).await
    }
}

#[derive(Debug)]
struct Log;

impl ErrorHandler for Log {
    fn on_error<C>(&self, _: &C, error: &mut PgWireError)
    where
        C: ClientInfo,
    {
        tracing::debug!(%error, "postgres client is told of an error");
    }
}

impl PgWireServerHandlers for Handler {
    fn simple_query_handler(&self) -> Arc<impl SimpleQueryHandler> {
        Arc::new(self.clone())
    }

    fn extended_query_handler(&self) -> Arc<impl ExtendedQueryHandler> {
        Arc::new(self.clone())
    }

    fn startup_handler(&self) -> Arc<impl StartupHandler> {
        Arc::clone(&self.0.startup)
    }

    fn copy_handler(&self) -> Arc<impl CopyHandler> {
        Arc::new(NoopHandler)
    }

    fn error_handler(&self) -> Arc<impl ErrorHandler> {
        Arc::new(Log)
    }

    fn cancel_handler(&self) -> Arc<impl CancelHandler> {
        Arc::new(DefaultCancelHandler::new(Arc::clone(&self.0.connections)))
    }
}

#[cfg(test)]
mod tests;
