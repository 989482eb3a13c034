"""Which tests run a function of the toolbox, and how long they take: what ``mutation.py`` chooses from.

Every file of tests is run once in a process of its own, under coverage.py with a context per test. Kept are
functions, not lines, so that the map outlives small changes; a file of tests that changed is run anew. Tests
that fail by themselves are never chosen. What a fixture of a whole file runs counts for all its tests.
No tracer sees compiled functions: for them stand the tests that run a module which imports theirs.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import coverage
import pytest

PACKAGE = "isac_toolbox"
#: By file of tests ``{"sha": , "seconds": {test: }, "runs": {function: [tests]}, "failed": [tests]}``.
Map = dict[str, dict]


@dataclass(frozen=True)
class Chosen:
    """Tests that run a function, by file, and the seconds that they take."""

    tests: list[str]
    seconds: float


# ---- the map -------------------------------------------------------------------------------------------


def renew(path: Path, root: Path, tests: list[str], run: Callable[[Callable[[], None]], None]) -> Map:
    """The map of a file, with files of tests that are new or changed; ``run`` calls a function in a child."""
    known: Map = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    found = sorted({file for part in tests for file in _files(root / part)})
    for file in found:
        name, sha = file.relative_to(root).as_posix(), hashlib.sha256(file.read_bytes()).hexdigest()
        if known.get(name, {}).get("sha") == sha:
            continue
        begin = time.monotonic()
        part = path.with_suffix(".part")
        part.unlink(missing_ok=True)
        run(functools.partial(_trace, root, name, part))
        known[name] = {"sha": sha, **json.loads(part.read_text(encoding="utf-8"))}
        part.unlink()
        path.write_text(json.dumps(known), encoding="utf-8")
        print(
            f"{name}: {len(known[name]['seconds'])} tests, {time.monotonic() - begin:.1f} s",
            *known[name]["failed"],
            flush=True,
        )
    names = {file.relative_to(root).as_posix() for file in found}
    return {name: entry for name, entry in known.items() if name in names}


def _files(part: Path) -> list[Path]:
    return [part] if part.is_file() else sorted(part.rglob("test_*.py"))


def _trace(root: Path, name: str, result: Path) -> None:
    """Run one file of tests and write which of its tests run which functions."""
    watch = _Watch(root, name)
    pytest.main(["-q", "-p", "no:cacheprovider", name], plugins=[watch])
    seconds = {test: spent for test, spent in watch.seconds.items() if test not in watch.failed}
    found = {"seconds": seconds, "runs": watch.runs(), "failed": sorted(watch.failed)}
    result.write_text(json.dumps(found), encoding="utf-8")


class _Watch:
    """A plugin of pytest: one context of coverage.py for each test, one for fixtures of the file."""

    def __init__(self, root: Path, name: str) -> None:
        self.root, self.name, self.seconds, self.failed = root, name, defaultdict(float), set[str]()
        self.coverage = coverage.Coverage(data_file=None, source=[str(root / PACKAGE)], config_file=False)
        self.coverage.start()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        _forget_caches(item.module.__name__)
        return (yield from self._under(item.nodeid))

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef, request: pytest.FixtureRequest) -> Iterator:
        if fixturedef.scope == "function":
            return (yield)
        try:
            return (yield from self._under(self.name))
        finally:
            self.coverage.switch_context(request._pyfuncitem.nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.failed.add(report.nodeid)

    def _under(self, context: str) -> Iterator:
        self.coverage.switch_context(context)
        begin = time.monotonic()
        try:
            return (yield)
        finally:
            self.seconds[context] += time.monotonic() - begin

    def runs(self) -> dict[str, list[str]]:
        """By function ``module.py:name`` the tests that run a line of it."""
        self.coverage.stop()
        data, found = self.coverage.get_data(), defaultdict(set)
        for file in data.measured_files():
            module = Path(file).relative_to(self.root / PACKAGE).as_posix()
            contexts = data.contexts_by_lineno(file)
            for function, first, last in functions_of(Path(file).read_text(encoding="utf-8")):
                tests = {test for line in range(first, last + 1) for test in contexts.get(line, ()) if test}
                found[f"{module}:{function}"] |= tests
        return {function: sorted(tests) for function, tests in found.items() if tests}


def _forget_caches(module: str) -> None:
    """What another test has cached would hide what this one needs."""
    for name, loaded in list(sys.modules.items()):
        if name == module or name.startswith((PACKAGE, "helpers")):
            for value in list(vars(loaded).values()):
                if hasattr(value, "cache_clear"):
                    value.cache_clear()


def functions_of(source: str) -> list[tuple[str, int, int]]:
    """Every function of a module that is in no other: its name, first and last line of its body."""

    def below(nodes: list[ast.stmt], prefix: str) -> Iterator[tuple[str, int, int]]:
        for node in nodes:
            if isinstance(node, ast.ClassDef):
                yield from below(node.body, f"{prefix}{node.name}.")
            elif isinstance(node, ast.FunctionDef):
                yield f"{prefix}{node.name}", node.body[0].lineno, node.end_lineno or node.lineno

    return list(below(ast.parse(source).body, ""))


# ---- the choice ----------------------------------------------------------------------------------------


def choose(tests: Map, root: Path, module: str, line: int, first: list[str], most_s: float) -> Chosen:
    """Tests that run the function of a line, up to so many seconds.

    Files in ``first`` come first, then those of the module's room, then all others; quick ones first of each.
    """
    room = f"tests/{Path(module).parent.as_posix()}/"
    keys, is_compiled = _keys(root, module, line)
    hit = {
        file: _ordered(entry) if is_compiled and file in first else _of(entry, keys)
        for file, entry in tests.items()
    }
    cost = {file: sum(tests[file]["seconds"][t] for t in found) for file, found in hit.items() if found}
    chosen, seconds = [], 0.0
    for file in sorted(cost, key=lambda file: (file not in first, not file.startswith(room), cost[file])):
        of_file = []
        for test in hit[file]:
            if seconds + tests[file]["seconds"][test] <= most_s:
                seconds += tests[file]["seconds"][test]
                of_file.append(test)
        seconds += tests[file]["seconds"].get(file, 0.0) if of_file else 0.0
        chosen += of_file
    return Chosen(chosen, seconds)


def _ordered(entry: dict) -> list[str]:
    return [test for test in entry["seconds"] if "::" in test]


def _of(entry: dict, keys: Callable[[str], bool]) -> list[str]:
    """Tests of a file that run what the keys name; all of them where a fixture of the file does."""
    found = {test for function, tests in entry["runs"].items() if keys(function) for test in tests}
    of_all = any("::" not in test for test in found)
    return [test for test in _ordered(entry) if of_all or test in found]


def _keys(root: Path, module: str, line: int) -> tuple[Callable[[str], bool], bool]:
    """What names the functions whose tests are wanted for a line of a module, and whether it is compiled."""
    source = (root / PACKAGE / module).read_text(encoding="utf-8")
    inside = [name for name, first, last in functions_of(source) if first <= line <= last]
    if inside and not _compiled(source, inside[0]):
        return lambda function: function == f"{module}:{inside[0]}", False
    if not inside and "njit" not in source:
        return lambda function: function.startswith(f"{module}:"), False
    callers = _importers(root, module)
    return lambda function: function.partition(":")[0] in callers, True


def _compiled(source: str, function: str) -> bool:
    nodes = {node.name: node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)}
    node = nodes[function.rpartition(".")[2]]
    return any("njit" in ast.unparse(decorator) for decorator in node.decorator_list)


def _importers(root: Path, module: str) -> set[str]:
    """Modules that import a module of kernels, and those that import kernels that do."""
    found, wanted = set(), [module]
    while wanted:
        *_, folder, stem = f"{PACKAGE}/{wanted.pop().removesuffix('.py')}".split("/")
        imports = f"{folder}.{stem} import", f"{folder} import {stem} "
        for path in (root / PACKAGE).rglob("*.py"):
            name, source = path.relative_to(root / PACKAGE).as_posix(), path.read_text(encoding="utf-8")
            if name not in found and any(words in source for words in imports):
                found.add(name)
                wanted += [name] if "njit" in source else []
    return found
