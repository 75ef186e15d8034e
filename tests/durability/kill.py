#!/usr/bin/env python3
"""Kills a broker again and again while it is busy, and counts what was promised and is not there.

    tests/durability/kill.py [--rounds N] [--shards N] [--seed N] MIDGE

In each round publishers send QoS 1 and QoS 2 messages as fast as they are acknowledged, to a session that is away and to one
that is connected, and retained messages besides; the broker is killed (SIGKILL) at a random moment and started again on
the same data directory; publishers and subscribers resume their sessions as MQTT 5.0 says. At the end of each
round the sessions are drained. Counted over all rounds:

- lost: acknowledged (PUBACK, or PUBREC and then PUBCOMP) and not delivered to a session that subscribed before;
- doubled: QoS 2 and delivered twice to the application of a client that keeps its packet ids as MQTT says;
- retained: a topic whose retained message is older than the last one that was acknowledged;
- disorder: of one publisher at one QoS, delivered for the first time behind a later one.

Needs nothing but Python. The exit code is 0 when all counts are zero.
"""

import argparse
import os
import random
import select
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time

CONNECT_SECONDS = 20
WINDOW = 64


def varint(number):
    out = bytearray()
    while True:
        byte = number % 128
        number //= 128
        out.append(byte | 0x80 if number else byte)
        if not number:
            return bytes(out)


def text(value):
    value = value.encode()
    return struct.pack(">H", len(value)) + value


def packet(first, body):
    return bytes([first]) + varint(len(body)) + body


class Gone(Exception):
    """The connection is gone."""


class Client:
    """A client with a session that never expires. `handle` gets each packet."""

    def __init__(self, client_id):
        self.client_id = client_id
        self.socket = None
        self.inbox = bytearray()
        self.outbox = bytearray()
        self.present = None

    def connect(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=CONNECT_SECONDS)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.inbox.clear()
        self.outbox.clear()
        self.present = None
        properties = b"\x11" + struct.pack(">I", 0xFFFFFFFF)
        body = text("MQTT") + b"\x05\x00" + struct.pack(">H", 0)
        body += varint(len(properties)) + properties + text(self.client_id)
        self.socket.settimeout(CONNECT_SECONDS)
        self.socket.sendall(packet(0x10, body))
        while self.present is None:
            self.receive()
        self.socket.setblocking(False)

    def receive(self):
        try:
            data = self.socket.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError as error:
            raise Gone from error
        if not data:
            raise Gone
        self.inbox += data
        self.take()

    def take(self):
        at = 0
        inbox = self.inbox
        while len(inbox) - at >= 2:
            size, shift, head = 0, 0, at + 1
            while True:
                if head >= len(inbox):
                    del inbox[:at]
                    return
                byte = inbox[head]
                size |= (byte & 127) << shift
                shift += 7
                head += 1
                if not byte & 128:
                    break
            if len(inbox) - head < size:
                break
            first, body = inbox[at], bytes(inbox[head : head + size])
            at = head + size
            if first >> 4 == 2:
                assert body[1] == 0, f"CONNACK {body[1]:#x}"
                self.present = body[0] & 1
                self.resume()
            else:
                self.handle(first, body)
        del inbox[:at]

    def send(self, data):
        self.outbox += data

    def flush(self):
        if self.outbox:
            try:
                sent = self.socket.send(self.outbox)
            except BlockingIOError:
                return
            except OSError as error:
                raise Gone from error
            del self.outbox[:sent]

    def close(self):
        if self.socket:
            self.socket.close()
            self.socket = None

    def resume(self):
        pass

    def handle(self, first, body):
        pass


class Publisher(Client):
    """Sends numbered messages and remembers which were acknowledged."""

    def __init__(self, client_id, qos, topics, retain=False):
        super().__init__(client_id)
        self.qos, self.topics, self.retain = qos, topics, retain
        self.number = 0
        self.next_id = 0
        self.in_flight = {}
        self.acknowledged = set()
        self.sending = True

    def encode(self, packet_id, number, stage, again):
        if stage == "release":
            return packet(0x62, struct.pack(">H", packet_id))
        first = 0x30 | self.qos << 1 | (8 if again else 0) | (1 if self.retain else 0)
        topic = self.topics[number % len(self.topics)]
        payload = f"{self.client_id} {number}".encode()
        return packet(first, text(topic) + struct.pack(">H", packet_id) + b"\0" + payload)

    def resume(self):
        if not self.present:
            assert not self.acknowledged, f"{self.client_id}: the session is gone"
        for packet_id, (number, stage) in self.in_flight.items():
            self.send(self.encode(packet_id, number, stage, True))

    def publish(self):
        while self.sending and len(self.in_flight) < WINDOW and len(self.outbox) < 1 << 16:
            self.next_id = self.next_id % 65535 + 1
            if self.next_id in self.in_flight:
                return
            self.number += 1
            self.in_flight[self.next_id] = (self.number, "publish")
            self.send(self.encode(self.next_id, self.number, "publish", False))

    def handle(self, first, body):
        kind = first >> 4
        packet_id = struct.unpack(">H", body[:2])[0]
        reason = body[2] if len(body) > 2 else 0
        if packet_id not in self.in_flight:
            return
        number, stage = self.in_flight[packet_id]
        if kind == 4 or (kind == 5 and reason >= 0x80):
            del self.in_flight[packet_id]
            if reason < 0x80:
                self.acknowledged.add(number)
        elif kind == 5:
            self.acknowledged.add(number)
            # From here on it is a release: MQTT sends it again, not the message.
            del self.in_flight[packet_id]
            self.in_flight[packet_id] = (number, "release")
            self.send(self.encode(packet_id, number, "release", False))
        elif kind == 7:
            del self.in_flight[packet_id]


