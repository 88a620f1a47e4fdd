"""What a sprite reaches, and what it must not: neighbours, the host, the host's surroundings."""

import contextlib
import json
import re
import socket
import subprocess
import threading
from ipaddress import ip_address
from pathlib import Path

import pytest

pytestmark = pytest.mark.real

#: Connects from inside and tells how that went, quickly.
CONNECT = """
import concurrent.futures, errno, json, socket, sys

def attempt(target):
    kind, host, port = target.rsplit(' ', 2)
    family = socket.AF_INET6 if ':' in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM if kind == 'udp' else socket.SOCK_STREAM) as s:
        s.settimeout(3)
        try:
            s.connect((host, int(port)))
            s.send(b'hello')
            return s.recv(100).decode() or 'closed'
        except TimeoutError:
            return 'TIMEOUT'
        except OSError as error:
            return errno.errorcode.get(error.errno, str(error.errno))

targets = sys.argv[1:]
with concurrent.futures.ThreadPoolExecutor(len(targets)) as pool:
    print(json.dumps(dict(zip(targets, pool.map(attempt, targets)))))
"""


def connect(sprite, *targets):
    """Returns what became of each `"tcp|udp host port"`."""
    done = sprite.run("python3", "-c", CONNECT, *targets)
    assert done.code == 0, done.errors
    return json.loads(done.text)


@contextlib.contextmanager
def host_service(address="0.0.0.0", kind=socket.SOCK_STREAM):
    """Something of the host's that answers "reached" to whoever gets through; yields its port
    and how often that happened."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    heard = []
    with socket.socket(family, kind) as server:
        server.bind((address, 0))
        server.settimeout(0.2)
        stop = threading.Event()
        if kind == socket.SOCK_STREAM:
            server.listen()

        def serve():
            while not stop.is_set():
                try:
                    if kind == socket.SOCK_STREAM:
                        connection, peer = server.accept()
                        with connection:
                            connection.sendall(b"reached")
                    else:
                        _, peer = server.recvfrom(100)
                        server.sendto(b"reached", peer)
                    heard.append(peer)
                except TimeoutError:
                    pass

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield server.getsockname()[1], heard
        finally:
            stop.set()
            thread.join()


def host_resolves_over_tcp():
    server = re.search(r"^nameserver\s+(\S+)", Path("/etc/resolv.conf").read_text(), re.MULTILINE)[1]
    question = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x04pypi\x03org\x00\x00\x01\x00\x01"
    try:
        with socket.create_connection((server, 53), 5) as connection:
            connection.sendall(len(question).to_bytes(2, "big") + question)
            return connection.recv(100)[2:4] == b"\x12\x34"
    except OSError:
        return False


def host_addresses():
    text = subprocess.run(["ip", "-o", "-4", "addr"], capture_output=True, text=True, check=True).stdout
    return [line.split()[3].split("/")[0] for line in text.splitlines() if " spr" not in line]


@pytest.fixture(scope="module")
def address(sprite):
    return sprite.sh("ip -4 -o addr show eth0 | awk '{print $4}' | cut -d/ -f1").strip()


@pytest.fixture(scope="module")
def gateway(sprite):
    return sprite.sh("ip route show default | awk '{print $3}'").strip()


@pytest.fixture(scope="module")
def neighbour(api):
    """A sprite that serves on every port it can."""
    sprite = api.create()
    address = sprite.sh("ip -4 -o addr show eth0 | awk '{print $4}' | cut -d/ -f1").strip()
    script = """
import socket, socketserver, threading
class Reach(socketserver.BaseRequestHandler):
    def handle(self):
        try: self.request.sendall(b'reached')
        except AttributeError: self.request[1].sendto(b'reached', self.client_address)
for port in (22, 80, 8080):
    threading.Thread(target=socketserver.ThreadingTCPServer(('0.0.0.0', port), Reach).serve_forever).start()
