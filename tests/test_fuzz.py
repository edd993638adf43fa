"""Seeded random inputs for every reader of foreign bytes: the list, and a million by hand, are in fuzz.py."""

# ruff: noqa: E501 - a row of the table is a line
from __future__ import annotations

import json
import random
import sys
import time
import tracemalloc

import pytest

import fuzz
import stella
from conftest import CALLS, PROFILE
from wire import Wire, reply

INPUTS = 1500
COMMANDS = 60
EVENTS = "Content-Type: text/event-stream"


@pytest.fixture(scope="module", autouse=True)
def _no_file_left_behind():
    yield
    fuzz.scratch().unlink()
    fuzz.scratch.cache_clear()


@pytest.mark.parametrize("name", fuzz.READERS)
def test_no_input_brings_anything_but_declared_errors(name):
    assert fuzz.READERS[name].seeds
    for data in fuzz.READERS[name].seeds:
        fuzz.judge(name, data)
    fuzz.run(name, INPUTS, 7)


RUN = json.dumps({**fuzz.DOCUMENT, "status": "succeeded", "distribution": [{"type": "http"}], "selectors": None}).encode()
ANSWERS = fuzz.Reader(print, (), fuzz.HEAD_WORDS + ' null [] {} "" status items data: event: id: \n\n', 1)
ANSWERS.make_seeds = lambda: [
    reply(200, RUN), reply(202, RUN), reply(200, b'{"items": [%s], "nextCursor": "a"}' % RUN), reply(200, b'{"items": []}'),
    reply(401, b'{"code": "ERR_EXPORT_001", "details": ["a"]}'), reply(302, b"", "Location: /x"), reply(503, b"", "Retry-After: 0"),
    reply(206, b"bundle", "Content-Range: bytes 0-5/6", 'ETag: "e"'), reply(200, b"bundle", 'ETag: "e"'), reply(204), reply(412),
    reply(416, b"", "Content-Range: bytes */6"), reply(200, b"id: 1\ndata: {}\n\nevent: run.succeeded\ndata: {}\n\n", EVENTS),
    b"HTTP/1.1 200 OK\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(RUN), RUN),
    f"HTTP/1.1 200 OK\r\nConnection: close\r\n{EVENTS}\r\n\r\nid: 1\nevent: run.progress\ndata: {{}}\n\n".encode(),
]  # fmt: skip


@pytest.mark.parametrize("name", CALLS)
def test_a_server_that_answers_at_random_brings_an_exit_code_of_the_contract(cli, monkeypatch, tmp_path, name):
    chance = random.Random(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(stella.Clock, "sleep", lambda self, seconds: None)
    (tmp_path / "profile.json").write_text(json.dumps(PROFILE))

    def answer(seen):
        if chance.random() < 0.4:
            return chance.choice(ANSWERS.seeds)
        return fuzz.edited(ANSWERS, chance.getrandbits(16), list(fuzz.some_edits(chance, ANSWERS.words)))

    with Wire(answer) as server:
        server.closes = True
        environment = {"STELLA_SERVER": server.url, "STELLA_TOKEN": "t-oken-t", "STELLA_EXPORT_OBJECT_ENDPOINT": server.url}
        for _ in range(COMMANDS):
            form = chance.choice(("table", "json", "yaml"))
            words = (*CALLS[name], "--retries", chance.choice("012"), "--timeout", "5", "--format", form)
            result = cli(*words, *chance.choice((["--trace"], [])), env=environment)
            assert result.code in stella.EXIT_MEANINGS, result
            assert "stella: unexpected" not in result.err, result
            assert all(stella.is_visible(char) or char == "\n" for char in result.err)


MIB = 1 << 20
LONG = {
    "a duplicate key after a long string": lambda: stella.parse_json(b'{"a": "%s", "a": 1}' % (b"x" * MIB), "x"),
    "a duplicate key after many escapes": lambda: stella.parse_json(b'{"a": "%s", "a": 1}' % (b"\\t" * 500000), "x"),
    "a duplicate key that is long": lambda: stella.parse_json(b'{"%s": 1, "%s": 1}' % (b"x" * MIB, b"x" * MIB), "x"),
    "a long event": lambda: stella.EventEncoder().line(stella.Event("x", '{"a": "%s"}' % ("x" * MIB), "", False)),
    "the stand-in for json": lambda: stella.read_json_text('"%s"' % ("x" * MIB)),
    "many words in YAML": lambda: stella.yaml_text(["x " * (MIB // 2) + "x"]),
    "many fields before a list": lambda: stella.JsonIndenter().items("{%s}" % ('"a":1,' * (MIB // 6) + '"items":[1]')),
    "white space before a list": lambda: stella.JsonIndenter().items('{"a":%s{"b":1},"items":[1]}' % (" " * MIB)),
    "a long registry reference": lambda: stella.parse_oci_ref("h/%sa" % ("a." * (MIB // 2))),
    "a long host name in another script": lambda: stella.parse_url("https://" + "é" * MIB),
    "a number that Python would take hours for": lambda: stella.parse_json(b"[%s]" % (b"1" * MIB), "x", plain=True),
    "a message of places": lambda: stella.Console().redacted("://x" * (MIB // 4) + "eyJxxxxxxxx" + "." * MIB),
}


@pytest.mark.parametrize("case", LONG)
def test_long_text_costs_little_more_than_its_length(case):
    """Python's re takes a hundred bytes for each turn of a repeated group, and some patterns take quadratic time."""
    started = time.thread_time()
    tracemalloc.start()
    try:
        message = ""
        try:
            LONG[case]()
        except ValueError as error:
            message = str(error)
        except stella.ValidationError as error:
            message = error.message
        assert tracemalloc.get_traced_memory()[1] < 16 * MIB
    finally:
        tracemalloc.stop()
    assert time.thread_time() - started < 2
    assert len(message) < 200


def test_a_python_without_a_limit_for_numbers_reads_lists_the_safe_way(monkeypatch):
    """Before 3.9.14 and 3.10.7, and with PYTHONINTMAXSTRDIGITS=0, int() takes quadratic time."""
    monkeypatch.setattr(sys, "get_int_max_str_digits", lambda: 0)
    value = stella.parse_json(b"[%s]" % (b"1" * 100000), "x", keep_numbers=True, plain=True)
    assert isinstance(value[0], stella.Number)
