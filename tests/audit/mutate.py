"""Mutation testing of the pure rooms: each small fault put into stella.py must make some test fail.

    python tests/audit/mutate.py [--only NAME] [--list]

A program of our own, because mutmut and cosmic-ray start the tests anew for each mutant: the import of a file of 8,000
lines and the collection of its tests alone take longer than the tests that a mutant needs. Here the tests are collected
once and run once, to learn which of them call which function. Then each mutant gets a fork of this process, in which
the one changed definition is put in the place of the real one; the tests that call it run, the most specialised first,
until one fails. A fork that works much longer than its tests do without the mutant counts as killed.

Mutated: comparisons, arithmetic, and/or/not, numbers, true and false, texts without a blank (with one they are
sentences for people), returned values, and statements that can be left out. All of them are tried: a few minutes.

Survivors stand in survivors.txt, with the reason why each may; others are printed. Exit 1 under 90 % killed.
"""

from __future__ import annotations
import __future__

import argparse
import ast
import copy
import functools
import gc
import os
import re
import resource
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(TESTS), str(TESTS.parent)]

import pytest  # noqa: E402
from _pytest.runner import runtestprotocol  # noqa: E402

from test_source import FUNCTIONS, STELLA, Source  # noqa: E402

ROOMS = ("Untrusted input", "Event stream", "Resume", "Verification")
ELSEWHERE = ("YAML_WORDS", "YamlWriter", "yaml_char", "yaml_scalar", "yaml_text")  # pure, in the terminal's room
# The tests of these rooms alone: tables that call them in this process.
FILES = ("test_checks", "test_events", "test_input", "test_resume", "test_schema", "test_yaml")
SURVIVORS = Path(__file__).with_name("survivors.txt")
ENOUGH = 0.90
MOST_SECONDS = 4.0  # of the processor, for the tests of one mutant, as they take without it
SLOW_SECONDS = 0.5  # tests that take longer are left out
HANGING_SECONDS = 120.0  # a fork that neither works nor ends
MEMORY_BYTES = 2 << 30  # more than this process has, for one fork

COMPARISONS = {ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt,
               ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is}
OPERATORS = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.FloorDiv, ast.FloorDiv: ast.Mult, ast.Div: ast.Mult,
             ast.Mod: ast.Mult, ast.LShift: ast.RShift, ast.RShift: ast.LShift, ast.BitAnd: ast.BitOr,
             ast.BitOr: ast.BitAnd, ast.BitXor: ast.BitAnd, ast.Pow: ast.Mult}
REMOVABLE = (ast.Expr, ast.AugAssign, ast.Raise, ast.Continue, ast.Break, ast.Delete)


class Mutant:
    """One change: `place` in walking order in the top-level statement `top`, `kind` of change, and its name."""

    def __init__(self, top: ast.stmt, place: int, kind: str, name: str, lines: range) -> None:
        self.top = top
        self.place = place
        self.kind = kind
        self.name = name
        self.lines = lines  # of the innermost function around it, or of the statement

    def statement(self) -> ast.stmt:
        """The top-level statement with the change made."""
        changed = copy.deepcopy(self.top)
        nodes = list(ast.walk(changed))
        node = nodes[self.place]
        if self.kind == "remove":
            for parent in nodes:
                for value in (value for _, value in ast.iter_fields(parent) if isinstance(value, list)):
                    if node in value:
                        value[value.index(node)] = ast.copy_location(ast.Pass(), node)
        else:
            change(node, self.kind)
        return ast.fix_missing_locations(changed)


def change(node: ast.AST, kind: str) -> None:
    """Makes one change to a node in place; `kind` as `kinds` gives it."""
    if kind.startswith("compare"):
        place = int(kind[7:])
        node.ops[place] = COMPARISONS[type(node.ops[place])]()
    elif kind == "operator":
        node.op = OPERATORS[type(node.op)]()
    elif kind == "boolean":
        node.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
    elif kind == "not":
        node.op, node.operand = ast.Not(), ast.copy_location(ast.UnaryOp(ast.Not(), node.operand), node)
    elif kind == "return":
        node.value = ast.copy_location(ast.Constant(None), node)
    elif kind == "constant":
        value = node.value
        if isinstance(value, bool):
            node.value = not value
        elif isinstance(value, (int, float)):
            node.value = value + 1
        else:
            node.value = value + ("XX" if isinstance(value, str) else b"XX")


