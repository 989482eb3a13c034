"""Argument checks of the inference package: an error names the argument, what came, what is allowed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def real_vector(name: str, value: Any, size: int | None = None) -> np.ndarray:
    """Return `value` as a finite float64 vector.

    Parameters
    ----------
    name : str
        Argument name used in the message.
    value : array_like
        One-dimensional real data.
    size : int, optional
        Required length.

    Returns
    -------
    ndarray, shape (n,)

    Raises
    ------
    TypeError
        If the data is complex or not numeric.
    ValueError
        If it is not one-dimensional, of another length, or not finite.
    """
    array = np.asarray(value)
    if array.dtype.kind not in "buif":
        raise TypeError(f"{name} must be real numbers, got dtype {array.dtype}")
    if array.ndim != 1 or (size is not None and array.size != size):
        wanted = "(n,)" if size is None else f"({size},)"
        raise ValueError(f"{name} must have shape {wanted}, got {array.shape}")
    if not np.all(np.isfinite(array)):
        raise ValueError(f"{name} must be finite, got NaN or infinite entries")
    return np.ascontiguousarray(array, dtype=np.float64)


def probabilities(name: str, value: Any, sizes: tuple[int, ...] = ()) -> float | np.ndarray:
    """Return a probability in [0, 1]: a float, or a vector whose length is one of `sizes`.

    Raises
    ------
    TypeError
        If the data is not real.
    ValueError
        If a value lies outside [0, 1] or the length is not allowed.
    """
    array = np.asarray(value)
    if array.dtype.kind not in "buif":
        raise TypeError(f"{name} must be real numbers, got dtype {array.dtype}")
    if array.ndim > 0 and (array.ndim != 1 or array.size not in sizes):
        allowed = " or ".join(["a scalar", *(f"({s},)" for s in dict.fromkeys(sizes))])
        raise ValueError(f"{name} must have shape {allowed}, got {array.shape}")
    if not np.all((array >= 0.0) & (array <= 1.0)):
        raise ValueError(f"{name} must lie in [0, 1], got {value!r}")
    return float(array) if array.ndim == 0 else array.astype(np.float64)


def pseudo_counts(name: str, value: Any) -> tuple[float, float]:
    """Return Beta pseudo-counts `(a, b)`, both finite and non-negative.

    Raises
    ------
    ValueError
        If `value` is not such a pair.
    """
    pair = np.asarray(value, dtype=np.float64)
    if pair.shape != (2,) or not np.all(np.isfinite(pair)) or np.any(pair < 0.0):
        raise ValueError(f"{name} must be two finite non-negative numbers, got {value!r}")
    return float(pair[0]), float(pair[1])


def positive_scalar(name: str, value: Any) -> float:
    """Return a finite, strictly positive float.

    Raises
    ------
    TypeError
        If `value` is not a real scalar.
    ValueError
        If it is not finite and positive.
    """
    array = np.asarray(value)
    if array.ndim != 0 or array.dtype.kind not in "buif":
        raise TypeError(f"{name} must be a real scalar, got {value!r}")
    if not (np.isfinite(array) and array > 0):
        raise ValueError(f"{name} must be finite and positive, got {value!r}")
    return float(array)


def whole_number(name: str, value: Any, minimum: int = 1) -> int:
    """Return an integer of at least `minimum`.

    Raises
    ------
    TypeError
        If `value` is not an integer.
    ValueError
        If it is below `minimum`.
    """
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    if value < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {value!r}")
    return int(value)


def group_sizes_vector(value: Sequence[int] | np.ndarray) -> np.ndarray:
    """Validate group sizes: a vector of integers, each at least 1, possibly empty."""
    sizes = np.asarray(value)
    if sizes.size == 0 and sizes.ndim == 1:
        return np.zeros(0, dtype=np.int64)
    if sizes.dtype.kind not in "iu":
        raise TypeError(f"group_sizes must be integers, got dtype {sizes.dtype}")
    if sizes.ndim != 1 or np.any(sizes < 1):
        raise ValueError(f"group_sizes must be a vector of integers of at least 1, got {value!r}")
    return sizes.astype(np.int64)


def tie_labels(value: Sequence[int] | np.ndarray, n: int) -> np.ndarray:
    """Validate tie labels: (n,) non-negative integers."""
    labels = np.asarray(value)
    if labels.shape != (n,):
        raise ValueError(f"tie must have shape ({n},), got {labels.shape}")
    if n == 0:
        return np.zeros(0, dtype=np.int64)
    if labels.dtype.kind not in "iu":
        raise TypeError(f"tie must be integers, got dtype {labels.dtype}")
    if np.any(labels < 0):
        raise ValueError("tie must be non-negative labels, got a negative one")
    return labels.astype(np.int64)


def observations(y: Any, m: int) -> np.ndarray:
    """Validate the observations: a finite vector of length m that is not all zero."""
    data = np.asarray(y)
    if data.dtype.kind not in "buifc":
        raise TypeError(f"y must be numeric, got dtype {data.dtype}")
    if data.shape != (m,):
        raise ValueError(f"y must have shape ({m},), one entry per row of A, got {data.shape}")
    if not np.all(np.isfinite(data)):
        raise ValueError("y must be finite, got NaN or infinite entries")
    if not np.any(data):
        raise ValueError("y must not be all zero")
    return data.astype(np.complex128 if data.dtype.kind == "c" else np.float64)


def working_set_limit(max_active: Any, m: int, n: int) -> int:
    """Validate the largest working set; by default n if n <= m, otherwise 3/4 of m."""
    if max_active is None:
        return n if n <= m else max(1, (3 * m) // 4)
    return min(n, whole_number("max_active", max_active))


def grid_shape(name: str, value: int | Sequence[int]) -> tuple[int, ...]:
    """Validate a grid shape: one to three sizes, each at least 1; an integer is one axis."""
    sizes = (value,) if isinstance(value, (int, np.integer)) else value
    if isinstance(sizes, str) or not isinstance(sizes, (Sequence, np.ndarray)):
        raise TypeError(f"{name} must be an integer or a sequence of integers, got {value!r}")
    if not 1 <= len(sizes) <= 3:
        raise ValueError(f"{name} must have one to three axes, got {len(sizes)}")
    return tuple(whole_number(f"{name}[{a}]", size) for a, size in enumerate(sizes))


def axis_couplings(name: str, value: Any, n_axes: int, limit: float) -> float | np.ndarray:
    """Return couplings in [0, limit]: a float, or a vector with one per axis.

    Raises
    ------
    TypeError
        If the data is not real.
    ValueError
        If a value lies outside the range or the length is not allowed.
    """
    array = np.asarray(value)
    if array.dtype.kind not in "buif":
        raise TypeError(f"{name} must be real numbers, got dtype {array.dtype}")
    if array.ndim > 0 and array.shape != (n_axes,):
        raise ValueError(f"{name} must have shape a scalar or ({n_axes},), got {array.shape}")
    if not np.all((array >= 0.0) & (array <= limit)):
        raise ValueError(f"{name} must lie in [0, {limit:g}], got {value!r}")
    return float(array) if array.ndim == 0 else array.astype(np.float64)


def fraction(name: str, value: Any) -> float:
    """Return a float in [0, 1).

    Raises
    ------
    TypeError
        If `value` is not a real scalar.
    ValueError
        If it lies outside the range.
    """
    array = np.asarray(value)
    if array.ndim != 0 or array.dtype.kind not in "buif":
        raise TypeError(f"{name} must be a real scalar, got {value!r}")
    if not 0.0 <= array < 1.0:
        raise ValueError(f"{name} must lie in [0, 1), got {value!r}")
    return float(array)
