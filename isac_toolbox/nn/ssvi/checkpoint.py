"""Checkpoint of a fit on a fixed budget, read back without unpickling code."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isac_toolbox.nn._checkpoints import load_model, loader_generator, read_state, write_state

if TYPE_CHECKING:
    from isac_toolbox.nn.ssvi.classifier import SparseClassifier

__all__ = ["load", "save"]

_COUNTS = ("step_count", "n_examples", "n_updates", "training_flops")
_FORMAT = "isac-toolbox sparse training checkpoint 1"


def _settings(fitted: SparseClassifier, epochs: int) -> dict[str, Any]:
    return asdict(fitted.settings) | {"seed": fitted.seed, "epochs": epochs}


def save(fitted: SparseClassifier, path: Path, done: int, epochs: int, loader: Any) -> None:
    """Write the state after `done` epochs; a crash leaves the old file."""
    generator = loader_generator(loader)
    state = {
        "format": _FORMAT,
        "settings": _settings(fitted, epochs),
        "done": done,
        "model": fitted.model.state_dict(),
        "optimiser": fitted.optimiser.state_dict(),
        "counts": {name: getattr(fitted, name) for name in _COUNTS},
        "history": [asdict(record) for record in fitted.history],
        "input_shape": list(fitted.input_shape or ()),
        "loader_generator": None if generator is None else generator.get_state(),
    }
    write_state(state, path)


def load(fitted: SparseClassifier, path: Path, epochs: int, loader: Any) -> int:
    """Restore the state; return the number of epochs done.

    Raises
    ------
    ValueError
        If the file is damaged, or belongs to other settings or another model.
    """
    from isac_toolbox.nn.ssvi.training import SparseEpochRecord

    state = read_state(path, _FORMAT, "training on a fixed budget", _settings(fitted, epochs))
    fitted.adopt_shapes(state["model"])
    load_model(fitted.model, state, path)
    for layer in fitted.layers.values():
        layer.refresh()
    fitted.optimiser.load_state_dict(state["optimiser"])
    for name in _COUNTS:
        setattr(fitted, name, int(state["counts"][name]))
    fitted.history = [SparseEpochRecord(**{**r, "neurons": tuple(r["neurons"])}) for r in state["history"]]
    fitted.input_shape = tuple(state["input_shape"])
    generator = loader_generator(loader)
    if generator is not None and state["loader_generator"] is not None:
        generator.set_state(state["loader_generator"])
    return int(state["done"])
