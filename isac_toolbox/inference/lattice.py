"""Lattice field: neighbouring sites of a grid are active together (docs/theory.md, section 4.4)."""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import expit, logsumexp

from isac_toolbox._validation import (
    check_axis_couplings,
    check_fraction,
    check_grid_shape,
    check_integer,
    check_positive,
    check_probabilities,
    check_pseudo_counts,
    check_real_vector,
)
from isac_toolbox.inference import _lattice_kernels as _lattice
from isac_toolbox.inference._chain_evidence import log_pair
from isac_toolbox.inference.support import _ratio

#: Names that ``learn_parameters`` may hold.
LEARNABLE = ("probability", "coupling", "member_probability")
#: Guard: largest coupling that can be given. What ``learned`` finds stays in addition below the critical
#: coupling, where the messages of the field without evidence contract by at least ``CONTRACTION`` per step.
COUPLING_LIMIT, CONTRACTION = 30.0, 0.9
#: Prior: pseudo-pairs of independent sites that the pair counts of an axis are added to, and the fraction of
#: the way to the new coupling that one ``learned`` goes (tuned).
PAIR_PRIOR, COUPLING_STEP = 4.0, 0.5


@dataclass(frozen=True)
class LatticePosterior:
    """Posterior of a lattice field given all messages; exact without loops.

    Attributes
    ----------
    site_probability : ndarray, shape (n_sites,)
        ``P(z_j = 1 | all)``.
    member_probability : ndarray, shape (n,)
        ``P(s_i = 1 | all)``.
    pair_probability : ndarray, shape (n_edges, 2, 2)
        ``P(z_j = a, z_l = b | all)`` at ``[edge, a, b]`` for the sites ``j, l`` of ``Lattice.edges[edge]``.
    log_evidence : float
        Bethe approximation of ``ln p(all messages)``, with likelihood ``exp(L s)`` each.
    converged : bool
        Whether the messages settled within the tolerance.
    """

    site_probability: np.ndarray
    member_probability: np.ndarray
    pair_probability: np.ndarray
    log_evidence: float
    converged: bool


