"""Prior of the oscillators' phases from symbol to symbol: random walks (docs/theory.md, section 5.9)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from isac_toolbox.channel.motion import Motion

__all__ = ["PhasePrior", "walk_precision"]

RealArray = NDArray[np.float64]

# Guard: of the mean variance of the walks; users that share the station's oscillator alone are as one.
_RIDGE = 1e-6


def walk_precision(motion: Motion, basis: RealArray) -> RealArray:
    """Return the prior precision of all users' phases in a basis (T, B) of the block, (K B, K B).

    The station's walk is common to the users, their own are independent; both start anywhere.
    """
    walk = basis.T @ _walk_covariance(motion) @ basis
    between = np.diag(motion.user_phase_noise_stds_rad**2) + motion.phase_noise_std_rad**2
    ridge = _RIDGE * float(np.trace(between)) / len(between)
    return np.kron(np.linalg.inv(between + ridge * np.eye(len(between))), np.linalg.inv(walk))


def _walk_covariance(motion: Motion) -> RealArray:
    """Covariance (T, T) of a walk from zero whose shortest step has variance one."""
    passed = np.concatenate([[0.0], np.cumsum(motion.step_variances)])
    return np.minimum(passed[:, None], passed)


@dataclass(frozen=True, eq=False)
class PhasePrior:
    """Random walks of the oscillators, less the line over time that gains and frequency offsets explain.

    Attributes
    ----------
    motion : Motion
    """

    motion: Motion

    @classmethod
    def of(cls, motion: Motion) -> PhasePrior | None:
        """Return the prior in what is known beforehand; None without phase noise."""
        return cls(motion) if motion.has_phase_noise and motion.times_s.size > 2 else None

    @cached_property
    def basis(self) -> RealArray:
        """Orthonormal basis (T, T - 2) of what is no line over time."""
        times = self.motion.times_s
        line = np.column_stack([np.ones(times.size), times])
        return np.asarray(np.linalg.qr(line, mode="complete")[0][:, 2:])

    @cached_property
    def precision(self) -> RealArray:
        """Of the users' phases in the basis, (K (T - 2), K (T - 2))."""
        return walk_precision(self.motion, self.basis)

    @cached_property
    def slope_stds_hz(self) -> RealArray:
        """Deviations of the frequencies that the walks look like over the block, shape (K,)."""
        times = self.motion.times_s
        along = times / float(times @ times)
        unit = along @ _walk_covariance(self.motion) @ along
        steps = self.motion.phase_noise_std_rad**2 + self.motion.user_phase_noise_stds_rad**2
        return np.asarray(np.sqrt(unit * steps) / (2 * np.pi))
