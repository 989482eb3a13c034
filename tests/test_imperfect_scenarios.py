"""Imperfect receivers in scenarios: blocks against sums over elements, what stays, errors by name."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from numpy.testing import assert_allclose

import isac_toolbox as isac
from isac_toolbox.channel.array import SPEED_OF_LIGHT_M_S
from isac_toolbox.channel.hardware import HARDWARE_FIELDS

READY = ("imperfect_array", "interfered_uplink", "low_resolution_adc")
SMALL = isac.Scenario(
    array_shape=(3, 2), n_subcarriers=8, n_users=2, n_scatterers=3, n_data_symbols=3, snr_db=300
)
ARRAY_ERRORS = {
    "element_gain_std": 0.1,
    "element_phase_std_rad": 0.2,
    "element_position_std_wavelengths": 0.02,
    "n_dead_elements": 1,
    "array_rotation_std_rad": (0.02, 0.03, 0.04),
    "coupling": 0.1,
}
NOISE = {"noise_correlation": 0.5, "noise_spread_db": 1.0, "n_interferers": 2}
FRONT_END = {
    "adc_bits": 5,
    "clipping_share": 0.02,
    "iq_image_db": -25.0,
    "user_iq_image_db": -20.0,
    "amplifier_backoff_db": 6.0,
}
MOVING = {"numerology": "30kHz", "user_speed_m_s": 20.0, "phase_noise_std_rad": 0.05}


def digest(*arrays: np.ndarray) -> str:
    return hashlib.sha256(b"".join(np.ascontiguousarray(a).tobytes() for a in arrays)).hexdigest()


def bits_of(scenario: isac.Scenario, seed: int = 4) -> str:
    sim = scenario.simulate(seed)
    return digest(sim.observation.received, sim.truth.channel)


def element_offsets_m(sim: isac.Simulation) -> np.ndarray:
    """Where the elements are (M, 3), turned by the power series of the rotation."""
    obs, truth = sim.observation, sim.truth
    own = obs.array.element_offsets_m(obs.carrier_hz) @ obs.array.axes.T + truth.element_displacements_m
    turned, power = own, own
    for order in range(1, 12):
        power = np.cross(truth.array_rotation_rad, power) / order
        turned = turned + power
    return turned @ obs.array.axes


def summed_over_paths(sim: isac.Simulation) -> np.ndarray:
    """The channel (K, N, M), path by path and element by element, coupled and weighed element by element."""
    obs, truth = sim.observation, sim.truth
    env, bs, places = truth.environment, obs.bs_position_m, element_offsets_m(sim)
    wavenumbers = 2 * np.pi * obs.subcarrier_frequencies_hz / SPEED_OF_LIGHT_M_S
    at_carrier = 2 * np.pi * obs.carrier_hz / SPEED_OF_LIGHT_M_S
    antennas = np.zeros_like(truth.channel)

    def add(k: int, gain: complex, length_m: float, point: np.ndarray) -> None:
        length_m += SPEED_OF_LIGHT_M_S * truth.time_offsets_s[k]
        away = point - bs
        for m, place in enumerate(places):
            if obs.wavefront == "spherical":
                ahead_m = np.linalg.norm(away) - np.linalg.norm(away - place)
            else:
                ahead_m = away @ place / np.linalg.norm(away)
            turns = at_carrier + obs.beam_squint * wavenumbers
            antennas[k, :, m] += gain * np.exp(1j * (turns * ahead_m - wavenumbers * length_m))

    for k, user in enumerate(env.user_positions_m):
        add(k, truth.line_of_sight_gain[k], np.linalg.norm(user - bs), user)
        for q, point in enumerate(env.scatterer_positions_m):
            length_m = np.linalg.norm(user - point) + np.linalg.norm(point - bs)
            add(k, truth.scatterer_gain[k, q], length_m, point)
    heard = np.zeros_like(antennas)
    for m, response in enumerate(truth.element_response):
        for i in range(len(places)):
            heard[..., m] += response * truth.coupling_matrix[m, i] * antennas[..., i]
    return heard


@pytest.mark.parametrize("fields", [{}, {"wavefront": "spherical"}, {"beam_squint": True}])
def test_a_block_is_the_sum_over_paths_elements_and_symbols(fields):
    sim = SMALL.replace(**ARRAY_ERRORS, **fields).simulate(3)
    expected = summed_over_paths(sim)
    assert_allclose(sim.truth.channel, expected, atol=1e-9)
    received = np.einsum("knm,knt->nmt", expected, sim.truth.symbols)
    assert_allclose(sim.observation.received, received, atol=1e-9)
    assert np.count_nonzero(sim.truth.element_response == 0) == 1


@pytest.mark.filterwarnings("ignore::isac_toolbox.ImplausibleValueWarning")
def test_moving_blocks_are_heard_by_the_same_array():
    still, moving = (SMALL.replace(**ARRAY_ERRORS, **fields).simulate(3) for fields in ({}, MOVING))
    perfect = SMALL.replace(**MOVING).simulate(3)
    assert np.array_equal(still.truth.channel, moving.truth.channel)
    over_time = moving.truth.channel_at(range(moving.observation.n_symbols))
    received = np.einsum("knmt,knt->nmt", over_time, moving.truth.symbols)
    assert_allclose(moving.observation.received, received, atol=1e-9)
    alone = SMALL.replace(**MOVING, element_phase_std_rad=0.2).simulate(3).truth
    expected = perfect.truth.channel_over_time * alone.element_response[:, None]
    assert_allclose(alone.channel_over_time, expected, rtol=1e-12)


def test_a_diffuse_tail_is_heard_by_the_same_elements():
    fields = {"diffuse_power_db": -3.0}
    perfect = SMALL.replace(**fields).simulate(1).truth
    truth = SMALL.replace(**fields, element_gain_std=0.2).simulate(1).truth
    assert_allclose(truth.diffuse_channel, perfect.diffuse_channel * truth.element_response)


@pytest.mark.parametrize("changes", [{}, MOVING, {"traced": "munich"}, {"beam_squint": True}])
@pytest.mark.filterwarnings("ignore::isac_toolbox.ImplausibleValueWarning")
def test_effects_of_no_size_change_no_bit(changes):
    scenario = SMALL.replace(snr_db=10.0, **changes)
    none = {
        "coupling_decay": 7.0,
        "interferer_power_db": 20.0,
        "interferer_band_share": 0.1,
        "adc_oversampling": 8,
        "array_rotation_std_rad": (0.0, 0.0, 0.0),
    }
    assert bits_of(scenario) == bits_of(scenario.replace(**none))
    assert scenario.simulate(4).observation.hardware is None


@pytest.mark.parametrize("effects", [ARRAY_ERRORS, NOISE, FRONT_END], ids=["array", "noise", "front end"])
def test_every_effect_keeps_scene_and_data(effects):
    perfect = SMALL.simulate(4).truth
    for name, value in effects.items():
        truth = SMALL.replace(**{name: value}).simulate(4).truth
        kept = ["symbols", "scatterer_positions_m", "user_positions_m", "time_offsets_s", "visibility"]
        if name not in ("array_rotation_std_rad", "element_position_std_wavelengths"):
            kept += ["line_of_sight_gain", "scatterer_gain", "noise_variance"]
        for field in kept:
            assert np.array_equal(getattr(perfect, field), getattr(truth, field)), (name, field)
        if effects is not ARRAY_ERRORS:
            assert np.array_equal(perfect.channel, truth.channel), name


def test_white_noise_keeps_its_draws_and_colour_its_power():
    white = SMALL.replace(snr_db=0.0).simulate(2)
    coloured = SMALL.replace(snr_db=0.0, noise_correlation=0.6, noise_spread_db=2.0).simulate(2)
    clean = np.einsum("knm,knt->nmt", white.truth.channel, white.truth.symbols)
    noise = white.observation.received - clean
    factor = np.linalg.cholesky(coloured.truth.noise_covariance)
    assert_allclose(coloured.observation.received - clean, factor @ noise, atol=1e-12)
    assert np.trace(coloured.truth.noise_covariance) == pytest.approx(6)
    assert coloured.observation.noise_covariance == "estimate"


def test_dead_elements_hear_noise_alone():
    sim = SMALL.replace(snr_db=20.0, n_dead_elements=2, n_data_symbols=400).simulate(0)
    dead = sim.truth.element_response == 0
    power = np.mean(np.abs(sim.observation.received) ** 2, axis=(0, 2))
    assert_allclose(power[dead], sim.truth.noise_variance, rtol=0.1)
    assert np.all(power[~dead] > 10 * sim.truth.noise_variance)


def test_images_fall_on_mirrored_subcarriers():
    truth = SMALL.simulate(0).truth
    imaged = SMALL.replace(iq_image_db=-20.0).simulate(0).observation.received
    clean = np.einsum("knm,knt->nmt", truth.channel, truth.symbols)
    factors = (imaged - clean) / clean[::-1].conj()
    assert_allclose(np.abs(factors), 0.1, rtol=1e-6)
    assert_allclose(factors, np.broadcast_to(factors[:1, :, :1], factors.shape), rtol=1e-6)


@pytest.mark.filterwarnings("ignore::isac_toolbox.ImplausibleValueWarning")
def test_the_receiver_stays_the_same_over_a_track():
    fields = {"iq_image_db": -20.0, "element_phase_std_rad": 0.1, "coupling": 0.1}
    images = []
    for sim in SMALL.replace(**fields).simulate_track(3, 0.1, 2):
        clean = np.einsum("knm,knt->nmt", sim.truth.channel, sim.truth.symbols)
        images.append(np.mean((sim.observation.received - clean) / clean[::-1].conj(), axis=(0, 2)))
        images[-1] = np.concatenate([images[-1], sim.truth.element_response])
    assert_allclose(images[1:], [images[0]] * 2, rtol=1e-6)


def test_images_of_users_come_through_their_channels():
    truth = SMALL.simulate(0).truth
    clean = np.einsum("knm,knt->nmt", truth.channel, truth.symbols)
    sent = SMALL.replace(user_iq_image_db=-20.0).simulate(0).observation.received
    residual = (sent - clean).transpose(0, 2, 1)
    images = truth.symbols[:, ::-1].conj()
    for n in range(8):
        signals = images[:, n].T
        by_user = truth.channel[:, n]
        nu = np.linalg.lstsq(
            np.stack([np.outer(signals[:, k], by_user[k]).ravel() for k in range(2)], axis=1),
            residual[n].ravel(),
            rcond=None,
        )[0]
        assert_allclose(np.abs(nu), 0.1, rtol=1e-6)


def test_bits_without_end_and_amplifiers_without_limit_are_none():
    perfect = SMALL.simulate(0).observation.received
    for fields, error in (({"adc_bits": 16}, 1e-3), ({"amplifier_backoff_db": 60.0}, 1e-9)):
        block = SMALL.replace(**fields).simulate(0).observation.received
        assert np.linalg.norm(block - perfect) < error * np.linalg.norm(perfect)


@pytest.mark.parametrize("name", READY)
def test_the_ready_scenarios_have_what_they_say(name, tmp_path):
    scenario = isac.Scenario.load(name)
    sim = scenario.simulate(0)
    obs, truth = sim.observation, sim.truth
    assert obs.hardware.has_images == (name == "low_resolution_adc")
    again = isac.UplinkObservation.load(obs.save(tmp_path / "block"))
    for field in HARDWARE_FIELDS:
        assert np.array_equal(getattr(again, field), getattr(obs, field)), field
    clean = np.einsum("knm,knt->nmt", truth.channel, truth.symbols)
    excess = np.mean(np.abs(obs.received - clean) ** 2) / truth.noise_variance
    expected = {"imperfect_array": 1.0, "interfered_uplink": 1 + 0.2 * 10**1.5, "low_resolution_adc": 3.0}
    assert excess == pytest.approx(expected[name], rel=0.02 if name == "imperfect_array" else 0.5)
    if name == "imperfect_array":
        assert np.count_nonzero(truth.element_response == 0) == 2
        assert 0 < np.linalg.norm(truth.array_rotation_rad) < 0.05
        assert obs.hardware.gain_stds[0] == 0.05 and obs.hardware.coupling_std == 0.03
    if name == "interfered_uplink":
        assert obs.hardware.estimates_noise and len(truth.interferer_directions) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"element_gain_std": -0.1}, "element_gain_std"),
        ({"n_dead_elements": 6}, "n_dead_elements must be below the 6 antennas, got 6"),
        ({"n_dead_elements": True}, "n_dead_elements: must not be true or false"),
        ({"coupling": 1.5}, "coupling"),
        ({"noise_correlation": 1.0}, "noise_correlation"),
        ({"interferer_band_share": 0.0}, "interferer_band_share"),
        ({"adc_bits": 0}, "adc_bits"),
        ({"adc_full_scale": 3.0}, "adc_full_scale needs adc_bits, got 3.0 alone"),
        ({"clipping_share": 1.0}, "clipping_share"),
        ({"iq_image_db": 3.0}, "iq_image_db"),
        ({"array_rotation_std_rad": (0.1, 0.1)}, "array_rotation_std_rad"),
    ],
)
def test_bad_fields_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        SMALL.replace(**changes)
