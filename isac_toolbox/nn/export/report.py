"""Weights, MACs, bytes and structure of a compressed network (docs/theory-networks.md, section 6)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn

from isac_toolbox.nn.export.codings import CODINGS, coding_bits, mean_run
from isac_toolbox.nn.export.macs import count_macs

__all__ = ["CompressionReport", "LayerReport", "make_report"]


@dataclass(frozen=True)
class LayerReport:
    """Size and structure of one Linear or Conv2d layer.

    Attributes
    ----------
    name : str
        Name of the module.
    shape : tuple of int
        Shape of the weights.
    n_weights, n_kept : int
        All weights, kept weights.
    neurons, neurons_kept : int
        Output neurons or filters, and those with any kept weight.
    mean_run : float
        Mean length of the runs of kept weights inside a row (a filter).
    macs, macs_kept : int
        MACs of one example of the whole layer, and of its kept weights alone.
    bits : mapping of str to int
        Bits of the weights in each coding.
    """

    name: str
    shape: tuple[int, ...]
    n_weights: int
    n_kept: int
    neurons: int
    neurons_kept: int
    mean_run: float
    macs: int
    macs_kept: int
    bits: Mapping[str, int]

    @property
    def density(self) -> float:
        """Return the kept part of the weights."""
        return self.n_kept / max(self.n_weights, 1)


@dataclass(frozen=True)
class CompressionReport:
    """Size and structure of a compressed network.

    Attributes
    ----------
    layers : tuple of LayerReport
        The masked layers in order.
    n_parameters, n_parameters_dense : int
        Kept weights and all other trainable parameters of the masked network (a bias counts if its neuron
        has any kept weight), and the parameters of the full network.
    macs, macs_dense : int
        MACs of one example of the exported, physically smaller network (equal to ``macs_dense`` without one),
        and of the full network.
    macs_kept : int
        MACs of the kept weights alone, which need sparse hardware.
    value_bits : int
        Bits per stored value in ``bytes``.
    """

    layers: tuple[LayerReport, ...]
    n_parameters: int
    n_parameters_dense: int
    macs: int
    macs_dense: int
    macs_kept: int
    value_bits: int

    @property
    def n_weights(self) -> int:
        """Return the number of weights of all layers."""
        return sum(layer.n_weights for layer in self.layers)

    @property
    def n_kept(self) -> int:
        """Return the number of kept weights of all layers."""
        return sum(layer.n_kept for layer in self.layers)

    @property
    def density(self) -> float:
        """Return the kept part of the weights."""
        return self.n_kept / max(self.n_weights, 1)

    @property
    def compression(self) -> float:
        """Return how many times fewer weights are kept."""
        return self.n_weights / max(self.n_kept, 1)

    @property
    def bytes(self) -> dict[str, int]:
        """Return the bytes of the weights in each coding, each layer padded to whole bytes."""
        return {coding: sum(-(-layer.bits[coding] // 8) for layer in self.layers) for coding in CODINGS}

    @property
    def neurons_kept(self) -> tuple[int, ...]:
        """Return the kept neurons of each layer."""
        return tuple(layer.neurons_kept for layer in self.layers)

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers for JSON."""
        return {
            "density": self.density,
            "compression": self.compression,
            "n_parameters": self.n_parameters,
            "n_parameters_dense": self.n_parameters_dense,
            "macs": self.macs,
            "macs_dense": self.macs_dense,
            "macs_kept": self.macs_kept,
            "value_bits": self.value_bits,
            "bytes": self.bytes,
            "layers": [
                {
                    "name": layer.name,
                    "n_weights": layer.n_weights,
                    "n_kept": layer.n_kept,
                    "neurons": layer.neurons,
                    "neurons_kept": layer.neurons_kept,
                    "mean_run": layer.mean_run,
                    "bits": dict(layer.bits),
                }
                for layer in self.layers
            ],
        }


def make_report(
    model: nn.Module,
    masks: Mapping[str, Tensor],
    example: Any,
    exported: nn.Module | None = None,
    value_bits: int = 32,
) -> CompressionReport:
    """Return the size and structure of a network under its masks.

    Parameters
    ----------
    model : nn.Module
        The full network.
    masks : mapping of str to Tensor of bool
        Kept weights by layer name.
    example : Tensor, tuple of Tensor, mapping of str to Tensor, or tuple of int
        Inputs of a batch, or the shape of one example, which stands for noise.
    exported : nn.Module, optional
        The physically smaller network, whose MACs are reported.
    value_bits : int
        Bits per stored value.

    Returns
    -------
    CompressionReport
    """
    dense, sparse = count_macs(model, example), count_macs(model, example, dict(masks))
    layers = tuple(
        _layer_report(
            name, mask.numpy(force=True).astype(bool), dense.get(name, 0), sparse.get(name, 0), value_bits
        )
        for name, mask in masks.items()
    )
    total = sum(p.numel() for p in model.parameters())
    removed = sum(layer.n_weights - layer.n_kept for layer in layers)
    modules: dict[str, Any] = dict(model.named_modules())
    dead_biases = sum(
        layer.neurons - layer.neurons_kept for layer in layers if modules[layer.name].bias is not None
    )
    macs_dense = sum(dense.values())
    return CompressionReport(
        layers=layers,
        n_parameters=total - removed - dead_biases,
        n_parameters_dense=total,
        macs=macs_dense if exported is None else sum(count_macs(exported, example).values()),
        macs_dense=macs_dense,
        macs_kept=sum(sparse.values()),
        value_bits=value_bits,
    )


def _layer_report(name: str, mask: np.ndarray, macs: int, macs_kept: int, value_bits: int) -> LayerReport:
    rows = mask.reshape(len(mask), -1)
    return LayerReport(
        name=name,
        shape=mask.shape,
        n_weights=mask.size,
        n_kept=int(np.count_nonzero(mask)),
        neurons=len(rows),
        neurons_kept=int(np.count_nonzero(rows.any(axis=1))),
        mean_run=mean_run(mask),
        macs=macs,
        macs_kept=macs_kept,
        bits=coding_bits(mask, value_bits),
    )
