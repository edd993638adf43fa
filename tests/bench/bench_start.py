"""Start-up: the single file, the installed stella, and a whole request over TLS, beside what one would type instead."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

from common import PACKAGES, PYTHON, ROOT, TOKEN, Sample, compare, environment, have, run_once, stella, table
from servers import NGINX, Nginx, make_bundle

ROUNDS = 31
RUN_ID = "run-20251029-01"
BARE = "python3 -c pass"
SYSTEM_CAS = Path("/etc/ssl/certs/ca-certificates.crt")


def install(prefix: str) -> list[str]:
    """Installs with the system's Python, found where the system's programs are."""
    subprocess.run(["sh", str(ROOT / "install.sh"), "--prefix", prefix], check=True, stdout=subprocess.DEVNULL,
                   env={"PATH": os.path.dirname(PYTHON) + ":/usr/bin:/bin", "HOME": prefix})
    return [f"{prefix}/bin/stella"]


def measure_starts(folder: str) -> bool:
    installed = install(folder)
    commands = {
        BARE: [PYTHON, "-c", "pass"],
        "python3 stella.py --version": stella("--version"),
        "python3 stella.py export run watch --help": stella("export", "run", "watch", "--help"),
        "stella --version, installed": [*installed, "--version"],
        "stella export run watch --help, installed": [*installed, "export", "run", "watch", "--help"],
    }
    if have(("gh", "gh")):
        commands["gh --version"] = ["gh", "--version"]
    env = environment("", folder)
    results = compare({name: partial(run_once, words, env) for name, words in commands.items()}, ROUNDS)
    good = "gh --version" in commands
    for subject, goals in (
        ("python3 stella.py --version", {BARE: 2.6, "gh --version": 0.7}),
        ("python3 stella.py export run watch --help", {BARE: 4.2}),
        ("stella --version, installed", {BARE: 1.6}),
        ("stella export run watch --help, installed", {BARE: None}),
    ):
        shown = {name: results[name] for name in (*goals, subject) if name in results}
        good = table(subject, shown, subject, goals) and good
    return good


def measure_request(folder: Path, cas: Path, goals: dict[str, float]) -> bool:
    """`export run show` over TLS; every program trusts the same CA file."""
    bundle = folder / "export.tar.zst"
    with Nginx(folder, {RUN_ID: (bundle, make_bundle(bundle, 1000))}) as nginx:
        ca = folder / "cas.pem"
        ca.write_bytes(nginx.ca.read_bytes() + (cas.read_bytes() if cas != nginx.ca else b""))
        url, header = f"{nginx.tls_url}/api/export/runs/{RUN_ID}", f"Authorization: Bearer {TOKEN}"
        env = environment(nginx.tls_url, str(folder), SSL_CERT_FILE=str(ca))
        httpie = [PYTHON, "-m", "httpie", "--ignore-stdin", "--verify", str(ca), "GET", url, header.replace(" ", "", 1)]
        subject = "stella export run show"
        results: dict[str, Sample] = compare({
            "curl": lambda: run_once(["curl", "-sS", "--cacert", str(ca), "-H", header, url], env),
            "httpie": lambda: run_once(httpie, {**env, "PYTHONPATH": PACKAGES}),
            subject: lambda: run_once(stella("export", "run", "show", RUN_ID), env),
        }, ROUNDS)
        roots = ca.read_bytes().count(b"BEGIN CERTIFICATE")
    return table(f"export run show over TLS, a CA file of {roots}", results, subject, goals)


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="stella-bench-") as scratch:
        good = measure_starts(scratch)
        if not have(NGINX, ("curl", "curl"), ("openssl", "openssl")):
            return 1
        folder = Path(scratch)
        good = measure_request(folder, folder / "server.pem", {"curl": 2.4, "httpie": 0.3}) and good
        if SYSTEM_CAS.exists():
            measure_request(folder, SYSTEM_CAS, {})
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
