#!/usr/bin/env python3
"""Kills a broker again and again while it is busy, and counts what was promised and is not there.

    tests/durability/kill.py [--rounds N] [--shards N] [--seed N] [--level fsync|written] MIDGE

In each round publishers send QoS 1 and QoS 2 messages as fast as they are acknowledged, to a session that is away and to one
that is connected, and retained messages besides; the broker is killed (SIGKILL) at a random moment and started again on
the same data directory; publishers and subscribers resume their sessions as MQTT 5.0 says. At the end of each
round the sessions are drained. The level `written` promises the same here as `fsync`: the system lives. Counted over all rounds:

- lost: acknowledged (PUBACK, or PUBREC) and not delivered to a session that subscribed before, although the broker says
  that nothing waits for it any more;
- stuck: the same while the broker says that something waits, or a sender without its answer, and nothing has moved for
  STALL_SECONDS;
- doubled: QoS 2 and delivered twice to the application of a client that keeps its packet ids as MQTT says;
- retained: a topic whose retained message is older than the last one that was acknowledged;
- disorder: of one publisher at one QoS, delivered for the first time behind a later one.

A start takes from the start of the process until it says that it serves. Beside that stand the messages that it found queued, and the
processor time that it took, which a busy machine does not lengthen. It is slow when both are more than a second, and more
than a second for each 100,000 messages.

Needs nothing but Python. The exit code is 0 when all counts are zero and no start was slow.
"""

import argparse
import json
import os
import random
import re
import select
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import typing

# Bounds that only something broken reaches, also on a machine that has much else to do.
START_SECONDS = 300
CONNECT_SECONDS = 120
STALL_SECONDS = 60

WINDOW = 64
RETAINED_TOPICS = 50
# The subscribers that are away are back in every round that can be divided by this.
AWAY_ROUNDS = 4


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


class Numbers:
    """A set of small numbers, and how many they are: a round must cost the same however many there were before."""

    def __init__(self):
        self.marks = bytearray()
        self.count = 0

    def __contains__(self, number):
        return number < len(self.marks) and self.marks[number] == 1

    def add(self, number):
        """Whether it was not there yet."""
        if number in self:
            return False
        if number >= len(self.marks):
            self.marks += bytes(number + 1024 - len(self.marks))
        self.marks[number] = 1
        self.count += 1
        return True


class Ledger:
    """What one subscriber got of one publisher, and what it is owed."""

    def __init__(self):
        self.got = Numbers()
        self.owed = set()
        self.highest = 0

    def owe(self, number):
        if number not in self.got:
            self.owed.add(number)


class Client:
    """A client whose session never expires, if it `lasts`; else it ends with the connection. `handle` gets each packet."""

    def __init__(self, client_id, lasts=True):
        self.client_id, self.lasts = client_id, lasts
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
        properties = b"\x11" + struct.pack(">I", 0xFFFFFFFF if self.lasts else 0)
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
        self.acknowledged = Numbers()
        # Who is owed what is acknowledged.
        self.ledgers = []
        self.sending = True

    def acknowledge(self, number):
        if self.acknowledged.add(number):
            for ledger in self.ledgers:
                ledger.owe(number)

    def encode(self, packet_id, number, stage, again):
        if stage == "release":
            return packet(0x62, struct.pack(">H", packet_id))
        first = 0x30 | self.qos << 1 | (8 if again else 0) | (1 if self.retain else 0)
        topic = self.topics[number % len(self.topics)]
        payload = f"{self.client_id} {number}".encode()
        return packet(first, text(topic) + struct.pack(">H", packet_id) + b"\0" + payload)

    def resume(self):
        if not self.present:
            assert not self.acknowledged.count, f"{self.client_id}: the session is gone"
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
                self.acknowledge(number)
        elif kind == 5:
            self.acknowledge(number)
            # From here on it is a release: MQTT sends it again, not the message.
            del self.in_flight[packet_id]
            self.in_flight[packet_id] = (number, "release")
            self.send(self.encode(packet_id, number, "release", False))
        elif kind == 7:
            del self.in_flight[packet_id]


