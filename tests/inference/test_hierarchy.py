"""The three update rules of the sparse prior."""

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.special import digamma, expit, gammaln, xlog1py, xlogy
from scipy.stats import gamma as gamma_distribution

from isac_toolbox.inference import (
    RULES,
    GaussianMessage,
    IndependentSupport,
    PriorState,
    ThreeLayerPrior,
)

N = 12
CLASSES = np.arange(N) % 2
SLAB, SPIKE = np.array([0.7, 2.0]), np.array([60.0, 200.0])


def draw(is_complex, seed=0):
    rng = np.random.default_rng(seed)

    def normal():
        return rng.standard_normal(N) + (1j * rng.standard_normal(N) if is_complex else 0.0)

    message = GaussianMessage(normal(), rng.uniform(0.01, 0.5, N))
    return message, normal(), rng.uniform(0.01, 0.5, N), rng.uniform(0.05, 0.95, N)


def log_expectation(function):
    """Integral over `rho` of a positive function, on a logarithmic axis."""
    return np.log(quad(lambda t: function(np.exp(t)) * np.exp(t), -40.0, 12.0, epsrel=1e-11, limit=500)[0])


@pytest.mark.parametrize("is_complex", [True, False])
@pytest.mark.parametrize("shapes", [(1.0, 1.0), (2.5, 1.5)])
def test_structured_rule_against_quadrature_over_the_precision(is_complex, shapes):
    message, mean, variance, pi = draw(is_complex)
    half = 1.0 if is_complex else 0.5
    prior = ThreeLayerPrior(
        SLAB, SPIKE, "structured", is_complex, slab_shape=shapes[0], spike_shape=shapes[1]
    )
    ratio = prior.log_likelihood_ratio(PriorState.initial(N, 1.0), message, mean, variance, CLASSES)
    rho, log_rho = prior.precision(pi, message, mean, variance, CLASSES)
    for i in range(N):
        power = half * (abs(mean[i]) ** 2 + variance[i])
        log_z, average = [], []
        for shape, nominal in zip(shapes, (SLAB[CLASSES[i]], SPIKE[CLASSES[i]]), strict=True):
            density = gamma_distribution(shape, scale=nominal / shape).pdf

            def weight(x, extra=0.0, density=density, power=power):
                return density(x) * x ** (half + extra) * np.exp(-x * power)

            log_z.append(log_expectation(weight))
            average.append(np.exp(log_expectation(lambda x, w=weight: w(x, 1.0)) - log_z[-1]))
        assert ratio[i] == pytest.approx(log_z[0] - log_z[1], rel=1e-7, abs=1e-7)
        assert rho[i] == pytest.approx(pi[i] * average[0] + (1 - pi[i]) * average[1], rel=1e-7)
    np.testing.assert_allclose(log_rho, np.log(rho))


@pytest.mark.parametrize("is_complex", [True, False])
def test_mean_field_ratio_is_an_expectation_over_the_precision(is_complex):
    message, mean, variance, pi = draw(is_complex, 1)
    half = 1.0 if is_complex else 0.5
    prior = ThreeLayerPrior(SLAB, SPIKE, "mean_field", is_complex, slab_shape=2.0, spike_shape=3.0)
    rho, log_rho = prior.precision(pi, message, mean, variance, CLASSES)
    state = PriorState(rho, log_rho, pi, np.zeros(N), np.zeros(N))
    ratio = prior.log_likelihood_ratio(state, message, mean, variance, CLASSES)
    for i in range(N):
        slab, spike = (gamma_distribution(a, scale=p / a) for a, p in prior_pairs(i))
        shape = 2.0 * pi[i] + 3.0 * (1 - pi[i]) + half
        rate = 2.0 / SLAB[CLASSES[i]] * pi[i] + 3.0 / SPIKE[CLASSES[i]] * (1 - pi[i])
        q = gamma_distribution(shape, scale=1.0 / (rate + half * (abs(mean[i]) ** 2 + variance[i])))
        assert rho[i] == pytest.approx(q.mean(), rel=1e-12)
        assert log_rho[i] == pytest.approx(q.expect(np.log), rel=1e-6, abs=1e-7)
        expected = q.expect(lambda x, a=slab, b=spike: a.logpdf(x) - b.logpdf(x))
        assert ratio[i] == pytest.approx(expected, rel=1e-6, abs=1e-6)


def prior_pairs(i):
    return (2.0, SLAB[CLASSES[i]]), (3.0, SPIKE[CLASSES[i]])


