"""The command line: options before and after the command, --help, one table for all of it, and no traceback ever."""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import stella
from conftest import CALLS, ROOT, STELLA, surroundings
from gateway import Fault

# Root needs no user namespace of its own, and some hosts allow none to others.
UNSHARE = ["unshare", *([] if os.geteuid() == 0 else ["--map-root-user"])]
NAMES = [" ".join(command.words) for command in stella.COMMANDS]
GROUPS = [" ".join(words) for words in stella.GROUPS]


@pytest.fixture
def run_id(gw):
    return gw.make_run()["runId"]


# ---- before and after ----------------------------------------------------------------------------

@pytest.fixture
def seen(monkeypatch):
    """What load_config was given and made of it, at each call; the handler does nothing."""
    configs = []
    real = stella.load_config

    def load(flags, *more, **named):
        configs.append(real(flags, *more, **named))
        return configs[-1]

    monkeypatch.setattr(stella, "load_config", load)
    monkeypatch.setattr(stella.RUN_SHOW, "handler", lambda app, args: 0)
    monkeypatch.setattr(stella.RUN_LS, "handler", lambda app, args: configs[-1].sources.update(own=args.profile) or 0)
    return configs


PLACED = [
    ("--server", "https://gw.example.com", "server", "https://gw.example.com"),
    ("--tenant", "globex", "tenant", "globex"),
    ("--format", "yaml", "format", "yaml"),
    ("--ca-file", "/etc/ca.pem", "ca_file", "/etc/ca.pem"),
    ("--timeout", "7.5", "timeout", 7.5),
    ("--retries", "3", "retries", 3),
    ("--retries", "0", "retries", 0),
    ("--retry-delay", "0", "retry_delay", 0.0),
    ("--trace", None, "trace", True),
    ("--allow-http", None, "allow_http", True),
    ("--profile", "prod", "profile", "prod"),
]


@pytest.mark.parametrize(("flag", "text", "name", "value"), PLACED, ids=[f"{row[0]}={row[1]}" for row in PLACED])
def test_global_option_means_the_same_wherever_it_stands(cli, seen, flag, text, name, value):
    home = Path(os.environ["HOME"], ".stella", "profiles")
    home.mkdir(parents=True)
    (home / "prod.toml").write_text("")
    spelled = [(flag,)] if text is None else [(flag, text), (f"{flag}={text}",)]
    words = ("export", "run", "show", "X")
    for option in spelled:
        for at in range(len(words) + 1):
            done = cli(*words[:at], *option, *words[at:], whole=True)
            assert done.code == 0, (at, done)
            assert getattr(seen.pop(), name) == value, f"{option} before word {at}"


def test_every_global_option_is_in_the_table_above():
    assert {row[0] for row in PLACED} == {row.name for row in stella.GLOBALS} - {"--output"}


def test_output_before_and_after(cli, gw, run_id, tmp_path):
    for words in (("--output", tmp_path / "a", "export", "run", "show", run_id),
                  ("export", "run", "show", run_id, "--output", tmp_path / "b")):
        assert cli(*words, gw=gw, whole=True).out == ""
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() != b""


def test_after_the_command_wins_over_before(cli, seen):
    cli("--tenant", "a", "--retries", "5", "export", "run", "show", "X", "--tenant", "b", "--retries", "0", whole=True)
    assert (seen[0].tenant, seen[0].retries) == ("b", 0)


def test_profile_is_the_filter_after_run_ls_and_the_saved_defaults_before(cli, seen):
    home = Path(os.environ["HOME"], ".stella", "profiles")
    home.mkdir(parents=True)
    (home / "prod.toml").write_text('tenant = "from-prod"\n')
    cli("--profile", "prod", "export", "run", "ls", "--profile", "prof-json-raw", whole=True)
    assert (seen[0].tenant, seen[0].sources["own"]) == ("from-prod", "prof-json-raw")
    cli("export", "run", "ls", "--profile", "prof-json-raw", whole=True)
    assert (seen[1].profile, seen[1].tenant, seen[1].sources["own"]) == ("", "", "prof-json-raw")
    cli("export", "run", "show", "X", "--profile", "prod", whole=True)
    assert seen[2].tenant == "from-prod"


