"""Shared turbo variational Bayes engine: messages, sparse priors, support graphs, working-set posteriors.

It knows no antenna and no network: the channel estimators and the network compression both call it. The
mathematics is in docs/theory.md, sections 3 (hierarchy), 4 (support graph) and 5 (working set).
"""

from isac_toolbox.inference.compact import compact_sweep, is_compact
from isac_toolbox.inference.hierarchy import RULES, ThreeLayerPrior
from isac_toolbox.inference.lattice import Lattice, LatticePosterior
from isac_toolbox.inference.messages import GaussianMessage, extrinsic_message
from isac_toolbox.inference.mixture import branch_variances, gaussian_log_ratio, mixture_moments
from isac_toolbox.inference.posterior import (
    GaussianPosterior,
    expected_residual,
    update_noise_precision,
    working_set_posterior,
)
from isac_toolbox.inference.recovery import SparseRecovery, SparseRecoveryResult, sparse_recover
from isac_toolbox.inference.state import PriorState
from isac_toolbox.inference.support import ChainPosterior, GatedChain, IndependentSupport, SupportGraph
from isac_toolbox.inference.turbo import Callbacks, History, IterationRecord, TurboLoop

__all__ = [
    "RULES",
    "Callbacks",
    "ChainPosterior",
    "GatedChain",
    "GaussianMessage",
    "GaussianPosterior",
    "History",
    "IndependentSupport",
    "IterationRecord",
    "Lattice",
    "LatticePosterior",
    "PriorState",
    "SparseRecovery",
    "SparseRecoveryResult",
    "SupportGraph",
    "ThreeLayerPrior",
    "TurboLoop",
    "branch_variances",
    "compact_sweep",
    "expected_residual",
    "extrinsic_message",
    "gaussian_log_ratio",
    "is_compact",
    "mixture_moments",
    "sparse_recover",
    "update_noise_precision",
    "working_set_posterior",
]
