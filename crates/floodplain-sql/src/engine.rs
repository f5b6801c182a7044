//! How a text becomes a running query on threads of its own.

use crate::{
    Config, Error, Fleet, QueryResult,
    catalog::{self, Catalog},
    crew::Crews,
    functions,
    parameter::{self, Description},
    records::{RecordsTable, Snapshot},
    result::{self, AbortOnDrop},
    tables::{Latest, PublicSchema, Tables},
    turns::TakeTurns,
};
use datafusion::{
    arrow::{
        array::RecordBatch,
        datatypes::{DataType, SchemaRef},
    },
    catalog::TableProvider,
    common::{
        DataFusionError, Result as DataFusionResult, ScalarValue, TableReference, config::Dialect,
        tree_node::TreeNodeRecursion,
    },
    execution::{
        SessionState, SessionStateBuilder,
        disk_manager::{DiskManagerBuilder, DiskManagerMode},
        memory_pool::GreedyMemoryPool,
        runtime_env::RuntimeEnvBuilder,
    },
    logical_expr::LogicalPlan,
    physical_plan::execute_stream,
    prelude::SessionConfig,
    sql::{
        parser::{DFParserBuilder, Statement},
        sqlparser::{
            dialect::PostgreSqlDialect,
            tokenizer::{Token, Tokenizer},
        },
    },
};
use floodplain_log::Log;
use floodplain_types::Parameter;
use futures::StreamExt as _;
use metrics::{Counter, Gauge, Histogram};
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    time::Instant,
};

/// The one that people expect of a server; it also lets `offset` be a column wherever a column may be.
const DIALECT: PostgreSqlDialect = PostgreSqlDialect {};
/// How many words and signs a query may have, not counting constants and commas: a bound for the depth of its
/// expressions, which the planner walks by recursion. Long lists of constants do not count.
const WORDS_MAX: usize = 2_000;
/// Parameters of one statement: their number has 16 bits on the PostgreSQL wire.
const PARAMETERS_MAX: usize = 65_535;
/// Who asks, as far as a query can tell, if nobody says.
const USER: &str = "floodplain";

/// Runs queries. Cheap to clone; its threads end with the last clone and the last result.
#[derive(Debug, Clone)]
pub struct Sql {
    inner: Arc<Inner>,
    user: Arc<str>,
}

#[derive(Debug)]
struct Inner {
    config: Config,
    /// Cloned for each query: it knows the functions and the memory pool.
    base: SessionState,
    log: Arc<dyn Log>,
    records: Arc<dyn TableProvider>,
    tables: Option<Tables>,
    fleet: Option<Arc<dyn Fleet>>,
    running: Arc<Semaphore>,
    waiting: AtomicUsize,
    metrics: Arc<Metrics>,
    crews: Arc<Crews>,
}

struct Metrics {
    completed: Counter,
    failed: Counter,
    cancelled: Counter,
    refused: Counter,
    duration: Histogram,
    read_bytes: Counter,
    rows: Counter,
    damaged: Counter,
    running: Gauge,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Metrics {
    fn new() -> Self {
        let outcome = |outcome| metrics::counter!("floodplain_sql_queries_total", "outcome" => outcome);
        Self {
            completed: outcome("completed"),
            failed: outcome("failed"),
            cancelled: outcome("cancelled"),
            refused: outcome("refused"),
            duration: metrics::histogram!("floodplain_sql_query_duration_seconds"),
            read_bytes: metrics::counter!("floodplain_sql_read_bytes_total"),
            rows: metrics::counter!("floodplain_sql_result_rows_total"),
            damaged: metrics::counter!("floodplain_sql_damaged_ranges_total"),
            running: metrics::gauge!("floodplain_sql_running_queries"),
        }
    }
}

/// Counts a query once, however it ends.
struct Account {
    metrics: Arc<Metrics>,
    snapshot: Arc<Snapshot>,
    started: Instant,
    rows: u64,
    outcome: Option<bool>,
}

impl Account {
    fn end(mut self, completed: bool) {
        self.outcome = Some(completed);
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        let metrics = &self.metrics;
        match self.outcome {
            Some(true) => metrics.completed.increment(1),
            Some(false) => metrics.failed.increment(1),
            None => metrics.cancelled.increment(1),
        }
        metrics.duration.record(self.started.elapsed());
        metrics.rows.increment(self.rows);
        metrics.read_bytes.increment(self.snapshot.bytes_read.load(Ordering::Relaxed));
        metrics.damaged.increment(self.snapshot.damaged.load(Ordering::Relaxed));
        metrics.running.decrement(1);
    }
}

/// A place among those who wait.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Sql {
    /// SQL over `log`.
    ///
    /// # Errors
    /// [`Error::Internal`] if functions or tables cannot be set up.
    pub fn new(log: Arc<dyn Log>, config: Config) -> Result<Self, Error> {
        Self::with_tables(log, None, config)
    }