def test_run_ls_profile_reaches_the_gateway_as_a_filter(cli, gw):
    wanted = gw.make_run("prof-json-gzip")["runId"]
    gw.make_run("prof-json-raw")
    done = cli("run", "ls", "--profile", "prof-json-gzip", "--status", "succeeded", "--tail", "5", gw=gw)
    assert [run["runId"] for run in done.json()] == [wanted]
    assert gw.requests[-1].query == {"profileId": "prof-json-gzip", "status": "succeeded", "limit": "5"}


# ---- usage ---------------------------------------------------------------------------------------

USAGE = {
    "unknown command": (("export", "lst"), '"lst" is no command of stella export', ""),
    "near miss": (("export", "run", "lss"), '"lss" is no command', "did you mean: stella export run ls"),
    "help as a command": (("help",), '"help" is no command', "did you mean: stella --help"),
    "help of a group as a command": (("export", "help"), '"help" is no command', "did you mean: stella export --help"),
    "version as a command": (("version",), '"version" is no command', "did you mean: stella --version"),
    "version in short": (("-v",), "unrecognized arguments: -v", "did you mean: --version"),
    "near option": (("export", "run", "submit", "p", "--selecter", "tenant=a"), "arguments: --selecter",
                    "did you mean: --selector"),
    "token before": (("--token", "abcdef", "export", "run", "ls"), "arguments: --token", "export STELLA_TOKEN=...; "),
    "token after": (("export", "run", "ls", "--token=abcdef"), "arguments: --token", "export STELLA_TOKEN=...; "),
    "unknown shell": (("completion", "tcsh"), "SHELL takes bash, zsh or fish, not", "see: stella completion"),
    "command without its group": (("run", "ls"), '"run" is no command of stella', "did you mean: stella export run"),
    "no command": (("frob",), '"frob" is no command of stella', "there is: completion, doctor"),
    "group alone": (("export", "run"), "stella export run needs a command: cancel, ls, ",
                    "see: stella export run --help"),
    "unknown option after": (("export", "run", "ls", "--frob"), "unrecognized arguments: --frob", "see: stella export"),
    "unknown option before": (("--frob", "x", "export", "run", "ls"), "arguments: --frob", "stella --help"),
    "command's option before it": (("--status=active", "export", "run", "ls"), "--status", "stands after the"),
    "abbreviated after": (("export", "run", "ls", "--form", "json"), "arguments: --form", "did you mean: --format"),
    "abbreviated before": (("--form", "json", "export", "run", "ls"), "unrecognized arguments: --form", ""),
    "abbreviated flag": (("export", "run", "watch", "X", "--foll"), "arguments: --foll", "did you mean: --follow"),
    "abbreviated version": (("--vers",), "unrecognized arguments: --vers", "did you mean: --version"),
    "missing argument": (("export", "run", "show"), "required: RUN", "see: stella export run show --help"),
    "missing option": (("export", "verify", "X"), "required: --key", "see: "),
    "too many arguments": (("export", "run", "show", "X", "Y"), "unrecognized arguments: Y", "see: "),
    "option without its value": (("export", "run", "ls", "--tail"), "--tail: expected one argument", "see: "),
    "value for a flag": (("export", "run", "ls", "--all=yes"), "--all takes no value, so not 'yes'", "see: "),
    "unknown format": (("export", "run", "ls", "--format", "xml"), "--format takes table, json or yaml, not", "see: "),
    "switch": (("export", "run", "submit", "p", "--allow-empty=maybe"),
               'stella: --allow-empty takes true or false, not "maybe"', "see: "),
    "without export and run": (("watch", "X"), '"watch" is no command', "did you mean: stella export run watch"),
    "both ways": (("export", "run", "watch", "X", "--follow", "--no-follow"), "cannot stand together", ""),
    "all and some": (("export", "run", "ls", "--all", "--tail", "3"), "cannot stand together", ""),
    **{f"empty {option}": (("export", *command.split(), option, ""), f"stella: {option} has an empty value", "see: ")
       for option, command in {"--profile": "run ls", "--server": "run ls", "--tenant": "run ls", "--ca-file": "run ls",
                               "--output": "run show X", "--query": "run show X", "--signature": "manifest X",
                               "--policy-snapshot": "run submit p", "--kit": "verify X --key K"}.items()},
    "empty before": (("--profile=", "export", "run", "ls"), "stella: --profile has an empty value", "see: "),
    "control characters": (("export", "\x1b[2Jrun"), r'"\x1b[2Jrun" is no command', ""),
}


