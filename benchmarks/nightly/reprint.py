"""Do the stored tables still say what the code does? Prints them anew and compares them cell by cell.

``python benchmarks/nightly/reprint.py [--minutes 60] [--jobs 1] [--blocks N] [--whole] [PART OF A PATH ...]``

Every ``.txt`` below ``benchmarks`` has its command in ``JOBS``. Tables run one after the other, in a copy of
``benchmarks`` so that nothing stored is touched: first those never compared, then those whose comparison is
oldest. One that fails is said with its error, one whose packages, data or commits are missing with what is
missing. A table that takes hours runs for some of its rows only (``--whole``: all of it), or its finished
trials are compared with the stored ones of the same seeds; what of it ran stands in its row. ``--blocks 5``
takes a quarter of the time of 20 and sees less.

Every outcome is a line of ``reprint.jsonl`` as soon as it is known. ``reprint.txt`` has the last one of each
table that is still stored as it was then: cells compared, cells that moved beyond their noise, and below
which. ``cells.py`` says what noise is.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from cells import Difference, differences, read, read_records
from tables import write_all

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = ROOT / "benchmarks"
RECORDS, TABLE = (Path(__file__).with_suffix(end) for end in (".jsonl", ".txt"))
#: What scripts reach for beside their own folder.
BESIDE = ("isac_toolbox", "scenarios", "figures", "tests")


@dataclass(frozen=True)
class Job:
    """How a table is printed: options of the script of the same name for the stored table.

    ``share`` are options that print some of its rows, which are compared one by one. With ``records`` the
    script's JSON lines are compared instead of the table, by those fields. ``blocks`` is the option for
    the number of blocks. ``times`` and ``db`` are expressions for heads whose words do not tell. ``make``
    names the target that writes a table which is no measurement of the code and is not printed anew here.
    """

    options: str = ""
    share: str = ""
    said: str = "whole"
    records: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    commit: str = ""
    blocks: str = ""
    times: str = ""
    db: str = ""
    make: str = ""


_JOBS, _SEEDS = "--jobs {jobs}", "--seeds"
_STORED = "printed from its records, which are not made again"

#: Of every stored table, by its path without ``.txt``.
JOBS = {
    "accuracy/traced_cities": Job(_JOBS),
    "accuracy/squint": Job(f"--seeds 3 {_JOBS}", blocks=_SEEDS),
    "accuracy/ambiguous": Job(_JOBS, blocks=_SEEDS),
    "accuracy/imperfect_array": Job(blocks=_SEEDS),
    "accuracy/calibration": Job(_JOBS, blocks=_SEEDS),
    # estimates that ignore the coupling are stopped after some seconds: how far they get is the machine's
    "accuracy/coupled_array": Job("--seeds 10", blocks=_SEEDS, times="^ignored$", db="^(known|bound|above)$"),
    "accuracy/hard_uplinks": Job(_JOBS, blocks=_SEEDS),
    "accuracy/many_users": Job(_JOBS, blocks=_SEEDS),
    "accuracy/interfered": Job(blocks=_SEEDS, db="^NOMP$"),
    "accuracy/low_resolution": Job(blocks=_SEEDS, db="^(EM|NOMP|LS|behind)$"),
    "accuracy/coarse_stages": Job(_JOBS, blocks=_SEEDS),
    "accuracy/data_aid": Job(_JOBS, blocks=_SEEDS),
    "accuracy/main_case": Job(_JOBS, blocks=_SEEDS),
    "accuracy/misfit": Job(_JOBS, blocks=_SEEDS),
    "accuracy/any_channel": Job(_JOBS, blocks=_SEEDS, times="^time$"),
    "accuracy/any_channel_cdl": Job(_JOBS, blocks=_SEEDS),
    "accuracy/tracking": Job(blocks="--runs"),
    "accuracy/regimes": Job(_JOBS, blocks=_SEEDS),
    "accuracy/moving": Job(blocks=_SEEDS),
    "accuracy/self_calibration": Job(blocks=_SEEDS),
    "accuracy/any_channel_38901": Job(f"--seeds 8 {_JOBS}", blocks=_SEEDS, needs=("sionna",), times="^time$"),
    "accuracy/moving_38901": Job(
        f"--seeds 3 {_JOBS}", blocks=_SEEDS, needs=("sionna",), times=r"^at rest \(3\)$"
    ),
    "accuracy/ablation": Job(
        _JOBS, f"--scenarios traced_street_canyon {_JOBS}", "one of two cities, all its rows"
    ),
    "accuracy/coded_ber": Job(f"--seeds 10 {_JOBS}", blocks=_SEEDS, needs=("commpy",)),
    "accuracy/measured_csi": Job("{csi}", needs=("csiread", "csi"), db="^(nothing|ideal|elements|mean)$"),
    "link_level/chest": Job(
        "--store chest.jsonl --drops 12 --speeds 0 30",
        "--store chest.jsonl --drops 1 --ebno 0 --methods LS NOMP EM",
        "first drop of LS, NOMP and EM at 0 dB and rest, drop by drop",
        records=("case", "ebno_db", "drop", "method"),
        needs=("sionna",),
    ),
    "nn/fuzz_export": Job(needs=("torch",)),
    "nn/regression": Job(needs=("torch", "sklearn")),
    "nn/hardware": Job(needs=("torch", "sklearn", "onnxruntime"), times="dense|small|blocks|onnx"),
    "nn/your_own_model": Job(needs=("torch", "sklearn", "transformers")),
    "nn/engine_cost": Job(needs=("torch",), times="step|trace|update|connected|macs"),
    "nn/any_network": Job(
        "--seeds 11,21,31",
        "--seeds 11 --networks mlp,lenet-5,gru,regression",
        "first seed of the four smallest networks, run by run",
        records=("network", "state", "seed"),
        needs=("torch", "sklearn"),
    ),
    "nn/compression": Job("--table", said=_STORED, needs=("torch",)),
    "nn/ssvi": Job("--table", said=_STORED, needs=("torch",)),
    "speed/import_time": Job(),
    "speed/misfit": Job(),
    "speed/scaling": Job(),
    "speed/music_kernel": Job(needs=("pyroomacoustics",), times="of matrix products"),
    "speed/stages": Job("--baseline {tree}", commit="06fec92"),
    "speed/ratios": Job("--baseline {tree} --commit bea40ac", commit="bea40ac", times="^$|ms$"),
    "nightly/nightly": Job(make="nightly"),
    "nightly/fuzz": Job(make="fuzz"),
    "nightly/mutation": Job(make="mutation"),
    "nightly/mutation_left": Job(make="mutation"),
    "nightly/covered_lines": Job(make="coverage"),
    "nightly/reprint": Job(make="reprint"),
}


# ---- one table -----------------------------------------------------------------------------------------


def stored(name: str) -> Path:
    """The stored file of a table."""
    return BENCHMARKS / f"{name}.txt"


def lacking(job: Job, csi: Path | None) -> str:
    """What a table needs and is not here, in words; empty if nothing is missing."""
    missing = [f"package {need}" for need in job.needs if need != "csi" and find_spec(need) is None]
    if "csi" in job.needs and csi is None:
        missing.append("logs of an Intel 5300 (--csi FOLDER)")
    if job.commit and _git("cat-file", "-e", job.commit).returncode:
        missing.append(f"commit {job.commit}")
    return ", ".join(missing)


def reprint(name: str, given: argparse.Namespace, seconds: float) -> dict[str, Any]:
    """Print a table anew and compare it; the outcome as a record."""
    job, began = JOBS[name], time.monotonic()
    options, ran = how(job, given)
    entry: dict[str, Any] = {
        "table": name,
        "when": datetime.now(UTC).strftime("%Y-%m-%d %H:%M"),
        "commit": _git("rev-parse", "--short", "HEAD").stdout.strip(),
        "stored": fingerprint(name),
        "ran": ran,
    }
    if missing := lacking(job, given.csi):
        return entry | {"needs": missing}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        copy_to(place)
        is_part = bool(job.share) and options == job.share
        tree = _tree(job.commit, place) if job.commit else ""
        options = options.format(jobs=given.jobs, csi=given.csi, tree=tree)
        printed, error = run(place, name, options, seconds, fresh=bool(job.records))
        entry["minutes"] = round((time.monotonic() - began) / 60, 1)
        if given.keep:
            given.keep.mkdir(parents=True, exist_ok=True)
            (given.keep / f"{name.replace('/', '-')}.txt").write_text(printed, encoding="utf-8")
        return entry | ({"failed": error} if error else compare(name, printed, place, is_part))


def how(job: Job, given: argparse.Namespace) -> tuple[str, str]:
    """Options of a script, and in words what of its table runs."""
    if job.share and not given.whole:
        return job.share, job.said
    if job.blocks and given.blocks:
        return f"{job.options} {job.blocks} {given.blocks}", f"{given.blocks} blocks a row"
    return job.options, "whole" if job.share else job.said


def copy_to(place: Path) -> None:
    """Copy ``benchmarks`` to a place, beside links to what scripts reach for."""
    shutil.copytree(BENCHMARKS, place / "benchmarks", ignore=shutil.ignore_patterns("__pycache__"))
    for beside in BESIDE:
        (place / beside).symlink_to(ROOT / beside)


def run(place: Path, name: str, options: str, seconds: float, fresh: bool = False) -> tuple[str, str]:
    """Run a table's script in a place; what it prints, and its error.

    A ``fresh`` one finds no records of earlier runs.
    """
    script = place / "benchmarks" / f"{name}.py"
    if fresh:
        script.with_suffix(".jsonl").unlink(missing_ok=True)
    command = [sys.executable, script.name, *shlex.split(options)]
    one_thread = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL")}
    with (place / "printed").open("w+") as printed, (place / "errors").open("w+") as errors:
        child = subprocess.Popen(
            command,
            cwd=script.parent,
            stdout=printed,
            stderr=errors,
            start_new_session=True,
            env=os.environ | one_thread | {"PYTHONPATH": str(ROOT)},
        )
        try:
            code = child.wait(max(seconds, 1.0))
            error = "" if code == 0 else f"exit code {code}: {_last_line(place / 'errors')}"
        except subprocess.TimeoutExpired:
            error = f"stopped after {seconds / 60:.0f} minutes"
        finally:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
    return (place / "printed").read_text(encoding="utf-8"), error


def _last_line(path: Path) -> str:
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "no word")


def compare(name: str, printed: str, place: Path, part: bool) -> dict[str, Any]:
    """Fresh table or records beside the stored ones, as part of an outcome."""
    job = JOBS[name]
    if job.records:
        old = read_records(stored(name).with_suffix(".jsonl").read_text(encoding="utf-8"), job.records)
        new = read_records((place / "benchmarks" / f"{name}.jsonl").read_text(encoding="utf-8"), job.records)
    else:
        old, new = read(stored(name).read_text(encoding="utf-8")), read(printed)
    found: Difference = differences(old, new, job.times, job.db, part)
    if not found.cells:
        return {"failed": "no cell in common with the stored table"}
    return {
        "cells": found.cells,
        "moved": [[*place, a, b] for place, a, b in found.moved],
        "times": [[*place, a, b] for place, a, b in found.times],
        "gone": found.gone,
        "appeared": found.appeared,
    }


def fingerprint(name: str) -> str:
    """What tells a stored table from an earlier one."""
    return f"{zlib.crc32(stored(name).read_bytes()):08x}"


def _tree(commit: str, place: Path) -> Path:
    """The tree of a commit in a folder."""
    folder = place / "baseline"
    folder.mkdir()
    archive = subprocess.run(["git", "archive", commit], cwd=ROOT, check=True, capture_output=True)
    subprocess.run(["tar", "-x", "-C", folder], input=archive.stdout, check=True)
    return folder


def _git(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)


# ---- which, and what came of it ------------------------------------------------------------------------


def last_outcomes() -> dict[str, dict[str, Any]]:
    """Of every table the last outcome with the table that is stored now."""
    lines = RECORDS.read_text(encoding="utf-8").splitlines() if RECORDS.exists() else []
    found = {}
    for entry in map(json.loads, lines):
        if stored(entry["table"]).exists() and entry["stored"] == fingerprint(entry["table"]):
            found[entry["table"]] = entry
    return found


def in_turn(parts: Sequence[str]) -> list[str]:
    """Tables whose paths hold one of some parts: those never compared, then the oldest comparison first."""
    known = last_outcomes()
    names = [name for name, job in JOBS.items() if not job.make]
    chosen = [name for name in names if not parts or any(part in f"{name}.txt" for part in parts)]
    return sorted(chosen, key=lambda name: known[name]["when"] if name in known else "")


def write_report() -> None:
    """Tables that were compared, cells that moved, times of another order, what did not run."""
    outcomes = [entry for name, entry in last_outcomes().items() if name in JOBS]
    outcomes.sort(key=lambda entry: list(JOBS).index(entry["table"]))
    compared = [entry for entry in outcomes if "cells" in entry]
    heads = ("table", "when", "commit", "what ran", "minutes", "cells", "moved", "rows gone or new", "times")
    rows = [
        (
            *(entry[name] for name in ("table", "when", "commit", "ran", "minutes", "cells")),
            len(entry["moved"]),
            len(entry["gone"]) + len(entry["appeared"]),
            len(entry["times"]),
        )
        for entry in compared
    ]
    parts: list[tuple[str, Sequence[str], Sequence[Sequence[object]]]] = [
        ("Stored tables printed anew", heads, rows),
        ("Cells that moved beyond their noise", ("cell", "stored", "now"), _cells(compared, "moved")),
        ("Rows and columns of one of the two", ("table", "which", "is"), _one_sided(compared)),
        (
            "Times that differ by more than a factor of three",
            ("cell", "stored", "now"),
            _cells(compared, "times"),
        ),
        ("Not compared", ("table", "when", "why"), _left(outcomes)),
    ]
    write_all(TABLE, [part for part in parts if part[2]], width=400)


def _cells(outcomes: Sequence[dict[str, Any]], kind: str) -> list[tuple[str, str, str]]:
    return [
        (": ".join((entry["table"], *(p for p in place if p != "numbers"))), old, new)
        for entry in outcomes
        for *place, old, new in entry[kind]
    ]


def _one_sided(outcomes: Sequence[dict[str, Any]]) -> list[tuple[str, str, str]]:
    return [
        (entry["table"], which, word)
        for entry in outcomes
        for kind, word in (("gone", "stored alone"), ("appeared", "new"))
        for which in entry[kind]
    ]


def _left(outcomes: Sequence[dict[str, Any]]) -> list[tuple[str, str, str]]:
    left = {entry["table"]: entry for entry in outcomes if "cells" not in entry}
    rows = [
        (name, e["when"], f"needs {e['needs']}" if "needs" in e else e["failed"]) for name, e in left.items()
    ]
    known = {entry["table"] for entry in outcomes}
    return rows + [(name, "", "not yet") for name, job in JOBS.items() if name not in known and not job.make]


def said(entry: dict[str, Any]) -> str:
    """An outcome in a line."""
    if "cells" not in entry:
        return f"{entry['table']}: {'needs ' + entry['needs'] if 'needs' in entry else entry['failed']}"
    one_sided = len(entry["gone"]) + len(entry["appeared"])
    return (
        f"{entry['table']}: {entry['cells']} cells, {len(entry['moved'])} moved, {one_sided} rows or columns "
        f"gone or new, {len(entry['times'])} times, {entry['minutes']} minutes"
    )


def main() -> None:
    """Print tables anew for so many minutes, keep every outcome, write the report."""
    parser = argparse.ArgumentParser(description="Stored tables beside fresh ones.")
    parser.add_argument("only", nargs="*", help="parts of paths of the tables that are printed anew")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--jobs", type=int, default=1, help="processes of a script that takes several")
    parser.add_argument(
        "--blocks", type=int, help="so many blocks a row, where a script can be asked for them"
    )
    parser.add_argument("--whole", action="store_true", help="all of a table, where a share would do")
    parser.add_argument("--csi", type=Path, help="folder with logs of an Intel 5300")
    parser.add_argument("--keep", type=Path, help="folder for what the scripts print")
    given = parser.parse_args()
    end = time.monotonic() + 60 * given.minutes
    known = last_outcomes()
    for name in in_turn(given.only):
        left = end - time.monotonic()
        if left <= 0:
            break
        if 60 * known.get(name, {}).get("minutes", 0.0) > left:
            continue  # it took longer the last time
        entry = reprint(name, given, left)
        with RECORDS.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry, ensure_ascii=False) + "\n")
        print(said(entry), flush=True)
        write_report()
    print(f"The table is in {TABLE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
