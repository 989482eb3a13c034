"""Smaller dense networks: channels removed, normalisations folded (docs/theory-networks.md, section 5)."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import fx, nn

from isac_toolbox.nn.export.graph import ChannelGraph, TraceError
from isac_toolbox.nn.export.surgery import device_of

__all__ = ["fold_batch_norm", "shrink", "simplify"]

#: Largest relative deviation of a model that was made smaller without a trace.
_TOLERANCE = 1e-4


def shrink(
    model: nn.Module, *, fold_norms: bool = False, input_shape: Sequence[int] | None = None
) -> nn.Module:
    """Return a physically smaller module with the same outputs in evaluation mode.

    Neurons and filters are removed where their weights are all zero (their constant output is folded into the
    next biases) or where nothing reads them. Channels that take part in an addition are removed only where
    all addends allow it.

    Parameters
    ----------
    model : nn.Module
        Plain model whose dropped weights are exactly zero; it is not changed.
    fold_norms : bool
        Whether batch normalisations are folded into the convolutions before them.
    input_shape : sequence of int, optional
        Shape of one example; with it, a model that cannot be traced is checked on noise.

    Returns
    -------
    nn.Module
        In evaluation mode.

    Warns
    -----
    UserWarning
        If torch.fx cannot trace the model: then only the hidden units of its nn.Sequential chains are
        removed, and if even that changes the outputs, nothing is.

    Notes
    -----
    Source: docs/theory-networks.md, section 5.
    """
    small = deepcopy(model).eval()
    try:
        graph = ChannelGraph(small)
    except TraceError as error:
        return _shrink_chains(model, small, error, input_shape)
    graph.simplify()
    graph.slice()
    if fold_norms:
        fold_batch_norm(small)
    return small


def simplify(model: nn.Module, silence: bool = False) -> nn.Module:
    """Zero all channels of a plain model that ``shrink`` would remove, in place, and return it; shapes stay.

    With ``silence``, constants that cannot be folded into a bias (before a padded convolution) become zero as
    well, which changes the outputs.
    """
    try:
        graph = ChannelGraph(model)
        graph.simplify()
        if silence:
            graph.silence_constants()
            graph.simplify()
    except TraceError:
        for chain in _chains(model):
            _graph_or_none(chain, do_slice=False)
    return model


def _shrink_chains(
    model: nn.Module, small: nn.Module, error: Exception, input_shape: Sequence[int] | None
) -> nn.Module:
    """Return an untraceable model whose nn.Sequential chains are made smaller, one by one."""
    done = [chain for chain in _chains(small) if _graph_or_none(chain, do_slice=True)]
    reason = f"{error}; "
    if input_shape is not None and not _agree(model, small, input_shape):
        warnings.warn(reason + "its chains are used from outside, so nothing was removed", stacklevel=3)
        return deepcopy(model).eval()
    warnings.warn(
        reason + f"only the hidden units of {len(done)} nn.Sequential chain(s) were removed", stacklevel=3
    )
    return small


def _chains(model: nn.Module) -> list[nn.Module]:
    """Return the outermost nn.Sequential modules that can be traced."""
    if type(model) is nn.Sequential and _graph_or_none(deepcopy(model), do_slice=False):
        return [model]
    return [chain for child in model.children() for chain in _chains(child)]


def _graph_or_none(chain: nn.Module, do_slice: bool) -> ChannelGraph | None:
    """Simplify (and slice) a chain in place and return its graph, None where it cannot be traced."""
    try:
        graph = ChannelGraph(chain)
    except TraceError:
        return None
    graph.simplify()
    if do_slice:
        graph.slice()
    return graph


def _agree(model: nn.Module, small: nn.Module, input_shape: Sequence[int]) -> bool:
    """Return whether both give the same output for noise."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn((4, *input_shape), generator=generator).to(device_of(model))
    reference = deepcopy(model).eval()
    with torch.no_grad():
        try:
            a, b = reference(x), small(x)
        except RuntimeError:  # shapes no longer fit
            return False
    return a.shape == b.shape and bool((a - b).abs().max() <= _TOLERANCE * (1.0 + a.abs().max()))


def fold_batch_norm(model: nn.Module) -> nn.Module:
    """Fold batch normalisations into the layers before them, in place, and return the model.

    Only where nothing else reads the layer.

    Raises
    ------
    TraceError
        If torch.fx cannot trace the model.
    """
    nodes = ChannelGraph(model).nodes
    modules: dict[str, Any] = dict(model.named_modules())
    calls = [str(node.target) for node in nodes if node.op == "call_module"]
    for node in nodes:
        norm = modules.get(str(node.target)) if node.op == "call_module" else None
        if not isinstance(norm, (nn.BatchNorm1d, nn.BatchNorm2d)) or norm.running_mean is None:
            continue
        source = node.args[0]
        assert isinstance(source, fx.Node)
        layer = modules.get(str(source.target)) if source.op == "call_module" else None
        alone = (
            len(source.users) == 1 and calls.count(str(source.target)) == calls.count(str(node.target)) == 1
        )
        if isinstance(layer, (nn.Linear, nn.Conv2d)) and alone:
            _fold_norm(layer, norm)
            parent, _, child = str(node.target).rpartition(".")
            setattr(model.get_submodule(parent), child, nn.Identity())
    return model


def _fold_norm(layer: nn.Linear | nn.Conv2d, norm: Any) -> None:
    """Set ``W <- s W`` and ``b <- s (b - mean) + beta`` with ``s = gamma / sqrt(var + eps)``."""
    with torch.no_grad():
        scale = torch.rsqrt(norm.running_var + norm.eps)
        scale = scale if norm.weight is None else scale * norm.weight
        bias = torch.zeros_like(scale) if layer.bias is None else layer.bias
        shift = torch.zeros_like(scale) if norm.bias is None else norm.bias
        layer.bias = nn.Parameter(scale * (bias - norm.running_mean) + shift)
        layer.weight.mul_(scale.reshape(-1, *([1] * (layer.weight.ndim - 1))))
