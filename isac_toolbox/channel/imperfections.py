"""What is wrong with the array and the noise of a simulated receiver, and what is known of it beforehand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import expm

from isac_toolbox.channel.array import SPEED_OF_LIGHT_M_S, AntennaArray, ArbitraryArray, UniformPlanarArray
from isac_toolbox.channel.hardware import ESTIMATED_NOISE

__all__ = [
    "ImperfectionSettings",
    "Imperfections",
    "MountedArray",
    "coupling_matrix",
    "draw_imperfections",
    "draw_interference",
    "hardware_priors",
    "interference_covariance",
    "noise_shape",
]

RealArray = NDArray[np.float64]
ComplexArray = NDArray[np.complex128]

# Interferers stand at most so far from the boresight's azimuth, and from the horizon.
_INTERFERER_AZIMUTH_RAD, _INTERFERER_ELEVATION_RAD = np.radians(60.0), np.radians(10.0)


class ImperfectionSettings(Protocol):
    """What the drawing of errors needs to know; :class:`isac_toolbox.Scenario` has it."""

    @property
    def carrier_hz(self) -> float: ...
    @property
    def beam_squint(self) -> bool: ...
    @property
    def element_gain_std(self) -> float: ...
    @property
    def element_phase_std_rad(self) -> float: ...
    @property
    def element_position_std_wavelengths(self) -> float: ...
    @property
    def n_dead_elements(self) -> int: ...
    @property
    def array_rotation_std_rad(self) -> float | tuple[float, float, float]: ...
    @property
    def coupling(self) -> float: ...
    @property
    def coupling_decay(self) -> float: ...
    @property
    def noise_correlation(self) -> float: ...
    @property
    def noise_spread_db(self) -> float: ...
    @property
    def n_interferers(self) -> int: ...
    @property
    def interferer_power_db(self) -> float: ...
    @property
    def interferer_band_share(self) -> float: ...
    @property
    def iq_image_db(self) -> float | None: ...
    @property
    def user_iq_image_db(self) -> float | None: ...


@dataclass(frozen=True, eq=False)
class MountedArray(ArbitraryArray):
    """An array as it is mounted: turned about its own axes, its elements off their places.

    Unlike other arrays its phase reference is that of the stated array, not the mean of its elements.
    """

    rotation_rad: RealArray = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        """Take positions (M, 3) as they come: the stated array has been checked."""

    @property
    def axes(self) -> RealArray:
        """Boresight, horizontal and vertical unit vectors as rows, shape (3, 3), world frame."""
        # in the array's own axes v turns to v + rotation x v + ...; rows of axes turn the other way
        turn = expm(np.cross(np.eye(3), self.rotation_rad))
        return np.asarray(turn.T @ super().axes)


@dataclass(frozen=True, eq=False)
class Imperfections:
    """Errors of a receive array and the shape of its noise.

    Attributes
    ----------
    element_response : ndarray of complex, shape (M,)
        ``exp(alpha_m + j beta_m)``, zero for dead elements.
    rotation_rad : ndarray, shape (3,)
        Rotation of the array about its own axes: boresight, horizontal, vertical.
    displacements_wavelengths : ndarray, shape (M, 3)
        Of the elements off their places, along the same axes.
    coupling : ndarray of complex, shape (M, M), or None
        What the elements hear of each other; None without any.
    noise_covariance : ndarray, shape (M, M), or None
        Shape of the noise, of trace M; None where it is white.
    interferer_directions : ndarray, shape (I, 3)
        Unit vectors towards interferers, world frame.
    """

    element_response: ComplexArray
    rotation_rad: RealArray
    displacements_wavelengths: RealArray
    coupling: ComplexArray | None
    noise_covariance: RealArray | None
    interferer_directions: RealArray

    def mounted(self, stated: UniformPlanarArray) -> AntennaArray:
        """Return the stated array as it is mounted; itself where it is as stated."""
        if not (np.any(self.rotation_rad) or np.any(self.displacements_wavelengths)):
            return stated
        return MountedArray(
            _positions_wavelengths(stated) + self.displacements_wavelengths,
            stated.azimuth_rad,
            stated.elevation_rad,
            self.rotation_rad,
        )

    def heard(self, channel: ComplexArray) -> ComplexArray:
        """Return channels (..., M) behind the elements: coupled, then with the response of each."""
        if self.coupling is not None:
            channel = channel @ self.coupling.T
        return channel if np.all(self.element_response == 1) else channel * self.element_response

    def as_truth(self, carrier_hz: float) -> dict[str, Any]:
        """Fields of :class:`isac_toolbox.Truth`."""
        return {
            "element_response": self.element_response,
            "array_rotation_rad": self.rotation_rad,
            "element_displacements_m": self.displacements_wavelengths * SPEED_OF_LIGHT_M_S / carrier_hz,
            "coupling_matrix": self.coupling,
            "noise_covariance": self.noise_covariance,
            "interferer_directions": self.interferer_directions,
        }


def draw_imperfections(
    settings: ImperfectionSettings, array: UniformPlanarArray, streams: Sequence[np.random.Generator]
) -> Imperfections:
    """Draw all errors of a receiver, each from a stream of its own (six of them)."""
    gains, turns, places, dead, levels, interferers = streams
    n_elements = array.n_elements
    errors = gains.standard_normal((2, n_elements))
    response = np.exp(settings.element_gain_std * errors[0] + 1j * settings.element_phase_std_rad * errors[1])
    response[dead.permutation(n_elements)[: settings.n_dead_elements]] = 0
    return Imperfections(
        element_response=response,
        rotation_rad=np.asarray(settings.array_rotation_std_rad) * turns.standard_normal(3),
        displacements_wavelengths=settings.element_position_std_wavelengths
        * places.standard_normal((n_elements, 3)),
        coupling=coupling_matrix(array, settings.coupling, settings.coupling_decay),
        noise_covariance=noise_shape(array, settings.noise_correlation, settings.noise_spread_db, levels),
        interferer_directions=_draw_directions(array, settings.n_interferers, interferers),
    )


def _positions_wavelengths(array: UniformPlanarArray) -> RealArray:
    """Element positions along boresight, horizontal and vertical axis, shape (M, 3)."""
    along_h, along_v = (slope / (2 * np.pi) for slope in array.phase_slopes)
    grid = np.meshgrid(along_h, along_v, indexing="ij")
    return np.stack([np.zeros(array.n_elements), *(axis.ravel() for axis in grid)], axis=-1)


def coupling_matrix(array: UniformPlanarArray, coupling: float, decay: float) -> ComplexArray | None:
    """Return what every element hears of the others, one on the diagonal, shape (M, M); None without any.

    A wave that travels from element to element: ``coupling (d / d_0)^-decay exp(-j 2 pi d)`` at a distance of
    ``d`` wavelengths, with ``d_0`` that of the closest elements.
    """
    if coupling == 0 or array.n_elements == 1:
        return None
    positions = _positions_wavelengths(array)
    distances = np.linalg.norm(positions[:, None] - positions, axis=-1)
    np.fill_diagonal(distances, np.inf)
    relative = distances / distances.min()
    np.fill_diagonal(distances, 0.0)
    np.fill_diagonal(relative, 1.0)
    matrix = coupling * relative**-decay * np.exp(-2j * np.pi * distances)
    np.fill_diagonal(matrix, 1.0)
    return matrix


def noise_shape(
    array: UniformPlanarArray, correlation: float, spread_db: float, rng: np.random.Generator
) -> RealArray | None:
    """Return the shape of noise over the elements, of trace M, shape (M, M); None where it is white.

    The correlation falls geometrically with the distance in rows plus columns, and levels of elements differ
    by a Gaussian number of decibels.
    """
    if correlation == 0 and spread_db == 0:
        return None
    columns, rows = (
        correlation ** np.abs(np.subtract.outer(np.arange(size), np.arange(size))).astype(float)
        for size in array.shape
    )
    amplitude = 10 ** (spread_db / 20 * rng.standard_normal(array.n_elements))
    shape = np.kron(columns, rows) * np.outer(amplitude, amplitude)
    return np.asarray(shape * (array.n_elements / np.trace(shape)))


def _draw_directions(array: AntennaArray, count: int, rng: np.random.Generator) -> RealArray:
    """Draw unit vectors (count, 3) in front of the array, near the horizon."""
    largest = (_INTERFERER_AZIMUTH_RAD, _INTERFERER_ELEVATION_RAD)
    azimuth, elevation = (rng.uniform(-1, 1, (count, 2)) * largest + (array.azimuth_rad, 0.0)).T
    level = np.cos(elevation)
    return np.stack([level * np.cos(azimuth), level * np.sin(azimuth), np.sin(elevation)], axis=-1)


def draw_interference(
    settings: ImperfectionSettings,
    errors: Imperfections,
    array: AntennaArray,
    frequencies_hz: RealArray,
    n_symbols: int,
    users_power: float,
    rng: np.random.Generator,
) -> ComplexArray:
    """Return the sum of plane waves from interferers, shape (N, M, T), heard like the channel.

    Each sends independent Gaussian symbols on a band of ``interferer_band_share`` of the subcarriers at a
    random place; its mean power over all subcarriers is ``interferer_power_db`` above ``users_power``.
    """
    n_sub, n_interferers = frequencies_hz.size, len(errors.interferer_directions)
    width = max(1, round(settings.interferer_band_share * n_sub))
    power = users_power * 10 ** (settings.interferer_power_db / 10) * n_sub / width
    first = rng.integers(0, n_sub - width + 1, n_interferers)
    inside = (np.arange(n_sub)[:, None] >= first) & (np.arange(n_sub)[:, None] < first + width)
    parts = rng.standard_normal((2, n_sub, n_interferers, n_symbols))
    symbols = np.sqrt(power / 2) * inside[..., None] * (parts[0] + 1j * parts[1])
    phases = array.phases(*array.direction_cosines(errors.interferer_directions))
    stretch = 1 + frequencies_hz / settings.carrier_hz if settings.beam_squint else np.ones(1)
    responses = errors.heard(np.exp(1j * stretch[:, None, None] * phases))
    return np.asarray(responses.transpose(0, 2, 1) @ symbols)


def interference_covariance(
    settings: ImperfectionSettings, errors: Imperfections, array: AntennaArray, users_power: float
) -> ComplexArray | None:
    """Return the covariance (M, M) of what :func:`draw_interference` draws, mean over the band; None without.

    Beam squint, which makes it differ over the band, is left out.
    """
    if not len(errors.interferer_directions):
        return None
    phases = array.phases(*array.direction_cosines(errors.interferer_directions))
    responses = errors.heard(np.exp(1j * phases))
    power = users_power * 10 ** (settings.interferer_power_db / 10)
    return np.asarray(power * (responses.T @ responses.conj()))


def hardware_priors(settings: ImperfectionSettings) -> dict[str, Any]:
    """Return what an observation says of the receiver beforehand, as its fields."""
    deviations = {
        "element_gain_std": settings.element_gain_std,
        "element_phase_std_rad": settings.element_phase_std_rad,
        "array_rotation_std_rad": settings.array_rotation_std_rad,
        "coupling_std": settings.coupling,
        "iq_image_std": _amplitude(settings.iq_image_db),
        "user_iq_image_std": _amplitude(settings.user_iq_image_db),
    }
    priors: dict[str, Any] = {name: np.asarray(value) for name, value in deviations.items() if np.any(value)}
    if settings.noise_correlation or settings.noise_spread_db or settings.n_interferers:
        priors["noise_covariance"] = ESTIMATED_NOISE
    return priors


def _amplitude(power_db: float | None) -> float:
    return 0.0 if power_db is None else float(10 ** (power_db / 20))
