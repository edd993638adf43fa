"""Contract 4, `download`: faults by chance, kills at chance moments, a full disk, two processes; then --resume."""

from __future__ import annotations

import errno
import fcntl
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import stella
from conftest import ROOT, Result, surroundings
from scripted import RUN, Kept, Say, Scripted
from test_connections import CONTENT, SIZE, overlap, small, spans
from test_download import QUICK, synced, target

__all__ = ["small", "synced", "target"]  # fixtures

SEED = 20251029
# The same small pieces as `small`, in a process of its own; a connection that is held is not given up.
CODE = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
import stella
AMID
stella.PARALLEL_BYTES, stella.PIECE_BYTES, stella.SPLIT_BYTES, stella.FILL_SECONDS = 65536, 16384, 8192, 0.01
stella.SLOW_SECONDS = 60
sys.exit(stella.main())
"""


@pytest.fixture
def start():
    """start(server, words..., before=(), amid=""): `stella export download RUN` as a process, with a command before it
    and code in it; killed at the end if need be.
    """
    children: list[subprocess.Popen[bytes]] = []

    def run(server, *words, before=(), amid=""):
        words = ("export", "download", RUN, *QUICK, *map(str, words))
        command = [*before, sys.executable, "-c", CODE.replace("AMID", amid), *words]
        children.append(subprocess.Popen(command, env=surroundings(server), stdout=subprocess.PIPE,
                                         stderr=subprocess.PIPE))
        return children[-1]

    yield run
    for child in children:
        if child.poll() is None:
            child.kill()
        child.communicate()


def end(child, timeout=60):
    out, err = child.communicate(timeout=timeout)
    return Result(child.returncode, out, err)


# ---- faults by chance ----------------------------------------------------------------------------

def any_fault(chance: random.Random, content: bytes, other: bytes, digest: bool, told: bool) -> Say:
    """One odd answer; what no client could notice where neither digest nor size is known only where one is."""
    size = len(content)
    at = chance.choice([0, 1, chance.randrange(size), chance.randrange(size), size - 1])
    faults = [
        Say(cut=at), Say(cut=at), Say(reset=at), Say(framing="chunked", cut=at), Say(framing="close", cut=at),
        Say(status=200, cut=at), Say(status=200), Say(status=206), Say(status=416), Say(slice=at + 1),
        Say(shift=chance.randrange(-99, 99) or 1), Say(total=str(size + 1)), Say(total="*"), Say(raw=b""),
        Say(raw=b"nonsense\r\n\r\n"), Say(raw=b"", reset=0), Say(framing="chunked"), Say(framing="endless"),
        Say(extra=b"more"), Say(etag=""),
        Say(etag='W/"v1"'), Say(content=other, etag='"v2"'), Say(content=other, etag='"v2"', cut=at),
        Say(head={"Content-Encoding": "br"}), Say(head={"Content-Range": None}), Say(status=503), Say(status=429),
        Say(head={"Content-Length": str(size + 9)}), Say(interim=b"HTTP/1.1 103 Early\r\n\r\n"), Say(silence=at),
    ]
    if digest or told:
        faults += [Say(framing="close"), Say(framing="close", extra=b"more")]
    if digest:
        faults += [Say(flip=at), Say(flip=at, cut=at // 2), Say(content=other), Say(status=206, content=other)]
    return chance.choice(faults)


def play(chance, cli, target):
    """One schedule: a server with faults, then an honest one and --resume."""
    size, digest, told = chance.randrange(20_000, 200_000), chance.random() < 0.8, chance.random() < 0.8
    content, other = chance.randbytes(size), chance.randbytes(size + chance.choice([0, 0, 1]))
    script = [any_fault(chance, content, other, digest, told) for _ in range(chance.randrange(1, 7))]
    after = any_fault(chance, content, other, digest, told) if chance.random() < 0.4 else Say()
    if after.slice:  # a byte at a time for ever ends well, after minutes of requests
        after = Say()
    connections = chance.choice([1, 1, 2, 4, 8])
    before = b"what was here" if chance.random() < 0.3 else None
    shutil.rmtree(target.parent, ignore_errors=True)
    target.parent.mkdir()
    if before is not None:
        target.write_bytes(before)
    words = ("download", RUN, "--output", target, "--connections", connections, "--retry-delay", "0")
    # Without a digest, a whole other version with its own ETag is as good as the first.
    right = [content] if digest else [content, other]
    with Scripted(content, *script, after=after, digest=digest, size=told) as server:
        done = cli(*words, "--retries", chance.randrange(4), "--timeout", "0.05", gw=server)
        kept = Kept(target)
        story = (script, after, connections, digest, told, server.asked, kept.names, done)
        # 1: "neither length nor digest", where that is so.
        assert done.code in ((0, 20, 21) if digest or told else (0, 1, 20, 21)), story
        if done.code == 0:
            assert kept.target in right, story
            assert kept.names == ["bundle"], story
            return
        assert kept.target == before, story
        assert [name for name in kept.names if name != "bundle"] in ([], ["bundle.part", "bundle.part.json"]), story
        server.script, server.after = [], Say()
        server.asked.clear()
        recorded = kept.recorded()
        done = cli(*words, "--resume", gw=server)
        kept = Kept(target)
        assert (done.code, kept.names, kept.target == content) == (0, ["bundle"], True), (*story, server.asked, done)
        if digest and told and not any(say.flip or say.content for say in (*script, after)):
            assert overlap(spans(server.asked, size), recorded) == 0, (*story, recorded)


@pytest.mark.parametrize("batch", range(20))
def test_faults_by_chance_never_give_wrong_bytes_a_name(cli, target, batch):
    for number in range(25):
        play(random.Random(f"{SEED} {batch} {number}"), cli, target)


# ---- kills ---------------------------------------------------------------------------------------

MOMENTS = [0, *sorted(random.Random(SEED).randrange(SIZE) for _ in range(3))]
SIGNALS = {"SIGKILL": signal.SIGKILL, "SIGTERM": signal.SIGTERM, "SIGINT": signal.SIGINT}


@pytest.mark.parametrize("connections", [1, 4])
@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("name", SIGNALS)
def test_killed_at_any_moment_and_resumed(start, cli, target, name, moment, connections):
    """The server sends no further byte on that connection until the process has ended."""
    born = threading.Event()
    words = ("--output", target, "--connections", connections)
    with Scripted(CONTENT) as server:
        children = []

        def kill():
            born.wait(30)
            children[0].send_signal(SIGNALS[name])
            children[0].wait(30)

        server.moment, server.act = moment, kill
        children.append(start(server, *words))
        born.set()
        done = end(children[0])
        kept = Kept(target)
        assert (done.code, done.out, kept.target) == (-SIGNALS[name], "", None), done
        assert "Traceback" not in done.err
        if name != "SIGKILL":
            assert f"stella export download {RUN} " in done.err
            assert done.err.count("--resume") == (1 if kept.recorded() else 0) or "nothing has arrived" in done.err
        recorded = kept.recorded()
        assert all(kept.part[first:stop] == CONTENT[first:stop] for first, stop in recorded)
        server.moment = -1
        server.asked.clear()
        done = cli("download", RUN, *QUICK, *words, "--resume", gw=server)
    kept = Kept(target)
    assert (done.code, kept.names, kept.target == CONTENT) == (0, ["bundle"], True), done
    assert overlap(spans(server.asked), recorded) == 0


def test_killed_again_and_again_it_gets_there(start, cli, target):
    """Each attempt is killed after 100,000 bytes; nothing that was recorded is fetched twice."""
    words = ("--output", target, "--connections", 4, "--resume")
    got = 0
    with Scripted(CONTENT) as server:
        for _ in range(3):
            server.sent, server.moment = 0, 100_000
            children = []
            born = threading.Event()

            def kill(children=children, born=born):
                born.wait(30)
                children[0].kill()
                children[0].wait(30)

            server.act = kill
            children.append(start(server, *words))
            born.set()
            end(children[0])
            recorded = Kept(target).recorded()
            now = sum(stop - first for first, stop in recorded)
            assert now >= got
            got = now
        server.moment = -1
        server.asked.clear()
        assert cli("download", RUN, *QUICK, *words, gw=server).code == 0
    assert Kept(target).target == CONTENT
    assert overlap(spans(server.asked), recorded) == 0


# SIGINT comes behind so many lines that the main thread runs of ours and of the modules below, once it is at work.
AMID = """
import os, signal, stella
left = {lines}

