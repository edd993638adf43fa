"""stella doctor: what it says of a host, in full for three hosts, and fault by fault."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

import stella as stella_module
from conftest import ROOT

# A cosign like 2.5.1 to 3.0.3: it asks the network for the log's key unless the variable names one.
FAKE_COSIGN = """#!/bin/sh
[ "$1" != version ] || { echo 'GitVersion:    v2.6.0'; exit 0; }
[ -n "$SIGSTORE_REKOR_PUBLIC_KEY" ] || exit 1
for last; do :; done
[ "$last" != --help ] || exit 0
read -r text < "$last" || :
[ "$text" = 'stella doctor' ]
"""
FAKES = {
    "accepts-anything": "#!/bin/sh\necho 'GitVersion: v9'\n",
    "refuses-everything": "#!/bin/sh\n[ \"$1\" = version ] && echo 'GitVersion: v9'\n",
    "does-not-run": "#!/bin/sh\nexit 3\n",
}


@pytest.fixture
def host(cli, gw, tmp_path, monkeypatch):
    """host(*words, env=...): doctor where PATH is an empty folder `bin`, in an empty folder; gives the Result."""
    folder = tmp_path / "work"
    (tmp_path / "bin").mkdir()
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(stella_module, "__file__", str(tmp_path / "stella.py"))  # no vendor/ beside it

    def run(*words, gw=gw, env=None):
        return cli("doctor", *words, whole=True, gw=gw, env=env)

    return run


def give(tmp_path, name, text):
    path = tmp_path / "bin" / name
    path.write_text(text)
    path.chmod(0o755)


def findings(result):
    return {row["name"]: row for row in result.json()["findings"]}


def masked(text, tmp_path, gw):
    """Without what differs from one machine and run to the next."""
    for found, name in ((str(tmp_path), "TMP"), (gw.url, "GATEWAY"), (sys.executable, "PYTHON"),
                        (sys.version.split()[0], "VERSION"), (sys.platform, "PLATFORM")):
        text = text.replace(found, name)
    text = re.sub(r"(OpenSSL|LibreSSL) .*", "OPENSSL", text)
    text = re.sub(r"(?m)^\w+ +ca-file .*\n( .*\n)?", "CAS\n", text)
    text = re.sub(r"(temporary  )\S+, .* free", r"\1FOLDER, FREE free", text)
    text = re.sub(r"[\d.]+ [KMGT]iB free", "FREE free", text)
    return re.sub(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ here(, \d s (behind|ahead of) the gateway)?", r"NOW here", text)


BARE_HOST = """\
pass     python     VERSION at PYTHON on PLATFORM
pass     tls        OPENSSL
CAS
warn     cosign     not on this host
                    -> needed only where it alone reads other keys than ECDSA P-256
warn     openssl    not on this host
                    -> needed only where it alone signs DPoP proofs
pass     builtin    ECDSA P-256 keys only, in plain Python
warn     zstd       not on this host
                    -> put it on PATH or in vendor/ beside stella.py; verify of .zst needs --no-artifacts without
pass     profile    no saved defaults in use
warn     token      none
                    -> export STELLA_TOKEN=..., or set token_file in a profile; verify alone needs none
pass     proxy      none for stella.local
skipped  gateway    https://stella.local, not asked (--offline)
skipped  clock      NOW here; not compared (--offline)
pass     folder     TMP/work, FREE free
pass     temporary  FOLDER, FREE free
ready
"""

READY_HOST = """\
pass     python     VERSION at PYTHON on PLATFORM
pass     tls        OPENSSL
CAS
pass     cosign     v2.6.0 at TMP/bin/cosign; would ask the network by itself, does not as stella calls it
warn     openssl    not on this host
                    -> needed only where it alone signs DPoP proofs
pass     builtin    ECDSA P-256 keys only, in plain Python
warn     zstd       not on this host
                    -> put it on PATH or in vendor/ beside stella.py; verify of .zst needs --no-artifacts without
