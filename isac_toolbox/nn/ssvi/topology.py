"""Removal and addition of weights under a fixed budget (docs/theory-ssvi.md, sections 2 to 4)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from isac_toolbox.inference import GatedChain
from isac_toolbox.nn.ssvi.layers import SparseLayer, inverse_softplus

__all__ = ["StructuredScore", "largest_weights", "random_support", "replace_weights"]

#: Largest evidence of one weight in nats; with more, the chain has no effect.
_MAX_EVIDENCE = 20.0


def random_support(
    shape: torch.Size, n_active: int, generator: torch.Generator, run: int = 1
) -> Tensor | None:
    """Return ascending random positions, or None if all are active.

    With ``run > 1`` they form runs of that length inside the rows; the runs of a row start with a random
    offset, and the last one may be shorter.
    """
    n = shape.numel()
    if n_active >= n:
        return None
    width = n // shape[0]
    run = max(min(run, width), 1)
    if run == 1:
        return torch.randperm(n, generator=generator)[:n_active].sort().values
    shift = torch.randint(run, (shape[0], 1), generator=generator)
    n_blocks = width // run + 2
    blocks = (torch.arange(width) + shift) // run + n_blocks * torch.arange(shape[0])[:, None]
    order = torch.randperm(n_blocks * shape[0], generator=generator)
    rank = order[blocks.flatten()]
    return torch.sort(rank, stable=True).indices[:n_active].sort().values


def largest_weights(weight: Tensor, n_active: int) -> tuple[Tensor | None, Tensor]:
    """Return ascending positions, None if all are active, and values of the largest weights."""
    values = weight.flatten().clone()
    if n_active >= values.numel():
        return None, values
    index = values.abs().topk(n_active).indices.sort().values
    return index, values[index]


def replace_weights(
    layer: SparseLayer, n_replaced: int, removal: Tensor, addition: Tensor, memories: Sequence[Tensor]
) -> int:
    """Remove the weights with the lowest scores and add as many inactive positions.

    New weights have mean 0, the mean sigma of the active weights of the layer, and zero momenta.

    Parameters
    ----------
    layer : SparseGaussianLinear or SparseGaussianConv2d
        Changed in place.
    n_replaced : int
        Number of weights; fewer if the layer has fewer inactive positions.
    removal : Tensor, shape (n_active,)
        Score of the active weights.
    addition : Tensor, shape (n_weights,)
        Score of all positions; those that were active are ignored.
    memories : sequence of Tensor, shape (n_active,)
        Momenta of the weights in the optimiser, changed in place.

    Returns
    -------
    int
        Number of weights that were replaced.
    """
    n = min(n_replaced, layer.n_weights - layer.n_active, layer.n_active)
    if n < 1 or layer.index is None:
        return 0
    index, mean = layer.index, layer.mean.detach()
    kept = torch.sort(removal, stable=True).indices[n:]
    candidates = addition.clone()
    candidates[index] = -torch.inf
    added = torch.topk(candidates, n).indices
    positions = torch.cat([index[kept], added])
    positions, order = positions.sort()

    def moved(old: Tensor, new: float) -> Tensor:
        return torch.cat([old[kept], old.new_full((n,), new)])[order]

    rho = None
    if layer.rho is not None:
        start = inverse_softplus(float(F.softplus(layer.rho.detach()).mean()))
        rho = moved(layer.rho.detach(), start)
    for memory in memories:
        memory.copy_(moved(memory, 0.0))
    layer.set_support(positions, moved(mean, 0.0), rho)
    return n


class StructuredScore:
    """Scores of one layer by the log-odds of a gated chain, whose groups are output neurons or filters.

    The evidence of an active weight is ``L = (z^2 / tau^2 - 1) / 2`` with ``z = |mu| / sigma``, where ``tau``
    is the value of ``z`` below which the score ``"snr"`` would remove; an inactive weight has ``z = 0``. The
    removal score is the posterior log-odds ``L + e`` with the extrinsic log-odds ``e`` of the chain. The
    addition score is ``e + (g^2 / gamma^2 - 1) / 2`` with the gradient ``g``, where ``gamma`` is the value
    above which the score ``"gradient"`` would add.

    Parameters
    ----------
    shape : torch.Size
        Shape of the weight.
    density : float
        Active part of the layer; ``p01`` is set so that the chain is stationary.
    p11 : float
        Probability that an active weight follows an active one.
    gate : float
        Probability that a neuron or filter is kept.

    Notes
    -----
    Source: docs/theory-ssvi.md, section 4; docs/theory.md, section 4.
    """

    def __init__(self, shape: torch.Size, density: float, p11: float, gate: float) -> None:
        n_groups, n = int(shape[0]), shape.numel()
        inside = float(np.clip(density / gate, 1e-6, 0.95))
        p01 = float(np.clip(inside * (1.0 - p11) / (1.0 - inside), 1e-6, 1.0 - 1e-6))
        self.graph = GatedChain(
            np.full(n_groups, n // n_groups),
            gate=gate,
            p_first=inside,
            p01=p01,
            p11=p11,
            learn_parameters=False,
        )

    def scores(
        self, layer: SparseLayer, ratio: Tensor, gradient: Tensor, n_replaced: int
    ) -> tuple[Tensor, Tensor]:
        """Return removal scores (n_active,) and addition scores (n_weights,), float64."""
        n = max(min(n_replaced, layer.n_weights - layer.n_active, layer.n_active), 1)
        threshold = float(torch.kthvalue(ratio, n).values)
        evidence = np.full(layer.n_weights, -0.5)
        position: Any = layer.index.numpy(force=True)
        evidence[position] = _evidence(ratio.numpy(force=True), threshold)
        extrinsic = self.graph.extrinsic_log_odds(evidence)
        slope = gradient.detach().double().abs().flatten()
        slope[layer.index] = 0.0
        strongest = float(torch.topk(slope, n).values[-1])
        gain = extrinsic + _evidence(slope.numpy(force=True), strongest)
        device = ratio.device
        removal = torch.from_numpy((extrinsic + evidence)[position]).to(device)
        return removal, torch.from_numpy(gain).to(device)


def _evidence(values: np.ndarray, threshold: float) -> np.ndarray:
    """Return half of the squared ratio of value and threshold less one, limited to the largest evidence."""
    scaled = values / max(threshold, 1e-30)
    return np.minimum(0.5 * (np.minimum(scaled, 1e3) ** 2 - 1.0), _MAX_EVIDENCE)
