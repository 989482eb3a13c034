"""What an observation must hold: each field by itself, and all of them together."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isac_toolbox._validation import (
    as_array,
    as_scalar,
    check_deviations,
    check_finite,
    check_flag,
    check_magnitude,
    check_positive,
    check_shape,
    without_mask,
)
from isac_toolbox.channel.array import ArbitraryArray, UniformPlanarArray
from isac_toolbox.channel.hardware import HARDWARE_FIELDS, checked_hardware
from isac_toolbox.channel.motion import MOTION_FIELDS, checked_motion
from isac_toolbox.channel.panels import PanelArray
from isac_toolbox.channel.plausibility import warn_of_implausible_block
from isac_toolbox.channel.plausible_priors import warn_of_implausible_array, warn_of_implausible_clocks

__all__ = ["LINKS", "PLACES", "WAVEFRONTS", "checked_observation", "usable_samples"]

WAVEFRONTS = ("planar", "spherical")
LINKS = ("uplink", "monostatic")
PLACES = ("bs_position_m", "user_positions_m", "user_position_std_m", "region_m")
_REAL_FIELDS = ("subcarrier_frequencies_hz", *PLACES, "time_offset_std_s")
_MIN_USER_DISTANCE_M = 1e-3
#: Largest magnitudes; what is beyond is no number of this unit, and its square may be none at all.
_LARGEST = {
    "bs_position_m": 1e12,
    "user_positions_m": 1e12,
    "user_position_std_m": 1e12,
    "region_m": 1e12,
    "time_offset_std_s": 1e3,
    "subcarrier_frequencies_hz": 1e16,
}
_CLOSEST_HZ = 1e-3
_MAX_SITE_DISTANCE_M = 10.0


def checked_observation(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of an observation as read-only arrays and plain values.

    Raises
    ------
    TypeError, ValueError
        Naming the argument, what came and what is allowed.

    Warns
    -----
    ImplausibleValueWarning
        For values that look like those in other units.
    """
    block = SimpleNamespace(**given)
    if not isinstance(block.array, (UniformPlanarArray, ArbitraryArray)):
        raise TypeError(
            f"array must be a UniformPlanarArray or an ArbitraryArray, got {type(block.array).__name__}"
        )
    samples, present = _without_masked(block.received)
    block.received = as_array("received", samples, complex)
    block.pilots = as_array("pilots", block.pilots, complex)
    _check_what_is_given(block)
    for name in _REAL_FIELDS:
        if name not in PLACES or getattr(block, name) is not None:
            setattr(block, name, as_array(name, getattr(block, name), float))
    block.constellation = as_array("constellation", block.constellation, complex)
    _check_options(block)
    _check_axes(block)
    _check_samples(block, present)
    _check_block(block)
    _check_pilots(block)
    _check_knowledge(block)
    _check_constellation(block)
    _check_units(block)
    _check_motion(block)
    _check_hardware(block)
    return {name: _frozen(value) for name, value in vars(block).items()}


def _frozen(value: Any) -> Any:
    """A read-only copy of an array, anything else as it is, a file that is mapped to be read as well."""
    if not isinstance(value, np.ndarray) or _is_read_from_file(value):
        return value
    copy = np.array(value)
    copy.setflags(write=False)
    return copy


def _is_read_from_file(value: NDArray[Any]) -> bool:
    """Whether an array is a file's, mapped to be read alone."""
    if value.flags.writeable:
        return False
    owner: Any = value
    while isinstance(owner, np.ndarray) and not isinstance(owner, np.memmap):
        owner = owner.base
    return isinstance(owner, np.memmap) and owner.mode == "r"


def usable_samples(
    shape: tuple[int, ...],
    sample_mask: NDArray[np.bool_] | None,
    element_mask: NDArray[np.bool_] | None,
) -> NDArray[np.bool_] | None:
    """Return which samples (N, M, T) neither mask takes away; None where nothing is masked."""
    if sample_mask is None and element_mask is None:
        return None
    usable = np.ones(shape, bool)
    if sample_mask is not None:
        usable &= sample_mask
    if element_mask is not None:
        usable &= element_mask[:, None]
    return None if usable.all() else usable


