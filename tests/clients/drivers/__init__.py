"""Other people's MQTT clients behind one small interface.

Why: a broker that only its authors' client has talked to is untested. Each driver wraps a client that somebody
else wrote, so that one test runs against all of them.

A driver is called a *kind*: one client library at one protocol version. A kind offers

- `publish(address, client_id, publications)`: connect, publish all in order, wait for every acknowledgement,
  disconnect cleanly;
- `subscriber(address, client_id, filters, ...)`: connect and subscribe; returns a `Subscriber` once the broker has
  acknowledged the subscriptions.

Limits: what a client cannot tell is `None` (mosquitto_sub does not say whether a session was present), and tests
leave that check out for it.
"""

import dataclasses
import threading
import time

# How long anything may take before a test gives up, in seconds. Generous: two busy cores run the whole suite.
PATIENCE_SECONDS = 20.0

# Protocol level on the wire -> how people call it.
VERSION_NAMES = {3: "3.1", 4: "3.1.1", 5: "5.0"}


@dataclasses.dataclass(frozen=True)
class Publication:
    """A message on its way to the broker."""

    topic: str
    payload: bytes
    qos: int = 0
    retain: bool = False
    # Keys as in `Message.properties`; only for protocol version 5.
    properties: dict = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Message:
    """A message as a subscriber got it."""

    topic: str
    payload: bytes
    qos: int
    retain: bool
    # user_properties: list of pairs, in order; response_topic, content_type: str; correlation_data: bytes;
    # message_expiry_seconds, payload_format_indicator: int; subscription_identifiers: list of int.
    # Absent properties have no key.
    properties: dict = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Transport:
    """What a client speaks below MQTT. Paths are files in PEM."""

    # tcp, tls, ws or wss.
    protocol: str = "tcp"
    # The authority of the broker's certificate.
    ca: str | None = None
    # The client's own certificate and key.
    certificate: str | None = None
    key: str | None = None
    # Of the WebSocket request.
    path: str = "/mqtt"

    @property
    def has_tls(self):
        return self.protocol in ("tls", "wss")

    @property
    def has_websocket(self):
        return self.protocol in ("ws", "wss")


class Failure(AssertionError):
    """The broker or the client did something other than what the test asked for."""


class Subscriber:
    """The messages one connected client has got so far. Drivers extend it."""

    def __init__(self, client_id):
        self.client_id = client_id
        # Whether the broker had a session for this client; None if the client does not tell.
        self.session_present = None
        # The reason code of a DISCONNECT that the broker sent; None if there was none or the client does not tell.
        self.disconnect_reason = None
        self._messages = []
        self._changed = threading.Condition()

    def deliver(self, message):
        """Called by the driver for each message, from any thread."""
        with self._changed:
            self._messages.append(message)
            self._changed.notify_all()

    @property
    def messages(self):
        """What came so far, in order of arrival."""
        with self._changed:
            return list(self._messages)

    def wait_until(self, done, patience_seconds=PATIENCE_SECONDS):
        """Waits until `done(messages)` holds and returns the messages."""
        deadline = time.monotonic() + patience_seconds
        with self._changed:
            while not done(self._messages):
                left = deadline - time.monotonic()
                if left <= 0:
                    raise Failure(f"{self.client_id}: gave up waiting with {self._summary()}")
                self._changed.wait(left)
            return list(self._messages)

    def wait_for(self, count, patience_seconds=PATIENCE_SECONDS):
        """Waits until at least `count` messages have come and returns them."""
        return self.wait_until(lambda messages: len(messages) >= count, patience_seconds)

    def take(self):
        """What came since the last `take` or `take_until`."""
        with self._changed:
            taken, self._messages = self._messages, []
            return taken

    def take_until(self, topic):
        """Waits for a message of this topic; returns it and what came before it since the last time, and leaves the rest."""
        messages = self.wait_until(lambda messages: any(message.topic == topic for message in messages))
        count = [message.topic for message in messages].index(topic) + 1
        with self._changed:
            del self._messages[:count]
        return messages[:count]

    def _summary(self):
        shown = [f"{m.topic}={m.payload[:40]!r}" for m in self._messages[-5:]]
        return f"{len(self._messages)} message(s), the last ones: {', '.join(shown) or 'none'}"

    def close(self):
        """Leaves with a DISCONNECT."""
        raise NotImplementedError

    def kill(self):
        """Dies without a DISCONNECT."""
        raise NotImplementedError


class LibraryKind:
    """A kind whose clients are objects of this process: instances of `connection`, which publish and subscribe."""

    client = None
    connection = None
    leaves_with_will = False

    def __init__(self, version):
        self.version = version
        self.name = f"{self.client} {VERSION_NAMES[version]}"

    def publish(self, address, client_id, publications):
        connection = self.connection(self.version, address, client_id)
        try:
            for publication in publications:
                connection.publish(publication)
        finally:
            connection.close()

    def subscriber(self, address, client_id, filters, **options):
        """Options: `clean`, `expiry_seconds` and `will`."""
        connection = self.connection(self.version, address, client_id, **options)
        connection.subscribe(filters)
        return connection


def wait_for_all(subscribers, total, patience_seconds=PATIENCE_SECONDS):
    """Waits until the subscribers together have at least `total` messages; returns one list per subscriber."""
    deadline = time.monotonic() + patience_seconds
    while True:
        got = [subscriber.messages for subscriber in subscribers]
        if sum(map(len, got)) >= total:
            return got
        if time.monotonic() > deadline:
            raise Failure(f"{sum(map(len, got))} of {total} messages came: {[len(g) for g in got]}")
        time.sleep(0.005)
