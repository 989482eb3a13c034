"""A fit that loses no more than asked: train, prune while it holds, settle (docs/theory-networks.md, 5.5)."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from isac_toolbox.nn._batches import batches, n_batches_of
from isac_toolbox.nn._records import Means
from isac_toolbox.nn.layers import to_plain
from isac_toolbox.nn.training import (
    cosine,
    descend,
    evaluating,
    recalibrate,
    set_rate,
    set_training,
    training_epoch,
)
from isac_toolbox.nn.turbo_vbi.budgets import SupportBudgets
from isac_toolbox.nn.turbo_vbi.cuts import Cuts
from isac_toolbox.nn.turbo_vbi.masking import dead_norm_channels
from isac_toolbox.nn.turbo_vbi.records import EpochRecord, Schedule
from isac_toolbox.nn.turbo_vbi.temperature import TemperatureSearch
from isac_toolbox.nn.turbo_vbi.trials import Trials
from isac_toolbox.nn.turbo_vbi.watch import Quality, Verdict, Watch, is_trained

__all__ = ["GuardedFit"]

#: Guard: part of the epochs in which the result settles, and part of these in which it still loses weights.
_SETTLING_PART, _CUTTING_PART = 0.5, 0.5
#: Guard: part of the posterior's epochs before the engine is called, at most.
_WARMUP_PART = 0.25
#: Guard: part of the posterior's epochs after which it ends if it keeps more than a part of the weights.
_PATIENCE, _HARDLY = 0.5, 0.9
#: Guard: standard errors by which a network must hold that is one of many, of which some are lucky.
_LUCKY = 3.0
#: Precision of the number of weights that a bisection finds.
_PRECISION = 0.01
#: What a checkpoint holds beside the states of the parts.
_STATES = ("dense", "settled", "near")
_VALUES = ("rank", "n_near", "again", "n_posterior")


class GuardedFit:
    """The epochs of a fit under ``max_loss_drop``.

    A reference network comes first: the given one or, where it knows nothing yet, one that is trained for as
    many epochs. Then the engine is called at rising temperatures, as long as the masked network loses at most
    a few times what is allowed (``TemperatureSearch``). The sparsest good support settles without noise, and
    goes on to lose its least important weights, again as long as it recovers (``Cuts``). The result is the
    sparsest network that was measured to lose no more than allowed; at last the reference under a mask of
    its least important weights, which needs no training, and which is the reference itself if no weight may
    go.

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
        self.trials = Trials(compressor, watch, loader)
        self.search = TemperatureSearch(self.trials)
        self.cuts = Cuts(self.trials, compressor.settings.updates_per_epoch)
        self.dense = compressor.network_state()
        self.settled: dict[str, Tensor] | None = None
        self.near: dict[str, Tensor] | None = None
        self.rank, self.n_near, self.again = (math.inf, math.inf), 0, False
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
        self._end_posterior_early(epoch - self.n_dense)
        settling = self.n_dense + self.n_posterior
        if epoch == settling:
            self._fix(self.search.good)
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
            self.dense = self.compressor.network_state()
        return record

    def _end_posterior_early(self, n_done: int) -> None:
        """Leave the epochs to the cuts where the engine has found hardly any weight that may go."""
        patience = max(round(_PATIENCE * self.n_posterior), self._warmup + 1)
        if n_done == patience < self.n_posterior and self.search.part_kept > _HARDLY:
            self.n_posterior = n_done

    @property
    def _warmup(self) -> int:
        """Return the epochs of the posterior before the engine is called."""
        return min(self.compressor.settings.warmup_epochs, int(_WARMUP_PART * self.n_posterior))

    def _posterior_epoch(self, epoch: int) -> EpochRecord:
        """Train the posterior; every update of the engine is judged."""
        first_update = self.n_dense + self._warmup
        schedule = Schedule(self.n_dense, self.n_posterior, first_update, lambda _: self.search.temperature)
        with self._taught_by(self.teacher):
            return self.compressor._epoch(
                self.loader, self.watch.held_back, epoch, schedule, self.size, self.search.update
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
        if epoch == quiet:
            self._settle_on()
        elif epoch == middle and self.trials.n_kept < self.rank[0]:
            self.again = True
            self._settle_on_less()
        falling = middle if self.again else quiet  # the rate falls in the quiet part alone
        start = falling if epoch >= quiet else epoch
        cut = self._cut if first < epoch < quiet else None
        record = self._plain_epoch(epoch, start, max(last - start, 1), "settling", self.teacher, cut)
        self._keep_if_better(_LUCKY if cut else 2.0)
        return record

    def _cut(self) -> None:
        """Drop more weights where the network has recovered from the last cut."""
        verdict = self._keep_if_better(_LUCKY)
        support = self.cuts.next_support(verdict.bound(1.0))
        if support is not None and any(bool(mask.any()) for mask in support.values()):
            self.compressor._keep(support)
            self._recalibrate()

    def _recalibrate(self) -> None:
        compressor = self.compressor
        recalibrate(compressor.model, self.trials.norm_batches, compressor.seed, frozen=compressor.frozen)

    def _settle_on(self) -> None:
        """Choose the support of the quiet part: the sparsest that has recovered."""
        if self.cuts.rungs and not self.cuts.has_recovered(self.watch.bound(self.compressor.model, 1.0)):
            self.compressor.load_masked(self.cuts.rungs[-1].state)

    def _settle_on_less(self) -> None:
        """Choose a denser support: one that had recovered before, has nearly held, or holds."""
        rung = self.cuts.denser_than(max(self.trials.n_kept, 1), min(self.rank[0], self.trials.n_weights))
        if rung is not None:
            self.compressor.load_masked(rung.state)
        elif self.near is not None and self.n_near < self.rank[0]:
            self.compressor.load_masked(self.near)
        elif self.settled is not None:
            self.compressor.load_masked(self.settled)
        else:
            self._fall_back()

    def _keep_if_better(self, n_errors: float = 2.0) -> Verdict:
        """Keep the masked network if it holds and is the sparsest so far, or loses least at that size."""
        model, n = self.compressor.model, self.trials.n_kept
        verdict = self.watch.verdict(model)
        rank = (n, verdict.mean)
        if verdict.mean <= self.watch.max_loss_drop and (self.near is None or n <= self.n_near):
            self.near, self.n_near = self.compressor.network_state(), n
        if rank <= self.rank and verdict.bound(n_errors) <= self.watch.max_loss_drop:
            self.settled, self.rank = self.compressor.network_state(), rank
        return verdict

    def _plain_epoch(
        self,
        epoch: int,
        first: int,
        n_epochs: int,
        phase: str,
        teacher: nn.Module | None,
        cut: Callable[[], None] | None = None,
    ) -> EpochRecord:
        """Train without noise and prior, under the mask if it is applied; call ``cut`` a few times."""
        start, compressor = time.perf_counter(), self.compressor
        model, objective = compressor.model, self.watch.objective
        held = dead_norm_channels(model) if phase == "settling" else []
        means, n, moments = Means(), 0, set[int]()
        set_training(model, compressor.frozen)
        with training_epoch(compressor.seed, epoch, self.loader), evaluating(teacher):
            for i, batch in enumerate(batches(self.loader, model, "train_loader")):
                compressor._remember(batch)
                if not n:
                    n = n_batches_of(self.loader, self.size, batch.size)
                    n_cuts = compressor.settings.updates_per_epoch
                    moments = {round(k * n / n_cuts) for k in range(n_cuts)}
                if cut is not None and i in moments:
                    cut()
                    set_training(model, compressor.frozen)
                    held = dead_norm_channels(model)
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
        compressor._load_network(self.dense)
        self.teacher = self._chosen_teacher()
        compressor._start_priors()
        compressor._new_optimiser()
        self.search.start((self.n_posterior - self._warmup) * compressor.settings.updates_per_epoch)

    def _chosen_teacher(self) -> nn.Module | None:
        """Return the given teacher or, where the loss has a use for one, a copy of the network."""
        if self.given_teacher is not None:
            return self.given_teacher
        teacher = to_plain(self.compressor.model).eval()
        first = next(batches(self.watch.held_back, teacher, "val_loader"))
        with torch.no_grad():
            useful = self.watch.objective.takes_a_teacher(first.run(teacher), first.target)
        return teacher if useful else None

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
        self._fix(self.search.strict)
        self._keep_if_better()
        if self.settled is not None:
            self.compressor.load_masked(self.settled)

    def _prune_reference(self) -> None:
        """Mask the reference as far as it holds without training, by rising scores."""
        compressor = self.compressor
        compressor._load_network(self.dense)
        compressor._set_masked(False)
        layers = compressor.layers
        for layer in layers.values():
            layer.mask.fill_(True)
        order = compressor._most_salient_first(compressor._scores())
        low, high = 0, order.numel()
        while high - low > max(_PRECISION * high, 1):
            middle = (low + high) // 2
            verdict = self.trials.verdict(self.trials.first_of(order, middle))
            held = verdict.bound() <= self.watch.max_loss_drop
            low, high = (low, middle) if held else (middle, high)
        for name, mask in self.trials.first_of(order, high).items():
            layers[name].mask.copy_(mask)
        compressor._set_masked(True)
        if high < self.trials.n_weights:
            self._recalibrate()
        compressor.model.eval()

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
        assert self.watch.reference is not None
        if self.settled is None:  # not even the reference holds against itself
            raise FloatingPointError(f"the loss of the reference network is {self.watch.reference[0].loss}")
        self.compressor.load_masked(self.settled)
        compressor.model.eval()
        if self.trials.n_kept == self.trials.n_weights:
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
            "search": self.search.state(),
            "cuts": self.cuts.state(),
            "dense_history": [asdict(record) for record in self.history[: self.n_dense]],
            "reference": [_stored(quality) for quality in self.watch.reference or ()],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Restore what ``state`` returned."""
        compressor = self.compressor
        for name, value in (state["states"] | state["values"]).items():
            setattr(self, name, tuple(value) if isinstance(value, list) else value)
        self.search.restore(state["search"])
        self.cuts.restore(state["cuts"])
        first, second, few = (Quality(*(t.numpy() for t in stored)) for stored in state["reference"])
        self.watch.reference = first, second, few
        compressor._set_masked(False)
        if state["compressor"]["history"]:
            compressor._load_network(self.dense)
            self.teacher = self._chosen_teacher()
        compressor.restore(state["compressor"])
        compressor._set_masked(state["masked"])
        self.history = EpochRecord.stored(state["dense_history"]) + compressor.history


def _stored(quality: Quality) -> list[Tensor]:
    """Return the fields of a quality as tensors."""
    return [torch.from_numpy(value) for value in vars(quality).values()]
