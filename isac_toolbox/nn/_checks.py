"""Checks of arguments that only the networks need."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib import import_module
from typing import Any

import numpy as np

from isac_toolbox._validation import check_integer, check_positive

__all__ = [
    "check_choice",
    "check_fraction",
    "check_integer",
    "check_loader",
    "check_names",
    "check_positive",
    "import_optional",
]


def check_choice(name: str, value: Any, allowed: Sequence[str]) -> str:
    """Return `value` if it is one of `allowed`."""
    if value not in allowed:
        raise ValueError(f"{name} must be one of {tuple(allowed)}, got {value!r}")
    return str(value)


def check_fraction(name: str, value: Any, low_open: bool = True, high_open: bool = True) -> float:
    """Return a number between 0 and 1; the ends are allowed where they are not open."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)):
        raise TypeError(f"{name} must be a number between 0 and 1, got {value!r}")
    number = float(value)
    above = number > 0.0 if low_open else number >= 0.0
    below = number < 1.0 if high_open else number <= 1.0
    if not (above and below):
        interval = f"{'(' if low_open else '['}0, 1{')' if high_open else ']'}"
        raise ValueError(f"{name} must lie in {interval}, got {value!r}")
    return number


def check_names(name: str, given: Any, allowed: Iterable[str]) -> frozenset[str]:
    """Return names of layers as a set; each must be allowed."""
    known = list(allowed)
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise TypeError(f"{name} must be an iterable of names of layers among {known}, got {given!r}")
    names = frozenset(given)
    unknown = sorted(names - set(known), key=str)
    if unknown:
        raise ValueError(f"{name} names {unknown}, but the layers are {known}")
    return names


def check_loader(name: str, loader: Any) -> None:
    """Raise unless `loader` can be iterated again and again."""
    if not hasattr(loader, "__iter__") or hasattr(loader, "__next__"):
        raise TypeError(
            f"{name} must be a loader that can be iterated once per epoch (TensorLoader, DataLoader or a "
            f"list of (x, y) batches), got {type(loader).__name__}"
        )


def import_optional(module: str, package: str, extra: str, user: str) -> Any:
    """Import a module that `user` needs, or say how to get its package."""
    try:
        return import_module(module)
    except ImportError:
        raise ImportError(
            f"{user} needs {package}, which is not installed; "
            f'get it with: pip install "isac_toolbox[{extra}]"'
        ) from None
