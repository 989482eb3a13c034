"""Prediction of an estimator's peak memory from the sizes of a block."""

from __future__ import annotations

import numpy as np

from isac_toolbox.channel.atoms.frames import chebyshev_times
from isac_toolbox.channel.atoms.kinematics import KinematicPrior
from isac_toolbox.channel.atoms.tables import LARGE_GRID
from isac_toolbox.channel.observation import UplinkObservation
from isac_toolbox.estimators.symbols.statistics import bytes_over_time

__all__ = ["peak_bytes"]

# Tuned: paths of a user that the estimate of memory assumes.
_PATHS_PER_USER = 24
# Mathematics: bytes of a complex number in double precision.
_DOUBLE = 16


def peak_bytes(obs: UplinkObservation, dtype: str, inverse: str, grid_points: int) -> int:
    """Return the peak memory in bytes of the scene estimators beside the observation.

    Held throughout: the scaled block, correlations ``Z`` of pilots and data, and the tables of two blocks (2
    Z each), of large blocks at the lengths of paths alone. On top of them detection, or the result: a few
    channels' worth, the users' error correlations, probabilities of the symbols (six copies), and products of
    every subcarrier with every path, or of every element with every pair of a user's paths. A block that
    moves is held once, and its statistics over time twice, as old and new.
    """
    n_subcarriers, n_antennas, n_symbols = obs.received.shape
    n_users = obs.n_users
    item = np.dtype(dtype).itemsize
    paths = n_users * _PATHS_PER_USER
    channel = n_users * n_subcarriers * n_antennas
    block = n_subcarriers * n_antennas * n_symbols
    if obs.motion is not None:
        n_times = chebyshev_times(
            obs.motion.times_s, 2 * KinematicPrior.of(obs.motion).largest_doppler_hz
        ).size
        entries = n_users * n_subcarriers * n_times * n_antennas
        block = n_subcarriers * n_antennas * n_symbols + 2 * entries * bytes_over_time(entries) // _DOUBLE
    tables = 4 if 2 * channel < LARGE_GRID else 1
    held = _DOUBLE * (block + channel) + item * (2 + tables) * channel
    errors = 2 * n_subcarriers * n_symbols * n_users**2
    points = n_users * n_subcarriers * n_symbols * obs.constellation.size
    detection = 2 * channel + errors + 3 * points + n_subcarriers * n_users * paths
    scene = 8 * paths**2 + 2 * n_antennas * _PATHS_PER_USER**2
    total = held + _DOUBLE * (detection + scene)
    if inverse == "full":
        total += 5 * _DOUBLE * (n_users * grid_points + paths) ** 2
    elif inverse == "mm":
        total += 4 * _DOUBLE * grid_points * (n_users * n_subcarriers + n_antennas)
    return int(total)
