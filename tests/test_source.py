"""The promises that stella.py makes about itself, kept by reading it with ast (../shared/style.md).

A rule is a generator: a Source in, a line for each thing that breaks it out. Every rule is tried twice: on stella.py,
where it must say nothing, and on small bad sources (BAD), where it must say something: a rule that cannot fail is none.
What no reading can tell: which hosts are asked (all of them come from settings and documents), and what a module of
the standard library does inside.
"""

from __future__ import annotations

import ast
import builtins
import importlib.util
import re
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from unittest.mock import MagicMock

import pytest

import stella
from conftest import STELLA

# ---- what is allowed -----------------------------------------------------------------------------

ROOMS = ("Header", "Constants and limits", "Errors", "Untrusted input", "Event stream", "Resume", "Verification",
         "Configuration", "Terminal", "Files", "Programs", "HTTP", "Gateway", "Operations", "Commands", "Entry")
PURE = ROOMS[1:7]  # values in, values out: no files, no clock, no environment
NO_ROOM = ()

# Every module that stella.py may import, all of them in the standard library of every Python from 3.9 on (what is
# not is in NOT_EVERYWHERE). sys.stdlib_module_names would say so only from 3.10 on, and only of that one Python.
PLAIN_MODULES = {
    "__future__", "collections.abc", "typing", "os", "sys", "argparse", "datetime", "difflib", "email.utils", "errno",
    "gc", "hashlib", "importlib", "json.scanner", "queue", "selectors", "shlex", "stat", "types",
    "unicodedata", "uuid", "zlib", "compression.zstd", "tomllib", "fcntl", "msvcrt",
}
PURE_MODULES = {"base64", "datetime", "hashlib", "ipaddress", "json", "json.encoder", "re", "urllib.parse"}
NOT_EVERYWHERE = {"tomllib": "3.11", "compression.zstd": "3.14", "fcntl": "not on Windows", "msvcrt": "on Windows"}

# What gives power over the world, and the rooms that may name it; a name stands for everything below it.
POWERS = {
    "sockets": (("HTTP",), (
        "socket", "http.client", "selectors", "ssl.SSLContext", "ssl.SSLSocket", "ssl.create_default_context",
        "ssl.wrap_socket", "ssl.PROTOCOL_TLS_CLIENT", "ssl.get_server_certificate")),
    "what ssl and urllib would open by themselves": (NO_ROOM, (
        "urllib.request", "ssl._create_unverified_context", "ssl._create_stdlib_context", "ssl.CERT_NONE",
        "ssl.CERT_OPTIONAL", "http.server", "socketserver", "ftplib", "smtplib", "asyncio", "webbrowser")),
    "writing to files": (("Files",), (
        "os.open", "os.fdopen", "os.write", "os.pwrite", "os.writev", "os.sendfile", "os.copy_file_range", "os.replace",
        "os.rename", "os.renames", "os.link", "os.symlink", "os.unlink", "os.remove", "os.rmdir", "os.removedirs",
        "os.mkdir", "os.makedirs", "os.mkfifo", "os.mknod", "os.chmod", "os.fchmod", "os.lchmod", "os.chown",
        "os.fchown", "os.lchown", "os.utime", "os.truncate", "os.ftruncate", "os.posix_fallocate", "os.O_WRONLY",
        "os.O_RDWR", "os.O_CREAT", "os.O_TRUNC", "os.O_APPEND", "os.setxattr", "shutil.copy", "shutil.copy2",
        "shutil.copyfile", "shutil.copyfileobj", "shutil.copytree", "shutil.move", "shutil.rmtree", "shutil.chown",
        "tempfile.mkdtemp", "tempfile.mkstemp", "tempfile.mktemp", "tempfile.TemporaryFile",
        "tempfile.NamedTemporaryFile", "tempfile.SpooledTemporaryFile", "tempfile.TemporaryDirectory", "os.dup2")),
    "programs": (("Programs",), ("subprocess",)),
    "programs, past the one place that starts them": (NO_ROOM, (
        "os.system", "os.popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.posix_spawnp", "os.startfile", "pty",
        "multiprocessing", "concurrent", "subprocess.getoutput", "subprocess.getstatusoutput", "os.execv", "os.execve",
        "os.execvp", "os.execvpe", "os.execl", "os.execle", "os.execlp", "os.execlpe", "os.spawnv", "os.spawnve",
        "os.spawnvp", "os.spawnvpe", "os.spawnl", "os.spawnle", "os.spawnlp", "os.spawnlpe")),
    "the environment": (("Configuration",), (
        "os.environ", "os.environb", "os.getenv", "os.getenvb", "os.putenv", "os.unsetenv", "os.path.expanduser",
        "os.path.expandvars")),
    "PATH": (("Programs",), ("shutil.which", "os.get_exec_path")),
    "standard output and error": (("Terminal",), (
        "print", "sys.stdout", "sys.stderr", "sys.__stdout__", "sys.__stderr__", "sys.displayhook", "sys.excepthook")),
    "standard input": (("Configuration",), ("sys.stdin", "sys.__stdin__", "input")),
    "the end of the process, and signals": (("Entry",), (
        "sys.exit", "SystemExit", "os._exit", "os.abort", "os.kill", "os.killpg", "exit", "quit", "signal")),
    "the clock": (("HTTP",), (
        "time.time", "time.time_ns", "time.monotonic", "time.monotonic_ns", "time.perf_counter", "time.sleep",
        "datetime.datetime.now", "datetime.datetime.utcnow", "datetime.datetime.today", "datetime.date.today")),
    "threads": (("Files", "Programs", "Operations"), ("threading",)),
    "code made from data": (NO_ROOM, (
        "eval", "exec", "compile", "__import__", "globals", "locals", "setattr", "delattr", "breakpoint", "pickle",
        "marshal", "shelve", "ctypes", "runpy", "code", "pkgutil", "sys.setprofile", "sys.settrace", "sys._getframe")),
}
# (function, name): why it may, outside the rooms above. One that is not needed any more is a complaint too.
EXCEPTIONS = {
    ("", "sys.stderr"): "the version gate, before there is any room",
    ("", "SystemExit"): "the version gate",
    ("parse_json", "sys"): "this Python's own limit for long numbers",
    ("Console._drop_output", "os.open"): "os.devnull: somewhere for Python's last flush",
    ("Console._drop_output", "os.O_WRONLY"): "os.devnull",
    ("Console._drop_output", "os.dup2"): "os.devnull",
}
# Names that stand above their definition: what calls each other, or is needed where it stands.
USED_ABOVE = {
    ("schema_problems", "object_problems"): "a schema nests",
    ("schema_problems", "list_problems"): "a schema nests",
    ("cmd_completion", "COMPLETIONS"): "the scripts are made from COMMANDS, and this is one of them",
    ("Transfer", "SideBySide"): "each needs the other: one plans the pieces that the other's connections fill",
}
# Every host and scheme that stands in the text as a URL, and why nothing asks it by itself.
WRITTEN_URLS = {
    "https://stella.local": "the default of --server, from the guide",
    "https://stella.example.com": "an example in a hint",
    "http://127.0.0.1:9": "the proxy that verifiers are given, so that they reach nothing",
    "https://in-toto.io": "names a document type",
    "https://slsa.dev": "names a document type",
    "http://USER:PASSWORD@HOST:PORT": "an example in a hint",
    "http://HOST:PORT": "an example in a hint",
    "https://HOST": "an example in a hint",
}
MAX_FUNCTION_LINES = 60
MAX_NESTING = 3
MAX_BANNER_LINES = 8


