"""Do the tests see a wrong formula? One small change of the source at a time, and the tests of its room.

``python benchmarks/nightly/mutation.py [--per-module 3] [--seed 0] [--minutes 60] [PART OF A PATH ...]``

Mutants are drawn per module with a seed from all that the operators below can change; constants of a
module (caps, guards, tuned numbers), texts, annotations and assertions are left alone. Each is run in a copy
of the repository against the tests that run its function (``which_tests.py``): those named after its module
and those that import it first, then those of its room, then all others, until one fails. Modules with
compiled kernels are compiled anew for every mutant, callers in other files included.

Every outcome is a line of ``mutation.jsonl`` as soon as it is known, and what is there is not run again but
with ``--again``, which adds a second line; at the end the tables are written to ``mutation.txt`` and
``mutation_left.txt``. Why a change that nothing sees changes nothing stands in ``mutation_reasons.jsonl``.
"""

from __future__ import annotations

import argparse
import ast
import functools
import json
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import hypothesis  # noqa: F401
import matplotlib.pyplot  # noqa: F401
import numba
import pytest
import scipy.fft
import scipy.linalg
import scipy.optimize
import scipy.sparse
import scipy.special
import scipy.stats  # noqa: F401
import which_tests
from tables import write
from which_tests import Chosen

ROOT = Path(__file__).resolve().parents[2]
FOLDER = Path(__file__).parent
RECORDS, REASONS = FOLDER / "mutation.jsonl", FOLDER / "mutation_reasons.jsonl"
TABLE, LEFT = FOLDER / "mutation.txt", FOLDER / "mutation_left.txt"
MAP = FOLDER / ".which_tests.json"
PACKAGE = "isac_toolbox"
#: Rooms whose formulas are tested.
ROOMS = ("inference", "channel", "estimators/scene", "bounds.py")
#: Tests to choose from.
TESTS = [
    *(f"tests/{room}" for room in ("inference", "channel", "scenario", "interop", "estimators", "tracking")),
    *(f"tests/test_{name}.py" for name in ("bounds", "moving_bounds", "moving_scenarios", "bad_input")),
    *(f"tests/test_{name}.py" for name in ("imperfect_scenarios", "links_and_squint", "succession")),
    *(f"tests/test_{name}.py" for name in ("invariances", "metrics", "storage")),
]
#: How many times longer than its tests take a mutant may run; then it is stopped and counted as seen.
PATIENCE = 2.0
#: Floats below this are guards against a division by zero, whatever their value.
LEAST = 1e-100
SWAPPED = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}
COMPARED = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
NAMES = {
    "max": "min",
    "argmax": "argmin",
    "maximum": "minimum",
    "any": "all",
    "ceil": "floor",
    "real": "imag",
}
NAMES |= {"sin": "cos", "sum": "mean", "log": "log1p", "exp": "expm1", "zeros": "ones", "triu": "tril"}
NAMES |= {other: name for name, other in NAMES.items() if name not in ("sum", "log", "exp")}
#: Arguments that guard or save time, and change no number.
LEFT_ALONE = ("strict", "optimize", "cache")
#: Calls of one argument, and methods, that may be left out.
DROPPED = {"conj", "sqrt", "abs", "square", "sort"}

Key = tuple[str, int, str]
Change = tuple[int, str, Callable[[], None], Callable[[], None]]


@dataclass(frozen=True)
class Mutant:
    """A module with one change, that of a line as it was when drawn, and where that line stands now."""

    module: str
    line: int
    change: str
    source: str
    stands: int

    @property
    def key(self) -> Key:
        """What it is known by."""
        return self.module, self.line, self.change


# ---- what is changed -----------------------------------------------------------------------------------


def mutants_of(module: str, count: int, chance: random.Random) -> list[Mutant]:
    """So many mutants of a module, drawn among all; fewer where there are not as many."""
    tree = ast.parse((ROOT / PACKAGE / module).read_text(encoding="utf-8"))
    changes = list(_changes(tree))
    return [_made(module, made[0], tree, made) for made in chance.sample(changes, min(count, len(changes)))]


