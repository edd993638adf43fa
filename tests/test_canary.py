"""Secrets stay where they belong, whatever happens.

Each secret of an invocation is a canary: tokens, proxy user and password, the contents of key files, of the profile and
of .netrc, presigned queries, cookies, DPoP proofs. A situation is a row of CASES: a command, what the servers say, what
breaks. After each one no canary, nor twelve characters of one, nor its Base64, hex or percent-encoded form, is found in
a byte that reached a place where it does not belong, in anything printed, in any file but its own, or in the arguments
and the environment of any program that was started.
"""

# ruff: noqa: E501 - a row of the table is a line
from __future__ import annotations

import base64
import json
import os
import re
import signal
import ssl
import subprocess
import sys
import threading
import time
from pathlib import Path
from urllib.parse import quote

import pytest

import attacks
import stella
from conftest import CALLS, PROFILE, surroundings
from wire import Wire, reply

TOKENS = {"environment": "tokEnvQ7f3a9c1e5b2d8", "profile": "tokProfXa41b77c0e9d3f", "file": "tokFileM0c5e2b9a7d16f"}
USER, PASSWORD = "proxyUserK3h8", "pr0xyPass@Zq5:w7e2r9"
SIGNED = "sigPresignedT4k8m1n6b3v9"
# By what they are: the canary and, of the places below, those that may see it.
CANARIES = {
    "token": ("", {"gateway"}),  # the one in use: see Stage
    "unused token": ("tokUnusedB5g2h7j4k1l8", set()),
    "proxy user": (USER, {"proxy"}),
    "proxy password": (PASSWORD, {"proxy"}),
    "presigned query": (SIGNED, {"other"}),
    "registry token": ("pullTokenG9d4f7s1a6", {"registry"}),
    "cookie": ("cookieSessionW2s5x8c1v4", set()),
    "profile comment": ("commentProfileY6u3i9o2p5", set()),
    "netrc password": ("netrcPassR8t1y4u7i0o3", set()),
}
SERVED = "http://127.0.0.1:%d"
BUNDLE = b"bundle bytes " * 20
RUN = {
    "runId": "r1", "profileId": "p", "status": "succeeded", "createdAt": "2025-10-29T13:42:11Z",
    "bundle": {"name": "export.tar", "size": len(BUNDLE), "sha256": attacks.sha256(BUNDLE)}, "distribution": [{"type": "http"}],
}  # fmt: skip
ACTIVE = {**RUN, "status": "running", "bundle": None, "progress": {"percent": 5, "phase": "adapter"}}
PAGE = {"items": [RUN], "nextCursor": None}


def said(status: int, body="", *headers: str):
    """An answer in which @other@ is that place's URL, @all@ the whole request head, @dpop@ its header of that name."""

    def answer(stage, seen) -> bytes:
        def fill(text: str) -> str:
            return re.sub("@([a-z-]+)@", lambda word: stage.word(word.group(1), seen), text)

        text = body if isinstance(body, (str, bytes)) else json.dumps(body)
        data = text if isinstance(text, bytes) else fill(text).encode()
        return reply(status, data, f"Set-Cookie: session={CANARIES['cookie'][0]}; Path=/", *map(fill, headers))

    return answer


def raw(text: str):
    return lambda stage, seen: re.sub("@([a-z-]+)@", lambda word: stage.word(word.group(1), seen), text).encode("latin-1")


def silent(stage, seen) -> bytes:
    stage.over.wait(20)
    return b""


def cut(after: int, *headers: str):
    return lambda stage, seen: reply(200, BUNDLE, *headers)[: -len(BUNDLE)] + BUNDLE[:after]


JSON, HTML, EVENTS = "Content-Type: application/json", "Content-Type: text/html", "Content-Type: text/event-stream"
ECHO_PAGE = "<html><pre>@all@</pre>"
ECHO_MESSAGE = '{"code": "%s", "message": "you sent @authorization@ and @dpop@", "details": ["@authorization@", {"path": "@authorization@", "message": "@proxy-authorization@"}], "traceId": "@token@"}'
ECHO_LONG = '{"message": "%s @token@"}' % ("x" * 985)
TO_OTHER = f"Location: @other@/x?X-Sig={SIGNED}&t=1"
BY_OCI = {**RUN, "distribution": [{"type": "oci", "ref": "@registry-host@/e/acme:1", "digest": "sha256:" + "0" * 64}]}
PULL = {"token": CANARIES["registry token"][0]}
BY_OBJECT = {**RUN, "distribution": [{"type": "object", "bucket": "b", "key": "k/export.tar"}]}
CHALLENGE = f'WWW-Authenticate: Bearer realm="@other@/t?X-Sig={SIGNED}",service="s"'


class Case:
    """words: the command. The answers of each place: a list, one after the other, the last again and again; for the
    gateway also a dict of them by a part of the request's target. code: the exit code, or several.
    """

    def __init__(self, words: str, gateway=(), code=0, *, other=None, store=None, registry=None, proxy=None, env=None,
                 token="", profile="", whole=False, far=False, dpop=False, tls="", crash="", arrange="", met="") -> None:  # fmt: skip
        self.words, self.codes = words.split(), {code} if isinstance(code, int) else set(code)
        self.scripts = {"gateway": gateway, "other": other, "store": store, "registry": registry, "proxy": proxy}
        self.env, self.token, self.profile, self.whole = env or {}, token, profile, whole
        self.far, self.dpop, self.tls, self.crash, self.arrange, self.met = far, dpop, tls, crash, arrange, met


