"""TLS: every way not to be trusted has its cause, exit 30 and one attempt; where CAs come from; client certificates."""

from __future__ import annotations

import json
import os
import socket
import ssl
import subprocess
import sys
import threading

import pytest

import stella
from gateway import Fault, Gateway
from wire import Wire, reply

STRICT = sys.version_info >= (3, 13)
NAMED = sys.version_info >= (3, 10)  # from here on Python tells which certificates it refused
EMPTY_PAGE = reply(200, b'{"items": [], "nextCursor": null}')
CA = "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign\nsubjectKeyIdentifier=hash\n"
LEAF = "basicConstraints=critical,CA:FALSE\nsubjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n"


def openssl(*words, data: bytes = b"") -> bytes:
    return subprocess.run(["openssl", *map(str, words)], input=data, check=True, capture_output=True).stdout


class Mint:
    """Certificates with faults; one key for all of them."""

    def __init__(self, folder) -> None:
        self.folder = folder
        self.key = folder / "key.pem"
        openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", self.key)
        (folder / "index").write_text("")
        (folder / "ca.cnf").write_text(
            f"[ca]\ndefault_ca=x\n[x]\ndatabase={folder}/index\nnew_certs_dir={folder}\nrand_serial=yes\n"
            "default_md=sha256\npolicy=p\nunique_subject=no\n[p]\ncommonName=supplied\n"
        )

    def make(self, name, extensions, signer="", start="20200101000000Z", end="20490101000000Z", subject=""):
        """name.pem, signed by `signer` (itself without); a signer given as "other" has another key than its name."""
        path, request = self.folder / f"{name}.pem", self.folder / f"{name}.csr"
        (self.folder / "ext").write_text(extensions)
        openssl("req", "-new", "-key", self.key, "-subj", f"/CN={subject or name}", "-out", request)
        by = ("-cert", self.folder / f"{signer}.pem") if signer else ("-selfsign",)
        openssl(
            "ca",
            "-batch",
            "-notext",
            "-config",
            self.folder / "ca.cnf",
            "-keyfile",
            self.key,
            *by,
            "-in",
            request,
            "-out",
            path,
            "-startdate",
            start,
            "-enddate",
            end,
            "-extfile",
            self.folder / "ext",
        )
        return path


@pytest.fixture(scope="module")
def mint(tmp_path_factory):
    mint = Mint(tmp_path_factory.mktemp("mint"))
    name = "subjectAltName=DNS:localhost,IP:127.0.0.1\n"
    mint.make("ca", CA, subject="Test Root")
    mint.make("lax-ca", "basicConstraints=CA:TRUE\n", subject="Lax Root")
    mint.make("other-ca", CA, subject="Other Root")
    for leaf, signer, extensions, dates in (
        ("good", "ca", LEAF + name, {}),
        ("expired", "ca", LEAF + name, {"end": "20210101000000Z"}),
        ("future", "ca", LEAF + name, {"start": "20480101000000Z"}),
        ("lax", "lax-ca", LEAF + name, {}),
        ("elsewhere", "ca", LEAF + "subjectAltName=DNS:evil\x1b[31m.example,DNS:other.example\n", {}),
        ("nameless", "ca", LEAF, {}),
        ("selfsigned", "", "basicConstraints=critical,CA:FALSE\n" + name, {}),
        ("evilname", "other-ca", LEAF + name, {}),
    ):
        mint.make(leaf, extensions, signer, **dates)
    return mint


@pytest.fixture
def serve(mint):
    """serve("good"): a TLS server with that certificate."""
    opened = []

    def start(name, version=None, answer=EMPTY_PAGE):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(mint.folder / f"{name}.pem", mint.key)
        if version is not None:
            context.minimum_version = version
        wire = Wire(answer, context)
        opened.append(wire.__enter__())
        return wire

    yield start
    for wire in opened:
        wire.__exit__()


@pytest.fixture
def ask(cli):
    def run(wire, *words, **environment):
        return cli("run", "ls", *words, env={"STELLA_SERVER": wire.url, "STELLA_TOKEN": "t-oken-t", **environment})

    return run


