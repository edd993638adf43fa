"""The pure half of verification (room 7) as tables: DER, keys, signatures, documents, tar headers, members.

What the checks say together, with every verifier, is in test_attacks and test_verify.
"""

from __future__ import annotations

import base64
import copy
import hashlib
import io
import json

import pytest

import attacks
import stella
from attacks import END, pax, public_key, sign, tar_header, tar_member

FULL = b"\x30\x03\x02\x01\x05"
HEX = "0123456789abcdef" * 4
OTHER = "f" * 64


def outcome(function, *arguments):
    """The value, or the reason of the refusal."""
    try:
        return function(*arguments)
    except ValueError as error:
        return str(error)


# ---- DER -----------------------------------------------------------------------------------------

LONG = bytes(range(128))
SHORTEST = "length is not in its shortest form"
DER = {  # bytes, tag: (contents, rest), or what is wrong
    "nothing in it": (b"\x30\x00", 0x30, (b"", b"")),
    "with a rest": (b"\x02\x01\x05\x06", 2, (b"\x05", b"\x06")),
    "127 bytes": (b"\x04\x7f" + LONG[:127], 4, (LONG[:127], b"")),
    "128 bytes": (b"\x04\x81\x80" + LONG, 4, (LONG, b"")),
    "256 bytes": (b"\x04\x82\x01\x00" + LONG * 2 + b"x", 4, (LONG * 2, b"x")),
    "65536 bytes": (b"\x04\x83\x01\x00\x00" + LONG * 512, 4, (LONG * 512, b"")),
    "16 MiB": (b"\x04\x84\x01\x00\x00\x00" + bytes(1 << 24), 4, (bytes(1 << 24), b"")),
    "another tag": (b"\x31\x00", 0x30, "expected tag 0x30"),
    "empty": (b"", 0x30, "expected tag 0x30"),
    "a tag alone": (b"\x30", 0x30, "expected tag 0x30"),
    "one byte too few": (b"\x30\x02\x05", 0x30, "ends early"),
    "one byte too few of 128": (b"\x04\x81\x80" + LONG[:127], 4, "ends early"),
    "127 in two bytes": (b"\x04\x81\x7f" + LONG[:127], 4, SHORTEST),
    "a zero before the length": (b"\x04\x82\x00\x80" + LONG, 4, SHORTEST),
    "no end given": (b"\x30\x80\x00\x00", 0x30, SHORTEST),
    "five bytes of length": (b"\x04\x85\x01\x00\x00\x00\x00" + LONG, 4, SHORTEST),
    "a length and no contents": (b"\x04\x81\x80", 4, "ends early"),
    "the length cut off, all zeros": (b"\x04\x82", 4, SHORTEST),
    "the length cut off": (b"\x04\x82\x01", 4, SHORTEST),
}
INTEGERS = {
    "1": (b"\x02\x01\x01", (1, b"")), "127": (b"\x02\x01\x7f", (127, b"")), "128": (b"\x02\x02\x00\x80", (128, b"")),
    "255 and a rest": (b"\x02\x02\x00\xffx", (255, b"x")), "256": (b"\x02\x02\x01\x00", (256, b"")),
    "0": (b"\x02\x01\x00", None), "empty": (b"\x02\x00", None), "-1": (b"\x02\x01\xff", None),
    "-128": (b"\x02\x01\x80", None),
    "1, padded": (b"\x02\x02\x00\x01", None), "127, padded": (b"\x02\x02\x00\x7f", None),
    "00": (b"\x02\x02\x00\x00", None),
}  # fmt: skip


@pytest.mark.parametrize("case", DER)
def test_der_element(case):
    data, tag, expected = DER[case]
    assert outcome(stella.read_der, data, tag) == expected


@pytest.mark.parametrize("case", INTEGERS)
def test_der_integer(case):
    data, expected = INTEGERS[case]
    assert outcome(stella.read_der_integer, data) == (expected or "integer is zero, negative or padded")


SIGNATURES = {
    "good": (b"\x30\x06\x02\x01\x05\x02\x01\x07", (5, 7)),
    "a byte after it": (b"\x30\x06\x02\x01\x05\x02\x01\x07\x00", "has bytes after the signature"),
    "a byte in it": (b"\x30\x07\x02\x01\x05\x02\x01\x07\x00", "has bytes after the signature"),
    "one number": (b"\x30\x03\x02\x01\x05", "expected tag 0x02"),
    "a set": (b"\x31\x06\x02\x01\x05\x02\x01\x07", "expected tag 0x30"),
    "r zero": (b"\x30\x06\x02\x01\x00\x02\x01\x07", "integer is zero, negative or padded"),
    "s negative": (b"\x30\x06\x02\x01\x05\x02\x01\x87", "integer is zero, negative or padded"),
    "padded r": (b"\x30\x07\x02\x02\x00\x05\x02\x01\x07", "integer is zero, negative or padded"),
    "cut": (b"\x30\x06\x02\x01\x05\x02\x01", "ends early"),
}


@pytest.mark.parametrize("case", SIGNATURES)
def test_ecdsa_signature(case):
    data, expected = SIGNATURES[case]
    assert outcome(stella.parse_ecdsa_signature, data) == expected


BASE64 = {
    "good": (b"YWJj", b"abc"), "padded": (b"YQ==", b"a"), "empty": (b"", "x is empty"),
    "a line break": (b"YWJj\n", "x is not base64"),
    "a blank": (b"YW Jj", "x is not base64"), "no padding": (b"YQ", "x is not base64"),
    "too much padding": (b"YQ===", None),
    "loose bits": (b"YR==", "x is not canonical base64"), "of URLs": (b"-_-_", "x is not base64"),
    "no ASCII": (b"\xff\xff\xff\xff", "x is not base64"),
}  # fmt: skip


@pytest.mark.parametrize("case", BASE64)
def test_base64(case):
    text, expected = BASE64[case]
    got = outcome(stella.decode_base64, text, "x")
    assert got == expected if expected else isinstance(got, str)


# ---- keys ----------------------------------------------------------------------------------------

EC, P256 = "06072a8648ce3d0201", "06082a8648ce3d030107"
G = b"\x04" + b"".join(number.to_bytes(32, "big") for number in stella.P256_G)


def der(tag, *parts):
    body = b"".join(bytes.fromhex(part) if isinstance(part, str) else part for part in parts)
    count = (len(body).bit_length() + 7) // 8
    length = bytes([len(body)]) if len(body) < 128 else bytes([0x80 | count]) + len(body).to_bytes(count, "big")
    return bytes([tag]) + length + body