class Lattice:
    """Binary field with nearest-neighbour couplings on a grid: activity comes in bursts.

    Each site may gate several members (users): a closed site forces its members to zero, inside an open one
    member ``k`` is active with its own probability, as in ``GatedChain.independent_members``.

    Parameters
    ----------
    shape : int or sequence of int
        Sites along each of one to three axes. Sites are counted in C order (last axis fastest) and the
        members of a site are contiguous.
    probability : float or array_like, shape (n_sites,)
        Prior probability of an active site; it sets the external field, with the border taken into account.
    coupling : float or sequence of float, one per axis
        Log odds ratio ``ln(p11 p00 / (p01 p10))`` of two neighbours, in [0, 30]; 0 is independent.
    n_members : int
        Members per site.
    member_probability : float or array_like, shape (n_members,), optional
        Probability of a member inside an active site, one for all or one per member index; by default 0.5 for
        each index, and with ``n_members = 1`` the member is the site.
    learn_parameters : bool or collection of str
        Whether ``learned`` changes anything, or the names of what it may change out of "probability",
        "coupling" and "member_probability".
    n_sweeps : int
        Largest number of forward-backward sweeps.
    damping : float
        Share of the old message kept in an update, in [0, 1). Convergence does not need it.
    tol : float
        Change of every message at which the sweeps stop.
    site_prior, member_prior : (float, float)
        Beta pseudo-counts ``(a, b)`` of a site and of a member inside an active site.

    Attributes
    ----------
    edges : ndarray, shape (n_edges, 2)
        Neighbouring sites, axis by axis.
    edge_axis : ndarray, shape (n_edges,)
        Axis of each edge.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, shape or range.

    Notes
    -----
    ``learned`` changes a scalar probability (a map of sites is kept as given), the coupling as one number or
    one per axis, as it was given, and the member probabilities likewise. A coupling above the critical one
    can be given, but the field may then fill the whole grid from one burst; ``learned`` stays below. Messages
    start at their lower bounds, from which they only rise, to the least active fixed point: they cannot
    oscillate.
    A message leaves its coefficient's own ``L`` out of the site and of the edge to it. Without loops this is
    exact; around a loop of the grid a damped trace of it comes back. Source: docs/theory.md, section 4.4.
    """

    def __init__(
        self,
        shape: int | Sequence[int],
        probability: float | Sequence[float] | np.ndarray = 0.1,
        coupling: float | Sequence[float] | np.ndarray = 1.0,
        n_members: int = 1,
        member_probability: float | Sequence[float] | np.ndarray | None = None,
        learn_parameters: bool | Collection[str] = True,
        n_sweeps: int = 200,
        damping: float = 0.0,
        tol: float = 1e-8,
        site_prior: tuple[float, float] = (1.0, 1.0),
        member_prior: tuple[float, float] = (1.0, 1.0),
    ) -> None:
        self.shape = check_grid_shape("shape", shape)
        self.n_members = check_integer("n_members", n_members)
        self.probability = check_probabilities("probability", probability, (self.n_sites,))
        self.coupling = check_axis_couplings("coupling", coupling, len(self.shape), COUPLING_LIMIT)
        self._learns = _learnable(learn_parameters)
        if member_probability is None and self.n_members == 1:
            member_probability = 1.0
            self._learns -= {"member_probability"}
        member = np.full(self.n_members, 0.5) if member_probability is None else member_probability
        self.member_probability = check_probabilities("member_probability", member, (self.n_members,))
        self.n_sweeps = check_integer("n_sweeps", n_sweeps)
        self.damping = check_fraction("damping", damping, low_open=False)
        self.tol = check_positive("tol", tol)
        self.site_prior = check_pseudo_counts("site_prior", site_prior)
        self.member_prior = check_pseudo_counts("member_prior", member_prior)
        self._neighbours, self.edges, self.edge_axis = _grid(self.shape)

    @property
    def n_sites(self) -> int:
        """Number of sites."""
        return int(np.prod(self.shape))

    @property
    def n_coefficients(self) -> int:
        """Number of members over all sites."""
        return self.n_sites * self.n_members

    def extrinsic_log_odds(self, L: np.ndarray) -> np.ndarray:
        """Return ``e_i = logit P(s_i = 1 | all messages but L_i)``, (n,).

        Infinite only where the parameters are exactly 0 or 1.

        Raises
        ------
        TypeError, ValueError
            If ``L`` is not a finite real vector of length n.
        """
        return self._member_log_odds(self._propagate(L))

    def site_log_odds(self, L: np.ndarray) -> np.ndarray:
        """Return the posterior log-odds of every site given all messages, (n_sites,)."""
        return self._propagate(L).site_log_odds

    def posterior(self, L: np.ndarray) -> LatticePosterior:
        """Return site, member and pair probabilities given all messages."""
        p = self._propagate(L)
        pairs, log_pairs = self._pair_beliefs(p)
        prior = log_pair(p.probability)
        log_sites = np.logaddexp(prior[:, 0], prior[:, 1] + p.evidence + p.messages.sum(axis=1))
        degree = np.sum(self._neighbours >= 0, axis=1)
        return LatticePosterior(
            site_probability=expit(p.site_log_odds),
            member_probability=expit(self._member_log_odds(p) + p.ratio.ravel()),
            pair_probability=pairs,
            log_evidence=float(np.sum((1 - degree) * log_sites) + np.sum(log_pairs)),
            converged=p.converged,
        )

    def learned(self, L: np.ndarray) -> Lattice:
        """Return the graph after one step that matches expected site and pair statistics to the posterior.

        ``probability = (a + sum P(z)) / (a + b + n_sites)``; the coupling goes half of the way to the log
        odds ratio of the expected pairs, shrunk to independence; it stays non-negative and below the critical
        one.
        """
        if not self._learns:
            return self
        posterior, new = self.posterior(L), copy.copy(self)
        if "member_probability" in self._learns:
            new.member_probability = self._learned_members(posterior)
        if "probability" in self._learns and np.ndim(self.probability) == 0:
            total, old = float(np.sum(posterior.site_probability)), np.asarray(self.probability)
            new.probability = float(_ratio(total, self.n_sites - total, self.site_prior, old))
        if "coupling" in self._learns:
            new.coupling = new._learned_coupling(posterior.pair_probability)
        return new

    def _learned_members(self, posterior: LatticePosterior) -> float | np.ndarray:
        """``p_k = (a + sum P(s = 1)) / (a + b + sum P(z = 1))``, of each member index or of all together."""
        active = posterior.member_probability.reshape(self.n_sites, self.n_members).sum(axis=0)
        is_open = np.full(self.n_members, np.sum(posterior.site_probability))
        old = np.asarray(self.member_probability)
        if old.ndim == 0:
            active, is_open = np.sum(active), np.sum(is_open)
        learned = _ratio(active, is_open - active, self.member_prior, old)
        return float(learned) if old.ndim == 0 else learned

    def _learned_coupling(self, pairs: np.ndarray) -> float | np.ndarray:
        """Coupling of each axis, or of all together, moved towards that of the expected pairs."""
        old = np.asarray(self.coupling)
        learned = np.atleast_1d(old).copy()
        for a in range(learned.size):
            chosen = pairs if old.ndim == 0 else pairs[self.edge_axis == a]
            if len(chosen):
                target = np.clip(_log_odds_ratio(chosen.sum(axis=0)), 0.0, COUPLING_LIMIT)
                learned[a] += COUPLING_STEP * (target - learned[a])
        learned *= self._stable_scale(learned)
        return float(learned[0]) if old.ndim == 0 else learned

    def _stable_scale(self, coupling: np.ndarray) -> float:
        """Largest factor up to 1 with which the couplings keep the messages contracting, by bisection.

        With ``lam = P(active | active) - P(active | inactive)`` per axis and ``d`` neighbours along it, a
        change of all messages shrinks by the factor ``c`` solving ``sum d lam / (c + lam) = 1``. A single
        axis has no loop and no critical coupling.
        """
        if sum(size > 1 for size in self.shape) < 2:
            return 1.0
        p = np.asarray(self.probability).ravel()
        p = p[np.argmin(np.abs(p - 0.5))]
        degree = 2.0 - 2.0 / np.array(self.shape)

        def is_stable(scale: float) -> bool:
            gain = np.expm1(scale * np.broadcast_to(coupling, degree.shape))
            q = _active_beside_inactive(p, p, gain)
            contrast = q * gain * (1.0 - q) / (1.0 + gain * q)
            return bool(np.sum(degree * contrast / (CONTRACTION + contrast)) <= 1.0)

        if is_stable(1.0):
            return 1.0
        low, high = 0.0, 1.0
        for _ in range(40):
            middle = 0.5 * (low + high)
            low, high = (middle, high) if is_stable(middle) else (low, middle)
        return low

    def _propagate(self, L: np.ndarray) -> _Propagated:
        """Run the sweeps on validated messages."""
        ratio = check_real_vector("L", L, self.n_coefficients).reshape(self.n_sites, self.n_members)
        log_member = log_pair(np.broadcast_to(np.asarray(self.member_probability), (self.n_members,)))
        factors = np.logaddexp(log_member[:, 0], log_member[:, 1] + ratio)
        probability = np.broadcast_to(np.asarray(self.probability), (self.n_sites,))
        log_sites = log_pair(probability)
        log_odds = log_sites[:, 1] - log_sites[:, 0]
        coupling = np.broadcast_to(np.asarray(self.coupling), (len(self.shape),))
        gain = np.expm1(np.repeat(coupling, 2))
        offset = self._offsets(probability, gain)
        messages = offset.copy()
        evidence = factors.sum(axis=1)
        _, change = _lattice.sum_product(
            log_odds + evidence,
            self._neighbours,
            gain,
            offset,
            messages,
            self.n_sweeps,
            self.damping,
            self.tol,
        )
        converged = bool(change <= self.tol)
        return _Propagated(
            ratio, factors, log_member, probability, log_odds, evidence, offset, messages, converged
        )

    def _offsets(self, probability: np.ndarray, gain: np.ndarray) -> np.ndarray:
        """``-ln(1 + (e^W - 1) q)`` of each incoming message, ``q = P(neighbour active | site inactive)``."""
        other = probability[self._neighbours]
        inside = self._neighbours >= 0
        return np.where(
            inside, -np.log1p(gain * _active_beside_inactive(probability[:, None], other, gain)), 0.0
        )

    def _member_log_odds(self, p: _Propagated) -> np.ndarray:
        """Extrinsic log-odds of all members: the site without the member's own factor, times the member."""
        earlier, later = np.zeros_like(p.factors), np.zeros_like(p.factors)
        earlier[:, 1:] = np.cumsum(p.factors[:, :-1], axis=1)
        later[:, :-1] = np.cumsum(p.factors[:, :0:-1], axis=1)[:, ::-1]
        site = (p.log_odds + p.messages.sum(axis=1))[:, None] + (earlier + later)
        return (p.log_member[:, 1] - np.logaddexp(-site, p.log_member[:, 0])).ravel()

    def _pair_beliefs(self, p: _Propagated) -> tuple[np.ndarray, np.ndarray]:
        """Pair probabilities (n_edges, 2, 2) and the log normaliser of each pair (n_edges,)."""
        first, second = self.edges.T
        back, ahead = 2 * self.edge_axis, 2 * self.edge_axis + 1
        coupling = np.broadcast_to(np.asarray(self.coupling), (len(self.shape),))[self.edge_axis]
        gain = np.expm1(coupling)
        q = _active_beside_inactive(p.probability[first], p.probability[second], gain)
        table = log_pair(p.probability[first])[:, :, None] + log_pair(q)[:, None, :]
        table[:, 1, 1] += coupling
        table[:, 1, :] -= np.log1p(gain * q)[:, None]
        total = p.evidence + p.messages.sum(axis=1)
        table[:, 1, :] += (total[first] - p.messages[first, ahead])[:, None]
        table[:, :, 1] += (total[second] - p.messages[second, back])[:, None]
        log_pairs = logsumexp(table, axis=(1, 2)) if len(table) else np.zeros(0)
        return np.exp(table - log_pairs[:, None, None]), log_pairs


