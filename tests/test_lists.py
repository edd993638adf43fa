"""Lists: pages, cursors, ends, and that rows leave before the last page is asked for."""

from __future__ import annotations

import json
import threading
import tracemalloc

import pytest

import stella
from gateway import Fault

RUNS_PATH = r"/runs$"


def page(items, cursor=None, **more):
    return json.dumps({"items": items, "nextCursor": cursor, **more}).encode()


def order(gw, *bodies, path=RUNS_PATH, times=1):
    for body in bodies:
        gw.order(Fault("GET", path, status=200, body=body, times=times, head={"Content-Type": "application/json"}))


def runs(start, count):
    return [{"runId": f"run-{number:05d}", "profileId": "p", "status": "succeeded", "progress": {"percent": 100.0},
             "updatedAt": "2025-10-29T13:42:11Z", "tags": [], "links": {"self": f"/r/{number}"}}
            for number in range(start, start + count)]


def test_profile_list_follows_cursors(cli, gw):
    order(gw, page([{"profileId": "a"}], "1"), page([], "2"), page([{"profileId": "b"}, {"profileId": "c"}]),
          path="/profiles$")
    done = cli("profile", "list", gw=gw)
    assert [profile["profileId"] for profile in done.json()] == ["a", "b", "c"]
    assert [request.query.get("cursor") for request in gw.requests] == [None, "1", "2"]


def test_profile_list_filters(cli, gw):
    done = cli("profile", "list", "--kind", "json", "--variant", "policy", gw=gw)
    assert [profile["profileId"] for profile in done.json()] == ["prof-json-policy"]
    assert cli("profile", "list", "--kind", "rpm", gw=gw).code == 2


TAILS = {
    "default": ((), 50, ["50"]), "tail 3": (("--tail", "3"), 3, ["3"]), "tail 0": (("--tail", "0"), 0, []),
    "tail 250": (("--tail", "250"), 250, ["200", "50"]), "all": (("--all",), 450, ["200", "200", "200"]),
}


@pytest.mark.parametrize(("words", "count", "limits"), TAILS.values(), ids=TAILS)
def test_run_ls_takes_the_newest(cli, gw, words, count, limits):
    all_runs = runs(0, 450)
    sizes = [min(int(limit), 200) for limit in limits]
    starts = [sum(sizes[:index]) for index in range(len(sizes))]
    order(gw, *(page(all_runs[start:start + size], "more" + str(start) if start + size < 450 else None)
                for start, size in zip(starts, sizes)))
    for form in ("json", "table", "yaml"):
        if form != "json":
            order(gw, *(page(all_runs[start:start + size], "more" + str(start) if start + size < 450 else None)
                        for start, size in zip(starts, sizes)))
        done = cli("run", "ls", *words, "--format", form, gw=gw)
        assert done.code == 0, done
        assert done.out.count("run-0") == count
        if form == "json":
            assert done.json() == all_runs[:count]
    assert [request.query["limit"] for request in gw.requests] == limits * 3


def test_run_ls_all_with_tail_is_a_usage_error(cli, gw):
    assert cli("run", "ls", "--all", "--tail", "3", gw=gw).code == 2
    assert gw.requests == []


def test_a_page_with_more_than_was_asked_for_is_cut(cli, gw):
    for form, mark in (("json", '"runId"'), ("yaml", "runId:"), ("table", "run-0")):
        order(gw, page(runs(0, 7), "x"))
        done = cli("run", "ls", "--tail", "3", "--format", form, gw=gw)
        assert done.out.count(mark) == 3, done
    assert len(gw.requests) == 3


ENDLESS = {
    "the same cursor at once": [page(runs(0, 1), "a"), page(runs(1, 1), "a")],
    "a circle of three": [page([], "a"), page([], "b"), page([], "c"), page([], "a")],
}


@pytest.mark.parametrize("bodies", ENDLESS.values(), ids=ENDLESS)
def test_a_cursor_that_comes_again_is_an_error(cli, gw, bodies):
    order(gw, *bodies)
    done = cli("run", "ls", "--all", gw=gw)
    assert done.code == 1, done
    assert 'does not end: its cursor "a" comes again' in done.err
    assert len(gw.requests) == len(bodies)