BAD_NUMBERS = {  # option: the command that takes it, what it takes, wrong ones beside those that are wrong for all
    "--timeout": ("run ls", "a number of seconds from 0.001 to 86400", ("0", "86401")),
    "--retry-delay": ("run ls", "a number of seconds from 0 to 86400", ("86401",)),
    "--retries": ("run ls", "a whole number from 0 to 1000", ("1001", "1.5")),
    "--tail": ("run ls", "a whole number from 0 to 10000000", ("10000001", "1.5")),
    "--deadline": ("run watch X", "a number of seconds from 0 to 10000000", ("10000001",)),
    "--connections": ("download X", "a whole number from 1 to 16", ("0", "17", "1.5")),
    "--max-age": ("verify X --kit K --key K", "a number of days from 0 to 10000000", ("10000001",)),
}
USAGE.update({f"{option} {text}": (
    ("export", *command.split(), f"{option}={text}"), f'stella: {option} takes {kind}, not "{text}"', "see: stella ")
    for option, (command, kind, more) in BAD_NUMBERS.items()
    for text in ("", "ten", "-1", "nan", "inf", "1e999", "1_0", "\u0661", *more)})  # fmt: skip


HINTS = {  # what is wrong on this host: the words, the environment, the last line
    "an empty id": (("export", "run", "show", ""), {}, "list them with: stella export run ls"),
    "an empty profile id": (("export", "profile", "show", ""), {}, "list them with: stella export profile list"),
    "a gateway with a query": (
        ("--server", "https://x/?a", "export", "run", "ls"), {}, "it looks like https://stella.example.com"),
    "another kind of proxy": (("--server", "https://x.example", "export", "run", "ls"), {"https_proxy": "socks5://x"},
                              "it looks like http://HOST:PORT"),
    "a proxy that is no place": (("--server", "https://x.example", "export", "run", "ls"), {"https_proxy": "[x"},
                                 "it looks like http://HOST:PORT"),
    "a program that is not there": (("export", "verify", "X", "--kit", "k", "--key", "k"), {"STELLA_COSIGN": "/no"},
                                    "set it to the path of cosign, or unset it to have one looked for"),
    "a CA file that is not there": (("--ca-file", "/no", "export", "run", "ls"), {},
                                    "name a PEM file of CA certificates, or leave it out for the system's"),
    "a deadline for nothing": (("export", "run", "submit", "p", "--deadline", "5"), {},
                               "add --wait, or give it to: stella export run watch"),
    "a program that fails": (("export", "verify", "X", "--kit", "k", "--key", "k"), {"STELLA_COSIGN": "/bin/false"},
                             "choose another one, such as --verifier openssl or --verifier builtin"),
}


@pytest.mark.parametrize("case", HINTS)
def test_what_is_wrong_here_is_told_with_what_to_type(cli, gw, case):
    words, env, hint = HINTS[case]
    done = cli(*words, gw=gw, whole=True, env=env)
    assert (done.code in (2, 10, 30), done.err.splitlines()[-1], gw.requests) == (True, "  " + hint, []), done


def test_every_number_has_bounds():
    """The same on the command line and in a profile file."""
    rows = [*stella.GLOBALS, *(arg for command in stella.COMMANDS for arg in command.args)]
    assert {row.name for row in rows if row.kind in stella.NUMBERS} == set(BAD_NUMBERS)
    kinds = {setting.flag: setting.kind for setting in stella.SETTINGS if setting.kind in stella.NUMBERS}
    assert kinds.items() <= {row.name: row.kind for row in stella.GLOBALS}.items()


@pytest.mark.parametrize("case", USAGE)
def test_usage_error_is_exit_2_with_a_hint_and_no_connection(cli, gw, case):
    words, message, hint = USAGE[case]
    done = cli(*words, gw=gw, whole=True)
    assert (done.code, done.out) == (2, "")
    first, *more = done.err.splitlines()
    assert first.startswith("stella: ")
    assert message in first
    assert hint in "\n".join(more)
    assert "\x1b" not in done.err
    assert "abcdef" not in done.err
    assert gw.requests == []


