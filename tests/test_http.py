"""Contract 2: headers, retries and waiting, idempotency, kept connections, tracing, pages, limits."""

from __future__ import annotations

import email.utils
import json
import re
import socket
import ssl
import time
import uuid

import pytest

import stella
from gateway import BEFORE_HEAD, CertificateAuthority, Fault, Gateway
from wire import Wire, reply

READ = ("run", "ls")
SUBMIT = ("run", "submit", "prof-json-raw")


# ---- headers -------------------------------------------------------------------------------------

def test_headers_of_a_read(cli, gw):
    cli(*READ, gw=gw)
    headers = gw.requests[0].headers
    assert sorted(name.lower() for name in headers) == [
        "accept", "accept-encoding", "authorization", "host", "traceparent", "user-agent"]
    assert headers["Authorization"] == f"Bearer {gw.token}"
    assert headers["Accept"] == "application/json"
    assert headers["Accept-Encoding"] == "identity"
    assert headers["Host"] == gw.url[7:]
    assert re.fullmatch(r"stella/0\.22\.0 \(.+\)", headers["User-Agent"])
    assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}", headers["traceparent"])


def test_headers_of_a_mutation(cli, gw):
    cli(*SUBMIT, gw=gw)
    headers = gw.requests[0].headers
    assert headers["Content-Type"] == "application/json"
    assert int(headers["Content-Length"]) == len(gw.requests[0].body)
    assert uuid.UUID(headers["Idempotency-Key"]).version == 4
    assert str(uuid.UUID(headers["Idempotency-Key"])) == headers["Idempotency-Key"]


ACCEPTS = {"run watch": "text/event-stream", "manifest": "application/json", "provenance": "application/json"}


@pytest.mark.parametrize("name", ACCEPTS)
def test_accept_says_what_is_wanted(cli, gw, name):
    run_id = gw.make_run()["runId"]
    cli(*name.split(), run_id, gw=gw)
    assert gw.requests[0].headers["Accept"] == ACCEPTS[name]


@pytest.mark.parametrize("where", ["--tenant", "STELLA_TENANT", "unset"])
def test_tenant_header_only_where_a_tenant_is_set(cli, gw, where):
    options = ("--tenant", "globex") if where == "--tenant" else ()
    env = {"STELLA_SERVER": gw.url, "STELLA_TOKEN": gw.tokens["multi"]}
    if where == "STELLA_TENANT":
        env["STELLA_TENANT"] = "globex"
    assert cli(*READ, *options, env=env).code == 0
    assert gw.requests[0].headers["X-Stella-Tenant"] == (None if where == "unset" else "globex")


IDS = {
    "space": ("a b", "a%20b"), "slash": ("a/b", "a%2Fb"), "up": ("../x", "..%2Fx"), "plain": ("run-1._~", "run-1._~"),
    "query": ("a?b=c#d", "a%3Fb%3Dc%23d"), "percent": ("a%2fb", "a%252fb"), "letters": ("ä\u4e2d", "%C3%A4%E4%B8%AD"),
    "crlf": ("a\r\nX: y", "a%0D%0AX%3A%20y"),
}


@pytest.mark.parametrize("case", IDS)
def test_id_is_one_path_segment(cli, gw, case):
    run_id, segment = IDS[case]
    for words, route in (("run", "show"), ""), (("manifest",), "/manifest"):
        assert cli(*words, "--", run_id, gw=gw).code == 11
        assert gw.requests[-1].target == f"/api/export/runs/{segment}{route}"
    assert cli("profile", "show", run_id, gw=gw).code == 11
    assert gw.requests[-1].target == f"/api/export/profiles/{segment}"


@pytest.mark.parametrize("run_id", ["", ".", ".."])
def test_id_that_would_change_the_route_is_exit_10(cli, gw, run_id):
    for name in ("run show", "profile show", "run cancel", "run submit", "download", "manifest"):
        assert cli(*name.split(), run_id, gw=gw).code == 10
    assert gw.requests == []


# ---- which answers are tried again ---------------------------------------------------------------

