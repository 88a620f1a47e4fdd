"""The HTTP contract, without an SDK: what every endpoint answers to good, wrong and hostile
requests."""

import json
import re
import socket
import threading
import time

import pytest

from harness import raw
from harness.api import Api, new_name
from harness.wait import eventually

#: Method and path below `/v1/sprites/{name}` of everything that this server does.
SPRITE_CALLS = [
    ("GET", ""),
    ("PUT", ""),
    ("DELETE", ""),
    ("GET", "/check"),
    ("GET", "/logs"),
    ("POST", "/restart"),
    ("POST", "/upgrade"),
    ("GET", "/exec"),
    ("HEAD", "/exec"),
    ("POST", "/exec?cmd=true"),
    ("GET", "/exec/12345"),
    ("POST", "/exec/12345/kill"),
    ("GET", "/fs/read?path=/etc/hostname"),
    ("PUT", "/fs/write?path=/tmp/x"),
    ("GET", "/fs/list?path=/"),
    ("DELETE", "/fs/delete?path=/tmp/x"),
    ("POST", "/fs/rename"),
    ("POST", "/fs/copy"),
    ("POST", "/fs/chmod"),
    ("POST", "/fs/chown"),
]
#: What a later release does.
NOT_YET = [
    ("POST", "/checkpoint"),
    ("GET", "/checkpoints"),
    ("GET", "/checkpoints/v1"),
    ("POST", "/checkpoints/v1/restore"),
    ("GET", "/services"),
    ("PUT", "/services/web"),
    ("POST", "/services/web/start"),
    ("GET", "/policy/network"),
    ("POST", "/policy/network"),
    ("GET", "/policy/privileges"),
    ("GET", "/policy/resources"),
    ("GET", "/proxy"),
    ("GET", "/ports/watch"),
    ("GET", "/fs/watch"),
    ("GET", "/tasks"),
]
OTHER_CALLS = [("GET", "/v1/sprites"), ("POST", "/v1/sprites"), ("GET", "/v1/organization")]
TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{3}|\.\d{6})?Z")
VERSION = re.compile(r"\d+\.\d+\.\d+(-rc\d+)?")


def check_error(answer, *statuses):
    """Checks the one shape of errors."""
    assert answer.status_code in statuses, f"{answer.status_code}: {answer.text}"
    assert answer.headers["content-type"].startswith("application/json")
    body = answer.json()
    assert isinstance(body["error"], str) and body["error"]
    assert isinstance(body.get("message", ""), str)
    for field, kind in (("limit", int), ("retry_after_seconds", int), ("errors", list)):
        assert isinstance(body.get(field, kind()), kind)
    return body


def check_sprite(body):
    """Checks the shape of a sprite object."""
    assert body["id"] and isinstance(body["id"], str)
    assert isinstance(body["name"], str)
    assert body["status"] in ("cold", "warm", "running")
    assert VERSION.fullmatch(body["version"])
    assert re.match(r"https?://", body["url"])
    assert body["url_settings"]["auth"] in ("sprite", "public")
    assert body["organization"] == body["org_slug"]
    assert all(isinstance(label, str) for label in body["labels"])
    for field in ("created_at", "updated_at"):
        assert TIMESTAMP.fullmatch(body[field]), body[field]
    for field in ("last_running_at", "last_warming_at"):
        assert body[field] is None or TIMESTAMP.fullmatch(body[field]), body[field]
    assert body["environment"] is None or all(isinstance(v, str) for v in body["environment"].values())
    return body


# Who may


@pytest.mark.parametrize(("method", "path"), SPRITE_CALLS + NOT_YET)
def test_without_a_good_token_every_call_is_401(server, sprite, method, path):
    org_token = server.token.rsplit("/", 1)[0]
    for headers in (
        {},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer nobody/knows/this/token"},
        {"Authorization": f"Bearer {org_token}/wrong"},
        {"Authorization": f"Bearer {server.token}x"},
        {"Authorization": f"Basic {server.token}"},
        {"Authorization": "Bearer " + "x" * 20_000},
    ):
        api = Api(server.url, None)
        answer = api.http.request(method, f"/v1/sprites/{sprite.name}{path}", headers=headers)
        api.close()
        assert answer.status_code == 401
        if method != "HEAD":
            assert check_error(answer, 401)["error"] == "unauthorized"


@pytest.mark.parametrize(("method", "path"), OTHER_CALLS)
def test_without_a_token_collections_are_401(server, method, path):
    api = Api(server.url, None)
    check_error(api.http.request(method, path), 401)
    api.close()


@pytest.mark.parametrize(("method", "path"), SPRITE_CALLS + NOT_YET)
def test_a_foreign_sprite_looks_like_one_that_does_not_exist(foreign, sprite, method, path):
    theirs = foreign.http.request(method, f"/v1/sprites/{sprite.name}{path}", content=b"{}")
    nobodys = foreign.http.request(method, f"/v1/sprites/{new_name()}{path}", content=b"{}")
    assert theirs.status_code == nobodys.status_code == 404
    if method != "HEAD":
        assert check_error(theirs, 404)["error"] == "sprite not found"
        assert theirs.content == nobodys.content
    assert sprite.get()["name"] == sprite.name


