"""How much the mean network under a mask would lose (docs/theory-networks.md, section 5.5)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import accumulate
from typing import Any

from torch import Tensor

from isac_toolbox.nn._batches import Batch
from isac_toolbox.nn.training import batch_norms
from isac_toolbox.nn.turbo_vbi.budgets import SupportBudgets
from isac_toolbox.nn.turbo_vbi.watch import Verdict, Watch, some_of

__all__ = ["Trials"]

#: Cost cap: examples for the moments of normalisations where one network is judged, and many are.
_NORM_EXAMPLES, _FEW_NORM_EXAMPLES = 1000, 300


class Trials:
    """Measurements of networks under masks, which leave network, masks, noise and modes as they were.

    Parameters
    ----------
    compressor : SupportBudgets
        Owner of the network.
    watch : Watch
        Where the loss is measured.
    loader : iterable
        Training batches, of which some give the moments of normalisations.

    Attributes
    ----------
    norm_batches, few_norm_batches : list
        Those batches, so that a measurement leaves the loader alone, and the first of them.
    """

    def __init__(self, compressor: SupportBudgets, watch: Watch, loader: Any) -> None:
        self.compressor, self.watch = compressor, watch
        self.norm_batches: list[Batch] = []
        if batch_norms(compressor.model, compressor.frozen):
            self.norm_batches = some_of(loader, compressor.model, _NORM_EXAMPLES, compressor.seed)
        enough = _FEW_NORM_EXAMPLES
        sizes = accumulate((batch.size for batch in self.norm_batches), initial=0)
        self.few_norm_batches = [b for b, before in zip(self.norm_batches, sizes) if before < enough]

    @property
    def n_weights(self) -> int:
        """Return the number of weights of all converted layers."""
        return sum(layer.mask.numel() for layer in self.compressor.layers.values())

    @property
    def n_kept(self) -> int:
        """Return the number of weights that the masks keep."""
        return sum(int(layer.mask.sum()) for layer in self.compressor.layers.values())

    def verdict(self, support: dict[str, Tensor]) -> Verdict:
        """Return what the network under a mask has lost, infinite where nothing is left."""
        if not any(bool(mask.any()) for mask in support.values()):
            return Verdict(math.inf, 0.0)
        with self._under(support, self.norm_batches):
            return self.watch.verdict(self.compressor.model)

    def lost(self, support: dict[str, Tensor]) -> float:
        """Return the mean loss under a mask on a few of the held-back examples."""
        with self._under(support, self.few_norm_batches):
            return self.watch.lost_on_few(self.compressor.model)

    @contextmanager
    def _under(self, support: dict[str, Tensor], norm_batches: list[Batch]) -> Iterator[None]:
        """Use the means under a mask for a while."""
        with self.compressor._without_noise(), self.compressor._masked(support, norm_batches):
            yield

    def first_of(self, order: Tensor, n: int) -> dict[str, Tensor]:
        """Return the support of the first positions of an order."""
        layers = self.compressor.layers
        flat = order.new_zeros(self.n_weights).bool()
        flat[order[:n]] = True
        parts = flat.split([layer.mask.numel() for layer in layers.values()])
        return {name: part.reshape(layer.mask.shape) for (name, layer), part in zip(layers.items(), parts)}
