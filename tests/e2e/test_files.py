"""The filesystem API: its answers, its errors, and every trick to make it touch what it should
not."""

import hashlib
import json
import os
import time

import httpx
import pytest

from harness import raw
from harness.api import new_name
from harness.wait import eventually
from test_contract_http import TIMESTAMP


@pytest.fixture
def files(sprite, folder):
    return Files(sprite, folder)


class Files:
    """Calls with `folder` as the working directory."""

    def __init__(self, sprite, folder):
        self.sprite = sprite
        self.folder = folder

    def get(self, call, path, headers=None, **params):
        params = {"path": path, "workingDir": self.folder, **params}
        return self.sprite.fs("GET", call, params=params, headers=headers)

    def read(self, path, **options):
        return self.get("read", path, **options)

    def list(self, path, **options):
        return self.get("list", path, **options)

    def names(self, path=".", **options):
        answer = self.list(path, **options)
        assert answer.status_code == 200, answer.text
        return [entry["name"] for entry in answer.json()["entries"]]

    def write(self, path, content=b"", **params):
        params = {"path": path, "workingDir": self.folder, **params}
        return self.sprite.fs("PUT", "write", params=params, content=content)

    def delete(self, path, **params):
        params = {"path": path, "workingDir": self.folder, **params}
        return self.sprite.fs("DELETE", "delete", params=params)

    def post(self, call, **body):
        return self.sprite.fs("POST", call, json={"workingDir": self.folder, **body})

    def sh(self, script):
        return self.sprite.sh(f"cd {self.folder} && {script}")


def error(answer, status, code, text=""):
    assert answer.status_code == status, f"{answer.status_code}: {answer.text}"
    assert answer.headers["content-type"].startswith("application/json")
    body = answer.json()
    assert body["code"] == code and isinstance(body["path"], str)
    assert text in body["error"].lower()
    return body


# Reading and writing


def test_contents_come_back_as_they_were_written(files):
    content = os.urandom(200_000)
    answer = files.write("a", content)
    assert answer.status_code in (200, 201)
    assert answer.json() == {"path": f"{files.folder}/a", "size": 200_000, "mode": "0644"}
    answer = files.read("a")
    assert answer.status_code == 200 and answer.content == content
    assert answer.headers["content-type"] == "application/octet-stream"
    assert files.read("empty-not-there").status_code == 404
    files.write("empty")
    assert files.read("empty").content == b""


def test_a_write_replaces_and_sets_the_mode(files):
    files.write("a", b"a long first version")
    assert files.write("a", b"second", mode="0600").json()["mode"] == "0600"
    assert files.read("a").content == b"second"
    assert files.sh("stat -c %a a").strip() == "600"
    for mode, result in (("644", "644"), ("0755", "755"), ("777", "777"), ("4755", "4755")):
        assert files.write("m", b"", mode=mode).status_code == 200
        assert files.sh("stat -c %a m").strip() == result
    for mode in ("9", "abc", "-1", "77777", "0x1", "888"):
        error(files.write("m", b"", mode=mode), 400, "EINVAL")


def test_new_files_belong_to_the_user(files, is_real):
    files.write("d/e/f", b"", mkdirParents="true")
    owners = files.sh("stat -c %U:%G d d/e d/e/f").split()
    assert len(set(owners)) == 1
    if is_real:
        assert owners[0] == "sprite:sprite"
    assert files.sh("stat -c %a d").strip() == "755"


def test_missing_parents_are_made_only_when_asked_for(files):
    error(files.write("no/file", b"x"), 404, "ENOENT", "no such file or directory")
    error(files.write("no/file", b"x", mkdirParents="false"), 404, "ENOENT")
    assert files.write("yes/file", b"x", mkdirParents="true").status_code == 200
    assert files.write("old/file", b"x", mkdir="true").status_code == 200


