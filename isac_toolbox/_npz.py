"""Reading and writing npz files without pickled objects."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Container, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["read", "require", "write"]

# what NumPy and zipfile raise on a truncated, altered or unrelated file
_DAMAGED = (ValueError, OSError, EOFError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error)
# first bytes of a single array and of an archive
_ARRAY, _ZIP = b"\x93NUMPY", b"PK"


def write(path: str | Path, kind: str, arrays: Mapping[str, Any]) -> Path:
    """Write ``arrays`` and the file's ``format`` to ``path`` (``.npz`` is added if missing)."""
    target = Path(path)
    if target.suffix.lower() != ".npz":
        target = target.with_name(target.name + ".npz")
    stored = {name: np.asarray(value) for name, value in arrays.items()}
    objects = [name for name, value in stored.items() if value.dtype == object]
    if objects:
        raise TypeError(f"cannot store object arrays: {', '.join(objects)}")
    with target.open("wb") as file:
        np.savez_compressed(file, format=f"isac-toolbox {kind} 1", **stored)  # type: ignore[arg-type]
    return target


def read(path: str | Path, kind: str, required: Iterable[str]) -> dict[str, NDArray[Any]]:
    """Read every array of an npz file, never unpickling.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is not an npz, misses keys, or holds pickled objects; the message names them.
    """
    source = Path(path)
    with _open(source) as archive:
        require(source, kind, archive.files, required)
        data: dict[str, NDArray[Any]] = {}
        for name in archive.files:
            try:
                data[name] = archive[name]
            except _DAMAGED as error:
                raise ValueError(f"{source}: cannot read key {name} ({error})") from None
            if not isinstance(data[name], np.ndarray):
                raise ValueError(f"{source}: {name} is no array; an npz file holds arrays alone")
    _check_format(source, kind, data)
    return data


def require(path: str | Path, kind: str, present: Container[str], required: Iterable[str]) -> None:
    """Raise ``ValueError`` if keys that a file needs are not present."""
    missing = [name for name in required if name not in present]
    if missing:
        raise ValueError(f"{path} misses the key(s) {', '.join(missing)} of a saved {kind}")


def _open(source: Path) -> np.lib.npyio.NpzFile:
    """Open an npz file; say what another file is, where its first bytes tell."""
    if not source.exists():
        raise FileNotFoundError(f"no such file: {source}")
    if source.is_dir():
        raise ValueError(f"{source} is not an npz file but a folder")
    with source.open("rb") as file:
        start = file.read(8)
    if start.startswith(_ARRAY):
        raise ValueError(f"{source} is not an npz file but a single array")
    if not start.startswith(_ZIP):
        raise ValueError(f"{source} is not an npz file: it starts with {start!r}, not with {_ZIP!r}")
    try:
        archive: np.lib.npyio.NpzFile = np.load(source, allow_pickle=False)
    except _DAMAGED as error:
        raise ValueError(f"{source} is not an npz file: {error}") from None
    return archive


def _check_format(source: Path, kind: str, data: Mapping[str, NDArray[Any]]) -> None:
    """Refuse a file that says it is of another kind, or of a version that is not known."""
    found, wanted = str(data.get("format", "")), f"isac-toolbox {kind} 1"
    if found.startswith("isac-toolbox ") and found != wanted:
        raise ValueError(f"{source} has format {found!r}, not {wanted!r}")
