"""Files are written whole or not at all, and a bad one is refused by its name before it takes memory."""

from __future__ import annotations

import math
import os
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from isac_toolbox._interrupts import raise_interrupt

__all__ = ["check_regular", "check_size", "machine_bytes", "naming", "parse_toml", "read_small", "replacing"]

#: Guard: characters of a TOML text; the longest shipped scenario has 5,000.
_MOST_TOML = 1_000_000
#: Guard: tables and lists inside one another; a scenario needs three.
_DEEPEST_TOML = 16


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Yield a path beside ``target`` that takes its place when the block ends without an error.

    An interrupt, a full disk or a kill leaves the old file as it was. A link is followed.

    Raises
    ------
    PermissionError
        If there is a file that may not be written.
    """
    place = Path(os.path.realpath(target))
    if place.exists() and not os.access(place, os.W_OK):
        raise PermissionError(13, "no permission to write", str(target))
    part = place.with_name(f"{place.name}.{os.getpid()}.part")
    try:
        yield part
        os.replace(part, place)
    except Exception as error:
        raise_interrupt(error)  # zipfile makes another error of a Ctrl-C
        raise
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Put the file's name before errors of what it holds; an unforeseen one means that it is damaged."""
    try:
        yield
    except (ValueError, TypeError) as error:
        if str(path) in str(error):
            raise
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"{path}: {error}") from error
    except (LookupError, AttributeError, ArithmeticError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {error!r}") from error


def check_regular(source: Path, kind: str) -> None:
    """Refuse what is no file; a pipe, for example, could be waited for without end.

    Raises
    ------
    FileNotFoundError
        If there is nothing.
    ValueError
        If it is a folder, a pipe or a device.
    """
    if not source.exists():
        raise FileNotFoundError(f"no such file: {source}")
    if not source.is_file():
        what = "a folder" if source.is_dir() else "a pipe or a device"
        raise ValueError(f"{source} is not {kind} but {what}")


def check_size(source: Path, n_bytes: int) -> None:
    """Refuse contents that need more memory than the machine has.

    Raises
    ------
    MemoryError
        Naming the file and both sizes.
    """
    if n_bytes > machine_bytes():
        has = machine_bytes() / 2**30
        raise MemoryError(
            f"{source} says that it holds {n_bytes / 2**30:.3g} GiB; this machine has {has:.3g} GiB"
        )


def machine_bytes() -> float:
    """Return the memory of the machine; infinity where the system does not say."""
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, ValueError, OSError):
        return math.inf


def read_small(source: Path) -> bytes:
    """Return what a file of settings holds.

    Raises
    ------
    ValueError
        If it is far larger than settings are.
    """
    size = source.stat().st_size
    if size > _MOST_TOML:
        raise ValueError(f"{source} has {size} bytes, at most {_MOST_TOML} are read")
    return source.read_bytes()


def parse_toml(text: str) -> dict[str, Any]:
    """Parse a TOML text of bounded length and depth.

    Raises
    ------
    tomllib.TOMLDecodeError
        If it is too long, too deep, or no TOML.
    """
    if len(text) > _MOST_TOML:
        raise tomllib.TOMLDecodeError(f"it has {len(text)} characters, at most {_MOST_TOML} are read")
    too_deep = tomllib.TOMLDecodeError(f"its tables and lists are more than {_DEEPEST_TOML} deep")
    try:
        values = tomllib.loads(text)
    except RecursionError:
        raise too_deep from None
    if _depth(values) > _DEEPEST_TOML:
        raise too_deep
    return values


def _depth(value: Any) -> int:
    """Return how deep tables and lists stand inside one another, without recursion."""
    depth, level = 0, [value]
    while level:
        inner = [v for v in level if isinstance(v, (dict, list))]
        depth += bool(inner)
        level = [v for part in inner for v in (part.values() if isinstance(part, dict) else part)]
    return depth
