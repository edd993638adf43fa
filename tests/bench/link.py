"""A bad link in user space: a forwarder with delay, a shared rate, loss, and a rate per connection.

The kernel here has no netem, and nginx's limit_rate counts from the start of each request and gives the first
second away, so that whoever asks for small ranges never meets it. This forwarder models, for each connection, what
its sender would do on such a link, and delivers the bytes when they would have come:

- A connection's first bytes wait a round trip (the handshake), and everything waits half a round trip each way.
- All connections share `rate`: what is sent takes its turn on a virtual wire. Where more than a round trip's worth
  waits for the wire, what comes is dropped, as by a router with that much buffer.
- A connection has a congestion window as CUBIC (RFC 9438) keeps it: it starts at 10 segments and doubles every
  round trip until the first loss; a loss multiplies it by 0.7, at most once a round trip; then it grows with the
  cube of the time since, and at least as fast as Reno's would (4.3).
- Each segment of 1448 bytes is lost with probability `loss`. What is lost or dropped comes a round trip later, and
  what follows it waits for it, as TCP delivers in order.
- `cap` is the rate of each connection for itself, as of a gateway that shapes.

What it leaves out: jitter, loss of acknowledgements, timeouts after several losses, and a receiver's window. The
same seed gives every run the same dice. `cut` closes everything after so many bytes: it leaves a transfer half done.

Started by `link`, a process of its own on a free port.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator

SEGMENT = 1448
BATCH = 16 * SEGMENT


class Wire:
    """What all connections share."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.round_trip = options.round_trip_ms / 1000
        self.free_at = 0.0
        self.left = options.cut or float("inf")
        self.random = random.Random(1)

    def send(self, size: int, now: float) -> tuple[float, bool]:
        """(when the last byte has left, whether the bytes were lost)."""
        rate = self.options.rate
        dropped = bool(rate) and self.free_at - now > max(self.round_trip, 0.005)
        if rate and not dropped:
            self.free_at = max(self.free_at, now) + size / rate
        segments = -(-size // SEGMENT)
        lost = dropped or (self.options.loss and self.random.random() < 1 - (1 - self.options.loss) ** segments)
        return (self.free_at if rate and not dropped else now), bool(lost)


class Flow:
    """One connection from the server to the client."""

    def __init__(self, wire: Wire) -> None:
        self.wire, self.loop = wire, asyncio.get_running_loop()
        self.window, self.in_flight = 10.0 * SEGMENT, 0
        self.before_loss = self.reno = 0.0  # windows; 0 until the first loss
        self.lost_at = self.recovered_at = self.arrives_at = self.paced_at = 0.0
        self.room = asyncio.Event()
        self.room.set()
        self.queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

    async def wait_for_room(self) -> int:
        """How much may be sent now, once anything may."""
        while self.in_flight + SEGMENT > self.window:
            self.room.clear()
            await self.room.wait()
        return int(min(self.window - self.in_flight, BATCH))

    def send(self, data: bytes) -> None:
        """Puts bytes on the wire, and in the queue with the time at which they arrive."""
        wire, now = self.wire, self.loop.time()
        departed, lost = wire.send(len(data), now)
        if wire.options.cap:
            self.paced_at = max(self.paced_at, now) + len(data) / wire.options.cap
            departed = max(departed, self.paced_at)
        if lost and now >= self.recovered_at:
            self.before_loss, self.lost_at, self.recovered_at = self.window, now, now + wire.round_trip
            self.window = self.reno = max(self.window * 0.7, 2.0 * SEGMENT)
        self.arrives_at = max(self.arrives_at, departed + wire.round_trip * (1.5 if lost else 0.5))
        self.in_flight += len(data)
        self.queue.put_nowait((self.arrives_at, data))

    def acknowledge(self, size: int) -> None:
        """The sender hears that bytes arrived."""
        self.in_flight -= size
        if self.before_loss:
            flat_at = (self.before_loss / SEGMENT * 0.3 / 0.4) ** (1 / 3)  # seconds after the loss
            cubic = self.before_loss + 0.4 * SEGMENT * (self.loop.time() - self.lost_at - flat_at) ** 3
            self.reno += (0.53 if self.reno < self.before_loss else 1.0) * SEGMENT * size / self.window
            self.window = max(self.window, self.reno, cubic)
        else:
            self.window += size
        self.room.set()

    async def deliver(self, client: socket.socket) -> None:
        """Gives the client its bytes as they arrive."""
        while True:
            arrives_at, data = await self.queue.get()
            if not data:
                return
            await asyncio.sleep(arrives_at - self.loop.time())
            await self.loop.sock_sendall(client, data)
            self.loop.call_later(self.wire.round_trip / 2, self.acknowledge, len(data))


async def to_client(wire: Wire, server: socket.socket, client: socket.socket) -> None:
    """All that the server sends."""
    flow = Flow(wire)
    delivery = asyncio.ensure_future(flow.deliver(client))
    while True:
        data = await flow.loop.sock_recv(server, await flow.wait_for_room())
        wire.left -= len(data)
        if wire.left < 0:
            os._exit(0)
        if not data:
            break
        flow.send(data)
    flow.queue.put_nowait((0.0, b""))
    await delivery
    client.shutdown(socket.SHUT_WR)


async def to_server(wire: Wire, client: socket.socket, server: socket.socket) -> None:
    """All that the client sends: requests, which are small."""
    loop = asyncio.get_running_loop()
    delay = 1.5 * wire.round_trip  # the first waits for the handshake
    while True:
        data = await loop.sock_recv(client, 65536)
        await asyncio.sleep(delay)
        delay = wire.round_trip / 2
        if not data:
            break
        await loop.sock_sendall(server, data)
    server.shutdown(socket.SHUT_WR)


async def forward(wire: Wire, client: socket.socket, port: int) -> None:
    """One connection, until both sides have said all."""
    loop = asyncio.get_running_loop()
    with client, socket.socket() as server:
        for each in (client, server):
            each.setblocking(False)
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await loop.sock_connect(server, ("127.0.0.1", port))
        tasks = [asyncio.ensure_future(to_client(wire, server, client)),
                 asyncio.ensure_future(to_server(wire, client, server))]
        with contextlib.suppress(OSError):
            await tasks[0]
        tasks[1].cancel()
        with contextlib.suppress(OSError, asyncio.CancelledError):
            await tasks[1]


async def serve(options: argparse.Namespace) -> None:
    """Takes connections until the process is ended."""
    wire, tasks = Wire(options), set()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        print(listener.getsockname()[1], flush=True)
        while True:
            client, _ = await asyncio.get_running_loop().sock_accept(listener)
            task = asyncio.ensure_future(forward(wire, client, options.port))
            tasks.add(task)
            task.add_done_callback(tasks.discard)


@contextlib.contextmanager
def link(port: int, **options: float) -> Iterator[str]:
    """The URL of a link to `port`, a process of its own; options as on the command line, in bytes per second."""
    command = [sys.executable, __file__, str(port)]
    for name, value in options.items():
        command += ["--" + name.replace("_", "-"), str(value)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        yield "http://127.0.0.1:%d" % int(process.stdout.readline())
        process.communicate()  # it ends when its standard input does


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    for name in ("--rate", "--cap", "--loss", "--round-trip-ms", "--cut"):
        parser.add_argument(name, type=float, default=0.0)
    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
    asyncio.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