class Subscriber(Client):
    """Takes everything below a filter, at QoS 2, and keeps its packet ids as MQTT says."""

    def __init__(self, client_id, filters, lasts=True):
        super().__init__(client_id, lasts)
        self.filters = filters
        self.held = set()
        self.ledgers = {}
        self.doubled = []
        self.disorder = []
        self.subscribed = False

    def owes(self, publisher):
        """From now on it is to get what this publisher has acknowledged."""
        publisher.ledgers.append(self.ledger(publisher.client_id))

    def ledger(self, name):
        return self.ledgers.setdefault(name, Ledger())

    def got(self):
        """How many messages it got."""
        return sum(ledger.got.count for ledger in self.ledgers.values())

    def owed(self):
        """How many messages it is owed."""
        return sum(len(ledger.owed) for ledger in self.ledgers.values())

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
        ledger = self.ledger(name)
        if not ledger.got.add(number):
            if qos == 2:
                self.doubled.append(payload)
            return
        ledger.owed.discard(number)
        if number < ledger.highest:
            self.disorder.append(payload)
        ledger.highest = max(number, ledger.highest)


class Broker:
    def __init__(self, program, directory, shards, level="fsync"):
        self.command = [program, "serve", "--config", os.path.join(directory, "midge.yaml")]
        self.command += ["--data-dir", os.path.join(directory, "data"), "--shards", str(shards)]
        self.command += ["--runtime-dir", os.path.join(directory, "run")]
        self.directory = directory
        self.process = None
        self.said = []
        self.starts = []
        # Chosen by the kernel once, and ours as long as nobody else takes it.
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.command += ["--listen", f"127.0.0.1:{self.port}"]
        with open(os.path.join(directory, "midge.yaml"), "w", encoding="utf-8") as file:
            file.write("limits: {queued_messages_max: 1000000, queued_bytes_max: 512MiB}\n")
            file.write(f"durability: {{acknowledge_after: {level}}}\n")

    def start(self):
        began = time.monotonic()
        self.process = subprocess.Popen(self.command, stderr=subprocess.PIPE)
        self.said = []
        ready = threading.Event()
        threading.Thread(
            target=self.listen, args=(self.process.stderr, self.said, ready), daemon=True
        ).start()
        in_time = ready.wait(START_SECONDS)
        seconds = time.monotonic() - began
        if not in_time:
            self.process.kill()
        if not in_time or self.process.poll() is not None:
            how = "ended" if in_time else f"did not serve within {START_SECONDS} s"
            sys.exit(f"the broker {how}:\n{''.join(self.said)}")
        self.starts.append(
            Start(seconds, processor_seconds(self.process.pid), self.recovered("queued"))
        )

    @staticmethod
    def listen(stream, said, ready):
        """Keeps what the broker says; it is ready once it serves, or has ended."""
        for line in stream:
            said.append(line.decode())
            if b"serves mqtt" in line:
                ready.set()
        ready.set()

    def recovered(self, what):
        """What all shards say that they have found."""
        lines = (line for line in list(self.said) if " recovered " in line)
        return sum(int(found) for line in lines for found in re.findall(rf"\b{what}=(\d+)", line))

    def waiting(self):
        """What waits for each client, queued and on its way, as the broker says."""
        command = [self.command[0], "clients", "--json", "--runtime-dir", self.directory + "/run"]
        lines = subprocess.run(command, check=True, capture_output=True).stdout.splitlines()
        clients = [json.loads(line) for line in lines]
        return {client["client_id"]: client["queued"] + client["in_flight"] for client in clients}

    def kill(self):
        self.process.kill()
        self.process.wait()


class Start(typing.NamedTuple):
    """One start of the broker."""

    seconds: float
    processor_seconds: float
    queued: int

    def is_slow(self):
        """Whether it took longer than it may, and not only because the machine had something else to do."""
        allowed = max(1.0, self.queued / 100_000)
        return min(self.seconds, self.processor_seconds) > allowed

    def __str__(self):
        return (
            f"{self.seconds * 1000:.0f} ms ({self.processor_seconds * 1000:.0f} ms of processor) "
            f"with {self.queued} queued"
        )


