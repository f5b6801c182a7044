"""What Grafana's PostgreSQL data source sends, as its sources and the documentation of its macros have it."""

import datetime
import sys

import psycopg

SEARCH_PATH = """
          quote_ident(table_schema) IN (
          SELECT
            CASE WHEN trim(s[i]) = '"$user"' THEN user ELSE trim(s[i]) END
          FROM
            generate_series(
              array_lower(string_to_array(current_setting('search_path'),','),1),
              array_upper(string_to_array(current_setting('search_path'),','),1)
            ) as i,
            string_to_array(current_setting('search_path'),',') s
          )"""
SYSTEM = """('information_schema', 'pg_catalog', '_timescaledb_cache', '_timescaledb_catalog', '_timescaledb_internal',
    '_timescaledb_config', 'timescaledb_information', 'timescaledb_experimental')"""
TABLES = [("alerts",), ("devices",), ("dlq",), ("engine",), ("events",), ("records",), ("sessions",), ("streams",), ("tables",)]
COLUMNS = [
    ("device", "text"),
    ("gear", "text"),
    ("lamp", "boolean"),
    ("rpm", "double precision"),
    ("time", "timestamp with time zone"),
]


def minute(n, second=0):
    return datetime.datetime(2026, 1, 1, 0, n, second, tzinfo=datetime.timezone.utc)


RANGE = "time BETWEEN '2026-01-01T00:00:02Z' AND '2026-01-01T00:00:59.999Z'"
QUERIES = {
    "health check": ("-- ping", None),
    "server version": ("SELECT current_setting('server_version_num')::int/100 as version", [(1600,)]),
    "TimescaleDB": ("SELECT extversion FROM pg_extension WHERE extname = 'timescaledb'", []),
    "schemas": (
        f'SELECT schema_name AS "name" FROM information_schema.schemata WHERE schema_name NOT IN {SYSTEM} ORDER BY schema_name',
        [("public",)],
    ),
    "tables of a schema": (
        """SELECT quote_ident(table_name) AS "table" FROM information_schema.tables
           WHERE quote_ident(table_schema) = 'public' ORDER BY 1""",
        TABLES,
    ),
    "tables": (
        f"""SELECT
    CASE WHEN {SEARCH_PATH}
      THEN quote_ident(table_name)
      ELSE quote_ident(table_schema) || '.' || quote_ident(table_name)
    END AS "table"
    FROM information_schema.tables
    WHERE quote_ident(table_schema) NOT IN {SYSTEM}
    ORDER BY CASE WHEN {SEARCH_PATH} THEN 0 ELSE 1 END, 1""",
        TABLES,
    ),
    "tables, before version 9.3 of Grafana": (
        f"""select quote_ident(table_name) as "table" from information_schema.tables
    where quote_ident(table_schema) not in {SYSTEM}
      and table_type = 'BASE TABLE' and {SEARCH_PATH} order by 1""",
        TABLES,
    ),
    "columns": (
        f"""SELECT quote_ident(column_name) AS "column", data_type AS "type"
    FROM information_schema.columns
    WHERE
      CASE WHEN array_length(parse_ident('engine'),1) = 2
        THEN quote_ident(table_schema) = (parse_ident('engine'))[1]
          AND quote_ident(table_name) = (parse_ident('engine'))[2]
        ELSE quote_ident(table_name) = 'engine'
          AND {SEARCH_PATH}
      END""",
        COLUMNS,
    ),
    "columns of a table with its schema": (
        f"""SELECT quote_ident(column_name) AS "column", data_type AS "type"
    FROM information_schema.columns
    WHERE
      CASE WHEN array_length(parse_ident('public.engine'),1) = 2
        THEN quote_ident(table_schema) = (parse_ident('public.engine'))[1]
          AND quote_ident(table_name) = (parse_ident('public.engine'))[2]
        ELSE quote_ident(table_name) = 'public.engine'
          AND {SEARCH_PATH}
      END""",
        COLUMNS,
    ),
    "$__timeFilter": (f"SELECT time, rpm FROM engine WHERE {RANGE} AND device = 'truck-0' ORDER BY 1",
                      [(minute(0, 2), 2.5), (minute(0, 4), 4.5)]),
    "$__time, and the format of a time series": (
        f'SELECT time AS "time", device AS metric, rpm FROM engine WHERE {RANGE} AND rpm > 4.6 ORDER BY time',
        [(minute(0, 5), "truck-1", 5.5)],
    ),
    "$__timeGroup": (
        f"""SELECT floor(extract(epoch from time)/60)*60 AS "time", avg(rpm) FROM engine
            WHERE {RANGE} GROUP BY 1 ORDER BY 1""",
        [(1767225600.0, 4.0)],
    ),
    "$__timeGroup with TimescaleDB": (
        f"""SELECT time_bucket('60.000s',time) AS "time", avg(rpm) FROM engine WHERE {RANGE} GROUP BY 1 ORDER BY 1""",
        [(minute(0), 4.0)],
    ),
    "$__timeEpoch": (
        'SELECT extract(epoch from time) as "time", rpm FROM engine WHERE rpm < 2 ORDER BY 1', [(1767225601.0, 1.5)]),
    "$__timeFrom and $__timeTo": (
        "SELECT count(*) FROM engine WHERE time >= '2026-01-01T00:00:02Z' AND time < '2026-01-01T00:00:04Z'", [(2,)]),
    "$__unixEpochFilter": (
        "SELECT count(*) FROM engine WHERE extract(epoch from time) >= 1767225602 AND extract(epoch from time) <= 1767225603",
        [(2,)],
    ),
    "$__unixEpochGroup": (
        'SELECT floor((extract(epoch from time))/2)*2 AS "time", count(*) FROM engine GROUP BY 1 ORDER BY 1',
        [(1767225600.0, 1), (1767225602.0, 2), (1767225604.0, 2)],
    ),
    "date_trunc": (
        f"""SELECT date_trunc('minute', time) AS "time", max(rpm) FROM engine WHERE {RANGE} GROUP BY 1""",
        [(minute(0), 5.5)],
    ),
    "a variable": (
        "SELECT DISTINCT device::text AS \"__text\" FROM engine WHERE device::text IN ('truck-0','truck-1') ORDER BY 1 LIMIT 100",
        [("truck-0",), ("truck-1",)],
    ),
}

