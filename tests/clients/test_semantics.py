"""What a subscriber may rely on, for every kind of client: retained messages, wills, sessions, shared subscriptions,
wildcards, QoS of delivery, large payloads.

Where a test must show that something does *not* arrive, it sends a mark along the same way afterwards and waits for
that instead of for a time.
"""

import itertools
import unittest

from broker import SharedBroker
from drivers import Publication, mosquitto, wait_for_all
from kinds import KINDS, after, identifier

# The largest packet that the broker takes by default is 1 MiB; topic and header need a little of it.
LARGE_PAYLOAD_BYTES = 1024 * 1024 - 256

_numbers = itertools.count(1)


class Semantics(unittest.TestCase):
    """All tests for one kind of subscriber; messages come from another library at the same version."""

    kind = None

    def setUp(self):
        self.address = SharedBroker.address()
        self.publisher = after(self.kind)
        self.number = next(_numbers)
        self.place = f"semantics/{self.number}"

    def client_id(self, role):
        """A new client id: another shard each time, as chance has it."""
        return f"s{self.number}-{role}-{next(_numbers)}"

    def publish(self, topic, payload, qos=1, retain=False):
        publication = Publication(f"{self.place}/{topic}", payload, qos, retain)
        self.publisher.publish(self.address, self.client_id("p"), [publication])

    def subscriber(self, *filters, qos=1, role="s", **options):
        wanted = [(filter_.replace("HERE", self.place), qos) for filter_ in filters]
        subscriber = self.kind.subscriber(
            self.address, options.pop("client_id", None) or self.client_id(role), wanted, **options
        )
        self.addCleanup(subscriber.close)
        return subscriber

    def payloads_until(self, subscriber, last):
        """All payloads up to the one that is `last`."""
        messages = subscriber.wait_until(lambda got: any(m.payload == last for m in got))
        return [m.payload for m in messages]

    def test_retained_set_replaced_cleared(self):
        for payload in (b"first", b"second"):
            self.publish("state", payload, retain=True)
            for _ in range(3):
                subscriber = self.subscriber("HERE/state")
                message = subscriber.wait_for(1)[0]
                self.assertEqual((message.payload, message.retain), (payload, True))
        self.publish("state", b"", retain=True)
        late = self.subscriber("HERE/#")
        self.publish("mark", b"mark")
        self.assertEqual(self.payloads_until(late, b"mark"), [b"mark"])

    def test_retained_flag_is_clear_for_those_already_subscribed(self):
        subscriber = self.subscriber("HERE/state")
        self.publish("state", b"now", retain=True)
        self.assertEqual([(m.payload, m.retain) for m in subscriber.wait_for(1)], [(b"now", False)])
        self.publish("state", b"", retain=True)

    def test_retained_of_many_topics_by_wildcard(self):
        for i in range(12):
            self.publish(f"rooms/{i}/state", str(i).encode(), retain=True)
        subscriber = self.subscriber("HERE/rooms/+/state")
        got = subscriber.wait_for(12)
        self.assertEqual(sorted(int(m.payload) for m in got), list(range(12)))
        self.assertTrue(all(m.retain for m in got))
        for i in range(12):
            self.publish(f"rooms/{i}/state", b"", retain=True)

    def test_will_of_a_client_that_dies(self):
        for round_ in range(3):
            watcher = self.subscriber("HERE/will")
            will = Publication(f"{self.place}/will", f"dead {round_}".encode(), 1)
            mortal = self.subscriber("HERE/other", role="m", will=will)
            mortal.kill()
            self.assertEqual([m.payload for m in watcher.wait_for(1)], [will.payload])

    def test_will_of_a_client_that_leaves(self):
        watcher = self.subscriber("HERE/will")
        will = Publication(f"{self.place}/will", b"dead", 1)
        mortal = self.subscriber("HERE/other", role="m", will=will)
        mortal.close()
        # The mark comes from the same client id, so from the same shard as the will that must not come.
        mark = Publication(f"{self.place}/will", b"mark", 1)
        self.publisher.publish(self.address, mortal.client_id, [mark])
        expected = [b"dead", b"mark"] if self.kind.leaves_with_will else [b"mark"]
        self.assertEqual(self.payloads_until(watcher, b"mark"), expected)

    def test_retained_will(self):
        will = Publication(f"{self.place}/will", b"dead", 1, retain=True)
        watcher = self.subscriber("HERE/will")
        mortal = self.subscriber("HERE/other", role="m", will=will)
        mortal.kill()
        watcher.wait_for(1)
        late = self.subscriber("HERE/will")
        self.assertEqual([(m.payload, m.retain) for m in late.wait_for(1)], [(b"dead", True)])
        self.publish("will", b"", retain=True)

    def persistent_session(self, qos):
        # Several sessions: some share the publisher's shard, some do not.
        options = {"clean": False, "expiry_seconds": 3_600, "qos": qos}
        sleepers = [self.subscriber("HERE/mail", **options) for _ in range(4)]
        for sleeper in sleepers:
            self.assertIn(sleeper.session_present, (False, None))
            sleeper.close()
        payloads = [f"letter {i}".encode() for i in range(5)]
        self.publisher.publish(
            self.address,
            self.client_id("p"),
            [Publication(f"{self.place}/mail", payload, qos) for payload in payloads],
        )
        for sleeper in sleepers:
            awake = self.subscriber("HERE/mail", client_id=sleeper.client_id, **options)
            self.assertIn(awake.session_present, (True, None))
            self.publisher.publish(self.address, self.client_id("p"), [Publication(f"{self.place}/mail", b"mark", qos)])
            messages = awake.wait_until(lambda got: any(m.payload == b"mark" for m in got))
            # Sleepers that wake later find the marks of the earlier ones in their queue.
            letters = [m for m in messages if m.payload != b"mark"]
            self.assertEqual([m.payload for m in letters], payloads)
            self.assertEqual({m.qos for m in letters}, {qos})
            awake.close()
            # Take the session away again; what comes then is new.
            last = self.subscriber("HERE/mail", client_id=sleeper.client_id, qos=qos)
            self.assertIn(last.session_present, (False, None))
            last.close()

    def test_persistent_session_qos1(self):
        self.persistent_session(1)

    def test_persistent_session_qos2(self):
        self.persistent_session(2)

    def test_take_over_keeps_the_session(self):
        options = {"clean": False, "expiry_seconds": 3_600}
        old = self.subscriber("HERE/mail", **options)
        new = self.subscriber("HERE/mail", client_id=old.client_id, **options)
        self.assertIn(new.session_present, (True, None))
        self.publish("mail", b"to the new one")
        self.assertEqual([m.payload for m in new.wait_for(1)], [b"to the new one"])
        self.assertEqual(old.messages, [])
        new.close()
        self.subscriber("HERE/mail", client_id=old.client_id).close()

    def test_clean_session_forgets(self):
        first = self.subscriber("HERE/mail")
        first.close()
        self.publish("mail", b"lost")
        second = self.subscriber("HERE/mail", client_id=first.client_id)
        self.assertIn(second.session_present, (False, None))
        self.publish("mail", b"mark")
        self.assertEqual(self.payloads_until(second, b"mark"), [b"mark"])

    def test_wildcards(self):
        # Filter -> which of the topics it matches.
        topics = ["a", "a/b", "a/b/c", "a//c", "/a", "b/b"]
        expected = {
            "#": topics,
            "+": ["a"],
            "a/+": ["a/b"],
            "+/b": ["a/b", "b/b"],
            "a/#": ["a", "a/b", "a/b/c", "a//c"],
            "a/+/c": ["a/b/c", "a//c"],
            "+/+/c": ["a/b/c", "a//c"],
            "/+": ["/a"],
            "a/b/#": ["a/b", "a/b/c"],
        }
        subscribers = {filter_: self.subscriber(f"HERE/{filter_}", "HERE-mark") for filter_ in expected}
        self.publisher.publish(
            self.address,
            self.client_id("p"),
            [Publication(f"{self.place}/{topic}", topic.encode(), 1) for topic in topics]
            + [Publication(f"{self.place}-mark", b"mark", 1)],
        )
        for filter_, matched in expected.items():
            with self.subTest(filter=filter_):
                payloads = self.payloads_until(subscribers[filter_], b"mark")
                self.assertEqual(payloads, [topic.encode() for topic in matched] + [b"mark"])

    def test_delivery_has_the_lower_qos_of_both(self):
        for wanted in (0, 1, 2):
            subscriber = self.subscriber("HERE/qos", qos=wanted)
            self.publisher.publish(
                self.address,
                self.client_id("p"),
                [Publication(f"{self.place}/qos", f"{sent}".encode(), sent) for sent in (0, 1, 2)],
            )
            got = [(m.payload, m.qos) for m in subscriber.wait_for(3)]
            self.assertEqual(got, [(f"{sent}".encode(), min(sent, wanted)) for sent in (0, 1, 2)])

    def test_order_of_many_messages(self):
        count = 500
        for qos in (0, 1, 2):
            with self.subTest(qos=qos):
                subscribers = [self.subscriber(f"HERE/order{qos}", qos=qos) for _ in range(4)]
                payloads = [f"{n}".encode() for n in range(count)]
                # This publisher sends without waiting for each acknowledgement.
                mosquitto.Kind(5).publish(
                    self.address,
                    self.client_id("p"),
                    [Publication(f"{self.place}/order{qos}", payload, qos) for payload in payloads],
                )
                for subscriber in subscribers:
                    self.assertEqual([m.payload for m in subscriber.wait_for(count)], payloads)

    def test_large_payload(self):
        payload = bytes(range(256)) * (LARGE_PAYLOAD_BYTES // 256)
        subscribers = [self.subscriber("HERE/large", qos=2) for _ in range(3)]
        for qos in (0, 1, 2):
            self.publish("large", payload, qos)
        for subscriber in subscribers:
            for message in subscriber.wait_for(3):
                self.assertEqual(len(message.payload), len(payload))
                self.assertTrue(message.payload == payload, "the bytes differ")

    def test_shared_subscription_gives_each_message_to_one_member(self):
        if self.kind.version == 3:
            self.skipTest("shared subscriptions are for 3.1.1 and 5.0 clients")
        for qos in (0, 1, 2):
            with self.subTest(qos=qos):
                members = [
                    self.subscriber(f"$share/group/HERE/work{qos}/#", f"HERE/mark{qos}", qos=qos) for _ in range(4)
                ]
                bystander = self.subscriber(f"HERE/work{qos}/#", qos=qos)
                total = 0
                for _ in range(4):
                    jobs = [
                        Publication(f"{self.place}/work{qos}/{n}", f"job {n}".encode(), qos)
                        for n in range(total, total + 10)
                    ]
                    self.publisher.publish(self.address, self.client_id("p"), jobs)
                    total += len(jobs)
                wait_for_all(members, total)
                mark = Publication(f"{self.place}/mark{qos}", b"mark", qos)
                self.publisher.publish(self.address, self.client_id("p"), [mark])
                for member in members:
                    self.payloads_until(member, b"mark")
                shares = [[m.payload for m in member.messages if m.payload != b"mark"] for member in members]
                expected = sorted(f"job {n}".encode() for n in range(total))
                self.assertEqual(sorted(itertools.chain(*shares)), expected)
                self.assertTrue(all(shares), f"a member got nothing: {[len(s) for s in shares]}")
                self.assertEqual(sorted(m.payload for m in bystander.wait_for(total)), expected)


def load_tests(loader, _standard, _pattern):
    suite = unittest.TestSuite()
    for kind in KINDS:
        case = type(f"Semantics_{identifier(kind.name)}", (Semantics,), {"kind": kind})
        case.__module__ = __name__
        suite.addTests(loader.loadTestsFromTestCase(case))
    return suite
