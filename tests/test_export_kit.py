"""Contract 4, `kit`: the folder that crosses the gap, made fresh, again, over damage, and refused where it lies."""

from __future__ import annotations

import json
import os
import random
import shutil

import pytest

import stella
from gateway import Fault
from test_connections import small
from test_download import synced

__all__ = ["small", "synced"]  # fixtures

DOCUMENTS = ["export.json", "export.json.sig", "provenance.json", "provenance.json.sig"]
MEMBERS = {"data/a.json": b"{}", "data/b.bin": random.Random(6).randbytes(150_000)}
NAMES = sorted([*DOCUMENTS, "export.tar"])
THERE, FITS, SIGNED = "already there, digest ok", "already there, fits the run", "already there, signed"


@pytest.fixture
def run(gw):
    return gw.make_bundle_run(members=MEMBERS, name="export.tar")


@pytest.fixture
def make(cli, gw, run, tmp_path):
    """make(words...): (how `export kit` ended, {name: status})"""

    def work(*words, run_id=run["runId"], folder=tmp_path / "deep/kit", **more):
        done = cli("kit", run_id, "--output", folder, "--offline", "--retry-delay", "0", *words, gw=gw, **more)
        assert "Traceback" not in done.err
        return done, {file["name"]: file["status"] for file in done.json()["files"]} if done.out[:1] == "{" else {}

    return work


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "deep/kit"


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def verify(cli, gw, run, folder, key=None):
    """Without network and token, as on the other side."""
    return cli("verify", run["runId"], "--kit", folder, "--key", key or gw.public_key, "--offline")


@pytest.mark.parametrize("connections", [1, 4])
def test_fresh_kit_has_everything_and_verifies(make, cli, gw, run, folder, connections):
    done, files = make("--connections", connections)
    assert done.code == 0, done
    assert files == dict.fromkeys(NAMES, "fetched")
    assert sorted(contents(folder)) == NAMES
    assert json.loads((folder / "export.json").read_bytes())["bundle"]["sha256"] == run["bundle"]["sha256"]
    assert verify(cli, gw, run, folder).code == 0


def test_folder_that_is_a_file_is_said_to_be_none(make, folder):
    folder.parent.mkdir(exist_ok=True)
    folder.write_bytes(b"x")
    done, _ = make()
    assert (done.code, folder.read_bytes()) == (1, b"x"), done
    assert f"stella: cannot write into {folder}: it is not a folder\n" in done.err
    assert "--output DIR" in done.err


def test_report_names_each_file_with_size_and_digest(make, run, folder):
    done, _ = make()
    report = done.json()
    assert (report["runId"], report["folder"], report["verification"]) == (run["runId"], str(folder), None)
    for file in report["files"]:
        assert stella.file_facts(str(folder / file["name"])) == (file["size"], file["sha256"])
    done, _ = make("--format", "table")
    assert all(name in done.out for name in NAMES)
    assert (done.out.count(FITS), done.out.count(THERE)) == (4, 1)
    assert f"stella export verify {run['runId']} --kit {folder} " in done.out


@pytest.mark.parametrize("key", [False, True], ids=["", "with the key"])
def test_again_fetches_nothing(make, gw, folder, key):
    words = ("--key", gw.public_key) if key else ()
    make(*words)
    before = contents(folder)
    count = len(gw.requests)
    done, files = make(*words)
    kept = {**dict.fromkeys(DOCUMENTS, SIGNED if key else FITS), "export.tar": THERE}
    assert (done.code, files, contents(folder)) == (0, kept, before), done
    assert [request.path.rpartition("/")[2][:4] for request in gw.requests[count:]] == ["run-"]


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGE = {
    "a byte is another": flip, "gone": lambda path: path.unlink(), "empty": lambda path: path.write_bytes(b""),
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:-5]),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"x"),
}


LONGEST = {"export.json": stella.MAX_JSON_BYTES, "provenance.json.sig": stella.MAX_SIGNATURE_BYTES}
DAMAGE["too long"] = lambda path: os.truncate(path, LONGEST.get(path.name, 0) + 1)
DAMAGED = [("provenance.json.sig", "too long"),
           *((name, damage) for name in ("export.json", "export.tar") for damage in DAMAGE),
           *((name, damage) for name in DOCUMENTS[1:] for damage in ("a byte is another", "gone"))]


@pytest.mark.parametrize(("name", "damage"), DAMAGED)
def test_damaged_file_is_fetched_again(make, gw, folder, name, damage):
    make("--key", gw.public_key)
    before = contents(folder)
    DAMAGE[damage](folder / name)
    done, files = make("--key", gw.public_key)
    assert (done.code, contents(folder) == before) == (0, True), done
    assert files[name] == "fetched"
    # The bundle is what takes hours: it is fetched again only where it was damaged itself.
    assert (files["export.tar"] == THERE) == (name != "export.tar")


