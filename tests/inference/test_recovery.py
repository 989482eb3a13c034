"""The generic loop and sparse recovery."""

import copy

import numpy as np
import pytest
from scipy.sparse import csr_array
from scipy.sparse.linalg import LinearOperator, aslinearoperator

from isac_toolbox.inference import (
    RULES,
    GatedChain,
    IndependentSupport,
    SparseRecovery,
    TurboLoop,
    sparse_recover,
)
from isac_toolbox.inference._active_columns import ActiveColumns, ProjectedResidual
from isac_toolbox.inference._dictionary import BLOCK_COLUMNS, Dictionary
from isac_toolbox.inference.posterior import working_set_posterior


def problem(seed, m=100, n=300, k=15, snr_db=20.0, is_complex=True, block=1):
    """A Gaussian dictionary, amplitudes between 0.5 and 1.5, `k` of them in blocks."""
    rng = np.random.default_rng(seed)
    A = rng.standard_normal((m, n)) + (1j * rng.standard_normal((m, n)) if is_complex else 0.0)
    starts = rng.choice(n // block, k // block, replace=False)
    true = np.sort((block * starts[:, None] + np.arange(block)).ravel())
    phase = np.exp(2j * np.pi * rng.uniform(size=k)) if is_complex else rng.choice([-1.0, 1.0], k)
    x = np.zeros(n, dtype=A.dtype)
    x[true] = rng.uniform(0.5, 1.5, k) * phase
    signal = A @ x
    noise = rng.standard_normal(m) + (1j * rng.standard_normal(m) if is_complex else 0.0)
    scale = np.sqrt(np.mean(np.abs(signal) ** 2) / (2.0 if is_complex else 1.0)) * 10 ** (-snr_db / 20)
    return A, x, signal + scale * noise, true, scale**2 * (2.0 if is_complex else 1.0)


def found(result):
    return np.flatnonzero(result.probability > 0.5)


def error_energy(estimate, x):
    return np.sum(np.abs(estimate - x) ** 2) / np.sum(np.abs(x) ** 2)


@pytest.mark.parametrize(("is_complex", "least_exact", "margin_db"), [(True, 19, 0.3), (False, 17, 0.7)])
def test_support_is_exact_and_the_error_close_to_the_oracle(is_complex, least_exact, margin_db):
    exact, errors, oracle, noise = 0, [], [], []
    for seed in range(20):
        A, x, y, true, variance = problem(seed, is_complex=is_complex)
        result = sparse_recover(A, y)
        assert result.converged
        exact += np.array_equal(found(result), true)
        best = np.zeros_like(x)
        best[true] = np.linalg.lstsq(A[:, true], y, rcond=None)[0]
        errors.append(error_energy(result.mean, x))
        oracle.append(error_energy(best, x))
        noise.append(result.noise_variance / variance)
    assert exact >= least_exact
    assert 10 * np.log10(np.mean(errors) / np.mean(oracle)) < margin_db
    assert np.mean(noise) == pytest.approx(1.0, abs=0.15)


@pytest.mark.parametrize("is_complex", [True, False])
def test_reported_variance_is_calibrated(is_complex):
    ratios = []
    for seed in range(10):
        A, x, y, true, _ = problem(seed, is_complex=is_complex)
        result = sparse_recover(A, y)
        ratios.append(np.mean(np.abs(result.mean - x)[true] ** 2 / result.variance[true]))
    assert 0.6 < np.mean(ratios) < 1.6


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_recovers_an_easy_problem(rule):
    for seed in range(3):
        A, x, y, true, _ = problem(seed, snr_db=30.0)
        result = sparse_recover(A, y, rule=rule)
        np.testing.assert_array_equal(found(result), true)
        assert error_energy(result.mean, x) < 10**-3.5


def test_gated_chain_gains_on_blocks():
    errors = {"independent": [], "chain": [], "groups": []}
    for seed in range(8):
        A, x, y, _, _ = problem(seed, m=60, n=320, k=24, snr_db=10.0, block=8)
        graphs = {
            "independent": None,
            "chain": GatedChain([320], gate=1.0),
            "groups": GatedChain(np.full(40, 8), gate=0.2),
        }
        for name, graph in graphs.items():
            errors[name].append(error_energy(sparse_recover(A, y, graph).mean, x))
    decibels = {name: 10 * np.log10(np.mean(values)) for name, values in errors.items()}
    assert decibels["chain"] < decibels["independent"] - 6.0
    assert decibels["groups"] < decibels["independent"] - 6.0


def test_the_given_graph_is_copied_and_the_learned_one_returned():
    A, _, y, _, _ = problem(0, m=60, n=320, k=24, snr_db=10.0, block=8)
    graph = GatedChain([320], gate=1.0)
    before = copy.deepcopy(vars(graph))
    result = sparse_recover(A, y, graph)
    assert all(np.array_equal(before[name], value) for name, value in vars(graph).items())
    assert result.support.p11 > 0.7 > 0.3 > result.support.p01
    assert result.support.p01 != before["p01"]


class CountingOperator(LinearOperator):
    """An operator that remembers the widest block it was asked for."""

    def __init__(self, matrix):
        super().__init__(matrix.dtype, matrix.shape)
        self.matrix, self.widest = matrix, 0

    def _matmat(self, block):
        self.widest = max(self.widest, block.shape[1])
        return self.matrix @ block

    def _rmatvec(self, vector):
        return self.matrix.conj().T @ vector


@pytest.mark.parametrize("is_complex", [True, False])
def test_operator_and_sparse_matrix_equal_the_array(is_complex):
    A, _, y, _, _ = problem(1, is_complex=is_complex)
    dense = sparse_recover(A, y)
    counting = CountingOperator(A)
    for other in (aslinearoperator(A), csr_array(A), counting):
        result = sparse_recover(other, y)
        np.testing.assert_allclose(result.mean, dense.mean, rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(result.probability, dense.probability, atol=1e-6)
        assert result.mean.dtype == dense.mean.dtype == (complex if is_complex else float)
    assert 0 < counting.widest <= BLOCK_COLUMNS < A.shape[1]


def operator_of(A, rmatvec):
    return LinearOperator(A.shape, matvec=lambda x: A @ x, rmatvec=rmatvec, dtype=A.dtype)


@pytest.mark.parametrize("is_complex", [True, False])
def test_an_operator_without_its_adjoint_is_told_what_it_lacks(is_complex):
    A, _, y, _, _ = problem(1, is_complex=is_complex)
    with pytest.raises(TypeError, match="A must have rmatvec"):
        sparse_recover(operator_of(A, None), y)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda A, v: A.T @ v,  # not conjugated
        lambda A, v: 2 * A.conj().T @ v,
        lambda A, v: np.roll(A.conj().T @ v, 1),
        lambda A, v: np.full(A.shape[1], np.nan),
    ],
)
def test_an_operator_with_another_adjoint_is_refused(wrong):
    A, _, y, _, _ = problem(1)
    with pytest.raises(ValueError, match="A must have an rmatvec that is the product with its conjugate"):
        sparse_recover(operator_of(A, lambda v: wrong(A, v)), y)


