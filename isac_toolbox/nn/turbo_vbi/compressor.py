"""Turbo-VBI compression: posterior training with the engine's structured prior (docs/theory-networks.md).

Source of the method: Xia, Tsang, Lau, "Structured Bayesian compression for deep neural networks based on the
turbo-VBI approach", IEEE Transactions on Signal Processing 71, 2023, arXiv:2302.10483. Here the message from
the network to the prior holds the data term alone, and its variance comes from the expected curvature.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from isac_toolbox._progress import epoch_progress
from isac_toolbox._validation import check_fraction, check_integer, check_loader
from isac_toolbox.nn._checkpoints import Checkpoint, run_epochs
from isac_toolbox.nn._settings import settings_with
from isac_toolbox.nn.export.report import CompressionReport, make_report
from isac_toolbox.nn.export.shrink import shrink
from isac_toolbox.nn.layers import convert, to_plain, variational_layers
from isac_toolbox.nn.training import dataset_size_of, drawn_predictions, epoch_seed, train
from isac_toolbox.nn.turbo_vbi.budgets import SupportBudgets
from isac_toolbox.nn.turbo_vbi.settings import CompressionSettings
from isac_toolbox.nn.turbo_vbi.trainer import EpochRecord, dead_norm_channels

__all__ = ["EpochRecord", "TurboVBICompressor"]

_CHECKPOINT_FORMAT = "isac-toolbox compression checkpoint 5"


class TurboVBICompressor(SupportBudgets):
    """Compress a classifier; the engine decides which neurons and which runs of weights are kept.

    Parameters
    ----------
    model : nn.Module
        Network that returns logits, trained or not; it is not changed.
    settings : CompressionSettings, optional
        Temperatures, support graph and schedule; the defaults if not given.
    exclude : iterable of str
        Names of layers that are not converted.
    loss : callable
        Mean negative log-likelihood of (output, target).
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

    def __init__(
        self,
        model: nn.Module,
        *,
        settings: CompressionSettings | None = None,
        exclude: Iterable[str] = (),
        loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
        seed: int = 0,
        **changes: Any,
    ) -> None:
        self.settings = settings_with("TurboVBICompressor", CompressionSettings, settings, changes)
        self.seed = check_integer("seed", seed, 0)
        self.loss = loss
        self.model = convert(model, exclude)
        self.original = deepcopy(model).eval()
        self.layers = variational_layers(self.model)
        self.settings.check_layers(self.layers)
        self.history: list[EpochRecord] = []
        self.input_shape: tuple[int, ...] | None = None
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
            Batches for the accuracy per epoch, which has no effect on training.
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
        shared = self.settings.described() | {"seed": self.seed, "epochs": epochs}
        file = Checkpoint.from_arguments(checkpoint, resume, _CHECKPOINT_FORMAT, "a compression", shared)
        size = dataset_size_of(train_loader, dataset_size)
        check_fraction("distillation", distillation, low_open=False, high_open=False)
        self._teacher = None if teacher is None else teacher.eval()
        self._distillation, self._tuned_epochs = distillation, 0
        self._set_masked(False)
        rate = self.settings.learning_rate
        self.optimiser = torch.optim.Adam(self.model.parameters(), lr=rate, fused=True)
        if self.history:
            self.history = []
            self._start_priors()
        run_epochs(
            self,
            lambda epoch: self._epoch(train_loader, val_loader, epoch, epochs, size),
            epochs,
            train_loader,
            file=file,
            resume=resume,
            callback=callback,
            progress=progress,
        )
        self._apply_masks(train_loader)
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

        with epoch_progress(progress, epochs, 0) as show:
            train(
                self.model,
                loader,
                epochs=epochs,
                learning_rate=rate,
                seed=self.seed,
                first_epoch=len(self.history) + self._tuned_epochs,
                teacher=teacher,
                distillation=distillation,
                after_step=hold if dead else None,
                on_epoch=lambda epoch, loss, part: show((epoch, loss, part)),
            )
        self._tuned_epochs += epochs
        self._tidy()
        return self

    def predict_proba(self, x: Tensor, n_samples: int = 0) -> Tensor:
        """Return class probabilities, (batch, n_classes).

        Parameters
        ----------
        x : Tensor, shape (batch, ...)
            Inputs.
        n_samples : int
            Number of networks drawn from the posterior, whose probabilities are averaged; 0 for the mean
            network.
        """
        seed = epoch_seed(self.seed, 0, 2)
        return drawn_predictions(self.model, x, n_samples, self._set_sampling, seed).mean(0)

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
        return shrink(self.masked_model(), self.input_shape, fold_norms=fold_norms)

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
        assert self.input_shape is not None
        return make_report(self.masked_model(), self.support(), self.input_shape, self.export(), value_bits)
