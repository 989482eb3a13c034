"""Tables of the manual, as the other benchmarks print them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table


def write(path: Path, title: str, heads: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write one table with a title."""
    table = Table(*heads, title=title, title_justify="left")
    for row in rows:
        table.add_row(*map(str, row))
    with path.open("w", encoding="utf-8") as file:
        Console(file=file, width=200).print(table, markup=False)
