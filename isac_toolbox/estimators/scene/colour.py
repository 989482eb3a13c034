"""The shape of a block's noise over the array: known, or learned from what no channel explains.

docs/theory.md, section 6.10.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from isac_toolbox.channel.atoms.whitening import Whitening
from isac_toolbox.channel.observation import UplinkObservation
from isac_toolbox.estimators.scene.derotation import evolution_of
from isac_toolbox.estimators.scene.fit import Fit
from isac_toolbox.estimators.symbols.block import ReceivedBlock
from isac_toolbox.estimators.symbols.colour import LeftOver, left_by_channels, left_by_symbols, shrunk
from isac_toolbox.estimators.symbols.statistics import (
    SymbolMoments,
    least_squares_channel,
    pilot_statistics,
)

__all__ = [
    "elements_in_use",
    "estimates_noise",
    "first_whitening",
    "left_by_scene",
    "takes_colour",
    "whitening_of",
]

ComplexArray = NDArray[np.complex128]
BoolArray = NDArray[np.bool_]

# Guard: nats an element by which noise of another shape must explain more; twenty parameters fitted to noise.
_CHANCE = 10.0
# Tuned: variance of a data symbol (of a mean energy of one) up to which it counts as decided.
_DECIDED = 0.05


def asks_for_colour(obs: UplinkObservation) -> bool:
    """Return whether the noise may be other than white, and that is taken into account."""
    hardware = obs.hardware
    if hardware is None or not (hardware.estimates_noise or hardware.noise_covariance is not None):
        return False
    return takes_colour(obs)


def estimates_noise(obs: UplinkObservation) -> bool:
    """Return whether the shape of the noise is to be learned."""
    return obs.hardware is not None and obs.hardware.estimates_noise and takes_colour(obs)


def takes_colour(obs: UplinkObservation) -> bool:
    """Return whether the shape of the noise over the array can be taken into account.

    Not with beam squint, which makes it differ over the band, nor where single samples are missing.
    """
    if obs.beam_squint:
        return False
    usable = obs.usable
    if usable is None:
        return True
    whole = obs.usable_elements[:, None] & obs.usable_cells[:, None, :]
    return bool(np.array_equal(whole, usable))


def first_whitening(obs: UplinkObservation, block: ReceivedBlock) -> Whitening | None:
    """Return the whitening of the noise as it is known, or as the pilots show it; None where it is white."""
    if obs.hardware is None or not takes_colour(obs):
        return None
    covariance = obs.hardware.noise_covariance
    if covariance is not None:
        if block.response is not None:
            covariance = covariance / np.multiply.outer(block.response, block.response.conj())
        return Whitening.of(covariance, None if block.masks is None else block.masks.elements)
    if not obs.hardware.estimates_noise:
        return None
    return whitening_of(_left_by_pilots(obs, block), block)


def whitening_of(left: LeftOver, block: ReceivedBlock, fit: Fit | None = None) -> Whitening | None:
    """Return the whitening of noise that is left of a block; None where it is too little to tell a shape.

    Distortion of the signals of a fit may be part of it.
    """
    if not left.tells:
        return None
    in_use = elements_in_use(block)
    covariance = np.eye(in_use.size, dtype=complex)
    signal = None if fit is None else _signal_covariance(fit)[np.ix_(in_use, in_use)]
    covariance[np.ix_(in_use, in_use)] = shrunk(left, signal)
    return Whitening.of(covariance, in_use)


def shows_colour(obs: UplinkObservation, fit: Fit, block: ReceivedBlock, moments: SymbolMoments) -> bool:
    """Return whether what no channel explains, beside all symbols, is far from white.

    Beside the pilots where too few symbols are decided: there rough channels may let signals through.
    """
    in_use, left = elements_in_use(block), left_by_scene(fit, block, moments)
    if not left.tells:
        left = _left_by_pilots(obs, block)
    found = whitening_of(left, block, fit)
    return found is not None and bool(left.nats_of(found, in_use) > _CHANCE * np.count_nonzero(in_use))


def _signal_covariance(fit: Fit) -> ComplexArray:
    """Covariance (M, M) of the signals of all users over the elements, of any scale."""
    channel = fit.atoms.synthesise(fit.posterior.mean, fit.problem.statistics.symbol_gram.shape[1])
    flat = fit.problem.receiver.stated(channel).reshape(-1, channel.shape[2])
    return np.asarray(flat.T @ flat.conj())


def left_by_scene(fit: Fit, block: ReceivedBlock, moments: SymbolMoments) -> LeftOver:
    """Return what pilots and decided data leave of the samples beside any channel of the users.

    In a block that moves the paths are taken out first, as far as they turn apart.
    """
    used = (np.max(moments.variance, axis=0) < _DECIDED) & block.has_samples
    samples, symbols = block.unwhitened_samples, moments.mean
    if block.derotation is not None:
        evolution = evolution_of(fit, block.derotation, 1.0)
        for t in range(evolution.n_symbols):
            samples[..., t] -= np.einsum("knm,kn->nm", evolution.at([t])[..., 0], symbols[..., t])
        symbols = moments.derotated(block.derotation.factors).mean
    return left_by_symbols(samples[:, elements_in_use(block)], symbols, used)


def _left_by_pilots(obs: UplinkObservation, block: ReceivedBlock) -> LeftOver:
    """What remains before there is a scene: beside the pilots where these leave room, else the channels."""
    samples = block.received[:, elements_in_use(block)]
    if obs.motion is None:
        used = np.all(block.known, axis=0) & block.has_samples
        left = left_by_symbols(samples, np.where(used, block.pilots, 0), used)
        if left.tells:
            return left
    channel = least_squares_channel(pilot_statistics(block), obs.subcarrier_frequencies_hz)
    return left_by_channels(samples, channel[..., elements_in_use(block)], block.has_samples)


def elements_in_use(block: ReceivedBlock) -> BoolArray:
    """Return the elements with samples, shape (M,)."""
    n_elements = block.received.shape[1]
    return np.ones(n_elements, bool) if block.masks is None else block.masks.elements