def test_two_dashes_end_the_options(cli, gw):
    done = cli("run", "show", "--format", "json", "--", "--help", gw=gw)
    assert done.code == 11
    assert gw.requests[-1].path.endswith("/runs/--help")
    assert cli("run", "show", "--", "--version", gw=gw).code == 11


def test_bare_stella_shows_the_help_and_is_a_usage_error(cli):
    done = cli(whole=True)
    assert (done.code, done.err) == (2, "")
    assert done.out.startswith("usage: stella COMMAND")


SWITCH = [((), False), (("--allow-empty",), True), (("--allow-empty=true",), True), (("--allow-empty=false",), False),
          (("--allow-empty", "false"), False)]


@pytest.mark.parametrize(("words", "value"), SWITCH)
def test_allow_empty_as_the_guide_spells_it(cli, gw, words, value):
    assert cli("run", "submit", "prof-json-raw", *words, gw=gw).code == 0
    assert gw.requests[-1].json()["options"] == {"allowEmpty": value}


# ---- help ----------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("where", ["after", "short", "before", "amid other words"])
def test_command_help(cli, name, where):
    words = name.split()
    asked = {"after": [*words, "--help"], "short": [*words, "-h"], "before": ["--help", *words],
             "amid other words": [*words, "--trace", "--help", "X"]}[where]
    done = cli(*asked, whole=True)
    assert (done.code, done.err) == (0, "")
    command = next(row for row in stella.COMMANDS if " ".join(row.words) == name)
    assert done.out.startswith(f"usage: stella {name}")
    assert command.summary in done.out
    sections = done.out.split("\n\n")
    examples = next(part for part in sections if part.startswith("examples:"))
    assert len(examples.splitlines()) > 1
    assert all(" ".join(words[:2]) in line for line in examples.splitlines()[1:])
    codes = next(part for part in sections if part.startswith("exit codes:"))
    assert [int(line.split()[0]) for line in codes.splitlines()[1:]] == list(command.exits)
    for row in [*command.args, *stella.GLOBALS]:
        assert f"  {row.name}" in done.out, row.name
    assert not [line for line in done.out.splitlines() if len(line) > 130]


@pytest.mark.parametrize("name", GROUPS)
def test_group_help(cli, name):
    done = cli(*name.split(), "--help", whole=True)
    assert (done.code, done.err) == (0, "")
    below = [command for command in NAMES if command.startswith(name)]
    assert below
    assert all(f"  {command}  " in done.out for command in below)
    assert "\nexamples:\n  stella export" in done.out
    assert "\nexit codes:\n  0 " in done.out


def test_help_names_every_variable_of_ours(cli):
    out = cli("--help", whole=True).out
    ours = {name for row in stella.SETTINGS for name in row.environment if name.startswith("STELLA_")}
    assert [name for name in sorted(ours | {"STELLA_PROFILE"}) if f"  {name} " not in out] == []


@pytest.mark.parametrize("name", NAMES)
def test_examples_are_commands_that_parse(name):
    """The command of every example, up to a pipe, goes through the parser."""
    import shlex

    for example in next(row for row in stella.COMMANDS if " ".join(row.words) == name).examples:
        text = example[example.index("stella "):].partition(" | ")[0].removesuffix(")")
        words, head, rest = stella.split_argv(shlex.split(text)[1:])
        assert " ".join(words) == name
        stella.parse_command(next(row for row in stella.COMMANDS if row.words == words), head, rest)


@pytest.mark.parametrize("words", [("--version",), ("export", "--version"), ("export", "run", "ls", "--version")])
def test_version(cli, words):
    done = cli(*words, whole=True)
    assert (done.code, done.out, done.err) == (0, "stella 0.22.0\n", "")


# ---- one table -----------------------------------------------------------------------------------

