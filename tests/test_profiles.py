"""profile create, update, archive, restore: what is checked here, what is sent, and who wins when two write."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from conftest import STELLA, surroundings
from gateway import BEFORE_HEAD, Fault

NEW = {"name": "Weekly", "kind": "trivy", "variant": "db", "distribution": ["http"]}
ID = "prof-json-raw"


def write(folder, document) -> str:
    path = folder / "profile.json"
    path.write_bytes(document if isinstance(document, bytes) else json.dumps(document).encode())
    return str(path)


def mutations(gw):
    return [request for request in gw.requests if request.method != "GET"]


def fields(gw, profile_id=ID):
    return gw.store.profiles["acme"][profile_id].document()


# ---- create

def test_create(cli, gw, tmp_path):
    done = cli("profile", "create", "--file", write(tmp_path, NEW), gw=gw)
    assert done.code == 0, done
    assert done.json() == fields(gw, done.json()["profileId"])
    [sent] = mutations(gw)
    assert (sent.method, sent.path, json.loads(sent.body)) == ("POST", "/api/export/profiles", NEW)
    assert list(json.loads(sent.body)) == list(NEW)


def test_create_from_standard_input(process, gw):
    done = process("profile", "create", "--file", "-", "--query", "name", gw=gw, stdin=json.dumps(NEW).encode())
    assert (done.code, done.out) == (0, "Weekly\n"), done


def test_what_show_wrote_goes_back_into_create_and_replace_file(cli, gw, tmp_path):
    path = tmp_path / "deep" / "er" / "p.json"
    assert cli("profile", "show", "prof-mirror-full", "--output", path, gw=gw).code == 0
    assert json.loads(path.read_bytes()) == fields(gw, "prof-mirror-full")
    for words in (("create", "--file", path), ("update", ID, "--replace-file", path)):
        done = cli("profile", *words, gw=gw)
        assert done.code == 0, done
        assert done.json()["variant"] == "full"
        assert set(json.loads(mutations(gw)[-1].body)) == set(fields(gw, "prof-mirror-full")) - {
            "profileId", "status", "revision", "createdAt", "updatedAt"}
    assert fields(gw)["revision"] == 2


BAD_FILES = {
    "not an object": (b"[]", 10, ["{path}: is not a JSON object"]),
    "duplicate key": (b'{"name": "a", "name": "b"}', 10, ['{path}: duplicate key "name" (line 1, column 15)']),
    "trailing comma": (b'{"a": 1,}', 10, ["{path}: "]),
    "server fields only": (b'{"profileId": "x", "revision": 3}', 10, [
        "{path} is not a valid profile", "/name: is missing, allowed: 1 to 128 characters",
        "/kind: is missing, allowed: json, trivy, mirror", "/variant: is missing, allowed: a string",
        "/distribution: is missing, allowed: a list"]),
    "hostile key": (json.dumps({**NEW, "a\x1b[2J\n": 1}).encode(), 10, [
        "{path} is not a valid profile", "/a\\x1b[2J\\n: is not known, allowed: name, kind,"]),
    "larger than a profile can be": (b" " * (1 << 20) + b"{}", 30, ["the export profile file {path} has more than"]),
    "a hundred problems": (json.dumps({**NEW, "distribution": list(range(100))}).encode(), 10,
                           ["/distribution/0: found 0, allowed: http, oci, object", "... and 50 more"]),
}


def test_standard_input_that_is_too_large_or_closed(process, gw):
    done = process("profile", "create", "--file", "-", gw=gw, stdin=b" " * ((1 << 20) + 1))
    assert (done.code, "on standard input has more than 1048576 bytes" in done.err) == (30, True), done
    command = f"'{sys.executable}' '{STELLA}' export profile create --file - <&-"
    closed = subprocess.run(["sh", "-c", command], env=surroundings(gw), capture_output=True, text=True, check=False)
    assert (closed.returncode, "standard input is closed" in closed.stderr) == (30, True), closed
    assert gw.requests == []


@pytest.mark.parametrize("words", [("create", "--file"), ("update", ID, "--replace-file")], ids=["create", "replace"])
@pytest.mark.parametrize(("data", "code", "told"), BAD_FILES.values(), ids=BAD_FILES)
def test_bad_file_is_refused_before_anything_is_sent(cli, gw, tmp_path, words, data, code, told):
    path = write(tmp_path, data)
    done = cli("profile", *words, path, gw=gw)
    assert (done.code, done.out, gw.requests) == (code, "", []), done
    for line in told:
        assert line.format(path=path) in done.err, done


@pytest.mark.parametrize("path", ["absent.json", ".", "absent\x1b.json"])
def test_file_that_cannot_be_read_is_exit_30(cli, gw, tmp_path, path):
    done = cli("profile", "create", "--file", tmp_path / path, gw=gw)
    assert done.code == 30
    assert "cannot read the export profile file" in done.err
    assert "\x1b" not in done.err
    assert gw.requests == []


def test_lost_answer_creates_one_profile(cli, gw, tmp_path):
    gw.order(Fault("POST", r"/profiles$", reset=BEFORE_HEAD))
    before = len(gw.store.profiles["acme"])
    done = cli("profile", "create", "--file", write(tmp_path, NEW), gw=gw)
    assert done.code == 0, done
    assert len(gw.store.profiles["acme"]) == before + 1
    assert len({request.headers["Idempotency-Key"] for request in mutations(gw)}) == 1


# ---- update

UPDATES = {
    "name": (["--name", "Другое имя \U0001f600"], {"name": "Другое имя \U0001f600"}, False),
    "retention": (["--retention", "days:21"], {"retention": "days:21"}, False),
    "distribution": (["--distribution", "oci,http"], {"distribution": ["oci", "http"]}, False),
    "distribution, twice": (["--distribution", "oci", "--distribution", "http"], {"distribution": ["oci", "http"]},
                            False),
    "add": (["--add-distribution", "oci"], {"distribution": ["http", "object", "oci"]}, True),
    "add what is there and what is not": (["--add-distribution", "oci,http"],
                                          {"distribution": ["http", "object", "oci"]}, True),
    "remove": (["--remove-distribution", "http"], {"distribution": ["object"]}, True),
    "remove what is not there too": (["--remove-distribution", "http,oci"], {"distribution": ["object"]}, True),
    "swap": (["--add-distribution", "oci", "--remove-distribution", "http,object"], {"distribution": ["oci"]}, True),
    "everything": (["--name", "n", "--retention", "days:1", "--add-distribution", "oci"],
                   {"name": "n", "retention": "days:1", "distribution": ["http", "object", "oci"]}, True),
    "a name beside a list that stays": (["--name", "n", "--add-distribution", "http"], {"name": "n"}, True),
}


@pytest.mark.parametrize(("words", "body", "reads"), UPDATES.values(), ids=UPDATES)
def test_update(cli, gw, words, body, reads):
    done = cli("profile", "update", ID, *words, gw=gw)
    assert done.code == 0, done
    assert done.json() == fields(gw)
    assert {name: fields(gw)[name] for name in body} == body
    [sent] = mutations(gw)
    assert (sent.method, sent.path, json.loads(sent.body)) == ("PATCH", f"/api/export/profiles/{ID}", body)
    assert [request.method for request in gw.requests] == (["GET", "PATCH"] if reads else ["PATCH"])
    assert sent.headers.get("If-Match") == (f'"{ID}-1"' if reads else None)


WRONG_UPDATES = {
    "nothing": ([], 2, "nothing to change"),
    "replace-file with another option": (["--replace-file", "x", "--name", "n"], 2, "--replace-file stands alone"),
    "distribution with add": (["--distribution", "http", "--add-distribution", "oci"], 2, "--distribution replaces"),
    "empty name": (["--name", ""], 10, '/name: found "", allowed: 1 to 128 characters'),
    "bad retention": (["--retention", "21d"], 10, '/retention: found "21d", allowed: days:N'),
    "unknown target": (["--distribution", "http,ftp"], 10, '/distribution/1: found "ftp", allowed: http, oci, object'),
    "empty target": (["--distribution", ""], 10, '/distribution/0: found "", allowed: http, oci, object'),
    "unknown target to add": (["--add-distribution", "ftp"], 10, '/distribution/0: found "ftp"'),
    "two problems": (["--retention", "x", "--distribution", "y"], 10, '/distribution/0: found "y"'),
    "dot as id": (["--name", "n"], 10, '"." is not a profile id'),
}


@pytest.mark.parametrize(("words", "code", "told"), WRONG_UPDATES.values(), ids=WRONG_UPDATES)
def test_wrong_update_sends_nothing(cli, gw, words, code, told):
    done = cli("profile", "update", "." if "is not a profile id" in told else ID, *words, gw=gw)
    assert (done.code, done.out, gw.requests) == (code, "", []), done
    assert told in done.err


@pytest.mark.parametrize(("words", "code", "told"), [
    (["--add-distribution", "http"], 2, "nothing to change: the distribution is http,object already"),
    (["--remove-distribution", "oci"], 2, "nothing to change: the distribution is http,object already"),
    (["--remove-distribution", "http,object"], 10, "/distribution: nothing would be left of it"),
], ids=["there already", "not there", "all of them"])
def test_change_that_changes_nothing_or_everything(cli, gw, words, code, told):
    done = cli("profile", "update", ID, *words, gw=gw)
    assert (done.code, mutations(gw)) == (code, []), done
    assert told in done.err


def someone_else(gw):
    """Writes the profile just before the next PATCH is worked on."""
    def act(_):
        profile = gw.store.profiles["acme"][ID]
        profile.version += 1
        profile.fields = {**profile.fields, "retention": f"days:{profile.version}", "distribution": ["object"]}
    return act


def test_lost_race_is_won_from_a_fresh_read(cli, gw):
    gw.order(Fault("PATCH", act=someone_else(gw)))
    done = cli("profile", "update", ID, "--add-distribution", "oci", gw=gw)
    assert done.code == 0, done
    assert fields(gw)["distribution"] == ["object", "oci"]  # on top of the other's change
    assert fields(gw)["retention"] == "days:2"
    assert [request.status for request in mutations(gw)] == [412, 200]
    assert [request.headers["If-Match"] for request in mutations(gw)] == [f'"{ID}-1"', f'"{ID}-2"']
    assert len({request.headers["Idempotency-Key"] for request in mutations(gw)}) == 2


def test_race_lost_twice_is_exit_12_and_says_what_changed(cli, gw):
    gw.order(Fault("PATCH", times=-1, act=someone_else(gw)))
    done = cli("profile", "update", ID, "--add-distribution", "oci", gw=gw)
    assert (done.code, done.out) == (12, ""), done
    assert len(mutations(gw)) == 2
    assert '/retention: was "days:14", is "days:3"' in done.err
    assert '/distribution: was ["http","object"], is ["object"]' in done.err
    assert "/name" not in done.err
    assert f"stella export profile show {ID}" in done.err


def test_without_an_etag_the_change_is_sent_without_a_condition(cli, gw):
    gw.order(Fault("GET", head={"ETag": None}))
    done = cli("profile", "update", ID, "--add-distribution", "oci", gw=gw)
    assert done.code == 0, done
    assert mutations(gw)[0].headers.get("If-Match") is None


def test_replace_file_is_a_new_revision_and_the_only_structural_change(cli, gw, tmp_path):
    done = cli("profile", "update", ID, "--replace-file", write(tmp_path, NEW), gw=gw)
    assert done.code == 0, done
    assert (done.json()["kind"], done.json()["revision"]) == ("trivy", 2)
    [sent] = mutations(gw)
    assert (sent.method, json.loads(sent.body)) == ("PUT", NEW)


# ---- dry run

def test_dry_run_of_create_needs_no_token_and_sends_nothing(cli, gw, tmp_path):
    done = cli("--tenant", "globex", "profile", "create", "--file", write(tmp_path, NEW), "--dry-run",
               env={"STELLA_SERVER": gw.url + "/prefix"})
    assert (done.code, gw.requests) == (0, []), done
    shown = done.json()
    assert (shown["method"], shown["url"]) == ("POST", gw.url + "/prefix/api/export/profiles")
    assert shown["body"] == NEW
    assert shown["headers"]["X-Stella-Tenant"] == "globex"


def test_dry_run_shows_no_token(cli, gw, tmp_path):
    for form in ("json", "yaml", "table"):
        done = cli("profile", "create", "--file", write(tmp_path, NEW), "--dry-run", "--format", form, gw=gw)
        assert done.code == 0
        assert "Weekly" in done.out
        assert gw.token not in done.out + done.err
        assert "uthorization" not in done.out


def test_dry_run_as_a_table_is_a_request_to_read(cli, gw):
    done = cli("profile", "update", "a b/ü", "--name", "x\x1b[2J", "--dry-run", "--format", "table", gw=gw)
    lines = done.out.split("\n")
    assert lines[0] == f"PATCH {gw.url}/api/export/profiles/a%20b%2F%C3%BC"
    assert lines[-5:] == ["", "{", '  "name": "x\\u001b[2J"', "}", ""]
    assert gw.requests == []


def test_dry_run_of_update_still_checks(cli, gw):
    done = cli("profile", "update", ID, "--retention", "x", "--dry-run", gw=gw)
    assert (done.code, done.out, gw.requests) == (10, "", []), done


def test_dry_run_of_add_reads_and_changes_nothing(cli, gw):
    done = cli("profile", "update", ID, "--add-distribution", "oci", "--dry-run", gw=gw)
    assert done.code == 0, done
    assert done.json()["body"] == {"distribution": ["http", "object", "oci"]}
    assert done.json()["headers"]["If-Match"] == f'"{ID}-1"'
    assert [request.method for request in gw.requests] == ["GET"]
    assert fields(gw)["revision"] == 1


def test_dry_run_of_replace_file(cli, gw, tmp_path):
    done = cli("profile", "update", ID, "--replace-file", write(tmp_path, NEW), "--dry-run", "--query", "method", gw=gw)
    assert (done.out, gw.requests) == ("PUT\n", []), done


# ---- archive, restore

def test_archive_and_restore(cli, gw):
    done = cli("profile", "archive", ID, "--reason", "Superseded by Phase 2 profile", gw=gw)
    assert (done.code, done.json()["status"]) == (0, "archived"), done
    assert json.loads(mutations(gw)[0].body) == {"reason": "Superseded by Phase 2 profile"}
    assert cli("profile", "update", ID, "--name", "x", gw=gw).code == 12
    done = cli("profile", "restore", ID, "--query", "status", gw=gw)
    assert (done.code, done.out) == (0, "active\n"), done


@pytest.mark.parametrize("words", [
    ("show", "absent"), ("update", "absent", "--name", "x"), ("update", "absent", "--add-distribution", "oci"),
    ("archive", "absent"), ("restore", "absent"),
], ids=" ".join)
def test_missing_profile_is_exit_11(cli, gw, words):
    done = cli("profile", *words, gw=gw)
    assert (done.code, done.out) == (11, ""), done


@pytest.mark.parametrize("words", [
    ("list",), ("show", ID), ("create", "--file", "-"), ("update", ID, "--name", "x"), ("archive", ID), ("restore", ID),
], ids=" ".join)
def test_without_a_token_is_exit_30(cli, gw, words):
    done = cli("profile", *words, env={"STELLA_SERVER": gw.url})
    assert (done.code, gw.requests) == (30, []), done
