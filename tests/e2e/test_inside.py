"""What programs inside a sprite rely on: it feels like a Linux computer of one's own."""

import json
import re

import pytest

pytestmark = pytest.mark.real

PATH = "/.sprite/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


# The user


def test_commands_run_as_the_user_sprite(sprite):
    assert sprite.sh("id -u; id -g; id -un; id -gn").split() == ["1001", "1001", "sprite", "sprite"]
    assert {"sprite", "sudo", "users"} <= set(sprite.sh("id -Gn").split())
    home = sprite.sh("getent passwd sprite | cut -d: -f6,7").strip()
    assert home == "/home/sprite:/bin/bash"


def test_sudo_asks_for_no_password(sprite):
    assert sprite.sh("sudo -n id -u").strip() == "0"
    assert sprite.sh("sudo -n -u nobody id -un").strip() == "nobody"
    assert sprite.sh("sudo -n -i pwd").strip() == "/root"


def test_users_are_made_and_become_each_other(sprite):
    sprite.root("adduser --disabled-password --gecos '' bob >/dev/null 2>&1")
    assert sprite.root("su bob -c 'id -un'").strip() == "bob"
    assert sprite.root("su - bob -c 'pwd'").strip() == "/home/bob"
    sprite.root("su bob -c 'echo mine > /home/bob/file'; stat -c %U /home/bob/file | grep -qx bob")
    sprite.root("deluser bob >/dev/null 2>&1")


def test_files_may_belong_to_anybody(sprite):
    sprite.root("touch /tmp/owned; chown 1234:4321 /tmp/owned; [ $(stat -c %u:%g /tmp/owned) = 1234:4321 ]")
    sprite.root("chown 65535 /tmp/owned")
    assert sprite.run("sudo", "-n", "chown", "70000", "/tmp/owned").code != 0


def test_setuid_programs_work(sprite):
    # Not in the temp folder, which is a file system of its own without them.
    sprite.root("cp /usr/bin/id /opt/suid-id; chmod 4755 /opt/suid-id")
    assert sprite.sh("/opt/suid-id -u").strip() == "0"
    sprite.root("cp /usr/bin/id /opt/sgid-id; chgrp 42 /opt/sgid-id; chmod 2755 /opt/sgid-id")
    assert sprite.sh("/opt/sgid-id -g").strip() == "42"


def test_no_new_privileges_is_off(sprite):
    assert "NoNewPrivs:\t0" in sprite.sh("cat /proc/self/status")


@pytest.mark.parametrize("path", ["/workspace", "/opt/x/y", "/srv/x/y", "/mnt/x/y", "/root/x", "/home/other", "/x"])
def test_top_level_folders_are_made_without_sudo(sprite, path):
    assert sprite.sh(f"mkdir -p {path} && touch {path}/file && stat -c %U {path}/file").strip() == "sprite"


def test_system_folders_are_not_the_users(sprite):
    for path in ("/etc", "/usr/bin", "/usr/lib", "/var/lib", "/boot"):
        assert sprite.run("touch", f"{path}/x").code == 1, path


# Environment


def test_the_default_environment_is_the_contracts(sprite):
    lines = sprite.sh("env").splitlines()
    variables = dict(line.split("=", 1) for line in lines if "=" in line)
    expected = {"HOME": "/home/sprite", "USER": "sprite", "LOGNAME": "sprite", "SHELL": "/bin/bash", "PATH": PATH,
                "LANG": "en_US.UTF-8"}
    assert {k: variables.get(k) for k in expected} == expected
    assert variables["BROWSER"].endswith("sprite-browser")
    assert variables["SPRITE_URL"] == sprite.get()["url"]
    assert "TERM" not in variables
    bash_adds = {"PWD", "SHLVL", "_", "OLDPWD"}
    assert set(variables) <= set(expected) | {"BROWSER", "SPRITE_URL"} | bash_adds, "nothing of the host's leaks"


