"""The gateway is what every other test leans on, so it is tested by itself: with http.client as the
client, and the real openssl and zstd as judges."""

from __future__ import annotations

import base64
import hashlib
import http.client
import io
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import tarfile
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest

import gateway
from gateway import BEFORE_HEAD, Fault, Gateway

APP = {"tenants": ["acme"], "products": ["registry.example.com/app:*"]}
API = "/api/export"


class Answer:
    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    @property
    def json(self):
        return json.loads(self.body)


def call(gw, method, path, document=None, token=None, origin=None, **headers):
    """One request on a connection of its own. Header names are written with _ for -."""
    parts = urlsplit(origin or gw.url)
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=10)
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    if origin is None:
        sent.setdefault("Authorization", f"Bearer {token or gw.token}")
    body = document if document is None or isinstance(document, bytes) else json.dumps(document).encode()
    try:
        connection.request(method, path if origin else API + path, body, sent)
        response = connection.getresponse()
        return Answer(response.status, response.headers, response.read())
    finally:
        connection.close()


def frames(body):
    return [dict(line.split(": ", 1) for line in frame.split("\n") if ": " in line)
            for frame in body.decode().split("\n\n") if frame.startswith("id:")]


@pytest.fixture(scope="session")
def keys(tmp_path_factory):
    ring = gateway.Keyring(tmp_path_factory.mktemp("keys"), {})
    return {"key": ring.private("acme"), "other_key": ring.private("globex")}


@pytest.fixture
def gw(tmp_path, keys):
    with Gateway(tmp_path / "gw", **keys) as running:
        yield running


# ------------------------------------------------------------------------------- the export itself

