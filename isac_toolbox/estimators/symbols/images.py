"""Images of mirrored subcarriers that mixers add, learned from what the channel leaves (theory, 6.11)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from isac_toolbox.channel.front_end import mirrored_subcarriers
from isac_toolbox.channel.hardware import Hardware
from isac_toolbox.estimators.symbols.block import ReceivedBlock
from isac_toolbox.estimators.symbols.statistics import SymbolMoments

__all__ = ["Images"]

RealArray = NDArray[np.float64]
ComplexArray = NDArray[np.complex128]
BoolArray = NDArray[np.bool_]

# Tuned: a cell with a symbol of a larger posterior variance tells nothing of images.
_UNCERTAIN = 0.5


@dataclass(frozen=True, eq=False)
class Images:
    """Present estimate of the images: elements add ``mu x_-n^*`` to ``x_n``, users ``nu u_-n^*`` to ``u_n``.

    Attributes
    ----------
    mirror : ndarray of int, shape (N,)
        Subcarrier at the opposite frequency; -1 where there is none.
    prior_stds, user_prior_stds : ndarray, shape (M,) and (K,)
        ``sqrt(E|mu|^2)``, ``sqrt(E|nu|^2)``.
    values, user_values : ndarray of complex, shape (M,) and (K,)
    stds, user_stds : ndarray, shape (M,) and (K,)
        Posterior deviations of both.
    """

    mirror: NDArray[np.int64]
    prior_stds: RealArray
    user_prior_stds: RealArray
    values: ComplexArray
    user_values: ComplexArray
    stds: RealArray
    user_stds: RealArray

    @classmethod
    def of(cls, hardware: Hardware | None, n_users: int, frequencies_hz: RealArray) -> Images | None:
        """Return what is known beforehand; None where nothing has an image."""
        if hardware is None or not hardware.has_images:
            return None
        stds, user_stds = hardware.image_stds, np.broadcast_to(hardware.user_image_stds, (n_users,))
        return cls(
            mirrored_subcarriers(frequencies_hz),
            stds,
            user_stds,
            np.zeros(stds.size, complex),
            np.zeros(n_users, complex),
            stds,
            user_stds,
        )

    def told_by(self, block: ReceivedBlock, moments: SymbolMoments) -> BoolArray:
        """Cells (N, T) that tell of images: every symbol is certain there and at the opposite frequency."""
        certain = np.all(moments.variance < _UNCERTAIN, axis=0) & block.has_samples
        return np.asarray(certain & certain[self.mirror] & (self.mirror >= 0)[:, None])

    def mirrored(self, values: ComplexArray) -> ComplexArray:
        """Return conjugates of values (N, ...) at the opposite frequencies; zero where there is none."""
        there = (self.mirror >= 0).reshape(-1, *[1] * (values.ndim - 1))
        return np.asarray(np.where(there, np.conj(values[self.mirror]), 0))

    def refined(self, signal: ComplexArray, left: ComplexArray, noise_variance: float) -> Images:
        """Return the estimate of the elements' images after a step, the signal as it is.

        Parameters
        ----------
        signal, left : ndarray of complex, shape (N, M, T)
            What the elements hear, and what that leaves of the samples without the present images; zero in
            cells that tell nothing.
        noise_variance : float
        """
        regressor = self.mirrored(signal) * np.any(left != 0, axis=1, keepdims=True)
        information = np.sum(np.abs(regressor) ** 2, axis=(0, 2)) / noise_variance
        found = np.sum(regressor.conj() * left, axis=(0, 2)) / noise_variance
        variance = _posterior_variance(information, self.prior_stds)
        return replace(self, values=variance * (information * self.values + found), stds=np.sqrt(variance))

    def refined_of_users(self, sent: ComplexArray, left: ComplexArray, noise_variance: float) -> Images:
        """Return the estimate of the users' images after a step.

        Parameters
        ----------
        sent : ndarray of complex, shape (K, N, M, T)
            What a user's image of one would be heard as.
        left : ndarray of complex, shape (N, M, T)
            What is left of the samples without all present images; zero in cells that tell nothing.
        noise_variance : float
        """
        heard = (sent * np.any(left != 0, axis=1, keepdims=True)).reshape(len(sent), -1)
        unknown = np.flatnonzero(self.user_prior_stds > 0)
        heard = heard[unknown]
        information = heard.conj() @ heard.T / noise_variance
        found = heard.conj() @ left.ravel() / noise_variance
        covariance = np.linalg.inv(information + np.diag(1 / self.user_prior_stds[unknown] ** 2))
        values, stds = np.zeros(len(sent), complex), np.zeros(len(sent))
        values[unknown] = covariance @ (information @ self.user_values[unknown] + found)
        stds[unknown] = np.sqrt(np.diag(covariance).real)
        return replace(self, user_values=values, user_stds=stds)

    def removed(self, samples: ComplexArray) -> ComplexArray:
        """Return samples (N, M, T) without the elements' images, exactly where both frequencies are there."""
        image = self.values[:, None]
        without = (samples - image * self.mirrored(samples)) / (1 - np.abs(image) ** 2)
        return np.asarray(np.where((self.mirror >= 0)[:, None, None], without, samples))

    def added(self, samples: ComplexArray) -> ComplexArray:
        """Return samples (N, M, T) with the elements' images: what :meth:`removed` undoes."""
        return np.asarray(samples + self.values[:, None] * self.mirrored(samples))


def _posterior_variance(information: RealArray, prior_stds: RealArray) -> RealArray:
    """Of complex numbers of a prior deviation, zero where they are known."""
    precision = information + 1 / np.maximum(prior_stds, 1e-150) ** 2
    return np.where(prior_stds > 0, 1 / precision, 0.0)
