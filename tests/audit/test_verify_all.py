"""Verification, the slow and the isolated: every attack with every verifier, thousands of signatures beside openssl,
an empty network namespace, strace, and a real registry from Debian's packages.

Needs unshare (util-linux, as root or with user namespaces), strace, apt-get and Debian's package sources.
"""

from __future__ import annotations

import hashlib
import http.client
import io
import json
import os
import random
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

import attacks
import stella
from attacks import ATTACKS, RUN_ID, Kit, N, changed, der_signature, public_key, read_integers, sign
from conftest import ROOT, STELLA, surroundings

COSIGNS = {"cosign-2": str(ROOT / "vendor/bin/cosign-2"), "cosign-3": str(ROOT / "vendor/bin/cosign-3")}
VERIFIERS = ("builtin", "openssl", *COSIGNS)


@pytest.mark.parametrize("verifier", VERIFIERS)
def test_every_attack_has_one_verdict(cli, tmp_path, monkeypatch, verifier):
    attacks.remember_answers(monkeypatch)
    env = {"STELLA_COSIGN": COSIGNS[verifier]} if verifier in COSIGNS else {}
    for name, row in ATTACKS.items():
        kit = Kit()
        row.bend(kit)
        words = kit.write(tmp_path / name)
        if "--run" in words:
            words = [word if word != RUN_ID else "run-of-another-day" for word in words if word != "--run"]
        done = cli(*words, "--verifier", verifier.partition("-")[0], env=env)
        assert done.code == row.exit, (name, done)
        if row.exit != 30:
            failed = [check["name"] for check in done.json()["checks"] if check["status"] == "fail"]
            assert sorted(failed) == sorted(row.checks), (name, done)


# ---------------------------------------------------------------------------------------- beside openssl


def mutate(raw: bytes, source: random.Random) -> bytes:
    """A signature that is a little, or a lot, other than a good one; some of them are good all the same."""
    r, s = read_integers(raw)
    way = source.randrange(8)
    if way == 0:
        return raw
    if way == 1:
        return der_signature(r, N - s)
    if way == 2:
        return der_signature(r ^ 1 << source.randrange(250), s)
    if way == 3:
        return der_signature(r, s ^ 1 << source.randrange(250))
    if way == 4:
        return der_signature(source.choice((1, 2, N - 1, N, N + 1, r + N)), source.choice((s, 1, N - 1, N)))
    data = bytearray(raw)
    if way == 5:
        data[source.randrange(len(data))] ^= 1 << source.randrange(8)
    elif way == 6:
        del data[source.randrange(len(data))]
    else:
        data.insert(source.randrange(len(data) + 1), source.randrange(256))
    return bytes(data)


def ours(key: stella.PublicKey, blob: bytes, raw: bytes) -> bool:
    try:
        r, s = stella.parse_ecdsa_signature(raw)
    except stella.DerError:
        return False
    return stella.verify_p256((key.numbers[0], key.numbers[1]), hashlib.sha256(blob).digest(), r, s)


def test_builtin_ecdsa_agrees_with_openssl(tmp_path):
    """3,000 signatures under two keys; where they differ, ours refuses an encoding that openssl lets pass."""
    source, counts = random.Random(20251029), {"good": 0, "bad": 0, "stricter": 0}
    paths = {name: tmp_path / name for name in ("key", "blob", "sig")}
    for kind in ("P-256", "other"):
        paths["key"].write_bytes(public_key(kind))
        key = stella.parse_public_key(public_key(kind))
        for turn in range(1500):
            blob = b"blob %d" % (turn % 100)
            raw = mutate(sign(blob, kind), source)
            paths["blob"].write_bytes(blob)
            paths["sig"].write_bytes(raw)
            command = ["openssl", "dgst", "-sha256", "-verify", paths["key"], "-signature", paths["sig"]]
            theirs = subprocess.run([*command, paths["blob"]], capture_output=True, check=False).returncode == 0
            mine = ours(key, blob, raw)
            assert theirs or not mine, raw.hex()
            if theirs and not mine:
                with pytest.raises(stella.DerError):
                    stella.parse_ecdsa_signature(raw)
            counts["good" if mine else "stricter" if theirs else "bad"] += 1
    assert counts["good"] > 500, counts
    assert counts["bad"] > 1000, counts