AGAIN = {
    "408": Fault(status=408), "429 of a proxy": Fault(status=429), "429 with a foreign code": Fault.error(429, "RATE"),
    "500 without a code": Fault(status=500), "502": Fault(status=502), "503": Fault(status=503, body=b"<html>"),
    "503 with a foreign code": Fault.error(503, "UPSTREAM"), "504": Fault(status=504),
    "closed before an answer": Fault(cut=BEFORE_HEAD), "reset before an answer": Fault(reset=BEFORE_HEAD),
    "cut within the body": Fault(cut=20), "reset within the body": Fault(reset=20),
    "cut chunks": Fault(cut=20, framing="chunked"),
    "no HTTP": Fault(body=b"", interim=(99999,)),
}
NOT_AGAIN = {
    **{str(status): Fault(status=status) for status in (400, 401, 403, 404, 405, 409, 410, 412, 422, 425, 501, 505)},
    "429 of the Export Center": Fault.error(429, "ERR_EXPORT_QUOTA"),
    "500 with a code": Fault.error(500, "ERR_X"), "500 of the Export Center": Fault.error(500, "ERR_EXPORT_004"),
    "503 of the Export Center": Fault.error(503, "ERR_EXPORT_003"),
    "502 of the Export Center": Fault.error(502, "ERR_EXPORT_999"),
    "no JSON": Fault(body=b"<html>", head={"Content-Type": "text/html"}),
}


def copy_of(fault, **more):
    return Fault(**{**vars(fault), "used": 0, **more})


@pytest.mark.parametrize("words", [READ, SUBMIT], ids=["read", "submit"])
@pytest.mark.parametrize("case", AGAIN)
def test_tried_again_and_then_good(cli, gw, clock, case, words):
    gw.order(copy_of(AGAIN[case], times=2))
    done = cli(*words, gw=gw)
    assert done.code == 0, done
    assert (len(gw.requests), len(clock.slept)) == (3, 2)


@pytest.mark.parametrize("case", AGAIN)
def test_tried_again_until_retries_are_used_up(cli, gw, clock, case):
    gw.order(copy_of(AGAIN[case], times=-1))
    done = cli(*READ, "--retries", "2", gw=gw)
    assert done.code == (12 if "429" in case else 21)
    assert done.err.splitlines()[0].count(", after 3 attempts") == 1
    assert (len(gw.requests), len(clock.slept)) == (3, 2)


@pytest.mark.parametrize("words", [READ, SUBMIT], ids=["read", "submit"])
@pytest.mark.parametrize("case", NOT_AGAIN)
def test_not_tried_again(cli, gw, clock, case, words):
    gw.order(copy_of(NOT_AGAIN[case], times=-1))
    done = cli(*words, gw=gw)
    assert done.code != 0
    assert "attempts" not in done.err
    assert (len(gw.requests), clock.slept) == (1, [])


def test_no_retries_means_one_attempt(cli, gw, clock):
    gw.order(Fault(status=503, times=-1))
    done = cli(*READ, "--retries", "0", gw=gw)
    assert (done.code, len(gw.requests), clock.slept) == (21, 1, [])
    assert "attempts" not in done.err


def test_silent_server_is_a_timeout_and_tried_again(cli, gw):
    gw.order(Fault(stall=BEFORE_HEAD))
    done = cli(*READ, "--timeout", "0.3", gw=gw)
    assert (done.code, len(gw.requests)) == (0, 2)
    gw.order(Fault(stall=BEFORE_HEAD, times=-1))
    done = cli(*READ, "--timeout", "0.1", "--retries", "1", gw=gw)
    assert done.code == 21
    assert "did not answer in time, after 2 attempts" in done.err


def test_body_that_falls_silent_is_tried_again(cli, gw):
    gw.order(Fault(stall=10))
    assert cli(*READ, "--timeout", "0.3", gw=gw).code == 0
    assert len(gw.requests) == 2


def test_tls_distrust_is_never_tried_again(cli, clock, tmp_path, keys):
    with Gateway(data=tmp_path, key=keys[0], other_key=keys[1], tls=True) as gw:
        assert cli(*READ, gw=gw).code == 30
    assert clock.slept == []


def test_unknown_host_is_tried_again(cli, clock, monkeypatch):
    def fail(*_, **__):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    done = cli(*READ, "--retries", "1", env={"STELLA_SERVER": "https://stella.invalid", "STELLA_TOKEN": "t"})
    assert (done.code, len(clock.slept)) == (21, 1)
    assert "cannot find the host " in done.err
    assert "stella.invalid" in done.err
    assert "Name or service not known, after 2 attempts" in done.err


