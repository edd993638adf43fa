"""The event-stream reader against the WHATWG text (HTML, "Server-sent events", 9.2.5 and 9.2.6).

Each case is one line: what the text says, the bytes of a stream, the events that come out. Every case is
fed whole, byte by byte, and in two pieces split at every byte.
"""

from __future__ import annotations

import http.client
import random

import pytest

import stella

BOM = b"\xef\xbb\xbf"
BAD = "\ufffd"


def e(data="", kind="message", last_id=""):
    return kind, data, last_id


class Case:
    """`events` that `stream` gives, and the parser's reconnection time and last event id after it."""

    def __init__(self, name, stream, *events, retry=None, last_id=None):
        self.name, self.stream, self.events, self.retry = name, stream, list(events), retry
        self.last_id = (events[-1][2] if events else "") if last_id is None else last_id


def line_endings():
    # stream = *( event / comment ): a line ends in CRLF, LF or CR, each counts as one, in any mix.
    for name, end in (("LF", b"\n"), ("CR", b"\r"), ("CRLF", b"\r\n")):
        yield Case(f"{name}: one event", b"data: x" + end + end, e("x"))
        yield Case(f"{name}: two events", b"data: x" + end * 2 + b"data: y" + end * 2, e("x"), e("y"))
        yield Case(f"{name}: two data lines", b"data: x" + end + b"data: y" + end * 2, e("x\ny"))
        yield Case(f"{name}: all fields", end.join([b"event: t", b"id: 1", b"retry: 7", b"data: x", b"", b""]),
                   e("x", "t", "1"), retry=7)
        yield Case(f"{name}: blank lines before", end * 3 + b"data: x" + end * 2, e("x"))
        yield Case(f"{name}: blank lines between", b"data: x" + end * 5 + b"data: y" + end * 2, e("x"), e("y"))
        yield Case(f"{name}: comment between data lines", end.join([b"data: x", b":", b"data: y", b"", b""]), e("x\ny"))
        yield Case(f"{name}: an end without the blank line", b"data: x" + end)
        yield Case(f"{name}: an empty data line", b"data" + end + end, e(""))
        yield Case(f"{name}: only line ends", end * 4)
        yield Case(f"{name}: after a BOM", BOM + b"data: x" + end * 2, e("x"))
        yield Case(f"{name}: BOM and blank lines only", BOM + end * 2)
    mixes = [  # after `data: x`: how many events, and whether `data: y`, LF, LF after them are of the same event
        (b"\n\n", "new"), (b"\n\r", "new"), (b"\n\r\n", "new"), (b"\r\r", "new"), (b"\r\r\n", "new"),
        (b"\r\n\n", "new"), (b"\r\n\r", "new"), (b"\r\n\r\n", "new"),
        (b"\r\n", "same"), (b"\r", "same"), (b"\n", "same"),
        (b"\n\r\n\r", "new"), (b"\r\n\n\r", "new"), (b"\n\n\r\n", "new"), (b"\r\r\r", "new"), (b"\r\n\r\r\n\n", "new"),
    ]
    for ends, which in mixes:
        events = [e("x"), e("y")] if which == "new" else [e("x\ny")]
        yield Case(f"mixed ends {ends!r}", b"data: x" + ends + b"data: y\n\n", *events)
        yield Case(f"mixed ends {ends!r}, no more", b"data: x" + ends, *events[:1 if which == "new" else 0])
    for char in "\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029":
        yield Case(f"{char!r} ends no line", f"data: x{char}data: y\n\n".encode(), e(f"x{char}data: y"))


def byte_order_mark():
    # "one leading U+FEFF BYTE ORDER MARK character must be ignored if any are present"
    yield Case("BOM", BOM + b"data: x\n\n", e("x"))
    yield Case("BOM before a comment", BOM + b": c\ndata: x\n\n", e("x"))
    yield Case("BOM before an id", BOM + b"id: 1\ndata: x\n\n", e("x", last_id="1"))
    yield Case("BOM alone", BOM)
    yield Case("two BOMs: the second is of the field name", BOM + BOM + b"data: x\n\n")
    yield Case("two BOMs, then another field", BOM + BOM + b"data: x\ndata: y\n\n", e("y"))
    yield Case("BOM at the second line", b"\n" + BOM + b"data: x\n\n")
    yield Case("BOM at the second event", b"data: x\n\n" + BOM + b"data: y\n\n", e("x"))
    yield Case("BOM within data", b"data: " + BOM + b"x\n\n", e("\ufeffx"))
    yield Case("BOM after the space", b"data:" + BOM + b" x\n\n", e("\ufeff x"))
    yield Case("BOM before the colon", b"data" + BOM + b": x\n\n")
    yield Case("BOM before a comment, second line", b"\n" + BOM + b": c\ndata: x\n\n", e("x"))
    yield Case("the first byte of a BOM", b"\xefdata: x\n\n")
    yield Case("two bytes of a BOM", b"\xef\xbbdata: x\n\ndata: y\n\n", e("y"))
    yield Case("first byte of a BOM, then a line", b"\xef\ndata: x\n\n", e("x"))
    yield Case("another character that starts like a BOM", b"\xef\xbb\xbe\ndata: x\n\n", e("x"))
    yield Case("UTF-16 BOM", b"\xff\xfedata: x\n\ndata: y\n\n", e("y"))
    yield Case("one byte of a BOM and no more", b"\xef")
    yield Case("two bytes of a BOM and no more", b"\xef\xbb")


