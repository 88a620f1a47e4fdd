"""What is killed comes back, what is stopped stays findable, and nothing is lost on the way."""

import concurrent.futures
import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import httpx
import pytest

from harness import footprint
from harness.api import Api, new_name
from harness.exec import collect
from harness.wait import eventually

pytestmark = pytest.mark.real


def agents(server):
    """Process ids of the agents (not their launchers) of a server's machines."""
    found = []
    for pid in (int(p) for p in os.listdir("/proc") if p.isdigit()):
        try:
            if Path(f"/proc/{pid}/comm").read_text().strip() != "sprite-guestd":
                continue
            if server.tag.encode() not in Path(f"/proc/{pid}/environ").read_bytes():
                continue
            parent = int(Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()[1])
            parent_name = Path(f"/proc/{parent}/comm").read_text().strip()
        except OSError:
            continue
        if parent_name != "sprite-guestd":
            found.append(pid)
    return found


def is_alive(pid):
    """Whether a process runs. One that nobody waits for stays in the table, but is dead."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1][0] not in "ZX"
    except OSError:
        return False


def children(pid):
    try:
        return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []


def agent_of(server, sprite):
    """The agent whose container has the sprite's name."""
    for pid in agents(server):
        for child in children(pid):
            for process in (child, *children(child)):
                try:
                    name = Path(f"/proc/{process}/root/etc/hostname").read_text().strip()
                except OSError:
                    continue
                if name == sprite.name:
                    return pid
    raise AssertionError(f"no agent of {sprite.name}")


# An agent


@pytest.mark.errors("machine", "agent")
def test_a_killed_agent_takes_its_machine_along_and_the_sprite_comes_back(server, api, new_sprite):
    sprite, other = new_sprite(), new_sprite()
    sprite.sh("echo kept > ~/kept; sync")
    socket = sprite.socket("sleep", "300")
    assert socket.info
    with other.socket("sh", "-c", "sleep 3; echo undisturbed") as neighbour:
        assert neighbour.info
        pid = agent_of(server, sprite)
        os.kill(pid, signal.SIGKILL)
        # Whoever was talking to it is told.
        done = collect(socket, 30)
        assert done.code == 137 and done.closed_with is not None
        assert sprite.sh("cat ~/kept") == "kept\n"
        assert sprite.sessions() == []
        assert collect(neighbour).text == "undisturbed\n"
    socket.vanish()


@pytest.mark.errors("machine", "agent")
def test_a_killed_agent_leaves_nothing_behind(server, new_sprite):
    sprite = new_sprite()
    sprite.run("bash", "-c", "for i in 1 2 3; do setsid sleep 300 & done; sudo -n mount -t tmpfs t /mnt")

    def ours():
        return {kind: sum(t.startswith(kind) and any(text in t for text in server.traces()) for t in footprint.traces())
                for kind in ("loop device", "interface", "cgroup", "process")}

    before_kill = ours()
    assert before_kill["cgroup"] and before_kill["interface"]
    pid = agent_of(server, sprite)
    os.kill(pid, signal.SIGKILL)
    # A command that was under way may have run or not, so it is not tried again for the client.
    eventually("the sprite is usable", lambda: sprite.run("echo", "back").text == "back\n")
    # A machine's worth of traces as before, not two.
    eventually(f"there is no more than {before_kill}", lambda: all(n <= before_kill[k] for k, n in ours().items()))


@pytest.mark.errors("machine", "agent")
def test_a_sprite_whose_agent_keeps_dying_says_so_and_can_be_deleted(server, api, new_sprite):
    sprite = new_sprite()
    for _ in range(6):
        try:
            os.kill(agent_of(server, sprite), signal.SIGKILL)
        except (AssertionError, ProcessLookupError):
            pass
        answer = sprite.call("POST", "/exec?cmd=true", timeout=50)
        assert answer.status_code in (200, 503)
        if answer.status_code == 503:
            assert answer.json()["message"] and int(answer.headers["retry-after"]) >= 0
    assert sprite.delete().status_code == 204


def test_a_container_whose_init_is_killed_comes_back(new_sprite):
    """From inside, by its own root: the first process of a pid namespace cannot be."""
    sprite = new_sprite()
    sprite.run("sudo", "-n", "kill", "-KILL", "1")
    sprite.run("sudo", "-n", "bash", "-c", "kill -KILL -1")
    assert sprite.sh("echo back") == "back\n"


HANGING_FILE_SYSTEM = """
import ctypes, os, time
os.makedirs("/mnt/hangs", exist_ok=True)
device = os.open("/dev/fuse", os.O_RDWR)
options = f"fd={device},rootmode=40000,user_id=0,group_id=0,allow_other".encode()
assert ctypes.CDLL(None).mount(b"hangs", b"/mnt/hangs", b"fuse", 6, options) == 0
print("mounted", flush=True)
time.sleep(1000)
"""