def _made(module: str, line: int, tree: ast.Module, change: Change) -> Mutant:
    """The mutant of one change; the tree is as it was."""
    stands, words, apply, undo = change
    apply()
    source = ast.unparse(ast.fix_missing_locations(tree))
    undo()
    return Mutant(module, line, words, source, stands)


def _changes(tree: ast.Module) -> Iterator[Change]:
    """Every single change of a tree: its line, its words, how it is made and undone."""
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield from _inside(node)


def _inside(node: ast.AST) -> Iterator[Change]:
    """Changes of a node's children and of all below them."""
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns", "decorator_list", "type_params", "bases"):
            continue
        for index, child in enumerate(value if isinstance(value, list) else [value]):
            if not isinstance(child, ast.AST) or isinstance(child, (ast.Raise, ast.Assert, ast.JoinedStr)):
                continue
            if isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant):
                continue
            if isinstance(child, ast.keyword) and child.arg in LEFT_ALONE:
                continue
            where = (value, index) if isinstance(value, list) else (node, field)
            for other in _instead(child):
                yield _exchange(where, child, other)
            yield from _inside(child)


def _exchange(where: tuple, old: ast.AST, new: ast.AST) -> Change:
    """The change that puts one node in the place of another."""
    holder, place = where

    def put(node: ast.AST) -> None:
        if isinstance(holder, list):
            holder[place] = node
        else:
            setattr(holder, place, node)

    words = f"{ast.unparse(old)} -> {ast.unparse(ast.fix_missing_locations(new))}".replace("\n", " ")
    return old.lineno if hasattr(old, "lineno") else 0, words, lambda: put(new), lambda: put(old)


def _instead(node: ast.AST) -> Iterator[ast.AST]:
    """What can stand in the place of a node."""
    copy = ast.copy_location
    if isinstance(node, ast.BinOp) and type(node.op) in SWAPPED:
        if not (isinstance(node.left, ast.Constant) and isinstance(node.left.value, str)):
            yield copy(ast.BinOp(node.left, SWAPPED[type(node.op)](), node.right), node)
    elif isinstance(node, ast.AugAssign) and type(node.op) in SWAPPED:
        yield copy(ast.AugAssign(node.target, SWAPPED[type(node.op)](), node.value), node)
        yield copy(ast.Pass(), node)
    elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Subscript):
        yield copy(ast.Pass(), node)
    elif isinstance(node, ast.Compare) and len(node.ops) == 1:
        for other in COMPARED.get(type(node.ops[0]), ()):
            yield copy(ast.Compare(node.left, [other()], node.comparators), node)
    elif isinstance(node, ast.BoolOp):
        other = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        yield copy(ast.BoolOp(other, node.values), node)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.Not, ast.Invert)):
        yield node.operand
    elif isinstance(node, ast.Constant):
        yield from (copy(ast.Constant(value), node) for value in _other_values(node.value))
    elif isinstance(node, ast.If):
        yield copy(ast.If(ast.UnaryOp(ast.Not(), node.test), node.body, node.orelse), node)
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        yield from _other_calls(node, node.func)


def _other_values(value: object) -> Iterator[object]:
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, int):
        yield value + 1
    elif isinstance(value, float) and (value == 0 or abs(value) > LEAST):
        yield 2 * value if value else 1.0
    elif isinstance(value, complex):
        yield -value


def _other_calls(node: ast.Call, function: ast.Attribute) -> Iterator[ast.AST]:
    """Another function, or none: of a call ``np.f(x)`` what it is given, of ``x.f()`` the object."""
    if function.attr in NAMES:
        renamed = ast.Attribute(function.value, NAMES[function.attr], function.ctx)
        yield ast.copy_location(ast.Call(renamed, node.args, node.keywords), node)
    if function.attr in DROPPED:
        yield node.args[0] if node.args else function.value


# ---- how it is tried -----------------------------------------------------------------------------------


def room_of(module: str) -> str:
    """The room of a module."""
    return next(room for room in ROOMS if module.startswith(room))


