"""Everything below MQTT with other people's programs: TLS, client certificates, WebSocket, PROXY protocol, unix sockets.

Three shards and many client ids, so that most connections move to another shard with the state of their TLS and WebSocket.
"""

import base64
import os
import pathlib
import re
import signal
import socket
import struct
import tempfile
import unittest

import haproxy
from broker import PATIENCE_SECONDS, SHARDS, Midge, given_address
from certificates import Authority, openssl
from drivers import Failure, Publication, Transport, mosquitto, mqttjs, paho

CONNECT = b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01a"
CONNACK = b"\x20\x02\x00\x00"
PROXY_SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"

# Listeners of the shared broker, in the order of its configuration.
LISTENERS = ("tcp", "tls", "mtls", "optional", "tls13", "ws", "wss", "proxy", "proxy_tls", "pages")


def configuration(directory):
    certificate = f"certificate: {directory}/server.crt, key: {directory}/server.key"
    clients = f"client_ca: {directory}/ca.crt, crl: [{directory}/ca.crl]"
    named = f"certificates: [{{server_names: ['*.named.example'], certificate: {directory}/named.crt, key: {directory}/named.key}}]"
    any_port = "address: 127.0.0.1:0"
    return f"""\
listeners:
  - {{{any_port}}}
  - {{{any_port}, protocol: tls, tls: {{{certificate}, {named}}}}}
  - {{{any_port}, protocol: tls, tls: {{{certificate}, {clients}, client_certificates: required}}}}
  - {{{any_port}, protocol: tls, tls: {{{certificate}, {clients}, client_certificates: optional}}}}
  - {{{any_port}, protocol: tls, tls: {{{certificate}, minimum_version: 1.3}}}}
  - {{{any_port}, protocol: ws, websocket: {{path: /mqtt, trusted_proxies: [127.0.0.1]}}}}
  - {{{any_port}, protocol: wss, tls: {{{certificate}}}}}
  - {{{any_port}, proxy_protocol: {{trusted: [127.0.0.1]}}}}
  - {{{any_port}, protocol: tls, tls: {{{certificate}}}, proxy_protocol: {{trusted: [127.0.0.1]}}}}
  - {{{any_port}, protocol: ws, websocket: {{path: /other, origins: ['https://app.example']}}}}
  - {{address: 'unix:{directory}/mqtt.sock', unix_mode: 600}}
  - {{address: 'unix:{directory}/proxied.sock', proxy_protocol: {{}}}}
shards: {SHARDS}
limits:
  connect_timeout: 3s
# Behind a proxy nobody is on a loopback address.
security:
  allow_anonymous: true
log:
  lines_per_second_max: 0
"""


@unittest.skipIf(given_address(), "the tests were pointed at a running broker")
class Case(unittest.TestCase):
    """Common to all: one authority and one broker for a whole class."""

    @classmethod
    def setUpClass(cls):
        cls._directory = tempfile.TemporaryDirectory()
        cls.addClassCleanup(cls._directory.cleanup)
        cls.directory = pathlib.Path(cls._directory.name)
        cls.authority = Authority(cls.directory)
        names = "DNS:localhost,IP:127.0.0.1"
        cls.authority.issue("server", "localhost", names, "serverAuth")
        cls.authority.issue("named", "named", "DNS:*.named.example", "serverAuth")
        cls.authority.issue("client", "sensor-7", "DNS:sensor-7.example", "clientAuth")
        cls.authority.issue("revoked", "sensor-8", "DNS:sensor-8.example", "clientAuth")
        cls.authority.revoke("revoked")
        path = cls.directory / "midge.yaml"
        path.write_text(configuration(cls.directory))
        cls.midge = Midge("serve", "--config", str(path), "--ephemeral")
        cls.addClassCleanup(cls.midge.stop)
        cls.addresses = dict(zip(LISTENERS, cls.midge.addresses(len(LISTENERS))))

    def transport(self, protocol, client=None):
        ca = self.authority.path("ca.crt") if protocol in ("tls", "wss") else None
        if client is None:
            return Transport(protocol, ca)
        return Transport(protocol, ca, self.authority.path(f"{client}.crt"), self.authority.path(f"{client}.key"))

    def raw(self, listener, source=None):
        connection = socket.create_connection(
            self.addresses[listener], PATIENCE_SECONDS, source_address=(source, 0) if source else None
        )
        self.addCleanup(connection.close)
        return connection

    def assertClosed(self, connection):
        """The broker has closed it, politely or not; returns what it had said before."""
        said = b""
        try:
            while piece := connection.recv(4096):
                said += piece
        except ConnectionResetError:
            pass
        return said


