"""Read the pages of the manual: their code, links and tables."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

#: What the build of the manual makes, relative to ``docs``.
MADE_BY_THE_BUILD = ("api/", "auto_examples/", "tables/")


def blocks(text: str) -> list[tuple[str, str]]:
    """Python blocks, each with the printed text that follows it, if any."""
    found = re.findall(r"```python\n(.*?)```(?:\s+prints\s+```(?:text)?\n(.*?)```)?", text, re.DOTALL)
    return [(code, printed) for code, printed in found]


def check_blocks(page: Path) -> dict[str, object]:
    """Run the Python blocks of a page in order, compare what they print, and return their names."""
    names: dict[str, object] = {"__name__": "manual"}
    parts = blocks(page.read_text(encoding="utf-8"))
    assert parts, f"no code in {page.name}"
    for code, printed in parts:
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            exec(compile(code, page.name, "exec"), names)
        assert not printed or output.getvalue() == printed
    return names


def shell_lines(text: str, command: str) -> list[str]:
    """Lines of code blocks that start with ``command``, without comments, continued lines joined."""
    code = "\n".join(re.findall(r"^```(?:sh)?\n(.*?)^```", text, re.DOTALL | re.MULTILINE))
    lines = (line.split(" #")[0].strip() for line in code.replace("\\\n", " ").splitlines())
    return [line for line in lines if line.startswith(f"{command} ")]


def broken_links(page: Path) -> list[str]:
    """Relative links and included files of a page that lead to no file and no heading."""
    text = page.read_text(encoding="utf-8")
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, anchor = link.partition("#")
        if path.startswith(("http", *MADE_BY_THE_BUILD)):
            continue
        target = page.parent / path if path else page
        if not target.exists() or (anchor and anchor not in anchors(target.read_text(encoding="utf-8"))):
            broken.append(link)
    included = re.findall(r"\{(?:literal)?include\} (\S+)", text)
    return broken + [name for name in included if not (page.parent / name).exists()]


def anchors(text: str) -> set[str]:
    """Anchors that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    kept = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.strip().replace(" ", "-") for heading in kept}


def tables(text: str) -> list[list[list[str]]]:
    """Tables of a page: rows of cells, the head first."""
    found = re.findall(r"(?:^\|.*\|\n)+", text, re.MULTILINE)
    return [
        [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in table.splitlines()]
        for table in found
    ]
