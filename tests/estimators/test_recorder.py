"""The recorder starts anew with every run."""

from __future__ import annotations

import numpy as np

import isac_toolbox as isac
from helpers.scenes import SMALL
from isac_toolbox.estimators import SceneRecorder
from isac_toolbox.estimators.bisvbi import BiSVBILoop
from isac_toolbox.inference import Callbacks

OBSERVATION = SMALL.simulate(0).observation


def test_a_new_run_forgets_the_one_before_also_among_other_callbacks():
    recorder, seen = SceneRecorder(), []
    together = Callbacks(recorder, lambda loop: seen.append(loop.n_iter))
    for n_iter in (3, 2):
        isac.EMTurboBiSVBI(max_iter=n_iter).estimate(OBSERVATION, callback=together)
        assert [s.iteration for s in recorder] == list(range(1, n_iter + 1))
    assert seen == [1, 2, 3, 1, 2]


def test_a_run_that_fails_at_once_leaves_nothing(monkeypatch):
    recorder = SceneRecorder()
    loop = BiSVBILoop(isac.EMTurboBiSVBI(max_iter=2), OBSERVATION)
    loop.run(recorder)
    assert len(recorder) == 2

    def fail(self):
        raise np.linalg.LinAlgError("singular")

    monkeypatch.setattr(BiSVBILoop, "step", fail)
    assert loop.run(recorder) == "numerical failure"
    assert len(recorder) == 0


def test_calls_inside_an_iteration_add_nothing(monkeypatch):
    """Asked between moves, a recorder still keeps one snapshot an iteration."""
    monkeypatch.setattr("isac_toolbox.inference.turbo._ASK_EVERY_S", 0.0)
    recorder, calls = SceneRecorder(), []

    def count(loop):
        calls.append(loop.n_iter)

    observation = isac.Scenario.load("traced_street_canyon").simulate(0).observation
    both = Callbacks(count, recorder)
    result = isac.EMTurboBiSVBI(max_iter=4).estimate(observation, callback=both)
    assert len(calls) > result.n_iter
    assert [snapshot.iteration for snapshot in recorder] == [1, 2, 3, 4]