def comments():
    # "If the line starts with a U+003A COLON character: Ignore the line."
    for name, line in (("empty", b":"), ("text", b": x"), ("no space", b":x"), ("like data", b":data: x"),
                       ("like data with a space", b": data: x"), ("two colons", b"::"), ("NUL", b":\0"),
                       ("bad UTF-8", b":\xff\xfe"), ("heartbeat", b": heartbeat"), ("emoji", ": \U0001f600".encode())):
        yield Case(f"comment {name}: alone", line + b"\n\n")
        yield Case(f"comment {name}: before data", line + b"\ndata: x\n\n", e("x"))
        yield Case(f"comment {name}: after data", b"data: x\n" + line + b"\n\n", e("x"))
    yield Case("comment between id and data", b"id: 1\n: c\ndata: x\n\n", e("x", last_id="1"))
    yield Case("comment does not end an event", b"event: a\n:\nevent: b\n:\ndata: x\n\n", e("x", "b"))
    yield Case("space before the colon is no comment", b" : c\ndata: x\n\n", e("x"))


def field_names():
    # "process the field using the whole line as the field name, and the empty string as the field value";
    # names are compared "literally, with no case folding"; "Otherwise: The field is ignored."
    yield Case("data without colon", b"data\n\n", e(""))
    yield Case("data without colon, twice", b"data\ndata\n\n", e("\n"))
    yield Case("data without colon, then with", b"data\ndata: x\n\n", e("\nx"))
    yield Case("data with, then without colon", b"data: x\ndata\n\n", e("x\n"))
    yield Case("event without colon: the type is empty again", b"event: t\nevent\ndata: x\n\n", e("x"))
    yield Case("id without colon resets the id", b"id: 1\ndata: x\n\nid\ndata: y\n\n", e("x", last_id="1"), e("y"))
    yield Case("retry without colon", b"retry\ndata: x\n\n", e("x"))
    yield Case("retry without colon keeps the time", b"retry: 5\nretry\ndata: x\n\n", e("x"), retry=5)
    for name in ("Data", "DATA", "dat", "data2",
                 "datа", "xdata", " data", "data ", "\tdata", "\0data", "data\0", "dаta",
                 "", "event ", "Event", "EVENT", "ID", "Id", " id", "id ", "Retry", "RETRY", "foo", "data\t", "d a t a",
                 "id\0", "comment", "last-event-id", "i\ufeffd"):
        line = name.encode() + b": 9\n"
        yield Case(f"unknown field {name!r}", line + b"\n")
        yield Case(f"unknown field {name!r} beside data", line + b"data: x\n" + line + b"\n", e("x"))
    yield Case("a line of text", b"hello\n\ndata: x\n\n", e("x"))
    yield Case("colon in the value", b"data: a:b\n\n", e("a:b"))
    yield Case("colons in the value", b"data::a::\n\n", e(":a::"))
    yield Case("a URL", b"data:https://h:1/p?q=a:b\n\n", e("https://h:1/p?q=a:b"))
    yield Case("colon in the type", b"event:a:b\ndata: x\n\n", e("x", "a:b"))
    yield Case("colon in the id", b"id:a:b\ndata: x\n\n", e("x", last_id="a:b"))
    yield Case("value that looks like a field", b"data:data: x\n\n", e("data: x"))