@pytest.mark.parametrize("shell", [["bash", "-c"], ["bash", "-lc"], ["sh", "-c"], ["sh", "-lc"], ["bash", "-lic"]])
def test_the_path_begins_with_the_sprites_own_programs(sprite, shell):
    done = sprite.run(*shell, 'echo "$PATH"')
    assert done.text.strip().startswith("/.sprite/bin:"), done.text
    assert "/usr/bin" in done.text and "/sbin" in done.text


def test_the_locale_exists(sprite):
    assert "en_US.utf8" in sprite.sh("locale -a")
    done = sprite.run("bash", "-c", "locale; echo grüße | wc -m; python3 -c 'print(\"ü\")'")
    assert done.errors == "" and "6\n" in done.text and "ü" in done.text


def test_limits_leave_room(sprite):
    assert int(sprite.sh("ulimit -n")) >= 1024
    assert int(sprite.sh("ulimit -Hn")) >= 4096


def test_the_temp_folder_is_everybodys(sprite):
    assert sprite.sh("stat -c %a /tmp").strip() == "1777"
    sprite.sh("echo x > $(mktemp) && mktemp -d > /dev/null && touch /dev/shm/x /run/lock/x 2>/dev/null || touch /dev/shm/x")
    assert sprite.sh("mountpoint -q /tmp && mountpoint -q /proc && echo yes").strip() == "yes"


def test_the_sprite_has_its_name(sprite):
    assert sprite.sh("hostname").strip() == sprite.name
    assert sprite.sh("cat /etc/hostname").strip() == sprite.name
    assert sprite.sh(f"getent hosts {sprite.name}").strip()
    assert sprite.sh("getent hosts localhost").strip()


def test_disk_and_kernel_look_like_a_machines(sprite):
    size_gib = int(sprite.sh("df --output=size -BG / | tail -1").strip().rstrip("G"))
    assert 90 <= size_gib <= 110
    assert sprite.sh("stat -f -c %T /").strip() == "ext2/ext3"
    assert "fuse" in sprite.sh("cat /proc/filesystems")
    assert sprite.sh("cat /proc/1/comm").strip()
    assert int(sprite.sh("nproc")) >= 1


def test_discards_give_space_back(sprite):
    assert "discard" in sprite.sh("findmnt -no OPTIONS /")


def test_everything_but_temporary_file_systems_survives_a_restart(new_sprite):
    sprite = new_sprite()
    sprite.sh("echo kept > ~/kept; sudo -n sh -c 'echo kept > /etc/kept; useradd -m carol'; echo gone > /tmp/gone")
    assert sprite.call("POST", "/restart").status_code == 200
    assert sprite.sh("cat ~/kept /etc/kept; id -un carol").split() == ["kept", "kept", "carol"]
    assert sprite.run("cat", "/tmp/gone").code == 1


# Programs


def test_clients_find_the_programs_they_need(sprite):
    programs = ("sh bash env mkdir rm mv cat base64 tar gzip mktemp printf test tee id stty tty mountpoint dig python3 pip uv "
                "node npm npx git curl wget unzip rsync sudo apt-get su adduser ping strace fusermount ip ps kill")
    done = sprite.run("bash", "-c", f"for p in {programs}; do command -v $p >/dev/null || echo $p; done")
    assert done.text == "", f"missing: {done.text}"


def test_languages_come_first_from_the_sprites_own_folder(sprite):
    for program in ("python3", "pip", "uv", "node", "npm", "npx"):
        assert sprite.sh(f"command -v {program}").strip() == f"/.sprite/bin/{program}"


def test_node_is_24_and_runs(sprite):
    assert int(re.match(r"v(\d+)", sprite.sh("node --version"))[1]) >= 24
    assert sprite.sh("node -e 'console.log(6*7)'") == "42\n"
    assert re.match(r"\d+\.", sprite.sh("npm --version")) and re.match(r"\d+\.", sprite.sh("npx --version"))


