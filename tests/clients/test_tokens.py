"""Tokens that say who a client is and what it may do."""

import base64
import hashlib
import hmac
import json
import pathlib
import tempfile
import time
import unittest

from broker import PATIENCE_SECONDS, SHARDS, Midge, given_address
from drivers import Failure, Publication, paho
from drivers.wire import Wire

SERVE = ("serve", "--shards", str(SHARDS), "--ephemeral")
SECRET = b"a secret of thirty-two bytes, or more"


def part(value):
    value = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(value).rstrip(b"=")


def token(sign=None, header=None, **claims):
    claims = {"sub": "anna", "exp": int(time.time()) + 600, **claims}
    claims = {name: value for name, value in claims.items() if value is not None}
    head = {"alg": "HS256", "typ": "JWT", **(header or {})}
    text = part(head) + b"." + part(claims)
    sign = sign or (lambda data: hmac.new(SECRET, data, hashlib.sha256).digest())
    return (text + b"." + part(sign(text))).decode()


@unittest.skipIf(given_address(), "the tests were pointed at a running broker")
class Tokens(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = pathlib.Path(directory.name)
        (self.directory / "secret").write_bytes(SECRET + b"\n")
        (self.directory / "secret").chmod(0o600)

    def broker(self, security, chain="jwt"):
        configuration = self.directory / "midge.yaml"
        text = json.dumps({"listeners": [{"address": "127.0.0.1:0", "authenticators": chain.split()}], "security": security})
        configuration.write_text(text)
        midge = Midge(*SERVE, "--config", str(configuration))
        self.addCleanup(midge.stop)
        self.midge = midge
        return midge.addresses()[0]

    def with_secret(self, **more):
        return self.broker({"jwt": {"secret_file": str(self.directory / "secret"), **more}})

    def connect(self, address, client_id, password, user="x", version=5, **options):
        connection = paho.Connection(version, address, client_id, user=user, password=password, **options)
        self.addCleanup(connection.close)
        return connection

    # ---- Tokens --------------------------------------------------------------------------------------------

    def test_a_token_lets_its_client_in(self):
        address = self.with_secret(audiences=["mqtt"], issuers=["us"], claims={"client_id": "%c"})
        good = {"aud": ["mqtt"], "iss": "us", "client_id": "c1"}
        for version in (3, 4, 5):
            self.connect(address, "c1", token(**good), version=version)
        for bad in (
            {"aud": "other"}, {"iss": None}, {"client_id": "c2"}, {"exp": int(time.time()) - 60}, {"exp": None},
            {"nbf": int(time.time()) + 60}, {"sub": None}, {"acl": {"publsh": []}},
        ):
            with self.subTest(bad), self.assertRaises(Failure):
                self.connect(address, "c1", token(**{**good, **bad}))
        forged = token(lambda data: hmac.new(b"x" * 32, data, hashlib.sha256).digest(), **good)
        unsigned = token(lambda _: b"", {"alg": "none"}, **good)
        for password in (forged, unsigned, "secret", ""):
            with self.subTest(password), self.assertRaises(Failure):
                self.connect(address, "c1", password)
        self.assertNotIn(forged, self.midge.output)

    def test_rules_in_a_token_hold(self):
        address = self.with_secret()
        rules = {"publish": ["out/%c/#"], "subscribe": ["in/#"], "deny": ["in/secret"]}
        sensor = self.connect(address, "s1", token(sub="sensor", acl=rules))
        other = self.connect(address, "o", token(sub="other"))
        with self.assertRaises(Failure):
            sensor.subscribe([("out/#", 1)])
        sensor.subscribe([("#", 1)])
        other.subscribe([("out/#", 1)])
        for topic in ("out/s1/x", "out/s2/x", "in/x"):
            sensor.publish(Publication(topic, b"sensor", 1))
        for topic in ("in/a", "in/secret", "elsewhere", "in/b"):
            other.publish(Publication(topic, b"other", 1))
        self.assertEqual([message.topic for message in sensor.take_until("in/b")], ["in/a", "in/b"])
        other.publish(Publication("out/fence", b"", 1))
        self.assertEqual([message.topic for message in other.take_until("out/fence")], ["out/s1/x", "out/fence"])
        with self.assertRaises(Failure):
            self.connect(address, "s1", token(sub="sensor", acl=rules), will=Publication("elsewhere", b"w", 1))

    def test_a_client_is_disconnected_when_its_token_expires(self):
        address = self.with_secret(leeway=0)
        watcher = self.connect(address, "w", token(sub="watcher"))
        watcher.subscribe([("will", 1)])
        wire = Wire(address)
        self.addCleanup(wire.close)
        began = time.monotonic()
        wire.connect("c", user="x", password=token(exp=int(time.time()) + 3))
        self.assertEqual(wire.take().code, 0)
        self.connect(address, "v3", token(exp=int(time.time()) + 3), version=4, will=Publication("will", b"w", 1))
        answer = wire.take()
        self.assertEqual((answer.kind, answer.code), (14, 0x87))
        self.assertLess(time.monotonic() - began, 4.5)
        self.assertGreater(time.monotonic() - began, 1.5)
        self.assertEqual([message.payload for message in watcher.take_until("will")], [b"w"])

    def test_keys_that_cannot_be_used_are_named(self):
        for key, text, reason in [
            ("secret_file", "short", "32 bytes"),
            ("public_key_file", "x", "no public key"),
            ("jwks_file", '{"keys": []}', "no key of the set"),
            ("jwks_file", "[", "no JWK set"),
            ("jwks_file", None, "No such file"),
        ]:
            path = self.directory / "keys"
            path.unlink(missing_ok=True)
            if text is not None:
                path.write_text(text)
            (self.directory / "m.yaml").write_text(json.dumps({"security": {"jwt": {key: str(path)}}}))
            midge = Midge(*SERVE, "--config", str(self.directory / "m.yaml"))
            self.assertEqual(midge.wait(), 2, midge.output)
            for expected in (f"security.jwt.{key}", reason):
                self.assertIn(expected, midge.output)


if __name__ == "__main__":
    unittest.main()