def test_the_recipe_by_hand(gw, tmp_path):
    submitted = call(gw, "POST", "/runs", {"profileId": "prof-json-raw", "selectors": APP})
    assert submitted.status == 202
    assert submitted.json["status"] == "pending"
    assert re.fullmatch(r"run-\d{8}-01", submitted.json["runId"])
    links = {name: link[len(API):] for name, link in submitted.json["links"].items()}
    events = frames(call(gw, "GET", links["events"]).body)
    assert [events[0]["event"], events[1]["event"], events[-1]["event"]] == [
        "run.accepted", "run.started", "run.succeeded"]
    assert [int(event["id"]) for event in events] == list(range(1, len(events) + 1))

    run = call(gw, "GET", links["self"]).json
    bundle, manifest, provenance = (call(gw, "GET", links[name])
                                    for name in ("download", "manifest", "provenance"))
    assert run["status"] == "succeeded"
    digest = hashlib.sha256(bundle.body).hexdigest()
    assert run["bundle"] == {"name": "export.tar.zst", "size": len(bundle.body), "sha256": digest,
                             "mediaType": "application/zstd"}
    assert bundle.headers["X-Export-Digest"] == f"sha256:{run['bundle']['sha256']}"
    stated = manifest.json
    assert manifest.body == json.dumps(stated, sort_keys=True, separators=(",", ":")).encode()
    assert stated["bundle"]["sha256"] == run["bundle"]["sha256"]
    assert provenance.json["subject"] == [
        {"name": "export.json", "digest": {"sha256": hashlib.sha256(manifest.body).hexdigest()}},
        {"name": "export.tar.zst", "digest": {"sha256": run["bundle"]["sha256"]}}]

    tar = subprocess.run(["zstd", "-dc"], input=bundle.body, stdout=subprocess.PIPE, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        files = {member.name: archive.extractfile(member).read() for member in archive}
        assert {(member.mtime, member.uid, member.uname) for member in archive} == {(0, 0, "")}
    assert {(each["path"], each["size"], each["sha256"]) for each in stated["artifacts"]} == {
        (name, len(data), hashlib.sha256(data).hexdigest()) for name, data in files.items()}
    sbom = json.loads(files["data/sbom.cdx.json"])
    assert (sbom["bomFormat"], sbom["specVersion"]) == ("CycloneDX", "1.5")
    assert any(part.get("purl", "").startswith("pkg:pypi/") for part in sbom["components"])
    lines = [json.loads(line) for line in files["data/advisories.jsonl"].splitlines()]
    assert len(lines) == stated["counts"]["advisories"] > 0
    assert all(line["affects"][0]["product"].startswith("registry.example.com/app:") for line in lines)


@pytest.mark.parametrize("name", ["manifest", "provenance"])
@pytest.mark.parametrize(("tenant", "good"), [("acme", True), ("globex", False)])
def test_openssl_checks_the_signature(gw, tmp_path, name, tenant, good):
    path = f"/runs/{gw.make_run('prof-json-raw', APP)['runId']}/{name}"
    (tmp_path / "document").write_bytes(call(gw, "GET", path).body)
    signature = call(gw, "GET", path + "?signature=true").body
    (tmp_path / "signature").write_bytes(base64.b64decode(signature, validate=True))
    key = gw.public_key if tenant == "acme" else gw.other_public_key
    done = subprocess.run(["openssl", "dgst", "-sha256", "-verify", key, "-signature",
                           tmp_path / "signature", tmp_path / "document"], capture_output=True, check=False)
    assert (done.returncode == 0) is good


@pytest.mark.parametrize(("profile", "magic"), [
    ("prof-json-raw", b"\x28\xb5\x2f\xfd"), ("prof-json-gzip", b"\x1f\x8b"), ("prof-json-plain", b"data/")])
def test_the_same_selectors_give_the_same_bytes(gw, profile, magic):
    first, second = gw.make_run(profile, APP), gw.make_run(profile, APP)
    assert first["bundle"] == second["bundle"]
    assert call(gw, "GET", f"/runs/{second['runId']}/download").body.startswith(magic)


@pytest.mark.parametrize(("selectors", "status"), [
    ({"products": ["registry.example.com/app:*"], "timeWindow": {"from": "2025-10-01T00:00:00Z",
                                                                "to": "2025-10-29T00:00:00Z"}}, "succeeded"),
    ({"products": ["pkg:pypi/*"]}, "succeeded"), ({"sboms": ["python"]}, "succeeded"),
    ({"products": ["no.such/thing:*"]}, "failed"), ({"tenants": ["globex"]}, "succeeded"),
    ({"timeWindow": {"to": "1999-01-01T00:00:00+02:00"}}, "failed")])
def test_selectors_decide_and_nothing_is_an_error(gw, selectors, status):
    run = gw.make_run("prof-json-raw", selectors)
    assert run["status"] == status
    assert (run["error"] or {}).get("code") == ("ERR_EXPORT_004" if status == "failed" else None)
    run = gw.make_run("prof-json-raw", selectors, allow_empty=True)
    assert run["status"] == "succeeded"
    counts = call(gw, "GET", f"/runs/{run['runId']}/manifest").json["counts"]
    assert (counts["advisories"] > 0) is (status == "succeeded")


@pytest.mark.parametrize(("phase", "code"), [("adapter", "ERR_EXPORT_004"), ("sign", "ERR_EXPORT_005"),
                                             ("distribute", "ERR_EXPORT_006")])
def test_a_step_that_breaks(gw, phase, code):
    gw.fail_at(phase)
    run = gw.make_run("prof-json-raw")
    assert (run["status"], run["error"]["code"], run["bundle"]) == ("failed", code, None)
    assert frames(call(gw, "GET", f"/runs/{run['runId']}/events").body)[-1]["event"] == "run.failed"
    assert call(gw, "GET", f"/runs/{run['runId']}/download").json["code"] == "ERR_EXPORT_002"


def test_held_runs_can_be_watched_step_by_step_and_cancelled(gw):
    gw.hold()
    run_id = call(gw, "POST", "/runs", {"profileId": "prof-json-raw"}).json["runId"]
    gw.settle()
    assert gw.show(run_id)["status"] == "pending"
    gw.step(2)
    assert (gw.show(run_id)["status"], gw.show(run_id)["progress"]["percent"]) == ("running", 15)
    assert call(gw, "GET", f"/runs/{run_id}/download").status == 409
    assert [run["runId"] for run in call(gw, "GET", "/runs?status=active").json["items"]] == [run_id]
    assert call(gw, "POST", f"/runs/{run_id}/cancel", {"reason": "enough"}).status == 202
    assert gw.wait(run_id)["status"] == "cancelled"
    assert gw.show(run_id)["error"]["message"] == "enough"
    again = call(gw, "POST", f"/runs/{run_id}/cancel")
    assert (again.status, again.json["code"]) == (409, "ERR_EXPORT_003")


# ---------------------------------------------------------------------------- who may do what, once

@pytest.mark.parametrize(("scope", "method", "path", "status"), [
    ("export:read", "GET", "/runs", 200), ("export:run", "GET", "/runs", 403),
    ("export:read", "POST", "/runs", 403), ("export:run", "POST", "/runs", 400),
    ("export:read", "POST", "/profiles", 403), ("export:profile:manage", "POST", "/profiles", 400),
    ("export:read", "GET", "/runs/x/download", 403), ("export:download", "GET", "/runs/x/download", 404)])
def test_scopes(gw, scope, method, path, status):
    assert call(gw, method, path, token=gw.tokens[scope]).status == status


def test_errors_have_the_shape_and_the_trace(gw):
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    answer = call(gw, "POST", "/runs", {"profileId": 7, "selectors": {"colour": ["red"]}, "x": 1},
                  traceparent=f"00-{trace}-00f067aa0ba902b7-01")
    assert answer.status == 422
    assert sorted(answer.json) == ["code", "details", "message", "timestamp", "traceId"]
    assert (answer.json["code"], answer.json["traceId"]) == ("ERR_EXPORT_001", trace)
    assert [each["path"] for each in answer.json["details"]] == ["/profileId", "/selectors/colour", "/x"]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"a":1,"a":2}', b'{"a":NaN}', b"\xff", b'{"a":"\\ud800"}',
                                  b"\xef\xbb\xbf{}"])
