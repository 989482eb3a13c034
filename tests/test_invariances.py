"""What must not matter: units of amplitude, a common phase, any order, and where the world is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

import isac_toolbox as isac
from helpers.examples import examples
from helpers.worlds import (
    KINDS,
    block_of,
    elsewhere,
    quarter_turns,
    with_elements,
    with_subcarriers,
    with_users,
)

KIND = st.sampled_from(sorted(KINDS))
SEED = st.integers(0, 10_000)
ESTIMATOR = isac.EMTurboBiSVBI(max_seconds=60.0)


def assert_same_channel(found: np.ndarray, plain: isac.EstimationResult) -> None:
    """Channels (K, N, M) differ by much less than they are uncertain."""
    power = np.sum(np.abs(found - plain.channel) ** 2)
    assert power < 0.1 * np.sum(plain.channel_variance), (power, np.sum(plain.channel_variance))


def assert_same_scene(
    other: isac.EstimationResult, plain: isac.EstimationResult, places_m: np.ndarray
) -> None:
    """Scatterers that are hardly in doubt are at the same ``places_m``, within their deviations."""
    assert other.status == plain.status
    for position, covariance, probability in zip(
        plain.scatterer_positions_m, plain.scatterer_covariance_m2, plain.scatterer_probability
    ):
        if probability > 0.95:
            deviation = np.sqrt(np.trace(covariance))
            assert np.linalg.norm(places_m - position, axis=1).min(initial=np.inf) < deviation


def assert_same(
    obs: isac.UplinkObservation,
    other: isac.EstimationResult,
    channel: np.ndarray,
    places_m: np.ndarray,
    further: Callable[[isac.EstimationResult], None] = lambda plain: None,
) -> None:
    """The other result, its channel and places turned back, is that of a block.

    One block in thousands stands between two scenes, of which rounding chooses; the other result may then be
    that of a block with samples off by rounding.
    """
    first: AssertionError | None = None
    for seed in range(7):
        rng, received = np.random.default_rng(seed), obs.received
        if seed:
            received = received * (1 + 1e-13 * rng.standard_normal(received.shape))
        plain = ESTIMATOR.estimate(replace(obs, received=received))
        try:
            assert_same_channel(channel, plain)
            assert_same_scene(other, plain, places_m)
            further(plain)
            return
        except AssertionError as error:
            first = first or error
    assert first is not None
    raise first


@given(KIND, SEED, st.floats(-5, 5), st.floats(0, 2 * np.pi))
@examples(4)
def test_amplitude_and_phase_of_all_samples(kind, seed, decades, phase_rad):
    obs, factor = block_of(kind, seed), 10.0**decades * np.exp(1j * phase_rad)
    other = ESTIMATOR.estimate(replace(obs, received=factor * obs.received))

    def same_noise(plain: isac.EstimationResult) -> None:
        assert np.isclose(other.noise_variance / abs(factor) ** 2, plain.noise_variance, rtol=1e-3)

    assert_same(obs, other, other.channel / factor, other.scatterer_positions_m, same_noise)


@given(KIND, SEED, st.randoms(use_true_random=False))
@examples(4)
def test_order_of_the_subcarriers(kind, seed, random):
    obs = block_of(kind, seed)
    order = np.array(random.sample(range(obs.n_subcarriers), obs.n_subcarriers))
    other = ESTIMATOR.estimate(with_subcarriers(obs, order))
    assert_same(obs, other, other.channel[:, np.argsort(order)], other.scatterer_positions_m)


@given(KIND, SEED, st.randoms(use_true_random=False))
@examples(4)
def test_order_of_the_users(kind, seed, random):
    obs = block_of(kind, seed)
    order = np.array(random.sample(range(obs.n_users), obs.n_users))
    other = ESTIMATOR.estimate(with_users(obs, order))
    assert_same(obs, other, other.channel[np.argsort(order)], other.scatterer_positions_m)


@given(KIND, SEED, st.randoms(use_true_random=False))
@examples(4)
def test_order_of_the_elements(kind, seed, random):
    obs = block_of(kind, seed)
    offsets = obs.array.element_offsets_m(3.5e9)
    orientation = obs.array.azimuth_rad, obs.array.elevation_rad
    along = offsets @ obs.array.axes.T * (3.5e9 / isac.channel.SPEED_OF_LIGHT_M_S)
    order = np.array(random.sample(range(len(along)), len(along)))
    arrays = [isac.ArbitraryArray(along[rows], *orientation) for rows in (slice(None), order)]
    plain = with_elements(obs, np.arange(len(along)), arrays[0])
    other = ESTIMATOR.estimate(with_elements(obs, order, arrays[1]))
    assert_same(plain, other, other.channel[:, :, np.argsort(order)], other.scatterer_positions_m)


@given(KIND, SEED, st.integers(0, 3), st.tuples(*[st.floats(-1e4, 1e4)] * 3))
@examples(4)
def test_place_and_orientation_of_the_world(kind, seed, quarters, shift_m):
    obs, turn = block_of(kind, seed), quarter_turns(quarters)
    other = ESTIMATOR.estimate(elsewhere(obs, quarters, np.array(shift_m)))
    users_m = (other.user_positions_m - shift_m) @ turn

    def same_users(plain: isac.EstimationResult) -> None:
        deviation = np.sqrt(np.trace(plain.user_position_covariance_m2, axis1=1, axis2=2))
        assert np.all(np.linalg.norm(users_m - plain.user_positions_m, axis=1) <= deviation)

    assert_same(obs, other, other.channel, (other.scatterer_positions_m - shift_m) @ turn, same_users)


@given(st.sampled_from(["moving", "turning"]), SEED, st.floats(-1e6, 1e6))
@examples(3)
def test_time_of_the_block(kind, seed, later_s):
    obs = block_of(kind, seed)
    other = ESTIMATOR.estimate(replace(obs, symbol_times_s=obs.symbol_times_s + later_s))

    def same_time(plain: isac.EstimationResult) -> None:
        assert np.isclose(other.reference_time_s, plain.reference_time_s + later_s)

    assert_same(obs, other, other.channel, other.scatterer_positions_m, same_time)


@given(KIND, SEED)
@examples(3)
def test_nothing_is_unsaid(tmp_path_factory, kind, seed):
    """No NaN without a status, and a file of the result holds all of it."""
    result = ESTIMATOR.estimate(block_of(kind, seed))
    for name in ("channel", "channel_variance", "symbol_mean", "llr", "user_positions_m", "time_offsets_s"):
        assert np.all(np.isfinite(getattr(result, name))), (name, result.status)
    path = result.save(tmp_path_factory.mktemp("result") / "result.npz")
    loaded = isac.EstimationResult.load(path)
    assert loaded.warnings == result.warnings and loaded.status == result.status
    assert np.array_equal(loaded.channel, result.channel)
    last = result.symbol_mean.shape[2] - 1
    assert np.array_equal(loaded.channel_at([0, last]), result.channel_at([0, last]))
