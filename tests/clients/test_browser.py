"""MQTT.js in a headless browser, over WebSocket and TLS: what a web page sees of the broker.

The page is MQTT.js's own build for browsers; certificates and origins are judged by Chromium, not by us.
"""

import os
import pathlib
import tempfile
import unittest

from broker import SHARDS, Midge, given_address
from certificates import Authority
from drivers import Failure, Publication, Transport, browser, mqttjs, paho

LISTENERS = ("pages", "anybody", "tcp")


def configuration(directory, origin):
    certificate = f"tls: {{certificate: {directory}/server.crt, key: {directory}/server.key}}"
    return f"""\
listeners:
  - {{address: '127.0.0.1:0', protocol: wss, {certificate}, websocket: {{path: /mqtt, origins: ['{origin}']}}}}
  - {{address: '127.0.0.1:0', protocol: wss, {certificate}}}
  - {{address: '127.0.0.1:0'}}
shards: {SHARDS}
log:
  lines_per_second_max: 0
"""


@unittest.skipIf(given_address(), "the tests were pointed at a running broker")
@unittest.skipUnless(browser.program(), "no chromium-headless-shell or chromium here")
class Browser(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        directory = tempfile.TemporaryDirectory()
        cls.addClassCleanup(directory.cleanup)
        cls.directory = pathlib.Path(directory.name)
        authority = Authority(cls.directory)
        authority.issue("server", "localhost", "DNS:localhost,IP:127.0.0.1", "serverAuth")
        authority.issue("other", "localhost", "DNS:localhost,IP:127.0.0.1", "serverAuth")
        cls.trusted, cls.untrusted = authority.key_hash("server"), authority.key_hash("other")
        cls.site, cls.stranger = browser.Site(), browser.Site()
        cls.addClassCleanup(cls.site.stop)
        cls.addClassCleanup(cls.stranger.stop)
        path = cls.directory / "midge.yaml"
        path.write_text(configuration(cls.directory, cls.site.origin))
        cls.midge = Midge("serve", "--config", str(path), "--ephemeral")
        cls.addClassCleanup(cls.midge.stop)
        cls.addresses = dict(zip(LISTENERS, cls.midge.addresses(len(LISTENERS))))
        # Most tests are of one page; a browser takes a second or two to start.
        cls.page = cls.site.visit(cls.trusted)
        cls.addClassCleanup(cls.page.close)

    def client(self, client_id, version=5, listener="pages", page=None, **options):
        address, transport = self.addresses[listener], Transport("wss")
        return mqttjs.Connection(
            version, address, client_id, transport=transport, bridge=page or self.page, **options
        )

    def other_client(self, client_id, **options):
        """Somebody else's client, on a plain connection."""
        connection = paho.Connection(5, self.addresses["tcp"], client_id, **options)
        self.addCleanup(connection.close)
        return connection

    def test_messages_of_every_qos_go_both_ways(self):
        payloads = [os.urandom(size) for size in (1, 125, 126, 5_000, 65_535, 65_536, 100_000)]
        for version in (3, 4, 5):
            # Client ids of several shards: connections move there with their TLS and WebSocket.
            for number in range(2):
                with self.subTest(version=version, number=number):
                    name = f"{version}-{number}"
                    client, other = self.client(f"page-{name}", version), self.other_client(f"other-{name}")
                    self.assertEqual(client.transport["subprotocol"], "mqttv3.1" if version == 3 else "mqtt")
                    self.assertEqual(client.subscribe([(f"{name}/in/#", 2)]), [2])
                    other.subscribe([(f"{name}/out/#", 2)])
                    for qos in (0, 1, 2):
                        for payload in payloads:
                            client.publish(Publication(f"{name}/out/{qos}", payload, qos))
                            other.publish(Publication(f"{name}/in/{qos}", payload, qos))
                    expected = [(qos, payload) for qos in (0, 1, 2) for payload in payloads]
                    for receiver in (client, other):
                        messages = receiver.wait_for(len(expected))
                        self.assertEqual([(m.qos, m.payload) for m in messages], expected)
                    client.close()
        self.assertEqual(self.page.troubles, [])

    def test_properties_arrive(self):
        client, other = self.client("page-properties"), self.other_client("other-properties")
        client.subscribe([("properties/in", 1)])
        other.subscribe([("properties/out", 1)])
        properties = {
            "content_type": "text/plain", "response_topic": "r", "user_properties": [("a", "1"), ("a", "2"), ("b", "ü")]
        }  # fmt: skip
        client.publish(Publication("properties/out", b"x", 1, properties=properties))
        other.publish(Publication("properties/in", b"x", 1, properties=properties))
        for receiver in (client, other):
            self.assertEqual(receiver.wait_for(1)[0].properties, properties)
        client.close()

    def test_a_session_waits_for_the_page(self):
        client = self.client("page-session", clean=False, expiry_seconds=60)
        client.subscribe([("session", 1)])
        client.kill()
        other = self.other_client("other-session")
        payloads = [b"%d" % number for number in range(50)]
        for payload in payloads:
            other.publish(Publication("session", payload, 1))
        client = self.client("page-session", clean=False, expiry_seconds=60)
        self.assertTrue(client.session_present)
        self.assertEqual([m.payload for m in client.wait_for(len(payloads))], payloads)
        client.close()

    def test_a_page_of_another_origin_is_refused(self):
        page = self.stranger.visit(self.trusted)
        self.addCleanup(page.close)
        with self.assertRaises(Failure):
            self.client("stranger", page=page)
        self.midge.wait_for_line("reason=websocket_origin")
        # It is the origin: where none is asked for, the same page is let in, and where it is asked for ours is.
        self.client("stranger", listener="anybody", page=page).close()
        self.client("at-home").close()

    def test_a_browser_that_goes_away_leaves_its_will(self):
        other = self.other_client("other-will")
        other.subscribe([("will", 1)])
        site = browser.Site()
        self.addCleanup(site.stop)
        page = site.visit(self.trusted)
        self.addCleanup(page.close)
        self.client("page-will", listener="anybody", page=page, will=Publication("will", b"gone", 1))
        page.close()
        self.assertEqual([m.payload for m in other.wait_for(1)], [b"gone"])

    def test_a_certificate_that_the_browser_does_not_trust_is_refused(self):
        site = browser.Site()
        self.addCleanup(site.stop)
        page = site.visit(self.untrusted)
        self.addCleanup(page.close)
        with self.assertRaises(Failure):
            self.client("distrustful", listener="anybody", page=page)
        self.midge.wait_for_line("reason=tls_alert")


if __name__ == "__main__":
    unittest.main()
