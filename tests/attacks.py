"""What an attacker, a broken exporter or a bad disk could hand to `stella export verify`: builders, no files.

A Kit is a good export (manifest, provenance, both signatures, key, bundle) that is bent before it is signed (by
whoever holds the key) or after (by whoever holds the files). ATTACKS is the table: the name says the attack, the row
says the exit code, the checks that fail, words of the message, and which verifiers can run it.
"""

# ruff: noqa: E501, PLW0108 - a row of the table is a line, and every bend reads alike
from __future__ import annotations

import base64
import functools
import gzip
import hashlib
import json
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import stella

RUN_ID = "run-20251029-01"
CREATED = "2025-10-29T13:42:11Z"
MEMBERS = (("data/advisories.jsonl", b'{"id":"A-1"}\n' * 300), ("data/empty.jsonl", b""), ("data/vex.jsonl", b"{}\n" * 170))
N = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
MANIFEST_SIGNATURE, PROVENANCE_SIGNATURE = "manifest-signature", "provenance-signature"


# ------------------------------------------------------------------------------------------- programs


def openssl(*words: str | Path, data: bytes = b"") -> bytes:
    return subprocess.run(["openssl", *map(str, words)], input=data, capture_output=True, check=True).stdout


ALGORITHMS = {
    "P-256": ["EC", "-pkeyopt", "ec_paramgen_curve:P-256"], "P-384": ["EC", "-pkeyopt", "ec_paramgen_curve:P-384"],
    "P-521": ["EC", "-pkeyopt", "ec_paramgen_curve:P-521"], "other": ["EC", "-pkeyopt", "ec_paramgen_curve:P-256"],
    "secp256k1": ["EC", "-pkeyopt", "ec_paramgen_curve:secp256k1"], "RSA": ["RSA", "-pkeyopt", "rsa_keygen_bits:2048"],
    "RSA-1024": ["RSA", "-pkeyopt", "rsa_keygen_bits:1024"], "Ed25519": ["ED25519"], "Ed448": ["ED448"],
    "explicit": ["EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-pkeyopt", "ec_param_enc:explicit"],
}


@functools.cache
def private_key(kind: str) -> bytes:
    """PEM, made once for the whole session."""
    return openssl("genpkey", "-algorithm", *ALGORITHMS[kind])


@functools.cache
def public_key(kind: str, *options: str) -> bytes:
    return openssl("pkey", "-pubout", *options, data=private_key(kind))


@functools.cache
def sign(data: bytes, kind: str = "P-256", *options: str) -> bytes:
    """The raw signature: SHA-256 for ECDSA and RSA, the bytes themselves for Ed25519."""
    with tempfile.TemporaryDirectory() as folder:
        key, blob = Path(folder, "key"), Path(folder, "blob")
        key.write_bytes(private_key(kind))
        blob.write_bytes(data)
        if kind == "Ed25519":
            return openssl("pkeyutl", "-sign", "-inkey", key, "-rawin", "-in", blob)
        return openssl("dgst", *(options or ("-sha256",)), "-sign", key, blob)


@functools.cache
def zstd(data: bytes) -> bytes:
    return subprocess.run(["zstd", "-q", "-c"], input=data, capture_output=True, check=True).stdout


ANSWERS: dict[str, tuple[int, bytes, bytes]] = {}
DIGEST_OF_PROGRAM = functools.lru_cache(maxsize=None)(stella.file_facts)


def remember_answers(monkeypatch: Any) -> None:
    """The same program asked the same about the same bytes in the same surroundings is started once a session."""
    real = stella.run_program

    def run(
        command: list[str], home: str = stella.NO_HOME, feed: bytes = b"", unset: str = ""
    ) -> tuple[int, bytes, bytes]:
        program = Path(command[0])
        version = (program.stat().st_mtime_ns, program.stat().st_size) if program.is_file() else ()
        files = sorted((path.name, path.read_bytes()) for path in Path(home).glob("*"))
        words = [word.replace(home, "@") for word in command]
        question = repr((words, version, files, feed, unset, stella.inherited_environment()))
        if question not in ANSWERS:
            ANSWERS[question] = real(command, home, feed, unset)
        return ANSWERS[question]

    monkeypatch.setattr(stella, "run_program", run)
    monkeypatch.setattr(stella, "file_facts", DIGEST_OF_PROGRAM)


# ------------------------------------------------------------------------------------------- documents


def canonical(document: Any) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogatepass")


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def read_integers(der: bytes) -> tuple[int, int]:
    """(r, s) of a P-256 signature."""
    first = 4 + der[3]
    return int.from_bytes(der[4:first], "big"), int.from_bytes(der[first + 2 :], "big")


def der_integer(value: int, pad: int = 0) -> bytes:
    body = bytes(pad) + value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True)
    return bytes([2, len(body)]) + body


def der_signature(r: int, s: int, pad: int = 0, after: bytes = b"") -> bytes:
    body = der_integer(r, pad) + der_integer(s) + after
    return bytes([0x30, len(body)]) + body


def sigstore(blob: bytes, raw: bytes, **edits: Any) -> bytes:
    """A Sigstore bundle v0.3 as cosign writes one for a key; `edits` by dotted path, None removes."""
    document: Any = {
        "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
        "verificationMaterial": {"publicKey": {"hint": "aGludA=="}},
        "messageSignature": {
            "messageDigest": {"algorithm": "SHA2_256", "digest": base64.b64encode(hashlib.sha256(blob).digest()).decode()},
            "signature": base64.b64encode(raw).decode(),
        },
    }
    for path, value in edits.items():
        *way, last = path.split("__")
        place = functools.reduce(lambda part, key: part[key], way, document)
        place.update({last: value}) if value is not None else place.pop(last)
    return canonical(document)


# ------------------------------------------------------------------------------------------- archives


def tar_header(name: str | bytes, size: int, flag: bytes = b"0", *, link: bytes = b"", magic: bytes = b"ustar\x0000",
               prefix: bytes = b"", tail: bytes = b"", size_field: bytes = b"", checksum: int = 0,
               owner: bytes = b"0000000\0") -> bytes:
    """A 512-byte header; `checksum` is added to the right one."""
    name = name.encode() if isinstance(name, str) else name
    field = size_field or b"%011o\0" % size
    front = name.ljust(100, b"\0") + b"0000644\0" + owner * 2 + field.ljust(12, b"\0") + b"00000000000\0"
    back = flag + link.ljust(100, b"\0") + magic + bytes(32 + 32 + 16) + prefix.ljust(155, b"\0") + tail.ljust(12, b"\0")
    total = sum(front) + 8 * 32 + sum(back) + checksum
    block = front + b"%06o\0 " % total + back
    assert len(block) == 512
    return block


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 512)


def tar_member(name: str | bytes, data: bytes, flag: bytes = b"0", **fields: Any) -> bytes:
    return tar_header(name, len(data), flag, **fields) + padded(data)


