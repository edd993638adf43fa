"""install.sh, run for real under every sh there is, into scratch prefixes, with a PATH of chosen tools."""

import contextlib
import functools
import hashlib
import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PYTHON = os.path.realpath(sys.executable)
SHELLS = ["dash", "bash", *(["busybox"] if shutil.which("busybox") else [])]
# All that install.sh and the launcher call, but Python, downloaders and checksum tools, which tests choose.
PLAIN_TOOLS = ["cat", "chmod", "cp", "dirname", "grep", "id", "mkdir", "mktemp", "mv", "rm", "rmdir", "sed",
               "sort"]

# Stands in for stella.py where a test looks at how it is started.
PROBE = """
import json, os, sys
VERSION = "1"
def main(argv=None):
    if sys.argv[1:] == ["--version"]:
        print("stella " + VERSION)
    else:
        print(json.dumps({"argv": sys.argv[1:], "cached": __spec__.cached if __spec__ else None,
                          "flags": [sys.flags.isolated, sys.flags.no_site], "path": sys.path,
                          "pid": os.getpid(), "python": sys.executable}))
    return 7 if "fail" in sys.argv else 0
if __name__ == "__main__":
    sys.exit(main())
"""


class Host:
    """A host with a chosen PATH, and one folder with install.sh and stella.py, as in a checkout."""

    def __init__(self, base: Path, shell: str) -> None:
        self.base, self.shell = base, shell
        self.bin, self.home, self.prefix = base / "tools", base / "home", base / "prefix"
        self.source = base / "source"
        for folder in (self.bin, self.home, self.source):
            folder.mkdir()
        self.shell_path = shutil.which(shell)
        assert self.shell_path, f"{shell} is missing: install it"
        for tool in [*PLAIN_TOOLS, "sha256sum"]:
            self.give(tool)
        (self.bin / "python3").symlink_to(PYTHON)
        shutil.copy(ROOT / "install.sh", self.source)
        self.write("stella.py", PROBE)
        self.env = {"PATH": str(self.bin), "HOME": str(self.home), "TMPDIR": str(base)}

    @property
    def sh(self) -> "list[str]":
        return [self.shell_path, "sh"] if self.shell == "busybox" else [self.shell_path]

    @property
    def launcher(self) -> Path:
        return self.prefix / "bin/stella"

    @property
    def lib(self) -> Path:
        return self.prefix / "lib/stella"

    def give(self, tool: str) -> None:
        path = shutil.which(tool)
        assert path, f"{tool} is missing: install it"
        (self.bin / tool).symlink_to(path)

    def script(self, name: str, text: str) -> None:
        path = self.bin / name
        path.unlink(missing_ok=True)
        path.write_text("#!/bin/sh\n" + text)
        path.chmod(0o755)

    def write(self, name: str, text: str, mode: int = 0o644) -> None:
        path = self.source / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)

    def sums(self, *names: str) -> None:
        self.write("SHA256SUMS", "".join(
            f"{hashlib.sha256((self.source / name).read_bytes()).hexdigest()}  {name}\n" for name in names))

    def install(self, *options: str, status: int = 0, prefix: bool = True) -> str:
        where = ["--prefix", str(self.prefix)] if prefix else []
        return self._run([*self.sh, str(self.source / "install.sh"), *where, *options], status)

    def pipe(self, *options: str, status: int = 0, script: "str | None" = None) -> str:
        text = script if script is not None else (ROOT / "install.sh").read_text()
        return self._run([*self.sh, "-s", "--", "--prefix", str(self.prefix), *options], status, stdin=text)

    def _run(self, command: "list[str]", status: int, stdin: str = "") -> str:
        done = subprocess.run(command, env=self.env, cwd=self.home, input=stdin, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, timeout=60, check=False)
        assert done.returncode == status, done.stdout
        names = [path.name for path in self.base.rglob("*")]
        left = [name for name in names if ".new." in name or "stella-install" in name]
        assert left == []
        return done.stdout

    def stella(self, *arguments: str, status: int = 0, **env: str) -> str:
        done = subprocess.run([str(self.launcher), *arguments], env={**self.env, **env}, cwd=self.home,
                              stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60,
                              check=False)
        assert done.returncode == status, done.stderr
        return done.stdout or done.stderr

    def nothing_written(self) -> bool:
        return not self.prefix.exists()


