"""Seeded random inputs for every reader of foreign bytes: the list, and a million by hand, are in fuzz.py."""

from __future__ import annotations

import sys
import time
import tracemalloc

import pytest

import fuzz
import stella

INPUTS = 1500


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
