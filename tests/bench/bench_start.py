"""Start-up: the single file, the installed stella, and a whole request over TLS, beside what one would type instead."""

from __future__ import annotations

import sys
import tempfile
from functools import partial
from pathlib import Path

from common import PACKAGES, PYTHON, TOKEN, Sample, compare, environment, have, installed, run_once, stella, table
from servers import NGINX, make_bundle, nginx

ROUNDS = 31
RUN_ID = "run-20251029-01"
BARE = "python3 -c pass"
SYSTEM_CAS = Path("/etc/ssl/certs/ca-certificates.crt")


def measure_starts(path: str) -> bool:
    commands = {
        BARE: [PYTHON, "-c", "pass"],
        "python3 stella.py --version": stella("--version"),
        "python3 stella.py export run watch --help": stella("export", "run", "watch", "--help"),
        "stella --version, installed": [path, "--version"],
        "stella export run watch --help, installed": [path, "export", "run", "watch", "--help"],
    }
    if have(("gh", "gh")):
        commands["gh --version"] = ["gh", "--version"]
    env = environment("")
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


def measure_request(path: str, folder: Path, cas: Path, goals: dict[str, float]) -> bool:
    """`export run show` over TLS; every program trusts the same CA file."""
    bundle = folder / "export.tar.zst"
    with nginx(folder, {RUN_ID: (bundle, make_bundle(bundle, 1000))}) as gateway:
        ca = folder / "cas.pem"
        ca.write_bytes(gateway.ca.read_bytes() + (cas.read_bytes() if cas != gateway.ca else b""))
        url, header = f"{gateway.tls_url}/api/export/runs/{RUN_ID}", f"Authorization: Bearer {TOKEN}"
        env = environment(gateway.tls_url, str(folder), SSL_CERT_FILE=str(ca))
        httpie = [PYTHON, "-m", "httpie", "--ignore-stdin", "--verify", str(ca), "GET", url, header.replace(" ", "", 1)]
        subject = "python3 stella.py export run show"
        results: dict[str, Sample] = compare({
            "curl": lambda: run_once(["curl", "-sS", "--cacert", str(ca), "-H", header, url], env),
            "httpie": lambda: run_once(httpie, {**env, "PYTHONPATH": PACKAGES}),
            subject: lambda: run_once(stella("export", "run", "show", RUN_ID), env),
            "installed": lambda: run_once([path, "export", "run", "show", RUN_ID], env),
        }, ROUNDS)
        roots = ca.read_bytes().count(b"BEGIN CERTIFICATE")
    return table(f"export run show over TLS, a CA file of {roots}", results, subject, goals)


def main() -> int:
    with installed() as path, tempfile.TemporaryDirectory(prefix="stella-bench-") as scratch:
        good = measure_starts(path)
        if not have(NGINX, ("curl", "curl"), ("openssl", "openssl")):
            return 1
        folder = Path(scratch)
        good = measure_request(path, folder, folder / "server.pem", {"curl": 2.4, "httpie": 0.3}) and good
        if SYSTEM_CAS.exists():
            measure_request(path, folder, SYSTEM_CAS, {})
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
