"""Files of tables, read by pyarrow as docs/formats/history-file.md describes them."""

import datetime
import json
import pathlib
import sys

import pyarrow
import pyarrow.parquet

history, expected = pathlib.Path(sys.argv[1]), json.loads(sys.argv[2])
IDS = {"device": 1, "time": 2, "_time_ns": 3, "_seq": 4, "_received": 8, "_rest": 9}
MICROS = pyarrow.timestamp("us", "UTC")
TYPES = {"device": pyarrow.string(), "time": MICROS, "_time_ns": pyarrow.int16(), "_received": MICROS, "_rest": pyarrow.string()}


def field_id(field):
    return int(field.metadata[b"PARQUET:field_id"])


def seq(row):
    return row["_seq"]["generation"], row["_seq"]["offset"], row["_seq"]["row"]


def order(row, keys):
    """Null is before all values."""
    key = [(row[name] is not None, row[name] or 0) for name in keys]
    return row["device"].encode(), key, row["time"], row["_time_ns"], seq(row)


def check_file(path, keys):
    """Gives the rows and the facts of a file."""
    file = pyarrow.parquet.ParquetFile(path)
    assert file.metadata.format_version == "1.0", file.metadata
    assert file.metadata.metadata[b"floodplain.format"] == b"1"
    facts = json.loads(file.metadata.metadata[b"floodplain.facts"])
    schema = file.schema_arrow
    for name, id in IDS.items():
        assert field_id(schema.field(name)) == id, (name, schema.field(name).metadata)
        assert schema.field(name).nullable == (name == "_rest"), schema
    for name, wanted in TYPES.items():
        assert schema.field(name).type == wanted, schema
    parts = [(field_id(part), part.name, part.type) for part in schema.field("_seq").type]
    assert parts == [(5, "generation", pyarrow.int32()), (6, "offset", pyarrow.int64()), (7, "row", pyarrow.int32())]
    own = [field_id(field) for field in schema if field.name not in IDS]
    assert own == sorted(set(own)) and own[0] >= 100, own
    leaves = [file.schema.column(at).path for at in range(len(file.schema))]
    for group in (file.metadata.row_group(at) for at in range(file.num_row_groups)):
        sorting = [(leaves[by.column_index], by.descending, by.nulls_first) for by in group.sorting_columns]
        assert [name for name, _, _ in sorting] == ["device", *keys, "time", "_time_ns"], sorting
        assert all(not descending and nulls_first for _, descending, nulls_first in sorting), sorting
        for column in (group.column(at) for at in range(group.num_columns)):
            assert column.compression == "ZSTD", column
            assert column.is_stats_set and column.statistics.has_null_count, column
            is_null = column.statistics.null_count == group.num_rows
            assert column.statistics.has_min_max != is_null, column
            assert column.has_column_index and column.has_offset_index, column
    rows = file.read().to_pylist()
    assert rows == sorted(rows, key=lambda row: order(row, keys))
    assert facts["rows"] == len(rows) and facts["device"] == [rows[0]["device"], rows[-1]["device"]], facts
    return rows


def merged(versions, keys):
    """Rows of one key become one: in each column the newest value that is not null."""
    rows = {}
    for row in sorted(versions, key=seq):
        is_alone = row["time"] == row["_received"]
        key = (row["device"], *(row[name] for name in keys), row["time"], row["_time_ns"], is_alone and seq(row))
        found = rows.setdefault(key, {})
        values = {name: value for name, value in row.items() if value is not None}
        if found.get("_rest") and "_rest" in values:
            values["_rest"] = json.dumps(json.loads(found["_rest"]) | json.loads(values["_rest"]), separators=(",", ":"))
        found.update(values)
    return list(rows.values())


def shown(row):
    """What a query shows of a row: no nulls, times as times, `_rest` as what it says."""
    row = {name: value for name, value in row.items() if value is not None and (name == "_rest" or name[0] != "_")}
    if isinstance(row["time"], str):
        row["time"] = datetime.datetime.fromisoformat(row["time"])
    if "_rest" in row:
        row["_rest"] = json.loads(row["_rest"])
    return row


def by_key(row):
    return row["device"], "n" in row, row.get("n", 0), row["time"]


count = 0
for table, keys in (("engine", []), ("traffic", ["n"])):
    paths = sorted((history / table).glob("*.parquet"))
    assert paths, table
    versions = [row for path in paths for row in check_file(path, keys)]
    count += len(versions)
    found = sorted(map(shown, merged(versions, keys)), key=by_key)
    wanted = sorted(map(shown, expected[table]), key=by_key)
    assert found == wanted, (found, wanted)
assert count > sum(map(len, expected.values())), "versions of rows are all there"
print(f"{count} rows")
