"""Receive arrays: steering vectors and their derivatives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from isac_toolbox._validation import as_array, as_scalar, check_finite, check_integer, check_positive

__all__ = ["SPEED_OF_LIGHT_M_S", "AntennaArray", "ArbitraryArray", "UniformPlanarArray"]

SPEED_OF_LIGHT_M_S = 299_792_458.0
# Spread relative to the widest below which elements lie on a line or in a plane.
_FLAT = 1e-6
# Distance of the mean from the origin, relative to the widest spread, that is rounding.
_CENTRED = 1e-12
# Cosine with the boresight below which the derivatives of a response are those at it.
_GRAZING = 1e-3

RealArray = NDArray[np.float64]
ComplexArray = NDArray[np.complex128]


class AntennaArray(ABC):
    """What any receive array has: an orientation, elements, and responses to plane and spherical waves."""

    azimuth_rad: float
    elevation_rad: float

    @property
    @abstractmethod
    def n_elements(self) -> int:
        """Number of antennas M."""

    @property
    @abstractmethod
    def sees_cosines(self) -> tuple[bool, bool]:
        """Whether it sees the direction cosine (horizontal, vertical)."""

    @property
    @abstractmethod
    def cosine_cells(self) -> RealArray:
        """Resolution in the direction cosines, shape (2,)."""

    @property
    @abstractmethod
    def description(self) -> str:
        """Its size in words."""

    @property
    def axes(self) -> RealArray:
        """Boresight, horizontal and vertical unit vectors as rows, shape (3, 3), world frame."""
        ca, sa = np.cos(self.azimuth_rad), np.sin(self.azimuth_rad)
        ce, se = np.cos(self.elevation_rad), np.sin(self.elevation_rad)
        return np.array([[ce * ca, ce * sa, se], [-sa, ca, 0.0], [-se * ca, -se * sa, ce]])

    def direction_cosines(self, directions: ArrayLike) -> tuple[RealArray, RealArray]:
        """Return horizontal and vertical direction cosines of unit vectors (..., 3), each of shape (...,)."""
        cosines = np.asarray(directions, dtype=float) @ self.axes[1:].T
        return cosines[..., 0], cosines[..., 1]

    def steering(self, directions: ArrayLike) -> ComplexArray:
        """Return the far-field steering vectors of unit vectors in the world frame.

        Parameters
        ----------
        directions : array_like, shape (..., 3)
            Unit vectors from the array towards the points.

        Returns
        -------
        ndarray, shape (..., M), complex128
            ``exp(+j 2 pi (d_h m_h u_h + d_v m_v u_v))``, or in general ``exp(+j 2 pi x_m . e)``.

        Raises
        ------
        ValueError
            If the last axis is not of length 3 or the vectors are not of unit length.
        """
        vectors = as_array("directions", directions, float)
        if vectors.ndim == 0 or vectors.shape[-1] != 3:
            raise ValueError(f"directions must have shape (..., 3), got {vectors.shape}")
        check_finite("directions", vectors)
        lengths = np.linalg.norm(vectors, axis=-1)
        if np.any(np.abs(lengths - 1) > 1e-6):
            worst = float(lengths.flat[np.argmax(np.abs(lengths - 1))])
            raise ValueError(f"directions must be unit vectors, got a vector of length {worst}")
        return self._towards(vectors)

    def _towards(self, vectors: RealArray) -> ComplexArray:
        """Steering vectors of checked unit vectors."""
        return self.steering_from_cosines(*self.direction_cosines(vectors))

    @abstractmethod
    def steering_from_cosines(self, u_h: ArrayLike, u_v: ArrayLike) -> ComplexArray:
        """Return the steering vectors from direction cosines of equal shape (...,), giving (..., M)."""

    @abstractmethod
    def phases(self, u_h: ArrayLike, u_v: ArrayLike) -> RealArray:
        """Return the phases in radians of the steering vectors from direction cosines (...,), (..., M)."""

    @abstractmethod
    def response_with_derivatives(self, u_h: RealArray, u_v: RealArray) -> ComplexArray:
        """Return steering vectors of cosines (L,) and their derivatives in ``u_h`` and ``u_v``, (3, L, M)."""

    @abstractmethod
    def element_offsets_m(self, carrier_hz: float) -> RealArray:
        """Return the element positions relative to the array's centre in the world frame, shape (M, 3)."""

    def spherical_steering(self, displacements_m: ArrayLike, carrier_hz: float) -> ComplexArray:
        """Return the near-field response to points at ``displacements_m`` (..., 3) off the centre, (..., M).

        The phase is ``-(2 pi / lambda) (|p - p_m| - |p - p_b|)`` with exact element distances.
        """
        vectors, distances, radii = self._element_distances(displacements_m, carrier_hz)
        del vectors
        return np.exp(-1j * (2 * np.pi * carrier_hz / SPEED_OF_LIGHT_M_S) * (distances - radii[..., None]))

    def spherical_jacobian(self, displacements_m: ArrayLike, carrier_hz: float) -> ComplexArray:
        """Return the derivative of :meth:`spherical_steering` in the point's coordinates, shape (..., M, 3).

        ``-j (2 pi / lambda) (e_mp - e_bp) a_m`` with ``e`` the unit vectors from element and centre.
        """
        vectors, distances, radii = self._element_distances(displacements_m, carrier_hz)
        wavenumber = 2 * np.pi * carrier_hz / SPEED_OF_LIGHT_M_S
        from_elements = vectors / distances[..., None]
        from_centre = np.asarray(displacements_m, dtype=float) / radii[..., None]
        steering = np.exp(-1j * wavenumber * (distances - radii[..., None]))
        return -1j * wavenumber * (from_elements - from_centre[..., None, :]) * steering[..., None]

    def _element_distances(
        self, displacements_m: ArrayLike, carrier_hz: float
    ) -> tuple[RealArray, RealArray, RealArray]:
        points = np.asarray(displacements_m, dtype=float)
        vectors = points[..., None, :] - self.element_offsets_m(carrier_hz)
        return vectors, np.linalg.norm(vectors, axis=-1), np.linalg.norm(points, axis=-1)

    def _check_orientation(self) -> None:
        for name in ("azimuth_rad", "elevation_rad"):
            angle = as_array(name, getattr(self, name), float)
            if angle.ndim:
                raise TypeError(f"{name} must be one number, got an array of shape {angle.shape}")
            check_finite(name, angle)