# What its newer interface of schemas asks, with parameters, as the driver in Go sends them; answers come in binary.
WITH_PARAMETERS = {
    "schemas": (
        "SELECT schema_name FROM information_schema.schemata WHERE schema_name NOT IN (%s, %s) ORDER BY schema_name",
        ("information_schema", "pg_catalog"),
        [("public",)],
    ),
    "tables": (
        "SELECT table_name FROM information_schema.tables WHERE table_schema = %s ORDER BY table_name",
        ("public",),
        TABLES,
    ),
    "columns": (
        """SELECT column_name, udt_name, is_nullable, numeric_precision FROM information_schema.columns
           WHERE table_schema = %s AND table_name = %s ORDER BY column_name""",
        ("public", "engine"),
        [
            ("device", "text", "NO", None),
            ("gear", "text", "YES", None),
            ("lamp", "bool", "YES", None),
            ("rpm", "float8", "YES", 53),
            ("time", "timestamptz", "NO", None),
        ],
    ),
    "values of several columns": (
        """(SELECT DISTINCT 'device' AS name, device::text AS value FROM engine WHERE device <> %s LIMIT 100)
           UNION ALL (SELECT DISTINCT 'gear', gear::text FROM engine WHERE gear = %s LIMIT 100) ORDER BY 1, 2""",
        ("truck-1", "2"),
        [("device", "truck-0"), ("gear", "2")],
    ),
    "a range of times": (
        "SELECT time, rpm FROM engine WHERE time >= %s AND time < %s AND rpm > %s ORDER BY time",
        (minute(0, 2), minute(0, 5), 2.5),
        [(minute(0, 3), 3.5), (minute(0, 4), 4.5)],
    ),
}

with psycopg.connect(sys.argv[1], autocommit=True) as db:
    for name, (query, parameters, expected) in WITH_PARAMETERS.items():
        for prepare in (False, True):
            for binary in (False, True):
                try:
                    rows = db.execute(query, parameters, prepare=prepare, binary=binary).fetchall()
                except psycopg.Error as error:
                    raise AssertionError(f"{name} with parameters: {error}") from error
                if name == "tables":
                    rows = [row for row in rows if row in expected]
                if name == "columns":
                    rows = [row for row in rows if not row[0].startswith("_")]
                assert rows == expected, (name, rows)
    for name, (query, expected) in QUERIES.items():
        for prepare in (False, True):
            try:
                cursor = db.execute(query, prepare=prepare)
            except psycopg.Error as error:
                raise AssertionError(f"{name}: {error}") from error
            if expected is None:
                assert cursor.description is None, name
                continue
            rows = cursor.fetchall()
            if "tables" in name:  # the server may have more of its own
                rows = [row for row in rows if row in expected]
            if "columns" in name:
                rows = sorted(row for row in rows if not row[0].startswith(("_", '"_')))
            assert rows == expected, (name, rows)
print("all good")
