"""Enhanced authentication: SCRAM-SHA-256 with the client half of `scramp`, which knows nothing of Midge."""

import pathlib
import subprocess
import tempfile
import unittest

import scramp
from broker import PATIENCE_SECONDS, SHARDS, Midge, binary, given_address
from drivers.wire import Wire, auth

SERVE = ("serve", "--shards", str(SHARDS), "--ephemeral")
METHOD = "SCRAM-SHA-256"

CONNACK, DISCONNECT, AUTH = 2, 14, 15


def scram(user, password):
    return scramp.ScramClient([METHOD], user, password)


@unittest.skipIf(given_address(), "the tests were pointed at a running broker")
class Scram(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = pathlib.Path(directory.name)
        self.file = self.directory / "scram"
        for user, password in [("anna", "pencil"), ("ben=x,y", "b"), ("carl", "IX ﬁ")]:
            self.passwd(user, password)
        (self.directory / "midge.yaml").write_text(
            f"listeners: [{{address: '127.0.0.1:0'}}]\nsecurity:\n  scram_file: {self.file}\n"
        )
        self.midge = Midge(*SERVE, "--config", str(self.directory / "midge.yaml"))
        self.addCleanup(self.midge.stop)
        self.address = self.midge.addresses()[0]

    def passwd(self, user, password):
        command = [binary(), "passwd", "--scram", "-I", "4096", str(self.file), user, password]
        subprocess.run(command, check=True, timeout=PATIENCE_SECONDS)

    def wire(self):
        wire = Wire(self.address)
        self.addCleanup(wire.close)
        return wire

    def log_in(self, client_id, user, password, **options):
        """The connection, and the CONNACK; the broker's own proof is checked."""
        wire, client = self.wire(), scram(user, password)
        wire.connect(client_id, METHOD, client.get_client_first(), **options)
        challenge = wire.take()
        self.assertEqual((challenge.kind, challenge.code, challenge.method), (AUTH, 0x18, METHOD))
        client.set_server_first(challenge.data.decode())
        wire.send(auth(0x18, METHOD, client.get_client_final()))
        connack = wire.take()
        self.assertEqual(connack.kind, CONNACK)
        if connack.code == 0:
            self.assertEqual(connack.method, METHOD)
            client.set_server_final(connack.data.decode())
        return wire, connack

    def test_users_prove_their_passwords(self):
        for number, (user, password) in enumerate([("anna", "pencil"), ("ben=x,y", "b"), ("carl", "IX ﬁ")]):
            # Client ids on all shards: the question is asked at the client's home.
            for shard in range(4):
                wire, connack = self.log_in(f"c{number}-{shard}", user, password)
                self.assertEqual(connack.code, 0)
                self.assertTrue(wire.ping())

    def test_wrong_passwords_and_strangers_are_refused_alike(self):
        for user, password in [("anna", "pen"), ("nobody", "pencil"), ("ann", "pencil")]:
            wire, connack = self.log_in("c", user, password)
            self.assertEqual((connack.code, connack.data), (0x86, None))
            self.assertTrue(wire.is_closed())

    def test_a_password_in_plain_text_is_not_taken(self):
        wire = self.wire()
        wire.connect("c", user="anna", password="pencil")
        self.assertIn(wire.take().code, (0x86, 0x87))

    def test_another_name_in_the_connect_is_refused(self):
        first = scram("anna", "pencil").get_client_first()
        for user, kind in [("ben", CONNACK), ("anna", AUTH)]:
            wire = self.wire()
            wire.connect("c", METHOD, first, user=user)
            self.assertEqual(wire.take().kind, kind)

    def test_other_methods_are_refused(self):
        for method, data in [("SCRAM-SHA-1", b"n,,n=anna,r=x"), ("PLAIN", b""), ("scram-sha-256", b"n,,n=anna,r=x")]:
            wire = self.wire()
            wire.connect("c", method, data)
            self.assertEqual(wire.take().code, 0x8C, method)
            self.assertTrue(wire.is_closed())

    def test_a_proof_works_once(self):
        """What was heard on the way opens nothing: each exchange has a nonce of the broker's own."""
        client = scram("anna", "pencil")
        first = client.get_client_first()
        wire = self.wire()
        wire.connect("c", METHOD, first)
        client.set_server_first(wire.take().data.decode())
        final = client.get_client_final()
        for message in (first, final):
            again = self.wire()
            again.connect("c", METHOD, message)
            answer = again.take()
            if answer.kind == AUTH:
                again.send(auth(0x18, METHOD, final))
                answer = again.take()
            self.assertEqual(answer.code, 0x86)

    def test_what_does_not_belong_there_ends_it(self):
        first = scram("anna", "pencil").get_client_first()
        for name, packets in [
            ("PUBLISH", b"\x30\x03\x00\x01a"),
            ("PINGREQ", b"\xc0\x00"),
            ("another method", auth(0x18, "SCRAM-SHA-1", b"x")),
            ("another code", auth(0x19, METHOD, b"x")),
            ("no data", auth(0x18, METHOD, None)),
            ("a second CONNECT", b"\x10\x0d\x00\x04MQTT\x05\x02\x00\x00\x00\x00\x00"),
            ("too much", auth(0x18, METHOD, b"x" * 20_000)),
        ]:
            with self.subTest(name):
                wire = self.wire()
                wire.connect("c", METHOD, first)
                self.assertEqual(wire.take().kind, AUTH)
                wire.send(packets)
                answer = wire.take()
                self.assertEqual((answer.kind, answer.code), (CONNACK, 0x82))
                self.assertTrue(wire.is_closed())
        # A goodbye instead of a proof.
        wire = self.wire()
        wire.connect("c", METHOD, first)
        wire.take()
        wire.send(b"\xe0\x00")
        self.assertTrue(wire.is_closed())

    def test_a_failed_proof_changes_nothing_about_a_session(self):
        wire, _ = self.log_in("c", "anna", "pencil", clean=False)
        _, connack = self.log_in("c", "anna", "pen", clean=True)
        self.assertEqual(connack.code, 0x86)
        _, connack = self.log_in("c", "ben=x,y", "b")
        self.assertEqual(connack.code, 0x87)
        self.assertTrue(wire.ping(), "the connection that is there stays")

    def authenticate_again(self, wire, user, password):
        client = scram(user, password)
        wire.send(auth(0x19, METHOD, client.get_client_first()))
        challenge = wire.take()
        self.assertEqual((challenge.kind, challenge.code), (AUTH, 0x18))
        client.set_server_first(challenge.data.decode())
        # Everything else goes on meanwhile.
        self.assertTrue(wire.ping())
        wire.send(auth(0x18, METHOD, client.get_client_final()))
        return client, wire.take()

    def test_a_client_authenticates_again(self):
        wire, _ = self.log_in("c", "anna", "pencil")
        for _ in range(3):
            client, answer = self.authenticate_again(wire, "anna", "pencil")
            self.assertEqual((answer.kind, answer.code, answer.method), (AUTH, 0, METHOD))
            client.set_server_final(answer.data.decode())
            self.assertTrue(wire.ping())

    def test_who_fails_to_authenticate_again_is_disconnected(self):
        for user, password in [("anna", "pen"), ("nobody", "x"), ("ben=x,y", "b")]:
            wire, _ = self.log_in("c", "anna", "pencil")
            _, answer = self.authenticate_again(wire, user, password)
            self.assertEqual((answer.kind, answer.code), (DISCONNECT, 0x87), user)
            self.assertTrue(wire.is_closed())
        for packets in (
            auth(0x19, "SCRAM-SHA-1", b"n,,n=anna,r=x"),
            auth(0x18, METHOD, b"c=biws,r=x,p=x"),
            auth(0x19, METHOD, b"n,,n=anna,r=x") * 2,
        ):
            wire, _ = self.log_in("c", "anna", "pencil")
            wire.send(packets)
            answer = wire.take()
            if answer.kind == AUTH:
                answer = wire.take()
            self.assertEqual((answer.kind, answer.code), (DISCONNECT, 0x82))

    def test_who_did_not_name_a_method_may_not_begin_one(self):
        (self.directory / "open.yaml").write_text(
            f"listeners: [{{address: '127.0.0.1:0', authenticators: [scram, anonymous]}}]\n"
            f"security:\n  scram_file: {self.file}\n"
        )
        midge = Midge(*SERVE, "--config", str(self.directory / "open.yaml"))
        self.addCleanup(midge.stop)
        wire = Wire(midge.addresses()[0])
        self.addCleanup(wire.close)
        wire.connect("c")
        self.assertEqual(wire.take().code, 0)
        wire.send(auth(0x19, METHOD, b"n,,n=anna,r=x"))
        self.assertEqual(wire.take().code, 0x82)

    def test_files_that_cannot_be_used_are_named(self):
        for text, part in [("anna:$7$101$x$y\n", "scram:1:"), (self.file.read_text() * 2, "scram:4:")]:
            self.file.write_text(text)
            midge = Midge(*SERVE, "--config", str(self.directory / "midge.yaml"))
            self.assertEqual(midge.wait(), 2, midge.output)
            self.assertIn("security.scram_file", midge.output)
            self.assertIn(part, midge.output)


if __name__ == "__main__":
    unittest.main()