def profile(**settings):
    folder = os.path.join(os.environ["HOME"], ".stella", "profiles")
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, "p.toml")
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(f"{name} = {json.dumps(value)}\n" for name, value in settings.items())
    os.chmod(path, 0o600)
    return "p"


@pytest.mark.parametrize(
    ("server", "trusted", "cause", "subject"),
    [
        ("expired", "ca", "has expired", "2021"),
        ("future", "ca", "is not valid yet", "2048"),
        ("elsewhere", "ca", "wrong host", "other.example"),
        ("nameless", "ca", "wrong host", ""),
        ("good", "other-ca", "is unknown to", "CN=Test Root"),
        ("selfsigned", "ca", "it is self-signed", "CN=selfsigned"),
    ],
)
def test_what_is_not_trusted_names_its_cause_and_is_asked_once(serve, ask, mint, server, trusted, cause, subject):
    wire = serve(server)
    result = ask(wire, "--ca-file", mint.folder / f"{trusted}.pem", "--trace")
    assert result.code == 30, result
    assert cause in result.err
    assert subject in result.err or not NAMED
    assert "\x1b" not in result.err
    wire.__exit__()
    assert wire.seen == []
    assert len(wire.faults) == 1


def test_what_is_trusted_is_talked_to(serve, ask, mint):
    wire = serve("good")
    assert ask(wire, "--ca-file", mint.folder / "ca.pem").code == 0
    assert wire.seen[0].headers["authorization"] == "Bearer t-oken-t"


def test_an_unknown_ca_says_which_cas_were_asked(serve, ask, mint):
    result = ask(serve("good"), SSL_CERT_FILE=str(mint.folder / "other-ca.pem"))
    assert f"{mint.folder}/other-ca.pem (SSL_CERT_FILE)" in result.err
    assert "--ca-file" in result.err


@pytest.mark.parametrize(
    ("order", "code"),
    [
        ({"--ca-file": "ca", "SSL_CERT_FILE": "other-ca", "REQUESTS_CA_BUNDLE": "other-ca"}, 0),
        ({"SSL_CERT_FILE": "ca", "REQUESTS_CA_BUNDLE": "other-ca", "CURL_CA_BUNDLE": "other-ca"}, 0),
        ({"REQUESTS_CA_BUNDLE": "ca", "CURL_CA_BUNDLE": "other-ca"}, 0),
        ({"CURL_CA_BUNDLE": "ca"}, 0),
        ({"SSL_CERT_FILE": "", "CURL_CA_BUNDLE": "ca"}, 0),
        ({"profile": "ca"}, 0),
        ({"profile": "other-ca", "CURL_CA_BUNDLE": "ca"}, 0),
        ({"--ca-file": "other-ca", "SSL_CERT_FILE": "ca"}, 30),
        ({"SSL_CERT_FILE": "other-ca", "REQUESTS_CA_BUNDLE": "ca"}, 30),
        ({"REQUESTS_CA_BUNDLE": "other-ca", "CURL_CA_BUNDLE": "ca"}, 30),
        ({}, 30),
    ],
)
def test_cas_come_from_the_first_that_is_set(serve, ask, mint, order, code):
    paths = {name: str(mint.folder / f"{value}.pem") if value else "" for name, value in order.items()}
    words = ["--ca-file", paths.pop("--ca-file")] if "--ca-file" in paths else []
    words += ["--profile", profile(ca_file=paths.pop("profile"))] if "profile" in paths else []
    # Without any of them the words are `run ls --profile`, the export profile: put it before the command.
    assert (
        ask(
            serve("good"),
            *[word for word in words if words[0] == "--ca-file"],
            **({"STELLA_PROFILE": "p"} if "--profile" in words else {}),
            **paths,
        ).code
        == code
    )


def test_a_folder_of_hashed_cas(serve, ask, mint, tmp_path):
    name = openssl("x509", "-hash", "-noout", "-in", mint.folder / "ca.pem").decode().strip()
    (tmp_path / f"{name}.0").write_bytes((mint.folder / "ca.pem").read_bytes())
    assert ask(serve("good"), "--ca-file", tmp_path).code == 0


