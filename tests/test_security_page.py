"""README's "Security" against the code: every place asked, file, program and variable; test_source.py does the header.

What a page says is found by its backticks, what the code does by reading its tree.
"""

from __future__ import annotations

import ast
import re

import pytest

import stella
from conftest import ROOT, STELLA
from test_source import Source, header_list, is_call, strings, variables_read

SECTION = (ROOT / "README.md").read_text(encoding="utf-8").partition("\n## Security\n")[2].partition("\n## ")[0]
SOURCE = Source(STELLA.read_text(encoding="utf-8"))
CAPITALS = r"`([A-Z][A-Z0-9_]{2,})`"


def paragraph(start: str) -> str:
    found = re.search(rf"^\*\*{re.escape(start)}.*?(?=\n\n|\Z)", SECTION.strip(), re.MULTILINE | re.DOTALL)
    assert found, start
    return " ".join(found.group().split())


def function(name: str) -> ast.AST:
    return next(node for node in SOURCE.of(ast.FunctionDef) if node.name == name)


def test_variables_are_those_of_the_header_and_of_the_code():
    """Those of Configuration's table (test_config.py: it is the code's), and those that the page adds."""
    said = paragraph("Environment read").partition("Python and its OpenSSL")[0]
    assert "](#configuration)" in said
    names = {name for setting in stella.SETTINGS for name in setting.environment if name.isupper()}
    assert not names & set(re.findall(CAPITALS, said)), "said twice"
    names |= {"STELLA_PROFILE", *re.findall(CAPITALS, said)}
    assert names == set(re.findall(r"\b[A-Z][A-Z0-9_]{2,}\b", header_list(SOURCE, "environment")))
    assert names == {name.upper() for name in variables_read(SOURCE)}


def test_variables_that_are_named_as_without_effect_are_nowhere_in_the_code():
    for name in ("SSLKEYLOGFILE", "OPENSSL_CONF", "NETRC", "SSL_CERT_DIR"):
        assert name not in {node.value for node in strings(SOURCE.tree)}


def test_what_programs_find_in_their_environment(monkeypatch):
    before, _, after = paragraph("Programs").partition("from yours")
    for name in ("PATH", "LD_LIBRARY_PATH", "SYSTEMROOT", "TMPDIR", "TEMP", "TMP", "STELLA_TOKEN",
                 "STELLA_DPOP_KEY", "SSL_CERT_FILE"):
        monkeypatch.setenv(name, "x")
    inherited, given = stella.inherited_environment(), stella.program_environment("/h")
    assert set(re.findall(CAPITALS, before.partition("environment is")[2])) == set(inherited)
    assert set(re.findall(CAPITALS, after)) == set(given) - set(inherited)


def test_programs():
    said = set(re.findall(r"`(cosign|openssl|zstd|[a-z]+)`", paragraph("Programs").partition(";")[0]))
    assert said == set(stella.load_config({}, {}).programs)
    assert said == set(header_list(SOURCE, "programs").partition(":")[0].split(", "))


def test_files_read():
    said = set(re.findall(r"`([^` ]+)`", paragraph("Files read")))
    assert set(stella.CA_PATHS) | {"~/.stella/profiles/NAME.toml"} <= said
    assert {setting.key for setting in stella.SETTINGS if setting.kind == "path"} <= said
    places = re.compile(r"/(etc|usr|var|proc|sys|home|opt|tmp)\b")
    assert {node.value for node in strings(SOURCE.tree) if places.match(node.value)} == set(stella.CA_PATHS)
    profile = {node.value for node in strings(function("profile_path"))} - {ast.get_docstring(function("profile_path"))}
    assert profile == {"~", ".stella", "profiles", ".toml"}


def test_files_written():
    """The suffixes are those of the header, which test_source.py compares with room 10."""
    said = paragraph("Files written")
    suffixes = r"\.[a-z]+\b(?![.a-z]*/)"
    assert set(re.findall(suffixes, " ".join(re.findall(r"`(\.?NAME[^`]*)`", said)))) == set(
        re.findall(suffixes, header_list(SOURCE, "files written")))  # fmt: skip
    makers = [node for node in SOURCE.of(ast.Call) if SOURCE.dotted(node.func) == "tempfile.mkdtemp"]
    prefixes = [word.value.value for node in makers for word in node.keywords if word.arg == "prefix"]
    assert [f"`{prefix}*`" in said for prefix in prefixes] == [True]


# Whatever makes a request, and the row of the page that says so, by its first words.
ASKS = {
    "Gateway.json_request": "the gateway", "Gateway.fetch_bytes": "the gateway", "Gateway._fetch_page": "the gateway",
    "Gateway.look_at_run": "the gateway", "Gateway.open_events": "the gateway", "examine_server": "the gateway",
    "Gateway.fetch_tagged_profile": "the gateway", "Transfer.ask": "the object store", "Http._redirected": "where one",
    "fetch_registry_digest": "registries", "fetch_registry_token": "that place",
}  # fmt: skip


def test_every_request_has_its_row_and_every_row_its_request():
    rows = [line.strip("| ").partition(" |")[0] for line in SECTION.splitlines() if line.startswith("| ")][1:]
    makers = {SOURCE.places[node] for node in SOURCE.of(ast.Call) if is_call(node, "Request")}
    assert makers == set(ASKS)
    for words in (*ASKS.values(), "the proxy", "the system's resolver"):
        assert any(row.startswith(words) for row in rows), words
    assert len(rows) == len({*ASKS.values(), "the proxy", "the system's resolver"})


def test_connections_are_made_in_one_place():
    places = {SOURCE.places[node] for node in SOURCE.of(ast.Call)
              if SOURCE.dotted(node.func) in ("socket.create_connection", "socket.socket")}  # fmt: skip
    assert places == {"Http._connect"}
    bound = {node.func.attr for node in SOURCE.of(ast.Call) if isinstance(node.func, ast.Attribute)}
    assert not bound & {"bind", "listen", "accept", "sendto", "getaddrinfo", "gethostbyname"}


def test_commands_that_do_not_ask_the_gateway():
    said = re.search(r"every command but `(\w+)` and `(\w+)`; `(\w+)` once", SECTION)
    without = {command.words[-1] for command in stella.COMMANDS if not command.scope}
    assert set(said.groups()) == without


def test_what_strangers_get():
    sentence = re.search(r'"Nothing of yours" is (.*?), and the', " ".join(SECTION.split())).group(1)
    client = stella.Http(stella.load_config({}, {"STELLA_TOKEN": "t-oken-t"}), stella.Console(), stella.Clock())
    request = stella.Request("GET", stella.parse_url("https://other.example"), anonymous=True)
    assert set(re.findall("`(.*?)`", sentence)) == {*client.headers(request), *stella.HEADERS_FOR_OTHERS}


def test_the_page_says_the_rest_that_a_reader_looks_for():
    assert "](#verify)" in paragraph("What verification proves")
    report = paragraph("To report a problem")
    assert "in private" in report
    assert not re.search(r"@|https?:", report), "an address that nobody gave"


@pytest.mark.parametrize("name", re.findall(r"`(tests/\w+\.py)`", SECTION))
def test_tests_that_the_page_names_are_there(name):
    assert (ROOT / name).exists()
