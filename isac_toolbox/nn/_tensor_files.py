"""Safetensors files with a checksum, written whole or not at all.

The format has none of its own, so that a single wrong bit of a weight would go unseen.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from isac_toolbox._files import check_regular, check_size, replacing

__all__ = ["TensorFile", "read_tensors", "write_tensors"]

_CHECKSUM = "sha256"
#: Guard: bytes of a header; one of a network of a thousand layers has a few hundred thousand.
_LONGEST_HEADER = 100_000_000


class TensorFile(NamedTuple):
    """What a file holds."""

    tensors: dict[str, Tensor]
    metadata: dict[str, str]


def write_tensors(path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Path:
    """Write tensors with words about them and a checksum of both.

    Parameters
    ----------
    path : path
        The suffix ``.safetensors`` is added if missing. A file that is there is replaced when the new one is
        whole.
    tensors : mapping of str to Tensor
    metadata : mapping of str to str

    Returns
    -------
    Path
    """
    target = Path(path)
    target = target if target.suffix == ".safetensors" else target.with_name(f"{target.name}.safetensors")
    kept = {name: value.contiguous() for name, value in tensors.items()}
    content = save(kept, metadata={**metadata, _CHECKSUM: _checksum(kept, metadata)})
    with replacing(target) as part:
        part.write_bytes(content)
    return target


def read_tensors(path: str | Path) -> TensorFile:
    """Read what :func:`write_tensors` wrote; files of earlier versions, without a checksum, are taken too.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is no safetensors file, or damaged.
    MemoryError
        If it is larger than the machine's memory.
    """
    source = Path(path)
    check_regular(source, "a safetensors file")
    _check_header(source)
    try:
        with safe_open(str(source), framework="pt") as file:
            metadata = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(f"{source} is not a safetensors file: {error}") from None
    stated = metadata.pop(_CHECKSUM, None)
    if stated is not None and stated != _checksum(tensors, metadata):
        raise ValueError(f"{source} is damaged: its checksum is not that of its contents")
    return TensorFile(tensors, metadata)


def _check_header(source: Path) -> None:
    """Refuse a header that says it is longer than the file."""
    size = source.stat().st_size
    check_size(source, size)
    with source.open("rb") as file:
        stated = int.from_bytes(file.read(8), "little")
    most = min(size - 8, _LONGEST_HEADER)
    if stated > most:
        raise ValueError(
            f"{source} is not a safetensors file: its header says {stated} bytes, at most {most} can be"
        )


def _checksum(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """Return the SHA-256 of names, kinds, shapes and bytes of the tensors and of the words about them."""
    found = hashlib.sha256()
    for name in sorted(metadata):
        found.update(repr((name, metadata[name])).encode())
    for name in sorted(tensors):
        value = tensors[name]
        found.update(repr((name, str(value.dtype), tuple(value.shape))).encode())
        found.update(value.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()
