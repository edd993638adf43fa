"""Tables, views, colours, JSON spelling, --query and --output: what stands on the screen and what is in the pipe."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import time

import pytest

import stella
from conftest import STELLA, surroundings
from gateway import Fault
from scripted import Scripted
from wire import Wire

E_ACUTE = "e\u0301"  # one column, two characters
FAMILY = "\U0001f468"  # two columns


class Screen:
    """What a Table wants of the Console: a terminal of so many columns, or (0) a pipe."""

    def __init__(self, columns=0, color=False, unicode=True):
        self.out_is_terminal, self.width, self.color, self.all_characters = bool(columns), columns, color, unicode

    def columns(self, _):
        return self.width

    def unicode(self, _):
        return self.all_characters

    paint = stella.Console.paint


def draw(*rows, screen=None):
    return stella.Table(screen or Screen(), ("A", "STATUS")).lines(rows)


TABLES = {
    "as wide as its cells": (["abc", "d"], ["e", "fgh"], ["A    STATUS", "abc  d", "e    fgh"]),
    "empty cells end no line in spaces": (["abc", ""], ["", "x"], ["A    STATUS", "abc", "     x"]),
    "CJK": (["日本", "a"], ["a", "b"], ["A     STATUS", "日本  a", "a     b"]),
    "full-width letters": (["Ａ", "a"], ["a", "b"], ["A   STATUS", "Ａ  a", "a   b"]),
    "Hangul syllable of letters": (["\u1100\u1161\u11a8", "a"], ["ab", "b"],
                                   ["A   STATUS", "\u1100\u1161\u11a8  a", "ab  b"]),
    "emoji": ([FAMILY, "a"], ["a", "b"], ["A   STATUS", f"{FAMILY}  a", "a   b"]),
    "combining mark": ([E_ACUTE, "a"], ["abc", "b"], ["A    STATUS", f"{E_ACUTE}    a", "abc  b"]),
    "many combining marks": (["a" + "\u0300" * 50, "a"], ["b", "b"],
                             ["A  STATUS", "a" + "\u0300" * 50 + "  a", "b  b"]),
    "ANSI colour": (["\x1b[31mred", "a"], ["b", "b"], ["A            STATUS", "\\x1b[31mred  a", "b            b"]),
    "newline, tab, return": (["a\nb\tc\r", "a"], ["b", "b"], ["A          STATUS", "a\\nb\\tc\\r  a", "b          b"]),
    "bidi override": (["a\u202egpj.exe", "a"], ["b", "b"],
                      ["A               STATUS", "a\\u202egpj.exe  a", "b               b"]),
    "bidi isolate": (["\u2066", "a"], ["b", "b"], ["A       STATUS", "\\u2066  a", "b       b"]),
    "zero-width joiner": (["\u200d", "a"], ["b", "b"], ["A       STATUS", "\\u200d  a", "b       b"]),
    "C1 control": (["\x9b2J", "a"], ["b", "b"], ["A       STATUS", "\\x9b2J  a", "b       b"]),
    "lone surrogate": (["\ud800", "a"], ["b", "b"], ["A       STATUS", "\\ud800  a", "b       b"]),
    "line separator": (["\u2028", "a"], ["b", "b"], ["A       STATUS", "\\u2028  a", "b       b"]),
    "tag character": (["\U000e0041", "a"], ["b", "b"], ["A           STATUS", "\\U000e0041  a", "b           b"]),
    "percent sign": (["%s%d", "%"], ["b", "b"], ["A     STATUS", "%s%d  %", "b     b"]),
    "500 characters in a pipe": (["x" * 500, "a"], ["b", "b"],
                                 ["A" + " " * 501 + "STATUS", "x" * 500 + "  a", "b" + " " * 501 + "b"]),
}


@pytest.mark.parametrize(("first", "second", "lines"), TABLES.values(), ids=TABLES)
def test_table(first, second, lines):
    assert draw(first, second) == lines


ON_A_TERMINAL = {
    "fits": (["abcdefgh", "x"], 16, ["A         STATUS", "abcdefgh  x"]),
    "does not fit": (["abcdefghij", "x"], 16, ["A         STATUS", "abcdefg…  x"]),
    "both shrink": (["abcdefghij", "abcdefghij"], 12, ["A      STAT…", "abcd…  abcd…"]),
    "wide characters are never cut in half": (["日本語日本語", "x"], 16, ["A         STATUS", "日本語…   x"]),
    "a mark stays with its letter": (["abcdef" + E_ACUTE + "hij", "x"], 16,
                                     ["A         STATUS", "abcdef" + E_ACUTE + "…  x"]),
    "an escape is cut like any text": (["abcd\x1b[31m", "x"], 16, ["A         STATUS", "abcd\\x1…  x"]),
    "hopelessly narrow": (["abcdefghij", "abcdefghij"], 3, ["A     STA…", "abc…  abc…"]),
}


@pytest.mark.parametrize(("row", "columns", "lines"), ON_A_TERMINAL.values(), ids=ON_A_TERMINAL)
def test_table_fits_the_terminal(row, columns, lines):
    assert draw(row, screen=Screen(columns)) == lines
    assert columns < 10 or all(stella.text_width(line) <= columns for line in lines)


def test_a_terminal_without_unicode_gets_escapes_that_keep_the_columns(monkeypatch):
    class Ascii:
        encoding = "ascii"

    monkeypatch.setattr(stella.sys, "stdout", Ascii())
    table = stella.Table(Screen(20, unicode=False), ("A", "STATUS"))
    assert table.lines([["é", "x"], ["a" * 30, "y"]]) == ["A             STATUS", "\\xe9          x",
                                                          "aaaaaaaaa...  y"]


def test_later_pages_never_get_narrower():
    table = stella.Table(Screen(), ("A", "STATUS"))
    assert table.lines([["aaaa", "b"]]) == ["A     STATUS", "aaaa  b"]
    assert table.lines([["a", "b"], ["aaaaaaaa", "b"]]) == ["a         b", "aaaaaaaa  b"]
    assert table.lines([["a", "b"]]) == ["a         b"]
    assert table.lines([]) == []


COLORED = {
    "succeeded": "\x1b[32msucceeded\x1b[0m", "failed": "\x1b[31mfailed\x1b[0m", "running": "\x1b[36mrunning\x1b[0m",
    "expired": "\x1b[33mexpired\x1b[0m", "cancelled": "\x1b[33mcancelled\x1b[0m", "pending": "pending",
    "\x1b[5m": "\\x1b[5m",
}


@pytest.mark.parametrize("status", COLORED, ids=repr)
def test_status_colour(status):
    assert draw(["a", status], screen=Screen(80, color=True))[1] == "a  " + COLORED[status]
    assert "\x1b" not in draw(["a", status], screen=Screen(80))[1]


@pytest.fixture
def terminal(monkeypatch):
    monkeypatch.setattr(stella.Console, "_is_terminal", staticmethod(lambda _: True))
    return {"TERM": "xterm-256color", "COLUMNS": "100"}


@pytest.mark.parametrize(("more", "colored"), [
    ({}, True), ({"NO_COLOR": "1"}, False), ({"NO_COLOR": ""}, True), ({"TERM": "dumb"}, False), ({"TERM": ""}, False),
], ids=["colour", "NO_COLOR", "NO_COLOR empty", "TERM=dumb", "no TERM"])
def test_colour_is_for_terminals_that_want_it(cli, gw, terminal, more, colored):
    run = gw.make_run()
    for words in (("run", "ls"), ("run", "show", run["runId"])):
        done = cli(*words, gw=gw, env={**terminal, **more})
        assert ("\x1b[32msucceeded\x1b[0m" in done.out, "\x1b" in done.out) == (colored, colored), done


def test_no_colour_in_a_pipe(cli, gw):
    gw.make_run()
    done = cli("run", "ls", "--format", "table", gw=gw, env={"TERM": "xterm-256color"})
    assert "succeeded" in done.out
    assert "\x1b" not in done.out


# ---- rows and views

RUN = {"runId": "run-1", "profileId": "p", "status": "running", "createdAt": "2025-10-29T13:42:11Z",
       "updatedAt": "2025-10-29T15:42:11.987654+02:00", "completedAt": None,
       "progress": {"percent": 37.5, "phase": "adapter", "processed": 1200, "total": 3200}}
RUN_ROWS = {
    "running": ({}, ["run-1", "p", "running", "37.5 % adapter", "2025-10-29T13:42:11Z"]),
    "succeeded shows no phase": ({"status": "succeeded", "progress": {"percent": 100, "phase": "sign"}},
                                 ["run-1", "p", "succeeded", "100 %", "2025-10-29T13:42:11Z"]),
    "no progress": ({"progress": None}, ["run-1", "p", "running", "", "2025-10-29T13:42:11Z"]),
    "only a phase": ({"progress": {"phase": "sign"}}, ["run-1", "p", "running", "sign", "2025-10-29T13:42:11Z"]),
    "no percentage": ({"progress": {"percent": "many"}}, ["run-1", "p", "running", "", "2025-10-29T13:42:11Z"]),
    "percent true": ({"progress": {"percent": True}}, ["run-1", "p", "running", "", "2025-10-29T13:42:11Z"]),
    "no time": ({"updatedAt": "yesterday"}, ["run-1", "p", "running", "37.5 % adapter", "yesterday"]),
    "time missing": ({"updatedAt": None}, ["run-1", "p", "running", "37.5 % adapter", ""]),
    "time that does not exist": ({"updatedAt": "2025-02-30T00:00:00+01:00"},
                                 ["run-1", "p", "running", "37.5 % adapter", "2025-02-30T00:00:00+01:00"]),
    "leap second": ({"updatedAt": "2016-12-31T23:59:60Z"},
                    ["run-1", "p", "running", "37.5 % adapter", "2017-01-01T00:00:00Z"]),
    "wrong types": ({"runId": 7, "profileId": [], "status": {}, "progress": "x", "updatedAt": 1}, ["", "", "", "", ""]),
}


@pytest.mark.parametrize(("more", "row"), RUN_ROWS.values(), ids=RUN_ROWS)
def test_run_row(more, row):
    assert stella.run_row({**RUN, **more}) == row


PROFILE = {"profileId": "prof-1", "name": "Nightly", "kind": "json", "variant": "raw", "include": ["vex", "sboms"],
           "distribution": ["http", "object"], "retention": "days:14", "revision": 3, "encryption": {"mode": "none"},
           "status": "active", "updatedAt": "2025-10-29T13:42:11Z"}
PROFILE_ROWS = {
    "whole": ({}, ["prof-1", "json", "raw", "http,object", "days:14"]),
    "bare": ({"distribution": None, "retention": None}, ["prof-1", "json", "raw", "", ""]),
    "wrong types": ({"distribution": [1, {}, "oci"], "kind": 1}, ["prof-1", "", "raw", ",,oci", "days:14"]),
}


@pytest.mark.parametrize(("more", "row"), PROFILE_ROWS.values(), ids=PROFILE_ROWS)
def test_profile_row(more, row):
    assert stella.profile_row({**PROFILE, **more}) == row


@pytest.mark.parametrize("value", [None, 7, "x", [], {}], ids=repr)
def test_rows_and_views_take_any_shape(value):
    assert stella.run_row(value) == [""] * 5
    assert stella.profile_row(value) == [""] * 5
    if isinstance(value, dict):
        assert stella.run_view(value) == stella.profile_view(value) == []


def test_run_view():
    run = {**RUN, "policySnapshotId": "snap", "selectors": {"tenants": ["a"]},
           "error": {"code": "E", "message": "m\x1b"},
           "bundle": {"name": "export.tar.zst", "size": 1048576, "sha256": "ab"},
           "distribution": [{"type": "http"}, {"type": "object", "bucket": "b", "key": "k/x"},
                            {"type": "oci", "ref": "r/n:t"}]}
    assert stella.run_view(run) == [
        "Run:           run-1", "Profile:       p", "Status:        running", "Progress:      37.5 % adapter",
        "Error:         m\\x1b (E)", "Created:       2025-10-29T13:42:11Z", "Updated:       2025-10-29T13:42:11Z",
        "Policy:        snap", 'Selectors:     {"tenants":["a"]}', "Bundle:        export.tar.zst, 1.0 MiB",
        "SHA-256:       ab", "Distribution:  http", "Distribution:  object b/k/x", "Distribution:  oci r/n:t"]


def test_profile_view():
    assert stella.profile_view(PROFILE) == [
        "Profile:       prof-1", "Name:          Nightly", "Kind:          json", "Variant:       raw",
        "Status:        active", "Retention:     days:14", "Include:       vex,sboms", "Distribution:  http,object",
        "Encryption:    none", "Revision:      3", "Updated:       2025-10-29T13:42:11Z"]


# ---- JSON

HOSTILE = {"name": "a\x1b[2J\u202e\n\u2028", "number": 1.0}
SPELLINGS = ("1.0", "1.10", "0.1", "-0", "-0.0", "1e5", "1E5", "1e+5", "1e400", "1.7976931348623157e309",
             "0.30000000000000004", "12345678901234567890123", "1" * 400, "9" * 5000, "1e-400", "100", "-7", "0")


def answer_with(gw, body: str, path=r"/profiles/x$"):
    gw.order(Fault("GET", path, status=200, body=body.encode(), head={"Content-Type": "application/json"}))


@pytest.mark.parametrize("number", SPELLINGS, ids=lambda text: text[:30])
def test_numbers_keep_their_spelling(cli, gw, number):
    answer_with(gw, '{"b": %s, "a": [%s]}' % (number, number))
    done = cli("profile", "show", "x", gw=gw)
    assert done.out == '{\n  "b": %s,\n  "a": [\n    %s\n  ]\n}\n' % (number, number)
    answer_with(gw, '{"items": [{"n":%s,"s":"x"},{"n":%s }, [1,%s, "a"]]}' % (number, number, number), r"/runs$")
    done = cli("run", "ls", gw=gw)
    assert done.out.count(number) >= 3
    assert '"n": %s,\n' % number in done.out
    answer_with(gw, '{"b": %s}' % number)
    assert cli("profile", "show", "x", "--query", "b", gw=gw).out == number + "\n"


def test_json_is_utf8_in_the_servers_order_and_untouched_in_a_pipe(cli, gw):
    document = {"z": "ü\U0001f600", **HOSTILE, "a": None}
    answer_with(gw, json.dumps(document))
    done = cli("profile", "show", "x", gw=gw)
    assert list(done.json()) == list(document)
    assert done.json() == document
    assert "ü\U0001f600" in done.out
    assert "\u202e" in done.out


def test_json_and_yaml_on_a_terminal_are_escaped_and_still_the_same_value(cli, gw, terminal):
    text = json.dumps({**HOSTILE, "tag": "\U000e0041"})
    for form in ("json", "yaml"):
        answer_with(gw, text)
        done = cli("profile", "show", "x", "--format", form, gw=gw, env=terminal)
        assert all(stella.is_visible(char) or char == "\n" for char in done.out), done
        if form == "json":
            assert done.json() == json.loads(text)


def test_signed_bytes_are_exact_in_a_pipe_and_harmless_on_a_terminal(cli, gw, terminal, monkeypatch):
    data = '{"a": "\u202e\x9b2J",\r\n "b": 1}\n'.encode() + b"\xff\x1b[2J"
    for shown in (True, False):
        monkeypatch.setattr(stella.Console, "_is_terminal", staticmethod(lambda _, shown=shown: shown))
        gw.order(Fault("GET", r"/manifest$", status=200, body=data))
        done = cli("manifest", "x", gw=gw, env=terminal)
        if shown:
            assert done.out == '{"a": "\\u202e\\u009b2J",\\r\n "b": 1}\n\\xff\\u001b[2J'
        else:
            assert done.out_bytes == data


def test_lone_surrogate_stays_an_escape(cli, gw):
    answer_with(gw, '{"a": "\\ud83d"}')
    assert cli("profile", "show", "x", gw=gw).out == '{\n  "a": "\\ud83d"\n}\n'


# ---- --query

QUERIES = {
    "string": ("runId", "run-1\n"), "nested": ("progress.percent", "37.5\n"), "null": ("completedAt", "null\n"),
    "object": ("progress", json.dumps(RUN["progress"], indent=2) + "\n"),
}


@pytest.mark.parametrize(("path", "text"), QUERIES.values(), ids=QUERIES)
def test_query(cli, gw, path, text):
    for form in ("json", "yaml", "table"):
        answer_with(gw, json.dumps(RUN), r"/runs/x$")
        done = cli("run", "show", "x", "--query", path, "--format", form, gw=gw)
        assert (done.code, done.out) == (0, text), done


@pytest.mark.parametrize("path", ["x", "runId.x", "progress.0", "progress..percent", ".", "runId.0", "-1",
                                  "distribution.9", "distribution.\u0660", "distribution.0000000009",
                                  "distribution." + "0" * 5000])
def test_query_for_what_is_not_there_is_exit_10(cli, gw, path):
    answer_with(gw, json.dumps(RUN), r"/runs/x$")
    done = cli("run", "show", "x", "--query", path, gw=gw)
    assert (done.code, done.out) == (10, ""), done
    assert "--query" in done.err


def test_query_of_a_list(cli, gw):
    assert cli("profile", "list", "--query", "0.profileId", gw=gw).out == "prof-json-raw\n"
    for path in ("99.profileId", "0000000099", "0" * 5000):
        assert cli("profile", "list", "--query", path, gw=gw).code == 10


# ---- --output

COMMANDS_WITH_OUTPUT = {
    "profile list": ("profile", "list"), "profile show": ("profile", "show", "prof-json-raw"),
    "profile create": ("profile", "create", "--file", "{file}"),
    "profile create --dry-run": ("profile", "create", "--file", "{file}", "--dry-run"),
    "profile update": ("profile", "update", "prof-json-raw", "--name", "n"),
    "profile archive": ("profile", "archive", "prof-json-raw"),
    "profile restore": ("profile", "restore", "prof-json-raw"),
    "run submit": ("run", "submit", "prof-json-raw"), "run ls": ("run", "ls"), "run show": ("run", "show", "{run}"),
    "run cancel": ("run", "cancel", "{active}"), "run watch": ("run", "watch", "{run}"),
    "manifest": ("manifest", "{run}"), "provenance": ("provenance", "{run}"),
}


@pytest.mark.parametrize("words", COMMANDS_WITH_OUTPUT.values(), ids=COMMANDS_WITH_OUTPUT)
def test_output_is_a_whole_file_in_new_folders_or_stdout(cli, gw, tmp_path, words):
    source = tmp_path / "new.json"
    source.write_text('{"name": "n", "kind": "json", "variant": "raw", "distribution": ["http"]}')
    run = gw.make_run()["runId"]
    gw.hold()
    active = gw.make_run(wait=False)["runId"]
    words = [word.format(file=source, run=run, active=active) for word in words]
    target = tmp_path / "some" / "new folders" / "out.json"
    done = cli(*words, "--output", target, "--format", "table", gw=gw)
    assert done.code == 0, done
    assert (done.out == "") == (words[1] != "watch"), done  # whose last line is for people
    assert json.loads(target.read_bytes()), "the full JSON, whatever the format of lists"
    assert os.listdir(target.parent) == ["out.json"]
    if words[1] not in ("cancel", "watch"):
        done = cli(*words, "--output", "-", "--format", "table", gw=gw)
        assert done.code == 0, done
        assert isinstance(done.json(), (dict, list))
    gw.release()


@pytest.mark.parametrize("name", ["\u6f22" * 85, "\udcff" * 255, "a" * 255], ids=["CJK", "not UTF-8", "ASCII"])
def test_output_may_have_the_longest_name_there_is(cli, gw, tmp_path, name):
    assert cli("profile", "list", "--output", tmp_path / name, gw=gw).code == 0
    assert os.listdir(tmp_path) == [name]


OPEN_ALREADY = {
    "log that goes on": ("--output /dev/stdout >>log", "head\nactive\ntail\n"),
    "pipe": ("--output /dev/stdout | cat >>log", "head\nactive\ntail\n"),
    "stderr": ("--output /dev/stderr 2>>log", "head\nactive\ntail\n"),
    "descriptor": ("--output /dev/fd/7 7>>log", "head\nactive\ntail\n"),
    "not open": ("--output /dev/fd/77 2>/dev/null", "head\ntail\n"),
}


@pytest.mark.parametrize(("words", "log"), OPEN_ALREADY.values(), ids=OPEN_ALREADY)
def test_output_that_is_open_already_is_written_on_and_not_replaced(gw, tmp_path, words, log):
    command = f"'{sys.executable}' '{STELLA}' export profile show prof-json-raw --query status"
    script = f"echo head >>log; {command} {words}; echo tail >>log"
    subprocess.run(["sh", "-c", script], cwd=tmp_path, env=surroundings(gw), check=True)
    assert (tmp_path / "log").read_text() == log
    assert os.listdir(tmp_path) == ["log"]


def test_output_as_yaml(cli, gw, tmp_path):
    target = tmp_path / "p.yaml"
    assert cli("profile", "show", "prof-json-raw", "--output", target, "--format", "yaml", gw=gw).code == 0
    assert target.read_text().startswith("profileId: prof-json-raw\nname: ")


def test_failed_command_leaves_the_old_file_and_nothing_beside_it(cli, gw, tmp_path):
    target = tmp_path / "out.json"
    target.write_text("old")
    gw.order(Fault.error(404, "ERR_EXPORT_002"))
    assert cli("run", "show", "x", "--output", target, gw=gw).code == 11
    gw.make_run()
    gw.order(Fault("GET", r"/runs$", body=b'{"items": [{"runId": "a"}], "nextCursor": "x"}'),
             Fault.error(404, "ERR_EXPORT_002"))
    assert cli("run", "ls", "--output", target, gw=gw).code == 11
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["out.json"]


def test_output_keeps_the_mode_of_the_file_it_replaces(cli, gw, tmp_path):
    target = tmp_path / "out.json"
    target.write_text("old")
    target.chmod(0o600)
    assert cli("profile", "list", "--output", target, gw=gw).code == 0
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert len(json.loads(target.read_bytes())) > 1


def test_output_to_a_terminal_by_its_number_is_exit_1(cli, gw):
    terminals = os.openpty()
    try:
        done = cli("profile", "list", "--output", f"/dev/fd/{terminals[1]}", gw=gw)
    finally:
        for each in terminals:
            os.close(each)
    assert (done.code, done.out) == (1, ""), done
    assert "is a terminal\n  use - for standard output" in done.err


@pytest.mark.parametrize(("name", "told"), [("folder", "it is a folder"), ("new/", "it ends in /; name a file"),
                                            ("file/x.json", "x.json")])
def test_output_that_cannot_be_written_is_exit_1(cli, gw, tmp_path, name, told):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    done = cli("profile", "list", "--output", f"{tmp_path}/{name}", gw=gw)
    assert (done.code, done.out) == (1, ""), done
    assert told in done.err
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


@pytest.mark.parametrize(("name", "told"), [("folder", "it is a folder"), ("new/", "it ends in /; name a file")])
def test_download_to_a_folder_s_name_is_exit_1(cli, gw, tmp_path, name, told):
    (tmp_path / "folder").mkdir()
    done = cli("download", gw.make_run()["runId"], "--output", f"{tmp_path}/{name}", gw=gw)
    assert (done.code, done.out, os.listdir(tmp_path)) == (1, "", ["folder"]), done
    assert told in done.err


# ---- ids

IDS = {"slash": ("a/b", "a%2Fb"), "question mark": ("a?b", "a%3Fb"), "percent": ("a%2Fb", "a%252Fb"),
       "hash": ("a#b", "a%23b"), "space": ("a b", "a%20b"), "non-ASCII": ("ü\u65e5", "%C3%BC%E6%97%A5"),
       "dots inside": ("..a", "..a"), "climbing": ("../x", "..%2Fx"), "plus and semicolon": ("a+b;c", "a%2Bb%3Bc"),
       "newline": ("a\r\nHost: x", "a%0D%0AHost%3A%20x")}
PLACES = {
    "profile show": (("profile", "show"), "/api/export/profiles/{}"),
    "profile update": (("profile", "update", "--name", "n"), "/api/export/profiles/{}"),
    "profile archive": (("profile", "archive"), "/api/export/profiles/{}/archive"),
    "profile restore": (("profile", "restore"), "/api/export/profiles/{}/restore"),
    "run show": (("run", "show"), "/api/export/runs/{}"),
    "run cancel": (("run", "cancel"), "/api/export/runs/{}/cancel"),
    "manifest": (("manifest",), "/api/export/runs/{}/manifest"),
    "provenance": (("provenance",), "/api/export/runs/{}/provenance"),
    "download": (("download",), "/api/export/runs/{}"),
    "run watch": (("run", "watch"), "/api/export/runs/{}/events"),
}


@pytest.mark.parametrize(("words", "path"), PLACES.values(), ids=PLACES)
def test_odd_ids_reach_the_right_path(cli, gw, words, path):
    for odd, encoded in IDS.values():
        assert cli(*words, "--", odd, gw=gw).code == 11
        assert gw.requests[-1].target == path.format(encoded)
    count = len(gw.requests)
    for bad in ("", ".", ".."):
        done = cli(*words, "--", bad, gw=gw)
        assert (done.code, done.out) == (10, ""), done
    assert len(gw.requests) == count


@pytest.mark.parametrize("options", ["-u", ""])
def test_output_that_takes_only_a_part_is_told_of_with_and_without_a_buffer(tmp_path, options):
    """Unbuffered (PYTHONUNBUFFERED, as in most container images), it takes what there is room for and says how much."""
    command = 'ulimit -f 4; exec "$0" $1 "$2" completion bash >out'
    done = subprocess.run(["sh", "-c", command, sys.executable, options, str(STELLA)], cwd=tmp_path, check=False,
                          env=surroundings(env={"PYTHONUNBUFFERED": ""}), capture_output=True, text=True, timeout=60)
    assert (done.returncode, (tmp_path / "out").stat().st_size) == (1, 2048), done
    assert "cannot write to standard output" in done.stderr


def test_report_never_takes_the_bundle_s_place(cli, gw, tmp_path):
    run = gw.make_bundle_run(members={"a": b"1"}, name="export.tar")
    kit = tmp_path / "kit"
    assert cli("kit", run["runId"], "--output", kit, gw=gw).code == 0
    before = (kit / "export.tar").read_bytes()
    words = ("verify", run["runId"], "--kit", kit, "--key", gw.public_key)
    done = cli(*words, "--output", kit / "export.tar", gw=gw)
    assert (done.code, (kit / "export.tar").read_bytes() == before) == (2, True), done
    assert cli("verify", run["runId"], "--manifest", kit / "export.json", "--provenance", kit / "provenance.json",
               "--key", gw.public_key, "--bundle", "", gw=gw).code == 2


def test_document_whose_length_is_no_number_or_that_is_cut_is_no_document(cli, tmp_path):
    for head in ("Content-Length: +32", "Content-Length: 3_2", "Transfer-Encoding: gzip, chunked", "no header"):
        answer = b"HTTP/1.1 200 OK\r\nConnection: close\r\n" + head.encode() + b"\r\n\r\n" + b"0123456789"
        with Wire(answer) as wire:
            done = cli("manifest", "r", "--output", tmp_path / "m", "--retries", "0", "--server", wire.url,
                       env={"STELLA_TOKEN": "secret"})
        assert (done.code, os.listdir(tmp_path)) == (21, []), (head, done)


@pytest.mark.parametrize(("words", "pause", "code"), [
    (("run", "watch", "r", "--deadline", "1"), 0.05, 14), (("run", "show", "r", "--timeout", "0.3"), 0.25, 21)])
def test_body_that_drips_ends_with_the_deadline_and_without_one_with_patience(cli, words, pause, code):
    """A byte starts the socket's timeout again; 64 MiB of them are allowed."""

    def drip(_):
        yield b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: 900\r\n\r\n"
        for _ in range(900):
            sent.append(1)
            time.sleep(pause)
            yield b" "

    sent = []
    with Wire(drip) as wire:
        done = cli(*words, "--retries", "0", "--server", wire.url, env={"STELLA_TOKEN": "secret"})
        assert (done.code, len(sent) < 300) == (code, True), done


