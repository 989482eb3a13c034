"""Power over path length and Doppler shift, by Fourier transforms (docs/theory.md, section 7.1)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from isac_toolbox._validation import check_integer
from isac_toolbox.channel.array import SPEED_OF_LIGHT_M_S
from isac_toolbox.channel.observation import UplinkObservation

__all__ = ["RangeDopplerMap", "range_doppler_map"]

RealArray = NDArray[np.float64]
ComplexArray = NDArray[np.complex128]

# Cost cap: bins per resolution cell; scalloping costs at most 0.9 dB an axis.
_OVERSAMPLING = 2


@dataclass(frozen=True, eq=False)
class RangeDopplerMap:
    """Matched-filter power of one user's known symbols.

    Attributes
    ----------
    power : ndarray, shape (G, F)
        Summed over the elements, relative to the energy of the symbols.
    lengths_m : ndarray, shape (G,)
        Path lengths, clock offset included, over one period of the subcarriers.
    doppler_hz : ndarray, shape (F,)
        Doppler shifts, increasing; positive where a path shortens.
    """

    power: RealArray
    lengths_m: RealArray
    doppler_hz: RealArray


def range_doppler_map(obs: UplinkObservation, user: int = 0) -> RangeDopplerMap:
    """Return the power over path length and Doppler shift that a user's known symbols show.

    Parameters
    ----------
    obs : UplinkObservation
        With ``symbol_times_s``, and at least two symbols in which the user's symbols are known; most useful
        where all are, as for a station that hears its own echoes.
    user : int
        Other users that send at the same time appear as noise.

    Returns
    -------
    RangeDopplerMap

    Raises
    ------
    TypeError
        If ``obs`` is no observation.
    ValueError
        If there are no times, subcarriers or symbols with known ones are not evenly spaced, or the user is
        none of the block's.

    Notes
    -----
    ``P(l, nu) = sum_m |sum_nt y_nmt conj(u_knt) exp(j w_n l - j 2 pi nu t_t)|^2 / sum |u_knt|^2`` on grids of
    two bins per resolution cell, by one two-dimensional Fourier transform an element.

    Examples
    --------
    >>> import isac_toolbox as isac
    >>> sim = isac.Scenario.load("monostatic_moving").simulate(seed=0)
    >>> found = isac.range_doppler_map(sim.observation)
    >>> found.power.shape
    (128, 28)
    """
    if not isinstance(obs, UplinkObservation):
        raise TypeError(f"obs must be an UplinkObservation, got {type(obs).__name__}")
    check_integer("user", user, 0)
    if user >= obs.n_users:
        raise ValueError(f"user must be below the number of users {obs.n_users}, got {user}")
    if obs.symbol_times_s is None:
        raise ValueError("obs: symbol_times_s must be given for a map over Doppler shifts, got None")
    symbols = np.flatnonzero(obs.known[user].any(axis=0))
    times, frequencies = obs.symbol_times_s[symbols], obs.subcarrier_frequencies_hz
    order = np.argsort(frequencies)
    spacing_hz = _even_step("subcarrier_frequencies_hz", frequencies[order])
    period_s = _even_step("symbol_times_s", times)
    pilots = np.where(obs.known[user], obs.pilots[user], 0)[np.ix_(order, symbols)]
    energy = float(np.sum(np.abs(pilots) ** 2))
    n_lengths, n_shifts = _OVERSAMPLING * frequencies.size, _OVERSAMPLING * times.size
    power = np.zeros((n_lengths, n_shifts))
    for element in range(obs.array.n_elements):
        samples = obs.received[:, element][np.ix_(order, symbols)] * pilots.conj()
        over_lengths = fft.ifft(samples, n_lengths, axis=0, norm="forward")
        power += np.abs(fft.fft(over_lengths, n_shifts, axis=1)) ** 2
    return RangeDopplerMap(
        power=fft.fftshift(power, axes=1) / max(energy, 1e-300),
        lengths_m=np.asarray(
            np.arange(n_lengths) * SPEED_OF_LIGHT_M_S / (spacing_hz * n_lengths), dtype=float
        ),
        doppler_hz=np.asarray(fft.fftshift(fft.fftfreq(n_shifts, period_s)), dtype=float),
    )


def _even_step(name: str, values: RealArray) -> float:
    """Step of evenly spaced values.

    Raises
    ------
    ValueError
        If there are fewer than two, or steps differ by more than rounding and the longer cyclic prefix of
        some symbols.
    """
    steps = np.diff(values)
    if steps.size == 0 or np.ptp(steps) > 0.02 * steps.mean():
        raise ValueError(
            f"obs: {name} must be evenly spaced where the user's symbols are known, at least two of them, "
            f"got {values.size} with steps from {steps.min(initial=np.inf):.4g} to {steps.max(initial=0):.4g}"
        )
    return float(steps.mean())
