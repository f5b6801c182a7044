//! One connection: what `pgwire` asks, answered by a [`Database`].

use crate::{
    Database, Described, QueryError, Rows, Value,
    encode::{self, fields, pg_type},
    login::Startup,
    parameter,
    session::{self, Session},
};
use arrow::datatypes::{DataType, Schema, SchemaRef};
use async_trait::async_trait;
use futures::{Sink, StreamExt as _, stream};
use pgwire::{
    api::{
        ClientInfo, ClientPortalStore, ConnectionManager, ErrorHandler, METADATA_USER, NoopHandler,
        PgWireServerHandlers, Type,
        auth::{DefaultServerParameterProvider, StartupHandler},
        cancel::{CancelHandler, DefaultCancelHandler},
        copy::CopyHandler,
        portal::{Format, Portal},
        query::{ExtendedQueryHandler, SimpleQueryHandler},
        results::{FieldInfo, QueryResponse, Response, Tag},
        stmt::QueryParser,
        store::PortalStore,
    },
    error::{ErrorInfo, PgWireError, PgWireResult},
    messages::PgWireBackendMessage,
};
use std::{fmt::Debug, sync::Arc};

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
    parameters: Vec<Type>,
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

impl Handler {
    /// The first rows are waited for, so that a cancel request ends a query that has none yet.
    ///
    /// Columns have the types that were `described` to the client, if they were.
    async fn run(
        &self,
        user: &str,
        text: &str,
        parameters: Vec<Value>,
        format: &Format,
        described: Option<&SchemaRef>,
    ) -> PgWireResult<Response> {
        metrics::counter!("floodplain_postgres_queries_total").increment(1);
        let Rows { schema, batches } = self.0.database.query(user, text, parameters).await?;
        if !encode::has_formats(format, schema.fields().len()) {
            let message = "the number of result formats is not that of the columns".to_owned();
            return Err(QueryError { sqlstate: "08P01", message, position: None }.into());
        }
        let described = described.filter(|described| described.fields().len() == schema.fields().len());
        let fields = Arc::new(fields(described.unwrap_or(&schema), format));
        let mut batches = batches.peekable();
        if let Some(Err(error)) = std::pin::Pin::new(&mut batches).peek().await {
            return Err(error.clone().into());
        }
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
    async fn do_query<C>(&self, client: &mut C, query: &str) -> PgWireResult<Vec<Response>>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        match session::statement(query) {
            Some(session) => Ok(vec![answer(session)]),
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
        if let Some(session) = session::statement(sql) {
            return Ok(Some(Prepared {
                text,
                parameters: Vec::new(),
                schema: Arc::new(Schema::empty()),
                session: Some(session),
            }));
        }
        let known = |idx: usize| types.get(idx).cloned().flatten().filter(|given| *given != Type::UNKNOWN);
        let declared: Vec<_> = (0..types.len()).map(|idx| known(idx).as_ref().and_then(encode::arrow_type)).collect();
        let Described { parameters, schema } = self.0.database.describe(user(client), sql, &declared).await?;
        let inferred = |found: &Option<DataType>| found.as_ref().map_or(Type::TEXT, pg_type);
        let parameters = parameters.iter().enumerate();
        let parameters = parameters.map(|(idx, found)| known(idx).unwrap_or_else(|| inferred(found))).collect();
        Ok(Some(Prepared { text, parameters, schema, session: None }))
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
            return Ok(answer(session));
        }
        let (given, wanted) = (portal.parameters.len(), statement.parameters.len());
        let wrong = |message: String| QueryError { sqlstate: "08P01", message, position: None };
        if given != wanted || !encode::has_formats(&portal.parameter_format, given) {
            return Err(wrong(format!("{given} parameters came for a statement that has {wanted}")).into());
        }
        let mut parameters = Vec::with_capacity(given);
        for (idx, (bytes, pg)) in portal.parameters.iter().zip(&statement.parameters).enumerate() {
            let value = parameter::value(pg, portal.parameter_format.is_binary(idx), bytes.as_deref());
            let wrong = |message| QueryError {
                sqlstate: "22P02",
                message: format!("parameter ${} {message}", idx + 1),
                position: None,
            };
            parameters.push(value.map_err(wrong)?);
        }
        self.run(user(client), &statement.text, parameters, format, Some(&statement.schema)).await
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
