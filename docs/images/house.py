"""The files of ``isac_toolbox`` by room, and who imports whom.

python docs/images/house.py

Rooms stand in the order that ``tests/helpers/import_graph.py`` states and a test checks: each imports from
what is below it. Nothing is placed by hand, so a new file or room needs no change here.
"""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.path import Path as Curve
from matplotlib.textpath import TextPath
from PIL import Image

PICTURE = Path(__file__).resolve().with_suffix(".png")
sys.path.insert(0, str(PICTURE.parents[2] / "tests"))
from helpers.import_graph import ENTRANCE, ORDER, arrows, entry_of, import_graph, rank  # noqa: E402
from isac_toolbox.plotting.style import OKABE_ITO  # noqa: E402

# inches
WIDTH, MARGIN, HEADING = 10.0, 0.2, 0.5
LEVEL_GAP, BOX_GAP, PAD, TITLE, LINE = 0.4, 0.16, 0.08, 0.22, 0.185
INSIDE, BETWEEN = 0.1, 0.06  # of a file's box: around its name, to the next one
TITLE_SIZE, FILE_SIZE = 8.0, 6.6  # points
# what is in neither of the two large rooms stands on the right
SHARES = {"nn": 0.37, "estimators": 0.375, "": 0.255}
FIRST_ON_TOP = next(i for i, row in enumerate(ORDER) if "sweeps/" in row)
COLOURS = {"nn": OKABE_ITO["blue"], "estimators": OKABE_ITO["vermilion"], "": OKABE_ITO["green"]}
COLOUR_ON_TOP = "#9B4F7E"  # a darker "purple" of the same palette, for text on white

Pairs = Counter[tuple[int, int]]


@dataclass
class Box:
    """One room, or the loose files of a large room that stand in the same row of the order."""

    name: str
    row: int
    files: list[str] = field(default_factory=list)
    x: float = 0.0
    y: float = 0.0
    width: float = 0.0
    height: float = 0.0

    @property
    def column(self) -> str:
        """The large room around it."""
        top = self.name.split("/")[0]
        return top if top in SHARES else ""

    @property
    def colour(self) -> str:
        return COLOUR_ON_TOP if self.row >= FIRST_ON_TOP else COLOURS[self.column]

    @property
    def names(self) -> list[str]:
        """Names of the files inside; that of a package stands for its ``__init__.py``."""
        names = (Path(file).relative_to(self.name).with_suffix("").as_posix() for file in self.files)
        return [name.removesuffix("__init__") or "__init__" for name in names]

    @property
    def middle(self) -> float:
        return self.x + self.width / 2

    @property
    def wanted(self) -> float:
        """Width at which the files take one, two or three lines, or one on top of the house."""
        breadths = [breadth(name) for name in self.names]
        n_lines = 1 if len(breadths) <= 2 or self.row >= FIRST_ON_TOP else 2 if len(breadths) <= 7 else 3
        return max(sum(breadths) / n_lines + (0.25 if n_lines > 1 else 0.0) + 2 * PAD, self.least)

    @property
    def least(self) -> float:
        """Width of the title or of the longest file."""
        longest = max(map(breadth, self.names)) - BETWEEN
        return max(longest, length(title_of(self), TITLE_SIZE, "bold")) + 2 * PAD

    def lines(self) -> list[list[str]]:
        """Names of the files in lines that fit."""
        lines: list[list[str]] = [[]]
        for name in self.names:
            if lines[-1] and sum(map(breadth, [*lines[-1], name])) - BETWEEN > self.width - 2 * PAD + 1e-9:
                lines.append([])
            lines[-1].append(name)
        return lines


def breadth(name: str) -> float:
    """What a file takes in a line, with the gap behind it."""
    return length(name, FILE_SIZE) + INSIDE + BETWEEN


@cache
def length(text: str, size: float, weight: str = "normal") -> float:
    """Length of a text as it is drawn."""
    return TextPath((0, 0), text, prop=FontProperties(size=size, weight=weight)).get_extents().x1 / 72


def title_of(box: Box) -> str:
    return "isac_toolbox" if box.name == "." else box.name


# --- places ------------------------------------------------------------------------------------------