    /// The same, with tables beside the log.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn with_tables(log: Arc<dyn Log>, tables: Option<Tables>, config: Config) -> Result<Self, Error> {
        Self::with_fleet(log, tables, None, config)
    }

    /// The same, with tables of clients and devices, which `fleet` knows.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn with_fleet(
        log: Arc<dyn Log>,
        tables: Option<Tables>,
        fleet: Option<Arc<dyn Fleet>>,
        config: Config,
    ) -> Result<Self, Error> {
        let base = base(&config).map_err(|error| Error::from_datafusion(&error, config.memory_max_bytes))?;
        Ok(Self {
            user: USER.into(),
            inner: Arc::new(Inner {
                running: Arc::new(Semaphore::new(config.running_max.max(1))),
                waiting: AtomicUsize::new(0),
                metrics: Arc::new(Metrics::new()),
                crews: Arc::new(Crews::new(&config)),
                base,
                records: Arc::new(RecordsTable::new(Arc::clone(&log), config.tenant.clone())),
                log,
                tables,
                fleet,
                config,
            }),
        })
    }

    /// The same, for a user: what `current_user` gives.
    #[must_use]
    pub fn for_user(&self, user: &str) -> Self {
        Self { inner: Arc::clone(&self.inner), user: user.into() }
    }

    /// Plans one read-only statement and starts it. Its rows come with [`QueryResult::next`].
    ///
    /// The query sees everything that was committed before this call.
    ///
    /// # Errors
    /// [`Error`], before any row.
    ///
    /// # Cancel safety
    /// A dropped call cancels the query.
    pub async fn query(&self, text: &str) -> Result<QueryResult, Error> {
        self.query_with(text, Vec::new()).await
    }

    /// As [`Self::query`], with values for `$1`, `$2` and so on.
    ///
    /// # Errors
    /// As [`Self::query`]; [`Error::Invalid`] if a parameter has no value.
    ///
    /// # Cancel safety
    /// A dropped call cancels the query.
    pub async fn query_with(&self, text: &str, parameters: Vec<Parameter>) -> Result<QueryResult, Error> {
        let inner = &self.inner;
        let config = &inner.config;
        let started = Instant::now();
        let deadline = started + config.time_max;
        let time = Error::Time { limit: config.time_max };
        let permit = inner.admit(text, deadline).await?;
        let snapshot = Arc::new(Snapshot::default());
        inner.metrics.running.increment(1);
        let mut account = Account {
            metrics: Arc::clone(&inner.metrics),
            snapshot: Arc::clone(&snapshot),
            started,
            rows: 0,
            outcome: None,
        };
        let (state, catalog) = inner.session(&snapshot, &self.user);
        let query = Query {
            state,
            catalog,
            text: text.to_owned(),
            parameters,
            memory_max_bytes: config.memory_max_bytes,
            rows_max: config.rows_max,
            keeps_tables: inner.tables.is_some(),
        };
        let (schema_out, schema_in) = oneshot::channel();
        // One batch waits while the next is made; the query stands still while nobody takes it.
        let (out, batches) = mpsc::channel(1);
        let told = Arc::clone(&snapshot);
        let crew = inner.crews.take()?;
        let work = crew.handle().ok_or(Error::Stopping)?.spawn(async move {
            let run = query.run(schema_out, &out, &mut account.rows);
            let ended = tokio::time::timeout_at(deadline, run).await.unwrap_or(Err(Failed::Rows(time)));
            match ended {
                Ok(()) => {
                    told.completed.store(true, Ordering::Release);
                    account.end(true);
                    // Whose turn is next finds them.
                    crew.ended();
                    drop(permit);
                }
                Err(Failed::Gone) => {}
                Err(Failed::Planning(error, schema_out)) => {
                    account.end(false);
                    // Whoever asked may have gone away.
                    drop(schema_out.send(Err(error)));
                }
                Err(Failed::Rows(error)) => {
                    account.end(false);
                    // A reader that is slow to take the error keeps nobody else waiting. Nobody may read any more.
                    drop(permit);
                    drop(out.send(Err(error)).await);
                }
            }
        });
        let work = AbortOnDrop(work.abort_handle());
        // The planner does not await: the task cannot be late by itself while it plans, so this side watches the time.
        let planned = tokio::time::timeout_at(deadline, schema_in).await;
        let schema = match planned.map_err(|_| Error::Time { limit: config.time_max })? {
            Ok(planned) => planned?,
            // The time ran out while it was planned, or the planner panicked: the cause is in the other channel.
            Err(_) => return Err(self.lost(batches).await),
        };
        let columns = result::columns(&schema);
        Ok(QueryResult {
            schema,
            columns,
            batches,
            snapshot,
            rows: 0,
            started,
            ended: None,
            has_failed: false,
            _work: work,
        })
    }

    /// Plans a statement without running it: types of its parameters and its columns. What the statement does not tell
    /// of a parameter, `declared` does, in order.
    ///
    /// # Errors
    /// As [`Self::query`].
    ///
    /// # Cancel safety
    /// A dropped call plans on to the end, and nothing comes of it.
    pub async fn describe(&self, text: &str, declared: &[Option<DataType>]) -> Result<Description, Error> {
        let inner = &self.inner;
        let config = &inner.config;
        let deadline = Instant::now() + config.time_max;
        let permit = inner.admit(text, deadline).await?;
        let (state, catalog) = inner.session(&Arc::default(), &self.user);
        let query = Query {
            state,
            catalog,
            text: text.to_owned(),
            parameters: Vec::new(),
            memory_max_bytes: config.memory_max_bytes,
            rows_max: config.rows_max,
            keeps_tables: inner.tables.is_some(),
        };
        let declared = declared.to_vec();
        let crew = inner.crews.take()?;
        let planned = crew.handle().ok_or(Error::Stopping)?.spawn(async move {
            let plan = query.plan().await?;
            let plan = parameter::declare(plan, &declared).map_err(|error| query.error(&error))?;
            let types = plan.get_parameter_types().map_err(|error| query.error(&error))?;
            let parameter = |idx: usize| types.get(&format!("${idx}")).cloned().flatten();
            let parameters = (1..=last_parameter(&query.text)).map(parameter).collect();
            let schema = Arc::clone(plan.schema().inner());
            crew.ended();
            drop(permit);
            Ok(Description { parameters, schema })
        });
        let planned = tokio::time::timeout_at(deadline, planned).await;
        let planned = planned.map_err(|_| Error::Time { limit: config.time_max })?;
        planned.unwrap_or_else(|_| Err(Error::Internal { message: "the planner gave no answer".to_owned() }))
    }

    async fn lost(&self, mut batches: mpsc::Receiver<Result<RecordBatch, Error>>) -> Error {
        match batches.recv().await {
            Some(Err(error)) => error,
            _ => Error::Internal { message: "the query ended without an answer".to_owned() },
        }
    }

    /// How many queries run now.
    #[must_use]
    pub fn running(&self) -> usize {
        self.inner.config.running_max.max(1) - self.inner.running.available_permits()
    }

    /// The limits that queries run under.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.inner.config
    }
}

