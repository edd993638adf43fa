"""README's command reference, made from --help: `python tests/reference.py --write` puts it there anew.

Left out is what README says elsewhere or many commands have in common: INTRODUCTION and the links in it say so.
test_readme.py keeps README equal to this.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
import stella  # noqa: E402 - found only from here on

README = ROOT / "README.md"
TITLE = "## Command reference\n"
INTRODUCTION = """
Made from `--help` by `python3 tests/reference.py --write`. Left out there: what the [exit codes](#exit-codes) mean, the
[variables](#configuration), that `RUN` and `PROFILE` are ids, [`--query`](#one-value-one-file), and below the first
block the global options.
"""


def cut(text: str, title: str) -> str:
    """The text without the part of this title, which must be there."""
    shorter, cuts = re.subn(rf"\n{title}:\n(?:  .*\n)+", "", text)
    assert cuts == 1, (title, text)
    return shorter


def group_text() -> str:
    """What `stella --help` prints, less the examples, which stand below, and what INTRODUCTION names."""
    return cut(cut(cut(stella.group_help(()) + "\n", "examples"), "exit codes"), "environment")


def command_text(command: stella.Command) -> str:
    """Its --help, less what INTRODUCTION names."""
    text = cut(stella.command_help(command) + "\n", "global options")
    text, codes = re.subn(r"\nexit codes:\n((?:  .*\n)+)", lambda found: "\nexit codes: %s\n" % ", ".join(
        line.split()[0] for line in found.group(1).splitlines()), text)
    assert codes == 1, text
    text = re.sub(r"\narguments:\n  (?:RUN|PROFILE) .*\n(?=\n)", "", text)
    text = re.sub(r"  --query PATH .*\n(?: {26}.*\n)*", "", text)
    return text.replace("\noptions:\n\n", "\n")


def section() -> str:
    """The whole section, with a heading for each command."""
    parts = [f"```text\n{group_text()}```\n"]
    parts += [f"### stella {' '.join(command.words)}\n\n```text\n{command_text(command)}```\n"
              for command in stella.COMMANDS]
    return TITLE + INTRODUCTION + "\n" + "\n".join(parts)


def with_section(text: str) -> str:
    """README's text with this section in the place of the one that is there."""
    before, title, rest = text.partition("\n" + TITLE)
    assert title, "README has no command reference"
    return f"{before}\n{section()}\n## {rest.partition(chr(10) + '## ')[2]}"


if __name__ == "__main__":
    old = README.read_text(encoding="utf-8")
    new = with_section(old)
    if sys.argv[1:] == ["--write"]:
        README.write_text(new, encoding="utf-8")
    else:
        print(section(), end="")
        sys.exit(f"{README} has another one; see --write" if new != old else 0)