# ---- waiting -------------------------------------------------------------------------------------

@pytest.fixture
def chance(monkeypatch):
    """chance(1.0): the jitter that is drawn."""
    return lambda value: monkeypatch.setattr(stella.Clock, "random", lambda _: value)


@pytest.mark.parametrize(("delay", "drawn", "waits"), [
    ("0.5", 1.0, [0.5, 1, 2, 4, 8, 16, 30, 30]), ("0.5", 0.5, [0.25, 0.5, 1, 2, 4, 8, 15, 15]), ("0.5", 0.0, [0.0] * 8),
    ("40", 1.0, [30] * 8), ("0", 1.0, [0] * 8), ("0.01", 1.0, [0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28]),
])
def test_backoff_doubles_with_full_jitter_up_to_30_seconds(cli, gw, clock, chance, delay, drawn, waits):
    chance(drawn)
    gw.order(Fault(status=503, times=-1))
    cli(*READ, "--retries", "8", "--retry-delay", delay, gw=gw)
    assert clock.slept == pytest.approx(waits)


def test_jitter_is_drawn_anew(cli, gw, clock):
    gw.order(Fault(status=503, times=-1))
    cli(*READ, "--retries", "40", "--retry-delay", "100", gw=gw)
    assert all(0 <= seconds <= 30 for seconds in clock.slept)
    assert len(set(clock.slept)) > 30


def http_date(seconds):
    return email.utils.formatdate(time.time() + seconds, usegmt=True)


RETRY_AFTER = {
    "seconds": ("7", 7), "zero": ("0", 0), "capped": ("3600", 120), "endless": ("9" * 40, 120), "negative": ("-5", 0),
    "fraction": ("1.5", 0), "other digits": ("\u0665", 0), "words": ("soon", 0), "empty": ("", 0), "blanks": (" 8 ", 8),
    "date": (60, 60), "date far away": (86400, 120), "date gone by": (-60, 0), "broken date": ("Tue, 99 Foo 2026", 0),
    "another year": ("Fri, 31 Dec 99999 23:59:59 GMT", 0),
}


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("case", RETRY_AFTER)
def test_retry_after(cli, gw, clock, chance, case, status):
    chance(0.0)
    value, seconds = RETRY_AFTER[case]
    value = http_date(value) if isinstance(value, int) else value.encode().decode("latin-1")
    gw.order(Fault(status=status, head={"Retry-After": value}))
    done = cli(*READ, gw=gw)
    assert done.code == 0
    told = f"with status {status}; asking again in " in done.err
    assert (told, done.err.count("\n")) == (seconds > 4, seconds > 4), "nobody stares at silence for two minutes"
    assert clock.slept == [pytest.approx(seconds, abs=0 if "date" not in case else 10)]


def test_retry_after_is_the_least_not_the_most(cli, gw, clock, chance):
    chance(1.0)
    gw.order(Fault(status=503, head={"Retry-After": "1"}, times=3))
    cli(*READ, "--retry-delay", "2", gw=gw)
    assert clock.slept == [2, 4, 8]


def test_retry_after_of_a_refusal_is_not_waited_for(cli, gw, clock):
    gw.order(Fault.error(429, "ERR_EXPORT_QUOTA", headers={"Retry-After": "9"}))
    assert cli(*READ, gw=gw).code == 12
    assert clock.slept == []


# ---- one submit is one run -----------------------------------------------------------------------

LOST = {"answer closed": Fault("POST", cut=BEFORE_HEAD), "answer reset": Fault("POST", reset=BEFORE_HEAD),
        "answer cut short": Fault("POST", cut=30), "proxy's 502 after the work": Fault("POST", status=502, work=True),
        "answer too late": Fault("POST", stall=BEFORE_HEAD)}


@pytest.mark.parametrize("case", LOST)
def test_lost_submit_is_sent_again_with_the_same_key_and_makes_one_run(cli, gw, case):
    gw.order(copy_of(LOST[case], times=2))
    done = cli(*SUBMIT, "--query", "runId", "--timeout", "0.2", gw=gw)
    assert done.code == 0, done
    posts = gw.find_requests("POST")
    assert len(posts) >= 3
    assert len({post.headers["Idempotency-Key"] for post in posts}) == 1
    assert len({post.body for post in posts}) == 1
    assert [run["runId"] for run in cli("run", "ls", "--all", gw=gw).json()] == [done.out.strip()]


