"""Contract 4, `download`: what each odd answer leads to, one connection and several, and what lies on disk after it.

Each row of ROWS is one answer of a scripted server (tests/scripted.py). It is given as the answer to `bytes=1000-`,
after a first answer that broke off there; as the very first answer; as every answer from then on; and to one of
several connections. The sections of RFC 9110 that make it right or wrong stand beside it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import random
import shlex
import shutil
from typing import Any, NamedTuple

import pytest

import stella
from scripted import RUN, Kept, Say, Scripted

CONTENT = random.Random(1).randbytes(3000)
OTHER = random.Random(2).randbytes(3000)
WHOLE = "whole"
BROKEN = Say(cut=1000)
QUICK = ("--retry-delay", "0", "--timeout", "0.3")
KNOWN = pytest.mark.parametrize("digest", [True, False], ids=["digest known", "no digest"])


def on(offset):
    """How the client goes on there."""
    return f'{offset}- if "v1"'


@pytest.fixture(autouse=True)
def synced(monkeypatch):
    """What was flushed to disk, in order: (what, name). The flushing itself would only take time here."""
    events: list[tuple[str, str]] = []
    replace = os.replace

    def fsync(descriptor):
        events.append(("fsync", os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}"))))

    def rename(source, to):
        events.append(("rename", os.path.basename(to)))
        replace(source, to)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", rename)
    return events


@pytest.fixture
def target(tmp_path):
    return tmp_path / "in/bundle"


@pytest.fixture
def get(cli, target):
    """get(server, ...): (how the download of its bundle ended, what lies there)"""

    def run(server, *options, **more):
        done = cli("download", RUN, "--output", target, *QUICK, *options, gw=server, **more)
        assert "Traceback" not in done.err
        return done, Kept(target)

    return run


# ---- odd answers ---------------------------------------------------------------------------------

class Row(NamedTuple):
    """then: the requests after the odd answer to `bytes=1000-`; first: those after it where it answers the first
    request (None: it is not odd there); ever: the exit code where nothing else is ever answered (None: not tried).
    """

    say: Say
    then: list[str]
    first: list[str] | None = None
    ever: int | None = 21


def part(**fields: str | None) -> Say:
    return Say(head={name.replace("_", "-"): value for name, value in fields.items()})


def interim(status: int, count: int = 1) -> Say:
    return Say(interim=f"HTTP/1.1 {status} Wait\r\nLink: </>; rel=preload\r\n\r\n".encode() * count)


MULTIPART = Say(status=206, head={"Content-Type": "Multipart/byteranges; boundary=x", "Content-Range": None},
                body=b"--x\r\nContent-Range: bytes 1000-2999/3000\r\n\r\n" + CONTENT[1000:] + b"\r\n--x--\r\n")
BAD_CHUNK = Say(raw=b'HTTP/1.1 200 OK\r\nETag: "v1"\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n0\r\n\r\n')
ROWS = {
    # 206: where it starts, ends and what the whole is (14.4); nothing else tells where its bytes belong
    "206 from a later byte": Row(Say(shift=7), [WHOLE], None, 0),
    "206 from an earlier byte": Row(Say(shift=-7), [WHOLE], None, 0),
    "206 whose total changed": Row(Say(total="4000"), [WHOLE], None, 0),
    "206 whose total is unknown": Row(Say(total="*"), [], None, 0),
    "206 in another unit": Row(part(Content_Range="items 1000-2999/3000"), [WHOLE], None, 0),
    "206 without Content-Range": Row(part(Content_Range=None), [WHOLE], None, 0),
    "206 with half a Content-Range": Row(part(Content_Range="bytes 1000-2999"), [WHOLE], None, 0),
    "206 that ends before it starts": Row(part(Content_Range="bytes 1000-999/3000"), [WHOLE], None, 0),
    "206 that ends after the whole": Row(part(Content_Range="bytes 1000-3000/3000"), [WHOLE], None, 0),
    "206 with signs": Row(part(Content_Range="bytes +1000-2999/3000"), [WHOLE], None, 0),
    "206 with a number that has no end": Row(part(Content_Range=f"bytes 1000-2999/{'3' * 5000}"), [WHOLE], None, 0),
    "206 with two Content-Range": Row(
        Say(head={"Content-Range": ("bytes 1000-2999/3000", "bytes 0-1999/3000")}), [WHOLE], None, 0),
    "206 whose length is another": Row(part(Content_Length="1999"), [WHOLE], [WHOLE]),
    "206 with several parts": Row(MULTIPART, [WHOLE], [WHOLE]),
    "206 with several parts and a range": Row(
        part(Content_Type="multipart/byteranges; boundary=x"), [WHOLE], None, 0),
    "206 in slices": Row(Say(slice=500), [on(1500)], None, 0),
    "206 of one byte": Row(Say(slice=1), [on(1001)], None, None),
    # 206: which version it is of (13.1.5, 15.3.7)
    "206 of another version": Row(Say(status=206, content=OTHER, etag='"v2"'), [WHOLE], [WHOLE]),
    "206 whose ETag turned weak": Row(Say(status=206, etag='W/"v1"'), [WHOLE], [WHOLE]),
    "206 without an ETag": Row(part(ETag=None), [], [], 0),
    # the coding: ranges count encoded bytes (8.4, 14.2), and the bundle's digest does not
    "gzip": Row(part(Content_Encoding="gzip"), [on(1000)], [WHOLE]),
    "an unknown coding": Row(part(Content_Encoding="identity, x"), [on(1000)], [WHOLE]),
    "the coding identity": Row(part(Content_Encoding="Identity"), [], [], 0),
    # a 206 that nobody asked for
    "206 at once": Row(Say(status=206), [], [WHOLE], 0),
    # 200 and 416 to a range request (14.2, 15.5.17)
    "200": Row(Say(status=200), [], None, 0),
    "200 of another size": Row(Say(status=200, content=CONTENT + b"x"), [on(1000)], [WHOLE]),
    "200 cut short": Row(Say(status=200, cut=400), [on(400)], [on(400)]),
    "416 without a size": Row(Say(status=416, head={"Content-Range": None}), [WHOLE], [WHOLE]),
    "416 with the size": Row(Say(status=416), [WHOLE], [WHOLE]),
    "416 with another size": Row(Say(status=416, content=b"x" * 1000), [WHOLE], [WHOLE]),
    "416 with words": Row(Say(status=416, head={"Content-Range": "bytes */many"}), [WHOLE], [WHOLE]),
    # framing (9112 6): cut bodies, and longer ones
    "cut": Row(Say(cut=300), [on(1300)], [on(300)]),
    "cut before its first byte": Row(Say(cut=0), [on(1000)], [WHOLE]),
    "reset": Row(Say(reset=300), [on(1300)], [on(300)]),
    "silent": Row(Say(silence=300), [on(1300)], [on(300)]),
    "chunks": Row(Say(framing="chunked"), [], [], 0),
    "chunks cut short": Row(Say(framing="chunked", cut=300), [on(1300)], [on(300)]),
    "chunks without end after the last byte": Row(Say(framing="endless"), [], [], 0),
    "a chunk of negative size": Row(BAD_CHUNK, [on(1000)], [WHOLE]),
    "no length": Row(Say(framing="close"), [], [], 0),
    "no length and cut": Row(Say(framing="close", cut=300), [on(1300)], [on(300)]),
    "bytes after the promised length": Row(Say(extra=b"more"), [], [], 0),
    "the length twice": Row(Say(head={"Content-Length": ("2000", "2000")}), [], None, None),
    # below and before the answer
    "closed without an answer": Row(Say(raw=b""), [on(1000)], [WHOLE]),
    "reset without an answer": Row(Say(raw=b"", reset=0), [on(1000)], [WHOLE]),
    "no HTTP": Row(Say(raw=b"SSH-2.0-OpenSSH_9.9\r\n\r\n"), [on(1000)], [WHOLE]),
    "half a head": Row(Say(raw=b"HTTP/1.1 206 Partial\r\nETag: "), [on(1000)], [WHOLE]),
    "103 before it": Row(interim(103), [], [], 0),
    "many 100 before it": Row(interim(100, 5), [], [], 0),
    "103 without end": Row(interim(103, 40), [on(1000)], [WHOLE]),
    # errors that pass (contract 2)
    **{f"{status}": Row(Say(status=status), [on(1000)], [WHOLE]) for status in (408, 500, 502, 503, 504)},
    "429 of a proxy": Row(Say(status=429, body=b"<html>slow down"), [on(1000)], [WHOLE]),
}


@KNOWN
@pytest.mark.parametrize("name", ROWS)
def test_odd_answer_in_the_middle(get, name, digest):
    row = ROWS[name]
    with Scripted(CONTENT, BROKEN, row.say, digest=digest) as server:
        done, kept = get(server)
    assert (done.code, kept.names, kept.target == CONTENT) == (0, ["bundle"], True), done
    then = [WHOLE] if name == "206 without an ETag" and not digest else row.then  # nothing ties it to what is here
    assert server.asked == [WHOLE, on(1000), *then]
    assert ("no digest of the bundle is known" in done.err) == (not digest)


@KNOWN
@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if row.first is not None])
def test_odd_answer_first(get, name, digest):
    row = ROWS[name]
    with Scripted(CONTENT, row.say, digest=digest) as server:
        done, kept = get(server)
    assert (done.code, kept.names, kept.target == CONTENT) == (0, ["bundle"], True), done
    assert server.asked == [WHOLE, *row.first]


@KNOWN
@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if row.ever is not None])
def test_odd_answer_for_ever(get, name, digest):
    """It ends after --retries, without the target, and a better day's --resume completes."""
    row = ROWS[name]
    with Scripted(CONTENT, BROKEN, after=row.say, digest=digest) as server:
        done, kept = get(server, "--retries", "3")
        assert done.code == row.ever, done
        assert len(server.asked) <= 7
        if row.ever:
            assert kept.target is None
            assert kept.names in ([], ["bundle.part", "bundle.part.json"])
            assert CONTENT.startswith(kept.part or b"")
            server.asked.clear()
            server.after = Say()
            done, kept = get(server, "--resume")
            assert (done.code, len(server.asked)) == (0, 1), done
    assert (kept.names, kept.target == CONTENT) == (["bundle"], True)


