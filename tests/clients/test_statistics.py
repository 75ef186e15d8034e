"""`midge stats` and `midge top`: what they say of a broker that `midge-flood` has driven, message for message.

`midge-flood` is taken from beside `MIDGE_BIN`, or from `MIDGE_FLOOD_BIN`.
"""

import json
import os
import pathlib
import pty
import select
import signal
import subprocess
import tempfile
import time
import unittest

import broker

# A shard publishes within a millisecond; what takes longer here is a machine with other things to do.
PATIENCE_SECONDS = broker.PATIENCE_SECONDS


def flood_binary():
    """The load generator, or None."""
    given = os.environ.get("MIDGE_FLOOD_BIN")
    path = pathlib.Path(given) if given else pathlib.Path(broker.binary()).with_name("midge-flood")
    return str(path) if path.exists() else None


@unittest.skipIf(broker.given_address(), "needs a broker of its own")
class StatisticsCase(unittest.TestCase):
    def setUp(self):
        self.directory = tempfile.TemporaryDirectory(prefix="midge-stats-")
        self.addCleanup(self.directory.cleanup)

    def serve(self, shards):
        midge = broker.Midge(
            "serve", "--listen", "127.0.0.1:0", "--shards", str(shards), "--ephemeral",
            "--runtime-dir", self.directory.name,
        )  # fmt: skip
        self.addCleanup(midge.stop)
        return midge, midge.addresses()[0][1]

    def command(self, *arguments, environment=None):
        """Runs `midge COMMAND --runtime-dir …` to its end."""
        return subprocess.run(
            [broker.binary(), arguments[0], "--runtime-dir", self.directory.name, *arguments[1:]],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=PATIENCE_SECONDS,
            env=environment,
            check=False,
        )

    def stats(self):
        done = self.command("stats", "--json")
        self.assertEqual(done.returncode, 0, done.stderr)
        return json.loads(done.stdout)

    def until(self, expected):
        """Waits until `expected(total)`, a dictionary of (found, expected) pairs, agrees; returns the reading."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            reading = self.stats()
            pairs = expected(reading["total"])
            if all(found == wanted for found, wanted in pairs.values()):
                return reading
            if time.monotonic() > deadline:
                wrong = {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
                self.fail(f"(found, expected): {wrong}")
            time.sleep(0.02)


@unittest.skipIf(not broker.given_address() and not flood_binary(), "midge-flood is not built")
class AgreesWithFlood(StatisticsCase):
    """The end of a run: the broker's counts are the flooder's."""

    def flood(self, port, *arguments):
        done = subprocess.run(
            [flood_binary(), *arguments, "--port", str(port), "--json"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=60,
            check=False,
        )
        self.assertEqual(done.returncode, 0, done.stderr)
        report = json.loads(done.stdout)
        self.assertEqual((report["failed"], report["lost"], report["duplicated"]), (0, 0, 0), report)
        self.assertGreater(report["delivered"], 0)
        return report

    def check_pairs(self, shards, qos):
        _, port = self.serve(shards)
        pairs = 10
        report = self.flood(
            port, "pairs", "-c", str(pairs), "-q", str(qos), "--duration", "1", "--warmup", "0.2"
        )

        def expected(total):
            latency = total["histograms"]["latency_ns"]
            measured = sum(way[str(qos)]["count"] for way in latency.values())
            received, sent = total["packets_received"], total["packets_sent"]
            pairs_of = {
                "publishes_received": (total["publishes_received"][str(qos)], report["sent"]),
                "publishes_sent": (total["publishes_sent"][str(qos)], report["delivered"]),
                "PUBLISH in": (received["publish"], report["sent"]),
                "PUBLISH out": (sent["publish"], report["delivered"]),
                "latencies": (measured + total["messages_queued"], report["delivered"]),
                "connects": (total["connects_accepted"], report["connected"]),
                "CONNECT": (received["connect"], report["connected"]),
                "CONNACK": (sent["connack"], report["connected"]),
                "SUBSCRIBE": (received["subscribe"], pairs),
                "SUBACK": (sent["suback"], pairs),
                "accepted": (total["connections_accepted"], report["connected"]),
                "closed": (sum(total["connections_closed"].values()), report["connected"]),
                "connections": (total["connections_now"], 0),
                "by state": (sum(total["connections_by_state_now"].values()), 0),
                "sessions": (total["sessions_now"], 0),
                "subscriptions": (total["subscriptions_now"], 0),
                "in flight": (total["messages_in_flight_now"], 0),
                "queued": (total["messages_queued_now"], 0),
                "dropped": (sum(total["messages_dropped"].values()), 0),
                "hops": (total["hops_received"], total["hops_sent"]),
            }
            if qos == 1:
                pairs_of["PUBACK out"] = (sent["puback"], report["sent"])
                pairs_of["PUBACK in"] = (received["puback"], report["delivered"])
            if qos == 2:
                # What follows PUBREC the flooder does not wait for at its end.
                pairs_of["PUBREC out"] = (sent["pubrec"], report["sent"])
            return pairs_of

        reading = self.until(expected)
        self.assertEqual(len(reading["cores"]), shards)
        for name in ("loop_turns", "connections_accepted", "hops_sent"):
            parts = sum(core[name] for core in reading["cores"])
            self.assertEqual(parts, reading["total"][name], name)
        if shards > 1:
            self.assertGreater(reading["total"]["hops_sent"], 0)
            self.assertGreater(reading["total"]["connections_handed_over"], 0)

    def test_qos0_one_shard(self):
        self.check_pairs(1, 0)

    def test_qos0_three_shards(self):
        self.check_pairs(3, 0)

    def test_qos1_one_shard(self):
        self.check_pairs(1, 1)

    def test_qos1_three_shards(self):
        self.check_pairs(3, 1)

    def test_qos2_three_shards(self):
        self.check_pairs(3, 2)

    def test_connections_are_counted_while_they_are_there(self):
        _, port = self.serve(3)
        count = 50
        flood = subprocess.Popen(
            [flood_binary(), "connect", "-c", str(count), "--hold", "60", "--port", str(port), "--json"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            self.until(
                lambda total: {
                    "connected": (total["connections_by_state_now"]["connected"], count),
                    "connections": (total["connections_now"], count),
                    "sessions": (total["sessions_now"], count),
                    "subscriptions": (total["subscriptions_now"], count),
                    "handed over": (total["connections_handed_over"], total["connections_adopted"]),
                }
            )
        finally:
            flood.send_signal(signal.SIGINT)
            flood.wait(PATIENCE_SECONDS)
        self.until(
            lambda total: {
                "connections": (total["connections_now"], 0),
                "subscriptions": (total["subscriptions_now"], 0),
                "closed": (sum(total["connections_closed"].values()), count),
            }
        )

    def test_the_busiest_are_named(self):
        _, port = self.serve(1)
        # Longer than a window of five seconds, so that one ends while there is something to count.
        report = self.flood(port, "pairs", "-c", "3", "--duration", "6", "--warmup", "0", "-t", "busy")
        busiest = self.stats()["busiest"]
        self.assertEqual({line["text"] for line in busiest["topics"]}, {f"busy/{n}" for n in range(3)})
        self.assertEqual(len(busiest["clients"]), 3)
        counted = sum(line["count"] for line in busiest["topics"])
        share = (busiest["to_ns"] - busiest["from_ns"]) / 6e9
        self.assertGreater(counted, 0.1 * share * report["sent"])
        self.assertLessEqual(counted, report["sent"])


class Commands(StatisticsCase):
    """What the two commands do where there is nothing to show, and in pipes."""

    def test_without_a_broker_both_say_so(self):
        for name in ("stats", "top"):
            done = self.command(name)
            self.assertEqual(done.returncode, 1, name)
            self.assertEqual(done.stdout, b"", name)
            self.assertIn(b"no broker runs here", done.stderr, name)
            self.assertIn(self.directory.name.encode(), done.stderr, name)

    def test_pages_of_another_build_are_refused(self):
        midge, _ = self.serve(1)
        page = pathlib.Path(self.directory.name, str(midge.process.pid), "shard-0.stats")
        with page.open("r+b") as file:
            file.seek(8)
            file.write((99).to_bytes(8, "little"))
        done = self.command("stats")
        self.assertEqual(done.returncode, 1)
        self.assertIn(b"layout version 99", done.stderr)

    def test_a_table_in_a_pipe_has_no_escapes(self):
        self.serve(2)
        done = self.command("stats", "--all")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertNotIn(b"\x1b", done.stdout)
        self.assertIn(b"total", done.stdout)
        self.assertIn(b"core 1", done.stdout)
        self.assertIn(b"packets_received{publish}", done.stdout)

    def test_watching_writes_a_line_each_time_and_ends_with_the_broker(self):
        midge, _ = self.serve(2)
        watch = subprocess.Popen(
            [broker.binary(), "stats", "--runtime-dir", self.directory.name, "--json", "--watch", "0.05"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for _ in range(3):
            reading = json.loads(watch.stdout.readline())
            self.assertGreater(reading["interval"]["seconds"], 0.04)
            self.assertIn("loop_turns", reading["interval"]["total"])
        midge.stop()
        _, errors = watch.communicate(timeout=PATIENCE_SECONDS)
        self.assertEqual(watch.returncode, 1)
        self.assertIn(b"has ended", errors)

    def test_top_needs_a_terminal(self):
        self.serve(1)
        done = self.command("top")
        self.assertEqual(done.returncode, 1)
        self.assertIn(b"top needs a terminal", done.stderr)

    def top(self, environment):
        """Runs `top` in a terminal until it has drawn its cores, ends it with `q`; what it wrote."""
        master, slave = pty.openpty()
        try:
            top = subprocess.Popen(
                [broker.binary(), "top", "--runtime-dir", self.directory.name, "--interval", "0.05"],
                stdin=slave,
                stdout=slave,
                stderr=subprocess.PIPE,
                env=environment,
            )
            os.close(slave)
            written, asked = b"", False
            deadline = time.monotonic() + PATIENCE_SECONDS
            while time.monotonic() < deadline:
                if not select.select([master], [], [], 0.1)[0]:
                    continue
                try:
                    part = os.read(master, 65536)
                except OSError:  # The other end is closed: top has ended.
                    break
                written += part
                if not asked and written.count(b"turn p99") > 2:
                    os.write(master, b"q")
                    asked = True
            _, errors = top.communicate(timeout=PATIENCE_SECONDS)
            self.assertEqual(top.returncode, 0, errors)
            return written
        finally:
            os.close(master)

    def test_top_draws_and_gives_the_terminal_back(self):
        self.serve(2)
        written = self.top({**os.environ, "TERM": "xterm", "NO_COLOR": ""})
        self.assertIn(b"2 cores", written)
        self.assertIn(b"receive to socket", written)
        self.assertIn(b"\x1b[1m", written)
        self.assertTrue(written.startswith(b"\x1b[?1049h"), written[:80])
        self.assertTrue(written.rstrip().endswith(b"\x1b[?1049l"), written[-80:])

    def test_top_respects_no_color(self):
        self.serve(1)
        written = self.top({**os.environ, "TERM": "xterm", "NO_COLOR": "1"})
        self.assertNotIn(b"\x1b[1m", written)
        self.assertNotIn(b"\x1b[32m", written)


if __name__ == "__main__":
    unittest.main()
