"""What checkpoints of both trainings share: safe reading, whole files only, settings that must agree."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import torch
from torch import nn

__all__ = ["load_model", "loader_generator", "read_state", "write_state"]


def loader_generator(loader: Any) -> torch.Generator | None:
    """The generator that a loader shuffles with, where it has one."""
    generator = getattr(loader, "generator", None)
    return generator if isinstance(generator, torch.Generator) else None


def write_state(state: dict[str, Any], path: Path) -> None:
    """Write a state; a crash leaves the old file."""
    temporary = path.with_name(path.name + ".part")
    torch.save(state, temporary)
    os.replace(temporary, path)


def read_state(path: Path, format_name: str, what: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Read a state without unpickling code.

    Raises
    ------
    ValueError
        If the file is damaged, is not a checkpoint of `what`, or belongs to other settings (named).
    """
    try:
        state = torch.load(path, weights_only=True)
    except (RuntimeError, OSError, EOFError, pickle.UnpicklingError) as error:
        raise ValueError(f"checkpoint {path} cannot be read: {error}") from None
    if not isinstance(state, dict) or state.get("format") != format_name:
        raise ValueError(f"checkpoint {path} is not a checkpoint of {what}")
    stored = state["settings"]
    different = [name for name, value in settings.items() if stored.get(name) != value]
    if different:
        text = ", ".join(f"{n} = {settings[n]!r} (file: {stored.get(n)!r})" for n in different)
        raise ValueError(f"checkpoint {path} belongs to other settings: {text}")
    return state


def load_model(model: nn.Module, state: dict[str, Any], path: Path) -> None:
    """Put the stored weights into a model; a ValueError where they are another model's."""
    try:
        model.load_state_dict(state["model"])
    except RuntimeError as error:
        raise ValueError(f"checkpoint {path} belongs to another model: {error}") from None
