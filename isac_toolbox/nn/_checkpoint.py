"""Checkpoint of a fit: everything that changes, read back without unpickling code."""

from __future__ import annotations

import os
import pickle
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from isac_toolbox.nn.turbo_vbi import TurboVBICompressor

__all__ = ["load", "save"]

_FORMAT = "isac-toolbox compression checkpoint 1"


def _loader_generator(loader: Any) -> torch.Generator | None:
    generator = getattr(loader, "generator", None)
    return generator if isinstance(generator, torch.Generator) else None


def save(
    compressor: TurboVBICompressor, optimiser: Any, path: Path, done: int, epochs: int, loader: Any
) -> None:
    """Write the state after `done` epochs; a crash leaves the old file."""
    generator = _loader_generator(loader)
    state = {
        "format": _FORMAT,
        "settings": compressor.describe_settings() | {"epochs": epochs},
        "done": done,
        "model": compressor.model.state_dict(),
        "optimiser": optimiser.state_dict(),
        "priors": {name: prior.state_dict() for name, prior in compressor.priors.items()},
        "curvatures": {
            name: {"gradient": c.gradient, "curvature": c.curvature, "weight": c.weight}
            for name, c in compressor.curvatures.items()
        },
        "precisions": compressor.precisions,
        "history": [asdict(record) for record in compressor.history],
        "input_shape": list(compressor.input_shape or ()),
        "loader_generator": None if generator is None else generator.get_state(),
    }
    temporary = path.with_name(path.name + ".part")
    torch.save(state, temporary)
    os.replace(temporary, path)


def load(compressor: TurboVBICompressor, optimiser: Any, path: Path, epochs: int, loader: Any) -> int:
    """Restore the state; return the number of epochs done.

    Raises
    ------
    ValueError
        If the file is damaged, or belongs to other settings or another model.
    """
    from isac_toolbox.nn.posterior import EpochRecord

    try:
        state = torch.load(path, weights_only=True)
    except (RuntimeError, OSError, EOFError, pickle.UnpicklingError) as error:
        raise ValueError(f"checkpoint {path} cannot be read: {error}") from None
    if not isinstance(state, dict) or state.get("format") != _FORMAT:
        raise ValueError(f"checkpoint {path} is not a checkpoint of a compression")
    wanted = compressor.describe_settings() | {"epochs": epochs}
    different = [name for name, value in wanted.items() if state["settings"].get(name) != value]
    if different:
        text = ", ".join(f"{n} = {wanted[n]!r} (file: {state['settings'].get(n)!r})" for n in different)
        raise ValueError(f"checkpoint {path} belongs to other settings: {text}")
    try:
        compressor.model.load_state_dict(state["model"])
    except RuntimeError as error:
        raise ValueError(f"checkpoint {path} belongs to another model: {error}") from None
    optimiser.load_state_dict(state["optimiser"])
    for name, prior in compressor.priors.items():
        prior.load_state_dict(state["priors"][name])
    for name, curvature in compressor.curvatures.items():
        stored = state["curvatures"][name]
        curvature.gradient.copy_(stored["gradient"])
        curvature.curvature.copy_(stored["curvature"])
        curvature.weight = stored["weight"]
    compressor.precisions = dict(state["precisions"])
    compressor.history = [EpochRecord(**{**r, "neurons": tuple(r["neurons"])}) for r in state["history"]]
    compressor.input_shape = tuple(state["input_shape"])
    generator = _loader_generator(loader)
    if generator is not None and state["loader_generator"] is not None:
        generator.set_state(state["loader_generator"])
    return int(state["done"])
