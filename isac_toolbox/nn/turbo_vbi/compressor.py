"""Turbo-VBI compression: posterior training with the engine's structured prior (docs/theory-networks.md).

Source of the method: Xia, Tsang, Lau, "Structured Bayesian compression for deep neural networks based on the
turbo-VBI approach", IEEE Transactions on Signal Processing 71, 2023, arXiv:2302.10483. Here the message that
leaves the network carries the data term alone, and its variance comes from the expected curvature.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from isac_toolbox._progress import epoch_progress
from isac_toolbox._validation import (
    check_choice,
    check_fraction,
    check_integer,
    check_loader,
    check_names,
    check_positive,
)
from isac_toolbox.inference import RULES
from isac_toolbox.nn._checkpoints import Checkpoint
from isac_toolbox.nn.export.report import CompressionReport, make_report
from isac_toolbox.nn.export.shrink import shrink
from isac_toolbox.nn.layers import convert, to_plain, variational_layers
from isac_toolbox.nn.training import dataset_size_of, drawn_predictions, epoch_seed, train
from isac_toolbox.nn.turbo_vbi.budgets import SupportBudgets
from isac_toolbox.nn.turbo_vbi.prior import SUPPORTS, PriorSettings
from isac_toolbox.nn.turbo_vbi.trainer import PRECISIONS, EpochRecord, dead_norm_channels

__all__ = ["EpochRecord", "TurboVBICompressor"]

_CHECKPOINT_FORMAT = "isac-toolbox compression checkpoint 4"


class TurboVBICompressor(SupportBudgets):
    """Compress a classifier: which runs of weights and which neurons live is decided by the shared engine.

    Parameters
    ----------
    model : nn.Module
        Network that returns logits, trained or not; it is not changed.
    temperature : float
        `T` of the KL term; 1 is full Bayes, smaller values keep more weights.
    temperature_start : float, optional
        `T` at the start, then geometric to `temperature` over the first `anneal` of the epochs.
    support_temperature : float, optional
        `T` of the messages that decide the support, at the end; it moves in proportion to `T`. `temperature`
        if not given. A larger one prunes more, and in longer runs, without more noise in the weights.
    precision : {"mixture", "relevance"}
        Prior precision under which the weights train: the engine's average of spike and slab, under which
        weights collapse as they lose their evidence; or automatic relevance determination, `1 / E[w^2]` of
        each weight, under which the engine only decides: the support goes into force when the fit ends.
    variance_growth : float, optional
        Largest growth of `ln sigma^2` per epoch, unlimited if not given. Noise that grows slowly lets means
        that matter grow with it.
    temperature_factors : mapping of str to float, optional
        Factors on `T` by layer, 1 if not named: a larger one where a weight acts often and costs more MACs.
    anneal : float
        Part of the epochs over which `T` moves.
    support : {"chain", "independent"}
        Gated Markov chain (groups are output neurons or filters) or independent weights.
    independent_layers : iterable of str
        Layers whose weights are independent, with a learned probability, though the others have a chain.
    rule : {"extrinsic", "structured", "mean_field"}
        Update rule of the engine; the factorised `mean_field` hardly prunes, and shows why the message must
        leave the prior out.
    spike_precision : float
        `rho0`.
    gate : float or mapping of str to float
        Probability that a neuron or filter lives; of a mapping, layers that it does not name take 0.5. With
        `learn_support=False`, `-ln(gate)` is the evidence in nats that each neuron must bring.
    p01, p11 : float
        Start values of the chain inside a living neuron.
    learn_support : bool
        Whether EM learns the graph's parameters.
    damping : float
        Step on `ln rho` per update of the engine.
    moment_matching : bool
        Take the engine's matched precision instead of the average precision.
    warmup_epochs : int
        Epochs before the first update of the engine, while the averages fill.
    updates_per_epoch : int
        Updates of the engine per epoch.
    learning_rate : float
        Adam, cosine schedule.
    curvature_decay : float
        Memory of the averages of gradient and curvature per minibatch. With `precision="relevance"` the last
        averages decide, and a longer memory (0.9995) pays.
    exclude : iterable of str
        Layers to leave alone.
    loss : callable
        Mean negative log-likelihood of (output, target).
    seed : int
        Seed of the noise and of the order of loaders that use torch's global generator.

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
        temperature: float = 0.1,
        temperature_start: float | None = None,
        support_temperature: float | None = None,
        precision: str = "mixture",
        variance_growth: float | None = None,
        temperature_factors: Mapping[str, float] | None = None,
        anneal: float = 0.7,
        support: str = "chain",
        independent_layers: Iterable[str] = (),
        rule: str = "extrinsic",
        spike_precision: float = 1e5,
        gate: float | Mapping[str, float] = 0.5,
        p01: float = 0.02,
        p11: float = 0.8,
        learn_support: bool = True,
        damping: float = 0.3,
        moment_matching: bool = False,
        warmup_epochs: int = 5,
        updates_per_epoch: int = 4,
        learning_rate: float = 1e-3,
        curvature_decay: float = 0.998,
        exclude: Iterable[str] = (),
        loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
        seed: int = 0,
    ) -> None:
        check_positive("temperature", temperature)
        if temperature_start is not None:
            check_positive("temperature_start", temperature_start)
        if support_temperature is not None:
            check_positive("support_temperature", support_temperature)
        check_positive("spike_precision", spike_precision)
        check_positive("learning_rate", learning_rate)
        self.temperature = float(temperature)
        self.temperature_start = float(temperature if temperature_start is None else temperature_start)
        self.support_temperature = float(temperature if support_temperature is None else support_temperature)
        self.precision = check_choice("precision", precision, PRECISIONS)
        if variance_growth is not None:
            check_positive("variance_growth", variance_growth)
        self.variance_growth = math.inf if variance_growth is None else float(variance_growth)
        self.anneal = check_fraction("anneal", anneal, low_open=False, high_open=False)
        self.settings = PriorSettings(
            support=check_choice("support", support, SUPPORTS),
            rule=check_choice("rule", rule, RULES),
            spike_precision=float(spike_precision),
            gate=0.5 if isinstance(gate, Mapping) else check_fraction("gate", gate),
            p01=check_fraction("p01", p01),
            p11=check_fraction("p11", p11),
            learn_support=bool(learn_support),
            damping=check_fraction("damping", damping, high_open=False),
            moment_matching=bool(moment_matching),
        )
        if moment_matching and precision == "relevance":
            raise ValueError("moment_matching needs precision='mixture', got precision='relevance'")
        if moment_matching and rule != "extrinsic":
            raise ValueError(f"moment_matching needs rule='extrinsic', got rule={rule!r}")
        self.warmup_epochs = check_integer("warmup_epochs", warmup_epochs, 0)
        self.updates_per_epoch = check_integer("updates_per_epoch", updates_per_epoch, 1)
        self.learning_rate = float(learning_rate)
        self.curvature_decay = check_fraction("curvature_decay", curvature_decay)
        self.seed = check_integer("seed", seed, 0)
        self.loss = loss
        self.model = convert(model, exclude)
        self.original = deepcopy(model).eval()
        self.layers = variational_layers(self.model)
        self.gates = self._check_gates(gate) if isinstance(gate, Mapping) else {}
        self.temperature_factors = self._check_factors(temperature_factors or {})
        self.independent_layers = check_names("independent_layers", independent_layers, self.layers)
        self.history: list[EpochRecord] = []
        self.input_shape: tuple[int, ...] | None = None
        self._teacher: nn.Module | None = None
        self._distillation = 0.0
        self._tuned_epochs = 0
        self._start_priors()

    def _check_gates(self, gates: Mapping[str, float]) -> dict[str, float]:
        check_names("gate", gates, self.layers)
        return {name: check_fraction(f"gate[{name!r}]", value) for name, value in gates.items()}

    def _check_factors(self, factors: Mapping[str, float]) -> dict[str, float]:
        check_names("temperature_factors", factors, self.layers)
        for name, value in factors.items():
            check_positive(f"temperature_factors[{name!r}]", value)
        return {name: float(value) for name, value in factors.items()}

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
        """Train the posterior and let the engine choose the support; afterwards the mask is applied.

        Parameters
        ----------
        train_loader : iterable of (x, y)
            Batches; iterated once per epoch. TensorLoader is the fast one.
        val_loader : iterable of (x, y), optional
            For the accuracy per epoch; nothing is chosen by it.
        epochs : int
            Number of epochs, more than `warmup_epochs`.
        dataset_size : int, optional
            `N`; read from the loader if not given.
        callback : callable, optional
            Called with the record of every epoch; a true value stops.
        checkpoint : path, optional
            File that is rewritten after every epoch.
        resume : bool
            Go on from `checkpoint` if it exists; the result equals that of an unbroken run.
        teacher : nn.Module, optional
            Network whose softened decisions join the labels in the likelihood, for example the dense one.
        distillation : float
            Part of the teacher's term in the likelihood.
        progress : bool
            Show a progress bar on a terminal.

        Returns
        -------
        TurboVBICompressor
            Itself.

        Raises
        ------
        TypeError, ValueError
            If an argument is wrong, or the checkpoint belongs to other settings.
        FloatingPointError
            If the loss is no longer finite.
        """
        check_loader("train_loader", train_loader)
        epochs = check_integer("epochs", epochs, 1)
        if epochs <= self.warmup_epochs:
            raise ValueError(
                f"epochs must exceed warmup_epochs = {self.warmup_epochs}, got {epochs}: "
                "the engine would never be called"
            )
        shared = self.describe_settings() | {"epochs": epochs}
        file = Checkpoint.from_arguments(checkpoint, resume, _CHECKPOINT_FORMAT, "a compression", shared)
        size = dataset_size_of(train_loader, dataset_size)
        check_fraction("distillation", distillation, low_open=False, high_open=False)
        self._teacher = None if teacher is None else teacher.eval()
        self._distillation, self._tuned_epochs = distillation, 0
        self._set_masked(False)
        self.optimiser = torch.optim.Adam(self.model.parameters(), lr=self.learning_rate, fused=True)
        if self.history:
            self.history = []
            self._start_priors()
        if file is not None and resume:
            file.resume(self.restore, train_loader)
        first = len(self.history)
        with epoch_progress(progress, epochs, first) as show:
            for epoch in range(first, epochs):
                record = self._epoch(train_loader, val_loader, epoch, epochs, size)
                self.history.append(record)
                show(record)
                if file is not None:
                    file.write(self.state(), train_loader)
                if callback is not None and callback(record):
                    break
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
        """Train the kept weights without noise and without prior.

        Parameters
        ----------
        loader : iterable of (x, y)
            Batches.
        epochs : int
            Number of epochs.
        learning_rate : float, optional
            Start of the cosine schedule; that of `fit` if not given.
        teacher : nn.Module, optional
            Network whose softened decisions are followed as well, for example the dense one.
        distillation : float
            Part of the teacher's term in the loss.
        progress : bool
            Show a progress bar on a terminal.

        Returns
        -------
        TurboVBICompressor
            Itself.

        Raises
        ------
        RuntimeError
            If `fit` has not been called.
        """
        self._require_fit("finetune")
        rate = self.learning_rate if learning_rate is None else learning_rate
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
            Number of networks drawn from the posterior and averaged; 0 takes the mean network.
        """
        seed = epoch_seed(self.seed, 0, 2)
        return drawn_predictions(self.model, x, n_samples, self._set_sampling, seed).mean(0)

    def masked_model(self) -> nn.Module:
        """Return a plain copy of the network, zero outside the mask, in its full size."""
        return to_plain(self.model).eval()

    def export(self, *, fold_norms: bool = False) -> nn.Module:
        """Return a smaller plain module that equals the masked network; dead neurons and filters are gone.

        Parameters
        ----------
        fold_norms : bool
            Whether batch normalisations are folded into the layers before them.

        Raises
        ------
        RuntimeError
            If `fit` has not been called.
        """
        self._require_fit("export")
        return shrink(self.masked_model(), fold_norms=fold_norms, input_shape=self.input_shape)

    def report(self, value_bits: int = 32) -> CompressionReport:
        """Return weights, MACs, bytes and structure of what is kept.

        Parameters
        ----------
        value_bits : int
            Bits per stored value in the byte counts.

        Raises
        ------
        RuntimeError
            If `fit` has not been called.
        """
        self._require_fit("report")
        assert self.input_shape is not None
        return make_report(self.masked_model(), self.support(), self.input_shape, self.export(), value_bits)

    def describe_settings(self) -> dict[str, Any]:
        """Return the settings that a checkpoint must share."""
        heats = ("temperature", "temperature_start", "support_temperature", "precision", "variance_growth")
        names = ("anneal", "warmup_epochs", "updates_per_epoch", "learning_rate", "curvature_decay", "seed")
        own = {name: getattr(self, name) for name in (*heats, *names)}
        by_layer = {
            "gates": dict(self.gates),
            "temperature_factors": dict(self.temperature_factors),
            "independent_layers": sorted(self.independent_layers),
        }
        return own | asdict(self.settings) | by_layer
