"""Debian's mosquitto_pub and mosquitto_sub: one process per client.

Limits: the session-present flag and the reason of a broker's DISCONNECT stay unknown.
"""

import contextlib
import fcntl
import signal
import subprocess
import sys
import termios
import threading
import time

from . import PATIENCE_SECONDS, VERSION_NAMES, Failure, Message, Subscriber, Transport

# How long a client has said nothing before it is asked to end.
_CALM_SECONDS = 0.05

_VERSION_ARGUMENTS = {3: "mqttv31", 4: "mqttv311", 5: "mqttv5"}

# Topic, QoS, retain flag, then the properties, then the payload in hexadecimal. mosquitto_sub prints its
# debug lines to the same stream; the mark at the front tells them apart.
_MARK = "message\t"
_FORMAT = _MARK + r"%t\t%q\t%r\t%C\t%R\t%D\t%E\t%F\t%S\t%P\t%x"


class Kind:
    """mosquitto_pub and mosquitto_sub at one protocol version."""

    client = "mosquitto"

    def __init__(self, version, transport=Transport()):
        self.version = version
        self._transport = transport
        # mosquitto_sub answers SIGTERM with DISCONNECT 0x04 where the protocol has it: leave, but send the will.
        self.leaves_with_will = version == 5
        self.name = f"mosquitto {VERSION_NAMES[version]}"

    def _common(self, program, address, client_id):
        host, port = address
        version = _VERSION_ARGUMENTS[self.version]
        arguments = [program, "-V", version, "-h", host, "-p", str(port), "-i", client_id, "-k", "60"]
        transport = self._transport
        for option, path in (("--cafile", transport.ca), ("--cert", transport.certificate), ("--key", transport.key)):
            arguments += [option, path] if path else []
        return arguments

    def publish(self, address, client_id, publications):
        """One process for a run of small texts under one topic, one for each other publication."""
        for batch in _batches(publications):
            first = batch[0]
            arguments = self._common("mosquitto_pub", address, client_id)
            arguments += ["-t", first.topic, "-q", str(first.qos)]
            arguments += ["-r"] if first.retain else []
            arguments += _property_arguments(first.properties)
            if not first.payload:
                arguments, stdin = arguments + ["-n"], b""
            elif len(batch) == 1:
                arguments, stdin = arguments + ["-s"], first.payload
            else:
                arguments, stdin = arguments + ["-l"], b"".join(p.payload + b"\n" for p in batch)
            _run_publisher(arguments, stdin)

    def subscriber(self, address, client_id, filters, clean=True, expiry_seconds=0, will=None):
        arguments = self._common("mosquitto_sub", address, client_id)
        # It subscribes with one QoS for all filters.
        (qos,) = {qos for _, qos in filters}
        arguments += ["-q", str(qos)]
        for filter_, _ in filters:
            arguments += ["-t", filter_]
        if not clean:
            arguments += ["-c"]
        if self.version == 5 and expiry_seconds:
            arguments += ["-x", str(expiry_seconds)]
        if will:
            arguments += ["--will-topic", will.topic, "--will-payload", will.payload.decode()]
            arguments += ["--will-qos", str(will.qos)]
            arguments += ["--will-retain"] if will.retain else []
        return _Subscriber(arguments, client_id, len(filters))