def test_keep_makes_one_missing_folder(files):
    """The SDKs make a folder by writing `.keep` into it, without asking for parents."""
    assert files.write("new/.keep", b"").status_code == 200
    assert files.delete("new/.keep").status_code == 200
    assert files.names("new") == []
    error(files.write("two/levels/.keep", b""), 404, "ENOENT")
    error(files.write("other/.keep", b"content"), 404, "ENOENT")
    error(files.write("other/keep", b""), 404, "ENOENT")
    assert files.names() == ["new"]


def test_links_are_followed_and_kept(files):
    files.write("target", b"old")
    files.sh("ln -s target link; ln -s $PWD/target absolute; ln -s nowhere dangling; ln -s loop loop")
    assert files.write("link", b"new").status_code == 200
    assert files.read("target").content == files.read("absolute").content == b"new"
    assert files.sh("readlink link").strip() == "target"
    error(files.read("dangling"), 404, "ENOENT")
    assert files.read("loop").status_code in (400, 404)


def test_ranges_give_what_exists(files):
    files.write("digits", b"0123456789")
    for header, status, content in (
        ("bytes=0-3", 206, b"0123"),
        ("bytes=0-1000", 206, b"0123456789"),
        ("bytes=5-", 206, b"56789"),
        ("bytes=-3", 206, b"789"),
        ("bytes=9-9", 206, b"9"),
    ):
        answer = files.read("digits", headers={"Range": header})
        assert (answer.status_code, answer.content) == (status, content), header
        assert answer.headers["content-range"].startswith("bytes ")
    for header in ("bytes=abc", "lines=1-2", "bytes=5-2", ""):
        answer = files.read("digits", headers={"Range": header})
        assert (answer.status_code, answer.content) == (200, b"0123456789"), header
    assert files.read("digits", headers={"Range": "bytes=100-"}).status_code in (200, 416)
    files.write("empty")
    answer = files.read("empty", headers={"Range": "bytes=0-99"})
    assert (answer.status_code, answer.content) == (200, b"")
    assert files.read("digits", start="2", end="5").content == b"234"
    assert files.read("digits", start="7").content == b"789"
    assert files.read("digits", end="3").content == b"012"
    for bad in ({"start": "x"}, {"start": "-1"}, {"end": "1e9"}):
        error(files.read("digits", **bad), 400, "EINVAL")


def test_a_folder_cannot_be_read(files):
    files.sh("mkdir d")
    body = error(files.read("d"), 400, "EISDIR", "is a directory")
    assert "directory" in body["error"] and body["path"] == f"{files.folder}/d"
    error(files.read("/"), 400, "EISDIR")
    error(files.write("d", b"x"), 400, "EISDIR")


def test_paths_resolve_against_the_working_directory(files):
    files.write("sub/x", b"x", mkdirParents="true")
    for path in ("sub/x", "./sub/x", "sub/../sub/./x", "sub//x", f"{files.folder}/sub/x", "sub/x/"):
        if path.endswith("/"):
            assert files.read(path).status_code in (200, 400)
        else:
            assert files.read(path).content == b"x", path
    # Without one it is the root.
    answer = files.sprite.fs("GET", "list", params={"path": "tmp"})
    assert answer.json()["path"] == "/tmp"
    answer = files.sprite.fs("GET", "list", params={"path": ".", "workingDir": files.folder})
    assert answer.json()["path"] == files.folder


def test_names_may_hold_anything(files):
    names = ["a b", "ü", "a+b&c=d%20", "quote\"'`", "tab\tnew\nline", "-rf", "*", "$(id)", "\\", "x" * 255, "\u202e", "🙂"]
    for name in names:
        assert files.write(name, name.encode()).status_code == 200, name
        assert files.read(name).content == name.encode()
    assert sorted(files.names()) == sorted(names)
    for name in names:
        assert files.delete(name).json()["count"] == 1


def test_names_that_are_no_text_do_not_break_a_list(files):
    files.sh(r"touch $'bad\xff\xfename' good")
    answer = files.list(".")
    assert answer.status_code == 200
    assert "good" in [entry["name"] for entry in answer.json()["entries"]]


