"""run watch and run submit --wait: against a scripted Export Center for exact faults, the real gateway for the rest."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import random
import re
import signal
import socket
import socketserver
import struct
import sys
import termios
import threading

import pytest

import stella
from gateway import BEFORE_HEAD, Fault

RUN = "run-1"


class Answer:
    """What one request gets: `pieces` of a chunked body (a callable is called instead), then an `end`.

    end: done; cut (FIN in the middle), reset, silent (until the client goes away), close (a body that is framed by
    the end of the connection, which is therefore good), counted (by Content-Length), short (fewer bytes than it says).
    """

    def __init__(self, *pieces, status=200, kind="text/event-stream", head="", end="done"):
        self.pieces, self.status, self.kind, self.head, self.end = pieces, status, kind, head, end


HANG_UP = Answer(status=0)


def error(status, code="", head=""):
    body = json.dumps({"code": code, "message": "as the test says"}).encode() if code else b"<html>sorry</html>"
    return Answer(body, status=status, kind="application/json" if code else "text/html", head=head)


class Handler(socketserver.StreamRequestHandler):
    def handle(self):
        request = self.rfile.readline().decode().split()
        headers = {}
        while (line := self.rfile.readline()) not in (b"\r\n", b""):
            name, _, value = line.partition(b":")
            headers[name.lower().decode()] = value.strip()
        if request:
            self.send(self.server.center.answer(request[1], headers))

    def send(self, answer):
        if not answer.status:
            for piece in answer.pieces:
                piece(self.server.center, None)
            return
        length = f"Content-Length: {sum(map(len, answer.pieces))}\r\n" if answer.end == "counted" else ""
        framing = {"close": "", "short": "Content-Length: 99999\r\n", "counted": length}.get(
            answer.end, "Transfer-Encoding: chunked\r\n")
        framing = "" if answer.status in (204, 304) else framing
        kind = f"Content-Type: {answer.kind}\r\n" if answer.kind else ""
        head = f"HTTP/1.1 {answer.status} Whatever\r\n{kind}{framing}Connection: close\r\n{answer.head}\r\n"
        self.request.sendall(head.encode("latin-1"))

        def write(piece):
            self.request.sendall(b"%x\r\n%b\r\n" % (len(piece), piece) if "chunked" in framing else piece)

        for piece in answer.pieces if answer.status not in (204, 304) else ():
            if callable(piece):
                piece(self.server.center, write)
            elif piece:
                write(piece)
        if answer.end == "done" and framing:
            self.request.sendall(b"0\r\n\r\n")
        elif answer.end == "silent":
            self.request.recv(1)
        elif answer.end == "reset":
            self.request.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.request.close()


class Server(socketserver.ThreadingTCPServer):
    request_queue_size = 128

    def shutdown_request(self, request):
        try:
            super().shutdown_request(request)
        except OSError:
            pass  # reset

    def handle_error(self, request, client_address):
        pass  # the client went away


class Center:
    """An Export Center with one run. `answers` are taken by requests for its events, `run` (documents or answers) by
    requests for the run itself; the last of each goes on for ever. A callable makes an answer from the headers."""

    token = "secret"

    def __init__(self, answers, run):
        self.answers, self.run = list(answers), list(run)
        self.asked_events, self.asked_run = [], 0
        self.changed = threading.Condition()
        self.stopping = threading.Event()
        self.server = Server(("127.0.0.1", 0), Handler)
        self.server.center = self
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()

    def answer(self, target, headers):
        with self.changed:
            self.changed.notify_all()
            if target.endswith("/events"):
                self.asked_events.append(headers)
                found = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
            else:
                self.asked_run += 1
                found = self.run.pop(0) if len(self.run) > 1 else self.run[0]
            found = found(headers) if callable(found) else found
        return Answer(json.dumps(found).encode(), kind="application/json") if isinstance(found, dict) else found

    def stop(self):
        self.stopping.set()
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def center():
    made = []

    def make(*answers, run=None):
        made.append(Center(answers, run if isinstance(run, list) else [run or document("running")]))
        return made[-1]

    yield make
    for each in made:
        each.stop()


def document(status, percent=None, **more):
    progress = {"percent": percent, "phase": "adapter", "processed": percent, "total": 100}
    return {"runId": RUN, "profileId": "p", "status": status, "progress": progress if percent is not None else None,
            "bundle": None, "error": None, **more}


DONE = document("succeeded", 100, bundle={"name": "export.tar.zst", "size": 1536, "sha256": "0" * 64})


def frame(number, kind, data, end=b"\n"):
    lines = [b"id: %d" % number, b"event: " + kind.encode(), b"data: " + json.dumps(data).encode(), b"", b""]
    return end.join(lines)


LOG = [("run.accepted", {}), ("run.started", {}), ("run.progress", {"percent": 10, "phase": "adapter"}),
       ("run.progress", {"percent": 60, "phase": "adapter"}), ("run.warning", {"message": "odd"}),
       ("run.succeeded", {})]
FRAMES = [frame(number, kind, data) for number, (kind, data) in enumerate(LOG, 1)]
ALL = [(kind, str(number), data) for number, (kind, data) in enumerate(LOG, 1)]


def part(first, last):
    """The events from number `first` to `last`, as they are sent."""
    return b"".join(FRAMES[first - 1 : last])


def told(done):
    return [(line["event"], line["id"], line["data"]) for line in done.lines()]


def kinds(done):
    return [(line["event"], line["id"]) for line in done.lines()]


# ---- resuming

RESUMES = {
    "nothing goes wrong": [Answer(part(1, 6))],
    "one byte at a time": [Answer(*(part(1, 6)[at : at + 1] for at in range(len(part(1, 6)))))],
    "dropped after each event": [Answer(part(n, n), end="cut") for n in range(1, 7)],
    "reset after each event": [*(Answer(part(n, n), end="reset") for n in range(1, 6)), Answer(part(1, 6))],
    "closed in good order after each event": [Answer(part(n, n)) for n in range(1, 7)],
    "connection-framed, closed after each event": [Answer(part(n, n), end="close") for n in range(1, 7)],
    "each event with its length": [Answer(part(n, n), end="counted") for n in range(1, 7)],
    "shorter than its length": [Answer(part(1, 3), end="short"), Answer(part(4, 6))],
    "dropped within an event": [Answer(part(1, 2) + FRAMES[2][:9], end="cut"), Answer(part(3, 6))],
    "dropped within an id": [Answer(part(1, 2) + b"id: 33", end="cut"), Answer(part(3, 6))],
    "dropped within a character": [Answer(part(1, 2) + b"id: 3\ndata: \xe2\x82", end="cut"), Answer(part(3, 6))],
    "three 502 in a row": [Answer(part(1, 2), end="cut"), error(502), error(502), error(502), Answer(part(3, 6))],
    "503, 504, 408, 429, 500": [error(503), error(504), error(408), error(429), error(500), Answer(part(1, 6))],
    "500 with a foreign code": [error(500, "E_PANIC"), Answer(part(1, 6))],
    "no answer": [HANG_UP, HANG_UP, Answer(part(1, 2), end="cut"), HANG_UP, Answer(part(3, 6))],
    "silent before the first byte": [Answer(end="silent"), Answer(part(1, 6))],
    "silent after an event": [Answer(part(1, 3), end="silent"), Answer(part(4, 6))],
    "silent within an event": [Answer(part(1, 3) + FRAMES[3][:20], end="silent"), Answer(part(4, 6))],
    "silent after comments": [Answer(b": hi\n\n", b": hi\n\n", end="silent"), Answer(part(1, 6))],
    "replays all": [Answer(part(1, 2), end="cut"), Answer(part(1, 4), end="cut"), Answer(part(1, 6))],
    "replays on the same connection": [Answer(part(1, 4) + part(2, 4), end="cut"), Answer(part(3, 5) + part(1, 6))],
    "events after the end": [Answer(part(1, 6) + frame(7, "run.warning", {}) + frame(8, "run.failed", {}))],
    "the end, then a reset": [Answer(part(1, 6), end="reset")],
    "the end, then silence": [Answer(part(1, 6), end="silent")],
    "clean closes without news": [Answer(part(1, 2)), Answer(), Answer(b": hi\n\n"), Answer(part(1, 2)),
                                  Answer(part(3, 6))],
    "five empty attempts, six times": [each for n in range(1, 7)
                                       for each in [*[error(502)] * 5, Answer(part(n, n), end="cut")]],
}


@pytest.mark.parametrize("name", RESUMES)
def test_resumed_stream_shows_every_event_once(cli, center, name):
    there = center(*RESUMES[name])
    done = cli("run", "watch", RUN, "--json", "--timeout", "0.15" if "silent" in name else "20", gw=there)
    assert (told(done), done.code, done.err) == (ALL, 0, ""), done
    assert len(there.asked_events) == len(RESUMES[name])


def test_stream_is_idle_after_45_seconds_or_the_timeout_that_was_given(cli, center, monkeypatch):
    assert stella.STREAM_IDLE_SECONDS == 45
    monkeypatch.setattr(stella, "STREAM_IDLE_SECONDS", 0.15)
    there = center(Answer(part(1, 3), end="silent"), Answer(part(4, 6)))
    assert told(cli("run", "watch", RUN, "--json", gw=there)) == ALL
    monkeypatch.setattr(stella, "STREAM_IDLE_SECONDS", 45)
    there = center(Answer(part(1, 3), end="silent"), Answer(part(4, 6)))
    assert told(cli("run", "watch", RUN, "--json", "--timeout", "0.15", gw=there)) == ALL


def test_last_event_id_goes_out_as_utf8_bytes(cli, center):
    there = center(Answer("id: ü☃ 7\ndata: x\n\n".encode(), end="cut"), Answer(b"id\ndata: y\n\n", end="cut"),
                   Answer(frame(1, "run.succeeded", {})))
    assert cli("run", "watch", RUN, "--json", gw=there).code == 0
    assert [headers.get("last-event-id") for headers in there.asked_events] == [None, "ü☃ 7".encode(), None]
    assert {headers["accept"] for headers in there.asked_events} == {b"text/event-stream"}


def test_last_event_id_is_kept_over_connections_that_bring_none(cli, center):
    there = center(Answer(part(1, 3), end="cut"), Answer(b"retry: 1\n\n: hi\n\n", end="cut"), error(502),
                   Answer(part(4, 6)))
    assert cli("run", "watch", RUN, "--json", gw=there).code == 0
    assert [headers.get("last-event-id") for headers in there.asked_events] == [None, b"3", b"3", b"3"]


WAITS = {  # what the server says before it drops the stream: the least and the most that the client waits
    "nothing": (b"", 0, 0.5), "retry: 2000": (b"retry: 2000\n", 2, 2), "retry: 0": (b"retry: 0\n", 0, 0.5),
    "retry: one hour": (b"retry: 3600000\n", 30, 30), "retry: +5": (b"retry: +5000\n", 0, 0.5),
}


@pytest.mark.parametrize("name", WAITS)
def test_wait_before_the_next_connection(cli, center, clock, name):
    line, least, most = WAITS[name]
    there = center(Answer(line + part(1, 2), end="cut"), Answer(part(3, 6)))
    assert cli("run", "watch", RUN, "--json", gw=there).code == 0
    assert len(clock.slept) == 1
    assert least <= clock.slept[0] <= most


def test_waits_grow_and_start_again_at_each_new_event(cli, center, clock, monkeypatch):
    monkeypatch.setattr(stella.Clock, "random", lambda _: 1.0)
    there = center(error(502), error(502), error(502), Answer(part(1, 2), end="cut"), error(502), Answer(part(3, 6)))
    assert cli("run", "watch", RUN, "--json", gw=there).code == 0
    assert clock.slept == [0.5, 1, 2, 0.5, 0.5]


def test_retry_after_is_honoured(cli, center, clock):
    there = center(error(503, head="Retry-After: 7\r\n"), error(429, head="Retry-After: 9000\r\n"), Answer(part(1, 6)))
    assert cli("run", "watch", RUN, "--json", gw=there).code == 0
    assert clock.slept == [7, 120]


# ---- errors that end a watch

STOPS = {
    "token rejected": (error(401), 30), "forbidden": (error(403), 11), "401 with a code": (error(401, "E_TOKEN"), 30),
    "no such run": (error(404, "ERR_EXPORT_002"), 11), "quota": (error(429, "ERR_EXPORT_QUOTA"), 12),
    "validation": (error(400, "ERR_EXPORT_001"), 10), "503 with a code": (error(503, "ERR_EXPORT_003"), 12),
    "adapter": (error(500, "ERR_EXPORT_004"), 13), "405 with a code": (error(405, "ERR_EXPORT_002"), 11),
    "a line without end": (Answer(*[b"x" * 65536] * 17, end="silent"), 1),
    "an event without end": (Answer(*[b"data:" + b"x" * 65530 + b"\n"] * 65, end="silent"), 1),
}


@pytest.mark.parametrize("name", STOPS)
@pytest.mark.parametrize("after", ["at once", "after some events"])
def test_error_that_ends_the_watch(cli, center, name, after):
    answer, code = STOPS[name]
    there = center(*([Answer(part(1, 2), end="cut")] if after != "at once" else []), answer)
    done = cli("run", "watch", RUN, "--json", gw=there)
    assert (done.code, len(done.lines())) == (code, 0 if after == "at once" else 2), done
    assert done.err.startswith("stella: ")
    assert (there.asked_run, len(there.asked_events)) == (0, 1 if after == "at once" else 2)


@pytest.mark.parametrize(("status", "code"), [("failed", 13), ("cancelled", 13), ("expired", 13), ("succeeded", 0)])
@pytest.mark.parametrize("source", ["stream", "polling"])
def test_exit_code_is_the_runs_own(cli, center, status, code, source):
    fault = {"code": "ERR_EXPORT_005", "message": "no key"} if status == "failed" else None
    stream = Answer(frame(1, f"run.{status}", {"error": fault} if fault else {}))
    there = center(stream if source == "stream" else error(404), run=document(status, 50, error=fault))
    done = cli("run", "watch", RUN, gw=there)
    following = f"stella export {'download' if status == 'succeeded' else 'run show'} {RUN}"
    assert done.code == code, done
    assert done.out == f"{RUN} {status}; next: {following}\n"
    assert ("no key (ERR_EXPORT_005)" in done.err) is (status == "failed")


# ---- polling

POLLS = {
    "404": (error(404), "status 404"), "404 with a foreign code": (error(404, "E_ROUTE"), "status 404"),
    "405": (error(405), "status 405"), "406": (error(406), "status 406"), "501": (error(501), "status 501"),
    "400": (error(400), "status 400"), "410": (error(410), "status 410"), "431": (error(431), "status 431"),
    "204": (Answer(status=204), "status 204"), "HTML": (Answer(b"<html>", kind="text/html"), "text/html"),
    "JSON": (Answer(b"{}", kind="application/json"), "application/json"),
    "no type": (Answer(kind=""), "not an event stream"),
    "compressed": (Answer(b"\x1f\x8b", head="Content-Encoding: gzip\r\n"), "gzip"),
    "a type that only starts like it": (Answer(part(1, 6), kind="text/event-streams"), "text/event-streams"),
    "always 502": (error(502), "3 attempts"), "never an answer": (HANG_UP, "3 attempts"),
    "always silent": (Answer(end="silent"), "3 attempts"), "always dropped": (Answer(b":\n", end="cut"), "3 attempts"),
    "always closed": (Answer(), "3 attempts"), "always closed after comments": (Answer(b": hi\n\n"), "3 attempts"),
}


@pytest.mark.parametrize("name", POLLS)
def test_polling_where_events_cannot_be_had(cli, center, name):
    answer, reason = POLLS[name]
    runs = [document("pending"), document("running"), document("running", 40), document("running", 40), DONE]
    if "attempts" in reason:
        runs = [document("running")] * ("closed" in name) * 3 + runs
    there = center(answer, run=runs)
    timeout = "0.1" if "silent" in name else "20"
    done = cli("run", "watch", RUN, "--json", "--retries", "2", "--timeout", timeout, gw=there)
    wanted = ["run.accepted", "run.started", "run.progress", "run.progress", "run.succeeded"]
    assert kinds(done) == [(kind, None) for kind in wanted], done
    assert [line["data"].get("percent") for line in done.lines()] == [None, None, 40, 100, None]
    assert done.code == 0
    assert (len(done.err.splitlines()), reason in done.err) == (1, True), done
    assert len(there.asked_events) == (3 if "attempts" in reason else 1)


def test_event_stream_with_parameters_is_one(cli, center):
    there = center(Answer(part(1, 6), kind="Text/Event-Stream ; charset=latin-1"))
    assert told(cli("run", "watch", RUN, "--json", gw=there)) == ALL


def test_polling_shows_nothing_that_the_stream_has_shown(cli, center):
    runs = [document("running", 10, progress={"percent": 10, "phase": "adapter"}), document("running", 50), DONE]
    done = cli("run", "watch", RUN, "--json", gw=center(Answer(part(1, 3), end="cut"), error(404), run=runs))
    assert kinds(done) == [("run.accepted", "1"), ("run.started", "2"), ("run.progress", "3"), ("run.progress", None),
                           ("run.progress", None), ("run.succeeded", None)], done


def test_polling_interval_grows_to_ten_seconds(cli, center, clock):
    there = center(error(404), run=[document("running", percent) for percent in range(12)] + [DONE])
    assert cli("run", "watch", RUN, gw=there).code == 0
    assert clock.slept[:4] == [1, 1.5, 2.25, 3.375]
    assert clock.slept[6:] == [10] * 6


def test_polling_survives_bad_answers(cli, center):
    there = center(error(404), run=[document("running"), error(502), HANG_UP, error(503), error(500), DONE])
    assert cli("run", "watch", RUN, gw=there).code == 0


def test_polling_goes_on_with_a_status_that_it_does_not_know(cli, center):
    there = center(error(404), run=[document("archiving", startedAt="x"), document("running"), DONE])
    done = cli("run", "watch", RUN, "--json", gw=there)
    assert kinds(done)[:2] == [("run.accepted", None), ("run.started", None)]
    assert done.code == 0


UNPOLLABLE = {"gateway unreachable": (error(502), 21), "run gone": (error(404, "ERR_EXPORT_002"), 11),
              "token rejected": (error(401), 30), "no status": ({"runId": RUN}, 1), "no JSON": (Answer(b"<p>"), 1)}


@pytest.mark.parametrize("name", UNPOLLABLE)
def test_polling_that_fails(cli, center, name):
    answer, code = UNPOLLABLE[name]
    done = cli("run", "watch", RUN, gw=center(error(404), run=answer))
    assert (done.code, done.out) == (code, ""), done
    assert (f"stella export run watch {RUN}" in done.err) is (code == 21)


def test_cancelled_before_it_started(cli, center):
    done = cli("run", "watch", RUN, "--json", gw=center(error(404), run=document("cancelled")))
    assert kinds(done) == [("run.accepted", None), ("run.cancelled", None)]


# ---- a stream that says too little

def test_clean_close_of_a_run_that_has_ended(cli, center):
    """Two connections with nothing at all, and the run says that it is over: the terminal event is made from it."""
    there = center(Answer(part(1, 4)), Answer(), run=DONE)
    done = cli("run", "watch", RUN, "--json", gw=there)
    assert kinds(done) == [(kind, last_id) for kind, last_id, _ in ALL[:4]] + [("run.succeeded", None)]
    assert (done.code, len(there.asked_events)) == (0, 3)


def test_run_that_ends_between_stream_and_question_loses_no_event(cli, center):
    there = center(Answer(part(1, 3)), Answer(), Answer(part(4, 6)), run=DONE)
    assert told(cli("run", "watch", RUN, "--json", gw=there)) == ALL


def test_replays_alone_are_no_proof_that_there_is_no_more(cli, center):
    there = center(Answer(part(1, 3)), Answer(part(1, 2)), Answer(part(1, 3)), Answer(part(1, 2)), Answer(part(1, 6)),
                   run=DONE)
    assert told(cli("run", "watch", RUN, "--json", gw=there)) == ALL


def test_question_that_fails_is_one_more_attempt(cli, center):
    there = center(Answer(part(1, 3)), Answer(), Answer(part(4, 6)), run=[*[error(502)] * 6, DONE])
    assert told(cli("run", "watch", RUN, "--json", gw=there)) == ALL


class Jumping(stella.Clock):
    """A minute passes at each look at the clock."""

    passed = 0.0

    def monotonic(self):
        Jumping.passed += 61
        return Jumping.passed


def question(center, send):
    """The stream brings comments until the run has been asked about once more."""
    with center.changed:
        asked = center.asked_run
        while not center.changed.wait_for(lambda: center.asked_run > asked, 0.01):
            send(b": hi\n\n")


CHECKED = {
    "the run has ended": ([Answer(part(1, 3), question, end="silent"), Answer(part(4, 6))], DONE),
    "the run began without an event": ([Answer(question, end="silent"), Answer(part(1, 6))], document("running")),
    "pending": ([Answer(question, question, part(1, 6))], document("pending")),
    "running": ([Answer(part(1, 3), question, question, part(4, 6))], document("running")),
    "the run cannot be asked": ([Answer(part(1, 3), question, part(4, 6))], error(502)),
}


@pytest.mark.parametrize("name", CHECKED)
def test_stream_of_comments_is_checked_against_the_run(cli, center, monkeypatch, name):
    answers, run = CHECKED[name]
    monkeypatch.setattr(stella.Clock, "monotonic", Jumping().monotonic)
    there = center(*answers, run=run)
    done = cli("run", "watch", RUN, "--json", gw=there)
    assert told(done) == ALL
    assert len(there.asked_events) == len(answers)


# ---- twenty random schedules

class Chaos:
    """A server with a log of events, that answers each connection with a fault chosen by a seed."""

    def __init__(self, seed):
        self.chance = random.Random(seed)
        self.status = self.chance.choice(["succeeded", "failed", "cancelled", "expired"])
        self.silent_left, self.barren, self.sent = 1, 0, 0
        self.log = [(str(n) if self.chance.random() < 0.8 else None, "run.progress",
                     {"percent": n, "text": "é☃" * (n % 5)})
                    for n in range(1, self.chance.randint(12, 30))]
        self.log.append(("end", f"run.{self.status}", {}))

    def frames(self, first, last):
        end = self.chance.choice([b"\n", b"\r", b"\r\n"])
        text = b""
        for last_id, kind, data in self.log[first:last]:
            lines = [f"id: {last_id}"] * (last_id is not None) + [f"event: {kind}", f"data:{json.dumps(data)}", "", ""]
            text += end.join(line.encode() for line in lines) + b": hi" * self.chance.randint(0, 1) + end
        size = self.chance.randint(1, 200)
        return [text[at : at + size] for at in range(0, len(text), size)]

    def __call__(self, headers):
        asked = headers.get("last-event-id", b"").decode()
        at = next((n for n, event in enumerate(self.log, 1) if event[0] == asked), 0)
        first = self.chance.choice([0, at, at, max(at - 3, 0)])
        while first and self.log[first][0] is None:
            first -= 1  # a log is replayed from its start or from an event with an id
        barren = self.barren < 3 and self.chance.random() < 0.4
        self.barren = self.barren + 1 if barren else 0
        if barren and self.chance.random() < 0.5:
            return self.chance.choice([error(502), error(503), error(500), HANG_UP])
        last = self.sent if barren else min(max(self.sent, first) + self.chance.randint(1, 6), len(self.log))
        # What a reset leaves unread is lost, so it counts as an attempt without news.
        end = self.chance.choice(["cut", "done", "close", "silent", "reset" if barren else "cut"])
        if (end == "silent" and not self.silent_left) or (barren and first == last):
            end = "cut"  # a server does not close in good order what it has not told
        self.silent_left -= end == "silent"
        pieces = self.frames(first, last)
        self.sent = max(self.sent, last)
        half = self.frames(last, last + 1)[0][:9] if end == "cut" and last < len(self.log) else b""
        return Answer(*pieces, half, end=end)


@pytest.mark.parametrize("seed", range(20))
def test_random_faults_every_event_once_and_the_runs_exit_code(cli, center, seed):
    chaos = Chaos(seed)
    there = center(chaos, run=lambda _: document(chaos.status if seed % 2 else "running"))
    done = cli("run", "watch", RUN, "--json", "--timeout", "0.2", gw=there)
    assert [(line["event"], line["data"]) for line in done.lines()] == [event[1:] for event in chaos.log], done
    assert done.code == (0 if chaos.status == "succeeded" else 13)


# ---- the real gateway

def test_real_gateway_drops_five_times_answers_502_goes_silent_and_replays(cli, gw):
    run_id = gw.make_run()["runId"]
    wanted = [(event.kind, str(event.number), event.data) for event in gw.store.runs[run_id].events]
    replay = {"Last-Event-ID": None}
    for number in range(1, 6):
        gw.order(Fault("GET", "/events$", events=number + 1, request=replay))
    gw.order(Fault.error(502, path="/events$", times=3), Fault("GET", "/events$", reset=300, request=replay),
             Fault("GET", "/events$", mute=2, request=replay), Fault("GET", "/events$", cut=BEFORE_HEAD))
    done = cli("run", "watch", run_id, "--json", "--timeout", "0.3", "--retries", "9", gw=gw)
    assert [(line["event"], line["id"], line["data"]) for line in done.lines()] == wanted
    assert (done.code, done.err) == (0, "")


@pytest.mark.parametrize(("ending", "code"), [("sign", 13), ("", 0)])
def test_submit_wait_goes_on_as_watch(cli, gw, ending, code):
    if ending:
        gw.fail_at(ending, message="no \x1b[31mkey")
    done = cli("run", "submit", "prof-json-raw", "--selector", "tenant=acme", "--wait", gw=gw)
    assert done.code == code, done
    run = done.json()
    assert run["status"] == ("failed" if ending else "succeeded")
    lines = done.err.splitlines()
    assert lines[0] == f"stella: submitted run {run['runId']}"
    assert lines[1].startswith(f"{run['runId']}: ")
    assert "\x1b" not in done.err
    assert "\r" not in done.err
    if ending:
        assert f"stella export run show {run['runId']}" in lines[-1]
        assert "no \\x1b[31mkey (ERR_EXPORT_005)" in lines[-2]


@pytest.mark.parametrize(("told", "status", "code", "warned"), [
    ("succeeded", "failed", 13, True), ("failed", "succeeded", 13, True), ("succeeded", "cancelled", 13, True),
    ("succeeded", "running", 0, False), ("failed", "running", 13, False), ("succeeded", "succeeded", 0, False)])
@pytest.mark.parametrize("words", [("run", "watch", RUN), ("run", "watch", RUN, "--json")])
def test_what_the_last_event_and_the_run_say_is_a_success_only_where_both_do(cli, center, words, told, status, code,
                                                                            warned):
    done = cli(*words, gw=center(Answer(frame(1, f"run.{told}", {})), run=document(status)))
    assert done.code == code, done
    assert (f"the last event says that the run {told}, the run itself says {status}" in done.err) == warned


def test_look_at_the_run_when_it_has_ended_heeds_the_deadline(cli, center):
    silent = Answer(lambda center, _: center.stopping.wait(5), status=0)
    there = center(Answer(frame(1, "run.succeeded", {})), run=silent)
    done = cli("run", "watch", RUN, "--deadline", "0.1", "--timeout", "60", gw=there)
    assert (done.code, there.asked_run) == (0, 1), done
    assert "cannot read the run itself" in done.err


@pytest.mark.parametrize("words", [("run", "watch", "run-1"), ("run", "submit", "prof-json-raw", "--wait"),
                                   ("run", "submit", "prof-json-raw")])
def test_output_that_can_be_no_file_is_refused_before_the_work(cli, gw, tmp_path, words):
    done = cli(*words, "--output", tmp_path, gw=gw)
    assert (done.code, gw.store.runs) == (1, {}), done
    assert "it is a folder" in done.err


def test_submit_wait_prints_what_it_knows_when_the_run_cannot_be_read_any_more(cli, gw):
    gw.order(Fault.error(410, path=r"/runs/[^/]+$", times=-1))
    done = cli("run", "submit", "prof-json-raw", "--selector", "tenant=acme", "--wait", "--query", "status", gw=gw)
    assert (done.code, done.out) == (0, "succeeded\n")
    assert "warning: cannot read the run itself" in done.err


def test_submit_wait_of_a_failed_run_is_exit_13_whatever_the_query_finds(cli, gw):
    gw.fail_at("sign")
    done = cli("run", "submit", "prof-json-raw", "--wait", "--query", "bundle.sha256", gw=gw)
    assert (done.code, done.out) == (13, "")


def test_reason_that_only_the_event_knows_is_told(cli, center):
    error = {"code": "ERR_EXPORT_005", "message": "no key"}
    done = cli("run", "watch", RUN, gw=center(Answer(frame(1, "run.failed", {"error": error})), run=document("failed")))
    assert done.code == 13
    assert f"stella: run {RUN} failed: no key (ERR_EXPORT_005)\n" in done.err


@pytest.mark.parametrize("words", [("--query", "runID"), ("--output", "/dev/null/x")])
def test_submitted_run_is_named_where_it_cannot_be_shown(cli, gw, words):
    done = cli("run", "submit", "prof-json-raw", *words, gw=gw)
    assert (done.code, done.out) == (10 if "--query" in words else 1, "")
    assert f"  the run was submitted; see: stella export run show {max(gw.store.runs)}\n" in done.err


def test_deadline_without_wait_is_a_mistake(cli, gw):
    assert cli("run", "submit", "prof-json-raw", "--deadline", "5", gw=gw).code == 2
    assert gw.store.runs == {}


def test_submit_wait_follows_the_runs_own_link(cli, gw):
    gw.links = "none"
    assert cli("run", "submit", "prof-json-raw", "--wait", gw=gw).code == 0
    gw.links = "absolute"
    assert cli("run", "submit", "prof-json-raw", "--wait", gw=gw).code == 0


@pytest.mark.parametrize("words", [("run", "watch", None), ("run", "watch", None, "--json"),
                                   ("run", "submit", "prof-json-raw", "--wait")])
def test_deadline_is_exit_14_and_leaves_the_run_alone(cli, gw, words):
    gw.hold()
    run_id = gw.make_run(wait=False)["runId"]
    done = cli(*(run_id if word is None else word for word in words), "--deadline", "0.2", gw=gw)
    run_id = max(gw.store.runs)
    assert done.code == 14, done
    assert done.err.splitlines()[-2:] == [f"stella: run {run_id} is still active after 0.2 seconds",
                                          f"  watch it further with: stella export run watch {run_id}"]
    assert gw.show(run_id)["status"] == "pending"


DEADLINES = {  # the events' answer and the run's: exit code
    "blocked in a read": (Answer(part(1, 2), end="silent"), document("running"), 14),
    "blocked before the head": (Answer(lambda center, _: center.stopping.wait(10), status=0), document("running"), 14),
    "waiting to reconnect": (error(503, head="Retry-After: 60\r\n"), document("running"), 14),
    "polling": (error(404), document("running"), 14),
    "the gateway is away": (error(502, head="Retry-After: 60\r\n"), error(502), 21),
    "the gateway goes away": ([Answer(part(1, 2)), error(502, head="Retry-After: 60\r\n")], error(502), 14),
    "the run's answer is a page": (Answer(part(1, 2), end="silent"), Answer(b"<html>", kind="text/html"), 14),
    "the run has succeeded meanwhile": (Answer(part(1, 2), end="silent"), DONE, 0),
    "the run has failed meanwhile": (Answer(part(1, 2), end="silent"), document("failed"), 13),
}


@pytest.mark.parametrize("name", DEADLINES)
def test_deadline(cli, center, name):
    answer, run, code = DEADLINES[name]
    there = center(*(answer if isinstance(answer, list) else [answer]), run=run)
    done = cli("run", "watch", RUN, "--json", "--deadline", "0.2", gw=there)
    there.stopping.set()
    assert done.code == code, done
    assert ("is still active" in done.err) == (code == 14)
    if code in (0, 13):
        assert kinds(done)[-1] == (f"run.{run['status']}", None)


@pytest.mark.parametrize(("run", "code"), [
    (DONE, 0), (document("running"), 14), (error(404, "ERR_EXPORT_002"), 11), (error(401), 30), (error(503), 21),
], ids=["ended", "active", "missing", "rejected", "not to be asked"])
def test_deadline_of_zero_is_a_question(cli, center, run, code):
    assert cli("run", "watch", RUN, "--deadline", "0", gw=center(HANG_UP, run=run)).code == code


# ---- --no-follow

NOW = {  # what the stream brings, the run: the events shown, the exit code
    "active": ([Answer(part(1, 3), end="silent")], document("running", 10), 3, 0),
    "active, heartbeats": ([Answer(part(1, 3), b": hi\n\n", end="silent")], document("running", 10), 3, 0),
    "nothing yet": ([Answer(end="silent")], document("pending"), 0, 0),
    "closed in good order": ([Answer(part(1, 3))], document("running", 10), 3, 0),
    "ended": ([Answer(part(1, 6))], DONE, 6, 0),
    "ended, cut on the way": ([Answer(part(1, 3), end="cut"), error(502), Answer(part(4, 6))], DONE, 6, 0),
    "failed": ([Answer(frame(1, "run.failed", {}))], document("failed"), 1, 13),
    "failed without a word": ([Answer(end="silent")], document("failed"), 1, 13),
    "no stream": ([error(404)], document("running", 10), 3, 0),
    "no stream, cancelled": ([error(404)], document("cancelled"), 2, 13),
}


@pytest.mark.parametrize("name", NOW)
def test_no_follow_shows_what_there_is_and_leaves(cli, center, name):
    answers, run, shown, code = NOW[name]
    there = center(*answers, run=run)
    done = cli("run", "watch", RUN, "--no-follow", "--json", "--timeout", "0.2", gw=there)
    assert (done.code, len(done.lines())) == (code, shown), done
    assert len(there.asked_events) == len(answers)


def test_no_follow_leaves_a_stream_that_does_not_pause(cli, center, monkeypatch):
    monkeypatch.setattr(stella.Clock, "monotonic", Jumping().monotonic)
    done = cli("run", "watch", RUN, "--no-follow", gw=center(Answer(part(1, 3), question, end="silent")))
    assert done.code == 0
    assert done.out == f"{RUN} running; next: stella export run watch {RUN}\n"


def test_no_follow_takes_its_time_for_the_log_of_a_run_that_has_ended(cli, center, monkeypatch):
    monkeypatch.setattr(stella.Clock, "monotonic", Jumping().monotonic)
    there = center(Answer(*(part(1, 6)[at : at + 9] for at in range(0, len(part(1, 6)), 9))), run=DONE)
    assert told(cli("run", "watch", RUN, "--no-follow", "--json", gw=there)) == ALL


def test_no_follow_of_a_run_that_is_not_there(cli, gw):
    assert cli("run", "watch", "run-nope", "--no-follow", gw=gw).code == 11


def test_follow_and_no_follow_exclude_each_other(cli, center):
    assert cli("run", "watch", RUN, "--follow", "--no-follow", gw=center(HANG_UP)).code == 2


# ---- JSON lines

CARRIED = {  # data as sent: the text of `data` in the line
    '{"a":1}': '{"a":1}', '{ "a" : [ 1 ,\t2 ] }': '{"a":[1,2]}', '{"a b":" c "}': '{"a b":" c "}',
    '{"a":1.10,"b":-0,"c":1E2}': '{"a":1.10,"b":-0,"c":1E2}', "17": "17", ' "x" ': '"x"', "null": "null", "[]": "[]",
    '{"a":{"b":[{"c":"d"}]}}': '{"a":{"b":[{"c":"d"}]}}', '{"é":"☃\U0001f600"}': '{"é":"☃\U0001f600"}',
    '{"a":"\\u00e9\\ud83d\\ude00"}': '{"a":"é\U0001f600"}', '{"a":"x\\" : \\\\"}': '{"a":"x\\" : \\\\"}',
    '{"a":"\\\\"  ,  "b":1}': '{"a":"\\\\","b":1}', '{"a":\n1\n}': '{"a":1}',
    '{"a":"x:y","b":"{[}]"}': '{"a":"x:y","b":"{[}]"}',
    '{"a":' + "1" * 308 + "}": '{"a":' + "1" * 308 + "}", "[" * 60 + "]" * 60: "[" * 60 + "]" * 60,
    '{"a":"' + "x" * 9000 + '"}': '{"a":"' + "x" * 9000 + '"}', '{"a":"\\n\\t"}': '{"a":"\\n\\t"}',
    "{}": "{}", "true": "true",
}
NOT_CARRIED = [
    "hello", "1" * 400, '{"a":-' + "1" * 5000 + "}",
    '{"a":1', '{"a":1e400}', '{"a":-1e400}', "1e400", '{"a":"\\ud800"}',
    '{"\\udc00":1}', '{"a":NaN}', "Infinity",
    '{"a":1,"a":2}', '{"x":{"a":1,"a"  :2}}', "{'a':1}", '{"a":01}', '{"a":1,}', '{"a":"\n"}', "1 2",
    '{"a":1}{"a":1}', "\ufeff1",
    "[" * 100 + "]" * 100, "[" * 100000, '{"a":+1}', "\u00a01", '{"a":"\\x"}', "nul", "-", '{"a":"\x01"}',
    "\\u0031", "1\x0c",
]


def spoken(text):
    return b"".join(b"data:" + line.encode() + b"\n" for line in text.split("\n")) + b"\n"


def line_of(cli, center, text):
    done = cli("run", "watch", RUN, "--json", gw=center(Answer(spoken(text) + frame(1, "run.succeeded", {}))))
    assert (done.code, done.err) == (0, ""), done
    first, second, nothing = done.out.split("\n")
    assert (second, nothing) == ('{"event":"run.succeeded","id":"1","data":{}}', "")
    return first


@pytest.mark.parametrize("text", CARRIED, ids=lambda text: ascii(text[:30]))
def test_json_line_carries_the_value(cli, center, text):
    assert line_of(cli, center, text) == '{"event":"message","id":null,"data":%s}' % CARRIED[text]


@pytest.mark.parametrize("text", NOT_CARRIED, ids=lambda text: ascii(text[:30]))
def test_json_line_carries_the_text_where_the_value_cannot_be(cli, center, text):
    line = line_of(cli, center, text)
    assert json.loads(line) == {"event": "message", "id": None, "data": text}
    assert line.startswith('{"event":"message","id":null,"data":"')


def test_json_line_of_polling_carries_odd_values_as_text(cli, center):
    run = b'{"runId":"run-1","status":"succeeded","progress":{"percent":1e400,"phase":"\\ud800"}}'
    done = cli("run", "watch", RUN, "--json", gw=center(error(404), run=Answer(run, kind="application/json")))
    assert json.loads(done.lines()[2]["data"].replace("1e400", "4")) == {"runId": RUN, "percent": 4, "phase": "\ud800"}
    assert done.code == 0


def test_odd_types_and_ids_are_carried(cli, center):
    there = center(Answer('event: a"\\\x1b\u2028\nid: "\n'.encode() + b"data: 1\n\n" + frame(1, "run.succeeded", {})))
    line = json.loads(cli("run", "watch", RUN, "--json", gw=there).out.split("\n")[0])
    assert line == {"event": 'a"\\\x1b\u2028', "id": '"', "data": 1}


def test_each_event_is_on_stdout_before_the_next_is_sent(process, center):
    """The stream is silent after each event until its line was read: nothing waits in a buffer."""
    read = threading.Semaphore(0)
    steps = [step for each in FRAMES for step in (each[:-1], b"\r", lambda *_: read.acquire(timeout=20))]
    child = process("run", "watch", RUN, "--json", gw=center(Answer(*steps)), background=True)
    for kind, number, data in ALL:
        assert json.loads(child.stdout.readline()) == {"event": kind, "id": number, "data": data}
        read.release()
    assert child.wait(20) == 0


def test_guides_jq_pipeline(cli, gw, tmp_path):
    run_id = gw.make_run()["runId"]
    (tmp_path / "run.log").write_bytes(cli("run", "watch", run_id, "--json", gw=gw).out_bytes)
    events = [json.loads(line)["event"] for line in (tmp_path / "run.log").read_text("utf-8").splitlines()]
    assert (events[0], events[-1], events.count("run.succeeded")) == ("run.accepted", "run.succeeded", 1)


# ---- signals

@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("words", [("watch", None), ("watch", None, "--json"), ("submit", "prof-json-raw", "--wait")])
def test_signal_leaves_the_run_alone_and_says_how_to_go_on(process, gw, number, words):
    gw.hold()
    run_id = gw.make_run(wait=False)["runId"]
    child = process("run", *(run_id if word is None else word for word in words), gw=gw, background=True)
    (child.stdout if "--json" in words else child.stderr).readline()
    if words[0] == "submit":
        child.stderr.readline()
        run_id = max(gw.store.runs)
    child.send_signal(number)
    _, err = child.communicate(timeout=20)
    assert child.returncode == -number
    assert err.decode().splitlines()[-2:] == [
        f"stella: the run goes on; watch it again with: stella export run watch {run_id}",
        f"  or end it with: stella export run cancel {run_id}"]
    assert gw.show(run_id)["status"] == "pending"


def test_reader_that_goes_away_ends_the_watch(process, gw):
    run_id = gw.make_run()["runId"]
    reader, writer = os.pipe()
    os.close(reader)
    done = process("run", "watch", run_id, "--json", gw=gw, stdout=writer)
    os.close(writer)
    assert (done.code, done.err) == (-signal.SIGPIPE, "")


# ---- what a person sees without a terminal

def progress(number, percent, phase="adapter", **more):
    return frame(number, "run.progress", {"percent": percent, "phase": phase, **more})


def test_lines_when_status_or_phase_changes_or_ten_points_have_passed(cli, center):
    stream = [frame(1, "run.accepted", {}), frame(2, "run.started", {})]
    percents = [0, 3, 9.9, 10, 12, 19, 20.5, 29, 31, 35]
    stream += [progress(number, percent, processed=number, total=99) for number, percent in enumerate(percents, 3)]
    stream += [progress(20, 36, "pack"), frame(21, "run.warning", {"message": "odd\n\x1b[2J"}),
               progress(22, 37, "pack"), frame(23, "custom", {}), frame(24, "run.succeeded", {})]
    done = cli("run", "watch", RUN, gw=center(Answer(*stream), run=DONE))
    assert done.err.splitlines() == [
        "run-1: pending", "run-1: running", "run-1: running  0.0 %  adapter  3 of 99",
        "run-1: running  10.0 %  adapter  6 of 99",
        "run-1: running  20.5 %  adapter  9 of 99", "run-1: running  31.0 %  adapter  11 of 99",
        "run-1: running  36.0 %  pack",
        "run-1: warning: odd\\n\\x1b[2J", "run-1: succeeded  37.0 %"]
    assert done.out == "run-1 succeeded (export.tar.zst, 1.5 KiB); next: stella export download run-1\n"
    assert not set("\r\x1b") & set(done.err)


ODD = ['{"percent":"x"}', '{"percent":true}', '{"percent":-5}', '{"percent":1e9}', '{"percent":' + "9" * 400 + "}",
       "[]", "x", "null",
       '{"percent":5,"phase":7,"processed":"a","total":[]}', '{"phase":"' + "p" * 100000 + '"}',
       '{"processed":1.5,"total":0}',
       '{"phase":"a\\r\\u001b[2J\\u202e"}', '{"percent":1e-320}', '{"percent":null,"processed":-1,"total":-1}']


@pytest.mark.parametrize("data", ODD, ids=lambda text: text[:30])
def test_odd_progress_is_no_fault_of_ours(cli, center, data):
    text = data.encode()
    stream = [b"event: run.progress\ndata: " + text + b"\n\n",
              b"event: run.warning\ndata: " + text + b"\n\n",
              frame(9, "run.failed", {"error": json.loads(data) if data != "x" else "x"})]
    done = cli("run", "watch", RUN, gw=center(Answer(*stream), run=error(410)))
    assert done.code == 13, done
    assert "unexpected" not in done.err
    assert max(map(len, done.err.splitlines())) < 1200
    assert not set("\r\x1b\u202e") & set(done.err)


def test_hostile_run_id_cannot_become_a_command(cli, center):
    done = cli("run", "watch", "a;rm -rf $HOME\x1b", gw=center(Answer(frame(1, "run.succeeded", {})), run=DONE))
    assert done.out.endswith("next: stella export download 'a;rm -rf $HOME\\x1b'\n")


def test_output_gets_the_final_document(cli, center, tmp_path):
    there = center(Answer(part(1, 6)), run=DONE)
    done = cli("run", "watch", RUN, "--output", tmp_path / "run.json", gw=there)
    assert json.loads((tmp_path / "run.json").read_text("utf-8")) == DONE
    assert done.out.startswith(f"{RUN} succeeded")
    assert cli("run", "watch", RUN, "--output", "-", gw=center(Answer(part(1, 6)), run=DONE)).json() == DONE


# ---- what a person sees on a terminal

class Screen:
    """A terminal of `columns`, as standard error: wraps, obeys CR, LF, CSI A, K and J, and reflows when it is resized.

    A row is [cells, whether it goes on in the next]; a wide character has an empty cell after it.
    """

    encoding = "utf-8"

    def __init__(self, columns):
        self.columns, self.rows, self.row, self.column, self.buffer = columns, [[[], False]], 0, 0, self

    def isatty(self):
        return True

    def flush(self):
        pass

    def write(self, data):
        for token in re.findall(r"\x1b\[\d*[A-Z]|.", data.decode(self.encoding), re.DOTALL):
            if len(token) > 1:
                self.obey(token)
            elif token in "\r\n":
                self.row, self.column = self.row + (token == "\n"), 0
            else:
                self.put(token)
            while self.row >= len(self.rows):
                self.rows.append([[], False])

    def obey(self, token):
        assert token in ("\x1b[K", "\x1b[J") or token[-1] == "A", repr(token)
        if token[-1] == "A":
            self.row = max(self.row - int(token[2:-1]), 0)
            return
        self.rows[self.row] = [self.rows[self.row][0][: self.column], False]
        if token[-1] == "J":
            del self.rows[self.row + 1 :]

    def put(self, char):
        assert char >= " ", repr(char)
        width = stella.text_width(char)
        if width == 0:
            self.rows[self.row][0][self.column - 1] += char
            return
        if self.column + width > self.columns:
            self.rows[self.row][1] = True
            self.row, self.column = self.row + 1, 0
            self.rows[self.row : self.row + 1] = [[[], False]]
        cells = self.rows[self.row][0]
        cells += [" "] * (self.column - len(cells))
        cells[self.column : self.column + width] = [char, ""][:width]
        self.column += width

    def resize(self, columns):
        """As terminals that reflow do it: what was one line stays one line."""
        rows, joined = [], []
        for cells, goes_on in self.rows:
            joined += cells
            if not goes_on:
                parts = [joined[at : at + columns] for at in range(0, len(joined), columns)] or [[]]
                rows += [[each, True] for each in parts[:-1]] + [[parts[-1], False]]
                joined = []
        self.columns, self.rows = columns, rows
        self.row, self.column = len(rows) - 1, len(rows[-1][0])

    def lines(self):
        return ["".join(cells) for cells, _ in self.rows]


@pytest.fixture
def view(monkeypatch):
    """view(columns, encoding): (a WatchView that draws on a Screen, the Screen, its clock)."""

    class Now(stella.Clock):
        seconds = 0.0

        def monotonic(self):
            return self.seconds

    def make(columns, encoding="utf-8"):
        screen = Screen(columns)
        screen.encoding = encoding
        monkeypatch.setattr(sys, "stderr", screen)
        console = stella.Console(stella.load_config({}, {"TERM": "xterm"}))
        monkeypatch.setattr(console, "columns", lambda: screen.columns)
        app = stella.App(stella.load_config({}, {}), console, Now())
        return stella.WatchView(app, RUN), screen, app.clock

    return make


def event(kind, **data):
    return stella.Event(kind, json.dumps(data), "", False)


def at(percent, **more):
    return event("run.progress", percent=percent, phase="adapter", processed=int(percent * 32), total=3200, **more)


@pytest.mark.parametrize(("columns", "line"), [
    (200, "███████████████░░░░░░░░░░░░░░░░░░░░░░░░░   37.5 %  adapter  1200 of 3200  0:40  1:06 left"),
    (80, "███████████░░░░░░░░░░░░░░░░░░░   37.5 %  adapter  1200 of 3200  0:40  1:06 left"),
    (40, "█████░░░░░░░░░░   37.5 %  adapter  0:40"), (20, " 37.5 %  adapter"), (8, " 37.5 %"), (5, " 37…"), (1, "…")])
def test_bar_fits_its_width(view, columns, line):
    watch, screen, clock = view(columns)
    watch.show([event("run.started")], "")
    watch.show([at(0)], "")
    clock.seconds = 40.0
    watch.show([at(37.5)], "")
    assert screen.lines() == [line], screen.lines()


def test_bar_fits_every_width_in_both_alphabets(view):
    for columns in range(1, 130):
        for encoding in ("utf-8", "ascii", "latin-1"):
            watch, screen, clock = view(columns, encoding)
            for second in range(0, 60, 9):
                clock.seconds = float(second)
                data = {"percent": second * 1.6, "phase": "收集é\u0301\x1b", "processed": second, "total": 10**9}
                watch.show([event("run.progress", **data)], "")
                [line] = screen.lines()
                assert stella.text_width(line) <= max(columns - 1, 1)
                assert encoding == "utf-8" or set(line) <= set(map(chr, range(32, 256)))


def test_bar_in_ascii_where_the_encoding_has_no_blocks(view):
    watch, screen, _ = view(60, "ascii")
    watch.show([at(50)], "")
    assert screen.lines() == ["##########-----------   50.0 %  adapter  1600 of 3200  0:00"]


def test_warning_stays_above_the_bar(view):
    watch, screen, clock = view(60)
    watch.show([at(10)], "")
    watch.show([event("run.warning", message="first"), event("run.warning", message="x" * 70), at(20)], "")
    clock.seconds = 1.0
    watch.show([], "")
    assert screen.lines()[0] == "run-1: warning: first"
    assert "".join(screen.lines()[1:3]) == "run-1: warning: " + "x" * 70
    assert "20.0 %" in screen.lines()[3]
    assert len(screen.lines()) == 4


@pytest.mark.parametrize("widths", [(200, 40), (80, 40, 20), (40, 200, 10), (120, 7, 119, 61), (3, 80)])
def test_resize_leaves_nothing_behind(view, widths):
    watch, screen, clock = view(widths[0])
    watch.console.err("a line before")
    for columns in widths:
        screen.resize(columns)
        before = "".join(screen.lines()[: -1 - (len(screen.lines()[-1]) == 0)])
        assert "a line before".startswith(before[:13])
        clock.seconds += 1
        watch.show([at(clock.seconds)], "")
        assert "".join(screen.lines()[:-1]) == "a line before", screen.lines()
    watch.console.clear_bar()
    assert "".join(screen.lines()) == "a line before"


def test_bar_ticks_while_nothing_happens_and_says_when_it_reconnects(view):
    watch, screen, clock = view(80)
    watch.show([at(10)], "")
    clock.seconds = 65.0
    watch.show([], "reconnecting")
    assert screen.lines()[0].endswith("  1:05  reconnecting")


def test_time_left_and_rate_only_where_they_mean_something(view):
    watch, screen, clock = view(100)

    def shown(seconds, percent, **more):
        clock.seconds = float(seconds)
        watch.show([event("run.progress", percent=percent, phase="adapter", **more)], "")
        return screen.lines()[0].rpartition("  ")[2]

    assert shown(0, 0) == "0:00"
    assert shown(1, 60) == "0:01", "a replay is no progress"
    assert shown(4, 61) == "0:04"
    assert shown(10, 69) == "0:31 left"
    assert shown(20, 69) == "1:05 left"
    assert shown(30, 20) == "0:30", "it fell back"
    assert shown(60, 20, processed=5) == "1:00"
    assert shown(70, 20, processed=305) == "30/s"
    assert shown(80, 100, processed=305) == "15/s"


def test_a_burst_of_events_is_drawn_once(view):
    watch, screen, _ = view(80)
    written = []
    screen.write = written.append
    watch.show([at(percent / 10) for percent in range(1000)], "")
    assert len(written) == 1


def drawn(process, gw, *words, columns=80, env=None):
    """(what reached the terminal, what went to standard output) of a process whose standard error is a terminal."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    env = {"TERM": "xterm", "PYTHONIOENCODING": "utf-8", **(env or {})}
    child = process(*words, gw=gw, background=True, stderr=slave, env=env)
    os.close(slave)
    seen = b""
    try:
        while piece := os.read(master, 65536):
            seen += piece
    except OSError:
        pass  # how Linux tells that nobody is left on the other side
    finally:
        os.close(master)
    return seen.decode(), child.communicate(timeout=20)[0].decode()


