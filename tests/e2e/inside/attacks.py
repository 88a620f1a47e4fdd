"""Runs inside a sprite as root and tries to get out. Prints a JSON line per attack.

Whatever an attack here manages to do without an error counts as a way out, unless it says by
`Blocked` that it got nowhere. Meant to be run by `test_attacks.py`; needs only python3.
"""

import ctypes
import errno
import fcntl
import json
import mmap
import os
import resource
import signal
import socket
import stat
import struct
import subprocess
import sys
import tempfile
import time

def open_files():
    """Returns what our descriptors lead to."""
    found = {}
    for fd in os.listdir("/proc/self/fd"):
        try:
            found[int(fd)] = os.readlink(f"/proc/self/fd/{fd}")
        except OSError:
            # That of the listing itself.
            pass
    # The script, while python reads it.
    return {fd: path for fd, path in found.items() if path != os.path.realpath(__file__)}


#: Before anything here opens something.
INHERITED = open_files()

libc = ctypes.CDLL(None, use_errno=True)
ATTACKS = {}
ARGUMENTS = dict(pair.split("=", 1) for pair in sys.argv[1:])


class Blocked(Exception):
    """It did not work out."""


def attack(claim):
    def register(function):
        ATTACKS[claim] = function
        return function

    return register


def syscall(number, *arguments):
    result = libc.syscall(ctypes.c_long(number), *arguments)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def shell(script, seconds=10):
    done = subprocess.run(["/bin/bash", "-c", script], capture_output=True, text=True, timeout=seconds)
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines()
        raise Blocked(f"{done.returncode}: {lines[-1] if lines else ''}")
    return done.stdout.strip()


def overwrite(path, value=None):
    """Writes a kernel setting, by default what is there already."""
    if value is None:
        with open(path) as file:
            value = file.read()
    fd = os.open(path, os.O_WRONLY)
    try:
        os.write(fd, value.encode())
    finally:
        os.close(fd)
    return f"wrote {path}"


def mount(kind, source="none", options=""):
    """Mounts on a folder of its own and looks into it."""
    folder = tempfile.mkdtemp(dir="/opt")
    shell(f"mount -t {kind} {options} {source} {folder}")
    found = os.listdir(folder)[:5]
    shell(f"umount -l {folder}")
    return found


def image(kind):
    path = tempfile.mktemp(dir="/opt")
    if kind == "ext4":
        shell(f"truncate -s 8M {path}; mkfs.ext4 -q -F {path} 2>/dev/null || true")
    else:
        shell(f"truncate -s 8M {path}")
    return path


# Devices


@attack("a block device node is made")
def _():
    os.mknod("/opt/block", 0o600 | stat.S_IFBLK, os.makedev(254, 0))


@attack("a character device node is made")
def _():
    os.mknod("/opt/mem", 0o600 | stat.S_IFCHR, os.makedev(1, 1))


@attack("a device node is made in a nested user namespace")
def _():
    shell("unshare -Urm sh -c 'mount -t tmpfs t /mnt && mknod /mnt/n c 1 5'")


def planted():
    path = ARGUMENTS.get("planted")
    if not path:
        raise Blocked("no node was planted in this run")
    return path


@attack("a device node that was on the disk is opened")
def _():
    return os.read(os.open(planted(), os.O_RDONLY), 4).hex()


@attack("the root is remounted with devices")
def _():
    node = planted() if "planted" in ARGUMENTS else "/dev/null"
    shell(f"mount -o remount,bind,dev / && head -c4 {node} | od")


@attack("the root is bound elsewhere with devices")
def _():
    folder = tempfile.mkdtemp(dir="/tmp")
    try:
        shell(f"mount --bind / {folder} && mount -o remount,bind,dev {folder}")
    finally:
        subprocess.run(["umount", "-l", folder], capture_output=True)


@attack("a nested user namespace remounts with devices")
def _():
    shell("unshare -Urm mount -o remount,bind,dev /")


