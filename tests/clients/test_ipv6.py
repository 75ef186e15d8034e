"""Clients over IPv6 and IPv4 at once."""

import unittest

from broker import SharedBroker, has_ipv6
from drivers import Publication
from kinds import KINDS, after, identifier


class Ipv6(unittest.TestCase):
    """Both families reach the same topics."""

    def check(self, kind):
        if not has_ipv6():
            self.skipTest("this machine has no IPv6 loopback address")
        ipv4, ipv6 = SharedBroker.address(), SharedBroker.address_ipv6()
        if ipv6 is None:
            self.skipTest("the broker under test has no IPv6 address (MIDGE_TEST_ADDRESS_IPV6)")
        topic = f"ipv6/{identifier(kind.name)}"
        short = f"{kind.client[:2]}{kind.version}"
        receivers = [kind.subscriber(address, f"i-{short}-{n}", [(topic, 1)]) for n, address in enumerate((ipv4, ipv6))]
        for receiver in receivers:
            self.addCleanup(receiver.close)
        for n, address in enumerate((ipv4, ipv6)):
            after(kind).publish(address, f"ip-{short}-{n}", [Publication(topic, address[0].encode(), 1)])
        for receiver in receivers:
            self.assertEqual([m.payload for m in receiver.wait_for(2)], [b"127.0.0.1", b"::1"])


for _kind in KINDS:
    setattr(Ipv6, f"test_{identifier(_kind.name)}", lambda self, kind=_kind: self.check(kind))
