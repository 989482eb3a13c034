"""Removal scores against Monte Carlo, budgets, schedule."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from isac_toolbox.nn.ssvi import scores as scores
from isac_toolbox.nn.ssvi.budget import LAYER_DENSITIES, layer_budgets, replaced_fraction, updates_at

MEANS = torch.tensor([0.0, 0.05, -0.3, 0.8, 2.0], dtype=torch.float64)
SIGMAS = torch.tensor([0.2, 0.1, 0.3, 0.5, 1.0], dtype=torch.float64)


@pytest.fixture(scope="module")
def draws():
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn((200_000, len(MEANS)), generator=generator, dtype=torch.float64)
    return (MEANS + SIGMAS * noise).abs()


def test_scores_agree_with_monte_carlo(draws):
    def near(value, sample, tolerance):
        torch.testing.assert_close(value, sample, rtol=tolerance, atol=1e-3)

    near(scores.mean_abs(MEANS, SIGMAS), draws.mean(0), 0.01)
    for rate in (0.5, 1.0):
        sample = torch.exp(rate * draws)
        near(scores.exp_mean(MEANS, SIGMAS, rate), sample.mean(0), 0.02)
        near(scores.exp_snr(MEANS, SIGMAS, rate), sample.mean(0) / sample.std(0), 0.03)
    near(scores.magnitude(MEANS, SIGMAS), MEANS.abs(), 1e-12)


def test_snr_of_the_magnitude_ranks_like_the_plain_ratio():
    generator = torch.Generator().manual_seed(1)
    mean = torch.randn(500, generator=generator, dtype=torch.float64)
    sigma = 0.3 + torch.rand(500, generator=generator, dtype=torch.float64)
    order = scores.snr(mean, sigma).argsort()
    first = scores.mean_abs(mean, sigma)
    of_magnitude = first / (mean.square() + sigma.square() - first.square()).sqrt()
    assert bool((of_magnitude[order].diff() > 0.0).all())


def test_exponential_scores_survive_small_sigma():
    mean = torch.linspace(0.01, 0.5, 50)
    sigma = torch.full((50,), 6e-4)
    # to first order exp(l|w|) has the relative spread l sigma
    expected = torch.full((50,), 1.0 / 6e-4, dtype=torch.float64)
    torch.testing.assert_close(scores.exp_snr(mean, sigma), expected, rtol=1e-3, atol=0.0)
    assert bool((scores.exp_mean(mean, sigma).diff() > 0.0).all())


def test_the_exponential_snr_falls_with_the_mean():
    mean = torch.linspace(0.0, 2.0, 20)
    values = scores.exp_snr(mean, torch.full((20,), 0.5))
    assert bool((values.diff() < 0.0).all())


@pytest.mark.parametrize("name", scores.SCORES)
def test_all_scores_are_even_and_finite(name):
    mean = torch.tensor([0.0, 1e-8, 0.5, 30.0])
    for sd in (1e-8, 1e-3, 2.0):
        sigma = torch.full((4,), sd)
        value = scores.removal_score(name, mean, sigma)
        assert bool(torch.isfinite(value).all()) and value.dtype == torch.float64
        torch.testing.assert_close(value, scores.removal_score(name, -mean, sigma))


def test_without_sigma_the_score_is_the_magnitude():
    mean = torch.tensor([-2.0, 1.0])
    assert scores.removal_score("snr", mean, None).tolist() == [2.0, 1.0]


SHAPES = st.lists(
    st.one_of(
        st.tuples(st.integers(1, 40), st.integers(1, 40)),
        st.tuples(st.integers(1, 8), st.integers(1, 8), st.just(3), st.just(3)),
    ),
    min_size=1,
    max_size=5,
)


@settings(max_examples=60, deadline=None)
@given(shapes=SHAPES, density=st.floats(0.001, 1.0), rule=st.sampled_from(LAYER_DENSITIES))
def test_budgets_are_exact(shapes, density, rule):
    sizes = [math.prod(shape) for shape in shapes]
    counts = layer_budgets(shapes, density, rule)
    assert all(1 <= n <= size for n, size in zip(counts, sizes))
    first = int(rule in ("first_layer_dense", "ends_dense"))
    last = max(len(sizes) - (rule == "ends_dense"), first)
    assert counts[:first] == sizes[:first] and counts[last:] == sizes[last:]
    shared, wanted = sizes[first:last], round(density * sum(sizes[first:last]))
    if wanted >= 2 * len(shared):
        assert abs(sum(counts[first:last]) - wanted) <= len(shared)
    if rule == "uniform":
        assert all(abs(n - density * size) <= 1.0 for n, size in zip(counts, sizes))


def test_erdos_renyi_kernel_gives_small_layers_more():
    shapes = [(300, 784), (100, 300), (10, 100)]
    counts = layer_budgets(shapes, 0.05, "erk")
    density = [n / math.prod(shape) for n, shape in zip(counts, shapes)]
    assert density[0] < density[1] < density[2] <= 1.0
    assert sum(counts) == round(0.05 * 266_200)


def test_power_of_the_kernel_goes_from_uniform_to_the_whole_rule():
    shapes = [(16, 1, 3, 3), (16, 16, 3, 3), (64, 64, 3, 3), (10, 64)]
    sizes = [math.prod(shape) for shape in shapes]
    assert layer_budgets(shapes, 0.1, "erk", 0.0) == layer_budgets(shapes, 0.1, "uniform")
    assert layer_budgets(shapes, 0.1, "erk", 1.0) == layer_budgets(shapes, 0.1, "erk")
    spread = []
    for power in (0.0, 0.2, 0.5, 1.0):
        counts = layer_budgets(shapes, 0.1, "first_layer_dense", power)
        assert counts[0] == sizes[0] and sum(counts[1:]) == round(0.1 * sum(sizes[1:]))
        spread.append((counts[1] / sizes[1]) / (counts[2] / sizes[2]))
    ratio = (38 / 2304) / (134 / 36864)
    assert spread == pytest.approx([ratio**power for power in (0.0, 0.2, 0.5, 1.0)], rel=0.02)


def test_replacement_follows_half_a_cosine():
    assert replaced_fraction(0, 100) == pytest.approx(0.3)
    assert replaced_fraction(50, 100) == pytest.approx(0.15)
    assert replaced_fraction(100, 100) == pytest.approx(0.0, abs=1e-12)
    assert [step for step in range(1, 500) if updates_at(step, 100, 375.0)] == [100, 200, 300]
