"""Reading and writing npz files without pickled objects."""

from __future__ import annotations

import math
import tokenize
import zipfile
import zlib
from collections.abc import Container, Iterable, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from isac_toolbox._files import check_regular, check_size, replacing

__all__ = ["read", "read_array", "require", "write"]

# what NumPy and zipfile raise on a truncated, altered or unrelated file
_DAMAGED = (
    ValueError,
    TypeError,
    OSError,
    EOFError,
    KeyError,
    RuntimeError,
    SyntaxError,
    OverflowError,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)
# first bytes of a single array and of an archive
_ARRAY, _ZIP = b"\x93NUMPY", b"PK"
# Mathematics: no deflated stream is longer than this many times its code.
_MOST_DEFLATED = 1032
# readers of an array's header by version of the format; the third is for names that no field here has
_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


def write(path: str | Path, kind: str, arrays: Mapping[str, Any]) -> Path:
    """Write ``arrays`` and the file's ``format`` to ``path`` (``.npz`` is added if missing).

    A file that is there is replaced when the new one is whole.
    """
    target = Path(path)
    if target.suffix.lower() != ".npz":
        target = target.with_name(target.name + ".npz")
    stored = {name: np.asarray(value) for name, value in arrays.items()}
    objects = [name for name, value in stored.items() if value.dtype == object]
    if objects:
        raise TypeError(f"cannot store object arrays: {', '.join(objects)}")
    with replacing(target) as part, part.open("wb") as file:
        np.savez_compressed(file, format=f"isac-toolbox {kind} 1", **stored)  # type: ignore[arg-type]
    return target


def read(path: str | Path, kind: str, required: Iterable[str]) -> dict[str, NDArray[Any]]:
    """Read every array of an npz file, never unpickling.

    Sizes that the file states are checked before memory is taken.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is not an npz, misses keys, or holds pickled objects; the message names them.
    MemoryError
        If its arrays are larger than the machine's memory.
    """
    source = Path(path)
    with _open(source) as archive:
        members = {_key(member): member for member in archive.infolist()}
        require(source, kind, members, required)
        _check_sizes(source, archive)
        data = {name: _member(source, archive, member) for name, member in members.items()}
    _check_format(source, kind, data)
    return data


def read_array(path: str | Path, key: str) -> NDArray[Any]:
    """Read one array of any npz file, or the array of an npy file, never unpickling.

    Raises
    ------
    FileNotFoundError, ValueError, MemoryError
        As :func:`read`.
    """
    source = Path(path)
    if source.suffix.lower() == ".npy":
        check_regular(source, "an npy file")
        return _single(source)
    with _open(source) as archive:
        members = {_key(member): member for member in archive.infolist()}
        if key not in members:
            raise ValueError(f"{source} must hold {key!r}, got {sorted(members)}")
        _check_sizes(source, archive)
        return _member(source, archive, members[key])


def require(path: str | Path, kind: str, present: Container[str], required: Iterable[str]) -> None:
    """Raise ``ValueError`` if keys that a file needs are not present."""
    missing = [name for name in required if name not in present]
    if missing:
        raise ValueError(f"{path} misses the key(s) {', '.join(missing)} of a saved {kind}")


def _open(source: Path) -> zipfile.ZipFile:
    """Open an npz file; say what another file is, where its first bytes tell."""
    check_regular(source, "an npz file")
    with source.open("rb") as file:
        start = file.read(8)
    if start.startswith(_ARRAY):
        raise ValueError(f"{source} is not an npz file but a single array")
    if not start.startswith(_ZIP):
        raise ValueError(f"{source} is not an npz file: it starts with {start!r}, not with {_ZIP!r}")
    try:
        return zipfile.ZipFile(source)
    except _DAMAGED as error:
        raise ValueError(f"{source} is not an npz file: {error}") from None


def _key(member: zipfile.ZipInfo) -> str:
    return member.filename.removesuffix(".npy")


def _check_sizes(source: Path, archive: zipfile.ZipFile) -> None:
    """Refuse stated sizes that the file's bytes cannot have, and more than the machine can hold."""
    stated = sum(member.file_size for member in archive.infolist())
    if stated > _MOST_DEFLATED * source.stat().st_size:
        raise ValueError(f"{source} is damaged: {stated} bytes do not come out of {source.stat().st_size}")
    check_size(source, stated)


def _member(source: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> NDArray[Any]:
    """Read one array, after a look at what its header says."""
    key = _key(member)
    try:
        with archive.open(member) as file:
            problem = _problem(file, member.file_size)
        if problem:
            raise ValueError(problem)
        with archive.open(member) as file:
            array: NDArray[Any] = npy.read_array(file, allow_pickle=False)
        return array
    except _DAMAGED as error:
        raise ValueError(f"{source}: {key} cannot be read: {error}") from None


def _single(source: Path) -> NDArray[Any]:
    """Read a file of one array."""
    try:
        with source.open("rb") as file:
            problem = _problem(file, source.stat().st_size)
            if problem:
                raise ValueError(problem)
            check_size(source, source.stat().st_size)
            file.seek(0)
            array: NDArray[Any] = npy.read_array(file, allow_pickle=False)
        return array
    except _DAMAGED as error:
        raise ValueError(f"{source} cannot be read: {error}") from None


def _problem(file: IO[bytes], n_bytes: int) -> str:
    """Return what is wrong with the header of an array that takes ``n_bytes`` with it; empty if nothing."""
    if file.read(len(_ARRAY)) != _ARRAY:
        return "it is no array; an npz file holds arrays alone"
    version = tuple(file.read(2))
    if version not in _HEADERS:
        return f"its format has version {version}, known are {', '.join(map(str, _HEADERS))}"
    shape, _, dtype = _HEADERS[version](file)
    if dtype.hasobject:
        return "it holds pickled objects, which are never loaded"
    stated = math.prod(shape) * dtype.itemsize
    held = n_bytes - file.tell()
    return "" if stated == held else f"its header says {stated} bytes for shape {shape}, it has {held}"


def _check_format(source: Path, kind: str, data: Mapping[str, NDArray[Any]]) -> None:
    """Refuse a file that says it is of another kind, or of a version that is not known."""
    found, wanted = str(data.get("format", "")), f"isac-toolbox {kind} 1"
    if found.startswith("isac-toolbox ") and found != wanted:
        raise ValueError(f"{source} has format {found!r}, not {wanted!r}")