def one_space():
    # "If value starts with a U+0020 SPACE character, remove it from value."
    yield Case("no space", b"data:x\n\n", e("x"))
    yield Case("one space", b"data: x\n\n", e("x"))
    yield Case("two spaces", b"data:  x\n\n", e(" x"))
    yield Case("only a space", b"data: \n\n", e(""))
    yield Case("only two spaces", b"data:  \n\n", e(" "))
    yield Case("a tab stays", b"data:\tx\n\n", e("\tx"))
    yield Case("a tab after the space stays", b"data: \tx\n\n", e("\tx"))
    yield Case("space at the end stays", b"data: x \n\n", e("x "))
    yield Case("no-break space stays", "data:\u00a0x\n\n".encode(), e("\u00a0x"))
    yield Case("ideographic space stays", "data:\u3000x\n\n".encode(), e("\u3000x"))
    yield Case("space in the type", b"event:  t\ndata: x\n\n", e("x", " t"))
    yield Case("type is a space", b"event:  \ndata: x\n\n", e("x", " "))
    yield Case("space in the id", b"id:  1 \ndata: x\n\n", e("x", last_id=" 1 "))
    yield Case("space at the end of the type", b"event: t \ndata: x\n\n", e("x", "t "))
    yield Case("spaces of each data line", b"data:a\ndata: b\ndata:  c\n\n", e("a\nb\n c"))
    yield Case("a line of spaces is a field name", b"data: x\n \n\n", e("x"))
    yield Case("a line of a space ends no event", b"data: x\n \ndata: y\n\n", e("x\ny"))


def data_buffer():
    # "Append the field value to the data buffer, then append a single LF"; "If the data buffer is an empty string,
    # set the data buffer and the event type buffer to the empty string and return"; "remove the last LF".
    yield Case("no data, no event", b"event: t\n\n")
    yield Case("no data: the type is forgotten", b"event: t\n\ndata: x\n\n", e("x"))
    yield Case("no data: the id counts", b"id: 1\n\ndata: x\n\n", e("x", last_id="1"))
    yield Case("no data, id alone", b"id: 1\n\n", last_id="1")
    yield Case("no data: retry counts", b"retry: 3\n\n", retry=3)
    yield Case("empty data", b"data:\n\n", e(""))
    yield Case("empty data twice", b"data:\ndata:\n\n", e("\n"))
    yield Case("empty data three times", b"data\ndata:\ndata: \n\n", e("\n\n"))
    yield Case("empty line first", b"data:\ndata: x\n\n", e("\nx"))
    yield Case("empty line last: one LF is removed", b"data: x\ndata:\n\n", e("x\n"))
    yield Case("three lines", b"data: a\ndata: b\ndata: c\n\n", e("a\nb\nc"))
    yield Case("fields between data lines", b"data: a\nevent: t\ndata: b\nid: 1\ndata: c\n\n", e("a\nb\nc", "t", "1"))
    yield Case("data is reset", b"data: a\n\ndata: b\n\n", e("a"), e("b"))
    yield Case("the text's stock example", b"data: YHOO\ndata: +2\ndata: 10\n\n", e("YHOO\n+2\n10"))
    yield Case("the text's four blocks", b": test stream\n\ndata: first event\nid: 1\n\n"
               b"data:second event\nid\n\ndata:  third event\n\n",
               e("first event", last_id="1"), e("second event"), e(" third event"))
    yield Case("the text's two empty ones", b"data\n\ndata\ndata\n\ndata:", e(""), e("\n"))
    yield Case("the text's two identical ones", b"data:test\n\ndata: test\n\n", e("test"), e("test"))
    yield Case("JSON", b'data: {"a": "b\\nc"}\n\n', e('{"a": "b\\nc"}'))
    yield Case("JSON over lines", b'data: {\ndata: "a": 1\ndata: }\n\n', e('{\n"a": 1\n}'))
    yield Case("NUL in data", b"data: a\0b\n\n", e("a\0b"))
    yield Case("control characters in data", b"data: \x1b[2J\x07\x7f\n\n", e("\x1b[2J\x07\x7f"))


def event_type():
    yield Case("a type", b"event: run.progress\ndata: x\n\n", e("x", "run.progress"))
    yield Case("a type after the data", b"data: x\nevent: t\n\n", e("x", "t"))
    yield Case("the last type counts", b"event: a\nevent: b\ndata: x\n\n", e("x", "b"))
    yield Case("an empty type is message", b"event:\ndata: x\n\n", e("x"))
    yield Case("an empty type after another", b"event: a\nevent:\ndata: x\n\n", e("x"))
    yield Case("the type is reset", b"event: a\ndata: x\n\ndata: y\n\n", e("x", "a"), e("y"))
    yield Case("message by name", b"event: message\ndata: x\n\n", e("x"))
    yield Case("a type with NUL", b"event: a\0b\ndata: x\n\n", e("x", "a\0b"))
    yield Case("a type in UTF-8", "event: é\ndata: x\n\n".encode(), e("x", "é"))
    yield Case("a type in bad UTF-8", b"event: \xff\ndata: x\n\n", e("x", BAD))
    yield Case("type names are not folded", b"event: MESSAGE\ndata: x\n\n", e("x", "MESSAGE"))


