"""Stored tables beside fresh ones: every one has a command, and a cell that moved is found."""

from __future__ import annotations

import json
import shlex
import sys
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers import ROOT
from helpers.examples import examples

sys.path.insert(0, str(ROOT / "benchmarks" / "nightly"))
import cells
import reprint
import tables

STORED = sorted((ROOT / "benchmarks").rglob("*.txt"))
NAMES = [path.relative_to(ROOT / "benchmarks").with_suffix("").as_posix() for path in STORED]


def texts():
    return {name: path.read_text(encoding="utf-8") for name, path in zip(NAMES, STORED)}


def moved(old, new, head="NMSE dB", stored=20, fresh=20, whole=0, **more):
    return cells.has_moved(old, new, head, cells.Scale(stored, fresh, whole), **more)


# --- commands ----------------------------------------------------------------------------------------


def test_every_stored_table_has_a_command_and_every_command_a_table():
    assert set(reprint.JOBS) == set(NAMES)


@pytest.mark.parametrize("name", [name for name, job in reprint.JOBS.items() if not job.make])
def test_commands_are_of_scripts_that_know_their_options(name):
    folder = ROOT / "benchmarks" / name.rpartition("/")[0]
    known = (ROOT / "benchmarks" / f"{name}.py").read_text(encoding="utf-8")
    if "from runs import" in known:
        known += (folder / "runs.py").read_text(encoding="utf-8")
    job = reprint.JOBS[name]
    for word in (*shlex.split(job.options), *shlex.split(job.share), job.blocks):
        assert not word.startswith("--") or f'"{word}"' in known, word


def test_commands_that_leave_a_table_to_another_target_name_one():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for name, job in reprint.JOBS.items():
        assert not job.make or f"\n{job.make}:" in makefile, name


# --- reading -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_table_does_not_differ_from_itself(name):
    text = texts()[name]
    outcome = cells.differences(cells.read(text), cells.read(text))
    assert outcome.cells or name == "nightly/reprint"
    assert not (outcome.moved or outcome.times or outcome.gone or outcome.appeared)


def test_seeds_are_no_part_of_a_title_and_tell_the_blocks():
    box = "case, 10 dB, seeds 0-{}\n┏━━━┳━━━┓\n┃ a ┃ b ┃\n┡━━━╇━━━┩\n│ x │ 1 │\n└───┴───┘\n"
    many, few = (cells.read(box.format(last))[0] for last in (19, 4))
    assert many.title == few.title == "case, 10 dB" and (many.blocks, few.blocks) == (20, 5)


def test_columns_without_boxes_are_read_below_their_heads():
    text = texts()["accuracy/moving"]
    table = cells.read(text)[0]
    assert table.heads[:5] == ["cell", "median", "worst", "found %", "false %"] and table.blocks == 20
    assert table.rows[0][:3] == ["0 dB, 3 km/h, 0 Hz", "0.02", "1.73"]


label = st.text("abcdefgh", min_size=2, max_size=6)
value = st.floats(-99, 99).map(lambda x: f"{x:.2f}")


@st.composite
def printed(draw):
    """Rows of a table with labels that differ, and its heads."""
    labels = draw(st.lists(label, min_size=2, max_size=5, unique=True))
    heads = [f"head {i} dB" for i in range(draw(st.integers(2, 4)))]
    return heads, {name: [draw(value) for _ in heads] for name in labels}


def as_boxes(heads, rows, path):
    tables.write_all(path, [("t, seeds 0-9", ("case", *heads), [(k, *v) for k, v in rows.items()])])
    return path.read_text(encoding="utf-8")


def as_columns(heads, rows, path):
    del path
    lines = [f"{'case':<12}" + "".join(f"{head:>12}" for head in heads)]
    lines += [f"{name:<12}" + "".join(f"{cell:>12}" for cell in row) for name, row in rows.items()]
    return "a text before it, 10 blocks a row\n\n" + "\n".join(lines) + "\n"