def _check_what_is_given(block: SimpleNamespace) -> None:
    """Refuse half a geometry; clocks that nothing is measured by count as known."""
    if block.constellation is None:
        raise TypeError("constellation must be given, got None")
    for name in ("region_m", "user_position_std_m"):
        if block.user_positions_m is None and getattr(block, name) is not None:
            raise TypeError(
                f"user_positions_m must be given with {name}, got None; {name} without user_positions_m "
                "says nothing: leave out both, and nothing is located, or neither"
            )
    if block.user_positions_m is not None:
        for name in ("bs_position_m", "user_position_std_m"):
            if getattr(block, name) is None:
                raise TypeError(f"{name} must be given with user_positions_m, got None")
    if block.time_offset_std_s is None:
        if block.region_m is not None:
            raise TypeError("time_offset_std_s must be given with region_m, got None")
        block.time_offset_std_s = 0.0
    if block.region_m is None and block.wavefront == "spherical":
        raise ValueError(
            "wavefront='spherical' needs places: wavefronts curve with the distance of a scatterer; give "
            "region_m and the users, or wavefront='planar'"
        )


def _check_options(block: SimpleNamespace) -> None:
    if block.wavefront not in WAVEFRONTS:
        raise ValueError(f"wavefront must be one of {WAVEFRONTS}, got {block.wavefront!r}")
    if block.link not in LINKS:
        raise ValueError(f"link must be one of {LINKS}, got {block.link!r}")
    for name in ("carrier_hz", "noise_variance"):
        if getattr(block, name) is not None:
            setattr(block, name, check_positive(name, as_scalar(getattr(block, name))))
    if isinstance(block.array, PanelArray) and block.carrier_hz not in (None, block.array.carrier_hz):
        raise ValueError(
            f"carrier_hz must be that of the panels, {block.array.carrier_hz}, got {block.carrier_hz}"
        )
    if block.wavefront == "spherical" and block.carrier_hz is None:
        raise ValueError("carrier_hz is needed for wavefront='spherical', got None")
    block.beam_squint = check_flag("beam_squint", as_scalar(block.beam_squint))
    if block.beam_squint and block.carrier_hz is None:
        raise ValueError("carrier_hz is needed for beam_squint=True, got None")
    if block.beam_squint and not isinstance(block.array, UniformPlanarArray):
        raise ValueError(
            f"beam_squint=True is modelled for a UniformPlanarArray only, got {type(block.array).__name__}"
        )
    if block.beam_squint and block.wavefront != "planar":
        raise ValueError(f"beam_squint=True is modelled for wavefront='planar' only, got {block.wavefront!r}")


def _check_axes(block: SimpleNamespace) -> None:
    """Refuse a block whose axes are there, but in another order."""
    n_sub = block.subcarrier_frequencies_hz.size
    _check_order("received", block.received, (n_sub, block.array.n_elements), "(N, M, T)")
    if block.user_positions_m is not None:
        n_users = len(np.atleast_1d(block.user_positions_m))
        _check_order("pilots", block.pilots, (n_users, n_sub), "(K, N, T)")


def _check_samples(block: SimpleNamespace, present: NDArray[np.bool_] | None) -> None:
    """Check shape and masks; ``present`` (N, M, T) are the samples that came without a mask."""
    n_elements = block.array.n_elements
    check_shape("received", block.received, (None, n_elements, None), "(N, M, T) with M of the array")
    if block.element_mask is not None:
        working = _as_mask("element_mask", block.element_mask)
        check_shape("element_mask", working, (n_elements,), "(M,)")
        block.element_mask = working
    if block.sample_mask is not None:
        samples = _as_mask("sample_mask", block.sample_mask)
        try:
            np.broadcast_to(samples, block.received.shape)
        except ValueError:
            raise ValueError(
                f"sample_mask must broadcast to (N, M, T) = {block.received.shape}, got {samples.shape}"
            ) from None
        block.sample_mask = samples
    if present is not None:
        given = True if block.sample_mask is None else block.sample_mask
        block.sample_mask = present & given
    usable = usable_samples(block.received.shape, block.sample_mask, block.element_mask)
    if usable is not None:
        if not usable.any():
            raise ValueError("sample_mask and element_mask must leave samples to use, got all masked")
        block.received = np.where(usable, block.received, 0)