threading.Thread(target=socketserver.ThreadingUDPServer(('0.0.0.0', 5353), Reach).serve_forever).start()
print('serving', flush=True)
"""
    with sprite.socket("python3", "-c", script) as socket_:
        socket_.read_until("serving")
        assert connect(sprite, "tcp 127.0.0.1 80", f"tcp {address} 8080") == {
            "tcp 127.0.0.1 80": "reached",
            f"tcp {address} 8080": "reached",
        }
        yield sprite, address
    sprite.delete()


# What works


def test_names_are_resolved(sprite, gateway):
    assert sprite.sh("awk '/^nameserver/ {print $2}' /etc/resolv.conf").split() == [gateway]
    assert ip_address(sprite.sh("getent ahostsv4 pypi.org | awk '{print $1; exit}'").strip())
    assert "status: NOERROR" in sprite.sh("dig +tries=2 +time=5 pypi.org")
    # Over TCP as far as the host's own resolver does it, but always with an answer.
    status = sprite.sh("dig +tcp +tries=1 +time=8 pypi.org | sed -n 's/.*status: \\([A-Z]*\\),.*/\\1/p'").strip()
    assert status == "NOERROR" or (status == "SERVFAIL" and not host_resolves_over_tcp())
    assert "status: NXDOMAIN" in sprite.sh("dig no-such-name.invalid")


def test_package_registries_are_reached(sprite):
    """By the address that their names resolve to; their own clients are tried in test_inside."""
    for host in ("pypi.org", "registry.npmjs.org"):
        code = sprite.sh(f"curl -sS -o /dev/null -w '%{{http_code}}' --max-time 20 https://{host}/").strip()
        assert code.startswith(("2", "3", "4")), (host, code)
    public = sprite.sh("getent ahostsv4 pypi.org | awk '{print $1; exit}'").strip()
    code = sprite.sh(f"curl -sSk -o /dev/null -w '%{{http_code}}' --max-time 20 https://{public}/").strip()
    assert code != "000"


def test_loopback_is_the_sprites_own_in_both_families(sprite, neighbour):
    script = """
import socket
for host, family in (('127.0.0.1', socket.AF_INET), ('::1', socket.AF_INET6)):
    server = socket.socket(family); server.bind((host, 8080)); server.listen()
    client = socket.create_connection((host, 8080)); server.accept()[0].sendall(b'x'); assert client.recv(1) == b'x'
