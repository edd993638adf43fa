"""verify over a 1 GiB bundle of 2,000 members, beside what one would type instead (tests/bench/run.py verify)."""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

from common import PYTHON, ROOT, STELLA, compare, run_once, table

RUN_ID, BUNDLE = "run-20251029-01", "export.tar.zst"
MEMBERS, MEMBER_BYTES, ROUNDS = 2000, 512 * 1024, 5
OURS, FLOOR = "stella export verify --kit", "stella --version (compiles the file)"
GOALS = {
    "zstd -dc | openssl dgst -sha256": 1.0,
    "openssl, tar -x, openssl per member": 0.6,
    "sha256sum, tar -x, sha256sum per member": 0.3,
}
PEAK_MIB = 32
LINE = (
    b'{"id":"LOCAL-2025-%07d","published":"2025-%02d-11T12:00:00Z","severity":"%s","summary":"made-up advisory about '
    b'bulk-%07d","affects":[{"product":"registry.example.com/app:1.0","purl":"pkg:generic/bulk-%032x@1.0"}]}\n'
)


def member(number: int) -> bytes:
    """JSON lines with random digests in them: zstd makes an eighth of it."""
    source, lines, size = random.Random(number), [], 0
    while size < MEMBER_BYTES:
        index = source.randrange(10**7)
        severity = source.choice((b"low", b"medium", b"high"))
        lines.append(LINE % (index, index % 12 + 1, severity, index, source.getrandbits(128)))
        size += len(lines[-1])
    return b"".join(lines)[:MEMBER_BYTES]


def make_kit(folder: Path) -> None:
    """The kit, in a process of its own: what this one holds counts as the peak of what it starts."""
    sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]
    import attacks

    artifacts, bundle = [], folder / BUNDLE
    with bundle.open("wb") as out, subprocess.Popen(["zstd", "-q", "-3", "-c"], stdin=-1, stdout=out) as packer:
        assert packer.stdin is not None
        for number in range(MEMBERS):
            name, data = f"data/part-{number:04d}.jsonl", member(number)
            packer.stdin.write(attacks.tar_member(name, data))
            artifacts.append({"path": name, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()})
        packer.stdin.write(attacks.END)
        packer.stdin.close()
    digest, kit = hashlib.sha256(bundle.read_bytes()).hexdigest(), attacks.Kit()
    kit.bundle_name, kit.members = BUNDLE, []
    facts = {"name": BUNDLE, "size": bundle.stat().st_size, "sha256": digest, "compression": "zstd"}
    kit.edit_manifest = lambda document: {**document, "bundle": facts, "artifacts": artifacts}
    kit.edit_provenance = lambda document: attacks.changed(document, "subject.1.digest.sha256", digest)
    for name, data in kit.files().items():
        if name != BUNDLE:
            (folder / name).write_bytes(data)


def commands(folder: Path) -> dict[str, list[str]]:
    listed = json.loads((folder / "export.json").read_bytes())["artifacts"]
    (folder / "sums.txt").write_text("".join(f"{row['sha256']}  {row['path']}\n" for row in listed))
    start = f"set -e; cd {folder}; rm -rf x; mkdir x; "
    unpack = f"zstd -dcq {BUNDLE} | tar -x -C x; cd x; "
    verify = [PYTHON, str(STELLA), "export", "verify", RUN_ID, "--kit", str(folder), "--key", str(folder / "acme.pub")]
    openssl, each = "openssl dgst -sha256", "for f in data/*; do %s $f; done"
    shell = {
        "zstd -dc | openssl dgst -sha256": f"zstd -dcq {folder / BUNDLE} | openssl dgst -sha256",
        "openssl, tar -x, openssl per member": f"{start}{openssl} {BUNDLE}; {unpack}{each % openssl}",
        "sha256sum, tar -x, sha256sum per member": f"{start}sha256sum {BUNDLE}; {unpack}{each % 'sha256sum'}",
        "sha256sum, tar -x, sha256sum -c": f"{start}sha256sum {BUNDLE}; {unpack}sha256sum -c --quiet ../sums.txt",
    }
    return {
        OURS: [*verify, "--verifier", "openssl"],
        **{name: ["sh", "-c", text] for name, text in shell.items()},
        f"{OURS} --no-artifacts": [*verify, "--verifier", "openssl", "--no-artifacts"],
        FLOOR: [PYTHON, str(STELLA), "--version"],
    }


def main() -> int:
    if sys.argv[1:2] == ["make"]:
        make_kit(Path(sys.argv[2]))
        return 0
    with tempfile.TemporaryDirectory(prefix="stella-bench-") as scratch:
        folder = Path(scratch)
        subprocess.run([sys.executable, __file__, "make", scratch], check=True)
        results = compare({name: partial(run_once, words) for name, words in commands(folder).items()}, ROUNDS)
        size = (folder / BUNDLE).stat().st_size
        good = table(f"1 GiB in {MEMBERS} members, {size / 2**20:.0f} MiB compressed", results, OURS, GOALS)
    peak, floor = (results[name].peak_kib / 1024 for name in (OURS, FLOOR))
    print(f"  peak memory {peak:.1f} MiB (goal {PEAK_MIB}), of which Python compiling stella.py takes {floor:.1f} MiB")
    return 0 if good and peak <= PEAK_MIB else 1


if __name__ == "__main__":
    sys.exit(main())
