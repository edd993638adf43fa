"""What the benchmarks share: interleaved runs, medians, peak memory, and tables of ratios.

A benchmark compares commands in one run: every command once, then again, so that a slow moment of the
machine hits all of them. Numbers are printed as ratios against what a user would run instead. Whatever
they measure, stella's peak memory is to stay below PEAK_MIB, and the tables say whether it did. Goals are for
the single file, which Python compiles at each start; the installed stella stands beside it, without goals.
"""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
STELLA = ROOT / "stella.py"
# The system's own interpreter: a shim on PATH can cost 80 ms at each start. It also runs what stella is measured
# against, from the packages of the environment that runs this.
PYTHON = "/usr/bin/python3" if os.path.exists("/usr/bin/python3") else sys.executable
PACKAGES = sysconfig.get_path("purelib")
TOKEN = "secret"
PEAK_MIB = 32


class Sample:
    """One run of one command: wall clock `seconds`, `peak_kib` of the largest process, exit `code`."""

    def __init__(self, seconds: float, peak_kib: int, code: int) -> None:
        self.seconds, self.peak_kib, self.code = seconds, peak_kib, code


def stella(*words: str) -> list[str]:
    """The single file run by the system's Python."""
    return [PYTHON, str(STELLA), *words]


@contextlib.contextmanager
def installed() -> Iterator[str]:
    """What install.sh installs with the system's Python, until the block ends: the path of `stella`."""
    with tempfile.TemporaryDirectory(prefix="stella-bench-") as prefix:
        subprocess.run(["sh", str(ROOT / "install.sh"), "--prefix", prefix], check=True, stdout=subprocess.DEVNULL,
                       env={"PATH": os.path.dirname(PYTHON) + ":/usr/bin:/bin", "HOME": prefix})
        yield f"{prefix}/bin/stella"


def environment(server: str, home: str = "/nonexistent", **more: str) -> dict[str, str]:
    """What stella and its rivals are run with: nothing of the user's own settings."""
    return {"PATH": os.environ["PATH"], "HOME": home, "STELLA_SERVER": server, "STELLA_TOKEN": TOKEN, **more}


def have(*programs: tuple[str, str]) -> bool:
    """Whether all these programs are there; (name, Debian package) of the missing are said."""
    missing = [(name, package) for name, package in programs if not shutil.which(name)]
    for name, package in missing:
        print(f"not measured: there is no {name} here (Debian: apt-get install {package})")
    return not missing


def run_once(command: Sequence[str], env: Mapping[str, str] | None = None, want: int = 0) -> Sample:
    """Runs a command, its output thrown away; an unexpected exit code ends the benchmark with what it said."""
    with tempfile.TemporaryFile() as said:
        started = time.perf_counter()
        child = subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=said)
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.perf_counter() - started
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode != want:
            said.seek(0)
            words = said.read().decode(errors="replace")
            raise SystemExit(f"exit {child.returncode} instead of {want}: {' '.join(command)}\n{words}")
    return Sample(seconds, usage.ru_maxrss, child.returncode)


def compare(commands: Mapping[str, Callable[[], Sample]], rounds: int, warm_up: int = 1) -> dict[str, Sample]:
    """Every command `rounds` times, interleaved, after `warm_up` rounds that do not count; the median of each."""
    samples: dict[str, list[Sample]] = {name: [] for name in commands}
    for round_number in range(warm_up + rounds):
        for name, run in commands.items():
            sample = run()
            if round_number >= warm_up:
                samples[name].append(sample)
    return {
        name: Sample(statistics.median(s.seconds for s in taken), max(s.peak_kib for s in taken), taken[-1].code)
        for name, taken in samples.items()
    }


def table(title: str, results: Mapping[str, Sample], subject: str, goals: Mapping[str, float]) -> bool:
    """Prints medians and the ratios of `subject` to the others beside the goals; False when one is missed."""
    print(f"\n{title}")
    ours, good = results[subject], fits(results[subject])
    for name, sample in results.items():
        ratio = ours.seconds / sample.seconds
        goal = goals.get(name)
        verdict = "" if goal is None else f"goal {goal:<5g} {'reached' if ratio <= goal else 'MISSED'}"
        if name == subject and not fits(ours):
            verdict = f"goal {PEAK_MIB} MiB MISSED"
        good = good and (goal is None or ratio <= goal)
        print(f"  {name:<44} {sample.seconds * 1000:10.1f} ms  {sample.peak_kib / 1024:7.1f} MiB  "
              f"stella is {ratio:5.2f} of it  {verdict}".rstrip(), flush=True)
    return good


def fits(sample: Sample) -> bool:
    """Whether a run of stella kept to the memory that it may have."""
    return sample.peak_kib <= PEAK_MIB * 1024


def growth(title: str, runs: Mapping[str, Sample], sizes: Sequence[float], unit: str) -> bool:
    """Prints how cost grows over runs of growing size: time, time per unit, memory; False when memory does not fit."""
    print(f"\n{title}")
    for (name, sample), size in zip(runs.items(), sizes):
        verdict = "" if fits(sample) else f"goal {PEAK_MIB} MiB MISSED"
        print(f"  {name:<20} {sample.seconds * 1000:10.1f} ms  {sample.seconds * 1000 / size:10.2f} ms per {unit}  "
              f"{sample.peak_kib / 1024:7.1f} MiB  {verdict}".rstrip(), flush=True)
    return all(map(fits, runs.values()))


def machine() -> str:
    """The machine, in a line for the README."""
    lines = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines()
    cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "?")
    version = subprocess.run([PYTHON, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    return f"{os.cpu_count()} cores of {cpu}, {platform.system()} {platform.release()}, {version}"
