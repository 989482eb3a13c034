"""Blocks of many kinds, and the changes that leave what they say as it was."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

import isac_toolbox as isac
from helpers.scenes import SMALL

#: What is asked of a block beside the scene: elements that err, motion, missing cells.
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "three users": {"n_users": 3, "n_pilot_symbols": 3},
    "elements": {"element_gain_std": 0.05, "element_phase_std_rad": 0.05},
    "moving": {
        "symbol_period_s": 1e-4,
        "pilot_pattern": "comb",
        "pilot_positions": (1, 6),
        "frequency_offset_std_hz": 100.0,
        "user_speed_m_s": 10.0,
    },
    "turning": {
        "symbol_period_s": 1e-4,
        "frequency_offset_std_hz": 100.0,
        "phase_noise_std_rad": 0.02,
        "user_phase_noise_std_rad": 0.02,
    },
    "missing": {},
}


def block_of(kind: str, seed: int) -> isac.UplinkObservation:
    """A small block of one of the ``KINDS``."""
    obs = SMALL.replace(**KINDS[kind]).simulate(seed).observation
    if kind == "missing":
        cells = np.random.default_rng(seed).random((obs.n_subcarriers, 1, obs.n_symbols)) > 0.1
        obs = replace(obs, sample_mask=cells, element_mask=np.arange(obs.array.n_elements) != seed % 24)
    return obs


def _changed(obs: isac.UplinkObservation, **changes: Any) -> isac.UplinkObservation:
    """The block with those changes whose fields it has."""
    return replace(obs, **{name: value for name, value in changes.items() if getattr(obs, name) is not None})


def _mask(obs: isac.UplinkObservation, axis: int, order: np.ndarray) -> np.ndarray | None:
    """The mask of samples with an axis in another order."""
    if obs.sample_mask is None:
        return None
    return np.take(np.broadcast_to(obs.sample_mask, obs.received.shape), order, axis)


def with_subcarriers(obs: isac.UplinkObservation, order: np.ndarray) -> isac.UplinkObservation:
    """The block with its subcarriers in another order."""
    return _changed(
        obs,
        received=obs.received[order],
        pilots=obs.pilots[:, order],
        pilot_mask=obs.pilot_mask[..., order, :],
        subcarrier_frequencies_hz=obs.subcarrier_frequencies_hz[order],
        sample_mask=_mask(obs, 0, order),
    )


def with_users(obs: isac.UplinkObservation, order: np.ndarray) -> isac.UplinkObservation:
    """The block with its users in another order."""
    of_users = ("pilots", "user_positions_m", "user_velocities_m_s", "time_offset_std_s")
    return _changed(
        obs,
        **{name: np.asarray(getattr(obs, name))[order] for name in of_users if np.ndim(getattr(obs, name))},
        pilot_mask=obs.pilot_mask[order] if obs.pilot_mask.ndim == 3 else obs.pilot_mask,
    )


def with_elements(
    obs: isac.UplinkObservation, order: np.ndarray, array: isac.ArbitraryArray
) -> isac.UplinkObservation:
    """The block with its elements in another order, those of ``array``."""
    return _changed(
        obs,
        received=obs.received[:, order],
        array=array,
        sample_mask=_mask(obs, 1, order),
        element_mask=None if obs.element_mask is None else obs.element_mask[order],
    )


def elsewhere(obs: isac.UplinkObservation, quarters: int, shift_m: np.ndarray) -> isac.UplinkObservation:
    """The block of the world turned by quarters of a circle about the vertical, and then shifted."""
    turn = quarter_turns(quarters)
    corners = np.sort(obs.region_m @ turn.T, axis=0) + shift_m
    stds = obs.user_position_stds_m @ np.abs(turn).T
    changes: dict[str, Any] = {}
    if obs.user_velocities_m_s is not None:
        changes["user_velocities_m_s"] = obs.user_velocities_m_s @ turn.T
    if obs.user_velocity_std_m_s is not None:
        spread = np.broadcast_to(obs.user_velocity_std_m_s, (obs.n_users, 3))
        changes["user_velocity_std_m_s"] = spread @ np.abs(turn).T
    return replace(
        obs,
        array=replace(obs.array, azimuth_rad=obs.array.azimuth_rad + quarters * np.pi / 2),
        bs_position_m=turn @ obs.bs_position_m + shift_m,
        user_positions_m=obs.user_positions_m @ turn.T + shift_m,
        user_position_std_m=stds,
        region_m=corners,
        **changes,
    )


def quarter_turns(quarters: int) -> np.ndarray:
    """The rotation about the vertical, exactly, shape (3, 3)."""
    return np.linalg.matrix_power(np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]), quarters)
