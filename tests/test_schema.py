"""The strict JSON reader and the built-in profile schema: what a profile file may not hold, and how that is told."""

from __future__ import annotations

import json

import pytest

import stella

GOOD = {"name": "Nightly", "kind": "json", "variant": "raw", "distribution": ["http"]}


def read(data: bytes, **options):
    return stella.parse_json(data, "file", **options)


def fault(data: bytes, **options) -> str:
    with pytest.raises(stella.ValidationError) as caught:
        read(data, **options)
    assert caught.value.exit_code == 10
    return caught.value.message


NESTED = stella.MAX_JSON_DEPTH

REFUSED = {
    "byte order mark": (b"\xef\xbb\xbf{}",
                        "starts with a byte order mark, which JSON does not allow (line 1, column 1)"),
    "UTF-16": ("{}".encode("utf-16-le"), "expecting property name enclosed in double quotes (line 1, column 2)"),
    "invalid UTF-8": (b'{\n "a": "\xff"}', "is not UTF-8 (line 2, column 8)"),
    "invalid UTF-8 after wide characters": ('"äö'.encode() + b"\xc3(", "is not UTF-8 (line 1, column 4)"),
    "surrogate in UTF-8": (b'"\xed\xa0\x80"', "is not UTF-8 (line 1, column 2)"),
    "overlong UTF-8": (b'"\xc0\xaf"', "is not UTF-8 (line 1, column 2)"),
    "duplicate key": (b'{"a": 1,\n "a": 2}', 'duplicate key "a" (line 2, column 2)'),
    "duplicate key, spelled otherwise": (b'{"a": 1, "\\u0061": 2}', 'duplicate key "\\u0061" (line 1, column 10)'),
    "duplicate key deep inside": (b'[{"x": {"b": [], "c": 1, "b": {}}}]', 'duplicate key "b" (line 1, column 26)'),
    "duplicate key after an escaped quote": (b'{"k": "\\" ", "a": 1, "a": 2}',
                                            'duplicate key "a" (line 1, column 22)'),
    "duplicate key after an escaped backslash": (b'{"k": "\\\\", "a": 1, "a": 2}',
                                                'duplicate key "a" (line 1, column 21)'),
    "duplicate key after an empty first line": (b'\n{"a": 1, "a": 2}', 'duplicate key "a" (line 2, column 10)'),
    "duplicate empty key": (b'{"": 1, "": 2}', 'duplicate key "" (line 1, column 9)'),
    "NaN": (b'{"a": NaN}', "NaN is not JSON (line 1, column 7)"),
    "Infinity": (b"[1,\nInfinity]", "Infinity is not JSON (line 2, column 1)"),
    "-Infinity": (b"[-Infinity]", "-Infinity is not JSON (line 1, column 2)"),
    "NaN after a string that says NaN": (b'["NaN", "\\"", NaN]', "NaN is not JSON (line 1, column 15)"),
    "number too large": (b"[1e400]", "the number 1e400 is too large (line 1, column 2)"),
    "whole number too large": (b"[-" + b"9" * 310 + b"]", f"the number -{'9' * 19}... is too large (line 1, column 2)"),
    "number of a megabyte": (b"1" * 1_000_000, f"the number {'1' * 20}... is too large (line 1, column 1)"),
    "nested too deep": (b"[" * (NESTED + 1) + b"]" * (NESTED + 1),
                        f"is nested deeper than {NESTED} levels (line 1, column {NESTED + 1})"),
    "nested too deep in objects": (b'{"a":\n' * (NESTED + 1) + b"1" + b"}" * (NESTED + 1),
                                   f"is nested deeper than {NESTED} levels (line {NESTED + 1}, column 1)"),
    "nested a million deep": (b"[" * 1_000_000, f"is nested deeper than {NESTED} levels (line 1, column {NESTED + 1})"),
    "nested behind brackets in strings": (b'["]",' * (NESTED + 1) + b"1" + b"]" * (NESTED + 1),
                                          f"is nested deeper than {NESTED} levels (line 1, column {NESTED * 5 + 1})"),
    "comment": (b"{} // no", "extra data (line 1, column 4)"),
    "single quotes": (b"{'a': 1}", "expecting property name enclosed in double quotes (line 1, column 2)"),
    "two values": (b"{}{}", "extra data (line 1, column 3)"),
    "empty": (b"", "expecting value (line 1, column 1)"),
    "leading zero": (b"[08]", "expecting ',' delimiter (line 1, column 3)"),
    "plus sign": (b"[+1]", "expecting value (line 1, column 2)"),
    "full-width digit": ("[\uff11]".encode(), "expecting value (line 1, column 2)"),
    "newline in a string": (b'"a\nb"', "invalid control character at (line 1, column 3)"),
    "NUL in a string": (b'"a\0b"', "invalid control character at (line 1, column 3)"),
    "unknown escape": (b'"\\x41"', "invalid \\escape (line 1, column 2)"),
    "no-break space between": (b"[1,\xc2\xa02]", "expecting value (line 1, column 4)"),
}


