"""Contract 4, `--connections`: pieces side by side, each in its place; anything unexpected goes back to one connection.

The bundle is small here and so are the pieces (`small`); test_download.py's odd answers are given to one of several.
"""

from __future__ import annotations

import itertools
import json
import random
import re
import sys
import threading
import time

import pytest

import stella
from scripted import RUN, Kept, Say, Scripted, describe
from test_download import ERRORS, QUICK, ROWS, WHOLE, synced, target

__all__ = ["synced", "target"]  # fixtures

PIECE = 16384
SIZE = 300_000
CONTENT = random.Random(3).randbytes(SIZE)
OTHER = random.Random(4).randbytes(SIZE)
PIECES = [(at, min(at + PIECE, SIZE)) for at in range(0, SIZE, PIECE)]
FIRST = f"0-{PIECE - 1}"
FOUR = ("--connections", "4")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(stella, "PARALLEL_BYTES", 65536)
    monkeypatch.setattr(stella, "PIECE_BYTES", PIECE)
    monkeypatch.setattr(stella, "SPLIT_BYTES", PIECE // 2)
    monkeypatch.setattr(stella, "FILL_SECONDS", 0.01)  # how often the sidecar is written


@pytest.fixture
def get(cli, target):
    def run(server, *options, **more):
        done = cli("download", RUN, "--output", target, *QUICK, *(() if "--connections" in options else FOUR), *options,
                   gw=server, **more)
        assert "Traceback" not in done.err
        assert "unexpected" not in done.err
        return done, Kept(target)

    return run


def spans(asked, size=SIZE):
    """The bytes that requests asked for as [start, end)."""
    found = [re.fullmatch(r"(\d+)-(\d*)( if .*)?", text) for text in asked if text != WHOLE]
    return [(0, size)] * asked.count(WHOLE) + [
        (int(each.group(1)), int(each.group(2)) + 1 if each.group(2) else size) for each in found]


def covers(ranges, size=SIZE):
    """True when these spans have every byte."""
    at = 0
    for start, end in sorted(ranges):
        at = max(at, end) if start <= at else at
    return at == size


def overlap(ranges, others):
    """How many bytes are in both."""
    return sum(max(0, min(a[1], b[1]) - max(a[0], b[0])) for a, b in itertools.product(ranges, others))


def is_one_connection(text):
    return text == WHOLE or re.match(r"\d+-( |$)", text) is not None


def test_sidecar_never_splits_a_span_at_a_piece_that_has_just_been_filled():
    """The moment between a piece's last byte and its leaving the list: `done` in two that touch is no `done`."""
    noted = []

    class Sink:
        sync = staticmethod(lambda: None)
        write_sidecar = staticmethod(noted.append)

    transfer = object.__new__(stella.Transfer)
    transfer.run_id, transfer.source, transfer.sink, transfer.lock = RUN, "gateway", Sink, threading.RLock()
    transfer.expected = stella.Expected(100, "")
    transfer.pieces = [stella.Piece(at, end) for at, end in ((40, 40), (60, 70))]
    transfer.record(pieces=True)
    assert noted[0]["done"] == [[0, 60], [70, 100]]
    assert stella.parse_spans(noted[0]["done"], 100) == [(0, 60), (70, 100)]


# ---- how it goes when nothing goes wrong ---------------------------------------------------------

@pytest.mark.parametrize("digest", [True, False], ids=["digest known", "no digest"])
def test_every_piece_once_and_with_if_range(get, digest):
    with Scripted(CONTENT, digest=digest, together=4) as server:
        done, kept = get(server)
    assert (done.code, kept.names, kept.target == CONTENT) == (0, ["bundle"], True), done
    assert server.most == 4
    assert server.asked[0] == FIRST
    assert all(text.endswith(' if "v1"') for text in server.asked[1:])
    asked = spans(server.asked)
    assert covers(asked)
    # The end of a piece that another connection takes over may be asked for twice, but not more than that.
    assert sum(end - start for start, end in asked) <= SIZE + 4 * PIECE
    assert ("no digest of the bundle is known" in done.err) == (not digest)


@pytest.mark.parametrize("count", [1, 2, 3, 7, 16])
def test_no_more_connections_than_asked_for(get, count):
    with Scripted(CONTENT, together=count) as server:
        done, kept = get(server, "--connections", count)
    assert (done.code, kept.target == CONTENT, server.most) == (0, True, count), done
    assert (server.asked == [WHOLE]) == (count == 1)


@pytest.mark.parametrize("count", ["0", "17", "-1", "x", "1.5", "", "1e1", "\u0664"])
def test_number_of_connections_is_1_to_16(get, count):
    with Scripted(CONTENT) as server:
        done, kept = get(server, "--connections", count)
    assert (done.code, server.seen, kept.names) == (2, [], []), done


ONE = {  # where one connection is used, whatever was asked for
    "smaller than the threshold": {"content": CONTENT[:65535]}, "no size in the run": {"size": False},
}
NOT_SIDE_BY_SIDE = {  # what the first answer tells, and the requests that follow
    "no ETag": ({"etag": ""}, {}), "a weak ETag": ({"etag": 'W/"v1"'}, {}),
    "a server without ranges": ({"after": Say(status=200)}, {}),
}


@pytest.mark.parametrize("case", ONE)
def test_bundle_for_one_connection(get, case):
    with Scripted(**{"content": CONTENT, **ONE[case]}) as server:
        done, kept = get(server)
    assert (done.code, kept.target == server.content, server.asked) == (0, True, [WHOLE]), done


def test_smallest_bundle_for_several_connections(get):
    with Scripted(CONTENT[:65536]) as server:
        done, kept = get(server)
    assert (done.code, kept.target == server.content, server.asked[0]) == (0, True, FIRST), done
    assert len(server.asked) >= 4


@pytest.mark.parametrize("case", NOT_SIDE_BY_SIDE)
def test_server_for_one_connection(get, case):
    with Scripted(CONTENT, **NOT_SIDE_BY_SIDE[case][0]) as server:
        done, kept = get(server)
    assert (done.code, kept.names, kept.target == CONTENT, server.most) == (0, ["bundle"], True, 1), done
    assert server.asked[0] == FIRST
    assert all(is_one_connection(text) for text in server.asked[1:])
    assert "if" not in " ".join(server.asked)


def test_to_standard_output_by_one_connection(cli):
    with Scripted(CONTENT) as server:
        done = cli("download", RUN, "--output", "-", *QUICK, *FOUR, gw=server)
    assert (done.code, done.out_bytes == CONTENT, server.asked) == (0, True, [WHOLE])


# ---- odd answers to one of several ---------------------------------------------------------------

@pytest.mark.parametrize("place", [0, 1, 3])
@pytest.mark.parametrize("name", ROWS)
def test_odd_answer_to_one_of_several(get, name, place):
    with Scripted(CONTENT, *[Say()] * place, ROWS[name].say, together=2 if place > 1 else 1) as server:
        done, kept = get(server)
    assert (done.code, kept.names, kept.target == CONTENT) == (0, ["bundle"], True), done
    assert server.asked[0] == FIRST
    # Back to one connection is for good; what the other three had asked for may still arrive.
    single = [is_one_connection(text) for text in server.asked]
    assert True not in single or single[single.index(True):].count(False) <= (3 if place else 0)


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if row.ever is not None and "slices" not in name])
def test_odd_answers_to_all_of_several_for_ever(get, name):
    """It ends, without the target; a better day's --resume fetches no byte that was recorded."""
    row = ROWS[name]
    with Scripted(CONTENT, *[Say()] * 5, after=row.say) as server:
        done, kept = get(server, "--retries", "2")
        assert done.code == row.ever, done
        assert (kept.target == CONTENT) if row.ever == 0 else (kept.target is None)
        if row.ever:
            recorded = kept.recorded()
            assert all(kept.part[start:end] == CONTENT[start:end] for start, end in recorded)
            server.asked.clear()
            server.after = Say()
            done, kept = get(server, "--resume")
            assert (done.code, kept.target == CONTENT) == (0, True), done
            assert overlap(spans(server.asked), recorded) == 0
    assert kept.names == ["bundle"]


