"""The server under test, as a process."""

import json
import os
import re
import signal
import subprocess
import threading
import uuid
from pathlib import Path

from .footprint import TAG_VARIABLE, process_lines
from .wait import eventually

#: Folder for the logs of servers, for looking at them afterwards.
LOGS_VARIABLE = "SPRITES_E2E_LOGS"
READY_S = 120.0
#: An orderly stop gives commands 5 s to end, for all machines at once.
STOP_S = 60.0


class Sprited:
    """One `sprited up`. Ended by `stop`, or by force when the test run ends."""

    def __init__(self, bin_dir, substrate, *arguments, ephemeral=True, data_dir=None):
        self.bin_dir = Path(bin_dir)
        self.substrate = substrate
        self.tag = f"e2e-{uuid.uuid4().hex[:12]}"
        self.log = []
        self.raw_log = []
        self.log_file = None
        if folder := os.environ.get(LOGS_VARIABLE):
            self.log_file = open(Path(folder) / f"{self.tag}.log", "w", buffering=1)
        self.url = None
        self.token = None
        self.data_dir = data_dir
        self.arguments = (bin_dir, substrate, *arguments)
        self.is_ephemeral = ephemeral
        command = [str(self.bin_dir / "sprited"), "--substrate", substrate, "--log-format", "json", "up"]
        if ephemeral:
            command.append("--ephemeral")
        else:
            command += ["--data-dir", str(data_dir)]
        command += arguments
        environment = {k: v for k, v in os.environ.items() if not k.startswith("SPRITE_")}
        environment[TAG_VARIABLE] = self.tag
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            # The interrupt key ends the tests, and they end the server.
            process_group=0,
        )
        self._readers = [
            threading.Thread(target=self._read_stdout, daemon=True),
            threading.Thread(target=self._read_stderr, daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    @property
    def pid(self):
        return self.process.pid

    def wait_ready(self):
        """Waits for the two lines of `--ephemeral`."""
        eventually(
            f"sprited is ready; its log:\n{self.log_text()}",
            lambda: self.token or self.process.poll() is not None,
            READY_S,
        )
        assert self.token, f"sprited ended with {self.process.poll()}; its log:\n{self.log_text()}"
        return self

    def wait_up(self):
        """Waits until it serves, for one that is not ephemeral."""
        assert self.wait_up_or_ended(), f"sprited ended; its log:\n{self.log_text()}"
        return self

    def wait_up_or_ended(self):
        """Waits until it serves, or has ended; returns whether it serves."""
        address = lambda: next((e["address"] for e in self.events("up")), None)
        eventually("sprited serves", lambda: address() or self.process.poll() is not None, READY_S)
        if not address():
            self.wait_ended()
            return False
        self.url = f"http://{address()}"
        return True

    def events(self, message):
        """Returns all log events with this message."""
        return [event for event in list(self.log) if event.get("message") == message]

    def machine_ids(self):
        return {e["machine_id"] for e in self.events("machine booted") if "machine_id" in e}

    def traces(self):
        """Texts by which traces on the host are told to be this server's."""
        machines = [text for id in self.machine_ids() for text in (id, id.removeprefix("mch-"))]
        folder = self.data_dir or next((e["data_dir"] for e in self.events("up")), None)
        return [self.tag, *([str(folder)] if folder else []), *machines]

    def admin(self, *arguments):
        """Runs an administrative command against this server and returns its output."""
        folder = self.data_dir or next(e["data_dir"] for e in self.events("up"))
        command = [str(self.bin_dir / "sprited"), *arguments, "--data-dir", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout

    def new_token(self, org):
        return self.admin("token", "create", "--org", org, "--quiet").strip()

    def resident_kib(self):
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", status)[1])

    def send(self, number):
        os.kill(self.pid, number)

    def wait_ended(self, limit_s=STOP_S):
        code = self.process.wait(limit_s)
        for reader in self._readers:
            reader.join(10)
        return code

    def stop(self):
        """Ends it in order; returns its exit code."""
        if self.process.poll() is None:
            self.send(signal.SIGTERM)
        return self.wait_ended()

    def clean_up(self):
        """Ends it and its machines, whatever the state in which a failed test left them."""
        if self.is_ephemeral:
            if self.process.poll() is None:
                try:
                    self.stop()
                except subprocess.TimeoutExpired:
                    self.process.kill()
            return
        last = self
        if self.process.poll() is not None and process_lines(self.tag):
            # Only a server knows what its machines are made of.
            last = Sprited(*self.arguments, ephemeral=False, data_dir=self.data_dir).wait_up()
        if last.process.poll() is None:
            last.admin("stop")
            last.wait_ended()

    def log_text(self):
        return "\n".join(self.raw_log[-60:])

    def _read_stdout(self):
        for line in self.process.stdout:
            name, _, value = line.decode().strip().partition("=")
            if name == "SPRITES_API_URL":
                self.url = value
            elif name == "SPRITE_TOKEN":
                self.token = value

    def _read_stderr(self):
        for line in self.process.stderr:
            text = line.decode(errors="replace").rstrip()
            self.raw_log.append(text)
            if self.log_file:
                self.log_file.write(f"{text}\n")
            try:
                event = json.loads(text)
            except ValueError:
                continue
            if isinstance(event, dict) and "level" in event:
                self.log.append(event)