# ---------------------------------------------------------------------------------------- beside tarfile

FIRST, *REST = attacks.MEMBERS
RESIZED = attacks.pax(size=str(len(FIRST[1]))) + attacks.tar_header(FIRST[0], 0) + attacks.padded(FIRST[1])
SEEDS = (
    attacks.tar(),
    attacks.GLOBAL + attacks.tar(),
    attacks.pax(path=FIRST[0], mtime="1.5") + attacks.tar(),
    RESIZED + attacks.tar(REST),
    attacks.tar_member("advisories.jsonl", FIRST[1], prefix=b"data") + attacks.tar(REST),
)


def bend_header(data: bytearray, source: random.Random) -> None:
    """Some bytes in and behind one header, and its checksum made right again."""
    place = source.choice([at for at in range(0, len(data), 512) if data[at + 257 : at + 262] == b"ustar"])
    for _ in range(source.choice((1, 1, 1, 2, 3))):
        at = place + source.randrange(512 if source.random() < 0.8 else min(1024, len(data) - place))
        data[at] = source.choice((*b"\0 /.015 7Lxg", source.randrange(256)))
    data[place + 148 : place + 156] = b" " * 8
    data[place + 148 : place + 156] = b"%06o\0 " % sum(data[place : place + 512])


def test_what_passes_is_read_the_same_by_tarfile():
    """6,000 bent archives: where our reader is content, Python's finds just the same members and bytes."""
    source, passed = random.Random(20251029), 0
    artifacts = {path: (len(data), attacks.sha256(data)) for path, data in attacks.MEMBERS}
    for _ in range(6000):
        data = bytearray(source.choice(SEEDS))
        bend_header(data, source)
        if stella.check_members(artifacts, io.BytesIO(data).readinto, hashlib.sha256).status != "pass":
            continue
        passed += 1
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            found = {item.name: (item.size, attacks.sha256(archive.extractfile(item).read())) for item in archive}
        assert found == artifacts, bytes(data)
    assert passed > 500


# ------------------------------------------------------------------------------------------ no network


def verify_command(folder: Path, verifier: str, form: str) -> tuple[list[str], dict[str, str]]:
    kit = Kit()
    if form == "bundle":
        kit.signature = attacks.sigstore
    words = kit.write(folder)
    env = {"STELLA_COSIGN": COSIGNS[verifier]} if verifier in COSIGNS else {}
    command = [sys.executable, str(STELLA), "export", *words, "--verifier", verifier.partition("-")[0]]
    return command, surroundings(env=env)