def test_a_file_system_that_never_answers_holds_up_only_who_uses_it(server, new_sprite):
    sprite = new_sprite()
    with sprite.socket("sudo", "-n", "python3", "-c", HANGING_FILE_SYSTEM) as socket:
        socket.read_until("mounted")
        for call in ({"path": "/mnt/hangs/x"}, {"path": "x", "workingDir": "/mnt/hangs"}):
            with pytest.raises(httpx.ReadTimeout):
                sprite.fs("GET", "read", params=call, timeout=1)
        with pytest.raises(httpx.ReadTimeout):
            sprite.call("POST", "/exec?cmd=ls&cmd=/mnt/hangs", timeout=1)
        with pytest.raises(httpx.ReadTimeout):
            sprite.call("POST", "/exec?cmd=true&dir=/mnt/hangs", timeout=1)
        assert sprite.sh("echo fine") == "fine\n"
        sprite.write("/tmp/fine", b"fine")
        assert sprite.fs("GET", "list", params={"path": "/tmp"}).status_code == 200
    # With everything still stuck in it.
    pid = agent_of(server, sprite)
    assert sprite.delete().status_code == 204
    eventually("its agent is gone", lambda: not Path(f"/proc/{pid}").exists(), 20)


# The server


@pytest.fixture
def lasting(servers, tmp_path):
    """A server with a data folder of its own, which can be ended and started again."""

    class Lasting:
        def __init__(self):
            self.data_dir = tmp_path / "data"
            self.server = None
            self.api = None
            self.token = None

        def start(self):
            self.server = servers.start_lasting(self.data_dir, "10.98.0.0/24")
            self.token = self.token or self.server.new_token("test")
            self.api = Api(self.server.url, self.token)
            eventually("it is ready", lambda: self.api.http.get("/healthz").status_code == 200, 60)
            return self.api

    lasting = Lasting()
    yield lasting
    if lasting.server:
        lasting.server.clean_up()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "terminated"])
def test_a_server_that_ends_leaves_machines_and_the_next_one_finds_them(lasting, how):
    api = lasting.start()
    sprite = api.create(labels=["kept"], environment={"A": "1"})
    script = "echo early; for i in $(seq 1000); do echo line $i; sleep 0.05; done"
    with sprite.socket("bash", "-c", script, detachable=True) as socket:
        socket.read_until("line 3\n")
    pid = sprite.sh("sleep 300 > /dev/null 2>&1 & echo $!").strip()
    sprite.sh("echo in-memory > /dev/shm/marker")
    machine = agents(lasting.server)
    assert len(machine) == 1

    lasting.server.send(how)
    assert lasting.server.wait_ended() == (0 if how == signal.SIGTERM else -signal.SIGKILL)
    assert is_alive(machine[0]), "its machine goes on"
    first_tag = lasting.server.tag

    again = lasting.start().sprite(sprite.name)
    shown = again.get()
    assert (shown["id"], shown["labels"], shown["status"]) == (sprite.created["id"], ["kept"], "running")
    assert len(footprint.process_lines(first_tag)) >= 1
    # The same machine: memory, processes and the session are those from before.
    assert again.sh("cat /dev/shm/marker; echo $A") == "in-memory\n1\n"
    assert again.run("kill", "-0", pid).code == 0
    assert socket.session_id in again.session_ids()
    with again.attach(socket.session_id) as attached:
        output = attached.read_until("line 60\n").decode()
    lines = [line for line in output.splitlines() if line.startswith("line")]
    assert output.startswith("early\n")
    assert lines[:60] == [f"line {i}" for i in range(1, 61)], "nothing is lost, nothing twice"

    lasting.server.admin("stop")
    assert lasting.server.wait_ended() == 0
    assert not is_alive(machine[0])


def test_a_client_attached_while_the_server_ends_can_come_back(lasting):
    api = lasting.start()
    sprite = api.create()
    with sprite.socket("cat", stdin=True, detachable=True) as socket:
        socket.write(b"before\n")
        socket.read_until("before\n")
        lasting.server.send(signal.SIGTERM)
        while socket.receive(20) is not None:
            pass
        assert socket.closed_with == 1001
    assert lasting.server.wait_ended() == 0
    again = lasting.start().sprite(sprite.name)
    with again.attach(socket.session_id) as attached:
        attached.read_until("before\n")
        attached.write(b"after\n")
        attached.read_until("after\n")
    lasting.server.admin("stop")
    lasting.server.wait_ended()