pass     profile    no saved defaults in use
pass     token      from STELLA_TOKEN
pass     proxy      none for 127.0.0.1
pass     gateway    GATEWAY answers and takes the token
pass     clock      NOW here
pass     folder     TMP/work, FREE free
pass     temporary  FOLDER, FREE free
ready
"""


@pytest.mark.parametrize("name", ["bare-host-offline", "host-with-an-old-cosign"])
def test_golden_text(host, gw, tmp_path, name):
    if name == "bare-host-offline":
        done, golden = host("--offline", "--format", "table", gw=None), BARE_HOST
    else:
        give(tmp_path, "cosign", FAKE_COSIGN)
        done, golden = host("--format", "table", env={"SSL_CERT_FILE": ""}), READY_HOST
    assert masked(done.out, tmp_path, gw) == golden
    assert done.code == 0, done


def test_json_says_the_same_as_the_table(host):
    report = host("--offline", "--format", "json").json()
    assert list(report) == ["stella", "ready", "findings"]
    assert report["stella"] == stella_module.VERSION
    table = host("--offline", "--format", "table").out
    for row in report["findings"]:
        assert list(row) == ["name", "status", "detail", "advice"]
        assert row["name"] == "clock" or f"{row['status']:8} {row['name']:10} {row['detail']}\n" in table
        assert row["advice"] in table


def test_real_programs_pass(host, programs):
    rows = findings(host("--offline", env={"STELLA_" + name.upper(): path for name, path in programs.items()}))
    assert {rows[name]["status"] for name in ("cosign", "openssl", "zstd", "builtin")} == {"pass"}, rows
    assert rows["cosign"]["detail"].endswith("; asks no network")


@pytest.fixture
def programs():
    """The real programs, before PATH is emptied."""
    path = f"{os.defpath}:/usr/local/bin:{ROOT}/vendor/bin"
    found = {"cosign": str(ROOT / "vendor/bin/cosign"), "openssl": shutil.which("openssl", path=path),
             "zstd": shutil.which("zstd", path=path)}
    assert all(found.values()), found
    return found


@pytest.mark.parametrize(("name", "program"), [(name, program) for name in FAKES for program in ("cosign", "openssl")])
def test_program_that_does_not_do_its_work_blocks(host, tmp_path, name, program):
    give(tmp_path, program, FAKES[name])
    done = host("--offline")
    assert (done.code, findings(done)[program]["status"]) == (30, "fail"), done
    assert findings(done)[program]["advice"]
    assert program in done.err


def test_zstd_that_gives_other_bytes_blocks(host, tmp_path):
    give(tmp_path, "zstd", "#!/bin/sh\necho other\n")
    done = host("--offline")
    assert (done.code, findings(done)["zstd"]["status"]) == (30, "fail")


PROFILE = "{home}/.stella/profiles/p.toml"
FAULTS = [
    # name, environment, profile file (text, mode), finding, its status, words in its detail or advice
    ("no-token", {"STELLA_TOKEN": ""}, None, "token", "fail", "STELLA_TOKEN"),
    ("token-with-a-blank", {"STELLA_TOKEN": "a b"}, None, "profile", "fail", "STELLA_TOKEN"),
    ("profile-that-is-not-there", {"STELLA_PROFILE": "p"}, None, "profile", "fail", "p.toml"),
    ("profile-name-with-a-slash", {"STELLA_PROFILE": "../p"}, None, "profile", "fail", "letters"),
    ("profile-with-bad-toml", {"STELLA_PROFILE": "p"}, ("server = ", 0o600), "profile", "fail", "p.toml"),
    ("profile-with-an-unknown-key", {"STELLA_PROFILE": "p"}, ("sever = 'x'", 0o600), "profile", "fail", '"sever"'),
    ("profile-with-a-token-others-can-read", {"STELLA_PROFILE": "p"}, ("token = 'x'", 0o644), "profile", "warn",
     "chmod 600"),
    ("profile-in-order", {"STELLA_PROFILE": "p"}, ("timeout = 7", 0o600), "profile", "pass", "(mode 0600)"),
    ("server-that-is-no-url", {"STELLA_SERVER": "nonsense"}, None, "gateway", "fail", "STELLA_SERVER"),
    ("server-without-tls", {"STELLA_SERVER": "http://stella.example"}, None, "gateway", "fail", "--allow-http"),
    ("zstd-that-is-none", {"STELLA_ZSTD": "/nowhere/zstd"}, None, "zstd", "fail", "STELLA_ZSTD"),
    ("token-that-may-not-list", {"STELLA_TOKEN": "{submit}"}, None, "gateway", "warn", "export:read"),
    ("token-rejected", {"STELLA_TOKEN": "wrong"}, None, "gateway", "fail", "rejects"),
    ("server-with-another-path", {"STELLA_SERVER": "{url}/nothing/here"}, None, "gateway", "fail", "--server"),
    ("nobody-listens", {"STELLA_SERVER": "http://127.0.0.1:1"}, None, "gateway", "fail", "port 1"),
    ("ca-file-that-is-not-there", {"SSL_CERT_FILE": "/nowhere/ca.pem"}, None, "ca-file", "fail", "SSL_CERT_FILE"),
    ("ca-file-that-holds-none", {"CURL_CA_BUNDLE": "/dev/null"}, None, "ca-file", "fail", "CURL_CA_BUNDLE"),
    ("ca-folder", {"SSL_CERT_FILE": "{tmp}"}, None, "ca-file", "pass", "SSL_CERT_FILE"),
    ("client-cert-that-is-not-there", {"STELLA_PROFILE": "p"}, ("client_cert = 'no.pem'", 0o600), "client-cert", "fail",
     "no.pem"),
    ("client-key-alone", {"STELLA_PROFILE": "p"}, ("client_key = 'no.pem'", 0o600), "client-cert", "fail",
     "client_cert is not"),
    ("proxy-that-is-socks", {"https_proxy": "socks5://p:1", "STELLA_SERVER": "https://x.example"}, None, "gateway",
     "fail", "https_proxy"),
    ("openssl-missing-for-dpop", {"STELLA_DPOP_KEY": "/k.pem"}, None, "openssl", "fail", "DPoP"),
    ("program-named-that-is-none", {"STELLA_COSIGN": "/nowhere/cosign"}, None, "cosign", "fail", "STELLA_COSIGN"),
    ("temporary-folder-that-is-gone", {"TMPDIR": "{tmp}/gone"}, None, "temporary", "pass", "free"),
]


@pytest.mark.parametrize("fault", FAULTS, ids=[row[0] for row in FAULTS])
def test_fault_is_found(host, gw, tmp_path, fault):
    _, environment, profile, finding, status, says = fault
    if profile:
        path = PROFILE.format(home=os.environ["HOME"])
        os.makedirs(os.path.dirname(path))
        with open(path, "w") as file:
            file.write(profile[0])
        os.chmod(path, profile[1])
    known = {"url": gw.url, "tmp": tmp_path, "submit": gw.tokens["export:run"]}
    values = {name: value.format(**known) for name, value in environment.items()}
    done = host(env=values)
    row = findings(done)[finding]
    assert (row["status"], says in row["detail"] + row["advice"]) == (status, True), done
    assert row["advice"] or status == "pass"
    blocked = any(other["status"] == "fail" for other in findings(done).values())
    assert (done.code, done.json()["ready"]) == ((30, False) if blocked else (0, True))
    assert status != "fail" or blocked


def test_a_folder_that_is_gone_is_said(host, monkeypatch, tmp_path):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    row = findings(host("--offline"))["folder"]
    assert (row["status"], row["detail"]) == ("warn", "No such file or directory")


@pytest.mark.parametrize(("words", "status"), [(("--offline",), "warn"), ((), "fail")])
def test_modules_that_are_missing_are_named(host, monkeypatch, words, status):
    for name in ("zlib", "uuid"):
        monkeypatch.setitem(sys.modules, name, None)
    row = findings(host(*words))["python"]
    assert (row["status"], row["detail"].rpartition(", without ")[2]) == (status, "uuid, zlib")


def test_the_token_never_shows(host, gw):
    for words in (("--format", "table"), ("--format", "json"), ("--trace",)):
        done = host(*words)
        assert gw.token not in done.out + done.err


def test_looking_at_tls_writes_no_session_keys(host, tmp_path):
    """ssl.create_default_context would open the file that SSLKEYLOGFILE names."""
    host("--offline", env={"SSLKEYLOGFILE": str(tmp_path / "keys.log"), "SSL_CERT_FILE": ""})
    assert not (tmp_path / "keys.log").exists()


@pytest.mark.parametrize("found", [True, False], ids=["fallback", "nothing"])
def test_cas_are_looked_for_as_a_connection_does(host, monkeypatch, tmp_path, found):
    """A Python built elsewhere knows no CAs; stella looks where systems keep them."""
    import ssl

    paths = ssl.DefaultVerifyPaths(None, None, "SSL_CERT_FILE", "/no/cert.pem", "SSL_CERT_DIR", "/no/certs")
    monkeypatch.setattr(ssl, "get_default_verify_paths", lambda: paths)
    monkeypatch.setattr(stella_module, "CA_PATHS", (str(tmp_path / "none"), str(tmp_path / "ca.pem")))
    if found:
        (tmp_path / "ca.pem").write_text("")
        monkeypatch.setattr(ssl.SSLContext, "load_verify_locations", lambda *_: None)
    row = findings(host("--offline"))["ca-file"]
    assert (row["status"], (str(tmp_path) if found else "/no/cert.pem") in row["detail"]) == (
        "pass" if found else "warn", True), row


@pytest.mark.parametrize(("seconds", "status"), [(200, "pass"), (-200, "pass"), (400, "warn"), (-400, "warn")])
def test_clocks_a_little_apart_are_well(host, gw, monkeypatch, seconds, status):
    import time

    now = time.time()
    monkeypatch.setattr(stella_module.Clock, "now", lambda _: now + seconds)
    assert findings(host())["clock"]["status"] == status


def test_offline_calls_nobody(host, gw):
    host("--offline")
    assert gw.requests == []


def test_it_asks_the_gateway_once(host, gw):
    host()
    (request,) = gw.requests
    assert (request.method, request.path.partition("?")[0]) == ("GET", "/api/export/runs")


@pytest.mark.parametrize(("date", "status", "says"), [
    (("Tue, 24 Nov 2020 00:00:00 GMT"), "warn", "set this host's clock"),
    (("Tue, 24 Nov 2099 00:00:00 GMT"), "warn", "behind the gateway"),
    (("nonsense"), "skipped", "tells no time"),
])
def test_clock_that_is_wrong_by_years(host, date, status, says):
    class Answer(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response_only(200)
            self.send_header("Date", date)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        done = host(env={"STELLA_SERVER": f"http://127.0.0.1:{server.server_port}"})
        thread.join()
    row = findings(done)["clock"]
    assert (row["status"], says in row["detail"] + row["advice"]) == (status, True), done


def test_the_report_can_go_to_a_file(host, tmp_path):
    done = host("--offline", "--output", tmp_path / "doctor.json")
    assert (done.code, done.out) == (0, "")
    assert json.loads((tmp_path / "doctor.json").read_text())["ready"] is True
