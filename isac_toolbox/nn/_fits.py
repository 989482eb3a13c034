"""What fits of posteriors have in common: their figures, predictions with drawn networks, and files."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from isac_toolbox.nn._batches import Batch
from isac_toolbox.nn._draws import class_probabilities, drawn_outputs
from isac_toolbox.nn._posteriors import read_state, write_state
from isac_toolbox.nn._records import EpochFigures
from isac_toolbox.nn.objective import Objective
from isac_toolbox.nn.training import epoch_seed

__all__ = ["Fit", "SavedFit"]


class Fit(ABC):
    """A network with a posterior, and the records of its epochs.

    Attributes
    ----------
    model : nn.Module
        The converted network.
    history : list
        Records of the epochs.
    example : Batch or None
        Two examples, on which networks are run to count and to check.
    input_shape : tuple of int or None
        Shape of one example.
    """

    model: nn.Module
    settings: Any
    objective: Objective
    seed: int
    frozen: frozenset[str]
    history: list[Any]
    example: Batch | None = None
    input_shape: tuple[int, ...] | None = None
    optimiser: torch.optim.Optimizer

    @abstractmethod
    def _set_sampling(self, seed: int | None) -> None:
        """Turn the noise on with a seed, or off."""

    def _remember(self, batch: Batch) -> None:
        """Keep two examples."""
        if self.example is None:
            self.example = batch.part(0, 2).copied()
            self.input_shape = self.example.input_shape

    def _require_fit(self, what: str) -> None:
        """Raise an error that names the method if ``fit`` has not been called."""
        if self.input_shape is None or not self.history:
            raise RuntimeError(f"{what} needs a fitted network; call fit first")

    def _drawn_outputs(self, x: Any, n_samples: int, batch_size: int | None) -> Iterator[Any]:
        """Yield what every drawn network returns."""
        seed = epoch_seed(self.seed, 0, 2)
        return drawn_outputs(self.model, x, n_samples, self._set_sampling, seed, batch_size)

    def predict_draws(self, x: Any, n_samples: int, *, batch_size: int | None = None) -> Tensor:
        """Return class probabilities of every drawn network, (n_networks, batch, n_classes, ...).

        Parameters
        ----------
        x : Tensor, or tuple, list or dict of Tensor
            Inputs, the examples along the first axis.
        n_samples : int
            Number of networks drawn from the posterior; 0 for the mean network alone. The draws are the same
            in every call.
        batch_size : int, optional
            Examples per forward pass; all at once if not given.

        Raises
        ------
        ValueError
            If the network returns no logits.
        """
        drawn = self._drawn_outputs(x, n_samples, batch_size)
        return torch.stack([class_probabilities(output, self.objective.loss) for output in drawn])

    def predict_proba(self, x: Any, n_samples: int = 0, *, batch_size: int | None = None) -> Tensor:
        """Return class probabilities, (batch, n_classes, ...), or those of independent labels.

        Parameters
        ----------
        x, n_samples, batch_size
            As in ``predict_draws``, over whose networks they are averaged.

        Raises
        ------
        ValueError
            If the network returns no logits.
        """
        return self.predict_draws(x, n_samples, batch_size=batch_size).mean(0)

    def _stored_figures(self) -> dict[str, Any]:
        """Return records and example as plain values and tensors."""
        return {
            "done": len(self.history),
            "history": [asdict(record) for record in self.history],
            "example": None if self.example is None else self.example.stored(),
        }

    def _restore_figures(self, state: dict[str, Any], record: type[EpochFigures]) -> None:
        """Restore what ``_stored_figures`` returned."""
        self.history = record.stored(state["history"])
        self.example = None if state["example"] is None else Batch.from_stored(state["example"])
        self.input_shape = None if self.example is None else self.example.input_shape


class SavedFit(Fit):
    """A fit whose posterior can be written to a file and read again.

    Attributes
    ----------
    file_format : str
        Name and number of the format.
    """

    file_format: ClassVar[str]

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """Return everything that a fit changes, as tensors and plain values."""

    @abstractmethod
    def restore(self, state: dict[str, Any]) -> None:
        """Restore what ``state`` returned."""

    @classmethod
    @abstractmethod
    def _from_settings(cls, model: nn.Module, settings: dict[str, Any], **others: Any) -> Self:
        """Return an object as before the fit, from the settings in a file."""

    @abstractmethod
    def _fresh_optimiser(self) -> dict[str, Any]:
        """Return the state of an optimiser that has taken no step."""

    def _when_loaded(self) -> None:
        """Make a restored object ready for use."""

    def save(self, path: str | Path) -> Path:
        """Write the fitted posterior with its settings as a safetensors file, and return its path.

        Raises
        ------
        RuntimeError
            If ``fit`` has not been called.
        """
        self._require_fit("save")
        state = {name: value for name, value in self.state().items() if name != "optimiser"}
        return write_state(
            path, self.file_format, state | {"settings": asdict(self.settings), "seed": self.seed}
        )

    @classmethod
    def load(
        cls,
        path: str | Path,
        model: nn.Module,
        *,
        exclude: Iterable[str] = (),
        loss: Callable[[Any, Any], Tensor] = F.cross_entropy,
        metric: Callable[[Any, Any], Any] | None = None,
    ) -> Self:
        """Return the fitted object of a file of ``save``.

        Parameters
        ----------
        path : path
        model : nn.Module
            Of the same architecture as the one that was fitted; its weights do not matter.
        exclude, loss, metric
            As in the constructor.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ValueError
            If the file is damaged, of another kind, or of another architecture.
        """
        state = read_state(path, cls.file_format)
        loaded = cls._from_settings(
            model, state["settings"], exclude=exclude, loss=loss, metric=metric, seed=state["seed"]
        )
        try:
            loaded.restore(state | {"optimiser": loaded._fresh_optimiser()})
        except (RuntimeError, LookupError, TypeError, AttributeError) as error:  # names or shapes differ
            raise ValueError(f"{path} does not fit {type(model).__name__}: {error}") from None
        loaded._when_loaded()
        loaded.model.eval()
        return loaded
