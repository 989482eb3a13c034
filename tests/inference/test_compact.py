"""The sweep in single precision computes what the sweep in double precision does."""

import numpy as np
import pytest

from isac_toolbox.inference import (
    GatedChain,
    GaussianMessage,
    IndependentSupport,
    PriorState,
    ThreeLayerPrior,
    compact_sweep,
    is_compact,
)


def problem(n, seed=0):
    """A message of coefficients of which some are active, single precision."""
    rng = np.random.default_rng(seed)
    x = np.where(rng.random(n) < 0.2, rng.normal(size=n) * 0.2, 0.0)
    v = 10 ** rng.uniform(-7, -1, n)
    mean = x + np.sqrt(v) * rng.normal(size=n)
    return GaussianMessage(mean.astype(np.float32), v.astype(np.float32))


GRAPHS = {
    "chain": lambda: GatedChain([30] * 40, gate=0.4, p_first=0.5, p01=0.05, p11=0.8),
    "fixed chain": lambda: GatedChain([30] * 40, gate=1e-30, p01=0.3, p11=0.98, learn_parameters=False),
    "groups of one": lambda: GatedChain([1] * 1200, gate=0.4),
    "independent": lambda: IndependentSupport(1200, 0.1),
    "fixed independent": lambda: IndependentSupport(1200, 0.3, learn_probability=False),
}


@pytest.mark.parametrize("damping", [0.3, 1.0])
@pytest.mark.parametrize("case", GRAPHS)
def test_both_sweeps_agree(case, damping):
    prior = ThreeLayerPrior(np.array([30.0]), 1e5, is_complex=False)
    graph, message = GRAPHS[case](), problem(1200)
    assert is_compact(prior, graph)
    state, wide, narrow = PriorState.initial(1200, 30.0), graph, graph
    precision, odds = np.full(1200, 30.0, np.float32), np.zeros(1200, np.float32)
    double = GaussianMessage(message.mean.astype(float), message.variance.astype(float))
    slow = fast = prior
    for _ in range(3):
        slow, state, wide = slow.sweep(
            state, double, double.mean, double.variance, np.zeros(1200, int), wide, damping=damping
        )
        fast, narrow = compact_sweep(fast, narrow, message, precision, odds, damping)
    wanted = state.log_likelihood_ratio + state.extrinsic_log_odds
    np.testing.assert_allclose(odds, wanted, rtol=2e-6, atol=2e-4)
    np.testing.assert_allclose(precision, state.precision, rtol=1e-5)
    np.testing.assert_allclose(fast.slab_precision, slow.slab_precision, rtol=1e-5)
    for name in ("gate", "p_first", "p01", "p11", "probability"):
        if hasattr(graph, name):
            assert getattr(narrow, name) == pytest.approx(getattr(wide, name), rel=1e-5)


@pytest.mark.parametrize("strong_first", [False, True])
def test_evidence_of_a_large_group_adds_up_beyond_what_a_product_holds(strong_first):
    """Three members for an open gate and nine hundred against it, hundreds of nats each way, nearly even."""
    mean = np.zeros(903, np.float32)
    mean[slice(3) if strong_first else slice(-3, None)] = 2.25
    message = GaussianMessage(mean, np.full(903, 0.01, np.float32))
    prior = ThreeLayerPrior(np.array([1.0]), 1e8, is_complex=False)
    ratio = prior.log_likelihood_ratio(
        PriorState.initial(903, 1.0), message, mean, message.variance, np.zeros(903, int)
    )
    evidence = np.sum(np.log1p(0.632 * np.expm1(ratio)))
    assert abs(evidence) < 100 < np.sum(ratio[mean > 0])
    chain = GatedChain([903], gate=1 / (1 + np.exp(evidence)), p_first=0.632, p01=0.632, p11=0.632)
    odds = np.zeros(903, np.float32)
    _, learned = compact_sweep(prior, chain, message, np.ones(903, np.float32), odds, 1.0)
    wide = chain.learned(ratio.astype(float))
    assert learned.gate == pytest.approx(wide.gate, rel=1e-3)


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_extreme_evidence_gives_finite_numbers(sign):
    mean = np.full(60, 30.0 if sign > 0 else 0.0, np.float32)
    message = GaussianMessage(mean, np.full(60, 1e-9, np.float32))
    prior = ThreeLayerPrior(np.array([1e-3]), 1e8, is_complex=False)
    for graph in (
        GatedChain([20] * 3, gate=1e-300),
        GatedChain([20] * 3, gate=1 - 1e-12),
        IndependentSupport(60),
    ):
        precision, odds = np.ones(60, np.float32), np.zeros(60, np.float32)
        new, learned = compact_sweep(prior, graph, message, precision, odds, 1.0)
        assert np.all(np.isfinite(odds)) and np.all(np.isfinite(precision)) and np.all(np.sign(odds) == sign)
        assert np.isfinite(new.slab_precision).all()
        assert is_compact(new, learned)


def test_what_it_cannot_do_is_known():
    real = ThreeLayerPrior(np.array([1.0]), 1e5, is_complex=False)
    chain = GatedChain([3, 3])
    assert is_compact(real, chain)
    assert not is_compact(ThreeLayerPrior(np.array([1.0]), 1e5), chain)
    assert not is_compact(ThreeLayerPrior(np.array([1.0, 2.0]), 1e5, is_complex=False), chain)
    assert not is_compact(ThreeLayerPrior(np.array([1.0]), 1e5, rule="structured", is_complex=False), chain)
    assert not is_compact(real, GatedChain([3, 2]))
    assert not is_compact(real, GatedChain([2], p01=[0.1, 0.2]))
    assert not is_compact(real, IndependentSupport(2, [0.1, 0.2]))
    assert not is_compact(real, GatedChain([3, 3], gate=1.0))