@dataclass(frozen=True)
class UniformPlanarArray(AntennaArray):
    """Planar array of ``shape[0] x shape[1]`` elements on a regular grid.

    At azimuth 0 and elevation 0 the boresight is +x, the horizontal axis +y and the vertical axis +z.
    Azimuth turns counter-clockwise seen from above; positive elevation tilts the boresight up.
    Element ``i_h * M_v + i_v`` is the one in column ``i_h`` and row ``i_v``; indices are centred, so the
    phase reference is the middle of the array.

    Parameters
    ----------
    shape : tuple of int
        Number of elements (horizontal, vertical), each at least 1.
    spacing_wavelengths : float or tuple of float
        Element spacing (horizontal, vertical) in wavelengths.
    azimuth_rad, elevation_rad : float
        Orientation of the boresight.

    Notes
    -----
    Array response: docs/theory.md, section 1. A single row or column is a linear array, which does not see
    the cosine across it (:attr:`sees_cosines`): a path is then a cone around the array's axis (section 7.3).

    Examples
    --------
    >>> import numpy as np
    >>> import isac_toolbox as isac
    >>> array = isac.UniformPlanarArray((4, 2), elevation_rad=-0.1)
    >>> array.n_elements
    8
    >>> response = array.steering(array.axes[0])  # towards the boresight all elements are in phase
    >>> np.allclose(response, 1)
    True
    """

    shape: tuple[int, int] = (8, 8)
    spacing_wavelengths: float | tuple[float, float] = 0.5
    azimuth_rad: float = 0.0
    elevation_rad: float = 0.0

    def __post_init__(self) -> None:
        try:
            n_h, n_v = self.shape
        except (TypeError, ValueError):
            raise TypeError(f"shape must be a pair (horizontal, vertical), got {self.shape!r}") from None
        n_h, n_v = check_integer("shape[0]", n_h, 1), check_integer("shape[1]", n_v, 1)
        object.__setattr__(self, "shape", (n_h, n_v))
        for name in ("spacing_wavelengths", "azimuth_rad", "elevation_rad"):
            object.__setattr__(self, name, as_scalar(getattr(self, name)))
        spacing = self.spacing_wavelengths
        if isinstance(spacing, (tuple, list)) and len(spacing) != 2:
            raise ValueError(
                f"spacing_wavelengths must be one number or a pair (horizontal, vertical), got {spacing!r}"
            )
        for spacing in self.spacings:
            check_positive("spacing_wavelengths", spacing)
        self._check_orientation()

    @property
    def n_elements(self) -> int:
        """Number of antennas M."""
        return self.shape[0] * self.shape[1]

    @property
    def sees_cosines(self) -> tuple[bool, bool]:
        """Whether it sees the direction cosine (horizontal, vertical): one element along an axis does not."""
        return self.shape[0] > 1, self.shape[1] > 1

    @property
    def spacings(self) -> tuple[float, float]:
        """Element spacing (horizontal, vertical) in wavelengths."""
        s = self.spacing_wavelengths
        return (s[0], s[1]) if isinstance(s, (tuple, list)) else (s, s)

    @property
    def cosine_cells(self) -> RealArray:
        """Resolution in the direction cosines, ``1 / (M d)``, shape (2,)."""
        return 1 / (np.asarray(self.shape) * np.asarray(self.spacings))

    @property
    def description(self) -> str:
        """Its size in words."""
        return f"the array of shape {self.shape}"

    @property
    def phase_slopes(self) -> tuple[RealArray, RealArray]:
        """Phase per unit direction cosine, ``2 pi d m``, shapes (M_h,) and (M_v,)."""
        slopes = [
            2 * np.pi * d * (np.arange(n, dtype=np.float64) - (n - 1) / 2)
            for d, n in zip(self.spacings, self.shape, strict=True)
        ]
        return slopes[0], slopes[1]

    def steering_from_cosines(self, u_h: ArrayLike, u_v: ArrayLike) -> ComplexArray:
        """Return the steering vectors from direction cosines of equal shape (...,), giving (..., M)."""
        slope_h, slope_v = self.phase_slopes
        a_h = np.exp(1j * np.asarray(u_h, dtype=float)[..., None] * slope_h)
        a_v = np.exp(1j * np.asarray(u_v, dtype=float)[..., None] * slope_v)
        return (a_h[..., :, None] * a_v[..., None, :]).reshape(*a_h.shape[:-1], self.n_elements)

    def phases(self, u_h: ArrayLike, u_v: ArrayLike) -> RealArray:
        """Return the phases in radians of the steering vectors from direction cosines (...,), (..., M)."""
        slope_h, slope_v = self.phase_slopes
        along_h = np.asarray(u_h, dtype=float)[..., None, None] * slope_h[:, None]
        along_v = np.asarray(u_v, dtype=float)[..., None, None] * slope_v
        return np.asarray((along_h + along_v).reshape(*np.shape(u_h), self.n_elements))

    def steering_derivatives(self, steering: ComplexArray) -> tuple[ComplexArray, ComplexArray]:
        """Return derivatives of far-field steering vectors (..., M) in ``u_h`` and ``u_v``, each (..., M)."""
        slope_h, slope_v = self.phase_slopes
        n_h, n_v = self.shape
        return steering * (1j * np.repeat(slope_h, n_v)), steering * (1j * np.tile(slope_v, n_h))

    def response_with_derivatives(self, u_h: RealArray, u_v: RealArray) -> ComplexArray:
        """Return steering vectors of cosines (L,) and their derivatives in ``u_h`` and ``u_v``, (3, L, M)."""
        response = self.steering_from_cosines(u_h, u_v)
        return np.stack([response, *self.steering_derivatives(response)])

    def element_offsets_m(self, carrier_hz: float) -> RealArray:
        """Return the element positions relative to the array's centre in the world frame, shape (M, 3)."""
        wavelength = SPEED_OF_LIGHT_M_S / carrier_hz
        slope_h, slope_v = self.phase_slopes
        along_h = slope_h * wavelength / (2 * np.pi)
        along_v = slope_v * wavelength / (2 * np.pi)
        _, axis_h, axis_v = self.axes
        grid = along_h[:, None, None] * axis_h + along_v[None, :, None] * axis_v
        return grid.reshape(self.n_elements, 3)


