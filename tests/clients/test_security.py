"""Users and rules: who is let in, what each may do, and that both can be exchanged while clients are connected.

The last two tests ask Debian's mosquitto the same questions about the same files, a thousand each.
"""

import contextlib
import pathlib
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import unittest

from broker import PATIENCE_SECONDS, SHARDS, Midge, binary, given_address
from drivers import Failure, Publication, paho
from drivers.wire import packet, text

SERVE = ("serve", "--shards", str(SHARDS), "--ephemeral")

RULES = """\
topic read fence
user anna
topic readwrite #
user ben
topic read fence
topic read open/#
topic write in/ben
pattern readwrite own/%c/#
"""


@unittest.skipIf(given_address(), "the tests were pointed at a running broker")
class Security(unittest.TestCase):
    maxDiff = 5000

    def directory(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        return pathlib.Path(directory.name)

    def passwd(self, *arguments, text=None):
        return subprocess.run(
            [binary(), "passwd", *arguments], input=text, capture_output=True, text=True, timeout=PATIENCE_SECONDS
        )

    def users(self, directory, **passwords):
        """A password file in the form that mosquitto 2.0 reads, too."""
        path = directory / "passwords"
        for user, password in passwords.items():
            done = self.passwd("-H", "sha512-pbkdf2", "-I", "101", str(path), user, password)
            self.assertEqual(done.returncode, 0, done.stderr)
        return path

    def broker(self, directory, rules=RULES, more="", **passwords):
        users = self.users(directory, **passwords)
        (directory / "rules").write_text(rules)
        configuration = directory / "midge.yaml"
        configuration.write_text(
            f"listeners: [{{address: '127.0.0.1:0'}}]\n"
            f"security:\n  password_file: {users}\n  acl_file: {directory / 'rules'}\n{more}"
        )
        midge = Midge(*SERVE, "--config", str(configuration))
        self.addCleanup(midge.stop)
        return midge, midge.addresses()[0]

    def connect(self, address, client_id, user=None, password=None, version=5, **options):
        connection = paho.Connection(version, address, client_id, user=user, password=password, **options)
        self.addCleanup(connection.close)
        return connection

    # ---- Who is let in -------------------------------------------------------------------------------------

    def test_users_log_in_and_others_do_not(self):
        _, address = self.broker(self.directory(), anna="a", ben="b")
        for version in (3, 4, 5):
            for number in range(6):
                # Client ids on all shards: the question is asked at the client's home.
                self.connect(address, f"c{version}-{number}", "anna", "a", version)
            for user, password in [("anna", "b"), ("carl", "a"), ("anna", ""), (None, None)]:
                with self.subTest(version=version, user=user), self.assertRaises(Failure):
                    self.connect(address, f"d{version}", user, password, version)

    def test_mosquitto_clients_log_in(self):
        _, address = self.broker(self.directory(), anna="a")
        host, port = address
        common = ["-h", host, "-p", str(port), "-t", "x", "-q", "1"]
        publish = ["mosquitto_pub", *common, "-m", "m", "-u", "anna"]
        self.assertEqual(subprocess.run([*publish, "-P", "a"], timeout=PATIENCE_SECONDS).returncode, 0)
        refused = subprocess.run([*publish, "-P", "b"], capture_output=True, timeout=PATIENCE_SECONDS)
        self.assertNotEqual(refused.returncode, 0)
        self.assertIn(b"bad user name or password", refused.stderr.lower())

    def test_a_session_belongs_to_its_user(self):
        _, address = self.broker(self.directory(), anna="a", ben="b")
        anna = self.connect(address, "c", "anna", "a", clean=False, expiry_seconds=60)
        with self.assertRaises(Failure):
            self.connect(address, "c", "ben", "b")
        with self.assertRaises(Failure):
            self.connect(address, "c", "anna", "wrong")
        self.assertFalse(anna.disconnected.is_set())
        anna.publish(Publication("x", b"still here", 1))

    def test_a_storm_of_wrong_passwords_is_answered_and_others_go_on(self):
        _, address = self.broker(self.directory(), anna="a", ben="b")
        anna = self.connect(address, "c", "anna", "a")
        for number in range(200):
            with contextlib.suppress(Failure):
                self.connect(address, f"storm-{number}", "anna", f"guess {number}")
                self.fail("a guess was right")
        anna.publish(Publication("x", b"still here", 1))

    # ---- What each may do ----------------------------------------------------------------------------------

    def test_rules_hold_for_publish_subscribe_retained_and_will(self):
        _, address = self.broker(self.directory(), anna="a", ben="b")
        anna = self.connect(address, "anna", "anna", "a")
        ben = self.connect(address, "ben-1", "ben", "b")
        anna.publish(Publication("secret", b"retained", 1, True))
        anna.publish(Publication("open/x", b"retained", 1, True))
        with self.assertRaises(Failure):
            ben.subscribe([("secret", 1)])
        ben.subscribe([("#", 1)])
        anna.subscribe([("in/#", 1), ("own/#", 1), ("open/#", 1)])
        anna.publish(Publication("secret", b"live", 1))
        anna.publish(Publication("open/y", b"live", 1))
        for topic in ("in/ben", "own/ben-1/x", "own/anna/x", "in/anna", "open/z"):
            ben.publish(Publication(topic, b"from ben", 1))
        anna.publish(Publication("fence", b"", 1))
        received = [message.topic for message in ben.take_until("fence")]
        # What is retained and what is live come in any order.
        self.assertEqual(sorted(received), ["fence", "open/x", "open/y", "own/ben-1/x"])
        from_ben = [m.topic for m in anna.messages if m.payload == b"from ben"]
        self.assertEqual(from_ben, ["in/ben", "own/ben-1/x"])
        with self.assertRaises(Failure):
            self.connect(address, "ben-2", "ben", "b", will=Publication("secret", b"w", 1))

    def test_new_files_hold_at_once_and_bad_ones_change_nothing(self):
        directory = self.directory()
        midge, address = self.broker(directory, anna="a", ben="b")
        anna = self.connect(address, "anna", "anna", "a")
        ben = self.connect(address, "ben", "ben", "b")
        ben.subscribe([("open/#", 1)])
        rules = directory / "rules"
        rules.write_text("topic read a/#/b\n")
        midge.process.send_signal(signal.SIGHUP)
        midge.wait_for_line("rules:1:")
        anna.publish(Publication("open/1", b"", 1))
        rules.write_text(RULES.replace("topic read open/#", "topic read fence"))
        self.users(directory, ben="c")
        midge.process.send_signal(signal.SIGHUP)
        midge.wait_for_line("rules were read again")
        # Shards take the new rules with their next turn, which a publication is.
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline and "open/" in "".join(m.topic for m in ben.take()):
            anna.publish(Publication("open/2", b"", 1))
        anna.publish(Publication("open/3", b"", 1))
        self.assertEqual([m.topic for m in ben.take()], [])
        self.assertFalse(ben.disconnected.is_set(), "who is connected stays")
        with self.assertRaises(Failure):
            self.connect(address, "ben-2", "ben", "b")
        self.connect(address, "ben-3", "ben", "c")

    # ---- Mistakes ------------------------------------------------------------------------------------------

    def test_files_that_cannot_be_used_are_named(self):
        directory = self.directory()
        (directory / "plain").write_text("# users\nanna:a\n")
        (directory / "rules").write_text("topic a\ntropic b\n")
        for key, name, parts in [
            ("password_file", "plain", ("security.password_file", "plain:2:", "midge passwd")),
            ("acl_file", "rules", ("security.acl_file", "rules:2:")),
            ("acl_file", "missing", ("security.acl_file", "missing", "No such file")),
        ]:
            path = directory / "midge.yaml"
            path.write_text(f"security: {{{key}: {directory / name}}}\n")
            for command in (("check",), SERVE):
                midge = Midge(*command, "--config", str(path))
                self.assertEqual(midge.wait(), 2, midge.output)
                for part in parts:
                    self.assertIn(part, midge.output)

    def test_a_public_listener_wants_to_know_who_may_connect(self):
        midge = Midge(*SERVE, "--listen", "0.0.0.0:0")
        self.assertEqual(midge.wait(), 2)
        self.assertIn("security.allow_anonymous", midge.output)
        midge = Midge(*SERVE, "--listen", "0.0.0.0:0", "--allow-anonymous")
        self.addCleanup(midge.stop)
        midge.wait_for_line("0.0.0.0:")

    def test_passwd_adds_changes_and_removes(self):
        path = str(self.directory() / "passwords")
        for arguments, text, code in [
            ((path, "anna"), "secret\n", 0),
            ((path, "ben", "x"), None, 0),
            (("-D", path, "carl"), None, 1),
            (("-D", path, "ben"), None, 0),
            ((path, "a:b", "x"), None, 2),
            ((path, "anna"), "\n", 1),
        ]:
            done = self.passwd(*arguments, text=text)
            self.assertEqual(done.returncode, code, (arguments, done.stderr))
        lines = pathlib.Path(path).read_text().splitlines()
        self.assertEqual(len(lines), 1)
        self.assertTrue(lines[0].startswith("anna:$argon2id$"), "no password in plain text")
        self.assertEqual(pathlib.Path(path).stat().st_mode & 0o777, 0o600)

    # ---- The same answers as mosquitto's -------------------------------------------------------------------

    def test_a_thousand_questions_get_mosquittos_answers(self):
        # Rules that permit next to nothing happen, and say little: they are asked about all the same, and others too.
        for _ in range(5):
            if self.permitted_of_a_thousand(random.randrange(1 << 32)) > 50:
                return
        self.fail("most questions were answered by `no`, five times")

    def permitted_of_a_thousand(self, seed):
        chance = random.Random(seed)
        topics = [f"{a}/{b}" for a in ("a", "b", "ann", "c1", "%c") for b in ("", "x", "ann", "c2", "x/y")]
        people = [("ann", "c1"), ("ann", "c2"), ("bob", "c1"), ("bob", "ann"), ("x y", "a/b"), (None, "c1")]
        people += [("bob", "+"), ("ann", "#"), ("a+", "c1"), (None, "x"), (None, "ann"), ("bob", "c2"), ("ann", "x")]
        people += [("x y", "c1"), (None, "c2"), ("bob", "x"), ("x y", "ann"), ("a+", "b"), (None, "%c"), ("ann", "b")]
        directory = self.directory()
        rules = random_rules(chance)
        users = {user: "p" for user, _ in people if user} | {"root": "p"}
        passwords = self.users(directory, **users)
        (directory / "rules").write_text(rules)

        midge = Midge(*SERVE, "--config", str(self.configuration(directory, passwords)))
        self.addCleanup(midge.stop)
        peer = self.mosquitto(directory, f"allow_anonymous true\nacl_file {directory / 'rules'}\n", passwords)

        questions = [(person, topic) for person in people for topic in topics]
        self.assertEqual(len(questions) * 2, 1000)
        ours = self.answers(midge.addresses()[0], people, topics)
        theirs = self.answers(peer, people, topics)
        different = sorted(ours ^ theirs, key=str)
        self.assertEqual(different, [], f"seed {seed}, rules:\n{rules}")
        return len(ours)

    def mosquitto(self, directory, settings, passwords):
        """Starts Debian's broker on the same files; returns its address."""
        program = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")
        self.assertIsNotNone(program, "Debian's mosquitto is what the answers are compared with")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        (directory / "mosquitto.conf").write_text(
            f"listener {port} 127.0.0.1\nuser root\npassword_file {passwords}\n{settings}"
        )
        peer = subprocess.Popen(
            [program, "-c", str(directory / "mosquitto.conf")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self.addCleanup(peer.wait, PATIENCE_SECONDS)
        self.addCleanup(peer.terminate)
        wait_until_it_listens(port)
        return "127.0.0.1", port

    def test_a_thousand_logins_get_mosquittos_answers(self):
        """A file that Debian's mosquitto_passwd wrote, with both of its hashes; a third of the questions is the right one."""
        seed = random.randrange(1 << 32)
        chance = random.Random(seed)
        directory = self.directory()
        path = directory / "passwords"
        path.touch(0o600)
        letters = "abzAZ019 _-.,;!?/#+$%\\\"'äß€語"
        users = {}
        for number in range(24):
            # Neither broker can have a colon in a name; an empty password is no password to mosquitto's tool.
            name = f"{number}" + "".join(chance.choices(letters, k=chance.randrange(9))).rstrip()
            users[name] = "".join(chance.choices(letters + ":", k=chance.choice([1, 2, 8, 40]))).strip() or "x"
        for number, (name, password) in enumerate(users.items()):
            algorithm = ["sha512", "sha512-pbkdf2"][number % 2]
            command = ["mosquitto_passwd", "-H", algorithm, "-b", str(path), name, password]
            subprocess.run(command, check=True, capture_output=True, timeout=PATIENCE_SECONDS)

        def question():
            name, password = chance.choice(list(users.items()))
            wrong = [
                password + " ", password[:-1], password + password, password.swapcase(), name, "", None,
                chance.choice(list(users.values())), "".join(chance.choices(letters, k=8)),
            ]  # fmt: skip
            stranger = [name + "x", name[:-1], name.swapcase(), " " + name, name + " ", "", None]
            kind = chance.randrange(3)
            # Without a name there is no password to go with it [MQTT-3.1.2-22 @3.1.1].
            user = chance.choice(stranger) if kind == 2 else name
            return user, None if user is None else password if kind != 1 else chance.choice(wrong)

        questions = [question() for _ in range(500)]
        for anonymous in ("true", "false"):
            with self.subTest(anonymous=anonymous):
                settings = directory / "midge.yaml"
                settings.write_text(
                    "listeners: [{address: '127.0.0.1:0'}]\n"
                    f"security:\n  allow_anonymous: {anonymous}\n  password_file: {path}\n"
                )
                midge = Midge(*SERVE, "--config", str(settings))
                self.addCleanup(midge.stop)
                peer = self.mosquitto(directory, f"allow_anonymous {anonymous}\n", path)
                ours = [self.login(midge.addresses()[0], f"c{at}", *one) for at, one in enumerate(questions)]
                theirs = [self.login(peer, f"c{at}", *one) for at, one in enumerate(questions)]
                different = [
                    (*one, our, their)
                    for one, our, their in zip(questions, ours, theirs)
                    # To mosquitto an empty name is none, to us it is one that does not exist: docs/access.md.
                    if (our == 0) != (their == 0 and one[0] != "")
                ]
                self.assertEqual(different, [], f"seed {seed}")
                self.assertGreater(ours.count(0), 100, "most questions would have been answered by `no`")
                self.assertGreater(len(ours) - ours.count(0), 100, "or by `yes`")
                # What kind of no is ours to say: docs/access.md.
                self.assertLessEqual({*ours}, {0, 4, 5})

    @staticmethod
    def login(address, client_id, user, password):
        """The return code of 3.1.1's CONNACK, 0 for yes."""
        flags = 0x02 | (0x80 if user is not None else 0) | (0x40 if password is not None else 0)
        body = text("MQTT") + bytes([4, flags, 0, 60]) + text(client_id)
        body += b"".join(text(part) for part in (user, password) if part is not None)
        with socket.create_connection(address, PATIENCE_SECONDS) as connection:
            connection.sendall(packet(0x10, body))
            answer = connection.recv(4)
            return answer[3] if len(answer) == 4 else None

    def configuration(self, directory, passwords):
        path = directory / "midge.yaml"
        path.write_text(
            f"listeners: [{{address: '127.0.0.1:0'}}]\n"
            f"security:\n  allow_anonymous: true\n  password_file: {passwords}\n  acl_file: {directory / 'rules'}\n"
        )
        return path

    def answers(self, address, people, topics):
        """What is allowed: (person, `write` or `read`, topic)."""
        allowed = set()
        root = self.connect(address, "root", "root", "p", 4)
        root.subscribe([("#", 1)])
        for number, (user, client_id) in enumerate(people):
            client = self.connect(address, client_id, user, "p" if user else None, 4)
            # Midge refuses a filter through which nothing can come; mosquitto grants it, and nothing comes.
            with contextlib.suppress(Failure):
                client.subscribe([("#", 1)])
            for topic in topics:
                client.publish(Publication(topic, b"write", 1))
            root.publish(Publication("fence", b"%d" % number, 1))
            for message in root.take_until("fence"):
                if message.payload == b"write":
                    allowed.add(((user, client_id), "write", message.topic))
            for topic in topics:
                root.publish(Publication(topic, b"read", 1))
            client.take_until("fence")
            root.publish(Publication("fence", b"read", 1))
            root.take_until("fence")
            # Both brokers deliver in the order of one publisher, and the rules let everybody read the fence.
            for message in client.take_until("fence"):
                if message.payload == b"read" and message.topic != "fence":
                    allowed.add(((user, client_id), "read", message.topic))
            client.close()
        root.close()
        return allowed


def random_rules(chance):
    """Rules that meet the topics of the questions often enough."""
    filters = ["a/#", "a/x", "+/x", "b/+", "ann/#", "#", "+/ann", "c1/+", "+/x/y", "b/", "a/+"]
    patterns = ["%c/#", "%u/#", "a/%c", "b/%u", "+/%c", "%u/%c", "%c/%u", "b/x"]
    access = ["read ", "write ", "readwrite ", "deny ", ""]

    def rule():
        filter_ = chance.choice(filters)
        # Everybody must be able to read the fence.
        return f"topic {chance.choice(access[:3] if filter_ == '#' else access)}{filter_}"

    lines = ["topic read fence"] + [rule() for _ in range(3)]
    for user in ("ann", "bob", "x y", "a+"):
        lines += [f"user {user}", "topic read fence"]
        lines += [rule() for _ in range(chance.randrange(4))]
    lines += ["user root", "topic readwrite #"]
    lines += [f"pattern {chance.choice(access)}{chance.choice(patterns)}" for _ in range(chance.randrange(1, 5))]
    return "\n".join(lines) + "\n"


def wait_until_it_listens(port):
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        if time.monotonic() > deadline:
            raise RuntimeError("mosquitto does not listen")
        time.sleep(0.05)


if __name__ == "__main__":
    unittest.main()