# ---- a source, read once -------------------------------------------------------------------------

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
BANNER = re.compile(r"^# (={98})\n# Room (\d+)\. (.*)\n#\n((?:# ?.*\n)*?)# ={98}\n", re.MULTILINE)


class Room:
    def __init__(self, number: int, title: str, line: int, words: list[str]) -> None:
        self.number = number
        self.title = title
        self.line = line
        self.words = words


class Source:
    """A Python text with its tree, its rooms, and for each node the function that it stands in."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tree = ast.parse(text)
        self.rooms = [
            Room(int(found.group(2)), found.group(3), text.count("\n", 0, found.start()) + 2,
                 found.group(4).splitlines())
            for found in BANNER.finditer(text)
        ]
        self.nodes: list[ast.AST] = []
        self.places: dict[ast.AST, str] = {}  # the dotted name of the innermost class or function around a node
        self._walk(self.tree, "")
        self.modules = self._imported()
        self.header = ast.get_docstring(self.tree) or ""

    def _walk(self, node: ast.AST, place: str) -> None:
        for child in ast.iter_child_nodes(node):
            self.nodes.append(child)
            self.places[child] = place
            inner = isinstance(child, (*FUNCTIONS, ast.ClassDef))
            self._walk(child, f"{place}.{child.name}".lstrip(".") if inner else place)

    def _imported(self) -> dict[tuple[str, str], str]:
        """What a name that an import binds in a place stands for: {("parse_url", "quote"): "urllib.parse.quote"}."""
        bound = {}
        for node in self.of(ast.Import):
            for alias in node.names:
                name = alias.asname or alias.name.partition(".")[0]
                bound[self.places[node], name] = alias.name if alias.asname else name
        for node in self.of(ast.ImportFrom):
            for alias in node.names:
                bound[self.places[node], alias.asname or alias.name] = f"{node.module}.{alias.name}"
        return bound

    def of(self, *kinds: type) -> list:
        return [node for node in self.nodes if isinstance(node, kinds)]

    def room(self, node: ast.AST) -> str:
        """The title of the room a node stands in."""
        before = [room.title for room in self.rooms if room.line <= node.lineno]
        return before[-1] if before else "Header"

    def dotted(self, node: ast.AST) -> str:
        """`os.path.join` for the expression that means it, whatever import brought it; "" for what is no module's
        and no builtin.
        """
        if isinstance(node, ast.Name):
            place = self.places[node]
            while place and (place, node.id) not in self.modules:
                place = place.rpartition(".")[0]
            return self.modules.get((place, node.id), node.id if hasattr(builtins, node.id) else "")
        if isinstance(node, ast.Attribute):
            front = self.dotted(node.value)
            return f"{front}.{node.attr}" if front else ""
        if is_call(node, "getattr") and len(node.args) > 1 and isinstance(node.args[1], ast.Constant):
            front = self.dotted(node.args[0])
            return f"{front}.{node.args[1].value}" if front else ""
        return ""

    def top(self) -> list[tuple[str, ast.stmt]]:
        """(name, statement) of every module-level definition, in order."""
        defined = []
        for node in self.tree.body:
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            names = [node.name] if isinstance(node, (*FUNCTIONS, ast.ClassDef)) else []
            names += [target.id for target in targets if isinstance(target, ast.Name)]
            defined += [(name, node) for name in names]
        return defined


def is_call(node: ast.AST, *names: str) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names


def strings(node: ast.AST) -> list[ast.Constant]:
    return [item for item in ast.walk(node) if isinstance(item, ast.Constant) and isinstance(item.value, str)]


def documented(node: ast.AST) -> set[ast.AST]:
    """The constants that are docstrings."""
    bodies = [item.body for item in ast.walk(node) if isinstance(item, (*FUNCTIONS, ast.ClassDef, ast.Module))]
    return {body[0].value for body in bodies if body and isinstance(body[0], ast.Expr)}


# ---- the rules -----------------------------------------------------------------------------------

RULES = {}


def rule(check):
    RULES[check.__name__] = check
    return check


@rule
def imports_only_known_modules(source: Source) -> Iterator[str]:
    powerful = {name for _, names in POWERS.values() for name in names}
    for node in source.of(ast.Import, ast.ImportFrom):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or "."]
        for name in names:
            known = name in PLAIN_MODULES | PURE_MODULES or any(
                power == name or power.startswith(name + ".") for power in powerful)
            if not known:
                yield f"line {node.lineno}: imports {name}, which is not on the list"
            if source.room(node) in PURE and name not in PURE_MODULES:
                yield f"line {node.lineno}: imports {name} in the pure room {source.room(node)}"
            if getattr(node, "level", 0) or (isinstance(node, ast.ImportFrom) and node.names[0].name == "*"):
                yield f"line {node.lineno}: imports from beside itself, or everything"
    for node in source.of(ast.Call):
        if source.dotted(node.func) == "importlib.import_module" and source.places[node] != "examine_python":
            name = node.args[0].value if isinstance(node.args[0], ast.Constant) else "what a variable says"
            if name not in PLAIN_MODULES:
                yield f"line {node.lineno}: imports {name}"


@rule
def powers_stay_in_their_rooms(source: Source) -> Iterator[str]:
    needed = set()
    for node in source.of(ast.Name, ast.Attribute, ast.Call, ast.Import, ast.ImportFrom, ast.alias):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.alias):
            continue
        else:
            names = [source.dotted(node)]
        for name in filter(None, names):
            for power, (rooms, forbidden) in POWERS.items():
                held = next((each for each in forbidden if name == each or name.startswith(each + ".")), "")
                if (source.places[node], name) in EXCEPTIONS:
                    needed.add((source.places[node], name))
                if not held or source.room(node) in rooms:
                    continue
                needed.add((source.places[node], held))
                if (source.places[node], held) not in EXCEPTIONS:
                    yield f"line {node.lineno}: {name} ({power}) in the room {source.room(node)}"
    if source.rooms:
        for stale in EXCEPTIONS.keys() - needed:
            yield f"the exception {stale} is needed no more"


@rule
def files_are_opened_for_reading_elsewhere(source: Source) -> Iterator[str]:
    for node in source.of(ast.Call):
        if not is_call(node, "open") or source.room(node) == "Files":
            continue
        modes = [*node.args[1:2], *(word.value for word in node.keywords if word.arg == "mode")]
        mode = modes[0].value if modes and isinstance(modes[0], ast.Constant) else "r" if not modes else "?"
        if not re.fullmatch(r"r[bt]?", str(mode)):
            yield f"line {node.lineno}: open with mode {mode}"
        if source.room(node) in PURE:
            yield f"line {node.lineno}: open in a pure room"


@rule
def pure_rooms_know_neither_os_nor_sys(source: Source) -> Iterator[str]:
    for node in source.of(ast.Name):
        allowed = source.room(node) not in PURE or (source.places[node], node.id) in EXCEPTIONS
        if node.id in ("os", "sys") and not allowed:
            yield f"line {node.lineno}: {node.id} in the pure room {source.room(node)}"


@rule
def nothing_is_switched_off(source: Source) -> Iterator[str]:
    """No shell, no unchecked TLS, no bare except, no assert, nothing raised that says nothing."""
    for node in source.of(ast.Call):
        for word in node.keywords:
            off = isinstance(word.value, ast.Constant) and word.value.value is False
            if word.arg == "shell" and not off:
                yield f"line {node.lineno}: a shell"
            if word.arg in ("check_hostname", "verify_mode"):
                yield f"line {node.lineno}: sets {word.arg}"
    for node in source.of(ast.Attribute):
        if node.attr in ("check_hostname", "verify_mode") and isinstance(node.ctx, ast.Store):
            yield f"line {node.lineno}: sets {node.attr}"
    for node in source.of(ast.Name, ast.Attribute):
        if "CERT_NONE" in (getattr(node, "id", ""), getattr(node, "attr", "")):
            yield f"line {node.lineno}: CERT_NONE"
    for node in source.of(ast.ExceptHandler):
        if node.type is None:
            yield f"line {node.lineno}: a bare except"
    for node in source.of(ast.Assert):
        yield f"line {node.lineno}: an assert, which -O takes away"
    for node in source.of(ast.Raise):
        raised = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
        if isinstance(raised, ast.Name) and raised.id in ("Exception", "BaseException", "RuntimeError"):
            yield f"line {node.lineno}: raises {raised.id}, which nothing can tell apart"


@rule
def functions_are_annotated(source: Source) -> Iterator[str]:
    classes = {child for node in source.of(ast.ClassDef) for child in node.body}
    for node in source.of(*FUNCTIONS):
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        arguments += [each for each in (node.args.vararg, node.args.kwarg) if each]
        static = any(isinstance(each, ast.Name) and each.id == "staticmethod" for each in node.decorator_list)
        if node in classes and not static:
            arguments = arguments[1:]
        for argument in arguments:
            if argument.annotation is None:
                yield f"line {node.lineno}: {node.name} does not say what {argument.arg} is"
        if node.returns is None:
            yield f"line {node.lineno}: {node.name} does not say what it gives"


@rule
def functions_fit_on_a_screen(source: Source) -> Iterator[str]:
    for node in source.of(*FUNCTIONS):
        lines = node.end_lineno - node.lineno + 1
        if lines > MAX_FUNCTION_LINES:
            yield f"line {node.lineno}: {node.name} has {lines} lines, {MAX_FUNCTION_LINES} are allowed"


NESTING = (ast.If, ast.For, ast.While, ast.With, ast.Try, ast.AsyncFor, ast.AsyncWith)


def nesting(node: ast.AST, depth: int = 0) -> int:
    """How many of if, for, while, with and try stand inside each other below `node`.

    An elif is as deep as its if; else, except and finally are as deep as what they belong to. A function or class
    inside another is counted for itself. Comprehensions and conditional expressions do not count.
    """
    deepest = depth
    for field, value in ast.iter_fields(node):
        children = [child for child in (value if isinstance(value, list) else [value]) if isinstance(child, ast.AST)]
        for child in children:
            if isinstance(child, (*FUNCTIONS, ast.ClassDef, ast.Lambda)):
                continue
            alone = isinstance(node, ast.If) and field == "orelse" and len(children) == 1
            is_elif = alone and isinstance(child, ast.If)
            deepest = max(deepest, nesting(child, depth + (isinstance(child, NESTING) and not is_elif)))
    return deepest


@rule
def functions_are_flat(source: Source) -> Iterator[str]:
    for node in source.of(*FUNCTIONS):
        depth = nesting(node)
        if depth > MAX_NESTING:
            yield f"line {node.lineno}: {node.name} nests {depth} deep, {MAX_NESTING} are allowed"


@rule
def public_things_say_what_they_are(source: Source) -> Iterator[str]:
    """Every public class, method and function has a docstring; functions inside functions need none."""
    outer = [source.tree, *(node for node in source.tree.body if isinstance(node, ast.ClassDef))]
    for node in (child for each in outer for child in each.body):
        if isinstance(node, (*FUNCTIONS, ast.ClassDef)) and node.name[0] != "_" and not ast.get_docstring(node):
            yield f"line {node.lineno}: {node.name} has no docstring"


@rule
def rooms_stand_in_order(source: Source) -> Iterator[str]:
    titles = [room.title for room in source.rooms]
    if titles != list(ROOMS[1:]):
        yield f"the rooms are {titles}"
    if [room.number for room in source.rooms] != list(range(2, len(ROOMS) + 1)):
        yield "the rooms are not numbered in order"
    if len(re.findall(r"^# Room ", source.text, re.MULTILINE)) != len(titles):
        yield "a banner is not in the form of the others"
    for room in source.rooms:
        if not 1 <= len(room.words) <= MAX_BANNER_LINES or not all(line.startswith("# ") for line in room.words):
            yield f"line {room.line}: the banner of {room.title} does not say in a few lines what it is for"
    said = re.search(r"Rooms, leaf to root: ([^.]*)\.", source.header)
    listed = " ".join(said.group(1).split()).split(", ") if said else []
    if [each.lower() for each in listed] != [f"{number} {title.lower()}" for number, title in enumerate(ROOMS, 1)]:
        yield f"the header lists the rooms {listed}"


@rule
def names_are_used_below_their_definition(source: Source) -> Iterator[str]:
    """Leaf to root: no room calls a later one, and within a room what is called stands above."""
    lines = {name: node.lineno for name, node in reversed(source.top())}
    skipped = {
        id(inner) for node in ast.walk(source.tree) for field in ("annotation", "returns")
        if getattr(node, field, None) is not None for inner in ast.walk(getattr(node, field))
    }
    owners: dict[ast.AST, list[str]] = {}
    for name, node in source.top():
        owners.setdefault(node, []).append(name)
    needed = set()
    for node in source.tree.body:
        own = owners.get(node, [])
        inner = [each for each in ast.walk(node) if isinstance(each, FUNCTIONS)]
        arguments = {name.arg for each in inner for name in ast.walk(each.args) if isinstance(name, ast.arg)}
        local = arguments | {name.id for name in ast.walk(node) if isinstance(name, ast.Name) and not isinstance(
            name.ctx, ast.Load)}
        for name in ast.walk(node):
            used = isinstance(name, ast.Name) and isinstance(name.ctx, ast.Load) and id(name) not in skipped
            if not used or name.id in local or lines.get(name.id, 0) <= node.lineno or name.id in own:
                continue
            pair = (own[0] if own else "", name.id)
            needed.add(pair)
            if pair not in USED_ABOVE:
                yield f"line {name.lineno}: {pair[0]} uses {name.id}, which stands below at line {lines[name.id]}"
    if source.rooms:
        for stale in USED_ABOVE.keys() - needed:
            yield f"the exception {stale} is needed no more"


@rule
def names_are_defined_once(source: Source) -> Iterator[str]:
    scopes = {"": source.top()}
    for node in source.of(ast.ClassDef):
        scopes[node.name + "."] = [(child.name, child) for child in node.body if isinstance(child, FUNCTIONS)]
    for scope, defined in scopes.items():
        for name, count in Counter(name for name, _ in defined).items():
            again = [node.lineno for each, node in defined if each == name]
            if count > 1:
                yield f"line {again[-1]}: {scope}{name} is defined {count} times"


@rule
def names_are_used(source: Source) -> Iterator[str]:
    """No dead function, class or constant; every bound of room 2 bounds something."""
    loads = Counter(node.id for node in source.of(ast.Name) if isinstance(node.ctx, ast.Load))
    words = Counter(
        word for node in source.of(ast.Constant) if isinstance(node.value, str)
        for word in re.findall(r"[A-Za-z_]\w*", node.value)
    )
    for name, node in source.top():
        inside = sum(isinstance(each, ast.Name) and each.id == name for each in ast.walk(node) if each is not node)
        inside -= any(isinstance(each, ast.Name) and each.id == name and not isinstance(each.ctx, ast.Load)
                      for each in ast.walk(node))
        annotated = words[name] if isinstance(node, ast.ClassDef) else 0  # a quoted annotation
        if loads[name] - inside + annotated <= 0:
            yield f"line {node.lineno}: {name} is not used"


@rule
def urls_are_known(source: Source) -> Iterator[str]:
    """No server is built in, but for the guide's default; docstrings may cite what they like."""
    skipped = documented(source.tree)
    for node in strings(source.tree):
        if node in skipped:
            continue
        for url in re.findall(r"(?<![%a-z])[a-z][a-z0-9+.-]*://[^\s/\"'`,;)]*", node.value):
            scheme, _, place = url.partition("://")
            if place.strip("%s.:d-") and url not in WRITTEN_URLS:
                yield f"line {node.lineno}: {url}"
            if scheme not in ("http", "https"):
                yield f"line {node.lineno}: the scheme of {url}"