CASES: dict[str, Case] = {}
page, run = said(200, PAGE, JSON), said(200, RUN, JSON)


def downloading(*answers, document=RUN):
    return {"/download": list(answers), "": [said(200, document, JSON)]}


# Redirects: of each status and kind, of each sort of request.
for status in (301, 302, 303, 307, 308):
    CASES[f"redirect {status} elsewhere, presigned"] = Case("run ls --trace", [said(status, "", TO_OTHER)], other=[page])
    CASES[f"mutation redirected with {status}"] = Case("run submit p --trace", [said(status, ECHO_PAGE, TO_OTHER)], 1)
CASES.update({
    "redirect without a scheme": Case("run ls --trace", [said(302, "", "Location: //@other-host@/x")], other=[page]),
    "redirect with credentials in it": Case("run ls", [said(302, "", f"Location: http://u:{SIGNED}@@other-host@/")], 1),
    "redirect to control characters": Case("run ls", [said(302, "", f"Location: @other@/\x1b[2J{SIGNED}")], 1),
    "redirect to no URL": Case("run ls", [said(302, "", f"Location: x:{SIGNED}")], 1),
    "redirect to a name of another script": Case("run ls --retries 0", [said(302, "", f"Location: http://b\xfcch.invalid/?{SIGNED}")], 21, env={"HTTP_PROXY": ""}),
    "redirect there and back": Case("run ls --trace", [said(302, "", TO_OTHER), page], other=[said(302, "", "Location: @gateway@/api/export/runs")]),
    "redirect in a circle": Case("run ls --trace", [said(302, "", TO_OTHER)], 1, other=[said(302, "", TO_OTHER)]),
    "redirect on the gateway, with a query": Case("run ls --trace", [said(302, "", f"Location: /x?{SIGNED}"), page], met="no presigned"),
    "redirect to a page that refuses": Case("run ls --trace", [said(302, "", TO_OTHER)], 11, other=[said(403, ECHO_PAGE, HTML)]),
    "redirect to a place that fails": Case("run ls --retries 1 --trace", [said(302, "", TO_OTHER)], 21, other=[said(503, "@target@")]),
    "redirect to a place that talks of its URL": Case("run ls --retries 0", [said(302, "", TO_OTHER)], 21, other=[said(503, '{"message": "bad @other@@target@ here"}')]),
    "redirect to a place that is no HTTP": Case("run ls --retries 0", [said(302, "", TO_OTHER)], 21, other=[raw("@target@\r\n\r\n")]),
    "redirect of a manifest": Case("manifest r1 --trace", [said(307, "", TO_OTHER)], other=[said(200, "{}")]),
    "redirect of events": Case("run watch r1 --trace", {"/events": [said(307, "", TO_OTHER)], "": [run]}, other=[said(200, "id: 7\nevent: run.succeeded\ndata: {}\n\n", EVENTS)]),
    "redirect of a download, whole": Case("download r1 --trace", downloading(said(302, "", TO_OTHER)), other=[said(200, BUNDLE)]),
    "redirect of a download, cut": Case("download r1 --retries 0 --trace", downloading(said(302, "", TO_OTHER)), 21, other=[cut(30, 'ETag: "e"')]),
    "redirect of a download, cut and resumed": Case("download r1 --retries 3 --trace", downloading(said(302, "", TO_OTHER)), other=[cut(30, 'ETag: "e"'), said(200, BUNDLE, 'ETag: "e"')]),
    "redirect of a download, expired": Case("download r1 --trace", downloading(said(302, "", TO_OTHER)), 11, other=[said(403, "<Error>@target@ expired</Error>", "Content-Type: application/xml")]),
    "redirect of a download to other bytes": Case("download r1 --trace", downloading(said(302, "", TO_OTHER)), (20, 21), other=[said(200, b"x" * len(BUNDLE))]),
})  # fmt: skip

# Errors that say everything back: as a page, in each field of an error, cut in the middle, in the headers.
for status, codes in {400: 10, 401: 30, 403: 11, 404: 11, 407: 1, 409: 12, 410: 11, 412: 12, 418: 1, 422: 10, 429: 12, 500: 21, 502: 21, 503: 21, 504: 21}.items():
    CASES[f"{status} with a page that says everything back"] = Case("run ls --retries 0 --trace", [said(status, ECHO_PAGE, HTML)], codes)
    CASES[f"{status} with an error that says it back"] = Case("run ls --retries 0 --trace", [said(status, ECHO_MESSAGE % "", JSON)], codes, dpop=status in (401, 500))
for code, number in {"ERR_EXPORT_001": 10, "ERR_EXPORT_QUOTA": 12, "ERR_EXPORT_005": 13}.items():
    CASES[f"{code} that says it back"] = Case("run submit p --retries 0 --trace", [said(500, ECHO_MESSAGE % code, JSON)], number)
