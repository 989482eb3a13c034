"""How users, scatterers, clocks and carriers go on from one block to the next.

docs/theory.md, section 11.1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from isac_toolbox._validation import as_array, check_finite, check_non_negative
from isac_toolbox.channel.array import SPEED_OF_LIGHT_M_S

__all__ = ["ConstantVelocity"]

RealArray = NDArray[np.float64]

_PER_AXIS = ("user_acceleration_std_m_s2", "scatterer_acceleration_std_m_s2", "first_velocity_std_m_s")
_SCALARS = ("clock_drift_std_s", "offset_drift_std_hz")


@dataclass(frozen=True, eq=False)
class ConstantVelocity:
    """Constant velocities but for random accelerations; clocks and carriers walk at random.

    Parameters
    ----------
    user_acceleration_std_m_s2, scatterer_acceleration_std_m_s2 : array_like, scalar or (3,)
        Standard deviations, per axis, of an acceleration that is constant between two blocks and independent
        from one pair of blocks to the next.
    clock_drift_std_s : float
        Standard deviation of what a user's clock walks in a second; it grows with the root of time.
    offset_drift_std_hz : float
        The same of a user's carrier frequency offset.
    first_velocity_std_m_s : array_like, scalar or (3,)
        Standard deviation of a velocity of which the observation has no prior: blocks that are taken as
        static.

    Raises
    ------
    TypeError, ValueError
        Naming the argument, what came and what is allowed.

    Notes
    -----
    docs/theory.md, section 11.1.

    Examples
    --------
    >>> from isac_toolbox.channel import ConstantVelocity
    >>> transition, noise = ConstantVelocity(user_acceleration_std_m_s2=2.0).user_step(0.5)
    >>> transition.shape, float(noise[3, 3])
    ((8, 8), 1.0)
    """

    user_acceleration_std_m_s2: RealArray = 1.0  # type: ignore[assignment]
    scatterer_acceleration_std_m_s2: RealArray = 1.0  # type: ignore[assignment]
    clock_drift_std_s: float = 1e-9
    offset_drift_std_hz: float = 1.0
    first_velocity_std_m_s: RealArray = 10.0  # type: ignore[assignment]

    def __post_init__(self) -> None:
        for name in _PER_AXIS:
            object.__setattr__(self, name, _per_axis(name, getattr(self, name)))
        for name in _SCALARS:
            value = as_array(name, getattr(self, name), float)
            if value.ndim:
                raise ValueError(f"{name} must be a scalar, got shape {value.shape}")
            check_finite(name, value)
            check_non_negative(name, value)
            object.__setattr__(self, name, float(value))

    def user_step(self, interval_s: float) -> tuple[RealArray, RealArray]:
        """Return transition and noise covariance of place, velocity, clock and offset, (8, 8) each.

        The clock is a length ``c t`` in metres.
        """
        transition, noise = np.eye(8), np.zeros((8, 8))
        moving, shaken = self._step(interval_s, self.user_acceleration_std_m_s2)
        transition[:6, :6], noise[:6, :6] = moving, shaken
        noise[6, 6] = (SPEED_OF_LIGHT_M_S * self.clock_drift_std_s) ** 2 * interval_s
        noise[7, 7] = self.offset_drift_std_hz**2 * interval_s
        return transition, noise

    def scatterer_step(self, interval_s: float) -> tuple[RealArray, RealArray]:
        """Return transition and noise covariance of a scatterer's place and velocity, (6, 6) each."""
        return self._step(interval_s, self.scatterer_acceleration_std_m_s2)

    @staticmethod
    def _step(interval_s: float, std_m_s2: RealArray) -> tuple[RealArray, RealArray]:
        transition = np.eye(6)
        transition[:3, 3:] = interval_s * np.eye(3)
        pushed = np.vstack([interval_s**2 / 2 * np.eye(3), interval_s * np.eye(3)]) * std_m_s2
        return transition, pushed @ pushed.T


def _per_axis(name: str, given: ArrayLike) -> RealArray:
    value = as_array(name, given, float)
    if value.shape not in ((), (3,)):
        raise ValueError(f"{name} must be a scalar or (3,), got shape {value.shape}")
    check_finite(name, value)
    check_non_negative(name, value)
    spread = np.array(np.broadcast_to(value, 3))
    spread.setflags(write=False)
    return spread
