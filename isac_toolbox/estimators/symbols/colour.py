"""Shape of the noise over the array, from what no channel explains (docs/theory.md, section 6.10)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from isac_toolbox.channel.atoms.whitening import Whitening

__all__ = ["LeftOver", "left_by_channels", "left_by_symbols", "shrunk"]

RealArray = NDArray[np.float64]
ComplexArray = NDArray[np.complex128]
BoolArray = NDArray[np.bool_]

# Guard: eigenvalues of a Gram matrix relative to its largest below which signals are dependent.
_DEPENDENT = 1e-9
# Guard: snapshots per element that a shape is learned from, at least; fewer leave the noise white.
_LEAST_SNAPSHOTS = 0.25
# Guard: power that rounding leaves of a block of unit mean power.
_ROUNDING = 1e-28
# Cost cap: rounds in which strong directions and the level beneath them are told apart.
_ROUNDS = 20
# Cost cap: rounds in which levels of elements and strong directions are found in turn.
_LEVEL_ROUNDS = 3
# Cost cap: rounds in which distortion and strong directions are found in turn.
_DISTORTION_ROUNDS = 2
# Guard: share of noise that is white, beside distortion, at least.
_LEAST_WHITE = 1e-3
# Guard: noise of an element relative to the loudest, and share of an element beside strong directions.
_LEAST_LEVEL = 1e-6
# Guard: relative height over the edge of the noise's eigenvalues at which a direction is one.
_ABOVE_EDGE = 1.1


@dataclass(frozen=True, eq=False)
class LeftOver:
    """Second moments of what no channel of the users explains.

    Attributes
    ----------
    moments : ndarray of complex, shape (M', M')
        Sum over the snapshots, of the elements in use.
    n_snapshots : float
        Independent ones.
    """

    moments: ComplexArray
    n_snapshots: float

    @property
    def tells(self) -> bool:
        """Whether the snapshots are enough to learn a shape from."""
        power = float(np.real(np.trace(self.covariance))) / len(self.moments)
        return self.n_snapshots >= max(_LEAST_SNAPSHOTS * len(self.moments), 2.0) and power > _ROUNDING

    @property
    def covariance(self) -> ComplexArray:
        """Mean over the snapshots, shape (M', M')."""
        return self.moments / max(self.n_snapshots, 1.0)

    def nats_of(self, whitening: Whitening, in_use: BoolArray) -> float:
        """How much better noise of this shape explains the snapshots than white noise does."""
        white = float(np.real(np.trace(self.covariance))) / len(self.covariance)
        coloured = self.whitened_variance(whitening, in_use)
        return self.n_snapshots * len(self.covariance) * float(np.log(white / coloured))

    def whitened_variance(self, whitening: Whitening, in_use: BoolArray) -> float:
        """Mean variance of the snapshots, whitened over the elements in use (M,)."""
        matrix = whitening.matrix[np.ix_(in_use, in_use)]
        return float(np.real(np.vdot(matrix, self.covariance @ matrix))) / len(self.covariance)


def left_by_symbols(samples: ComplexArray, symbols: ComplexArray, used: BoolArray) -> LeftOver:
    """Return what no channels of the users explain of samples, whatever these are.

    On every subcarrier the samples of the used cells are projected onto what is orthogonal to all users'
    symbols over time; a signal leaves nothing there, found or not.

    Parameters
    ----------
    samples : ndarray of complex, shape (N, M', T)
    symbols : ndarray of complex, shape (K, N, T)
        Known or decided; turned as the channels turn.
    used : ndarray of bool, shape (N, T)
    """
    sent = (symbols * used).transpose(1, 0, 2)
    samples = samples * used[:, None]
    values, vectors = np.linalg.eigh(np.matmul(sent, sent.conj().transpose(0, 2, 1)))
    told = values > _DEPENDENT * np.maximum(values[:, -1:], 1e-300)
    inverse_root = vectors * np.where(told, 1 / np.sqrt(np.where(told, values, 1.0)), 0.0)[:, None]
    basis = np.matmul(inverse_root.conj().transpose(0, 2, 1), sent)
    left = samples - np.matmul(np.matmul(samples, basis.conj().transpose(0, 2, 1)), basis)
    flat = left.transpose(1, 0, 2).reshape(samples.shape[1], -1)
    n_left = np.count_nonzero(used) - np.count_nonzero(told)
    return LeftOver(flat @ flat.conj().T, float(n_left))


def left_by_channels(samples: ComplexArray, channel: ComplexArray, used: BoolArray) -> LeftOver:
    """Return what no symbols of the users explain of samples, whatever these are.

    The counterpart of :func:`left_by_symbols` over the array: on every subcarrier the samples are projected
    onto what is orthogonal to rough channels (K, N, M') of all users. An error of the channels lets signals
    through in the directions of that error alone, which is noise and interference as well. Few dimensions of
    many are lost; their part is filled up as if it were like the others.
    """
    by_subcarrier = channel.transpose(1, 2, 0)
    basis, _ = np.linalg.qr(by_subcarrier)
    samples = samples * used[:, None]
    left = samples - np.matmul(basis, np.matmul(basis.conj().transpose(0, 2, 1), samples))
    flat = left.transpose(1, 0, 2).reshape(samples.shape[1], -1)
    kept = 1 - basis.shape[2] / basis.shape[1]
    return LeftOver(flat @ flat.conj().T / max(kept, 1e-3), float(np.count_nonzero(used)))


def shrunk(left: LeftOver, signal: ComplexArray | None = None) -> ComplexArray:
    """Return the covariance (M', M') of the noise, shrunk as far as the snapshots ask for.

    First to few directions above noise of unequal levels, white or distorted signal, then from the sample
    covariance towards that by the share of their distance that chance explains.

    Parameters
    ----------
    left : LeftOver
    signal : ndarray of complex, shape (M', M'), optional
        Covariance of the users' signal, of any scale, whose distortion may be part of the noise.
    """
    sample, n = left.covariance, left.n_snapshots
    identity = np.eye(len(sample))
    target = _few_directions(sample, n)[0]
    if signal is not None:
        target = _few_directions_beside(sample, target, signal, n)
    whitening = Whitening.of(target)
    whitened = whitening.matrix @ sample @ whitening.matrix
    level = float(np.real(np.trace(whitened))) / len(sample)
    whitened /= level
    distance = float(np.sum(np.abs(whitened - identity) ** 2))
    share = min(len(sample) ** 2 / n / max(distance, 1e-300), 1.0)
    mixed = level * ((1 - share) * whitened + share * identity)
    return np.asarray(whitening.inverse @ mixed @ whitening.inverse)


def _few_directions_beside(
    sample: ComplexArray, target: ComplexArray, signal: ComplexArray, n_snapshots: float
) -> ComplexArray:
    """The same as :func:`_few_directions`, above white noise and distortion of a signal.

    A user's amplifier distorts what it sends, so that distortion has the signal's covariance; converters and
    clipping distort every element by itself, which leaves odd powers of the signals' correlations.
    """
    size = np.sqrt(np.maximum(np.real(np.diag(signal)), 1e-300))
    alike = signal / np.multiply.outer(size, size)
    power = np.abs(alike) ** 2
    parts = np.stack([np.eye(len(signal)), alike, alike * power, alike * power**2])
    above = np.zeros_like(sample)
    for _ in range(_DISTORTION_ROUNDS):
        shares = _non_negative_parts(sample - above, parts, target)
        if not shares.any():
            return target
        base = Whitening.of(np.tensordot(shares, parts, 1))
        whitened = base.matrix @ sample @ base.matrix
        target, above = (
            base.inverse @ part @ base.inverse for part in _few_directions(whitened, n_snapshots)
        )
    return target


def _non_negative_parts(sample: ComplexArray, parts: ComplexArray, around: ComplexArray) -> RealArray:
    """Shares (B,) of parts (B, M', M') in a sample covariance, by weighted least squares around another."""
    weighted = np.linalg.solve(around, parts)
    matrix = np.real(np.einsum("imp,jpm->ij", weighted, weighted))
    vector = np.real(np.einsum("imp,pm->i", weighted, np.linalg.solve(around, sample)))
    factor = np.linalg.cholesky(matrix + 1e-9 * np.trace(matrix) * np.eye(len(parts)))
    shares, _ = nnls(factor.T, np.linalg.solve(factor, vector))
    shares[0] = max(shares[0], _LEAST_WHITE * shares.sum())
    return np.asarray(shares)


def _few_directions(sample: ComplexArray, n_snapshots: float) -> tuple[ComplexArray, ComplexArray]:
    """White noise of unequal levels and few strong directions, the closest to a sample covariance.

    Together, and the directions alone.
    """
    levels = np.ones(len(sample))
    for _ in range(_LEVEL_ROUNDS):
        scale = np.sqrt(np.multiply.outer(levels, levels))
        level, above, beneath = _strong_directions(sample / scale, n_snapshots)
        above = above * scale
        shape = above + np.diag(level * levels)
        levels = _levels(levels * beneath, n_snapshots)
    return np.asarray(shape), np.asarray(above)


def _levels(variance: RealArray, n_snapshots: float) -> RealArray:
    """Relative variances of elements, shrunk together as far as chance explains how they differ."""
    if not variance.max() > 0:  # strong directions alone
        return np.ones_like(variance)
    logarithms = np.log(np.maximum(variance, _LEAST_LEVEL * variance.max()))
    away = logarithms - logarithms.mean()
    kept = max(1 - 1 / (n_snapshots * max(float(np.mean(away**2)), 1e-300)), 0.0)
    return np.asarray(np.exp(kept * away))


def _strong_directions(sample: ComplexArray, n_snapshots: float) -> tuple[float, ComplexArray, RealArray]:
    """Level of white noise, what eigenvectors that stand out have above it, and what they leave of elements.

    Their eigenvalues are without the part that chance adds.
    Source: Baik and Silverstein, Eigenvalues of large sample covariance matrices of spiked population models,
    Journal of Multivariate Analysis 97 (2006).
    """
    values, vectors = np.linalg.eigh(sample)
    n, ratio = len(values), len(values) / n_snapshots
    edge = (1 + np.sqrt(ratio)) ** 2 * _ABOVE_EDGE
    level, spikes = float(values.mean()), np.zeros(0)
    for _ in range(_ROUNDS):
        spikes = _debiased(values[values > edge * level] / level, ratio)
        rest = float(values.sum() - level * spikes.sum()) / max(n - spikes.size, 1)
        before, level = level, max(rest, _LEAST_LEVEL * float(values.mean()))
        if abs(level - before) < 1e-3 * level:
            break
    own, others = vectors[:, n - spikes.size :], vectors[:, : n - spikes.size]
    power = np.abs(others) ** 2
    beneath = (power @ values[: n - spikes.size]) / np.maximum(power.sum(axis=1), _LEAST_LEVEL)
    above = (own * (level * np.maximum(spikes - 1, 0.0))) @ own.conj().T
    return level, np.asarray(above), beneath


def _debiased(values: RealArray, ratio: float) -> RealArray:
    """Eigenvalues whose samples have these ones on average, relative to the noise."""
    half = (values + 1 - ratio) / 2
    return np.asarray(half + np.sqrt(np.maximum(half**2 - values, 0.0)))