# ---- entity tags, sizes, digests -----------------------------------------------------------------

# The ETag of an answer that broke off at byte 1000: how the next one is asked for where the digest is known, and
# where it is not (nothing but If-Range could then tell that the rest belongs to the same bundle).
ETAGS = {
    "strong": ('"v1"', '1000- if "v1"', '1000- if "v1"'), "strong with a blank": ('"v 1"', '1000- if "v 1"', None),
    "weak": ('W/"v1"', "1000-", WHOLE), "none": ("", "1000-", WHOLE), "without quotes": ("v1", "1000-", WHOLE),
    "half quoted": ('"v1', "1000-", WHOLE), "quoted in the middle": ('"v"1"', "1000-", WHOLE),
    "two": ('"v1", "v2"', "1000-", WHOLE), "folded": ('"v1\r\n X: y"', None, None),
}


@KNOWN
@pytest.mark.parametrize("case", ETAGS)
def test_if_range_only_with_a_strong_etag(get, case, digest):
    etag, asked, without = ETAGS[case]
    head = {"Last-Modified": "Wed, 29 Oct 2025 13:42:11 GMT"}
    with Scripted(CONTENT, BROKEN, etag=etag, digest=digest, head=head) as server:
        done, kept = get(server)
    assert (done.code, kept.names, kept.target == CONTENT) == (0, ["bundle"], True), done
    if asked is not None:
        assert server.asked == [WHOLE, asked if digest else without or asked]
    assert all("x" not in seen.headers for seen in server.seen)  # a header of the server's is none of ours