@pytest.mark.parametrize(("items", "limit", "told"), [
    ([], "MAX_EMPTY_PAGES", "7 empty pages in a row"), ([{}], "MAX_PAGES", "7 pages"),
], ids=["of empty pages", "of pages"])
def test_a_list_that_never_ends_is_an_error(cli, gw, monkeypatch, items, limit, told):
    monkeypatch.setattr(stella, limit, 7)
    count = iter(range(1000))
    order(gw, *(page(items, f"c{next(count)}") for _ in range(20)))
    done = cli("run", "ls", "--all", gw=gw)
    assert done.code == 1, done
    assert f"does not end: {told}, and there are more" in done.err
    assert len(gw.requests) == 7


BROKEN = {
    "no items": b"{}", "items null": b'{"items": null}', "items an object": b'{"items": {}}', "a list": b"[]",
    "NaN": b'{"items": [NaN]}', "cut off": b'{"items": [{"a": 1}',
    "no items, deep": b'{"a": ' + b"[" * 900 + b"]" * 900 + b"}",
    "number as cursor": b'{"items": [{}], "nextCursor": 2}', "object as cursor": b'{"items": [], "nextCursor": {}}',
    "nested": b'{"items": [' + b"[" * 70 + b"]" * 70 + b"]}",
    "nested and long": b'{"items": ["a",' + b"[" * 2000 + b"]" * 2000 + b"]}", "HTML": b"<html>", "empty": b"",
}


def test_deep_items_are_refused_as_yaml_and_harmless_in_a_table(cli, gw):
    body = b'{"items": [{"runId": "r", "x": ' + b"[" * 200 + b"1" + b"]" * 200 + b"}]}"
    order(gw, body, body, body)
    told = cli("run", "ls", "--format", "yaml", gw=gw)
    assert (told.code, told.out) == (1, ""), told
    assert "nested deeper than 64 levels" in told.err
    assert cli("run", "ls", "--query", "0.runId", gw=gw).code == 1
    assert cli("run", "ls", "--format", "table", gw=gw).out.splitlines()[1] == "r"


@pytest.mark.parametrize("body", BROKEN.values(), ids=BROKEN)
def test_broken_page_is_an_error(cli, gw, body):
    order(gw, body)
    done = cli("run", "ls", gw=gw)
    assert (done.code, done.out) == (1, ""), done
    assert "Traceback" not in done.err
    assert "fault of stella's" not in done.err


SHAPES = {
    "items first": page([{"a": 1, "b": [], "c": {}}, [], {}, "x", 1, None]),
    "cursor first": b'{"nextCursor": null, "total": 3, "items": [{"a": 1.10}]}',
    "behind an object": b'{"meta": {"items": [1]}, "items": [{"a": 1.10}]}',
    "behind a string that looks like it": b'{"x": "\\"items\\": [7]", "items": [{"a": 1.10}]}',
    "behind a key that looks like it": b'{"\\"items": [7], "items": [{"a": 1.10}]}',
    "key in escapes": b'{"\\u0069tems": [{"a": 1.10}]}',
    "with more behind": b'{"items": [{"a": [1, 2, {"b": "]"}]}], "x": [{"items": [1]}], "nextCursor": null}',
    "strings full of structure": page([{"a{": '}],[{"', "b\\": '\\\\"', '"': [",", ":", "\n", "[]"]}]),
    "escapes that need not be": b'{"items": ["\\u0041\\/\\u00e9\\ud83d\\ude00", "\\u001b\\t\\b", "\\\\u0041"]}',
    "pretty": json.dumps({"items": runs(0, 3), "nextCursor": None}, indent=4).encode(),
    "odd white space": b' {\n"items"\t:\r\n[ { "a" : 1 , "b" : [ 1 , -2.50 ,true ] } , { } , [ ] ]\n,"x":1}\n',
    "empty": b'{"items": [ ]}',
    "bare values": b'{"items":[1,2.0,true,null,"a",[[1]],[[]],{"a":{}}]}',
    "non-ASCII raw": '{"items":[{"ключ":"значение\U0001f600"}]}'.encode(),
}


@pytest.mark.parametrize("body", SHAPES.values(), ids=SHAPES)
def test_list_as_json_is_what_show_would_print(cli, gw, body):
    order(gw, body)
    done = cli("run", "ls", gw=gw)
    exact = stella.parse_json(body, "page", keep_numbers=True)["items"]
    assert done.out == stella.json_text(exact) + "\n"
    assert done.json() == json.loads(body)["items"]


