"""Results as Arrow, read by pyarrow. The server gives at most 30000 rows."""

import http.client
import json
import sys
import urllib.request

import pyarrow

url = sys.argv[1] + "/api/v1/sql"
STREAM = "application/vnd.apache.arrow.stream"


def read(query, headers=None):
    request = urllib.request.Request(url, query.encode(), headers or {"Accept": STREAM})
    with urllib.request.urlopen(request) as answer:
        assert answer.headers["Content-Type"] == STREAM, answer.headers
        return answer.read()


def table(body):
    return pyarrow.ipc.open_stream(body).read_all()


found = table(read("SELECT device, time, rpm, lamp FROM engine ORDER BY time"))
assert found.schema.field("time").type == pyarrow.timestamp("us", "UTC"), found.schema
assert found.column("rpm").to_pylist() == [1.5, 2.5, 3.5], found
assert found.column("lamp").to_pylist() == [False, True, None], found
by_body = json.dumps({"query": "SELECT count(*) AS n FROM engine", "format": "arrow"})
assert table(read(by_body, {"Content-Type": "application/json"})).to_pylist() == [{"n": 3}]
assert table(read("SELECT rpm FROM engine WHERE false")).num_rows == 0
twice = table(read("SELECT a.rpm, b.rpm FROM engine a JOIN engine b USING (time)"))
assert twice.column_names == ["rpm", "rpm_2"], twice
assert table(read("SELECT value FROM generate_series(1, 30000)")).num_rows == 30000

# What breaks off is no whole answer, and has no end.
try:
    read("SELECT value FROM generate_series(1, 100000)")
    raise AssertionError("the answer broke off, and nobody noticed")
except http.client.IncompleteRead as error:
    assert table(error.partial).num_rows <= 30000
    assert not error.partial.endswith(b"\xff\xff\xff\xff\0\0\0\0")
print("all good")
