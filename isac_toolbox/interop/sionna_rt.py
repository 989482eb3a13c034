"""Paths traced by Sionna RT as an environment."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from isac_toolbox._validation import check_choice, check_has
from isac_toolbox.channel.array import SPEED_OF_LIGHT_M_S
from isac_toolbox.channel.environment import Environment, environment_of_paths

__all__ = ["from_paths"]

STATIONS = ("receiver", "transmitter")

RealArray = NDArray[np.float64]

_PATHS = ("a", "tau", "valid", "interactions", "vertices", "sources", "targets")
# Length by which a stated delay may differ from that of the vertices, in single precision, to be that path's.
_SAME_LENGTH_M = 0.01


def from_paths(paths: Any, scene: Any, *, station: str | None = None, margin_m: float = 10.0) -> Environment:
    """Return the environment that traced paths make up.

    Delays are absolute: those of the paths themselves, not of ``cir`` and ``cfr``, which by default start at
    the first path. Phases are those at the carrier, in double precision from the bounce points.

    Parameters
    ----------
    paths : sionna.rt.Paths
        Or anything with its ``a``, ``tau``, ``valid``, ``interactions``, ``vertices``, ``sources`` and
        ``targets``. Traced with one antenna at every device: our array is the scenario's.
    scene : sionna.rt.Scene
        Or anything with its ``frequency``.
    station : {"receiver", "transmitter"}, optional
        Which side the base station is; the one with a single device if not given, the receiver if both have.
    margin_m : float
        The region is the bounding box of the single-bounce points and the users grown by this much.

    Returns
    -------
    Environment
        Single bounces of any kind are scatterers, paths of more bounces unlocated ones.

    Raises
    ------
    TypeError
        If attributes are missing.
    ValueError
        For arrays of several antennas, several base stations, or two lines of sight of a user.
    """
    check_has("paths", paths, "Paths of Sionna RT", _PATHS)
    check_has("scene", scene, "a Scene of Sionna RT", ["frequency"])
    real, imaginary = (_numpy(part).astype(float) for part in paths.a)
    if real.ndim != 5 or real.shape[1] != 1 or real.shape[3] != 1:
        raise ValueError(
            "paths must be traced with one antenna at every device (PlanarArray(num_rows=1, num_cols=1, "
            f"polarization='V')), got coefficients of shape {real.shape}; give the array to the scenario"
        )
    side = _side(station, real.shape[0], real.shape[2])
    gain = (real + 1j * imaginary)[:, 0, :, 0]
    n_rx, n_tx = gain.shape[:2]
    delay_s = _numpy(paths.tau).astype(float).reshape(gain.shape)
    valid = _numpy(paths.valid).astype(bool).reshape(gain.shape) & (delay_s >= 0)
    bounces = _numpy(paths.interactions).reshape(-1, *gain.shape)
    depth = np.count_nonzero(bounces, axis=0)
    points_m = _numpy(paths.vertices).astype(float).reshape(len(bounces), *gain.shape, 3)
    sources_m, targets_m = _places(paths.sources, n_tx), _places(paths.targets, n_rx)
    length_m = _lengths_m(points_m, depth, sources_m[None, :, None], targets_m[:, None, None])
    stated_m = delay_s * SPEED_OF_LIGHT_M_S
    length_m = np.where(np.abs(length_m - stated_m) < _SAME_LENGTH_M, length_m, stated_m)
    frequency_hz = float(_numpy(scene.frequency).reshape(-1)[0])
    gain = gain * np.exp(-2j * np.pi * np.mod(length_m * (frequency_hz / SPEED_OF_LIGHT_M_S), 1))
    nearest = np.zeros_like(depth) if side == "transmitter" else np.maximum(depth - 1, 0)
    if len(points_m):
        first_m = np.take_along_axis(points_m, nearest[None, ..., None], axis=0)[0]
    else:
        first_m = np.full((*gain.shape, 3), np.nan)
    first_m[depth == 0] = np.nan
    user = np.arange(n_rx)[:, None, None] if side == "transmitter" else np.arange(n_tx)[None, :, None]
    data = {
        "bs_position_m": (sources_m if side == "transmitter" else targets_m)[0],
        "ue_position_m": targets_m if side == "transmitter" else sources_m,
        "path_ue": np.broadcast_to(user, gain.shape)[valid],
        "path_depth": depth[valid],
        "path_gain": gain[valid],
        "path_delay_s": (length_m / SPEED_OF_LIGHT_M_S)[valid],
        "path_first_bounce_m": first_m[valid],
    }
    return environment_of_paths(data, "paths", margin_m)


def _side(station: str | None, n_rx: int, n_tx: int) -> str:
    """Which side the base station is."""
    if station is not None:
        check_choice("station", station, STATIONS)
    side = station or ("receiver" if n_rx == 1 else "transmitter")
    if (n_rx if side == "receiver" else n_tx) != 1:
        raise ValueError(
            f"paths must have one base station, as receiver or as transmitter, got {n_rx} receivers and "
            f"{n_tx} transmitters{f' with station={station!r}' if station else ''}"
        )
    return side


def _lengths_m(
    points_m: RealArray, depth: NDArray[np.int64], start_m: RealArray, end_m: RealArray
) -> RealArray:
    """Lengths along the bounce points (depth, R, T, P, 3) from sources to targets, shape (R, T, P)."""
    here, length = np.broadcast_to(start_m, (*depth.shape, 3)), np.zeros(depth.shape)
    for number, there in enumerate(points_m):
        bounces = depth > number
        length = length + np.where(bounces, np.linalg.norm(there - here, axis=-1), 0.0)
        here = np.where(bounces[..., None], there, here)
    return np.asarray(length + np.linalg.norm(end_m - here, axis=-1))


def _places(points: Any, count: int) -> RealArray:
    """Places (n, 3) of devices from points that have coordinates first."""
    given = _numpy(points).astype(float)
    given = given.reshape(3, -1).T
    if len(given) != count:
        raise ValueError(f"paths must have as many places as devices ({count}), got {len(given)}")
    return given


def _numpy(value: Any) -> NDArray[Any]:
    """Return a tensor of Dr.Jit or anything like an array as an array."""
    return np.asarray(value.numpy() if hasattr(value, "numpy") else value)
