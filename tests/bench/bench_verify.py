"""verify over a 1 GiB bundle of 2,000 members, beside what one would type instead; then how cost grows."""

from __future__ import annotations

import functools
import hashlib
import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from common import ROOT, compare, environment, growth, installed, run_once, stella, table

RUN_ID, BUNDLE = "run-20251029-01", "export.tar.zst"
MEMBERS, PIECE_BYTES, PIECES, ROUNDS = 2000, 52_480, 640, 5
OURS = "stella export verify --kit"
SIZES = {"100 MiB": 1, "1 GiB": 10, "10 GiB": 100}  # in pieces that MEMBERS are made of
GOALS = {
    "zstd -dc | openssl dgst -sha256": 1.0,
    "openssl, tar -x, openssl per member": 0.6,
    "sha256sum, tar -x, sha256sum per member": 0.3,
}
LINE = (
    b'{"id":"LOCAL-2025-%07d","published":"2025-%02d-11T12:00:00Z","severity":"%s","summary":"made-up advisory about '
    b'bulk-%07d","affects":[{"product":"registry.example.com/app:1.0","purl":"pkg:generic/bulk-%032x@1.0"}]}\n'
)


@functools.cache
def piece(number: int) -> bytes:
    """JSON lines with random digests in them: zstd makes an eighth of it. There are PIECES, 32 MiB: what is repeated
    lies far outside zstd's window.
    """
    source, lines, size = random.Random(number), [], 0
    while size < PIECE_BYTES:
        index = source.randrange(10**7)
        severity = source.choice((b"low", b"medium", b"high"))
        lines.append(LINE % (index, index % 12 + 1, severity, index, source.getrandbits(128)))
        size += len(lines[-1])
    return b"".join(lines)[:PIECE_BYTES]


def make_kit(folder: Path, pieces: int) -> None:
    """The kit, in a process of its own: what this one holds counts as the peak of what it starts."""
    sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]
    import attacks

    artifacts, bundle = [], folder / BUNDLE
    with bundle.open("wb") as out, subprocess.Popen(["zstd", "-q", "-3", "-c"], stdin=-1, stdout=out) as packer:
        assert packer.stdin is not None
        for number in range(MEMBERS):
            name = f"data/part-{number:04d}.jsonl"
            data = b"".join(piece((number * pieces + index) % PIECES) for index in range(pieces))
            packer.stdin.write(attacks.tar_member(name, data))
            artifacts.append({"path": name, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()})
        packer.stdin.write(attacks.END)
        packer.stdin.close()
    with bundle.open("rb") as file:
        digest, kit = hashlib.sha256(), attacks.Kit()
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    kit.bundle_name, kit.members = BUNDLE, []
    facts = {"name": BUNDLE, "size": bundle.stat().st_size, "sha256": digest.hexdigest(), "compression": "zstd"}
    kit.edit_manifest = lambda document: {**document, "bundle": facts, "artifacts": artifacts}
    kit.edit_provenance = lambda document: attacks.changed(document, "subject.1.digest.sha256", digest.hexdigest())
    for name, data in kit.files().items():
        if name != BUNDLE:
            (folder / name).write_bytes(data)


def verify(folder: Path, program: Sequence[str] = stella()) -> list[str]:
    return [*program, "export", "verify", RUN_ID, "--kit", str(folder), "--key", str(folder / "acme.pub"),
            "--verifier", "openssl"]


def commands(folder: Path, path: str) -> dict[str, list[str]]:
    listed = json.loads((folder / "export.json").read_bytes())["artifacts"]
    (folder / "sums.txt").write_text("".join(f"{row['sha256']}  {row['path']}\n" for row in listed))
    start = f"set -e; cd {folder}; rm -rf x; mkdir x; "
    unpack = f"zstd -dcq {BUNDLE} | tar -x -C x; cd x; "
    openssl, each = "openssl dgst -sha256", "for f in data/*; do %s $f; done"
    shell = {
        "zstd -dc | openssl dgst -sha256": f"zstd -dcq {folder / BUNDLE} | openssl dgst -sha256",
        "openssl, tar -x, openssl per member": f"{start}{openssl} {BUNDLE}; {unpack}{each % openssl}",
        "sha256sum, tar -x, sha256sum per member": f"{start}sha256sum {BUNDLE}; {unpack}{each % 'sha256sum'}",
        "sha256sum, tar -x, sha256sum -c": f"{start}sha256sum {BUNDLE}; {unpack}sha256sum -c --quiet ../sums.txt",
    }
    return {
        OURS: verify(folder),
        **{name: ["sh", "-c", text] for name, text in shell.items()},
        f"{OURS} --no-artifacts": [*verify(folder), "--no-artifacts"],
        f"{OURS}, installed": verify(folder, [path]),
    }


def main() -> int:
    if sys.argv[1:2] == ["make"]:
        make_kit(Path(sys.argv[2]), int(sys.argv[3]))
        return 0
    good, runs, env = True, {}, environment("")
    for name, pieces in SIZES.items():
        with installed() as path, tempfile.TemporaryDirectory(prefix="stella-bench-") as scratch:
            folder = Path(scratch)
            subprocess.run([sys.executable, __file__, "make", scratch, str(pieces)], check=True)
            if name == "1 GiB":
                size = (folder / BUNDLE).stat().st_size >> 20
                timed = {each: partial(run_once, words, env) for each, words in commands(folder, path).items()}
                good = table(f"1 GiB in {MEMBERS} members, {size} MiB compressed", compare(timed, ROUNDS), OURS, GOALS)
            runs[name] = run_once(verify(folder), env)
    return 0 if growth("growth of a verification", runs, [each / 10 for each in SIZES.values()], "GiB") and good else 1


if __name__ == "__main__":
    sys.exit(main())
