"""The compressor in a training loop of one's own (docs/theory-networks.md, sections 2 to 5)."""

from __future__ import annotations

import math
import time
from typing import Any, Self

from torch import Tensor

from isac_toolbox._validation import check_integer, check_loader
from isac_toolbox.nn._batches import dataset_size_of, first_batch, n_batches_of
from isac_toolbox.nn.training import epoch_seed, set_training
from isac_toolbox.nn.turbo_vbi.budgets import SupportBudgets

__all__ = ["OwnLoop"]

#: Steps between updates of the posterior variances.
_VARIANCE_EVERY = 10


class OwnLoop(SupportBudgets):
    """Methods for training with one's own forward pass, optimiser, schedule and clipping."""

    _n_steps = 0
    _n_batches = 1
    _size = 1
    _epochs = 0

    def begin(self, train_loader: Any, *, epochs: int, dataset_size: int | None = None) -> Self:
        """Prepare ``model`` for a training loop of one's own.

        Parameters
        ----------
        train_loader : iterable of (x, y)
            Says how many examples and batches an epoch has, and gives example inputs.
        epochs : int
            Number of epochs, more than ``warmup_epochs``; the temperature moves over them.
        dataset_size : int, optional
            ``N``; taken from the loader if not given.

        Returns
        -------
        Self
            This object. The network that is trained is ``compressor.model``::

                compressor.begin(loader, epochs=20)
                optimiser = torch.optim.SGD(compressor.model.parameters(), lr=0.1)
                for epoch in range(20):
                    for x, y in loader:
                        optimiser.zero_grad()
                        loss = F.cross_entropy(compressor.model(x), y)
                        loss.backward()
                        compressor.step(loss)
                        optimiser.step()
                compressor.finish(loader)

        Raises
        ------
        TypeError, ValueError
            If an argument is wrong.
        """
        check_loader("train_loader", train_loader)
        self._epochs = check_integer("epochs", epochs, 1)
        if epochs <= self.settings.warmup_epochs:
            raise ValueError(
                f"epochs must exceed warmup_epochs = {self.settings.warmup_epochs}, got {epochs}: the engine "
                "would never be called"
            )
        self._size = dataset_size_of(train_loader, dataset_size)
        first = first_batch(train_loader, self.model, "train_loader")
        self._n_batches = n_batches_of(train_loader, self._size, first.size)
        self._remember(first)
        self._set_masked(False)
        self.history = []
        self._start_priors()
        self._n_steps, self._losses, self._started = 0, 0.0, time.perf_counter()
        self._next_epoch(0)
        self._track_variances()
        return self

    def step(self, loss: Tensor | float) -> None:
        """Take the gradients of the likelihood, and add those of the prior, between backward and step.

        Parameters
        ----------
        loss : Tensor, shape ()
            Mean negative log-likelihood of the batch, whose gradients are in ``model``; with a gradient
            scaler, unscale them before.

        Raises
        ------
        RuntimeError
            If ``begin`` has not been called, or there are no gradients.
        FloatingPointError
            If the loss is not finite.
        """
        if not self._epochs:
            raise RuntimeError("step needs begin(train_loader, epochs=...) before the loop")
        if not any(layer.variance.grad is not None for layer in self.layers.values()):
            raise RuntimeError("step needs gradients: call loss.backward() of compressor.model before it")
        value = float(loss)
        if not math.isfinite(value):
            raise FloatingPointError(f"the loss is {value} in step {self._n_steps}")
        epoch, inside = divmod(self._n_steps, self._n_batches)
        temperature = self.settings.temperature_at(epoch, self._epochs)
        self._absorb(temperature / self._size)
        self._losses += value
        n_updates = self.settings.updates_per_epoch
        updates = {round((k + 1) * self._n_batches / n_updates) for k in range(n_updates)}
        if (inside + 1) % _VARIANCE_EVERY == 0 or inside + 1 == self._n_batches:
            steps = (inside + 1) % _VARIANCE_EVERY or _VARIANCE_EVERY
            self._update_variances(temperature / self._size, steps / self._n_batches)
        if epoch >= self.settings.warmup_epochs and inside + 1 in updates:
            self._update_priors(temperature, self._size)
        self._n_steps += 1
        if inside + 1 == self._n_batches:
            self._end_epoch(epoch, temperature)
        self._track_variances()

    def finish(self, loader: Any) -> Self:
        """Apply the mask after the loop; ``finetune``, budgets, ``export`` and ``report`` follow.

        Parameters
        ----------
        loader : iterable of (x, y)
            Batches for the moments of batch normalisations.

        Raises
        ------
        RuntimeError
            If no epoch has ended.
        """
        if not self.history:
            raise RuntimeError(f"finish needs at least one epoch of {self._n_batches} steps")
        self._set_sampling(None)
        self._apply_masks(loader)
        self._epochs = 0
        return self

    def _next_epoch(self, epoch: int) -> None:
        """Turn the noise of an epoch on."""
        set_training(self.model, self.frozen)
        self._set_sampling(epoch_seed(self.seed, epoch, 1))

    def _end_epoch(self, epoch: int, temperature: float) -> None:
        """Keep the record of an epoch."""
        self._name_unused()
        now = time.perf_counter()
        record = self._record(
            self.support(),
            None,
            epoch=epoch,
            loss=self._losses / self._n_batches,
            accuracy=math.nan,
            temperature=temperature,
            seconds=now - self._started,
        )
        self.history.append(record)
        self._losses, self._started = 0.0, now
        self._next_epoch(epoch + 1)
