"""Smaller dense networks: channels removed, normalisations folded (docs/theory-networks.md, section 5)."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from isac_toolbox.nn.export.capture import parts
from isac_toolbox.nn.export.counter import counted
from isac_toolbox.nn.export.cut import apply_cut, apply_rewriting
from isac_toolbox.nn.export.graph import ChannelGraph, Cut, Rewriting
from isac_toolbox.nn.export.inputs import Inputs, difference, inputs_of
from isac_toolbox.nn.export.operations import name_of

__all__ = ["Channels", "fold_batch_norm", "shrink", "simplify"]

#: Layers that a warning names before it counts the rest.
_NAMED = 4


class Channels:
    """Dependency groups of a whole model, kept for repeated use with other weights.

    Parameters
    ----------
    model : nn.Module
        Plain model; it is not changed.
    example : Tensor, tuple of Tensor, mapping of str to Tensor, or tuple of int
        Inputs of a batch, or the shape of one example, which stands for noise.

    Attributes
    ----------
    graphs : list of ChannelGraph
        One, or one of each part where the model as a whole cannot be traced.
    reason : str
        Why it cannot; empty if it can.
    """

    def __init__(self, model: nn.Module, example: Any) -> None:
        self.inputs: Inputs = inputs_of(example, model)
        traced, self.reason = parts(model, self.inputs)
        self.graphs = [ChannelGraph(one) for one in traced]
        self._n_macs = float(sum(counted(model, self.inputs)[0].values()))

    def connected(self, model: nn.Module, masks: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the masks without weights that no path joins to an input and an output.

        Parameters
        ----------
        model : nn.Module
            Any model with the parameters of the analysed one, by name.
        masks : dict of str to Tensor of bool
            Kept weights by name of the parameter.
        """
        masked = _masked(model, masks)
        found = {name: mask & (masked[name] != 0) for name, mask in masks.items()}
        for graph in self.graphs:
            found = graph.connected(found, graph.removable(graph.tensors(model, masked)))
        return found

    def macs(self, model: nn.Module, masks: dict[str, Tensor]) -> int:
        """Return the operations of one example that the smaller network under some masks has.

        Parameters
        ----------
        model, masks
            As for ``connected``.
        """
        masked = _masked(model, masks)
        total = self._n_macs
        for graph in self.graphs:
            none = torch.zeros(graph.n_classes, dtype=torch.bool)
            total += graph.macs(graph.removable(graph.tensors(model, masked))) - graph.macs(none)
        return round(total)

    def costs(self, model: nn.Module) -> dict[str, int]:
        """Return the operations that go with one output of each Linear and Conv2d layer alone, 0 if none."""
        layers = [
            name for name, module in model.named_modules() if isinstance(module, (nn.Linear, nn.Conv2d))
        ]
        found = dict.fromkeys(layers, 0)
        for graph in self.graphs:
            found |= graph.costs(model, layers)
        return found

    def warn_untraced(self) -> None:
        """Warn if only parts of the model were traced."""
        if self.reason:
            found = ", ".join(repr(graph.traced.prefix) for graph in self.graphs) or "none"
            warnings.warn(
                f"{self.reason}; channels are removed only inside parts that can be traced: {found}",
                stacklevel=4,
            )