def free_energy(pi, shape, rate, power, p):
    """Factorised free energy of one complex coefficient, `q(x)` fixed; prior shapes 1."""
    log_rho, rho = digamma(shape) - np.log(rate), shape / rate
    entropy = shape - np.log(rate) + gammaln(shape) + (1.0 - shape) * digamma(shape)
    entropy -= xlogy(pi, pi) + xlog1py(1.0 - pi, -pi)
    slab, spike = (np.log(b) - b * rho for b in (1.0 / SLAB[0], 1.0 / SPIKE[0]))
    log_joint = log_rho - rho * power + pi * (slab + np.log(p)) + (1 - pi) * (spike + np.log(1 - p))
    return -(log_joint + entropy)


def test_mean_field_updates_descend_to_a_stationary_point_of_the_free_energy():
    power, p = 0.15, 0.3
    prior = ThreeLayerPrior(SLAB[:1], SPIKE[:1], "mean_field")
    message = GaussianMessage(np.ones(1), np.ones(1))
    moments = np.zeros(1), np.array([power]), np.zeros(1, dtype=int)
    support = IndependentSupport(1, p)
    state, energies = PriorState.initial(1, 5.0), []
    for _ in range(300):
        state = prior.sweep(state, message, *moments, support, learn_slab=False).state
        pi = state.probability[0]
        rate = pi / SLAB[0] + (1 - pi) / SPIKE[0] + power
        energies.append(free_energy(pi, 2.0, rate, power, p))
    assert np.all(np.diff(energies) <= 1e-12)
    assert energies[0] > energies[-1]
    for step in (-1e-3, 1e-3):
        assert free_energy(pi + step * pi, 2.0, rate, power, p) > energies[-1]
        assert free_energy(pi, 2.0 + step, rate, power, p) > energies[-1]
        assert free_energy(pi, 2.0, rate * (1 + step), power, p) > energies[-1]


@pytest.mark.parametrize("rule", RULES)
def test_sweep_chains_evidence_support_and_precision(rule):
    message, mean, variance, _ = draw(True, 2)
    prior = ThreeLayerPrior(SLAB, SPIKE, rule)
    state = PriorState.initial(N, 3.0, 0.2)
    new = prior.sweep(state, message, mean, variance, CLASSES, IndependentSupport(N, 0.25)).state
    np.testing.assert_allclose(new.extrinsic_log_odds, np.log(0.25 / 0.75))
    np.testing.assert_allclose(new.probability, expit(new.extrinsic_log_odds + new.log_likelihood_ratio))
    rho, log_rho = prior.precision(new.probability, message, mean, variance, CLASSES)
    np.testing.assert_array_equal(new.precision, rho)
    np.testing.assert_array_equal(new.log_precision, log_rho)
    if rule == "extrinsic":
        expected = new.probability * SLAB[CLASSES] + (1 - new.probability) * SPIKE[CLASSES]
        np.testing.assert_allclose(new.precision, expected)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("is_complex", [True, False])
def test_extreme_inputs_stay_finite(rule, is_complex):
    prior = ThreeLayerPrior(np.array([1e-6]), 1e12, rule, is_complex)
    message = GaussianMessage(np.array([0.0, 1e8, 1e-8, 1e30]), np.array([1e-14, 1e14, 1e-14, 1e40]))
    classes = np.zeros(4, dtype=int)
    state = PriorState.initial(4, np.array([1e-6, 1e12, 1.0, 1e12]))
    for _ in range(3):
        state = prior.sweep(
            state,
            message,
            message.mean,
            message.variance,
            classes,
            IndependentSupport(4, 1e-9),
            learn_slab=False,
        ).state
        assert np.all(np.abs(state.log_likelihood_ratio) <= 1e3)
        for name in ("precision", "log_precision", "probability"):
            assert np.all(np.isfinite(getattr(state, name)))
        assert np.all(state.precision > 0)


