"""What mixers, amplifiers and converters do to samples, beside a linear gain, in the time domain."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

__all__ = [
    "FrontEndSettings",
    "add_image",
    "amplify",
    "best_full_scale",
    "clip",
    "mirrored_subcarriers",
    "quantise",
    "received_samples",
    "sent_symbols",
    "to_subcarriers",
    "to_time",
]

RealArray = NDArray[np.float64]
ComplexArray = NDArray[np.complex128]

# Samples per subcarrier at an amplifier, whose products of third order fill three times the band.
_AMPLIFIER_OVERSAMPLING = 4
# Two frequencies closer than this share of the band are one.
_SAME_FREQUENCY = 1e-9
# How sharply the amplifier saturates: p of Rapp's model.
_RAPP_SHARPNESS = 2.0


class FrontEndSettings(Protocol):
    """What the front ends need to know; :class:`isac_toolbox.Scenario` has it."""

    @property
    def adc_bits(self) -> int | None: ...
    @property
    def adc_full_scale(self) -> float | None: ...
    @property
    def adc_oversampling(self) -> int: ...
    @property
    def clipping_share(self) -> float: ...
    @property
    def iq_image_db(self) -> float | None: ...
    @property
    def user_iq_image_db(self) -> float | None: ...
    @property
    def amplifier_backoff_db(self) -> float | None: ...


def sent_symbols(settings: FrontEndSettings, symbols: ComplexArray, rng: np.random.Generator) -> ComplexArray:
    """Return what users send instead of their symbols (K, N, T): with images, then through an amplifier."""
    if settings.user_iq_image_db is not None:
        symbols = add_image(symbols, settings.user_iq_image_db, rng)
    if settings.amplifier_backoff_db is not None:
        symbols = np.stack([amplify(of_user, settings.amplifier_backoff_db) for of_user in symbols])
    return symbols


def received_samples(
    settings: FrontEndSettings, samples: ComplexArray, rng: np.random.Generator
) -> ComplexArray:
    """Return what a receiver has of samples (N, M, T): with images, then clipped, then quantised."""
    by_antenna = samples.transpose(1, 0, 2)
    if settings.iq_image_db is not None:
        by_antenna = add_image(by_antenna, settings.iq_image_db, rng)
    if settings.clipping_share > 0:
        by_antenna = np.stack(
            [clip(one, settings.clipping_share, settings.adc_oversampling) for one in by_antenna]
        )
    if settings.adc_bits is not None:
        bits, full_scale = settings.adc_bits, settings.adc_full_scale
        by_antenna = np.stack([quantise(x, bits, full_scale, settings.adc_oversampling) for x in by_antenna])
    return by_antenna.transpose(1, 0, 2)


def to_time(samples: ComplexArray, oversampling: int) -> ComplexArray:
    """Return the time samples of subcarriers (N, ...) around zero, shape (oversampling N, ...).

    ``x_i = sum_n X_n exp(j 2 pi (n - (N - 1) / 2) i / (oversampling N))``.
    """
    n_times = oversampling * len(samples)
    summed = n_times * np.fft.ifft(samples, n_times, axis=0)
    return summed * _to_centre(len(samples), n_times, samples.ndim)


def to_subcarriers(times: ComplexArray, n_subcarriers: int) -> ComplexArray:
    """Return the subcarriers (N, ...) of time samples; what lies outside of them is filtered away."""
    n_times = len(times)
    turned = times * _to_centre(n_subcarriers, n_times, times.ndim).conj()
    return np.fft.fft(turned, axis=0)[:n_subcarriers] / n_times


def _to_centre(n_subcarriers: int, n_times: int, ndim: int) -> ComplexArray:
    turns = np.exp(-1j * np.pi * (n_subcarriers - 1) * np.arange(n_times) / n_times)
    return turns.reshape(-1, *[1] * (ndim - 1))


def _in_time(
    samples: ComplexArray, oversampling: int, distort: Callable[[ComplexArray], ComplexArray]
) -> ComplexArray:
    """Distort the time samples of subcarriers (N, T), and divide by the linear gain of that.

    The gain is that of the best linear fit, ``<x, y> / <x, x>``; what is left is uncorrelated distortion.
    """
    before = to_time(samples, oversampling)
    after = distort(before)
    gain = np.vdot(before, after) / np.vdot(before, before)
    return to_subcarriers(after, len(samples)) / gain


def add_image(samples: ComplexArray, image_db: float, rng: np.random.Generator) -> ComplexArray:
    """Add to every branch of (branches, N, T) its image, ``x + nu conj(x)`` in time, of random phase.

    Over frequency that is the conjugate of the mirrored subcarrier, ``X_n + nu conj(X_{N - 1 - n})``.
    """
    phase = 2 * np.pi * rng.random((len(samples), 1, 1))
    return samples + 10 ** (image_db / 20) * np.exp(1j * phase) * samples[:, ::-1].conj()


def mirrored_subcarriers(frequencies_hz: RealArray) -> NDArray[np.int64]:
    """Return the index of every subcarrier's opposite frequency (N,), -1 where that is not used."""
    order = np.argsort(frequencies_hz)
    at = np.clip(np.searchsorted(frequencies_hz[order], -frequencies_hz), 1, order.size - 1)
    nearest = np.stack([order[at - 1], order[at]])
    apart = np.abs(frequencies_hz[nearest] + frequencies_hz)
    best = np.argmin(apart, axis=0)
    mirror, away = (np.take_along_axis(x, best[None], axis=0)[0] for x in (nearest, apart))
    return np.where(away <= _SAME_FREQUENCY * np.ptp(frequencies_hz), mirror, -1)