def test_an_operator_in_single_precision_is_taken():
    A, _, y, true, _ = problem(1)
    single = A.astype(np.complex64)
    result = sparse_recover(operator_of(single, lambda v: single.conj().T @ v), y)
    np.testing.assert_array_equal(found(result), true)


def test_amplitude_scales_do_not_matter():
    A, _, y, _, variance = problem(2)
    plain, known = sparse_recover(A, y), sparse_recover(A, y, noise_variance=variance)
    for scale_a, scale_y in ((1e-7, 1.0), (1.0, 1e9), (1e4, 1e-12)):
        scaled = sparse_recover(scale_a * A, scale_y * y)
        unit = scale_y / scale_a
        np.testing.assert_allclose(scaled.mean, unit * plain.mean, rtol=1e-6, atol=1e-9 * unit)
        np.testing.assert_allclose(scaled.variance, unit**2 * plain.variance, rtol=1e-5)
        assert scaled.noise_variance == pytest.approx(scale_y**2 * plain.noise_variance, rel=1e-6)
        again = sparse_recover(scale_a * A, scale_y * y, noise_variance=scale_y**2 * variance)
        np.testing.assert_allclose(again.mean, unit * known.mean, rtol=1e-6, atol=1e-9 * unit)
    assert known.noise_variance == pytest.approx(variance, rel=1e-12)


