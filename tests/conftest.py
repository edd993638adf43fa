"""What every test shares: clean surroundings, one gateway key for the session, and two ways to run stella.

`cli(...)` calls stella.main in this process (fast; waits are recorded and hardly wait); `process(...)` starts
the file as a user would (for signals, pipes, terminals, start-up). Both give a Result.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import pytest

import gateway as gateway_module
import stella as stella_module

ROOT = Path(__file__).resolve().parent.parent
STELLA = ROOT / "stella.py"
PROXIES = ("http_proxy", "https_proxy", "no_proxy", "all_proxy")

# Under nohup, or in a script's background, these arrive ignored, and every process started here would inherit that.
for _number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, signal.default_int_handler if _number == signal.SIGINT else signal.SIG_DFL)


# What hardly depends on the Python that runs it: of two each takes its share, so that both end at the same time.
SHARES = {
    "oldest": ("export_kit", "install", "readme", "recipe", "shapes"),
    "newest": ("attacks", "bounds", "canary", "fuzz", "gateway", "kit", "security_page", "source", "terminal",
               "vendor"),
}


def pytest_addoption(parser):
    parser.addoption("--share", choices=SHARES, help="leave out the other one's SHARES")


def pytest_ignore_collect(collection_path, config):
    """True for a file that --share leaves out; None asks others."""
    mine = config.getoption("--share")
    left_out = [f"test_{name}" for share, names in SHARES.items() if mine not in (None, share) for name in names]
    return True if collection_path.stem in left_out else None


def pytest_make_parametrize_id(val):
    """The names of the tests are read as a table of contents: no page of a value in them."""
    text = val.decode("latin-1") if isinstance(val, bytes) else val if isinstance(val, str) else ""
    return ascii(text[:40])[1:-1] + "..." if len(text) > 60 else None


class Result:
    """What one invocation left: `code` (negative: ended by that signal), `out` and `err` as text."""

    def __init__(self, code: int, out: bytes, err: bytes) -> None:
        self.code = code
        self.out_bytes = out
        self.out = out.decode("utf-8", "surrogateescape")
        self.err = err.decode("utf-8", "surrogateescape")

    def json(self) -> Any:
        return json.loads(self.out)

    def lines(self) -> list[Any]:
        """Standard output as JSON lines."""
        return [json.loads(line) for line in self.out.splitlines()]

    def __repr__(self) -> str:
        return f"exit {self.code}\n--- stdout\n{self.out}\n--- stderr\n{self.err}"


@pytest.fixture(scope="session")
def scratch(tmp_path_factory):
    """scratch(): a new folder that lives as long as the with block. pytest's own mktemp looks at every folder that it
    has made before, which costs a third of the suite's time by its end.
    """
    base = tmp_path_factory.mktemp("scratch")

    @contextlib.contextmanager
    def folder():
        with tempfile.TemporaryDirectory(dir=base) as path:
            yield Path(path)

    return folder


@pytest.fixture(autouse=True)
def _clean_surroundings(monkeypatch, scratch):
    """No setting of this machine reaches a test; HOME is an empty folder of the test's own."""
    for name in list(os.environ):
        if name.startswith("STELLA_") or name.lower() in PROXIES or name in stella_module.CA_VARIABLES:
            monkeypatch.delenv(name)
    for name in ("TRACEPARENT", "NO_COLOR", "COLUMNS", "TERM"):
        monkeypatch.delenv(name, raising=False)
    with scratch() as home:
        monkeypatch.setenv("HOME", str(home))
        yield


@pytest.fixture(autouse=True)
def _nothing_left_running():
    """Every thread that a test's client or server started has ended."""
    before = set(threading.enumerate())
    yield
    for thread in set(threading.enumerate()) - before:
        thread.join(5)
        assert not thread.is_alive(), f"left running: {thread}"


@pytest.fixture(scope="session")
def keys(tmp_path_factory):
    """The tenants' private keys, made once and used by every gateway: (acme's, globex's)."""
    with gateway_module.Gateway(data=tmp_path_factory.mktemp("keys")) as first:
        return first.private_key, first.other_private_key


@pytest.fixture
def gw(scratch, keys):
    """A running Export Center whose runs take no time."""
    with scratch() as data, gateway_module.Gateway(data=data, pace=0.0, key=keys[0], other_key=keys[1]) as running:
        yield running


