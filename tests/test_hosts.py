"""Odd hosts: old and bare Pythons, no HOME, no locale, no terminal, closed streams, read-only folders, wrong clocks."""

from __future__ import annotations

import ast
import glob
import json
import os
import pty
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

import stella as stella_module
from conftest import ROOT, STELLA, Result, surroundings
from test_recipe import fetch_everything

STRICT = ("-I", "-S", "-W", "error")
ODD_NAME = "out put/Exp\u00f6rt \u2603"


@pytest.fixture
def start(tmp_path):
    """start(*words, flags=, env=, gw=, preexec=...): `python FLAGS stella.py WORDS`; `env` values of None are unset."""

    def run(*words, flags=STRICT, env=None, gw=None, program=STELLA, **options):
        values = surroundings(gw)
        for name, value in (env or {}).items():
            values.pop(name, None)
            if value is not None:
                values[name] = value
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        done = subprocess.run([sys.executable, *flags, str(program), *(str(word) for word in words)], env=values,
                              timeout=60, check=False, cwd=options.pop("cwd", None) or pipes.pop("cwd", None), **pipes)
        return Result(done.returncode, done.stdout or b"", done.stderr or b"")

    return run


@pytest.fixture
def fetched(cli, gw, tmp_path):
    """(run id, folder with bundle, documents and signatures), in a folder with a blank and no ASCII in its name."""
    folder = tmp_path / ODD_NAME
    return fetch_everything(cli, gw, folder), folder


def verify_words(gw, fetched):
    run_id, folder = fetched
    return ("export", "verify", run_id, "--manifest", folder / "export.json",
            "--provenance", folder / "provenance.json",
            "--bundle", folder / "export.tar.zst", "--key", gw.public_key, "--format", "table")


# ---- which Python ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flags", [STRICT, ("-OO", "-bb", "-W", "error"), ("-X", "dev", "-W", "error")], ids=" ".join)
def test_no_warning_whatever_the_flags(start, gw, fetched, flags):
    """-X dev also reports files and sockets that nobody closed."""
    for words in (("export", "run", "ls"), ("export", "run", "watch", fetched[0], "--json"),
                  verify_words(gw, fetched)):
        done = start(*words, flags=flags, gw=gw)
        assert (done.code, done.err) == (0, ""), done


def test_the_gate_stands_before_anything_an_old_python_lacks():
    """The file compiles on 3.7 (make audit tries that); up to the gate it runs there: sys alone is imported."""
    body = ast.parse(STELLA.read_text(encoding="utf-8"), feature_version=(3, 7)).body
    gate = next(index for index, node in enumerate(body) if isinstance(node, ast.If))
    assert [type(node).__name__ for node in body[:gate]] == ["Expr", "ImportFrom", "Import"]
    assert body[gate - 1].names[0].name == "sys"


@pytest.mark.parametrize("version", [(3, 7, 0), (3, 8, 20)])
def test_an_old_python_says_which_one_is_needed(start, tmp_path, version):
    copy = tmp_path / "stella.py"
    text = STELLA.read_text(encoding="utf-8")
    copy.write_text(text.replace("import sys\n", f"import sys\nsys.version_info = {version}\n", 1), encoding="utf-8")
    done = start("--help", program=copy)
    assert (done.code, done.out) == (30, "")
    assert done.err == "stella: this is Python %d.%d, and stella needs 3.9 or newer\n" % version[:2]


def old_pythons():
    return sorted(glob.glob(os.path.expanduser("~/.pyenv/versions/3.[78].*/bin/python3")))


