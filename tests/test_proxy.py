"""Proxies: who is asked through one (against answers recorded from the real curl), CONNECT, credentials, 407."""

from __future__ import annotations

import base64
import time
from pathlib import Path

import pytest

import stella
from gateway import Gateway
from wire import Wire, reply

ROWS = [
    [cell.strip() for cell in (line + "|||").split("|")][:4]
    for line in (Path(__file__).parent / "data" / "no_proxy.txt").read_text().splitlines()
    if line[0] != "#"
]
PASSWORD = "pr0xy-canary"
BASIC = "Basic " + base64.b64encode(f"user:{PASSWORD}".encode()).decode()


@pytest.fixture(scope="module")
def tls(tmp_path_factory, keys):
    with Gateway(data=tmp_path_factory.mktemp("tls"), key=keys[0], other_key=keys[1], tls=True) as running:
        yield running


@pytest.fixture
def far(monkeypatch):
    """A gateway by a name that is not loopback: stella.test. Only a proxy finds it."""
    monkeypatch.setattr(stella, "is_loopback", lambda host: False)


def configured(**environment: str):
    return stella.load_config({}, {name.upper(): value for name, value in environment.items()})


@pytest.mark.parametrize(("host", "no_proxy", "curl", "ours"), ROWS)
def test_the_way_is_the_one_that_curl_takes(host, no_proxy, curl, ours):
    assert len(ROWS) > 60
    url = stella.parse_url(f"http://{host}:8123/")
    config = configured(http_proxy="http://p.example:1", no_proxy=no_proxy.replace("PORT", "8123"))
    way = "proxy" if stella.choose_proxy(url, config) else "direct"
    assert way == (ours.partition(":")[0] or curl)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("http://p.example:3128", "p.example:3128"),
        ("p.example:3128", "p.example:3128"),
        ("http://p.example:3128/", "p.example:3128"),
        ("http://p.example", "p.example:1080"),
        ("p.example", "p.example:1080"),
        ("HTTP://P.example:1", "p.example:1"),
        ("http://u:p@p.example:1", "p.example:1"),
        ("u:p@p.example:1", "p.example:1"),
        ("http://u:p%40@p.example:1", "p.example:1"),
        ("http://u:a@b@p.example:1", "p.example:1"),
        ("http://[2001:db8::1]:3128", "[2001:db8::1]:3128"),
        ("http://[2001:db8::1]", "[2001:db8::1]:1080"),
        ("http://p.example:80", "p.example"),
        ("https://p.example", None),
        ("socks5://p.example:1", None),
        ("http://", None),
        ("http://p.example:99999", None),
        ("http://u:hunter2-secret@p p:1", None),
        ("ftp://u:hunter2-secret@p:1", None),
    ],
)
def test_a_proxy_url_is_read_as_curl_reads_it(text, place):
    url = stella.parse_url("https://g.example")
    if place is None:
        with pytest.raises(stella.ConfigError) as caught:
            stella.choose_proxy(url, configured(https_proxy=text))
        assert "hunter2" not in str(caught.value)
        assert "HTTPS_PROXY" in caught.value.message
    else:
        assert stella.choose_proxy(url, configured(https_proxy=text)).authority == place


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"http_proxy": "a:1", "HTTP_PROXY": "b:1"}, "a:1"),
        ({"http_proxy": "", "HTTP_PROXY": "b:1"}, "b:1"),
        ({"HTTP_PROXY": "b:1"}, "b:1"),
        ({"https_proxy": "a:1"}, None),
        ({"ALL_PROXY": "a:1"}, None),
        ({}, None),
        ({"http_proxy": "a:1", "no_proxy": "g.example"}, None),
        ({"http_proxy": "a:1", "NO_PROXY": "g.example"}, None),
        ({"http_proxy": "a:1", "no_proxy": "x", "NO_PROXY": "g.example"}, "a:1"),
    ],
)
def test_which_variable_counts(variables, expected):
    proxy = stella.choose_proxy(stella.parse_url("http://g.example"), stella.load_config({}, variables))
    assert (proxy and proxy.authority) == expected


@pytest.mark.parametrize("userinfo", [f"user:{PASSWORD}@", "user@", ""])
def test_https_goes_through_connect_and_the_proxy_sees_no_credentials_but_its_own(cli, far, tls, userinfo):
    port = tls.url.rpartition(":")[2]
    with Wire(tunnel=True) as proxy:
        environment = {
            "HTTPS_PROXY": f"http://{userinfo}{proxy.origin}",
            "SSL_CERT_FILE": str(tls.ca_file),
            "STELLA_SERVER": f"https://localhost:{port}",
        }
        result = cli("run", "ls", "--trace", env={**environment, "STELLA_TOKEN": tls.token})
    assert result.code == 0, result
    [seen] = proxy.seen
    assert seen.line == f"CONNECT localhost:{port} HTTP/1.1"
    expected = {f"user:{PASSWORD}@": BASIC, "user@": "Basic " + base64.b64encode(b"user:").decode(), "": None}
    assert seen.headers.get("proxy-authorization") == expected[userinfo]
    assert set(seen.headers) <= {"host", "proxy-authorization"}
    assert tls.token.encode() not in proxy.bytes + proxy.tunnelled
    assert "Proxy-Authorization" not in tls.requests[-1].headers
    assert PASSWORD not in result.err + result.out


