"""Requests as Telegraf 1.37 sends them: bodies packed and in chunks, no length. The address of the server is the argument."""

import gzip
import http.client
import sys

AGENT = {"User-Agent": "Telegraf/1.37.2 Go/1.25.5", "Accept-Encoding": "gzip"}
LINES = b"""cpu,cpu=cpu-total,host=edge-1 usage_idle=97.25,usage_user=1.5 1700000000000000000
mem,host=edge-1 available_percent=71.5,total=25282244608i 1700000000000000000
disk,device=vda1,fstype=ext4,host=edge-1,mode=rw,path=/ used_percent=43.5,inodes_free=1024i 1700000000000000000
"""
TEXT = {"Content-Type": "text/plain; charset=utf-8", "Content-Encoding": "gzip", "Transfer-Encoding": "chunked"}

connection = http.client.HTTPConnection(sys.argv[1])


def post(path, headers, body):
    connection.request("POST", path, body=body, headers=AGENT | headers, encode_chunked="Transfer-Encoding" in headers)
    answer = connection.getresponse()
    text = answer.read()
    return answer.status, answer.getheader("X-Influxdb-Version"), text


def chunks(lines):
    packed = gzip.compress(lines)
    return iter([packed[:10], packed[10:]])


# outputs.influxdb begins with its database.
status, version, text = post("/query", {"Content-Type": "application/x-www-form-urlencoded"}, "q=CREATE+DATABASE+%22telegraf%22")
assert status == 200, (status, text)
status, version, text = post("/write?db=telegraf", TEXT, chunks(LINES))
assert status == 204, (status, text)
# outputs.influxdb_v2: the same lines again, as after an answer that was lost.
token = {"Authorization": "Token any"}
status, version, text = post("/api/v2/write?bucket=telegraf&org=any", TEXT | token, chunks(LINES))
assert status == 204, (status, text)
# A line that is bad is refused with what is known of it, and its batch is not sent again.
status, version, text = post("/api/v2/write?bucket=telegraf&org=any", TEXT | token, chunks(b"cpu,host=edge-1 usage_idle=broken\n"))
assert status == 400 and b"line 1" in text, (status, text)
print("all good")
