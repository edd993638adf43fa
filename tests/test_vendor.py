"""vendor/fetch: what it reads from apt's sources, what it keeps, and what it says when nothing can be had."""

import hashlib
import importlib.machinery
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "vendor/fetch"


@pytest.fixture
def fetch(tmp_path, monkeypatch):
    """The script as a module, with a vendor/bin and an /etc/apt of its own."""
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    loader = importlib.machinery.SourceFileLoader("vendor_fetch", str(SCRIPT))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("vendor_fetch", loader))
    loader.exec_module(module)
    module.BIN = str(tmp_path / "bin")
    module.RECORD = str(tmp_path / "bin/COSIGN.txt")
    module.APT_FOLDER = str(tmp_path / "apt")
    (tmp_path / "bin").mkdir()
    (tmp_path / "apt/sources.list.d").mkdir(parents=True)
    return module


MIRROR = "http://mirror.example/debian"
DEB822 = """\
# a comment
Types: deb deb-src
# another, inside
URIs: http://mirror.example/debian-security
Suites: bookworm-security
Components: main
Signed-By: /keys/security.gpg

Types: deb
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main contrib
Signed-By: /keys/debian.gpg
"""
INLINE_KEY = """\
Types: deb
URIs: http://mirror.example/debian
Suites: trixie
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 AAAA
 -----END PGP PUBLIC KEY BLOCK-----
"""
KEY = "-----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n AAAA\n -----END PGP PUBLIC KEY BLOCK-----"
OTHERS = """\
deb http://packages.example/tool stable main
deb [arch=amd64 signed-by=/keys/debian.gpg] http://mirror.example/debian bookworm main contrib
deb http://mirror.example/debian bookworm-backports main
"""


@pytest.mark.parametrize(("name", "text", "expected"), [
    ("sources.list.d/debian.sources", DEB822, (MIRROR, "/keys/debian.gpg", "bookworm")),
    ("sources.list.d/debian.sources", INLINE_KEY, (MIRROR, KEY, "trixie")),
    ("sources.list", "deb http://mirror.example/debian sid main\n", (MIRROR, "", "sid")),
    ("sources.list.d/x.list", OTHERS, (MIRROR, "/keys/debian.gpg", "bookworm")),
], ids=["deb822", "deb822-inline-key", "one-line", "one-line-options-among-others"])
def test_the_debian_mirror_is_found_in_either_format(fetch, tmp_path, name, text, expected):
    (tmp_path / "apt" / name).write_text(text)
    assert tuple(fetch.find_mirror()) == expected


@pytest.mark.parametrize("text", [
    "", "# deb http://mirror.example/debian sid main\n", "deb http://mirror.example/ubuntu noble main\n",
    "deb-src http://mirror.example/debian sid main\n", "deb http://mirror.example/debian sid contrib\n",
    "deb http://mirror.example/debian-security bookworm-security main\n"])
def test_other_sources_are_no_debian_mirror(fetch, tmp_path, text):
    (tmp_path / "apt/sources.list").write_text(text)
    with pytest.raises(fetch.FetchError, match="no Debian mirror"):
        fetch.find_mirror()


def test_a_disabled_source_is_not_used(fetch, tmp_path):
    (tmp_path / "apt/sources.list.d/debian.sources").write_text("Enabled: no\n" + INLINE_KEY)
    with pytest.raises(fetch.FetchError, match="no Debian mirror"):
        fetch.find_mirror()


def test_the_record_keeps_only_files_that_are_there_unchanged(fetch, tmp_path):
    entries = {}
    for name in ("same", "changed", "gone"):
        (tmp_path / "bin" / name).write_bytes(b"program")
        entries[name] = fetch.Entry(name, hashlib.sha256(b"program").hexdigest(), f"where {name} came from")
    fetch.write_record(entries)
    (tmp_path / "bin/changed").write_bytes(b"another")
    (tmp_path / "bin/gone").unlink()
    assert fetch.read_record() == {"same": entries["same"]}


@pytest.fixture
def bare_machine(tmp_path):
    """A copy of the script, and a runner for it with nothing on PATH but what is put there."""
    tools = tmp_path / "tools"
    tools.mkdir()
    (tmp_path / "vendor").mkdir()
    script = tmp_path / "vendor/fetch"
    script.write_bytes(SCRIPT.read_bytes())

    def run(*words):
        return subprocess.run([sys.executable, str(script), *words], env={"PATH": str(tools)}, capture_output=True,
                              text=True, timeout=60, check=False)

    return tools, tmp_path / "vendor/bin", run


def make_cosign(folder, status=0):
    path = folder / "cosign"
    path.write_text(f"#!/bin/sh\nexit {status}\n")
    path.chmod(0o755)
    return path


def test_without_apt_and_cosign_it_fails_and_says_what_to_do(bare_machine):
    _, _, run = bare_machine
    done = run()
    assert done.returncode == 1
    assert "no apt on this machine" in done.stderr
    assert "install cosign 2.5 or newer" in done.stderr


def test_without_apt_a_cosign_on_path_is_linked_and_recorded(bare_machine):
    tools, folder, run = bare_machine
    cosign = make_cosign(tools)
    for _ in range(2):
        assert run().returncode == 0
        assert os.readlink(folder / "cosign") == str(cosign)
        assert f"cosign  a link to {cosign}, found on PATH" in (folder / "COSIGN.txt").read_text()


def test_without_apt_a_shell_that_is_missing_is_a_failure_with_advice(bare_machine):
    tools, folder, run = bare_machine
    (tools / "fish").write_text("#!/bin/sh\n")
    (tools / "fish").chmod(0o755)
    done = run("--shells")
    assert done.returncode == 1
    assert "vendor: no zsh: there is no apt on this machine\n" in done.stderr
    assert "install them" in done.stderr
    assert os.listdir(folder) == []
    (tools / "fish").rename(tools / "zsh")
    assert "no fish" in run("--shells").stderr
    shutil.copy(tools / "zsh", tools / "fish")
    assert run("--shells").returncode == 0


def test_a_cosign_that_does_not_run_is_no_cosign(bare_machine):
    tools, folder, run = bare_machine
    make_cosign(tools, status=1)
    done = run()
    assert done.returncode == 1
    assert "does not run here" in done.stderr
    assert not (folder / "cosign").exists()


def test_what_make_vendor_fetched_is_what_its_record_says():
    """The real thing: a cosign that runs, and whose digest is the one written down."""
    cosign = ROOT / "vendor/bin/cosign"
    assert cosign.exists(), "run `make vendor` first"
    lines = (ROOT / "vendor/bin/COSIGN.txt").read_text().splitlines()[1:]
    recorded = {name: digest for digest, name, _ in (line.split("  ", 2) for line in lines)}
    assert hashlib.sha256(cosign.read_bytes()).hexdigest() in recorded.values()
    for name, digest in recorded.items():
        assert hashlib.sha256((ROOT / "vendor/bin" / name).read_bytes()).hexdigest() == digest
    subprocess.run([str(cosign), "version"], check=True, capture_output=True, timeout=60)
