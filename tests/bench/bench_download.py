"""Verified downloads from nginx beside curl and aria2: 1 GiB whole and from half, plain and TLS; bad links; growth.

Everything lies on a memory file system, so that no disk is measured. The yardstick is `curl && openssl dgst`:
what one would type to have the same bytes with the same certainty (Debian's sha256sum takes four times as long).
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from common import Sample, compare, environment, growth, have, installed, run_once, stella, table
from link import link
from servers import NGINX, Gateway, make_bundle, nginx

ROUNDS, LINK_ROUNDS = 5, 2
GIB = 1 << 30
SIZES = {"100 MiB": 100 << 20, "1 GiB": GIB, "12 GiB": 12 * GIB}
BAD_BYTES = 200 * 10**6
RATE, CAP, LOSS, ROUND_TRIP_MS = 25e6, 5 << 20, 0.0002, 40  # 200 Mbit/s shared, 5 MiB/s a connection, 0.02 %
OURS, OURS_8 = "stella export download", "stella export download --connections 8"
CURL_OPENSSL, RESUMED = "curl && openssl dgst -sha256", "curl -C - && openssl dgst -sha256"


class Bench:
    """The nginx, a folder for what is downloaded, and the commands."""

    def __init__(self, folder: Path, gateway: Gateway, digests: dict[str, str], path: str) -> None:
        self.folder, self.gateway, self.digests, self.path = folder, gateway, digests, path
        self.target = folder / "out" / "bundle"

    def command(self, run: str, gateway: str, *more: str, program: Sequence[str] = stella()) -> Callable[[], Sample]:
        """stella, after what an earlier run left has been removed."""
        words = [*program, "export", "download", run, "--output", str(self.target), *more]
        env = environment(gateway, str(self.folder), SSL_CERT_FILE=str(self.gateway.ca))
        return lambda: self.cleared(words, env)

    def cleared(self, words: list[str], env: dict[str, str] | None = None) -> Sample:
        """A run without what an earlier one left."""
        self.clear()
        return run_once(words, env)

    def clear(self) -> None:
        """Removes everything that was downloaded."""
        shutil.rmtree(self.target.parent, ignore_errors=True)
        self.target.parent.mkdir()

    def shell(self, text: str, run: str, gateway: str) -> Callable[[], Sample]:
        """A shell line, `%(url)s`, `%(file)s`, `%(ca)s`, `%(digest)s` filled in, after clearing."""
        url = f"{gateway}/api/export/runs/{run}/download"
        filled = text % {"url": url, "file": self.target, "ca": self.gateway.ca, "digest": self.digests[run],
                         "folder": self.target.parent, "name": self.target.name}
        return lambda: self.cleared(["sh", "-ec", filled])


CURL = "curl -sS --cacert %(ca)s -o %(file)s %(url)s"
ARIA2 = ("aria2c -q --no-conf --file-allocation=none --ca-certificate=%(ca)s --allow-overwrite=true -d %(folder)s "
         "-o %(name)s %(url)s")


def measure_whole(bench: Bench, gateway: str, title: str, goals: dict[str, float]) -> bool:
    commands = {
        "curl": bench.shell(CURL, "gib", gateway),
        CURL_OPENSSL: bench.shell(CURL + " && openssl dgst -sha256 %(file)s", "gib", gateway),
        "curl && sha256sum": bench.shell(CURL + " && sha256sum %(file)s", "gib", gateway),
        "aria2c --checksum": bench.shell(ARIA2 + " --checksum=sha-256=%(digest)s", "gib", gateway),
        OURS: bench.command("gib", gateway),
        OURS + " --connections 1": bench.command("gib", gateway, "--connections", "1"),
        OURS + ", installed": bench.command("gib", gateway, program=[bench.path]),
    }
    return table(title, compare(commands, ROUNDS), OURS, goals)


def leave_half(bench: Bench, folder: Path) -> None:
    """In `folder`, what stella leaves of a transfer that breaks off for good after half."""
    words = ["export", "download", "gib", "--output", str(bench.target), "--retries", "0"]
    with link(bench.gateway.port, cut=GIB // 2) as url:
        bench.clear()
        run_once(stella(*words), environment(url), want=21)
    bench.target.parent.rename(folder)


def measure_resume(bench: Bench) -> bool:
    half, gateway = bench.folder / "half", bench.gateway.url
    leave_half(bench, half)

    def ours() -> Sample:
        shutil.rmtree(bench.target.parent, ignore_errors=True)
        shutil.copytree(half, bench.target.parent)
        return run_once(stella("export", "download", "gib", "--output", str(bench.target), "--resume"),
                        environment(gateway))

    def curl() -> Sample:
        bench.clear()
        with (bench.folder / "gib.bin").open("rb") as source, bench.target.open("wb") as out:
            for _ in range(GIB // 2 >> 20):
                out.write(source.read(1 << 20))
        line = f"curl -sS -C - -o {bench.target} {gateway}/api/export/runs/gib/download"
        return run_once(["sh", "-ec", f"{line} && openssl dgst -sha256 {bench.target}"])

    results = compare({RESUMED: curl, OURS + " --resume": ours}, ROUNDS)
    shutil.rmtree(half)
    return table("1 GiB, resumed at half", results, OURS + " --resume", {RESUMED: 0.9})


def measure_link(bench: Bench, title: str, goals: dict[str, float], **options: float) -> bool:
    """200 MB over a bad link: stella verifies, the others do not."""
    with link(bench.gateway.port, rate=RATE, round_trip_ms=ROUND_TRIP_MS, **options) as url:
        commands = {
            "curl": bench.shell(CURL, "bad", url),
            "aria2c -x8": bench.shell(ARIA2 + " -x8 -s8", "bad", url),
            OURS_8: bench.command("bad", url, "--connections", "8"),
        }
        results = compare(commands, LINK_ROUNDS, warm_up=0)
    return table("200 MB, 40 ms, 200 Mbit/s, " + title, results, OURS_8, goals)


def measure_growth(bench: Bench) -> bool:
    runs = {name: bench.command(name.replace(" ", ""), bench.gateway.url)() for name in SIZES}
    return growth("growth of a download", runs, [size / GIB for size in SIZES.values()], "GiB")


def make_sparse(path: Path, size: int) -> str:
    """Zeros that take no room; their SHA-256."""
    with path.open("wb") as file:
        file.truncate(size)
    zeros, digest = bytes(1 << 20), hashlib.sha256()
    for _ in range(size >> 20):
        digest.update(zeros)
    return digest.hexdigest()


def choose_folder() -> str | None:
    """A memory file system with room for all of it, else the usual place."""
    with open("/proc/meminfo", encoding="ascii") as file:
        available = next(int(line.split()[1]) << 10 for line in file if line.startswith("MemAvailable"))
    room = min(available, shutil.disk_usage("/dev/shm").free) if os.path.isdir("/dev/shm") else 0
    if room > SIZES["12 GiB"] + 4 * GIB:
        return "/dev/shm"
    print("the memory file system has no room for 12 GiB: everything lies on the disk, which is measured, too")
    return None


def measure_all(folder: Path, path: str) -> bool:
    runs = {"gib": (folder / "gib.bin", make_bundle(folder / "gib.bin", GIB)),
            "bad": (folder / "bad.bin", make_bundle(folder / "bad.bin", BAD_BYTES))}
    for name, size in SIZES.items():
        run = name.replace(" ", "")
        runs[run] = (folder / f"{run}.bin", make_sparse(folder / f"{run}.bin", size))
    with nginx(folder, runs) as gateway:
        bench = Bench(folder, gateway, {run: digest for run, (_, digest) in runs.items()}, path)
        good = [
            measure_whole(bench, gateway.url, "1 GiB", {CURL_OPENSSL: 0.75, "curl": 1.25}),
            measure_whole(bench, gateway.tls_url, "1 GiB over TLS", {CURL_OPENSSL: 0.9, "curl": 1.5}),
            measure_resume(bench),
            measure_link(bench, "clean", {"curl": 1.05}),
            measure_link(bench, "5 MiB/s per connection", {"curl": 0.3, "aria2c -x8": 1.15}, cap=CAP),
            measure_link(bench, "0.02 % loss", {"curl": 0.3, "aria2c -x8": 1.15}, loss=LOSS),
            measure_growth(bench),
        ]
    return all(good)


def main() -> int:
    if not have(NGINX, ("curl", "curl"), ("openssl", "openssl"), ("aria2c", "aria2")):
        return 1
    with installed() as path, tempfile.TemporaryDirectory(prefix="stella-bench-", dir=choose_folder()) as scratch:
        return 0 if measure_all(Path(scratch), path) else 1


if __name__ == "__main__":
    sys.exit(main())
