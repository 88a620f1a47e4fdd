"""The official Python SDK, unmodified, drives the server through every call it offers for what
this server does."""

import asyncio
import io
import threading

import pytest
import sprites
from sprites.exceptions import APIError, AuthenticationError, ExecError, NotFoundError, SpriteError
from sprites.exceptions import TimeoutError as CommandTimeout
from sprites.session import kill_session, list_sessions
from sprites.types import ListOptions, SpriteConfig, URLSettings

from harness.api import new_name
from harness.wait import eventually


@pytest.fixture(scope="module")
def client(server):
    with sprites.SpritesClient(server.token, base_url=server.url) as client:
        yield client


@pytest.fixture(scope="module")
def sdk(client, sprite):
    """The shared sprite, as the SDK sees it."""
    return client.sprite(sprite.name)


@pytest.fixture
def files(sdk, folder):
    return sdk.filesystem(folder)


# Sprites


def test_create_echoes_every_field(client, api):
    name = new_name()
    sprite = client.create_sprite(
        name,
        config=SpriteConfig(ram_mb=512, cpus=1, region="here", storage_gb=5),
        url_settings=URLSettings(auth="public", private_access="admins"),
        labels=["b", "a", "b"],
        wait_for_capacity=True,
        runtime="dev",
    )
    try:
        assert sprite.name == name
        assert sprite.id.startswith("sprite-")
        assert sprite.organization_name == "test"
        assert sprite.status in ("cold", "warm", "running")
        assert sprite.labels == ["b", "a", "b"]
        assert sprite.url_settings == URLSettings(auth="public", private_access="admins")
        assert sprite.url.startswith("http")
        assert sprite.created_at.tzinfo and sprite.updated_at >= sprite.created_at
        again = client.get_sprite(name)
        assert (again.id, again.labels, again.url) == (sprite.id, sprite.labels, sprite.url)
        # The SDK sends these but does not read them back.
        config = {"ram_mb": 512, "cpus": 1, "region": "here", "storage_gb": 5}
        assert api.sprite(name).get()["config"] == config
    finally:
        client.destroy_sprite(name)


def test_a_new_sprite_runs_by_itself(client):
    sprite = client.create_sprite(new_name())
    try:
        running = lambda: client.get_sprite(sprite.name).status in ("warm", "running")
        eventually("it is warm or running without any call", running, 45)
        assert client.get_sprite(sprite.name).last_running_at is not None
    finally:
        sprite.delete()


def test_a_taken_name_is_a_409_that_says_so(client, sprite):
    with pytest.raises(SpriteError, match=r"\(status 409\).*already exists"):
        client.create_sprite(sprite.name)


def test_an_invalid_name_is_refused(client):
    with pytest.raises(SpriteError, match=r"\(status 4(00|22)\)"):
        client.create_sprite("Not_A_Name")


def test_lists_page_through_everything_in_order(client):
    prefix = new_name("page")
    names = [f"{prefix}-{i}" for i in range(3)]
    for name in names:
        client.create_sprite(name)
    try:
        page = client.list_sprites(ListOptions(prefix=prefix, max_results=2))
        assert [s.name for s in page.sprites] == names[:2]
        assert page.has_more and page.next_continuation_token
        token = page.next_continuation_token
        rest = client.list_sprites(
            ListOptions(prefix=prefix, max_results=2, continuation_token=token)
        )
        assert [s.name for s in rest.sprites] == names[2:]
        assert not rest.has_more
        assert [s.name for s in client.list_all_sprites(prefix=prefix)] == names
        assert client.list_all_sprites(prefix=f"{prefix}-none") == []
        assert page.running + page.warm + page.cold >= 3
        client.list_sprites(ListOptions(bulk_load=True))
    finally:
        for name in names:
            client.destroy_sprite(name)


