"""A broker for the tests: a `midge serve` of our own, or one that already runs.

- `MIDGE_BIN` names the program to start.
- `MIDGE_TEST_ADDRESS=host:port` points the tests at a running broker instead; tests of the process itself are then
  skipped. `MIDGE_TEST_ADDRESS_IPV6=[host]:port` does the same for the IPv6 test.

Invariant: only processes started here are ended, each by its handle.
"""

import os
import re
import socket
import subprocess
import threading
import time

# How long a start or a stop may take, in seconds.
PATIENCE_SECONDS = 20.0

# Three shards on any number of cores: pairs on one shard and pairs on two both occur among a few client ids.
SHARDS = 3

_ADDRESS = re.compile(r"(127\.0\.0\.1|\[::1\]):(\d+)")


def given_address(variable="MIDGE_TEST_ADDRESS"):
    """The (host, port) of the running broker that the tests were pointed at, or None."""
    text = os.environ.get(variable)
    if not text:
        return None
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)


def binary():
    """The program under test."""
    path = os.environ.get("MIDGE_BIN")
    if not path:
        raise RuntimeError("MIDGE_BIN must name the midge program (tests/run does that)")
    return path


def has_ipv6():
    """Whether this machine has an IPv6 loopback address."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::1", 0))
        return True
    except OSError:
        return False


class Midge:
    """One `midge` process and everything it has printed."""

    def __init__(self, *arguments, preexec=None, directory=None, program=None):
        self.process = subprocess.Popen(
            [program or binary(), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            preexec_fn=preexec,
            cwd=directory,
        )
        self._lines = []
        self._changed = threading.Condition()
        self._ended = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        with self.process.stdout as lines:
            for raw in lines:
                with self._changed:
                    self._lines.append(raw.decode(errors="replace").rstrip("\n"))
                    self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    @property
    def output(self):
        with self._changed:
            return "\n".join(self._lines)

    def addresses(self, count=1):
        """Waits until the program has named `count` listening addresses; returns them as (host, port)."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        with self._changed:
            while True:
                found = []
                for host, port in _ADDRESS.findall("\n".join(self._lines)):
                    address = (host.strip("[]"), int(port))
                    if address not in found and address[1] != 0:
                        found.append(address)
                if len(found) >= count:
                    return found
                left = deadline - time.monotonic()
                if self._ended or left <= 0:
                    raise RuntimeError("midge named no address:\n" + "\n".join(self._lines))
                self._changed.wait(left)

    def wait_for_line(self, part):
        """Waits until the program has printed a line with `part` in it."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        with self._changed:
            while not any(part in line for line in self._lines):
                left = deadline - time.monotonic()
                if self._ended or left <= 0:
                    raise RuntimeError(f"midge never said {part!r}:\n" + "\n".join(self._lines))
                self._changed.wait(left)

    def wait(self, patience_seconds=PATIENCE_SECONDS):
        """Waits for the end of the process; returns its exit code."""
        code = self.process.wait(patience_seconds)
        self._reader.join(PATIENCE_SECONDS)
        return code

    def stop(self):
        """Ends the process if it still runs."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(PATIENCE_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(PATIENCE_SECONDS)
        self._reader.join(PATIENCE_SECONDS)


class SharedBroker:
    """The broker that all client tests use. Started with the first test, stopped with the last."""

    _midge = None
    _addresses = None

    @classmethod
    def addresses(cls):
        if cls._addresses is None:
            given = given_address()
            if given:
                given_ipv6 = given_address("MIDGE_TEST_ADDRESS_IPV6")
                cls._addresses = [given] + ([given_ipv6] if given_ipv6 else [])
            else:
                listen = ["--listen", "127.0.0.1:0"]
                if has_ipv6():
                    listen += ["--listen", "[::1]:0"]
                cls._midge = Midge("serve", *listen, "--shards", str(SHARDS), "--ephemeral")
                cls._addresses = sorted(cls._midge.addresses(len(listen) // 2))
        return cls._addresses

    @classmethod
    def address(cls):
        return next(a for a in cls.addresses() if ":" not in a[0])

    @classmethod
    def address_ipv6(cls):
        return next((a for a in cls.addresses() if ":" in a[0]), None)

    @classmethod
    def died(cls):
        """What the broker printed if it ended during the tests, else None."""
        if cls._midge is not None and cls._midge.process.poll() is not None:
            return f"midge ended with {cls._midge.process.returncode}:\n{cls._midge.output}"
        return None

    @classmethod
    def stop(cls):
        if cls._midge is not None:
            cls._midge.stop()
            cls._midge = None
        cls._addresses = None
