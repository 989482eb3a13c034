"""A small scenario, and what of a simulation is compared bit for bit."""

from __future__ import annotations

import dataclasses

import numpy as np

import isac_toolbox as isac

SMALL = isac.Scenario(
    array_shape=(3, 2), n_subcarriers=8, n_users=2, n_scatterers=3, n_pilot_symbols=2, n_data_symbols=4
)
BITS_OF_TRUTH = (
    "channel",
    "scatterer_positions_m",
    "visibility",
    "user_positions_m",
    "time_offsets_s",
    "symbols",
    "symbol_indices",
    "line_of_sight",
    "line_of_sight_gain",
    "scatterer_gain",
)


def same_bits(first, second) -> bool:
    return all(
        getattr(first.truth, name).tobytes() == getattr(second.truth, name).tobytes()
        for name in BITS_OF_TRUTH
    ) and all(
        np.asarray(getattr(first.observation, f.name)).tobytes()
        == np.asarray(getattr(second.observation, f.name)).tobytes()
        for f in dataclasses.fields(first.observation)
        if f.name not in ("array", "carrier_hz", "noise_variance", "wavefront", "link")
    )


def clean_block(simulation) -> np.ndarray:
    truth = simulation.truth
    return np.einsum("knm,knt->nmt", truth.channel, truth.symbols)
