"""Root of a sprite tries to get out, or at least to see or disturb the host. It must not.

The attacks themselves are in `inside/attacks.py`; each is presented here under its own name.
"""

import json
import os
import re
import socket
import subprocess
import threading
from pathlib import Path

import pytest

from harness.api import Api, new_name
from harness.wait import eventually

pytestmark = pytest.mark.real

SCRIPT = Path(__file__).parent / "inside/attacks.py"
CLAIMS = re.findall(r'^@attack\("(.+?)"\)', SCRIPT.read_text(), re.MULTILINE)
PLANTED = "/attack-node"


@pytest.fixture(scope="module")
def planted_server(servers, tmp_path_factory):
    """A server of its own, since the test has to write on a sprite's disk while it is down.

    Its sprite has a device node on its disk, as an imported root file system might.
    """
    data_dir = tmp_path_factory.mktemp("sprites-planted")
    name = new_name("planted")

    def start():
        server = servers.start_lasting(data_dir, "10.99.0.0/24")
        server.token = server.new_token("test")
        return server, Api(server.url, server.token)

    server, api = start()
    eventually("the image is ready", lambda: api.http.get("/healthz").status_code == 200, 60)
    api.create(name)
    api.close()
    server.admin("stop")
    assert server.wait_ended() == 0
    (disk,) = (data_dir / "disks").glob("vol-*.ext4")
    for command in (f"mknod {PLANTED.strip('/')} c 1 5", f"sif {PLANTED} mode 020666", f"sif {PLANTED} uid 0"):
        subprocess.run(["debugfs", "-w", "-R", command, str(disk)], check=True, capture_output=True)
    server, api = start()
    sprite = api.sprite(name)
    assert sprite.sh(f"stat -c '%F %t:%T' {PLANTED}").strip() == "character special file 1:5"
    yield server, sprite
    api.close()
    server.admin("stop")
    assert server.wait_ended() == 0


@pytest.fixture(scope="module")
def results(planted_server):
    """Runs all attacks once; what became of each, by its claim."""
    _, sprite = planted_server
    sprite.write("/opt/attacks.py", SCRIPT.read_bytes(), mkdirParents="true")
    abstract = f"sprites-e2e-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("\0" + abstract)
        listener.listen()
        arguments = [f"planted={PLANTED}", f"abstract={abstract}", f"host_pid={os.getpid()}"]
        command = ["sudo", "-n", "python3", "/opt/attacks.py", *arguments]
        by_claim, text = {}, ""
        racing = threading.Event()
        racers = [threading.Thread(target=start_commands, args=(sprite, racing)) for _ in range(2)]
        with sprite.socket(*command) as attacks:
            for racer in racers:
                racer.start()
            assert attacks.info
            while (message := attacks.receive(55)) is not None:
                if isinstance(message, bytes) and message[0] in (1, 2):
                    text += message[1:].decode(errors="replace")
                    if '"racing"' in text:
                        racing.set()
            racing.set()
        for racer in racers:
            racer.join(30)
    for line in text.splitlines():
        if line.startswith("{"):
            result = json.loads(line)
            by_claim[result.get("claim")] = result
    return by_claim, text


def start_commands(sprite, racing):
    """Gives the race something to catch."""
    racing.wait(55)
    for _ in range(40):
        sprite.run("true")


@pytest.mark.parametrize("claim", CLAIMS)
def test_it_fails_that(results, claim):
    by_claim, text = results
    assert claim in by_claim, f"it was not tried:\n{text[-2000:]}"
    assert by_claim[claim]["blocked"], by_claim[claim]["detail"]


def test_the_race_was_a_race(results):
    by_claim, _ = results
    result = by_claim["the helper that starts commands is read or traced"]
    assert not result["blocked"] or int(re.search(r"of (\d+) sightings", result["detail"])[1]) > 0


def test_the_hosts_own_mount_of_a_disk_is_inert(planted_server):
    """Nothing on it can be run, be a device, or give rights, whoever came near it."""
    server, sprite = planted_server
    agents = [pid for pid in os.listdir("/proc") if pid.isdigit() and is_agent_of(server, pid)]
    assert agents
    seen = 0
    for pid in agents:
        for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines():
            mount, source = line.split(" - ")
            fields = mount.split(" ")
            if source.startswith("ext4 /dev/loop") and "idmapped" not in fields[5]:
                seen += 1
                assert {"nosuid", "nodev", "noexec"} <= set(fields[5].split(",")), line
    assert seen


def is_agent_of(server, pid):
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes()
        name = Path(f"/proc/{pid}/comm").read_text()
    except OSError:
        return False
    return server.tag.encode() in environment and name.startswith("sprite-guestd")


def test_the_hosts_namespaces_have_nothing_of_a_sprite(planted_server):
    _, sprite = planted_server
    sprite.root("mount -t tmpfs e2e-mark /mnt")
    try:
        assert "e2e-mark" not in Path("/proc/self/mountinfo").read_text()
    finally:
        sprite.root("umount -l /mnt")


@pytest.mark.errors("boot", "machine")
@pytest.mark.parametrize(
    "spoil",
    [
        "rmdir /r/dev && ln -s etc /r/dev",
        "rmdir /r/proc && ln -s etc /r/proc",
        "rmdir /r/sys && ln -s /etc /r/sys",
        "rm -rf /r/run && ln -s ../../../etc /r/run",
        "rm -rf /r/tmp && mkfifo /r/tmp",
        "rm -rf /r/.sprite && ln -s /etc /r/.sprite",
        "rm -rf /r/etc/passwd && ln -s /proc/self/mem /r/etc/passwd",
        "rm -f /r/etc/passwd /r/etc/group && mkfifo /r/etc/passwd /r/etc/group",
        "rm -rf /r/etc && ln -s / /r/etc",
        "rm -rf /r/usr",
    ],
    ids=["dev", "proc", "sys", "run", "tmp", "sprite folder", "passwd link", "passwd pipe", "etc", "no programs"],
)
def test_a_spoilt_root_starts_safely_or_not_at_all(api, new_sprite, spoil):
    """Its owner may do to it what they like. The host must neither follow it nor hang."""
    sprite = new_sprite()
    sprite.run("sudo", "-n", "bash", "-c", f"mkdir /r && mount --bind / /r && {spoil}; sync")
    host_before = sorted(os.listdir("/etc"))
    sprite.call("POST", "/restart")
    answer = sprite.call("POST", "/exec?cmd=/bin/true")
    assert answer.status_code in (200, 503), answer.text
    if answer.status_code == 503:
        assert answer.json()["message"]
    assert sorted(os.listdir("/etc")) == host_before
    assert sprite.delete().status_code == 204
    assert api.http.get("/healthz").status_code == 200
