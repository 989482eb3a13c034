"""Fully sparse Bayesian training (docs/theory-ssvi.md), and the dense and pruned methods beside it."""

from isac_toolbox.nn.ssvi.baselines import DenseVI, MagnitudeSparse, PrunedVI
from isac_toolbox.nn.ssvi.classifier import SSVI, SSVIReport
from isac_toolbox.nn.ssvi.settings import SSVISettings

__all__ = ["SSVI", "DenseVI", "MagnitudeSparse", "PrunedVI", "SSVIReport", "SSVISettings"]
