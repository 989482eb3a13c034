"""Sparse variational dropout."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from isac_toolbox._validation import check_fraction, check_integer, check_positive
from isac_toolbox.nn._batches import batches, dataset_size_of, n_batches_of
from isac_toolbox.nn.baselines.common import (
    BaselineResult,
    Finetuning,
    finish,
    keep_largest,
    weight_budget,
)
from isac_toolbox.nn.layers import convert, to_plain, variational_layers
from isac_toolbox.nn.training import (
    adam,
    cosine,
    descend,
    epoch_seed,
    frozen_modules,
    set_rate,
    set_training,
    training_epoch,
)

__all__ = ["sparse_variational_dropout"]


def sparse_variational_dropout(
    model: nn.Module,
    loader: Any,
    *,
    density: float,
    epochs: int,
    finetune_epochs: int,
    kl_weight: float = 1.0,
    warmup_part: float = 0.5,
    dataset_size: int | None = None,
    tuning: Finetuning | None = None,
) -> BaselineResult:
    """Train by sparse variational dropout, keep the weights with the smallest ``log alpha``, and fine-tune.

    Parameters
    ----------
    model, loader, density, tuning
        As in ``magnitude``.
    epochs, finetune_epochs : int
        Epochs of variational training and of fine-tuning.
    kl_weight : float
        Final weight of the KL term, which is multiplied by 1/N.
    warmup_part : float
        Part of the epochs over which the KL term grows linearly.
    dataset_size : int, optional
        ``N``; taken from the loader if not given.

    Returns
    -------
    BaselineResult

    Notes
    -----
    Source: Molchanov, Ashukha, Vetrov, "Variational dropout sparsifies deep neural networks", ICML 2017; the
    approximation of the KL divergence is theirs.
    """
    density = check_fraction("density", density, high_open=False)
    check_positive("kl_weight", kl_weight)
    warmup_part = check_fraction("warmup_part", warmup_part)
    epochs, size = check_integer("epochs", epochs, 1), dataset_size_of(loader, dataset_size)
    tuning = tuning or Finetuning()
    net = convert(model)
    layers, frozen = variational_layers(net), frozen_modules(net)
    logs = {name: nn.Parameter(torch.full_like(layer.mean, -10.0)) for name, layer in layers.items()}
    optimiser = adam([*net.parameters(), *logs.values()], tuning.learning_rate)
    for epoch in range(epochs):
        set_training(net, frozen)
        for i, layer in enumerate(layers.values()):
            layer.sampling = True
            layer.generator = torch.Generator(layer.mean.device).manual_seed(
                epoch_seed(tuning.seed, epoch, 1) + i
            )
        with training_epoch(tuning.seed, epoch, loader):
            for i, batch in enumerate(batches(loader, net)):
                part = (epoch + i / n_batches_of(loader, size, batch.size)) / epochs
                set_rate(optimiser, tuning.learning_rate * cosine(part))
                for name, layer in layers.items():
                    layer.variance = logs[name].exp()
                kl: Any = sum(_molchanov_kl(layers[n].mean, logs[n]) for n in layers)
                data_loss, _ = tuning.objective.training_loss(net, batch)
                descend(optimiser, data_loss + kl_weight * min(part / warmup_part, 1.0) / size * kl)
    for name, layer in layers.items():
        layer.sampling, layer.generator = False, None
        layer.variance = logs[name].detach().exp()
    scores = {n: -_log_alpha(layer.mean, logs[n]).detach() for n, layer in layers.items()}
    plain = to_plain(net)
    return finish(
        plain, keep_largest(scores, weight_budget(plain, density)), loader, finetune_epochs, epochs, tuning
    )


def _log_alpha(weight: Tensor, log_variance: Tensor) -> Tensor:
    """Return ``ln(sigma^2 / mu^2)``, limited as in the code of the paper."""
    return (log_variance - torch.log(weight.square() + 1e-16)).clamp(-10.0, 10.0)


def _molchanov_kl(weight: Tensor, log_variance: Tensor) -> Tensor:
    """Return the approximate KL divergence from the log-uniform prior (equation 14 of the paper)."""
    log_alpha = _log_alpha(weight, log_variance)
    negative = 0.63576 * torch.sigmoid(1.87320 + 1.48695 * log_alpha) - 0.5 * F.softplus(-log_alpha) - 0.63576
    return -negative.sum()