fn base(config: &Config) -> DataFusionResult<SessionState> {
    let runtime = RuntimeEnvBuilder::new()
        .with_memory_pool(Arc::new(GreedyMemoryPool::new(config.memory_max_bytes)))
        // Nothing of a query goes to disk: what does not fit into memory is refused.
        .with_disk_manager_builder(DiskManagerBuilder::default().with_mode(DiskManagerMode::Disabled))
        .build_arc()?;
    let mut session = SessionConfig::new()
        .with_target_partitions(config.threads.max(1))
        .with_default_catalog_and_schema(catalog::DATABASE, catalog::PUBLIC);
    let options = session.options_mut();
    options.sql_parser.dialect = Dialect::PostgreSQL;
    options.sql_parser.collect_spans = true;
    options.execution.time_zone = Some("UTC".to_owned());
    let mut state = SessionStateBuilder::new()
        .with_config(session)
        .with_runtime_env(runtime)
        .with_default_features()
        .with_physical_optimizer_rule(Arc::new(TakeTurns))
        .build();
    functions::register(&mut state, config.memory_max_bytes)?;
    catalog::register_functions(&mut state)?;
    Ok(state)
}

impl Inner {
    /// Waits for a place among the queries that run, in which `text` may be planned.
    async fn admit(&self, text: &str, deadline: Instant) -> Result<OwnedSemaphorePermit, Error> {
        let config = &self.config;
        if text.len() > config.text_max_bytes {
            self.metrics.refused.increment(1);
            return Err(Error::TooLong { bytes: text.len(), max_bytes: config.text_max_bytes });
        }
        let _waiting = Waiting(&self.waiting);
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= config.waiting_max {
            self.metrics.refused.increment(1);
            return Err(Error::Busy { running: config.running_max, waiting: config.waiting_max });
        }
        let turn = tokio::time::timeout_at(deadline, Arc::clone(&self.running).acquire_owned());
        turn.await.map_err(|_| Error::Time { limit: config.time_max })?.map_err(|_| Error::Stopping)
    }

