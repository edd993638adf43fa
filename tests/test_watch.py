"""run watch and run submit --wait: against a scripted Export Center for exact faults, the real gateway for the rest."""

from __future__ import annotations

import json
import random
import socket
import socketserver
import struct
import threading

import pytest

import stella

RUN = "run-1"


class Answer:
    """What one request gets: `pieces` of a chunked body (a callable is called instead), then an `end`.

    end: done; cut (FIN in the middle), reset, silent (until the client goes away), close (a body that is framed by
    the end of the connection, which is therefore good), short (fewer bytes than Content-Length says).
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
            return
        framing = {"close": "", "short": "Content-Length: 99999\r\n"}.get(answer.end, "Transfer-Encoding: chunked\r\n")
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