def _masked(model: nn.Module, masks: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the masked parameters by name."""
    own = dict(model.named_parameters())
    return {name: own[name].detach() * mask for name, mask in masks.items()}


def shrink(model: nn.Module, example: Any, *, fold_norms: bool = False) -> nn.Module:
    """Return a physically smaller module with the same outputs in evaluation mode.

    Channels are removed where their weights are all zero (their constant output is folded into the next
    biases) or where nothing reads them, together with everything that depends on them: channels that are
    added, multiplied or joined, normalisations, heads of an attention. Every removal is checked on the
    example in double precision before it is adopted.

    Parameters
    ----------
    model : nn.Module
        Plain model whose dropped weights are exactly zero; it is not changed.
    example : Tensor, tuple of Tensor, mapping of str to Tensor, or tuple of int
        Inputs of a batch, or the shape of one example, which stands for noise.
    fold_norms : bool
        Whether batch normalisations are folded into the layers before them.

    Returns
    -------
    nn.Module
        In evaluation mode.

    Raises
    ------
    TypeError
        If ``example`` is of another kind.

    Warns
    -----
    UserWarning
        If the model cannot be traced, with the reason: then channels are removed inside those of its parts
        alone that can be; where a removal changes the outputs or the model's own code does not allow it: then
        these channels stay; and where all weights of channels are zero that can never leave.

    Notes
    -----
    Source: docs/theory-networks.md, section 5.
    """
    small = deepcopy(model).eval()
    channels = Channels(small, example)
    channels.warn_untraced()
    cuts: list[Cut] = []
    for graph in channels.graphs:
        removed = _simplify(small, graph, channels.inputs, silence=False)
        cuts += list(graph.cuts(removed))
        _warn_stuck(graph, small)
    small, kept = _cut(small, cuts, channels.inputs)
    if kept:
        layers = list(dict.fromkeys(layer for cut, _ in kept for layer in cut.layers))
        warnings.warn(
            f"channels of {_listed(layers)} are zero but stay, because the model does not compute the same "
            f"without them: {kept[0][1]}",
            stacklevel=2,
        )
    return fold_batch_norm(small, example) if fold_norms else small


def simplify(
    model: nn.Module, example: Any, *, silence: bool = False, channels: Channels | None = None
) -> nn.Module:
    """Zero all channels of a plain model that ``shrink`` would remove, in place, and return it; shapes stay.

    Parameters
    ----------
    model : nn.Module
        Plain model.
    example : Tensor, tuple of Tensor, mapping of str to Tensor, or tuple of int
        As for ``shrink``.
    silence : bool
        Whether constants that cannot be folded into a bias (before a padded convolution) become zero as well,
        which changes the outputs.
    channels : Channels, optional
        Those of a model of the same structure, to save the trace.

    Warns
    -----
    UserWarning
        As for ``shrink``.
    """
    found = Channels(model, example) if channels is None else channels
    if channels is None:
        found.warn_untraced()
    for graph in found.graphs:
        _simplify(model, graph, found.inputs, silence)
    return model


def _simplify(model: nn.Module, graph: ChannelGraph, inputs: Inputs, silence: bool) -> Tensor:
    """Zero channels in place where the outputs stay the same, and return their classes."""
    reference, tensors = model, graph.tensors(model)
    if silence:
        reference = deepcopy(model)
        apply_rewriting(reference, graph.silenced(tensors, graph.removable(tensors)))
    new, removed = graph.simplified(model, silence)
    wrong = _differs(reference, model, new, inputs) if bool(removed.any()) else ""
    if wrong:
        fine = torch.zeros_like(removed)
        for block in graph.blocks(removed):
            alone, _ = graph.simplified(reference, only=block)
            if not _differs(reference, reference, alone, inputs):
                fine = fine | block
        layers = [layer for cut in graph.cuts(removed & ~fine) for layer in cut.layers]
        new, removed = graph.simplified(reference, only=fine)
        if _differs(reference, reference, new, inputs):
            new, removed = Rewriting(), torch.zeros_like(removed)
        warnings.warn(
            f"constant channels of {_listed(list(dict.fromkeys(layers)))} stay, because the model does not "
            f"compute the same without them: {wrong}",
            stacklevel=3,
        )
        if silence:
            apply_rewriting(model, graph.silenced(tensors, graph.removable(tensors)))
    apply_rewriting(model, new)
    return removed


def _differs(reference: nn.Module, model: nn.Module, new: Rewriting, inputs: Inputs) -> str:
    """Return in words how a rewriting of a model changes the outputs of the reference; empty if not."""
    trial = deepcopy(model)
    apply_rewriting(trial, new)
    return difference(reference, trial, inputs)


def _cut(model: nn.Module, cuts: list[Cut], inputs: Inputs) -> tuple[nn.Module, list[tuple[Cut, str]]]:
    """Return the model without the channels of all blocks whose removal keeps the outputs, and the others."""
    if not cuts:
        return model, []
    trial = deepcopy(model)
    for cut in cuts:
        apply_cut(trial, cut)
    if not difference(model, trial, inputs):
        return trial, []
    lost: list[tuple[Cut, str]] = []
    done = model
    for cut in cuts:
        wrong = ""
        for adapt in (False, True):
            trial = deepcopy(done)
            apply_cut(trial, cut, adapt)
            found = difference(model, trial, inputs)
            wrong = wrong or found
            if not found:
                done = trial
                break
        else:
            lost.append((cut, wrong))
    return done, lost


def _listed(names: Sequence[str]) -> str:
    """Return names for a message."""
    shown = ", ".join(repr(name) for name in names[:_NAMED])
    return shown + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")


def _warn_stuck(graph: ChannelGraph, model: nn.Module) -> None:
    """Warn of channels that are zero in every weight but can never leave."""
    stuck = graph.stuck(model)
    if stuck:
        reasons = list(dict.fromkeys(why for of in stuck.values() for why in of))
        warnings.warn(
            f"all weights of channels of {_listed(list(stuck))} are zero, but they can never leave: "
            + ", ".join(reasons[:_NAMED]),
            stacklevel=3,
        )


def fold_batch_norm(model: nn.Module, example: Any) -> nn.Module:
    """Return a model whose batch normalisations are folded into the layers before them.

    Only where nothing else reads the layer, and where the outputs stay the same on the example.

    Parameters
    ----------
    model : nn.Module
        It is not changed.
    example : Tensor, tuple of Tensor, mapping of str to Tensor, or tuple of int
        As for ``shrink``.

    Warns
    -----
    UserWarning
        If the model cannot be traced, or a normalisation stays because the outputs would change.
    """
    folded = deepcopy(model).eval()
    inputs = inputs_of(example, model)
    traced, reason = parts(folded, inputs)
    if reason:
        warnings.warn(
            f"{reason}; normalisations are folded only inside parts that can be traced", stacklevel=2
        )
    pairs = []
    for one in traced:
        for node in one.nodes:
            if node.op == "call_function" and "batch_norm" in name_of(node):
                pair = _foldable(one, node)
                pairs += [pair] if pair else []
    for layer, norm in pairs:
        trial = deepcopy(folded)
        _fold_norm(trial.get_submodule(layer), trial.get_submodule(norm))
        _replace(trial, norm, nn.Identity())
        wrong = difference(folded, trial, inputs)
        if wrong:
            warnings.warn(f"normalisation {norm!r} is not folded into {layer!r}: {wrong}", stacklevel=2)
        else:
            folded = trial
    return folded


def _foldable(one: Any, norm: Any) -> tuple[str, str] | None:
    """Return the names of the layer and the normalisation of a pair that can be folded."""
    source, mean = norm.args[0], norm.args[3]
    name = name_of(source)
    if (
        len(source.users) != 1
        or mean not in one.owned
        or not name.startswith(("linear", "conv1d", "conv2d", "conv3d"))
    ):
        return None
    weight = source.args[1]
    if (
        weight not in one.owned
        or len(weight.users) != 1
        or len(mean.users) != 1
        or norm.args[0] is not source
    ):
        return None
    lead = f"{one.prefix}." if one.prefix else ""
    layer, _, last = (lead + one.owned[weight]).rpartition(".")
    other, _, kind = (lead + one.owned[mean]).rpartition(".")
    return (layer, other) if last == "weight" and kind == "running_mean" else None


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)


def _fold_norm(layer: Any, norm: Any) -> None:
    """Set ``W <- s W`` and ``b <- s (b - mean) + beta`` with ``s = gamma / sqrt(var + eps)``."""
    with torch.no_grad():
        scale = torch.rsqrt(norm.running_var + norm.eps)
        scale = scale if norm.weight is None else scale * norm.weight
        bias = torch.zeros_like(scale) if layer.bias is None else layer.bias
        shift = torch.zeros_like(scale) if norm.bias is None else norm.bias
        layer.bias = nn.Parameter(scale * (bias - norm.running_mean) + shift)
        layer.weight.mul_(scale.reshape(-1, *([1] * (layer.weight.ndim - 1))))