def test_a_row_in_the_table_is_all_that_a_new_command_needs(cli, monkeypatch):
    called = []
    ping = stella.Command(
        "export run ping", "Ping a run.", lambda app, args: called.append((args.run_id, args.count, args.soft)) or 0,
        (stella.RUN, stella.Arg("--count", "how often", "N", "integer"), stella.Arg("--soft", "gently", kind="flag")),
        ("stella export run ping X",), (0,))
    monkeypatch.setattr(stella, "COMMANDS", (*stella.COMMANDS, ping))
    assert cli("run", "ping", "X", "--count", "3", "--soft").code == 0
    assert called == [("X", 3, True)]
    assert "Ping a run." in cli("run", "--help").out
    assert "--count N" in cli("run", "ping", "--help").out
    assert "did you mean: stella export run ping" in cli("run", "pin").err


def test_one_parser_is_built_and_only_from_rows(cli, monkeypatch):
    built = []
    monkeypatch.setattr(argparse.ArgumentParser, "add_argument",
                        lambda self, name, _real=argparse.ArgumentParser.add_argument, **options:
                        built.append(name) or _real(self, name, **options))
    cli("run", "cancel", "X")
    rows = [row.name if row.name[0] == "-" else row.dest for row in (*stella.RUN_CANCEL.args, *stella.GLOBALS)]
    assert built == rows


@pytest.mark.parametrize("command", stella.COMMANDS, ids=NAMES)
def test_rows_are_complete(command):
    assert command.words[:-1] in stella.GROUPS
    assert command.summary.endswith(".")
    assert command.examples
    assert list(command.exits) == sorted(set(command.exits))
    assert set(command.exits) <= set(stella.EXIT_MEANINGS)
    names = [arg.name for arg in command.args]
    assert len(set(names)) == len(names)
    assert all(arg.text for arg in command.args)
    positionals = [name for name in names if name[0] != "-"]
    assert names[: len(positionals)] == positionals


# ---- output --------------------------------------------------------------------------------------

def test_formats(cli, gw, run_id):
    document = gw.show(run_id)
    assert cli("run", "show", run_id, gw=gw).json() == document
    assert cli("run", "show", run_id, "--format", "json", gw=gw).out.startswith('{\n  "runId": "')
    lines = cli("run", "show", run_id, "--format", "yaml", gw=gw).out.splitlines()
    assert lines[0].startswith("runId: ")
    assert run_id in lines[0]
    assert "status: succeeded" in lines
    table = cli("run", "show", run_id, "--format", "table", gw=gw).out.splitlines()
    assert table[0].split() == ["Run:", run_id]
    assert len(table) < 20
    header = cli("run", "ls", "--format", "table", gw=gw).out.splitlines()[0].split()
    assert header == ["RUN", "PROFILE", "STATUS", "PROGRESS", "UPDATED"]


@pytest.mark.parametrize("words", [("run", "show"), ("run", "ls")], ids=" ".join)
def test_output_holds_the_full_json_and_a_table_that_was_asked_for_is_not_left_out_in_silence(
        cli, gw, run_id, tmp_path, words):
    target = tmp_path / "new" / "folder" / "run.json"
    words, whole = ((*words, run_id), gw.show(run_id)) if words[1] == "show" else (words, [gw.show(run_id)])
    done = cli(*words, "--format", "table", "--output", target, gw=gw)
    warning = "stella: warning: --output gets the full JSON; leave it out for the table\n"
    assert (done.code, done.out, done.err) == (0, "", warning)
    assert json.loads(target.read_bytes()) == whole
    done = cli(*words, "--format", "table", "--output", "-", gw=gw)
    assert (done.json(), done.err) == (whole, warning)


def test_a_table_that_is_only_the_profile_file_s_habit_is_left_out_in_silence(cli, gw, run_id, tmp_path):
    folder = Path(os.environ["HOME"], ".stella", "profiles")
    folder.mkdir(parents=True)
    (folder / "p.toml").write_text("format = 'table'\n")
    done = cli("--profile", "p", "export", "run", "show", run_id, "--output", tmp_path / "run.json", gw=gw, whole=True)
    assert (done.code, done.err) == (0, "")


def test_output_is_whole_or_not_there(cli, gw, tmp_path):
    """The answer breaks off for good: the file of before stays, and nothing lies beside it."""
    target = tmp_path / "runs.json"
    target.write_text("before")
    for _ in range(250):
        gw.store.add_run("acme", gw.store.profiles["acme"]["prof-json-raw"], {}, None, False).status = "succeeded"
    gw.order(Fault("GET", "/runs$", cut=100, times=-1, when=lambda request: request.query.get("cursor")))
    done = cli("run", "ls", "--all", "--output", target, "--retries", "1", gw=gw)
    assert done.code == 21, done
    assert target.read_text() == "before"
    assert os.listdir(tmp_path) == ["runs.json"]


