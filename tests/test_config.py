"""Contract 1 as tables: where each setting comes from, what a profile file may say, when a token is needed."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import pytest

import stella

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # the same code; pytest brings it there
from conftest import ROOT


@pytest.fixture
def profiles():
    """The folder of profile files; profiles("prod", "tenant = 'x'") writes one and gives its path."""
    folder = Path(os.environ["HOME"], ".stella", "profiles")
    folder.mkdir(parents=True)

    def write(name, text, mode=0o600):
        path = folder / f"{name}.toml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        path.chmod(mode)
        return path

    return write


@pytest.fixture(params=["tomllib", "flat"])
def reader(request, monkeypatch):
    """Both readers of profile files; tomllib is there from Python 3.11 on, the other one everywhere."""
    if request.param == "tomllib":
        if sys.version_info < (3, 11):
            request.param = "flat"  # what this Python has
        return request.param
    monkeypatch.setattr(stella, "read_toml", flat)
    return request.param


def flat(path):
    """read_toml as Python 3.9 runs it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stella.sys, "version_info", (3, 9, 0, "final", 0))
        return REAL_READ_TOML(path)


REAL_READ_TOML = stella.read_toml


# ---- precedence ----------------------------------------------------------------------------------

# setting: flag's value, environment (most important first), profile key, default (contract 1)
ROWS = {
    "server": ("https://flag", ("STELLA_SERVER",), "server", "https://stella.local"),
    "tenant": ("flag", ("STELLA_TENANT",), "tenant", ""),
    "token": (None, ("STELLA_TOKEN",), "token", ""),
    "format": ("yaml", (), "format", ""),
    "object_endpoint": (None, ("STELLA_EXPORT_OBJECT_ENDPOINT",), "object_endpoint", ""),
    "ca_file": ("/flag", ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"), "ca_file", ""),
    "client_cert": (None, (), "client_cert", ""),
    "client_key": (None, (), "client_key", ""),
    "tls_strict": (None, (), "tls_strict", True),
    "timeout": (1.5, (), "timeout", 30.0),
    "retries": (0, (), "retries", 5),
    "retry_delay": (0.0, (), "retry_delay", 0.5),
    "dpop_key": (None, ("STELLA_DPOP_KEY",), "dpop_key", ""),
    "profile": ("flag", ("STELLA_PROFILE",), "", ""),
}
IN_FILE = {"format": ("'json'", "json"), "tls_strict": ("false", False), "timeout": ("7", 7), "retries": ("9", 9),
           "retry_delay": ("0.25", 0.25), "ca_file": ("'/file'", "/file"), "client_cert": ("'/file'", "/file"),
           "client_key": ("'/file'", "/file"), "dpop_key": ("'/file'", "/file")}


@pytest.mark.parametrize("name", ROWS)
def test_flag_then_environment_then_profile_then_default(profiles, reader, name):
    flag, variables, key, default = ROWS[name]
    for other in ("flag", "env-0"):
        profiles(other, "")
    text, in_file = IN_FILE.get(name, ("'file'", "file"))
    profiles("prod", f"{key} = {text}\n" if key else "")
    environment = {variable: f"env-{number}" for number, variable in enumerate(variables)}
    chosen = {} if name == "profile" else {"profile": "prod"}

    def value(flags, surroundings):
        return getattr(stella.load_config({**chosen, **flags}, surroundings), name)

    if flag is not None:
        assert value({name: flag}, environment) == flag
    for number, variable in enumerate(variables):
        assert value({}, environment) == f"env-{number}"
        assert value({}, {**environment, variable: ""}) != f"env-{number}", "an empty variable counts as unset"
        del environment[variable]
    if key:
        assert value({}, {}) == in_file
    assert getattr(stella.load_config({}, {}), name) == default


def test_the_table_above_is_the_whole_table():
    ours = {row.name for row in stella.SETTINGS if row.flag or row.key}
    assert ours - {"token_file"} == set(ROWS) - {"profile"}
    for row in stella.SETTINGS:
        flag, variables, key, default = ROWS.get(row.name, (None, row.environment, row.key, row.default))
        assert (bool(row.flag), row.environment, row.key, row.default) == (flag is not None, variables, key, default)


def test_token_has_no_flag(cli):
    """It would show in ps."""
    assert cli("run", "ls", "--token", "x").code == 2
    assert not [row.name for row in stella.GLOBALS if "token" in row.name]


@pytest.mark.parametrize("name", ["cosign", "zstd", "openssl"])
def test_program_from_its_variable_else_vendor_else_path(tmp_path, monkeypatch, name):
    monkeypatch.setattr(stella, "__file__", str(tmp_path / "stella.py"))
    for folder in ("named", "vendor", "vendor/bin", "path"):
        (tmp_path / folder).mkdir()
        program = tmp_path / folder / name
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    named = {f"STELLA_{name.upper()}": str(tmp_path / "named" / name)}
    assert stella.find_program(name, stella.load_config({}, named)) == str(tmp_path / "named" / name)
    for folder in ("vendor", "vendor/bin", "path"):
        assert stella.find_program(name, stella.load_config({}, {})) == str(tmp_path / folder / name)
        (tmp_path / folder / name).unlink()
    assert stella.find_program(name, stella.load_config({}, {})) == ""
    (tmp_path / "named" / name).chmod(0o644)
    with pytest.raises(stella.ConfigError, match=f"STELLA_{name.upper()} names .* no program"):
        stella.find_program(name, stella.load_config({}, named))


# ---- profile names and files ---------------------------------------------------------------------

@pytest.mark.parametrize("name", ["prod", "a", "9", "Prod_2.eu-west", "a..b", "_x", "-x", "x" * 200])
def test_profile_name_good(profiles, name):
    profiles(name, "tenant = 't'")
    assert stella.load_config({"profile": name}, {}).tenant == "t"


BAD_NAMES = {
    "folder": "a/b", "parent": "../prod", "hidden": ".prod", "dots": "..", "absolute": "/etc/passwd", "space": "a b",
    "other letters": "pröd", "backslash": "a\\b", "line break": "a\nb", "invisible": "prod\u200b", "percent": "a%2fb",
}


@pytest.mark.parametrize("case", BAD_NAMES)
@pytest.mark.parametrize("where", ["--profile", "STELLA_PROFILE"])
def test_profile_name_bad(cli, gw, case, where):
    name = BAD_NAMES[case]
    options = ("--profile", name) if where == "--profile" else ()
    done = cli(*options, "export", "run", "ls", whole=True, gw=gw, env={"STELLA_PROFILE": name} if not options else {})
    assert (done.code, gw.requests) == (30, [])
    assert done.err.startswith('stella: the profile name "')


WRONG = {  # file: what the error must name, with tomllib and with the flat reader
    "unknown key": ("tenant = 'a'\nservr = 'x'\n", 'unknown key "servr"', 'unknown key "servr"'),
    "flag of the command line": ("output = 'x'\n", 'unknown key "output"', 'unknown key "output"'),
    "text where a number belongs": ("timeout = '5'\n", 'key "timeout" must be a number', 'key "timeout" must be'),
    "number where text belongs": ("tenant = 5\n", 'key "tenant" must be a string', 'key "tenant" must be a string'),
    "boolean where a number belongs": ("retries = true\n", 'key "retries" must be a whole number', 'key "retries"'),
    "fraction of a retry": ("retries = 1.5\n", 'key "retries" must be a whole number', 'key "retries" must be'),
    "negative": ("retry_delay = -1\n", 'key "retry_delay" must be a number of seconds', 'key "retry_delay" must be'),
    "too many retries": ("retries = 100000\n", 'key "retries" must be', 'key "retries" must be'),
    "too large for a float": ("timeout = 1e999\n", 'key "timeout" must be', 'key "timeout" must be'),
    "text for a switch": ("tls_strict = 'no'\n", 'key "tls_strict" must be true or false', 'key "tls_strict" must be'),
    "two tokens": ("token = 'a'\ntoken_file = 'b'\n", "token and token_file cannot", "token and token_file cannot"),
    "format": ("format = 'xml'\n", 'key "format" must be table, json or yaml', 'key "format" must be table'),
    "no time": ("timeout = 0\n", "must be a number of seconds from 0.001 to 86400", 'key "timeout" must be'),
    "server without scheme": ("server = 'stella.local'\n", "server in profile prod is not", "server in profile prod"),
    "bare word": ("tenant = acme\n", "line 1", "line 1"),
    "no value": ("tenant =\n", "line 1", "line 1"),
    "open quote": ("tenant = 'a'\nserver = \"x\n", "line 2", "line 2"),
    "twice": ("tenant = 'a'\ntenant = 'b'\n", "line 2", "line 2"),
    "two on a line": ("tenant = 'a' server = 'b'\n", "line 1", "line 1"),
    "control character": ("tenant = 'a'\n# \x01\n", "line 2", "line 2"),
    "lone carriage return": ("tenant = 'a'\rserver = 'b'\n", "line 1", "line 1"),
    "bad escape": ('tenant = "\\q"\n', "line 1", "line 1"),
    "leading zero": ("retries = 05\n", "line 1", "line 1"),
    "table": ("[prod]\ntenant = 'a'\n", 'unknown key "prod"', "line 1"),
    "dotted key": ("tenant.x = 'a'\n", 'key "tenant" must be a string', "line 1"),
    "list": ("tenant = ['a']\n", 'key "tenant" must be a string', "line 1"),
    "date": ("tenant = 2025-10-01\n", 'key "tenant" must be a string', "line 1"),
    "no utf-8": (b"tenant = '\xff'\n", "utf-8", "utf-8"),
    "byte order mark": (b"\xef\xbb\xbftenant = 'a'\n", "line 1", "line 1"),
    "endless": (b"# " + b"x" * stella.MAX_CONFIG_BYTES, "more than 1048576 bytes", "more than 1048576 bytes"),
}


@pytest.mark.parametrize("case", WRONG)
def test_bad_profile_file_names_file_and_line_or_key(cli, gw, profiles, reader, case):
    text, by_tomllib, by_flat = WRONG[case]
    path = profiles("prod", text)
    done = cli("--profile", "prod", "export", "run", "ls", whole=True, env={"STELLA_TOKEN": "t"})
    assert done.code == 30, done
    assert (by_tomllib if reader == "tomllib" else by_flat) in done.err, done
    assert str(path) in done.err or "in profile prod" in done.err
    assert len(done.err.splitlines()) > 1 or "in profile prod" in done.err or "bytes" in done.err, "what to type"
    assert len(done.err.splitlines()) <= 6
    assert "Traceback" not in done.err


@pytest.mark.parametrize("kind", ["missing", "folder", "loop"])
def test_profile_file_that_cannot_be_read(cli, profiles, kind):
    path = profiles("other", "").with_name("prod.toml")
    if kind == "folder":
        path.mkdir()
    elif kind == "loop":
        path.symlink_to(path)
    done = cli("--profile", "prod", "export", "run", "ls", whole=True, env={"STELLA_TOKEN": "t"})
    assert done.code == 30
    assert f"cannot read the saved defaults file {path}: " in done.err
    assert '\n  it has lines such as server = "https' in done.err


def test_several_faults_are_told_at_once(cli, profiles):
    profiles("prod", "servr = 'x'\ntimeout = 'y'\n")
    err = cli("--profile", "prod", "export", "run", "ls", whole=True).err
    assert 'unknown key "servr"' in err
    assert 'key "timeout" must be' in err
    assert "known keys: ca_file, " in err


GOOD = r"""
# a comment
server = "https://gw.example.com/stella"   # and one behind
tenant="acme"
    object_endpoint = 'http://127.0.0.1:9000'
retries = +3
retry_delay = 2.5e-1
tls_strict = false
token = "a\"b\\c\t"
format = ''
"""


def test_good_profile_file_reads_the_same_with_both_readers(profiles):
    path = profiles("prod", GOOD.replace("\n", "\r\n"))
    expected = {"server": "https://gw.example.com/stella", "tenant": "acme", "object_endpoint": "http://127.0.0.1:9000",
                "retries": 3, "retry_delay": 0.25, "tls_strict": False, "token": 'a"b\\c\t', "format": ""}
    assert stella.read_toml(str(path)) == flat(str(path)) == expected
    assert stella.parse_flat_toml(GOOD) == expected


FLAT_REFUSES = [
    'a = """x"""', "a = '''x'''", "a = 1_000", "a = 0x10", "a = inf", "a = nan", "a = 1979-05-27", 'a = "\\u0041"',
    '"a" = 1', "a.b = 1", "a = {}", "a = [1]", "[a]", "[[a]]", "a = 1.", "a = .5", "a = 1e", "a = --1", "a = True",
    "= 1", "a", "a = 1 b", "a = 'x", 'a = "x\\"', "ä = 1", "a = 1\u00a0", "a\u00a0= 1", "a = \uff11", "a = 1\x0b",
]
SAME = ["a = 1", "a = -0", "a = +0.0", "a = 1E5", "a = ''", "a = '\\'", 'a = "\t"', "a = true # x", "A-_9 = 1", "1 = 2",
        "\ta\t=\t1\t", "a = 9" + "9" * 30]


@pytest.mark.parametrize("line", FLAT_REFUSES)
def test_flat_reader_refuses_what_it_does_not_know(line):
    with pytest.raises(ValueError, match="line 2 has"):
        stella.parse_flat_toml("ok = 1\n" + line)


@pytest.mark.parametrize("line", FLAT_REFUSES + SAME)
def test_flat_reader_never_reads_differently_from_tomllib(line):
    try:
        flatly = stella.parse_flat_toml(line)
    except ValueError:
        assert line not in SAME
        return
    assert repr(tomllib.loads(line)) == repr(flatly)


def test_paths_in_a_profile_file_are_from_its_folder(profiles):
    path = profiles("prod", "ca_file = 'ca.pem'\nclient_cert = '~/c.pem'\nclient_key = '/k.pem'\n")
    config = stella.load_config({"profile": "prod"}, {})
    assert (config.ca_file, config.client_cert, config.client_key) == (
        str(path.with_name("ca.pem")), str(Path(os.environ["HOME"], "c.pem")), "/k.pem")


# ---- the token -----------------------------------------------------------------------------------

def test_token_file(cli, gw, profiles):
    secret = profiles("prod", f"server = '{gw.url}'\ntoken_file = 'token'\n").with_name("token")
    secret.write_text(f"{gw.token}\n")
    secret.chmod(0o600)
    done = cli("--profile", "prod", "export", "run", "ls", whole=True)
    assert (done.code, done.err) == (0, "")
    assert gw.requests[-1].headers["Authorization"] == f"Bearer {gw.token}"
    secret.unlink()
    done = cli("--profile", "prod", "export", "run", "ls", whole=True)
    assert (done.code, len(gw.requests)) == (30, 1)
    assert f"cannot read the token file {secret}" in done.err


@pytest.mark.parametrize(("path", "content", "says"), [
    ("token", "", "is empty"), ("token", " \n", "is empty"), ("-", "x", "cannot be `-`"),
    ("gone", None, "cannot read")])
def test_token_file_without_a_token(cli, gw, profiles, path, content, says):
    profile = profiles("prod", f"server = '{gw.url}'\ntoken_file = '{path}'\n")
    if content is not None:
        profile.with_name(path).write_text(content)
    done = cli("run", "ls", env={"STELLA_PROFILE": "prod"})
    assert (done.code, says in done.err, gw.requests) == (30, True, []), done


def test_environment_token_wins_over_a_token_file_that_is_then_not_read(cli, gw, profiles):
    profiles("prod", "token_file = '/nowhere'\n")
    assert cli("--profile", "prod", "export", "run", "ls", whole=True, gw=gw).code == 0


MODES = [(0o600, ""), (0o400, ""), (0o640, "read"), (0o604, "read"), (0o602, "write"), (0o666, "write")]


@pytest.mark.parametrize(("mode", "warned"), MODES)
@pytest.mark.parametrize("key", ["token", "token_file"])
def test_secret_that_others_can_read_is_used_with_a_warning(cli, gw, profiles, key, mode, warned):
    folder = Path(os.environ["HOME"], ".stella", "profiles")
    if key == "token":
        secret = profiles("prod", f"token = '{gw.token}'\n", mode)
    else:
        profiles("prod", "token_file = 'secret'\n", 0o644)
        secret = folder / "secret"
        secret.write_text(gw.token)
        secret.chmod(mode)
    done = cli("--profile", "prod", "export", "run", "ls", whole=True, env={"STELLA_SERVER": gw.url})
    assert done.code == 0
    assert (f"others can {warned} the" in done.err) == bool(warned)
    assert (f"chmod 600 {secret}" in done.err) == bool(warned)
    assert gw.token not in done.err


def test_readable_profile_file_without_a_token_is_no_secret(cli, gw, profiles):
    profiles("prod", "tenant = 'acme'\n", 0o644)
    assert cli("--profile", "prod", "export", "run", "ls", whole=True, gw=gw).err == ""
    path = profiles("prod", "tenant = 'acme'\n", 0o646)
    done = cli("--profile", "prod", "export", "run", "ls", whole=True, gw=gw)
    assert done.err == f"stella: warning: others can write the profile file {path}; chmod 600 {path}\n"


@pytest.mark.parametrize("token", [None, "", "  "], ids=["unset", "empty", "blank"])
def test_missing_token_is_exit_30_before_any_connection(cli, monkeypatch, call, token):
    def connect(*_):
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setattr(socket, "getaddrinfo", connect)
    done = cli(*call, env={} if token is None else {"STELLA_TOKEN": token})
    assert (done.code, done.out) == (30, "")
    assert done.err.startswith("stella: no token is configured\n  export STELLA_TOKEN=")


@pytest.mark.parametrize("token", ["a b", "a\tb", "tök", "a\nX: y", "a\x00b", "a\x7f"])
def test_token_that_cannot_be_one_is_refused_and_not_shown(token):
    with pytest.raises(stella.ConfigError, match="the token from STELLA_TOKEN has characters") as caught:
        stella.load_config({}, {"STELLA_TOKEN": token})
    assert token not in caught.value.message


def test_verify_needs_no_token_and_looks_at_none(cli, gw, profiles, tmp_path):
    run_id = gw.make_run()["runId"]
    for what in ("manifest", "provenance"):
        assert cli(what, run_id, "--output", tmp_path / what, "--signature", tmp_path / f"{what}.sig", gw=gw).code == 0
    asked = len(gw.requests)
    profiles("prod", "server = 'https://127.0.0.1:1'\ntoken_file = '/nowhere'\n")
    for env in ({}, {"STELLA_PROFILE": "prod"}, {"STELLA_TOKEN": "not a token"}):
        done = cli("verify", run_id, "--manifest", tmp_path / "manifest", "--provenance", tmp_path / "provenance",
                   "--key", gw.public_key, "--verifier", "builtin", env=env)
        assert done.code == 0, done
    assert len(gw.requests) == asked


# ---- the server ----------------------------------------------------------------------------------

PLAIN = {"http://127.0.0.1:1": True, "http://localhost:1": True, "http://[::1]:1": True, "http://127.9.9.9:1": True,
         "HTTP://LOCALHOST:1": True, "http://gw.example.com": False, "http://10.0.0.1": False,
         "http://127.0.0.1.example.com": False,
         "http://localhost.example.com": False, "http://127.1": False, "http://[::2]": False, "http://0.0.0.0": False,
         "http://stella.localhost": False, "https://gw.example.com": True}


@pytest.mark.parametrize("url", PLAIN)
def test_plain_http_only_to_this_host(url):
    def http(**flags):
        config = stella.load_config({"server": url, **flags}, {"STELLA_TOKEN": "t"})
        return stella.Http(config, stella.Console(), stella.Clock())

    if PLAIN[url]:
        http()
    else:
        with pytest.raises(stella.ConfigError, match="the token would go unencrypted") as caught:
            http()
        assert "--allow-http" in caught.value.hint
    http(allow_http=True)


BAD_SERVERS = ["stella.local", "ftp://x", "https://", "https://u:secret@x", "https://x:99999", "https://x:0",
               "https://x y",
               "https://x/?a=secret", "https://x\n", "file:///etc/passwd", "https://ex%61mple", "//x"]


@pytest.mark.parametrize("server", BAD_SERVERS)
def test_bad_server_is_exit_30_and_names_where_it_came_from(cli, server):
    done = cli("run", "ls", "--server", server, env={"STELLA_TOKEN": "t"})
    assert done.code == 30, done
    assert done.err.startswith("stella: --server ")
    assert "secret" not in done.err
    done = cli("run", "ls", env={"STELLA_TOKEN": "t", "STELLA_SERVER": server})
    assert (done.code, done.err[:22]) == (30, "stella: STELLA_SERVER ")


# ---- README ------------------------------------------------------------------------------------

def readme_table(section):
    """The rows of the first table in a section of the README, as lists of cells, without the header."""
    text = (ROOT / "README.md").read_text(encoding="utf-8").partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    return rows[2:]


def settings_table():
    """What the README must show: a row for every setting, made from the code's table."""
    def code(*names):
        return " ".join(f"`{name}`" for name in names if name) or "-"

    def default(value):
        return code({True: "true", "": ""}.get(value, f"{value:g}" if isinstance(value, float) else str(value)))

    saved = next(row for row in stella.GLOBALS if row.name == "--profile")
    return [[row.help, code(row.flag), code(*row.environment), code(row.key), default(row.default)]
            for row in stella.SETTINGS] + [[saved.text, code(saved.name), code("STELLA_PROFILE"), "-", "-"]]


def test_readme_settings_are_the_code_s():
    expected = settings_table()
    assert readme_table("Configuration") == expected, "\n".join("| %s |" % " | ".join(row) for row in expected)


def test_readme_exit_codes_are_the_code_s():
    assert [(int(code.strip("`")), meaning.replace("`", "")) for code, meaning in readme_table("Exit codes")] == list(
        stella.EXIT_MEANINGS.items())
