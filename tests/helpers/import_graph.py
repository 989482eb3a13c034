"""Who imports whom in ``isac_toolbox``, read from the source, and the order of its rooms.

All imports count: at the top of a file, inside functions, for type checkers alone, and by ``import_module``
with the name written out. A file is named by its path below ``isac_toolbox``.
"""

from __future__ import annotations

import ast
from collections import deque
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

PACKAGE = Path(__file__).resolve().parents[2] / "isac_toolbox"

#: The entrance names everything, and nobody may import it.
ENTRANCE = "__init__.py"

#: From bottom to top: a file imports files of its own row and of the rows before it. "room/" is every file of
#: a folder that has no nearer entry.
ORDER: tuple[tuple[str, ...], ...] = (
    (
        "_version.py",
        "_validation.py",
        "_choices.py",
        "_files.py",
        "_interrupts.py",
        "_npz.py",
        "_threads.py",
        "_processes.py",
        "_compilation.py",
        "_progress.py",
    ),
    ("channel/", "inference/"),
    (
        "scenario/",
        "channel/atoms/",
        "estimators/result.py",
        "estimators/result_files.py",
        "estimators/result_parts.py",
        "estimators/many.py",
        "estimators/result_shapes.py",
        "nn/_batches.py",
        "nn/_checkpoints.py",
        "nn/_draws.py",
        "nn/_fits.py",
        "nn/_posteriors.py",
        "nn/_records.py",
        "nn/_settings.py",
        "nn/_tensor_files.py",
        "nn/csv_log.py",
        "nn/data.py",
        "nn/layers.py",
        "nn/models.py",
        "nn/objective.py",
        "nn/training.py",
        "nn/export/",
    ),
    (
        "bounds.py",
        "metrics.py",
        "estimators/symbols/",
        "estimators/_music_kernel.py",
        "estimators/_search_kernels.py",
        "estimators/doppler_search.py",
        "estimators/fallback.py",
        "estimators/memory.py",
        "estimators/even_grid.py",
        "estimators/music.py",
        "estimators/range_doppler.py",
        "estimators/refusals.py",
        "estimators/search.py",
        "estimators/windows.py",
        "nn/turbo_vbi/",
        "nn/baselines/",
        "nn/evaluation/",
    ),
    ("nn/ssvi/", "nn/one_call.py"),
    ("estimators/scene/",),
    ("estimators/coarse/", "estimators/grid/", "estimators/recorder.py"),
    ("estimators/baselines/",),
    (
        "estimators/bisvbi.py",
        "estimators/bisvbi_diffuse.py",
        "estimators/bisvbi_loop.py",
        "estimators/bisvbi_receiver.py",
        "estimators/bisvbi_start.py",
        "estimators/self_calibration.py",
        "estimators/music_scvbi.py",
        "estimators/__init__.py",
        "_catalogue.py",
        "nn/__init__.py",
    ),
    ("sweeps/", "plotting/", "interop/", "tracking/"),
    ("figures/",),
    ("cli/", "__main__.py"),
)


class Arrow(NamedTuple):
    """One file imports another; ``line`` is where it does so first."""

    source: str
    line: int
    target: str

    def __str__(self) -> str:
        return f"isac_toolbox/{self.source}:{self.line} imports isac_toolbox/{self.target}"


def entry_of(file: str) -> str:
    """Return the nearest entry of the order for a file.

    Raises
    ------
    LookupError
        If the order has no place for it.
    """
    fitting = [e for row in ORDER for e in row if file == e or (e.endswith("/") and file.startswith(e))]
    if not fitting:
        raise LookupError(f"isac_toolbox/{file} has no place in ORDER of tests/helpers/import_graph.py")
    return max(fitting, key=len)


def rank(file: str) -> int:
    """Return the row of a file, counted from the bottom."""
    entry = entry_of(file)
    return next(i for i, row in enumerate(ORDER) if entry in row)


def import_graph(package: Path = PACKAGE) -> dict[str, dict[str, int]]:
    """Return for every file which files it imports, each with the line of the first import."""
    files = {path.relative_to(package).as_posix(): path for path in sorted(package.rglob("*.py"))}
    modules = {_module(file, package.name): file for file in files}
    graph: dict[str, dict[str, int]] = {}
    for file, path in files.items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        inside = _module(file, package.name)
        if not file.endswith("__init__.py"):
            inside = inside.rpartition(".")[0]
        graph[file] = {}
        for name, line in _imported(tree, inside):
            target = _file(name, modules)
            if target not in (None, file):
                graph[file][target] = min(line, graph[file].get(target, line))
    return graph


def arrows(graph: Mapping[str, Mapping[str, int]]) -> list[Arrow]:
    """Return all imports but those of the entrance, which names everything."""
    return [
        Arrow(source, line, target)
        for source, targets in graph.items()
        if source != ENTRANCE
        for target, line in targets.items()
    ]


def circles(graph: Mapping[str, Mapping[str, int]]) -> list[list[Arrow]]:
    """Return the shortest circle through every file that is on one, each circle once."""
    found: dict[frozenset[str], list[Arrow]] = {}
    for start in graph:
        path = _way_back(graph, start)
        if path:
            found.setdefault(frozenset(path), [Arrow(a, graph[a][b], b) for a, b in pairwise(path)])
    return list(found.values())


def _way_back(graph: Mapping[str, Mapping[str, int]], start: str) -> list[str]:
    """Return the files of the shortest way from one back to itself; empty if there is none."""
    waiting, seen = deque([[start]]), {ENTRANCE}
    while waiting:
        way = waiting.popleft()
        for target in graph[way[-1]]:
            if target == start:
                return [*way, start]
            if target not in seen:
                seen.add(target)
                waiting.append([*way, target])
    return []


def _module(file: str, package: str) -> str:
    return ".".join([package, *Path(file).with_suffix("").parts]).removesuffix(".__init__")


def _file(name: str, modules: Mapping[str, str]) -> str | None:
    """Return the file of a module, or of the module that holds a name."""
    return modules.get(name) or modules.get(name.rpartition(".")[0])


def _imported(tree: ast.Module, inside: str) -> Iterator[tuple[str, int]]:
    """Yield the dotted names that a file imports, wherever in it; ``inside`` is its package."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = inside.split(".")[: len(inside.split(".")) + 1 - node.level] if node.level else []
            room = ".".join([*start, *filter(None, [node.module])])
            yield from ((f"{room}.{alias.name}", node.lineno) for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if called == "import_module" and isinstance(node.args[0].value, str):
                yield node.args[0].value, node.lineno
