"""The figures of stella.py that an auditor asks for first, and of its tests; `make audit` prints them."""

from __future__ import annotations

import ast
import statistics
import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(TESTS), str(TESTS.parent)]
from test_source import FUNCTIONS, ROOMS, STELLA, Source, nesting  # noqa: E402 - found only from here on


def code_lines(path: Path) -> int:
    """Lines that are neither blank nor a comment alone."""
    return sum(bool(line.strip()) and line.strip()[0] != "#" for line in path.read_text(encoding="utf-8").splitlines())


def main() -> None:
    source = Source(STELLA.read_text(encoding="utf-8"))
    functions = source.of(*FUNCTIONS)
    lengths = {node: node.end_lineno - node.lineno + 1 for node in functions}
    longest = max(functions, key=lengths.__getitem__)
    deepest = max(functions, key=nesting)
    ends = [room.line for room in source.rooms[1:]] + [source.text.count("\n")]
    print(f"  lines      {source.text.count(chr(10))}, of these code {code_lines(STELLA)};"
          f" {sum(1 for _ in ast.walk(source.tree))} nodes")
    print(f"  functions  {len(functions)}; lines: median {statistics.median(lengths.values()):g},"
          f" longest {lengths[longest]} ({longest.name}); deepest nesting {nesting(deepest)} ({deepest.name})")
    for room, end in zip(source.rooms, ends):
        count = sum(source.room(node) == room.title for node in functions)
        print(f"  room {room.number:2}    {end - room.line:5} lines, {count:3} functions  {ROOMS[room.number - 1]}")
    tests = [path for path in TESTS.rglob("*.py") if "bench" not in path.parts]
    written = sum(map(code_lines, tests))
    print(f"  tests      {written} lines of code in {len(tests)} files, {written / code_lines(STELLA):.2f} for one")


if __name__ == "__main__":
    main()
