#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""stella: command-line client of the Export Center, in one file, on the standard library alone.

It manages export profiles, submits and watches runs, downloads bundles over bad links, and proves
offline that what arrived is what was signed. Copy this file to a host with Python 3.9 or newer and run
`python3 stella.py --help`.

Everything it can touch:

  hosts        the gateway (--server); the object store (STELLA_EXPORT_OBJECT_ENDPOINT); the registries
               that a run's `oci` descriptors name; the hosts a redirect or a token challenge of those
               names; the proxy that the environment names. Credentials go to the gateway alone; with
               --allow-http a proxy in between reads the whole request, the token too.
               `verify` never calls the gateway, and with --offline nothing at all.
  files read   ~/.stella/profiles/NAME.toml; the token, key, certificate and CA files that a setting
               names, else the system's CAs; the files named on the command line; standard input where
               `-` is allowed. README, Security, has all of this in full.
  files written  what --output, --signature and a download name: NAME whole or not at all, with
               .NAME.*.tmp, NAME.part and NAME.part.json[.tmp] beside it while at work; a private folder
               under the system's temporary folder while a verifier program runs.
  programs     cosign, zstd, openssl: from STELLA_COSIGN, STELLA_ZSTD, STELLA_OPENSSL, else vendor/
               beside this file, else PATH. No shell.
  environment  STELLA_SERVER STELLA_TENANT STELLA_TOKEN STELLA_PROFILE STELLA_EXPORT_OBJECT_ENDPOINT
               STELLA_DPOP_KEY STELLA_COSIGN STELLA_ZSTD STELLA_OPENSSL SSL_CERT_FILE
               REQUESTS_CA_BUNDLE CURL_CA_BUNDLE HTTPS_PROXY HTTP_PROXY NO_PROXY (the last three in
               lower case too) TRACEPARENT NO_COLOR TERM COLUMNS HOME PATH; and of those, PATH alone goes
               on to a program, with LD_LIBRARY_PATH SYSTEMROOT TMPDIR TEMP TMP.

Rooms, leaf to root: 1 header, 2 constants and limits, 3 errors, 4 untrusted input, 5 event stream,
6 resume, 7 verification, 8 configuration, 9 terminal, 10 files, 11 programs, 12 HTTP, 13 gateway,
14 operations, 15 commands, 16 entry. `contract N` in a comment is a section of the page that client and
test gateway were written from: 1 configuration, 2 HTTP, 3 documents, 4 commands, 5 exit codes.
tests/test_source.py holds the file to this list and these rooms.
"""

from __future__ import annotations

import sys

if sys.version_info < (3, 9):  # the file still compiles on 3.7 and 3.8, so that this line can be read
    sys.stderr.write("stella: this is Python %d.%d, and stella needs 3.9 or newer\n" % sys.version_info[:2])
    raise SystemExit(30)

# Run as a script, Python looks for modules beside it first: not what somebody put there under such a name.
if __name__ == "__main__" and not (sys.flags.isolated or getattr(sys.flags, "safe_path", False)):
    del sys.path[:1]

import os

TYPE_CHECKING = False  # spelled out, because importing typing costs as much as starting Python
if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
    from typing import Any, BinaryIO, NoReturn

    Json = Any  # what a JSON reader gives
    Document = dict[str, Any]  # a JSON object
    Origin = tuple[str, str, int]  # scheme, lower-case host, port
    Span = tuple[int, int]  # the bytes from the first up to, and without, the second


# ==================================================================================================
# Room 2. Constants and limits
#
# Every bound has its reason here. A hostile or broken server can make stella stop with a clear error;
# it cannot make it grow without end or wait in silence without end.
# ==================================================================================================

VERSION = "0.22.0"  # the first CLI version that the guide supports

EXIT_OK = 0
EXIT_UNEXPECTED = 1  # unexpected answer or local I/O error
EXIT_USAGE = 2  # argparse's own
EXIT_VALIDATION = 10
EXIT_MISSING = 11
EXIT_QUOTA = 12
EXIT_RUN_FAILED = 13
EXIT_DEADLINE = 14
EXIT_VERIFICATION = 20
EXIT_NETWORK = 21
EXIT_CONFIG = 30

EXIT_MEANINGS = {
    EXIT_OK: "it worked",
    EXIT_UNEXPECTED: "unexpected answer or local I/O error",
    EXIT_USAGE: "usage: unknown option, missing argument, or a value that it does not take",
    EXIT_VALIDATION: "validation error (ERR_EXPORT_001, 400, 422, or found locally)",
    EXIT_MISSING: "profile or run missing or inaccessible (ERR_EXPORT_002, 403, 404, 410)",
    EXIT_QUOTA: "quota or concurrency exceeded (ERR_EXPORT_003, ERR_EXPORT_QUOTA, 409, 412, 429)",
    EXIT_RUN_FAILED: "the run failed, was cancelled or expired (ERR_EXPORT_004, _005, _006)",
    EXIT_DEADLINE: "the run was still active when --deadline passed",
    EXIT_VERIFICATION: "verification failure",
    EXIT_NETWORK: "download incomplete, or gateway unreachable, after retries",
    EXIT_CONFIG: "configuration: token missing or rejected, profile or input file, verifier, TLS trust",
}

KIB = 1024
MIB = 1024 * KIB
MAX_JSON_BYTES = 64 * MIB  # contract 2: a larger JSON answer is refused
MAX_JSON_DEPTH = 64  # the documents need 6; deeper nesting only serves to exhaust a stack
MAX_JSON_FORMS = 1000  # remembered pieces and keys of JSON text, so that an odd list cannot fill the memory
MAX_INT_DIGITS = 4000  # Python 3.11 refuses to convert more than 4300, older ones take quadratic time
MAX_ERROR_BYTES = 4 * MIB  # of an error body, which may list a problem for each line of a profile
MIN_BYTES_PER_SECOND = 10  # of a document, once twice the timeout has passed
MAX_ERROR_DETAILS = 50  # lines of an error's details that are shown
MAX_ERROR_CHARACTERS = 4 * KIB  # of a line of an error, which may quote any document
MAX_ERROR_TEXT = 1000  # characters of a server's message; of its code and trace id a tenth
MAX_HEADERS = 100  # of one answer, and trailers; http.client has the same bound for headers
MAX_HEADER_BYTES = 256 * KIB  # of one answer's headers together
MAX_PROXY_HEAD_BYTES = 16 * KIB  # of a proxy's answer to CONNECT
MAX_REF_CHARACTERS = 1024  # of a registry reference; host, name and tag have at most 253, 255 and 128
MAX_SIGNATURE_BYTES = MIB  # a Sigstore bundle with a log proof has about 10 KiB
MAX_KEY_BYTES = 64 * KIB
MAX_CONFIG_BYTES = MIB  # of a saved-defaults or token file
MAX_PROFILE_BYTES = MIB  # of an export profile; real ones have 1 KiB
MIN_SECRET_CHARACTERS = 6  # shorter ones are not searched for in what is printed
CUT_SECRET_CHARACTERS = 12  # so much of a longer one is known again where a message was cut
MAX_EVENT_LINE_BYTES = MIB
MAX_EVENT_BYTES = 4 * MIB  # of one event, all its lines together
MAX_CHUNK_LINE_BYTES = 16 * KIB  # the size of a chunk and its extensions
MAX_SEEN_EVENTS = 65536  # at least so many are remembered, so that a replay shows nothing twice
MAX_REDIRECTS = 5
MAX_INTERIM_ANSWERS = 16  # 1xx answers before the final one
MAX_PAGES = 100000  # of one list, 200 items each
MAX_EMPTY_PAGES = 100  # in a row
MAX_PAX_BYTES = 16 * KIB  # of one extended tar header; a path has at most 4096
MAX_TAR_PADDING_BYTES = MIB  # zero blocks after the end-of-archive mark; tar pads to 10 KiB
MAX_WINDOW_BYTES = 128 * MIB  # of a zstd frame: more than this zstd refuses without --long
TAR_BUFFER_BYTES = 256 * KIB  # fits the second-level cache, so that what was just read is hashed from there
CHUNK_BYTES = MIB  # 16 KiB buffers cost twice the time
FILL_SECONDS = 0.2  # a buffer is written when it is full or this old
PARALLEL_BYTES = 64 * MIB  # contract 4, --connections: smaller bundles take one
CONNECTIONS = 4
MAX_CONNECTIONS = 16
PIECE_BYTES = 4 * MIB  # of a bundle fetched by several connections; more where that makes over PIECES of them
MAX_PIECE_BYTES = 64 * MIB
PIECES = 64
SPLIT_BYTES = 2 * MIB  # a rest of at least this much is shared with a connection that has nothing left to do
SLOW_SECONDS, SLOW_RATIO = 2.0, 4.0  # a smaller rest goes to one that has it so much earlier than who is at it
RECORD_SHARE = 10.0  # flushing .part and its sidecar takes at most one such part of the time
AFTERWORD_SECONDS = 2.0  # for the end of a body that should have ended
PAGE_ITEMS = 200
LIST_OBJECTS = 20_000  # before the collector looks for cycles: a page has thousands of objects, and none
RECENT_RUNS = 50
MAX_OPENINGS = 100  # of a .part that another process renames each time
MAX_BACKOFF_SECONDS = 30.0
MAX_RETRY_AFTER_SECONDS = 120.0
TOLD_WAIT_SECONDS = 5.0  # a longer wait before the next attempt is told of
MAX_CLOCK_SKEW_SECONDS = 300.0  # for doctor: tokens are commonly accepted this early or late
SKEW_HINT_SECONDS = 30.0  # after a refused DPoP proof: clocks this far apart are named as the likely cause
MAX_STREAM_RETRY_SECONDS = 30.0
STREAM_IDLE_SECONDS = 45.0  # three heartbeats of 15 s missed
STREAM_CHECK_SECONDS = 60.0  # comments but no event for so long: the run itself is asked whether it has ended
STREAM_CHUNK_BYTES = 64 * KIB  # read at once; an event is given out as soon as it is there, whatever this is
TICK_SECONDS = 1.0  # between redraws of a status line while nothing happens
POLL_SECONDS = 1.0  # the first interval between two questions for the run's state; it grows by half
MAX_POLL_SECONDS = 10.0
LAST_LOOK_SECONDS = 2.0  # for the one question after --deadline: has the run ended meanwhile?
QUIET_SECONDS = 1.0  # `watch --no-follow`: this much silence means that the replay is over,
MAX_REPLAY_SECONDS = 3.0  # and so does this much time while the run is active
MAX_WARNING_CHARACTERS = 1000  # of a run's warning; --json has all of it
PROGRAM_SECONDS = 120.0  # for one cosign or openssl call
PROBE_SECONDS = 10.0  # for doctor's one request; a person waits for it
SCARCE_BYTES = 1024 * MIB  # doctor warns of less room than this
RSA_BITS = (2048, 8192)  # smaller is broken, larger is refused by one verifier or another
CLOCK_SKEW_DAYS = 1.0  # a manifest may be this much from the future
PIPE_BYTES = MIB  # Linux's default of 64 KiB costs a switch of process for each of them

ACTIVE_STATUSES = ("pending", "running")
FINAL_STATUSES = ("succeeded", "failed", "cancelled", "expired")
STATUSES = ("active", *ACTIVE_STATUSES, *FINAL_STATUSES)
MANIFEST_NAME = "export.json"
PROVENANCE_NAME = "provenance.json"


# ==================================================================================================
# Room 3. Errors
#
# One class for each way to fail; the exit code lives on the class, and only `main` maps it. Nothing
# here prints or exits. A message is lower case, without a final stop, and says the cause; the hint
# says what to type next.
# ==================================================================================================


class StellaError(Exception):
    """Base of every error that a user can cause or meet.

    message: one line; details: further lines; hint: what to do next; code and trace_id: the server's.
    """

    exit_code = EXIT_UNEXPECTED

    def __init__(
        self, message: str, details: Iterable[str] = (), hint: str = "", code: str = "", trace_id: str = ""
    ) -> None:
        super().__init__(message)
        self.message = message
        self.details = list(details)
        self.hint = hint
        self.code = code
        self.trace_id = trace_id


class ProtocolError(StellaError):
    """The server answered something that the contract does not know."""


class LocalError(StellaError):
    """A file could not be written: no space, no permission."""


class UsageError(StellaError):
    """The command line does not fit the command."""

    exit_code = EXIT_USAGE


class ValidationError(StellaError):
    """Input that is wrong in itself: selectors, profile documents, ids, query paths."""

    exit_code = EXIT_VALIDATION


class MissingError(StellaError):
    """The profile or run does not exist, or not for this token."""

    exit_code = EXIT_MISSING


class QuotaError(StellaError):
    """Quota, concurrency, or a document that changed under the writer."""

    exit_code = EXIT_QUOTA


class RunFailedError(StellaError):
    """The run ended without success."""

    exit_code = EXIT_RUN_FAILED


class DeadlineError(StellaError):
    """The run is still active after --deadline."""

    exit_code = EXIT_DEADLINE


class VerificationError(StellaError):
    """What arrived is not what was signed."""

    exit_code = EXIT_VERIFICATION


class NetworkError(StellaError):
    """The other side could not be reached, or did not deliver, after all retries."""

    exit_code = EXIT_NETWORK


class ConfigError(StellaError):
    """Token, profile file, verifier or TLS trust on this host."""

    exit_code = EXIT_CONFIG


class Interrupted(BaseException):
    """SIGINT, SIGTERM or SIGHUP; no Exception, so that only `main` and clean-ups see it."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal_number)
        self.signal_number = signal_number


def find_interrupt(error: BaseException | None) -> Interrupted | None:
    """`error`, or what it covers, where that is Ctrl-C: it may come amid a lock or a clean-up, which then fails."""
    while error is not None and not isinstance(error, Interrupted):
        error = error.__context__
    return error


class OutputClosed(BaseException):
    """The reader of standard output went away."""


# ==================================================================================================
# Room 4. Untrusted input
#
# Pure parsers: JSON with limits, times, digests, names, selectors, the profile schema. Bytes or text
# in, values out, ValidationError on anything else. No I/O, no clock, no environment.
# ==================================================================================================


class Number(float):
    """A JSON number that Python would spell differently (1.10, -0, 1e400); `text` is its own spelling."""

    text: str

    def __new__(cls, text: str) -> Number:  # noqa: PYI034 - typing.Self is not free
        number = super().__new__(cls, text)
        number.text = text
        return number


def parse_number(digits: str) -> Json:
    """A JSON number as int or float where Python would spell it the same, else as Number."""
    if len(digits) <= 15 and digits.isdecimal():
        return int(digits)
    whole = digits.lstrip("-").isdecimal()
    if whole and digits != "-0" and len(digits) <= MAX_INT_DIGITS:
        try:
            return int(digits)
        except ValueError:  # PYTHONINTMAXSTRDIGITS is lower
            return Number(digits)
    value = float(digits)
    return value if not whole and repr(value) == digits else Number(digits)


def nests_deeper(value: Json, limit: int) -> bool:
    """True when objects and lists nest deeper than `limit`; a level at a time, so that nothing recurses."""
    level = [value]
    for _ in range(limit + 1):
        level = [node for node in level if node.__class__ is dict or node.__class__ is list]
        if not level:
            return False
        level = [item for node in level for item in (node.values() if node.__class__ is dict else node)]
    return True


def shortened(word: str) -> str:
    """A token of JSON for a message."""
    return word if len(word) < 40 else word[:20] + "..."


def find_json_fault(text: str, keep_numbers: bool) -> tuple[str, int]:
    """What the standard reader would let pass, with its character position: (fault, position)."""
    import json
    import re

    # Python's re takes a hundred bytes for each turn of a repeated group, so a string must be none: its escapes
    # are covered up, as long as they are, and it ends at the next quote.
    covered = text.replace("\\\\", "__").replace('\\"', "__")
    token = r'"[^"]*"|[\[\]{}:,]|-?(?:NaN|Infinity)|-?[0-9][0-9.eE+-]*'
    keys: list[set[str] | None] = []  # of each open object; None for a list
    expect_key = False
    for match in re.finditer(token, covered):
        word = text[match.start() : match.end()]
        if word in "{[":
            keys.append(set() if word == "{" else None)
            if len(keys) > MAX_JSON_DEPTH:
                return "is nested deeper than %d levels" % MAX_JSON_DEPTH, match.start()
        elif word in "}]":
            keys.pop()
        elif word[0] == '"' and expect_key and keys and keys[-1] is not None:
            key = json.loads(word, strict=False)
            if key in keys[-1]:
                return "duplicate key %s" % shortened(word), match.start()
            keys[-1].add(key)
        elif word.endswith(("NaN", "Infinity")):
            return "%s is not JSON" % word, match.start()
        elif word[0] in "-0123456789" and not keep_numbers and abs(float(word)) == float("inf"):
            return "the number %s is too large" % shortened(word), match.start()
        expect_key = word in "{,"
    return "not strict JSON", 0


def decode_json_text(data: bytes, fail: Callable[[str, int, int], ValidationError]) -> str:
    """UTF-8 without a BOM as text; `fail(fault, line, column)` makes the error."""
    if data[:3] == b"\xef\xbb\xbf":
        raise fail("starts with a byte order mark, which JSON does not allow", 1, 1)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        before = data[: error.start]
        column = len(before[before.rfind(b"\n") + 1 :].decode("utf-8")) + 1
        raise fail("is not UTF-8", before.count(b"\n") + 1, column) from None


def parse_json(data: bytes, what: str, keep_numbers: bool = False, plain: bool = False) -> Json:
    """Strict JSON (RFC 8259) from bytes; `what` names the text in errors.

    Refused with line and column: a BOM, invalid UTF-8, duplicate keys, NaN and Infinity, nesting over
    MAX_JSON_DEPTH, and numbers that no float can hold, unless `keep_numbers`, which keeps the spelling
    of every number instead (see Number). `plain`, for long lists, takes numbers, nesting and the last of
    equal keys as Python does: it is a third of the work.
    """
    import json

    def fail(fault: str, line: int, column: int) -> ValidationError:
        return ValidationError("%s: %s (line %d, column %d)" % (what, fault, line, column))

    text = decode_json_text(data, fail)
    faulty = False

    def flag(_: str) -> None:
        nonlocal faulty
        faulty = True

    def parse_pairs(pairs: list[tuple[str, Json]]) -> Document:
        document = dict(pairs)
        if len(document) != len(pairs):
            flag("")
        return document

    def parse_strictly(digits: str) -> Json:
        if abs(float(digits)) == float("inf"):
            flag(digits)
        return parse_number(digits)

    number = parse_number if keep_numbers else parse_strictly
    plain = plain and bool(getattr(sys, "get_int_max_str_digits", int)())  # else a long number takes hours
    hooks: dict[str, Any] = {"object_pairs_hook": parse_pairs, "parse_int": number, "parse_float": number}
    try:
        value = json.loads(text, parse_constant=flag, **({} if plain else hooks))
    except json.JSONDecodeError as error:
        raise fail(error.msg[:1].lower() + error.msg[1:], error.lineno, error.colno) from None
    except ValueError:  # a whole number of thousands of digits
        return parse_json(data, what, keep_numbers=True)
    except RecursionError:  # the standard reader's own limit lies far above ours
        faulty = True
        value = None
    if faulty or (not plain and nests_deeper(value, MAX_JSON_DEPTH)):
        fault, position = find_json_fault(text, keep_numbers)
        raise fail(fault, text.count("\n", 0, position) + 1, position - text.rfind("\n", 0, position))
    return value


class JsonTextError(ValueError):
    """Where the stand-in for json stopped; the fields of json.JSONDecodeError."""

    def __init__(self, msg: str, text: str, position: int) -> None:
        super().__init__(msg)
        self.msg = msg
        self.lineno = text.count("\n", 0, position) + 1
        self.colno = position - text.rfind("\n", 0, position)


def unescape_json(word: str) -> str:
    """The text of a JSON string token (RFC 8259 section 7)."""
    import re

    plain = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}

    def unescape(found: Any) -> str:
        mark = found.group(1)
        return chr(int(mark[1:], 16)) if len(mark) == 5 else plain.get(mark, mark)

    def join(found: Any) -> str:
        high, low = (ord(char) for char in found.group())
        return chr(0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00))

    text = re.sub(r"\\(u[0-9a-fA-F]{4}|.)", unescape, word[1:-1])
    return re.sub("[\ud800-\udbff][\udc00-\udfff]", join, text)


JSON_NAMES = {"true": True, "false": False, "null": None}


class JsonReader:
    """json.loads for a Python without json, stricter: no NaN, RecursionError beyond MAX_JSON_DEPTH, and no string
    with more than 65535 escapes, for which re would take a hundred bytes each.
    """

    def __init__(self, text: str, hooks: Mapping[str, Callable[..., Json]]) -> None:
        import re

        plain, escape = r'[^"\\\x00-\x1f]*', r'\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})'
        string = '"%s(?:%s%s){0,65535}"' % (plain, escape, plain)
        number = r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?"
        self.token = re.compile(r"[ \t\n\r]*(%s|%s|true|false|null|[][{}:,]|\Z)" % (string, number))
        self.text = text
        self.hooks = hooks
        self.position = 0

    def take(self, wanted: str = "") -> str:
        """The next token, one of `wanted` (with blanks between) where given; "" at the end."""
        match = self.token.match(self.text, self.position)
        if match is None or (wanted and match.group(1) not in wanted.split()):
            raise JsonTextError("expecting %s" % (wanted or "a value"), self.text, self.position)
        self.position = match.end()
        return str(match.group(1))

    def read(self, word: str, depth: int) -> Json:
        """The value that begins with this token."""
        if depth > MAX_JSON_DEPTH:
            raise RecursionError
        if word == "[":
            return self.read_items("]", depth)
        if word == "{":
            return self.hooks["object_pairs_hook"](self.read_items("}", depth))
        if word in JSON_NAMES:
            return JSON_NAMES[word]
        if word[:1] == '"':
            return unescape_json(word)
        if word and word not in "]}:,":
            return self.hooks["parse_int" if word.lstrip("-").isdigit() else "parse_float"](word)
        raise JsonTextError("expecting a value", self.text, self.position)

    def read_items(self, closing: str, depth: int) -> list[Json]:
        """What stands between brackets; in an object (name, value)."""
        items: list[Json] = []
        word = self.take()
        while word != closing or items:
            if closing == "]":
                items.append(self.read(word, depth + 1))
            elif word[:1] != '"':
                raise JsonTextError("expecting a name in double quotes", self.text, self.position)
            else:
                self.take(":")
                items.append((unescape_json(word), self.read(self.take(), depth + 1)))
            if self.take(", " + closing) == closing:
                break
            word = self.take()
        return items


def read_json_text(text: str, **hooks: Any) -> Json:
    """json.loads with the hooks that parse_json gives; JsonTextError for what is no JSON."""
    reader = JsonReader(text, {"object_pairs_hook": dict, "parse_int": int, "parse_float": float, **hooks})
    value = reader.read(reader.take(), 0)
    if reader.take():
        raise JsonTextError("extra data", text, reader.position)
    return value


def quote_json(text: str) -> str:
    """A string as JSON, non-ASCII as it is: what json.encoder.encode_basestring gives."""
    import re

    names = {"\\": "\\\\", '"': '\\"', "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t"}

    def escape(found: Any) -> str:
        return names.get(found.group()) or "\\u%04x" % ord(found.group())

    return '"%s"' % re.sub(r'[\\"\x00-\x1f]', escape, text)


def parse_object(data: bytes, what: str, keep_numbers: bool = False, plain: bool = False) -> Document:
    """Strict JSON that must be one object."""
    value = parse_json(data, what, keep_numbers, plain)
    if not isinstance(value, dict):
        raise ValidationError("%s: is not a JSON object" % what)
    return value


def as_list(value: Json) -> list[Json]:
    """A list, or an empty one for anything else: a server's document may have any shape."""
    return value if isinstance(value, list) else []


def as_dict(value: Json) -> Document:
    """An object, or an empty one for anything else."""
    return value if isinstance(value, dict) else {}


def as_text(value: Json) -> str:
    """A string, or "" for anything else."""
    return value if isinstance(value, str) else ""


# Letters, marks and symbols that Python calls printable and that show as nothing (Unicode's
# Default_Ignorable_Code_Point without the controls): they can hide text or make two names look alike.
INVISIBLE = (
    (0x034F, 0x034F), (0x115F, 0x1160), (0x17B4, 0x17B5), (0x180B, 0x180F), (0x2800, 0x2800), (0x3164, 0x3164),
    (0xFE00, 0xFE0F), (0xFFA0, 0xFFA0), (0xE0000, 0xE0FFF),
)  # fmt: skip


def is_visible(char: str) -> bool:
    """True for a character that shows as itself and moves nothing else."""
    if char < "\x7f":
        return char >= " "
    return char.isprintable() and not any(low <= ord(char) <= high for low, high in INVISIBLE)


def printable(text: str) -> str:
    r"""Text that cannot move a cursor, set a title, break a line or turn its direction.

    Controls, DEL, C1, bidi marks, zero-width and other invisible characters, lone surrogates and
    unassigned code points come out as \x1b, \u202e, \U000e0001. A second time changes nothing.
    """
    if text.isascii() and text.isprintable():
        return text
    names = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}

    def escape(character: str) -> str:
        code = ord(character)
        width = "\\x%02x" if code < 0x100 else "\\u%04x" if code < 0x10000 else "\\U%08x"
        return names.get(character) or width % code

    return "".join(char if is_visible(char) else escape(char) for char in text)


def quoted(text: str, limit: int = 80) -> str:
    """Foreign text for use inside a message: printable, in quotes, shortened."""
    return '"%s"' % printable(text if len(text) <= limit else text[: limit - 3] + "...")


def parse_time(text: str) -> float:
    """RFC 3339 date-time to seconds since 1970; ValidationError for anything else."""
    import datetime
    import re

    pattern = r"(\d{4})-(\d\d)-(\d\d)[Tt ](\d\d):(\d\d):(\d\d)(\.\d{1,9})?(?:[Zz]|([+-])(\d\d):(\d\d))"
    match = re.fullmatch(pattern, text, re.ASCII)
    if match is None:
        raise ValidationError("%s is not an RFC 3339 time, such as 2025-10-01T00:00:00Z" % quoted(text))
    fields = [int(field) for field in match.group(1, 2, 3, 4, 5)]
    sign, offset_hours, offset_minutes = match.group(8), int(match.group(9) or 0), int(match.group(10) or 0)
    second = int(match.group(6))
    try:
        if offset_hours > 23 or offset_minutes > 59 or second > 60:
            raise ValueError
        utc = datetime.timezone.utc
        moment = datetime.datetime(*fields, second=min(second, 59), tzinfo=utc)  # type: ignore[misc,arg-type]
    except ValueError:
        raise ValidationError("%s is not a time that exists" % quoted(text)) from None
    offset = (offset_hours * 60 + offset_minutes) * 60 * (-1 if sign == "-" else 1)
    return moment.timestamp() + (second == 60) + float(match.group(7) or 0) - offset


def parse_digest(text: Json) -> str:
    """`sha256:<hex>` or `<hex>` to 64 lower-case hex digits; "" when it is not a SHA-256 digest."""
    if not isinstance(text, str):
        return ""
    digits = text[7:] if text[:7].lower() == "sha256:" else text
    known = len(digits) == 64 and all(digit in "0123456789abcdefABCDEF" for digit in digits)
    return digits.lower() if known else ""


MODULE_ENDINGS = (".py", ".pyc", ".so", ".pth", ".pyd", ".dll")  # what Python might take for code, beside stella.py


def safe_name(text: Json) -> str:
    """A server's name as a base name for a local file, or "" when nothing safe is left of it.

    At most 200 bytes, so that .part.json fits behind it; no name of a Windows device.
    """
    name = str(text if isinstance(text, str) else "").replace("\\", "/").rpartition("/")[2]
    name = "".join(char for char in name if is_visible(char) and char not in ':*?"<>|')
    name = name.lstrip(".- ").encode("utf-8")[:200].decode("utf-8", "ignore").rstrip(". ")
    device = name.partition(".")[0].rstrip().upper()
    reserved = device in ("CON", "PRN", "AUX", "NUL") or (device[:3] in ("COM", "LPT") and device[3:].isdigit())
    return "_" + name if reserved or name.lower().endswith(MODULE_ENDINGS) else name


def check_id(text: str, what: str) -> None:
    """ValidationError for the empty id, `.` and `..`, which would change the route."""
    if text in ("", ".", ".."):
        hint = "list them with: stella export %s" % ("run ls" if what == "run" else "profile list")
        raise ValidationError("%s is not a %s id" % (quoted(text), what), hint=hint)


def encode_id(text: str, what: str) -> str:
    """An id as one URL path segment."""
    from urllib.parse import quote

    check_id(text, what)
    try:
        return quote(text, safe="")
    except UnicodeEncodeError:
        raise ValidationError("%s id is not valid text: %s" % (what, quoted(text))) from None


def parse_bool(text: str) -> bool:
    """`true` or `false` as the guide writes them in --allow-empty=false; ValueError for anything else."""
    words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    if text.lower() not in words:
        raise ValueError
    return words[text.lower()]


DEFAULT_PORTS = {"http": 80, "https": 443}


class Url:
    """An absolute http(s) URL: `scheme`, `host` (lower case, ASCII, no brackets), `port`, `target`.

    target: path and query, percent-encoded, as it stands in a request line.
    """

    __slots__ = ("host", "port", "scheme", "target")

    def __init__(self, scheme: str, host: str, port: int, target: str) -> None:
        self.scheme = scheme
        self.host = host
        self.port = port
        self.target = target

    @property
    def origin(self) -> Origin:
        """What decides about credentials: scheme, host and port, exactly."""
        return self.scheme, self.host, self.port

    @property
    def authority(self) -> str:
        """Host and, unless it is the scheme's own, port: the Host header."""
        host = "[%s]" % self.host if ":" in self.host else self.host
        return host if self.port == DEFAULT_PORTS[self.scheme] else "%s:%d" % (host, self.port)

    @property
    def path(self) -> str:
        """The target without its query, which may hold a presigned secret."""
        return self.target.partition("?")[0]

    def __str__(self) -> str:
        return "%s://%s%s" % (self.scheme, self.authority, self.path)


def parse_host(address: str, name: str) -> str:
    """An IPv6 address in its one shortest form, or a host name in lower-case ASCII; ValueError."""
    import re

    if address:
        import ipaddress

        try:
            return str(ipaddress.IPv6Address(address))
        except ValueError:
            raise ValueError("has an IPv6 address that cannot exist") from None
    try:  # of a long name IDNA would take minutes
        host = name.lower() if name.isascii() else name[:254].encode("idna").decode("ascii").lower()
    except UnicodeError:
        raise ValueError("has a host name that cannot be encoded") from None
    if len(name) > 253 or len(host) > 253 or not re.fullmatch(r"([a-z0-9_-]{1,63}\.)*[a-z0-9_-]{1,63}\.?", host):
        raise ValueError("has a host name that cannot exist")
    return host


def parse_url(text: str) -> Url:
    """An absolute http(s) URL without userinfo; ValueError, which never repeats the text, otherwise.

    A host is what is looked up and compared, so only one reading of it is allowed: no userinfo, no
    backslash, nothing behind a bracket, names in ASCII or as IDNA 2003 makes them.
    """
    import re
    from urllib.parse import quote, urlsplit

    if not text.isprintable() or " " in text:
        raise ValueError("has spaces or control characters")
    try:
        parts = urlsplit(text)
    except ValueError:
        raise ValueError("is not a valid URL") from None
    scheme = parts.scheme.lower()
    if scheme not in DEFAULT_PORTS or not parts.netloc:
        raise ValueError("is not an http:// or https:// URL")
    if "@" in parts.netloc:
        raise ValueError("holds a user name or password, which does not belong into a URL")
    match = re.fullmatch(r"(?:\[([0-9a-fA-F:.]+)\]|([^\[\]:]+))(?::([0-9]{0,5}))?", parts.netloc)
    if match is None:
        raise ValueError("has a host name or port that cannot exist")
    port = int(match.group(3) or DEFAULT_PORTS[scheme])
    if not 0 < port < 65536:
        raise ValueError("has a port that cannot exist")
    safe = "/:@!$&'()*+,;=-._~%"
    target = quote(parts.path or "/", safe=safe) + ("?" + quote(parts.query, safe=safe + "?[]") if parts.query else "")
    return Url(scheme, parse_host(match.group(1) or "", match.group(2) or ""), port, target)


def resolve_url(base: Url, reference: str) -> Url:
    """A link or Location, absolute or relative, as seen from `base`; ValueError when it is no http(s) URL."""
    from urllib.parse import urljoin

    if not reference.isprintable() or " " in reference:
        raise ValueError("has spaces or control characters")
    try:
        joined = urljoin("%s://%s%s" % (base.scheme, base.authority, base.target), reference)
    except ValueError:
        raise ValueError("is not a valid URL") from None
    return parse_url(joined)


def is_loopback(host: str) -> bool:
    """True for localhost, 127.0.0.0/8 and ::1, written out."""
    parts = host.split(".")
    quad = len(parts) == 4 and all(
        part.isdecimal() and part == str(int(part[:4])) and int(part) < 256 for part in parts
    )
    return host in ("localhost", "::1") or (quad and parts[0] == "127")


SELECTOR_LISTS = {"tenant": "tenants", "product": "products", "sbom": "sboms"}


def parse_window(text: str) -> Document:
    """`<from>,<to>` to a timeWindow; one side may be empty, not both, and from < to."""
    start, comma, end = text.partition(",")
    if not comma or not (start or end):
        raise ValidationError("time=%s needs a comma and at least one side: time=<from>,<to>" % printable(text))
    if start and end and parse_time(start) >= parse_time(end):
        raise ValidationError("time=%s: from is not before to" % printable(text))
    for side in (start, end):
        if side:
            parse_time(side)
    return {key: side for key, side in (("from", start), ("to", end)) if side}


def parse_selectors(texts: Iterable[str]) -> Document:
    """`key=value` words to the selectors of a submit; contract 3. All problems at once."""
    import re

    selectors: Document = {}
    problems = []
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not value or not re.fullmatch(r"[a-z][A-Za-z0-9-]*", key):
            problems.append("--selector %s is not key=value" % quoted(text))
        elif key in ("time", "timeWindow") and "timeWindow" in selectors:
            problems.append("--selector time may stand once")
        elif key == "time":
            try:
                selectors["timeWindow"] = parse_window(value)
            except ValidationError as error:
                problems.append("--selector " + error.message)
        else:
            selectors.setdefault(SELECTOR_LISTS.get(key, key), []).append(value)
    if problems:
        hint = "selectors look like tenant=acme, product=registry/app:*, sbom=ID, time=<from>,<to>"
        raise ValidationError("the selectors are not valid", problems, hint)
    return selectors


def one_of(*allowed: str) -> Document:
    """A schema node: one of these words."""
    return {"type": str, "enum": allowed}


def some_of(*allowed: str) -> Document:
    """A schema node: a list of some of these words, each once."""
    return {"type": list, "unique": True, "items": one_of(*allowed)}


TEXT: Document = {"type": str}
VARIANTS = {"json": ("raw", "policy"), "trivy": ("db", "java-db"), "mirror": ("full", "delta")}
DISTRIBUTIONS = ("http", "oci", "object")
# Contract 3, "Profile". `enum_of` takes its words from the value of another field; `unless` names the one
# value of another field with which a required field may be missing.
PROFILE_SCHEMA: Document = {
    "type": dict,
    "required": ("name", "kind", "variant", "distribution"),
    "fields": {
        "name": {"type": str, "pattern": r"(?s:.{1,128})", "allowed": "1 to 128 characters"},
        "kind": one_of(*VARIANTS),
        "variant": {"type": str, "enum_of": ("kind", VARIANTS)},
        "distribution": some_of(*DISTRIBUTIONS),
        "include": some_of("advisories", "vex", "sboms", "findings"),
        "policySnapshotMode": one_of("required", "optional", "none"),
        "retention": {
            "type": str,
            "pattern": "days:(?:[1-9][0-9]{0,2}|[12][0-9]{3}|3[0-5][0-9]{2}|36[0-4][0-9]|3650)",
            "allowed": "days:N with N from 1 to 3650",
        },
        "compression": one_of("zstd", "gzip", "none"),
        "encryption": {
            "type": dict,
            "required": ("mode", "recipients"),
            "unless": {"recipients": ("mode", "none")},
            "fields": {"mode": one_of("none", "age", "aes-gcm"), "recipients": {"type": list, "items": TEXT}},
        },
        "metadata": {"type": dict, "others": TEXT},
    },
}
SERVER_FIELDS = ("profileId", "status", "revision", "createdAt", "updatedAt", "links")
JSON_TYPES = {dict: "an object", list: "a list", str: "a string"}


def value_text(value: Json) -> str:
    """A wrong value for a message: itself when it is short enough to recognise, else its type."""
    if isinstance(value, (dict, list)) and value:
        return JSON_TYPES[type(value)]
    if isinstance(value, str):
        return quoted(value, 60)
    return (
        {None: "null", True: "true", False: "false"}[value] if value is None or isinstance(value, bool) else str(value)
    )


def schema_problems(value: Json, node: Document, pointer: str = "", beside: Document | None = None) -> list[str]:
    """Everything that is wrong with `value`, one line each: `POINTER: found ..., allowed: ...` (RFC 6901)."""
    import re

    where = pointer or "/"
    kind = node["type"]
    if not isinstance(value, kind):
        allowed = node.get("allowed") or ", ".join(node.get("enum", ())) or JSON_TYPES[kind]
        return ["%s: found %s, allowed: %s" % (where, value_text(value), allowed)]
    if kind is dict:
        return object_problems(value, node, pointer)
    if kind is list:
        return list_problems(value, node, pointer)
    allowed = node.get("enum")
    if "enum_of" in node:  # judged only where the other field is good: one mistake is one problem
        other, choices = node["enum_of"]
        chosen = (beside or {}).get(other)
        known = choices.get(chosen) if isinstance(chosen, str) else None
        allowed = known or tuple(word for each in choices.values() for word in each)
    if allowed is not None and value not in allowed:
        return ["%s: found %s, allowed: %s" % (where, value_text(value), ", ".join(allowed))]
    # fullmatch, because `$` also matches before a final newline
    if "pattern" in node and not re.fullmatch(node["pattern"], value):
        length = " (%d characters)" % len(value) if len(value) > 60 else ""
        return ["%s: found %s%s, allowed: %s" % (where, value_text(value), length, node["allowed"])]
    return []


def object_problems(value: Document, node: Document, pointer: str) -> list[str]:
    """The problems of an object: missing, unknown and wrong fields, in that order."""
    fields, others = node.get("fields", {}), node.get("others")
    problems = []
    for name in node.get("required", ()):
        other, excuse = node.get("unless", {}).get(name, ("", None))
        if name not in value and not (other and value.get(other) == excuse):
            child = fields[name]
            allowed = child.get("allowed") or ", ".join(child.get("enum", ())) or JSON_TYPES[child["type"]]
            problems.append("%s/%s: is missing, allowed: %s" % (pointer, name, allowed))
    for name, item in value.items():
        child, below = fields.get(name, others), "%s/%s" % (pointer, name.replace("~", "~0").replace("/", "~1"))
        if child is None:
            problems.append("%s: is not known, allowed: %s" % (below, ", ".join(fields)))
        else:
            problems += schema_problems(item, child, below, value)
    return problems


def list_problems(value: list[Json], node: Document, pointer: str) -> list[str]:
    """The problems of a list: empty, wrong or repeated items."""
    if not value:
        return ["%s: found an empty list, allowed: at least one item" % pointer]
    problems = []
    seen = set()
    for index, item in enumerate(value):
        below, mark = "%s/%d" % (pointer, index), repr(item)
        problems += schema_problems(item, node["items"], below)
        if node.get("unique") and mark in seen:
            problems.append("%s: found %s again, allowed: each once" % (below, value_text(item)))
        seen.add(mark)
    return problems


def check_profile(document: Document, what: str) -> Document:
    """A profile as it may be sent, without the server's own fields; ValidationError with every problem."""
    profile = {name: value for name, value in document.items() if name not in SERVER_FIELDS}
    problems = schema_problems(profile, PROFILE_SCHEMA)
    if problems:
        raise ValidationError("%s is not a valid profile" % what, problems)
    return profile


def split_words(texts: Iterable[str]) -> list[str]:
    """`a,b` or `a` and `b`: what a comma or a repeated option separates, in order, each once."""
    return list(dict.fromkeys(part.strip() for text in texts for part in text.split(",")))


def query_value(value: Json, path: str) -> Json:
    """The value at a dotted path (`progress.percent`, `0.runId`); ValidationError when it is not there."""
    import re

    for step in path.split("."):
        if isinstance(value, dict) and step in value:
            value = value[step]
        elif isinstance(value, list) and re.fullmatch("[0-9]{1,9}", step) and int(step) < len(value):
            value = value[int(step)]
        else:
            hint = "there is: " + printable(", ".join(value))[:300] if isinstance(value, dict) and value else ""
            if isinstance(value, list):
                hint = "it is a list: 0 to %d" % (len(value) - 1) if value else "it is an empty list"
            raise ValidationError("--query %s: nothing is at %s" % (printable(path), quoted(step)), hint=hint)
    return value


# ==================================================================================================
# Room 5. Event stream
#
# Bytes in, events out: WHATWG HTML, "Server-sent events", 9.2.5 and 9.2.6 (parsing and interpreting an
# event stream), and nothing else. No I/O. Lines are cut from the bytes and decoded one by one, which is
# the same as decoding first: CR and LF are never part of a longer UTF-8 sequence.
# ==================================================================================================


class Event:
    """One event: `type` (`message` when unnamed), `data`, `id` (the last event id, "" when none yet).

    `own_id` says whether this block set the id itself.
    """

    __slots__ = ("data", "id", "own_id", "type")

    def __init__(self, kind: str, data: str, last_id: str, own_id: bool) -> None:
        self.type = kind
        self.data = data
        self.id = last_id
        self.own_id = own_id


class EventParser:
    """Feed it bytes as they come; it gives the events that are complete.

    last_id: what a reconnect sends as Last-Event-ID, and what a parser of the next connection starts with;
    retry_ms: the server's reconnection time, or None. Raises ProtocolError when a line or an event passes
    its limit. An unfinished last block is dropped.
    """

    def __init__(self, last_id: str = "", retry_ms: int | None = None) -> None:
        import re

        self.last_id = last_id
        self.retry_ms = retry_ms
        # At most one id, type and data line, in this order. A NUL makes an id one for the long way.
        plain = rb"(?:id: ?([^\n\0]*)\n)?(?:event: ?([^\n]*)\n)?data: ?([^\n]*)\n\n"
        self._plain_block = re.compile(plain).match
        self._head: bytes | None = b""  # the first bytes, until it is clear whether they are a BOM
        self._after_cr = False
        self._rest = bytearray()  # the unfinished line
        self._data: list[bytes] = []
        self._event_bytes = 0
        self._type = b""
        self._id: bytes | None = None  # set by this block

    def feed(self, chunk: bytes) -> list[Event]:
        """The events that `chunk` completes."""
        if self._head is not None:
            chunk = self._head + chunk
            if len(chunk) < 3 and b"\xef\xbb\xbf".startswith(chunk):
                self._head = chunk
                return []
            self._head = None
            if chunk[:3] == b"\xef\xbb\xbf":
                chunk = chunk[3:]
        if not chunk:
            return []
        # A CR ends its line at once; a LF right after it, in this chunk or the next, belongs to it.
        skip_lf = self._after_cr and chunk[:1] == b"\n"
        self._after_cr = chunk[-1:] == b"\r"
        if skip_lf:
            chunk = chunk[1:]
        if b"\r" in chunk:
            chunk = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        events: list[Event] = []
        at = 0
        while at < len(chunk):
            at = self._take_plain_blocks(chunk, at, events)
            if at == len(chunk):
                break
            end = chunk.find(b"\n\n", at) + 2
            end = end if end > 1 else len(chunk)
            events += self._take_lines(chunk[at:end])
            at = end
        return events

    def _take_plain_blocks(self, chunk: bytes, at: int, events: list[Event]) -> int:
        """Takes whole blocks of the usual form from `at` on, in half the time; gives where they end."""
        if self._rest or self._data or self._type or self._id is not None or len(chunk) > MAX_EVENT_LINE_BYTES:
            return at
        block = self._plain_block(chunk, at)
        while block:
            last_id, kind, data = block.groups()
            if last_id is not None:
                self.last_id = last_id.decode("utf-8", "replace")
            name = kind.decode("utf-8", "replace") if kind else "message"
            events.append(Event(name, data.decode("utf-8", "replace"), self.last_id, last_id is not None))
            at = block.end()
            block = self._plain_block(chunk, at)
        return at

    def _take_lines(self, chunk: bytes) -> list[Event]:
        lines = chunk.split(b"\n")
        if len(lines) > 1 and self._rest:
            lines[0] = bytes(self._rest) + lines[0]
            self._rest.clear()
        self._rest += lines.pop()
        if max(map(len, (self._rest, *lines))) > MAX_EVENT_LINE_BYTES:
            raise ProtocolError("the event stream sent a line of more than %d bytes" % MAX_EVENT_LINE_BYTES)
        return self._interpret(lines)

    def _interpret(self, lines: list[bytes]) -> list[Event]:
        events = []
        for line in lines:
            if not line:
                own_id = self._id is not None
                if self._id is not None:
                    self.last_id = self._id.decode("utf-8", "replace")
                    self._id = None
                if self._data:
                    events.append(self._event(own_id))
                self._type = b""
                continue
            name, _, value = line.partition(b":")  # a comment has the empty name
            if value[:1] == b" ":
                value = value[1:]
            if name == b"data":
                self._data.append(value)
                self._event_bytes += len(value) + 1
                if self._event_bytes > MAX_EVENT_BYTES:
                    raise ProtocolError("the event stream sent an event of more than %d bytes" % MAX_EVENT_BYTES)
            elif name == b"event":
                self._type = value
            elif name == b"id":
                if b"\0" not in value:
                    self._id = value
            elif name == b"retry":
                self._take_retry(value)
        return events

    def _take_retry(self, value: bytes) -> None:
        if value.isdigit():  # bytes.isdigit knows ASCII digits only
            digits = value.lstrip(b"0")[:10]
            self.retry_ms = int(digits or b"0") if len(digits) < 10 else 10**9

    def _event(self, own_id: bool) -> Event:
        """The event of the block that ends here, which has data."""
        data = self._data[0] if len(self._data) == 1 else b"\n".join(self._data)
        self._data, self._event_bytes = [], 0
        kind = self._type.decode("utf-8", "replace") if self._type else "message"
        return Event(kind, data.decode("utf-8", "replace"), self.last_id, own_id)


class SeenEvents:
    """Remembers what was shown, so that a replay after a reconnect shows nothing twice and loses nothing.

    An event with an id is known again by id, type and data. One without is known by its place: the id
    before it, its type and data, and how many of its kind that place already had on this connection. It
    can only be a replay between a reconnect and the first event that is new: logs are replayed in order,
    from their start or from an event with an id.
    """

    def __init__(self) -> None:
        self._recent: set[int] = set()
        self._older: set[int] = set()  # two generations, so that memory is bounded and forgetting is cheap
        self._place = ""
        self._counts: dict[int, int] = {}
        self._replaying = False
        self._at_start = True  # no event of this connection had an id

    def reconnect(self) -> None:
        """A new connection starts: a replay may follow."""
        self._replaying = self._at_start = True
        self._counts.clear()

    def is_new(self, event: Event) -> bool:
        """True when the event was not shown before; it counts as shown from now on."""
        if event.id != self._place or (event.own_id and self._at_start):
            self._place = event.id
            self._at_start = self._at_start and not event.own_id
            self._counts.clear()
        if event.own_id:
            mark = hash((event.id, event.type, event.data))
            known = self._knows(mark)
        else:
            kind = self._count(event)
            mark = hash((event.id, kind))
            known = self._replaying and self._knows(mark)
            if self._replaying and self._at_start:  # the client came with an id, but this may be the whole log
                known = known or self._knows(hash(("", kind)))
        if known:
            return False
        self._replaying = False
        self._recent.add(mark)
        if len(self._recent) >= MAX_SEEN_EVENTS:
            self._older, self._recent = self._recent, set()
        return True

    def _knows(self, mark: int) -> bool:
        return mark in self._recent or mark in self._older

    def _count(self, event: Event) -> tuple[int, int]:
        """(the event's kind, how many of it its place has had with it)."""
        kind = hash((event.type, event.data))
        if len(self._counts) >= MAX_SEEN_EVENTS:
            self._counts.clear()
        self._counts[kind] = self._counts.get(kind, 0) + 1
        return kind, self._counts[kind]


# ==================================================================================================
# Room 6. Resume
#
# Pure decisions of a download: given what is on disk (.part and its sidecar) and the head of the
# server's answer, take the body, start again, finish or count a failed attempt, with the reason.
# RFC 9110 sections 8.8.3 (ETag), 13.1.5 (If-Range), 14 (ranges) and 15.5.17 (416). No I/O.
# A span is (start, end): the bytes from `start` up to, and without, `end`.
# ==================================================================================================


class Expected:
    """What a complete bundle must be: `size` in bytes or None, `sha256` in hex or "", `etag` or ""."""

    __slots__ = ("etag", "sha256", "size")

    def __init__(self, size: int | None, sha256: str, etag: str = "") -> None:
        self.size = size
        self.sha256 = sha256
        self.etag = etag


class Plan:
    """What to do with an answer.

    action: "take" writes the body at byte `start` (`length` bytes, or None: until the stream's end);
    "restart" asks again from zero; "finish" has every byte already; "fail" counts a failed attempt.
    total: the size of the whole bundle where the answer says so, else None.
    """

    __slots__ = ("action", "length", "reason", "start", "total")

    def __init__(
        self, action: str, reason: str, start: int = 0, length: int | None = None, total: int | None = None
    ) -> None:
        self.action = action
        self.reason = reason
        self.start = start
        self.length = length
        self.total = total


def is_strong(etag: str) -> bool:
    """A strong entity tag, the only kind If-Range may carry (RFC 9110 13.1.5)."""
    inside = etag[1:-1]
    sound = inside.isprintable() and '"' not in inside and max(inside, default="\u0100") < "\u0100"
    return sound and etag[0] == '"' and etag[-1] == '"'


def parse_length(text: str | None) -> int | None:
    """A Content-Length as a number; None when there is none or it is not one."""
    good = text is not None and text.isascii() and text.isdecimal() and len(text) < 19
    return int(text) if good and text is not None else None


def content_coding(headers: Mapping[str, str]) -> str:
    """How a body is encoded, "" when it is not; `headers` has lower-case names."""
    coding = headers.get("content-encoding", "").strip().lower()
    return coding if coding != "identity" else ""


def parse_content_range(text: str) -> tuple[int, int, int | None] | None:
    """`bytes first-last/total` to (first, last, total or None for `*`); None when it is anything else."""
    import re

    match = re.fullmatch(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)", text.strip(), re.ASCII)
    if match is None:
        return None
    first, last = int(match.group(1)), int(match.group(2))
    total = None if match.group(3) == "*" else int(match.group(3))
    return (first, last, total) if first <= last and (total is None or last < total) else None


def parse_spans(value: Json, limit: int) -> list[Span]:
    """A sidecar's `done` as spans below `limit`, ascending and apart from each other; [] when it is anything else."""
    spans: list[Span] = []
    at = -1
    for pair in value if isinstance(value, list) else []:
        if not isinstance(pair, list) or len(pair) != 2 or any(type(number) is not int for number in pair):
            return []
        start, end = pair
        if not at < start < end:
            return []
        at = end
        if start < limit:
            spans.append((start, min(end, limit)))
    return spans


def find_gaps(spans: Sequence[Span], size: int) -> list[Span]:
    """What is missing of 0 to `size`, given ascending spans."""
    edges = [0, *(edge for span in spans for edge in span), size]
    return [(start, end) for start, end in zip(edges[::2], edges[1::2]) if start < end]


def cut_pieces(gaps: Iterable[Span], piece_bytes: int) -> list[Span]:
    """The gaps in pieces of at most that size, in order."""
    return [(at, min(at + piece_bytes, end)) for start, end in gaps for at in range(start, end, piece_bytes)]


def decide_resume(part_bytes: int, sidecar: Document | None, expected: Expected) -> tuple[list[Span], str]:
    """What a .part that an earlier invocation left is good for: (the spans to keep, or [] and the reason).

    The sidecar must tie the .part to this very bundle: by the digest that both must have, or, where no
    digest is known, by size and a strong ETag (which If-Range then has the server confirm).
    """
    if not part_bytes:
        return [], ""
    if sidecar is None:
        return [], "it has no sidecar that can be read"
    size, sha256, etag = sidecar.get("size"), sidecar.get("sha256"), sidecar.get("etag")
    if expected.sha256 and sha256 and sha256 != expected.sha256:
        return [], "it belongs to a bundle with another digest"
    if expected.size is not None and size is not None and size != expected.size:
        return [], "it belongs to a bundle of another size"
    if not (expected.sha256 and sha256) and not is_strong(str(etag or "")):
        return [], "neither a digest nor a strong ETag ties it to this bundle"
    known = expected.size if expected.size is not None else size
    if type(known) is int and part_bytes > known:
        return [], "it is longer than the bundle"
    if "done" in sidecar:  # pieces that were fetched side by side; between them lie holes
        return parse_spans(sidecar["done"], part_bytes), ""
    return [(0, part_bytes)], ""


def range_headers(start: int, end: int | None, etag: str) -> dict[str, str]:
    """The request headers for the bytes from `start` on, up to `end`; If-Range only with a strong ETag (13.1.5)."""
    if not start and end is None:
        return {}
    headers = {"Range": "bytes=%d-%s" % (start, "" if end is None else end - 1)}
    if is_strong(etag):
        headers["If-Range"] = etag
    return headers


def decide_partial(start: int, end: int | None, expected: Expected, headers: Mapping[str, str]) -> Plan:
    """A 206 to a range request: every field must fit what is on disk, else the part starts again.

    It may hold less than was asked for (14.2, 15.3.7), never more and never something else.
    """
    if headers.get("content-type", "").strip().lower().startswith("multipart/"):
        return Plan("restart", "the server answered with a multipart range")
    found = parse_content_range(headers.get("content-range", ""))
    if found is None:
        return Plan("restart", "the server sent a part without a valid Content-Range")
    first, last, total = found
    if first != start:
        return Plan("restart", "the server sent bytes from %d where %d was asked for" % (first, start))
    if total is not None and expected.size is not None and total != expected.size:
        return Plan("restart", "the bundle's size changed from %d to %d" % (expected.size, total))
    limit = expected.size if end is None else end
    if limit is not None and last >= limit:
        return Plan("restart", "the server's part goes on after byte %d" % limit)
    etag = headers.get("etag", "")
    if expected.etag and etag != expected.etag and (etag or not expected.sha256):  # a 206 has it (15.3.7)
        return Plan("restart", "the bundle's ETag changed" if etag else "nothing ties the part to the bundle")
    length = parse_length(headers.get("content-length"))
    if length is not None and length != last - first + 1:
        return Plan("restart", "Content-Length and Content-Range do not agree")
    return Plan("take", "", start, last - first + 1, total)


def decide_unsatisfied(start: int, expected: Expected, headers: Mapping[str, str]) -> Plan:
    """A 416 (RFC 9110 15.5.17): complete when every byte is here, else start again."""
    stated = headers.get("content-range", "").strip()
    total = parse_length(stated[8:]) if stated.startswith("bytes */") else None
    if expected.size is not None and total is not None and total != expected.size:
        return Plan("restart", "the bundle's size changed from %d to %d" % (expected.size, total))
    known = total if total is not None else expected.size
    if start and known == start:
        return Plan("finish", "every byte is here already", total=known)
    return Plan("restart", "the server cannot go on at byte %d" % start)


def decide_answer(start: int, end: int | None, expected: Expected, status: int, headers: Mapping[str, str]) -> Plan:
    """What to do with the head of an answer to a request that asked for the bytes from `start` to `end`.

    `headers` has lower-case names. Only 200, 206 and 416 are decided here; errors are the caller's.
    """
    asked = start > 0 or end is not None
    coding = content_coding(headers)
    if coding:
        fault = "the answer is encoded (Content-Encoding: %s), so its bytes are not the bundle's"
        return Plan("fail", fault % printable(coding)[:40])
    if status == 416:
        return decide_unsatisfied(start, expected, headers)
    if status == 200:
        total = parse_length(headers.get("content-length"))
        if expected.size is not None and total is not None and total != expected.size:
            return Plan("fail", "the answer has %d bytes and the bundle %d" % (total, expected.size))
        return Plan("take", "the server sent the whole bundle" if asked else "", 0, total, total)
    if status != 206:
        return Plan("fail", "status %d is no answer to a download" % status)
    if not asked:
        return Plan("fail", "a part (206) came where the whole was asked for")
    return decide_partial(start, end, expected, headers)


# ==================================================================================================
# Room 7. Verification
#
# Pure checks over documents, digests, keys, signatures and archive members (contract 4, `verify`):
#   1 manifest-signature, provenance-signature   4 bundle-digest   7 oci (operations ask the registry)
#   2 run-id                                     5 bundle          8 age
#   3 manifest-digest                            6 artifacts
# and `schema`, which is in the report only where a document is not of a kind that this version knows.
# Each gives pass, fail or skipped with a reason, and each runs even where another failed; "verified" is
# said where none failed. Nothing here reads a file or runs a program.
# ==================================================================================================


P256_P = 0xFFFFFFFF00000001000000000000000000000000FFFFFFFFFFFFFFFFFFFFFFFF  # FIPS 186-4 D.1.2.3
P256_N = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
P256_B = 0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B
P256_G = (
    0x6B17D1F2E12C4247F8BCE6E563A440F277037D812DEB33A0F4A13945D898C296,
    0x4FE342E2FE1A7F9B8EE7EB4A7C0F9E162BCE33576B315ECECBB6406837BF51F5,
)
OID_EC = bytes.fromhex("2a8648ce3d0201")
OID_RSA = bytes.fromhex("2a864886f70d010101")
OID_ED25519 = bytes.fromhex("2b6570")
ED25519_P = 2**255 - 19
ED25519_L = 2**252 + 27742317777372353535851937790883648493  # RFC 8032 5.1
# Curve OID to (name, bytes of a coordinate, p, b); a is -3 in all (FIPS 186-4 D.1.2). Go and so cosign
# know no others, so no verifier here may.
CURVES = {
    bytes.fromhex("2a8648ce3d030107"): ("P-256", 32, P256_P, P256_B),
    bytes.fromhex("2b81040022"): (
        "P-384", 48, 2**384 - 2**128 - 2**96 + 2**32 - 1,
        0xB3312FA7E23EE7E4988E056BE3F82D19181D9C6EFE8141120314088F5013875AC656398D8A2ED19D2A85C8EDD3EC2AEF,
    ),
    bytes.fromhex("2b81040023"): (
        "P-521", 66, 2**521 - 1,
        int("51953eb9618e1c9a1f929a21a0b68540eea2da725b99b315f3b8b489918ef109e156193951ec7e937b1652c0bd3bb1bf07"
            "3573df883d2c34f1ef451fd46b503f00", 16),
    ),
}  # fmt: skip


class Check:
    """One line of the report: `name` from the contract, `status` pass, fail or skipped, `detail` why.

    error: set where a check was asked for and could not be made; then nothing is "verified".
    """

    __slots__ = ("detail", "error", "name", "status")

    def __init__(self, name: str, status: str, detail: str, error: StellaError | None = None) -> None:
        self.name = name
        self.status = status
        self.detail = detail
        self.error = error


def check_that(name: str, good: bool, detail: str, fault: str) -> Check:
    """A check that passes with `detail` or fails with `fault`."""
    return Check(name, "pass" if good else "fail", detail if good else fault)


class DerError(ValueError):
    """Not the one strict DER encoding of what was expected."""


def read_der(data: bytes, tag: int) -> tuple[bytes, bytes]:
    """The contents of the first element, which must have `tag`, and the bytes after it (X.690 10.1)."""
    if len(data) < 2 or data[0] != tag:
        raise DerError("expected tag 0x%02x" % tag)
    length, start = data[1], 2
    if length & 0x80:
        count = length & 0x7F
        start = 2 + count
        length = int.from_bytes(data[2:start], "big")
        if not 1 <= count <= 4 or len(data) < start or length < 0x80 or data[2] == 0:
            raise DerError("length is not in its shortest form")
    if len(data) < start + length:
        raise DerError("ends early")
    return data[start : start + length], data[start + length :]


def read_der_integer(data: bytes) -> tuple[int, bytes]:
    """A positive INTEGER in its shortest form, and the bytes after it."""
    body, rest = read_der(data, 0x02)
    if not body or body[0] & 0x80 or (body[0] == 0 and (len(body) == 1 or not body[1] & 0x80)):
        raise DerError("integer is zero, negative or padded")
    return int.from_bytes(body, "big"), rest


def parse_ecdsa_signature(data: bytes) -> tuple[int, int]:
    """SEQUENCE of two INTEGERs (r, s), nothing before, between or after; DerError otherwise."""
    body, rest = read_der(data, 0x30)
    r, tail = read_der_integer(body)
    s, tail = read_der_integer(tail)
    if rest or tail:
        raise DerError("has bytes after the signature")
    return r, s


class PublicKey:
    """A public key: `der` (SubjectPublicKeyInfo), `pem`, `kind` (P-256, P-384, P-521, RSA, Ed25519), `numbers`:
    the point of an ECDSA key, (modulus, exponent) of an RSA key, nothing of an Ed25519 key.
    """

    __slots__ = ("der", "kind", "numbers", "pem")

    def __init__(self, der: bytes, pem: bytes, kind: str, numbers: tuple[int, ...]) -> None:
        self.der = der
        self.pem = pem
        self.kind = kind
        self.numbers = numbers


def decode_base64(text: bytes, what: str) -> bytes:
    """Base64 in its one spelling (RFC 4648 3.5: the unused bits are zero), nothing around it; never empty."""
    import base64

    if not text:
        raise ValueError("%s is empty" % what)
    try:
        raw = base64.b64decode(text, validate=True)
    except ValueError:
        raise ValueError("%s is not base64" % what) from None
    if base64.b64encode(raw) != text:
        raise ValueError("%s is not canonical base64" % what)
    return raw


def split_spki(der: bytes) -> tuple[bytes, bytes]:
    """SubjectPublicKeyInfo to (AlgorithmIdentifier contents, key bytes)."""
    body, rest = read_der(der, 0x30)
    algorithm, tail = read_der(body, 0x30)
    bits, after = read_der(tail, 0x03)
    if rest or after or bits[:1] != b"\0":
        raise DerError("has bytes where none belong")
    return algorithm, bits[1:]


def parse_rsa_key(parameters: bytes, bits: bytes) -> tuple[int, int]:
    """(modulus, exponent) of an RSAPublicKey (RFC 8017 A.1.1) that Go and OpenSSL both take."""
    body, rest = read_der(bits, 0x30)
    modulus, tail = read_der_integer(body)
    exponent, tail = read_der_integer(tail)
    if parameters != b"\x05\x00" or rest or tail:
        raise DerError("has bytes where none belong")
    low, high = RSA_BITS
    if not low <= modulus.bit_length() <= high:
        raise ValueError("it has %d bits, and %d to %d are taken" % (modulus.bit_length(), low, high))
    if not modulus & 1 or not exponent & 1 or not 3 <= exponent < 1 << 31:
        raise ValueError("its modulus or exponent is not one of an RSA key")
    return modulus, exponent


def parse_key_bits(oid: bytes, parameters: bytes, bits: bytes) -> tuple[str, tuple[int, ...]]:
    """(kind, numbers) of a key, as in PublicKey; ValueError for what not every verifier would take."""
    if oid == OID_RSA:
        return "RSA", parse_rsa_key(parameters, bits)
    if oid == OID_ED25519:
        y = int.from_bytes(bits, "little") & (1 << 255) - 1
        if len(bits) != 32 or parameters or not 1 < y < ED25519_P - 1:
            raise ValueError("it is no Ed25519 key in canonical form")
        return "Ed25519", ()
    if oid != OID_EC:
        raise ValueError("its algorithm is none of ECDSA, RSA, Ed25519")
    curve, rest = read_der(parameters, 0x06)
    if curve not in CURVES or rest:
        raise ValueError("its curve is none of P-256, P-384, P-521")
    kind, width, p, b = CURVES[curve]
    if len(bits) != 1 + 2 * width or bits[0] != 4:
        raise ValueError("its point is not in uncompressed form")
    x, y = int.from_bytes(bits[1 : 1 + width], "big"), int.from_bytes(bits[1 + width :], "big")
    if x >= p or y >= p or (y * y - x * x * x + 3 * x - b) % p:
        raise ValueError("its point is not on the curve")
    return kind, (x, y)


def parse_public_key(data: bytes) -> PublicKey:
    """One PEM block `PUBLIC KEY` (RFC 7468, RFC 5480); ValueError with the reason for anything else.

    The verifiers are given a PEM made from what was parsed, so that all of them see the same key.
    """
    import base64
    import re

    labels = re.findall(rb"-----BEGIN ([^-]*)-----", data)
    block = re.search(rb"-----BEGIN PUBLIC KEY-----([A-Za-z0-9+/=\s]+)-----END PUBLIC KEY-----", data)
    if any(b"PRIVATE" in label for label in labels):
        raise ValueError("is a private key; verify takes the public one")
    if b"CERTIFICATE" in labels:
        raise ValueError("is a certificate; `openssl x509 -in FILE -noout -pubkey` gives its public key")
    if labels != [b"PUBLIC KEY"]:
        raise ValueError("holds %d public keys in PEM form, not one" % labels.count(b"PUBLIC KEY"))
    if b"\0" in data:  # text around the block is fine (RFC 7468 2), an archive around it is not
        raise ValueError("is no text with the PEM block of a public key")
    try:
        der = decode_base64(b"".join(block.group(1).split()) if block else b"", "its text")
        algorithm, bits = split_spki(der)
        oid, parameters = read_der(algorithm, 0x06)
        kind, numbers = parse_key_bits(oid, parameters, bits)
    except ValueError as error:
        raise ValueError("is not a public key that can be used: %s" % error) from None
    pem = b"-----BEGIN PUBLIC KEY-----\n" + base64.encodebytes(der) + b"-----END PUBLIC KEY-----\n"
    return PublicKey(der, pem, kind, numbers)


def double_point(a: tuple[int, int, int]) -> tuple[int, int, int]:
    """Twice a P-256 point in Jacobian coordinates (the curve has a = -3)."""
    x, y, z = a
    if not z or not y:
        return 1, 1, 0
    z2, y2 = z * z % P256_P, y * y % P256_P
    slope, s = 3 * (x - z2) * (x + z2) % P256_P, 4 * x * y2 % P256_P
    x3 = (slope * slope - 2 * s) % P256_P
    return x3, (slope * (s - x3) - 8 * y2 * y2) % P256_P, 2 * y * z % P256_P


def add_points(a: tuple[int, int, int], b: tuple[int, int, int]) -> tuple[int, int, int]:
    """Sum of two P-256 points in Jacobian coordinates; z = 0 is the point at infinity."""
    if not a[2] or not b[2]:
        return a if a[2] else b
    z1, z2 = a[2] * a[2] % P256_P, b[2] * b[2] % P256_P
    u1, u2 = a[0] * z2 % P256_P, b[0] * z1 % P256_P
    s1, s2 = a[1] * z2 * b[2] % P256_P, b[1] * z1 * a[2] % P256_P
    if u1 == u2:
        return double_point(a) if s1 == s2 else (1, 1, 0)
    h, r = (u2 - u1) % P256_P, (s2 - s1) % P256_P
    h2 = h * h % P256_P
    h3, v = h2 * h % P256_P, u1 * h2 % P256_P
    x = (r * r - h3 - 2 * v) % P256_P
    return x, (r * (v - x) - s1 * h3) % P256_P, h * a[2] * b[2] % P256_P


def verify_p256(point: tuple[int, int], digest: bytes, r: int, s: int) -> bool:
    """ECDSA verification on P-256 with a SHA-256 digest (FIPS 186-4 6.4); verifies only, so speed and
    constant time do not matter: nothing here is secret.
    """
    if not (0 < r < P256_N and 0 < s < P256_N):
        return False
    inverse = pow(s, -1, P256_N)
    u1, u2 = int.from_bytes(digest, "big") * inverse % P256_N, r * inverse % P256_N
    base, key = (P256_G[0], P256_G[1], 1), (point[0], point[1], 1)
    table = ((1, 1, 0), base, key, add_points(base, key))
    total = (1, 1, 0)
    for bit in range(255, -1, -1):
        total = add_points(double_point(total), table[(u1 >> bit & 1) | (u2 >> bit & 1) << 1])
    if not total[2]:
        return False
    return total[0] * pow(total[2], -2, P256_P) % P256_P % P256_N == r


SIGSTORE_TYPES = (
    "application/vnd.dev.sigstore.bundle.v0.3+json",
    *("application/vnd.dev.sigstore.bundle+json;version=0.%d" % minor for minor in (1, 2, 3)),
)


def sigstore_text(value: Json) -> bytes:
    """Base64 text out of a bundle; what is no text comes out empty, which nothing accepts."""
    return value.encode("ascii", "replace") if isinstance(value, str) else b""


def parse_sigstore_bundle(data: bytes, sha256: str) -> bytes:
    """The base64 text of a Sigstore bundle's message signature over a file with this digest.

    Read here, and strictly, so that the verdict is the same with every verifier: cosign 2 asks the network
    about such a bundle unless told otherwise, openssl does not know it. Every cosign takes SHA-256 for
    ECDSA and RSA, whatever the bundle says; it has to say so here. Transparency-log entries prove
    nothing about a tenant's own key and are not looked at. `base64Signature` is cosign 2's own older form.
    """
    try:
        bundle = parse_object(data, "the Sigstore bundle")
    except ValidationError as error:
        raise ValueError(error.message) from None
    if "base64Signature" in bundle:
        if set(bundle) - {"base64Signature", "rekorBundle", "cert"} or bundle.get("cert"):
            raise ValueError("the cosign bundle carries a certificate or something unknown")
        return sigstore_text(bundle["base64Signature"])
    if bundle.get("mediaType") not in SIGSTORE_TYPES:
        raise ValueError("the Sigstore bundle is of the unknown type %s" % quoted(str(bundle.get("mediaType"))))
    if "dsseEnvelope" in bundle:
        raise ValueError("the Sigstore bundle carries an attestation, not a signature of the file")
    material, message = bundle.get("verificationMaterial"), bundle.get("messageSignature")
    if not isinstance(material, dict) or not isinstance(material.get("publicKey"), dict):
        raise ValueError("the Sigstore bundle is not about a public key")
    known = {"publicKey", "tlogEntries", "timestampVerificationData"}
    if set(material) - known or set(bundle) != {"mediaType", "verificationMaterial", "messageSignature"}:
        raise ValueError("the Sigstore bundle carries a certificate or something unknown")
    digest = message.get("messageDigest") if isinstance(message, dict) else None
    if not isinstance(message, dict) or not isinstance(digest, dict) or len(message) != 2 or "signature" not in message:
        raise ValueError("the Sigstore bundle has no message digest and signature")
    if digest.get("algorithm") != "SHA2_256":
        raise ValueError("the Sigstore bundle's digest is %s, not SHA2_256" % quoted(str(digest.get("algorithm"))))
    if decode_base64(sigstore_text(digest.get("digest")), "the Sigstore bundle's digest").hex() != sha256:
        raise ValueError("the Sigstore bundle is about another file")
    return sigstore_text(message["signature"])


def parse_signature(data: bytes, key: PublicKey, sha256: str) -> bytes:
    """A signature file to the raw signature: base64 as cosign writes it, or a Sigstore bundle.

    ValueError for an empty one, anything around the base64, and whatever the verifiers would judge
    differently. For ECDSA all but strict DER: openssl takes bytes after the signature where cosign does
    not. A signature with a high s is good; every verifier takes it, and nobody names it by its bytes.
    """
    if data.lstrip()[:1] == b"{":
        text = parse_sigstore_bundle(data, sha256)
    else:
        text = data.replace(b"\r", b"").replace(b"\n", b"").strip(b" \t")
    raw = decode_base64(text, "the signature")
    if key.kind == "RSA" and len(raw) != (key.numbers[0].bit_length() + 7) // 8:
        raise ValueError("the signature has %d bytes, which none of this RSA key has" % len(raw))
    if key.kind == "Ed25519" and (len(raw) != 64 or int.from_bytes(raw[32:], "little") >= ED25519_L):
        raise ValueError("the signature is not 64 bytes with a number in range")
    if key.kind.startswith("P-"):
        try:
            r, s = parse_ecdsa_signature(raw)
        except DerError as error:
            raise ValueError("the signature is not strict DER: %s" % error) from None
        if key.kind == "P-256" and not (r < P256_N and s < P256_N):
            raise ValueError("the signature's numbers are out of range")
    return raw


def make_sigstore_bundle(raw: bytes, sha256: str) -> bytes:
    """A bundle that says just what was checked, for a cosign that reads nothing else."""
    import base64
    import json

    digest = {"algorithm": "SHA2_256", "digest": base64.b64encode(bytes.fromhex(sha256)).decode()}
    message = {"messageDigest": digest, "signature": base64.b64encode(raw).decode()}
    material = {"publicKey": {"hint": ""}}
    return json.dumps(
        {"mediaType": SIGSTORE_TYPES[0], "verificationMaterial": material, "messageSignature": message}
    ).encode()


def read_subjects(provenance: Document) -> list[tuple[str, str]]:
    """(name, SHA-256 hex or "") of every subject; ValueError when the list is missing or ambiguous."""
    lists = [provenance[key] for key in ("subject", "subjects") if key in provenance]
    if len(lists) != 1:
        raise ValueError("the provenance has %s subjects" % ("two lists of" if lists else "no"))
    if not isinstance(lists[0], list):
        raise ValueError("the provenance's subjects are not a list")
    subjects = []
    for item in lists[0]:
        name = item.get("name") if isinstance(item, dict) else None
        digests = item.get("digest") if isinstance(item, dict) else None
        if not isinstance(name, str) or not isinstance(digests, dict):
            raise ValueError("the provenance has a subject without name or digest")
        # Other algorithms beside SHA-256 are not read; the same one in two spellings is a trap.
        spellings = [key for key in digests if key.lower().replace("-", "") == "sha256"]
        if len(spellings) > 1:
            raise ValueError("the provenance's subject %s has two SHA-256 digests" % quoted(name))
        subjects.append((name, parse_digest(digests.get("sha256"))))
    return subjects


def subject_digest(provenance: Document | None, name: str) -> str:
    """The SHA-256 of the one subject called `name`; ValueError when there is not exactly one."""
    if provenance is None:
        raise ValueError("the provenance cannot be read")
    digests = [digest for subject, digest in read_subjects(provenance) if subject == name]
    if len(digests) != 1:
        raise ValueError("the provenance has %d subjects %s, not one" % (len(digests), quoted(name)))
    if not digests[0]:
        raise ValueError("the provenance's subject %s has no SHA-256 digest" % quoted(name))
    return digests[0]


def read_bundle_facts(manifest: Document | None) -> tuple[str, int, str]:
    """(name, size in bytes, SHA-256 hex) of the manifest's bundle; ValueError when one is missing."""
    bundle = manifest.get("bundle") if manifest is not None else None
    if not isinstance(bundle, dict):
        raise ValueError("the manifest describes no bundle" if manifest is not None else "the manifest cannot be read")
    name, size, digest = bundle.get("name"), bundle.get("size"), parse_digest(bundle.get("sha256"))
    if not isinstance(name, str) or type(size) is not int or size < 0 or not digest:
        raise ValueError("the manifest's bundle lacks a valid name, size or sha256")
    return name, size, digest


def read_artifacts(manifest: Document | None) -> dict[str, tuple[int, str]]:
    """Path to (size in bytes, SHA-256 hex) of every artifact; ValueError when the list is not sound."""
    listed = manifest.get("artifacts") if manifest is not None else None
    if not isinstance(listed, list):
        raise ValueError("the manifest lists no artifacts")
    artifacts: dict[str, tuple[int, str]] = {}
    for item in listed:
        fields = item if isinstance(item, dict) else {}
        path, size, digest = fields.get("path"), fields.get("size"), parse_digest(fields.get("sha256"))
        if not isinstance(path, str) or type(size) is not int or size < 0 or not digest:
            raise ValueError("the manifest has an artifact without a valid path, size or sha256")
        if path in artifacts:
            raise ValueError("the manifest lists %s twice" % quoted(path))
        artifacts[path] = (size, digest)
    return artifacts


STATEMENT_TYPES = ("https://in-toto.io/Statement/v1", "https://in-toto.io/Statement/v0.1")
PREDICATE_TYPES = ("https://slsa.dev/provenance/v1", "https://slsa.dev/provenance/v0.2")


def find_foreign_subjects(manifest: Document | None, provenance: Document) -> Iterator[str]:
    """Subjects that are neither the manifest nor the bundle nor an artifact: nothing here can check them."""
    try:
        subjects, (bundle, _, _) = read_subjects(provenance), read_bundle_facts(manifest)
    except ValueError:
        return  # checks 3 and 4 say so
    listed = {}
    try:
        listed = read_artifacts(manifest)
    except ValueError:
        pass  # check 6 says so
    for name, digest in subjects:
        if name not in (MANIFEST_NAME, bundle) and (name not in listed or listed[name][1] != digest):
            yield "the provenance is also about %s, which the manifest does not list" % quoted(name)


def find_schema_faults(manifest: Document | None, provenance: Document | None) -> Iterator[str]:
    """What keeps the documents from being of a kind that this version knows; a document that is None was told of."""
    if manifest is not None:
        version = manifest.get("schemaVersion")
        if type(version) is not int or version != 1:
            said = quoted(str(version)) if "schemaVersion" in manifest else "missing"
            yield "the manifest's schemaVersion is %s; stella %s knows 1" % (said, VERSION)
        if not isinstance(manifest.get("tenant"), str):
            yield "the manifest names no tenant"
        if not isinstance(manifest.get("distribution", []), list):
            yield "the manifest's distribution is not a list"
    if provenance is None:
        return
    for key, known in (("_type", STATEMENT_TYPES), ("predicateType", PREDICATE_TYPES)):
        if provenance.get(key) not in known:
            said = quoted(str(provenance[key])) if key in provenance else "missing"
            yield "the provenance's %s is %s, not %s" % (key, said, known[0])
    yield from find_foreign_subjects(manifest, provenance)


def check_schema(manifest: Document | None, provenance: Document | None, unreadable: Sequence[str]) -> list[Check]:
    """A failure when a document is not readable or of an unknown kind; nothing at all when both are known."""
    faults = [*unreadable, *find_schema_faults(manifest, provenance)]
    return [Check("schema", "fail", "; ".join(faults[:4]))] if faults else []


def check_run_id(run_id: str, manifest: Document | None, provenance: Document | None) -> Check:
    """Check 2: both documents are about this run."""
    predicate = provenance.get("predicate") if provenance is not None else None
    for what, document in (("manifest", manifest), ("provenance", predicate)):
        found = document.get("runId") if isinstance(document, dict) else None
        if not isinstance(found, str):
            return Check("run-id", "fail", "the %s names no run" % what)
        if found != run_id:
            return Check("run-id", "fail", "the %s is about run %s, not %s" % (what, quoted(found), quoted(run_id)))
    return Check("run-id", "pass", "both documents are about %s" % run_id)


def check_manifest_digest(provenance: Document | None, sha256: str) -> Check:
    """Check 3: the provenance has a subject export.json whose digest is the file's."""
    try:
        stated = subject_digest(provenance, MANIFEST_NAME)
    except ValueError as error:
        return Check("manifest-digest", "fail", str(error))
    fault = "the provenance is about a manifest sha256:%s, this one is sha256:%s" % (stated, sha256)
    return check_that("manifest-digest", stated == sha256, "sha256:" + sha256, fault)


def check_bundle_digest(manifest: Document | None, provenance: Document | None) -> Check:
    """Check 4: manifest and provenance agree on the bundle's digest."""
    try:
        name, _, digest = read_bundle_facts(manifest)
        stated = subject_digest(provenance, name)
    except ValueError as error:
        return Check("bundle-digest", "fail", str(error))
    fault = "the manifest says sha256:%s, the provenance sha256:%s" % (digest, stated)
    return check_that("bundle-digest", stated == digest, "sha256:" + digest, fault)


def check_bundle(manifest: Document | None, size: int, sha256: str) -> Check:
    """Check 5: the file has the size and SHA-256 of the manifest's bundle."""
    try:
        _, stated_size, stated = read_bundle_facts(manifest)
    except ValueError as error:
        return Check("bundle", "fail", str(error))
    if size != stated_size:
        return Check("bundle", "fail", "the file has %d bytes, the manifest says %d" % (size, stated_size))
    fault = "the file is sha256:%s, the manifest says sha256:%s" % (sha256, stated)
    return check_that("bundle", sha256 == stated, "%d bytes, sha256:%s" % (size, sha256), fault)


def check_age(manifest: Document | None, max_age_days: float | None, now: float) -> Check:
    """Check 8: the signed createdAt is not older than `max_age_days`; `now` in seconds since 1970."""
    if max_age_days is None:
        return Check("age", "skipped", "no --max-age was given")
    created = manifest.get("createdAt") if manifest is not None else None
    try:
        age_days = (now - parse_time(created if isinstance(created, str) else "")) / 86400
    except ValidationError:
        return Check("age", "fail", "the manifest has no valid createdAt")
    if age_days < -CLOCK_SKEW_DAYS:
        return Check("age", "fail", "the manifest is from the future (%s); is this host's clock right?" % created)
    fault = "the manifest is %.1f days old (%s), --max-age allows %g" % (age_days, created, max_age_days)
    return check_that("age", age_days <= max_age_days, "signed %s, %.1f days ago" % (created, max(age_days, 0)), fault)


# The reader of tar archives below is our own because tarfile is three times slower on a stream and, more
# to the point, knows sparse files, GNU long names and guessing, and skips what it does not understand.
# This one reads ustar and PAX headers (POSIX.1-2017, pax, "Extended Description") and refuses the rest:
# what two readers of tar could read in two ways is refused too.


class ArchiveError(ValueError):
    """The archive is not exactly what the manifest says, or not an archive that can be trusted."""


class TarStream:
    """A tar stream in one reused buffer, with a budget: what comes out beyond it is a bomb.

    fill(view): puts the next bytes at the front of `view` and gives their number, 0 at the end.
    """

    def __init__(self, fill: Callable[[memoryview], int], budget_bytes: int) -> None:
        self._fill = fill
        self._view = memoryview(bytearray(TAR_BUFFER_BYTES))
        self._start = self._end = 0
        self._left = budget_bytes

    def some(self, limit: int) -> memoryview:
        """1 to `limit` bytes, none at the end; good until the next call."""
        if self._start == self._end:
            self._start, self._end = 0, self._fill(self._view)
            self._left -= self._end
            if self._left < 0:
                raise ArchiveError("more comes out of the archive than the manifest says")
        start = self._start
        self._start = min(self._end, start + limit)
        return self._view[start : self._start]

    def take(self, count: int) -> bytes:
        """`count` bytes, fewer only at the end."""
        first = bytes(self.some(count))
        while len(first) < count:
            more = self.some(count - len(first))
            if not more:
                break
            first += more
        return first


TAR_TYPES = {
    b"1": "a hard link", b"2": "a symbolic link", b"3": "a device", b"4": "a device", b"5": "a directory",
    b"6": "a FIFO", b"7": "a contiguous file", b"S": "a GNU sparse file", b"L": "a GNU long name",
    b"K": "a GNU long link name", b"M": "a continued volume", b"D": "a GNU directory dump", b"V": "a volume label",
}  # fmt: skip
PAX_IGNORED = ("mtime", "atime", "ctime", "uid", "gid", "uname", "gname", "comment")


def parse_octal(field: bytes) -> int:
    """A number field of a tar header: octal digits, then NULs or spaces; base 256 is refused."""
    digits = field.rstrip(b" \0").lstrip(b" ")
    if not digits or digits.strip(b"01234567"):
        raise ArchiveError("a header has a number that is not octal")
    return int(digits, 8)


def parse_tar_text(field: bytes) -> str:
    """A name field: UTF-8 up to the first NUL, and nothing but NULs after it."""
    text, _, after = field.partition(b"\0")
    if after.strip(b"\0"):
        raise ArchiveError("a name goes on after a NUL")
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError:
        raise ArchiveError("a name is not UTF-8") from None


def parse_pax(data: bytes) -> dict[str, str]:
    r"""The records of an extended header, `<length> <key>=<value>\n` each; unknown and double keys are refused."""
    records: dict[str, str] = {}
    while data:
        length, space, _ = data[:20].partition(b" ")
        if not space or not length.isdigit() or not len(length) + 3 < int(length) <= len(data):
            raise ArchiveError("an extended header is malformed")
        record, data = data[len(length) + 1 : int(length)], data[int(length) :]
        key, equals, value = record[:-1].partition(b"=")
        if record[-1:] != b"\n" or not equals:
            raise ArchiveError("an extended header is malformed")
        try:
            name, text = key.decode("utf-8"), value.decode("utf-8")
        except UnicodeDecodeError:
            raise ArchiveError("an extended header is not UTF-8") from None
        if name in records or name not in ("path", "size", *PAX_IGNORED):
            raise ArchiveError("an extended header has the unknown or repeated key %s" % quoted(name))
        records[name] = text
    return records


def check_member_path(path: str) -> None:
    """Refuses names that could leave the folder they are unpacked in, hide what they are, or name a file twice."""
    parts = path.split("/")
    bad = not path.isprintable() or "\\" in path or path[1:2] == ":"
    if bad or any(part in ("", ".", "..") for part in parts):
        raise ArchiveError(
            "the member name %s is absolute, has `..` or empty parts, or unsafe characters" % quoted(path)
        )


def parse_tar_header(block: bytes) -> tuple[bytes, bytes, str, int]:
    """A 512-byte header to (type flag, name field, prefix, size in bytes)."""
    stated = parse_octal(block[148:156])
    if stated != sum(block) - sum(block[148:156]) + 8 * 32:
        raise ArchiveError("a header's checksum is wrong")
    posix, gnu = block[257:265] == b"ustar\x0000", block[257:265] == b"ustar  \0"
    if not posix and not gnu:
        raise ArchiveError("a header is not in ustar form")
    # Mode, owner, time and device do not matter here; but some readers end at a header where one is no number.
    for start, end in ((100, 108), (108, 116), (116, 124), (136, 148), (329, 337), (337, 345)):
        number = block[start:end]
        if number[0] not in (0x80, 0xFF) and number.strip(b" \0"):  # GNU's base 256, or nothing, is fine
            parse_octal(number)
    # GNU headers have other fields where POSIX ones have the prefix; some readers take them for one.
    if any(block[500 if posix else 345 :]):
        raise ArchiveError("a header has bytes where none belong")
    prefix = parse_tar_text(block[345:500]) if posix else ""
    return block[156:157], block[:100], prefix, parse_octal(block[124:136])


def check_archive_end(stream: TarStream) -> None:
    """After the first zero block: a second one, then zero padding and nothing else."""
    block = stream.take(512)
    if len(block) < 512:
        raise ArchiveError("the archive ends without its end mark")
    padding = 0
    while block:
        padding += len(block)
        if any(block):
            raise ArchiveError("the archive goes on after its end mark")
        if padding > MAX_TAR_PADDING_BYTES:
            raise ArchiveError("the archive is padded with more than %d bytes" % MAX_TAR_PADDING_BYTES)
        block = bytes(stream.some(512 * KIB))


def read_extended(stream: TarStream, size: int, flag: bytes) -> dict[str, str] | None:
    """The records of an extended header for the next member; None for a global one, which must not matter."""
    data = stream.take((size + 511) // 512 * 512)
    if len(data) < size or any(data[size:]):
        raise ArchiveError("an extended header ends early or is followed by hidden bytes")
    records = parse_pax(data[:size])
    number = records.get("size", "0")
    if not number.isascii() or not number.isdecimal() or len(number) > 18:
        raise ArchiveError("an extended header has a size that is not a number")
    if flag == b"x":
        return records
    if "path" in records or "size" in records:
        raise ArchiveError("a global header renames or resizes members")
    return None


def read_members(stream: TarStream) -> Iterator[tuple[str, int]]:
    """(path, size in bytes) of the regular files of a tar stream, in order; the caller takes each one's data
    before the next. ArchiveError for anything but regular files.
    """
    extended: dict[str, str] | None = None
    while True:
        block = stream.take(512)
        if len(block) < 512:
            raise ArchiveError("the archive ends without its end mark")
        if not any(block):
            break
        flag, field, prefix, size = parse_tar_header(block)
        if flag in (b"x", b"g"):
            if extended is not None or size > MAX_PAX_BYTES:
                raise ArchiveError("an extended header is out of place or over %d bytes" % MAX_PAX_BYTES)
            extended = read_extended(stream, size, flag)
            continue
        renamed = extended is not None and "path" in extended  # the field may then be cut inside a character
        path = field.rstrip(b"\0").decode("utf-8", "replace") if renamed else parse_tar_text(field)
        path = prefix + "/" + path if prefix else path
        if flag not in (b"0", b"\0"):
            raise ArchiveError("%s is %s" % (quoted(path), TAR_TYPES.get(flag, "of an unknown type")))
        if any(block[157:257]):
            raise ArchiveError("%s is a file and names the target of a link" % quoted(path))
        if renamed and (path[:1] == "/" or ".." in path.split("/")):
            raise ArchiveError("the header of a renamed member has the name %s" % quoted(path))
        if extended:
            path, size = extended.get("path", path), int(extended.get("size", size))
        check_member_path(path)
        yield path, size
        extended = None
    if extended is not None:
        raise ArchiveError("an extended header is followed by no member")
    check_archive_end(stream)


def hash_member(stream: TarStream, path: str, size: int, hasher: Any) -> str:
    """The digest of the next `size` bytes."""
    while size:
        data = stream.some(size)
        if not data:
            raise ArchiveError("the archive ends inside %s" % quoted(path))
        hasher.update(data)
        size -= len(data)
    return str(hasher.hexdigest())


def check_members(
    artifacts: dict[str, tuple[int, str]], fill: Callable[[memoryview], int], new_hash: Callable[[], Any]
) -> Check:
    """Check 6: the archive holds the artifacts of the manifest, all of them, once, and nothing else.

    Sizes are compared before a member is read, so a bomb ends at its header; one made of headers or of
    padding ends at the budget.
    """
    missing = dict(artifacts)
    budget = sum((size + 511) // 512 * 512 + 3 * 512 + MAX_PAX_BYTES for size, _ in artifacts.values())
    stream = TarStream(fill, budget + 2 * MAX_TAR_PADDING_BYTES)
    try:
        for path, size in read_members(stream):
            if path not in artifacts:
                raise ArchiveError("%s is not in the manifest" % quoted(path))
            if path not in missing:
                raise ArchiveError("%s is there twice" % quoted(path))
            stated, digest = missing.pop(path)
            if size != stated:
                raise ArchiveError("%s has %d bytes, the manifest says %d" % (quoted(path), size, stated))
            if hash_member(stream, path, size, new_hash()) != digest:
                raise ArchiveError("%s does not have the manifest's digest" % quoted(path))
            if any(stream.take(-size % 512)):
                raise ArchiveError("%s is followed by hidden bytes" % quoted(path))
    except ArchiveError as error:
        return Check("artifacts", "fail", str(error))
    if missing:
        some = ", ".join(quoted(path) for path in sorted(missing)[:3])
        return Check("artifacts", "fail", "%d missing from the archive: %s" % (len(missing), some))
    return Check("artifacts", "pass", "%d members, each with the manifest's size and digest" % len(artifacts))


# ==================================================================================================
# Room 8. Configuration
#
# One table of settings; flag, environment, profile file, default, in this order (contract 1). The only
# reader of the environment, but for PATH, in which Programs looks. A profile file is read strictly: an
# unknown key or a wrong type is an error.
# ==================================================================================================


class Setting:
    """A row of the table: where a setting may come from, of what kind it is, and what it is for."""

    __slots__ = ("default", "environment", "flag", "help", "key", "kind", "metavar", "name")

    def __init__(
        self,
        name: str,
        kind: str,
        flag: str,
        environment: tuple[str, ...],
        key: str,
        default: Json,
        metavar: str,
        text: str,
    ) -> None:
        self.name = name
        self.kind = kind  # of KINDS or NUMBERS
        self.flag = flag
        self.environment = environment
        self.key = key
        self.default = default
        self.metavar = metavar
        self.help = text


FORMATS = ("table", "json", "yaml")
# Kinds of numbers, in a profile file and on the command line: what it is, whether it is whole, from, to.
NUMBERS = {
    "wait": ("a number of seconds", False, 0.001, 86400),
    "seconds": ("a number of seconds", False, 0, 86400),
    "count": ("a whole number", True, 0, 1000),
    "long": ("a number of seconds", False, 0, 10_000_000),
    "days": ("a number of days", False, 0, 10_000_000),
    "integer": ("a whole number", True, 0, 10_000_000),
    "connections": ("a whole number", True, 1, MAX_CONNECTIONS),
}
CA_VARIABLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
SETTINGS = (
    Setting("server", "text", "--server", ("STELLA_SERVER",), "server", "https://stella.local", "URL", "gateway root"),
    Setting("tenant", "text", "--tenant", ("STELLA_TENANT",), "tenant", "", "ID",
            "tenant, for tokens of several tenants"),
    Setting("token", "text", "", ("STELLA_TOKEN",), "token", "", "", "bearer token"),
    Setting("token_file", "path", "", (), "token_file", "", "", "file that holds the token"),
    Setting("format", "format", "--format", (), "format", "", "table|json|yaml",
            "output form; default: table on a terminal, else json"),
    Setting("object_endpoint", "text", "", ("STELLA_EXPORT_OBJECT_ENDPOINT",), "object_endpoint", "", "",
            "object store"),
    Setting("ca_file", "path", "--ca-file", CA_VARIABLES, "ca_file", "", "FILE",
            "CA bundle to trust instead of the system's"),
    Setting("client_cert", "path", "", (), "client_cert", "", "", "client certificate"),
    Setting("client_key", "path", "", (), "client_key", "", "", "its private key"),
    Setting("tls_strict", "switch", "", (), "tls_strict", True, "", "Python 3.13's strict CA checks"),
    Setting("timeout", "wait", "--timeout", (), "timeout", 30.0, "SECONDS",
            "longest wait for a byte, or for a whole head"),
    Setting("retries", "count", "--retries", (), "retries", 5, "N", "retries of one operation"),
    Setting("retry_delay", "seconds", "--retry-delay", (), "retry_delay", 0.5, "SECONDS",
            "base delay between retries"),
    Setting("dpop_key", "path", "", ("STELLA_DPOP_KEY",), "dpop_key", "", "", "DPoP key (RFC 9449)"),
    Setting("cosign", "text", "", ("STELLA_COSIGN",), "", "", "", "cosign program"),
    Setting("zstd", "text", "", ("STELLA_ZSTD",), "", "", "", "zstd program"),
    Setting("openssl", "text", "", ("STELLA_OPENSSL",), "", "", "", "openssl program"),
    Setting("no_color", "text", "", ("NO_COLOR",), "", "", "", "no colour"),
    Setting("term", "text", "", ("TERM",), "", "", "", "kind of terminal"),
    Setting("columns", "text", "", ("COLUMNS",), "", "", "", "width of output"),
    Setting("traceparent", "text", "", ("TRACEPARENT",), "", "", "", "W3C trace context to go on with"),
    Setting("https_proxy", "text", "", ("https_proxy", "HTTPS_PROXY"), "", "", "", "proxy for https"),
    Setting("http_proxy", "text", "", ("http_proxy", "HTTP_PROXY"), "", "", "", "proxy for http"),
    Setting("no_proxy", "text", "", ("no_proxy", "NO_PROXY"), "", "", "", "hosts that take no proxy"),
)  # fmt: skip


GATEWAY_SETTINGS = ("server", "tenant", "token", "token_file")  # nothing to a command that never calls the gateway


def proxy_userinfo(proxy: str) -> str:
    """`user:password` as it stands in the URL of a proxy, or ""."""
    return proxy.rpartition("://")[2].rpartition("@")[0]


def basic_credentials(userinfo: str) -> str:
    """The userinfo of a URL as Basic credentials (RFC 7617)."""
    import base64
    from urllib.parse import unquote

    user, _, password = userinfo.partition(":")
    pair = "%s:%s" % (unquote(user), unquote(password))
    return base64.b64encode(pair.encode("utf-8", "surrogateescape")).decode()


class Config:
    """The settings of one invocation, and in `sources` where each came from, for messages."""

    def __init__(self, values: dict[str, Json], sources: dict[str, str], warnings: list[str]) -> None:
        self.server: str = values["server"]
        self.tenant: str = values["tenant"]
        self.token: str = values["token"]
        self.profile: str = values["profile"]
        self.format: str = values["format"]
        self.object_endpoint: str = values["object_endpoint"]
        self.ca_file: str = values["ca_file"]
        self.client_cert: str = values["client_cert"]
        self.client_key: str = values["client_key"]
        self.tls_strict: bool = values["tls_strict"]
        self.timeout: float = values["timeout"]
        self.retries: int = values["retries"]
        self.retry_delay: float = values["retry_delay"]
        self.dpop_key: str = values["dpop_key"]
        self.programs = {name: str(values[name]) for name in ("cosign", "zstd", "openssl")}
        self.proxies = {"https": str(values["https_proxy"]), "http": str(values["http_proxy"])}
        self.no_proxy: str = values["no_proxy"]
        self.traceparent: str = values["traceparent"]
        self.dumb: bool = values["term"] in ("dumb", "")
        self.color = not values["no_color"] and not self.dumb  # https://no-color.org: set and not empty
        self.columns = int(values["columns"][:5]) if values["columns"].isdecimal() else 0
        self.trace: bool = values["trace"]
        self.allow_http: bool = values["allow_http"]
        self.sources = sources
        self.warnings = warnings
        self.fault: ConfigError | None = None  # why the surroundings give no configuration; only doctor goes on then

    def secrets(self) -> tuple[str, ...]:
        """What must never be printed, whoever says it; what is too short to be told from plain words is left out."""
        found = {self.token}
        for proxy in self.proxies.values():
            userinfo = proxy_userinfo(proxy)
            if userinfo:
                from urllib.parse import unquote

                password = userinfo.partition(":")[2]
                found |= {userinfo, password, unquote(password), basic_credentials(userinfo)}
        return tuple(sorted((text for text in found if len(text) >= MIN_SECRET_CHARACTERS), key=len, reverse=True))

    def source(self, name: str) -> str:
        """Where a setting came from, such as `--server` or `STELLA_SERVER`."""
        return self.sources.get(name, name)


def read_small(path: str, what: str, limit: int, hint: str = "") -> bytes:
    """A file that the user named, at most `limit` bytes; ConfigError, with the hint, when it cannot be read."""
    try:
        with open(path, "rb") as file:
            data = file.read(limit + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "the name is not valid"
        raise ConfigError("cannot read the %s %s: %s" % (what, printable(path), reason), hint=hint) from None
    if len(data) > limit:
        raise ConfigError("the %s %s has more than %d bytes" % (what, printable(path), limit))
    return data


def read_input(path: str, what: str, limit: int) -> bytes:
    """A file that the user named, or standard input for `-`, at most `limit` bytes."""
    if path != "-":
        return read_small(path, what, limit)
    if sys.stdin is None:
        raise ConfigError("cannot read the %s: standard input is closed" % what)
    try:
        data = bytes(sys.stdin.buffer.read(limit + 1))
    except OSError as error:
        raise ConfigError("cannot read the %s from standard input: %s" % (what, error.strerror)) from None
    if len(data) > limit:
        raise ConfigError("the %s on standard input has more than %d bytes" % (what, limit))
    return data


def parse_flat_toml(text: str) -> Document:
    """Flat `key = value` TOML (strings, numbers, booleans, comments), for Python before 3.11.

    Strict: what it does not know it refuses, so that it never reads a file differently from tomllib.
    """
    import re

    values: Document = {}
    key = r"[ \t]*([A-Za-z0-9_-]+)[ \t]*=[ \t]*"
    plain, literal = r'"((?:[^"\\\x00-\x08\x0a-\x1f\x7f]|\\[btnfr"\\])*)"', r"'([^'\x00-\x08\x0a-\x1f\x7f]*)'"
    number = r"([+-]?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?)"
    pattern = "%s(?:%s|%s|%s|(true|false))[ \t]*(?:#[^\x00-\x08\x0a-\x1f\x7f]*)?" % (key, plain, literal, number)
    escapes = {"b": "\b", "t": "\t", "n": "\n", "f": "\f", "r": "\r", '"': '"', "\\": "\\"}
    for index, line in enumerate(text.replace("\r\n", "\n").split("\n"), 1):
        if re.fullmatch("[ \t]*(?:#[^\x00-\x08\x0a-\x1f\x7f]*)?", line):
            continue
        match = re.fullmatch(pattern, line)
        if match is None or match.group(1) in values:
            twice = match is not None
            reason = (
                "a key that is there already"
                if twice
                else "something that Python %d.%d reads only as `key = value`" % sys.version_info[:2]
            )
            raise ValueError("line %d has %s" % (index, reason))
        name, double, single, digits, word = match.groups()
        if double is not None:
            values[name] = re.sub(r"\\(.)", lambda found: escapes[found.group(1)], double)
        elif digits is not None:
            values[name] = int(digits) if digits.lstrip("+-").isdecimal() else float(digits)
        else:
            values[name] = single if single is not None else word == "true"
    return values


def read_toml(path: str) -> Document:
    """A profile file as a flat table; ConfigError names file and line."""
    hint = 'it has lines such as server = "https://stella.example.com" and token_file = "prod.token"'
    try:
        text = read_small(path, "saved defaults file", MAX_CONFIG_BYTES, hint).decode("utf-8")
        if sys.version_info >= (3, 11):
            try:
                import tomllib
            except ImportError:  # Debian's python3-minimal
                return parse_flat_toml(text)
            return tomllib.loads(text)
        return parse_flat_toml(text)
    except RecursionError:
        raise ConfigError("profile file %s: is nested too deep" % printable(path), hint=hint) from None
    except ValueError as error:  # UnicodeDecodeError and TOMLDecodeError are ValueErrors
        fault = str(error)[:1].lower() + str(error)[1:]
        raise ConfigError("profile file %s: %s" % (printable(path), printable(fault)), hint=hint) from None


def warn_shared(path: str, what: str, secret: bool, warnings: list[str]) -> None:
    """A warning when others may write a file, which says where the token goes, or they or the group may read a secret
    one (not asked on Windows, where modes mean nothing).
    """
    import shlex

    try:
        mode = os.stat(path).st_mode if os.name == "posix" else 0
    except OSError:
        return  # gone since it was read
    verb = "write" if mode & 0o002 else "read" if secret and mode & 0o044 else ""
    if verb:
        warnings.append("others can %s %s %s; chmod 600 %s" % (verb, what, path, shlex.quote(path)))


def profile_path(name: str) -> str:
    """Where the saved defaults of this name are."""
    return os.path.join(os.path.expanduser("~"), ".stella", "profiles", name + ".toml")


def fits_kind(value: Json, kind: str) -> bool:
    """True when a value from a profile file has the type that the table asks for."""
    if kind in ("text", "path"):
        return isinstance(value, str)
    if kind == "format":
        return value in FORMATS
    if kind == "switch":
        return isinstance(value, bool)
    _, whole, low, high = NUMBERS[kind]
    return (type(value) is int or (type(value) is float and not whole)) and low <= value <= high


KINDS = {
    "text": "a string",
    "path": "a string, the path of a file",
    "format": "table, json or yaml",
    "switch": "true or false",
}


def kind_words(kind: str) -> str:
    """What a value of this kind is, for a message."""
    return KINDS.get(kind) or "%s from %s to %s" % (NUMBERS[kind][0], *NUMBERS[kind][2:])


def load_profile(name: str, warnings: list[str]) -> Document:
    """~/.stella/profiles/NAME.toml, checked against the table; relative paths are from its folder."""
    allowed = name.isascii() and all(char.isalnum() or char in "._-" for char in name)
    if not name or name[0] == "." or not allowed:
        fault = "the profile name %s is not made of letters, digits, `.`, `_` and `-`, or begins with `.`"
        raise ConfigError(fault % quoted(name))
    path = profile_path(name)
    table = read_toml(path)
    known = {setting.key: setting for setting in SETTINGS if setting.key}
    wrong = []
    for key, value in table.items():
        setting = known.get(key)
        if setting is None:
            wrong.append("unknown key %s" % quoted(key))
        elif not fits_kind(value, setting.kind):
            wrong.append("key %s must be %s" % (quoted(key), kind_words(setting.kind)))
        elif setting.kind == "path":
            table[key] = os.path.join(os.path.dirname(path), os.path.expanduser(value))
    if "token" in table and "token_file" in table:
        wrong.append("token and token_file cannot stand together")
    if wrong:
        raise ConfigError(
            "profile file %s is not valid" % printable(path), wrong, "known keys: " + ", ".join(sorted(known))
        )
    secret = "token" in table
    warn_shared(path, "the profile file with a token" if secret else "the profile file", secret, warnings)
    return table


def check_token(token: str, source: str) -> str:
    """The token without white space around it; refused when it could not stand in a header."""
    token = token.strip()
    if not token.isascii() or not token.isprintable() or " " in token:
        raise ConfigError("the token from %s has characters that no token has (spaces, controls or non-ASCII)" % source)
    return token


def read_token_file(path: str, warnings: list[str]) -> str:
    """The token in a file; it may end in a line break."""
    if os.path.basename(path) == "-":
        raise ConfigError("token_file cannot be `-`: standard input is not read for secrets")
    hint = "it holds the token and nothing else; without a folder its name is one in ~/.stella/profiles"
    data = read_small(path, "token file", MAX_CONFIG_BYTES, hint)
    if not data.strip():
        raise ConfigError("the token file %s is empty" % printable(path))
    warn_shared(path, "the token file", True, warnings)
    return data.decode("utf-8", "replace")


def load_config(flags: Mapping[str, Json], environ: Mapping[str, str] | None = None, with_token: bool = True) -> Config:
    """The configuration of this invocation; ConfigError when a source cannot be used.

    flags: the global options by setting name, absent or None where not given. with_token: False for a
    command that never calls the gateway; then GATEWAY_SETTINGS are not looked at, and a bad one is no error.
    """
    environment = os.environ if environ is None else environ
    warnings: list[str] = []
    profile = flags.get("profile") or environment.get("STELLA_PROFILE") or ""
    table = load_profile(profile, warnings) if profile else {}
    values: dict[str, Json] = {"profile": profile}
    sources: dict[str, str] = {}
    for setting in SETTINGS:
        values[setting.name] = setting.default
        if setting.name in GATEWAY_SETTINGS and not with_token:
            continue
        variable = next((name for name in setting.environment if environment.get(name)), "")
        if flags.get(setting.name) is not None:
            values[setting.name], sources[setting.name] = flags[setting.name], setting.flag
        elif variable:
            values[setting.name], sources[setting.name] = environment[variable], variable
        elif setting.key in table:
            values[setting.name], sources[setting.name] = (
                table[setting.key],
                "%s in profile %s" % (setting.key, profile),
            )
    values["trace"] = bool(flags.get("trace"))
    values["allow_http"] = bool(flags.get("allow_http"))
    if values["token_file"] and "token" not in sources:
        sources["token"] = sources["token_file"]
        values["token"] = read_token_file(values["token_file"], warnings)
    values["token"] = check_token(values["token"], sources.get("token", ""))
    if (
        not (values["tenant"].isascii() and values["tenant"].isprintable())
        or values["tenant"].strip() != values["tenant"]
    ):
        raise ConfigError("the tenant from %s has characters that no tenant id has" % sources["tenant"])
    return Config(values, sources, warnings)


def load_config_anyway(flags: Mapping[str, Json]) -> Config:
    """For doctor: where load_config fails, `fault` says why, and what depends on profile and token stays empty."""
    try:
        return load_config(flags)
    except ConfigError as error:
        environment = {name: os.environ[name] for name in os.environ if name not in ("STELLA_PROFILE", "STELLA_TOKEN")}
        config = load_config(dict(flags, profile=None), environment)
        config.fault = error
        config.profile = str(flags.get("profile") or os.environ.get("STELLA_PROFILE") or "")
        return config


def inherited_environment() -> dict[str, str]:
    """What a program of ours needs from the surroundings: where to find libraries and to put temporary files."""
    names = ("PATH", "LD_LIBRARY_PATH", "SYSTEMROOT", "TMPDIR", "TEMP", "TMP")
    return {name: os.environ[name] for name in names if name in os.environ}


# ==================================================================================================
# Room 9. Terminal
#
# What people and scripts read: tables, views, JSON, YAML, progress. Standard output is the product,
# standard error is talk. The only room that writes to either. Server text for people passes
# `printable`; JSON and YAML keep every value.
# ==================================================================================================


def scalar_text(value: Json) -> str:
    """null, true, false, numbers and empty containers as JSON."""
    if value.__class__ is int:
        return str(value)
    if value is None or isinstance(value, bool):
        return "null" if value is None else "true" if value else "false"
    if isinstance(value, (dict, list)):
        return "{}" if isinstance(value, dict) else "[]"
    return value.text if isinstance(value, Number) else repr(value)


def json_text(value: Json, pretty: bool = True, level: int = 0) -> str:
    """JSON in the given key order, two-space indented or compact, numbers in their own spelling."""
    from json.encoder import encode_basestring

    if isinstance(value, (dict, list)) and value:
        inner = "\n" + "  " * (level + 1) if pretty else ""
        colon = ": " if pretty else ":"
        if isinstance(value, dict):
            items = [encode_basestring(key) + colon + json_text(item, pretty, level + 1) for key, item in value.items()]
        else:
            items = [json_text(item, pretty, level + 1) for item in value]
        body = inner + ("," + inner).join(items) + ("\n" + "  " * level if pretty else "")
        return "{%s}" % body if isinstance(value, dict) else "[%s]" % body
    if isinstance(value, str):
        return encode_basestring(value)
    return scalar_text(value)


MEMBER = "\2"  # a member's `":"`, which is half of all that stands between strings: it stays as it is at any level


class JsonLevel(dict):  # type: ignore[type-arg]
    """What stands between two strings of JSON text at one depth, mapped to (its indented form, the level after it).

    Learns each such piece once. None as a form: the outermost list has ended before.
    """

    def __init__(self, depth: int, levels: list[JsonLevel]) -> None:
        super().__init__()
        self.depth = depth
        self.levels = levels
        self.after_number: dict[str, tuple[str, JsonLevel]] = {}

    def __missing__(self, piece: str) -> tuple[str | None, JsonLevel]:
        if not self.depth and self.levels[0] is not self:
            return None, self
        if MEMBER in piece:
            raise KeyError(piece)
        room = MAX_JSON_FORMS
        rest = piece.lstrip(": \t\r\n0123456789+-.eE")
        number = piece[1 : len(piece) - len(rest)].strip()
        if number and piece[0] == ":":  # numbers differ, what follows them does not
            known = self.after_number.get(rest)
            if known is None:
                form, level = self._learn(":0" + rest)
                known = form[3:], level
                if len(self.after_number) < MAX_JSON_FORMS:
                    self.after_number[rest] = known
            step = ": " + number + known[0], known[1]
            room //= 2  # the same numbers come again, too, but must not crowd out the rest
        else:
            step = self._learn(piece)
        if len(self) < room:
            self[piece] = step
        return step

    def _learn(self, piece: str) -> tuple[str, JsonLevel]:
        import re

        depth, form, before = self.depth, "", ""
        for token in re.findall(r"[\[\]{}:,]|[^\s\[\]{}:,]+", piece):
            if token in "]}":
                depth -= 1
                form = form[: form.rfind("\n")] if before and before in "[{" else form + "\n" + "  " * depth
            depth += token in "[{"
            if depth >= MAX_JSON_DEPTH:  # the page itself is one level
                raise ProtocolError("the list is nested deeper than %d levels" % MAX_JSON_DEPTH)
            form += token + (" " if token == ":" else "\n" + "  " * depth if token in ",[{" else "")
            before = token
            if not depth and token in "]}":
                return form, self.levels[-1]
        while len(self.levels) < depth + 2:  # the last one is the level after the end
            self.levels.insert(-1, JsonLevel(len(self.levels) - 1, self.levels))
        return form, self.levels[depth]


def plain_escapes(text: str) -> str:
    """The inside of a JSON string in the one spelling that we write: no escapes where none are needed."""
    from json import loads
    from json.encoder import encode_basestring

    if "\\" not in text and "\0" not in text and "\1" not in text:
        return text
    return encode_basestring(loads('"%s"' % text.replace("\1", '\\"').replace("\0", "\\\\")))[1:-1]


class JsonIndenter:
    """Indents the text of a list as `json_text` would its values, five times as fast; numbers keep their spelling.

    The text is cut at its quotes; what lies between strings is one of few pieces, which JsonLevel looks up.
    """

    def __init__(self) -> None:
        self._levels: list[JsonLevel] = []
        self._levels += [JsonLevel(0, self._levels), JsonLevel(0, self._levels)]

    def items(self, page: str) -> str:
        """The indented list `items` of a page, strict JSON that was parsed before; "" where it is hard to find."""
        import re

        scalar = r'\s*"[^"\\]*"\s*:\s*(?:"[^"\\]*"|[^\s"\[\]{},][^"\[\]{},]*),'
        start = re.match(r'\s*\{(?:%s){0,50}?\s*"items"\s*:\s*(?=\[)' % scalar, page)
        return self.indent(page[start.end() :]) if start else ""

    def indent(self, text: str) -> str:
        """A list with whatever follows it, to the indented list."""
        escaped = "\\" in text
        if escaped:  # control characters cannot stand in JSON text: they keep the place of escapes that would mislead
            text = text.replace("\\\\", "\0").replace('\\"', "\1")
        try:
            text = self._indent_between(text.replace('":"', MEMBER)).replace(MEMBER, '": "')
        except KeyError:  # the quotes that went were those of the string ":"
            text = self._indent_between(text)
        if escaped:
            parts = text.split('"')
            parts[1::2] = map(plain_escapes, parts[1::2])
            text = '"'.join(parts)
        return text

    def _indent_between(self, text: str) -> str:
        """Indents what stands between strings."""
        parts = text.split('"')
        forms = []
        level = self._levels[0]
        for piece in parts[::2]:
            form, level = level[piece]
            forms.append(form)
        end = forms.index(None) if None in forms else len(forms)
        del parts[2 * end - 1 :]
        parts[::2] = forms[:end]
        return '"'.join(parts)


# Words that a YAML 1.1 or 1.2 reader takes for something other than a string.
YAML_WORDS = frozenset(("y", "n", "yes", "no", "on", "off", "true", "false", "null", "nan", "inf"))


def yaml_scalar(value: Json) -> str:
    """A number, true, false, null or an empty container; floats get the point and signed exponent of YAML 1.1."""
    text = scalar_text(value)
    if not isinstance(value, float):
        return text
    if text.lstrip("-") == "inf":  # 1e400, as it would read back
        return text.replace("inf", "1.0e+400")
    mantissa, mark, exponent = text.lower().partition("e")
    mantissa = mantissa if "." in mantissa else mantissa + ".0"
    return mantissa + (mark + (exponent if exponent[0] in "+-" else "+" + exponent) if mark else "")


def yaml_char(char: str) -> str:
    """A character inside double quotes; an escape for what is invisible or would end or bend the string."""
    escapes = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r"}
    if char in escapes or is_visible(char):
        return escapes.get(char, char)
    code = ord(char)
    return ("\\x%02x" if code < 0x100 else "\\u%04x" if code < 0x10000 else "\\U%08x") % code


class YamlWriter:
    """Block YAML that PyYAML (1.1) and ruamel.yaml (1.2) read back to the same value.

    A string is plain only where that is beyond doubt, else in double quotes with escapes for everything
    invisible; no folding, no anchors, no tags.
    """

    def __init__(self) -> None:
        import re

        # words with, see below, one space between them
        self._plain = re.compile(r"[A-Za-z_][A-Za-z0-9_./+ -]*(?<! )").fullmatch

    def text(self, value: Json) -> str:
        """The whole value."""
        return self._column([value], "")[0][1:]

    def _strings(self, texts: Sequence[str]) -> list[str]:
        """Strings, a space before each."""

        def is_simple(text: str) -> bool:
            return text.isascii() and text.isprintable() and '"' not in text and "\\" not in text

        all_simple = is_simple("".join(texts))
        return [
            " " + text
            if self._plain(text) and "  " not in text and (len(text) > 5 or text.lower() not in YAML_WORDS)
            else ' "%s"' % (text if all_simple or is_simple(text) else "".join(map(yaml_char, text)))
            for text in texts
        ]

    def _column(self, values: Sequence[Json], indent: str) -> list[str]:
        """Each value as it stands behind its colon or dash: ` text`, or lines, each behind a line feed and `indent`.

        The items of a list mostly have the same keys; their values are written a key at a time, all of one kind, which
        leaves most of the work to C.
        """
        shapes: list[Any] = [*map(tuple if set(map(type, values)) == {dict} else type, values)]
        if len(set(shapes)) > 1:
            texts = [""] * len(values)
            places: dict[Any, list[int]] = {}
            for place, shape in enumerate(shapes):
                places.setdefault(shape, []).append(place)
            for same in places.values():
                for place, text in zip(same, self._column([values[place] for place in same], indent)):
                    texts[place] = text
            return texts
        first = values[0]
        if isinstance(first, float):
            return [" " + yaml_scalar(value) for value in values]
        if not isinstance(first, (dict, list)):
            unique = [*dict.fromkeys(values)]
            texts = self._strings(unique) if isinstance(first, str) else [" " + yaml_scalar(value) for value in unique]
            return texts if len(texts) == len(values) else [*map(dict(zip(unique, texts)).__getitem__, values)]
        if len(indent) > 2 * MAX_JSON_DEPTH:
            raise ProtocolError("the answer is nested deeper than %d levels" % MAX_JSON_DEPTH)
        return self._maps(values, indent) if isinstance(first, dict) else self._lists(values, indent)

    def _maps(self, values: Sequence[Document], indent: str) -> list[str]:
        """Objects that have the same keys."""
        line = "\n" + indent
        # YAML reads a key only up to 1024 characters, unless a question mark says so
        names = ["? " + name[1:] + line if len(name) > 999 else name[1:] for name in self._strings([*values[0]])]
        form = "".join([line + name.replace("%", "%%") + ":%s" for name in names])
        columns = [self._column(column, indent + "  ") for column in zip(*map(dict.values, values))]
        return [form % row for row in zip(*columns)] if columns else [" {}"] * len(values)

    def _lists(self, values: Sequence[list[Json]], indent: str) -> list[str]:
        """Lists, whose items are all written together."""
        items = [item for value in values for item in value]
        if not items:
            return [" []"] * len(values)
        below, dash = "\n" + indent + "  ", "\n" + indent + "-"
        texts = self._column(items, indent + "  ")
        # lines begin on the line of their dash
        lines = iter([dash + (text if text[0] == " " else " " + text[len(below) :]) for text in texts])
        return ["".join([next(lines) for _ in value]) or " []" for value in values]


def yaml_text(value: Json) -> str:
    """A value as YAML that reads back to the same value with YAML 1.1 and 1.2 readers."""
    return YamlWriter().text(value)


def char_width(char: str) -> int:
    """Terminal columns of one printable character: 0 combining, 2 wide, else 1 (Unicode annex 11)."""
    import unicodedata

    if unicodedata.category(char) in ("Mn", "Me") or "\u1160" <= char <= "\u11ff":  # Hangul vowels join the syllable
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def text_width(text: str) -> int:
    """Terminal columns of printable text."""
    return len(text) if text.isascii() else sum(map(char_width, text))


def clip_text(text: str, width: int, ellipsis: str = "\u2026") -> str:
    """Text cut to `width` columns, with an ellipsis where something was cut."""
    if text_width(text) <= width:
        return text
    room = width - len(ellipsis)
    kept = 0
    for char in text:
        room -= char_width(char)
        if room < 0:
            break
        kept += 1
    return text[:kept] + ellipsis


STATUS_COLORS = {"succeeded": 32, "active": 32, "running": 36, "failed": 31, "cancelled": 33, "expired": 33}


class Table:
    """Left-aligned columns, two spaces apart, a page of rows at a time.

    Each page is as wide as its cells need, and no column gets narrower than before. On a terminal
    (`console.out_is_terminal`) the widest cells shrink to fit it, and status words have their colour.
    """

    def __init__(self, console: Console, header: Sequence[str]) -> None:
        self.console = console
        self.header = list(header)
        self.columns = console.columns(sys.__stdout__) if console.out_is_terminal else 0
        self.encoding = "" if console.unicode(sys.stdout) else getattr(sys.stdout, "encoding", None) or "ascii"
        self.ellipsis = "..." if self.encoding else "\u2026"
        self.widths = [0] * len(self.header)

    def lines(self, rows: Sequence[Sequence[str]]) -> list[str]:
        """The lines of some more rows; the header goes before the first."""
        cells = [*map(self._cells, rows)]
        if not any(self.widths):
            cells.insert(0, self.header)
        if not cells:
            return []
        ascii_only = "".join(map("".join, cells)).isascii()
        measure = len if ascii_only else text_width
        widest = [max(map(measure, column)) for column in zip(*cells)]
        self.widths = self._fitted([max(pair) for pair in zip(self.widths, widest)])
        if ascii_only and not self.columns:
            form = "  ".join("%%-%ds" % width for width in self.widths)
            return [(form % tuple(row)).rstrip() for row in cells]
        return [self._line(row) for row in cells]

    def _cells(self, row: Sequence[str]) -> list[str]:
        line = "".join(row)
        if line.isascii() and line.isprintable():
            return [*row]
        encoding = self.encoding or "utf-8"
        return [printable(text).encode(encoding, "backslashreplace").decode(encoding) for text in row]

    def _fitted(self, widths: list[int]) -> list[int]:
        while self.columns and sum(widths) + 2 * (len(widths) - 1) > self.columns and max(widths) > 4:
            widths[widths.index(max(widths))] -= 1
        return widths

    def _line(self, row: Sequence[str]) -> str:
        line = ""
        for name, cell, width in zip(self.header, row, self.widths):
            shown = clip_text(cell, width, self.ellipsis) if self.columns else cell
            painted = self.console.paint(shown) if name == "STATUS" else shown
            line += painted + " " * (width - text_width(shown) + 2)
        return line.rstrip()


def view_lines(fields: Sequence[tuple[str, str]]) -> list[str]:
    """A short readable view: one `Name:  value` line per field that has a value."""
    shown = [(name, printable(value)) for name, value in fields if value]
    width = max((len(name) for name, _ in shown), default=0)
    return ["%-*s  %s" % (width + 1, name + ":", value) for name, value in shown]


def size_text(count: float) -> str:
    """Bytes for people: 512 B, 1.5 KiB, 3.0 MiB."""
    units = ("B", "KiB", "MiB", "GiB", "TiB")
    step = 0
    count = min(count, 2.0**90)  # JSON's numbers have any length, a float's have not
    while count >= 1024 and step < len(units) - 1:
        count /= 1024
        step += 1
    return "%d B" % count if not step else "%.1f %s" % (count, units[step])


def duration_text(seconds: float) -> str:
    """Seconds for people: 0:07, 12:34, 1:02:03."""
    whole = int(seconds)
    minutes, second = divmod(whole, 60)
    hours, minute = divmod(minutes, 60)
    return "%d:%02d:%02d" % (hours, minute, second) if hours else "%d:%02d" % (minute, second)


def bar_text(percent: float | None, width: int, unicode: bool) -> str:
    """A progress bar of `width` columns; without a percentage, an empty one."""
    full, empty = ("\u2588", "\u2591") if unicode else ("#", "-")
    done = int(width * min(max(percent or 0.0, 0.0), 100.0) / 100)
    return full * done + empty * (width - done)


def time_of(seconds: float) -> str:
    """Seconds since 1970 as RFC 3339 in UTC."""
    import time

    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def time_text(value: Json) -> str:
    """An RFC 3339 time in UTC to the second; anything else as it came."""
    if not isinstance(value, str):
        return ""
    if len(value) == 20 and value[19] == "Z" and value[10] == "T" and value[17] < "6":
        return value  # in UTC to the second already, or no time at all
    try:
        return time_of(parse_time(value))
    except (ValidationError, OverflowError, OSError):
        return value


def json_escape(char: str) -> str:
    r"""A character as a JSON \u escape (a pair of them beyond the BMP)."""
    import json

    return json.dumps(char)[1:-1] if ord(char) != 0x7F else "\\u007f"


class Console:
    """Standard output and standard error of one invocation.

    Raises OutputClosed when the reader of standard output went away, LocalError when it cannot take more.
    """

    def __init__(self, config: Config | None = None) -> None:
        self.configure(config)

    def configure(self, config: Config | None) -> None:
        """What there is to know; without a configuration, before there is one, as plain as can be."""
        self.columns_wanted = config.columns if config else 0
        self.dumb = config.dumb if config else True
        self.color = config.color if config else False
        self.out_is_terminal = self._is_terminal(sys.stdout)
        self.err_is_terminal = self._is_terminal(sys.stderr)
        self.bars = self.err_is_terminal and not self.dumb
        self.bar = ""  # the status line that stands on the terminal now
        self.bar_columns = 0  # the terminal's width when it was drawn
        self.secrets = config.secrets() if config else ()

    @staticmethod
    def _is_terminal(stream: Any) -> bool:
        try:
            return bool(stream is not None and stream.isatty())
        except ValueError:  # closed
            return False

    def columns(self, stream: Any = None) -> int:
        """The width to draw in: COLUMNS, else the terminal's now (it may be resized), else 80."""
        if self.columns_wanted:
            return self.columns_wanted
        stream = stream or sys.__stderr__
        try:
            return os.get_terminal_size(stream.fileno()).columns or 80
        except (OSError, ValueError, AttributeError):
            return 80

    def unicode(self, stream: Any = None) -> bool:
        """True when standard error, or `stream`, can show any character."""
        encoding = (getattr(stream or sys.stderr, "encoding", "") or "").lower()
        return encoding.replace("-", "") in ("utf8", "utf8sig")

    def paint(self, word: str) -> str:
        """A status word in its colour, where colour is wanted."""
        color = STATUS_COLORS.get(word) if self.color and self.out_is_terminal else None
        return "\x1b[%dm%s\x1b[0m" % (color, word) if color else word

    def view(self, lines: Iterable[str]) -> None:
        """A short readable view, its status word in its colour."""
        split = (line.partition("Status:") for line in lines)
        painted = [
            mark + gap + self.paint(word) if mark and not before else before + mark + rest
            for before, mark, rest in split
            for gap, word in [(rest[: len(rest) - len(rest.lstrip())], rest.lstrip())]
        ]
        self.out("\n".join(painted))

    def write_bytes(self, data: bytes | memoryview) -> None:
        """Bytes to standard output, at once."""
        if sys.stdout is None:
            raise LocalError("standard output is closed")
        self.clear_bar()
        try:
            view = memoryview(data)
            while view:  # unbuffered (python3 -u) it takes what it can at once; None: nothing, without waiting
                view = view[sys.stdout.buffer.write(view) or self._no_room() :]
            sys.stdout.buffer.flush()
        except BrokenPipeError:
            self._drop_output()
            raise OutputClosed from None
        except OSError as error:
            self._drop_output()
            raise LocalError("cannot write to standard output: %s" % error.strerror) from None

    @staticmethod
    def _no_room() -> NoReturn:
        raise BlockingIOError(0, "it takes no more, and does not wait")

    def exact(self, data: bytes) -> None:
        """A server's bytes as they are; a terminal gets text that cannot move its cursor."""
        if self.out_is_terminal:
            self.document(data.decode("utf-8", "backslashreplace"))
        else:
            self.write_bytes(data)

    @staticmethod
    def _drop_output() -> None:
        """Python flushes standard output once more at its end: give it somewhere that takes it."""
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)

    def out(self, text: str) -> None:
        """A line of text for people on standard output, in the encoding of the surroundings."""
        encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
        self.write_bytes((self.redacted(text) + "\n").encode(encoding, "backslashreplace"))

    def document(self, text: str) -> None:
        """JSON, YAML or a script on standard output: always UTF-8, lone surrogates as the escapes they came as."""
        if self.out_is_terminal:
            text = "".join(char if is_visible(char) or char == "\n" else json_escape(char) for char in text)
        self.write_bytes(text.encode("utf-8", "backslashreplace"))

    def err(self, text: str) -> None:
        """A line on standard error; when that is closed or full there is nobody to tell."""
        if sys.stderr is None:
            return
        self.clear_bar()
        self._raw_err(text + "\n")

    def redacted(self, text: str) -> str:
        """Text for people without what a server or proxy may send back in it: secrets of ours, whole or with the end
        cut off, anything that is a JWT (proofs, tokens), and the query of a URL, which may be presigned.
        """
        for secret in self.secrets:
            pieces = text.split(secret[:CUT_SECRET_CHARACTERS])
            for index, piece in enumerate(pieces[1:], 1):  # each goes on with as much of the secret as is there
                same = [one == other for one, other in zip(piece, secret[CUT_SECRET_CHARACTERS:])]
                pieces[index] = piece[[*same, False].index(False) :]
            text = "[secret]".join(pieces)
        if "eyJ" in text or "?" in text:
            import re

            def without_query(word: Any) -> str:
                whole = str(word.group())
                place, mark, rest = whole.partition("?")
                return place + "?[secret]" if mark and rest and "/" in place else whole

            text = re.sub(r"eyJ[\w.-]{8,}", "[secret]", text)
            text = re.sub(r"\S+", without_query, text)
        return text

    def _raw_err(self, text: str) -> None:
        encoding = getattr(sys.stderr, "encoding", None) or "utf-8"
        try:
            sys.stderr.buffer.write(self.redacted(text).encode(encoding, "backslashreplace"))
            sys.stderr.buffer.flush()
        except (OSError, ValueError):
            self.bars = False

    def warn(self, text: str) -> None:
        """A warning: something that did not stop the work."""
        self.err("stella: warning: " + printable(text))

    def draw_bar(self, text: str) -> None:
        """Redraws the status line in place; only called where `bars` is true."""
        columns = self.columns()
        if not self.unicode():
            encoding = getattr(sys.stderr, "encoding", None) or "ascii"
            text = text.encode(encoding, "backslashreplace").decode(encoding)[: max(columns - 1, 1)]
        text = clip_text(text, max(columns - 1, 1))
        if (text, columns) != (self.bar, self.bar_columns):
            self._raw_err(self._wipe(columns) + text)
            self.bar, self.bar_columns = text, columns

    def clear_bar(self) -> None:
        """Wipes the status line before anything else is printed."""
        if self.bar:
            wipe = self._wipe(self.columns())
            self.bar = ""
            self._raw_err(wipe)

    def _wipe(self, columns: int) -> str:
        """Back to the start of the status line: a terminal made narrower since has broken it into several."""
        above = (text_width(self.bar) - 1) // columns if self.bar and columns < self.bar_columns else 0
        return "\x1b[%dA\r\x1b[J" % above if above else "\r\x1b[K"

    def error(self, error: StellaError) -> None:
        """An error with its details and what to do next."""
        limit = MAX_ERROR_CHARACTERS
        parts = [part[:limit] for part in (error.code, "trace " + error.trace_id if error.trace_id else "") if part]
        self.err(printable("stella: %s%s" % (error.message[:limit], " (%s)" % ", ".join(parts) if parts else "")))
        for detail in error.details[:MAX_ERROR_DETAILS]:
            self.err("  " + printable(detail[:limit]))
        if len(error.details) > MAX_ERROR_DETAILS:
            self.err("  ... and %d more" % (len(error.details) - MAX_ERROR_DETAILS))
        if error.hint:
            self.err("  " + printable(error.hint))


# ==================================================================================================
# Room 10. Files
#
# The only room that writes files. What a user names appears whole or not at all: written beside the
# target, flushed to disk, renamed. A download's bytes live in FILE.part, and what is needed to go on
# safely in FILE.part.json, until size and digest are right.
# ==================================================================================================


def local_error(action: str, path: str, error: OSError) -> LocalError:
    """An OSError as the user's error, with the file's name once."""
    return LocalError("cannot %s %s: %s" % (action, printable(path), error.strerror or type(error).__name__))


def sync_folder(path: str) -> None:
    """Flushes a rename to disk; not every system lets a folder be opened for that."""
    try:
        descriptor = os.open(os.path.dirname(path) or ".", os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError:
        pass
    finally:
        os.close(descriptor)


def make_parents(path: str) -> None:
    """Makes the folders above a file."""
    try:
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    except OSError as error:
        raise local_error("make the folder for", path, error) from None


def remove_file(path: str) -> None:
    """Removes a file of ours; that it is gone already, or cannot be removed, is no error."""
    try:
        os.unlink(path)
    except OSError:
        pass


def open_descriptor(path: str) -> int:
    """N of /dev/fd/N, which a shell's `>(command)` is, too, and of its other names, else -1."""
    import re

    match = re.fullmatch(r"/(?:dev|proc/self)/fd/([0-9]{1,9})", path)
    return int(match.group(1)) if match else {"/dev/stdout": 1, "/dev/stderr": 2}.get(path, -1)


def standard_name(path: str) -> str:
    """`-` for standard output under any of its names."""
    return "-" if open_descriptor(path) == 1 else path


def real_path(path: str) -> str:
    """The path with every link followed; LocalError where the working folder is gone."""
    try:
        return os.path.realpath(path)
    except OSError as error:
        raise local_error("find", path, error) from None


def check_file_name(path: str) -> None:
    """LocalError where no file can have this name."""
    if os.path.isdir(path) or not os.path.basename(path):
        reason = "it is a folder" if os.path.isdir(path) else "it ends in /; name a file"
        raise LocalError("cannot write %s: %s" % (printable(path), reason))


def check_output(output: str) -> None:
    """LocalError, before any work is done for it, where --output can be no file."""
    if output not in ("", "-"):
        check_file_name(output)


class AtomicFile:
    """A file that appears at `path` on commit, whole, or not at all.

    A link is written through to its target; something that is no regular file, such as /dev/null or a
    FIFO, is written to directly, because a rename would replace it, and so is a file that is open already.
    """

    def __init__(self, path: str) -> None:
        import stat

        self.path = real_path(path)
        self.temporary = ""
        self._old: str | None = None  # a link to what `restore` brings back, "" for nothing, None where it cannot
        self._file: BinaryIO | None = None
        make_parents(self.path)
        try:
            if open_descriptor(path) >= 0:
                if os.isatty(open_descriptor(path)):
                    raise LocalError("%s is a terminal" % printable(path), hint="use - for standard output")
                self._file = os.fdopen(os.dup(open_descriptor(path)), "wb")
                return
            check_file_name(path)
            mode = os.stat(self.path).st_mode if os.path.lexists(self.path) else 0
            if mode and not stat.S_ISREG(mode):
                self._file = open(self.path, "wb")  # noqa: SIM115 - closed in close() or discard()
                return
            folder, name = os.path.split(self.path)
            start = os.fsdecode(os.fsencode(name)[:80])  # a name has at most 255 bytes
            self.temporary = os.path.join(folder, ".%s.%s.tmp" % (start, os.urandom(6).hex()))
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
            self._file = os.fdopen(os.open(self.temporary, flags, 0o666), "wb")
            if mode:
                os.chmod(self.temporary, mode & 0o777)
        except BaseException as error:  # Ctrl-C may come at any moment
            self.discard()
            if isinstance(error, OSError):
                raise local_error("write", path, error) from None
            raise

    def write(self, data: bytes) -> None:
        """Adds bytes."""
        try:
            if self._file is not None:
                self._file.write(data)
        except OSError as error:
            self.discard()
            raise local_error("write", self.path, error) from None

    def close(self) -> None:
        """Everything is on disk, but not yet under its name."""
        try:
            if self._file is not None and not self._file.closed:
                self._file.flush()
                if self.temporary:
                    os.fsync(self._file.fileno())
                self._file.close()
        except OSError as error:
            self.discard()
            raise local_error("write", self.path, error) from None

    def commit(self) -> None:
        """Gives the file its name."""
        self.close()
        if not self.temporary:
            return
        try:
            os.replace(self.temporary, self.path)
        except OSError as error:
            self.discard()
            raise local_error("write", self.path, error) from None
        self.temporary = ""
        sync_folder(self.path)

    def keep_old(self) -> None:
        """Before a commit: what the name stands for now can come back, see `restore`, until `discard`."""
        if not self.temporary:
            return  # it is written directly
        self._old = self.temporary + ".tmp" if os.path.lexists(self.path) else ""
        try:
            if self._old:
                os.link(self.path, self._old)
        except OSError:
            self._old = None  # a file system without links cannot go back

    def restore(self) -> None:
        """Undoes a commit, however far it came; the name stands again for what `keep_old` found."""
        committed = self._old is not None and not (self.temporary and os.path.lexists(self.temporary))
        if committed and self._old:
            os.replace(self._old, self.path)
        elif committed:
            remove_file(self.path)

    def discard(self) -> None:
        """Leaves nothing behind; harmless after a commit."""
        if self._file is not None:
            try:
                self._file.close()
            except OSError:
                pass
        for path in (self.temporary, self._old):
            if path:
                remove_file(path)
        self.temporary, self._old = "", None


def write_files(contents: Sequence[tuple[str, bytes]]) -> None:
    """Writes all of (path, bytes), or none of them."""
    files: list[AtomicFile] = []
    try:
        for path, data in contents:
            files.append(AtomicFile(path))
            files[-1].write(data)
        for file in files:
            file.close()
            file.keep_old()
        try:
            for file in files:
                file.commit()
        except BaseException:  # a name that cannot be had, or Ctrl-C between two of them
            for file in files:
                file.restore()
            raise
    finally:
        for file in files:
            file.discard()


def free_bytes(path: str) -> int:
    """Bytes that may still be written where `path` is."""
    if hasattr(os, "statvfs"):
        room = os.statvfs(path)
        return room.f_bavail * room.f_frsize
    import shutil

    return shutil.disk_usage(path).free


def remove_folder(path: str) -> None:
    """Removes a folder of ours with all that is in it, as far as that can be."""
    for folder, _, names in os.walk(path, topdown=False):
        for name in names:
            remove_file(os.path.join(folder, name))
        try:
            os.rmdir(folder)
        except OSError:
            pass  # a link to a folder, or something that a program made and we may not remove


def make_private_folder(contents: Sequence[tuple[str, bytes]]) -> str:
    """A new folder that only this user can enter, with files of these (name, bytes); the caller removes it."""
    import tempfile

    folder = ""
    try:
        folder = tempfile.mkdtemp(prefix="stella-")
        for name, data in contents:
            with open(os.path.join(folder, name), "wb") as file:
                file.write(data)
    except BaseException as error:
        if folder:
            remove_folder(folder)
        if isinstance(error, OSError):
            raise local_error("write under", os.path.dirname(folder) or "the temporary folder", error) from None
        raise
    return folder


def file_facts(path: str) -> tuple[int, str]:
    """(size in bytes, SHA-256 hex) of a file."""
    import hashlib

    hasher, size, count = hashlib.sha256(), 0, 1
    buffer = memoryview(bytearray(CHUNK_BYTES))
    try:
        with open(path, "rb", buffering=0) as file:
            while count:
                count = file.readinto(buffer)
                hasher.update(buffer[:count])
                size += count
    except OSError as error:
        raise local_error("read", path, error) from None
    return size, hasher.hexdigest()


def lock_file_windows(descriptor: int) -> bool | None:
    """As lock_file on Windows (untried there): one byte far behind any bundle's end is locked."""
    import importlib

    msvcrt: Any = importlib.import_module("msvcrt")
    try:
        os.lseek(descriptor, 1 << 62, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        os.lseek(descriptor, 0, os.SEEK_SET)
    except OSError:
        return None
    return True


def lock_file(descriptor: int) -> bool | None:
    """Takes the exclusive lock of an open file without waiting: True; False where the file system knows no locks; None
    when another process has it.

    A POSIX record lock, which holds between the hosts of a network file system, else flock. Never both: NFS and
    SMB make a record lock of flock, which the first one would then keep out.
    """
    import errno

    try:
        import fcntl
    except ImportError:
        return lock_file_windows(descriptor)
    for lock in (fcntl.lockf, fcntl.flock):
        try:
            lock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                return None
    return False


def start_thread(work: Callable[..., None], *arguments: Any) -> Any:
    """A running thread that does not outlive the process; LocalError where the system starts none."""
    import threading

    thread = threading.Thread(target=work, args=arguments, daemon=True)
    try:
        thread.start()
    except RuntimeError:
        hint = "raise its limit of processes (ulimit -u)"
        raise LocalError("this system starts no further thread", hint=hint) from None
    return thread


class PartDigest:
    """SHA-256 of a .part, in a thread of its own that follows the bytes: reading and hashing release the interpreter's
    lock, as receiving does, so the digest is ready when the last byte is.

    What was just written is read back from the page cache: bytes of an earlier invocation, of one connection
    or of several, in order or not, all are hashed in the same way, once.
    """

    def __init__(self, part: PartFile) -> None:
        import hashlib
        import threading

        self._part = part
        self._hasher = hashlib.sha256()
        self._news = threading.Condition()
        self._limit = 0  # bytes that are there without a gap
        self._at = 0  # bytes that were hashed
        self._ended = False
        self._error: OSError | None = None
        self._thread = start_thread(self._follow)

    def advance(self, limit: int) -> None:
        """The bytes before `limit` are there, and stay as they are."""
        if limit == self._limit:  # pieces further on concern nobody yet
            return
        with self._news:
            self._limit = limit
            self._news.notify()

    def hexdigest(self, tell: Callable[[int], None]) -> str:
        """The digest of all the bytes that are there; `tell` hears now and then how many have been seen."""
        with self._news:
            self._ended = True
            self._news.notify()
        while self._thread.is_alive():
            self._thread.join(FILL_SECONDS)
            tell(self._at)
        if self._error is not None:
            raise local_error("read back", self._part.path, self._error)
        return self._hasher.hexdigest()

    def stop(self) -> None:
        """Ends the thread before it has seen every byte."""
        with self._news:
            self._ended = True
            self._limit = 0
            self._news.notify()
        self._thread.join(FILL_SECONDS)  # after a Ctrl-C at an odd moment it may never hear of it, and harms nobody

    def _follow(self) -> None:
        view = memoryview(bytearray(TAR_BUFFER_BYTES))
        while True:
            with self._news:
                while self._at >= self._limit and not self._ended:
                    self._news.wait()
                left = self._limit - self._at
            if left <= 0:
                return
            try:
                count = self._part.read_at(self._at, view[:left])
                if not count:
                    raise OSError(0, "it is shorter than it was")
            except (OSError, ValueError) as error:  # or .part was closed meanwhile
                self._error = error if isinstance(error, OSError) else OSError(0, str(error))
                return
            self._hasher.update(view[:count])
            self._at += count


class PartFile:
    """FILE.part and FILE.part.json, held by this process alone.

    Several threads may write and read at once. The lock lies on FILE.part itself and dies with the process, or
    when the process closes that file, which it therefore opens only here; `unlocked` where there are no locks.
    """

    def __init__(self, target: str) -> None:
        import threading

        self.target = real_path(target)
        self.path = self.target + ".part"
        self.sidecar_path = self.path + ".json"
        self.unlocked = False
        self._place = threading.Lock()  # where a file has only one place to read and write at
        check_file_name(target)
        if open_descriptor(target) >= 0 or (os.path.exists(self.target) and not os.path.isfile(self.target)):
            raise LocalError("cannot write %s: it is not a regular file" % printable(target), hint="try --output -")
        make_parents(self.target)
        try:
            self.file = self._open()
        except OSError as error:
            raise local_error("write", self.path, error) from None

    def _open(self) -> Any:
        import stat

        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0)
        for _ in range(MAX_OPENINGS):
            file = os.fdopen(os.open(self.path, flags, 0o666), "r+b", buffering=0)
            facts = os.fstat(file.fileno())
            if not stat.S_ISREG(facts.st_mode) or facts.st_nlink > 1:  # what else has this name is not ours
                file.close()
                fault = "cannot write %s: it is not a regular file, or has another name" % printable(self.path)
                raise LocalError(fault, hint="remove it, or choose another --output")
            locked = lock_file(file.fileno())
            if locked is None:
                file.close()
                hint = "wait for it, or choose another --output"
                raise ConfigError("another process is downloading to %s" % printable(self.target), hint=hint)
            self.unlocked = not locked
            if self._is_named(file):  # the process before us may just have renamed what we opened
                return file
            file.close()
        raise LocalError("cannot write %s: it is replaced again and again" % printable(self.path))

    def _is_named(self, file: Any) -> bool:
        try:
            return os.path.samestat(os.lstat(self.path), os.fstat(file.fileno()))
        except FileNotFoundError:
            return False

    def _check_named(self) -> None:
        """Another process may have removed .part and made its own: neither that nor its sidecar is ours."""
        if not self._is_named(self.file):
            raise LocalError("%s was removed or replaced while it was written" % printable(self.path))

    def size(self) -> int:
        """Bytes in .part, holes included."""
        return os.fstat(self.file.fileno()).st_size

    def missing_bytes(self, size: int) -> int:
        """What a bundle of `size` bytes still needs on the disk; holes take no room yet."""
        facts = os.fstat(self.file.fileno())
        return size - min(getattr(facts, "st_blocks", size) * 512, facts.st_size)

    def read_sidecar(self) -> Document | None:
        """What the sidecar says, or None when there is none that can be read. A FIFO would hang; a link may lead to
        .part itself, and closing that here would give up its lock.
        """
        facts = os.lstat(self.sidecar_path) if os.path.isfile(self.sidecar_path) else None
        if facts is None or os.path.islink(self.sidecar_path) or facts.st_nlink > 1:
            return None
        try:
            return parse_object(read_small(self.sidecar_path, "sidecar", MAX_CONFIG_BYTES), "sidecar")
        except StellaError:
            return None

    def write_sidecar(self, facts: Document) -> None:
        """Replaces the sidecar, or a link in its place; the lock guards the one name of the new one, too."""
        self._check_named()
        fresh = self.sidecar_path + ".tmp"
        remove_file(fresh)
        try:
            with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666), "wb") as file:
                file.write(json_text(facts).encode())
                file.flush()
                os.fsync(file.fileno())
            os.replace(fresh, self.sidecar_path)
        except OSError as error:
            raise local_error("write", self.sidecar_path, error) from None
        sync_folder(self.sidecar_path)

    def truncate(self, size: int) -> None:
        """Cuts .part to `size` bytes."""
        try:
            self.file.truncate(size)
        except OSError as error:
            raise local_error("write", self.path, error) from None

    def write_at(self, offset: int, data: memoryview) -> None:
        """Writes all of `data` at `offset`."""
        try:
            while data:
                count = self._write_some(offset, data)
                offset, data = offset + count, data[count:]
        except OSError as error:
            raise local_error("write", self.path, error) from None

    def _write_some(self, offset: int, data: memoryview) -> int:
        if hasattr(os, "pwrite"):
            return os.pwrite(self.file.fileno(), data, offset)
        with self._place:
            self.file.seek(offset)
            return int(self.file.write(data))

    def read_at(self, offset: int, view: memoryview) -> int:
        """Fills `view` from `offset` on, as far as there are bytes; gives their number."""
        if hasattr(os, "preadv"):
            return os.preadv(self.file.fileno(), [view], offset)
        with self._place:
            self.file.seek(offset)
            return int(self.file.readinto(view))

    def digester(self) -> PartDigest:
        """What computes the digest of .part from its start."""
        return PartDigest(self)

    def sync(self) -> None:
        """Flushes .part to disk."""
        try:
            os.fsync(self.file.fileno())
        except OSError as error:
            raise local_error("write", self.path, error) from None

    def finish(self) -> None:
        """The bytes are right: give them their final name."""
        self.sync()
        self._check_named()
        if os.name == "nt":
            self.file.close()  # Windows renames no open file
        try:
            os.replace(self.path, self.target)
        except OSError as error:
            raise local_error("write", self.target, error) from None
        remove_file(self.sidecar_path)  # at once: the next process may make its own from now on
        remove_file(self.sidecar_path + ".tmp")
        sync_folder(self.target)
        self.file.close()

    def discard(self) -> None:
        """Removes .part and its sidecar."""
        if self._is_named(self.file):
            for path in (self.path, self.sidecar_path, self.sidecar_path + ".tmp"):
                remove_file(path)
        self.file.close()

    def keep(self) -> None:
        """Leaves .part for a later --resume; an empty one is of no use and goes."""
        if self.file.closed:
            return
        if self.size():
            remove_file(self.sidecar_path + ".tmp")
            self.file.close()
        else:
            self.discard()


def sweep_sidecar(target: str) -> None:
    """Removes what a kill between a bundle's renaming and the end of the clean-up has left."""
    part = target + ".part"
    if os.path.lexists(part + ".json") and not os.path.lexists(part):
        try:
            PartFile(target).keep()
        except StellaError:
            pass  # another process has begun meanwhile, or the folder cannot be written; nobody is misled by it


# ==================================================================================================
# Room 11. Programs
#
# cosign, zstd and openssl: the only subprocesses. Argument lists, no shell; the exit status decides,
# never a phrase. A verifier works on private copies of the very bytes that were parsed and hashed, in a
# folder of its own; its environment names a home of its own and a dead proxy, so it finds no network.
# ==================================================================================================


def find_executable(name: str, folder: str = "") -> str:
    """The path of a program in `folder`, else on PATH (or `name` itself where it is a path); or ""."""
    try:
        import shutil
    except ImportError:  # Debian's python3-minimal
        folders = [folder or ""] if folder or os.path.dirname(name) else os.get_exec_path()
        paths = [os.path.join(place, name) for place in folders]
        return next((path for path in paths if os.path.isfile(path) and os.access(path, os.X_OK)), "")
    return shutil.which(name, path=folder or None) or ""


def find_program(name: str, config: Config) -> str:
    """The program's path: from its environment variable, else vendor/ beside this file, else PATH; or ""."""
    wanted = config.programs.get(name, "")
    if wanted:
        found = find_executable(wanted)
        if not found:
            hint = "set it to the path of %s, or unset it to have one looked for" % name
            raise ConfigError("%s names %s, which is no program" % (config.source(name), quoted(wanted)), hint=hint)
        return found
    here = os.path.dirname(os.path.realpath(__file__))
    for folder in (os.path.join(here, "vendor"), os.path.join(here, "vendor", "bin")):
        candidate = find_executable(name, folder)
        if candidate:
            return candidate
    return find_executable(name)


COSIGN_OFFLINE = "SIGSTORE_REKOR_PUBLIC_KEY"  # see program_environment
NO_HOME = "/nonexistent"  # nothing of the user's configures a program of ours
NO_PROXY_THERE = "http://127.0.0.1:9"  # the discard port of this host: whoever asks the network fails at once


def program_environment(home: str) -> dict[str, str]:
    """The environment of a verifier: where to find libraries, a home of its own, no way out, and nothing else.

    SIGSTORE_REKOR_PUBLIC_KEY: cosign 2.5.1 to 3.0.3 ask the network for the log's key even where they
    are told to ignore the log; with any path here they do not.
    """
    nowhere = os.path.join(home, "none")
    return dict(
        inherited_environment(),
        HOME=home,
        LC_ALL="C",
        TUF_ROOT=nowhere,
        SIGSTORE_NO_CACHE="true",
        HTTPS_PROXY=NO_PROXY_THERE,
        HTTP_PROXY=NO_PROXY_THERE,
        **{COSIGN_OFFLINE: nowhere},
    )


def run_program(
    command: list[str], home: str = NO_HOME, feed: bytes = b"", unset: str = ""
) -> tuple[int, bytes, bytes]:
    """Runs a program to its end, `feed` on its standard input: (exit status, standard output, standard error).

    unset: a variable that is left out of its environment.
    """
    import subprocess

    environment = program_environment(home)
    environment.pop(unset, None)
    try:
        done = subprocess.run(
            command, input=feed, capture_output=True, env=environment, timeout=PROGRAM_SECONDS, check=False
        )
    except OSError as error:
        raise ConfigError("cannot run %s: %s" % (printable(command[0]), error.strerror)) from None
    except subprocess.TimeoutExpired:
        raise ConfigError("%s did not end within %d seconds" % (printable(command[0]), PROGRAM_SECONDS)) from None
    return done.returncode, done.stdout, done.stderr


VERIFIERS = ("auto", "cosign", "openssl", "builtin")
OTHER_VERIFIER = "choose another one, such as --verifier openssl or --verifier builtin"


class Verifier:
    """One of cosign, openssl, builtin: `name`, `path` of the program (this file for builtin), and `version` as
    it says itself, which for a distribution's build may be no more than "devel"; its digest says more.
    """

    def __init__(self, name: str, path: str, version: str) -> None:
        self.name = name
        self.path = path or os.path.realpath(__file__)
        self.version = version
        self.proven = name == "builtin"  # it has refused what had to be refused
        self._known: dict[tuple[str, ...], bool] = {}

    def knows(self, *words: str) -> bool:
        """True when cosign or openssl takes these options: they are read before --help, which comes last."""
        if words not in self._known:
            status, _, _ = run_program([self.path, *words, "--help" if self.name == "cosign" else "-help"])
            self._known[words] = status == 0
        return self._known[words]


def program_version(name: str, path: str) -> str:
    """The version that a program states, as text for the report."""
    import re

    status, out, err = run_program([path, "version"])
    if status != 0:
        reason = err.decode("utf-8", "replace").strip().splitlines()[-1:]
        raise ConfigError("%s does not run (exit status %d)" % (printable(path), status), reason, OTHER_VERIFIER)
    pattern = rb"GitVersion:\s*(\S+)" if name == "cosign" else rb"((?:OpenSSL|LibreSSL)\s+\S+)"
    found = re.search(pattern, out + err)
    return found.group(1).decode("ascii", "replace") if found else "unknown"


def choose_verifier(wanted: str, config: Config) -> Verifier:
    """The verifier asked for, or for `auto` the first of cosign, openssl, builtin that this host has.

    The choice falls before any check starts; nothing falls back after a failure.
    """
    for name in ("cosign", "openssl") if wanted == "auto" else (wanted,):
        if name == "builtin":
            break
        path = find_program(name, config)
        if path:
            return Verifier(name, path, program_version(name, path))
        if wanted != "auto":
            hint = "set %s, put it into vendor/ beside stella.py or on PATH, or leave out --verifier" % (
                "STELLA_" + name.upper()
            )
            raise ConfigError("%s was asked for and is not on this host" % name, hint=hint)
    return Verifier("builtin", "", VERSION)


# Nobody is trusted but the key that is given; without this file cosign 2.4 and newer ask the network for one.
SIGSTORE_ROOT = b"""{"mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1"}"""


def cosign_command(verifier: Verifier, sigstore: bool) -> list[str]:
    """`cosign verify-blob` for a key that no public log knows; @NAME stands for a file of ask_verifier.

    2.0 to 2.3 know only --signature, 2.4 to 3.x both forms, 4 will know only the bundle.
    """
    base = ["verify-blob", "--key", "@key.pub", "--insecure-ignore-tlog=true"]
    bundle = ["--bundle", "@bundle", "--trusted-root", "@root"]
    if sigstore and verifier.knows("verify-blob", "--new-bundle-format"):
        return [*base, *bundle, "--new-bundle-format", "@blob"]
    if verifier.knows("verify-blob", "--insecure-ignore-tlog", "--signature", "x"):
        return [*base, "--signature", "@text", "@blob"]
    if not verifier.knows("verify-blob", "--insecure-ignore-tlog", "--trusted-root", "x"):
        raise ConfigError("%s is no cosign 2 or newer" % printable(verifier.path), hint=OTHER_VERIFIER)
    return [*base, *bundle, "@blob"]


def openssl_command(verifier: Verifier, kind: str) -> list[str]:
    """`openssl dgst -verify`, or `pkeyutl` for Ed25519, which signs the bytes and not a digest."""
    if kind != "Ed25519":
        return ["dgst", "-sha256", "-verify", "@key.pub", "-signature", "@raw", "@blob"]
    if not verifier.knows("pkeyutl", "-rawin"):
        raise ConfigError("%s cannot verify Ed25519; OpenSSL 3 can" % verifier.version, hint="put cosign on this host")
    return ["pkeyutl", "-verify", "-pubin", "-inkey", "@key.pub", "-rawin", "-in", "@blob", "-sigfile", "@raw"]


def ask_verifier(
    verifier: Verifier, key: PublicKey, blob: bytes, raw: bytes, sigstore: bool, unset: str
) -> tuple[int, str]:
    """(exit status, last line said) of cosign or openssl about a raw signature over `blob`."""
    import base64
    import hashlib

    bundle = make_sigstore_bundle(raw, hashlib.sha256(blob).hexdigest())
    files = {"blob": blob, "key.pub": key.pem, "raw": raw, "text": base64.b64encode(raw), "bundle": bundle}
    folder = make_private_folder([*files.items(), ("root", SIGSTORE_ROOT)])
    try:
        cosign = verifier.name == "cosign"
        words = cosign_command(verifier, sigstore) if cosign else openssl_command(verifier, key.kind)
        command = [os.path.join(folder, word[1:]) if word[0] == "@" else word for word in words]
        status, out, err = run_program([verifier.path, *command], folder, unset=unset)
    finally:
        remove_folder(folder)
    if status < 0:
        raise ConfigError("%s was ended by signal %d" % (printable(verifier.path), -status), hint=OTHER_VERIFIER)
    said = (err or out).decode("utf-8", "replace").strip().splitlines() or ["exit status %d" % status]
    return status, said[-1].rpartition("error during command execution: ")[2][:200]  # as cosign begins every one


def verify_signature(verifier: Verifier, key: PublicKey, blob: bytes, signature: bytes, unset: str = "") -> str:
    """Checks a detached signature over `blob`: "" when it is good, else the reason why it is not.

    signature: the contents of the signature file; unset: see run_program. ConfigError when this verifier
    cannot read the key.
    """
    import hashlib

    digest = hashlib.sha256(blob)
    if verifier.name == "builtin" and key.kind != "P-256":
        hint = "put cosign or openssl on this host"
        raise ConfigError("the built-in verifier reads only ECDSA P-256 keys, this one is %s" % key.kind, hint=hint)
    try:
        raw = parse_signature(signature, key, digest.hexdigest())
    except ValueError as error:
        return str(error)
    if verifier.name == "builtin":
        x, y = key.numbers
        good = verify_p256((x, y), digest.digest(), *parse_ecdsa_signature(raw))
        return "" if good else "not good for this file and key"
    sigstore = signature.lstrip()[:1] == b"{"
    status, said = ask_verifier(verifier, key, blob, raw, sigstore, unset)
    if status != 0:
        return "not good for this file and key, says %s: %s" % (verifier.name, said)
    if not verifier.proven:
        # One that says yes to everything is no verifier: the same signature over other bytes must be refused.
        if ask_verifier(verifier, key, b"not " + blob, raw, sigstore, unset)[0] == 0:
            raise ConfigError("%s takes any signature for good" % printable(verifier.path), hint=OTHER_VERIFIER)
        verifier.proven = True
    return ""


def sniff_compression(head: bytes | memoryview) -> str:
    """zstd, gzip or none, by the first bytes; pzstd begins with a skippable frame (RFC 8878 3.1.2)."""
    magic = bytes(head[:4])
    if magic == b"\x28\xb5\x2f\xfd" or (magic[1:] == b"\x2a\x4d\x18" and 0x50 <= magic[0] <= 0x5F):
        return "zstd"
    return "gzip" if magic[:2] == b"\x1f\x8b" else "none"


def zstd_window(head: bytes) -> int:
    """Bytes of memory that the first frame of a zstd stream needs (RFC 8878 3.1.1.1), 0 where `head` does not tell."""
    if sniff_compression(head) != "zstd" or head[0] != 0x28 or len(head) < 18:
        return 0
    single, dictionary_bytes, size_bytes = head[4] & 0x20, (0, 1, 2, 4)[head[4] & 3], (1, 2, 4, 8)[head[4] >> 6]
    if single:  # the window is the content
        start = 5 + dictionary_bytes
        return int.from_bytes(head[start : start + size_bytes], "little")
    base = 1 << (10 + (head[5] >> 3))
    return base + base // 8 * (head[5] & 7)


def find_codec(compression: str) -> Callable[[], Any] | None:
    """What makes a decompressor of this Python, or None."""
    if compression == "gzip":
        import zlib

        return lambda: zlib.decompressobj(31)
    if compression == "zstd":
        import importlib

        try:
            module: Any = importlib.import_module("compression.zstd")
        except ImportError:
            return None
        make: Callable[[], Any] = module.ZstdDecompressor
        return make
    return None


def widen_pipe(descriptor: int) -> None:
    """Makes a pipe hold more at once, where the system can (Linux's F_SETPIPE_SZ, 1031)."""
    if sys.platform == "linux":
        import fcntl

        try:
            fcntl.fcntl(descriptor, 1031, PIPE_BYTES)
        except OSError:
            pass


def decompresses(zstd: str) -> bool:
    """True when this zstd gives back what was packed into a frame made once."""
    status, out, _ = run_program([zstd, "-dcq"], feed=bytes.fromhex("28b52ffd00583100007374656c6c61"))
    return status == 0 and out == b"stella"


class ArchiveSource:
    """A bundle file as a stream of tar bytes; hashes the compressed file in the same pass.

    fill(view) gives the next decompressed bytes, as TarStream wants them. facts() gives (size, SHA-256 hex)
    of the file itself, after reading what is left of it. `compression` is what the first bytes say: zstd,
    gzip or none. A zstd stream goes through Python 3.14's own module, else through the program.
    """

    def __init__(self, path: str, config: Config) -> None:
        import hashlib
        import stat

        self._hasher = hashlib.sha256()
        self._size = 0
        self._pending = b""  # read and hashed, not yet decompressed
        self._codec: Any = None
        self._process: Any = None
        self._feeder: Any = None
        self._error: OSError | None = None  # of the second thread
        self._view = memoryview(bytearray(TAR_BUFFER_BYTES))
        self._file: Any = None
        try:
            self._file = open(path, "rb", buffering=0)  # noqa: SIM115 - closed in close()
            device = stat.S_ISCHR(os.fstat(self._file.fileno()).st_mode)
            self._head = self._view[:0] if device else self._read_file()
        except (OSError, ValueError) as error:
            if self._file is not None:
                self._file.close()
            reason = error.strerror if isinstance(error, OSError) else "the name is not valid"
            raise ConfigError("cannot read the bundle %s: %s" % (printable(path), reason)) from None
        if device:
            self._file.close()
            raise ConfigError("the bundle %s is a device, which may never end" % printable(path))
        self.compression = sniff_compression(self._head)
        self._window = zstd_window(bytes(self._head[:18]))
        self._new_codec = find_codec(self.compression)
        self._program = ""
        if self.compression == "zstd" and (self._new_codec is None or config.programs["zstd"]):
            self._program = find_program("zstd", config)
        self.readable = self.compression != "zstd" or bool(self._new_codec or self._program)

    def _start_program(self) -> None:
        """zstd, with a second thread that feeds it."""
        import subprocess

        try:
            self._process = subprocess.Popen(
                [self._program, "-dcq", "--no-progress"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL, bufsize=0, env=program_environment(NO_HOME),
            )  # fmt: skip
        except OSError as error:
            raise ConfigError("cannot run %s: %s" % (printable(self._program), error.strerror)) from None
        for pipe in (self._process.stdin, self._process.stdout):
            widen_pipe(pipe.fileno())
        self._feeder = start_thread(self._feed)

    def _feed(self) -> None:
        """The second thread: file to hash and to zstd. When zstd stops taking, the hash goes on alone."""
        pipe = self._process.stdin
        data: bytes | memoryview = self._head
        taken = True
        while data:
            try:
                while taken and data:
                    data = data[pipe.write(data) :]
            except OSError:
                taken = False
            try:
                data = self._read_file()
            except OSError as error:
                self._error = error
                data = b""
        try:
            pipe.close()
        except OSError:
            pass

    def _read_file(self) -> memoryview:
        """The next bytes of the file, hashed; good until the next call."""
        count = self._file.readinto(self._view) or 0
        data = self._view[:count]
        self._hasher.update(data)
        self._size += count
        return data

    def fill(self, view: memoryview) -> int:
        """The next bytes of the tar stream; ArchiveError when the compression is broken."""
        if self._program:
            if self._process is None:
                self._start_program()
            count: int = self._process.stdout.readinto(view)
            status = 0 if count else self._process.wait()
            if status > 0 and decompresses(self._program):
                raise self._damage()
            if status:
                raise ConfigError("%s does not work (exit status %d)" % (printable(self._program), status))
            return count
        if self._new_codec is not None:
            return self._inflate(view, self._new_codec)
        data, self._head = self._head or self._read_file(), self._view[:0]
        view[: len(data)] = data  # both have at least the size of what is read at once
        return len(data)

    def _inflate(self, view: memoryview, new_codec: Callable[[], Any]) -> int:
        """Decompresses into `view`, frame after frame."""
        while True:
            # zstd's decompressor keeps what it could not yet use; zlib's gives it back as unconsumed_tail.
            hungry = self._codec is None or getattr(self._codec, "needs_input", True)
            if hungry and not self._pending:
                self._pending, self._head = bytes(self._head or self._read_file()), self._view[:0]
            ended = hungry and not self._pending
            if self._codec is None:
                if ended:
                    return 0
                self._codec = new_codec()
            try:
                out = self._codec.decompress(self._pending, len(view))
            except Exception as error:  # zlib.error and compression.zstd.ZstdError have no common base
                if isinstance(error, MemoryError):
                    raise
                raise self._damage() from None
            self._pending = getattr(self._codec, "unconsumed_tail", b"")
            if self._codec.eof:
                self._pending, self._codec = self._codec.unused_data, None
            if out:
                view[: len(out)] = out
                return len(out)
            if ended and self._codec is not None:
                raise ArchiveError("the %s stream ends early" % self.compression)

    def _damage(self) -> Exception:
        """Why a stream cannot be decompressed."""
        if self._window > MAX_WINDOW_BYTES:
            need, most = size_text(self._window), size_text(MAX_WINDOW_BYTES)
            return ConfigError("the bundle needs %s of memory to decompress, and zstd takes %s at most" % (need, most))
        return ArchiveError("the %s stream is damaged, or goes on after its end" % self.compression)

    def facts(self) -> tuple[int, str]:
        """(size in bytes, SHA-256 hex) of the file as stored."""
        if self._feeder is not None:
            self._process.stdout.close()  # whatever zstd still has to say is not wanted
            self._feeder.join()
            if self._error is not None:
                raise self._error
        else:
            while self._read_file():
                pass
        return self._size, str(self._hasher.hexdigest())

    def close(self) -> None:
        """Ends the program and the thread."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process.stdout.close()
            if self._feeder is not None:
                self._feeder.join()
        self._file.close()


# ==================================================================================================
# Room 12. HTTP
#
# The only sockets. http.client and not urllib: urllib sends Authorization on to other hosts at a
# redirect, buffers nothing we could count, hides the connection whose silence we must notice, and costs
# 27 ms of imports. One request is `send`, one attempt with its redirects `exchange`, all attempts are
# `fetch`. What identifies the user or the work (token, tenant, DPoP proof, client certificate, trace id)
# is given out after one question: `is_trusted`: the gateway's own origin, not anonymous, and no redirect
# ever led away from it.
# ==================================================================================================


class Clock:
    """Time and chance, so that tests can pass their own."""

    def monotonic(self) -> float:
        """Seconds on a clock that never jumps."""
        import time

        return time.monotonic()

    def now(self) -> float:
        """Seconds since 1970."""
        import time

        return time.time()

    def sleep(self, seconds: float) -> None:
        """Waits."""
        import time

        time.sleep(seconds)

    def random(self) -> float:
        """A number from 0 to 1."""
        return int.from_bytes(os.urandom(4), "big") / 0xFFFFFFFF


class TransportError(NetworkError):
    """One attempt failed, below HTTP or in a way that may pass: no connection, a reset, a timeout, a cut body.

    retry_after: seconds that the server asks to wait; timed_out: it was silence.
    """

    retry_after = 0.0
    timed_out = False


class Request:
    """What to ask: `headers` values may be bytes; `timeout` in seconds for each read, None for the setting.

    anonymous: gets no credentials, not even on the gateway's origin: object store, registry, and what
    they redirect to.
    """

    def __init__(
        self,
        method: str,
        url: Url,
        headers: Mapping[str, str | bytes] | None = None,
        body: bytes | None = None,
        timeout: float | None = None,
        anonymous: bool = False,
    ) -> None:
        self.method = method
        self.url = url
        self.headers = dict(headers or {})
        self.body = body
        self.timeout = timeout
        self.anonymous = anonymous
        self.nonce = ""  # what the DPoP proof of the last attempt carried


class ChunkDecoder:
    """The chunked coding (RFC 9112 7.1): bytes in, payload out; `ended` after the last chunk."""

    def __init__(self) -> None:
        self.ended = False
        self._rest = b""  # of a chunk's size line
        self._left = 0  # bytes of this chunk that are to come, the CRLF after it included

    def feed(self, data: bytes) -> bytes:
        """The payload in `data`, b"" being the end of the connection; raises IncompleteRead and HTTPException."""
        if not data:
            from http.client import IncompleteRead

            raise IncompleteRead(b"")
        data = self._rest + data
        at, left, pieces = 0, self._left, []
        while at < len(data) and not self.ended:
            if left:
                if left > 2:
                    pieces.append(data[at : at + left - 2])
                taken = min(left, len(data) - at)
                at, left = at + taken, left - taken
                continue
            end = data.find(b"\n", at)
            if end < 0:
                break
            size = data[at:end].partition(b";")[0].strip()
            if not size or size.strip(b"0123456789abcdefABCDEF") or len(size) > 16:
                raise self._fault("bad chunk size")
            at, left = end + 1, int(size, 16) + 2
            self.ended = left == 2
        self._rest, self._left = data[at:], left
        if len(self._rest) > MAX_CHUNK_LINE_BYTES:
            raise self._fault("a chunk's size line without end")
        return b"".join(pieces)

    @staticmethod
    def _fault(text: str) -> Exception:
        """Not for each of the chunks, of which a stream has one for each event: the import takes a microsecond."""
        from http.client import HTTPException

        return HTTPException(text)


def _released(_: bool) -> None:
    """What a response that was closed already does."""


def transport_error(error: Exception, url: Url, what: str = "") -> StellaError:
    """What went wrong below HTTP, as a sentence about `what` (None: the host of `url`)."""
    import http.client
    import socket

    where = what or "%s (port %d)" % (printable(url.host), url.port)
    if isinstance(error, socket.timeout):  # an alias of TimeoutError only from 3.10 on
        silence = TransportError("%s did not answer in time" % where)
        silence.timed_out = True
        return silence
    if isinstance(error, socket.gaierror):
        return TransportError("cannot find the host of %s: %s" % (where, error.strerror))
    if isinstance(error, http.client.RemoteDisconnected):
        return TransportError("%s closed the connection without an answer" % where)
    if isinstance(error, http.client.IncompleteRead):
        return TransportError("the answer of %s broke off" % where)
    if isinstance(error, http.client.HTTPException):
        reason = printable(str(error))[:120] or type(error).__name__
        return TransportError("%s does not speak HTTP as it should: %s" % (where, reason))
    if isinstance(error, OSError):
        reason = getattr(error, "reason", None) or error.strerror or str(error)  # the first: ssl.SSLError
        return TransportError("cannot reach %s: %s" % (where, printable(str(reason))[:120].replace("_", " ")))
    raise error


class Response:
    """The head of an answer, and its body as a stream; `headers` has lower-case names.

    hint: what a user can do about this answer where it is an error, or "".
    """

    def __init__(
        self, raw: Any, url: Url, connection_socket: Any, release: Callable[[bool], None], patience: Callable[[], float]
    ) -> None:
        self.raw = raw
        self.url = url
        self.status: int = raw.status
        self.hint = ""
        self.headers: dict[str, str] = {}
        for name, folded in raw.headers.items():
            value = (
                folded.replace("\r", "").replace("\n", "").strip(" \t")
            )  # a folded value must not fold a header of ours, see If-Range
            known = self.headers.get(name.lower())
            self.headers[name.lower()] = value if known is None else known + ", " + value
        self._release = release
        self._patience = patience  # seconds that a read may take, now
        self._socket = connection_socket
        self._chunks = ChunkDecoder()
        self._fresh = True
        self._late: TransportError | None = None  # a fault behind bytes that were given out

    def set_timeout(self, seconds: float) -> None:
        """The longest silence from now on; a body that was read to its end may have closed the socket."""
        if not self.raw.isclosed():
            self._socket.settimeout(seconds)

    def wait(self, seconds: float) -> bool:
        """True as soon as a read would find something; a read that times out itself breaks the connection."""
        import selectors
        import ssl

        if self.raw.isclosed():
            return True
        self._socket.settimeout(0)
        self._fresh = True  # peek() fills the buffer
        try:
            if self.raw.fp.peek(1):
                return True
        except (BlockingIOError, ssl.SSLWantReadError):
            pass  # not even a part of a TLS record
        except Exception as error:  # noqa: BLE001 - transport_error raises what it does not know
            raise transport_error(error, self.url) from None
        with selectors.DefaultSelector() as selector:
            selector.register(self._socket, selectors.EVENT_READ)
            return bool(selector.select(seconds))

    def read_some(self, limit: int) -> bytes:
        """Up to `limit` bytes as soon as some are there; b"" at the end. A cut body ends early, silently:
        http.client reports only chunked bodies that end early, so whoever knows a length must count.
        """
        try:
            return bytes(self.raw.read1(limit))
        except Exception as error:  # noqa: BLE001 - transport_error raises what it does not know
            raise transport_error(error, self.url) from None

    def read_into(self, view: memoryview) -> int:
        """As read_some, into the front of `view`: the number of bytes, 0 at the end."""
        if self._late is not None:
            raise self._late
        if self.raw.chunked or self._fresh:  # fresh: what came along with the head lies in a buffer
            self._fresh = False
            data = self.read_some(len(view))
            view[: len(data)] = data
            return len(data)
        if self.raw.fp is None:
            return 0
        try:
            count: int = self.raw.fp.readinto1(view if self.raw.length is None else view[: self.raw.length])
        except Exception as error:  # noqa: BLE001 - transport_error raises what it does not know
            raise transport_error(error, self.url) from None
        if self.raw.length is not None:
            self.raw.length -= count
        return count

    def fill(self, view: memoryview, clock: Clock) -> int:
        """As read_into, until `view` is full or what is in it is FILL_SECONDS old: TLS gives 16 KiB at once."""
        count = self.read_into(view)
        started = clock.monotonic()
        while 0 < count < len(view) and clock.monotonic() - started < FILL_SECONDS:
            try:
                more = self.read_into(view[count:])
            except TransportError as error:
                self._late = error  # what came before it counts
                break
            if not more:
                break
            count += more
        return count

    def tells_its_end(self) -> bool:
        """True when a body that was cut short can be told from a whole one."""
        return bool(self.raw.chunked) or self.raw.length is not None

    def goes_on(self) -> bool:
        """True when a body of unstated length has bytes behind those that were read."""
        if self.raw.length is not None:
            return False
        try:
            self.set_timeout(AFTERWORD_SECONDS)
            return bool(self.read_some(1))
        except TransportError:
            return False

    def abort(self) -> None:
        """Ends the connection under a thread that may be reading from it."""
        import socket

        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # closed already

    def read_stream(self, limit: int) -> bytes:
        """As read_some, but a body that is cut short is a TransportError wherever HTTP can tell. The connection is
        not used again. http.client takes 10 us for each chunk, and a stream has one for each event; so does its buffer,
        which is left out once it is empty.
        """
        if not self.raw.chunked:
            data = self.read_some(limit)
            if not data and self.raw.length:
                raise TransportError("the answer of %s broke off" % printable(self.url.host))
            return data
        payload, received = b"", False
        while not payload and not self._chunks.ended:
            try:
                if received:  # a chunk that drips starts the timeout anew; a deadline must hold all the same
                    self._patience()
                received = True
                data = self.raw.fp.read1(limit) if self._fresh else self._socket.recv(limit)
                self._fresh = self._fresh and len(data) == limit
                payload = self._chunks.feed(data)
            except Exception as error:  # noqa: BLE001 - transport_error raises what it does not know
                raise transport_error(error, self.url) from None
        return payload

    def read_all(self, limit: int, what: str) -> bytes:
        """The whole body, at most `limit` bytes; TransportError when it is cut short."""
        import time

        started, seconds, pieces, size = time.monotonic(), self._patience(), [], 0
        while True:
            self.set_timeout(self._patience())  # each read takes it anew; a deadline cuts it
            try:
                piece = self.read_some(CHUNK_BYTES)
            except TransportError:
                self._patience()  # where the deadline was it, that is said
                raise
            if not piece:
                break
            size += len(piece)
            if size > limit:
                raise ProtocolError("%s has more than %d bytes" % (what, limit))
            pieces.append(piece)
            elapsed = time.monotonic() - started
            if elapsed > 2 * seconds and size < elapsed * MIN_BYTES_PER_SECOND:
                raise TransportError("%s comes too slowly: %d bytes in %.0f s" % (what, size, elapsed))
        if self.raw.length:
            raise TransportError("%s broke off after %d of %d bytes" % (what, size, size + self.raw.length))
        self.close(reuse=True)
        return b"".join(pieces)

    def close(self, reuse: bool = False) -> None:
        """Done with the answer; `reuse` when its body was read to the end."""
        release, self._release = self._release, _released
        # read1() counts down to 0 and leaves the answer open (CPython before 3.13): nothing could follow it.
        reuse = reuse and (self.raw.length == 0 or self.raw.isclosed()) and not self.raw.will_close
        if reuse:
            self.raw.close()
        release(reuse)


# What a TLS peer or OpenSSL says of a broken line; anything else is the same at the next attempt.
PASSING_TLS_REASONS = ("UNEXPECTED_EOF_WHILE_READING", "BAD_RECORD_MAC", "INTERNAL_ERROR", "USER_CANCELLED")
TLS_REASON_HINTS = (
    ("CERTIFICATE_REQUIRED", "it asks for a client certificate: set client_cert and client_key in the profile file"),
    ("ALERT", "it refused this side; if it wants a client certificate, check client_cert in the profile file"),
    ("WRONG_VERSION_NUMBER", "it does not speak TLS on this port; check scheme and port of the URL"),
    ("RECORD_LAYER_FAILURE", "it does not speak TLS on this port; check scheme and port of the URL"),
    ("PROTOCOL", "it speaks no TLS 1.2 or newer"),
)


def name_text(name: Json) -> str:
    """A subject or issuer from Python's nested tuples as `"CN=..., O=..."`, or ""."""
    short = {"commonName": "CN", "organizationName": "O", "organizationalUnitName": "OU", "countryName": "C"}
    pairs = [pair for part in name or () for pair in part]
    return quoted(", ".join("%s=%s" % (short.get(key, key), value) for key, value in pairs), 200) if pairs else ""


def certificate_fault(error: Any, chain: Sequence[Document], config: Config) -> tuple[str, str]:
    """(cause, hint) of a failed verification; chain: what the server showed, or [] where Python does not tell.

    The numbers are OpenSSL's (x509_vfy.h, X509_V_ERR_...).
    """
    leaf, last = (chain[0], chain[-1]) if chain else ({}, {})
    subject, issuer = name_text(leaf.get("subject")), name_text(last.get("issuer"))
    code = error.verify_code
    trusted = (
        "%s (%s)" % (printable(config.ca_file), config.source("ca_file")) if config.ca_file else "the system's CAs"
    )
    unknown = "if this is your organisation's own CA, name its file with --ca-file or SSL_CERT_FILE"
    if code in (9, 10):
        state, since = ("is not valid yet", "notBefore") if code == 9 else ("has expired", "notAfter")
        when = " (its own %s: %s)" % (since, printable(as_text(leaf.get(since)))) if leaf else ""
        return "it or its CA %s%s" % (state, when), "check this host's clock, then ask for a new certificate there"
    if code in (62, 64):
        names = ", ".join(str(pair[-1]) for pair in leaf.get("subjectAltName", ()))
        fault = "it is for %s" % quoted(names, 200) if names else error.verify_message
        return "wrong host: " + printable(fault), "use the name that the certificate has in --server"
    if code == 18:
        return "it is self-signed%s" % (" (subject %s)" % subject if subject else ""), unknown
    if code in (2, 19, 20, 21):
        named = " %s" % issuer if issuer else ""
        return "its CA%s is unknown to %s: %s" % (named, trusted, printable(error.verify_message)), unknown
    if 80 <= code <= 94 and config.tls_strict and sys.version_info >= (3, 13):
        hint = "Python 3.13 checks CAs more strictly; tls_strict = false in the profile file turns only that off"
        return "%s%s" % (printable(error.verify_message), " (CA %s)" % issuer if issuer else ""), hint
    return printable(error.verify_message), unknown


def tls_error(error: Exception, url: Url, config: Config) -> StellaError:
    """A failed connection or handshake: TLS trust is configuration and never tried again, all else the network."""
    import ssl

    reason = str(getattr(error, "reason", None) or "")
    passing = isinstance(error, ssl.SSLEOFError) or any(word in reason for word in PASSING_TLS_REASONS)
    if not isinstance(error, ssl.SSLError) or not reason or passing:
        return transport_error(error, url)
    where = "%s (port %d)" % (printable(url.host), url.port)
    if isinstance(error, ssl.SSLCertVerificationError):
        cause, hint = certificate_fault(error, getattr(error, "chain", []), config)
        return ConfigError("cannot trust the TLS certificate of %s: %s" % (where, cause), hint=hint)
    hint = next((hint for word, hint in TLS_REASON_HINTS if word in reason), "")
    text = printable(reason).lower().replace("_", " ")[:120]
    return ConfigError("cannot speak TLS with %s: %s" % (where, text), hint=hint)


# Where systems keep their CAs (Debian, Fedora, SUSE, Alpine and macOS, FreeBSD), for a Python that was
# built elsewhere and looks in none of these.
CA_PATHS = (
    "/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", "/etc/ssl/ca-bundle.pem", "/etc/ssl/cert.pem",
    "/usr/local/share/certs/ca-root-nss.crt",
)  # fmt: skip


CA_FILE_HINT = "name a PEM file of CA certificates, or leave it out for the system's"


def load_trust(context: Any, config: Config) -> str:
    """Loads the CA file (or folder of hashed files) that is set, else the system's CAs; gives their place or ""."""
    import ssl

    if config.ca_file:
        folder = os.path.isdir(config.ca_file)
        try:
            context.load_verify_locations(None if folder else config.ca_file, config.ca_file if folder else None)
        except (OSError, ValueError) as error:
            reason = str(getattr(error, "strerror", None) or getattr(error, "reason", None) or error)
            if isinstance(error, ssl.SSLError):
                reason = "it is no PEM file with certificates (%s)" % (error.reason or "unreadable").lower()
            raise ConfigError(
                "cannot use the CA file %s (%s): %s" % (printable(config.ca_file), config.source("ca_file"), reason),
                hint=CA_FILE_HINT,
            ) from None
        return config.ca_file
    context.load_default_certs()
    paths = ssl.get_default_verify_paths()
    if sys.platform == "win32":
        return "the Windows store"
    if paths.cafile or (paths.capath and os.access(paths.capath, os.R_OK) and os.listdir(paths.capath)):
        return paths.cafile or paths.capath
    for path in CA_PATHS:
        if os.path.isfile(path):
            context.load_verify_locations(path)
            return path
    return ""


def load_client(context: Any, config: Config) -> None:
    """Loads the client certificate, where one is set."""
    if config.client_key and not config.client_cert:
        raise ConfigError("client_key is set and client_cert is not", hint="set both in the profile file, or neither")
    if not config.client_cert:
        return
    try:  # the empty password: OpenSSL must not ask the terminal for one
        context.load_cert_chain(config.client_cert, config.client_key or None, password="")
    except (OSError, ValueError) as error:
        reason = str(getattr(error, "reason", None) or getattr(error, "strerror", None) or error)
        hint = "client_cert is PEM with the whole chain; client_key is its key, PEM without a passphrase"
        text = "cannot use the client certificate %s: %s" % (printable(config.client_cert), printable(reason))
        raise ConfigError(text, hint=hint) from None
    context.post_handshake_auth = True


def new_tls_context(config: Config) -> Any:
    """TLS settings, with no CA in them yet: host name and chain are always checked.

    Not ssl.create_default_context, which would also write session keys to the file in SSLKEYLOGFILE.
    """
    import ssl

    class Socket(ssl.SSLSocket):
        """Takes the certificates the server showed out of a failed handshake, for the message."""

        def do_handshake(self, block: bool = False) -> None:
            try:
                super().do_handshake(block)
            except ssl.SSLCertVerificationError as error:
                show = getattr(getattr(self, "_sslobj", None), "get_unverified_chain", None)  # from Python 3.10 on
                error.chain = [cert.get_info() for cert in (show() if show else None) or []]  # type: ignore[attr-defined]
                raise

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # this protocol checks name and chain by itself
    context.sslsocket_class = Socket
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    context.verify_flags |= (
        0x80000  # X509_V_FLAG_PARTIAL_CHAIN, as curl and Python 3.13: what is in the file is trusted
    )
    if config.tls_strict and sys.version_info >= (3, 13):
        context.verify_flags |= ssl.VERIFY_X509_STRICT
    return context


HEADERS_FOR_OTHERS = ("Accept", "Cache-Control", "Range", "If-Range")


def base64url(data: bytes) -> str:
    """RFC 7515 base64url without padding."""
    import base64

    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


class DpopSigner:
    """DPoP proofs (RFC 9449) with a P-256 key, signed through openssl."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.nonce = ""
        self.openssl = find_program("openssl", config)
        if not self.openssl:
            hint = "install openssl, or set STELLA_OPENSSL to its path"
            raise ConfigError(
                "a DPoP key is configured and openssl, which signs with it, is not on this host", hint=hint
            )
        read_small(config.dpop_key, "DPoP key", MAX_KEY_BYTES)  # for its error; openssl would take a URI as well
        # The empty password: openssl must not ask the terminal for one.
        command = [self.openssl, "pkey", "-in", config.dpop_key, "-passin", "pass:", "-pubout", "-outform", "DER"]
        status, der, _ = run_program(command)
        if status != 0 and run_program([self.openssl, "version"])[0] != 0:
            raise ConfigError("%s does not work (exit status %d)" % (printable(self.openssl), status))
        try:
            key = split_spki(der) if status == 0 else None
            kind, point = parse_key_bits(*read_der(key[0], 0x06), key[1]) if key else ("", ())
        except ValueError:
            kind, point = "", ()
        if kind != "P-256":
            raise ConfigError(
                "the DPoP key %s (%s) is not a P-256 private key in PEM form, without a passphrase"
                % (printable(config.dpop_key), config.source("dpop_key")),
                hint="make one with: openssl ecparam -name prime256v1 -genkey -noout -out dpop.pem",
            )
        x, y = (base64url(number.to_bytes(32, "big")) for number in point)
        self.jwk = {"kty": "EC", "crv": "P-256", "x": x, "y": y}

    def take_nonce(self, nonce: str) -> bool:
        """Remembers the server's nonce; what is none (RFC 9449 8.1) is left alone, and False."""
        good = nonce != "" and all("!" <= char <= "~" and char not in '"\\' for char in nonce)
        self.nonce = nonce if good else self.nonce
        return good

    def proof(self, method: str, url: Url, now: float) -> str:
        """A fresh proof for one attempt (RFC 9449 4.2)."""
        import hashlib

        token_hash = hashlib.sha256(self.config.token.encode("ascii")).digest()
        claims = {
            "jti": os.urandom(16).hex(),
            "htm": method,
            "htu": str(url),
            "iat": int(now),
            "ath": base64url(token_hash),
        }
        if self.nonce:
            claims["nonce"] = self.nonce
        header = {"typ": "dpop+jwt", "alg": "ES256", "jwk": self.jwk}
        signed = "%s.%s" % (base64url(json_text(header, False).encode()), base64url(json_text(claims, False).encode()))
        command = [self.openssl, "dgst", "-sha256", "-sign", self.config.dpop_key, "-passin", "pass:"]
        status, der, _ = run_program(command, feed=signed.encode("ascii"))
        if status != 0:
            raise ConfigError("openssl cannot sign with the DPoP key %s" % printable(self.config.dpop_key))
        r, s = parse_ecdsa_signature(der)
        return "%s.%s" % (signed, base64url(r.to_bytes(32, "big") + s.to_bytes(32, "big")))


def has_port(place: str) -> bool:
    """True when `host:port` or `[v6]:port` has its port."""
    return place.rpartition("]")[2].rpartition(":")[2].isdecimal() and ":" in place.rpartition("]")[2]


def is_listed(url: Url, entry: str) -> bool:
    """True when an entry of NO_PROXY, in lower case, means this host: a name or a suffix of it, an address, or a
    CIDR block; with a port, only on that one.
    """
    import ipaddress

    name, port = entry, ""
    if has_port(entry) and (entry.count(":") == 1 or entry[0] == "["):
        name, _, port = entry.rpartition(":")
    if port and int(port[:6]) != url.port:
        return False
    try:
        address = ipaddress.ip_address(url.host)
    except ValueError:
        name = name[name[:1] == "." :]
        name = name[:-1] if name[-1:] == "." else name
        return bool(name) and ("." + url.host.rstrip(".")).endswith("." + name)
    try:
        block = ipaddress.ip_network(name.strip("[]"), strict=False)
    except ValueError:
        return False
    return address in block and "." not in name.partition("/")[2]  # not as a mask: 10.0.0.0/255.0.0.0


def choose_proxy(url: Url, config: Config) -> Url | None:
    """The proxy for a URL, as curl chooses it, with differences of ours (tests/data/no_proxy.txt).

    A loopback host is never asked for through a proxy: it would be the proxy's loopback, and the token
    would leave this machine in the clear. HTTP_PROXY counts in upper case too. NO_PROXY takes ports.
    """
    wanted = config.proxies.get(url.scheme, "")
    entries = config.no_proxy.replace(",", " ").lower().split()
    if not wanted or is_loopback(url.host) or config.no_proxy.strip() == "*":
        return None
    if any(is_listed(url, entry) for entry in entries):
        return None
    variable = config.source(url.scheme + "_proxy")
    scheme, _, rest = wanted.rpartition("://")
    place = rest.rpartition("@")[2].partition("/")[0]
    hint = "it looks like http://HOST:PORT"
    if scheme.lower() not in ("", "http"):
        raise ConfigError("%s names a proxy that is not http://" % variable, hint=hint)
    try:
        return parse_url("http://" + (place if has_port(place) else place + ":1080"))  # curl's default port
    except ValueError as error:
        raise ConfigError("%s %s" % (variable, error), hint=hint) from None


def check_framing(raw: Any) -> None:
    """HTTPException for a head that is too long, or says in two ways where the answer ends (RFC 9112 6.3)."""
    import http.client

    if sum(len(name) + len(value) for name, value in raw.headers.items()) > MAX_HEADER_BYTES:
        raise http.client.HTTPException("its headers have more than %d bytes" % MAX_HEADER_BYTES)
    lengths = raw.headers.get_all("Content-Length", [])
    if len(set(lengths)) > 1:
        raise http.client.HTTPException("it states two lengths")
    if lengths and parse_length(lengths[0].strip()) is None:
        raise http.client.HTTPException("it states a length that is none")
    if raw.headers.get_all("Transfer-Encoding", []) and not raw.chunked:
        raise http.client.HTTPException("its transfer coding is not chunked alone")
    # Of a head with a line that is no header, the reader drops all that follows it.
    if any(type(each).__name__ == "MissingHeaderBodySeparatorDefect" for each in raw.headers.defects):
        raise http.client.HTTPException("it has a line that is no header")
    if lengths and raw.chunked:  # the chunks count, and nothing more is believed of this connection
        raw.will_close = True


class HeadReader:
    """The lines of an answer's head from a buffered `file`, which all have to come within `seconds` of its first byte:
    a socket's timeout starts again with each byte.
    """

    def __init__(self, file: Any, seconds: float) -> None:
        self.file = file
        self.seconds = seconds
        self.end: float | None = None  # on the monotonic clock, once there is a byte

    def readline(self, limit: int) -> bytes:
        """As file.readline, but for a line that is cut short, or missing behind others, IncompleteRead."""
        import http.client
        import socket
        import time

        line = b""
        while line[-1:] != b"\n" and len(line) < limit:
            if self.end is not None and time.monotonic() > self.end:
                raise socket.timeout
            seen = self.file.peek(1)  # one read at most
            if not seen and (line or self.end is not None):
                raise http.client.IncompleteRead(line)
            if not seen:
                break
            if self.end is None:
                self.end = time.monotonic() + self.seconds
            line += self.file.read(min(seen.find(b"\n") + 1 or len(seen), limit - len(line)))
        return line

    def flush(self) -> None:
        """Nothing is written; http.client asks for it when Ctrl-C comes in the middle of a head."""

    def close(self) -> None:
        """Closes the file, as http.client does after a bad status line."""
        self.file.close()


def skip_trailers(file: Any) -> None:
    """Reads what follows the last chunk to its end."""
    import http.client

    for _ in range(MAX_HEADERS):
        if file.readline(MAX_HEADER_BYTES) in (b"\r\n", b"\n", b""):
            return
    raise http.client.HTTPException("too many trailers")


def final_response_class() -> Any:
    """http.client's response with bounds. It takes any time for a head, and a cut one for whole; it skips any number of
    100 and takes 103 for the end; it reads any number of trailers, and a chunk of negative size to the end.
    """
    import http.client

    class FinalResponse(http.client.HTTPResponse):
        fp: Any = None  # Ctrl-C before there is one must not have __del__ complain

        def __init__(self, sock: Any, *arguments: Any, **named: Any) -> None:
            super().__init__(sock, *arguments, **named)
            self.patience_seconds: float = sock.gettimeout()

        def _read_status(self) -> tuple[str, int, str]:
            for _ in range(MAX_INTERIM_ANSWERS):
                self.fp.end = None
                version, status, reason = super()._read_status()  # type: ignore[misc]
                if status == 101:
                    raise http.client.HTTPException("it changes the protocol (status 101)")
                if status >= 200:
                    return version, status, reason
                http.client.parse_headers(self.fp)
            raise http.client.HTTPException("too many interim answers")

        def begin(self) -> None:
            body = self.fp
            try:  # Ctrl-C may come at any moment
                self.fp = HeadReader(body, self.patience_seconds)
                super().begin()
            finally:
                if self.fp is not None:  # a bad status line has closed it
                    self.fp = body
            check_framing(self)

        def _read_next_chunk_size(self) -> int:
            size: int = super()._read_next_chunk_size()  # type: ignore[misc]
            if size < 0:
                raise http.client.HTTPException("a chunk has a negative size")
            return size

        def _read_and_discard_trailer(self) -> None:
            skip_trailers(self.fp)

    return FinalResponse


def parse_http_date(text: str) -> float | None:
    """An HTTP date (RFC 9110 5.6.7) in seconds since 1970; None when it is none."""
    import email.utils

    try:
        return email.utils.parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def skew_hint(date: str, now: float) -> str:
    """What to do when this host's clock is not the server's (its Date header), or "" when it is."""
    stated = parse_http_date(date)
    skew = now - stated if stated is not None else 0.0
    if abs(skew) <= SKEW_HINT_SECONDS:
        return ""
    side = "ahead of" if skew > 0 else "behind"
    return "this host's clock is %.0f s %s the gateway's, so DPoP proofs look wrong there; set it" % (abs(skew), side)


def proxy_authorization(config: Config, scheme: str) -> dict[str, str]:
    """Basic credentials for the proxy, from the userinfo in its URL."""
    userinfo = proxy_userinfo(config.proxies[scheme])
    return {"Proxy-Authorization": "Basic " + basic_credentials(userinfo)} if userinfo else {}


STATUS_ERRORS: dict[int, type[StellaError]] = {
    400: ValidationError, 422: ValidationError, 401: ConfigError, 403: MissingError, 404: MissingError,
    410: MissingError, 409: QuotaError, 412: QuotaError, 429: QuotaError,
    408: NetworkError, 500: NetworkError, 502: NetworkError, 503: NetworkError, 504: NetworkError,
}  # fmt: skip
STATUS_HINTS = {
    401: "get a new token and set STELLA_TOKEN; each command's --help names the scope it needs",
    403: "the token lacks the scope or the tenant for this",
}
CODE_ERRORS: dict[str, type[StellaError]] = {
    "ERR_EXPORT_001": ValidationError,
    "ERR_EXPORT_002": MissingError,
    "ERR_EXPORT_003": QuotaError,
    "ERR_EXPORT_QUOTA": QuotaError,
    "ERR_EXPORT_004": RunFailedError,
    "ERR_EXPORT_005": RunFailedError,
    "ERR_EXPORT_006": RunFailedError,
}


def quota_text(headers: Mapping[str, str]) -> str:
    """The quota headers of an answer as ` quota-limit=4 quota-remaining=0 quota-reset=...`, or ""."""
    names = ("limit", "remaining", "reset")
    return "".join(
        " quota-%s=%s" % (name, headers["x-stella-quota-" + name])
        for name in names
        if "x-stella-quota-" + name in headers
    )


def detail_text(detail: Json) -> str:
    """An entry of `details`: a string, or `{"path", "message"}`."""
    if isinstance(detail, dict) and isinstance(detail.get("message"), str):
        path = detail.get("path")
        return "%s: %s" % (path, detail["message"]) if isinstance(path, str) and path else str(detail["message"])
    return detail if isinstance(detail, str) else json_text(detail, pretty=False)[:200]


def decide_failure(status: int, headers: Mapping[str, str], body: bytes, url: Url) -> tuple[StellaError, bool]:
    """Contract 2 and 5: the body's code wins over the status; some errors are worth another attempt."""
    try:
        document = parse_object(body, "the error body", keep_numbers=True)
    except ValidationError:
        document = {}
    code, message, trace_id = (document.get(key) for key in ("code", "message", "traceId"))
    code = code[: MAX_ERROR_TEXT // 10] if isinstance(code, str) else ""
    trace_id = trace_id[: MAX_ERROR_TEXT // 10] if isinstance(trace_id, str) else ""
    kind = CODE_ERRORS.get(code) or STATUS_ERRORS.get(status, ProtocolError)
    if status == 500 and code and code not in CODE_ERRORS:
        kind = ProtocolError
    text = (
        message[:MAX_ERROR_TEXT]
        if isinstance(message, str) and message
        else "the server answered %s with status %d" % (url.path, status)
    )
    details = [detail_text(detail)[:MAX_ERROR_TEXT] for detail in as_list(document.get("details"))]
    if kind is QuotaError and quota_text(headers):
        details.append("quota:" + quota_text(headers).replace(" quota-", " "))
    hint = STATUS_HINTS.get(status, "") if kind is STATUS_ERRORS.get(status) else ""
    ours = code.startswith("ERR_EXPORT_")
    if kind is MissingError and status == 404 and not ours:
        hint = "is %s the gateway's root? see --server" % url.authority
    if code == "ERR_EXPORT_002" and status == 404:
        hint = "list them with: stella export %s" % ("run ls" if "/runs/" in url.path else "profile list")
    again = not ours and (status in (408, 429, 502, 503, 504) or (status == 500 and not code))
    return kind(text, details, hint, code, trace_id), again


def read_failure(response: Response) -> tuple[StellaError, bool]:
    """(the error that an answer stands for, whether to try again); reads and closes the answer."""
    try:
        body = response.read_all(MAX_ERROR_BYTES, "the error body")
    except StellaError:
        body = b""
    response.close()
    failure, again = decide_failure(response.status, response.headers, body, response.url)
    failure.hint = response.hint or failure.hint
    return failure, again


def give_up(failure: StellaError, attempts: int) -> StellaError:
    """The last attempt's error, saying how many there were."""
    if attempts > 1:
        failure.message += ", after %d attempts" % attempts
    if not failure.hint and isinstance(failure, NetworkError):
        failure.hint = "check --server and the network, or raise --retries"
    return failure


def open_tunnel(sock: Any, url: Url, headers: Mapping[str, str], what: str) -> None:
    """CONNECT through the proxy `what` (RFC 9110 9.3.6); read byte by byte, because TLS follows at once."""
    import re
    import socket
    import time

    host = "[%s]" % url.host if ":" in url.host else url.host
    lines = ["CONNECT %s:%d HTTP/1.1" % (host, url.port), "Host: %s:%d" % (host, url.port)]
    lines += ["%s: %s" % pair for pair in headers.items()]
    try:
        sock.sendall("\r\n".join([*lines, "", ""]).encode("ascii"))
        head, end = b"", time.monotonic() + sock.gettimeout()
        while not head.endswith((b"\r\n\r\n", b"\n\n")):
            if time.monotonic() > end:
                raise socket.timeout
            byte = sock.recv(1)
            head += byte
            if not byte or len(head) > MAX_PROXY_HEAD_BYTES:
                raise TransportError("%s closed the connection or sent no end of its answer to CONNECT" % what)
    except OSError as error:
        raise transport_error(error, url, what) from None
    match = re.match(rb"HTTP/1\.[01] ([0-9]{3})", head)
    status = int(match.group(1)) if match else 0
    if status == 407:
        reason = "refuses the user name and password in that URL" if headers else "wants a user name and password"
        raise ConfigError("%s %s (status 407)" % (what, reason), hint="it takes them as http://USER:PASSWORD@HOST:PORT")
    if status in (0, 408, 429) or status >= 500:
        raise TransportError("%s does not connect to %s (status %d)" % (what, url.authority, status))
    if not 200 <= status < 300:
        hint = "ask who runs it, or list the host in NO_PROXY where it can be reached without"
        raise ConfigError("%s does not connect to %s (status %d)" % (what, url.authority, status), hint=hint)


def is_quiet(sock: Any) -> bool:
    """True when an idle connection has brought nothing: neither its end nor the answer to a question nobody asked,
    which whoever can put a line break into an answer's head could have left for the next one.
    """
    import socket

    sock.settimeout(0)
    try:
        socket.socket.recv(sock, 1, socket.MSG_PEEK)  # past the TLS layer, which has no such flag
    except BlockingIOError:
        return not getattr(sock, "pending", int)()
    except OSError:
        pass
    return False


class Http:
    """Requests with retries, redirects, proxies, TLS and the token rule.

    deadline: on the monotonic clock, or None; waiting past it raises DeadlineError.
    """

    def __init__(self, config: Config, console: Console, clock: Clock) -> None:
        self.config = config
        self.console = console
        self.clock = clock
        self.deadline: float | None = None
        hint = "it looks like https://stella.example.com"
        try:
            self.server = parse_url(config.server)
        except ValueError as error:
            raise ConfigError("%s %s" % (config.source("server"), error), hint=hint) from None
        if "?" in self.server.target:
            raise ConfigError("%s has a query, which a gateway root cannot have" % config.source("server"), hint=hint)
        if self.server.scheme == "http" and not is_loopback(self.server.host) and not config.allow_http:
            hint = "use https://, or --allow-http if the network in between is yours"
            raise ConfigError("the token would go unencrypted to http://%s" % self.server.authority, hint=hint)
        if config.source("ca_file") == "--ca-file" and not os.path.exists(config.ca_file):  # needed here or not
            text = "cannot use the CA file %s (--ca-file): it is not there" % printable(config.ca_file)
            raise ConfigError(text, hint=CA_FILE_HINT)
        self.trace_id = self._trace_id(config.traceparent)
        self._idle: dict[tuple[Origin, bool], list[Any]] = {}
        self._contexts: dict[bool, Any] = {}  # by whether they are for the gateway
        self._dpop: DpopSigner | None = None

    @staticmethod
    def _trace_id(traceparent: str) -> str:
        """The trace id to go on with (W3C Trace Context), or a new one."""
        import re

        zeros = r"(?!0+-)"
        # Only versions after 00 may go on after the flags (2.2.2 and 4.3); ff is no version.
        pattern = r"(?!ff)(?!00.{54})[0-9a-f]{2}-%s([0-9a-f]{32})-%s[0-9a-f]{16}-[0-9a-f]{2}(?:-.*)?" % (zeros, zeros)
        match = re.fullmatch(pattern, traceparent)
        return match.group(1) if match else os.urandom(16).hex()

    def require_token(self) -> None:
        """ConfigError, before any connection, when there is no token."""
        if not self.config.token:
            hint = "export STELLA_TOKEN=..., or set token_file in ~/.stella/profiles/NAME.toml and use --profile NAME"
            raise ConfigError("no token is configured", hint=hint)

    def is_gateway(self, url: Url) -> bool:
        """The token rule: exactly the gateway's own scheme, host and port."""
        return url.origin == self.server.origin

    def is_trusted(self, request: Request) -> bool:
        """True when this request may say who asks."""
        return not request.anonymous and self.is_gateway(request.url)

    def headers(self, request: Request) -> dict[str, str | bytes]:
        """The headers of one attempt: who asks goes to the gateway alone, with a proof of its own each time."""
        system = (VERSION, sys.version_info[0], sys.version_info[1], sys.platform)
        headers: dict[str, str | bytes] = {
            "Host": request.url.authority,
            "User-Agent": "stella/%s (Python %d.%d; %s)" % system,
            "Accept-Encoding": "identity",
            **request.headers,
        }
        if not self.is_trusted(request):
            return headers
        self.require_token()
        headers["traceparent"] = "00-%s-%s-01" % (self.trace_id, os.urandom(8).hex())
        if self.config.tenant:
            headers["X-Stella-Tenant"] = self.config.tenant
        if not self.config.dpop_key:
            headers["Authorization"] = "Bearer " + self.config.token
            return headers
        if self._dpop is None:
            self._dpop = DpopSigner(self.config)
        request.nonce = self._dpop.nonce
        headers["Authorization"] = "DPoP " + self.config.token
        headers["DPoP"] = self._dpop.proof(request.method, request.url, self.clock.now())
        return headers

    def timeout(self, wanted: float | None) -> float:
        """The timeout of one read, cut to what the deadline leaves."""
        seconds = wanted if wanted is not None else self.config.timeout
        if self.deadline is None:
            return seconds
        left = self.deadline - self.clock.monotonic()
        if left <= 0:
            raise DeadlineError("the deadline has passed")
        return min(seconds, left)

    def pause(self, seconds: float, why: str = "") -> None:
        """Waits, at most until the deadline; a long wait is told of, with its reason."""
        if why and seconds >= TOLD_WAIT_SECONDS:
            self.console.err("stella: %s; asking again in %.0f s" % (printable(why), seconds))
        if self.deadline is not None and self.clock.monotonic() + seconds >= self.deadline:
            self.clock.sleep(max(self.deadline - self.clock.monotonic(), 0))
            raise DeadlineError("the deadline has passed")
        self.clock.sleep(seconds)

    def backoff(self, attempt: int, at_least: float = 0.0) -> float:
        """Seconds before the attempt after number `attempt`: exponential, with full jitter."""
        ceiling = min(self.config.retry_delay * 2.0 ** min(attempt - 1, 20), MAX_BACKOFF_SECONDS)
        return max(ceiling * self.clock.random(), min(at_least, MAX_RETRY_AFTER_SECONDS))

    def _connect(self, request: Request, timeout: float) -> Any:
        """A new connection, through the proxy that the environment names, if any. The socket is opened here and
        not by http.client, whose CONNECT reads without bounds and hides the proxy's status.
        """
        import http.client
        import socket

        url, trusted = request.url, self.is_trusted(request)
        proxy = choose_proxy(url, self.config)
        if url.scheme == "https" and trusted not in self._contexts:
            context = new_tls_context(self.config)
            load_trust(context, self.config)
            if trusted:
                load_client(context, self.config)
            self._contexts[trusted] = context
        host, port = (proxy.host, proxy.port) if proxy else (url.host, url.port)
        what = "the proxy %s:%d (%s)" % (host, port, self.config.source(url.scheme + "_proxy")) if proxy else ""
        try:
            sock = socket.create_connection((host, port), timeout)
        except OSError as error:
            raise transport_error(error, url, what) from None
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if url.scheme == "https":
                if proxy:
                    open_tunnel(sock, url, proxy_authorization(self.config, "https"), what)
                sock = self._contexts[trusted].wrap_socket(sock, server_hostname=url.host, suppress_ragged_eofs=False)
        except BaseException as error:
            sock.close()
            if isinstance(error, OSError):
                raise tls_error(error, url, self.config) from None
            raise
        connection = http.client.HTTPConnection(url.host, url.port)
        connection.sock = sock
        connection.auto_open = 0
        connection.response_class = final_response_class()
        return connection

    def _idle_or_new(self, request: Request, timeout: float) -> tuple[Any, bool]:
        """(connection, True when it was used before)."""
        while True:
            try:  # in one step: the connections of a download share what is idle
                connection = self._idle[request.url.origin, self.is_trusted(request)].pop()
            except LookupError:
                return self._connect(request, timeout), False
            if is_quiet(connection.sock):
                connection.sock.settimeout(timeout)
                return connection, True
            connection.close()

    def send(self, request: Request) -> Response:
        """One request, one answer, no redirect; a kept connection that has died meanwhile is replaced."""
        import socket

        timeout = self.timeout(request.timeout)
        while True:
            headers = self.headers(request)
            connection, used = self._idle_or_new(request, timeout)
            try:
                raw, used_socket = self._roundtrip(connection, request, headers)
            except Exception as error:  # noqa: BLE001 - tls_error raises what it does not know
                connection.close()
                interrupted = find_interrupt(error)
                if interrupted is not None:
                    raise interrupted from None
                if used and not isinstance(error, socket.timeout):  # closed while it was idle (RFC 9112 9.3.1)
                    continue
                raise tls_error(error, request.url, self.config) from None
            except BaseException:
                connection.close()
                raise

            def release(reuse: bool, connection: Any = connection, raw: Any = raw) -> None:
                if reuse:
                    key = (request.url.origin, self.is_trusted(request))
                    self._idle.setdefault(key, []).append(connection)
                else:
                    raw.close()
                    connection.close()

            return Response(raw, request.url, used_socket, release, lambda: self.timeout(request.timeout))

    def _roundtrip(self, connection: Any, request: Request, headers: Mapping[str, str | bytes]) -> tuple[Any, Any]:
        """(http.client's response, its socket)."""
        target = request.url.target
        if request.url.scheme == "http" and choose_proxy(request.url, self.config):
            target = "http://%s%s" % (request.url.authority, target)
            headers = {**headers, **proxy_authorization(self.config, "http")}
        connection.putrequest(request.method, target, skip_host=True, skip_accept_encoding=True)
        for name, value in headers.items():
            connection.putheader(name, value)
        if request.body is not None:
            connection.putheader("Content-Length", str(len(request.body)))
        connection.endheaders(request.body)
        used_socket = connection.sock  # getresponse() lets go of it where the connection will close
        return connection.getresponse(), used_socket

    def exchange(self, request: Request, attempt: int = 1) -> Response:
        """One attempt, redirects followed (contract 2), with its line of --trace."""
        hops = 0
        challenged = False
        while True:
            started = self.clock.monotonic()
            try:
                response = self.send(request)
            except (NetworkError, ConfigError) as error:
                self._trace(request, error.message, started, attempt, {})
                raise
            self._trace(request, str(response.status), started, attempt, response.headers)
            try:
                if self._is_challenge(request, response, challenged):
                    challenged = True
                    response.close()
                    continue
                self._advise(request, response, hops)
                if response.status not in (301, 302, 303, 307, 308):
                    return response
                hops += 1
                request = self._redirected(request, response, hops)
            except StellaError:
                response.close()
                raise
            response.close()

    def _is_challenge(self, request: Request, response: Response, challenged: bool) -> bool:
        """True when the gateway asks for its nonce in the DPoP proof and one attempt with it is due (RFC 9449 9)."""
        if self._dpop is None or not self.is_trusted(request):
            return False
        nonce = response.headers.get("dpop-nonce", "")
        good = self._dpop.take_nonce(nonce)
        if response.status != 401:
            return False
        fresh = good and nonce != request.nonce  # another connection may have learnt this or a newer one meanwhile
        asked = "use_dpop_nonce" in response.headers.get("www-authenticate", "")
        if fresh and not challenged:
            return True
        if asked:
            fault = "again, after a proof with it" if nonce else "and gives none"
            hint = "the fault is the gateway's; it is not asked again"
            raise ConfigError("the gateway asks for a DPoP nonce %s" % fault, hint=hint)
        return False

    def _advise(self, request: Request, response: Response, hops: int) -> None:
        """Sets the answer's hint where this side knows more than the answer says."""
        if response.status == 407 and request.url.scheme == "http" and choose_proxy(request.url, self.config):
            variable = self.config.source(request.url.scheme + "_proxy")
            raise ConfigError("the proxy wants a user name and password, or others (status 407); see %s" % variable)
        if response.status == 401 and self._dpop is not None and self.is_trusted(request):
            response.hint = skew_hint(response.headers.get("date", ""), self.clock.now())
        elif response.status in (401, 403) and hops and not self.is_trusted(request):
            response.hint = "the gateway redirects to %s, and credentials stay with the gateway; check --server" % (
                "%s://%s" % (request.url.scheme, request.url.authority)
            )

    def _redirected(self, request: Request, response: Response, hops: int) -> Request:
        """The request that follows a redirect, or ProtocolError where none may be followed."""
        where = "the server redirects %s %s (status %d)" % (request.method, request.url.path, response.status)
        try:
            target = resolve_url(request.url, response.headers.get("location", ""))
        except ValueError as error:
            raise ProtocolError("%s to a place that %s" % (where, error)) from None
        if hops > MAX_REDIRECTS:
            raise ProtocolError("%s more than %d times" % (where, MAX_REDIRECTS), hint="check --server")
        if request.url.scheme == "https" and target.scheme == "http":
            raise ProtocolError("%s from https to http, which is not followed" % where)
        if request.method not in ("GET", "HEAD") and not (
            response.status in (307, 308) and target.origin == request.url.origin
        ):
            raise ProtocolError(
                "%s, which is not followed for a request that changes something" % where, hint="check --server"
            )
        if target.origin == request.url.origin:
            return Request(request.method, target, request.headers, request.body, request.timeout, request.anonymous)
        # A registry's token stays with that registry, a Last-Event-ID with the gateway; and whoever was sent
        # elsewhere comes back to the gateway as a stranger.
        headers = {name: value for name, value in request.headers.items() if name in HEADERS_FOR_OTHERS}
        return Request(request.method, target, headers, None, request.timeout, anonymous=True)

    def _trace(self, request: Request, outcome: str, started: float, attempt: int, headers: Mapping[str, str]) -> None:
        if not self.config.trace:
            return
        milliseconds = (self.clock.monotonic() - started) * 1000
        server_trace = (headers.get("x-stella-trace-id") or headers.get("traceparent", "")[3:35] or "-")[:100]
        origin = "" if self.is_gateway(request.url) else "%s://%s" % (request.url.scheme, request.url.authority)
        line = "trace: %s %s%s -> %s in %.1f ms attempt=%d trace=%s server-trace=%s" % (
            request.method, origin, request.url.path, outcome, milliseconds, attempt, self.trace_id, server_trace,
        )  # fmt: skip
        self.console.err(printable(line + quota_text(headers)))

    def fetch(self, request: Request, consume: Callable[[Response], Json], take: tuple[int, ...] = ()) -> Json:
        """All attempts: the value that `consume` makes of a good answer, else the last attempt's error.

        take: statuses that count as a good answer besides 2xx.
        """
        attempt = 1
        while True:
            at_least = 0.0
            try:
                response = self.exchange(request, attempt)
                if response.status < 300 or response.status in take:
                    return self._consume(response, consume)
                at_least = self.retry_after(response.headers)
                failure, again = read_failure(response)
            except TransportError as error:
                failure, again = error, True
            if not again:
                raise failure
            if attempt > self.config.retries:
                raise give_up(failure, attempt)
            self.pause(self.backoff(attempt, at_least), failure.message)
            attempt += 1

    @staticmethod
    def _consume(response: Response, consume: Callable[[Response], Json]) -> Json:
        try:
            return consume(response)
        finally:
            response.close()

    def retry_after(self, headers: Mapping[str, str]) -> float:
        """Retry-After in seconds from now (RFC 9110 10.2.3), 0 where there is none that can be read."""
        value = headers.get("retry-after", "").strip()
        if value.isascii() and value.isdecimal():
            return float(value[:9])
        moment = parse_http_date(value)
        return max(moment - self.clock.now(), 0.0) if moment is not None else 0.0

    def close(self) -> None:
        """Closes the idle connections."""
        for connections in self._idle.values():
            for connection in connections:
                connection.close()
        self._idle.clear()


# ==================================================================================================
# Room 13. Gateway
#
# One method for each endpoint of contract 2. Knows routes and shapes, nothing of files or the terminal.
# ==================================================================================================


class Page:
    """A page of a list: its `items`, and the answer's `text`; `whole` where those are all of its items."""

    __slots__ = ("items", "text", "whole")

    def __init__(self, items: list[Json], text: str, whole: bool = True) -> None:
        self.items = items
        self.text = text
        self.whole = whole


def parse_answer(data: bytes, response: Response, plain: bool = False) -> Document:
    """A JSON object from a good answer; ProtocolError that says what came instead."""
    kind = response.headers.get("content-type", "no content type").partition(";")[0]
    hint = "is %s the gateway's root? see --server" % response.url.authority
    try:
        return parse_object(data, "the answer of %s" % response.url.path, keep_numbers=True, plain=plain)
    except ValidationError as error:
        reason = error.message if data.strip() else "the answer of %s is empty" % response.url.path
        if "json" not in kind and data.strip():
            reason = "the answer of %s is %s, not JSON" % (response.url.path, quoted(kind))
        raise ProtocolError("%s (status %d)" % (reason, response.status), hint=hint) from None


class Gateway:
    """The Export Center behind `http.server`."""

    def __init__(self, http: Http) -> None:
        self.http = http

    def url(self, *segments: str, query: Sequence[tuple[str, str]] = ()) -> Url:
        """A route below the server's path prefix; segments are percent-encoded already."""
        from urllib.parse import urlencode

        server = self.http.server
        target = "/".join((server.target.rstrip("/"), "api/export", *segments))
        # A word of another encoding (argv) or a lone surrogate (a cursor) is the server's to judge.
        pairs = urlencode([(key, value) for key, value in query if value], errors="surrogatepass")
        return Url(server.scheme, server.host, server.port, target + ("?" + pairs if pairs else ""))

    def run_url(self, run_id: str, *segments: str, query: Sequence[tuple[str, str]] = ()) -> Url:
        """A route of one run."""
        return self.url("runs", encode_id(run_id, "run"), *segments, query=query)

    def link(self, run: Document, name: str) -> Url:
        """Where a run's `download`, `events`, ... are: its own link when that is on the gateway, else the route."""
        link = as_text(as_dict(run.get("links")).get(name))
        if link:
            try:
                url = resolve_url(self.http.server, link)
            except ValueError:
                url = None
            if url is not None and self.http.is_gateway(url):
                return url
        return self.run_url(as_text(run.get("runId")), name)

    def fetch_json(
        self, method: str, url: Url, body: Document | None = None, headers: Mapping[str, str] | None = None
    ) -> Document:
        """A JSON object, from a request that carries one or none."""

        def consume(response: Response) -> Document:
            return parse_answer(response.read_all(MAX_JSON_BYTES, "the answer"), response)

        document: Document = self.http.fetch(self.json_request(method, url, body, headers), consume)
        return document

    def json_request(
        self, method: str, url: Url, body: Document | None = None, headers: Mapping[str, str] | None = None
    ) -> Request:
        """A request that wants JSON; a mutation carries JSON and its own Idempotency-Key."""
        sent: dict[str, str | bytes] = {"Accept": "application/json", **(headers or {})}
        data = None
        if method != "GET":
            import uuid

            sent["Idempotency-Key"] = str(uuid.uuid4())
            data = json_text(body if body is not None else {}, pretty=False).encode("utf-8", "backslashreplace")
            sent["Content-Type"] = "application/json"
        return Request(method, url, sent, data)

    def fetch_bytes(self, url: Url, accept: str, limit: int, what: str) -> bytes:
        """The exact bytes behind a URL."""

        def consume(response: Response) -> bytes:
            coding = content_coding(response.headers)
            if response.status != 200 or coding:
                said = "encoded (%s)" % quoted(coding) if coding else "status %d" % response.status
                hint = "is %s the gateway's root? see --server" % url.authority
                raise ProtocolError("the answer for %s is %s, not the exact bytes" % (what, said), hint=hint)
            return response.read_all(limit, what)

        data: bytes = self.http.fetch(Request("GET", url, {"Accept": accept}), consume)
        return data

    def fetch_pages(
        self, noun: str, query: Sequence[tuple[str, str]], limit: int | None, plain: bool = False
    ) -> Iterator[Page]:
        """A list, a page at a time, until `limit` items (None: all); `plain` as in parse_json.

        ProtocolError when a cursor comes again or the list does not end.
        """
        cursors: set[int] = set()  # hashes: a cursor may be long
        cursor = ""
        left = limit
        empty = 0
        while len(cursors) < MAX_PAGES and empty < MAX_EMPTY_PAGES:
            size = str(PAGE_ITEMS if left is None else min(left, PAGE_ITEMS))
            page, cursor = self._fetch_page(noun, (*query, ("limit", size), ("cursor", cursor)), plain)
            empty = 0 if page.items else empty + 1
            if left is not None and len(page.items) > left:
                page = Page(page.items[:left], page.text, False)
            yield page
            left = None if left is None else left - len(page.items)
            if not cursor or (left is not None and left <= 0):
                return
            if hash(cursor) in cursors:
                raise ProtocolError("the list of %s does not end: its cursor %s comes again" % (noun, quoted(cursor)))
            cursors.add(hash(cursor))
        what = "%d empty pages in a row" % empty if empty else "%d pages" % len(cursors)
        raise ProtocolError("the list of %s does not end: %s, and there are more" % (noun, what))

    def _fetch_page(self, noun: str, query: Sequence[tuple[str, str]], plain: bool) -> tuple[Page, str]:
        """(one page, the cursor of the next or "")."""

        def consume(response: Response) -> tuple[Page, str]:
            data = response.read_all(MAX_JSON_BYTES, "the answer")
            answer = parse_answer(data, response, plain)
            items = answer.get("items")
            if not isinstance(items, list):
                answer = parse_answer(data, response)  # now with a limit to its nesting, as its text is wanted
                raise ProtocolError("the list of %s has no items: %s" % (noun, quoted(json_text(answer, False))))
            cursor = answer.get("nextCursor")
            if not isinstance(cursor, (str, type(None))):  # taken for the end, it would cut the list short
                raise ProtocolError("the list of %s has a nextCursor that is no string" % noun)
            return Page(items, data.decode("utf-8")), cursor or ""

        request = Request("GET", self.url(noun, query=query), {"Accept": "application/json"})
        fetched: tuple[Page, str] = self.http.fetch(request, consume)
        return fetched

    def fetch_run(self, run_id: str) -> Document:
        """A run."""
        return self.fetch_json("GET", self.run_url(run_id))

    def look_at_run(self, run_id: str, timeout: float) -> Document:
        """A run, in one attempt."""
        response = self.http.exchange(
            Request("GET", self.run_url(run_id), {"Accept": "application/json"}, None, timeout)
        )
        if response.status != 200:
            raise read_failure(response)[0]
        try:
            return parse_answer(response.read_all(MAX_JSON_BYTES, "the answer"), response)
        finally:
            response.close()

    def submit_run(self, body: Document) -> Document:
        """A new run."""
        return self.fetch_json("POST", self.url("runs"), body)

    def cancel_run(self, run_id: str, reason: str) -> Document:
        """Asks for the end of a run."""
        return self.fetch_json("POST", self.run_url(run_id, "cancel"), {"reason": reason} if reason else {})

    def open_events(self, url: Url, last_id: str, timeout: float) -> Response:
        """One attempt at the event stream; the answer's status is the caller's to judge."""
        headers: dict[str, str | bytes] = {"Accept": "text/event-stream", "Cache-Control": "no-store"}
        if last_id:
            headers["Last-Event-ID"] = last_id.encode("utf-8", "surrogatepass")  # WHATWG: UTF-8, not latin-1
        return self.http.exchange(Request("GET", url, headers, timeout=timeout))

    def fetch_signed(self, run_id: str, what: str) -> bytes:
        """`manifest` or `provenance`: the bytes as signed."""
        return self.fetch_bytes(self.run_url(run_id, what), "application/json", MAX_JSON_BYTES, "the " + what)

    def fetch_signature(self, run_id: str, what: str) -> bytes:
        """The detached signature of the manifest or provenance."""
        url = self.run_url(run_id, what, query=[("signature", "true")])
        signature = self.fetch_bytes(url, "*/*", MAX_SIGNATURE_BYTES, "the signature of the " + what)
        if not signature.strip():
            raise ProtocolError("the gateway sent an empty signature of the %s" % what)
        return signature

    def profile_url(self, profile_id: str, *segments: str) -> Url:
        """A route of one export profile."""
        return self.url("profiles", encode_id(profile_id, "profile"), *segments)

    def fetch_profile(self, profile_id: str) -> Document:
        """An export profile."""
        return self.fetch_json("GET", self.profile_url(profile_id))

    def fetch_tagged_profile(self, profile_id: str) -> tuple[Document, str]:
        """(an export profile, its ETag or "")."""

        def consume(response: Response) -> tuple[Document, str]:
            answer = parse_answer(response.read_all(MAX_JSON_BYTES, "the answer"), response)
            return answer, response.headers.get("etag", "")

        request = Request("GET", self.profile_url(profile_id), {"Accept": "application/json"})
        tagged: tuple[Document, str] = self.http.fetch(request, consume)
        return tagged

    def send_change(self, request: Request) -> Document | None:
        """The changed document, or None when it is no longer the one that If-Match names (412)."""

        def consume(response: Response) -> Document | None:
            if response.status == 412:
                return None
            return parse_answer(response.read_all(MAX_JSON_BYTES, "the answer"), response)

        conditional = "If-Match" in request.headers
        changed: Document | None = self.http.fetch(request, consume, (412,) if conditional else ())
        return changed

    def send_to_profile(self, profile_id: str, action: str, body: Document) -> Document:
        """`archive` or `restore`."""
        return self.fetch_json("POST", self.profile_url(profile_id, action), body)


# ==================================================================================================
# Room 14. Operations
#
# What the commands do, built from the rooms above, without argparse: watch, download, verify and the
# ways a document is printed.
# ==================================================================================================


def shell_word(text: str) -> str:
    """A foreign id as a word of a command that can be pasted into a shell."""
    import shlex

    return shlex.quote(printable(text))


class App:
    """What an operation works with."""

    def __init__(
        self, config: Config, console: Console, clock: Clock, typed: tuple[Sequence[str], Sequence[str]] = ((), ())
    ) -> None:
        self.config = config
        self.console = console
        self.clock = clock
        self._typed = typed  # the words up to the command's last, and those after it
        self._gateway: Gateway | None = None

    @property
    def gateway(self) -> Gateway:
        """The gateway; ConfigError, before any connection, when there is no token or no valid server."""
        if self._gateway is None:
            http = Http(self.config, self.console, self.clock)
            http.require_token()
            self._gateway = Gateway(http)
        return self._gateway

    @property
    def http(self) -> Http:
        """The gateway's HTTP."""
        return self.gateway.http

    def anonymous_http(self) -> Http:
        """HTTP for hosts that get no credentials, where no gateway is called."""
        return self._gateway.http if self._gateway is not None else Http(self.config, self.console, self.clock)

    def planning_gateway(self) -> Gateway:
        """Routes and requests for --dry-run, which needs no token because nothing is sent."""
        return Gateway(self.anonymous_http())

    def typed(self, option: str = "") -> str:
        """The command that was typed, with one option more, to be pasted into a shell."""
        program = ("python3", sys.argv[0]) if os.path.basename(sys.argv[0]) == "stella.py" else ("stella",)
        words, rest = self._typed
        more = [option] if option and option not in rest else []
        words = (*words, *more, *rest) if "--" in rest else (*words, *rest, *more)
        return " ".join(map(shell_word, (*program, *words)))

    def close(self) -> None:
        """Closes what is open."""
        if self._gateway is not None:
            self._gateway.http.close()

    def format(self, output: str = "") -> str:
        """table, json or yaml: what was asked for, else a table on a terminal and JSON elsewhere.

        --output has full documents and never a table (contract 4).
        """
        wanted = self.config.format or ("table" if self.console.out_is_terminal else "json")
        if wanted != "table" or not output:
            return wanted
        if self.config.source("format") == "--format":
            self.console.warn("--output gets the full JSON; leave it out for the table")
        return "json"

    def say_verdict(self, text: str, output: str) -> None:
        """What a table ends with, on standard error where the report is a document for programs."""
        if output or self.format() != "table":
            self.console.err("stella: " + text)

    def show(self, document: Json, view: Callable[[], list[str]], output: str = "", query: str = "") -> None:
        """A document as --query, --output and --format ask for it; `view` makes the lines of the table form."""
        if query:
            value = query_value(document, query)
            text = value if isinstance(value, str) else json_text(value)
        else:
            wanted = self.format(output)
            if wanted == "table":
                self.console.view(view())
                return
            text = yaml_text(document) if wanted == "yaml" else json_text(document)
        self.write([text + "\n"], output)

    def write(self, texts: Iterable[str], output: str) -> None:
        """Texts to standard output as they come, or to the file of --output, which appears when it is whole."""
        if not output or output == "-":
            for text in texts:
                self.console.document(text)
            return
        file = AtomicFile(output)
        try:
            for text in texts:
                file.write(text.encode("utf-8", "backslashreplace"))
            file.commit()
        finally:
            file.discard()


def progress_text(run: Document) -> str:
    """`37.5 % adapter`, or what there is of it."""
    progress = as_dict(run.get("progress"))
    percent = progress.get("percent")
    share = ""
    if isinstance(percent, (int, float)) and not isinstance(percent, bool) and abs(percent) < 1e9:
        share = "%.3g %%" % percent
    phase = as_text(progress.get("phase")) if run.get("status") in ACTIVE_STATUSES else ""
    return share + " " + phase if share and phase else share or phase


def run_row(run: Json) -> list[str]:
    """RUN PROFILE STATUS PROGRESS UPDATED"""
    run = as_dict(run)
    run_id, profile, status = as_text(run.get("runId")), as_text(run.get("profileId")), as_text(run.get("status"))
    return [run_id, profile, status, progress_text(run), time_text(run.get("updatedAt"))]


def profile_row(profile: Json) -> list[str]:
    """PROFILE KIND VARIANT DISTRIBUTION RETENTION"""
    profile = as_dict(profile)
    fields = [as_text(profile.get(key)) for key in ("profileId", "kind", "variant")]
    targets = ",".join(as_text(target) for target in as_list(profile.get("distribution")))
    return [*fields, targets, as_text(profile.get("retention"))]


def error_text(error: Json) -> str:
    """A run's error as `message (code)`."""
    fields = as_dict(error)
    message, code = as_text(fields.get("message")), as_text(fields.get("code"))
    return "%s (%s)" % (message, code) if message and code else message or code


def distribution_text(item: Json) -> str:
    """One distribution descriptor in a word."""
    item = as_dict(item)
    place = as_text(item.get("ref")) or "/".join(as_text(item.get(key)) for key in ("bucket", "key") if item.get(key))
    return " ".join(part for part in (as_text(item.get("type")), place) if part)


def run_view(run: Document) -> list[str]:
    """A run in a few lines."""
    bundle = as_dict(run.get("bundle"))
    size = bundle.get("size")
    sized = size_text(size) if isinstance(size, (int, float)) else ""
    return view_lines([
        ("Run", as_text(run.get("runId"))),
        ("Profile", as_text(run.get("profileId"))),
        ("Status", as_text(run.get("status"))),
        ("Progress", progress_text(run)),
        ("Error", error_text(run.get("error"))),
        ("Created", time_text(run.get("createdAt"))),
        ("Updated", time_text(run.get("updatedAt"))),
        ("Completed", time_text(run.get("completedAt"))),
        ("Policy", as_text(run.get("policySnapshotId"))),
        ("Selectors", json_text(run["selectors"], pretty=False) if run.get("selectors") else ""),
        ("Bundle", ", ".join(part for part in (as_text(bundle.get("name")), sized) if part)),
        ("SHA-256", as_text(bundle.get("sha256"))),
        *(("Distribution", distribution_text(item)) for item in as_list(run.get("distribution"))),
    ])  # fmt: skip


def profile_view(profile: Document) -> list[str]:
    """A profile in a few lines."""
    texts = [(name, as_text(profile.get(key))) for name, key in (
        ("Profile", "profileId"), ("Name", "name"), ("Kind", "kind"), ("Variant", "variant"), ("Status", "status"),
        ("Retention", "retention"), ("Compression", "compression"), ("Policy", "policySnapshotMode"),
    )]  # fmt: skip
    lists = [(name, ",".join(as_text(item) for item in as_list(profile.get(key)))) for name, key in (
        ("Include", "include"), ("Distribution", "distribution"),
    )]  # fmt: skip
    revision = profile.get("revision")
    return view_lines([
        *texts, *lists,
        ("Encryption", as_text(as_dict(profile.get("encryption")).get("mode"))),
        ("Revision", str(revision) if revision is not None else ""),
        ("Updated", time_text(profile.get("updatedAt"))),
    ])  # fmt: skip


def queried_items(pages: Iterable[Page], query: str) -> Json:
    """What --query looks into: of a list only as much as its first step needs."""
    first = query.partition(".")[0]
    if not first.isdecimal() or not first.isascii():
        return [item for page in pages for item in page.items]
    items: list[Json] = []
    for page in pages:
        items += [None] * len(page.items) if len(items) + len(page.items) <= int(first[:9]) else page.items
        if len(items) > int(first[:9]):
            break
    return items


def yaml_pages(pages: Iterable[Page]) -> Iterator[str]:
    """YAML of all items together, a text per page."""
    empty = True
    for page in pages:
        if page.items:
            yield yaml_text(page.items) + "\n"
            empty = False
    if empty:
        yield "[]\n"


def json_pages(pages: Iterable[Page]) -> Iterator[str]:
    """Indented JSON of all items together, a text per page."""
    indenter = JsonIndenter()
    empty = True
    for page in pages:
        if page.items:
            text = indenter.items(page.text) if page.whole else ""
            if not text:  # the items stand behind something else in the answer, or are not all wanted
                items = parse_object(page.text.encode("utf-8"), "the list", keep_numbers=True)["items"]
                text = json_text(items[: len(page.items)])
            # the brackets go, and a comma joins this page to the one before
            yield ("[" if empty else ",") + text[1:-2]
            empty = False
    yield "[]\n" if empty else "\n]\n"


def show_list(
    app: App, pages: Iterable[Page], header: Sequence[str], row: Callable[[Json], list[str]], output: str, query: str
) -> None:
    """A list as table, JSON or YAML, in constant memory: each page leaves before the next one is asked for."""
    import gc

    if query:
        app.show(queried_items(pages, query), list, output, query)
        return
    gc.set_threshold(LIST_OBJECTS)
    wanted = app.format(output)
    if wanted == "table":
        table = Table(app.console, header)
        for page in pages:
            lines = table.lines([row(item) for item in page.items])
            if lines:
                app.console.out("\n".join(lines))
        if not any(table.widths):
            app.console.out("\n".join(table.lines([])))
        return
    app.write(yaml_pages(pages) if wanted == "yaml" else json_pages(pages), output)


# ---- profiles ------------------------------------------------------------------------------------


def read_profile_file(path: str) -> Document:
    """The profile in a file (`-`: standard input), checked against the built-in schema."""
    what = "standard input" if path == "-" else printable(path)
    return check_profile(parse_object(read_input(path, "export profile file", MAX_PROFILE_BYTES), what), what)


def profile_changes(args: Any) -> Document:
    """The fields that `profile update` replaces outright, checked; ValidationError with every problem."""
    changes = {name: getattr(args, name) for name in ("name", "retention") if getattr(args, name) is not None}
    if args.distribution:
        changes["distribution"] = split_words(args.distribution)
    problems = object_problems(changes, {"fields": PROFILE_SCHEMA["fields"]}, "")
    added = {"distribution": split_words(args.add_distribution or ())}
    if args.add_distribution:
        problems += object_problems(added, {"fields": PROFILE_SCHEMA["fields"]}, "")
    if problems:
        raise ValidationError("the changes are not valid", problems)
    return changes


def changed_targets(profile: Document, add: Sequence[str], remove: Sequence[str]) -> list[str]:
    """The profile's distribution with some targets more and some fewer; never empty."""
    targets = [target for target in as_list(profile.get("distribution")) if isinstance(target, str)]
    wanted = [target for target in (*targets, *(each for each in add if each not in targets)) if target not in remove]
    if not wanted:
        raise ValidationError("the changes are not valid", ["/distribution: nothing would be left of it"])
    return wanted


def document_changes(before: Document, after: Document) -> list[str]:
    """What is different between two versions of a document, a line per field."""
    names = dict.fromkeys((*before, *after))
    texts = [
        (name, *(json_text(side[name], False) if name in side else "absent" for side in (before, after)))
        for name in names
    ]
    return ["/%s: was %s, is %s" % (name, was[:200], now[:200]) for name, was, now in texts if was != now]


def decide_change(app: App, gateway: Gateway, args: Any, changes: Document) -> tuple[Request, Document]:
    """(the request that makes the change, the profile as read or {}); reads only where it must."""
    add, remove = split_words(args.add_distribution or ()), split_words(args.remove_distribution or ())
    profile: Document = {}
    headers = {}
    if add or remove:
        profile, etag = app.gateway.fetch_tagged_profile(args.profile_id)
        headers = {"If-Match": etag} if etag else {}
        wanted = changed_targets(profile, add, remove)
        if wanted != profile.get("distribution"):
            changes = {**changes, "distribution": wanted}
        if not changes:
            raise UsageError("nothing to change: the distribution is %s already" % ",".join(wanted))
    return gateway.json_request("PATCH", gateway.profile_url(args.profile_id), changes, headers), profile


def retry_change(app: App, args: Any, changes: Document, first: Document) -> Document:
    """After a 412: once more from a fresh read, then QuotaError with what changed meanwhile (contract 4)."""
    try:
        request, _ = decide_change(app, app.gateway, args, changes)
    except UsageError:  # it is as wanted by now: the answer to our own change was lost
        return app.gateway.fetch_profile(args.profile_id)
    changed = app.gateway.send_change(request)
    if changed is None:
        now = app.gateway.fetch_profile(args.profile_id)
        hint = "nothing was written; look at: stella export profile show %s" % printable(args.profile_id)
        what = document_changes(first, now) or ["what the gateway shows of it is the same"]
        raise QuotaError("profile %s changed while it was being updated" % printable(args.profile_id), what, hint)
    return changed


def show_request(app: App, request: Request, args: Any) -> int:
    """What --dry-run prints: the request, without the token."""
    headers = {name: value for name, value in request.headers.items() if isinstance(value, str)}
    if app.config.tenant:
        headers["X-Stella-Tenant"] = app.config.tenant
    body = parse_json(request.body or b"null", "the request")
    url = "%s://%s%s" % (request.url.scheme, request.url.authority, request.url.target)
    document = {"method": request.method, "url": url, "headers": headers, "body": body}

    def view() -> list[str]:
        lines = ["%s %s" % (request.method, url), *("%s: %s" % pair for pair in headers.items())]
        return [printable(line) for line in [*lines, "", *json_text(body).split("\n")]]

    app.show(document, view, args.output, args.query)
    return EXIT_OK


# ---- watch ---------------------------------------------------------------------------------------


FINAL_EVENTS = {"run." + status: status for status in FINAL_STATUSES}


def event_value(data: str) -> Json:
    """An event's data as a value; as its text where it is not JSON that a JSON line can carry."""
    try:
        return parse_json(data.encode("utf-8"), "data")
    except (ValidationError, UnicodeEncodeError):
        return data


class Watcher:
    """The events of a run, from the stream while it can be had, else from polling.

    `events` gives batches until the run has ended; `status` is then the run's final status, `final` what
    its last event said. With `ticks`, an empty batch comes every second in which nothing happens.
    """

    def __init__(self, app: App, run_id: str, url: Url, ticks: bool = False) -> None:
        self.app = app
        self.http = app.http
        self.run_id = run_id
        self.url = url
        self.ticks = ticks
        self.status = ""
        self.final: Document = {}
        self.trouble = ""  # what keeps events from coming, for the status line
        self.parser = EventParser()
        self.seen = SeenEvents()
        self.known: dict[str, str] = {}  # the data of the last event shown, for each type of the contract
        self.shown = 0  # events, in all
        self.arrived = 0  # events on this connection, new or not
        self.said_ended = False  # the run itself was seen to have ended
        self.idle_seconds = app.config.timeout if "timeout" in app.config.sources else STREAM_IDLE_SECONDS

    def events(self, follow: bool) -> Iterator[list[Event]]:
        """Batches of new events, to the terminal one; without `follow`, those that there are now."""
        try:
            why_poll = yield from self._stream(follow)
            if why_poll:
                why = printable(why_poll)
                self.app.console.err("stella: asking for the run's state instead of its events: %s" % why)
            if not self.status:  # the stream was of no use, or has said all that there is now
                yield from self._poll(follow, final_only=not why_poll)
        except DeadlineError:
            batch = self._last_look()
            if not self.status:
                raise
            yield batch

    def _stream(self, follow: bool) -> Generator[list[Event], None, str]:
        """Connection after connection; gives back why the stream is of no use, or "" when it was enough."""
        barren = 0  # attempts in a row without one new event
        if not follow:  # the whole log of a run that has ended; of an active one what comes without a pause
            self.said_ended = self.app.gateway.fetch_run(self.run_id).get("status") in FINAL_STATUSES
        while True:
            shown_before, asked_seconds, reason = self.shown, 0.0, "the stream ends without one"
            try:
                why_poll = yield from self._listen(follow)
                if why_poll or self.status or not follow:
                    return why_poll
            except TransportError as error:
                reason, asked_seconds = error.message, error.retry_after
                if self.app.config.trace:
                    self.app.console.err("trace: the event stream is lost: %s" % printable(reason))
            barren = barren + 1 if self.shown == shown_before else 0
            if barren > self.app.config.retries:
                return "no new event in %d attempts: %s" % (barren, reason)
            self.trouble = "reconnecting"
            retry_seconds = min((self.parser.retry_ms or 0) / 1000, MAX_STREAM_RETRY_SECONDS)
            yield from self._rest(
                max(retry_seconds, self.http.backoff(max(barren, 1), asked_seconds)), reason if asked_seconds else ""
            )

    def _listen(self, follow: bool) -> Generator[list[Event], None, str]:
        """One connection; gives back why there is no stream, or ""."""
        shown_before, self.arrived = self.shown, 0
        self.parser = EventParser(self.parser.last_id, self.parser.retry_ms)
        self.seen.reconnect()
        response = self._open()
        if isinstance(response, str):
            return response
        yield from self._read(response, follow)
        if follow and not self.status and self.shown == shown_before:
            yield self._ask_after_nothing()
        return ""

    def _open(self) -> Response | str:
        """The open stream, or why it will never be one; TransportError when it may be one later."""
        response = self.app.gateway.open_events(self.url, self.parser.last_id, self.idle_seconds)
        status, headers = response.status, response.headers
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        coding = content_coding(headers)
        if status == 200 and kind == "text/event-stream" and not coding:
            return response
        if status < 300:
            response.close()
            if status == 204:  # WHATWG: tells the client to stop reconnecting
                return "the gateway has no more events (status 204)"
            return "the answer is %s, not an event stream" % quoted(coding or kind)
        failure, again = read_failure(response)
        if failure.code.startswith("ERR_EXPORT_") or status in (401, 403):
            raise failure
        if again or (status >= 500 and status != 501):
            lost = TransportError(failure.message)
            lost.retry_after = self.http.retry_after(headers)
            raise lost
        return "the gateway has no event stream here (status %d)" % status

    def _read(self, response: Response, follow: bool) -> Iterator[list[Event]]:
        """What one connection brings; a terminal event, or without `follow` silence, ends it."""
        clock = self.app.clock
        opened = news_at = clock.monotonic()
        quiet_seconds = self.idle_seconds
        if not follow:
            quiet_seconds = min(self.idle_seconds, QUIET_SECONDS * (5 if self.said_ended else 1))
        try:
            while not self.status and (follow or self.said_ended or clock.monotonic() - opened < MAX_REPLAY_SECONDS):
                left = quiet_seconds
                while self.ticks and left > TICK_SECONDS and not response.wait(self.http.timeout(TICK_SECONDS)):
                    left -= TICK_SECONDS
                    yield []
                response.set_timeout(self.http.timeout(left))
                chunk = response.read_stream(STREAM_CHUNK_BYTES)
                if not chunk:
                    return
                events = self.parser.feed(chunk)
                self.arrived += len(events)
                batch = self._note([event for event in events if self.seen.is_new(event)])
                if batch:
                    yield batch
                    news_at = clock.monotonic()
                elif follow and clock.monotonic() - news_at > STREAM_CHECK_SECONDS:
                    self._check_against_run()
                    news_at = clock.monotonic()
        except TransportError as error:
            if follow or not error.timed_out:
                raise
        finally:
            response.close()

    def _note(self, batch: list[Event]) -> list[Event]:
        """Notes what the events of a batch say; what follows a terminal event is cut off."""
        for index, event in enumerate(batch):
            if event.type in FINAL_EVENTS:
                self.status = FINAL_EVENTS[event.type]
                self.final = as_dict(event_value(event.data))
                del batch[index + 1 :]
            elif event.type in ("run.progress", "run.started", "run.accepted"):
                self.known[event.type] = event.data
        self.shown += len(batch)
        if batch:
            self.trouble = ""
        return batch

    def _ask_after_nothing(self) -> list[Event]:
        """The stream closed in good order and brought nothing new: has the run ended?

        One that has gets another connection, since it may have ended just now, and as many as --retries
        allows when this one replayed events: the one that is missing must then be behind them.
        """
        try:
            run = self.app.gateway.fetch_run(self.run_id)
        except NetworkError:
            return []  # one more attempt without an event
        if run.get("status") not in FINAL_STATUSES:
            return []
        if self.said_ended and not self.arrived:
            return self.implied_events(run, final_only=True)
        self.said_ended = True
        return []

    def _check_against_run(self) -> None:
        """Comments, but no event for long: TransportError when the run has ended, or has begun without a word."""
        try:
            status = self.app.gateway.fetch_run(self.run_id).get("status")
        except NetworkError:
            return  # the stream will tell
        if status in FINAL_STATUSES or (not self.shown and status != "pending"):
            raise TransportError("the event stream does not say that the run is %s" % printable(str(status)))

    def _last_look(self) -> list[Event]:
        """The deadline has passed, but the run may have ended without our knowing."""
        self.http.deadline = self.app.clock.monotonic() + LAST_LOOK_SECONDS
        try:
            run = self.app.gateway.look_at_run(self.run_id, min(LAST_LOOK_SECONDS, self.app.config.timeout))
        except NetworkError:
            if not self.shown:  # then nobody has ever said that there is such a run
                raise
            return []
        except (ProtocolError, QuotaError, DeadlineError):
            return []  # nobody knows
        return self.implied_events(run, final_only=True)

    def _poll(self, follow: bool, final_only: bool) -> Iterator[list[Event]]:
        """The run's state, again and again, as events without ids."""
        interval = POLL_SECONDS
        while True:
            yield self.implied_events(self.app.gateway.fetch_run(self.run_id), final_only)
            if self.status or not follow:
                return
            yield from self._rest(interval)
            interval = min(interval * 1.5, MAX_POLL_SECONDS)

    def _rest(self, seconds: float, why: str = "") -> Iterator[list[Event]]:
        """Waits, with ticks, else telling why."""
        while self.ticks and seconds > TICK_SECONDS:
            self.http.pause(TICK_SECONDS)
            seconds -= TICK_SECONDS
            yield []
        self.http.pause(seconds, why)

    def implied_events(self, run: Document, final_only: bool) -> list[Event]:
        """The events that a run's state stands for and that were not shown yet; sets `status` at its end."""
        status = as_text(run.get("status"))
        if not status:
            raise ProtocolError("the gateway's answer about run %s has no status" % printable(self.run_id))
        implied: list[tuple[str, Document]] = []
        if not final_only:
            implied.append(("run.accepted", {"status": "pending"}))
            if status in ("running", "succeeded") or run.get("startedAt"):
                implied.append(("run.started", {"status": "running"}))
            implied = [(kind, data) for kind, data in implied if kind not in self.known]
            progress = as_dict(run.get("progress"))
            if progress and not self._is_shown(progress):
                implied.append(("run.progress", progress))
        if status in FINAL_STATUSES:
            error = run.get("error")
            implied.append(("run." + status, {"status": status, "error": error} if error else {"status": status}))
        batch = []
        for kind, data in implied:
            text = json_text({"runId": self.run_id, **data}, pretty=False)
            batch.append(Event(kind, text.encode("utf-8", "backslashreplace").decode("utf-8"), "", False))
        return self._note(batch)

    def _is_shown(self, progress: Document) -> bool:
        """True when the last progress shown, by an event or by polling, said the same."""
        last = as_dict(event_value(self.known.get("run.progress", "")))
        return all(last.get(key) == progress.get(key) for key in ("percent", "phase", "processed", "total"))


class EventEncoder:
    """Events as the compact lines of `watch --json`.

    Data that is one JSON value goes out as it came, less the white space between its tokens: numbers keep
    their spelling, and nothing is taken apart in Python. Where JSON lines cannot carry the value (it is no
    JSON, has a key twice, 1e400, a lone surrogate) its text goes out as a string.
    """

    def __init__(self) -> None:
        import re
        from json import JSONDecoder
        from json.encoder import encode_basestring
        from json.scanner import make_scanner

        self._quote = encode_basestring
        reader = JSONDecoder(object_pairs_hook=self._object, parse_float=self._number, parse_constant=self._refuse)
        self._scan: Any = make_scanner(reader)  # type: ignore[arg-type]
        self._long_number = re.compile(r"[0-9]{309}")  # perhaps more than a float can hold
        self._gaps = re.compile(r'("(?:[^"\\]|\\.)*")|[ \t\n]+')

    def line(self, event: Event) -> str:
        """`{"event":"run.progress","id":"17","data":{...}}`"""
        data = event.data
        if not self._is_plain(data):
            data = self._checked(data)
        elif " " in data or "\n" in data or "\t" in data:  # a CR ends a line of the stream: there is none
            short = len(data) <= STREAM_CHUNK_BYTES  # re takes a hundred bytes for each character of a string
            data = self._gaps.sub(r"\1", data) if short else self._checked(data)
        last_id = self._quote(event.id) if event.id else "null"
        return '{"event":' + self._quote(event.type) + ',"id":' + last_id + ',"data":' + data + "}"

    def _is_plain(self, data: str) -> bool:
        """True when the C scanner alone can tell that this is strict JSON that a line can carry; not all is."""
        if "\\u" in data or (len(data) > 308 and self._long_number.search(data)):
            return False
        if data.count("[") + data.count("{") > MAX_JSON_DEPTH:
            return False
        try:
            return self._scan(data, 0)[1] == len(data)  # type: ignore[no-any-return]
        except (ValueError, StopIteration):
            return False

    def _checked(self, data: str) -> str:
        """The value as compact JSON, or the text as a JSON string."""
        try:
            text = json_text(parse_json(data.encode("utf-8"), "data"), pretty=False)
            text.encode("utf-8")
        except (ValidationError, UnicodeEncodeError):
            return self._quote(data)
        return text

    @staticmethod
    def _object(pairs: list[tuple[str, Json]]) -> None:
        if len(dict(pairs)) != len(pairs):
            raise ValueError("a key comes twice")

    @staticmethod
    def _number(digits: str) -> None:
        if abs(float(digits)) == float("inf"):
            raise ValueError("no float can hold this")

    @staticmethod
    def _refuse(name: str) -> NoReturn:
        raise ValueError(name + " is not JSON")


def number_of(value: Json) -> float | None:
    """A number that can be shown as progress, else None."""
    return float(value) if isinstance(value, (int, float)) and value is not True and 0 <= value < 1e15 else None


class Speed:
    """How fast a number grows: since a mark that is set when it falls back, and again while events are a replay."""

    def __init__(self) -> None:
        self.mark: tuple[float, float] | None = None
        self.value = 0.0

    def add(self, now: float, value: float, replayed: bool) -> None:
        """Takes in the number at a time in seconds."""
        if self.mark is None or replayed or value < self.value:
            self.mark = (now, value)
        self.value = value

    def per_second(self, now: float) -> float:
        """0.0 where it means nothing yet: in the first five seconds, or without growth."""
        if self.mark is None or now - self.mark[0] < 5:
            return 0.0
        return (self.value - self.mark[1]) / (now - self.mark[0])


class WatchView:
    """What a person sees of a watch: a bar on a terminal, else a line when something worth it changed."""

    def __init__(self, app: App, run_id: str) -> None:
        self.console = app.console
        self.clock = app.clock
        self.run_id = run_id
        self.started = app.clock.monotonic()
        self.told: tuple[str, str] = ("", "")  # status and phase of the last line
        self.told_percent = 0.0
        self.status = "pending"
        self.phase = ""
        self.percent: float | None = None
        self.counts = ""
        self.percent_speed = Speed()
        self.count_speed = Speed()

    def show(self, batch: list[Event], trouble: str) -> None:
        """Takes in a batch of events; an empty one redraws."""
        for event in batch:
            self._take_in(event)
            if not self.console.bars:
                self._line()
        if self.console.bars:
            self._draw(trouble)

    def _take_in(self, event: Event) -> None:
        data = as_dict(event_value(event.data))
        if event.type == "run.warning":
            text = as_text(data.get("message")) or event.data
            if len(text) > MAX_WARNING_CHARACTERS:
                text = text[:MAX_WARNING_CHARACTERS] + "..."
            self.console.err(printable("%s: warning: %s" % (self.run_id, text)))
        elif event.type in FINAL_EVENTS:
            self.status = FINAL_EVENTS[event.type]
        elif event.type in ("run.started", "run.progress"):
            self.status = "running"
        if event.type == "run.progress":
            self._take_progress(data)

    def _take_progress(self, data: Document) -> None:
        now = self.clock.monotonic()
        replayed = now - self.started < 2  # what comes at once has happened before
        phase = printable(as_text(data.get("phase"))[:60])
        if phase != self.phase:
            self.phase, self.count_speed = phase, Speed()
        percent, done, total = (number_of(data.get(key)) for key in ("percent", "processed", "total"))
        if percent is not None:
            self.percent = min(percent, 100.0)
            self.percent_speed.add(now, percent, replayed)
        self.counts = ""
        if done is not None:
            self.counts = "%d of %d" % (done, total) if total else "%d" % done if done else ""
            self.count_speed.add(now, done, replayed)

    def _draw(self, trouble: str) -> None:
        """The status line: bar, percent, phase, counts, elapsed, rate or time left; the less needed give way."""
        room = self.console.columns() - 1
        now = self.clock.monotonic()
        percent = "%5.1f %%" % self.percent if self.percent is not None else ""
        state = self.phase if self.phase and self.status == "running" else self.status
        texts = [percent, state, self.counts, duration_text(now - self.started), trouble or self._estimate(now)]
        bar_columns = 10
        taken: set[int] = set()
        for index in (0, 1, 3, 2, 4):
            width = sum(text_width(texts[other]) + 2 for other in taken | {index})
            if not taken or width + (bar_columns if index in (2, 4) else 0) <= room:
                taken.add(index)
        text = "  ".join(texts[index] for index in sorted(taken) if texts[index])
        bar_columns = min(room - text_width(text) - 2, 40)
        bar = bar_text(self.percent, bar_columns, self.console.unicode()) + "  " if bar_columns >= 8 else ""
        self.console.draw_bar(bar + text)

    def _estimate(self, now: float) -> str:
        """The time left, else the rate, where there is a meaning to it."""
        speed = self.percent_speed.per_second(now)
        left = (100 - (self.percent or 0)) / speed if speed > 0.001 else 0.0
        if 0 < left < 360000:
            return "%s left" % duration_text(left)
        rate = self.count_speed.per_second(now)
        return "%.*f/s" % (0 if rate >= 10 else 1, rate) if rate >= 0.1 else ""

    def _line(self) -> None:
        percent = self.percent or 0.0
        if (self.status, self.phase) == self.told and abs(percent - self.told_percent) < 10:
            return
        self.told, self.told_percent = (self.status, self.phase), percent
        shown = "%.1f %%" % percent if self.percent is not None else ""
        ended = self.status in FINAL_STATUSES
        parts = [part for part in (self.status, shown, *(() if ended else (self.phase, self.counts))) if part]
        self.console.err(printable("%s: %s" % (self.run_id, "  ".join(parts))))


def watch_run(app: App, run_id: str, url: Url, as_json: bool, follow: bool, deadline: float | None) -> Watcher:
    """Shows a run's events; gives back the watcher, whose `status` is the run's ("" while active)."""
    again = "stella export run watch %s" % shell_word(run_id)
    if deadline is not None:
        app.http.deadline = app.clock.monotonic() + deadline
    watcher = Watcher(app, run_id, url, ticks=app.console.bars and not as_json)
    view, encoder = WatchView(app, run_id), EventEncoder()
    try:
        for batch in watcher.events(follow):
            if not as_json:
                view.show(batch, watcher.trouble)
            elif batch:
                app.console.document("".join([encoder.line(event) + "\n" for event in batch]))
    except DeadlineError:
        message = "run %s is still active after %g seconds" % (printable(run_id), deadline or 0)
        raise DeadlineError(message, hint="watch it further with: %s" % again) from None
    except NetworkError as error:
        error.details.append("the run itself is left alone; watch it again with: %s" % again)
        raise
    except Interrupted:
        app.console.err("stella: the run goes on; watch it again with: %s" % again)
        app.console.err("  or end it with: stella export run cancel %s" % shell_word(run_id))
        raise
    finally:
        app.console.clear_bar()
        if app.http.deadline is not None:  # for the look at the run itself that follows
            app.http.deadline = max(app.http.deadline, app.clock.monotonic() + LAST_LOOK_SECONDS)
    return watcher


def fetch_outcome(app: App, run_id: str, watcher: Watcher, run: Document) -> Document:
    """The run at the end of a watch; `run` with what the events said, where it cannot be read any more."""
    try:
        return app.gateway.fetch_run(run_id)
    except StellaError as error:
        if not watcher.status:
            raise
        app.console.warn("cannot read the run itself: %s" % error.message)
        return {**run, "status": watcher.status, "error": watcher.final.get("error")}


def final_status(app: App, told: str, run: Document) -> str:
    """The run's status by its last event and by itself; where they differ, what is not a success, with a warning."""
    status = as_text(run.get("status"))
    if told and status in FINAL_STATUSES and status != told:
        app.console.warn("the last event says that the run %s, the run itself says %s" % (told, status))
    return status if status in FINAL_STATUSES and told in ("", "succeeded") else told or status


def raise_for_status(run_id: str, status: str, run: Document, final: Document | None = None) -> None:
    """RunFailedError unless the run succeeded or is still active; `final` is what its last event said."""
    if status in ("failed", "cancelled", "expired"):
        error = as_dict(run.get("error") or (final or {}).get("error"))
        reason = as_text(error.get("message"))
        verb = {"expired": "has expired", "cancelled": "was cancelled", "failed": "failed"}[status]
        message = "run %s %s%s" % (run_id, verb, ": " + reason if reason else "")
        hint = "see: stella export run show %s" % shell_word(run_id)
        raise RunFailedError(message, hint=hint, code=as_text(error.get("code")))


def outcome_text(run_id: str, status: str, run: Document) -> str:
    """The last line of a watch: the final state, and what to type next."""
    bundle = as_dict(run.get("bundle"))
    size = number_of(bundle.get("size"))
    facts = [as_text(bundle.get("name")), size_text(size) if size is not None else ""]
    if status not in FINAL_STATUSES:
        facts.append(progress_text(run))
    shown = ", ".join(fact for fact in facts if fact)
    following = "download" if status == "succeeded" else "run show" if status in FINAL_STATUSES else "run watch"
    state = "%s %s%s" % (run_id, status, " (%s)" % shown if shown else "")
    return "%s; next: stella export %s %s" % (printable(state), following, shell_word(run_id))


# ---- registries ----------------------------------------------------------------------------------


OCI_ACCEPT = (
    "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, "
    "application/vnd.docker.distribution.manifest.v2+json, application/vnd.docker.distribution.manifest.list.v2+json"
)


def fetch_registry_token(http: Http, registry: Url, challenge: str, name: str) -> str:
    """An anonymous pull token, from the realm that a bearer challenge names."""
    import re
    from urllib.parse import urlencode

    fields = dict(re.findall(r'\b([a-z]+)="([^"]*)"', challenge))  # without \b quadratic in a long word
    try:
        realm = parse_url(fields.get("realm", ""))
    except ValueError as error:
        raise ProtocolError("the registry's challenge names a realm that %s" % error) from None
    if (registry.scheme == "https" and realm.scheme != "https") or http.is_gateway(realm):
        raise ProtocolError("the registry's challenge names a realm that is not asked: %s" % realm)
    pairs = {"service": fields.get("service", ""), "scope": fields.get("scope") or "repository:%s:pull" % name}
    query = urlencode({key: value for key, value in pairs.items() if value})
    target = realm.target + ("&" if "?" in realm.target else "?") + query
    url = Url(realm.scheme, realm.host, realm.port, target)

    def consume(response: Response) -> Document:
        if response.status >= 300:
            raise ProtocolError("%s gives no token for anonymous reading (status %d)" % (realm, response.status))
        return parse_answer(response.read_all(MAX_ERROR_BYTES, "the registry's token"), response)

    request = Request("GET", url, {"Accept": "application/json"}, anonymous=True)
    document = http.fetch(request, consume, take=(400, 401, 403, 404))
    token = as_text(document.get("token")) or as_text(document.get("access_token"))
    if not token.isascii() or not token.isprintable() or not token:
        raise ProtocolError("the registry gave no token for anonymous reading")
    return token


def fetch_registry_digest(app: App, ref: str, url: Url, name: str) -> str:
    """Docker-Content-Digest of a reference (OCI distribution spec, HEAD manifests), asked anonymously."""
    http = app.anonymous_http()
    headers: dict[str, str | bytes] = {"Accept": OCI_ACCEPT}
    hint = "--offline skips this check"
    for _ in range(2):
        challenge = ""

        def consume(response: Response) -> str:
            nonlocal challenge
            response.close()
            challenge = response.headers.get("www-authenticate", "") if response.status == 401 else ""
            if response.status in (401, 403) and "bearer" not in challenge.lower():
                raise NetworkError("it wants credentials, and none are sent to it")
            return response.headers.get("docker-content-digest", "") if response.status < 300 else ""

        try:
            digest: str = http.fetch(Request("HEAD", url, headers, anonymous=True), consume, take=(401, 403, 404))
            if not challenge:
                return digest
            headers["Authorization"] = "Bearer " + fetch_registry_token(http, url, challenge, name)
        except (NetworkError, ProtocolError) as error:
            error.message = "cannot ask the registry about %s: %s" % (printable(ref), error.message)
            error.hint = hint
            raise
    raise NetworkError("the registry of %s wants credentials, and none are sent to it" % printable(ref), hint=hint)


def parse_oci_ref(ref: str) -> tuple[Url, str]:
    """`registry/name:tag` or `registry/name@sha256:...` to (manifest URL, repository name); else ValueError."""
    import re

    host_pattern = r"([a-z0-9.-]+(?::\d+)?|\[[0-9a-f:]+\](?::\d+)?)"
    name_pattern = r"([a-z0-9]+(?:[._/-]+[a-z0-9]+)*)"
    pattern = host_pattern + "/" + name_pattern + r"(?::([\w][\w.-]{0,127}))?(?:@(sha256:[0-9a-f]{64}))?"
    match = re.fullmatch(pattern, ref, re.ASCII) if len(ref) <= MAX_REF_CHARACTERS else None
    if match is None:
        raise ValueError("is not registry/name:tag")
    host, name, tag, digest = match.groups()
    bare = host.rpartition(":")[0] if re.search(r":\d+$", host) else host
    scheme = "http" if is_loopback(bare.strip("[]")) else "https"
    return parse_url("%s://%s/v2/%s/manifests/%s" % (scheme, host, name, digest or tag or "latest")), name


def check_registries(app: App, descriptors: Sequence[Json], offline: bool) -> Check:
    """Check 7: every `oci` descriptor's digest is the one its registry gives."""
    found = [as_dict(item) for item in descriptors if as_dict(item).get("type") == "oci"]
    if offline or not found:
        return Check("oci", "skipped", "--offline was given" if offline else "there is no oci descriptor")
    for item in found:
        ref, digest = as_text(item.get("ref")), parse_digest(item.get("digest"))
        if not ref or not digest:
            return Check("oci", "fail", "an oci descriptor lacks a ref or a sha256 digest")
        try:
            url, name = parse_oci_ref(ref)
        except ValueError as error:
            return Check("oci", "fail", "the oci reference %s %s" % (quoted(ref), error))
        stated = fetch_registry_digest(app, ref, url, name)
        if parse_digest(stated) != digest:
            said = "has " + printable(stated)[:80] if stated else "gives no digest"
            return Check("oci", "fail", "%s should be sha256:%s, the registry %s" % (printable(ref), digest, said))
    return Check("oci", "pass", "%d of %d at the registry as described" % (len(found), len(found)))


# ---- download ------------------------------------------------------------------------------------


class StreamSink:
    """`--output -`: bytes leave at once, so nothing can start again once some have left. Hashes them as they go."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.written = 0

    def truncate(self, size: int) -> None:
        """Only to where the stream stands."""
        if size != self.written:
            reason = "the transfer would have to start again, and part of it has gone to standard output"
            raise NetworkError(reason, hint="use --output FILE")

    def write_at(self, _: int, data: memoryview) -> None:
        """Passes bytes on."""
        self.console.write_bytes(data)
        self.hasher.update(data)
        self.written += len(data)

    def sync(self) -> None:
        """The reader's affair."""

    def write_sidecar(self, facts: Document) -> None:
        """A stream has no sidecar."""

    def digester(self) -> StreamSink:
        """What computes the digest, from the start: this sink itself."""
        import hashlib

        self.hasher = hashlib.sha256()
        return self

    def advance(self, limit: int) -> None:
        """Nothing follows: the bytes were hashed when they passed."""

    def stop(self) -> None:
        """Nothing runs."""

    def hexdigest(self, _: Callable[[int], None]) -> str:
        """The digest of what has passed."""
        return str(self.hasher.hexdigest())


class TransferView:
    """Progress of a download: a bar on a terminal, else a line every ten points or thirty seconds."""

    def __init__(self, app: App, name: str) -> None:
        self.console = app.console
        self.clock = app.clock
        self.name = printable(name)
        self.marks: list[tuple[float, int]] = []  # (time, bytes) of the last seconds
        self.drawn = self.lined = app.clock.monotonic()
        self.step = -1

    def show(self, done: int, total: int | None, doing: str = "") -> None:
        """`done` of `total` bytes are there, or have been checked."""
        now = self.clock.monotonic()
        if now - self.drawn < 0.1:
            return
        self.drawn = now
        if self.marks and done < self.marks[-1][1]:
            self.marks = []  # started again
        self.marks = [*[mark for mark in self.marks if now - mark[0] < 5][-50:], (now, done)]
        (start, first) = self.marks[0]
        rate = (done - first) / (now - start) if now - start >= 0.5 else 0.0
        percent = 100.0 * done / total if total else None
        size = size_text(done) + (" of " + size_text(total) if total else "")
        speed = size_text(rate) + "/s" if rate > 0 else ""
        left = duration_text((total - done) / rate) + " left" if total and rate > 0 else ""
        parts = ["%.0f %%" % percent if percent is not None else "", size, speed, left]
        text = doing + "  ".join(part for part in parts if part)
        step = int((percent or 0) // 10)
        if self.console.bars:
            width = min(self.console.columns() - len(text) - 3, 40)
            bar = bar_text(percent, width, self.console.unicode()) + "  " if width >= 8 else ""
            self.console.draw_bar(bar + text)
        elif (step > self.step and self.step >= 0) or now - self.lined >= 30:
            self.lined = now
            self.console.err("%s: %s" % (self.name, text))
        self.step = step


def header_digest(headers: Mapping[str, str]) -> str:
    """X-Export-Digest, else Repr-Digest (RFC 9530), as SHA-256 hex; "" where there is none."""
    import base64
    import re

    digest = parse_digest(headers.get("x-export-digest", "").strip())
    found = re.search(r"(?:^|[ ,])sha-256=:([A-Za-z0-9+/]{43}=):", headers.get("repr-digest", ""))
    return digest or (base64.b64decode(found.group(1)).hex() if found else "")


def object_url(config: Config, segments: Sequence[str]) -> Url:
    """`<endpoint>/<bucket>/<key>`."""
    from urllib.parse import quote

    try:
        endpoint = parse_url(config.object_endpoint)
    except ValueError as error:
        hint = "it looks like https://HOST; without it bundles come from the gateway"
        raise ConfigError("%s %s" % (config.source("object_endpoint"), error), hint=hint) from None
    target = "/".join((endpoint.path.rstrip("/"), *(quote(part, safe="") for part in segments)))
    return Url(endpoint.scheme, endpoint.host, endpoint.port, target)


class Piece:
    """What one connection fetches: `at` is the next byte to come, `end` the byte after the last (None: not known).

    claimed: one of several connections is at it, from byte `first` on and since that moment, or None.
    """

    __slots__ = ("at", "claimed", "end", "first")

    def __init__(self, at: int, end: int | None) -> None:
        self.at = at
        self.end = end
        self.first = at
        self.claimed: float | None = None

    def is_done(self) -> bool:
        """True when every byte is there."""
        return self.end is not None and self.at >= self.end

    def rest(self) -> int:
        """Bytes to come, where the end is known."""
        return (self.end or self.at) - self.at

    def rate(self, now: float) -> float:
        """Bytes per second of the connection that is at it."""
        return (self.at - self.first) / max(now - self.claimed, 0.001) if self.claimed is not None else 0.0


class OddAnswerError(TransportError):
    """An answer, fine for itself, that does not fit the pieces of several connections."""


class Transfer:
    """One bundle, from its sources to a sink (contract 4, `download`).

    `pieces`: what is not there yet, in order; one that is whole is taken out. With one connection it is the rest
    of the bundle, .part being a prefix of it, or the holes that several have left.
    """

    def __init__(self, app: App, run: Document, sink: Any, name: str, connections: int = 1) -> None:
        import threading

        self.app = app
        self.http = app.http
        self.run = run
        self.run_id = as_text(run.get("runId"))
        self.sink = sink
        bundle = as_dict(run.get("bundle"))
        size = bundle.get("size")
        self.stated = Expected(size if type(size) is int and size >= 0 else None, parse_digest(bundle.get("sha256")))
        self.expected = Expected(self.stated.size, self.stated.sha256)
        self.connections = connections  # that may be used from now on: as many as wanted, 1 after a misfit
        self.gateway_only = False
        self.pieces: list[Piece] = []
        self.answers = 0  # how many answers the bytes were put together from
        self.source = ""
        self.view = TransferView(app, name)
        self.lock = threading.RLock()  # for `pieces`, and for writing: whoever stops a connection knows that it stopped
        self.digest: Any = sink.digester()

    def sources(self) -> list[tuple[str, Url]]:
        """(name, URL): the object store where one is configured and used, then the gateway."""
        found = []
        endpoint = self.app.config.object_endpoint if not self.gateway_only else ""
        for item in as_list(self.run.get("distribution")) if endpoint else []:
            bucket, key = as_text(as_dict(item).get("bucket")), as_text(as_dict(item).get("key"))
            segments = [bucket, *key.split("/")]
            if as_dict(item).get("type") == "object" and all(part not in ("", ".", "..") for part in segments):
                found.append(("object store", object_url(self.app.config, segments)))
        return [*found, ("gateway", self.app.gateway.link(self.run, "download"))]

    def fetch(self, spans: Sequence[Span] = ()) -> str:
        """Fills the sink with what is missing beside `spans`; gives the SHA-256 of the whole."""
        sources = self.sources()
        if spans:
            self.begin(spans)
        else:
            self.restart()
        if spans and not self.stated.sha256:  # only the source that they are from can go on with them
            sources.sort(key=lambda source: source[0] != self.source)
        for index, (name, url) in enumerate(sources):
            if name != self.source and self.stated.sha256:
                self.expected.etag = ""  # an entity tag means something to the server that gave it only,
            elif name != self.source:
                self.expected = Expected(self.stated.size, "")  # and a digest of its own says nothing of others' bytes
                if not self.done_bytes():
                    self.begin([])
            self.source = name
            try:
                self._fetch_from(url)
                return str(self.digest.hexdigest(lambda done: self.view.show(done, self.expected.size, "checking ")))
            except StellaError as error:
                if index + 1 == len(sources) or isinstance(error, (LocalError, VerificationError)):
                    raise
                names = (name, error.message, sources[index + 1][0])
                self.app.console.warn("the %s failed (%s); going on with the %s" % names)
        raise NetworkError("the run has no source for its bundle")

    def begin(self, spans: Sequence[Span]) -> None:
        """Takes `spans` for given, which the sink has, and plans what is missing."""
        size = self.expected.size
        front = spans[0][1] if spans and spans[0][0] == 0 else 0
        if size is None:  # only a prefix is of use
            spans = [(0, front)] if front else []
        self.digest.stop()
        self.sink.truncate(spans[-1][1] if spans else 0)
        missing = find_gaps(spans, size) if size is not None else []
        if size is not None and self.wants_pieces():
            missing = cut_pieces(missing, min(max(PIECE_BYTES, size // PIECES), MAX_PIECE_BYTES))
        self.pieces = [Piece(*gap) for gap in missing]
        if size is None or not (missing or (front and self.expected.sha256)):
            self.pieces = [Piece(front, size)]  # nobody knows the end, or whether what is here is right
        self.answers = 1 if spans else 0
        self.digest = self.sink.digester()
        self.digest.advance(front)

    def restart(self) -> None:
        """From zero, knowing no more than what the run says."""
        self.expected = Expected(self.stated.size, self.stated.sha256)
        self.begin([])

    def wants_pieces(self) -> bool:
        """True when several connections may fetch this bundle."""
        return self.connections > 1 and self.stated.size is not None and self.stated.size >= PARALLEL_BYTES

    def done_bytes(self) -> int:
        """Bytes that are there."""
        if not self.pieces or self.expected.size is None:
            return self.pieces[0].at if self.pieces else self.expected.size or 0
        return self.expected.size - sum((piece.end or self.expected.size) - piece.at for piece in self.pieces)

    def spans(self, size: int) -> list[Span]:
        """What is there of `size` bytes."""
        with self.lock:
            return find_gaps([(piece.at, piece.end or size) for piece in self.pieces if not piece.is_done()], size)

    def has_holes(self) -> bool:
        """True when what is here is more than a prefix."""
        return len(self.pieces) > 1 or (bool(self.pieces) and self.pieces[0].end != self.expected.size)

    def _fetch_from(self, url: Url) -> None:
        """All attempts at one source. One that got further than all before it starts their count again: a link that
        breaks every minute must not end a transfer of hours, and one that has to start again from zero ever so
        often must.
        """
        failures, furthest = 0, self.done_bytes()
        while self.pieces:
            try:
                self._attempt(url, failures + 1)
            except TransportError as error:
                failures += 1
                if self.done_bytes() - furthest >= CHUNK_BYTES:
                    failures, furthest = 1, self.done_bytes()
                if failures > self.app.config.retries:
                    raise self.incomplete(error) from None
                self.http.pause(self.http.backoff(failures, error.retry_after), error.message)

    def incomplete(self, error: StellaError) -> NetworkError:
        """The end of all attempts."""
        return NetworkError("the download of run %s is incomplete: %s" % (printable(self.run_id), error.message))

    def _attempt(self, url: Url, attempt: int) -> None:
        """One request and what follows from its answer; TransportError when it broke off."""
        piece, parallel, there = self.pieces[0], self.wants_pieces(), self.done_bytes()
        tied = not there or bool(self.expected.sha256) or is_strong(self.expected.etag)
        start, end = (piece.at, piece.end) if tied else (0, None)  # nothing could tell that the rest belongs to this
        if piece.is_done() or not (parallel or self.has_holes()):
            end = None
        response = self.ask(url, start, end, attempt)
        try:
            first = self._first_bytes(response, there)
            plan = self._plan(response, start, end)
            if plan.action == "finish":
                self.pieces.clear()
                return
            if plan.action == "fail":
                raise TransportError(plan.reason)
            if plan.action == "restart" or response.status == 200:
                self.connections = 1
                if there:
                    reason = plan.reason or "nothing ties what is here to this bundle"
                    self.app.console.warn("starting again from zero: %s" % reason)
            if plan.action == "restart":
                self.restart()
                raise TransportError(plan.reason)
            if response.status == 200:
                self.begin([])
            elif not is_strong(self.expected.etag):
                self.use_one_connection()
            if (parallel and self.connections > 1) or self.has_holes():
                self._learn(plan, pieces=True)
                SideBySide(self, url).run(self.pieces[0], response, end)
            else:
                self.use_one_connection()
                self._learn(plan)
                self._put(self.pieces[0], first)
                self._receive_rest(response, plan)
        finally:
            response.close(reuse=True)

    def _first_bytes(self, response: Response, there: int) -> memoryview:
        """The start of a whole answer that could be anything: .part is given up only for one that brings more than the
        page of a captive portal does. Empty where there is nothing to lose, or the length says that it is the bundle.
        """
        told = parse_length(response.headers.get("content-length")) is not None
        doubtful = not told or (self.expected.size is None and self.stated.sha256 != "")
        if response.status != 200 or not there or not doubtful:
            return memoryview(b"")
        view, seen = memoryview(bytearray(min(self.expected.size or there, CHUNK_BYTES))), 0
        while seen < len(view):
            count = response.read_into(view[seen:])
            if not count:
                raise TransportError("the server sent something else for the bundle")
            seen += count
        return view

    def ask(self, url: Url, start: int, end: int | None, attempt: int) -> Response:
        """An answer of status 200, 206 or 416 to one request; else the error that it stands for."""
        headers = {"Accept": "*/*", **range_headers(start, end, self.expected.etag)}
        request = Request("GET", url, headers, anonymous=self.source != "gateway")
        response = self.http.exchange(request, attempt)
        if response.status in (200, 206, 416):
            return response
        failure, again = read_failure(response)
        # A presigned URL that has expired meanwhile: the gateway gives another one.
        expired = self.answers and 400 <= response.status < 500 and response.url.origin != url.origin
        if not again and not expired:
            raise failure
        passing = TransportError(failure.message)
        passing.retry_after = self.http.retry_after(response.headers)
        raise passing

    def _plan(self, response: Response, start: int, end: int | None) -> Plan:
        """decide_answer, and what the head says of ETag and digest."""
        plan = decide_answer(start, end, self.expected, response.status, response.headers)
        if plan.action != "take":
            return plan
        etag, sha256 = response.headers.get("etag", ""), header_digest(response.headers)
        self.expected.etag = etag if is_strong(etag) else self.expected.etag if plan.start else ""
        if not self.stated.sha256 and sha256 != self.expected.sha256:
            if plan.start and sha256 and self.expected.sha256:
                return Plan("restart", "the bundle's digest changed")
            self.expected.sha256 = sha256 or (self.expected.sha256 if plan.start else "")
        return plan

    def use_one_connection(self) -> None:
        """Goes on with one connection, which fills gap after gap."""
        self.connections = 1
        if self.expected.size is not None and len(self.pieces) > 1:
            self.pieces = [Piece(*gap) for gap in find_gaps(self.spans(self.expected.size), self.expected.size)]

    def _learn(self, plan: Plan, pieces: bool = False) -> None:
        """The size from the head of an answer; the sidecar is on disk before the first byte."""
        if self.expected.size is None or (self.stated.size is None and plan.start == 0):
            self.expected.size = self.pieces[0].end = plan.total
        self.answers += 1
        self.record(pieces)

    def record(self, pieces: bool) -> None:
        """Writes the sidecar: what a later --resume has to know."""
        facts = {"version": 1, "runId": self.run_id, "source": self.source, "size": self.expected.size}
        facts.update(etag=self.expected.etag, sha256=self.expected.sha256)
        if pieces and self.expected.size is not None:
            facts["done"] = [[start, end] for start, end in self.spans(self.expected.size)]
        self.sink.sync()  # before the sidecar says that it is there
        self.sink.write_sidecar(facts)

    def _receive_rest(self, response: Response, plan: Plan) -> None:
        """The body of an answer that fits, with one connection."""
        piece = self.pieces[0]
        self.receive(response, piece, plan, lambda: self.view.show(piece.at, self.expected.size))
        if piece.end is None and response.status == 200:  # the end of the body is the end of the bundle
            if not response.tells_its_end() and not self.expected.sha256:
                raise ProtocolError(
                    "the server gives neither length nor digest: nobody can tell a whole bundle from a cut one"
                )
            piece.end = piece.at
        if not piece.is_done():
            return  # a slice: the next request goes on behind it
        if not self.expected.sha256 and response.goes_on():
            self.restart()
            raise TransportError("the server sent more than the bundle's %s bytes" % piece.end)
        self.pieces.clear()

    def _put(self, piece: Piece, data: memoryview) -> None:
        """Writes the next bytes of a piece, which has none where another connection has taken it."""
        if data:
            self.sink.write_at(piece.at, data)
            piece.at += len(data)
            self.digest.advance(self.pieces[0].at)

    def receive(self, response: Response, piece: Piece, plan: Plan, tell: Callable[[], None]) -> None:
        """A body into its place, `tell` being called before each write; TransportError when it is cut short."""
        stop = plan.start + plan.length if plan.length is not None else piece.end
        # the connections together have no more than 4 MiB
        view = memoryview(bytearray(CHUNK_BYTES * 4 // max(self.connections, 4)))
        while stop is None or piece.at < stop:
            count = response.fill(view if stop is None else view[: stop - piece.at], self.app.clock)
            if not count:
                break
            with self.lock:
                stop = piece.end if stop is None or (piece.end is not None and piece.end < stop) else stop
                data = view[:count] if stop is None else view[: min(count, stop - piece.at)]
                tell()
                self._put(piece, data)
        if stop is not None and piece.at < stop:
            size = self.expected.size or stop
            raise TransportError("the transfer broke off after %d of %d bytes" % (self.done_bytes(), size))


class SideBySide:
    """Several connections, each fetching pieces of one bundle into their places, or one that fills gap after gap.

    One that fails leaves its piece to the others; more than --retries times in a row, and it ends. An answer that
    does not fit ends them all: the transfer goes on with one connection.
    """

    def __init__(self, transfer: Transfer, url: Url) -> None:
        import threading

        self.transfer = transfer
        self.url = url
        self.changed = threading.Condition(transfer.lock)  # a piece is whole, or free again
        self.stopped = False  # no connection writes after this
        self.threads: list[Any] = []
        self.responses: list[Response] = []  # those that are being read
        self.failure: Exception | None = None  # of the last connection that gave up
        self.misfit: StellaError | None = None  # an answer that does not fit the pieces

    def run(self, piece: Piece, response: Response, end: int | None) -> None:
        """To the end of every piece, `response` being the answer for the first, up to `end`. When all gave up it is a
        TransportError, which is another attempt for _fetch_from, or where they brought next to nothing, NetworkError.
        """
        transfer = self.transfer
        for each in transfer.pieces:
            each.claimed = None
        self._claim(piece)
        before = transfer.done_bytes()
        count = min(transfer.connections, len(transfer.pieces))
        try:
            self.threads.append(start_thread(self._work, piece, response, end))
            self._start_others(count - 1)
            self._attend()
        finally:
            self._stop()
            for thread in self.threads:
                thread.join(FILL_SECONDS)  # one that hangs ends by itself, and writes no more
            transfer.record(pieces=bool(transfer.pieces))
        if not transfer.pieces:
            return
        if self.misfit is not None and transfer.connections > 1:
            transfer.app.console.warn("going on with one connection: %s" % self.misfit.message)
            transfer.use_one_connection()
            return
        if self.misfit is not None:
            raise self.misfit
        if isinstance(self.failure, TransportError) and transfer.done_bytes() - before < CHUNK_BYTES:
            raise transfer.incomplete(self.failure)  # each has tried as often as --retries says
        raise self.failure or NetworkError("the connections ended early")

    def _start_others(self, count: int) -> None:
        """So many more connections, or as many as the system gives threads for."""
        try:
            for _ in range(count):
                self.threads.append(start_thread(self._work, None, None, None))
        except LocalError as error:
            self.transfer.app.console.warn("going on with fewer connections: %s" % error.message)

    def _attend(self) -> None:
        """Shows progress and keeps the sidecar up to date while the connections are at work."""
        transfer, clock = self.transfer, self.transfer.app.clock
        due = 0.0
        while transfer.pieces and not self.stopped and any(thread.is_alive() for thread in self.threads):
            with self.changed:
                self.changed.wait(FILL_SECONDS)
                done = transfer.done_bytes()
            transfer.view.show(done, transfer.expected.size)
            started = clock.monotonic()
            if started >= due:
                transfer.record(pieces=True)
                due = clock.monotonic() + RECORD_SHARE * (clock.monotonic() - started)

    def _stop(self, error: Exception | None = None) -> None:
        """Ends all connections; `error` is why, unless they were being ended anyway: what a shut socket raises says
        nothing.
        """
        with self.changed:
            if error is not None and not self.stopped:
                if isinstance(error, StellaError) and not isinstance(error, LocalError):
                    self.misfit = error
                else:
                    self.failure = error
            self.stopped = True
            for response in self.responses:
                response.abort()
            self.changed.notify_all()

    def _work(self, piece: Piece | None, response: Response | None, end: int | None) -> None:
        """One connection's life, in a thread of its own; the arguments as in _fetch_piece, or None."""
        failures = 0
        try:
            piece = piece or self._claim_piece()
            while piece is not None and not self.stopped:
                before, failure = piece.at, self._try_piece(piece, response, end, failures + 1)
                response = None
                if failure is None:
                    failures, piece = 0, self._claim_piece(piece)
                    continue
                failures = 1 if piece.at - before >= CHUNK_BYTES else failures + 1
                self._free_piece(piece)
                if failures > self.transfer.app.config.retries:
                    self.failure = failure
                    return
                self.transfer.http.pause(self.transfer.http.backoff(failures, failure.retry_after))
                piece = self._claim_piece()
        except Exception as error:  # noqa: BLE001 - a fault of stella's own is raised again in the main thread
            self._stop(error)

    def _try_piece(
        self, piece: Piece, response: Response | None, end: int | None, attempt: int
    ) -> TransportError | None:
        """As _fetch_piece; gives a failure that may pass, and raises any other."""
        try:
            self._fetch_piece(piece, response, end, attempt)
        except TransportError as error:
            if isinstance(error, OddAnswerError) or self.stopped:
                raise
            return error
        return None

    def _claim_piece(self, own: Piece | None = None) -> Piece | None:
        """`own` while it lacks something, else another one as soon as there is one to take; None at the end."""
        with self.changed:
            rate = own.rate(self.transfer.app.clock.monotonic()) if own is not None else 0.0
            while self.transfer.pieces and not self.stopped:
                piece = own if own is not None and not own.is_done() else self._next_piece(rate)
                if piece is not None:
                    return piece
                self.changed.wait(FILL_SECONDS)
            return None

    def _next_piece(self, rate: float) -> Piece | None:
        """The first piece that nobody fetches; at the end half of the longest rest that somebody does, or all of one
        that would keep a connection of `rate` bytes per second waiting.
        """
        pieces = self.transfer.pieces
        free = next((piece for piece in pieces if piece.claimed is None), None)
        if free is not None:
            self._claim(free)
            return free
        longest = max(pieces, key=Piece.rest)
        slow = next((piece for piece in pieces if self._is_slow(piece, rate)), None)
        if longest.rest() >= 2 * SPLIT_BYTES:
            taken = Piece(longest.at + longest.rest() // 2, longest.end)
            pieces.insert(pieces.index(longest) + 1, taken)
            longest.end = taken.at
        elif slow is not None:
            taken = Piece(slow.at, slow.end)
            pieces[pieces.index(slow)] = taken
            slow.end = slow.at
        else:
            return None
        self._claim(taken)
        return taken

    def _is_slow(self, piece: Piece, rate: float) -> bool:
        """True where waiting for this piece takes far longer than fetching its rest at `rate` bytes per second, and who
        is at it has had that time.
        """
        now = self.transfer.app.clock.monotonic()
        if rate <= 0 or piece.claimed is None:
            return False
        patience = SLOW_SECONDS + SLOW_RATIO * piece.rest() / rate
        return now - piece.claimed > patience and piece.rest() > piece.rate(now) * patience

    def _claim(self, piece: Piece) -> None:
        piece.first, piece.claimed = piece.at, self.transfer.app.clock.monotonic()

    def _free_piece(self, piece: Piece) -> None:
        """Another connection may have it, instead of waiting for this one; at the end it is another's already."""
        with self.changed:
            if not self.stopped:
                piece.claimed = None
                self.changed.notify_all()

    def _fetch_piece(self, piece: Piece, response: Response | None, end: int | None, attempt: int) -> None:
        """The rest of one piece, or as much of it as one answer holds; `response`: the one to a request up to `end`."""
        transfer = self.transfer
        if response is None:
            with self.changed:  # another connection may have taken it, or take a part of it before the answer comes
                start, end = piece.at, piece.end
            if piece.is_done():
                return
            response = transfer.ask(self.url, start, end, attempt)
        with self.changed:
            self.responses.append(response)
            transfer.answers += 1
        try:
            plan = decide_answer(piece.at, end, transfer.expected, response.status, response.headers)
            if plan.action != "take" or plan.start != piece.at or response.status != 206:
                raise OddAnswerError(plan.reason or "the server sent the whole bundle for a piece of it")
            transfer.receive(response, piece, plan, self._check_running)
        finally:
            with self.changed:
                self.responses.remove(response)
                if piece.is_done() and piece in transfer.pieces:
                    transfer.pieces.remove(piece)
                    transfer.digest.advance(transfer.pieces[0].at if transfer.pieces else transfer.expected.size or 0)
                    self.changed.notify_all()
            response.close(reuse=True)

    def _check_running(self) -> None:
        """Ends a connection whose bytes are no longer wanted."""
        if self.stopped:
            raise TransportError("the transfer was stopped")


def fetch_finished_run(app: App, run_id: str) -> Document:
    """A run that has a bundle to give; else an error that fits."""
    run = app.gateway.fetch_run(run_id)
    run.setdefault("runId", run_id)
    if isinstance(run.get("bundle"), dict):
        return run
    status = as_text(run.get("status"))
    raise_for_status(run_id, status, run)
    if status in ACTIVE_STATUSES:
        hint = "wait for it with: stella export run watch %s" % shell_word(run_id)
        raise MissingError("run %s is %s and has no bundle yet" % (printable(run_id), status), hint=hint)
    raise ProtocolError("the gateway's answer about run %s describes no bundle" % printable(run_id))


def check_run_registries(app: App, run: Document, offline: bool) -> None:
    """VerificationError when a registry does not hold what the run's oci descriptors say."""
    check = check_registries(app, as_list(run.get("distribution")), offline)
    if check.status == "fail":
        message = "the registry does not hold what the run describes"
        raise VerificationError(message, [check.detail], "--offline skips this check")


def check_place(target: str, digest: str, ours: bool) -> None:
    """LocalError where a name that the user did not choose would take the place of another file."""
    if ours or not os.path.lexists(target):
        return
    if os.path.islink(target) or not os.path.isfile(target) or file_facts(target)[1] != digest:
        hint = "move it away, or choose another place with --output"
        raise LocalError("%s is there already, and is not this bundle" % printable(target), hint=hint)


def wrong_digest(transfer: Transfer, sha256: str, hint: str) -> VerificationError:
    """The error that keeps wrong bytes from getting a name."""
    fault = "expected sha256:%s, got sha256:%s" % (transfer.expected.sha256, sha256)
    return VerificationError("the bundle of run %s has the wrong digest" % printable(transfer.run_id), [fault], hint)


def fetch_right_bytes(app: App, transfer: Transfer, spans: Sequence[Span]) -> str:
    """The digest of what was fetched; bytes of several answers that do not fit together are fetched once more."""
    sha256 = transfer.fetch(spans)
    mixed = bool(spans) or transfer.answers > 1
    if transfer.expected.sha256 and sha256 != transfer.expected.sha256 and (mixed or transfer.source != "gateway"):
        what = "the bundle put together from several answers" if mixed else "the bundle of the object store"
        app.console.warn("%s has the wrong digest; starting again from zero, at the gateway" % what)
        transfer.connections, transfer.gateway_only = 1, True
        sha256 = transfer.fetch()
    if not transfer.expected.sha256:
        app.console.warn("no digest of the bundle is known; only its length was checked")
    return sha256


def say_how_to_go_on(
    app: App, error: StellaError | Interrupted, part: PartFile, transfer: Transfer | None, command: str
) -> None:
    """What is there, and the command that goes on, beside an error or after Ctrl-C."""
    begun = transfer is not None and bool(transfer.pieces) and part.size() > 0
    done = transfer.done_bytes() if transfer is not None and begun else part.size()
    text = "%s are in %s; go on with: %s" % (size_text(done), printable(part.path), command)
    if not done:
        text = "nothing has arrived; try again with: %s" % command
    if isinstance(error, Interrupted):
        app.console.err("stella: " + text)
    elif isinstance(error, (NetworkError, LocalError)):
        error.hint = text
    elif done:  # the answer's own hint says what has to change before
        error.details.append(text)


def prepare_part(app: App, transfer: Transfer, part: PartFile, resume: bool) -> list[Span]:
    """What of .part can be kept; checks that the disk has room for the rest."""
    spans: list[Span] = []
    expected = transfer.expected
    if resume:
        sidecar = part.read_sidecar()
        spans, reason = decide_resume(part.size(), sidecar, expected)
        if reason:
            app.console.warn("starting again from zero: %s" % reason.replace("it ", "%s " % part.path, 1))
        if spans and sidecar is not None:
            expected.etag = as_text(sidecar.get("etag"))
            expected.sha256 = expected.sha256 or parse_digest(sidecar.get("sha256"))
            transfer.source = as_text(sidecar.get("source"))
    if not spans:
        part.truncate(0)
    folder = os.path.dirname(part.path)
    try:
        needed, free = part.missing_bytes(expected.size or 0), free_bytes(folder)
    except OSError:
        return spans  # a system that cannot tell: it will say so when it is full
    if needed > free:
        texts = (size_text(needed), printable(folder), size_text(free))
        raise LocalError("the bundle needs %s more and %s has %s free" % texts)
    return spans


def download_report(
    run: Document, target: str, size: int, sha256: str, how: str, source: str, seconds: float
) -> Document:
    """The facts of a finished download."""
    facts = {"runId": run.get("runId"), "path": target, "size": size, "sha256": sha256, "status": how}
    return {**facts, "source": source or None, "seconds": round(seconds, 3)}


def download_bundle(app: App, run: Document, target: str, resume: bool, connections: int, command: str) -> Document:
    """Downloads a run's bundle to `target`; gives the facts of what is there now. `command` goes on after a failure.

    Exit 21 leaves .part and says how to go on; a wrong digest (20) leaves nothing.
    """
    started = app.clock.monotonic()
    transfer: Transfer | None = None
    digest = parse_digest(as_dict(run.get("bundle")).get("sha256"))
    if digest and os.path.isfile(target):
        size, sha256 = file_facts(target)
        if sha256 == digest:
            sweep_sidecar(real_path(target))
            return download_report(run, target, size, sha256, "already complete", "", app.clock.monotonic() - started)
    part = PartFile(target)
    try:
        if part.unlocked:
            app.console.warn("the file system of %s knows no locks: let no other process download to it" % part.target)
        transfer = Transfer(app, run, part, os.path.basename(target), connections)
        sha256 = fetch_right_bytes(app, transfer, prepare_part(app, transfer, part, resume))
        if transfer.expected.sha256 and sha256 != transfer.expected.sha256:
            part.discard()
            raise wrong_digest(transfer, sha256, "nothing was written to %s" % printable(target))
        size = part.size()
        part.finish()
    except (StellaError, Interrupted) as error:
        if not part.file.closed:
            say_how_to_go_on(app, error, part, transfer, command)
        raise
    finally:
        app.console.clear_bar()
        if transfer is not None:
            transfer.digest.stop()
        part.keep()
    source = transfer.source
    return download_report(run, target, size, sha256, "downloaded", source, app.clock.monotonic() - started)


def stream_bundle(app: App, run: Document) -> None:
    """`download --output -`: the bundle to standard output; VerificationError when its digest was wrong."""
    transfer = Transfer(app, run, StreamSink(app.console), "-")
    sha256 = transfer.fetch()
    if transfer.expected.sha256 and sha256 != transfer.expected.sha256:
        raise wrong_digest(transfer, sha256, "throw away what went to standard output")
    if not transfer.expected.sha256:
        app.console.warn("no digest of the bundle is known; only its length was checked")


# ---- verify --------------------------------------------------------------------------------------


KIT_NAMES = (MANIFEST_NAME, PROVENANCE_NAME, MANIFEST_NAME + ".sig", PROVENANCE_NAME + ".sig")


def check_regular(path: str) -> None:
    """ConfigError for what is there under a name that nobody typed and is no file: a pipe or a device would hang."""
    if os.path.lexists(path) and not os.path.isfile(path):
        raise ConfigError("%s is not a regular file" % printable(path), hint="fetch it again, or name the right one")


class Evidence:
    """The files of one verification, as bytes read once, and what they say.

    kit: a folder with all of them, or ""; named: paths that come before it, in the order of KIT_NAMES.
    `manifest`, `provenance`: bytes; `signatures`: of both, None where the default name is not there;
    `documents`: parsed, None where not readable, with the reason in `faults`; `files`: what was read.
    """

    def __init__(self, kit: str, named: Sequence[str | None] = (None,) * 4, bundle: str | None = None) -> None:
        self.kit = kit
        self.files: list[Document] = []
        paths = [path or (self.kit_path(name) if self.kit else "") for path, name in zip(named[:2], KIT_NAMES)]
        self.manifest = self.read("manifest", paths[0], MAX_JSON_BYTES)
        self.provenance = self.read("provenance", paths[1], MAX_JSON_BYTES)
        self.signatures = [
            self._signature(named[2], paths[0] + ".sig", "manifest-signature"),
            self._signature(named[3], paths[1] + ".sig", "provenance-signature"),
        ]
        self.faults: list[str] = []
        self.documents = [self._document(self.manifest, "manifest"), self._document(self.provenance, "provenance")]
        self.bundle: str = bundle or self._kit_bundle()

    def kit_path(self, name: str) -> str:
        """A file of the kit."""
        path = os.path.join(self.kit, name)
        check_regular(path)
        return path

    def _kit_bundle(self) -> str:
        """The bundle's path by the manifest's word, reduced to a base name; "" without a kit or a word."""
        facts = as_dict((self.documents[0] or {}).get("bundle"))
        name = safe_name(facts.get("name")) if self.kit else ""
        return self.kit_path(name) if name else ""

    def read(self, role: str, path: str, limit: int) -> bytes:
        """A file's bytes, noted for the report."""
        import hashlib

        kit = "make the folder with: stella export kit RUN --output " + shell_word(self.kit)
        hint = kit if self.kit and role in ("manifest", "provenance") else ""
        data = read_small(path, role.replace("-", " "), limit, hint)
        self.note(role, path, len(data), hashlib.sha256(data).hexdigest())
        return data

    def unlisted(self) -> list[str]:
        """What lies in the kit and no check is about; nothing tells who put it there."""
        known = {os.path.realpath(file["path"]) for file in self.files}
        names = sorted(os.listdir(self.kit)) if self.kit else []
        return [name for name in names if os.path.realpath(os.path.join(self.kit, name)) not in known]

    def note(self, role: str, path: str, size: int, sha256: str) -> None:
        """A file for the report."""
        self.files.append({"role": role, "path": path, "size": size, "sha256": sha256})

    def _signature(self, named: str | None, beside: str, role: str) -> bytes | None:
        if not named and not os.path.lexists(beside):
            return None
        if not named:
            check_regular(beside)
        return self.read(role, named or beside, MAX_SIGNATURE_BYTES)

    def _document(self, data: bytes, what: str) -> Document | None:
        try:
            return parse_object(data, "the " + what)
        except ValidationError as error:
            self.faults.append(error.message)
            return None


def verify_evidence(run_id: str, evidence: Evidence, key: PublicKey, verifier: Verifier) -> list[Check]:
    """Checks 1 to 4: signatures, and that the two documents fit the run and each other."""
    import hashlib

    checks = []
    names = ("manifest-signature", "provenance-signature")
    for name, blob, signature in zip(names, (evidence.manifest, evidence.provenance), evidence.signatures):  # 1
        if signature is None:
            fault = "there is no signature file beside the document; name it with --%s" % name
        else:
            fault = verify_signature(verifier, key, blob, signature)
        checks.append(check_that(name, not fault, "good, checked by %s %s" % (verifier.name, verifier.version), fault))
    manifest, provenance = evidence.documents
    checks.extend(check_schema(manifest, provenance, evidence.faults))
    checks.append(check_run_id(run_id, manifest, provenance))  # 2
    checks.append(check_manifest_digest(provenance, hashlib.sha256(evidence.manifest).hexdigest()))  # 3
    checks.append(check_bundle_digest(manifest, provenance))  # 4
    return checks


def check_artifacts(manifest: Document | None, source: ArchiveSource) -> Check:
    """Check 6 over an open bundle; an error beside it when nothing on this host can decompress it."""
    import hashlib

    if not source.readable:
        hint = "put zstd on this host (or in vendor/ beside stella.py), or check the rest with --no-artifacts"
        why = "nothing on this host can decompress a .zst bundle"
        return Check(
            "artifacts", "skipped", why, ConfigError("the members of the bundle were not checked: " + why, hint=hint)
        )
    try:
        artifacts = read_artifacts(manifest)
        stated = as_dict((manifest or {}).get("bundle")).get("compression", source.compression)
        if stated != source.compression:
            fault = "the bundle's compression is %s, the manifest says %s" % (source.compression, quoted(str(stated)))
            return Check("artifacts", "fail", fault)
        return check_members(artifacts, source.fill, hashlib.sha256)
    except ValueError as error:
        return Check("artifacts", "fail", str(error))
    except ConfigError as error:
        error.hint = "mend it, set STELLA_ZSTD, or check the rest with --no-artifacts"
        return Check("artifacts", "skipped", error.message, error)


def verify_bundle(config: Config, evidence: Evidence, artifacts_wanted: bool) -> list[Check]:
    """Checks 5 and 6 in one pass over the bundle."""
    manifest, path = evidence.documents[0], evidence.bundle
    if not path:
        status, why = ("fail", "the manifest names no bundle") if evidence.kit else ("skipped", "no --bundle was given")
        return [Check(name, status, why) for name in ("bundle", "artifacts")]
    source = ArchiveSource(path, config)
    try:
        inside = check_artifacts(manifest, source) if artifacts_wanted else None  # 6
        size, sha256 = source.facts()
    except OSError as error:
        raise ConfigError("cannot read the bundle %s: %s" % (printable(path), error.strerror)) from None
    finally:
        source.close()
    evidence.note("bundle", path, size, sha256)
    return [
        check_bundle(manifest, size, sha256),  # 5
        inside or Check("artifacts", "skipped", "--no-artifacts was given"),
    ]


def verify_registries(app: App, manifest: Document | None, signed: bool, offline: bool) -> Check:
    """Check 7 for verify: asks only about a signed manifest, so that a forged one cannot make this host call out."""
    if not signed and not offline:
        return Check("oci", "skipped", "the manifest is not signed by this key, so nobody is asked")
    try:
        return check_registries(app, as_list((manifest or {}).get("distribution")), offline)
    except StellaError as error:
        return Check("oci", "skipped", error.message, error)


def program_digest(path: str) -> str | None:
    """The SHA-256 of a verifier; None for one that may be run and not read."""
    try:
        return file_facts(path)[1]
    except LocalError:
        return None


def is_signed(checks: Sequence[Check]) -> bool:
    """True when the manifest's signature is good: only then is anything done or said on its word."""
    return any(check.name == "manifest-signature" and check.status == "pass" for check in checks)


def verify_report(
    run_id: str, checks: Sequence[Check], verifier: Verifier, key: PublicKey, evidence: Evidence
) -> Document:
    """The JSON report of contract 4. What it repeats from the manifest is null unless the signature is good."""
    import hashlib

    signed = evidence.documents[0] if is_signed(checks) else None
    return {
        "runId": run_id,
        "tenant": as_text((signed or {}).get("tenant")) or None,
        "createdAt": as_text((signed or {}).get("createdAt")) or None,
        "verified": all(check.status != "fail" and check.error is None for check in checks),
        "verifier": {
            "name": verifier.name, "version": verifier.version, "path": verifier.path,
            "sha256": program_digest(verifier.path),
        },
        "key": {"kind": key.kind, "sha256": hashlib.sha256(key.der).hexdigest()},
        "checks": [{"name": check.name, "status": check.status, "detail": check.detail} for check in checks],
        "files": evidence.files,
        "unlisted": evidence.unlisted(),
    }  # fmt: skip


def read_key(path: str) -> tuple[PublicKey, Document]:
    """The tenant's public key and its line for the report; ConfigError when no verifier could use it."""
    import hashlib

    data = read_small(path, "key", MAX_KEY_BYTES)
    try:
        key = parse_public_key(data)
    except ValueError as error:
        hint = "it begins with -----BEGIN PUBLIC KEY-----; of DER, `openssl pkey -pubin -inform DER -in FILE` makes one"
        if "can be used" in str(error):
            hint = "keys are ECDSA P-256, P-384 or P-521, RSA or Ed25519"
        if "private key" in str(error):
            hint = "`openssl pkey -in %s -pubout` prints its public one" % shell_word(path)
        raise ConfigError("the key %s %s" % (printable(path), error), hint=hint) from None
    return key, {"role": "key", "path": path, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def verify_all(
    app: App, run_id: str, evidence: Evidence, key: PublicKey, verifier: Verifier, args: Any
) -> tuple[list[Check], Document]:
    """Checks 1 to 8 of contract 4, and the report; args: no_artifacts, offline and max_age of `verify`."""
    manifest = evidence.documents[0]
    checks = verify_evidence(run_id, evidence, key, verifier)  # 1 to 4
    try:
        checks += verify_bundle(app.config, evidence, not args.no_artifacts)  # 5, 6
    except ConfigError as error:
        checks += [Check(name, "skipped", error.message, error) for name in ("bundle", "artifacts")]
    checks.append(verify_registries(app, manifest, is_signed(checks), args.offline))  # 7
    checks.append(check_age(manifest, args.max_age, app.clock.now()))  # 8
    return checks, verify_report(run_id, checks, verifier, key, evidence)


def raise_for_checks(run_id: str, checks: Sequence[Check]) -> None:
    """VerificationError when a check failed; else the first error of one that could not be made."""
    failed = [check.name for check in checks if check.status == "fail"]
    if failed:
        hint = "do not use these files; fetch them again and compare the key with the tenant's"
        if failed == ["age"]:
            hint = "ask for a newer run, or allow more days"
        about = next((check.detail for check in checks if check.name == "run-id"), "")
        if failed == ["run-id"] and " is about run " in about:  # the signatures are good
            hint = "%s; if that one is meant, verify it by its own id" % about
        raise VerificationError("run %s is refused: failed %s" % (printable(run_id), ", ".join(failed)), hint=hint)
    for check in checks:
        if check.error is not None:
            raise check.error


def verdict_text(report: Document) -> str:
    """What a report comes to; the word "verified" only where it is true."""
    statuses = {check["name"]: check["status"] for check in report["checks"]}
    verdict = "verified" if report["verified"] else "REFUSED" if "fail" in statuses.values() else "NOT VERIFIED"
    if report["verified"] and statuses.get("bundle") == "skipped":
        verdict = "verified, documents only; --bundle checks the bundle too"
    return "run %s: %s" % (printable(report["runId"]), verdict)


def verify_view(report: Document) -> list[str]:
    """The report for people; the verdict comes once, last."""
    checks, verifier, key = report["checks"], report["verifier"], report["key"]
    lines = ["%-8s %-21s %s" % (check["status"], check["name"], printable(check["detail"])) for check in checks]
    lines += [
        "read     %-21s %s sha256:%s" % (file["role"], printable(file["path"]), file["sha256"])
        for file in report["files"]
    ]
    lines.append("verifier %s %s, %s sha256:%s" % (
        verifier["name"], printable(verifier["version"]), printable(verifier["path"]), verifier["sha256"],
    ))  # fmt: skip
    lines.append("key      %s sha256:%s" % (key["kind"], key["sha256"]))
    if report["tenant"]:
        lines.append(
            "signed   tenant %s, created %s" % (printable(report["tenant"]), printable(report["createdAt"] or "?"))
        )
    skipped = [check["name"] for check in checks if check["status"] == "skipped"]
    if skipped:
        lines.append("not checked: " + ", ".join(skipped))
    if report["unlisted"]:
        lines.append("not checked, in the kit: " + printable(", ".join(report["unlisted"])))
    return [*lines, verdict_text(report)]


# ---- kit -----------------------------------------------------------------------------------------


def signed_facts(run: Document, documents: Sequence[bytes]) -> tuple[str, int, str]:
    """(name, size in bytes, SHA-256 hex) of the bundle by the signed documents, which must fit each other and the run.

    VerificationError when they do not, or when the bundle's name could not stand in a kit.
    """
    import hashlib

    try:
        manifest, provenance = parse_object(documents[0], "the manifest"), parse_object(documents[1], "the provenance")
        name, size, digest = read_bundle_facts(manifest)
    except (ValidationError, ValueError) as error:
        raise VerificationError("the run's signed documents are of no use", [str(error)]) from None
    checks = [
        check_run_id(as_text(run.get("runId")), manifest, provenance),
        check_manifest_digest(provenance, hashlib.sha256(documents[0]).hexdigest()),
        check_bundle_digest(manifest, provenance),
    ]
    faults = [check.detail for check in checks if check.status == "fail"]
    stated = parse_digest(as_dict(run.get("bundle")).get("sha256"))
    if stated and stated != digest:
        faults.append("the gateway says that the bundle is sha256:%s, the manifest sha256:%s" % (stated, digest))
    if safe_name(name) != name or name.casefold() in KIT_NAMES:
        faults.append("a bundle of the name %s cannot stand in a kit" % quoted(name))
    if faults:
        raise VerificationError("the run's signed documents do not fit the run or each other", faults)
    return name, size, digest


def kit_is_signed(folder: str, key: PublicKey, verifier: Verifier) -> bool:
    """True when both documents of a kit have good signatures by this key."""
    evidence = Evidence(folder)
    pairs = zip((evidence.manifest, evidence.provenance), evidence.signatures)
    return all(signature and not verify_signature(verifier, key, blob, signature) for blob, signature in pairs)


def read_kit_documents(run: Document, folder: str, signer: tuple[PublicKey, Verifier] | None) -> list[bytes]:
    """The four small files of a kit, in the order of KIT_NAMES, where they are there and right; else [].

    Right without a key: they fit the run and each other, and the signatures are not empty.
    """
    paths = [os.path.join(folder, name) for name in KIT_NAMES]
    if not all(os.path.isfile(path) for path in paths):
        return []
    try:
        limits = (MAX_JSON_BYTES, MAX_JSON_BYTES, MAX_SIGNATURE_BYTES, MAX_SIGNATURE_BYTES)
        contents = [read_small(path, "kit file", limit) for path, limit in zip(paths, limits)]
        signed_facts(run, contents)
    except (VerificationError, ConfigError):  # it is fetched again, where it cannot be read, too
        return []
    good = kit_is_signed(folder, *signer) if signer else all(content.strip() for content in contents)
    return contents if good else []


def fetch_kit_documents(app: App, run: Document) -> list[bytes]:
    """The four small files of a kit from the gateway, in the order of KIT_NAMES."""
    run_id = as_text(run.get("runId"))
    kinds = ("manifest", "provenance")
    signed = [app.gateway.fetch_signed(run_id, kind) for kind in kinds]
    return [*signed, *(app.gateway.fetch_signature(run_id, kind) for kind in kinds)]


def check_kit_places(folder: str, names: Iterable[str]) -> None:
    """LocalError for what is not a file of the folder's own: a link would be written through, a FIFO would hang."""
    if os.path.lexists(folder) and not os.path.isdir(folder):
        raise LocalError(
            "cannot write into %s: it is not a folder" % printable(folder), hint="name another --output DIR"
        )
    for path in [os.path.join(folder, name) for name in names]:
        if os.path.lexists(path) and (os.path.islink(path) or not os.path.isfile(path)):
            fault = "cannot write %s: it is not a regular file" % printable(path)
            raise LocalError(fault, hint="remove it, or choose another --output")


def kit_bundle_name(folder: str) -> str:
    """The bundle's name by the manifest that lies in a folder, or ""."""
    path = os.path.join(folder, MANIFEST_NAME)
    try:
        manifest = parse_object(read_small(path, "manifest", MAX_JSON_BYTES), path) if os.path.isfile(path) else None
        return read_bundle_facts(manifest)[0]
    except (StellaError, ValueError):
        return ""


def build_kit(app: App, run: Document, folder: str, signer: tuple[PublicKey, Verifier] | None, args: Any) -> Document:
    """The folder that crosses the gap (contract 4, `kit`); gives {"runId", "folder", "files": [{"name", ...}]}."""
    import hashlib

    check_kit_places(folder, KIT_NAMES)
    there = read_kit_documents(run, folder, signer)
    contents = there or fetch_kit_documents(app, run)
    name, size, digest = signed_facts(run, contents)
    check_kit_places(folder, [name])
    target = os.path.join(folder, name)
    # A name from the gateway takes no file's place, except the bundle's of an earlier kit.
    check_place(target, digest, ours=name == kit_bundle_name(folder))
    if not there:
        write_files([(os.path.join(folder, each), data) for each, data in zip(KIT_NAMES, contents)])
    found = "already there, signed" if signer else "already there, fits the run"  # see read_kit_documents
    how = found if there else "fetched"
    files = [
        {"name": each, "status": how, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for each, data in zip(KIT_NAMES, contents)
    ]
    signed_run = {**run, "bundle": {**as_dict(run.get("bundle")), "size": size, "sha256": digest}}
    report = download_bundle(app, signed_run, target, True, args.connections, app.typed())
    how = "fetched" if report["status"] == "downloaded" else "already there, digest ok"
    files.append({"name": name, "status": how, "size": size, "sha256": digest})
    return {"runId": run.get("runId"), "folder": folder, "files": files, "verification": None}


def kit_view(report: Document) -> list[str]:
    """The files of a kit, and the report of its verification."""
    lines = [
        "%-27s  %-19s  %9s  sha256:%s"
        % (file["status"], printable(file["name"]), size_text(file["size"]), file["sha256"])
        for file in report["files"]
    ]
    if report["verification"] is not None:
        return lines + verify_view(report["verification"])
    folder = shell_word(report["folder"])
    run_id = shell_word(as_text(report["runId"]))
    return [*lines, "next: stella export verify %s --kit %s --key FILE" % (run_id, folder)]


# ---- doctor --------------------------------------------------------------------------------------


# A signature made once with a key that was then thrown away: what a working verifier must accept.
TEST_KEY = b"""-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAErtGzJPQ0wqaW5jpzFElw5EeEnXoF
r11cczxP7AmD9NT1+0eWlL+9qDZIyuxzyrwDnha+LwNEonw3eZEVwj8zJA==
-----END PUBLIC KEY-----
"""
TEST_BLOB = b"stella doctor"
TEST_SIGNATURE = b"MEUCIQDJABZUq7v5JI/6l6wuJHpTctnUc7Weeb1grv6oSvVPFQIgd0T3BBIH6+j17KXeyMIr+Z8JjmIoANVg6PoECIwl2iU="


class Finding:
    """One line of doctor's report: `status` pass, warn, fail or skipped; only fail stops the work.

    advice: what to do about it, "" where there is nothing to do.
    """

    __slots__ = ("advice", "detail", "name", "status")

    def __init__(self, name: str, status: str, detail: str, advice: str = "") -> None:
        self.name = name
        self.status = status
        self.detail = detail
        self.advice = advice


def examine_python(offline: bool) -> Finding:
    """The Python that runs this, and the modules that small builds of it leave out."""
    import importlib

    missing = []
    for name in ("http.client", "ssl", "json.decoder", "shutil", "uuid", "zlib", "subprocess"):
        try:
            importlib.import_module(name)
        except ImportError:
            missing.append(name)
    detail = "%s at %s on %s" % (sys.version.split()[0], sys.executable or "an unknown place", sys.platform)
    if missing:
        advice = "install the whole Python; Debian's python3-minimal alone is enough for --help and verify"
        return Finding("python", "warn" if offline else "fail", "%s, without %s" % (detail, ", ".join(missing)), advice)
    return Finding("python", "pass", detail)


def examine_trust(context: Any, config: Config, offline: bool) -> Finding:
    """The CAs that a connection would trust: loaded just as for one."""
    import ssl

    try:
        place = load_trust(context, config)
    except ConfigError as error:
        return Finding("ca-file", "fail", error.message, error.hint)
    count = len(context.get_ca_certs())  # of a folder only those that a connection has needed
    if config.ca_file:
        source = config.source("ca_file")
        return Finding(
            "ca-file", "pass", "%s from %s%s" % (place, source, ": %d certificates" % count if count else "")
        )
    if place:
        return Finding("ca-file", "pass", "the system's: %s" % place)
    status = "fail" if config.server.startswith("https:") and not offline else "warn"
    advice = "install ca-certificates, or name your CA's file with --ca-file or SSL_CERT_FILE"
    return Finding("ca-file", status, "none; looked for %s" % ssl.get_default_verify_paths().openssl_cafile, advice)


def examine_tls(app: App, offline: bool) -> list[Finding]:
    """The TLS library, which CAs it trusts, and the client certificate where one is set."""
    try:
        import ssl
    except ImportError:
        return [Finding("tls", "warn" if offline else "fail", "this Python has no ssl", "install the whole Python")]
    context, config = new_tls_context(app.config), app.config
    rows = [Finding("tls", "pass", ssl.OPENSSL_VERSION), examine_trust(context, config, offline)]
    if config.client_cert or config.client_key:
        try:
            load_client(context, config)
            rows.append(Finding("client-cert", "pass", config.client_cert))
        except ConfigError as error:
            rows.append(Finding("client-cert", "fail", error.message, error.hint or "set both in the profile file"))
    return rows


def examine_verifier(name: str, app: App) -> Finding:
    """cosign, openssl or builtin: its version, and whether it tells the good test signature from a bad one."""
    key, path, version = parse_public_key(TEST_KEY), "", VERSION
    try:
        if name != "builtin":
            path = find_program(name, app.config)
            if not path and name == "openssl" and app.config.dpop_key:
                return Finding(name, "fail", "not on this host, and the DPoP key signs through it", "install openssl")
            if not path:
                use = "reads other keys than ECDSA P-256" if name == "cosign" else "signs DPoP proofs"
                return Finding(name, "warn", "not on this host", "needed only where it alone %s" % use)
            version = program_version(name, path)
        verifier = Verifier(name, path, version)
        refused = verify_signature(verifier, key, TEST_BLOB, TEST_SIGNATURE)
        fault = refused or ("" if verify_signature(verifier, key, b"other", TEST_SIGNATURE) else "accepts anything")
        # The version says little (Debian's is "devel"), so cosign is asked once more without the variable
        # that keeps it off the network, with a proxy that is not there: it fails if it has to ask.
        asks = name == "cosign" and verify_signature(verifier, key, TEST_BLOB, TEST_SIGNATURE, COSIGN_OFFLINE)
    except StellaError as error:
        return Finding(name, "fail", error.message, error.hint or "mend it, or choose another with --verifier")
    detail = "%s at %s" % (version, path) if path else "ECDSA P-256 keys only, in plain Python"
    if fault:
        return Finding(name, "fail", "%s: %s" % (detail, fault), "do not verify with it; choose with --verifier")
    if name == "cosign":
        detail += "; would ask the network by itself, does not as stella calls it" if asks else "; asks no network"
    return Finding(name, "pass", detail)


def examine_zstd(app: App) -> Finding:
    """Who decompresses .tar.zst bundles."""
    try:
        path = find_program("zstd", app.config)
        if path:
            if decompresses(path):
                return Finding("zstd", "pass", path)
            return Finding("zstd", "fail", "%s does not decompress" % path, "mend it, or set STELLA_ZSTD")
    except StellaError as error:
        return Finding("zstd", "fail", error.message, error.hint or "mend it, or set STELLA_ZSTD")
    advice = "put it on PATH or in vendor/ beside stella.py; verify of .zst needs --no-artifacts without"
    return Finding("zstd", "warn", "not on this host", advice)


def examine_configuration(config: Config, offline: bool) -> list[Finding]:
    """The profile file with its mode, and where the token is from; never the token itself."""
    profile = Finding("profile", "pass", "no saved defaults in use")
    if config.profile and config.fault is None:
        path = profile_path(config.profile)
        mode = " (mode %04o)" % (os.stat(path).st_mode & 0o7777) if os.name == "posix" else ""
        profile = Finding("profile", "pass", path + mode)
    if config.warnings:
        profile = Finding(
            "profile", "warn", config.warnings[0].partition("; ")[0], config.warnings[0].partition("; ")[2]
        )
    if config.fault is not None:
        fault = config.fault
        profile = Finding(
            "profile", "fail", "; ".join([fault.message, *fault.details]), fault.hint or "correct it, or name another"
        )
        return [profile, Finding("token", "skipped", "the configuration cannot be used")]
    if config.token:
        return [profile, Finding("token", "pass", "from %s" % config.source("token"))]
    advice = "export STELLA_TOKEN=..., or set token_file in a profile; verify alone needs none"
    return [profile, Finding("token", "warn" if offline else "fail", "none", advice)]


def judge_gateway(app: App, response: Response, here: str) -> list[Finding]:
    """What an answer says about gateway, token and clock."""
    where, status = app.config.server, response.status
    gateway = Finding("gateway", "pass", "%s answers" % where)
    if status == 200:
        parse_answer(response.read_all(MAX_JSON_BYTES, "the answer"), response)
        gateway.detail += " and takes the token"
    elif status == 401 and app.config.token:
        gateway = Finding(
            "gateway", "fail", "%s rejects the token" % where, "get a new one; see --tenant and the clock"
        )
    elif status == 403:
        gateway = Finding("gateway", "warn", "%s answers; the token may not list runs" % where, "ask for export:read")
    elif status != 401:
        advice = "is that the gateway's root? see --server" if status in (404, 405) else "try again later"
        gateway = Finding("gateway", "fail", "%s answers with status %d" % (where, status), advice)
    response.close()
    stated = parse_http_date(response.headers.get("date", ""))
    if stated is None:
        return [gateway, Finding("clock", "skipped", "%s here; the gateway tells no time" % here)]
    skew = stated - app.clock.now()
    detail = "%s here, %d s %s the gateway" % (here, abs(skew), "behind" if skew > 0 else "ahead of")
    if abs(skew) <= MAX_CLOCK_SKEW_SECONDS:
        return [gateway, Finding("clock", "pass", detail)]
    advice = "set this host's clock: tokens, certificates, DPoP and --max-age depend on it"
    return [gateway, Finding("clock", "fail" if app.config.dpop_key else "warn", detail, advice)]


def examine_server(app: App, offline: bool) -> list[Finding]:
    """The way to the gateway, the gateway, and the two clocks."""
    try:
        http = Http(app.config, app.console, app.clock)
        proxy = choose_proxy(http.server, app.config)
    except StellaError as error:
        return [Finding("gateway", "fail", error.message, error.hint or "correct that setting")]
    setting = app.config.source(http.server.scheme + "_proxy")
    detail = "%s from %s" % (proxy.authority, setting) if proxy else "none for %s" % http.server.host
    way = Finding("proxy", "pass", detail)
    here = time_of(app.clock.now())
    if offline:
        clock = Finding("clock", "skipped", "%s here; not compared (--offline)" % here)
        return [way, Finding("gateway", "skipped", "%s, not asked (--offline)" % app.config.server), clock]
    try:
        url = Gateway(http).url("runs", query=[("limit", "1")])  # knocked at without a token too
        request = Request("GET", url, timeout=PROBE_SECONDS, anonymous=not app.config.token)
        return [way, *judge_gateway(app, http.exchange(request), here)]
    except StellaError as error:
        advice = error.hint or "check --server, the name's DNS, the proxy and the firewall"
        gateway = Finding("gateway", "fail", error.message, advice)
        return [way, gateway, Finding("clock", "skipped", "%s here; nothing to compare with" % here)]
    finally:
        http.close()


def examine_space() -> list[Finding]:
    """Room where downloads go by default, and where verifiers work."""
    import tempfile

    findings = []
    for name, advice in (("folder", "go to another folder, or use --output"), ("temporary", "set TMPDIR")):
        try:
            path = os.getcwd() if name == "folder" else tempfile.gettempdir()
            free = free_bytes(path)
        except OSError as error:
            status = "warn" if name == "folder" else "fail"
            findings.append(Finding(name, status, error.strerror or str(error), advice))
            continue
        writable = os.access(path, os.W_OK)
        detail = "%s, %s free%s" % (path, size_text(free), "" if writable else ", not writable")
        good = writable and (free >= SCARCE_BYTES or name == "temporary")
        findings.append(Finding(name, "pass" if good else "warn", detail, "" if good else advice))
    return findings


def examine_host(app: App, offline: bool) -> list[Finding]:
    """Everything that doctor looks at, in the order of its report."""
    return [
        examine_python(offline),
        *examine_tls(app, offline),
        *(examine_verifier(name, app) for name in ("cosign", "openssl", "builtin")),
        examine_zstd(app),
        *examine_configuration(app.config, offline),
        *examine_server(app, offline),
        *examine_space(),
    ]


def doctor_report(findings: Sequence[Finding], redacted: Callable[[str], str]) -> Document:
    """The report as a document: {"stella", "ready", "findings": [{"name", "status", "detail", "advice"}]}."""
    lines = [
        {"name": row.name, "status": row.status, "detail": redacted(row.detail), "advice": redacted(row.advice)}
        for row in findings
    ]
    return {"stella": VERSION, "ready": all(row.status != "fail" for row in findings), "findings": lines}


def doctor_view(report: Document) -> list[str]:
    """The report for people."""
    lines = []
    for row in report["findings"]:
        lines.append("%-8s %-10s %s" % (row["status"], row["name"], printable(row["detail"])))
        if row["advice"]:
            lines.append(" " * 20 + "-> " + printable(row["advice"]))
    return [*lines, "ready" if report["ready"] else "NOT READY"]


# ==================================================================================================
# Room 15. Commands
#
# For each command its arguments, its handler and its row in COMMANDS, side by side. Parser, --help,
# completion and the README's reference are all made from these rows: a new command touches this room
# alone.
# ==================================================================================================


class Arg:
    """An argument: a positional (`RUN`), an option (`--reason`) or a flag (`--resume`).

    kind: text, word and file (not empty), id, a kind of NUMBERS, switch (`--x`, `--x=false`), flag, list (repeatable).
    """

    __slots__ = ("choices", "default", "kind", "metavar", "name", "required", "text")

    def __init__(
        self, name: str, text: str, metavar: str = "", kind: str = "text", required: bool = False,
        choices: tuple[str, ...] = (), default: Json = None,
    ) -> None:  # fmt: skip
        self.name = name
        self.text = text
        self.metavar = metavar or "|".join(choices)
        self.kind = kind
        self.required = required
        self.choices = choices
        self.default = default

    @property
    def dest(self) -> str:
        """The attribute's name in a handler's `args`: `run_id` for the id RUN."""
        return self.name.lstrip("-").replace("-", "_").lower() + ("_id" if self.kind == "id" else "")


class Command:
    """A row of the table: the words that call it, what it does, and what its --help says."""

    __slots__ = ("args", "examples", "exits", "handler", "scope", "summary", "words")

    def __init__(
        self, words: str, summary: str, handler: Callable[[App, Any], int], args: tuple[Arg, ...],
        examples: tuple[str, ...], exits: tuple[int, ...], scope: str = "",
    ) -> None:  # fmt: skip
        self.words = tuple(words.split())
        self.summary = summary
        self.handler = handler
        self.args = args
        self.examples = examples
        self.exits = exits
        self.scope = scope


RUN = Arg("RUN", "run id", kind="id")
PROFILE = Arg("PROFILE", "export profile id", kind="id")
QUERY = Arg("--query", "print only the value at this dotted path, such as runId or progress.percent", "PATH", "word")
DEADLINE = Arg("--deadline", "give up with exit 14 when the run is still active after this time", "SECONDS", "long")
OFFLINE = Arg("--offline", "do not ask the registries of oci descriptors", kind="flag")
REACH = (
    EXIT_OK, EXIT_UNEXPECTED, EXIT_USAGE, EXIT_VALIDATION, EXIT_MISSING, EXIT_QUOTA, EXIT_NETWORK, EXIT_CONFIG,
)  # fmt: skip


def exits(*more: int) -> tuple[int, ...]:
    """The exit codes of a command that calls the gateway, in order."""
    return tuple(sorted({*REACH, *more}))


def cmd_profile_list(app: App, args: Any) -> int:
    """GET /api/export/profiles"""
    query = [("kind", args.kind or ""), ("variant", args.variant or "")]
    pages = app.gateway.fetch_pages("profiles", query, None, not args.query)
    show_list(
        app, pages, ("PROFILE", "KIND", "VARIANT", "DISTRIBUTION", "RETENTION"), profile_row, args.output, args.query
    )
    return EXIT_OK


PROFILE_LIST = Command(
    "export profile list", "List the tenant's export profiles.", cmd_profile_list,
    (
        Arg("--kind", "only this kind", choices=("json", "trivy", "mirror")),
        Arg("--variant", "only this variant", "VARIANT"),
        QUERY,
    ),
    ("stella export profile list --kind json --variant raw --format table",),
    exits(), "export:read",
)  # fmt: skip


def cmd_profile_show(app: App, args: Any) -> int:
    """GET /api/export/profiles/{id}"""
    profile = app.gateway.fetch_profile(args.profile_id)
    app.show(profile, lambda: profile_view(profile), args.output, args.query)
    return EXIT_OK


PROFILE_SHOW = Command(
    "export profile show", "Show one profile in full.", cmd_profile_show, (PROFILE, QUERY),
    ("stella export profile show prof-json-raw --output profile.json",), exits(), "export:read",
)  # fmt: skip


DRY_RUN = Arg("--dry-run", "print the request that would be sent, and change nothing", kind="flag")


def cmd_profile_create(app: App, args: Any) -> int:
    """POST /api/export/profiles"""
    gateway = app.planning_gateway() if args.dry_run else app.gateway
    request = gateway.json_request("POST", gateway.url("profiles"), read_profile_file(args.file))
    if args.dry_run:
        return show_request(app, request, args)
    profile = gateway.send_change(request) or {}
    app.show(profile, lambda: profile_view(profile), args.output, args.query)
    return EXIT_OK


PROFILE_CREATE = Command(
    "export profile create", "Create a profile from a JSON file, checked here before anything is sent.",
    cmd_profile_create,
    (
        Arg("--file", "the profile as JSON, as `profile show --output` writes it; - is standard input", "FILE", "file",
            required=True),
        DRY_RUN, QUERY,
    ),
    (
        "stella export profile create --file profiles/prof-json-raw.json",
        "stella export profile create --file profiles/prof-json-raw.json --dry-run",
    ),
    exits(EXIT_QUOTA), "export:profile:manage",
)  # fmt: skip


def cmd_profile_update(app: App, args: Any) -> int:
    """PATCH, or with --replace-file PUT, /api/export/profiles/{id}"""
    parts = (args.name, args.retention, args.distribution, args.add_distribution, args.remove_distribution)
    single = any(part is not None for part in parts)
    if args.replace_file is not None and single:
        raise UsageError("--replace-file stands alone: the file holds the whole profile")
    if args.replace_file is None and not single:
        raise UsageError("nothing to change", hint="see: stella export profile update --help")
    if args.distribution is not None and (args.add_distribution or args.remove_distribution):
        raise UsageError("--distribution replaces the list: it cannot stand with --add- or --remove-distribution")
    gateway = app.planning_gateway() if args.dry_run else app.gateway
    changes: Document = {}
    first: Document = {}
    if args.replace_file is not None:
        url = gateway.profile_url(args.profile_id)
        request = gateway.json_request("PUT", url, read_profile_file(args.replace_file))
    else:
        changes = profile_changes(args)
        request, first = decide_change(app, gateway, args, changes)
    if args.dry_run:
        return show_request(app, request, args)
    profile = gateway.send_change(request)
    if profile is None:
        profile = retry_change(app, args, changes, first)
    shown = profile
    app.show(shown, lambda: profile_view(shown), args.output, args.query)
    return EXIT_OK


PROFILE_UPDATE = Command(
    "export profile update", "Change a profile; only --replace-file makes structural changes, as a new revision.",
    cmd_profile_update,
    (
        PROFILE,
        Arg("--name", "a new name", "TEXT"),
        Arg("--retention", "keep bundles this long: days:N", "days:N"),
        Arg("--distribution", "the whole list of targets: http, oci, object", "A,B", "list"),
        Arg("--add-distribution", "targets to add; the profile is read first and must not change in between", "A,B",
            "list"),
        Arg("--remove-distribution", "targets to take away, in the same way", "A,B", "list"),
        Arg("--replace-file", "replace the whole profile by this JSON file; - is standard input", "FILE", "file"),
        DRY_RUN, QUERY,
    ),
    (
        "stella export profile update prof-json-raw --retention days:21 --distribution http,object",
        "stella export profile update prof-json-raw --replace-file profiles/prof-json-raw.json",
    ),
    exits(EXIT_QUOTA), "export:profile:manage",
)  # fmt: skip


def cmd_profile_archive(app: App, args: Any) -> int:
    """POST /api/export/profiles/{id}/archive"""
    profile = app.gateway.send_to_profile(args.profile_id, "archive", {"reason": args.reason} if args.reason else {})
    app.show(profile, lambda: profile_view(profile), args.output, args.query)
    return EXIT_OK


PROFILE_ARCHIVE = Command(
    "export profile archive", "Mark a profile inactive: no new runs.", cmd_profile_archive,
    (PROFILE, Arg("--reason", "why, kept with the profile", "TEXT"), QUERY),
    ('stella export profile archive prof-json-raw --reason "Superseded by Phase 2 profile"',),
    exits(EXIT_QUOTA), "export:profile:manage",
)  # fmt: skip


def cmd_profile_restore(app: App, args: Any) -> int:
    """POST /api/export/profiles/{id}/restore"""
    profile = app.gateway.send_to_profile(args.profile_id, "restore", {})
    app.show(profile, lambda: profile_view(profile), args.output, args.query)
    return EXIT_OK


PROFILE_RESTORE = Command(
    "export profile restore", "Make an archived profile active again.", cmd_profile_restore, (PROFILE, QUERY),
    ("stella export profile restore prof-json-raw",), exits(EXIT_QUOTA), "export:profile:manage",
)  # fmt: skip


def cmd_run_submit(app: App, args: Any) -> int:
    """POST /api/export/runs"""
    body: Document = {"profileId": args.profile_id, "selectors": parse_selectors(args.selector or ())}
    encode_id(args.profile_id, "profile")
    if args.policy_snapshot:
        body["policySnapshotId"] = args.policy_snapshot
    body["options"] = {"allowEmpty": bool(args.allow_empty)}
    if args.deadline is not None and not args.wait:
        raise UsageError("--deadline needs --wait", hint="add --wait, or give it to: stella export run watch")
    check_output(args.output)
    run = app.gateway.submit_run(body)
    run_id = as_text(run.get("runId"))
    if not run_id:
        raise ProtocolError("the gateway accepted the run and gave no runId: %s" % quoted(json_text(run, False)))
    status, final = "", {}
    if args.wait:
        app.console.err("stella: submitted run %s" % printable(run_id))
        watcher = watch_run(app, run_id, app.gateway.link(run, "events"), False, True, args.deadline)
        final, run = watcher.final, fetch_outcome(app, run_id, watcher, run)
        status = final_status(app, watcher.status, run)
    try:
        app.show(run, lambda: run_view(run), args.output, args.query)
    except StellaError as error:
        if isinstance(error, ValidationError):  # --query found nothing, perhaps because the run failed
            raise_for_status(run_id, status, run, final)
        error.details.append("the run was submitted; see: stella export run show %s" % shell_word(run_id))
        raise
    raise_for_status(run_id, status, run, final)
    return EXIT_OK


RUN_SUBMIT = Command(
    "export run submit", "Submit a run of a profile; prints its run id and status.", cmd_run_submit,
    (
        PROFILE,
        Arg("--selector", "what to export: tenant=, product=, sbom=, time=<from>,<to>", "KEY=VALUE", "list"),
        Arg("--policy-snapshot", "policy snapshot to apply", "ID", "word"),
        Arg("--allow-empty", "let a run succeed that finds nothing (default false)", "true|false", "switch"),
        Arg("--wait", "go on as `run watch` and exit as it does", kind="flag"),
        DEADLINE, QUERY,
    ),
    (
        "stella export run submit prof-json-raw --selector time=2025-10-01T00:00:00Z,2025-10-29T00:00:00Z",
        "run_id=$(stella export run submit prof-json-raw --selector tenant=acme --query runId)",
    ),
    exits(EXIT_RUN_FAILED, EXIT_DEADLINE), "export:run",
)  # fmt: skip


def cmd_run_ls(app: App, args: Any) -> int:
    """GET /api/export/runs"""
    if args.all and args.tail is not None:
        raise UsageError("--all and --tail cannot stand together")
    query = [("profileId", args.profile or ""), ("status", args.status or "")]
    limit = None if args.all else args.tail if args.tail is not None else RECENT_RUNS
    pages = app.gateway.fetch_pages("runs", query, limit, not args.query) if limit != 0 else iter(())
    show_list(app, pages, ("RUN", "PROFILE", "STATUS", "PROGRESS", "UPDATED"), run_row, args.output, args.query)
    return EXIT_OK


RUN_LS = Command(
    "export run ls", "List runs, newest first.", cmd_run_ls,
    (
        Arg("--profile", "only runs of this export profile (here not the saved defaults)", "PROFILE", "word"),
        Arg("--status", "only this status; active means pending or running", choices=STATUSES),
        Arg("--tail", "the N most recent (default 50)", "N", "integer"),
        Arg("--all", "every run", kind="flag"),
        QUERY,
    ),
    (
        "stella export run ls --profile prof-json-raw --status active --tail 5",
        "stella --profile prod export run ls --profile prof-json-raw",
    ),
    exits(), "export:read",
)  # fmt: skip


def cmd_run_show(app: App, args: Any) -> int:
    """GET /api/export/runs/{id}"""
    run = app.gateway.fetch_run(args.run_id)
    app.show(run, lambda: run_view(run), args.output, args.query)
    return EXIT_OK


RUN_SHOW = Command(
    "export run show", "Show one run in full.", cmd_run_show, (RUN, QUERY),
    (
        "stella export run show run-20251029-01 --format json",
        "stella export run show run-20251029-01 --query progress.percent",
    ),
    exits(), "export:read",
)  # fmt: skip


def cmd_run_watch(app: App, args: Any) -> int:
    """GET /api/export/runs/{id}/events"""
    if args.follow and args.no_follow:
        raise UsageError("--follow and --no-follow cannot stand together")
    check_output(args.output)
    url = app.gateway.run_url(args.run_id, "events")
    watcher = watch_run(app, args.run_id, url, args.json, not args.no_follow, args.deadline)
    run = fetch_outcome(app, args.run_id, watcher, {"runId": args.run_id})
    status = final_status(app, watcher.status, run)
    if args.output:
        app.show(run, lambda: run_view(run), args.output)
    if not args.json and args.output != "-":
        app.console.out(outcome_text(args.run_id, status, run))
    raise_for_status(args.run_id, status, run, watcher.final)
    return EXIT_OK


RUN_WATCH = Command(
    "export run watch", "Follow a run to its end.", cmd_run_watch,
    (
        RUN,
        Arg("--follow", "follow to the end (the default)", kind="flag"),
        Arg("--no-follow", "show what has happened so far and leave", kind="flag"),
        Arg("--json", "one compact JSON line per event on standard output", kind="flag"),
        DEADLINE,
    ),
    (
        "stella export run watch run-20251029-01 --follow",
        "stella export run watch run-20251029-01 --json | jq -e 'select(.event == \"run.succeeded\")'",
    ),
    exits(EXIT_RUN_FAILED, EXIT_DEADLINE), "export:read",
)  # fmt: skip


def cmd_run_cancel(app: App, args: Any) -> int:
    """POST /api/export/runs/{id}/cancel"""
    run = app.gateway.cancel_run(args.run_id, args.reason or "")
    app.show(run, lambda: run_view(run), args.output, args.query)
    return EXIT_OK


RUN_CANCEL = Command(
    "export run cancel", "Ask for the end of a run; exit 0 means that the request was accepted.", cmd_run_cancel,
    (RUN, Arg("--reason", "why, kept with the run", "TEXT"), QUERY),
    ('stella export run cancel run-20251029-01 --reason "Replacing with refined selectors"',),
    exits(), "export:run",
)  # fmt: skip


def cmd_download(app: App, args: Any) -> int:
    """GET /api/export/runs/{id}/download"""
    run = fetch_finished_run(app, args.run_id)
    check_run_registries(app, run, args.offline)
    if args.output == "-" and app.console.out_is_terminal:
        raise UsageError("a bundle is not for a terminal", hint="use --output FILE, or send it into a pipe")
    if args.output == "-":
        stream_bundle(app, run)
        return EXIT_OK
    target = args.output or safe_name(run["bundle"].get("name"))
    if not target:
        raise UsageError("the run does not name its bundle; say where it goes with --output FILE")
    check_place(target, parse_digest(run["bundle"].get("sha256")), bool(args.output))
    report = download_bundle(app, run, target, args.resume, args.connections, app.typed("--resume"))
    app.show(report, lambda: view_lines([
        ("Bundle", report["path"]), ("Size", size_text(report["size"])), ("SHA-256", report["sha256"]),
        ("Status", report["status"]), ("Source", report["source"] or ""), ("Time", "%.1f s" % report["seconds"]),
    ]))  # fmt: skip
    return EXIT_OK


PARALLEL = Arg(
    "--connections", "fetch a bundle of 64 MiB or more by up to N at once (default 4)", "N", "connections",
    default=CONNECTIONS,
)  # fmt: skip
DOWNLOAD = Command(
    "export download", "Download a run's bundle; only the whole, right file gets its name.", cmd_download,
    (
        RUN,
        Arg("--resume", "go on with the .part file of an earlier invocation", kind="flag"),
        PARALLEL, OFFLINE,
    ),
    ("stella export download run-20251029-01 --output out/exports/run-20251029-01.tar.zst --resume",),
    exits(EXIT_RUN_FAILED, EXIT_VERIFICATION), "export:download",
)  # fmt: skip


def fetch_signed_files(app: App, args: Any, what: str) -> int:
    """The manifest or provenance, byte for byte, and its signature; both files or neither."""
    places = [args.output or "-", *([standard_name(args.signature)] if args.signature else [])]
    if len({place if place == "-" else real_path(place) for place in places}) < len(places):
        raise UsageError("document and signature cannot go to the same place", hint="name another --signature FILE")
    contents = [app.gateway.fetch_signed(args.run_id, what)]
    if args.signature:
        contents.append(app.gateway.fetch_signature(args.run_id, what))
    write_files([(place, data) for place, data in zip(places, contents) if place != "-"])
    for place, data in zip(places, contents):
        if place == "-":
            app.console.exact(data)
    return EXIT_OK


def cmd_manifest(app: App, args: Any) -> int:
    """GET /api/export/runs/{id}/manifest"""
    return fetch_signed_files(app, args, "manifest")


SIGNATURE = Arg("--signature", "save the detached signature too", "FILE", "file")
MANIFEST = Command(
    "export manifest", "Fetch the signed manifest, byte for byte.", cmd_manifest, (RUN, SIGNATURE),
    ("stella export manifest run-20251029-01 --output export.json --signature export.json.sig",),
    exits(), "export:read",
)  # fmt: skip


def cmd_provenance(app: App, args: Any) -> int:
    """GET /api/export/runs/{id}/provenance"""
    return fetch_signed_files(app, args, "provenance")


PROVENANCE = Command(
    "export provenance", "Fetch the signed provenance, byte for byte.", cmd_provenance, (RUN, SIGNATURE),
    ("stella export provenance run-20251029-01 --output provenance.json --signature provenance.json.sig",),
    exits(), "export:read",
)  # fmt: skip


def cmd_verify(app: App, args: Any) -> int:
    """Checks 1 to 8 of contract 4; never calls the gateway."""
    if not args.kit and not (args.manifest and args.provenance):
        raise UsageError("verify needs --manifest and --provenance, or --kit", hint="see: stella export verify --help")
    check_id(args.run_id, "run")
    verifier = choose_verifier(args.verifier or "auto", app.config)
    named = (args.manifest, args.provenance, args.manifest_signature, args.provenance_signature)
    evidence = Evidence(args.kit or "", named, args.bundle)
    key, note = read_key(args.key)
    evidence.files.append(note)
    if args.output and os.path.realpath(args.output) in {
        os.path.realpath(path) for path in (evidence.bundle, *(file["path"] for file in evidence.files)) if path
    }:
        raise UsageError("--output %s is one of the files to verify" % printable(args.output), hint="name another file")
    checks, report = verify_all(app, args.run_id, evidence, key, verifier, args)
    app.show(report, lambda: verify_view(report), args.output)
    raise_for_checks(args.run_id, checks)
    app.say_verdict(verdict_text(report), args.output)
    return EXIT_OK


VERIFY = Command(
    "export verify", "Prove offline that manifest, provenance and bundle are what was signed.", cmd_verify,
    (
        RUN,
        Arg("--key", "the tenant's public key, PEM", "FILE", "file", required=True),
        Arg("--manifest", "the manifest, export.json", "FILE", "file"),
        Arg("--provenance", "the provenance, provenance.json", "FILE", "file"),
        Arg("--kit", "take all of them, and the bundle, from this folder (export kit makes one)", "DIR", "file"),
        Arg("--bundle", "check this bundle and every member of it as well", "FILE", "file"),
        Arg("--manifest-signature", "default: the manifest's name with .sig", "FILE", "file"),
        Arg("--provenance-signature", "default: the provenance's name with .sig", "FILE", "file"),
        OFFLINE,
        Arg("--verifier", "who checks signatures (default auto: the first there is)", choices=VERIFIERS),
        Arg("--max-age", "fail when the manifest is older than this", "DAYS", "days"),
        Arg("--no-artifacts", "do not look into the bundle", kind="flag"),
    ),
    (
        "stella export verify run-20251029-01 --manifest export.json --provenance provenance.json --key acme.pub",
        "stella export verify run-20251029-01 --kit kit/ --key acme.pub --max-age 30 --offline",
    ),
    (EXIT_OK, EXIT_UNEXPECTED, EXIT_USAGE, EXIT_VERIFICATION, EXIT_NETWORK, EXIT_CONFIG),
)  # fmt: skip


def cmd_kit(app: App, args: Any) -> int:
    """The run, its documents, their signatures and its bundle; with --key the checks of verify."""
    if args.output in ("", "-"):
        raise UsageError(
            "kit needs --output DIR, the folder that crosses the gap", hint="see: stella export kit --help"
        )
    # The key is read once, before anything arrives: the kit may hold files of any name.
    key, note = read_key(args.key) if args.key else (None, {})
    signer = (key, choose_verifier("auto", app.config)) if key else None
    run = fetch_finished_run(app, args.run_id)
    check_run_registries(app, run, args.offline)
    report = build_kit(app, run, args.output, signer, args)
    checks: list[Check] = []
    if signer:
        evidence = Evidence(args.output)
        evidence.files.append(note)
        args.no_artifacts, args.max_age = False, None
        checks, report["verification"] = verify_all(app, args.run_id, evidence, *signer, args)
    app.show(report, lambda: kit_view(report))
    raise_for_checks(args.run_id, checks)
    if signer:
        app.say_verdict(verdict_text(report["verification"]), "")
    return EXIT_OK


KIT = Command(
    "export kit", "Put all that an offline host needs into one folder; safe to repeat.", cmd_kit,
    (
        RUN,
        Arg("--output", "the folder; what is there and right is not fetched again (required)", "DIR", "file"),
        Arg("--key", "the tenant's public key, PEM: verify the kit at the end", "FILE", "file"),
        PARALLEL, OFFLINE,
    ),
    (
        "stella export kit run-20251029-01 --output kit --key acme.pub",
    ),
    exits(EXIT_RUN_FAILED, EXIT_VERIFICATION), "export:download and export:read",
)  # fmt: skip


def cmd_doctor(app: App, args: Any) -> int:
    """Contract 4, doctor: one request at most, and none with --offline."""
    findings = examine_host(app, args.offline)
    report = doctor_report(findings, app.console.redacted)
    app.show(report, lambda: doctor_view(report), args.output)
    if not report["ready"]:
        names = ", ".join(row.name for row in findings if row.status == "fail")
        raise ConfigError("this host is not ready: %s" % names, hint="the report says what to do about each")
    app.say_verdict("this host is ready", args.output)
    return EXIT_OK


DOCTOR = Command(
    "doctor", "Tell what would stop the work on this host, and what to do.", cmd_doctor,
    (Arg("--offline", "do not call the gateway", kind="flag"),),
    ("stella doctor", "stella doctor --offline --format json"),
    (EXIT_OK, EXIT_UNEXPECTED, EXIT_USAGE, EXIT_CONFIG),
)  # fmt: skip


def cmd_completion(app: App, args: Any) -> int:
    """A script on standard output, made from COMMANDS."""
    app.write([COMPLETIONS[args.shell]() + "\n"], args.output)
    return EXIT_OK


COMPLETION = Command(
    "completion", "Print the completion script of a shell.", cmd_completion,
    (Arg("SHELL", "bash, zsh or fish", "SHELL", choices=("bash", "zsh", "fish")),),
    (
        "source <(stella completion bash)",
        "source <(stella completion zsh)",
        "stella completion fish | source",
    ),
    (EXIT_OK, EXIT_UNEXPECTED, EXIT_USAGE, EXIT_CONFIG),
)  # fmt: skip

COMMANDS = (
    PROFILE_LIST, PROFILE_SHOW, PROFILE_CREATE, PROFILE_UPDATE, PROFILE_ARCHIVE, PROFILE_RESTORE,
    RUN_SUBMIT, RUN_LS, RUN_SHOW, RUN_WATCH, RUN_CANCEL,
    DOWNLOAD, MANIFEST, PROVENANCE, KIT, VERIFY,
    DOCTOR, COMPLETION,
)  # fmt: skip
GROUPS = {
    (): "Command-line client of the Export Center.",
    ("export",): "Export profiles, runs, bundles and their verification.",
    ("export", "profile"): "Export profiles: what a run packs and where it goes.",
    ("export", "run"): "Runs: submit, list, show, watch, cancel.",
}
GLOBALS = (
    *(
        Arg(
            row.flag, row.help + ("; default %g" % row.default if row.kind in NUMBERS else ""), row.metavar,
            {"path": "file", "text": "word"}.get(row.kind, row.kind), choices=FORMATS if row.kind == "format" else (),
        )
        for row in SETTINGS
        if row.flag
    ),
    Arg("--profile", "saved defaults from ~/.stella/profiles/NAME.toml", "NAME", "word"),
    Arg("--output", "write the full JSON, or the fetched file, to FILE; - is stdout", "FILE", "file"),
    Arg("--trace", "one line per request on standard error, with timing and correlation ids", kind="flag"),
    Arg("--allow-http", "accept http:// for a gateway that is not on this host", kind="flag"),
)  # fmt: skip
HELP = Arg("-h, --help", "show this help", kind="flag")
VERSION_ARG = Arg("--version", "show the version", kind="flag")

# Completion scripts are made from COMMANDS and GLOBALS by filling in @NAMES@. bash and zsh share two parts: the
# walk over the words before the cursor gives the place (`at`: the command words, a blank before each) and the
# option whose value the cursor is in (`last`, with `value` set); the table gives what may stand there.
COMPLETION_WALK = """
        case "$at $word" in
            @PLACES@) at="$at $word" ;;
            @VALUED@) value=1 last=$word ;;
            *" -"*) last=$word ;;
        esac
    done"""
COMPLETION_TABLE = """
    word=
    if [[ $cur == -* ]]; then word=-; fi
    if [[ -n $value ]]; then word=$last; fi
    case "$at:$word" in
        @ROWS@
    esac"""
COMPLETION_BASH = (
    """# bash completion of stella; source <(stella completion bash) in ~/.bashrc
_stella() {
    local cur=${COMP_WORDS[COMP_CWORD]} at= value= last= list= word= prefix= i
    for ((i = 1; i < COMP_CWORD; i++)); do
        word=${COMP_WORDS[i]}
        if [[ $word == "=" ]]; then value=1; continue; fi  # --option=value comes as three words
        if [[ $value ]]; then value=; continue; fi"""
    + COMPLETION_WALK
    + """
    case $cur in
        "=") cur= value=1 ;;
        --*=*) value=1 last=${cur%%=*} prefix=${cur%%=*}= cur=${cur#*=} ;;
    esac"""
    + COMPLETION_TABLE
    + """
    COMPREPLY=()
    if [[ $list == FILES ]]; then
        compopt -o default 2>/dev/null && return  # readline's own way with blanks, quotes and ~
        while IFS= read -r word; do COMPREPLY+=("$prefix$word"); done < <(compgen -f -- "$cur")
    else
        for word in $(compgen -W "$list" -- "$cur"); do COMPREPLY+=("$prefix$word"); done
    fi
}
complete -F _stella stella"""
)
COMPLETION_ZSH = (
    """#compdef stella
# zsh completion of stella; source <(stella completion zsh) in ~/.zshrc after compinit, or a file _stella in $fpath
_stella() {
    local cur=$PREFIX at= value= last= list= word= i
    for ((i = 2; i < CURRENT; i++)); do
        word=${words[i]}
        if [[ -n $value ]]; then value=; continue; fi"""
    + COMPLETION_WALK
    + """
    if [[ $cur == --*=* ]]; then
        value=1 last=${cur%%=*} cur=${cur#*=}
        compset -P 1 '*='
    fi"""
    + COMPLETION_TABLE
    + """
    if [[ $list == FILES ]]; then _files; else compadd -- ${=list}; fi
}
if [[ $funcstack[1] == _stella ]]; then _stella "$@"; else compdef _stella stella; fi"""
)
COMPLETION_FISH = """# fish completion of stella; stella completion fish | source in ~/.config/fish/config.fish
function __stella_at
    set -l at ''
    set -l value ''
    for word in (commandline -opc)[2..-1]
        if test -n "$value"
            set value ''
            continue
        end
        switch "$at $word"
            case @PLACES@
                set at "$at $word"
            case @VALUED@
                set value 1
        end
    end
    test "$at" = "$argv[1]"
end
complete -c stella -f
@ROWS@"""


def completion_nodes() -> list[tuple[str, dict[str, str], list[Arg]]]:
    """Every place on a command line: (command words with a blank before each, words that may follow, arguments)."""
    nodes = []
    for words in dict.fromkeys((*GROUPS, *(command.words for command in COMMANDS))):
        below: dict[str, str] = {}
        for row in COMMANDS:
            if row.words[: len(words)] == words != row.words:
                below.setdefault(row.words[len(words)], GROUPS.get(row.words[: len(words) + 1], row.summary))
        args = [arg for row in COMMANDS if row.words == words for arg in row.args]
        args += [] if words else [VERSION_ARG]
        nodes.append(("".join(" " + word for word in words), below, args))
    return nodes


def completion_values(arg: Arg) -> str:
    """What may stand as an argument's value: its choices, FILES for any file, or "" for what only the user knows."""
    if arg.kind == "switch":
        return "true false"
    return " ".join(arg.choices) or ("FILES" if arg.kind == "file" or arg.metavar in ("FILE", "DIR") else "")


def completion_valued() -> list[str]:
    """The options that take the word after them."""
    rows = [arg for _, _, args in completion_nodes() for arg in args] + list(GLOBALS)
    return sorted({arg.name for arg in rows if arg.name[0] == "-" and arg.kind not in ("flag", "switch")})


def completion_sh(template: str) -> str:
    """The script for bash or zsh."""
    shared, rows = [*GLOBALS, HELP], []
    for at, below, args in completion_nodes():
        options = [arg for arg in args if arg.name[0] == "-"]
        follow = [*below, *(completion_values(arg) for arg in args if arg.name[0] != "-")]
        lists = {arg.name: completion_values(arg) for arg in options}
        lists.update(
            {
                "-": " ".join(dict.fromkeys(arg.name.rpartition(" ")[2] for arg in options + shared)),
                "": " ".join(follow),
            }
        )
        rows += ['"%s:%s") list="%s" ;;' % (at, name, text.strip()) for name, text in lists.items() if text.strip()]
    rows += ['*":%s") list="%s" ;;' % (arg.name, completion_values(arg)) for arg in GLOBALS if completion_values(arg)]
    places = "|".join('"%s"' % at for at, _, _ in completion_nodes() if at)
    valued = "|".join('*" %s"' % name for name in completion_valued())
    filled = template.replace("@PLACES@", places).replace("@VALUED@", valued)
    return filled.replace("@ROWS@", "\n        ".join(rows))


def completion_fish() -> str:
    """The script for fish."""

    def word(text: str) -> str:
        return "'%s'" % text.replace("\\", "\\\\").replace("'", "\\'")

    def row(at: str | None, arg: Arg) -> str:
        where = "" if at is None else ' -n "__stella_at %s"' % word(at)
        values = completion_values(arg)
        if arg.name[0] != "-":
            return "complete -c stella%s %s" % (where, "-F" if values == "FILES" else "-a %s" % word(values))
        takes = "" if arg.kind in ("flag", "switch") else " -r -F" if values == "FILES" else " -x -a %s" % word(values)
        return "complete -c stella%s -l %s%s -d %s" % (where, arg.name.rpartition("--")[2], takes, word(arg.text))

    rows = [row(None, arg) for arg in (*GLOBALS, HELP)]
    for at, below, args in completion_nodes():
        rows += [
            'complete -c stella -n "__stella_at %s" -a %s -d %s' % (word(at), name, word(below[name])) for name in below
        ]
        rows += [row(at, arg) for arg in args if arg.name[0] == "-" or completion_values(arg)]
    places = " ".join(word(at) for at, _, _ in completion_nodes() if at)
    valued = " ".join(word("* " + name) for name in completion_valued())
    return COMPLETION_FISH.replace("@PLACES@", places).replace("@VALUED@", valued).replace("@ROWS@", "\n".join(rows))


COMPLETIONS: dict[str, Callable[[], str]] = {
    "bash": lambda: completion_sh(COMPLETION_BASH),
    "zsh": lambda: completion_sh(COMPLETION_ZSH),
    "fish": completion_fish,
}


# ==================================================================================================
# Room 16. Entry
#
# From argv to an exit code: find the command's words, build the one parser that is needed, run the
# handler, map errors and signals. The only room that exits.
# ==================================================================================================


def wrap_text(text: str, width: int) -> list[str]:
    """Lines of at most `width` columns, broken at spaces. The import of textwrap would take 5 ms."""
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + 1 + len(word) > width:
            lines.append("")
        lines[-1] += " " + word if lines[-1] else word
    return lines


def help_lines(rows: Sequence[Arg]) -> list[str]:
    """Arguments with their explanations, wrapped at 80 columns."""
    lines = []
    for row in rows:
        name = row.name
        if row.name[0] == "-" and row.kind != "flag":
            name += "[=%s]" % row.metavar if row.kind == "switch" else " " + row.metavar
        text = row.text + (" (required)" if row.required else "")
        wrapped = wrap_text(text, 52)
        if len(name) > 22:
            lines.append("  " + name)
            name = ""
        lines.append("  %-22s  %s" % (name, wrapped[0]))
        lines.extend(" " * 26 + part for part in wrapped[1:])
    return lines


def usage_line(command: Command) -> str:
    """`usage: stella export run watch RUN [options]`"""
    words = ["stella", *command.words, *(row.name for row in command.args if row.name[0] != "-")]
    words += ["%s %s" % (row.name, row.metavar) for row in command.args if row.required]
    return "usage: %s [options]" % " ".join(words)


def closing_lines(examples: Iterable[str], codes: Iterable[int]) -> list[str]:
    """How every --help ends."""
    lines = ["", "examples:", *("  " + example for example in examples)]
    return [*lines, "", "exit codes:", *("  %-4d %s" % (code, EXIT_MEANINGS[code]) for code in codes)]


def command_help(command: Command) -> str:
    """The --help of a command."""
    positionals = [row for row in command.args if row.name[0] != "-"]
    options = [row for row in command.args if row.name[0] == "-"]
    names = {row.name for row in options}
    lines = [usage_line(command), "", command.summary]
    if command.scope:
        lines.append("Needs a token with the scope %s." % command.scope)
    if positionals:
        lines += ["", "arguments:", *help_lines(positionals)]
    if options:
        lines += ["", "options:", *help_lines(options)]
    lines += ["", "global options:", *help_lines([row for row in GLOBALS if row.name not in names] + [HELP])]
    return "\n".join([*lines, *closing_lines(command.examples, command.exits)])


def group_help(words: tuple[str, ...]) -> str:
    """The --help of `stella`, `stella export`, ..., with the commands below it."""
    below = [command for command in COMMANDS if command.words[: len(words)] == words]
    width = max(len(" ".join(command.words)) for command in below)
    lines = ["usage: %s COMMAND [options]" % " ".join(("stella", *words)), "", GROUPS[words], "", "commands:"]
    lines += ["  %-*s  %s" % (width, " ".join(command.words), command.summary) for command in below]
    lines += ["", "global options (before or after the command):", *help_lines([*GLOBALS, HELP, VERSION_ARG])]
    codes = EXIT_MEANINGS if not words else sorted({code for command in below for code in command.exits})
    lines += closing_lines([command.examples[0] for command in below], codes)
    if not words:
        lines += ["", "environment:"]
        lines += [
            "  %-30s %s" % (name, row.help)
            for row in SETTINGS
            for name in row.environment
            if name.startswith("STELLA_")
        ]
        lines += ["  %-30s %s" % ("STELLA_PROFILE", "saved defaults")]
    return "\n".join([*lines, "", "`stella COMMAND --help` tells more about each command."])


def nearest(token: str, choices: Sequence[str]) -> str:
    """The choice that was probably meant, or ""; `-v` stands for the first that begins with `--v`."""
    if len(token) == 2 and token[0] == "-":
        return next((choice for choice in choices if choice.startswith("-" + token.lower())), "")
    try:
        import difflib
    except ImportError:  # Debian's python3-minimal
        return ""
    return "".join(difflib.get_close_matches(token, choices, 1))


def option_hint(name: str, rows: Iterable[Arg], usage: str) -> str:
    """What to type in place of an option that is none of `rows`."""
    if name.startswith("--tok"):
        return "export STELLA_TOKEN=...; the token has no flag, so that it never shows in ps"
    near = nearest(name, ["--version", "--help", *(row.name for row in rows)]) if name[:1] == "-" else ""
    return "did you mean: " + near if near else "see: %s --help" % usage


def unknown_option(words: tuple[str, ...], token: str) -> UsageError:
    """An error about an option before the command that is no global one: perhaps it is some command's own."""
    name = token.partition("=")[0]
    own = [" ".join(row.words) for row in COMMANDS if any(arg.name == name for arg in row.args)]
    hint = "it stands after the command: stella %s ... %s" % (own[0], name) if own else ""
    hint = hint or option_hint(name, GLOBALS, " ".join(("stella", *words)))
    return UsageError("unrecognized arguments: %s" % printable(name), hint=hint)


def unknown_command(words: tuple[str, ...], token: str) -> UsageError:
    """An error that names the nearest command, or the one of this name further down (`stella run ls`)."""
    known = [command.words for command in COMMANDS if command.words[: len(words)] == words]
    choices = sorted({each[len(words)] for each in known})
    below = next((each[len(words) : each.index(token) + 1] for each in known if token in each), ())
    near = " ".join(below) or nearest(token, [*choices, "--help", "--version"])
    hint = "did you mean: %s" % " ".join(("stella", *words, near)) if near else "there is: " + ", ".join(choices)
    return UsageError("%s is no command of %s" % (quoted(token), " ".join(("stella", *words))), hint=hint)


def split_argv(argv: Sequence[str]) -> tuple[tuple[str, ...], list[str], list[str]]:
    """(command words, global options before and between them, everything after them)."""
    takes_value = {row.name: row.kind != "flag" for row in GLOBALS}
    words: tuple[str, ...] = ()
    head: list[str] = []
    index = 0
    while index < len(argv) and not any(command.words == words for command in COMMANDS):
        token = argv[index]
        index += 1
        if token.startswith("-") and token != "-":
            head.append(token)
            if token.partition("=")[0] not in (*takes_value, "-h", "--help", "--version"):
                raise unknown_option(words, token)
            if takes_value.get(token) and index < len(argv):
                head.append(argv[index])
                index += 1
        elif (*words, token) in GROUPS or any(command.words == (*words, token) for command in COMMANDS):
            words = (*words, token)
        else:
            raise unknown_command(words, token)
    return words, head, list(argv[index:])


def parse_value(row: Arg, text: str) -> Json:
    """The value of an argument from its text; ValueError for what it does not take."""
    if row.kind == "switch":
        return parse_bool(text)
    if row.choices and text not in row.choices:
        raise ValueError
    if row.kind not in NUMBERS:
        return text
    _, whole, low, high = NUMBERS[row.kind]
    value = int(text) if whole else float(text)
    if not low <= value <= high or not text.isascii() or "_" in text:
        raise ValueError
    return value


def value_type(row: Arg) -> Callable[[str], Json]:
    """An argparse type; its error says what the argument takes."""
    from argparse import ArgumentTypeError

    words = "%s or %s" % (", ".join(row.choices[:-1]), row.choices[-1]) if row.choices else ""

    def parse(text: str) -> Json:
        try:
            return parse_value(row, text)
        except ValueError:
            raise ArgumentTypeError("takes %s, not %s" % (words or kind_words(row.kind), quoted(text))) from None

    return parse


def build_parser(rows: Sequence[Arg], usage: str, suppress: bool) -> Any:
    """An argparse parser for `rows` alone; with `suppress`, options not given leave no trace."""
    import argparse

    class Parser(argparse.ArgumentParser):
        def error(self, message: str) -> NoReturn:
            if message.startswith("argument "):  # `argument --tail: takes ...`
                message = message[9:].replace(": takes", " takes", 1)
                message = message.replace(": ignored explicit argument", " takes no value, so not", 1)
            before, mark, words = message.partition("unrecognized arguments: ")
            first = words.partition(" ")[0].partition("=")[0]  # what follows may be a secret: --token is often tried
            raise UsageError(before + mark + first, hint=option_hint(first, rows, usage))

    parser = Parser(
        prog=usage,
        add_help=False,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS if suppress else None,
        formatter_class=lambda prog: argparse.HelpFormatter(prog, width=80),  # without a width it imports shutil
    )
    for row in rows:
        options: dict[str, Any] = {"dest": row.dest} if row.name[0] == "-" else {}
        if row.kind == "flag":
            options["action"] = "store_true"
        elif row.kind == "switch":
            options.update(nargs="?", const=True, type=value_type(row))
        else:
            options.update(type=value_type(row), metavar=row.metavar or row.name)
            if row.default is not None:
                options["default"] = row.default
            if row.kind == "list":
                options["action"] = "append"
        if row.required:
            options["required"] = True
        if suppress and row.kind == "flag":
            options["default"] = argparse.SUPPRESS
        parser.add_argument(row.name if row.name[0] == "-" else row.dest, **options)
    return parser


def parse_command(command: Command, head: list[str], rest: list[str]) -> tuple[Any, dict[str, Json]]:
    """(the command's own arguments, the global options by setting name)."""
    usage = " ".join(("stella", *command.words))
    own = {row.name for row in command.args}
    shared = [row for row in GLOBALS if row.name not in own]
    flags: dict[str, Json] = vars(build_parser(GLOBALS, usage, True).parse_args(head)) if head else {}
    args = build_parser([*command.args, *shared], usage, False).parse_args(rest)
    for row in shared:
        value = getattr(args, row.dest)
        if value is not None and value is not False:  # `--retries 0` counts
            flags[row.dest] = value
    for row in (*GLOBALS, *command.args):
        if row.kind in ("word", "file") and (flags.get(row.dest) == "" or getattr(args, row.dest, None) == ""):
            hint = "an unset variable? see: %s --help" % usage
            raise UsageError("%s has an empty value" % row.name, hint=hint)
    args.output = standard_name(flags.get("output") or getattr(args, "output", None) or "")
    args.query = getattr(args, "query", None) or ""
    return args, flags


def asks_for(names: Sequence[str], tokens: Sequence[str]) -> bool:
    """True when one of `names` stands among the options (not after `--`)."""
    before = tokens[: list(tokens).index("--")] if "--" in tokens else tokens
    return any(name in before for name in names)


def end_by_signal(number: int) -> int:
    """Ends the process by the signal itself, so that the shell sees what happened (contract 5)."""
    import signal

    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    return 128 + number  # only where the signal did not end us


def install_signals(at_work: bool) -> None:
    """While at work SIGINT, SIGTERM and SIGHUP become Interrupted, unless the caller had them ignored (nohup)."""
    import signal

    def interrupt(number: int, _: Any) -> NoReturn:
        signal.signal(number, signal.SIG_DFL)  # a second one ends the clean-up, too, and without a traceback
        raise Interrupted(number)

    def stand_in(unraisable: Any) -> None:
        """Where Python drops what `interrupt` raised, amid a finalizer, the signal itself ends the process."""
        if isinstance(unraisable.exc_value, Interrupted):
            end_by_signal(unraisable.exc_value.signal_number)
        sys.__unraisablehook__(unraisable)

    sys.unraisablehook = stand_in if at_work else sys.__unraisablehook__
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, interrupt if at_work else signal.SIG_DFL)


def execute_command(command: Command, head: list[str], rest: list[str], console: Console) -> int:
    """Reads the command's arguments and settings, and runs it."""
    args, flags = parse_command(command, head, rest)
    if command in (DOCTOR, COMPLETION):
        config = load_config_anyway(flags)
    else:
        config = load_config(flags, with_token=bool(command.scope))
    console.configure(config)
    for warning in config.warnings:
        console.warn(warning)
    app = App(config, console, Clock(), ([*head, *command.words], rest))
    try:
        return command.handler(app, args)
    finally:
        app.close()


def run_command(argv: Sequence[str], console: Console) -> int:
    """Finds and runs the command; raises StellaError."""
    words, head, rest = split_argv(argv)
    command = next((row for row in COMMANDS if row.words == words), None)
    if asks_for(("-h", "--help"), [*head, *rest]) or not argv:
        console.out(command_help(command) if command else group_help(words))
        return EXIT_OK if argv else EXIT_USAGE
    if asks_for(("--version",), [*head, *rest]):
        console.out("stella " + VERSION)
        return EXIT_OK
    if command is None:
        below = sorted({row.words[len(words)] for row in COMMANDS if row.words[: len(words)] == words})
        name = " ".join(("stella", *words))
        raise UsageError("%s needs a command: %s" % (name, ", ".join(below)), hint="see: %s --help" % name)
    install_signals(at_work=True)  # not for --version and --help: it would be a fifth of an installed stella's start
    try:
        return execute_command(command, head, rest, console)
    finally:
        install_signals(at_work=False)  # what comes after this has nothing to clean up


def complete_python() -> None:
    """Puts our reader in the place of json where Python has none, as Debian's python3-minimal: verify works there."""
    if os.path.exists(os.path.join(os.path.dirname(os.__file__), "json")):
        return  # one look at the disk; an import would cost a tenth of the start
    try:
        import json  # noqa: F401 - there after all, in an archive
    except ImportError:
        import types

        module, encoder = types.ModuleType("json"), types.ModuleType("json.encoder")
        vars(module).update(loads=read_json_text, dumps=json_text, JSONDecodeError=JsonTextError, encoder=encoder)
        vars(encoder).update(encode_basestring=quote_json)
        sys.modules.update({"json": module, "json.encoder": encoder})


def report_failure(failure: BaseException, console: Console) -> int:
    """Says what went wrong; gives the exit code."""
    if isinstance(failure, StellaError):
        console.error(failure)
        return failure.exit_code
    if isinstance(failure, ImportError):
        hint = "install the whole Python; Debian's python3-minimal alone is enough for --help and verify only"
        console.error(ConfigError("this Python has no module %s" % failure.name, hint=hint))
        return EXIT_CONFIG
    line = 0  # a fault of stella's own: where, but neither text nor values of it
    trace = failure.__traceback__
    while trace is not None:
        line = trace.tb_lineno if trace.tb_frame.f_code.co_filename == __file__ else line
        trace = trace.tb_next
    console.err("stella: unexpected %s at line %d of stella.py %s" % (type(failure).__name__, line, VERSION))
    console.err("  this is a fault of stella's; please report it with the command you typed")
    return EXIT_UNEXPECTED


def main(argv: Sequence[str] | None = None) -> int:
    """Runs stella; the exit code of contract 5."""
    arguments = sys.argv[1:] if argv is None else argv
    console = Console()
    try:
        complete_python()
        return run_command(arguments, console)
    except KeyboardInterrupt:  # before the handlers stood
        return end_by_signal(2)
    except OutputClosed:
        import signal

        return end_by_signal(signal.SIGPIPE) if hasattr(signal, "SIGPIPE") else EXIT_UNEXPECTED
    except (Interrupted, Exception) as error:  # noqa: BLE001 - no traceback ever reaches a user
        interrupted = find_interrupt(error)
        if interrupted is None:
            return report_failure(error, console)
        console.clear_bar()
        return end_by_signal(interrupted.signal_number)


if __name__ == "__main__":
    sys.exit(main())