# Listing


def test_a_list_holds_the_children_in_order(files):
    files.sh("mkdir d; echo abc > b; touch .hidden a; chmod 600 a; ln -s b link; touch B")
    body = files.list(".").json()
    assert body["path"] == files.folder
    assert [e["name"] for e in body["entries"]] == [".hidden", "B", "a", "b", "d", "link"]
    assert body["count"] == 6
    by_name = {e["name"]: e for e in body["entries"]}
    assert by_name["b"] == by_name["b"] | {
        "path": f"{files.folder}/b", "type": "file", "size": 4, "mode": "0644", "isDir": False,
    }
    assert by_name["a"]["mode"] == "0600"
    assert (by_name["d"]["type"], by_name["d"]["isDir"]) == ("directory", True)
    assert (by_name["link"]["type"], by_name["link"]["isDir"]) == ("symlink", False)
    assert all(TIMESTAMP.fullmatch(e["modTime"]) for e in body["entries"])


def test_a_file_lists_itself(files):
    files.write("f", b"12345", mode="0755")
    body = files.list("f").json()
    assert body["count"] == 1
    (entry,) = body["entries"]
    assert (entry["name"], entry["path"], entry["size"]) == ("f", f"{files.folder}/f", 5)
    assert entry["isDir"] is False


def test_empty_missing_and_wrong_lists(files):
    files.sh("mkdir empty; touch f")
    assert files.list("empty").json() == {"path": f"{files.folder}/empty", "count": 0, "entries": []}
    error(files.list("missing"), 404, "ENOENT")
    error(files.list("f/x"), 400, "ENOTDIR", "not a directory")


def test_lists_go_deep_and_match_patterns(files):
    files.sh("mkdir -p a/b c; touch a/1.txt a/b/2.txt c/3.py 0.txt")
    entries = files.list(".", recursive="true").json()["entries"]
    paths = [e["path"].removeprefix(f"{files.folder}/") for e in entries]
    assert paths == ["0.txt", "a", "a/1.txt", "a/b", "a/b/2.txt", "c", "c/3.py"]
    assert [e["name"] for e in entries][2] == "1.txt"
    assert files.names(recursive="true", pattern="*.txt") == ["0.txt", "1.txt", "2.txt"]
    assert files.names(pattern="[ac]") == ["a", "c"]
    assert files.names(pattern="nothing*") == []
    assert files.list(".", pattern="[" * 1000 + "*" * 1000).status_code in (200, 400)


def test_a_list_does_not_follow_links_down(files):
    files.sh("mkdir d; ln -s .. d/up; ln -s / d/root")
    assert files.names("d", recursive="true") == ["root", "up"]
    assert files.list("d/up").json()["path"] == f"{files.folder}/d/up"


def test_large_lists_are_whole(files):
    files.sh("mkdir many; cd many; seq 20000 | xargs touch")
    body = files.list("many").json()
    assert body["count"] == 20000 == len(body["entries"])
    assert files.delete("many", recursive="true").json()["count"] >= 1


# Changing


def test_delete_says_what_it_deleted(files):
    files.sh("touch f; mkdir -p d/e; touch d/x; ln -s d link")
    answer = files.delete("f")
    assert answer.status_code == 200
    assert answer.json() == {"deleted": [f"{files.folder}/f"], "count": 1}
    error(files.delete("f"), 404, "ENOENT")
    answer = files.delete("d")
    assert answer.status_code in (400, 409)
    assert answer.json()["code"] == "ENOTEMPTY" and "not empty" in answer.json()["error"]
    # The link goes, not what it points to.
    assert files.delete("link", recursive="true").json()["count"] == 1
    assert files.names("d") == ["e", "x"]
    body = {"path": "d", "workingDir": files.folder, "recursive": True}
    answer = files.sprite.fs("DELETE", "delete", content=json.dumps(body))
    assert answer.status_code == 200 and files.names() == []


