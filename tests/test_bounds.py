"""What is bounded stays bounded, without a clock: what a command imports and leaves open, and how its memory grows.

Each case runs stella in a process of its own, which then tells about itself (PROBE). How fast all this is, `make
bench` measures; nothing here is timed.
"""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from typing import Any

import pytest

import attacks
import stella
from conftest import ROOT, surroundings
from gateway import Fault
from scripted import RUN, Say, Scripted
from wire import Wire, reply

MIB = 1 << 20
ROOM_MIB = 16  # for what ten times the input may add: caches, allocators, the event log's bounded memory

# Runs stella.main with the words after the first two, and writes what it saw to the file that the second one names.
PROBE = """
import builtins, json, os, sys, threading
sys.path.append(sys.argv[1])
original, imported = builtins.__import__, set()
def spy(name, globals=None, *rest, **named):
    if (globals or {}).get("__name__") == "stella":
        imported.add(name)
    return original(name, globals, *rest, **named)
builtins.__import__ = spy
import stella
open_before = sorted(os.listdir("/dev/fd"))
code = stella.main(sys.argv[3:])
report = {"code": code, "imported": sorted(imported), "threads": threading.active_count(),
          "opened": sorted(set(os.listdir("/dev/fd")) - set(open_before)), "children": True, "peak_kib": 0}
try:
    os.waitpid(-1, os.WNOHANG)
except ChildProcessError:
    report["children"] = False
if os.path.exists("/proc/self/status"):
    report["peak_kib"] = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
else:
    import resource
    report["peak_kib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> (10 if sys.platform == "darwin" else 0)
with open(sys.argv[2], "w") as file:
    json.dump(report, file)
"""


@pytest.fixture
def probe(tmp_path):
    """probe("run", "ls", gw=gw): what PROBE reports of `stella export run ls`."""

    def run(*words: Any, gw: Any = None, whole: bool = False) -> dict[str, Any]:
        report = tmp_path / "report.json"
        words = words if whole else ("export", *words)
        command = [sys.executable, "-c", PROBE, str(ROOT), str(report), *map(str, words)]
        done = subprocess.run(command, env=surroundings(gw), capture_output=True, timeout=60, check=False)
        assert report.exists(), done.stderr.decode()
        return {"err": done.stderr.decode(), **json.loads(report.read_bytes())}

    return run


@pytest.fixture
def run_id(gw):
    return gw.make_bundle_run(b"bundle" * 1000)["runId"]


# ---- what a start imports ------------------------------------------------------------------------

# Exactly what stella.py imports on its way, not what those modules import in turn. A new name here costs every such
# command its milliseconds: measure it first (python3 -X importtime).
START = {"__future__", "os", "sys"}
PARSED = START | {"argparse", "signal"}
ASKED = PARSED | {"http.client", "json", "re", "socket", "time", "urllib.parse"}
IMPORTS = {
    "--version": START,
    "--help": START,
    "export run watch --help": START,
    "export run show": PARSED,  # a usage error
    "export run show RUN": ASKED | {"json.encoder"},
    "export run ls": ASKED | {"gc"},
    "export run ls --format yaml": ASKED | {"gc"},
    "export profile list --format table": ASKED | {"gc"},
    "export run watch RUN --json": ASKED | {"json.encoder", "json.scanner", "shlex"},
    "export download RUN --output FILE": ASKED | {"base64", "errno", "fcntl", "hashlib", "json.encoder", "shlex",
                                                  "stat", "threading"},
}


@pytest.mark.parametrize("command", IMPORTS)
def test_a_command_imports_just_this(probe, gw, run_id, tmp_path, command):
    words = command.replace("RUN", run_id).replace("FILE", str(tmp_path / "export.tar.zst")).split()
    assert set(probe(*words, gw=gw, whole=True)["imported"]) == IMPORTS[command]


def test_verify_imports_no_network(probe, tmp_path):
    imported = set(probe(*attacks.Kit().write(tmp_path / "kit"), "--verifier", "builtin")["imported"])
    assert imported == PARSED | {"base64", "hashlib", "json", "json.encoder", "re", "shlex", "stat", "time"}


def test_only_the_parser_that_is_needed_is_built(cli, gw, run_id, monkeypatch):
    built = []

    def build(rows, *rest):
        built.append({row.name for row in rows})
        return original(rows, *rest)

    original = stella.build_parser
    monkeypatch.setattr(stella, "build_parser", build)
    everywhere = {row.name for row in stella.GLOBALS}
    for words in (["--version"], ["--help"], ["export", "run", "watch", "--help"]):
        assert (cli(*words, whole=True).code, built) == (0, [])
    own = {row.name for row in next(each for each in stella.COMMANDS if each.words[1:] == ("run", "show")).args}
    assert cli("run", "show", run_id, gw=gw).code == 0
    assert built == [own | everywhere]
    built.clear()
    assert cli("--retries", "0", "export", "run", "show", run_id, gw=gw, whole=True).code == 0
    assert built == [everywhere, own | everywhere]


# ---- what an end leaves --------------------------------------------------------------------------