@pytest.mark.parametrize(("data", "message"), REFUSED.values(), ids=REFUSED)
def test_refused_with_line_and_column(data, message):
    told = fault(data)
    # Python 3.13 points some faults of the standard reader elsewhere and words some otherwise
    assert told.partition(" (line")[0].rstrip(": ") == "file: " + message.partition(" (line")[0]
    assert told.endswith(message[message.index("(line"):]), told


TAKEN = {
    "nested as deep as allowed": (b"[" * NESTED + b"]" * NESTED, None),
    "brackets in strings do not nest": (json.dumps(["[" * 100, '\\"{{' * 100]).encode(), ["[" * 100, '\\"{{' * 100]),
    "the same key in two objects": (b'[{"a": 1}, {"a": 2}]', [{"a": 1}, {"a": 2}]),
    "a string that looks like a duplicate": (b'{"a": "a", "b": ["a", "a"]}', {"a": "a", "b": ["a", "a"]}),
    "white space around": (b" \r\n\t{} \n", {}),
    "escaped surrogate pair": (b'"\\ud83d\\ude00"', "\U0001f600"),
    "lone surrogate": (b'"\\ud83d"', "\ud83d"),
    "largest float": (b"1.7976931348623157e308", 1.7976931348623157e308),
    "number below every float": (b"1e-400", 0.0),
}


@pytest.mark.parametrize(("data", "value"), TAKEN.values(), ids=TAKEN)
def test_taken(data, value):
    got = read(data)
    assert value is None or got == value


def problems(document) -> list[str]:
    return stella.schema_problems(document, stella.PROFILE_SCHEMA)


ENUM = "allowed: "
RETENTION = "days:N with N from 1 to 3650"
FIELDS = ("name", "kind", "variant", "distribution", "include", "policySnapshotMode", "retention", "compression",
          "encryption", "metadata")
