"""Cases with paho-mqtt 2.x, run by clients.rs: CASE HOST PORT PREFIX VERSION(4|5).

Ends with 0 if the case holds; otherwise the assertion says why not.
"""

import queue
import socket
import sys

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

CASE, HOST, PORT, PREFIX, VERSION = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4], int(sys.argv[5])
V5 = VERSION == 5
PATIENCE = 20


class Client:
    """paho with its own thread; what comes goes into queues."""

    def __init__(self, name, lasting=False, will=None):
        options = {} if V5 else {"clean_session": not lasting}
        self.paho = mqtt.Client(
            mqtt.CallbackAPIVersion.VERSION2, client_id=f"{PREFIX}-{name}", protocol=mqtt.MQTTProtocolVersion(VERSION), **options
        )
        self.connected, self.subscribed, self.messages = queue.Queue(), queue.Queue(), queue.Queue()
        self.paho.on_connect = lambda c, u, flags, code, props: self.connected.put((flags, code))
        self.paho.on_subscribe = lambda c, u, mid, codes, props: self.subscribed.put(codes)
        self.paho.on_message = lambda c, u, message: self.messages.put(message)
        if will:
            self.paho.will_set(*will)
        properties = None
        start = {}
        if V5:
            properties = Properties(PacketTypes.CONNECT)
            properties.SessionExpiryInterval = 600 if lasting else 0
            start = {"clean_start": not lasting, "properties": properties}
        self.paho.connect(HOST, PORT, keepalive=30, **start)
        self.paho.loop_start()
        flags, code = self.connected.get(timeout=PATIENCE)
        assert code == 0, code
        self.session_present = flags.session_present

    def subscribe(self, rest, qos):
        self.paho.subscribe(f"{PREFIX}/{rest}", qos)
        codes = self.subscribed.get(timeout=PATIENCE)
        assert [int(code.value) for code in codes] == [qos], codes

    def publish(self, rest, payload, qos, retain=False, properties=None):
        self.paho.publish(f"{PREFIX}/{rest}", payload, qos, retain, properties).wait_for_publish(PATIENCE)

    def hears(self, rest, payload):
        message = self.messages.get(timeout=PATIENCE)
        assert (message.topic, message.payload) == (f"{PREFIX}/{rest}", payload), (message.topic, message.payload)
        return message

    def leave(self):
        self.paho.disconnect()
        self.paho.loop_stop()

    def cut(self):
        """Ends without DISCONNECT."""
        self.paho.socket().shutdown(socket.SHUT_RDWR)
        self.paho.loop_stop()


def round_trip():
    subscriber, publisher = Client("s"), Client("p")
    for qos in (0, 1, 2):
        subscriber.subscribe(f"{qos}/#", qos)
        sent = [publisher.paho.publish(f"{PREFIX}/{qos}/a", f"{n}".encode(), qos) for n in range(300)]
        for info in sent:
            info.wait_for_publish(PATIENCE)
        for n in range(300):
            message = subscriber.hears(f"{qos}/a", f"{n}".encode())
            assert message.qos == qos, message.qos
    publisher.leave()
    subscriber.leave()


def session():
    subscriber = Client("s", lasting=True)
    assert not subscriber.session_present
    subscriber.subscribe("#", 2)
    subscriber.leave()
    publisher = Client("p")
    for n in range(100):
        publisher.publish("a", f"{n}".encode(), 1 + n % 2)
    publisher.leave()
    subscriber = Client("s", lasting=True)
    assert subscriber.session_present
    seen = {1: [], 2: []}
    for _ in range(100):
        message = subscriber.messages.get(timeout=PATIENCE)
        seen[message.qos].append(int(message.payload))
    assert seen == {1: list(range(0, 100, 2)), 2: list(range(1, 100, 2))}, seen
    subscriber.leave()


def retained_and_will():
    listener = Client("l")
    listener.subscribe("will", 1)
    will = Client("w", will=(f"{PREFIX}/will", b"gone", 1, True))
    will.cut()
    assert not listener.hears("will", b"gone").retain
    later = Client("later")
    later.subscribe("will", 1)
    assert later.hears("will", b"gone").retain
    later.publish("will", b"", 1, retain=True)
    later.leave()
    listener.leave()


def properties():
    subscriber, publisher = Client("s"), Client("p")
    subscriber.subscribe("a", 1)
    properties = None
    if V5:
        properties = Properties(PacketTypes.PUBLISH)
        properties.UserProperty = [("b", "1"), ("a", "2"), ("b", "3")]
        properties.ContentType = "application/json"
        properties.CorrelationData = b"\x00\xff"
        properties.ResponseTopic = "answer/here"
    publisher.publish("a", b"{}", 1, properties=properties)
    message = subscriber.hears("a", b"{}")
    if V5:
        assert message.properties.UserProperty == [("b", "1"), ("a", "2"), ("b", "3")], message.properties
        assert message.properties.ContentType == "application/json", message.properties
        assert message.properties.CorrelationData == b"\x00\xff", message.properties
        assert message.properties.ResponseTopic == "answer/here", message.properties
    publisher.leave()
    subscriber.leave()


{f.__name__: f for f in (round_trip, session, retained_and_will, properties)}[CASE]()
