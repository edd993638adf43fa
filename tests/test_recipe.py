"""The CI recipe (guide, section 5): as commands, as README prints it, with every verifier, cut off, tampered with."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import stella
from conftest import ROOT, STELLA, surroundings
from test_cli import UNSHARE

FILES = ("export.json", "provenance.json", "export.json.sig", "provenance.json.sig", "export.tar.zst")
SELECTORS = ("--selector", "tenant=acme", "--selector", "product=registry.example.com/app:*", "--allow-empty=false")


def fetch_everything(cli, gw, folder):
    """The recipe up to the verification; gives the run id."""
    run_id = cli("run", "submit", "prof-json-raw", *SELECTORS, "--format", "json", gw=gw).json()["runId"]
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


def verify_words(folder, run_id, key):
    return ("verify", run_id, "--manifest", folder / "export.json", "--provenance", folder / "provenance.json",
            "--bundle", folder / "export.tar.zst", "--key", key)


def verify(cli, gw, folder, run_id, *more, key=None, env=None):
    return cli(*verify_words(folder, run_id, key or gw.public_key), *more, env=env)


def failed(done):
    return {check["name"] for check in done.json()["checks"] if check["status"] == "fail"}


# ---- every verifier ------------------------------------------------------------------------------

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


@pytest.fixture
def bare_path(monkeypatch, tmp_path):
    """bare_path("openssl"): a PATH with these programs alone, and no vendor/ beside stella.py."""
    def make(*names):
        folder = tmp_path / "only"
        folder.mkdir()
        for name in names:
            (folder / name).symlink_to(shutil.which(name))
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.setattr(stella, "__file__", shutil.copy(STELLA, tmp_path / "elsewhere"))
        monkeypatch.setenv("PATH", str(folder))
    return make


VENDOR = ROOT / "vendor" / "bin"
HOSTS = {  # programs on PATH, what STELLA_COSIGN names, who must have done the work
    "cosign 2": (("openssl", "zstd"), "cosign-2", "cosign"),
    "cosign 3": (("openssl", "zstd"), "cosign-3", "cosign"),
    "no cosign": (("openssl", "zstd"), "", "openssl"),
    "no cosign and no openssl": (("zstd",), "", "builtin"),
}


@pytest.mark.parametrize("sound", [True, False], ids=["sound", "tampered"])
@pytest.mark.parametrize("host", HOSTS)
def test_recipe_on_hosts_with_and_without_verifiers(cli, gw, tmp_path, bare_path, host, sound):
    programs, cosign, verifier = HOSTS[host]
    files = tmp_path / "files"
    run_id = fetch_everything(cli, gw, files)
    if not sound:
        change(files / "export.json")
    key = gw.public_key  # made by openssl
    bare_path(*programs)
    done = verify(cli, gw, files, run_id, key=key, env={"STELLA_COSIGN": str(VENDOR / cosign)} if cosign else {})
    assert done.code == (0 if sound else 20), done
    assert done.json()["verifier"]["name"] == verifier
    assert done.json()["verified"] is sound


@pytest.mark.parametrize(("name", "major"), [("cosign-2", "2"), ("cosign-3", "3")])
def test_cosigns_are_what_their_names_say(name, major):
    """What Debian packages answers `devel` to `cosign version`; COSIGN.txt has the packages' versions."""
    record = (VENDOR / "COSIGN.txt").read_text()
    assert re.search(rf"^.*\b{name}\b.*\b{major}\.\d+\.\d+", record, re.MULTILINE), record


@pytest.mark.parametrize("verifier", ["cosign", "openssl", "builtin"])
def test_verify_with_the_network_cut_off(cli, gw, tmp_path, verifier):
    """No interface at all, not even loopback; as a process of its own, as on the far side of an air gap."""
    run_id = fetch_everything(cli, gw, tmp_path)
    words = [str(word) for word in (*verify_words(tmp_path, run_id, gw.public_key), "--verifier", verifier)]
    done = subprocess.run([*UNSHARE, "--net", sys.executable, str(STELLA), "export", *words], env=surroundings(),
                          capture_output=True, check=False)
    assert done.returncode == 0, done
    assert json.loads(done.stdout)["verified"] is True


