"""Turbo-VBI compression: posterior training with the engine's structured prior (docs/theory-networks.md).

Source of the method: Xia, Tsang, Lau, "Structured Bayesian compression for deep neural networks based on the
turbo-VBI approach", IEEE Transactions on Signal Processing 71, 2023, arXiv:2302.10483. Here the message from
the network to the prior holds the data term alone, and its variance comes from the expected curvature.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from copy import deepcopy
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from isac_toolbox._progress import epoch_progress
from isac_toolbox._validation import check_fraction, check_integer, check_loader
from isac_toolbox.nn._batches import dataset_size_of
from isac_toolbox.nn._checkpoints import Checkpoint, run_epochs
from isac_toolbox.nn._fits import SavedFit
from isac_toolbox.nn._settings import settings_with
from isac_toolbox.nn.export.report import CompressionReport, make_report
from isac_toolbox.nn.export.shrink import shrink
from isac_toolbox.nn.layers import convert, to_plain, variational_layers
from isac_toolbox.nn.objective import Objective, fingerprint
from isac_toolbox.nn.training import (
    evaluating,
    frozen_modules,
    size_or_none,
    train,
)
from isac_toolbox.nn.turbo_vbi.guard import GuardedFit
from isac_toolbox.nn.turbo_vbi.masking import dead_norm_channels
from isac_toolbox.nn.turbo_vbi.own_loop import OwnLoop
from isac_toolbox.nn.turbo_vbi.records import EpochRecord, Schedule
from isac_toolbox.nn.turbo_vbi.settings import CompressionSettings
from isac_toolbox.nn.turbo_vbi.watch import Quality, Watch, hold_back, some_of

__all__ = ["EpochRecord", "TurboVBICompressor"]

#: Cost cap: training examples on which a guarded fit is judged beside the held-back ones.
_SEEN_EXAMPLES = 2000
_CHECKPOINT_FORMAT = "isac-toolbox compression checkpoint 6"


class TurboVBICompressor(OwnLoop, SavedFit):
    """Compress a network; the engine decides which neurons and which runs of weights are kept.

    Parameters
    ----------
    model : nn.Module
        Any network, trained or not; it is not changed.
    settings : CompressionSettings, optional
        Temperatures, support graph and schedule; the defaults if not given.
    exclude : iterable of str
        Names of layers that are not converted.
    loss : callable
        Mean negative log-likelihood of (output, target), in all phases.
    metric : callable, optional
        Quality of (output, target) of a batch, larger is better; by default the accuracy of a classification.
    seed : int
        Seed of the noise and of the order of loaders that use torch's global generator.
    **changes
        Fields of ``CompressionSettings``, such as ``temperature=0.2``; they override ``settings``.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or range, or the model cannot be converted.

    Notes
    -----
    Source: docs/theory-networks.md, sections 2 to 5.

    Examples
    --------
    >>> from isac_toolbox.nn import TensorLoader, TurboVBICompressor, load_digits_split
    >>> from isac_toolbox.nn.models import mlp
    >>> train, _, test = load_digits_split(seed=0)
    >>> compressor = TurboVBICompressor(mlp(64, (32,), 10), warmup_epochs=1)
    >>> _ = compressor.fit(TensorLoader.from_dataset(train, batch_size=128), epochs=2)
    >>> compressor.report().n_parameters_dense, compressor.predict_proba(test.tensors[0]).shape[1]
    (2410, 10)
    """

    file_format = "isac-toolbox compression posterior 1"

    def __init__(
        self,
        model: nn.Module,
        *,
        settings: CompressionSettings | None = None,
        exclude: Iterable[str] = (),
        loss: Callable[[Any, Any], Tensor] = F.cross_entropy,
        metric: Callable[[Any, Any], Any] | None = None,
        seed: int = 0,
        **changes: Any,
    ) -> None:
        self.settings = settings_with("TurboVBICompressor", CompressionSettings, settings, changes)
        self.seed = check_integer("seed", seed, 0)
        self.objective = Objective(loss, metric)
        self.model = convert(model, exclude)
        self.frozen = frozen_modules(self.model)
        self.original = deepcopy(model).eval()
        self.layers = variational_layers(self.model)
        self.settings.check_layers(self.layers)
        self.history: list[EpochRecord] = []
        self.guard_teacher: nn.Module | None = None
        self._teacher: nn.Module | None = None
        self._distillation = 0.0
        self._tuned_epochs = 0
        self._start_priors()

    def fit(
        self,
        train_loader: Any,
        val_loader: Any = None,
        *,
        epochs: int,
        dataset_size: int | None = None,
        callback: Callable[[EpochRecord], bool | None] | None = None,
        checkpoint: str | Path | None = None,
        resume: bool = False,
        teacher: nn.Module | None = None,
        distillation: float = 0.5,
        progress: bool = True,
    ) -> TurboVBICompressor:
        """Train the posterior while the engine chooses the support; then apply the mask.

        Parameters
        ----------
        train_loader : iterable of (x, y)
            Batches, iterated once per epoch; ``TensorLoader`` is the fastest loader.
        val_loader : iterable of (x, y), optional
            Batches for the accuracy per epoch, which has no effect on training, and for ``max_loss_drop``;
            without it, 15 % of the training examples are held back for that.
        epochs : int
            Number of epochs, more than ``warmup_epochs``.
        dataset_size : int, optional
            ``N``; taken from the loader if not given.
        callback : callable, optional
            Called with the record of every epoch; a true return value stops the fit.
        checkpoint : path, optional
            File that is rewritten after every epoch.
        resume : bool
            Continue from ``checkpoint`` if it exists; the result equals that of an uninterrupted run.
        teacher : nn.Module, optional
            Network whose softened outputs enter the likelihood beside the labels, for example ``model``.
        distillation : float
            Weight of the teacher's term in the likelihood, from 0 to 1.
        progress : bool
            Show a progress bar on a terminal.

        Returns
        -------
        TurboVBICompressor
            This object.

        Raises
        ------
        TypeError, ValueError
            If an argument is wrong, or the checkpoint belongs to other settings.
        FloatingPointError
            If the loss is no longer finite.
        """
        check_loader("train_loader", train_loader)
        epochs = check_integer("epochs", epochs, 1)
        warmup = self.settings.warmup_epochs
        if epochs <= warmup:
            raise ValueError(
                f"epochs must exceed warmup_epochs = {warmup}, got {epochs}: the engine would never be called"
            )
        size = dataset_size_of(train_loader, dataset_size)
        check_fraction("distillation", distillation, low_open=False, high_open=False)
        shared = (
            self.settings.described() | {"seed": self.seed, "epochs": epochs} | self.objective.described()
        )
        shared |= {"dataset_size": size, "batch_size": getattr(train_loader, "batch_size", None)}
        shared |= {"teacher": fingerprint(teacher), "distillation": distillation if teacher else None}
        file = Checkpoint.from_arguments(checkpoint, resume, _CHECKPOINT_FORMAT, "a compression", shared)
        self._teacher, self._distillation, self._tuned_epochs = teacher, distillation, 0
        self._watch = None
        self._set_masked(False)
        self._new_optimiser()
        if self.history:
            self.history = []
            self._start_priors()
        shown: dict[str, Any] = {"file": file, "resume": resume, "callback": callback, "progress": progress}
        if self.settings.allowed_loss is not None:
            return self._guarded_fit(
                train_loader, val_loader, epochs, size, self.settings.allowed_loss, shown
            )
        schedule = Schedule(0, epochs, warmup, lambda epoch: self.settings.temperature_at(epoch, epochs))
        with evaluating(teacher):
            run_epochs(
                self,
                lambda epoch: self._epoch(train_loader, val_loader, epoch, schedule, size),
                epochs,
                train_loader,
                **shown,
            )
        self._teacher = None
        self._apply_masks(train_loader)
        return self

    def _guarded_fit(
        self, loader: Any, val_loader: Any, epochs: int, size: int, allowed: float, shown: dict[str, Any]
    ) -> TurboVBICompressor:
        """Fit under ``max_loss_drop``."""
        teacher, self._teacher = self._teacher, None
        if val_loader is None:
            n = size
            loader, val_loader = hold_back(loader, self.model, self.seed)
            size = min(size_or_none(loader) or n, n)
        seen = some_of(loader, self.model, _SEEN_EXAMPLES, self.seed)
        watch = Watch(self.objective, val_loader, seen, allowed)
        guarded = GuardedFit(self, loader, watch, epochs, size, teacher)
        run_epochs(guarded, guarded.epoch, guarded.n_epochs, loader, **shown)
        guarded.finish()
        self._watch, self.guard_teacher = watch, guarded.teacher
        return self

    # ---- after the fit -------------------------------------------------------------------------------

    def finetune(
        self,
        loader: Any,
        *,
        epochs: int,
        learning_rate: float | None = None,
        teacher: nn.Module | None = None,
        distillation: float = 0.5,
        callback: Callable[[EpochRecord], bool | None] | None = None,
        progress: bool = True,
    ) -> TurboVBICompressor:
        """Train the kept weights without noise and prior.

        Parameters
        ----------
        loader : iterable of (x, y)
            Batches.
        epochs : int
            Number of epochs.
        learning_rate : float, optional
            Start of the cosine schedule; that of the settings if not given.
        teacher : nn.Module, optional
            Network whose softened outputs enter the loss beside the labels, for example ``model``.
        distillation : float
            Weight of the teacher's term in the loss, from 0 to 1.
        callback : callable, optional
            Called with the record of every epoch, of phase ``"fine-tuning"``, which is not in ``history``; a
            true return value stops the training.
        progress : bool
            Show a progress bar on a terminal.

        Returns
        -------
        TurboVBICompressor
            This object.

        Raises
        ------
        RuntimeError
            If ``fit`` has not been called.
        """
        self._require_fit("finetune")
        rate = self.settings.learning_rate if learning_rate is None else learning_rate
        dead = dead_norm_channels(self.model)

        def hold() -> None:
            for parameter, channels in dead:
                parameter.data[channels] = 0.0

        support, n_before, n_done = self.support(), len(self.history) + self._tuned_epochs, 0
        start = time.perf_counter()

        def told(epoch: int, loss: float, part: float) -> bool | None:
            nonlocal start, n_done
            show((epoch, loss, part))
            now, n_done = time.perf_counter(), epoch + 1
            seconds, start = now - start, now
            if callback is None:
                return None
            figures = {"epoch": n_before + epoch, "loss": loss, "accuracy": part, "seconds": seconds}
            return callback(self._record(support, None, temperature=0.0, phase="fine-tuning", **figures))

        with epoch_progress(progress, epochs, 0) as show:
            train(
                self.model,
                loader,
                epochs=epochs,
                learning_rate=rate,
                seed=self.seed,
                first_epoch=n_before,
                teacher=teacher,
                distillation=distillation,
                loss=self.objective.loss,
                metric=self.objective.metric,
                frozen=self.frozen,
                after_step=hold if dead else None,
                on_epoch=told,
            )
        self._tuned_epochs += n_done
        self._tidy()
        return self

    def quality(self) -> tuple[Quality, Quality]:
        """Return loss and metric of the reference and of the network now, on the watched examples.

        Raises
        ------
        RuntimeError
            If there was no fit with ``max_loss_drop``.
        """
        if self._watch is None or self._watch.reference is None:
            raise RuntimeError("quality needs a fit with max_loss_drop")
        return self._watch.reference[0], self._watch.measure(self.model)

    def predict(self, x: Any, n_samples: int = 0, *, batch_size: int | None = None) -> Tensor:
        """Return what the network returns, averaged over the drawn networks.

        Parameters
        ----------
        x : Tensor, or tuple, list or dict of Tensor
            Inputs, the examples along the first axis.
        n_samples : int
            Number of networks drawn from the posterior; 0 for the mean network.
        batch_size : int, optional
            Examples per forward pass; all at once if not given.
        """
        return torch.stack(list(self._drawn_outputs(x, n_samples, batch_size))).mean(0)

    @classmethod
    def _from_settings(cls, model: nn.Module, settings: dict[str, Any], **others: Any) -> Self:
        loaded = cls(model, settings=CompressionSettings(**settings), **others)
        loaded._new_optimiser()
        return loaded

    def _fresh_optimiser(self) -> dict[str, Any]:
        return self.optimiser.state_dict()

    def _when_loaded(self) -> None:
        self._set_masked(True)

    def masked_model(self) -> nn.Module:
        """Return a plain copy of the full network, zero outside the mask."""
        return to_plain(self.model).eval()

    def export(self, *, fold_norms: bool = False) -> nn.Module:
        """Return a smaller plain module, without the dropped neurons and filters, with the same outputs.

        Parameters
        ----------
        fold_norms : bool
            Whether batch normalisations are folded into the layers before them.

        Raises
        ------
        RuntimeError
            If ``fit`` has not been called.
        """
        self._require_fit("export")
        return shrink(self.masked_model(), self.example, fold_norms=fold_norms)

    def report(self, value_bits: int = 32) -> CompressionReport:
        """Return weights, MACs, bytes and structure of the compressed network.

        Parameters
        ----------
        value_bits : int
            Bits per stored value in the byte counts.

        Raises
        ------
        RuntimeError
            If ``fit`` has not been called.
        """
        self._require_fit("report")
        return make_report(self.masked_model(), self.support(), self.example, self.export(), value_bits)
