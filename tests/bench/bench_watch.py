"""200,000 events of 150 bytes as JSON lines to /dev/null: stella beside httpx with httpx-sse doing the same.

Also: peak memory with ten times as many events, which must not grow with them, and how long an event takes from
its last byte on the wire to standard output.
"""

from __future__ import annotations

import json
import os
import socket
import statistics
import subprocess
import sys
import threading
import time

from common import STELLA, compare, run_once, table

EVENTS, EVENT_BYTES, ROUNDS = 200_000, 150, 5
TOKEN = "secret"

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
        frames = [frame(number) for number in range(1, EVENTS + 1)]
        assert {len(each) for each in frames} == {EVENT_BYTES}
        body = b"".join(frames)
        pieces = frames if not piece else [body[at : at + piece] for at in range(0, len(body), piece)]
        self.wire = b"".join(b"%x\r\n%b\r\n" % (len(each), each) for each in pieces)
        self.repeat = count // EVENTS
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


def environment() -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("STELLA_")}
    return {**clean, "STELLA_TOKEN": TOKEN, "NO_PROXY": "127.0.0.1"}


def stella(url: str) -> list[str]:
    return [sys.executable, str(STELLA), "--server", url, "export", "run", "watch", "r", "--json"]


def measure_throughput(piece: int) -> bool:
    """The server is a process of its own, so that it takes no time from either client's interpreter."""
    with subprocess.Popen([sys.executable, __file__, "serve", str(EVENTS), str(piece)], stdout=subprocess.PIPE,
                          text=True) as server:
        url = server.stdout.readline().strip()
        results = compare({
            "stella": lambda: run_once(stella(url), environment()),
            "httpx + httpx-sse": lambda: run_once([sys.executable, "-c", RIVAL, url, TOKEN], environment()),
        }, ROUNDS)
        server.kill()
    how = "an event per chunk" if not piece else f"chunks of {piece} bytes"
    title = f"{EVENTS} events of {EVENT_BYTES} bytes to /dev/null, {how}"
    return table(title, results, "stella", {"httpx + httpx-sse": 0.6})


def measure_memory() -> bool:
    peaks = []
    for count in (EVENTS, 10 * EVENTS):
        with subprocess.Popen([sys.executable, __file__, "serve", str(count), "16384"], stdout=subprocess.PIPE,
                              text=True) as server:
            url = server.stdout.readline().strip()
            peaks.append(run_once(stella(url), environment()).peak_kib)
            server.kill()
    few, many = (f"{peak / 1024:.1f} MiB" for peak in peaks)
    print(f"\npeak memory: {few} with {EVENTS} events, {many} with {10 * EVENTS}")
    return peaks[1] < peaks[0] * 1.15


def measure_latency() -> bool:
    """From the send of an event's last byte to its line on standard output."""
    delays = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = "http://127.0.0.1:%d" % listener.getsockname()[1]
        with subprocess.Popen(stella(url), env=environment(), stdout=subprocess.PIPE) as child:
            connection, _ = listener.accept()
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
                               b"Transfer-Encoding: chunked\r\n\r\n")
            for number in range(1, 101):
                event = frame(number)
                time.sleep(0.02)
                connection.sendall(b"%x\r\n%b\r\n" % (len(event), event))
                started = time.perf_counter()
                child.stdout.readline()
                delays.append(time.perf_counter() - started)
            child.kill()
            connection.close()
    print(f"\nlatency to standard output: median {statistics.median(delays) * 1000:.2f} ms, "
          f"worst of {len(delays)} {max(delays) * 1000:.2f} ms, goal 100 ms")
    return max(delays) <= 0.1


def main() -> int:
    if sys.argv[1:2] == ["serve"]:
        print(Server(int(sys.argv[2]), int(sys.argv[3])).url, flush=True)
        threading.Event().wait()
    good = [measure_throughput(0), measure_throughput(16384), measure_memory(), measure_latency()]
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
