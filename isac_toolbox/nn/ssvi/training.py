"""Training on a fixed budget: start, epoch, step and change of the support (docs/theory-ssvi.md)."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from isac_toolbox.nn._batches import Batch, batches, n_batches_of
from isac_toolbox.nn._fits import Fit
from isac_toolbox.nn._records import EpochFigures, Means
from isac_toolbox.nn.export.codings import mean_run
from isac_toolbox.nn.export.macs import output_positions
from isac_toolbox.nn.ssvi.budget import layer_budgets, replaced_fraction, updates_at
from isac_toolbox.nn.ssvi.flops import step_flops, topology_flops
from isac_toolbox.nn.ssvi.layers import SparseLayer, active_kl, descend_in_sigma, inverse_softplus, to_plain
from isac_toolbox.nn.ssvi.scores import removal_score
from isac_toolbox.nn.ssvi.settings import SSVISettings
from isac_toolbox.nn.ssvi.topology import (
    StructuredScore,
    largest_weights,
    random_support,
    replace_weights,
)
from isac_toolbox.nn.training import cosine, epoch_seed, set_rate, set_training, training_epoch

__all__ = ["SparseEpochRecord", "SparseTraining"]

#: Counters of ``SparseTraining`` that a checkpoint holds.
_COUNTS = ("step_count", "n_examples", "n_updates", "training_flops")


@dataclass(frozen=True, kw_only=True)
class SparseEpochRecord(EpochFigures):
    """Figures of one epoch of ``fit``; ``kl`` is 0 for a point estimate.

    Attributes
    ----------
    replaced : int
        Weights that were replaced in this epoch.
    """

    replaced: int


class SparseTraining(Fit):
    """State and steps of the fit; ``SparseClassifier`` adds the loop and everything after it.

    Attributes
    ----------
    layers : dict
        Sparse layers by name.
    step_count, n_examples : int
        Steps and examples of training so far.
    training_flops : int
        Operations of training so far (``isac_toolbox.nn.ssvi.flops``).
    n_updates : int
        Number of changes of the support so far.
    """

    layers: dict[str, SparseLayer]
    settings: SSVISettings
    history: list[SparseEpochRecord]
    optimiser: torch.optim.SGD
    step_count: int
    n_examples: int
    training_flops: int
    n_updates: int
    _small: dict[str, Tensor]
    _given: dict[str, Tensor]
    _known_positions: dict[str, int] | None

    # ---- start ---------------------------------------------------------------------------------------

    def _start(self) -> None:
        """Draw support and means, and reset everything else."""
        self.model.load_state_dict(self._small, strict=False)
        self.example, self.input_shape, self._known_positions = None, None, None
        budgets = self._budgets()
        for i, (name, layer) in enumerate(self.layers.items()):
            generator = torch.Generator().manual_seed(epoch_seed(self.seed, i, 3))
            self._start_layer(layer, budgets[name], generator, self._given.get(name))
        self._graphs = {
            name: StructuredScore(layer.dense_shape, n, self.settings.p11, self.settings.gate)
            for name, layer in self.layers.items()
            if self.settings.removal == "structured"
            for n in [layer.n_active / layer.n_weights]
        }
        self.history, self.step_count, self.n_examples = [], 0, 0
        self.n_updates, self.training_flops = 0, 0
        self.optimiser = self._make_optimiser()

    def _budgets(self) -> dict[str, int]:
        """Return the number of active weights by layer."""
        shapes = [layer.dense_shape for layer in self.layers.values()]
        chosen = self.settings
        counts = layer_budgets(shapes, chosen.density, chosen.layer_density, chosen.erk_power)
        return dict(zip(self.layers, counts))

    def _start_layer(
        self, layer: SparseLayer, n_active: int, generator: torch.Generator, given: Tensor | None
    ) -> None:
        """Set support and means of a layer, random ones or the largest of given weights, with one sigma."""
        chosen = self.settings
        if given is None:
            run = max(round(1.0 / (1.0 - chosen.p11)), 1) if chosen.removal == "structured" else 1
            index = random_support(layer.dense_shape, n_active, generator, run)
            spread = chosen.initial_mean_sd
            if spread is None:  # He et al., with the mean number of active inputs
                spread = math.sqrt(2.0 / max(n_active / layer.dense_shape[0], 1.0))
            mean = (spread * torch.randn(n_active, generator=generator)).to(layer.like)
        else:
            index, mean = largest_weights(given.to(layer.like), n_active)
        rho = torch.full_like(mean, inverse_softplus(chosen.initial_sigma)) if chosen.posterior else None
        layer.noisy_outputs = chosen.posterior and chosen.noise == "outputs"
        layer.set_support(None if index is None else index.to(mean.device), mean, rho)

    def _make_optimiser(self) -> torch.optim.SGD:
        """Return SGD with momentum, without decay of sigma."""
        rhos = [layer.rho for layer in self.layers.values() if layer.rho is not None]
        learning = [p for p in self.model.parameters() if p.requires_grad]
        others = [p for p in learning if not any(p is rho for rho in rhos)]
        groups = [{"params": others, "weight_decay": self.settings.weight_decay}]
        groups += [{"params": rhos, "weight_decay": 0.0}] if rhos else []
        rate, momentum = self.settings.learning_rate, self.settings.momentum
        return torch.optim.SGD(groups, lr=rate, momentum=momentum, foreach=False)

    # ---- epoch and step ------------------------------------------------------------------------------

    def _epoch(self, loader: Any, val_loader: Any, epoch: int, epochs: int, size: int) -> SparseEpochRecord:
        """Train for one epoch and return its record."""
        start, means, replaced = time.perf_counter(), Means(), 0
        kl_scale = self.settings.kl_weight / size * min(1.0, 2.0 * epoch / epochs)
        self._set_sampling(epoch_seed(self.seed, epoch, 1))
        set_training(self.model, self.frozen)
        n_steps = 0
        with training_epoch(self.seed, epoch, loader):
            for batch in batches(loader, self.model, "train_loader"):
                n_steps = n_steps or epochs * n_batches_of(loader, size, batch.size)
                set_rate(self.optimiser, self.settings.learning_rate * cosine(self._progress(n_steps)))
                loss, part, moved = self._step(batch, kl_scale, n_steps)
                replaced += moved
                means.add(batch.size, loss, part)
        self._set_sampling(None)
        self.model.eval()
        if not math.isfinite(means.loss):
            raise FloatingPointError(
                f"the loss of epoch {epoch} is {means.loss}; a smaller learning_rate "
                f"(now {self.settings.learning_rate}) or initial_sigma (now {self.settings.initial_sigma}) "
                "may help"
            )
        masks = [layer.mask for layer in self.layers.values()]
        val_loss, val_accuracy = math.nan, math.nan
        if val_loader is not None:
            val_loss, val_accuracy = self.objective.evaluate(self.model, val_loader, "val_loader")
        return SparseEpochRecord(
            epoch=epoch,
            loss=means.loss,
            accuracy=means.quality,
            val_accuracy=val_accuracy,
            val_loss=val_loss,
            kl=self.kl(),
            density=self.density,
            replaced=replaced,
            neurons=tuple(int(mask.flatten(1).any(dim=1).sum()) for mask in masks),
            mean_run=mean_run(masks[0].numpy(force=True)),
            seconds=time.perf_counter() - start,
        )

    def _progress(self, n_steps: int) -> float:
        """Return the progress of the learning-rate schedule, from 0 to 1."""
        return self.step_count / n_steps

    def _step(self, batch: Batch, kl_scale: float, n_steps: int) -> tuple[float, float, int]:
        """Train on one minibatch; return loss, metric and number of replaced weights."""
        self._remember(batch)
        self.step_count += 1
        last = self.settings.update_until * n_steps
        update = updates_at(self.step_count, self.settings.update_interval, last)
        for layer in self.layers.values():
            layer.probing = update
        self.optimiser.zero_grad(set_to_none=True)
        data_loss, quality = self.objective.training_loss(self.model, batch)
        loss = data_loss
        if self.settings.posterior and kl_scale > 0.0:
            loss = loss + kl_scale * self._kl()
        loss.backward()
        if self.settings.sigma_step == "sigma":
            for layer in self.layers.values():
                descend_in_sigma(layer.rho, self.optimiser.param_groups[0]["lr"])
        self.optimiser.step()
        active, positions = self.active_weights(), self._positions()
        self.training_flops += step_flops(self._products(active), positions, batch.size)
        self.n_examples += batch.size
        replaced = 0
        if update:
            replaced = self._update_support(last)
            if replaced:
                total = {name: layer.n_weights for name, layer in self.layers.items()}
                self.training_flops += topology_flops(active, total, positions, batch.size)
                self.n_updates += 1
        return float(data_loss.detach()), quality, replaced

    def _products(self, weights: dict[str, int]) -> dict[str, int]:
        """Return the products of a pass: two per weight where the noise is drawn at the outputs."""
        return {name: n * self.layers[name].n_products for name, n in weights.items()}

    def _positions(self) -> dict[str, int]:
        """Return the output positions of every layer, measured once per fit."""
        if self._known_positions is None:
            self._known_positions = output_positions(self.mean_model(), self.example)
        return self._known_positions

    # ---- support -------------------------------------------------------------------------------------

    def _update_support(self, last: float) -> int:
        """Replace weights in every layer by the gradient of this minibatch; return their number."""
        part = replaced_fraction(self.step_count, last, self.settings.replace_fraction)
        replaced = 0
        for i, (name, layer) in enumerate(self.layers.items()):
            probe, layer.probing, layer.probe = layer.probe, False, None
            n = round(part * layer.n_active)
            if probe is None or probe.grad is None or n < 1:
                continue
            removal, addition = self._scores(name, layer, probe.grad, n, i)
            replaced += replace_weights(layer, n, removal, addition, self._memories(layer))
        return replaced

    def _scores(
        self, name: str, layer: SparseLayer, gradient: Tensor, n: int, number: int
    ) -> tuple[Tensor, Tensor]:
        """Return the removal score of the active weights and the addition score of all positions."""
        chosen, sigma = self.settings, layer.sigma
        mean = layer.mean.detach()
        sigma = None if sigma is None else sigma.detach()
        if chosen.removal == "structured":
            ratio = removal_score("snr", mean, sigma)
            return self._graphs[name].scores(layer, ratio, gradient, n)
        removal = removal_score(chosen.removal, mean, sigma, chosen.exp_rate)
        if chosen.addition == "random":
            seed = epoch_seed(self.seed, self.step_count, 4 + number)
            generator = torch.Generator().manual_seed(seed)
            return removal, torch.rand(layer.n_weights, generator=generator).to(mean.device)
        return removal, gradient.abs().flatten()

    def _memories(self, layer: SparseLayer) -> list[Tensor]:
        """Return the momenta of the weights of a layer."""
        parameters = [p for p in (layer.mean, layer.rho) if p is not None]
        found = [self.optimiser.state.get(p, {}).get("momentum_buffer") for p in parameters]
        return [memory for memory in found if memory is not None]

    def active_weights(self) -> dict[str, int]:
        """Return the number of active weights by layer."""
        return {name: layer.n_active for name, layer in self.layers.items()}

    def support(self) -> dict[str, Tensor]:
        """Return the active positions of each layer, bool, in the shape of its weight."""
        return {name: layer.mask for name, layer in self.layers.items()}

    @property
    def density(self) -> float:
        """Return the active part of the weights of all converted layers."""
        total = sum(layer.n_weights for layer in self.layers.values())
        return sum(self.active_weights().values()) / total

    # ---- posterior -----------------------------------------------------------------------------------

    def _kl(self) -> Tensor:
        """Return the KL divergence of the active weights from the prior, with its gradient."""
        terms = [
            active_kl(layer.mean, layer.sigma, self.settings.prior_sd)
            for layer in self.layers.values()
            if layer.sigma is not None
        ]
        return torch.stack(terms).sum()

    def kl(self) -> float:
        """Return the KL divergence of the active weights from the prior in nats; 0 for a point estimate."""
        with torch.no_grad():
            return float(self._kl()) if self.settings.posterior else 0.0

    def mean_model(self) -> nn.Module:
        """Return a plain copy of the network with the posterior means, zero outside the support."""
        return to_plain(self.model)

    def _set_sampling(self, seed: int | None) -> None:
        """Turn the noise on with a seed, or off."""
        for i, layer in enumerate(self.layers.values()):
            layer.sampling = seed is not None and self.settings.posterior
            layer.generator = None
            if seed is not None:
                layer.generator = torch.Generator(layer.mean.device).manual_seed(seed + i)

    # ---- checkpoint ----------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Return everything that a fit changes, as tensors and plain values."""
        return {
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "counts": {name: getattr(self, name) for name in _COUNTS},
        } | self._stored_figures()

    def restore(self, state: dict[str, Any]) -> None:
        """Restore what ``state`` returned.

        Raises
        ------
        RuntimeError
            If it belongs to another model.
        """
        self._adopt_shapes(state["model"])
        self.model.load_state_dict(state["model"])
        for layer in self.layers.values():
            layer.refresh()
        self.optimiser.load_state_dict(state["optimiser"])
        for name in _COUNTS:
            setattr(self, name, int(state["counts"][name]))
        self._restore_figures(state, SparseEpochRecord)

    def _adopt_shapes(self, state: Mapping[str, Tensor]) -> None:
        """Change the number of weights to that of a stored state, where the method changes it in training."""

    # ---- cost ----------------------------------------------------------------------------------------

    def training_state_bytes(self) -> dict[str, int]:
        """Return the bytes that training keeps between steps, summed over the tensors.

        Returns
        -------
        dict of str to int
            ``parameters``, ``positions`` of the active weights, ``optimiser`` (momenta), ``other``
            (moments of normalisations), and ``total``. Gradients and activations are not kept.
        """
        positions = sum(layer.buffers_bytes() for layer in self.layers.values())
        indices = {id(layer.index) for layer in self.layers.values()}
        others = [b for b in self.model.buffers() if id(b) not in indices]
        moments = [v for s in self.optimiser.state.values() for v in s.values() if isinstance(v, Tensor)]
        counted = {
            "parameters": _bytes(list(self.model.parameters())),
            "positions": positions,
            "optimiser": _bytes(moments),
            "other": _bytes(others),
        }
        return counted | {"total": sum(counted.values())}


def _bytes(tensors: list[Any]) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)
