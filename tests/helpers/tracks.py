"""A tracker's world without samples: blocks that say where a few scatterers are, with known errors."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from types import SimpleNamespace

import numpy as np

import isac_toolbox as isac
from helpers.moving import SMALL_MOVING
from isac_toolbox.estimators.result import SceneInformation

#: Deviations of what a block says of a scatterer's place and velocity.
PLACE_STD_M, SPEED_STD_M_S = 0.1, 1.0


def observation_at(time_s: float, **changes) -> isac.UplinkObservation:
    """An observation of two users in motion at a reference time; its samples do not matter."""
    obs = _OBSERVATION
    times = obs.symbol_times_s - np.mean(obs.symbol_times_s) + time_s
    return replace(obs, symbol_times_s=times, **changes)


_OBSERVATION = SMALL_MOVING.simulate(seed=0).observation
N_USERS = _OBSERVATION.n_users


def report_of(
    places_m: np.ndarray, speeds_m_s: np.ndarray, rng: np.random.Generator, moving: float = 1.0
) -> SimpleNamespace:
    """An estimate that reports scatterers (S, 3) with errors, and says nothing of users."""
    n = len(places_m)
    size = 6 * n + 8 * N_USERS
    precision, said = np.zeros(size), np.zeros(size)
    places, speeds = slice(0, 3 * n), slice(size - 3 * n, size)
    precision[places], precision[speeds] = PLACE_STD_M**-2.0, SPEED_STD_M_S**-2.0
    said[places] = (places_m + PLACE_STD_M * rng.normal(size=(n, 3))).ravel()
    said[speeds] = (speeds_m_s + SPEED_STD_M_S * rng.normal(size=(n, 3))).ravel()
    return SimpleNamespace(
        information=SceneInformation(np.diag(precision), precision * said, n, N_USERS),
        scatterer_positions_m=said[places].reshape(-1, 3),
        scatterer_probability=np.full(n, 0.95),
        visibility_probability=np.ones((N_USERS, n)),
        moving_probability=np.full(n, moving),
        unlocated_paths=isac.UnlocatedPaths.none(),
        noise_variance=1.0,
        warnings=(),
        status="converged",
    )


@dataclass
class Reports:
    """An estimator that returns given estimates one after the other, and keeps what it was asked."""

    estimates: list[SimpleNamespace]
    asked: list[isac.UplinkObservation] = field(default_factory=list)

    def estimate(self, obs: isac.UplinkObservation) -> SimpleNamespace:
        """Return the next one."""
        self.asked.append(obs)
        return self.estimates[len(self.asked) - 1]
