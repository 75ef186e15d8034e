"""Certificates as user names: shown to the broker itself, and to HAProxy in front of it, which passes on what it verified."""

import json
import pathlib
import socket
import ssl
import struct
import subprocess
import tempfile
import unittest

import haproxy
from broker import PATIENCE_SECONDS, SHARDS, Midge, binary, given_address
from certificates import Authority, openssl
from drivers import Failure, Publication, Transport, mosquitto, paho

# Listeners, in the order of the configuration.
LISTENERS = ("required", "optional", "proxied", "proxied_open", "plain")

RULES = """\
user anna
topic readwrite anna/#
topic read shared
user ben.example
topic readwrite ben/#
topic readwrite shared
user guest
topic readwrite guest/#
pattern readwrite own/%u/#
"""

CONNECT = b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01a"
CONNACK = b"\x20\x02\x00\x00"


def configuration(directory, certificate_name="common_name"):
    tls = f"certificate: {directory}/server.crt, key: {directory}/server.key, client_ca: {directory}/ca.crt"
    any_port = "address: 127.0.0.1:0"
    proxied = "proxy_protocol: {trusted: [127.0.0.1]}"
    return f"""\
listeners:
  - {{{any_port}, protocol: tls, tls: {{{tls}, client_certificates: required}}, authenticators: [certificate]}}
  - {{{any_port}, protocol: tls, tls: {{{tls}, client_certificates: optional}}, authenticators: [certificate, password_file]}}
  - {{{any_port}, {proxied}, authenticators: [certificate]}}
  - {{{any_port}, {proxied}, authenticators: [certificate, anonymous]}}
  - {{{any_port}, authenticators: [certificate, password_file]}}
security:
  certificate_name: {certificate_name}
  password_file: {directory}/passwords
  acl_file: {directory}/rules
shards: {SHARDS}
log:
  lines_per_second_max: 0
"""


@unittest.skipIf(given_address(), "the tests were pointed at a running broker")
class Case(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        directory = tempfile.TemporaryDirectory()
        cls.addClassCleanup(directory.cleanup)
        cls.directory = pathlib.Path(directory.name)
        cls.authority = Authority(cls.directory)
        cls.authority.issue("server", "localhost", "DNS:localhost,IP:127.0.0.1", "serverAuth")
        for name, common_name in (("anna", "anna"), ("ben", "ben.example")):
            alternative = f"DNS:{name}.device.example,email:{name}@example"
            cls.authority.issue(name, common_name, alternative, "clientAuth")
        cls.strangers = Authority(cls.directory, "strangers")
        cls.strangers.issue("false-anna", "anna", "DNS:anna.device.example", "clientAuth")
        (cls.directory / "rules").write_text(RULES)
        subprocess.run(
            [binary(), "passwd", str(cls.directory / "passwords"), "guest", "secret"],
            check=True, capture_output=True, timeout=PATIENCE_SECONDS,
        )  # fmt: skip
        cls.midge, cls.addresses = cls.broker("common_name")
        cls.addClassCleanup(cls.midge.stop)

    @classmethod
    def broker(cls, certificate_name):
        path = cls.directory / f"{certificate_name}.yaml"
        path.write_text(configuration(cls.directory, certificate_name))
        runtime = cls.directory / f"run-{certificate_name}"
        midge = Midge("serve", "--config", str(path), "--ephemeral", "--runtime-dir", str(runtime))
        try:
            return midge, dict(zip(LISTENERS, midge.addresses(len(LISTENERS))))
        except RuntimeError:
            midge.stop()
            raise

    def ask(self, *arguments):
        """What a command says about the broker."""
        command = [binary(), *arguments, "--runtime-dir", str(self.directory / "run-common_name")]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=PATIENCE_SECONDS).stdout

    def user_of(self, client_id):
        """None: it is nobody."""
        explained = json.loads(self.ask("explain", "any", "--from", client_id, "--json"))
        self.assertFalse(explained["rights"].get("absent"))
        return explained["rights"].get("user")

    def transport(self, certificate=None, protocol="tls"):
        path = self.authority.path
        files = (path(f"{certificate}.crt"), path(f"{certificate}.key")) if certificate else ()
        return Transport(protocol, path("ca.crt"), *files)

    def connect(self, address, client_id, certificate=None, version=5, **options):
        client = paho.Connection(version, address, client_id, transport=self.transport(certificate), **options)
        self.addCleanup(client.close)
        return client

    def assert_rights_of_anna(self, client):
        """It may do what the rules say of `anna`, and of a pattern with that name."""
        client.subscribe([("anna/#", 1), ("own/anna/#", 1)])
        for filter_ in ("ben/#", "own/ben.example/#"):
            with self.assertRaises(Failure):
                client.subscribe([(filter_, 1)])
        for topic in ("ben/x", "shared", "own/ben.example/x", "anna/x", "own/anna/x"):
            client.publish(Publication(topic, topic.encode(), 1))
        self.assertEqual([m.topic for m in client.wait_for(2)], ["anna/x", "own/anna/x"])


