"""Fixtures of all tests, and what happens to tests of an extra that is not installed."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from threadpoolctl import threadpool_limits

import helpers.examples  # noqa: F401  registers the profile "nightly" before hypothesis looks for it
from helpers import faults

NETWORKS = ("torch", "safetensors", "sklearn")
MISSING = [name for name in NETWORKS if find_spec(name) is None]


class SkippedModule(pytest.Module):
    """A file of tests that could not even be imported."""

    def collect(self):
        pytest.skip(f'needs the extra "nn" ({", ".join(MISSING)} missing)', allow_module_level=True)


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    """Tests of networks import torch at the top; without the extra they are skipped, and say why."""
    is_of_networks = "nn" in module_path.parts or module_path.name.startswith("test_nn_")
    return SkippedModule.from_parent(parent, path=module_path) if is_of_networks and MISSING else None


@pytest.fixture(autouse=True, scope="session")
def _interrupts_reach_the_tests():
    """A shell starts background jobs with Ctrl-C ignored; tests of interrupts and their children need it."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> Iterator[None]:
    """One thread: the problems here are small, and waiting threads cost more than they give."""
    torch = sys.modules.get("torch")  # loaded if one of the collected files needs it
    with threadpool_limits(1, user_api="blas"):
        if torch is None:
            yield
            return
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        yield
        torch.set_num_threads(before)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """At night, count the examples of every property for the table."""
    if faults.at_night():
        for item in items:
            handle = getattr(getattr(item, "obj", None), "hypothesis", None)
            if handle is not None:
                handle.inner_test = faults.counted(handle.inner_test, item.originalname)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """At night, write what was done into the table of the manual."""
    if faults.at_night() and faults.DONE:
        faults.write_table(session.testsfailed)