QUERIES = [("runId", None), ("progress.percent", "100"), ("bundle.size", None), ("selectors", "{}"), ("error", "null"),
           ("distribution.0.type", "http"), ("options.allowEmpty", "false"), ("distribution.9", "missing"),
           ("runId.x", "missing"), ("distribution.-1", "missing"), ("distribution.0x0", "missing")]


@pytest.mark.parametrize(("path", "expected"), QUERIES)
def test_query_prints_one_value_bare_or_as_json(cli, gw, path, expected):
    run = gw.make_run()
    done = cli("run", "show", run["runId"], "--query", path, gw=gw)
    if expected == "missing":
        assert (done.code, done.out) == (10, "")
        assert f"--query {path}: nothing is at" in done.err
    else:
        said = {"runId": run["runId"], "bundle.size": str(run["bundle"]["size"])}.get(path) or expected
        assert (done.code, done.out) == (0, said + "\n"), done


def test_policy_snapshot_is_sent(cli, gw):
    done = cli("run", "submit", "prof-json-policy", "--policy-snapshot", "snap-7", "--query", "policySnapshotId", gw=gw)
    assert (done.code, done.out) == (0, "snap-7\n"), done


def test_query_into_a_list_and_into_a_file(cli, gw, run_id, tmp_path):
    assert cli("run", "ls", "--query", "0.runId", gw=gw).out == run_id + "\n"
    for path, hint in (("1.runId", "a list: 0 to 0"), ("items.0", "a list: 0 to 0"), ("0.x", "there is: runId,")):
        done = cli("run", "ls", "--query", path, gw=gw)
        assert (done.code, hint in done.err.splitlines()[1]) == (10, True), done
    assert "it is an empty list" in cli("run", "ls", "--tail", "0", "--query", "0", gw=gw).err
    assert cli("run", "ls", "--query", "0.runId", "--output", tmp_path / "id", gw=gw).out == ""
    assert (tmp_path / "id").read_text() == run_id + "\n"


# ---- no traceback --------------------------------------------------------------------------------

def check_talk(done, most_lines=6):
    """Errors are a few readable lines on standard error."""
    assert "Traceback" not in done.err, done
    assert "unexpected" not in done.err, done
    assert done.err.startswith("stella: "), done
    assert len(done.err.splitlines()) <= most_lines, done


def test_every_command_that_calls_the_gateway_is_tried():
    assert {" ".join(command.words[1:]) for command in stella.COMMANDS if command.scope} - set(CALLS) == set()


def test_refused_port(cli, call):
    with socket.socket() as taken:  # bound and not listening: nobody else can have it
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        done = cli(*call, "--retries", "1", env={"STELLA_SERVER": url, "STELLA_TOKEN": "t"})
    assert (done.code, done.out) == (21, "")
    assert "Connection refused" in done.err
    assert "check --server" in done.err
    check_talk(done)


def test_wrong_path_prefix(cli, gw, call):
    done = cli(*call, env={"STELLA_SERVER": gw.url + "/elsewhere", "STELLA_TOKEN": gw.token})
    assert done.code == 11
    assert "see --server" in done.err
    check_talk(done)


BODIES = {
    "html": (b"<html><body>Welcome</body></html>", "text/html", '"text/html", not JSON'),
    "empty": (b"", "application/json", "is empty"),
    "white space": (b" \n", "application/json", "is empty"),
    "half of it": (b'{"items": [', "application/json", "line 1"),
    "a list": (b"[]", "application/json", "is not a JSON object"),
    "a string": (b'"items"', "application/json", "is not a JSON object"),
    "no utf-8": (b'{"x": "\xff"}', "application/json", "is not UTF-8"),
    "deep": (b"[" * 100000, "application/json", "nested deeper"),
}


@pytest.mark.parametrize("case", BODIES)
@pytest.mark.parametrize("words", [CALLS["run ls"], CALLS["run submit"], CALLS["run show"], CALLS["profile show"]],
                         ids=["run ls", "run submit", "run show", "profile show"])
