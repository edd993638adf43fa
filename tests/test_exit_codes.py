"""Contract 5: every exit code, each from a real answer, with the server's code, message, details and trace id."""

from __future__ import annotations

import json
import os
import re

import pytest

import stella
from gateway import BEFORE_HEAD, Fault, Gateway

TRACE = "0" * 31 + "1"


@pytest.fixture
def run_id(gw):
    return gw.make_run()["runId"]


def first_line(done):
    return done.err.splitlines()[0]


def scoped(gw, scope):
    return {"STELLA_SERVER": gw.url, "STELLA_TOKEN": gw.tokens[scope]}


# ---- by the real gateway, with nothing scripted --------------------------------------------------

RUNS, PROFILES = "list them with: stella export run ls", "list them with: stella export profile list"
# (words, scope of the token, exit code, the server's message, its code, details, what to do next)
REAL = {
    "10: unknown selector": (
        ("run", "submit", "prof-json-raw", "--selector", "colour=red", "--selector", "shape=x"), "export:run", 10,
        "the run is not valid", "ERR_EXPORT_001",
        ["/selectors/colour: is not a selector this gateway knows", "/selectors/shape: is not a selector"], ""),
    "10: policy snapshot missing": (
        ("run", "submit", "prof-json-policy"), "export:run", 10, "this profile needs a policy snapshot",
        "ERR_EXPORT_001", ["/policySnapshotId: is required"], ""),
    "11: no such profile": (
        ("profile", "show", "nope"), "export:read", 11, "no profile nope in tenant acme", "ERR_EXPORT_002", [],
        PROFILES),
    "11: submit to no such profile": (
        ("run", "submit", "nope"), "export:run", 11, "no profile nope in tenant acme", "ERR_EXPORT_002", [],
        PROFILES),
    "11: archived profile, 410": (
        ("run", "submit", "prof-archived"), "export:run", 11, "profile prof-archived is archived", "ERR_EXPORT_002",
        [], ""),
    "11: no such run": (
        ("run", "show", "nope"), "export:read", 11, "no run nope in tenant acme", "ERR_EXPORT_002", [], RUNS),
    "11: watch no such run": (
        ("run", "watch", "nope"), "export:read", 11, "no run nope in tenant acme", "ERR_EXPORT_002", [], RUNS),
    "11: cancel no such run": (
        ("run", "cancel", "nope"), "export:run", 11, "no run nope in tenant acme", "ERR_EXPORT_002", [], RUNS),
    "11: download no such run": (
        ("download", "nope"), "export:download", 11, "no run nope in tenant acme", "ERR_EXPORT_002", [], RUNS),
    "11: manifest of no such run": (
        ("manifest", "nope"), "export:read", 11, "no run nope in tenant acme", "ERR_EXPORT_002", [], RUNS),
    "11: provenance of no such run": (
        ("provenance", "nope"), "export:read", 11, "no run nope in tenant acme", "ERR_EXPORT_002", [], RUNS),
    "11: scope missing, 403": (
        ("run", "submit", "prof-json-raw"), "export:read", 11, "the token lacks the scope export:run", "ERR_FORBIDDEN",
        ["needs export:run"], "the token lacks the scope or the tenant"),
    "11: tenant of others, 403": (
        ("run", "ls", "--tenant", "globex"), "export:read", 11, "the token may not act for tenant globex",
        "ERR_FORBIDDEN", [], "the token lacks the scope or the tenant"),
}


@pytest.mark.parametrize("case", REAL)
def test_refusal_of_the_real_gateway(cli, gw, tmp_path, monkeypatch, case):
    monkeypatch.chdir(tmp_path)
    words, scope, exit_code, message, code, details, hint = REAL[case]
    done = cli(*words, env={**scoped(gw, scope), "TRACEPARENT": f"00-{'ab' * 16}-{'cd' * 8}-01"})
    assert (done.code, done.out) == (exit_code, "")
    assert first_line(done).startswith(f"stella: {message}")
    assert first_line(done).endswith(f" ({code}, trace {'ab' * 16})")
    shown = done.err.splitlines()[1:]
    assert len(shown) == len(details) + bool(hint), done
    for line, expected in zip(shown, [*details, hint]):
        assert line.startswith("  " + expected)
    assert len(gw.requests) == 1, "a refusal is not retried"
    assert os.listdir(tmp_path) == []


