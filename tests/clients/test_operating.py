"""The commands of an operator against a running broker, and what it publishes below `$SYS`."""

import json
import os
import pathlib
import subprocess
import tempfile
import time
import unittest

from broker import PATIENCE_SECONDS, SHARDS, Midge, binary, given_address
from drivers import Publication, mosquitto, mqttjs, paho

# DISCONNECT: administrative action.
ADMINISTRATIVE_ACTION = 0x98

# Every second, which is as often as it gets.
CONFIGURATION = "sys: {interval: 1s}\n"


@unittest.skipIf(given_address(), "the tests were pointed at a running broker")
class Operating(unittest.TestCase):
    """One broker for each test, found in a runtime directory of its own."""

    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = pathlib.Path(directory.name)
        self.runtime = self.directory / "run"
        self.midge = self.start()
        self.address = self.midge.addresses()[0]

    def start(self):
        path = self.directory / "midge.yaml"
        path.write_text(CONFIGURATION)
        midge = Midge(
            "serve",
            "--config",
            str(path),
            "--listen",
            "127.0.0.1:0",
            "--shards",
            str(SHARDS),
            "--ephemeral",
            "--runtime-dir",
            str(self.runtime),
        )
        self.addCleanup(midge.stop)
        return midge

    def connect(self, client_id, version=5, **options):
        connection = paho.Connection(version, self.address, client_id, **options)
        self.addCleanup(connection.close)
        return connection

    def run_command(self, *arguments):
        """Exit code, standard output, standard error."""
        command = [binary(), *arguments, "--runtime-dir", str(self.runtime)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False)
        return done.returncode, done.stdout, done.stderr

    def rows(self, *arguments):
        """The JSON lines of a command that succeeds."""
        code, out, err = self.run_command(*arguments, "--json")
        self.assertEqual((code, err), (0, ""), out)
        return [json.loads(line) for line in out.splitlines()]

    def wait_for_rows(self, wanted, *arguments):
        """Repeats a command until `wanted` is true of its rows."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            rows = self.rows(*arguments)
            if wanted(rows):
                return rows
            self.assertLess(time.monotonic(), deadline, rows)

    # ---- Clients -------------------------------------------------------------------------------------------

    def test_clients_of_every_kind_are_listed(self):
        self.connect("paho", expiry_seconds=3600, keep_alive_seconds=30).subscribe([("a", 1), ("b/#", 0)])
        self.connect("old", version=3, clean=False)
        kind = mosquitto.Kind(4)
        subscriber = kind.subscriber(self.address, "mosquitto", [("c", 1)])
        self.addCleanup(subscriber.close)
        away = paho.Connection(4, self.address, "away", clean=False)
        away.subscribe([("d", 1)])
        away.close()
        kind.publish(self.address, "publisher", [Publication("d", b"x", 1)] * 3)

        rows = {row["client_id"]: row for row in self.rows("clients")}
        self.assertEqual(set(rows), {"paho", "old", "mosquitto", "away"})
        self.assertEqual(
            {name: (row["version"], row["connected"], row["subscriptions"]) for name, row in rows.items()},
            {
                "paho": ("5.0", True, 2),
                "old": ("3.1", True, 0),
                "mosquitto": ("3.1.1", True, 1),
                "away": (None, False, 1),
            },
        )
        self.assertEqual(rows["paho"]["keep_alive_seconds"], 30)
        self.assertEqual(rows["paho"]["session_expiry_interval_seconds"], 3600)
        self.assertEqual(rows["mosquitto"]["session_expiry_interval_seconds"], 0)
        self.assertTrue(rows["paho"]["address"].startswith("127.0.0.1:"))
        self.assertEqual(rows["away"]["queued"] + rows["away"]["in_flight"], 3)

        for arguments, expected in (
            (["--connected"], {"paho", "old", "mosquitto"}),
            (["--disconnected"], {"away"}),
            (["--client-id", "old"], {"old"}),
            (["--client-id", "nobody"], set()),
            (["--prefix", "m"], {"mosquitto"}),
            (["--address", "127.0.0.1"], {"paho", "old", "mosquitto"}),
            (["--address", "::1"], set()),
        ):
            found = {row["client_id"] for row in self.rows("clients", *arguments)}
            self.assertEqual(found, expected, arguments)

        code, out, err = self.run_command("clients")
        self.assertEqual((code, err), (0, ""))
        lines = out.splitlines()
        self.assertEqual(len(lines), 5, out)
        self.assertTrue(lines[0].startswith("CLIENT ID  STATE"), out)
        line = next(line for line in lines if line.startswith("away "))
        self.assertEqual(line.split()[1], "away")

    def test_a_list_comes_in_parts(self):
        for n in range(25):
            self.connect(f"client-{n}", version=4)
        found, after = [], []
        while True:
            rows = self.rows("clients", "--limit", "10", *after)
            cursor = rows.pop()["next"] if "next" in rows[-1] else None
            self.assertLessEqual(len(rows), 10)
            found += [row["client_id"] for row in rows]
            if cursor is None:
                break
            after = ["--after", cursor]
        self.assertEqual(sorted(found), sorted(f"client-{n}" for n in range(25)))

        code, out, err = self.run_command("clients", "--limit", "10")
        self.assertEqual((code, len(out.splitlines())), (0, 11))
        self.assertRegex(err, r"^there may be more: go on with --after '\S+', or --limit 0 for all\n$")
        code, out, err = self.run_command("clients", "--after", "what?")
        self.assertEqual((code, out, err), (2, "", "`what?` is no cursor of this list\n"))

    def test_an_id_does_not_speak_to_the_terminal(self):
        self.connect("\x1b[31mred", version=4)
        _, out, _ = self.run_command("clients")
        self.assertIn(r"\u{1b}[31mred", out)
        self.assertNotIn("\x1b", out)
        self.assertEqual([row["client_id"] for row in self.rows("clients")], ["\x1b[31mred"])

    # ---- Subscriptions, retained messages ------------------------------------------------------------------

    def test_subscriptions_and_their_options(self):
        one = self.connect("one")
        one.subscribe([("a/+", 2)], no_local=True, retain_as_published=True, identifier=7)
        other = mqttjs.Kind(5).subscriber(self.address, "other", [("a/+", 0)])
        self.addCleanup(other.close)
        for name in ("worker-1", "worker-2"):
            self.connect(name).subscribe([("$share/team/jobs/#", 1)])

        rows = self.rows("subscriptions")
        by_holder = {(row["filter"], row["client_id"]): row for row in rows}
        self.assertEqual(
            set(by_holder), {("a/+", "one"), ("a/+", "other"), ("$share/team/jobs/#", None)}, rows
        )
        row = by_holder["a/+", "one"]
        options = ("qos", "no_local", "retain_as_published", "subscription_identifier", "connected")
        self.assertEqual([row[key] for key in options], [2, True, True, 7, True])
        shared = by_holder["$share/team/jobs/#", None]
        self.assertEqual([shared[key] for key in ("members", "online", "backlog")], [2, 2, 0])

        filters = [row["filter"] for row in self.rows("subscriptions", "--client-id", "worker-2")]
        self.assertEqual(filters, ["$share/team/jobs/#"])
        found = {row["client_id"] for row in self.rows("subscriptions", "--filter", "a/+")}
        self.assertEqual(found, {"one", "other"})
        self.assertEqual(len(self.rows("subscriptions", "--filter", "$share/team/jobs/#")), 1)
        code, _, err = self.run_command("subscriptions", "--filter", "a/#/b")
        self.assertEqual((code, err), (2, "`a/#/b` is no Topic Filter: '#' must be the whole last level\n"))

    def test_retained_messages_come_and_go(self):
        publisher = self.connect("publisher")
        for n in range(5):
            publisher.publish(Publication(f"state/{n}", b"x" * n or b"-", 1, retain=True))
        expiring = Publication("soon/gone", b"123", 2, retain=True, properties={"message_expiry_seconds": 60})
        publisher.publish(expiring)
        rows = {row["topic"]: row for row in self.rows("retained")}
        self.assertEqual(set(rows), {"soon/gone", *(f"state/{n}" for n in range(5))})
        self.assertEqual((rows["state/4"]["payload_bytes"], rows["state/4"]["qos"]), (4, 1))
        self.assertIsNone(rows["state/4"]["expiry_interval_seconds"])
        self.assertIn(rows["soon/gone"]["expiry_interval_seconds"], range(1, 61))
        self.assertEqual([row["topic"] for row in self.rows("retained", "--filter", "state/3")], ["state/3"])
        self.assertEqual(len(self.rows("retained", "--filter", "state/+")), 5)
        publisher.publish(Publication("state/3", b"", 1, retain=True))
        self.assertEqual(len(self.rows("retained", "--filter", "state/#")), 4)

    # ---- Kick ----------------------------------------------------------------------------------------------

    def test_a_kicked_client_is_told_and_its_will_goes_out(self):
        watcher = self.connect("watcher")
        watcher.subscribe([("will/#", 1)])
        victim = self.connect("victim", expiry_seconds=60, will=Publication("will/victim", b"gone", 1))
        victim.subscribe([("t", 1)])
        old = self.connect("old", version=4, will=Publication("will/old", b"gone", 1))

        code, out, err = self.run_command("kick", "victim")
        self.assertEqual((code, out, err), (0, "the connection of `victim` is closed\n", ""))
        victim.wait_until(lambda _: victim.disconnect_reason is not None)
        self.assertEqual(victim.disconnect_reason, ADMINISTRATIVE_ACTION)
        self.assertEqual(self.rows("kick", "old"), [{"client_id": "old", "outcome": "closed"}])
        self.assertTrue(old.disconnected.wait(PATIENCE_SECONDS))
        self.assertEqual({m.topic for m in watcher.wait_for(2)}, {"will/victim", "will/old"})

        # The session is kept as it asked: messages wait for it.
        watcher.publish(Publication("t", b"later", 1))
        back = self.connect("victim", clean=False, expiry_seconds=60)
        self.assertTrue(back.session_present)
        self.assertEqual([m.payload for m in back.wait_for(1)], [b"later"])
        self.midge.wait_for_line("closed by an operator")

        code, out, err = self.run_command("kick", "old")
        self.assertEqual((code, out, err), (1, "", "error: there is no client `old`\n"))
        code, out, _ = self.run_command("kick", "old", "--json")
        self.assertEqual((code, json.loads(out)["outcome"]), (1, "unknown"))

    def test_a_client_that_is_away_is_not_kicked(self):
        away = paho.Connection(4, self.address, "away", clean=False)
        away.close()
        self.wait_for_rows(lambda rows: len(rows) == 1, "clients", "--disconnected")
        code, out, err = self.run_command("kick", "away")
        self.assertEqual((code, out), (1, ""))
        self.assertEqual(err, "error: `away` has no connection; its session is kept\n")

    # ---- Explain -------------------------------------------------------------------------------------------

    def test_explain_says_what_happens(self):
        clients = {name: self.connect(name) for name in ("a", "b", "c", "d", "e", "f")}
        for name in ("a", "b"):
            clients[name].subscribe([("t/+", 1)])
        clients["b"].subscribe([("t/1", 1)])
        for name in ("c", "d", "e"):
            clients[name].subscribe([("$share/g/t/#", 1)])
        clients["f"].publish(Publication("t/1", b"kept", 1, retain=True))
        for name in ("a", "b"):
            clients[name].wait_for(1)

        for _ in range(6):
            (explained,) = self.rows("explain", "t/1", "--from", "f")
            receivers = {(row["client_id"], row["filter"]) for row in explained["receivers"]}
            self.assertEqual(receivers, {("a", "t/+"), ("b", "t/+"), ("b", "t/1")})
            self.assertTrue(explained["complete"])
            self.assertEqual(explained["retained"]["payload_bytes"], 4)
            (group,) = explained["groups"]
            self.assertEqual((group["members"], group["online"]), (3, 3))
            named = {shard["shard"] for shard in explained["shards"] if shard["named"]}
            needed = {shard["shard"] for shard in explained["shards"] if shard["filters"]}
            self.assertLessEqual(needed, named)
            self.assertEqual(explained["hops_max"], len(named - {explained["from"]}))
            before = {name: len(clients[name].messages) for name in "cde"}
            clients["f"].publish(Publication("t/1", b"next", 1))
            chosen = clients[group["next_client_id"]]
            chosen.wait_until(lambda m, count=before[group["next_client_id"]]: len(m) == count + 1)
            self.assertEqual(sum(len(clients[name].messages) for name in "cde"), sum(before.values()) + 1)

        code, out, _ = self.run_command("explain", "t/1")
        self.assertEqual(code, 0)
        self.assertIn("receivers     3 subscriptions and 1 shared subscription\n", out)
        self.assertIn("retained      4 B, QoS 1, ", out)
        code, out, _ = self.run_command("explain", "nobody/here")
        self.assertEqual(code, 0)
        self.assertIn("receivers     nobody\n", out)
        code, _, err = self.run_command("explain", "t/#")
        self.assertEqual((code, err), (2, "`t/#` is no Topic Name: the Topic Name contains a wildcard\n"))

    # ---- Which broker --------------------------------------------------------------------------------------

    def test_several_brokers_want_a_choice(self):
        second = self.start()
        second.addresses()
        self.connect("of the first")
        code, _, err = self.run_command("clients")
        self.assertEqual(code, 1)
        self.assertIn("2 brokers run here, with the process ids ", err)
        pid = str(self.midge.process.pid)
        self.assertEqual(len(self.rows("clients", "--pid", pid)), 1)
        self.assertEqual(self.rows("clients", "--pid", str(second.process.pid)), [])

        # One that was killed is not in the way.
        second.process.kill()
        second.wait()
        self.assertTrue((self.runtime / str(second.process.pid)).is_dir())
        self.assertEqual(len(self.rows("clients")), 1)
        self.start().addresses()
        self.assertFalse((self.runtime / str(second.process.pid)).is_dir())

    def test_without_a_broker_the_commands_say_so(self):
        self.midge.stop()
        for command in (["clients"], ["subscriptions"], ["retained"], ["kick", "x"], ["explain", "t"]):
            code, out, err = self.run_command(*command)
            self.assertEqual((code, out), (1, ""), command)
            self.assertIn("error: no broker runs here (", err)
        self.assertEqual(os.listdir(self.runtime), [])

    # ---- $SYS ----------------------------------------------------------------------------------------------

    def test_sys_has_mosquittos_names_and_right_values(self):
        clients = [self.connect(f"client-{n}", version=4) for n in range(3)]
        clients[0].subscribe([("t", 1), ("u", 0)])
        clients[1].subscribe([("$share/g/t", 1)])
        away = paho.Connection(4, self.address, "away", clean=False)
        away.close()
        for n in range(10):
            clients[2].publish(Publication("t", b"12345", 1, retain=n == 0))
        clients[0].wait_for(10)
        clients[1].wait_for(10)

        subscriber = mosquitto.Kind(5).subscriber(self.address, "watcher", [("$SYS/#", 0)])
        self.addCleanup(subscriber.close)
        expected = {
            "clients/total": b"5",
            "clients/connected": b"4",
            "clients/active": b"4",
            "clients/disconnected": b"1",
            "clients/inactive": b"1",
            "clients/maximum": b"4",
            "clients/expired": b"0",
            "connections/socket/count": b"4",
            "subscriptions/count": b"4",
            "shared_subscriptions/count": b"1",
            "retained messages/count": b"1",
            "publish/messages/received": b"10",
            "publish/messages/dropped": b"0",
        }

        def values(messages):
            return {m.topic.removeprefix("$SYS/broker/"): m.payload for m in messages}

        def right(messages):
            found = values(messages)
            return all(found.get(name) == value for name, value in expected.items())

        try:
            messages = subscriber.wait_until(right)
        except Exception:
            found = values(subscriber.messages)
            self.fail({name: (found.get(name), value) for name, value in expected.items()})
        found = values(messages)
        self.assertRegex(found["version"], rb"^midge version \d+\.\d+\.\d+$")
        self.assertRegex(found["uptime"], rb"^\d+ seconds$")
        # What the watcher itself gets counts as well.
        self.assertGreaterEqual(int(found["publish/messages/sent"]), 20)
        self.assertGreaterEqual(int(found["bytes/received"]), 200)
        self.assertRegex(found["load/publish/received/1min"], rb"^\d+\.\d\d$")
        self.assertGreater(float(found["load/publish/received/1min"]), 0)
        for time_ in ("1min", "5min", "15min"):
            for load in ("messages/received", "bytes/sent", "publish/dropped", "sockets", "connections"):
                self.assertIn(f"load/{load}/{time_}", found)
        received = sum(int(found[f"cores/{n}/publish/messages/received"]) for n in range(SHARDS))
        self.assertEqual(received, 10)
        # Retained from before, then as they change.
        self.assertTrue(messages[0].retain)

    def test_sys_is_the_brokers_own(self):
        watcher = self.connect("watcher")
        watcher.subscribe([("#", 1), ("+/broker/uptime", 1), ("$SYS/broker/uptime", 1)])
        watcher.wait_for(2)
        forger = self.connect("forger", version=4)
        forger.publish(Publication("$SYS/broker/uptime", b"a lie", 1, retain=True))
        forger.publish(Publication("end", b"", 1))
        watcher.wait_until(lambda messages: any(m.topic == "end" for m in messages))
        own = [m for m in watcher.messages if m.topic != "end"]
        self.assertEqual({m.topic for m in own}, {"$SYS/broker/uptime"})
        self.assertNotIn(b"a lie", [m.payload for m in own])
        self.assertEqual(self.rows("retained"), [])
        self.assertIn(
            "$SYS/broker/version", [row["topic"] for row in self.rows("retained", "--filter", "$SYS/#")]
        )


if __name__ == "__main__":
    unittest.main()
