"""Readers of foreign bytes under random input: one list for the suite, for Hypothesis and for a million by hand.

    python3 tests/fuzz.py 1000000 [SEED]     # by hand

A Reader is a function that feeds some readers of stella.py, looks at what they give, and may raise what is `allowed`
and nothing else. Its inputs are `seeds` that were edited: cut, joined, repeated, with `words` put in. Some readers are
held against a second opinion (json, tomllib, tarfile, http.client): where ours takes an input, the other must have
taken it for the same. Every input may take LIMIT_SECONDS of processor time.
"""

# ruff: noqa: E501 - a row of seeds or words is a line
from __future__ import annotations

import base64
import functools
import gzip
import hashlib
import http.client
import io
import json
import random
import re
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # by hand there is no pytest.ini

import attacks
import stella

LIMIT_SECONDS = 1.0
MAX_INPUT_BYTES = 64 * 1024
GATEWAY = stella.parse_url("https://gateway.example:8443/root")
OTHER = stella.parse_url("https://registry.example/v2/x")
SHA256 = hashlib.sha256(b"").hexdigest()


class Reader:
    def __init__(self, read: Callable[[bytes], Any], allowed: Sequence[type[Exception]], words: str, slow: int) -> None:
        self.read, self.allowed, self.slow = read, tuple(allowed), slow
        self.words = [word.encode("latin-1" if max(word) < "\u0100" else "utf-8", "surrogatepass") for word in words.split()]
        self.make_seeds: Callable[[], Sequence[bytes | str]] = tuple

    @functools.cached_property
    def seeds(self) -> list[bytes]:
        return [seed.encode() if isinstance(seed, str) else seed for seed in self.make_seeds()]


READERS: dict[str, Reader] = {}


def reader(name: str, *allowed: type[Exception], words: str = "", slow: int = 1) -> Callable[[Any], Reader]:
    """slow: gets one input where others get so many."""

    def take(read: Callable[[bytes], Any]) -> Reader:
        READERS[name] = Reader(read, allowed, words, slow)
        return READERS[name]

    return take


def seeds(of: Reader) -> Callable[[Any], Any]:
    def take(make: Callable[[], Sequence[bytes | str]]) -> Any:
        of.make_seeds = make
        return make

    return take


def words_of(data: bytes) -> str:
    """Text as the command line and JSON may bring it: anything, lone surrogates too."""
    return data.decode("utf-8", "surrogateescape")


def field_of(data: bytes) -> str:
    """Text as a header brings it."""
    return data.decode("latin-1")


def outcome(call: Callable[..., Any], *arguments: Any, errors: tuple[type[Exception], ...] = (ValueError,)) -> Any:
    """("value", what came) or ("error",)."""
    try:
        return ("value", call(*arguments))
    except errors:
        return ("error",)


def pieces_of(data: bytes) -> Iterator[bytes]:
    """The bytes in pieces of odd sizes, always the same for the same bytes."""
    sizes = random.Random(len(data) * 65537 + sum(data[:64]))
    at = 0
    while at < len(data):
        size = sizes.choice((1, 2, 3, 7, 100, 5000))
        yield data[at : at + size]
        at += size


# ---- JSON


@reader("JSON", stella.ValidationError, words='{ } [ ] , : " \\ \\u \\ud83d \\ude00 null true NaN -Infinity 1e400 -0 0. 9')
def read_json(data: bytes) -> None:
    value = stella.parse_json(data, "the input")
    text = stella.json_text(value)
    assert stella.json_text(json.loads(text, parse_int=stella.parse_number, parse_float=stella.parse_number)) == text
    assert stella.parse_json(text.encode("utf-8", "backslashreplace"), "the text") == value
    stella.yaml_text(value)


DEEP = '{"a":' * 70 + "1" + "}" * 70
JSONS = (
    '{"a": [1, -0, 1.10, 1e5, 1E-7, true, false, null], "b": {"c": "d\\n\\u00e9\\ud83d\\ude00 \\\\ \\""}, "": ""}',
    '{"a": 1, "a": 2}', "[[[[]]]]", '"x"', "1e400", "[NaN]", DEEP, DEEP[:150], '\ufeff{"a": 1}', '{"é": "ü\U0001f600"}',
    "9" * 5000, '{"a": "' + "x\\n" * 2000 + '"}', "[" * 3000, '{"a":' + " " * 3000 + "}",
)  # fmt: skip


@seeds(read_json)
def json_seeds() -> Sequence[str]:
    return JSONS


@reader("JSON, spelling kept", stella.ValidationError, words='{ } [ ] , : " \\ \\u00 NaN 1e400 -0 1.10 1e 00')
def read_json_spelling(data: bytes) -> None:
    plain = outcome(stella.parse_json, data, "x", True, True, errors=(stella.ValidationError,))
    value = stella.parse_json(data, "the input", keep_numbers=True)
    assert plain[0] == "value", "what is good strictly is good plainly"
    stella.json_text(value)


seeds(read_json_spelling)(json_seeds)


def refuse(name: str) -> None:
    raise ValueError(name)


