"""The `sprite` client against the real server, as a person and as a script use it."""

import json
import os
import pty
import re
import select
import signal
import stat
import subprocess
import time

import pytest

from harness.api import new_name
from harness.wait import eventually


class Cli:
    """Runs `sprite` with a home of its own."""

    def __init__(self, program, home, url, token):
        self.program = program
        self.folder = home / "project"
        self.folder.mkdir()
        self.environment = {
            "HOME": str(home),
            "PATH": os.environ["PATH"],
            "LANG": "C.UTF-8",
            "SPRITES_API_URL": url,
            "SPRITE_TOKEN": token,
        }

    def run(self, *arguments, input=b"", env=None, timeout=50):
        return subprocess.run(
            [self.program, *arguments],
            input=input,
            capture_output=True,
            cwd=self.folder,
            env=self.environment | (env or {}),
            timeout=timeout,
        )

    def ok(self, *arguments, **options):
        """Runs it, expects success, returns what it printed."""
        done = self.run(*arguments, **options)
        assert done.returncode == 0, f"{arguments}: {done.returncode}: {done.stderr.decode()}"
        return done.stdout.decode()

    def json(self, *arguments):
        return json.loads(self.ok(*arguments, "--json"))


@pytest.fixture
def cli(servers, server, tmp_path):
    return Cli(f"{servers.bin_dir}/sprite", tmp_path, server.url, server.token)


@pytest.fixture
def on(cli, sprite):
    """A client in a folder that has chosen the shared sprite."""
    cli.ok("use", sprite.name)
    yield cli
    # Terminals outlive their clients.
    for session in sprite.sessions():
        sprite.call("POST", f"/exec/{session['id']}/kill?signal=KILL")


class Terminal:
    """A client on a terminal of ours."""

    def __init__(self, cli, *arguments, rows=24, cols=80, env=None):
        self.master, slave = pty.openpty()
        self.resize(rows, cols)
        self.output = b""
        self.process = subprocess.Popen(
            [cli.program, *arguments],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            cwd=cli.folder,
            env=cli.environment | {"TERM": "xterm-256color"} | (env or {}),
            start_new_session=True,
        )
        os.close(slave)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self.master)

    def resize(self, rows, cols):
        import fcntl
        import struct
        import termios

        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))

    def type(self, text):
        os.write(self.master, text if isinstance(text, bytes) else text.encode())

    def until(self, pattern, timeout=30):
        """Reads until the pattern is in what came since the last call; returns that."""
        deadline = time.monotonic() + timeout
        wanted = re.compile(pattern.encode() if isinstance(pattern, str) else pattern)
        while not (match := wanted.search(self.output)):
            assert time.monotonic() < deadline, f"waited for {pattern!r}, have {self.output[-2000:]!r}"
            if select.select([self.master], [], [], 0.2)[0]:
                try:
                    self.output += os.read(self.master, 65536)
                except OSError:
                    assert wanted.search(self.output), f"ended before {pattern!r}: {self.output[-2000:]!r}"
        seen, self.output = self.output[: match.end()], self.output[match.end() :]
        return seen.decode(errors="replace")

    def wait(self, timeout=30):
        """Waits for its end, reading on; returns its exit code."""
        deadline = time.monotonic() + timeout
        while self.process.poll() is None:
            assert time.monotonic() < deadline, f"it does not end: {self.output[-2000:]!r}"
            if select.select([self.master], [], [], 0.1)[0]:
                try:
                    self.output += os.read(self.master, 65536)
                except OSError:
                    pass
        # What it printed last may still be in the terminal, whose other end is closed by now.
        while select.select([self.master], [], [], 0)[0]:
            try:
                piece = os.read(self.master, 65536)
            except OSError:
                break
            if not piece:
                break
            self.output += piece
        return self.process.returncode


# Sprites


def test_create_list_info_and_destroy(cli):
    name = new_name("cli")
    text = cli.ok("create", name, "--skip-console", "--label", "one", "--label", "two")
    assert name in text
    assert json.loads((cli.folder / ".sprite").read_text()) == {"organization": "test", "sprite": name}
    try:
        assert name in cli.ok("list").splitlines(), "piped, a list is names alone"
        assert cli.ok("list", "--prefix", name) == f"{name}\n"
        assert cli.ok("ls", "--prefix", new_name("none")) == ""
        listed = cli.json("list", "--prefix", name)
        assert [s["name"] for s in (listed["sprites"] if isinstance(listed, dict) else listed)] == [name]
        shown = cli.json("info")
        assert (shown["name"], shown["labels"]) == (name, ["one", "two"])
        text = cli.ok("info", name)
        assert f"Name: {name}" in text and f"URL: {shown['url']}" in text and "Auth: sprite" in text
        assert cli.ok("exec", "echo", "hello") == "hello\n"
        cli.ok("config", "update", "--url-auth", "public")
        assert "Auth: public" in cli.ok("url")
        cli.ok("url", "update", "--auth", "default")
        assert cli.json("info")["url_settings"]["auth"] == "sprite"
    finally:
        cli.ok("destroy", "--force", name)
    assert not (cli.folder / ".sprite").exists()
    done = cli.run("info", name)
    assert done.returncode == 1 and b"not found" in done.stderr


