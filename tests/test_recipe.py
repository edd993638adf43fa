"""The guide's CI recipe (section 5): submit, watch, download, manifest, provenance, verify."""

from __future__ import annotations

import pytest


def fetch_everything(cli, gw, folder):
    """The recipe up to the verification; gives the run id."""
    run_id = cli("run", "submit", "prof-json-raw", "--selector", "tenant=acme", "--selector",
                 "product=registry.example.com/app:*", "--allow-empty=false", "--format", "json", gw=gw).json()["runId"]
    watched = cli("run", "watch", run_id, "--json", gw=gw)
    assert [line for line in watched.lines() if line["event"] == "run.succeeded"], watched
    steps = [
        ("download", run_id, "--output", folder / "export.tar.zst", "--resume"),
        ("manifest", run_id, "--output", folder / "export.json", "--signature", folder / "export.json.sig"),
        ("provenance", run_id, "--output", folder / "provenance.json", "--signature", folder / "provenance.json.sig"),
    ]
    for step in steps:
        done = cli(*step, gw=gw)
        assert done.code == 0, done
    return run_id


def verify(cli, gw, folder, run_id, *more):
    return cli("verify", run_id, "--manifest", folder / "export.json", "--provenance", folder / "provenance.json",
               "--bundle", folder / "export.tar.zst", "--key", gw.public_key, *more)


@pytest.mark.parametrize("verifier", ["auto", "cosign", "openssl", "builtin"])
def test_recipe_ends_verified(cli, gw, tmp_path, verifier):
    run_id = fetch_everything(cli, gw, tmp_path)
    done = verify(cli, gw, tmp_path, run_id, "--verifier", verifier)
    assert done.code == 0, done
    report = done.json()
    assert report["verified"] is True
    statuses = {check["name"]: check["status"] for check in report["checks"]}
    assert set(statuses.values()) == {"pass", "skipped"}
    assert [name for name, status in statuses.items() if status == "skipped"] == ["oci", "age"]


FILES = ("export.json", "provenance.json", "export.json.sig", "provenance.json.sig", "export.tar.zst")


@pytest.mark.parametrize("name", FILES)
def test_changed_byte_is_exit_20(cli, gw, tmp_path, name):
    run_id = fetch_everything(cli, gw, tmp_path)
    data = bytearray((tmp_path / name).read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / name).write_bytes(data)
    done = verify(cli, gw, tmp_path, run_id)
    assert (done.code, done.json()["verified"]) == (20, False), done