def test_stop_ends_machines_in_order_and_disks_stay(lasting):
    api = lasting.start()
    sprite = api.create()
    script = "trap 'echo asked > ~/asked; sync; exit' TERM; echo ready; while :; do sleep 0.1; done"
    with sprite.socket("bash", "-c", script) as socket:
        socket.read_until("ready")
        lasting.server.admin("stop")
        assert lasting.server.wait_ended() == 0
    assert agents(lasting.server) == []
    again = lasting.start().sprite(sprite.name)
    assert again.get()["id"] == sprite.created["id"]
    assert again.sh("cat ~/asked") == "asked\n"
    assert again.delete().status_code == 204


@pytest.mark.parametrize("pause_s", [0, 0.01, 0.03, 0.08])
def test_a_destroy_that_was_cut_short_is_finished_by_the_next_server(lasting, pause_s):
    api = lasting.start()
    before = footprint.traces()
    sprites = [api.create(wait=False) for _ in range(3)]
    # The last one is cut off at some step of its boot.
    time.sleep(pause_s)
    for sprite in sprites:
        sprite.delete()
    lasting.server.send(signal.SIGKILL)
    lasting.server.wait_ended()
    api = lasting.start()
    assert api.http.get("/v1/sprites").json()["sprites"] == []
    eventually("their disks are gone", lambda: not volumes_in_use(lasting.data_dir, sprites), 30)
    eventually("their machines are gone", lambda: not footprint.process_lines(lasting.server.tag)[1:], 30)
    def left():
        return [trace for trace in footprint.traces() - before if not trace.startswith("process")]
    eventually("nothing else is left of them", lambda: not left(), 30)


def volumes_in_use(data_dir, sprites):
    """Disks of sprites; those kept ready for the next ones do not count."""
    disks = list((data_dir / "disks").rglob("vol-*.ext4"))
    return disks


def test_a_second_server_on_the_same_folder_is_refused(lasting, servers):
    lasting.start()
    second = servers.start("--listen", "127.0.0.1:0", ephemeral=False, data_dir=lasting.data_dir)
    assert second.wait_ended() != 0
    assert "sprited" in second.log_text() or "another" in second.log_text()
    assert lasting.api.http.get("/v1/sprites").status_code == 200
    second.is_ephemeral = True


def test_a_full_or_broken_folder_is_said_in_words(servers, tmp_path):
    file = tmp_path / "file"
    file.write_text("not a folder")
    broken = servers.start("--listen", "127.0.0.1:0", ephemeral=False, data_dir=file)
    assert broken.wait_ended() not in (0, None)
    assert str(file) in broken.log_text(), broken.log_text()
    broken.is_ephemeral = True


def test_without_root_it_says_what_to_type(servers, tmp_path):
    command = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", f"{servers.bin_dir}/sprited", "up",
               "--data-dir", str(tmp_path / "x")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    if "Permission denied" in done.stderr and "setpriv" in done.stderr:
        pytest.skip("the programs are in a folder that only root may enter")
    assert done.returncode != 0 and "sudo sprited up" in done.stderr


# Many at once


def test_twenty_creates_at_once_all_answer(api):
    names = [new_name("many") for _ in range(20)]
    with concurrent.futures.ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda name: api.http.post("/v1/sprites", json={"name": name}), names))
        assert [answer.status_code for answer in answers] == [201] * 20
        outputs = list(pool.map(lambda name: api.sprite(name).sh("echo $HOSTNAME", timeout=55).strip(), names))
        assert outputs == names
        deletes = list(pool.map(lambda name: api.sprite(name).delete().status_code, names))
        assert deletes == [204] * 20


def test_a_sprite_is_destroyed_while_it_boots(api):
    for pause in (0, 0.05, 0.1, 0.2, 0.4):
        sprite = api.create(wait=False)
        time.sleep(pause)
        assert sprite.delete().status_code == 204
        assert api.http.get(sprite.path).status_code == 404
        again = api.create(sprite.name, wait=False)
        assert again.delete().status_code == 204


def test_one_name_is_created_once_by_many(api):
    name = new_name()
    with concurrent.futures.ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(lambda _: api.http.post("/v1/sprites", json={"name": name}).status_code, range(10)))
    assert sorted(answers) == [201] + [409] * 9
    with concurrent.futures.ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(lambda _: api.http.delete(f"/v1/sprites/{name}").status_code, range(10)))
    assert sorted(answers) == [204] + [404] * 9


def test_commands_during_restarts_are_answered(new_sprite):
    sprite = new_sprite()
    stop = threading.Event()
    results = []

    def run():
        while not stop.is_set():
            done = sprite.run("echo", "x")
            results.append((done.code, done.closed_with))

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(3):
        assert sprite.call("POST", "/restart").status_code == 200
    stop.set()
    for thread in threads:
        thread.join(40)
    assert (0, 1000) in results
    # Whatever was caught by a restart was told so.
    assert all(closed is not None for _, closed in results), results
