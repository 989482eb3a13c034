"""Environments: users, scatterers and the paths between them, drawn at random or ray-traced."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from isac_toolbox import _npz
from isac_toolbox._validation import as_array, as_indices, check_finite, check_non_negative, check_shape
from isac_toolbox.channel.array import SPEED_OF_LIGHT_M_S
from isac_toolbox.channel.geometry import bistatic_delays_s, line_of_sight_delays_s, unit_vectors
from isac_toolbox.channel.plausibility import check_longest_delay, warn_of_implausible_delays
from isac_toolbox.channel.rays import Rays, checked_dopplers
from isac_toolbox.channel.traced import TRACED_KEYS, traced_arrays

__all__ = [
    "DrawSettings",
    "Environment",
    "draw_apart_users",
    "draw_environment",
    "environment_of_paths",
    "load_traced",
]

RealArray = NDArray[np.float64]
Point = tuple[float, float, float]
_SAME_POINT_M = 1e-3
_MAX_TRIES = 20_000
_UNIT_LENGTH = 1e-6
# K users, S scatterers, P further paths
_FIELDS: dict[str, tuple[type, tuple[int | str, ...]]] = {
    "bs_position_m": (float, (3,)),
    "user_positions_m": (float, ("K", 3)),
    "scatterer_positions_m": (float, ("S", 3)),
    "line_of_sight_gain": (complex, ("K",)),
    "scatterer_gain": (complex, ("K", "S")),
    "extra_user": (int, ("P",)),
    "extra_direction": (float, ("P", 3)),
    "extra_delay_s": (float, ("P",)),
    "extra_gain": (complex, ("P",)),
    "region_m": (float, (2, 3)),
}


@dataclass(frozen=True, eq=False)
class Environment:
    """Users, scatterers and every propagation path.

    Attributes
    ----------
    bs_position_m : ndarray, shape (3,)
    user_positions_m : ndarray, shape (K, 3)
    scatterer_positions_m : ndarray, shape (S, 3)
    line_of_sight_gain : ndarray of complex, shape (K,)
        Zero where the user has no line of sight.
    scatterer_gain : ndarray of complex, shape (K, S)
        Zero where the user does not see the scatterer.
    extra_user : ndarray of int, shape (P,)
        User of every path that is not a single bounce.
    extra_direction : ndarray, shape (P, 3)
        Unit vector from the base station towards the arrival direction.
    extra_delay_s : ndarray, shape (P,)
    extra_gain : ndarray of complex, shape (P,)
    region_m : ndarray, shape (2, 3)
        Box that holds the scatterers.
    name : str
    rays : Rays
        What stochastic models add: heard like paths, but listed as none.
    user_velocities_m_s, scatterer_velocities_m_s : ndarray, shape (K, 3) and (S, 3), optional
        A simulation draws those that are not given.
    extra_doppler_hz : ndarray, shape (P,), optional
        Doppler shifts by motion of the further paths, NaN where not known. A simulation in which users move
        draws those.

    Raises
    ------
    TypeError, ValueError
        Naming the argument, what came and what is allowed.

    Warns
    -----
    ImplausibleValueWarning
        For delays shorter than the straight line, or out of all proportion to the scene.
    """

    bs_position_m: RealArray
    user_positions_m: RealArray
    scatterer_positions_m: RealArray
    line_of_sight_gain: NDArray[np.complex128]
    scatterer_gain: NDArray[np.complex128]
    extra_user: NDArray[np.int64]
    extra_direction: RealArray
    extra_delay_s: RealArray
    extra_gain: NDArray[np.complex128]
    region_m: RealArray
    name: str = "environment"
    rays: Rays = field(default_factory=Rays.none)
    user_velocities_m_s: RealArray | None = None
    scatterer_velocities_m_s: RealArray | None = None
    extra_doppler_hz: RealArray | None = None

    def __post_init__(self) -> None:
        self._check_fields()
        self._check_paths()
        self._check_motion()

    def _check_fields(self) -> None:
        """Convert every array, and check its shape and that it is finite."""
        sizes: dict[int | str, int] = {}
        for name, (dtype, axes) in _FIELDS.items():
            given = getattr(self, name)
            value = as_indices(name, given) if dtype is int else as_array(name, given, dtype)
            shape = [axis if isinstance(axis, int) else sizes.get(axis) for axis in axes]
            check_shape(name, value, shape, f"({', '.join(map(str, axes))}{',' * (len(axes) == 1)})")
            check_finite(name, value)
            sizes.update(zip(axes, value.shape))
            if sizes.get("K") == 0:
                raise ValueError(f"{name} must hold at least one user, got none")
            object.__setattr__(self, name, value)
        if np.any(self.region_m[1] < self.region_m[0]):
            raise ValueError(f"region_m must have its second corner beyond the first, got {self.region_m}")
        if not isinstance(self.rays, Rays):
            raise TypeError(f"rays must be Rays, got {type(self.rays).__name__}")

    def _check_paths(self) -> None:
        """Check what further paths may be."""
        user, delay_s = self.extra_user, self.extra_delay_s
        for name, index in (("extra_user", user), ("rays.user", self.rays.user)):
            if index.size and (index.min() < 0 or index.max() >= self.n_users):
                raise ValueError(
                    f"{name} must index user_positions_m (0..{self.n_users - 1}), "
                    f"got {index.min()} to {index.max()}"
                )
        length = np.linalg.norm(self.extra_direction, axis=1)
        if np.any(np.abs(length - 1) > _UNIT_LENGTH):
            worst = length[np.argmax(np.abs(length - 1))]
            raise ValueError(f"extra_direction must hold unit vectors, got one of length {worst:.6g}")
        check_longest_delay("extra_delay_s", delay_s)
        _, direct_m = unit_vectors(self.bs_position_m, self.user_positions_m)
        _, reach_m = unit_vectors(self.bs_position_m, self.scatterer_positions_m)
        scene_m = float(np.max(np.concatenate([direct_m, reach_m])))
        warn_of_implausible_delays("extra_delay_s", delay_s, direct_m[user], scene_m)

    def _check_motion(self) -> None:
        """Check velocities and Doppler shifts where they are given."""
        for name, rows in (
            ("user_velocities_m_s", self.n_users),
            ("scatterer_velocities_m_s", len(self.scatterer_positions_m)),
        ):
            if getattr(self, name) is not None:
                value = as_array(name, getattr(self, name), float)
                check_shape(name, value, (rows, 3), "one row per position")
                check_finite(name, value)
                object.__setattr__(self, name, value)
        if self.extra_doppler_hz is not None:
            checked = checked_dopplers("extra_doppler_hz", self.extra_doppler_hz, self.extra_user.size)
            object.__setattr__(self, "extra_doppler_hz", checked)

    @property
    def n_users(self) -> int:
        """Number of users K."""
        return int(self.user_positions_m.shape[0])

    @property
    def path_counts(self) -> NDArray[np.int64]:
        """Number of paths and rays of every user that carry anything, shape (K,)."""
        extra = np.bincount(self.extra_user[self.extra_gain != 0], minlength=self.n_users)
        extra += np.bincount(self.rays.user[self.rays.gain != 0], minlength=self.n_users)
        return (self.line_of_sight_gain != 0) + np.count_nonzero(self.scatterer_gain, axis=1) + extra

    def select_users(self, users: Sequence[int]) -> Environment:
        """Keep only these users, and the scatterers that one of them sees.

        Parameters
        ----------
        users : sequence of int

        Returns
        -------
        Environment

        Raises
        ------
        ValueError
            If an index does not exist, repeats, or names a user without any path.
        """
        self.__post_init__()  # arrays may have been changed since
        try:
            chosen = np.asarray(users)
        except ValueError:
            raise ValueError(f"users must be a non-empty list of indices, got {users!r}") from None
        if chosen.ndim != 1 or chosen.size == 0 or not np.issubdtype(chosen.dtype, np.integer):
            raise ValueError(f"users must be a non-empty list of indices, got {users!r}")
        if chosen.min() < 0 or chosen.max() >= self.n_users or np.unique(chosen).size != chosen.size:
            raise ValueError(f"users must be distinct indices in 0..{self.n_users - 1}, got {users!r}")
        silent = [int(k) for k in chosen if self.path_counts[k] == 0]
        if silent:
            raise ValueError(f"users: user(s) {silent} have no path to the base station")
        gain = self.scatterer_gain[chosen]
        seen = np.any(gain != 0, axis=0)
        new_index = np.full(self.n_users, -1)
        new_index[chosen] = np.arange(chosen.size)
        kept = (new_index[self.extra_user] >= 0) & (self.extra_gain != 0)
        return Environment(
            bs_position_m=self.bs_position_m,
            user_positions_m=self.user_positions_m[chosen],
            scatterer_positions_m=self.scatterer_positions_m[seen],
            line_of_sight_gain=self.line_of_sight_gain[chosen],
            scatterer_gain=gain[:, seen],
            extra_user=new_index[self.extra_user[kept]],
            extra_direction=self.extra_direction[kept],
            extra_delay_s=self.extra_delay_s[kept],
            extra_gain=self.extra_gain[kept],
            region_m=self.region_m,
            name=self.name,
            rays=self.rays.of_users(new_index),
            user_velocities_m_s=_of(self.user_velocities_m_s, chosen),
            scatterer_velocities_m_s=_of(self.scatterer_velocities_m_s, seen),
            extra_doppler_hz=_of(self.extra_doppler_hz, kept),
        )


def _of(values: RealArray | None, chosen: NDArray[Any]) -> RealArray | None:
    return None if values is None else values[chosen]


class DrawSettings(Protocol):
    """What :func:`draw_environment` needs to know; :class:`isac_toolbox.Scenario` has it."""

    @property
    def n_users(self) -> int: ...
    @property
    def n_scatterers(self) -> int: ...
    @property
    def bs_position_m(self) -> Point: ...
    @property
    def region_m(self) -> tuple[Point, Point]: ...
    @property
    def user_region_m(self) -> tuple[Point, Point]: ...
    @property
    def min_separation_m(self) -> float: ...
    @property
    def min_excess_path_m(self) -> float: ...
    @property
    def visibility_probability(self) -> float: ...
    @property
    def line_of_sight_probability(self) -> float: ...
    @property
    def reflection_loss_db(self) -> float: ...
    @property
    def reflection_loss_std_db(self) -> float: ...
    @property
    def burst_size(self) -> int: ...
    @property
    def burst_radius_m(self) -> float: ...
    @property
    def link(self) -> str: ...


def draw_environment(settings: DrawSettings, rng: np.random.Generator) -> Environment:
    """Draw users, scatterers, who sees which, and the gains (docs/theory.md, section 1).

    A scatterer and every user lie at least ``min_separation_m`` from one another, and a user's path over
    a scatterer is at least ``min_excess_path_m`` longer than its line of sight. A path's amplitude is
    that of free space over its length, less a reflection loss drawn per path in dB; its phase is uniform.
    Scatterers that no user sees are left out. On a monostatic link the one user is the base station itself,
    without a line of sight.

    Parameters
    ----------
    settings : DrawSettings
        Anything with these fields, such as a scenario.
    rng : numpy.random.Generator

    Returns
    -------
    Environment

    Raises
    ------
    ValueError
        If a region cannot hold that many points at that separation, if users may have neither a line of
        sight nor a scatterer, or if a user falls on the base station.
    """
    monostatic = settings.link == "monostatic"
    if monostatic and settings.n_scatterers == 0:
        raise ValueError("n_scatterers must be at least 1 for link 'monostatic' (no path otherwise), got 0")
    if settings.n_scatterers == 0 and settings.line_of_sight_probability < 1:
        raise ValueError(
            "line_of_sight_probability must be 1 when n_scatterers is 0 (a user would have no path), got "
            f"{settings.line_of_sight_probability}"
        )
    bs = np.asarray(settings.bs_position_m, dtype=float)
    users = bs[None] if monostatic else draw_apart_users(settings, rng)
    scatterers = _draw_scatterers(settings, users, rng)
    visible = rng.random((settings.n_users, len(scatterers))) < settings.visibility_probability
    line_of_sight = rng.random(settings.n_users) < settings.line_of_sight_probability * (not monostatic)
    visible[~line_of_sight & ~visible.any(axis=1), :1] = True
    length = bistatic_delays_s(users, scatterers, bs) * SPEED_OF_LIGHT_M_S
    loss_db = settings.reflection_loss_db + settings.reflection_loss_std_db * rng.standard_normal(
        length.shape
    )
    phase = np.exp(2j * np.pi * rng.random(length.shape))
    gain = visible * phase * 10 ** (-np.maximum(loss_db, 0.0) / 20) / length
    los_length = line_of_sight_delays_s(users, bs) * SPEED_OF_LIGHT_M_S
    los_gain = line_of_sight * np.exp(2j * np.pi * rng.random(settings.n_users))
    los_gain = los_gain / np.maximum(los_length, _SAME_POINT_M)
    seen = visible.any(axis=0)
    return Environment(
        bs_position_m=bs,
        user_positions_m=users,
        scatterer_positions_m=scatterers[seen],
        line_of_sight_gain=los_gain,
        scatterer_gain=gain[:, seen],
        extra_user=np.zeros(0, np.int64),
        extra_direction=np.zeros((0, 3)),
        extra_delay_s=np.zeros(0),
        extra_gain=np.zeros(0, complex),
        region_m=np.asarray(settings.region_m, dtype=float),
        name="drawn",
    )


def draw_apart_users(settings: DrawSettings, rng: np.random.Generator) -> RealArray:
    """Uniform users in their box, at least ``min_separation_m`` from each other and off the base station."""
    low, high = np.asarray(settings.user_region_m, dtype=float)
    points = np.empty((0, 3))
    for _ in range(_MAX_TRIES):
        if len(points) == settings.n_users:
            bs = np.asarray(settings.bs_position_m, dtype=float)
            if np.any(np.linalg.norm(points - bs, axis=1) < _SAME_POINT_M):
                raise ValueError(
                    f"user_region_m must keep users away from bs_position_m, got {settings.user_region_m}"
                )
            return points
        candidate = low + (high - low) * rng.random(3)
        if _is_apart(candidate, points, settings.min_separation_m):
            points = np.vstack([points, candidate])
    raise ValueError(
        f"user_region_m cannot hold {settings.n_users} users at least {settings.min_separation_m} m apart"
    )


def _is_apart(candidate: RealArray, points: RealArray, separation_m: float) -> bool:
    return not np.any(np.linalg.norm(points - candidate, axis=1) < separation_m)


def _draw_scatterers(settings: DrawSettings, users: RealArray, rng: np.random.Generator) -> RealArray:
    """Scatterers in bursts of ``burst_size`` (1 = none), away from users and from their lines of sight."""
    low, high = np.asarray(settings.region_m, dtype=float)
    bs = np.asarray(settings.bs_position_m, dtype=float)
    los_length = line_of_sight_delays_s(users, bs) * SPEED_OF_LIGHT_M_S
    points = np.empty((0, 3))
    centre = low
    for _ in range(_MAX_TRIES):
        if len(points) == settings.n_scatterers:
            return points
        first_of_burst = len(points) % settings.burst_size == 0
        if first_of_burst:
            candidate = centre = low + (high - low) * rng.random(3)
        else:
            candidate = np.clip(centre + settings.burst_radius_m * rng.uniform(-1, 1, 3), low, high)
        excess = bistatic_delays_s(users, candidate, bs)[:, 0] * SPEED_OF_LIGHT_M_S - los_length
        if (
            np.all(excess >= settings.min_excess_path_m)
            and _is_apart(candidate, points, settings.min_separation_m)
            and _is_apart(candidate, users, settings.min_separation_m)
        ):
            points = np.vstack([points, candidate])
    bursts = f", in bursts of burst_radius_m = {settings.burst_radius_m}" if settings.burst_size > 1 else ""
    raise ValueError(
        f"region_m cannot hold {settings.n_scatterers} scatterers at least "
        f"{settings.min_separation_m} m apart with an excess path of {settings.min_excess_path_m} m{bursts}"
    )


def load_traced(path: str | Path, *, margin_m: float = 10.0) -> Environment:
    """Read a ray-traced environment.

    Parameters
    ----------
    path : str or Path
        An npz file, or the name of one of the shipped environments (``"munich"``, ``"street_canyon"``,
        with or without ``.npz``).
    margin_m : float
        The region is the bounding box of the single-bounce points and the users grown by this much.

    Returns
    -------
    Environment
        Single bounces are scatterers, a line of sight is one, everything else is an unlocated path.

    Raises
    ------
    FileNotFoundError
        If there is neither a file nor a shipped environment of that name.
    ValueError
        If keys are missing, inconsistent or not finite, if a user has two lines of sight, or if delays are
        negative or in another unit than the paths' points.
    TypeError
        If indices are no integers.

    Warns
    -----
    ImplausibleValueWarning
        If delays are not those of the paths' points, as when they are relative to a first path.

    Notes
    -----
    Keys: ``bs_position_m (3,)``, ``ue_position_m (K, 3)``, ``path_ue (P,)``, ``path_depth (P,)`` (0 = line
    of sight, 1 = single bounce, more = further bounces), ``path_gain (P,)``, ``path_delay_s (P,)``,
    ``path_first_bounce_m (P, 3)`` (NaN on the line of sight). Paths of zero gain, with which arrays are
    padded, are left out. The shipped files were traced with
    sionna-rt 2.2.0 (Apache-2.0) at 3.5 GHz, specular reflections, at most two bounces.

    Examples
    --------
    >>> import isac_toolbox as isac
    >>> munich = isac.load_traced("munich")
    >>> munich.n_users, munich.scatterer_positions_m.shape
    (24, (84, 3))
    """
    source, box_margin_m = Path(path), as_array("margin_m", margin_m, float)
    check_shape("margin_m", box_margin_m, (), "scalar")
    check_finite("margin_m", box_margin_m)
    check_non_negative("margin_m", box_margin_m)
    if source.is_file():
        return environment_of_paths(
            _npz.read(source, "traced environment", TRACED_KEYS), source.stem, margin_m
        )
    shipped = files("isac_toolbox") / "data" / "traced" / f"{source.name.removesuffix('.npz')}.npz"
    if source.name != str(path) or not shipped.is_file():
        known = sorted(
            p.name for p in (files("isac_toolbox") / "data" / "traced").iterdir() if p.name.endswith("npz")
        )
        raise FileNotFoundError(
            f"no such traced environment: {path} (sought as {source.absolute()}); "
            f"shipped are {', '.join(known)}"
        )
    with as_file(shipped) as real:
        return environment_of_paths(_npz.read(real, "traced environment", TRACED_KEYS), source.name, margin_m)


def environment_of_paths(data: Mapping[str, NDArray], name: str, margin_m: float) -> Environment:
    """Return the environment that arrays of a traced file make up; keys are those of :func:`load_traced`.

    Raises
    ------
    TypeError, ValueError
        As :func:`load_traced`, naming ``name`` and the key.
    """
    data = traced_arrays(name, data)
    users, bs, bounce = data["ue_position_m"], data["bs_position_m"], data["path_first_bounce_m"]
    path_user, depth, gain = data["path_ue"], data["path_depth"], data["path_gain"]
    los_gain = np.zeros(len(users), complex)
    los_gain[path_user[depth == 0]] = gain[depth == 0]
    single, further = depth == 1, depth > 1
    points, index = _distinct_points(bounce[single])
    scatterer_gain = np.zeros((len(users), len(points)), complex)
    np.add.at(scatterer_gain, (path_user[single], index), gain[single])
    box = np.vstack([points, users]) if len(points) else users
    return Environment(
        bs_position_m=bs,
        user_positions_m=users,
        scatterer_positions_m=points,
        line_of_sight_gain=los_gain,
        scatterer_gain=scatterer_gain,
        extra_user=path_user[further],
        extra_direction=unit_vectors(bs, bounce[further])[0],
        extra_delay_s=data["path_delay_s"][further],
        extra_gain=gain[further],
        region_m=np.array([box.min(axis=0) - margin_m, box.max(axis=0) + margin_m]),
        name=name.removesuffix(".npz"),
    )


def _distinct_points(points: RealArray) -> tuple[RealArray, NDArray[np.int64]]:
    """Points without repetitions (to a millimetre) and every input's index among them."""
    distinct: list[RealArray] = []
    index = np.empty(len(points), np.int64)
    for i, point in enumerate(points):
        distance = np.linalg.norm(np.asarray(distinct).reshape(-1, 3) - point, axis=1)
        if distance.size and distance.min() < _SAME_POINT_M:
            index[i] = int(np.argmin(distance))
        else:
            index[i] = len(distinct)
            distinct.append(point)
    return np.asarray(distinct).reshape(-1, 3), index