def test_what_is_not_json(gw, body):
    answer = call(gw, "POST", "/runs", body)
    assert (answer.status, answer.json["code"]) == (400, "ERR_EXPORT_001")


def test_tokens_and_tenants(gw):
    run_id = gw.make_run("prof-json-raw", tenant="globex")["runId"]
    assert call(gw, "GET", "/runs", token="wrong").status == 401
    assert call(gw, "GET", f"/runs/{run_id}").json["code"] == "ERR_EXPORT_002"
    assert call(gw, "GET", "/runs", X_Stella_Tenant="globex").status == 403
    multi = gw.tokens["multi"]
    assert call(gw, "GET", f"/runs/{run_id}", token=multi, X_Stella_Tenant="globex").status == 200
    assert call(gw, "GET", f"/runs/{run_id}", token=gw.tokens["globex"]).status == 200
    assert call(gw, "DELETE", "/runs").status == 405
    assert call(gw, "GET", "/nothing").status == 404


def test_the_same_idempotency_key_makes_one_run(gw):
    first, second = (call(gw, "POST", "/runs", {"profileId": "prof-json-raw"}, Idempotency_Key="k")
                     for _ in "ab")
    assert (first.status, first.body) == (second.status, second.body)
    assert len(call(gw, "GET", "/runs").json["items"]) == 1
    other = call(gw, "POST", "/runs", {"profileId": "prof-json-gzip"}, Idempotency_Key="k")
    assert (other.status, other.json["code"]) == (422, "ERR_EXPORT_001")


def test_a_lost_answer_does_not_lose_the_run(gw):
    gw.order(Fault("POST", r"/runs$", reset=BEFORE_HEAD))
    with pytest.raises(OSError, match="reset"):
        call(gw, "POST", "/runs", {"profileId": "prof-json-raw"}, Idempotency_Key="k")
    assert call(gw, "POST", "/runs", {"profileId": "prof-json-raw"}, Idempotency_Key="k").status == 202
    assert len(gw.store.runs) == 1
    assert [request.headers.get("idempotency-key") for request in gw.requests] == ["k", "k"]