def last_event_id():
    # "If the field value does not contain U+0000 NULL, then set the last event ID buffer to the field value.
    # Otherwise, ignore the field." The buffer is not reset by a dispatch.
    yield Case("an id", b"id: 1\ndata: x\n\n", e("x", last_id="1"))
    yield Case("an id after the data", b"data: x\nid: 1\n\n", e("x", last_id="1"))
    yield Case("an id stays", b"id: 1\ndata: x\n\ndata: y\n\n", e("x", last_id="1"), e("y", last_id="1"))
    yield Case("the last id of a block counts", b"id: 1\nid: 2\ndata: x\n\n", e("x", last_id="2"))
    yield Case("an empty id resets", b"id: 1\ndata: x\n\nid:\ndata: y\n\n", e("x", last_id="1"), e("y"))
    yield Case("an empty id with a space resets", b"id: 1\ndata: x\n\nid: \ndata: y\n\n", e("x", last_id="1"), e("y"))
    yield Case("empty after an id in the same block", b"id: 1\nid\ndata: x\n\n", e("x"))
    yield Case("NUL in the id", b"id: 1\0\ndata: x\n\n", e("x"))
    yield Case("NUL alone", b"id: \0\ndata: x\n\n", e("x"))
    yield Case("NUL first", b"id:\x001\ndata: x\n\n", e("x"))
    yield Case("NUL keeps the id before", b"id: 1\ndata: x\n\nid: 2\0\ndata: y\n\n",
               e("x", last_id="1"), e("y", last_id="1"))
    yield Case("NUL keeps the id of the block", b"id: 1\nid: 2\0\ndata: x\n\n", e("x", last_id="1"))
    yield Case("an id that is no number", b"id: a b\ndata: x\n\n", e("x", last_id="a b"))
    yield Case("an id in UTF-8", "id: ü☃\ndata: x\n\n".encode(), e("x", last_id="ü☃"))
    yield Case("an id in bad UTF-8", b"id: \xe2\x98\ndata: x\n\n", e("x", last_id=BAD))
    yield Case("an id of control characters", b"id: \x01\x1b\ndata: x\n\n", e("x", last_id="\x01\x1b"))
    yield Case("an id of a block without data", b"id: 1\ndata: x\n\nid: 2\n\n", e("x", last_id="1"), last_id="2")
    yield Case("an id of an unfinished block", b"id: 1\ndata: x\n\nid: 2\ndata: y\n", e("x", last_id="1"))
    yield Case("an id of an unfinished line", b"id: 1\ndata: x\n\nid: 2", e("x", last_id="1"))
    yield Case("an id with a comment's blank line", b"id: 3\n:\n\n", last_id="3")
    yield Case("id 0", b"id: 0\ndata: x\n\n", e("x", last_id="0"))


def reconnection_time():
    # "If the field value consists of only ASCII digits, then interpret the field value as an integer in base ten"
    for text, value in (("0", 0), ("1", 1), ("3000", 3000), ("007", 7), ("0000000000005", 5), ("999999999", 999999999),
                        ("", None), ("-1", None), ("+5", None), ("1_000", None), ("1.5", None), ("1e3", None),
                        ("0x10", None), (" 5", None), ("5 ", None), ("5s", None), ("٣", None), ("५", None), ("²", None),
                        ("①", None), ("１", None), ("5\0", None), ("\t5", None), ("5\t", None), ("1,000", None),
                        ("NaN", None)):
        yield Case(f"retry {text!r}", f"retry: {text}\n\n".encode(), retry=value)
        yield Case(f"retry {text!r} beside data", f"data: x\nretry: {text}\n\n".encode(), e("x"), retry=value)
    yield Case("retry without space", b"retry:5\n\n", retry=5)
    yield Case("retry at once, before the blank line", b"retry: 5\n", retry=5)
    yield Case("retry of an unfinished line", b"retry: 5")
    yield Case("the last retry counts", b"retry: 5\nretry: 6\n\n", retry=6)
    yield Case("a bad retry keeps the good one", b"retry: 5\nretry: x\n\n", retry=5)
    yield Case("more digits than any time has", b"retry: " + b"9" * 5000 + b"\n\n", retry=10**9)


