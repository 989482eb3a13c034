"""Damage to files, and what may come of it: refused by name, or whole."""

from __future__ import annotations

import contextlib
import functools
import random
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import settings

import isac_toolbox as isac
from helpers import (
    ROOT,
    examples,  # noqa: F401  registers the profile
)

#: What a reader may raise on a bad file, always with the file's name.
DOCUMENTED = (ValueError, TypeError, OSError, MemoryError)
#: What was done in this run, by name of the row and of the column, for the table of ``make nightly``.
DONE: Counter[tuple[str, str]] = Counter()

#: Where that table is kept; the manual shows it.
TABLE = ROOT / "benchmarks" / "nightly" / "nightly.txt"

_AT_NIGHT = settings.get_profile("nightly").max_examples


def at_night() -> bool:
    """Return whether this is ``make nightly``."""
    return settings().max_examples == _AT_NIGHT


def how_many(ordinary: int, nightly: int) -> int:
    """Return how often a fault is injected."""
    return nightly if at_night() else ordinary


def tally(row: str, column: str, count: int = 1) -> None:
    """Count for the table of ``make nightly``."""
    DONE[row, column] += count


def counted(test: Callable[..., Any], name: str) -> Callable[..., Any]:
    """Return a property's function that counts the examples that held."""

    @functools.wraps(test)
    def count(*arguments: Any, **options: Any) -> None:
        test(*arguments, **options)
        tally(name.removeprefix("test_").replace("_", " "), "holds")

    return count


@contextlib.contextmanager
def memory_of_at_most(n_bytes: int) -> Iterator[None]:
    """Let this process take so much more memory than it has, and no more, where the system knows limits."""
    try:
        import resource

        with open("/proc/self/statm") as file:
            now = int(file.read().split()[0]) * resource.getpagesize()
    except (ImportError, OSError):
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (now + n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def flipped(content: bytes, count: int, seed: int = 0) -> Iterator[bytes]:
    """The content with one bit changed, at ``count`` random places."""
    chance = random.Random(seed)
    for _ in range(count):
        changed = bytearray(content)
        changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
        yield bytes(changed)


def truncated(content: bytes, count: int, seed: int = 0) -> Iterator[bytes]:
    """The first bytes of the content, of ``count`` random lengths, none and all but one among them."""
    chance = random.Random(seed)
    lengths = [0, len(content) - 1, *(chance.randrange(len(content)) for _ in range(count - 2))]
    yield from (content[:length] for length in lengths[:count])


def refused_or_whole(row: str, path: Path, content: bytes, load: Callable[[], Any], whole: str) -> None:
    """A changed file gives a documented error with its name, or exactly what the whole file gave."""
    path.write_bytes(content)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = fingerprint(load())
    except DOCUMENTED as error:
        assert path.name in str(error), repr(error)
        tally(row, "refused by name")
    else:
        assert found == whole, f"{path} was damaged and loaded as something else"
        tally(row, "came back whole")


def fingerprint(value: Any) -> str:
    """Return a text that is the same for the same contents, bit for bit."""
    if is_dataclass(value) and not isinstance(value, type):
        return fingerprint({f.name: getattr(value, f.name) for f in fields(value)})
    if hasattr(value, "detach"):
        value = value.detach().numpy()
    if isinstance(value, np.ndarray):
        return f"{value.dtype}{value.shape}{value.tobytes().hex()}"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k!r}: {fingerprint(v)}" for k, v in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(fingerprint, value)) + "]"
    return repr(value)


def write_table(failed: int, path: Path = TABLE) -> None:
    """Write what was done: a row for every kind of fault, what came of it, and how often."""
    from rich.console import Console
    from rich.table import Table

    heads = ("what", "what came of it", "times")
    table = Table(
        *heads, title=f"isac_toolbox {isac.__version__}: {failed} failed tests", title_justify="left"
    )
    for (what, outcome), count in sorted(DONE.items()):
        table.add_row(what, outcome, str(count))
    table.add_row("all", "", str(sum(DONE.values())))
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        Console(file=file, width=140).print(table)