class Subscriber(Client):
    """Takes everything below a filter, at QoS 2, and keeps its packet ids as MQTT says."""

    def __init__(self, client_id, filters):
        super().__init__(client_id)
        self.filters = filters
        self.held = set()
        self.got = {}
        self.doubled = []
        self.disorder = []
        self.highest = {}
        self.subscribed = False
        self.heard_at = 0.0

    def resume(self):
        if self.subscribed:
            assert self.present, f"{self.client_id}: the session is gone"
        else:
            # Not kept by the broker, so not by us.
            self.held.clear()
            body = struct.pack(">H", 1) + b"\0"
            for one in self.filters:
                body += text(one) + b"\x02"
            self.send(packet(0x82, body))

    def handle(self, first, body):
        kind = first >> 4
        if kind == 9:
            self.subscribed = True
        elif kind == 3:
            self.heard_at = time.monotonic()
            size = struct.unpack(">H", body[:2])[0]
            qos, at = (first >> 1) & 3, 2 + size
            packet_id = struct.unpack(">H", body[at : at + 2])[0] if qos else 0
            at += 2 if qos else 0
            assert body[at] < 128
            payload = body[at + 1 + body[at] :].decode()
            if qos == 2:
                if packet_id not in self.held:
                    self.held.add(packet_id)
                    self.take_message(qos, payload, False)
                self.send(packet(0x50, struct.pack(">H", packet_id)))
            else:
                self.take_message(qos, payload, bool(first & 8))
                if qos == 1:
                    self.send(packet(0x40, struct.pack(">H", packet_id)))
        elif kind == 6:
            packet_id = struct.unpack(">H", body[:2])[0]
            self.held.discard(packet_id)
            self.send(packet(0x70, struct.pack(">H", packet_id)))

    def take_message(self, qos, payload, again):
        name, number = payload.rsplit(" ", 1)
        number = int(number)
        seen = self.got.setdefault(name, set())
        if number in seen:
            if qos == 2:
                self.doubled.append(payload)
            return
        seen.add(number)
        if number < self.highest.get(name, 0):
            self.disorder.append(payload)
        self.highest[name] = max(number, self.highest.get(name, 0))


class Broker:
    def __init__(self, program, directory, shards):
        self.command = [program, "serve", "--config", os.path.join(directory, "midge.yaml")]
        self.command += ["--data-dir", os.path.join(directory, "data"), "--shards", str(shards)]
        self.command += ["--runtime-dir", os.path.join(directory, "run")]
        self.directory = directory
        self.process = None
        self.start_seconds = []
        # Chosen by the kernel once, and ours as long as nobody else takes it.
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.command += ["--listen", f"127.0.0.1:{self.port}"]
        with open(os.path.join(directory, "midge.yaml"), "w", encoding="utf-8") as file:
            file.write("limits: {queued_messages_max: 1000000, queued_bytes_max: 512MiB}\n")

    def start(self):
        began = time.monotonic()
        self.process = subprocess.Popen(self.command, stderr=subprocess.PIPE)
        said = []
        for line in self.process.stderr:
            said.append(line.decode())
            if b"serves mqtt" in line:
                break
        else:
            sys.exit(f"the broker ended:\n{''.join(said)}")
        # What it says later is not read: little enough for the pipe.
        self.start_seconds.append(time.monotonic() - began)

    def kill(self):
        self.process.kill()
        self.process.wait()


def pump(clients, until, port):
    """Moves packets until the moment or until `until()` says so; whoever loses the connection is left without one."""
    while True:
        now = time.monotonic()
        if until(now):
            return
        alive = [client for client in clients if client.socket]
        if not alive:
            return
        for client in alive:
            if isinstance(client, Publisher):
                client.publish()
        readable, writable, _ = select.select(
            alive_sockets(alive), [c.socket for c in alive if c.outbox], [], 0.05
        )
        by_socket = {client.socket: client for client in alive}
        for ready in {*readable, *writable}:
            client = by_socket[ready]
            try:
                if ready in readable:
                    client.receive()
                client.flush()
            except Gone:
                client.close()


def alive_sockets(clients):
    return [client.socket for client in clients]


def connect(client, port):
    client.close()
    client.connect(port)