OLD = {"m.json": b"old document", "m.sig": b"old signature"}


@pytest.mark.parametrize("old", [OLD, {}, {"m.sig": b"old signature"}], ids=["both there", "none there", "one there"])
@pytest.mark.parametrize("fault", ["the second name", "Ctrl-C after the first name", "Ctrl-C after the second"])
def test_document_and_signature_are_both_new_or_both_as_they_were(tmp_path, monkeypatch, old, fault):
    """Contract 4: with both options, both files are written or neither."""
    for name, data in old.items():
        (tmp_path / name).write_bytes(data)
    names, replace, sync = [], os.replace, stella.sync_folder

    def refuse_second(source, target):
        names.append(target)
        if fault == "the second name" and names[1:] == [target]:
            raise OSError(16, "Device or resource busy")
        replace(source, target)

    def interrupt(path):
        sync(path)
        if len(names) == {"Ctrl-C after the first name": 1, "Ctrl-C after the second": 2}.get(fault):
            raise stella.Interrupted(2)

    monkeypatch.setattr(os, "replace", refuse_second)
    monkeypatch.setattr(stella, "sync_folder", interrupt)
    with pytest.raises((stella.LocalError, stella.Interrupted)):
        stella.write_files([(str(tmp_path / name), b"new " + name.encode()) for name in OLD])
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == old


