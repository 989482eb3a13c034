"""What was found of the noise over the array: its covariance, and the directions that it comes from.

docs/theory.md, section 6.10.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from isac_toolbox.channel.array import AntennaArray
from isac_toolbox.estimators.search import PathSearch
from isac_toolbox.estimators.symbols.block import ReceivedBlock

__all__ = ["NoiseEstimate", "plane_waves"]

RealArray = NDArray[np.float64]
ComplexArray = NDArray[np.complex128]
BoolArray = NDArray[np.bool_]

# Guard: eigenvalues of a covariance over their median (6 dB) above which they are directions, not levels.
_STRONG = 4.0
# Guard: share of what stands out (in amplitude) that waves may leave; more, and it is no waves.
_BESIDE = 0.3
# Guard: highest of the other eigenvalues over their median; what rises further has no edge.
_FLAT = 2.5
# Guard: share of the dimensions of the array above which strong ones are no directions.
_MOST_STRONG = 0.25
# Guard: share of a response inside the strong dimensions from which on a wave comes from there.
_INSIDE = 0.9
# Guard: the same of a bin of the grid, which a wave may lie beside.
_INSIDE_BIN = 0.3
# Mathematics: steps of a search that halves its step, from half a bin to a millionth of it.
_HALVINGS = 20
# Cost cap: steps before every halving.
_MOVES = 2
# Guard: resolution cells within which two directions are one.
_APART_CELLS = 0.25


@dataclass(frozen=True, eq=False)
class NoiseEstimate:
    """The noise over the array, in the names and units of :class:`EstimationResult`."""

    noise_covariance: ComplexArray
    interferer_directions: RealArray
    interferer_power: RealArray

    @classmethod
    def of(cls, block: ReceivedBlock, search: PathSearch, noise_variance: float) -> NoiseEstimate | None:
        """Return the shape of the noise that a block was whitened by; None where it was taken as white.

        ``noise_variance`` is the mean over the elements, in the units of the observation.
        """
        whitening = block.whitening
        if whitening is None:
            return None
        in_use = search.receiver.element_mask
        shape = whitening.covariance / whitening.power(in_use)
        directions, power = plane_waves(shape, search, in_use)
        if block.response is not None:
            shape = shape * np.multiply.outer(block.response, block.response.conj())
        return cls(shape, directions, noise_variance * power)


def plane_waves(
    covariance: ComplexArray, search: PathSearch, in_use: BoolArray | None = None
) -> tuple[RealArray, RealArray]:
    """Return directions (I, 3) and powers (I,) of plane waves in a covariance (M, M), strongest first.

    The dimensions that stand out of the others hold the waves' responses; where they are few, waves are where
    a response lies inside of them (MUSIC), and powers those that fit what stands out.
    """
    array = search.receiver.array
    used = np.ones(len(covariance), bool) if in_use is None else in_use
    values, vectors = np.linalg.eigh(covariance[np.ix_(used, used)])
    level = float(np.median(values))
    strong = values > _STRONG * level
    nothing = np.zeros((0, 3)), np.zeros(0)
    few = 0 < np.count_nonzero(strong) <= _MOST_STRONG * len(values)
    if not few or values[~strong][-1] > _FLAT * level:
        return nothing
    level = float(np.mean(values[~strong]))
    own = vectors[:, strong]

    def responses(cosines: RealArray) -> ComplexArray:
        return np.asarray(array.steering_from_cosines(cosines[..., 0], cosines[..., 1])[..., used])

    def inside(cosines: RealArray) -> RealArray:
        return np.asarray(np.sum(np.abs(responses(cosines).conj() @ own) ** 2, axis=-1) / len(values))

    found = _peaks(inside, search)[: np.count_nonzero(strong)]
    if not len(found):
        return nothing
    back = np.linalg.pinv(responses(found).T)
    above = (own * (values[strong] - level)) @ own.conj().T
    fitted = back @ above @ back.conj().T
    power = np.real(np.diag(fitted))
    beside = above - responses(found).T @ fitted @ responses(found).conj()
    if np.linalg.norm(beside) > _BESIDE * np.linalg.norm(above):
        return nothing
    order = np.argsort(-power)
    return _unit_vectors(array, found[order]), power[order]


def _peaks(inside: Callable[[RealArray], RealArray], search: PathSearch) -> RealArray:
    """Direction cosines (I, 2) at which responses lie inside the strong dimensions, the clearest first."""
    grids = search.cosine_grids
    u_h, u_v = np.meshgrid(*grids, indexing="ij")
    steps = np.array([_step(grid) for grid in grids])
    bins = np.stack([u_h, u_v], axis=-1)[u_h**2 + u_v**2 <= (1 + steps.max()) ** 2]
    bins = bins[inside(bins) > _INSIDE_BIN]
    step, moves = steps / 2, np.array([[0, 0], [1, 0], [-1, 0], [0, 1], [0, -1]])
    for _ in range(_HALVINGS):
        for _ in range(_MOVES):
            around = bins[:, None] + moves * step
            bins = around[np.arange(len(bins)), np.argmax(inside(around), axis=1)]
        step = step / 2
    share = inside(bins)
    cells = search.receiver.array.cosine_cells
    found: list[RealArray] = []
    for one in np.argsort(-share):
        near = any(np.all(np.abs(bins[one] - other) < _APART_CELLS * cells) for other in found)
        if share[one] >= _INSIDE and not near and np.sum(bins[one] ** 2) <= 1:
            found.append(bins[one])
    return np.array(found).reshape(-1, 2)


def _step(grid: RealArray) -> float:
    """Distance of two bins of cosines, zero where there is one."""
    return float(np.min(np.diff(np.sort(grid)))) if grid.size > 1 else 0.0


def _unit_vectors(array: AntennaArray, cosines: RealArray) -> RealArray:
    """Directions in front of the array from cosines (I, 2), world frame, shape (I, 3)."""
    forward = np.sqrt(np.maximum(1 - np.sum(cosines**2, axis=1), 0.0))
    return np.asarray(np.column_stack([forward, cosines]) @ array.axes)