@attack("an overlay shows a device node of the disk")
def _():
    node = planted()
    script = f"""
mkdir -p /opt/o/{{u,w,m}} && mount -t overlay o -o lowerdir=/,upperdir=/opt/o/u,workdir=/opt/o/w /opt/o/m
head -c4 /opt/o/m{node} | od; code=${{PIPESTATUS[0]}}; umount -l /opt/o/m; exit $code
"""
    shell(script)


@attack("device nodes below the devices' own mount are used")
def _():
    # Below the tmpfs is the disk's own folder, where an image may have had nodes.
    shell("unshare -m sh -c 'umount -R /dev; umount -R /dev; head -c4 /dev/zero | od; test -c /dev/zero'")


@attack("a disk of the host is opened")
def _():
    return [os.open(f"/dev/{name}", os.O_RDONLY) for name in ("vda", "sda", "nvme0n1", "loop0", "loop-control", "kvm", "mem")
            if os.path.exists(f"/dev/{name}")] or (_ for _ in ()).throw(Blocked("none is here"))


# File systems of the kernel


@attack("a block device is mounted")
def _():
    mount("ext4", "/dev/loop0")


@attack("a loop device is set up")
def _():
    shell(f"losetup -f --show {image('ext4')}")


@attack("an ext4 image is mounted")
def _():
    mount("ext4", image("ext4"))


@attack("an ext4 image is mounted through a loop device")
def _():
    mount("ext4", image("ext4"), "-o loop")


@attack("an erofs image is mounted")
def _():
    mount("erofs", image("erofs"))


@attack("debugfs is mounted")
def _():
    return mount("debugfs")


@attack("tracefs is mounted")
def _():
    return mount("tracefs")


@attack("securityfs is mounted")
def _():
    return mount("securityfs")


@attack("devtmpfs is mounted")
def _():
    return mount("devtmpfs")


@attack("configfs is mounted")
def _():
    return mount("configfs")


@attack("pstore is mounted")
def _():
    return mount("pstore")


@attack("a bpf file system is mounted")
def _():
    return mount("bpf")


# Settings of the kernel


@attack("the core pattern is set")
def _():
    overwrite("/proc/sys/kernel/core_pattern")


@attack("the module loader is set")
def _():
    overwrite("/proc/sys/kernel/modprobe")


@attack("memory overcommit is set")
def _():
    overwrite("/proc/sys/vm/overcommit_memory")


@attack("panic behaviour is set")
def _():
    overwrite("/proc/sys/kernel/panic")


@attack("a fresh proc lets the core pattern be set")
def _():
    folder = tempfile.mkdtemp(dir="/opt")
    shell(f"mount -t proc p {folder}")
    try:
        overwrite(f"{folder}/sys/kernel/core_pattern")
    finally:
        subprocess.run(["umount", "-l", folder])


@attack("a binary format is registered for the host")
def _():
    overwrite("/proc/sys/fs/binfmt_misc/register", ":e2e:M::e2e::/bin/true:")


@attack("sysrq is pressed")
def _():
    os.open("/proc/sysrq-trigger", os.O_WRONLY)


@attack("kernel memory is read")
def _():
    os.read(os.open("/proc/kcore", os.O_RDONLY), 4)


@attack("kernel addresses are shown")
def _():
    with open("/proc/kallsyms") as file:
        line = file.readline()
    if not line or int(line.split()[0], 16) == 0:
        raise Blocked("zeros")
    return line


@attack("the kernel log is read")
def _():
    return shell("dmesg | head -1 | grep .")


@attack("sysfs is made writable")
def _():
    shell("mount -o remount,rw /sys && touch /sys/x")


@attack("a setting in sysfs is written")
def _():
    overwrite("/sys/kernel/mm/transparent_hugepage/enabled", "madvise")


@attack("paths of the host's images are shown")
def _():
    found = shell("cat /sys/block/*/loop/backing_file /sys/devices/virtual/block/*/loop/backing_file 2>/dev/null; true")
    found += shell("grep -rl sprites /sys/class/block /sys/fs/ext4 2>/dev/null; true")
    found += "".join(line for line in open("/proc/self/mountinfo") if "/var/" in line or "sprites-" in line)
    if not found:
        raise Blocked("none")
    return found


