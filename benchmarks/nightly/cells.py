"""Printed tables as cells, and which of them moved beyond their noise.

Read are tables drawn with box characters, columns of text without them, and the lines between, whose numbers
are cells as well; and records of JSON lines. A row is known by as many of its first cells as tell the stored
rows apart. A fresh number has moved if it differs from the stored one by more than

- dB: 0.3, and 1.5 where it is the worst of several blocks;
- "a / b", "a of b" and percentages: two binomial standard deviations. A percentage is of as many as the
  largest "b" of its row, ten a block at most, or of the blocks where there is none: points fail together;
- counts: two standard deviations of Poisson;
- "a ± b": two of the stored "b";
- shares of points, bits and their mean probability in tables of probabilities: as percentages, of the points
  or bits of the row; calibration errors (ECE): 0.01;
- rates of wrong symbols, bits and words: 20 %, and 2e-4;
- p-values and times: a factor of ten, and of three; times are listed apart, as they are another machine's;
- everything else: 5 %, and 1e-6.

A number never moves by the rounding of its last digit. Fewer blocks than the stored ones are others on
average: to dB come 2, to what is relative 100 %, both over the root of their number; the rest is wider by the
root of the ratio, counts are scaled by it, the worst of fewer blocks only moves where it is worse, and what
cells say in words is not compared. Seeds and blocks themselves are what was asked for and do not move.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

MEDIAN_DB, WORST_DB = 0.3, 1.5
DEVIATIONS = 2.0
RELATIVE, ABSOLUTE = 0.05, 1e-6
RATE_RELATIVE, RATE_ABSOLUTE = 0.2, 2e-4
CALIBRATION = 0.01
#: Standard deviation of one block's figures around those of many.
BLOCK_DB, BLOCK_RELATIVE = 1.0, 0.5
P_FACTOR, TIME_FACTOR = 10.0, 3.0
#: Blocks behind a percentage of which nothing is said, and cases of one block that count as independent.
USUAL_BLOCKS, MOST_A_BLOCK = 20, 10
MOST_KEYS = 5

NUMBER = re.compile(r"(?<![\w.])[-+]?\d+(?:,\d{3})*(?:\.\d+)?(?:e[-+]?\d+)?(?!\w)")
SHARE = re.compile(r"(\d+) (?:/|of) (\d+)")
_FIELD = re.compile(r"[^\s|]+(?: [^\s|]+)*")
_DECIMALS = re.compile(r"\d+\.\d+")
_NUMERIC = re.compile(r"(?:[-+]?[\d.,]+(?:e[-+]?\d+)?|nan|[\s()/±%-])+")
_RUN = re.compile(r"\bseeds?\b \[?\d[\d, -]*\]?|\bseeds from \d+|\d+ blocks (?=a )|\d+ runs of")
_BLOCKS = re.compile(r"seeds? (\d+)-(\d+)|(\d+) blocks a |(\d+) runs of")
_TIME = re.compile(
    r"(^|\s)(s|ms|ns|us)(\s|$)|seconds|\btimes (as|ours|faster)|time over|CPU|\brate\b|\bratio\b|[Ff]lop/s"
)
_DB = re.compile(r"dB|gap|^(median|worst)( |$)|^- ")
_WORST = re.compile(r"worst|behind|^max")
_LEAST = re.compile(r"worst gain|^min|least|lowest")
_SHARED = re.compile(r"^(mean|real|share real|share of ones)$")
_OF = ("n", "points", "bits")
_ECE = re.compile(r"ECE|calibration error")
_RATE = re.compile(r"\b(SER|BER)\b|errors|genie's")

#: A cell's place: title of its table, its row, its column.
Place = tuple[str, str, str]


@dataclass
class Table:
    """Heads and rows of a printed table, and the blocks behind a row."""

    title: str
    heads: list[str]
    rows: list[list[str]] = field(default_factory=list)
    blocks: int = 0


@dataclass
class Difference:
    """What a fresh run says beside a stored one: cells in both, those that moved, what is in one alone."""

    cells: int = 0
    moved: list[tuple[Place, str, str]] = field(default_factory=list)
    times: list[tuple[Place, str, str]] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    appeared: list[str] = field(default_factory=list)


# ---- reading -------------------------------------------------------------------------------------------


def read(text: str) -> list[Table]:
    """Tables of a printed text with titles that are told apart; the lines between them are the last one."""
    said = Table("text", ["line", "numbers"])
    tables: list[Table] = []
    lines, blocks = text.splitlines(), blocks_of(text)
    before, place, columns = "", 0, None
    while place < len(lines):
        line = lines[place]
        if line.startswith("┏"):
            place = _read_box(lines, place, tables)
            tables[-1].title = _DECIMALS.sub("#", without_run(before))
            tables[-1].blocks = blocks_of(before) or blocks
            if not _DECIMALS.search(before):
                _take_back(said, before)
        elif _is_row(line):
            if columns is None or len(_FIELD.findall(line)) != len(columns.heads):
                _take_back(said, before)
                columns = _columns_below(before, line)
                columns.blocks = blocks
                tables.append(columns)
            columns.rows.append(_FIELD.findall(line))
            place += 1
        else:
            place += 1
            if line.strip():
                said.rows.append(_sentence(line))
                before = line
            else:
                columns = None
    said.blocks = blocks
    found = [*tables, *([said] if said.rows else [])]
    for table, title in zip(found, _told_apart([t.title for t in found])):
        table.title, table.heads = title, _told_apart(table.heads)
    return found


def read_records(text: str, keys: Sequence[str]) -> list[Table]:
    """Records of JSON lines as a table: the keys tell them apart, numbers and words are the cells."""
    records = [json.loads(line) for line in text.splitlines()]
    heads = list(dict.fromkeys(name for record in records for name in record if name not in keys))
    rows = [
        [
            json.dumps([record[key] for key in keys]),
            *(_said_value(name, record.get(name, "")) for name in heads),
        ]
        for record in records
    ]
    return [Table("records", ["record", *(f"{name} dB" if name == "nmse" else name for name in heads)], rows)]


def _said_value(name: str, value: object) -> str:
    """A value of a record as a cell, an NMSE in dB."""
    if name == "nmse" and isinstance(value, float):
        return f"{10 * math.log10(value):.2f}" if value else "none"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def blocks_of(text: str) -> int:
    """How many blocks a text says that it is of; zero where it says nothing."""
    if found := _BLOCKS.search(text):
        first, last, *others = found.groups()
        return int(last) - int(first) + 1 if first else int(others[0] or others[1])
    return 0


def without_run(text: str) -> str:
    """A text without its seeds and blocks."""
    return " ".join(_RUN.sub("", text).split()).strip(" ,")


def _take_back(said: Table, line: str) -> str:
    """A line that turned out to be a title or a head is no text."""
    if said.rows and said.rows[-1] == _sentence(line):
        said.rows.pop()
    return line


def _sentence(line: str) -> list[str]:
    """A line of text as a row: what it says, and its numbers."""
    line = without_run(line)
    return [NUMBER.sub("#", line), line]


def _read_box(lines: Sequence[str], place: int, tables: list[Table]) -> int:
    """Read a table drawn with boxes; return the line after it."""
    table = Table("", [])
    tables.append(table)
    while place < len(lines) and not lines[place].startswith("└"):
        line = lines[place]
        cells = [cell.strip() for cell in re.split("[┃│]", line)[1:-1]]
        if line.startswith("┃"):
            table.heads = [" ".join(pair).strip() for pair in zip(table.heads or [""] * len(cells), cells)]
        elif line.startswith("│"):
            if table.rows and not cells[0]:  # as above
                cells[0] = table.rows[-1][0]
            table.rows.append(cells)
        place += 1
    return place + 1


def _is_row(line: str) -> bool:
    """Whether a line is a row of columns: a label and at least two cells, most of them numbers."""
    cells = _FIELD.findall(line)[1:]
    numeric = sum(bool(_NUMERIC.fullmatch(cell)) for cell in cells)
    return numeric >= 2 and numeric > len(cells) / 2


def _columns_below(head: str, line: str) -> Table:
    """A table without rows whose heads stand above the cells of a line."""
    heads = _FIELD.findall(head)
    cells = list(_FIELD.finditer(line))
    if len(heads) != len(cells):
        heads = [_head_above(head, a, b) for a, b in zip([None, *cells], cells)]
    return Table(heads[0], heads)


def _head_above(head: str, last: re.Match[str] | None, cell: re.Match[str]) -> str:
    """The words of a head that stand above a cell: columns are aligned at the right, labels at the left."""
    if last is None:
        return next(iter(_FIELD.findall(head)), "")
    words = _FIELD.findall(head[last.end() : cell.end()])
    return words[-1] if words else ""


def _told_apart(names: Sequence[str]) -> list[str]:
    """Names of which repeated ones are numbered."""
    counts: dict[str, int] = {}
    told = []
    for name in names:
        counts[name] = counts.get(name, 0) + 1
        told.append(name if counts[name] == 1 else f"{name} ({counts[name]})")
    return told


# ---- comparing -----------------------------------------------------------------------------------------


def differences(
    stored: Sequence[Table], fresh: Sequence[Table], times: str = "", db: str = "", part: bool = False
) -> Difference:
    """Compare tables cell by cell.

    ``times`` and ``db`` are expressions for heads of further columns with times and with dB; of a ``part``
    only the rows that are there are compared.
    """
    outcome = Difference()
    known = {table.title: table for table in fresh}
    for table in stored:
        if other := known.pop(table.title, None):
            _compare(table, other, outcome, times, db)
        else:
            outcome.gone.append(f"table {table.title}")
    outcome.appeared += [f"table {title}" for title in known]
    if part:
        outcome.gone.clear()
    return outcome


def _compare(stored: Table, fresh: Table, outcome: Difference, times: str, db: str) -> None:
    """Compare one table."""
    keys = number_of_keys(stored.rows)
    old, new = rows_of(stored, keys), rows_of(fresh, keys)
    columns = [head for head in stored.heads[keys:] if head in fresh.heads]
    is_said = stored.title == "text"
    for row, cells in old.items():
        if row not in new:
            outcome.gone.append(f"{stored.title}: row {row}")
            continue
        whole = 0 if is_said else _whole(new[row])  # sentences tell several
        scale = Scale(stored.blocks, fresh.blocks, whole)
        for head in columns:
            place, name = (stored.title, row, head), row if is_said else head
            if head not in cells or head not in new[row]:
                continue
            is_time = bool(_TIME.search(name) or (times and re.search(times, name)))
            outcome.cells += 1
            if has_moved(cells[head], new[row][head], name, scale, is_time, db):
                apart = outcome.times if is_time else outcome.moved
                apart.append((place, cells[head], new[row][head]))
    outcome.appeared += [f"{stored.title}: row {row}" for row in new if row not in old]
    outcome.gone += [f"{stored.title}: column {h}" for h in stored.heads if h not in fresh.heads]
    outcome.appeared += [f"{stored.title}: column {h}" for h in fresh.heads if h not in stored.heads]


def _whole(cells: Mapping[str, str]) -> int:
    """Of how many the percentages of a row are, where it says so."""
    wholes = [int(b) for cell in cells.values() for _, b in SHARE.findall(cell)]
    return max([*wholes, *(int(cells[name]) for name in _OF if cells.get(name, "").isdigit())], default=0)


def number_of_keys(rows: Sequence[Sequence[str]]) -> int:
    """How many first cells tell rows apart; one where none of a few do."""
    most = min((len(row) for row in rows), default=1)
    for keys in range(1, min(MOST_KEYS, most - 1) + 1):
        if len({tuple(row[:keys]) for row in rows}) == len(rows):
            return keys
    return 1


def rows_of(table: Table, keys: int) -> dict[str, dict[str, str]]:
    """Cells by row and head."""
    names = _told_apart([", ".join(cell for cell in row[:keys] if cell) for row in table.rows])
    return {name: dict(zip(table.heads[keys:], row[keys:])) for name, row in zip(names, table.rows)}


@dataclass(frozen=True)
class Scale:
    """Blocks behind a stored and a fresh row, and of how many the latter's percentages are."""

    stored: int = 0
    fresh: int = 0
    whole: int = 0

    @property
    def ratio(self) -> float:
        """Stored blocks over fresh ones, where these are fewer."""
        return max(self.stored / self.fresh, 1.0) if self.stored and self.fresh else 1.0

    @property
    def sampling(self) -> float:
        """How many deviations of a single block the mean of fewer ones may be off; zero for as many."""
        return DEVIATIONS / math.sqrt(self.fresh) if self.ratio > 1.0 else 0.0

    @property
    def of(self) -> int:
        """What a percentage is of."""
        blocks = self.fresh or USUAL_BLOCKS
        return min(self.whole, MOST_A_BLOCK * blocks) if self.whole else blocks