@pytest.mark.parametrize("form", ["json", "yaml", "table"])
def test_two_pages_are_one_list(cli, gw, form):
    order(gw, page(runs(0, 2), "x"), page([], "y"), page(runs(2, 1)))
    paged = cli("run", "ls", "--all", "--format", form, gw=gw)
    order(gw, page(runs(0, 3)))
    assert cli("run", "ls", "--all", "--format", form, gw=gw).out == paged.out


@pytest.mark.parametrize(("form", "text"), [
    ("json", "[]\n"), ("yaml", "[]\n"), ("table", "RUN  PROFILE  STATUS  PROGRESS  UPDATED\n"),
])
def test_empty_list(cli, gw, form, text):
    assert cli("run", "ls", "--format", form, gw=gw).out == text
    assert cli("run", "ls", "--tail", "0", "--format", form, gw=gw).out == text


@pytest.mark.parametrize("form", ["json", "yaml", "table"])
def test_the_first_row_leaves_before_the_last_page_is_asked_for(process, gw, form):
    seen = threading.Event()
    order(gw, page(runs(0, 200), "2"))
    gw.order(Fault("GET", RUNS_PATH, status=200, body=page(runs(200, 1)), act=lambda _: seen.wait(20)))
    child = process("run", "ls", "--all", "--format", form, gw=gw, background=True)
    first = child.stdout.read(1000)
    seen.set()
    rest = child.communicate()[0]
    assert child.returncode == 0
    assert b"run-00003" in first
    assert b"run-00200" not in first
    assert b"run-00200" in rest


@pytest.mark.parametrize("form", ["json", "yaml", "table"])
def test_memory_does_not_grow_with_the_list(form):
    """20,000 runs and 2,000 have the same peak, within a page."""
    text = page(runs(0, 200)).decode()
    console = stella.Console()

    def peak(pages):
        tracemalloc.start()
        source = (stella.Page(json.loads(text)["items"], text) for _ in range(pages))
        if form == "table":
            table = stella.Table(console, ("RUN", "PROFILE", "STATUS", "PROGRESS", "UPDATED"))
            count = sum(len(table.lines([stella.run_row(item) for item in each.items])) for each in source) - 1
        else:
            mark = '"runId"' if form == "json" else "runId:"
            texts = stella.json_pages(source) if form == "json" else stella.yaml_pages(source)
            count = sum(each.count(mark) for each in texts)
        assert count == pages * 200
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    peak(1)
    assert peak(20) < peak(4) + 2 * len(text)


def test_forms_of_an_odd_list_are_not_remembered_without_end():
    indenter = stella.JsonIndenter()
    for start in range(0, 20_000, 1000):
        numbers = ",".join(f'[{number},"x"]' for number in range(start, start + 1000))
        assert json.loads(indenter.indent(f"[{numbers}]"))[-1] == [start + 999, "x"]
    assert all(len(level) <= stella.MAX_JSON_FORMS for level in indenter._levels)


COLONS = ['[":"]', '["a",":"]', '[":",":"]', '{"":":"}', '{":":":"}', '{"a":":"}', '[{"a":"b"},":",{"a":"b"}]',
          '["\\\\",":"]', '[{"a":"\\":\\""}]', '[["a",":","b"],{":":[":"]}]']


@pytest.mark.parametrize("text", COLONS)
def test_strings_that_look_like_the_space_between_others(text):
    value = json.loads(text)
    assert stella.JsonIndenter().indent(f'[{text}],"x":":"}}') == stella.json_text([value])


@pytest.mark.parametrize("path", ["runId", "-1", "2"])
def test_query_that_is_no_place_in_the_list(cli, gw, path):
    gw.make_run()
    gw.make_run()
    done = cli("run", "ls", "--query", path, gw=gw)
    assert (done.code, "it is a list: 0 to 1" in done.err) == (10, True), done


def test_query_of_one_item_asks_no_further(cli, gw):
    order(gw, page(runs(0, 200), "2"), page(runs(200, 200), "3"))
    done = cli("run", "ls", "--all", "--query", "203.runId", gw=gw)
    assert (done.code, done.out) == (0, "run-00203\n"), done
    assert len(gw.requests) == 2