@dataclass(frozen=True)
class _Propagated:
    """Messages, logs of the parameters and results of the sweeps."""

    ratio: np.ndarray
    factors: np.ndarray
    log_member: np.ndarray
    probability: np.ndarray
    log_odds: np.ndarray
    evidence: np.ndarray
    offset: np.ndarray
    messages: np.ndarray
    converged: bool

    @property
    def site_log_odds(self) -> np.ndarray:
        """Posterior log-odds of the sites."""
        return self.log_odds + self.evidence + self.messages.sum(axis=1)


def _active_beside_inactive(site: np.ndarray, other: np.ndarray, gain: np.ndarray) -> np.ndarray:
    """``q = P(other active | site inactive)`` of two sites with given marginals and odds ratio ``1 + gain``.

    The non-negative root of ``gain (1 - p) q^2 + (1 + gain (p - p')) q - p' = 0``, without cancellation.
    """
    square, linear = gain * (1.0 - site), 1.0 + gain * (site - other)
    root = np.sqrt(linear**2 + 4.0 * square * other)
    rising = linear > 0.0
    q = np.where(
        rising,
        2.0 * other / np.where(rising, linear + root, 1.0),
        (root - linear) / np.where(rising, 1.0, 2.0 * square),
    )
    return np.clip(q, 0.0, 1.0)