def processor_seconds(process):
    """What a process has used since it began."""
    with open(f"/proc/{process}/stat", encoding="utf-8") as file:
        fields = file.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def pump(clients, until):
    """Moves packets until `until()` says so or nobody is connected; whoever loses the connection is left without one."""
    while not until():
        alive = [client for client in clients if client.socket]
        if not alive:
            return
        for client in alive:
            if isinstance(client, Publisher):
                client.publish()
        by_socket = {client.socket: client for client in alive}
        writing = [client.socket for client in alive if client.outbox]
        readable, writable, _ = select.select(list(by_socket), writing, [], 0.05)
        for ready in {*readable, *writable}:
            client = by_socket[ready]
            try:
                if ready in readable:
                    client.receive()
                client.flush()
            except Gone:
                client.close()


def after(seconds):
    """For `pump`: so long."""
    end = time.monotonic() + seconds
    return lambda: time.monotonic() >= end


class Drain:
    """For `pump`: until senders have all their answers and subscribers all they are owed, or it is sure that they do not
    get it. `lost` and `stuck` say how many messages did not come."""

    # So long nothing moves before the broker is asked what waits.
    PATIENCE = 5

    def __init__(self, broker, senders, subscribers):
        self.broker, self.senders, self.subscribers = broker, senders, subscribers
        self.lost = self.stuck = 0
        self.was, self.moved, self.asked = None, time.monotonic(), time.monotonic()
        self.empty_before = set()

    def __call__(self):
        unanswered = sum(len(sender.in_flight) for sender in self.senders)
        owing = [subscriber for subscriber in self.subscribers if subscriber.owed()]
        if not unanswered and not owing:
            return True
        now = time.monotonic()
        # A release that was answered moves what is in flight, not how much; doubled messages would hide a standstill.
        state = (unanswered, [subscriber.got() for subscriber in self.subscribers])
        if state != self.was:
            self.was, self.moved, self.asked = state, now, now
            self.empty_before = set()
            return False
        if now - self.asked < self.PATIENCE:
            return False
        waiting = self.broker.waiting()
        empty = {one.client_id for one in owing if not waiting.get(one.client_id)}
        self.asked = time.monotonic()
        # Told twice, in between which nothing came: so it was not on its way either.
        gone = [one for one in owing if one.client_id in empty & self.empty_before]
        self.empty_before = empty
        if now - self.moved < STALL_SECONDS and (unanswered or len(gone) < len(owing)):
            return False
        self.lost = sum(one.owed() for one in gone)
        self.stuck = sum(one.owed() for one in owing if one not in gone) + unanswered
        for one in owing:
            for name, ledger in one.ledgers.items():
                if ledger.owed:
                    few = sorted(ledger.owed)[:5]
                    print(f"  {one.client_id} lacks {name}: {len(ledger.owed)}, first {few}")
        for sender in self.senders:
            if sender.in_flight:
                print(f"  {sender.client_id} has {len(sender.in_flight)} without an answer")
        print(f"  the broker says that there waits: {waiting}")
        return True


def connect(client, port):
    client.close()
    client.connect(port)


def stale_retained(broker, keeper):
    """How many topics have an older retained message than the last one acknowledged."""
    promised = [0] * RETAINED_TOPICS
    for number in range(1, keeper.number + 1):
        if number in keeper.acknowledged:
            promised[number % RETAINED_TOPICS] = number
    found = [0] * RETAINED_TOPICS

    def take(_qos, payload, _again):
        number = int(payload.rsplit(" ", 1)[1])
        found[number % RETAINED_TOPICS] = number

    # Kept, its session would get all that is retained from now on, and each round's one more.
    late = Subscriber("late", ["retained/#"], lasts=False)
    late.take_message = take
    connect(late, broker.port)
    count = sum(number > 0 for number in promised)
    out_of_time = after(START_SECONDS if count else 0)
    # Those that are older come like the others, so it is their number that is waited for.
    pump([late], lambda: out_of_time() or sum(number > 0 for number in found) >= count)
    late.close()
    return sum(new < old for new, old in zip(found, promised))