def test_another_invocation_has_another_key(cli, gw):
    for words in (SUBMIT, SUBMIT, ("run", "cancel", "x")):
        cli(*words, gw=gw)
    assert len({request.headers["Idempotency-Key"] for request in gw.requests}) == 3


# ---- kept connections ----------------------------------------------------------------------------

@pytest.fixture
def connections(monkeypatch):
    """The address of every connection that was made."""
    made = []
    real = socket.socket.connect
    monkeypatch.setattr(socket.socket, "connect", lambda self, address: made.append(address) or real(self, address))
    return made


def fill(gw, count):
    for _ in range(count):
        gw.store.add_run("acme", gw.store.profiles["acme"]["prof-json-raw"], {}, None, False).status = "succeeded"


def test_one_connection_serves_all_pages(cli, gw, connections):
    fill(gw, 450)
    assert len(cli(*READ, "--all", gw=gw).json()) == 450
    assert (len(gw.requests), len(connections)) == (3, 1)


def test_connection_that_was_closed_while_idle_is_replaced_without_a_word(cli, gw, clock, connections):
    fill(gw, 450)
    gw.order(Fault(hangup=True, times=2))
    done = cli(*READ, "--all", "--retries", "0", gw=gw)
    assert (done.code, done.err, len(done.json())) == (0, "", 450)
    assert (clock.slept, len(connections)) == ([], 3)


