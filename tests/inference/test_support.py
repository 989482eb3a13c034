"""Support graphs against enumeration of every configuration."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, logsumexp

from isac_toolbox.inference import GatedChain, IndependentSupport


class Enumeration:
    """All configurations of gates and members with their log prior."""

    def __init__(self, sizes, gate, p_first, p01, p11):
        sizes = np.asarray(sizes)
        n = int(sizes.sum())
        self.group = np.repeat(np.arange(sizes.size), sizes)
        self.first = np.concatenate([[0], np.cumsum(sizes)[:-1]])
        gates = np.array(list(itertools.product([0, 1], repeat=sizes.size)))
        members = np.array(list(itertools.product([0, 1], repeat=n)))
        self.z = np.repeat(gates, len(members), axis=0)
        self.s = np.tile(members, (len(gates), 1))
        prior = np.prod(np.where(self.z, gate, 1 - gate), axis=1)
        for i in range(n):
            on = p_first[i] if i in self.first else np.where(self.s[:, i - 1], p11[i], p01[i])
            on = np.where(self.z[:, self.group[i]], on, 0.0)
            prior = prior * np.where(self.s[:, i], on, 1.0 - on)
        keep = prior > 0
        self.z, self.s, self.log_prior = self.z[keep], self.s[keep], np.log(prior[keep])

    def extrinsic(self, L):
        out = []
        for i in range(L.size):
            log_weight = self.log_prior + self.s @ np.where(np.arange(L.size) == i, 0.0, L)
            on = self.s[:, i] == 1
            out.append(logsumexp(log_weight[on]) - logsumexp(log_weight[~on]))
        return np.array(out)

    def posterior(self, L):
        log_weight = self.log_prior + self.s @ L
        evidence = logsumexp(log_weight)
        weight = np.exp(log_weight - evidence)
        pairs = np.zeros((L.size, 2, 2))
        for i in set(range(L.size)) - set(self.first.tolist()):
            for a, b in itertools.product([0, 1], repeat=2):
                match = (self.s[:, i - 1] == a) & (self.s[:, i] == b) & (self.z[:, self.group[i]] == 1)
                pairs[i, a, b] = weight[match].sum()
        return weight @ self.z, weight @ self.s, pairs, evidence


@st.composite
def chains(draw):
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n, scale = sum(sizes), draw(st.sampled_from([0.1, 3.0, 30.0, 700.0]))
    p_first, p01, p11 = rng.uniform(0.01, 0.99, (3, n))
    gate = rng.uniform(0.01, 0.99, len(sizes))
    return (sizes, gate, p_first, p01, p11), rng.uniform(-scale, scale, n)


def close(a, b):
    np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10)


@settings(max_examples=40, deadline=None)
@given(chains())
def test_chain_equals_enumeration(case):
    parameters, L = case
    graph, truth = GatedChain(*parameters), Enumeration(*parameters)
    close(graph.extrinsic_log_odds(L), truth.extrinsic(L))
    gate, member, pairs, evidence = truth.posterior(L)
    posterior = graph.posterior(L)
    close(posterior.gate_probability, gate)
    close(posterior.member_probability, member)
    close(posterior.pair_counts, pairs)
    close(posterior.log_evidence, evidence)
    close(expit(graph.gate_log_odds(L)), gate)


@pytest.mark.parametrize("sizes", [[10], [4, 3, 3], [1, 1, 8]])
def test_ten_members_at_the_extremes(sizes):
    rng = np.random.default_rng(sum(s * s for s in sizes))
    n = sum(sizes)
    p_first, p01, p11 = rng.uniform(0.01, 0.99, (3, n))
    parameters = sizes, rng.uniform(0.1, 0.9, len(sizes)), p_first, p01, p11
    truth = Enumeration(*parameters)
    for L in (np.full(n, 700.0), np.full(n, -700.0), rng.choice([-700.0, 700.0], n), rng.normal(0, 2, n)):
        with np.errstate(over="raise", invalid="raise"):
            got = GatedChain(*parameters).extrinsic_log_odds(L)
        close(got, truth.extrinsic(L))


@settings(max_examples=25, deadline=None)
@given(chains(), st.floats(-700, 700))
def test_each_message_excludes_its_own_evidence(case, other):
    parameters, L = case
    graph = GatedChain(*parameters)
    before = graph.extrinsic_log_odds(L)
    moved = False
    for i in range(L.size):
        changed = L.copy()
        changed[i] = other
        after = graph.extrinsic_log_odds(changed)
        assert after[i] == before[i]
        moved |= not np.array_equal(after, before)
    # several members must notice that one of them changed, unless the evidence is beyond double precision
    moderate = np.all(np.abs([*L, other]) < 30) and np.max(np.abs(L - other)) > 0.1
    assert moved or L.size == len(parameters[0]) or not moderate


def test_member_leaves_the_evidence_of_its_gate():
    p, gate, L = 0.3, 0.1, np.array([6.0, -1.0, -1.0])
    got = GatedChain.independent_members(1, np.full(3, p), gate).extrinsic_log_odds(L)
    factors = 1 - p + p * np.exp(L)
    for i in range(3):
        open_gate = gate * np.prod(factors) / factors[i]
        probability = open_gate / (open_gate + 1 - gate)
        assert got[i] == pytest.approx(np.log(probability * p / (1 - probability * p)), abs=1e-12)


def test_open_gate_and_equal_transitions_are_independent():
    L = np.random.default_rng(0).normal(0, 3, 12)
    graph = GatedChain([5, 7], gate=1.0, p_first=0.2, p01=0.2, p11=0.2)
    close(graph.extrinsic_log_odds(L), IndependentSupport(12, 0.2).extrinsic_log_odds(L))
    assert np.all(graph.gate_log_odds(L) == np.inf)


def test_closed_gate_and_certain_members_give_exact_infinities():
    L = np.array([5.0, -3.0])
    assert np.all(GatedChain([2], gate=0.0).extrinsic_log_odds(L) == -np.inf)
    certain = GatedChain([2], gate=1.0, p_first=1.0, p01=0.0, p11=1.0)
    assert np.all(certain.extrinsic_log_odds(L) == np.inf)
    assert np.all(certain.posterior(L).member_probability == 1.0)


def test_learn_matches_counts_of_enumeration():
    rng = np.random.default_rng(2)
    sizes, L = [3, 1, 4], rng.normal(0, 3, 8)
    gate, first, p01, p11 = 0.4, 0.3, 0.15, 0.7
    graph = GatedChain(sizes, gate, first, p01, p11, gate_prior=(2.0, 5.0), member_prior=(1.5, 2.5))
    full = [np.full(8, p) for p in (first, p01, p11)]
    z, s, pairs, _ = Enumeration(sizes, np.full(3, gate), *full).posterior(L)
    graph = graph.learned(L)
    starts = [0, 3, 4]
    assert graph.gate == pytest.approx((2.0 + z.sum()) / (7.0 + 3), abs=1e-10)
    assert graph.p_first == pytest.approx((1.5 + s[starts].sum()) / (4.0 + z.sum()), abs=1e-10)
    for name, row in (("p01", 0), ("p11", 1)):
        counts = pairs[:, row].sum(axis=0)
        assert getattr(graph, name) == pytest.approx((1.5 + counts[1]) / (4.0 + counts.sum()), abs=1e-10)


def test_independent_members_are_a_chain_without_memory():
    rng = np.random.default_rng(5)
    for _ in range(50):
        n_groups, n_members = rng.integers(1, 5, 2)
        p = rng.choice([0.0, 1.0, 0.3, 0.9, 1e-9], n_members)
        gate = float(rng.choice([0.0, 1.0, 0.2, 1e-6]))
        L = rng.choice([1.0, 30.0, 1000.0]) * rng.standard_normal(n_groups * n_members)
        tiled = np.tile(p, n_groups)
        one = GatedChain.independent_members(n_groups, p, gate)
        other = GatedChain(np.full(n_groups, n_members), gate, tiled, tiled, tiled)
        for found, expected in (
            (one.extrinsic_log_odds(L), other.extrinsic_log_odds(L)),
            (one.gate_log_odds(L), other.gate_log_odds(L)),
            (one.posterior(L).member_probability, other.posterior(L).member_probability),
        ):
            np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-11)


def test_learning_of_independent_members():
    rng = np.random.default_rng(4)
    L, p = rng.normal(0, 3, 6), np.array([0.2, 0.6])
    graph = GatedChain.independent_members(3, p, 0.3)
    tiled = np.tile(p, 3)
    z, s, _, _ = Enumeration([2, 2, 2], np.full(3, 0.3), tiled, tiled, tiled).posterior(L)
    graph = graph.learned(L)
    expected = (1.0 + s.reshape(3, 2).sum(axis=0)) / (2.0 + z.sum())
    close(graph.member_probability, expected)
    for values in (graph.p_first, graph.p01, graph.p11):
        close(values, np.tile(expected, 3))


def test_vectors_and_frozen_graphs_are_kept():
    L = np.array([3.0, -1.0, 2.0])
    kept = GatedChain([2, 1], gate=[0.3, 0.6], p_first=[0.2, 0.4], p01=0.1, p11=[0.5, 0.6, 0.7])
    kept = kept.learned(L)
    np.testing.assert_array_equal(kept.gate, [0.3, 0.6])
    np.testing.assert_array_equal(kept.p_first, [0.2, 0.4])
    np.testing.assert_array_equal(kept.p11, [0.5, 0.6, 0.7])
    assert kept.p01 != 0.1
    frozen = GatedChain([2, 1], learn_parameters=False)
    frozen = frozen.learned(L)
    assert (frozen.gate, frozen.p_first, frozen.p01, frozen.p11) == (0.5, 0.5, 0.05, 0.8)


def test_em_climbs_the_evidence_and_recovers_the_chain():
    rng = np.random.default_rng(7)
    sizes, gate, first, p01, p11 = np.full(400, 25), 0.4, 0.3, 0.05, 0.85
    z = rng.uniform(size=400) < gate
    s = np.zeros((400, 25), dtype=int)
    s[:, 0] = rng.uniform(size=400) < first
    for i in range(1, 25):
        s[:, i] = rng.uniform(size=400) < np.where(s[:, i - 1], p11, p01)
    s[~z] = 0
    # messages of a unit-variance Gaussian observation of 3 s
    L = 3.0 * (rng.standard_normal(s.size) + 3.0 * s.ravel()) - 4.5
    graph = GatedChain(sizes, gate_prior=(1.0, 1.0), p01=0.3, p11=0.5, gate=0.9)
    evidence = [graph.posterior(L).log_evidence]
    for _ in range(30):
        graph = graph.learned(L)
        evidence.append(graph.posterior(L).log_evidence)
    assert np.all(np.diff(evidence) > -0.05)  # the weak priors may cost a little at the end
    assert evidence[-1] > evidence[0] + 100
    np.testing.assert_allclose(
        [graph.gate, graph.p_first, graph.p01, graph.p11], [gate, first, p01, p11], atol=0.06
    )


def test_independent_support():
    L = np.array([2.0, -1.0, 0.5])
    graph = IndependentSupport(3, 0.2, prior_counts=(2.0, 3.0))
    np.testing.assert_allclose(graph.extrinsic_log_odds(L), np.log(0.25))
    graph = graph.learned(L)
    assert graph.probability == pytest.approx((2.0 + expit(L + np.log(0.25)).sum()) / 8.0)
    vector = IndependentSupport(3, [0.1, 0.5, 0.9])
    vector = vector.learned(L)
    np.testing.assert_array_equal(vector.probability, [0.1, 0.5, 0.9])
    fixed = IndependentSupport(3, 0.2, learn_probability=False)
    fixed = fixed.learned(L)
    assert fixed.probability == 0.2


def test_empty_graphs():
    for graph in (GatedChain([]), GatedChain.independent_members(0, [0.5]), IndependentSupport(0)):
        assert graph.n_coefficients == 0
        assert graph.extrinsic_log_odds(np.zeros(0)).shape == (0,)
        graph = graph.learned(np.zeros(0))
    assert GatedChain([]).posterior(np.zeros(0)).log_evidence == 0.0


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: GatedChain([2, 0]), ValueError, "group_sizes must be a vector of integers of at least 1"),
        (lambda: GatedChain([2.5]), TypeError, "group_sizes must be integers"),
        (lambda: GatedChain([2], gate=1.5), ValueError, r"gate must lie in \[0, 1\], got 1.5"),
        (lambda: GatedChain([2], p01=np.nan), ValueError, r"p01 must lie in \[0, 1\]"),
        (lambda: GatedChain([2], p11=[0.1, 0.2, 0.3]), ValueError, r"p11 must have shape a scalar or \(2,\)"),
        (lambda: GatedChain([2]).with_parameters(gate=2.0), ValueError, r"gate must lie in \[0, 1\]"),
        (lambda: GatedChain([2]).with_parameters(tie=0.5), ValueError, "a parameter must be one of"),
        (lambda: GatedChain([2], gate_prior=(1.0, -1.0)), ValueError, "gate_prior must be two finite"),
        (lambda: GatedChain.independent_members(2, []), ValueError, "length of member_probability"),
        (lambda: GatedChain.independent_members(2, [1.2]), ValueError, "member_probability must lie"),
        (lambda: GatedChain([2]).member_probability, AttributeError, "independent_members"),
        (lambda: IndependentSupport(2.0), TypeError, "n must be an integer"),
        (lambda: IndependentSupport(2, "a"), TypeError, "probability must be real"),
        (lambda: GatedChain([2]).extrinsic_log_odds(np.zeros(3)), ValueError, r"L must have shape \(2,\)"),
        (lambda: GatedChain([2]).learned(np.array([0.0, np.inf])), ValueError, "L must be finite"),
        (lambda: IndependentSupport(1).learned(np.array([1j])), TypeError, "L must be real"),
    ],
)
def test_graphs_reject(make, error, match):
    with pytest.raises(error, match=match):
        make()