def amplify(symbols: ComplexArray, backoff_db: float) -> ComplexArray:
    """Pass the symbols of a user (N, T) through an amplifier of Rapp's model, its linear gain taken out.

    It saturates ``backoff_db`` above the mean power over the block.
    """

    def saturate(times: ComplexArray) -> ComplexArray:
        limit = np.sqrt(np.mean(np.abs(times) ** 2)) * 10 ** (backoff_db / 20)
        power = (np.abs(times) / limit) ** (2 * _RAPP_SHARPNESS)
        return times / (1 + power) ** (1 / (2 * _RAPP_SHARPNESS))

    return _in_time(symbols, _AMPLIFIER_OVERSAMPLING, saturate)


def clip(samples: ComplexArray, share: float, oversampling: int) -> ComplexArray:
    """Limit real and imaginary parts of an antenna's time samples where this share of them is beyond."""

    def limit(times: ComplexArray) -> ComplexArray:
        parts = np.ascontiguousarray(times).view(np.float64)
        level = np.quantile(np.abs(parts), 1 - share)
        return np.clip(parts, -level, level).view(np.complex128)

    return _in_time(samples, oversampling, limit)


def quantise(samples: ComplexArray, bits: int, full_scale: float | None, oversampling: int) -> ComplexArray:
    """Quantise real and imaginary parts of an antenna's time samples, subcarriers (N, T) in and out.

    Parameters
    ----------
    samples : ndarray of complex, shape (N, T)
    bits : int
        ``2^bits`` levels, a uniform mid-rise quantiser.
    full_scale : float or None
        Largest input in units of the root mean square of the parts over the block, as an automatic gain sets
        it. None: :func:`best_full_scale`.
    oversampling : int
        Samples per subcarrier; quantisation noise spreads over all of them.

    Returns
    -------
    ndarray of complex, shape (N, T)
        Divided by the linear gain of the quantiser.
    """
    scale = best_full_scale(bits) if full_scale is None else full_scale

    def rounded(times: ComplexArray) -> ComplexArray:
        parts = np.ascontiguousarray(times).view(np.float64)
        step = 2 * scale * np.sqrt(np.mean(parts**2)) / 2**bits
        cell = np.clip(np.floor(parts / step), -(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
        return ((cell + 0.5) * step).view(np.complex128)

    return _in_time(samples, oversampling, rounded)


@cache
def best_full_scale(bits: int) -> float:
    """Return the full scale, in standard deviations, that quantises a Gaussian with the least error.

    Source: J. Max, Quantizing for minimum distortion, IRE Trans. Inf. Theory 6 (1960), table II.
    """

    from scipy.optimize import minimize_scalar  # takes a while to load, and few scenarios need it

    def squared_error(full_scale: float) -> float:
        edges = np.linspace(-full_scale, full_scale, 2**bits + 1)
        levels = (edges[1:] + edges[:-1]) / 2
        edges[0], edges[-1] = -np.inf, np.inf
        first = -np.diff(np.exp(-(edges**2) / 2)) / np.sqrt(2 * np.pi)
        return float(1 + np.sum(levels**2 * np.diff(ndtr(edges)) - 2 * levels * first))

    return float(minimize_scalar(squared_error, bounds=(0.5, 10.0), method="bounded").x)