def trial(broker, options, chance, seed):
    """Rounds of work, kill, start and check; whether a promise was broken. The broker may end in its own way."""
    publishers = []
    for number in range(3):
        topics = [f"flow/{number}/{n}" for n in range(4)]
        publishers.append(Publisher(f"once-{number}", 2, topics))
        publishers.append(Publisher(f"least-{number}", 1, topics))
    keeper = Publisher("keeper", 1, [f"retained/{n}" for n in range(50)], retain=True)
    away = [Subscriber(f"away-{n}", ["flow/#"]) for n in range(2)]
    there = [Subscriber(f"there-{n}", ["flow/#"]) for n in range(2)]
    senders = [*publishers, keeper]
    lost = doubled = stale = 0
    broker.start()
    for subscriber in [*away, *there]:
        connect(subscriber, broker.port)
    pump([*away, *there], lambda _: all(s.subscribed for s in [*away, *there]), broker.port)
    for subscriber in away:
        subscriber.close()
    for round_number in range(options.rounds):
        for client in [*senders, *there]:
            if not client.socket:
                connect(client, broker.port)
        for sender in senders:
            sender.sending = True
        end = time.monotonic() + chance.uniform(0.05, 1.0)
        pump([*senders, *there], lambda now: now >= end, broker.port)
        broker.kill()
        for client in [*senders, *there]:
            client.close()
        broker.start()
        # Every other round another kill while sessions resume.
        if chance.random() < 0.5:
            for client in [*senders, *there, *away]:
                connect(client, broker.port)
            for sender in senders:
                sender.sending = chance.random() < 0.5
            end = time.monotonic() + chance.uniform(0.0, 0.3)
            pump([*senders, *there, *away], lambda now: now >= end, broker.port)
            broker.kill()
            for client in [*senders, *there, *away]:
                client.close()
            broker.start()
        for client in [*senders, *there, *away]:
            connect(client, broker.port)
        for sender in senders:
            sender.sending = False
        deadline = time.monotonic() + 60

        def drained(now):
            if now > deadline:
                return True
            if any(sender.in_flight for sender in senders):
                return False
            return all(
                not publisher.acknowledged - subscriber.got.get(publisher.client_id, set())
                for publisher in publishers
                for subscriber in [*there, *away]
            )

        pump([*senders, *there, *away], drained, broker.port)
        late = Subscriber(f"late-{round_number}", ["retained/#"])
        late.take_message = lambda qos, payload, again: Subscriber.take_message(
            late, 0, payload, again
        )
        connect(late, broker.port)
        count = min(50, len(keeper.acknowledged))
        end = time.monotonic() + 10
        pump(
            [late],
            lambda now: now > end or sum(map(len, late.got.values())) >= count,
            broker.port,
        )
        late.close()
        for topic in range(50):
            promised = max((n for n in keeper.acknowledged if n % 50 == topic), default=0)
            found = max((n for n in late.got.get("keeper", ()) if n % 50 == topic), default=0)
            stale += found < promised
        lost = doubled = 0
        for publisher in publishers:
            for subscriber in [*there, *away]:
                got = subscriber.got.get(publisher.client_id, set())
                missing = publisher.acknowledged - got
                lost += len(missing)
                if missing:
                    few = sorted(missing)[:5]
                    print(f"  {subscriber.client_id} lacks {publisher.client_id} {few}")
        doubled = sum(len(s.doubled) for s in [*there, *away])
        for subscriber in away:
            subscriber.close()
        if options.verbose:
            print(f"  round {round_number + 1} of {options.rounds}", flush=True)
        if lost or doubled or stale:
            break
    disorder = sum(len(s.disorder) for s in [*there, *away])
    acknowledged = sum(len(sender.acknowledged) for sender in senders)
    deliveries = sum(len(g) for s in [*there, *away] for g in s.got.values())
    print(
        f"rounds {round_number + 1}, shards {options.shards}, seed {seed}: "
        f"{acknowledged} acknowledged, {deliveries} delivered, {lost} lost, {doubled} doubled, "
        f"{stale} retained too old, {disorder} out of order; "
        f"slowest start {max(broker.start_seconds) * 1000:.0f} ms"
    )
    if doubled:
        print("  doubled:", [s.doubled[:5] for s in [*there, *away]])
    if disorder:
        print("  disorder:", [s.disorder[:5] for s in [*there, *away]])
    return bool(lost or doubled or stale or disorder)


def options_for(description):
    """The options that all trials have."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("program")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--shards", type=int, default=2)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--keep", action="store_true", help="keep the directory")
    parser.add_argument("--directory", help="on the disk to be tried")
    parser.add_argument("--verbose", action="store_true", help="a line for each round")
    return parser


def main():
    options = options_for(__doc__.splitlines()[0]).parse_args()
    seed = options.seed if options.seed is not None else random.randrange(1 << 32)
    directory = tempfile.mkdtemp(prefix="midge-kill-", dir=options.directory)
    broker = Broker(options.program, directory, options.shards)
    try:
        failed = trial(broker, options, random.Random(seed), seed)
    finally:
        if broker.process and broker.process.poll() is None:
            broker.kill()
        if options.keep:
            print(directory)
        else:
            shutil.rmtree(directory, ignore_errors=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