def test_quota(tmp_path, keys):
    with Gateway(tmp_path, max_active=1, **keys) as gw:
        gw.hold()
        first, second = (call(gw, "POST", "/runs", {"profileId": "prof-json-raw"}) for _ in "ab")
        assert (first.status, second.status, second.json["code"]) == (202, 429, "ERR_EXPORT_QUOTA")
        assert [second.headers[f"X-Stella-Quota-{name}"] for name in ("Limit", "Remaining")] == ["1", "0"]


def test_pages_stay_good_while_things_change(gw):
    made = [gw.make_bundle_run(b"x")["runId"] for _ in range(5)]
    seen, cursor = [], ""
    while cursor is not None:
        page = call(gw, "GET", f"/runs?limit=2&status=succeeded&cursor={cursor}").json
        seen += [run["runId"] for run in page["items"]]
        cursor = page["nextCursor"]
        gw.expire(seen[-1])
        gw.make_bundle_run(b"newer")
    assert seen == made[::-1]
    assert call(gw, "GET", "/runs?limit=201").status == call(gw, "GET", "/runs?cursor=%21").status == 400
    names = [each["profileId"] for each in call(gw, "GET", "/profiles?kind=trivy").json["items"]]
    assert names == ["prof-trivy-db"]


def test_profiles_have_revisions_and_can_be_archived(gw):
    wanted = {"name": "Nightly raw", "kind": "json", "variant": "raw", "distribution": ["http"]}
    made = call(gw, "POST", "/profiles", wanted)
    path = f"/profiles/{made.json['profileId']}"
    assert (made.status, made.json["revision"], made.json["retention"]) == (201, 1, "days:14")
    changed = call(gw, "PATCH", path, {"retention": "days:21"}, If_Match=made.headers["ETag"])
    assert (changed.status, changed.json["revision"], changed.json["retention"]) == (200, 1, "days:21")
    assert call(gw, "PATCH", path, {"retention": "days:7"}, If_Match=made.headers["ETag"]).status == 412
    assert call(gw, "PATCH", path, {"kind": "trivy"}).json["details"][0]["path"] == "/kind"
    replaced = call(gw, "PUT", path, {**wanted, "variant": "policy"})
    assert (replaced.json["revision"], replaced.json["variant"]) == (2, "policy")
    assert call(gw, "POST", path + "/archive", {"reason": "old"}).json["status"] == "archived"
    assert call(gw, "POST", "/runs", {"profileId": made.json["profileId"]}).status == 410
    restored = call(gw, "POST", path + "/restore")
    assert (restored.json["status"], restored.json["revision"]) == ("active", 2)
    bad = call(gw, "POST", "/profiles", {
        "name": "", "kind": "json", "variant": "db", "distribution": ["http", "http"], "retention": "days:07",
        "colour": 1, "encryption": {"mode": "age"}})
    assert [each["path"] for each in bad.json["details"]] == [
        "/colour", "/distribution", "/encryption", "/name", "/retention", "/variant"]


# ---------------------------------------------------------------------------------------- downloads

DATA = bytes(range(256)) * 4
SPANS = [("bytes=0-9", 206, DATA[:10], "bytes 0-9/1024"),
         ("bytes=1000-", 206, DATA[1000:], "bytes 1000-1023/1024"),
         ("bytes=-24", 206, DATA[-24:], "bytes 1000-1023/1024"),
         ("bytes=0-9999", 206, DATA, "bytes 0-1023/1024"),
         ("bytes=1024-", 416, b"", "bytes */1024"), ("bytes=-0", 416, b"", "bytes */1024"),
         ("bytes=9-1", 200, DATA, None), ("lines=1-2", 200, DATA, None), ("bytes=0-1,4-5", 200, DATA, None)]


@pytest.mark.parametrize("origin", ["gateway", "object"])
@pytest.mark.parametrize(("asked", "status", "body", "content_range"), SPANS)
def test_ranges(gw, origin, asked, status, body, content_range):
    run = gw.make_bundle_run(DATA, name="export.tar")
    descriptor = run["distribution"][1]
    where = (f"/runs/{run['runId']}/download", None) if origin == "gateway" else (
        f"/objects/{descriptor['bucket']}/{descriptor['key']}", gw.object_url)
    answer = call(gw, "GET", where[0], origin=where[1], Range=asked)
    assert (answer.status, answer.body, answer.headers["Content-Range"]) == (status, body, content_range)
    assert answer.headers["Accept-Ranges"] == "bytes"
    assert gw.object_authorizations == []


