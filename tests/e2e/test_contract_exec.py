"""The exec contract over bare WebSockets: its test vectors, its rules of framing and lifetime,
and clients that break the rules."""

import concurrent.futures
import json
import os
import re
import struct
import time

import pytest

from harness import raw
from harness.api import new_name
from harness.exec import STDIN_EOF, collect
from harness.wait import eventually
from harness.websocket import BINARY, CONTINUATION, PING, PONG, TEXT, Refused


def refused(call):
    with pytest.raises(Refused) as caught:
        call()
    error = caught.value
    assert error.headers["content-type"].startswith("application/json")
    assert error.json()["error"]
    return error


def gone(sprite, session_id):
    """Waits until a session is no longer listed."""
    eventually(f"session {session_id} ends", lambda: session_id not in sprite.session_ids())


# The vectors of the contract, by number.


def test_v01_output_and_exit_in_order(sprite):
    done = sprite.run("echo", "hello", "world")
    assert (done.stdout, done.stderr) == (b"hello world\n", b"")
    assert done.order == ["text:session_info", "stdout", "text:exit", "exit"]
    assert done.exit_message == {"type": "exit", "exit_code": 0, "code": 0}
    assert done.exit_frame == b"\x03\x00"
    assert done.closed_with == 1000


def test_v02_commands_start_in_the_home(sprite, home, is_real):
    assert sprite.run("pwd").text == f"{home}\n"
    if is_real:
        assert home == "/home/sprite"


def test_v03_or_where_they_are_told_to(sprite):
    assert sprite.run("pwd", dir="/tmp").text == "/tmp\n"


def test_v04_variables_are_merged_over_the_defaults(sprite):
    lines = sprite.run("env", env=["A=1", "B=2", "C=a=b", "D="]).text.splitlines()
    assert {"A=1", "B=2", "C=a=b", "D="} <= set(lines)
    assert any(line.startswith("HOME=") for line in lines)
    assert any(line.startswith("PATH=") for line in lines)


def test_v05_exit_codes_are_told_in_every_form(sprite):
    done = sprite.run("sh", "-c", "exit 42")
    assert done.exit_message == {"type": "exit", "exit_code": 42, "code": 42}
    assert done.exit_frame == b"\x03\x2a"
    assert done.closed_with == 1000
    for code in (1, 127, 255):
        assert sprite.run("sh", "-c", f"exit {code}").exit_frame == bytes([3, code])


def test_v06_without_a_terminal_there_is_none(sprite):
    done = sprite.run("tty")
    assert (done.text, done.code) == ("not a tty\n", 1)


def test_v07_with_a_terminal_there_is_one(sprite):
    done = sprite.run("tty", tty=True)
    assert re.fullmatch(r"/dev/pts/\d+\r\n", done.text)
    assert done.closed_with == 1000 and done.exit_frame is None
    assert done.exit_message == {"type": "exit", "exit_code": 0, "code": 0}
    assert sprite.run("sh", "-c", "exit 2", tty=True).closed_with == 4002


def test_v08_the_size_is_set_before_the_command_starts(sprite):
    assert sprite.run("stty", "size", tty=True, rows=24, cols=80).text == "24 80\r\n"
    assert sprite.run("stty", "size", tty=True, rows=50, cols=132).text == "50 132\r\n"
    assert sprite.run("stty", "size", tty=True).text == "24 80\r\n"


def test_v09_streams_are_kept_apart(sprite):
    done = sprite.run("sh", "-c", "echo out; echo err >&2")
    assert (done.stdout, done.stderr) == (b"out\n", b"err\n")


def test_v10_a_mebibyte_of_input_comes_back(sprite):
    data = os.urandom(1 << 20)
    done = sprite.run("cat", input=data)
    assert done.stdout == data and done.code == 0


def test_v11_a_signal_ends_the_command(sprite):
    for name, code in (("TERM", 143), ("SIGTERM", 143), ("15", 143), ("INT", 130), ("KILL", 137), ("HUP", 129),
                       ("QUIT", 131), ("USR1", 138), ("USR2", 140)):
        with sprite.socket("sleep", "100") as socket:
            assert socket.info
            socket.signal(name)
            assert collect(socket).code == code