@rule
def text_is_ascii_that_old_pythons_compile(source: Source) -> Iterator[str]:
    """Nothing invisible, nothing that turns the line; and 3.7 and 3.8 can say that they are too old."""
    if not source.text.isascii():
        yield "the text is not ASCII"
    if re.search(r"[\t\x0c\x00\r]| $", source.text, re.MULTILINE):
        yield "a tab, a form feed, a carriage return or a blank at the end of a line"
    try:
        ast.parse(source.text, feature_version=(3, 7))
    except SyntaxError as error:
        yield f"line {error.lineno}: Python 3.7 does not compile it"


def header_list(source: Source, label: str) -> str:
    """What the header says under a label of "Everything it can touch", in one line."""
    found = re.search(rf"^  {label}  +(.*(?:\n    .*)*)", source.header, re.MULTILINE)
    return " ".join(found.group(1).split()) if found else ""


def variables_read(source: Source) -> set[str]:
    """Names of the environment: the table's, and the words in capitals of the configuration room."""
    names: set[str] = set()
    rows = [node for node in source.of(ast.Call) if is_call(node, "Setting")]
    for row in rows:
        names |= {node.value for node in strings(row.args[3])}
    in_rows = {id(node) for row in rows for node in ast.walk(row)}
    for node in source.of(ast.Constant):
        capitals = isinstance(node.value, str) and re.fullmatch(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)*", node.value)
        if capitals and len(node.value) > 2 and source.room(node) == "Configuration" and id(node) not in in_rows:
            names.add(node.value)
    if any(source.dotted(node) == "os.path.expanduser" for node in source.of(ast.Attribute)):
        names.add("HOME")
    return names


