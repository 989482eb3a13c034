"""Elements, subcarriers and symbols that carry no signal although nobody masked them.

docs/theory.md, section 2.5. Samples that are all exactly zero are certain. Where noise is left, an energy far
below that of the others makes a suspect, and the gain that a first fit finds on it decides: faded parts are
predicted to be weak, silent ones are not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from isac_toolbox.channel.atoms.dense import through
from isac_toolbox.channel.observation import UplinkObservation
from isac_toolbox.estimators.scene.fit import Fit
from isac_toolbox.estimators.symbols.block import ReceivedBlock

__all__ = ["Silence", "SilenceWatch", "listen", "without_zeros"]

RealArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
IntArray = NDArray[np.int64]

# Cost cap: an energy that is lower than the median by so many robust deviations makes a suspect.
_SUSPECT_DEVIATIONS = 4.0
# Cost cap: so does one below this share of the median, where few elements give no deviation.
_SUSPECT_SHARE = 0.25
# Mathematics: standard deviation of a Gaussian over its median absolute deviation.
_PER_MEDIAN_DEVIATION = 1.4826
# Tuned: deviations of the others' gains by which a silent gain lies below theirs.
_CERTAIN_DEVIATIONS = 8.0
# Tuned: share of the others' gain above which a part is weak but not silent.
_SILENT_GAIN = 0.3

_ZEROS = ("holds only zeros", "hold only zeros")
_SILENT = (
    f"carries no signal (gain below {_SILENT_GAIN})",
    f"carry no signal (gain below {_SILENT_GAIN})",
)


@dataclass(frozen=True, eq=False)
class Silence:
    """What carries no signal.

    Attributes
    ----------
    elements : ndarray of bool, shape (M,)
    cells : ndarray of bool, shape (N, T)
        Subcarriers and symbols.
    reason : (str, str)
        What one of them, and what several of them do.
    """

    elements: BoolArray
    cells: BoolArray
    reason: tuple[str, str]

    def __bool__(self) -> bool:
        return bool(self.elements.any() or self.cells.any())

    def joined(self, other: Silence | None) -> Silence:
        """Return what is silent here or in another finding of the same reason."""
        if other is None:
            return self
        return replace(self, elements=self.elements | other.elements, cells=self.cells | other.cells)

    def masked(self, obs: UplinkObservation) -> UplinkObservation:
        """Return the observation without the silent parts."""
        elements, samples = obs.element_mask, obs.sample_mask
        if self.elements.any():
            elements = ~self.elements if elements is None else elements & ~self.elements
        if self.cells.any():
            heard = ~self.cells[:, None, :]
            samples = heard if samples is None else samples & heard
        return replace(obs, element_mask=elements, sample_mask=samples)

    def warnings(self) -> list[str]:
        """Return one line for elements, subcarriers, OFDM symbols and single cells."""
        subcarriers = np.flatnonzero(self.cells.all(axis=1))
        symbols = np.flatnonzero(self.cells.all(axis=0))
        single = int(np.delete(np.delete(self.cells, subcarriers, axis=0), symbols, axis=1).sum())
        named = (
            ("element", np.flatnonzero(self.elements), "element_mask"),
            ("subcarrier", subcarriers, "sample_mask"),
            ("OFDM symbol", symbols, "sample_mask"),
        )
        lines = [
            f"{kind}{'s' if index.size > 1 else ''} {', '.join(map(str, index))} "
            f"{self.reason[index.size > 1]}: left out; pass {mask}"
            for kind, index, mask in named
            if index.size
        ]
        if single:
            of = "resource element" if single == 1 else "resource elements"
            lines.append(f"{single} {of} {self.reason[single > 1]}: left out; pass sample_mask")
        return lines


def without_zeros(obs: UplinkObservation) -> tuple[UplinkObservation, ReceivedBlock, list[str]]:
    """Return an observation with what is exactly zero masked, its block, and what there is to say of it.

    Samples with noise are never all zero, so that is no signal but a gap. Cells in which nobody sends may
    hold anything.
    """
    block = ReceivedBlock.of(obs)
    over_symbols, over_antennas = block.energies()
    sent = np.any((obs.pilots != 0) | ~obs.known, axis=0)
    elements = ~over_symbols.any(axis=0) & obs.usable_elements
    cells = (over_antennas == 0) & sent & obs.usable_cells
    silence = Silence(elements, cells, _ZEROS)
    if not silence:
        return obs, block, []
    masked = silence.masked(obs)
    return masked, ReceivedBlock.of(masked), silence.warnings()


def listen(
    obs: UplinkObservation,
    block: ReceivedBlock,
    first_fit: Callable[[UplinkObservation, ReceivedBlock, SilenceWatch | None], Fit],
) -> list[str]:
    """Make a first fit, again without the parts that it shows to carry no signal until there are none.

    Parameters
    ----------
    obs : UplinkObservation
    block : ReceivedBlock
        Of the observation.
    first_fit : callable
        From an observation, its block and the watch over its suspects, which it may ask on its way and which
        is asked at its end, to a fit of all users' paths.

    Returns
    -------
    list of str
        What was left out; ``first_fit`` came last with the observation without it.
    """
    silence = None
    while True:
        watch = SilenceWatch.of(block)
        fit = first_fit(obs, block, watch)
        if watch is not None and watch.found is None:
            watch(fit)
        if watch is None or watch.found is None:
            return [] if silence is None else silence.warnings()
        silence = watch.found.joined(silence)
        obs = watch.found.masked(obs)
        block = ReceivedBlock.of(obs)


@dataclass(eq=False)
class SilenceWatch:
    """Tells of suspects, from a fit that explains the others, whether they carry signal.

    Attributes
    ----------
    elements : ndarray of bool, shape (M,)
        Suspects.
    subcarriers : ndarray of bool, shape (N,)
        Suspects.
    n_symbols : int
    found : Silence, optional
        What carries no signal, once it is known.
    """

    elements: BoolArray
    subcarriers: BoolArray
    n_symbols: int
    found: Silence | None = None

    @classmethod
    def of(cls, block: ReceivedBlock) -> SilenceWatch | None:
        """Return the watch of the suspects in a block; None where there are none."""
        over_symbols, over_antennas = block.energies()
        sent = np.any((block.pilots != 0) | ~block.known, axis=0) & block.has_samples
        of_elements, of_subcarriers = _sample_counts(block, sent)
        elements = _low(over_symbols.sum(axis=0), of_elements)
        subcarriers = _low(np.sum(over_antennas, axis=1, where=sent), of_subcarriers)
        if not (elements.any() or subcarriers.any()):
            return None
        return cls(elements, subcarriers, block.received.shape[2])

    def __call__(self, fit: Fit) -> bool:
        """Return whether a fit of all users' paths shows that suspects carry no signal."""
        statistics, receiver = fit.problem.statistics, fit.problem.receiver
        channel = fit.atoms.synthesise(fit.posterior.mean, statistics.symbol_gram.shape[1])
        if receiver.element_mask is not None:
            channel[..., ~receiver.element_mask] = 0
        channel = receiver.stated(channel)
        fitted = through(statistics.symbol_gram, channel)
        found = np.sum((channel.conj() * receiver.stated(statistics.cross_correlation)).real, axis=0)
        expected = np.sum((channel.conj() * fitted).real, axis=0)
        noise = 1 / fit.problem.noise_precision
        elements = _silent(found.sum(axis=0), expected.sum(axis=0), self.elements, noise)
        subcarriers = _silent(found.sum(axis=1), expected.sum(axis=1), self.subcarriers, noise)
        if elements.any() or subcarriers.any():
            cells = np.repeat(subcarriers[:, None], self.n_symbols, axis=1)
            self.found = Silence(elements, cells, _SILENT)
        return self.found is not None