@reader("JSON without json", words='{ } [ ] , : " \\ \\u \\ud83d \\ude00 null nul true 0 -0 00 1. 1e5 - + 1E+ .5 \\x')
def read_json_without_json(data: bytes) -> None:
    """The stand-in for Debian's python3-minimal, against json."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return
    standard = outcome(functools.partial(json.loads, parse_constant=refuse), text, errors=(ValueError, RecursionError))
    ours = outcome(stella.read_json_text, text, errors=(ValueError, RecursionError))
    if ours != standard:
        assert ours == ("error",)
        assert stella.nests_deeper(standard[1], stella.MAX_JSON_DEPTH)


seeds(read_json_without_json)(json_seeds)


@reader("pages", stella.ValidationError, stella.ProtocolError, words='"items": [ ] { } , : " \\" \\\\ \\u0069 1.10 {} []')
def read_page(data: bytes) -> None:
    """A list's text, indented without a look at its values, against the long way."""
    answer = stella.parse_object(data, "the page", keep_numbers=True, plain=True)
    items = answer.get("items")
    if not isinstance(items, list):
        return
    text = "".join(stella.json_pages([stella.Page(items, data.decode("utf-8"))]))
    strict = outcome(stella.parse_object, data, "x", True, errors=(stella.ValidationError,))
    if strict[0] == "value":
        assert text == (stella.json_text(strict[1]["items"]) if items else "[]") + "\n"
    "".join(stella.yaml_pages([stella.Page(items, data.decode("utf-8"))]))
    for item in items:
        stella.Table(stella.Console(), ["A", "B", "STATUS", "D", "E"]).lines([stella.run_row(item)])
        stella.profile_row(item)


@seeds(read_page)
def page_seeds() -> Sequence[str]:
    run = json.dumps({"runId": "r", "status": "succeeded", "progress": {"percent": 37.5}, "distribution": ["http"]})
    return (
        '{"items": [%s, %s], "nextCursor": null}' % (run, run), '{"nextCursor": "a\\"b", "n": 1, "items": [1.10, {}]}',
        '{"items": []}', '{"x": {"y": 1}, "items": [1]}', '{"a":' + " " * 2000 + '{"a":1},"items": [1]}',
        '{"items": ["a\\\\", "\\"", "\\u00e9\\/", [[]], {"a": {"b": [{}]}}]}', "{" + '"a":1,' * 60 + '"items":[2]}',
    )  # fmt: skip


# ---- events


def feed(chunks: Iterator[bytes] | list[bytes]) -> tuple[list[tuple[str, str, str, bool]], int | None]:
    parser = stella.EventParser()
    events = [event for chunk in chunks for event in parser.feed(chunk)]
    return [(event.type, event.data, event.id, event.own_id) for event in events], parser.retry_ms


@reader("events", stella.ProtocolError, words="data: event: id: retry: : \ufeff run.progress run.succeeded {} \x00")
def read_events(data: bytes) -> None:
    whole = feed([data])
    assert feed(pieces_of(data)) == whole, "however it is cut"
    events = [stella.Event(*event) for event in whole[0]]
    encoder, seen = stella.EventEncoder(), stella.SeenEvents()
    for event in events:
        seen.is_new(event)
        line = encoder.line(event)
        assert "\n" not in line
        assert set(json.loads(line)) == {"event", "id", "data"}
        stella.event_value(event.data)
    seen.reconnect()
    assert not any(map(seen.is_new, events)), "a replay shows nothing twice"


@seeds(read_events)
def event_seeds() -> Sequence[str]:
    return (
        'id: 1\nevent: run.progress\ndata: {"percent": 1.50, "phase": "a b"}\n\n' * 3, ": comment\n\nretry: 10\n\n",
        "data: a\r\ndata: b\r\n\r\nid\r\rdata\n\n", "\ufeffdata: x\n\ndata:y\n\nevent\n\n", "id: \x00\ndata: [1, 2]\n\n",
        'data: {"a": 1,\ndata: "b": [1e400, "\\ud83d"]}\n\n', "data: " + "[" * 100 + "\n\n", "data\n" * 1000 + "\n",
    )  # fmt: skip


# ---- HTTP


class Peer:
    """The socket of an answer that has arrived."""

    def __init__(self, data: bytes) -> None:
        self.data = io.BytesIO(data)

    def makefile(self, mode: str) -> Any:
        return io.BufferedReader(self.data)  # type: ignore[arg-type]

    def recv(self, count: int) -> bytes:
        return self.data.read(count)

    def sendall(self, data: bytes) -> None:
        assert data.count(b"\r\n\r\n") == 1

    def settimeout(self, seconds: float) -> None:
        pass

    def gettimeout(self) -> float:
        return 30.0


@functools.cache
def client() -> stella.Http:
    config = stella.load_config({}, {"STELLA_TOKEN": "t-oken-t", "STELLA_SERVER": str(GATEWAY)})
    return stella.Http(config, stella.Console(config), stella.Clock())


def answer_of(data: bytes) -> stella.Response:
    try:
        raw = stella.final_response_class()(Peer(data), method="GET")
        raw.begin()
    except Exception as error:
        raise stella.transport_error(error, GATEWAY) from None
    return stella.Response(raw, GATEWAY, Peer(b""), lambda reuse: None, lambda: 30.0)


def stream_of(data: bytes) -> bytes:
    response, pieces = answer_of(data), []
    while True:
        piece = response.read_stream(1000)
        if not piece:
            return b"".join(pieces)
        pieces.append(piece)


HEAD_WORDS = (
    "HTTP/1.1 HTTP/1.0 HTTP/0.9 200 206 416 503 100 101 103 Content-Length: Transfer-Encoding: chunked identity Location: "
    "Connection: close Content-Range: bytes ETag: W/ Retry-After: Date: ; 0 -1 99999999999999999999 0x10 +5 1_0 , : \x0b \xa0"
)


