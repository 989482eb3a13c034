"""A uniform location grid over the region, and the atoms of its points for every user."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

from isac_toolbox.channel.atoms.dense import PathAtoms, make_atoms
from isac_toolbox.channel.atoms.receiver import Receiver
from isac_toolbox.channel.atoms.scene import PathJacobian, PathParameters, Paths, Scene
from isac_toolbox.channel.geometry import unit_vectors

__all__ = ["GridAtoms", "LocationGrid", "point_atoms", "point_parameters"]

RealArray = NDArray[np.float64]

# Cost cap: grid points at a time.
_BLOCK = 1024
# Cost cap: of delay responses kept between passes; what does not fit is made anew in every pass.
_KEPT_BYTES = 2**28


@dataclass(frozen=True, eq=False)
class LocationGrid:
    """Centres of equal cells that fill a box; points are made when asked for.

    Attributes
    ----------
    region_m : ndarray, shape (2, 3)
        Opposite corners of the box.
    counts : (int, int, int)
        Number of cells along each axis.
    """

    region_m: RealArray
    counts: tuple[int, int, int]

    @classmethod
    def of_step(cls, region_m: RealArray, step_m: float) -> LocationGrid:
        """Return a grid with cells of at most ``step_m`` along each axis."""
        counts = np.maximum(np.ceil((region_m[1] - region_m[0]) / step_m - 1e-9), 1)
        return cls(region_m, (int(counts[0]), int(counts[1]), int(counts[2])))

    @classmethod
    def of_size(cls, region_m: RealArray, n_points: int) -> LocationGrid:
        """Return a grid of about ``n_points`` cells that are as nearly cubes as the region allows.

        Axes along which the region is thinner than a cell get one cell, the others share the points.
        """
        extent = region_m[1] - region_m[0]
        long = extent > 0
        step = np.inf
        while long.any():
            step = float(np.exp(np.mean(np.log(extent[long])))) / n_points ** (1 / np.count_nonzero(long))
            thin = long & (extent < step)
            if not thin.any():
                break
            long = long & ~thin
        counts = np.where(long, np.maximum(np.round(extent / step), 1), 1)
        return cls(region_m, (int(counts[0]), int(counts[1]), int(counts[2])))

    def __len__(self) -> int:
        return prod(self.counts)

    @property
    def step_m(self) -> RealArray:
        """Distance of neighbours along each axis, shape (3,)."""
        return (self.region_m[1] - self.region_m[0]) / np.array(self.counts)

    def points(self, start: int = 0, stop: int | None = None) -> RealArray:
        """Return the points ``start`` to ``stop`` in row-major order of the axes, shape (G, 3)."""
        index = np.arange(start, len(self) if stop is None else min(stop, len(self)))
        cells = np.stack(np.unravel_index(index, self.counts), axis=1)
        return self.region_m[0] + (cells + 0.5) * self.step_m

    def blocks(self, size: int = _BLOCK) -> Iterator[RealArray]:
        """Yield the points (B, 3) of one block after another."""
        for start in range(0, len(self), size):
            yield self.points(start, start + size)


def point_parameters(points_m: RealArray, scene: Scene, receiver: Receiver) -> PathParameters:
    """Return the parameters of the path of every user over every point, point by point, without derivatives.

    The same as :func:`isac_toolbox.channel.atoms.scene.path_parameters`, whose Jacobian would be quadratic in
    the number of points (docs/theory.md, section 1).

    Parameters
    ----------
    points_m : ndarray, shape (G, 3)
    scene : Scene
        Its users and clock offsets; its own points do not matter.
    receiver : Receiver

    Returns
    -------
    PathParameters
        Of ``G K`` paths; the Jacobian has no columns.
    """
    n_users = len(scene.users_m)
    direction, to_bs = unit_vectors(receiver.bs_position_m, points_m)
    to_user = np.linalg.norm(points_m[:, None] - scene.users_m, axis=2)
    length = (to_bs[:, None] + to_user + scene.offsets_m).ravel()
    cosines = np.repeat(np.stack(receiver.array.direction_cosines(direction)), n_users, axis=1)
    steering = None
    if receiver.wavefront == "spherical":
        assert receiver.carrier_hz is not None
        near = receiver.array.spherical_steering(points_m - receiver.bs_position_m, receiver.carrier_hz)
        steering = np.repeat(near, n_users, axis=0)[None]
    return PathParameters(length, cosines, steering, PathJacobian.none(length.size))


def point_atoms(points_m: RealArray, scene: Scene, receiver: Receiver) -> PathAtoms:
    """Return the atoms of the path of every user over every point (G, 3), point by point."""
    n_users = len(scene.users_m)
    paths = Paths.build(np.zeros(n_users, bool), np.ones((n_users, len(points_m)), bool), np.zeros(0, int))
    return make_atoms(point_parameters(points_m, scene, receiver), paths, receiver)


class GridAtoms:
    """Atoms of all users over all points of a grid, in blocks, for many passes at one scene.

    Blocks are kept as long as they take less than 256 MiB in all and are made anew beyond that, so memory is
    bounded whatever the grid.

    Parameters
    ----------
    grid : LocationGrid
    scene : Scene
        Users and clock offsets.
    receiver : Receiver
    """

    def __init__(self, grid: LocationGrid, scene: Scene, receiver: Receiver) -> None:
        self.grid, self.scene, self.receiver = grid, scene, receiver
        self._kept: list[PathAtoms] = []
        self._room = _KEPT_BYTES

    def __iter__(self) -> Iterator[tuple[RealArray, PathAtoms]]:
        """Points (B, 3) of a block and the atoms of their ``B K`` paths, point by point."""
        for block, points in enumerate(self.grid.blocks()):
            if block < len(self._kept):
                yield points, self._kept[block]
                continue
            atoms = point_atoms(points, self.scene, self.receiver)
            self._room -= atoms.delay.nbytes * (2 if self.receiver.wavefront == "planar" else 8)
            if self._room > 0:
                self._kept.append(atoms)
            yield points, atoms
