"""Reflection and queries by SQLAlchemy."""

import datetime
import sys

import sqlalchemy as sa

engine = sa.create_engine(sys.argv[1].replace("postgresql://", "postgresql+psycopg://"))
with engine.connect() as db:
    assert db.dialect.server_version_info == (16, 6), db.dialect.server_version_info
    assert db.dialect.default_schema_name == "public"

inspector = sa.inspect(engine)
assert inspector.get_schema_names() == ["information_schema", "public"], inspector.get_schema_names()
OF_SERVER = {"alerts", "devices", "dlq", "events", "records", "sessions", "streams", "tables"}
assert {"engine"} | OF_SERVER <= set(inspector.get_table_names()), inspector.get_table_names()
assert inspector.get_view_names() == [], inspector.get_view_names()
assert inspector.has_table("engine") and not inspector.has_table("nothing")

columns = {column["name"]: column for column in inspector.get_columns("engine")}
types = {name: type(columns[name]["type"]) for name in ("device", "time", "rpm", "lamp", "gear")}
assert types == {
    "device": sa.TEXT,
    "time": sa.dialects.postgresql.TIMESTAMP,
    "rpm": sa.DOUBLE_PRECISION,
    "lamp": sa.BOOLEAN,
    "gear": sa.TEXT,
}, types
assert columns["time"]["type"].timezone
assert not columns["device"]["nullable"] and columns["rpm"]["nullable"]
assert inspector.get_pk_constraint("engine")["constrained_columns"] == []
assert inspector.get_foreign_keys("engine") == [] and inspector.get_indexes("engine") == []

metadata = sa.MetaData()
metadata.reflect(engine)
assert OF_SERVER <= set(metadata.tables), metadata.tables.keys()
table = metadata.tables["engine"]
with engine.connect() as db:
    since = datetime.datetime(2026, 1, 1, 0, 0, 2, tzinfo=datetime.timezone.utc)
    query = sa.select(table.c.time, table.c.rpm).where(table.c.device == "truck-1", table.c.time > since)
    rows = db.execute(query.order_by(table.c.time)).all()
    assert [(row.time.second, row.rpm) for row in rows] == [(3, 3.5), (5, 5.5)], rows
    assert db.scalar(sa.select(sa.func.count()).select_from(table)) == 5
    by_device = sa.select(table.c.device, sa.func.max(table.c.rpm)).group_by(table.c.device).order_by(table.c.device)
    assert db.execute(by_device).all() == [("truck-0", 4.5), ("truck-1", 5.5)]
    try:
        db.execute(table.delete())
        raise AssertionError("rows were deleted")
    except sa.exc.DBAPIError as error:
        assert error.orig.sqlstate == "25006", error
print("all good")
