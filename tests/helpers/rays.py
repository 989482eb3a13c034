"""A street of two walls and a ground, traced by mirror images: what ray tracers and their files hold."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from isac_toolbox.channel.array import SPEED_OF_LIGHT_M_S

STATION_M = np.array([0.0, 0.0, 12.0])
USERS_M = np.array([[40.0, 6.0, 1.5], [55.0, -8.0, 1.5], [30.0, -3.0, 1.5]])
CARRIER_HZ = 3.5e9
#: Planes y = const and z = const that mirror.
WALLS = ((1, 15.0), (1, -18.0), (2, 0.0))


class Ray(NamedTuple):
    """One path from the station to a user: its bounce points (D, 3), length and passband coefficient."""

    points_m: np.ndarray
    length_m: float
    passband: complex

    @property
    def gain(self) -> complex:
        """Baseband coefficient at the carrier."""
        return self.passband * np.exp(-2j * np.pi * CARRIER_HZ * self.length_m / SPEED_OF_LIGHT_M_S)


def mirrored(point, wall):
    axis, place = wall
    image = point.copy()
    image[axis] = 2 * place - image[axis]
    return image


def crossing(start, end, wall):
    axis, place = wall
    share = (place - start[axis]) / (end[axis] - start[axis])
    return start + share * (end - start)


def rays(user_m) -> list[Ray]:
    """Line of sight, one bounce off every wall, and the bounces off the first two one after the other."""
    found = [(np.zeros((0, 3)), np.linalg.norm(user_m - STATION_M))]
    for wall in WALLS:
        image = mirrored(STATION_M, wall)
        found.append((crossing(image, user_m, wall)[None], np.linalg.norm(user_m - image)))
    first, second = WALLS[:2]
    image = mirrored(STATION_M, first)
    twice = mirrored(image, second)
    last = crossing(twice, user_m, second)
    found.append((np.stack([crossing(image, last, first), last]), np.linalg.norm(user_m - twice)))
    return [
        Ray(
            points,
            float(length),
            0.6j ** len(points) * SPEED_OF_LIGHT_M_S / (4 * np.pi * CARRIER_HZ * length),
        )
        for points, length in found
    ]
