"""Raw servers for tests of trust: what arrives is kept byte for byte, what is answered is written byte for byte.

    with Wire(answer) as other:            # answer(Seen) -> bytes, or bytes; a list: one after the other
                                           # or pieces of bytes, in which RESET and SILENCE end the connection
        other.port, other.url              # http://127.0.0.1:PORT, or https:// with `context`
        other.seen                         # requests: line, method, target, headers (lower case), body, raw
        other.bytes                        # everything that any connection sent, decrypted

With `tunnel=True` a CONNECT is answered with 200 and joined to 127.0.0.1 at the port asked for, and what goes
through is kept in `tunnelled`; a request with an absolute target is passed on to its port there.
"""

from __future__ import annotations

import socket
import ssl
import struct
import threading
from collections.abc import Iterable
from typing import Any, Callable, Union

from gateway import drain

RESET, SILENCE = object(), object()  # the connection is reset once all has arrived; nothing more until the peer closes
Pieces = Union[bytes, Iterable[Any]]
Answer = Union[Pieces, Callable[["Seen"], Pieces], list]


def reply(status: int, body: bytes = b"", *headers: str) -> bytes:
    """A whole HTTP answer; `Connection: close`, so that each request comes on a connection of its own."""
    lines = [f"HTTP/1.1 {status} Said", f"Content-Length: {len(body)}", "Connection: close", *headers, "", ""]
    return "\r\n".join(lines).encode("latin-1") + body


class Seen:
    def __init__(self, raw: bytes, body: bytes) -> None:
        self.raw, self.body = raw + body, body
        lines = raw.decode("latin-1").split("\r\n")
        self.line = lines[0]
        self.method, self.target = self.line.split(" ")[:2]
        self.headers = {
            name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:]) if name
        }


class Wire:
    def __init__(
        self,
        answer: Answer = b"",
        context: ssl.SSLContext | None = None,
        tunnel: bool = False,
        address: str = "127.0.0.1",
    ) -> None:
        self.answer, self.context, self.tunnel = answer, context, tunnel
        self.seen: list[Seen] = []
        self.closes = False  # after each answer, whatever it says
        self.bytes = b""
        self.tunnelled = b""
        self.faults: list[str] = []
        self._listener = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
        self._listener.bind((address, 0))
        self._listener.listen()
        self.port: int = self._listener.getsockname()[1]
        host = f"[{address}]" if ":" in address else address
        self.origin = f"{host}:{self.port}"
        self.url = f"{'https' if context else 'http'}://{self.origin}"
        self._threads: list[threading.Thread] = []
        self._open: list[socket.socket] = []

    def __enter__(self) -> Wire:  # noqa: PYI034  (Self is younger than Python 3.9)
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        for opened in (self._listener, *self._open):
            try:
                opened.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            opened.close()
        for thread in self._threads:
            thread.join(5)

    def _start(self, work: Callable[..., None], *arguments: Any) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            peer.settimeout(10)
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._open.append(peer)
            self._start(self._serve, peer)

    def _serve(self, peer: socket.socket) -> None:
        try:
            if self.context is not None:
                peer = self.context.wrap_socket(peer, server_side=True)
                self._open.append(peer)
            self._talk(peer)
        except OSError as fault:  # the client went away, or did not trust us
            self.faults.append(str(fault))
        finally:
            peer.close()

    def _talk(self, peer: socket.socket) -> None:
        stream = peer.makefile("rb")
        with stream:
            while True:
                head = b""
                while not head.endswith(b"\r\n\r\n"):
                    line = stream.readline()
                    self.bytes += line
                    head += line
                    if not line:
                        return
                length = [line[15:] for line in head.split(b"\r\n") if line[:15].lower() == b"content-length:"]
                body = stream.read(int(length[0])) if length else b""
                self.bytes += body
                seen = Seen(head, body)
                self.seen.append(seen)
                if self.tunnel and not self.answer:
                    self._pass(peer, seen)
                    return
                data = self._next(seen)
                pieces = iter([data] if isinstance(data, bytes) else data)
                head = next(pieces)
                self._write(peer, head)
                for piece in pieces:
                    self._write(peer, piece)
                if self.closes or not isinstance(head, bytes) or b"Connection: close" in head or not head:
                    return

    def _write(self, peer: socket.socket, piece: Any) -> None:
        if piece is SILENCE:
            peer.recv(1)
        elif piece is RESET:
            drain(peer)
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        else:
            peer.sendall(piece)

    def _next(self, seen: Seen) -> Pieces:
        answer = self.answer
        if isinstance(answer, list):
            answer = answer.pop(0) if len(answer) > 1 else answer[0]
        return answer(seen) if callable(answer) else answer

    def _pass(self, peer: socket.socket, seen: Seen) -> None:
        connect = seen.method == "CONNECT"
        place = seen.target if connect else seen.target.split("/")[2]
        far = socket.create_connection(("127.0.0.1", int(place.rpartition(":")[2])), 10)
        self._open.append(far)
        with far:
            if connect:
                peer.sendall(b"HTTP/1.1 200 Joined\r\nVia: test\r\n\r\n")
            else:
                head, _, body = seen.raw.partition(b"\r\n\r\n")
                lines = [line for line in head.split(b"\r\n") if not line.lower().startswith(b"proxy-")]
                path = b"/" + seen.target.split("/", 3)[3].encode()
                lines[0] = lines[0].replace(seen.target.encode(), path)
                far.sendall(b"\r\n".join([*lines, b"Connection: close", b"", body]))
            self._start(self._pump, far, peer, False)
            self._pump(peer, far, True)

    def _pump(self, source: socket.socket, sink: socket.socket, keep: bool) -> None:
        try:
            while True:
                data = source.recv(65536)
                if keep:
                    self.tunnelled += data
                if not data:
                    break
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            return
