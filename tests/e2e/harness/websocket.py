"""A WebSocket client by hand: it can fragment, lie, go silent and vanish."""

import base64
import json
import os
import select
import struct
import time

from .raw import Reader, connect, head

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10


class Refused(Exception):
    """The handshake was answered with a status."""

    def __init__(self, status, headers, body):
        super().__init__(f"{status}: {body[:500]!r}")
        self.status = status
        self.headers = headers
        self.body = body

    def json(self):
        return json.loads(self.body)


class WebSocket:
    """One connection. Answers pings by itself unless `pong` is off."""

    def __init__(self, url, target, token=None, *headers, timeout=30, pong=True):
        self.connection = connect(url, timeout)
        self.reader = Reader(self.connection)
        self.pong = pong
        self.pings = 0
        self.closed_with = None
        key = base64.b64encode(os.urandom(16)).decode()
        upgrade = (
            "Connection: Upgrade",
            "Upgrade: websocket",
            "Sec-WebSocket-Version: 13",
            f"Sec-WebSocket-Key: {key}",
        )
        self.connection.sendall(head("GET", target, token, *upgrade, *headers))
        status, self.headers = self.reader.head()
        if status != 101:
            size = int(self.headers.get("content-length", 0))
            body = self.reader.take(size)
            self.connection.close()
            raise Refused(status, self.headers, body)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.vanish()

    def send_frame(self, opcode, payload=b"", final=True, masked=True, reserved=0):
        first = (0x80 if final else 0) | (reserved << 4) | opcode
        mask_bit = 0x80 if masked else 0
        size = len(payload)
        if size < 126:
            start = struct.pack(">BB", first, mask_bit | size)
        elif size < 1 << 16:
            start = struct.pack(">BBH", first, mask_bit | 126, size)
        else:
            start = struct.pack(">BBQ", first, mask_bit | 127, size)
        if masked:
            # Zero is a mask too, and a large payload is sent in no time.
            start += b"\0\0\0\0"
        self.connection.sendall(start + payload)

    def send_text(self, text):
        self.send_frame(TEXT, text.encode())

    def send_json(self, **fields):
        self.send_text(json.dumps(fields))

    def send_binary(self, payload):
        self.send_frame(BINARY, payload)

    def read_frame(self):
        """Returns final, opcode and payload of the next frame, whatever it is."""
        first, second = self.reader.take(2)
        assert not second & 0x80, "a server must not mask"
        assert not first & 0x70, "no extension was agreed on"
        size = second & 0x7F
        if size == 126:
            (size,) = struct.unpack(">H", self.reader.take(2))
        elif size == 127:
            (size,) = struct.unpack(">Q", self.reader.take(8))
        return bool(first & 0x80), first & 0x0F, self.reader.take(size)

    def receive(self, timeout=30):
        """Returns the next message: `str`, `bytes`, or None when the server closed.

        Its close code is in `closed_with` then.
        """
        deadline = time.monotonic() + timeout
        kind, message = None, b""
        while True:
            self.connection.settimeout(max(0.01, deadline - time.monotonic()))
            final, opcode, payload = self.read_frame()
            if opcode == PING:
                self.pings += 1
                if self.pong:
                    self.send_frame(PONG, payload)
            elif opcode == CLOSE:
                (self.closed_with,) = struct.unpack(">H", payload[:2]) if payload else (1005,)
                try:
                    self.send_frame(CLOSE, payload[:2])
                except OSError:
                    pass
                return None
            elif opcode in (TEXT, BINARY, CONTINUATION):
                kind = opcode if opcode != CONTINUATION else kind
                message += payload
                if final:
                    return message.decode() if kind == TEXT else message

    def has_data(self, timeout=0):
        """Whether the server has sent something that was not read yet."""
        return bool(self.reader.buffer) or bool(select.select([self.connection], [], [], timeout)[0])

    def close(self, code=1000):
        self.send_frame(CLOSE, struct.pack(">H", code))

    def vanish(self):
        """Drops the connection without a word."""
        self.connection.close()
