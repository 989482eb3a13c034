"""The arrays of a ray-traced file, checked against each other and against geometry."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from isac_toolbox._validation import as_array, as_indices, check_finite, check_non_negative, check_shape
from isac_toolbox.channel.geometry import unit_vectors
from isac_toolbox.channel.plausibility import check_path_delays

__all__ = ["TRACED_KEYS", "traced_arrays"]

TRACED_KEYS: dict[str, tuple[type, tuple[int | None, ...], str]] = {
    "bs_position_m": (float, (3,), "(3,)"),
    "ue_position_m": (float, (None, 3), "(K, 3)"),
    "path_ue": (int, (None,), "(P,)"),
    "path_depth": (int, (None,), "(P,)"),
    "path_gain": (complex, (None,), "(P,)"),
    "path_delay_s": (float, (None,), "(P,)"),
    "path_first_bounce_m": (float, (None, 3), "(P, 3)"),
}


def traced_arrays(name: str, given: Mapping[str, NDArray]) -> dict[str, NDArray]:
    """Return what a traced file holds, converted and checked.

    Parameters
    ----------
    name : str
        Of the file, for messages.
    given : mapping of str to ndarray
        At least ``TRACED_KEYS``.

    Returns
    -------
    dict of str to ndarray
        Without the paths of zero gain, which only pad.

    Raises
    ------
    TypeError, ValueError
        Naming the file, the key, what came and what is allowed.
    """
    data: dict[str, NDArray] = {}
    for key, (dtype, shape, meaning) in TRACED_KEYS.items():
        label = f"{name}: {key}"
        data[key] = as_indices(label, given[key]) if dtype is int else as_array(label, given[key], dtype)
        check_shape(label, data[key], shape, meaning)
    per_path = [key for key in TRACED_KEYS if key.startswith("path_")]
    n_paths = len(data["path_ue"])
    for key in per_path:
        if len(data[key]) != n_paths:
            raise ValueError(
                f"{name}: {key} must have one entry per path_ue ({n_paths}), got {len(data[key])}"
            )
    if not len(data["ue_position_m"]):
        raise ValueError(f"{name}: ue_position_m must hold at least one user, got none")
    carries = data["path_gain"] != 0
    data.update({key: data[key][carries] for key in per_path})
    for key in TRACED_KEYS:
        if key != "path_first_bounce_m":
            check_finite(f"{name}: {key}", data[key])
    _check_paths(name, data)
    return data


def _check_paths(name: str, data: dict[str, NDArray]) -> None:
    """Refuse paths of no user, of no depth, of no place, or with delays in another unit than their points."""
    user, depth, bounce = data["path_ue"], data["path_depth"], data["path_first_bounce_m"]
    users, bs = data["ue_position_m"], data["bs_position_m"]
    if user.size and (user.min() < 0 or user.max() >= len(users)):
        raise ValueError(f"{name}: path_ue must index ue_position_m (0..{len(users) - 1})")
    check_non_negative(f"{name}: path_depth", depth)
    if not np.all(np.isfinite(bounce[depth > 0])):
        raise ValueError(f"{name}: path_first_bounce_m must be finite wherever path_depth is above 0")
    sights = np.bincount(user[depth == 0], minlength=len(users))
    if np.any(sights > 1):
        raise ValueError(
            f"{name}: path_depth: a user has one line of sight (depth 0) at most, got "
            f"{sights.max()} of user(s) {np.flatnonzero(sights > 1).tolist()}"
        )
    check_non_negative(f"{name}: path_delay_s", data["path_delay_s"])
    known = depth <= 1
    first_m = np.where((depth == 0)[:, None], users[user], bounce)[known]
    length_m = unit_vectors(bs, first_m)[1] + unit_vectors(first_m, users[user[known]])[1]
    check_path_delays(f"{name}: path_delay_s", data["path_delay_s"][known], user[known], length_m)