def trial(broker, options, chance, seed):
    """Rounds of work, kill, start and check; whether a promise was broken. The broker may end in its own way."""
    publishers = []
    for number in range(3):
        topics = [f"flow/{number}/{n}" for n in range(4)]
        publishers.append(Publisher(f"once-{number}", 2, topics))
        publishers.append(Publisher(f"least-{number}", 1, topics))
    topics = [f"retained/{n}" for n in range(RETAINED_TOPICS)]
    keeper = Publisher("keeper", 1, topics, retain=True)
    away = [Subscriber(f"away-{n}", ["flow/#"]) for n in range(2)]
    there = [Subscriber(f"there-{n}", ["flow/#"]) for n in range(2)]
    senders, subscribers = [*publishers, keeper], [*there, *away]
    for subscriber in subscribers:
        for publisher in publishers:
            subscriber.owes(publisher)
    lost = stuck = stale = 0
    broker.start()
    for subscriber in subscribers:
        connect(subscriber, broker.port)
    pump(subscribers, lambda: all(one.subscribed for one in subscribers))
    for subscriber in away:
        subscriber.close()
    for round_number in range(1, options.rounds + 1):
        first_start = len(broker.starts)
        for client in [*senders, *there]:
            if not client.socket:
                connect(client, broker.port)
        for sender in senders:
            sender.sending = True
        pump([*senders, *there], after(chance.uniform(0.05, 1.0)))
        broker.kill()
        for client in [*senders, *there]:
            client.close()
        broker.start()
        # Every other round another kill while sessions resume.
        if chance.random() < 0.5:
            for client in [*senders, *subscribers]:
                connect(client, broker.port)
            for sender in senders:
                sender.sending = chance.random() < 0.5
            pump([*senders, *subscribers], after(chance.uniform(0.0, 0.3)))
            broker.kill()
            for client in [*senders, *subscribers]:
                client.close()
            broker.start()
        # Mostly the two that are away stay so, and what waits for them grows.
        back = away if round_number % AWAY_ROUNDS == 0 or round_number == options.rounds else []
        for client in [*senders, *there, *back]:
            connect(client, broker.port)
        for sender in senders:
            sender.sending = False
        drain = Drain(broker, senders, [*there, *back])
        pump([*senders, *there, *back], drain)
        lost, stuck = drain.lost, drain.stuck
        stale = stale_retained(broker, keeper)
        doubled = sum(len(one.doubled) for one in subscribers)
        disorder = sum(len(one.disorder) for one in subscribers)
        for subscriber in away:
            subscriber.close()
        if options.verbose:
            starts = "; ".join(map(str, broker.starts[first_start:]))
            print(f"  round {round_number} of {options.rounds}: started in {starts}", flush=True)
        if lost or stuck or doubled or stale or disorder:
            break
    acknowledged = sum(sender.acknowledged.count for sender in senders)
    slow = sum(start.is_slow() for start in broker.starts)
    print(
        f"rounds {round_number}, shards {options.shards}, seed {seed}: {acknowledged} acknowledged, "
        f"{sum(one.got() for one in subscribers)} delivered, {lost} lost, {stuck} stuck, {doubled} doubled, "
        f"{stale} retained too old, {disorder} out of order"
    )
    full = [start for start in broker.starts if start.queued >= 50_000]
    print(f"{len(broker.starts)} starts, {slow} of them slow; the slowest took {max(broker.starts)}")
    if full:
        queued = sum(start.queued for start in full)
        seconds = sum(start.seconds for start in full) / queued * 100_000
        used = sum(start.processor_seconds for start in full) / queued * 100_000
        print(
            f"{len(full)} of them with 50,000 messages queued or more, {queued // len(full)} on average: "
            f"{seconds * 1000:.0f} ms for each 100,000 ({used * 1000:.0f} ms of processor)"
        )
    if doubled:
        print("  doubled:", [one.doubled[:5] for one in subscribers])
    if disorder:
        print("  disorder:", [one.disorder[:5] for one in subscribers])
    return bool(lost or stuck or doubled or stale or disorder or slow)


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
    parser = options_for(__doc__.splitlines()[0])
    parser.add_argument("--level", choices=["fsync", "written"], default="fsync")
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else random.randrange(1 << 32)
    directory = tempfile.mkdtemp(prefix="midge-kill-", dir=options.directory)
    broker = Broker(options.program, directory, options.shards, options.level)
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