def test_pair_that_is_written_leaves_nothing_beside_it(tmp_path):
    for _ in range(2):
        stella.write_files([(str(tmp_path / name), b"new") for name in OLD])
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == dict.fromkeys(OLD, b"new")


def test_verify_looks_at_no_setting_of_the_gateway():
    bad = {"STELLA_SERVER": "http://far.example", "STELLA_TENANT": "a\nb", "STELLA_TOKEN": "a b"}
    config = stella.load_config({}, bad, with_token=False)
    assert (config.server, config.tenant, config.token) == ("https://stella.local", "", "")


@pytest.mark.parametrize("answer", ["204 No Content", "206 Partial", "gzip"])
def test_signed_document_is_nothing_but_the_exact_bytes_of_a_200(cli, tmp_path, answer):
    status, coding = ("200 OK", "Content-Encoding: gzip\r\n") if answer == "gzip" else (answer, "")
    head = f"HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: 0\r\n{coding}\r\n".encode()
    with Wire(head) as wire:
        done = cli("manifest", "r", "--output", tmp_path / "m", "--server", wire.url, env={"STELLA_TOKEN": "secret"})
    assert (done.code, os.listdir(tmp_path)) == (1, []), done
    assert "not the exact bytes" in done.err
    assert "see --server" in done.err


# ---- what a server sends back of our own ------------------------------------------------------------

@pytest.mark.parametrize("form", ["json", "yaml", "table"])
def test_token_that_comes_back_is_not_in_a_table_and_a_document_is_the_server_s(cli, form):
    with Scripted(b"x") as server:
        server.run.update(profileId=f"p {server.token} {server.token[:-1]}")
        done = cli("run", "show", "run-1", "--format", form, gw=server)
    assert (done.code, "run-1" in done.out) == (0, True), done
    assert (server.token[:12] in done.out) == (form != "table")
    assert ("[secret]" in done.out) == (form == "table")
