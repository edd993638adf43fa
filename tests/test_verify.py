"""verify around its attacks: the report, --kit, the verifiers and their one verdict, registries, age, mutations."""

from __future__ import annotations

import base64
import functools
import hashlib
import itertools
import json
import os
import random
import shutil
import socket
import stat
import sys
import types
import zlib
from pathlib import Path

import pytest

import attacks
import stella
from attacks import CREATED, MEMBERS, RUN_ID, Kit, changed, der_signature, openssl, public_key, read_integers, sign
from conftest import ROOT

COSIGNS = {"cosign-2": str(ROOT / "vendor/bin/cosign-2"), "cosign-3": str(ROOT / "vendor/bin/cosign-3")}
VERIFIERS = ("builtin", "openssl", *COSIGNS)
CHECKS = [
    "manifest-signature",
    "provenance-signature",
    "run-id",
    "manifest-digest",
    "bundle-digest",
    "bundle",
    "artifacts",
    "oci",
    "age",
]


@pytest.fixture(autouse=True)
def _a_question_is_asked_once(monkeypatch):
    attacks.remember_answers(monkeypatch)


def run(cli, words, verifier="builtin", **options):
    env = {"STELLA_COSIGN": COSIGNS[verifier]} if verifier in COSIGNS else {}
    return cli(*words, "--verifier", verifier.partition("-")[0], env={**env, **options})


def statuses(done):
    return {check["name"]: check["status"] for check in done.json()["checks"]}


def failing(done):
    return [name for name, status in statuses(done).items() if status == "fail"]


def detail(done, name):
    return next(check["detail"] for check in done.json()["checks"] if check["name"] == name)


def program(folder: Path, name: str, text: str) -> str:
    path = folder / name
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(0o755)
    return str(path)


# -------------------------------------------------------------------------------------------- the report