def number(value):
    return der(2, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def spki(*algorithm, bits, unused=b"\0", after=b"", inside=b""):
    return der(0x30, der(0x30, *algorithm), der(3, unused, bits), inside) + after


def ec(x=stella.P256_G[0], y=stella.P256_G[1], form=b"\x04", width=32, curve=P256, more=b""):
    return spki(EC, curve, more, bits=form + x.to_bytes(width, "big") + y.to_bytes(width, "big"))


def rsa(modulus=(1 << 2047) | 1, exponent=65537, parameters="0500", inside=b"", after=b""):
    return spki("06092a864886f70d010101", parameters, bits=der(0x30, number(modulus), number(exponent), inside) + after)


def ed25519(bits, *parameters):
    return spki("06032b6570", *parameters, bits=bits)


P, L = stella.ED25519_P, stella.ED25519_L
ROOT_OF_B = pow(stella.P256_B, (stella.P256_P + 1) // 4, stella.P256_P)
RSA_NUMBERS = "its modulus or exponent is not one of an RSA key"
NO_ED25519 = "it is no Ed25519 key in canonical form"
NONE_BELONG = "has bytes where none belong"
KEYS = {  # SubjectPublicKeyInfo: (kind, numbers), or why it cannot be used
    "P-256": (ec(), ("P-256", stella.P256_G)),
    "RSA of 2048 bits": (rsa(), ("RSA", ((1 << 2047) | 1, 65537))),
    "RSA of 8192 bits": (rsa((1 << 8191) | 1), ("RSA", ((1 << 8191) | 1, 65537))),
    "RSA with the exponent 3": (rsa(exponent=3), ("RSA", ((1 << 2047) | 1, 3))),
    "RSA with the largest exponent": (rsa(exponent=(1 << 31) - 1), ("RSA", ((1 << 2047) | 1, (1 << 31) - 1))),
    "Ed25519": (ed25519(bytes([2]) + bytes(31)), ("Ed25519", ())),
    "Ed25519 with the sign set": (ed25519(bytes([2]) + bytes(30) + b"\x80"), ("Ed25519", ())),
    "Ed25519 of p - 2": (ed25519((P - 2).to_bytes(32, "little")), ("Ed25519", ())),
    "bits after the key": (ec() + b"\0", NONE_BELONG),
    "bits inside": (spki(EC, P256, bits=G, inside=b"\5\0"), NONE_BELONG),
    "unused bits": (spki(EC, P256, bits=G, unused=b"\1"), NONE_BELONG),
    "no bits": (der(0x30, der(0x30, EC, P256), b"\x03\x00"), NONE_BELONG),
    "compressed point": (spki(EC, P256, bits=b"\x02" + G[1:33]), "its point is not in uncompressed form"),
    "another form": (ec(form=b"\x05"), "its point is not in uncompressed form"),
    "a byte too much": (ec(form=b"\x04\x00"), "its point is not in uncompressed form"),
    "hybrid form": (ec(form=b"\x06"), "its point is not in uncompressed form"),
    "beside the curve": (ec(y=stella.P256_G[1] + 1), "its point is not on the curve"),
    "x and y exchanged": (ec(stella.P256_G[1], stella.P256_G[0]), "its point is not on the curve"),
    "x above p": (ec(x=(1 << 256) - 1), "its point is not on the curve"),
    "y as p + y": (ec(x=5, y=stella.P256_P + 0), "its point is not on the curve"),
    "zero": (ec(0, 0), "its point is not on the curve"),
    "another curve": (ec(curve="06052b8104000a"), "its curve is none of P-256, P-384, P-521"),
    "more than a curve": (ec(more=b"\5\0"), "its curve is none of P-256, P-384, P-521"),
    "another algorithm": (spki("06032b6571", bits=bytes(57)), "its algorithm is none of ECDSA, RSA, Ed25519"),
    "RSA of 2047 bits": (rsa((1 << 2046) | 1), "it has 2047 bits, and 2048 to 8192 are taken"),
    "RSA of 8193 bits": (rsa((1 << 8192) | 1), "it has 8193 bits, and 2048 to 8192 are taken"),
    "RSA, even": (rsa(1 << 2047), RSA_NUMBERS),
    "RSA with the exponent 1": (rsa(exponent=1), RSA_NUMBERS),
    "RSA with an even exponent": (rsa(exponent=65536), RSA_NUMBERS),
    "RSA with a larger exponent": (rsa(exponent=(1 << 31) + 1), RSA_NUMBERS),
    "x of p, which is 0 once more": (ec(x=stella.P256_P, y=ROOT_OF_B), "its point is not on the curve"),
    "x of 0": (ec(x=0, y=ROOT_OF_B), ("P-256", (0, ROOT_OF_B))),
    "RSA without parameters": (rsa(parameters=""), NONE_BELONG),
    "RSA with other parameters": (rsa(parameters="050000"), NONE_BELONG),
    "RSA with a third number": (rsa(inside=number(3)), NONE_BELONG),
    "RSA with bytes after": (rsa(after=b"\0"), NONE_BELONG),
    "Ed25519 of 31 bytes": (ed25519(bytes([2]) + bytes(30)), NO_ED25519),
    "Ed25519 of 33 bytes": (ed25519(bytes([2]) + bytes(32)), NO_ED25519),
    "Ed25519 of 0": (ed25519(bytes(32)), NO_ED25519),
    "Ed25519 of 1": (ed25519(b"\1" + bytes(31)), NO_ED25519),
    "Ed25519 of p - 1": (ed25519((P - 1).to_bytes(32, "little")), NO_ED25519),
    "Ed25519 of p + 2": (ed25519((P + 2).to_bytes(32, "little")), NO_ED25519),
    "Ed25519 with parameters": (ed25519(bytes([2]) + bytes(31), "0500"), NO_ED25519),
    "no DER": (b"hello", "expected tag 0x30"),
}


@pytest.mark.parametrize("case", KEYS)
def test_public_key(case):
    data, expected = KEYS[case]
    got = outcome(stella.parse_public_key, attacks.pem(data))
    if isinstance(expected, str):
        assert got == "is not a public key that can be used: " + expected
    else:
        assert (got.kind, got.numbers, got.der) == (*expected, data)
        assert got.pem == attacks.pem(data)
        assert stella.parse_public_key(got.pem).der == data


@pytest.mark.parametrize("kind", ["P-256", "P-384", "P-521", "RSA", "Ed25519"])
def test_keys_that_openssl_makes(kind):
    key = stella.parse_public_key(public_key(kind))
    assert key.kind == kind
    assert base64.b64decode(b"".join(public_key(kind).splitlines()[1:-1])) == key.der


GOOD = attacks.pem(ec())
PEMS = {
    "text around it": (b"Name: acme\n\n" + GOOD + b"\nbye\n", None),
    "returns": (GOOD.replace(b"\n", b"\r\n"), None),
    "nothing": (b"", "holds 0 public keys in PEM form, not one"),
    "two": (GOOD + GOOD, "holds 2 public keys in PEM form, not one"),
    "another block before it": (attacks.pem(b"x", "EC PARAMETERS") + GOOD, "holds 1 public keys in PEM form, not one"),
    "private": (attacks.pem(b"x", "EC PRIVATE KEY"), "is a private key; verify takes the public one"),
    "private, too": (GOOD + attacks.pem(b"x", "PRIVATE KEY"), "is a private key; verify takes the public one"),
    "certificate": (attacks.pem(b"x", "CERTIFICATE"),
                    "is a certificate; `openssl x509 -in FILE -noout -pubkey` gives its public key"),
    "no end": (GOOD.replace(b"END", b"BEND"), "is not a public key that can be used: its text is empty"),
    "nothing between": (b"-----BEGIN PUBLIC KEY----------END PUBLIC KEY-----",
        "is not a public key that can be used: its text is empty"),
    "no base64": (GOOD.replace(b"M", b"?", 1), "is not a public key that can be used: its text is empty"),
    "an archive around it": (b"export.pub\0\0" + GOOD + b"\0", "is no text with the PEM block of a public key"),
    "half a base64": (GOOD.replace(b"==", b"=", 1), "is not a public key that can be used: its text is not base64"),
}  # fmt: skip


@pytest.mark.parametrize("case", PEMS)
def test_pem(case):
    data, message = PEMS[case]
    got = outcome(stella.parse_public_key, data)
    assert got == message if message else got.kind == "P-256"


# ---- signatures ----------------------------------------------------------------------------------

BLOB = b"what was signed"
SHA = hashlib.sha256(BLOB).hexdigest()
RAW = b"\x30\x06\x02\x01\x05\x02\x01\x07"
P256_KEY = stella.PublicKey(b"", b"", "P-256", stella.P256_G)
P384_KEY = stella.PublicKey(b"", b"", "P-384", (1, 2))
RSA_KEY = stella.PublicKey(b"", b"", "RSA", ((1 << 2048) - 1, 3))
ODD_RSA_KEY = stella.PublicKey(b"", b"", "RSA", (1 << 2048, 3))
ED_KEY = stella.PublicKey(b"", b"", "Ed25519", ())
N = stella.P256_N


def b64(data):
    return base64.b64encode(data)


TEXTS = {  # key, contents of the signature file: raw signature, or why it is none
    "base64": (P256_KEY, b64(RAW), RAW),
    "a line break after it": (P256_KEY, b64(RAW) + b"\n", RAW),
    "folded": (P256_KEY, b64(RAW)[:4] + b"\r\n" + b64(RAW)[4:], RAW),
    "blanks around it": (P256_KEY, b" \t" + b64(RAW) + b"\t ", RAW),
    "a blank inside": (P256_KEY, b64(RAW)[:4] + b" " + b64(RAW)[4:], "the signature is not base64"),
    "empty": (P256_KEY, b"", "the signature is empty"),
    "white space": (P256_KEY, b" \r\n", "the signature is empty"),
    "raw": (P256_KEY, RAW, "the signature is not base64"),
    "s of n - 1": (P256_KEY, b64(attacks.der_signature(N - 1, N - 1)), attacks.der_signature(N - 1, N - 1)),
    "r of n": (P256_KEY, b64(attacks.der_signature(N, 1)), "the signature's numbers are out of range"),
    "s of n": (P256_KEY, b64(attacks.der_signature(1, N)), "the signature's numbers are out of range"),
    "r of n on another curve": (P384_KEY, b64(attacks.der_signature(N, 1)), attacks.der_signature(N, 1)),
    "bytes after the DER": (P384_KEY, b64(RAW + b"\0"),
        "the signature is not strict DER: has bytes after the signature"),
    "RSA": (RSA_KEY, b64(bytes(256)), bytes(256)),
    "RSA of 257 bytes": (ODD_RSA_KEY, b64(bytes(257)), bytes(257)),
    "RSA whose text begins and ends with X": (RSA_KEY, b64(b"\x5d" * 255 + b"\x57"), b"\x5d" * 255 + b"\x57"),
    "RSA, short": (RSA_KEY, b64(bytes(255)), "the signature has 255 bytes, which none of this RSA key has"),
    "RSA, long": (RSA_KEY, b64(bytes(257)), "the signature has 257 bytes, which none of this RSA key has"),
    "Ed25519": (ED_KEY, b64(bytes(64)), bytes(64)),
    "Ed25519 with the largest s": (ED_KEY, b64(bytes(32) + (L - 1).to_bytes(32, "little")),
        bytes(32) + (L - 1).to_bytes(32, "little")),
    "Ed25519 with s of l": (ED_KEY, b64(bytes(32) + L.to_bytes(32, "little")),
        "the signature is not 64 bytes with a number in range"),
    "Ed25519, short": (ED_KEY, b64(bytes(63)), "the signature is not 64 bytes with a number in range"),
    "Ed25519, long": (ED_KEY, b64(bytes(65)), "the signature is not 64 bytes with a number in range"),
    "Sigstore": (P256_KEY, b"\n " + attacks.sigstore(BLOB, RAW), RAW),
    "Sigstore of another file": (P256_KEY, attacks.sigstore(b"other", RAW),
        "the Sigstore bundle is about another file"),
}  # fmt: skip


@pytest.mark.parametrize("case", TEXTS)
def test_signature_file(case):
    key, data, expected = TEXTS[case]
    assert outcome(stella.parse_signature, data, key, SHA) == expected


CERTIFICATE = "the Sigstore bundle carries a certificate or something unknown"
NO_DIGEST = "the Sigstore bundle has no message digest and signature"
NO_KEY = "the Sigstore bundle is not about a public key"
BUNDLES = {  # edits of a good bundle, by dotted path; None takes away: the text, or why it is refused
    "good": ({}, b64(RAW)),
    "v0.1": ({"mediaType": "application/vnd.dev.sigstore.bundle+json;version=0.1"}, b64(RAW)),
    "v0.2": ({"mediaType": "application/vnd.dev.sigstore.bundle+json;version=0.2"}, b64(RAW)),
    "v0.3, old spelling": ({"mediaType": "application/vnd.dev.sigstore.bundle+json;version=0.3"}, b64(RAW)),
    "log entries and times": ({"verificationMaterial__tlogEntries": [1],
        "verificationMaterial__timestampVerificationData": {}}, b64(RAW)),
    "v0.4": ({"mediaType": "application/vnd.dev.sigstore.bundle.v0.4+json"},
             'the Sigstore bundle is of the unknown type "application/vnd.dev.sigstore.bundle.v0.4+json"'),
    "no type": ({"mediaType": None}, 'the Sigstore bundle is of the unknown type "None"'),
    "attestation": ({"dsseEnvelope": {}}, "the Sigstore bundle carries an attestation, not a signature of the file"),
    "no material": ({"verificationMaterial": None}, NO_KEY),
    "material of another kind": ({"verificationMaterial": []}, NO_KEY),
    "no key": ({"verificationMaterial__publicKey": None}, NO_KEY),
    "key as text": ({"verificationMaterial__publicKey": "x"}, NO_KEY),
    "certificate": ({"verificationMaterial__certificate": {}}, CERTIFICATE),
    "something more": ({"more": 1}, CERTIFICATE),
    "no message": ({"messageSignature": None}, CERTIFICATE),
    "message of another kind": ({"messageSignature": []}, NO_DIGEST),
    "no digest": ({"messageSignature__messageDigest": None}, NO_DIGEST),
    "digest as text": ({"messageSignature__messageDigest": "x"}, NO_DIGEST),
    "no signature": ({"messageSignature__signature": None}, NO_DIGEST),
    "more in the message": ({"messageSignature__more": 1}, NO_DIGEST),
    "another in its place": ({"messageSignature__signature": None, "messageSignature__more": 1}, NO_DIGEST),
    "another algorithm": ({"messageSignature__messageDigest__algorithm": "SHA2_512"},
        'the Sigstore bundle\'s digest is "SHA2_512", not SHA2_256'),
    "no algorithm": ({"messageSignature__messageDigest__algorithm": None},
        'the Sigstore bundle\'s digest is "None", not SHA2_256'),
    "no value": ({"messageSignature__messageDigest__digest": None}, "the Sigstore bundle's digest is empty"),
    "value of no base64": ({"messageSignature__messageDigest__digest": "?"},
        "the Sigstore bundle's digest is not base64"),
    "another value": ({"messageSignature__messageDigest__digest": "AAAA"}, "the Sigstore bundle is about another file"),
    "signature that is no text": ({"messageSignature__signature": 7}, b""),
    "signature in no ASCII": ({"messageSignature__signature": "\u00e9"}, b"?"),
}  # fmt: skip


@pytest.mark.parametrize("case", BUNDLES)
def test_sigstore_bundle(case):
    edits, expected = BUNDLES[case]
    assert outcome(stella.parse_sigstore_bundle, attacks.sigstore(BLOB, RAW, **edits), SHA) == expected


COSIGN_FORM = "the cosign bundle carries a certificate or something unknown"
OLD = {
    "signature alone": ({"base64Signature": "QQ=="}, b"QQ=="), "with a log entry": ({"base64Signature": "QQ==",
    "rekorBundle": {}}, b"QQ=="),
    "with no certificate": ({"base64Signature": "QQ==", "cert": ""}, b"QQ=="),
    "with a certificate": ({"base64Signature": "QQ==", "cert": "x"}, COSIGN_FORM),
    "with more": ({"base64Signature": "QQ==", "more": 1}, COSIGN_FORM), "no text": ({"base64Signature": None}, b""),
}  # fmt: skip


@pytest.mark.parametrize("case", OLD)
def test_cosign_2_s_own_bundle(case):
    document, expected = OLD[case]
    assert outcome(stella.parse_sigstore_bundle, json.dumps(document).encode(), SHA) == expected


def test_bundle_that_is_no_json_says_where():
    assert outcome(stella.parse_sigstore_bundle, b"{,", SHA).startswith("the Sigstore bundle: ")


def test_bundle_that_we_make_is_one_that_we_read():
    made = stella.make_sigstore_bundle(RAW, SHA)
    assert stella.parse_sigstore_bundle(made, SHA) == b64(RAW)
    assert json.loads(made) == json.loads(attacks.sigstore(BLOB, RAW, verificationMaterial__publicKey={"hint": ""}))


# ---- documents -----------------------------------------------------------------------------------

MANIFEST = {
    "schemaVersion": 1, "runId": "r", "tenant": "acme", "createdAt": "2025-10-29T00:00:00Z", "distribution": [],
    "bundle": {"name": "b.tar", "size": 7, "sha256": HEX},
    "artifacts": [{"path": "a", "size": 0, "sha256": HEX}, {"path": "b/c", "size": 5,
    "sha256": "sha256:" + OTHER.upper()}],
}  # fmt: skip
PROVENANCE = {
    "_type": "https://in-toto.io/Statement/v1", "predicateType": "https://slsa.dev/provenance/v1",
    "predicate": {"runId": "r"},
    "subject": [{"name": "export.json", "digest": {"sha256": OTHER}}, {"name": "b.tar",
    "digest": {"sha256": "sha256:" + HEX}}],
}  # fmt: skip


def bent(document, path=None, value=None):
    """A copy with the value at a dotted path replaced; ... takes it away, `+` adds to a list."""
    return attacks.changed(copy.deepcopy(document), path, value) if path else document


SUBJECT = {"name": "x", "digest": {"sha256": HEX}}
SUBJECTS = {  # edit of the provenance: what read_subjects gives
    "both": ((), [("export.json", OTHER), ("b.tar", HEX)]),
    "none": (("subject", []), []),
    "another algorithm": (("subject.0.digest", {"sha512": "x"}), [("export.json", ""), ("b.tar", HEX)]),
    "another beside it": (("subject.0.digest.sha512", "x"), [("export.json", OTHER), ("b.tar", HEX)]),
    "no list": (("subject", ...), "the provenance has no subjects"),
    "two lists": (("subjects", []), "the provenance has two lists of subjects"),
    "an object": (("subject", {}), "the provenance's subjects are not a list"),
    "a text as subject": (("subject.+", "x"), "the provenance has a subject without name or digest"),
    "no name": (("subject.0.name", ...), "the provenance has a subject without name or digest"),
    "a number as name": (("subject.0.name", 1), "the provenance has a subject without name or digest"),
    "no digest": (("subject.0.digest", ...), "the provenance has a subject without name or digest"),
    "a text as digest": (("subject.0.digest", HEX), "the provenance has a subject without name or digest"),
    "two spellings": (("subject.0.digest.SHA-256", HEX),
        'the provenance\'s subject "export.json" has two SHA-256 digests'),
}  # fmt: skip


@pytest.mark.parametrize("case", SUBJECTS)
def test_subjects(case):
    edit, expected = SUBJECTS[case]
    assert outcome(stella.read_subjects, bent(PROVENANCE, *edit)) == expected


def test_subjects_under_their_other_name():
    document = bent(PROVENANCE, "subject", ...)
    document["subjects"] = [SUBJECT]
    assert stella.read_subjects(document) == [("x", HEX)]


DIGEST_OF = {
    "there": ((), "b.tar", HEX), "another": ((), "nope", 'the provenance has 0 subjects "nope", not one'),
    "twice": (("subject.+", {"name": "b.tar",
    "digest": {"sha256": HEX}}), "b.tar", 'the provenance has 2 subjects "b.tar", not one'),
    "no SHA-256": (("subject.1.digest", {}), "b.tar", 'the provenance\'s subject "b.tar" has no SHA-256 digest'),
}  # fmt: skip


@pytest.mark.parametrize("case", DIGEST_OF)
def test_subject_digest(case):
    edit, name, expected = DIGEST_OF[case]
    assert outcome(stella.subject_digest, bent(PROVENANCE, *edit), name) == expected


LACKS = "the manifest's bundle lacks a valid name, size or sha256"
FACTS = {
    "good": ((), ("b.tar", 7, HEX)), "empty bundle": (("bundle.size", 0), ("b.tar", 0, HEX)),
    "no bundle": (("bundle", ...), "the manifest describes no bundle"),
    "a list": (("bundle", []), "the manifest describes no bundle"), "no name": (("bundle.name", ...), LACKS),
    "a number as name": (("bundle.name", 1), LACKS),
    "no size": (("bundle.size", ...), LACKS), "size -1": (("bundle.size", -1), LACKS),
    "true as size": (("bundle.size", True), LACKS),
    "size with a fraction": (("bundle.size", 7.0), LACKS), "no digest": (("bundle.sha256", ...), LACKS),
    "half a digest": (("bundle.sha256", HEX[:32]), LACKS),
}  # fmt: skip


@pytest.mark.parametrize("case", FACTS)
def test_bundle_facts(case):
    edit, expected = FACTS[case]
    assert outcome(stella.read_bundle_facts, bent(MANIFEST, *edit)) == expected


UNSOUND = "the manifest has an artifact without a valid path, size or sha256"
ARTIFACTS = {
    "good": ((), {"a": (0, HEX), "b/c": (5, OTHER)}), "none": (("artifacts", []), {}),
    "no list": (("artifacts", ...), "the manifest lists no artifacts"),
    "an object": (("artifacts", {}), "the manifest lists no artifacts"), "a text": (("artifacts.+", "a"), UNSOUND),
    "no path": (("artifacts.0.path", ...), UNSOUND), "no size": (("artifacts.0.size", ...), UNSOUND),
    "size -1": (("artifacts.0.size", -1), UNSOUND),
    "false as size": (("artifacts.0.size", False), UNSOUND), "no digest": (("artifacts.0.sha256", ...), UNSOUND),
    "twice": (("artifacts.1.path", "a"), 'the manifest lists "a" twice'),
}  # fmt: skip


@pytest.mark.parametrize("case", ARTIFACTS)
def test_artifacts_of_a_manifest(case):
    edit, expected = ARTIFACTS[case]
    assert outcome(stella.read_artifacts, bent(MANIFEST, *edit)) == expected


def test_documents_that_cannot_be_read_say_so():
    assert outcome(stella.subject_digest, None, "x") == "the provenance cannot be read"
    assert outcome(stella.read_bundle_facts, None) == "the manifest cannot be read"
    assert outcome(stella.read_artifacts, None) == "the manifest lists no artifacts"


FOREIGN = 'the provenance is also about "x", which the manifest does not list'
TYPE = 'the provenance\'s _type is "x", not https://in-toto.io/Statement/v1'
PREDICATE = "the provenance's predicateType is missing, not https://slsa.dev/provenance/v1"
VERSION_FAULT = "the manifest's schemaVersion is %s; stella " + stella.VERSION + " knows 1"
SCHEMA = {  # edit of the manifest, edit of the provenance: faults
    "both known": ((), (), []),
    "older types": ((), ("_type", "https://in-toto.io/Statement/v0.1"), []),
    "older predicate": ((), ("predicateType", "https://slsa.dev/provenance/v0.2"), []),
    "no distribution": (("distribution", ...), (), []),
    "an artifact as a subject": ((), ("subject.+", {"name": "a", "digest": {"sha256": HEX}}), []),
    "version 2": (("schemaVersion", 2), (), [VERSION_FAULT % '"2"']),
    "version true": (("schemaVersion", True), (), [VERSION_FAULT % '"True"']),
    "version 1.0": (("schemaVersion", 1.0), (), [VERSION_FAULT % '"1.0"']),
    "no version": (("schemaVersion", ...), (), [VERSION_FAULT % "missing"]),
    "no tenant": (("tenant", ...), (), ["the manifest names no tenant"]),
    "a number as tenant": (("tenant", 1), (), ["the manifest names no tenant"]),
    "distribution as object": (("distribution", {}), (), ["the manifest's distribution is not a list"]),
    "another type": ((), ("_type", "x"), [TYPE]),
    "no predicate type": ((), ("predicateType", ...), [PREDICATE]),
    "a subject that nobody lists": ((), ("subject.+", SUBJECT), [FOREIGN]),
    "an artifact with another digest": ((), ("subject.+", {"name": "a", "digest": {"sha256": OTHER}}),
                                        [FOREIGN.replace('"x"', '"a"')]),
    "artifacts that are no list": (("artifacts", {}), ("subject.+", SUBJECT), [FOREIGN]),
    "subjects that check 3 refuses": ((), ("subject", {}), []),
}  # fmt: skip


@pytest.mark.parametrize("case", SCHEMA)
def test_schema_faults(case):
    manifest, provenance, expected = SCHEMA[case]
    manifest, provenance = bent(MANIFEST, *manifest), bent(PROVENANCE, *provenance)
    assert list(stella.find_schema_faults(manifest, provenance)) == expected
    checks = stella.check_schema(manifest, provenance, ())
    assert [(check.name, check.status, check.detail) for check in checks] == [("schema", "fail",
        "; ".join(expected))] * bool(expected)


def test_schema_says_what_cannot_be_read_and_no_more_than_four_things():
    assert list(stella.find_schema_faults(None, None)) == []
    (check,) = stella.check_schema(None, None, ["a", "b", "c", "d", "e"])
    assert (check.status, check.detail) == ("fail", "a; b; c; d")
    assert list(stella.find_schema_faults(None, bent(PROVENANCE, "_type", "x"))) == [TYPE]
    assert list(stella.find_schema_faults(bent(MANIFEST, "tenant", ...), None)) == ["the manifest names no tenant"]


def said(check):
    return check.name, check.status, check.detail


RUN_IDS = {
    "both": ((), (), "r", ("pass", "both documents are about r")),
    "another was asked for": ((), (), "x", ("fail", 'the manifest is about run "r", not "x"')),
    "another in the provenance": ((), ("predicate.runId", "x"), "r", ("fail",
        'the provenance is about run "x", not "r"')),
    "none in the manifest": (("runId", ...), (), "r", ("fail", "the manifest names no run")),
    "a number": (("runId", 1), (), "r", ("fail", "the manifest names no run")),
    "none in the provenance": ((), ("predicate.runId", ...), "r", ("fail", "the provenance names no run")),
    "no predicate": ((), ("predicate", ...), "r", ("fail", "the provenance names no run")),
    "a list as predicate": ((), ("predicate", []), "r", ("fail", "the provenance names no run")),
}  # fmt: skip


@pytest.mark.parametrize("case", RUN_IDS)
def test_check_run_id(case):
    manifest, provenance, run_id, expected = RUN_IDS[case]
    check = stella.check_run_id(run_id, bent(MANIFEST, *manifest), bent(PROVENANCE, *provenance))
    assert said(check) == ("run-id", *expected)


def test_check_run_id_of_documents_that_cannot_be_read():
    assert said(stella.check_run_id("r", None, PROVENANCE)) == ("run-id", "fail", "the manifest names no run")
    assert said(stella.check_run_id("r", MANIFEST, None)) == ("run-id", "fail", "the provenance names no run")


CHECKS = {  # what is asked: (name, status, detail)
    "manifest digest": (lambda: stella.check_manifest_digest(PROVENANCE, OTHER), ("manifest-digest", "pass",
        "sha256:" + OTHER)),
    "another manifest": (lambda: stella.check_manifest_digest(PROVENANCE, HEX), (
        "manifest-digest", "fail", f"the provenance is about a manifest sha256:{OTHER}, this one is sha256:{HEX}")),
    "manifest without provenance": (lambda: stella.check_manifest_digest(None, HEX), (
        "manifest-digest", "fail", "the provenance cannot be read")),
    "bundle digest": (lambda: stella.check_bundle_digest(MANIFEST, PROVENANCE), ("bundle-digest", "pass",
        "sha256:" + HEX)),
    "another bundle": (lambda: stella.check_bundle_digest(bent(MANIFEST, "bundle.sha256", OTHER), PROVENANCE), (
        "bundle-digest", "fail", f"the manifest says sha256:{OTHER}, the provenance sha256:{HEX}")),
    "bundle digest without a manifest": (lambda: stella.check_bundle_digest(None, PROVENANCE), (
        "bundle-digest", "fail", "the manifest cannot be read")),
    "bundle": (lambda: stella.check_bundle(MANIFEST, 7, HEX), ("bundle", "pass", f"7 bytes, sha256:{HEX}")),
    "bundle of another size": (lambda: stella.check_bundle(MANIFEST, 8, HEX), (
        "bundle", "fail", "the file has 8 bytes, the manifest says 7")),
    "bundle of another digest": (lambda: stella.check_bundle(MANIFEST, 7, OTHER), (
        "bundle", "fail", f"the file is sha256:{OTHER}, the manifest says sha256:{HEX}")),
    "bundle without a manifest": (lambda: stella.check_bundle(None, 7, HEX), ("bundle", "fail",
        "the manifest cannot be read")),
}  # fmt: skip


@pytest.mark.parametrize("case", CHECKS)
def test_check(case):
    make, expected = CHECKS[case]
    assert said(make()) == expected


NOW = 1761696000.0  # 2025-10-29T00:00:00Z
AGES = {  # createdAt, --max-age, now: status, detail
    "not asked": ("2025-10-29T00:00:00Z", None, NOW, "skipped", "no --max-age was given"),
    "just made": ("2025-10-29T00:00:00Z", 0.0, NOW, "pass", "signed 2025-10-29T00:00:00Z, 0.0 days ago"),
    "a day": ("2025-10-28T00:00:00Z", 1.0, NOW, "pass", "signed 2025-10-28T00:00:00Z, 1.0 days ago"),
    "a second more": ("2025-10-27T23:59:59Z", 1.0, NOW, "fail",
        "the manifest is 1.0 days old (2025-10-27T23:59:59Z), --max-age allows 1"),
    "half a day ahead": ("2025-10-29T12:00:00Z", 0.0, NOW, "pass", "signed 2025-10-29T12:00:00Z, 0.0 days ago"),
    "a day ahead": ("2025-10-30T00:00:00Z", 30.0, NOW, "pass", "signed 2025-10-30T00:00:00Z, 0.0 days ago"),
    "more than a day ahead": ("2025-10-30T00:00:01Z", 30.0, NOW, "fail",
                              "the manifest is from the future (2025-10-30T00:00:01Z); is this host's clock right?"),
    "no time": ("yesterday", 1.0, NOW, "fail", "the manifest has no valid createdAt"),
    "a number": (7, 1.0, NOW, "fail", "the manifest has no valid createdAt"),
    "none": (..., 1.0, NOW, "fail", "the manifest has no valid createdAt"),
}


@pytest.mark.parametrize("case", AGES)
def test_check_age(case):
    created, days, now, *expected = AGES[case]
    assert said(stella.check_age(bent(MANIFEST, "createdAt", created), days, now)) == ("age", *expected)


def test_check_age_of_a_manifest_that_cannot_be_read():
    assert said(stella.check_age(None, 1.0, NOW)) == ("age", "fail", "the manifest has no valid createdAt")


# ---- tar -----------------------------------------------------------------------------------------

NO_OCTAL = "a header has a number that is not octal"
OCTALS = {
    "digits and NUL": (b"0000644\0", 0o644), "digits to the end": (b"00000644", 0o644),
    "blanks": (b"   644 \0", 0o644), "7": (b"7", 7),
    "zero": (b"0\0\0\0", 0), "empty": (b"", NO_OCTAL), "NULs": (b"\0\0\0", NO_OCTAL), "8": (b"8", NO_OCTAL),
    "a letter": (b"12a\0", NO_OCTAL),
    "an X before": (b"X7", NO_OCTAL), "an X after": (b"7X", NO_OCTAL), "an X inside": (b"1X7", NO_OCTAL),
    "a NUL before": (b"\0007", NO_OCTAL), "a NUL inside": (b"1\0007", NO_OCTAL), "a sign": (b"-1", NO_OCTAL),
    "base 256": (b"\x80\0\0\1", NO_OCTAL),
}  # fmt: skip
TAR_TEXTS = {
    "plain": (b"a/b\0\0", "a/b"), "full": (b"abc", "abc"), "empty": (b"\0\0", ""),
    "wide": ("\u00e9\0".encode(), "\u00e9"),
    "an X after a NUL": (b"a\0X", "a name goes on after a NUL"),
    "after a NUL": (b"a\0b\0", "a name goes on after a NUL"), "no UTF-8": (b"\xff\0", "a name is not UTF-8"),
}  # fmt: skip
MALFORMED = "an extended header is malformed"
PAX = {
    "one": (b"10 path=a\n", {"path": "a"}), "two": (b"10 path=a\n10 size=7\n", {"path": "a", "size": "7"}),
    "none": (b"", {}),
    "an equals sign in it": (b"12 path=a=b\n", {"path": "a=b"}), "empty value": (b"8 path=\n", {"path": ""}),
    "wide": ("11 path=\u00e9\n".encode(), {"path": "\u00e9"}),
    "ignored keys": (b"11 mtime=1\n7 uid=\n", {"mtime": "1", "uid": ""}),
    "a line break in it": (b"12 path=a\nb\n", {"path": "a\nb"}),
    "length too long": (b"11 path=a\n", MALFORMED), "length too short": (b"8 path=a\n", MALFORMED),
    "length 3": (b"3 =\n", MALFORMED),
    "no length": (b" path=a\n", MALFORMED), "no blank": (b"10path=a\n", MALFORMED),
    "a sign": (b"+9 path=a\n", MALFORMED),
    "no equals sign": (b"8 patha\n", MALFORMED), "no line break": (b"10 path=ab", MALFORMED),
    "rubbish after it": (b"10 path=a\nx", MALFORMED),
    "length 4": (b"4 =\n", MALFORMED), "length of 19 digits": (b"0" * 17 + b"27 path=a\n", {"path": "a"}),
    "length of 20 digits": (b"0" * 18 + b"28 path=a\n", MALFORMED),
    "length of 21 digits": (b"0" * 19 + b"29 path=a\n", MALFORMED),
    "no UTF-8": (b"10 path=\xff\n", "an extended header is not UTF-8"),
    "no UTF-8 in the key": (b"7 \xff=a\n", None),
    "an unknown key": (b"14 linkpath=a\n", 'an extended header has the unknown or repeated key "linkpath"'),
    "a key twice": (b"10 path=a\n10 path=b\n", 'an extended header has the unknown or repeated key "path"'),
    "sparse": (b"20 GNU.sparse.x=1  \n", 'an extended header has the unknown or repeated key "GNU.sparse.x"'),
}  # fmt: skip


@pytest.mark.parametrize("case", OCTALS)
def test_octal(case):
    field, expected = OCTALS[case]
    assert outcome(stella.parse_octal, field) == expected


@pytest.mark.parametrize("case", TAR_TEXTS)
def test_tar_text(case):
    field, expected = TAR_TEXTS[case]
    assert outcome(stella.parse_tar_text, field) == expected


@pytest.mark.parametrize("case", PAX)
def test_pax(case):
    data, expected = PAX[case]
    got = outcome(stella.parse_pax, data)
    assert got == expected if expected is not None else isinstance(got, str)


PATHS = ("a", "a/b", "a b", "a..b", "...", "\u00e9", ".a", "a.", "ab:c", "a/b:c")
NO_PATHS = ("", "/a", "a/", "a//b", ".", "..", "a/./b", "a/../b", "../a", "a\\b", "c:", "c:a", "a\nb", "a\x1b",
    "a\u202eb")


def test_member_paths():
    assert [path for path in PATHS if outcome(stella.check_member_path, path)] == []
    for path in NO_PATHS:
        assert outcome(stella.check_member_path, path) == (
            f"the member name {stella.quoted(path)} is absolute, has `..` or empty parts, or unsafe characters")


GNU = b"ustar  \0"
HEADERS = {  # a block: (flag, name field, prefix, size), or what is wrong
    "ustar": (tar_header("a", 5), (b"0", b"a".ljust(100, b"\0"), "", 5)),
    "prefix": (tar_header("a", 5, prefix=b"b/c"), (b"0", b"a".ljust(100, b"\0"), "b/c", 5)),
    "prefix of 155": (tar_header("a", 5, prefix=b"b" * 155), (b"0", b"a".ljust(100, b"\0"), "b" * 155, 5)),
    "GNU": (tar_header("a", 5, b"L", magic=GNU), (b"L", b"a".ljust(100, b"\0"), "", 5)),
    "owner in base 256": (tar_header("a", 5, owner=b"\x80\0\0\0\0\0\0\1"), (b"0", b"a".ljust(100, b"\0"), "", 5)),
    "negative owner": (tar_header("a", 5, owner=b"\xff" * 8), (b"0", b"a".ljust(100, b"\0"), "", 5)),
    "no owner": (tar_header("a", 5, owner=bytes(8)), (b"0", b"a".ljust(100, b"\0"), "", 5)),
    "checksum": (tar_header("a", 5, checksum=1), "a header's checksum is wrong"),
    "checksum, too": (tar_header("a", 5, checksum=-1), "a header's checksum is wrong"),
    "old tar": (tar_header("a", 5, magic=bytes(8)), "a header is not in ustar form"),
    "ustar, another version": (tar_header("a", 5, magic=b"ustar\x0001"), "a header is not in ustar form"),
    "owner that is no number": (tar_header("a", 5, owner=b"root\0\0\0\0"), NO_OCTAL),
    "bytes at the end": (tar_header("a", 5, tail=b"x"), "a header has bytes where none belong"),
    "a byte at the very end": (tar_header("a", 5, tail=b"\0" * 11 + b"x"), "a header has bytes where none belong"),
    "GNU with a prefix": (tar_header("a", 5, magic=GNU, prefix=b"b"), "a header has bytes where none belong"),
    "prefix after a NUL": (tar_header("a", 5, prefix=b"b\0c"), "a name goes on after a NUL"),
    "size in base 256": (tar_header("a", 5, size_field=b"\x80" + bytes(10) + b"\5"), NO_OCTAL),
}  # fmt: skip


@pytest.mark.parametrize("case", HEADERS)
def test_tar_header(case):
    block, expected = HEADERS[case]
    assert outcome(stella.parse_tar_header, block) == expected


def test_errors_stay_with_their_check():
    error = stella.ConfigError("x")
    assert (stella.Check("a", "skipped", "b", error).error, stella.Check("a", "pass", "b").error) == (error, None)


def renumbered(block, start, text):
    """A header with other bytes in it, and the checksum that fits them."""
    block = bytearray(block)
    block[start : start + len(text)] = text
    block[148:156] = b"%06o\0 " % (sum(block[:148]) + sum(block[156:]) + 8 * 32)
    return bytes(block)


@pytest.mark.parametrize("start", [100, 108, 116, 136, 329, 337])
def test_every_number_of_a_header_is_one(start):
    good = tar_header("a", 5)
    for wrong in (b"9", b"X" * 8, b"\0X"):
        assert outcome(stella.parse_tar_header, renumbered(good, start, wrong)) == NO_OCTAL
    assert isinstance(stella.parse_tar_header(renumbered(good, start, b"7")), tuple)


def stream(data, budget=1 << 30, pieces=0):
    source = io.BytesIO(data)

    def fill(view):
        return source.readinto(view[:pieces] if pieces else view)

    return stella.TarStream(fill, budget)


def members(data):
    """[(path, contents)] of an archive, or what is wrong with it."""
    found, tar = [], stream(data)
    try:
        for path, size in stella.read_members(tar):
            found.append((path, tar.take(size)))
            tar.take(-size % 512)
    except stella.ArchiveError as error:
        return str(error)
    return found


A, B = tar_member("a", b"12345"), tar_member("b/c", bytes(512))
OUT_OF_PLACE = f"an extended header is out of place or over {stella.MAX_PAX_BYTES} bytes"
NO_END = "the archive ends without its end mark"
ARCHIVES = {
    "two": (A + B + END, [("a", b"12345"), ("b/c", bytes(512))]), "none": (END, []),
    "padded to 10 KiB": (A + bytes(10240), [("a", b"12345")]),
    "old flag": (tar_member("a", b"1", b"\0") + END, [("a", b"1")]),
    "prefix": (tar_member("a", b"1", prefix=b"p/q") + END, [("p/q/a", b"1")]),
    "renamed": (pax(path="long/name") + A + B + END, [("long/name", b"12345"), ("b/c", bytes(512))]),
    "resized": (pax(size="3") + A + END, [("a", b"123")]),
    "renamed, cut in a character": (pax(path="x") + tar_member(b"\xc3", b"1") + END, [("x", b"1")]),
    "renamed, prefix and all": (pax(path="x") + tar_member("a", b"1", prefix=b"p") + END, [("x", b"1")]),
    "global": (pax(b"g", comment="x") + A + END, [("a", b"12345")]),
    "global, then extended": (pax(b"g", comment="x") + pax(path="y") + A + END, [("y", b"12345")]),
    "extended without a name": (pax(mtime="1") + A + END, [("a", b"12345")]),
    "all that is ignored": (pax(mtime="1", atime="1", ctime="1", uid="1", gid="1", uname="x", gname="x", comment="x")
                            + A + END, [("a", b"12345")]),
    "size of 18 digits": (pax(size="0" * 17 + "3") + A + END, [("a", b"123")]),
    "extended header of just the bound": (pax(comment="x" * (stella.MAX_PAX_BYTES - 15)) + A + END, [("a", b"12345")]),
    "extended header of two blocks": (pax(path="x" * 600) + A + END, [("x" * 600, b"12345")]),
    "extended header of a block and two": (pax(path="x" * 504) + A + END, [("x" * 504, b"12345")]),
    "extended header of one block": (pax(path="x" * 502) + A + END, [("x" * 502, b"12345")]),
    "no end": (A, NO_END), "half an end": (A + bytes(512), NO_END), "cut in a header": (A + B[:100], NO_END),
    "empty": (b"", NO_END),
    "a member after the end": (A + END + B, "the archive goes on after its end mark"),
    "a member after half an end": (A + bytes(512) + B, "the archive goes on after its end mark"),
    "two extended headers": (pax(path="x") + pax(path="y") + A + END, OUT_OF_PLACE),
    "extended, then global": (pax(path="x") + pax(b"g", comment="x") + A + END, OUT_OF_PLACE),
    "extended header that is too long": (pax(comment="x" * stella.MAX_PAX_BYTES) + A + END, OUT_OF_PLACE),
    "extended header for nothing": (A + pax(path="x") + END, "an extended header is followed by no member"),
    "extended header that ends early": (pax(path="x" * 600)[:1024],
        "an extended header ends early or is followed by hidden bytes"),
    "hidden bytes": (pax(path="x")[:-1] + b"x" + A + END,
        "an extended header ends early or is followed by hidden bytes"),
    "size that is no number": (pax(size="x") + A + END, "an extended header has a size that is not a number"),
    "size in other digits": (pax(size="\u0661") + A + END, "an extended header has a size that is not a number"),
    "size of 19 digits": (pax(size="1" * 19) + A + END, "an extended header has a size that is not a number"),
    "size that is left empty": (pax(size="") + A + END, "an extended header has a size that is not a number"),
    "global renames": (pax(b"g", path="x") + A + END, "a global header renames or resizes members"),
    "global resizes": (pax(b"g", size="1") + A + END, "a global header renames or resizes members"),
    **{f"{what}, {flag!r}": (tar_member("a", b"", flag) + END, f'"a" is {what}') for flag, what in (
        (b"1", "a hard link"), (b"2", "a symbolic link"), (b"3", "a device"), (b"4", "a device"), (b"5", "a directory"),
        (b"6", "a FIFO"), (b"7", "a contiguous file"), (b"S", "a GNU sparse file"), (b"L", "a GNU long name"),
        (b"K", "a GNU long link name"), (b"M", "a continued volume"), (b"D", "a GNU directory dump"),
        (b"V", "a volume label"))},
    "something unknown": (tar_member("a", b"", b"Z") + END, '"a" is of an unknown type'),
    "a file with a target": (tar_member("a", b"", link=b"b") + END, '"a" is a file and names the target of a link'),
    "a file with a far target": (tar_member("a", b"", link=b"\0" * 99 + b"b") + END,
        '"a" is a file and names the target of a link'),
    "absolute below its new name": (pax(path="x") + tar_member("/a", b"") + END,
        'the header of a renamed member has the name "/a"'),
    "dots below its new name": (pax(path="x") + tar_member("a/../b", b"") + END,
        'the header of a renamed member has the name "a/../b"'),
    "absolute": (tar_member("/a", b"") + END,
        'the member name "/a" is absolute, has `..` or empty parts, or unsafe characters'),
}  # fmt: skip


@pytest.mark.parametrize("case", ARCHIVES)
def test_archive(case):
    data, expected = ARCHIVES[case]
    assert members(data) == expected


def test_padding_of_an_archive_is_bounded():
    most = stella.MAX_TAR_PADDING_BYTES
    assert members(bytes(512 + most)) == []
    assert members(bytes(1024 + most)) == f"the archive is padded with more than {most} bytes"


@pytest.mark.parametrize("pieces", [0, 1, 100, 511, 512, 513])
def test_tar_stream_gives_bytes_as_they_come(pieces):
    data = bytes(range(256)) * 20
    tar = stream(data, len(data), pieces)
    assert (tar.take(0), tar.take(1), tar.take(1000)) == (b"", data[:1], data[1:1001])
    assert 1 <= len(tar.some(700)) <= 700
    rest = b"".join(iter(lambda: tar.take(999), b""))
    assert data.endswith(rest)
    assert (tar.take(5), bytes(tar.some(5))) == (b"", b"")


def test_tar_stream_stops_at_its_budget():
    assert stream(bytes(100), 100).take(100) == bytes(100)
    assert outcome(stream(bytes(100), 99).take, 1) == "more comes out of the archive than the manifest says"


LISTED = {"a": (5, hashlib.sha256(b"12345").hexdigest()), "b/c": (512, hashlib.sha256(bytes(512)).hexdigest())}
MEMBERS = {  # archive: status, detail
    "good": (A + B + END, "pass", "2 members, each with the manifest's size and digest"),
    "in another order": (B + A + END, "pass", "2 members, each with the manifest's size and digest"),
    "one missing": (A + END, "fail", '1 missing from the archive: "b/c"'),
    "both missing": (END, "fail", '2 missing from the archive: "a", "b/c"'),
    "one more": (A + B + tar_member("d", b"") + END, "fail", '"d" is not in the manifest'),
    "one twice": (A + A + B + END, "fail", '"a" is there twice'),
    "of another size": (tar_member("a", b"1234") + B + END, "fail", '"a" has 4 bytes, the manifest says 5'),
    "of another digest": (tar_member("a", b"12344") + B + END, "fail", '"a" does not have the manifest\'s digest'),
    "with hidden bytes": (A[:-1] + b"x" + B + END, "fail", '"a" is followed by hidden bytes'),
    "cut in a member": (A + B[:600], "fail", 'the archive ends inside "b/c"'),
    "endless padding": (A + B + bytes(20 << 20), "fail",
        f"the archive is padded with more than {stella.MAX_TAR_PADDING_BYTES} bytes"),
}


@pytest.mark.parametrize("case", MEMBERS)
def test_members(case):
    data, status, detail = MEMBERS[case]
    check = stella.check_members(LISTED, io.BytesIO(data).readinto, hashlib.sha256)
    assert said(check) == ("artifacts", status, detail)
    assert list(LISTED) == ["a", "b/c"]


def test_members_of_a_long_list_that_are_missing_are_not_all_named():
    listed = {f"{name}": (0, HEX) for name in "edcba"}
    check = stella.check_members(listed, io.BytesIO(END).readinto, hashlib.sha256)
    assert check.detail == '5 missing from the archive: "a", "b", "c"'


def test_the_budget_of_an_archive_is_what_the_manifest_says_and_room_for_headers():
    """Empty members without end, each with its header: they cost 512 bytes of the archive and would never end."""
    once = {"a": (0, hashlib.sha256(b"").hexdigest())}
    budget = 3 * 512 + stella.MAX_PAX_BYTES + 2 * stella.MAX_TAR_PADDING_BYTES
    data = pax(b"g", comment="x" * 400) * (budget // 1024 + 300)
    check = stella.check_members(once, io.BytesIO(data).readinto, hashlib.sha256)
    assert said(check) == ("artifacts", "fail", "more comes out of the archive than the manifest says")


@pytest.mark.parametrize("sizes", [(0,), (1,), (512,), (513, 100)])
def test_the_budget_lets_through_what_the_manifest_says(sizes):
    """Members with the longest header each, padding, and twice the padding that is allowed: just so much, no more."""
    read = []

    class Counting(stella.TarStream):
        def __init__(self, fill, budget):
            read.append(budget)
            super().__init__(fill, budget)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stella, "TarStream", Counting)
        stella.check_members({str(size): (size, HEX) for size in sizes}, io.BytesIO(END).readinto, hashlib.sha256)
    blocks = sum(-(-size // 512) * 512 for size in sizes)
    assert read == [blocks + len(sizes) * (3 * 512 + stella.MAX_PAX_BYTES) + 2 * stella.MAX_TAR_PADDING_BYTES]


# ---- elliptic curve ------------------------------------------------------------------------------

def affine(point):
    x, y, z = point
    inverse = pow(z, -1, stella.P256_P)
    return x * inverse**2 % stella.P256_P, y * inverse**3 % stella.P256_P


INFINITY = (1, 1, 0)


def test_points():
    g = (*stella.P256_G, 1)
    minus = (g[0], -g[1] % stella.P256_P, 1)
    double = stella.double_point(g)
    assert stella.add_points(g, g) == double
    assert stella.add_points(g, INFINITY) == g
    assert stella.add_points(INFINITY, g) == g
    assert stella.add_points(g, minus)[2] == 0
    assert stella.double_point(INFINITY) == INFINITY
    assert stella.double_point((5, 0, 1)) == INFINITY
    four = stella.double_point(double)
    three = stella.add_points(double, g)
    assert affine(stella.add_points(three, g)) == affine(four)
    assert affine(stella.add_points(g, three)) == affine(four)
    scaled = (g[0] * 9 % stella.P256_P, g[1] * 27 % stella.P256_P, 3)  # the same point, other coordinates
    assert affine(stella.add_points(scaled, double)) == affine(three)
    assert affine(stella.add_points(double, scaled)) == affine(three)
    assert stella.add_points(scaled, minus)[2] == 0


@pytest.mark.parametrize("kind", ["P-256", "P-384", "P-521"])
def test_curves_are_those_of_openssl(kind):
    """Their numbers are right where a key that openssl made lies on them."""
    (name, width, p, b), *_ = (row for row in stella.CURVES.values() if row[0] == kind)
    x, y = stella.parse_public_key(public_key(kind)).numbers
    assert (y * y - x**3 + 3 * x - b) % p == 0
    assert (name, width) == (kind, (p.bit_length() + 7) // 8)


def test_a_sum_at_infinity_is_no_signature():
    """With the generator as the key, u1 + u2 = n: the sum has no x that r could be."""
    for r in (1, 5, N - 1):
        assert not stella.verify_p256(stella.P256_G, ((N - r) % N).to_bytes(32, "big"), r, 1)


def times(count, point):
    total = INFINITY
    for bit in f"{count:b}":
        total = stella.double_point(total)
        total = stella.add_points(total, point) if bit == "1" else total
    return total


def test_s_may_be_1_and_r_small():
    """A key is made for R, the point with the smallest x there is, so that r is that x, s is 1 and the digest 7."""
    p = stella.P256_P
    x = next(x for x in range(1, 99) if pow(x**3 - 3 * x + stella.P256_B, (p - 1) // 2, p) == 1)
    y = pow(x**3 - 3 * x + stella.P256_B, (p + 1) // 4, p)
    seven = times(7, (*stella.P256_G, 1))
    rest = stella.add_points((x, y, 1), (seven[0], -seven[1] % p, seven[2]))
    key = affine(times(pow(x, -1, N), rest))
    assert stella.verify_p256(key, (7).to_bytes(32, "big"), x, 1)
    assert not stella.verify_p256(key, (7).to_bytes(32, "big"), x, 2)


def test_builtin_verification():
    key, digest = stella.parse_public_key(public_key("P-256")), hashlib.sha256(BLOB).digest()
    r, s = stella.parse_ecdsa_signature(sign(BLOB))
    assert stella.verify_p256(key.numbers, digest, r, s)
    for wrong in ((0, s), (r, 0), (N, s), (r, N), (r + N, s), (r, s + N), (s, r), (r, s - 1)):
        assert not stella.verify_p256(key.numbers, digest, *wrong)