def test_orgs_do_not_see_each_others_sprites(api, foreign, sprite):
    names = [s["name"] for s in foreign.http.get("/v1/sprites").json()["sprites"]]
    assert sprite.name not in names
    # The same name is free in another org.
    assert foreign.http.post("/v1/sprites", json={"name": sprite.name}).status_code == 201
    assert foreign.http.get(f"/v1/sprites/{sprite.name}").json()["id"] != sprite.get()["id"]
    assert foreign.http.delete(f"/v1/sprites/{sprite.name}").status_code == 204
    assert api.http.get(f"/v1/sprites/{sprite.name}").status_code == 200


def test_a_revoked_token_opens_nothing_at_once(server):
    token = server.new_token("revoked")
    api = Api(server.url, token)
    assert api.http.get("/v1/sprites").status_code == 200
    server.admin("token", "revoke", "--org", "revoked", token.split("/")[2])
    check_error(api.http.get("/v1/sprites"), 401)
    api.close()


def test_tokens_are_not_kept_readable(server, api):
    from pathlib import Path

    folder = next(e["data_dir"] for e in server.events("up"))
    secret = server.token.split("/")[3].encode()
    files = [p for p in Path(folder).rglob("*") if p.is_file() and p.suffix in ("", ".db", ".db-wal", ".json")]
    small = [p for p in files if p.stat().st_size < 64 << 20]
    assert any(p.suffix == ".db" for p in small)
    assert not [p for p in small if secret in p.read_bytes()]
    assert not [line for line in server.raw_log if server.token.split("/")[3] in line]


def test_a_token_makes_tokens_of_its_own_org_only(server, api):
    answer = api.http.post("/v1/organizations/test/tokens", json={"description": "d"})
    assert answer.status_code in (200, 201)
    token = answer.json()["token"]
    assert re.fullmatch(r"test/[\w-]+/[\w-]+/[\w-]+", token)
    other = Api(server.url, token)
    assert other.http.get("/v1/organization").json()["organization"]["slug"] == "test"
    other.close()
    check_error(api.http.post("/v1/organizations/strangers/tokens", json={}), 403, 404)


# Headers


def test_every_answer_has_its_own_request_id(api, sprite):
    ids = set()
    answers = [
        api.http.get("/healthz"),
        api.http.get("/nothing/here"),
        api.http.get("/v1/sprites"),
        api.http.get(sprite.path),
        api.http.get(f"/v1/sprites/{new_name()}"),
        sprite.call("HEAD", "/exec"),
        sprite.call("POST", "/exec?cmd=true"),
        sprite.fs("GET", "read", params={"path": "/etc/hostname"}),
        api.http.get("/v1/sprites", headers={"Authorization": "Bearer x"}),
        api.http.patch("/v1/sprites"),
    ]
    for answer in answers:
        ids.add(answer.headers["x-request-id"])
    assert len(ids) == len(answers)


@pytest.mark.parametrize(("method", "path"), [c for c in SPRITE_CALLS if c not in (("DELETE", ""), ("POST", "/restart"))])
def test_the_sprites_version_is_on_every_answer_below_it(sprite, method, path):
    answer = sprite.call(method, path)
    if path:
        assert VERSION.fullmatch(answer.headers["sprite-version"])
    if method != "HEAD" and not path.startswith(("/fs/read", "/exec?")):
        assert answer.headers["content-type"].startswith("application/json"), answer.text


def test_the_version_is_also_on_errors_below_a_sprite(api, sprite):
    for answer in (
        sprite.call("GET", "/nothing"),
        sprite.call("GET", "/fs/read?path=/no/such/file"),
        sprite.call("GET", "/services"),
        api.http.get(f"/v1/sprites/{new_name()}/exec"),
    ):
        assert VERSION.fullmatch(answer.headers["sprite-version"]), answer.url


def test_what_is_not_there_yet_is_a_501_that_says_so(sprite):
    for method, path in NOT_YET:
        body = check_error(sprite.call(method, path), 501)
        assert body["error"] == "not_implemented" and body["message"], path


def test_control_is_refused_so_that_sdks_fall_back(sprite):
    check_error(sprite.call("GET", "/control"), 404)