CASES = {
    "smallest": ({}, []),
    "name of 128": ({"name": "\U0001f600" * 128}, []),
    "name of 129": ({"name": "n" * 129}, [f'/name: found "{"n" * 57}..." (129 characters), {ENUM}1 to 128 characters']),
    "empty name": ({"name": ""}, [f'/name: found "", {ENUM}1 to 128 characters']),
    "name with line ends": ({"name": "a\nb\n"}, []),
    "name null": ({"name": None}, [f"/name: found null, {ENUM}1 to 128 characters"]),
    "kind unknown": ({"kind": "rpm"}, [f'/kind: found "rpm", {ENUM}json, trivy, mirror']),
    "kind with a final newline": ({"kind": "json\n"}, [f'/kind: found "json\\n", {ENUM}json, trivy, mirror']),
    "kind in capitals": ({"kind": "JSON"}, [f'/kind: found "JSON", {ENUM}json, trivy, mirror']),
    "kind a list": ({"kind": ["json"]}, [f"/kind: found a list, {ENUM}json, trivy, mirror"]),
    "variant of another kind": ({"kind": "trivy", "variant": "raw"}, [f'/variant: found "raw", {ENUM}db, java-db']),
    "variant unknown": ({"variant": "x"}, [f'/variant: found "x", {ENUM}raw, policy']),
    "variant beside an unknown kind": ({"kind": "x", "variant": "delta"},
                                       [f'/kind: found "x", {ENUM}json, trivy, mirror']),
    "variant and kind unknown": ({"kind": "x", "variant": "y"}, [
        f'/kind: found "x", {ENUM}json, trivy, mirror',
        f'/variant: found "y", {ENUM}raw, policy, db, java-db, full, delta']),
    "no distribution": ({"distribution": []}, [f"/distribution: found an empty list, {ENUM}at least one item"]),
    "distribution a word": ({"distribution": "http"}, [f'/distribution: found "http", {ENUM}a list']),
    "distribution twice": ({"distribution": ["http", "oci", "http"]},
                           [f'/distribution/2: found "http" again, {ENUM}each once']),
    "distribution odd items": ({"distribution": ["ftp", 1, True]}, [
        f'/distribution/0: found "ftp", {ENUM}http, oci, object',
        f"/distribution/1: found 1, {ENUM}http, oci, object",
        f"/distribution/2: found true, {ENUM}http, oci, object"]),
    "include": ({"include": ["advisories", "vex", "sboms", "findings"]}, []),
    "include unknown": ({"include": ["logs"]}, [f'/include/0: found "logs", {ENUM}advisories, vex, sboms, findings']),
    "policy mode": ({"policySnapshotMode": "maybe"},
                    [f'/policySnapshotMode: found "maybe", {ENUM}required, optional, none']),
    "compression": ({"compression": "xz"}, [f'/compression: found "xz", {ENUM}zstd, gzip, none']),
    "encryption none": ({"encryption": {"mode": "none"}}, []),
    "encryption without mode": ({"encryption": {"recipients": ["a"]}},
                                [f"/encryption/mode: is missing, {ENUM}none, age, aes-gcm"]),
    "encryption without recipients": ({"encryption": {"mode": "age"}},
                                      [f"/encryption/recipients: is missing, {ENUM}a list"]),
    "encryption without anyone": ({"encryption": {"mode": "age", "recipients": []}},
                                  [f"/encryption/recipients: found an empty list, {ENUM}at least one item"]),
    "encryption to a number": ({"encryption": {"mode": "age", "recipients": ["a", 7]}},
                               [f"/encryption/recipients/1: found 7, {ENUM}a string"]),
    "encryption with more": ({"encryption": {"mode": "none", "key": "x"}},
                             [f"/encryption/key: is not known, {ENUM}mode, recipients"]),
    "metadata": ({"metadata": {"": "", "a/b": "c"}}, []),
    "metadata of numbers": ({"metadata": {"a/b~c": 1, "d": {"e": 1}}}, [
        f"/metadata/a~1b~0c: found 1, {ENUM}a string", f"/metadata/d: found an object, {ENUM}a string"]),
    "unknown field": ({"descr\x1bption": ""}, [f"/descr\x1bption: is not known, {ENUM}{', '.join(FIELDS)}"]),
    **{f"retention {text!r}": ({"retention": text}, []) for text in ("days:1", "days:14", "days:3650", "days:2999")},
    **{f"retention {text!r}": ({"retention": text}, [f"/retention: found {stella.quoted(text)}, {ENUM}{RETENTION}"])
       for text in ("days:0", "days:3651", "days:01", "days:14\n", " days:14", "days:1_4", "days:\u0663", "days:-1",
                    "days:99999", "weeks:2", "", "days:")},
}


@pytest.mark.parametrize(("more", "expected"), CASES.values(), ids=CASES)
def test_schema(more, expected):
    assert problems({**GOOD, **more}) == expected


def test_every_problem_at_once():
    told = problems({"kind": "x", "extra": 1, "distribution": [2]})
    assert [line.partition(":")[0] for line in told] == ["/name", "/variant", "/kind", "/extra", "/distribution/0"]


@pytest.mark.parametrize("value", [[], "x", 1, None, True, 1.5], ids=repr)
def test_a_profile_is_an_object(value):
    shown = {"[]": "[]", "'x'": '"x"', "None": "null", "True": "true"}.get(repr(value), repr(value))
    assert problems(value) == [f"/: found {shown}, {ENUM}an object"]


def test_what_the_server_added_is_left_out_before_the_check():
    added = {"profileId": "p", "status": "active", "revision": 3, "createdAt": "x", "updatedAt": "y", "links": {}}
    assert stella.check_profile({**added, **GOOD, **added}, "file") == GOOD
    with pytest.raises(stella.ValidationError) as caught:
        stella.check_profile({**GOOD, "kind": "x", "more": 1}, "file")
    assert (caught.value.message, len(caught.value.details)) == ("file is not a valid profile", 2)


@pytest.mark.parametrize(("size", "told"), [(60, ""), (61, " (61 characters)")])
def test_long_values_are_told_with_their_length(size, told):
    (problem,) = problems({**GOOD, "retention": "x" * size})
    assert problem.endswith(f'"{told}, allowed: {RETENTION}')


