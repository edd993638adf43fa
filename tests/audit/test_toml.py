"""The flat reader of profile files against tomllib, and our stand-in for json against json."""

from __future__ import annotations

import json
import sys

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import stella as stella_module

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # the same reader; pytest brings it

SETTINGS = settings(max_examples=3000, deadline=None)
KEY = st.text("abcXYZ019_-", min_size=1, max_size=8)
BLANK = st.text(" \t", max_size=2)
PIECE = st.sampled_from(['\\"', "\\\\", "\\n", "\\t", "\\b", "\\f", "\\r", "\\u00e9", "\\x41", "\\", "a", "#", "'",
                         "\u00e9", "\x7f", "\x00", "\t", "\r", "\u2028", "\x85", "\U0001f600"])
TEXT = st.lists(PIECE | st.characters(exclude_characters="\n", exclude_categories=["Cs"]), max_size=6).map("".join)
NUMBER = st.from_regex(r"[+-]?[0-9]{1,4}(_[0-9]+)?(\.[0-9]{0,3})?([eE][+-]?[0-9]{0,2})?", fullmatch=True)
VALUE = st.one_of(TEXT.map('"{}"'.format), TEXT.map("'{}'".format), NUMBER, TEXT,
                  st.sampled_from(["true", "false", "True", "inf", "nan", "0x1f", "1979-05-27", "[1]", "{}", ""]))
COMMENT = st.just("") | TEXT.map("# {}".format)
ROW = st.tuples(BLANK, KEY, BLANK, st.sampled_from(["=", "=", "=", ":", ""]), BLANK, VALUE, BLANK, COMMENT).map("".join)
LINE = st.tuples(ROW | COMMENT | BLANK, st.sampled_from(["\n", "\n", "\r\n", "\r"])).map("".join)
FILE = st.lists(LINE, max_size=4).map("".join)
ACCEPTED: list[str] = []


@SETTINGS
@given(FILE)
@example("a = 1\r\n")
@example("a = -0")
@example("a = 1e400")
def agrees(text):
    try:
        ours = stella_module.parse_flat_toml(text)
    except ValueError:
        return  # what it does not know it may refuse
    ACCEPTED.extend(ours)
    assert repr(tomllib.loads(text)) == repr(ours)


def test_flat_reader_reads_nothing_differently_from_tomllib():
    agrees()
    assert len(ACCEPTED) > 100, "the texts are too wild: hardly one was accepted"


LEAF = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text())
DOCUMENT = st.recursive(LEAF, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=12)


@SETTINGS
@given(DOCUMENT, st.booleans(), st.sampled_from([None, 1, "\t"]))
def test_our_json_reader_reads_what_json_writes(value, ascii_only, indent):
    text = json.dumps(value, ensure_ascii=ascii_only, indent=indent)
    assert repr(stella_module.read_json_text(text, object_pairs_hook=dict)) == repr(json.loads(text))


@SETTINGS
@given(DOCUMENT, st.data())
def test_our_json_reader_refuses_what_json_refuses(value, data):
    """One character removed, doubled or changed. json takes NaN and Infinity, ours does not."""
    text = json.dumps(value)
    place = data.draw(st.integers(0, len(text) - 1))
    other = data.draw(st.sampled_from(["", text[place] * 2, ",", "0", '"', "]", "\\", "\x01", " "]))
    text = text[:place] + other + text[place + 1:]
    try:
        expected = json.loads(text, parse_constant=lambda _: pytest.fail("no constant is written"))
    except ValueError:
        with pytest.raises(ValueError):
            stella_module.read_json_text(text)
        return
    assert repr(stella_module.read_json_text(text)) == repr(expected)


@SETTINGS
@given(st.text() | st.text(st.characters(min_codepoint=0, max_codepoint=0x9F)))
def test_our_json_quoting_is_the_standard_one(text):
    assert stella_module.quote_json(text) == json.encoder.encode_basestring(text)