ENDINGS = {
    "a list": (0, ["run", "ls"]),
    "a list that is refused": (12, ["run", "ls"], Fault.error(429, "ERR_EXPORT_QUOTA")),
    "a list that is no JSON": (1, ["run", "ls"], Fault("GET", "/runs$", status=200, body=b"<html>")),
    "a document": (0, ["run", "show", "RUN"]),
    "a document that is not there": (11, ["run", "show", "none"]),
    "a profile from --query": (0, ["profile", "list", "--query", "0.name"]),
    "a watch": (0, ["run", "watch", "RUN"]),
    "a watch that leaves early": (0, ["run", "watch", "RUN", "--no-follow", "--json"]),
    "a download": (0, ["download", "RUN", "--output", "FOLDER/export.tar.zst"]),
    "a download to standard output": (0, ["download", "RUN", "--output", "-"]),
    "a download that never begins": (21, ["download", "RUN", "--output", "FOLDER/x", "--retries", "0"],
                                     Fault("GET", "/download$", reset=0, times=9)),
    "a kit": (0, ["kit", "RUN", "--output", "FOLDER/kit"]),
    "a kit that its verification refuses": (20, ["kit", "RUN", "--output", "FOLDER/kit", "--key", "KEY"]),
    "a signed document": (0, ["manifest", "RUN", "--output", "FOLDER/m", "--signature", "FOLDER/m.sig"]),
    "a wrong option": (2, ["run", "ls", "--none"]),
    "a file that is not there": (30, ["verify", "RUN", "--kit", "FOLDER/none", "--key", "KEY"]),
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_every_end_leaves_nothing_open(probe, gw, run_id, tmp_path, ending):
    code, words, *faults = ENDINGS[ending]
    if faults:
        gw.order(*faults)
    names = {"RUN": run_id, "KEY": str(gw.public_key)}
    done = probe(*(names.get(word, word.replace("FOLDER", str(tmp_path))) for word in words), gw=gw)
    assert (done["code"], done["opened"], done["threads"], done["children"]) == (code, [], 1, False), done


@pytest.mark.parametrize("verifier", ["cosign", "openssl", "builtin"])
@pytest.mark.parametrize("attack", ["", "swapped-digest", "truncated-frame", "bomb"])
def test_every_verification_leaves_nothing_open(probe, tmp_path, verifier, attack):
    kit = attacks.Kit()
    if attack:
        attacks.ATTACKS[attack].bend(kit)
    done = probe(*kit.write(tmp_path / "kit"), "--verifier", verifier)
    assert (done["code"], done["opened"], done["threads"], done["children"]) == (
        attacks.ATTACKS[attack].exit if attack else 0, [], 1, False), done


@pytest.mark.parametrize("connections", [1, 8])
@pytest.mark.parametrize("fault", [{}, {"cut": MIB}, {"reset": MIB}, {"status": 503}], ids=str)
def test_every_download_leaves_nothing_open(probe, tmp_path, connections, fault):
    words = ("download", RUN, "--output", tmp_path / "x", "--connections", connections, "--retries", 0)
    with Scripted(bytes(65 * MIB), after=Say(**fault)) as server:
        done = probe(*words, gw=server)
    assert (done["code"], done["opened"], done["threads"], done["children"]) == (21 if fault else 0, [], 1, False), done


# ---- how memory grows ----------------------------------------------------------------------------


def pages(count: int) -> Any:
    """A server of so many pages of 200 runs."""
    items = [{"runId": f"run-{number:05}", "profileId": "p", "status": "succeeded", "updatedAt": "2025-10-29T13:42:11Z",
              "note": "n" * 1000} for number in range(200)]

    def answer(seen):
        page = int(seen.target.rpartition("cursor=")[2]) if "cursor=" in seen.target else 1
        cursor = str(page + 1) if page < count else None
        return reply(200, json.dumps({"items": items, "nextCursor": cursor}).encode(), "Content-Type: application/json")

    return answer


def events(count: int) -> Any:
    """A server of so many events and the run's end."""
    frames = b"".join(b'id: %d\nevent: run.progress\ndata: {"percent":1,"note":"%0100d"}\n\n' % (number, number)
                      for number in range(count)) + b"id: end\nevent: run.succeeded\ndata: {}\n\n"

    def answer(seen):
        if seen.target.endswith("/events"):
            return b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n" + frames
        return reply(200, b'{"runId":"r","status":"succeeded"}', "Content-Type: application/json")

    return answer


def peaks(probe, few: Any, many: Any, *words: Any) -> list[int]:
    """Peak memory in MiB with a server of little and one of ten times as much."""
    found = []
    for server in (few, many):
        server.token = "t"
        with server:
            done = probe(*words, gw=server)
        assert done["code"] == 0, done
        found.append(done["peak_kib"] / 1024)
    return found


@pytest.mark.parametrize("form", ["json", "yaml", "table"])
def test_ten_times_the_list_takes_no_more_memory(probe, form):
    few, many = peaks(probe, Wire(pages(10)), Wire(pages(100)), "run", "ls", "--all", "--format", form)
    assert many < few + ROOM_MIB


def test_ten_times_the_events_take_no_more_memory(probe):
    few, many = peaks(probe, Wire(events(10_000)), Wire(events(100_000)), "run", "watch", "r", "--json")
    assert many < few + ROOM_MIB


@pytest.mark.parametrize("connections", [1, 8])
def test_ten_times_the_bundle_takes_no_more_memory(probe, tmp_path, connections):
    few, many = peaks(probe, Scripted(bytes(8 * MIB)), Scripted(bytes(80 * MIB)), "download", RUN, "--output",
                      tmp_path / "x", "--connections", connections)
    assert many < few + ROOM_MIB


@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
def test_ten_times_the_archive_takes_no_more_memory(probe, tmp_path, compression):
    found = []
    for count in (8, 80):
        kit = attacks.Kit()
        kit.members = [(f"data/{number}", bytes(MIB)) for number in range(count)]
        kit.compression = compression
        kit.bundle = {"none": bytes, "gzip": gzip.compress, "zstd": attacks.zstd}[compression](attacks.tar(kit.members))
        done = probe(*kit.write(tmp_path / str(count)), "--verifier", "builtin")
        assert done["code"] == 0, done
        found.append(done["peak_kib"] / 1024)
    assert found[1] < found[0] + ROOM_MIB