def test_what_must_not_be_deleted_is_not(files):
    for path in ("/", "/proc", "/..", "//"):
        answer = files.delete(path)
        assert answer.status_code >= 400, path
    assert files.sh("echo alive") == "alive\n"


def test_rename_moves_and_replaces(files):
    files.sh("echo a > a; echo b > b; mkdir d")
    answer = files.post("rename", source="a", dest="b")
    assert answer.status_code == 200
    assert answer.json() == {"source": f"{files.folder}/a", "dest": f"{files.folder}/b"}
    assert files.read("b").content == b"a\n"
    assert files.post("rename", source="b", dest="d/c").status_code == 200
    assert files.post("rename", source="d", dest="e").status_code == 200
    assert files.read("e/c").content == b"a\n"
    error(files.post("rename", source="missing", dest="x"), 404, "ENOENT")
    error(files.post("rename", source="e/c", dest="no/where"), 404, "ENOENT")
    assert files.post("rename", source="e", dest="e/inside").status_code == 400


def test_rename_moves_between_file_systems(files):
    """The temp folder or shared memory may be another file system; SDK users do not care."""
    files.write("a", b"content")
    target = f"/dev/shm/{new_name()}"
    assert files.post("rename", source="a", dest=target).status_code == 200
    assert files.sprite.read(target) == b"content"
    assert files.post("rename", source=target, dest="b").status_code == 200
    assert files.read("b").content == b"content"


def test_copy_copies_files_and_folders(files):
    files.sh("mkdir -p d/e; echo 1 > d/1; echo 2 > d/e/2; chmod 700 d/1; ln -s 1 d/link")
    body = files.post("copy", source="d/1", dest="f").json()
    assert body["count"] == 1 and body["totalBytes"] == 2
    assert body["copied"] == [{"source": f"{files.folder}/d/1", "dest": f"{files.folder}/f"}]
    error(files.post("copy", source="d", dest="g"), 400, "EISDIR")
    assert files.post("copy", source="d", dest="g", recursive=True).status_code == 200
    assert files.names("g", recursive="true") == ["1", "e", "2", "link"]
    assert files.post("copy", source="f", dest="new/deep/f").status_code == 200
    assert files.read("new/deep/f").content == b"1\n"
    files.sh("touch -d 2001-02-03 d/1")
    assert files.post("copy", source="d/1", dest="p", preserveAttrs=True).status_code == 200
    assert files.sh("stat -c '%a %Y' d/1") == files.sh("stat -c '%a %Y' p")
    error(files.post("copy", source="missing", dest="x"), 404, "ENOENT")
    answer = files.post("copy", source="d", dest="d/inside", recursive=True)
    assert answer.status_code == 400, answer.text
    assert files.post("copy", source="f", dest="f").status_code in (200, 400, 409)
    assert files.read("f").content == b"1\n", "a copy onto itself empties nothing"


def test_chmod_takes_text_and_numbers(files):
    files.sh("mkdir -p d/e; touch d/f")
    body = files.post("chmod", path="d/f", mode="0755").json()
    assert body == {"affected": [{"path": f"{files.folder}/d/f", "mode": "0755"}], "count": 1}
    # The Elixir SDK sends the mode as a number, which JSON writes in decimals.
    assert files.post("chmod", path="d/f", mode=493).json()["affected"][0]["mode"] == "0755"
    body = files.post("chmod", path="d", mode="700", recursive=True).json()
    assert body["count"] == 3
    assert files.sh("stat -c %a d d/e d/f").split() == ["700"] * 3
    for mode in ("9", "", None, "rwx", -1, 99999):
        assert files.post("chmod", path="d/f", mode=mode).status_code == 400
    error(files.post("chmod", path="missing", mode="644"), 404, "ENOENT")


