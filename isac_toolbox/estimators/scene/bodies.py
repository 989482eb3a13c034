"""Scatterers with an extent: points that a user's receiver cannot resolve are one body.

docs/theory.md, section 6.7.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.csgraph import connected_components

from isac_toolbox.estimators.result import Ambiguity, Candidates
from isac_toolbox.estimators.scene.fit import Fit
from isac_toolbox.estimators.scene.scene_estimate import SceneEstimate

__all__ = ["body_warnings", "join_bodies", "point_energies"]

RealArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

# Prior: size of a car, a tree or a piece of a wall; what is farther apart is more than one of them.
_BODY_SIZE_M = 3.0
# Prior: weight of a ball against the found shape of a body, in points.
_BALL_POINTS = 3.0
# Mathematics: squared distance in which a Gaussian body of three dimensions holds 99 % of its points.
_HOLDS = 11.34


def point_energies(fit: Fit) -> RealArray:
    """Return the energy of all users' paths over each point, shape (S,)."""
    energy = np.zeros(len(fit.scene.points_m))
    located = fit.paths.is_point
    power = fit.problem.user_energies[fit.paths.user] * np.abs(fit.posterior.mean) ** 2
    np.add.at(energy, fit.paths.target[located], power[located])
    return energy


def join_bodies(
    scene: SceneEstimate, ambiguities: tuple[Ambiguity, ...], energy: RealArray, cell_m: float
) -> tuple[SceneEstimate, tuple[Ambiguity, ...]]:
    """Return the scene with one scatterer for points that belong together, and its ambiguities.

    Two points that one user sees closer to each other than a resolution cell, and than the size of a body,
    belong to one body, and so does any point that lies within it.

    Parameters
    ----------
    scene : SceneEstimate
    ambiguities : tuple of Ambiguity
        Those of points that join a body are dropped: its extent says more.
    energy : ndarray, shape (S_hat,)
        Of each scatterer's paths.
    cell_m : float
        Resolution in path length.
    """
    if len(scene.scatterer_positions_m) < 2:
        return scene, ambiguities
    seen, reach_m = scene.visibility_probability >= 0.5, min(cell_m, _BODY_SIZE_M)
    body = _bodies(scene.scatterer_positions_m, seen, energy, reach_m)
    groups = [np.flatnonzero(body == label) for label in np.unique(body)]
    if len(groups) == len(body):
        return scene, ambiguities
    joined = _as_extended([_Body.of(scene, group, energy) for group in groups])
    rows = {int(group[0]): row for row, group in enumerate(groups) if group.size == 1}
    kept = tuple(
        replace(entry, index=rows[entry.index]) if entry.kind == "scatterer" else entry
        for entry in ambiguities
        if entry.kind != "scatterer" or entry.index in rows
    )
    found = [b for b, group in zip(joined, groups, strict=True) if group.size > 1]
    candidates = scene.candidates
    whole = replace(
        scene,
        scatterer_positions_m=np.array([b.position_m for b in joined]),
        scatterer_probability=np.array([b.probability for b in joined]),
        scatterer_covariance_m2=np.array([b.covariance_m2 for b in joined]),
        scatterer_extent_m2=np.array([b.extent_m2 for b in joined]),
        visibility_probability=np.stack([b.visibility for b in joined], axis=1),
        candidates=Candidates(
            np.vstack([candidates.scatterer_positions_m, *(b.position_m for b in found)]),
            np.append(candidates.scatterer_probability, [b.probability for b in found]),
            np.column_stack([candidates.visibility_probability, *(b.visibility for b in found)]),
        ),
    )
    return _with_velocities(whole, groups, energy), kept


def _with_velocities(joined: SceneEstimate, groups: list[IntArray], energy: RealArray) -> SceneEstimate:
    """The scene of groups of points with their velocities, weighted by energy, where there are any."""
    velocities, covariances, moving = (
        joined.scatterer_velocities_m_s,
        joined.scatterer_velocity_covariance_m2_s2,
        joined.moving_probability,
    )
    if velocities is None or covariances is None or moving is None:
        return joined
    pairs = [(energy[group] / max(float(energy[group].sum()), 1e-300), group) for group in groups]
    return replace(
        joined,
        scatterer_velocities_m_s=np.array([w @ velocities[g] for w, g in pairs]),
        scatterer_velocity_covariance_m2_s2=np.array([np.tensordot(w, covariances[g], 1) for w, g in pairs]),
        moving_probability=np.array([moving[g].max() for g in groups]),
    )


