"""Gaussian messages and the spike-slab mixture."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import norm

from isac_toolbox.inference import (
    GaussianMessage,
    ThreeLayerPrior,
    extrinsic_message,
    gaussian_log_ratio,
    mixture_moments,
)

positive = st.floats(1e-6, 1e6)


@given(v=positive, rho=positive, r=st.floats(-1e3, 1e3))
def test_extrinsic_message_undoes_the_prior(v, rho, r):
    variance = 1.0 / (1.0 / v + rho)
    message = extrinsic_message(np.array([variance * r / v]), np.array([variance]), np.array([rho]))
    # the subtraction loses as many digits as the prior outweighs the data
    tolerance = 1e-13 * (1.0 + v * rho)
    if tolerance < 1e-3:
        assert message.variance[0] == pytest.approx(v, rel=10 * tolerance)
        assert message.mean[0] == pytest.approx(r, rel=10 * tolerance, abs=1e-12)


def test_extrinsic_message_stays_positive_when_the_prior_explains_everything():
    message = extrinsic_message(np.array([1.0 + 2.0j]), np.array([0.5]), np.array([3.0]))
    assert 0.0 < message.variance[0] < np.inf
    assert message.mean[0] / message.variance[0] == pytest.approx((1.0 + 2.0j) / 0.5)


def test_extrinsic_message_rejects_a_variance_of_zero():
    with pytest.raises(ValueError, match=r"variance must be positive, got a minimum of .*0\.0"):
        extrinsic_message(np.ones(2), np.array([1.0, 0.0]), 1.0)


@pytest.mark.parametrize("is_complex", [True, False])
def test_log_ratio_is_the_ratio_of_gaussian_densities(is_complex):
    rng = np.random.default_rng(3)
    n, half = 50, 1.0 if is_complex else 0.5
    r = rng.standard_normal(n) + (1j * rng.standard_normal(n) if is_complex else 0.0)
    v, slab, spike = rng.uniform(0.1, 2.0, n), rng.uniform(0.1, 3.0, n), rng.uniform(10.0, 1e3, n)

    def log_density(variance):
        return half * (-np.log(np.pi * variance / half) - np.abs(r) ** 2 / variance)

    expected = log_density(v + 1.0 / slab) - log_density(v + 1.0 / spike)
    np.testing.assert_allclose(
        gaussian_log_ratio(GaussianMessage(r, v), slab, spike, is_complex), expected, rtol=1e-10, atol=1e-12
    )
    if not is_complex:
        direct = norm.logpdf(r, scale=np.sqrt(v + 1 / slab)) - norm.logpdf(r, scale=np.sqrt(v + 1 / spike))
        np.testing.assert_allclose(expected, direct, rtol=1e-10, atol=1e-12)


def posterior_moments_by_quadrature(pi, r, v, slab, spike):
    """Mean and variance of the spike-slab posterior whose branch probabilities are `pi` and `1 - pi`."""

    def branch(rho, power):
        width = 12.0 / np.sqrt(1.0 / v + rho)
        centre = r / (1.0 + v * rho)

        def density(x):
            return norm.pdf(r, loc=x, scale=np.sqrt(v)) * norm.pdf(x, scale=1.0 / np.sqrt(rho))

        limits = (centre - width, centre + width)
        mass = quad(density, *limits, epsabs=0, epsrel=1e-11)[0]
        return quad(lambda x: x**power * density(x), *limits, epsabs=1e-14, epsrel=1e-11)[0] / mass

    first, second = (pi * branch(slab, p) + (1.0 - pi) * branch(spike, p) for p in (1, 2))
    return first, second - first**2


@pytest.mark.parametrize(("pi", "r"), [(0.3, 1.7), (0.9, -0.4), (0.5, 0.05)])
def test_mixture_moments_and_moment_matching(pi, r):
    v, slab, spike = 0.3, 0.5, 40.0
    mean, variance = posterior_moments_by_quadrature(pi, r, v, slab, spike)
    message = GaussianMessage(np.array([r]), np.array([v]))
    got = mixture_moments(np.array([pi]), message, np.array([slab]), np.array([spike]))
    np.testing.assert_allclose([got[0][0], got[1][0]], [mean, variance], rtol=1e-8)
    prior = ThreeLayerPrior(np.array([slab]), spike, is_complex=False, moment_matching=True)
    rho, log_rho = prior.precision(np.array([pi]), message, np.zeros(1), np.ones(1), np.zeros(1, dtype=int))
    assert r / (1.0 + v * rho[0]) == pytest.approx(mean, rel=1e-8)
    assert slab < rho[0] < spike
    assert log_rho[0] == pytest.approx(np.log(rho[0]))


def test_the_package_stands_alone():
    code = (
        "import sys, isac_toolbox.inference\n"
        "banned = ('torch', 'isac_toolbox.channel', 'isac_toolbox.estimators', 'isac_toolbox.nn')\n"
        "print([name for name in banned if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
