"""Fixtures of all tests."""

from __future__ import annotations

import signal

import pytest


@pytest.fixture(autouse=True, scope="session")
def _interrupts_reach_the_tests():
    """A shell starts background jobs with Ctrl-C ignored; tests of interrupts and their children need it."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
