"""Least squares of users that share tones by codes over frequency."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose

import isac_toolbox as isac
from isac_toolbox.channel.uplink import receive
from isac_toolbox.metrics import channel_nmse_db

HADAMARD = {2: np.array([[1, 1], [1, -1]]), 4: np.kron([[1, 1], [1, -1]], [[1, 1], [1, -1]])}


def simulated(
    n_users: int, n_sub: int = 48, spacing_hz: float = 30e3, snr_db: float = 30.0, seed: int = 0
) -> isac.Simulation:
    """A block with one pilot symbol per user, orthogonal over time on every tone."""
    scenario = isac.Scenario.load("urban_uplink").replace(
        n_users=n_users,
        n_pilot_symbols=n_users,
        n_subcarriers=n_sub,
        subcarrier_spacing_hz=spacing_hz,
        array_shape=(4, 4),
        n_data_symbols=4,
        snr_db=snr_db,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", isac.ImplausibleValueWarning)  # of a narrow band
        return scenario.simulate(seed)


def with_pilots(sim, pilots: np.ndarray, seed: int = 1) -> isac.UplinkObservation:
    """The same channel and data under other pilots (K, N, T_p)."""
    obs, truth = sim.observation, sim.truth
    data = truth.symbols[:, :, sim.observation.pilot_mask.all(axis=0).sum() :]
    symbols = np.concatenate([pilots, data], axis=2)
    mask = np.zeros(symbols.shape[1:], bool)
    mask[:, : pilots.shape[2]] = True
    received = receive(truth.channel, symbols, truth.noise_variance, np.random.default_rng(seed))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", isac.ImplausibleValueWarning)
        return replace(obs, received=received, pilots=np.where(mask, symbols, 0), pilot_mask=mask)


def scrambled(codes: np.ndarray, seed: int = 2) -> np.ndarray:
    """Pilots (K, N, T_p) under one QPSK sequence that all users share."""
    phases = np.random.default_rng(seed).integers(0, 4, codes.shape[1:])
    return codes * np.exp(0.5j * np.pi * (phases + 0.5))


def over_frequency(n_users: int, n_sub: int) -> np.ndarray:
    """One symbol; user k has row k of a Hadamard matrix over successive tones."""
    return HADAMARD[n_users][:, np.arange(n_sub) % n_users][:, :, None]


def over_time_and_frequency(n_sub: int) -> np.ndarray:
    """Four users on two symbols and pairs of tones."""
    return np.stack([np.outer(f[np.arange(n_sub) % 2], t) for t in HADAMARD[2] for f in HADAMARD[2]])


def pairs_on_combs(n_sub: int) -> np.ndarray:
    """Four users, two on even tones and two on odd ones, each pair by a code over its tones."""
    tone = np.arange(n_sub)
    codes = [HADAMARD[2][k % 2][tone // 2 % 2] * (tone % 2 == k // 2) for k in range(4)]
    return np.sqrt(2) * np.stack(codes)[:, :, None]


CASES = {
    "pairs": (2, lambda n: over_frequency(2, n)),
    "fours": (4, lambda n: over_frequency(4, n)),
    "time and frequency": (4, over_time_and_frequency),
    "combs": (4, pairs_on_combs),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("n_sub", [48, 47])
def test_codes_over_frequency_are_as_good_as_codes_over_time(case, n_sub):
    n_users, codes = CASES[case]
    for seed in range(3):
        sim = simulated(n_users, n_sub, seed=seed)
        obs = with_pilots(sim, scrambled(codes(n_sub)))
        shared, single = (isac.LeastSquares().estimate(block) for block in (obs, sim.observation))
        reference = channel_nmse_db(single.channel, sim.truth.channel)
        assert channel_nmse_db(shared.channel, sim.truth.channel) < reference + 3
        assert reference < -30
        errors = isac.metrics.symbol_error_rate(shared, replace_truth(sim, obs))
        assert errors < 0.02
        assert len(shared.warnings) == 1 and "share subcarriers by codes" in shared.warnings[0]
        assert not single.warnings
        ratio = shared.noise_variance / sim.truth.noise_variance
        assert 0.4 < ratio < 4


def replace_truth(sim, obs: isac.UplinkObservation):
    """The simulation whose data stand after the pilots of another block."""
    n_pilots = int(obs.pilot_mask.all(axis=0).sum())
    indices = sim.truth.symbol_indices[:, :, sim.truth.symbol_indices[0, 0] >= 0]
    none = np.full((*indices.shape[:2], n_pilots), -1)
    return replace(sim, truth=replace(sim.truth, symbol_indices=np.concatenate([none, indices], axis=2)))


def test_the_order_of_subcarriers_does_not_matter():
    sim = simulated(2)
    obs = with_pilots(sim, scrambled(over_frequency(2, 48)))
    order = np.random.default_rng(5).permutation(48)
    fields = ("received", "subcarrier_frequencies_hz", "pilot_mask")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", isac.ImplausibleValueWarning)
        mixed = replace(
            obs, pilots=obs.pilots[:, order], **{name: getattr(obs, name)[order] for name in fields}
        )
    there, back = isac.LeastSquares().estimate(mixed), isac.LeastSquares().estimate(obs)
    assert_allclose(there.channel, back.channel[:, order], atol=1e-9)


@pytest.mark.parametrize("delay_s", [0.0, 300e-9, -300e-9])
def test_a_block_with_another_timing_keeps_its_quality(delay_s):
    """Simulators that count delays from the first path: the nominal line of sight is not what arrives."""
    sim = simulated(2)
    turn = np.exp(-2j * np.pi * sim.observation.subcarrier_frequencies_hz * delay_s)[:, None]
    sim = replace(sim, truth=replace(sim.truth, channel=sim.truth.channel * turn))
    obs = with_pilots(sim, scrambled(over_frequency(2, 48)))
    assert channel_nmse_db(isac.LeastSquares().estimate(obs).channel, sim.truth.channel) < -30


def test_delays_that_spread_too_far_are_said():
    near, far = (simulated(4, spacing_hz=spacing_hz) for spacing_hz in (30e3, 1.5e6))
    shares = []
    for sim in (near, far):
        result = isac.LeastSquares().estimate(with_pilots(sim, scrambled(over_frequency(4, 48))))
        shares.append(float(result.warnings[0].partition("agree to ")[2].partition(" %")[0]))
    assert shares[0] > 95 and shares[1] < 60


@pytest.mark.parametrize("pattern", ["orthogonal", "comb"])
def test_users_apart_on_every_tone_are_solved_for_tone_by_tone(pattern):
    scenario = isac.Scenario.load("urban_uplink").replace(pilot_pattern=pattern)
    obs = scenario.simulate(0).observation
    result = isac.LeastSquares().estimate(obs)
    known = obs.pilot_mask.all(axis=0)
    sent = np.any(obs.pilots, axis=2)
    assert not result.warnings
    for n in range(obs.n_subcarriers):
        alone = obs.received[n][:, known] @ np.linalg.pinv(obs.pilots[:, n, known])
        assert_allclose(result.channel[sent[:, n], n], alone.T[sent[:, n]], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda codes: codes[[0, 0]],  # the same pilots
        lambda codes: np.stack([codes[0], 1j * codes[0]]),
        lambda codes: np.stack([codes[0], codes[0] * np.exp(0.7j)]),
    ],
)
def test_users_that_no_group_keeps_apart_are_named(spoil):
    sim = simulated(2)
    obs = with_pilots(sim, scrambled(spoil(over_frequency(2, 48).astype(complex))))
    with pytest.raises(ValueError, match=r"pilots must keep users apart .* user\(s\) \[0, 1\]"):
        isac.LeastSquares().estimate(obs)


def test_one_tone_that_a_user_shares_alone_is_interpolated():
    """User 1 has its own tones, and one on which it sends the same as user 0."""
    sim = simulated(2)
    codes = np.zeros((2, 48, 1))
    codes[0, ::2], codes[1, 1::2] = 1, 1
    codes[1, 24] = 1
    obs = with_pilots(sim, np.sqrt(2) * scrambled(codes))
    assert channel_nmse_db(isac.LeastSquares().estimate(obs).channel, sim.truth.channel) < -30


def test_a_known_noise_variance_is_kept():
    sim = simulated(2)
    obs = with_pilots(sim, scrambled(over_frequency(2, 48)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", isac.ImplausibleValueWarning)
        known = replace(obs, noise_variance=0.5)
    assert isac.LeastSquares().estimate(known).noise_variance == pytest.approx(0.5, rel=1e-12)


def test_bits_of_shared_tones_are_sure_only_as_far_as_the_channel():
    """The stated variance covers the error of the channel."""
    sim = simulated(2, snr_db=10.0)
    result = isac.LeastSquares().estimate(with_pilots(sim, scrambled(over_frequency(2, 48))))
    error = np.mean(np.abs(result.channel - sim.truth.channel) ** 2)
    assert 0.5 * error < np.mean(result.channel_variance) < 4 * error
