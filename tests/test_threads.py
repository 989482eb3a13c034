"""Bounded threads: the smallest bound holds, in every library, and everything is as before at the end."""

from __future__ import annotations

import sys
import threading

import numba
import pytest
from scipy import fft
from threadpoolctl import ThreadpoolController, threadpool_info, threadpool_limits

from isac_toolbox import _threads
from isac_toolbox._threads import bounded_threads, in_threads, shared_threads, stretches


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


MANY = 2**30


def test_parts_are_shared_by_as_many_threads_as_allowed_and_come_in_order():
    meeting = threading.Barrier(2, timeout=5)

    def work(part):
        meeting.wait()  # broken unless two parts are under way together
        inner = in_threads(lambda _: threading.current_thread(), range(3), MANY)
        return part.start, threading.current_thread(), set(inner)

    with shared_threads(2):
        assert blas() == {1}
        starts, threads, inner = zip(*in_threads(work, stretches(10, 3), MANY), strict=True)
    assert blas() == {3}
    assert starts == (0, 3, 6, 9) and len(set(threads)) == 2 and threading.current_thread() not in threads
    assert all(own == {thread} for own, thread in zip(inner, threads, strict=True))


@pytest.mark.parametrize(("allowed", "n_parts", "size"), [(1, 3, MANY), (2, 1, MANY), (2, 3, 10)])
def test_little_work_stays_in_this_thread(allowed, n_parts, size):
    with shared_threads(allowed):
        found = in_threads(lambda part: threading.current_thread(), range(n_parts), size)
    assert set(found) == {threading.current_thread()}


def test_other_threads_and_what_comes_after_share_nothing():
    found = []

    def other():
        found.extend(in_threads(lambda part: threading.current_thread(), range(3), MANY))

    with shared_threads(2):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    found += in_threads(lambda part: threading.current_thread(), range(3), MANY)
    assert set(found) == {thread, threading.current_thread()}


def test_an_error_in_a_part_comes_out_and_everything_is_as_before():
    def work(part):
        raise ZeroDivisionError(part)

    with pytest.raises(ZeroDivisionError), shared_threads(2):
        in_threads(work, range(4), MANY)
    assert blas() == {3}
    assert set(in_threads(lambda part: threading.current_thread(), range(3), MANY)) == {
        threading.current_thread()
    }


def test_stretches_cover_everything_once():
    assert stretches(0, 4) == []
    for n, most in ((7, 3), (7, 7), (7, 100), (7, 0)):
        covered = [i for part in stretches(n, most) for i in range(n)[part]]
        assert covered == list(range(n))
