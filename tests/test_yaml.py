"""The YAML writer, a row per value; tests/audit/test_yaml_readers.py asks PyYAML and ruamel.yaml what they read."""

from __future__ import annotations

import json

import pytest

import stella

LONG = "k" * 1100
PLAIN = ["abc", "a b", "a-b", "_x", "registry.example.com/app", "a +b", "run-20251029-01", "application/zstd"]
QUOTED = ["", " a", "a ", "no", "No", "y", "Y", "n", "N", "yes", "on", "off", "true", "false", "False", "NULL", "null",
          "nan", "inf", "Inf", "~", "=", "<<", "1", "-1", "08",
          "0o7", "0x1",
          "1e3", ".5", "1_000", "1:30", "190:20:30", "2025-10-29", "2025-10-29T13:42:11Z", "-", "- a", "?", "? a", ":",
          "a:",
          "a: b", "a #b", "#a", "&a", "*a", "!a", "|", ">", "%a", "@a", "`a", "'a'", "[a]", "{a}", "a,b", "---", "...",
          "ü", "日本", "\U0001f600"]
ESCAPED = {
    '"': '"\\""', "\\": '"\\\\"', "a\nb": '"a\\nb"', "\t": '"\\t"', "\r": '"\\r"', "\x00": '"\\x00"', "\x1b": '"\\x1b"',
    "\x7f": '"\\x7f"', "\x85": '"\\x85"', "\xa0": '"\\xa0"', "\u2028": '"\\u2028"', "\ufeff": '"\\ufeff"',
    "\u202e": '"\\u202e"', "\ud800": '"\\ud800"', "\U000e0041": '"\\U000e0041"', "\uffff": '"\\uffff"',
}
STRINGS = {**{text: text for text in PLAIN}, **{text: f'"{text}"' for text in QUOTED}, **ESCAPED}


@pytest.mark.parametrize(("text", "written"), STRINGS.items(), ids=[ascii(text) for text in STRINGS])
def test_string(text, written):
    assert stella.yaml_text(text) == written
    assert stella.yaml_text([text, {text: text}]) == f"- {written}\n- {written}: {written}"


NUMBERS = {"1.0": "1.0", "-0.0": "-0.0", "-0": "-0.0", "1e22": "1.0e+22", "1E5": "1.0e+5", "1e-7": "1.0e-7",
           "1.5e300": "1.5e+300",
           "0": "0", "-7": "-7", "1" * 400: "1" * 400, "1e400": "1.0e+400",
           "-1e400": "-1.0e+400", "1e+5": "1.0e+5", "true": "true", "false": "false",
           "null": "null", "[]": "[]", "{}": "{}"}


@pytest.mark.parametrize(("text", "written"), NUMBERS.items(), ids=[text[:20] for text in NUMBERS])
def test_scalar(text, written):
    value = stella.parse_json(text.encode(), "value", keep_numbers=True)
    assert stella.yaml_text(value) == written
    assert stella.yaml_text({"a": [value]}) == f"a:\n  - {written}"


BLOCKS = {
    "lists and maps": ({"a": {"b": [1, {"c": 2, "d": [3]}, [[4], []]]}, "e": {}},
                       "a:\n  b:\n    - 1\n    - c: 2\n      d:\n        - 3\n    - - - 4\n      - []\ne: {}"),
    "list of lists": ([[1, [2]], [[]]], "- - 1\n  - - 2\n- - []"),
    "key of 1,100 characters": ({LONG: 1, "b": 2}, f"? {LONG}\n: 1\nb: 2"),
    "long key of a map": ({LONG: {"a": 1}}, f"? {LONG}\n:\n  a: 1"),
    "long key in a list": ([{LONG: [1], "b": 2}], f"- ? {LONG}\n  :\n    - 1\n  b: 2"),
    "key of 998 characters": ({"k" * 998: 1}, "k" * 998 + ": 1"),
    "key of 999 characters": ({"k" * 999: 1}, "? " + "k" * 999 + "\n: 1"),
    "key that grows by its escapes": ({"\x01" * 300: 1}, '? "' + "\\x01" * 300 + '"\n: 1'),
    "keys that are words": ({"no": 1, "1": 2, "": 3, "~": 4}, '"no": 1\n"1": 2\n"": 3\n"~": 4'),
    "a map of scalars": ({"a": None, "b": True, "c": 1.5, "d": 7, "e": 0, "f": False, "g": ""},
                         'a: null\nb: true\nc: 1.5\nd: 7\ne: 0\nf: false\ng: ""'),
    "empty list": ([], "[]"),
}


@pytest.mark.parametrize(("value", "written"), BLOCKS.values(), ids=BLOCKS)
def test_block(value, written):
    assert stella.yaml_text(value) == written


ODD_NEIGHBOURS = [
    {"a": 1, "b": "no"}, {"a": 2, "b": "yes "}, {"b": "x", "a": 3}, {"a": None, "b": "\x00"}, {"a": True, "b": 1},
    {"a": 1.0, "b": {"a": 1}}, {"a": -0.0, "b": {}}, {"a": 0.0, "b": []}, {}, [], [1], [[], ["no"]], [[{"%s": "%"}]],
    "no", "word", "no", 1, True, 1.0, 0, False, None, {"%(a)s": 1, LONG: {"b": 1}}, {"%(a)s": 1, LONG: {}},
]  # fmt: skip


def test_values_that_are_written_together_do_not_change_each_other():
    assert stella.yaml_text(ODD_NEIGHBOURS) == "\n".join(stella.yaml_text([value]) for value in ODD_NEIGHBOURS)
    assert stella.yaml_text([{"k": ODD_NEIGHBOURS}, {"k": ODD_NEIGHBOURS[:1]}]) == "\n".join((
        stella.yaml_text([{"k": ODD_NEIGHBOURS}]), stella.yaml_text([{"k": ODD_NEIGHBOURS[:1]}])))


@pytest.mark.parametrize(("value", "written"), [(float("inf"), "1.0e+400"), (-float("inf"), "-1.0e+400")])
def test_what_python_made_of_a_number_that_is_too_large(value, written):
    """A list that was read plainly has it so."""
    assert stella.yaml_text(value) == written


def test_a_deeper_value_than_any_reader_takes_is_an_error():
    value = 1
    for _ in range(stella.MAX_JSON_DEPTH + 1):
        value = [value]
    assert stella.yaml_text(value)
    with pytest.raises(stella.ProtocolError):
        stella.yaml_text([value])


def test_deepest_value_that_the_reader_takes():
    deep = stella.parse_json(b"[" * stella.MAX_JSON_DEPTH + b"]" * stella.MAX_JSON_DEPTH, "deep")
    assert stella.yaml_text(deep) == "- " * (stella.MAX_JSON_DEPTH - 1) + "[]"
    assert json.loads(stella.json_text(deep)) == deep
