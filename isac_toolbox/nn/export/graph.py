"""Which channels of a network can be removed: its dependency groups (docs/theory-networks.md, section 5.2).

A *class* is a set of indices of parameters that are removed together; a *block* is a set of classes that
share an axis of a parameter, such as all channels of the tensors of a residual stream.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor, nn

from isac_toolbox.nn.export.capture import Node, Traced, TraceError
from isac_toolbox.nn.export.carrier import Reader
from isac_toolbox.nn.export.labels import FIXED
from isac_toolbox.nn.export.operations import name_of
from isac_toolbox.nn.export.spread import Spread
from isac_toolbox.nn.export.values import Pass

__all__ = ["ChannelGraph", "Cut", "Rewriting", "TraceError"]

_WEIGHTED = ("linear", "conv", "addmm", "matmul", "mm")


@dataclass
class Rewriting:
    """New values of parameters and buffers by name, and biases of layers that had none.

    Attributes
    ----------
    tensors : dict of str to Tensor
    biases : dict of str to Tensor
        By name of the layer.
    """

    tensors: dict[str, Tensor] = field(default_factory=dict)
    biases: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Cut:
    """Channels to cut out of the parameters of one block.

    Attributes
    ----------
    keep : dict of str to list of (int, Tensor)
        Axis and kept indices, bool, by name of the parameter or buffer.
    heads : dict of int to int
        Numbers of sets of indices that are removed together, such as those of heads, before and after.
    """

    keep: dict[str, list[tuple[int, Tensor]]]
    heads: dict[int, int]

    @property
    def layers(self) -> list[str]:
        """Return the names of the modules whose parameters are cut."""
        return list(dict.fromkeys(name.rpartition(".")[0] for name in self.keep))


class ChannelGraph:
    """Dependency groups of the channels of a traced module.

    Parameters
    ----------
    traced : Traced
    """

    def __init__(self, traced: Traced) -> None:
        self.traced = traced
        self.spread = Spread(traced)
        self.classes = self.spread.labels.resolve(self.spread.all_factors())
        self.n_classes = int(self.classes.max()) + 1
        of = torch.from_numpy(self.classes.astype(np.int64))
        self.axes: dict[Node, list[tuple[int, Tensor]]] = {}
        for node in (n for n in traced.owned if n.users):
            found = [(int(np.argmax(f.shape)), of[f.flatten().long()]) for f in self.spread.factors[node]]
            self.axes[node] = [(axis, classes) for axis, classes in found if bool((classes != FIXED).any())]
        self._read = [(reader, of[reader.labels.long()]) for reader in self.spread.readers]
        self._fractions = [
            (product.macs / traced.n_examples, [of[f.flatten().long()] for f in product.factors])
            for product in self.spread.products
        ]
        self._weighted = [
            node
            for node in traced.owned
            if node.meta["val"].ndim >= 2
            and any(name_of(user).startswith(_WEIGHTED) or "mm" in name_of(user) for user in node.users)
        ]
        # what normalises is one where a channel is removed: variances, directions of weights
        self._ones = {n.args[4] for n in traced.nodes if "batch_norm" in name_of(n) and len(n.args) > 4}
        self._ones |= {n.args[0] for n in traced.nodes if name_of(n) == "_weight_norm"}
        self._blocks = self._numbered_blocks()

    def _numbered_blocks(self) -> np.ndarray:
        """Return the block of every class, (n_classes,)."""
        pairs = [np.zeros((0, 2), np.int64)]
        for found in self.axes.values():
            for _, classes in found:
                free = np.unique(classes[classes != FIXED].numpy())
                pairs.append(np.stack([free, np.full_like(free, free[0])], axis=1))
        joined = np.concatenate(pairs)
        links = coo_array(
            (np.ones(len(joined), np.int8), (joined[:, 0], joined[:, 1])),
            shape=(self.n_classes, self.n_classes),
        )
        return connected_components(links, directed=False)[1]

    # ---- tensors -------------------------------------------------------------------------------------

    def name(self, node: Node) -> str:
        """Return the name of a parameter in the whole model."""
        inner = self.traced.owned[node]
        return f"{self.traced.prefix}.{inner}" if self.traced.prefix else inner

    def tensors(self, model: nn.Module, other: Mapping[str, Tensor] | None = None) -> dict[Node, Tensor]:
        """Return parameters and buffers of a model by node; ``other`` replaces some by name."""
        own = dict(model.named_parameters(remove_duplicate=False)) | dict(
            model.named_buffers(remove_duplicate=False)
        )
        names = {node: self.name(node) for node in self.traced.owned}
        return {node: (other or {}).get(name, own[name]) for node, name in names.items()}

    def _patterns(self, tensors: Mapping[Node, Tensor]) -> dict[Node, Tensor]:
        found = {}
        for node in self._weighted:
            nonzero = tensors[node].detach() != 0
            found[node] = nonzero.flatten(2).any(2) if nonzero.ndim > 2 else nonzero
        return found

    def _removed_axes(self, removed: Tensor) -> dict[Node, list[tuple[int, Tensor]]]:
        found = {}
        for node, axes in self.axes.items():
            here = [(axis, removed[classes]) for axis, classes in axes]
            here = [(axis, gone) for axis, gone in here if bool(gone.any())]
            if here:
                found[node] = here
        return found

    # ---- what can go ---------------------------------------------------------------------------------

    def removable(
        self, tensors: Mapping[Node, Tensor], patterns: Mapping[Node, Tensor] | None = None
    ) -> Tensor:
        """Return the classes that no output would miss if all constants were zero, bool, (n_classes,)."""
        device = next(iter(tensors.values())).device if tensors else torch.device("cpu")
        patterns = self._patterns(tensors) if patterns is None else patterns
        removed = torch.zeros(self.n_classes, dtype=torch.bool, device=device)
        while True:
            at = Pass(self.traced, tensors, patterns, self._removed_axes(removed), {}, self._ones)
            more = self._more(at, removed, silent=True, slots={})
            if not bool(more.any()):
                return removed
            removed = removed | more

    def _more(self, at: Pass, removed: Tensor, silent: bool, slots: Mapping[Reader, str]) -> Tensor:
        """Return the classes that every reader can do without, beyond those already removed."""
        free = ~removed
        free[FIXED] = False
        for reader, classes in self._read:
            value, varies = at.constant(reader)
            foldable = ~varies & (
                silent | (value == 0) | (reader.folds and not reader.padded and reader in slots)
            )
            free[classes[~(foldable | at.unread(reader))]] = False
        return free

    def simplified(
        self, model: nn.Module, silence: bool = False, only: Tensor | None = None
    ) -> tuple[Rewriting, Tensor]:
        """Return parameters in which all channels are zero that can go, and their classes.

        Constants are folded into the biases of the layers that read them, so that the outputs stay the same.
        With ``silence``, constants that cannot be folded become zero first, which changes the outputs; with
        ``only``, all but some classes stay.
        """
        tensors = self.tensors(model)
        given = dict(tensors)
        extra: dict[Node, Tensor] = {}
        slots = self._slots(model)
        device = next(iter(tensors.values())).device if tensors else torch.device("cpu")
        removed = torch.zeros(self.n_classes, dtype=torch.bool, device=device)
        with torch.no_grad():
            if silence:
                self._zero(tensors, self.removable(tensors))
            while True:
                at = Pass(
                    self.traced,
                    tensors,
                    self._patterns(tensors),
                    self._removed_axes(removed),
                    extra,
                    self._ones,
                )
                more = self._more(at, removed, silent=False, slots=slots)
                more = more if only is None else more & only
                if not bool(more.any()):
                    break
                for reader, classes in self._read:
                    self._fold(at, reader, more[classes], tensors, extra, slots)
                self._zero(tensors, more)
                removed = removed | more
        changed = {self.name(n): t for n, t in tensors.items() if t is not given[n]}
        biases = {slots[reader]: extra[reader.node] for reader, _ in self._read if reader.node in extra}
        return Rewriting(changed, biases), removed

    def silenced(self, tensors: dict[Node, Tensor], classes: Tensor) -> Rewriting:
        """Return parameters in which some classes are zero."""
        zeroed = dict(tensors)
        self._zero(zeroed, classes)
        return Rewriting({self.name(n): t for n, t in zeroed.items() if t is not tensors[n]})

    def _zero(self, tensors: dict[Node, Tensor], classes: Tensor) -> None:
        """Set the slices of some classes to zero in all parameters, but one in what normalises."""
        for node, axes in self._removed_axes(classes).items():
            for axis, gone in axes:
                shape = [-1 if a == axis else 1 for a in range(tensors[node].ndim)]
                filler = torch.ones_like if node in self._ones else torch.zeros_like
                tensors[node] = torch.where(gone.reshape(shape), filler(tensors[node]), tensors[node])

    def _slots(self, model: nn.Module) -> dict[Reader, str]:
        """Return where each reader can add a constant: ``bias``, ``norm`` or the name of a layer."""
        shared = Counter(reader.weight[0] for reader in self.spread.readers if reader.weight)
        found = {}
        for reader in self.spread.readers:
            if not reader.folds or reader.weight is None or shared[reader.weight[0]] > 1:
                continue
            if reader.bias is not None:
                if reader.bias in self.traced.owned and len(reader.bias.users) == 1:
                    found[reader] = "bias"
            elif self._norm_after(reader) is not None:
                found[reader] = "norm"
            elif reader.weight[0] in self.traced.owned:
                layer, _, last = self.name(reader.weight[0]).rpartition(".")
                module = model.get_submodule(layer)
                if last == "weight" and getattr(module, "bias", 0) is None:
                    found[reader] = layer
        return found

    def _norm_after(self, reader: Reader) -> Node | None:
        """Return the running mean of a normalisation that alone reads the output, and nothing else does."""
        users = list(reader.node.users)
        if len(users) != 1 or not _normalises(users[0]):
            return None
        mean = users[0].args[3]
        return mean if mean in self.traced.owned and len(mean.users) == 1 else None

    def _fold(
        self,
        at: Pass,
        reader: Reader,
        gone: Tensor,
        tensors: dict[Node, Tensor],
        extra: dict[Node, Tensor],
        slots: Mapping[Reader, str],
    ) -> None:
        """Add the constants of some channels, times their weights, to the bias of a reader."""
        value, varies = at.constant(reader)
        amount = torch.where(gone & ~varies & ~at.unread(reader), value, torch.zeros_like(value))
        if reader.weight is None or not bool(amount.any()):
            return
        weight, axis = reader.weight
        of = tensors[weight].detach() if weight in tensors else at.get(weight).value
        sums = of.flatten(2).sum(2) if of.ndim > 2 else of
        shift = (sums if axis == 1 else sums.T) @ amount
        slot = slots[reader]
        if slot == "bias":
            assert reader.bias is not None
            tensors[reader.bias] = tensors[reader.bias].detach() + shift
        elif slot == "norm":
            mean = self._norm_after(reader)
            assert mean is not None
            tensors[mean] = tensors[mean] - shift
        else:
            extra[reader.node] = extra.get(reader.node, torch.zeros_like(shift)) + shift

    # ---- counting ------------------------------------------------------------------------------------

    def kept(self, removed: Tensor) -> Tensor:
        """Return the classes that stay: those not removed, and enough for one index of every axis."""
        stay = ~removed.cpu()
        changed = True
        while changed:
            changed = False
            for axes in self.axes.values():
                for _, classes in axes:
                    if not bool(stay[classes].any()):
                        stay[classes[0]] = changed = True
        return stay

    def macs(self, removed: Tensor) -> float:
        """Return the multiply-accumulate operations of one example without some classes."""
        stay = self.kept(removed).to(torch.float64)
        return sum(
            macs * math.prod(float(stay[classes].mean()) for classes in factors)
            for macs, factors in self._fractions
        )

    def connected(self, masks: Mapping[str, Tensor], removed: Tensor) -> dict[str, Tensor]:
        """Return the masks of parameters without what belongs to removed classes."""
        found = dict(masks)
        for node, axes in self.axes.items():
            name = self.name(node)
            if name in found:
                for axis, classes in axes:
                    gone = removed[classes]
                    shape = [-1 if a == axis else 1 for a in range(found[name].ndim)]
                    found[name] = found[name] & ~gone.reshape(shape).to(found[name].device)
        return found

    # ---- cutting -------------------------------------------------------------------------------------

    def blocks(self, removed: Tensor) -> Iterator[Tensor]:
        """Yield the classes of each block that has removed ones, bool, (n_classes,)."""
        of = torch.from_numpy(self._blocks.astype(np.int64)).to(removed.device)
        for block in torch.unique(of[removed]).tolist():
            yield of == block

    def cuts(self, removed: Tensor) -> Iterator[Cut]:
        """Yield what to cut out, block by block."""
        stay = self.kept(removed)
        for block in self.blocks(~stay):
            here = ~stay & block
            keep: dict[str, list[tuple[int, Tensor]]] = {}
            heads: dict[int, int] = {}
            for node, axes in self._removed_axes(here).items():
                keep[self.name(node)] = [(axis, ~lost) for axis, lost in axes]
                for _, classes in self.axes[node]:
                    sets = torch.unique(classes)
                    if len(sets) < len(classes):
                        heads[len(sets)] = int((~here[sets]).sum())
            yield Cut(keep, heads)

    def stuck(self, model: nn.Module) -> dict[str, list[str]]:
        """Return layers with outputs that are all zero but cannot leave, and why; outputs are not named."""
        tensors = self.tensors(model)
        found = {}
        for node, pattern in self._patterns(tensors).items():
            factor = next((f for f in self.spread.factors[node] if f.shape[0] > 1), None)
            if factor is None:
                continue
            labels = factor.flatten()
            bad = ~pattern.any(1).cpu() & torch.from_numpy(self.classes[labels.numpy()] == FIXED)
            if bool(bad.any()):
                reasons = self.spread.labels.reasons(labels[bad])
                if "an output of the network" not in reasons:
                    found[self.name(node).rpartition(".")[0]] = reasons or ["joined with channels that stay"]
        return found

    def costs(self, model: nn.Module, layers: Sequence[str]) -> dict[str, int]:
        """Return the operations of one example that go with the first output of each layer alone."""
        tensors: dict[Node, Any] = self.tensors(model)
        patterns = self._patterns(tensors)
        whole = self.macs(self.removable(tensors, patterns))
        names = {self.name(node): node for node in tensors}
        found = {}
        for layer in layers:
            node, bias = names.get(f"{layer}.weight"), names.get(f"{layer}.bias")
            if node not in patterns:
                continue
            silent, without = dict(patterns), dict(tensors)
            silent[node] = patterns[node].clone()
            silent[node][0] = False
            if bias is not None:
                without[bias] = tensors[bias].detach().clone()
                without[bias][0] = 0.0
            found[layer] = round(whole - self.macs(self.removable(without, silent)))
        return found


def _normalises(node: Node) -> bool:
    """Return whether a node is a batch normalisation with running moments."""
    name = name_of(node)
    return "no_training" in name or (name == "batch_norm" and not bool(node.args[5]))
