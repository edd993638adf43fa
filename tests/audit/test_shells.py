"""Completion in a real zsh and fish, with the cases of bash: the machine's, else what vendor/fetch unpacked."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import stella as stella_module
from conftest import ROOT
from test_completion import CASES, EQUALS, judge, make_files

# compsys needs a terminal; these take the place of what _stella calls of it. The words are cut as zsh cuts them.
ZSH = """
compdef() { : }
_files() { local name; for name in ${~${PREFIX//\\*/}}*(N); do print -r -- $name; done }
compadd() { local word; [[ $1 == -- ]] && shift; for word; do [[ $word == ${PREFIX}* ]] && print -r -- $word; done }
compset() { PREFIX=${PREFIX#*=} }
%s
words=("$@") CURRENT=$# PREFIX=$words[-1]
_stella
"""


UNPACKED = ROOT / "vendor" / "bin" / "shells"
LIBRARIES = ":".join(map(str, UNPACKED.glob("usr/lib/*-linux-gnu")))


def run(shell, folder, *words):
    """A shell's output; FileNotFoundError where there is none to be had."""
    program = shutil.which(shell) or shutil.which(shell, path=f"{UNPACKED}/usr/bin:{UNPACKED}/bin") or shell
    return subprocess.run([program, *words], cwd=folder, env={**os.environ, "LD_LIBRARY_PATH": LIBRARIES}, text=True,
                          capture_output=True, timeout=60, check=shell == "fish").stdout.splitlines()


def offered_by_zsh(line, folder):
    words = line.split() + ([""] if line.endswith(" ") else [])
    return run("zsh", folder, "-f", "-c", ZSH % stella_module.COMPLETIONS["zsh"](), "zsh", *words)


def offered_by_fish(line, folder):
    script = folder.parent / "stella.fish"
    script.write_text(stella_module.COMPLETIONS["fish"]())
    offers = run("fish", folder, "--no-config", "-c", "source $argv[1]; complete -C $argv[2]", str(script), line)
    return [offer.partition("\t")[0] for offer in offers]


@pytest.mark.parametrize("shell", ["zsh", "fish"])
@pytest.mark.parametrize(("line", "wanted", "unwanted"), [*CASES.values(), *EQUALS.values()], ids=[*CASES, *EQUALS])
def test_completion(tmp_path, shell, line, wanted, unwanted):
    folder = tmp_path / "here"
    folder.mkdir()
    make_files(folder)
    offered = (offered_by_zsh if shell == "zsh" else offered_by_fish)(line, folder)
    if shell == "fish" and line.endswith("--"):
        wanted = [word for word in wanted if word != "--help"]
    judge(offered, wanted, unwanted)
