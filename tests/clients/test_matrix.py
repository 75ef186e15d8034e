"""Every publishing client × every subscribing client × every QoS, all pairs of shards.

Eight publishers and eight subscribers with ids of their own take part in each case, and every subscriber wants every
message. A client's shard follows from its id, so with three shards, pairs on one shard and on two both occur.
"""

import concurrent.futures
import unittest

from broker import SharedBroker
from drivers import Publication
from kinds import KINDS, identifier

# Publishers and subscribers in each case.
CLIENTS = 8
# Messages of each publisher.
MESSAGES = 3


class Matrix(unittest.TestCase):
    """One class of cases for each subscribing kind and QoS: its subscribers serve all publishing kinds."""

    kind = None
    qos = None

    @classmethod
    def setUpClass(cls):
        cls.place = f"matrix/{identifier(cls.kind.name)}/{cls.qos}"
        short = f"{cls.kind.client[:2]}{cls.kind.version}{cls.qos}"
        cls.subscribers = []
        cls.addClassCleanup(cls.close_all)
        for i in range(CLIENTS):
            filters = [(f"{cls.place}/#", cls.qos)]
            # 3.1 allows 23 characters in a client id.
            subscriber = cls.kind.subscriber(SharedBroker.address(), f"ms-{short}-{i}", filters)
            cls.subscribers.append(subscriber)

    @classmethod
    def close_all(cls):
        for subscriber in cls.subscribers:
            subscriber.close()

    def check(self, publisher):
        topic = f"{self.place}/{identifier(publisher.name)}"
        short = f"{publisher.client[:2]}{publisher.version}"
        payloads = [[f"{i}:{n}".encode() for n in range(MESSAGES)] for i in range(CLIENTS)]

        def publish(i):
            publications = [Publication(f"{topic}/{i}", payload, self.qos) for payload in payloads[i]]
            publisher.publish(SharedBroker.address(), f"mp-{short}-{i}", publications)

        with concurrent.futures.ThreadPoolExecutor(CLIENTS) as pool:
            list(pool.map(publish, range(CLIENTS)))

        def of_this_case(messages):
            return [m for m in messages if m.topic.startswith(topic + "/")]

        for subscriber in self.subscribers:
            messages = subscriber.wait_until(lambda got: len(of_this_case(got)) >= CLIENTS * MESSAGES)
            messages = of_this_case(messages)
            for i in range(CLIENTS):
                got = [m.payload for m in messages if m.topic == f"{topic}/{i}"]
                self.assertEqual(got, payloads[i], f"{subscriber.client_id} of publisher {i}")
            self.assertEqual({m.qos for m in messages}, {self.qos})
            self.assertEqual({m.retain for m in messages}, {False})


def load_tests(loader, _standard, _pattern):
    suite = unittest.TestSuite()
    for subscriber in KINDS:
        for qos in (0, 1, 2):
            members = {"kind": subscriber, "qos": qos}
            for publisher in KINDS:
                name = f"test_{identifier(publisher.name)}_to_{identifier(subscriber.name)}_qos{qos}"
                members[name] = lambda self, publisher=publisher: self.check(publisher)
            case = type(f"Matrix_{identifier(subscriber.name)}_qos{qos}", (Matrix,), members)
            case.__module__ = __name__
            suite.addTests(loader.loadTestsFromTestCase(case))
    return suite
