"""The fit test: noise passes at the stated rates, and what is no noise has the excess that it must have."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
from scipy.stats import kstest

import isac_toolbox as isac
from helpers.scenes import SMALL, complex_normal
from isac_toolbox.channel.array import SPEED_OF_LIGHT_M_S
from isac_toolbox.estimators.scene import whiteness as whiteness_module
from isac_toolbox.estimators.scene.diffuse import Diffuse
from isac_toolbox.estimators.scene.remedies import REMEDIES, headline
from isac_toolbox.estimators.scene.whiteness import FittedBlock, _response, _rotation, _Sums, whiteness
from isac_toolbox.estimators.search import PathSearch
from isac_toolbox.estimators.symbols.block import ReceivedBlock
from isac_toolbox.estimators.symbols.detection import ChannelKnowledge, detect
from isac_toolbox.estimators.symbols.statistics import SymbolMoments

URBAN = isac.Scenario.load("urban_uplink").replace(snr_db=20.0)
AXES = ("delay", "direction", "time", "element")


class Known:
    """A simulation whose channel, symbols and noise variance are known; blocks of it are not scaled."""

    def __init__(self, simulation):
        self.observation, self.truth = simulation.observation, simulation.truth
        self.noise = float(self.truth.noise_variance)
        self.search = PathSearch.for_observation(self.observation)

    def samples(self, seed, channel=None, symbols=None):
        """Samples (N, M, T) with noise of a seed, through another channel or of other symbols if given."""
        channel = self.truth.channel if channel is None else channel
        symbols = self.truth.symbols if symbols is None else symbols
        clean = np.einsum("knm,knt->nmt", channel, symbols)
        return clean + np.sqrt(self.noise) * complex_normal(np.random.default_rng(seed), clean.shape)

    def fitted(self, samples, **changes):
        """The samples beside the truth, every symbol known."""
        block = ReceivedBlock.of(replace(self.observation, received=samples), 1.0)
        moments = SymbolMoments(self.truth.symbols, np.zeros(self.truth.symbols.shape))
        return replace(FittedBlock(block, self.truth.channel, moments, 0.0), **changes)

    def misfit(self, samples, **changes):
        """How far they are from noise."""
        return whiteness(self.fitted(samples, **changes), self.search)


@pytest.fixture(scope="module")
def small():
    return Known(SMALL.simulate(0))


def offsets(turns):
    """Energy of factors (T,) about their mean."""
    return float(np.sum(np.abs(turns - turns.mean()) ** 2))


def test_noise_has_uniform_probabilities_in_time_and_over_elements(small):
    """Exact F laws, so the Kolmogorov-Smirnov distance of 300 blocks stays below its 1 % point, 0.094."""
    found = {"rotation": [], "response": []}
    for seed in range(300):
        fitted = small.fitted(small.samples(seed))
        sums = _Sums.of(fitted)
        found["rotation"].append(_rotation(sums).axis("rotation").p_value)
        found["response"].append(_response(sums, fitted, small.search).axis("response").p_value)
    for p_values in found.values():
        assert kstest(p_values, "uniform").statistic < 0.094


def test_a_small_block_gives_all_its_cells_to_the_covariance():
    known = Known(SMALL.replace(n_subcarriers=16).simulate(0))
    samples = known.samples(0)
    sums = _Sums.of(known.fitted(samples))
    assert len(sums.snapshots) == samples.shape[0] * samples.shape[2]


def test_noise_fails_no_more_often_than_stated(small):
    """Corrected for the number of looks, so conservative; 300 blocks have 30 +- 5 below a tenth at most."""
    found = [small.misfit(small.samples(seed)).axes for seed in range(300)]
    for name in AXES:
        p_values = np.array([axes[name].p_value for axes in found])
        assert 5 <= np.count_nonzero(p_values < 0.1) <= 45, name
        assert p_values.min() > 1e-5, name


def test_echoes_of_noise_at_one_element_fail_no_more_often_than_stated():
    """No array averages over them: one bin of length has the two degrees of freedom of one sample."""
    known = Known(SMALL.replace(array_shape=(1, 1), n_users=1, n_pilot_symbols=1).simulate(0))
    p_values = np.array([known.misfit(known.samples(seed)).delay.p_value for seed in range(200)])
    assert 3 <= np.count_nonzero(p_values < 0.1) <= 30 and p_values.min() > 1e-5


@pytest.mark.parametrize("snr_db", [-3.0, 3.0])
def test_uncertain_symbols_are_no_misfit(snr_db):
    """Data decided under the true channel: what is uncertain of them counts in expectation."""
    known = Known(SMALL.replace(snr_db=snr_db).simulate(0))
    ratios, lowest = [], 1.0
    for seed in range(60):
        samples = known.samples(seed)
        block = ReceivedBlock.of(replace(known.observation, received=samples), 1.0)
        moments = detect(block, ChannelKnowledge(known.truth.channel), known.noise).moments
        fitted = replace(known.fitted(samples), block=block, moments=moments)
        sums = _Sums.of(fitted)
        assert sums.noise == pytest.approx(known.noise, rel=0.1)
        turned = _rotation(sums)
        ratios.append(turned.energy / turned.freedom)
        lowest = min(lowest, *(axis.p_value for axis in whiteness(fitted, known.search).axes.values()))
    assert 0.8 < np.mean(ratios) < 1.1
    assert lowest > 1e-5


@pytest.mark.parametrize("degrees", [0.5, 5.0])
def test_a_rotation_has_its_excess(small, degrees):
    """``1 + sum_kt G_kt |e^(j psi_t) - mean|^2 / (sigma^2 d)`` with ``d = K (T - 1)``."""
    n_users, _, n_symbols = small.truth.symbols.shape
    turns = np.exp(1j * np.deg2rad(degrees) * np.arange(n_symbols))
    samples = small.samples(1, symbols=small.truth.symbols * turns)
    misfit = small.misfit(samples, channel=small.truth.channel * turns.mean())  # as a fit finds it
    energy = sum(
        np.sum(np.abs(np.einsum("nm,nt->nmt", h, u)) ** 2) / n_symbols
        for h, u in zip(small.truth.channel, small.truth.symbols, strict=True)
    )
    expected = 1 + energy * offsets(turns) / (small.noise * n_users * (n_symbols - 1))
    assert misfit.time.part == "rotation" and misfit.time.fails
    assert misfit.time.excess_db == pytest.approx(10 * np.log10(expected), abs=0.6 if degrees < 1 else 0.3)
    assert misfit.failing == ("time",)  # what a rotation leaves has delays and directions of its own


def test_a_factor_for_all_symbols_is_the_channels(small):
    """Beside it the energy is that of noise, ``K (T - 1)`` degrees of freedom."""
    known = _rotation(_Sums.of(small.fitted(small.samples(1))))
    scaled = _rotation(_Sums.of(small.fitted(small.samples(1, symbols=small.truth.symbols * 1.05))))
    assert known.freedom == scaled.freedom == 2 * 7
    noise = known.energy / scaled.energy  # of the residual, which the factor makes larger
    assert 1 < noise < 2


def test_element_errors_have_their_excess(small):
    """``1 + sum_m G_m |c_m - mean|^2 / (sigma^2 d)`` with the mean weighted by ``G_m`` and ``d = M - 1``."""
    channel, symbols = small.truth.channel, small.truth.symbols
    draws = complex_normal(np.random.default_rng(3), channel.shape[2])
    factors = 1 + 0.1 * draws
    misfit = small.misfit(small.samples(1, channel=channel * factors))
    energy = np.sum(np.abs(np.einsum("knm,knt->nmt", channel, symbols)) ** 2, axis=(0, 2))
    mean = energy @ factors / energy.sum()
    expected = 1 + energy @ np.abs(factors - mean) ** 2 / (small.noise * (factors.size - 1))
    assert misfit.element.part == "response" and misfit.element.fails
    assert misfit.element.excess_db == pytest.approx(10 * np.log10(expected), abs=0.3)
    assert misfit.failing == ("element",)


def test_an_echo_has_its_excess(small):
    """On a bin of the search: ``1 + a^2 E_k / sigma^2``, beside noise that has its power too."""
    channel, symbols = small.truth.channel.copy(), small.truth.symbols
    lengths = small.search.over_a_period().lengths_m
    frequencies = small.observation.subcarrier_frequencies_hz
    phases = np.exp(2j * np.pi * np.random.default_rng(4).random(channel.shape[2]))
    delays = np.exp(-2j * np.pi * frequencies * lengths[41] / SPEED_OF_LIGHT_M_S)
    power = small.noise / 10
    channel[1] += np.sqrt(power) * np.multiply.outer(delays, phases)
    misfit = small.misfit(small.samples(1, channel=channel))
    energy = np.sum(np.abs(symbols[1]) ** 2)
    noise = small.noise + power * energy / symbols[1].size
    expected = (small.noise + power * energy) / noise
    assert misfit.failing[0] == "delay" and misfit.delay.part == "echoes"
    assert misfit.delay.excess_db == pytest.approx(10 * np.log10(expected), abs=0.3)


def test_an_interferer_has_its_excess(small):
    """The largest eigenvalue of a spike (Baik, Ben Arous, Peche): ``l (1 + c / (l - 1))``, ``c = M / n``."""
    n_sub, n_elements, n_symbols = small.observation.received.shape
    steering = small.observation.array.steering_from_cosines(np.array([0.2]), np.array([-0.3]))[0]
    waveform = complex_normal(np.random.default_rng(5), (n_sub, 1, n_symbols))
    misfit = small.misfit(small.samples(1) + np.sqrt(small.noise) * steering[:, None] * waveform)
    # of unit diagonal: a half of the noise, and a half times M in one direction
    n_snapshots = len(_Sums.of(small.fitted(small.samples(1))).snapshots)
    spike, c = 1 + n_elements, n_elements / n_snapshots
    largest = spike * (1 + c / (spike - 1)) / 2
    assert misfit.failing == ("direction",) and misfit.direction.part == "colour"
    expected = 10 * np.log10(largest / (1 + np.sqrt(c)) ** 2)
    assert misfit.direction.excess_db == pytest.approx(expected, abs=0.8)


@pytest.mark.parametrize(("axis", "name"), [(1, "element"), (2, "time")])
def test_a_loud_part_has_its_excess(small, axis, name):
    loud = np.ones(small.observation.received.shape[axis])
    loud[2] = 2.0
    clean = small.samples(1) - np.einsum("knm,knt->nmt", small.truth.channel, small.truth.symbols)
    more = clean * np.sqrt(np.expand_dims(loud, [i for i in range(3) if i != axis]))
    misfit = small.misfit(small.samples(1) - clean + more)
    assert getattr(misfit, name).part == "power" and misfit.failing == (name,)
    assert getattr(misfit, name).excess_db == pytest.approx(10 * np.log10(2.0), abs=0.5)


def test_a_diffuse_part_is_no_element_error(small):
    """It has the power of noise on every element; errors alike on all paths stand out of it."""
    search, channel = small.search, small.truth.channel
    rng = np.random.default_rng(6)
    n_users, n_sub, n_elements = channel.shape
    bins = search.lengths_m.size
    profile = np.full((n_users, bins), 10 * small.noise / bins)
    responses = search.responses(np.arange(bins))
    zero = np.zeros((n_users, n_sub))
    found = []
    for seed in range(40):
        amplitudes = np.sqrt(profile)[:, :, None] * complex_normal(rng, (n_users, bins, n_elements))
        tail = responses @ amplitudes
        diffuse = Diffuse(search.lengths_m, profile, tail, zero, small.noise, profile, 0.0)
        samples = small.samples(seed, channel=channel + tail)
        fitted = small.fitted(samples, channel=channel + tail, diffuse=diffuse)
        sums = _Sums.of(fitted)
        found.append(_response(sums, fitted, search).energy / (n_elements - 1))
    assert np.mean(found) == pytest.approx(1.0, abs=0.1)
    factors = 1 + 0.1 * complex_normal(rng, n_elements)
    learned = np.full(profile.shape, 0.02 * np.mean(np.abs(channel) ** 2) / bins)
    taken_up = replace(diffuse, mean=channel * (factors - 1), profile=learned)
    fitted = small.fitted(
        small.samples(1, channel=channel * factors), channel=channel * factors, diffuse=taken_up
    )
    assert whiteness(fitted, search).element.fails


def test_masked_samples_count_nowhere(small):
    """Garbage in masked cells, elements and samples changes nothing; noise beside them passes."""
    rng, shape = np.random.default_rng(7), small.observation.received.shape
    there = rng.random(shape) > 0.2
    there[3] = False
    alive = np.arange(shape[1]) != 5
    samples = small.samples(1)
    garbage = np.where(there & alive[:, None], samples, 1e3)
    found = []
    for received in (samples, garbage):
        observation = replace(small.observation, received=received, sample_mask=there, element_mask=alive)
        fitted = replace(small.fitted(samples), block=ReceivedBlock.of(observation, 1.0))
        found.append(whiteness(fitted, small.search))
        assert _Sums.of(fitted).noise == pytest.approx(small.noise, rel=0.05)
    assert found[0] == found[1] and found[0].failing == ()
    assert min(axis.p_value for axis in found[0].axes.values()) > 1e-3


def test_the_parts_of_a_block_do_not_matter(small, monkeypatch):
    turns = np.exp(0.02j * np.arange(small.truth.symbols.shape[2]))
    samples = small.samples(1, symbols=small.truth.symbols * turns)
    whole = small.misfit(samples)
    monkeypatch.setattr(whiteness_module, "_MOST_SAMPLES", 1)
    for axis, again in zip(whole.axes.values(), small.misfit(samples).axes.values(), strict=True):
        assert again.part == axis.part
        assert again.excess_db == pytest.approx(axis.excess_db, abs=1e-4)


def test_what_a_block_cannot_tell_does_not_fail():
    """One antenna has no direction, and one OFDM symbol no time."""
    single = SMALL.replace(array_shape=(1, 1), n_users=1, n_pilot_symbols=1, n_data_symbols=0)
    misfit = Known(single.simulate(0)).misfit(single.simulate(0).observation.received)
    for name in ("direction", "time", "element"):
        assert (misfit.axes[name].excess_db, misfit.axes[name].p_value) == (0.0, 1.0)
    assert misfit.delay.p_value > 0.01 and misfit.failing == ()


def test_a_residual_of_rounding_is_not_judged(small):
    clean = np.einsum("knm,knt->nmt", small.truth.channel, small.truth.symbols)
    misfit = small.misfit(clean * (1 + 1e-9))
    assert all((axis.excess_db, axis.p_value) == (0.0, 1.0) for axis in misfit.axes.values())


def test_every_part_has_a_remedy(small):
    parts = {
        ("delay", "echoes"),
        ("direction", "colour"),
        ("time", "rotation"),
        ("time", "power"),
        ("element", "response"),
        ("element", "power"),
    }
    assert set(REMEDIES) == parts
    assert headline(None) is None and headline(small.misfit(small.samples(1))) is None


@pytest.mark.parametrize("estimator", [isac.EMTurboBiSVBI(), isac.NOMP()])
def test_estimates_say_what_does_not_fit(estimator):
    """A frequency offset of 100 Hz on symbols of 36 us, once in silence; the block without it passes."""
    simulation = URBAN.simulate(0)
    clean = estimator.estimate(simulation.observation)
    assert clean.misfit.failing == () and clean.warnings == ()
    turns = np.exp(2j * np.pi * 100.0 * 36e-6 * np.arange(simulation.observation.n_symbols))
    turned = replace(simulation.observation, received=simulation.observation.received * turns)
    result = estimator.estimate(turned)
    assert result.misfit.failing[0] == "time" and result.misfit.time.part == "rotation"
    assert not result.converged or result.status == "misfit"
    said = [text for text in result.warnings if text.startswith("the model does not fit over time")]
    assert len(said) == 1 and "frequency_offset_std_hz" in said[0]


def test_element_errors_are_told_from_a_diffuse_channel():
    """The diffuse part takes up errors of 1 degree; the fit test says what they are."""
    simulation = URBAN.simulate(1)
    phases = np.exp(1j * np.deg2rad(1.0) * np.random.default_rng(8).standard_normal(64))
    received = simulation.observation.received * phases[:, None]  # the noise is the same
    result = isac.EMTurboBiSVBI().estimate(replace(simulation.observation, received=received))
    assert result.misfit.failing == ("element",) and result.status == "misfit"
    diffuse = isac.Scenario.load("diffuse_uplink").simulate(0)
    result = isac.EMTurboBiSVBI().estimate(diffuse.observation)
    assert result.diffuse_power.any() and result.misfit.failing == ()


@pytest.mark.parametrize("estimator", [isac.LeastSquares(), isac.MusicSCVBI(), isac.OMP()])
def test_methods_without_a_model_to_judge_have_none(estimator):
    assert estimator.estimate(SMALL.simulate(0).observation).misfit is None


def test_axes_are_those_of_the_report():
    assert tuple(f.name for f in fields(isac.estimators.Misfit)) == AXES


@pytest.mark.parametrize("n_snapshots", [100, 1000])
def test_the_largest_eigenvalue_of_many_elements(n_snapshots):
    """By an iteration, which stops at the error that single precision has."""
    rng = np.random.default_rng(0)
    samples = rng.standard_normal((2, n_snapshots, 200)) @ np.diag(np.linspace(0.8, 1.2, 200))
    samples = (samples[0] + 1j * samples[1]).astype(np.complex64)
    covariance = samples.conj().T @ samples / n_snapshots
    expected = np.linalg.eigvalsh(covariance.astype(complex))[-1]
    assert whiteness_module._largest_eigenvalue(covariance) == pytest.approx(expected, rel=1e-5)
