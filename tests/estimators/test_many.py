"""Many blocks: order, numbers, failures, generators, processes."""

from __future__ import annotations

import os
import signal
import threading
from dataclasses import dataclass, replace

import pytest
from numpy.testing import assert_array_equal
from threadpoolctl import threadpool_info

import isac_toolbox as isac
from helpers.scenes import SMALL
from isac_toolbox._processes import WorkerError
from isac_toolbox.estimators import estimate_many
from isac_toolbox.estimators.many import ManyBlocks


@pytest.fixture(scope="module")
def blocks():
    return [SMALL.simulate(seed).observation for seed in range(4)]


@dataclass(frozen=True)
class Picky(ManyBlocks):
    """Least squares that refuses a block of a mark, tells its process and its threads."""

    refused: float = -1.0
    dies: bool = False

    def estimate(self, obs):
        if obs.noise_variance == self.refused:
            if self.dies:
                os.kill(os.getpid(), signal.SIGKILL)
            raise ValueError(f"noise of {self.refused} refused")
        threads = [p["num_threads"] for p in threadpool_info() if p["user_api"] == "blas"]
        return os.getpid(), max(threads), obs.received.sum()


class Unpickled(Exception):
    """An error that does not come back from another process."""

    def __init__(self, first, second):
        super().__init__(f"{first} and {second}")


class Failing(ManyBlocks):
    def estimate(self, obs):
        raise Unpickled("this", "that")


class Locked(ManyBlocks):
    """Holds what no other process can be given."""

    def __init__(self):
        self.lock = threading.Lock()

    def estimate(self, obs):
        return 0


def marked(obs, noise):
    return replace(obs, noise_variance=noise)


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_numbers_and_order_are_those_of_one_by_one(blocks, n_jobs):
    estimator = isac.EMTurboBiSVBI(max_iter=3)
    alone = [estimator.estimate(obs) for obs in blocks]
    many = estimator.estimate_many((obs for obs in blocks), n_jobs=n_jobs)
    assert len(many) == len(blocks)
    for one, other in zip(alone, many, strict=True):
        assert_array_equal(one.channel, other.channel)
        assert_array_equal(one.llr, other.llr)
        assert one.status == other.status


def test_processes_are_others_and_have_one_thread(blocks):
    pids, threads, sums = zip(*Picky().estimate_many(blocks, n_jobs=2), strict=True)
    assert os.getpid() not in pids
    assert set(threads) == {1}
    assert_array_equal(sums, [obs.received.sum() for obs in blocks])


def test_a_generator_is_taken_a_few_ahead(blocks):
    taken = []

    def source():
        for index in range(40):
            taken.append(index)
            yield blocks[0]

    with pytest.raises(ValueError, match="refused"):
        Picky(refused=0.25).estimate_many((marked(obs, 0.25) for obs in source()), n_jobs=2)
    assert len(taken) < 20  # of 40


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_one_failure_does_not_lose_the_rest(blocks, n_jobs):
    given = [blocks[0], marked(blocks[1], 0.25), blocks[2]]
    found = Picky(refused=0.25).estimate_many(given, n_jobs=n_jobs, on_error="return")
    assert isinstance(found[1], ValueError)
    assert found[1].__traceback__ is None
    assert "in observations[1]" in found[1].__notes__[0]
    assert "in estimate" in found[1].__notes__[0]  # where it came from
    assert found[0][2] == blocks[0].received.sum()
    assert found[2][2] == blocks[2].received.sum()
    with pytest.raises(ValueError, match="refused") as raised:
        Picky(refused=0.25).estimate_many(given, n_jobs=n_jobs)
    assert "in observations[1]" in raised.value.__notes__[0]


def test_an_error_that_cannot_come_back_leaves_its_text(blocks):
    found = Failing().estimate_many(blocks[:2], n_jobs=2, on_error="return")
    assert [type(error) for error in found] == [RuntimeError, RuntimeError]
    assert "Unpickled: this and that" in str(found[0])


def test_an_estimator_that_cannot_be_sent_is_named(blocks):
    with pytest.raises(TypeError, match="estimator must be one that processes can be sent, got Locked"):
        Locked().estimate_many(blocks[:2], n_jobs=2)


def test_any_object_that_estimates(blocks):
    class Mine:
        def estimate(self, obs):
            return isac.LeastSquares().estimate(obs)

    (result,) = estimate_many(Mine(), blocks[:1])
    assert result.estimator == "LeastSquares"
    assert isac.LeastSquares().estimate_many([]) == []


def test_progress_is_shown_on_stderr(blocks, capsys, monkeypatch):
    monkeypatch.setattr("isac_toolbox._progress._LINE_EVERY_S", 0.0)
    isac.LeastSquares().estimate_many(blocks, progress=True)
    assert "4 of 4 blocks" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"n_jobs": 0}, ValueError, "n_jobs must be at least 1, or -1"),
        ({"n_jobs": 1.5}, TypeError, "n_jobs must be an integer, got 1.5"),
        ({"on_error": "skip"}, ValueError, "on_error must be one of"),
        ({"progress": "yes"}, TypeError, "progress must be"),
    ],
)
def test_bad_arguments(blocks, arguments, error, message):
    with pytest.raises(error, match=message):
        isac.LeastSquares().estimate_many(blocks, **arguments)


def test_blocks_have_to_be_several(blocks):
    with pytest.raises(TypeError, match="observations must be an iterable of UplinkObservation, got Uplink"):
        isac.LeastSquares().estimate_many(blocks[0])
    with pytest.raises(TypeError, match="obs must be an UplinkObservation, got int"):
        isac.LeastSquares().estimate_many([1])
    with pytest.raises(TypeError, match="estimator must"):
        estimate_many(3, blocks)


def test_a_process_that_dies_is_said(blocks):
    given = [blocks[0], marked(blocks[1], 0.25)]
    with pytest.raises(WorkerError, match="a worker process died"):
        Picky(refused=0.25, dies=True).estimate_many(given, n_jobs=2, on_error="return")