def test_0_it_worked(cli, gw, run_id):
    done = cli("run", "show", run_id, gw=gw)
    assert (done.code, done.err) == (0, "")


def test_11_run_of_another_tenant(cli, gw):
    other = gw.make_run(tenant="globex")["runId"]
    assert cli("run", "show", other, gw=gw).code == 11
    assert cli("run", "show", other, env=scoped(gw, "globex")).code == 0
    assert cli("run", "show", other, "--tenant", "globex", env=scoped(gw, "multi")).code == 0


def test_11_expired_run_has_no_manifest(cli, gw, run_id):
    gw.expire(run_id)
    done = cli("manifest", run_id, gw=gw)
    assert (done.code, gw.requests[-1].status) == (11, 410)
    assert first_line(done).startswith(f"stella: run {run_id} has expired (ERR_EXPORT_002, trace ")


def test_12_manifest_of_a_run_that_is_not_done(cli, gw):
    gw.hold()
    run_id = gw.make_run(wait=False)["runId"]
    done = cli("manifest", run_id, gw=gw)
    gw.release()
    assert (done.code, gw.requests[-1].status) == (12, 409)
    assert first_line(done).startswith(f"stella: run {run_id} is still pending (ERR_EXPORT_003, trace ")


def test_12_quota_is_shown(cli, tmp_path, keys):
    with Gateway(data=tmp_path, key=keys[0], other_key=keys[1], max_active=1) as gw:
        gw.hold()
        assert cli("run", "submit", "prof-json-raw", gw=gw).code == 0
        done = cli("run", "submit", "prof-json-raw", gw=gw)
        assert (done.code, len(gw.requests)) == (12, 2)
        assert first_line(done).startswith("stella: tenant acme has too many active runs (ERR_EXPORT_QUOTA, trace ")
        assert done.err.splitlines()[1] == "  quota: limit=1 remaining=0 reset=30"
        gw.release()


FAILED = {"adapter": "ERR_EXPORT_004", "sign": "ERR_EXPORT_005", "distribute": "ERR_EXPORT_006"}


@pytest.mark.parametrize("phase", FAILED)
def test_13_run_failed(cli, gw, phase):
    gw.fail_at(phase, message=f"the {phase} broke")
    done = cli("run", "submit", "prof-json-raw", "--wait", gw=gw)
    assert done.code == 13
    run = done.json()
    assert (run["status"], run["error"]["code"]) == ("failed", FAILED[phase])
    last = [line for line in done.err.splitlines() if line.startswith("stella: run ")]
    assert last == [f"stella: run {run['runId']} failed: the {phase} broke ({FAILED[phase]})"]
    for words in (("run", "watch", run["runId"]), ("download", run["runId"])):
        again = cli(*words, gw=gw)
        assert again.code == 13
        assert f"({FAILED[phase]})" in again.err
    assert cli("run", "show", run["runId"], gw=gw).code == 0, "showing a failed run works"


def test_13_run_cancelled(cli, gw):
    gw.hold()
    run_id = cli("run", "submit", "prof-json-raw", "--query", "runId", gw=gw).out.strip()
    assert cli("run", "cancel", run_id, "--reason", "try it", gw=gw).code == 0
    gw.release()
    done = cli("run", "watch", run_id, gw=gw)
    assert done.code == 13
    assert f"run {run_id} was cancelled" in done.err


def test_14_deadline(cli, gw):
    gw.hold()
    run_id = gw.make_run(wait=False)["runId"]
    done = cli("run", "watch", run_id, "--deadline", "0.2", gw=gw)
    gw.release()
    assert done.code == 14
    assert f"stella: run {run_id} is still active after 0.2 seconds" in done.err


def test_20_bundle_that_is_not_what_the_run_says(process, gw, run_id, tmp_path):
    gw.order(Fault("GET", "/download$", flip=100, times=-1))
    done = process("download", run_id, "--output", tmp_path / "b", "--retry-delay", "0", gw=gw)
    assert done.code == 20
    assert "wrong digest" in done.err
    assert not (tmp_path / "b").exists()