@pytest.mark.parametrize("layout", [as_boxes, as_columns])
@examples(60)
@given(table=printed(), data=st.data())
def test_the_cell_that_changed_is_the_one_that_moved(tmp_path_factory, layout, table, data):
    heads, rows = table
    path = tmp_path_factory.mktemp("printed") / "table.txt"
    old = cells.read(layout(heads, rows, path))
    name, column = data.draw(st.sampled_from(sorted(rows))), data.draw(st.integers(0, len(heads) - 1))
    before = rows[name][column]
    after = f"{float(before) + data.draw(st.sampled_from([-0.5, 0.5, 40.0])):.2f}"
    changed = rows | {name: [*rows[name][:column], after, *rows[name][column + 1 :]]}
    outcome = cells.differences(old, cells.read(layout(heads, changed, path)))
    assert [(place[1:], a, b) for place, a, b in outcome.moved] == [((name, heads[column]), before, after)]
    assert not outcome.gone and not outcome.appeared


@pytest.mark.parametrize("layout", [as_boxes, as_columns])
@examples(40)
@given(table=printed(), data=st.data())
def test_a_row_of_another_name_is_gone_and_new(tmp_path_factory, layout, table, data):
    heads, rows = table
    path = tmp_path_factory.mktemp("printed") / "table.txt"
    name = data.draw(st.sampled_from(sorted(rows)))
    changed = {("z" + key if key == name else key): row for key, row in rows.items()}
    old, new = (cells.read(layout(heads, of, path)) for of in (rows, changed))
    outcome = cells.differences(old, new)
    assert [text.rpartition(" ")[2] for text in outcome.gone] == [name]
    assert [text.rpartition(" ")[2] for text in outcome.appeared] == ["z" + name]
    assert not outcome.moved
    assert not cells.differences(old, new, part=True).gone


def test_a_column_that_is_gone_is_said(tmp_path):
    rows = {"a longer label": ["1.0", "2.0"], "b": ["3.0", "4.0"]}
    old = cells.read(as_boxes(["x dB", "y dB"], rows, tmp_path / "t"))
    new = cells.read(as_boxes(["x dB"], {k: v[:1] for k, v in rows.items()}, tmp_path / "t"))
    outcome = cells.differences(old, new)
    assert outcome.gone == ["t: column y dB"] and not outcome.moved and outcome.cells == 2


def test_numbers_in_the_text_around_a_table_are_cells():
    old = "found 40 of 40, error 0.020\n"
    (move,) = cells.differences(cells.read(old), cells.read(old.replace("40 of 40", "20 of 40"))).moved
    assert "20 of 40" in move[2]


def test_records_are_compared_one_by_one():
    records = [{"drop": d, "method": "EM", "nmse": 0.001, "seconds": 1.0, "words": 4} for d in range(3)]
    old = "\n".join(map(json.dumps, records))
    records[1] = records[1] | {"nmse": 0.002, "seconds": 100.0}
    new = "\n".join(map(json.dumps, records[:2]))
    outcome = cells.differences(*(cells.read_records(t, ("drop", "method")) for t in (old, new)), part=True)
    assert [(place[1:], a, b) for place, a, b in outcome.moved] == [
        (('[1, "EM"]', "nmse dB"), "-30.00", "-26.99")
    ]
    assert [place[2] for place, _, _ in outcome.times] == ["seconds"] and not outcome.gone


