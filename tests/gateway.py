#!/usr/bin/env python3
"""A local Export Center: the other end of the wire for tests, for `make demo` and for curious hands.

    python3 tests/gateway.py --port 0 --data DIR

It is an exporter, not a mock. A submitted run is queued, started, collects records, packs them,
signs them and finishes, in its own thread; cancelling stops it. The components are what is truly
installed on this machine; the advisories and VEX statements about them are made up, always the same
ones, because no vulnerability feed can be assumed here.

What it touches: loopback sockets it opens itself, files below its data folder, and the programs
openssl, zstd and dpkg-query. Python 3.9 or later, standard library only.

In a test:

    with Gateway(data=tmp_path) as gw:                 # serving; everything stops at the end
        gw.url, gw.object_url                          # two origins (the second: objects and /v2/)
        gw.token, gw.tokens["export:read"]             # all scopes; one scope each; also "multi", "globex"
        gw.tenant, gw.public_key, gw.private_key       # "acme" and its key files
        gw.other_public_key                            # the key of the tenant "globex"

        run = gw.make_run("prof-json-raw", {"products": ["registry.example.com/app:*"]})
        run = gw.make_bundle_run(b"any bytes", name="export.tar")        # finished, signed
        run = gw.make_bundle_run(members={"data/a": b"1"}, edit_manifest=lambda m: {**m, "runId": "x"})
        gw.change_bundle(run["runId"], b"other bytes", consistent=False) # behind the client's back
        gw.patch_run(run["runId"], links={...})        # says something else from now on
        gw.expire(run["runId"]); gw.fail_at("sign"); gw.sign(b"bytes", "acme")

        gw.hold()                                      # runs stop before each step (or: hold("sign"))
        gw.settle()                                    # wait until every active run is stopped or done
        gw.step(); gw.step(3)                          # let one step pass, wait until it has
        gw.release()                                   # and run on
        gw.wait(run_id)                                # until it is finished; its document

        gw.order(Fault("GET", r"/download$", cut=1000))                  # next download loses its tail
        gw.order(Fault("POST", r"/runs$", reset=BEFORE_HEAD))            # run is made, answer is lost
        gw.order(Fault.error(503, headers={"Retry-After": "1"}, times=2))
        gw.requests                                    # what arrived: method, path, headers, status...
        gw.object_authorizations                       # credentials that reached the object store: []

Orders are taken by matching requests in the order in which they were given; see class Fault.
"""

from __future__ import annotations

import argparse
import base64
import copy
import fnmatch
import functools
import gzip
import hashlib
import http.client
import http.server
import importlib.metadata
import io
import itertools
import json
import os
import platform
import re
import secrets
import shutil
import signal
import socket
import socketserver
import ssl
import struct
import subprocess
import sys
import tarfile
import threading
import time
import traceback
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from email.message import Message
from email.utils import format_datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Callable
from urllib.parse import parse_qsl, quote, unquote, urlsplit

JSON = dict[str, Any]

SCOPES = ("export:profile:manage", "export:run", "export:read", "export:download")
TENANTS = ("acme", "globex")
ACTIVE = ("pending", "running")
STATUSES = ("pending", "running", "succeeded", "failed", "cancelled", "expired")
PAGE_SIZE, PAGE_SIZE_MAX = 50, 200
PIECE_BYTES = 256 * 1024
BODY_BYTES_MAX = 1024 * 1024
BEFORE_HEAD = -1
OBJECT_BUCKET = "exports"

MEDIA_TYPES = {"zstd": "application/zstd", "gzip": "application/gzip", "none": "application/x-tar"}
BUNDLE_NAMES = {"zstd": "export.tar.zst", "gzip": "export.tar.gz", "none": "export.tar"}
FILES = {"advisories": "data/advisories.jsonl", "vex": "data/vex.jsonl",
         "findings": "data/findings.jsonl", "sboms": "data/sbom.cdx.json"}


# ======================================================================================= documents
# Canonical JSON, times, and the one exception that ends a request with an error document.