def has_moved(old: str, new: str, head: str, scale: Scale, is_time: bool = False, db: str = "") -> bool:
    """Whether a cell differs by more than its noise, or says something else."""
    if old == new:
        return False
    if _words(old) != _words(new):
        return not is_time and scale.ratio == 1.0
    if is_time:
        return any(not _alike(a, b, TIME_FACTOR) for a, b in zip(_numbers(old), _numbers(new)))
    if any(_share_moved(a, b, scale) for a, b in zip(SHARE.findall(old), SHARE.findall(new))):
        return True
    return any(_number_moved(a, b, scale) for a, b in zip(_said_of(old, head, db), _said_of(new, head, db)))


@dataclass(frozen=True)
class _Number:
    """A number of a cell, and what cell and head say of it."""

    text: str
    head: str
    is_percent: bool
    is_db: bool
    spread: float | None

    @property
    def value(self) -> float:
        return float(self.text.replace(",", ""))

    @property
    def rounding(self) -> float:
        """One of the last digit that is printed."""
        mantissa, _, exponent = self.text.partition("e")
        return float(10.0 ** (int(exponent or 0) - len(mantissa.partition(".")[2])))

    @property
    def is_count(self) -> bool:
        return not re.search(r"[.e]", self.text) and not (self.is_db and self.value < 0)


