"""The built-in validator beside jsonschema, on a schema written out by hand and thousands of mutated profiles."""

from __future__ import annotations

import copy
import json
import random

import jsonschema

import stella

# Contract 3 once more, in the words of JSON Schema 2020-12. Its patterns are searched for, and `$` in Python
# also matches before a final newline: \Z does not.
WORD = {"type": "string"}
SCHEMA = {
    "type": "object",
    "required": ["name", "kind", "variant", "distribution"],
    "additionalProperties": False,
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 128},
        "kind": {"enum": ["json", "trivy", "mirror"]},
        "variant": {"enum": ["raw", "policy", "db", "java-db", "full", "delta"]},
        "distribution": {"type": "array", "minItems": 1, "uniqueItems": True, "items": {"enum": ["http", "oci",
                                                                                                 "object"]}},
        "include": {"type": "array", "minItems": 1, "uniqueItems": True,
                    "items": {"enum": ["advisories", "vex", "sboms", "findings"]}},
        "policySnapshotMode": {"enum": ["required", "optional", "none"]},
        "retention": {"type": "string",
                      "pattern": r"\Adays:([1-9][0-9]{0,2}|[12][0-9]{3}|3[0-5][0-9]{2}|36[0-4][0-9]|3650)\Z"},
        "compression": {"enum": ["zstd", "gzip", "none"]},
        "encryption": {
            "type": "object", "required": ["mode"], "additionalProperties": False,
            "properties": {"mode": {"enum": ["none", "age", "aes-gcm"]},
                           "recipients": {"type": "array", "minItems": 1, "items": WORD}},
            "if": {"required": ["mode"], "properties": {"mode": {"const": "none"}}},
            "else": {"required": ["recipients"]},
        },
        "metadata": {"type": "object", "additionalProperties": WORD},
    },
    "allOf": [
        {"if": {"required": ["kind"], "properties": {"kind": {"const": kind}}},
         "then": {"properties": {"variant": {"enum": variants}}}}
        for kind, variants in (("json", ["raw", "policy"]), ("trivy", ["db", "java-db"]), ("mirror", ["full", "delta"]))
    ],
}
JUDGE = jsonschema.Draft202012Validator(SCHEMA)
GOOD = [
    {"name": "a", "kind": "json", "variant": "raw", "distribution": ["http"]},
    {"name": "b" * 128, "kind": "trivy", "variant": "java-db", "distribution": ["oci", "object"],
     "retention": "days:3650",
     "include": ["vex"], "encryption": {"mode": "age", "recipients": ["age1x", "age1x"]}, "metadata": {"owner": "me",
                                                                                                       "": ""}},
    {"name": "\U0001f600" * 128, "kind": "mirror", "variant": "delta", "distribution": ["http", "oci", "object"],
     "policySnapshotMode": "required", "compression": "none", "encryption": {"mode": "none"}, "metadata": {}},
    {"name": "\n", "kind": "mirror", "variant": "full", "distribution": ["object"],
     "encryption": {"mode": "none", "recipients": ["x"]}, "include": ["advisories", "vex", "sboms", "findings"]},
]
ATOMS = [None, True, False, 0, 1, 1.0, -1, 10**30, "", "a", "json", "trivy", "mirror", "raw", "policy", "db",
         "java-db", "full",
         "delta", "http", "oci", "object", "http\n", "json\n", "none", "none\n", "age", "aes-gcm", "zstd", "required",
         "n" * 128,
         "n" * 129, "\U0001f600" * 129, "days:1", "days:0", "days:01", "days:3650", "days:3651", "days:14\n",
         "days:\u0661", "days:1 ",
         "Days:1", [], {}, [[]], ["http", "http"], ["vex", 1], [None], ["a"], {"mode": "none"}, {"mode": "age"},
         {"mode": "age", "recipients": []}, {"mode": "age", "recipients": [""]}, {"a": "b"}, {"a": 1}]
KEYS = ["name", "kind", "variant", "distribution", "include", "policySnapshotMode", "retention", "compression",
        "encryption",
        "metadata", "mode", "recipients", "Name", "name ", "", "a/b~", "links", "extra"]


def mutate(value, chance: random.Random):
    """The value with one thing changed somewhere inside it."""
    if isinstance(value, dict) and chance.random() < 0.85:
        value = dict(value)
        names = list(value) or [chance.choice(KEYS)]
        name = chance.choice(names)
        change = chance.random()
        if change < 0.2:
            value.pop(name, None)
        elif change < 0.35:
            value[chance.choice(KEYS)] = copy.deepcopy(chance.choice(ATOMS))
        elif name in value:
            value[name] = mutate(value[name], chance)
        return value
    if isinstance(value, list) and value and chance.random() < 0.85:
        value = list(value)
        index = chance.randrange(len(value))
        change = chance.random()
        if change < 0.25:
            del value[index]
        elif change < 0.5:
            value.insert(index, chance.choice(value))
        else:
            value[index] = mutate(value[index], chance)
        return value
    return copy.deepcopy(chance.choice(ATOMS))


def strictly(value):
    """As JSON would bring it: no tuple, no shared lists."""
    return json.loads(json.dumps(value))


def test_the_schema_is_one_and_the_good_ones_are_good():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    for profile in GOOD:
        assert JUDGE.is_valid(profile)
        assert stella.schema_problems(profile, stella.PROFILE_SCHEMA) == []


def test_one_verdict_on_thousands_of_mutated_profiles():
    chance = random.Random(20251029)
    verdicts = {True: 0, False: 0}
    for _ in range(20_000):
        profile = chance.choice(GOOD)
        for _ in range(chance.choice((1, 1, 1, 2, 3))):
            profile = mutate(profile, chance)
        profile = strictly(profile)
        expected = JUDGE.is_valid(profile)
        problems = stella.schema_problems(profile, stella.PROFILE_SCHEMA)
        assert (problems == []) == expected, (profile, problems)
        verdicts[expected] += 1
    assert min(verdicts.values()) > 1000, verdicts


def pointer(path) -> str:
    return "".join("/" + str(step).replace("~", "~0").replace("/", "~1") for step in path)


def test_every_problem_points_at_what_jsonschema_points_at():
    """The pointers of both are the same, where jsonschema blames the object for a key we name."""
    chance = random.Random(7)
    for _ in range(3000):
        profile = strictly(mutate(mutate(chance.choice(GOOD), chance), chance))
        theirs = {pointer(error.absolute_path) for error in JUDGE.iter_errors(profile)}
        ours = {line.split(": ")[0] for line in stella.schema_problems(profile, stella.PROFILE_SCHEMA)}
        for place in theirs - {""}:
            assert any(mine == place or mine.startswith(place + "/") for mine in ours), (profile, theirs, ours)