@dataclass(frozen=True, eq=False)
class ArbitraryArray(AntennaArray):
    """Array of elements at any positions, in the order given.

    The axes are those of :class:`UniformPlanarArray`: at azimuth 0 and elevation 0 the boresight is +x, the
    horizontal axis +y and the vertical axis +z. Directions are taken to be in front, at a positive cosine
    with the boresight. The phase reference is the mean of the positions.

    Parameters
    ----------
    positions_wavelengths : array_like, shape (M, 2) or (M, 3)
        Elements along the horizontal and the vertical axis, or along boresight, horizontal and vertical axis,
        in wavelengths of the carrier.
    azimuth_rad, elevation_rad : float
        Orientation of the boresight.

    Raises
    ------
    TypeError, ValueError
        If there are fewer than two distinct elements; if the elements lie in a plane that the boresight is
        not normal to; or on a line that is neither horizontal nor vertical.

    Notes
    -----
    Array response: docs/theory.md, section 1. Elements on a line are a linear array, which does not see the
    cosine across it (:attr:`sees_cosines`).

    Examples
    --------
    >>> import numpy as np
    >>> import isac_toolbox as isac
    >>> angles = 2 * np.pi * np.arange(8) / 8
    >>> ring = isac.ArbitraryArray(0.6 * np.column_stack([np.cos(angles), np.sin(angles)]))
    >>> ring.n_elements, ring.sees_cosines
    (8, (True, True))
    """

    positions_wavelengths: RealArray
    azimuth_rad: float = 0.0
    elevation_rad: float = 0.0

    def __post_init__(self) -> None:
        name = "positions_wavelengths"
        given = as_array(name, self.positions_wavelengths, float)
        if given.ndim != 2 or given.shape[1] not in (2, 3):
            raise ValueError(f"{name} must have shape (M, 2) or (M, 3), got {given.shape}")
        check_finite(name, given)
        if len(np.unique(given, axis=0)) < 2:
            raise ValueError(
                f"{name} must hold at least two distinct elements, got {len(given)} of one place"
            )
        for angle in ("azimuth_rad", "elevation_rad"):
            object.__setattr__(self, angle, as_scalar(getattr(self, angle)))
        self._check_orientation()
        positions = np.hstack([np.zeros((len(given), 3 - given.shape[1])), given])
        centre = positions.mean(axis=0)
        if np.max(np.abs(centre)) > _CENTRED * np.max(np.ptp(positions, axis=0)):
            positions = positions - centre
        _check_frame(name, positions)
        positions.setflags(write=False)
        object.__setattr__(self, name, positions)

    @classmethod
    def from_metres(
        cls, positions_m: ArrayLike, carrier_hz: float, azimuth_rad: float = 0.0, elevation_rad: float = 0.0
    ) -> ArbitraryArray:
        """Return the array of positions in metres.

        Parameters
        ----------
        positions_m : array_like, shape (M, 2) or (M, 3)
        carrier_hz : float
        azimuth_rad, elevation_rad : float

        Raises
        ------
        TypeError, ValueError
            As for the array itself, or if the carrier is not positive.
        """
        carrier = check_positive("carrier_hz", as_scalar(carrier_hz))
        positions = as_array("positions_m", positions_m, float)
        return cls(positions * (carrier / SPEED_OF_LIGHT_M_S), azimuth_rad, elevation_rad)

    @property
    def n_elements(self) -> int:
        """Number of antennas M."""
        return len(self.positions_wavelengths)

    @property
    def sees_cosines(self) -> tuple[bool, bool]:
        """Whether it sees the direction cosine (horizontal, vertical): without spread along an axis not."""
        spread = np.ptp(self.positions_wavelengths, axis=0)
        seen = spread > _FLAT * spread.max()
        return bool(seen[1]), bool(seen[2])

    @property
    def cosine_cells(self) -> RealArray:
        """Resolution in the direction cosines, that of even elements of the same spread, shape (2,)."""
        spread = np.sqrt(12 * np.mean(self.positions_wavelengths[:, 1:] ** 2, axis=0))
        return np.where(self.sees_cosines, 1 / np.maximum(spread, 0.5), 2.0)

    @property
    def description(self) -> str:
        """Its size in words."""
        return f"the array of {self.n_elements} elements"

    @cached_property
    def highest_sidelobe(self) -> float:
        """Power of the highest sidelobe over differences of direction cosines, relative to the main lobe.

        Differences of directions at opposite edges of sight, up to a cell, do not count.
        """
        cells = self.cosine_cells
        grids = [
            np.arange(-2.0, 2.0, cell / 4) if seen else np.zeros(1)
            for cell, seen in zip(cells, self.sees_cosines, strict=True)
        ]
        horizontal, vertical = (
            np.exp(2j * np.pi * np.multiply.outer(grid, along))
            for grid, along in zip(grids, self.positions_wavelengths.T[1:], strict=True)
        )
        power = np.abs(horizontal @ vertical.T / self.n_elements) ** 2
        in_cells = np.hypot((grids[0] / cells[0])[:, None], grids[1] / cells[1])
        apart = np.hypot(grids[0][:, None], grids[1])
        largest = 2 - max(cell for cell, seen in zip(cells, self.sees_cosines, strict=True) if seen)
        return float(np.max(power, where=(in_cells > 1) & (apart < largest), initial=0.0))

    def _phases_along_axes(self, directions: RealArray) -> RealArray:
        """Phases (..., M) of plane waves from directions (..., 3) in the array's own axes."""
        return np.asarray(2 * np.pi * directions @ self.positions_wavelengths.T)

    def _towards(self, vectors: RealArray) -> ComplexArray:
        return np.asarray(np.exp(1j * self._phases_along_axes(vectors @ self.axes.T)))

    def steering_from_cosines(self, u_h: ArrayLike, u_v: ArrayLike) -> ComplexArray:
        """Return the steering vectors from direction cosines of equal shape (...,), giving (..., M)."""
        return np.asarray(np.exp(1j * self.phases(u_h, u_v)))

    def phases(self, u_h: ArrayLike, u_v: ArrayLike) -> RealArray:
        """Return the phases in radians of the steering vectors from direction cosines (...,), (..., M)."""
        cosines = np.stack([np.asarray(u_h, dtype=float), np.asarray(u_v, dtype=float)], axis=-1)
        forward = np.sqrt(np.maximum(1 - np.sum(cosines**2, axis=-1, keepdims=True), 0.0))
        return self._phases_along_axes(np.concatenate([forward, cosines], axis=-1))

    def response_with_derivatives(self, u_h: RealArray, u_v: RealArray) -> ComplexArray:
        """Return steering vectors of cosines (L,) and their derivatives in ``u_h`` and ``u_v``, (3, L, M)."""
        response = self.steering_from_cosines(u_h, u_v)
        forward = np.sqrt(np.maximum(1 - u_h**2 - u_v**2, _GRAZING**2))
        ahead, *across = self.positions_wavelengths.T
        slopes = [
            2j * np.pi * (along - np.multiply.outer(u / forward, ahead))
            for along, u in zip(across, (u_h, u_v), strict=True)
        ]
        return np.stack([response, *(response * slope for slope in slopes)])

    def element_offsets_m(self, carrier_hz: float) -> RealArray:
        """Return the element positions relative to the array's centre in the world frame, shape (M, 3)."""
        return np.asarray(self.positions_wavelengths @ self.axes * (SPEED_OF_LIGHT_M_S / carrier_hz))


def _check_frame(name: str, positions: RealArray) -> None:
    """Refuse centred elements (M, 3) in a plane or on a line that the array's axes do not fit."""
    _, spread, directions = np.linalg.svd(positions, full_matrices=False)
    flat = spread < _FLAT * spread[0]
    if len(spread) < 3 or flat[1]:
        line = np.abs(directions[0])
        if max(line[1], line[2]) < 1 - _FLAT:
            raise ValueError(
                f"{name}: elements on a line must lie along the horizontal or vertical axis, got one "
                f"along {np.round(directions[0], 4).tolist()} (boresight, horizontal, vertical); turn them"
            )
    elif flat[2] and abs(directions[2][0]) < 1 - _FLAT:
        raise ValueError(
            f"{name}: elements in a plane must have the boresight as its normal, got the normal "
            f"{np.round(directions[2], 4).tolist()} (boresight, horizontal, vertical); turn azimuth_rad, "
            "elevation_rad and the positions"
        )