def body_warnings(scene: SceneEstimate) -> list[str]:
    """Return what bodies cost the places of users, which were estimated as if scatterers were points."""
    n_bodies = int(np.count_nonzero(np.trace(scene.scatterer_extent_m2, axis1=1, axis2=2)))
    if not n_bodies:
        return []
    return [
        f"{n_bodies} of {len(scene.scatterer_positions_m)} scatterers are bodies of rays that cannot be "
        "resolved (scatterer_extent_m2); places and clocks of users are less certain than stated, and so are "
        "points beside bodies"
    ]


def _bodies(points_m: RealArray, seen: NDArray[np.bool_], energy: RealArray, reach_m: float) -> IntArray:
    """Label of the body that each point belongs to, shape (S,)."""
    apart = np.linalg.norm(points_m[:, None] - points_m, axis=2)
    together = seen.T.astype(int) @ seen.astype(int) > 0
    _, label = connected_components((apart < reach_m) & together, directed=False)
    while True:
        grown = _grown(points_m, energy, label, reach_m)
        if np.array_equal(grown, label):
            return label
        label = grown


def _grown(points_m: RealArray, energy: RealArray, label: IntArray, reach_m: float) -> IntArray:
    """Labels after every body, the strongest first, has taken the points that lie within it."""
    bodies = [body for body in np.unique(label) if np.count_nonzero(label == body) > 1]
    label = np.array(label, dtype=np.int64)
    for body in sorted(bodies, key=lambda b: -float(energy[label == b].sum())):
        group = label == body
        if np.count_nonzero(group) > 1:
            centre, extent = _moments(points_m[group], energy[group])
            away = points_m - centre
            spread = extent + (reach_m / 3) ** 2 * np.eye(3)
            label[np.einsum("si,si->s", away, np.linalg.solve(spread, away.T).T) < _HOLDS] = body
    return label


def _moments(points_m: RealArray, energy: RealArray) -> tuple[RealArray, RealArray]:
    """Centre (3,) and extent (3, 3) of points by their energies."""
    weight = energy / max(float(energy.sum()), 1e-300)
    centre = weight @ points_m
    away = points_m - centre
    return centre, np.einsum("s,si,sj->ij", weight, away, away)


@dataclass(frozen=True, eq=False)
class _Body:
    """Points of one body as a scatterer: the centre of their energies, and how far they spread."""

    position_m: RealArray
    probability: float
    covariance_m2: RealArray
    extent_m2: RealArray
    visibility: RealArray

    @classmethod
    def of(cls, scene: SceneEstimate, group: IntArray, energy: RealArray) -> _Body:
        """The body of some scatterers: a few of its many rays, so its centre may be where any of them is.

        With few points its extent is drawn towards a ball.
        """
        if group.size == 1:
            row = group[0]
            return cls(
                scene.scatterer_positions_m[row],
                float(scene.scatterer_probability[row]),
                scene.scatterer_covariance_m2[row],
                np.zeros((3, 3)),
                scene.visibility_probability[:, row],
            )
        weight = energy[group] / max(float(energy[group].sum()), 1e-300)
        centre, found = _moments(scene.scatterer_positions_m[group], energy[group])
        n_points = 1 / float(np.sum(weight**2))
        ball = np.trace(found) / 3 * np.eye(3)
        extent = (n_points * found + _BALL_POINTS * ball) / (n_points + _BALL_POINTS)
        own = np.einsum("s,sij->ij", weight**2, scene.scatterer_covariance_m2[group])
        return cls(
            centre,
            float(scene.scatterer_probability[group].max()),
            own + extent,
            extent,
            scene.visibility_probability[:, group].max(axis=1),
        )


def _as_extended(bodies: list[_Body]) -> list[_Body]:
    """The same bodies; where most have an extent, those of one point get the typical one."""
    sizes = np.array([np.trace(body.extent_m2) / 3 for body in bodies])
    if 2 * np.count_nonzero(sizes) < len(bodies):
        return bodies
    typical = float(np.median(sizes[sizes > 0])) * np.eye(3)
    return [
        body if size else replace(body, extent_m2=typical, covariance_m2=body.covariance_m2 + typical)
        for body, size in zip(bodies, sizes, strict=True)
    ]
