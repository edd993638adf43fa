"""Documents of every wrong shape: each field of each document as each JSON type, and numbers that break arithmetic.

What must hold: an exit code of the contract and a readable line, never the crash line of `main`, never a hang.
"""

from __future__ import annotations

import copy
import json

import pytest

import stella
from wire import Wire, reply

HUGE = "9" * 400
WRONG = [None, 0, -1, 1.5, "", "text\x1b[31m", [], ["x"], {}, {"a": 1}, True, "HUGE", "DEEP", [[None]], [{"x": None}]]
RUN = {
    "runId": "r1",
    "profileId": "p",
    "status": "succeeded",
    "createdAt": "2025-10-29T13:42:11Z",
    "updatedAt": "2025-10-29T13:42:11Z",
    "startedAt": None,
    "completedAt": "2025-10-29T13:42:11Z",
    "selectors": {"tenants": ["acme"], "timeWindow": {"from": "2025-10-01T00:00:00Z"}},
    "policySnapshotId": "s",
    "options": {"allowEmpty": False},
    "progress": {"percent": 37.5, "phase": "adapter", "processed": 1, "total": 3},
    "bundle": {
        "name": "export.tar",
        "size": 3,
        "sha256": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
        "mediaType": "application/x-tar",
    },
    "distribution": [
        {"type": "http"},
        {"type": "object", "bucket": "b", "key": "k"},
        {"type": "oci", "ref": "127.0.0.1:1/e/a:1", "digest": "sha256:" + "0" * 64},
    ],
    "error": {"code": "ERR_EXPORT_004", "message": "m"},
    "links": {"self": "/x", "events": "/e", "download": "/d"},
}
PROFILE = {
    "profileId": "p",
    "name": "n",
    "kind": "json",
    "variant": "raw",
    "include": ["vex"],
    "policySnapshotMode": "none",
    "distribution": ["http"],
    "retention": "days:14",
    "compression": "zstd",
    "encryption": {"mode": "none"},
    "metadata": {"o": "s"},
    "status": "active",
    "revision": 3,
    "createdAt": "x",
    "updatedAt": "y",
}
PAGE = {"items": [RUN, PROFILE], "nextCursor": None}
ERROR = {
    "code": "ERR_EXPORT_001",
    "message": "m",
    "details": ["a", {"path": "/x", "message": "m"}],
    "traceId": "t",
    "timestamp": "x",
}
EVENT = {
    "percent": 50.0,
    "phase": "p",
    "processed": 1,
    "total": 2,
    "message": "m",
    "error": {"code": "c", "message": "m"},
    "runId": "r1",
}
CODES = set(stella.EXIT_MEANINGS)


def paths(document, head=()):
    """Every place in a document, the document itself first."""
    yield head
    for key in document if isinstance(document, dict) else range(len(document)) if isinstance(document, list) else ():
        yield from paths(document[key], (*head, key))


def mutants(document, step=1):
    """(place, wrong value, document with it there); with a step, one in so many, another at each place."""
    for index, path in enumerate(paths(document)):
        for wrong in WRONG[index % step :: step]:
            changed = copy.deepcopy(document)
            if not path:
                changed = wrong
            else:
                place = changed
                for key in path[:-1]:
                    place = place[key]
                place[path[-1]] = wrong
            yield path, wrong, changed


def text_of(document) -> bytes:
    """JSON; HUGE is a number of 400 digits, DEEP is nested 60 deep."""
    text = json.dumps(document).replace('"HUGE"', HUGE).replace('"DEEP"', "[" * 60 + "1" + "]" * 60)
    return text.encode()


@pytest.fixture(scope="module")
def server():
    with Wire() as running:
        yield running


@pytest.fixture
def judge(cli, server, capsysbinary):
    """judge(answer, words): the command ends as the contract allows; gives the Result."""

    def run(answer, *words):
        server.answer = answer
        env = {"STELLA_SERVER": server.url, "STELLA_TOKEN": "t-oken-t"}
        result = cli(*words, "--retries", "0", "--timeout", "5", env=env)
        assert "unexpected" not in result.err.replace("unexpected answer", ""), result
        assert "Traceback" not in result.err
        assert result.code in CODES, result
        assert "\x1b" not in result.err + result.out
        assert result.code == 0 or result.err.startswith(("stella: ", "r1: ", "warning: ")), result
        assert max(map(len, result.err.splitlines() or [""])) < 3000
        return result

    return run


def sent(document) -> bytes:
    return reply(200, text_of(document), "Content-Type: application/json").replace(b"Connection: close\r\n", b"")


@pytest.mark.parametrize(
    "words",
    [
        ("run", "show", "r1", "--format", "table"),
        ("run", "show", "r1", "--format", "yaml"),
        ("run", "show", "r1"),
        ("run", "cancel", "r1", "--format", "table"),
        ("run", "submit", "p", "--selector", "tenant=a", "--format", "table"),
    ],
    ids=" ".join,
)
def test_a_run_of_any_shape_is_shown(judge, words):
    step = 1 if words[1] == "show" and "table" in words else 5
    for _, _, document in mutants(RUN, step):
        judge(sent(document), *words)