@rule
def header_lists_the_environment(source: Source) -> Iterator[str]:
    said = set(re.findall(r"\b[A-Z][A-Z0-9_]{2,}\b", header_list(source, "environment")))
    read = {name.upper() for name in variables_read(source)}
    for name in sorted(said ^ read):
        yield f"{name} is {'listed and not read' if name in said else 'read and not listed'}"


@rule
def header_lists_the_programs(source: Source) -> Iterator[str]:
    started = set()
    for node in source.of(ast.Call):
        if is_call(node, "find_program") and isinstance(node.args[0], ast.Constant):
            started.add(node.args[0].value)
    for node in source.of(ast.Assign):  # a place for the path of each: Config.programs
        if isinstance(node.targets[0], ast.Attribute) and node.targets[0].attr == "programs":
            started |= {item.value for item in strings(node.value)}
    said = set(header_list(source, "programs").partition(":")[0].split(", "))
    for name in sorted(said ^ started):
        yield f"{name} is {'listed and never started' if name in said else 'started and not listed'}"


@rule
def header_lists_the_files_written(source: Source) -> Iterator[str]:
    """By their suffixes: what room 10 puts behind or around a name."""
    made = set()
    for node in source.of(ast.Constant):
        if isinstance(node.value, str) and source.room(node) == "Files" and re.fullmatch(r"\.[a-z.%]+", node.value):
            made.add(node.value.replace(".%s.%s.", "."))
    said = set(re.findall(r"\.[a-z]+\b(?![.a-z]*/)", header_list(source, "files written")))
    for suffix in sorted(said ^ made):
        yield f"{suffix} is {'listed and not made' if suffix in said else 'made and not listed'}"