def test_python_runs_and_makes_virtual_environments(sprite):
    assert sprite.sh("python3 -c 'print(6*7)'") == "42\n"
    assert sprite.sh("/usr/bin/python3 -m pip --version").startswith("pip ")
    sprite.sh("python3 -m venv ~/venv && ~/venv/bin/python -c 'import sys; assert sys.prefix != sys.base_prefix'")


def test_small_tools_do_their_work(sprite):
    script = """
set -e
cd $(mktemp -d)
mkdir -p a/b && echo text > a/b/c
tar czf x.tgz a && rm -r a && tar xzf x.tgz && [ "$(cat a/b/c)" = text ]
mv -T a z && base64 z/b/c | base64 -d | grep -qx text
printf '%s' text | tee t | cat - > u && cmp t u
test -f u && env -- K=V sh -c '[ $K = V ]'
git init -q r && cd r && git -c user.name=x -c user.email=x@x commit -q --allow-empty -m first && git log --oneline | grep -q first
"""
    sprite.sh(script)


# What a kernel of one's own would allow


def test_ping_works_without_root(sprite):
    sprite.sh("ping -c1 -W2 127.0.0.1 > /dev/null")
    sprite.sh("ping -6 -c1 -W2 ::1 > /dev/null")


def test_strace_runs_and_attaches(sprite):
    assert "execve(" in sprite.run("strace", "-f", "-e", "trace=execve", "true").errors
    script = "sleep 300 & pid=$!; timeout -s INT 1 strace -p $pid 2>&1 | grep -i attached; kill $pid"
    assert "attached" in sprite.run("bash", "-c", script).text


def test_low_ports_need_no_root(sprite):
    script = "import socket; s = socket.socket(); s.bind(('0.0.0.0', 80)); s.listen(); print('bound')"
    assert sprite.run("python3", "-c", script).text == "bound\n"


def test_user_namespaces_nest(sprite):
    assert sprite.sh("unshare -Ur id -u").strip() == "0"
    assert sprite.sh("unshare -Urn ip -br link | cut -d' ' -f1").strip() == "lo"
    assert len(sprite.sh("unshare -Urpf --mount-proc ls /proc | grep -c '^[0-9]*$'").strip()) == 1
    assert sprite.root("unshare -Urm sh -c 'mount -t tmpfs t /mnt && mountpoint -q /mnt && echo yes'").strip() == "yes"


def test_root_mounts_what_a_machine_mounts(sprite):
    script = """
set -e
mkdir -p /opt/m/{tmp,lower,upper,work,merged}
mount -t tmpfs t /opt/m/tmp && umount /opt/m/tmp
mount --bind /etc /opt/m/tmp && test -e /opt/m/tmp/passwd && umount /opt/m/tmp
echo low > /opt/m/lower/f
mount -t overlay o -o lowerdir=/opt/m/lower,upperdir=/opt/m/upper,workdir=/opt/m/work /opt/m/merged
echo up >> /opt/m/merged/f && grep -q up /opt/m/upper/f
umount /opt/m/merged
"""
    sprite.root(script)


def test_the_fuse_device_is_usable(sprite):
    assert sprite.sh("stat -c '%a %F' /dev/fuse").strip() == "666 character special file"
    script = """
import ctypes, os
fd = os.open('/dev/fuse', os.O_RDWR)
libc = ctypes.CDLL(None, use_errno=True)
os.makedirs('/opt/fuse', exist_ok=True)
assert libc.mount(b'x', b'/opt/fuse', b'fuse', 0, f'fd={fd},rootmode=40000,user_id=0,group_id=0'.encode()) == 0
assert len(os.read(fd, 8192)) > 40, 'the kernel says hello'
print('mounted', libc.umount2(b'/opt/fuse', 2))
"""
    assert sprite.run("sudo", "-n", "python3", "-c", script).text == "mounted 0\n"


