"""README is held to the code: each command in it is run, each message in it is met, each output in it is printed."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import attacks
import reference
import stella
from conftest import ROOT, STELLA, surroundings
from gateway import Fault, Gateway
from wire import Wire, reply

README = (ROOT / "README.md").read_text(encoding="utf-8")
RUN_ID = "run-20251029-01"


class Block:
    """A fenced block: its language, its text, and the section (## ...) that it stands in."""

    def __init__(self, section: str, language: str, text: str) -> None:
        self.section = section
        self.language = language
        self.text = text


def blocks() -> list[Block]:
    found = []
    for section in re.split(r"^## ", README, flags=re.MULTILINE):
        title = section.partition("\n")[0]
        fences = re.findall(r"^```(\w*)\n(.*?)^```", section, re.DOTALL | re.MULTILINE)
        found += [Block(title, *fence) for fence in fences]
    return found


BLOCKS = blocks()


def only(language: str) -> list[Block]:
    return [block for block in BLOCKS if block.language == language and block.section != "Command reference"]


# ---- the reference -------------------------------------------------------------------------------

def test_command_reference_is_what_help_says():
    assert reference.with_section(README) == README, "run: python3 tests/reference.py --write"


def test_a_changed_help_is_noticed(monkeypatch):
    monkeypatch.setattr(stella.RUN_LS, "summary", "List runs, oldest first.")
    assert reference.with_section(README) != README


# ---- every command -------------------------------------------------------------------------------

@pytest.fixture
def published(tmp_path):
    """The address of a server that has what `make release` puts up, in place of the one README names."""
    folder = tmp_path / "published"
    folder.mkdir()
    for name in ("stella.py", "install.sh"):
        shutil.copy(ROOT / name, folder)
    sums = subprocess.run(["sha256sum", "stella.py", "install.sh"], cwd=folder, check=True, capture_output=True).stdout
    (folder / "SHA256SUMS").write_bytes(sums)

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def reader(tmp_path, gw, published):
    """reader(text): the text as somebody would type it, in one folder, with what README takes for given in it."""
    folder = tmp_path / "reader"
    for name in ("bin", "home", "profiles"):
        (folder / name).mkdir(parents=True)
    shutil.copy(gw.public_key, folder / "acme-export.pub")
    for name in ("stella.py", "install.sh"):
        shutil.copy(ROOT / name, folder)
    programs = {"stella": f"exec '{sys.executable}' '{STELLA}' \"$@\"", "python3": f"exec '{sys.executable}' \"$@\"",
                "id": "echo 1000", "make": f"exec {shutil.which('make')} --dry-run -C '{ROOT}' \"$@\""}
    for name, text in programs.items():
        (folder / "bin" / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / "bin" / name).chmod(0o755)
    placeholders = {"https://stella.example.com": gw.url, "STELLA_TOKEN=...": f"STELLA_TOKEN={gw.token}",
                    "https://downloads.stellaops.org/cli": published}
    env = surroundings(gw, {"PATH": f"{folder}/bin:{os.environ['PATH']}", "HOME": str(folder / "home"),
                            "STELLA_BASE_URL": published})

    def read(text):
        for name, value in placeholders.items():
            text = text.replace(name, value)
        script = f"trap 'echo \"failed: $BASH_COMMAND\" >&2' ERR\n{text}\necho \"$run_id\" >&3\n"
        with (folder / "home" / "run_id").open("w") as file:
            command = ["bash", "-e", "-o", "pipefail", "-c", f"exec 3>&{file.fileno()}\n{script}"]
            return subprocess.run(command, cwd=folder, env=env, pass_fds=[file.fileno()], capture_output=True,
                                  text=True, timeout=120, check=False)

    def remember():
        """The run of the commands before is the one that all others are about."""
        env["run_id"] = placeholders[RUN_ID] = (folder / "home" / "run_id").read_text().strip()

    read.folder, read.remember = folder, remember
    return read


def test_every_shell_block_runs_in_order(reader):
    assert len(only("sh")) >= 9
    for block in only("sh"):
        done = reader(block.text)
        assert done.returncode == 0, f"in the section {block.section}:\n{block.text}\n{done.stdout}\n{done.stderr}"
        if block.section == "Use":
            reader.remember()
    assert (reader.folder / "kit" / "export.tar.zst").is_file()


def test_a_command_that_fails_in_a_block_is_noticed(reader):
    done = reader("stella export run ls\nstella export run show nope\nstella export run ls\n")
    assert (done.returncode, "failed: stella export run show nope" in done.stderr) == (11, True), done


def test_every_block_has_a_language_that_some_test_reads():
    assert {block.language for block in BLOCKS} == {"sh", "text", "console", "yaml", "toml"}
    assert {block.section for block in only("yaml")} == {"CI recipe"}  # test_recipe.py runs both
    assert len(only("yaml")) == 2


def test_profile_files_are_read(tmp_path):
    folder = Path(os.environ["HOME"], ".stella", "profiles")
    folder.mkdir(parents=True)
    for block in only("toml"):
        (folder / "p.toml").write_text(block.text)
        for name in re.findall(r'token_file = "(.*?)"', block.text):
            (folder / name).write_text("t")
        config = stella.load_config({"profile": "p"}, {})
        assert (config.server, config.token) == ("https://stella.example.com", "t")


def commands_in_prose():
    text = re.sub(r"^```.*?^```", "", README, flags=re.DOTALL | re.MULTILINE)
    return sorted(set(re.findall(r"`(stella [^`]*)`", text)))


@pytest.mark.parametrize("line", commands_in_prose())
def test_command_in_a_sentence_is_one(line):
    words = line.split("|")[0].replace("COMMAND", "export run ls").split()[1:]
    found, head, rest = stella.split_argv(words)
    command = next((row for row in stella.COMMANDS if row.words == found), None)
    if command is not None and rest[:1] != ["--help"]:
        required = [arg for arg in command.args if arg.name[0] != "-" or arg.required]
        if rest:
            stella.parse_command(command, head, rest)
        assert rest or required or command.words, line


# ---- every output --------------------------------------------------------------------------------

def masked(text):
    """Without what differs from one run to the next."""
    text = re.sub(r"[0-9a-f]{64}", "DIGEST", text)
    text = re.sub(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", "TIME", text)
    text = re.sub(r"run-\d{8}-\d\d", "RUN", text)
    return re.sub(r"\d+ bytes", "N bytes", text)


def test_first_screen_is_what_the_demo_prints():
    """Line after line, with `...` for what README leaves out."""
    path = f"{ROOT}/vendor/bin:{os.environ['PATH']}"
    done = subprocess.run(["sh", "tests/demo.sh"], cwd=ROOT, capture_output=True, text=True, check=False,
                          env=surroundings(None, {"PATH": path, "PYTHON": sys.executable}))
    assert done.returncode == 0, done
    (block,) = (block for block in only("text") if block.section.startswith("# stella"))
    pattern = re.escape(masked(block.text)).replace(re.escape("...\n"), "(?:.*\n)*?")
    printed = masked(done.stdout + done.stderr)
    parts = pattern.split("(?:.*\n)*?")
    places = [re.search(part, printed) for part in parts if "REFUSED" not in part]
    assert all(places), [part for part, place in zip(parts, places) if not place]
    assert "run RUN: REFUSED\n" in printed
    assert "stella: run RUN is refused: failed manifest-signature, manifest-digest\n" in printed
    assert "\nexit 20\n" in printed


def profile_problems():
    document = {"kind": "trivy", "variant": "raw", "distribution": ["http", "ftp"]}
    with pytest.raises(stella.ValidationError) as raised:
        stella.check_profile(document, "profiles/new.json")
    return "\n".join([f"stella: {raised.value.message}", *(f"  {line}" for line in raised.value.details), ""])


def last_line_of_a_watch():
    return stella.outcome_text(RUN_ID, "succeeded", {"bundle": {"name": "export.tar.zst", "size": 45158}}) + "\n"


@pytest.mark.parametrize(("section", "made"), [
    ("Profiles, lists and output", profile_problems), ("Watch", last_line_of_a_watch)])
def test_output_in_readme_is_what_the_code_says(section, made):
    assert [block.text for block in only("text") if block.section == section] == [made()]


def test_every_output_is_looked_at():
    looked = {"Profiles, lists and output", "Watch"}
    assert {block.section for block in only("text") if not block.section.startswith("# stella")} == looked


def test_console_blocks_print_lines_of_these_kinds(reader):
    for block in only("console"):
        for part in block.text.split("$ ")[1:]:
            command, _, shown = part.partition("\n")
            done = reader(command + " --format table")
            assert done.returncode == 0, done
            printed = {line.split()[1] for line in done.stdout.splitlines() if line[:1].isalpha() and " " in line}
            for line in shown.splitlines():
                if line[:1].isalpha() and " " in line:
                    assert line.split()[1] in printed, line
            assert shown.splitlines()[-1] == done.stdout.splitlines()[-1]


# ---- every message -------------------------------------------------------------------------------

def messages():
    """{message: exit code} of the table in "Troubleshooting by message"."""
    text = README.partition("\n## Troubleshooting by message\n")[2].partition("\n## ")[0]
    return {message: int(code) for message, code in re.findall(r"^\| `(.*?)` \((\d+)\) \|", text, re.MULTILINE)}


WORDS = {"TLS", "JSON", "ECDSA", "P", "UTF"}  # capitals that are no placeholders


def matches(message, line):
    """True when the line says this, something standing for each word in capitals."""
    pattern = re.sub(r"\b[A-Z]+\b", lambda word: word.group() if word.group() in WORDS else ".+", re.escape(message))
    return re.fullmatch(pattern, re.sub(r" \([A-Z_0-9]*(, )?(trace \w+)?\)$", "", line)) is not None


MET = {}


def met(message):
    """Registers the way to a message, by how it begins."""
    def register(way):
        MET[message] = way
        return way
    return register


class Hands:
    """What a way may use; each gives a Result of the conftest."""

    def __init__(self, cli, gw, tmp_path, monkeypatch):
        self.cli, self.gw, self.tmp_path, self.monkeypatch = cli, gw, tmp_path, monkeypatch

    def ask(self, server="", *words, **env):
        values = {"STELLA_SERVER": server or self.gw.url, "STELLA_TOKEN": "t-oken-t", **env}
        return self.cli(*(words or ("run", "ls")), "--retries", "1", env=values)

    def told(self, answer):
        with Wire(answer) as server:
            return self.ask(server.url)

    def verify(self, *more, bend=lambda kit: None):
        kit = attacks.Kit()
        bend(kit)
        return self.cli(*kit.write(self.tmp_path / "kit"), *more)


def refused_port():
    taken = socket.socket()
    taken.bind(("127.0.0.1", 0))  # bound and not listening: nobody else can have it
    return taken, f"127.0.0.1:{taken.getsockname()[1]}"


@met("no token")
def _(hands):
    return hands.cli("run", "ls", env={"STELLA_SERVER": hands.gw.url})


@met("cannot reach HOST")
def _(hands):
    taken, place = refused_port()
    with taken:
        return hands.ask(f"http://{place}")


@met("cannot find the host")
def _(hands):
    def find(*_, **__):
        raise socket.gaierror(-2, "Name or service not known")

    hands.monkeypatch.setattr(socket, "getaddrinfo", find)
    return hands.ask("https://stella.example")


@met("HOST (port N) did not answer")
def _(hands):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        return hands.ask(f"http://127.0.0.1:{silent.getsockname()[1]}", "run", "ls", "--timeout", "0.1")


@met("the proxy")
def _(hands):
    with Wire(reply(407)) as proxy:
        return hands.ask("https://stella.example", https_proxy=proxy.url)


@met("cannot trust")
def _(hands):
    data = hands.tmp_path / "tls"
    with Gateway(data=data, key=hands.gw.private_key, other_key=hands.gw.other_private_key, tls=True) as gw:
        return hands.ask(gw.url)


@met("the token would go")
def _(hands):
    return hands.ask("http://stella.example")


@met("the answer of PATH")
def _(hands):
    return hands.told(reply(200, b"<html>Log in</html>", "Content-Type: text/html"))


@met("the server answered PATH with status 401")
def _(hands):
    return hands.told(reply(401))


@met("the server answered PATH with status 404")
def _(hands):
    return hands.told(reply(404))


@met("profile file")
def _(hands):
    folder = Path(os.environ["HOME"], ".stella", "profiles")
    folder.mkdir(parents=True)
    (folder / "p.toml").write_text("sever = 'x'\n")
    return hands.ask("", STELLA_PROFILE="p")


@met("FILE is not")
def _(hands):
    path = hands.tmp_path / "profile.json"
    path.write_text("{}")
    return hands.cli("profile", "create", "--file", path, gw=hands.gw)


@met("the selectors")
def _(hands):
    return hands.cli("run", "submit", "prof-json-raw", "--selector", "tenant", gw=hands.gw)


@met("--query")
def _(hands):
    return hands.cli("run", "show", hands.gw.make_run()["runId"], "--query", "bundle.nothing", gw=hands.gw)


@met("run RUN failed")
def _(hands):
    hands.gw.fail_at("sign")
    return hands.cli("run", "watch", hands.gw.make_run()["runId"], gw=hands.gw)


def held(hands, *words):
    hands.gw.hold()
    run_id = hands.gw.make_run(wait=False)["runId"]
    try:
        return hands.cli(*(run_id if word == "RUN" else word for word in words), gw=hands.gw)
    finally:
        hands.gw.release()


@met("run RUN is still")
def _(hands):
    return held(hands, "run", "watch", "RUN", "--deadline", "0.1")


@met("run RUN is STATUS")
def _(hands):
    return held(hands, "download", "RUN", "--output", hands.tmp_path / "b")


def download(hands, *more, **order):
    run_id = hands.gw.make_run()["runId"]
    if order:
        hands.gw.order(Fault("GET", "/download$", times=-1, **order))
    return hands.cli("download", run_id, "--output", hands.tmp_path / "b", "--retries", "1", *more, gw=hands.gw)


@met("the download")
def _(hands):
    return download(hands, cut=1000)


@met("another process")
def _(hands):
    code = "import sys, stella; part = stella.PartFile(sys.argv[1]); print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code, str(hands.tmp_path / "b")], cwd=ROOT, stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE) as holder:
        holder.stdout.readline()
        done = download(hands)
        holder.communicate(b"\n", 30)
    return done


@met("the bundle of run")
def _(hands):
    return download(hands, flip=100)


@met("run RUN is refused")
def _(hands):
    return hands.verify(bend=attacks.after("export.json", lambda data: data.replace(b"acme", b"acne")))


@met("the members")
def _(hands):
    hands.monkeypatch.setattr(stella, "find_codec", lambda _: None)
    hands.monkeypatch.setattr(stella, "find_program", lambda *_: "")
    return hands.verify("--verifier", "builtin", bend=attacks.archive(attacks.zstd(attacks.tar()), "zstd"))


@met("the built-in verifier")
def _(hands):
    return hands.verify("--verifier", "builtin", bend=attacks.with_key("RSA"))


@met("NAME was asked for")
def _(hands):
    hands.monkeypatch.setenv("PATH", str(hands.tmp_path))
    hands.monkeypatch.setattr(stella, "__file__", str(hands.tmp_path / "stella.py"))
    return hands.verify("--verifier", "cosign")


@met("cannot ask the registry")
def _(hands):
    taken, place = refused_port()
    run_id = hands.gw.make_run()["runId"]
    digest = "sha256:" + "0" * 64
    hands.gw.patch_run(run_id, distribution=[{"type": "oci", "ref": f"{place}/exports/acme:1", "digest": digest}])
    with taken:
        return hands.cli("download", run_id, "--output", hands.tmp_path / "b", "--retries", "1", gw=hands.gw)


def broken(hands, error):
    def run(*_):
        raise error

    hands.monkeypatch.setattr(stella, "run_command", run)
    return hands.cli("run", "ls")


@met("this Python")
def _(hands):
    return broken(hands, ImportError("x", name="zlib"))


@met("unexpected NAME")
def _(hands):
    return broken(hands, ZeroDivisionError())


@pytest.mark.parametrize("message", messages())
def test_message_in_readme_is_met(cli, gw, tmp_path, monkeypatch, message):
    ways = [way for start, way in MET.items() if message.startswith(start)]
    assert len(ways) == 1, f"no way to this message: {message}"
    done = ways[0](Hands(cli, gw, tmp_path, monkeypatch))
    lines = [line[len("stella: "):] for line in done.err.splitlines() if line.startswith("stella: ")]
    assert [line for line in lines if matches(message, line)], done
    assert done.code == messages()[message]


def test_every_way_leads_to_a_message_in_readme():
    assert [start for start in MET if not [message for message in messages() if message.startswith(start)]] == []
    assert len(messages()) == len(MET) >= 20


def test_a_message_that_is_not_made_is_noticed():
    assert matches("cannot reach HOST (port N): REASON", "cannot reach 127.0.0.1 (port 1): Connection refused")
    assert not matches("cannot reach HOST (port N): REASON", "can not reach 127.0.0.1 (port 1): Connection refused")
    assert not matches("no token is configured", "no token is configured at all")


# ---- everything it points to ---------------------------------------------------------------------

def anchor(title):
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def test_links_within_readme_lead_somewhere():
    titles = {anchor(title) for title in re.findall(r"^#+ (.*)$", README, re.MULTILINE)}
    assert set(re.findall(r"\]\(#(.*?)\)", README)) - titles == set()


def test_files_that_readme_names_are_there():
    names = set(re.findall(r"`((?:tests|vendor|\.ci)/[\w./-]+)`", README))
    made = {"vendor/bin"}  # by make vendor
    assert [name for name in sorted(names - made) if not (ROOT / name).exists()] == []


def test_names_that_the_audit_section_points_to_are_in_the_code():
    text = README.partition("\n## How to audit\n")[2].partition("\n## ")[0]
    table = "\n".join(line for line in text.splitlines() if line.startswith("|"))
    names = {name for name in re.findall(r"`([A-Za-z_.]+)`", table) if "/" not in name}
    import test_source

    for name in names - {"POWERS", "EXCEPTIONS", "stella.py"}:
        place = stella
        for part in name.split("."):
            place = getattr(place, part)
    assert {"POWERS", "EXCEPTIONS"} <= set(dir(test_source))


def test_commands_with_query_are_those_that_readme_names():
    assert "`profile` and `run` command has it, `run watch` excepted" in " ".join(README.split())
    having = [row.words for row in stella.COMMANDS if stella.QUERY in row.args]
    said = [row.words for row in stella.COMMANDS if row.words[1:2] in (("profile",), ("run",))]
    assert having == [words for words in said if words != stella.RUN_WATCH.words]


def test_targets_of_make_are_the_makefile_s():
    makefile = (ROOT / "Makefile").read_text()
    explained = set(re.findall(r"^([a-z]+):.*## ", makefile, re.MULTILINE))
    named = set(re.findall(r"`make ([a-z]+)", README))
    assert named - explained == set()
    section = README.partition("\n## Development\n")[2]
    assert explained - {"help", "clean"} - set(re.findall(r"^\| `make ([a-z]+)` \|", section, re.MULTILINE)) == set()
    assert makefile.index("\nhelp:") == min(makefile.index(f"\n{name}:") for name in explained)