def test_update_changes_only_what_it_names(client, new_sprite):
    name = new_sprite(labels=["x"]).name
    sprite = client.sprite(name)
    updated = sprite.update(labels=["y", "z"])
    assert updated.labels == ["y", "z"]
    assert updated.url_settings.auth == "sprite"
    updated = sprite.update(url_settings=URLSettings(auth="public"))
    assert (updated.labels, updated.url_settings.auth) == (["y", "z"], "public")
    sprite.update_url_settings(URLSettings(auth="sprite", private_access="org_users"))
    assert client.get_sprite(name).url_settings == URLSettings("sprite", "org_users")
    assert client.update_sprite(name, labels=[]).labels == []
    with pytest.raises(SpriteError, match=r"\(status 400\)"):
        sprite.update(url_settings=URLSettings(auth="everybody"))


def test_delete_frees_the_name_at_once(client):
    name = new_name()
    first = client.create_sprite(name)
    client.delete_sprite(name)
    with pytest.raises(NotFoundError):
        client.get_sprite(name)
    second = client.create_sprite(name)
    assert second.id != first.id
    second.destroy()
    with pytest.raises(NotFoundError):
        second.destroy()


def test_upgrade_is_answered(client, sdk):
    sdk.upgrade()
    with pytest.raises(NotFoundError):
        client.upgrade_sprite(new_name())


def test_a_wrong_token_is_an_authentication_error(server, sprite):
    with sprites.SpritesClient("no/such/token/here", base_url=server.url) as client:
        with pytest.raises(AuthenticationError):
            client.get_sprite(sprite.name)
        with pytest.raises(AuthenticationError):
            client.list_sprites()
        with pytest.raises(APIError) as caught:
            client.sprite(sprite.name).run("true")
        assert caught.value.status_code == 401


def test_a_foreign_sprite_is_not_found(foreign, server, sprite):
    with sprites.SpritesClient(foreign.token, base_url=server.url) as client:
        with pytest.raises(NotFoundError):
            client.get_sprite(sprite.name)
        assert sprite.name not in [s.name for s in client.list_all_sprites()]
        with pytest.raises(APIError) as caught:
            client.sprite(sprite.name).run("true")
        assert caught.value.status_code == 404


# Commands


def test_output_is_returned(sdk):
    assert sdk.command("echo", "hello world").output() == b"hello world\n"


