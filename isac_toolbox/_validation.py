"""Checks of arguments: every message names the argument, what came and what is allowed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["as_array", "check_finite", "check_integer", "check_non_negative", "check_positive", "check_shape"]


def as_array(name: str, value: Any, dtype: type) -> NDArray[Any]:
    """Convert ``value`` to an array of ``dtype``; a failure names the argument."""
    try:
        raw = np.asarray(value)
    except ValueError:
        raise ValueError(f"{name} must be a regular array, got rows of different lengths") from None
    if raw.dtype == object or raw.dtype.kind in "USV":
        raise TypeError(f"{name} must be numeric, got an array of dtype {raw.dtype}")
    if np.iscomplexobj(raw) and dtype is float:
        raise TypeError(f"{name} must be real, got dtype {raw.dtype}")
    return np.ascontiguousarray(raw, dtype=dtype) if raw.ndim else raw.astype(dtype)


def check_finite(name: str, value: NDArray[Any]) -> None:
    """Raise if any entry is NaN or infinite."""
    bad = int(np.size(value) - np.count_nonzero(np.isfinite(value)))
    if bad:
        raise ValueError(f"{name} must be finite, got {bad} NaN or infinite value(s) of {np.size(value)}")


def check_shape(name: str, value: NDArray[Any], shape: Sequence[int | None], meaning: str) -> None:
    """Raise unless ``value.shape`` equals ``shape`` (None matches any length)."""
    ok = value.ndim == len(shape) and all(s is None or s == n for s, n in zip(shape, value.shape))
    if not ok:
        wanted = "(" + ", ".join("any" if s is None else str(s) for s in shape) + ")"
        raise ValueError(f"{name} must have shape {meaning} = {wanted}, got {value.shape}")


def check_non_negative(name: str, value: NDArray[Any] | float) -> None:
    """Raise if any entry is negative."""
    if np.any(np.asarray(value) < 0):
        raise ValueError(f"{name} must be non-negative, got {np.min(value)}")


def check_positive(name: str, value: Any) -> None:
    """Raise unless the number is finite and above zero."""
    if isinstance(value, (bool, str, bytes, complex)) or not isinstance(value, (int, float, np.number)):
        raise TypeError(f"{name} must be a positive number, got {value!r}")
    number = float(value)
    if not (np.isfinite(number) and number > 0):
        raise ValueError(f"{name} must be a positive number, got {value!r}")


def check_integer(name: str, value: Any, minimum: int) -> int:
    """Return ``value`` as an int of at least ``minimum``."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} must be an integer of at least {minimum}, got {value!r}")
    if value < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {value}")
    return int(value)
