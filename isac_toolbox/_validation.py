"""Checks of arguments: every message names the argument, what came and what is allowed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "SMALLEST_DEVIATION",
    "as_array",
    "as_indices",
    "as_scalar",
    "check_axis_couplings",
    "check_choice",
    "check_deviations",
    "check_finite",
    "check_flag",
    "check_fraction",
    "check_grid_shape",
    "check_group_sizes",
    "check_has",
    "check_integer",
    "check_loader",
    "check_magnitude",
    "check_names",
    "check_non_negative",
    "check_observations",
    "check_positive",
    "check_probabilities",
    "check_pseudo_counts",
    "check_real_vector",
    "check_shape",
    "check_working_set_limit",
    "import_optional",
    "without_mask",
]

#: Standard deviations below it, zero aside, are refused: variances and precisions of two of them multiply.
SMALLEST_DEVIATION = 1e-50


def without_mask(name: str, value: Any) -> Any:
    """Return ``value``; a masked array with masked entries is refused, as they would be used unseen."""
    if isinstance(value, np.ma.MaskedArray):
        if np.ma.is_masked(value):
            raise TypeError(
                f"{name} must be a plain array, got a masked one with {np.ma.count_masked(value)} masked "
                f"entries of {value.size}; leave them out or fill them"
            )
        return value.data
    return value


def as_array(name: str, value: Any, dtype: type) -> NDArray[Any]:
    """Convert ``value`` to an array of ``dtype``; a failure names the argument."""
    try:
        raw = np.asarray(without_mask(name, value))
    except ValueError:
        raise ValueError(f"{name} must be a regular array, got rows of different lengths") from None
    if raw.dtype == object or raw.dtype.kind in "USV":
        raise TypeError(f"{name} must be numeric, got an array of dtype {raw.dtype}")
    if np.iscomplexobj(raw) and dtype is float:
        raise TypeError(f"{name} must be real, got dtype {raw.dtype}")
    return np.ascontiguousarray(raw, dtype=dtype) if raw.ndim else raw.astype(dtype)


def as_indices(name: str, value: Any) -> NDArray[np.int64]:
    """Convert ``value`` to an array of integers; floats and booleans are refused, nothing is any type."""
    try:
        raw = np.asarray(value)
    except ValueError:
        raise ValueError(f"{name} must be a regular array, got rows of different lengths") from None
    if raw.size and raw.dtype.kind not in "iu":
        raise TypeError(f"{name} must hold integers, got dtype {raw.dtype}")
    return np.ascontiguousarray(raw, dtype=np.int64) if raw.ndim else raw.astype(np.int64)


def check_finite(name: str, value: NDArray[Any]) -> None:
    """Raise if any entry is NaN or infinite."""
    bad = int(np.size(value) - np.count_nonzero(np.isfinite(value)))
    if bad:
        raise ValueError(f"{name} must be finite, got {bad} NaN or infinite value(s) of {np.size(value)}")


def check_magnitude(name: str, value: NDArray[Any], largest: float) -> None:
    """Raise if the magnitude of any entry is larger."""
    found = float(np.max(np.abs(value), initial=0.0))
    if found > largest:
        raise ValueError(f"{name} must not be beyond {largest:g}, got a magnitude of {found:.4g}")


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


def check_deviations(name: str, value: NDArray[Any] | float) -> None:
    """Raise if any standard deviation is negative, or so near zero that its square is no number of use."""
    check_non_negative(name, value)
    smallest = float(np.min(value, where=np.asarray(value) > 0, initial=np.inf))
    if smallest < SMALLEST_DEVIATION:
        raise ValueError(f"{name} must be zero or at least {SMALLEST_DEVIATION:g}, got {smallest:.4g}")


def check_has(name: str, value: Any, kind: str, attributes: Iterable[str]) -> None:
    """Raise unless ``value`` has what is read of it; ``kind`` says in words what does."""
    missing = [attribute for attribute in attributes if not hasattr(value, attribute)]
    if missing:
        raise TypeError(f"{name} must be {kind}, got {type(value).__name__} without {', '.join(missing)}")


def as_scalar(value: Any) -> Any:
    """Return the number that an array of no dimension holds, as files and reductions give them."""
    is_scalar = isinstance(value, (np.ndarray, np.generic)) and value.ndim == 0
    return value.item() if is_scalar else value


def check_positive(name: str, value: Any) -> float:
    """Return a finite number above zero as a float; booleans and arrays are refused."""
    if isinstance(value, (bool, str, bytes, complex)) or not isinstance(value, (int, float, np.number)):
        raise TypeError(f"{name} must be a positive number, got {value!r}")
    number = float(value)
    if not (np.isfinite(number) and number > 0):
        raise ValueError(f"{name} must be a positive number, got {value!r}")
    return number


def check_integer(name: str, value: Any, minimum: int = 1) -> int:
    """Return ``value`` as an int of at least ``minimum``."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} must be an integer of at least {minimum}, got {value!r}")
    if value < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {value}")
    return int(value)