# --- noise -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "head", "has"),
    [
        ("-47.50", "-47.25", "NMSE dB", False),
        ("-47.50", "-47.15", "NMSE dB", True),
        ("0.95", "2.3", "worst gap dB", False),
        ("0.95", "2.5", "worst gap dB", True),
        ("-57.5 (-57.4, -56.5)", "-57.5 (-57.4, -55.5)", "EM dB (expected, worst)", False),
        ("-57.5 (-57.4, -56.5)", "-57.5 (-57.0, -56.5)", "EM dB (expected, worst)", True),
        ("152 / 152", "151 / 152", "found / true", False),
        ("152 / 152", "146 / 152", "found / true", True),
        ("95.0 %", "90.0 %", "users in 95 %", False),
        ("95.0 %", "70.0 %", "users in 95 %", True),
        ("0", "2", "false", False),
        ("0", "3", "false", True),
        ("89.86 ± 0.21", "89.50 ± 0.30", "test accuracy", False),
        ("89.86 ± 0.21", "89.30 ± 0.21", "test accuracy", True),
        ("0.0670 (0.0689)", "0.0690 (0.0689)", "RMSE m (bound)", False),
        ("0.0670 (0.0689)", "0.0760 (0.0689)", "RMSE m (bound)", True),
        ("0.1", "0.2", "false per block", False),
        ("6.5e-05", "0", "SER", False),
        ("0.018", "0.03", "SER", True),
        ("3e-03", "8e-03", "lowest p", False),
        ("9e-03", "2e-05", "lowest p", True),
        ("1e-146", "3e-120", "lowest p", False),
        ("0.0097", "0.0150", "support ECE", False),
        ("0.0097", "0.0300", "support ECE", True),
        ("yes", "RMSE", "within", True),
        ("-", "0.1 (0.2)", "RMSE m (bound)", True),
        ("nan", "0.1", "spread", True),
    ],
)
def test_noise_is_what_the_head_says(old, new, head, has):
    assert moved(old, new, head) is has
    assert not moved(old, old, head)


def test_a_percentage_is_of_the_whole_that_its_row_tells():
    assert not moved("95.0 %", "91.0 %", "covered", whole=100)
    assert moved("95.0 %", "91.0 %", "covered", whole=1000, stored=100, fresh=100)
    assert not moved("95.0 %", "91.0 %", "covered", whole=1000, stored=10, fresh=10)


@examples(60)
@given(old=st.floats(-60, 60), step=st.floats(0, 3), fewer=st.integers(1, 20))
def test_fewer_blocks_never_make_more_cells_move(old, step, fewer):
    a, b = f"{old:.3f}", f"{old + step:.3f}"
    for head in ("NMSE dB", "RMSE m", "users in 95 %", "SER"):
        assert moved(a, b, head) or not moved(a, b, head, fresh=fewer)


def test_fewer_blocks_are_others_on_average():
    assert not moved("-47.5", "-46.5", "NMSE dB", fresh=5) and moved("-47.5", "-46.5", "NMSE dB", fresh=20)
    assert not moved("0.50", "0.64", "RMSE m", fresh=5) and moved("0.50", "0.64", "RMSE m", fresh=20)
    assert moved("-47.5", "-44.5", "NMSE dB", fresh=5) and moved("0.50", "0.80", "RMSE m", fresh=5)


def test_the_worst_of_fewer_blocks_moves_only_where_it_is_worse():
    assert not moved("5.0", "0.5", "worst gap dB", fresh=5) and moved("5.0", "0.5", "worst gap dB")
    assert moved("0.5", "5.0", "worst gap dB", fresh=5)
    assert not moved("0.5", "5.0", "worst gain dB", fresh=5) and moved("5.0", "0.5", "worst gain dB", fresh=5)


def test_words_of_fewer_blocks_are_not_compared():
    old, new = "delay 8, element 1", "delay 2"
    assert moved(old, new, "first") and not moved(old, new, "first", fresh=5)
    assert moved("2e-09", "6e-03", "lowest p") and not moved("2e-09", "6e-03", "lowest p", fresh=5)
    assert moved("6e-03", "2e-09", "lowest p", fresh=5)


def test_counts_of_fewer_blocks_are_scaled():
    assert not moved("152 / 152", "38 / 38", "found / true", fresh=5)
    assert not moved("40", "10", "waves", fresh=5)
    assert moved("40", "39", "waves", fresh=5)


def test_times_are_apart_and_loose():
    box = "t\n┏━━━┳━━━┓\n┃ a ┃ median s ┃\n┡━━━╇━━━┩\n│ x │ {} │\n└───┴───┘\n"
    old = cells.read(box.format("1.00"))
    assert not cells.differences(old, cells.read(box.format("2.90"))).times
    outcome = cells.differences(old, cells.read(box.format("9.00")))
    assert len(outcome.times) == 1 and not outcome.moved


# --- running -----------------------------------------------------------------------------------------


def script(place, text):
    (place / "benchmarks").mkdir()
    (place / "benchmarks" / "one.py").write_text(text, encoding="utf-8")


