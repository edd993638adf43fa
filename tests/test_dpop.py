"""DPoP (RFC 9449) against a strict resource server of our own, whose signatures are checked by openssl."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import time
from email.utils import formatdate

import pytest

from wire import Wire, reply

TOKEN = "dpop-bound-token"
PAGE = b'{"items": [], "nextCursor": null}'
# SubjectPublicKeyInfo of a P-256 key up to the point (RFC 5480 2.1.1).
SPKI_HEAD = bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d03010703420004")


def unpad(text: str) -> bytes:
    assert "=" not in text
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def der_integer(number: bytes) -> bytes:
    number = number.lstrip(b"\0") or b"\0"
    number = b"\0" + number if number[0] & 0x80 else number
    return bytes([2, len(number)]) + number


def read_proof(proof: str, folder) -> tuple[dict, dict]:
    """(header, claims) of a proof whose signature openssl accepts."""
    signed, _, signature = proof.rpartition(".")
    header, claims = (json.loads(unpad(part)) for part in signed.split("."))
    raw = unpad(signature)
    assert len(raw) == 64
    pair = der_integer(raw[:32]) + der_integer(raw[32:])
    (folder / "sig").write_bytes(bytes([0x30, len(pair)]) + pair)
    der = SPKI_HEAD + unpad(header["jwk"]["x"]) + unpad(header["jwk"]["y"])
    (folder / "key").write_text(
        f"-----BEGIN PUBLIC KEY-----\n{base64.encodebytes(der).decode()}-----END PUBLIC KEY-----\n"
    )
    command = ["openssl", "dgst", "-sha256", "-verify", folder / "key", "-signature", folder / "sig"]
    subprocess.run(command, input=signed.encode(), check=True, capture_output=True)
    return header, claims


class Resource:
    """A resource server by RFC 9449 4.3, 7 and 9. nonces: what it hands out, one after the other; [] for none."""

    def __init__(self, folder, nonces=(), good=lambda: reply(200, PAGE)) -> None:
        self.folder, self.nonces, self.good = folder, list(nonces), good
        self.jtis: list[str] = []
        self.claims: list[dict] = []

    def __call__(self, seen) -> bytes:
        scheme, _, token = seen.headers["authorization"].partition(" ")
        assert (scheme, token) == ("DPoP", TOKEN)
        header, claims = read_proof(seen.headers["dpop"], self.folder)
        assert (header["typ"], header["alg"]) == ("dpop+jwt", "ES256")
        assert set(header["jwk"]) == {"kty", "crv", "x", "y"}  # nothing of the private key
        assert claims["htm"] == seen.method
        assert claims["htu"] == f"http://{seen.headers['host']}{seen.target.partition('?')[0]}"
        assert abs(claims["iat"] - time.time()) < 60
        assert unpad(claims["ath"]) == hashlib.sha256(TOKEN.encode()).digest()
        assert claims["jti"] not in self.jtis
        assert len(claims["jti"]) >= 16
        self.jtis.append(claims["jti"])
        self.claims.append(claims)
        if self.nonces and claims.get("nonce") != self.nonces[0]:
            return reply(401, b"", 'WWW-Authenticate: DPoP error="use_dpop_nonce"', f"DPoP-Nonce: {self.nonces[0]}")
        return self.good()


@pytest.fixture
def key(tmp_path):
    path = tmp_path / "dpop.pem"
    command = ["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", path]
    subprocess.run(command, check=True, capture_output=True)
    os.chmod(path, 0o600)
    return path


@pytest.fixture
def ask(cli, key):
    """ask(answer, words): `run ls` with a DPoP key against a server that answers so; (result, its Wire)."""

    def run(answer, *words, **environment):
        with Wire(answer) as server:
            names = {"STELLA_SERVER": server.url, "STELLA_TOKEN": TOKEN, "STELLA_DPOP_KEY": str(key), **environment}
            result = cli(*(words or ("run", "ls")), env=names)
        assert all("Bearer" not in seen.headers.get("authorization", "") for seen in server.seen)
        assert server.faults == []
        return result, server

    return run


def test_every_request_carries_a_proof_of_its_own(ask, tmp_path):
    pages = [b'{"items": [], "nextCursor": "a"}', b'{"items": [], "nextCursor": "b"}', PAGE]
    resource = Resource(tmp_path, good=lambda: reply(200, pages.pop(0)))
    result, _ = ask(resource, "run", "ls", "--all")
    assert (result.code, len(resource.jtis)) == (0, 3), result


def test_every_attempt_carries_a_proof_of_its_own(ask, tmp_path):
    answers = [reply(503), reply(500), b"", reply(200, PAGE)]
    resource = Resource(tmp_path, good=lambda: answers.pop(0))
    result, _ = ask(resource)
    assert (result.code, len(resource.jtis)) == (0, 4), result


def test_a_request_sent_again_on_a_fresh_connection_has_a_fresh_proof(ask, tmp_path):
    """The kept connection dies under the second request: a replayed proof would be refused."""
    answers = [
        reply(200, b'{"items": [], "nextCursor": "a"}').replace(b"Connection: close\r\n", b""),
        b"",
        reply(200, PAGE),
    ]
    resource = Resource(tmp_path, good=lambda: answers.pop(0))
    result, _ = ask(resource, "run", "ls", "--all", "--retries", "0")
    assert (result.code, len(resource.jtis)) == (0, 3), result


def test_a_redirect_on_the_gateway_has_a_proof_for_its_target(ask, tmp_path):
    answers = [reply(307, b"", "Location: /elsewhere?x=1"), reply(200, PAGE)]
    resource = Resource(tmp_path, good=lambda: answers.pop(0))
    result, server = ask(resource)
    assert result.code == 0, result
    assert resource.claims[1]["htu"] == server.url + "/elsewhere"


def test_a_redirect_elsewhere_has_no_proof(ask, tmp_path):
    with Wire(reply(200, PAGE)) as other:
        result, _ = ask(Resource(tmp_path, good=lambda: reply(302, b"", f"Location: {other.url}")))
    assert result.code == 0
    assert not {"authorization", "dpop"} & set(other.seen[0].headers)


def test_a_nonce_challenge_is_answered_once_and_the_nonce_kept(ask, tmp_path):
    pages = [b'{"items": [], "nextCursor": "a"}', PAGE]
    resource = Resource(tmp_path, ["n-1"], good=lambda: reply(200, pages.pop(0)))
    result, server = ask(resource, "run", "ls", "--all", "--trace")
    assert result.code == 0, result
    assert [claims.get("nonce") for claims in resource.claims] == [None, "n-1", "n-1"]
    assert all(seen.headers["dpop"] not in result.err for seen in server.seen)


def test_a_challenged_mutation_is_sent_again_under_one_key(ask, tmp_path):
    resource = Resource(tmp_path, ["n-1"], good=lambda: reply(202, b'{"runId": "r"}'))
    result, server = ask(resource, "run", "submit", "prof-json-raw", "--selector", "tenant=acme")
    assert result.code == 0, result
    assert len({seen.headers["idempotency-key"] for seen in server.seen}) == 1


def test_a_nonce_with_a_good_answer_is_for_the_next_request(ask, tmp_path):
    answers = [reply(200, b'{"items": [], "nextCursor": "a"}', "DPoP-Nonce: n-2"), reply(200, PAGE)]
    resource = Resource(tmp_path, good=lambda: answers.pop(0))
    ask(resource, "run", "ls", "--all")
    assert [claims.get("nonce") for claims in resource.claims] == [None, "n-2"]


CHALLENGE = 'WWW-Authenticate: DPoP error="use_dpop_nonce"'


@pytest.mark.parametrize(
    ("answers", "asked", "text"),
    [
        ([reply(401, b"", CHALLENGE, "DPoP-Nonce: same")], 2, "asks for a DPoP nonce again"),
        ([reply(401, b"", CHALLENGE, f"DPoP-Nonce: n-{n}") for n in range(9)], 2, "asks for a DPoP nonce again"),
        ([reply(401, b"", CHALLENGE)], 1, "and gives none"),
        ([reply(401, b"", CHALLENGE, 'DPoP-Nonce: a"b')], 1, "asks for a DPoP nonce"),
        ([reply(401, b"", CHALLENGE, "DPoP-Nonce: caf\xe9")], 1, "asks for a DPoP nonce"),
        ([reply(401, b"", 'WWW-Authenticate: DPoP error="invalid_token"')], 1, "status 401"),
    ],
)
def test_a_server_that_is_never_content_is_an_error_and_no_loop(ask, answers, asked, text):
    result, server = ask(list(answers))
    assert (result.code, len(server.seen)) == (30, asked), result
    assert text in result.err


@pytest.mark.parametrize(
    ("offset", "text"),
    [
        (-3600, "3600 s ahead of the gateway's"),
        (3600, "s behind the gateway's"),
        (60, "s behind the gateway's"),
        (20, "get a new token"),
        (None, "get a new token"),
    ],
)
def test_a_clock_that_is_wrong_is_explained(ask, offset, text):
    date = [] if offset is None else ["Date: " + formatdate(time.time() + offset, usegmt=True)]
    result, _ = ask(reply(401, b"", *date))
    assert result.code == 30
    assert text in result.err.replace("3601", "3600")


@pytest.mark.parametrize(
    "fault", ["missing", "text", "public", "P-384", "RSA", "locked", "folder", "no openssl", "broken openssl", "uri"]
)
def test_a_key_that_cannot_sign_is_named_and_no_bearer_token_goes_out(ask, key, tmp_path, fault):
    bad = tmp_path / "bad.pem"
    openssl = {"no openssl": "/no/such", "broken openssl": "/bin/false"}
    more = {"STELLA_OPENSSL": openssl[fault]} if fault in openssl else {}
    commands = {
        "public": ["pkey", "-in", key, "-pubout"],
        "P-384": ["ecparam", "-name", "secp384r1", "-genkey", "-noout"],
        "RSA": ["genpkey", "-algorithm", "RSA"],
        "locked": ["ec", "-in", key, "-aes128", "-passout", "pass:canary"],
    }
    if fault in commands:
        subprocess.run(["openssl", *commands[fault], "-out", bad], check=True, capture_output=True)
    elif fault == "text":
        bad.write_text("hello")
    elif fault == "folder":
        bad.mkdir()
    elif fault == "uri":
        bad = f"file:{key}"  # openssl would take it for the key
    elif "openssl" in fault:
        bad = key
    result, server = ask(reply(200, PAGE), STELLA_DPOP_KEY=str(bad), **more)
    assert (result.code, server.seen) == (30, []), result
    says = {"no openssl": "STELLA_OPENSSL", "broken openssl": "/bin/false does not work (exit status 1)"}
    assert says.get(fault, "DPoP key") in result.err


def test_the_key_from_a_profile_counts_too(ask, key, tmp_path):
    folder = os.path.join(os.environ["HOME"], ".stella", "profiles")
    os.makedirs(folder)
    with open(os.path.join(folder, "p.toml"), "w", encoding="utf-8") as file:
        file.write(f'dpop_key = "{key}"\n')
    result, server = ask(Resource(tmp_path), STELLA_DPOP_KEY="", STELLA_PROFILE="p")
    assert (result.code, len(server.seen)) == (0, 1), result