def utf8():
    # "Streams must be decoded using the UTF-8 decode algorithm": bad bytes become U+FFFD, one for each maximal
    # subpart (Encoding, "UTF-8 decoder").
    good = {"two bytes": "é", "three bytes": "€", "four bytes": "\U0001f600", "combining": "e\u0301",
            "last BMP": "\uffff", "last of all": "\U0010ffff", "replacement character": BAD,
            "right to left": "\u202e", "DEL": "\x7f", "C1": "\x80"}
    for name, text in good.items():
        yield Case(f"UTF-8 {name}", f"data: {text}\n\n".encode(), e(text))
        yield Case(f"UTF-8 {name} before CR", f"data: {text}\r\r".encode(), e(text))
    bad = {
        "lone continuation": (b"\x80", 1), "two continuations": (b"\x80\xbf", 2), "0xff": (b"\xff", 1),
        "0xfe": (b"\xfe", 1), "truncated 2": (b"\xc3", 1), "truncated 3, one byte": (b"\xe2", 1),
        "truncated 3, two bytes": (b"\xe2\x82", 1), "truncated 4, one byte": (b"\xf0", 1),
        "truncated 4, two bytes": (b"\xf0\x9f", 1), "truncated 4, three bytes": (b"\xf0\x9f\x98", 1),
        "overlong slash": (b"\xc0\xaf", 2), "overlong NUL": (b"\xc0\x80", 2), "overlong 3": (b"\xe0\x80\x80", 3),
        "overlong 4": (b"\xf0\x80\x80\x80", 4), "surrogate": (b"\xed\xa0\x80", 3),
        "surrogate pair": (b"\xed\xa0\xbd\xed\xb8\x80", 6),
        "beyond U+10FFFF": (b"\xf4\x90\x80\x80", 4), "five bytes": (b"\xf8\x88\x80\x80\x80", 5),
        "two leads": (b"\xc3\xc3", 2), "lead and a good one": (b"\xe2\xc3\xa9", "\ufffdé"),
    }
    for name, (data, marks) in bad.items():
        text = marks if isinstance(marks, str) else BAD * marks
        yield Case(f"bad UTF-8 {name}", b"data: " + data + b"\n\n", e(text))
        yield Case(f"bad UTF-8 {name} within", b"data: a" + data + b"b\r\n\r\n", e("a" + text + "b"))
    yield Case("a cut character does not swallow the line end", b"data: \xe2\x82\ndata: x\n\n", e(BAD + "\nx"))
    yield Case("a cut character does not swallow CR", b"data: \xf0\x9f\rdata: x\r\r", e(BAD + "\nx"))
    yield Case("a cut character before the colon", b"data\xe2: x\ndata: y\n\n", e("y"))
    yield Case("an overlong LF is no line end", b"data: a\xc0\x8ab\n\n", e("a" + BAD * 2 + "b"))
    yield Case("an overlong colon is no colon", b"data\xc0\xba x\ndata: y\n\n", e("y"))


def end_of_stream():
    # "Once the end of the file is reached, any pending data must be discarded."
    yield Case("nothing at all", b"")
    yield Case("unfinished event", b"data: x")
    yield Case("unfinished event after another", b"data: x\n\ndata: y\n", e("x"))
    yield Case("no blank line at the end", b"data: x\n\ndata: y", e("x"))
    yield Case("unfinished after a CR", b"data: x\r")
    yield Case("ended by a single CR after LF", b"data: x\n\r", e("x"))
    yield Case("a comment at the end", b"data: x\n\n: bye", e("x"))
    yield Case("a type at the end", b"data: x\n\nevent: t\n", e("x"))
    yield Case("a retry in the unfinished block counts", b"data: x\n\nretry: 9\ndata: y", e("x"), retry=9)


CASES = [case for group in (line_endings, byte_order_mark, comments, field_names, one_space, data_buffer, event_type,
                            last_event_id, reconnection_time, utf8, end_of_stream) for case in group()]


def run(pieces):
    """(events as tuples, reconnection time, last event id) of a new parser."""
    parser = stella.EventParser()
    events = [(event.type, event.data, event.id) for piece in pieces for event in parser.feed(piece)]
    return events, parser.retry_ms, parser.last_id


