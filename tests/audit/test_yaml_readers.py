"""What the YAML writer writes, read back by PyYAML (1.1) and ruamel.yaml (1.2): the same value, the same types.

Also here, because it needs Hypothesis: a list's text, indented, is what json_text makes of its values.
"""

from __future__ import annotations

import json
import math

import pytest
import ruamel.yaml
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

import stella

WORDS = ["no", "yes", "on", "off", "y", "n", "true", "False", "NULL", "null", "~", "", "=", "<<", "nan", ".nan",
         ".inf", "-.Inf", "inf"]
NUMBERS = ["1:30", "190:20:30", "-1:30", "1:30.5", "08", "0o7", "0b1", "0x1F", "1e3", "1E+3", ".5", "5.", "+1", "-1",
           "1_000", "1,000", "0.",
           "1.e3", "12e03", "0", "-0", "00", "٣", "１"]
DATES = ["2025-10-29", "2025-10-29T13:42:11Z", "2025-10-29 13:42:11", "2025-10-29t13:42:11+02:00", "2025-1-2"]
MARKS = ["-", "?", ":", "- a", "? a", ": a", "-a", "?a", ":a", "a:", "a: b", "a:b", "a #b", "a#b", "#", "&a", "*a",
         "!a", "!!str", "|", ">",
         "|-", "%", "%YAML", "@", "`", "'", '"', "''", '""', "[", "]", "{", "}", ",", "[a]", "{a: b}", "a, b", "---",
         "...", "--- a",
         "\\", "\\n", "a\\", "a'b", 'a"b', "%s"]
SPACES = [" ", "  ", " a", "a ", "a  b", "a   b c", "\t", "\ta", "a\t", "a\tb", "\n", "\n\n", "a\n", "\na", "a\nb",
          "a\n\n b\n", "\r", "a\rb",
          "a\r\nb", "\x85", "a\x85b", "\xa0", "\u2028", "a\u2028b", "\u2029", "\u3000", "\u200b", "\ufeff", "a\ufeffb"]
CONTROLS = [chr(code) for code in range(32)] + ["\x7f", "\x80", "\x9f", "\xad", "\ud800", "\udfff", "\ufffe", "\uffff",
                                                "\ufffd", "\U0001f600", "\U0001fffe", "\U000e0041", "\U0010ffff",
                                                "e\u0301", "\u202e", "\u0378"]
SIZES = ["k" * size for size in (127, 128, 129, 1000, 1023, 1024, 1025, 5000)] + ["ü" * 1025, "\x01" * 400,
                                                                                  "a b " * 600 + "c", "a\n" * 600]
STRINGS = WORDS + NUMBERS + DATES + MARKS + SPACES + CONTROLS + SIZES
SCALARS = [None, True, False, 0, -1, 10**15, 10**16, 10**22, -(10**399), 10**399, 2**63, 0.0, -0.0, 1.0, 0.1, 1e22,
           1e16, 1e-7, 1.5e300, 5e-324,
           1.7976931348623157e308, 123456789.123, -2.5, [], {}, [[]], [{}], {"a": []}, {"a": {}}, [[[]]], [[{}], []]]
VALUES = STRINGS + SCALARS


def read_pyyaml(text: str):
    return yaml.safe_load(text)


def read_ruamel(text: str):
    return ruamel.yaml.YAML(typ="safe", pure=True).load(text)


READERS = {"PyYAML": read_pyyaml, "ruamel.yaml": read_ruamel}


def same(one, other) -> bool:
    """Equal, with equal types all the way down, in the same order; -0.0 is not 0.0."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other and (not isinstance(one, float) or math.copysign(1, one) == math.copysign(1, other))


def shapes(value):
    """A value in every place where it can stand."""
    yield from (value, [value], {"k": value}, [[value, value]], {"a": {"b": value, "c": [value]}}, [{"x": value,
                                                                                                     "y": 1}, value])
    if isinstance(value, str):
        yield from ({value: 1}, {value: value}, [{value: [value]}], {value: {value: None}, "z": 1}, [[{value: {}}]])


@pytest.mark.parametrize("reader", READERS)
def test_every_nasty_value_in_every_place(reader):
    read, count, wrong = READERS[reader], 0, []
    for value in VALUES:
        for shape in shapes(value):
            count += 1
            try:
                got = read(stella.yaml_text(shape))
            except Exception as error:
                got = error
            if not same(got, shape):
                wrong.append((shape, got))
    assert count > 1500
    assert not wrong, f"{len(wrong)} of {count}: {wrong[:3]!r}"


# Lone surrogates come out of JSON as escapes do; everything else Hypothesis draws by itself.
TEXTS = st.text(st.characters(),
                max_size=40) | st.sampled_from(STRINGS) | st.text("ab -:#?,'\"\\\n\t&*!|>%@`{}[]~=0123456789.eE+_",
                                                                  max_size=12)
JSONS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(TEXTS, inner, max_size=5), max_leaves=25)


@settings(max_examples=1500, deadline=None)
@given(JSONS)
def test_any_json_value_reads_back_with_both(value):
    text = stella.yaml_text(value)
    for name, read in READERS.items():
        assert same(read(text), value), f"{name} reads {text!r}"


@settings(max_examples=500, deadline=None)
@given(st.lists(st.from_regex(r"-?(0|[1-9][0-9]{0,25})(\.[0-9]{1,20})?([eE][+-]?[0-9]{1,2})?", fullmatch=True),
                min_size=1, max_size=5))
def test_any_spelling_of_a_number_reads_back_with_both(spellings):
    data = ("[%s]" % ",".join(spellings)).encode()
    value = stella.parse_json(data, "numbers", keep_numbers=True)
    assert stella.json_text(value, pretty=False).encode() == data
    for read in READERS.values():
        assert read(stella.yaml_text(value)) == json.loads(data)


@settings(max_examples=1500, deadline=None)
@given(st.lists(JSONS, max_size=6), st.sampled_from([None, 0, 1, 3, "\t"]), st.booleans(), st.sampled_from([(",", ":"),
                                                                                                            (", ",
                                                                                                             ": "),
                                                                                                             (" , ",
                                                                                                              " : ")]))
def test_a_list_indented_from_its_text_is_the_list_indented_from_its_values(items, indent, ascii_only, separators):
    text = json.dumps({"nextCursor": None, "items": items, "x": items}, indent=indent, ensure_ascii=ascii_only,
                      separators=separators)
    data = text.encode("utf-8", "surrogatepass")
    try:
        exact = stella.parse_json(data, "page", keep_numbers=True)
    except stella.ValidationError:  # a raw lone surrogate
        assert any("\ud800" <= char <= "\udfff" for char in text)
        return
    assert stella.JsonIndenter().items(text) == stella.json_text(exact["items"])
    assert "".join(stella.json_pages([stella.Page(items, text)])) == stella.json_text(exact["items"]) + "\n"
