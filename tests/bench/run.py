"""make bench: runs every bench_*.py beside this file (or those named), each a program of its own.

A missed goal is printed, and ends with exit 1 only with --strict: a busy machine is no fault of the code.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from common import machine


def main() -> int:
    wanted = [word for word in sys.argv[1:] if not word.startswith("-")]
    here = Path(__file__).resolve().parent
    print(machine(), flush=True)
    failed = []
    for path in sorted(here.glob("bench_*.py")):
        name = path.stem[len("bench_"):]
        if wanted and name not in wanted:
            continue
        print(f"\n=== {name}", flush=True)
        if subprocess.run([sys.executable, str(path)], check=False).returncode:
            failed.append(name)
    print(f"\nbench: {'all goals reached' if not failed else 'goals missed or not measured: ' + ', '.join(failed)}")
    return 1 if failed and "--strict" in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())
