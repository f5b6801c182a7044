//! `pg_catalog` and `information_schema`, as far as clients of PostgreSQL ask them.
//!
//! Tables are made from what there is when a query asks. A statement is first [rewritten](rewrite) into what the planner
//! knows.

mod functions;
mod relations;
mod rewrite;
mod settings;
mod tables;
mod types;

use crate::tables::PublicSchema;
use datafusion::{
    catalog::{
        CatalogProvider, CatalogProviderList, MemoryCatalogProvider, MemoryCatalogProviderList, SchemaProvider,
        TableProvider, information_schema::InformationSchemaProvider,
    },
    common::Result,
    execution::{FunctionRegistry as _, SessionState},
    sql::sqlparser::ast::Statement,
};
use relations::Relations;
pub use settings::SERVER_VERSION;
use std::{fmt, sync::Arc};
use tokio::sync::OnceCell;

/// The database.
pub(crate) const DATABASE: &str = "floodplain";
/// The schema of the tables.
pub(crate) const PUBLIC: &str = "public";
const PG_CATALOG: &str = "pg_catalog";
const INFORMATION_SCHEMA: &str = "information_schema";

/// Functions that know nothing of the tables.
pub(crate) fn register_functions(state: &mut SessionState) -> Result<()> {
    for function in functions::constant() {
        state.register_udf(Arc::new(function))?;
    }
    Ok(())
}

/// The catalog of one query.
#[derive(Clone)]
pub(crate) struct Catalog {
    shared: Arc<Shared>,
}

struct Shared {
    public: Arc<PublicSchema>,
    user: Arc<str>,
    relations: OnceCell<Relations>,
}

impl fmt::Debug for Catalog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Catalog").field("user", &self.shared.user).finish_non_exhaustive()
    }
}

impl Catalog {
    /// As `user` sees it.
    pub(crate) fn new(public: Arc<PublicSchema>, user: Arc<str>) -> Self {
        Self { shared: Arc::new(Shared { public, user, relations: OnceCell::new() }) }
    }

    /// Adds schemas and functions to what a query knows.
    pub(crate) fn register(&self, state: &mut SessionState) {
        let catalog = |schemas: Vec<(&str, Arc<dyn SchemaProvider>)>| {
            let (catalogs, catalog) = (MemoryCatalogProviderList::new(), MemoryCatalogProvider::new());
            for (name, schema) in schemas {
                catalog.register_schema(name, schema).expect("a catalog in memory takes schemas");
            }
            catalogs.register_catalog(DATABASE.to_owned(), Arc::new(catalog));
            Arc::new(catalogs)
        };
        let public: Arc<dyn SchemaProvider> = Arc::clone(&self.shared.public) as _;
        // Its own list: one that had it, too, would keep itself alive.
        let rest = InformationSchemaProvider::new(catalog(vec![(PUBLIC, Arc::clone(&public))]));
        let schema = |name, rest| Arc::new(Schema { name, catalog: self.clone(), rest }) as Arc<dyn SchemaProvider>;
        state.register_catalog_list(catalog(vec![
            (PUBLIC, public),
            (PG_CATALOG, schema(PG_CATALOG, None)),
            (INFORMATION_SCHEMA, schema(INFORMATION_SCHEMA, Some(rest))),
        ]));
        for function in functions::of(self) {
            state.register_udf(Arc::new(function)).expect("a session takes functions");
        }
    }

    /// Makes a statement of a client of PostgreSQL one that the planner knows.
    ///
    /// # Errors
    /// If the tables cannot be looked at.
    pub(crate) async fn prepare(&self, statement: &mut Statement) -> Result<()> {
        if rewrite::rewrite(statement, &self.shared.user) {
            self.relations().await?;
        }
        Ok(())
    }

    async fn relations(&self) -> Result<&Relations> {
        self.shared.relations.get_or_try_init(|| Relations::load(&self.shared.public)).await
    }

    /// What [`Self::prepare`] has found, for functions.
    fn known(&self) -> Result<&Relations> {
        self.shared.relations.get().map_or_else(|| datafusion::common::exec_err!("the catalog was not asked for"), Ok)
    }
}

/// `pg_catalog` or `information_schema`.
#[derive(Debug)]
struct Schema {
    name: &'static str,
    catalog: Catalog,
    /// DataFusion's tables, for those that are not here.
    rest: Option<InformationSchemaProvider>,
}

#[async_trait::async_trait]
impl SchemaProvider for Schema {
    fn table_names(&self) -> Vec<String> {
        tables::of(self.name).map(|table| table.name.to_owned()).collect()
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        match tables::of(self.name).find(|table| table.name == name) {
            Some(table) => {
                let relations = self.catalog.relations().await?;
                table.provider(relations, &self.catalog.shared.user).map(Some)
            }
            None => match &self.rest {
                Some(rest) => rest.table(name).await,
                None => Ok(None),
            },
        }
    }

    fn table_exist(&self, name: &str) -> bool {
        let own = tables::of(self.name).any(|table| table.name == name);
        own || self.rest.as_ref().is_some_and(|rest| rest.table_exist(name))
    }
}
