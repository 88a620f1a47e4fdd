"""Fixtures: the server under test, clients of it, and the look at what was left behind."""

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from harness import footprint
from harness.api import Api
from harness.sprited import Sprited

ROOT = Path(__file__).resolve().parents[2]


def pytest_addoption(parser):
    group = parser.getgroup("sprites")
    group.addoption("--substrate", choices=["namespaces", "fake"], default="namespaces")
    group.addoption("--bin", default=os.environ.get("SPRITES_BIN_DIR"), help="folder of the programs")


def pytest_configure(config):
    if config.getoption("--bin") is None:
        target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
        found = [d for d in (target / "release", target / "debug") if (d / "sprited").exists()]
        if not found:
            raise pytest.UsageError("there is no `sprited`: script/build, or --bin FOLDER")
        config.option.bin = str(found[0])
    if config.getoption("--substrate") == "namespaces" and os.geteuid() != 0:
        raise pytest.UsageError("real machines need root; `--substrate fake` does not")


def pytest_collection_modifyitems(config, items):
    if config.getoption("--substrate") != "fake":
        return
    skip = pytest.mark.skip(reason="needs real machines")
    for item in items:
        if "real" in item.keywords:
            item.add_marker(skip)


def pytest_report_header(config):
    return f"sprites: {config.getoption('--bin')}, substrate {config.getoption('--substrate')}"


class Servers:
    """Every server that a run started."""

    def __init__(self, config):
        self.bin_dir = config.getoption("--bin")
        self.substrate = config.getoption("--substrate")
        self.all = []

    def start(self, *arguments, **options):
        server = Sprited(self.bin_dir, self.substrate, *arguments, **options)
        self.all.append(server)
        return server

    def start_lasting(self, data_dir, network_range):
        """Starts one that is not ephemeral. Such a server owns the host's network for sprites,
        so there can be only one; another run of the tests is waited for."""
        deadline = time.monotonic() + 30
        while True:
            arguments = ("--network-range", network_range, "--listen", "127.0.0.1:0")
            server = self.start(*arguments, ephemeral=False, data_dir=data_dir)
            if server.wait_up_or_ended():
                return server
            if "another sprited uses the firewall table" not in server.log_text():
                pytest.fail(f"sprited ended; its log:\n{server.log_text()}")
            self.all.remove(server)
            if time.monotonic() > deadline:
                pytest.skip("a sprited of this host is running; stop it to run this test")
            time.sleep(1)


@pytest.fixture(scope="session")
def servers(request):
    """Starts servers; at the end of the run nothing may be left of any of them."""
    before = footprint.traces()
    servers = Servers(request.config)
    try:
        yield servers
    finally:
        for server in servers.all:
            server.clean_up()
    ours = [text for server in servers.all for text in server.traces()]
    left = footprint.leftovers(before, ours)
    assert not left, "left behind:\n  " + "\n  ".join(left)


@pytest.fixture(scope="session")
def server(servers):
    """The server that most tests share."""
    server = servers.start()
    try:
        server.wait_ready()
    except BaseException as error:
        pytest.exit(f"there is no server to test: {error}", returncode=1)
    yield server
    code = server.stop()
    assert code == 0, f"sprited ended with {code}; its log:\n{server.log_text()}"


@pytest.fixture(scope="session")
def api(server):
    """Calls with a good token."""
    api = Api(server.url, server.token)
    yield api
    api.close()


@pytest.fixture(scope="session")
def foreign(server):
    """Calls with a good token of another org."""
    api = Api(server.url, server.new_token("strangers"))
    yield api
    api.close()


@pytest.fixture(scope="module")
def sprite(api):
    """A sprite that the tests of one file share. They leave it usable."""
    sprite = api.create()
    yield sprite
    sprite.delete()


@pytest.fixture
def new_sprite(api):
    """Makes sprites of a test's own, and removes them after it."""
    made = []

    def create(name=None, **options):
        sprite = api.create(name, **options)
        made.append(sprite)
        return sprite

    yield create
    for sprite in made:
        sprite.delete()


@pytest.fixture(scope="module")
def home(sprite):
    """The home folder of commands in `sprite`."""
    return sprite.sh("pwd").strip()


@pytest.fixture
def folder(sprite, home, request):
    """An empty folder of a test's own in `sprite`."""
    path = f"{home}/{abs(hash(request.node.nodeid)):x}"
    sprite.sh(f"mkdir -p {path}")
    yield path
    sprite.run("rm", "-rf", path)


@pytest.fixture(scope="session")
def is_real(request):
    return request.config.getoption("--substrate") == "namespaces"


@pytest.fixture(scope="session")
def node():
    """The JavaScript runtime that came with the requirements."""
    found = shutil.which("node")
    assert found, "there is no node; script/e2e installs it"
    version = subprocess.run([found, "--version"], capture_output=True, text=True).stdout
    assert int(version.strip().lstrip("v").split(".")[0]) >= 24, f"the SDK needs node 24, this is {version}"
    return found


@pytest.fixture(autouse=True)
def quiet_log(request):
    """An error in the server's log that the test did not provoke fails the test."""
    servers = request.node.funcargs.get("servers") if hasattr(request.node, "funcargs") else None
    if servers is None and "server" in request.fixturenames:
        servers = request.getfixturevalue("servers")
    if servers is None and "servers" in request.fixturenames:
        servers = request.getfixturevalue("servers")
    seen = {server.tag: len(server.log) for server in servers.all} if servers else {}
    yield
    if servers is None:
        return
    allowed = [text for mark in request.node.iter_markers("errors") for text in mark.args]
    for server in servers.all:
        for event in list(server.log)[seen.get(server.tag, 0) :]:
            if event["level"] == "WARN":
                request.config.stash.setdefault(WARNINGS, []).append((request.node.nodeid, event))
            text = str(event)
            if event["level"] == "ERROR" and not any(word in text for word in allowed):
                pytest.fail(f"sprited logged an error: {event}")
        panics = [line for line in server.raw_log if "panicked at" in line]
        assert not panics, f"sprited panicked: {panics}"


WARNINGS = pytest.StashKey()


def pytest_terminal_summary(terminalreporter, config):
    warnings = config.stash.get(WARNINGS, [])
    if warnings:
        terminalreporter.section("warnings in the server's log")
        for test, event in warnings:
            terminalreporter.line(f"{test}: {event}")


def pytest_unconfigure(config):
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter:
        count = {key: len(reporter.stats.get(key, [])) for key in ("passed", "failed", "error")}
        # For scripts: one line of one shape.
        print(f"{count['passed']} passed, {count['failed'] + count['error']} failed")