def test_v12_silence_is_filled(sprite):
    """The JavaScript SDK gives up after 45 s without a message, and pings do not count."""
    with sprite.socket("sh", "-c", "sleep 20; echo done") as socket:
        assert socket.info
        done = collect(socket, 40)
        assert done.text == "done\n"
        assert "text:keepalive" in done.order
        assert done.messages.count({"type": "keepalive"}) >= 1
        # Proxies see pings.
        assert socket.pings >= 1


def test_v13_a_daemon_does_not_keep_its_starter(sprite):
    started = time.monotonic()
    done = sprite.run("sh", "-c", "sleep 300 & echo $!")
    assert time.monotonic() - started < 20
    assert done.code == 0
    pid = done.text.strip()
    assert sprite.run("kill", pid).code == 0, "it lives on"


def test_v14_an_abandoned_command_is_ended_after_a_while(sprite):
    """The default of 10 s is looked at as a bound, and a limit of one's own for the end."""
    socket = sprite.socket("sleep", "300")
    default_id = socket.info["session_id"]
    socket.vanish()
    script = "trap 'echo caught > caught; exit' TERM; echo ready; while :; do sleep 0.1; done"
    folder = sprite.sh("mktemp -d").strip()
    socket = sprite.socket("bash", "-c", script, dir=folder, max_run_after_disconnect="1s")
    socket.read_until("ready")
    assert socket.session_id in sprite.session_ids()
    socket.vanish()
    gone(sprite, socket.session_id)
    assert sprite.sh(f"cat {folder}/caught") == "caught\n", "it was asked before it was killed"
    assert default_id in sprite.session_ids(), "10 s are not over yet"
    gone(sprite, default_id)


def test_v15_a_detached_terminal_shows_what_was_printed_before(sprite):
    with sprite.socket("bash", tty=True, detachable=True, stdin=True) as socket:
        session_id = socket.info["session_id"]
        socket.write(b"echo mark-$((40+2))\r")
        socket.read_until("mark-42")
        socket.close()
    with sprite.attach(session_id) as socket:
        assert socket.info["tty"] is True and socket.info["session_id"] == session_id
        socket.read_until("mark-42")
        socket.write(b"exit 5\r")
        assert collect(socket).closed_with == 4005


@pytest.mark.parametrize("form", ["path", "id", "session_id"])
def test_v16_attaching_to_nothing_is_told_by_the_handshake(sprite, form):
    if form == "path":
        error = refused(lambda: sprite.attach("99999999"))
    else:
        error = refused(lambda: sprite.socket(**{form: "99999999"}))
    assert error.status == 404


def test_v17_an_unknown_program_is_127(sprite):
    done = sprite.run("no-such-cmd")
    assert done.code == 127 and done.exit_frame == b"\x03\x7f"
    assert "no-such-cmd" in done.errors
    done = sprite.run("no-such-cmd", tty=True)
    assert "no-such-cmd" in done.text and done.closed_with == 4127


def test_v19_a_hundred_commands_run_at_once(sprite):
    def one(i):
        done = sprite.run("sh", "-c", f"echo {i}; exit {i}")
        return (done.text, done.code) == (f"{i}\n", i)

    with concurrent.futures.ThreadPoolExecutor(100) as pool:
        assert all(pool.map(one, range(100)))


def test_v20_bytes_are_bytes(sprite):
    assert sprite.run("printf", r"\x00\x01\x03\xff").stdout == b"\x00\x01\x03\xff"
    everything = bytes(range(256)) * 300
    assert sprite.run("cat", input=everything).stdout == everything


def test_v21_an_argument_may_be_long_and_one_too_long_is_126(sprite):
    done = sprite.run("sh", "-c", 'echo ${#1}', "sh", "x" * (60 << 10))
    assert done.text == f"{60 << 10}\n"
    done = sprite.run("true", "x" * (200 << 10))
    assert done.code == 126 and done.errors


# Start