def test_table_has_at_least_234_different_cases():
    assert len({case.name for case in CASES}) == len(CASES) >= 234
    assert len({case.stream for case in CASES}) >= 234


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name.encode("unicode_escape").decode())
def test_event_stream(case):
    wanted = (case.events, case.retry, case.last_id)
    stream = case.stream
    assert run([stream]) == wanted
    assert run([stream[at : at + 1] for at in range(len(stream))]) == wanted
    for at in range(1, min(len(stream), 300)):
        assert run([stream[:at], stream[at:]]) == wanted, at
    assert run([b"", stream[:1], b"", b"", stream[1:], b""]) == wanted


def test_streams_one_after_the_other_in_random_pieces():
    """Cases that end between events can stand in one stream: the parser keeps no trace of the block before."""
    chance = random.Random(4)
    whole = [case for case in CASES if case.stream.endswith((b"\n\n", b"\r\r", b"\r\n\r\n"))
             and not case.stream.startswith(BOM) and b"id" not in case.stream]
    for _ in range(20):
        chosen = chance.choices(whole, k=30)
        stream = b"\n".join(case.stream for case in chosen)
        cuts = sorted(chance.choices(range(len(stream)), k=40))
        events, _, _ = run(stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)]))
        assert events == [event for case in chosen for event in case.events]


TOKENS = [b"id", b"event", b"data", b"retry", b":", b": ", b" ", b"\n", b"\n", b"\n\n", b"\r", b"\r\n", b"x", b"1",
          b"\0", BOM, b"\xe2\x82", b"\xac", b"id: 1\n", b"id:\n", b"event: t\n", b"event:\n", b"data: x\n",
          b"data: y\n\n", b":c\n"]


def test_the_short_way_gives_what_the_long_way_gives():
    """Blocks of the usual form are taken by one match; without it, and byte by byte, the events are the same."""
    chance = random.Random(1)
    for _ in range(5000):
        stream = b"".join(chance.choices(TOKENS, k=chance.randint(1, 14)))
        parser = stella.EventParser()
        parser._plain_block = lambda chunk, at: None
        fed = [event for at in range(len(stream)) for event in parser.feed(stream[at : at + 1])]
        events = [(event.type, event.data, event.id) for event in fed]
        size = chance.randint(1, 20)
        wanted = (events, parser.retry_ms, parser.last_id)
        assert run([stream]) == wanted, stream
        assert run(stream[at : at + size] for at in range(0, len(stream), size)) == wanted, stream


@pytest.mark.parametrize("end", [b"\r", b"\n", b"\r\n"])
def test_event_comes_out_with_its_last_byte(end):
    parser = stella.EventParser()
    assert parser.feed(b"data: x" + end) == []
    assert [event.data for event in parser.feed(end[:1])] == ["x"]
    assert parser.feed(end[1:] + b"data: y" + end) == []


def test_own_id_tells_whether_the_block_set_the_id():
    parser = stella.EventParser("7")
    events = parser.feed(b"data: a\n\nid: 8\ndata: b\n\ndata: c\n\nid\ndata: d\n\n")
    assert [(event.id, event.own_id) for event in events] == [("7", False), ("8", True), ("8", False), ("", True)]
    events = parser.feed(b"data: a\nid: 9\n\ndata: b\nevent: t\n\n")  # the fields in an order that is not the usual one
    assert [(event.id, event.own_id) for event in events] == [("9", True), ("9", False)]


def test_a_new_connection_goes_on_with_id_and_time():
    """The parser of the next connection starts with both; a block without an id leaves the id alone."""
    parser = stella.EventParser("41", 5)
    assert (parser.feed(b": hello\n\n\n"), parser.last_id, parser.retry_ms) == ([], "41", 5)