def test_unknown_routes_and_methods_are_json_and_never_redirects(api, sprite):
    for method, path in (
        ("GET", "/"),
        ("GET", "/v1"),
        ("GET", "/v1/nothing"),
        ("GET", "/v1/sprites/"),
        ("GET", f"{sprite.path}/"),
        ("GET", f"{sprite.path}/nothing"),
        ("GET", f"{sprite.path}/fs/"),
        ("GET", f"{sprite.path}/fs/nothing"),
        ("GET", f"{sprite.path}//exec"),
        ("GET", "/v1/sprites/%2e%2e/%2e%2e/etc"),
        ("GET", "/v1/sprites/a%2Fb"),
        ("GET", "/v1/sprites/%00"),
        ("GET", "/v1/sprites/%ff"),
    ):
        check_error(api.http.request(method, path), 404)
    for method, path in (
        ("PATCH", "/v1/sprites"),
        ("DELETE", "/v1/sprites"),
        ("POST", sprite.path),
        ("POST", f"{sprite.path}/fs/write"),
        ("GET", f"{sprite.path}/fs/rename"),
        ("PUT", f"{sprite.path}/exec"),
        ("GET", f"{sprite.path}/exec/1/kill"),
        ("POST", "/healthz"),
    ):
        check_error(api.http.request(method, path), 405)


def test_health_is_told_without_a_token(server):
    api = Api(server.url, None)
    assert api.http.get("/healthz").status_code == 200
    api.close()


def test_sprite_urls_are_reserved(api, sprite):
    host = sprite.get()["url"].split("//")[1]
    check_error(api.http.get("/", headers={"Host": host}), 501)
    # And the API is not to be had there.
    check_error(api.http.get("/v1/sprites", headers={"Host": host}), 501)


# Sprites


def test_create_answers_with_the_whole_sprite_and_echoes_it(api):
    fields = {
        "config": {"ram_mb": 256, "cpus": 2, "storage_gb": 1, "region": "x"},
        "environment": {"A": "1", "empty": "", "ünï": "cödé"},
        "url_settings": {"auth": "public", "private_access": "org_users"},
        "labels": ["z", "a", "", "a b", "ü"],
        "wait_for_capacity": True,
        "runtime": "default",
        "unknown_field": {"ignored": True},
    }
    name = new_name()
    answer = api.http.post("/v1/sprites", json={"name": name, **fields})
    assert answer.status_code == 201
    try:
        created = check_sprite(answer.json())
        for field in ("config", "environment", "url_settings", "labels"):
            assert created[field] == fields[field]
        got = check_sprite(api.http.get(f"/v1/sprites/{name}").json())
        assert {k: got[k] for k in ("id", "url", "labels", "config")} == {
            k: created[k] for k in ("id", "url", "labels", "config")
        }
    finally:
        api.http.delete(f"/v1/sprites/{name}")


def test_partial_and_absent_fields_have_defaults(api, new_sprite):
    created = new_sprite(config={"cpus": 1}, wait=False).created
    assert created["config"]["cpus"] == 1
    assert created["url_settings"]["auth"] == "sprite"
    assert created["labels"] == []
    created = new_sprite(wait=False, labels=None, environment=None, config=None).created
    check_sprite(created)


def test_names_of_63_characters_work_and_invalid_ones_are_refused(api, new_sprite):
    long = f"{'n' * 30}-{new_name()}"
    long += "9" * (63 - len(long))
    assert new_sprite(long).sh("echo $SPRITE_URL").startswith("http")
    for name in ("", "-a", "a-", "A", "a_b", "a.b", "a b", "a/b", "ü", "x" * 64, "a\n", "a\0", "..", None, 5, [], {}):
        answer = api.http.post("/v1/sprites", json={"name": name})
        check_error(answer, 400, 422)
    check_error(api.http.post("/v1/sprites", json={}), 400, 422)


def test_a_taken_name_is_a_conflict(api, sprite):
    body = check_error(api.http.post("/v1/sprites", json={"name": sprite.name}), 409)
    assert "already exists" in body["error"] + body["message"]


BAD_BODIES = [
    b"",
    b"{",
    b"[]",
    b"null",
    b"\xff\xfe",
    b'"text"',
    b'{"name":"a"',
    b'{"name":"a"} trailing',
    b'{"name":"a","labels":"x"}',
    b'{"name":"a","labels":[1]}',
    b'{"name":"a","environment":{"A":1}}',
    b'{"name":"a","environment":["A=1"]}',
    b'{"name":"a","config":"big"}',
    b'{"name":"a","config":{"cpus":"two"}}',
    b'{"name":"a","config":{"cpus":-1}}',
    b'{"name":"a","config":{"ram_mb":99999999999999999999}}',
    b'{"name":"a","url_settings":{"auth":"everybody"}}',
    b'{"name":"a","url_settings":[]}',
    b'{"name":"a","runtime":"gpu"}',
    b'{"name":"a","wait_for_capacity":"yes"}',
    b'{"name":"a","name":"b"}',
    b'{"name":' + b'[' * 5000,
    b'{"name":"a","x":' + b'{"x":' * 5000,
]


