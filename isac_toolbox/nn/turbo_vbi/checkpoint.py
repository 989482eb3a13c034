"""Checkpoint of a fit: everything that changes, read back without unpickling code."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isac_toolbox.nn._checkpoints import load_model, loader_generator, read_state, write_state

if TYPE_CHECKING:
    from isac_toolbox.nn.turbo_vbi.compressor import TurboVBICompressor

__all__ = ["load", "save"]

_FORMAT = "isac-toolbox compression checkpoint 4"


def save(
    compressor: TurboVBICompressor, optimiser: Any, path: Path, done: int, epochs: int, loader: Any
) -> None:
    """Write the state after `done` epochs; a crash leaves the old file."""
    generator = loader_generator(loader)
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
        "history": [asdict(record) for record in compressor.history],
        "input_shape": list(compressor.input_shape or ()),
        "loader_generator": None if generator is None else generator.get_state(),
    }
    write_state(state, path)


def load(compressor: TurboVBICompressor, optimiser: Any, path: Path, epochs: int, loader: Any) -> int:
    """Restore the state; return the number of epochs done.

    Raises
    ------
    ValueError
        If the file is damaged, or belongs to other settings or another model.
    """
    from isac_toolbox.nn.turbo_vbi.trainer import EpochRecord

    state = read_state(path, _FORMAT, "a compression", compressor.describe_settings() | {"epochs": epochs})
    load_model(compressor.model, state, path)
    optimiser.load_state_dict(state["optimiser"])
    for name, prior in compressor.priors.items():
        prior.load_state_dict(state["priors"][name])
    for name, curvature in compressor.curvatures.items():
        stored = state["curvatures"][name]
        curvature.gradient.copy_(stored["gradient"])
        curvature.curvature.copy_(stored["curvature"])
        curvature.weight = stored["weight"]
    compressor.load_precisions()
    compressor.history = [EpochRecord(**{**r, "neurons": tuple(r["neurons"])}) for r in state["history"]]
    compressor.input_shape = tuple(state["input_shape"])
    generator = loader_generator(loader)
    if generator is not None and state["loader_generator"] is not None:
        generator.set_state(state["loader_generator"])
    return int(state["done"])