NO_SIZE = {  # the run says no size, and the first answer breaks off: what the other answers say counts
    "Content-Length": ([BROKEN], 0, [on(1000)]),
    "Content-Length, then another total": ([BROKEN, Say(total="4000")], 0, [on(1000), WHOLE]),
    "chunks": ([Say(framing="chunked", cut=1000)], 0, [on(1000)]),
    # a part of an unknown whole may be a slice: only the 416 behind it tells the end
    "chunks, then no total": (
        [Say(framing="chunked", cut=1000), Say(framing="chunked", total="*")], 0, [on(1000), on(3000)]),
    "chunks that never end": ([Say(status=200, framing="chunked", cut=1000)] * 6, 21, [on(1000)] * 5),
    "the bundle grows to another": ([BROKEN, Say(status=200, content=CONTENT + b"x")], 0, [on(1000)]),
}


@KNOWN
@pytest.mark.parametrize("case", NO_SIZE)
def test_size_that_only_the_answers_tell(get, case, digest):
    script, code, asked = NO_SIZE[case]
    content = CONTENT + b"x" if "grows" in case else CONTENT
    with Scripted(content, *script, size=False, digest=digest) as server:
        done, kept = get(server)
    assert (done.code, kept.target) == (code, None if code else content), done
    assert server.asked == [WHOLE, *asked]


def sha256(data: bytes, prefix: str = "sha256:") -> str:
    return prefix + hashlib.sha256(data).hexdigest()


def repr_digest(data: bytes, name: str = "sha-256") -> str:
    return f"{name}=:{base64.b64encode(hashlib.sha256(data).digest()).decode()}:"


RIGHT, WRONG = sha256(CONTENT), sha256(OTHER)
DIGESTS: dict[str, tuple[Any, dict[str, str], int, bool]] = {  # run's, headers, exit code, whether one is known
    "run's": (RIGHT, {}, 0, True), "run's in bare capitals": (RIGHT[7:].upper(), {}, 0, True),
    "run's, wrong": (WRONG, {}, 20, True), "run's wrong, header's right": (WRONG, {"X-Export-Digest": RIGHT}, 20, True),
    "header's": (None, {"X-Export-Digest": RIGHT}, 0, True),
    "header's, wrong": (None, {"X-Export-Digest": WRONG}, 20, True),
    "Repr-Digest": (None, {"Repr-Digest": repr_digest(CONTENT)}, 0, True),
    "Repr-Digest, wrong": (None, {"Repr-Digest": repr_digest(OTHER)}, 20, True),
    "Repr-Digest among others": (None, {"Repr-Digest": "sha-512=:AAAA:, " + repr_digest(OTHER)}, 20, True),
    "both headers": (None, {"X-Export-Digest": RIGHT, "Repr-Digest": repr_digest(OTHER)}, 0, True),
    "none": (None, {}, 0, False), "run's of another kind": ("sha512:" + "0" * 128, {}, 0, False),
    "run's, no text": ([RIGHT], {}, 0, False), "run's, one digit short": (RIGHT[:-1], {}, 0, False),
    "Repr-Digest of another kind": (None, {"Repr-Digest": repr_digest(OTHER, "md5")}, 0, False),
    "header's, no digest": (None, {"X-Export-Digest": "sha256:?", "Repr-Digest": "sha-256=?"}, 0, False),
    "of the encoding": (None, {"Content-Digest": repr_digest(OTHER)}, 0, False),
}


@pytest.mark.parametrize("cut", [False, True], ids=["at once", "in two answers"])
@pytest.mark.parametrize("case", DIGESTS)
def test_which_digest_counts(get, case, cut):
    stated, headers, code, known = DIGESTS[case]
    with Scripted(CONTENT, *([BROKEN] if cut else []), head=headers) as server:
        server.run["bundle"]["sha256"] = stated
        done, kept = get(server)
    assert done.code == code, done
    assert (kept.names, kept.target) == ((["bundle"], CONTENT) if code == 0 else ([], None))
    assert ("no digest of the bundle is known" in done.err) == (not known)
    # Bytes put together from two answers get one more chance, from zero.
    assert server.asked == [WHOLE, *([on(1000)] if cut else []), *([WHOLE] if cut and code else [])]
    if code == 0:
        assert done.json()["sha256"] == RIGHT[7:]


SIZES = {"smaller": 2999, "larger": 3001, "nothing": 0}


@KNOWN
@pytest.mark.parametrize("framing", ["", "close", "chunked"])
@pytest.mark.parametrize("case", SIZES)
def test_a_body_of_another_size_than_the_runs_is_no_bundle(get, case, framing, digest):
    with Scripted(CONTENT, after=Say(framing=framing), digest=digest) as server:
        server.run["bundle"]["size"] = SIZES[case]
        done, kept = get(server)
    assert done.code in (20, 21), done
    assert kept.target is None


@KNOWN
def test_an_empty_bundle_is_a_bundle(get, digest):
    with Scripted(b"", digest=digest) as server:
        done, kept = get(server)
    assert (done.code, kept.names, kept.target) == (0, ["bundle"], b""), done


# ---- errors --------------------------------------------------------------------------------------

ERRORS = {
    "400": (Say(status=400), 10), "401": (Say(status=401), 30), "403": (Say(status=403), 11),
    "404": (Say(status=404), 11), "409": (Say(status=409), 12), "410": (Say(status=410), 11),
    "200 with nothing to it (204)": (Say(status=204), 1), "202": (Say(status=202), 1), "304": (Say(status=304), 1),
    "300": (Say(status=300), 1), "a redirect in a circle": (Say(status=302, head={"Location": "?"}), 1),
    "a redirect to nowhere": (Say(status=302), 1), "501": (Say(status=501), 1),
    "404 with a code": (Say(status=404, body=b'{"code": "ERR_EXPORT_002"}'), 11),
    "503 with a code": (Say(status=503, body=b'{"code": "ERR_EXPORT_003"}'), 12),
    "500 with a code": (Say(status=500, body=b'{"code": "ERR_EXPORT_004"}'), 13),
    "429 with a code": (Say(status=429, body=b'{"code": "ERR_EXPORT_QUOTA"}'), 12),
}