class RefusedError(Exception):
    """Ends a request with an error in the contract's shape (section 2)."""

    def __init__(self, status: int, code: str, message: str, details: Sequence[Any] = (),
                 headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message
        self.details, self.headers = list(details), dict(headers or {})


class RunFailedError(Exception):
    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code, self.message = code, message


class RunCancelledError(Exception):
    pass


class GatewayStoppedError(Exception):
    pass


class HangupError(Exception):
    """The connection ends here: nothing more is to be written to it."""


def detail(path: str, message: str) -> JSON:
    return {"path": path, "message": message}


def invalid(message: str, details: Sequence[JSON] = (), status: int = 422) -> RefusedError:
    return RefusedError(status, "ERR_EXPORT_001", message, details)


def missing(message: str, status: int = 404) -> RefusedError:
    return RefusedError(status, "ERR_EXPORT_002", message)


def canonical(document: Any) -> bytes:
    """Sorted keys, no spaces, UTF-8, no newline at the end: the bytes that are signed."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode("utf-8")


def sha256_file(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        for piece in iter(lambda: stream.read(PIECE_BYTES), b""):
            digest.update(piece)
    return digest.hexdigest()


def stamp(moment: datetime) -> str:
    return moment.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_time(text: Any) -> datetime:
    """RFC 3339, read by hand because fromisoformat refuses `Z` before Python 3.11."""
    match = re.fullmatch(r"(\d{4}-\d\d-\d\d)[Tt](\d\d:\d\d:\d\d)(?:\.\d+)?([Zz]|[+-]\d\d:\d\d)",
                         text if isinstance(text, str) else "")
    if match is None:
        raise ValueError("not an RFC 3339 time")
    zone = "+00:00" if match.group(3) in "Zz" else match.group(3)
    return datetime.fromisoformat(f"{match.group(1)}T{match.group(2)}{zone}")


def parse_body(body: bytes) -> JSON:
    """One JSON object, strictly: no duplicate keys, no NaN, no half surrogate pair. Raises RefusedError(400)."""
    def unique(pairs: list[tuple[str, Any]]) -> JSON:
        if len({key for key, _ in pairs}) != len(pairs):
            raise ValueError("duplicate key")
        return dict(pairs)

    def constant(name: str) -> None:
        raise ValueError(f"{name} is not JSON")

    try:
        document = json.loads(body.decode("utf-8"), object_pairs_hook=unique, parse_constant=constant)
        json.dumps(document, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError) as problem:
        raise invalid("the request body is not JSON", [detail("", str(problem))], 400) from problem
    if not isinstance(document, dict):
        raise invalid("the request body is not a JSON object", status=400)
    return document


# ======================================================================================== programs
# The only place that starts programs. Argument lists, no shell.

def run_program(*arguments: str | Path, data: bytes | None = None) -> bytes:
    done = subprocess.run([str(argument) for argument in arguments], input=data, check=False,
                          stdin=subprocess.DEVNULL if data is None else None,
                          capture_output=True)
    if done.returncode != 0:
        raise RuntimeError(f"{arguments[0]} failed: {done.stderr.decode('utf-8', 'replace').strip()}")
    return done.stdout


class Keyring:
    """One P-256 key per tenant below DIR/keys: made when first needed, reused when there."""

    def __init__(self, folder: Path, given: Mapping[str, Path]) -> None:
        self.folder, self.given = folder, given
        self.lock = threading.Lock()

    def private(self, tenant: str) -> Path:
        with self.lock:
            if tenant in self.given:
                return self.given[tenant]
            path = self.folder / f"{tenant}-export.key"
            if not path.exists():
                self.folder.mkdir(parents=True, exist_ok=True)
                run_program("openssl", "genpkey", "-algorithm", "EC", "-pkeyopt",
                            "ec_paramgen_curve:P-256", "-out", path)
                path.chmod(0o600)
            return path

    def public(self, tenant: str) -> Path:
        private, path = self.private(tenant), self.folder / f"{tenant}-export.pub"
        with self.lock:
            if tenant in self.given or not path.exists():
                self.folder.mkdir(parents=True, exist_ok=True)
                run_program("openssl", "pkey", "-in", private, "-pubout", "-out", path)
        return path

    def sign(self, data: bytes, tenant: str) -> bytes:
        return run_program("openssl", "dgst", "-sha256", "-sign", self.private(tenant), data=data)


class CertificateAuthority:
    """A CA made for this folder. Its certificates also pass Python 3.13's strict checks."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.certificate = folder / "ca.pem"
        if not self.certificate.exists():
            folder.mkdir(parents=True, exist_ok=True)
            self._make_ca()

    def _make_ca(self) -> None:
        self._make_request("ca", "Export Center test CA")
        self._issue("ca", "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign\n"
                          "subjectKeyIdentifier=hash\n", "-signkey", self.folder / "ca.key")

    def _make_request(self, name: str, common_name: str) -> None:
        run_program("openssl", "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
                    "-nodes", "-subj", f"/CN={common_name}", "-keyout", self.folder / f"{name}.key",
                    "-out", self.folder / f"{name}.csr")

    def _issue(self, name: str, extensions: str, *signer: str | Path) -> None:
        (self.folder / f"{name}.ext").write_text(extensions)
        run_program("openssl", "x509", "-req", "-sha256", "-days", "30", "-set_serial",
                    str(secrets.randbits(64)), "-in", self.folder / f"{name}.csr", "-extfile",
                    self.folder / f"{name}.ext", "-out", self.folder / f"{name}.pem", *signer)

    def issue(self, name: str, usage: str, alternatives: str = "") -> tuple[Path, Path]:
        """Returns (certificate, key) for `serverAuth` or `clientAuth`."""
        paths = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        if not paths[0].exists():
            self._make_request(name, name)
            names = f"subjectAltName={alternatives}\n" if alternatives else ""
            self._issue(name, "basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\n"
                              f"extendedKeyUsage={usage}\nsubjectKeyIdentifier=hash\n"
                              f"authorityKeyIdentifier=keyid\n{names}",
                        "-CA", self.certificate, "-CAkey", self.folder / "ca.key")
        return paths


# ========================================================================================= records
# What an export is made of. Components are real; the statements about them follow from their place
# in the sorted list, so that two gateways on one machine say the same.

@dataclass(frozen=True)
class Component:
    name: str
    version: str
    purl: str
    sbom: str


@dataclass(frozen=True)
class Record:
    """One installed component within one product of one tenant."""
    index: int
    tenant: str
    product: str
    component: Component


PRODUCTS = (("acme", "registry.example.com/app:1.0"), ("acme", "registry.example.com/app:1.1"),
            ("acme", "registry.example.com/app:2.0"), ("acme", "registry.example.com/worker:1.0"))
OTHER_PRODUCT = ("globex", "registry.example.org/portal:3.2")
SEVERITIES = ("low", "medium", "high", "critical")
VEX_STATES = ("not_affected", "affected", "fixed", "under_investigation")


def python_components() -> Iterator[Component]:
    version = platform.python_version()
    yield Component("python", version, f"pkg:generic/python@{version}", "python")
    for distribution in importlib.metadata.distributions():
        metadata: Any = distribution.metadata
        # A half-removed package leaves a folder without metadata behind.
        if metadata is None or "Name" not in metadata or "Version" not in metadata:
            continue
        name = re.sub(r"[-_.]+", "-", str(metadata["Name"])).lower()
        release = str(metadata["Version"])
        yield Component(name, release, f"pkg:pypi/{quote(name)}@{quote(release)}", "python")


def debian_components() -> Iterator[Component]:
    if shutil.which("dpkg-query") is None:
        return
    vendor = "debian"
    if os.path.exists("/etc/os-release"):
        with open("/etc/os-release", encoding="utf-8") as stream:
            vendor = dict(re.findall(r'^(\w+)="?([^"\n]*)', stream.read(), re.MULTILINE)).get("ID", vendor)
    listing = run_program("dpkg-query", "-W", "-f",
                          "${Package}\t${Version}\t${Architecture}\t${db:Status-Status}\n")
    for line in listing.decode("utf-8", "replace").splitlines():
        name, version, architecture, status = line.split("\t")
        if status == "installed":
            purl = f"pkg:deb/{vendor}/{quote(name)}@{quote(version)}?arch={architecture}"
            yield Component(name, version, purl, "debian")


def bulk_components(count: int) -> Iterator[Component]:
    for number in range(count):
        # The digest in the name keeps a bulk bundle from compressing to nothing.
        noise = hashlib.sha256(str(number).encode()).hexdigest()
        name = f"bulk-{number:07d}-{noise}"
        yield Component(name, "1.0", f"pkg:generic/{name}@1.0", "bulk")


@functools.lru_cache(maxsize=2)
def catalogue(bulk: int) -> tuple[Record, ...]:
    """All records, in a fixed order. Kept for the process: asking dpkg takes time."""
    found = {part.purl: part for part in itertools.chain(python_components(), debian_components())}
    components = itertools.chain((found[purl] for purl in sorted(found)), bulk_components(bulk))
    records: list[Record] = []
    for index, component in enumerate(components):
        tenant, product = PRODUCTS[index % len(PRODUCTS)]
        records.append(Record(index, tenant, product, component))
        if index % 3 == 0:
            records.append(Record(index, *OTHER_PRODUCT, component))
    return tuple(records)


def published(record: Record) -> str:
    """The months of 2025 up to October take turns, so that every month has some."""
    return f"2025-{10 - record.index // len(PRODUCTS) % 10:02d}-{1 + record.index * 7 % 28:02d}T12:00:00Z"


def advisory_line(record: Record) -> JSON:
    return {"id": f"LOCAL-2025-{record.index:07d}", "published": published(record),
            "severity": SEVERITIES[record.index * 5 % 4],
            "summary": f"made-up advisory about {record.component.name}",
            "affects": [{"product": record.product, "purl": record.component.purl}]}


def vex_line(record: Record) -> JSON:
    return {"advisory": f"LOCAL-2025-{record.index:07d}", "product": record.product,
            "purl": record.component.purl, "status": VEX_STATES[record.index * 3 % 4],
            "timestamp": published(record)}


def finding_line(record: Record, snapshot: str) -> JSON:
    return {"advisory": f"LOCAL-2025-{record.index:07d}", "product": record.product,
            "policySnapshotId": snapshot, "severity": SEVERITIES[record.index * 5 % 4],
            "verdict": "block" if record.index * 5 % 4 == 3 else "warn"}


def sbom_document(records: Sequence[Record], tenant: str) -> JSON:
    """CycloneDX 1.5. No timestamp (it is optional), so that the same machine gives the same bytes."""
    parts = {record.component.purl: record.component for record in records}
    products: dict[str, list[str]] = {}
    for record in records:
        products.setdefault(record.product, []).append(record.component.purl)
    serial = uuid.uuid5(uuid.NAMESPACE_URL, "\n".join([tenant, *parts]))
    components = [{"type": "library", "bom-ref": purl, "name": part.name, "version": part.version,
                   "purl": purl} for purl, part in parts.items()]
    containers = [{"type": "container", "bom-ref": name, "name": name.rpartition(":")[0],
                   "version": name.rpartition(":")[2]} for name in products]
    return {"bomFormat": "CycloneDX", "specVersion": "1.5", "serialNumber": f"urn:uuid:{serial}",
            "version": 1, "metadata": {"component": {"type": "application", "name": tenant}},
            "components": containers + components,
            "dependencies": [{"ref": name, "dependsOn": used} for name, used in products.items()]}


def select(records: Iterable[Record], selectors: JSON, tenant: str) -> list[Record]:
    """The records a run asks for. Patterns are shell globs over a product's name or a purl."""
    tenants = selectors.get("tenants") or [tenant]
    window = selectors.get("timeWindow") or {}
    since, until = (stamp(parse_time(window[side])) if window.get(side) else None for side in ("from", "to"))
    wanted = re.compile("|".join(map(fnmatch.translate, selectors.get("products") or ["*"])))
    sources = re.compile("|".join(map(fnmatch.translate, selectors.get("sboms") or ["*"])))
    return [record for record in records
            if record.tenant in tenants
            and (wanted.match(record.product) or wanted.match(record.component.purl))
            and sources.match(record.component.sbom)
            and (since is None or published(record) >= since)
            and (until is None or published(record) < until)]


# ========================================================================================= bundles

@dataclass(frozen=True)
class Blob:
    """A file that is served: its ETag is made from its digest, so other bytes are another ETag."""
    path: Path
    size: int
    sha256: str
    media_type: str
    name: str

    @property
    def etag(self) -> str:
        return f'"{self.sha256[:32]}"'

    @classmethod
    def of(cls, path: Path, media_type: str, name: str = "") -> Blob:
        return cls(path, path.stat().st_size, sha256_file(path), media_type, name or path.name)


def compression_of(name: str) -> str:
    return {"zst": "zstd", "gz": "gzip"}.get(name.rpartition(".")[2], "none")


def write_tar(stream: Any, members: Iterable[tuple[str, bytes]]) -> None:
    """Nothing of the moment or the machine gets in: ustar, owner 0, time 0."""
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size, info.mtime, info.mode = len(data), 0, 0o644
            archive.addfile(info, io.BytesIO(data))


def pack(target: Path, members: Iterable[tuple[str, bytes]], compression: str) -> None:
    if compression == "gzip":
        with open(target, "wb") as raw, gzip.GzipFile("", "wb", 6, raw, mtime=0) as stream:
            write_tar(stream, members)
        return
    plain = target if compression == "none" else target.with_name(target.name + ".tar")
    with open(plain, "wb") as out:
        write_tar(out, members)
    if compression == "zstd":
        run_program("zstd", "-q", "-3", "-f", "-o", target, plain)
        plain.unlink()


# ======================================================================================== profiles

def check_words(allowed: Sequence[str]) -> Callable[[Any], str]:
    def check(value: Any) -> str:
        return "" if value in allowed else "must be one of " + ", ".join(allowed)
    return check


def check_list(allowed: Sequence[str]) -> Callable[[Any], str]:
    def check(value: Any) -> str:
        if not isinstance(value, list) or not value:
            return "must be a non-empty list"
        if any(word not in allowed for word in value) or len(set(value)) < len(value):
            return "must be unique words of " + ", ".join(allowed)
        return ""
    return check


def check_name(value: Any) -> str:
    good = isinstance(value, str) and 1 <= len(value) <= 128
    return "" if good else "must be a string of 1 to 128 characters"


def check_retention(value: Any) -> str:
    match = re.fullmatch(r"days:([1-9][0-9]{0,3})", value if isinstance(value, str) else "")
    return "" if match and int(match.group(1)) <= 3650 else "must be days:N, N from 1 to 3650"


def check_encryption(value: Any) -> str:
    if not isinstance(value, dict) or set(value) - {"mode", "recipients"}:
        return "must be an object with mode and recipients"
    if value.get("mode") not in ("none", "age", "aes-gcm"):
        return "mode must be one of none, age, aes-gcm"
    people = value.get("recipients")
    good = isinstance(people, list) and bool(people) and all(isinstance(each, str) for each in people)
    good = good or (people is None and value["mode"] == "none")
    return "" if good else "recipients must be a non-empty list of strings"


def check_metadata(value: Any) -> str:
    good = isinstance(value, dict) and all(isinstance(each, str) for each in value.values())
    return "" if good else "must map strings to strings"


VARIANTS = {"json": ("raw", "policy"), "trivy": ("db", "java-db"), "mirror": ("full", "delta")}
PROFILE_CHECKS: dict[str, Callable[[Any], str]] = {
    "name": check_name, "kind": check_words(tuple(VARIANTS)),
    "variant": check_words(tuple(itertools.chain(*VARIANTS.values()))),
    "include": check_list(tuple(FILES)), "policySnapshotMode": check_words(("required", "optional", "none")),
    "distribution": check_list(("http", "oci", "object")), "retention": check_retention,
    "compression": check_words(tuple(MEDIA_TYPES)), "encryption": check_encryption,
    "metadata": check_metadata}
PROFILE_DEFAULTS: JSON = {"include": ["advisories", "vex", "sboms"], "policySnapshotMode": "none",
                          "retention": "days:14", "compression": "zstd", "encryption": {"mode": "none"},
                          "metadata": {}}
STRUCTURAL = ("kind", "variant", "include")


def check_profile(document: JSON) -> None:
    """Raises RefusedError(422) with one detail per problem."""
    problems = {f"/{name}": "is required" for name in ("name", "kind", "variant", "distribution")
                if name not in document}
    for name, value in document.items():
        check = PROFILE_CHECKS.get(name)
        problem = "is not a profile field" if check is None else check(value)
        if problem:
            problems[f"/{name}"] = problem
    if not {"/kind", "/variant"} & set(problems) and document["variant"] not in VARIANTS[document["kind"]]:
        problems["/variant"] = "must be one of " + ", ".join(VARIANTS[document["kind"]])
    if problems:
        raise invalid("the profile is not valid", [{"path": path, "message": text}
                                                   for path, text in sorted(problems.items())])


@dataclass
class Profile:
    profile_id: str
    fields: JSON
    created: str
    updated: str
    status: str = "active"
    revision: int = 1  # rises when the profile is replaced
    version: int = 1  # rises with every change

    def document(self) -> JSON:
        return {"profileId": self.profile_id, **self.fields, "status": self.status,
                "revision": self.revision, "createdAt": self.created, "updatedAt": self.updated}

    @property
    def etag(self) -> str:
        return f'"{self.profile_id}-{self.version}"'


def seeded_profiles(moment: str) -> dict[str, Profile]:
    def seed(profile_id: str, name: str, kind: str, variant: str, distribution: str, **more: Any) -> Profile:
        fields = {"name": name, "kind": kind, "variant": variant, **copy.deepcopy(PROFILE_DEFAULTS),
                  "distribution": distribution.split(), **more}
        return Profile(profile_id, fields, moment, moment)

    profiles = [
        seed("prof-json-raw", "Nightly raw evidence", "json", "raw", "http object",
             metadata={"owner": "secops"}),
        seed("prof-json-gzip", "Raw evidence, gzip", "json", "raw", "http", compression="gzip"),
        seed("prof-json-plain", "Raw evidence, plain tar", "json", "raw", "http", compression="none"),
        seed("prof-json-policy", "Evidence with verdicts", "json", "policy", "http",
             include=["advisories", "vex", "findings"], policySnapshotMode="required"),
        seed("prof-mirror-full", "Full mirror", "mirror", "full", "http oci object", retention="days:30"),
        seed("prof-mirror-delta", "Delta mirror", "mirror", "delta", "http", policySnapshotMode="optional"),
        seed("prof-trivy-db", "Trivy database", "trivy", "db", "http oci",
             include=["advisories"], compression="gzip"),
        # Findings exist only where a policy snapshot is named: without one this has nothing to say.
        seed("prof-empty", "Findings only", "json", "raw", "http", include=["findings"]),
        seed("prof-archived", "Superseded", "json", "raw", "http"),
    ]
    profiles[-1].status = "archived"
    return {profile.profile_id: profile for profile in profiles}


# ============================================================================================ runs

@dataclass(frozen=True)
class Event:
    number: int
    kind: str
    data: JSON

    def frame(self) -> bytes:
        return f"id: {self.number}\nevent: {self.kind}\ndata: ".encode() + canonical(self.data) + b"\n\n"


def progress_of(percent: float, phase: str, processed: int, total: int) -> JSON:
    return {"percent": percent, "phase": phase, "processed": processed, "total": total}


@dataclass
class Run:
    """The state of one run. Read and changed under the store's condition only."""
    run_id: str
    sequence: int
    tenant: str
    profile: Profile
    selectors: JSON
    snapshot: str | None
    allow_empty: bool
    created: str
    updated: str
    status: str = "pending"
    started: str | None = None
    completed: str | None = None
    progress: JSON = field(default_factory=lambda: progress_of(0, "queued", 0, 0))
    bundle: Blob | None = None
    distribution: list[JSON] = field(default_factory=list)
    error: JSON | None = None
    events: list[Event] = field(default_factory=list)
    documents: dict[str, bytes] = field(default_factory=dict)
    signatures: dict[str, bytes] = field(default_factory=dict)
    overrides: JSON = field(default_factory=dict)
    cancel_reason: str | None = None
    ending: str = "cancelled"
    parked: bool = False

    @property
    def active(self) -> bool:
        return self.status in ACTIVE

    def document(self, links: JSON) -> JSON:
        bundle = None if self.bundle is None or self.status not in ("succeeded", "expired") else {
            "name": self.bundle.name, "size": self.bundle.size, "sha256": self.bundle.sha256,
            "mediaType": self.bundle.media_type}
        shown = {"runId": self.run_id, "profileId": self.profile.profile_id, "status": self.status,
                 "createdAt": self.created, "updatedAt": self.updated, "startedAt": self.started,
                 "completedAt": self.completed, "selectors": self.selectors,
                 "policySnapshotId": self.snapshot, "options": {"allowEmpty": self.allow_empty},
                 "progress": dict(self.progress), "bundle": bundle,
                 "distribution": copy.deepcopy(self.distribution), "error": self.error, "links": links}
        return {**shown, **self.overrides}


class Store:
    """Profiles, runs and remembered answers, behind one condition: every change wakes all waiters."""

    def __init__(self, folder: Path, clock: Callable[[], datetime]) -> None:
        self.folder, self.clock = folder, clock
        self.changed = threading.Condition()
        self.stopping = threading.Event()
        moment = self.now()
        self.profiles = {tenant: seeded_profiles(moment) for tenant in TENANTS}
        self.runs: dict[str, Run] = {}
        self.answers: dict[tuple[str, str], tuple[str, Reply]] = {}
        self.objects: dict[str, Blob] = {}
        self.images: dict[str, bytes] = {}
        self.held: set[str] | None = None
        self.permits = 0
        self.failures: list[tuple[str, RunFailedError]] = []

    def now(self) -> str:
        return stamp(self.clock())

    def add_run(self, tenant: str, profile: Profile, selectors: JSON, snapshot: str | None,
                allow_empty: bool) -> Run:
        with self.changed:
            day, moment = self.clock().strftime("%Y%m%d"), self.now()
            taken = len(self.runs) + 1
            # The folder of an earlier gateway may be reused: its runs are gone, their files are not.
            while (self.folder / f"run-{day}-{taken:02d}").exists():
                taken += 1
            run = Run(f"run-{day}-{taken:02d}", len(self.runs) + 1, tenant, copy.deepcopy(profile),
                      selectors, snapshot, allow_empty, moment, moment)
            (self.folder / run.run_id).mkdir(parents=True)
            self.runs[run.run_id] = run
            self.tell(run, "run.accepted", {"status": "pending"})
            return run

    def tell(self, run: Run, kind: str, data: JSON) -> None:
        with self.changed:
            run.updated = self.now()
            run.events.append(Event(len(run.events) + 1, kind, {"runId": run.run_id, **data}))
            self.changed.notify_all()

    def next_events(self, run: Run, seen: int, timeout: float) -> tuple[list[Event], bool]:
        """Waits for events after the first `seen`; also says whether there will be no more."""
        with self.changed:
            self.changed.wait_for(
                lambda: len(run.events) > seen or not run.active or self.stopping.is_set(), timeout)
            if self.stopping.is_set():
                raise HangupError
            return run.events[seen:], not run.active

    def advance(self, run: Run, percent: float, phase: str, processed: int, total: int) -> None:
        with self.changed:
            run.progress = progress_of(percent, phase, processed, total)
            self.tell(run, "run.progress", run.progress)

    def finish(self, run: Run, status: str, error: JSON | None = None) -> None:
        with self.changed:
            # A cancel that was answered with 202 counts, even if it came during the last step.
            if status == "succeeded" and run.cancel_reason is not None:
                raise RunCancelledError(run.cancel_reason)
            run.status, run.error, run.completed, run.parked = status, error, self.now(), False
            details = {"status": status, "percent": run.progress["percent"]}
            self.tell(run, f"run.{status}", {**details, "error": error} if error else details)

    def cancel(self, run: Run, reason: str) -> None:
        with self.changed:
            if not run.active:
                raise RefusedError(409, "ERR_EXPORT_003", f"run {run.run_id} has already {run.status}")
            run.cancel_reason = reason
            run.updated = self.now()
            self.changed.notify_all()

    def pause(self, run: Run, phase: str, seconds: float) -> None:
        """The end of a step: takes its time, stops where a test said hold, and obeys a cancel."""
        until = time.monotonic() + seconds
        with self.changed:
            while True:
                if self.stopping.is_set():
                    raise GatewayStoppedError
                if run.cancel_reason is not None:
                    raise RunCancelledError(run.cancel_reason)
                held = self.held is not None and (not self.held or phase in self.held)
                if held and self.permits == 0:
                    run.parked = True
                    self.changed.notify_all()
                    self.changed.wait()
                    continue
                if held:
                    self.permits -= 1
                    until = 0.0
                run.parked = False
                left = until - time.monotonic()
                if left <= 0:
                    return
                self.changed.wait(left)

    def break_here(self, phase: str) -> None:
        with self.changed:
            for entry in self.failures:
                if entry[0] == phase:
                    self.failures.remove(entry)
                    raise entry[1]


# ======================================================================================== exporter

class Exporter:
    """Carries one run from `pending` to its end. One instance, one thread, one run."""

    def __init__(self, gateway: Gateway, run: Run) -> None:
        self.gateway, self.store, self.run = gateway, gateway.store, run
        self.folder = gateway.store.folder / run.run_id

    def work(self) -> None:
        try:
            self._steps()
        except RunCancelledError as cancelled:
            ending = self.run.ending
            error = {"code": f"ERR_EXPORT_{ending.upper()}", "message": str(cancelled)}
            self.store.finish(self.run, ending, error)
        except RunFailedError as failure:
            self.store.finish(self.run, "failed", {"code": failure.code, "message": failure.message})
        except GatewayStoppedError:
            pass
        except Exception as problem:
            self.gateway.errors.append(traceback.format_exc())
            self.store.finish(self.run, "failed", {"code": "ERR_EXPORT_004", "message": str(problem)})

    def _pause(self, phase: str) -> None:
        self.store.pause(self.run, phase, self.gateway.pace)
        self.store.break_here(phase)

    def _steps(self) -> None:
        self._pause("queued")
        with self.store.changed:
            self.run.status, self.run.started = "running", self.store.now()
            self.store.tell(self.run, "run.started", {"status": "running"})
        records = self._collect()
        self._pause("pack")
        members, counts = self._members(records)
        bundle = self._pack(members)
        self.store.advance(self.run, 75, "pack", len(records), len(records))
        self._pause("sign")
        self.sign(bundle, members, counts)
        self.store.advance(self.run, 90, "sign", len(records), len(records))
        self._pause("distribute")
        self.distribute(bundle)
        self.store.advance(self.run, 100, "distribute", len(records), len(records))
        self._pause("finish")
        self.store.finish(self.run, "succeeded")

    def _collect(self) -> list[Record]:
        run = self.run
        found = select(catalogue(self.gateway.records), run.selectors, run.tenant)
        if "findings" in run.profile.fields["include"] and run.snapshot is None:
            self._warn("no policy snapshot is named: there are no findings")
            found = found if len(run.profile.fields["include"]) > 1 else []
        for quarter in (1, 2, 3, 4):
            self._pause("adapter")
            self.store.advance(run, 15 * quarter, "adapter", len(found) * quarter // 4, len(found))
        if not found and not run.allow_empty:
            raise RunFailedError("ERR_EXPORT_004", "the selectors match no record and allowEmpty is false")
        if not found:
            self._warn("the selectors match no record")
        return found

    def _warn(self, message: str) -> None:
        self.store.tell(self.run, "run.warning", {"message": message})

    def _members(self, records: Sequence[Record]) -> tuple[list[tuple[str, bytes]], JSON]:
        run = self.run
        makers: dict[str, Callable[[Record], JSON]] = {
            "advisories": advisory_line, "vex": vex_line,
            "findings": lambda record: finding_line(record, run.snapshot or "")}
        members: list[tuple[str, bytes]] = []
        counts: JSON = {}
        for name in (each for each in FILES if each in run.profile.fields["include"]):
            if name == "sboms":
                data, counts[name] = canonical(sbom_document(records, run.tenant)), 1
            else:
                data = b"".join(canonical(makers[name](record)) + b"\n" for record in records)
                counts[name] = len(records)
            members.append((FILES[name], data))
        return members, counts

    def _pack(self, members: list[tuple[str, bytes]]) -> Blob:
        compression = self.run.profile.fields["compression"]
        path = self.folder / BUNDLE_NAMES[compression]
        pack(path, members, compression)
        return Blob.of(path, MEDIA_TYPES[compression])

    def sign(self, bundle: Blob, members: Iterable[tuple[str, bytes]], counts: JSON,
             edit_manifest: Callable[[JSON], Any] | None = None,
             edit_provenance: Callable[[JSON], Any] | None = None) -> None:
        """Writes and signs both documents; the edits let a test sign something that is not so."""
        self._describe(bundle)
        artifacts = [{"path": name, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
                     for name, data in members]
        self._sign_document("manifest", self._manifest(bundle, artifacts, counts), edit_manifest)
        self._sign_document("provenance", self._provenance(bundle), edit_provenance)

    def _sign_document(self, name: str, document: JSON, edit: Callable[[JSON], Any] | None) -> None:
        edited = edit(document) if edit else document
        data = edited if isinstance(edited, bytes) else canonical(edited)
        self.run.documents[name] = data
        self.run.signatures[name] = self.gateway.sign(data, self.run.tenant).encode("ascii")

    def _manifest(self, bundle: Blob, artifacts: list[JSON], counts: JSON) -> JSON:
        run, fields = self.run, self.run.profile.fields
        return {"schemaVersion": 1, "runId": run.run_id, "tenant": run.tenant, "createdAt": self.store.now(),
                "profile": {"profileId": run.profile.profile_id, "kind": fields["kind"],
                            "variant": fields["variant"]},
                "selectors": run.selectors, "counts": counts,
                "bundle": {"name": bundle.name, "size": bundle.size, "sha256": bundle.sha256,
                           "compression": compression_of(bundle.name)},
                "artifacts": artifacts, "distribution": run.distribution}

    def _provenance(self, bundle: Blob) -> JSON:
        manifest = hashlib.sha256(self.run.documents["manifest"]).hexdigest()
        return {"_type": "https://in-toto.io/Statement/v1",
                "subject": [{"name": "export.json", "digest": {"sha256": manifest}},
                            {"name": bundle.name, "digest": {"sha256": bundle.sha256}}],
                "predicateType": "https://slsa.dev/provenance/v1", "predicate": {"runId": self.run.run_id}}

    def _describe(self, bundle: Blob) -> None:
        """The distribution descriptors, and the OCI image that one of them is about."""
        run, described = self.run, []
        for kind in run.profile.fields["distribution"]:
            if kind == "object":
                described.append({"type": kind, "bucket": OBJECT_BUCKET,
                                  "key": f"{run.tenant}/{run.run_id}/{bundle.name}"})
            elif kind == "oci":
                ref = self.gateway.oci_ref.format(tenant=run.tenant, runId=run.run_id,
                                                  objects=urlsplit(self.gateway.object_url).netloc)
                image = canonical(oci_image(bundle))
                self.store.images[ref.partition("/")[2].replace(":", "/manifests/")] = image
                digest = hashlib.sha256(image).hexdigest()
                described.append({"type": kind, "ref": ref, "digest": f"sha256:{digest}"})
            else:
                described.append({"type": kind})
        with self.store.changed:
            run.distribution = described

    def distribute(self, bundle: Blob) -> None:
        with self.store.changed:
            self.run.bundle = bundle
            for each in self.run.distribution:
                if each["type"] == "object":
                    self.store.objects[f"{each['bucket']}/{each['key']}"] = bundle


def oci_image(bundle: Blob) -> JSON:
    empty = "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"  # SHA-256 of {}
    return {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "artifactType": "application/vnd.stella.export.v1",
            "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": f"sha256:{empty}",
                       "size": 2},
            "layers": [{"mediaType": bundle.media_type, "digest": f"sha256:{bundle.sha256}",
                        "size": bundle.size}]}


# ============================================================================== requests and replies

@dataclass
class Request:
    """One request as it arrived. `headers.get` ignores case."""
    method: str
    target: str
    path: str
    query: dict[str, str]
    headers: Message
    body: bytes
    origin: str
    status: int = 0
    sent_bytes: int = 0

    @property
    def trace_id(self) -> str:
        match = re.fullmatch(r"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}.*",
                             self.headers.get("traceparent") or "")
        good = match is not None and set(match.group(1)) != {"0"} and set(match.group(2)) != {"0"}
        return match.group(1) if match is not None and good else secrets.token_hex(16)

    def json(self) -> JSON:
        return parse_body(self.body)


@dataclass(frozen=True)
class FileSlice:
    path: Path
    start: int
    length: int

    def pieces(self, size: int) -> Iterator[bytes]:
        left = self.length
        with open(self.path, "rb") as stream:
            stream.seek(self.start)
            while left > 0:
                piece = stream.read(min(size, left))
                if not piece:
                    return
                left -= len(piece)
                yield piece


@dataclass
class Reply:
    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | FileSlice | Iterator[bytes] = b""

    @property
    def length(self) -> int | None:
        if isinstance(self.body, bytes):
            return len(self.body)
        return self.body.length if isinstance(self.body, FileSlice) else None

    def pieces(self, size: int) -> Iterator[bytes]:
        if isinstance(self.body, FileSlice):
            yield from self.body.pieces(size)
        elif isinstance(self.body, bytes):
            yield from (self.body[at:at + size] for at in range(0, len(self.body), size))
        else:
            yield from self.body


def json_reply(status: int, document: Any, headers: Mapping[str, str] | None = None) -> Reply:
    body = json.dumps(document, ensure_ascii=False).encode("utf-8")
    return Reply(status, {"Content-Type": "application/json; charset=utf-8", **(headers or {})}, body)


def parse_range(text: str, size: int) -> tuple[int, int] | None:
    """(first, last) of a single byte range; None to ignore it. Raises ValueError for a 416.

    RFC 9110 14.1.2: an unknown unit or bad syntax is ignored; so are several ranges here.
    """
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", text.strip())
    if match is None or match.group(1) == match.group(2) == "":
        return None
    first, last = match.groups()
    if first == "":
        span = (max(0, size - int(last)), size - 1) if int(last) > 0 else (size, size)
    elif last and int(last) < int(first):
        return None
    else:
        span = (int(first), min(int(last), size - 1) if last else size - 1)
    if span[0] >= size:
        raise ValueError("unsatisfiable")
    return span


def blob_reply(request: Request, blob: Blob) -> Reply:
    """A file with ranges (RFC 9110 13.1.5 and 14)."""
    headers = {"Content-Type": blob.media_type, "ETag": blob.etag, "Accept-Ranges": "bytes",
               "X-Export-Digest": f"sha256:{blob.sha256}",
               "Content-Disposition": f'attachment; filename="{blob.name}"'}
    wanted = request.headers.get("Range")
    condition = request.headers.get("If-Range")
    # If-Range compares strongly: a weak tag, an old tag or a date (none is sent) means the whole file.
    span = None
    if wanted and request.method == "GET" and condition in (None, blob.etag):
        try:
            span = parse_range(wanted, blob.size)
        except ValueError:
            return Reply(416, {**headers, "Content-Range": f"bytes */{blob.size}"})
    if span is None:
        return Reply(200, headers, FileSlice(blob.path, 0, blob.size))
    headers["Content-Range"] = f"bytes {span[0]}-{span[1]}/{blob.size}"
    return Reply(206, headers, FileSlice(blob.path, span[0], span[1] - span[0] + 1))


# ========================================================================================== faults

@dataclass
class Fault:
    """One order: what shall go wrong, and for which requests. Fields combine freely.

    Which:  `method` and `path` are regular expressions (the path is searched), `origin` is "gateway"
            or "object" or "" for both, `when(request)` decides further. The order lets `skip` matching
            requests pass, then takes `times` of them (negative: all).
    Before: `act(request)` is called; `request` headers are set, or removed with None, before the work
            is done ({"Range": None} makes a 200 out of a 206; {"Last-Event-ID": None} replays all);
            `shift` moves the start of the asked range.
    Answer: a `status` or `body` is sent in place of the real one. The work is then not done, unless
            `work` is True. Without them it is done, unless `work` is False.
    Head:   `head` headers are set, or removed with None ({"ETag": 'W/"x"'}, {"Content-Range": None},
            {"Content-Encoding": "gzip"}); `total` lies about the size in Content-Range; `framing` is
            "close" (no Content-Length) or "chunked"; `interim` statuses go first, such as (103,).
    Body:   the byte at `flip` is changed; `extra` bytes follow; `drip` seconds pass between pieces of
            `piece` bytes.
    End:    after that many body bytes (or BEFORE_HEAD) the connection is closed in good order (`cut`),
            reset (`reset`), or says nothing for `silence` seconds and then goes on (`stall`).
            `hangup` closes an intact keep-alive connection after the answer, without saying so.
    Events: the stream ends after `events` events, or is silent from then on (`mute`).
    """
    method: str = ".*"
    path: str = ""
    times: int = 1
    skip: int = 0
    origin: str = ""
    when: Callable[[Request], bool] | None = None
    act: Callable[[Request], object] | None = None
    request: Mapping[str, str | None] = field(default_factory=dict)
    shift: int = 0
    status: int = 0
    body: bytes | None = None
    work: bool | None = None
    head: Mapping[str, str | None] = field(default_factory=dict)
    total: int | None = None
    framing: str = ""
    interim: Sequence[int] = ()
    flip: int | None = None
    extra: bytes = b""
    drip: float = 0.0
    piece: int = PIECE_BYTES
    cut: int | None = None
    reset: int | None = None
    stall: int | None = None
    silence: float = 3600.0
    hangup: bool = False
    events: int | None = None
    mute: int | None = None
    used: int = 0

    @classmethod
    def error(cls, status: int, code: str = "", message: str = "ordered by a test",
              headers: Mapping[str, str | None] | None = None, **more: Any) -> Fault:
        """An error document; without a code just an empty body."""
        body = canonical({"code": code, "message": message, "details": [], "traceId": "0" * 31 + "1",
                          "timestamp": "2025-10-29T13:42:11Z"}) if code else b""
        kind = {"Content-Type": "application/json"} if code else {}
        return cls(status=status, body=body, head={**kind, **(headers or {})}, **more)

    @classmethod
    def redirect(cls, status: int, url: str, **more: Any) -> Fault:
        return cls(status=status, head={"Location": url}, **more)

    def matches(self, request: Request) -> bool:
        return (self.origin in ("", request.origin) and re.fullmatch(self.method, request.method) is not None
                and re.search(self.path, request.path) is not None
                and (self.when is None or self.when(request)))

    @property
    def answers(self) -> bool:
        return bool(self.status) or self.body is not None

    def alter_request(self, request: Request) -> Request:
        headers = copy.deepcopy(request.headers)
        for name, value in self.request.items():
            del headers[name]
            if value is not None:
                headers[name] = value
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", headers.get("Range") or "")
        if self.shift and match:
            headers.replace_header("Range", f"bytes={int(match.group(1)) + self.shift}-{match.group(2)}")
        return replace(request, headers=headers)

    def alter_reply(self, reply: Reply) -> Reply:
        headers = dict(reply.headers)
        if self.answers:
            reply, headers = Reply(self.status or 200, {}, self.body or b""), {}
        if self.total is not None and "Content-Range" in headers:
            headers["Content-Range"] = headers["Content-Range"].rpartition("/")[0] + f"/{self.total}"
        return replace(reply, headers=headers)

    def alter_pieces(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        offset = 0
        for piece in pieces:
            at = -1 if self.flip is None else self.flip - offset
            offset += len(piece)
            flipped = 0 <= at < len(piece)
            yield piece[:at] + bytes([piece[at] ^ 1]) + piece[at + 1:] if flipped else piece
        if self.extra:
            yield self.extra


class Faults:
    """The orders that are still open."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.orders: list[Fault] = []

    def add(self, fault: Fault) -> None:
        with self.lock:
            self.orders.append(fault)

    def clear(self) -> None:
        with self.lock:
            self.orders.clear()

    def take(self, request: Request) -> Fault | None:
        with self.lock:
            for fault in self.orders:
                if not fault.matches(request):
                    continue
                if fault.skip > 0:
                    fault.skip -= 1
                    return None
                fault.times -= 1
                fault.used += 1
                if fault.times == 0:
                    self.orders.remove(fault)
                return fault
        return None


# ============================================================================================= api
# The routes of contract section 2. Each handler gets (request, caller, id) and returns a Reply.

@dataclass(frozen=True)
class Caller:
    token: str
    tenants: tuple[str, ...]
    scopes: tuple[str, ...]
    tenant: str


Route = Callable[[Request, Caller, str], Reply]


class Api:
    def __init__(self, gateway: Gateway) -> None:
        self.gateway, self.store = gateway, gateway.store
        read, run, load, manage = "export:read", "export:run", "export:download", "export:profile:manage"
        self.routes: list[tuple[str, str, tuple[str, ...], Route]] = [
            ("GET", "/profiles", (read, manage), self.list_profiles),
            ("POST", "/profiles", (manage,), self.create_profile),
            ("GET", "/profiles/{}", (read, manage), self.show_profile),
            ("PATCH", "/profiles/{}", (manage,), self.patch_profile),
            ("PUT", "/profiles/{}", (manage,), self.replace_profile),
            ("POST", "/profiles/{}/archive", (manage,), self.archive_profile),
            ("POST", "/profiles/{}/restore", (manage,), self.restore_profile),
            ("POST", "/runs", (run,), self.submit_run),
            ("GET", "/runs", (read,), self.list_runs),
            ("GET", "/runs/{}", (read, run, load), self.show_run),
            ("GET", "/runs/{}/events", (read, run), self.watch_run),
            ("POST", "/runs/{}/cancel", (run,), self.cancel_run),
            ("GET", "/runs/{}/download", (load,), self.download),
            ("GET", "/runs/{}/manifest", (read, load), self.signed_document),
            ("GET", "/runs/{}/provenance", (read, load), self.signed_document)]

    def answer(self, request: Request) -> Reply:
        trace = request.trace_id
        try:
            route, scopes, identifier = self._route(request)
            caller = self._caller(request, scopes)
            reply = self._once(request, caller, lambda: route(request, caller, identifier))
        except RefusedError as refusal:
            reply = self._error(refusal, trace)
        reply.headers.setdefault("X-Stella-Trace-Id", trace)
        return reply

    def _error(self, refusal: RefusedError, trace: str) -> Reply:
        return json_reply(refusal.status, {
            "code": refusal.code, "message": refusal.message, "details": refusal.details,
            "traceId": trace, "timestamp": self.store.now()}, refusal.headers)

    def _route(self, request: Request) -> tuple[Route, tuple[str, ...], str]:
        root = self.gateway.prefix + "/api/export"
        if not request.path.startswith(root + "/"):
            raise RefusedError(404, "ERR_NOT_FOUND", "there is nothing at this path")
        method = "GET" if request.method == "HEAD" else request.method
        allowed = []
        for verb, pattern, scopes, route in self.routes:
            match = re.fullmatch(pattern.replace("{}", "([^/]+)"), request.path[len(root):])
            if match and verb == method:
                return route, scopes, unquote(match.group(1)) if match.groups() else ""
            allowed += [verb] if match else []
        if allowed:
            raise RefusedError(405, "ERR_METHOD", "not with this method",
                               headers={"Allow": ", ".join(allowed)})
        raise RefusedError(404, "ERR_NOT_FOUND", "there is nothing at this path")

    def _caller(self, request: Request, scopes: tuple[str, ...]) -> Caller:
        # Only Bearer: a DPoP proof that nobody checks must not be taken for one that was.
        match = re.fullmatch(r"(?i:Bearer) (\S+)", request.headers.get("Authorization") or "")
        caller = self.gateway.callers.get(match.group(1)) if match else None
        if caller is None:
            raise RefusedError(401, "ERR_UNAUTHORIZED", "the token is missing or unknown",
                          headers={"WWW-Authenticate": 'Bearer realm="export"'})
        if not set(scopes) & set(caller.scopes):
            raise RefusedError(403, "ERR_FORBIDDEN", f"the token lacks the scope {scopes[0]}",
                               [f"needs {scopes[0]}"])
        tenant = request.headers.get("X-Stella-Tenant") or caller.tenant
        if tenant not in caller.tenants:
            raise RefusedError(403, "ERR_FORBIDDEN", f"the token may not act for tenant {tenant}")
        return replace(caller, tenant=tenant)

    def _once(self, request: Request, caller: Caller, work: Callable[[], Reply]) -> Reply:
        """The same Idempotency-Key and request: the same answer, and the work is done once."""
        key = request.headers.get("Idempotency-Key")
        if request.method in ("GET", "HEAD"):
            return work()
        with self.store.changed:
            print_ = hashlib.sha256(f"{request.method} {request.path} {caller.tenant}\n".encode()
                                    + request.body).hexdigest()
            known = self.store.answers.get((caller.token, key)) if key else None
            if known is not None and known[0] != print_:
                raise invalid("the Idempotency-Key was used for another request")
            if known is not None:
                return replace(known[1], headers={**known[1].headers, "Idempotency-Replayed": "true"})
            reply = work()
            if key:
                self.store.answers[(caller.token, key)] = (print_, reply)
            return reply

    # -- pages

    def _page(self, request: Request, items: Sequence[tuple[int, JSON]]) -> Reply:
        """`items` are (rank, document), ranks ascending. A cursor holds the last rank of a page, so that it
        stays good when that item no longer passes the filter or newer ones have come."""
        try:
            limit = int(request.query.get("limit", str(PAGE_SIZE)))
        except ValueError:
            limit = 0
        if not 1 <= limit <= PAGE_SIZE_MAX:
            raise invalid("bad limit", [detail("limit", f"must be 1 to {PAGE_SIZE_MAX}")], 400)
        if request.query.get("cursor"):
            try:
                after = int(base64.urlsafe_b64decode(request.query["cursor"]))
            except ValueError as problem:
                raise invalid("bad cursor", [detail("cursor", "is not one of mine")], 400) from problem
            items = [item for item in items if item[0] > after]
        shown, more = items[:limit], len(items) > limit
        cursor = base64.urlsafe_b64encode(str(shown[-1][0]).encode()).decode("ascii") if more else None
        return json_reply(200, {"items": [document for _, document in shown], "nextCursor": cursor})

    # -- profiles

    def _profile(self, caller: Caller, profile_id: str) -> Profile:
        profile = self.store.profiles[caller.tenant].get(profile_id)
        if profile is None:
            raise missing(f"no profile {profile_id} in tenant {caller.tenant}")
        return profile

    def list_profiles(self, request: Request, caller: Caller, _: str) -> Reply:
        wanted = {name: request.query[name] for name in ("kind", "variant") if request.query.get(name)}
        with self.store.changed:
            items = [(rank, profile.document())
                     for rank, profile in enumerate(self.store.profiles[caller.tenant].values())
                     if all(profile.fields[name] == value for name, value in wanted.items())]
        return self._page(request, items)

    def show_profile(self, request: Request, caller: Caller, profile_id: str) -> Reply:
        with self.store.changed:
            profile = self._profile(caller, profile_id)
            return json_reply(200, profile.document(), {"ETag": profile.etag})

    def create_profile(self, request: Request, caller: Caller, _: str) -> Reply:
        document = request.json()
        check_profile(document)
        base = "prof-" + (re.sub(r"[^a-z0-9]+", "-", document["name"].lower()).strip("-")[:48] or "x")
        known = self.store.profiles[caller.tenant]
        names = itertools.chain([base], (f"{base}-{number}" for number in itertools.count(2)))
        moment = self.store.now()
        profile = Profile(next(name for name in names if name not in known),
                          {**copy.deepcopy(PROFILE_DEFAULTS), **document}, moment, moment)
        known[profile.profile_id] = profile
        return json_reply(201, profile.document(), {
            "ETag": profile.etag,
            "Location": f"{self.gateway.prefix}/api/export/profiles/{profile.profile_id}"})

    def patch_profile(self, request: Request, caller: Caller, profile_id: str) -> Reply:
        profile, changes = self._matching(request, caller, profile_id), request.json()
        structural = [name for name in STRUCTURAL if name in changes]
        if structural:
            raise invalid("structural changes need a new revision", [
                detail(f"/{name}", "can only be replaced as a whole (PUT)") for name in structural])
        return self._change(profile, {**profile.fields, **changes})

    def replace_profile(self, request: Request, caller: Caller, profile_id: str) -> Reply:
        profile, document = self._matching(request, caller, profile_id), request.json()
        check_profile(document)
        profile.revision += 1
        return self._change(profile, {**copy.deepcopy(PROFILE_DEFAULTS), **document})

    def archive_profile(self, request: Request, caller: Caller, profile_id: str) -> Reply:
        return self._set_status(request, caller, profile_id, "archived")

    def restore_profile(self, request: Request, caller: Caller, profile_id: str) -> Reply:
        return self._set_status(request, caller, profile_id, "active")

    def _set_status(self, request: Request, caller: Caller, profile_id: str, status: str) -> Reply:
        profile = self._matching(request, caller, profile_id, archived_too=True)
        if request.body:
            reason = request.json().get("reason", "")
            if not isinstance(reason, str):
                raise invalid("bad reason", [detail("/reason", "must be a string")])
        if profile.status == status:
            return json_reply(200, profile.document(), {"ETag": profile.etag})
        profile.status = status
        return self._change(profile, profile.fields)

    def _matching(self, request: Request, caller: Caller, profile_id: str,
                  archived_too: bool = False) -> Profile:
        """The profile to be changed, after If-Match (RFC 9110 13.1.1) has been asked."""
        profile = self._profile(caller, profile_id)
        condition = request.headers.get("If-Match") or "*"
        if condition.strip() != "*" and profile.etag not in re.findall(r'(?:W/)?"[^"]*"', condition):
            raise RefusedError(412, "ERR_EXPORT_003", f"profile {profile_id} was changed by someone else",
                          [f"it is at version {profile.version}"])
        if profile.status == "archived" and not archived_too:
            raise RefusedError(409, "ERR_EXPORT_003", f"profile {profile_id} is archived: restore it first")
        return profile

    def _change(self, profile: Profile, fields: JSON) -> Reply:
        check_profile(fields)
        profile.fields, profile.version, profile.updated = fields, profile.version + 1, self.store.now()
        return json_reply(200, profile.document(), {"ETag": profile.etag})

    # -- runs

    def _run(self, caller: Caller, run_id: str) -> Run:
        run = self.store.runs.get(run_id)
        if run is None or run.tenant != caller.tenant:
            raise missing(f"no run {run_id} in tenant {caller.tenant}")
        return run

    def submit_run(self, request: Request, caller: Caller, _: str) -> Reply:
        document = request.json()
        problems = check_submission(document)
        if problems:
            raise invalid("the run is not valid", problems)
        profile, selectors = self._profile(caller, document["profileId"]), document.get("selectors", {})
        if profile.status == "archived":
            raise missing(f"profile {profile.profile_id} is archived", 410)
        strangers = [name for name in selectors.get("tenants", []) if name not in caller.tenants]
        if strangers:
            raise RefusedError(403, "ERR_FORBIDDEN", f"the token may not read tenant {strangers[0]}")
        snapshot = document.get("policySnapshotId")
        self._check_profile_can(profile, snapshot)
        quota = self._quota(caller.tenant)
        if quota["X-Stella-Quota-Remaining"] == "0":
            raise RefusedError(429, "ERR_EXPORT_QUOTA", f"tenant {caller.tenant} has too many active runs",
                          headers={**quota, "Retry-After": "1"})
        run = self.store.add_run(caller.tenant, profile, selectors, snapshot,
                                 document.get("options", {}).get("allowEmpty", False))
        shown = self.gateway.run_document(run)
        self.gateway.start_run(run)
        return json_reply(202, shown, {"Location": f"{self.gateway.prefix}/api/export/runs/{run.run_id}",
                                       **self._quota(caller.tenant)})

    def _check_profile_can(self, profile: Profile, snapshot: str | None) -> None:
        if profile.fields["policySnapshotMode"] == "required" and snapshot is None:
            raise invalid("this profile needs a policy snapshot",
                          [detail("/policySnapshotId", "is required")])
        # A plain bundle under a profile that promises encryption would be the worst answer.
        if profile.fields["encryption"]["mode"] != "none":
            raise invalid("this gateway cannot encrypt",
                          [detail("/profileId", "the profile asks for encryption")])

    def _quota(self, tenant: str) -> dict[str, str]:
        active = sum(run.active for run in self.store.runs.values() if run.tenant == tenant)
        limit = self.gateway.max_active
        return {"X-Stella-Quota-Limit": str(limit), "X-Stella-Quota-Remaining": str(max(0, limit - active)),
                "X-Stella-Quota-Reset": "30"}

    def list_runs(self, request: Request, caller: Caller, _: str) -> Reply:
        status, profile_id = request.query.get("status"), request.query.get("profileId")
        if status and status != "active" and status not in STATUSES:
            raise invalid("bad status",
                          [detail("status", "must be active or one of " + ", ".join(STATUSES))], 400)
        states = ACTIVE if status == "active" else (status,) if status else STATUSES
        with self.store.changed:
            items = [(-run.sequence, self.gateway.run_document(run))
                     for run in reversed(list(self.store.runs.values()))
                     if run.tenant == caller.tenant and run.status in states
                     and profile_id in (None, "", run.profile.profile_id)]
        return self._page(request, items)

    def show_run(self, request: Request, caller: Caller, run_id: str) -> Reply:
        with self.store.changed:
            return json_reply(200, self.gateway.run_document(self._run(caller, run_id)))

    def cancel_run(self, request: Request, caller: Caller, run_id: str) -> Reply:
        run = self._run(caller, run_id)
        reason = request.json().get("reason", "") if request.body else ""
        if not isinstance(reason, str):
            raise invalid("bad reason", [detail("/reason", "must be a string")])
        self.store.cancel(run, reason or "cancelled on request")
        return json_reply(202, self.gateway.run_document(run))

    def watch_run(self, request: Request, caller: Caller, run_id: str) -> Reply:
        run = self._run(caller, run_id)
        accept = request.headers.get("Accept") or "*/*"
        if not re.search(r"text/event-stream|text/\*|\*/\*", accept):
            raise RefusedError(406, "ERR_NOT_ACCEPTABLE", "this is a text/event-stream")
        last = request.headers.get("Last-Event-ID") or "0"
        seen = int(last) if re.fullmatch(r"[0-9]{1,9}", last) else 0
        return Reply(200, {"Content-Type": "text/event-stream", "Cache-Control": "no-store"},
                     self._frames(run, min(seen, len(run.events))))

    def _frames(self, run: Run, seen: int) -> Iterator[bytes]:
        """One piece per event or comment, so that an order can count them."""
        yield f"retry: {self.gateway.retry_ms}\n\n".encode()
        while True:
            fresh, over = self.store.next_events(run, seen, self.gateway.heartbeat)
            for event in fresh:
                yield event.frame()
            seen += len(fresh)
            if over:
                return
            if not fresh:
                yield b": heartbeat\n\n"

    # -- results

    def _finished(self, caller: Caller, run_id: str) -> Run:
        run = self._run(caller, run_id)
        if run.active:
            raise RefusedError(409, "ERR_EXPORT_003", f"run {run_id} is still {run.status}")
        if run.status == "expired":
            raise missing(f"run {run_id} has expired", 410)
        if run.status != "succeeded":
            raise missing(f"run {run_id} has no bundle: its status is {run.status}")
        return run

    def download(self, request: Request, caller: Caller, run_id: str) -> Reply:
        with self.store.changed:
            bundle = self._finished(caller, run_id).bundle
        if bundle is None:
            raise missing(f"run {run_id} has no bundle")
        return blob_reply(request, bundle)

    def signed_document(self, request: Request, caller: Caller, run_id: str) -> Reply:
        name = request.path.rpartition("/")[2]
        with self.store.changed:
            run = self._finished(caller, run_id)
            data, signature = run.documents[name], run.signatures[name]
        if request.query.get("signature") != "true":
            tag = hashlib.sha256(data).hexdigest()[:32]
            return Reply(200, {"Content-Type": "application/json", "ETag": f'"{tag}"'}, data)
        kind = "application/json" if signature.startswith(b"{") else "text/plain; charset=us-ascii"
        return Reply(200, {"Content-Type": kind}, signature)


def check_submission(document: JSON) -> list[JSON]:
    problems: dict[str, str] = {f"/{name}": "is not a field of a run" for name in
                                set(document) - {"profileId", "selectors", "policySnapshotId", "options"}}
    for name in ("profileId", "policySnapshotId"):
        value = document.get(name)
        if (name in document or name == "profileId") and (not isinstance(value, str) or not value):
            problems[f"/{name}"] = "must be a non-empty string"
    options = document.get("options", {})
    if options not in ({}, {"allowEmpty": True}, {"allowEmpty": False}):
        problems["/options"] = "takes allowEmpty, true or false"
    selectors = document.get("selectors", {})
    if not isinstance(selectors, dict):
        problems["/selectors"] = "must be an object"
    else:
        problems.update(check_selectors(selectors))
    return [{"path": path, "message": text} for path, text in sorted(problems.items())]


def check_selectors(selectors: JSON) -> dict[str, str]:
    problems: dict[str, str] = {}
    for name, value in selectors.items():
        if name == "timeWindow":
            problem = check_window(value)
        elif name not in ("tenants", "products", "sboms"):
            problem = "is not a selector this gateway knows"
        else:
            good = isinstance(value, list) and value and all(isinstance(each, str) and each for each in value)
            problem = "" if good else "must be a non-empty list of strings"
        if problem:
            problems[f"/selectors/{name}"] = problem
    return problems


def check_window(value: Any) -> str:
    if not isinstance(value, dict) or not value or set(value) - {"from", "to"}:
        return "takes from, to or both"
    try:
        times = {side: parse_time(text) for side, text in value.items() if text is not None}
    except ValueError as problem:
        return str(problem)
    return "" if len(times) < 2 or times["from"] < times["to"] else "from must be before to"


class ObjectStore:
    """The second origin: bundles below /objects/, image manifests below /v2/. No authentication."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def answer(self, request: Request) -> Reply:
        path = unquote(request.path)
        if request.method not in ("GET", "HEAD"):
            return Reply(405, {"Allow": "GET, HEAD"})
        with self.store.changed:
            blob = self.store.objects.get(path[len("/objects/"):]) if path.startswith("/objects/") else None
            images = dict(self.store.images)
        if blob is not None:
            reply = blob_reply(request, blob)
            del reply.headers["X-Export-Digest"]     # the gateway's own header: object stores know it not
            return reply
        if path == "/v2/":
            return json_reply(200, {})
        image = find_image(images, path)
        if image is not None:
            return Reply(200, {"Content-Type": "application/vnd.oci.image.manifest.v1+json",
                               "Docker-Content-Digest": "sha256:" + hashlib.sha256(image).hexdigest()}, image)
        return Reply(404, {"Content-Type": "application/xml"}, b"<Error><Code>NoSuchKey</Code></Error>")


def find_image(images: Mapping[str, bytes], path: str) -> bytes | None:
    """A manifest by tag or by digest (OCI distribution, 'Pulling manifests')."""
    for name, image in images.items():
        repository = name.partition("/manifests/")[0]
        digest = hashlib.sha256(image).hexdigest()
        if path in (f"/v2/{name}", f"/v2/{repository}/manifests/sha256:{digest}"):
            return image
    return None


# ========================================================================================== server

class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    """Knows its connections and threads, so that stopping leaves none behind."""
    request_queue_size = 128
    daemon_threads = True

    def __init__(self, gateway: Gateway, origin: str, port: int, answer: Callable[[Request], Reply],
                 context: ssl.SSLContext | None) -> None:
        self.gateway, self.origin, self.answer, self.context = gateway, origin, answer, context
        self.lock = threading.Lock()
        self.connections: set[socket.socket] = set()
        self.threads: set[threading.Thread] = set()
        self.reset: set[socket.socket] = set()
        super().__init__(("127.0.0.1", port), Handler)
        self.loop = threading.Thread(target=self.serve_forever, args=(0.01,), name=f"{origin}-accept",
                                     daemon=True)

    def server_bind(self) -> None:
        # HTTPServer would look its own name up, which can take seconds.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = "127.0.0.1", self.socket.getsockname()[1]

    def process_request(self, request: Any, client_address: Any) -> None:
        thread = threading.Thread(target=self.process_request_thread, args=(request, client_address),
                                  name=f"{self.origin}-connection", daemon=True)
        with self.lock:
            self.connections.add(request)
            self.threads.add(thread)
        thread.start()

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            with self.lock:
                self.connections.discard(request)
                self.threads.discard(threading.current_thread())

    def finish_request(self, request: Any, client_address: Any) -> None:
        if self.context is None:
            super().finish_request(request, client_address)
            return
        # Here and not in accept: a client that is slow to shake hands keeps only itself waiting.
        with self.context.wrap_socket(request, server_side=True, do_handshake_on_connect=False) as secured:
            with self.lock:
                self.connections.add(secured)
            try:
                secured.do_handshake()
                super().finish_request(secured, client_address)
            finally:
                with self.lock:
                    self.connections.discard(secured)
                    self.reset.discard(secured)

    def shutdown_request(self, request: Any) -> None:
        # A FIN before the RST would let the client see a good end.
        if request in self.reset:
            self.reset.discard(request)
            self.close_request(request)
        else:
            super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        problem = sys.exc_info()[1]
        if not isinstance(problem, (OSError, HangupError)):
            self.gateway.errors.append(traceback.format_exc())

    def stop(self) -> None:
        self.shutdown()
        self.server_close()
        with self.lock:
            connections, threads = list(self.connections), list(self.threads)
        for connection in connections:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        for thread in [*threads, self.loop]:
            thread.join(5)

    def server_close(self) -> None:
        # ThreadingMixIn would wait here for threads that only the shutdown above ends.
        socketserver.TCPServer.server_close(self)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Server

    def log_message(self, *args: Any) -> None:
        if self.server.gateway.verbose:
            sys.stderr.write(f"gateway: {self.server.origin} {args[0] % args[1:]}\n")

    def do_GET(self) -> None:
        request = self._receive()
        if request is None:
            return
        gateway = self.server.gateway
        gateway.remember(request)
        order = gateway.faults.take(request)
        reply = self._work(request, order or Fault())
        Delivery(self, request, reply, order or Fault()).send()

    do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = do_GET  # noqa: N815

    def _receive(self) -> Request | None:
        length = self.headers.get("Content-Length") or "0"
        good = not self.headers.get("Transfer-Encoding") and re.fullmatch("[0-9]{1,9}", length)
        if not good or int(length) > BODY_BYTES_MAX:
            self.close_connection = True
            self.wfile.write(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\n"
                             b"Connection: close\r\n\r\n")
            return None
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            raise HangupError
        parts = urlsplit(self.path)
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        return Request(self.command, self.path, parts.path, query, self.headers, body, self.server.origin)

    def _work(self, request: Request, order: Fault) -> Reply:
        if order.act is not None:
            order.act(request)
        wanted = not order.answers if order.work is None else order.work
        if not wanted:
            return Reply(200)
        try:
            return self.server.answer(order.alter_request(request))
        except Exception:
            self.server.gateway.errors.append(traceback.format_exc())
            return Reply(500, {"Content-Type": "text/plain"}, b"the gateway has a bug\n")


class Delivery:
    """Writes one reply, and does to it what the order says."""

    def __init__(self, handler: Handler, request: Request, reply: Reply, order: Fault) -> None:
        self.handler, self.request, self.order = handler, request, order
        self.gateway = handler.server.gateway
        self.reply = order.alter_reply(reply)
        self.pending = b""      # the head waits for the first piece: one write, one packet
        self.chunked = False
        ends = (order.cut, order.reset, order.stall)
        self.end = next((at for at in ends if at is not None), None)

    def send(self) -> None:
        self.request.status = self.reply.status
        if self.end == BEFORE_HEAD:
            self._strike()
        for status in self.order.interim:
            phrase = http.client.responses.get(status, "Interim")
            self.handler.wfile.write(f"HTTP/1.1 {status} {phrase}\r\nLink: </>; rel=preload\r\n\r\n".encode())
        self.pending = self._head()
        if self.request.method != "HEAD" and self.reply.status not in (204, 304):
            self._body()
        if self.pending:
            self._write(b"")
        self.handler.log_message('"%s %s" %s %s', self.request.method, self.request.target,
                                 self.request.status, self.request.sent_bytes)
        if self.order.hangup:
            self.handler.close_connection = True

    def _head(self) -> bytes:
        reply, order, handler = self.reply, self.order, self.handler
        date = format_datetime(self.gateway.clock().astimezone(timezone.utc), usegmt=True)
        headers: dict[str, str] = {"Date": date, **reply.headers}
        if reply.status not in (204, 304):
            self.chunked = order.framing == "chunked" or (reply.length is None and order.framing != "close")
            if self.chunked:
                headers["Transfer-Encoding"] = "chunked"
            elif order.framing == "close":
                handler.close_connection = True
            else:
                headers["Content-Length"] = str(reply.length)
        if handler.close_connection:
            headers["Connection"] = "close"
        for name, value in order.head.items():
            headers = {known: text for known, text in headers.items() if known.lower() != name.lower()}
            headers.update({} if value is None else {name: value})
        phrase = http.client.responses.get(reply.status, "Unknown")
        lines = [f"HTTP/1.1 {reply.status} {phrase}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")

    def _body(self) -> None:
        sent = 0
        for piece in self._pieces():
            cut = 0
            if self.end is not None and sent + len(piece) > self.end:
                cut = self.end - sent
                self._write(piece[:cut])
                self._strike()
            self._write(piece[cut:])
            sent += len(piece)
            if self.order.drip and self.gateway.store.stopping.wait(self.order.drip):
                raise HangupError
        if self.end is not None and sent == self.end:
            self._write(b"")
            self._strike()
        if self.chunked:
            self.handler.wfile.write(b"0\r\n\r\n")
        elif self.order.extra or "Content-Length" in self.order.head:
            self.handler.close_connection = True

    def _pieces(self) -> Iterator[bytes]:
        count = 0
        for piece in self.order.alter_pieces(self.reply.pieces(self.order.piece)):
            yield piece
            if not piece.startswith(b"id:"):
                continue
            count += 1
            if count == self.order.events:
                return
            if count == self.order.mute:
                self._silence()

    def _write(self, piece: bytes) -> None:
        framed = b"%x\r\n%b\r\n" % (len(piece), piece) if self.chunked and piece else piece
        if self.pending or framed:
            self.handler.wfile.write(self.pending + framed)
        self.pending = b""
        self.request.sent_bytes += len(piece)

    def _silence(self) -> None:
        if self.gateway.store.stopping.wait(self.order.silence):
            raise HangupError

    def _strike(self) -> None:
        """The ordered end of the transfer is reached. Returns only after a stall."""
        at, self.end = self.end, None
        if self.order.stall == at:
            self._silence()
            return
        if self.order.reset == at:
            self._reset()
        self.handler.close_connection = True
        raise HangupError

    def _reset(self) -> None:
        """RST instead of FIN, once the client's side has all that was sent before."""
        connection = self.handler.connection
        drain(connection)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.handler.server.reset.add(connection)


def drain(connection: socket.socket) -> None:
    """Waits (2 s at most) until the kernel has delivered everything; otherwise a reset would eat it."""
    try:
        import fcntl
        import termios
        for _ in range(2000):
            unsent = fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, b"\0" * 4)
            if struct.unpack("i", unsent)[0] == 0:
                return
            time.sleep(0.001)
    except (ImportError, OSError):
        return


# ========================================================================================= gateway

class Gateway:
    """Everything together. Use it as a context manager; see the top of this file."""

    def __init__(self, data: str | Path, *, pace: float = 0.0, port: int = 0, object_port: int = 0,
                 key: str | Path | None = None, other_key: str | Path | None = None,
                 tls: bool = False, client_certificates: bool = False, records: int = 0, max_active: int = 8,
                 heartbeat: float = 15.0, retry_ms: int = 20, prefix: str = "", links: str = "relative",
                 oci_ref: str = "registry.example.com/exports/{tenant}:{runId}", sigstore: bool = False,
                 clock: Callable[[], datetime] | None = None, verbose: bool = False) -> None:
        """`key`, `other_key`: private keys to use instead of new ones. `links`: relative, absolute or
        none. `oci_ref` may contain {tenant}, {runId} and {objects} (the second origin's host and
        port). `sigstore`: signatures are Sigstore bundles. `clock`: an aware "now"."""
        self.data, self.pace, self.records, self.max_active = Path(data), pace, records, max_active
        self.heartbeat, self.retry_ms, self.prefix = heartbeat, retry_ms, prefix.rstrip("/")
        self.links, self.oci_ref, self.sigstore, self.verbose = links, oci_ref, sigstore, verbose
        self.clock = clock or (lambda: datetime.now(timezone.utc))
        self.tenant = TENANTS[0]
        given = {tenant: Path(path) for tenant, path in zip(TENANTS, (key, other_key)) if path}
        self.data.mkdir(parents=True, exist_ok=True)
        self.keys = Keyring(self.data / "keys", given)
        self.store = Store(self.data / "runs", self.clock)
        self.faults = Faults()
        self.errors: list[str] = []
        self.ca_file: Path | None = None
        self.client_cert: tuple[Path, Path] | None = None
        self._recorded: list[Request] = []
        self._record_lock = threading.Lock()
        self._run_threads: list[threading.Thread] = []
        self.tokens, self.callers = self._make_tokens()
        context = self._make_context(client_certificates) if tls else None
        self._servers = [Server(self, "gateway", port, Api(self).answer, context),
                         Server(self, "object", object_port, ObjectStore(self.store).answer, context)]
        scheme = "https" if tls else "http"
        self.origin, self.object_url = (f"{scheme}://127.0.0.1:{server.server_port}"
                                        for server in self._servers)
        self.url = self.origin + self.prefix

    def _make_tokens(self) -> tuple[dict[str, str], dict[str, Caller]]:
        wanted: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
            "all": (TENANTS[:1], SCOPES), **{scope: (TENANTS[:1], (scope,)) for scope in SCOPES},
            "multi": (TENANTS, SCOPES), "globex": (TENANTS[1:], SCOPES)}
        tokens = {name: f"stk-{secrets.token_urlsafe(24)}" for name in wanted}
        return tokens, {tokens[name]: Caller(tokens[name], tenants, scopes, tenants[0])
                        for name, (tenants, scopes) in wanted.items()}

    def _make_context(self, client_certificates: bool) -> ssl.SSLContext:
        authority = CertificateAuthority(self.data / "tls")
        self.ca_file = authority.certificate
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*authority.issue("server", "serverAuth", "DNS:localhost,IP:127.0.0.1,IP:::1"))
        if client_certificates:
            self.client_cert = authority.issue("client", "clientAuth")
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(self.ca_file)
        return context

    # -- life

    def __enter__(self) -> Gateway:  # noqa: PYI034  (Self is younger than Python 3.9)
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, problem: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.stop()
        # A bug in here must not pass for a fault that some client handled well.
        if self.errors and problem is None:
            raise RuntimeError("the gateway itself failed:\n" + "\n".join(self.errors))

    def start(self) -> None:
        for server in self._servers:
            server.loop.start()

    def stop(self) -> None:
        self.store.stopping.set()
        with self.store.changed:
            self.store.changed.notify_all()
        for server in self._servers:
            server.stop()
        for thread in self._run_threads:
            thread.join(5)

    # -- keys and tokens

    @property
    def token(self) -> str:
        return self.tokens["all"]

    @property
    def private_key(self) -> Path:
        return self.keys.private(self.tenant)

    @property
    def public_key(self) -> Path:
        return self.keys.public(self.tenant)

    @property
    def other_public_key(self) -> Path:
        return self.keys.public(TENANTS[1])

    @property
    def other_private_key(self) -> Path:
        return self.keys.private(TENANTS[1])

    def sign(self, data: bytes, tenant: str = TENANTS[0]) -> str:
        """What `?signature=true` answers: base64, or a Sigstore bundle."""
        signature = base64.b64encode(self.keys.sign(data, tenant)).decode("ascii")
        if not self.sigstore:
            return signature
        digest = base64.b64encode(hashlib.sha256(data).digest()).decode("ascii")
        return canonical({"mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
                          "verificationMaterial": {"publicKey": {"hint": f"{tenant}-export"}},
                          "messageSignature": {"messageDigest": {"algorithm": "SHA2_256", "digest": digest},
                                               "signature": signature}}).decode("ascii")

    # -- records of what arrived

    def remember(self, request: Request) -> None:
        with self._record_lock:
            self._recorded.append(request)

    @property
    def requests(self) -> list[Request]:
        with self._record_lock:
            return list(self._recorded)

    def find_requests(self, method: str = ".*", path: str = "", origin: str = "") -> list[Request]:
        pattern = Fault(method, path, origin=origin)
        return [request for request in self.requests if pattern.matches(request)]

    @property
    def object_authorizations(self) -> list[str]:
        """Credentials that reached the object store, which must not get any."""
        return [value for request in self.requests if request.origin == "object"
                for value in request.headers.get_all("Authorization") or []]

    # -- faults

    def order(self, *faults: Fault) -> Fault:
        for fault in faults:
            self.faults.add(fault)
        return faults[-1]

    # -- runs

    def run_document(self, run: Run) -> JSON:
        root = self.origin if self.links == "absolute" else ""
        base = f"{root}{self.prefix}/api/export/runs/{run.run_id}"
        names = ("events", "download", "manifest", "provenance")
        links = {} if self.links == "none" else {"self": base, **{name: f"{base}/{name}" for name in names}}
        return run.document(links)

    def start_run(self, run: Run) -> None:
        thread = threading.Thread(target=Exporter(self, run).work, name=run.run_id, daemon=True)
        self._run_threads.append(thread)
        thread.start()

    def _new_run(self, profile_id: str, selectors: JSON | None, tenant: str | None,
                 allow_empty: bool = False, snapshot: str | None = None) -> Run:
        tenant = tenant or self.tenant
        return self.store.add_run(tenant, self.store.profiles[tenant][profile_id],
                                  dict(selectors or {}), snapshot, allow_empty)

    def make_run(self, profile_id: str = "prof-json-raw", selectors: JSON | None = None, *, wait: bool = True,
                 tenant: str | None = None, allow_empty: bool = False, snapshot: str | None = None) -> JSON:
        """Submits without HTTP and quota. With `wait`, returns the finished run."""
        run = self._new_run(profile_id, selectors, tenant, allow_empty, snapshot)
        self.start_run(run)
        return self.wait(run.run_id) if wait else self.show(run.run_id)

    def make_bundle_run(self, content: bytes | str | Path | None = None, *, name: str = "export.tar.zst",
                        members: Mapping[str, bytes] | Sequence[tuple[str, bytes]] | None = None,
                        profile_id: str = "prof-json-raw", tenant: str | None = None,
                        edit_manifest: Callable[[JSON], Any] | None = None,
                        edit_provenance: Callable[[JSON], Any] | None = None) -> JSON:
        """A finished, signed run whose bundle is `content` (bytes, or a file that stays where it is),
        or an archive of `members`. `members` become the manifest's artifacts. The edits get a document
        and return what is signed in its place (a document, or bytes)."""
        run = self._new_run(profile_id, None, tenant)
        listed = list(members.items() if isinstance(members, Mapping) else members or ())
        bundle = self._bundle_file(run, content, name, listed)
        exporter = Exporter(self, run)
        with self.store.changed:
            run.status = "running"
            run.started = self.store.now()
            run.progress = progress_of(100, "distribute", len(listed), len(listed))
            self.store.tell(run, "run.started", {"status": "running"})
        exporter.sign(bundle, listed, {"files": len(listed)}, edit_manifest, edit_provenance)
        exporter.distribute(bundle)
        self.store.finish(run, "succeeded")
        return self.show(run.run_id)

    def _bundle_file(self, run: Run, content: bytes | str | Path | None, name: str,
                     members: list[tuple[str, bytes]]) -> Blob:
        kind = MEDIA_TYPES[compression_of(name)]
        if isinstance(content, (str, Path)):
            return Blob.of(Path(content), kind, name)
        path = self.store.folder / run.run_id / f"bundle-{secrets.token_hex(4)}"
        if content is None:
            pack(path, members, compression_of(name))
        else:
            path.write_bytes(content)
        return Blob.of(path, kind, name)

    def change_bundle(self, run_id: str, content: bytes | str | Path, consistent: bool = True) -> None:
        """Other bytes and another ETag from now on. `consistent`: the run and its signed documents say
        so too; otherwise only the download changes (with its X-Export-Digest)."""
        run = self.store.runs[run_id]
        shown = self.run_document(run)
        old = run.bundle
        bundle = self._bundle_file(run, content, old.name if old else "export.tar", [])
        exporter = Exporter(self, run)
        with self.store.changed:
            if consistent:
                exporter.sign(bundle, [], {})
            else:
                run.overrides.setdefault("bundle", shown["bundle"])
            exporter.distribute(bundle)

    def patch_run(self, run_id: str, **fields: Any) -> None:
        """These fields of the run's document are from now on as given (links={...}, bundle=None...)."""
        with self.store.changed:
            self.store.runs[run_id].overrides.update(fields)
            self.store.changed.notify_all()

    def show(self, run_id: str) -> JSON:
        with self.store.changed:
            return self.run_document(self.store.runs[run_id])

    def wait(self, run_id: str, timeout: float = 30.0) -> JSON:
        with self.store.changed:
            if not self.store.changed.wait_for(lambda: not self.store.runs[run_id].active, timeout):
                raise TimeoutError(f"{run_id} is still {self.store.runs[run_id].status}")
            return self.run_document(self.store.runs[run_id])

    def expire(self, run_id: str) -> None:
        """An active run ends with the event run.expired; a finished one loses its bundle (410)."""
        with self.store.changed:
            run = self.store.runs[run_id]
            if run.active:
                run.ending = "expired"
                self.store.cancel(run, "the run took too long")
            else:
                run.status, run.updated = "expired", self.store.now()
        self.wait(run_id)

    def emit(self, run_id: str, kind: str, data: JSON) -> None:
        """An event out of the ordinary (unknown types, control characters in a message...)."""
        self.store.tell(self.store.runs[run_id], kind, data)

    def fail_at(self, phase: str, code: str = "", message: str = "ordered by a test") -> None:
        """The next run that gets to `phase` (queued, adapter, pack, sign, distribute, finish) fails."""
        codes = {"sign": "ERR_EXPORT_005", "distribute": "ERR_EXPORT_006"}
        with self.store.changed:
            failure = RunFailedError(code or codes.get(phase, "ERR_EXPORT_004"), message)
            self.store.failures.append((phase, failure))

    # -- holding runs

    def hold(self, *phases: str) -> None:
        """Runs stop before every step, or before the named ones, until step() or release().

        The steps: queued, adapter (four times), pack, sign, distribute, finish."""
        with self.store.changed:
            self.store.held, self.store.permits = set(phases), 0

    def release(self) -> None:
        with self.store.changed:
            self.store.held = None
            self.store.changed.notify_all()

    def settle(self, timeout: float = 10.0) -> None:
        """Returns when every active run is stopped at a hold, or finished."""
        with self.store.changed:
            idle = self.store.changed.wait_for(lambda: self.store.permits == 0 and all(
                run.parked or not run.active for run in self.store.runs.values()), timeout)
        if not idle:
            raise TimeoutError("a run neither stopped nor finished: is hold() in force?")

    def step(self, count: int = 1) -> None:
        """Lets one step (of whichever run comes first) pass, `count` times."""
        for _ in range(count):
            self.settle()
            with self.store.changed:
                if not any(run.active for run in self.store.runs.values()):
                    return
                self.store.permits += 1
                self.store.changed.notify_all()
            self.settle()

    def describe(self) -> JSON:
        """What a client needs to know, for `--json`."""
        return {"url": self.url, "objectUrl": self.object_url, "token": self.token, "tenant": self.tenant,
                "publicKey": str(self.public_key), "otherPublicKey": str(self.other_public_key),
                "tokens": self.tokens, "caFile": str(self.ca_file) if self.ca_file else None}


