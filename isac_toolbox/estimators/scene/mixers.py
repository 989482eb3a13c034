"""Samples without the images of mirrored subcarriers that mixers add (docs/theory.md, section 6.11)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from isac_toolbox.channel.observation import UplinkObservation
from isac_toolbox.estimators.symbols.block import ReceivedBlock
from isac_toolbox.estimators.symbols.images import Images
from isac_toolbox.estimators.symbols.statistics import SymbolMoments

__all__ = ["Mixers"]

ComplexArray = NDArray[np.complex128]


@dataclass(frozen=True, eq=False)
class Mixers:
    """Images of elements and users, and what was taken from the samples for the users'.

    Attributes
    ----------
    images : Images
    of_users : ndarray of complex, shape (N, M, T)
        As the elements hear it, in the units of the block.
    """

    images: Images
    of_users: ComplexArray

    @classmethod
    def of(cls, obs: UplinkObservation) -> Mixers | None:
        """Return what is known beforehand; None where mixers add no images."""
        images = Images.of(obs.hardware, obs.n_users, obs.subcarrier_frequencies_hz)
        return None if images is None else cls(images, np.zeros(obs.received.shape, complex))

    def refined(
        self,
        block: ReceivedBlock,
        parts: list[tuple[ComplexArray, slice]],
        moments: SymbolMoments,
        noise_variance: float,
    ) -> tuple[Mixers, ReceivedBlock]:
        """Return the images after a step, and the block without them.

        Parameters
        ----------
        block : ReceivedBlock
            Without the present images.
        parts : list of (ndarray of complex, slice)
            Channels (K, N, M) of the block and their OFDM symbols.
        moments : SymbolMoments
            Symbols (K, N, T).
        noise_variance : float
            Of a sample of the block.
        """
        response = np.ones(block.received.shape[1]) if block.response is None else block.response
        scaling, whitening = response[:, None], block.whitening
        if whitening is not None:
            parts = [(whitening.undo(channel), at) for channel, at in parts]
        told = self.images.told_by(block, moments)[:, None]
        signal = _heard(parts, moments.mean) * scaling + self.of_users
        samples = block.unwhitened_samples * scaling + self.of_users
        images = self.images.refined(signal, (samples - signal) * told, noise_variance)
        samples = images.removed(self.images.added(samples))
        of_users = self.of_users
        if np.any(images.user_prior_stds):
            mirrored = images.mirrored(moments.mean.transpose(1, 0, 2)).transpose(1, 0, 2)
            alone = [
                _heard(parts, mirrored * (np.arange(len(mirrored)) == k)[:, None, None]) * scaling
                for k in range(len(mirrored))
            ]
            sent, left = np.stack(alone), (samples - signal) * told
            images = images.refined_of_users(sent, left, noise_variance)
            of_users = np.tensordot(images.user_values, sent, axes=1)
        received = (samples - of_users) / scaling
        return Mixers(images, of_users), replace(block, received=received, whitening=None).whitened(whitening)


def _heard(parts: list[tuple[ComplexArray, slice]], symbols: ComplexArray) -> ComplexArray:
    """Samples (N, M, T) that channels make of symbols (K, N, T)."""
    _, n_sub, n_symbols = symbols.shape
    out = np.empty((n_sub, parts[0][0].shape[2], n_symbols), complex)
    for channel, at in parts:
        out[..., at] = np.matmul(channel.transpose(1, 2, 0), symbols[..., at].transpose(1, 0, 2))
    return out
