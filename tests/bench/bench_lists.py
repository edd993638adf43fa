"""Lists: 100,000 runs, paged, beside `json.load` of all of them and `json.dumps(indent=2)`; then how cost grows.

The pages come from a socket server of its own process, which only changes a few bytes per page: what is
measured is stella. `first item` is when the first byte of output came, as a part of the whole time.
"""

from __future__ import annotations

import json
import os
import socketserver
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from common import PYTHON, compare, environment, growth, installed, run_once, stella, table

RUNS, PAGE, ROUNDS = 100_000, 200, 5
GOALS = {"json": 0.35, "table": 0.2, "yaml": 0.5}
BASELINE = "import json,sys; sys.stdout.write(json.dumps(json.load(open(sys.argv[1])), indent=2))"
SIZES = (100, 1_000, 10_000, RUNS)


def make_run(number: int) -> dict:
    run_id = f"run-PPPPPP-{number:03d}"  # the P are the page
    base = f"/api/export/runs/{run_id}"
    return {
        "runId": run_id, "profileId": "prof-json-raw", "status": ("succeeded", "running", "failed")[number % 3],
        "createdAt": "2025-10-29T13:40:02Z", "updatedAt": f"2025-10-29T13:42:{number % 60:02d}Z",
        "startedAt": "2025-10-29T13:40:05Z", "completedAt": None if number % 3 else "2025-10-29T13:42:11Z",
        "selectors": {"tenants": ["acme"], "products": ["registry.example.com/app:*"],
                      "timeWindow": {"from": "2025-10-01T00:00:00Z", "to": "2025-10-29T00:00:00Z"}},
        "policySnapshotId": "policy-snap-42", "options": {"allowEmpty": False},
        "progress": {"percent": number / 2, "phase": "adapter", "processed": number * 7919, "total": 2_000_000},
        "bundle": {"name": "export.tar.zst", "size": number * 104729, "sha256": f"{number:064x}",
                   "mediaType": "application/zstd"},
        "distribution": [
            {"type": "http"},
            {"type": "object", "bucket": "exports", "key": f"acme/{run_id}/export.tar.zst"},
            {"type": "oci", "ref": f"registry.example.com/exports/acme:{run_id}", "digest": f"sha256:{number:064x}"}],
        "error": None,
        "links": {"self": base, "events": base + "/events", "download": base + "/download",
                  "manifest": base + "/manifest", "provenance": base + "/provenance"},
    }


ITEMS = json.dumps([make_run(number) for number in range(PAGE)], separators=(",", ":")).encode()


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    pages = 1


class Handler(socketserver.StreamRequestHandler):
    """GET ...cursor=N: page N of as many as the path of the server URL says. The next page is put together while the
    client is busy with this one: how long a gateway takes for a page is not stella's.
    """

    def handle(self) -> None:
        ready: dict[int, bytes] = {}
        while True:
            line = self.rfile.readline()
            if not line:
                return
            while self.rfile.readline() not in (b"\r\n", b""):
                pass
            target = line.split()[1]
            total = int(target.split(b"/")[1])
            page = int(target.rpartition(b"cursor=")[2]) if b"cursor=" in target else 1
            self.wfile.write(ready.pop(page, None) or make_page(page, total))
            ready = {page + 1: make_page(page + 1, total)}


def make_page(page: int, total: int) -> bytes:
    """A whole answer."""
    cursor = b'"%d"' % (page + 1) if page < total else b"null"
    body = b'{"items":' + ITEMS.replace(b"PPPPPP", b"%06d" % page) + b',"nextCursor":' + cursor + b"}"
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
    return head + body


def serve() -> None:
    with Server(("127.0.0.1", 0), Handler) as server:
        print(server.server_address[1], flush=True)
        threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
        server.serve_forever()


def list_command(form: str, runs: int = RUNS, program: Sequence[str] = stella()) -> list[str]:
    how_many = ["--all"] if runs == RUNS else ["--tail", str(runs)]
    return [*program, "export", "run", "ls", *how_many, "--format", form]


def first_output(command: list[str], env: dict[str, str]) -> float:
    """When the first byte came, as a part of the whole time."""
    started = time.perf_counter()
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE) as child:
        child.stdout.read(1)
        first = time.perf_counter() - started
        while child.stdout.read(1 << 20):
            pass
    return first / (time.perf_counter() - started)


def write_all(path: Path) -> None:
    with path.open("wb") as file:
        for page in range(1, RUNS // PAGE + 1):
            file.write((b"," if page > 1 else b"[") + ITEMS.replace(b"PPPPPP", b"%06d" % page)[1:-1])
        file.write(b"]")


def main() -> int:
    good = True
    with installed() as path, tempfile.TemporaryDirectory() as folder:
        everything = Path(folder) / "all.json"
        write_all(everything)
        with subprocess.Popen([PYTHON, __file__, "serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
            port = int(server.stdout.readline())

            env = environment(f"http://127.0.0.1:{port}/{RUNS // PAGE}")
            load = "json.load, json.dumps(indent=2)"
            commands = {load: lambda: run_once([PYTHON, "-c", BASELINE, str(everything)])}
            for form in GOALS:
                commands[form] = lambda form=form: run_once(list_command(form), env)
                commands[form + ", installed"] = lambda form=form: run_once(list_command(form, program=[path]), env)
            results = compare(commands, ROUNDS)
            for form, goal in GOALS.items():
                shown = {name: results[name] for name in (load, form, form + ", installed")}
                good = table(f"{RUNS:,} runs as {form}", shown, form, {load: goal}) and good
            print("\nfirst byte of output, as a part of the whole time")
            for form in GOALS:
                print(f"  {form:<8} {first_output(list_command(form), env):6.3f}")
            for form in GOALS:
                runs = {f"{size:,} runs": run_once(list_command(form, size), env) for size in SIZES}
                per = [size / 1000 for size in SIZES]
                good = growth(f"growth of a list as {form}", runs, per, "1,000 runs") and good
            server.stdin.close()
    return 0 if good else 1


if __name__ == "__main__":
    if sys.argv[1:] == ["serve"]:
        serve()
    sys.exit(main())
