"""Who gets credentials: the gateway's exact origin and nobody else. Redirects, links, objects, registries."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys

import pytest

import stella
from conftest import STELLA, surroundings
from gateway import Fault
from wire import Wire, reply

TENANT = "acme"
# What may reach an origin that is not the gateway's, in lower case.
ALLOWED = {"host", "user-agent", "accept", "accept-encoding", "range", "if-range", "cache-control"}
RUN = {"runId": "r1", "profileId": "p", "status": "succeeded", "bundle": {"name": "b.tar", "size": 3, "sha256": None}}


def bytes_of(document) -> bytes:
    return json.dumps(document).encode()


def is_stranger(seen) -> bool:
    """True when a request says nothing about who asks."""
    return set(seen.headers) <= ALLOWED


def origin(text: str):
    return stella.parse_url(text).origin


# ---- what an origin is


@pytest.mark.parametrize(
    "text",
    [
        "http://g.example",
        "https://g.example:444",
        "https://g.example.:443",
        "https://sub.g.example",
        "https://g.example.evil",
        "https://xn--g-example",
        "https://[::1]",
        "https://g.example:80",
    ],
)
def test_another_origin_is_another_origin(text):
    assert origin(text) != origin("https://g.example")


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("HTTPS://G.Example/", "https://g.example"),
        ("https://g.example:443/x?y", "https://g.example"),
        ("https://[0:0::0001]:1", "https://[::1]:1"),
        ("https://bücher.example", "https://xn--bcher-kva.example"),
        ("https://BÜCHER.example", "https://xn--bcher-kva.example"),
        ("https://ｇ.example", "https://g.example"),  # a full-width g is a g to IDNA: the very host that is asked
    ],
)
def test_one_origin_in_two_spellings(text, same):
    assert origin(text) == origin(same)


@pytest.mark.parametrize(
    "text",
    [
        "https://token@g.example",
        "https://a:b@g.example",
        "https://g.example@evil.example",
        "https://evil\\@g.example",
        "https://evil.example\\.g.example",
        "https://g.example/ x",
        "https://g.example\n.evil",
        "https://[::1].evil",
        "https://[::1",
        "https://[evil]",
        "https://[v1.x]",
        "https://g.example:0",
        "https://g.example:65536",
        "https://g.example:٤٤٣",
        "https://g.example:+443",
        "https://g.example:4_4",
        "https://",
        "https:///x",
        "//g.example",
        "ftp://g.example",
        "javascript:x",
        "",
        "https://a..b",
        "https://.a",
        "https://" + "a" * 64,
        "https://g%2eexample",
        "https://g.example／x",
        "https://" + "a." * 130,
        "https://a\u202e.b",
        "https://é" + "a" * 70,
        "https://[fe80::1%25lo]",
    ],
)
def test_no_url_of_ours(text):
    with pytest.raises(ValueError) as caught:
        stella.parse_url(text)
    assert len(text) < 12 or text not in str(caught.value)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("localhost", True),
        ("127.0.0.1", True),
        ("127.255.1.9", True),
        ("::1", True),
        ("127.0.0.999", False),
        ("127.0.0.01", False),
        ("127.1", False),
        ("localhost.evil", False),
        ("128.0.0.1", False),
        ("127.0.0.1.evil", False),
        ("0.0.0.0", False),
        ("::ffff:127.0.0.1", False),
        ("1270.0.0.1", False),
        ("", False),
    ],
)
def test_loopback_is_written_out(host, loopback):
    assert stella.is_loopback(host) is loopback


@pytest.mark.parametrize(
    ("reference", "result"),
    [
        ("/x", "https://g.example/x"),
        ("x", "https://g.example/a/x"),
        ("//evil.example/x", "https://evil.example/x"),
        ("?q", "https://g.example/a/b"),
        ("https:/x", "https://g.example/x"),
        ("http:/x", None),
        ("\\\\evil.example", "https://g.example"),
        ("http://g.example/x", "http://g.example/x"),
        ("//g.example:444/", "https://g.example:444/"),
        (" //evil", None),
        ("//u@evil", None),
        ("data:,x", None),
        ("https://g.example\t.evil", None),
        ("", "https://g.example/a/b"),
    ],
)
def test_a_reference_leads_where_a_browser_would_go_or_nowhere(reference, result):
    base = stella.parse_url("https://g.example/a/b?c")
    try:
        found = str(stella.resolve_url(base, reference))
    except ValueError:
        found = None
    assert found is None if result is None else found is None or found.startswith(result)


# ---- redirects


def redirect_to(wire, form: str) -> str:
    return {
        "absolute": f"{wire.url}/x?sig=presigned",
        "scheme-relative": f"//{wire.origin}/x",
        "other port": f"http://127.0.0.1:{wire.port}/api/export/runs",
    }[form]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("form", ["absolute", "scheme-relative", "other port"])
def test_a_redirect_elsewhere_is_followed_as_a_stranger(cli, gw, status, form):
    with Wire(reply(200, b'{"items": [], "nextCursor": null}')) as other:
        gw.order(Fault.redirect(status, redirect_to(other, form)))
        result = cli("run", "ls", "--tenant", TENANT, gw=gw)
    assert result.code == 0, result
    assert [is_stranger(seen) for seen in other.seen] == [True]


def test_the_gateways_other_name_is_another_origin(cli, gw):
    gw.order(Fault.redirect(302, gw.url.replace("127.0.0.1", "localhost") + "/api/export/runs"))
    result = cli("run", "ls", gw=gw)
    assert result.code == 30
    assert "redirects to http://localhost" in result.err
    assert "Authorization" not in gw.requests[-1].headers


def test_a_redirect_on_the_gateway_keeps_credentials(cli, gw):
    gw.order(Fault.redirect(307, "/api/export/runs?limit=1"))
    assert cli("run", "ls", gw=gw).code == 0
    assert [request.headers.get("Authorization") for request in gw.requests] == [f"Bearer {gw.token}"] * 2


def test_whoever_was_sent_elsewhere_comes_back_as_a_stranger(cli, gw):
    """The other host would choose which of the gateway's documents is read with the user's token."""
    with Wire(reply(302, b"", f"Location: {gw.url}/api/export/profiles")) as other:
        gw.order(Fault.redirect(302, other.url))
        result = cli("run", "ls", gw=gw)
    assert result.code == 30
    assert "Authorization" not in gw.requests[-1].headers


@pytest.mark.parametrize(
    "location",
    [
        "ftp://127.0.0.1/",
        "http://user:secret@127.0.0.1/",
        "http://127.0.0.1:99999/",
        "http://[::1/",
        "",
        "\x85http://x",
        "file:///etc/passwd",
        "http://127.0.0.1 /",
        "http://a..b/",
    ],
)
def test_a_redirect_to_no_place_is_an_error_in_one_line(cli, gw, location):
    with Wire(reply(302, b"", f"Location: {location}")) as bad:
        result = cli("run", "ls", env={"STELLA_SERVER": bad.url, "STELLA_TOKEN": "t-oken-t"})
    assert result.code == 1, result
    assert "redirects GET" in result.err
    assert re.search(r" to a place that (?:is|has|holds) |more than 5 times", result.err), result
    assert "secret" not in result.err
    assert len(bad.seen) == 1 or location == ""


@pytest.mark.parametrize("status", [301, 302, 303])
def test_a_redirected_mutation_is_an_error_even_on_the_gateway(cli, gw, status):
    gw.order(Fault.redirect(status, "/api/export/runs", method="POST"))
    result = cli("run", "submit", "prof-json-raw", "--selector", "tenant=acme", gw=gw)
    assert (result.code, len(gw.requests)) == (1, 1), result


@pytest.mark.parametrize("status", [307, 308])
def test_a_mutation_is_redirected_on_the_gateway_only(cli, gw, status):
    gw.order(Fault.redirect(status, "/api/export/runs", method="POST"))
    assert cli("run", "submit", "prof-json-raw", "--selector", "tenant=acme", gw=gw).code == 0
    assert len({request.headers["Idempotency-Key"] for request in gw.requests}) == 1
    with Wire(reply(202, b"{}")) as other:
        gw.order(Fault.redirect(status, other.url, method="POST"))
        assert cli("run", "submit", "prof-json-raw", "--selector", "tenant=acme", gw=gw).code == 1
    assert other.bytes == b""


@pytest.mark.parametrize("length", [5, 6, 1000])
def test_a_chain_of_redirects_ends(cli, gw, length):
    gw.order(Fault.redirect(302, "/api/export/runs", times=length))
    result = cli("run", "ls", gw=gw)
    assert (result.code, len(gw.requests)) == ((0, 6) if length == 5 else (1, 6)), result


def test_a_loop_between_two_origins_ends(cli, gw):
    with Wire(reply(302, b"", f"Location: {gw.url}/api/export/runs")) as other:
        gw.order(Fault.redirect(302, other.url, times=-1))
        result = cli("run", "ls", gw=gw)
    assert result.code == 1
    assert "more than 5 times" in result.err
    assert all(is_stranger(seen) for seen in other.seen)


def test_events_that_go_elsewhere_take_no_event_id_along(cli, gw):
    run = gw.make_run("prof-json-raw", {"tenants": ["acme"]})
    with Wire(reply(200, b"event: run.succeeded\ndata: {}\n\n", "Content-Type: text/event-stream")) as other:
        gw.order(Fault("GET", r"/events$", events=1))
        gw.order(Fault.redirect(307, other.url, method="GET", path=r"/events$"))
        result = cli("run", "watch", run["runId"], "--json", gw=gw)
    assert result.code == 0, result
    assert [is_stranger(seen) for seen in other.seen] == [True]


# ---- links, objects, registries


@pytest.mark.parametrize("form", ["absolute", "scheme-relative", "userinfo", "other scheme"])
def test_a_link_elsewhere_is_not_followed_at_all(cli, gw, tmp_path, form):
    run = gw.make_bundle_run(b"bundle", name="export.tar")
    with Wire(reply(200, b"bundle")) as other:
        host = gw.url.partition("//")[2]
        link = {
            "absolute": other.url,
            "scheme-relative": f"//{other.origin}/",
            "userinfo": f"http://{host}@{other.origin}/",
            "other scheme": f"https://{host}/",
        }[form]
        gw.patch_run(run["runId"], links=dict.fromkeys(("self", "events", "download"), link))
        assert cli("download", run["runId"], "--offline", "--output", tmp_path / "b", gw=gw).code == 0
        assert cli("run", "watch", run["runId"], gw=gw).code == 0
    assert other.bytes == b""


def test_a_presigned_download_gets_no_credentials_and_its_query_is_not_printed(cli, gw, tmp_path):
    run = gw.make_bundle_run(b"bundle", name="export.tar")
    with Wire([reply(503), reply(403, b"no")]) as other:
        gw.order(Fault.redirect(302, other.url + "/b?X-Sig=presigned-canary", path=r"/download$", times=-1))
        result = cli("download", run["runId"], "--offline", "--trace", "--output", tmp_path / "b", gw=gw)
    assert result.code == 11
    assert "presigned-canary" not in result.err
    assert "credentials stay with the gateway" in result.err
    assert all(is_stranger(seen) for seen in other.seen)
    assert other.seen[0].target == "/b?X-Sig=presigned-canary"


def test_an_object_store_gets_no_credentials_even_on_the_gateways_origin(cli, gw, tmp_path):
    run = gw.make_bundle_run(b"bundle", name="export.tar")
    gw.patch_run(run["runId"], distribution=[{"type": "object", "bucket": "b", "key": "k/export.tar"}])
    result = cli(
        "download", run["runId"], "--output", tmp_path / "b", gw=gw, env={"STELLA_EXPORT_OBJECT_ENDPOINT": gw.url}
    )
    assert result.code == 0, result
    stored = [request for request in gw.requests if request.path == "/b/k/export.tar"]
    assert stored
    assert all("Authorization" not in request.headers for request in stored)


def test_a_registry_gets_its_own_token_and_takes_it_nowhere_else(cli, gw, tmp_path):
    run = gw.make_bundle_run(b"bundle", name="export.tar")
    with Wire(reply(200, b'{"token": "pull-token"}')) as realm, Wire(reply(404)) as third:
        challenge = f'WWW-Authenticate: Bearer realm="{realm.url}/t?account=x",service="s"'
        answers = [reply(401, b"", challenge), reply(307, b"", f"Location: {third.url}/v2/")]
        with Wire(answers) as registry:
            gw.patch_run(
                run["runId"],
                distribution=[{"type": "oci", "ref": f"{registry.origin}/e/acme:1", "digest": "sha256:" + "0" * 64}],
            )
            cli("download", run["runId"], "--output", tmp_path / "b", gw=gw)
    assert registry.seen[1].headers["authorization"] == "Bearer pull-token"
    assert [is_stranger(seen) for seen in (*realm.seen, *third.seen, registry.seen[0])] == [True] * 3
    assert gw.token.encode() not in registry.bytes + realm.bytes + third.bytes


@pytest.mark.parametrize(
    ("answer", "realm", "code", "text"),
    [
        (reply(403), b"", 21, "it wants credentials, and none are sent to it"),
        (reply(401), b"", 21, "it wants credentials, and none are sent to it"),
        (reply(401, b"", 'WWW-Authenticate: Basic realm="x"'), b"", 21, "it wants credentials, and none are sent"),
        (reply(401, b"", "WWW-Authenticate: Bearer"), b"", 1, "names a realm that"),
        (None, reply(401, b'{"message": "get a new token"}'), 1, "gives no token for anonymous reading (status 401)"),
        (None, reply(403), 1, "gives no token for anonymous reading (status 403)"),
        (None, reply(200, b"{}"), 1, "gave no token for anonymous reading"),
    ],
)
def test_a_registry_that_refuses_says_nothing_about_the_users_token(cli, gw, tmp_path, answer, realm, code, text):
    run = gw.make_bundle_run(b"bundle", name="export.tar")
    with Wire(realm) as there:
        answer = answer or reply(401, b"", f'WWW-Authenticate: Bearer realm="{there.url}/t"')
        with Wire(answer) as registry:
            descriptor = {"type": "oci", "ref": f"{registry.origin}/e/acme:1", "digest": "sha256:" + "0" * 64}
            gw.patch_run(run["runId"], distribution=[descriptor])
            result = cli("download", run["runId"], "--output", tmp_path / "b", gw=gw)
    assert result.code == code, result
    assert text in result.err
    assert "STELLA_TOKEN" not in result.err
    assert "scope" not in result.err


def test_the_realm_of_a_registry_cannot_be_the_gateway(cli, gw, tmp_path):
    run = gw.make_bundle_run(b"bundle", name="export.tar")
    challenge = f'WWW-Authenticate: Bearer realm="{gw.url}/api/export/runs"'
    with Wire(reply(401, b"", challenge)) as registry:
        gw.patch_run(
            run["runId"],
            distribution=[{"type": "oci", "ref": f"{registry.origin}/e/acme:1", "digest": "sha256:" + "0" * 64}],
        )
        before = len(gw.requests)
        result = cli("download", run["runId"], "--output", tmp_path / "b", gw=gw)
    assert result.code == 1
    assert "realm that is not asked" in result.err
    assert len(gw.requests) == before + 1


# ---- what a user configures


@pytest.mark.parametrize(
    "server",
    [
        "http://stella.example",
        "http://127.0.0.999",
        "http://user:hunter2-secret@127.0.0.1",
        "https://h?token=hunter2-secret",
        "https://hunter2-secret@h",
        "ftp://h",
        "stella.example",
        "https://h h",
    ],
)
def test_a_server_that_would_leak_is_refused_before_any_connection(cli, server):
    result = cli("run", "ls", env={"STELLA_SERVER": server, "STELLA_TOKEN": "t-oken-t"})
    assert result.code == 30, result
    assert "hunter2" not in result.err


@pytest.mark.parametrize("tenant", ["a\r\nX-Evil: 1", "a\nb", "é", " a", "a\x00"])
def test_a_tenant_that_is_no_header_value_is_refused(cli, gw, tenant):
    assert cli("run", "ls", "--tenant", tenant, gw=gw).code == 30
    assert gw.requests == []


@pytest.mark.parametrize("start", ["from there", "from elsewhere", "through a link"])
def test_a_module_that_lies_beside_the_file_is_not_imported(tmp_path, start):
    """Downloads end up in folders where others can write, or where other downloads lie."""
    beside, away = tmp_path / "beside", tmp_path / "away"
    beside.mkdir()
    away.mkdir()
    shutil.copy(STELLA, beside)
    for name in ("argparse", "json", "ssl", "socket", "http", "re", "signal", "hashlib", "urllib", "email"):
        (beside / f"{name}.py").write_text(f"raise SystemExit('planted {name}')")
    (away / "link.py").symlink_to(beside / "stella.py")
    script = {"from there": "stella.py", "through a link": away / "link.py"}.get(start, beside / "stella.py")
    words = [sys.executable, str(script), "export", "run", "ls", "--retries", "0"]
    env = surroundings(env={"STELLA_TOKEN": "t-oken-t", "STELLA_SERVER": "https://127.0.0.1:1"})
    folder = beside if start == "from there" else away
    done = subprocess.run(words, cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 21, done
    assert "planted" not in done.stdout + done.stderr