@pytest.mark.parametrize("python", old_pythons())
def test_a_real_old_python_says_so_too(python):
    done = subprocess.run([python, *STRICT, str(STELLA), "--help"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (30, "", 1)
    assert "needs 3.9 or newer" in done.stderr


@pytest.mark.parametrize("module", ["http.client", "uuid"])
def test_a_python_without_a_module_says_which_and_what_to_do(cli, gw, monkeypatch, module):
    """Debian's python3-minimal is such a one."""
    monkeypatch.setitem(sys.modules, module, None)
    done = cli("run", "submit", "prof-json-raw", "--selector", "tenant=acme", gw=gw)
    assert (done.code, done.out) == (30, ""), done
    assert module in done.err
    assert "python3-minimal" in done.err


# What Debian 12's python3-minimal leaves out and stella uses; and shutil, without which only Debian's argparse works.
MINIMAL = ("json", "json.decoder", "json.encoder", "http", "http.client", "difflib", "tomllib", "uuid")
WITHOUT = """
import os, runpy, sys
for name in %r: sys.modules[name] = None
os.__file__ = "/nowhere/os.py"
sys.argv.pop(0)
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture
def minimal(start):
    """stella on a Python like python3-minimal, with nothing on PATH."""

    def run(*words, env=None):
        return start(*words, flags=("-I", "-S", "-c", WITHOUT % (MINIMAL,)),
                     env={"PATH": "/nowhere", "STELLA_COSIGN": None, **(env or {})})

    return run


def plain_run(cli, gw, folder):
    """A run whose bundle is a plain tar, fetched: (run id, folder)."""
    run_id = gw.make_bundle_run(members={"data/a": b"1", "data/\u00e9": b"22"}, name="export.tar")["runId"]
    fetched = (("download", "--output", "export.tar.zst"), ("manifest", "--output", "export.json", "--signature"),
               ("provenance", "--output", "provenance.json", "--signature"))
    for what, option, name, *more in fetched:
        signature = [*more, folder / f"{name}.sig"] if more else []
        assert cli(what, run_id, option, folder / name, *signature, gw=gw).code == 0
    return run_id, folder


def test_python3_minimal_verifies(minimal, cli, gw, tmp_path):
    fetched = plain_run(cli, gw, tmp_path)
    words = verify_words(gw, fetched)
    env = {"STELLA_OPENSSL": None}
    done = minimal(*words, "--verifier", "builtin", env=env)
    assert (done.code, done.err) == (0, ""), done
    assert "verified" in done.out
    report = minimal(*words[:-1], "json", "--verifier", "builtin")
    normal = cli(*words[1:-1], "json", "--verifier", "builtin")
    assert report.json() == normal.json()
    manifest = fetched[1] / "export.json"
    manifest.write_bytes(manifest.read_bytes().replace(b'"runId"', b'"runId":"a","runId"', 1))
    done = minimal(*words, "--verifier", "builtin")
    assert done.code == 20
    assert "duplicate key" in done.out


def test_python3_minimal_helps_and_names_what_it_lacks(minimal):
    assert minimal("--help").code == 0
    assert minimal("exprot").code == 2
    done = minimal("export", "run", "ls", env={"STELLA_TOKEN": "x"})
    assert (done.code, "no module http" in done.err) == (30, True), done
    done = minimal("doctor", "--offline", "--format", "table")
    assert (done.code, "without http.client, json.decoder, uuid" in done.out) == (0, True), done


def test_programs_are_found_without_shutil(monkeypatch, tmp_path):
    for name, mode in (("cosign", 0o755), ("notes", 0o644)):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(mode)
    (tmp_path / "folder").mkdir()
    asked = [("cosign", ""), ("cosign", str(tmp_path)), (str(tmp_path / "cosign"), ""), ("notes", ""), ("folder", ""),
             ("gone", ""), ("cosign", "/nowhere"), (str(tmp_path / "gone"), "")]
    monkeypatch.setenv("PATH", f"/nowhere:{tmp_path}")
    normal = [stella_module.find_executable(*words) for words in asked]
    monkeypatch.setitem(sys.modules, "shutil", None)
    assert [stella_module.find_executable(*words) for words in asked] == normal
    assert normal == [str(tmp_path / "cosign")] * 3 + [""] * 5


JSON_TEXTS = [
    "", " ", "nul", "null", "true", "[]", "{}", " [ ] ", "[1,2]", "[1,]", "[,1]", "[1 2]", '{"a":1}', '{"a":1,}',
    "{a:1}", '{"a" 1}', '{"a":}', "{1:2}", "[", "{", "[1", '{"a":1', "]", "}", "[}", "{]", ",", ":", "1 2", "01",
    "-", "-0", "-01", "1.", ".5", "1.5e3", "1e", "1E+2", "1e400", "+1", "0x1", "NaN", "Infinity", "-Infinity",
    '"', '"a', '"\\', '"\\"', '"a\\u00e9"', '"\\ud83d\\ude00"', '"\\ud83d"', '"\\ude00\\ud83d"', '"\\u12"', '"\\x"',
    '"\\b\\f\\n\\r\\t\\/\\\\"', '"a\nb"', '"\x7f"', '"\u2028"', "'a'", "\ufeff1", "\u00a01", "1\x00", "[[[1]]]",
    '{"a":{"b":[null,{}]}}', "[1]]", '{"a":1,"a":2}', '["a","b"', "tru", "truex", "[truefalse]", "1true",
]


@pytest.mark.parametrize("text", JSON_TEXTS, ids=ascii)
def test_our_json_reader_agrees_with_the_standard_one(text):
    def outcome(read):
        try:
            return repr(read(text, parse_int=lambda digits: ("int", digits), parse_constant=int,
                             parse_float=lambda digits: ("float", digits), object_pairs_hook=tuple))
        except ValueError as error:
            return error.lineno > 0 and error.colno > 0 if hasattr(error, "lineno") else True

    assert outcome(stella_module.read_json_text) == outcome(json.loads)


def test_our_json_reader_stops_at_its_depth_without_exhausting_the_stack():
    limit = stella_module.MAX_JSON_DEPTH
    assert stella_module.read_json_text("[" * limit + "]" * limit) == json.loads("[" * limit + "]" * limit)
    with pytest.raises(RecursionError):
        stella_module.read_json_text("[" * 100_000)


QUOTED = ["", "a", '"\\/', "\x00\x1f\x7f", "\u00e9\u2028\U0001f600\ud800", "\b\f\n\r\t"]


@pytest.mark.parametrize("text", QUOTED, ids=ascii)
def test_our_json_quoting_is_the_standard_one(text):
    assert stella_module.quote_json(text) == json.encoder.encode_basestring(text)


# ---- with and without programs -----------------------------------------------------------------------------


@pytest.mark.parametrize(("programs", "verifier", "code"), [
    (("cosign", "openssl", "zstd"), "cosign", 0), (("openssl", "zstd"), "openssl", 0), (("zstd",), "builtin", 0),
    (("cosign",), "cosign", 30), (("openssl",), "openssl", 30), ((), "builtin", 30)])
def test_verify_with_what_the_host_has(start, gw, fetched, tmp_path, programs, verifier, code):
    """Without zstd, a .zst cannot be looked into: exit 30, unless Python 3.14 reads it; the digest is checked."""
    places = {"cosign": ROOT / "vendor/bin/cosign", "openssl": shutil.which("openssl"), "zstd": shutil.which("zstd")}
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in programs:
        (tools / name).symlink_to(places[name])
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy(STELLA, alone)
    words, env = verify_words(gw, fetched), {"PATH": str(tools)}
    done = start(*words, env=env, program=alone / "stella.py")
    assert done.code == (0 if sys.version_info >= (3, 14) else code), done
    assert f"checked by {verifier}" in done.out
    assert "pass     bundle " in done.out
    assert start(*words, "--no-artifacts", env=env, program=alone / "stella.py").code == 0


# ---- surroundings ------------------------------------------------------------------------------------------

ENVIRONMENTS = {
    "c-locale": {"LC_ALL": "C"},
    "posix-locale-without-utf8-mode": {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "ascii-streams": {"PYTHONIOENCODING": "ascii"},
    "locale-that-is-not-there": {"LC_ALL": "xx_XX.UTF-8", "LANG": "xx_XX"},
    "no-home": {"HOME": None},
    "empty-home": {"HOME": ""},
    "home-that-is-not-there": {"HOME": "/nowhere/at/all"},
    "dumb-terminal": {"TERM": "dumb"},
    "20-columns": {"COLUMNS": "20", "TERM": "xterm"},
    "columns-that-are-none": {"COLUMNS": "wide"},
    "columns-without-end": {"COLUMNS": "9" * 5000},
    "nothing-but-path": dict.fromkeys(set(os.environ) - {"PATH"}),
    "odd-variables": {"PYTHONPATH": "/nowhere", "PYTHONHASHSEED": "0", "TZ": "Pacific/Kiritimati", "LANGUAGE": "xx"},
}


@pytest.mark.parametrize("env", ENVIRONMENTS.values(), ids=ENVIRONMENTS)
def test_the_recipe_ends_verified_in(start, gw, fetched, tmp_path, env):
    run_id, folder = fetched
    server = {"STELLA_SERVER": gw.url, "STELLA_TOKEN": gw.token}
    done = start("export", "download", run_id, "--output", folder / "again", flags=(), env={**env, **server})
    assert (done.code, "Traceback" in done.err) == (0, False), done
    done = start(*verify_words(gw, fetched), flags=(), env=env)
    assert (done.code, done.err) == (0, ""), done
    assert "verified" in done.out


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)], ids=str)
def test_closed_streams(start, gw, fetched, closed):
    """`<&-`, `>&-`, `2>&-`: a file of ours must not get their numbers and then their text."""
    run_id, folder = fetched
    target = folder / "again"
    redirect = " ".join({0: "<&-", 1: ">&-", 2: "2>&-"}[number] for number in closed)
    done = subprocess.run(["sh", "-c", f'exec "$@" {redirect}', "sh", sys.executable, *STRICT, str(STELLA), "export",
                           "download", run_id, "--output", str(target)], env=surroundings(gw), capture_output=True,
                          timeout=60, check=False)
    assert done.returncode in ((0, 1) if 1 in closed else (0,)), done
    assert b"Traceback" not in done.stderr
    assert target.read_bytes() == (folder / "export.tar.zst").read_bytes()
    done = subprocess.run(["sh", "-c", f'exec "$@" {redirect}', "sh", sys.executable, *STRICT, str(STELLA),
                           *(str(word) for word in verify_words(gw, fetched))], env=surroundings(), capture_output=True,
                          timeout=60, check=False)
    assert done.returncode == (1 if 1 in closed else 0), done
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("columns", ["20", "1"])
def test_narrow_terminal(gw, fetched, columns):
    """A real terminal on all three streams: every line of a table fits (or the columns are at their least)."""
    master, slave = pty.openpty()
    child = subprocess.Popen([sys.executable, *STRICT, str(STELLA), "export", "run", "ls"], stdin=slave, stdout=slave,
                             stderr=slave, env=surroundings(gw, {"COLUMNS": columns, "TERM": "xterm"}))
    os.close(slave)
    text = b""
    while True:
        try:
            piece = os.read(master, 4096)
        except OSError:  # Linux: the other side is closed
            break
        if not piece:
            break
        text += piece
    os.close(master)
    assert child.wait(60) == 0
    lines = text.decode().splitlines()
    assert lines[0].split()[0].startswith("RU")
    assert max(len(line) for line in lines) <= max(int(columns), 5 * 8 + 4 * 2)


def test_umask_077_keeps_files_private(start, gw, fetched):
    run_id, folder = fetched
    done = subprocess.run(["sh", "-c", 'umask 077; exec "$@"', "sh", sys.executable, *STRICT, str(STELLA), "export",
                           "manifest", run_id, "--output", str(folder / "deep/er/m.json")], env=surroundings(gw),
                          capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done
    assert (folder / "deep/er/m.json").stat().st_mode & 0o777 == 0o600
    assert (folder / "deep/er").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("years", [-1, 1])
def test_clock_that_is_wrong_by_a_year(cli, gw, fetched, monkeypatch, years):
    """Only --max-age asks the clock: a year ahead is too old, a year behind lies in the future."""
    now = time.time()
    monkeypatch.setattr(stella_module.Clock, "now", lambda _: now + years * 365 * 86400)
    words = [*verify_words(gw, fetched)[1:-1], "json"]
    assert cli(*words).code == 0
    done = cli(*words, "--max-age", "30")
    age = next(check for check in done.json()["checks"] if check["name"] == "age")
    assert (done.code, age["status"]) == (20, "fail"), done
    assert cli("run", "ls", gw=gw).code == 0


READ_ONLY = """
import os, sys
if os.geteuid() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
os.execv(sys.argv[1], sys.argv[1:])
"""


def test_read_only_home_and_folder(gw, fetched, tmp_path):
    """Not as root, for whom nothing is read-only. verify writes only in the temporary folder."""
    scratch, public = Path(f"/tmp/stella-{os.getpid()}"), tmp_path
    scratch.mkdir(mode=0o777)
    scratch.chmod(0o777)
    try:
        shutil.copytree(fetched[1], scratch / "ro")
        for name in (STELLA, gw.public_key):
            shutil.copy(name, scratch / "ro")
        for path in [*(scratch / "ro").iterdir(), scratch / "ro"]:
            path.chmod(0o555 if path.is_dir() else 0o444)
        words = [word if not isinstance(word, Path) else scratch / "ro" / word.name
                 for word in verify_words(gw, fetched)]
        env = {"PATH": os.defpath, "HOME": str(scratch / "ro"), "TMPDIR": "/tmp"}
        python = shutil.which("python3", path="/usr/bin") or sys.executable
        command = [sys.executable, "-c", READ_ONLY, python, *STRICT, str(scratch / "ro/stella.py")]
        done = subprocess.run([*command, *(str(word) for word in words)], env=env, cwd=scratch / "ro",
                              capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, done.stderr) == (0, ""), done
        done = subprocess.run([*command, "export", "manifest", fetched[0], "--output", "m.json"], cwd=scratch / "ro",
                              env={**env, "STELLA_SERVER": gw.url, "STELLA_TOKEN": gw.token}, capture_output=True,
                              text=True, timeout=60, check=False)
        assert (done.returncode, done.stdout) == (1, ""), done
        assert "m.json: Permission denied" in done.stderr
    finally:
        (scratch / "ro").chmod(0o755)
        shutil.rmtree(scratch)
    assert public.exists()