def _said_of(cell: str, head: str, db: str) -> list[_Number]:
    """Numbers of a cell but parts of a whole and deviations; heads such as "a (b, c)" name each."""
    found, whole = list(NUMBER.finditer(cell)), [range(*share.span()) for share in SHARE.finditer(cell)]
    names = [name.strip() for name in re.split(r"[(),;]", head) if name.strip()]
    if len(names) != len(found):
        names = [head] * len(found)
    is_text, is_db = "#" in head, bool(_DB.search(head) or (db and re.search(db, head)))
    numbers = []
    for name, number in zip(names, found):
        before, after = cell[: number.start()], cell[number.end() :]
        if before.endswith("± ") or any(number.start() in share for share in whole):
            continue
        spread = re.match(r" ± ([\d.e-]+)", after)
        is_percent = after.lstrip().startswith("%") or ("%" in name and not is_text)
        numbers.append(_Number(number.group(), name, is_percent, is_db, float(spread[1]) if spread else None))
    return numbers


def _number_moved(old: _Number, new: _Number, scale: Scale) -> bool:
    """Whether a number moved."""
    is_least = bool(_LEAST.search(old.head))
    is_worst = is_least or bool(_WORST.search(old.head))
    if is_worst and scale.ratio > 1.0 and (new.value < old.value) != is_least:
        return False
    if old.head.endswith("lowest p"):
        return max(old.value, new.value) > ABSOLUTE and not _alike(old.text, new.text, P_FACTOR)
    expected = old.value / scale.ratio if old.is_count and not old.is_percent else old.value
    rounding = 1.01 * max(old.rounding, new.rounding)
    return not abs(new.value - expected) <= max(_noise(old, expected, is_worst, scale), rounding)