def test_destroy_asks_first(cli, new_sprite):
    name = new_sprite(wait=False).name
    done = cli.run("destroy", name)
    # Nobody is there to say yes.
    assert cli.json("info", name)["name"] == name
    assert done.returncode != 0 and b"--force" in done.stderr
    with Terminal(cli, "destroy", name) as terminal:
        terminal.until(r"\?|\[y/N\]|confirm|type")
        terminal.type("n\r")
        assert terminal.wait() == 0
        assert b"Cancelled." in terminal.output
    assert cli.json("info", name)["name"] == name


def test_a_list_on_a_terminal_is_a_table(cli, sprite):
    with Terminal(cli, "list", env={"NO_COLOR": "1"}, cols=120) as terminal:
        assert terminal.wait() == 0
        text = terminal.output.decode()
        assert "NAME" in text and "CREATED" in text and sprite.name in text


def test_the_sprite_of_a_folder_is_used_below_it(on, sprite):
    below = on.folder / "a/b"
    below.mkdir(parents=True)
    done = subprocess.run([on.program, "exec", "hostname"], cwd=below, env=on.environment, capture_output=True, timeout=30)
    assert done.returncode == 0
    on.ok("use", "--unset")
    done = on.run("exec", "true")
    assert done.returncode != 0 and b"-s" in done.stderr, done.stderr
    assert on.ok("-s", sprite.name, "exec", "echo", "x") == "x\n"
    assert on.ok("exec", "-s", sprite.name, "echo", "x") == "x\n"


# Commands


def test_exit_codes_are_the_commands(on):
    for code in (0, 1, 7, 42, 255):
        assert on.run("exec", "sh", "-c", f"exit {code}").returncode == code
    assert on.run("exec", "no-such-command").returncode == 127
    assert on.run("exec", "/etc/passwd").returncode == 126
    assert on.run("exec", "sh", "-c", "kill -KILL $$").returncode == 137


def test_streams_are_kept_apart_and_exact(on):
    done = on.run("exec", "sh", "-c", "printf out; printf err >&2")
    assert (done.stdout, done.stderr) == (b"out", b"err")
    data = os.urandom(300_000)
    assert on.run("exec", "cat", input=data).stdout == data
    assert on.run("exec", "--http-post", "cat", input=data).stdout == data
    assert on.run("exec", "--no-stdin", "cat", input=b"ignored").stdout == b""


def test_flags_end_at_the_command(on):
    assert on.ok("exec", "echo", "-n", "--dir", "/x") == "--dir /x"
    assert on.ok("exec", "--", "printf", "%s", "--help") == "--help"
    assert on.ok("x", "--dir", "/tmp", "--env", "A=1,B=2 3", "sh", "-c", "pwd; echo $A $B") == "/tmp\n1 2 3\n"
    assert on.ok("exec", "-dir", "/tmp", "pwd") == "/tmp\n", "one dash does too"
    assert on.ok("exec", "printf", "[%s]", "a b", "", "ü*$") == "[a b][][ü*$]"


def test_files_are_sent_before_the_command(on, home):
    (on.folder / "local").write_text("content")
    assert on.ok("exec", "--file", f"local:{home}/sent/file", "cat", f"{home}/sent/file") == "content"
    done = on.run("exec", "--file", "missing:/tmp/x", "echo", "ran")
    assert done.returncode == 1 and done.stdout == b""


def test_a_terminal_is_passed_through(on):
    with Terminal(on, "exec", "--tty", "bash", "--norc", rows=30, cols=100) as terminal:
        terminal.type("stty size\r")
        terminal.until("30 100")
        terminal.resize(40, 120)
        os.kill(terminal.process.pid, signal.SIGWINCH)
        terminal.type("sleep 0.2; stty size; echo $TERM\r")
        terminal.until("40 120")
        terminal.until("xterm-256color")
        terminal.type("echo ready-$((1+1)); cat\r")
        terminal.until("ready-2")
        terminal.type("typed\r")
        terminal.until("typed\r\ntyped\r\n")
        terminal.type(b"\x03")
        # What is typed before the shell is back would be thrown away with the rest.
        terminal.until(r"\^C[^$#]*[$#] ")
        terminal.type("exit 9\r")
        assert terminal.wait() == 9


