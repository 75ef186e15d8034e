"""What only MQTT 5.0 has, between clients of different origin: properties, aliases, options, reason codes."""

import itertools
import time
import unittest

from broker import SharedBroker
from drivers import Publication, mosquitto, mqttjs, paho

KINDS = [module.Kind(5) for module in (mosquitto, paho, mqttjs)]

_numbers = itertools.count(1)


class Version5(unittest.TestCase):
    """Single tests with the client that can do what is asked."""

    def setUp(self):
        self.address = SharedBroker.address()
        self.number = next(_numbers)
        self.place = f"version5/{self.number}"

    def client_id(self):
        return f"v5-{self.number}-{next(_numbers)}"

    def paho(self, **options):
        connection = paho.Connection(5, self.address, options.pop("client_id", None) or self.client_id(), **options)
        self.addCleanup(connection.close)
        return connection

    def check_properties(self, publisher, subscriber):
        sent = {
            "content_type": "text/plain",
            "response_topic": f"{self.place}/answer",
            "correlation_data": b"request-17",
            "message_expiry_seconds": 600,
            "payload_format_indicator": 1,
            "user_properties": [("zebra", "1"), ("ant", "2"), ("zebra", "3"), ("ant", "2")],
        }
        if publisher.client == "mqttjs":
            # It sends names in the order of a map; the values of one name stay together.
            sent["user_properties"] = [("zebra", "1"), ("zebra", "3"), ("ant", "2"), ("ant", "2")]
        receivers = [subscriber.subscriber(self.address, self.client_id(), [(f"{self.place}/t", 1)]) for _ in range(4)]
        for receiver in receivers:
            self.addCleanup(receiver.close)
        publisher.publish(self.address, self.client_id(), [Publication(f"{self.place}/t", b"text", 1, False, sent)])
        for receiver in receivers:
            got = dict(receiver.wait_for(1)[0].properties)
            # The broker takes away the seconds that the message waited.
            self.assertTrue(590 <= got.pop("message_expiry_seconds") <= 600)
            expected = {key: value for key, value in sent.items() if key != "message_expiry_seconds"}
            if subscriber.client == "mqttjs":
                # It hands over a map from name to values.
                for properties in (got, expected):
                    grouped = {}
                    for name, value in properties["user_properties"]:
                        grouped.setdefault(name, []).append(value)
                    properties["user_properties"] = list(grouped.items())
            self.assertEqual(got, expected)

    def test_properties_of_a_will(self):
        watcher = mqttjs.Kind(5).subscriber(self.address, self.client_id(), [(f"{self.place}/will", 1)])
        self.addCleanup(watcher.close)
        properties = {"content_type": "text/plain", "user_properties": [("cause", "unknown")]}
        will = Publication(f"{self.place}/will", b"dead", 1, False, properties)
        self.paho(will=will).kill()
        message = watcher.wait_for(1)[0]
        self.assertEqual((message.payload, message.properties), (b"dead", properties))

    def test_properties_of_a_retained_message(self):
        properties = {"content_type": "text/plain", "user_properties": [("b", "1"), ("a", "2")]}
        topic = f"{self.place}/state"
        mqttjs.Kind(5).publish(self.address, self.client_id(), [Publication(topic, b"x", 1, True, properties)])
        for kind in KINDS:
            with self.subTest(kind=kind.name):
                late = kind.subscriber(self.address, self.client_id(), [(topic, 1)])
                self.addCleanup(late.close)
                self.assertEqual(late.wait_for(1)[0].properties, properties)
        self.paho().publish(Publication(topic, b"", 1, True))

    def test_message_expires_in_the_queue(self):
        sleeper = self.paho(clean=False, expiry_seconds=600)
        sleeper.subscribe([(f"{self.place}/mail", 1)])
        sleeper.close()
        sender = self.paho()
        sender.publish(Publication(f"{self.place}/mail", b"short", 1, False, {"message_expiry_seconds": 1}))
        sender.publish(Publication(f"{self.place}/mail", b"long", 1, False, {"message_expiry_seconds": 600}))
        # The passing of time is what is tested here.
        time.sleep(2.1)
        awake = self.paho(client_id=sleeper.client_id, clean=False, expiry_seconds=0)
        message = awake.wait_for(1)[0]
        self.assertEqual(message.payload, b"long")
        self.assertTrue(590 <= message.properties["message_expiry_seconds"] <= 598, message.properties)

    def test_topic_aliases_both_ways(self):
        receiver = mqttjs.Connection(5, self.address, self.client_id(), topic_aliases=3)
        self.addCleanup(receiver.close)
        receiver.subscribe([(f"{self.place}/#", 1)])
        sender = mqttjs.Connection(5, self.address, self.client_id(), topic_aliases=3)
        self.addCleanup(sender.close)
        # More topics than aliases, each several times: aliases are set, used and reassigned.
        expected = [(f"{self.place}/{n % 5}", f"{n}".encode()) for n in range(40)]
        for topic, payload in expected:
            sender.publish(Publication(topic, payload, 1))
        self.assertEqual([(m.topic, m.payload) for m in receiver.wait_for(40)], expected)

    def test_receive_maximum_of_one(self):
        receiver = self.paho(receive_maximum=1)
        receiver.subscribe([(f"{self.place}/t", 2)])
        payloads = [f"{n}".encode() for n in range(30)]
        mqttjs.Kind(5).publish(
            self.address,
            self.client_id(),
            [Publication(f"{self.place}/t", p, 1 + n % 2) for n, p in enumerate(payloads)],
        )
        self.assertEqual([m.payload for m in receiver.wait_for(30)], payloads)

    def test_no_local(self):
        alone = self.paho()
        alone.subscribe([(f"{self.place}/t", 1)], no_local=True)
        alone.subscribe([(f"{self.place}/mark", 1)])
        alone.publish(Publication(f"{self.place}/t", b"own", 1))
        alone.publish(Publication(f"{self.place}/mark", b"mark", 1))
        self.assertEqual([m.payload for m in alone.wait_for(1)], [b"mark"])

    def test_retain_as_published(self):
        plain, faithful = self.paho(), self.paho()
        plain.subscribe([(f"{self.place}/t", 1)])
        faithful.subscribe([(f"{self.place}/t", 1)], retain_as_published=True)
        self.paho().publish(Publication(f"{self.place}/t", b"x", 1, True))
        self.assertEqual([plain.wait_for(1)[0].retain, faithful.wait_for(1)[0].retain], [False, True])
        self.paho().publish(Publication(f"{self.place}/t", b"", 1, True))

    def test_retain_handling(self):
        self.paho().publish(Publication(f"{self.place}/t", b"old", 1, True))
        # Retain handling -> how many copies have come after the first SUBSCRIBE and after the second.
        for handling, copies in {0: (1, 2), 1: (1, 1), 2: (0, 0)}.items():
            with self.subTest(handling=handling):
                receiver = self.paho()
                receiver.subscribe([(f"{self.place}/mark{handling}", 1)])
                for expected in copies:
                    receiver.subscribe([(f"{self.place}/t", 1)], retain_handling=handling)
                    receiver.wait_for(expected)
                receiver.publish(Publication(f"{self.place}/mark{handling}", b"mark", 1))
                messages = receiver.wait_until(lambda got: any(m.payload == b"mark" for m in got))
                self.assertEqual([m.payload for m in messages].count(b"old"), copies[1])
        self.paho().publish(Publication(f"{self.place}/t", b"", 1, True))

    def test_subscription_identifiers(self):
        receiver = self.paho()
        receiver.subscribe([(f"{self.place}/+", 1)], identifier=7)
        receiver.subscribe([(f"{self.place}/t", 1)], identifier=268_435_455)
        self.paho().publish(Publication(f"{self.place}/t", b"x", 1))
        self.paho().publish(Publication(f"{self.place}/mark", b"mark", 1))
        messages = receiver.wait_until(lambda got: any(m.payload == b"mark" for m in got))
        # One message with both identifiers or one for each: the specification allows either.
        identifiers = []
        for message in messages:
            if message.payload == b"x":
                identifiers += message.properties["subscription_identifiers"]
        self.assertEqual(sorted(identifiers), [7, 268_435_455])

    def test_idle_clients_keep_themselves_alive(self):
        idle = [self.paho(keep_alive_seconds=1) for _ in range(3)]
        for _ in range(3):
            idle.append(mqttjs.Connection(5, self.address, self.client_id(), keep_alive_seconds=1))
            self.addCleanup(idle[-1].close)
        for client in idle:
            client.subscribe([(f"{self.place}/t", 1)])
        # Twice the time after which a silent client is dropped.
        time.sleep(3.0)
        self.paho().publish(Publication(f"{self.place}/t", b"awake?", 1))
        for client in idle:
            self.assertEqual([m.payload for m in client.wait_for(1)], [b"awake?"])

    def test_assigned_client_id(self):
        first, second = (paho.Connection(5, self.address, "") for _ in range(2))
        self.addCleanup(first.close)
        self.addCleanup(second.close)
        names = [c.connack_properties.AssignedClientIdentifier for c in (first, second)]
        self.assertTrue(names[0] and names[1] and names[0] != names[1], names)

    def test_take_over_tells_the_old_client(self):
        old = self.paho()
        self.paho(client_id=old.client_id)
        self.assertTrue(old.disconnected.wait(20.0))
        self.assertEqual(old.disconnect_reason, 0x8E)

    def test_unsubscribe(self):
        receiver = self.paho()
        receiver.subscribe([(f"{self.place}/t", 1), (f"{self.place}/mark", 1)])
        receiver.unsubscribe(f"{self.place}/t")
        sender = self.paho()
        sender.publish(Publication(f"{self.place}/t", b"late", 1))
        sender.publish(Publication(f"{self.place}/mark", b"mark", 1))
        self.assertEqual([m.payload for m in receiver.wait_for(1)], [b"mark"])

    def test_request_and_response(self):
        server = mqttjs.Connection(5, self.address, self.client_id())
        self.addCleanup(server.close)
        server.subscribe([(f"{self.place}/square", 1)])
        client = self.paho()
        client.subscribe([(f"{self.place}/answers/me", 1)])
        for n in range(5):
            request = {"response_topic": f"{self.place}/answers/me", "correlation_data": f"call {n}".encode()}
            client.publish(Publication(f"{self.place}/square", f"{n}".encode(), 1, False, request))
        for message in server.wait_for(5):
            answer = f"{int(message.payload) ** 2}".encode()
            echoed = {"correlation_data": message.properties["correlation_data"]}
            server.publish(Publication(message.properties["response_topic"], answer, 1, False, echoed))
        got = [(m.properties["correlation_data"], m.payload) for m in client.wait_for(5)]
        self.assertEqual(got, [(f"call {n}".encode(), f"{n * n}".encode()) for n in range(5)])


def load_tests(loader, standard, _pattern):
    members = {}
    for publisher in KINDS:
        for subscriber in KINDS:
            name = f"test_properties_{publisher.client}_to_{subscriber.client}"
            members[name] = lambda self, p=publisher, s=subscriber: self.check_properties(p, s)
    case = type("Properties", (Version5,), members)
    case.__module__ = __name__
    names = [name for name in loader.getTestCaseNames(case) if name in members]
    standard.addTests(case(name) for name in names)
    return standard