class Clients(Case):
    def exchange(self, subscriber, publish):
        """Small and large payloads through one subscriber."""
        self.addCleanup(subscriber.close)
        sizes = [1, 100, 5_000, 100_000]
        for size in sizes:
            publish([Publication("t/a", os.urandom(size // 2).hex().encode() or b"x", 1)])
        messages = subscriber.wait_for(len(sizes))
        self.assertEqual([len(m.payload) for m in messages], [max(1, size // 2 * 2) for size in sizes])

    def test_mosquitto_with_tls_and_client_certificates(self):
        for listener, client in (("tls", None), ("mtls", "client"), ("optional", "client"), ("optional", None)):
            for version in (4, 5):
                for number in range(3):
                    with self.subTest(listener=listener, client=client, version=version, number=number):
                        kind = mosquitto.Kind(version, self.transport("tls", client))
                        address = self.addresses[listener]
                        subscriber = kind.subscriber(address, f"s-{number}", [("t/#", 1)])
                        self.exchange(subscriber, lambda p: kind.publish(address, f"p-{number}", p))
                        subscriber.close()

    def test_paho_over_every_transport(self):
        for listener, protocol in (("tls", "tls"), ("tls13", "tls"), ("ws", "ws"), ("wss", "wss"), ("mtls", "tls")):
            for number in range(4):
                with self.subTest(listener=listener, number=number):
                    transport = self.transport(protocol, "client" if listener == "mtls" else None)
                    address = self.addresses[listener]
                    subscriber = paho.Connection(5, address, f"paho-s-{number}", transport=transport)
                    subscriber.subscribe([("t/#", 1)])
                    publisher = paho.Connection(4, address, f"paho-p-{number}", transport=transport)
                    self.addCleanup(publisher.close)
                    self.exchange(subscriber, lambda p: [publisher.publish(one) for one in p])

    def test_mqttjs_over_every_transport(self):
        for listener, protocol in (("tls", "tls"), ("ws", "ws"), ("wss", "wss"), ("mtls", "tls")):
            for number in range(4):
                with self.subTest(listener=listener, number=number):
                    transport = self.transport(protocol, "client" if listener == "mtls" else None)
                    address = self.addresses[listener]
                    subscriber = mqttjs.Connection(5, address, f"js-s-{number}", transport=transport)
                    subscriber.subscribe([("t/#", 1)])
                    publisher = mqttjs.Connection(5, address, f"js-p-{number}", transport=transport)
                    self.addCleanup(publisher.close)
                    self.exchange(subscriber, lambda p: [publisher.publish(one) for one in p])

    def test_many_messages_between_transports(self):
        receivers = []
        for number, (listener, protocol) in enumerate((("tls", "tls"), ("ws", "ws"), ("wss", "wss"), ("tcp", "tcp"))):
            receiver = paho.Connection(5, self.addresses[listener], f"many-{number}", transport=self.transport(protocol))
            self.addCleanup(receiver.close)
            receiver.subscribe([("many", 1)])
            receivers.append(receiver)
        payloads = [b"%d " % n * (n % 300 + 1) for n in range(500)]
        kind = mosquitto.Kind(5, self.transport("tls"))
        kind.publish(self.addresses["tls"], "many-sender", [Publication("many", payload, 1) for payload in payloads])
        for receiver in receivers:
            self.assertEqual([m.payload for m in receiver.wait_for(len(payloads))], payloads)

    def test_a_client_without_a_good_certificate_is_refused(self):
        address = self.addresses["mtls"]
        for client in (None, "revoked"):
            with self.subTest(client=client), self.assertRaises(Failure):
                mosquitto.Kind(4, self.transport("tls", client)).publish(address, "x", [Publication("t", b"x", 1)])
        self.midge.wait_for_line("reason=tls_no_certificate")
        self.midge.wait_for_line("reason=tls_revoked")
        # Optional means that a bad one is still bad.
        with self.assertRaises(Failure):
            kind = mosquitto.Kind(4, self.transport("tls", "revoked"))
            kind.publish(self.addresses["optional"], "x", [Publication("t", b"x", 1)])


class Tls(Case):
    def s_client(self, listener, *arguments):
        host, port = self.addresses[listener]
        return openssl(
            self.directory, "s_client", "-connect", f"{host}:{port}", "-CAfile", "ca.crt", *arguments, check=False
        )

    def test_sessions_are_resumed(self):
        text = self.s_client("tls", "-tls1_2", "-reconnect")
        self.assertEqual(len(re.findall(r"^Reused, TLSv1.2", text, re.M)), 5, text)
        # TLS 1.3 tickets come after the handshake, so something must be read: a ping is answered.
        host, port = self.addresses["tls"]
        talk = CONNECT + b"\xe0\x00"
        for _ in range(2):
            openssl(
                self.directory, "s_client", "-connect", f"{host}:{port}", "-CAfile", "ca.crt", "-tls1_3",
                "-sess_out", "session.pem", "-ign_eof", "-quiet", input_=talk, check=False,
            )  # fmt: skip
            text = self.s_client("tls", "-tls1_3", "-sess_in", "session.pem")
            self.assertIn("Reused, TLSv1.3", text)

    def test_protocol_name_and_versions(self):
        self.assertIn("ALPN protocol: mqtt", self.s_client("tls", "-alpn", "mqtt"))
        self.assertIn("no application protocol", self.s_client("tls", "-alpn", "h2"))
        self.assertIn("New, TLSv1.2", self.s_client("tls", "-tls1_2"))
        self.assertIn("alert", self.s_client("tls13", "-tls1_2"))
        self.assertIn("New, TLSv1.3", self.s_client("tls13"))
        old = self.s_client("tls", "-tls1_1", "-cipher", "ALL:@SECLEVEL=0")
        self.assertNotIn("New, TLSv1.1", old)

    def test_certificates_are_chosen_by_host_name(self):
        for name, subject in (("x.named.example", "CN = named"), ("unknown.example", "CN = localhost")):
            self.assertIn(subject, self.s_client("tls", "-servername", name))

    def test_garbage_is_closed_and_told(self):
        for bytes_ in (CONNECT, b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\xff\xff" + b"a" * 100):
            connection = self.raw("tls")
            connection.sendall(bytes_)
            self.assertClosed(connection)
        self.midge.wait_for_line("reason=tls_invalid")

    def test_a_slow_handshake_runs_into_the_connect_timeout(self):
        connections = [self.raw("tls"), self.raw("wss"), self.raw("ws"), self.raw("proxy")]
        for connection, part in zip(connections, (b"\x16\x03", b"", b"GET /mqtt HTTP/1.1\r\n", b"PROXY TCP4")):
            connection.sendall(part)
        for connection in connections:
            self.assertClosed(connection)
        self.midge.wait_for_line("no CONNECT came in time")


class WebSocket(Case):
    REQUEST = (
        "GET {path} HTTP/1.1\r\nHost: a.example\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mqtt\r\n{more}\r\n"
    )

    def ask(self, listener, path, more=""):
        connection = self.raw(listener)
        key = base64.b64encode(os.urandom(16)).decode()
        connection.sendall(self.REQUEST.format(path=path, key=key, more=more).encode())
        answer = b""
        while b"\r\n\r\n" not in answer:
            piece = connection.recv(1)
            self.assertTrue(piece, answer)
            answer += piece
        return connection, answer

    @staticmethod
    def frame(first, payload):
        mask = os.urandom(4)
        head = bytes([first, 0x80 | len(payload)]) + mask
        return head + bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))

    def test_frames_control_frames_and_close(self):
        connection, answer = self.ask("ws", "/mqtt")
        self.assertTrue(answer.startswith(b"HTTP/1.1 101 "), answer)
        self.assertIn(b"Sec-WebSocket-Protocol: mqtt\r\n", answer)
        # A CONNECT in two fragments with a ping between them.
        connection.sendall(self.frame(0x02, CONNECT[:5]) + self.frame(0x89, b"hi") + self.frame(0x80, CONNECT[5:]))
        said = b""
        while len(said) < 4 + 6:
            said += connection.recv(100)
        self.assertEqual(said, b"\x8a\x02hi" + b"\x82\x04" + CONNACK)
        connection.sendall(self.frame(0x88, struct.pack(">H", 1000)))
        self.assertEqual(self.assertClosed(connection), b"\x88\x02\x03\xe8")

    def test_text_frames_are_refused(self):
        connection, _ = self.ask("ws", "/mqtt")
        connection.sendall(self.frame(0x81, b"hello"))
        self.assertEqual(self.assertClosed(connection), b"\x88\x02" + struct.pack(">H", 1003))
        self.midge.wait_for_line("reason=websocket_frame")

    def test_requests_that_are_refused(self):
        for listener, path, more, status in (
            ("ws", "/", "", b"404"),
            ("pages", "/mqtt", "", b"404"),
            ("pages", "/other", "Origin: https://evil.example\r\n", b"403"),
            ("pages", "/other", "Origin: https://app.example\r\n", b"101"),
            ("pages", "/other", "", b"101"),
            ("ws", "/mqtt", "X-Large: " + "x" * 10_000 + "\r\n", b"431"),
        ):
            with self.subTest(path=path, more=more[:40]):
                _, answer = self.ask(listener, path, more)
                self.assertEqual(answer.split()[1], status)
        for reason in ("websocket_path", "websocket_origin", "http_request_too_large"):
            self.midge.wait_for_line(f"reason={reason}")

    def test_the_address_comes_from_a_trusted_proxy(self):
        connection, _ = self.ask("ws", "/mqtt", "X-Forwarded-For: 192.0.2.1, 198.51.100.77\r\n")
        connection.sendall(self.frame(0x82, b"\xf0\x00"))
        self.assertClosed(connection)
        self.midge.wait_for_line("peer=198.51.100.77:")


class Proxy(Case):
    def test_headers_of_both_versions_give_the_address(self):
        second = PROXY_SIGNATURE + b"\x21\x11\x00\x0c" + bytes([203, 0, 113, 7, 127, 0, 0, 1]) + b"\x15\xb3\x07\x5b"
        for header, peer in ((b"PROXY TCP4 203.0.113.6 127.0.0.1 4444 1883\r\n", "203.0.113.6:4444"), (second, "203.0.113.7:5555")):
            connection = self.raw("proxy")
            connection.sendall(header + CONNECT)
            self.assertEqual(connection.recv(4), CONNACK)
            # A packet that no client sends, for the line in the log.
            connection.sendall(b"\x20\x02\x00\x00")
            self.assertClosed(connection)
            self.midge.wait_for_line(f"peer={peer} client_id=a")

    def test_strangers_and_clients_without_a_header_are_closed(self):
        stranger = self.raw("proxy", source="127.0.0.2")
        self.assertEqual(self.assertClosed(stranger), b"")
        self.midge.wait_for_line("reason=proxy_stranger")
        for bytes_ in (CONNECT, b"PROXY TCP4 nonsense\r\n", PROXY_SIGNATURE + b"\x21\x11\xff\xff"):
            connection = self.raw("proxy")
            connection.sendall(bytes_)
            self.assertEqual(self.assertClosed(connection), b"")
        self.midge.wait_for_line("reason=proxy_header")
        # And nobody gets away with one where none is expected.
        connection = self.raw("tcp")
        connection.sendall(b"PROXY TCP4 203.0.113.9 127.0.0.1 1 2\r\n" + CONNECT)
        self.assertEqual(self.assertClosed(connection), b"")

    @unittest.skipUnless(haproxy.program(), "no haproxy here")
    def test_haproxy_in_front(self):
        """HAProxy with PROXY protocol 2 in front of plain, TLS and unix-domain listeners (1 for the latter)."""
        targets = {
            "proxy": "{}:{} send-proxy-v2".format(*self.addresses["proxy"]),
            "proxy_tls": "{}:{} send-proxy-v2".format(*self.addresses["proxy_tls"]),
            "unix": f"unix@{self.directory}/proxied.sock send-proxy",
        }
        front = haproxy.HaProxy(self.directory, {name: ("", target) for name, target in targets.items()})
        self.addCleanup(front.stop)
        for name, address in front.addresses.items():
            with self.subTest(name=name):
                transport = self.transport("tls" if name == "proxy_tls" else "tcp")
                client = paho.Connection(5, address, f"through-{name}", transport=transport)
                self.addCleanup(client.close)
                client.subscribe([("t", 1)])
                client.publish(Publication("t", b"through", 1))
                self.assertEqual([m.payload for m in client.wait_for(1)], [b"through"])
        # The broker sees the client's own address, not the proxy's.
        connection = socket.create_connection(front.addresses["proxy"], PATIENCE_SECONDS)
        self.addCleanup(connection.close)
        own = "{}:{}".format(*connection.getsockname())
        connection.sendall(b"\xf0\x00")
        self.assertClosed(connection)
        self.midge.wait_for_line(f"peer={own}")


class UnixSocket(Case):
    def test_a_client_connects_through_the_file(self):
        path = self.directory / "mqtt.sock"
        self.assertEqual(path.stat().st_mode & 0o777, 0o600)
        for name in (b"a", b"b", b"c", b"d"):
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(PATIENCE_SECONDS)
                connection.connect(str(path))
                connection.sendall(CONNECT[:-1] + name)
                self.assertEqual(connection.recv(4), CONNACK)
                connection.sendall(b"\xc0\x00")
                self.assertEqual(connection.recv(2), b"\xd0\x00")


@unittest.skipIf(given_address(), "the tests were pointed at a running broker")
class Files(unittest.TestCase):
    """Certificates at the start and at SIGHUP."""

    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = pathlib.Path(directory.name)
        self.authority = Authority(self.directory)
        self.authority.issue("server", "first", "DNS:localhost,IP:127.0.0.1", "serverAuth")
        self.configuration = self.directory / "midge.yaml"
        self.write()

    def write(self, more=""):
        self.configuration.write_text(
            "listeners:\n  - address: 127.0.0.1:0\n    protocol: tls\n    tls:\n"
            f"      certificate: {self.directory}/server.crt\n      key: {self.directory}/server.key\n{more}"
            f"shards: {SHARDS}\n"
        )

    def start(self):
        midge = Midge("serve", "--config", str(self.configuration), "--ephemeral")
        self.addCleanup(midge.stop)
        return midge

    def test_what_cannot_be_used_is_refused_with_its_file(self):
        other = Authority(self.directory, "other")
        other.issue("foreign", "foreign", "DNS:foreign", "serverAuth")
        place = re.escape(str(self.configuration))
        for file, content, more, expected in (
            ("server.key", (self.directory / "foreign.key").read_bytes(), "", r":4:5: .*server\.key: is not the key of "),
            ("server.key", b"nothing", "", r":4:5: .*server\.key: holds no private key in PEM"),
            ("server.crt", b"nothing", "", r":4:5: .*server\.crt: holds no certificate in PEM"),
            ("server.crt", None, "", r":5:7: .*server\.crt: cannot be read: no such file or directory"),
            (
                "broken.crl",
                b"nothing",
                f"      client_certificates: required\n      client_ca: {self.directory}/ca.crt\n"
                f"      crl: [{self.directory}/broken.crl]\n",
                r":4:5: .*broken\.crl: holds no revocation list",
            ),
            ("x", b"", "      cipher_suites: [RC4]\n", r":4:5: .*no cipher suite RC4; there are TLS13_"),
        ):
            with self.subTest(file=file, expected=expected):
                path = self.directory / file
                before = path.read_bytes() if path.exists() else None
                if content is None:
                    path.unlink()
                else:
                    path.write_bytes(content)
                self.write(more)
                midge = self.start()
                self.assertEqual(midge.wait(), 2, midge.output)
                self.assertRegex(midge.output, place + expected)
                self.assertLessEqual(len(midge.output.splitlines()), 2)
                if before is not None:
                    path.write_bytes(before)

    def test_a_key_for_everybody_is_warned_of(self):
        (self.directory / "server.key").chmod(0o644)
        midge = self.start()
        midge.addresses()
        midge.wait_for_line("others may read this private key")

    def test_reload_changes_new_connections_and_drops_nobody(self):
        midge = self.start()
        address = midge.addresses()[0]
        transport = Transport("tls", self.authority.path("ca.crt"))
        clients = [paho.Connection(5, address, f"c-{number}", transport=transport) for number in range(4)]
        for client in clients:
            self.addCleanup(client.close)
            client.subscribe([("t", 1)])

        def shown():
            host, port = address
            text = openssl(self.directory, "s_client", "-connect", f"{host}:{port}", check=False)
            return re.search(r"^ *0 s:.*CN = (\w+)", text, re.M).group(1)

        self.assertEqual(shown(), "first")
        self.authority.issue("server", "second", "DNS:localhost,IP:127.0.0.1", "serverAuth")
        midge.process.send_signal(signal.SIGHUP)
        midge.wait_for_line("certificates, keys or lists are other ones")
        self.assertEqual(shown(), "second")
        midge.process.send_signal(signal.SIGHUP)
        midge.wait_for_line("no certificate differs")
        (self.directory / "server.key").write_text("nothing")
        midge.process.send_signal(signal.SIGHUP)
        midge.wait_for_line("everything stays as it is")
        self.assertEqual(shown(), "second")
        clients[0].publish(Publication("t", b"still here", 1))
        for client in clients:
            self.assertEqual([m.payload for m in client.wait_for(1)], [b"still here"])
            self.assertFalse(client.disconnected.is_set())