class _Subscriber(Subscriber):
    def __init__(self, arguments, client_id, filters_count):
        super().__init__(client_id)
        # stdbuf: the client buffers whole blocks when it does not write to a terminal.
        self._process = subprocess.Popen(
            ["stdbuf", "-oL", *arguments, "-d", "-F", _FORMAT],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self._subscribed = threading.Event()
        self._filters_left = filters_count
        self._other_lines = []
        self._busy_at = 0.0
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        if not self._subscribed.wait(PATIENCE_SECONDS) or self._filters_left > 0:
            self._process.kill()
            raise Failure(f"mosquitto_sub did not subscribe: {self._other_lines}")

    def _read(self):
        with self._process.stdout as lines:
            for raw in lines:
                self._busy_at = time.monotonic()
                line = raw.decode(errors="replace").rstrip("\n")
                if line.startswith(_MARK):
                    self.deliver(_parse(line))
                    continue
                self._other_lines.append(line)
                if line.startswith("Subscribed "):
                    # One line acknowledges all filters: `Subscribed (mid: 1): 0, 0`.
                    self._filters_left = 0
                    self._subscribed.set()
        # The process is gone: whoever waits for the subscription need not wait any longer.
        self._subscribed.set()

    def close(self):
        # It disconnects inside its signal handler, and waits for itself for ever if the signal finds it with one of its own
        # locks, as it has while it takes a message (2.0.11).
        time.sleep(max(0.0, self._busy_at + _CALM_SECONDS - time.monotonic()))
        self._end(signal.SIGTERM)

    def kill(self):
        self._end(signal.SIGKILL)

    def _end(self, how):
        if self._process.poll() is None:
            self._process.send_signal(how)
        try:
            self._process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            raise Failure("mosquitto_sub did not end") from None
        self._reader.join(PATIENCE_SECONDS)


def _run_publisher(arguments, stdin):
    """Runs a mosquitto_pub to its end.

    It gets the end of its input only when it has sent the last line: its two threads tell each other of that line without a
    lock, and where both are at it, it now and then waits for itself for ever, whatever the broker (2.0.11, QoS 0, up to 1
    of 100 processes with 500 lines on a busy machine).
    """
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(arguments, **pipes) as process:
        try:
            if "-l" in arguments:
                with contextlib.suppress(BrokenPipeError):
                    process.stdin.write(stdin)
                    process.stdin.flush()
                deadline = time.monotonic() + PATIENCE_SECONDS
                while _unread(process.stdin) and process.poll() is None and time.monotonic() < deadline:
                    time.sleep(0.005)
                time.sleep(_CALM_SECONDS)
                stdin = None
            _, errors = process.communicate(stdin, timeout=PATIENCE_SECONDS)
        except BaseException:
            process.kill()
            raise
    if process.returncode != 0:
        raise Failure(f"mosquitto_pub ended with {process.returncode}: {errors.decode()}")


def _unread(pipe):
    """How many bytes nobody has taken out of a pipe yet."""
    return int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), sys.byteorder)


def _batches(publications):
    """Runs of publications that one mosquitto_pub can send line by line."""
    batch = []
    for publication in publications:
        fits = (
            batch
            and publication.payload
            and b"\n" not in publication.payload
            and len(publication.payload) < 1_000
            and batch[0].payload
            and len(batch[0].payload) < 1_000
            and (publication.topic, publication.qos, publication.retain, publication.properties)
            == (batch[0].topic, batch[0].qos, batch[0].retain, batch[0].properties)
        )
        if batch and not fits:
            yield batch
            batch = []
        batch.append(publication)
    if batch:
        yield batch


def _property_arguments(properties):
    arguments = []
    for key, name in (
        ("content_type", "content-type"),
        ("response_topic", "response-topic"),
        ("message_expiry_seconds", "message-expiry-interval"),
        ("payload_format_indicator", "payload-format-indicator"),
    ):
        if key in properties:
            arguments += ["-D", "publish", name, str(properties[key])]
    if "correlation_data" in properties:
        arguments += ["-D", "publish", "correlation-data", properties["correlation_data"].decode()]
    for name, value in properties.get("user_properties", []):
        arguments += ["-D", "publish", "user-property", name, value]
    return arguments


def _parse(line):
    fields = line.removeprefix(_MARK).split("\t")
    topic, qos, retain, content_type, response_topic, correlation, expiry, indicator = fields[:8]
    identifiers, users, payload = fields[8:11]
    properties = {}
    if content_type:
        properties["content_type"] = content_type
    if response_topic:
        properties["response_topic"] = response_topic
    if correlation:
        properties["correlation_data"] = correlation.encode()
    if expiry:
        properties["message_expiry_seconds"] = int(expiry)
    if indicator:
        properties["payload_format_indicator"] = int(indicator)
    if identifiers:
        properties["subscription_identifiers"] = [int(i) for i in identifiers.split()]
    if users:
        # Printed as `name:value name:value`; tests use names and values without blanks.
        properties["user_properties"] = [tuple(pair.split(":", 1)) for pair in users.split()]
    return Message(topic, bytes.fromhex(payload), int(qos), retain == "1", properties)
