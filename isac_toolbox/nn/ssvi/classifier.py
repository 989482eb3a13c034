"""SSVI: Bayesian networks that are sparse from the first step to the last (docs/theory-ssvi.md).

Source of the method: Li, Miao, Qiu, Zhang, "Training Bayesian neural networks with sparse subspace
variational inference", ICLR 2024, arXiv:2402.11025.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from isac_toolbox._validation import check_integer, check_loader
from isac_toolbox.nn._batches import described_data
from isac_toolbox.nn._checkpoints import Checkpoint, run_epochs
from isac_toolbox.nn._posteriors import read_state, write_state
from isac_toolbox.nn._settings import settings_with
from isac_toolbox.nn.evaluation.metrics import predict_loader, prediction_metrics
from isac_toolbox.nn.export.report import CompressionReport, make_report
from isac_toolbox.nn.export.shrink import shrink
from isac_toolbox.nn.objective import Objective
from isac_toolbox.nn.ssvi.flops import step_flops
from isac_toolbox.nn.ssvi.layers import convert_sparse, sparse_layers
from isac_toolbox.nn.ssvi.settings import AUTHORS_SETTINGS, SSVISettings
from isac_toolbox.nn.ssvi.training import SparseEpochRecord, SparseTraining
from isac_toolbox.nn.training import (
    class_probabilities,
    dataset_size_of,
    drawn_outputs,
    epoch_seed,
    frozen_modules,
)

__all__ = ["AUTHORS_SETTINGS", "SSVI", "SSVIReport", "SparseClassifier", "SparseEpochRecord"]

_CHECKPOINT_FORMAT = "isac-toolbox sparse training checkpoint 2"
_FILE_FORMAT = "isac-toolbox sparse posterior 1"

Self = TypeVar("Self", bound="SparseClassifier")


@dataclass(frozen=True)
class SSVIReport(CompressionReport):
    """Size and structure of the mean network, and the cost of its training.

    Attributes
    ----------
    training_flops, training_flops_dense : int
        Operations of training with the changes of the support, and of the same epochs with every weight
        active.
    state_bytes : dict of str to int
        Result of ``SparseTraining.training_state_bytes``.
    n_updates : int
        Number of changes of the support.
    """

    training_flops: int
    training_flops_dense: int
    state_bytes: dict[str, int]
    n_updates: int


class SparseClassifier(SparseTraining):
    """Base of all methods that train on a fixed budget: fit, prediction and report.

    Parameters
    ----------
    model : nn.Module
        Any network; it is not changed. Biases and normalisations start from its values, the weights are
        drawn or, with ``start="model"`` of the settings, its largest.
    settings : SSVISettings
        All settings.
    exclude : iterable of str
        Names of layers that are not converted.
    loss : callable
        Mean negative log-likelihood of (output, target).
    metric : callable, optional
        Quality of (output, target) of a batch, larger is better; by default the accuracy of a classification.
    seed : int
        Seed of support, weights, noise, and of the order of loaders that use torch's global generator.
    """

    def __init__(
        self,
        model: nn.Module,
        settings: SSVISettings,
        exclude: Iterable[str] = (),
        loss: Callable[[Any, Any], Tensor] = F.cross_entropy,
        seed: int = 0,
        metric: Callable[[Any, Any], Any] | None = None,
    ) -> None:
        self.settings, self.objective = settings, Objective(loss, metric)
        self.seed = check_integer("seed", seed, 0)
        self.model = convert_sparse(model, exclude, settings.sparse_below)
        self.layers, self.frozen = sparse_layers(self.model), frozen_modules(self.model)
        self._small = {name: value.clone() for name, value in self.model.state_dict().items()}
        plain: dict[str, Any] = dict(model.named_modules()) if settings.start == "model" else {}
        self._given = {name: plain[name].weight.detach().clone() for name in self.layers if plain}
        self._start()

    def fit(
        self: Self,
        train_loader: Any,
        val_loader: Any = None,
        *,
        epochs: int,
        dataset_size: int | None = None,
        callback: Callable[[SparseEpochRecord], bool | None] | None = None,
        checkpoint: str | Path | None = None,
        resume: bool = False,
        progress: bool = True,
    ) -> Self:
        """Train the network; a second call starts from the beginning.

        Parameters
        ----------
        train_loader : iterable of (x, y)
            Batches, iterated once per epoch; ``TensorLoader`` is the fastest loader.
        val_loader : iterable of (x, y), optional
            Batches for the accuracy per epoch, which has no effect on training.
        epochs : int
            Number of epochs.
        dataset_size : int, optional
            ``N``; taken from the loader if not given.
        callback : callable, optional
            Called with the record of every epoch; a true return value stops the training.
        checkpoint : path, optional
            File that is rewritten after every epoch.
        resume : bool
            Continue from ``checkpoint`` if it exists; the result equals that of an uninterrupted run.
        progress : bool
            Show a progress bar on a terminal.

        Returns
        -------
        SparseClassifier
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
        size = dataset_size_of(train_loader, dataset_size)
        shared = asdict(self.settings) | {"seed": self.seed, "epochs": epochs}
        shared |= self.objective.described() | described_data(train_loader, size)
        file = Checkpoint.from_arguments(
            checkpoint, resume, _CHECKPOINT_FORMAT, "training on a fixed budget", shared
        )
        if self.step_count:
            self._start()
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
        self.model.eval()
        return self

    # ---- after the fit -------------------------------------------------------------------------------

    def predict(self, x: Any, n_samples: int = 0, *, batch_size: int | None = None) -> Tensor:
        """Return what every drawn network returns, (n_networks, batch, ...).

        Parameters
        ----------
        x : Tensor, or tuple, list or dict of Tensor
            Inputs, the examples along the first axis.
        n_samples : int
            Number of networks drawn from the posterior; 0 for the mean network alone. The draws are the same
            in every call.
        batch_size : int, optional
            Examples per forward pass; all at once if not given.
        """
        return torch.stack(list(self._drawn_outputs(x, n_samples, batch_size)))

    def predict_proba(self, x: Any, n_samples: int = 0, *, batch_size: int | None = None) -> Tensor:
        """Return class probabilities, (batch, n_classes, ...), averaged over the drawn networks.

        Parameters
        ----------
        x, n_samples, batch_size
            As in ``predict``.

        Raises
        ------
        ValueError
            If the network returns no logits.
        """
        return self.predict_draws(x, n_samples, batch_size=batch_size).mean(0)

    def predict_draws(self, x: Any, n_samples: int, *, batch_size: int | None = None) -> Tensor:
        """Return class probabilities of every drawn network, (n_networks, batch, n_classes, ...).

        Parameters
        ----------
        x, n_samples, batch_size
            As in ``predict``.

        Raises
        ------
        ValueError
            If the network returns no logits.
        """
        drawn = self._drawn_outputs(x, n_samples, batch_size)
        return torch.stack([class_probabilities(output, self.objective.loss) for output in drawn])

    def _drawn_outputs(self, x: Any, n_samples: int, batch_size: int | None) -> Iterator[Any]:
        """Yield what every drawn network returns."""
        seed = epoch_seed(self.seed, 0, 2)
        return drawn_outputs(self.model, x, n_samples, self._set_sampling, seed, batch_size)

    def evaluate(self, loader: Any, n_samples: int = 0) -> dict[str, float]:
        """Return ``accuracy``, ``nll``, ``ece`` and ``brier``; ``n_samples`` as in ``predict_proba``."""
        check_loader("loader", loader)
        return prediction_metrics(*predict_loader(lambda x: self.predict_proba(x, n_samples), loader))

    def report(self, value_bits: int = 32) -> SSVIReport:
        """Return size and structure of the mean network, and the cost of its training.

        Parameters
        ----------
        value_bits : int
            Bits per stored value in the byte counts.

        Raises
        ------
        RuntimeError
            If ``fit`` has not been called.
        """
        if self.input_shape is None or not self.history:
            raise RuntimeError("report needs a fitted network; call fit first")
        plain = self.mean_model()
        base = make_report(plain, self.support(), self.example, shrink(plain, self.example), value_bits)
        return SSVIReport(
            **{field.name: getattr(base, field.name) for field in fields(base)},
            training_flops=self.training_flops,
            training_flops_dense=self._dense_flops(),
            state_bytes=self.training_state_bytes(),
            n_updates=self.n_updates,
        )

    def _dense_flops(self) -> int:
        """Return the operations for the same examples with every weight active."""
        total = {name: layer.n_weights for name, layer in self.layers.items()}
        return step_flops(self._products(total), self._positions(), self.n_examples)


