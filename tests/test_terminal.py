"""Whatever a server says, a terminal is moved, titled, linked, copied to or turned around by nothing of it.

One table over every text of a server, registry, proxy, certificate or archive that is printed for people. Each is the
same HOSTILE text; it must be found in what is printed (else the row proves nothing), and nothing of it may act.
"""

# ruff: noqa: E501 - a row of the table is a line
from __future__ import annotations

import http.client
import itertools
import json
import os
import re
import socket
import ssl

import pytest

import attacks
import stella
from conftest import PROFILE
from wire import Wire, reply

# After the mark: CSI, OSC 8 (a link), OSC 52 (the clipboard), OSC 0 (the title), DCS, C1, DEL, CR, backspace, bell, line
# and paragraph ends, bidi marks, zero-width and other invisible characters, a lone surrogate.
ACTS = (
    "\x1b[2J", "\x1b]8;;http://evil.example\x1b\\", "\x1b]52;c;aGk=\x07", "\x1b]0;evil\x07", "\x1bP+q\x1b\\", "\x9b31m", "\x9d0;x\x9c",
    "\x7f", "\r", "\b", "\a", "\v", "\f", "\x85", "\u2028", "\u2029", "\u202e", "\u202d", "\u2066", "\u2069", "\u200e", "\u061c",
    "\u200b", "\u200d", "\ufeff", "\u00ad", "\u3164", "\u034f", "\u115f", "\u180e", "\ufe0f", "\u2800", "\U000e0041", "\n",
)  # fmt: skip
MARK = "zqmark"
HOSTILE = MARK + "".join(ACTS) + MARK
IN_HEADER = MARK + "".join(act for act in ACTS if max(act) < "\u0100" and act not in "\r\n\v\f\x85") + MARK
BUNDLE = b"bundle"
RUN = {"runId": "r1", "profileId": "p", "status": "succeeded", "bundle": {"name": "b.tar", "size": 6, "sha256": attacks.sha256(BUNDLE)}}
ACTIVE = {"runId": "r1", "status": "running", "progress": {"percent": 3}}
TEXT = json.dumps(HOSTILE)


def said(document, status=200, *headers):
    data = document if isinstance(document, bytes) else json.dumps(document).encode()
    return reply(status, data, "Content-Type: application/json", *headers)


def events(text: str):
    return reply(200, text.encode() + b"event: run.succeeded\ndata: {}\n\n", "Content-Type: text/event-stream")


def by_target(**answers):
    """An answer for each part of a request's target; `rest` for the others."""

    def answer(seen):
        return next((answers[key] for key in answers if "/" + key in seen.target), answers["rest"])

    return answer


def in_turn(*answers):
    turns = itertools.cycle(answers)
    return lambda seen: next(turns)


def run_with(**fields):
    return said({**RUN, **fields})