def test_if_range_compares_strongly_and_head_has_no_body(gw):
    path = f"/runs/{gw.make_bundle_run(DATA)['runId']}/download"
    head = call(gw, "HEAD", path)
    tag = head.headers["ETag"]
    assert (head.status, head.body, head.headers["Content-Length"]) == (200, b"", "1024")
    date = "Wed, 29 Oct 2025 13:42:11 GMT"
    for condition, status in [(tag, 206), (f"W/{tag}", 200), ('"other"', 200), (date, 200)]:
        assert call(gw, "GET", path, Range="bytes=5-", If_Range=condition).status == status


def test_a_changed_bundle_has_another_tag(gw):
    run = gw.make_bundle_run(DATA)
    path = f"/runs/{run['runId']}/download"
    tag = call(gw, "HEAD", path).headers["ETag"]
    gw.change_bundle(run["runId"], DATA[::-1], consistent=False)
    answer = call(gw, "GET", path, Range="bytes=5-", If_Range=tag)
    assert (answer.status, answer.body) == (200, DATA[::-1])
    assert gw.show(run["runId"])["bundle"] == run["bundle"]
    gw.change_bundle(run["runId"], DATA[1:])
    assert call(gw, "GET", f"/runs/{run['runId']}/manifest").json["bundle"]["size"] == 1023


# ------------------------------------------------------------------------------------------- events

def test_events_replay_after_the_last_id_and_keep_the_connection_warm(tmp_path, keys):
    with Gateway(tmp_path, heartbeat=0.02, **keys) as gw:
        gw.hold("sign")
        run_id = gw.make_run("prof-json-raw", wait=False)["runId"]
        gw.settle()
        threading.Timer(0.1, gw.release).start()
        body = call(gw, "GET", f"/runs/{run_id}/events").body
        assert body.startswith(b"retry: 20\n\n")
        assert b": heartbeat\n\n" in body
        every = frames(body)
        tail = frames(call(gw, "GET", f"/runs/{run_id}/events", Last_Event_ID=every[-3]["id"]).body)
        assert tail == every[-2:]
        gw.order(Fault(path="/events$", request={"Last-Event-ID": None}))
        assert frames(call(gw, "GET", f"/runs/{run_id}/events", Last_Event_ID="3").body) == every
        gw.order(Fault(path="/events$", events=2), Fault(path="/events$", status=405))
        assert frames(call(gw, "GET", f"/runs/{run_id}/events").body) == every[:2]
        assert call(gw, "GET", f"/runs/{run_id}/events").status == 405


# ------------------------------------------------------------------------------------------- faults

def read(gw, fault, **headers):
    path = f"/runs/{gw.make_bundle_run(DATA)['runId']}/download"
    gw.order(fault)
    return call(gw, "GET", path, **headers)


@pytest.mark.parametrize(("fault", "status", "body", "headers"), [
    (Fault.error(503, headers={"Retry-After": "3"}), 503, b"", {"Retry-After": "3"}),
    (Fault(body=b"<html>", head={"Content-Type": "a/b"}), 200, b"<html>", {"Content-Type": "a/b"}),
    (Fault.redirect(307, "http://elsewhere/"), 307, b"", {"Location": "http://elsewhere/"}),
    (Fault(flip=0), 206, b"\x65" + DATA[101:], {"Content-Range": "bytes 100-1023/1024"}),
    (Fault(shift=1), 206, DATA[101:], {"Content-Range": "bytes 101-1023/1024"}),
    (Fault(total=9), 206, DATA[100:], {"Content-Range": "bytes 100-1023/9"}),
    (Fault(head={"content-range": None}), 206, DATA[100:], {"Content-Range": None}),
    (Fault(head={"ETag": 'W/"x"'}), 206, DATA[100:], {"ETag": 'W/"x"'}),
    (Fault(request={"Range": None}), 200, DATA, {"Content-Range": None}),
    (Fault(request={"Range": "bytes=0-1"}), 206, DATA[:2], {}),
    (Fault(framing="close"), 206, DATA[100:], {"Content-Length": None, "Connection": "close"}),
    (Fault(framing="chunked", piece=7), 206, DATA[100:], {"Transfer-Encoding": "chunked"}),
    (Fault(head={"Content-Encoding": "gzip"}), 206, DATA[100:], {"Content-Encoding": "gzip"}),
    (Fault(stall=5, silence=0.01), 206, DATA[100:], {}), (Fault(drip=0.001, piece=100), 206, DATA[100:], {})],
    ids=lambda value: None)