def test_a_terminal_is_as_before_at_the_end(on):
    import termios

    master, slave = pty.openpty()
    before = termios.tcgetattr(slave)
    process = subprocess.Popen(
        [on.program, "exec", "--tty", "sh", "-c", "echo ready; sleep 300"],
        stdin=slave, stdout=slave, stderr=slave, cwd=on.folder, env=on.environment, start_new_session=True,
    )
    output = b""
    while b"ready" not in output:
        output += os.read(master, 1000)
    assert termios.tcgetattr(slave) != before, "it is raw while a command has it"
    process.send_signal(signal.SIGTERM)
    process.wait(20)
    assert termios.tcgetattr(slave) == before
    os.close(master)
    os.close(slave)


def test_ctrl_c_ends_a_command_without_a_terminal(on):
    process = subprocess.Popen(
        [on.program, "exec", "--no-stdin", "sh", "-c", "echo ready; exec sleep 300"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=on.folder, env=on.environment,
    )
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 130
    process.communicate()


def test_a_reader_that_has_had_enough_ends_it(on):
    done = subprocess.run(f"{on.program} exec yes | head -1", shell=True, capture_output=True, cwd=on.folder,
                          env=on.environment, timeout=30)
    assert done.stdout == b"y\n" and b"panic" not in done.stderr


# Sessions


def test_a_console_is_left_and_come_back_to(on, sprite, is_real):
    command = ["console"] if is_real else ["exec", "--tty", "bash", "--norc"]
    with Terminal(on, *command) as terminal:
        terminal.type("echo mark-$((40+2))\r")
        terminal.until("mark-42")
        # Ctrl+\ detaches.
        terminal.type(b"\x1c")
        assert terminal.wait() == 0
    (session,) = [s for s in sprite.sessions() if s["tty"]]
    listed = on.json("sessions", "list")
    entries = listed["sessions"] if isinstance(listed, dict) else listed
    assert session["id"] in [entry["id"] for entry in entries]
    text = on.ok("sessions", "list")
    assert session["id"] in text
    with Terminal(on, "attach", session["id"]) as terminal:
        terminal.until("mark-42")
        terminal.type("echo back-$((1+1))\r")
        terminal.until("back-2")
        terminal.type("exit 3\r")
        assert terminal.wait() == 3
    assert session["id"] not in sprite.session_ids()


@pytest.mark.real
def test_a_console_names_the_window_and_knows_the_shell(on, sprite):
    with Terminal(on, "console", env={"SHELL": "/bin/bash"}) as terminal:
        title = terminal.until("\x1b\\]0;[^\x07]*\x07")
        assert sprite.name in title, "which sprite the window is of"
        terminal.type("echo $0 $-; shopt -q login_shell && echo login-$((1+1))\r")
        terminal.until("login-2")
        terminal.type("exit\r")
        assert terminal.wait() == 0


def test_a_session_is_killed(on, sprite):
    socket = sprite.socket("sleep", "300", detachable=True)
    session_id = socket.info["session_id"]
    on.ok("sessions", "kill", session_id)
    eventually("it is gone", lambda: session_id not in sprite.session_ids())
    done = on.run("sessions", "kill", session_id)
    assert done.returncode in (0, 1)
    assert on.run("sessions", "attach", "99999999").returncode == 1
    socket.vanish()


# Files


def test_cp_copies_files_both_ways(on, home):
    data = os.urandom(500_000)
    (on.folder / "up").write_bytes(data)
    (on.folder / "up").chmod(0o755)
    on.ok("cp", "up", f":{home}/copied")
    assert on.ok("exec", "stat", "-c", "%s %a", f"{home}/copied").split() == ["500000", "755"]
    on.ok("cp", f":{home}/copied", "down")
    assert (on.folder / "down").read_bytes() == data
    assert stat.S_IMODE((on.folder / "down").stat().st_mode) & 0o700 == 0o700
    assert on.run("cp", f":{home}/copied", "-").stdout == data
    assert on.run("cp", "-", f":{home}/from-stdin", input=b"piped").returncode == 0
    assert on.ok("exec", "cat", f"{home}/from-stdin") == "piped"


def test_cp_copies_folders_both_ways(on, home):
    (on.folder / "tree/sub").mkdir(parents=True)
    (on.folder / "tree/a").write_text("A")
    (on.folder / "tree/sub/b").write_text("B")
    (on.folder / "tree/sub/ü b").write_text("space")
    (on.folder / "tree/link").symlink_to("a")
    done = on.run("cp", "tree", f":{home}/tree")
    assert done.returncode != 0 and b"-r" in done.stderr
    on.ok("cp", "-r", "tree", f":{home}/tree")
    assert on.ok("exec", "cat", f"{home}/tree/a", f"{home}/tree/sub/b", f"{home}/tree/sub/ü b") == "ABspace"
    on.ok("cp", "-r", f":{home}/tree", "back")
    assert (on.folder / "back/sub/b").read_text() == "B"
    assert (on.folder / "back/sub/ü b").read_text() == "space"


def test_cp_refuses_what_it_cannot_do(on, home):
    for arguments in ((f":{home}/missing", "x"), ("missing", f":{home}/x"), ("a", "b"), (":a", ":b")):
        done = on.run("cp", *arguments)
        assert done.returncode in (1, 2) and done.stderr, arguments
    (on.folder / "f").write_text("x")
    done = on.run("cp", "f", f":{home}/no/such/folder/f")
    assert done.returncode == 1
    on.ok("cp", "--parents", "f", f":{home}/made/on/the/way/f")


@pytest.mark.real
def test_a_sprite_cannot_make_cp_write_elsewhere(on, sprite, home):
    """Names and links come from a machine that somebody else may run."""
    sprite.sh(f"mkdir -p {home}/evil && cd {home}/evil && ln -s /etc/passwd out && ln -s ../../../.. up && mkdir d && ln -s {on.folder.parent} d/away && echo x > d/file")
    on.run("cp", "-r", f":{home}/evil", "copy")
    before = {"project"}
    assert set(os.listdir(on.folder.parent)) <= before | {".sprites", ".cache", ".config"}
    copied = on.folder / "copy"
    for root, folders, files in os.walk(copied):
        for name in folders + files:
            path = os.path.join(root, name)
            if os.path.islink(path):
                continue
            assert os.path.realpath(path).startswith(str(on.folder)), path


# Configuration


def test_a_login_is_kept_and_removed(cli, server):
    bare = {k: v for k, v in cli.environment.items() if not k.startswith("SPRITE")}
    cli.environment = bare
    done = cli.run("list")
    assert done.returncode == 1 and b"sprite login" in done.stderr + done.stdout or b"token" in done.stderr
    cli.ok("login", server.url, input=server.token.encode() + b"\n")
    config = cli.folder.parent / ".sprites/sprites.json"
    assert stat.S_IMODE(config.stat().st_mode) == 0o600
    assert stat.S_IMODE(config.parent.stat().st_mode) == 0o700
    cli.ok("list")
    assert "test" in cli.ok("org", "list")
    done = cli.run("login", server.url, input=b"test/wrong/token/here\n")
    assert done.returncode == 1
    cli.ok("list")
    cli.ok("logout", "--force")
    assert cli.run("list").returncode == 1


def test_the_token_is_not_shown(cli, server, sprite):
    done = cli.run("--debug", "list")
    assert server.token.split("/")[3].encode() not in done.stdout + done.stderr


def test_mistakes_are_told_apart(cli):
    assert cli.run("nonsense").returncode == 2
    assert cli.run("exec", "--no-such-flag", "x").returncode == 2
    assert cli.run("--help").returncode == 0
    assert cli.run("exec", "--help").returncode == 0
    assert b"." in cli.run("--version").stdout
    done = cli.run("-s", new_name("none"), "exec", "true")
    assert done.returncode == 1 and b"Error: " in done.stderr
    done = cli.run("create", "Not_A_Name", "--skip-console")
    assert done.returncode in (1, 2) and b"Error: " in done.stderr
    done = cli.run("list", env={"SPRITES_API_URL": "http://127.0.0.1:1"})
    assert done.returncode == 1 and b"127.0.0.1:1" in done.stderr
    done = cli.run("list", env={"SPRITE_TOKEN": "a/b/c/d"})
    assert done.returncode == 1 and b"token" in done.stderr.lower()


def test_what_is_not_there_yet_is_said(on):
    for command in (["checkpoint", "list"], ["checkpoint", "create"]):
        done = on.run(*command)
        assert done.returncode == 1 and b"not" in done.stderr, command


def test_api_calls_curl_with_the_token(on, sprite):
    assert json.loads(on.ok("api", "/exec")) == {"count": 0, "sessions": []}
    assert json.loads(on.ok("api", "/v1/organization"))["organization"]["slug"] == "test"
    text = on.ok("api", "/exec", "--", "-s", "-o", "/dev/null", "-w", "%{http_code}", "-X", "HEAD", "-I")
    assert text == "200"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish", "powershell"])
def test_completions_are_printed(cli, shell):
    assert "sprite" in cli.ok("completion", shell)


def test_a_long_argument_arrives(on):
    text = "x" * 100_000
    assert on.ok("exec", "sh", "-c", "echo ${#1}", "sh", text) == "100000\n"
    done = on.run("exec", "sh", "-c", "cat | wc -c", input=b"y" * 5_000_000)
    assert done.stdout.strip() == b"5000000"
