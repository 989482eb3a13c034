"""Files of fitted posteriors: tensors as safetensors, everything else as JSON in their header."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

__all__ = ["read_state", "read_tensors", "with_suffix", "write_state"]

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
    target = with_suffix(path, ".safetensors")
    tensors: dict[str, Tensor] = {}
    plain = _without_tensors(dict(state), "", tensors)
    target.write_bytes(save(tensors, metadata={"format": content, "plain": json.dumps(plain)}))
    return target


def read_state(path: str | Path, content: str) -> dict[str, Any]:
    """Return what ``write_state`` wrote.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is damaged or of another format.
    """
    tensors, metadata = read_tensors(path, content)
    state: dict[str, Any] = _with_tensors(json.loads(metadata["plain"]), tensors)
    return state


def with_suffix(path: str | Path, suffix: str) -> Path:
    """Return a path, with the suffix added if it is missing."""
    target = Path(path)
    return target if target.suffix == suffix else target.with_name(f"{target.name}{suffix}")


def read_tensors(path: str | Path, content: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return tensors and metadata of a safetensors file whose format is ``content``.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is damaged or of another format.
    """
    source = Path(path)
    if not source.exists():
        raise FileNotFoundError(f"no such file: {source}")
    try:
        with safe_open(str(source), framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{source} is not a safetensors file: {error}") from None
    if metadata.get("format") != content:
        raise ValueError(f"{source} does not hold {content}, its format is {metadata.get('format')!r}")
    return tensors, metadata


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