def test_missing_fields_are_told_with_what_may_stand_there():
    assert problems({}) == [
        f"/name: is missing, {ENUM}1 to 128 characters", f"/kind: is missing, {ENUM}json, trivy, mirror",
        f"/variant: is missing, {ENUM}a string", f"/distribution: is missing, {ENUM}a list"]
    assert problems({**GOOD, "metadata": {"a": False}}) == [f"/metadata/a: found false, {ENUM}a string"]


# ---- selectors (contract 3)

FROM, TO = "2025-10-01T00:00:00Z", "2025-10-29T00:00:00Z"
SENT = {
    "none": ([], {}),
    "each of its own, in order": (["tenant=b", "product=p:*", "tenant=a", "sbom=s"],
                                  {"tenants": ["b", "a"], "products": ["p:*"], "sboms": ["s"]}),
    "both sides of time": ([f"time={FROM},{TO}"], {"timeWindow": {"from": FROM, "to": TO}}),
    "from alone": ([f"time={FROM},"], {"timeWindow": {"from": FROM}}),
    "to alone": ([f"time=,{TO}"], {"timeWindow": {"to": TO}}),
    "zones, fractions and a leap second": (["time=2025-10-01T02:00:00+02:00,2025-10-01T00:00:00.001z"],
                                           {"timeWindow": {"from": "2025-10-01T02:00:00+02:00",
                                                           "to": "2025-10-01T00:00:00.001z"}}),
    "leap second": (["time=2016-12-31T23:59:60Z,2017-01-01T00:00:00.5Z"],
                    {"timeWindow": {"from": "2016-12-31T23:59:60Z", "to": "2017-01-01T00:00:00.5Z"}}),
    "what only the server knows": (["fooBar-1=x", "fooBar-1=y"], {"fooBar-1": ["x", "y"]}),
    "name of the list itself": (["tenant=a", "tenants=b"], {"tenants": ["a", "b"]}),
    "equals signs and commas": (["product=a=b,c"], {"products": ["a=b,c"]}),
}
NOT_SENT = {
    "empty": ("", "is not key=value"), "no equals": ("tenant", "is not key=value"),
    "no value": ("tenant=", "is not key=value"), "no key": ("=a", "is not key=value"),
    "capital": ("Tenant=a", "is not key=value"), "underscore": ("a_b=c", "is not key=value"),
    "digit first": ("1a=b", "is not key=value"), "line break": ("a\n=b", '"a\\n=b" is not key=value'),
    "neither side": ("time=,", "at least one side"), "no comma": (f"time={FROM}", "needs a comma"),
    "turned round": (f"time={TO},{FROM}", "from is not before to"),
    "nothing between": (f"time={FROM},{FROM}", "from is not before to"),
    "same moment in two zones": (f"time={FROM},2025-10-01T02:00:00+02:00", "from is not before to"),
    "date alone": ("time=2025-10-01,", "is not an RFC 3339 time"), "no zone": ("time=2025-10-01T00:00:00,", "RFC 3339"),
    "three sides": (f"time={FROM},{TO},", "RFC 3339"),
    "other digits": (f"time={FROM.replace('1', chr(0x661))},", "RFC 3339"),
    "day that is none": ("time=2025-02-30T00:00:00Z,", "is not a time that exists"),
    "hour 24": ("time=2025-02-03T24:00:00Z,", "is not a time that exists"),
    "second 61": ("time=2025-02-03T00:00:61Z,", "is not a time that exists"),
    "zone that is none": ("time=2025-02-03T00:00:00+24:00,", "is not a time that exists"),
}


@pytest.mark.parametrize(("texts", "selectors"), SENT.values(), ids=SENT)
def test_selectors_are_sent_as(texts, selectors):
    assert stella.parse_selectors(texts) == selectors


@pytest.mark.parametrize(("text", "told"), NOT_SENT.values(), ids=NOT_SENT)
def test_wrong_selector_is_exit_10_before_anything_is_sent(cli, gw, text, told):
    done = cli("run", "submit", "prof-json-raw", "--selector", "tenant=acme", "--selector", text, gw=gw)
    assert (done.code, done.out, gw.requests) == (10, "", []), done
    assert told in done.err


@pytest.mark.parametrize("second", [f"time=,{TO}", "timeWindow=x"])
def test_time_stands_once_and_all_problems_are_told_at_once(second):
    with pytest.raises(stella.ValidationError) as caught:
        stella.parse_selectors([f"time={FROM},", second, "bad"])
    assert caught.value.details == ["--selector time may stand once", '--selector "bad" is not key=value']
