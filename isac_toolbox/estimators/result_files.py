"""Files of results: one npz array per field, nothing pickled."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isac_toolbox import _npz
from isac_toolbox.channel.evolution import ChannelEvolution
from isac_toolbox.channel.paths import UnlocatedPaths
from isac_toolbox.estimators.result_parts import (
    Ambiguity,
    Candidates,
    ElementInformation,
    Misfit,
    MisfitAxis,
    SceneInformation,
)
from isac_toolbox.estimators.result_shapes import check_result_shapes
from isac_toolbox.inference.turbo import History, IterationRecord

__all__ = ["read_result", "write_result"]

RealArray = NDArray[np.float64]

_KIND = "estimation-result"
_NESTED = (Candidates, UnlocatedPaths, ChannelEvolution, SceneInformation, ElementInformation)
_DIFFUSE = ("diffuse_power", "diffuse_profile", "diffuse_delays_s")
_MOTION = (
    "element_response",
    "element_response_std",
    "silent_elements",
    "coupling_matrix",
    "coupling_matrix_std",
    "iq_images",
    "iq_image_std",
    "user_iq_images",
    "user_iq_image_std",
    "noise_covariance",
    "interferer_directions",
    "interferer_power",
    "frequency_offsets_hz",
    "frequency_offset_std_hz",
    "user_velocities_m_s",
    "user_velocity_covariance_m2_s2",
    "scatterer_velocities_m_s",
    "scatterer_velocity_covariance_m2_s2",
    "moving_probability",
    "symbol_phase_rad",
    "user_symbol_phase_rad",
)
#: Fields that files of earlier versions do not have, and those that a static block leaves out.
_OPTIONAL = (
    "warnings",
    "ambiguities",
    "scatterer_extent_m2",
    *_DIFFUSE,
    *_MOTION,
    "reference_time_s",
    "evolution",
    "unlocated_paths.doppler_hz",
    "misfit",
    "information",
    "element_information",
)
_SCALARS: dict[str, Any] = {
    "estimator": str,
    "noise_variance": float,
    "converged": bool,
    "n_iter": int,
    "status": str,
}
_AMBIGUITY_KINDS = ("clock", "scatterer", "path")


def write_result(path: str | Path, values: Mapping[str, Any]) -> Path:
    """Write the fields of a result as an npz file and return its path."""
    stored: dict[str, Any] = {}
    for name, value in values.items():
        if value is None:
            continue
        if isinstance(value, _NESTED):
            parts = {f"{name}.{f.name}": getattr(value, f.name) for f in fields(value)}
            stored.update({key: part for key, part in parts.items() if part is not None})
        elif isinstance(value, History):
            rows = [[getattr(r, f.name) for f in fields(IterationRecord)] for r in value]
            stored[name] = np.array(rows, dtype=float).reshape(-1, len(fields(IterationRecord)))
        elif name == "ambiguities":
            stored[name] = _ambiguity_rows(value)
        elif name == "misfit":
            stored.update(_misfit_columns(value))
        elif name == "warnings":
            stored[name] = np.array(value, dtype=str)
        else:
            stored[name] = value
    return _npz.write(path, _KIND, stored)


def read_result(path: str | Path, known: Sequence[str]) -> dict[str, Any]:
    """Return the fields of a result, of those ``known``, from a file."""
    nested: dict[str, Any] = {"candidates": Candidates, "unlocated_paths": UnlocatedPaths}
    plain = [name for name in known if name not in (*nested, *_OPTIONAL)]
    keys = [f"{name}.{f.name}" for name, kind in nested.items() for f in fields(kind)]
    data = _npz.read(path, _KIND, plain + [key for key in keys if key not in _OPTIONAL])
    check_result_shapes(path, data)
    values: dict[str, Any] = {name: data[name] for name in plain}
    for name, kind in nested.items():
        values[name] = kind(**{f.name: data.get(f"{name}.{f.name}") for f in fields(kind)})
    for name, convert in _SCALARS.items():
        values[name] = convert(values[name].item())
    history = History()
    for objective, noise_variance, n_active, seconds in values["history"]:
        history.append(IterationRecord(objective, noise_variance, int(n_active), seconds))
    values["history"] = history
    values["warnings"] = tuple(str(text) for text in data.get("warnings", ()))
    values["ambiguities"] = _ambiguities(data.get("ambiguities", np.zeros((0, 7))))
    no_extent = np.zeros((len(values["scatterer_positions_m"]), 3, 3))
    values["scatterer_extent_m2"] = data.get("scatterer_extent_m2", no_extent)
    if any(name in data for name in _DIFFUSE):
        _npz.require(path, _KIND, data, _DIFFUSE)
    values.update({name: data[name] for name in (*_DIFFUSE, *_MOTION) if name in data})
    if "reference_time_s" in data:
        values["reference_time_s"] = float(data["reference_time_s"])
    if "evolution.parts" in data:
        _npz.require(path, _KIND, data, ["evolution.curves"])
        values["evolution"] = ChannelEvolution(data["evolution.parts"], data["evolution.curves"])
    if "information.matrix" in data:
        parts = [f"information.{f.name}" for f in fields(SceneInformation)]
        _npz.require(path, _KIND, data, parts)
        matrix, vector, *counts = (data[key] for key in parts)
        values["information"] = SceneInformation(matrix, vector, *map(int, counts))
    if "element_information.matrix" in data:
        _npz.require(path, _KIND, data, ["element_information.vector"])
        both = (data["element_information.matrix"], data["element_information.vector"])
        values["element_information"] = ElementInformation(*both)
    values["misfit"] = _misfit_of(data.get("misfit_parts", ()), data.get("misfit", ()))
    return values


def _ambiguity_rows(ambiguities: tuple[Ambiguity, ...]) -> RealArray:
    """One row (7,) for every alternative of every ambiguity."""
    rows = []
    for number, entry in enumerate(ambiguities):
        for value, weight in zip(entry.alternatives, entry.weights, strict=True):
            padded = np.pad(value, (0, 3 - len(value)), constant_values=np.nan)
            rows.append([number, _AMBIGUITY_KINDS.index(entry.kind), entry.index, weight, *padded])
    return np.array(rows, dtype=float).reshape(-1, 7)


def _ambiguities(rows: RealArray) -> tuple[Ambiguity, ...]:
    """What :func:`_ambiguity_rows` made rows of."""
    found = []
    for number in np.unique(rows[:, 0]):
        own = rows[rows[:, 0] == number]
        kind = _AMBIGUITY_KINDS[int(own[0, 1])]
        width = 1 if kind == "clock" else 3
        found.append(Ambiguity(kind, int(own[0, 2]), own[:, 4 : 4 + width], own[:, 3]))
    return tuple(found)


def _misfit_columns(misfit: Misfit | None) -> dict[str, NDArray[Any]]:
    """Numbers (4, 2) and parts (4,) of the axes; without a misfit no rows."""
    axes = [] if misfit is None else list(misfit.axes.values())
    numbers = np.array([[axis.excess_db, axis.p_value] for axis in axes], dtype=float)
    parts = np.array([axis.part for axis in axes], dtype=str)
    return {"misfit": numbers.reshape(-1, 2), "misfit_parts": parts}


def _misfit_of(parts: Iterable[str], numbers: Iterable[RealArray]) -> Misfit | None:
    """What :func:`_misfit_columns` made columns of."""
    axes = [MisfitAxis(str(part), *map(float, row)) for part, row in zip(parts, numbers, strict=True)]
    if len(axes) not in (0, len(fields(Misfit))):
        raise ValueError(f"misfit must have a row for each of {len(fields(Misfit))} axes, got {len(axes)}")
    return Misfit(*axes) if axes else None
