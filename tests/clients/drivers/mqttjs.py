"""MQTT.js: all clients live in one Node.js process, which takes and gives lines of JSON (mqttjs_bridge.js).

The same clients live in a web page, too: browser.py.
"""

import base64
import dataclasses
import itertools
import json
import os
import pathlib
import subprocess
import threading

from . import PATIENCE_SECONDS, Failure, LibraryKind, Message, Subscriber, Transport

_BRIDGE = pathlib.Path(__file__).with_name("mqttjs_bridge.js")

# Our names of the properties -> MQTT.js's. User properties and correlation data need more than a new name.
_PROPERTY_NAMES = {
    "content_type": "contentType",
    "response_topic": "responseTopic",
    "message_expiry_seconds": "messageExpiryInterval",
    "payload_format_indicator": "payloadFormatIndicator",
}


class Bridge:
    """Where clients of MQTT.js live: takes commands and says events, as mqttjs_operations.js has them. Hosts extend it."""

    # What a failure calls it.
    name = "MQTT.js"

    def __init__(self):
        self._numbers = itertools.count(1)
        self._connections = {}
        self._answers = {}
        self._answered = threading.Condition()

    def send(self, command):
        """Hands one command over."""
        raise NotImplementedError

    def on_event(self, event):
        """Called by the host for each event, in order."""
        if event["event"] == "answer":
            with self._answered:
                self._answers[event["call"]] = event
                self._answered.notify_all()
        else:
            self._connections[event["connection"]].on_event(event)

    def open(self, connection):
        number = next(self._numbers)
        self._connections[number] = connection
        return number

    def call(self, command):
        number = next(self._numbers)
        self.send({**command, "call": number})
        with self._answered:
            if not self._answered.wait_for(lambda: number in self._answers, PATIENCE_SECONDS):
                raise Failure(f"{self.name} did not finish {command['operation']} within {PATIENCE_SECONDS} s")
            answer = self._answers.pop(number)
        if answer.get("error"):
            raise Failure(f"{self.name} {command['operation']}: {answer['error']}")
        return answer


class _Node(Bridge):
    """The Node.js process. Started with the first client, ended with the tests."""

    _instance = None
    _starting = threading.Lock()

    @classmethod
    def get(cls):
        with cls._starting:
            if cls._instance is None:
                cls._instance = cls()
            return cls._instance

    @classmethod
    def stop(cls):
        with cls._starting:
            if cls._instance is not None:
                cls._instance._process.stdin.close()
                cls._instance._process.wait(PATIENCE_SECONDS)
                cls._instance = None

    def __init__(self):
        super().__init__()
        self._process = subprocess.Popen(
            ["node", str(_BRIDGE)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ
        )
        self._writing = threading.Lock()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self._process.stdout:
            self.on_event(json.loads(line))

    def send(self, command):
        with self._writing:
            self._process.stdin.write(json.dumps(command).encode() + b"\n")
            self._process.stdin.flush()


stop_bridge = _Node.stop


class Connection(Subscriber):
    """One connected client. `topic_aliases` lets it use aliases for what it sends and offers the same to the broker.

    It lives in a Node.js process unless another `bridge` is given.
    """

    def __init__(
        self,
        version,
        address,
        client_id,
        clean=True,
        expiry_seconds=0,
        will=None,
        topic_aliases=0,
        keep_alive_seconds=60,
        transport=Transport(),
        bridge=None,
    ):
        super().__init__(client_id)
        self.version = version
        self._bridge = bridge or _Node.get()
        self._number = self._bridge.open(self)
        host, port = address
        answer = self.call(
            "connect",
            host=host,
            port=port,
            clientId=client_id,
            version=version,
            clean=clean,
            expirySeconds=expiry_seconds,
            topicAliases=topic_aliases,
            keepAliveSeconds=keep_alive_seconds,
            transport=dataclasses.asdict(transport),
            will=_outgoing(will, version) if will else None,
        )
        # A CONNACK of 3.1 has no such flag.
        self.session_present = None if version == 3 else answer["sessionPresent"]
        # What the host saw of the transport: in a page `url` and `subprotocol` of the WebSocket.
        self.transport = answer["transport"]

    def call(self, operation, **arguments):
        return self._bridge.call({"operation": operation, "connection": self._number, **arguments})

    def publish(self, publication):
        """Publishes and waits for the last acknowledgement that the QoS asks for."""
        self.call("publish", **_outgoing(publication, self.version))

    def subscribe(self, filters):
        """Subscribes and returns the granted codes."""
        granted = self.call("subscribe", filters=filters)["granted"]
        if any(code >= 0x80 for code in granted):
            raise Failure(f"{self.client_id}: subscription to {filters} refused: {granted}")
        return granted

    def on_event(self, event):
        if event["event"] == "disconnect":
            self.disconnect_reason = event["reasonCode"]
        elif event["event"] == "message":
            self.deliver(_incoming(event))

    def close(self):
        self.call("end")

    def kill(self):
        self.call("kill")


class Kind(LibraryKind):
    """MQTT.js at one protocol version."""

    client = "mqttjs"
    connection = Connection


def _outgoing(publication, version):
    properties = {}
    if version == 5:
        for key, value in publication.properties.items():
            if key == "user_properties":
                # MQTT.js takes a map of name to values: the order of different names is the order of the map.
                grouped = {}
                for name, text in value:
                    grouped.setdefault(name, []).append(text)
                properties["userProperties"] = grouped
            elif key == "correlation_data":
                properties["correlationData"] = base64.b64encode(value).decode()
            else:
                properties[_PROPERTY_NAMES[key]] = value
    return {
        "topic": publication.topic,
        "payload": base64.b64encode(publication.payload).decode(),
        "qos": publication.qos,
        "retain": publication.retain,
        "properties": properties,
    }


def _incoming(event):
    theirs = event["properties"]
    properties = {ours: theirs[name] for ours, name in _PROPERTY_NAMES.items() if name in theirs}
    if "payload_format_indicator" in properties:
        properties["payload_format_indicator"] = int(properties["payload_format_indicator"])
    if "correlationData" in theirs:
        properties["correlation_data"] = base64.b64decode(theirs["correlationData"])
    if "subscriptionIdentifier" in theirs:
        identifiers = theirs["subscriptionIdentifier"]
        properties["subscription_identifiers"] = identifiers if isinstance(identifiers, list) else [identifiers]
    if "userProperties" in theirs:
        pairs = []
        for name, values in theirs["userProperties"].items():
            pairs += [(name, value) for value in (values if isinstance(values, list) else [values])]
        properties["user_properties"] = pairs
    return Message(event["topic"], base64.b64decode(event["payload"]), event["qos"], event["retain"], properties)