    /// What `base` knows, with the tables as this query sees them, and the present time for `now()`.
    fn session(&self, snapshot: &Arc<Snapshot>, user: &Arc<str>) -> (SessionState, Catalog) {
        let mut state = self.base.clone();
        let schema = PublicSchema::new(
            Arc::clone(&self.records),
            Arc::clone(&self.log),
            self.tables.clone(),
            self.fleet.clone(),
            tokio::runtime::Handle::current(),
        );
        let schema = Arc::new(schema);
        state.register_udtf("latest", Arc::new(Latest::new(Arc::clone(&schema))));
        let catalog = Catalog::new(schema, Arc::clone(user));
        catalog.register(&mut state);
        state.config_mut().set_extension(Arc::clone(snapshot));
        state.mark_start_execution();
        (state, catalog)
    }
}

type Planned = oneshot::Sender<Result<SchemaRef, Error>>;

enum Failed {
    /// Before the schema was sent.
    Planning(Error, Planned),
    /// After it.
    Rows(Error),
    /// Nobody takes the rows any more.
    Gone,
}

struct Query {
    state: SessionState,
    catalog: Catalog,
    text: String,
    parameters: Vec<Parameter>,
    memory_max_bytes: usize,
    rows_max: u64,
    /// Of payloads.
    keeps_tables: bool,
}

impl Query {
    async fn run(
        self,
        planned: Planned,
        out: &mpsc::Sender<Result<RecordBatch, Error>>,
        rows: &mut u64,
    ) -> Result<(), Failed> {
        let stream = match self.start().await {
            Ok(stream) => stream,
            Err(error) => return Err(Failed::Planning(error, planned)),
        };
        planned.send(Ok(stream.schema())).map_err(|_| Failed::Gone)?;
        let mut stream = stream;
        while let Some(batch) = stream.next().await {
            let batch = batch.map_err(|error| Failed::Rows(self.error(&error)))?;
            let room = self.rows_max - *rows;
            let fits = batch.num_rows() as u64 <= room;
            let batch = if fits { batch } else { batch.slice(0, room as usize) };
            *rows += batch.num_rows() as u64;
            if batch.num_rows() > 0 {
                out.send(Ok(batch)).await.map_err(|_| Failed::Gone)?;
            }
            if !fits {
                return Err(Failed::Rows(Error::Rows { limit: self.rows_max }));
            }
        }
        Ok(())
    }

    async fn start(&self) -> Result<datafusion::execution::SendableRecordBatchStream, Error> {
        let plan = self.plan().await?;
        let started = async {
            let plan = self.state.create_physical_plan(&plan).await?;
            execute_stream(plan, self.state.task_ctx())
        };
        started.await.map_err(|error| self.error(&error))
    }