def read_boxes(files: Iterable[str]) -> tuple[list[Box], dict[str, int]]:
    """All boxes from bottom to top, and the number of the box of every file."""
    found: dict[tuple[int, str], Box] = {}
    for file in files:
        entry = entry_of(file)
        name = entry.rstrip("/") if entry.endswith("/") else Path(file).parent.as_posix()
        found.setdefault((rank(file), name), Box(name, rank(file))).files.append(file)
    boxes = [found[key] for key in sorted(found)]
    return boxes, {file: i for i, box in enumerate(boxes) for file in box.files}


def levels_of(boxes: list[Box]) -> list[list[Box]]:
    """Boxes by level; neighbouring rows of the order share one where they are in different columns."""
    levels: list[list[Box]] = []
    for row in range(len(ORDER)):
        here = [box for box in boxes if box.row == row]
        columns = {box.column for box in here}
        if levels and "" not in columns and columns.isdisjoint(box.column for box in levels[-1]):
            levels[-1] += here
        else:
            levels.append(here)
    return levels


def place(boxes: list[Box], pairs: Pairs) -> float:
    """Give every box its place, level by level from the bottom; return the height of all."""
    levels = levels_of(boxes)
    for _ in range(3):  # each time neighbours change places towards those who import them
        y = MARGIN
        for level in levels:
            for column in [""] if is_floor(level) else SHARES:
                cell = [box for box in level if box.column == column]
                cell.sort(key=lambda box: mean_of_importers(box, boxes, pairs))
                fill(cell, column, is_floor(level), y)
            y += max(box.height for box in level) + LEVEL_GAP
    return y - LEVEL_GAP + MARGIN


def is_floor(level: list[Box]) -> bool:
    """A level without a large room goes through from wall to wall."""
    return {box.column for box in level} == {""}


def fill(cell: list[Box], column: str, whole: bool, y: float) -> None:
    """Set boxes side by side into their column, or across the house."""
    if not cell:
        return
    usable = WIDTH - 2 * MARGIN
    left, room = MARGIN, usable
    if not whole:
        columns = list(SHARES)
        left += usable * sum(SHARES[other] for other in columns[: columns.index(column)]) + 0.1
        room = SHARES[column] * usable - 0.2
    room -= BOX_GAP * (len(cell) - 1)
    least, wanted = sum(box.least for box in cell), sum(box.wanted for box in cell)
    ground = cell[0].row < FIRST_ON_TOP
    if whole and not ground:
        left += max(room - wanted, 0.0) / 2
    for box in cell:
        if wanted > room:  # between the least and what is wanted
            part = max(room - least, 0.0) / (wanted - least)
            box.width = box.least + part * (box.wanted - box.least)
        else:
            box.width = box.wanted * room / wanted if whole and ground else box.wanted
        box.x, box.y = left, y
        box.height = TITLE + LINE * len(box.lines()) + PAD
        left += box.width + BOX_GAP


def mean_of_importers(box: Box, boxes: list[Box], pairs: Pairs) -> float:
    """Where those stand who import a box, on average."""
    me = boxes.index(box)
    found = [(boxes[source].middle, number) for (source, target), number in pairs.items() if target == me]
    total = sum(number for _, number in found)
    return sum(x * number for x, number in found) / total if total else 0.0


# --- drawing -----------------------------------------------------------------------------------------


def draw_walls(ax: Axes, column: str, inside: list[Box]) -> None:
    """A large room around its boxes."""
    left, right = min(box.x for box in inside) - 0.1, max(box.x + box.width for box in inside) + 0.1
    low, high = min(box.y for box in inside) - 0.13, max(box.y + box.height for box in inside) + 0.13
    rounded(ax, left, low, right - left, high - low, 0.1, facecolor=COLOURS[column], alpha=0.08, zorder=0)


def draw_box(ax: Axes, box: Box) -> None:
    """One room with its files."""
    style = {"facecolor": "white", "edgecolor": box.colour, "linewidth": 1.3, "zorder": 3}
    rounded(ax, box.x, box.y, box.width, box.height, 0.05, **style)
    top = box.y + box.height
    text = {"va": "center_baseline", "zorder": 5}
    ax.text(
        box.x + PAD, top - TITLE / 2, title_of(box), size=TITLE_SIZE, weight="bold", color=box.colour, **text
    )
    for i, line in enumerate(box.lines()):
        x, y = box.x + PAD, top - TITLE - LINE * (i + 1)
        for name in line:
            width = breadth(name) - BETWEEN
            style = {"facecolor": "#eef0f2", "edgecolor": "#b8bec4", "linewidth": 0.5, "zorder": 4}
            rounded(ax, x, y + 0.02, width, LINE - 0.035, 0.03, **style)
            ax.text(x + width / 2, y + LINE / 2, name, size=FILE_SIZE, ha="center", **text)
            x += breadth(name)


