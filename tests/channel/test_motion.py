"""What an observation says of motion and oscillators: shapes, errors by name, files, static blocks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import isac_toolbox as isac
from isac_toolbox.channel.array import SPEED_OF_LIGHT_M_S
from isac_toolbox.channel.motion import MOTION_FIELDS

K, T = 2, 5
TIMES_S = 36e-6 * np.array([3.0, 4, 6, 7, 12])
EVERYTHING = {
    "symbol_times_s": TIMES_S,
    "frequency_offset_std_hz": 200.0,
    "user_velocities_m_s": [[1.0, 2, 0], [0, -3, 0]],
    "user_velocity_std_m_s": [5.0, 5, 0],
    "scatterer_velocity_std_m_s": 3.0,
    "phase_noise_std_rad": 0.02,
    "user_phase_noise_std_rad": [0.01, 0.03],
}


@pytest.fixture(scope="module")
def still() -> isac.UplinkObservation:
    scenario = isac.Scenario(
        array_shape=(2, 2), n_subcarriers=4, n_users=K, n_scatterers=2, n_data_symbols=T - K, snr_db=20
    )
    return scenario.simulate(0).observation


def test_what_is_given_is_broadcast_to_all_users(still):
    motion = replace(still, **EVERYTHING).motion
    assert motion.reference_time_s == pytest.approx(36e-6 * 6.4)
    assert np.allclose(motion.times_s, TIMES_S - 36e-6 * 6.4) and abs(motion.times_s.sum()) < 1e-18
    assert motion.half_span_s == pytest.approx(36e-6 * 5.6)
    assert motion.frequency_offset_stds_hz.tolist() == [200.0, 200.0]
    assert motion.user_velocities_m_s.tolist() == [[1.0, 2, 0], [0, -3, 0]]
    assert motion.user_velocity_stds_m_s.tolist() == [[5.0, 5, 0], [5, 5, 0]]
    assert motion.scatterer_velocity_std_m_s == 3 and motion.phase_noise_std_rad == 0.02
    assert motion.user_phase_noise_stds_rad.tolist() == [0.01, 0.03]
    assert motion.hz_per_m_s == pytest.approx(still.carrier_hz / SPEED_OF_LIGHT_M_S)
    assert motion.has_doppler and motion.has_phase_noise


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"symbol_times_s": TIMES_S},
        {"frequency_offset_std_hz": 0.0, "user_velocity_std_m_s": 0},
        {**EVERYTHING, **{name: 0.0 for name in MOTION_FIELDS if "std" in name}, "user_velocities_m_s": None},
    ],
)
def test_a_block_in_which_nothing_turns_is_static(still, given):
    assert replace(still, **given).motion is None


@pytest.mark.parametrize("name", [name for name in EVERYTHING if name != "symbol_times_s"])
def test_one_prior_alone_moves_the_block(still, name):
    motion = replace(still, symbol_times_s=TIMES_S, **{name: EVERYTHING[name]}).motion
    assert motion is not None
    assert motion.has_phase_noise == ("phase_noise" in name) and motion.has_doppler == ("phase" not in name)
    assert (motion.hz_per_m_s > 0) == ("velocit" in name)


def test_files_hold_what_is_given_and_nothing_else(still, tmp_path):
    for given in (EVERYTHING, {"symbol_times_s": TIMES_S, "frequency_offset_std_hz": [1.0, 2.0]}, {}):
        path = replace(still, **given).save(tmp_path / "block")
        with np.load(path) as stored:
            assert {name for name in MOTION_FIELDS if name in stored} == set(given)
        again = isac.UplinkObservation.load(path)
        for name in MOTION_FIELDS:
            value = getattr(again, name)
            assert value is None if name not in given else np.array_equal(value, given[name])


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("symbol_times_s", TIMES_S[1:], r"symbol_times_s must have shape \(T,\) = \(5\), got \(4,\)"),
        ("symbol_times_s", TIMES_S[::-1], "symbol_times_s must increase strictly"),
        ("symbol_times_s", TIMES_S[[0, 1, 1, 2, 3]], r"got .* \(symbols 1 and 2\)"),
        ("symbol_times_s", np.r_[TIMES_S[:4], np.nan], "symbol_times_s must be finite"),
        ("frequency_offset_std_hz", [1.0, 2, 3], r"frequency_offset_std_hz must be scalar or \(K,\) with"),
        ("frequency_offset_std_hz", -1.0, "frequency_offset_std_hz must be non-negative"),
        ("user_velocities_m_s", [1.0, 0, 0], r"user_velocities_m_s must have shape \(K, 3\)"),
        ("user_velocity_std_m_s", [1.0, 0], r"user_velocity_std_m_s must be scalar or \(3,\) or \(K, 3\)"),
        ("scatterer_velocity_std_m_s", [1.0, 1], "scatterer_velocity_std_m_s must have shape scalar"),
        ("phase_noise_std_rad", np.inf, "phase_noise_std_rad must be finite"),
        ("user_phase_noise_std_rad", [-0.1, 0.1], "user_phase_noise_std_rad must be non-negative"),
    ],
)
def test_bad_values_are_named(still, name, value, message):
    with pytest.raises(ValueError, match=message):
        replace(still, **{**EVERYTHING, name: value})


@pytest.mark.parametrize("name", list(EVERYTHING))
def test_other_types_are_named(still, name):
    with pytest.raises(TypeError, match=f"^{name} must be"):
        replace(still, **{**EVERYTHING, name: "walking"})


@pytest.mark.parametrize("name", [name for name in EVERYTHING if name != "symbol_times_s"])
def test_priors_need_times(still, name):
    with pytest.raises(ValueError, match=f"{name} needs symbol_times_s, .* got None"):
        replace(still, **{name: EVERYTHING[name]})


@pytest.mark.parametrize("name", [name for name in EVERYTHING if "velocit" in name])
def test_velocities_need_a_carrier(still, name):
    with pytest.raises(ValueError, match=f"{name} needs carrier_hz, got None"):
        replace(still, carrier_hz=None, symbol_times_s=TIMES_S, **{name: EVERYTHING[name]})
    offsets = {"symbol_times_s": TIMES_S, "frequency_offset_std_hz": 1.0}
    assert replace(still, carrier_hz=None, **offsets).motion.hz_per_m_s == 0


def test_a_station_that_hears_itself_does_not_move():
    scenario = isac.Scenario(link="monostatic", n_users=1, array_shape=(2, 2), n_subcarriers=4)
    obs = scenario.simulate(0).observation
    times = 36e-6 * np.arange(obs.n_symbols)
    with pytest.raises(ValueError, match="user_velocity_std_m_s must be zero for link='monostatic'"):
        replace(obs, symbol_times_s=times, user_velocity_std_m_s=1.0)
    assert replace(obs, symbol_times_s=times, scatterer_velocity_std_m_s=1.0).motion is not None


def test_symbols_closer_than_subcarriers_allow_are_implausible(still):
    with pytest.warns(isac.ImplausibleValueWarning, match="symbol_times_s are down to"):
        replace(still, symbol_times_s=1e-9 * np.arange(T))