@pytest.mark.parametrize("is_complex", [True, False])
def test_learned_slab_climbs_the_likelihood_and_finds_the_truth(is_complex):
    rng = np.random.default_rng(5)
    n, true, half = 6000, np.array([0.5, 8.0]), 1.0 if is_complex else 0.5
    classes = np.arange(n) % 2
    active = rng.uniform(size=n) < 0.3
    v, spike = np.full(n, 0.01), 1e4
    variance = np.where(active, 1.0 / true[classes], 1.0 / spike) + v
    r = rng.standard_normal(n) * np.sqrt(variance)
    if is_complex:
        r = (r + 1j * rng.standard_normal(n) * np.sqrt(variance)) / np.sqrt(2.0)
    prior = ThreeLayerPrior(np.array([3.0, 3.0, 3.0]), spike, is_complex=is_complex)
    message, support = GaussianMessage(r, v), IndependentSupport(n, 0.3)
    state = PriorState.initial(n, 3.0)
    likelihoods = []
    for _ in range(60):
        prior, state, _ = prior.sweep(state, message, r, v, classes, support, learn_support=False)
        densities = [
            p * (np.pi * (v + s) / half) ** -half * np.exp(-half * np.abs(r) ** 2 / (v + s))
            for p, s in ((0.3, 1.0 / prior.slab_precision[classes]), (0.7, 1.0 / spike))
        ]
        likelihoods.append(np.sum(np.log(densities[0] + densities[1])))
    assert np.all(np.diff(likelihoods) >= -1e-8)
    np.testing.assert_allclose(prior.slab_precision[:2], true, rtol=0.15)
    assert prior.slab_precision[2] == 3.0


@pytest.mark.parametrize("is_complex", [True, False])
def test_a_slab_is_learned_with_a_tenth_of_a_coefficient_of_its_old_value(is_complex):
    """`(sum pi + 0.1) / (sum pi (|m|^2 + w) + 0.1 / rho_1)` per class, at the new probabilities."""
    message, mean, variance, _ = draw(is_complex, 6)
    prior = ThreeLayerPrior(SLAB, SPIKE, is_complex=is_complex)
    few, state, _ = prior.sweep(
        PriorState.initial(N, 3.0, 0.2), message, mean, variance, CLASSES, IndependentSupport(N, 0.02)
    )
    for c in (0, 1):
        count, power = 0.1, 0.1 / SLAB[c]
        for i in range(c, N, 2):
            w = 1 / (1 / message.variance[i] + SLAB[c])
            second = w + abs(w * message.mean[i] / message.variance[i]) ** 2
            count, power = count + state.probability[i], power + state.probability[i] * second
        assert few.slab_precision[c] == pytest.approx(count / power, rel=1e-12)
        assert abs(few.slab_precision[c] / SLAB[c] - 1) > 0.02  # something was learned


def test_slabs_stay_in_their_range():
    """Between 1e-18 and a tenth of the spike, whatever the messages say."""
    for r, expected in ((1e-9, 6.0), (1e12, 6e-17)):
        message = GaussianMessage(np.full(4, r), np.full(4, 1e-8 if r < 1 else 1e-2))
        prior = ThreeLayerPrior(np.array([1.0]), 60.0)
        zeros, ones = np.zeros(4, int), np.ones(4)
        for _ in range(200):
            prior = prior.sweep(
                PriorState.initial(4, 1.0), message, ones, ones, zeros, IndependentSupport(4, 1 - 1e-12)
            ).prior
        assert prior.slab_precision[0] == pytest.approx(expected, rel=1e-6)


def test_state_take_append_and_initial():
    state = PriorState.initial(4, np.array([1.0, 2.0, 3.0, 4.0]), 0.25)
    again = state.take(np.array([0, 1])).append(state.take(np.array([False, False, True, True])))
    for name in ("precision", "log_precision", "probability", "log_likelihood_ratio", "extrinsic_log_odds"):
        np.testing.assert_array_equal(getattr(again, name), getattr(state, name))
    np.testing.assert_allclose(expit(state.extrinsic_log_odds + state.log_likelihood_ratio), 0.25)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"rule": "exact"}, r"rule must be one of .*got 'exact'"),
        ({"slab_precision": [-1.0]}, "slab_precision must be finite and positive"),
        ({"spike_precision": np.nan}, "spike_precision must be finite and positive"),
        ({"spike_precision": 0.5}, "spike_precision must exceed slab_precision"),
        ({"spike_precision": [9.0, 9.0]}, "spike_precision must be a scalar or have the shape"),
        ({"slab_shape": 0.0}, "slab_shape must be finite and positive"),
        ({"rule": "structured", "moment_matching": True}, "moment_matching needs rule='extrinsic'"),
    ],
)
def test_prior_rejects(arguments, match):
    with pytest.raises(ValueError, match=match):
        ThreeLayerPrior(**{"slab_precision": [1.0], "spike_precision": 100.0, **arguments})