def test_21_download_incomplete(process, gw, run_id, tmp_path):
    gw.order(Fault("GET", "/download$", cut=1000, piece=1000, times=-1, request={"Range": None}))
    done = process("download", run_id, "--output", tmp_path / "b", "--retries", "1", "--retry-delay", "0", gw=gw)
    assert done.code == 21
    assert "--resume" in done.err
    assert not (tmp_path / "b").exists()


def test_21_gateway_unreachable(cli, gw):
    gw.order(Fault(reset=BEFORE_HEAD, times=-1))
    done = cli("run", "ls", "--retries", "2", gw=gw)
    assert done.code == 21
    assert ", after 3 attempts" in first_line(done)
    assert len(gw.requests) == 3


def test_30_token_rejected(cli, gw):
    done = cli("run", "ls", env={"STELLA_SERVER": gw.url, "STELLA_TOKEN": "wrong"}, gw=None)
    assert (done.code, gw.requests[-1].status) == (30, 401)
    assert first_line(done).startswith("stella: the token is missing or unknown (ERR_UNAUTHORIZED, trace ")
    assert done.err.splitlines()[1].startswith("  get a new token and set STELLA_TOKEN")
    assert "wrong" not in done.err


def test_30_tls_trust(cli, tmp_path, keys):
    with Gateway(data=tmp_path, key=keys[0], other_key=keys[1], tls=True) as gw:
        done = cli("run", "ls", gw=gw)
        assert (done.code, gw.requests) == (30, [])
        assert "cannot trust the TLS certificate of 127.0.0.1" in first_line(done)
        assert "--ca-file" in done.err
        assert cli("run", "ls", "--ca-file", gw.ca_file, gw=gw).code == 0


def test_every_code_has_a_test_here():
    with open(__file__, encoding="utf-8") as source:
        text = source.read()
    reached = {int(code) for code in re.findall(r"def test_(\d+)_", text)} | {row[2] for row in REAL.values()}
    elsewhere = {1, 2}  # test_cli.py: bodies that are no document, full disks; usage
    assert reached | elsewhere == set(stella.EXIT_MEANINGS)


# ---- by status and code, scripted ----------------------------------------------------------------

BY_STATUS = {400: 10, 422: 10, 401: 30, 403: 11, 404: 11, 410: 11, 409: 12, 412: 12, 429: 12,
             408: 21, 500: 21, 502: 21, 503: 21, 504: 21, 402: 1, 405: 1, 406: 1, 413: 1, 415: 1,
             418: 1, 451: 1, 501: 1, 505: 1, 599: 1, 304: 1}


@pytest.mark.parametrize("status", BY_STATUS)
def test_status_without_a_body(cli, gw, status):
    gw.order(Fault(status=status, times=-1))
    done = cli("run", "ls", "--retries", "0", gw=gw)
    assert (done.code, done.out) == (BY_STATUS[status], "")
    assert f"the server answered /api/export/runs with status {status}" in first_line(done)


BY_CODE = {"ERR_EXPORT_001": 10, "ERR_EXPORT_002": 11, "ERR_EXPORT_003": 12, "ERR_EXPORT_QUOTA": 12,
           "ERR_EXPORT_004": 13, "ERR_EXPORT_005": 13, "ERR_EXPORT_006": 13}


@pytest.mark.parametrize("status", [400, 401, 404, 409, 418, 429, 500, 503])
@pytest.mark.parametrize("code", BY_CODE)
def test_code_in_the_body_wins_over_the_status(cli, gw, code, status):
    gw.order(Fault.error(status, code, "as ordered"))
    done = cli("run", "ls", gw=gw)
    assert (done.code, len(gw.requests)) == (BY_CODE[code], 1)
    assert first_line(done) == f"stella: as ordered ({code}, trace {TRACE})"


UNKNOWN_CODE = {(400, "ERR_X"): 10, (403, "ERR_X"): 11, (429, "ERR_X"): 12, (503, "ERR_EXPORT_999"): 21,
                (500, "ERR_X"): 1, (500, "ERR_EXPORT_999"): 1,
                (422, "ERR_EXPORT_999"): 10, (418, "ERR_EXPORT_999"): 1}