    async fn plan(&self) -> Result<LogicalPlan, Error> {
        let mut statement = self.statement()?;
        let prepared = match &mut statement {
            Statement::Statement(statement) => self.catalog.prepare(statement).await,
            _ => Ok(()),
        };
        prepared.map_err(|error| self.error(&error))?;
        // The planner only says that something is wrong; which tables are missing is known here.
        let is_missing = |table: &TableReference| {
            let schema = self.state.schema_for_ref(table.clone());
            !schema.is_ok_and(|schema| schema.table_exist(table.table()))
        };
        let tables = self.state.resolve_table_references(&statement).unwrap_or_default();
        let lacks_table = tables.iter().any(is_missing);
        let plan = self.state.statement_to_plan(statement).await.map_err(|error| match self.error(&error) {
            Error::Invalid { message, at } if lacks_table && !self.keeps_tables => {
                let message =
                    format!("{message}; this server keeps no tables of payloads, another one of its log may do so");
                Error::UnknownTable { message, at }
            }
            Error::Invalid { message, at } if lacks_table => Error::UnknownTable { message, at },
            error => error,
        })?;
        only_reads(&plan)?;
        if self.parameters.is_empty() {
            return Ok(plan);
        }
        let values: Vec<ScalarValue> = self.parameters.iter().map(parameter::scalar).collect();
        plan.with_param_values(values).map_err(|error| self.error(&error))
    }

    fn statement(&self) -> Result<Statement, Error> {
        let limit = self.state.config_options().sql_parser.recursion_limit.get();
        let words = words(&self.text);
        if words > WORDS_MAX {
            return Err(Error::TooComplex { words, words_max: WORDS_MAX });
        }
        let parser =
            DFParserBuilder::new(self.text.as_str()).with_dialect(&DIALECT).with_recursion_limit(limit).build();
        let statements = parser.and_then(|mut parser| parser.parse_statements());
        let mut statements = statements.map_err(|error| self.error(&error))?;
        match (statements.pop_front(), statements.len()) {
            (Some(statement), 0) => Ok(statement),
            (None, _) => Err(Error::Syntax { message: "the query is empty".to_owned(), at: None }),
            (_, more) => {
                let message = format!("a query is one statement, this one has {}", more + 1);
                Err(Error::Invalid { message, at: None })
            }
        }
    }

    fn error(&self, error: &DataFusionError) -> Error {
        Error::from_datafusion(error, self.memory_max_bytes)
    }
}

/// Words and signs of `text`. What the tokenizer does not understand the parser will refuse.
fn words(text: &str) -> usize {
    let tokens = Tokenizer::new(&DIALECT, text).tokenize().unwrap_or_default();
    let flat = |token: &&Token| {
        matches!(token, Token::Whitespace(_) | Token::Comma | Token::Number(..) | Token::SingleQuotedString(_))
    };
    tokens.iter().filter(|token| !flat(token)).count()
}

/// The greatest `n` of `$n`, also where the plan needs no value for it.
fn last_parameter(text: &str) -> usize {
    let tokens = Tokenizer::new(&DIALECT, text).tokenize().unwrap_or_default();
    let numbers = tokens.iter().filter_map(|token| match token {
        Token::Placeholder(name) => name.strip_prefix('$')?.parse::<usize>().ok(),
        _ => None,
    });
    numbers.max().unwrap_or(0).min(PARAMETERS_MAX)
}

/// Refuses everything that would change something, also inside EXPLAIN.
fn only_reads(plan: &LogicalPlan) -> Result<(), Error> {
    let mut refused = None;
    let visited = plan.apply_with_subqueries(|node| {
        refused = match node {
            LogicalPlan::Ddl(ddl) => Some(ddl.name().to_owned()),
            LogicalPlan::Dml(dml) => Some(dml.op.name().to_owned()),
            LogicalPlan::Copy(_) => Some("COPY".to_owned()),
            LogicalPlan::Statement(statement) => Some(statement.name().to_owned()),
            _ => None,
        };
        Ok(if refused.is_some() { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    });
    visited.map_err(|error| Error::from_datafusion(&error, 0))?;
    refused.map_or(Ok(()), |statement| Err(Error::ReadOnly { statement }))
}
