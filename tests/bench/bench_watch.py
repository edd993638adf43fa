"""200,000 events of 150 bytes as JSON lines to /dev/null: stella beside httpx with httpx-sse doing the same.

Also: how cost grows with the number of events, and how long an event takes from its last byte on the wire to
standard output, beside the same rival.
"""

from __future__ import annotations

import contextlib
import json
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

from common import PACKAGES, PYTHON, TOKEN, compare, environment, growth, installed, run_once, stella, table

EVENTS, EVENT_BYTES, ROUNDS = 200_000, 150, 5
COUNTS = (1_000, 10_000, 100_000, 1_000_000)
LATENCIES = 200

RIVAL = """
import json, sys, httpx
from httpx_sse import connect_sse
out = sys.stdout
with httpx.Client(headers={"Authorization": "Bearer " + sys.argv[2]}) as client:
    with connect_sse(client, "GET", sys.argv[1] + "/api/export/runs/r/events", timeout=45) as source:
        for event in source.iter_sse():
            line = {"event": event.event, "id": event.id or None, "data": json.loads(event.data)}
            out.write(json.dumps(line, separators=(",", ":"), ensure_ascii=False) + "\\n")
            out.flush()
            if event.event == "run.succeeded":
                break
"""


def frame(number: int) -> bytes:
    """A progress event of EVENT_BYTES bytes on the wire."""
    data = {"percent": number * 100 // EVENTS, "phase": "adapter", "processed": number, "total": EVENTS}
    text = "id: %d\nevent: run.progress\ndata: %s\n\n"
    short = text % (number, json.dumps({**data, "note": ""}, separators=(",", ":")))
    note = "n" * (EVENT_BYTES - len(short))
    return (text % (number, json.dumps({**data, "note": note}, separators=(",", ":")))).encode()


class Server:
    """Sends `count` events to whoever asks for them, and a run that succeeded. `piece` bytes of events make a chunk of
    the chunked coding; 0: each event is one."""

    def __init__(self, count: int, piece: int) -> None:
        frames = [frame(number) for number in range(1, min(count, EVENTS) + 1)]
        assert {len(each) for each in frames} == {EVENT_BYTES}
        body = b"".join(frames)
        pieces = frames if not piece else [body[at : at + piece] for at in range(0, len(body), piece)]
        self.wire = b"".join(b"%x\r\n%b\r\n" % (len(each), each) for each in pieces)
        self.repeat = max(count // EVENTS, 1)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = "http://127.0.0.1:%d" % self.listener.getsockname()[1]
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self) -> None:
        while True:
            connection, _ = self.listener.accept()
            with connection, connection.makefile("rb") as reader:
                target = reader.readline().split()[1]
                while reader.readline() not in (b"\r\n", b""):
                    pass
                self.answer(connection, target)

    def answer(self, connection: socket.socket, target: bytes) -> None:
        if not target.endswith(b"/events"):
            body = b'{"runId":"r","status":"succeeded"}'
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n"
                               b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
            return
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n"
                           b"Transfer-Encoding: chunked\r\n\r\n")
        for _ in range(self.repeat):
            connection.sendall(self.wire)
        last = b"id: end\nevent: run.succeeded\ndata: {}\n\n"
        connection.sendall(b"%x\r\n%b\r\n0\r\n\r\n" % (len(last), last))


WATCH = ("export", "run", "watch", "r", "--json")


def rival(url: str) -> list[str]:
    return [PYTHON, "-c", RIVAL, url, TOKEN]


@contextlib.contextmanager
def serving(count: int, piece: int) -> Iterator[str]:
    """The URL of a server that is a process of its own, so that it takes no time from a client's interpreter."""
    with subprocess.Popen([sys.executable, __file__, "serve", str(count), str(piece)], stdout=subprocess.PIPE,
                          text=True) as server:
        yield server.stdout.readline().strip()
        server.kill()


def measure_throughput(piece: int) -> bool:
    with installed() as path, serving(EVENTS, piece) as url:
        env = environment(url, PYTHONPATH=PACKAGES)
        results = compare({
            "stella": lambda: run_once(stella(*WATCH), env),
            "stella, installed": lambda: run_once([path, *WATCH], env),
            "httpx + httpx-sse": lambda: run_once(rival(url), env),
        }, ROUNDS)
    how = "an event per chunk" if not piece else f"chunks of {piece} bytes"
    title = f"{EVENTS} events of {EVENT_BYTES} bytes to /dev/null, {how}"
    return table(title, results, "stella", {"httpx + httpx-sse": 0.6})


def measure_growth() -> bool:
    runs = {}
    for count in COUNTS:
        with serving(count, 16384) as url:
            runs[f"{count:,} events"] = run_once(stella(*WATCH), environment(url))
    return growth("growth of a watch", runs, [count / 1000 for count in COUNTS], "1,000 events")


def take_latencies(command: Callable[[str], list[str]]) -> list[float]:
    """Seconds from the send of an event's last byte to its line on standard output."""
    delays = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = "http://127.0.0.1:%d" % listener.getsockname()[1]
        env = environment(url, PYTHONPATH=PACKAGES)
        with subprocess.Popen(command(url), env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as child:
            connection, _ = listener.accept()
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
                               b"Transfer-Encoding: chunked\r\n\r\n")
            for number in range(1, LATENCIES + 1):
                event = frame(number)
                time.sleep(0.02)
                connection.sendall(b"%x\r\n%b\r\n" % (len(event), event))
                started = time.perf_counter()
                child.stdout.readline()
                delays.append(time.perf_counter() - started)
            child.kill()
            connection.close()
    return delays


def measure_latency() -> bool:
    ours, theirs = take_latencies(lambda _: stella(*WATCH)), take_latencies(rival)
    ratio = statistics.median(ours) / statistics.median(theirs)
    print(f"\nlatency of an event to standard output: median {statistics.median(ours) * 1000:.3f} ms, worst of "
          f"{len(ours)} {max(ours) * 1000:.2f} ms (goal 100 ms);\n  httpx + httpx-sse "
          f"{statistics.median(theirs) * 1000:.3f} ms, stella is {ratio:.2f} of it, "
          f"goal 0.7 {'reached' if ratio <= 0.7 else 'MISSED'}")
    return max(ours) <= 0.1 and ratio <= 0.7


def main() -> int:
    if sys.argv[1:2] == ["serve"]:
        print(Server(int(sys.argv[2]), int(sys.argv[3])).url, flush=True)
        threading.Event().wait()
    good = [measure_throughput(0), measure_throughput(16384), measure_latency(), measure_growth()]
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