def kinds(node: ast.AST, skipped: set[ast.AST]) -> Iterator[str]:
    """The changes that can be made to a node."""
    if node in skipped:
        return
    if isinstance(node, ast.Compare):
        yield from ("compare%d" % place for place, op in enumerate(node.ops) if type(op) in COMPARISONS)
    elif isinstance(node, (ast.BinOp, ast.AugAssign)):
        formats = isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mod) and isinstance(node.left, ast.Constant)
        if type(node.op) in OPERATORS and not formats:
            yield "operator"
    elif isinstance(node, ast.BoolOp):
        yield "boolean"
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield "not"
    elif isinstance(node, ast.Return) and node.value is not None:
        if not (isinstance(node.value, ast.Constant) and node.value.value in (None, True, False)):
            yield "return"
    elif isinstance(node, ast.Constant):
        value = node.value
        sentence = isinstance(value, str) and " " in value
        if isinstance(value, (bool, int, float, str, bytes)) and not sentence:
            yield "constant"
    stored = isinstance(node, ast.Assign) and not isinstance(node.targets[0], (ast.Name, ast.Tuple)) and node.col_offset
    if isinstance(node, REMOVABLE) or stored:
        yield "remove"


def make_mutants(source: Source) -> list[Mutant]:
    """All of them, in the order of the file."""
    mutants: list[Mutant] = []
    for top in source.tree.body:
        targets = [getattr(top, "name", ""), *(getattr(each, "id", "") for each in getattr(top, "targets", ()))]
        targets.append(getattr(getattr(top, "target", None), "id", ""))
        targets.append(next(iter(defined(top)), ""))
        if source.room(top) not in ROOMS and not set(targets) & set(ELSEWHERE):
            continue
        if isinstance(top, (ast.Import, ast.ImportFrom)):
            continue
        skipped = left_alone(top)
        functions = [node for node in ast.walk(top) if isinstance(node, FUNCTIONS)]
        seen: dict[str, int] = {}
        for place, node in enumerate(ast.walk(top)):
            for kind in kinds(node, skipped):
                around = [each for each in functions if each.lineno <= node.lineno <= each.end_lineno]
                inner = max(around, key=lambda each: each.lineno, default=top)
                where = source.places[inner] + "." + inner.name if around else next(filter(None, targets), "?")
                text = " ".join((ast.get_source_segment(source.text, node) or "?").split())
                name = f"{where.lstrip('.')}: {kind} {text[:70]}"
                seen[name] = seen.get(name, 0) + 1
                name += f" #{seen[name]}" if seen[name] > 1 else ""
                first = min(each.lineno for each in [inner, *getattr(inner, "decorator_list", ())])
                mutants.append(Mutant(top, place, kind, name, range(first, inner.end_lineno + 1)))
    return mutants


def left_alone(top: ast.stmt) -> set[ast.AST]:
    """Docstrings, with the statements they are, and annotations."""
    nodes: set[ast.AST] = set()
    for node in ast.walk(top):
        body = getattr(node, "body", None)
        if isinstance(node, (*FUNCTIONS, ast.ClassDef)) and isinstance(body[0], ast.Expr) and isinstance(
                body[0].value, ast.Constant):
            nodes |= {body[0], body[0].value}
        for field in ("annotation", "returns"):
            if getattr(node, field, None) is not None:
                nodes |= set(ast.walk(getattr(node, field)))
    return nodes