@pytest.mark.parametrize("form", ["signature", "bundle"])
@pytest.mark.parametrize("verifier", VERIFIERS)
def test_works_in_an_empty_network_namespace(tmp_path, verifier, form):
    command, env = verify_command(tmp_path, verifier, form)
    isolated = ["unshare", "-n", *(() if os.geteuid() == 0 else ("-r",)), *command]
    done = subprocess.run(isolated, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done
    assert json.loads(done.stdout)["verified"] is True


@pytest.mark.parametrize("form", ["signature", "bundle"])
@pytest.mark.parametrize("verifier", VERIFIERS)
def test_opens_no_internet_socket(tmp_path, verifier, form):
    command, env = verify_command(tmp_path / "kit", verifier, form)
    trace = ["strace", "-f", "-qq", "-e", "trace=socket,connect,sendto,execve", "-o", str(tmp_path / "trace")]
    done = subprocess.run([*trace, *command], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done
    calls = (tmp_path / "trace").read_text().splitlines()
    assert any("execve(" in call for call in calls)
    assert verifier == "builtin" or sum(verifier in call and "execve(" in call for call in calls) >= 4
    assert not [call for call in calls if "AF_INET" in call]


# -------------------------------------------------------------------------------------------- a registry


@pytest.fixture(scope="module")
def registry_program(tmp_path_factory):
    """Debian's docker-registry, downloaded and unpacked, not installed."""
    installed = shutil.which("docker-registry")
    if installed:
        return installed
    folder = tmp_path_factory.mktemp("registry")
    subprocess.run(["apt-get", "download", "-q", "docker-registry"], cwd=folder, check=True, capture_output=True)
    package = next(folder.glob("docker-registry_*.deb"))
    subprocess.run(["dpkg-deb", "-x", str(package), str(folder / "root")], check=True)
    return str(next((folder / "root").rglob("bin/docker-registry")))


@pytest.fixture
def registry(registry_program, tmp_path):
    """(host:port, digest) of a running registry that holds exports/acme:1."""
    config, log = tmp_path / "config.yml", tmp_path / "registry.log"
    storage = f"{{filesystem: {{rootdirectory: {tmp_path}/data}}}}"
    config.write_text(f"version: 0.1\nlog: {{level: info}}\nstorage: {storage}\nhttp: {{addr: 127.0.0.1:0}}\n")
    with log.open("wb") as stream:
        child = subprocess.Popen([registry_program, "serve", str(config)], stdout=stream, stderr=stream)
    try:
        host = ""
        for _ in range(200):
            found = [line.partition("listening on ")[2].split('"')[0].strip() for line in log.read_text().splitlines()
                     if "listening on " in line]
            if found:
                host = found[0]
                break
            time.sleep(0.05)
        assert host, log.read_text()
        yield host, push(host)
    finally:
        child.terminate()
        child.wait()


def push(host: str) -> str:
    """An image manifest with an empty config, by the distribution API; its digest."""
    link = http.client.HTTPConnection(host, timeout=10)

    def ask(method, path, body=b"", **headers):
        link.request(method, path, body, headers)
        answer = link.getresponse()
        answer.read()
        assert answer.status in (201, 202), (method, path, answer.status)
        return answer.headers

    config = b"{}"
    digest = "sha256:" + hashlib.sha256(config).hexdigest()
    place = ask("POST", "/v2/exports/acme/blobs/uploads/")["Location"].partition(host)[2]
    ask("PUT", f"{place}&digest={digest}", config, **{"Content-Type": "application/octet-stream"})
    media = "application/vnd.oci.image.manifest.v1+json"
    descriptor = {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest, "size": len(config)}
    image = json.dumps({"schemaVersion": 2, "mediaType": media, "config": descriptor, "layers": []}).encode()
    stated = ask("PUT", "/v2/exports/acme/manifests/1", image, **{"Content-Type": media})["Docker-Content-Digest"]
    assert stated == "sha256:" + hashlib.sha256(image).hexdigest()
    link.close()
    return stated


REGISTRY_CASES = {
    # name: (reference after the host, digest or None for the right one, exit, status)
    "by-tag": ("/exports/acme:1", None, 0, "pass"),
    "by-digest": ("/exports/acme@{digest}", None, 0, "pass"),
    "by-tag-and-digest": ("/exports/acme:1@{digest}", None, 0, "pass"),
    "other-digest": ("/exports/acme:1", "sha256:" + "0" * 64, 20, "fail"),
    "no-such-tag": ("/exports/acme:2", None, 20, "fail"),
    "no-such-repository": ("/exports/globex:1", None, 20, "fail"),
}


@pytest.mark.parametrize("name", sorted(REGISTRY_CASES))
def test_oci_descriptor_at_a_real_registry(cli, registry, tmp_path, name):
    host, right = registry
    ref, digest, code, status = REGISTRY_CASES[name]
    descriptor = {"type": "oci", "ref": host + ref.format(digest=right), "digest": digest or right}
    kit = Kit()
    kit.edit_manifest = lambda document: changed(document, "distribution", [descriptor])
    done = cli(*kit.write(tmp_path / "kit"), "--verifier", "builtin")
    found = {check["name"]: check["status"] for check in done.json()["checks"]}
    assert (done.code, found["oci"]) == (code, status), done
