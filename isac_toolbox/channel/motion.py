"""What is known beforehand of motion and oscillators: times of the symbols, priors of what turns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isac_toolbox._validation import as_array, check_deviations, check_finite, check_shape
from isac_toolbox.channel.array import SPEED_OF_LIGHT_M_S
from isac_toolbox.channel.plausibility import warn_of_implausible_times
from isac_toolbox.channel.plausible_priors import warn_of_implausible_motion

__all__ = ["MOTION_FIELDS", "Motion", "checked_motion"]

RealArray = NDArray[np.float64]

#: Fields of an observation, each with the shapes that it may have, K users and T symbols.
MOTION_FIELDS: dict[str, tuple[tuple[str | int, ...], ...]] = {
    "symbol_times_s": (("T",),),
    "frequency_offset_std_hz": ((), ("K",)),
    "user_velocities_m_s": (("K", 3),),
    "user_velocity_std_m_s": ((), (3,), ("K", 3)),
    "scatterer_velocity_std_m_s": ((),),
    "phase_noise_std_rad": ((),),
    "user_phase_noise_std_rad": ((), ("K",)),
}
_VELOCITIES = ("user_velocities_m_s", "user_velocity_std_m_s", "scatterer_velocity_std_m_s")


@dataclass(frozen=True, eq=False)
class Motion:
    """Times of a block's symbols, and the priors of all that makes it turn, for every user.

    Attributes
    ----------
    times_s : ndarray, shape (T,)
        Centres of the OFDM symbols, relative to ``reference_time_s``.
    reference_time_s : float
        Mean of the symbols' times, on the clock of ``symbol_times_s``.
    frequency_offset_stds_hz : ndarray, shape (K,)
        Deviations of the residual carrier frequency offsets, of mean zero.
    user_velocities_m_s, user_velocity_stds_m_s : ndarray, shape (K, 3)
        Means and deviations of the users' velocities, axes independent.
    scatterer_velocity_std_m_s : float
        Deviation of every axis of the velocity of a scatterer that moves.
    phase_noise_std_rad : float
        Deviation of the step of the station's phase over the shortest time between two symbols.
    user_phase_noise_stds_rad : ndarray, shape (K,)
        The same of the users' oscillators.
    hz_per_m_s : float
        Doppler shift of a path that shortens by a metre a second: ``f_c / c``; zero without velocities.

    Notes
    -----
    docs/theory.md, section 1.7.
    """

    times_s: RealArray
    reference_time_s: float
    frequency_offset_stds_hz: RealArray
    user_velocities_m_s: RealArray
    user_velocity_stds_m_s: RealArray
    scatterer_velocity_std_m_s: float
    phase_noise_std_rad: float
    user_phase_noise_stds_rad: RealArray
    hz_per_m_s: float

    @classmethod
    def of(cls, given: Mapping[str, Any], n_users: int, carrier_hz: float | None) -> Motion | None:
        """Return what checked fields say; None where nothing turns: no times, or nothing but zeros.

        Parameters
        ----------
        given : mapping of str to ndarray or None
            ``MOTION_FIELDS``, as ``checked_motion`` returns them.
        n_users : int
        carrier_hz : float, optional

        Returns
        -------
        Motion or None
        """
        if given["symbol_times_s"] is None or not any(_turns(given[name]) for name in _PRIORS):
            return None

        def spread(name: str, *shape: int) -> RealArray:
            value = given[name]
            return np.broadcast_to(0.0 if value is None else value, shape)

        times = given["symbol_times_s"]
        reference = float(np.mean(times))
        moves = any(_turns(given[name]) for name in _VELOCITIES)
        return cls(
            times_s=times - reference,
            reference_time_s=reference,
            frequency_offset_stds_hz=spread("frequency_offset_std_hz", n_users),
            user_velocities_m_s=spread("user_velocities_m_s", n_users, 3),
            user_velocity_stds_m_s=spread("user_velocity_std_m_s", n_users, 3),
            scatterer_velocity_std_m_s=float(spread("scatterer_velocity_std_m_s")),
            phase_noise_std_rad=float(spread("phase_noise_std_rad")),
            user_phase_noise_stds_rad=spread("user_phase_noise_std_rad", n_users),
            hz_per_m_s=carrier_hz / SPEED_OF_LIGHT_M_S if moves and carrier_hz is not None else 0.0,
        )

    @property
    def step_variances(self) -> RealArray:
        """Variance of every step of a random walk in units of that of the shortest, shape (T - 1,).

        Phases are of mean zero over the block, which leaves the law of their steps as it is.
        """
        gaps = np.diff(self.times_s)
        return gaps / np.min(gaps, initial=np.inf)

    @property
    def half_span_s(self) -> float:
        """Largest distance of a symbol from the reference, ``T_h``."""
        return float(np.max(np.abs(self.times_s)))

    @property
    def has_phase_noise(self) -> bool:
        """Whether phases change from symbol to symbol beside the Doppler shifts."""
        return self.phase_noise_std_rad > 0 or bool(np.any(self.user_phase_noise_stds_rad > 0))

    @property
    def has_doppler(self) -> bool:
        """Whether any path may have a Doppler shift, frequency offsets included."""
        return bool(np.any(self.frequency_offset_stds_hz > 0)) or self.hz_per_m_s > 0


_PRIORS = tuple(name for name in MOTION_FIELDS if name != "symbol_times_s")


def _turns(value: RealArray | None) -> bool:
    return value is not None and bool(np.any(value))


def checked_motion(
    given: Mapping[str, Any],
    n_users: int,
    n_symbols: int,
    carrier_hz: float | None,
    link: str,
    frequencies_hz: RealArray,
) -> dict[str, RealArray]:
    """Return those of ``MOTION_FIELDS`` that are given, as arrays of one of their shapes.

    Raises
    ------
    TypeError, ValueError
        Naming the field, what came and what is allowed: times that do not increase, priors without times,
        velocities without a carrier or of the station itself.

    Warns
    -----
    ImplausibleValueWarning
        For symbols closer in time than subcarriers so far apart allow, and values as in other units.
    """
    sizes: dict[str | int, int] = {"K": n_users, "T": n_symbols, 3: 3}
    values: dict[str, RealArray] = {}
    for name, shapes in MOTION_FIELDS.items():
        if given[name] is None:
            continue
        value = as_array(name, given[name], float)
        allowed = [tuple(sizes[axis] for axis in shape) for shape in shapes]
        if len(allowed) == 1:
            check_shape(name, value, allowed[0], _in_words(shapes[0]))
        elif value.shape not in allowed:
            meant = " or ".join(_in_words(shape) for shape in shapes)
            raise ValueError(f"{name} must be {meant} with K = {n_users}, got shape {value.shape}")
        check_finite(name, value)
        if name not in ("symbol_times_s", "user_velocities_m_s"):
            check_deviations(name, value)
        values[name] = value
    _check_together(values, carrier_hz, link)
    if "symbol_times_s" in values:
        warn_of_implausible_times(values["symbol_times_s"], frequencies_hz)
    warn_of_implausible_motion(values, frequencies_hz)
    return values


def _in_words(shape: tuple[str | int, ...]) -> str:
    return f"({', '.join(map(str, shape))}{',' * (len(shape) == 1)})" if shape else "scalar"


def _check_together(values: Mapping[str, RealArray], carrier_hz: float | None, link: str) -> None:
    """Check what one field asks of another."""
    times = values.get("symbol_times_s")
    for name in values:
        if name == "symbol_times_s" or not _turns(values[name]):
            continue
        if times is None:
            raise ValueError(f"{name} needs symbol_times_s, the centre times of the OFDM symbols, got None")
        if name in _VELOCITIES and carrier_hz is None:
            raise ValueError(f"{name} needs carrier_hz, got None")
        if name.startswith("user_velocit") and link == "monostatic":
            raise ValueError(
                f"{name} must be zero for link='monostatic', whose user is the station, got {values[name]}"
            )
    if times is not None and np.any(np.diff(times) <= 0):
        at = int(np.flatnonzero(np.diff(times) <= 0)[0])
        raise ValueError(
            f"symbol_times_s must increase strictly, got {times[at]:.6g} s before {times[at + 1]:.6g} s "
            f"(symbols {at} and {at + 1})"
        )