@attack("the host's mounts are shown")
def _():
    roots = [line.split()[3] for line in open("/proc/1/mountinfo")]
    leaked = [root for root in roots if root.startswith(("/home", "/root", "/var/lib", "/tmp/sprites"))]
    if not leaked:
        raise Blocked("none")
    return leaked


@attack("mounts are shared with the host")
def _():
    shared = [line for line in open("/proc/self/mountinfo") if " shared:" in line or " master:" in line]
    if not shared:
        raise Blocked("none is")
    return shared


# Control groups


def cgroup_v1(controller, file, value):
    folder = tempfile.mkdtemp(dir="/opt")
    shell(f"mount -t cgroup -o {controller} c {folder}")
    try:
        return overwrite(f"{folder}/{file}", value)
    finally:
        subprocess.run(["umount", "-l", folder])


@attack("the memory limit is lifted")
def _():
    try:
        return overwrite("/sys/fs/cgroup/memory.max", "max")
    except OSError:
        return cgroup_v1("memory", "memory.limit_in_bytes", "-1")


@attack("devices are allowed")
def _():
    cgroup_v1("devices", "devices.allow", "a")


@attack("a release agent is set")
def _():
    cgroup_v1("freezer", "release_agent", "/bin/true")


@attack("the process limit is lifted")
def _():
    try:
        return overwrite("/sys/fs/cgroup/pids.max", "max")
    except OSError:
        return cgroup_v1("pids", "pids.max", "max")


@attack("a process leaves its memory group")
def _():
    cgroup_v1("memory", "../tasks", str(os.getpid()))


@attack("the sprite thaws itself")
def _():
    overwrite("/sys/fs/cgroup/cgroup.freeze", "0")


@attack("groups of other machines are shown")
def _():
    text = open("/proc/self/cgroup").read()
    # Relative to the sprite's own root, whatever the host calls it.
    found = [line for line in text.splitlines() if "mch-" in line or "sprites" in line or "/.." in line]
    found += [name for name in os.listdir("/sys/fs/cgroup") if name.startswith(("mch-", "sprites"))]
    if not found:
        raise Blocked("none")
    return found


# System calls


@attack("keyctl answers")
def _():
    syscall(250, 0, -3, 0)


@attack("add_key answers")
def _():
    syscall(248, b"user", b"x", b"y", 1, -3)


@attack("bpf answers")
def _():
    syscall(321, 0, b"\0" * 128, 128)


@attack("perf_event_open answers")
def _():
    syscall(298, ctypes.create_string_buffer(128), 0, -1, -1, 0)


@attack("io_uring_setup answers")
def _():
    syscall(425, 1, ctypes.create_string_buffer(120))


@attack("userfaultfd answers")
def _():
    syscall(323, 0)


@attack("init_module answers")
def _():
    syscall(175, b"x", 1, b"")


@attack("finit_module answers in a nested user namespace")
def _():
    code = "import ctypes; l = ctypes.CDLL(None); exit(0 if l.syscall(313, 0, b'', 0) >= 0 else 1)"
    shell(f'unshare -Ur python3 -c "{code}"')


@attack("kexec_load answers")
def _():
    syscall(246, 0, 0, None, 0)


@attack("swapon answers")
def _():
    syscall(167, b"/opt/none", 0)


@attack("acct answers")
def _():
    syscall(163, b"/opt/none")


@attack("quotactl answers")
def _():
    syscall(179, 0, 0, 0, 0)


@attack("a file is opened by handle")
def _():
    class Handle(ctypes.Structure):
        _fields_ = [("size", ctypes.c_uint), ("kind", ctypes.c_int), ("data", ctypes.c_ubyte * 128)]

    handle = Handle(8, 1)
    handle.data[0] = 2
    fd = syscall(304, os.open("/", os.O_RDONLY), ctypes.byref(handle), os.O_RDONLY)
    return os.listdir(fd)[:5]


@attack("the 32-bit system call table is reached")
def _():
    # mov eax, 357 (bpf); xor ebx, ebx; xor ecx, ecx; xor edx, edx; int 0x80; ret
    machine_code = bytes.fromhex("5331db31c931d2b865010000cd805bc3")
    memory = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    memory.write(machine_code)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    result = ctypes.CFUNCTYPE(ctypes.c_int)(address)()
    if result == -errno.ENOSYS:
        raise Blocked("ENOSYS")
    return result