def dense_step(loop, y, is_complex):
    """Noise variance and objective after one more step of a settled loop, by dense algebra and densities."""
    half = 1.0 if is_complex else 0.5
    m, scale = y.size, np.linalg.norm(y) / np.sqrt(y.size)
    index, phi, scaled = loop.working.index, loop.working.columns, y / scale
    gamma, rho = scale**2 / loop.noise_variance, loop.state.precision[index]
    covariance = np.linalg.inv(gamma * phi.conj().T @ phi + np.diag(rho))
    mean = gamma * covariance @ phi.conj().T @ scaled
    own = np.diag(covariance).real
    v = 1 / (1 / own - rho)
    r = v * mean / own
    slab, spike = float(loop.prior.slab_precision[0]), float(loop.prior.spike_precision)
    odds = np.exp(loop.state.extrinsic_log_odds[index])
    for sign, precision in ((1, slab), (-1, spike)):
        total = v + 1 / precision
        odds = odds * (total**-half * np.exp(-half * np.abs(r) ** 2 / total)) ** sign
    on = odds / (1 + odds)
    gap = r / (1 + v * slab) - r / (1 + v * spike)
    between = np.sum(on * (1 - on) * np.abs(gap) ** 2 / (gamma * v))
    residual = np.linalg.norm(scaled - phi @ mean) ** 2 + np.trace(phi @ covariance @ phi.conj().T).real
    noise = (1e-6 + half * (residual + between)) / (1e-6 + half * m)
    marginal = np.eye(m) / gamma + (phi / rho) @ phi.conj().T
    fit = np.vdot(scaled, np.linalg.solve(marginal, scaled)).real
    objective = half * (fit + np.linalg.slogdet(marginal)[1])
    return scale**2 * noise, objective, between / residual


@pytest.mark.parametrize(
    ("is_complex", "seed", "rule"),
    [(True, 1, "extrinsic"), (True, 5, "extrinsic"), (False, 2, "extrinsic"), (True, 1, "structured")],
)
def test_undecided_coefficients_count_as_noise(is_complex, seed, rule):
    """At 3 dB some coefficients stay neither on nor off; what lies between is no part of a Gaussian."""
    A, _, y, _, _ = problem(seed, m=40, n=80, k=6, snr_db=3.0, is_complex=is_complex)
    loop = SparseRecovery(A, y, rule=rule)
    assert loop.run() == "converged"
    noise, objective, share = dense_step(loop, y, is_complex)
    assert share > 0.005
    loop.step()
    assert loop.noise_variance == pytest.approx(noise, rel=1e-7)
    assert loop.objective == pytest.approx(objective, rel=1e-7)


def test_a_known_noise_level_is_approached_from_above():
    """While the set is empty everything is noise; from the sixth step on the given level holds."""
    A, _, y, _, variance = problem(0)
    levels = []
    sparse_recover(A, y, noise_variance=variance, callback=lambda loop: levels.append(loop.noise_variance))
    learned = []
    sparse_recover(A, y, callback=lambda loop: learned.append(loop.noise_variance))
    assert levels[0] == pytest.approx(learned[0]) and levels[0] > 10 * variance
    assert np.all(np.array(levels[:5]) >= variance * (1 - 1e-12))
    np.testing.assert_allclose(levels[5:], variance)


def test_before_the_first_step_nothing_is_known():
    A, _, y, _, _ = problem(0)
    loop = SparseRecovery(A, y)
    loop.setup()
    start = loop.result()
    assert not start.mean.any()
    np.testing.assert_allclose(start.variance, start.slab_variance)
    assert start.noise_variance == pytest.approx(np.mean(np.abs(y) ** 2))


@pytest.mark.parametrize("is_complex", [True, False])
def test_outside_the_set_the_error_is_that_of_a_mean_of_zero(is_complex):
    """Mean squared deviation from zero of the spike-slab posterior under the projected matched filter."""
    A, _, y, _, _ = problem(1, m=40, n=80, k=6, snr_db=3.0, is_complex=is_complex)
    half = 1.0 if is_complex else 0.5
    loop = SparseRecovery(A, y)
    loop.run()
    unit = np.linalg.norm(y) / np.sqrt(40) * loop.dictionary.scale
    inside, state = loop.working.index, loop.state
    columns = loop.dictionary.scale * A
    result, slab, spike = (
        loop.result(),
        float(loop.prior.slab_precision[0]),
        float(loop.prior.spike_precision),
    )
    assert result.slab_variance == pytest.approx(unit**2 / slab)
    loop.step()  # the moments that follow from this state and these messages
    assert np.array_equal(loop.working.index, inside)
    phi, scaled = columns[:, inside], y / np.linalg.norm(y) * np.sqrt(40)
    gamma = np.linalg.norm(y) ** 2 / 40 / result.noise_variance
    covariance = np.linalg.inv(gamma * phi.conj().T @ phi + np.diag(state.precision[inside]))
    project = np.eye(40) - gamma * phi @ covariance @ phi.conj().T
    outside = np.setdiff1d(np.arange(80), inside)
    energy = np.einsum("mi,mk,ki->i", columns.conj(), project, columns).real[outside]
    new_gamma = np.linalg.norm(y) ** 2 / 40 / loop.noise_variance
    r = (columns.conj().T @ project @ scaled)[outside] / energy
    v = 1 / (gamma * energy)
    assert new_gamma == pytest.approx(gamma, rel=1e-3)
    odds = np.exp(state.extrinsic_log_odds[outside])
    for sign, precision in ((1, slab), (-1, spike)):
        total = v + 1 / precision
        odds = odds * (total**-half * np.exp(-half * np.abs(r) ** 2 / total)) ** sign
    second = []
    for precision in (slab, spike):
        w = 1 / (1 / v + precision)
        second.append(w + np.abs(w * r / v) ** 2)
    expected = (odds * second[0] + second[1]) / (1 + odds)
    np.testing.assert_allclose(loop.result().variance[outside], unit**2 * expected, rtol=1e-3)
    assert not np.any(loop.result().mean[outside])


