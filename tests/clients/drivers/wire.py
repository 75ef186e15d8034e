"""A client that speaks bytes: for what the other clients cannot say, such as AUTH packets (MQTT 5.0 only)."""

import socket

from broker import PATIENCE_SECONDS

METHOD, DATA, REASON = 0x15, 0x16, 0x1F

# The properties that the broker may put into CONNACK, AUTH and DISCONNECT, by what their value looks like.
_BYTES = {1: (0x01, 0x17, 0x19, 0x24, 0x25, 0x28, 0x29, 0x2A), 2: (0x13, 0x21, 0x22, 0x23), 4: (0x02, 0x11, 0x18, 0x27)}
_SIZES = {number: size for size, numbers in _BYTES.items() for number in numbers}


def text(value):
    value = value.encode() if isinstance(value, str) else value
    return len(value).to_bytes(2, "big") + value


def length(value):
    out = bytearray()
    while True:
        value, digit = divmod(value, 128)
        out.append(digit | (0x80 if value else 0))
        if not value:
            return bytes(out)


def properties(**named):
    block = b""
    for name, value in named.items():
        if value is not None:
            block += bytes([{"method": METHOD, "data": DATA}[name]]) + text(value)
    return length(len(block)) + block


def packet(first, body):
    return bytes([first]) + length(len(body)) + body


def auth(code, method, data):
    return packet(0xF0, bytes([code]) + properties(method=method, data=data))


class Answer:
    """CONNACK, AUTH or DISCONNECT: its type, its reason code, the method and the data."""

    def __init__(self, first, body):
        self.kind = first >> 4
        at = 1 if self.kind == 2 else 0
        self.code = body[at] if len(body) > at else 0
        found = _properties(body[at + 1 :])
        self.method = found.get(METHOD, b"").decode()
        self.data = found.get(DATA)
        self.reason = found.get(REASON, b"").decode()


def _properties(body):
    found = {}
    if not body:
        return found
    size, at = _length(body, 0)
    end = at + size
    while at < end:
        number, at = body[at], at + 1
        if number in _SIZES:
            at += _SIZES[number]
            continue
        count = 2 if number == 0x26 else 1
        for _ in range(count):
            size = int.from_bytes(body[at : at + 2], "big")
            found[number] = body[at + 2 : at + 2 + size]
            at += 2 + size
    return found


def _length(body, at):
    value = shift = 0
    while True:
        value |= (body[at] & 0x7F) << shift
        shift += 7
        at += 1
        if not body[at - 1] & 0x80:
            return value, at


class Wire:
    """One connection."""

    def __init__(self, address):
        self._socket = socket.create_connection(address, timeout=PATIENCE_SECONDS)
        self._received = b""

    def send(self, data):
        self._socket.sendall(data)

    def connect(self, client_id, method=None, data=None, user=None, password=None, clean=True):
        flags = (0x02 if clean else 0) | (0x80 if user is not None else 0) | (0x40 if password is not None else 0)
        body = text("MQTT") + bytes([5, flags, 0, 60]) + properties(method=method, data=data) + text(client_id)
        body += (text(user) if user is not None else b"") + (text(password) if password is not None else b"")
        self.send(packet(0x10, body))

    def ping(self):
        """Whether the broker answers."""
        self.send(b"\xc0\x00")
        return self._take()[0] == 0xD0

    def take(self):
        return Answer(*self._take())

    def is_closed(self):
        """Whether the broker has closed; what it says before is left out."""
        try:
            while self._socket.recv(4096):
                pass
        except TimeoutError:
            return False
        except OSError:
            pass
        return True

    def close(self):
        self._socket.close()

    def _take(self):
        while True:
            if len(self._received) >= 2:
                try:
                    size, at = _length(self._received, 1)
                except IndexError:
                    size, at = 1 << 30, 1
                if len(self._received) >= at + size:
                    first, body = self._received[0], self._received[at : at + size]
                    self._received = self._received[at + size :]
                    return first, body
            data = self._socket.recv(4096)
            if not data:
                raise ConnectionError("the broker closed the connection")
            self._received += data