def test_run_mirrors_subprocess(sdk):
    done = sdk.run("sh", "-c", "echo out; echo err >&2; exit 3", capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (3, b"out\n", b"err\n")
    assert sdk.run("true").returncode == 0
    with pytest.raises(ExecError) as caught:
        sdk.run("sh", "-c", "echo partial; exit 42", capture_output=True, check=True)
    assert caught.value.exit_code() == 42
    assert caught.value.stdout == b"partial\n"


def test_combined_output_holds_both_streams(sdk):
    combined = sdk.command("sh", "-c", "echo out; echo err >&2").combined_output()
    assert sorted(combined.split()) == [b"err", b"out"]


def test_streams_go_to_files(sdk):
    out, err = io.BytesIO(), io.BytesIO()
    sdk.command("sh", "-c", "echo o; echo e >&2", stdout=out, stderr=err).run()
    assert (out.getvalue(), err.getvalue()) == (b"o\n", b"e\n")


def test_input_arrives_and_ends(sdk):
    payload = bytes(range(256)) * 4096
    command = sdk.command("cat", stdin=io.BytesIO(payload))
    assert command.output() == payload
    # Without input there is end of file, not a hang.
    assert sdk.command("cat").output() == b""


def test_environment_is_merged_over_the_defaults(sdk):
    output = sdk.command("env", env={"A": "1", "B": "two words=x"}).output().decode()
    lines = output.splitlines()
    assert "A=1" in lines and "B=two words=x" in lines
    assert any(line.startswith("HOME=/") for line in lines)
    assert any(line.startswith("PATH=/") for line in lines)


def test_the_working_directory_is_the_home_or_what_was_asked_for(sdk, home):
    assert sdk.command("pwd").output().decode() == f"{home}\n"
    assert sdk.command("pwd", cwd="/tmp").output() == b"/tmp\n"
    with pytest.raises(ExecError) as caught:
        sdk.command("pwd", cwd="/no/such/folder").output()
    assert caught.value.exit_code() == 1


def test_a_terminal_has_the_size_asked_for(sdk):
    output = sdk.command("sh", "-c", "tty && stty size", tty=True, tty_rows=31, tty_cols=99).output()
    assert output.startswith(b"/dev/pts/")
    assert output.endswith(b"31 99\r\n")
    with pytest.raises(ExecError) as caught:
        sdk.command("sh", "-c", "exit 7", tty=True).run()
    assert caught.value.exit_code() == 7
    with pytest.raises(ExecError) as caught:
        sdk.command("tty").output()
    assert (caught.value.exit_code(), caught.value.stdout) == (1, b"not a tty\n")


def test_start_failures_are_told_as_a_shell_does(sdk, folder):
    with pytest.raises(ExecError) as caught:
        sdk.command("no-such-command-anywhere").run()
    assert caught.value.exit_code() == 127
    assert b"no-such-command-anywhere" in caught.value.stderr
    sdk.run("sh", "-c", f"echo hello > {folder}/plain")
    with pytest.raises(ExecError) as caught:
        sdk.command(f"{folder}/plain").run()
    assert caught.value.exit_code() == 126


def test_a_command_that_is_killed_ends_with_128_and_the_signal(sdk):
    assert sdk.run("sh", "-c", "kill -KILL $$").returncode == 137
    assert sdk.run("sh", "-c", "kill -TERM $$").returncode == 143


def test_a_timeout_ends_the_wait(sdk):
    with pytest.raises(CommandTimeout):
        sdk.run("sleep", "30", timeout=1)
    # The command goes on for a moment, as for every client that leaves.
    for session in sdk.list_sessions():
        list(kill_session(sdk, session.id, signal="KILL"))


def test_a_daemon_does_not_keep_a_command(sdk):
    done = sdk.run("sh", "-c", "sleep 300 & echo $!", capture_output=True, timeout=20)
    pid = done.stdout.decode().strip()
    assert sdk.run("kill", pid).returncode == 0, "the daemon lives on until now"


def test_output_beyond_the_buffers_is_complete(sdk):
    output = sdk.command("sh", "-c", "seq 1 1000000").output()
    lines = output.split(b"\n")
    assert len(lines) == 1000001 and lines[999999] == b"1000000"


def test_a_long_argument_works_and_one_too_long_is_126(sdk):
    argument = "x" * (60 * 1024)
    assert sdk.command("printf", "%s", argument).output() == argument.encode()
    with pytest.raises(ExecError) as caught:
        sdk.command("printf", "%s", "x" * (200 * 1024)).output()
    assert caught.value.exit_code() == 126
    assert caught.value.stderr


def test_commands_run_side_by_side(sdk):
    results = {}

    def run(i):
        results[i] = sdk.command("sh", "-c", f"echo {i}").output()

    threads = [threading.Thread(target=run, args=(i,)) for i in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(40)
    assert results == {i: f"{i}\n".encode() for i in range(20)}


def test_control_mode_falls_back_to_direct_sockets(server, sprite):
    with sprites.SpritesClient(server.token, base_url=server.url, control_mode=True) as client:
        handle = client.sprite(sprite.name)
        assert handle.run("echo", "hi", capture_output=True).stdout == b"hi\n"
        assert handle.run("sh", "-c", "exit 5").returncode == 5
        assert not handle.use_control_mode(), "the refusal is remembered"


# Sessions


def start_session(sprite, *command, **params):
    socket = sprite.socket(*command, **params)
    return socket, socket.info["session_id"]


def test_sessions_are_listed_and_attached_to(sdk, sprite):
    # The SDK ends the input of whatever it attaches to, which types Ctrl-D on a terminal.
    script = "echo ready; until read line; do :; done; echo got $line; exit 9"
    command = ["bash", "-c", script]
    socket, session_id = start_session(sprite, *command, tty=True, detachable=True)
    socket.read_until("ready")
    socket.vanish()
    for listed in (sdk.list_sessions(), list_sessions(sdk)):
        (session,) = [s for s in listed if s.id == session_id]
        assert session.tty and "read line" in session.command
        assert session.workdir and session.created.tzinfo
    output, ended = io.BytesIO(), []
    attached = sdk.attach_session(session_id, timeout=30)
    attached.stdout = output

    def follow():
        with pytest.raises(ExecError):
            attached.run()
        ended.append(attached.exit_code)

    follower = threading.Thread(target=follow)
    follower.start()
    eventually("the SDK has what was printed before", lambda: b"ready" in output.getvalue())
    # The SDK has no input for attached commands, so another client types.
    with sprite.attach(session_id) as typist:
        typist.read_until("ready")
        typist.write(b"words\r")
        follower.join(30)
    assert ended == [9]
    assert b"got words" in output.getvalue()
    assert session_id not in [s.id for s in sdk.list_sessions()]


def test_attaching_to_nothing_is_a_404(sdk):
    with pytest.raises(APIError) as caught:
        sdk.attach_session("99999999").run()
    assert caught.value.status_code == 404


def test_a_session_is_killed_in_order(sdk, sprite):
    socket, session_id = start_session(sprite, "sleep", "300", detachable=True)
    with kill_session(sdk, session_id, signal="SIGTERM", timeout=5) as stream:
        assert [message.type for message in stream] == ["signal", "exited", "complete"]
    assert session_id not in [s.id for s in sdk.list_sessions()]
    with pytest.raises(APIError) as caught:
        kill_session(sdk, session_id)
    assert caught.value.status_code in (404, 410)
    socket.vanish()


def test_a_session_that_ignores_the_signal_is_killed(sdk, sprite):
    script = "trap '' TERM; echo ready; while :; do sleep 1; done"
    socket, session_id = start_session(sprite, "bash", "-c", script, detachable=True)
    socket.read_until("ready")
    stream = kill_session(sdk, session_id, timeout=1)
    types = [message.type for message in stream]
    assert types == ["signal", "timeout", "signal", "killed", "complete"]
    socket.vanish()


# Files


def test_files_are_written_and_read_back(files):
    path = files / "dir/deep/note.txt"
    path.write_text("grüße\n")
    assert path.read_text() == "grüße\n"
    assert path.exists() and path.is_file() and not path.is_dir()
    data = bytes(range(256)) * 1000
    (files / "blob").write_bytes(data, mode=0o600)
    assert (files / "blob").read_bytes() == data
    (files / "empty").write_bytes(b"")
    assert (files / "empty").read_bytes() == b""


def test_stat_describes_a_file(files):
    path = files / "tool"
    path.write_bytes(b"12345", mode=0o755)
    stat = path.stat()
    assert (stat.name, stat.size, stat.mode, stat.is_dir) == ("tool", 5, "0755", False)
    assert stat.path == str(path) and stat.mod_time.tzinfo
    assert not (files / "nothing").exists()


def test_folders_are_made_listed_and_removed(files):
    (files / "one").mkdir()
    (files / "a/b/c").mkdir(parents=True)
    (files / "one").mkdir(exist_ok=True)
    (files / "one/x").write_text("x")
    (files / "one/.hidden").write_text("h")
    assert (files / "one").listdir() == [".hidden", "x"]
    assert sorted(files.cwd.listdir()) == ["a", "one"]
    assert [p.name for p in (files / "a").iterdir()] == ["b"]
    with pytest.raises(sprites.DirectoryNotEmptyError):
        (files / "one").rmdir()
    (files / "a/b/c").rmdir()
    (files / "one").rmtree()
    assert files.cwd.listdir() == ["a"]
    with pytest.raises(sprites.FileNotFoundError_):
        (files / "no/parent/here").mkdir()


def test_files_are_renamed_copied_and_removed(files):
    (files / "a").write_text("A")
    moved = (files / "a").rename("b")
    assert moved.read_text() == "A" and not (files / "a").exists()
    (files / "c").write_text("C")
    moved.replace(files / "c")
    assert (files / "c").read_text() == "A"
    (files / "c").copy_to(files / "new/d")
    assert (files / "new/d").read_text() == "A"
    (files / "new").copy_to(files / "newer")
    assert (files / "newer/d").read_text() == "A"
    (files / "c").unlink()
    (files / "c").unlink(missing_ok=True)
    with pytest.raises(sprites.FileNotFoundError_):
        (files / "c").unlink()


def test_modes_change_and_touch_makes_files(files, sdk):
    path = files / "script"
    path.write_text("#!/bin/sh\necho ran\n")
    path.chmod(0o755)
    assert path.stat().mode == "0755"
    assert sdk.command(str(path)).output() == b"ran\n"
    (files / "t").touch()
    assert (files / "t").read_bytes() == b""
    path.touch()
    assert path.read_text().endswith("echo ran\n")
    with pytest.raises(sprites.FilesystemError):
        path.touch(exist_ok=False)


def test_file_errors_have_their_own_types(files):
    (files / "file").write_text("x")
    (files / "folder").mkdir()
    with pytest.raises(sprites.FileNotFoundError_):
        (files / "missing").read_bytes()
    with pytest.raises(sprites.IsADirectoryError_):
        (files / "folder").read_bytes()
    with pytest.raises(sprites.NotADirectoryError_):
        (files / "file/below").read_bytes()


@pytest.mark.real
def test_forbidden_files_are_permission_errors(sdk, sprite):
    sprite.root("install -m 600 /dev/null /etc/only-root")
    with pytest.raises(sprites.PermissionError_):
        (sdk.filesystem() / "etc/only-root").read_bytes()


def test_exec_and_files_see_one_file_system(sdk, files):
    (files / "from-api").write_text("api")
    assert sdk.command("cat", str(files / "from-api")).output() == b"api"
    sdk.run("sh", "-c", f"echo exec > {files / 'from-exec'}")
    assert (files / "from-exec").read_text() == "exec\n"


# Not there yet: said, not guessed.


def test_what_is_not_there_yet_says_so(sdk):
    calls = (
        sdk.list_checkpoints,
        sdk.list_services,
        sdk.get_network_policy,
        lambda: list(sdk.create_checkpoint()),
        lambda: list(sdk.create_service("web", "true")),
    )
    for call in calls:
        with pytest.raises(SpriteError, match="501|not offer"):
            call()


# The same, asynchronous.


def test_the_asynchronous_client_does_the_same(server, sprite, folder):
    async def run():
        async with sprites.AsyncSpritesClient(server.token, base_url=server.url) as client:
            handle = await client.get_sprite(sprite.name)
            assert handle.name == sprite.name
            names = [s.name for s in await client.list_all_sprites()]
            assert sprite.name in names
            done = await handle.run("sh", "-c", "echo hi; exit 4", capture_output=True)
            assert (done.returncode, done.stdout) == (4, b"hi\n")
            outputs = await asyncio.gather(
                *(handle.command("echo", str(i)).output() for i in range(10))
            )
            assert outputs == [f"{i}\n".encode() for i in range(10)]
            path = handle.filesystem(folder) / "async.txt"
            await path.write_text("text")
            assert await path.read_text() == "text"
            assert (await path.stat()).size == 4
            await path.unlink()
            assert not await path.exists()
            assert await handle.list_sessions() == []
            made = await client.create_sprite(new_name(), labels=["l"])
            assert made.labels == ["l"]
            assert (await made.update(labels=["m"])).labels == ["m"]
            await made.destroy()

    asyncio.run(run())
