"""Working-set posterior, off-set messages and noise."""

import numpy as np
import pytest
from scipy.linalg import LinAlgError

from isac_toolbox.inference import (
    expected_residual,
    update_noise_precision,
    working_set_posterior,
)


def problem(is_complex, m=30, n=8, seed=0):
    rng = np.random.default_rng(seed)

    def normal(*shape):
        return rng.standard_normal(shape) + (1j * rng.standard_normal(shape) if is_complex else 0.0)

    return normal(m, n), normal(m), rng.uniform(0.1, 5.0, n)


def posterior_of(phi, y, gamma, rho):
    return working_set_posterior(phi.conj().T @ phi, phi.conj().T @ y, gamma, rho)


@pytest.mark.parametrize("is_complex", [True, False])
def test_posterior_equals_the_plain_inverse(is_complex):
    phi, y, rho = problem(is_complex)
    posterior = posterior_of(phi, y, 2.5, rho)
    precision = 2.5 * phi.conj().T @ phi + np.diag(rho)
    covariance = np.linalg.inv(precision)
    np.testing.assert_allclose(posterior.covariance, covariance, rtol=1e-11, atol=1e-14)
    np.testing.assert_allclose(posterior.mean, 2.5 * covariance @ phi.conj().T @ y, rtol=1e-11)
    assert posterior.log_det == pytest.approx(-np.linalg.slogdet(precision)[1], rel=1e-12)
    np.testing.assert_array_equal(posterior.covariance, posterior.covariance.conj().T)
    assert np.iscomplexobj(posterior.mean) == is_complex


@pytest.mark.parametrize("unit", [1e-40, 1e-6, 1e40])
def test_posterior_follows_the_unit_of_the_coefficients(unit):
    phi, y, rho = problem(True)
    plain, scaled = posterior_of(phi, y, 2.5, rho), posterior_of(phi * unit, y, 2.5, rho * unit**2)
    np.testing.assert_allclose(scaled.mean * unit, plain.mean, rtol=1e-11)
    np.testing.assert_allclose(scaled.variance * unit**2, plain.variance, rtol=1e-11)


@pytest.mark.parametrize("is_complex", [True, False])
def test_message_equals_the_posterior_without_the_own_prior(is_complex):
    phi, y, rho = problem(is_complex)
    message = posterior_of(phi, y, 2.5, rho).message()
    for i in range(rho.size):
        flat = rho.copy()
        flat[i] = 0.0
        marginal = posterior_of(phi, y, 2.5, flat)
        assert message.mean[i] == pytest.approx(marginal.mean[i], rel=1e-11)
        assert message.variance[i] == pytest.approx(marginal.variance[i], rel=1e-11)


def test_prior_precisions_may_span_eighteen_orders():
    phi, y, _ = problem(True, n=10, seed=1)
    rho = np.logspace(-6, 12, 10)
    posterior = posterior_of(phi, y, 1e3, rho)
    message = posterior.message()
    for i in range(10):
        flat = rho.copy()
        flat[i] = 0.0
        # equilibrated solve, no explicit inverse
        scale = 1.0 / np.sqrt(1e3 * np.sum(np.abs(phi) ** 2, axis=0) + flat)
        matrix = (1e3 * phi.conj().T @ phi + np.diag(flat)) * np.outer(scale, scale)
        column = scale * np.linalg.solve(matrix, scale * np.eye(10)[i])
        assert message.variance[i] == pytest.approx(column[i].real, rel=1e-9)
    share = 1.0 - rho * posterior.variance
    determined = 1e3 * np.sum(posterior.gram_covariance_diagonal)
    assert determined == pytest.approx(share.sum(), abs=1e-9)
    assert np.all(message.variance > 0)


def test_identical_columns_do_not_break_the_factorisation():
    phi, y, _ = problem(True, n=3)
    posterior = posterior_of(phi[:, [0, 0, 1]], y, 1e8, np.full(3, 1e-10))
    assert np.all(np.isfinite(posterior.mean))
    assert np.all(posterior.message().variance > 0)
    single = posterior_of(phi[:, [0, 1]], y, 1e8, np.full(2, 1e-10))
    assert posterior.mean[0] + posterior.mean[1] == pytest.approx(single.mean[0], rel=1e-4)


def test_empty_working_set():
    posterior = working_set_posterior(np.zeros((0, 0)), np.zeros(0), 2.0, np.zeros(0))
    assert posterior.log_det == 0.0
    assert posterior.gram_covariance_diagonal.size == 0


@pytest.mark.parametrize("is_complex", [True, False])
def test_expected_residual_is_the_posterior_average(is_complex):
    phi, y, rho = problem(is_complex)
    posterior = posterior_of(phi, y, 2.5, rho)
    gram = phi.conj().T @ phi
    got = expected_residual(np.vdot(y, y).real, gram, phi.conj().T @ y, posterior)
    direct = np.linalg.norm(y - phi @ posterior.mean) ** 2 + np.trace(gram @ posterior.covariance).real
    assert got == pytest.approx(direct, rel=1e-11)


def test_expected_residual_of_a_perfect_fit_is_small_and_positive():
    phi, _, rho = problem(True)
    y = phi @ np.ones(8)
    posterior = posterior_of(phi, y, 1e20, rho)
    energy = np.vdot(y, y).real
    got = expected_residual(energy, phi.conj().T @ phi, phi.conj().T @ y, posterior)
    assert 0.0 < got < 1e-10 * energy


def test_noise_precision_of_known_noise_and_the_real_halving():
    rng = np.random.default_rng(0)
    residual = float(np.sum(rng.standard_normal(4000) ** 2) * 0.25)
    assert update_noise_precision(4000, residual) == pytest.approx(4.0, rel=0.1)
    assert update_noise_precision(10, 5.0, (3.0, 2.0)) == pytest.approx(13.0 / 7.0)
    assert update_noise_precision(10, 5.0, (3.0, 2.0), is_complex=False) == pytest.approx(8.0 / 4.5)
    with pytest.raises(ValueError, match="expected_residual must be positive"):
        update_noise_precision(10, 0.0, (0.0, 0.0))


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"noise_precision": 0.0}, ValueError, "noise_precision must be a positive number"),
        ({"prior_precision": np.array([1.0, -1.0])}, ValueError, "prior_precision must be non-negative"),
        ({"correlation": np.zeros(3)}, ValueError, "must have shapes"),
        ({"gram": np.diag([1.0, np.nan])}, LinAlgError, "not positive and finite"),
        ({"gram": np.array([[1.0, 5.0], [5.0, 1.0]])}, LinAlgError, "not positive definite"),
    ],
)
def test_posterior_rejects(arguments, error, match):
    good = {
        "gram": np.eye(2),
        "correlation": np.ones(2),
        "noise_precision": 1.0,
        "prior_precision": np.ones(2),
    }
    with pytest.raises(error, match=match):
        working_set_posterior(**{**good, **arguments})