def rounded(
    ax: Axes, x: float, y: float, width: float, height: float, radius: float, **style: object
) -> None:
    style = {"edgecolor": "none", **style}
    ax.add_patch(FancyBboxPatch((x, y), width, height, f"round,pad=0,rounding_size={radius}", **style))


def draw_arrows(ax: Axes, boxes: list[Box], pairs: Pairs) -> None:
    """Arrows between rooms, as wide as there are imports."""
    leave, arrive = spread(boxes, pairs, 0), spread(boxes, pairs, 1)
    for pair, number in sorted(pairs.items(), key=lambda item: -item[1]):
        source, target = boxes[pair[0]], boxes[pair[1]]
        if source.y == target.y and source.row == target.row:
            right = target.x > source.x
            start = (source.x + right * source.width, source.y + 0.12)
            end = (target.x + (not right) * target.width, target.y + 0.12)
            bends = [start, end]
        else:
            start, end = (leave[pair], source.y), (arrive[pair], target.y + target.height)
            drop = 0.45 * (start[1] - end[1])
            bends = [(start[0], start[1] - drop), (end[0], end[1] + drop)]
        curve = Curve([start, *bends, end], [Curve.MOVETO, *[Curve.CURVE4] * 3])
        head = f"-|>,head_length={2.4 + 0.2 * number},head_width={1.2 + 0.1 * number}"
        style = {"color": source.colour, "linewidth": line_width(number), "alpha": 0.6, "zorder": 2}
        ax.add_patch(FancyArrowPatch(path=curve, arrowstyle=head, shrinkA=0, shrinkB=0, **style))


def spread(boxes: list[Box], pairs: Pairs, end: int) -> dict[tuple[int, int], float]:
    """Where arrows leave (0) or arrive (1): side by side along a box, in the order of their other ends."""
    places, by_box = {}, defaultdict(list)
    for pair in pairs:
        by_box[pair[end]].append(pair)
    for i, found in by_box.items():
        found.sort(key=lambda pair: boxes[pair[1 - end]].middle)
        for j, pair in enumerate(found):
            places[pair] = boxes[i].x + boxes[i].width * (j + 1) / (len(found) + 1)
    return places


def line_width(number: int) -> float:
    return 0.5 + 0.3 * number


def draw_heading(ax: Axes, height: float, n_files: int, n_imports: int) -> None:
    """Title, and what an arrow means."""
    title = f"isac_toolbox: {n_files} files, {n_imports} imports"
    ax.text(MARGIN, height - 0.12, title, size=12, weight="bold", va="top")
    handles = [Line2D([], [], color="0.4", lw=line_width(n), label=f"{n}") for n in (1, 4, 10)]
    legend = ax.legend(
        handles=handles, loc="upper right", ncols=3, frameon=False, fontsize=8, borderaxespad=0.1
    )
    legend.set_title(
        "an arrow points to what is imported, in the colour of who imports; its width says how often",
        {"size": 8},
    )


def main() -> None:
    """Draw the house into ``docs/images``."""
    graph = import_graph()
    boxes, number_of = read_boxes(file for file in graph if file != ENTRANCE)
    imports = arrows(graph)
    pairs = Counter((number_of[arrow.source], number_of[arrow.target]) for arrow in imports)
    pairs = Counter({pair: number for pair, number in pairs.items() if pair[0] != pair[1]})
    height = place(boxes, pairs) + HEADING
    figure = pyplot.figure(figsize=(WIDTH, height))
    ax = figure.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, WIDTH), ylim=(0, height))
    ax.axis("off")
    for column in filter(None, SHARES):
        draw_walls(ax, column, [box for box in boxes if box.column == column])
    draw_arrows(ax, boxes, pairs)
    for box in boxes:
        draw_box(ax, box)
    draw_heading(ax, height, len(number_of), len(imports))
    figure.savefig(PICTURE, dpi=150)
    Image.open(PICTURE).convert("RGB").quantize(128).save(PICTURE, optimize=True)
    print(PICTURE)


if __name__ == "__main__":
    main()