SHOW, LS, WATCH = "run show r1 --format table", "run ls --format table", "run watch r1"
DOWNLOAD = "download r1 --output b.tar --format table"
REFUSED = {"code": "ERR_EXPORT_001", "message": "m", "details": [], "traceId": "t"}
DIGEST = "sha256:" + "0" * 64
PROGRESS = reply(200, f"event: run.progress\ndata: {json.dumps({'phase': HOSTILE})}\n\n".encode(), "Content-Type: text/event-stream")
# name: (words, answer); in the words HOSTILE stands for itself.
PLACES = {
    "message of an error": ("run ls", said({**REFUSED, "message": HOSTILE}, 400)),
    "message without a code": ("run ls --retries 0", said({"message": HOSTILE}, 503)),
    "code of an error": ("run ls", said({**REFUSED, "code": HOSTILE}, 400)),
    "trace id of an error": ("run ls", said({**REFUSED, "traceId": HOSTILE}, 400)),
    "detail of an error": ("run ls", said({**REFUSED, "details": [HOSTILE]}, 400)),
    "path of a detail": ("run ls", said({**REFUSED, "details": [{"path": HOSTILE, "message": "m"}]}, 400)),
    "message of a detail": ("run ls", said({**REFUSED, "details": [{"path": "/x", "message": HOSTILE}]}, 400)),
    "odd detail": ("run ls", said({**REFUSED, "details": [[HOSTILE]]}, 400)),
    "quota headers of an error": ("run ls", said({**REFUSED, "code": "ERR_EXPORT_QUOTA"}, 429, f"X-Stella-Quota-Limit: {IN_HEADER}")),
    "trace id in --trace": ("run ls --trace", said({"items": []}, 200, f"X-Stella-Trace-Id: {IN_HEADER}")),
    "quota headers in --trace": ("run ls --trace", said({"items": []}, 200, f"X-Stella-Quota-Reset: {IN_HEADER}")),
    "content type": ("run ls", reply(200, b"hello", f"Content-Type: {IN_HEADER}")),
    "status line": ("run ls --retries 0", f"{IN_HEADER} 200\r\n\r\n".encode("latin-1")),
    "a page without items": ("run ls", said({"x": HOSTILE})),
    "cursor": ("run ls --all", said({"items": [1], "nextCursor": HOSTILE})),
    "duplicate key": (SHOW, said(b"{%s: 1, %s: 2}" % (TEXT.encode(), TEXT.encode()))),
    "keys beside --query": ("run show r1 --query nothing", said({HOSTILE: 1})),
    "value of --query, on a terminal": ("run show r1 --query x", said({"x": HOSTILE})),
    "document, on a terminal": ("run show r1 --format json", said({HOSTILE: HOSTILE})),
    "YAML, on a terminal": ("run show r1 --format yaml", said({HOSTILE: HOSTILE})),
    "list as JSON, on a terminal": ("run ls --format json", said({"items": [{"runId": HOSTILE}]})),
    "list as YAML, on a terminal": ("run ls --format yaml", said({"items": [{"runId": HOSTILE}]})),
    "manifest, on a terminal": ("manifest r1", reply(200, HOSTILE.encode())),
    "events as JSON, on a terminal": ("run watch r1 --json", by_target(events=events(f"data: {MARK}{''.join(act for act in ACTS if act not in chr(13) + chr(10))}\n\n"), rest=run_with())),
    "run id": (SHOW, run_with(runId=HOSTILE)),
    "profile id": (SHOW, run_with(profileId=HOSTILE)),
    "status": (SHOW, run_with(status=HOSTILE)),
    "phase": (SHOW, run_with(status="running", progress={"phase": HOSTILE})),
    "error of a run": (SHOW, run_with(error={"message": HOSTILE, "code": HOSTILE})),
    "times": (SHOW, run_with(createdAt=HOSTILE, updatedAt=HOSTILE, completedAt=HOSTILE)),
    "policy": (SHOW, run_with(policySnapshotId=HOSTILE)),
    "selectors": (SHOW, run_with(selectors={"tenants": [HOSTILE]})),
    "bundle": (SHOW, run_with(bundle={"name": HOSTILE, "sha256": HOSTILE})),
    "distribution": (SHOW, run_with(distribution=[{"type": HOSTILE, "ref": HOSTILE}, {"bucket": HOSTILE, "key": HOSTILE}])),
    "a row of runs": (LS, said({"items": [{**dict.fromkeys(("runId", "profileId", "status", "updatedAt"), HOSTILE), "progress": {"phase": HOSTILE}}]})),
    "a row of profiles": ("profile list --format table", said({"items": [{**dict.fromkeys(("profileId", "kind", "variant", "retention"), HOSTILE), "distribution": [HOSTILE]}]})),
    "a profile": ("profile show p --format table", said({**dict.fromkeys(("profileId", "name", "kind", "variant", "status", "retention", "compression", "policySnapshotMode", "revision", "updatedAt"), HOSTILE), "include": [HOSTILE], "encryption": {"mode": HOSTILE}})),
    "a profile that changed": ("profile update p --add-distribution oci", lambda seen: said({"distribution": ["http"], "name": HOSTILE + str(id(seen))}, 200, 'ETag: "e"') if seen.method == "GET" else reply(412)),
    "a new run": ("run submit p --format table", said({"runId": HOSTILE, "status": HOSTILE}, 202)),
    "a new run, waited for": ("run submit p --wait --format json --query status", by_target(events=events(""), rest=said({"runId": HOSTILE, "status": "succeeded"}, 202))),
    "a cancelled run": ("run cancel r1 --format table", said({"runId": HOSTILE, "status": "cancelled"}, 202)),
    "warning": (WATCH, by_target(events=events(f"event: run.warning\ndata: {json.dumps({'message': HOSTILE})}\n\n"), rest=run_with())),
    "warning that is no JSON": (WATCH, by_target(events=events(f"event: run.warning\ndata: {MARK}\x1b[2J\x9b31m\u202e\u200b\n\n"), rest=run_with())),
    "phase of an event": (WATCH, by_target(events=in_turn(PROGRESS, events("")), rest=said(ACTIVE))),
    "outcome": (WATCH, by_target(events=events(""), rest=run_with(bundle={"name": HOSTILE, "size": 1}))),
    "failure of a run": (WATCH, by_target(events=reply(404), rest=run_with(status="failed", error={"code": HOSTILE, "message": HOSTILE}))),
    "why there are no events": (WATCH + " --retries 0", by_target(events=said({"message": HOSTILE}, 503), rest=run_with())),
    "why events are tried again": (WATCH + " --retries 1 --trace", by_target(events=said({"message": HOSTILE}, 503), rest=run_with())),
    "content type of events": (WATCH, by_target(events=reply(200, b"x", f"Content-Type: {IN_HEADER}"), rest=run_with())),
    "an unknown status while watching": (WATCH + " --deadline 0.2", by_target(events=reply(404), rest=said({**ACTIVE, "status": HOSTILE, "progress": {"phase": HOSTILE, "percent": 1}}))),
    "reason of a lost run": (WATCH, by_target(events=events(""), rest=said({**REFUSED, "message": HOSTILE}, 400))),
    "a run without a bundle": (DOWNLOAD, run_with(status="failed", bundle=None, error={"code": HOSTILE, "message": HOSTILE})),
    "coding of a bundle": (DOWNLOAD + " --retries 0", by_target(download=reply(200, BUNDLE, f"Content-Encoding: {IN_HEADER}"), rest=run_with())),
    "refusal of a bundle": (DOWNLOAD, by_target(download=said({**REFUSED, "message": HOSTILE}, 403), rest=run_with())),
    "name of a bundle": ("download r1 --format table", by_target(download=reply(200, BUNDLE), rest=run_with(bundle={**RUN["bundle"], "name": HOSTILE}))),
    "reference at a registry": (DOWNLOAD, run_with(distribution=[{"type": "oci", "ref": HOSTILE, "digest": DIGEST}])),
    "digest of a registry": (DOWNLOAD, by_target(v2=reply(200, b"", f"Docker-Content-Digest: {IN_HEADER}"), rest=lambda seen: run_with(distribution=[{"type": "oci", "ref": f"{seen.headers['host']}/e/a:1", "digest": DIGEST}]))),
    "refusal of a registry": (DOWNLOAD + " --retries 0", by_target(v2=f"{IN_HEADER} 500 \r\n\r\n".encode("latin-1"), rest=lambda seen: run_with(distribution=[{"type": "oci", "ref": f"{seen.headers['host']}/e/a:1", "digest": DIGEST}]))),
    "doctor": ("doctor", reply(200, b"x", f"Content-Type: {IN_HEADER}")),
}  # fmt: skip
# name: (bend of the kit, words)
DOCUMENTS = {
    "run id of a manifest": lambda kit: setattr(kit, "edit_manifest", lambda manifest: {**manifest, "runId": HOSTILE}),
    "tenant and time": lambda kit: setattr(kit, "edit_manifest", lambda manifest: {**manifest, "tenant": HOSTILE, "createdAt": HOSTILE}),
    "compression": lambda kit: setattr(kit, "edit_manifest", lambda manifest: attacks.changed(manifest, "bundle.compression", HOSTILE)),
    "schema": lambda kit: setattr(kit, "edit_manifest", lambda manifest: {**manifest, "schemaVersion": HOSTILE}),
    "path of an artifact": lambda kit: setattr(kit, "edit_manifest", lambda manifest: attacks.changed(manifest, "artifacts.+", {"path": HOSTILE, "size": 1, "sha256": "0" * 64})),
    "name of a member": lambda kit: setattr(kit, "bundle", attacks.tar([*attacks.MEMBERS, (HOSTILE[:60], b"x")])),
    "reference": lambda kit: setattr(kit, "edit_manifest", lambda manifest: {**manifest, "distribution": [{"type": "oci", "ref": HOSTILE, "digest": DIGEST}]}),
    "kind of a provenance": lambda kit: setattr(kit, "edit_provenance", lambda document: {**document, "_type": HOSTILE, "predicateType": HOSTILE}),
    "subject": lambda kit: setattr(kit, "edit_provenance", lambda document: {**document, "subject": [*document["subject"], {"name": HOSTILE, "digest": {"sha256": "0" * 64}}]}),
    "duplicate key": lambda kit: setattr(kit, "edit_manifest", lambda _: b"{%s: 1, %s: 2}" % (TEXT.encode(), TEXT.encode())),
    "type of a Sigstore bundle": lambda kit: setattr(kit, "signature", lambda *_: json.dumps({"mediaType": HOSTILE}).encode()),
    "algorithm of a Sigstore bundle": lambda kit: setattr(kit, "signature", lambda blob, raw: stella.make_sigstore_bundle(raw, attacks.sha256(blob)).replace(b'"SHA2_256"', TEXT.encode())),
}  # fmt: skip