def test_report_says_what_was_checked_by_whom_and_from_which_bytes(cli, tmp_path):
    words = Kit().write(tmp_path)
    report = run(cli, words, "openssl").json()
    assert list(report) == ["runId", "tenant", "createdAt", "verified", "verifier", "key", "checks", "files",
                            "unlisted"]
    assert (report["runId"], report["tenant"], report["createdAt"]) == (RUN_ID, "acme", CREATED)
    der = base64.b64decode(b"".join(public_key("P-256").splitlines()[1:-1]))
    assert report["key"] == {"kind": "P-256", "sha256": hashlib.sha256(der).hexdigest()}
    path = shutil.which("openssl")
    assert report["verifier"]["path"] == path
    assert report["verifier"]["sha256"] == hashlib.sha256(Path(path).read_bytes()).hexdigest()
    assert report["verifier"]["version"].startswith(("OpenSSL ", "LibreSSL "))
    assert [check["name"] for check in report["checks"]] == CHECKS
    read = {file["role"]: Path(file["path"]).read_bytes() for file in report["files"]}
    assert list(read) == ["manifest", "provenance", "manifest-signature", "provenance-signature", "key", "bundle"]
    for file in report["files"]:
        data = read[file["role"]]
        assert (file["size"], file["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())


def test_table_ends_with_the_verdict_and_says_what_was_not_checked(cli, tmp_path):
    words = Kit().write(tmp_path)
    del words[words.index("--bundle") : words.index("--bundle") + 2]
    lines = run(cli, [*words, "--format", "table"]).out.splitlines()
    assert lines[-1] == f"run {RUN_ID}: verified, documents only; --bundle checks the bundle too"
    assert lines[-2] == "not checked: bundle, artifacts, oci, age"
    assert f"signed   tenant acme, created {CREATED}" in lines
    assert sum("verified" in line for line in lines) == 1


def test_the_report_never_takes_the_place_of_what_it_is_about(cli, tmp_path):
    words = Kit().write(tmp_path)
    manifest = words[words.index("--manifest") + 1]
    before = Path(manifest).read_bytes()
    done = run(cli, [*words, "--output", manifest])
    assert (done.code, Path(manifest).read_bytes()) == (2, before)
    assert "is one of the files to verify" in done.err


def test_a_verifier_that_may_be_run_and_not_read_has_no_digest(tmp_path):
    assert stella.program_digest(str(tmp_path / "gone")) is None


@pytest.mark.parametrize("name", sorted(attacks.STOLEN))
def test_a_refusal_never_holds_the_word(cli, tmp_path, name):
    kit = Kit()
    attacks.STOLEN[name].bend(kit)
    words = [word if word != RUN_ID else "other" for word in kit.write(tmp_path) if word != "--run"]
    done = run(cli, [*words, "--format", "table"])
    assert done.code in (20, 30)
    assert "verified" not in (done.out + done.err).lower().replace(str(tmp_path).lower(), ""), done


def test_what_is_not_signed_is_not_repeated(cli, tmp_path):
    kit = Kit()
    kit.after = {"export.json": lambda data: data.replace(b'"acme"', b'"evil"')}
    report = run(cli, kit.write(tmp_path)).json()
    assert (report["tenant"], report["createdAt"], report["verified"]) == (None, None, False)


def test_every_check_runs_even_where_all_fail(cli, tmp_path):
    kit = Kit()
    kit.after = {
        "export.json": lambda data: data.replace(b"acme", b"evil"),
        "export.tar": lambda data: data[:-1024],
        "provenance.json.sig": lambda _: b"",
    }
    kit.edit_provenance = lambda d: changed(changed(d, "predicate.runId", "x"), "subject.1.digest.sha256", "0" * 64)
    kit.words = ["--max-age", "1"]
    done = run(cli, kit.write(tmp_path))
    assert failing(done) == [
        "manifest-signature",
        "provenance-signature",
        "run-id",
        "manifest-digest",
        "bundle-digest",
        "bundle",
        "artifacts",
        "age",
    ]


def test_output_takes_the_report(cli, tmp_path):
    words = Kit().write(tmp_path)
    done = run(cli, [*words, "--output", tmp_path / "report.json"])
    assert (done.code, json.loads((tmp_path / "report.json").read_text())["verified"]) == (0, True)


# ------------------------------------------------------------------------------------------------ --kit


def in_kit(folder, *more):
    return ["verify", RUN_ID, "--kit", str(folder), "--key", str(folder / "acme.pub"), *more]


def test_kit_takes_every_file_from_the_folder(cli, tmp_path):
    Kit().write(tmp_path)
    done = run(cli, in_kit(tmp_path))
    assert done.code == 0, done
    assert statuses(done)["artifacts"] == "pass"


KIT_FAULTS = {
    # name: (what happens to the folder, exit, failing checks, words of the message)
    "no-manifest": (lambda f: (f / "export.json").unlink(), 30, [], "cannot read the manifest"),
    "no-provenance": (lambda f: (f / "provenance.json").unlink(), 30, [], "cannot read the provenance"),
    "no-bundle": (lambda f: (f / "export.tar").unlink(), 30, [], "cannot read the bundle"),
    "no-signature": (lambda f: (f / "export.json.sig").unlink(), 20, ["manifest-signature"], "no signature file"),
    "fifo-as-manifest": (
        lambda f: (f / "export.json").unlink() or os.mkfifo(f / "export.json"),
        30,
        [],
        "not a regular file",
    ),
    "fifo-as-signature": (
        lambda f: (f / "export.json.sig").unlink() or os.mkfifo(f / "export.json.sig"),
        30,
        [],
        "not a regular file",
    ),
    "device-as-bundle": (
        lambda f: (f / "export.tar").unlink() or (f / "export.tar").symlink_to("/dev/zero"),
        30,
        [],
        "not a regular file",
    ),
    "folder-as-bundle": (
        lambda f: (f / "export.tar").unlink() or (f / "export.tar").mkdir(),
        30,
        [],
        "not a regular file",
    ),
    "endless-device-as-bundle": (lambda f: None, 30, [], "is a device"),
    "no-folder": (
        lambda f: shutil.move(f, f.with_name("moved")),
        30,
        [],
        "\n  make the folder with: stella export kit RUN --output /",
    ),
    "other-bundle": (lambda f: (f / "export.tar").write_bytes(b"evil"), 20, ["bundle", "artifacts"], ""),
}


@pytest.mark.parametrize("name", sorted(KIT_FAULTS))
def test_faulty_kit(cli, tmp_path, name):
    spoil, code, checks, says = KIT_FAULTS[name]
    folder = tmp_path / "kit"
    Kit().write(folder)
    key = shutil.copy(folder / "acme.pub", tmp_path)
    spoil(folder)
    more = ["--bundle", "/dev/zero"] if name == "endless-device-as-bundle" else []
    done = run(cli, ["verify", RUN_ID, "--kit", str(folder), "--key", str(key), *more])
    assert done.code == code, done
    assert says in done.err + done.out
    assert code == 30 or failing(done) == checks


@pytest.mark.parametrize(
    ("said", "safe"),
    [
        ("../../etc/x.tar", "x.tar"),
        ("/etc/x.tar", "x.tar"),
        ("..\\x.tar", "x.tar"),
        ("-x.tar", "x.tar"),
        ("x\x1b.tar", "x.tar"),
    ],
)
def test_kit_reads_the_bundle_under_a_safe_name(cli, tmp_path, said, safe):
    kit = Kit()
    kit.bundle_name = safe
    kit.edit_manifest = lambda document: changed(document, "bundle.name", said)
    kit.edit_provenance = lambda document: changed(document, "subject.1.name", said)
    kit.write(tmp_path)
    done = run(cli, in_kit(tmp_path))
    assert done.code == 0, done
    assert done.json()["files"][-1]["path"] == str(tmp_path / safe)


@pytest.mark.parametrize("name", ["..", "", "/", "...", 7, None])
def test_kit_whose_manifest_names_no_file_fails(cli, tmp_path, name):
    kit = Kit()
    kit.edit_manifest = lambda document: changed(document, "bundle.name", name)
    kit.write(tmp_path)
    done = run(cli, in_kit(tmp_path))
    assert done.code == 20
    assert {"bundle", "artifacts"} <= set(failing(done))


def test_kit_can_be_overridden_by_single_files(cli, tmp_path):
    Kit().write(tmp_path / "kit")
    other = tmp_path / "other.sig"
    shutil.move(tmp_path / "kit" / "export.json.sig", other)
    assert run(cli, in_kit(tmp_path / "kit", "--manifest-signature", str(other))).code == 0


def test_neither_kit_nor_files_is_a_usage_error(cli, tmp_path):
    Kit().write(tmp_path)
    done = cli("verify", RUN_ID, "--key", tmp_path / "acme.pub", "--manifest", tmp_path / "export.json")
    assert (done.code, done.out) == (2, "")
    assert "--kit" in done.err


def test_wrong_run_id_alone_names_the_one_that_the_signed_files_are_about(cli, tmp_path):
    done = run(cli, ["other" if word == RUN_ID else word for word in Kit().write(tmp_path)])
    assert (done.code, failing(done)) == (20, ["run-id"]), done
    said = f'  the manifest is about run "{RUN_ID}", not "other"; if that one is meant, verify it by its own id'
    assert said in done.err.splitlines()


def test_wrong_run_id_of_files_that_are_not_signed_is_no_reason_to_try_another(cli, tmp_path):
    kit = Kit()
    kit.after = {"export.json.sig": lambda _: b""}
    done = run(cli, ["other" if word == RUN_ID else word for word in kit.write(tmp_path)])
    assert "run-id" in failing(done)
    assert "do not use these files" in done.err


def test_private_key_in_place_of_the_public_one_is_told_the_way_to_it(cli, tmp_path):
    words = Kit().write(tmp_path)
    (tmp_path / "acme.pub").write_bytes(attacks.private_key("P-256"))
    done = run(cli, words)
    assert (done.code, done.out) == (30, "")
    assert done.err.splitlines()[1] == f"  `openssl pkey -in {tmp_path}/acme.pub -pubout` prints its public one"


def test_a_key_of_another_kind_is_told_which_kinds_there_are(cli, tmp_path):
    words = Kit().write(tmp_path)
    (tmp_path / "acme.pub").write_bytes(public_key("RSA-1024"))
    done = run(cli, words)
    assert (done.code, done.out) == (30, "")
    assert done.err.splitlines()[1] == "  keys are ECDSA P-256, P-384 or P-521, RSA or Ed25519"


# ------------------------------------------------------------------------------------ verifiers, one verdict

KINDS = ("P-256", "P-384", "P-521", "RSA", "Ed25519")


@pytest.mark.parametrize(
    ("kind", "form"), [*((kind, "signature") for kind in KINDS), ("RSA", "bundle"), ("Ed25519", "bundle")]
)
@pytest.mark.parametrize("verifier", VERIFIERS)
def test_every_kind_of_key_has_one_verdict(cli, tmp_path, kind, verifier, form):
    kit = Kit()
    kit.key_kind = kind
    if form == "bundle":
        kit.signature = attacks.sigstore
    words = kit.write(tmp_path)
    good = run(cli, words, verifier)
    (tmp_path / "export.json").write_bytes((tmp_path / "export.json").read_bytes() + b" ")
    bad = run(cli, words, verifier)
    if verifier == "builtin" and kind != "P-256":
        assert (good.code, bad.code, good.out) == (30, 30, "")
        assert kind in good.err
    else:
        assert (good.code, bad.code) == (0, 20), (good, bad)
        assert failing(bad) == ["manifest-signature", "manifest-digest"]


BENT = {
    "rsa-short": ("RSA", lambda raw: raw[1:], "bytes, which none of this RSA key has"),
    "rsa-zero-in-front": ("RSA", lambda raw: b"\0" + raw, "bytes, which none of this RSA key has"),
    "rsa-one-bit": ("RSA", attacks.flip, ""),
    "rsa-sha512": ("RSA", lambda raw: None, ""),
    "ed25519-s-plus-l": (
        "Ed25519",
        lambda raw: raw[:32] + (int.from_bytes(raw[32:], "little") + stella.ED25519_L).to_bytes(32, "little"),
        "in range",
    ),
    "ed25519-long": ("Ed25519", lambda raw: raw + b"\0", "not 64 bytes"),
    "ed25519-one-bit": ("Ed25519", attacks.flip, ""),
    "p-384-sha384": ("P-384", lambda raw: None, ""),
    "p-384-trailing": ("P-384", lambda raw: raw + b"\0", "bytes after the signature"),
    "p-521-r-zero": ("P-521", lambda raw: der_signature(0, 1), "zero"),
}


@pytest.mark.parametrize("verifier", VERIFIERS[1:])
@pytest.mark.parametrize("name", sorted(BENT))
def test_bent_signature_of_another_kind_is_refused(cli, tmp_path, name, verifier):
    kind, bend, says = BENT[name]
    kit = Kit()
    kit.key_kind = kind
    other = "-sha384" if kind == "P-384" else "-sha512"
    kit.signature = lambda blob, raw: base64.b64encode(bend(raw) or sign(blob, kind, other))
    done = run(cli, kit.write(tmp_path), verifier)
    assert (done.code, failing(done)) == (20, ["manifest-signature"]), done
    assert says in detail(done, "manifest-signature")


def test_auto_takes_cosign_then_openssl_then_itself(cli, tmp_path, monkeypatch):
    words = Kit().write(tmp_path / "kit")
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(stella, "__file__", str(tmp_path / "stella.py"))  # no vendor/ beside it
    (tmp_path / "stella.py").write_text("")
    real = {"openssl": shutil.which("openssl", path=os.defpath), "cosign": COSIGNS["cosign-3"]}
    names = [cli(*words).json()["verifier"]["name"]]
    for name in ("openssl", "cosign"):
        (tmp_path / "bin" / name).symlink_to(real[name])
        names.append(cli(*words).json()["verifier"]["name"])
    assert names == ["builtin", "openssl", "cosign"]


@pytest.mark.parametrize("name", ["cosign", "openssl"])
def test_verifier_asked_for_and_missing_is_exit_30(cli, tmp_path, monkeypatch, name):
    words = Kit().write(tmp_path / "kit")
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(stella, "__file__", str(tmp_path / "stella.py"))
    done = cli(*words, "--verifier", name)
    assert (done.code, done.out) == (30, "")
    assert f"STELLA_{name.upper()}" in done.err


FAKES = {
    # name: (what the cosign does after `version`, exit, words of the message)
    "says-yes-to-everything": ("exit 0", 30, "takes any signature for good"),
    "says-no-to-everything": (
        '[ "$1 $4" != \'verify-blob \' ]; case "$*" in *--help) exit 0;; esac; echo no; exit 1',
        20,
        "not good for this file and key, says cosign: no",
    ),
    "is-killed": ('case "$*" in *--help) exit 0;; esac; kill -9 $$', 30, "ended by signal 9"),
    "knows-nothing": ("exit 1", 30, "is no cosign 2 or newer\n  choose another one, such as --verifier openssl"),
}


@pytest.mark.parametrize("verifier", VERIFIERS)
def test_a_wrong_key_is_told_of_in_our_words_before_the_verifier_s(cli, tmp_path, verifier):
    kit = Kit()
    kit.key = public_key("other")
    done = run(cli, kit.write(tmp_path / "kit"), verifier)
    assert done.code == 20, done
    ours, name = "not good for this file and key", verifier.partition("-")[0]
    for detail in [check["detail"] for check in done.json()["checks"][:2]]:
        assert detail == ours if name == "builtin" else detail.startswith(f"{ours}, says {name}: "), detail
        assert "command execution" not in detail


VERDICTS = {"run RUN: verified": (), "run RUN: verified, documents only; --bundle checks the bundle too": ("--bundle",)}


@pytest.mark.parametrize("verdict", VERDICTS)
@pytest.mark.parametrize("form", ["json", "yaml", "table"])
def test_a_verdict_is_said_once_on_standard_error_where_the_report_is_a_document(cli, tmp_path, form, verdict):
    words = Kit().write(tmp_path / "kit")
    for option in VERDICTS[verdict]:
        at = words.index(option)
        words = [*words[:at], *words[at + 2:]]
    done = cli(*words, "--format", form)
    line = verdict.replace("RUN", "run-20251029-01")
    assert (done.code, done.err) == (0, "" if form == "table" else f"stella: {line}\n")
    assert (done.out.splitlines()[-1] == line) == (form == "table")
    done = cli(*words, "--output", tmp_path / "report")
    assert (done.out, done.err) == ("", f"stella: {line}\n")


@pytest.mark.parametrize("name", sorted(FAKES))
def test_nothing_falls_back_after_a_verifier_has_failed(cli, tmp_path, name):
    text, code, says = FAKES[name]
    path = program(tmp_path, "cosign", f"[ \"$1\" != version ] || {{ echo 'GitVersion: v9'; exit 0; }}\n{text}\n")
    done = cli(*Kit().write(tmp_path / "kit"), env={"STELLA_COSIGN": path})
    assert done.code == code, done
    assert says in done.err + done.out


def test_cosign_that_does_not_run_is_exit_30_and_not_openssl(cli, tmp_path):
    done = cli(*Kit().write(tmp_path / "kit"), env={"STELLA_COSIGN": program(tmp_path, "cosign", "exit 3\n")})
    assert (done.code, done.out) == (30, "")


VERSIONS = {
    # A cosign of another version: what it does not know, and the real one behind it.
    "2.3, no new bundles": ("--new-bundle-format --trusted-root", "cosign-2", "--signature"),
    "4, bundles only": ("--signature --new-bundle-format", "cosign-3", "--bundle"),
}


@pytest.mark.parametrize("form", ["signature", "bundle"])
@pytest.mark.parametrize("name", sorted(VERSIONS))
def test_cosign_of_another_version(cli, tmp_path, name, form):
    unknown, real, used = VERSIONS[name]
    text = f"""for word; do case " {unknown} " in *" $word "*) echo "unknown flag: $word" >&2; exit 1;; esac; done
case "$*" in *--help) ;; verify-blob*) echo "$*" >> {tmp_path}/log;; esac
exec {COSIGNS[real]} "$@"
"""
    kit = Kit()
    if form == "bundle":
        kit.signature = attacks.sigstore
    words = kit.write(tmp_path / "kit")
    env = {"STELLA_COSIGN": program(tmp_path, "cosign", text)}
    assert cli(*words, env=env).code == 0
    assert (tmp_path / "log").read_text().count(used) == 3  # two signatures and the trap
    (tmp_path / "kit/export.json").write_bytes(b"{}")
    assert cli(*words, env=env).code == 20


def test_openssl_without_raw_input_cannot_check_ed25519(cli, tmp_path):
    real = shutil.which("openssl")
    path = program(tmp_path, "openssl", f'for word; do [ "$word" != -rawin ] || exit 1; done; exec {real} "$@"\n')
    kit = Kit()
    kit.key_kind = "Ed25519"
    done = cli(*kit.write(tmp_path / "kit"), "--verifier", "openssl", env={"STELLA_OPENSSL": path})
    assert (done.code, done.out) == (30, "")
    assert "cannot verify Ed25519" in done.err


def test_verifier_works_on_private_copies_and_leaves_nothing(cli, tmp_path, monkeypatch):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    monkeypatch.setattr("tempfile.tempdir", None)
    path = program(
        tmp_path, "openssl", f'ls -ld {scratch}/* >> {tmp_path}/log 2>/dev/null; exec {shutil.which("openssl")} "$@"\n'
    )
    assert cli(*Kit().write(tmp_path / "kit"), "--verifier", "openssl", env={"STELLA_OPENSSL": path}).code == 0
    monkeypatch.setattr("tempfile.tempdir", None)
    log = (tmp_path / "log").read_text().splitlines()
    assert len(log) == 3
    assert all(line.startswith("drwx------") for line in log), log
    assert not list(scratch.iterdir())


def test_environment_of_a_verifier_is_neutral(cli, tmp_path, monkeypatch):
    for name in (
        "COSIGN_REPOSITORY",
        "SIGSTORE_ROOT_FILE",
        "SSL_CERT_FILE",
        "OPENSSL_CONF",
        "LD_PRELOAD_X",
        "STELLA_TOKEN",
    ):
        monkeypatch.setenv(name, "secret")
    path = program(tmp_path, "cosign", f'env >> {tmp_path}/env; exec {COSIGNS["cosign-3"]} "$@"\n')
    monkeypatch.delenv("SSL_CERT_FILE")
    assert (
        cli(*Kit().write(tmp_path / "kit"), env={"STELLA_COSIGN": path, "HTTPS_PROXY": "http://192.0.2.1:1"}).code == 0
    )
    seen = (tmp_path / "env").read_text()
    assert "secret" not in seen
    assert "192.0.2.1" not in seen
    assert f"HOME={os.environ['HOME']}\n" not in seen


# --------------------------------------------------------------------------------------------- the archive


@pytest.fixture
def no_zstd(monkeypatch, tmp_path):
    """A host with neither the program nor Python's own module."""
    monkeypatch.setitem(sys.modules, "compression.zstd", None)
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    monkeypatch.setattr(stella, "__file__", str(tmp_path / "stella.py"))
    (tmp_path / "stella.py").write_text("")


def zstd_kit():
    kit = Kit()
    attacks.archive(lambda: attacks.zstd(attacks.tar()), "zstd")(kit)
    return kit


NO_ZSTD = {
    # name: (spoils the bundle, more words, exit, status of bundle, status of artifacts)
    "unreadable": (False, (), 30, "pass", "skipped"),
    "no-artifacts": (False, ("--no-artifacts",), 0, "pass", "skipped"),
    "unreadable-and-wrong": (True, (), 20, "fail", "skipped"),
}


@pytest.mark.parametrize("name", sorted(NO_ZSTD))
def test_host_that_cannot_decompress(cli, tmp_path, request, name):
    spoil, more, code, bundle, artifacts = NO_ZSTD[name]
    words = zstd_kit().write(tmp_path / "kit")
    if spoil:
        path = tmp_path / "kit/export.tar.zst"
        path.write_bytes(attacks.flip(path.read_bytes()))
    request.getfixturevalue("no_zstd")
    done = run(cli, [*words, *more])
    assert done.code == code, done
    assert (statuses(done)["bundle"], statuses(done)["artifacts"]) == (bundle, artifacts)
    assert done.json()["verified"] is (code == 0)
    assert ("zstd" in done.err) is (code == 30)


def frame_of_zstd(data, window_log, single=False):
    """One raw block of at most 128 KiB behind a header that asks for a window (RFC 8878 3.1.1)."""
    head = b"\xa0" + (1 << window_log).to_bytes(4, "little") if single else bytes([0, window_log - 10 << 3])
    return b"\x28\xb5\x2f\xfd" + head + (len(data) << 3 | 1).to_bytes(3, "little") + data


@pytest.mark.parametrize(("window_log", "single", "code"), [(27, False, 0), (28, False, 30), (28, True, 30)])
def test_bundle_that_needs_more_memory_than_zstd_takes_is_not_called_damaged(cli, tmp_path, window_log, single, code):
    kit = Kit()
    attacks.archive(lambda: frame_of_zstd(attacks.tar(), window_log, single), "zstd")(kit)
    done = run(cli, kit.write(tmp_path / "kit"))
    assert done.code == code, done
    assert (statuses(done)["bundle"], statuses(done)["artifacts"]) == ("pass", "skipped" if code else "pass")
    assert ("the bundle needs 256.0 MiB of memory to decompress, and zstd takes 128.0 MiB at most" in done.err) is (
        code == 30)


@pytest.mark.parametrize("size", [0, 1, 4, 17])
def test_frame_whose_head_is_cut_needs_no_window(size):
    assert stella.zstd_window(frame_of_zstd(b"x", 28)[:size]) == 0


BROKEN_ZSTD = {
    "library missing": ("#!/bin/sh\nexit 127\n", "does not work (exit status 127)"),
    "killed": ("#!/bin/sh\nkill -9 $$\n", "does not work (exit status -9)"),
    "no interpreter": ("#!/no/such\n", "cannot run"),
}


@pytest.mark.parametrize("name", BROKEN_ZSTD)
def test_zstd_that_does_not_work_is_the_host_s_fault_and_not_the_bundle_s(cli, tmp_path, monkeypatch, name):
    script, says = BROKEN_ZSTD[name]
    program = tmp_path / "zstd"
    program.write_text(script)
    program.chmod(0o755)
    words = zstd_kit().write(tmp_path / "kit")
    done = run(cli, [*words, "--format", "table"], STELLA_ZSTD=str(program))
    assert done.out.endswith(": NOT VERIFIED\n"), "a refusal is exit 20"
    done = run(cli, words, STELLA_ZSTD=str(program))
    assert done.code == 30, done
    assert says in done.err
    assert "or check the rest with --no-artifacts" in done.err
    assert (statuses(done)["bundle"], statuses(done)["artifacts"]) == ("pass", "skipped")
    assert done.json()["verified"] is False


class FakeZstd:
    """The interface of Python 3.14's compression.zstd.ZstdDecompressor, over zlib behind zstd's magic number."""

    MAGIC = b"\x28\xb5\x2f\xfd"

    def __init__(self):
        self.inner, self.head, self.begun = zlib.decompressobj(), b"", False
        self.eof, self.unused_data, self.kept = False, b"", b""

    @property
    def needs_input(self):
        return not self.kept

    def decompress(self, data, max_length=-1):
        assert self.needs_input or not data  # else the real one copies all it holds for every call
        self.head += data[: 4 - len(self.head)] if len(self.head) < 4 else b""
        if not self.begun:
            data, self.begun = data[4:], True
        data = self.kept + data
        if self.head[:4] != self.MAGIC:
            raise ArithmeticError("not a frame")
        out = self.inner.decompress(data, max_length)
        self.kept = self.inner.unconsumed_tail
        self.eof, self.unused_data = self.inner.eof, self.inner.unused_data
        return out

    @classmethod
    def frame(cls, data):
        return cls.MAGIC + zlib.compress(data)


MODULE_CASES = {
    "one-frame": (FakeZstd.frame(attacks.tar()), 0, ""),
    "two-frames": (FakeZstd.frame(attacks.tar()[:700]) + FakeZstd.frame(attacks.tar()[700:]), 0, ""),
    "truncated-frame": (FakeZstd.frame(attacks.tar())[:-5], 20, "ends early"),
    "bytes-after-the-last-frame": (FakeZstd.frame(attacks.tar()) + b"evil", 20, "damaged, or goes on"),
    "padding-bomb": (FakeZstd.frame(attacks.tar() + bytes(1 << 23)), 20, "padded with more than"),
}


@pytest.mark.parametrize("name", sorted(MODULE_CASES))
def test_pythons_own_zstd_is_used_where_it_exists(cli, tmp_path, monkeypatch, request, name):
    bundle, code, says = MODULE_CASES[name]
    kit = Kit()
    attacks.archive(bundle, "zstd")(kit)
    words = kit.write(tmp_path / "kit")
    request.getfixturevalue("no_zstd")
    module = types.ModuleType("compression.zstd")
    module.ZstdDecompressor = FakeZstd
    monkeypatch.setitem(sys.modules, "compression", types.ModuleType("compression"))
    monkeypatch.setitem(sys.modules, "compression.zstd", module)
    done = run(cli, words)
    assert done.code == code, done
    assert says in detail(done, "artifacts")


def test_members_larger_than_every_buffer(cli, tmp_path):
    noise = random.Random(6).randbytes if hasattr(random.Random, "randbytes") else os.urandom
    kit = Kit()
    kit.members = [("data/large", noise(3_000_001)), ("data/b", b"x" * 511), ("data/c", noise(1_000_000))]
    bundle = attacks.tar(kit.members)
    for compression, data in (
        ("none", bundle),
        ("zstd", attacks.zstd(bundle)),
        ("gzip", attacks.gzip.compress(bundle, 1)),
    ):
        attacks.archive(data, compression)(kit)
        done = run(cli, kit.write(tmp_path / compression))
        assert done.code == 0, done


@pytest.mark.parametrize("sizes", [(1,), (511, 1), (512,), (7, 1000, 3)])
def test_tar_stream_gives_the_same_for_any_pieces(sizes):
    """The reader does not depend on how the bytes arrive."""
    data, given = memoryview(attacks.GLOBAL + attacks.tar()), [0]
    turns = random.Random(1)

    def fill(view):
        count = min(turns.choice(sizes), len(view), len(data) - given[0])
        view[:count] = data[given[0] : given[0] + count]
        given[0] += count
        return count

    artifacts = {path: (len(body), attacks.sha256(body)) for path, body in MEMBERS}
    assert stella.check_members(artifacts, fill, hashlib.sha256).status == "pass"


# ------------------------------------------------------------------------------------------------ registries


def with_descriptor(*descriptors):
    kit = Kit()
    kit.edit_manifest = lambda document: changed(document, "distribution", list(descriptors))
    return kit


def oci(httpserver, digest="sha256:" + "a" * 64, **more):
    return {"type": "oci", "ref": f"127.0.0.1:{httpserver.port}/exports/acme:1", "digest": digest, **more}


OCI_CASES = {
    # name: (descriptors, what the registry states, status of the check, exit, words)
    "as-described": ([{}], "sha256:" + "a" * 64, "pass", 0, "1 of 1"),
    "two-as-described": ([{}, {}], "sha256:" + "a" * 64, "pass", 0, "2 of 2"),
    "other-digest": ([{}], "sha256:" + "b" * 64, "fail", 20, "the registry has"),
    "one-of-two-is-other": (
        [{}, {"digest": "sha256:" + "b" * 64}],
        "sha256:" + "a" * 64,
        "fail",
        20,
        "the registry has",
    ),
    "not-there": ([{}], None, "fail", 20, "gives no digest"),
    "no-digest-in-the-answer": ([{}], "", "fail", 20, "gives no digest"),
    "descriptor-without-digest": ([{"digest": None}], "", "fail", 20, "lacks a ref or a sha256 digest"),
    "descriptor-with-sha512": ([{"digest": "sha512:" + "a" * 128}], "", "fail", 20, "lacks a ref or a sha256 digest"),
    "ref-is-a-path": ([{"ref": "../../x"}], "", "fail", 20, "is not registry/name:tag"),
    "ref-with-user": ([{"ref": "a@evil.example/x:1"}], "", "fail", 20, "is not registry/name:tag"),
}


@pytest.mark.parametrize("name", sorted(OCI_CASES))
def test_registry(cli, httpserver, tmp_path, name):
    edits, stated, status, code, says = OCI_CASES[name]
    headers = {"Docker-Content-Digest": stated} if stated else {}
    httpserver.expect_request("/v2/exports/acme/manifests/1", method="HEAD").respond_with_data(
        status=404 if stated is None else 200, headers=headers
    )
    done = run(cli, with_descriptor(*(oci(httpserver, **edit) for edit in edits)).write(tmp_path))
    assert (done.code, statuses(done)["oci"]) == (code, status), done
    assert says in detail(done, "oci")


def test_unreachable_registry_hides_nothing_and_is_exit_21(cli, tmp_path):
    with socket.socket() as taken:  # bound, not listening: refused
        taken.bind(("127.0.0.1", 0))
        descriptor = {"type": "oci", "ref": f"127.0.0.1:{taken.getsockname()[1]}/x:1", "digest": "sha256:" + "a" * 64}
        kit = with_descriptor(descriptor)
        kit.words = ["--retries", "0"]
        done = run(cli, kit.write(tmp_path))
    assert done.code == 21, done
    assert (done.json()["verified"], statuses(done)["oci"], statuses(done)["artifacts"]) == (False, "skipped", "pass")
    assert "--offline skips this check" in done.err


def test_forged_manifest_makes_nobody_call_out(cli, httpserver, tmp_path):
    kit = with_descriptor(oci(httpserver))
    kit.signature = lambda blob, raw: base64.b64encode(sign(blob, "other"))
    done = run(cli, kit.write(tmp_path))
    assert (done.code, statuses(done)["oci"], httpserver.log) == (20, "skipped", [])


@pytest.mark.parametrize("words", [["--offline"], []])
def test_offline_opens_no_socket(cli, httpserver, tmp_path, monkeypatch, words):
    kit = with_descriptor(oci(httpserver)) if words else Kit()

    def refuse(*_, **__):
        raise AssertionError("a socket")

    paths = kit.write(tmp_path)
    monkeypatch.setattr(socket, "socket", refuse)
    assert run(cli, [*paths, *words]).code == 0


# ------------------------------------------------------------------------------------------------------ age

NOW = stella.parse_time("2025-11-01T00:00:00Z")


@pytest.mark.parametrize(
    ("created", "days", "status"),
    [
        ("2025-10-31T00:00:00Z", 1, "pass"),
        ("2025-10-30T23:59:59Z", 1, "fail"),
        ("2025-10-31T02:00:00+02:00", 1, "pass"),
        ("2025-11-01T23:59:59Z", 0.5, "pass"),
        ("2025-11-02T00:00:01Z", 10, "fail"),
        ("2025-11-01T00:00:00Z", 0, "pass"),
        ("0001-01-01T00:00:00Z", 1, "fail"),
        (None, 1, "fail"),
        (1761955200, 1, "fail"),
        ("2025-10-31", 5, "fail"),
        ("2025-10-31T00:00:00", 5, "fail"),
        ("2000-01-01T00:00:00Z", None, "skipped"),
    ],
)
def test_age_is_of_the_signed_date(created, days, status):
    assert stella.check_age({"createdAt": created}, days, NOW).status == status


@pytest.mark.parametrize("days", ["-1", "nan", "inf", "x", ""])
def test_max_age_that_is_no_number_of_days_is_a_usage_error(cli, tmp_path, days):
    assert cli(*Kit().write(tmp_path), f"--max-age={days}").code == 2


# ------------------------------------------------------------------------------------------- one-byte changes


def white_space_only(name, old, new):
    """The changes that do not count, and why: they touch no byte that means something."""
    if name.endswith(".sig"):  # line breaks, and blanks at the ends: base64 in files is wrapped by many tools
        return old.replace(b"\n", b"").replace(b"\r", b"").strip() == new.replace(b"\n", b"").replace(b"\r", b"").strip(
            b" \t"
        )
    if name == "acme.pub":  # RFC 7468 lets white space stand anywhere in the base64, and any text around the block
        begin, end = b"-----BEGIN PUBLIC KEY-----", b"-----END PUBLIC KEY-----"
        inside = [b"".join(text.partition(begin)[2].partition(end)[0].split()) for text in (old, new)]
        return begin in new and end in new and inside[0] == inside[1]
    return False


def test_2000_one_byte_changes_and_none_is_taken(cli, tmp_path, monkeypatch):
    """In every file of a good kit, wrapped signatures included; the built-in verifier, unchanged parts remembered."""
    kit = zstd_kit()
    kit.signature = lambda blob, raw: base64.encodebytes(raw)
    words = kit.write(tmp_path)
    monkeypatch.setattr(stella, "verify_p256", functools.lru_cache(None)(stella.verify_p256))
    good = {
        name: (tmp_path / name).read_bytes()
        for name in (
            "export.json",
            "provenance.json",
            "export.json.sig",
            "provenance.json.sig",
            "acme.pub",
            "export.tar.zst",
        )
    }
    assert run(cli, words).code == 0
    source, taken = random.Random(20251029), []
    for name, turn in itertools.product(sorted(good), range(334)):
        data = bytearray(good[name])
        place = source.randrange(len(data))
        data[place] = source.choice(
            [data[place] ^ 1 << source.randrange(8), source.choice(b" \n\r\t\x0b\x0cA="), source.randrange(256)]
        )
        if data == good[name]:
            data[place] ^= 0x80
        (tmp_path / name).write_bytes(data)
        # without the members there are fewer checks, and more to slip through
        done = run(cli, words if name == "export.tar.zst" else [*words, "--no-artifacts"])
        assert done.code in (0, 20, 30), done
        if done.code == 0:
            taken.append((name, place))
            assert white_space_only(name, good[name], bytes(data)), (name, place, bytes(data))
        if turn == 333:
            (tmp_path / name).write_bytes(good[name])
    assert len(taken) < 60, taken
    assert {name for name, _ in taken} <= {"export.json.sig", "acme.pub"}, taken


# ---------------------------------------------------------------------------------- ECDSA in plain Python

P, N = stella.P256_P, stella.P256_N


def add(a, b):
    """Affine addition, as slow and plain as the textbook; None is infinity."""
    if a is None or b is None:
        return a or b
    if a[0] == b[0]:
        if (a[1] + b[1]) % P == 0:
            return None
        slope = (3 * a[0] * a[0] - 3) * pow(2 * a[1], -1, P)
    else:
        slope = (b[1] - a[1]) * pow(b[0] - a[0], -1, P)
    x = (slope * slope - a[0] - b[0]) % P
    return x, (slope * (a[0] - x) - a[1]) % P


def times(k, point):
    total = None
    for bit in f"{k:b}":
        total = add(total, total)
        total = add(total, point) if bit == "1" else total
    return total


def craft(u1, u2, d):
    """(point, digest, r, s) of a signature that verifies with just these u1 and u2; r is 0 where it cannot."""
    key = times(d, stella.P256_G)
    target = add(times(u1, stella.P256_G), times(u2, key))
    r = target[0] % N if target else 0
    s = r * pow(u2, -1, N) % N
    return key, (u1 * s % N).to_bytes(32, "big"), r, s


# The families that public test vectors go through, made here: each hits an edge of the arithmetic.
EDGES = {
    "u1-zero": (0, 5, 7),
    "u2-one": (5, 1, 7),
    "u1-one-u2-one": (1, 1, 7),
    "key-is-the-generator": (5, 9, 1),
    "key-is-minus-the-generator": (5, 9, N - 1),
    "doubling-at-the-end": (14, 2, 7),
    "same-point-in-the-table": (3, 3, 1),
    "table-sum-at-infinity": (3, 5, N - 1),
    "u1-large": (N - 1, 5, 7),
    "u2-large": (5, N - 1, 7),
    "both-large": (N - 1, N - 1, 9),
    "key-twice-the-generator": (2, 1, 2),
    "alternating-bits": (0x55 << 240, 0xAA << 240, 11),
    "half-of-n": (N // 2, N // 2 + 1, 3),
}


@pytest.mark.parametrize("name", sorted(EDGES))
def test_ecdsa_at_the_edges_of_its_arithmetic(name):
    key, digest, r, s = craft(*EDGES[name])
    assert stella.verify_p256(key, digest, r, s)
    assert stella.verify_p256(key, digest, r, N - s)  # the same point, mirrored
    for wrong in ((r + 1, s), (r, s + 1), (r + N, s), (r, s + N), (0, s), (r, 0), (N, s), (r, N), (-r, s)):
        assert not stella.verify_p256(key, digest, *wrong)
    assert not stella.verify_p256(key, bytes(31) + b"\x07", r, s)


def test_ecdsa_whose_sum_is_infinity_is_refused():
    u1, u2, d = 12345 * 7 % N, -12345 % N, 7
    key = times(d, stella.P256_G)
    assert add(times(u1, stella.P256_G), times(u2, key)) is None
    for r in (1, 5, N - 1):
        s = r * pow(u2, -1, N) % N
        assert not stella.verify_p256(key, (u1 * s % N).to_bytes(32, "big"), r, s)


def test_r_of_a_point_whose_x_is_above_n():
    """x mod n = r though x >= n; and r = x - n when x itself is below p: both are one signature (FIPS 186-4 6.4)."""
    x = next(x for x in range(N, N + 1000) if pow(x**3 - 3 * x + stella.P256_B, (P - 1) // 2, P) == 1)
    y = pow(x**3 - 3 * x + stella.P256_B, (P + 1) // 4, P)
    r, u1, u2 = x - N, 3, 5  # the key that makes it so: Q = (R - u1 G) / u2
    minus = times(u1, stella.P256_G)
    key = times(pow(u2, -1, N), add((x, y), (minus[0], -minus[1] % P)))
    s = r * pow(u2, -1, N) % N
    assert stella.verify_p256(key, (u1 * s % N).to_bytes(32, "big"), r, s)


def test_builtin_agrees_with_openssl_on_a_sample(tmp_path):
    """tests/audit has the thousands."""
    (tmp_path / "key").write_bytes(public_key("P-256"))
    key = stella.parse_public_key(public_key("P-256"))
    source, seen = random.Random(7), set()
    for turn in range(60):
        blob = b"%d" % (turn % 6)
        raw = sign(blob)
        if turn >= 6:
            r, s = read_integers(raw)
            bend = source.choice(("bit", "n-s", "small", "same"))
            raw = {
                "bit": der_signature(r ^ 1 << source.randrange(250), s),
                "n-s": der_signature(r, N - s),
                "small": der_signature(source.randrange(1, 9), s),
                "same": raw,
            }[bend]
        ours = stella.verify_p256(key.numbers, hashlib.sha256(blob).digest(), *stella.parse_ecdsa_signature(raw))
        (tmp_path / "sig").write_bytes(raw)
        (tmp_path / "blob").write_bytes(blob)
        try:
            openssl("dgst", "-sha256", "-verify", tmp_path / "key", "-signature", tmp_path / "sig", tmp_path / "blob")
            theirs = True
        except attacks.subprocess.CalledProcessError:
            theirs = False
        assert ours is theirs, raw.hex()
        seen.add(ours)
    assert seen == {True, False}


def test_private_folder_is_for_its_owner_only():
    folder = stella.make_private_folder([("a", b"1")])
    try:
        assert stat.S_IMODE(os.stat(folder).st_mode) == 0o700
        assert Path(folder, "a").read_bytes() == b"1"
    finally:
        shutil.rmtree(folder)


def test_signature_of_a_named_document_lies_beside_it_not_in_the_kit(cli, tmp_path):
    words = Kit().write(tmp_path / "kit")
    for name in ("export.json", "export.json.sig"):
        (tmp_path / f"m-{name}").write_bytes((tmp_path / "kit" / name).read_bytes())
    (tmp_path / "kit/export.json.sig").write_text("bad")
    kit = ["--kit", str(tmp_path / "kit"), "--key", words[words.index("--key") + 1]]
    assert run(cli, [*words[:2], *kit]).code == 20
    done = run(cli, [*words[:2], *kit, "--manifest", str(tmp_path / "m-export.json")])
    assert done.code == 0, done
    assert str(tmp_path / "m-export.json.sig") in [file["path"] for file in done.json()["files"]]


@pytest.mark.parametrize("run_id", ["", ".", ".."])
def test_what_is_no_id_is_told_before_anything_is_read(cli, run_id):
    done = cli("verify", run_id, "--kit", "no-such", "--key", "no-such")
    assert (done.code, done.out) == (10, ""), done
    assert "is not a run id" in done.err