@pytest.mark.parametrize("body", BAD_BODIES, ids=[str(b[:40]) for b in BAD_BODIES])
def test_a_bad_body_is_a_400_and_creates_nothing(api, body):
    check_error(api.http.post("/v1/sprites", content=body), 400, 422)
    assert api.http.get("/v1/sprites/a").status_code == 404


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"labels":{}}', b'{"url_settings":{"auth":"x"}}', b"\xff"])
def test_a_bad_update_is_a_400_and_changes_nothing(sprite, body):
    before = sprite.get()
    check_error(sprite.call("PUT", "", content=body), 400, 422)
    assert sprite.get()["labels"] == before["labels"]


def test_a_body_that_is_too_large_is_refused(api, sprite):
    huge = b'{"name":"a","labels":["' + b"x" * (8 << 20) + b'"]}'
    check_error(api.http.post("/v1/sprites", content=huge), 400, 413, 422)
    check_error(sprite.call("PUT", "", content=huge), 400, 413, 422)
    check_error(sprite.fs("POST", "rename", content=huge), 400, 413, 422)
    check_error(sprite.call("POST", "/exec/1/kill", content=huge), 400, 404, 413)
    assert api.http.get("/healthz").status_code == 200


def test_absurd_lengths_are_refused(api):
    for field in (
        {"labels": ["x" * 100_000]},
        {"labels": ["x"] * 10_000},
        {"environment": {"A": "x" * 900_000}},
        {"environment": {f"A{i}": "" for i in range(20_000)}},
        {"environment": {"": "x"}},
        {"environment": {"A=B": "x"}},
        {"environment": {"A": "x\0y"}},
        {"config": {"region": "x" * 100_000}},
    ):
        check_error(api.http.post("/v1/sprites", json={"name": new_name(), **field}), 400, 413, 422)


def test_updates_are_partial_and_immediate(sprite):
    def update(**body):
        answer = sprite.call("PUT", "", json=body)
        assert answer.status_code == 200, answer.text
        return check_sprite(answer.json())

    assert update(labels=["a", "b"])["labels"] == ["a", "b"]
    assert update(url_settings={"auth": "public"})["labels"] == ["a", "b"]
    assert update(url_settings={"auth": ""})["url_settings"]["auth"] == "public"
    assert update(url_settings={"private_access": "admins"})["url_settings"] == {
        "auth": "public",
        "private_access": "admins",
    }
    assert update(clear_labels=True)["labels"] == []
    assert update(labels=["c"])["labels"] == ["c"]
    assert update(labels=[])["labels"] == []
    before = sprite.get()
    assert update()["labels"] == []
    assert update(url_settings={"auth": "sprite"})["updated_at"] >= before["updated_at"]


def test_lists_page_clamp_and_filter(api):
    prefix = new_name("list")
    names = sorted(f"{prefix}-{i}" for i in range(5))
    for name in names:
        assert api.http.post("/v1/sprites", json={"name": name}).status_code == 201
    try:
        seen, token, pages = [], None, 0
        while True:
            params = {"prefix": prefix, "max_results": 2}
            if token:
                params["continuation_token"] = token
            body = api.http.get("/v1/sprites", params=params).json()
            seen += [check_sprite(s)["name"] for s in body["sprites"]]
            pages += 1
            assert body["has_more"] == (body["next_continuation_token"] is not None)
            token = body["next_continuation_token"]
            if not token:
                break
        assert (seen, pages) == (names, 3)
        for size in ("100", "1000000", "0", "-1", "x", ""):
            params = {"prefix": prefix, "max_results": size, "bulk_load": "true"}
            assert api.http.get("/v1/sprites", params=params).status_code == 200
        body = api.http.get("/v1/sprites").json()
        for field in ("running", "warm", "cold", "running_limit", "warm_limit"):
            assert body[field] == body["org"][field] and isinstance(body[field], int)
        assert body["name"] == body["org"]["name"] == "test"
        for prefix in ("nothing-begins-so", "%", "_", "'", "\0", "x" * 10_000):
            answer = api.http.get("/v1/sprites", params={"prefix": prefix})
            assert answer.status_code == 200 and answer.json()["sprites"] == []
        for token in ("x", "../../etc", "%00", "x" * 10_000):
            answer = api.http.get("/v1/sprites", params={"continuation_token": token})
            check_error(answer, 400)
    finally:
        for name in names:
            api.http.delete(f"/v1/sprites/{name}")


def test_a_watch_is_a_stream_of_lines(server, api):
    prefix = new_name("ndjson")
    with raw.connect(server.url) as connection:
        connection.sendall(
            raw.head("GET", f"/v1/sprites?prefix={prefix}", server.token, "Accept: application/x-ndjson")
        )
        reader = raw.Reader(connection)
        status, headers = reader.head()
        assert status == 200
        assert headers["content-type"] == "application/x-ndjson"
        assert headers["cache-control"] == "no-cache"
        assert headers["x-content-type-options"] == "nosniff"
        events = []

        def read():
            try:
                for chunk in reader.chunks():
                    events.extend(json.loads(line) for line in chunk.splitlines())
            except (OSError, EOFError, ValueError):
                pass

        thread = threading.Thread(target=read, daemon=True)
        thread.start()
        sprite = api.create(f"{prefix}-a")
        of_sprite = lambda: [e for e in events if e.get("name") == sprite.name]
        eventually("it is told to run", lambda: any(e["status"] == "running" for e in of_sprite()))
        event = of_sprite()[-1]
        assert TIMESTAMP.fullmatch(event["timestamp"]) and event["org"]["name"] == "test"
        assert not [e for e in events if e.get("name") and not e["name"].startswith(prefix)]
        sprite.delete()
        connection.shutdown(socket.SHUT_RDWR)
        thread.join(10)


