"""Room 6, Resume: pure decisions over what is on disk and the head of an answer, as tables (RFC 9110 8.8.3, 13, 14)."""

from __future__ import annotations

import random

import pytest

from stella import (
    Expected,
    cut_pieces,
    decide_answer,
    decide_resume,
    find_gaps,
    is_strong,
    parse_content_range,
    parse_length,
    parse_spans,
    range_headers,
)

DIGEST, OTHER = "a" * 64, "b" * 64


# ---- fields --------------------------------------------------------------------------------------

@pytest.mark.parametrize(("etag", "strong"), [
    ('"v1"', True), ('"v"', True), ('""', False), ('"\u0100"', False), ('""x"', False), ('"x""', False),
    ('"v 1"', True), ('"a,b"', True), ('"\\"', True), ('W/"v1"', False), ('w/"v1"', False),
    ("v1", False), ("", False), ('"', False), ('"v1', False), ('v1"', False), ('"v"1"', False), ('"v1", "v2"', False),
    ('"v1" ', False), ('"v\n1"', False), ('"v\r\nX: y"', False), ('"v\x001"', False), ('"v\x7f"', False)])
def test_strong_etag(etag, strong):
    assert is_strong(etag) is strong


@pytest.mark.parametrize(("text", "number"), [
    ("0", 0), ("3000", 3000), ("007", 7), ("9" * 18, 10**18 - 1), ("9" * 19, None), ("9" * 5000, None), ("", None),
    (None, None), ("-1", None), ("+1", None), ("1.0", None), ("1e3", None), ("0x10", None), ("1_0", None), (" 1", None),
    ("2000, 2000", None), ("\u0661", None), ("\u00b2", None)])
def test_length(text, number):
    assert parse_length(text) == number


@pytest.mark.parametrize(("text", "found"), [
    ("bytes 0-0/1", (0, 0, 1)), ("bytes 5-9/10", (5, 9, 10)), ("bytes 5-9/*", (5, 9, None)),
    (" bytes 5-9/10 ", (5, 9, 10)),
    *((text, None) for text in (
        "", "bytes", "bytes 5-9", "bytes 5-9/", "bytes 9-5/10", "bytes 5-10/10", "bytes 5-9/9", "bytes */10",
        "bytes -5/10", "bytes 5-/10", "bytes=5-9/10", "bytes  5-9/10", "bytes 5 - 9/10", "items 5-9/10", "Bytes 5-9/x",
        "bytes 5-9/10/11", "bytes +5-9/10", "bytes 5-9/1e9", "bytes 5-9/10, bytes 0-4/10", "bytes 0-4,5-9/10",
        "bytes 5-9/10\nX: y", "bytes \u0665-9/10", f"bytes 0-{'9' * 19}/*", f"bytes 0-9/{'9' * 19}"))])
def test_content_range(text, found):
    assert parse_content_range(text) == found


@pytest.mark.parametrize(("start", "end", "etag", "headers"), [
    (0, None, '"v1"', {}), (0, None, "", {}), (5, None, "", {"Range": "bytes=5-"}),
    (5, None, '"v1"', {"Range": "bytes=5-", "If-Range": '"v1"'}), (5, None, 'W/"v1"', {"Range": "bytes=5-"}),
    (0, 10, "", {"Range": "bytes=0-9"}), (0, 1, '"v1"', {"Range": "bytes=0-0", "If-Range": '"v1"'}),
    (5, 10, "v1", {"Range": "bytes=5-9"})])
def test_range_headers(start, end, etag, headers):
    assert range_headers(start, end, etag) == headers


# ---- spans ---------------------------------------------------------------------------------------

@pytest.mark.parametrize(("value", "spans"), [
    ([], []), ([[0, 10]], [(0, 10)]), ([[0, 10], [20, 30]], [(0, 10), (20, 30)]), ([[0, 10], [100, 200]], [(0, 10)]),
    ([[0, 10], [20, 200]], [(0, 10), (20, 100)]), ([[0, 10], [99, 10**400]], [(0, 10), (99, 100)]),
    *((value, []) for value in (
        None, 5, "x", {}, {"0": 10}, [0, 10], [[0]], [[0, 1, 2]], [["0", "1"]], [[0.0, 1.0]],
        [[False, True]], [[None, 5]], [(0, 10)], [[-1, 10]], [[10, 0]], [[5, 5]], [[0, 10], [10, 20]],
        [[0, 10], [5, 20]], [[20, 30], [0, 10]], [[0, 10], "x"], [[0, 10], [20, 10]]))],
    ids=lambda value: str(value)[:40])
