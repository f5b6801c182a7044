//! From PostgreSQL's SQL to the planner's: what clients write when they look around.
//!
//! Tables of `pg_catalog` are found without its name, and its functions, types and operators with it. Casts to `regclass` and its
//! kind become functions. A `SELECT` from a table that never has rows gives none, whatever else it says: so queries about
//! indexes, triggers or policies need nothing that DataFusion does not know.

use super::{
    INFORMATION_SCHEMA, PG_CATALOG, PUBLIC,
    settings::setting,
    tables::{self, is_always_empty},
};
use datafusion::sql::sqlparser::{
    ast::{
        Array, BinaryOperator, DataType, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArgumentList,
        FunctionArguments, GroupByExpr, Ident, JoinOperator, ObjectName, ObjectNamePart, Query, Select, SelectItem,
        SetExpr, Statement, TableFactor, TableFunctionArgs, TableWithJoins, Value, ValueWithSpan, Visit as _,
        VisitMut as _, Visitor, VisitorMut,
    },
    dialect::PostgreSqlDialect,
    parser::Parser,
};
use std::{collections::BTreeSet, ops::ControlFlow};

/// Rewrites `statement`; whether it asks the catalog.
pub(super) fn rewrite(statement: &mut Statement, user: &str) -> bool {
    if let Statement::ShowVariable { variable } = statement {
        let name: Vec<&str> = variable.iter().map(|part| part.value.as_str()).collect();
        if let Some(value) = setting(&name.join(" ")) {
            let column = Ident::with_quote('"', name.join("_").to_ascii_lowercase());
            *statement = parsed(&format!("SELECT {} AS {column}", quoted(value)));
        }
        return false;
    }
    let mut rewriter = Rewriter { user, asks: false };
    // It never breaks off.
    statement.visit(&mut rewriter).is_continue() && rewriter.asks
}

/// Of SQL that is written here.
fn parsed(sql: &str) -> Statement {
    let mut statements = Parser::parse_sql(&PostgreSqlDialect {}, sql).expect("it is SQL");
    statements.pop().expect("it is a statement")
}

fn quoted(text: &str) -> Expr {
    Expr::Value(Value::SingleQuotedString(text.to_owned()).with_empty_span())
}

fn null() -> Expr {
    Expr::Value(Value::Null.with_empty_span())
}

fn is_backslash(escape: &ValueWithSpan) -> bool {
    matches!(&escape.value, Value::SingleQuotedString(escape) if escape == "\\")
}

fn call(name: &str, argument: Option<Expr>) -> Expr {
    calls(name, argument.into_iter().collect())
}

fn calls(name: &str, arguments: Vec<Expr>) -> Expr {
    let args = arguments.into_iter().map(|argument| FunctionArg::Unnamed(FunctionArgExpr::Expr(argument))).collect();
    Expr::Function(Function {
        name: ObjectName::from(vec![Ident::new(name)]),
        uses_odbc_syntax: false,
        parameters: FunctionArguments::None,
        args: FunctionArguments::List(FunctionArgumentList { duplicate_treatment: None, args, clauses: Vec::new() }),
        filter: None,
        null_treatment: None,
        over: None,
        within_group: Vec::new(),
    })
}

/// Lower case, unless it is quoted.
fn folded(ident: &Ident) -> String {
    if ident.quote_style.is_some() { ident.value.clone() } else { ident.value.to_ascii_lowercase() }
}

fn names(name: &ObjectName) -> Vec<String> {
    name.0.iter().filter_map(ObjectNamePart::as_ident).map(folded).collect()
}

struct Rewriter<'a> {
    user: &'a str,
    asks: bool,
}