@pytest.fixture(scope="module")
def tls(tmp_path_factory):
    """(a server's TLS, its CA's file)."""
    authority = CertificateAuthority(tmp_path_factory.mktemp("ca"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.issue("server", "serverAuth", "IP:127.0.0.1"))
    return context, authority.certificate


def kept(body, *headers, status=200):
    return reply(status, body, *headers).replace(b"Connection: close\r\n", b"")


FORGED = kept(b'{"items": ["forged"], "nextCursor": null}')
SPLIT = {  # what comes along with a good answer, for whoever asks next
    "a second answer": kept(b'{"items": [1], "nextCursor": "a"}') + FORGED,
    "one beyond the buffer": kept(b'{"items": [1], "nextCursor": "a"}', "X: " + "x" * 20000) + b"x" * 9000 + FORGED * 3,
    "a second answer inside the head": reply(200, b"").replace(b"Content-Length: 0\r\nConnection: close\r\n\r\n", b"")
    + b'Content-Length: 33\r\nX: \r\n\r\n{"items": [1], "nextCursor": "a"}' + FORGED,
    "both lengths": kept(b"", "Transfer-Encoding: chunked")
    + b'21\r\n{"items": [1], "nextCursor": "a"}\r\n0\r\n\r\n' + FORGED,
}


@pytest.mark.parametrize("context", [None, "tls"], ids=["http", "https"])
@pytest.mark.parametrize("case", SPLIT)
def test_an_answer_that_nobody_asked_for_is_never_the_next_one(cli, tls, case, context):
    answers = [SPLIT[case], kept(b'{"items": [2], "nextCursor": null}')]
    with Wire(answers, tls[0] if context else None) as server:
        done = cli(*READ, "--all", "--retries", "0", "--ca-file", tls[1],
                   env={"STELLA_SERVER": server.url, "STELLA_TOKEN": "t-oken-t"})
    assert (done.code, done.json(), len(server.seen)) == (0, [1, 2], 2), done


def test_two_lengths_are_no_answer(cli):
    with Wire(kept(b'{"items": []}', "Content-Length: 5", "Connection: close")) as server:
        done = cli(*READ, "--retries", "0", env={"STELLA_SERVER": server.url, "STELLA_TOKEN": "t-oken-t"})
    assert (done.code, "it states two lengths" in done.err) == (21, True), done


def test_fresh_connection_that_is_closed_is_a_failed_attempt(cli, gw, clock, connections):
    gw.order(Fault(cut=BEFORE_HEAD, times=-1))
    assert cli(*READ, "--retries", "0", gw=gw).code == 21
    assert len(connections) == 1


def test_timeout_on_a_kept_connection_is_a_failed_attempt(cli, gw, clock, connections):
    fill(gw, 450)
    gw.order(Fault(skip=1, stall=BEFORE_HEAD))
    done = cli(*READ, "--all", "--timeout", "0.5", "--retries", "0", gw=gw)
    assert (done.code, len(gw.requests)) == (21, 2)


# ---- tracing -------------------------------------------------------------------------------------

def test_trace_id_is_the_same_for_the_whole_invocation_and_spans_differ(cli, gw):
    fill(gw, 250)
    gw.order(Fault(status=503))
    cli(*READ, "--all", gw=gw)
    parents = [request.headers["traceparent"].split("-") for request in gw.requests]
    assert len(parents) == 3
    assert len({parent[1] for parent in parents}) == 1
    assert len({parent[2] for parent in parents}) == 3
    cli(*READ, gw=gw)
    assert gw.requests[-1].trace_id != parents[0][1]


ID, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PARENTS = {
    f"00-{ID}-{SPAN}-01": True, f"00-{ID}-{SPAN}-00": True, f"01-{ID}-{SPAN}-01-more": True, f"cc-{ID}-{SPAN}-01": True,
    f"00-{ID}-{SPAN}-01-more": False, f"00-{ID}-{SPAN}-01-": False, f"ff-{ID}-{SPAN}-01": False,
    f"00-{'0' * 32}-{SPAN}-01": False, f"00-{ID}-{'0' * 16}-01": False, f"00-{ID.upper()}-{SPAN}-01": False,
    f"00-{ID}-{SPAN}": False, f"00-{ID}-{SPAN}-0": False, f"0-{ID}-{SPAN}-01": False, ID: False, "": False,
    f"00-{ID}-{SPAN}-01\r\nX: y": False, f" 00-{ID}-{SPAN}-01": False,
}


@pytest.mark.parametrize("parent", PARENTS)
def test_traceparent_is_taken_over_if_it_is_valid(cli, gw, parent):
    cli(*READ, gw=gw, env={"TRACEPARENT": parent})
    assert (gw.requests[0].trace_id == ID) == PARENTS[parent]
    assert gw.requests[0].headers["traceparent"][36:52] != SPAN, "a span of our own"


LINE = r"trace: (\S+) (\S+) -> (.+) in \d+\.\d ms attempt=(\d+) trace=([0-9a-f]{32}) server-trace=(\S+)( quota-.*)?"


def trace_lines(done):
    lines = [line for line in done.err.splitlines() if line.startswith("trace: ")]
    matches = [re.fullmatch(LINE, line) for line in lines]
    assert all(matches), lines
    return [match.groups() for match in matches]


def test_trace_has_a_line_per_attempt(cli, gw):
    gw.order(Fault(status=503, framing="close"), Fault(reset=BEFORE_HEAD))
    done = cli(*READ, "--trace", gw=gw, env={"TRACEPARENT": f"00-{ID}-{SPAN}-01"})
    assert done.json() == []
    path = "/api/export/runs"
    refused, lost, good = trace_lines(done)
    assert refused == ("GET", path, "503", "1", ID, "-", None)
    assert lost[:2] + lost[3:] == ("GET", path, "2", ID, "-", None)
    assert "127.0.0.1" in lost[2]
    assert good == ("GET", path, "200", "3", ID, ID, None)


def test_trace_never_holds_secrets_or_queries(cli, gw):
    run_id = gw.make_run()["runId"]
    done = cli("manifest", run_id, "--signature", "-", "--output", "/dev/null", "--trace", gw=gw)
    assert [line[1] for line in trace_lines(done)] == [f"/api/export/runs/{run_id}/manifest"] * 2
    assert gw.token not in done.err
    assert "signature=" not in done.err


def test_trace_of_a_hostile_server_cannot_move_the_cursor(cli, gw):
    gw.order(Fault(head={"X-Stella-Trace-Id": "\x1b[2J", "X-Stella-Quota-Limit": "\x1b]0;x\x07"}))
    done = cli(*READ, "--trace", gw=gw)
    assert "\x1b" not in done.err
    assert "\x07" not in done.err


def test_without_trace_nothing_is_said(cli, gw):
    gw.order(Fault(status=503, times=2))
    assert cli(*READ, gw=gw).err == ""


def test_quota_headers_are_shown_with_trace(cli, gw):
    done = cli(*SUBMIT, "--trace", gw=gw)
    assert trace_lines(done)[0][6] == " quota-limit=8 quota-remaining=7 quota-reset=30"
    assert "quota" not in cli(*SUBMIT, gw=gw).err


QUOTA = {"X-Stella-Quota-Limit": "4", "X-Stella-Quota-Remaining": "0", "X-Stella-Quota-Reset": "2026-01-01T00:00:00Z"}


@pytest.mark.parametrize(("status", "code"), [(429, "ERR_EXPORT_QUOTA"), (409, "ERR_EXPORT_003"), (429, "")])
def test_quota_headers_are_shown_with_exit_12(cli, gw, status, code):
    gw.order(Fault.error(status, code, headers=QUOTA, times=-1))
    done = cli(*READ, "--retries", "0", gw=gw)
    assert done.code == 12
    assert "  quota: limit=4 remaining=0 reset=2026-01-01T00:00:00Z\n" in done.err


def test_quota_headers_are_not_shown_with_other_errors(cli, gw):
    gw.order(Fault.error(404, "ERR_EXPORT_002", headers=QUOTA))
    assert "quota" not in cli(*READ, gw=gw).err


# ---- the server's path prefix --------------------------------------------------------------------

@pytest.mark.parametrize("slash", ["", "/", "//"])
@pytest.mark.parametrize("links", ["relative", "absolute", "none"])
def test_path_prefix(cli, tmp_path, keys, slash, links):
    with Gateway(data=tmp_path / "gw", key=keys[0], other_key=keys[1], prefix="/team/stella", links=links) as gw:
        env = {"STELLA_SERVER": gw.url + slash, "STELLA_TOKEN": gw.token}
        run_id = cli(*SUBMIT, "--wait", "--query", "runId", env=env).out.strip()
        for words in (READ, ("manifest", run_id, "--signature", tmp_path / "s"), ("run", "watch", run_id)):
            assert cli(*words, env=env).code == 0
        assert {request.status for request in gw.requests} <= {200, 202}
        assert {request.path[:24] for request in gw.requests} == {"/team/stella/api/export/"}


# ---- pages ---------------------------------------------------------------------------------------

@pytest.fixture
def scripted(gw):
    """scripted(page, page, ...): what the list's requests get, by their number; the last one again and again."""
    def script(*pages):
        for number, page in enumerate(pages):
            gw.order(Fault("GET", "/runs$", body=json.dumps(page).encode(), head={"Content-Type": "application/json"},
                           times=1 if number < len(pages) - 1 else -1))
    return script


TAIL = [(0, []), (1, [1]), (5, [5]), (200, [200]), (201, [200, 1]), (450, [200, 200, 50]), (999, [200, 200, 200])]


@pytest.mark.parametrize(("tail", "sizes"), TAIL)
def test_tail_asks_for_no_more_than_it_needs(cli, gw, tail, sizes):
    fill(gw, 450)
    done = cli(*READ, "--tail", str(tail), gw=gw)
    assert len(done.json()) == min(tail, 450)
    assert [int(request.query["limit"]) for request in gw.requests] == sizes
    sequence = [int(run["runId"].rpartition("-")[2]) for run in done.json()]
    assert sequence == sorted(sequence, reverse=True), "newest first"


def test_fifty_without_tail_or_all(cli, gw):
    fill(gw, 60)
    assert len(cli(*READ, gw=gw).json()) == 50
    assert [request.query["limit"] for request in gw.requests] == ["50"]


@pytest.mark.parametrize("word", ["\udcff", "ä", "a&b=c"], ids=["not utf-8", "letters", "signs"])
def test_filter_of_any_text_is_the_server_s_to_judge(cli, gw, word):
    assert cli(*READ, "--profile", word, gw=gw).json() == []
    assert gw.requests[-1].query["profileId"] in (word, "\ufffd" * 3)


CURSORS = {"as it is": "b", "with signs": "a/b+c=&d?e#f%20 g", "base64": "//4=", "letters": "ä"}


@pytest.mark.parametrize("case", CURSORS)
def test_cursor_comes_back_as_it_was_given(cli, gw, scripted, case):
    scripted({"items": [1], "nextCursor": CURSORS[case]}, {"items": [2], "nextCursor": None})
    assert cli(*READ, "--all", gw=gw).json() == [1, 2]
    assert [request.query.get("cursor") for request in gw.requests] == [None, CURSORS[case]]


def test_last_page_without_a_cursor_field(cli, gw, scripted):
    scripted({"items": [1]})
    assert cli(*READ, "--all", gw=gw).json() == [1]


def test_empty_page_in_the_middle_is_no_end(cli, gw, scripted):
    scripted({"items": [1], "nextCursor": "a"}, {"items": [], "nextCursor": "b"}, {"items": [2], "nextCursor": ""})
    assert cli(*READ, "--all", gw=gw).json() == [1, 2]


def test_server_that_gives_more_than_was_asked_for(cli, gw, scripted):
    scripted({"items": list(range(10)), "nextCursor": "a"})
    assert cli(*READ, "--tail", "3", gw=gw).json() == [0, 1, 2]
    assert len(gw.requests) == 1


LOOPS = {
    "at once": ([{"items": [1], "nextCursor": "a"}], 2),
    "after a while": ([{"items": [1], "nextCursor": cursor} for cursor in "abcda"], 5),
    "without items": ([{"items": [], "nextCursor": "a"}], 2),
}


@pytest.mark.parametrize("case", LOOPS)
def test_cursor_that_comes_again_is_an_error_and_no_loop(cli, gw, scripted, case):
    pages, requests = LOOPS[case]
    scripted(*pages)
    done = cli(*READ, "--all", gw=gw)
    assert (done.code, len(gw.requests)) == (1, requests)
    assert 'the list of runs does not end: its cursor "a" comes again' in done.err


def test_list_that_never_ends_is_an_error(cli, gw, monkeypatch):
    """Every page has another cursor."""
    monkeypatch.setattr(stella, "MAX_PAGES", 5)
    count = iter(range(1000))
    monkeypatch.setattr(stella.Gateway, "_fetch_page",
                        lambda *_, **__: (stella.Page([1], '{"items": [1]}'), str(next(count))))
    done = cli(*READ, "--all", gw=gw)
    assert done.code == 1
    assert next(count) == 5
    assert "does not end" in done.err


# ---- limits --------------------------------------------------------------------------------------

def test_limit_of_a_json_answer_is_64_mib():
    assert stella.MAX_JSON_BYTES == 64 * 1024 * 1024


@pytest.mark.parametrize("framing", ["", "chunked", "close"])
@pytest.mark.parametrize(("size", "code"), [(1000, 0), (1001, 1)])
def test_json_answer_over_the_limit_is_refused(cli, gw, monkeypatch, framing, size, code):
    monkeypatch.setattr(stella, "MAX_JSON_BYTES", 1000)
    body = b'{"items": []}'.ljust(size)
    gw.order(Fault(body=body, head={"Content-Type": "application/json"}, framing=framing, times=-1))
    done = cli(*READ, gw=gw)
    assert (done.code, len(gw.requests)) == (code, 1)
    assert ("the answer has more than 1000 bytes" in done.err) == bool(code)


def test_manifest_over_the_limit_is_refused_and_leaves_no_file(cli, gw, monkeypatch, tmp_path):
    run_id = gw.make_run()["runId"]
    monkeypatch.setattr(stella, "MAX_JSON_BYTES", 10)
    assert cli("manifest", run_id, "--output", tmp_path / "m", gw=gw).code == 1
    assert list(tmp_path.iterdir()) == []


def test_endless_interim_answers_are_refused(cli, gw):
    gw.order(Fault(interim=(103,) * 3))
    assert cli(*READ, gw=gw).code == 0
    gw.order(Fault(interim=(103,) * 100, times=-1))
    done = cli(*READ, "--retries", "0", gw=gw)
    assert done.code == 21
    assert "too many interim answers" in done.err


# ---- exact bytes ---------------------------------------------------------------------------------

@pytest.mark.parametrize("what", ["manifest", "provenance"])
@pytest.mark.parametrize("framing", ["", "chunked", "close"])
def test_signed_documents_arrive_byte_for_byte(cli, gw, tmp_path, what, framing):
    run_id = gw.make_run()["runId"]
    exact = gw.store.runs[run_id].documents[what] + b"\r\n \xff"
    signature = gw.sign(exact).encode()
    gw.order(Fault("GET", f"/{what}$", body=exact, framing=framing), Fault("GET", f"/{what}$", body=signature))
    document, signed = tmp_path / "a" / "d", tmp_path / "b" / "s"
    assert cli(what, run_id, "--output", document, "--signature", signed, gw=gw).out == ""
    assert (document.read_bytes(), signed.read_bytes()) == (exact, signature)
    assert gw.requests[-1].query == {"signature": "true"}
    gw.order(Fault("GET", f"/{what}$", body=exact))
    assert cli(what, run_id, gw=gw).out_bytes == exact


@pytest.mark.parametrize("broken", ["document", "signature", "empty signature"])
def test_document_and_signature_are_both_written_or_neither(cli, gw, tmp_path, broken):
    run_id = gw.make_run()["runId"]
    wants = broken != "document"
    gw.order(Fault("GET", "/manifest$", when=lambda request: ("signature" in request.query) == wants, times=-1,
                   **({"body": b" \n"} if broken.startswith("empty") else {"cut": 5})))
    files = ("--output", tmp_path / "m", "--signature", tmp_path / "m.sig")
    done = cli("manifest", run_id, *files, "--retries", "1", gw=gw)
    assert done.code == (1 if broken.startswith("empty") else 21)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("places", [("--signature", "-"), ("--output", "-", "--signature", "-"),
                                    ("--output", "m", "--signature", "./m")], ids=" ".join)
def test_document_and_signature_never_go_to_one_place(cli, gw, tmp_path, monkeypatch, places):
    monkeypatch.chdir(tmp_path)
    done = cli("manifest", "X", *places, gw=gw)
    assert (done.code, done.out, gw.requests) == (2, "", [])


def test_signature_to_standard_output_and_document_to_a_file(cli, gw, tmp_path):
    run_id = gw.make_run()["runId"]
    done = cli("manifest", run_id, "--output", tmp_path / "m", "--signature", "-", gw=gw)
    assert done.out_bytes == gw.store.runs[run_id].signatures["manifest"]
    assert (tmp_path / "m").read_bytes() == gw.store.runs[run_id].documents["manifest"]


# ---- heads that do not end -----------------------------------------------------------------------

RUN_ANSWER = reply(200, b'{"runId": "r", "status": "running"}', "Content-Type: application/json", "X-Pad: " + "x" * 300)
HEAD_BYTES = RUN_ANSWER.index(b"\r\n\r\n") + 4


def dripped(data, sent):
    for at in range(len(data)):
        sent.append(at)
        time.sleep(0.02)
        yield data[at:at + 1]


def ask_for_run(cli, wire, *more):
    return cli("run", "show", "r", "--server", wire.url, "--retries", "0", *more, env={"STELLA_TOKEN": "secret"})


def test_head_that_drips_has_the_timeout_as_a_whole(cli):
    """Each byte starts a socket's timeout again: a server could keep a command waiting for an hour."""
    sent = []
    with Wire(lambda _: dripped(RUN_ANSWER, sent)) as wire:
        done = ask_for_run(cli, wire, "--timeout", "0.4")
        assert (done.code, done.out) == (21, ""), done
        assert "did not answer in time" in done.err
        assert len(sent) < HEAD_BYTES


def test_interim_answers_each_have_the_timeout(cli):
    sent = []
    with Wire(lambda _: dripped(b"HTTP/1.1 103 Hint\r\n\r\n" * 3 + RUN_ANSWER[:17], sent)) as wire:
        done = ask_for_run(cli, wire, "--timeout", "0.7")
        assert done.code == 21, done
        assert len(sent) == 3 * 21 + 17  # 1.3 s of interim answers, and then silence


def test_slow_head_within_the_timeout_is_fine(cli):
    with Wire(lambda _: [RUN_ANSWER[:10], *dripped(RUN_ANSWER[10:20], []), RUN_ANSWER[20:]]) as wire:
        assert ask_for_run(cli, wire, "--timeout", "20").json()["runId"] == "r"


@pytest.mark.parametrize("length", [1, 12, 17, 18, 19, 30, 60, HEAD_BYTES - 2, HEAD_BYTES - 1])
def test_head_that_is_cut_is_no_answer(cli, length):
    """http.client takes it for whole: without its later headers, such as the length."""
    with Wire(RUN_ANSWER[:length]) as wire:
        wire.closes = True
        done = ask_for_run(cli, wire)
    assert (done.code, done.out) == (21, ""), done
    assert "broke off" in done.err
    with Wire([RUN_ANSWER[:length], RUN_ANSWER]) as wire:
        wire.closes = True
        assert ask_for_run(cli, wire, "--retries", "1", "--retry-delay", "0").json()["runId"] == "r"