def test_paths_are_looked_up_in_the_commands_own_path(sprite, folder):
    sprite.write(f"{folder}/own-tool", b"#!/bin/sh\necho own $0\n", mode="0755")
    done = sprite.run("own-tool", env=[f"PATH={folder}:/usr/bin:/bin"])
    assert done.text == f"own {folder}/own-tool\n"
    assert sprite.run("own-tool").code == 127
    assert sprite.run("./own-tool", dir=folder).text.startswith("own ")


def test_the_program_may_differ_from_the_first_word(sprite):
    done = sprite.run("other-name", "-c", 'echo "$0"', path="/bin/bash")
    assert done.text == "other-name\n"
    with sprite.socket(path="cat", stdin=True) as socket:
        assert socket.info
        socket.write(b"only a path")
        socket.end_input()
        assert collect(socket).text == "only a path"


def test_start_failures_have_codes_and_words(sprite, folder, is_real):
    sprite.write(f"{folder}/plain", b"echo hello\n")
    sprite.write(f"{folder}/bad", b"#!/no/such/interpreter\n", mode="0755")
    sprite.write(f"{folder}/garbage", bytes(range(256)), mode="0755")
    for command, options, codes in (
        ((f"{folder}/plain",), {}, (126,)),
        ((folder,), {}, (126,)),
        # Plain processes are started by a C library that has a shell try.
        ((f"{folder}/garbage",), {}, (126,) if is_real else (2, 126)),
        ((f"{folder}/bad",), {}, (126, 127)),
        (("/no/such/file",), {}, (127,)),
        ((f"{folder}/plain/below",), {}, (126, 127)),
        (("true",), {"dir": "/no/such/folder"}, (1,)),
        (("true",), {"dir": f"{folder}/plain"}, (1,)),
        (("x" * 5000,), {}, (126, 127)),
        (("true",), {"env": ["BIG=" + "x" * (200 << 10)]}, (126,)),
    ):
        done = sprite.run(*command, **options)
        assert done.code in codes, (command[0][:80], done.code, done.errors)
        assert done.errors and done.exit_frame == bytes([3, done.code])
        assert done.closed_with == 1000


@pytest.mark.parametrize("query", ["", "?tty=true", "?cmd", "?cmd=", "?cmd=true&tty=maybe", "?cmd=true&cols=-1",
                                   "?cmd=true&rows=99999999", "?cmd=true&env=NOVALUE", "?cmd=true&env==x",
                                   "?cmd=a%00b", "?cmd=true&max_run_after_disconnect=soon", "?cmd=true&dir=%00"])
def test_unusable_parameters_are_refused_by_the_handshake(api, sprite, query):
    from harness.websocket import WebSocket

    error = refused(lambda: WebSocket(api.url, f"{sprite.path}/exec{query}", api.token))
    assert error.status == 400
    if query in ("", "?tty=true", "?cmd", "?cmd="):
        assert "No command specified" in error.json()["error"]


def test_plus_and_percent_are_decoded_and_unknown_keys_ignored(api, sprite):
    from harness.websocket import WebSocket

    target = f"{sprite.path}/exec?cmd%5B%5D=echo&cmd[]=a+b%2Bc&nothing=1&cc=true"
    with WebSocket(api.url, target, api.token) as socket:
        socket.tty = False
        assert collect(socket).text == "a b+c\n"


def test_the_handshake_declares_what_sdks_look_for(sprite):
    with sprite.socket("true") as socket:
        assert re.match(r"\d+\.\d+\.\d+", socket.headers["sprite-version"])
        assert "signal" in socket.headers["x-sprite-capabilities"].split(",")
        assert "sec-websocket-protocol" not in socket.headers
        collect(socket)
    offer = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"
    with sprite.socket("echo", "x", headers=[offer]) as socket:
        assert "sec-websocket-extensions" not in socket.headers
        assert collect(socket).text == "x\n"


def test_handshakes_are_refused_with_json(api, foreign, sprite):
    from harness.api import Api

    nobody = Api(api.url, "no/such/to/ken")
    assert refused(lambda: nobody.sprite(sprite.name).socket("true")).status == 401
    assert refused(lambda: foreign.sprite(sprite.name).socket("true")).status == 404
    assert refused(lambda: api.sprite(new_name()).socket("true")).status == 404
    nobody.close()