def _log_odds_ratio(counts: np.ndarray) -> float:
    """Log odds ratio of a table of pair counts, on top of pseudo-pairs of independent sites."""
    active, total = counts[1, 1] + 0.5 * (counts[0, 1] + counts[1, 0]), counts.sum()
    p = active / total
    mixed = 0.5 * (counts[0, 1] + counts[1, 0]) + PAIR_PRIOR * p * (1.0 - p)
    agree = (counts[1, 1] + PAIR_PRIOR * p**2) * (counts[0, 0] + PAIR_PRIOR * (1.0 - p) ** 2)
    if not (mixed > 0.0 and agree > 0.0):
        return 0.0
    return float(np.log(agree) - 2.0 * np.log(mixed))


def _grid(shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Neighbours (n_sites, 2 n_axes), edges (n_edges, 2) axis by axis, and the axis of each edge."""
    site = np.arange(int(np.prod(shape))).reshape(shape)
    neighbours = np.full((site.size, 2 * len(shape)), -1, dtype=np.int64)
    edges, axes = [], []
    for a, size in enumerate(shape):
        first = np.take(site, np.arange(size - 1), axis=a).ravel()
        second = np.take(site, np.arange(1, size), axis=a).ravel()
        neighbours[first, 2 * a + 1], neighbours[second, 2 * a] = second, first
        edges.append(np.stack([first, second], axis=1))
        axes.append(np.full(first.size, a))
    return neighbours, np.concatenate(edges), np.concatenate(axes)


def _learnable(value: bool | Collection[str]) -> set[str]:
    """Names of the parameters that ``learned`` may change."""
    if isinstance(value, (bool, np.bool_)):
        return set(LEARNABLE) if value else set()
    if isinstance(value, str) or not isinstance(value, Collection):
        raise TypeError(f"learn_parameters must be a bool or a collection of names, got {value!r}")
    unknown = [name for name in value if name not in LEARNABLE]
    if unknown:
        raise ValueError(f"learn_parameters must hold names out of {LEARNABLE}, got {unknown[0]!r}")
    return set(value)
