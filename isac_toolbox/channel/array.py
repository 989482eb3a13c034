"""Uniform planar array: steering vectors and their derivatives."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from isac_toolbox._validation import as_array, as_scalar, check_finite, check_integer, check_positive

__all__ = ["SPEED_OF_LIGHT_M_S", "UniformPlanarArray"]

SPEED_OF_LIGHT_M_S = 299_792_458.0

RealArray = NDArray[np.float64]
ComplexArray = NDArray[np.complex128]


@dataclass(frozen=True)
class UniformPlanarArray:
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
        for name in ("azimuth_rad", "elevation_rad"):
            angle = as_array(name, getattr(self, name), float)
            if angle.ndim:
                raise TypeError(f"{name} must be one number, got an array of shape {angle.shape}")
            check_finite(name, angle)

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
    def axes(self) -> RealArray:
        """Boresight, horizontal and vertical unit vectors as rows, shape (3, 3), world frame."""
        ca, sa = np.cos(self.azimuth_rad), np.sin(self.azimuth_rad)
        ce, se = np.cos(self.elevation_rad), np.sin(self.elevation_rad)
        return np.array([[ce * ca, ce * sa, se], [-sa, ca, 0.0], [-se * ca, -se * sa, ce]])

    @property
    def phase_slopes(self) -> tuple[RealArray, RealArray]:
        """Phase per unit direction cosine, ``2 pi d m``, shapes (M_h,) and (M_v,)."""
        slopes = [
            2 * np.pi * d * (np.arange(n, dtype=np.float64) - (n - 1) / 2)
            for d, n in zip(self.spacings, self.shape, strict=True)
        ]
        return slopes[0], slopes[1]

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
            ``exp(+j 2 pi (d_h m_h u_h + d_v m_v u_v))``.

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
        return self.steering_from_cosines(*self.direction_cosines(vectors))

    def steering_from_cosines(self, u_h: ArrayLike, u_v: ArrayLike) -> ComplexArray:
        """Return the steering vectors from direction cosines of equal shape (...,), giving (..., M)."""
        slope_h, slope_v = self.phase_slopes
        a_h = np.exp(1j * np.asarray(u_h, dtype=float)[..., None] * slope_h)
        a_v = np.exp(1j * np.asarray(u_v, dtype=float)[..., None] * slope_v)
        return (a_h[..., :, None] * a_v[..., None, :]).reshape(*a_h.shape[:-1], self.n_elements)

    def steering_derivatives(self, steering: ComplexArray) -> tuple[ComplexArray, ComplexArray]:
        """Return derivatives of far-field steering vectors (..., M) in ``u_h`` and ``u_v``, each (..., M)."""
        slope_h, slope_v = self.phase_slopes
        n_h, n_v = self.shape
        return steering * (1j * np.repeat(slope_h, n_v)), steering * (1j * np.tile(slope_v, n_h))

    def element_offsets_m(self, carrier_hz: float) -> RealArray:
        """Return the element positions relative to the array's centre in the world frame, shape (M, 3)."""
        wavelength = SPEED_OF_LIGHT_M_S / carrier_hz
        slope_h, slope_v = self.phase_slopes
        along_h = slope_h * wavelength / (2 * np.pi)
        along_v = slope_v * wavelength / (2 * np.pi)
        _, axis_h, axis_v = self.axes
        grid = along_h[:, None, None] * axis_h + along_v[None, :, None] * axis_v
        return grid.reshape(self.n_elements, 3)

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
