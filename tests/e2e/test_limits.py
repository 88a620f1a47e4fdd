"""CPU, memory and process limits hold, and what breaks them breaks only itself."""

import threading
import time

import pytest

from harness.api import Api, new_name
from harness.wait import eventually

pytestmark = pytest.mark.real


def test_memory_is_limited_and_the_sprite_survives_its_bomb(new_sprite):
    sprite = new_sprite(config={"ram_mb": 256})
    done = sprite.run("python3", "-c", "x = bytearray(1 << 30); print('got it')")
    assert done.code == 137 and "got it" not in done.text
    assert sprite.run("echo", "alive").text == "alive\n"
    assert sprite.get()["status"] == "running"
    # What fits, fits.
    assert sprite.run("python3", "-c", "x = bytearray(100 << 20); print('got it')").text == "got it\n"


def test_a_command_that_runs_out_of_memory_is_named(new_sprite):
    """Its end is a plain 137; why, a person can see inside or outside."""
    sprite = new_sprite(config={"ram_mb": 256})
    assert sprite.run("sh", "-c", "python3 -c 'x = bytearray(1 << 30)'; echo code $?").text == "code 137\n"
    events = sprite.sh("cat /sys/fs/cgroup/memory.events 2>/dev/null || true")
    body = sprite.call("GET", "/check").json()
    assert body["status"] == "healthy"
    if events:
        assert int(dict(line.split() for line in events.splitlines())["oom_kill"]) >= 1


def test_memory_in_temporary_files_counts(new_sprite):
    sprite = new_sprite(config={"ram_mb": 256})
    done = sprite.run("sh", "-c", "head -c 1G /dev/zero > /dev/shm/x")
    assert done.code != 0
    sprite.run("rm", "-f", "/dev/shm/x")
    assert sprite.run("echo", "alive").text == "alive\n"


def test_cpu_is_limited(new_sprite):
    """Four busy processes for a second of wall time; on one core they get about one of CPU."""
    script = "for i in 1 2 3 4; do timeout 2 sh -c 'while :; do :; done' & done; wait; times | tail -1"
    limited = cpu_seconds(new_sprite(config={"cpus": 1}).sh(script))
    assert limited < 3.2, "two seconds on one core, and some slack"


def cpu_seconds(times):
    """Reads the children's line of `times`."""
    total = 0.0
    for part in times.split():
        minutes, seconds = part.rstrip("s").split("m")
        total += int(minutes) * 60 + float(seconds)
    return total


@pytest.fixture(scope="module")
def small(servers):
    """A server whose sprites may have few processes, and of which one may run."""
    server = servers.start("--pids", "300", "--running-max", "1")
    server.wait_ready()
    api = Api(server.url, server.token)
    yield api
    api.close()
    assert server.stop() == 0


def test_a_fork_bomb_hits_the_limit_and_commands_still_run(small):
    sprite = small.create()
    script = """
import os, time
count = 0
try:
    while count < 5000:
        if os.fork() == 0:
            time.sleep(300); os._exit(0)
        count += 1
except OSError as error:
    print('stopped', count, error.strerror, flush=True)
time.sleep(300)
"""
    with sprite.socket("python3", "-c", script) as bomb:
        output = bomb.read_until("Resource temporarily unavailable", 55).decode()
        assert 100 < int(output.split()[1]) < 300
        # Joining the group is not limited as forking is.
        assert sprite.run("echo", "still").text == "still\n"
        assert sprite.call("GET", "/exec").json()["count"] == 1
        path = f"/exec/{bomb.session_id}/kill?signal=KILL"
        assert sprite.call("POST", path).status_code == 200
    eventually("all of them are gone", lambda: int(sprite.sh("ls /proc | grep -c '^[0-9]'")) < 20)
    assert sprite.delete().status_code == 204


def test_a_fork_bomb_of_shells_ends_with_its_sprite(small):
    eventually("there is room", lambda: small.http.get("/v1/sprites").json()["running"] == 0)
    sprite = small.create()
    with sprite.socket("bash", "-c", "bomb() { bomb | bomb & }; bomb; sleep 300") as bomb:
        assert bomb.info
        started = time.monotonic()
        assert sprite.delete().status_code == 204
        assert time.monotonic() - started < 5
    eventually("there is room", lambda: small.http.get("/v1/sprites").json()["running"] == 0)


def test_the_limit_of_running_sprites_is_told(small):
    eventually("there is room", lambda: small.http.get("/v1/sprites").json()["running"] == 0)
    first = small.create()
    answer = small.http.post("/v1/sprites", json={"name": new_name()})
    assert answer.status_code == 429
    body = answer.json()
    assert body["error"] == "concurrent_sprite_limit_exceeded"
    assert (body["limit"], body["current_count"]) == (1, 1)
    listed = small.http.get("/v1/sprites").json()
    assert listed["running_limit"] == 1 and len(listed["sprites"]) == 1
    # Whoever waits for room gets it.
    answers = []
    request = {"name": new_name(), "wait_for_capacity": True}
    waiting = threading.Thread(target=lambda: answers.append(small.http.post("/v1/sprites", json=request)))
    waiting.start()
    assert first.delete().status_code == 204
    waiting.join(40)
    assert [answer.status_code for answer in answers] == [201]
    assert small.sprite(request["name"]).delete().status_code == 204


def test_a_bomb_that_spreads_over_sessions_ends_with_the_sprite(new_sprite):
    sprite = new_sprite()
    sprite.run("bash", "-c", "for i in $(seq 300); do setsid sleep 300 & done")
    started = time.monotonic()
    assert sprite.delete().status_code == 204
    assert time.monotonic() - started < 5


def test_terminals_run_out_in_words(new_sprite):
    sprite = new_sprite()
    script = "import os\nfds = []\ntry:\n  while len(fds) < 9000: fds.extend(os.openpty())\nexcept OSError as e: print('stopped', len(fds) // 2)"
    done = sprite.run("bash", "-c", f"ulimit -n 10000; python3 -c \"{script}\"")
    assert "stopped" in done.text and int(done.text.split()[1]) <= 1024
    assert sprite.run("tty", tty=True).text.startswith("/dev/pts/")


def test_many_open_sessions_are_one_sprites_own_affair(api, new_sprite, sprite):
    busy = new_sprite()
    sockets = [busy.socket("sleep", "300") for _ in range(60)]
    for each in sockets:
        assert each.info
    assert busy.call("GET", "/exec").json()["count"] == 60
    assert sprite.run("echo", "x").text == "x\n"
    assert busy.delete().status_code == 204
    for each in sockets:
        while each.receive(20) is not None:
            pass
        each.vanish()