def _sample_counts(block: ReceivedBlock, sent: BoolArray) -> tuple[IntArray, IntArray]:
    """Usable samples of elements (M,) and subcarriers (N,) in cells (N, T) in which somebody sends."""
    n_elements = block.received.shape[1]
    in_use = np.ones(n_elements, bool) if block.masks is None else block.masks.elements
    if block.masks is None or block.masks.samples is None:
        return in_use * np.count_nonzero(sent), np.count_nonzero(in_use) * sent.sum(axis=1)
    usable = block.masks.samples & sent[:, None] & in_use[:, None]
    return usable.sum(axis=(0, 2)), usable.sum(axis=(1, 2))


def _low(energy: RealArray, n_samples: IntArray) -> BoolArray:
    """Parts whose mean energy is far below the median; what has no usable sample is none."""
    there = n_samples > 0
    mean = energy[there] / n_samples[there]
    median = float(np.median(mean))
    deviation = _PER_MEDIAN_DEVIATION * float(np.median(np.abs(mean - median)))
    low = np.zeros(energy.size, bool)
    low[there] = (mean < median - _SUSPECT_DEVIATIONS * deviation) | (mean < _SUSPECT_SHARE * median)
    return low


def _silent(found: RealArray, expected: RealArray, suspects: BoolArray, noise_variance: float) -> BoolArray:
    """Suspects whose gain ``found / expected`` is none, while the others' gains agree with one another.

    ``(found - gain expected) / sqrt(expected)`` has the noise of one matched sample on every part; what the
    fit does not explain yet adds to its spread over the others, so a fit that is wrong accuses nobody.
    """
    others = ~suspects & (expected > 0)
    if not (suspects.any() and others.any()):
        return np.zeros(suspects.size, bool)
    gain = float(found[others].sum() / expected[others].sum())
    scale = np.sqrt(np.maximum(expected, 1e-300))
    missing = (gain * expected - found) / scale
    spread = max(float(np.mean(missing[others] ** 2)), noise_variance / 2)
    certain = _CERTAIN_DEVIATIONS * np.sqrt(spread * (1 + _CERTAIN_DEVIATIONS / np.count_nonzero(others)))
    return suspects & (missing > certain) & (found < _SILENT_GAIN * gain * expected)