@attack("the x32 system call table is reached")
def _():
    result = libc.syscall(ctypes.c_long(0x40000000 + 39))
    code = ctypes.get_errno()
    if result < 0 and code == errno.ENOSYS:
        raise Blocked("ENOSYS")
    return result, code


@attack("a system call of the future is reached")
def _():
    result = libc.syscall(ctypes.c_long(480))
    code = ctypes.get_errno()
    if result < 0 and code == errno.ENOSYS:
        raise Blocked("ENOSYS")
    return result, code


@attack("reboot answers")
def _():
    # A harmless command: keep Ctrl-Alt-Del from rebooting.
    syscall(169, 0xFEE1DEAD, 672274793, 0, 0)


# Namespaces and processes


@attack("the user namespace of the init is entered")
def _():
    syscall(308, os.open("/proc/1/ns/user", os.O_RDONLY), 0)


@attack("a namespace of the host is entered")
def _():
    ours = {name: os.stat(f"/proc/self/ns/{name}").st_ino for name in ("mnt", "net", "pid", "ipc", "uts")}
    for pid in (p for p in os.listdir("/proc") if p.isdigit()):
        for name, inode in ours.items():
            try:
                fd = os.open(f"/proc/{pid}/ns/{name}", os.O_RDONLY)
                if os.fstat(fd).st_ino != inode:
                    syscall(308, fd, 0)
                    return f"entered {name} of {pid}"
            except OSError:
                pass
    raise Blocked("there is none")


@attack("processes of the host are shown")
def _():
    names = set()
    for pid in (p for p in os.listdir("/proc") if p.isdigit()):
        try:
            names.add(open(f"/proc/{pid}/comm").read().strip())
        except OSError:
            pass
    if leaked := names & {"sprited", "pytest", "kthreadd", "ksoftirqd/0"}:
        return leaked
    raise Blocked("none")


@attack("a process of the host is signalled")
def _():
    os.kill(int(ARGUMENTS["host_pid"]), 0)
    # The number may be somebody's of ours; the host's is not a python that runs tests.
    with open(f"/proc/{ARGUMENTS['host_pid']}/cmdline") as file:
        if "pytest" in file.read():
            return "reached"
    raise Blocked("that is another process")


def is_helper(pid):
    """Whether the process is still the helper, and not the command it becomes."""
    try:
        os.readlink(f"/proc/{pid}/exe")
    except PermissionError:
        return True
    except OSError:
        pass
    return False


@attack("the helper that starts commands is read or traced")
def _():
    """While the test starts commands: grabs every process that is not of the container."""
    own_root = os.stat("/")
    print(json.dumps({"racing": True}), flush=True)
    deadline = time.monotonic() + 4
    sightings = 0
    grabbed = set()
    while time.monotonic() < deadline:
        for pid in (p for p in os.listdir("/proc") if p.isdigit()):
            if int(pid) == os.getpid():
                continue
            try:
                exe = os.readlink(f"/proc/{pid}/exe")
            except PermissionError:
                sightings += 1
                exe = None
            except OSError:
                continue
            if exe and "guestd" in exe:
                grabbed.add(f"exe {exe}")
            try:
                root = os.stat(f"/proc/{pid}/root/")
                if (root.st_dev, root.st_ino) != (own_root.st_dev, own_root.st_ino):
                    if not exe or "guestd" in exe:
                        grabbed.add(f"root of {pid}")
            except OSError:
                pass
            if exe is None:
                for name in ("mem", "environ", "maps"):
                    try:
                        fd = os.open(f"/proc/{pid}/{name}", os.O_RDONLY)
                    except OSError:
                        continue
                    try:
                        os.read(fd, 16)
                        if is_helper(pid):
                            grabbed.add(f"{name} of {pid}")
                    except OSError:
                        pass
                    finally:
                        os.close(fd)
                if libc.ptrace(0x4206, int(pid), 0, 0) == 0:
                    if is_helper(pid):
                        grabbed.add(f"traced {pid}")
                    libc.ptrace(17, int(pid), 0, 0)
    if grabbed:
        return sorted(grabbed)
    raise Blocked(f"0 of {sightings} sightings")