def error_classes(source: Source) -> list[ast.ClassDef]:
    """The classes that can be raised, by following their bases."""
    known = {"Exception", "BaseException", "ValueError"}
    classes = []
    for node in source.of(ast.ClassDef):
        if any(isinstance(base, ast.Name) and base.id in known for base in node.bases):
            known.add(node.name)
            classes.append(node)
    return classes


@rule
def errors_are_raised_and_say_their_exit_code(source: Source) -> Iterator[str]:
    """Each is raised, or made from a table; only classes of room 3 have a code, and it is a name."""
    loads = {node.id for node in source.of(ast.Name) if isinstance(node.ctx, ast.Load)}
    for node in error_classes(source):
        if node.name not in loads:
            yield f"line {node.lineno}: {node.name} is never raised"
        for item in node.body:
            is_code = isinstance(item, ast.Assign) and getattr(item.targets[0], "id", "") == "exit_code"
            good = is_code and source.room(node) == "Errors" and getattr(item.value, "id", "").startswith("EXIT_")
            if is_code and not good:
                yield f"line {item.lineno}: the exit code of {node.name} is not a name of room 2"


@rule
def exit_codes_are_unique_and_explained(source: Source) -> Iterator[str]:
    codes = {name: node.value.value for name, node in source.top()
             if name.startswith("EXIT_") and isinstance(getattr(node, "value", None), ast.Constant)}
    for code, count in Counter(codes.values()).items():
        if count > 1:
            yield f"exit code {code} has {count} names"
    meanings = [node.value for name, node in source.top() if name == "EXIT_MEANINGS"]
    explained = {getattr(key, "id", "?") for each in meanings for key in each.keys}
    for name in sorted(codes.keys() ^ explained):
        yield f"{name} is explained nowhere, or no code"


# ---- stella.py keeps them ------------------------------------------------------------------------

TEXT = STELLA.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def source():
    return Source(TEXT)


@pytest.mark.parametrize("name", RULES)
def test_stella_keeps(source, name):
    complaints = list(RULES[name](source))
    assert not complaints, "\n".join(complaints)


# ---- and each of them can fail -------------------------------------------------------------------

def room(title: str, code: str) -> str:
    """A source with one room in it."""
    line = "# " + "=" * 98
    return f"{line}\n# Room {ROOMS.index(title) + 1}. {title}\n#\n# Why.\n{line}\n\n{code}\n"


