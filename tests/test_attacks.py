"""Every attack of attacks.py, for every verifier that can run it: exit code, failing checks, message."""

from __future__ import annotations

import pytest

import attacks
from attacks import ATTACKS, RUN_ID, Kit
from conftest import ROOT

COSIGNS = {"cosign-2": str(ROOT / "vendor/bin/cosign-2"), "cosign-3": str(ROOT / "vendor/bin/cosign-3")}


def judge(cli, folder, kit, verifier, *more):
    """verify over a written kit; cosign-2 and cosign-3 are both `--verifier cosign`."""
    words = kit.write(folder)
    if "--run" in words:
        words = [word if word != RUN_ID else "run-of-another-day" for word in words if word != "--run"]
    env = {"STELLA_COSIGN": COSIGNS[verifier]} if verifier in COSIGNS else {}
    return cli(*words, "--verifier", verifier.partition("-")[0], *more, env=env)


def failing(done):
    return [check["name"] for check in done.json()["checks"] if check["status"] == "fail"]


def said(done):
    """All that the user is told."""
    details = [check["detail"] for check in done.json()["checks"]] if done.out else []
    return done.err + "\n".join(details)


@pytest.fixture(autouse=True)
def _a_question_is_asked_once(monkeypatch):
    attacks.remember_answers(monkeypatch)


# What does not touch a signature is the same for all four; tests/audit runs all by all.
CASES = [(name, "builtin") for name in ATTACKS]
CASES += [(name, verifier) for name, row in ATTACKS.items() if row.signs for verifier in ("openssl", *COSIGNS)]


@pytest.mark.parametrize(("name", "verifier"), CASES)
def test_attack(cli, tmp_path, name, verifier):
    row, kit = ATTACKS[name], Kit()
    row.bend(kit)
    done = judge(cli, tmp_path / "kit", kit, verifier)
    assert done.code == row.exit, done
    assert row.says in said(done), done
    assert [path.name for path in tmp_path.iterdir()] == ["kit"]  # nothing was unpacked
    if row.exit == 30:
        assert bool(done.out) == (name == "missing-bundle"), done  # what can be said without it is said
        assert not done.out or (done.json()["verified"] is False and not failing(done)), done
        assert "\n  " in done.err or "cannot read" in done.err, "a cause, and what to do"
        return
    assert sorted(failing(done)) == sorted(row.checks), done
    assert done.json()["verified"] is (row.exit == 0), done


def test_there_are_enough_attacks_and_names_are_said_once():
    tables = (attacks.ODD, attacks.STOLEN, attacks.SIGNATURES, attacks.KEYS, attacks.DOCUMENTS, attacks.ARCHIVES)
    assert sum(map(len, tables)) == len(ATTACKS)
    assert sum(row.exit != 0 for row in ATTACKS.values()) >= 80