def test_a_script_prints_what_is_compared_and_finds_no_earlier_records(tmp_path):
    script(tmp_path, "import pathlib, sys; print(sys.argv[1:], pathlib.Path('one.jsonl').exists())")
    (tmp_path / "benchmarks" / "one.jsonl").write_text("{}")
    assert reprint.run(tmp_path, "one", "--seeds 3", 60.0) == ("['--seeds', '3'] True\n", "")
    assert reprint.run(tmp_path, "one", "", 60.0, fresh=True) == ("[] False\n", "")


def test_a_script_that_fails_is_said_with_its_error(tmp_path):
    script(tmp_path, "print('begun'); raise ValueError('no such block')")
    assert reprint.run(tmp_path, "one", "", 60.0) == ("begun\n", "exit code 1: ValueError: no such block")


def test_a_script_that_takes_too_long_is_stopped(tmp_path):
    script(tmp_path, "import time; time.sleep(600)")
    assert reprint.run(tmp_path, "one", "", 0.5)[1].startswith("stopped after")


def test_nothing_stored_is_where_scripts_run(tmp_path):
    reprint.copy_to(tmp_path)
    copy = tmp_path / "benchmarks" / "nightly" / "reprint.py"
    assert copy.is_file() and not copy.samefile(reprint.__file__)


def test_what_is_missing_is_said():
    job = reprint.Job(needs=("no_such_package", "csi"), commit="0" * 40)
    assert reprint.lacking(job, None) == (
        f"package no_such_package, logs of an Intel 5300 (--csi FOLDER), commit {'0' * 40}"
    )
    assert not reprint.lacking(reprint.Job(), None)


def test_a_share_runs_unless_the_whole_is_asked_for():
    job = reprint.Job("--all", "--some", "some rows", blocks="--seeds")
    assert reprint.how(job, SimpleNamespace(whole=False, blocks=None)) == ("--some", "some rows")
    assert reprint.how(job, SimpleNamespace(whole=True, blocks=5)) == ("--all --seeds 5", "5 blocks a row")


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """Outcomes of earlier runs: one compared long ago, one that failed, one of a table stored since anew."""
    names = [name for name, job in reprint.JOBS.items() if not job.make][:3]
    entries = [{"table": name, "stored": reprint.fingerprint(name), "ran": "whole"} for name in names]
    entries[0] |= {"when": "2026-02-01 00:00", "commit": "abc", "minutes": 1.0, "cells": 7, "gone": ["row x"]}
    entries[0] |= {"moved": [["title", "row", "head", "1.0", "2.0"]], "times": [], "appeared": []}
    entries[1] |= {"when": "2026-01-01 00:00", "failed": "exit code 1: ValueError"}
    entries[2] |= {"when": "2026-03-01 00:00", "failed": "stopped", "stored": "another"}
    monkeypatch.setattr(reprint, "RECORDS", tmp_path / "reprint.jsonl")
    monkeypatch.setattr(reprint, "TABLE", tmp_path / "reprint.txt")
    reprint.RECORDS.write_text("".join(json.dumps(entry) + "\n" for entry in entries), encoding="utf-8")
    return names


def test_tables_never_compared_come_first_and_then_the_oldest(kept):
    turn = reprint.in_turn([])
    assert turn[-2:] == [kept[1], kept[0]] and turn[0] == kept[2]
    assert len(turn) == sum(not job.make for job in reprint.JOBS.values())
    assert reprint.in_turn(["squint.txt"]) == ["accuracy/squint"]


def test_the_report_says_what_moved_what_is_gone_and_what_did_not_run(kept):
    reprint.write_report()
    first, moves, gone, left = (
        {tuple(row) for row in table.rows} for table in cells.read(reprint.TABLE.read_text(encoding="utf-8"))
    )
    assert {row[:1] + row[5:7] for row in first} == {(kept[0], "7", "1")}
    assert moves == {(f"{kept[0]}: title: row: head", "1.0", "2.0")}
    assert gone == {(kept[0], "row x", "stored alone")}
    assert (kept[1], "2026-01-01 00:00", "exit code 1: ValueError") in left
    assert (kept[2], "", "not yet") in left