@pytest.mark.real
def test_chown_needs_root_and_takes_names(files):
    files.sh("mkdir -p d; touch d/f")
    body = files.post("chown", path="d", uid=0, gid="root", recursive=True, asRoot=True).json()
    assert body["count"] == 2
    assert {"path": f"{files.folder}/d", "uid": 0, "gid": 0} in body["affected"]
    assert files.sh("stat -c %U:%G d d/f").split() == ["root:root"] * 2
    error(files.post("chown", path="d", uid="sprite"), 403, "EPERM")
    assert files.post("chown", path="d", uid="sprite", gid=1001, recursive=True, asRoot=True).status_code == 200
    assert files.post("chown", path="d", uid="no-such-user", asRoot=True).status_code == 400
    assert files.post("chown", path="d", uid=99_999_999, asRoot=True).status_code in (400, 403)


@pytest.mark.parametrize("call", ["rename", "copy", "chmod", "chown"])
def test_bad_bodies_are_refused(sprite, call):
    for body in (b"", b"{", b"[]", b"null", b"{}", b'{"path":5,"source":5,"dest":5}', b"\xff"):
        answer = sprite.fs("POST", call, content=body)
        assert answer.status_code == 400, (body, answer.text)
        assert answer.json()["error"]


@pytest.mark.parametrize("call", [("GET", "read"), ("PUT", "write"), ("GET", "list"), ("DELETE", "delete")])
def test_missing_and_absurd_paths_are_refused(sprite, call):
    method, name = call
    for params in ({}, {"path": ""}, {"path": "a\0b"}, {"path": "/" + "x" * 300}, {"path": "/" + "x/" * 3000},
                   {"path": "x" * 60_000}, {"path": "a", "workingDir": "relative"}, {"path": "a", "workingDir": "\0"}):
        answer = sprite.fs(method, name, params=params)
        assert answer.status_code in (400, 404), (str(params)[:60], answer.status_code, answer.text[:200])
        assert answer.json()["error"]


# As root, and not as root


@pytest.mark.real
def test_top_level_folders_are_open_to_the_user(sprite):
    """Clients make a workspace at the root, and write below `/opt`, `/srv` and `/mnt`."""
    for path in ("/workspace/a", "/opt/tool/a", "/srv/data/a", "/mnt/x/a", "/root/note", "/tmp/a"):
        sprite.write(path, b"x", mkdirParents="true")
        assert sprite.read(path) == b"x"
        assert sprite.sh(f"stat -c %U {path}").strip() == "sprite"


@pytest.mark.real
def test_the_user_cannot_touch_the_system_and_root_can(sprite):
    for path in ("/etc/new-file", "/usr/bin/new-tool"):
        answer = sprite.fs("PUT", "write", params={"path": path}, content=b"x")
        error(answer, 403, "EACCES", "permission denied")
        sprite.write(path, b"#!/bin/sh\necho ran\n", mode="0755", asRoot="true")
        assert sprite.sh(f"stat -c %U:%a {path}").strip() == "root:755"
        error(sprite.fs("DELETE", "delete", params={"path": path}), 403, "EACCES")
        assert sprite.fs("DELETE", "delete", params={"path": path, "asRoot": "true"}).status_code == 200
    error(sprite.fs("GET", "read", params={"path": "/etc/shadow"}), 403, "EACCES")


@pytest.mark.real
def test_temporary_file_systems_are_seen(sprite):
    """Uploads go to the temp folder and are unpacked from there by a command."""
    for path in ("/tmp/via-api", "/dev/shm/via-api", "/run/user-file"):
        params = {"asRoot": "true"} if path.startswith("/run") else {}
        sprite.write(path, b"seen", **params)
        assert sprite.sh(f"cat {path}") == "seen"
    sprite.sh("echo made > /dev/shm/by-command")
    assert sprite.read("/dev/shm/by-command") == b"made\n"


# Tricks