def pax(flag: bytes = b"x", raw: bytes | None = None, **records: str) -> bytes:
    """An extended header; `raw` for what no honest writer makes."""
    data = b""
    for key, value in records.items():
        body = b" %s=%s\n" % (key.encode(), value.encode("utf-8", "surrogateescape"))
        length = len(body) + len(str(len(body) + len(str(len(body)))))
        data += str(length).encode() + body
    return tar_member("PaxHeaders/x", data if raw is None else raw, flag)


END = bytes(1024)


def tar(members: Sequence[tuple[str, bytes]] = MEMBERS, end: bytes = END) -> bytes:
    return b"".join(tar_member(name, data) for name, data in members) + end


# ------------------------------------------------------------------------------------------- the kit


class Kit:
    """A good export. Bend its attributes, then write() it."""

    def __init__(self) -> None:
        self.key_kind = "P-256"
        self.members: Sequence[tuple[str, bytes]] = MEMBERS
        self.bundle_name = "export.tar"
        self.compression = "none"
        self.bundle: bytes | None = None  # instead of the packed members; the manifest follows it
        self.edit_manifest: Callable[[Any], Any] = lambda document: document  # before it is signed
        self.edit_provenance: Callable[[Any], Any] = lambda document: document
        self.signature: Callable[[bytes, bytes], bytes | None] = lambda blob, raw: base64.b64encode(raw)  # manifest's
        self.key: bytes | None = None  # instead of the public key
        self.after: dict[str, Callable[[bytes], bytes | None]] = {}  # by file name, after signing; None removes it
        self.words: list[str] = []  # more of the command line

    def manifest(self, bundle: bytes) -> Any:
        artifacts = [{"path": path, "size": len(data), "sha256": sha256(data)} for path, data in self.members]
        return {
            "schemaVersion": 1, "runId": RUN_ID, "tenant": "acme", "createdAt": CREATED,
            "profile": {"profileId": "prof-json-raw", "kind": "json", "variant": "raw"}, "selectors": {},
            "counts": {"advisories": 300}, "artifacts": artifacts, "distribution": [{"type": "http"}],
            "bundle": {"name": self.bundle_name, "size": len(bundle), "sha256": sha256(bundle), "compression": self.compression},
        }

    def provenance(self, manifest: bytes, bundle: bytes) -> Any:
        subjects = (("export.json", manifest), (self.bundle_name, bundle))
        return {
            "_type": "https://in-toto.io/Statement/v1",
            "subject": [{"name": name, "digest": {"sha256": sha256(data)}} for name, data in subjects],
            "predicateType": "https://slsa.dev/provenance/v1", "predicate": {"runId": RUN_ID},
        }

    def files(self) -> dict[str, bytes]:
        """File name to contents; the key is acme.pub."""
        bundle = tar(self.members) if self.bundle is None else self.bundle
        manifest = self.edit_manifest(self.manifest(bundle))
        manifest = manifest if isinstance(manifest, bytes) else canonical(manifest)
        provenance = self.edit_provenance(self.provenance(manifest, bundle))
        provenance = provenance if isinstance(provenance, bytes) else canonical(provenance)
        named = {
            "export.json": manifest, "export.json.sig": self.signature(manifest, sign(manifest, self.key_kind)),
            "provenance.json": provenance, "provenance.json.sig": base64.b64encode(sign(provenance, self.key_kind)),
            "acme.pub": public_key(self.key_kind) if self.key is None else self.key, self.bundle_name: bundle,
        }
        for name, edit in self.after.items():
            named[name] = edit(named.get(name, b""))
        return {name: data for name, data in named.items() if data is not None}

    def write(self, folder: Path) -> list[str]:
        """Writes the kit; gives the words of the command line."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in self.files().items():
            (folder / name).write_bytes(data)
        words = ["verify", RUN_ID, "--manifest", folder / "export.json", "--provenance", folder / "provenance.json",
                 "--bundle", folder / self.bundle_name, "--key", folder / "acme.pub", *self.words]
        return [str(word).replace("@", str(folder)) for word in words]


class Attack:
    """A row: `bend` alters the kit; `exit`; the `checks` that fail, no others; `says`, words of the message."""

    def __init__(self, bend: Callable[[Kit], Any], code: int, checks: str, says: str, signs: bool = False) -> None:
        self.bend, self.exit, self.checks, self.says, self.signs = bend, code, checks.split(), says, signs


def setting(**values: Any) -> Callable[[Kit], None]:
    return lambda kit: kit.__dict__.update(values)


def changed(document: Any, path: str, value: Any) -> Any:
    """The document with the value at a dotted path replaced, or removed where it is Ellipsis."""
    *way, last = (int(part) if part.isdigit() else part for part in path.split("."))
    place = functools.reduce(lambda part, key: part[key], way, document)
    if value is ...:
        del place[last]
    elif last == "+":
        place.append(value)
    else:
        place[last] = value
    return document


def manifest(path: str, value: Any) -> Callable[[Kit], None]:
    return setting(edit_manifest=lambda document: changed(document, path, value))


def provenance(path: str, value: Any) -> Callable[[Kit], None]:
    return setting(edit_provenance=lambda document: changed(document, path, value))


def manifest_text(edit: Callable[[bytes], bytes]) -> Callable[[Kit], None]:
    return setting(edit_manifest=lambda document: edit(canonical(document)))


def provenance_text(edit: Callable[[bytes], bytes]) -> Callable[[Kit], None]:
    return setting(edit_provenance=lambda document: edit(canonical(document)))


def raw_signature(edit: Callable[[bytes], bytes]) -> Callable[[Kit], None]:
    return setting(signature=lambda blob, raw: base64.b64encode(edit(raw)))


def archive(data: bytes | Callable[[], bytes], compression: str = "none", **more: Any) -> Callable[[Kit], None]:
    name = {"none": "export.tar", "zstd": "export.tar.zst", "gzip": "export.tar.gz"}[compression]
    return lambda kit: setting(bundle=data() if callable(data) else data, compression=compression, bundle_name=name, **more)(kit)


def after(name: str, edit: Callable[[bytes], bytes | None]) -> Callable[[Kit], None]:
    return setting(after={name: edit})


def all_of(*bends: Callable[[Kit], Any]) -> Callable[[Kit], None]:
    return lambda kit: [bend(kit) for bend in bends] and None


def flip(data: bytes) -> bytes:
    """One bit in the middle."""
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def pem(der: bytes, label: str = "PUBLIC KEY") -> bytes:
    return f"-----BEGIN {label}-----\n".encode() + base64.encodebytes(der) + f"-----END {label}-----\n".encode()


def spki(edit: Callable[[bytes], bytes], kind: str = "P-256") -> bytes:
    return pem(edit(base64.b64decode(b"".join(public_key(kind).splitlines()[1:-1]))))


def s_and(edit: Callable[[int, int], bytes]) -> Callable[[Kit], None]:
    return raw_signature(lambda raw: edit(*read_integers(raw)))


def bundle_signature(**edits: Any) -> Callable[[Kit], None]:
    return setting(signature=lambda blob, raw: sigstore(blob, raw, **edits))


def with_key(kind: str, **more: Any) -> Callable[[Kit], None]:
    return setting(key_kind=kind, **more)


def key(make: Callable[[], bytes]) -> Callable[[Kit], None]:
    return lambda kit: setting(key=make())(kit)


FIRST, EMPTY, LAST = MEMBERS
BOTH = f"{MANIFEST_SIGNATURE} {PROVENANCE_SIGNATURE}"
BAD_MANIFEST = f"{MANIFEST_SIGNATURE} manifest-digest"
UNREAD = "schema run-id bundle-digest bundle artifacts"
GLOBAL = pax(b"g", comment="made by git archive")
DEEP = b'{"a":' * 100 + b"1" + b"}" * 100


def insert(text: bytes) -> Callable[[bytes], bytes]:
    return lambda data: b"{" + text + b"," + data[1:]


# Good kits that look odd: exit 0.
ODD = {
    "good": Attack(lambda kit: None, 0, "", "", signs=True),
    "zstd": Attack(archive(lambda: zstd(tar()), "zstd"), 0, "", ""),
    "gzip": Attack(archive(lambda: gzip.compress(tar(), mtime=0), "gzip"), 0, "", ""),
    "concatenated-frames": Attack(archive(lambda: zstd(tar()[:700]) + zstd(tar()[700:]), "zstd"), 0, "", ""),
    "concatenated-gzip-members": Attack(archive(lambda: gzip.compress(tar()[:700]) + gzip.compress(tar()[700:]), "gzip"), 0, "", ""),
    "skippable-frame-first": Attack(archive(lambda: b"\x50\x2a\x4d\x18\x04\0\0\0abcd" + zstd(tar()), "zstd"), 0, "", ""),
    "padded-to-10-kib": Attack(archive(tar(end=bytes(10240))), 0, "", ""),
    "global-comment": Attack(archive(GLOBAL + tar()), 0, "", ""),
    "pax-long-name": Attack(lambda kit: setting(members=[("d/" * 90 + "ä" * 60, b"1")], bundle=pax(path="d/" * 90 + "ä" * 60)
                            + tar_member("d/" * 49 + "d", b"1") + END)(kit), 0, "", ""),
    "pax-size": Attack(archive(pax(size=str(len(FIRST[1]))) + tar_header(FIRST[0], 0) + padded(FIRST[1]) + tar(MEMBERS[1:])), 0, "", ""),
    "ustar-prefix": Attack(archive(tar_member("advisories.jsonl", FIRST[1], prefix=b"data") + tar(MEMBERS[1:])), 0, "", ""),
    "old-flag-nul": Attack(archive(tar_member(FIRST[0], FIRST[1], b"\0") + tar(MEMBERS[1:])), 0, "", ""),
    "gnu-magic": Attack(archive(tar_member(FIRST[0], FIRST[1], magic=b"ustar  \0") + tar(MEMBERS[1:])), 0, "", ""),
    "owner-in-base-256": Attack(archive(tar_member(FIRST[0], FIRST[1], owner=b"\x80\0\0\0\x60\0\0\0") + tar(MEMBERS[1:])), 0, "", ""),
    "no-members": Attack(lambda kit: setting(members=[])(kit), 0, "", ""),
    "high-s": Attack(s_and(lambda r, s: der_signature(r, N - s)), 0, "", "", signs=True),
    "wrapped-base64": Attack(setting(signature=lambda blob, raw: base64.encodebytes(raw).replace(b"\n", b"\r\n")), 0, "", "", signs=True),
    "sigstore-bundle": Attack(bundle_signature(), 0, "", "", signs=True),
    "sigstore-bundle-v0.1": Attack(bundle_signature(mediaType="application/vnd.dev.sigstore.bundle+json;version=0.1"), 0, "", "", signs=True),
    "sigstore-bundle-with-log-entries": Attack(bundle_signature(verificationMaterial__tlogEntries=[{"logIndex": "1"}]), 0, "", "", signs=True),
    "cosign-2-bundle": Attack(setting(signature=lambda blob, raw: canonical({"base64Signature": base64.b64encode(raw).decode()})), 0, "", "", signs=True),
    "subjects": Attack(setting(edit_provenance=lambda d: {**{k: v for k, v in d.items() if k != "subject"}, "subjects": d["subject"]}), 0, "", ""),
    "upper-case-digest": Attack(setting(edit_manifest=lambda d: changed(d, "bundle.sha256", d["bundle"]["sha256"].upper())), 0, "", ""),
    "prefixed-digest": Attack(setting(edit_provenance=lambda d: changed(d, "subject.0.digest.sha256", "sha256:" + d["subject"][0]["digest"]["sha256"])), 0, "", ""),
    "two-algorithms": Attack(provenance("subject.0.digest.sha512", "00"), 0, "", ""),
    "subject-that-is-an-artifact": Attack(provenance("subject.+", {"name": LAST[0], "digest": {"sha256": sha256(LAST[1])}}), 0, "", ""),
    "unknown-extra-field": Attack(manifest("note", "of a later server"), 0, "", ""),
    "pretty-printed-manifest": Attack(setting(edit_manifest=lambda d: json.dumps(d, indent=2).encode()), 0, "", ""),
    "text-around-the-key": Attack(key(lambda: b"Public-Key: (256 bit)\n" + public_key("P-256") + b"# acme\n"), 0, "", ""),
}

# By whoever holds the files, but no key.
STOLEN = {
    "swapped-digest": Attack(after("export.json", lambda d: d.replace(sha256(LAST[1]).encode(), sha256(b"evil").encode())), 20, f"{BAD_MANIFEST} artifacts", "refuse", True),
    "one-bit-of-the-manifest": Attack(after("export.json", lambda d: d.replace(b'"acme"', b'"acmf"')), 20, BAD_MANIFEST, "", True),
    "one-bit-of-the-provenance": Attack(after("provenance.json", lambda d: d.replace(b"slsa.dev", b"slsb.dev")), 20, f"{PROVENANCE_SIGNATURE} schema", "predicateType", True),
    "space-after-the-manifest": Attack(after("export.json", lambda d: d + b" "), 20, BAD_MANIFEST, "", True),
    "other-run": Attack(setting(words=["--run"]), 20, "run-id", "is about run"),
    "unsigned": Attack(after("export.json.sig", lambda _: None), 20, MANIFEST_SIGNATURE, "there is no signature file", True),
    "empty-signature": Attack(after("export.json.sig", lambda _: b""), 20, MANIFEST_SIGNATURE, "the signature is empty", True),
    "blank-signature": Attack(after("export.json.sig", lambda _: b" \n\n"), 20, MANIFEST_SIGNATURE, "the signature is empty", True),
    "missing-named-signature": Attack(setting(words=["--manifest-signature", "@/none.sig"]), 30, "", "cannot read the manifest signature", True),
    "signature-of-other-file": Attack(setting(signature=lambda blob, raw: base64.b64encode(sign(b"another file"))), 20, MANIFEST_SIGNATURE, "", True),
    "signature-of-provenance": Attack(all_of(setting(words=["--manifest-signature", "@/provenance.json.sig"])), 20, MANIFEST_SIGNATURE, "", True),
    "signature-by-other-key": Attack(setting(signature=lambda blob, raw: base64.b64encode(sign(blob, "other"))), 20, MANIFEST_SIGNATURE, "", True),
    "other-tenants-key": Attack(key(lambda: public_key("other")), 20, BOTH, "", True),
    "the-signature-is-a-path": Attack(after("export.json.sig", lambda _: b"/etc/hostname"), 20, MANIFEST_SIGNATURE, "base64", True),
    "the-signature-is-an-option": Attack(after("export.json.sig", lambda _: b"--help"), 20, MANIFEST_SIGNATURE, "base64", True),
    "changed-bundle": Attack(after("export.tar", flip), 20, "bundle artifacts", ""),
    "truncated-bundle": Attack(after("export.tar", lambda d: d[:-512]), 20, "bundle artifacts", "ends without its end mark"),
    "bytes-after-the-bundle": Attack(after("export.tar", lambda d: d + b"evil"), 20, "bundle artifacts", "goes on after its end mark"),
    "empty-bundle": Attack(after("export.tar", lambda _: b""), 20, "bundle artifacts", ""),
    "missing-bundle": Attack(after("export.tar", lambda _: None), 30, "", "cannot read the bundle"),
    "missing-manifest": Attack(after("export.json", lambda _: None), 30, "", "cannot read the manifest"),
    "missing-key": Attack(after("acme.pub", lambda _: None), 30, "", "cannot read the key"),
    "html-page-as-manifest": Attack(after("export.json", lambda _: b"<html>502</html>"), 20, f"{BAD_MANIFEST} {UNREAD}", "expecting value"),
    "empty-manifest": Attack(after("export.json", lambda _: b""), 20, f"{BAD_MANIFEST} {UNREAD}", ""),
}

# Signatures and keys that two verifiers could judge differently, or one of them take for good.
SIGNATURES = {
    "trailing-der": Attack(raw_signature(lambda raw: raw + b"\0"), 20, MANIFEST_SIGNATURE, "bytes after the signature", True),
    "trailing-inside-der": Attack(s_and(lambda r, s: der_signature(r, s, after=b"\x05\0")), 20, MANIFEST_SIGNATURE, "strict DER", True),
    "padded-integer": Attack(s_and(lambda r, s: der_signature(r, s, pad=1)), 20, MANIFEST_SIGNATURE, "padded", True),
    "negative-integer": Attack(s_and(lambda r, s: der_signature(r - (1 << 256), s)), 20, MANIFEST_SIGNATURE, "negative", True),
    "long-form-length": Attack(raw_signature(lambda raw: b"\x30\x81" + raw[1:]), 20, MANIFEST_SIGNATURE, "shortest form", True),
    "indefinite-length": Attack(raw_signature(lambda raw: b"\x30\x80" + raw[2:] + b"\0\0"), 20, MANIFEST_SIGNATURE, "strict DER", True),
    "r-zero": Attack(s_and(lambda r, s: der_signature(0, s)), 20, MANIFEST_SIGNATURE, "zero", True),
    "s-zero": Attack(s_and(lambda r, s: der_signature(r, 0)), 20, MANIFEST_SIGNATURE, "zero", True),
    "r-plus-n": Attack(s_and(lambda r, s: der_signature(r + N, s)), 20, MANIFEST_SIGNATURE, "out of range", True),
    "s-plus-n": Attack(s_and(lambda r, s: der_signature(r, s + N)), 20, MANIFEST_SIGNATURE, "out of range", True),
    "s-equals-n": Attack(s_and(lambda r, s: der_signature(r, N)), 20, MANIFEST_SIGNATURE, "out of range", True),
    "r-and-s-one": Attack(s_and(lambda r, s: der_signature(1, 1)), 20, MANIFEST_SIGNATURE, "", True),
    "r-and-s-swapped": Attack(s_and(lambda r, s: der_signature(s, r)), 20, MANIFEST_SIGNATURE, "", True),
    "raw-r-and-s": Attack(s_and(lambda r, s: r.to_bytes(32, "big") + s.to_bytes(32, "big")), 20, MANIFEST_SIGNATURE, "strict DER", True),
    "truncated-signature": Attack(raw_signature(lambda raw: raw[:-1]), 20, MANIFEST_SIGNATURE, "strict DER", True),
    "set-instead-of-sequence": Attack(raw_signature(lambda raw: b"\x31" + raw[1:]), 20, MANIFEST_SIGNATURE, "expected tag", True),
    "binary-signature": Attack(setting(signature=lambda blob, raw: raw), 20, MANIFEST_SIGNATURE, "base64", True),
    "hex-signature": Attack(setting(signature=lambda blob, raw: raw.hex().encode() + b"!"), 20, MANIFEST_SIGNATURE, "base64", True),
    "signature-twice": Attack(setting(signature=lambda blob, raw: base64.b64encode(raw) * 2), 20, MANIFEST_SIGNATURE, "", True),
    "text-after-the-base64": Attack(setting(signature=lambda blob, raw: base64.b64encode(raw) + b"\ngood."), 20, MANIFEST_SIGNATURE, "base64", True),
    "space-inside-the-base64": Attack(setting(signature=lambda blob, raw: base64.b64encode(raw).replace(b"A", b" A", 1)[:40] + b" " + base64.b64encode(raw)[40:]), 20, MANIFEST_SIGNATURE, "base64", True),
    "sha512-signature": Attack(setting(signature=lambda blob, raw: base64.b64encode(sign(blob, "P-256", "-sha512"))), 20, MANIFEST_SIGNATURE, "", True),
    "sigstore-about-another-file": Attack(setting(signature=lambda blob, raw: sigstore(b"x", sign(b"x"))), 20, MANIFEST_SIGNATURE, "about another file", True),
    "sigstore-wrong-signature": Attack(setting(signature=lambda blob, raw: sigstore(blob, sign(b"x"))), 20, MANIFEST_SIGNATURE, "", True),
    "sigstore-without-digest": Attack(bundle_signature(messageSignature__messageDigest=None), 20, MANIFEST_SIGNATURE, "no message digest", True),
    "sigstore-without-signature": Attack(bundle_signature(messageSignature__signature=None), 20, MANIFEST_SIGNATURE, "no message digest and signature", True),
    "sigstore-empty-signature": Attack(bundle_signature(messageSignature__signature=""), 20, MANIFEST_SIGNATURE, "the signature is empty", True),
    "sigstore-signature-is-a-number": Attack(bundle_signature(messageSignature__signature=1), 20, MANIFEST_SIGNATURE, "the signature is empty", True),
    "sigstore-sha512-label": Attack(bundle_signature(messageSignature__messageDigest__algorithm="SHA2_512"), 20, MANIFEST_SIGNATURE, "not SHA2_256", True),
    "sigstore-with-certificate": Attack(bundle_signature(verificationMaterial__certificate={"rawBytes": "AA=="}), 20, MANIFEST_SIGNATURE, "certificate", True),
    "sigstore-without-key": Attack(bundle_signature(verificationMaterial__publicKey=None), 20, MANIFEST_SIGNATURE, "not about a public key", True),
    "sigstore-dsse-envelope": Attack(bundle_signature(dsseEnvelope={}), 20, MANIFEST_SIGNATURE, "attestation", True),
    "sigstore-unknown-version": Attack(bundle_signature(mediaType="application/vnd.dev.sigstore.bundle.v0.4+json"), 20, MANIFEST_SIGNATURE, "unknown type", True),
    "sigstore-unknown-field": Attack(bundle_signature(messageSignature2={}), 20, MANIFEST_SIGNATURE, "something unknown", True),
    "sigstore-broken-json": Attack(setting(signature=lambda blob, raw: b'{"mediaType":'), 20, MANIFEST_SIGNATURE, "Sigstore bundle", True),
    "sigstore-key-twice": Attack(setting(signature=lambda blob, raw: insert(b'"messageSignature":{}')(sigstore(blob, raw))), 20, MANIFEST_SIGNATURE, "duplicate key", True),
    "cosign-2-bundle-with-certificate": Attack(setting(signature=lambda blob, raw: canonical({"base64Signature": base64.b64encode(raw).decode(), "cert": "x"})), 20, MANIFEST_SIGNATURE, "certificate", True),
}

KEYS = {
    "wrong-curve-key": Attack(key(lambda: public_key("secp256k1")), 30, "", "its curve is none of", True),
    "explicit-curve-key": Attack(key(lambda: public_key("explicit")), 30, "", "is not a public key", True),
    "compressed-point-key": Attack(key(lambda: public_key("P-256", "-ec_conv_form", "compressed")), 30, "", "uncompressed", True),
    "point-off-the-curve": Attack(key(lambda: spki(lambda der: der[:-1] + bytes([der[-1] ^ 1]))), 30, "", "not on the curve", True),
    "point-off-p-384": Attack(key(lambda: spki(lambda der: der[:-1] + bytes([der[-1] ^ 1]), "P-384")), 30, "", "not on the curve", True),
    "point-at-infinity": Attack(key(lambda: spki(lambda der: b"\x30\x19" + der[2:23] + b"\x03\x02\0\0")), 30, "", "uncompressed", True),
    "bytes-after-the-key": Attack(key(lambda: spki(lambda der: der + b"\0")), 30, "", "where none belong", True),
    "private-key-as-key": Attack(key(lambda: private_key("P-256")), 30, "", "is a private key", True),
    "private-key-beside-the-key": Attack(key(lambda: public_key("P-256") + private_key("P-256")), 30, "", "is a private key", True),
    "two-keys-in-pem": Attack(key(lambda: public_key("other") + public_key("P-256")), 30, "", "holds 2 public keys", True),
    "archive-with-the-key-in-it": Attack(key(lambda: public_key("P-256") + b"\0" * 512), 30, "", "no text"),
    "certificate-as-key": Attack(key(lambda: pem(b"\x30\0", "CERTIFICATE")), 30, "", "is a certificate", True),
    "der-as-key": Attack(key(lambda: base64.b64decode(b"".join(public_key("P-256").splitlines()[1:-1]))), 30, "", "holds 0 public keys", True),
    "empty-key": Attack(key(lambda: b""), 30, "", "holds 0 public keys", True),
    "key-with-loose-bits": Attack(key(lambda: loose_bits(public_key("P-256"))), 30, "", "canonical base64", True),
    "short-rsa-key": Attack(key(lambda: public_key("RSA-1024")), 30, "", "1024 bits", True),
    "ed448-key": Attack(key(lambda: public_key("Ed448")), 30, "", "none of ECDSA, RSA, Ed25519", True),
}

# By whoever holds the key, or an exporter gone wrong: signed, and not true or not clear.
DOCUMENTS = {
    "old-schema": Attack(manifest("schemaVersion", 0), 20, "schema", 'schemaVersion is "0"; stella'),
    "future-schema": Attack(manifest("schemaVersion", 2), 20, "schema", 'schemaVersion is "2"; stella'),
    "schema-is-text": Attack(manifest("schemaVersion", "1"), 20, "schema", "schemaVersion"),
    "schema-is-true": Attack(manifest("schemaVersion", True), 20, "schema", "schemaVersion"),
    "schema-is-1.0": Attack(manifest("schemaVersion", 1.0), 20, "schema", "schemaVersion"),
    "schema-is-missing": Attack(manifest("schemaVersion", ...), 20, "schema", "schemaVersion is missing"),
    "no-tenant": Attack(manifest("tenant", ...), 20, "schema", "names no tenant"),
    "distribution-is-an-object": Attack(manifest("distribution", {"type": "oci"}), 20, "schema", "distribution is not a list"),
    "manifest-of-another-run": Attack(manifest("runId", "run-20251029-02"), 20, "run-id", 'the manifest is about run "run-20251029-02"'),
    "provenance-of-another-run": Attack(provenance("predicate.runId", "run-1"), 20, "run-id", "the provenance is about run"),
    "run-id-is-a-list": Attack(manifest("runId", [RUN_ID]), 20, "run-id", "the manifest names no run"),
    "run-id-with-a-zero-width-space": Attack(manifest("runId", RUN_ID + "\u200b"), 20, "run-id", "\\u200b"),
    "no-predicate": Attack(provenance("predicate", ...), 20, "run-id", "the provenance names no run"),
    "not-a-statement": Attack(provenance("_type", "https://example.com/x"), 20, "schema", "_type"),
    "no-statement-type": Attack(provenance("_type", ...), 20, "schema", "_type is missing"),
    "other-predicate": Attack(provenance("predicateType", "https://spdx.dev/Document"), 20, "schema", "predicateType"),
    "extra-subject": Attack(provenance("subject.+", {"name": "evil.tar", "digest": {"sha256": "0" * 64}}), 20, "schema", 'is also about "evil.tar"'),
    "subject-artifact-with-other-digest": Attack(provenance("subject.+", {"name": LAST[0], "digest": {"sha256": "0" * 64}}), 20, "schema", "is also about"),
    "manifest-twice-among-subjects": Attack(setting(edit_provenance=lambda d: changed(d, "subject.+", d["subject"][0])), 20, "manifest-digest", "2 subjects"),
    "bundle-twice-among-subjects": Attack(setting(edit_provenance=lambda d: changed(d, "subject.+", d["subject"][1])), 20, "bundle-digest", "2 subjects"),
    "no-subjects": Attack(provenance("subject", ...), 20, "manifest-digest bundle-digest", "has no subjects"),
    "empty-subjects": Attack(provenance("subject", []), 20, "manifest-digest bundle-digest", "0 subjects"),
    "subject-and-subjects": Attack(setting(edit_provenance=lambda d: {**d, "subjects": d["subject"]}), 20, "manifest-digest bundle-digest", "two lists of subjects"),
    "subject-is-an-object": Attack(setting(edit_provenance=lambda d: {**d, "subject": d["subject"][0]}), 20, "manifest-digest bundle-digest", "not a list"),
    "subject-without-name": Attack(provenance("subject.0.name", ...), 20, "manifest-digest bundle-digest", "without name or digest"),
    "subject-digest-is-text": Attack(provenance("subject.0.digest", "0" * 64), 20, "manifest-digest bundle-digest", "without name or digest"),
    "subject-name-look-alike": Attack(provenance("subject.0.name", "ехport.json"), 20, "schema manifest-digest", "0 subjects"),
    "subject-name-in-upper-case": Attack(provenance("subject.0.name", "EXPORT.JSON"), 20, "schema manifest-digest", "0 subjects"),
    "only-sha512": Attack(provenance("subject.0.digest", {"sha512": "0" * 128}), 20, "manifest-digest", "no SHA-256 digest"),
    "sha256-in-two-spellings": Attack(provenance("subject.0.digest.SHA256", "0" * 64), 20, "manifest-digest bundle-digest", "two SHA-256 digests"),
    "sha512-prefix": Attack(provenance("subject.0.digest.sha256", "sha512:" + "0" * 64), 20, "manifest-digest", "no SHA-256 digest"),
    "digest-cut-short": Attack(provenance("subject.1.digest.sha256", "0" * 63), 20, "bundle-digest", "no SHA-256 digest"),
    "digest-in-base64": Attack(provenance("subject.1.digest.sha256", "A" * 43 + "="), 20, "bundle-digest", "no SHA-256 digest"),
    "digest-is-null": Attack(provenance("subject.1.digest.sha256", None), 20, "bundle-digest", "no SHA-256 digest"),
    "provenance-of-another-manifest": Attack(provenance("subject.0.digest.sha256", "0" * 64), 20, "manifest-digest", "about a manifest"),
    "provenance-of-another-bundle": Attack(provenance("subject.1.digest.sha256", "0" * 64), 20, "bundle-digest", "the provenance sha256:0000"),
    "no-bundle": Attack(manifest("bundle", None), 20, "bundle-digest bundle", "describes no bundle"),
    "bundle-size-is-text": Attack(setting(edit_manifest=lambda d: changed(d, "bundle.size", str(d["bundle"]["size"]))), 20, "bundle-digest bundle", "valid name, size or sha256"),
    "bundle-size-is-negative": Attack(manifest("bundle.size", -1), 20, "bundle-digest bundle", "valid name, size or sha256"),
    "bundle-size-is-a-float": Attack(setting(edit_manifest=lambda d: changed(d, "bundle.size", float(d["bundle"]["size"]))), 20, "bundle-digest bundle", "valid name, size or sha256"),
    "bundle-size-is-huge": Attack(manifest("bundle.size", 10**300), 20, "bundle", "the file has"),
    "bundle-size-has-5000-digits": Attack(manifest_text(lambda d: d.replace(b'"size":', b'"size":' + b"9" * 5000)), 20, "schema run-id bundle-digest bundle artifacts", "too large"),
    "bundle-size-off-by-one": Attack(setting(edit_manifest=lambda d: changed(d, "bundle.size", d["bundle"]["size"] + 1)), 20, "bundle", "the file has"),
    "bundle-digest-of-another": Attack(manifest("bundle.sha256", "0" * 64), 20, "bundle-digest bundle", "the manifest says sha256:0000"),
    "bundle-compression-lies": Attack(manifest("bundle.compression", "gzip"), 20, "artifacts", "the manifest says"),
    "no-artifacts": Attack(manifest("artifacts", ...), 20, "artifacts", "lists no artifacts"),
    "artifacts-are-an-object": Attack(manifest("artifacts", {}), 20, "artifacts", "lists no artifacts"),
    "artifact-is-a-string": Attack(manifest("artifacts.0", FIRST[0]), 20, "artifacts", "valid path, size or sha256"),
    "artifact-twice-in-the-manifest": Attack(setting(edit_manifest=lambda d: changed(d, "artifacts.+", d["artifacts"][0])), 20, "artifacts", "twice"),
    "artifact-digest-missing": Attack(manifest("artifacts.0.sha256", ...), 20, "artifacts", "valid path, size or sha256"),
    "artifact-size-is-null": Attack(manifest("artifacts.0.size", None), 20, "artifacts", "valid path, size or sha256"),
    "duplicate-key": Attack(manifest_text(insert(b'"runId":"run-1"')), 20, UNREAD, "duplicate key"),
    "escaped-duplicate-key": Attack(manifest_text(insert(b'"run\\u0049d":"run-1"')), 20, UNREAD, "duplicate key"),
    "byte-order-mark": Attack(manifest_text(lambda d: b"\xef\xbb\xbf" + d), 20, UNREAD, "byte order mark"),
    "not-utf-8": Attack(manifest_text(lambda d: d.replace(b"acme", b"acm\xff")), 20, UNREAD, "not UTF-8"),
    "nan": Attack(manifest_text(insert(b'"x":NaN')), 20, UNREAD, "NaN is not JSON"),
    "deep-nesting": Attack(manifest_text(insert(b'"x":' + DEEP)), 20, UNREAD, "nested deeper"),
    "bottomless-nesting": Attack(manifest_text(insert(b'"x":' + b"[" * 200000)), 20, UNREAD, "nested deeper"),
    "list-as-manifest": Attack(manifest_text(lambda d: b"[" + d + b"]"), 20, UNREAD, "not a JSON object"),
    "two-documents": Attack(manifest_text(lambda d: d + b"\n" + d), 20, UNREAD, "extra data"),
    "broken-provenance": Attack(provenance_text(lambda d: d[:-1]), 20, "schema run-id manifest-digest bundle-digest", "the provenance"),
    "provenance-is-a-string": Attack(provenance_text(lambda d: b'"x"'), 20, "schema run-id manifest-digest bundle-digest", "not a JSON object"),
    "provenance-duplicate-subject-key": Attack(provenance_text(insert(b'"subject":[]')), 20, "schema run-id manifest-digest bundle-digest", "duplicate key"),
    "too-old": Attack(setting(words=["--max-age", "1"]), 20, "age", "days old"),
    "created-at-is-no-time": Attack(all_of(manifest("createdAt", "yesterday"), setting(words=["--max-age", "100000"])), 20, "age", "no valid createdAt"),
    "created-in-the-future": Attack(all_of(manifest("createdAt", "2999-01-01T00:00:00Z"), setting(words=["--max-age", "100000"])), 20, "age", "from the future"),
}

EVIL = b"evil"
EVIL_ENTRY = [("../evil", EVIL), *MEMBERS]


def listed(name: str, data: bytes = EVIL, member: bytes | None = None, **more: Any) -> Callable[[Kit], None]:
    """An archive with one more member that the manifest lists, too: the name itself is the attack."""
    return setting(members=[*MEMBERS, (name, data)], bundle=tar(end=b"") + (tar_member(name, data) if member is None else member) + END, **more)


def unlisted(*blocks: bytes) -> Callable[[Kit], None]:
    return archive(b"".join(blocks) + tar())


ARCHIVES = {
    "extra-member": Attack(unlisted(tar_member("data/evil", EVIL)), 20, "artifacts", '"data/evil" is not in the manifest'),
    "missing-member": Attack(archive(tar(MEMBERS[:2])), 20, "artifacts", "1 missing from the archive"),
    "no-member-at-all": Attack(archive(END), 20, "artifacts", "3 missing from the archive"),
    "duplicate-member": Attack(archive(tar([*MEMBERS, FIRST])), 20, "artifacts", "is there twice"),
    "duplicate-member-with-other-bytes": Attack(archive(tar([*MEMBERS, (FIRST[0], bytes(len(FIRST[1])))])), 20, "artifacts", "is there twice"),
    "swapped-contents": Attack(archive(tar([(FIRST[0], bytes(len(FIRST[1]))), *MEMBERS[1:]])), 20, "artifacts", "does not have the manifest's digest"),
    "member-too-long": Attack(archive(tar([(FIRST[0], FIRST[1] + b"x"), *MEMBERS[1:]])), 20, "artifacts", "bytes, the manifest says"),
    "member-too-short": Attack(archive(tar([(FIRST[0], FIRST[1][:-1]), *MEMBERS[1:]])), 20, "artifacts", "bytes, the manifest says"),
    "dotdot-name": Attack(listed("../evil"), 20, "artifacts", "`..`"),
    "dotdot-in-the-middle": Attack(listed("data/../../evil"), 20, "artifacts", "`..`"),
    "dotdot-through-the-prefix": Attack(listed("../evil", member=tar_member("evil", EVIL, prefix=b"..")), 20, "artifacts", "`..`"),
    "dotdot-through-pax": Attack(listed("../evil", member=pax(path="../evil") + tar_member("evil", EVIL)), 20, "artifacts", "`..`"),
    "dotdot-under-pax": Attack(listed("data/good", member=pax(path="data/good") + tar_member("../evil", EVIL)), 20, "artifacts", "header of a renamed member"),
    "absolute-under-pax": Attack(listed("data/good", member=pax(path="data/good") + tar_member("/etc/evil", EVIL)), 20, "artifacts", "header of a renamed member"),
    "absolute-name": Attack(listed("/etc/evil"), 20, "artifacts", "absolute"),
    "windows-drive-name": Attack(listed("C:/evil"), 20, "artifacts", "absolute"),
    "backslash-name": Attack(listed("..\\evil"), 20, "artifacts", "unsafe characters"),
    "dot-name": Attack(listed("./data/vex.jsonl"), 20, "artifacts", "empty parts"),
    "double-slash-name": Attack(listed("data//vex.jsonl"), 20, "artifacts", "empty parts"),
    "trailing-slash-name": Attack(listed("data/evil/"), 20, "artifacts", "empty parts"),
    "empty-name": Attack(listed(""), 20, "artifacts", "empty parts"),
    "control-character-name": Attack(listed("data/\x1b[2Jevil"), 20, "artifacts", "unsafe characters"),
    "newline-name": Attack(listed("data/a\nb"), 20, "artifacts", "unsafe characters"),
    "bidi-name": Attack(listed("data/\u202egnp.exe"), 20, "artifacts", "unsafe characters"),
    "zero-width-name": Attack(listed("data/a\u200b"), 20, "artifacts", "unsafe characters"),
    "nul-in-name": Attack(unlisted(tar_member(b"data/vex.jsonl\0.evil", EVIL)), 20, "artifacts", "goes on after a NUL"),
    "nul-in-pax-name": Attack(listed("data/a\0b", member=pax(path="data/a\0b") + tar_member("a", EVIL)), 20, "artifacts", "unsafe characters"),
    "name-not-utf-8": Attack(unlisted(tar_member(b"data/\xff", EVIL)), 20, "artifacts", "not UTF-8"),
    "pax-name-not-utf-8": Attack(unlisted(pax(path="data/\udcff"), tar_member("a", EVIL)), 20, "artifacts", "not UTF-8"),
    "case-look-alike": Attack(archive(tar([("DATA/advisories.jsonl", FIRST[1]), *MEMBERS[1:]])), 20, "artifacts", "is not in the manifest"),
    "cyrillic-look-alike": Attack(archive(tar([("dаta/advisories.jsonl", FIRST[1]), *MEMBERS[1:]])), 20, "artifacts", "is not in the manifest"),
    "decomposed-look-alike": Attack(setting(members=[("data/\u00e4", b"1")], bundle=tar([("data/a\u0308", b"1")])), 20, "artifacts", "is not in the manifest"),
    "link-member": Attack(listed("data/link", b"", tar_header("data/link", 0, b"2", link=b"/etc/passwd")), 20, "artifacts", "a symbolic link"),
    "hard-link-member": Attack(listed("data/link", b"", tar_header("data/link", 0, b"1", link=b"data/vex.jsonl")), 20, "artifacts", "a hard link"),
    "link-target-of-a-file": Attack(listed("data/a", b"", tar_header("data/a", 0, link=b"/etc/passwd")), 20, "artifacts", "names the target of a link"),
    "character-device": Attack(listed("data/dev", b"", tar_header("data/dev", 0, b"3")), 20, "artifacts", "a device"),
    "block-device": Attack(listed("data/dev", b"", tar_header("data/dev", 0, b"4")), 20, "artifacts", "a device"),
    "fifo-member": Attack(listed("data/fifo", b"", tar_header("data/fifo", 0, b"6")), 20, "artifacts", "a FIFO"),
    "directory-member": Attack(unlisted(tar_header("data/", 0, b"5")), 20, "artifacts", "a directory"),
    "contiguous-file": Attack(listed("data/a", EVIL, tar_member("data/a", EVIL, b"7")), 20, "artifacts", "a contiguous file"),
    "gnu-sparse-member": Attack(listed("data/a", EVIL, tar_member("data/a", EVIL, b"S", magic=b"ustar  \0")), 20, "artifacts", "a GNU sparse file"),
    "gnu-long-name": Attack(unlisted(tar_member("././@LongLink", b"../evil\0", b"L", magic=b"ustar  \0")), 20, "artifacts", "a GNU long name"),
    "gnu-long-link": Attack(unlisted(tar_member("././@LongLink", b"/etc\0", b"K", magic=b"ustar  \0")), 20, "artifacts", "a GNU long link name"),
    "gnu-volume-label": Attack(unlisted(tar_header("label", 0, b"V", magic=b"ustar  \0")), 20, "artifacts", "a volume label"),
    "unknown-type": Attack(unlisted(tar_header("data/a", 0, b"Z")), 20, "artifacts", "of an unknown type"),
    "gnu-header-with-prefix": Attack(archive(tar_member(FIRST[0], FIRST[1], magic=b"ustar  \0", prefix=b"evil") + tar(MEMBERS[1:])), 20, "artifacts", "where none belong"),
    "bytes-in-the-headers-tail": Attack(archive(tar_member(FIRST[0], FIRST[1], tail=b"tar\0") + tar(MEMBERS[1:])), 20, "artifacts", "where none belong"),
    "v7-header": Attack(archive(tar_member(FIRST[0], FIRST[1], magic=bytes(8)) + tar(MEMBERS[1:])), 20, "artifacts", "not in ustar form"),
    "wrong-checksum": Attack(archive(tar_member(FIRST[0], FIRST[1], checksum=1) + tar(MEMBERS[1:])), 20, "artifacts", "checksum is wrong"),
    "base-256-size": Attack(archive(tar_member(FIRST[0], FIRST[1], size_field=b"\x80" + len(FIRST[1]).to_bytes(11, "big")) + tar(MEMBERS[1:])), 20, "artifacts", "not octal"),
    "owner-is-no-number": Attack(archive(tar_member(FIRST[0], FIRST[1], owner=b"00G0000\0") + tar(MEMBERS[1:])), 20, "artifacts", "not octal"),
    "owner-begins-with-nul": Attack(archive(tar_member(FIRST[0], FIRST[1], owner=b"\x000000007") + tar(MEMBERS[1:])), 20, "artifacts", "not octal"),
    "negative-size": Attack(archive(tar_member(FIRST[0], FIRST[1], size_field=b"-0000001234\0") + tar(MEMBERS[1:])), 20, "artifacts", "not octal"),
    "pax-renames-to-unlisted": Attack(archive(pax(path="data/evil") + tar()), 20, "artifacts", '"data/evil" is not in the manifest'),
    "pax-resizes": Attack(archive(pax(size="1") + tar()), 20, "artifacts", "bytes, the manifest says"),
    "pax-size-is-text": Attack(archive(pax(size="-1") + tar()), 20, "artifacts", "a size that is not a number"),
    "pax-link-path": Attack(archive(pax(linkpath="/etc") + tar()), 20, "artifacts", 'unknown or repeated key "linkpath"'),
    "pax-sparse": Attack(archive(pax(**{"GNU.sparse.major": "1"}) + tar()), 20, "artifacts", "unknown or repeated key"),
    "pax-charset": Attack(archive(pax(hdrcharset="BINARY") + tar()), 20, "artifacts", "unknown or repeated key"),
    "pax-key-twice": Attack(archive(pax(raw=b"12 path=a/b\n12 path=c/d\n") + tar()), 20, "artifacts", "unknown or repeated key"),
    "pax-length-lies": Attack(archive(pax(raw=b"99 path=a/b\n") + tar()), 20, "artifacts", "malformed"),
    "pax-without-newline": Attack(archive(pax(raw=b"12 path=a/bX") + tar()), 20, "artifacts", "malformed"),
    "pax-twice": Attack(archive(pax(comment="1") + pax(comment="2") + tar()), 20, "artifacts", "out of place"),
    "pax-empty-for-ever": Attack(archive(pax() * 2000 + tar()), 20, "artifacts", "out of place"),
    "pax-huge": Attack(archive(tar_header("x", 1 << 30, b"x") + tar()), 20, "artifacts", "out of place or over"),
    "pax-hides-bytes": Attack(archive(tar_header("x", 12, b"x") + b"12 comment=\n".ljust(511, b"\0") + b"!" + tar()), 20, "artifacts", "hidden bytes"),
    "pax-for-nothing": Attack(archive(tar(end=b"") + pax(comment="1") + END), 20, "artifacts", "followed by no member"),
    "global-renames": Attack(archive(pax(b"g", path="data/evil") + tar()), 20, "artifacts", "global header renames"),
    "globals-for-ever": Attack(archive(lambda: zstd(GLOBAL * 6000 + tar()), "zstd"), 20, "artifacts", "more comes out"),
    "hidden-bytes-after-a-member": Attack(archive(tar_header(EMPTY[0], 0) + tar_header(LAST[0], len(LAST[1])) + LAST[1].ljust(-(-len(LAST[1]) // 512) * 512, b"!") + tar([FIRST])), 20, "artifacts", "followed by hidden bytes"),
    "bytes-after-the-end-mark": Attack(archive(tar() + b"evil".ljust(512, b"\0")), 20, "artifacts", "goes on after its end mark"),
    "member-after-the-end-mark": Attack(archive(tar() + tar_member("evil", EVIL) + END), 20, "artifacts", "goes on after its end mark"),
    "member-after-one-zero-block": Attack(archive(tar(end=bytes(512)) + tar_member("evil", EVIL) + END), 20, "artifacts", "goes on after its end mark"),
    "no-end-mark": Attack(archive(tar(end=b"")), 20, "artifacts", "without its end mark"),
    "half-an-end-mark": Attack(archive(tar(end=bytes(512))), 20, "artifacts", "without its end mark"),
    "ends-inside-a-member": Attack(archive(tar()[:1200]), 20, "artifacts", "ends inside"),
    "bomb": Attack(archive(lambda: zstd(tar_header(FIRST[0], 1 << 32) + bytes(1 << 22)), "zstd"), 20, "artifacts", "bytes, the manifest says"),
    "padding-bomb": Attack(archive(lambda: zstd(tar() + bytes(1 << 23)), "zstd"), 20, "artifacts", "padded with more than"),
    "gzip-padding-bomb": Attack(archive(lambda: gzip.compress(tar() + bytes(1 << 23)), "gzip"), 20, "artifacts", "padded with more than"),
    "truncated-frame": Attack(archive(lambda: zstd(tar())[:-7], "zstd"), 20, "artifacts", ""),
    "bytes-after-the-last-frame": Attack(archive(lambda: zstd(tar()) + b"evil", "zstd"), 20, "artifacts", "zstd stream is damaged, or goes on"),
    "member-in-a-second-frame": Attack(archive(lambda: zstd(tar()) + zstd(tar_member("evil", EVIL)), "zstd"), 20, "artifacts", "goes on after its end mark"),
    "damaged-frame": Attack(archive(lambda: flip(zstd(tar())), "zstd"), 20, "artifacts", ""),
    "truncated-gzip": Attack(archive(lambda: gzip.compress(tar())[:-4], "gzip"), 20, "artifacts", "gzip stream ends early"),
    "bytes-after-gzip": Attack(archive(lambda: gzip.compress(tar()) + b"evil", "gzip"), 20, "artifacts", "gzip stream is damaged, or goes on"),
    "damaged-gzip": Attack(archive(lambda: flip(gzip.compress(tar())), "gzip"), 20, "artifacts", ""),
    "zip-as-bundle": Attack(archive(b"PK\x03\x04" + bytes(2000)), 20, "artifacts", ""),
    "xz-as-bundle": Attack(archive(b"\xfd7zXZ\0" + bytes(2000)), 20, "artifacts", ""),
}


def loose_bits(text: bytes) -> bytes:
    """The same key in base64 whose unused bits are not zero: other bytes that a lax reader takes for the same."""
    body, _, rest = text.partition(b"==")
    letters = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    return body[:-1] + bytes([letters[letters.index(body[-1]) + 1]]) + b"==" + rest


ATTACKS = {**ODD, **STOLEN, **SIGNATURES, **KEYS, **DOCUMENTS, **ARCHIVES}