def _check_block(block: SimpleNamespace) -> None:
    if block.received.shape[0] < 2:
        raise ValueError(f"received must have at least two subcarriers, got {block.received.shape[0]}")
    if block.received.shape[2] < 1:
        raise ValueError("received must have at least one OFDM symbol, got none")
    check_finite("received", block.received)
    if not np.any(block.received):
        raise ValueError("received must not be all zero: there is nothing to estimate from")
    check_shape(
        "subcarrier_frequencies_hz", block.subcarrier_frequencies_hz, (block.received.shape[0],), "(N,)"
    )
    check_finite("subcarrier_frequencies_hz", block.subcarrier_frequencies_hz)
    if np.unique(block.subcarrier_frequencies_hz).size != block.received.shape[0]:
        raise ValueError("subcarrier_frequencies_hz must be distinct, got repeated frequencies")
    closest = float(np.diff(np.sort(block.subcarrier_frequencies_hz)).min())
    if closest < _CLOSEST_HZ:
        raise ValueError(
            f"subcarrier_frequencies_hz must be {_CLOSEST_HZ:g} Hz apart or more, got {closest:.4g} Hz"
        )


def _check_pilots(block: SimpleNamespace) -> None:
    n_sub, _, n_symbols = block.received.shape
    check_shape("pilots", block.pilots, (None, n_sub, n_symbols), "(K, N, T)")
    check_finite("pilots", block.pilots)
    n_users = block.pilots.shape[0]
    if n_users < 1:
        raise ValueError("pilots must hold at least one user, got none")
    if n_users > block.array.n_elements:
        raise ValueError(
            f"pilots: more users than antennas ({n_users} > {block.array.n_elements}); "
            "at most M users can be separated"
        )
    mask = np.asarray(without_mask("pilot_mask", block.pilot_mask))
    if mask.dtype != bool:
        raise TypeError(f"pilot_mask must be boolean, got dtype {mask.dtype}")
    if mask.shape not in ((n_sub, n_symbols), (n_users, n_sub, n_symbols)):
        raise ValueError(
            f"pilot_mask must have shape (N, T) = {(n_sub, n_symbols)} or (K, N, T) = "
            f"{(n_users, n_sub, n_symbols)}, got {mask.shape}"
        )
    block.pilot_mask = mask
    if np.any(block.pilots[~np.broadcast_to(mask, block.pilots.shape)]):
        raise ValueError("pilots must be zero wherever pilot_mask is False (data positions)")
    peak = np.max(np.abs(block.pilots), axis=(1, 2))
    if np.any(peak == 0):
        raise ValueError(f"pilots: no pilots for user(s) {np.flatnonzero(peak == 0).tolist()}")


def _check_knowledge(block: SimpleNamespace) -> None:
    n_users = len(block.pilots)
    for name in _REAL_FIELDS:
        if getattr(block, name) is not None:
            check_finite(name, getattr(block, name))
            check_magnitude(name, getattr(block, name), _LARGEST[name])
    if block.bs_position_m is not None:
        check_shape("bs_position_m", block.bs_position_m, (3,), "(3,)")
    if block.time_offset_std_s.shape not in ((), (n_users,)):
        raise ValueError(
            f"time_offset_std_s must be scalar or ({n_users},), got {block.time_offset_std_s.shape}"
        )
    check_deviations("time_offset_std_s", block.time_offset_std_s)
    if block.user_positions_m is not None:
        _check_users(block)
    if block.region_m is not None:
        check_shape("region_m", block.region_m, (2, 3), "((3,), (3,))")
        if np.any(block.region_m[1] <= block.region_m[0]):
            raise ValueError(
                "region_m must have a positive extent along every axis, got corners "
                f"{block.region_m[0].tolist()} and {block.region_m[1].tolist()}"
            )