def test_same_input_same_bits():
    A, _, y, _, _ = problem(3)
    first, second = sparse_recover(A, y), sparse_recover(A, y)
    np.testing.assert_array_equal(first.mean, second.mean)
    np.testing.assert_array_equal(first.history.objective, second.history.objective)


def test_noise_free_data_and_mixed_kinds():
    A, x, _, true, _ = problem(4, is_complex=False)
    result = sparse_recover(A, A @ x)
    np.testing.assert_array_equal(found(result), true)
    assert error_energy(result.mean, x) < 1e-12
    turned = sparse_recover(A, 1j * (A @ x))
    assert turned.mean.dtype == complex
    assert error_energy(turned.mean, 1j * x) < 1e-12
    whole = np.round(3 * A).astype(int)
    assert error_energy(sparse_recover(whole, whole @ x).mean, x) < 1e-12


def test_a_dense_overdetermined_model_is_least_squares():
    A, x, y, _, _ = problem(5, m=200, n=20, k=20)
    result = sparse_recover(A, y)
    assert np.all(result.probability > 0.99)
    best = np.linalg.lstsq(A, y, rcond=None)[0]
    assert error_energy(result.mean, best) < 0.01 * error_energy(best, x)


def test_pure_noise_finds_next_to_nothing():
    counts = []
    for seed in range(10):
        A, _, _, _, _ = problem(seed)
        noise = np.random.default_rng(100 + seed).standard_normal(100)
        counts.append(found(sparse_recover(A, noise)).size)
    assert np.mean(counts) <= 0.5


def test_callback_history_and_limits():
    A, _, y, _, _ = problem(6)
    stopped = sparse_recover(A, y, callback=lambda loop: loop.n_iter == 3)
    assert (stopped.status, stopped.n_iter, stopped.converged) == ("stopped by callback", 3, False)
    limited = sparse_recover(A, y, max_iter=4)
    assert (limited.status, limited.n_iter) == ("iteration limit", 4)
    full = sparse_recover(A, y)
    assert full.status == "converged"
    assert full.history.n_active[-1] == 15
    assert np.all(np.diff(full.history.seconds) >= 0)
    assert full.history[-1].objective < full.history[0].objective
    assert np.all(np.isfinite(full.history.objective))
    small = sparse_recover(A, y, max_active=7)
    assert np.count_nonzero(small.mean) <= 7