class Changer:
    """Puts statements into the running module."""

    def __init__(self, source: Source) -> None:
        import stella

        self.module = stella
        self.plain = [top for top in source.tree.body if isinstance(top, (ast.Assign, ast.AnnAssign, ast.Expr))]
        self.plain = [top for top in self.plain if source.room(top) not in ("Header", "Commands", "Entry")]

    def run(self, top: ast.stmt) -> None:
        code = compile(ast.Module([top], []), str(STELLA), "exec", __future__.annotations.compiler_flag, True)
        exec(code, self.module.__dict__)  # noqa: S102 - what this program is for

    def put(self, mutant: Mutant) -> None:
        """The changed statement, then every constant that was made with it, and what tests have imported of them."""
        before = dict(self.module.__dict__)
        self.run(mutant.statement())
        stale = defined(mutant.top)
        for top in self.plain:
            if top is not mutant.top and names_in(top) & stale:
                stale |= defined(top)
                self.run(top)
        tests = [module for module in list(sys.modules.values()) if str(TESTS) in str(getattr(module, "__file__", ""))]
        for module in tests:
            for name in stale & module.__dict__.keys():
                if module.__dict__[name] is before.get(name):
                    setattr(module, name, self.module.__dict__[name])


@functools.cache
def names_in(node: ast.AST) -> set[str]:
    return {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}


def defined(top: ast.stmt) -> set[str]:
    """The names that a top-level statement gives a meaning."""
    targets = getattr(top, "targets", None) or [getattr(top, "target", None)]
    targets = [each.value if isinstance(each, ast.Attribute) else each for each in targets]
    return {getattr(top, "name", ""), *(getattr(each, "id", "") for each in targets)} - {""}


class Plugin:
    """Takes the place of pytest's loop over the tests."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.source = Source(STELLA.read_text(encoding="utf-8"))
        self.changer = Changer(self.source)
        self.calls: dict[pytest.Item, set[int]] = {}  # test: first lines of the functions of stella.py it called
        self.seconds: dict[pytest.Item, float] = {}
        self.survivors: list[Mutant] = []
        self.tried: list[Mutant] = []
        self.broken: list[str] = []
        self.files = {TESTS / f"{name}.py": (TESTS / f"{name}.py").read_text(encoding="utf-8") for name in FILES}

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        started = time.monotonic()
        self.learn(session.items)
        print(f"  {len(session.items)} tests looked at in {time.monotonic() - started:.0f} s", file=sys.__stderr__)
        self.tried = [mutant for mutant in make_mutants(self.source) if self.is_wanted(mutant.name)]
        self.run_all()
        return True

    def is_wanted(self, name: str) -> bool:
        return name.startswith(self.options.only)

    def learn(self, items: list[pytest.Item]) -> None:
        """Runs every test once."""
        import threading

        file = self.changer.module.__file__

        def look(frame, event, _):
            if event == "call" and frame.f_code.co_filename == file:
                called.add(frame.f_code.co_firstlineno)

        for item, following in zip(items, [*items[1:], None]):
            called: set[int] = set()
            started = time.process_time()
            threading.setprofile(look)
            sys.setprofile(look)
            try:
                reports = runtestprotocol(item, log=False, nextitem=following)
            finally:
                sys.setprofile(None)
                threading.setprofile(None)
            self.seconds[item] = time.process_time() - started
            self.calls[item] = called
            if any(report.failed for report in reports):
                self.broken.append(item.nodeid)

    def tests_for(self, mutant: Mutant) -> list[pytest.Item]:
        """The tests that call what is changed, the most specialised first, as many as there is time for."""
        names = defined(mutant.top)
        made = set()
        for top in self.changer.plain:
            made |= defined(top) if names_in(top) & (names | made) else set()
        lines = [mutant.lines] + [range(node.lineno, node.end_lineno + 1) for node in self.source.tree.body
                                  if isinstance(node, (*FUNCTIONS, ast.ClassDef)) and names_in(node) & made]
        if not isinstance(mutant.top, (*FUNCTIONS, ast.ClassDef)):
            made |= names
        files = {path for path in self.files if any(name in self.files[path] for name in made)}
        chosen = [item for item, called in self.calls.items()
                  if self.seconds[item] < SLOW_SECONDS and item.nodeid not in self.broken
                  and (item.path in files or any(line in span for span in lines for line in called))]
        chosen.sort(key=lambda item: (len(self.calls[item]), self.seconds[item]))
        total, kept = 0.0, []
        for item in chosen:
            total += self.seconds[item]
            if total > MOST_SECONDS:
                break
            kept.append(item)
        return kept

    def run_all(self) -> None:
        """A fork for each mutant, as many at once as there are processors."""
        running: dict[int, tuple[Mutant, float]] = {}
        waiting = list(reversed(self.tried))
        gc.freeze()  # or every fork would copy what its first collection marks
        done = 0
        while waiting or running:
            while waiting and len(running) < (os.cpu_count() or 1):
                mutant = waiting.pop()
                tests = self.tests_for(mutant)
                running[self.fork(mutant, tests)] = (mutant, time.monotonic() + HANGING_SECONDS)
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid in running:
                mutant, _ = running.pop(pid)
                done += 1
                if status == 0:
                    self.survivors.append(mutant)
                if done % 200 == 0:
                    alive = len(self.survivors)
                    print(f"  {done} of {len(self.tried)}, {alive} alive", file=sys.__stderr__, flush=True)
                continue
            for late in [each for each, (_, limit) in running.items() if time.monotonic() > limit]:
                os.killpg(late, signal.SIGKILL)
            time.sleep(0.005)

    def fork(self, mutant: Mutant, tests: list[pytest.Item]) -> int:
        """The child's id; its exit status is 0 when every test passed."""
        pid = os.fork()
        if pid:
            return pid
        status = 1
        try:
            os.setsid()
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
            limit = 3 + int(1.5 * sum(self.seconds[item] for item in tests))
            resource.setrlimit(resource.RLIMIT_CPU, (limit, limit))
            null = os.open(os.devnull, os.O_RDWR)
            for descriptor in (0, 1, 2):
                os.dup2(null, descriptor)
            self.changer.put(mutant)
            for item, following in zip(tests, [*tests[1:], None]):
                if any(report.failed for report in runtestprotocol(item, log=False, nextitem=following)):
                    break
            else:
                status = 0
        finally:
            os._exit(status)


