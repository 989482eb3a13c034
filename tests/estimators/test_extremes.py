"""The ends of what may be asked: few of everything, all levels of noise, places on each other, all scales."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

import isac_toolbox as isac
from helpers.scenes import BS_M, REGION_M, SMALL, assert_no_nan
from isac_toolbox.channel import Environment

BISVBI = isac.EMTurboBiSVBI(max_seconds=30.0)
ESTIMATORS = {"bisvbi": BISVBI, "nomp": isac.NOMP(), "least squares": isac.LeastSquares()}
every_estimator = pytest.mark.parametrize("estimator", ESTIMATORS.values(), ids=ESTIMATORS.keys())
USERS_M = np.array([[50.0, -10.0, 1.5], [60.0, 15.0, 1.5]])
quiet = pytest.mark.filterwarnings("ignore::isac_toolbox.ImplausibleValueWarning")


def scene_of(points_m, users_m=USERS_M, gain=0.5) -> Environment:
    """Users with lines of sight, and scatterers that all of them see."""
    n_users, n_points = len(users_m), len(points_m)
    turn = np.exp(1j * np.arange(n_users * n_points).reshape(n_users, n_points))
    return Environment(
        bs_position_m=BS_M,
        user_positions_m=users_m,
        scatterer_positions_m=np.reshape(points_m, (-1, 3)),
        line_of_sight_gain=np.ones(n_users),
        scatterer_gain=gain * turn,
        extra_user=np.zeros(0, int),
        extra_direction=np.zeros((0, 3)),
        extra_delay_s=np.zeros(0),
        extra_gain=np.zeros(0),
        region_m=REGION_M,
    )


def nmse_db(result, simulation) -> float:
    return isac.metrics.channel_nmse_db(result.channel, simulation.truth.channel)


@quiet
@every_estimator
@pytest.mark.parametrize(
    "changes",
    [
        {"n_users": 1, "n_pilot_symbols": 1},
        {"n_scatterers": 0},
        {"n_scatterers": 1},
        {"n_subcarriers": 2},
        {"n_subcarriers": 2, "n_users": 1, "n_pilot_symbols": 1, "n_scatterers": 0, "n_data_symbols": 0},
        {"snr_db": -30.0},
        {"snr_db": 50.0},
    ],
    ids=lambda changes: "-".join(f"{name}={value}" for name, value in changes.items()),
)
def test_few_of_everything_and_all_levels_of_noise(estimator, changes):
    """Numbers throughout, at 50 dB a channel as good as pilots say, and at least one no worse than none.

    But for least squares, which takes noise for channel.
    """
    simulation = SMALL.replace(**changes).simulate(1)
    result = estimator.estimate(simulation.observation)
    assert_no_nan(result)
    most_db = {50.0: -48.0, -30.0: 35.0 if result.estimator == "LeastSquares" else 1.0}
    assert nmse_db(result, simulation) < most_db.get(changes.get("snr_db"), 1.0)


@pytest.mark.parametrize("n_scatterers", [0, 1])
def test_scenes_of_no_and_of_one_scatterer_are_told(n_scatterers):
    simulation = SMALL.replace(n_scatterers=n_scatterers, visibility_probability=1.0).simulate(3)
    result = BISVBI.estimate(simulation.observation)
    assert len(result.scatterer_positions_m) == n_scatterers
    assert (
        isac.metrics.localisation(result.scatterer_positions_m, simulation.truth.scatterer_positions_m).hits
        == n_scatterers
    )


@pytest.mark.parametrize("apart_m", [0.0, 1e-9, 1e-3, 0.3])
def test_scatterers_in_one_place_are_one(apart_m):
    """Closer than any resolution, they are a point, or a body, between them."""
    place = np.array([45.0, 20.0, 8.0])
    simulation = SMALL.simulate(0, environment=scene_of([place, place + np.array([0, apart_m, 0])]))
    result = BISVBI.estimate(simulation.observation)
    assert_no_nan(result)
    near = np.linalg.norm(result.scatterer_positions_m - place, axis=1) < 2.0
    assert near.any() and near.all()
    assert nmse_db(result, simulation) < -20


@pytest.mark.parametrize("where", ["user", "station", "behind the station", "border", "corner"])
def test_scatterers_on_a_user_on_the_station_and_on_the_border(where):
    """What cannot be told from a line of sight is not told; the channel is right all the same."""
    place = {
        "user": USERS_M[0] + np.array([0, 0, 1e-6]),
        "station": BS_M + np.array([1e-3, 0, -5e-3]),
        "behind the station": BS_M - np.array([30.0, 0.0, 10.0]),
        "border": np.array([20.0, 0.0, 7.0]),
        "corner": REGION_M[1] - np.array([1.0, 1.0, 0.5]),
    }[where]
    simulation = SMALL.simulate(0, environment=scene_of([place]))
    result = BISVBI.estimate(simulation.observation)
    assert_no_nan(result)
    assert nmse_db(result, simulation) < -15
    if where in ("border", "corner"):
        errors = np.linalg.norm(result.scatterer_positions_m - place, axis=1)
        assert errors.min(initial=np.inf) < 2.0


@pytest.mark.parametrize("edge_m", [[20.0, -30.0, 0.0], [80.0, 30.0, 15.0], [20.0, 0.0, 1.5]])
def test_users_on_the_edge_of_the_region(edge_m):
    simulation = SMALL.simulate(0, environment=scene_of([[45.0, 20.0, 8.0]], np.array([edge_m, USERS_M[1]])))
    result = BISVBI.estimate(simulation.observation)
    assert_no_nan(result)
    assert nmse_db(result, simulation) < -20
    assert np.linalg.norm(result.user_positions_m[0] - edge_m) < 2.0


def scaled(obs: isac.UplinkObservation, factor: float) -> isac.UplinkObservation:
    """The block of a world so many times as large, at frequencies so many times as low."""
    return replace(
        obs,
        subcarrier_frequencies_hz=obs.subcarrier_frequencies_hz / factor,
        carrier_hz=None if obs.carrier_hz is None else obs.carrier_hz / factor,
        bs_position_m=obs.bs_position_m * factor,
        user_positions_m=obs.user_positions_m * factor,
        user_position_std_m=obs.user_position_stds_m * factor,
        time_offset_std_s=obs.time_offset_stds_s * factor,
        region_m=obs.region_m * factor,
    )


@quiet
@pytest.mark.parametrize("wavefront", ["planar", "spherical"])
@pytest.mark.parametrize("factor", [1e-3, 1e-1, 30.0, 1e3])
def test_scenes_of_millimetres_and_of_kilometres_are_estimated_alike(factor, wavefront):
    """Nothing but ratios of lengths to wavelengths and resolution cells is in the samples."""
    obs = SMALL.replace(wavefront=wavefront).simulate(2).observation
    plain, other = BISVBI.estimate(obs), BISVBI.estimate(scaled(obs, factor))
    assert other.status == plain.status
    assert len(other.scatterer_positions_m) == len(plain.scatterer_positions_m)
    power = np.sum(np.abs(other.channel - plain.channel) ** 2)
    assert power < 0.1 * np.sum(plain.channel_variance)
    stds = np.sqrt(np.trace(plain.scatterer_covariance_m2, axis1=1, axis2=2))
    places = other.scatterer_positions_m / factor
    apart = np.linalg.norm(places[:, None] - plain.scatterer_positions_m, axis=2)
    assert np.all(apart.min(axis=0) < stds)


@pytest.mark.parametrize("name", ["bisvbi", "nomp", "least squares"])
def test_one_and_two_threads_agree(name):
    """To nine digits; a kernel that adds in another order moves the last ones."""
    obs = isac.Scenario(n_subcarriers=48, array_shape=(8, 6), n_data_symbols=4).simulate(0).observation
    estimator = ESTIMATORS[name]
    found = []
    for n_threads in (1, 2):
        with threadpool_limits(n_threads):
            found.append(estimator.estimate(obs))
    for field in ("channel", "symbol_mean", "user_positions_m", "scatterer_positions_m", "time_offsets_s"):
        one, two = (getattr(result, field) for result in found)
        assert one.shape == two.shape and np.allclose(
            one, two, rtol=1e-9, atol=1e-9 * np.abs(one).max(initial=0)
        )