def test_root_shapes_its_own_network(sprite):
    script = """
set -e
ip link add br9 type bridge && ip link del br9
ip tuntap add dev tun9 mode tun && ip link del tun9
sysctl -qw net.ipv4.ip_forward=1
hostname other-name && hostname | grep -qx other-name && hostname $(cat /etc/hostname)
"""
    sprite.root(script)


def test_capabilities_and_attributes_stick(sprite):
    script = """
set -e
cp /bin/true /opt/true
setcap cap_net_bind_service+ep /opt/true && getcap /opt/true | grep -q cap_net_bind_service
python3 -c "import os; os.setxattr('/opt/true', 'user.a', b'b'); assert os.getxattr('/opt/true', 'user.a') == b'b'"
"""
    sprite.root(script)


def test_terminals_are_real(sprite):
    done = sprite.run("bash", "-c", "script -qec tty /dev/null < /dev/null; python3 -c 'import os; print(os.openpty()[0] > 2)'")
    assert "/dev/pts/" in done.text and "True" in done.text


def test_no_descriptor_of_the_runtime_reaches_a_command(sprite):
    script = "import os; print(sorted(int(f) for f in os.listdir('/proc/self/fd') if os.path.exists(f'/proc/self/fd/{f}')))"
    assert sprite.run("python3", "-c", script).text.strip() in ("[0, 1, 2]", "[0, 1, 2, 3]")


def test_signals_are_as_a_new_process_has_them(sprite):
    status = sprite.run("cat", "/proc/self/status").text
    blocked, ignored = (int(re.search(rf"{name}:\t(\w+)", status)[1], 16) for name in ("SigBlk", "SigIgn"))
    # 32 and 33 are the C library's own and are as the host has them.
    assert blocked == 0 and ignored & ~(3 << 31) == 0
    assert sprite.sh("set -o pipefail; yes | head -1; echo ${PIPESTATUS[0]}").split() == ["y", "141"]


# Package registries, by their own clients


def test_apt_get_installs_a_package(sprite):
    sprite.root("apt-get update -qq && apt-get install -y -qq --no-install-recommends hello > /dev/null 2>&1", timeout=55)
    assert "Hello, world!" in sprite.sh("hello")


def test_pip_and_uv_install_a_package(sprite):
    sprite.sh("python3 -m pip install -q --no-input --disable-pip-version-check six==1.17.0 2>&1", timeout=50)
    assert sprite.sh("python3 -c 'import six; print(six.__version__)'") == "1.17.0\n"
    sprite.sh("uv pip install -q --system iniconfig==2.1.0 2>&1", timeout=50)
    sprite.sh("python3 -c 'import iniconfig'")
    sprite.sh("/usr/bin/python3 -m pip install -q --disable-pip-version-check --target ~/vendored six==1.17.0 2>&1", timeout=50)
    sprite.sh("PYTHONPATH=~/vendored /usr/bin/python3 -c 'import six'")


def test_npm_and_npx_install_a_package(sprite):
    sprite.sh("mkdir -p ~/js && cd ~/js && npm init -y >/dev/null && npm install --silent is-odd@3.0.1", timeout=50)
    assert sprite.sh("cd ~/js && node -p 'require(\"is-odd\")(3)'") == "true\n"
    sprite.sh("npm install -g --silent cowsay@1.6.0", timeout=50)
    assert "moo" in sprite.sh("cowsay moo")


# `/.sprite`


def test_the_layout_is_the_contracts(sprite):
    folders = "bin languages etc/profile.d logs/services checkpoints policy docs"
    done = sprite.run("bash", "-c", f"cd /.sprite; for d in {folders}; do test -d $d || echo $d; done")
    assert done.text == ""
    for path in ("llm.txt", "llm-dev.txt", "version.txt", "policy/network.json"):
        assert sprite.sh(f"cat /.sprite/{path}")
    assert sprite.sh("wc -l < /.sprite/version.txt").strip() == "1"
    for path in ("bin", "languages"):
        sprite.sh(f"touch /.sprite/{path}/made-by-user && rm /.sprite/{path}/made-by-user")
    for path in ("policy/network.json", "llm.txt", "checkpoints/x"):
        assert sprite.run("bash", "-c", f"echo x > /.sprite/{path}").code != 0
    assert json.loads(sprite.sh("cat /.sprite/policy/network.json")) == {"rules": []}