def reasons() -> dict[str, str]:
    """survivors.txt: `name | reason` a line; `*` in a name stands for anything."""
    if not SURVIVORS.exists():
        return {}
    lines = [line for line in SURVIVORS.read_text(encoding="utf-8").splitlines() if line and line[0] != "#"]
    return {name.strip(): reason.strip() for name, _, reason in (line.rpartition(" | ") for line in lines)}


def main() -> int:
    parser = argparse.ArgumentParser(description="Mutation testing of the pure rooms.")
    parser.add_argument("--only", default="", help="mutants whose names begin so")
    parser.add_argument("--list", action="store_true", help="only say how many there are")
    options = parser.parse_args()
    if options.list:
        names = [mutant.name for mutant in make_mutants(Source(STELLA.read_text(encoding="utf-8")))]
        print("\n".join(names))
        return 0
    plugin = Plugin(options)
    files = [str(TESTS / f"{name}.py") for name in FILES]
    arguments = ["-c", str(TESTS / "pytest.ini"), f"--rootdir={TESTS.parent}", "-q", "-p", "no:cacheprovider", *files]
    if pytest.main(arguments, plugins=[plugin]) not in (0, 5) or not plugin.tried:
        print("audit: the tests could not be collected", file=sys.stderr)
        return 1
    known = reasons()
    patterns = [re.compile(re.escape(name).replace(r"\*", ".*")) for name in known]
    explained = [mutant for mutant in plugin.survivors if any(each.fullmatch(mutant.name) for each in patterns)]
    killed = len(plugin.tried) - len(plugin.survivors)
    for mutant in plugin.survivors:
        print(f"  {'explained' if mutant in explained else 'ALIVE'}  line {mutant.lines.start}  {mutant.name}")
    for name in plugin.broken:
        print(f"  fails without any mutant: {name}")
    share = killed / len(plugin.tried)
    unexplained = len(plugin.survivors) - len(explained)
    print(f"  mutants    {len(plugin.tried)} tried, {killed} killed ({share:.1%}); of the survivors"
          f" {len(explained)} are explained, {unexplained} are not")
    return 0 if share >= ENOUGH else 1


if __name__ == "__main__":
    sys.exit(main())