@pytest.mark.parametrize(("status", "code"), UNKNOWN_CODE)
def test_unknown_code_leaves_it_to_the_status(cli, gw, status, code):
    gw.order(Fault.error(status, code, "as ordered", times=-1))
    done = cli("run", "ls", "--retries", "0", gw=gw)
    assert done.code == UNKNOWN_CODE[status, code]
    assert first_line(done) == f"stella: as ordered ({code}, trace {TRACE})"


# ---- the shape of errors -------------------------------------------------------------------------

DETAILS = {
    "strings": (["one", "two"], ["one", "two"]),
    "objects": ([{"path": "/name", "message": "is required"}], ["/name: is required"]),
    "both": (["one", {"path": "/a/0", "message": "x"}], ["one", "/a/0: x"]),
    "object without a path": ([{"message": "is wrong"}, {"path": "", "message": "all of it"}],
                              ["is wrong", "all of it"]),
    "odd values": ([5, None, ["x"], {"path": 1}], ["5", "null", '["x"]', '{"path":1}']),
    "no list": ("not a list", []),
    "an object": ({"path": "/x"}, []),
    "control characters": (["a\x1b[2J\r\nb", {"path": "\u202e", "message": "\x00"}],
                           [r"a\x1b[2J\r\nb", r"\u202e: \x00"]),
    "too many": (["x"] * 1000, ["x"] * stella.MAX_ERROR_DETAILS + ["... and 950 more"]),
}


@pytest.mark.parametrize("case", DETAILS)
def test_details(cli, gw, case):
    details, expected = DETAILS[case]
    body = {"code": "ERR_EXPORT_001", "message": "no", "details": details, "traceId": "t1"}
    gw.order(Fault(status=422, body=json.dumps(body).encode()))
    done = cli("run", "ls", gw=gw)
    assert done.code == 10
    assert done.err.splitlines() == ["stella: no (ERR_EXPORT_001, trace t1)", *("  " + line for line in expected)]


STATUS_LINE = "the server answered /api/export/runs with status 403"
BODIES = {
    "a proxy's page": (b"<html><h1>403 Forbidden</h1></html>", STATUS_LINE),
    "empty": (b"", STATUS_LINE),
    "a list": (b'["no"]', STATUS_LINE),
    "broken JSON": (b'{"code": "ERR_EXP', STATUS_LINE),
    "no utf-8": (b'{"message": "\xff"}', STATUS_LINE),
    "duplicate keys": (b'{"message": "a", "message": "b"}', STATUS_LINE),
    "endless": (b'{"message": "' + b"x" * stella.MAX_ERROR_BYTES + b'"}', STATUS_LINE),
    "deep": (b"[" * 60000, STATUS_LINE),
    "odd types": (b'{"code": 5, "message": {}, "details": 1, "traceId": []}', STATUS_LINE),
    "only a message": (b'{"message": "no"}', "no"),
    "empty message": (b'{"message": "", "code": "ERR_X"}', STATUS_LINE + " (ERR_X)"),
    "only a trace": (b'{"message": "no", "traceId": "abc"}', "no (trace abc)"),
    "several lines": (b'{"message": "no\\n\\u001b[31mroot# "}', r"no\n\x1b[31mroot# "),
}


@pytest.mark.parametrize("case", BODIES)
def test_error_body_of_any_shape_gives_one_readable_line(cli, gw, case):
    body, line = BODIES[case]
    gw.order(Fault(status=403, body=body))
    done = cli("run", "ls", gw=gw)
    assert (done.code, done.out) == (11, "")
    assert done.err.splitlines() == ["stella: " + line, "  the token lacks the scope or the tenant for this"]


def test_error_body_that_breaks_off_keeps_its_status(cli, gw):
    gw.order(Fault(status=422, body=b"x" * 100, cut=10))
    done = cli("run", "ls", gw=gw)
    assert (done.code, len(gw.requests)) == (10, 1)
    assert first_line(done) == "stella: the server answered /api/export/runs with status 422"


def test_proxy_s_page_with_404_asks_about_the_server(cli, gw):
    gw.order(Fault(status=404, body=b"<html>"))
    done = cli("run", "ls", gw=gw)
    assert done.code == 11
    assert done.err.splitlines()[1] == f"  is {gw.url[7:]} the gateway's root? see --server"
