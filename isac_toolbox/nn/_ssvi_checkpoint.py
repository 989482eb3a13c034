"""Checkpoint of a fit on a fixed budget, read back without unpickling code."""

from __future__ import annotations

import os
import pickle
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from isac_toolbox.nn.ssvi import SparseClassifier

__all__ = ["load", "save"]

_COUNTS = ("step_count", "n_examples", "n_updates", "training_flops")
_FORMAT = "isac-toolbox sparse training checkpoint 1"


def _generator(loader: Any) -> torch.Generator | None:
    generator = getattr(loader, "generator", None)
    return generator if isinstance(generator, torch.Generator) else None


def _settings(fitted: SparseClassifier, epochs: int) -> dict[str, Any]:
    return asdict(fitted.settings) | {"seed": fitted.seed, "epochs": epochs}


def save(fitted: SparseClassifier, path: Path, done: int, epochs: int, loader: Any) -> None:
    """Write the state after `done` epochs; a crash leaves the old file."""
    generator = _generator(loader)
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
    temporary = path.with_name(path.name + ".part")
    torch.save(state, temporary)
    os.replace(temporary, path)


def load(fitted: SparseClassifier, path: Path, epochs: int, loader: Any) -> int:
    """Restore the state; return the number of epochs done.

    Raises
    ------
    ValueError
        If the file is damaged, or belongs to other settings or another model.
    """
    from isac_toolbox.nn._ssvi_training import SparseEpochRecord

    try:
        state = torch.load(path, weights_only=True)
    except (RuntimeError, OSError, EOFError, pickle.UnpicklingError) as error:
        raise ValueError(f"checkpoint {path} cannot be read: {error}") from None
    if not isinstance(state, dict) or state.get("format") != _FORMAT:
        raise ValueError(f"checkpoint {path} is not a checkpoint of training on a fixed budget")
    wanted = _settings(fitted, epochs)
    different = [name for name, value in wanted.items() if state["settings"].get(name) != value]
    if different:
        text = ", ".join(f"{n} = {wanted[n]!r} (file: {state['settings'].get(n)!r})" for n in different)
        raise ValueError(f"checkpoint {path} belongs to other settings: {text}")
    fitted.adopt_shapes(state["model"])
    try:
        fitted.model.load_state_dict(state["model"])
    except RuntimeError as error:
        raise ValueError(f"checkpoint {path} belongs to another model: {error}") from None
    for layer in fitted.layers.values():
        layer.refresh()
    fitted.optimiser.load_state_dict(state["optimiser"])
    for name in _COUNTS:
        setattr(fitted, name, int(state["counts"][name]))
    fitted.history = [SparseEpochRecord(**{**r, "neurons": tuple(r["neurons"])}) for r in state["history"]]
    fitted.input_shape = tuple(state["input_shape"])
    generator = _generator(loader)
    if generator is not None and state["loader_generator"] is not None:
        generator.set_state(state["loader_generator"])
    return int(state["done"])
