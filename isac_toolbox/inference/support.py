"""Support graphs: which coefficients are active together (docs/theory.md, section 4).

A graph receives one log-likelihood ratio ``L_i`` per coefficient and returns the extrinsic log-odds ``e_i``:
what all the *other* messages and the graph's parameters say about coefficient ``i``. Every graph follows
``SupportGraph``; the rest of the package uses nothing else. A graph never changes: learning returns another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, Self

import numpy as np
from scipy.special import expit

from isac_toolbox._validation import (
    check_choice,
    check_group_sizes,
    check_integer,
    check_probabilities,
    check_pseudo_counts,
    check_real_vector,
)
from isac_toolbox.inference._chain_evidence import (
    ChainEvidence,
    FilteredChain,
    IndependentMembers,
    log_pair,
)


class SupportGraph(Protocol):
    """Interface of a support graph over ``n_coefficients`` binary variables."""

    @property
    def n_coefficients(self) -> int:
        """Number of coefficients."""
        ...

    def extrinsic_log_odds(self, L: np.ndarray) -> np.ndarray:
        """Return ``e`` (n,), each entry independent of its own ``L``."""
        ...

    def learned(self, L: np.ndarray) -> Self:
        """Return a graph with the parameters of one EM step; this one stays as it is."""
        ...


class IndependentSupport:
    """Independent coefficients, active with probability ``p``.

    Parameters
    ----------
    n : int
        Number of coefficients.
    probability : float or array_like, shape (n,)
        Prior probability of "active".
    learn_probability : bool
        Whether ``learned`` updates a scalar probability. A vector is kept as given.
    prior_counts : (float, float)
        Beta pseudo-counts ``(a, b)``: ``p = (a + sum pi) / (a + b + n)``.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, shape or range.

    Notes
    -----
    Source: docs/theory.md, section 4.
    """

    def __init__(
        self,
        n: int,
        probability: float | Sequence[float] | np.ndarray = 0.5,
        learn_probability: bool = True,
        prior_counts: tuple[float, float] = (1.0, 1.0),
    ) -> None:
        self._n = check_integer("n", n, minimum=0)
        self.probability = check_probabilities("probability", probability, (self._n,))
        self.learn_probability = bool(learn_probability)
        self.prior_counts = check_pseudo_counts("prior_counts", prior_counts)

    @property
    def n_coefficients(self) -> int:
        """Number of coefficients."""
        return self._n

    def extrinsic_log_odds(self, L: np.ndarray) -> np.ndarray:
        """Return ``ln(p / (1 - p))`` for every coefficient, (n,).

        Raises
        ------
        TypeError, ValueError
            If ``L`` is not a finite real vector of length n.
        """
        check_real_vector("L", L, self._n)
        return self.log_odds.copy()

    @cached_property
    def log_odds(self) -> np.ndarray:
        """``ln(p / (1 - p))`` of every coefficient, (n,)."""
        pair = log_pair(np.asarray(self.probability))
        return _filled(pair[..., 1] - pair[..., 0], self._n)

    def learned(self, L: np.ndarray) -> IndependentSupport:
        """Return the graph after one EM step of a scalar probability."""
        if not self.learn_probability or np.ndim(self.probability):
            return self
        a, b = self.prior_counts
        active = float(np.sum(expit(self.log_odds + check_real_vector("L", L, self._n))))
        return self.with_parameters(probability=(a + active) / max(a + b + self._n, np.finfo(float).tiny))

    def with_parameters(self, *, probability: float) -> IndependentSupport:
        """Return the same graph with another scalar probability.

        Raises
        ------
        TypeError, ValueError
            If it is not a probability.
        """
        new = _copied(self)
        new.probability = check_probabilities("probability", probability)
        return new


@dataclass(frozen=True)
class ChainPosterior:
    """Posterior of a gated chain given all messages.

    Attributes
    ----------
    gate_probability : ndarray, shape (n_groups,)
        ``P(z_g = 1 | all)``.
    member_probability : ndarray, shape (n,)
        ``P(s_i = 1 | all)``.
    pair_counts : ndarray, shape (n, 2, 2)
        ``P(z = 1, s_{i-1} = a, s_i = b | all)`` at ``[i, a, b]``; zero at first members.
    log_evidence : float
        ``ln p(all messages)``, with likelihood ``exp(L s)`` each.
    """

    gate_probability: np.ndarray
    member_probability: np.ndarray
    pair_counts: np.ndarray
    log_evidence: float


class GatedChain:
    """Groups with a gate each; inside an open gate the members form a Markov chain.

    A closed gate forces its members to zero. Inside an open one, the first member is active with ``p_first``,
    and a later member with ``p11`` or ``p01`` after an active or inactive predecessor.

    Parameters
    ----------
    group_sizes : array_like of int, shape (n_groups,)
        Members of each group; groups are contiguous. May be empty.
    gate : float or array_like, shape (n_groups,)
        ``P(z_g = 1)``.
    p_first : float or array_like, shape (n_groups,) or (n,)
        Of a vector of length n, the entries at the first members are read.
    p01, p11 : float or array_like, shape (n,)
        Probability of the transition into each member.
    learn_parameters : bool
        Whether ``learned`` changes anything.
    gate_prior, member_prior : (float, float)
        Beta pseudo-counts ``(a, b)`` of the gate and of every member parameter. Groups that were never
        considered belong into ``b`` of ``gate_prior``.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, shape or range.

    Notes
    -----
    ``learned`` changes scalar parameters; vectors are kept as given. Source: docs/theory.md, section 4.

    Examples
    --------
    >>> chain = GatedChain([4, 4], gate=0.2)  # what the neighbours say about members without evidence
    >>> np.sign(chain.extrinsic_log_odds(np.array([3.0, 0, 3, 3, -3, 0, -3, -3]))[[1, 5]]).tolist()
    [1.0, -1.0]
    """

    def __init__(
        self,
        group_sizes: Sequence[int] | np.ndarray,
        gate: float | Sequence[float] | np.ndarray = 0.5,
        p_first: float | Sequence[float] | np.ndarray = 0.5,
        p01: float | Sequence[float] | np.ndarray = 0.05,
        p11: float | Sequence[float] | np.ndarray = 0.8,
        learn_parameters: bool = True,
        gate_prior: tuple[float, float] = (1.0, 1.0),
        member_prior: tuple[float, float] = (1.0, 1.0),
    ) -> None:
        self.group_sizes = check_group_sizes(group_sizes)
        self._starts = np.concatenate([[0], np.cumsum(self.group_sizes)]).astype(np.int64)
        n, n_groups = self.n_coefficients, self.n_groups
        self.gate = check_probabilities("gate", gate, (n_groups,))
        self.p_first = check_probabilities("p_first", p_first, (n_groups, n))
        self.p01 = check_probabilities("p01", p01, (n,))
        self.p11 = check_probabilities("p11", p11, (n,))
        self.learn_parameters = bool(learn_parameters)
        self.gate_prior = check_pseudo_counts("gate_prior", gate_prior)
        self.member_prior = check_pseudo_counts("member_prior", member_prior)
        self._independent_size = 0
        self._is_first = np.zeros(n, dtype=bool)
        self._is_first[self._starts[:-1]] = True

    @classmethod
    def independent_members(
        cls,
        n_groups: int,
        member_probability: Sequence[float] | np.ndarray,
        gate: float | Sequence[float] | np.ndarray = 0.5,
        learn_parameters: bool = True,
        gate_prior: tuple[float, float] = (1.0, 1.0),
        member_prior: tuple[float, float] = (1.0, 1.0),
    ) -> GatedChain:
        """Return a graph of equal groups whose members are independent inside an open gate.

        Member ``k`` of every group has ``p_first = p01 = p11 = member_probability[k]``, also in a learned
        graph: the members of one index share their probability.

        Parameters
        ----------
        n_groups : int
            Number of groups, at least 0.
        member_probability : array_like, shape (n_members,)
            One probability per member index (a user), at least one.
        gate, learn_parameters, gate_prior, member_prior
            As in the class.

        Raises
        ------
        TypeError, ValueError
            If an argument has the wrong type, shape or range.
        """
        n_groups = check_integer("n_groups", n_groups, minimum=0)
        member = check_real_vector("member_probability", member_probability)
        n_members = check_integer("the length of member_probability", member.size)
        p = np.tile(np.asarray(check_probabilities("member_probability", member, (n_members,))), n_groups)
        graph = cls(
            np.full(n_groups, n_members),
            gate=gate,
            p_first=p,
            p01=p,
            p11=p,
            learn_parameters=learn_parameters,
            gate_prior=gate_prior,
            member_prior=member_prior,
        )
        graph._independent_size = n_members
        return graph

    @property
    def n_coefficients(self) -> int:
        """Number of members over all groups."""
        return int(self._starts[-1])

    @property
    def n_groups(self) -> int:
        """Number of groups."""
        return int(self.group_sizes.size)

    @property
    def member_probability(self) -> np.ndarray:
        """Probability of each member index, (n_members,); only of ``independent_members``.

        Raises
        ------
        AttributeError
            If the graph was not made by ``independent_members``, or has no group.
        """
        if not self._independent_size or not self.n_groups:
            raise AttributeError("member_probability exists only for independent_members with some group")
        return np.asarray(self.p11)[: self._independent_size].copy()

    def _log_parameters(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Logs of gate (n_groups, 2), first member (n, 2), transition (n, 2, 2)."""
        n, first = self.n_coefficients, self.p_first
        if np.ndim(first) == 1 and np.size(first) == self.n_groups:
            first = np.repeat(first, self.group_sizes)
        of_first, *into = (log_pair(_filled(p, n)) for p in (first, self.p01, self.p11))
        return log_pair(_filled(self.gate, self.n_groups)), of_first, np.stack(into, axis=1)

    @cached_property
    def _log_independent(self) -> tuple[np.ndarray, np.ndarray]:
        """Logs of gates (n_groups, 2) and members (n_groups, n_members, 2) that are independent."""
        member = log_pair(np.asarray(self.p11).reshape(self.n_groups, self._independent_size))
        return log_pair(_filled(self.gate, self.n_groups)), member

    def evidence(self, L: np.ndarray) -> ChainEvidence:
        """Return what messages say of all groups; ``L`` (n,) is not checked."""
        if self._independent_size:
            return IndependentMembers(L, *self._log_independent)
        return FilteredChain(L, self._starts, *self._log_parameters())

    def extrinsic_log_odds(self, L: np.ndarray) -> np.ndarray:
        """Return ``e_i = logit P(s_i = 1 | all messages but L_i)``, (n,).

        Infinite only where the parameters are exactly 0 or 1.

        Raises
        ------
        TypeError, ValueError
            If ``L`` is not a finite real vector of length n.
        """
        return self.evidence(check_real_vector("L", L, self.n_coefficients)).member_log_odds()

    def gate_log_odds(self, L: np.ndarray) -> np.ndarray:
        """Return the posterior log-odds ``logit g + ln Ev`` of every gate, (n_groups,).

        ``Ev`` is the evidence of the group's messages for an open gate, relative to a closed one.
        """
        return self.evidence(check_real_vector("L", L, self.n_coefficients)).gate_log_odds()

    def posterior(self, L: np.ndarray) -> ChainPosterior:
        """Return gate, member and pair probabilities given all messages."""
        ratio = check_real_vector("L", L, self.n_coefficients)
        return self._posterior(FilteredChain(ratio, self._starts, *self._log_parameters()))

    def _posterior(self, found: FilteredChain) -> ChainPosterior:
        return ChainPosterior(*found.marginals(), found.pair_counts(), float(np.sum(found.log_evidence)))

    def with_parameters(self, **probabilities: float) -> GatedChain:
        """Return the same graph with scalar values of some of ``gate``, ``p_first``, ``p01`` and ``p11``.

        Raises
        ------
        TypeError, ValueError
            If a name is none of these, or a value not a probability.
        """
        for name in probabilities:
            check_choice("a parameter", name, ("gate", "p_first", "p01", "p11"))
        return self._with(**{name: check_probabilities(name, p) for name, p in probabilities.items()})

    def learned(self, L: np.ndarray) -> GatedChain:
        """Return the graph after one EM step with gate-weighted counts.

        ``gate = (a + sum P(z)) / (a + b + n_groups)``; ``p_first``, ``p01``, ``p11`` from the counts of first
        members and transitions inside open gates.
        """
        if not self.learn_parameters or self.n_groups == 0:
            return self
        return self.learned_from(self.evidence(check_real_vector("L", L, self.n_coefficients)))

    def learned_from(self, found: ChainEvidence) -> GatedChain:
        """Return the same as :meth:`learned`, from what the messages were found to say."""
        if not self.learn_parameters or self.n_groups == 0:
            return self
        if isinstance(found, FilteredChain):
            posterior = self._posterior(found)
            gates, changes = posterior.gate_probability, self._transition_counts(posterior)
        else:
            gates, members = found.marginals()
            changes = self._independent_counts(gates, members)
        if np.ndim(self.gate) == 0:
            total, n_groups = float(np.sum(gates)), np.array(self.n_groups)
            gate = _ratio(np.array(total), n_groups - total, self.gate_prior, np.array(self.gate))
            changes["gate"] = float(gate)
        return self._with(**changes)

    def with_independent_members(self, gate: float, member: np.ndarray) -> GatedChain:
        """Return the graph of independent members with another gate and probabilities (n_members,) of these.

        They were made here and are not checked.
        """
        tiled = np.concatenate([member] * self.n_groups)
        return self._with(gate=gate, p_first=tiled, p01=tiled, p11=tiled)

    def _with(self, **changes: Any) -> GatedChain:
        """A copy with other parameters."""
        new = _copied(self)
        for name, value in changes.items():
            setattr(new, name, value)
        return new

    def _independent_counts(self, gates: np.ndarray, members: np.ndarray) -> dict[str, Any]:
        """``p_k = (a + sum P(s = 1)) / (a + b + sum P(z = 1))`` over the groups, for each member index."""
        shape = (self.n_groups, self._independent_size)
        active = members.reshape(shape).sum(axis=0)
        gate_open = float(np.sum(gates))
        learned = _ratio(active, gate_open - active, self.member_prior, self.member_probability)
        tiled = np.concatenate([learned] * self.n_groups)
        return {"p_first": tiled, "p01": tiled, "p11": tiled}

    def _transition_counts(self, posterior: ChainPosterior) -> dict[str, Any]:
        """New values of the member parameters that are scalar."""
        pairs, first = posterior.pair_counts, self._is_first
        on = posterior.member_probability[first]
        first_counts = np.zeros((self.n_coefficients, 2))
        first_counts[first] = np.stack([posterior.gate_probability - on, on], axis=1)
        counts = {"p_first": first_counts, "p01": pairs[:, 0], "p11": pairs[:, 1]}
        return {name: self._counted(count, getattr(self, name)) for name, count in counts.items()}

    def _counted(self, counts: np.ndarray, value: float | np.ndarray) -> float | np.ndarray:
        """New value of one parameter from its counts (n, 2) of "off" and "on"; a vector stays."""
        if np.ndim(value) == 1:
            return value
        off, on = counts.sum(axis=0)
        return float(_ratio(on, off, self.member_prior, np.asarray(value)))


def _copied(graph: Any) -> Any:
    """A copy of a graph without what it has computed."""
    new = object.__new__(type(graph))
    inside = vars(new)
    inside.update(vars(graph))
    inside.pop("log_odds", None)
    inside.pop("_log_independent", None)
    return new


def _filled(value: float | np.ndarray, n: int) -> np.ndarray:
    """A parameter as a vector of length n."""
    return value if isinstance(value, np.ndarray) and value.ndim else np.full(n, value)


def _ratio(on: Any, off: Any, prior: tuple[float, float], old: np.ndarray) -> np.ndarray:
    """``(a + on) / (a + b + on + off)``; the old value where nothing was counted and there is no prior."""
    numerator = prior[0] + np.maximum(on, 0.0)
    total = numerator + prior[1] + np.maximum(off, 0.0)
    safe = np.where(total > 0.0, total, 1.0)
    return np.where(total > 0.0, numerator / safe, old)
