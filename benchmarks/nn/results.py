"""Lines of results of the benchmarks of networks."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Finished runs."""
    return [json.loads(text) for text in path.read_text().splitlines()] if path.exists() else []


def append_line(path: Path, line: dict[str, Any]) -> None:
    """Store a run as soon as it is finished."""
    with path.open("a") as file:
        file.write(json.dumps(line) + "\n")


def find_line(lines: list[dict[str, Any]], key: dict[str, Any]) -> dict[str, Any] | None:
    """The finished run with this key."""
    return next((line for line in lines if all(line[name] == value for name, value in key.items())), None)


def spread(values: list[float], form: str) -> str:
    """Mean and, for more than one value, standard deviation."""
    if not values:
        return ""
    mean = form.format(statistics.mean(values))
    return f"{mean} ± {form.format(statistics.stdev(values))}" if len(values) > 1 else mean