LINE, EVENT = stella.MAX_EVENT_LINE_BYTES, stella.MAX_EVENT_BYTES
TOO_MUCH = {
    "data line": [b"data:" + b"x" * LINE + b"\n"],
    "line that never ends": [b"x" * 65536] * (LINE // 65536 + 1),
    "comment that never ends": [b":"] + [b"x" * 65536] * (LINE // 65536 + 1),
    "id": [b"id:" + b"1" * LINE + b"\n"],
    "event that never ends": [b"data:" + b"x" * 65000 + b"\n"] * (EVENT // 65000 + 2),
    "event of empty lines": [b"data\n" * 65536] * (EVENT // 65536 + 1),
}


@pytest.mark.parametrize("name", TOO_MUCH)
def test_too_much_is_an_error_and_no_memory(name):
    parser = stella.EventParser()
    with pytest.raises(stella.ProtocolError, match=r"sent (a line|an event) of more than [0-9]+ bytes"):
        for piece in TOO_MUCH[name]:
            parser.feed(piece)


@pytest.mark.parametrize("over", [0, 1])
@pytest.mark.parametrize("first", [b"", b"data\n"], ids=["block-at-once", "line-by-line"])
def test_a_line_of_just_the_limit(first, over):
    parser = stella.EventParser()
    stream = first + b"data:" + b"x" * (LINE - 5 + over) + b"\n\n"
    if over:
        with pytest.raises(stella.ProtocolError):
            parser.feed(stream)
    else:
        assert len(parser.feed(stream)) == 1


@pytest.mark.parametrize("over", [0, 1])
def test_an_event_of_just_the_limit(over):
    """Counted as the text has it: with a line feed after each line."""
    lines = [b"data:" + b"x" * (LINE - 6)] * (EVENT // (LINE - 5))
    left = EVENT - sum(len(line) - 4 for line in lines)
    stream = b"\n".join([*lines, b"data:" + b"y" * (left - 1 + over), b"", b""])
    parser = stella.EventParser()
    if over:
        with pytest.raises(stella.ProtocolError):
            parser.feed(stream)
    else:
        (event,) = parser.feed(stream)
        assert len(event.data) == EVENT - 1


@pytest.mark.parametrize("pieces", [[b"\xef", b"\xbb", b"\xbfdata: x\n\n"], [b"\xef\xbb", b"\xbf", b"data: x\n\n"], [
    b"", b"\xef\xbb\xbf", b"data: x\n\n"]])
def test_a_mark_in_pieces_is_one_mark(pieces):
    parser = stella.EventParser()
    events = [event for piece in pieces for event in parser.feed(piece)]
    assert [(event.type, event.data, event.own_id) for event in events] == [("message", "x", False)]


def test_a_parser_starts_with_what_it_is_given():
    parser = stella.EventParser()
    assert (parser.last_id, parser.retry_ms) == ("", None)
    parser = stella.EventParser("7", 5)
    assert (parser.feed(b"data: x\n\n")[0].id, parser.retry_ms) == ("7", 5)


def test_as_much_as_the_limits_allow():
    line = b"data:" + b"x" * (LINE - 5)
    events, _, _ = run([b"data:" + b"x" * (LINE - 5), b"\n\n" + line + b"\n" + line + b"\n", line + b"\n\n"])
    assert [len(data) for _, data, _ in events] == [LINE - 5, 3 * (LINE - 5) + 2]


def test_limits_start_again_with_each_event():
    parser = stella.EventParser()
    block = b"data:" + b"x" * (LINE - 5) + b"\n\n"
    assert sum(len(parser.feed(block)) for _ in range(8)) == 8


# ---- SeenEvents: a replay shows nothing twice and loses nothing


def shown(*connections):
    """What is new in each connection; an event is `id:data`, or `data` without an id of its own."""
    seen, last_id, result = stella.SeenEvents(), "", []
    for texts in connections:
        seen.reconnect()
        fresh = []
        for text in texts.split():
            own_id, colon, data = text.rpartition(":")
            last_id = own_id if colon else last_id
            if seen.is_new(stella.Event("t", data, last_id, bool(colon))):
                fresh.append(text)
        result.append(" ".join(fresh))
    return result


REPLAYS = {
    "server resumes after the id": (["1:a 2:b", "3:c"], ["1:a 2:b", "3:c"]),
    "server replays everything": (["1:a 2:b", "1:a 2:b 3:c"], ["1:a 2:b", "3:c"]),
    "server replays generously": (["1:a 2:b 3:c", "2:b 3:c 4:d", "1:a 4:d 5:e"], ["1:a 2:b 3:c", "4:d", "5:e"]),
    "same id, other data": (["1:a 1:b", "1:a 1:b 1:c"], ["1:a 1:b", "1:c"]),
    "same id, same data, same connection": (["1:a 1:a 2:b"], ["1:a 2:b"]),
    "ids start again with other data": (["1:a 2:b", "1:x 2:y"], ["1:a 2:b", "1:x 2:y"]),
    "live event before the replay": (["1:a 2:b", "4:d 2:b 3:c 4:d"], ["1:a 2:b", "4:d 3:c"]),
    "no ids, full replay": (["a b", "a b c"], ["a b", "c"]),
    "no ids, replay of the last ones": (["a b c", "b c d"], ["a b c", "d"]),
    "no ids, no replay": (["a b", "c d"], ["a b", "c d"]),
    "no ids, the same text again on one connection": (["a a b a"], ["a a b a"]),
    "no ids, repeated texts replayed": (["a a b a", "a a b a c"], ["a a b a", "c"]),
    "no ids, the same text after the replay": (["a b", "a b c a"], ["a b", "c a"]),
    "no ids, one more of the same": (["a a", "a a a"], ["a a", "a"]),
    "no ids, cut twice in the replay": (["a b c", "a", "a b", "a b c d"], ["a b c", "", "", "d"]),
    "some without id, resumed": (["1:a x 2:b x", "x y 3:c x"], ["1:a x 2:b x", "y 3:c x"]),
    "some without id, replayed": (["1:a x 2:b x", "1:a x 2:b x 3:c x"], ["1:a x 2:b x", "3:c x"]),
    "some without id, the whole log again": (["x y 1:a x", "x y 1:a x 2:b"], ["x y 1:a x", "2:b"]),
    "without id after a resumed one": (["x 1:a", "y x"], ["x 1:a", "y x"]),
    "one more of the same after a resumed one": (["1:a x", "1:a x x"], ["1:a x", "x"]),
    "as at the start, after a resumed one": (["x 1:a", "1:a x"], ["x 1:a", "x"]),
    "the id before says which": (["1:a x", "1:a 2:b x"], ["1:a x", "2:b x"]),
}


@pytest.mark.parametrize("name", REPLAYS)
def test_replay(name):
    connections, wanted = REPLAYS[name]
    assert shown(*connections) == wanted


def test_type_and_data_are_not_mixed_up():
    seen = stella.SeenEvents()
    seen.reconnect()
    events = [("a", "b", "1"), ("b", "a", "1"), ("a", "b", "2"), ("", "ab", "1"), ("a", "b", "1")]
    fresh = [seen.is_new(stella.Event(kind, data, last_id, True)) for kind, data, last_id in events]
    assert fresh == [True] * 4 + [False]


@pytest.mark.parametrize("own_id", [True, False])
def test_memory_of_events_is_bounded(own_id, monkeypatch):
    monkeypatch.setattr(stella, "MAX_SEEN_EVENTS", 100)
    seen = stella.SeenEvents()
    events = [stella.Event("t", str(number), str(number) if own_id else "", own_id) for number in range(1000)]
    assert all(seen.is_new(event) for event in events)
    assert len(seen._recent) + len(seen._older) <= 200
    assert len(seen._counts) <= 100
    if own_id:
        seen.reconnect()
        assert not any(seen.is_new(event) for event in events[-100:])


# ---- ChunkDecoder: the chunked coding under the stream (RFC 9112 7.1)

CHUNKED = {
    "one": (b"1\r\nx\r\n0\r\n\r\n", b"x"), "none": (b"0\r\n\r\n", b""),
    "two": (b"1\r\nx\r\n2\r\nyz\r\n0\r\n\r\n", b"xyz"),
    "line ends within": (b"4\r\n\r\n\r\n\r\n0\r\n\r\n", b"\r\n\r\n"),
    "extension": (b'1;a="b"\r\nx\r\n0;c\r\n\r\n', b"x"),
    "hex digits": (b"1A\r\n" + b"x" * 26 + b"\r\n00\r\n\r\n", b"x" * 26),
    "trailers": (b"1\r\nx\r\n0\r\nA: b\r\n\r\n", b"x"),
    "leading zeros": (b"0001\r\nx\r\n0\r\n\r\n", b"x"), "space after the size": (b"1 \r\nx\r\n0\r\n\r\n", b"x"),
}


@pytest.mark.parametrize("name", CHUNKED)
def test_chunks_in_pieces_of_every_size(name):
    wire, payload = CHUNKED[name]
    for size in range(1, len(wire) + 1):
        decoder, got = stella.ChunkDecoder(), b""
        for at in range(0, len(wire), size):
            got += decoder.feed(wire[at : at + size]) if not decoder.ended else b""
        assert (got, decoder.ended) == (payload, True)


NOT_CHUNKED = [b"zz\r\n", b"-1\r\n", b"+1\r\n", b"\r\n", b"1_0\r\n", b"0x1\r\n", b";a\r\n", b"f" * 17 + b"\r\n",
               b"1" * 20000, b""]


@pytest.mark.parametrize("wire", NOT_CHUNKED, ids=lambda wire: repr(wire[:20]))
def test_what_is_not_the_chunked_coding_is_an_error(wire):
    with pytest.raises(http.client.HTTPException):
        stella.ChunkDecoder().feed(wire)


def test_end_of_the_connection_within_a_chunk_is_an_error():
    decoder = stella.ChunkDecoder()
    assert decoder.feed(b"5\r\nabc") == b"abc"
    with pytest.raises(http.client.IncompleteRead):
        decoder.feed(b"")