def test_a_broken_handshake_is_refused(server, sprite):
    for headers, status in (
        (("Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13"), 400),
        (("Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 8", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="), 426),
        (("Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: short"), 400),
    ):
        data = raw.head("GET", f"{sprite.path}/exec?cmd=true", server.token, *headers)
        answer = raw.request(server.url, data)
        assert answer[0] == status and json.loads(answer[2])["error"]


def test_session_info_is_first_and_typed(sprite):
    for options, tty in (({}, False), ({"tty": True, "rows": 30, "cols": 100}, True)):
        with sprite.socket("sh", "-c", "sleep 300", **options) as socket:
            info = socket.info
            assert info["session_id"].isdigit()
            assert re.fullmatch(r"/\S+ -c sleep 300", info["command"])
            assert isinstance(info["created"], int) and abs(info["created"] - time.time()) < 3600
            assert (info["cols"], info["rows"]) == ((100, 30) if tty else (80, 24))
            assert info["is_owner"] is True and info["tty"] is tty
            socket.signal("KILL")
            collect(socket)


# Input


def test_without_stdin_there_is_end_of_file(sprite):
    with sprite.socket("cat") as socket:
        # The Go SDK says that there is none, and then ends it.
        socket.end_input()
        assert collect(socket).code == 0
    with sprite.socket("sh", "-c", "readlink /proc/self/fd/0") as socket:
        assert collect(socket).text == "/dev/null\n"


def test_stray_frames_are_ignored(sprite):
    with sprite.socket("cat", stdin=True) as socket:
        assert socket.info
        for frame in (b"", b"\x01x", b"\x02x", b"\x03\x00", b"\x05x", b"\xffgarbage", os.urandom(5000).replace(b"\x00", b"")):
            if frame[:1] not in (b"\x00", b"\x04"):
                socket.send_binary(frame)
        for text in ("", "{", "[]", "null", '"x"', "{}", '{"type":5}', '{"type":"unknown"}', '{"type":"signal"}',
                     '{"type":"signal","signal":"NONSENSE"}', '{"type":"signal","signal":[]}',
                     '{"type":"resize","cols":-1,"rows":"x"}', '{"type":"resize","cols":99999999,"rows":1}',
                     '{"type":"resize","cols":10,"rows":10}', "x" * 100_000, '{"a":' * 10_000):
            socket.send_text(text)
        socket.send_frame(BINARY, b"\x00kept")
        socket.send_binary(b"\x00")
        socket.send_binary(bytes([STDIN_EOF]) + b"payload is ignored")
        socket.write(b"after the end")
        done = collect(socket)
        assert (done.text, done.code) == ("kept", 0)


def test_fragments_are_put_together(sprite):
    with sprite.socket("cat", stdin=True) as socket:
        assert socket.info
        socket.send_frame(BINARY, b"\x00on", final=False)
        socket.send_frame(PING, b"between")
        socket.send_frame(CONTINUATION, b"e ", final=False)
        socket.send_frame(CONTINUATION, b"", final=False)
        socket.send_frame(CONTINUATION, b"message")
        socket.send_frame(TEXT, b'{"type":"si', final=False)
        socket.send_frame(CONTINUATION, b'gnal","signal":"0"}')
        socket.end_input()
        assert collect(socket).text == "one message"


def test_pings_are_answered(sprite):
    with sprite.socket("sleep", "300") as socket:
        assert socket.info
        socket.send_frame(PING, b"are you there")
        final, opcode, payload = socket.read_frame()
        assert (final, opcode, payload) == (True, PONG, b"are you there")
        socket.signal("KILL")
        collect(socket)


def test_a_message_of_many_mebibytes_is_taken(sprite):
    data = os.urandom(24 << 20)
    with sprite.socket("sh", "-c", "sha256sum | cut -c1-64", stdin=True) as socket:
        assert socket.info
        socket.connection.settimeout(40)
        socket.send_frame(BINARY, b"\x00" + data)
        socket.end_input()
        import hashlib

        assert collect(socket).text.strip() == hashlib.sha256(data).hexdigest()


def test_output_messages_are_of_64_kib_at_most(sprite):
    with sprite.socket("head", "-c", "3000000", "/dev/zero") as socket:
        assert socket.info
        total = 0
        while (message := socket.receive()) is not None:
            assert len(message) <= 64 << 10
            if isinstance(message, bytes) and message[0] == 1:
                total += len(message) - 1
        assert total == 3_000_000


def test_input_to_a_command_that_does_not_read_is_bounded_and_the_rest_works(server, sprite):
    before = server.resident_kib()
    with sprite.socket("sleep", "300", stdin=True) as socket:
        assert socket.info
        socket.connection.settimeout(2)
        sent = 0
        try:
            while sent < 256 << 20:
                socket.send_frame(BINARY, b"\x00" + b"x" * (1 << 20))
                sent += 1 << 20
        except TimeoutError:
            pass
        assert sent < 256 << 20, "the server stops reading"
        assert server.resident_kib() - before < 128 << 10
        # The socket is stuck by its own fault; the session is not.
        path = f"/exec/{socket.session_id}/kill?signal=KILL"
        assert sprite.call("POST", path).status_code == 200
    gone(sprite, socket.session_id)


def test_signals_pass_input_that_is_not_read(sprite):
    """Two mebibytes are more than the pipe takes, and less than the server keeps."""
    with sprite.socket("sleep", "300", stdin=True) as socket:
        assert socket.info
        socket.write(b"x" * (2 << 20))
        socket.send_frame(PING, b"p")
        socket.signal("TERM")
        assert collect(socket).code == 143


# Terminals


def test_a_terminal_echoes_resizes_and_ends(sprite):
    with sprite.socket("bash", "--norc", tty=True, stdin=True, rows=24, cols=80) as socket:
        assert socket.info
        socket.send_json(type="resize", cols=120, rows=40)
        socket.write(b"stty size\r")
        socket.read_until("40 120")
        socket.write(b"exit 2\r")
        done = collect(socket)
        assert done.exit_message == {"type": "exit", "exit_code": 2, "code": 2}
        assert done.closed_with == 4002
        assert done.exit_frame is None


def test_typed_control_characters_work(sprite):
    with sprite.socket("cat", tty=True, stdin=True) as socket:
        socket.write(b"runs\r")
        # What is typed is echoed at once; the second one is printed by the command.
        socket.read_until("runs\r\nruns\r\n")
        socket.write(b"\x03")
        assert collect(socket).code == 130
    with sprite.socket("cat", tty=True, stdin=True) as socket:
        assert socket.info
        # Not the end of input of the other framing, but what is typed.
        socket.send_binary(b"\x04")
        assert collect(socket).code == 0


def test_text_that_is_no_object_is_typed(sprite):
    with sprite.socket("cat", tty=True, stdin=True) as socket:
        assert socket.info
        socket.send_text("typed as text\r")
        socket.read_until("typed as text\r\n")
        socket.write(b"\x04")
        assert collect(socket).code == 0


def test_signals_of_a_terminal_go_to_its_foreground(sprite):
    script = "trap '' INT; echo ready; sleep 300; echo interrupted $?"
    with sprite.socket("bash", "-m", "-c", script, tty=True, stdin=True) as socket:
        socket.read_until("ready")
        socket.signal("TERM")
        done = collect(socket)
        assert "interrupted 143" in done.text or done.code == 143


@pytest.mark.parametrize("given", [None, "screen-256color"])
def test_terminals_have_a_type(sprite, given):
    env = [f"TERM={given}"] if given else []
    done = sprite.run("sh", "-c", "echo ${TERM-none}", tty=True, env=env)
    assert done.text == f"{given or 'xterm-256color'}\r\n"
    assert sprite.run("sh", "-c", "echo ${TERM-none}").text == "none\n"


def test_job_control_works(sprite):
    with sprite.socket("bash", "--norc", tty=True, stdin=True) as socket:
        assert socket.info
        socket.write(b"sleep 300\r")
        socket.read_until("sleep 300")
        eventually("it runs", lambda: "sleep 300" in sprite.run("ps", "-eo", "args").text)
        socket.write(b"\x1a")
        socket.read_until("Stopped")
        socket.write(b"kill %1; fg; exit 3\r")
        assert collect(socket).code == 3


# Attach


def test_every_form_of_attaching_works(sprite):
    command = ["bash", "-c", "echo early; read line; echo $line; exit 6"]
    with sprite.socket(*command, stdin=True, detachable=True) as socket:
        socket.read_until("early")
    for form in ({"id": socket.session_id}, {"session_id": socket.session_id, "path": "", "cmd": ""},
                 {"id": socket.session_id, "cmd": "ignored", "tty": True, "rows": 5, "cols": 5}):
        with sprite.socket(**form) as again:
            assert again.info["session_id"] == socket.session_id
            assert again.info["tty"] is False and again.info["is_owner"] is False
            again.read_until("early")
    with sprite.attach(socket.session_id) as last:
        last.read_until("early")
        last.write(b"typed\n")
        done = collect(last)
        assert (done.text, done.code) == ("typed\n", 6)
    refused(lambda: sprite.attach(socket.session_id))


def test_all_clients_of_a_session_see_its_output_and_may_type(sprite):
    with sprite.socket("cat", stdin=True, detachable=True) as first:
        assert first.info["is_owner"] is True
        others = [sprite.attach(first.session_id) for _ in range(3)]
        for other in others:
            assert other.info["is_owner"] is False
        for i, typist in enumerate([first, *others]):
            typist.write(f"line {i}\n".encode())
            for reader in (first, *others):
                reader.read_until(f"line {i}\n")
        first.end_input()
        for reader in (first, *others):
            done = collect(reader)
            assert done.code == 0 and done.closed_with == 1000
            reader.vanish()


def test_what_was_printed_before_is_replayed_once_and_bounded(sprite):
    script = "seq 1 400000; echo END; sleep 300"
    with sprite.socket("bash", "-c", script, detachable=True) as socket:
        whole = socket.read_until("END\n")
    assert whole.startswith(b"1\n2\n")
    with sprite.attach(socket.session_id) as again:
        tail = again.read_until("END\n")
        assert whole.endswith(tail)
        assert (512 << 10) <= len(tail) <= (2 << 20)
        again.signal("KILL")
        collect(again)


def test_attaching_in_time_keeps_an_abandoned_command(sprite):
    script = "echo ready; while read line; do echo got $line; done"
    with sprite.socket("bash", "-c", script, stdin=True, max_run_after_disconnect="4s") as socket:
        socket.read_until("ready")
    with sprite.attach(socket.session_id) as again:
        again.read_until("ready")
        started = time.monotonic()
        # Longer than it would have been kept without us.
        while time.monotonic() - started < 6:
            again.write(b"x\n")
            again.read_until("got x")
            time.sleep(0.5)
        again.signal("KILL")
        assert collect(again).code == 137


def test_a_terminal_outlives_its_client_without_a_limit(sprite):
    with sprite.socket("sleep", "300", tty=True, stdin=True) as socket:
        assert socket.info
    with sprite.socket("sleep", "300", max_run_after_disconnect="0") as other:
        assert other.info
    # Both are kept; the plain one would be gone after its 10 s, which `v14` shows.
    assert {socket.session_id, other.session_id} <= sprite.session_ids()
    for each in (socket, other):
        assert sprite.call("POST", f"/exec/{each.session_id}/kill?signal=KILL").status_code == 200
        gone(sprite, each.session_id)


# Clients that misbehave


def test_a_client_that_closes_is_answered(sprite):
    for options in ({}, {"tty": True, "stdin": True}):
        with sprite.socket("sleep", "300", max_run_after_disconnect="100ms", **options) as socket:
            assert socket.info
            socket.close()
            assert socket.receive() is None
            assert socket.closed_with in (1000, 1005)
            assert raw.Reader(socket.connection).at_end()
        gone(sprite, socket.session_id)


def test_a_client_that_vanishes_leaves_its_session_to_the_limit(sprite):
    sockets = [sprite.socket("sleep", "300", max_run_after_disconnect="100ms") for _ in range(10)]
    for socket in sockets:
        assert socket.info
    for socket in sockets:
        # A reset, not an orderly end.
        socket.connection.setsockopt(1, 13, struct.pack("ii", 1, 0))
        socket.vanish()
    for socket in sockets:
        gone(sprite, socket.session_id)


def test_a_client_that_half_closes_is_gone(sprite):
    with sprite.socket("sleep", "300", max_run_after_disconnect="100ms") as socket:
        assert socket.info
        socket.connection.shutdown(1)
        gone(sprite, socket.session_id)


def test_output_for_a_client_that_left_mid_stream_stops(sprite):
    with sprite.socket("yes", max_run_after_disconnect="100ms") as socket:
        socket.read_until("y\n")
    gone(sprite, socket.session_id)


def test_a_slow_reader_holds_its_command_back_and_nobody_else(server, sprite):
    before = server.resident_kib()
    with sprite.socket("sh", "-c", "head -c 100000000 /dev/zero; echo end >&2") as slow:
        assert slow.info
        others = [sprite.run("echo", "x") for _ in range(10)]
        assert all(done.code == 0 for done in others)
        assert slow.session_id in sprite.session_ids(), "it waits"
        assert server.resident_kib() - before < 64 << 10
        total = 0
        while (message := slow.receive()) is not None:
            if isinstance(message, bytes) and message[0] == 1:
                total += len(message) - 1
        assert total == 100_000_000, "nothing is lost"


@pytest.mark.parametrize(
    "break_rules",
    [
        lambda socket: socket.connection.sendall(os.urandom(4096)),
        lambda socket: socket.send_frame(BINARY, b"\x00x", masked=False),
        lambda socket: socket.send_frame(BINARY, b"\x00x", reserved=7),
        lambda socket: socket.send_frame(3, b"reserved opcode"),
        lambda socket: socket.send_frame(15, b"reserved opcode"),
        lambda socket: socket.send_frame(PING, b"x" * 200),
        lambda socket: socket.send_frame(PING, b"x", final=False),
        lambda socket: socket.send_frame(CONTINUATION, b"of nothing"),
        lambda socket: socket.send_frame(TEXT, b"\xff\xfe not utf-8"),
        lambda socket: socket.send_frame(8, b"\x00"),
        lambda socket: socket.send_frame(8, struct.pack(">H", 99) + b"bad code"),
        lambda socket: socket.connection.sendall(struct.pack(">BBQ", 0x82, 0xFF, 1 << 62) + b"\0\0\0\0"),
        lambda socket: socket.connection.sendall(b"GET / HTTP/1.1\r\n\r\n"),
    ],
    ids=["noise", "unmasked", "reserved bits", "opcode 3", "opcode 15", "long ping", "cut ping", "stray continuation",
         "bad text", "short close", "bad close code", "absurd length", "http"],
)
def test_garbage_ends_the_socket_and_nothing_else(sprite, break_rules):
    with sprite.socket("cat", stdin=True, max_run_after_disconnect="100ms") as socket:
        assert socket.info
        try:
            break_rules(socket)
            while socket.receive(20) is not None:
                pass
        except (EOFError, ConnectionError, AssertionError, UnicodeDecodeError):
            pass
    gone(sprite, socket.session_id)
    assert sprite.run("echo", "fine").text == "fine\n"


def test_a_message_that_never_ends_is_bounded(server, sprite):
    before = server.resident_kib()
    with sprite.socket("cat", stdin=True, max_run_after_disconnect="100ms") as socket:
        assert socket.info
        socket.connection.settimeout(20)
        sent = 0
        try:
            socket.send_frame(BINARY, b"\x00" + b"x" * (1 << 20), final=False)
            while sent < 200 << 20:
                socket.send_frame(CONTINUATION, b"x" * (1 << 20), final=False)
                sent += 1 << 20
        except (TimeoutError, ConnectionError):
            pass
        assert sent < 200 << 20
    gone(sprite, socket.session_id)
    eventually("its memory is given back", lambda: server.resident_kib() - before < 128 << 10)


def test_nothing_is_left_of_all_that(sprite):
    eventually("no session is left", lambda: sprite.sessions() == [])