def test_delete_is_fast_and_the_name_is_free(api, new_sprite):
    sprite = new_sprite()
    started = time.monotonic()
    answer = sprite.delete()
    assert (answer.status_code, answer.content) == (204, b"")
    assert time.monotonic() - started < 5
    assert api.http.get(sprite.path).status_code == 404
    assert check_error(sprite.delete(), 404)["error"] == "sprite not found"
    again = new_sprite(sprite.name)
    assert again.created["id"] != sprite.created["id"]
    # Nothing of the first one is in the second.
    assert again.sessions() == []


def test_delete_with_open_sockets_closes_them(new_sprite):
    sprite = new_sprite()
    sockets = [sprite.socket("sleep", "300") for _ in range(3)]
    sockets += [sprite.socket("cat", tty=True, stdin=True)]
    for each in sockets:
        assert each.info["type"] == "session_info"
    started = time.monotonic()
    assert sprite.delete().status_code == 204
    assert time.monotonic() - started < 5
    for each in sockets:
        while each.receive(10) is not None:
            pass
        assert each.closed_with is not None
        each.vanish()


def test_check_tells_health_without_waking(sprite):
    body = sprite.call("GET", "/check").json()
    assert body["sprite_name"] == sprite.name and body["sprite_id"]
    assert body["status"] == "healthy"
    assert TIMESTAMP.fullmatch(body["checked_at"])
    assert body["reason"] is None or isinstance(body["reason"], str)


def test_restart_answers_with_the_new_machine(new_sprite):
    sprite = new_sprite()
    body = sprite.call("POST", "/restart").json()
    assert body["sprite_name"] == sprite.name and body["machine_id"] and body["message"]
    assert sprite.call("POST", "/restart").json()["machine_id"] != body["machine_id"]
    assert sprite.sh("echo usable") == "usable\n"


def test_restart_ends_sessions_and_tells_their_clients(new_sprite):
    sprite = new_sprite()
    with sprite.socket("sleep", "300") as socket:
        assert socket.info
        assert sprite.call("POST", "/restart").status_code == 200
        while socket.receive(20) is not None:
            pass
        assert socket.closed_with is not None
    assert sprite.sessions() == []


def test_the_environment_of_a_sprite_reaches_its_commands(new_sprite):
    sprite = new_sprite(environment={"FROM_CREATE": "a b", "HOME": "/tmp"})
    output = sprite.sh('echo "$FROM_CREATE|$HOME|$OWN"', env=["OWN=1"])
    assert output == "a b|/tmp|1\n"
    assert sprite.sh("echo $FROM_CREATE", env=["FROM_CREATE=overridden"]) == "overridden\n"


def test_logs_and_upgrade_are_answered(sprite):
    assert isinstance(sprite.call("GET", "/logs?limit=5").json(), list)
    body = sprite.call("POST", "/upgrade", json={"version": "x"}).json()
    assert body == {"name": sprite.name, "status": "upgraded"}


# Sessions over HTTP


def test_sessions_are_listed_with_their_types(sprite):
    assert sprite.call("GET", "/exec").json() == {"count": 0, "sessions": []}
    with sprite.socket("sh", "-c", "sleep 300; true", dir="/tmp") as socket:
        session_id = socket.info["session_id"]
        body = sprite.call("GET", "/exec").json()
        assert body["count"] == 1
        (session,) = body["sessions"]
        assert session["id"] == session_id and session_id.isdigit()
        assert re.fullmatch(r"/\S*sh -c sleep 300; true", session["command"])
        assert session["workdir"] == "/tmp" and session["tty"] is False
        assert TIMESTAMP.fullmatch(session["created"])
        assert isinstance(session["bytes_per_second"], (int, float))
        assert isinstance(session["is_active"], bool)
        assert session.get("last_activity") != ""
        assert sprite.call("GET", f"/exec/{session_id}").json()["id"] == session_id
        assert sprite.call("POST", f"/exec/{session_id}/kill?signal=KILL").status_code == 200
    body = check_error(sprite.call("GET", f"/exec/{session_id}"), 404)
    assert f"session not found: {session_id}" in body["error"] + body.get("message", "")


def test_head_of_exec_is_a_version_probe(sprite):
    answer = sprite.call("HEAD", "/exec")
    assert (answer.status_code, answer.content) == (200, b"")
    assert VERSION.fullmatch(answer.headers["sprite-version"])


