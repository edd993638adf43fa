"""The offline kit: the same bytes each time, installed and used from where it was unpacked, refused when changed."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from conftest import ROOT
from test_recipe import fetch_everything

NAMES = ["LICENSE", "README.md", "SHA256SUMS", "install.sh", "stella.py", "vendor/LICENSE.cosign.txt",
         "vendor/LICENSE.zstd.txt", "vendor/cosign", "vendor/zstd"]


@pytest.fixture
def tree(tmp_path):
    """A checkout whose cosign and zstd are small scripts that hand on to the real ones."""
    root = tmp_path / "checkout"
    (root / "vendor/bin").mkdir(parents=True)
    for name in ("stella.py", "install.sh", "README.md", "LICENSE", "vendor/kit"):
        shutil.copy(ROOT / name, root / name)
    for name, real in (("cosign-3", ROOT / "vendor/bin/cosign"), ("zstd", shutil.which("zstd"))):
        (root / "vendor/bin" / name).write_text(f'#!/bin/sh\nexec "{real}" "$@"\n')
        (root / "vendor/bin" / name).chmod(0o755)
        (root / f"vendor/bin/LICENSE.{name}.txt").write_text(f"licence of {name}\n")
    (root / "vendor/bin/cosign").symlink_to("cosign-3")
    return root


def make(tree, *options, status=0, **env):
    done = subprocess.run([sys.executable, str(tree / "vendor/kit"), *options], env={**os.environ, **env},
                          capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == status, done
    return done.stderr if status else next((tree / "dist").glob("*.tar.gz"))


def unpack(kit, folder):
    subprocess.run(["tar", "-xzf", kit, "-C", folder], check=True)
    return next(folder.glob("stella-offline-kit-*"))


def test_contents_and_checksums(tree, tmp_path):
    kit = make(tree)
    assert kit.name == "stella-offline-kit-0.22.0.tar.gz"
    folder = unpack(kit, tmp_path)
    files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    assert files == sorted(NAMES)
    listed = dict(reversed(line.split("  ")) for line in (folder / "SHA256SUMS").read_text().splitlines())
    assert sorted(listed) == sorted(set(NAMES) - {"SHA256SUMS"})
    for name, digest in listed.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
    beside = (kit.parent / (kit.name + ".sha256")).read_text()
    assert beside == f"{hashlib.sha256(kit.read_bytes()).hexdigest()}  {kit.name}\n"


def test_same_bytes_each_time(tree):
    first = make(tree).read_bytes()
    for path in [tree, *tree.rglob("*")]:
        os.utime(path, (1, 1))
    (tree / "README.md").chmod(0o600)
    assert make(tree, TZ="Asia/Tokyo", HOME="/nowhere").read_bytes() == first
    assert make(tree, SOURCE_DATE_EPOCH="1700000000").read_bytes() != first


def test_signed_for_openssl_and_cosign(tree, tmp_path):
    key, public = tmp_path / "k.pem", tmp_path / "p.pem"
    subprocess.run(["openssl", "ecparam", "-genkey", "-name", "prime256v1", "-noout", "-out", key], check=True)
    subprocess.run(["openssl", "ec", "-in", key, "-pubout", "-out", public], check=True, capture_output=True)
    folder = unpack(make(tree, "--key", str(key)), tmp_path)
    command = [str(ROOT / "vendor/bin/cosign"), "verify-blob", "--key", public, "--insecure-ignore-tlog=true",
               "--signature", folder / "SHA256SUMS.sig", folder / "SHA256SUMS"]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
    (folder / "SHA256SUMS").write_text("")
    assert subprocess.run(command, capture_output=True, check=False).returncode != 0


RELEASE = ["SHA256SUMS", "install.sh", "stella-offline-kit-0.22.0.tar.gz", "stella-offline-kit-0.22.0.tar.gz.sha256",
           "stella.py"]


def test_release_is_the_same_bytes_from_another_clone(tree, tmp_path):
    """Two clones, in folders and at times of their own: every file of dist/ is the same."""
    make(tree, "--release")
    other = tmp_path / "another clone"
    shutil.copytree(tree, other, symlinks=True, ignore=lambda *_: {"dist"})
    for path in other.rglob("*"):
        os.utime(path, (1, 1))
    make(other, "--release", TZ="Asia/Tokyo", HOME="/nowhere", LC_ALL="C", PYTHONHASHSEED="7")
    first, second = ({path.name: path.read_bytes() for path in (root / "dist").iterdir()} for root in (tree, other))
    assert sorted(first) == RELEASE
    assert first == second


def test_release_folder_is_what_install_sh_fetches(tree, tmp_path):
    make(tree, "--release")
    dist = tree / "dist"
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=dist, check=True)
    assert [line.split("  ")[1] for line in (dist / "SHA256SUMS").read_text().splitlines()] == sorted(
        set(RELEASE) - {"SHA256SUMS", RELEASE[3]})

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(dist))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        done = subprocess.run(["sh", "-s", "--", "--prefix", str(tmp_path / "prefix"), "--from",
                               f"http://127.0.0.1:{server.server_port}"], input=(dist / "install.sh").read_bytes(),
                              capture_output=True, timeout=60, check=False)
        server.shutdown()
        thread.join()
    assert (done.returncode, b"SHA-256 is right" in done.stdout) == (0, True), done
    assert (tmp_path / "prefix/lib/stella/stella.py").read_bytes() == (dist / "stella.py").read_bytes()


@pytest.mark.parametrize(("gone", "says"), [
    ("vendor/bin/LICENSE.cosign-3.txt", "no licence of cosign"), ("LICENSE", "cannot read"),
    ("vendor/bin/cosign", "run `make vendor`")])
def test_incomplete_kit_is_not_made(tree, gone, says):
    (tree / gone).unlink()
    assert says in make(tree, status=1, PATH=os.defpath)
    assert not (tree / "dist").exists()


def test_key_that_is_none_makes_no_kit(tree):
    assert "cannot sign" in make(tree, "--key", "/nowhere", status=1)
    assert not (tree / "dist").exists()


def test_unpacked_kit_verifies_with_its_own_programs_alone(tree, cli, gw, tmp_path):
    """The offline host: nothing on PATH, the kit in a folder whose name has blanks and no ASCII."""
    fetched = tmp_path / "fetched"
    run_id = fetch_everything(cli, gw, fetched)
    where = tmp_path / "a stick \u00e9"
    where.mkdir()
    folder = unpack(make(tree), where)
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-W", "error", folder / "stella.py", "export", "verify", run_id, "--manifest",
         fetched / "export.json", "--provenance", fetched / "provenance.json", "--bundle", fetched / "export.tar.zst",
         "--key", gw.public_key, "--offline", "--format", "table"],
        env={"PATH": str(tmp_path / "empty")}, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done
    assert "checked by cosign" in done.stdout
    doctor = subprocess.run([sys.executable, folder / "stella.py", "doctor", "--offline", "--format", "table"],
                            env={"PATH": str(tmp_path / "empty")}, capture_output=True, text=True, check=False)
    assert doctor.returncode == 0, doctor
    assert f"{folder}/vendor/cosign" in doctor.stdout
    assert f"{folder}/vendor/zstd" in doctor.stdout


def test_unpacked_kit_installs_and_a_changed_one_does_not(tree, tmp_path):
    folder = unpack(make(tree), tmp_path)
    command = ["sh", str(folder / "install.sh"), "--prefix", str(tmp_path / "prefix")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, "SHA-256 is right" in done.stdout) == (0, True), done
    assert os.access(tmp_path / "prefix/lib/stella/vendor/cosign", os.X_OK)
    with open(folder / "vendor/zstd", "a") as file:
        file.write("#")
    again = subprocess.run([*command[:-1], str(tmp_path / "other")], capture_output=True, text=True, check=False)
    assert again.returncode == 1
    assert not (tmp_path / "other").exists()