@pytest.mark.parametrize("case", ERRORS)
def test_error_to_one_of_several_asks_one_connection_again(get, case):
    with Scripted(CONTENT, *[Say()] * 9, ERRORS[case][0]) as server:
        done, kept = get(server)
    assert (done.code, kept.names, kept.target == CONTENT) == (0, ["bundle"], True), done
    assert sum(end - start for start, end in spans(server.asked)) <= SIZE + 8 * PIECE  # what is there is kept


@pytest.mark.parametrize("case", ERRORS)
def test_error_to_all_of_several_is_the_error_and_keeps_what_is_there(get, case):
    say, code = ERRORS[case]
    with Scripted(CONTENT, *[Say()] * 4, after=say) as server:
        done, kept = get(server)
        assert (done.code, kept.names) == (code, ["bundle.part", "bundle.part.json"]), done
        recorded = kept.recorded()
        assert sum(end - start for start, end in recorded) >= PIECE
        assert "go on with: stella export download" in done.err
        assert "--resume" in done.err
        assert len(done.err.splitlines()) <= 6
        server.asked.clear()
        server.after = Say()
        done, kept = get(server, "--resume")
    assert (done.code, kept.names, kept.target == CONTENT) == (0, ["bundle"], True), done
    assert overlap(spans(server.asked), recorded) == 0


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_server_that_lets_few_in(get, limit):
    with Scripted(CONTENT, limit=limit) as server:
        done, kept = get(server)
    assert (done.code, kept.names, kept.target == CONTENT) == (0, ["bundle"], True), done