def test_get_with_a_command_is_refused_without_an_upgrade(sprite):
    check_error(sprite.call("GET", "/exec?cmd=true"), 400)


@pytest.mark.parametrize("id", ["0", "99999999", "-1", "abc", "1e9", "9" * 100, "%2e%2e", "%00", "1%2F2"])
def test_unknown_sessions_are_404(sprite, id):
    check_error(sprite.call("GET", f"/exec/{id}"), 404)
    check_error(sprite.call("POST", f"/exec/{id}/kill"), 404)


def kill_events(answer):
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/x-ndjson"
    return [json.loads(line) for line in answer.text.splitlines()]


@pytest.mark.parametrize("signal", ["TERM", "SIGTERM", "sigterm", "15", "INT", "HUP", "QUIT", "USR1", "9"])
def test_signals_have_many_spellings(sprite, signal):
    with sprite.socket("sleep", "300") as socket:
        session_id = socket.info["session_id"]
        events = kill_events(sprite.call("POST", f"/exec/{session_id}/kill", params={"signal": signal}))
        assert [e["type"] for e in events][0] == "signal"
        assert [e["type"] for e in events][-1] == "complete"
        assert events[0]["pid"] and events[0]["signal"].startswith("SIG")


def test_a_kill_tells_the_order_of_things(sprite):
    with sprite.socket("sleep", "300") as socket:
        session_id = socket.info["session_id"]
        events = kill_events(sprite.call("POST", f"/exec/{session_id}/kill"))
        assert [e["type"] for e in events] == ["signal", "exited", "complete"]
        assert events[-1]["exit_code"] == 143
    # After the end it is gone for a while, then unknown.
    check_error(sprite.call("POST", f"/exec/{session_id}/kill"), 410)


def test_a_kill_by_body_waits_as_long_as_it_says(sprite):
    script = "trap '' TERM; echo ready; while :; do sleep 0.2; done"
    with sprite.socket("bash", "-c", script) as socket:
        socket.read_until("ready")
        path = f"/exec/{socket.session_id}/kill"
        body = {"signal": "SIGTERM", "timeout": 1}
        events = kill_events(sprite.call("POST", path, json=body))
        assert [e["type"] for e in events] == ["signal", "timeout", "signal", "killed", "complete"]
        assert events[2]["signal"] == "SIGKILL" and events[-1]["exit_code"] == 137


def test_a_kill_without_patience_sends_and_returns(sprite):
    script = "trap 'echo caught' USR1; echo ready; while :; do sleep 0.1; done"
    with sprite.socket("bash", "-c", script) as socket:
        socket.read_until("ready")
        path = f"/exec/{socket.session_id}/kill?signal=USR1&timeout=0s"
        events = kill_events(sprite.call("POST", path))
        assert [e["type"] for e in events] == ["signal", "complete"]
        assert events[-1].get("exit_code", -1) == -1
        socket.read_until("caught")
        kill_events(sprite.call("POST", f"/exec/{socket.session_id}/kill?signal=KILL"))


def test_bad_kills_are_refused(sprite):
    with sprite.socket("sleep", "300") as socket:
        path = f"/exec/{socket.info['session_id']}/kill"
        for query in ("signal=NONSENSE", "signal=0", "signal=99", "signal=-1", "timeout=soon", "timeout=-1"):
            check_error(sprite.call("POST", f"{path}?{query}"), 400)
        for body in (b"{", b"[]", b'{"signal":[]}', b'{"timeout":"x"}'):
            check_error(sprite.call("POST", path, content=body), 400)
        kill_events(sprite.call("POST", f"{path}?signal=KILL"))


# Bytes


