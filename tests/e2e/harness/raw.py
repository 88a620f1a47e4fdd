"""HTTP by hand: whatever bytes a test wants to send, at whatever pace."""

import socket
from urllib.parse import urlsplit


def connect(url, timeout=30):
    """Opens a TCP connection to the server of `url`."""
    parts = urlsplit(url)
    connection = socket.create_connection((parts.hostname, parts.port), timeout)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def head(method, target, token=None, *headers):
    """Writes a request head."""
    lines = [f"{method} {target} HTTP/1.1", "Host: test"]
    if token:
        lines.append(f"Authorization: Bearer {token}")
    lines += headers
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


class Reader:
    """Reads answers off a connection."""

    def __init__(self, connection):
        self.connection = connection
        self.buffer = b""

    def fill(self):
        """Reads some more; false at the end."""
        chunk = self.connection.recv(65536)
        self.buffer += chunk
        return bool(chunk)

    def take(self, count):
        while len(self.buffer) < count:
            if not self.fill():
                raise EOFError(f"the server closed {count - len(self.buffer)} bytes early")
        taken, self.buffer = self.buffer[:count], self.buffer[count:]
        return taken

    def until(self, mark):
        while mark not in self.buffer:
            if not self.fill():
                raise EOFError(f"the server closed; it had sent {self.buffer[:200]!r}")
        at = self.buffer.index(mark) + len(mark)
        return self.take(at)

    def head(self):
        """Returns the status and the headers (names in lower case) of an answer."""
        lines = self.until(b"\r\n\r\n").decode("latin-1").split("\r\n")
        status = int(lines[0].split(" ")[1])
        pairs = (line.split(":", 1) for line in lines[1:] if line)
        return status, {name.strip().lower(): value.strip() for name, value in pairs}

    def answer(self, has_body=True):
        """Returns status, headers and body of an answer."""
        status, headers = self.head()
        if not has_body or status in (204, 304) or 100 <= status < 200:
            return status, headers, b""
        if headers.get("transfer-encoding", "").lower() == "chunked":
            return status, headers, b"".join(self.chunks())
        if "content-length" in headers:
            return status, headers, self.take(int(headers["content-length"]))
        while self.fill():
            pass
        return status, headers, self.take(len(self.buffer))

    def chunks(self):
        """Yields the chunks of a chunked body as they were sent."""
        while True:
            size = int(self.until(b"\r\n").strip().split(b";")[0], 16)
            chunk = self.take(size)
            assert self.take(2) == b"\r\n"
            if size == 0:
                return
            yield chunk

    def at_end(self):
        """Whether the server has closed and sent nothing more."""
        try:
            return not self.buffer and self.connection.recv(1) == b""
        except ConnectionError:
            return True


def request(url, data, timeout=30):
    """Sends bytes and reads one answer; returns status, headers and body."""
    with connect(url, timeout) as connection:
        connection.sendall(data)
        return Reader(connection).answer()