def test_piece_of_a_connection_that_is_told_to_wait_goes_to_another(get, monkeypatch):
    waiting = threading.Event()
    monkeypatch.setattr(stella.Clock, "sleep", lambda _, seconds: waiting.wait(min(seconds, 20)))
    with Scripted(CONTENT, *[Say()] * 3, Say(status=503, head={"Retry-After": "120"})) as server:
        started = time.monotonic()
        done, kept = get(server)
        waiting.set()
    assert (done.code, kept.names, kept.target == CONTENT) == (0, ["bundle"], True), done
    assert time.monotonic() - started < 15


@pytest.mark.parametrize("moment", [100, 100_000, SIZE - 100])
def test_connection_that_hangs_or_drips_does_not_hold_up_the_others_at_the_end(get, monkeypatch, moment):
    """Far below --timeout: its rest is given to one that has nothing left to do."""
    monkeypatch.setattr(stella, "SLOW_SECONDS", 0.05)
    over, ended_before = threading.Event(), []
    with Scripted(CONTENT, together=4) as server:
        server.moment, server.act = moment, lambda: ended_before.append(over.wait(20))
        done, kept = get(server, "--timeout", "60")
        over.set()
    assert (done.code, kept.names, kept.target == CONTENT) == (0, ["bundle"], True), done
    assert ended_before == [True]
    assert sum(end - start for start, end in spans(server.asked)) <= SIZE + 8 * PIECE


def test_no_piece_is_taken_from_a_connection_that_is_as_fast():
    """Two seconds are lost at most before anybody thinks of it."""
    transfer = type("Transfer", (), {"lock": threading.RLock(), "app": type("App", (), {"clock": stella.Clock()})})
    side = stella.SideBySide(transfer, None)
    piece = stella.Piece(0, 1000)
    side._claim(piece)
    piece.claimed, piece.at = piece.claimed - 10, 500  # fifty bytes a second: ten more seconds
    assert not side._is_slow(piece, 0.0), "who has fetched nothing cannot tell"
    assert not side._is_slow(piece, 50.0)
    assert not side._is_slow(piece, 200.0)
    assert side._is_slow(piece, 400.0)
    piece.claimed = stella.Clock().monotonic() - 6
    assert not side._is_slow(piece, 400.0), "it may have to wait for the first byte"
    piece.at, piece.claimed = 990, piece.claimed - 94
    assert not side._is_slow(piece, 1e9), "two seconds are not worth it"