# =========================================================================================== entry

def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="A local Export Center, for tests and demonstrations.")
    parser.add_argument("--data", required=True, metavar="DIR", help="keys, bundles and certificates go here")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one (default)")
    parser.add_argument("--object-port", type=int, default=0, help="the object store's port")
    parser.add_argument("--key", metavar="FILE", help="use this P-256 private key for tenant acme")
    parser.add_argument("--pace", type=float, default=0.1, metavar="SECONDS",
                        help="time per step (default 0.1)")
    parser.add_argument("--records", type=int, default=0, metavar="N", help="extra synthetic records")
    parser.add_argument("--max-active", type=int, default=8, metavar="N",
                        help="active runs per tenant (default 8)")
    parser.add_argument("--heartbeat", type=float, default=15.0, metavar="SECONDS", help="default 15")
    parser.add_argument("--tls", action="store_true", help="serve https with a CA made in DIR")
    parser.add_argument("--json", action="store_true", help="print one JSON line")
    parser.add_argument("--verbose", action="store_true", help="a line per request on stderr")
    return parser


def announce(gateway: Gateway, as_json: bool) -> None:
    told = gateway.describe()
    if as_json:
        print(json.dumps(told), flush=True)
        return
    lines = [f"url: {told['url']}", f"object url: {told['objectUrl']}", f"token: {told['token']}",
             f"tenant: {told['tenant']}", f"public key: {told['publicKey']}",
             f"other public key: {told['otherPublicKey']}"]
    lines += [f"ca file: {told['caFile']}"] if told["caFile"] else []
    lines += [f"token {name}: {value}" for name, value in told["tokens"].items() if name != "all"]
    print("\n".join(lines), flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    options = build_parser().parse_args(argv)
    # The interpreter's own wake-up pipe: a Python handler can come too late to end a wait that has just
    # begun, and one that sets an Event can deadlock with it.
    told, tell = os.pipe()
    os.set_blocking(tell, False)
    signal.set_wakeup_fd(tell)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    gateway = Gateway(options.data, pace=options.pace, port=options.port, object_port=options.object_port,
                      key=options.key, tls=options.tls, records=options.records,
                      max_active=options.max_active, heartbeat=options.heartbeat, retry_ms=1000,
                      verbose=options.verbose)
    with gateway:
        announce(gateway, options.json)
        os.read(told, 1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
