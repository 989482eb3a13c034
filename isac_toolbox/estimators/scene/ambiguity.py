"""What a block leaves ambiguous at the end: clocks a period apart, places that look the same.

docs/theory.md, section 7.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from isac_toolbox.channel.array import SPEED_OF_LIGHT_M_S
from isac_toolbox.channel.atoms.scene import Paths
from isac_toolbox.estimators.result import Ambiguity
from isac_toolbox.estimators.scene.alternatives import Alternatives, Lattice, length_limits_m
from isac_toolbox.estimators.scene.clocks import users_without_clock
from isac_toolbox.estimators.scene.fit import Fit, evaluate
from isac_toolbox.estimators.scene.place import list_alternatives, weigh_alternatives

__all__ = ["PlaceBeliefs", "clock_ambiguities", "clock_periods_m", "spread_over"]

RealArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

# Guard: an alternative less probable than this is not worth a line.
_NEGLIGIBLE = 0.01
# Guard: alternatives listed of one quantity.
_MOST_ALTERNATIVES = 6
# Mathematics: deviations of a clock beyond which no alternative has any weight.
_CLOCK_REACH = 8.0
# Cost cap: periods that are weighed one by one; the prior over more of them is as good as a smooth one.
_MOST_PERIODS = 10_000


def clock_periods_m(pilots: Lattice, used: Lattice, constellation: NDArray[np.complex128]) -> RealArray:
    """Return the shift of every user's clock, as a length, that its pilots and data do not see, shape (K,).

    A shift by a period of the pilots' tones turns the symbols between them by multiples of a fraction of a
    turn; where that fraction maps the constellation to itself, the data do not see it either.

    Parameters
    ----------
    pilots, used : Lattice
        Of the tones with pilots, and of all tones that were used.
    constellation : ndarray of complex, shape (Q,)
    """
    finer = np.rint(used.length_periods_m / pilots.length_periods_m).astype(int)
    quarter = _maps_to_itself(constellation, 1j)
    half = _maps_to_itself(constellation, -1)
    order = 4 if quarter else 2 if half else 1
    multiples = finer // np.gcd(finer, order)
    return np.asarray(pilots.length_periods_m * multiples)


def _maps_to_itself(constellation: NDArray[np.complex128], turn: complex) -> bool:
    distance = np.abs(constellation[:, None] * turn - constellation)
    return bool(np.all(distance.min(axis=1) < 1e-6))


def clock_ambiguities(
    offsets_m: RealArray, stds_m: RealArray, periods_m: RealArray
) -> tuple[tuple[Ambiguity, ...], RealArray]:
    """Return the clocks that have more than one likely value, and the variance in m^2 that adds, shape (K,).

    Everything but the prior of mean zero is the same for clocks a period apart, so it alone weighs them.

    Parameters
    ----------
    offsets_m, stds_m, periods_m : ndarray, shape (K,)
        Estimates, deviations of the prior, and periods, as lengths.
    """
    found, variance = [], np.zeros(len(offsets_m))
    for k, (offset, std, period) in enumerate(zip(offsets_m, stds_m, periods_m, strict=True)):
        reach = int(_CLOCK_REACH * std / period) + 1
        if reach > _MOST_PERIODS:  # none of them is likely by itself
            variance[k] = std**2 + offset**2
            continue
        steps = np.array(sorted(range(-reach, reach + 1), key=abs))
        values = offset + period * steps
        log_weight = -0.5 * (values / std) ** 2 if std > 0 else np.where(steps == 0, 0.0, -np.inf)
        weight = np.exp(log_weight - log_weight.max())
        weight /= weight.sum()
        variance[k] = float(weight @ (values - offset) ** 2)
        likely = (weight > _NEGLIGIBLE) | (steps == 0)
        if np.count_nonzero(likely) > 1:
            seconds = values[likely, None] / SPEED_OF_LIGHT_M_S
            found.append(Ambiguity("clock", k, seconds, weight[likely] / weight[likely].sum()))
    return tuple(found), variance


@dataclass(frozen=True, eq=False)
class PlaceBeliefs:
    """What is believed of the places of a fit's paths that have more than one.

    Attributes
    ----------
    fit : Fit
    index : ndarray of int, shape (P,)
        Paths of the fit that are no line of sight.
    alternatives : Alternatives
        Of these paths.
    belief : ndarray, shape (A,)
    """

    fit: Fit
    index: IntArray
    alternatives: Alternatives
    belief: RealArray

    @classmethod
    def of(cls, fit: Fit) -> PlaceBeliefs | None:
        """Return the beliefs, or None where no path could run elsewhere and look the same."""
        paths, scene, problem = fit.paths, fit.scene, fit.problem
        if not problem.prior.has_places:
            return None
        if not all(problem.receiver.array.sees_cosines):
            return None  # places of a linear array are weighed along its cones
        if Lattice.of(problem).has_none(length_limits_m(problem, scene.users_m)):
            return None
        index = np.flatnonzero(~paths.is_line_of_sight)
        parameters = np.column_stack([fit.parameters.length_m, *fit.parameters.cosines])[index]
        user = paths.user[index]
        snr = problem.noise_precision * problem.user_energies[user] * np.abs(fit.posterior.mean[index]) ** 2
        alternatives = list_alternatives(problem, scene, parameters, user, snr)
        sight, seen, _ = paths.membership(len(scene.users_m), len(scene.points_m))
        lost = users_without_clock(problem, sight, seen.sum(axis=1))
        alternatives = alternatives.only(~lost[user[alternatives.path]])
        several = alternatives.counts(index.size) > 1
        if not several.any():
            return None
        untied = scene.take(slice(0, 0), slice(0, 0)).extended(
            np.zeros((0, 3)), parameters, _further_hz(fit, index)
        )
        order = np.concatenate([np.flatnonzero(paths.is_line_of_sight), index])
        alone = evaluate(
            problem, untied, Paths.build(sight, seen[:, :0], user), fit.posterior.prior_precision[order]
        )
        return cls(fit, index, alternatives, weigh_alternatives(alone, alternatives))

    @property
    def _share(self) -> RealArray:
        """Probability of every alternative, given that its path runs over one of them, shape (A,)."""
        path = self.alternatives.path
        total = np.bincount(path, self.belief, minlength=self.index.size)
        return np.asarray(self.belief / np.maximum(total[path], 1e-300))

    def point_weights(self) -> RealArray:
        """Return the probability of every point against the places that look the same, shape (S,).

        Of the users that see it the surest counts.
        """
        paths, scene = self.fit.paths, self.fit.scene
        target = paths.target[self.index[self.alternatives.path]]
        present = self._is_present()
        weight = np.zeros(len(scene.points_m))
        np.maximum.at(weight, target[present], self._share[present])
        judged = np.zeros(len(weight), bool)
        judged[target[present]] = True
        return np.where(judged, weight, 1.0)

    def _is_present(self) -> BoolArray:
        """Which alternatives are the points that the fit has, shape (A,)."""
        target = self.fit.paths.target[self.index[self.alternatives.path]]
        located = target >= 0
        apart = np.full(target.size, np.inf)
        points = self.fit.scene.points_m[target[located]]
        apart[located] = np.linalg.norm(self.alternatives.points_m[located] - points, axis=1)
        nearest = np.full(self.index.size, np.inf)
        np.minimum.at(nearest, self.alternatives.path, apart)
        return np.isfinite(apart) & (apart == nearest[self.alternatives.path])

    def ambiguities(self, shown: BoolArray) -> tuple[Ambiguity, ...]:
        """Return the scatterers and unlocated paths that have more than one likely place.

        Parameters
        ----------
        shown : ndarray of bool, shape (S,)
            Points that are reported as scatterers; paths over others count as unlocated.
        """
        return (*self._of_scatterers(shown), *self._of_paths(shown))

    def _of_scatterers(self, shown: BoolArray) -> Iterator[Ambiguity]:
        target, share = self.fit.paths.target[self.index], self._share
        present = self._is_present()
        for row, point in enumerate(np.flatnonzero(shown)):
            own = present & (target[self.alternatives.path] == point)
            if own.any():
                surest = self.alternatives.path[own][np.argmax(share[own])]
                yield from self._entry("scatterer", row, int(surest))

    def _of_paths(self, shown: BoolArray) -> Iterator[Ambiguity]:
        target = self.fit.paths.target[self.index]
        unlocated = np.flatnonzero((target < 0) | ~np.append(shown, True)[np.maximum(target, -1)])
        for row, position in enumerate(unlocated):
            yield from self._entry("path", row, int(position))

    def _entry(self, kind: str, row: int, position: int) -> Iterator[Ambiguity]:
        """The ambiguity of one path, if it has several likely places; the present one first."""
        own = np.flatnonzero(self.alternatives.path == position)
        present = self._is_present()[own]
        likely = own[(self._share[own] > _NEGLIGIBLE) | (present & (kind == "scatterer"))]
        if likely.size < 2:
            return
        order = np.lexsort((-self._share[likely], ~self._is_present()[likely]))
        likely = likely[order[:_MOST_ALTERNATIVES]]
        weight = self._share[likely]
        yield Ambiguity(kind, row, self.alternatives.points_m[likely], weight / weight.sum())


def spread_over(ambiguities: tuple[Ambiguity, ...], n_scatterers: int) -> RealArray:
    """Return the covariance that other places add to each scatterer's, shape (S_hat, 3, 3), in m^2."""
    added = np.zeros((n_scatterers, 3, 3))
    for entry in ambiguities:
        if entry.kind == "scatterer":
            away = entry.alternatives - entry.alternatives[0]
            added[entry.index] = np.einsum("a,ai,aj->ij", entry.weights, away, away)
    return added


def _further_hz(fit: Fit, index: IntArray) -> RealArray:
    """Doppler shifts of paths beside the offsets of their users, zero where nothing moves, shape (F,)."""
    motion, shifts = fit.scene.motion, fit.parameters.doppler_hz
    if motion is None or shifts is None:
        return np.zeros(index.size)
    return np.asarray(shifts[index] - motion.offsets_hz[fit.paths.user[index]])