CASES.update({
    "a message that is cut inside the token": Case("run ls", [said(400, ECHO_LONG, JSON)], 10),
    "a message with a presigned place": Case("run ls", [said(400, f'{{"message": "see @other@/b?X-Sig={SIGNED}"}}', JSON)], 10),
    "the token as trace id and quota": Case("run ls --trace", [said(429, '{"code": "ERR_EXPORT_QUOTA"}', "X-Stella-Trace-Id: @token@", "X-Stella-Quota-Limit: @token@")], 12),
    "the token as content type": Case("run ls", [said(200, "hello", "Content-Type: @token@")], 1),
    "the token as page": Case("run ls", [said(200, "@all@", JSON)], 1),
    "the token as the status line": Case("run ls --retries 0 --trace", [raw("@token@ 200\r\n\r\n")], 21),
    "the token as the reason": Case("run ls --trace", [raw("HTTP/1.1 400 @token@\r\nContent-Length: 0\r\n\r\n")], 10),
    "the token as the size of a chunk": Case("run ls --retries 0", [raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n@token@\r\n")], 21),
    "the token in the path of a redirect": Case("run ls --trace", [said(302, "", "Location: /@token@"), page]),
    "the token as cursor": Case("run ls --all", [said(200, '{"items": [1], "nextCursor": "@token@"}', JSON)], 1),
    "the token in a table": Case("run show r1 --format table", [said(200, '{"runId": "@token@", "status": "failed", "error": {"message": "@authorization@"}}', JSON)]),
    "the token in a failed run": Case("run watch r1", {"/events": [said(200, "event: run.failed\ndata: {}\n\n", EVENTS)], "": [said(200, '{"runId": "r1", "status": "failed", "error": {"code": "@token@", "message": "@token@"}}', JSON)]}, 13),
    "the token in a warning": Case("run watch r1", {"/events": [said(200, 'event: run.warning\ndata: {"message": "@all@ @token@"}\n\nevent: run.succeeded\ndata: {}\n\n', EVENTS)], "": [run]}),
    "the token as the phase of a run": Case("run watch r1", {"/events": [said(200, 'event: run.progress\ndata: {"phase": "@token@"}\n\nevent: run.succeeded\ndata: {}\n\n', EVENTS)], "": [run]}),
    "an event stream that says it back and fails": Case("run watch r1 --retries 0 --trace", {"/events": [said(503, ECHO_MESSAGE % "", JSON)], "": [run]}),
    "an endless cookie": Case("run ls", [said(200, PAGE, JSON, "Set-Cookie: x=" + CANARIES["cookie"][0] * 100)]),
})  # fmt: skip

# Every command, with --trace, against a server that breaks and one that says everything back.
for name, words in CALLS.items():
    made = " ".join(words)
    CASES[f"{name}: 500 page"] = Case(f"{made} --retries 0 --trace", [said(500, ECHO_PAGE, HTML)], 21, arrange="profile")
    CASES[f"{name}: 401"] = Case(f"{made} --trace", [said(401, ECHO_MESSAGE % "", JSON)], 30, arrange="profile", dpop=name == "run watch")
    CASES[f"{name}: redirected"] = Case(f"{made} --retries 0 --trace", [said(302, "", TO_OTHER)], (0, 1, 21), other=[said(200, "hello")], arrange="profile")

# Silence, refusals and cuts.
CASES.update({
    "silence": Case("run ls --timeout 0.1 --retries 0 --trace", [silent], 21),
    "silence after a redirect": Case("run ls --timeout 0.1 --retries 0 --trace", [said(302, "", TO_OTHER)], 21, other=[silent]),
    "closed at once": Case("run ls --retries 1 --trace", [raw("")], 21),
    "a gateway that is not there": Case("run ls --retries 0 --trace", [], 21, env={"STELLA_SERVER": "http://127.0.0.1:1"}),
    "a name that is not there": Case("run ls --retries 0", [], 21, env={"STELLA_SERVER": "https://stella.invalid", "HTTPS_PROXY": ""}),
    "a cut answer": Case("run show r1 --retries 0 --trace", [raw("HTTP/1.1 200 OK\r\nContent-Length: 99\r\nConnection: close\r\n\r\n@token@")], 21),
    "a cut download": Case("download r1 --retries 0 --trace", downloading(cut(30)), 21),
    "a download of other bytes": Case("download r1 --trace", downloading(said(200, b"y" * len(BUNDLE))), (20, 21)),
    "a good download": Case("download r1 --trace", downloading(said(200, BUNDLE))),
    "an old part resumed": Case("download r1 --resume --trace", downloading(said(200, BUNDLE)), arrange="part"),
    "a bundle to standard output": Case("download r1 --output -", downloading(said(200, BUNDLE))),
    "a bundle named by the server": Case("download r1 --trace", downloading(said(200, BUNDLE), document={**RUN, "bundle": {**RUN["bundle"], "name": "../../.netrc"}})),
    "a folder that cannot be made": Case("manifest r1 --output /dev/null/x", [said(200, "{}")], 1),
    "a disk that is full": Case("manifest r1 --output /dev/full", [said(200, "{}")], 1),
    "manifest and signature": Case("manifest r1 --output m --signature m.sig --trace", [said(200, "{}"), said(200, "c2ln")]),
})  # fmt: skip

# The object store and registries.
CASES.update({
    "object store": Case("download r1 --trace", downloading(document=BY_OBJECT), store=[said(200, BUNDLE)]),
    "object store that refuses": Case("download r1 --trace", downloading(said(200, BUNDLE), document=BY_OBJECT), store=[said(403, "<Error>@all@</Error>")]),
    "object store that talks": Case("download r1 --trace", downloading(said(200, BUNDLE), document=BY_OBJECT), store=[said(400, '{"message": "@all-in-one@"}', JSON)]),
    "object store that redirects": Case("download r1 --trace", downloading(document=BY_OBJECT), store=[said(307, "", TO_OTHER)], other=[said(200, BUNDLE)]),
    "object store that redirects to the gateway": Case("download r1 --retries 0 --trace", {"/download": [said(200, BUNDLE)], "/secret": [said(403, "@all@")], "": [said(200, BY_OBJECT, JSON)]}, store=[said(307, "", "Location: @gateway@/secret")]),
    "object store that is cut, then nothing": Case("download r1 --retries 0 --trace", downloading(said(500, ECHO_PAGE), document=BY_OBJECT), 21, store=[cut(30)]),
    "registry with a challenge": Case("download r1 --trace", downloading(said(200, BUNDLE), document=BY_OCI), 20, registry=[said(401, "@all@", CHALLENGE), said(200, "", "Docker-Content-Digest: sha256:" + "1" * 64)], other=[said(200, PULL, JSON)]),
    "registry whose realm says everything back": Case("download r1 --retries 0 --trace", downloading(document=BY_OCI), 1, registry=[said(401, "", CHALLENGE)], other=[said(400, "@all@ @target@")]),
    "registry whose realm gives no token": Case("download r1 --trace", downloading(document=BY_OCI), 1, registry=[said(401, "", CHALLENGE)], other=[said(200, "@target@")]),
    "registry whose realm is the gateway": Case("download r1 --trace", downloading(document=BY_OCI), 1, registry=[said(401, "", 'WWW-Authenticate: Bearer realm="@gateway@/t"')]),
    "registry that redirects": Case("download r1 --trace", downloading(document=BY_OCI), 20, registry=[said(307, "", TO_OTHER)], other=[said(200, "", "Docker-Content-Digest: @authorization@")]),
    "registry that redirects with a token": Case("download r1 --trace", downloading(document=BY_OCI), 20, registry=[said(401, "", CHALLENGE), said(307, "", TO_OTHER)], other=[said(200, PULL, JSON), said(200, "", "Docker-Content-Digest: @authorization@")]),
    "registry that wants more": Case("download r1 --trace", downloading(document=BY_OCI), 21, registry=[said(401, "", CHALLENGE)], other=[said(200, PULL, JSON)]),
    "registry that fails": Case("download r1 --retries 0 --trace", downloading(document=BY_OCI), 21, registry=[said(500, "@all@")]),
    "verify asks a registry": Case("verify run-20251029-01 --kit kit --key kit/acme.pub --retries 0 --trace", [], 21, registry=[said(401, "@all@", CHALLENGE)], other=[said(200, PULL, JSON)], arrange="kit"),
    "verify through zstd": Case("verify run-20251029-01 --kit kit --key kit/acme.pub --offline --trace --verifier openssl", [], arrange="kit zstd"),
    "verify refuses": Case("verify another --kit kit --key kit/acme.pub --offline --trace --verifier builtin", [], 20, arrange="kit"),
})  # fmt: skip

# Watching and polling.
CASES.update({
    "watch": Case("run watch r1 --trace", {"/events": [said(200, "id: 1\nevent: run.succeeded\ndata: {}\n\n", EVENTS)], "": [run]}),
    "watch --json": Case("run watch r1 --json --trace", {"/events": [said(200, 'id: 1\nevent: run.warning\ndata: {"a": 1}\n\nevent: run.succeeded\ndata: {}\n\n', EVENTS)], "": [run]}),
    "watch with a dropped stream": Case("run watch r1 --trace", {"/events": [said(200, "id: 1\ndata: {}\n\n", EVENTS), said(200, "id: 2\nevent: run.succeeded\ndata: {}\n\n", EVENTS)], "": [said(200, ACTIVE, JSON), run]}),
    "watch falls back to polling": Case("run watch r1 --trace", {"/events": [said(404, ECHO_PAGE, HTML)], "": [said(200, ACTIVE, JSON), run]}),
    "watch polls and is refused": Case("run watch r1 --trace", {"/events": [said(404)], "": [said(403, ECHO_MESSAGE % "", JSON)]}, 11),
    "watch past its deadline": Case("run watch r1 --deadline 0.1 --trace", {"/events": [silent], "": [said(200, ACTIVE, JSON)]}, 14),
    "watch --no-follow": Case("run watch r1 --no-follow --trace", {"/events": [said(200, ": hello\n\n", EVENTS)], "": [said(200, ACTIVE, JSON)]}),
    "submit --wait": Case("run submit p --wait --trace", {"/events": [said(200, "event: run.failed\ndata: {}\n\n", EVENTS)], "": [said(202, {**RUN, "status": "failed"}, JSON)]}, 13),
})  # fmt: skip

# Proxies: the one place that may see their user and password, and nothing else.
CONNECTED = "HTTP/1.1 200 OK\r\nX: @proxy-authorization@\r\n\r\n@all@"
CASES.update({
    "proxy refuses": Case("run ls --trace", [], 30, proxy=[said(407, "@all@")], far=True, tls="none"),
    "proxy does not connect": Case("run ls --retries 1 --trace", [], 21, proxy=[said(502, "@all@")], far=True, tls="none"),
    "proxy says it back for TLS": Case("run ls --retries 0 --trace", [], 30, proxy=[raw(CONNECTED + "Connection: close")], far=True, tls="none"),
    "proxy is no HTTP": Case("run ls --retries 0 --trace", [], 21, proxy=[raw("@proxy-authorization@\r\n\r\n")], far=True, tls="none"),
    "proxy that is silent": Case("run ls --timeout 0.1 --retries 0 --trace", [], 21, proxy=[silent], far=True, tls="none"),
    "plain proxy refuses": Case("run ls --allow-http --trace", [], 30, proxy=[said(407, "@all@")], far=True, met="proxy sees the token"),
    "plain proxy says it back": Case("run ls --allow-http --retries 0 --trace", [], 21, proxy=[said(502, '{"message": "@proxy-authorization@ @authorization@"}', JSON)], far=True, met="proxy sees the token"),
    "plain proxy is no HTTP": Case("run ls --allow-http --retries 0 --trace", [], 21, proxy=[raw("@proxy-authorization@\r\n\r\n")], far=True, met="proxy sees the token"),
    "a proxy that cannot be": Case("run ls --trace", [], 30, env={"HTTPS_PROXY": f"socks5://{USER}:{quote(PASSWORD)}@p p:1"}, far=True, tls="none"),
    "a proxy with a bad port": Case("run ls --trace", [], 30, env={"HTTPS_PROXY": f"http://{USER}:{quote(PASSWORD)}@p:99999"}, far=True, tls="none"),
    "a tunnel": Case("run ls --trace", [page], far=True, tls="ca", proxy="tunnel"),
    "a tunnel, untrusted": Case("run ls --trace", [page], 30, far=True, tls="unknown", proxy="tunnel"),
})  # fmt: skip

# TLS and client certificates.
CASES.update({
    "TLS": Case("run ls --trace", [page], tls="ca"),
    "TLS with DPoP": Case("run ls --trace", [page], tls="ca", dpop=True),
    "TLS of an unknown CA": Case("run ls --trace", [page], 30, tls="unknown"),
    "TLS, then an open redirect": Case("run ls --trace", [said(302, "", TO_OTHER)], 1, tls="ca", other=[page]),
    "TLS, then a page that says everything back": Case("run ls --retries 0 --trace", [said(500, ECHO_PAGE, HTML)], 21, tls="ca"),
    "a client key that is none": Case("run ls --trace", [page], 30, tls="ca", profile='client_cert = "@home@/client.pem"\nclient_key = "@home@/token"\n', token="environment"),
})  # fmt: skip

# DPoP.
CASES.update({
    "DPoP": Case("run ls --trace", [page], dpop=True),
    "DPoP elsewhere": Case("run ls --trace", [said(302, "", TO_OTHER)], dpop=True, other=[page]),
    "DPoP said back": Case("run ls --trace", [said(400, '{"message": "@dpop@ @authorization@"}', JSON)], 10, dpop=True),
    "DPoP nonce without end": Case("run ls --trace", [said(401, ECHO_MESSAGE % "", 'WWW-Authenticate: DPoP error="use_dpop_nonce"', "DPoP-Nonce: n")], 30, dpop=True),
    "DPoP key that is none": Case("run ls --trace", [], 30, env={"STELLA_DPOP_KEY": "@home@/token"}),
})  # fmt: skip

# Faults of stella's own: an exception that says everything.
for place in ("Http.send", "Http.headers", "Response.read_all", "Gateway.url", "Console.document", "parse_answer", "json_text", "load_config", "App.show", "run_command", "Http.__init__"):
    CASES[f"crash in {place}"] = Case("run show r1 --trace", [run], 1, crash=place)
for place in ("EventParser.feed", "Watcher._read", "event_value", "WatchView.show"):
    CASES[f"crash in {place}"] = Case("run watch r1", {"/events": [said(200, "event: run.succeeded\ndata: {}\n\n", EVENTS)], "": [run]}, 1, crash=place)
for place in ("decide_answer", "header_digest", "PartFile.write_sidecar"):
    CASES[f"crash in {place}"] = Case("download r1", downloading(said(200, BUNDLE)), 1, crash=place)
CASES["crash in DpopSigner.proof"] = Case("run ls", [page], 1, dpop=True, crash="DpopSigner.proof")

# What never asks, and what cannot start.
BROKEN = CANARIES["profile comment"][0]
CASES.update({
    "doctor": Case("doctor", [page], {0, 30}, whole=True),
    "doctor with a CA file": Case("doctor", [page], {0, 30}, whole=True, tls="ca"),
    "doctor, refused": Case("doctor --format json --trace", [said(401, ECHO_MESSAGE % "", JSON)], 30, whole=True),
    "doctor, with a server that says everything back": Case("doctor --trace", [said(200, "@all@", "Content-Type: @token@")], 30, whole=True),
    "doctor --offline with a broken profile": Case("doctor --offline", [], 30, whole=True, profile=f"token = {BROKEN}\n", token="environment"),
    "dry run": Case("profile update X --name new --dry-run --trace", []),
    "dry run as a table": Case("profile create --file profile.json --dry-run --format table", [], arrange="profile"),
    "completion": Case("completion bash", [], whole=True),
    "help": Case("run ls --help", []),
    "an option with a token": Case(f"run ls --token {BROKEN}", [], 2),
    "an option with a token, joined": Case(f"run ls --token={BROKEN}", [], 2),
    "an option with a token, before": Case(f"--token={BROKEN} export run ls", [], 2, whole=True),
    "profile: no TOML": Case("run ls", [], 30, profile=f'token "{BROKEN}"\n', token="environment"),
    "profile: an open string": Case("run ls", [], 30, profile=f'token = "{BROKEN}\n', token="environment"),
    "profile: no string": Case("run ls", [], 30, profile=f"token = {BROKEN}\n", token="environment"),
    "profile: an unknown key": Case("run ls", [], 30, profile=f'password = "{BROKEN}"\n', token="environment"),
    "profile: a wrong type": Case("run ls", [], 30, profile=f'token = ["{BROKEN}"]\n', token="environment"),
    "profile: twice": Case("run ls", [], 30, profile=f'token = "{BROKEN}"\ntoken = "{BROKEN}"\n', token="environment"),
    "profile: no UTF-8": Case("run ls", [], 30, profile=f'token = "{BROKEN}\udcff"\n', token="environment"),
    "profile: a token of two words": Case("run ls", [], 30, profile=f'token = "{BROKEN} {BROKEN}"\n', token="environment", env={"STELLA_TOKEN": ""}),
    "profile: others can read it": Case("run ls", [page], token="profile", arrange="shared"),
    "a token of two lines": Case("run ls", [], 30, env={"STELLA_TOKEN": f"{BROKEN}\nX-Evil: 1"}),
    "a server with a password": Case("run ls", [], 30, env={"STELLA_SERVER": f"https://u:{BROKEN}@gateway.example"}),
    "a server with a query": Case("run ls", [], 30, env={"STELLA_SERVER": f"https://gateway.example/?{BROKEN}"}),
    "a server that may not be asked in the clear": Case("run ls", [], 30, env={"STELLA_SERVER": "http://gateway.example"}),
    "an object store with a password": Case("download r1", downloading(document=BY_OBJECT), 30, env={"STELLA_EXPORT_OBJECT_ENDPOINT": f"https://u:{BROKEN}@store.example"}),
    "a tenant that is no header": Case("run ls --tenant a\u00fc", [], 30),
    "a traceparent that is none": Case("run ls --trace", [page], env={"TRACEPARENT": f"00-{BROKEN}\r\nX-Evil: {BROKEN}"}),
})  # fmt: skip


@pytest.fixture(scope="module")
def minted(tmp_path_factory):
    """A CA with a server certificate, another CA, a client certificate, a DPoP key; all their keys are canaries."""
    folder = tmp_path_factory.mktemp("minted")
    for name in ("ca", "unknown", "server", "client", "dpop"):
        (folder / f"{name}.key").write_bytes(attacks.openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"))
    for name in ("ca", "unknown"):
        attacks.openssl("req", "-x509", "-new", "-key", folder / f"{name}.key", "-subj", f"/CN={name}", "-days", "30", "-out", folder / f"{name}.pem",
                        "-addext", "keyUsage=critical,keyCertSign,cRLSign")  # fmt: skip
    for name, more in (("server", "subjectAltName=IP:127.0.0.1\n"), ("client", "")):
        (folder / "ext").write_text("basicConstraints=critical,CA:FALSE\nsubjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n" + more)
        request = attacks.openssl("req", "-new", "-key", folder / f"{name}.key", "-subj", f"/CN={name}")
        (folder / "csr").write_bytes(request)
        attacks.openssl("x509", "-req", "-sha256", "-days", "30", "-set_serial", "7", "-in", folder / "csr", "-CA", folder / "ca.pem", "-CAkey",
                        folder / "ca.key", "-extfile", folder / "ext", "-out", folder / f"{name}.pem")  # fmt: skip
    return folder


class Stage:
    """One situation: its servers, its folder, and the look around afterwards."""

    PLACES = ("gateway", "other", "store", "registry", "proxy")

    def __init__(self, case: Case, name: str, minted: Path, folder: Path) -> None:
        self.case, self.minted, self.folder = case, minted, folder
        self.home = Path(os.environ["HOME"])
        self.over = threading.Event()
        self.source = case.token or list(TOKENS)[sum(name.encode()) % len(TOKENS)]
        self.token = TOKENS[self.source]
        self.proofs: set[str] = set()
        self.programs: list[str] = []
        context = None
        if case.tls in ("ca", "unknown"):
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(minted / "server.pem", minted / "server.key")
        self.wires = {place: Wire(self.script(place), context if place == "gateway" else None, tunnel=case.scripts[place] == "tunnel")
                      for place in self.PLACES}  # fmt: skip
        self.secret_files = [self.write(self.home / name, text) for name, text in self.files().items()]

    def script(self, place: str):
        answers = self.case.scripts[place]
        if answers == "tunnel":
            return b""
        answers = {key: list(value) for key, value in (answers if isinstance(answers, dict) else {"": answers or ()}).items()}

        def answer(seen) -> bytes:
            if place == "gateway" and "dpop" in seen.headers:
                self.proofs.add(seen.headers["dpop"])
            row = next((answers[key] for key in answers if key in seen.target), None)
            if not row:
                return reply(599)
            return (row.pop(0) if len(row) > 1 else row[0])(self, seen)

        return answer

    def word(self, name: str, seen) -> str:
        """What @name@ stands for in an answer."""
        if name in self.PLACES:
            return self.wires[name].url
        if name[:-5] in self.PLACES:
            return self.wires[name[:-5]].origin
        words = {"token": self.token, "home": str(self.home), "target": seen.target if seen else ""}
        if name.startswith("all"):
            text = seen.raw.decode("latin-1")
            return text if name == "all" else re.sub(r'["\\\r\n]', " ", text)
        return words[name] if name in words else seen.headers.get(name, "-")

    def files(self) -> dict[str, str]:
        profile = self.case.profile.replace("@home@", str(self.home))
        source = {"profile": f'token = "{self.token}"\n', "file": 'token_file = "../../token"\n'}.get(self.source, "")
        if not profile and self.source == "environment":
            source = f'token = "{CANARIES["unused token"][0]}"\n'
        if not profile and self.case.tls:
            source += f'client_cert = "{self.home}/client.pem"\nclient_key = "{self.home}/client.key"\n'
        return {
            ".stella/profiles/p.toml": f"# {CANARIES['profile comment'][0]}\n{source}{profile}",
            "token": self.token + "\n", ".netrc": f"machine 127.0.0.1 login u password {CANARIES['netrc password'][0]}\n",
            "client.pem": (self.minted / "client.pem").read_text(), "client.key": (self.minted / "client.key").read_text(),
            "dpop.key": (self.minted / "dpop.key").read_text(),
        }  # fmt: skip

    def write(self, path: Path, text: str) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode("utf-8", "surrogateescape"))
        path.chmod(0o600)
        return path

    def arrange(self) -> None:
        """What the command finds in its folder."""
        what = self.case.arrange
        if what == "profile":
            (self.folder / "profile.json").write_text(json.dumps(PROFILE))
        elif what == "part":
            (self.folder / "export.tar.part").write_bytes(BUNDLE[:30])
            (self.folder / "export.tar.part.json").write_text(json.dumps({"size": len(BUNDLE), "sha256": attacks.sha256(BUNDLE)}))
        elif what == "shared":
            self.secret_files[0].chmod(0o644)
        elif what.startswith("kit"):
            kit = attacks.Kit()
            if "zstd" in what:
                kit.bundle_name, kit.compression, kit.bundle = "export.tar.zst", "zstd", attacks.zstd(attacks.tar())
            oci = {"type": "oci", "ref": f"{self.wires['registry'].origin}/e/acme:1", "digest": "sha256:" + "0" * 64}
            kit.edit_manifest = lambda manifest: {**manifest, "distribution": [oci]}
            kit.write(self.folder / "kit")

    def environment(self) -> dict[str, str]:
        scheme = "https" if self.case.tls else "http"
        proxy = f"http://{USER}:{quote(PASSWORD)}@{self.wires['proxy'].origin}"
        values = {
            "STELLA_SERVER": f"{scheme}://{self.wires['gateway'].origin}", "STELLA_PROFILE": "p", "HTTPS_PROXY": proxy, "HTTP_PROXY": proxy,
            "STELLA_TOKEN": self.token if self.source == "environment" else "", "NETRC": str(self.home / ".netrc"),
            "STELLA_EXPORT_OBJECT_ENDPOINT": self.wires["store"].url, "SSLKEYLOGFILE": str(self.folder / "keylog"),
            "TMPDIR": str(self.folder), "STELLA_DPOP_KEY": str(self.home / "dpop.key") if self.case.dpop else "",
        }  # fmt: skip
        if self.case.tls == "ca":
            values["SSL_CERT_FILE"] = str(self.minted / "ca.pem")
        elif self.case.tls == "unknown":
            values["SSL_CERT_FILE"] = str(self.minted / "unknown.pem")
        return {name: value.replace("@home@", str(self.home)) for name, value in {**values, **self.case.env}.items()}

    def __enter__(self) -> Stage:  # noqa: PYI034  (Self is younger than Python 3.9)
        self.arrange()
        for wire in self.wires.values():
            wire.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        for wire in self.wires.values():
            wire.__exit__()

    def canaries(self):
        """(what it is, its bytes, the places that may see it)."""
        met = self.case.met
        for name, (text, places) in CANARIES.items():
            allowed = places | ({"proxy"} if name == "token" and met == "proxy sees the token" else set())
            allowed = allowed | ({"gateway"} if name == "presigned query" and met == "no presigned" else set())
            yield name, text or self.token, allowed
        for name in ("client", "dpop"):
            yield f"{name} key", (self.minted / f"{name}.key").read_text().splitlines()[1], set()
        for proof in self.proofs:
            yield "proof", proof[:200], {"gateway"}
            yield "signature of a proof", proof.rpartition(".")[2], {"gateway"}

    def look_around(self, out: bytes, err: bytes) -> None:
        """No canary is where it does not belong."""
        assert not (self.folder / "keylog").exists(), "session keys of TLS, where SSLKEYLOGFILE says"
        there = {"standard output": out, "standard error": err, "programs": "\n".join(self.programs).encode()}
        there.update((place, wire.bytes + wire.tunnelled) for place, wire in self.wires.items())
        for root in (self.folder, self.home):
            for path in root.rglob("*"):
                there[f"name of {path}"] = path.name.encode()
                if path.is_file() and path not in self.secret_files:
                    there[f"file {path}"] = path.read_bytes()
        for what, text, allowed in self.canaries():
            for form in forms(text):
                for place, data in there.items():
                    assert place in allowed or form not in data, f"{what} in {place}: {data[:3000]!r}"


def forms(text: str) -> list[bytes]:
    """The beginning of a secret as it is and percent-encoded; the whole in hex, and in Base64 behind 0 to 2 other bytes."""
    data = text.encode()
    found = [data[:12], quote(text, safe="").encode()[:12], data.hex().encode()]
    for shift in range(3):
        coded = base64.b64encode(bytes(shift) + data)[4 if shift else 0 : -4]
        found += [coded, coded.translate(bytes.maketrans(b"+/", b"-_"))]
    return found


def test_there_are_a_hundred_situations():
    assert len(CASES) >= 100


@pytest.mark.parametrize("name", CASES)
def test_no_canary_leaves_its_place(cli, monkeypatch, tmp_path, minted, name):
    case = CASES[name]
    with Stage(case, name, minted, tmp_path) as stage:
        monkeypatch.chdir(tmp_path)
        if case.far:
            monkeypatch.setattr(stella, "is_loopback", lambda host: False)
        watch_programs(monkeypatch, stage)
        if case.crash:
            break_in(monkeypatch, case.crash, stage)
        result = cli(*case.words, env=stage.environment(), whole=case.whole)
        stage.over.set()
    assert result.code in case.codes, result
    assert not case.crash or "unexpected" in result.err
    assert "Traceback" not in result.err
    stage.look_around(result.out_bytes, result.err.encode("utf-8", "surrogateescape"))
    for place in ("other", "store"):
        for seen in stage.wires[place].seen:
            assert not {"authorization", "dpop", "cookie", "x-stella-tenant", "traceparent", "referer", "proxy-authorization"} & set(seen.headers)


def watch_programs(monkeypatch, stage: Stage) -> None:
    """Every program's arguments and environment."""
    real = subprocess.Popen

    def start(command, *more, **options):
        assert options.get("env") is not None, "an environment of its own"
        stage.programs += [*command, *(f"{key}={value}" for key, value in options["env"].items())]
        return real(command, *more, **options)

    monkeypatch.setattr(subprocess, "Popen", start)


def break_in(monkeypatch, place: str, stage: Stage) -> None:
    """A fault whose text holds every secret."""
    owner, _, attribute = place.rpartition(".")

    def fail(*_, **__):
        raise RuntimeError(" ".join(text for _, text, _ in stage.canaries()))

    monkeypatch.setattr(getattr(stella, owner) if owner else stella, attribute, fail)


ENDINGS = {
    "SIGTERM amid a watch": (("run", "watch", "r1", "--trace"), signal.SIGTERM),
    "SIGINT amid a watch": (("run", "watch", "r1", "--trace"), signal.SIGINT),
    "SIGHUP amid a download": (("download", "r1", "--trace"), signal.SIGHUP),
    "SIGKILL amid a download": (("download", "r1", "--trace"), signal.SIGKILL),
    "SIGABRT amid a list": (("run", "ls", "--trace"), signal.SIGABRT),
    "SIGTERM amid a presigned download": (("download", "r1", "--trace"), signal.SIGTERM),
}


@pytest.mark.parametrize("name", ENDINGS)
def test_no_canary_is_left_by_a_process_that_is_ended(process, monkeypatch, tmp_path, minted, name):
    words, number = ENDINGS[name]
    waiting = threading.Event()

    def pause(stage, seen):
        waiting.set()
        return silent(stage, seen)

    def half(stage, seen):
        peer = next(place for place in ("other", "gateway") if seen in stage.wires[place].seen)
        stage.wires[peer]._open[-1].sendall(reply(200, BUNDLE, 'ETag: "e"')[: -len(BUNDLE)] + BUNDLE[:30])
        return pause(stage, seen)

    presigned = "presigned" in name
    gateway = {"/download": [said(302, "", TO_OTHER) if presigned else half], "/events": [pause], "/runs?": [pause], "": [run]}
    with Stage(Case("", gateway, other=[half]), name, minted, tmp_path) as stage:
        monkeypatch.chdir(tmp_path)
        child = process(*words, env=stage.environment(), background=True)
        assert waiting.wait(20)
        if "download" in name:
            wait_for(lambda: list(tmp_path.glob("*.part.json")))
        arguments = Path(f"/proc/{child.pid}/cmdline").read_bytes() if os.path.exists("/proc") else b""
        child.send_signal(number)
        out, err = child.communicate(timeout=20)
    assert child.returncode == -number
    stage.look_around(out, err + arguments)


def wait_for(condition) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        threading.Event().wait(0.005)


def test_the_token_is_in_no_argument_and_no_inherited_environment_of_programs(minted, tmp_path, monkeypatch):
    """From outside: what the system itself shows of the programs that stella starts."""
    log = tmp_path / "log"
    program = tmp_path / "openssl"
    program.write_text(f'#!/bin/sh\ncat /proc/self/environ /proc/$$/cmdline >>"{log}"\nexec openssl "$@"\n')
    program.chmod(0o755)
    with Stage(Case("", [page], dpop=True), "x", minted, tmp_path) as stage:
        environment = {**surroundings(), **stage.environment(), "STELLA_OPENSSL": str(program)}
        command = [sys.executable, stella.__file__, "export", "run", "ls"]
        done = subprocess.run(command, env=environment, capture_output=True, check=True, cwd=tmp_path)
    assert b"-sign" in log.read_bytes()
    stage.look_around(done.stdout, done.stderr)