@reader("answers", stella.StellaError, words=HEAD_WORDS)
def read_answer(data: bytes) -> None:
    response = answer_of(data)
    assert all(name == name.lower() for name in response.headers)
    assert not set("\r\n") & set("".join(response.headers.values()))
    wait = client().retry_after(response.headers)
    assert 0 <= wait < 1e18
    stella.skew_hint(response.headers.get("date", ""), 1.7e9)
    stella.quota_text(response.headers)
    stella.header_digest(response.headers)
    outcome(stella.resolve_url, GATEWAY, response.headers.get("location", ""))
    body = outcome(response.read_all, 1 << 20, "the answer", errors=(stella.StellaError,))
    stream = outcome(stream_of, data, errors=(stella.StellaError,))
    if response.raw.chunked and stream[0] == body[0]:
        assert stream == body, "our decoder of chunks gives what http.client gives"
    if response.status >= 300:
        stella.read_failure(answer_of(data))


@seeds(read_answer)
def answer_seeds() -> Sequence[bytes]:
    date = "Date: Wed, 29 Oct 2025 13:42:11 GMT\r\n"
    error = '{"code": "ERR_EXPORT_QUOTA", "message": "m", "details": ["a", {"path": "/x", "message": "y"}], "traceId": "t"}'
    heads = (
        f"HTTP/1.1 200 OK\r\n{date}Content-Length: 5\r\n\r\nhello", "HTTP/1.1 200 OK\r\n\r\nto the end",
        f"HTTP/1.1 429 No\r\nRetry-After: 3\r\nX-Stella-Quota-Limit: 4\r\nContent-Length: {len(error)}\r\n\r\n{error}",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n1\r\n!\r\n0\r\nT: x\r\n\r\n",
        "HTTP/1.1 103 Early\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "HTTP/1.0 204 No\r\n\r\n",
        "HTTP/1.1 503 No\r\nRetry-After: Wed, 29 Oct 2025 13:42:11 -0000\r\nX: a\r\n b\r\n\r\n<html>", "\x16\x03\x01",
        "HTTP/1.1 302 Go\r\nLocation: //other.example/x?y#z\r\nSet-Cookie: a=b\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\n" + "A: b\r\n" * 120 + "\r\n", "HTTP/1.1 100 C\r\n\r\n" * 20,
    )  # fmt: skip
    return [head.encode("latin-1") for head in heads]


@reader("header fields", words='bytes - / * , ; " W/ =: sha-256=: sha256: multipart/byteranges gzip \xb2 \u0663 0 00 -1 +1')
def read_fields(data: bytes) -> None:
    text = field_of(data)
    fields = text.split("\n")
    stella.parse_length(text)
    stella.is_strong(text)
    span = stella.parse_content_range(text)
    assert span is None or 0 <= span[0] <= span[1]
    names = ("content-range", "content-length", "etag", "content-type", "content-encoding", "repr-digest", "x-export-digest")
    headers = dict(zip(names, fields))
    assert len(stella.header_digest(headers)) in (0, 64)
    for status in (200, 206, 416, 404):
        for start, end in ((0, None), (5, None), (5, 9)):
            plan = stella.decide_answer(start, end, stella.Expected(20, "", '"e"'), status, headers)
            if plan.action == "take" and status == 206:
                assert plan.start == start
                assert start + plan.length <= (20 if end is None else end)


@seeds(read_fields)
def field_seeds() -> Sequence[str]:
    digest = "sha-256=:" + base64.b64encode(bytes(32)).decode() + ":"
    return (
        'bytes 5-19/20\n15\n"e"\napplication/zstd', "bytes 5-8/20\n4", "bytes */20\n0", "bytes 5-8/*", "20", 'W/"e"', '"e"',
        f"\n20\n\n\nidentity\n{digest}\nsha256:" + "0" * 64, f"x\n\n\n\n\nmd5=:x:, {digest}", "\n\n\nmultipart/byteranges",
    )  # fmt: skip


@reader("dates", words="Mon, Wed, 29 Oct 2025 13:42:11 GMT -0000 +9999 EST 0000 99999 : ( ) \xb2 - + , AM")
def read_date(data: bytes) -> None:
    text = field_of(data)
    assert 0 <= client().retry_after({"retry-after": text}) < 1e18
    stella.skew_hint(text, 1.7e9)
    stella.parse_http_date(text)


@seeds(read_date)
def date_seeds() -> Sequence[str]:
    return (
        "Wed, 29 Oct 2025 13:42:11 GMT", "Wednesday, 29-Oct-25 13:42:11 GMT", "Wed Oct 29 13:42:11 2025", "120", "9" * 30,
        "Wed, 29 Oct 2025 13:42:11 -0000", "Wed, 29 Oct 9999 23:59:60 +2400", "29 Oct 0001 00:00 -9999", "1 Jan 0 0:0:0 GMT",
    )  # fmt: skip


class Realm:
    """A gateway's HTTP that answers every question for a token."""

    def is_gateway(self, url: stella.Url) -> bool:
        return bool(stella.Http.is_gateway(client(), url))

    def fetch(self, request: stella.Request, consume: Any, take: Any = ()) -> Any:
        assert request.anonymous
        assert 200 not in take
        assert not self.is_gateway(request.url)
        assert request.url.target.isprintable()
        assert request.url.target.isascii()
        return {"token": "x"}