def _check_users(block: SimpleNamespace) -> None:
    positions, std, n_users = block.user_positions_m, block.user_position_std_m, len(block.pilots)
    check_shape("user_positions_m", positions, (n_users, 3), "(K, 3)")
    if std.shape not in ((), (3,), (n_users, 3)):
        raise ValueError(f"user_position_std_m must be scalar, (3,) or ({n_users}, 3), got {std.shape}")
    check_deviations("user_position_std_m", std)
    distances = np.linalg.norm(positions - block.bs_position_m, axis=1)
    if block.link == "monostatic":
        if np.any(distances > _MAX_SITE_DISTANCE_M):
            raise ValueError(
                "user_positions_m must be at the base station's site for link='monostatic' (within "
                f"{_MAX_SITE_DISTANCE_M} m), got {distances.max():.3g} m"
            )
    elif np.any(distances < _MIN_USER_DISTANCE_M):
        raise ValueError(
            f"user_positions_m: user(s) {np.flatnonzero(distances < _MIN_USER_DISTANCE_M).tolist()} "
            "coincide with bs_position_m, which an uplink does not allow"
        )


def _check_constellation(block: SimpleNamespace) -> None:
    points = block.constellation
    check_shape("constellation", points, (None,), "(Q,)")
    check_finite("constellation", points)
    if points.size < 2 or points.size & (points.size - 1):
        raise ValueError(f"constellation must have a power of two of points (at least 2), got {points.size}")
    energy = float(np.mean(np.abs(points) ** 2))
    if abs(energy - 1) > 1e-6:
        raise ValueError(f"constellation must have unit mean energy, got {energy:.6g}")
    if np.unique(points).size != points.size:
        raise ValueError("constellation must have distinct points, got repeated ones")


def _check_units(block: SimpleNamespace) -> None:
    """Warn of values that look like those in another unit."""
    places = None
    if block.user_positions_m is not None and block.region_m is not None:
        places = np.vstack([block.user_positions_m, block.region_m]) - block.bs_position_m
    warn_of_implausible_block(block.subcarrier_frequencies_hz, block.carrier_hz, block.array, places)
    warn_of_implausible_array(block.array)
    warn_of_implausible_clocks(block.time_offset_std_s, block.subcarrier_frequencies_hz)


def _check_motion(block: SimpleNamespace) -> None:
    values = checked_motion(
        {name: getattr(block, name) for name in MOTION_FIELDS},
        len(block.pilots),
        block.received.shape[2],
        block.carrier_hz,
        block.link,
        block.subcarrier_frequencies_hz,
    )
    for name, value in values.items():
        setattr(block, name, np.asarray(value))


def _check_hardware(block: SimpleNamespace) -> None:
    given = {name: getattr(block, name) for name in HARDWARE_FIELDS}
    n_users, frequencies = len(block.pilots), block.subcarrier_frequencies_hz
    for name, value in checked_hardware(given, block.array, n_users, frequencies).items():
        setattr(block, name, value if isinstance(value, str) else np.asarray(value))


def _without_masked(samples: Any) -> tuple[Any, NDArray[np.bool_] | None]:
    """Return samples as a plain array and, of a masked array, which of them are there."""
    if not isinstance(samples, np.ma.MaskedArray):
        return samples, None
    return samples.data, ~np.ma.getmaskarray(samples) if np.ma.is_masked(samples) else None


def _as_mask(name: str, value: Any) -> NDArray[np.bool_]:
    """Return a boolean array; numbers are refused."""
    mask = np.asarray(without_mask(name, value))
    if mask.dtype != bool:
        raise TypeError(f"{name} must be boolean (True = usable), got dtype {mask.dtype}")
    return mask


def _check_order(name: str, value: NDArray[Any], first: tuple[int, int], meaning: str) -> None:
    """Raise if the first two axes (of three) have these sizes in another order alone."""
    shape = value.shape
    if value.ndim != 3 or shape[:2] == first:
        return
    for order in ((2, 1, 0), (1, 0, 2), (0, 2, 1), (1, 2, 0), (2, 0, 1)):
        if (shape[order[0]], shape[order[1]]) == first:
            raise ValueError(
                f"{name} must have shape {meaning} = ({first[0]}, {first[1]}, any), got {shape}, which looks "
                f"transposed; {name}.transpose{order} fits"
            )