def test_sweep_and_initial_reject():
    message, mean, variance, _ = draw(True)
    prior = ThreeLayerPrior(SLAB, SPIKE)
    with pytest.raises(ValueError, match="support covers 5 coefficients, the message has 12"):
        prior.sweep(PriorState.initial(N, 1.0), message, mean, variance, CLASSES, IndependentSupport(5))
    with pytest.raises(ValueError, match="probability must lie strictly"):
        PriorState.initial(2, 1.0, 1.0)
    with pytest.raises(ValueError, match="precision must be positive"):
        PriorState.initial(2, 0.0)


@pytest.mark.parametrize("rule", RULES)
def test_sweep_changes_nothing_that_is_given(rule):
    message, mean, variance, _ = draw(True, 3)
    prior = ThreeLayerPrior(SLAB, SPIKE, rule)
    support, state = IndependentSupport(N, 0.3), PriorState.initial(N, 3.0, 0.2)
    before = prior.slab_precision.copy(), support.probability, state.precision.copy()
    swept = prior.sweep(state, message, mean, variance, CLASSES, support)
    np.testing.assert_array_equal(prior.slab_precision, before[0])
    np.testing.assert_array_equal(state.precision, before[2])
    assert support.probability == before[1]
    assert swept.support.probability != before[1]
    assert np.all(swept.prior.slab_precision != before[0])


def test_frozen_objects_are_frozen():
    prior, state = ThreeLayerPrior(SLAB, SPIKE), PriorState.initial(N, 3.0)
    for owner, name in ((prior, "slab_precision"), (prior, "spike_precision"), (state, "precision")):
        with pytest.raises(AttributeError):
            setattr(owner, name, np.ones(2))
        with pytest.raises(ValueError, match="read-only"):
            getattr(owner, name)[0] = 1.0
    given = np.array([1.0, 2.0])
    ThreeLayerPrior(given, 9.0)
    given[0] = 3.0  # the caller's array stays the caller's


@pytest.mark.parametrize("rule", RULES)
def test_coefficients_without_a_posterior_are_judged_by_their_message(rule):
    """Those outside stay at the spike, are weighed as Gaussians and do not teach the slab."""
    message, mean, variance, _ = draw(False, 4)
    inside = np.array([7, 2, 5])
    prior = ThreeLayerPrior(SLAB, SPIKE, rule, is_complex=False)
    state, support = PriorState.initial(N, 3.0, 0.2), IndependentSupport(N, 0.25)
    swept = prior.sweep(
        state, message, mean[inside], variance[inside], CLASSES, support, inside=inside, learn_support=False
    )
    alone = prior.sweep(
        state.take(inside),
        message.take(inside),
        mean[inside],
        variance[inside],
        CLASSES[inside],
        IndependentSupport(3, 0.25),
    )
    for name in ("precision", "log_precision", "probability", "log_likelihood_ratio"):
        np.testing.assert_allclose(getattr(swept.state, name)[inside], getattr(alone.state, name), rtol=1e-12)
    np.testing.assert_allclose(swept.prior.slab_precision, alone.prior.slab_precision, rtol=1e-12)
    outside = np.setdiff1d(np.arange(N), inside)
    np.testing.assert_array_equal(swept.state.precision[outside], SPIKE[CLASSES[outside]])
    r, v = message.mean[outside], message.variance[outside]
    densities = [
        np.exp(-(r**2) / (2 * (v + 1 / rho))) / np.sqrt(v + 1 / rho)
        for rho in (SLAB[CLASSES[outside]], SPIKE[CLASSES[outside]])
    ]
    expected = np.log(densities[0] / densities[1])
    np.testing.assert_allclose(swept.state.log_likelihood_ratio[outside], expected, rtol=1e-9)


def test_damping_is_a_step_on_the_log_precision():
    message, mean, variance, _ = draw(False, 5)
    prior, support = ThreeLayerPrior(SLAB, SPIKE, is_complex=False), IndependentSupport(N, 0.25)
    state = PriorState.initial(N, 3.0, 0.2)
    full = prior.sweep(state, message, mean, variance, CLASSES, support).state
    part = prior.sweep(state, message, mean, variance, CLASSES, support, damping=0.3).state
    np.testing.assert_allclose(part.precision, 3.0**0.7 * full.precision**0.3, rtol=1e-12)
    np.testing.assert_array_equal(part.probability, full.probability)