@pytest.mark.parametrize("case", ERRORS)
def test_error_that_does_not_pass_ends_it_at_once_and_keeps_what_is_there(get, case):
    say, code = ERRORS[case]
    with Scripted(CONTENT, BROKEN, after=say) as server:
        done, kept = get(server)
        assert (done.code, kept.names) == (code, ["bundle.part", "bundle.part.json"]), done
        assert kept.part == CONTENT[:1000]
        assert set(server.asked) == {WHOLE, on(1000)}
        assert len(server.asked) == (7 if "redirect" in case else 2)
        server.after = Say()
        done, kept = get(server, "--resume")
        assert (done.code, kept.names, kept.target == CONTENT) == (0, ["bundle"], True), done
        assert server.asked[-1] == on(1000)


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(("after", "least", "most"), [("7", 7, 7), ("100000", 120, 120), ("soon", 0, 0), ("-7", 0, 0)])
def test_retry_after_is_honoured_up_to_two_minutes(get, clock, status, after, least, most):
    with Scripted(CONTENT, Say(status=status, head={"Retry-After": after})) as server:
        done, _ = get(server)
    assert (done.code, f"status {status}; asking again in {least} s" in done.err) == (0, least > 0), done
    assert least <= clock.slept[0] <= most


def test_backoff_grows_and_retries_are_counted(cli, target, clock, monkeypatch):
    monkeypatch.setattr(stella.Clock, "random", lambda _: 1.0)
    with Scripted(CONTENT, after=Say(status=503)) as server:
        done = cli("download", RUN, "--output", target, "--retries", "4", "--retry-delay", "1", gw=server)
    assert (done.code, len(server.asked), clock.slept) == (21, 5, [1, 2, 4, 8])


# ---- going on with what an earlier invocation left -----------------------------------------------

@pytest.fixture
def left(get):
    """left(server): the first 1000 bytes, as a broken transfer of that server leaves them."""

    def run(server, *options):
        server.script, server.after = [BROKEN], Say(status=503)
        done, kept = get(server, "--retries", "1", *options)
        assert (done.code, kept.names) == (21, ["bundle.part", "bundle.part.json"]), done
        assert kept.part == CONTENT[:1000]
        server.asked.clear()
        server.after = Say()
        return done

    return run


def edit(**fields: Any) -> Any:
    """A sidecar with these fields set, or removed with ...."""
    return lambda facts: {name: value for name, value in {**facts, **fields}.items() if value is not ...}


# What became of the sidecar: the first request of --resume where the digest is known, and where not.
SIDECARS: dict[str, tuple[Any, str, str]] = {
    "as it was": (edit(), on(1000), on(1000)),
    "another size": (edit(size=4000), WHOLE, WHOLE),
    "another digest": (edit(sha256="0" * 64), WHOLE, on(1000)),
    "another ETag": (edit(etag='"v0"'), '1000- if "v0"', '1000- if "v0"'),
    "no ETag": (edit(etag=...), "1000-", WHOLE), "an empty ETag": (edit(etag=""), "1000-", WHOLE),
    "a weak ETag": (edit(etag='W/"v1"'), "1000-", WHOLE),
    "an ETag that holds a header": (edit(etag='"v1"\r\nX: "y"'), "1000-", WHOLE),
    "an ETag that is no header": (edit(etag='"\u2603"'), "1000-", WHOLE),
    "an ETag that is no text": (edit(etag=["v1"]), "1000-", WHOLE),
    "no size": (edit(size=...), on(1000), on(1000)),
    "a size that is text": (edit(size="3000"), WHOLE, WHOLE),
    "fields of a later version": (edit(version=99, colour="blue"), on(1000), on(1000)),
    "not JSON": (b"{", WHOLE, WHOLE), "empty": (b"", WHOLE, WHOLE), "a list": (b"[]", WHOLE, WHOLE),
    "not UTF-8": (b"\xff{}", WHOLE, WHOLE), "cut off": (lambda facts: json.dumps(facts)[:-1].encode(), WHOLE, WHOLE),
    "nested without end": (b'{"a":' * 5000, WHOLE, WHOLE), "an endless number": (b"1" * 100000, WHOLE, WHOLE),
    "gone": (None, WHOLE, WHOLE),
}


@KNOWN
@pytest.mark.parametrize("case", SIDECARS)
def test_resume_trusts_a_part_only_with_a_sidecar_that_fits(get, left, target, case, digest):
    change, asked, without = SIDECARS[case]
    sidecar = target.with_name("bundle.part.json")
    with Scripted(CONTENT, digest=digest) as server:
        left(server)
        facts = Kept(target).facts
        assert facts["size"] == 3000
        sidecar.unlink()
        if change is not None:
            changed = change(facts) if callable(change) else change
            sidecar.write_bytes(changed if isinstance(changed, bytes) else json.dumps(changed).encode())
        done, kept = get(server, "--resume")
    assert (done.code, kept.names, kept.target == CONTENT) == (0, ["bundle"], True), done
    assert server.asked[0] == (asked if digest else without)
    assert server.asked[1:] in ([], [WHOLE])  # what the sidecar said need not be what the server says
    assert "starting again from zero" in done.err or server.asked[0] != WHOLE
    assert all("x" not in seen.headers for seen in server.seen)


# What became of .part: the requests of --resume.
PARTS = {
    "as it was": (CONTENT[:1000], [on(1000)]), "shorter": (CONTENT[:10], [on(10)]), "empty": (b"", [WHOLE]),
    "longer": (CONTENT[:1700], [on(1700)]), "all but one byte": (CONTENT[:-1], [on(2999)]),
    "longer than the bundle": (CONTENT + b"x", [WHOLE]), "corrupt": (OTHER[:1000], [on(1000), WHOLE]),
    "corrupt in one bit": (CONTENT[:999] + bytes([CONTENT[999] ^ 1]), [on(1000), WHOLE]),
    "zeros": (bytes(1000), [on(1000), WHOLE]),
}