def test_projected_residual_follows_births_exactly():
    A, _, y, _, _ = problem(7, m=30, n=20, k=5)
    dictionary = Dictionary(A)
    zeta, working = dictionary.correlate(y), ActiveColumns(dictionary, complex)
    gamma, rho = 2.0, np.array([0.5, 3.0, 0.1, 40.0])

    def posterior(size):
        return working_set_posterior(working.gram, zeta[working.index], gamma, rho[:size])

    working.add(3)
    outside = ProjectedResidual(working, posterior(1), zeta, dictionary.energies)
    for size, coefficient in ((2, 8), (3, 0), (4, 15)):
        outside.include(coefficient, rho[size - 1])
        fresh = ProjectedResidual(working, posterior(size), zeta, dictionary.energies)
        np.testing.assert_allclose(outside.correlation, fresh.correlation, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(outside.energy, fresh.energy, rtol=1e-9, atol=1e-9)
    working.keep(np.array([True, False, True, True]))
    np.testing.assert_array_equal(working.index, [3, 0, 15])
    columns = dictionary.columns(working.index)
    np.testing.assert_allclose(working.gram, columns.conj().T @ columns, rtol=1e-12, atol=1e-9)


def test_a_message_from_outside_is_that_of_joining_the_set_under_a_flat_prior():
    A, _, y, _, _ = problem(8, m=30, n=9, k=3)
    A[:, 6] = A[:, 1] + 0.05 * A[:, 6]  # nearly a member
    dictionary = Dictionary(A)
    zeta, working = dictionary.correlate(y), ActiveColumns(dictionary, complex)
    gamma, rho = 3.0, np.array([0.5, 3.0, 0.1])
    for coefficient in (1, 4, 2):
        working.add(coefficient)
    posterior = working_set_posterior(working.gram, zeta[working.index], gamma, rho)
    message = ProjectedResidual(working, posterior, zeta, dictionary.energies).message()
    columns = dictionary.columns(np.arange(9))
    for i in (0, 3, 6, 8):
        index = [1, 4, 2, i]
        gram = columns[:, index].conj().T @ columns[:, index]
        joined = working_set_posterior(gram, zeta[index], gamma, np.append(rho, 0.0))
        assert message.mean[i] == pytest.approx(joined.mean[-1], rel=1e-8)
        assert message.variance[i] == pytest.approx(joined.variance[-1], rel=1e-8)


class Countdown(TurboLoop):
    """A loop whose change halves at every step, with an optional fault."""

    fault = None

    def setup(self):
        self.change, self.noise_variance = 1.0, 1.0

    def step(self):
        self.change, self.objective = 0.5 * self.change, self.change
        if self.n_iter == 2 and self.fault is not None:
            self.fault(self)


def test_loop_converges_restarts_and_reports_failure():
    loop = Countdown(max_iter=50, tol=0.01)
    assert loop.run() == "converged"
    assert loop.n_iter == 8  # 2^-7 < 0.01, and one more to be sure
    assert loop.run() == "converged"
    assert loop.n_iter == 8

    def singular(_):
        raise np.linalg.LinAlgError("singular")

    def poison(loop):
        loop.objective = np.nan

    for fault, steps in ((singular, 2), (poison, 3)):
        broken = Countdown()
        broken.fault = fault
        assert broken.run() == "numerical failure"
        assert (broken.n_iter, broken.converged) == (steps, False)


EYE = np.eye(4)


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"A": np.ones(4)}, ValueError, r"A must be a matrix .*got shape \(4,\)"),
        ({"A": np.zeros((4, 0))}, ValueError, "A must be a matrix"),
        ({"A": np.array([["a"]])}, TypeError, "A must be numeric"),
        ({"A": EYE * [1, 1, np.nan, 1]}, ValueError, "A must be finite"),
        ({"A": EYE * [1, 1, 0, 1]}, ValueError, "A must have no column of zeros, got 1, the first at 2"),
        ({"A": aslinearoperator(EYE * [0, 1, 0, 1])}, ValueError, "got 2, the first at 0"),
        ({"y": np.ones(5)}, ValueError, r"y must have shape \(4,\).*got \(5,\)"),
        ({"y": np.ones((4, 1))}, ValueError, r"y must have shape \(4,\)"),
        ({"y": np.array([1, 2, np.inf, 0])}, ValueError, "y must be finite"),
        ({"y": np.zeros(4)}, ValueError, "y must not be all zero"),
        ({"y": ["a"] * 4}, TypeError, "y must be numeric"),
        ({"rule": "magic"}, ValueError, "rule must be one of .*'magic'"),
        ({"support": IndependentSupport(5)}, ValueError, "support must cover the 4 columns of A, got 5"),
        ({"support": 0.5}, TypeError, "support must be a support graph, got float"),
        ({"noise_variance": 0.0}, ValueError, "noise_variance must be a positive number, got 0.0"),
        ({"noise_variance": -1.0}, ValueError, "noise_variance must be a positive number"),
        ({"noise_variance": "low"}, TypeError, "noise_variance must be a positive number"),
        ({"max_iter": 0}, ValueError, "max_iter must be at least 1"),
        ({"max_iter": 1.5}, TypeError, "max_iter must be an integer"),
        ({"tol": -1e-3}, ValueError, "tol must be a positive number"),
        ({"tol": True}, TypeError, "tol must be a positive number, got True"),
        ({"tol": np.array(1e-3)}, TypeError, "tol must be a positive number, got array"),
        ({"max_active": 0}, ValueError, "max_active must be at least 1"),
    ],
)
def test_bad_input(arguments, error, match):
    with pytest.raises(error, match=match):
        sparse_recover(**{"A": EYE, "y": np.ones(4), **arguments})