@reader("registry challenges", stella.ProtocolError, words='Bearer realm=" service=" scope=" error=" https:// http:// ", @ ? & # %')
def read_challenge(data: bytes) -> None:
    stella.fetch_registry_token(Realm(), OTHER, field_of(data), "e/acme")


@seeds(read_challenge)
def challenge_seeds() -> Sequence[str]:
    return (
        'Bearer realm="https://auth.example/token?a=b",service="r.example",scope="repository:e/acme:pull"', "Basic x",
        f'Bearer realm="{GATEWAY}"', 'Bearer realm="http://x/"', 'Bearer realm=""', "a" * 50000, 'a="' * 15000, 'a=b="' * 900,
    )  # fmt: skip


@reader("proxy heads", stella.TransportError, stella.ConfigError, words=HEAD_WORDS)
def read_proxy_head(data: bytes) -> None:
    stella.open_tunnel(Peer(data), GATEWAY, {}, "the proxy p")


@seeds(read_proxy_head)
def proxy_seeds() -> Sequence[str]:
    return (
        "HTTP/1.1 200 Connection established\r\nVia: x\r\n\r\n\x16\x03", "HTTP/1.0 407 No\r\nProxy-Authenticate: Basic\r\n\r\n",
        "HTTP/1.1 502 Bad\r\n\r\n", "hello\n\n", "HTTP/1.1 302 Go\nLocation: x\n\n", "HTTP/2 200\r\n\r\n", "A: b\r\n" * 300,
    )  # fmt: skip


@reader("chunks", http.client.HTTPException, words="\r\n \n 0 5 ; ;x=y ffffffffffffffff -1 +5 0x5 5_0 g \r")
def read_chunks(data: bytes) -> None:
    whole, decoder = stella.ChunkDecoder(), stella.ChunkDecoder()
    taken = outcome(whole.feed, data, errors=(http.client.HTTPException,))
    payload = b"".join(decoder.feed(piece) for piece in pieces_of(data) if not decoder.ended)
    if taken[0] == "value":
        assert (taken[1], whole.ended) == (payload, decoder.ended), "however it is cut"


@seeds(read_chunks)
def chunk_seeds() -> Sequence[str]:
    return (
        "5\r\nhello\r\n1;a=b\r\n!\r\n0\r\n\r\n", "a\nhelloworld\r\n0\n\n", "FF\r\n" + "x" * 255 + "\r\n", "0\r\nT: x\r\n\r\n",
        "fffffffffffffff\r\nx", "1\r\nxyz", ";" * 20000,
    )  # fmt: skip


@reader("traceparents", words="00- -01 ff- 01- - 0000")
def read_traceparent(data: bytes) -> None:
    assert re.fullmatch("[0-9a-f]{32}", stella.Http._trace_id(words_of(data)))


@seeds(read_traceparent)
def traceparent_seeds() -> Sequence[str]:
    return ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "01-" + "a" * 32 + "-" + "b" * 16 + "-00-more", "0" * 99)


# ---- places


URL_WORDS = "http:// https:// // @ : :443 :0 :65536 [::1] [ ] / ? # % %2e .. . \\ \t xn-- \u2100 \uff0e \u3002 é \u202e"


@reader("URLs", ValueError, words=URL_WORDS)
def read_url(data: bytes) -> None:
    text = words_of(data)
    outcome(check_url, stella.resolve_url, GATEWAY, text)
    outcome(check_url, stella.resolve_url, OTHER, field_of(data))
    check_url(stella.parse_url, text)


def check_url(read: Any, *arguments: Any) -> None:
    url = read(*arguments)
    whole = f"{url.scheme}://{url.authority}{url.target}"
    assert whole.isascii()
    assert whole.isprintable()
    assert " " not in whole
    again = stella.parse_url(whole)
    assert (again.origin, again.target) == (url.origin, url.target), "one reading"
    assert "?" not in str(url)
    assert 0 < url.port < 65536
    stella.is_loopback(url.host)
    for entry in ("a.example", "10.0.0.0/8", "[::1]:80", ".", "1/2"):
        stella.is_listed(url, entry)


URLS = (
    "https://gateway.example:8443/a/b?c=d&e=%2f", "http://[::1]:80/", "HTTPS://Bücher.Example", "//other.example/x",
    "/a/../b/./c", "?q=1", "https://u:p@h/", "https://h:99999", "https://a..b", "https://" + "a." * 130, "../" * 2000,
    "https://" + "é" * 3000, "https://127.0.0.1\\@evil", "javascript:alert(1)", "https://h/\u202e",
)  # fmt: skip


@seeds(read_url)
def url_seeds() -> Sequence[str]:
    return URLS


@reader("proxies", stella.ConfigError, words=URL_WORDS + " , * .example /8 /129 socks5://")
def read_proxy(data: bytes) -> None:
    proxy, _, exceptions = words_of(data).partition("\n")
    config = stella.load_config({}, {"HTTPS_PROXY": proxy, "NO_PROXY": exceptions})
    for secret in config.secrets():
        assert len(secret) >= stella.MIN_SECRET_CHARACTERS
    found = stella.choose_proxy(GATEWAY, config)
    if found is not None:
        value = stella.proxy_authorization(config, "https").get("Proxy-Authorization", "")
        assert not set("\r\n") & set(value)