@pytest.mark.parametrize("case", PARTS)
def test_resume_of_a_part_that_changed(get, left, target, case):
    changed, asked = PARTS[case]
    with Scripted(CONTENT) as server:
        left(server)
        target.with_name("bundle.part").write_bytes(changed)
        done, kept = get(server, "--resume")
    assert (done.code, kept.names, kept.target == CONTENT) == (0, ["bundle"], True), done
    assert server.asked == asked


@pytest.mark.parametrize(("case", "asked"), [("right", []), ("corrupt", [WHOLE])])
def test_resume_of_a_part_with_every_byte(get, left, target, case, asked):
    """A kill between the last byte and the rename; 416 to `bytes=3000-` says the same (15.5.17)."""
    with Scripted(CONTENT) as server:
        left(server)
        target.with_name("bundle.part").write_bytes(CONTENT if case == "right" else OTHER)
        done, kept = get(server, "--resume")
    assert (done.code, kept.names, kept.target == CONTENT) == (0, ["bundle"], True), done
    assert server.asked in (asked, [on(3000), *asked])


@pytest.mark.parametrize("there", [None, b"what was here before"], ids=["nothing there", "an older file there"])
def test_wrong_bytes_for_ever_are_asked_for_once_more_from_zero_and_then_refused(get, left, target, there):
    with Scripted(CONTENT) as server:
        left(server)
        if there is not None:
            target.write_bytes(there)
        server.after = Say(flip=2500)
        done, kept = get(server, "--resume")
    assert (done.code, server.asked) == (20, [on(1000), WHOLE]), done
    assert (kept.names, kept.target) == ([] if there is None else ["bundle"], there)
    assert RIGHT[7:] in done.err
    assert kept.part is kept.sidecar is None


def test_without_resume_an_old_part_is_discarded(get, left):
    with Scripted(CONTENT) as server:
        left(server)
        done, kept = get(server)
    assert (done.code, kept.names, server.asked) == (0, ["bundle"], [WHOLE]), done


@KNOWN
@pytest.mark.parametrize("etag", ['"v2"', '"v1"', ""], ids=["another ETag", "the same ETag", "no ETag"])
def test_bundle_that_changes_between_attempts(get, left, digest, etag):
    """The run and its digest have changed, too. Where nothing tells, an ETag that lies is the server's fault."""
    with Scripted(CONTENT, digest=digest) as server:
        left(server)
        server.content, server.etag = OTHER, etag
        if digest:
            server.run["bundle"]["sha256"] = WRONG[7:]
        done, kept = get(server, "--resume")
    assert (done.code, kept.names) == (0, ["bundle"]), done
    if digest or etag != '"v1"':
        assert kept.target == OTHER
    assert server.asked == ([WHOLE] if digest else [on(1000)])


def test_part_without_an_etag_of_another_version_is_not_mixed(get):
    """A server that heeds no If-Range and forgets the ETag of a 206: no digest would tell."""
    with Scripted(CONTENT, BROKEN, digest=False, after=Say(content=OTHER, head={"ETag": None}, etag='"v1"')) as server:
        done, kept = get(server)
    assert (done.code, kept.names, kept.target == OTHER) == (0, ["bundle"], True), done


def test_bundle_that_changes_amid_the_transfer_is_not_mixed(get):
    """The run still has the digest of the first one: what comes now is never right."""
    changed = Say(content=OTHER, etag='"v2"')
    with Scripted(CONTENT, BROKEN, after=changed) as server:
        done, kept = get(server)
    assert (done.code, kept.names) == (20, []), done
    assert server.asked in ([WHOLE, on(1000)], [WHOLE, on(1000), WHOLE])


def test_digest_of_an_earlier_answer_does_not_outlive_its_bytes(get, left):
    """The run says no digest; the first version's came in a header, and so does the second's."""
    with Scripted(CONTENT, digest=False, head={"X-Export-Digest": RIGHT}) as server:
        left(server)
        server.content, server.etag, server.head = OTHER, '"v2"', {"X-Export-Digest": WRONG}
        done, kept = get(server, "--resume")
    assert (done.code, kept.names, kept.target == OTHER) == (0, ["bundle"], True), done


def test_exit_21_says_what_is_there_and_the_command_that_goes_on(cli, tmp_path):
    target = tmp_path / "a b'\u00e9" / "x;y.tar"
    with Scripted(CONTENT, BROKEN, after=Say(status=503)) as server:
        done = cli("download", RUN, "--output", target, *QUICK, gw=server)
        assert done.code == 21, done
        assert "1000 B are in" in done.err
        command = done.err.partition("go on with: ")[2].splitlines()[0]
        server.after = Say()
        words = shlex.split(command)
        assert words[:3] == ["stella", "export", "download"]
        done = cli(*words[1:], whole=True, gw=server)
    assert (done.code, server.asked[-1], Kept(target).target == CONTENT) == (0, on(1000), True), done


# ---- what is at FILE, and where FILE is ----------------------------------------------------------

@pytest.mark.parametrize("options", [(), ("--resume",)])
def test_file_that_is_right_already_is_not_fetched(get, target, options):
    target.parent.mkdir()
    target.write_bytes(CONTENT)
    with Scripted(CONTENT) as server:
        done, kept = get(server, *options)
    assert (done.code, done.json()["status"], server.asked) == (0, "already complete", []), done
    assert (kept.names, kept.target) == (["bundle"], CONTENT)


@pytest.mark.parametrize(("case", "after", "code"), [
    ("replaced when it is there", Say(), 0), ("kept when the network fails", Say(status=503), 21),
    ("kept when the bundle is gone", Say(status=410), 11), ("kept when the bytes are wrong", Say(flip=5), 20)])
def test_file_with_other_bytes(get, target, case, after, code):
    target.parent.mkdir()
    target.write_bytes(b"old")
    with Scripted(CONTENT, after=after) as server:
        done, kept = get(server)
    assert done.code == code, done
    assert kept.target == (b"old" if code else CONTENT)
    assert kept.names == ["bundle"]


def test_file_of_the_right_size_without_a_digest_is_fetched(get, target):
    target.parent.mkdir()
    target.write_bytes(OTHER)
    with Scripted(CONTENT, digest=False) as server:
        done, kept = get(server)
    assert (done.code, kept.target == CONTENT, server.asked) == (0, True, [WHOLE]), done