@pytest.mark.parametrize("place", [0, 2, 10, 18])
def test_wrong_byte_in_one_piece_is_fetched_once_more_by_one_connection(get, place):
    with Scripted(CONTENT, *[Say()] * place, Say(content=OTHER)) as server:
        done, kept = get(server)
    assert (done.code, kept.names, kept.target == CONTENT) == (0, ["bundle"], True), done
    assert server.asked[-1] == WHOLE


def test_wrong_bytes_for_ever_from_several(get):
    with Scripted(CONTENT, after=Say(flip=SIZE - 1)) as server:
        done, kept = get(server)
    assert (done.code, kept.names) == (20, []), done
    assert server.asked[-1] == WHOLE


@pytest.mark.parametrize("digest", [True, False], ids=["digest known", "no digest"])
def test_bundle_that_changes_amid_the_pieces_is_not_mixed(get, digest):
    """If-Range makes a whole 200 of it: without a digest the new version is taken whole."""
    with Scripted(CONTENT, *[Say()] * 5, digest=digest, after=Say(content=OTHER, etag='"v2"')) as server:
        done, kept = get(server)
    assert done.code == (20 if digest else 0), done
    assert kept.target == (None if digest else OTHER)
    assert kept.names == ([] if digest else ["bundle"])


# ---- going on ------------------------------------------------------------------------------------

@pytest.fixture
def left(get):
    """left(server): some pieces, as several connections leave them when the server goes away."""

    def run(server, count=6):
        server.script, server.after = [Say()] * count, Say(status=503)
        done, kept = get(server, "--retries", "1")
        assert (done.code, kept.names) == (21, ["bundle.part", "bundle.part.json"]), done
        server.asked.clear()
        server.after = Say()
        return kept

    return run


@pytest.mark.parametrize("count", [2, 5, 11, 18])
def test_resume_asks_for_what_is_missing_and_no_more(get, left, count):
    with Scripted(CONTENT) as server:
        recorded = left(server, count).recorded()
        done, kept = get(server, "--resume")
    assert (done.code, kept.names, kept.target == CONTENT) == (0, ["bundle"], True), done
    assert overlap(spans(server.asked), recorded) == 0
    assert covers([*spans(server.asked), *recorded])
    assert all(text.endswith(' if "v1"') for text in server.asked)


@pytest.mark.parametrize(("first", "then"), [("4", "1"), ("1", "4"), ("4", "16")])
def test_resume_with_another_number_of_connections(get, first, then):
    with Scripted(CONTENT, *[Say(cut=50_000)] * 2, after=Say(status=503)) as server:
        done, kept = get(server, "--connections", first)
        recorded = kept.recorded()
        assert (done.code, recorded[0][0]) == (21, 0)
        server.asked.clear()
        server.after, server.most = Say(), 0
        done, kept = get(server, "--connections", then, "--resume")
    assert (done.code, kept.names, kept.target == CONTENT) == (0, ["bundle"], True), done
    assert overlap(spans(server.asked), recorded) == 0
    if then == "1":
        assert (server.most, all(text.endswith(' if "v1"') for text in server.asked)) == (1, True)


@pytest.mark.parametrize("case", ["the same", "another version"])
def test_pieces_that_are_all_there_are_believed_without_a_digest_only_by_the_server(get, target, case):
    """A kill between the last byte and the renaming: nothing but the ETag can tell what the .part is worth."""
    target.parent.mkdir()
    target.with_name("bundle.part").write_bytes(CONTENT if case == "the same" else OTHER)
    facts = {"size": SIZE, "etag": '"v1"' if case == "the same" else '"v0"', "source": "gateway", "done": [[0, SIZE]]}
    target.with_name("bundle.part.json").write_text(json.dumps(facts))
    with Scripted(CONTENT, digest=False) as server:
        done, kept = get(server, "--resume")
    assert (done.code, kept.names, kept.target == CONTENT) == (0, ["bundle"], True), done
    assert server.asked[0] == f"{SIZE}- if {facts['etag']}"