def test_answer_that_is_no_document(cli, gw, words, case):
    body, kind, said = BODIES[case]
    gw.order(Fault(body=body, head={"Content-Type": kind}, times=-1))
    done = cli(*words, gw=gw)
    assert (done.code, done.out) == (1, "")
    assert said in done.err
    assert "see --server" in done.err
    check_talk(done)


ODD = {
    "list without items": (("run", "ls"), {"runs": []}, 1),
    "items of odd types": (("run", "ls", "--format", "table"), {"items": [1, None, [], "x", {"runId": 5}]}, 0),
    "run of odd types": (("run", "show", "X", "--format", "table"), {"runId": 1, "bundle": 5, "progress": []}, 0),
    "profile of odd types": (("profile", "show", "X", "--format", "table"), {"include": [1], "encryption": 2}, 0),
    "submit without an id": (("run", "submit", "X"), {"status": "pending"}, 1),
    "download of an odd run": (("download", "X"), {"bundle": {"name": 5, "size": "big", "sha256": []}}, 2),
}


@pytest.mark.parametrize("case", ODD)
def test_document_of_odd_shape(cli, gw, tmp_path, monkeypatch, case):
    monkeypatch.chdir(tmp_path)
    words, document, code = ODD[case]
    gw.order(Fault(body=json.dumps(document).encode(), head={"Content-Type": "application/json"}, times=-1))
    done = cli(*words, gw=gw)
    assert done.code == code, done
    assert "Traceback" not in done.err
    assert "unexpected" not in done.err


def test_fault_of_our_own_names_the_line_and_no_value(cli, monkeypatch):
    def broken(app, args):
        raise KeyError("secret-token")

    monkeypatch.setattr(stella.RUN_LS, "handler", broken)
    done = cli("run", "ls", env={"STELLA_TOKEN": "secret-token"})
    assert done.code == 1
    assert "unexpected KeyError at line " in done.err
    assert "Traceback" not in done.err
    assert "secret-token" not in done.err


# ---- pipes, signals, full disks ------------------------------------------------------------------

def test_closed_pipe_ends_by_sigpipe(process, gw, run_id):
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = process("run", "show", run_id, gw=gw, stdout=writer)
    finally:
        os.close(writer)
    assert (done.code, done.err) == (-signal.SIGPIPE, "")


def test_full_disk_on_standard_output(process, gw, run_id):
    with open("/dev/full", "wb") as full:
        for words in (("run", "show", run_id), ("run", "ls", "--format", "table"), ("manifest", run_id), ("--help",)):
            done = process(*words, gw=gw, stdout=full)
            assert done.code == 1
            assert done.err == "stella: cannot write to standard output: No space left on device\n"


def test_full_disk_under_output(process, gw, run_id):
    done = process("run", "show", run_id, "--output", "/dev/full", gw=gw)
    assert (done.code, done.err) == (1, "stella: cannot write /dev/full: No space left on device\n")


def test_full_disk_leaves_nothing_behind(gw, run_id, tmp_path):
    """A file system of one page, of our own."""
    command = (f"mount -t tmpfs -o size=4k none '{tmp_path}' && cd '{tmp_path}' && echo old > run.json; "
               f"'{sys.executable}' '{STELLA}' export run show {run_id} --output run.json; "
               "echo $?; cat run.json; ls -A")
    gw.patch_run(run_id, selectors={"products": ["x" * 8192]})
    done = subprocess.run([*UNSHARE, "--mount", "sh", "-c", command], env=surroundings(gw),
                          capture_output=True, text=True, check=False)
    assert done.stdout == "1\nold\nrun.json\n", done
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr


CLOSED = {
    "stdin": ("<&-", 0, True, ""), "stdout": (">&-", 1, False, "stella: standard output is closed\n"),
    "stderr": ("2>&-", 0, True, ""), "all": ("<&- >&- 2>&-", 1, False, ""),
    "stderr on a full disk": ("2>/dev/full", 0, True, ""),
}


