"""Progress: a bar on a terminal, a line now and then elsewhere, nothing where nobody asked."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from isac_toolbox import _progress
from isac_toolbox._progress import epoch_progress, open_progress


@pytest.fixture
def terminal(monkeypatch):
    """What a terminal of 120 columns shows."""
    shown = io.StringIO()
    make = lambda **options: Console(file=shown, force_terminal=True, width=120)  # noqa: E731
    monkeypatch.setattr(_progress, "Console", make)
    return shown


def plain(terminal: io.StringIO) -> list[str]:
    """Lines without colours and movements of the cursor."""
    return re.sub(r"\x1b\[[?0-9;]*[A-Za-z]", "", terminal.getvalue()).splitlines()


@pytest.fixture
def clock(monkeypatch):
    """A function that sets the time."""
    now = [0.0]
    monkeypatch.setattr(_progress, "monotonic", lambda: now[0])
    return lambda seconds: now.__setitem__(0, seconds)


def test_nothing_where_nobody_asked(terminal, clock, capsys):
    with open_progress(False, "sweep", "row") as progress:
        progress.begin(10)
        clock(100.0)
        progress.show(5)
    assert terminal.getvalue() == "" and capsys.readouterr() == ("", "")


def test_lines_without_a_terminal(clock, capsys):
    with open_progress(True, "sweep", "row") as progress:
        progress.begin(11, done=1)
        for seconds, done, text in ((10, 3, ""), (60, 4, "1 failed"), (70, 5, ""), (100, 6, "")):
            clock(seconds)
            progress.show(done, text=text)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "4 of 11 rows, 1 failed, about 2 min left",
        "6 of 11 rows, about 2 min left",
    ]


def test_lines_without_a_total(clock, capsys):
    with open_progress(True, "", "iteration") as progress:
        progress.begin()
        clock(31.0)
        progress.show(0)
        progress.show(2, text="noise 1")
    assert capsys.readouterr().err == "2 iterations, noise 1\n"


def test_a_bar_on_a_terminal(terminal):
    with open_progress(True, "sweep", "row", keep=True) as progress:
        progress.begin(10, done=4)
        progress.show(6, 8, "1 failed")
    lines = [line for line in plain(terminal) if "6/8" in line]
    assert lines and all(word in lines[-1] for word in ("sweep", "left", "1 failed"))


def test_the_bar_ends_after_an_error(terminal):
    with pytest.raises(ZeroDivisionError), open_progress(True, "sweep", "row") as progress:
        progress.begin(3)
        raise ZeroDivisionError
    shown = terminal.getvalue()
    assert shown.rfind("\x1b[?25h") > shown.rfind("\x1b[?25l") >= 0  # the cursor is back


def test_epochs_go_on_from_those_done(terminal):
    with epoch_progress(True, 6, 2) as show:
        show((3, 0.25, 0.5))
    lines = [line for line in plain(terminal) if "3/6" in line]
    assert lines and "epoch" in lines[-1] and "fine-tuning: loss 0.250, accuracy 0.500" in lines[-1]
