"""The program as an operator meets it: start-up line, signals, exit codes, one clear sentence for each mistake.

Exit codes: 0 after a requested stop, 1 when serving is not possible, 2 for wrong usage or configuration.
"""

import ctypes
import os
import pathlib
import platform
import signal
import socket
import struct
import tempfile
import threading
import time
import unittest

from broker import PATIENCE_SECONDS, SHARDS, Midge, given_address
from drivers import Publication, mosquitto, mqttjs, paho

SERVE = ("serve", "--listen", "127.0.0.1:0", "--shards", str(SHARDS), "--ephemeral")

# DISCONNECT: the server is shutting down.
SERVER_SHUTTING_DOWN = 0x8B


@unittest.skipIf(given_address(), "the tests were pointed at a running broker")
class Process(unittest.TestCase):
    """Starts and stops processes of its own."""

    def start(self, *arguments, **options):
        midge = Midge(*arguments, **options)
        self.addCleanup(midge.stop)
        return midge

    def directory(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        return pathlib.Path(directory.name)

    def configuration(self, text):
        path = self.directory() / "midge.yaml"
        path.write_text(text)
        return path

    def assertOneSentence(self, output, *parts):
        """What an operator gets to read is short, names its parts, and is no back trace."""
        for part in parts:
            self.assertIn(part, output)
        self.assertLessEqual(len(output.splitlines()), 4, output)
        self.assertNotIn("panicked", output)

    def stuck_client(self, address, filter_):
        """A 5.0 client without keep-alive that subscribes with QoS 0 and then reads nothing any more."""
        client = socket.create_connection(address)
        self.addCleanup(client.close)
        client.settimeout(PATIENCE_SECONDS)
        # Clean start, keep-alive 0, no properties, client id `stuck`.
        client.sendall(bytes([0x10, 18, 0, 4]) + b"MQTT" + bytes([5, 2, 0, 0, 0, 0, 5]) + b"stuck")
        first, length = client.recv(2)
        self.assertEqual(first, 0x20)
        while length > 0:
            length -= len(client.recv(length))
        # Packet id 1, no properties, one filter, QoS 0. The SUBACK is the last thing it looks at.
        text = filter_.encode()
        client.sendall(bytes([0x82, 6 + len(text), 0, 1, 0, 0, len(text)]) + text + bytes([0]))
        self.assertEqual(client.recv(1), b"\x90")
        return client

    def fill_a_stuck_client(self, address):
        """Gives the drain something to wait for: output that a client does not take."""
        self.stuck_client(address, "flood")
        sender = paho.Connection(5, address, "sender")
        for _ in range(200):
            # An acknowledgement for each keeps this client's own queue short.
            sender.publish(Publication("flood", bytes(100_000), 1))
        sender.close()

    # ---- Start ---------------------------------------------------------------------------------------------

    def test_start_up_line_names_address_and_shards(self):
        midge = self.start(*SERVE)
        host, port = midge.addresses()[0]
        line = next(line for line in midge.output.splitlines() if f"{host}:{port}" in line)
        self.assertRegex(line, rf"\b{SHARDS}\b")
        self.assertIn("shard", line)

    def test_serves_while_others_come_and_go(self):
        midge = self.start(*SERVE)
        address = midge.addresses()[0]
        receiver = paho.Connection(5, address, "receiver")
        self.addCleanup(receiver.close)
        receiver.subscribe([("t/#", 1)])
        for n in range(8):
            mosquitto.Kind(4).publish(address, f"sender-{n}", [Publication(f"t/{n}", b"x", 1)])
        self.assertEqual(len({m.topic for m in receiver.wait_for(8)}), 8)

    def test_more_shards_than_cores(self):
        shards = 4 * (os.cpu_count() or 1)
        midge = self.start("serve", "--listen", "127.0.0.1:0", "--shards", str(shards), "--ephemeral")
        address = midge.addresses()[0]
        receivers = [paho.Connection(5, address, f"receiver-{n}") for n in range(2 * shards)]
        for receiver in receivers:
            self.addCleanup(receiver.close)
            receiver.subscribe([("t", 1)])
        mosquitto.Kind(5).publish(address, "sender", [Publication("t", b"x", 1)])
        for receiver in receivers:
            self.assertEqual([m.payload for m in receiver.wait_for(1)], [b"x"])

    # ---- Stop ----------------------------------------------------------------------------------------------

    def test_sigterm_says_goodbye_and_exits_with_0(self):
        midge = self.start(*SERVE)
        address = midge.addresses()[0]
        clients = [paho.Connection(5, address, f"c{n}") for n in range(8)]
        clients += [mqttjs.Connection(5, address, f"j{n}") for n in range(4)]
        old_client = paho.Connection(4, address, "old")
        midge.process.send_signal(signal.SIGTERM)
        self.assertEqual(midge.wait(), 0, midge.output)
        for client in clients:
            client.wait_until(lambda _, c=client: c.disconnect_reason is not None)
            self.assertEqual(client.disconnect_reason, SERVER_SHUTTING_DOWN)
        # An older client has no such packet: its connection ends.
        self.assertTrue(old_client.disconnected.wait(PATIENCE_SECONDS))
        for client in [*clients, old_client]:
            client.close()

    def test_sigint_stops_as_well(self):
        midge = self.start(*SERVE)
        midge.addresses()
        midge.process.send_signal(signal.SIGINT)
        self.assertEqual(midge.wait(), 0, midge.output)

    def test_sigterm_finishes_what_was_acknowledged(self):
        midge = self.start(*SERVE)
        address = midge.addresses()[0]
        receiver = paho.Connection(5, address, "receiver")
        self.addCleanup(receiver.close)
        receiver.subscribe([("t", 0)])
        sender = paho.Connection(5, address, "sender")
        self.addCleanup(sender.close)
        sender.publish(Publication("t", b"last words", 1))
        midge.process.send_signal(signal.SIGTERM)
        self.assertEqual(midge.wait(), 0, midge.output)
        self.assertEqual([m.payload for m in receiver.wait_for(1)], [b"last words"])

    def test_second_signal_stops_at_once(self):
        midge = self.start(*SERVE)
        self.fill_a_stuck_client(midge.addresses()[0])
        midge.process.send_signal(signal.SIGTERM)
        midge.wait_for_line("drain")
        started = time.monotonic()
        midge.process.send_signal(signal.SIGINT)
        self.assertEqual(midge.wait(), 1, midge.output)
        # The default drain timeout is 10 s, and the stuck client would use it up.
        self.assertLess(time.monotonic() - started, 3.0)

    def test_the_drain_has_an_end(self):
        path = self.configuration("shutdown: {drain_timeout: 500ms}\n")
        midge = self.start(*SERVE, "--config", str(path))
        self.fill_a_stuck_client(midge.addresses()[0])
        started = time.monotonic()
        midge.process.send_signal(signal.SIGTERM)
        self.assertEqual(midge.wait(), 0, midge.output)
        self.assertLess(time.monotonic() - started, 5.0)

    # ---- Mistakes ------------------------------------------------------------------------------------------

    def test_occupied_port(self):
        with socket.socket() as occupant:
            occupant.bind(("127.0.0.1", 0))
            occupant.listen()
            address = f"127.0.0.1:{occupant.getsockname()[1]}"
            midge = self.start("serve", "--listen", address, "--ephemeral")
            self.assertEqual(midge.wait(), 1, midge.output)
        self.assertOneSentence(midge.output, address, "in use")

    def test_unknown_configuration_key(self):
        path = self.configuration("# A comment.\n\nno_such_key: 1\n")
        for arguments in (("serve", "--config", str(path)), ("check", "--config", str(path))):
            with self.subTest(command=arguments[0]):
                midge = self.start(*arguments)
                self.assertEqual(midge.wait(), 2, midge.output)
                self.assertIn(f"{path}:3:1", midge.output)
                self.assertIn("no_such_key", midge.output)
                self.assertNotIn("panicked", midge.output)

    def test_configuration_that_is_no_yaml(self):
        path = self.configuration("listeners: [\n")
        midge = self.start("serve", "--config", str(path))
        self.assertEqual(midge.wait(), 2, midge.output)
        self.assertRegex(midge.output, rf"{path}:\d+:\d+")

    def test_missing_configuration(self):
        path = str(self.directory() / "absent.yaml")
        midge = self.start("serve", "--config", path)
        self.assertEqual(midge.wait(), 2, midge.output)
        self.assertOneSentence(midge.output, path)

    def test_the_bundled_configuration_is_valid(self):
        bundled = pathlib.Path(__file__).resolve().parents[2] / "configs" / "default.yaml"
        midge = self.start("check", "--config", str(bundled))
        self.assertEqual(midge.wait(), 0, midge.output)

    def test_wrong_usage(self):
        for arguments in (
            ("serve", "--no-such-option"),
            ("no-such-command",),
            ("serve", "--listen", "nonsense"),
            ("serve", "--shards", "0", "--ephemeral"),
            ("serve", "--shards", "many"),
        ):
            with self.subTest(arguments=arguments):
                midge = self.start(*arguments)
                self.assertEqual(midge.wait(), 2, midge.output)
                self.assertNotIn("panicked", midge.output)

    def test_help_and_version(self):
        for arguments, part in ((("--help",), "serve"), (("serve", "--help"), "--listen"), (("--version",), "midge")):
            with self.subTest(arguments=arguments):
                midge = self.start(*arguments)
                self.assertEqual(midge.wait(), 0, midge.output)
                self.assertIn(part, midge.output)

    def test_kernel_that_forbids_io_uring(self):
        preexec = forbid_io_uring()
        if preexec is None:
            self.skipTest(f"no seccomp filter written for {platform.machine()}")
        midge = self.start(*SERVE, preexec=preexec)
        self.assertEqual(midge.wait(), 1, midge.output)
        self.assertOneSentence(midge.output, "io_uring")

    # ---- A bad client --------------------------------------------------------------------------------------

    def test_garbage_disturbs_nobody(self):
        midge = self.start(*SERVE)
        address = midge.addresses()[0]
        receiver = paho.Connection(5, address, "receiver")
        self.addCleanup(receiver.close)
        receiver.subscribe([("t", 1)])
        for garbage in (
            b"GET / HTTP/1.1\r\n\r\n",
            b"\x00" * 64,
            b"\xff" * 64,
            b"\x10\xff\xff\xff\xff\x7f",
            b"\x30\x02",
        ):
            with socket.create_connection(address) as bad:
                bad.settimeout(PATIENCE_SECONDS)
                bad.sendall(garbage)
                bad.shutdown(socket.SHUT_WR)
                try:
                    while bad.recv(4_096):
                        pass
                except ConnectionResetError:
                    pass
        sender = paho.Connection(5, address, "sender")
        self.addCleanup(sender.close)
        sender.publish(Publication("t", b"still here", 1))
        self.assertEqual([m.payload for m in receiver.wait_for(1)], [b"still here"])
        self.assertIsNone(midge.process.poll())

    def test_a_stopped_reader_disturbs_nobody(self):
        midge = self.start(*SERVE)
        address = midge.addresses()[0]
        before = resident_bytes(midge.process.pid)
        self.stuck_client(address, "t/#")
        receiver = paho.Connection(5, address, "receiver")
        self.addCleanup(receiver.close)
        receiver.subscribe([("t/mark", 1)])
        payload = bytes(100_000)
        count = 2_000
        sender = paho.Connection(5, address, "sender")
        self.addCleanup(sender.close)
        peak = [0]
        done = threading.Event()

        def watch():
            while not done.wait(0.05):
                peak[0] = max(peak[0], resident_bytes(midge.process.pid))

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            for n in range(count):
                # An acknowledgement now and then keeps this client's own queue short.
                sender.publish(Publication("t/flood", payload, 1 if n % 50 == 0 else 0))
                if n % 500 == 0:
                    sender.publish(Publication("t/mark", f"{n}".encode(), 1))
        finally:
            done.set()
            watcher.join()
        self.assertEqual([m.payload for m in receiver.wait_for(4)], [b"0", b"500", b"1000", b"1500"])
        self.assertIsNone(midge.process.poll())
        # 200 MB were published to it; its share of the memory is bounded far below.
        self.assertLess(peak[0] - before, 64 * 1024 * 1024)


def resident_bytes(process_id):
    """The resident memory of a process."""
    with open(f"/proc/{process_id}/statm", encoding="ascii") as numbers:
        return int(numbers.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def forbid_io_uring():
    """A function for a new process that makes io_uring_setup fail with EPERM, as container runtimes do.

    None where the filter below does not fit the machine.
    """
    # The AUDIT_ARCH_ number of the machine; io_uring_setup has the same number on both.
    architectures = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
    architecture = architectures.get(platform.machine())
    if architecture is None:
        return None
    io_uring_setup = 425
    load, jump_if_equal, give_back = 0x20, 0x15, 0x06
    allow, fail_with_eperm = 0x7FFF0000, 0x00050000 | 1
    program = [
        (load, 0, 0, 4),  # The architecture.
        (jump_if_equal, 0, 3, architecture),
        (load, 0, 0, 0),  # The number of the system call.
        (jump_if_equal, 0, 1, io_uring_setup),
        (give_back, 0, 0, fail_with_eperm),
        (give_back, 0, 0, allow),
    ]
    code = b"".join(struct.pack("HBBI", *instruction) for instruction in program)
    buffer = ctypes.create_string_buffer(code, len(code))
    libc = ctypes.CDLL(None, use_errno=True)

    class Filter(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("code", ctypes.c_void_p)]

    filter_ = Filter(len(program), ctypes.addressof(buffer))

    def apply():
        set_no_new_privileges, set_seccomp, mode_filter = 38, 22, 2
        if libc.prctl(set_no_new_privileges, 1, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "no_new_privs")
        if libc.prctl(set_seccomp, mode_filter, ctypes.byref(filter_), 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "seccomp")
        # Keeps the buffer alive for as long as this function is.
        return buffer

    return apply