def test_faults_that_still_are_http(gw, fault, status, body, headers):
    answer = read(gw, fault, Range="bytes=100-")
    assert (answer.status, answer.body) == (status, body)
    assert {name: answer.headers[name] for name in headers} == headers
    assert fault.used == 1
    assert gw.requests[-1].status == status


@pytest.mark.parametrize("piece", [7, 100, 4096])
@pytest.mark.parametrize("at", [0, 100, 1023])
def test_cut_and_reset_come_after_exactly_so_many_bytes(gw, at, piece):
    with pytest.raises(http.client.IncompleteRead) as cut:
        read(gw, Fault(cut=at, piece=piece))
    assert cut.value.partial == DATA[:at]
    with pytest.raises(ConnectionResetError):
        read(gw, Fault(reset=at, piece=piece))
    assert gw.requests[-1].sent_bytes == at
    with pytest.raises(http.client.RemoteDisconnected):
        read(gw, Fault(cut=BEFORE_HEAD))


def test_a_stream_that_falls_silent_and_a_connection_that_goes_away(gw):
    run_id = gw.make_run("prof-json-raw")["runId"]
    gw.order(Fault(path="/events$", mute=3, silence=0.05))
    started = time.perf_counter()
    assert frames(call(gw, "GET", f"/runs/{run_id}/events").body)[-1]["event"] == "run.succeeded"
    assert time.perf_counter() - started > 0.04
    gw.order(Fault(hangup=True))
    connection = http.client.HTTPConnection(urlsplit(gw.url).netloc, timeout=5)
    connection.request("GET", API + "/runs", headers={"Authorization": f"Bearer {gw.token}"})
    response = connection.getresponse()
    assert (response.read()[:1], response.headers["Connection"]) == (b"{", None)
    assert connection.sock.recv(1) == b""
    connection.close()


def test_the_bundle_can_change_between_two_requests(gw):
    run_id = gw.make_bundle_run(DATA)["runId"]
    gw.order(Fault(path="/download$", skip=1, act=lambda request: gw.change_bundle(run_id, b"new")))
    first, second = (call(gw, "GET", f"/runs/{run_id}/download") for _ in "ab")
    assert (first.body, second.body) == (DATA, b"new")
    assert first.headers["ETag"] != second.headers["ETag"]


def test_orders_are_taken_in_turn_by_what_they_match(gw):
    gw.order(Fault("POST", status=500), Fault("GET", "/runs$", status=502, skip=1),
             Fault("GET", status=503, times=2, when=lambda request: request.headers.get("x-odd") == "1"))
    assert [call(gw, "GET", "/runs").status for _ in "abc"] == [200, 502, 200]
    assert [call(gw, "GET", "/runs", X_Odd="1").status for _ in "abc"] == [503, 503, 200]
    assert call(gw, "POST", "/runs", {"profileId": "prof-json-raw"}).status == 500
    assert gw.store.runs == {}


def test_interim_answer_and_extra_bytes_on_the_wire(gw):
    gw.order(Fault(interim=(103,), extra=b"tail", body=b"body"))
    with socket.create_connection(urlsplit(gw.url).netloc.split(":"), timeout=5) as raw:
        raw.sendall(b"GET /x HTTP/1.1\r\nHost: x\r\n\r\n")
        seen = b"".join(iter(lambda: raw.recv(4096), b""))
    assert seen.startswith(b"HTTP/1.1 103 Early Hints\r\n")
    assert seen.endswith(b"\r\n\r\nbodytail")
    assert b"Content-Length: 4\r\n" in seen