def check_flag(name: str, value: Any) -> bool:
    """Return ``value`` if it is True or False."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return value


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


def check_real_vector(name: str, value: Any, size: int | None = None) -> np.ndarray:
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
    array = np.asarray(without_mask(name, value))
    if array.dtype.kind not in "buif":
        raise TypeError(f"{name} must be real numbers, got dtype {array.dtype}")
    if array.ndim != 1 or (size is not None and array.size != size):
        wanted = "(n,)" if size is None else f"({size},)"
        raise ValueError(f"{name} must have shape {wanted}, got {array.shape}")
    if not np.all(np.isfinite(array)):
        raise ValueError(f"{name} must be finite, got NaN or infinite entries")
    return np.ascontiguousarray(array, dtype=np.float64)


def check_probabilities(name: str, value: Any, sizes: tuple[int, ...] = ()) -> float | np.ndarray:
    """Return a probability in [0, 1]: a float, or a vector whose length is one of `sizes`.

    Raises
    ------
    TypeError
        If the data is not real.
    ValueError
        If a value lies outside [0, 1] or the length is not allowed.
    """
    array = np.asarray(without_mask(name, value))
    if array.dtype.kind not in "buif":
        raise TypeError(f"{name} must be real numbers, got dtype {array.dtype}")
    if array.ndim > 0 and (array.ndim != 1 or array.size not in sizes):
        allowed = " or ".join(["a scalar", *(f"({s},)" for s in dict.fromkeys(sizes))])
        raise ValueError(f"{name} must have shape {allowed}, got {array.shape}")
    if not np.all((array >= 0.0) & (array <= 1.0)):
        raise ValueError(f"{name} must lie in [0, 1], got {value!r}")
    return float(array) if array.ndim == 0 else array.astype(np.float64)


def check_pseudo_counts(name: str, value: Any) -> tuple[float, float]:
    """Return Beta pseudo-counts `(a, b)`, both finite and non-negative.

    Raises
    ------
    ValueError
        If `value` is not such a pair.
    """
    pair = np.asarray(without_mask(name, value), dtype=np.float64)
    if pair.shape != (2,) or not np.all(np.isfinite(pair)) or np.any(pair < 0.0):
        raise ValueError(f"{name} must be two finite non-negative numbers, got {value!r}")
    return float(pair[0]), float(pair[1])


def check_group_sizes(value: Sequence[int] | np.ndarray) -> np.ndarray:
    """Validate group sizes: a vector of integers, each at least 1, possibly empty."""
    sizes = np.asarray(without_mask("group_sizes", value))
    if sizes.size == 0 and sizes.ndim == 1:
        return np.zeros(0, dtype=np.int64)
    if sizes.dtype.kind not in "iu":
        raise TypeError(f"group_sizes must be integers, got dtype {sizes.dtype}")
    if sizes.ndim != 1 or np.any(sizes < 1):
        raise ValueError(f"group_sizes must be a vector of integers of at least 1, got {value!r}")
    return sizes.astype(np.int64)


def check_observations(y: Any, m: int) -> np.ndarray:
    """Validate the observations: a finite vector of length m that is not all zero."""
    data = np.asarray(without_mask("y", y))
    if data.dtype.kind not in "buifc":
        raise TypeError(f"y must be numeric, got dtype {data.dtype}")
    if data.shape != (m,):
        raise ValueError(f"y must have shape ({m},), one entry per row of A, got {data.shape}")
    if not np.all(np.isfinite(data)):
        raise ValueError("y must be finite, got NaN or infinite entries")
    if not np.any(data):
        raise ValueError("y must not be all zero")
    return data.astype(np.complex128 if data.dtype.kind == "c" else np.float64)


def check_working_set_limit(max_active: Any, m: int, n: int) -> int:
    """Validate the largest working set; by default n if n <= m, otherwise 3/4 of m."""
    if max_active is None:
        return n if n <= m else max(1, (3 * m) // 4)
    return min(n, check_integer("max_active", max_active))


def check_grid_shape(name: str, value: int | Sequence[int]) -> tuple[int, ...]:
    """Validate a grid shape: one to three sizes, each at least 1; an integer is one axis."""
    sizes = (value,) if isinstance(value, (int, np.integer)) else value
    if isinstance(sizes, str) or not isinstance(sizes, (Sequence, np.ndarray)):
        raise TypeError(f"{name} must be an integer or a sequence of integers, got {value!r}")
    if not 1 <= len(sizes) <= 3:
        raise ValueError(f"{name} must have one to three axes, got {len(sizes)}")
    return tuple(check_integer(f"{name}[{a}]", size) for a, size in enumerate(sizes))


def check_axis_couplings(name: str, value: Any, n_axes: int, limit: float) -> float | np.ndarray:
    """Return couplings in [0, limit]: a float, or a vector with one per axis.

    Raises
    ------
    TypeError
        If the data is not real.
    ValueError
        If a value lies outside the range or the length is not allowed.
    """
    array = np.asarray(without_mask(name, value))
    if array.dtype.kind not in "buif":
        raise TypeError(f"{name} must be real numbers, got dtype {array.dtype}")
    if array.ndim > 0 and array.shape != (n_axes,):
        raise ValueError(f"{name} must have shape a scalar or ({n_axes},), got {array.shape}")
    if not np.all((array >= 0.0) & (array <= limit)):
        raise ValueError(f"{name} must lie in [0, {limit:g}], got {value!r}")
    return float(array) if array.ndim == 0 else array.astype(np.float64)