def harmless(text: str) -> bool:
    """True when all that is left beside our own redrawing of the status line is visible."""
    text = re.sub("\r\x1b\\[K|\x1b\\[[0-9]+A\r\x1b\\[J", "", text)
    return all(stella.is_visible(char) or char == "\n" for char in text)


SCREENS = ("a pipe", "a terminal", "a terminal without Unicode")
# Documents are exact in a pipe: tests/test_output.py.
ROWS = [(name, screen) for name in PLACES for screen in SCREENS if not ("on a terminal" in name and screen == "a pipe")]


def at(monkeypatch, screen: str) -> dict[str, str]:
    """The environment of a command that prints to such a place."""
    if screen == "a pipe":
        return {}
    monkeypatch.setattr(stella.Console, "_is_terminal", staticmethod(lambda _: True))
    if "without" in screen:
        monkeypatch.setattr(stella.Console, "unicode", lambda self, stream=None: False)
    return {"TERM": "xterm", "NO_COLOR": "1", "COLUMNS": "4000"}


def look(result, name):
    """What was printed acts on nothing, and holds the text at all."""
    assert "unexpected" not in result.err.replace("unexpected answer", ""), result
    assert MARK in result.out + result.err, result
    assert harmless(result.out), name
    assert harmless(result.err), name
    assert len(result.err.splitlines()) < 12, "no line break of the server's"


