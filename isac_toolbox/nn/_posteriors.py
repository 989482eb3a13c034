"""Files of fitted posteriors: tensors as safetensors, everything else as JSON in their header."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from isac_toolbox._files import naming
from isac_toolbox.nn._tensor_files import read_tensors, write_tensors

__all__ = ["read_state", "write_state"]

_SEPARATOR = "/"


def write_state(path: str | Path, content: str, state: Mapping[str, Any]) -> Path:
    """Write nested dicts and lists of tensors and plain values.

    Parameters
    ----------
    path : path
        A safetensors file; the suffix is added if missing.
    content : str
        Name of the format.
    state : mapping
        What ``read_state`` returns.

    Returns
    -------
    Path
    """
    tensors: dict[str, Tensor] = {}
    plain = _without_tensors(dict(state), "", tensors)
    return write_tensors(path, tensors, {"format": content, "plain": json.dumps(plain)})


def read_state(path: str | Path, content: str) -> dict[str, Any]:
    """Return what ``write_state`` wrote.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is damaged or of another format.
    """
    tensors, metadata = read_tensors(path)
    if metadata.get("format") != content:
        raise ValueError(f"{path} does not hold {content}, its format is {metadata.get('format')!r}")
    with naming(path):
        state: dict[str, Any] = _with_tensors(json.loads(metadata["plain"]), tensors)
    return state


def _without_tensors(value: Any, key: str, tensors: dict[str, Tensor]) -> Any:
    """Return nested collections in which the tensors are replaced by their keys."""
    if isinstance(value, Tensor):
        tensors[key] = value.detach().cpu().contiguous().clone()
        return {"tensor": key}
    if isinstance(value, Mapping):
        items = {name: _without_tensors(v, f"{key}{_SEPARATOR}{name}", tensors) for name, v in value.items()}
        return {"items": items}
    if isinstance(value, (list, tuple)):
        return [_without_tensors(v, f"{key}{_SEPARATOR}{i}", tensors) for i, v in enumerate(value)]
    return value


def _with_tensors(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Return nested collections with their tensors."""
    if isinstance(value, list):
        return [_with_tensors(v, tensors) for v in value]
    if not isinstance(value, dict):
        return value
    if "tensor" in value:
        return torch.as_tensor(tensors[value["tensor"]])
    return {name: _with_tensors(v, tensors) for name, v in value["items"].items()}
