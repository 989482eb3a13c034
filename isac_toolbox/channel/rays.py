"""Rays: paths too many and too close to be told apart, as stochastic channel models have them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from isac_toolbox._validation import as_array, as_indices, check_finite, check_shape
from isac_toolbox.channel.plausibility import check_longest_delay

__all__ = ["Rays", "checked_dopplers"]

_UNIT_LENGTH = 1e-6


def checked_dopplers(name: str, value: ArrayLike, n_paths: int) -> NDArray[np.float64]:
    """Return Doppler shifts of paths, NaN where not known.

    Raises
    ------
    TypeError, ValueError
        If they are no real array of one per path, or infinite.
    """
    dopplers: NDArray[np.float64] = as_array(name, value, float)
    check_shape(name, dopplers, (n_paths,), "one per path")
    check_finite(name, dopplers[~np.isnan(dopplers)])
    return dopplers


@dataclass(frozen=True, eq=False)
class Rays:
    """Rays of clusters, R of them; no bound and no score counts them as paths.

    Attributes
    ----------
    user : ndarray of int, shape (R,)
    direction : ndarray, shape (R, 3)
        Unit vector from the base station towards the arrival direction.
    delay_s : ndarray, shape (R,)
    gain : ndarray of complex, shape (R,)
    doppler_hz : ndarray, shape (R,), optional
        Doppler shifts by motion, NaN where not known. A simulation in which users move draws those.

    Raises
    ------
    TypeError, ValueError
        Naming the argument, what came and what is allowed.
    """

    user: NDArray[np.int64]
    direction: NDArray[np.float64]
    delay_s: NDArray[np.float64]
    gain: NDArray[np.complex128]
    doppler_hz: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "user", as_indices("rays.user", self.user))
        check_shape("rays.user", self.user, (None,), "(R,)")
        n_rays = self.user.size
        for name, dtype, shape, meaning in (
            ("direction", float, (n_rays, 3), "(R, 3)"),
            ("delay_s", float, (n_rays,), "(R,)"),
            ("gain", complex, (n_rays,), "(R,)"),
        ):
            value = as_array(f"rays.{name}", getattr(self, name), dtype)
            check_shape(f"rays.{name}", value, shape, meaning)
            check_finite(f"rays.{name}", value)
            object.__setattr__(self, name, value)
        if self.doppler_hz is not None:
            object.__setattr__(
                self, "doppler_hz", checked_dopplers("rays.doppler_hz", self.doppler_hz, n_rays)
            )
        length = np.linalg.norm(self.direction, axis=1)
        if np.any(np.abs(length - 1) > _UNIT_LENGTH):
            worst = length[np.argmax(np.abs(length - 1))]
            raise ValueError(f"rays.direction must hold unit vectors, got one of length {worst:.6g}")
        check_longest_delay("rays.delay_s", self.delay_s)

    def __len__(self) -> int:
        return int(self.user.size)

    @classmethod
    def none(cls) -> Rays:
        """Return no ray at all."""
        return cls(np.zeros(0, np.int64), np.zeros((0, 3)), np.zeros(0), np.zeros(0, complex))

    @classmethod
    def joined(cls, parts: Sequence[Rays]) -> Rays:
        """Return the rays of all parts."""
        names = ("user", "direction", "delay_s", "gain")
        joined = cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))
        if all(part.doppler_hz is None for part in parts):
            return joined
        return replace(joined, doppler_hz=np.concatenate([part.known_dopplers_hz for part in parts]))

    @property
    def known_dopplers_hz(self) -> NDArray[np.float64]:
        """Doppler shifts, NaN where not known, shape (R,)."""
        return np.full(len(self), np.nan) if self.doppler_hz is None else self.doppler_hz

    def of_users(self, new_index: NDArray[np.int64]) -> Rays:
        """Return the rays of some users; ``new_index`` (K,) is -1 for the others."""
        kept = new_index[self.user] >= 0
        return Rays(
            user=new_index[self.user[kept]],
            direction=self.direction[kept],
            delay_s=self.delay_s[kept],
            gain=self.gain[kept],
            doppler_hz=None if self.doppler_hz is None else self.doppler_hz[kept],
        )

    def powers(self, n_users: int) -> NDArray[np.float64]:
        """Return the sum of ``|gain|^2`` of every user, shape (K,)."""
        powers = np.bincount(self.user, weights=np.abs(self.gain) ** 2, minlength=n_users)
        return powers.astype(np.float64)