class Direct(Case):
    def test_the_certificate_is_the_user_whatever_the_client_says(self):
        for listener in ("required", "optional"):
            for number, (user, password) in enumerate([(None, None), ("ben.example", None), ("guest", "wrong")]):
                for version in (4, 5):
                    with self.subTest(listener=listener, user=user, version=version):
                        name = f"anna-{listener}-{number}-{version}"
                        options = {"user": user, "password": password}
                        client = self.connect(self.addresses[listener], name, "anna", version, **options)
                        self.assertEqual(self.user_of(name), "anna")
                        # 3.1.1 has no code for a publication that is not allowed; both are told about subscriptions.
                        self.assert_rights_of_anna(client)

    def test_mosquitto_clients_have_the_rights_of_their_certificates(self):
        watcher = self.connect(self.addresses["optional"], "watcher", "ben")
        watcher.subscribe([("ben/#", 1), ("shared", 1)])
        for certificate in ("anna", "ben"):
            kind = mosquitto.Kind(5, self.transport(certificate))
            publications = [Publication(topic, certificate.encode(), 1) for topic in ("ben/a", "shared")]
            kind.publish(self.addresses["required"], f"mosquitto-{certificate}", publications)
        watcher.publish(Publication("ben/fence", b"", 1))
        self.assertEqual(
            [(m.topic, m.payload) for m in watcher.take_until("ben/fence")],
            [("ben/a", b"ben"), ("shared", b"ben"), ("ben/fence", b"")],
        )

    def test_who_shows_none_needs_a_password(self):
        address = self.addresses["optional"]
        guest = self.connect(address, "guest", user="guest", password="secret")
        self.assertEqual(self.user_of("guest"), "guest")
        guest.subscribe([("guest/#", 1)])
        for user, password in (("guest", "wrong"), ("anna", "secret"), ("anna", None), (None, None)):
            with self.subTest(user=user), self.assertRaises(Failure):
                self.connect(address, "nobody", user=user, password=password)
        # The name is the broker's to give: no plain connection has it.
        with self.assertRaises(Failure):
            paho.Connection(5, self.addresses["plain"], "nobody", user="anna", password="")

    def test_a_session_belongs_to_the_certificate(self):
        anna = self.connect(self.addresses["required"], "kept", "anna", clean=False, expiry_seconds=60)
        with self.assertRaises(Failure):
            self.connect(self.addresses["required"], "kept", "ben")
        with self.assertRaises(Failure):
            self.connect(self.addresses["optional"], "kept", user="guest", password="secret")
        self.assertFalse(anna.disconnected.is_set())
        anna.close()
        again = self.connect(self.addresses["required"], "kept", "anna", clean=False, expiry_seconds=60)
        self.assertTrue(again.session_present)

    def test_another_name_of_the_certificate_can_be_the_user(self):
        arguments = ("x509", "-in", "anna.crt", "-noout", "-subject", "-nameopt", "RFC2253")
        subject = openssl(self.directory, *arguments).strip().removeprefix("subject=")
        for certificate_name, user in (
            ("subject", subject), ("dns", "anna.device.example"), ("email", "anna@example"),
        ):  # fmt: skip
            with self.subTest(certificate_name):
                midge, addresses = self.broker(certificate_name)
                self.addCleanup(midge.stop)
                client = self.connect(addresses["required"], "c", "anna")
                with self.assertRaises(Failure):
                    client.subscribe([("anna/#", 1)])
                client.subscribe([(f"own/{user}/#", 1)])


