"""Tokens and services that say who a client is and what it may do: JWT, sets of keys behind a URL, an HTTP service."""

import base64
import contextlib
import hashlib
import hmac
import http.server
import json
import pathlib
import shutil
import signal
import subprocess
import tempfile
import threading
import time
import unittest

from broker import PATIENCE_SECONDS, SHARDS, Midge, given_address
from drivers import Failure, Publication, paho
from drivers.wire import Wire, auth

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


class Key:
    """An RSA key made and used by openssl."""

    def __init__(self, directory, name):
        self.name = name
        self.path = directory / f"{name}.pem"
        self._run("genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", str(self.path))

    def sign(self, data):
        return self._run("dgst", "-sha256", "-sign", str(self.path), input=data)

    def jwk(self):
        modulus = self._run("rsa", "-in", str(self.path), "-noout", "-modulus").strip().split(b"=")[1]
        return {
            "kty": "RSA", "kid": self.name, "use": "sig", "alg": "RS256",
            "n": part(bytes.fromhex(modulus.decode())).decode(), "e": "AQAB",
        }

    def token(self, **claims):
        return token(self.sign, {"alg": "RS256", "kid": self.name}, **claims)

    def _run(self, *arguments, **options):
        return subprocess.run(
            ["openssl", *arguments], check=True, capture_output=True, timeout=PATIENCE_SECONDS, **options
        ).stdout


