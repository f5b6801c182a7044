"""Writes by the client of InfluxDB 2: the address of the server is the argument."""

import sys

from influxdb_client import InfluxDBClient, WritePrecision
from influxdb_client.client.write_api import SYNCHRONOUS
from influxdb_client.rest import ApiException

# Lines in one request, packed by gzip as Telegraf does it.
with InfluxDBClient(url=sys.argv[1], token="fp_none", org="any", enable_gzip=True) as client:
    assert client.ping()
    with client.write_api(write_options=SYNCHRONOUS) as api:
        lines = [f"engine,device=truck-{n % 2} rpm={n}i {1_700_000_000 + n}" for n in range(1000)]
        api.write(bucket="any", record=lines, write_precision=WritePrecision.S)
        try:
            api.write(bucket="any", record="engine,device=truck-0 rpm=fast")
        except ApiException as error:
            print("refused:", error.status)