@attack("descriptors of the runtime are inherited")
def _():
    leaked = [path for fd, path in INHERITED.items() if fd > 2]
    if not leaked:
        raise Blocked("none")
    return leaked


# Sockets and terminals


def open_socket(family, kind, protocol=0):
    socket.socket(family, kind, protocol).close()


@attack("a socket to the hypervisor is made")
def _():
    open_socket(40, socket.SOCK_STREAM)


@attack("a kernel crypto socket is made")
def _():
    open_socket(38, 5)


@attack("a key socket is made")
def _():
    open_socket(15, 3, 2)


@attack("an express data path socket is made")
def _():
    open_socket(44, 3)


@attack("a Bluetooth socket is made")
def _():
    open_socket(31, 3, 1)


@attack("a netfilter socket is made")
def _():
    open_socket(16, 3, 12)


@attack("an audit message is sent")
def _():
    socket.socket(16, 3, 9).send(struct.pack("IHHII", 16, 1000, 5, 1, 0))


@attack("a netfilter socket is made in a nested user namespace")
def _():
    shell("unshare -Urn python3 -c 'import socket; socket.socket(16, 3, 12)'")


@attack("an abstract socket of the host is reached")
def _():
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect("\0" + ARGUMENTS["abstract"])


@attack("input is typed into a terminal")
def _():
    _, slave = os.openpty()
    fcntl.ioctl(slave, 0x5412, b"x")


@attack("input is typed into a terminal by a longer number")
def _():
    _, slave = os.openpty()
    syscall(16, slave, ctypes.c_ulong(0xDEAD00005412), b"x")


@attack("the console is drawn on")
def _():
    _, slave = os.openpty()
    fcntl.ioctl(slave, 0x541C, b"\2")


# Time, priority, resources


@attack("the clock is set")
def _():
    time.clock_settime(time.CLOCK_REALTIME, time.time())


@attack("a real-time priority is taken")
def _():
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))


@attack("a higher priority is taken")
def _():
    os.setpriority(os.PRIO_PROCESS, 0, -20)


@attack("a process hides from the out-of-memory killer")
def _():
    overwrite("/proc/self/oom_score_adj", "-1000")


@attack("a limit is raised above the hard one")
def _():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (1 << 28, 1 << 28))
    except ValueError as error:
        raise Blocked(str(error)) from None


@attack("much memory is locked")
def _():
    syscall(149, ctypes.create_string_buffer(100 << 20), 100 << 20)


@attack("a trusted attribute is set")
def _():
    os.setxattr("/opt", "trusted.overlay.opaque", b"y")


@attack("a file is made immutable")
def _():
    shell("touch /opt/immutable; chattr +i /opt/immutable")


@attack("a capability of the host is put on a file")
def _():
    # Version 2 has no owner: it would count on the host. The kernel must rewrite it to version 3.
    shell("cp /bin/true /opt/caps")
    os.setxattr("/opt/caps", "security.capability", struct.pack("<IIIII", 0x02000001, 1 << 21, 0, 0, 0))
    value = os.getxattr("/opt/caps", "security.capability")
    raise Blocked(f"it reads back as {value.hex()}, inside")


def run(claim, function):
    signal.alarm(30)
    try:
        detail, blocked = function(), False
    except Blocked as error:
        detail, blocked = str(error), True
    except (OSError, PermissionError) as error:
        detail, blocked = f"{errno.errorcode.get(error.errno, error.errno)}: {error.strerror}", True
    except subprocess.TimeoutExpired:
        detail, blocked = "it hung", True
    finally:
        signal.alarm(0)
    print(json.dumps({"claim": claim, "blocked": blocked, "detail": str(detail)[:300]}), flush=True)


if __name__ == "__main__":
    only = ARGUMENTS.get("only")
    for claim, function in ATTACKS.items():
        if only is None or only in claim:
            run(claim, function)