@pytest.mark.parametrize("kind", ["missing", "empty", "no PEM", "key", "DER"])
def test_a_ca_file_that_is_none_is_named_before_any_request(serve, ask, mint, tmp_path, kind):
    path = tmp_path / "file"
    contents = {
        "empty": b"",
        "no PEM": b"hello\n",
        "key": mint.key.read_bytes(),
        "DER": openssl("x509", "-in", mint.folder / "ca.pem", "-outform", "DER"),
    }
    if kind != "missing":
        path.write_bytes(contents[kind])
    wire = serve("good")
    result = ask(wire, REQUESTS_CA_BUNDLE=str(path))
    assert (result.code, wire.seen) == (30, []), result
    assert f"cannot use the CA file {path} (REQUESTS_CA_BUNDLE)" in result.err


def test_a_ca_file_that_was_typed_has_to_be_there_even_where_no_tls_is_spoken(cli, gw, tmp_path):
    done = cli("run", "ls", "--ca-file", tmp_path / "none", gw=gw)
    assert (done.code, len(gw.requests)) == (30, 0), done
    assert f"cannot use the CA file {tmp_path / 'none'} (--ca-file): it is not there" in done.err
    assert cli("run", "ls", gw=gw, env={"SSL_CERT_FILE": str(tmp_path / "none")}).code == 0  # as set for everything


def test_a_python_that_knows_no_cas_looks_where_systems_keep_them(serve, ask, mint, monkeypatch):
    monkeypatch.setattr(
        ssl,
        "get_default_verify_paths",
        lambda: ssl.DefaultVerifyPaths(None, None, "SSL_CERT_FILE", "/no", "SSL_CERT_DIR", "/no"),
    )
    monkeypatch.setattr(ssl.SSLContext, "load_default_certs", lambda self, purpose=None: None)
    monkeypatch.setattr(stella, "CA_PATHS", ("/no/such", str(mint.folder / "ca.pem"), "/not/read"))
    assert ask(serve("good")).code == 0
    monkeypatch.setattr(stella, "CA_PATHS", ("/no/such",))
    assert ask(serve("good")).code == 30


def test_strict_checks_are_explained_and_can_be_turned_off_alone(serve, ask, mint):
    result = ask(serve("lax"), "--ca-file", mint.folder / "lax-ca.pem")
    assert result.code == (30 if STRICT else 0), result
    if STRICT:
        assert "tls_strict = false" in result.err
    profile(tls_strict=False)
    assert ask(serve("lax"), "--ca-file", mint.folder / "lax-ca.pem", STELLA_PROFILE="p").code == 0
    assert ask(serve("expired"), "--ca-file", mint.folder / "ca.pem", STELLA_PROFILE="p").code == 30
    assert ask(serve("elsewhere"), "--ca-file", mint.folder / "ca.pem", STELLA_PROFILE="p").code == 30


@pytest.mark.parametrize("chain", [None, []])
@pytest.mark.parametrize(
    ("code", "strict", "cause"),
    [
        (92, True, "tls_strict" if STRICT else "ca-file"),
        (92, False, "ca-file"),
        (24, True, "ca-file"),
        (20, True, "unknown"),
        (62, True, "wrong host"),
        (10, True, "expired"),
        (23, True, "revoked"),
    ],
)
def test_a_fault_reads_well_without_the_certificates_too(code, strict, cause, chain):
    error = ssl.SSLCertVerificationError(1, "x")
    error.verify_code, error.verify_message = code, {23: "certificate revoked"}.get(code, "said")
    config = stella.load_config({}, {})
    config.tls_strict = strict
    assert cause in " ".join(stella.certificate_fault(error, chain or [], config))