@pytest.mark.real
@pytest.mark.parametrize(
    "path",
    ["/proc/1/root/etc/hostname", "/proc/self/root/etc/hostname", "/proc/self/cwd/etc/hostname", "/../../../etc/hostname",
     "/proc/thread-self/root/etc/hostname"],
)
def test_every_way_up_ends_at_the_sprites_own_root(sprite, path):
    hostname = sprite.sh("cat /etc/hostname")
    answer = sprite.fs("GET", "read", params={"path": path, "asRoot": "true"})
    assert answer.status_code >= 400 or answer.text == hostname
    with open("/etc/hostname") as ours:
        assert answer.text != ours.read() or hostname == answer.text


@pytest.mark.real
def test_links_out_lead_into_the_sprite(sprite, server):
    """A file of the host's at a place that the sprite does not have."""
    host_file = f"/tmp/sprites-e2e-{new_name()}"
    with open(host_file, "w") as file:
        file.write("of the host")
    try:
        sprite.sh(f"cd /tmp; ln -sf {host_file} out; ln -sf ../../../../../..{host_file} up; mkdir -p hole; ln -sfn / hole/root")
        for path in (host_file, "/tmp/out", "/tmp/up", f"/tmp/hole/root{host_file}", f"/proc/1/root{host_file}",
                     f"/proc/{os.getpid()}/root{host_file}", f"/proc/{server.pid}/root{host_file}"):
            for params in ({}, {"asRoot": "true"}):
                answer = sprite.fs("GET", "read", params={"path": path, **params})
                assert answer.status_code >= 400, (path, answer.text)
        # And what is written through such a link stays inside.
        sprite.write("/tmp/out", b"of the sprite")
        assert open(host_file).read() == "of the host"
        assert sprite.sh(f"cat {host_file}") == "of the sprite"
    finally:
        os.unlink(host_file)


@pytest.mark.real
def test_processes_of_the_host_are_not_in_proc(sprite):
    body = sprite.fs("GET", "list", params={"path": "/proc"}).json()
    pids = [int(e["name"]) for e in body["entries"] if e["name"].isdigit()]
    inside = [int(pid) for pid in sprite.sh("ls /proc").split() if pid.isdigit()]
    assert pids and max(pids) < max(inside) + 1000 and len(pids) < 50


def test_files_that_would_block_do_not(sprite, folder):
    sprite.sh(f"cd {folder}; mkfifo pipe; python3 -c \"import socket; socket.socket(socket.AF_UNIX).bind('sock')\"")
    started = time.monotonic()
    for name in ("pipe", "sock"):
        answer = sprite.fs("GET", "read", params={"path": f"{folder}/{name}"})
        assert answer.status_code >= 400
        answer = sprite.fs("PUT", "write", params={"path": f"{folder}/{name}"}, content=b"x")
        # Refused, or replaced by a file; never blocked.
        assert answer.status_code != 500
    assert time.monotonic() - started < 20
    assert sprite.fs("GET", "list", params={"path": folder}).status_code == 200


@pytest.mark.real
def test_devices_and_endless_files_are_not_read(sprite):
    for path in ("/dev/zero", "/dev/urandom", "/dev/tty", "/dev/stdin", "/dev/fuse", "/proc/kmsg"):
        with sprite.api.http.stream("GET", f"{sprite.path}/fs/read", params={"path": path, "asRoot": "true"}) as answer:
            assert answer.status_code >= 400, path
    # Files that claim to be empty are not.
    assert b"Linux version" in sprite.read("/proc/version")