@pytest.mark.parametrize(
    "words",
    [
        ("profile", "show", "p", "--format", "table"),
        ("profile", "archive", "p", "--format", "table"),
        ("profile", "update", "p", "--add-distribution", "oci", "--format", "table"),
    ],
    ids=" ".join,
)
def test_a_profile_of_any_shape_is_shown(judge, words):
    for _, _, document in mutants(PROFILE, 1 if words[1] == "show" else 3):
        judge(sent(document), *words)


@pytest.mark.parametrize(
    "words",
    [("run", "ls", "--format", "table"), ("profile", "list", "--format", "table"), ("run", "ls", "--format", "yaml")],
    ids=" ".join,
)
def test_a_page_of_any_shape_is_listed(judge, words):
    page = {"items": [{**RUN, "links": None, "distribution": None, "selectors": None}], "nextCursor": None}
    for path, _, document in mutants(page, 1 if words == ("run", "ls", "--format", "table") else 5):
        if words[0] == "run" or len(path) < 3:
            judge(sent(document), *words)
    judge(sent({"items": [PROFILE], "nextCursor": None}), *words)


@pytest.mark.parametrize("status", [400, 401, 429, 500])
def test_an_error_of_any_shape_is_one_error(judge, status):
    for _, _, document in mutants(ERROR, 1 if status == 400 else 3):
        result = judge(reply(status, text_of(document)), "run", "show", "r1")
        assert result.code != 0
        assert len(result.err.splitlines()) <= 6


def test_a_watched_run_of_any_shape_ends(judge):
    """No event stream: the run is asked for, and its state becomes events."""
    for path, _, document in mutants({**RUN, "distribution": None, "links": None, "selectors": None}, 4):
        if path[:1] != ("status",) and path:
            judge(
                lambda seen, document=document: reply(404) if "/events" in seen.target else sent(document),
                "run",
                "watch",
                "r1",
                "--deadline",
                "5",
            )


@pytest.mark.parametrize("kind", ["run.progress", "run.warning", "run.failed", "run.succeeded"])
@pytest.mark.parametrize("form", [(), ("--json",)], ids=["view", "json"])
def test_an_event_of_any_shape_is_shown(judge, kind, form):
    stream = b"".join(
        b"id: %d\nevent: %s\ndata: %s\n\n"
        % (number, kind.encode() if kind < "run.s" else b"run.progress", text_of(document))
        for number, (_, _, document) in enumerate(mutants(EVENT))
        if kind != "run.failed"
    )
    last = [text_of(document) for _, _, document in mutants(EVENT, 3)] if kind == "run.failed" else [b"{}"]
    final = b"run.failed" if kind == "run.failed" else b"run.succeeded"
    for data in last:
        body = stream + b"event: %s\ndata: %s\n\n" % (final, data)
        judge(
            lambda seen, body=body: (
                sent({**RUN, "status": "succeeded"})
                if "/events" not in seen.target
                else reply(200, body, "Content-Type: text/event-stream")
            ),
            "run",
            "watch",
            "r1",
            *form,
        )


def test_a_run_of_any_shape_is_downloaded_or_refused(judge, tmp_path):
    """Whatever the run says, the bytes are the right ones or the download is an error."""
    base = {**RUN, "error": None, "selectors": None, "progress": None, "options": None}
    for _, _, document in mutants(base, 2):
        target = tmp_path / "out.tar"
        result = judge(
            lambda seen, document=document: (
                sent(document)
                if "/runs/r1" in seen.target and not seen.target.endswith("download")
                else reply(200, b"abc", "Content-Type: x/y")
            ),
            "download",
            "r1",
            "--offline",
            "--output",
            target,
        )
        if result.code == 0:
            assert target.read_bytes() == b"abc"
        else:
            assert not target.exists()
        for left in tmp_path.glob("out.tar*"):
            left.unlink()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"0",
        b'"x"',
        b"{",
        b'{"a":1,"a":2}',
        b"{}x",
        b"\xff",
        b"\xef\xbb\xbf{}",
        b'{"a":NaN}',
        b"[" * 100000,
        b'{"a":' * 5000 + b"1" + b"}" * 5000,
        b'{"a":"\\ud800"}',
        b'{"a":1e999}',
        b"<html>no</html>",
        b'{"a":' + b"1" * 5000 + b"}",
        b'{"a":"' + b"\\" * 9999 + b'"}',
        b"\0" * 100,
    ],
    ids=range(19),
)
@pytest.mark.parametrize("status", [200, 400, 500])
def test_a_body_of_any_kind_is_an_answer_or_one_error(judge, body, status):
    for words in (("run", "show", "r1"), ("run", "ls"), ("profile", "show", "p", "--format", "table")):
        judge(reply(status, body), *words)
    judge(reply(status, body), "manifest", "r1")


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 101,
        b"HTTP/1.1 200 OK\r\n" + b"".join(b"A%d: %s\r\n" % (n, b"x" * 60000) for n in range(20)),
        b"HTTP/1.1 200 OK\r\nA: " + b"x" * 70000 + b"\r\n",
        b"HTTP/1.1 103 Early\r\n\r\n" * 30,
        b"HTTP/1.1 100 Go\r\n\r\n" * 30,
        b"HTTP/1.1 101 Switching\r\n\r\n",
        b"HTTP/9.9 200 OK\r\n",
        b"HTTP/1.1 999 ?\r\n",
        b"HTTP/1.1 -1 ?\r\n",
        b"junk\r\n",
        b"HTTP/1.1 200 " + b"x" * 70000,
        b"\x16\x03\x01 TLS?\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\n{}\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n" + b"A: b\r\n" * 1000,
        b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 400 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n{}",
        b"HTTP/1.1 204 No\r\n",
        b"HTTP/1.1 304 No\r\n",
        b"HTTP/1.1 300 Choose\r\n",
        b"HTTP/1.1 305 Use\r\n",
        b"",
    ],
    ids=range(23),
)
def test_a_head_of_any_kind_is_one_error(judge, head):
    result = judge(head + b"Connection: close\r\n\r\n", "run", "show", "r1")
    assert result.code in (1, 21), result