@unittest.skipUnless(haproxy.program(), "no haproxy here")
class Proxied(Case):
    """HAProxy terminates TLS and says in a PROXY protocol 2 header whose certificate it has verified."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        (cls.directory / "both.pem").write_bytes(
            (cls.directory / "server.crt").read_bytes() + (cls.directory / "server.key").read_bytes()
        )
        tls = f"ssl crt {cls.directory}/both.pem ca-file {cls.directory}/ca.crt"
        # The same that lets in whose certificate it could not verify, and says so.
        lax = f"{tls} verify optional ca-ignore-err all crt-ignore-err all"
        host, port = cls.addresses["proxied"]
        target, name_target = f"{host}:{port} send-proxy-v2-ssl", f"{host}:{port} send-proxy-v2-ssl-cn"
        open_target = "{}:{} send-proxy-v2-ssl-cn".format(*cls.addresses["proxied_open"])
        cls.haproxy = haproxy.HaProxy(
            cls.directory,
            {
                "required": (f"{tls} verify required", name_target),
                "nameless": (f"{tls} verify required", target),
                "lax": (lax, name_target),
                "lax_open": (lax, open_target),
            },
        )
        cls.addClassCleanup(cls.haproxy.stop)
        cls.fronts = cls.haproxy.addresses

    def test_the_certificate_that_haproxy_verified_is_the_user(self):
        for number in range(4):
            # Client ids on all shards: the identity moves there with the connection.
            name = f"anna-{number}"
            client = self.connect(self.fronts["required"], name, "anna", user="ben.example", password="x")
            self.assertEqual(self.user_of(name), "anna")
            self.assert_rights_of_anna(client)
        ben = self.connect(self.fronts["required"], "ben", "ben")
        self.assertEqual(self.user_of("ben"), "ben.example")
        ben.subscribe([("ben/#", 1), ("shared", 1)])
        with self.assertRaises(Failure):
            self.connect(self.fronts["required"], "anna-0", "ben")

    def test_mosquitto_clients_through_haproxy(self):
        kind = mosquitto.Kind(4, self.transport("ben"))
        subscriber = kind.subscriber(self.fronts["required"], "mosquitto-s", [("shared", 1)])
        self.addCleanup(subscriber.close)
        for certificate in ("anna", "ben"):
            kind = mosquitto.Kind(5, self.transport(certificate))
            kind.publish(
                self.fronts["required"], f"mosquitto-{certificate}", [Publication("shared", certificate.encode(), 1)]
            )
        self.assertEqual([m.payload for m in subscriber.wait_for(1)], [b"ben"])

    def test_the_broker_knows_the_clients_own_address(self):
        context = ssl.create_default_context(cafile=self.authority.path("ca.crt"))
        context.load_cert_chain(self.authority.path("anna.crt"), self.authority.path("anna.key"))
        for source in ("127.0.0.1", "127.0.0.9"):
            plain = socket.create_connection(self.fronts["required"], PATIENCE_SECONDS, source_address=(source, 0))
            own = "{}:{}".format(*plain.getsockname())
            with context.wrap_socket(plain, server_hostname="localhost") as connection:
                connection.sendall(CONNECT)
                self.assertEqual(connection.recv(4), CONNACK)
                rows = [json.loads(line) for line in self.ask("clients", "--json", "--address", source).splitlines()]
                self.assertIn(("a", own), [(row["client_id"], row["address"]) for row in rows])

    def test_a_resumed_session_still_has_its_certificate(self):
        """The client shows it once; HAProxy has it from the ticket and says that it is of the session."""
        context = ssl.create_default_context(cafile=self.authority.path("ca.crt"))
        context.load_cert_chain(self.authority.path("anna.crt"), self.authority.path("anna.key"))
        session = None
        for resumed in (False, True, True):
            plain = socket.create_connection(self.fronts["required"], PATIENCE_SECONDS)
            with context.wrap_socket(plain, server_hostname="localhost", session=session) as connection:
                connection.sendall(CONNECT)
                self.assertEqual(connection.recv(4), CONNACK)
                self.assertEqual(connection.session_reused, resumed)
                self.assertEqual(self.user_of("a"), "anna")
                session = connection.session

    def test_without_a_verified_certificate_there_is_no_name(self):
        # It has verified one, but does not say whose.
        with self.assertRaises(Failure):
            self.connect(self.fronts["nameless"], "c", "anna")
        # None, and one of an authority that nobody knows, which says to be anna's.
        for certificate in (None, "false-anna"):
            with self.subTest(certificate), self.assertRaises(Failure):
                self.connect(self.fronts["lax"], "c", certificate)
            with self.subTest(certificate):
                self.connect(self.fronts["lax_open"], f"open-{certificate}", certificate)
                self.assertIsNone(self.user_of(f"open-{certificate}"))
        # The same front lets the real one in.
        self.connect(self.fronts["lax"], "c", "anna")
        self.assertEqual(self.user_of("c"), "anna")

    def test_a_header_from_a_stranger_counts_nothing(self):
        header = proxy_header("203.0.113.7", "anna")
        for listener, source, reason in (
            ("proxied", "127.0.0.2", "reason=proxy_stranger"),
            ("plain", "127.0.0.1", None),
            ("required", "127.0.0.1", "reason=tls_invalid"),
        ):
            with self.subTest(listener):
                connection = socket.create_connection(
                    self.addresses[listener], PATIENCE_SECONDS, source_address=(source, 0)
                )
                self.addCleanup(connection.close)
                said = b""
                try:
                    connection.sendall(header + CONNECT)
                    while piece := connection.recv(4096):
                        said += piece
                except (ConnectionResetError, BrokenPipeError):
                    pass
                self.assertNotIn(CONNACK, said)
                if reason:
                    self.midge.wait_for_line(reason)
        # The same bytes from the proxy's address are anna's: it was not the header that was wrong.
        with socket.create_connection(self.addresses["proxied"], PATIENCE_SECONDS) as connection:
            connection.sendall(header + CONNECT)
            self.assertEqual(connection.recv(4), CONNACK)
            rows = [json.loads(line) for line in self.ask("clients", "--json", "--client-id", "a").splitlines()]
            self.assertEqual([row["address"] for row in rows], ["203.0.113.7:4444"])
            self.assertEqual(self.user_of("a"), "anna")


def proxy_header(address, common_name):
    """Version 2, with a verified certificate of that name."""

    def addition(kind, value):
        return struct.pack(">BH", kind, len(value)) + value

    addresses = socket.inet_aton(address) + socket.inet_aton("127.0.0.1") + struct.pack(">HH", 4444, 1883)
    # Bits of the client: TLS, a certificate in this connection, and one in this session; then 0 for verified.
    ssl_part = addition(0x20, struct.pack(">BI", 0x07, 0) + addition(0x22, common_name.encode()))
    body = addresses + ssl_part
    return b"\r\n\r\n\x00\r\nQUIT\n\x21\x11" + struct.pack(">H", len(body)) + body


if __name__ == "__main__":
    unittest.main()
