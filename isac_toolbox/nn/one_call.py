"""Any network to a smaller one in a single call (docs/theory-networks.md, section 5.5)."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from isac_toolbox._validation import check_flag, check_fraction, check_integer, check_loader, check_positive
from isac_toolbox.nn.export.report import CompressionReport
from isac_toolbox.nn.turbo_vbi.compressor import TurboVBICompressor
from isac_toolbox.nn.turbo_vbi.settings import CompressionSettings
from isac_toolbox.nn.turbo_vbi.watch import hold_back

__all__ = ["CompressedNetwork", "compress"]

#: Part of the epochs that the guarded fit takes before a budget is met in steps.
_FIT_PART = 0.4
#: Largest part of the weights or MACs that one step towards a budget removes.
_STEP = 0.5


@dataclass(frozen=True)
class CompressedNetwork:
    """Result of ``compress``.

    Attributes
    ----------
    model : nn.Module
        The smaller plain module, in evaluation mode.
    report : CompressionReport
        Its size and structure.
    compressor : TurboVBICompressor
        The fitted compressor, for masks, files and further fine-tuning.
    loss, loss_dense : float
        Loss on the watched examples of the smaller and of the reference network.
    metric, metric_dense : float
        Metric (accuracy of a classification) on them; NaN without one.
    """

    model: nn.Module
    report: CompressionReport
    compressor: TurboVBICompressor
    loss: float
    loss_dense: float
    metric: float
    metric_dense: float

    def __str__(self) -> str:
        """Return one line on size and quality."""
        sizes = (
            f"{self.report.n_kept:,} of {self.report.n_weights:,} weights "
            f"(1/{self.report.compression:.1f}), {self.report.macs:,} of {self.report.macs_dense:,} MACs"
        )
        if self.metric == self.metric:
            return f"{sizes}; metric {self.metric:.4f}, dense {self.metric_dense:.4f}"
        return f"{sizes}; loss {self.loss:.4g}, dense {self.loss_dense:.4g}"


def compress(
    model: nn.Module,
    train_loader: Any,
    *,
    max_loss_drop: float | None = None,
    max_weights: int | None = None,
    max_macs: int | None = None,
    density: float | None = None,
    val_loader: Any = None,
    loss: Callable[[Any, Any], Tensor] = F.cross_entropy,
    metric: Callable[[Any, Any], Any] | None = None,
    epochs: int = 40,
    dataset_size: int | None = None,
    settings: CompressionSettings | None = None,
    exclude: Iterable[str] = (),
    seed: int = 0,
    callback: Callable[[Any], bool | None] | None = None,
    progress: bool = True,
) -> CompressedNetwork:
    """Compress a network as far as it loses no more than asked, or to a budget.

    Parameters
    ----------
    model : nn.Module
        Any network, trained or not; it is not changed. One that knows nothing of the data yet is trained
        first, for as many epochs as the fit.
    train_loader : iterable of (x, y)
        Batches; also ``(x1, x2, ..., y)`` and dicts.
    max_loss_drop : float, optional
        Most that the result may lose: points of accuracy (0.01) or of the metric, and where there is neither,
        that part of the loss. 0.01 if no budget is given.
    max_weights, max_macs : int, optional
        Budget of weights of all converted layers, or of MACs of the exported network.
    density : float, optional
        Budget of weights as a part of them, in (0, 1].
    val_loader : iterable of (x, y), optional
        Where the loss is measured; without it, 15 % of the training examples are held back. Neither the fit
        nor the reference of an untrained network sees them, which on a small set costs accuracy of its own.
    loss : callable
        Mean negative log-likelihood of (output, target).
    metric : callable, optional
        Quality of (output, target) of a batch, larger is better; by default the accuracy of a classification.
    epochs : int
        Epochs of compression and fine-tuning.
    dataset_size : int, optional
        Examples of an epoch; taken from the loader if not given.
    settings : CompressionSettings, optional
        Prior and schedule; the defaults if not given.
    exclude : iterable of str
        Names of layers that keep all their weights.
    seed : int
        Seed of everything.
    callback : callable, optional
        Called with the record of every epoch of the fit; a true return value stops it.
    progress : bool
        Show progress.

    Returns
    -------
    CompressedNetwork

    Raises
    ------
    TypeError, ValueError
        If an argument is wrong, several of the limits are given, or a budget is below what can be met; the
        message says what can.

    Warns
    -----
    UserWarning
        If a budget costs more than 0.01.

    Examples
    --------
    >>> from isac_toolbox.nn import TensorLoader, compress, load_digits_split
    >>> from isac_toolbox.nn.models import mlp
    >>> data, validation, _ = load_digits_split(seed=0)
    >>> loader = TensorLoader.from_dataset(data, batch_size=128)
    >>> result = compress(mlp(64, (16,), 10), loader, density=0.5, epochs=4, progress=False)
    >>> result.report.density <= 0.5
    True
    """
    check_loader("train_loader", train_loader)
    epochs = check_integer("epochs", epochs, 2)
    check_flag("progress", progress)
    limits = {"max_loss_drop": max_loss_drop, "max_weights": max_weights, "max_macs": max_macs}
    given = [name for name, value in (limits | {"density": density}).items() if value is not None]
    if len(given) > 1:
        raise ValueError(f"give one of max_loss_drop, max_weights, max_macs and density, got {given}")
    allowed = 0.01 if max_loss_drop is None else check_positive("max_loss_drop", max_loss_drop)
    chosen = replace(settings or CompressionSettings(), max_loss_drop=allowed)
    compressor = TurboVBICompressor(
        model, settings=chosen, exclude=exclude, loss=loss, metric=metric, seed=seed
    )
    budget = _weight_budget(compressor, max_weights, density)
    if max_macs is not None:
        check_integer("max_macs", max_macs, 1)
    unlimited = budget is None and max_macs is None
    fit_epochs = epochs if unlimited else max(round(_FIT_PART * epochs), 2)
    compressor.settings = replace(chosen, warmup_epochs=min(chosen.warmup_epochs, fit_epochs - 1))
    if val_loader is None:
        train_loader, val_loader = hold_back(train_loader, compressor.model, seed)
    shown: dict[str, Any] = {"dataset_size": dataset_size, "callback": callback, "progress": progress}
    compressor.fit(train_loader, val_loader, epochs=fit_epochs, **shown)
    if budget is not None and compressor.report().n_kept > budget:
        _in_steps(compressor, train_loader, budget, "weights", epochs - fit_epochs, progress)
    if max_macs is not None and compressor.report().macs > max_macs:
        _in_steps(compressor, train_loader, max_macs, "MACs", epochs - fit_epochs, progress)
    return _result(compressor)


def _weight_budget(
    compressor: TurboVBICompressor, max_weights: int | None, density: float | None
) -> int | None:
    """Return the largest number of weights, None without one."""
    if max_weights is not None:
        return check_integer("max_weights", max_weights, 1)
    if density is None:
        return None
    total = sum(layer.mask.numel() for layer in compressor.layers.values())
    return max(int(check_fraction("density", density, high_open=False) * total), 1)


def _in_steps(
    compressor: TurboVBICompressor, loader: Any, budget: int, unit: str, epochs: int, progress: bool
) -> None:
    """Meet a budget in steps, each followed by fine-tuning; warn if it costs more than is usual."""
    before = compressor.report()
    start = before.n_kept if unit == "weights" else before.macs
    n_steps = max(math.ceil(math.log(budget / start) / math.log(1.0 - _STEP)), 1)
    for step in range(1, n_steps + 1):
        target = max(int(start * (budget / start) ** (step / n_steps)), budget)
        if unit == "weights":
            compressor.keep_at_most(target)
        else:
            compressor.keep_macs_at_most(target)
        share = epochs * step // n_steps - epochs * (step - 1) // n_steps
        compressor.finetune(loader, epochs=share, teacher=compressor.guard_teacher, progress=progress)
    dense, small = compressor.quality()
    lost, _ = small.lost(dense)
    if lost > (compressor.settings.allowed_loss or math.inf):
        warnings.warn(
            f"the budget of {budget:,} {unit} costs {lost:.3g} on the watched examples; "
            f"{before.n_kept:,} weights and {before.macs:,} MACs cost at most "
            f"{compressor.settings.allowed_loss}; more epochs may cost less",
            stacklevel=3,
        )


def _result(compressor: TurboVBICompressor) -> CompressedNetwork:
    """Return module, report and quality of a fitted compressor."""
    dense, small = compressor.quality()
    return CompressedNetwork(
        model=compressor.export(),
        report=compressor.report(),
        compressor=compressor,
        loss=small.loss,
        loss_dense=dense.loss,
        metric=small.metric,
        metric_dense=dense.metric,
    )