PLACES = ["with blanks", "\u00e4\u4e2d\U0001f600", "-dash", "'quoted' \"twice\"", "new\nline", "a/b/c/deep", "x" * 240,
          ".hidden", "%s%n", "~", "trailing "]


@pytest.mark.parametrize("name", PLACES)
def test_names_of_file(cli, tmp_path, monkeypatch, name):
    """Relative to where the command runs; parents are made; what is written has the mode that the umask says."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with Scripted(CONTENT, BROKEN) as server:
        done = cli("download", RUN, f"--output={name}", *QUICK, gw=server)
    assert done.code == 0, done
    target = tmp_path / "here" / name
    assert target.read_bytes() == CONTENT
    assert os.listdir(target.parent) == [target.name]
    assert os.listdir(tmp_path) == ["here"]
    umask = os.umask(0)
    os.umask(umask)
    assert target.stat().st_mode & 0o777 == 0o666 & ~umask


OBSTACLES: dict[str, tuple[str, Any]] = {
    "FILE is a folder": ("bundle", lambda path: path.mkdir()),
    ".part is a folder": ("bundle.part", lambda path: path.mkdir()),
    ".part is a link": ("bundle.part", lambda path: path.symlink_to("victim")),
    ".part is a broken link": ("bundle.part", lambda path: path.symlink_to("nowhere")),
    ".part is a FIFO": ("bundle.part", os.mkfifo),
    ".part is another name of a file": ("bundle.part", lambda path: os.link(path.with_name("victim"), path)),
    "FILE is a link to a folder": ("bundle", lambda path: path.symlink_to(".")),
    "FILE is a FIFO": ("bundle", os.mkfifo), "FILE is a device": ("bundle", lambda path: path.symlink_to("/dev/zero")),
}


@pytest.mark.parametrize("options", [(), ("--resume",)], ids=["", "resume"])
@pytest.mark.parametrize("case", OBSTACLES)
def test_obstacle_is_a_local_error_before_any_byte_and_stays(get, target, case, options):
    name, make = OBSTACLES[case]
    target.parent.mkdir()
    (target.parent / "victim").write_bytes(b"precious")
    make(target.parent / name)
    with Scripted(CONTENT) as server:
        done, kept = get(server, *options)
    assert (done.code, server.asked) == (1, []), done
    assert kept.names == sorted(["victim", name])
    assert (target.parent / "victim").read_bytes() == b"precious"


@pytest.mark.parametrize("case", ["a folder", "a link", "a FIFO"])
def test_sidecar_that_is_no_file_is_never_written_through(get, left, target, case):
    sidecar, victim = target.with_name("bundle.part.json"), target.with_name("victim")
    with Scripted(CONTENT) as server:
        left(server)
        sidecar.unlink()
        victim.write_bytes(b"precious")
        {"a folder": os.mkdir, "a link": lambda path: path.symlink_to("victim"), "a FIFO": os.mkfifo}[case](sidecar)
        done, kept = get(server, "--resume")
    assert (done.code, kept.target) == ((1, None) if case == "a folder" else (0, CONTENT)), done
    assert victim.read_bytes() == b"precious"


@pytest.mark.parametrize("parent", ["a file", "a file further up"])
def test_parent_that_is_a_file_is_a_local_error(get, target, parent):
    target.parent.write_bytes(b"precious")
    path = target / "deeper/bundle" if "further" in parent else target
    with Scripted(CONTENT) as server:
        done, _ = get(server, f"--output={path}")
    assert (done.code, server.asked) == (1, []), done
    assert target.parent.read_bytes() == b"precious"


@pytest.mark.parametrize(("path", "words"), [("/dev/stderr", "--output -"), ("/proc/self/mem", "cannot read")],
                         ids=["open already", "cannot be read"])
def test_file_of_the_system_is_a_local_error(get, path, words):
    with Scripted(CONTENT) as server:
        done, _ = get(server, f"--output={path}")
    assert (done.code, server.asked) == (1, []), done
    assert words in done.err


def test_file_that_is_a_link_is_written_where_it_leads(get, target, tmp_path):
    """Whoever made `latest -> disk2/bundle` wants the bytes on that disk."""
    (tmp_path / "disk2").mkdir()
    target.parent.mkdir()
    target.symlink_to("../disk2/bundle")
    with Scripted(CONTENT) as server:
        done, _ = get(server)
    assert done.code == 0, done
    assert os.readlink(target) == "../disk2/bundle"
    assert (os.listdir(tmp_path / "disk2"), target.read_bytes()) == (["bundle"], CONTENT)


# What the run calls its bundle: the name that is written, in the folder where the command runs. None: it must be said.
NAMES = {
    "plain": ("export.tar.zst", "export.tar.zst"), "up": ("../up.tar", "up.tar"), "far up": ("../" * 20 + "etc/x", "x"),
    "absolute": ("/tmp/stella-must-not-be.tar", "stella-must-not-be.tar"), "backslashes": ("..\\w\\n.tar", "n.tar"),
    "drive": ("C:n.tar", "Cn.tar"), "hidden": (".bashrc", "bashrc"), "an option": ("-rf", "rf"),
    "escapes": ("a\x1b[31mb\r\n.tar", "a[31mb.tar"), "right to left": ("a\u202ezst.exe", "azst.exe"),
    "a device": ("NUL.tar", "_NUL.tar"), "letters": ("\u00e4 \u4e2d.tar", "\u00e4 \u4e2d.tar"),
    "long": ("n" * 300 + ".tar", "n" * 200), "NUL byte": ("a\0b.tar", "ab.tar"), "our own": ("b.part", "b.part"),
    "a folder": ("a/", None), "dots": ("..", None), "one dot": (".", None), "nothing": ("", None), "no text": (7, None),
}


@pytest.mark.parametrize("case", NAMES)
def test_default_name_is_the_bundles_base_name(cli, tmp_path, monkeypatch, case):
    name, written = NAMES[case]
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with Scripted(CONTENT, name=name) as server:
        done = cli("download", RUN, *QUICK, gw=server)
    assert done.code == (0 if written else 2), done
    assert os.listdir() == ([written] if written else [])
    assert os.listdir(tmp_path) == ["here"]
    assert not os.path.exists("/tmp/stella-must-not-be.tar")
    assert len(server.asked) == (1 if written else 0)


@pytest.mark.parametrize("there", ["a file", "a link", "a folder"])
def test_name_of_the_servers_takes_no_files_place(cli, tmp_path, monkeypatch, there):
    """As curl -J: else a gateway could replace what lies in the folder where it is run."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "far").write_bytes(b"mine")
    if there == "a folder":
        os.mkdir("export.zip")
    elif there == "a link":
        os.symlink("../far", "export.zip")
    else:
        shutil.copy("../far", "export.zip")
    with Scripted(CONTENT, name="export.zip") as server:
        done = cli("download", RUN, *QUICK, gw=server)
        assert (done.code, server.asked, os.listdir()) == (1, [], ["export.zip"]), done
        assert "export.zip is there already" in done.err
        assert (tmp_path / "far").read_bytes() == b"mine"
        done = cli("download", RUN, "--output", "export.zip", *QUICK, gw=server)  # now it is the user's word
    assert done.code == (1 if there == "a folder" else 0)


