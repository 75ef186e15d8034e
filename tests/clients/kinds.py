"""All kinds of clients: three libraries, three protocol versions."""

from drivers import mosquitto, mqttjs, paho

VERSIONS = (3, 4, 5)

KINDS = [module.Kind(version) for module in (mosquitto, paho, mqttjs) for version in VERSIONS]


def after(kind):
    """Another library's kind at the same version: a test of one subscriber has a publisher that is not its own."""
    return KINDS[(KINDS.index(kind) + len(VERSIONS)) % len(KINDS)]


def identifier(name):
    """`name` as part of a method name, a topic or a client id."""
    return name.replace(" ", "_").replace(".", "")