class Clock:
    """What the client waited for: `slept` in seconds. Real waits are cut to a hundredth of a second."""

    def __init__(self) -> None:
        self.slept: list[float] = []


@pytest.fixture
def clock(monkeypatch):
    import time

    record = Clock()

    def sleep(_, seconds):
        record.slept.append(seconds)
        time.sleep(min(seconds, 0.01))

    monkeypatch.setattr(stella_module.Clock, "sleep", sleep)
    return record


@pytest.fixture
def cli(monkeypatch, capsysbinary, clock):
    """cli("run", "show", ID, gw=gw): `stella export run show ID` in this process.

    gw: sets STELLA_SERVER and STELLA_TOKEN; env: more of the environment; whole=True: do not put `export`
    before the words.
    """

    def run(*words: Any, gw: Any = None, env: dict[str, str] | None = None, whole: bool = False) -> Result:
        with monkeypatch.context() as patch:
            if gw is not None:
                patch.setenv("STELLA_SERVER", gw.url)
                patch.setenv("STELLA_TOKEN", gw.token)
            for name, value in (env or {}).items():
                patch.setenv(name, value)
            numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
            handlers = [signal.getsignal(number) for number in numbers]
            capsysbinary.readouterr()
            try:
                code = stella_module.main([str(word) for word in (words if whole else ("export", *words))])
            finally:
                for number, handler in zip(numbers, handlers):
                    signal.signal(number, handler)
            out, err = capsysbinary.readouterr()
        return Result(code, out, err)

    return run


def surroundings(gw: Any = None, env: dict[str, str] | None = None) -> dict[str, str]:
    """The environment of a stella that is started as a process."""
    values = dict(os.environ, PYTHONDONTWRITEBYTECODE="1")
    if gw is not None:
        values.update(STELLA_SERVER=gw.url, STELLA_TOKEN=gw.token)
    values.update(env or {})
    return values


@pytest.fixture
def process():
    """process("run", "show", ID, gw=gw): the same as a process of its own; with background=True the Popen."""
    started: list[subprocess.Popen[bytes]] = []

    def run(*words: Any, gw: Any = None, env: dict[str, str] | None = None, background: bool = False,
            stdin: bytes = b"", timeout: float = 60, **options: Any) -> Any:
        command = [sys.executable, str(STELLA), "export", *(str(word) for word in words)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        child = subprocess.Popen(command, env=surroundings(gw, env), **pipes)
        started.append(child)
        if background:
            return child
        out, err = child.communicate(stdin, timeout)
        return Result(child.returncode, out or b"", err or b"")

    yield run
    for child in started:
        if child.poll() is None:
            child.kill()
        child.communicate()


# What each command that calls the gateway may be given, by its words after `export`.
CALLS = {
    "profile list": ("profile", "list"), "profile show": ("profile", "show", "X"),
    "run submit": ("run", "submit", "X"), "run ls": ("run", "ls"), "run show": ("run", "show", "X"),
    "run watch": ("run", "watch", "X"), "run cancel": ("run", "cancel", "X"), "download": ("download", "X"),
    "manifest": ("manifest", "X"), "provenance": ("provenance", "X"), "kit": ("kit", "X", "--output", "folder"),
    "profile create": ("profile", "create", "--file", "profile.json"),
    "profile update": ("profile", "update", "X", "--name", "new"), "profile archive": ("profile", "archive", "X"),
    "profile restore": ("profile", "restore", "X"),
}
CALLS = {
    name: words for name, words in CALLS.items()
    if any(" ".join(command.words[1:]) == name for command in stella_module.COMMANDS)
}
PROFILE = {"name": "x", "kind": "json", "variant": "raw", "distribution": ["http"]}


@pytest.fixture(params=CALLS.values(), ids=CALLS)
def call(request, tmp_path, monkeypatch):
    """Each command that calls the gateway, in a folder that holds what it needs and must hold no more afterwards."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "profile.json").write_text(json.dumps(PROFILE))
    yield request.param
    assert [name for name in os.listdir(tmp_path) if name not in ("profile.json", "folder")] == []
    assert not os.path.exists("folder") or os.listdir("folder") == []
