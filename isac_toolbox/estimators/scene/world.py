"""From the frame of an array that stands otherwise than stated to the world (docs/theory.md, section 6.9)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from isac_toolbox.channel.atoms.turn import Turn
from isac_toolbox.estimators.scene.fit import Fit

__all__ = ["World"]

RealArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class World:
    """The turn of the array that the users' places show, and what it does to places found.

    Attributes
    ----------
    turn : Turn
    mean : ndarray, shape (5,)
    gain : ndarray, shape (5, 3 K)
        Of the mean, in the users' places.
    covariance : ndarray, shape (5, 5)
        That places known exactly would leave.
    """

    turn: Turn
    mean: RealArray
    gain: RealArray
    covariance: RealArray

    @classmethod
    def of(cls, fit: Fit) -> World | None:
        """Return the turn that a fit shows; None where the array stands as stated."""
        turn = fit.problem.prior.turn
        return None if turn is None else cls(turn, *turn.back(fit.scene.users_m))

    def places_m(self, places_m: RealArray) -> RealArray:
        """Return places (n, 3) of the array's frame in the world."""
        return places_m - (self.turn.displacements(places_m) @ self.mean).reshape(-1, 3)

    def with_places(self, fit: Fit, covariance: RealArray) -> tuple[RealArray, RealArray, RealArray]:
        """Return points (S, 3), users (K, 3) and the covariance (P, P) of the scene, all in the world."""
        scene = fit.scene
        points, users, _, _ = scene.blocks()
        moves = np.zeros((scene.n_parameters, 5))
        moves[points], moves[users] = (
            self.turn.displacements(places) for places in (scene.points_m, scene.users_m)
        )
        through = np.eye(scene.n_parameters)
        through[:, users] -= moves @ self.gain
        turned = through @ covariance @ through.T + moves @ self.covariance @ moves.T
        return self.places_m(scene.points_m), self.places_m(scene.users_m), turned
