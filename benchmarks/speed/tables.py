"""What the speed benchmarks share: rates of this machine, best times, tables, trees of other commits."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[2]


def print_table(title: str, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table wide enough for any terminal or file."""
    table = Table(title=title, title_justify="left")
    for head in heads:
        table.add_column(head, no_wrap=True)
    for cells in rows:
        table.add_row(*cells)
    Console(width=160).print(table)


def parser_of(description: str | None) -> argparse.ArgumentParser:
    """Parser that shows a module's docstring as it is."""
    return argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def best_seconds(work: Callable[[], Any], repeats: int = 5) -> float:
    """Shortest processor time of some runs: the one that other processes disturbed least."""
    times = []
    for _ in range(repeats):
        start = process_time()
        work()
        times.append(process_time() - start)
    return min(times)


def gemm_rate(n: int = 768) -> float:
    """Complex double matrix products of this machine with one thread, flop per second."""
    rng = np.random.default_rng(0)
    left, right = (rng.standard_normal((n, n)) + 1j * rng.standard_normal((n, n)) for _ in range(2))
    return 8 * n**3 / best_seconds(lambda: left @ right, 5)


def exponent(sizes: Sequence[float], times: Sequence[float]) -> float:
    """Slope of log time over log size, by least squares."""
    return float(np.polyfit(np.log(sizes), np.log(times), 1)[0])


class Worker:
    """A fresh process that imports the package from a tree and answers one line of JSON per request."""

    def __init__(self, script: Path, tree: Path, *arguments: str) -> None:
        threads = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(tree)}
        self.process = subprocess.Popen(
            [sys.executable, str(script), "--worker", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | threads,
        )

    def ask(self) -> dict[str, float]:
        """One measurement."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        answer: dict[str, float] = json.loads(self.process.stdout.readline())
        return answer

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def serve(measure: Callable[[], dict[str, float]]) -> None:
    """Answer the requests of a :class:`Worker`."""
    for _ in sys.stdin:
        print(json.dumps(measure()), flush=True)