def test_the_text_for_models_says_what_matters(sprite):
    text = sprite.sh("cat /.sprite/llm.txt")
    for word in ("sprite-env", "/.sprite/api.sock", "/.sprite/logs/services", "sudo", "8080", "REFUSED", "llm-dev.txt"):
        assert word in text, word
    for folder in (".claude", ".cursor", ".codex", ".gemini"):
        sprite.sh(f"test -s ~/{folder}/skills/sprite-api-gateway/SKILL.md")


def test_sprite_env_tells_who_we_are(sprite):
    info = json.loads(sprite.sh("sprite-env info"))
    shown = sprite.get()
    assert info["sprite_name"] == sprite.name
    assert (info["sprite_id"], info["sprite_url"], info["org"]) == (shown["id"], shown["url"], "test")
    assert info["version"] == shown["version"]
    assert sprite.sh("sprite-env version").strip() == shown["version"]
    assert json.loads(sprite.sh("sprite-env curl /v1/info")) == info
    by_curl = sprite.sh("curl -s --unix-socket /.sprite/api.sock http://sprite/v1/info")
    assert json.loads(by_curl) == info


def test_sprite_env_fails_as_it_should(sprite):
    assert sprite.run("sprite-env", "--help").code == 0
    assert sprite.run("sprite-env", "services", "--help").code == 0
    assert sprite.run("sprite-env", "nonsense").code == 2
    assert sprite.run("sprite-env").code == 2
    done = sprite.run("sprite-env", "services", "list")
    assert done.code == 1 and done.errors


def test_the_socket_answers_json_to_everything(sprite):
    curl = "curl -s -o /dev/stderr -w '%{http_code}' --unix-socket /.sprite/api.sock"
    for path, status in (("/v1/info", "200"), ("/v1/nothing", "404"), ("/", "404"), ("/v1/services", "501")):
        done = sprite.run("bash", "-c", f"{curl} http://sprite{path}")
        assert done.text == status, (path, done.text)
        assert isinstance(json.loads(done.errors), dict)
    # And to what is no HTTP, or never ends.
    script = """
import os, socket
for data in (os.urandom(5000), b'GET / HTTP/1.1\\r\\n' + b'a: b\\r\\n' * 100000, b'GET ' + b'x' * 500000):
    s = socket.socket(socket.AF_UNIX); s.settimeout(20); s.connect('/.sprite/api.sock')
    try:
        s.sendall(data); s.shutdown(socket.SHUT_WR)
        while s.recv(65536): pass
    except ConnectionError: pass
print('survived')
"""
    assert sprite.run("python3", "-c", script).text == "survived\n"
    assert json.loads(sprite.sh("sprite-env info"))


def test_links_are_opened_at_the_clients(sprite):
    done = sprite.run("sprite-browser", "https://example.com/login", tty=True)
    assert "\x1b]9999;browser-open;https://example.com/login\x1b\\" in done.text
    done = sprite.run("xdg-open", "https://example.com/")
    assert done.code != 0 and "https://example.com/" in done.text + done.errors


def test_the_console_names_its_window_and_is_a_login_shell(sprite):
    with sprite.socket("sprite-console", tty=True, stdin=True, env=["SHELL=/bin/bash"]) as socket:
        socket.read_until("\x1b]0;bash --login\x07")
        socket.write(b"shopt -q login_shell && echo is-$((40+2))\r")
        socket.read_until("is-42")
        socket.write(b"exit\r")
        while socket.receive() is not None:
            pass
        assert socket.closed_with == 1000
