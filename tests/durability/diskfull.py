#!/usr/bin/env python3
"""Fills a broker's disk while it is busy, and makes room again.

    tests/durability/diskfull.py [--shards N] MIDGE

The data directory is on a small tmpfs, mounted where only this process sees it. While the disk is full:

- nothing that must be kept is acknowledged: a 5.0 publisher is told 0x97, a 3.1.1 publisher hears nothing, or is closed where
  another shard would have to keep it;
- QoS 0, and QoS 1 that nobody must keep, go on; so does the delivery of what is kept already;
- `/health/ready` says why, `midge stats` says `degraded`, the log says it once.

When there is room again all of that ends by itself, the 3.1.1 publisher hears what it waits for, and after a kill everything
acknowledged is there. Besides, a broker serves on a file system without direct I/O, and eight shards do on a volume of 8 MiB.

Needs root. Where it cannot run it says why, and ends with exit code 77. Otherwise the exit code is 0 when all of it holds.
"""

import json
import os
import re
import select
import shutil
import struct
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request

sys.dont_write_bytecode = True
import kill  # noqa: E402
import powercut  # noqa: E402

DISK_BYTES = 24 << 20
PAYLOAD = b"x" * 4000
PATIENCE = 20


class Broker(kill.Broker):
    """Reads what the broker says, and has an admin address."""

    def __init__(self, program, directory, disk, shards):
        super().__init__(program, directory, shards)
        self.command[self.command.index("--data-dir") + 1] = os.path.join(disk, "data")
        self.command += ["--admin", "127.0.0.1:0"]
        self.said = []
        self.admin = None

    def start(self):
        self.process = subprocess.Popen(self.command, stderr=subprocess.PIPE, text=True)
        said = self.said = []

        def read(stream):
            for line in stream:
                said.append(line)

        threading.Thread(target=read, args=(self.process.stderr,), daemon=True).start()
        found = wait(lambda: re.search(r"metrics and health on (http://\S+)", "".join(said)))
        self.admin = found[1]

    def ask(self, page):
        try:
            with urllib.request.urlopen(self.admin + page, timeout=PATIENCE) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def stats(self):
        command = [self.command[0], "stats", "--json", "--runtime-dir", self.directory + "/run"]
        return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)


def wait(condition, seconds=PATIENCE):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError("it did not come to that in time")


class Client(kill.Client):
    """Keeps all packets; `old` speaks 3.1.1."""

    def __init__(self, client_id, port, old=False, lasting=True):
        super().__init__(client_id)
        self.packets, self.old = [], old
        if old:
            self.socket = kill.socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
            flags = b"\x00" if lasting else b"\x02"
            body = kill.text("MQTT") + b"\x04" + flags + b"\0\0" + kill.text(client_id)
            self.socket.sendall(kill.packet(0x10, body))
            while self.present is None:
                self.receive()
            self.socket.setblocking(False)
        else:
            self.connect(port)

    def handle(self, first, body):
        self.packets.append((first, body))
        if first & 0xF6 == 0x32:
            size = struct.unpack(">H", body[:2])[0]
            self.send(kill.packet(0x40, body[2 + size : 4 + size]))

    def work(self, seconds):
        """Sends and receives for so long, or until something has come."""
        readable, _, _ = select.select([self.socket], [], [], seconds)
        if readable:
            self.receive()
        self.flush()

    def next(self, kind, seconds=PATIENCE):
        """The next packet of this kind; `None` when there is none in time."""
        end = time.monotonic() + seconds
        while True:
            self.flush()
            for index, (first, body) in enumerate(self.packets):
                if first >> 4 == kind:
                    del self.packets[index]
                    return first, body
            left = end - time.monotonic()
            if left <= 0:
                return None
            self.work(left)

    def subscribe(self, topic):
        properties = b"" if self.old else b"\0"
        self.send(kill.packet(0x82, b"\0\1" + properties + kill.text(topic) + b"\x01"))
        assert self.next(9), "no SUBACK"

    def publish(self, topic, payload, qos, packet_id=1):
        number = struct.pack(">H", packet_id) if qos else b""
        properties = b"" if self.old else b"\0"
        body = kill.text(topic) + number + properties + payload
        self.send(kill.packet(0x30 | qos << 1, body))
        self.flush()

    def answer(self, seconds=PATIENCE):
        """The reason code of the next PUBACK; `None` when none comes."""
        found = self.next(4, seconds)
        return found and (found[1][2] if len(found[1]) > 2 else 0)


def payload_of(packet, old):
    first, body = packet
    at = 2 + struct.unpack(">H", body[:2])[0] + (2 if first & 6 else 0)
    return body[at:] if old else body[at + 1 + body[at] :]


