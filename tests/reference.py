"""README's command reference, made from --help: `python tests/reference.py --write` puts it there anew.

The first block is what `stella --help` prints. Those of the commands leave out what they have in common: the global
options, and what the exit codes mean. test_readme.py keeps README equal to this.
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
Made from `--help` by `python3 tests/reference.py --write`. Global options may stand before or after the command.
"""


def command_text(command: stella.Command) -> str:
    """Its --help, less the global options and the meanings of the exit codes, which stand above."""
    text, cuts = re.subn(r"\nglobal options:\n(?:  .*\n)+", "", stella.command_help(command) + "\n")
    text, codes = re.subn(r"\nexit codes:\n((?:  .*\n)+)", lambda found: "\nexit codes: %s\n" % ", ".join(
        line.split()[0] for line in found.group(1).splitlines()), text)
    assert (cuts, codes) == (1, 1), text
    return text


def section() -> str:
    """The whole section, with a heading for each command."""
    parts = [f"```text\n{stella.group_help(())}\n```\n"]
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