@pytest.mark.parametrize("kib", [60, 200, 1000])
def test_request_targets_may_be_long(server, sprite, kib):
    # Spread over arguments: one of more than 128 KiB cannot be passed to a program.
    count = max(1, kib // 60)
    size = kib * 1024 // count - 10
    query = "".join(f"&cmd={'x' * size}" for _ in range(count))
    target = f"{sprite.path}/exec?cmd=sh&cmd=-c&cmd=echo+%24%23+%24%7B%23%40%7D&cmd=sh{query}"
    data = raw.head("POST", target, server.token, "Content-Length: 0")
    status, headers, body = raw.request(server.url, data)
    assert status == 200, body
    assert body.startswith(b"\x01" + str(count).encode()), body[:100]
    assert body.endswith(b"\x03\x00")


def test_request_targets_beyond_the_limit_are_refused(server, sprite):
    target = f"{sprite.path}/exec?cmd={'x' * (1200 << 10)}"
    with raw.connect(server.url) as connection:
        try:
            connection.sendall(raw.head("POST", target, server.token, "Content-Length: 0"))
        except ConnectionError:
            pass
        status, _, body = raw.Reader(connection).answer()
        assert status in (400, 414, 431)
        assert json.loads(body)["error"]


def test_heads_that_are_too_large_are_refused(server):
    for extra in ("X-Long: " + "x" * (2 << 20), "\r\n".join(f"X-{i}: y" for i in range(5000))):
        with raw.connect(server.url) as connection:
            try:
                connection.sendall(raw.head("GET", "/healthz", None, extra))
            except ConnectionError:
                pass
            status, _, _ = raw.Reader(connection).answer()
            assert status in (400, 413, 431)


def test_one_connection_serves_many_requests(server, sprite):
    with raw.connect(server.url) as connection:
        reader = raw.Reader(connection)
        for i in range(20):
            long = "x" * (70_000 if i % 3 == 0 else 10)
            connection.sendall(raw.head("GET", f"{sprite.path}?pad={long}", server.token))
            status, _, body = reader.answer()
            assert status == 200 and json.loads(body)["name"] == sprite.name


def test_pipelined_requests_are_answered_in_order(server, sprite):
    paths = [f"{sprite.path}/exec?cmd=echo&cmd={i}&path=echo" for i in range(5)]
    requests = b""
    for i, path in enumerate(paths):
        pad = "&cmd=" + "p" * 70_000 if i == 2 else ""
        requests += raw.head("POST", path + pad, server.token, "Content-Length: 4") + b"body"
        requests += raw.head("GET", "/healthz", server.token)
    with raw.connect(server.url) as connection:
        sender = threading.Thread(target=connection.sendall, args=(requests,))
        sender.start()
        reader = raw.Reader(connection)
        for i in range(len(paths)):
            status, _, body = reader.answer()
            assert status == 200
            assert body.startswith(b"\x01%d" % i), body[:50]
            status, _, body = reader.answer()
            assert status == 200 and b"ok" in body
        sender.join(10)


def test_a_head_may_come_byte_by_byte(server, sprite):
    data = raw.head("GET", sprite.path, server.token)
    with raw.connect(server.url) as connection:
        for i in range(len(data)):
            connection.sendall(data[i : i + 1])
        assert raw.Reader(connection).answer()[0] == 200


def test_a_request_may_come_in_any_pieces(server, sprite):
    body = json.dumps({"labels": ["pieces"]}).encode()
    data = raw.head("PUT", sprite.path, server.token, f"Content-Length: {len(body)}") + body
    for size in (2, 3, 7, 50, len(data) - len(body) - 1, len(data) - len(body) + 1):
        with raw.connect(server.url) as connection:
            for i in range(0, len(data), size):
                connection.sendall(data[i : i + size])
                # Apart from each other on the wire, as far as that can be arranged.
                time.sleep(0.001)
            status, _, answer = raw.Reader(connection).answer()
            assert status == 200 and json.loads(answer)["labels"] == ["pieces"]
    sprite.call("PUT", "", json={"labels": []})


def test_a_slow_sender_does_not_hold_others_up(server, api, sprite):
    slow = [raw.connect(server.url) for _ in range(20)]
    try:
        for connection in slow:
            connection.sendall(b"GET /v1/spr")
        started = time.monotonic()
        assert api.http.get(sprite.path).status_code == 200
        assert time.monotonic() - started < 10
    finally:
        for connection in slow:
            connection.close()


def test_chunked_bodies_are_read(server, sprite):
    body = b'{"labels":["chunked"]}'
    data = raw.head("PUT", sprite.path, server.token, "Transfer-Encoding: chunked")
    for byte in body:
        data += b"1\r\n%c\r\n" % byte
    data += b"0\r\n\r\n"
    status, _, answer = raw.request(server.url, data)
    assert status == 200 and json.loads(answer)["labels"] == ["chunked"]
    sprite.call("PUT", "", json={"labels": []})


def test_expect_continue_is_answered(server, sprite):
    body = b"content"
    target = f"{sprite.path}/fs/write?path=/tmp/{new_name()}"
    with raw.connect(server.url) as connection:
        headers = (f"Content-Length: {len(body)}", "Expect: 100-continue")
        connection.sendall(raw.head("PUT", target, server.token, *headers))
        reader = raw.Reader(connection)
        assert reader.head()[0] == 100
        connection.sendall(body)
        assert reader.answer()[0] == 200


MALFORMED = [
    b"\r\n\r\n",
    b"GET\r\n\r\n",
    b"GET / HTTP/9.9\r\n\r\n",
    b"GET /\x00 HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nBad Header\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nX: a\x00b\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, nonsense\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    bytes(range(256)) * 10 + b"\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 500 + b"\r\n\r\n",
]


@pytest.mark.parametrize("data", MALFORMED, ids=range(len(MALFORMED)))
def test_what_is_not_http_is_refused_and_the_connection_closed(server, api, data):
    with raw.connect(server.url, timeout=40) as connection:
        try:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
        except ConnectionError:
            pass
        reader = raw.Reader(connection)
        try:
            status, _ = reader.head()
            assert 400 <= status < 600
        except (EOFError, ConnectionError):
            pass
    assert api.http.get("/healthz").status_code == 200


def test_a_smuggled_request_is_not_served(server, sprite):
    """Length and chunks at once: whoever stands before us may believe the other one."""
    smuggled = raw.head("DELETE", sprite.path, server.token)
    data = raw.head(
        "GET", "/healthz", None, f"Content-Length: {len(smuggled) + 5}", "Transfer-Encoding: chunked"
    )
    data += b"0\r\n\r\n" + smuggled
    with raw.connect(server.url) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        answers = b""
        try:
            while chunk := connection.recv(65536):
                answers += chunk
        except ConnectionError:
            pass
    assert b" 204 " not in answers
    assert sprite.get()["name"] == sprite.name


def test_a_client_that_leaves_mid_request_harms_nobody(server, api, sprite):
    for data in (
        raw.head("PUT", f"{sprite.path}/fs/write?path=/tmp/never", server.token, "Content-Length: 1000") + b"part",
        raw.head("POST", "/v1/sprites", server.token, "Content-Length: 1000") + b'{"name":"never',
        raw.head("POST", f"{sprite.path}/exec?cmd=cat&stdin=true", server.token, "Content-Length: 9") + b"x",
        raw.head("GET", "/v1/sprites", server.token, "Accept: application/x-ndjson"),
    ):
        connection = raw.connect(server.url)
        connection.sendall(data)
        connection.close()
    eventually("no session is left", lambda: sprite.sessions() == [], 30)
    check_error(sprite.fs("GET", "read", params={"path": "/tmp/never"}), 404)
    assert api.http.get("/v1/sprites/never").status_code == 404


# Posted commands


def post_exec(server, sprite, query, body=b"", *headers):
    data = raw.head(
        "POST", f"{sprite.path}/exec?{query}", server.token, f"Content-Length: {len(body)}", *headers
    )
    with raw.connect(server.url) as connection:
        connection.sendall(data + body)
        reader = raw.Reader(connection)
        status, headers = reader.head()
        if headers.get("transfer-encoding") != "chunked":
            return status, headers, [reader.take(int(headers["content-length"]))]
        return status, headers, list(reader.chunks())


def test_a_posted_command_answers_one_frame_per_chunk(server, sprite):
    status, headers, chunks = post_exec(server, sprite, "cmd=sh&cmd=-c&cmd=echo%20hi&path=sh")
    assert status == 200
    assert headers["content-type"] == "application/octet-stream"
    assert headers["x-content-type-options"] == "nosniff"
    assert chunks == [b"\x01hi\n", b"\x03\x00"]


def test_a_posted_command_has_both_streams_its_code_and_its_input(server, sprite):
    script = "cat;echo%20err%3E%262;exit%209"
    _, _, chunks = post_exec(server, sprite, f"cmd=sh&cmd=-c&cmd={script}&stdin=true", b"typed\n")
    assert b"".join(c[1:] for c in chunks if c[0] == 1) == b"typed\n"
    assert b"".join(c[1:] for c in chunks if c[0] == 2) == b"err\n"
    assert chunks[-1] == b"\x03\x09"
    # Without `stdin=true` the body is ignored.
    assert post_exec(server, sprite, "cmd=cat", b"typed")[2] == [b"\x03\x00"]


def test_posted_output_comes_in_frames_of_8_kib_at_most(server, sprite):
    _, _, chunks = post_exec(server, sprite, "cmd=head&cmd=-c&cmd=200000&cmd=/dev/zero")
    assert all(len(c) <= 8193 and c[0] == 1 for c in chunks[:-1])
    assert sum(len(c) - 1 for c in chunks[:-1]) == 200_000
    assert chunks[-1] == b"\x03\x00"


def test_a_posted_command_that_cannot_start_tells_so_in_frames(server, sprite):
    for query, code in (
        ("cmd=no-such-command", 127),
        ("cmd=/", 126),
        (f"cmd=true&cmd={'x' * 200 * 1024}", 126),
        ("cmd=true&dir=/no/such/folder", 1),
    ):
        status, _, chunks = post_exec(server, sprite, query)
        assert status == 200
        assert chunks[0][0] == 2 and len(chunks[0]) > 1
        assert chunks[-1] == bytes([3, code]), query[:50]


@pytest.mark.parametrize("query", ["tty=true&cmd=a", "id=1", "session_id=1", "detachable=true&cmd=a", "cc=true&cmd=a", ""])
def test_what_needs_a_socket_cannot_be_posted(sprite, query):
    check_error(sprite.call("POST", f"/exec?{query}"), 400)


def test_two_posted_commands_run_on_one_connection(server, sprite):
    with raw.connect(server.url) as connection:
        reader = raw.Reader(connection)
        for word in ("one", "two"):
            target = f"{sprite.path}/exec?cmd=echo&cmd={word}"
            connection.sendall(raw.head("POST", target, server.token, "Content-Length: 0"))
            assert reader.answer()[2] == f"\x01{word}\n\x03\x00".encode()
