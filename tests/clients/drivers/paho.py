"""Eclipse Paho for Python: one network thread per client, in this process."""

import contextlib
import socket
import threading

import paho.mqtt.client as paho
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from . import PATIENCE_SECONDS, Failure, LibraryKind, Message, Subscriber, Transport

# Our names of the properties -> paho's.
_PROPERTY_NAMES = {
    "content_type": "ContentType",
    "response_topic": "ResponseTopic",
    "correlation_data": "CorrelationData",
    "message_expiry_seconds": "MessageExpiryInterval",
    "payload_format_indicator": "PayloadFormatIndicator",
    "user_properties": "UserProperty",
    "subscription_identifiers": "SubscriptionIdentifier",
}


class Connection(Subscriber):
    """One connected client: it publishes and subscribes, and gives back what the broker answered."""

    def __init__(
        self,
        version,
        address,
        client_id,
        clean=True,
        expiry_seconds=0,
        will=None,
        keep_alive_seconds=60,
        receive_maximum=None,
        user=None,
        password=None,
        transport=Transport(),
    ):
        super().__init__(client_id)
        self.version = version
        self.connack_properties = None
        self.disconnected = threading.Event()
        self._connected = threading.Event()
        self._acknowledged = threading.Condition()
        self._granted = {}
        self._unsubscribed = set()
        self._refusal = None
        self._client = paho.Client(
            paho.CallbackAPIVersion.VERSION2,
            client_id=client_id,
            clean_session=None if version == 5 else clean,
            protocol=paho.MQTTProtocolVersion(version),
            reconnect_on_failure=False,
            transport="websockets" if transport.has_websocket else "tcp",
        )
        if transport.has_websocket:
            self._client.ws_set_options(path=transport.path)
        if transport.has_tls:
            self._client.tls_set(transport.ca, transport.certificate, transport.key)
        self._client.on_connect = self._on_connect
        self._client.on_disconnect = self._on_disconnect
        self._client.on_message = self._on_message
        self._client.on_subscribe = self._on_subscribe
        self._client.on_unsubscribe = self._on_unsubscribe
        if user is not None:
            self._client.username_pw_set(user, password)
        if will:
            self._client.will_set(
                will.topic,
                will.payload,
                will.qos,
                will.retain,
                _properties(PacketTypes.WILLMESSAGE, will.properties) if version == 5 else None,
            )
        options = {}
        if version == 5:
            options["clean_start"] = clean
            options["properties"] = Properties(PacketTypes.CONNECT)
            options["properties"].SessionExpiryInterval = expiry_seconds
            if receive_maximum is not None:
                options["properties"].ReceiveMaximum = receive_maximum
        host, port = address
        self._client.connect(host, port, keepalive=keep_alive_seconds, **options)
        self._client.loop_start()
        if not self._connected.wait(PATIENCE_SECONDS):
            self.kill()
            raise Failure(f"{client_id}: no CONNACK")
        if self._refusal is not None:
            raise Failure(f"{client_id}: refused with {self._refusal}")

    def publish(self, publication):
        """Publishes and waits for the last acknowledgement that the QoS asks for."""
        properties = None
        if self.version == 5 and publication.properties:
            properties = _properties(PacketTypes.PUBLISH, publication.properties)
        info = self._client.publish(
            publication.topic, publication.payload, publication.qos, publication.retain, properties
        )
        info.wait_for_publish(PATIENCE_SECONDS)
        if not info.is_published():
            raise Failure(f"{self.client_id}: publish to {publication.topic} was not acknowledged")

    def subscribe(self, filters, no_local=False, retain_as_published=False, retain_handling=0, identifier=None):
        """Subscribes and returns the granted codes."""
        if self.version == 5:
            wanted = [
                (
                    filter_,
                    SubscribeOptions(
                        qos, noLocal=no_local, retainAsPublished=retain_as_published, retainHandling=retain_handling
                    ),
                )
                for filter_, qos in filters
            ]
            properties = Properties(PacketTypes.SUBSCRIBE)
            if identifier is not None:
                properties.SubscriptionIdentifier = identifier
            _, packet_id = self._client.subscribe(wanted, properties=properties)
        else:
            _, packet_id = self._client.subscribe(filters)
        with self._acknowledged:
            if not self._acknowledged.wait_for(lambda: packet_id in self._granted, PATIENCE_SECONDS):
                raise Failure(f"{self.client_id}: no SUBACK for {filters}")
            granted = self._granted.pop(packet_id)
        if any(code >= 0x80 for code in granted):
            raise Failure(f"{self.client_id}: subscription to {filters} refused: {granted}")
        return granted

    def unsubscribe(self, filter_):
        _, packet_id = self._client.unsubscribe(filter_)
        with self._acknowledged:
            if not self._acknowledged.wait_for(lambda: packet_id in self._unsubscribed, PATIENCE_SECONDS):
                raise Failure(f"{self.client_id}: no UNSUBACK for {filter_}")

    def close(self):
        self._client.disconnect()
        self._client.loop_stop()

    def kill(self):
        connection = self._client.socket()
        if connection is not None:
            # The broker may have closed it in the meantime: then it is as dead as it should be.
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._client.loop_stop()

    def _on_connect(self, _client, _userdata, flags, reason_code, properties):
        if reason_code.is_failure:
            self._refusal = reason_code
        # A CONNACK of 3.1 has no such flag.
        self.session_present = None if self.version == 3 else flags.session_present
        self.connack_properties = properties
        self._connected.set()

    def _on_disconnect(self, _client, _userdata, flags, reason_code, _properties):
        if flags.is_disconnect_packet_from_server:
            self.disconnect_reason = reason_code.value
        self.disconnected.set()

    def _on_message(self, _client, _userdata, message):
        properties = {}
        for ours, theirs in _PROPERTY_NAMES.items():
            if message.properties is not None and hasattr(message.properties, theirs):
                properties[ours] = getattr(message.properties, theirs)
        self.deliver(Message(message.topic, message.payload, message.qos, message.retain, properties))

    def _on_subscribe(self, _client, _userdata, packet_id, reason_codes, _properties):
        with self._acknowledged:
            self._granted[packet_id] = [code.value for code in reason_codes]
            self._acknowledged.notify_all()

    def _on_unsubscribe(self, _client, _userdata, packet_id, _reason_codes, _properties):
        with self._acknowledged:
            self._unsubscribed.add(packet_id)
            self._acknowledged.notify_all()


class Kind(LibraryKind):
    """Paho at one protocol version."""

    client = "paho"
    connection = Connection


def _properties(packet_type, ours):
    properties = Properties(packet_type)
    for key, value in ours.items():
        setattr(properties, _PROPERTY_NAMES[key], value)
    return properties