def test_http_goes_to_the_proxy_with_the_whole_url(cli, far, gw):
    port = gw.url.rpartition(":")[2]
    with Wire(tunnel=True) as proxy:
        result = cli(
            "run",
            "ls",
            "--allow-http",
            env={
                "http_proxy": f"http://user:{PASSWORD}@{proxy.origin}",
                "STELLA_SERVER": f"http://stella.test:{port}",
                "STELLA_TOKEN": gw.token,
            },
        )
    assert result.code == 0, result
    assert proxy.seen[0].target.startswith(f"http://stella.test:{port}/api/export/runs")
    assert proxy.seen[0].headers["proxy-authorization"] == BASIC


def test_a_loopback_gateway_is_never_asked_for_through_a_proxy(cli, gw, tls):
    with Wire(tunnel=True) as proxy:
        variables = {"http_proxy": proxy.url, "https_proxy": proxy.url}
        assert cli("run", "ls", gw=gw, env=variables).code == 0
        assert cli("run", "ls", "--ca-file", tls.ca_file, gw=tls, env=variables).code == 0
    assert proxy.bytes == b""


@pytest.mark.parametrize(
    ("answer", "userinfo", "code", "asked", "text"),
    [
        (reply(407), "", 30, 1, "wants a user name and password"),
        (reply(407), f"user:{PASSWORD}@", 30, 1, "refuses the user name and password"),
        (reply(403), "", 30, 1, "does not connect to stella.test (status 403)"),
        (reply(302, b"", "Location: http://evil.example/"), "", 30, 1, "status 302"),
        (reply(502), "", 21, 6, "status 502"),
        (b"hello\r\n\r\n", "", 21, 6, "status 0"),
        (b"", "", 21, 6, "closed the connection"),
        (b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 5000, "", 21, 6, "sent no end of its answer"),
        (
            b"HTTP/1.1 200 OK\r\nX: \x1b]0;evil\x07\r\n\r\n" + b"no TLS here",
            "",
            30,
            1,
            "cannot speak TLS with stella.test",
        ),
    ],
)
def test_a_proxy_that_does_not_connect_is_named_and_its_password_is_not(cli, answer, userinfo, code, asked, text):
    with Wire(answer + (b"" if not answer or b"close" in answer else b"Connection: close")) as proxy:
        result = cli(
            "run",
            "ls",
            "--trace",
            env={
                "HTTPS_PROXY": f"http://{userinfo}{proxy.origin}",
                "STELLA_SERVER": "https://stella.test",
                "STELLA_TOKEN": "t-oken-t",
            },
        )
    assert (result.code, len(proxy.seen)) == (code, asked), result
    assert text in result.err
    assert proxy.origin in result.err or "TLS" in text
    assert PASSWORD not in result.err
    assert "\x1b" not in result.err


def test_a_407_to_a_plain_request_is_the_proxys(cli):
    with Wire(reply(407)) as proxy:
        result = cli(
            "run",
            "ls",
            "--allow-http",
            env={"HTTP_PROXY": proxy.url, "STELLA_SERVER": "http://stella.test", "STELLA_TOKEN": "t-oken-t"},
        )
    assert (result.code, len(proxy.seen)) == (30, 1), result
    assert "HTTP_PROXY" in result.err


def test_a_407_of_the_gateway_itself_is_just_an_odd_answer(cli):
    with Wire(reply(407)) as server:
        assert cli("run", "ls", env={"STELLA_SERVER": server.url, "STELLA_TOKEN": "t-oken-t"}).code == 1


def test_an_ipv6_host_stands_in_brackets_in_connect(cli):
    with Wire(reply(403)) as proxy:
        cli(
            "run",
            "ls",
            env={"HTTPS_PROXY": proxy.url, "STELLA_SERVER": "https://[2001:db8::1]", "STELLA_TOKEN": "t-oken-t"},
        )
    assert proxy.seen[0].target == "[2001:db8::1]:443"


def test_a_proxy_that_is_not_there_is_named(cli):
    with Wire() as gone:
        pass
    result = cli(
        "run",
        "ls",
        "--retries",
        "1",
        env={
            "HTTPS_PROXY": f"http://u:{PASSWORD}@{gone.origin}",
            "STELLA_SERVER": "https://stella.test",
            "STELLA_TOKEN": "t-oken-t",
        },
    )
    assert result.code == 21
    assert f"cannot reach the proxy {gone.origin} (HTTPS_PROXY)" in result.err
    assert PASSWORD not in result.err


def test_an_answer_to_connect_that_drips_has_the_timeout_as_a_whole(cli):
    sent = []

    def drip(_):
        for byte in b"HTTP/1.1 200 OK\r\nX: " + b"x" * 200:
            sent.append(byte)
            time.sleep(0.02)
            yield bytes([byte])

    with Wire(drip) as proxy:
        words = ("run", "ls", "--timeout", "0.4", "--retries", "0")
        done = cli(*words, env={"HTTPS_PROXY": proxy.url, "STELLA_SERVER": "https://stella.test", "STELLA_TOKEN": "t"})
        assert (done.code, len(sent) < 200) == (21, True), done
    assert "the proxy 127.0.0.1" in done.err
    assert "did not answer in time" in done.err
