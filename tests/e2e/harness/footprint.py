"""What sprites leave on a host, so that a test can show that they left nothing."""

import os
import re
import subprocess
import time
from pathlib import Path

#: Set to 1 where other `sprited` come and go beside the tests: then only traces count that can
#: be told to be ours.
SHARED_HOST_VARIABLE = "SPRITES_E2E_SHARED_HOST"
#: Tags every process of ours, since children inherit it.
TAG_VARIABLE = "SPRITES_E2E_RUN"


def traces():
    """Returns every trace as a line of text."""
    found = set()
    found.update(_mounts())
    found.update(_loop_devices())
    found.update(f"interface {name}" for name in _names("/sys/class/net") if name.startswith("spr"))
    found.update(f"network namespace {name}" for name in _names("/run/netns"))
    found.update(_firewall_tables())
    found.update(_cgroups())
    found.update(_processes())
    found.update(f"temporary folder /tmp/{name}" for name in _names("/tmp") if name.startswith("sprites-"))
    return found


def leftovers(before, ours, limit_s=15.0):
    """Waits until nothing is left that was not in `before`; returns what still is then.

    `ours` is a list of texts (folders, machine ids, tags); on a shared host only traces with
    one of them count.
    """
    shared = os.environ.get(SHARED_HOST_VARIABLE) == "1"
    deadline = time.monotonic() + limit_s
    while True:
        left = traces() - before
        if shared:
            left = {trace for trace in left if any(text in trace for text in ours)}
        if not left or time.monotonic() > deadline:
            return sorted(left)
        time.sleep(0.1)


def process_lines(tag):
    """Returns the processes that carry `tag` in their environment."""
    return [line for line in _processes() if tag in line]


def _mounts():
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        mount, source = line.split(" - ", 1)
        root, point = mount.split(" ")[3:5]
        if re.search(r"sprite|mch-|/tmp/", f"{root} {point} {source}"):
            yield f"mount {root} {point} ({source})"


def _loop_devices():
    for name in _names("/sys/block"):
        backing = Path("/sys/block") / name / "loop/backing_file"
        try:
            yield f"loop device {name} ({backing.read_text().strip()})"
        except OSError:
            pass


def _firewall_tables():
    for table in _output("nft", "list", "tables").splitlines():
        if "sprites" in table:
            yield f"firewall {table}"


def _cgroups():
    for folder, names, _ in os.walk("/sys/fs/cgroup"):
        for name in list(names):
            if name.startswith("mch-"):
                yield f"cgroup {folder}/{name}"
                names.remove(name)


def _processes():
    for pid in _names("/proc"):
        if not pid.isdigit():
            continue
        try:
            name = Path(f"/proc/{pid}/comm").read_text().strip()
            environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except OSError:
            continue
        tags = [e.decode() for e in environment if e.startswith(TAG_VARIABLE.encode() + b"=")]
        # Tests run inside of a tagged process themselves, if somebody tests the tests.
        if name in ("sprited", "sprite-guestd") and int(pid) != os.getpid():
            yield f"process {pid} ({name}) {' '.join(tags)}"


def _names(folder):
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _output(*command):
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""