def _noise(number: _Number, expected: float, is_worst: bool, scale: Scale) -> float:
    """How far a number may be from what is expected of it."""
    wider = math.sqrt(scale.ratio)
    if number.is_percent and 0 <= expected <= 100:
        return 100 * DEVIATIONS * _deviation(expected / 100, scale.of)
    if number.is_count:
        return DEVIATIONS * math.sqrt(max(abs(expected), 1.0)) * wider
    if number.spread is not None:
        return DEVIATIONS * number.spread * wider
    if number.is_db:
        return WORST_DB if is_worst else MEDIAN_DB + scale.sampling * BLOCK_DB
    if _SHARED.search(number.head) and 0 <= expected <= 1:
        return DEVIATIONS * _deviation(expected, scale.of)
    if _ECE.search(number.head):
        return CALIBRATION * wider
    further = scale.sampling * BLOCK_RELATIVE
    if _RATE.search(number.head):
        return (RATE_RELATIVE + further) * abs(expected) + RATE_ABSOLUTE * wider
    return (RELATIVE + further) * abs(expected) + ABSOLUTE * wider


def _share_moved(old: tuple[str, str], new: tuple[str, str], scale: Scale) -> bool:
    """Whether a part of a whole moved, or the whole."""
    (a, b), (c, d) = (tuple(map(int, share)) for share in (old, new))
    expected = b / scale.ratio
    if abs(d - expected) > max(DEVIATIONS * math.sqrt(expected), 1.0) or not b or not d:
        return b != d
    return abs(a / b - c / d) > max(DEVIATIONS * _deviation(a / b, d), 1.01 / d)


def _deviation(share: float, of: float) -> float:
    """Binomial standard deviation; none and all leave one case in doubt."""
    share = (share * of + 1) / (of + 2)
    return math.sqrt(share * (1 - share) / of)


def _alike(old: str, new: str, factor: float) -> bool:
    """Whether two positive numbers are within a factor, rounding aside."""
    a, b = (_Number(text, "", False, False, None) for text in (old, new))
    low, high = sorted((abs(a.value), abs(b.value)))
    return high <= factor * low + 2 * max(a.rounding, b.rounding)


def _words(cell: str) -> str:
    """A cell with its numbers left out."""
    return " ".join(NUMBER.sub("#", cell).split())


def _numbers(cell: str) -> list[str]:
    return NUMBER.findall(cell)
