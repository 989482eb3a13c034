"""What a receiver has: one received OFDM block, its pilots and what is known beforehand."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from isac_toolbox import _npz
from isac_toolbox._validation import (
    as_array,
    as_scalar,
    check_finite,
    check_flag,
    check_non_negative,
    check_positive,
    check_shape,
    without_mask,
)
from isac_toolbox.channel.array import AntennaArray, ArbitraryArray, UniformPlanarArray
from isac_toolbox.channel.hardware import HARDWARE_FIELDS, Hardware, checked_hardware
from isac_toolbox.channel.motion import MOTION_FIELDS, Motion, checked_motion
from isac_toolbox.channel.panels import PanelArray
from isac_toolbox.channel.plausibility import warn_of_implausible_block

__all__ = ["LINKS", "WAVEFRONTS", "Geometry", "UplinkObservation"]

WAVEFRONTS = ("planar", "spherical")
LINKS = ("uplink", "monostatic")
_MIN_USER_DISTANCE_M = 1e-3
_MAX_SITE_DISTANCE_M = 10.0


@dataclass(frozen=True, eq=False)
class Geometry:
    """Where base station and users are, and where scatterers may be.

    Attributes
    ----------
    bs_position_m : ndarray, shape (3,)
    user_positions_m, user_position_stds_m : ndarray, shape (K, 3)
        Nominal positions and the deviations of their errors.
    region_m : ndarray, shape (2, 3)
        Two corners of the box in which scatterers may lie.
    """

    bs_position_m: NDArray[np.float64]
    user_positions_m: NDArray[np.float64]
    user_position_stds_m: NDArray[np.float64]
    region_m: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class UplinkObservation:
    """One received uplink block: the only thing an estimator sees.

    Places may be left out (``user_positions_m``, ``user_position_std_m`` and ``region_m``, or ``region_m``
    alone): estimators then find channel, data, noise, and delays and directions of the paths, and locate
    nothing.

    Parameters
    ----------
    received : array_like of complex, shape (N, M, T)
        Samples per subcarrier, antenna and OFDM symbol. Of a ``numpy.ma.MaskedArray`` the mask joins
        ``sample_mask``. What is masked may hold any value, also NaN, and is kept as zero.
    pilots : array_like of complex, shape (K, N, T)
        Known symbols, zero where data is sent (and where a user is silent).
    pilot_mask : array_like of bool, shape (N, T) or (K, N, T)
        True where the symbol is known (a known zero = silent), False where data is sent.
    array : UniformPlanarArray, ArbitraryArray or PanelArray
        Receive array with M elements.
    subcarrier_frequencies_hz : array_like, shape (N,)
        Baseband frequencies of the used subcarriers, centred around zero.
    bs_position_m : array_like, shape (3,), optional
        Base station; needed with ``user_positions_m``.
    user_positions_m : array_like, shape (K, 3), optional
        Nominal user positions.
    user_position_std_m : array_like, scalar, (3,) or (K, 3), optional
        Standard deviation of their error, axes independent; 0 = known coordinate. Goes with them.
    time_offset_std_s : array_like, scalar or (K,), optional
        Standard deviation of the users' clock offsets; needed with ``region_m``. Without it delays are
        relative to the receiver's time base, clock offsets included, and it counts as zero if not given.
    constellation : array_like of complex, shape (Q,)
        Data alphabet, unit mean energy, Q a power of two; bits are those of the index.
    region_m : array_like, shape (2, 3) as a pair of corners, optional
        Box in which scatterers may lie.
    carrier_hz : float, optional
        Needed for spherical wavefronts and beam squint.
    wavefront : {"planar", "spherical"}
    link : {"uplink", "monostatic"}
        ``"monostatic"``: the base station hears its own echoes; the users are transmitters at its site, there
        is no line of sight.
    noise_variance : float, optional
        Known noise variance per sample; estimated when not given.
    beam_squint : bool
        Whether the array's phase follows the subcarrier's own frequency, planar wavefronts only.
    sample_mask : array_like of bool, broadcastable to (N, M, T), optional
        True where a sample can be used, False where it is missing or broken. All can be used if not given.
    element_mask : array_like of bool, shape (M,), optional
        True where an element of the array works, False where it is dead. All work if not given.
    symbol_times_s : array_like, shape (T,), optional
        Centre times of the OFDM symbols, strictly increasing; what moves is described at their mean, the
        reference time. Needed for all that follows, each of which is zero if not given.
    frequency_offset_std_hz : array_like, scalar or (K,), optional
        Standard deviation of the users' residual carrier frequency offsets.
    user_velocities_m_s : array_like, shape (K, 3), optional
        Nominal velocities; they and the next two need ``carrier_hz``.
    user_velocity_std_m_s : array_like, scalar, (3,) or (K, 3), optional
        Standard deviation of their error, axes independent.
    scatterer_velocity_std_m_s : array_like, scalar, optional
        Standard deviation of every axis of the velocity of a scatterer that moves.
    phase_noise_std_rad : array_like, scalar, optional
        Phase noise of the station's oscillator, a random walk of mean zero over the block: standard deviation
        of its step over the shortest time between two symbols.
    user_phase_noise_std_rad : array_like, scalar or (K,), optional
        The same of the users' oscillators.
    element_gain_std, element_phase_std_rad : array_like, scalar or (M,), optional
        Standard deviations of the relative gain error and of the phase error of every element, of mean zero;
        zero if not given.
    element_response : array_like of complex, shape (M,), optional
        Known response of every element, as from an earlier calibration; errors come on top. One if not given.
    element_covariance : array_like, shape (2 M, 2 M), optional
        Covariance of the relative gain errors of all elements, then of their phase errors, on top of both
        deviations, as an earlier calibration leaves it (:func:`isac_toolbox.calibrate`); zero if not given.
    panel_phase_std_rad : array_like, scalar or (P,), optional
        Standard deviation of a phase that all elements of a panel of a :class:`PanelArray` have in common;
        zero if not given.
    array_rotation_std_rad : array_like, scalar or (3,), optional
        Standard deviations of a small rotation of the array about its own axes: boresight (roll), horizontal
        (tilt) and vertical (azimuth); zero if not given.
    coupling_std : array_like, scalar, optional
        Standard deviation of the complex coupling between neighbours of a planar array; zero if not given.
    noise_covariance : array_like of complex, shape (M, M), or "estimate", optional
        Shape of the noise over the elements, Hermitian, positive definite and of trace M, so that
        ``noise_variance`` is its mean power; ``"estimate"``: not white, to be found from the samples. White
        if not given.

    Raises
    ------
    TypeError, ValueError
        Naming the argument, what came and what is allowed.

    Warns
    -----
    ImplausibleValueWarning
        For frequencies, positions and times that look like those in other units (kHz, counted, km).

    Notes
    -----
    Saved files hold one npz array per field: ``received, pilots, pilot_mask, array_shape,
    array_spacing_wavelengths, array_orientation_rad, subcarrier_frequencies_hz, bs_position_m,
    user_positions_m, user_position_std_m, time_offset_std_s, constellation, region_m, carrier_hz
    (NaN = none), wavefront, link, noise_variance (NaN = none), beam_squint (False if missing), sample_mask,
    element_mask (both missing = none), format``, and those of ``symbol_times_s`` to
    ``user_phase_noise_std_rad`` and of ``element_gain_std`` to ``noise_covariance`` that are given. An
    arbitrary array has ``array_positions_wavelengths`` in the place of ``array_shape,
    array_spacing_wavelengths``, and panels ``array_panel_shapes, array_panel_spacings_wavelengths,
    array_panel_orientations_rad, array_panel_places_m, array_panel_carrier_hz``. Places that are not known
    are a single NaN each.
    No pickled objects.

    What is masked has no influence on any estimate. Channels of masked elements and subcarriers are still
    estimated, as the paths predict them; data in which every sample is masked keep their prior, LLR 0.
    """

    received: NDArray[np.complex128]
    pilots: NDArray[np.complex128]
    pilot_mask: NDArray[np.bool_]
    array: AntennaArray
    subcarrier_frequencies_hz: NDArray[np.float64]
    bs_position_m: NDArray[np.float64] | None = None
    user_positions_m: NDArray[np.float64] | None = None
    user_position_std_m: NDArray[np.float64] | None = None
    time_offset_std_s: NDArray[np.float64] = None  # type: ignore[assignment]
    constellation: NDArray[np.complex128] = None  # type: ignore[assignment]
    region_m: NDArray[np.float64] | None = None
    carrier_hz: float | None = None
    wavefront: str = "planar"
    link: str = "uplink"
    noise_variance: float | None = None
    beam_squint: bool = False
    sample_mask: NDArray[np.bool_] | None = None
    element_mask: NDArray[np.bool_] | None = None
    symbol_times_s: NDArray[np.float64] | None = None
    frequency_offset_std_hz: NDArray[np.float64] | None = None
    user_velocities_m_s: NDArray[np.float64] | None = None
    user_velocity_std_m_s: NDArray[np.float64] | None = None
    scatterer_velocity_std_m_s: NDArray[np.float64] | None = None
    phase_noise_std_rad: NDArray[np.float64] | None = None
    user_phase_noise_std_rad: NDArray[np.float64] | None = None
    element_gain_std: NDArray[np.float64] | None = None
    element_phase_std_rad: NDArray[np.float64] | None = None
    element_response: NDArray[np.complex128] | None = None
    array_rotation_std_rad: NDArray[np.float64] | None = None
    coupling_std: NDArray[np.float64] | None = None
    noise_covariance: NDArray[np.complex128] | str | None = None
    element_covariance: NDArray[np.float64] | None = None
    panel_phase_std_rad: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.array, (UniformPlanarArray, ArbitraryArray)):
            raise TypeError(
                f"array must be a UniformPlanarArray or an ArbitraryArray, got {type(self.array).__name__}"
            )
        samples, present = _without_masked(self.received)
        self._set("received", as_array("received", samples, complex))
        self._set("pilots", as_array("pilots", self.pilots, complex))
        self._check_what_is_given()
        for name in _REAL_FIELDS:
            if name not in _PLACES or getattr(self, name) is not None:
                self._set(name, as_array(name, getattr(self, name), float))
        self._set("constellation", as_array("constellation", self.constellation, complex))
        self._check_options()
        self._check_axes()
        self._check_samples(present)
        self._check_block()
        self._check_pilots()
        self._check_knowledge()
        self._check_constellation()
        self._check_units()
        self._check_motion()
        self._check_hardware()

    def _set(self, name: str, value: NDArray[Any]) -> None:
        frozen = np.array(value)
        frozen.setflags(write=False)
        object.__setattr__(self, name, frozen)

    def _check_axes(self) -> None:
        """Refuse a block whose axes are there, but in another order."""
        n_sub = self.subcarrier_frequencies_hz.size
        _check_order("received", self.received, (n_sub, self.array.n_elements), "(N, M, T)")
        if self.user_positions_m is not None:
            n_users = len(np.atleast_1d(self.user_positions_m))
            _check_order("pilots", self.pilots, (n_users, n_sub), "(K, N, T)")

    def _check_samples(self, present: NDArray[np.bool_] | None) -> None:
        """Check shape and masks; ``present`` (N, M, T) are the samples that came without a mask."""
        n_elements = self.array.n_elements
        check_shape("received", self.received, (None, n_elements, None), "(N, M, T) with M of the array")
        if self.element_mask is not None:
            working = _as_mask("element_mask", self.element_mask)
            check_shape("element_mask", working, (n_elements,), "(M,)")
            self._set("element_mask", working)
        if self.sample_mask is not None:
            samples = _as_mask("sample_mask", self.sample_mask)
            try:
                np.broadcast_to(samples, self.received.shape)
            except ValueError:
                raise ValueError(
                    f"sample_mask must broadcast to (N, M, T) = {self.received.shape}, got {samples.shape}"
                ) from None
            self._set("sample_mask", samples)
        if present is not None:
            given = True if self.sample_mask is None else self.sample_mask
            self._set("sample_mask", present & given)
        if self.usable is not None:
            if not self.usable.any():
                raise ValueError("sample_mask and element_mask must leave samples to use, got all masked")
            self._set("received", np.where(self.usable, self.received, 0))

    def _check_block(self) -> None:
        if self.received.shape[0] < 2:
            raise ValueError(f"received must have at least two subcarriers, got {self.received.shape[0]}")
        if self.received.shape[2] < 1:
            raise ValueError("received must have at least one OFDM symbol, got none")
        check_finite("received", self.received)
        if not np.any(self.received):
            raise ValueError("received must not be all zero: there is nothing to estimate from")
        check_shape(
            "subcarrier_frequencies_hz", self.subcarrier_frequencies_hz, (self.received.shape[0],), "(N,)"
        )
        check_finite("subcarrier_frequencies_hz", self.subcarrier_frequencies_hz)
        if np.unique(self.subcarrier_frequencies_hz).size != self.received.shape[0]:
            raise ValueError("subcarrier_frequencies_hz must be distinct, got repeated frequencies")

    def _check_pilots(self) -> None:
        n_sub, _, n_symbols = self.received.shape
        check_shape("pilots", self.pilots, (None, n_sub, n_symbols), "(K, N, T)")
        check_finite("pilots", self.pilots)
        n_users = self.pilots.shape[0]
        if n_users < 1:
            raise ValueError("pilots must hold at least one user, got none")
        if n_users > self.array.n_elements:
            raise ValueError(
                f"pilots: more users than antennas ({n_users} > {self.array.n_elements}); "
                "at most M users can be separated"
            )
        mask = np.asarray(without_mask("pilot_mask", self.pilot_mask))
        if mask.dtype != bool:
            raise TypeError(f"pilot_mask must be boolean, got dtype {mask.dtype}")
        if mask.shape not in ((n_sub, n_symbols), (n_users, n_sub, n_symbols)):
            raise ValueError(
                f"pilot_mask must have shape (N, T) = {(n_sub, n_symbols)} or (K, N, T) = "
                f"{(n_users, n_sub, n_symbols)}, got {mask.shape}"
            )
        self._set("pilot_mask", mask)
        if np.any(self.pilots[~self.known]):
            raise ValueError("pilots must be zero wherever pilot_mask is False (data positions)")
        peak = np.max(np.abs(self.pilots), axis=(1, 2))
        if np.any(peak == 0):
            raise ValueError(f"pilots: no pilots for user(s) {np.flatnonzero(peak == 0).tolist()}")

    def _check_what_is_given(self) -> None:
        """Refuse half a geometry; clocks that nothing is measured by count as known."""
        if self.constellation is None:
            raise TypeError("constellation must be given, got None")
        for name in ("region_m", "user_position_std_m"):
            if self.user_positions_m is None and getattr(self, name) is not None:
                raise TypeError(
                    f"user_positions_m must be given with {name}, got None; {name} without user_positions_m "
                    "says nothing: leave out both, and nothing is located, or neither"
                )
        if self.user_positions_m is not None:
            for name in ("bs_position_m", "user_position_std_m"):
                if getattr(self, name) is None:
                    raise TypeError(f"{name} must be given with user_positions_m, got None")
        if self.time_offset_std_s is None:
            if self.region_m is not None:
                raise TypeError("time_offset_std_s must be given with region_m, got None")
            object.__setattr__(self, "time_offset_std_s", 0.0)
        if self.region_m is None and self.wavefront == "spherical":
            raise ValueError(
                "wavefront='spherical' needs places: wavefronts curve with the distance of a scatterer; give "
                "region_m and the users, or wavefront='planar'"
            )

    def _check_knowledge(self) -> None:
        n_users = self.n_users
        for name in _REAL_FIELDS:
            if getattr(self, name) is not None:
                check_finite(name, getattr(self, name))
        if self.bs_position_m is not None:
            check_shape("bs_position_m", self.bs_position_m, (3,), "(3,)")
        if self.time_offset_std_s.shape not in ((), (n_users,)):
            raise ValueError(
                f"time_offset_std_s must be scalar or ({n_users},), got {self.time_offset_std_s.shape}"
            )
        check_non_negative("time_offset_std_s", self.time_offset_std_s)
        if self.user_positions_m is not None:
            assert self.user_position_std_m is not None
            assert self.bs_position_m is not None
            self._check_users(self.user_positions_m, self.user_position_std_m, self.bs_position_m)
        if self.region_m is not None:
            check_shape("region_m", self.region_m, (2, 3), "((3,), (3,))")
            if np.any(self.region_m[1] <= self.region_m[0]):
                raise ValueError(
                    "region_m must have a positive extent along every axis, got corners "
                    f"{self.region_m[0].tolist()} and {self.region_m[1].tolist()}"
                )

    def _check_users(
        self, positions: NDArray[np.float64], std: NDArray[np.float64], bs: NDArray[np.float64]
    ) -> None:
        n_users = self.n_users
        check_shape("user_positions_m", positions, (n_users, 3), "(K, 3)")
        if std.shape not in ((), (3,), (n_users, 3)):
            raise ValueError(f"user_position_std_m must be scalar, (3,) or ({n_users}, 3), got {std.shape}")
        check_non_negative("user_position_std_m", std)
        distances = np.linalg.norm(positions - bs, axis=1)
        if self.link == "monostatic":
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

    def _check_constellation(self) -> None:
        points = self.constellation
        check_shape("constellation", points, (None,), "(Q,)")
        check_finite("constellation", points)
        if points.size < 2 or points.size & (points.size - 1):
            raise ValueError(
                f"constellation must have a power of two of points (at least 2), got {points.size}"
            )
        energy = float(np.mean(np.abs(points) ** 2))
        if abs(energy - 1) > 1e-6:
            raise ValueError(f"constellation must have unit mean energy, got {energy:.6g}")
        if np.unique(points).size != points.size:
            raise ValueError("constellation must have distinct points, got repeated ones")

    def _check_units(self) -> None:
        """Warn of values that look like those in another unit."""
        places = None
        if self.geometry is not None:
            known = self.geometry
            places = np.vstack([known.user_positions_m, known.region_m]) - known.bs_position_m
        warn_of_implausible_block(self.subcarrier_frequencies_hz, self.carrier_hz, self.array, places)

    def _check_motion(self) -> None:
        values = checked_motion(
            {name: getattr(self, name) for name in MOTION_FIELDS},
            self.n_users,
            self.n_symbols,
            self.carrier_hz,
            self.link,
            self.subcarrier_frequencies_hz,
        )
        for name, value in values.items():
            self._set(name, value)

    def _check_hardware(self) -> None:
        values = checked_hardware({name: getattr(self, name) for name in HARDWARE_FIELDS}, self.array)
        for name, value in values.items():
            if isinstance(value, str):
                object.__setattr__(self, name, value)
            else:
                self._set(name, value)

    def _check_options(self) -> None:
        if self.wavefront not in WAVEFRONTS:
            raise ValueError(f"wavefront must be one of {WAVEFRONTS}, got {self.wavefront!r}")
        if self.link not in LINKS:
            raise ValueError(f"link must be one of {LINKS}, got {self.link!r}")
        for name in ("carrier_hz", "noise_variance"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, check_positive(name, as_scalar(getattr(self, name))))
        if isinstance(self.array, PanelArray) and self.carrier_hz not in (None, self.array.carrier_hz):
            raise ValueError(
                f"carrier_hz must be that of the panels, {self.array.carrier_hz}, got {self.carrier_hz}"
            )
        if self.wavefront == "spherical" and self.carrier_hz is None:
            raise ValueError("carrier_hz is needed for wavefront='spherical', got None")
        object.__setattr__(self, "beam_squint", check_flag("beam_squint", as_scalar(self.beam_squint)))
        if self.beam_squint and self.carrier_hz is None:
            raise ValueError("carrier_hz is needed for beam_squint=True, got None")
        if self.beam_squint and not isinstance(self.array, UniformPlanarArray):
            raise ValueError(
                f"beam_squint=True is modelled for a UniformPlanarArray only, got {type(self.array).__name__}"
            )
        if self.beam_squint and self.wavefront != "planar":
            raise ValueError(
                f"beam_squint=True is modelled for wavefront='planar' only, got {self.wavefront!r}"
            )

    @property
    def n_users(self) -> int:
        """Number of users K."""
        return int(self.pilots.shape[0])

    @property
    def n_subcarriers(self) -> int:
        """Number of used subcarriers N."""
        return int(self.received.shape[0])

    @property
    def n_symbols(self) -> int:
        """Number of OFDM symbols T."""
        return int(self.received.shape[2])

    @property
    def bits_per_symbol(self) -> int:
        """Bits of a constellation index."""
        return int(self.constellation.size).bit_length() - 1

    @property
    def has_line_of_sight(self) -> bool:
        """Whether users may have a line of sight: not on a monostatic link."""
        return self.link != "monostatic"

    @cached_property
    def known(self) -> NDArray[np.bool_]:
        """``pilot_mask`` for every user, shape (K, N, T)."""
        return np.broadcast_to(self.pilot_mask, self.pilots.shape)

    @cached_property
    def usable(self) -> NDArray[np.bool_] | None:
        """Samples that neither mask takes away, shape (N, M, T); None where nothing is masked."""
        if self.sample_mask is None and self.element_mask is None:
            return None
        usable = np.ones(self.received.shape, bool)
        if self.sample_mask is not None:
            usable &= self.sample_mask
        if self.element_mask is not None:
            usable &= self.element_mask[:, None]
        return None if usable.all() else usable

    @cached_property
    def usable_elements(self) -> NDArray[np.bool_]:
        """Elements of which some sample is usable, shape (M,)."""
        if self.usable is None:
            return np.ones(self.array.n_elements, bool)
        return np.asarray(self.usable.any(axis=(0, 2)))

    @cached_property
    def usable_cells(self) -> NDArray[np.bool_]:
        """Subcarriers and symbols at which some sample is usable, shape (N, T)."""
        if self.usable is None:
            return np.ones((self.n_subcarriers, self.n_symbols), bool)
        return np.asarray(self.usable.any(axis=1))

    @cached_property
    def geometry(self) -> Geometry | None:
        """All places; None where some are not given, so that nothing can be located."""
        bs, users, stds, region = (
            self.bs_position_m,
            self.user_positions_m,
            self.user_position_stds_m,
            self.region_m,
        )
        if bs is None or users is None or stds is None or region is None:
            return None
        return Geometry(bs, users, stds, region)

    def geometry_for(self, method: str) -> Geometry:
        """Return all places, which a method needs.

        Raises
        ------
        ValueError
            If they are not given.
        """
        if self.geometry is None:
            missing = "region_m" if self.user_positions_m is not None else "user_positions_m, region_m"
            raise ValueError(f"{missing}: {method} needs places, got None; EMTurboBiSVBI and NOMP do not")
        return self.geometry

    @cached_property
    def user_position_stds_m(self) -> NDArray[np.float64] | None:
        """Standard deviations of the user positions, shape (K, 3); None where these are not given."""
        if self.user_position_std_m is None:
            return None
        return np.broadcast_to(self.user_position_std_m, (self.n_users, 3))

    @cached_property
    def time_offset_stds_s(self) -> NDArray[np.float64]:
        """Standard deviations of the clock offsets, shape (K,)."""
        return np.broadcast_to(self.time_offset_std_s, (self.n_users,))

    @cached_property
    def motion(self) -> Motion | None:
        """Times and priors of what turns, broadcast to all users; None for a static block.

        A block is static without ``symbol_times_s``, and where velocities and all deviations are zero.
        """
        return Motion.of({name: getattr(self, name) for name in MOTION_FIELDS}, self.n_users, self.carrier_hz)

    @cached_property
    def hardware(self) -> Hardware | None:
        """Priors of the array's errors, broadcast to all elements, and the shape of the noise.

        None for a perfect receiver: nothing given, or deviations of zero, responses of one and white noise.
        """
        return Hardware.of({name: getattr(self, name) for name in HARDWARE_FIELDS}, self.array)

    def save(self, path: str | Path) -> Path:
        """Write the observation as an npz file (keys above) and return its path."""
        stored: dict[str, ArrayLike] = {
            f.name: getattr(self, f.name)
            for f in fields(self)
            if f.name not in ("array", *_NAN_IF_NONE, *_LEFT_OUT_IF_NONE)
        }
        stored.update(_array_to_store(self.array))
        for name in _NAN_IF_NONE:
            value = getattr(self, name)
            stored[name] = np.nan if value is None else value
        left = ((name, getattr(self, name)) for name in _LEFT_OUT_IF_NONE)
        stored.update({name: value for name, value in left if value is not None})
        return _npz.write(path, "uplink-observation", stored)

    @classmethod
    def load(cls, path: str | Path) -> UplinkObservation:
        """Read what :meth:`save` wrote.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ValueError
            If it is not an npz file, lacks keys or holds pickled objects.
        """
        later = ("array", "beam_squint", *_LEFT_OUT_IF_NONE)
        names = [f.name for f in fields(cls) if f.name not in later]
        names.append("array_orientation_rad")
        data = _npz.read(path, "uplink-observation", names)
        names.pop()
        if "array_panel_places_m" in data:
            _npz.require(path, "uplink-observation", data, _PANEL_KEYS)
        elif "array_positions_wavelengths" not in data:
            _npz.require(path, "uplink-observation", data, ["array_shape", "array_spacing_wavelengths"])
        array = _stored_array(data)
        values: dict[str, Any] = {name: data[name] for name in names}
        for name in ("carrier_hz", "noise_variance"):
            number = as_array(name, values[name], float)
            check_shape(name, number, (), "scalar")
            values[name] = None if np.isnan(number) else float(number)
        for name in ("wavefront", "link"):
            values[name] = str(values[name])
        beam_squint = np.asarray(data.get("beam_squint", False))
        if beam_squint.dtype != bool or beam_squint.shape != ():
            raise ValueError(f"beam_squint must be a single True or False, got {beam_squint!r}")
        values["beam_squint"] = bool(beam_squint)
        for name in _PLACES:
            if values[name].shape == () and np.isnan(as_array(name, values[name], float)):
                values[name] = None
        values.update({name: data.get(name) for name in _LEFT_OUT_IF_NONE})
        return cls(array=array, **values)


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


_PANEL_KEYS = (
    "array_panel_shapes",
    "array_panel_spacings_wavelengths",
    "array_panel_orientations_rad",
    "array_panel_places_m",
    "array_panel_carrier_hz",
)
_PLACES = ("bs_position_m", "user_positions_m", "user_position_std_m", "region_m")
_NAN_IF_NONE = ("carrier_hz", "noise_variance", *_PLACES)
_LEFT_OUT_IF_NONE = ("sample_mask", "element_mask", *MOTION_FIELDS, *HARDWARE_FIELDS)
_REAL_FIELDS = (
    "subcarrier_frequencies_hz",
    "bs_position_m",
    "user_positions_m",
    "user_position_std_m",
    "time_offset_std_s",
    "region_m",
)


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