DONE = {  # what the sidecar may say is there; what is not there must not be believed where the digest is known
    "everything": [[0, SIZE]], "beyond the end": [[0, 10**18]], "negative": [[-5, 20000]], "backwards": [[20000, 10]],
    "overlapping": [[0, 20000], [10000, 40000]], "out of order": [[40000, 50000], [0, 20000]], "nothing": [],
    "text": "x", "an object": {"0": 5}, "no pairs": [[1], [2, 3, 4]], "no numbers": [["0", "9"]],
    "fractions": [[0.5, 9.5]],
    "truths": [[False, True]], "very many": [[at, at + 1] for at in range(0, 400, 2)], "null": None,
    "all but the first byte": [[1, SIZE]], "endless": [[0, 10**400]],
}


@pytest.mark.parametrize("case", DONE)
def test_sidecar_that_lies_about_what_is_there(get, left, target, case):
    with Scripted(CONTENT) as server:
        facts = left(server).facts
        facts["done"] = DONE[case]
        sidecar = target.with_name("bundle.part.json")
        sidecar.write_text(json.dumps(facts))
        done, kept = get(server, "--resume")
    assert (done.code, kept.names, kept.target == CONTENT) == (0, ["bundle"], True), done


@pytest.mark.parametrize("change", ["corrupt", "cut off", "longer", "empty", "zeros"])
def test_part_with_pieces_that_changed(get, left, target, change):
    part = target.with_name("bundle.part")
    with Scripted(CONTENT) as server:
        left(server)
        data = part.read_bytes()
        part.write_bytes({"corrupt": b"x" + data[1:], "cut off": data[:20000], "longer": CONTENT + b"x", "empty": b"",
                          "zeros": bytes(len(data))}[change])
        done, kept = get(server, "--resume")
    assert (done.code, kept.names, kept.target == CONTENT) == (0, ["bundle"], True), done


@pytest.mark.parametrize("field", ["size", "sha256", "etag"])
def test_pieces_of_another_bundle_are_not_kept(get, left, field):
    """Between the attempts the bundle became another one; only the field says so."""
    with Scripted(CONTENT) as server:
        left(server)
        server.content = OTHER + b"x" if field == "size" else OTHER
        server.etag = '"v2"' if field == "etag" else '"v1"'
        server.run["bundle"] = describe(server.content, digest=field == "sha256")
        done, kept = get(server, "--resume")
    assert (done.code, kept.names, kept.target == server.content) == (0, ["bundle"], True), done


def test_attempts_of_connections_do_not_multiply(get):
    """Each of four tries as often as --retries says, and that is the end."""
    with Scripted(CONTENT, Say(), after=Say(status=503, body=b"")) as server:
        done, _ = get(server, "--retries", "3")
    assert done.code == 21, done
    assert len(server.asked) <= 1 + 4 * 4


@pytest.mark.parametrize("digest", [True, False], ids=["digest known", "no digest"])
@pytest.mark.parametrize("etag", ['W/"v1"', ""], ids=["a weak ETag", "no ETag"])
def test_holes_are_filled_without_an_etag_only_where_the_digest_is_known(get, left, target, etag, digest):
    """Nothing but the digest tells then that the pieces belong together."""
    with Scripted(CONTENT, digest=digest) as server:
        recorded = left(server).recorded()
        server.etag = etag
        sidecar = target.with_name("bundle.part.json")
        sidecar.write_text(json.dumps({**json.loads(sidecar.read_text()), "etag": etag}))
        done, kept = get(server, "--resume")
    assert (done.code, kept.names, kept.target == CONTENT) == (0, ["bundle"], True), done
    assert "if" not in " ".join(server.asked)
    assert (overlap(spans(server.asked), recorded) == 0) == digest