def test_interim_answers_are_passed_over(judge):
    interim = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Wait\r\n\r\n"
    assert judge(interim + reply(200, b"{}"), "run", "show", "r1").code == 0


@pytest.mark.parametrize(("cursor", "asked"), [("same", 2), (5, 1), ("", 1), ([], 1), (True, 1)])
def test_a_list_ends(judge, server, cursor, asked):
    before = len(server.seen)
    judge(sent({"items": [], "nextCursor": cursor}), "run", "ls", "--all")
    assert len(server.seen) - before == asked


# ---- names and text


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("export.tar", "export.tar"),
        ("../../etc/passwd", "passwd"),
        ("/etc/passwd", "passwd"),
        ("C:\\x\\y.tar", "y.tar"),
        ("..", ""),
        (".", ""),
        ("", ""),
        ("/", ""),
        ("a/", ""),
        (".bashrc", "bashrc"),
        ("-rf", "rf"),
        ("- -x", "x"),
        ("--output", "output"),
        ("a\0b", "ab"),
        ("a\nb", "ab"),
        ("a\x1b[31mb", "a[31mb"),
        ("a\u202etxt.exe", "atxt.exe"),
        ("CON", "_CON"),
        ("nul.tar", "_nul.tar"),
        ("COM1", "_COM1"),
        ("com.tar", "com.tar"),
        ("a.tar. .", "a.tar"),
        ("a:b", "ab"),
        ("\ud800x", "x"),
        ("é" * 300, "é" * 100),
        ("x" * 300, "x" * 200),
        (None, ""),
        (5, ""),
        ([], ""),
        ("a\u200bb", "ab"),
        ("\u3164", ""),
        (" ", ""),
        ("~", "~"),
    ],
)
def test_a_servers_name_becomes_a_base_name(name, safe):
    assert stella.safe_name(name) == safe


@pytest.mark.parametrize(
    "text",
    [
        "\x1b[31m",
        "\x1b]8;;http://evil\x07",
        "\x1b]52;c;Zm9v\x07",
        "\x9b31m",
        "\x90",
        "\x7f",
        "\r",
        "\n",
        "\t",
        "\b",
        "\0",
        "\u200b",
        "\u200d",
        "\u200e",
        "\u200f",
        "\u202a",
        "\u202e",
        "\u2066",
        "\u2069",
        "\u061c",
        "\u2060",
        "\ufeff",
        "\u00ad",
        "\u2028",
        "\u2029",
        "\u0085",
        "\u00a0",
        "\ud800",
        "\ue000",
        "\U000e0041",
        "\ufe0f",
        "\U000e0100",
        "\u3164",
        "\u115f",
        "\u034f",
        "\u180e",
        "\u2800",
        "\uffff",
        "\u0378",
    ],
)
def test_what_is_printed_for_people_shows_as_itself(judge, text):
    shown = stella.printable(text)
    assert shown.isascii()
    assert shown.isprintable()
    document = {**RUN, "status": text, "error": {"message": text}}
    if text != "\ud800":
        for words in (("run", "show", "r1", "--format", "table"), ("run", "ls", "--format", "table")):
            page = document if "show" in words else {"items": [document], "nextCursor": None}
            result = judge(sent(page), *words)
            assert text not in result.out.replace("\n", "") if text == "\n" else text == "\n" or text not in result.out
        assert judge(sent(document), "run", "show", "r1").json()["status"] == text  # JSON is lossless


def test_words_of_all_languages_are_left_alone():
    text = "Prüfung пример 例え テスト مثال ตัวอย่าง é👍"
    assert stella.printable(text) == text