@functools.cache
def own_tests(module: str) -> list[str]:
    """Tests named after a module, those of a kernel after what they compute, and those that import it."""
    stem, path = Path(module).stem.strip("_").removesuffix("_kernels"), module.removesuffix(".py")
    imports = f"{PACKAGE}.{path.replace('/', '.')} import"
    return sorted(
        file.relative_to(ROOT).as_posix()
        for file in (ROOT / "tests").rglob("test_*.py")
        if file.stem == f"test_{stem}" or imports in file.read_text(encoding="utf-8")
    )


def copy_of_repository(folder: Path) -> Path:
    """A copy to change, without what no test here reads."""
    skipped = shutil.ignore_patterns(".*", "docs", "renders", "__pycache__", "findings")
    return Path(shutil.copytree(ROOT, folder / "copy", ignore=skipped))


def is_seen(mutant: Mutant, copy: Path, caches: Path, chosen: Chosen) -> str:
    """The test that fails on a mutant; empty if none does."""
    path = copy / PACKAGE / mutant.module
    whole, times = path.read_bytes(), path.stat()
    compiled = b"njit" in whole
    kernels = caches / ("anew" if compiled else "kept")
    path.write_text(mutant.source, encoding="utf-8")
    try:
        return failing(copy, chosen, kernels)
    finally:
        path.write_bytes(whole)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # kept kernels go by it
        if compiled:
            shutil.rmtree(kernels, ignore_errors=True)


def failing(copy: Path, chosen: Chosen, kernels: Path) -> str:
    """The first test that fails in a copy; too long is a failure, as is a copy that cannot be imported."""
    if not chosen.tests:
        return ""
    words = copy / ".failed"
    words.write_text("import", encoding="utf-8")
    code = in_child(
        copy, kernels, functools.partial(_run, chosen.tests, words), 30 + PATIENCE * chosen.seconds
    )
    return {0: "", None: "takes too long"}.get(code, words.read_text(encoding="utf-8") or "import")


def in_child(
    root: Path, kernels: Path, task: Callable[[], int | None], most_s: float | None = None
) -> int | None:
    """Call a function in a copy of the repository and return its code; ``None`` if it takes too long.

    In a fork of this process, which has loaded what all tests need but nothing of the toolbox.
    """
    child = multiprocessing.get_context("fork").Process(target=_settle, args=(root, kernels, task))
    child.start()
    child.join(most_s)
    if child.is_alive():
        child.kill()
        child.join()
        return None
    return child.exitcode


def _settle(root: Path, kernels: Path, task: Callable[[], int | None]) -> None:
    """Make this process one of a copy, that says nothing; leave with the task's code."""
    os.setsid()
    os.chdir(root)
    sys.path.insert(0, str(root))
    sys.dont_write_bytecode = True
    os.environ["NUMBA_CACHE_DIR"] = numba.config.CACHE_DIR = str(kernels)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
        os._exit(int(task() or 0))


def _run(tests: list[str], words: Path) -> int:
    """Run tests until one fails, and write which."""
    return int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", *tests], plugins=[_First(words)]))


class _First:
    """A plugin of pytest: the name of the test that failed."""

    def __init__(self, words: Path) -> None:
        self.words = words

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """The file, where it cannot even be imported."""
        if report.failed and report.nodeid:
            self.words.write_text(report.nodeid, encoding="utf-8")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """The test."""
        if report.failed:
            self.words.write_text(report.nodeid, encoding="utf-8")


# ---- what is kept --------------------------------------------------------------------------------------


def records() -> dict[Key, list[dict]]:
    """Outcomes of this and of earlier runs, those of one mutant in order: tests may have come in between."""
    found: dict[Key, list[dict]] = {}
    if RECORDS.exists():
        for line in RECORDS.read_text(encoding="utf-8").splitlines():
            entry = json.loads(line)
            found.setdefault((entry["module"], entry["line"], entry["change"]), []).append(entry)
    return found


def reasons() -> dict[Key, str]:
    """Why a change that no test sees changes nothing."""
    entries = [json.loads(line) for line in REASONS.read_text(encoding="utf-8").splitlines()]
    return {(e["module"], e["line"], e["change"]): e["reason"] for e in entries}


def keep(mutant: Mutant, seen_by: str) -> None:
    """Write an outcome as a line."""
    entry = {"module": mutant.module, "line": mutant.line, "change": mutant.change, "seen_by": seen_by}
    with RECORDS.open("a", encoding="utf-8") as file:
        file.write(json.dumps(entry) + "\n")