def changed(old: str, new: str) -> str:
    """stella.py with something changed."""
    assert old in TEXT
    return TEXT.replace(old, new, 1)


DEEP = "def f() -> None:\n    if a:\n        for b in c:\n            with d:\n                "
BAD = {
    # name: (rule, source, what the complaint must hold)
    "a package": ("imports_only_known_modules", "import requests", "imports requests"),
    "a package, from": ("imports_only_known_modules", "from requests import get", "imports requests"),
    "the file beside it": ("imports_only_known_modules", "from . import helper", "beside itself"),
    "everything": ("imports_only_known_modules", "from re import *", "everything"),
    "by name": ("imports_only_known_modules", "import importlib\nimportlib.import_module('yaml')", "imports yaml"),
    "by a variable": ("imports_only_known_modules", "import importlib as i\ni.import_module(x)", "a variable"),
    "os in a parser": ("imports_only_known_modules", room("Resume", "import os"), "pure room Resume"),
    "a socket in the terminal": ("powers_stay_in_their_rooms", room("Terminal", "import socket"), "sockets"),
    "http in an operation": ("powers_stay_in_their_rooms", room("Operations", "from http.client import HTTPConnection"),
                             "sockets"),
    "urllib opens": ("powers_stay_in_their_rooms", room("HTTP", "from urllib.request import urlopen"), "urllib"),
    "a context that trusts all": ("powers_stay_in_their_rooms",
                                  room("HTTP", "import ssl\nc = ssl._create_unverified_context()"), "unverified"),
    "an unlink in an operation": ("powers_stay_in_their_rooms", room("Operations", "import os\nos.unlink(x)"),
                                  "writing"),
    "an unlink by another name": ("powers_stay_in_their_rooms", room("Operations", "from os import unlink as u\nu(x)"),
                                  "writing"),
    "an unlink by getattr": ("powers_stay_in_their_rooms", room("Operations", "import os\ngetattr(os, 'unlink')(x)"),
                             "writing"),
    "open flags": ("powers_stay_in_their_rooms", room("HTTP", "import os\nos.open(x, os.O_CREAT)"), "O_CREAT"),
    "a program in an operation": ("powers_stay_in_their_rooms", room("Operations", "import subprocess"), "programs"),
    "os.system": ("powers_stay_in_their_rooms", room("Programs", "import os\nos.system('true')"), "os.system"),
    "the environment in HTTP": ("powers_stay_in_their_rooms", room("HTTP", "import os\nos.environ['X']"), "environ"),
    "getenv": ("powers_stay_in_their_rooms", room("Terminal", "import os\nos.getenv('X')"), "environment"),
    "print in an operation": ("powers_stay_in_their_rooms", room("Operations", "print(1)"), "standard output"),
    "stdout in an operation": ("powers_stay_in_their_rooms", room("Operations", "import sys\nsys.stdout.write(x)"),
                               "standard output"),
    "exit in an operation": ("powers_stay_in_their_rooms", room("Operations", "import sys\nsys.exit(1)"), "the end"),
    "sleep in an operation": ("powers_stay_in_their_rooms", room("Operations", "import time\ntime.sleep(1)"), "clock"),
    "a thread in a parser": ("powers_stay_in_their_rooms", room("Resume", "import threading"), "threads"),
    "eval": ("powers_stay_in_their_rooms", room("Operations", "eval(x)"), "code made"),
    "exec": ("powers_stay_in_their_rooms", room("Operations", "exec(x)"), "code made"),
    "compile": ("powers_stay_in_their_rooms", room("Operations", "compile(x, '', 'exec')"), "code made"),
    "pickle": ("powers_stay_in_their_rooms", room("Operations", "import pickle"), "code made"),
    "an exception too many": ("powers_stay_in_their_rooms", changed('sys.stderr.write("stella: this', 'print("s'),
                              "needed no more"),
    "open for writing": ("files_are_opened_for_reading_elsewhere", room("Operations", "open(x, 'wb')"), "mode wb"),
    "open for adding": ("files_are_opened_for_reading_elsewhere", room("HTTP", "open(x, mode='a')"), "mode a"),
    "open for both": ("files_are_opened_for_reading_elsewhere", room("HTTP", "open(x, 'r+b')"), "mode r+b"),
    "open as a variable says": ("files_are_opened_for_reading_elsewhere", room("HTTP", "open(x, y)"), "mode ?"),
    "open in a parser": ("files_are_opened_for_reading_elsewhere", room("Resume", "open(x)"), "pure"),
    "os.path in a parser": ("pure_rooms_know_neither_os_nor_sys", room("Verification", "os.path.exists(x)"), "os in"),
    "a shell": ("nothing_is_switched_off", "run('x', shell=True)", "a shell"),
    "a shell, perhaps": ("nothing_is_switched_off", "run('x', shell=y)", "a shell"),
    "no host name check": ("nothing_is_switched_off", "context.check_hostname = False", "check_hostname"),
    "CERT_NONE": ("nothing_is_switched_off", "x = ssl.CERT_NONE", "CERT_NONE"),
    "CERT_NONE, imported": ("nothing_is_switched_off", "f(CERT_NONE)", "CERT_NONE"),
    "bare except": ("nothing_is_switched_off", "try:\n    f()\nexcept:\n    pass", "bare except"),
    "assert": ("nothing_is_switched_off", "assert x", "assert"),
    "raise Exception": ("nothing_is_switched_off", "raise Exception('x')", "Exception"),
    "argument without a type": ("functions_are_annotated", "def f(a) -> None: ...", "what a is"),
    "keyword without a type": ("functions_are_annotated", "def f(*, a) -> None: ...", "what a is"),
    "stars without a type": ("functions_are_annotated", "def f(*a, **b) -> None: ...", "what b is"),
    "method without a type": ("functions_are_annotated", "class A:\n    def f(self, a) -> None: ...", "what a is"),
    "static method": ("functions_are_annotated", "class A:\n    @staticmethod\n    def f(a) -> None: ...", "what a is"),
    "no result": ("functions_are_annotated", "def f():\n    def g() -> int: ...", "what it gives"),
    "61 lines": ("functions_fit_on_a_screen", "def f():\n" + "    x\n" * 60, "61 lines"),
    "61 lines inside": ("functions_fit_on_a_screen", "class A:\n    def f():\n" + "        x\n" * 60, "61 lines"),
    "four deep": ("functions_are_flat", DEEP + "while e: ...", "4 deep"),
    "four deep in an else": ("functions_are_flat", DEEP.replace("with d:", "if d:") + "x\n            else:\n"
                             "                if e: ...\n                x", "4 deep"),
    "four deep in a handler": (
        "functions_are_flat", DEEP.replace("with d:", "try:") + "x\n            except E:\n                if e: ...",
        "4 deep"),
    "no docstring": ("public_things_say_what_they_are", "class A:\n    'x'\n    def f(self): ...", "f has no"),
    "rooms in another order": ("rooms_stand_in_order", changed("Room 5. Event stream", "Room 5. Resume"), "rooms are"),
    "rooms numbered wrongly": ("rooms_stand_in_order", changed("# Room 5.", "# Room 6."), "numbered"),
    "a room that the header does not list": ("rooms_stand_in_order", changed("\n14 operations", ""), "header lists"),
    "a banner that is cut": ("rooms_stand_in_order", changed("# Room 16. Entry\n#\n", "# Room 16. Entry\n"), "banner"),
    "a banner that says nothing": ("rooms_stand_in_order", room("HTTP", "").replace("# Why.\n", ""), "does not say"),
    "a later room": ("names_are_used_below_their_definition",
                     room("HTTP", "def f():\n    return g()") + room("Entry", "def g(): ..."), "uses g"),
    "a constant from below": ("names_are_used_below_their_definition", "x = [y for y in Z]\nZ = ()", "uses Z"),
    "an exception for nothing": ("names_are_used_below_their_definition", changed("list_problems(v", "dict(v"),
                                 "needed no more"),
    "two values": ("names_are_defined_once", "A = 1\nB = 2\nA = 3", "A is defined 2 times"),
    "two methods": ("names_are_defined_once", "class A:\n    def f(): ...\n    def f(): ...", "A.f is defined"),
    "a bound that bounds nothing": ("names_are_used", changed("EXIT_OK = 0\n", "EXIT_OK = 0\nMAX_X = 1\n"), "MAX_X"),
    "a dead function": ("names_are_used", "def f():\n    f()", "f is not used"),
    "a dead class": ("names_are_used", "class A:\n    def f(self, a): ...", "A is not used"),
    "a server of our own": ("urls_are_known", "x = 'https://telemetry.example.org/v1'", "telemetry"),
    "another scheme": ("urls_are_known", "x = 'ftp://%s' % y", "scheme"),
    "a letter that looks like another": ("text_is_ascii_that_old_pythons_compile", "x = '\u0430'", "ASCII"),
    "a tab": ("text_is_ascii_that_old_pythons_compile", "if x:\n\ty", "tab"),
    "what only 3.8 reads": ("text_is_ascii_that_old_pythons_compile", "def f(a, /):\n    f'{x=}'", "3.7"),
    "a variable that is not listed": ("header_lists_the_environment", changed('("STELLA_ZSTD",)', '("STELLA_NEW",)'),
                                      "STELLA_NEW is read and not"),
    "a variable that nothing reads": ("header_lists_the_environment", changed("TRACEPARENT NO", "STELLA_X NO"),
                                      "STELLA_X is listed and not"),
    "an environment.get": ("header_lists_the_environment", changed('.get("STELLA_PROFILE")', '.get("STELLA_HOME")'),
                           "STELLA_HOME is read and not"),
    "a program that is not listed": ("header_lists_the_programs", changed('find_program("zstd"', 'find_program("xz"'),
                                     "xz is started and not"),
    "a program that nothing starts": ("header_lists_the_programs", changed("cosign, zstd, openssl:", "cosign, gpg:"),
                                      "gpg is listed and never"),
    "a file that is not listed": ("header_lists_the_files_written", changed('self.path + ".json"', 'self.path + ".x"'),
                                  ".x is made and not"),
    "a file that nothing makes": ("header_lists_the_files_written", changed("NAME.part.json", "NAME.part.lock"),
                                  ".lock is listed and not"),
    "an error that is never raised": ("errors_are_raised_and_say_their_exit_code",
                                      "class MyError(ValueError): ...\nclass B(MyError): ...\nraise MyError", "B is"),
    "an exit code elsewhere": ("errors_are_raised_and_say_their_exit_code",
                               room("HTTP", "class A(Exception):\n    exit_code = EXIT_X\nraise A"), "exit code of A"),
    "an exit code in digits": ("errors_are_raised_and_say_their_exit_code",
                               room("Errors", "class A(Exception):\n    exit_code = 7\nraise A"), "exit code of A"),
    "one exit code twice": ("exit_codes_are_unique_and_explained", changed("EXIT_QUOTA = 12", "EXIT_QUOTA = 11"), "11"),
    "an exit code without a meaning": ("exit_codes_are_unique_and_explained",
                                       changed("    EXIT_USAGE: ", "    EXIT_OK: "), "EXIT_USAGE is explained nowhere"),
}


