"""Bounded threads: the smallest bound holds, in every library, and everything is as before at the end."""

from __future__ import annotations

import sys
import threading

import numba
import pytest
from scipy import fft
from threadpoolctl import ThreadpoolController, threadpool_info, threadpool_limits

from isac_toolbox import _threads
from isac_toolbox._threads import bounded_threads


@pytest.fixture(autouse=True)
def three_threads():
    """BLAS with three threads, more than any bound here."""
    with threadpool_limits(3, user_api="blas"):
        yield


def blas() -> set[int]:
    return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}


def test_every_library_is_bounded_and_restored():
    before = numba.get_num_threads(), fft.get_workers()
    with bounded_threads(1):
        assert blas() == {1} and fft.get_workers() == 1 and numba.get_num_threads() == 1
    assert blas() == {3} and (numba.get_num_threads(), fft.get_workers()) == before
    with bounded_threads(2):
        assert blas() == {2} and fft.get_workers() == 2


def test_an_inner_bound_can_only_lower():
    with bounded_threads(1):
        with bounded_threads(2):
            assert blas() == {1} and fft.get_workers() == 1
        assert blas() == {1}
    with bounded_threads(2):
        with bounded_threads(1), bounded_threads(1):
            assert blas() == {1}
        assert blas() == {2}
    assert blas() == {3}


def test_the_last_python_thread_lifts_the_bound():
    inside, leave = threading.Event(), threading.Event()

    def other():
        with bounded_threads(1):
            inside.set()
            leave.wait(5)

    thread = threading.Thread(target=other)
    with bounded_threads(2):
        thread.start()
        assert inside.wait(5) and blas() == {1}
    assert blas() == {1}
    leave.set()
    thread.join()
    assert blas() == {3}


def test_many_python_threads_leave_nothing_behind():
    def work(number):
        for i in range(50):
            with bounded_threads(1 + (number + i) % 2):
                assert blas() <= {1, 2}

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert blas() == {3} and not _threads._process._bounds and not _threads._process._before


def test_an_error_restores_as_well():
    with pytest.raises(ZeroDivisionError), bounded_threads(1):
        raise ZeroDivisionError
    assert blas() == {3}


def test_libraries_are_looked_for_after_imports_only(monkeypatch):
    calls = []
    monkeypatch.setattr(_threads, "ThreadpoolController", lambda: calls.append(1) or ThreadpoolController())
    monkeypatch.setitem(sys.modules, "a_new_module", sys)
    for _ in range(3):
        with bounded_threads(1):
            pass
    assert len(calls) == 1
    monkeypatch.setitem(sys.modules, "another_new_module", sys)
    with bounded_threads(1):
        pass
    assert len(calls) == 2


def test_torch_is_bounded_once_it_is_loaded():
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with bounded_threads(1):
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("where", ["_apply", "enter"])
def test_an_interrupt_on_the_way_in_leaves_no_bound(where, monkeypatch):
    """Ctrl-C while the bound is set, or just before the context's body."""
    process = _threads._process
    whole = getattr(process, where)

    def interrupted(*arguments):
        whole(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(process, where, interrupted)
    with pytest.raises(KeyboardInterrupt), bounded_threads(1):
        raise AssertionError("not reached")
    monkeypatch.undo()
    assert blas() == {3}
    with bounded_threads(2):
        assert blas() == {2}
    assert blas() == {3}
