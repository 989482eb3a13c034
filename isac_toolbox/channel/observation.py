"""What a receiver has: one received OFDM block, its pilots and what is known beforehand."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from isac_toolbox._files import naming
from isac_toolbox.channel.array import AntennaArray
from isac_toolbox.channel.hardware import HARDWARE_FIELDS, Hardware
from isac_toolbox.channel.motion import MOTION_FIELDS, Motion
from isac_toolbox.channel.observation_checks import LINKS, WAVEFRONTS, checked_observation, usable_samples
from isac_toolbox.channel.observation_files import read_observation, write_observation

__all__ = ["LINKS", "WAVEFRONTS", "Geometry", "UplinkObservation"]


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
        Samples per subcarrier, antenna and OFDM symbol; copied, but where they are mapped from a file to be
        read (``numpy.memmap`` in mode ``"r"``). Of a ``numpy.ma.MaskedArray`` the mask joins
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
        deviations, as an earlier calibration leaves it (:func:`~isac_toolbox.estimators.calibrate`); zero
        if not given.
    panel_phase_std_rad : array_like, scalar or (P,), optional
        Standard deviation of a phase that all elements of a panel of a :class:`PanelArray` have in common;
        zero if not given.
    iq_image_std, user_iq_image_std : array_like, scalar or (M,); scalar or (K,), optional
        Standard deviation of the complex image of the opposite subcarrier that every element's mixer, or
        every user's, adds to a subcarrier: 0.03 for images of -30 dB; zero if not given.
    array_rotation_std_rad : array_like, scalar or (3,), optional
        Standard deviations of a small rotation of the array about its own axes: boresight (roll), horizontal
        (tilt) and vertical (azimuth); zero if not given.
    coupling_std : array_like, scalar, optional
        Standard deviation of the complex coupling between neighbours of a planar array; zero if not given.
    noise_covariance : array_like of complex, shape (M, M), or "estimate", optional
        Shape of the noise over the elements, Hermitian, positive definite and of trace M, so that
        ``noise_variance`` is its mean power; ``"estimate"``: not white, or with interferers, to be found from
        the samples, as is the variance then. White if not given.

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
    iq_image_std: NDArray[np.float64] | None = None
    user_iq_image_std: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        for name, value in checked_observation(given).items():
            object.__setattr__(self, name, value)

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
        return usable_samples(self.received.shape, self.sample_mask, self.element_mask)

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
        return write_observation(path, {field.name: getattr(self, field.name) for field in fields(self)})

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
        with naming(path):
            return cls(**read_observation(path, [field.name for field in fields(cls)]))