@pytest.mark.parametrize("name", ["cut", "silent", "206 in slices", "503", "closed without an answer"])
def test_one_connection_fills_hole_after_hole_over_a_bad_link(get, left, name):
    with Scripted(CONTENT) as server:
        recorded = left(server).recorded()
        server.script, server.most = [Say(), ROWS[name].say, Say(), ROWS[name].say], 0
        done, kept = get(server, "--resume", "--connections", "1")
    assert (done.code, kept.names, kept.target == CONTENT) == (0, ["bundle"], True), done
    assert server.most == 1 or name == "silent"  # the server notices late that nobody listens any more
    assert overlap(spans(server.asked), recorded) == 0


@pytest.mark.parametrize("name", ["206 from a later byte", "206 of another version", "416 with another size"])
def test_one_connection_that_fills_holes_and_gets_odd_answers_for_ever_ends(get, left, name):
    with Scripted(CONTENT) as server:
        left(server)
        server.script, server.after = [Say(slice=100)], ROWS[name].say
        done, kept = get(server, "--resume", "--connections", "1", "--retries", "2")
        assert done.code == (0 if name == "206 from a later byte" else 21), done
        assert len(server.asked) <= 8
        server.after = Say()
        done, kept = get(server, "--resume")
    assert (done.code, kept.names, kept.target == CONTENT) == (0, ["bundle"], True), done


@pytest.mark.parametrize(("threads", "code"), [(0, 1), (1, 1), (2, 1), (3, 0), (4, 0)])
def test_system_that_starts_few_threads(get, monkeypatch, threads, code):
    """One follows the bytes and hashes, a second one once the pieces are planned; one for each connection."""
    begin, started = threading.Thread.start, []

    def start(thread):
        if "start_thread" in sys._getframe(1).f_code.co_name:
            started.append(thread)
            if len(started) > threads:
                raise RuntimeError("can't start new thread")
        begin(thread)

    with Scripted(CONTENT) as server:
        monkeypatch.setattr(threading.Thread, "start", start)
        done, kept = get(server)
        monkeypatch.undo()
    assert (done.code, kept.names) == (code, [] if code else ["bundle"]), done
    assert done.err.count("this system starts no further thread") == 1
    assert ("going on with fewer connections" in done.err) == (code == 0)


@pytest.mark.parametrize("framing", ["chunked", "close"])
def test_page_of_a_captive_portal_costs_no_piece_where_the_first_hole_is_at_the_start(get, target, framing):
    target.parent.mkdir()
    target.with_name("bundle.part").write_bytes(bytes(PIECE) + CONTENT[PIECE:])
    with Scripted(CONTENT, Say(status=200, body=b"<html>portal" * 20, framing=framing, etag='"portal"')) as server:
        facts = {"size": SIZE, "sha256": server.run["bundle"]["sha256"], "etag": '"v1"', "source": "gateway",
                 "done": [[PIECE, SIZE]]}
        target.with_name("bundle.part.json").write_text(json.dumps(facts))
        done, kept = get(server, "--resume")
    assert (done.code, kept.names, kept.target == CONTENT) == (0, ["bundle"], True), done
    assert server.asked == [f'{FIRST} if "v1"'] * 2


def test_piece_that_was_taken_meanwhile_is_not_asked_for(get, monkeypatch):
    """Between a slice and the request for the next one: no range ends before it starts."""
    monkeypatch.setattr(stella, "SLOW_SECONDS", 0.0)
    monkeypatch.setattr(stella, "SLOW_RATIO", 0.0)
    again = stella.SideBySide._try_piece

    def slow(self, piece, response, *more):
        if response is None:
            time.sleep(0.02)
        return again(self, piece, response, *more)

    monkeypatch.setattr(stella.SideBySide, "_try_piece", slow)
    with Scripted(CONTENT, after=Say(slice=5000)) as server:
        done, kept = get(server)
    assert (done.code, kept.target == CONTENT) == (0, True), done
    assert all(start < end for start, end in spans(server.asked))
    assert "one connection" not in done.err
