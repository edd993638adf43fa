"""A download server that says what a test wrote down, byte for byte, and is honest after that.

    with Scripted(CONTENT, Say(cut=1000), Say(shift=7)) as server:     # the first answers; then server.after
        cli("download", RUN, "--output", target, gw=server)
    server.asked == ["whole", '1000- if "v1"', "whole"]                 # Range and If-Range of every request

`GET /api/export/runs/RUN` is answered with a run document; everything else is the bundle, whatever its path, so
that the same server can be an object store or the place of a presigned URL. An honest answer follows RFC 9110
(13.1.5, 14, 15.5.17); each field of Say changes one thing in it.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Callable

from wire import RESET, SILENCE, Seen, Wire, reply

RUN = "run-1"
PIECE = 16384


@dataclass(frozen=True)
class Say:
    """What is odd about one answer.

    status: instead of the honest one (a 200 is always whole, a 206 to no range is of everything);
    head: headers set, given twice (a tuple) or removed (None); interim: bytes before the head;
    content, etag: another version of the bundle; shift: bytes from so many further on; slice: no more than so
    many; total: what Content-Range gives as the whole; flip: this byte of the bundle is another one;
    body: these bytes instead; extra: more bytes after them; framing: "close", "chunked", or "endless" (no last
    chunk); cut, reset, silence: how the connection ends, after so many bytes of the body; raw: only these bytes.
    """

    status: int = 0
    head: Mapping[str, Any] = field(default_factory=dict)
    interim: bytes = b""
    content: bytes | None = None
    etag: str | None = None
    shift: int = 0
    slice: int | None = None
    total: str = ""
    flip: int | None = None
    body: bytes | None = None
    extra: bytes = b""
    framing: str = ""
    cut: int | None = None
    reset: int | None = None
    silence: int | None = None
    raw: bytes | None = None


def describe(content: bytes, name: str = "export.tar.zst", size: bool = True, digest: bool = True) -> dict[str, Any]:
    """What a run says of its bundle."""
    return {"name": name, "size": len(content) if size else None,
            "sha256": hashlib.sha256(content).hexdigest() if digest else None}


class Scripted(Wire):
    """size, digest: False leaves them out of the run document; together: no body is sent before so many answers
    were under way at once; limit: more than so many at once get a 503; act: called once, when `moment` bytes of
    bodies were sent; more: further fields of the run document. `most`: how many answers there were at once.
    """

    token = "token-of-a-scripted-server"

    def __init__(self, content: bytes, *script: Say, after: Say = Say(), etag: str = '"v1"', size: bool = True,
                 digest: bool = True, name: str = "export.tar.zst", head: Mapping[str, Any] | None = None,
                 together: int = 1, limit: int = 99, **more: Any) -> None:
        super().__init__(self._say)
        self.content, self.script, self.after, self.etag, self.head = content, list(script), after, etag, head or {}
        bundle = describe(content, name, size, digest)
        self.run = {"runId": RUN, "status": "succeeded", "bundle": bundle, "distribution": [{"type": "http"}], **more}
        self.asked: list[str] = []
        self.sent = 0  # bytes of bodies
        self.moment = -1
        self.act: Callable[[], object] = lambda: None
        self.together, self.limit, self.most = together, limit, 0
        self._busy = 0
        self._lock = threading.Condition()

    def _say(self, seen: Seen) -> Any:
        if seen.target == f"/api/export/runs/{RUN}":
            return reply(200, json.dumps(self.run).encode(), "Content-Type: application/json")
        with self._lock:
            say = self.script.pop(0) if self.script else self.after
            wanted, condition = seen.headers.get("range", "whole"), seen.headers.get("if-range")
            self.asked.append(wanted.replace("bytes=", "", 1) + (f" if {condition}" if condition else ""))
            self._busy += 1
            self.most = max(self.most, self._busy)
            self._lock.notify_all()
            say = Say(status=503) if self._busy > self.limit else say
        return self._answer(say, seen)

    def _answer(self, say: Say, seen: Seen) -> Iterator[Any]:
        """Counts as under way until its last byte is out."""
        try:
            if say.raw is not None:
                yield from (b"", say.raw, RESET if say.reset is not None else b"")
            else:
                yield from self._pieces(say, seen)
        finally:
            with self._lock:
                self._busy -= 1

    def _pieces(self, say: Say, seen: Seen) -> Iterator[Any]:
        status, first, stop, head = self._decide(say, seen)
        content = self.content if say.content is None else say.content
        if say.flip is not None:
            content = content[:say.flip] + bytes([content[say.flip] ^ 1]) + content[say.flip + 1:]
        body = say.body if say.body is not None else content[first:stop] if status in (200, 206) else b""
        broken = (say.cut, say.reset, say.silence)
        if say.framing in ("chunked", "endless"):
            head["Transfer-Encoding"] = "chunked"
        elif say.framing != "close":
            head["Content-Length"] = str(len(body))
        if say.framing in ("close", "endless") or say.extra or broken != (None, None, None) or status >= 400:
            head["Connection"] = "close"
        lines = [f"HTTP/1.1 {status} Said"]
        for name, value in {**head, **self.head, **say.head}.items():
            values = value if isinstance(value, tuple) else (value,)
            lines += [f"{name}: {text}" for text in values if text is not None]
        yield say.interim + "\r\n".join([*lines, "", ""]).encode("latin-1")
        with self._lock:
            self._lock.wait_for(lambda: self.most >= self.together, 5)
        end = next((number for number in broken if number is not None), len(body))
        for at in range(0, min(end, len(body)), PIECE):
            piece = body[at:min(at + PIECE, end)]
            yield from self._count(b"%x\r\n%b\r\n" % (len(piece), piece) if "Transfer-Encoding" in head else piece)
        yield say.extra
        if say.framing == "chunked" and broken == (None, None, None):
            yield b"0\r\n\r\n"
        yield RESET if say.reset is not None else SILENCE if say.silence is not None else b""

    def _count(self, piece: bytes) -> Iterator[bytes]:
        """The piece, in two where the moment falls into it."""
        with self._lock:
            before, self.sent = self.sent, self.sent + len(piece)
        at = self.moment - before
        if not 0 <= at < len(piece):
            yield piece
            return
        yield piece[:at]
        self.act()
        yield piece[at:]

    def _decide(self, say: Say, seen: Seen) -> tuple[int, int, int, dict[str, Any]]:
        """(status, first byte, byte after the last, headers)"""
        size = len(self.content if say.content is None else say.content)
        etag = self.etag if say.etag is None else say.etag
        head: dict[str, Any] = {"ETag": etag or None, "Accept-Ranges": "bytes"}
        status, first, stop = 200, 0, size
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", seen.headers.get("range", ""))
        condition = seen.headers.get("if-range")
        if wanted and (condition is None or (condition == etag and not etag.startswith("W/"))):
            status, first = 206, int(wanted.group(1))
            stop = min(int(wanted.group(2)) + 1, size) if wanted.group(2) else size
        status = say.status or (416 if status == 206 and first >= size else status)
        if status == 416:
            return 416, 0, 0, {**head, "Content-Range": f"bytes */{size}"}
        if status != 206:
            return status, 0, size, head if status == 200 else {}
        first += say.shift
        stop = stop if say.slice is None else min(stop, first + say.slice)
        return 206, first, stop, {**head, "Content-Range": f"bytes {first}-{stop - 1}/{say.total or size}"}


class Kept:
    """What lies where a download goes: `names`, and the three files' contents (None where there is none)."""

    def __init__(self, target: Any) -> None:
        self.folder = target.parent
        self.names = sorted(path.name for path in self.folder.iterdir()) if self.folder.is_dir() else []
        self.target, self.part, self.sidecar = (
            path.read_bytes() if path.is_file() else None
            for path in (target, target.with_name(target.name + ".part"), target.with_name(target.name + ".part.json")))

    @property
    def facts(self) -> dict[str, Any]:
        return json.loads(self.sidecar or b"{}")

    def recorded(self) -> list[tuple[int, int]]:
        """The byte ranges [start, end) that need not be fetched again."""
        if self.part is None or self.sidecar is None:
            return []
        end = len(self.part)
        spans = self.facts.get("done", [(0, end)])
        return [(start, min(stop, end)) for start, stop in spans if start < min(stop, end)]