def trace(frame, *_):
    global left
    if not frame.f_code.co_filename.endswith(("stella.py", "client.py", "threading.py", "socket.py")):
        return None
    left -= 1
    if left == 0:
        sys.settrace(None)
        os.kill(os.getpid(), signal.SIGINT)
    return trace

work = stella.execute_command
stella.execute_command = lambda *arguments: (sys.settrace(trace), work(*arguments))[1]
"""


@pytest.mark.parametrize("connections", [1, 4])
@pytest.mark.parametrize("batch", range(10))
def test_ctrl_c_between_any_two_lines_ends_it_at_once_and_loses_nothing(start, cli, target, batch, connections):
    chance = random.Random(f"{SEED} {batch} {connections}")
    words = ("--output", target, "--connections", connections)
    with Scripted(CONTENT, *chance.choice([[], [Say(cut=40_000)], [Say(status=503)]])) as server:
        done = end(start(server, *words, amid=AMID.format(lines=chance.randrange(1, 5500))), 20)
        kept = Kept(target)
        assert done.code in (0, -signal.SIGINT), done
        assert "Traceback" not in done.err
        assert set(kept.names) <= {"bundle", "bundle.part", "bundle.part.json"}
        recorded = kept.recorded()
        assert all(kept.part[first:stop] == CONTENT[first:stop] for first, stop in recorded)
        server.script = []
        server.asked.clear()
        done = cli("download", RUN, *QUICK, *words, "--resume", gw=server)
    assert (done.code, Kept(target).names, Kept(target).target == CONTENT) == (0, ["bundle"], True), done
    assert overlap(spans(server.asked), recorded) == 0


def test_closed_pipe_ends_it_by_sigpipe(start):
    with Scripted(CONTENT * 10) as server:
        child = start(server, "--output", "-")
        child.stdout.read(10)
        child.stdout.close()
        child.stdout = None
        child.wait(30)
    assert child.returncode == -signal.SIGPIPE


# ---- two at once -----------------------------------------------------------------------------------

@pytest.mark.parametrize("connections", [1, 4])
def test_second_process_on_one_file_leaves_with_30_and_the_first_goes_on(start, cli, target, connections):
    held, release = threading.Event(), threading.Event()
    words = ("--output", target, "--connections", connections)
    with Scripted(CONTENT) as server:
        server.moment, server.act = 50_000, lambda: (held.set(), release.wait(30))
        first = start(server, *words, "--timeout", "30")
        assert held.wait(30)
        try:
            others = [end(start(server, *words, *options)) for options in ((), ("--resume",))]
            other = target.with_name("other")
            third = cli("download", RUN, *QUICK, "--output", other, gw=server)
        finally:
            release.set()
        done = end(first)
    for second in others:
        assert second.code == 30, second
        assert "another process" in second.err
    assert third.code == 0, third
    assert (done.code, target.read_bytes() == CONTENT, other.read_bytes() == CONTENT) == (0, True, True), done
    assert Kept(target).names == ["bundle", "other"]


@pytest.mark.parametrize(("record", "whole", "lock"), [
    (None, None, True), (errno.EAGAIN, None, None), (errno.EACCES, None, None), (errno.ENOLCK, None, True),
    (errno.EINVAL, errno.EWOULDBLOCK, None), (errno.EOPNOTSUPP, errno.ENOSYS, False)])
def test_one_kind_of_lock_and_the_other_only_where_the_first_is_unknown(monkeypatch, record, whole, lock):
    """NFS and SMB make a record lock of flock: both together, and each download would keep itself out."""
    taken = []

    def locker(name, code):
        def take(*_):
            if code is not None:
                raise OSError(code, "no")
            taken.append(name)

        return take

    monkeypatch.setattr(fcntl, "lockf", locker("lockf", record))
    monkeypatch.setattr(fcntl, "flock", locker("flock", whole))
    assert stella.lock_file(7) is lock
    assert len(taken) == (lock is True)


def test_part_that_is_replaced_at_every_look_is_no_endless_loop(cli, target, monkeypatch):
    monkeypatch.setattr(stella.PartFile, "_is_named", lambda *_: False)
    with Scripted(CONTENT) as server:
        done = cli("download", RUN, *QUICK, "--output", target, gw=server)
    assert (done.code, Kept(target).target) == (1, None), done
    assert "replaced again and again" in done.err


@pytest.mark.parametrize("connections", [1, 4])
@pytest.mark.parametrize("case", ["removed", "replaced"])
def test_part_of_another_process_is_never_renamed(cli, target, case, connections):
    """Somebody removed .part under a download, and perhaps started another: what has its name now is half a bundle."""
    part = target.with_name("bundle.part")

    def act():
        part.unlink()
        if case == "replaced":
            part.write_bytes(CONTENT[:1000])

    with Scripted(CONTENT) as server:
        server.moment, server.act = len(CONTENT) // 2, act
        done = cli("download", RUN, *QUICK, "--output", target, "--connections", connections, gw=server)
    assert done.code == 1, done
    assert "removed or replaced" in done.err
    kept = Kept(target)
    assert kept.target is None
    assert kept.part == (CONTENT[:1000] if case == "replaced" else None)


# ---- a full disk -----------------------------------------------------------------------------------

# A tmpfs of $1 KiB at $0, in a mount namespace that ends with the process; what lies there is copied to $2. Where no
# namespace can be had, a limit on the size of files stands in: EFBIG for ENOSPC.
TMPFS = """size=$1 out=$2; shift 2
mount -t tmpfs -o "size=${size}k" none "$0" && cd "$0" || exit 99
"$@"; code=$?; cp -a . "$out"; exit $code"""
LIMIT = 'size=$1 out=$2; shift 2; ulimit -f $((size * 2)); cd "$0"; "$@"; code=$?; cp -a . "$out"; exit $code'


def small_disk(folder, kilobytes, out):
    """(the command in front of stella, whether it is a disk of its own)"""
    probe = subprocess.run(["unshare", "-rm", "mount", "-t", "tmpfs", "none", str(folder)], check=False,
                           capture_output=True) if shutil.which("unshare") else None
    real = probe is not None and probe.returncode == 0
    front = ["unshare", "-rm", "sh", "-c", TMPFS] if real else ["sh", "-c", LIMIT]
    return [*front, str(folder), str(kilobytes), str(out)], real


@pytest.fixture
def folders(tmp_path):
    for name in ("disk", "out"):
        (tmp_path / name).mkdir()
    return tmp_path / "disk", tmp_path / "out"


def test_disk_that_is_too_small_is_noticed_before_the_transfer(start, folders):
    front, real = small_disk(folders[0], 200, folders[1])
    with Scripted(CONTENT) as server:
        done = end(start(server, "--output", "bundle", before=front))
    assert done.code == 1, done
    if real:
        assert server.asked == []
        assert "293.0 KiB" in done.err
        assert "free" in done.err
        assert os.listdir(folders[1]) == []


@pytest.mark.parametrize("connections", [1, 4])
def test_disk_that_fills_up_stops_it_and_part_is_kept(start, cli, folders, connections):
    """Another program's file takes the room when 2.5 MB are on their way."""
    disk, out = folders
    content = CONTENT * 10
    front, real = small_disk(disk, 4000, out)
    if not real:
        front, _ = small_disk(disk, 2000, out)
    born, children = threading.Event(), []

    def fill():
        born.wait(30)
        there = Path(f"/proc/{children[0].pid}/root{disk}")
        while not (there / "bundle.part").stat().st_size and children[0].poll() is None:
            os.sched_yield()  # what was sent is enough for a first write
        with open(there / "filler", "wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError:
                pass

    words = ("--connections", connections)
    with Scripted(content) as server:
        if real:
            server.moment, server.act = 2_500_000, fill
        children.append(start(server, "--output", "bundle", *words, before=front))
        born.set()
        done = end(children[0])
        kept = Kept(out / "bundle")
        assert (done.code, kept.target) == (1, None), done
        assert "Traceback" not in done.err
        assert "--resume" in done.err
        recorded = kept.recorded()
        assert all(kept.part[first:stop] == content[first:stop] for first, stop in recorded)
        if connections == 1:
            assert recorded[0][1] > 0
        server.moment = -1
        server.asked.clear()
        done = cli("download", RUN, *QUICK, "--output", out / "bundle", *words, "--resume", gw=server)
    assert (done.code, (out / "bundle").read_bytes() == content) == (0, True), done
    assert overlap(spans(server.asked, len(content)), recorded) == 0


def test_disk_that_fills_up_where_no_size_is_known(start, cli, folders):
    disk, out = folders
    front, _ = small_disk(disk, 200, out)
    with Scripted(CONTENT, size=False, after=Say(framing="chunked")) as server:
        done = end(start(server, "--output", "bundle", before=front))
        kept = Kept(out / "bundle")
        assert (done.code, kept.target) == (1, None), done
        assert CONTENT.startswith(kept.part)
        server.asked.clear()
        done = cli("download", RUN, *QUICK, "--output", out / "bundle", "--resume", gw=server)
    assert (done.code, (out / "bundle").read_bytes() == CONTENT) == (0, True), done
    assert server.asked == [f'{len(kept.part)}- if "v1"']
