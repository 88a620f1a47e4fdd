"""A plain client of the API: nothing of an SDK between the test and the wire."""

import time
import uuid

import httpx

from .exec import ExecSocket, collect
from .wait import eventually


class Api:
    """Calls with one token."""

    def __init__(self, url, token):
        self.url = url
        self.token = token
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self.http = httpx.Client(base_url=url, headers=headers, timeout=50, trust_env=False)

    def close(self):
        self.http.close()

    def create(self, name=None, *, wait=True, **fields):
        """Creates a sprite and waits until it runs."""
        name = name or new_name()
        answer = self.http.post("/v1/sprites", json={"name": name, **fields})
        assert answer.status_code == 201, f"{answer.status_code}: {answer.text}"
        sprite = SpriteApi(self, name, answer.json())
        if wait:
            sprite.wait_running()
        return sprite

    def sprite(self, name):
        return SpriteApi(self, name, None)


class SpriteApi:
    """Calls about one sprite."""

    def __init__(self, api, name, created):
        self.api = api
        self.name = name
        self.created = created
        self.path = f"/v1/sprites/{name}"

    def get(self):
        answer = self.api.http.get(self.path)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def wait_running(self):
        eventually(f"{self.name} runs", lambda: self.get()["status"] == "running", 45)

    def delete(self):
        return self.api.http.delete(self.path)

    def call(self, method, path, **options):
        return self.api.http.request(method, f"{self.path}{path}", **options)

    def fs(self, method, call, **options):
        return self.call(method, f"/fs/{call}", **options)

    def write(self, path, content, **params):
        answer = self.fs("PUT", "write", params={"path": path, **params}, content=content)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def read(self, path, **params):
        answer = self.fs("GET", "read", params={"path": path, **params})
        assert answer.status_code in (200, 206), answer.text
        return answer.content

    def socket(self, *command, **options):
        """Opens an exec socket; see `ExecSocket`."""
        return ExecSocket(self.api, self.name, command, **options)

    def attach(self, session_id, **options):
        return ExecSocket(self.api, self.name, (), session_id=session_id, **options)

    def run(self, *command, input=None, timeout=40, **options):
        """Runs a command to its end over a WebSocket."""
        with self.socket(*command, stdin=input is not None, **options) as socket:
            if input is not None:
                socket.write(input)
                socket.end_input()
            return collect(socket, timeout)

    def sh(self, script, **options):
        """Runs a script; fails unless it ends with 0. Returns its output as text."""
        done = self.run("bash", "-c", script, **options)
        assert done.code == 0, f"{script!r} ended with {done.code}: {done.text}{done.errors}"
        return done.text

    def root(self, script, **options):
        """As `sh`, as root."""
        done = self.run("sudo", "-n", "bash", "-c", script, **options)
        assert done.code == 0, f"{script!r} ended with {done.code}: {done.text}{done.errors}"
        return done.text

    def sessions(self):
        answer = self.call("GET", "/exec")
        assert answer.status_code == 200, answer.text
        return answer.json()["sessions"]

    def session_ids(self):
        return {session["id"] for session in self.sessions()}


def new_name(prefix="t"):
    return f"{prefix}-{uuid.uuid4().hex[:10]}"


def timed(call):
    """Returns what `call` returns and how long it took, in seconds."""
    started = time.monotonic()
    return call(), time.monotonic() - started
