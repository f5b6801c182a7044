"""Publishes the lines of standard input at QoS 1: HOST PORT TOPIC.

paho connects again by itself and repeats what was not acknowledged; for each message that may have
been sent and was not acknowledged when a connection broke, "resent N" is written to standard output.
"""

import sys
import threading

import paho.mqtt.client as mqtt

HOST, PORT, TOPIC = sys.argv[1], int(sys.argv[2]), sys.argv[3]

client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id="paho-" + TOPIC.replace("/", "-"), clean_session=False)
lock = threading.Lock()
open_messages = {}
early = set()
# The line that is being given to paho, which may have sent it already.
pending = None
room = threading.Semaphore(20)


def on_publish(client, userdata, mid, code, properties):
    with lock:
        if open_messages.pop(mid, None) is None:
            early.add(mid)
    room.release()


def on_disconnect(client, userdata, flags, code, properties):
    with lock:
        for n in list(open_messages.values()) + ([] if pending is None else [pending]):
            print(f"resent {n}", flush=True)


client.on_publish, client.on_disconnect = on_publish, on_disconnect
client.reconnect_delay_set(1, 1)
client.connect(HOST, PORT, keepalive=30)
client.loop_start()
for n, line in enumerate(sys.stdin, 1):
    room.acquire()
    with lock:
        pending = n
    # Not under the lock: paho calls on_publish under a lock of its own, which this takes, too.
    info = client.publish(TOPIC, line.rstrip("\n"), 1)
    with lock:
        pending = None
        # The answer may be faster than this line.
        if info.mid in early:
            early.remove(info.mid)
        else:
            open_messages[info.mid] = n
for _ in range(20):
    room.acquire()
client.on_disconnect = None
client.disconnect()
client.loop_stop()
