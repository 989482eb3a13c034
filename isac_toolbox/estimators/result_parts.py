"""Parts of a result: candidates, ambiguities, misfit, information."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

__all__ = ["Ambiguity", "Candidates", "ElementInformation", "Misfit", "MisfitAxis", "SceneInformation"]

RealArray = NDArray[np.float64]

# Guard: probability of a residual as far from noise as that seen, below which noise does not explain it.
_IMPROBABLE = 1e-6
# Guard: excess that matters, in dB; less costs an estimate little.
_RELEVANT_DB = 1.0


@dataclass(frozen=True, eq=False)
class Candidates:
    """Every point that the posterior judged, whatever its probability: C of them.

    Points merged into another one are that one's; points dropped on the way keep their last probability.

    Attributes
    ----------
    scatterer_positions_m : ndarray, shape (C, 3)
    scatterer_probability : ndarray, shape (C,)
    visibility_probability : ndarray, shape (K, C)
    """

    scatterer_positions_m: RealArray
    scatterer_probability: RealArray
    visibility_probability: RealArray


@dataclass(frozen=True, eq=False)
class Ambiguity:
    """A quantity of which the block allows more than one value: A of them.

    Attributes
    ----------
    kind : {"clock", "scatterer", "path"}
        What is ambiguous: the clock offset of a user, in seconds; the place of a scatterer, in metres; or the
        place of the scatterer of an unlocated path, if it is a single bounce in the region.
    index : int
        Which user, which row of ``scatterer_positions_m``, or which unlocated path.
    alternatives : ndarray, shape (A, D)
        The values, D = 1 for a clock and 3 for a place; for clocks and scatterers the first is the one
        reported.
    weights : ndarray, shape (A,)
        Their posterior probabilities, of sum one.
    """

    kind: str
    index: int
    alternatives: RealArray
    weights: RealArray

    def __str__(self) -> str:
        return self.in_words()

    def in_words(self, first: int = 0) -> str:
        """Return values and weights as a line of text; users and scatterers are counted from ``first``."""
        of = {"clock": "clock of user", "scatterer": "place of scatterer", "path": "place of unlocated path"}
        values = (self._in_words(*pair) for pair in zip(self.alternatives, self.weights, strict=True))
        return f"{of[self.kind]} {self.index + first}: {', '.join(values)}"

    def _in_words(self, value: RealArray, weight: float) -> str:
        if self.kind == "clock":
            return f"{value[0] * 1e9:.1f} ns ({weight:.2f})"
        return f"({', '.join(f'{x:.2f}' for x in value)}) m ({weight:.2f})"


@dataclass(frozen=True)
class MisfitAxis:
    """How far a residual is from noise along one axis.

    Attributes
    ----------
    part : str
        What is furthest from noise: ``"echoes"`` (delay), ``"colour"`` (direction), ``"rotation"`` or
        ``"power"`` (time), ``"response"`` or ``"power"`` (element).
    excess_db : float
        Power of that part over what noise leaves there on average; zero where the block cannot tell.
    p_value : float
        Probability of noise that is at least as uneven along this axis; one where the block cannot tell.
    """

    part: str
    excess_db: float
    p_value: float

    @property
    def fails(self) -> bool:
        """Whether noise does not explain it."""
        return self.p_value < _IMPROBABLE and self.excess_db > _RELEVANT_DB


@dataclass(frozen=True)
class Misfit:
    """What an estimate leaves of the samples, against noise: over delay, direction, symbols and elements.

    Attributes
    ----------
    delay, direction, time, element : MisfitAxis
    """

    delay: MisfitAxis
    direction: MisfitAxis
    time: MisfitAxis
    element: MisfitAxis

    @property
    def axes(self) -> dict[str, MisfitAxis]:
        """All four by name."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @property
    def failing(self) -> tuple[str, ...]:
        """Names of the axes that noise does not explain, that with the largest excess first."""
        failing = [name for name, axis in self.axes.items() if axis.fails]
        return tuple(sorted(failing, key=lambda name: -getattr(self, name).excess_db))


@dataclass(frozen=True, eq=False)
class SceneInformation:
    """What the samples of a block alone say of its scene, all priors left out: a Gaussian in all unknowns.

    Up to a constant the log likelihood of a vector ``x`` of P entries is ``b^T x - x^T J x / 2``. Of S
    scatterers and K users ``x`` holds positions of scatterers (3 S) and users (3 K) and clock offsets as
    lengths ``c t`` (K), in metres; of a block that moves also frequency offsets in Hz (K) and velocities of
    users (3 K) and scatterers (3 S) in m/s.

    Attributes
    ----------
    matrix : ndarray, shape (P, P)
        ``J``, positive semi-definite; singular where the samples leave something open.
    vector : ndarray, shape (P,)
        ``b``.
    n_scatterers, n_users : int

    Notes
    -----
    Blocks are fused by adding what each says to what was known before; docs/theory.md, section 11.2.
    """

    matrix: RealArray
    vector: RealArray
    n_scatterers: int
    n_users: int

    @property
    def moves(self) -> bool:
        """Whether it speaks of motion."""
        return self.vector.size > 3 * self.n_scatterers + 4 * self.n_users


@dataclass(frozen=True, eq=False)
class ElementInformation:
    """What the samples of a block alone say of the responses of M elements: a Gaussian.

    Up to a constant the log likelihood of the relative gains and phases ``x`` (2 M,), gains first, on top of
    the stated response is ``b^T x - x^T J x / 2``.

    Attributes
    ----------
    matrix : ndarray, shape (2 M, 2 M)
        ``J``, positive semi-definite.
    vector : ndarray, shape (2 M,)
        ``b``.
    """

    matrix: RealArray
    vector: RealArray