@pytest.mark.real
def test_a_hanging_file_system_hangs_only_its_own_call(sprite):
    """A FUSE server that never answers. Whoever asks for its files waits, nobody else does."""
    script = """
import ctypes, os, time
fd = os.open('/dev/fuse', os.O_RDWR)
os.makedirs('/tmp/hang', exist_ok=True)
options = f'fd={fd},rootmode=40000,user_id=0,group_id=0,allow_other'.encode()
libc = ctypes.CDLL(None, use_errno=True)
assert libc.mount(b'hang', b'/tmp/hang', b'fuse', 0, options) == 0, os.strerror(ctypes.get_errno())
print('mounted', flush=True)
time.sleep(300)
"""
    with sprite.socket("sudo", "-n", "python3", "-c", script) as socket:
        socket.read_until("mounted")
        with pytest.raises(httpx.TimeoutException):
            sprite.fs("GET", "read", params={"path": "/tmp/hang/x"}, timeout=2)
        assert sprite.read("/etc/hostname")
        sprite.write("/tmp/beside", b"fine")
        assert sprite.run("echo", "fine").text == "fine\n"
        sprite.call("POST", f"/exec/{socket.info['session_id']}/kill?signal=KILL")
    # Its server gone, the file system answers with an error.
    answer = sprite.fs("GET", "read", params={"path": "/tmp/hang/x"})
    assert answer.status_code >= 400
    sprite.root("umount -l /tmp/hang")


# Size


def test_large_files_stream_in_bounded_memory(server, sprite, folder):
    size = 96 << 20
    block = os.urandom(1 << 20)
    before = server.resident_kib()
    wrote, read = hashlib.sha256(), hashlib.sha256()

    def blocks():
        for i in range(size // len(block)):
            part = i.to_bytes(8, "big") + block[8:]
            wrote.update(part)
            yield part

    answer = sprite.fs("PUT", "write", params={"path": f"{folder}/large"}, content=blocks())
    assert answer.status_code == 200 and answer.json()["size"] == size
    with sprite.api.http.stream("GET", f"{sprite.path}/fs/read", params={"path": f"{folder}/large"}) as answer:
        assert int(answer.headers["content-length"]) == size
        for part in answer.iter_bytes(1 << 16):
            read.update(part)
    assert read.hexdigest() == wrote.hexdigest()
    assert sprite.sh(f"sha256sum {folder}/large").split()[0] == wrote.hexdigest()
    assert server.resident_kib() - before < 48 << 10


def test_an_upload_that_breaks_off_changes_nothing(server, sprite, folder):
    sprite.write(f"{folder}/kept", b"old")
    target = f"{sprite.path}/fs/write?path={folder}/kept"
    with raw.connect(server.url) as connection:
        connection.sendall(raw.head("PUT", target, server.token, "Content-Length: 10000000"))
        connection.sendall(b"x" * 5_000_000)
    with raw.connect(server.url) as connection:
        connection.sendall(raw.head("PUT", target, server.token, "Transfer-Encoding: chunked"))
        connection.sendall(b"5\r\nhello\r\nnot a size\r\n")
        raw.Reader(connection).answer()
    assert sprite.read(f"{folder}/kept") == b"old"
    eventually("no temporary file stays", lambda: sprite.sh(f"ls -A {folder}") == "kept\n", 20)


def test_a_download_that_nobody_takes_is_given_up(server, sprite, folder):
    sprite.sh(f"truncate -s 500M {folder}/big")
    for _ in range(5):
        connection = raw.connect(server.url)
        connection.sendall(raw.head("GET", f"{sprite.path}/fs/read?path={folder}/big", server.token))
        assert raw.Reader(connection).head()[0] == 200
        connection.close()
    assert sprite.read(f"{folder}/big", start="0", end="4") == b"\0\0\0\0"


def test_the_disk_of_a_sprite_fills_and_says_so(sprite, is_real):
    if not is_real:
        pytest.skip("would fill a file system of the host")
    sprite.root("mkdir -p /mnt/small && mount -t tmpfs -o size=1m tmpfs /mnt/small && chmod 777 /mnt/small")
    answer = sprite.fs("PUT", "write", params={"path": "/mnt/small/a"}, content=b"x" * (3 << 20))
    error(answer, 500, "ENOSPC", "no space")
    assert sprite.sh("ls -A /mnt/small") == ""
    sprite.root("umount -l /mnt/small")
