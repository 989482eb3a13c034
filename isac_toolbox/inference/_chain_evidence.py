"""What one pass over the messages of a gated chain says (docs/theory.md, section 4)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cached_property

import numpy as np
from scipy.special import expit

from isac_toolbox.inference import _chain_kernels as _chain

__all__ = ["ChainEvidence", "FilteredChain", "IndependentMembers", "log_pair"]


def log_pair(probability: np.ndarray) -> np.ndarray:
    """Return ``(ln(1 - p), ln p)`` stacked in the last axis; exact 0 and 1 give minus infinity."""
    pair = np.empty((*np.shape(probability), 2))
    with np.errstate(divide="ignore"):
        np.log1p(-probability, out=pair[..., 0])
        np.log(probability, out=pair[..., 1])
    return pair


class ChainEvidence(ABC):
    """Messages of one pass, and the evidence of every group for its open gate.

    Attributes
    ----------
    ratio : ndarray, shape (n,)
        The messages ``L``.
    log_gate : ndarray, shape (n_groups, 2)
        Logs of a closed and of an open gate.
    log_open : ndarray, shape (n_groups,)
        Log evidence of the group's messages for an open gate, relative to a closed one.
    """

    ratio: np.ndarray
    log_gate: np.ndarray
    log_open: np.ndarray

    @abstractmethod
    def member_log_odds(self) -> np.ndarray:
        """Return log-odds of every member, its own message left out, (n,)."""

    def gate_log_odds(self) -> np.ndarray:
        """Return the posterior log-odds of every gate, (n_groups,)."""
        return np.asarray(self.log_gate[:, 1] - self.log_gate[:, 0] + self.log_open)

    @cached_property
    def log_evidence(self) -> np.ndarray:
        """Log evidence of every group's messages, both gates, (n_groups,)."""
        return np.asarray(np.logaddexp(self.log_gate[:, 0], self.log_gate[:, 1] + self.log_open))

    def marginals(self) -> tuple[np.ndarray, np.ndarray]:
        """Return probabilities of gates (n_groups,) and members (n,) given all messages."""
        gates = np.exp(self.log_gate[:, 1] + self.log_open - self.log_evidence)
        return gates, np.asarray(expit(self.member_log_odds() + self.ratio))


class FilteredChain(ChainEvidence):
    """Members that depend on their neighbours: a forward and a backward filter."""

    def __init__(
        self,
        ratio: np.ndarray,
        starts: np.ndarray,
        log_gate: np.ndarray,
        log_first: np.ndarray,
        log_transition: np.ndarray,
    ) -> None:
        # kernels are compiled anew for what is read-only
        self.ratio = ratio if ratio.flags.writeable else ratio.copy()
        self.log_gate, self._starts, self._log_transition = log_gate, starts, log_transition
        self._forward, self._backward = np.zeros((ratio.size, 2)), np.zeros((ratio.size, 2))
        self.log_open = np.zeros(len(log_gate))
        _chain.filter_groups(
            self.ratio, starts, log_first, log_transition, self._forward, self._backward, self.log_open
        )

    def member_log_odds(self) -> np.ndarray:
        """Return log-odds of every member, its own message left out, (n,)."""
        extrinsic = np.zeros(self.ratio.size)
        _chain.member_log_odds(self._starts, self.log_gate, self._forward, self._backward, extrinsic)
        return extrinsic

    def pair_counts(self) -> np.ndarray:
        """Return ``P(z = 1, s_{i-1} = a, s_i = b | all)`` at ``[i, a, b]``, zero at first members."""
        pairs = np.zeros((self.ratio.size, 2, 2))
        filters = self._log_transition, self._forward, self._backward
        _chain.pair_counts(self.ratio, self._starts, self.log_gate, *filters, self.log_evidence, pairs)
        return pairs


class IndependentMembers(ChainEvidence):
    """Equal groups of independent members: evidence is a sum over them, ``ln(1 - p + p e^L)``.

    ``log_member`` (n_groups, n_members, 2) holds the logs of inactive and active members.
    """

    def __init__(self, ratio: np.ndarray, log_gate: np.ndarray, log_member: np.ndarray) -> None:
        self.ratio, self.log_gate, self._log_member = ratio, log_gate, log_member
        off, on = log_member[..., 0], log_member[..., 1]
        self._own = np.logaddexp(off, on + ratio.reshape(off.shape))
        self.log_open = self._own.sum(axis=1)

    def member_log_odds(self) -> np.ndarray:
        """Return ``ln[g p O] - ln[(1 - g) + g (1 - p) O]``, ``O`` the evidence of the others, (n,)."""
        others = (self.log_open + self.log_gate[:, 1])[:, None] - self._own
        active, inactive = self._log_member[..., 1] + others, self._log_member[..., 0] + others
        return np.asarray(active - np.logaddexp(self.log_gate[:, :1], inactive)).ravel()