def test_on_a_real_terminal_the_bar_is_wiped_before_the_outcome(process, gw):
    run_id = gw.make_run()["runId"]
    seen, out = drawn(process, gw, "run", "watch", run_id)
    assert "█" in seen
    assert seen.endswith("\r\x1b[K")
    assert seen.count("\n") == 0
    assert out.endswith(f"next: stella export download {run_id}\n")


def test_on_a_real_terminal_in_ascii(process, gw):
    seen, _ = drawn(process, gw, "run", "watch", gw.make_run()["runId"], env={"PYTHONIOENCODING": "ascii"})
    assert "#" in seen
    assert seen.isascii()


@pytest.mark.parametrize("env", [{"TERM": "dumb"}, {"TERM": ""}])
def test_on_a_dumb_terminal_there_are_lines(process, gw, env):
    seen, _ = drawn(process, gw, "run", "watch", gw.make_run()["runId"], env=env)
    assert "\x1b" not in seen
    assert seen.replace("\r\n", "").count("\r") == 0
    assert len(seen.splitlines()) > 3


def test_json_draws_no_bar(process, gw):
    seen, out = drawn(process, gw, "run", "watch", gw.make_run()["runId"], "--json")
    assert seen == ""
    assert json.loads(out.splitlines()[-1])["event"] == "run.succeeded"


def test_bar_ticks_on_a_silent_stream(process, center):
    """The stream says nothing until the watch has redrawn its line by itself: its clock goes on."""
    there = center(Answer(part(1, 3), end="silent"), Answer(part(4, 6)))
    seen, _ = drawn(process, there, "run", "watch", RUN, "--timeout", "1.2", "--retry-delay", "0")
    assert "0:01" in seen
