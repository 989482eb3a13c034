"""Missing samples, dead elements, nulled subcarriers: no influence when masked, found when not."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

import isac_toolbox as isac
from helpers.scenes import assert_no_nan
from isac_toolbox.bounds import hybrid_crb
from isac_toolbox.estimators.coarse.nomp import newtonised_omp
from isac_toolbox.estimators.scene.problem import Problem
from isac_toolbox.estimators.scene.silence import listen
from isac_toolbox.estimators.search import PathSearch
from isac_toolbox.estimators.symbols.block import ReceivedBlock
from isac_toolbox.metrics import channel_nmse_db, localisation

URBAN = isac.Scenario.load("urban_uplink").replace(snr_db=20)
SMALL = isac.Scenario(
    array_shape=(4, 3), n_subcarriers=24, n_users=2, n_scatterers=2, n_pilot_symbols=2, n_data_symbols=3
)
DEAD = 20
ESTIMATORS = [
    isac.EMTurboBiSVBI(),
    isac.EMTurboBiSVBI(coarse="music", max_iter=6),
    isac.EMTurboBiSVBI(inverse="full", grid_points=30, max_iter=6),
    isac.EMTurboBiSVBI(inverse="mm", grid_points=30, max_iter=6),
    isac.MusicSCVBI(max_iter=5),
    isac.NOMP(),
    isac.OMP(max_points=5),
    isac.LeastSquares(),
]


@cache
def simulated(seed: int = 0, scenario: isac.Scenario = URBAN) -> isac.Simulation:
    return scenario.simulate(seed)


def noise_like(simulation: isac.Simulation, shape, seed: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    parts = rng.standard_normal((2, *shape))
    return np.sqrt(simulation.truth.noise_variance / 2) * (parts[0] + 1j * parts[1])


def masks_of(kind: str, shape: tuple[int, int, int]) -> dict:
    """Arguments of an observation: what of a block is masked."""
    n_sub, n_elements, _ = shape
    rng = np.random.default_rng(0)
    samples, elements = np.ones(shape, bool), np.ones(n_elements, bool)
    if kind == "dead element":
        elements[DEAD % n_elements] = False
        return {"element_mask": elements}
    if kind == "four dead elements":
        elements[[0, 3, n_elements // 2, n_elements - 1]] = False
        return {"element_mask": elements}
    if kind == "a tenth of the samples":
        samples = rng.random(shape) > 0.1
    elif kind == "a subcarrier":
        samples[n_sub // 3] = False
    elif kind == "a symbol and half a band of one element":
        samples[..., 1] = False
        samples[: n_sub // 2, DEAD % n_elements] = False
    elif kind == "all together":
        samples = rng.random(shape) > 0.1
        samples[n_sub // 3], samples[..., -1] = False, False
        elements[DEAD % n_elements] = False
        return {"sample_mask": samples, "element_mask": elements}
    return {"sample_mask": samples}


KINDS = [
    "dead element",
    "four dead elements",
    "a tenth of the samples",
    "a subcarrier",
    "a symbol and half a band of one element",
    "all together",
]


def bits(result: isac.EstimationResult) -> list[bytes]:
    values = (result.channel, result.channel_variance, result.llr, result.symbol_mean, result.noise_variance)
    return [np.asarray(value).tobytes() for value in (*values, result.scatterer_positions_m)]


@pytest.mark.parametrize(
    "estimator", ESTIMATORS, ids=lambda e: f"{type(e).__name__}-{getattr(e, 'inverse', '')}"
)
@pytest.mark.parametrize("kind", ["dead element", "a tenth of the samples", "all together"])
def test_what_is_masked_has_no_influence(estimator, kind):
    """1e9, NaN and masked arrays under the mask give the same bits as the samples themselves."""
    observation = simulated(0, SMALL).observation
    masks = masks_of(kind, observation.received.shape)
    masked = replace(observation, **masks)
    reference = estimator.estimate(masked)
    assert_no_nan(reference)
    assert reference.channel.shape == (2, 24, 12)
    for value in (1e9, np.nan):
        received = np.where(masked.usable, observation.received, value)
        assert bits(estimator.estimate(replace(observation, received=received, **masks))) == bits(reference)
    hidden = np.ma.masked_array(np.where(masked.usable, observation.received, 1e9), ~masked.usable)
    assert bits(estimator.estimate(replace(observation, received=hidden))) == bits(reference)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", [0, 3])
def test_masked_blocks_reach_the_bound_of_what_is_left(kind, seed):
    simulation = simulated(seed)
    clean = isac.EMTurboBiSVBI().estimate(simulation.observation)
    observation = simulation.observation
    masked = replace(observation, **masks_of(kind, observation.received.shape))
    result = isac.EMTurboBiSVBI().estimate(masked)
    truth = simulation.truth
    lost = (
        hybrid_crb(replace(simulation, observation=masked)).channel_nmse_db
        - hybrid_crb(simulation).channel_nmse_db
    )
    assert 0 < lost < 1.5
    found = channel_nmse_db(result.channel, truth.channel)
    assert found < channel_nmse_db(clean.channel, truth.channel) + lost + 0.5
    error = np.sum(np.abs(result.channel - truth.channel) ** 2)
    assert 0.6 < error / np.sum(result.channel_variance) < 1.6
    assert abs(10 * np.log10(result.noise_variance / truth.noise_variance)) < 0.2
    place = localisation(result.scatterer_positions_m, truth.scatterer_positions_m)
    assert (place.hits, place.false_alarms) == (8, 0)
    assert not result.warnings and result.n_iter <= clean.n_iter + 5
    data = truth.symbol_indices >= 0
    decided = masked.usable_cells & data
    assert np.array_equal(result.symbol_decision[decided], truth.symbol_indices[decided])
    assert not result.llr[~np.broadcast_to(masked.usable_cells, data.shape)].any()


@pytest.mark.parametrize(
    "change",
    [{"wavefront": "spherical"}, {"beam_squint": True}, {"pilot_pattern": "comb"}, {"snr_db": 0.0}],
    ids=str,
)
@pytest.mark.parametrize("kind", ["dead element", "all together"])
def test_masks_under_other_models(change, kind):
    simulation = simulated(0, URBAN.replace(**change))
    masked = replace(simulation.observation, **masks_of(kind, simulation.observation.received.shape))
    result = isac.EMTurboBiSVBI().estimate(masked)
    bound = hybrid_crb(replace(simulation, observation=masked)).channel_nmse_db
    assert channel_nmse_db(result.channel, simulation.truth.channel) < bound + 1.5


def test_echoes_with_missing_samples():
    """A block without data."""
    simulation = isac.Scenario.load("monostatic_echo").simulate(0)
    masked = replace(
        simulation.observation, **masks_of("all together", simulation.observation.received.shape)
    )
    result = isac.EMTurboBiSVBI().estimate(masked)
    bound = hybrid_crb(replace(simulation, observation=masked)).channel_nmse_db
    assert channel_nmse_db(result.channel, simulation.truth.channel) < bound + 2


# --- not masked: found by evidence -------------------------------------------------------------------


def broken(simulation: isac.Simulation, elements=(), subcarriers=(), noise: bool = True):
    """An observation with parts that carry no signal, and nobody says so."""
    received = simulation.observation.received.copy()
    noisy = noise_like(simulation, received.shape) * noise
    received[:, list(elements)] = noisy[:, list(elements)]
    received[list(subcarriers)] = noisy[list(subcarriers)]
    return replace(simulation.observation, received=received)


SILENT = [
    ((DEAD,), (), "element 20 {}: left out; pass element_mask"),
    ((3, 20, 41, 63), (), "elements 3, 20, 41, 63 {}: left out; pass element_mask"),
    ((), (30,), "subcarrier 30 {}: left out; pass sample_mask"),
    (tuple(range(24, 32)), (), "elements 24, 25, 26, 27, 28, 29, 30, 31 {}: left out; pass element_mask"),
    ((), (3, 17, 60), "subcarriers 3, 17, 60 {}: left out; pass sample_mask"),
]


@pytest.mark.parametrize("estimator", [isac.EMTurboBiSVBI(), isac.NOMP()], ids=lambda e: type(e).__name__)
@pytest.mark.parametrize(("elements", "subcarriers", "words"), SILENT)
@pytest.mark.parametrize("noise", [True, False], ids=["noise", "zeros"])
@pytest.mark.parametrize("snr_db", [0, 20])
def test_silent_parts_are_left_out_as_if_they_were_masked(
    estimator, elements, subcarriers, words, noise, snr_db
):
    simulation = simulated(1, URBAN.replace(snr_db=snr_db))
    observation = broken(simulation, elements, subcarriers, noise)
    result = estimator.estimate(observation)
    several = len(elements) + len(subcarriers) > 1
    why = "carries no signal (gain below 0.3)" if noise else "holds only zeros"
    why = why.replace("carries", "carry").replace("holds", "hold") if several else why
    assert result.warnings == (words.format(why),)
    masked = replace(
        observation,
        element_mask=~np.isin(np.arange(64), elements),
        sample_mask=~np.isin(np.arange(64), subcarriers)[:, None, None],
    )
    told = estimator.estimate(masked)
    assert not told.warnings
    told.channel[..., list(elements)] = 0
    assert bits(told) == bits(result)
    assert result.silent_elements.tolist() == list(elements)


def test_a_lost_symbol_and_a_gap_in_it_are_named():
    simulation = simulated(1)
    received = simulation.observation.received.copy()
    received[..., 9] = 0
    received[10:13, :, 5] = 0
    result = isac.EMTurboBiSVBI().estimate(replace(simulation.observation, received=received))
    assert result.warnings == (
        "OFDM symbol 9 holds only zeros: left out; pass sample_mask",
        "3 resource elements hold only zeros: left out; pass sample_mask",
    )
    bound = hybrid_crb(simulation).channel_nmse_db
    assert channel_nmse_db(result.channel, simulation.truth.channel) < bound + 1.5


@pytest.mark.parametrize(
    "estimator", [isac.LeastSquares(), isac.OMP(max_points=3)], ids=lambda e: type(e).__name__
)
def test_every_estimator_says_what_is_zero(estimator):
    result = estimator.estimate(broken(simulated(0, SMALL), (5,), noise=False))
    assert result.warnings == ("element 5 holds only zeros: left out; pass element_mask",)


def test_cells_in_which_nobody_sends_may_be_zero():
    simulation = simulated(0, SMALL)
    observation = simulation.observation
    pilots, received = observation.pilots.copy(), observation.received.copy()
    known = np.array(observation.known)
    pilots[:, 7], known[:, 7], received[7] = 0, True, 0
    result = isac.EMTurboBiSVBI().estimate(
        replace(observation, pilots=pilots, pilot_mask=known, received=received)
    )
    assert not result.warnings


def faded(gain: complex) -> isac.UplinkObservation:
    """Two paths of like delay whose waves cancel on the elements of one column, for every user."""
    simulation = simulated(0, SMALL.replace(array_shape=(8, 2), snr_db=25))
    observation = simulation.observation
    slope, _ = observation.array.phase_slopes
    first, second = np.exp(1j * 0.1 * slope), np.exp(1j * 0.35 * slope)
    response = np.repeat(first - gain * second * first[3] / second[3], 2)
    wave = np.exp(-2j * np.pi * observation.subcarrier_frequencies_hz * 3e-7)
    channel = np.multiply.outer([1.0, 1.1], np.multiply.outer(wave, response))
    clean = np.einsum("knm,knt->nmt", channel, simulation.truth.symbols)
    noise = noise_like(simulation, clean.shape) / np.sqrt(simulation.truth.noise_variance)
    return replace(observation, received=clean + 0.05 * noise)


@pytest.mark.parametrize("gain", [1.0, 0.98])
def test_deep_fades_are_not_taken_for_dead_elements(gain):
    """Both elements of a column receive next to nothing; the others explain why."""
    observation = faded(gain)
    power = np.mean(np.abs(observation.received) ** 2, axis=(0, 2))
    assert power[6] < 0.02 * np.median(power)
    warnings = isac.EMTurboBiSVBI().estimate(observation).warnings
    assert not any("signal" in text for text in warnings)


def test_weak_elements_are_not_silent():
    """Half the amplitude: the element carries signal, and that it responds differently is said."""
    simulation = simulated(0, SMALL)
    received = simulation.observation.received.copy()
    received[:, 5] *= 0.5
    said = isac.NOMP().estimate(replace(simulation.observation, received=received)).warnings
    assert [text.partition(":")[0] for text in said] == ["the model does not fit over element"]


@pytest.mark.parametrize("name", ["urban_uplink", "rich_scattering", "traced_street_canyon"])
@pytest.mark.parametrize("shape", [(8, 8), (4, 1), (2, 2)])
@pytest.mark.parametrize("snr_db", [-10.0, 10.0, 30.0])
def test_clean_blocks_lose_nothing(name, shape, snr_db):
    scenario = isac.Scenario.load(name).replace(
        array_shape=shape, snr_db=snr_db, n_subcarriers=32, n_data_symbols=2, n_users=3
    )
    for seed in range(3):
        observation = scenario.simulate(seed).observation

        def first_fit(obs, block, watch):
            search = PathSearch.for_observation(obs)
            return newtonised_omp(Problem.on_pilots(obs, block), search, watch=watch)[1]

        assert listen(observation, ReceivedBlock.of(observation), first_fit) == []