class Service:
    """An HTTP server that answers what `answer(body)` says: JSON, None for an error, or a number of seconds to be silent."""

    def __init__(self, answer):
        self.asked = []
        self.headers = []
        service = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))))
                service.asked.append(body)
                service.headers.append(self.headers)
                self.reply(answer(body))

            def do_GET(self):
                service.asked.append(None)
                self.reply(answer(None))

            def reply(self, said):
                if isinstance(said, float):
                    time.sleep(said)
                    said = None
                data = b"" if said is None else json.dumps(said).encode()
                self.send_response(500 if said is None else 200)
                self.send_header("Content-Length", str(len(data)))
                # Whoever asked may have gone meanwhile.
                with contextlib.suppress(ConnectionError):
                    self.end_headers()
                    self.wfile.write(data)

            def log_message(self, *_):
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self):
        self._server.shutdown()
        self._server.server_close()


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

    def service(self, answer):
        service = Service(answer)
        self.addCleanup(service.stop)
        return service

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

    # ---- By AUTH --------------------------------------------------------------------------------------------

    def wire(self, address, client_id, data, method="JWT", **options):
        wire = Wire(address)
        self.addCleanup(wire.close)
        wire.connect(client_id, method, data, **options)
        return wire

    def test_a_token_may_come_by_its_method(self):
        address = self.with_secret(claims={"client_id": "%c"})
        # Client ids on all shards: the question is asked at the client's home.
        for number in range(6):
            client_id = f"c{number}"
            for method in ("JWT", "OAUTH2-JWT"):
                wire = self.wire(address, client_id, token(client_id=client_id), method)
                answer = wire.take()
                self.assertEqual((answer.kind, answer.code, answer.method), (2, 0, method))
                self.assertTrue(wire.ping())
        stranger = token(lambda data: hmac.new(b"x" * 32, data, hashlib.sha256).digest(), client_id="c")
        for data in (token(client_id="d"), token(client_id="c", exp=int(time.time()) - 60), stranger, "secret", ""):
            wire = self.wire(address, "c", data)
            answer = wire.take()
            self.assertEqual((answer.kind, answer.code), (2, 0x86), data)
            self.assertTrue(wire.is_closed())
        # A good password does not help.
        wire = self.wire(address, "c", "secret", user="x", password=token(client_id="c"))
        self.assertEqual(wire.take().code, 0x86)
        for method, data, code in [("SCRAM-SHA-256", "n,,n=anna,r=x", 0x8C), ("jwt", token(client_id="c"), 0x8C)]:
            self.assertEqual(self.wire(address, "c", data, method).take().code, code)

    def test_a_new_token_by_auth_renews_the_login(self):
        address = self.with_secret(leeway=0)
        rules = {"publish": ["first"]}
        wire = self.wire(address, "c", token(exp=int(time.time()) + 3, acl=rules))
        self.assertEqual(wire.take().code, 0)
        left = self.wire(address, "left", token(exp=int(time.time()) + 3))
        self.assertEqual(left.take().code, 0)
        watcher = self.connect(address, "w", token(sub="watcher"))
        watcher.subscribe([("#", 1)])
        wire.send(auth(0x19, "JWT", token(exp=int(time.time()) + 600, acl={"publish": ["second"]})))
        answer = wire.take()
        self.assertEqual((answer.kind, answer.code, answer.method), (15, 0, "JWT"))
        # Who did not bring one is gone, and whoever did stays, with the rules of the new one.
        answer = left.take()
        self.assertEqual((answer.kind, answer.code), (14, 0x87))
        self.assertTrue(wire.ping())
        wire.send(b"\x30\x08\x00\x05first\x00\x30\x09\x00\x06second\x00")
        self.assertEqual([message.topic for message in watcher.take_until("second")], ["second"])
        # A shorter one counts, too.
        wire.send(auth(0x19, "JWT", token(exp=int(time.time()) + 2)))
        self.assertEqual(wire.take().code, 0)
        answer = wire.take()
        self.assertEqual((answer.kind, answer.code), (14, 0x87))
        self.assertTrue(wire.is_closed())

    def test_who_brings_a_bad_token_by_auth_is_disconnected(self):
        address = self.with_secret(claims={"client_id": "%c", "who": "%u"})
        good = {"client_id": "c", "who": "x"}
        for data in (
            token(**good, exp=int(time.time()) - 60), token(**good, sub="ben"), token(client_id="d", who="x"),
            token(client_id="c", who="y"), "secret", "",
        ):
            wire = self.wire(address, "c", token(**good), user="x")
            self.assertEqual(wire.take().code, 0)
            wire.send(auth(0x19, "JWT", token(**good)))
            self.assertEqual(wire.take().code, 0)
            wire.send(auth(0x19, "JWT", data))
            answer = wire.take()
            self.assertEqual((answer.kind, answer.code), (14, 0x87), data)
            self.assertTrue(wire.is_closed())
        for packets in (
            auth(0x18, "JWT", token(**good)), auth(0x19, "OAUTH2-JWT", token(**good)), auth(0x19, "JWT", None),
        ):
            wire = self.wire(address, "c", token(**good), user="x")
            self.assertEqual(wire.take().code, 0)
            wire.send(packets)
            answer = wire.take()
            self.assertEqual((answer.kind, answer.code), (14, 0x82))
        # A token in the password names no method.
        wire = Wire(address)
        self.addCleanup(wire.close)
        wire.connect("c", user="x", password=token(**good))
        self.assertEqual(wire.take().code, 0)
        wire.send(auth(0x19, "JWT", token(**good)))
        self.assertEqual(wire.take().code, 0x82)

    # ---- Keys ----------------------------------------------------------------------------------------------

    @unittest.skipUnless(shutil.which("openssl"), "openssl makes the keys")
    def test_a_reload_takes_over_another_url(self):
        old, new = (Key(self.directory, name) for name in ("old", "new"))
        before, after = (self.service(lambda _, key=key: {"keys": [key.jwk()]}) for key in (old, new))
        address = self.broker({"jwt": {"jwks_url": before.url}})
        self.eventually(lambda: self.connect(address, "c", old.token()))
        wire = self.wire(address, "stays", old.token())
        self.assertEqual(wire.take().code, 0)
        with self.assertRaises(Failure):
            self.connect(address, "d", new.token())

        configuration = self.directory / "midge.yaml"
        configuration.write_text(configuration.read_text().replace(before.url, after.url))
        self.midge.process.send_signal(signal.SIGHUP)
        self.midge.wait_for_line("security.jwt.jwks_url: ")
        self.eventually(lambda: self.connect(address, "c", new.token()))
        # What the earlier keys have signed is worth nothing any more, but for those that are there.
        with self.assertRaises(Failure):
            self.connect(address, "d", old.token())
        self.assertTrue(wire.ping())
        asked = len(before.asked)
        wire.send(auth(0x19, "JWT", new.token()))
        self.assertEqual(wire.take().code, 0)
        wire.send(auth(0x19, "JWT", old.token()))
        self.assertEqual(wire.take().code, 0x87)
        self.assertEqual(len(before.asked), asked, "nobody asks there any more")

        # One that does not answer leaves nobody in, and is said; the first one again brings its keys back.
        configuration.write_text(configuration.read_text().replace(after.url, "http://127.0.0.1:1/"))
        self.midge.process.send_signal(signal.SIGHUP)
        self.midge.wait_for_line("no keys came")
        wire = self.wire(address, "d", new.token())
        self.assertEqual(wire.take().code, 0x88)
        configuration.write_text(configuration.read_text().replace("http://127.0.0.1:1/", before.url))
        self.midge.process.send_signal(signal.SIGHUP)
        self.eventually(lambda: self.connect(address, "d", old.token()))

    @unittest.skipUnless(shutil.which("openssl"), "openssl makes the keys")
    def test_keys_behind_a_url_rotate(self):
        old, new, stranger = (Key(self.directory, name) for name in ("old", "new", "stranger"))
        served = {"keys": [old.jwk()]}
        service = self.service(lambda _: served)
        address = self.broker({"jwt": {"jwks_url": service.url, "refresh": "10s"}})
        self.eventually(lambda: self.connect(address, "c", old.token()))
        for bad in (new.token(), stranger.token(), token(stranger.sign, {"alg": "RS256", "kid": "old"})):
            with self.assertRaises(Failure):
                self.connect(address, "c", bad)
        served["keys"] = [new.jwk()]
        # A key that is not in the set has it fetched again, at most every ten seconds.
        self.eventually(lambda: self.connect(address, "c", new.token()))
        with self.assertRaises(Failure):
            self.connect(address, "c", old.token())
        # A set that cannot be used leaves the one that is there.
        served["keys"] = []
        self.midge.wait_for_line("no key of the set")
        self.connect(address, "c", new.token())
        self.midge.process.send_signal(signal.SIGHUP)
        self.midge.wait_for_line("rules were read again")
        self.connect(address, "c", new.token())

    def eventually(self, attempt):
        deadline = time.monotonic() + PATIENCE_SECONDS + 10
        while True:
            try:
                return attempt()
            except Failure:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)

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

    def test_a_secret_that_others_may_read_is_warned_of(self):
        self.with_secret()
        self.assertNotIn("chmod", self.midge.output)
        (self.directory / "secret").chmod(0o644)
        self.with_secret()
        self.midge.wait_for_line("security.jwt.secret_file: everybody on this machine may read")

    # ---- A service -----------------------------------------------------------------------------------------

    def test_a_service_is_asked(self):
        def answer(question):
            return {
                "anna": {"result": "allow", "acl": {"all": ["anna/#"]}},
                "root": {"result": "allow", "superuser": True},
                "carl": {"result": "ignore"},
                "alias": {"result": "allow", "user": "anna"},
            }.get(question["user"], {"result": "deny"})

        service = self.service(answer)
        (self.directory / "authorization").write_text("Bearer of news\n")
        http = {"url": service.url, "authorization_file": str(self.directory / "authorization")}
        address = self.broker({"http": http}, "http")
        anna = self.connect(address, "a", "pw", user="anna")
        self.assertEqual(service.asked[0]["password"], "pw")
        self.assertEqual((service.asked[0]["client_id"], service.asked[0]["peer"]), ("a", "127.0.0.1"))
        self.assertEqual(service.headers[0]["Authorization"], "Bearer of news")
        anna.subscribe([("anna/#", 1)])
        with self.assertRaises(Failure):
            anna.subscribe([("other", 1)])
        self.connect(address, "r", "pw", user="root").subscribe([("other", 1)])
        # The session of one user under another name of the same.
        self.connect(address, "a", "pw", user="alias")
        for user in ("carl", "dora", None):
            with self.assertRaises(Failure):
                self.connect(address, "x", "pw" if user else None, user=user)
        asked = len(service.asked)
        self.connect(address, "a", "pw", user="anna")
        self.assertEqual(len(service.asked), asked, "the answer was remembered")

    def test_a_service_that_fails_lets_nobody_in_and_is_left_alone(self):
        said = {"what": None}
        service = self.service(lambda _: said["what"])
        http = {"url": service.url, "failures_max": 2, "pause": "1s", "timeout": "300ms", "cache": 0}
        address = self.broker({"http": http}, "http")
        for code in (None, 1.0, {"result": "perhaps"}, {}):
            said["what"] = code
            with self.subTest(code):
                wire = Wire(address)
                self.addCleanup(wire.close)
                wire.connect("c", user="anna", password="pw")
                self.assertEqual(wire.take().code, 0x88)
        self.midge.wait_for_line("left alone")
        asked = len(service.asked)
        with self.assertRaises(Failure):
            self.connect(address, "c", "pw", user="anna")
        self.assertEqual(len(service.asked), asked)
        said["what"] = {"result": "allow"}
        self.eventually(lambda: self.connect(address, "c", "pw", user="anna"))
        self.assertNotIn("pw", self.midge.output)


if __name__ == "__main__":
    unittest.main()