@pytest.mark.parametrize("name", BAD)
def test_rule_complains_about(name):
    rule_name, text, complaint = BAD[name]
    complaints = list(RULES[rule_name](Source(text)))
    assert [line for line in complaints if complaint in line], complaints


def test_every_rule_is_seen_to_complain():
    assert {row[0] for row in BAD.values()} == set(RULES)


GOOD = {
    "an elif is not deeper": ("functions_are_flat", DEEP + "x\n            if e:\n                x\n"
                              + "            elif f:\n                x\n" * 5),
    "a function inside is counted for itself": ("functions_are_flat", DEEP + "def g():\n                    if x: ..."),
    "60 lines": ("functions_fit_on_a_screen", "def f():\n" + "    x\n" * 59),
    "a name in an annotation alone": ("names_are_used_below_their_definition", "def f(a: B) -> B: ...\nclass B: ..."),
    "a local name like a later one": ("names_are_used_below_their_definition", "def f(b): return b\ndef b(): ..."),
    "open for reading": ("files_are_opened_for_reading_elsewhere", room("HTTP", "open(x)\nopen(x, 'rb')")),
    "re.compile": ("powers_stay_in_their_rooms", room("Files", "import re\nre.compile(x)").replace("Files", "X")),
}


@pytest.mark.parametrize("name", GOOD)
def test_rule_is_silent_about(name):
    rule_name, text = GOOD[name]
    complaints = [line for line in RULES[rule_name](Source(text)) if "needed no more" not in line]
    assert complaints == []