def test_spans_of_a_sidecar(value, spans):
    assert parse_spans(value, 100) == spans


@pytest.mark.parametrize(("spans", "size", "gaps"), [
    ([], 0, []), ([], 10, [(0, 10)]), ([(0, 10)], 10, []), ([(0, 4)], 10, [(4, 10)]), ([(4, 10)], 10, [(0, 4)]),
    ([(2, 4), (6, 8)], 10, [(0, 2), (4, 6), (8, 10)]), ([(0, 5), (5, 10)], 10, [])])
def test_gaps(spans, size, gaps):
    assert find_gaps(spans, size) == gaps


@pytest.mark.parametrize(("gaps", "size", "pieces"), [
    ([], 4, []), ([(0, 4)], 4, [(0, 4)]), ([(0, 5)], 4, [(0, 4), (4, 5)]),
    ([(3, 4), (9, 15)], 3, [(3, 4), (9, 12), (12, 15)])])
def test_pieces(gaps, size, pieces):
    assert cut_pieces(gaps, size) == pieces


def test_spans_and_gaps_and_pieces_are_every_byte_once():
    for seed in range(500):
        chance = random.Random(seed)
        size = chance.randrange(1, 200)
        edges = sorted(chance.sample(range(size + 1), 2 * chance.randrange(size // 4 + 1)))
        spans = parse_spans([list(pair) for pair in zip(edges[::2], edges[1::2])], size)
        gaps = find_gaps(spans, size)
        pieces = cut_pieces(gaps, chance.randrange(1, 50))
        assert find_gaps(gaps, size) == spans
        for parts in (gaps, pieces):
            seen = sorted(at for start, end in [*spans, *parts] for at in range(start, end))
            assert seen == list(range(size)), seed


def test_nothing_is_expected_of_an_etag_until_there_is_one():
    assert (Expected(1, DIGEST).etag, Expected(1, DIGEST, '"x"').etag) == ("", '"x"')


# ---- what a .part is good for ----------------------------------------------------------------------

def sidecar(**fields):
    facts = {"size": 100, "sha256": DIGEST, "etag": '"v1"', **fields}
    return {name: value for name, value in facts.items() if value is not ...}


KEPT = [(0, 60)]
RESUMES = {  # bytes in .part, sidecar, (size, digest) that the bundle must have: what is kept, why not the rest
    "both know the digest": (60, sidecar(), (100, DIGEST), KEPT, ""),
    "both know the digest, no ETag": (60, sidecar(etag=""), (100, DIGEST), KEPT, ""),
    "both know the digest, no size": (60, sidecar(size=None), (None, DIGEST), KEPT, ""),
    "only the sidecar knows the digest": (60, sidecar(), (100, ""), KEPT, ""),
    "only the run knows the digest, strong ETag": (60, sidecar(sha256=""), (100, DIGEST), KEPT, ""),
    "nobody knows the digest, strong ETag": (60, sidecar(sha256=""), (100, ""), KEPT, ""),
    "nobody knows the digest, weak ETag": (60, sidecar(sha256="", etag='W/"v1"'), (100, ""), [], "neither"),
    "nobody knows the digest, no ETag": (60, sidecar(sha256="", etag=...), (100, ""), [], "neither"),
    "nobody knows the digest, an ETag that is no text": (60, sidecar(sha256="", etag=["x"]), (100, ""), [], "neither"),
    "only the run knows the digest, no ETag": (60, sidecar(sha256="", etag=""), (100, DIGEST), [], "neither"),
    "only the sidecar knows the digest, no ETag": (60, sidecar(etag=""), (100, ""), [], "neither"),
    "another digest": (60, sidecar(sha256=OTHER), (100, DIGEST), [], "another digest"),
    "a digest that is no text": (60, sidecar(sha256=[1]), (100, DIGEST), [], "another digest"),
    "another size": (60, sidecar(size=101), (100, DIGEST), [], "another size"),
    "a size that is text": (60, sidecar(size="100"), (100, DIGEST), [], "another size"),
    "no sidecar": (60, None, (100, DIGEST), [], "no sidecar"),
    "an empty sidecar": (60, {}, (100, DIGEST), [], "neither"),
    "nothing in .part": (0, sidecar(), (100, DIGEST), [], ""), "nothing at all": (0, None, (100, DIGEST), [], ""),
    "every byte": (100, sidecar(), (100, DIGEST), [(0, 100)], ""),
    "one byte too many": (101, sidecar(), (100, DIGEST), [], "longer"),
    "too many by the sidecar's word": (101, sidecar(), (None, DIGEST), [], "longer"),
    "a sidecar's size that is no number": (60, sidecar(size={}), (None, DIGEST), KEPT, ""),
    "pieces": (60, sidecar(done=[[0, 10], [20, 60]]), (100, DIGEST), [(0, 10), (20, 60)], ""),
    "pieces behind the end of .part": (60, sidecar(done=[[0, 10], [50, 100]]), (100, DIGEST), [(0, 10), (50, 60)], ""),
    "no piece yet": (60, sidecar(done=[]), (100, DIGEST), [], ""),
    "pieces that overlap": (60, sidecar(done=[[0, 20], [10, 60]]), (100, DIGEST), [], ""),
    "pieces that are none": (60, sidecar(done=None), (100, DIGEST), [], ""),
    "pieces of another digest": (60, sidecar(done=[[0, 60]], sha256=OTHER), (100, DIGEST), [], "another digest"),
}


@pytest.mark.parametrize("case", RESUMES)
def test_what_a_part_is_good_for(case):
    part_bytes, facts, (size, digest), kept, why = RESUMES[case]
    spans, reason = decide_resume(part_bytes, facts, Expected(size, digest))
    assert spans == kept
    assert why in reason
    assert (reason == "") == (why == "")


# ---- what to do with an answer ---------------------------------------------------------------------

def expected(size=100, etag='"v1"', digest=DIGEST):
    return Expected(size, digest, etag)


def answer(content_range=None, **fields):
    head = {"content-range": content_range, "etag": '"v1"', **{name.replace("_", "-"): fields[name] for name in fields}}
    return {name: value for name, value in head.items() if value is not None}


WHOLE, REST, PIECE = (0, None), (40, None), (40, 60)
ANSWERS = {  # what was asked for, what is expected, status, head: action, start, length, total
    "200 to the whole": (WHOLE, expected(), 200, answer(content_length="100"), "take", 0, 100, 100),
    "200 to the whole, chunked": (WHOLE, expected(), 200, answer(), "take", 0, None, None),
    "200 to the whole, size unknown": (WHOLE, expected(None), 200, answer(content_length="7"), "take", 0, 7, 7),
    "200 to the whole, another size": (WHOLE, expected(), 200, answer(content_length="101"), "fail", 0, None, None),
    "200 to the rest": (REST, expected(), 200, answer(content_length="100"), "take", 0, 100, 100),
    "200 to the rest, another version": (REST, expected(), 200, answer(etag='"v2"'), "take", 0, None, None),
    "200 to the rest, a length that is none": (
        REST, expected(), 200, answer(content_length="1e2"), "take", 0, None, None),
    "200 encoded": (WHOLE, expected(), 200, answer(content_encoding="gzip"), "fail", 0, None, None),
    "200 encoded as itself": (WHOLE, expected(), 200, answer(content_encoding=" IDENTITY"), "take", 0, None, None),
    "206 to the whole": (WHOLE, expected(), 206, answer("bytes 0-99/100"), "fail", 0, None, None),
    "206 to the rest": (REST, expected(), 206, answer("bytes 40-99/100"), "take", 40, 60, 100),
    "206 to the rest, a slice": (REST, expected(), 206, answer("bytes 40-49/100"), "take", 40, 10, 100),
    "206 to the rest, total unknown": (REST, expected(), 206, answer("bytes 40-99/*"), "take", 40, 60, None),
    "206 to the rest, size unknown": (REST, expected(None), 206, answer("bytes 40-99/100"), "take", 40, 60, 100),
    "206 to the rest, nothing known": (REST, expected(None), 206, answer("bytes 40-99/*"), "take", 40, 60, None),
    "206 to the rest, no ETag": (REST, expected(), 206, answer("bytes 40-99/100", etag=None), "take", 40, 60, 100),
    "206 to the rest, no ETag and no digest": (
        REST, expected(digest=""), 206, answer("bytes 40-99/100", etag=None), "restart", 0, None, None),
    "206 to the rest, first ETag": (REST, expected(etag=""), 206, answer("bytes 40-99/100"), "take", 40, 60, 100),
    "206 to the rest, another ETag": (
        REST, expected(), 206, answer("bytes 40-99/100", etag='"v2"'), "restart", 0, None, None),
    "206 to the rest, weak ETag": (
        REST, expected(), 206, answer("bytes 40-99/100", etag='W/"v1"'), "restart", 0, None, None),
    "206 from later": (REST, expected(), 206, answer("bytes 41-99/100"), "restart", 0, None, None),
    "206 from earlier": (REST, expected(), 206, answer("bytes 0-99/100"), "restart", 0, None, None),
    "206 with another total": (REST, expected(), 206, answer("bytes 40-99/200"), "restart", 0, None, None),
    "206 that goes on after the end": (REST, expected(), 206, answer("bytes 40-100/*"), "restart", 0, None, None),
    "206 without a range": (REST, expected(), 206, answer(), "restart", 0, None, None),
    "206 with a range that is none": (REST, expected(), 206, answer("bytes 40-"), "restart", 0, None, None),
    "206 with several parts": (
        REST, expected(), 206, answer("bytes 40-99/100", content_type="Multipart/ByteRanges; b=x"), "restart",
        0, None, None),
    "206 with its length": (REST, expected(), 206, answer("bytes 40-99/100", content_length="60"), "take", 40, 60, 100),
    "206 with another length": (
        REST, expected(), 206, answer("bytes 40-99/100", content_length="59"), "restart", 0, None, None),
    "206 encoded": (REST, expected(), 206, answer("bytes 40-99/100", content_encoding="br"), "fail", 0, None, None),
    "206 to a piece": (PIECE, expected(), 206, answer("bytes 40-59/100"), "take", 40, 20, 100),
    "206 to a piece, a slice": (PIECE, expected(), 206, answer("bytes 40-40/100"), "take", 40, 1, 100),
    "206 to a piece, more than it": (PIECE, expected(), 206, answer("bytes 40-60/100"), "restart", 0, None, None),
    "206 to the first piece": ((0, 60), expected(), 206, answer("bytes 0-59/100"), "take", 0, 60, 100),
    "200 to a piece": (PIECE, expected(), 200, answer(content_length="100"), "take", 0, 100, 100),
    "416, all is here": ((100, None), expected(), 416, answer("bytes */100"), "finish", 0, None, 100),
    "416, all is here by our size": ((100, None), expected(), 416, answer(), "finish", 0, None, 100),
    "416, all is here by its size": ((100, None), expected(None), 416, answer("bytes */100"), "finish", 0, None, 100),
    "416, nobody knows the size": ((100, None), expected(None), 416, answer(), "restart", 0, None, None),
    "416 amid it": (REST, expected(), 416, answer("bytes */100"), "restart", 0, None, None),
    "416, another size": ((100, None), expected(), 416, answer("bytes */101"), "restart", 0, None, None),
    "416, it shrank to what is here": (REST, expected(), 416, answer("bytes */40"), "restart", 0, None, None),
    "416 to the whole": (WHOLE, expected(), 416, answer("bytes */0"), "restart", 0, None, None),
    "416 encoded": (REST, expected(), 416, answer(content_encoding="gzip"), "fail", 0, None, None),
    "416 in another unit": ((100, None), expected(None), 416, answer("items */100"), "restart", 0, None, None),
    "200 to all but the first byte": ((1, None), expected(), 206, answer("bytes 1-99/100"), "take", 1, 99, 100),
    "200 with an empty coding": (WHOLE, expected(), 200, answer(content_encoding=""), "take", 0, None, None),
    "204": (REST, expected(), 204, answer(), "fail", 0, None, None),
}


@pytest.mark.parametrize("case", ANSWERS)
def test_what_to_do_with_an_answer(case):
    (start, end), wanted, status, head, *plan = ANSWERS[case]
    decided = decide_answer(start, end, wanted, status, head)
    assert [decided.action, decided.start, decided.length, decided.total] == plan
    # A person is told why it does not simply go on.
    assert bool(decided.reason) == (decided.action != "take" or (status == 200 and (start, end) != WHOLE))


def test_answers_by_chance_never_put_bytes_in_a_wrong_place():
    """Whatever a head says: what is taken starts where it was asked for or at zero, and ends within the bundle."""
    ranges = [None, "bytes */100", *(f"bytes {a}-{b}/{c}" for a in (0, 39, 40, 41) for b in (39, 40, 59, 60, 99, 100)
                                     for c in (60, 100, 101, "*"))]
    for seed in range(5000):
        chance = random.Random(seed)
        (start, end), size = chance.choice([WHOLE, REST, PIECE, (0, 60)]), chance.choice([100, 100, None])
        head = answer(chance.choice(ranges), etag=chance.choice(['"v1"', '"v2"', None]),
                      content_length=chance.choice([None, "0", "20", "60", "100", "x"]))
        plan = decide_answer(start, end, expected(size), chance.choice([200, 206, 206, 206, 416, 304]), head)
        if plan.action == "take":
            assert plan.start in (start, 0), seed
            assert plan.length is None or size is None or plan.start + plan.length <= size, seed
            assert plan.start == 0 or head.get("etag") != '"v2"', seed
