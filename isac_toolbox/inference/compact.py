"""The sweep of the three-layer prior for many coefficients in single precision (docs/theory.md, 3, 4)."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np

from isac_toolbox.inference._compact_kernels import sweep_groups
from isac_toolbox.inference.hierarchy import LOG_RATIO_LIMIT, SLAB_PRIOR_COUNT, SLAB_RANGE, ThreeLayerPrior
from isac_toolbox.inference.messages import GaussianMessage
from isac_toolbox.inference.support import GatedChain, IndependentSupport

__all__ = ["compact_sweep", "is_compact"]

Graph = TypeVar("Graph", GatedChain, IndependentSupport)


def is_compact(prior: ThreeLayerPrior, support: GatedChain | IndependentSupport) -> bool:
    """Return whether ``compact_sweep`` computes what ``ThreeLayerPrior.sweep`` does.

    It does for real coefficients of one class under the extrinsic rule without moment matching, and groups of
    one size with scalar parameters strictly between 0 and 1.

    Parameters
    ----------
    prior : ThreeLayerPrior
    support : GatedChain or IndependentSupport

    Returns
    -------
    bool
    """
    rule = prior.rule == "extrinsic" and not prior.is_complex and not prior.moment_matching
    if not rule or prior.slab_precision.size != 1:
        return False
    values = _parameters(support)
    if any(np.ndim(p) or not 0.0 < float(p) < 1.0 for p in values):
        return False
    return isinstance(support, IndependentSupport) or len(set(support.group_sizes.tolist())) == 1


def _parameters(support: GatedChain | IndependentSupport) -> tuple[float | np.ndarray, ...]:
    if isinstance(support, IndependentSupport):
        return (support.probability,)
    return support.gate, support.p_first, support.p01, support.p11


def compact_sweep(
    prior: ThreeLayerPrior,
    support: Graph,
    message: GaussianMessage,
    precision: np.ndarray,
    log_odds: np.ndarray,
    damping: float,
) -> tuple[ThreeLayerPrior, Graph]:
    """Sweep once as ``ThreeLayerPrior.sweep`` does, with two numbers per coefficient.

    Parameters
    ----------
    prior, support
        For which ``is_compact`` holds.
    message : GaussianMessage, shape (n,), float32
    precision : ndarray, shape (n,), float32
        ``rho``; changed.
    log_odds : ndarray, shape (n,), float32
        Posterior log-odds ``L + e``; filled in.
    damping : float
        Step on ``ln rho``, in (0, 1].

    Returns
    -------
    prior : ThreeLayerPrior
        With the slab learned.
    support : SupportGraph
        With its parameters learned.

    Notes
    -----
    Source: docs/theory.md, sections 3 and 4.
    """
    shape = (1, message.mean.size)
    if isinstance(support, GatedChain):
        shape = (support.n_groups, int(support.group_sizes[0]))
        parameters = tuple(float(p) for p in _parameters(support))
    else:
        parameters = (1.0, *[float(support.probability)] * 3)
    sums = np.zeros(9)
    slab, spike = float(prior.slab_precision[0]), float(np.max(prior.spike_precision))
    kernel: Any = sweep_groups
    kernel(
        message.mean.reshape(shape),
        message.variance.reshape(shape),
        slab,
        spike,
        LOG_RATIO_LIMIT,
        *parameters,
        damping,
        precision.reshape(shape),
        log_odds.reshape(shape),
        sums,
    )
    learned = (sums[6] + SLAB_PRIOR_COUNT) / (sums[7] + SLAB_PRIOR_COUNT / slab)
    new = prior.with_slab_precision(np.clip([learned], SLAB_RANGE[0] * spike, SLAB_RANGE[1] * spike))
    return new, _learned(support, sums)


def _learned(support: Graph, sums: np.ndarray) -> Graph:
    """Return the graph after one EM step, from the counts of the kernel."""
    if isinstance(support, IndependentSupport):
        if not support.learn_probability:
            return support
        return support.with_parameters(
            probability=_ratio(sums[6], support.n_coefficients, support.prior_counts)
        )
    if not support.learn_parameters:
        return support
    opened, first, n00, n01, n10, n11, groups = *sums[:6], sums[8]
    return support.with_parameters(
        gate=_ratio(opened, groups, support.gate_prior),
        p_first=_ratio(first, opened, support.member_prior),
        p01=_ratio(n01, n00 + n01, support.member_prior),
        p11=_ratio(n11, n10 + n11, support.member_prior),
    )


def _ratio(on: float, total: float, prior: tuple[float, float]) -> float:
    """Return ``(a + on) / (a + b + total)``."""
    return float((prior[0] + on) / max(prior[0] + prior[1] + total, np.finfo(float).tiny))