print('fine')
"""
    # The neighbour has the same port, and that is no conflict.
    assert sprite.run("python3", "-c", script).text == "fine\n"


def test_the_gateway_can_be_pinged_and_has_nothing_else(sprite, gateway):
    sprite.sh(f"ping -c1 -W2 {gateway} > /dev/null")
    with host_service() as (port, heard):
        results = connect(sprite, f"tcp {gateway} {port}", f"tcp {gateway} 22", f"tcp {gateway} 80")
    assert heard == [] and "reached" not in results.values()


# What must not


def test_neighbours_do_not_reach_each_other(sprite, neighbour):
    _, address = neighbour
    results = connect(sprite, *(f"tcp {address} {port}" for port in (22, 80, 8080, 9)), f"udp {address} 5353")
    assert "reached" not in results.values(), results
    assert sprite.run("ping", "-c1", "-W2", address).code != 0


def test_the_host_is_not_reached_by_any_of_its_addresses(sprite, server):
    api_port = int(server.url.rsplit(":", 1)[1])
    with host_service() as (tcp, heard), host_service(kind=socket.SOCK_DGRAM) as (udp, heard_udp):
        targets = []
        for address in host_addresses():
            if not address.startswith("127."):
                targets += [f"tcp {address} {tcp}", f"udp {address} {udp}", f"tcp {address} 22", f"tcp {address} {api_port}"]
        assert targets, "this host has an address"
        results = connect(sprite, *targets)
    assert heard == heard_udp == [] and "reached" not in results.values(), results


def test_the_hosts_loopback_is_not_reached(sprite, gateway):
    with host_service("127.0.0.1") as (port, heard), host_service("::1") as (port6, heard6):
        results = connect(sprite, f"tcp 127.0.0.1 {port}", f"tcp 127.0.0.2 {port}", f"tcp ::1 {port6}", f"tcp 0.0.0.0 {port}")
        # And by a route of one's own: root makes any it likes.
        sprite.root(f"sysctl -qw net.ipv4.conf.all.route_localnet=1 && ip route add 127.9.9.9/32 via {gateway} dev eth0")
        results |= connect(sprite, f"tcp 127.9.9.9 {port}")
        sprite.root("ip route del 127.9.9.9/32")
    assert heard == heard6 == [] and "reached" not in results.values(), results


def test_addresses_with_secrets_and_private_networks_are_refused_at_once(sprite):
    addresses = ("169.254.169.254", "100.100.100.200", "168.63.129.16", "10.0.0.1", "10.255.255.254", "172.16.0.1",
                 "172.31.255.254", "192.168.0.1", "192.168.255.254", "100.64.0.1", "198.18.0.1", "224.0.0.1", "240.0.0.1")
    results = connect(sprite, *(f"tcp {address} 80" for address in addresses))
    # A rejection, not a wait: programs that try such an address must not hang.
    assert set(results.values()) <= {"EHOSTUNREACH", "ENETUNREACH", "EACCES", "EPERM", "ECONNREFUSED", "EINVAL"}, results


def test_the_hosts_own_resolver_is_not_reached_directly(sprite):
    servers = re.findall(r"^nameserver\s+(\S+)", Path("/etc/resolv.conf").read_text(), re.MULTILINE)
    private = [s for s in servers if "." in s and ip_address(s).is_private and not s.startswith("127.")]
    if not private:
        pytest.skip("this host's resolver is a public one")
    results = connect(sprite, *(f"tcp {s} 53" for s in private))
    assert set(results.values()) <= {"EHOSTUNREACH", "EACCES", "ECONNREFUSED"}, results


def test_there_is_no_ipv6_but_loopback(sprite):
    with host_service("::") as (port, heard):
        script = f"""
ip -6 addr add fd00::99/64 dev eth0 2>/dev/null; ip -6 route add default dev eth0 2>/dev/null
sysctl -qw net.ipv6.conf.eth0.disable_ipv6=0 2>/dev/null
ip -6 addr add fd00::99/64 dev eth0 2>/dev/null; ip -6 route add default dev eth0 2>/dev/null
ping -6 -c1 -W1 fd00::2; ping -6 -c1 -W1 ff02::1%eth0
"""
        sprite.run("sudo", "-n", "bash", "-c", script)
        results = connect(sprite, "tcp 2001:db8::1 80", f"tcp fd00::2 {port}")
    assert heard == [] and set(results.values()).isdisjoint({"reached", "closed"}), results
    replies = sprite.run("ping", "-6", "-c2", "-W1", "ff02::1%eth0").text
    assert "64 bytes from fe80" not in replies.replace("DUP!", "") or replies.count("bytes from") <= 2


# Lies about who one is


def counters_of_the_spoofing_rule(address):
    """Packets that were dropped for a source that is not the sprite's, on its way in."""
    tables = subprocess.run(["nft", "-j", "list", "ruleset"], capture_output=True, text=True, check=True).stdout
    ruleset = json.loads(tables)["nftables"]
    ours = [s["set"]["table"] for s in ruleset if "set" in s and s["set"]["name"] == "sources"
            and address in json.dumps(s["set"].get("elem", []))]
    assert len(ours) == 1, ours
    packets = 0
    for rule in (r["rule"] for r in ruleset if "rule" in r):
        if rule["table"] == ours[0] and rule["chain"] == "from_sprite":
            packets += sum(e["counter"]["packets"] for e in rule["expr"] if "counter" in e)
    return packets


SPOOF = """
import socket, struct, sys
source, target = sys.argv[1:]
s = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
head = struct.pack('>BBHHHBBH4s4s', 0x45, 0, 28, 1, 0, 64, 17, 0, socket.inet_aton(source), socket.inet_aton(target))
for _ in range(10):
    s.sendto(head + struct.pack('>HHHH', 1, 5353, 8, 0), (target, 0))
"""