@pytest.fixture
def host(tmp_path):
    return Host(tmp_path, SHELLS[0])


@pytest.fixture(params=SHELLS)
def each_host(request, tmp_path):
    """The same under every sh, for the tests that go through most of the script."""
    return Host(tmp_path, request.param)


@pytest.fixture
def serve():
    """Serve a folder on loopback; gives its URL and the list of paths asked for."""
    with contextlib.ExitStack() as stack:

        def start(folder):
            asked = []

            class Handler(http.server.SimpleHTTPRequestHandler):
                def log_message(self, *_):
                    pass

                def do_GET(self):
                    asked.append(self.path)
                    super().do_GET()

            server = http.server.ThreadingHTTPServer(
                ("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
            thread = threading.Thread(target=server.serve_forever, args=(0.01,))
            thread.start()
            stack.callback(server.server_close)
            stack.callback(thread.join)
            stack.callback(server.shutdown)
            return f"http://127.0.0.1:{server.server_port}", asked

        yield start


# ---- install, repeat, remove -------------------------------------------------------------------------------


def test_from_a_checkout_it_installs_program_launcher_and_bytecode(each_host):
    said = each_host.install()
    assert f"installed stella 1: {each_host.launcher}" in said
    assert each_host.stella("--version") == "stella 1\n"
    cached = json.loads(each_host.stella())["cached"]
    assert cached.startswith(str(each_host.lib / "__pycache__"))
    assert Path(cached).exists()


def test_it_says_when_the_launcher_is_not_on_path(host):
    assert "not on PATH" in host.install()
    host.env["PATH"] += f":{host.launcher.parent}"
    assert "not on PATH" not in host.install()


@pytest.mark.parametrize("name", ["with space", "it's", "dollar $HOME `id`", "ünïcode", 'double "quote"'])
def test_any_prefix_works(each_host, name):
    each_host.prefix = each_host.base / name
    each_host.install()
    assert json.loads(each_host.stella("x"))["argv"] == ["x"]


def test_a_relative_prefix_is_taken_from_the_current_folder(host):
    host.install("--prefix", "here", prefix=False)
    host.prefix = host.home / "here"
    assert host.stella("--version") == "stella 1\n"


def test_a_second_install_replaces_the_first(host):
    host.install()
    host.write("stella.py", PROBE.replace('"1"', '"2"'))
    host.install()
    assert host.stella("--version") == "stella 2\n"


def test_a_program_that_does_not_start_replaces_nothing(host):
    host.install()
    host.write("stella.py", "syntax error")
    host.install(status=1)
    assert host.stella("--version") == "stella 1\n"


def test_uninstall_removes_what_install_wrote(each_host):
    each_host.install()
    each_host.install("--uninstall")
    assert [path for path in each_host.prefix.rglob("*") if path.is_file()] == []
    assert not each_host.lib.exists()
    assert "nothing of stella" in each_host.install("--uninstall")


def test_uninstall_leaves_what_is_not_ours(host):
    host.install()
    (host.lib / "notes.txt").write_text("mine")
    host.launcher.write_text("#!/bin/sh\necho another stella\n")
    assert "holds other files" in host.install("--uninstall")
    assert {path.name for path in host.prefix.rglob("*") if path.is_file()} == {"stella", "notes.txt"}


def test_another_program_named_stella_is_not_overwritten(host):
    host.launcher.parent.mkdir(parents=True)
    host.launcher.write_text("#!/bin/sh\necho another stella\n")
    assert "not from this installer" in host.install(status=1)
    assert "another stella" in host.launcher.read_text()
    assert not host.lib.exists()


def test_dry_run_says_all_and_writes_nothing(each_host):
    said = each_host.install("--dry-run")
    assert f"would write {each_host.launcher}" in said
    assert f"would write {each_host.lib}/stella.py" in said
    assert each_host.nothing_written()
    each_host.install()
    assert f"would remove {each_host.lib}/stella.py" in each_host.install("--uninstall", "--dry-run")
    assert each_host.stella("--version") == "stella 1\n"


def test_a_strict_umask_does_not_lock_others_out(host):
    host.write("vendor/bin/cosign", "#!/bin/sh\n", 0o755)
    command = ["sh", "-c", 'umask 077; exec "$@"', "sh", *host.sh, str(host.source / "install.sh"),
               "--prefix", str(host.prefix)]
    subprocess.run(command, env=host.env, check=True, capture_output=True, executable=shutil.which("sh"))
    modes = {path.name: path.stat().st_mode & 0o777 for path in [host.lib, *host.prefix.rglob("*")]}
    assert modes["stella.py"] == 0o644
    assert {modes["bin"], modes["cosign"], modes["__pycache__"]} == {0o755}
    assert host.launcher.stat().st_mode & 0o777 == 0o755


def test_vendored_programs_come_along_without_the_extra_ones_of_the_tests(host):
    host.write("vendor/bin/cosign-3", "#!/bin/sh\necho three\n", 0o755)
    (host.source / "vendor/bin/cosign").symlink_to("cosign-3")
    host.write("vendor/bin/COSIGN.txt", "origin")
    for name in ("fetch", "kit", "README.md"):
        host.write(f"vendor/{name}", "not needed there", 0o755)
    host.install()
    there = sorted(str(path.relative_to(host.lib)) for path in host.lib.rglob("*") if path.is_file()
                   and "__pycache__" not in path.parts)
    assert there == ["stella.py", "vendor/bin/COSIGN.txt", "vendor/bin/cosign"]
    copied = host.lib / "vendor/bin/cosign"
    assert not copied.is_symlink()
    assert os.access(copied, os.X_OK)


# ---- where to ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("uid", "where"), [("0", "/usr/local"), ("1000", "{home}/.local")])
def test_default_prefix(host, uid, where):
    host.script("id", f"echo {uid}\n")
    said = host.install("--dry-run", prefix=False)
    assert f"would write {where.format(home=host.home)}/lib/stella/stella.py" in said


def test_without_root_and_home_the_prefix_must_be_named(host):
    host.script("id", "echo 1000\n")
    del host.env["HOME"]
    assert "--prefix" in host.install(status=1, prefix=False)


@pytest.mark.parametrize(("options", "status"), [
    (["--nonsense"], 2), (["stray"], 2), (["--from"], 1), (["--from", ""], 1), (["--prefix", ""], 1)])
def test_wrong_use_writes_nothing(each_host, options, status):
    each_host.install(*options, status=status)
    assert each_host.nothing_written()


def test_help_names_every_option(host):
    said = host.install("--help")
    for option in ("--prefix", "--from", "--dry-run", "--uninstall", "STELLA_BASE_URL"):
        assert option in said
    assert host.nothing_written()


# ---- checksums ---------------------------------------------------------------------------------------------


def test_a_kit_with_right_checksums_is_installed(host):
    host.write("vendor/bin/cosign", "#!/bin/sh\n", 0o755)
    host.sums("stella.py", "install.sh", "vendor/bin/cosign")
    assert "SHA-256 is right" in host.install()


@pytest.mark.parametrize("tool", ["shasum", "openssl"])
def test_other_checksum_tools_do(host, tool):
    if tool == "shasum" and not shutil.which("shasum"):
        host.script("shasum", f'exec {shutil.which("sha256sum")}\n')
    else:
        host.give(tool)
        if tool == "shasum":  # a Perl script
            host.give("perl")
    (host.bin / "sha256sum").unlink()
    host.sums("stella.py")
    assert "SHA-256 is right" in host.install()
    host.write("stella.py", PROBE + "#")
    host.install(status=1)


@pytest.mark.parametrize(("changed", "listed", "says"), [
    ("stella.py", ["stella.py", "vendor/bin/cosign"], "stella.py is not what SHA256SUMS says"),
    ("vendor/bin/cosign", ["stella.py", "vendor/bin/cosign"], "cosign is not what SHA256SUMS says"),
    (None, ["vendor/bin/cosign"], "no line for stella.py"),
    (None, ["stella.py"], "no line for vendor/bin/cosign"),
    (None, [], "no line for stella.py"),
])
def test_a_kit_with_wrong_checksums_is_refused(each_host, changed, listed, says):
    each_host.write("vendor/bin/cosign", "#!/bin/sh\n", 0o755)
    each_host.sums(*listed)
    if changed:
        each_host.write(changed, (each_host.source / changed).read_text() + "#")
    assert says in each_host.install(status=1)
    assert each_host.nothing_written()


def test_without_a_checksum_tool_it_refuses(host):
    (host.bin / "sha256sum").unlink()
    host.sums("stella.py")
    assert "SHA-256" in host.install(status=1)
    assert host.nothing_written()


# ---- from a pipe -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("downloader", ["curl", "python"])
def test_a_pipe_fetches_from_the_base_url(each_host, serve, downloader):
    if downloader == "curl":
        each_host.give("curl")
    url, asked = serve(each_host.source)
    each_host.sums("stella.py")
    # what lies in the current folder is not the product
    (each_host.home / "stella.py").write_text("raise SystemExit('the wrong one')")
    assert "SHA-256 is right" in each_host.pipe("--from", url + "/")
    assert each_host.stella("--version") == "stella 1\n"
    assert asked == ["/SHA256SUMS", "/stella.py"]


def test_the_base_url_may_come_from_the_environment(host, serve):
    host.env["STELLA_BASE_URL"], _ = serve(host.source)
    host.sums("stella.py")
    host.pipe()
    assert host.stella("--version") == "stella 1\n"


@pytest.mark.parametrize("downloader", ["curl", "python"])
@pytest.mark.parametrize(("fault", "says"), [
    ("changed", "not what SHA256SUMS says"), ("no-sums", "cannot fetch"), ("no-program", "cannot fetch")])
def test_a_pipe_refuses_what_it_cannot_check(host, serve, downloader, fault, says):
    if downloader == "curl":
        host.give("curl")
    url, _ = serve(host.source)
    host.sums("stella.py")
    if fault == "changed":
        host.write("stella.py", PROBE + "#")
    else:
        (host.source / {"no-sums": "SHA256SUMS", "no-program": "stella.py"}[fault]).unlink()
    assert says in host.pipe("--from", url, status=1)
    assert host.nothing_written()


def test_a_pipe_without_a_checksum_tool_refuses(host, serve):
    url, _ = serve(host.source)
    host.sums("stella.py")
    (host.bin / "sha256sum").unlink()
    host.pipe("--from", url, status=1)
    assert host.nothing_written()


@pytest.mark.parametrize("url", [
    "http://downloads.example", "http://127.0.0.1.example/x", "http://localhost.example",
    "http://localhost@example", "http://127.0.0.1:80@example", "ftp://example", "file:///tmp", "example"])
def test_only_https_or_this_host(host, url):
    assert "refusing" in host.pipe("--from", url, status=1)
    assert host.nothing_written()


@pytest.mark.parametrize("downloader", ["curl", "python"])
def test_a_redirect_to_plain_http_is_not_followed(host, serve, downloader):
    if downloader == "curl":
        host.give("curl")
    elsewhere, asked = serve(host.source)
    host.sums("stella.py")

    class Redirect(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(302)
            self.send_header("Location", elsewhere + self.path)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Redirect) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        host.pipe("--from", f"http://127.0.0.1:{server.server_port}", status=1)
        server.shutdown()
        thread.join()
    assert asked == []
    assert host.nothing_written()


@pytest.mark.parametrize("cut_at", [0.3, 0.6, 0.9, 0.999])
def test_a_pipe_that_breaks_in_the_middle_does_nothing(each_host, serve, cut_at):
    each_host.env["STELLA_BASE_URL"], asked = serve(each_host.source)
    each_host.sums("stella.py")
    text = (ROOT / "install.sh").read_text()
    cut = text[:int(len(text) * cut_at)]
    done = subprocess.run([*each_host.sh, "-s", "--", "--prefix", str(each_host.prefix)], env=each_host.env, input=cut,
                          text=True, cwd=each_host.home, capture_output=True, timeout=60, check=False)
    assert (done.stdout, asked) == ("", [])
    assert each_host.nothing_written()


# ---- which Python ------------------------------------------------------------------------------------------


def test_the_newest_python_is_taken_and_broken_names_are_passed_over(host):
    host.script("python3.14", "echo 'pyenv: python3.14: command not found' >&2; exit 127\n")
    host.script("python3.8", "exit 1\n")
    host.script("python3.9", "case $3 in *version_info*) echo '9 /nowhere/python3.9' ;; esac\n")
    host.install()
    assert json.loads(host.stella())["python"] == str(host.bin / "python3")


def test_a_plain_python3_newer_than_every_numbered_one_is_taken(each_host):
    chosen = each_host.bin / "chosen"
    chosen.symlink_to(PYTHON)
    each_host.script("python3", f"case $3 in *_base_executable*) echo '99 {chosen}' ;; esac\n")
    (each_host.bin / "python3.12").symlink_to(PYTHON)
    each_host.install()
    assert f"py='{chosen}'" in each_host.launcher.read_text()


def test_without_a_python_it_says_which_is_needed(host):
    (host.bin / "python3").unlink()
    assert "3.9" in host.install(status=1)
    host.script("python3", "exit 1\n")  # one that is too old
    assert "3.9" in host.install(status=1)
    assert host.nothing_written()


def test_the_launcher_finds_another_python_when_its_own_is_gone(each_host):
    own = each_host.bin / "python3.12"
    (each_host.bin / "python3").rename(own)
    each_host.install()
    assert f"py='{own}'" in each_host.launcher.read_text()
    other = each_host.bin / "python3.11"
    own.rename(other)
    assert each_host.stella("--version") == "stella 1\n"
    other.unlink()
    assert "3.9" in each_host.stella("--version", status=30)


# ---- the launcher ------------------------------------------------------------------------------------------


def test_arguments_and_exit_status_go_through_unchanged(each_host):
    each_host.install()
    arguments = ["", "a b", "*", "$HOME", "--prefix", "-c", "ü\n"]
    assert json.loads(each_host.stella(*arguments))["argv"] == arguments
    each_host.stella("fail", status=7)


def test_the_launcher_becomes_python_so_that_signals_reach_it(host):
    host.install()
    with subprocess.Popen([str(host.launcher)], env=host.env, stdout=subprocess.PIPE, text=True) as process:
        assert json.loads(process.stdout.read())["pid"] == process.pid


def test_nothing_from_the_current_folder_or_environment_gets_in(host):
    host.install()
    (host.home / "json.py").write_text("raise SystemExit('planted')")
    (host.home / "stella.py").write_text("raise SystemExit('planted')")
    seen = json.loads(host.stella(PYTHONPATH=str(host.home), PYTHONSTARTUP=str(host.home / "json.py")))
    assert seen["flags"] == [1, 1]
    assert str(host.home) not in seen["path"]


def test_the_real_program_runs_from_the_bytecode_of_the_install(host):
    """That is what makes it start faster than the copied file; how much, `make bench` says."""
    shutil.copy(ROOT / "stella.py", host.source)
    host.install()
    (cached,) = (host.lib / "__pycache__").iterdir()
    marked = cached.read_bytes().replace(b"List runs, newest first.", b"LIST RUNS, NEWEST FIRST.")
    cached.write_bytes(marked)
    assert "LIST RUNS, NEWEST FIRST." in host.stella("--help")
