"""Which lines the tests run, by room: the table of ``make coverage``, from the file ``.coverage``.

Compiled functions are left out, as no tracer sees them; so are children of tests, such as workers of a sweep.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

from tables import write

TABLE = Path(__file__).with_suffix(".txt")


def main() -> None:
    """Count lines by room and write them, rooms with most that is missed first."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "coverage.json"
        subprocess.run([sys.executable, "-m", "coverage", "json", "-q", "-o", path], check=True)
        files = json.loads(path.read_text(encoding="utf-8"))["files"]
    lines, missed = defaultdict(int), defaultdict(int)
    for name, entry in files.items():
        for room in (_room(name), "all"):
            lines[room] += entry["summary"]["num_statements"]
            missed[room] += entry["summary"]["missing_lines"]
    rooms = sorted(lines, key=lambda room: (room == "all", -missed[room]))
    rows = [(room, lines[room], missed[room], f"{1 - missed[room] / lines[room]:.1%}") for room in rooms]
    write(TABLE, "Lines that the tests run", ("room", "lines", "missed", "share"), rows)


def _room(name: str) -> str:
    """The folder of a file inside the package."""
    folder = Path(name.partition("isac_toolbox/")[2]).parent.as_posix()
    return "the entrance" if folder == "." else f"{folder}/"


if __name__ == "__main__":
    main()