def raw_server(answer: bytes, times: int):
    """(port, thread): answers the first bytes of `times` connections with `answer`, whatever they are."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve():
        with listener:
            for _ in range(times):
                peer, _ = listener.accept()
                with peer:
                    peer.recv(1000)
                    peer.sendall(answer)

    thread = threading.Thread(target=serve)
    thread.start()
    return listener.getsockname()[1], thread


@pytest.mark.parametrize(
    ("answer", "times", "code", "text"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", 1, 30, "does not speak TLS on this port"),
        (b"\x15\x03\x03\x00\x02\x02\x28", 1, 30, "alert handshake failure"),
        (b"\x15\x03\x03\x00\x02\x02\x50", 3, 21, "internal error"),  # of the server's own, may pass
        (b"", 3, 21, "port"),
    ],
)
def test_a_handshake_that_fails_is_tried_again_only_when_that_may_help(cli, answer, times, code, text):
    port, thread = raw_server(answer, times)
    result = cli(
        "run", "ls", "--retries", "2", env={"STELLA_SERVER": f"https://127.0.0.1:{port}", "STELLA_TOKEN": "t-oken-t"}
    )
    thread.join(5)
    assert result.code == code, result
    assert text.lower() in result.err.lower()
    assert not thread.is_alive()


# ---- client certificates


@pytest.fixture(scope="module")
def mutual(tmp_path_factory, keys):
    with Gateway(
        data=tmp_path_factory.mktemp("mutual"), key=keys[0], other_key=keys[1], tls=True, client_certificates=True
    ) as running:
        yield running


def with_certificate(mutual, **more):
    return profile(client_cert=str(mutual.client_cert[0]), client_key=str(mutual.client_cert[1]), **more)


def test_a_client_certificate_opens_the_gateway(cli, mutual):
    with_certificate(mutual)
    assert cli("run", "ls", "--ca-file", mutual.ca_file, gw=mutual, env={"STELLA_PROFILE": "p"}).code == 0


def test_without_one_the_wish_for_it_is_named_and_not_asked_again(cli, mutual):
    result = cli("run", "ls", "--ca-file", mutual.ca_file, "--trace", gw=mutual)
    assert result.code == 30, result
    assert "client certificate" in result.err
    assert "after" not in result.err


def test_the_client_certificate_is_shown_to_the_gateway_alone(cli, mutual, serve, mint, tmp_path):
    """A server elsewhere that asks for one gets none, though the redirect came from the gateway."""
    bundle = tmp_path / "cas.pem"
    bundle.write_bytes(mutual.ca_file.read_bytes() + (mint.folder / "ca.pem").read_bytes())
    with_certificate(mutual)
    wire = serve("good")
    wire.context.verify_mode = ssl.CERT_OPTIONAL
    wire.context.load_verify_locations(mutual.ca_file)
    shown = []
    wire.answer = lambda seen: shown.append(wire._open[-1].getpeercert()) or EMPTY_PAGE
    mutual.order(Fault.redirect(302, wire.url))
    result = cli("run", "ls", "--ca-file", bundle, gw=mutual, env={"STELLA_PROFILE": "p"})
    assert result.code == 0, result
    assert shown == [None]


@pytest.mark.parametrize("fault", ["missing", "no PEM", "other key", "locked key", "key alone"])
def test_a_client_certificate_that_cannot_be_used_is_named(cli, mutual, mint, tmp_path, fault):
    certificate, key = map(str, mutual.client_cert)
    bad = tmp_path / "bad.pem"
    if fault == "missing":
        settings = {"client_cert": str(bad)}
    elif fault == "no PEM":
        bad.write_text("hello")
        settings = {"client_cert": str(bad), "client_key": key}
    elif fault == "other key":
        settings = {"client_cert": certificate, "client_key": str(mint.key)}
    elif fault == "locked key":
        openssl("ec", "-in", key, "-aes128", "-passout", "pass:canary", "-out", bad)
        settings = {"client_cert": certificate, "client_key": str(bad)}
    else:
        settings = {"client_key": key}
    profile(**settings)
    before = len(mutual.requests)
    result = cli("run", "ls", "--ca-file", mutual.ca_file, gw=mutual, env={"STELLA_PROFILE": "p"})
    assert (result.code, len(mutual.requests)) == (30, before), result
    assert "client" in result.err


def test_session_keys_are_not_written_where_the_environment_says(cli, mutual, tmp_path):
    with_certificate(mutual)
    log = tmp_path / "keys.log"
    result = cli(
        "run", "ls", "--ca-file", mutual.ca_file, gw=mutual, env={"STELLA_PROFILE": "p", "SSLKEYLOGFILE": str(log)}
    )
    assert result.code == 0
    assert not log.exists()
