"""Scenarios of DeepMIMO 4, read from their files."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.io import loadmat

from isac_toolbox import _npz
from isac_toolbox._files import check_size, naming, read_small
from isac_toolbox._validation import as_indices, check_integer
from isac_toolbox.channel.environment import Environment, environment_of_paths

__all__ = ["carrier_hz", "load"]

RealArray = NDArray[np.float64]

_KEYS = ("power", "phase", "delay", "aod_az", "aod_el", "inter", "inter_pos", "rx_pos", "tx_pos")
_NAME = re.compile(r"power_t(\d+)_tx(\d+)_r(\d+)\.(npz|mat|npy)")


def load(
    folder: str | Path,
    *,
    transmitter_set: int | None = None,
    transmitter: int = 0,
    receiver_set: int | None = None,
    users: Sequence[int] | None = None,
    margin_m: float = 10.0,
) -> Environment:
    """Read a scenario of DeepMIMO 4: the transmitter is the base station, the receivers are users.

    Paths are the same in the uplink. The stored phase is kept: one computed from a delay in single precision
    would be wrong. Angles "el" are from the zenith. Of a scenario that moves every folder is a snapshot.

    Parameters
    ----------
    folder : str or Path
        With ``params.json`` and a file of every quantity (npz, mat or npy).
    transmitter_set, receiver_set : int, optional
        Sets of a scenario; may be left out where there is one pair.
    transmitter : int
        Which one of its set.
    users : sequence of int, optional
        Receivers of the set, which may be a hundred thousand; all if not given.
    margin_m : float
        The region is the bounding box of the single-bounce points and the users grown by this much.

    Returns
    -------
    Environment
        Paths of one interaction of any kind are scatterers, merged over the users to a millimetre, those of
        more are unlocated; amplitudes are in the square root of watts. Users without a path stay.

    Raises
    ------
    FileNotFoundError
        If a file is missing.
    ValueError
        If sets have to be chosen, or for files that do not belong together.
    """
    source = Path(folder)
    parameters = source / "params.json"
    if not parameters.is_file():
        raise FileNotFoundError(f"folder: no params.json of DeepMIMO in {source.absolute()}")
    chosen = _pair(source, transmitter_set, check_integer("transmitter", transmitter, 0), receiver_set)
    data = {key: _read(source, key, chosen) for key in _KEYS}
    places_m = data["rx_pos"].reshape(-1, 3)
    picked = np.arange(len(places_m)) if users is None else as_indices("users", users)
    if picked.ndim != 1 or not picked.size or picked.min() < 0 or picked.max() >= len(places_m):
        raise ValueError(f"users must index the receivers, 0..{len(places_m) - 1}, got {users!r}")
    per_path = {key: data[key][picked] for key in _KEYS if not key.endswith("x_pos")}
    shape = per_path["power"].shape
    for key, values in per_path.items():
        if values.shape[:2] != shape:
            raise ValueError(
                f"{key} of {source.name} must have the shape of power, {shape}, got {values.shape}"
            )
    station_m = data["tx_pos"].reshape(-1, 3)
    station_m = station_m[transmitter if len(station_m) > transmitter else 0]
    return environment_of_paths(
        _paths(per_path, station_m) | {"bs_position_m": station_m, "ue_position_m": places_m[picked]},
        source.name or "deepmimo",
        margin_m,
    )


def carrier_hz(folder: str | Path) -> float:
    """Return the carrier frequency of a scenario of DeepMIMO 4.

    Raises
    ------
    FileNotFoundError, KeyError
        If there is no ``params.json``, or no frequency in it.
    """
    source = Path(folder) / "params.json"
    parameters = json.loads(read_small(source).decode("utf-8"))
    return float(parameters["rt_params"]["frequency"])


def _paths(data: dict[str, RealArray], station_m: RealArray) -> dict[str, NDArray]:
    """The paths of all users in one list, as a traced file has them."""
    there = np.isfinite(data["power"]) & ~(data["inter"] < 0)
    code = np.where(there, np.nan_to_num(data["inter"]), 0)
    depth = np.where(code > 0, np.floor(np.log10(np.maximum(code, 1))).astype(int) + 1, 0)
    zenith, azimuth = np.radians(data["aod_el"]), np.radians(data["aod_az"])
    towards = np.stack(
        [np.sin(zenith) * np.cos(azimuth), np.sin(zenith) * np.sin(azimuth), np.cos(zenith)], axis=-1
    )
    bounce = np.where((depth == 1)[..., None], data["inter_pos"][:, :, 0], station_m + towards)
    gain = 10 ** (data["power"] / 20) * np.exp(1j * np.radians(data["phase"]))
    user = np.broadcast_to(np.arange(len(there))[:, None], there.shape)
    return {
        "path_ue": user[there],
        "path_depth": depth[there],
        "path_gain": gain[there],
        "path_delay_s": data["delay"][there],
        "path_first_bounce_m": np.where((depth == 0)[..., None], np.nan, bounce)[there],
    }


def _pair(
    source: Path, transmitter_set: int | None, transmitter: int, receiver_set: int | None
) -> tuple[int, int, int]:
    """Sets and transmitter of the pair asked for, of those that there are files of."""
    found = sorted({tuple(map(int, m.groups()[:3])) for m in map(_NAME.fullmatch, _names(source)) if m})
    fitting = [
        (t, i, r)
        for t, i, r in found
        if i == transmitter and transmitter_set in (None, t) and receiver_set in (None, r)
    ]
    if len(fitting) != 1:
        pairs = ", ".join(f"({t}, {i}, {r})" for t, i, r in found) or "none"
        raise ValueError(
            f"transmitter_set, transmitter and receiver_set must choose one of {pairs} in {source.name}, got "
            f"({transmitter_set}, {transmitter}, {receiver_set})"
        )
    return fitting[0]


def _names(source: Path) -> list[str]:
    return [path.name for path in source.iterdir()]


def _read(source: Path, key: str, pair: tuple[int, int, int]) -> RealArray:
    """One quantity of a pair, in double precision."""
    stem = f"{key}_t{pair[0]:03}_tx{pair[1]:03}_r{pair[2]:03}"
    for path in (source / f"{stem}.{ending}" for ending in ("npz", "mat", "npy")):
        if path.is_file():
            with naming(path):
                values = _mat(path, key) if path.suffix == ".mat" else _npz.read_array(path, key)
                return values.astype(float)
    raise FileNotFoundError(f"folder: no {stem}.npz, .mat or .npy in {source.absolute()}")


def _mat(path: Path, key: str) -> NDArray:
    """One array of a MATLAB file, which SciPy reads without running anything."""
    check_size(path, path.stat().st_size)
    try:
        stored = loadmat(path, variable_names=[key])
    except Exception as error:  # whatever the reader stumbles over
        raise ValueError(f"{path} is not a MATLAB file, or damaged: {error}") from None
    if key not in stored:
        raise ValueError(f"{path} must hold {key!r}, got {sorted(n for n in stored if n[:2] != '__')}")
    return np.asarray(stored[key])