@pytest.mark.parametrize("name", ["stella.py", "__future__.py", "x.PTH", "a.so"])
def test_name_of_the_servers_is_never_one_that_python_takes_for_code(cli, tmp_path, monkeypatch, name):
    """`from __future__ import annotations` is the first that stella.py does: from the folder where it lies."""
    monkeypatch.chdir(tmp_path)
    with Scripted(CONTENT, name=name) as server:
        assert cli("download", RUN, *QUICK, gw=server).code == 0
    assert os.listdir() == ["_" + name]


def test_own_name_again_is_already_complete(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with Scripted(CONTENT) as server:
        assert cli("download", RUN, *QUICK, gw=server).json()["status"] == "downloaded"
        assert cli("download", RUN, *QUICK, gw=server).json()["status"] == "already complete"
    assert len(server.asked) == 1


def test_no_bundle_to_a_terminal(cli, monkeypatch):
    monkeypatch.setattr(stella.Console, "_is_terminal", staticmethod(lambda stream: True))
    with Scripted(CONTENT) as server:
        done = cli("download", RUN, "--output", "-", *QUICK, gw=server, env={"TERM": "dumb"})
    assert (done.code, server.asked, done.out) == (2, [], ""), done


@pytest.mark.parametrize(("status", "code"), [("pending", 11), ("running", 11), ("failed", 13), ("cancelled", 13),
                                              ("expired", 13), ("succeeded", 1), ("unheard-of", 1)])
def test_run_without_a_bundle(cli, tmp_path, status, code, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with Scripted(CONTENT) as server:
        server.run.update(status=status, bundle=None)
        done = cli("download", RUN, *QUICK, gw=server)
    assert (done.code, server.asked, os.listdir()) == (code, [], []), done


def test_on_disk_before_it_has_its_name_and_the_name_after(get, synced):
    with Scripted(CONTENT, BROKEN) as server:
        get(server)
    last = [event for event in synced if not event[1].endswith(".json")]
    assert last[-3:] == [("fsync", "bundle.part"), ("rename", "bundle"), ("fsync", "in")]
    assert ("rename", "bundle.part.json") in synced[:3]  # the sidecar is replaced, and before the last byte


# ---- what a person and a script see ----------------------------------------------------------------

def test_report_at_the_end(get, target):
    with Scripted(CONTENT) as server:
        done, _ = get(server)
    facts = done.json()
    assert facts.pop("seconds") >= 0
    assert facts == {"runId": RUN, "path": str(target), "size": 3000, "sha256": RIGHT[7:], "status": "downloaded",
                     "source": "gateway"}
    with Scripted(CONTENT) as server:
        done, _ = get(server, "--format", "table")
    assert all(word in done.out for word in (str(target), RIGHT[7:], "2.9 KiB", "already complete"))


STREAMS = {  # `--output -`: script, exit code, requests after the first, bytes on standard output
    "at once": ([], 0, [], CONTENT), "in two answers": ([BROKEN], 0, [on(1000)], CONTENT),
    "an error before the first byte": ([Say(status=503)], 0, [WHOLE], CONTENT),
    "a restart before the first byte": ([Say(status=206)], 0, [WHOLE], CONTENT),
    "a restart after it": ([BROKEN, Say(status=200)], 21, [on(1000)], CONTENT[:1000]),
    "wrong bytes": ([Say(flip=2000)], 20, [], None),
    "wrong bytes in two answers": ([BROKEN, Say(flip=2000)], 20, [on(1000)], None),
}


@pytest.mark.parametrize("case", STREAMS)
def test_to_standard_output(cli, tmp_path, monkeypatch, case):
    script, code, asked, out = STREAMS[case]
    monkeypatch.chdir(tmp_path)
    with Scripted(CONTENT, *script) as server:
        done = cli("download", RUN, "--output", "-", *QUICK, gw=server)
    assert (done.code, server.asked[:2]) == (code, [WHOLE, *asked]), done
    assert done.out_bytes == (CONTENT[:2000] + bytes([CONTENT[2000] ^ 1]) + CONTENT[2001:] if out is None else out)
    assert os.listdir() == []


@KNOWN
def test_to_standard_output_without_what_ties_the_rest(cli, digest):
    """No ETag: where no digest is known, nothing could tell that the rest belongs to what has left."""
    with Scripted(CONTENT, BROKEN, etag="", digest=digest) as server:
        done = cli("download", RUN, "--output", "-", *QUICK, gw=server)
    assert (done.code, len(done.out_bytes)) == ((0, 3000) if digest else (21, 1000)), done


# ---- what is here is not given up lightly ----------------------------------------------------------

PORTAL = b"<html>Please accept the terms of this airport." * 60


@pytest.mark.parametrize("body", [PORTAL, PORTAL[:50], b""], ids=["a page", "a short page", "nothing"])
@pytest.mark.parametrize("framing", ["chunked", "close"])
def test_page_of_a_captive_portal_costs_nothing(get, framing, body):
    """A 200 of unknown length that begins otherwise is not the bundle whose digest is known; its ETag is nothing."""
    with Scripted(CONTENT, BROKEN, after=Say(status=200, framing=framing, body=body, etag='"portal"')) as server:
        done, kept = get(server, "--retries", "2")
        assert server.asked == [WHOLE, on(1000), on(1000)]
        assert (done.code, kept.part == CONTENT[:1000]) == (21, True), done
        server.after = Say()
        done, kept = get(server, "--resume")
    assert (done.code, kept.target == CONTENT, server.asked[-1]) == (0, True, on(1000)), done


@pytest.mark.parametrize("framing", ["chunked", "close"])
@pytest.mark.parametrize("first", [Say(status=200, body=PORTAL[:200], framing="chunked", etag=""),
                                   Say(flip=5, cut=1000)], ids=["a portal's page", "a wrong byte"])
def test_part_that_is_wrong_itself_is_given_up_for_a_whole_answer(get, framing, first):
    """A server without ranges and lengths: the fault is not always the answer's."""
    with Scripted(CONTENT, first, after=Say(status=200, framing=framing), etag="") as server:
        done, kept = get(server)
    assert (done.code, kept.names, kept.target == CONTENT) == (0, ["bundle"], True), done
    assert server.asked[0] == WHOLE
    assert len(server.asked) <= 3


@pytest.mark.parametrize("digest", [True, False], ids=["digest known", "no digest"])
@pytest.mark.parametrize("length", [True, False], ids=["with a length", "without"])
def test_page_of_a_captive_portal_where_no_size_is_known(get, digest, length):
    """Without a digest, what is smaller and says so may be another version of the bundle."""
    page = Say(status=200, body=PORTAL[:50], etag="", framing="" if length else "chunked")
    with Scripted(CONTENT, Say(framing="chunked", cut=1000), page, size=False, digest=digest) as server:
        done, kept = get(server)
    assert done.code == 0, done
    assert kept.target == (PORTAL[:50] if length and not digest else CONTENT)
    assert server.asked[:3] == [WHOLE, on(1000), *([] if length and not digest else [on(1000)])]


@KNOWN
@pytest.mark.parametrize("framing", ["chunked", "close"])
@pytest.mark.parametrize("connections", ["1", "4"])
def test_server_without_ranges_and_lengths_starts_again_and_gets_there(get, framing, digest, connections):
    with Scripted(CONTENT, BROKEN, after=Say(status=200, framing=framing), digest=digest) as server:
        done, kept = get(server, "--connections", connections)
    assert (done.code, kept.names, kept.target == CONTENT) == (0, ["bundle"], True), done
    assert server.asked == [WHOLE, on(1000)]


def test_server_that_starts_again_for_ever_and_breaks_off_at_varying_places_is_no_endless_loop(get, monkeypatch):
    """Bytes that are fetched again are no progress."""
    monkeypatch.setattr(stella, "CHUNK_BYTES", 200)
    says = [Say(status=200, cut=cut) for cut in (900, 2900, 800, 1800, 2900, 1000, 2000) * 20]
    with Scripted(CONTENT, *says, etag="") as server:
        done, kept = get(server, "--retries", "4")
    assert (done.code, kept.target) == (21, None), done
    assert len(server.asked) <= 2 + 5


def test_link_that_breaks_every_so_often_ends_no_long_transfer(get, monkeypatch):
    monkeypatch.setattr(stella, "CHUNK_BYTES", 100)
    with Scripted(CONTENT, *[Say(cut=120)] * 20) as server:
        done, kept = get(server, "--retries", "1")
    assert (done.code, kept.target == CONTENT, len(server.asked)) == (0, True, 21), done


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_error_that_does_not_pass_says_what_is_there_and_how_to_go_on(get, status):
    with Scripted(CONTENT, BROKEN, after=Say(status=status)) as server:
        done, _ = get(server)
    assert done.code == (30 if status == 401 else 11), done
    assert "1000 B are in" in done.err
    assert f"go on with: stella export download {RUN}" in done.err
    assert ("get a new token" in done.err) == (status == 401)


@pytest.mark.parametrize("link", [os.symlink, os.link], ids=["a link", "another name"])
def test_sidecar_that_is_another_file_is_not_read(get, left, target, link):
    """Were it .part itself, closing it would give up the lock."""
    with Scripted(CONTENT) as server:
        left(server)
        sidecar = target.with_name("bundle.part.json")
        sidecar.rename(target.parent.parent / "elsewhere")
        link(target.parent.parent / "elsewhere", sidecar)
        done, kept = get(server, "--resume")
    assert (done.code, kept.names, kept.target == CONTENT, server.asked) == (0, ["bundle"], True, [WHOLE]), done
    assert "no sidecar that can be read" in done.err


@pytest.mark.parametrize(("case", "after"), [("alone", ["bundle"]), ("beside a part", ["bundle", "bundle.part",
                                                                                  "bundle.part.json"])])
def test_sidecar_that_a_kill_left_beside_the_whole_file_goes(get, target, case, after):
    target.parent.mkdir()
    target.write_bytes(CONTENT)
    target.with_name("bundle.part.json").write_text("{}")
    if "part" in case:
        target.with_name("bundle.part").write_bytes(b"of a bundle to come")
    with Scripted(CONTENT) as server:
        done, kept = get(server)
    assert (done.code, done.json()["status"], kept.names) == (0, "already complete", after), done


def test_on_disk_before_the_sidecar_says_so(get, synced):
    with Scripted(CONTENT, BROKEN, Say(cut=500)) as server:
        get(server)
    names = [name for what, name in synced if what == "rename" or name == "bundle.part"]
    assert names.count("bundle.part.json") == 3
    assert all(names[at - 1] == "bundle.part" for at, name in enumerate(names) if name == "bundle.part.json")