impl VisitorMut for Rewriter<'_> {
    type Break = ();

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
        if empty_selects(&mut query.body) {
            // It may name columns that are gone; there is nothing to sort.
            query.order_by = None;
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<()> {
        let mut taken: BTreeSet<String> = BTreeSet::new();
        for item in &mut select.projection {
            let SelectItem::UnnamedExpr(expr) = item else { continue };
            if let Some(name) = name_of(expr)
                && taken.insert(name.clone())
            {
                *item = SelectItem::ExprWithAlias { expr: expr.clone(), alias: Ident::with_quote('"', name) };
            }
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_relation(&mut self, relation: &mut ObjectName) -> ControlFlow<()> {
        match names(relation).as_slice() {
            [name] if name.starts_with("pg_") && tables::of(PG_CATALOG).any(|table| table.name == name) => {
                relation.0.insert(0, ObjectNamePart::Identifier(Ident::new(PG_CATALOG)));
                self.asks = true;
            }
            [.., schema, _] if schema == PG_CATALOG || schema == INFORMATION_SCHEMA => self.asks = true,
            _ => {}
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        match expr {
            Expr::Subquery(query) if is_empty(&query.body) => *expr = null(),
            Expr::Subquery(query) => at_most_one(query),
            Expr::Exists { subquery, negated } if is_empty(&subquery.body) => {
                *expr = Expr::Value(Value::Boolean(*negated).with_empty_span());
            }
            // ARRAY(SELECT …)
            Expr::Function(Function { name, args: FunctionArguments::Subquery(query), .. })
                if names(name) == ["array"] && is_empty(&query.body) =>
            {
                *expr = Expr::Array(Array { elem: Vec::new(), named: true });
            }
            Expr::InSubquery { expr: value, subquery, negated } if is_search_path(subquery) => {
                *expr = Expr::InList { expr: value.clone(), list: vec![quoted(PUBLIC)], negated: *negated };
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        let replaced = match expr {
            Expr::Function(function) => self.function(function),
            Expr::Identifier(ident) if ident.quote_style.is_none() => match folded(ident).as_str() {
                name @ ("current_schema" | "current_catalog") => Some(call(name, None)),
                "current_role" => Some(quoted(self.user)),
                _ => None,
            },
            Expr::Like { pattern, escape_char, .. } | Expr::ILike { pattern, escape_char, .. } => {
                // DataFusion knows the backslash alone.
                if let Some(escape) = escape_char.take_if(|escape| !is_backslash(escape)) {
                    let escape = Expr::Value(escape);
                    **pattern = calls("like_escape", vec![(**pattern).clone(), escape]);
                }
                None
            }
            Expr::Collate { expr, .. } => Some((**expr).clone()),
            Expr::BinaryOp { op, .. } => {
                if let BinaryOperator::PGCustomBinaryOperator(parts) = op
                    && let Some(known) = parts.last().and_then(|sign| operator(sign))
                {
                    *op = known;
                }
                None
            }
            Expr::Cast { expr, data_type, .. } => self.cast(expr, data_type),
            _ => None,
        };
        if let Some(replaced) = replaced {
            *expr = replaced;
        }
        ControlFlow::Continue(())
    }
}

impl Rewriter<'_> {
    fn function(&mut self, function: &mut Function) -> Option<Expr> {
        let parts = names(&function.name);
        if let [schema, _] = parts.as_slice()
            && (schema == PG_CATALOG || schema == INFORMATION_SCHEMA)
        {
            function.name.0.remove(0);
        }
        let name = parts.last().map(String::as_str);
        if matches!(name, Some("pg_table_is_visible" | "to_regclass" | "regclass" | "regclass_name")) {
            self.asks = true;
        }
        match (name, &function.args) {
            (Some("current_user" | "session_user" | "user"), FunctionArguments::None) => Some(quoted(self.user)),
            (Some("current_catalog"), FunctionArguments::None) => Some(call("current_catalog", None)),
            _ => None,
        }
    }

    fn cast(&mut self, expr: &Expr, data_type: &mut DataType) -> Option<Expr> {
        let parts = match data_type {
            DataType::Regclass => vec!["regclass".to_owned()],
            DataType::Custom(name, arguments) if arguments.is_empty() => names(name),
            _ => return None,
        };
        let name = match parts.as_slice() {
            [name] => name.as_str(),
            [schema, name] if schema == PG_CATALOG => name.as_str(),
            _ => return None,
        };
        let is_text = matches!(expr, Expr::Value(value) if matches!(value.value, Value::SingleQuotedString(_) | Value::Placeholder(_)));
        match name {
            "regclass" => {
                self.asks = true;
                return Some(call(if is_text { "regclass" } else { "regclass_name" }, Some(expr.clone())));
            }
            "regtype" => return Some(call(if is_text { "regtype" } else { "regtype_name" }, Some(expr.clone()))),
            "regnamespace" => {
                return Some(call(if is_text { "regnamespace" } else { "regnamespace_name" }, Some(expr.clone())));
            }
            // A function is known by its name.
            "regproc" | "regprocedure" => {
                if let Expr::Value(value) = expr
                    && let Value::SingleQuotedString(text) = &value.value
                {
                    return Some(quoted(text.trim_start_matches("pg_catalog.")));
                }
                *data_type = DataType::Text;
            }
            "name" | "char" | "text" | "varchar" | "bpchar" => *data_type = DataType::Text,
            "oid" | "xid" | "int4" => *data_type = DataType::Integer(None),
            "int2" => *data_type = DataType::SmallInt(None),
            "int8" => *data_type = DataType::BigInt(None),
            "float8" => *data_type = DataType::DoublePrecision,
            "float4" => *data_type = DataType::Real,
            "bool" => *data_type = DataType::Boolean,
            _ => {}
        }
        None
    }
}

fn operator(sign: &str) -> Option<BinaryOperator> {
    Some(match sign {
        "~" => BinaryOperator::PGRegexMatch,
        "~*" => BinaryOperator::PGRegexIMatch,
        "!~" => BinaryOperator::PGRegexNotMatch,
        "!~*" => BinaryOperator::PGRegexNotIMatch,
        "~~" => BinaryOperator::PGLikeMatch,
        "!~~" => BinaryOperator::PGNotLikeMatch,
        "=" => BinaryOperator::Eq,
        "<>" => BinaryOperator::NotEq,
        "<" => BinaryOperator::Lt,
        ">" => BinaryOperator::Gt,
        "+" => BinaryOperator::Plus,
        "||" => BinaryOperator::StringConcat,
        _ => return None,
    })
}

/// The name that PostgreSQL gives to a column of what is rewritten here, or comes from `pg_catalog`.
fn name_of(expr: &Expr) -> Option<String> {
    match expr {
        Expr::Function(function) => {
            let mut parts = names(&function.name);
            let name = parts.pop()?;
            let is_ours = !parts.is_empty()
                || matches!(function.args, FunctionArguments::None)
                || name.starts_with("pg_")
                || [
                    "version",
                    "current_database",
                    "current_schema",
                    "current_schemas",
                    "current_setting",
                    "set_config",
                ]
                .contains(&name.as_str());
            is_ours.then_some(name)
        }
        Expr::Identifier(ident) if ident.quote_style.is_none() => {
            let name = folded(ident);
            ["current_schema", "current_catalog", "current_role"].contains(&name.as_str()).then_some(name)
        }
        Expr::Cast { expr, data_type: DataType::Regclass | DataType::Custom(..), .. } => match &**expr {
            Expr::Identifier(column) => Some(folded(column)),
            Expr::CompoundIdentifier(parts) => parts.last().map(folded),
            Expr::Cast { .. } | Expr::Function(_) => name_of(expr),
            _ => None,
        },
        _ => None,
    }
}

/// The schemas of the search path, as Grafana asks for them (`buildSchemaConstraint` of its PostgreSQL data source): it is
/// `public`, always.
fn is_search_path(query: &Query) -> bool {
    const PATH: &str = "string_to_array(current_setting('search_path'), ',')";
    let known = format!(
        "select case when trim(s[i]) = '\"$user\"' then user else trim(s[i]) end from \
         generate_series(array_lower({PATH}, 1), array_upper({PATH}, 1)) as i, {PATH} s"
    );
    query.to_string().eq_ignore_ascii_case(&known)
}

/// The planner wants to see that a subquery of the catalog that depends on the outer row has one row at most.
fn at_most_one(query: &mut Query) {
    let SetExpr::Select(select) = query.body.as_mut() else { return };
    let is_catalog = select.from.iter().all(|from| {
        matches!(&from.relation, TableFactor::Table { name, args: None, .. }
            if names(name).iter().any(|part| part.starts_with("pg_")))
    });
    let is_plain = query.limit_clause.is_none() && select.distinct.is_none() && !select.from.is_empty();
    if is_catalog
        && is_plain
        && !has_aggregate(select)
        && let [SelectItem::UnnamedExpr(value)] = &mut select.projection[..]
    {
        *value = call("first_value", Some(value.clone()));
    }
}

/// Makes each `SELECT` that can have no rows a plain one without; whether all of them were.
fn empty_selects(body: &mut SetExpr) -> bool {
    match body {
        SetExpr::SetOperation { left, right, .. } => {
            let (left, right) = (empty_selects(left), empty_selects(right));
            left && right
        }
        SetExpr::Select(select) if has_no_rows(select) => {
            let Some(columns) = column_names(select) else { return false };
            let columns: Vec<String> = columns.iter().map(|name| format!("NULL AS {name}")).collect();
            let Statement::Query(query) = parsed(&format!("SELECT {} WHERE false", columns.join(", "))) else {
                return false;
            };
            *body = *query.body;
            true
        }
        _ => false,
    }
}

fn is_empty(body: &SetExpr) -> bool {
    match body {
        SetExpr::SetOperation { left, right, .. } => is_empty(left) && is_empty(right),
        SetExpr::Select(select) => has_no_rows(select),
        SetExpr::Query(query) => is_empty(&query.body),
        _ => false,
    }
}

/// Whether it reads a table that never has rows, and does not make a row of none by an aggregate.
fn has_no_rows(select: &Select) -> bool {
    if !select.from.iter().any(gives_none) {
        return false;
    }
    if matches!(&select.group_by, GroupByExpr::Expressions(by, _) if !by.is_empty()) {
        return true;
    }
    !has_aggregate(select) && select.having.is_none()
}

fn gives_none(from: &TableWithJoins) -> bool {
    let mut none = is_none(&from.relation);
    for join in &from.joins {
        let joined = is_none(&join.relation);
        none = match &join.join_operator {
            JoinOperator::Join(_) | JoinOperator::Inner(_) | JoinOperator::CrossJoin(_) => none || joined,
            JoinOperator::Left(_) | JoinOperator::LeftOuter(_) => none,
            JoinOperator::Right(_) | JoinOperator::RightOuter(_) => joined,
            _ => none && joined,
        };
    }
    none
}

fn is_none(relation: &TableFactor) -> bool {
    match relation {
        TableFactor::Table { name, args: None, .. } => match names(name).as_slice() {
            [name] => name.starts_with("pg_") && is_always_empty(name),
            [.., schema, name] => schema == PG_CATALOG && is_always_empty(name),
            [] => false,
        },
        TableFactor::Table { name, args: Some(TableFunctionArgs { args, .. }), .. }
        | TableFactor::Function { name, args, .. } => {
            let is_of_null = |arg: &FunctionArg| matches!(arg, FunctionArg::Unnamed(FunctionArgExpr::Expr(array)) if is_always_null(array));
            names(name).last().is_some_and(|name| name == "unnest") && args.iter().all(is_of_null)
        }
        TableFactor::UNNEST { array_exprs, .. } => array_exprs.iter().all(is_always_null),
        TableFactor::Derived { subquery, .. } => is_empty(&subquery.body),
        TableFactor::NestedJoin { table_with_joins, .. } => gives_none(table_with_joins),
        _ => false,
    }
}

/// Nobody sets options or grants.
fn is_always_null(array: &Expr) -> bool {
    let is =
        |column: &Ident| ["reloptions", "attoptions", "datacl", "nspacl", "relacl"].contains(&folded(column).as_str());
    matches!(array, Expr::CompoundIdentifier(parts) if parts.last().is_some_and(is))
}

fn has_aggregate(select: &Select) -> bool {
    let mut aggregates = Aggregates { depth: 0 };
    let found = |item: &SelectItem| item.visit(&mut aggregates).is_break();
    select.projection.iter().any(found)
}

/// Breaks at an aggregate function that is not in a subquery.
struct Aggregates {
    depth: usize,
}

impl Visitor for Aggregates {
    type Break = ();

    fn pre_visit_query(&mut self, _: &Query) -> ControlFlow<()> {
        self.depth += 1;
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _: &Query) -> ControlFlow<()> {
        self.depth -= 1;
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        const NAMES: [&str; 12] = [
            "count",
            "sum",
            "min",
            "max",
            "avg",
            "array_agg",
            "string_agg",
            "json_agg",
            "jsonb_agg",
            "bool_or",
            "bool_and",
            "every",
        ];
        match expr {
            Expr::Function(Function { name, over: None, .. })
                if self.depth == 0 && names(name).last().is_some_and(|name| NAMES.contains(&name.as_str())) =>
            {
                ControlFlow::Break(())
            }
            _ => ControlFlow::Continue(()),
        }
    }
}

/// As PostgreSQL names them, but never twice the same; `None` if there is a `*`.
fn column_names(select: &Select) -> Option<Vec<Ident>> {
    let mut taken = BTreeSet::new();
    let mut columns = Vec::new();
    for item in &select.projection {
        let name = match item {
            SelectItem::ExprWithAlias { alias, .. } => alias.value.clone(),
            SelectItem::UnnamedExpr(Expr::Identifier(ident)) => folded(ident),
            SelectItem::UnnamedExpr(Expr::CompoundIdentifier(parts)) => folded(parts.last()?),
            SelectItem::UnnamedExpr(Expr::Function(function)) => names(&function.name).pop()?,
            SelectItem::UnnamedExpr(_) => "?column?".to_owned(),
            _ => return None,
        };
        let mut unique = name.clone();
        let mut count = 1;
        while !taken.insert(unique.clone()) {
            count += 1;
            unique = format!("{name}_{count}");
        }
        columns.push(Ident::with_quote('"', unique));
    }
    Some(columns)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(sql: &str, expected: &str, asks: bool) {
        let mut statement = parsed(sql);
        assert_eq!(rewrite(&mut statement, "anna"), asks, "{sql}");
        assert_eq!(statement.to_string(), expected);
    }

    #[test]
    fn statements_of_clients_become_ours() {
        check("SHOW search_path", "SELECT 'public' AS \"search_path\"", false);
        check("SHOW TRANSACTION ISOLATION LEVEL", "SELECT 'repeatable read' AS \"transaction_isolation_level\"", false);
        check("SHOW nothing", "SHOW nothing", false);
        check(
            "SELECT relname FROM pg_class c WHERE c.relname OPERATOR(pg_catalog.~) '^(a)$' COLLATE pg_catalog.default",
            "SELECT relname FROM pg_catalog.pg_class c WHERE c.relname ~ '^(a)$'",
            true,
        );
        check(
            "SELECT pg_catalog.format_type(a, 1), 'x'::regclass::oid, c.oid::pg_catalog.regclass, current_user FROM t",
            "SELECT format_type(a, 1) AS \"format_type\", regclass('x')::INTEGER, regclass_name(c.oid) AS \"oid\", \
             'anna' AS \"current_user\" FROM t",
            true,
        );
        check("SELECT current_schema, pg FROM pg", "SELECT current_schema() AS \"current_schema\", pg FROM pg", false);
        check("SELECT count(*), \"current_schema\" FROM t", "SELECT count(*), \"current_schema\" FROM t", false);
        check(
            "SELECT (SELECT c.relkind = 'c' FROM pg_class c WHERE c.oid = t.a) FROM t",
            "SELECT (SELECT first_value(c.relkind = 'c') FROM pg_catalog.pg_class c WHERE c.oid = t.a) FROM t",
            true,
        );
    }

    #[test]
    fn the_search_path_of_grafana_is_known() {
        let path = "string_to_array(current_setting('search_path'),',')";
        check(
            &format!(
                "SELECT a IN (
                  SELECT
                    CASE WHEN trim(s[i]) = '\"$user\"' THEN user ELSE trim(s[i]) END
                  FROM
                    generate_series(
                      array_lower({path},1),
                      array_upper({path},1)
                    ) as i,
                    {path} s
                  ) FROM t"
            ),
            "SELECT a IN ('public') FROM t",
            false,
        );
    }

    #[test]
    fn what_reads_a_table_without_rows_has_none() {
        check(
            "SELECT i.indexrelid, 'd' = ANY(x), count(*) OVER () FROM pg_index i, t WHERE i.x = t.x ORDER BY i.y",
            "SELECT NULL AS \"indexrelid\", NULL AS \"?column?\", NULL AS \"count\" WHERE false",
            false,
        );
        check("SELECT a FROM t LEFT JOIN pg_am ON true", "SELECT a FROM t LEFT JOIN pg_catalog.pg_am ON true", true);
        check("SELECT count(*) FROM pg_am", "SELECT count(*) FROM pg_catalog.pg_am", true);
        check("SELECT (SELECT d FROM pg_attrdef d WHERE d.x = t.x) FROM t", "SELECT NULL FROM t", false);
        check("SELECT ARRAY(SELECT x FROM unnest(t.relacl) x) FROM t", "SELECT ARRAY[] FROM t", false);
        check("SELECT NOT EXISTS (SELECT 1 FROM pg_enum) FROM t", "SELECT true FROM t", false);
        check(
            "SELECT a, a FROM pg_am UNION SELECT b, NULL FROM pg_am ORDER BY lower(b)",
            "SELECT NULL AS \"a\", NULL AS \"a_2\" WHERE false UNION SELECT NULL AS \"b\", NULL AS \"?column?\" WHERE false",
            false,
        );
    }
}