@pytest.mark.parametrize(("name", "screen"), ROWS)
def test_nothing_that_a_server_says_acts_on_a_terminal(cli, monkeypatch, tmp_path, screen, name):
    words, answer = PLACES[name]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "profile.json").write_text(json.dumps(PROFILE))

    def answering(seen):
        found = answer(seen) if callable(answer) else answer
        return found(seen) if callable(found) else found

    with Wire(answering) as server:
        environment = {"STELLA_SERVER": server.url, "STELLA_TOKEN": "t-oken-t", **at(monkeypatch, screen)}
        result = cli(*words.split(), env=environment, whole=words == "doctor")
    look(result, name)
    for path in tmp_path.iterdir():
        assert harmless(path.name)
        assert os.sep not in path.name


@pytest.mark.parametrize("screen", SCREENS)
@pytest.mark.parametrize("name", DOCUMENTS)
def test_nothing_that_a_signed_document_says_acts_on_a_terminal(cli, monkeypatch, tmp_path, screen, name):
    kit = attacks.Kit()
    DOCUMENTS[name](kit)
    words = kit.write(tmp_path / "kit")
    look(cli(*words, "--verifier", "builtin", "--format", "table", env=at(monkeypatch, screen)), name)


@pytest.mark.parametrize("screen", SCREENS)
def test_what_a_user_types_does_not_act_either(cli, gw, monkeypatch, screen, tmp_path):
    environment = at(monkeypatch, screen)
    for words in (["run", "show", HOSTILE, "--format", "table"], ["run", "ls", "--tail", HOSTILE], ["run", "ls", "--" + HOSTILE], [HOSTILE],
                  ["verify", "r", "--key", HOSTILE, "--manifest", "m", "--provenance", "p"], ["profile", "create", "--file", HOSTILE],
                  ["run", "submit", "p", "--selector", HOSTILE], ["manifest", "r", "--output", tmp_path / HOSTILE / "\x1b"]):  # fmt: skip
        result = cli(*words, gw=gw, env=environment)
        assert harmless(result.out + result.err), words


NAME = ((("commonName", HOSTILE),), (("organizationName", HOSTILE),))
CERTIFICATE = {"subject": NAME, "issuer": NAME, "subjectAltName": (("DNS", HOSTILE),), "notBefore": HOSTILE, "notAfter": HOSTILE}


@pytest.mark.parametrize("chain", [[CERTIFICATE], []], ids=["chain", "no chain"])
@pytest.mark.parametrize("code", [9, 10, 18, 19, 20, 21, 23, 62, 64, 85, 92])
def test_nothing_that_a_certificate_says_acts_on_a_terminal(capsysbinary, code, chain):
    error = ssl.SSLCertVerificationError(1, "x")
    error.verify_code, error.verify_message, error.reason, error.chain = code, HOSTILE, "CERTIFICATE_VERIFY_FAILED", chain
    stella.Console().error(stella.tls_error(error, stella.parse_url("https://h.example"), stella.load_config({}, {})))
    out, err = capsysbinary.readouterr()
    assert MARK in err.decode() or (code in (9, 10, 18) and not chain)
    assert (out, harmless(err.decode())) == (b"", True)


@pytest.mark.parametrize("fault", [
    OSError(5, HOSTILE), ssl.SSLError(1, HOSTILE), socket.gaierror(-2, HOSTILE), http.client.HTTPException(HOSTILE),
    http.client.BadStatusLine(HOSTILE), http.client.UnknownProtocol(HOSTILE),
], ids=lambda fault: type(fault).__name__)  # fmt: skip
def test_nothing_in_a_fault_of_the_network_acts_on_a_terminal(capsysbinary, fault):
    stella.Console().error(stella.transport_error(fault, stella.parse_url("https://h.example")))
    err = capsysbinary.readouterr().err.decode()
    assert MARK in err
    assert harmless(err)