def test_kit_of_another_run_is_replaced(make, cli, gw, run, folder):
    other = gw.make_bundle_run(members={"c": b"other"}, name="export.tar")
    make(run_id=other["runId"])
    done, files = make()
    assert (done.code, files) == (0, dict.fromkeys(NAMES, "fetched")), done
    assert verify(cli, gw, run, folder).code == 0
    assert verify(cli, gw, other, folder).code == 20


def test_interrupted_kit_goes_on_where_it_was(make, gw, run, folder):
    """Nothing to type: the same command goes on with the bundle's .part."""
    gw.order(Fault(path="/download$", cut=50_000), Fault(path="/download$", status=503, times=-1))
    done, _ = make("--retries", "1", "--connections", "1")
    assert done.code == 21, done
    assert f"stella export kit {run['runId']} --output {folder}" in done.err
    assert sorted(contents(folder)) == sorted([*DOCUMENTS, "export.tar.part", "export.tar.part.json"])
    gw.faults.clear()
    count = len(gw.requests)
    done, files = make("--connections", "1")
    assert done.code == 0, done
    assert files == {**dict.fromkeys(DOCUMENTS, FITS), "export.tar": "fetched"}
    assert [request.headers["Range"] for request in gw.requests[count + 1:]] == ["bytes=50000-"]
    assert sorted(contents(folder)) == NAMES


def test_what_else_lies_there_stays(make, folder):
    folder.mkdir(parents=True)
    (folder / "README").write_bytes(b"mine")
    (folder / "more").mkdir()
    assert make()[0].code == 0
    assert sorted(os.listdir(folder)) == sorted([*NAMES, "README", "more"])
    assert (folder / "README").read_bytes() == b"mine"


# ---- keys ----------------------------------------------------------------------------------------

def test_with_the_key_it_is_verified_at_the_end(make, gw):
    done, _ = make("--key", gw.public_key)
    report = done.json()["verification"]
    assert (done.code, report["verified"]) == (0, True)
    assert {check["name"]: check["status"] for check in report["checks"]} == {
        "manifest-signature": "pass", "provenance-signature": "pass", "run-id": "pass",
        "manifest-digest": "pass", "bundle-digest": "pass", "bundle": "pass", "artifacts": "pass", "oci": "skipped",
        "age": "skipped"}


@pytest.mark.parametrize("key", [True, False], ids=["verified", "not-verified"])
def test_table_ends_with_what_was_checked(make, gw, run, key):
    done, _ = make("--format", "table", *(("--key", gw.public_key) if key else ()))
    assert done.code == 0, done
    lines = done.out.splitlines()
    assert all(any(name in line for line in lines) for name in NAMES)
    assert (lines[-1] == f"run {run['runId']}: verified") is key
    assert "verified" not in done.out or key


def test_with_another_key_it_is_refused_and_stays_to_be_looked_at(make, cli, gw, run, folder):
    done, _ = make("--key", gw.other_public_key)
    assert (done.code, done.json()["verification"]["verified"]) == (20, False), done
    assert sorted(contents(folder)) == NAMES
    assert verify(cli, gw, run, folder, gw.other_public_key).code == 20
    assert verify(cli, gw, run, folder).code == 0


@pytest.mark.parametrize(("content", "words"), [(None, "cannot read"), (b"", ""), (b"no key", "")])
def test_key_that_is_none_is_noticed_before_anything_is_fetched(make, gw, tmp_path, folder, content, words):
    key = tmp_path / "key.pem"
    if content is not None:
        key.write_bytes(content)
    done, _ = make("--key", key)
    assert (done.code, gw.requests, folder.exists()) == (30, [], False), done
    assert words in done.err


# ---- what a gateway may try ------------------------------------------------------------------------

HOSTILE = [*DOCUMENTS, "../x", "/tmp/stella-kit-x", "..", ".", "", "a/b", "a\\b", "a\nb", "\x1b[31m", ".hidden", "-rf",
           "n" * 300, "a\u202eb", 7, None]


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_hostile_name_of_a_bundle_makes_no_kit(make, gw, tmp_path, folder, name):
    def edit(manifest):
        manifest["bundle"]["name"] = name
        return manifest

    run = gw.make_bundle_run(members=MEMBERS, name="export.tar", edit_manifest=edit)
    gw.patch_run(run["runId"], bundle={**run["bundle"], "name": name})
    done, _ = make(run_id=run["runId"])
    assert done.code == 20, done
    assert not folder.exists() or os.listdir(folder) == []
    assert [path.name for path in tmp_path.iterdir()] in ([], ["deep"])
    assert not os.path.exists("/tmp/stella-kit-x")
    assert "\x1b" not in done.err
    assert gw.find_requests(path="/download$") == []


LIES = {
    "the run has another digest": ({"sha256": "0" * 64}, None), "the manifest has another": (None, "bundle"),
    "the manifest is of another run": (None, "runId"),
}