@pytest.mark.parametrize("case", CLOSED)
def test_closed_standard_streams(gw, run_id, case):
    redirections, code, printed, said = CLOSED[case]
    command = f"exec '{sys.executable}' '{STELLA}' export run show {run_id} --trace --query runId {redirections}"
    done = subprocess.run(["sh", "-c", command.replace("--trace ", "") if said else command], env=surroundings(gw),
                          capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert done.stdout == (run_id + "\n" if printed else "")
    assert case == "stdin" or done.stderr == said


@pytest.mark.parametrize("redirections", ["2>&-", "2>/dev/full", "2>&- >&- <&-"])
def test_exit_code_survives_where_nobody_can_be_told(gw, redirections):
    command = f"exec '{sys.executable}' '{STELLA}' export run show nope {redirections}"
    done = subprocess.run(["sh", "-c", command], env=surroundings(gw), capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (11, b"", b"")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, -2), (signal.SIGTERM, -15), (signal.SIGHUP, -1)])
def test_signal_ends_the_process_by_that_signal(process, gw, run_id, tmp_path, number, code):
    arrived = threading.Event()
    gw.order(Fault("GET", "/download$", stall=1000, piece=1000, act=lambda _: arrived.set()))
    target = tmp_path / "export.tar.zst"
    child = process("download", run_id, "--output", target, gw=gw, background=True)
    assert arrived.wait(30)
    child.send_signal(number)
    out, err = child.communicate(timeout=30)
    assert (child.returncode, out) == (code, b"")
    assert b"Traceback" not in err
    assert b"KeyboardInterrupt" not in err
    assert not target.exists()


def test_ctrl_c_in_a_watch_says_how_to_go_on(process, gw):
    gw.hold()
    run_id = gw.make_run(wait=False)["runId"]
    gw.settle()
    child = process("run", "watch", run_id, "--json", gw=gw, background=True)
    assert b"run.accepted" in child.stdout.readline()
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=30)
    gw.release()
    gw.wait(run_id)
    assert child.returncode == -signal.SIGINT
    assert err.decode().splitlines() == [
        f"stella: the run goes on; watch it again with: stella export run watch {run_id}",
        f"  or end it with: stella export run cancel {run_id}"]


MOMENTS = {
    "before the handlers stand": "stella.install_signals = lambda at_work: os.kill(os.getpid(), 2)",
    "after the work": "stella.main(COMMAND); os.kill(os.getpid(), 2)",
    "amid a lock that is then lost": "import time\ndef work(*_):\n    try:\n        os.kill(os.getpid(), 2)\n"
                                     "        time.sleep(9)\n    finally:\n        raise RuntimeError\n"
                                     "stella.execute_command = work",
    "amid a finalizer, where Python drops what is raised": "class Last:\n    def __del__(self):\n"
        "        os.kill(os.getpid(), 2)\ndef work(*_):\n    Last()\n    return 0\nstella.execute_command = work",
    "twice": "stella.execute_command = lambda *_: os.kill(os.getpid(), 2)\n"
             "stella.end_by_signal = lambda number: os.kill(os.getpid(), 2)",
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_ctrl_c_at_an_odd_moment_ends_silently(moment):
    text = f"import os, stella\nCOMMAND = ['completion', 'bash']\n{MOMENTS[moment]}\nstella.main(COMMAND)"
    done = subprocess.run([sys.executable, "-c", text], cwd=ROOT, env=surroundings(),
                          capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (-signal.SIGINT, b"")


def test_ignored_sigint_stays_ignored(gw):
    """nohup, and `&` in a script: the caller wants no interruption."""
    gw.hold()
    run_id = gw.make_run(wait=False)["runId"]
    gw.settle()
    script = f"trap '' INT; exec '{sys.executable}' '{STELLA}' export run watch {run_id} --json"
    with subprocess.Popen(["sh", "-c", script], env=surroundings(gw), stdout=subprocess.PIPE) as child:
        assert child.stdout.readline()
        child.send_signal(signal.SIGINT)
        gw.release()
        out, _ = child.communicate(timeout=30)
    assert child.returncode == 0
    assert b"run.succeeded" in out


def test_file_runs_from_anywhere(gw, tmp_path):
    done = subprocess.run([sys.executable, os.path.relpath(ROOT / "stella.py", tmp_path), "export", "profile", "list"],
                          cwd=tmp_path, env=surroundings(gw), capture_output=True, check=False)
    assert done.returncode == 0
    assert os.listdir(tmp_path) == []
