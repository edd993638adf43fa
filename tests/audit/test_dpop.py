"""The proofs of stella, judged by PyJWT."""

from __future__ import annotations

import hashlib
import subprocess
import time
from base64 import urlsafe_b64encode

import jwt
import pytest

import stella


@pytest.fixture
def signer(tmp_path):
    path = tmp_path / "dpop.pem"
    command = ["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", path]
    subprocess.run(command, check=True, capture_output=True)
    environment = {"STELLA_DPOP_KEY": str(path), "STELLA_TOKEN": "tok"}
    return stella.DpopSigner(stella.load_config({}, environment))


def test_pyjwt_accepts_every_proof(signer):
    url = stella.parse_url("https://G.example:443/api?secret=1#x")
    for _ in range(200):  # r or s starts with a zero byte in one of 128
        proof = signer.proof("POST", url, time.time())
        header = jwt.get_unverified_header(proof)
        claims = jwt.decode(proof, jwt.PyJWK(header["jwk"]), algorithms=["ES256"])
        assert claims["htu"] == "https://g.example/api"
        digest = urlsafe_b64encode(hashlib.sha256(b"tok").digest()).rstrip(b"=").decode()
        assert (claims["htm"], claims["ath"], header["typ"]) == ("POST", digest, "dpop+jwt")


def test_pyjwt_refuses_a_changed_proof(signer):
    proof = signer.proof("GET", stella.parse_url("https://g.example"), time.time())
    key = jwt.PyJWK(jwt.get_unverified_header(proof)["jwk"])
    other = signer.proof("GET", stella.parse_url("https://h.example"), time.time())
    with pytest.raises(jwt.InvalidSignatureError):
        jwt.decode(".".join([*proof.split(".")[:2], other.split(".")[2]]), key, algorithms=["ES256"])
