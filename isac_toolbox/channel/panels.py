"""Receive arrays of several planar panels, each with a place and an orientation of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from isac_toolbox._validation import as_array, as_scalar, check_finite, check_positive, check_shape
from isac_toolbox.channel.array import SPEED_OF_LIGHT_M_S, ArbitraryArray, UniformPlanarArray

__all__ = ["PanelArray"]

RealArray = NDArray[np.float64]

# Elements closer than this share of a wavelength are one place.
_SAME_PLACE = 1e-6
# Length of the mean boresight below which panels look to all sides.
_NO_FRONT = 1e-6


@dataclass(frozen=True, eq=False, init=False)
class PanelArray(ArbitraryArray):
    """Planar panels that receive together, as one array of all their elements, panel after panel.

    Directions are taken to be in front of all panels together, at a positive cosine with the common
    boresight, and elements hear equally from all sides. The phase reference is the mean of the elements.
    Wavefronts may be planar over all panels, or spherical; phases between panels that are not known are those
    of their elements (:attr:`panel_of_element` says which belong together).

    Parameters
    ----------
    panels : sequence of UniformPlanarArray
        Each with its own shape, spacing, azimuth and elevation.
    places_m : array_like, shape (P, 3)
        Centres of the panels in the world frame, relative to any point.
    carrier_hz : float
        Carrier, by which places become wavelengths.
    azimuth_rad, elevation_rad : float, optional
        Orientation of the common boresight; without them that of the mean of the panels' boresights.

    Raises
    ------
    TypeError, ValueError
        If there is no panel, panels overlap or look to all sides; as for :class:`ArbitraryArray`.

    Notes
    -----
    Array response: docs/theory.md, section 1.1, that of elements at any positions.

    Examples
    --------
    >>> import isac_toolbox as isac
    >>> panel = isac.UniformPlanarArray((4, 4))
    >>> mast = isac.PanelArray([panel, panel], [[0, -0.5, 0], [0, 0.5, 0]], carrier_hz=3.5e9)
    >>> mast.n_elements, mast.panel_of_element[[0, 16]].tolist()
    (32, [0, 1])
    """

    _: KW_ONLY
    panels: tuple[UniformPlanarArray, ...]
    places_m: RealArray
    carrier_hz: float

    def __init__(
        self,
        panels: Sequence[UniformPlanarArray],
        places_m: ArrayLike,
        carrier_hz: float,
        azimuth_rad: float | None = None,
        elevation_rad: float | None = None,
    ) -> None:
        panels, places = _checked_panels(panels, places_m)
        carrier = check_positive("carrier_hz", as_scalar(carrier_hz))
        for name, value in (("panels", panels), ("places_m", places), ("carrier_hz", carrier)):
            object.__setattr__(self, name, value)
        if azimuth_rad is None or elevation_rad is None:
            common = _common_orientation(panels)
            azimuth_rad = common[0] if azimuth_rad is None else azimuth_rad
            elevation_rad = common[1] if elevation_rad is None else elevation_rad
        frame = UniformPlanarArray((1, 1), 0.5, azimuth_rad, elevation_rad)
        offsets_m = np.vstack(
            [place + panel.element_offsets_m(carrier) for panel, place in zip(panels, places, strict=True)]
        )
        positions = offsets_m @ frame.axes.T * (carrier / SPEED_OF_LIGHT_M_S)
        _refuse_overlaps(positions)
        super().__init__(positions, frame.azimuth_rad, frame.elevation_rad)

    @cached_property
    def panel_of_element(self) -> NDArray[np.int64]:
        """Panel of every element, shape (M,)."""
        return np.repeat(np.arange(len(self.panels)), [panel.n_elements for panel in self.panels])

    @property
    def description(self) -> str:
        """Its size in words."""
        return f"the array of {len(self.panels)} panels with {self.n_elements} elements"


def _checked_panels(
    panels: Sequence[UniformPlanarArray], places_m: ArrayLike
) -> tuple[tuple[UniformPlanarArray, ...], RealArray]:
    """Return panels and their places (P, 3)."""
    if isinstance(panels, UniformPlanarArray) or not isinstance(panels, Sequence):
        raise TypeError(f"panels must be a sequence of UniformPlanarArray, got {type(panels).__name__}")
    others = [type(panel).__name__ for panel in panels if not isinstance(panel, UniformPlanarArray)]
    if others:
        raise TypeError(f"panels must be UniformPlanarArray each, got {others[0]}")
    if not panels:
        raise ValueError("panels must hold at least one panel, got none")
    places = as_array("places_m", places_m, float)
    check_shape("places_m", places, (len(panels), 3), "(P, 3)")
    check_finite("places_m", places)
    places.setflags(write=False)
    return tuple(panels), places


def _common_orientation(panels: Sequence[UniformPlanarArray]) -> tuple[float, float]:
    """Return azimuth and elevation of the mean boresight."""
    mean = np.mean([panel.axes[0] for panel in panels], axis=0)
    if np.linalg.norm(mean) < _NO_FRONT:
        raise ValueError(
            "panels look to all sides and have no common front: give azimuth_rad and elevation_rad"
        )
    return float(np.arctan2(mean[1], mean[0])), float(np.arctan2(mean[2], np.hypot(mean[0], mean[1])))


def _refuse_overlaps(positions_wavelengths: RealArray) -> None:
    places = np.unique(np.round(positions_wavelengths / _SAME_PLACE), axis=0)
    if len(places) < len(positions_wavelengths):
        raise ValueError(
            f"places_m must keep panels apart, got {len(positions_wavelengths) - len(places)} elements where "
            "others are"
        )