def write_tables() -> None:
    """By room mutants and those that tests see, and one by one those that they do not."""
    found, known = records(), reasons()
    tried, at_first, now, equal = Counter(), Counter(), Counter(), Counter()
    for key, entries in found.items():
        for room in (room_of(key[0]), "all"):
            tried[room] += 1
            at_first[room] += bool(entries[0]["seen_by"])
            now[room] += bool(entries[-1]["seen_by"])
            equal[room] += not entries[-1]["seen_by"] and key in known
    rows = [
        (room, tried[room], at_first[room], now[room], equal[room], f"{now[room] / tried[room]:.0%}")
        for room in (*ROOMS, "all")
        if tried[room]
    ]
    heads = ("room", "changes", "seen when drawn", "seen now", "explained", "share seen")
    write(TABLE, "Changes of the source that tests see", heads, rows)
    left = [(*key, known.get(key, "")) for key, entries in found.items() if not entries[-1]["seen_by"]]
    write(LEFT, "Changes that they do not see", ("module", "line", "change", "why"), sorted(left))


def main() -> None:
    """Draw mutants, try those that are new, write the tables."""
    parser = argparse.ArgumentParser(description="Mutation tests, a sample per module.")
    parser.add_argument("only", nargs="*", help="parts of paths of the modules that are tried")
    parser.add_argument("--per-module", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seconds", type=float, default=60.0, help="of tests tried on one mutant")
    parser.add_argument("--again", action="store_true", help="try those once more that were not seen")
    given = parser.parse_args()
    end = time.monotonic() + 60 * given.minutes
    with tempfile.TemporaryDirectory() as folder:
        copy, caches = copy_of_repository(Path(folder)), Path(folder) / "kernels"
        tests = which_tests.renew(MAP, copy, TESTS, functools.partial(in_child, copy, caches / "kept"))
        known = records()
        new = ([m] for m in sample(given.per_module, given.seed) if m.key not in known)
        for alike in unseen(known) if given.again else new:
            if given.only and not any(part in alike[0].module for part in given.only):
                continue
            if time.monotonic() > end:
                break
            begin, seen_by = time.monotonic(), ""
            for mutant in alike:
                own = own_tests(mutant.module)
                chosen = which_tests.choose(tests, copy, mutant.module, mutant.stands, own, given.seconds)
                seen_by = is_seen(mutant, copy, caches, chosen)
                if not seen_by:
                    break
            keep(alike[0], seen_by)
            verdict = "seen    " if seen_by else "NOT SEEN"
            took = f"{time.monotonic() - begin:.0f} s, {len(chosen.tests)} tests"
            print(f"{verdict} {mutant.module}:{mutant.line} {mutant.change} ({took}) {seen_by}", flush=True)
    write_tables()


def sample(per_module: int, seed: int) -> list[Mutant]:
    """So many mutants of each module, in a random order."""
    chance, drawn = random.Random(seed), []
    paths = sorted(p.relative_to(ROOT / PACKAGE).as_posix() for p in (ROOT / PACKAGE).rglob("*.py"))
    for module in (m for m in paths if m.startswith(ROOMS)):
        drawn += mutants_of(module, per_module * (10 if module == "bounds.py" else 1), chance)
    chance.shuffle(drawn)
    return drawn


def unseen(known: dict[Key, list[dict]]) -> list[list[Mutant]]:
    """Mutants that no test saw and that nobody has explained, as the source is now."""
    explained = reasons()
    left = [key for key, found in known.items() if not found[-1]["seen_by"] and key not in explained]
    return [alike for alike in map(same, left) if alike]


def same(key: Key) -> list[Mutant]:
    """The same change of a module, the nearest to its line; all of them where that line has it twice."""
    module, line, change = key
    tree = ast.parse((ROOT / PACKAGE / module).read_text(encoding="utf-8"))
    alike = [found for found in _changes(tree) if found[1] == change]
    nearest = min((found[0] for found in alike), key=lambda other: abs(other - line), default=0)
    return [_made(module, line, tree, found) for found in alike if found[0] == nearest]


if __name__ == "__main__":
    main()