class SSVI(SparseClassifier):
    """Variational inference in a sparse subspace of fixed size that moves during training.

    Only active weights have a mean, a sigma and momenta; the others are exactly zero. Every
    ``update_interval`` steps the fraction ``replace_fraction / 2 (1 + cos(pi t / t_end))`` of the active
    weights of each layer is replaced.

    Parameters
    ----------
    model : nn.Module
        Any network; it is not changed. New weights are drawn; with ``start="model"``, those of a trained
        network are the start.
    density, removal, addition
        The first three fields of ``SSVISettings``; taken from ``settings`` if not given.
    settings : SSVISettings, optional
        Budget, scores, prior and optimiser; the defaults if not given.
    exclude : iterable of str
        Names of layers that are not converted.
    loss : callable
        Mean negative log-likelihood of (output, target).
    metric : callable, optional
        Quality of (output, target) of a batch, larger is better; by default the accuracy of a classification.
    seed : int
        Seed of everything.
    **changes
        Other fields of ``SSVISettings``, such as ``update_interval=50``; they override ``settings``.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or range, or the model cannot be converted.

    Notes
    -----
    Source: docs/theory-ssvi.md, sections 1 to 6; Li, Miao, Qiu, Zhang, ICLR 2024, arXiv:2402.11025.

    Examples
    --------
    >>> from isac_toolbox.nn import SSVI, TensorLoader, load_digits_split
    >>> from isac_toolbox.nn.models import mlp
    >>> train, _, test = load_digits_split(seed=0)
    >>> ssvi = SSVI(mlp(64, (32,), 10), density=0.2)
    >>> _ = ssvi.fit(TensorLoader.from_dataset(train, batch_size=128), epochs=1)
    >>> round(ssvi.report().density, 2), ssvi.predict_proba(test.tensors[0], n_samples=3).shape[1]
    (0.2, 10)
    """

    def __init__(
        self,
        model: nn.Module,
        density: float | None = None,
        removal: str | None = None,
        addition: str | None = None,
        *,
        settings: SSVISettings | None = None,
        exclude: Iterable[str] = (),
        loss: Callable[[Any, Any], Tensor] = F.cross_entropy,
        metric: Callable[[Any, Any], Any] | None = None,
        seed: int = 0,
        **changes: Any,
    ) -> None:
        first = {"density": density, "removal": removal, "addition": addition}
        changes |= {name: value for name, value in first.items() if value is not None}
        chosen = settings_with("SSVI", SSVISettings, settings, changes)
        if chosen.removal == "exp_snr":
            warnings.warn(
                "removal='exp_snr' decreases with |mu| at a fixed sigma, so it removes large weights first; "
                "removal='snr' keeps them",
                UserWarning,
                stacklevel=2,
            )
        super().__init__(model, chosen, exclude, loss, seed, metric)

    def save(self, path: str | Path) -> Path:
        """Write the fitted posterior with its settings as a safetensors file, and return its path.

        Raises
        ------
        RuntimeError
            If ``fit`` has not been called.
        """
        if not self.history:
            raise RuntimeError("save needs a fitted network; call fit first")
        state = {name: value for name, value in self.state().items() if name != "optimiser"}
        return write_state(path, _FILE_FORMAT, state | {"settings": asdict(self.settings), "seed": self.seed})

    @classmethod
    def load(
        cls,
        path: str | Path,
        model: nn.Module,
        *,
        exclude: Iterable[str] = (),
        loss: Callable[[Any, Any], Tensor] = F.cross_entropy,
        metric: Callable[[Any, Any], Any] | None = None,
    ) -> SSVI:
        """Return the fitted object of a file of ``save``.

        Parameters
        ----------
        path : path
        model : nn.Module
            Of the same architecture as the one that was trained; its weights do not matter.
        exclude, loss, metric
            As in the constructor.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ValueError
            If the file is damaged, of another kind, or of another architecture.
        """
        state = read_state(path, _FILE_FORMAT)
        with warnings.catch_warnings():  # of settings that have been chosen already
            warnings.simplefilter("ignore", UserWarning)
            settings = SSVISettings(**state["settings"])
            loaded = cls(
                model, settings=settings, exclude=exclude, loss=loss, metric=metric, seed=state["seed"]
            )
        momenta = {
            i: {"momentum_buffer": torch.zeros_like(p)}
            for i, p in enumerate(p for group in loaded.optimiser.param_groups for p in group["params"])
        }
        try:
            loaded.restore(state | {"optimiser": loaded.optimiser.state_dict() | {"state": momenta}})
        except (
            RuntimeError,
            LookupError,
            TypeError,
            AttributeError,
        ) as error:  # torch: names or shapes of the tensors differ
            raise ValueError(f"{path} does not fit {type(model).__name__}: {error}") from None
        loaded.model.eval()
        return loaded
