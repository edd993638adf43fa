"""Completion in a real zsh and fish, with the cases of bash; where the machine has them (CI's may have neither)."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import stella as stella_module
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


def offered_by_zsh(line, folder):
    words = line.split() + ([""] if line.endswith(" ") else [])
    return subprocess.run(["zsh", "-f", "-c", ZSH % stella_module.COMPLETIONS["zsh"](), "zsh", *words], cwd=folder,
                          capture_output=True, text=True, timeout=60, check=False).stdout.splitlines()


def offered_by_fish(line, folder):
    script = folder.parent / "stella.fish"
    script.write_text(stella_module.COMPLETIONS["fish"]())
    done = subprocess.run(["fish", "--no-config", "-c", "source $argv[1]; complete -C $argv[2]", str(script), line],
                          cwd=folder, capture_output=True, text=True, timeout=60, check=True)
    return [offer.partition("\t")[0] for offer in done.stdout.splitlines()]


SHELLS = [shell for shell in ("zsh", "fish") if shutil.which(shell)]


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(("line", "wanted", "unwanted"), [*CASES.values(), *EQUALS.values()], ids=[*CASES, *EQUALS])
def test_completion(tmp_path, shell, line, wanted, unwanted):
    folder = tmp_path / "here"
    folder.mkdir()
    make_files(folder)
    offered = (offered_by_zsh if shell == "zsh" else offered_by_fish)(line, folder)
    if shell == "fish" and line.endswith("--"):
        wanted = [word for word in wanted if word != "--help"]
    judge(offered, wanted, unwanted)