def test_there_really_is_no_network_there():
    probe = "import socket; socket.create_connection(('127.0.0.1', 9), 1)"
    done = subprocess.run([*UNSHARE, "--net", sys.executable, "-c", probe], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Network is unreachable" in done.stderr


# ---- tampering -----------------------------------------------------------------------------------

def change(path, how="middle"):
    data = bytearray(path.read_bytes())
    if how == "emptied":
        data = bytearray()
    elif how == "cut":
        del data[-1:]
    elif how == "longer":
        data += b"A"
    else:
        data[{"first": 0, "middle": len(data) // 2, "last": len(data) - 1}[how]] ^= 1
    path.write_bytes(data)


@pytest.fixture(scope="module")
def exported(tmp_path_factory, keys):
    """(folder, run id, public keys of acme and globex, another run's folder and id), fetched once."""
    from gateway import Gateway

    top = tmp_path_factory.mktemp("exported")
    told = []
    with Gateway(data=top / "gw", key=keys[0], other_key=keys[1]) as gw:
        for name in ("a", "b"):
            run = gw.make_run("prof-json-raw", {"products": ["*:2.0"]} if name == "b" else None)["runId"]
            (top / name).mkdir()
            for what, file in (("manifest", "export.json"), ("provenance", "provenance.json")):
                (top / name / file).write_bytes(gw.store.runs[run].documents[what])
                (top / name / f"{file}.sig").write_bytes(gw.store.runs[run].signatures[what])
            shutil.copy(gw.store.runs[run].bundle.path, top / name / "export.tar.zst")
            told += [top / name, run]
        shutil.copy(gw.public_key, top / "acme.pub")
        shutil.copy(gw.other_public_key, top / "globex.pub")
        (top / "globex.json.sig").write_text(gw.sign((top / "a" / "export.json").read_bytes(), "globex"))
    return told


@pytest.fixture
def files(exported, tmp_path):
    """A copy of the first export, for tampering."""
    return Path(shutil.copytree(exported[0], tmp_path / "files"))


def check(cli, exported, files, *more, key="acme.pub", run_id=None):
    return cli(*verify_words(files, run_id or exported[1], exported[0].parent / key), *more)


def test_untouched_export_is_verified(cli, exported, files):
    assert check(cli, exported, files).code == 0


@pytest.mark.parametrize("how", ["first", "middle", "last", "cut", "longer", "emptied"])
@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("verifier", ["openssl", "builtin"])
def test_changed_file_is_exit_20(cli, exported, files, name, how, verifier):
    change(files / name, how)
    done = check(cli, exported, files, "--verifier", verifier)
    assert (done.code, done.json()["verified"]) == (20, False), done
    assert failed(done)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("cosign", ["cosign-2", "cosign-3"])
def test_changed_byte_is_exit_20_with_cosign(cli, exported, files, monkeypatch, name, cosign):
    monkeypatch.setenv("STELLA_COSIGN", str(VENDOR / cosign))
    change(files / name)
    done = check(cli, exported, files, "--verifier", "cosign")
    assert (done.code, done.json()["verified"]) == (20, False), done


def swapped(files, other):
    first, second = (files / "export.json.sig").read_bytes(), (files / "provenance.json.sig").read_bytes()
    (files / "export.json.sig").write_bytes(second)
    (files / "provenance.json.sig").write_bytes(first)


def from_other(*names):
    def replace(files, other):
        for name in names:
            shutil.copy(other / name, files / name)
    return replace


MIXED = {  # what was done: the checks that must fail
    "signatures swapped": (swapped, {"manifest-signature", "provenance-signature"}),
    "manifest of another run": (from_other("export.json", "export.json.sig"), {"run-id", "manifest-digest"}),
    "provenance of another run": (from_other("provenance.json", "provenance.json.sig"), {"run-id", "manifest-digest"}),
    "documents of another run": (from_other(*FILES[:4]), {"run-id", "bundle"}),
    "everything of another run": (from_other(*FILES), {"run-id"}),
    "bundle of another run": (from_other("export.tar.zst"), {"bundle"}),
    "signature of another run": (from_other("export.json.sig"), {"manifest-signature"}),
    "signed by another tenant": (lambda files, other: shutil.copy(files.parent / "x.sig", files / "export.json.sig"),
                                 {"manifest-signature"}),
    "signature missing": (lambda files, other: (files / "export.json.sig").unlink(), {"manifest-signature"}),
}


@pytest.mark.parametrize("case", MIXED)
@pytest.mark.parametrize("verifier", ["cosign", "openssl", "builtin"])
def test_mixed_up_files_are_exit_20(cli, exported, files, case, verifier):
    act, names = MIXED[case]
    shutil.copy(exported[0].parent / "globex.json.sig", files.parent / "x.sig")
    act(files, exported[2])
    done = check(cli, exported, files, "--verifier", verifier)
    assert done.code == 20, done
    assert names <= failed(done)


@pytest.mark.parametrize("verifier", ["cosign", "openssl", "builtin"])
def test_key_of_another_tenant_is_exit_20(cli, exported, files, verifier):
    done = check(cli, exported, files, "--verifier", verifier, key="globex.pub")
    assert done.code == 20
    assert failed(done) == {"manifest-signature", "provenance-signature"}


def test_another_run_id_is_exit_20(cli, exported, files):
    done = check(cli, exported, files, run_id=exported[3])
    assert (done.code, failed(done)) == (20, {"run-id"})


# ---- as README prints it -------------------------------------------------------------------------

def readme_yaml(first_line):
    text = (ROOT / "README.md").read_text(encoding="utf-8").partition("\n## CI recipe\n")[2]
    blocks = re.findall(r"```yaml\n(.*?)```", text.partition("\n## ")[0], re.DOTALL)
    return next(block for block in blocks if block.startswith(first_line))


def github_steps(text):
    """The shell text of every `run:`, in order."""
    steps = re.findall(r"^( +)(?:- )?run: (.*(?:\n(?:\1 .*)?)*)", text, re.MULTILINE)
    return [textwrap.dedent(body.partition("\n")[2]) if body.startswith("|") else body for _, body in steps]


def gitlab_script(text):
    """The items of `script:`; a plain YAML scalar over several lines folds into one."""
    script = re.search(r"\n  script:\n((?:    .*\n)+)", text).group(1)
    return [" ".join(item.split()) for item in re.split(r"^    - ", script, flags=re.MULTILINE) if item.strip()]


@pytest.fixture
def workspace(tmp_path, gw):
    """A checkout as a CI job finds it: the key, and stella on PATH."""
    for folder in ("keys", "bin"):
        (tmp_path / folder).mkdir()
    shutil.copy(gw.public_key, tmp_path / "keys" / "acme-export.pub")
    launcher = tmp_path / "bin" / "stella"
    launcher.write_text(f"#!/bin/sh\nexec '{sys.executable}' '{STELLA}' \"$@\"\n")
    launcher.chmod(0o755)
    return tmp_path


def test_readme_s_github_recipe_step_by_step(gw, workspace):
    steps = github_steps(readme_yaml("name: Export Center Bundle"))
    assert [step.split()[0] for step in steps] == ["curl", "run_id=$(stella", "mkdir", "stella", "stella"]
    memory = workspace / "github.env"
    memory.write_text("")
    for step in steps[1:]:
        kept = dict(line.split("=", 1) for line in memory.read_text().splitlines())
        env = surroundings(gw, {"GITHUB_ENV": str(memory), "PATH": f"{workspace}/bin:{os.environ['PATH']}", **kept})
        if "verify" in step:
            del env["STELLA_TOKEN"], env["STELLA_SERVER"]
        done = subprocess.run(["bash", "-e", "-c", step], cwd=workspace, env=env, capture_output=True, check=False)
        assert done.returncode == 0, (step, done)
    assert json.loads(done.stdout)["verified"] is True
    assert b'"event":"run.succeeded"' in (workspace / "artifacts" / "run.log").read_bytes()
    assert sorted(os.listdir(workspace / "artifacts")) == sorted([*FILES, "run.log"])


TOOLS = ("sh", "mkdir", "openssl", "zstd")


def test_readme_s_gitlab_recipe_without_jq_in_a_posix_shell(gw, workspace):
    lines = gitlab_script(readme_yaml("export:"))
    assert len(lines) == 7
    for name in TOOLS:
        (workspace / "bin" / name).symlink_to(shutil.which(name))
    (workspace / "bin" / "python3").symlink_to(sys.executable)
    shutil.copy(STELLA, workspace / "stella.py")
    done = subprocess.run([shutil.which("dash"), "-e", "-c", "\n".join(lines)], cwd=workspace, check=False,
                          env=surroundings(gw, {"PATH": f"{workspace}/bin"}), capture_output=True)
    assert done.returncode == 0, done
    report = json.loads(done.stdout[done.stdout.rindex(b'{\n  "runId"'):])
    assert (report["verified"], report["verifier"]["name"]) == (True, "openssl")


@pytest.mark.parametrize("how", ["jq", "watch itself"])
def test_recipe_stops_where_the_run_failed(gw, workspace, how):
    gw.fail_at("sign")
    steps = github_steps(readme_yaml("name: Export Center Bundle"))
    script = "\n".join(steps[1:3]) if how == "jq" else "\n".join(gitlab_script(readme_yaml("export:"))[:3])
    script = script.replace("python3 stella.py", "stella").replace('echo "RUN_ID=$run_id"', "RUN_ID=$run_id; :")
    env = surroundings(gw, {"PATH": f"{workspace}/bin:{os.environ['PATH']}", "GITHUB_ENV": "/dev/null"})
    done = subprocess.run(["bash", "-e", "-c", script], cwd=workspace, env=env, capture_output=True, check=False)
    assert done.returncode == (4 if how == "jq" else 13), done  # 4: jq -e, nothing was selected


def test_demo_without_jq_cosign_and_vendor_in_dash(tmp_path):
    """make demo's script on a host with nothing but Python, openssl, zstd and a POSIX shell."""
    needs = ("cat", "cp", "dirname", "env", "grep", "ls", "mkdir", "mktemp", "openssl", "rm", "sed", "sleep", "tail",
             "tee", "zstd")
    for folder in ("bin", "clone/tests", "a folder"):
        (tmp_path / folder).mkdir(parents=True)
    for name in needs:
        (tmp_path / "bin" / name).symlink_to(shutil.which(name))
    for name in ("stella.py", "tests/demo.sh", "tests/gateway.py"):
        shutil.copy(ROOT / name, tmp_path / "clone" / name)
    env = surroundings(None, {"PATH": f"{tmp_path}/bin", "PYTHON": sys.executable, "TMPDIR": str(tmp_path / "a folder"),
                              "STELLA_TENANT": "from-outside", "STELLA_PROFILE": "from-outside"})
    done = subprocess.run([shutil.which("dash"), "tests/demo.sh"], cwd=tmp_path / "clone", env=env,
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, done
    assert "--query runId" in done.stdout
    assert "checked by openssl" in done.stdout
    assert "\nexit 20\n" in done.stdout
    assert os.listdir(tmp_path / "a folder") == []


def test_demo_needs_no_vendored_program():
    """make demo must not go to the network for a cosign first."""
    plan = subprocess.run(["make", "-n", "demo"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "tests/demo.sh" in plan
    assert "vendor/fetch" not in plan