# ---- the modules are there -----------------------------------------------------------------------

def test_modules_are_of_this_python():
    """On each Python that the suite runs on; together they are all from 3.9 to 3.14."""
    names = {node.module if isinstance(node, ast.ImportFrom) else alias.name
             for node in Source(TEXT).of(ast.Import, ast.ImportFrom) for alias in node.names}
    for name in names - NOT_EVERYWHERE.keys():
        assert importlib.util.find_spec(name), name
        assert name.partition(".")[0] in getattr(sys, "stdlib_module_names", {name.partition(".")[0]})


# ---- every error class can be met ----------------------------------------------------------------

URL = stella.Url("https", "gw.example", 443, "/")


def answer(status, body=b""):
    raise stella.decide_failure(status, {}, body, URL)[0]


def config(**values):
    return stella.load_config({}, {name: value for name, value in values.items() if isinstance(value, str)})


def closed_output():
    class Closed:
        encoding = "utf-8"

        def isatty(self):
            return False

        @property
        def buffer(self):
            raise BrokenPipeError

        def fileno(self):
            raise ValueError

    console = stella.Console()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", Closed())
        patch.setattr(console, "_drop_output", lambda: None)
        console.write_bytes(b"")


def interrupt():
    import os
    import signal

    kept = signal.getsignal(signal.SIGTERM)
    try:
        stella.install_signals(True)
        os.kill(os.getpid(), signal.SIGTERM)
        signal.getsignal(signal.SIGTERM)  # the handler runs before the next bytecode at the latest
    finally:
        signal.signal(signal.SIGTERM, kept)


def odd_answer():
    """The whole bundle where one connection of several asked for a piece."""
    transfer = MagicMock(lock=threading.RLock(), expected=stella.Expected(9, "", '"x"'), pieces=[])
    response = MagicMock(status=200, headers={})
    stella.SideBySide(transfer, URL)._fetch_piece(stella.Piece(3, 6), response, 6, 1)


def refuse():
    with tempfile.TemporaryDirectory() as folder:
        key, document = f"{folder}/key", f"{folder}/document"
        for path, data in ((key, stella.TEST_KEY), (document, b"{}")):
            with open(path, "wb") as file:
                file.write(data)
        words = ["--manifest", document, "--provenance", document, "--key", key, "--verifier", "builtin"]
        stella.run_command(["export", "verify", "r", *words], stella.Console())


def raise_it(error):
    raise error


def past_deadline():
    http = stella.Http(config(STELLA_TOKEN="t"), stella.Console(), stella.Clock())
    http.deadline = 0.0
    http.timeout(None)


# What the code itself must be led to do for each class to come up, by the shortest way. The suite meets them by longer
# ones too: test_exit_codes has each exit code from a real answer.
MET = {
    "StellaError": None,  # the base; never raised itself
    "ProtocolError": lambda: answer(418),
    "LocalError": lambda: stella.make_parents("/dev/null/x/y"),
    "UsageError": lambda: stella.split_argv(["nonsense"]),
    "ValidationError": lambda: stella.parse_time("today"),
    "MissingError": lambda: answer(404),
    "QuotaError": lambda: answer(429),
    "RunFailedError": lambda: stella.raise_for_status("r", "failed", {}),
    "DeadlineError": past_deadline,
    "VerificationError": refuse,
    "NetworkError": lambda: answer(503),
    "ConfigError": lambda: config(STELLA_PROFILE="../x"),
    "Interrupted": interrupt,
    "OutputClosed": closed_output,
    "JsonTextError": lambda: stella.read_json_text("{"),
    "DerError": lambda: stella.read_der(b"", 2),
    "ArchiveError": lambda: stella.parse_octal(b"9"),
    "OddAnswerError": odd_answer,
    "TransportError": lambda: raise_it(stella.transport_error(OSError(5, "x"), URL)),
}


def test_every_error_class_has_a_way():
    assert {node.name for node in error_classes(Source(TEXT))} == set(MET)


@pytest.mark.parametrize("name", [name for name, way in MET.items() if way])
def test_error_class_is_raised(name):
    kind = getattr(stella, name)
    with pytest.raises(kind) as raised:
        MET[name]()
    assert raised.type is kind


def test_exit_codes_of_the_classes_are_all_that_the_errors_have():
    """Each code but 0 belongs to at least one class, and --help tells each (README: test_config)."""
    classes = [getattr(stella, name) for name in MET if hasattr(getattr(stella, name), "exit_code")]
    assert {each.exit_code for each in classes} | {0} == set(stella.EXIT_MEANINGS)
    text = stella.group_help(())
    for code, meaning in stella.EXIT_MEANINGS.items():
        assert f"  {code:<4} {meaning}" in text
