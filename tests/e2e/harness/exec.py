"""Exec sockets, read as the contract writes them."""

import json
from dataclasses import dataclass, field
from urllib.parse import quote, urlencode

from .websocket import WebSocket

STDIN, STDOUT, STDERR, EXIT, STDIN_EOF = range(5)


@dataclass
class Done:
    """Everything a socket said, up to its close."""

    code: int | None = None
    stdout: bytes = b""
    stderr: bytes = b""
    #: The `exit` message, the `03` frame and the close code, as far as they came.
    exit_message: dict | None = None
    exit_frame: bytes | None = None
    closed_with: int | None = None
    #: In order: "text:<type>", "stdout", "stderr", "exit" or "terminal".
    order: list = field(default_factory=list)
    messages: list = field(default_factory=list)

    @property
    def text(self):
        return self.stdout.decode(errors="replace")

    @property
    def errors(self):
        return self.stderr.decode(errors="replace")


class ExecSocket(WebSocket):
    """A socket of `…/exec`. The first message, `session_info`, is read on first use."""

    def __init__(self, api, sprite, command, *, session_id=None, headers=(), timeout=30, pong=True,
                 path_form=True, **params):
        self.session_id = session_id
        self.tty = bool(params.get("tty"))
        self._info = None
        self._early = []
        pairs = [("cmd", argument) for argument in command]
        for key, value in params.items():
            values = value if isinstance(value, (list, tuple)) else [value]
            for value in values:
                if value is not None:
                    text = str(value).lower() if isinstance(value, bool) else str(value)
                    pairs.append((key, text))
        target = f"/v1/sprites/{quote(sprite)}/exec"
        if session_id is not None and path_form:
            target += f"/{quote(str(session_id))}"
        if pairs:
            target += "?" + urlencode(pairs)
        super().__init__(api.url, target, api.token, *headers, timeout=timeout, pong=pong)

    @property
    def info(self):
        """The `session_info` message."""
        if self._info is None:
            message = self.receive()
            assert isinstance(message, str), f"expected session_info, got {message!r}"
            self._info = json.loads(message)
            assert self._info["type"] == "session_info", self._info
            self.session_id = self._info["session_id"]
            self.tty = self._info["tty"]
        return self._info

    def write(self, data):
        """Sends input, in the framing of the session."""
        for at in range(0, len(data), 1 << 16):
            part = data[at : at + (1 << 16)]
            self.send_binary(part if self.tty else bytes([STDIN]) + part)

    def end_input(self):
        self.send_binary(bytes([STDIN_EOF]))

    def signal(self, name):
        self.send_json(type="signal", signal=name)

    def read_until(self, text, timeout=30):
        """Reads output until it holds `text`; returns what was read."""
        _ = self.info
        wanted = text.encode() if isinstance(text, str) else text
        output = b""
        while wanted not in output:
            message = self.receive(timeout)
            assert message is not None, f"closed ({self.closed_with}) after {output[-2000:]!r}"
            if isinstance(message, bytes):
                output += message if self.tty else message[1:]
            else:
                kind = json.loads(message)["type"]
                assert kind != "exit", f"ended with {message} after {output[-2000:]!r}"
        return output


def collect(socket, timeout=40):
    """Reads a socket to its close."""
    done = Done()
    while True:
        try:
            message = socket.receive(timeout)
        except (ConnectionError, EOFError):
            message = None
        if message is None:
            done.closed_with = socket.closed_with
            return done
        if isinstance(message, str):
            content = json.loads(message)
            done.messages.append(content)
            done.order.append(f"text:{content['type']}")
            if content["type"] == "session_info":
                socket._info = content
                socket.session_id = content["session_id"]
                socket.tty = content["tty"]
            elif content["type"] == "exit":
                done.exit_message = content
                done.code = content["exit_code"]
        elif socket.tty:
            done.order.append("terminal")
            done.stdout += message
        else:
            kind, payload = message[0], message[1:]
            done.order.append({STDOUT: "stdout", STDERR: "stderr", EXIT: "exit"}.get(kind, f"?{kind}"))
            if kind == STDOUT:
                done.stdout += payload
            elif kind == STDERR:
                done.stderr += payload
            elif kind == EXIT:
                done.exit_frame = message
