"""Parameters, binary results, prepared statements, errors and cancelling, by psycopg 3."""

import datetime
import sys
import threading
import time

import psycopg

url = sys.argv[1]
utc = datetime.timezone.utc


def at(second):
    return datetime.datetime(2026, 1, 1, 0, 0, second, tzinfo=utc)


with psycopg.connect(url, autocommit=True) as db:
    for binary in (False, True):
        cursor = db.cursor(binary=binary)
        query = "SELECT time, rpm, lamp, gear, device FROM engine WHERE time >= %s AND rpm < %s AND device = %s ORDER BY time"
        for _ in range(7):  # from the sixth time on it is a prepared statement
            cursor.execute(query, (at(2), 4.0, "truck-1"))
            assert cursor.fetchall() == [(at(3), 3.5, False, "3", "truck-1")], binary
        cursor.execute("SELECT count(*), sum(rpm), min(time)::date, NULL, payload FROM engine, records "
                       "WHERE position = %s AND stream = 'telemetry' GROUP BY payload LIMIT 1", ("0:0",))
        row = cursor.fetchone()
        assert row[:4] == (5, 17.5, datetime.date(2026, 1, 1), None), row
        assert isinstance(row[4], bytes) and b"rpm" in row[4], row
        cursor.execute("SELECT %s::bigint + 1, %s", (2**40, None))
        row = cursor.fetchone()
        assert row == (2**40 + 1, None), (binary, row)
        # Bare parameters have the type that the client says, or are text.
        values = (2**40, 7, 0.5, True, b"\\0\xff", at(1), datetime.date(2026, 1, 1), "text")
        for _ in range(7):
            cursor.execute("SELECT %s, %s, %s, %s, %s, %s, %s, %s", values)
            assert cursor.fetchone() == values, binary
        cursor.execute("SELECT CAST('NaN' AS double), 1e300, -0.25")
        nan, large, small = cursor.fetchone()
        assert nan != nan and float(large) == 1e300 and float(small) == -0.25

    cursor = db.cursor()
    for query, state in [
        ("SELEC 1", "42601"),
        ("SELECT nothing FROM engine", "42703"),
        ("SELECT nothing(rpm) FROM engine", "42883"),
        ("SELECT 1 FROM engine WHERE gear = (SELECT 1 FROM elsewhere)", "42P01"),
        ("SELECT 1 FROM nowhere", "42P01"),
        ("DELETE FROM engine", "25006"),
    ]:
        try:
            cursor.execute(query)
            raise AssertionError(query)
        except psycopg.Error as error:
            assert error.sqlstate == state, (query, error.sqlstate, error)
    cursor.execute("SELECT 1")
    assert cursor.fetchone() == (1,), "the connection goes on after an error"

    # A query that would take minutes ends when it is cancelled.
    slow = "SELECT count(*) FROM generate_series(1, 1000000000000) WHERE value % 7 = 8"
    began = time.monotonic()
    is_over = threading.Event()

    def cancel():
        # One that comes before the query has begun is lost.
        while not is_over.wait(0.2):
            db.cancel()

    canceller = threading.Thread(target=cancel)
    canceller.start()
    try:
        cursor.execute(slow)
        raise AssertionError("it was not cancelled")
    except psycopg.errors.QueryCanceled:
        pass
    finally:
        is_over.set()
        canceller.join()
    assert time.monotonic() - began < 30
    cursor.execute("SELECT 1")
    assert cursor.fetchone() == (1,)

with psycopg.connect(url) as db:  # in a transaction
    with db.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM engine")
        assert cursor.fetchone() == (5,)
    db.commit()
print("all good")