def trial(broker, disk):
    broker.start()
    away = Client("away", broker.port)
    away.subscribe("kept/#")
    away.close()
    there = Client("there", broker.port, old=True, lasting=False)
    there.subscribe("seen/#")
    publisher = Client("publisher", broker.port)
    assert broker.ask("/health/ready") == (200, "ready\n")

    ballast = os.path.join(disk, "ballast")
    with open(ballast, "wb") as file:
        try:
            while file.write(b"\0" * 65536):
                file.flush()
        except OSError:
            pass
    acknowledged, refused, number = [], 0, 0
    while refused < 50:
        number += 1
        assert number < 20_000, "the disk is never full"
        publisher.publish(f"kept/{number % 7}", b"%d " % number + PAYLOAD, 1, number)
        reason = publisher.answer()
        assert reason in (0, 0x97), f"{reason} for {number}"
        if reason:
            refused += 1
        else:
            acknowledged.append(number)
    print(f"  full after {len(acknowledged)} messages")

    # An old client has no way to be told: it waits, or is closed and sends again.
    patient = Client("patient", broker.port, old=True, lasting=False)
    patient.publish("kept/old", b"patience " + PAYLOAD, 1)
    try:
        assert patient.answer(1.0) is None, "acknowledged on a full disk"
    except kill.Gone:
        patient = None
    # Others do not notice.
    for text in (b"one", b"two"):
        publisher.publish("seen/0", text, 0)
        assert payload_of(there.next(3), True) == text
        publisher.publish("seen/1", text, 1, 9)
        assert there.next(3), "QoS 1 that nobody must keep"
        assert publisher.answer() == 0
    code, words = broker.ask("/health/ready")
    assert code == 503 and "the disk has no room" in words, (code, words)
    assert broker.ask("/health")[1].startswith("degraded\n")
    durability = broker.stats()["durability"]
    assert durability["state"] == "degraded", durability
    shouted = sum("the disk has no room" in line for line in broker.said)
    assert 1 <= shouted <= 2 * 3, broker.said

    os.remove(ballast)
    wait(lambda: broker.ask("/health/ready")[0] == 200)
    wait(lambda: broker.stats()["durability"]["state"] == "healthy")
    assert broker.ask("/health") == (200, "healthy\n")
    if not patient:
        patient = Client("patient", broker.port, old=True, lasting=False)
        patient.publish("kept/old", b"patience " + PAYLOAD, 1)
    assert patient.answer() == 0, "it waited for nothing"
    for _ in range(50):
        number += 1
        publisher.publish(f"kept/{number % 7}", b"%d " % number + PAYLOAD, 1, number)
        assert publisher.answer() == 0, f"{number} on a disk with room"
        acknowledged.append(number)

    broker.kill()
    broker.start()
    away = Client("away", broker.port)
    got = set()
    missing = {b"%d" % number for number in acknowledged} | {b"patience"}
    while missing - got:
        found = away.next(3)
        assert found, f"{sorted(missing - got)[:5]} of {len(missing)} are lost"
        got.add(payload_of(found, False).split(b" ")[0])
    print(f"  all {len(missing)} acknowledged messages are there after a kill")
    broker.kill()


def cached(program, directory, shards):
    """A file system without direct I/O: the broker says so once, and keeps what it acknowledges."""
    disk = os.path.join(directory, "ramfs")
    os.mkdir(disk)
    powercut.run("mount", "-t", "ramfs", "none", disk)
    broker = Broker(program, directory, disk, shards)
    try:
        broker.start()
        said = [line for line in broker.said if "no direct I/O" in line]
        assert len(said) == 1, broker.said
        away = Client("away", broker.port)
        away.subscribe("kept/#")
        away.close()
        publisher = Client("publisher", broker.port)
        publisher.publish("kept/0", b"one", 1)
        assert publisher.answer() == 0
        broker.kill()
        broker.start()
        assert payload_of(Client("away", broker.port).next(3), False) == b"one"
    finally:
        broker.kill()
        subprocess.run(["umount", "--lazy", disk], check=False, capture_output=True)
    print("  a file system without direct I/O serves as well")


def tiny(program, directory, mib):
    """Eight logs on a volume of a few MiB: what is kept is small, and so are its files."""
    disk = os.path.join(directory, "tiny")
    os.mkdir(disk)
    powercut.run("mount", "-t", "tmpfs", "-o", f"size={mib}M", "none", disk)
    broker = Broker(program, directory, disk, 8)
    try:
        broker.start()
        assert broker.ask("/health/ready") == (200, "ready\n"), broker.said
        for number in range(16):
            away = Client(f"away-{number}", broker.port)
            away.subscribe("kept/#")
            away.close()
        publisher = Client("publisher", broker.port)
        for number in range(50):
            publisher.publish(f"kept/{number}", b"%d" % number, 1, number + 1)
            assert publisher.answer() == 0
        assert broker.ask("/health/ready") == (200, "ready\n"), broker.said
        broker.kill()
        broker.start()
        for number in range(16):
            away = Client(f"away-{number}", broker.port)
            got = {payload_of(away.next(3), False) for _ in range(50)}
            assert got == {b"%d" % number for number in range(50)}
    finally:
        broker.kill()
        subprocess.run(["umount", "--lazy", disk], check=False, capture_output=True)
    print(f"  eight shards serve on {mib} MiB")


def main():
    parser = kill.argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program")
    parser.add_argument("--shards", type=int, default=2)
    options = parser.parse_args()
    if os.geteuid() != 0:
        print("skipped: only root may mount")
        sys.exit(powercut.CANNOT_RUN)
    directory = tempfile.mkdtemp(prefix="midge-full-")
    disk = os.path.join(directory, "disk")
    os.mkdir(disk)
    broker = None
    try:
        try:
            powercut.own_mounts()
            powercut.run("mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "none", disk)
        except OSError as error:
            print(f"skipped: {error}")
            sys.exit(powercut.CANNOT_RUN)
        broker = Broker(options.program, directory, disk, options.shards)
        trial(broker, disk)
        cached(options.program, directory, options.shards)
        tiny(options.program, directory, 8)
    finally:
        if broker and broker.process and broker.process.poll() is None:
            broker.kill()
            sys.stderr.write("".join(broker.said))
        subprocess.run(["umount", "--lazy", disk], check=False, capture_output=True)
        shutil.rmtree(directory, ignore_errors=True)
    print("disk full: all promises kept")


if __name__ == "__main__":
    main()