def test_packets_under_another_address_are_dropped(sprite, neighbour, address, gateway):
    _, other = neighbour
    for source in (other, "203.0.113.9", "127.0.0.1", gateway):
        before = counters_of_the_spoofing_rule(address)
        done = sprite.run("sudo", "-n", "python3", "-c", SPOOF, source, gateway)
        assert done.code == 0, done.errors
        assert counters_of_the_spoofing_rule(address) - before >= 10, source


def test_taking_a_neighbours_address_gets_nothing(sprite, neighbour, address):
    other_sprite, other = neighbour
    before = counters_of_the_spoofing_rule(address)
    sprite.root(f"ip addr add {other}/32 dev eth0")
    try:
        done = sprite.run("ping", "-c2", "-W1", "-I", other, "192.0.2.1")
        assert done.code != 0
        arp = """
import socket, struct
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x806)); s.bind(('eth0', 0)); mac = s.getsockname()[4]
claim = b'\\xff' * 6 + mac + b'\\x08\\x06' + struct.pack('>HHBBH', 1, 0x800, 6, 4, 2) + mac
claim += socket.inet_aton('OTHER') + b'\\xff' * 6 + socket.inet_aton('OTHER')
for _ in range(5): s.send(claim)
""".replace("OTHER", other)
        assert sprite.run("sudo", "-n", "python3", "-c", arp).code == 0
    finally:
        sprite.root(f"ip addr del {other}/32 dev eth0")
    assert counters_of_the_spoofing_rule(address) > before
    assert "status: NOERROR" in other_sprite.sh("dig +tries=2 pypi.org"), "the neighbour notices nothing"


def test_a_sprite_that_breaks_its_own_network_breaks_nobody_elses(api, new_sprite, neighbour):
    sprite = new_sprite()
    sprite.root("ip link set eth0 down; ip addr flush dev eth0; ip route flush table main 2>/dev/null; ip link del eth0 || true")
    # Commands do not come over it.
    assert sprite.run("echo", "still here").text == "still here\n"
    other, _ = neighbour
    assert "status: NOERROR" in other.sh("dig +tries=2 pypi.org")
    # A fresh machine has a fresh network.
    assert sprite.call("POST", "/restart").status_code == 200
    assert "status: NOERROR" in sprite.sh("dig +tries=2 pypi.org")
    assert sprite.delete().status_code == 204


def test_garbage_to_the_resolver_harms_nobody(sprite, gateway):
    script = """
import os, socket, sys
gateway = sys.argv[1]
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for size in list(range(0, 64)) + [511, 512, 513, 1400]:
    u.sendto(os.urandom(size), (gateway, 53))
# A name that points to itself, one that never ends, one that is too long.
for body in (b'\\xc0\\x0c', b'\\x3f' + b'a' * 63 + b'\\xc0\\x0c', b'\\x3f' + b'a' * 63 + b'\\x3f' + b'b' * 63 + b'\\x3f' + b'c' * 63 + b'\\x3f' + b'd' * 63 + b'\\x00'):
    u.sendto(b'\\x12\\x34\\x01\\x00\\x00\\x01\\x00\\x00\\x00\\x00\\x00\\x00' + body + b'\\x00\\x01\\x00\\x01', (gateway, 53))
streams = []
for data in (b'', b'\\x00', b'\\xff\\xff' + os.urandom(1000), b'\\x00\\x05hello', os.urandom(5000)):
    t = socket.create_connection((gateway, 53), 5); t.sendall(data); streams.append(t)
for _ in range(100):
    try: streams.append(socket.create_connection((gateway, 53), 5))
    except OSError: pass
print('sent')
"""
    assert sprite.run("python3", "-c", script, gateway).text == "sent\n"
    assert "status: NOERROR" in sprite.sh("dig +tries=3 +time=5 pypi.org")
