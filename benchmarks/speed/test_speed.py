"""Times of whole estimates and kernels under pytest-benchmark; not collected by default.

OPENBLAS_NUM_THREADS=1 python -m pytest benchmarks/speed/test_speed.py
"""

from __future__ import annotations

import numpy as np
import pytest

import isac_toolbox as isac
from isac_toolbox.channel.atoms.scene import Paths, Scene
from isac_toolbox.estimators.scene.fit import evaluate
from isac_toolbox.estimators.scene.problem import Problem
from isac_toolbox.estimators.symbols.block import ReceivedBlock


@pytest.fixture(params=["urban_uplink", "massive_uplink"])
def simulation(request):
    return isac.Scenario.load(request.param).simulate(seed=0)


def problem_and_scene(simulation):
    obs, truth = simulation.observation, simulation.truth
    problem = Problem.on_pilots(obs, ReceivedBlock.of(obs))
    offsets = 299_792_458.0 * truth.time_offsets_s
    scene = Scene(truth.scatterer_positions_m, truth.user_positions_m, offsets, np.zeros((0, 3)))
    paths = Paths.build(truth.line_of_sight, np.ones_like(truth.visibility), np.zeros(0, np.int64))
    return problem, scene, paths, np.full(len(paths), 1e-3)


@pytest.mark.parametrize("dtype", ["complex128", "complex64"])
def test_estimate(benchmark, simulation, dtype):
    estimator = isac.EMTurboBiSVBI(dtype=dtype)
    benchmark.pedantic(estimator.estimate, (simulation.observation,), rounds=3, warmup_rounds=1)


def test_evaluate(benchmark, simulation):
    benchmark(evaluate, *problem_and_scene(simulation))


def test_normal_equations(benchmark, simulation):
    problem, *rest = problem_and_scene(simulation)
    fit = evaluate(problem, *rest)

    def fresh():
        fit._normal.clear()
        return fit.normal_equations

    benchmark(fresh)


def test_music_spectrum(benchmark):
    observation = isac.Scenario.load("urban_uplink").simulate(seed=0).observation
    low, high = observation.region_m
    points = np.random.default_rng(0).uniform(low, high, (20_000, 3))
    from isac_toolbox.estimators.music import music_spectrum

    benchmark(music_spectrum, observation, points)