@pytest.mark.parametrize("case", LIES)
def test_documents_that_do_not_fit_make_no_kit(make, gw, folder, case):
    stated, field = LIES[case]

    def edit(manifest):
        if field == "runId":
            manifest["runId"] = "run-of-somebody-else"
        elif field:
            manifest["bundle"]["sha256"] = "1" * 64
        return manifest

    run = gw.make_bundle_run(members=MEMBERS, name="export.tar", edit_manifest=edit)
    if stated:
        gw.patch_run(run["runId"], bundle={**run["bundle"], **stated})
    done, _ = make(run_id=run["runId"])
    assert done.code == 20, done
    assert not folder.exists() or os.listdir(folder) == []
    assert gw.find_requests(path="/download$") == []


def test_bundle_that_is_not_the_signed_one_gets_no_name(make, gw, run, folder):
    """The download has other bytes than run and manifest say."""
    gw.change_bundle(run["runId"], b"other bytes", consistent=False)
    done, _ = make()
    assert done.code in (20, 21), done
    assert not (folder / "export.tar").exists()


@pytest.mark.parametrize("kind", ["manifest", "provenance"])
@pytest.mark.parametrize("case", ["gone", "no signature", "no JSON"])
def test_document_that_cannot_be_had_makes_no_kit(make, gw, folder, kind, case):
    route = f"/{kind}$"
    signature = lambda request: "signature" in request.target
    fault = {"gone": Fault(path=route, status=404, times=-1), "no JSON": Fault(path=route, body=b"<html>", times=-1),
             "no signature": Fault(path=route, when=signature, body=b"", times=-1)}[case]
    gw.order(fault)
    done, _ = make()
    assert done.code in (1, 11, 20), done
    assert not folder.exists() or os.listdir(folder) == []


@pytest.mark.parametrize("name", [*NAMES, "folder"])
def test_obstacle_in_the_folder_is_a_local_error(make, folder, name):
    if name == "folder":
        folder.parent.mkdir()
        folder.write_bytes(b"mine")
    else:
        (folder / name).mkdir(parents=True)
    done, _ = make()
    assert done.code == 1, done
    assert folder.read_bytes() == b"mine" if name == "folder" else (folder / name).is_dir()


@pytest.mark.parametrize("kind", ["a FIFO", "a link", "a broken link"])
@pytest.mark.parametrize("name", NAMES)
def test_what_is_no_file_of_the_folders_own_is_neither_read_nor_written(make, folder, tmp_path, name, kind):
    """Whoever packed the folder could have a file elsewhere overwritten, or the command wait for ever."""
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    folder.mkdir(parents=True)
    os.mkfifo(folder / name) if kind == "a FIFO" else (folder / name).symlink_to(victim)
    if kind == "a broken link":
        victim.unlink()
    done, _ = make()
    assert (done.code, os.listdir(folder)) == (1, [name]), done
    assert "remove it" in done.err
    assert victim.exists() == (kind != "a broken link")
    assert kind == "a broken link" or victim.read_bytes() == b"precious"


@pytest.mark.parametrize("output", ["", "-"])
def test_output_must_be_a_folder(cli, gw, run, output):
    done = cli("kit", run["runId"], *([f"--output={output}"] if output else []), gw=gw)
    assert (done.code, gw.requests) == (2, []), done


def test_moved_kit_verifies_from_where_it_lies(make, cli, gw, run, folder, tmp_path):
    make()
    moved = tmp_path / "a stick \u00e9"
    shutil.move(folder, moved)
    assert verify(cli, gw, run, moved).code == 0
    flip(moved / "export.tar")
    assert verify(cli, gw, run, moved).code == 20


def test_a_bundle_never_takes_the_place_of_the_key_or_another_file(cli, gw, tmp_path, monkeypatch):
    """A gateway that names its bundle as the user's key, with a key of its own inside: the demo of a stranger."""
    monkeypatch.chdir(tmp_path)
    run = gw.make_bundle_run(members=MEMBERS, name="acme.pub")
    with open(gw.public_key, "rb") as file:
        key = file.read()
    (tmp_path / "acme.pub").write_bytes(key)
    done = cli("kit", run["runId"], "--output", ".", "--key", "acme.pub", gw=gw)
    assert (done.code, (tmp_path / "acme.pub").read_bytes()) == (1, key), done
    assert "is there already" in done.err
    assert os.listdir(tmp_path) == ["acme.pub"]


def test_what_nobody_listed_is_named(make, cli, gw, run, folder):
    make()
    (folder / "run-me.sh").write_bytes(b"#!/bin/sh\n")
    report = verify(cli, gw, run, folder).json()
    assert (report["verified"], report["unlisted"]) == (True, ["run-me.sh"])
    done = cli("verify", run["runId"], "--kit", folder, "--key", gw.public_key, "--offline", "--format", "table")
    assert "not checked, in the kit: run-me.sh\n" in done.out
