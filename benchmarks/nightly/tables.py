"""Tables of the manual, as the other benchmarks print them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

#: Title, heads, rows.
Part = tuple[str, Sequence[str], Iterable[Sequence[object]]]


def write(path: Path, title: str, heads: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write one table with a title."""
    write_all(path, [(title, heads, rows)])


def write_all(path: Path, parts: Iterable[Part], width: int = 200) -> None:
    """Write tables with titles one below the other."""
    with path.open("w", encoding="utf-8") as file:
        for title, heads, rows in parts:
            table = Table(*heads, title=title, title_justify="left")
            for row in rows:
                table.add_row(*map(str, row))
            Console(file=file, width=width).print(table, markup=False)
