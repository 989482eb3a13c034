"""Shapes of what a file of a result holds: keys that do not fit each other are refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

__all__ = ["check_result_shapes"]

#: Keys with their axes; an axis has the length that the first key gives it. Users without places are P = 0.
_SHAPES: dict[str, tuple[str | int, ...]] = {
    "channel": ("K", "N", "M"),
    "symbol_mean": ("K", "N", "T"),
    "scatterer_positions_m": ("S", 3),
    "user_positions_m": ("P", 3),
    **dict.fromkeys(("estimator", "noise_variance", "converged", "n_iter", "status", "reference_time_s"), ()),
    "channel_variance": ("K", "N", "M"),
    "symbol_decision": ("K", "N", "T"),
    "llr": ("K", "N", "T", "B"),
    "scatterer_probability": ("S",),
    "scatterer_covariance_m2": ("S", 3, 3),
    "scatterer_extent_m2": ("S", 3, 3),
    "scatterer_velocities_m_s": ("S", 3),
    "scatterer_velocity_covariance_m2_s2": ("S", 3, 3),
    "moving_probability": ("S",),
    "visibility_probability": ("K", "S"),
    "candidates.scatterer_positions_m": ("C", 3),
    "candidates.scatterer_probability": ("C",),
    "candidates.visibility_probability": ("K", "C"),
    "line_of_sight_probability": ("K",),
    "user_position_covariance_m2": ("P", 3, 3),
    "time_offsets_s": ("K",),
    "time_offset_std_s": ("K",),
    "unlocated_paths.user": ("U",),
    "unlocated_paths.direction_cosines": ("U", 2),
    "unlocated_paths.delay_s": ("U",),
    "unlocated_paths.gain": ("U",),
    "unlocated_paths.probability": ("U",),
    "history": ("I", 4),
    "ambiguities": ("A", 7),
    "misfit": ("X", 2),
    "misfit_parts": ("X",),
    "diffuse_power": ("K",),
    "diffuse_profile": ("K", "G"),
    "diffuse_delays_s": ("G",),
    "frequency_offsets_hz": ("K",),
    "frequency_offset_std_hz": ("K",),
    "symbol_phase_rad": ("T",),
    "user_symbol_phase_rad": ("K", "T"),
    "element_response": ("M",),
    "element_response_std": ("M",),
}


def check_result_shapes(path: str | Path, data: Mapping[str, NDArray[Any]]) -> None:
    """Compare the arrays of a file with each other.

    Raises
    ------
    ValueError
        Naming the file, the key, its shape and the one that fits the keys before it.
    """
    sizes: dict[str | int, int] = {2: 2, 3: 3, 4: 4, 7: 7}
    for key, axes in _SHAPES.items():
        if key not in data:
            continue
        found = data[key].shape
        if len(found) == len(axes):
            for axis, length in zip(axes, found, strict=True):
                sizes.setdefault(axis, length)
        wanted = tuple(sizes.get(axis, axis) for axis in axes)
        if found != wanted:
            names = ", ".join(map(str, axes))
            raise ValueError(f"{path}: {key} must have shape ({names}) = {wanted}, got {found}")
