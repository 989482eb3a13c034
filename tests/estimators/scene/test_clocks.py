"""Clocks from shared scatterers: exact votes, chance votes, periods."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import isac_toolbox as isac
from isac_toolbox.channel.atoms.scene import Scene
from isac_toolbox.estimators.scene.alternatives import Lattice
from isac_toolbox.estimators.scene.clocks import clocks_from_shared, users_without_clock
from isac_toolbox.estimators.scene.cones import single_bounce
from isac_toolbox.estimators.scene.problem import Problem
from isac_toolbox.estimators.symbols.block import ReceivedBlock

OBSERVATION = isac.Scenario.load("urban_uplink").replace(time_offset_std_s=200e-9).simulate(0).observation
POINTS_M = np.array([[40.0, 10.0, 5.0], [60.0, -12.0, 9.0], [30.0, -20.0, 3.0]])


@pytest.fixture(scope="module")
def problem() -> Problem:
    return Problem.on_pilots(OBSERVATION, ReceivedBlock.of(OBSERVATION))


def seen_by(problem: Problem, user: int, points_m, offset_m: float) -> Scene:
    users = problem.prior.users_m
    parameters = single_bounce(problem, points_m, np.broadcast_to(users[user], points_m.shape))
    parameters[:, 0] += offset_m
    return Scene(np.zeros((0, 3)), users, np.zeros(3), parameters)


@pytest.mark.parametrize("offset_m", [-45.0, 0.3, 80.0])
@pytest.mark.parametrize("n_shared", [1, 2, 3])
def test_two_shared_scatterers_give_a_clock(problem, offset_m, n_shared):
    scene = seen_by(problem, 1, POINTS_M[:n_shared], offset_m)
    user, lost = np.ones(n_shared, int), np.array([False, True, False])
    offsets, still_lost = clocks_from_shared(problem, scene, user, POINTS_M, lost)
    assert still_lost.tolist() == [False, n_shared == 1, False]
    if n_shared > 1:
        assert offsets[1] == pytest.approx(offset_m, abs=1e-6)
    else:
        assert offsets[1] == 0


def test_clocks_that_do_not_agree_are_none(problem):
    scene = seen_by(problem, 1, POINTS_M, 20.0)
    apart = scene.unlocated_m + np.array([[0.0, 0, 0], [15.0, 0, 0], [-30.0, 0, 0]])
    lost = np.array([False, True, False])
    _, still_lost = clocks_from_shared(
        problem, replace(scene, unlocated_m=apart), np.ones(3, int), POINTS_M, lost
    )
    assert still_lost[1]


def test_clocks_agree_over_periods(problem):
    period = Lattice.of(problem).length_periods_m[1]
    scene = seen_by(problem, 1, POINTS_M, 20.0)
    shifted = scene.unlocated_m + period * np.array([[0.0, 0, 0], [1.0, 0, 0], [-2.0, 0, 0]])
    offsets, still_lost = clocks_from_shared(
        problem,
        replace(scene, unlocated_m=shifted),
        np.ones(3, int),
        POINTS_M,
        np.array([False, True, False]),
    )
    assert not still_lost[1] and offsets[1] == pytest.approx(20.0, abs=1e-6)


def test_who_has_no_clock(problem):
    sight, none = np.array([True, False, False]), np.array([0, 0, 2])
    assert users_without_clock(problem, sight, none).tolist() == [False, True, False]
    sure = replace(problem, prior=replace(problem.prior, offset_stds_m=np.full(3, 1.5)))
    assert not users_without_clock(sure, sight, none).any()
    echo = replace(problem, prior=replace(problem.prior, has_line_of_sight=False))
    assert not users_without_clock(echo, sight, none).any()
