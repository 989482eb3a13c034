"""A user's program with types, which ``mypy --strict`` must accept: the types of the toolbox reach it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import isac_toolbox as isac
from isac_toolbox.bounds import HybridBound
from isac_toolbox.inference import sparse_recover


class Halved:
    """An estimator of one's own."""

    def estimate(self, obs: isac.UplinkObservation, *, callback: object = None) -> isac.EstimationResult:
        """Return what least squares says."""
        return isac.LeastSquares().estimate(obs)


def strongest(result: isac.EstimationResult) -> NDArray[np.float64]:
    """Return the scatterer of the largest probability."""
    best: NDArray[np.float64] = result.scatterer_positions_m[int(np.argmax(result.scatterer_probability))]
    return best


def run(folder: Path) -> float:
    """Simulate, estimate, judge, keep, sweep."""
    scenario: isac.Scenario = isac.Scenario.load("urban_uplink").replace(snr_db=5.0)
    simulation = scenario.simulate(seed=1)
    path: Path = simulation.observation.save(folder / "block")
    observation = isac.UplinkObservation.load(path)
    result = isac.EMTurboBiSVBI(coarse="nomp").estimate(observation)
    bound: HybridBound = isac.bounds.hybrid_crb(simulation)
    found = isac.metrics.localisation(result.scatterer_positions_m, simulation.truth.scatterer_positions_m)
    sweep: isac.SweepResult = isac.sweep(scenario, {"snr_db": [0.0, 10.0]}, {"own": Halved()}, trials=1)
    recovered = sparse_recover(np.eye(3), np.ones(3))
    mean: NDArray[np.float64] | NDArray[np.complex128] = recovered.mean
    print(found.hits, result.status, len(sweep.rows), strongest(result), mean.shape)
    return isac.metrics.channel_nmse_db(result.channel, simulation.truth.channel) - bound.channel_nmse_db
