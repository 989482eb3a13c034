"""What is there before a block is sent: the scene, the array, and the errors of users."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from isac_toolbox.channel.array import UniformPlanarArray
from isac_toolbox.channel.cdl import cdl_environment
from isac_toolbox.channel.clutter import draw_clusters, spread_scatterers
from isac_toolbox.channel.doppler import fill_dopplers
from isac_toolbox.channel.environment import Environment, draw_environment, load_traced
from isac_toolbox.channel.movement import moving_environment
from isac_toolbox.channel.rays import Rays
from isac_toolbox.channel.succession import UserErrors
from isac_toolbox.scenario.settings import ScenarioSettings
from isac_toolbox.scenario.streams import Streams

__all__ = ["array_of", "draw_scene", "draw_user_errors", "heard_and_listed", "user_deviations"]


def draw_scene(
    settings: ScenarioSettings,
    environment: Environment | None,
    users: Sequence[int] | None,
    streams: Streams,
) -> Environment:
    """Return the environment of a simulation, drawn, traced or given, with what moves in it.

    Raises
    ------
    TypeError, ValueError
        For a bad environment or choice of users.
    """
    scene = _scene_at_rest(settings, environment, users, streams.scene)
    return moving_environment(settings, scene, streams.motion)


def _scene_at_rest(
    settings: ScenarioSettings,
    environment: Environment | None,
    users: Sequence[int] | None,
    rng: np.random.Generator,
) -> Environment:
    if environment is not None and not isinstance(environment, Environment):
        raise TypeError(f"environment must be an Environment, got {type(environment).__name__}")
    if environment is not None and settings.link == "monostatic":
        raise ValueError("environment cannot be given for link 'monostatic', which draws its own")
    if environment is None and settings.traced is None:
        if users is not None:
            raise ValueError("users can only be chosen from a given or traced environment")
        return draw_environment(settings, rng) if settings.cdl is None else cdl_environment(settings, rng)
    scene = environment if environment is not None else load_traced(settings.traced or "")
    if users is None:
        users = _draw_users(scene, settings.n_users, rng)
    return scene.select_users(users)


def _draw_users(scene: Environment, n_users: int, rng: np.random.Generator) -> list[int]:
    """Draw users among those with a path."""
    candidates = np.flatnonzero(scene.path_counts > 0)
    if candidates.size < n_users:
        raise ValueError(f"environment has {candidates.size} users with a path, n_users is {n_users}")
    return np.sort(rng.choice(candidates, n_users, replace=False)).tolist()


def draw_user_errors(settings: ScenarioSettings, n_users: int, streams: Streams) -> UserErrors:
    """Draw errors of the users' nominal positions, and their clocks."""
    position_std_m, time_offset_std_s = user_deviations(settings)
    return UserErrors(
        position_std_m * streams.user_places.standard_normal((n_users, 3)),
        time_offset_std_s * streams.clocks.standard_normal(n_users),
    )


def user_deviations(settings: ScenarioSettings) -> tuple[float, float]:
    """Return the deviations of users' positions and clocks; none where the station hears itself."""
    if settings.link == "monostatic":
        return 0.0, 0.0
    return settings.user_position_std_m, settings.time_offset_std_s


def array_of(settings: ScenarioSettings, scene: Environment) -> UniformPlanarArray:
    """Return the scenario's array; without an azimuth it faces the users (monostatic: the region)."""
    azimuth = settings.azimuth_rad
    if azimuth is None:
        ahead = scene.region_m if settings.link == "monostatic" else scene.user_positions_m
        towards = ahead.mean(axis=0) - scene.bs_position_m
        azimuth = float(np.arctan2(towards[1], towards[0]))
    return UniformPlanarArray(
        settings.array_shape, settings.spacing_wavelengths, azimuth, settings.elevation_rad
    )


def heard_and_listed(
    settings: ScenarioSettings, scene: Environment, streams: Streams
) -> tuple[Environment, Environment]:
    """Return what the array hears, and what of it the truth lists; one object if there is no difference."""
    heard = listed = scene
    n_rays = settings.rays_per_scatterer
    if n_rays > 1:
        heard = spread_scatterers(scene, n_rays, settings.scatterer_extent_m, streams.bodies)
        summed = heard.scatterer_gain.reshape(*scene.scatterer_gain.shape, n_rays)
        listed = replace(scene, scatterer_gain=summed.sum(axis=-1))
    if settings.n_clusters:
        clusters = draw_clusters(
            scene,
            settings.n_clusters,
            settings.cluster_power_db,
            settings.delay_spread_s,
            settings.cluster_azimuth_spread_rad,
            streams.clusters,
        )
        heard = replace(heard, rays=Rays.joined([scene.rays, clusters]))
        if scene.user_velocities_m_s is not None:
            heard = fill_dopplers(settings.carrier_hz, heard, streams.motion)
    if len(heard.rays):
        listed = replace(listed, rays=Rays.none())
    return heard, listed
