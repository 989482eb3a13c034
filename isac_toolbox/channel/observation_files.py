"""Files of observations: one npz array per field, nothing pickled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from isac_toolbox import _npz
from isac_toolbox._validation import as_array, as_scalar, check_shape
from isac_toolbox.channel.array import AntennaArray, ArbitraryArray, UniformPlanarArray
from isac_toolbox.channel.hardware import HARDWARE_FIELDS
from isac_toolbox.channel.motion import MOTION_FIELDS
from isac_toolbox.channel.observation_checks import PLACES
from isac_toolbox.channel.panels import PanelArray

__all__ = ["read_observation", "write_observation"]

_FORMAT = "uplink-observation"
_PANEL_KEYS = (
    "array_panel_shapes",
    "array_panel_spacings_wavelengths",
    "array_panel_orientations_rad",
    "array_panel_places_m",
    "array_panel_carrier_hz",
)
_NUMBERS = ("carrier_hz", "noise_variance")
_NAN_IF_NONE = (*_NUMBERS, *PLACES)
_LEFT_OUT_IF_NONE = ("sample_mask", "element_mask", *MOTION_FIELDS, *HARDWARE_FIELDS)


def write_observation(path: str | Path, values: Mapping[str, Any]) -> Path:
    """Write the fields of an observation as an npz file and return its path."""
    special = ("array", *_NAN_IF_NONE, *_LEFT_OUT_IF_NONE)
    stored: dict[str, ArrayLike] = {name: value for name, value in values.items() if name not in special}
    stored.update(_array_to_store(values["array"]))
    stored.update({name: np.nan if values[name] is None else values[name] for name in _NAN_IF_NONE})
    stored.update({name: values[name] for name in _LEFT_OUT_IF_NONE if values[name] is not None})
    return _npz.write(path, _FORMAT, stored)


def read_observation(path: str | Path, known: Sequence[str]) -> dict[str, Any]:
    """Return the fields of an observation, of those ``known``, from a file.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is not an npz file, lacks keys or holds pickled objects.
    """
    names = [name for name in known if name not in ("array", "beam_squint", *_LEFT_OUT_IF_NONE)]
    data = _npz.read(path, _FORMAT, [*names, "array_orientation_rad"])
    if "array_panel_places_m" in data:
        _npz.require(path, _FORMAT, data, _PANEL_KEYS)
    elif "array_positions_wavelengths" not in data:
        _npz.require(path, _FORMAT, data, ["array_shape", "array_spacing_wavelengths"])
    values: dict[str, Any] = {"array": _stored_array(data), **{name: data[name] for name in names}}
    for name in _NUMBERS:
        number = as_array(name, values[name], float)
        check_shape(name, number, (), "scalar")
        values[name] = None if np.isnan(number) else float(number)
    for name in ("wavefront", "link"):
        values[name] = str(values[name])
    values["beam_squint"] = _stored_flag("beam_squint", data.get("beam_squint", False))
    for name in PLACES:
        if values[name].shape == () and np.isnan(as_array(name, values[name], float)):
            values[name] = None
    values.update({name: data.get(name) for name in _LEFT_OUT_IF_NONE})
    return values


def _stored_flag(name: str, value: Any) -> bool:
    flag = np.asarray(value)
    if flag.dtype != bool or flag.shape != ():
        raise ValueError(f"{name} must be a single True or False, got {flag!r}")
    return bool(flag)


def _array_to_store(array: AntennaArray) -> dict[str, ArrayLike]:
    """Return what a file holds of an array."""
    stored: dict[str, ArrayLike] = {"array_orientation_rad": (array.azimuth_rad, array.elevation_rad)}
    if isinstance(array, PanelArray):
        stored["array_panel_shapes"] = [panel.shape for panel in array.panels]
        stored["array_panel_spacings_wavelengths"] = [panel.spacings for panel in array.panels]
        stored["array_panel_orientations_rad"] = [(p.azimuth_rad, p.elevation_rad) for p in array.panels]
        stored["array_panel_places_m"] = array.places_m
        stored["array_panel_carrier_hz"] = array.carrier_hz
    elif isinstance(array, ArbitraryArray):
        stored["array_positions_wavelengths"] = array.positions_wavelengths
    elif isinstance(array, UniformPlanarArray):
        stored["array_shape"] = array.shape
        stored["array_spacing_wavelengths"] = array.spacings
    return stored


def _stored_array(data: dict[str, NDArray[Any]]) -> AntennaArray:
    """Return the array that a file holds."""
    check_shape("array_orientation_rad", data["array_orientation_rad"], (2,), "(2,)")
    orientation = data["array_orientation_rad"].tolist()
    if "array_panel_places_m" in data:
        return _stored_panels(data, orientation)
    if "array_positions_wavelengths" in data:
        return ArbitraryArray(data["array_positions_wavelengths"], *orientation)
    check_shape("array_shape", data["array_shape"], (2,), "(2,)")
    check_shape("array_spacing_wavelengths", data["array_spacing_wavelengths"], (2,), "(2,)")
    return _stored_plane(data["array_shape"], data["array_spacing_wavelengths"], orientation)


def _stored_plane(
    shape: NDArray[Any], spacings: NDArray[Any], orientation: list[float]
) -> UniformPlanarArray:
    n_h, n_v = shape.tolist()
    d_h, d_v = spacings.tolist()
    return UniformPlanarArray((n_h, n_v), d_h if d_h == d_v else (d_h, d_v), *orientation)


def _stored_panels(data: dict[str, NDArray[Any]], orientation: list[float]) -> PanelArray:
    rows = [data[name] for name in _PANEL_KEYS[:3]]
    n_panels = len(np.atleast_1d(data["array_panel_places_m"]))
    for name, value in zip(_PANEL_KEYS, rows):
        check_shape(name, value, (n_panels, 2), "(P, 2)")
    panels = [
        _stored_plane(shape, spacings, own.tolist()) for shape, spacings, own in zip(*rows, strict=True)
    ]
    carrier_hz = as_scalar(data["array_panel_carrier_hz"])
    return PanelArray(panels, data["array_panel_places_m"], carrier_hz, *orientation)
