"""A fit that loses no more than asked: train, prune while it holds, settle (docs/theory-networks.md, 5.5)."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from isac_toolbox.nn._batches import Batch, batches, n_batches_of
from isac_toolbox.nn._records import Means
from isac_toolbox.nn.layers import to_plain
from isac_toolbox.nn.training import (
    batch_norms,
    cosine,
    descend,
    evaluating,
    recalibrate,
    set_rate,
    set_training,
    training_epoch,
)
from isac_toolbox.nn.turbo_vbi.budgets import SupportBudgets
from isac_toolbox.nn.turbo_vbi.masking import dead_norm_channels
from isac_toolbox.nn.turbo_vbi.records import EpochRecord, Schedule
from isac_toolbox.nn.turbo_vbi.watch import Quality, Watch, is_trained, some_of

__all__ = ["GuardedFit"]

#: Guard: part of the epochs in which the result settles, and part of these in which it still loses weights.
_SETTLING_PART, _CUTTING_PART = 0.5, 0.6
#: Part of the weights that stays at the first cut and at least; factor after a cut that was recovered from.
_CUT, _LEAST_CUT, _BOLDER = 0.75, 0.5, 0.9
#: Guard: part of the posterior's epochs before the engine is called, at most.
_WARMUP_PART = 0.25
#: Guard: how many times the allowed loss a network may show before it has settled, and before another cut.
_SLACK, _CUT_SLACK = 5.0, 2.0
#: Temperature of the first update, relative to that of the settings, which a half of the updates reach.
_START = 0.3
#: Guard: largest growth of the temperature from one update to the next.
_MOST_GROWTH = 2.0
#: Guard: epochs in which a network may recover from a cut.
_MISSES = 2
#: Precision of the number of weights that a bisection finds.
_PRECISION = 0.01
#: Nats below the smallest saliency at which a search for a threshold starts; there everything is kept.
_WIDE = 4.0
#: Cost cap: examples for the moments of normalisations where a network is judged.
_NORM_EXAMPLES = 1000
#: What a checkpoint holds beside the state of the compressor.
_STATES = ("dense", "good", "strict", "settled", "recovered", "near")
_VALUES = ("rank", "n_near", "temperature", "growth", "cut", "misses", "again", "alone")


class GuardedFit:
    """The epochs of a fit under ``max_loss_drop``.

    A reference network comes first: the given one or, where it knows nothing yet, one that is trained for as
    many epochs. Then the temperature rises from update to update of the engine as long as the masked network
    loses at most a few times what is allowed; where it loses more, the fit goes back to the last good state
    and rises more slowly. The sparsest good support settles without noise, and goes on to lose its least
    important weights, again as long as it recovers. The result is the sparsest network that was measured to
    lose no more than allowed; at last the reference under a mask of its least important weights, which
    needs no training, and which is the reference itself if no weight may go.

    Parameters
    ----------
    compressor : SupportBudgets
        Its network, priors and averages are trained.
    loader : iterable
        Training batches.
    watch : Watch
        Where the loss is measured.
    epochs, size : int
        Number of epochs, and of training examples.
    teacher : nn.Module, optional
        Network for distillation; the reference if not given and if the loss allows a teacher.
    """

    def __init__(
        self,
        compressor: SupportBudgets,
        loader: Any,
        watch: Watch,
        epochs: int,
        size: int,
        teacher: nn.Module | None,
    ) -> None:
        self.compressor, self.loader, self.watch, self.size = compressor, loader, watch, size
        self.given_teacher = self.teacher = teacher
        watch.refer_to(compressor.model)
        trained = is_trained(watch.objective, compressor.model, watch.held_back)
        self.n_dense = 0 if trained else epochs
        self.n_fit = epochs
        self.n_posterior = epochs - round(_SETTLING_PART * epochs)
        self.norm_batches = self._batches_for_norms()
        self.dense = self.good = self.strict = compressor.posterior_state()
        self.settled: dict[str, Any] | None = None
        self.recovered: dict[str, Any] | None = None
        self.near: dict[str, Any] | None = None
        self.rank, self.n_near = (math.inf, math.inf), 0
        self.temperature, self.growth, self.cut, self.misses = 0.0, 0.0, _CUT, 0
        self.again, self.alone = False, False
        self.history: list[EpochRecord] = []

    @property
    def n_epochs(self) -> int:
        """Return the number of epochs, those of the reference included."""
        return self.n_dense + self.n_fit

    @property
    def n_settling(self) -> int:
        """Return the epochs in which the result settles."""
        return self.n_fit - self.n_posterior

    # ---- epochs --------------------------------------------------------------------------------------

    def epoch(self, epoch: int) -> EpochRecord:
        """Run one epoch and return its record; those of the reference are not in the compressor's history."""
        if epoch < self.n_dense:
            return self._dense_epoch(epoch)
        if epoch == self.n_dense:
            self._start_posterior()
        settling = self.n_dense + self.n_posterior
        if epoch == settling:
            self._fix(self.good)
        record = self._posterior_epoch(epoch) if epoch < settling else self._settling_epoch(epoch)
        self.compressor.history.append(record)
        return record

    def _dense_epoch(self, epoch: int) -> EpochRecord:
        """Train the whole network; it is the reference if it is the best so far."""
        record = self._plain_epoch(epoch, 0, self.n_dense, "dense", self.given_teacher)
        assert self.watch.reference is not None
        best = self.watch.reference[0].loss
        if not math.isfinite(best) or self.watch.measure(self.compressor.model).loss <= best:
            self.watch.refer_to(self.compressor.model)
            self.dense = self.compressor.posterior_state()
        return record

    @property
    def _warmup(self) -> int:
        """Return the epochs of the posterior before the engine is called."""
        return min(self.compressor.settings.warmup_epochs, int(_WARMUP_PART * self.n_posterior))

    def _posterior_epoch(self, epoch: int) -> EpochRecord:
        """Train the posterior; every update of the engine is judged."""
        compressor, settings = self.compressor, self.compressor.settings
        warmup = self._warmup
        if self.growth == 0.0:
            n_updates = (self.n_posterior - warmup) * settings.updates_per_epoch
            self.growth = min(_START ** (-2.0 / n_updates), _MOST_GROWTH)
        schedule = Schedule(self.n_dense, self.n_posterior, self.n_dense + warmup, lambda _: self.temperature)
        with self._taught_by(self.teacher):
            return compressor._epoch(
                self.loader, self.watch.held_back, epoch, schedule, self.size, self._judge
            )

    @contextmanager
    def _taught_by(self, teacher: nn.Module | None) -> Iterator[None]:
        """Let a teacher take part in the likelihood."""
        self.compressor._teacher = teacher
        try:
            with evaluating(teacher):
                yield
        finally:
            self.compressor._teacher = None

    def _settling_epoch(self, epoch: int) -> EpochRecord:
        """Train the kept weights; cut more of them while the network recovers."""
        first, last = self.n_dense + self.n_posterior, self.n_epochs
        quiet = first + round(_CUTTING_PART * self.n_settling)
        middle = (quiet + last) // 2
        if first < epoch < quiet:
            self._cut_or_go_back()
        elif epoch == quiet:
            self._settle_on()
        elif epoch == middle and self._n_kept() < self.rank[0]:
            self.again = True
            self._settle_on_less()
        falling = middle if self.again else quiet  # the rate falls in the quiet part alone
        first = falling if epoch >= quiet else epoch
        record = self._plain_epoch(epoch, first, max(last - first, 1), "settling", self.teacher)
        self._keep_if_better()
        return record

    def _settle_on(self) -> None:
        """Choose the support of the quiet part: the sparsest from which the network can recover."""
        if self.recovered is not None and not self.watch.holds(self.compressor.model, _SLACK):
            self._load_masked(self.recovered)

    def _settle_on_less(self) -> None:
        """Choose a denser support: one that has lost what is allowed on average, or that holds."""
        if self.near is not None and self.n_near < self.rank[0]:
            self._load_masked(self.near)
        elif self.settled is not None:
            self._load_masked(self.settled)
        else:
            self._fall_back()

    def _cut_or_go_back(self) -> None:
        """Drop the least important weights if the network has recovered; go back if it does not."""
        if self.watch.holds(self.compressor.model, _CUT_SLACK):
            self.cut = self.cut if self.recovered is None else max(_BOLDER * self.cut, _LEAST_CUT)
            self.misses, self.recovered = 0, self.compressor.posterior_state()
        else:
            self.misses += 1
            if self.misses < _MISSES or self.recovered is None:
                return
            self._load_masked(self.recovered)
            self.cut = math.sqrt(self.cut) if self.alone else self.cut
            self.misses, self.alone = 0, True
        self._drop(self.cut)

    def _drop(self, part: float) -> None:
        """Keep a part of the weights, by the evidence of each and of its neighbours in the support graph.

        After a cut that the network did not recover from, by the evidence of each weight alone.
        """
        compressor = self.compressor
        saliency = compressor._saliency()
        target = part * self._n_kept()
        if self.alone:
            order = compressor._most_salient_first(saliency)
            self._replace_support(self._first_of(order, max(int(target), 1)))
            return
        positive = torch.cat([value[value > 0.0] for value in saliency.values()])
        if not positive.numel():
            return
        low, high = math.log(float(positive.min())) - _WIDE, math.log(float(positive.max()))
        while high - low > _PRECISION:
            middle = 0.5 * (low + high)
            support = compressor._support_above(saliency, math.exp(middle))
            if sum(int(mask.sum()) for mask in support.values()) > target:
                low = middle
            else:
                high = middle
        self._replace_support(compressor._support_above(saliency, math.exp(low)))

    def _replace_support(self, support: dict[str, Tensor]) -> None:
        """Use a smaller support as the mask, unless it is empty."""
        compressor = self.compressor
        if any(bool(mask.any()) for mask in support.values()):
            compressor._keep(support)
            recalibrate(compressor.model, self.norm_batches, compressor.seed, frozen=compressor.frozen)

    def _keep_if_better(self) -> None:
        """Keep the masked network if it holds and is the sparsest so far, or loses least at that size."""
        model = self.compressor.model
        rank = (self._n_kept(), self.watch.lost(model))
        if rank[1] <= self.watch.max_loss_drop and (self.near is None or self._n_kept() <= self.n_near):
            self.near, self.n_near = self.compressor.posterior_state(), self._n_kept()
        if rank <= self.rank and self.watch.holds(model):
            self.settled, self.rank = self.compressor.posterior_state(), rank

    def _load_masked(self, state: dict[str, Any]) -> None:
        """Load a state whose support is the mask."""
        self.compressor.load_posterior(state)
        self.compressor._set_masked(True)
        self.compressor._new_optimiser()

    def _plain_epoch(
        self, epoch: int, first: int, n_epochs: int, phase: str, teacher: nn.Module | None
    ) -> EpochRecord:
        """Train without noise and prior, under the mask if it is applied."""
        start, compressor = time.perf_counter(), self.compressor
        model, objective = compressor.model, self.watch.objective
        held = dead_norm_channels(model) if phase == "settling" else []
        means, n = Means(), 0
        set_training(model, compressor.frozen)
        with training_epoch(compressor.seed, epoch, self.loader), evaluating(teacher):
            for i, batch in enumerate(batches(self.loader, model, "train_loader")):
                compressor._remember(batch)
                n = n or n_batches_of(self.loader, self.size, batch.size)
                rate = compressor.settings.learning_rate * cosine((epoch - first + i / n) / n_epochs)
                set_rate(compressor.optimiser, rate)
                loss, metric = objective.training_loss(model, batch, teacher, compressor._distillation)
                descend(compressor.optimiser, loss)
                for parameter, channels in held:
                    parameter.data[channels] = 0.0
                value = float(loss.detach())
                if not math.isfinite(value):
                    raise FloatingPointError(f"the loss is {value} in epoch {epoch}, batch {i + 1}")
                means.add(batch.size, value, metric)
        model.eval()
        return compressor._record(
            compressor.support(),
            objective.evaluate(model, self.watch.held_back, "val_loader"),
            epoch=epoch,
            loss=means.loss,
            accuracy=means.quality,
            temperature=0.0,
            seconds=time.perf_counter() - start,
            phase=phase,
        )

    # ---- posterior -----------------------------------------------------------------------------------

    def _start_posterior(self) -> None:
        """Start the posterior at the reference network."""
        compressor = self.compressor
        compressor.load_posterior(self.dense)
        self.teacher = self._chosen_teacher()
        compressor._start_priors()
        compressor._new_optimiser()
        self.temperature = _START * compressor.settings.temperature
        self.good = self.strict = compressor.posterior_state()

    def _chosen_teacher(self) -> nn.Module | None:
        """Return the given teacher or, where the loss has a use for one, a copy of the network."""
        if self.given_teacher is not None:
            return self.given_teacher
        teacher = to_plain(self.compressor.model).eval()
        first = next(batches(self.watch.held_back, teacher, "val_loader"))
        with torch.no_grad():
            useful = self.watch.objective.takes_a_teacher(first.run(teacher), first.target)
        return teacher if useful else None

    def _judge(self) -> None:
        """Judge the masked mean network after an update; raise the temperature or go back."""
        compressor = self.compressor
        support = compressor.support()
        with compressor._without_noise(), compressor._masked(support, self.norm_batches):
            good = any(m.any() for m in support.values()) and self.watch.holds(compressor.model, _SLACK)
            strict = good and self.watch.holds(compressor.model)
        if good:
            self.good = compressor.posterior_state()
            self.strict = self.good if strict else self.strict
            self.temperature *= self.growth
        else:
            compressor.load_posterior(self.good)
            self.temperature /= self.growth**2
            self.growth = math.sqrt(self.growth)

    def _batches_for_norms(self) -> list[Batch]:
        """Return batches for the moments of normalisations, so that judging leaves the loader alone."""
        model = self.compressor.model
        if not batch_norms(model, self.compressor.frozen):
            return []
        return some_of(self.loader, model, _NORM_EXAMPLES, self.compressor.seed)

    # ---- support -------------------------------------------------------------------------------------

    def _fix(self, state: dict[str, Any]) -> None:
        """Apply the support of a state as the mask."""
        self.compressor.load_posterior(state)
        self.compressor._apply_masks(self.loader)
        self.compressor._new_optimiser()

    def _fall_back(self) -> None:
        """Take the sparser one of the networks that hold without settling."""
        self._prune_reference()
        self._keep_if_better()
        self._fix(self.strict)
        self._keep_if_better()
        if self.settled is not None:
            self._load_masked(self.settled)

    def _prune_reference(self) -> None:
        """Mask the reference as far as it holds without training, by rising ``mu^2 h``."""
        compressor = self.compressor
        now = compressor.posterior_state()
        compressor.load_posterior(self.dense | {name: now[name] for name in ("priors", "curvatures")})
        compressor._set_masked(False)
        layers = compressor.layers
        for layer in layers.values():
            layer.mask.fill_(True)
        order = compressor._most_salient_first(compressor._saliency())
        low, high = 0, order.numel()
        while high - low > max(_PRECISION * high, 1):
            middle = (low + high) // 2
            with compressor._masked(self._first_of(order, middle), self.norm_batches):
                held = self.watch.holds(compressor.model)
            low, high = (low, middle) if held else (middle, high)
        for name, mask in self._first_of(order, high).items():
            layers[name].mask.copy_(mask)
        compressor._set_masked(True)
        if high < self._n_weights():
            recalibrate(compressor.model, self.norm_batches, compressor.seed, frozen=compressor.frozen)
        compressor.model.eval()

    def _first_of(self, order: Tensor, n: int) -> dict[str, Tensor]:
        """Return the support of the first positions of an order."""
        flat = torch.zeros(self._n_weights(), dtype=torch.bool, device=order.device)
        flat[order[:n]] = True
        layers = self.compressor.layers
        parts = flat.split([layer.mask.numel() for layer in layers.values()])
        return {name: part.reshape(layer.mask.shape) for (name, layer), part in zip(layers.items(), parts)}

    def _n_weights(self) -> int:
        return sum(layer.mask.numel() for layer in self.compressor.layers.values())

    def _n_kept(self) -> int:
        return sum(int(layer.mask.sum()) for layer in self.compressor.layers.values())

    def finish(self) -> None:
        """Leave the sparsest network that holds.

        Warns
        -----
        UserWarning
            If no weight could go.
        """
        compressor = self.compressor
        if self.settled is None:
            self._fall_back()
        reference, _ = self.watch.reference or (None, None)
        assert reference is not None
        if self.settled is None:  # not even the reference holds against itself
            raise FloatingPointError(f"the loss of the reference network is {reference.loss}")
        self._load_masked(self.settled)
        compressor.model.eval()
        if self._n_kept() == self._n_weights():
            warnings.warn(
                f"every weight stays: with fewer the network loses more than max_loss_drop = "
                f"{self.watch.max_loss_drop} on the watched data; allow more, or fit for more epochs",
                stacklevel=3,
            )

    # ---- checkpoint ----------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Return everything that the fit changes, as tensors and plain values."""
        return {
            "compressor": self.compressor.state(),
            "masked": all(layer.masked for layer in self.compressor.layers.values()),
            "states": {name: getattr(self, name) for name in _STATES},
            "values": {name: getattr(self, name) for name in _VALUES},
            "dense_history": [asdict(record) for record in self.history[: self.n_dense]],
            "reference": [_stored(quality) for quality in self.watch.reference or ()],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Restore what ``state`` returned."""
        compressor = self.compressor
        for name, value in (state["states"] | state["values"]).items():
            setattr(self, name, tuple(value) if isinstance(value, list) else value)
        first, second = (Quality(*(t.numpy() for t in stored)) for stored in state["reference"])
        self.watch.reference = first, second
        compressor._set_masked(False)
        if state["compressor"]["history"]:
            compressor.load_posterior(self.dense)
            self.teacher = self._chosen_teacher()
        compressor.restore(state["compressor"])
        compressor._set_masked(state["masked"])
        self.history = EpochRecord.stored(state["dense_history"]) + compressor.history


def _stored(quality: Quality) -> list[Tensor]:
    """Return the fields of a quality as tensors."""
    return [torch.from_numpy(value) for value in vars(quality).values()]
