"""The coverage of stella.py under the whole suite, and the reason for each line that nothing runs.

    python tests/audit/cover.py run    the suite, its processes included, then the report
    python tests/audit/cover.py        the report on the data that is there

uncovered.txt has a line for a function that is not covered whole: `name | reason`. What is missing in any other
function is printed, and is no error, because machines differ; coverage under 95 % in all is one.
A test that fails here and not in `make test` was too slow under the tracer; it is named and is no error.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent
ROOT = TESTS.parent
sys.path[:0] = [str(TESTS), str(ROOT)]
from test_source import FUNCTIONS, STELLA, Source  # noqa: E402 - found only from here on

FOLDER = ROOT / "build" / "coverage"
REASONS = Path(__file__).with_name("uncovered.txt")
ENOUGH = 95.0


def coverage(*words: str, check: bool = True) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "coverage", words[0], f"--rcfile={Path(__file__).with_name('coverage.ini')}"]
    return subprocess.run([*command, *words[1:]], cwd=ROOT, env={**os.environ, "STELLA_ROOT": str(ROOT)}, check=check)


def run_suite() -> None:
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    words = ("-c", "tests/pytest.ini", "--rootdir=.", "-q", "--no-header", "--tb=line")
    coverage("run", "-m", "pytest", *words, check=False)
    coverage("combine", "-q")


def functions_with_gaps(report: dict[str, list]) -> dict[str, list[int]]:
    """{the function's dotted name: first lines of what is missing}."""
    source = Source(STELLA.read_text(encoding="utf-8"))
    gaps: dict[str, list[int]] = {}
    for line in sorted({*report["missing_lines"], *(abs(start) for start, _ in report["missing_branches"])}):
        around = [node for node in source.of(*FUNCTIONS) if node.lineno <= line <= node.end_lineno]
        inner = max(around, key=lambda node: node.lineno, default=None)
        name = f"{source.places[inner]}.{inner.name}".lstrip(".") if inner else "(module)"
        gaps.setdefault(name, []).append(line)
    return gaps


def reasons() -> dict[str, str]:
    lines = [line for line in REASONS.read_text(encoding="utf-8").splitlines() if line and line[0] != "#"]
    return {name.strip(): reason.strip() for name, _, reason in (line.partition(" | ") for line in lines)}


def main() -> int:
    if sys.argv[1:] == ["run"]:
        run_suite()
    coverage("json", "-q", "-o", str(FOLDER / "report.json"))
    report = json.loads((FOLDER / "report.json").read_text())["files"]["stella.py"]
    summary, known = report["summary"], reasons()
    gaps = functions_with_gaps(report)
    for name, lines in gaps.items():
        if name not in known:
            print(f"  not covered, and no reason given: {name}, line {', '.join(map(str, lines))}")
    for name in sorted(known.keys() - gaps.keys()):
        print(f"  covered by now, or depending on the machine: {name}")
    share = summary["percent_covered"]
    size = f"{summary['num_statements']} statements and {summary['num_branches']} branches"
    print(f"  coverage   {share:.2f} % of {size}; {len(gaps)} functions are not covered whole")
    return 0 if share >= ENOUGH else 1


if __name__ == "__main__":
    sys.exit(main())