@seeds(read_proxy)
def proxy_url_seeds() -> Sequence[str]:
    return (
        "http://u:p%40@proxy.example:3128\nlocalhost,.example.org,10.0.0.0/8,[::1],2001:db8::/32", "proxy:1\n*", "[::1]:3128",
        "socks5://p:1", "http://a:b@c@d:1/x\ngateway.example:8443", "http://p\n" + "a," * 200, "@\n1/2/3", "\n1.2.3.4/33,::/999",
    )  # fmt: skip


@reader("registry references", ValueError, words=": / @ @sha256: . - _ __ :5000 [::1] A latest % ?")
def read_reference(data: bytes) -> None:
    url, name = stella.parse_oci_ref(words_of(data))
    assert url.target.startswith(f"/v2/{name}/manifests/")
    assert ".." not in url.target.split("/")


@seeds(read_reference)
def reference_seeds() -> Sequence[str]:
    return (
        "registry.example:5000/exports/acme:run-1", "127.0.0.1:1/a/b@sha256:" + "0" * 64, "[::1]:5000/x/y:z", "a/b", "a/" + "b." * 3000,
        "registry.example/a__b--c/d.e:tag@sha256:" + "f" * 64, "../x:y", "a/b:" + "t" * 200,
    )  # fmt: skip


# ---- archives


def repaired(data: bytes) -> bytes:
    """The same with right checksums: else no change to a header would be looked at any further."""
    blocks = [data[at : at + 512] for at in range(0, len(data), 512)]
    for index, block in enumerate(blocks):
        if len(block) == 512 and block[257:262] == b"ustar":
            total = sum(block) - sum(block[148:156]) + 8 * 32
            blocks[index] = block[:148] + b"%06o\0 " % total + block[156:]
    return b"".join(blocks)


def filler(data: bytes) -> Callable[[memoryview], int]:
    stream = io.BytesIO(data)
    return stream.readinto


def members_of(data: bytes) -> list[tuple[str, int]]:
    stream = stella.TarStream(filler(data), 1 << 24)
    found = []
    for path, size in stella.read_members(stream):
        stella.hash_member(stream, path, size, hashlib.sha256())
        stream.take(-size % 512)
        found.append((path, size))
    return found


@reader("tar", stella.ArchiveError, words="\x00 ustar ustar\x0000 / .. ../ 20 path= size= x g L 0 7777777 \u202e \\")
def read_tar(data: bytes) -> None:
    for bundle in (data, repaired(data)):
        check = stella.check_members({path: (len(body), attacks.sha256(body)) for path, body in attacks.MEMBERS},
                                     filler(bundle), hashlib.sha256)  # fmt: skip
        assert check.status in ("pass", "fail")
        members = outcome(members_of, bundle, errors=(stella.ArchiveError,))
        if members[0] == "value" and members[1] and len({path for path, _ in members[1]}) == len(members[1]):
            with tarfile.open(fileobj=io.BytesIO(bundle), mode="r:") as archive:
                assert [(info.name, info.size) for info in archive if info.isreg()] == members[1], "tarfile reads the same"


@seeds(read_tar)
def tar_seeds() -> Sequence[bytes]:
    long = ("data/" + "n" * 120, b"x" * 10)
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, data in (long, ("data/ü.json", b"{}"), ("a" * 60 + "/" + "b" * 60, b"")):
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(data), 1.5
            archive.addfile(info, io.BytesIO(data))
    small = (("data/a", b"1"), ("b", b""))
    return (
        attacks.tar(), attacks.tar(small), made.getvalue()[:6144], attacks.pax(path="x/y", size="3") + attacks.tar([("z", b"123")]),
        attacks.pax(b"g", comment="c") + attacks.tar(small), attacks.tar(small) + bytes(8192), attacks.tar_member("l", b"", b"2"),
        attacks.tar_member("a", b"1", prefix=b"p/q") + attacks.END, attacks.tar_member("g", b"1", magic=b"ustar  \0") + attacks.END,
    )  # fmt: skip


@functools.cache
def scratch() -> Path:
    return Path(tempfile.mkstemp(prefix="stella-fuzz-")[1])


@reader("gzip", stella.ArchiveError, words="\x1f\x8b\x08 \x00 \xff", slow=8)
def read_gzip(data: bytes) -> None:
    scratch().write_bytes(b"\x1f\x8b" + data)
    source = stella.ArchiveSource(str(scratch()), stella.load_config({}, {}))
    try:
        view = memoryview(bytearray(stella.TAR_BUFFER_BYTES))
        turns = 0
        while source.fill(view) and turns < 20:
            turns += 1
        assert source.facts() == (len(data) + 2, hashlib.sha256(b"\x1f\x8b" + data).hexdigest())
    finally:
        source.close()


@seeds(read_gzip)
def gzip_seeds() -> Sequence[bytes]:
    small = gzip.compress(b"hello" * 50, mtime=0)
    return [data[2:] for data in (small, small + small, gzip.compress(b"", mtime=0), gzip.compress(bytes(100000), mtime=0))]


# ---- keys and signatures