# ------------------------------------------------------------------------------------- life and death

def test_stopping_is_quick_and_leaves_nothing(tmp_path, keys):
    before = set(threading.enumerate())
    started = time.perf_counter()
    with Gateway(tmp_path, **keys) as gw:
        gw.make_run("prof-json-raw", APP)
        assert time.perf_counter() - started < 3.0      # dpkg-query once per process included
        gw.hold()
        run_id = gw.make_run("prof-json-raw", wait=False)["runId"]
        gw.order(Fault(path="/download$", stall=3))
        address = urlsplit(gw.url).netloc
        waiting = [http.client.HTTPConnection(address, timeout=5) for _ in range(3)]
        done = gw.make_bundle_run(DATA)["runId"]
        paths = (f"/runs/{run_id}/events", f"/runs/{done}/download", "/profiles")
        for connection, path in zip(waiting, paths):
            connection.request("GET", API + path, headers={"Authorization": f"Bearer {gw.token}"})
            connection.getresponse().read(1)
        started = time.perf_counter()
    assert time.perf_counter() - started < 0.5
    assert set(threading.enumerate()) == before
    for connection in waiting:
        connection.close()


def test_tls(tmp_path, keys):
    with Gateway(tmp_path, tls=True, client_certificates=True, **keys) as gw:
        context = ssl.create_default_context(cafile=str(gw.ca_file))
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        context.load_cert_chain(*gw.client_cert)
        for host in ("127.0.0.1", "localhost"):
            connection = http.client.HTTPSConnection(host, urlsplit(gw.url).port, context=context, timeout=5)
            connection.request("GET", API + "/runs", headers={"Authorization": f"Bearer {gw.token}"})
            assert connection.getresponse().status == 200
            connection.close()
        gw.order(Fault(reset=3))
        connection = http.client.HTTPSConnection(urlsplit(gw.url).netloc, context=context, timeout=5)
        connection.request("GET", API + "/runs", headers={"Authorization": f"Bearer {gw.token}"})
        # Some releases of Python 3.10 to 3.12 take a reset under TLS for an end.
        ends = ConnectionResetError, http.client.IncompleteRead
        with connection.getresponse() as response, pytest.raises(ends):
            response.read()
        connection.close()
        stranger = ssl.create_default_context()
        address = "127.0.0.1", urlsplit(gw.url).port
        with socket.create_connection(address, timeout=5) as raw, pytest.raises(ssl.SSLCertVerificationError):
            stranger.wrap_socket(raw, server_hostname="localhost")


def test_as_a_program(tmp_path):
    command = [sys.executable, "-W", "error", Path(gateway.__file__), "--data", tmp_path, "--pace", "0"]
    for options in ([], ["--json"]):
        process = subprocess.Popen([*command, *options], text=True, stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE)
        try:
            line = process.stdout.readline()
            url = json.loads(line)["url"] if options else line[len("url: "):].strip()
            with socket.create_connection(urlsplit(url).netloc.split(":"), timeout=5):
                os.kill(process.pid, signal.SIGTERM)
                _, errors = process.communicate(timeout=10)
        finally:
            process.kill()
            process.communicate()
        assert (process.returncode, errors) == (0, "")
    key = tmp_path / "keys/acme-export.pub"
    subprocess.run(["openssl", "pkey", "-pubin", "-noout", "-in", key], check=True)


def test_sigstore_bundles_and_images(tmp_path, keys):
    with Gateway(tmp_path, sigstore=True, oci_ref="{objects}/exports/{tenant}:{runId}", **keys) as gw:
        run = gw.make_run("prof-mirror-full", APP)
        oci = next(each for each in run["distribution"] if each["type"] == "oci")
        path = "/v2/exports/acme/manifests/"
        for reference in (run["runId"], oci["digest"]):
            head = call(gw, "HEAD", path + reference, origin=gw.object_url)
            assert head.headers["Docker-Content-Digest"] == oci["digest"]
        signature = call(gw, "GET", f"/runs/{run['runId']}/manifest?signature=true").json
        assert signature["mediaType"].startswith("application/vnd.dev.sigstore.bundle")