@reader("ECDSA signatures", ValueError, words="\x30 \x02 \x00 \x80 \x81 \x82 \xff")
def read_ecdsa(data: bytes) -> None:
    r, s = stella.parse_ecdsa_signature(data)
    body = b"".join(der(2, number.to_bytes(number.bit_length() // 8 + 1, "big")) for number in (r, s))
    assert der(0x30, body) == data, "one encoding"


def der(tag: int, body: bytes) -> bytes:
    size = len(body)
    count = (size.bit_length() + 7) // 8
    return bytes([tag]) + (bytes([size]) if size < 128 else bytes([0x80 | count]) + size.to_bytes(count, "big")) + body


KINDS = ("P-256", "P-384", "P-521", "RSA", "Ed25519")


@seeds(read_ecdsa)
def ecdsa_seeds() -> Sequence[bytes]:
    large = der(2, b"\x7f" * 300)
    return [*(attacks.sign(b"x", kind) for kind in KINDS[:3]), der(0x30, large * 2), der(0x30, der(2, b"\1") * 2), b""]


def spki_of(kind: str) -> bytes:
    return base64.b64decode(b"".join(attacks.public_key(kind).splitlines()[1:-1]))


@reader("public keys", ValueError, words="\x30 \x06 \x03 \x00 \x04 \x05\x00 \x81 \x82 \x03\x01\x00\x01")
def read_key(data: bytes) -> None:
    """The bytes as a file, and as the DER in a PEM."""
    outcome(stella.parse_public_key, data)
    pem = b"-----BEGIN PUBLIC KEY-----\n" + base64.encodebytes(data) + b"-----END PUBLIC KEY-----\n"
    key = stella.parse_public_key(pem)
    assert key.der == data
    assert stella.parse_public_key(key.pem).numbers == key.numbers


@seeds(read_key)
def key_seeds() -> Sequence[bytes]:
    kinds = (*KINDS, "secp256k1", "RSA-1024", "Ed448", "explicit")
    return [*(spki_of(kind) for kind in kinds), attacks.public_key("P-256"), attacks.private_key("P-256")]


@functools.cache
def keys() -> list[stella.PublicKey]:
    return [stella.parse_public_key(attacks.public_key(kind)) for kind in KINDS]


@reader("signatures", ValueError, words='= == \n \r\n { } " mediaType messageSignature signature digest SHA2_256 publicKey null []')
def read_signature(data: bytes) -> None:
    for key in keys():
        raw = outcome(stella.parse_signature, data, key, SHA256)
        if raw[0] == "value" and key.kind == "P-256" and len(data) % 7 == 0:
            stella.verify_p256(key.numbers, bytes(32), *stella.parse_ecdsa_signature(raw[1]))
    text = stella.parse_sigstore_bundle(data, SHA256)
    assert text.isascii()


@seeds(read_signature)
def signature_seeds() -> Sequence[bytes]:
    raws = [attacks.sign(b"x", kind) for kind in KINDS]
    bundle = stella.make_sigstore_bundle(raws[0], SHA256)
    return [
        *(base64.b64encode(raw) for raw in raws), base64.encodebytes(raws[3]), bundle, b"", b"{}",
        b'{"base64Signature": "%s"}' % base64.b64encode(raws[0]), bundle.replace(b'"hint": ""', b'"hint": "", "x": 1'),
    ]  # fmt: skip


# ---- documents


@reader("signed documents", stella.ValidationError, words='subject subjects digest sha256 sha-256 name size path null "" [] {} -1 1e5')
def read_signed(data: bytes) -> None:
    first, _, second = data.partition(b"\n")
    manifest, provenance = (stella.parse_object(text, "the document") for text in (first, second))
    for pair in ((manifest, provenance), (manifest, None), (None, provenance)):
        checks = [
            *stella.check_schema(*pair, []), stella.check_run_id("r", *pair), stella.check_bundle_digest(*pair),
            stella.check_manifest_digest(pair[1], SHA256), stella.check_bundle(pair[0], 3, SHA256),
            stella.check_age(pair[0], 30, 1.7e9),
        ]  # fmt: skip
        assert {check.status for check in checks} <= {"pass", "fail", "skipped"}
    outcome(stella.read_subjects, provenance)
    outcome(stella.read_bundle_facts, manifest)
    outcome(stella.read_artifacts, manifest)


@seeds(read_signed)
def signed_seeds() -> Sequence[bytes]:
    files = attacks.Kit().files()
    return [files["export.json"] + b"\n" + files["provenance.json"], b"{}\n{}", b'{"artifacts": [{}]}\n{"subject": [{}]}']


DOCUMENT = {
    "runId": "r", "profileId": "p", "status": "running", "createdAt": "2025-10-29T13:42:11Z", "name": "n",
    "progress": {"percent": 37.5, "phase": "a", "processed": 1, "total": 3}, "error": {"code": "c", "message": "m"},
    "bundle": {"name": "export.tar", "size": 3, "sha256": "0" * 64}, "selectors": {"tenants": ["a"]}, "revision": 3,
    "distribution": [{"type": "oci", "ref": "r/a:1"}, {"bucket": "b", "key": "k"}, "http"], "encryption": {"mode": "none"},
    "links": {"download": "/d"}, "details": ["a", {"path": "/x", "message": "y"}], "message": "m", "code": "ERR_EXPORT_001",
    "done": [[0, 5], [7, 9]], "size": 20, "etag": '"e"', "include": ["vex"],
}  # fmt: skip


@reader("documents", stella.ValidationError, stella.StellaError, words='null true [] {} "" -1 1e400 1e5 99999999999999999999 "\\u001b[2J"')
def read_document(data: bytes) -> None:
    """What a gateway's documents become on their way to a person."""
    document = stella.parse_object(data, "the answer", keep_numbers=True)
    for line in (*stella.run_view(document), *stella.profile_view(document)):
        assert all(map(stella.is_visible, line)), line
    stella.decide_failure(500, {}, data, GATEWAY)
    stella.outcome_text("r", stella.as_text(document.get("status")), document)
    for expected in (stella.Expected(20, ""), stella.Expected(None, "0" * 64), stella.Expected(7, "")):
        spans, _ = stella.decide_resume(10, document, expected)
        assert all(0 <= start < end <= 10 for start, end in spans)
        pieces = stella.cut_pieces(stella.find_gaps(spans, 10), 3)
        assert sum(end - start for start, end in (*spans, *pieces)) == 10
    outcome(stella.query_value, document, "progress.percent", errors=(stella.ValidationError,))
    outcome(stella.raise_for_status, "r", stella.as_text(document.get("status")), document, errors=(stella.StellaError,))
    stella.Gateway(client()).link(document, "download")
    stella.check_profile(document, "x")


@seeds(read_document)
def document_seeds() -> Sequence[str]:
    return (json.dumps(DOCUMENT), json.dumps({**DOCUMENT, "status": "failed"}), '{"status": 1, "bundle": []}', "{}")


@reader("profiles", stella.ValidationError, words='name kind variant json raw trivy db days:14 days:0 zstd [] {} null "" mode none')
def read_profile(data: bytes) -> None:
    profile = stella.check_profile(stella.parse_object(data, "the profile"), "the profile")
    assert {"name", "kind", "variant", "distribution"} <= set(profile)


@seeds(read_profile)
def profile_seeds() -> Sequence[str]:
    good = {"name": "n", "kind": "json", "variant": "raw", "distribution": ["http"], "include": ["vex"], "retention": "days:14"}
    full = {**good, "encryption": {"mode": "age", "recipients": ["a"]}, "metadata": {"a": "b"}, "revision": 3, "links": {}}
    return (json.dumps(good), json.dumps(full), '{"name": "' + "x" * 200 + '"}', "{}")


# ---- settings and the command line


@reader("flat TOML", ValueError, words="= \" ' # \\ \\n \\u0041 true false 1_0 0x1 1e5 -0 +1 [a] a.b \t \r\n \r \x7f \"\"\" inf nan")
def read_toml(data: bytes) -> None:
    text = data.decode("utf-8")
    flat = stella.parse_flat_toml(text)
    if sys.version_info >= (3, 11):
        import tomllib

        assert repr(outcome(tomllib.loads, text)) == repr(("value", flat)), "tomllib reads the same"


@seeds(read_toml)
def toml_seeds() -> Sequence[str]:
    return (
        'server = "https://h"\n# c\ntoken = \'x\' # y\nretries = 5\ntimeout = 1.5e1\ntls_strict = false\n', "a=1\r\nb=2\n", 'a = "\\t\\\\"',
        "a = -0.0\nb = +7\nc = 1e400\n", '"a" = 1', "a = 1\na = 2", 'a = "' + "x" * 5000 + '"', "a = " + "1" * 5000, "\ufeffa = 1",
    )  # fmt: skip


@reader("selectors and times", stella.ValidationError, words="tenant= product= sbom= time= , 2025-10-01T00:00:00Z +23:59 -00:00 .5 60 t z")
def read_selectors(data: bytes) -> None:
    lines = words_of(data).split("\n")
    for line in lines:
        moment = outcome(stella.parse_time, line, errors=(stella.ValidationError,))
        assert moment[0] == "error" or -1e11 < moment[1] < 1e12
        assert all(map(stella.is_visible, stella.time_text(line))) or line == stella.time_text(line)
        outcome(stella.parse_bool, line)
    stella.split_words(lines)
    selectors = stella.parse_selectors(lines)
    assert selectors


@seeds(read_selectors)
def selector_seeds() -> Sequence[str]:
    return (
        "tenant=acme\nproduct=registry.example/app:*\nsbom=s\ntime=2025-10-01T00:00:00Z,2025-10-02T00:00:00+02:00", "time=,", "x", "=",
        "time=2025-12-31T23:59:60.123456789Z,", "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:60-23:59", "2025-02-30T00:00:00Z", "true",
    )  # fmt: skip


@reader("names and texts", stella.ValidationError, words="/ \\ .. . - \x00 \x1b[2J \u202e \u200b \ud83d con aux com1 lpt9 nul : * ~ %2e eyJ :// ?", slow=3)
def read_texts(data: bytes) -> None:
    text = words_of(data)
    shown = stella.printable(text)
    assert all(map(stella.is_visible, shown))
    name = stella.safe_name(text)
    assert len(name.encode()) <= 201
    assert not name or (name[0] not in ".-" and not set(name) & set('/\\\0:*?"<>|') and name == name.strip())
    assert stella.text_width(stella.clip_text(shown, 20)) <= 20
    assert stella.quote_json(text) == json.encoder.encode_basestring(text)
    stella.parse_digest(text)
    stella.shell_word(text)
    console = stella.Console()
    console.secrets = ("tr0ub4dor&3-secret",)
    assert "tr0ub4dor&3-" not in console.redacted(text)
    outcome(stella.query_value, {"a": [1]}, text, errors=(stella.ValidationError,))
    segment = stella.encode_id(text, "run")
    assert re.fullmatch(r"[A-Za-z0-9._~%-]+", segment)
    assert segment not in (".", "..")


@seeds(read_texts)
def text_seeds() -> Sequence[str]:
    return (
        "run-20251029-01", "../../etc/passwd", "export.tar.zst", "\u202egpj.exe", "con.tar", ".part", "-rf", "a" * 600, "é" * 300,
        "x tr0ub4dor&3-secret y tr0ub4dor&3-s", "https://h/x?sig=1 eyJhbGciOiJFUzI1NiJ9.e30.x", "\u4e2d\u6587" * 40, "0.a.b", "",
    )  # fmt: skip


@reader("command lines", stella.StellaError, words="export run ls profile --profile --server --tail --format json -- -h --query= - --x --")
def read_command_line(data: bytes) -> None:
    words, options, rest = stella.split_argv(words_of(data).split("\n"))
    command = next((row for row in stella.COMMANDS if row.words == words), None)
    if command is not None:
        stella.parse_command(command, options, rest)


@seeds(read_command_line)
def command_line_seeds() -> Sequence[str]:
    lines = [line for command in stella.COMMANDS for line in command.examples]
    return ["\n".join(line.replace("stella ", "", 1).split()) for line in lines]


# ---- the machine

# (operation, where, how much, piece): where and how much are taken modulo what there is.
Edit = tuple[int, int, int, bytes]
OPERATIONS = 9
TOKEN = re.compile(rb'"[^"\\]*"|-?[0-9][0-9.eE+-]*|true|false|null|\[\]|\{\}')
OTHERS = (b"null", b"true", b"[]", b"{}", b'""', b"0", b"-1", b"1.5", b"1e400", b"9" * 400, b"[[[]]]", b'{"a": 1}', b'["x"]',
          b'"text\\u001b[31m"', b'"\\ud83d"', b'"../x"')  # fmt: skip


def edited(of: Reader, first: int, edits: Sequence[Edit]) -> bytes:
    """A seed with edits made, one after the other."""
    data = of.seeds[first % len(of.seeds)]
    for operation, where, size, piece in edits:
        at = where % (len(data) + 1)
        some = size % 40
        if operation == 0:
            data = data[:at] + piece + data[at:]
        elif operation == 1:
            data = data[:at] + piece + data[at + len(piece) :]
        elif operation == 2:
            data = data[:at] + data[at + some :]
        elif operation == 3:
            data = data[: at + some] + data[at:]
        elif operation == 4:
            data = data[:at]
        elif operation == 5:
            data = data[:at] + of.seeds[size % len(of.seeds)][at:]
        elif operation == 6:
            data = data[:at] + bytes([data[at] ^ 1 << size % 8]) + data[at + 1 :] if at < len(data) else data
        elif operation == 7:  # a value of another kind
            there = list(TOKEN.finditer(data))
            if there:
                token = there[where % len(there)]
                data = data[: token.start()] + OTHERS[size % len(OTHERS)] + data[token.end() :]
        else:  # something that is there, again and again
            again = piece or data[at : at + 1 + size % 8]
            data = data[:at] + again * (size % (20000 // (len(again) + 1) + 1)) + data[at:]
    return data[:MAX_INPUT_BYTES]


def some_edits(chance: random.Random, words: Sequence[bytes]) -> Iterator[Edit]:
    for _ in range(chance.choice((1, 1, 1, 2, 2, 3, 5))):
        operation = chance.choice((0, 0, 1, 1, 2, 2, 3, 4, 5, 6, 6, 7, 7, 7)) if chance.random() > 0.02 else 8
        piece = chance.choice(words) if words and chance.random() < 0.6 else chance.getrandbits(24).to_bytes(3, "big")
        yield operation, chance.getrandbits(32), chance.getrandbits(32), piece[: chance.choice((1, 2, 99))]


def judge(name: str, data: bytes) -> float:
    """Feeds one input; AssertionError where a reader raises what it may not or takes too long. Gives its seconds."""
    of = READERS[name]
    started = time.thread_time()
    try:
        of.read(data)
    except of.allowed:
        pass
    except Exception as error:
        raise AssertionError(f"{name}: {type(error).__name__}: {error}: {data[:2000]!r}") from error
    seconds = time.thread_time() - started
    assert seconds < LIMIT_SECONDS, f"{name}: {seconds:.1f} s: {data[:2000]!r}"
    return seconds


def run(name: str, count: int, seed: int) -> tuple[float, bytes]:
    """So many inputs for one reader; the slowest one, and how long it took."""
    of, chance, slowest = READERS[name], random.Random(f"{name} {seed}"), (0.0, b"")
    for _ in range(-(-count // of.slow)):
        data = edited(of, chance.getrandbits(16), list(some_edits(chance, of.words)))
        slowest = max(slowest, (judge(name, data), data))
    return slowest


def main(words: list[str]) -> int:
    """Inputs by hand: their number, and the seed (else the clock's)."""
    count, seed = int(words[0]), int(words[1]) if len(words) > 1 else int(time.time())
    shares = sum(1 / of.slow for of in READERS.values())
    print(f"{len(READERS)} readers on Python {sys.version.split()[0]}, seed {seed}", flush=True)
    total, faults = 0, 0
    for name, of in READERS.items():
        started, done, slowest = time.monotonic(), 0, 0.0
        while done * of.slow * shares < count:  # a fault ends its batch, not the run
            done += -(-1000 // of.slow)
            try:
                slowest = max(slowest, run(name, 1000, seed + done)[0], *(judge(name, data) for data in of.seeds))
            except AssertionError as fault:
                faults += 1
                print(f"  FAULT {fault}", flush=True)
        total += done
        print(f"  {name}: {done} inputs in {time.monotonic() - started:.1f} s, the slowest {slowest:.3f} s", flush=True)
    scratch().unlink()
    print(f"{total} inputs, {faults} faults")
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
