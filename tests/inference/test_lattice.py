"""Lattice field against enumeration of every configuration, and in burst-sparse recovery."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.special import expit, logit, logsumexp

from isac_toolbox.inference import GatedChain, IndependentSupport, Lattice, sparse_recover
from isac_toolbox.inference.lattice import COUPLING_LIMIT


class Enumeration:
    """All configurations of sites and members of a lattice with one `p`, and a coupling per axis."""

    def __init__(self, shape, p, coupling, member):
        n, coupling = int(np.prod(shape)), np.broadcast_to(coupling, len(shape))
        self.z = np.array(list(itertools.product([0, 1], repeat=n)))
        site = np.arange(n).reshape(shape)
        log_prior = self.z @ np.full(n, logit(p))
        self.edges = []
        for a, w in enumerate(coupling):
            mixed = 2 * p * (1 - p) / (1 + np.sqrt(1 + 4 * np.expm1(w) * p * (1 - p)))
            offset = np.log(mixed / (1 - p - mixed)) - logit(p)
            head, tail = (np.delete(site, end, axis=a).ravel() for end in (-1, 0))
            for j, l in zip(head, tail):
                log_prior = (
                    log_prior + offset * (self.z[:, j] + self.z[:, l]) + w * self.z[:, j] * self.z[:, l]
                )
                self.edges.append((j, l))
        self.log_prior = log_prior - logsumexp(log_prior)
        self.member = np.asarray(member, dtype=float)
        self.L_shape = (n, self.member.size)

    def _factors(self, L):
        """Log-likelihood of each member given an active site, and its part from an active member."""
        on = np.log(self.member) + L.reshape(self.L_shape)
        with np.errstate(divide="ignore"):
            return np.logaddexp(np.log1p(-self.member), on), on

    def extrinsic(self, L):
        out = []
        for i in range(L.size):
            others = L.copy()
            others[i] = 0.0
            factors, on = self._factors(others)
            j, k = divmod(i, self.member.size)
            log_weight = self.log_prior + self.z @ factors.sum(axis=1)
            active = logsumexp(log_weight[self.z[:, j] == 1]) + on[j, k]
            with np.errstate(divide="ignore"):
                passive = logsumexp(log_weight[self.z[:, j] == 1]) + np.log1p(-self.member[k])
            out.append(active - np.logaddexp(passive, logsumexp(log_weight[self.z[:, j] == 0])))
        return np.array(out)

    def posterior(self, L):
        log_weight = self.log_prior + self.z @ self._factors(L)[0].sum(axis=1)
        evidence = logsumexp(log_weight)
        weight = np.exp(log_weight - evidence)
        pairs = np.array(
            [
                [[weight[(self.z[:, j] == a) & (self.z[:, l] == b)].sum() for b in (0, 1)] for a in (0, 1)]
                for j, l in self.edges
            ]
        )
        return weight @ self.z, expit(self.extrinsic(L) + L), pairs, evidence


def close(a, b, tolerance=1e-10):
    np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


@st.composite
def trees(draw):
    """1D lattices, some with axes of size one, and their messages."""
    n = draw(st.integers(1, 6))
    shape = draw(st.sampled_from([(n,), (1, n), (n, 1), (1, n, 1)]))
    member = draw(st.sampled_from([(1.0,), (0.4,), (0.2, 0.7), (0.5, 0.1, 0.9)]))
    p, coupling = draw(st.floats(0.01, 0.9)), draw(st.floats(0.0, 6.0))
    scale = draw(st.sampled_from([0.1, 3.0, 30.0, 700.0]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return shape, p, coupling, member, rng.uniform(-scale, scale, n * len(member))


def lattice_of(shape, p, coupling, member, **options):
    return Lattice(shape, p, coupling, len(member), member, **options)


@settings(max_examples=60, deadline=None)
@given(trees())
def test_one_axis_equals_enumeration(case):
    *parameters, L = case
    graph, truth = lattice_of(*parameters), Enumeration(*parameters)
    close(graph.extrinsic_log_odds(L), truth.extrinsic(L))
    posterior = graph.posterior(L)
    site, member, pairs, evidence = truth.posterior(L)
    close(posterior.site_probability, site)
    close(expit(graph.site_log_odds(L)), site)
    close(posterior.member_probability, member)
    close(posterior.pair_probability, pairs.reshape(-1, 2, 2))
    close(posterior.log_evidence, evidence)
    assert posterior.converged


@settings(max_examples=30, deadline=None)
@given(trees(), st.floats(-700, 700))
def test_each_message_excludes_its_own_evidence(case, other):
    *parameters, L = case
    graph = lattice_of(*parameters)
    before = graph.extrinsic_log_odds(L)
    for i in range(L.size):
        changed = L.copy()
        changed[i] = other
        assert graph.extrinsic_log_odds(changed)[i] == before[i]


def test_stationary_chain_is_the_same_model():
    rng = np.random.default_rng(1)
    for p01, p11 in ((0.05, 0.8), (0.3, 0.4), (0.01, 0.97)):
        n, p = 40, p01 / (1 + p01 - p11)
        L = rng.normal(0, 3, n)
        chain = GatedChain([n], gate=1.0, p_first=p, p01=p01, p11=p11)
        graph = Lattice(n, p, logit(p11) - logit(p01))
        close(graph.extrinsic_log_odds(L), chain.extrinsic_log_odds(L))
        ours, theirs = graph.posterior(L), chain.posterior(L)
        close(ours.site_probability, theirs.member_probability)
        close(ours.pair_probability, theirs.pair_counts[1:])
        close(ours.log_evidence, theirs.log_evidence)


def test_zero_coupling_is_independent_support_and_independent_members():
    rng = np.random.default_rng(2)
    L = rng.normal(0, 3, 24)
    close(
        Lattice((2, 3, 4), 0.2, 0.0).extrinsic_log_odds(L), IndependentSupport(24, 0.2).extrinsic_log_odds(L)
    )
    member = np.array([0.2, 0.6, 0.9])
    gated = GatedChain.independent_members(8, member, 0.3)
    graph = Lattice((2, 4), 0.3, 0.0, 3, member, learn_parameters=("probability", "member_probability"))
    for _ in range(3):
        close(graph.extrinsic_log_odds(L), gated.extrinsic_log_odds(L))
        close(graph.posterior(L).site_probability, gated.posterior(L).gate_probability)
        close(graph.posterior(L).log_evidence, gated.posterior(L).log_evidence)
        graph = graph.learned(L)
        gated = gated.learned(L)
        close(graph.probability, gated.gate)
        close(graph.member_probability, gated.member_probability)
    assert graph.coupling == 0.0


@pytest.mark.parametrize(("shape", "member"), [((2, 3), (1.0,)), ((2, 2, 2), (1.0,)), ((2, 3), (0.3, 0.8))])
@pytest.mark.parametrize(("coupling", "tolerance"), [(0.0, 1e-12), (0.25, 1e-4), (0.5, 1e-3), (1.0, 1e-2)])
def test_small_grids_are_close_to_enumeration(shape, member, coupling, tolerance):
    """In probability; the error is that of loopy sum-product and grows with the coupling."""
    rng = np.random.default_rng(3)
    for p in (0.1, 0.3):
        graph = lattice_of(shape, p, coupling, member)
        truth = Enumeration(shape, p, coupling, member)
        for _ in range(10):
            L = rng.normal(0, 3, graph.n_coefficients)
            np.testing.assert_allclose(
                expit(graph.extrinsic_log_odds(L)), expit(truth.extrinsic(L)), atol=tolerance
            )
            posterior = graph.posterior(L)
            site, active, pairs, evidence = truth.posterior(L)
            np.testing.assert_allclose(posterior.site_probability, site, atol=tolerance)
            np.testing.assert_allclose(posterior.member_probability, active, atol=tolerance)
            np.testing.assert_allclose(posterior.pair_probability, pairs, atol=tolerance)
            assert posterior.log_evidence == pytest.approx(evidence, abs=10 * tolerance)


@pytest.mark.parametrize(("coupling", "trace"), [(0.0, 0.0), (0.5, 5e-3), (1.0, 0.1)])
def test_own_evidence_comes_back_only_around_loops(coupling, trace):
    rng = np.random.default_rng(4)
    graph = Lattice((4, 4), 0.2, coupling)
    L = rng.normal(0, 3, 16)
    before = graph.extrinsic_log_odds(L)
    for i in range(16):
        changed = L.copy()
        changed[i] += 6.0
        assert abs(graph.extrinsic_log_odds(changed)[i] - before[i]) <= trace


def test_probability_is_the_marginal_everywhere():
    """Also at the borders, with a coupling per axis, and for a map of probabilities."""
    posterior = Lattice((4, 1, 5), 0.07, (0.8, 0.3, 0.2)).posterior(np.zeros(20))
    np.testing.assert_allclose(posterior.site_probability, 0.07, rtol=1e-6)
    assert posterior.log_evidence == pytest.approx(0.0, abs=1e-6)
    wanted = np.array([0.02, 0.5, 0.3, 0.9, 0.05])
    pairs = Lattice(5, wanted, 2.5).posterior(np.zeros(5)).pair_probability
    close(pairs[:, 1].sum(axis=1), wanted[:-1])
    close(pairs[:, :, 1].sum(axis=1), wanted[1:])
    close(np.log(pairs[:, 0, 0] * pairs[:, 1, 1] / (pairs[:, 0, 1] * pairs[:, 1, 0])), 2.5)


def test_axes_have_their_own_coupling():
    L = np.zeros((5, 5))
    L[2, 2] = 20.0
    e = Lattice((5, 5), 0.1, (0.0, 1.5)).extrinsic_log_odds(L.ravel()).reshape(5, 5)
    close(e[[1, 3], 2], logit(0.1), 1e-7)
    assert np.all(e[2, [1, 3]] > logit(0.1) + 0.5)
    close(e, e[:, ::-1], 1e-7)


@pytest.mark.parametrize("shape", [(6,), (3, 4), (2, 3, 2)])
@pytest.mark.parametrize("coupling", [0.0, 1.0, 6.0, COUPLING_LIMIT])
def test_extreme_messages(shape, coupling):
    rng = np.random.default_rng(5)
    for n_members, member in ((1, None), (2, (0.3, 0.6)), (2, (0.0, 1.0))):
        graph = Lattice(shape, 0.1, coupling, n_members, member)
        n = graph.n_coefficients
        for L in (np.full(n, 700.0), np.full(n, -700.0), rng.choice([-700.0, 700.0], n)):
            with np.errstate(over="raise", invalid="raise"):
                e, posterior = graph.extrinsic_log_odds(L), graph.posterior(L)
            assert not np.any(np.isnan(e))
            close(posterior.pair_probability.sum(axis=(1, 2)), 1.0)
            assert np.isfinite(posterior.log_evidence)
            assert np.all(np.isfinite(posterior.site_probability + posterior.pair_probability.sum()))


def test_certain_sites_give_exact_infinities():
    L = np.array([5.0, -3.0, 1.0, 2.0])
    for p, infinity in ((0.0, -np.inf), (1.0, np.inf)):
        graph = Lattice((2, 2), p, 2.0)
        assert np.all(graph.extrinsic_log_odds(L) == infinity)
        assert np.all(graph.posterior(L).site_probability == p)
        assert np.isfinite(graph.posterior(L).log_evidence)
    mixed = Lattice(4, [0.0, 1.0, 0.5, 0.0], 2.0).posterior(L)
    assert not np.any(np.isnan(mixed.pair_probability))
    close(mixed.site_probability[[0, 1, 3]], [0.0, 1.0, 0.0])


def test_messages_only_rise_and_settle_at_any_coupling():
    rng = np.random.default_rng(6)
    for shape in ((12, 12), (5, 5, 5)):
        for coupling in (0.5, 2.0, 4.0, 10.0):
            L = rng.normal(-1, 4, int(np.prod(shape)))
            graphs = [Lattice(shape, 0.05, coupling, n_sweeps=k) for k in (1, 2, 4, 8, 500)]
            passes = [graph.extrinsic_log_odds(L) for graph in graphs]
            assert np.all(np.diff(passes, axis=0) > -1e-9)
            assert graphs[-1].posterior(L).converged
            damped = Lattice(shape, 0.05, coupling, n_sweeps=2000, damping=0.5)
            np.testing.assert_allclose(damped.extrinsic_log_odds(L), passes[-1], atol=1e-5)
            np.testing.assert_array_equal(graphs[-1].extrinsic_log_odds(L), passes[-1])
    hasty = Lattice((12, 12), 0.05, 2.0, n_sweeps=1)
    assert not hasty.posterior(rng.normal(-1, 4, 144)).converged


def test_learn_keeps_what_already_matches():
    """Without evidence the posterior is the prior; only the shrinkage moves the coupling."""
    graph = Lattice((30, 30), 0.1, (0.6, 1.0), site_prior=(0.0, 0.0))
    graph = graph.learned(np.zeros(900))
    assert graph.probability == pytest.approx(0.1, rel=1e-6)
    np.testing.assert_allclose(graph.coupling, (0.6, 1.0), atol=0.01)


def test_learn_climbs_the_evidence_and_recovers_a_chain():
    rng = np.random.default_rng(7)
    n, p01, p11 = 4000, 0.05, 0.85
    s = np.zeros(n, dtype=int)
    for i in range(1, n):
        s[i] = rng.uniform() < (p11 if s[i - 1] else p01)
    users = (s[:, None] & (rng.uniform(size=(n, 2)) < (0.3, 0.8))).ravel()
    # messages of a unit-variance Gaussian observation of 4 s
    L = 4.0 * (rng.standard_normal(users.size) + 4.0 * users) - 8.0
    graph = Lattice(n, 0.1, 0.5, n_members=2)
    evidence = [graph.posterior(L).log_evidence]
    for _ in range(25):
        graph = graph.learned(L)
        evidence.append(graph.posterior(L).log_evidence)
    assert np.all(np.diff(evidence) > -0.05)
    assert evidence[-1] > evidence[0] + 100
    assert graph.probability == pytest.approx(s.mean(), abs=0.01)
    assert graph.coupling == pytest.approx(logit(p11) - logit(p01), abs=0.3)
    np.testing.assert_allclose(graph.member_probability, (0.3, 0.8), atol=0.05)


@pytest.mark.parametrize("coupling", [1.0, (1.0, 1.0), 8.0])
def test_learn_cannot_run_away(coupling):
    truth = np.zeros((12, 12))
    truth[3:9, 2:9] = 1.0
    for L in (np.full(144, 700.0), np.full(144, -700.0), 40.0 * truth.ravel() - 20.0, np.zeros(144)):
        graph = Lattice((12, 12), 0.1, coupling)
        for _ in range(30):
            graph = graph.learned(L)
            assert 0.0 < graph.probability < 1.0
            assert np.all((np.asarray(graph.coupling) >= 0.0) & (np.asarray(graph.coupling) < COUPLING_LIMIT))
        # below the critical coupling the field without evidence returns its own probability
        prior = graph.posterior(np.zeros(144))
        assert prior.converged
        np.testing.assert_allclose(prior.site_probability, graph.probability, rtol=1e-4)
        assert np.ndim(graph.coupling) == np.ndim(coupling)


def correlation_of(p, coupling):
    """Correlation coefficient of two sites of marginals `p` with a log odds ratio, by search for P(both)."""

    def excess(both):
        return np.log(both * (1 - 2 * p + both)) - 2 * np.log(p - both) - coupling

    return (brentq(excess, p**2, p * (1 - 1e-15)) - p**2) / (p * (1 - p))


def contraction(p, coupling, shape):
    """Left side of `sum d lam / (0.9 + lam) = 1` at couplings per axis, `d` neighbours on average."""
    correlations = [correlation_of(p, w) for w in np.broadcast_to(coupling, len(shape))]
    return sum((2 - 2 / size) * lam / (0.9 + lam) for size, lam in zip(shape, correlations))


@pytest.mark.parametrize("shape", [(3, 5), (40, 40), (2, 3, 4), (6, 1, 3)])
@pytest.mark.parametrize("per_axis", [False, True])
def test_learned_couplings_stop_below_the_critical_one(shape, per_axis):
    """At a contraction of 0.9 per sweep, with the neighbours that a site has on average, borders included."""
    coupling = tuple(np.linspace(4.0, 6.0, len(shape))) if per_axis else 4.0
    n = int(np.prod(shape))
    L = np.where(np.arange(n) < n // 2, 6.0, -6.0)
    learned = Lattice(shape, 0.2, coupling, learn_parameters=["coupling"]).learned(L)
    assert contraction(0.2, learned.coupling, shape) == pytest.approx(1.0, abs=1e-8)
    target = np.broadcast_to(learned.coupling, len(shape)) / np.broadcast_to(coupling, len(shape))
    assert np.all(target < 0.9)
    mapped = np.full(n, 0.01)
    mapped[n // 2] = 0.2  # the site nearest to one half decides
    learned = Lattice(shape, mapped, coupling, learn_parameters=["coupling"]).learned(L)
    assert contraction(0.2, learned.coupling, shape) == pytest.approx(1.0, abs=1e-8)


def test_one_axis_has_no_critical_coupling():
    L = np.where(np.arange(30) < 15, 6.0, -6.0)
    for shape in (30, (1, 30)):
        assert np.max(Lattice(shape, 0.2, 20.0, learn_parameters=["coupling"]).learned(L).coupling) > 10.0


@pytest.mark.parametrize("coupling", [0.3, (0.2, 0.4)])
def test_a_coupling_goes_half_of_the_way_to_the_pairs(coupling):
    """To the log odds ratio of the summed pair beliefs and four pairs of independent sites."""
    rng = np.random.default_rng(8)
    graph = Lattice((5, 6), 0.15, coupling, learn_parameters=["coupling"])
    L = np.where(np.add.outer(np.arange(5), np.arange(6)).ravel() < 4, 1.5, -1.5) + 0.3 * rng.normal(size=30)
    pairs = graph.posterior(L).pair_probability
    learned = np.atleast_1d(graph.learned(L).coupling)
    for a, value in enumerate(learned):
        chosen = pairs if np.ndim(coupling) == 0 else pairs[graph.edge_axis == a]
        table = chosen.sum(axis=0)
        p = (table.sum(axis=0) + table.sum(axis=1))[1] / (2 * table.sum())
        table = (table + table.T) / 2 + 4.0 * np.outer([1 - p, p], [1 - p, p])
        ratio = np.log(table[0, 0] * table[1, 1] / (table[0, 1] * table[1, 0]))
        old = np.atleast_1d(coupling)[a]
        assert value == pytest.approx(old + 0.5 * (ratio - old), rel=1e-9) and value > old


def test_learn_changes_only_what_is_learnable():
    L = np.array([5.0, 4.0, -3.0, -2.0, 3.0, 6.0, -1.0, -4.0])
    for names in ((), ("probability",), ("coupling",), ("member_probability",)):
        graph = Lattice((2, 2), 0.3, 1.0, 2, 0.4, learn_parameters=names)
        graph = graph.learned(L)
        for name, start in (("probability", 0.3), ("coupling", 1.0), ("member_probability", 0.4)):
            assert (getattr(graph, name) != start) == (name in names)
    frozen = Lattice((2, 2), 0.3, learn_parameters=False)
    frozen = frozen.learned(L[:4])
    assert (frozen.probability, frozen.coupling, frozen.member_probability) == (0.3, 1.0, 1.0)
    sites = Lattice((2, 2), [0.1, 0.2, 0.3, 0.4])
    sites = sites.learned(L[:4])
    np.testing.assert_array_equal(sites.probability, [0.1, 0.2, 0.3, 0.4])
    assert sites.coupling != 1.0
    assert sites.member_probability == 1.0
    single = Lattice(1)
    single = single.learned(np.array([2.0]))
    assert single.coupling == 1.0


def burst_scene(rng, sites=20, m=120, bursts=2, users=1):
    """Bursts of 4 x 4 sites seen through a complex Gaussian matrix at 10 dB; returns A, y, x."""
    mask = np.zeros((sites, sites), dtype=bool)
    while mask.sum() < 16 * bursts:
        mask[:] = False
        for row, column in rng.integers(0, sites - 3, (bursts, 2)):
            mask[row : row + 4, column : column + 4] = True
    active = mask.ravel()[:, None] & (rng.uniform(size=(mask.size, users)) < (1.0 if users == 1 else 0.7))
    x = np.where(active.ravel(), normal(rng, active.size), 0.0)
    A = normal(rng, m, x.size) / np.sqrt(m)
    signal = A @ x
    noise = 10 ** (-10 / 20) * np.sqrt(np.mean(np.abs(signal) ** 2))
    return A, signal + noise * normal(rng, m), x


def normal(rng, *shape):
    return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)) / np.sqrt(2)


def error_db(scenes, support):
    errors = [
        np.sum(np.abs(sparse_recover(A, y, support=support).mean - x) ** 2) / np.sum(np.abs(x) ** 2)
        for A, y, x in scenes
    ]
    return 10 * np.log10(np.mean(errors))


def test_bursts_are_recovered_better_than_independent_coefficients():
    scenes = [burst_scene(np.random.default_rng(seed)) for seed in range(10)]
    graph = Lattice((20, 20))
    lattice, independent = error_db(scenes, graph), error_db(scenes, None)
    assert lattice < independent - 2.0, (lattice, independent)
    assert (graph.probability, graph.coupling) == (0.1, 1.0)


def test_bursts_of_several_users():
    scenes = [burst_scene(np.random.default_rng(seed), 12, 120, 1, users=3) for seed in range(10)]
    lattice = error_db(scenes, Lattice((12, 12), n_members=3))
    gated = error_db(scenes, GatedChain.independent_members(144, np.full(3, 0.5), 0.1))
    independent = error_db(scenes, None)
    assert lattice < gated - 0.3, (lattice, gated)
    assert lattice < independent - 2.5, (lattice, independent)


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: Lattice("ab"), TypeError, "shape must be an integer or a sequence"),
        (lambda: Lattice(2.5), TypeError, "shape must be an integer or a sequence"),
        (lambda: Lattice(()), ValueError, "shape must have one to three axes, got 0"),
        (lambda: Lattice((2, 2, 2, 2)), ValueError, "shape must have one to three axes, got 4"),
        (lambda: Lattice((2, 0)), ValueError, r"shape\[1\] must be at least 1"),
        (lambda: Lattice((2.0, 3)), TypeError, r"shape\[0\] must be an integer"),
        (lambda: Lattice(3, 1.5), ValueError, r"probability must lie in \[0, 1\]"),
        (lambda: Lattice((2, 2), [0.1, 0.2]), ValueError, r"probability must have shape a scalar or \(4,\)"),
        (lambda: Lattice(3, coupling=-1.0), ValueError, r"coupling must lie in \[0, 30\]"),
        (lambda: Lattice(3, coupling=np.nan), ValueError, r"coupling must lie in \[0, 30\]"),
        (lambda: Lattice((2, 2), coupling=(1.0,)), ValueError, r"coupling must have shape .* \(2,\)"),
        (lambda: Lattice(3, coupling="a"), TypeError, "coupling must be real"),
        (lambda: Lattice(3, n_members=0), ValueError, "n_members must be at least 1"),
        (
            lambda: Lattice(3, n_members=2, member_probability=[0.5]),
            ValueError,
            "member_probability must have",
        ),
        (lambda: Lattice(3, member_probability=-0.1), ValueError, "member_probability must lie"),
        (lambda: Lattice(3, learn_parameters="coupling"), TypeError, "learn_parameters must be a bool"),
        (
            lambda: Lattice(3, learn_parameters=["gate"]),
            ValueError,
            "learn_parameters must hold .* got 'gate'",
        ),
        (lambda: Lattice(3, n_sweeps=0), ValueError, "n_sweeps must be at least 1"),
        (lambda: Lattice(3, damping=1.0), ValueError, r"damping must lie in \[0, 1\)"),
        (lambda: Lattice(3, damping="a"), TypeError, "damping must be a number between 0 and 1"),
        (lambda: Lattice(3, tol=0.0), ValueError, "tol must be a positive number"),
        (lambda: Lattice(3, site_prior=(1.0, -1.0)), ValueError, "site_prior must be two finite"),
        (lambda: Lattice(3, member_prior=(1.0,)), ValueError, "member_prior must be two finite"),
        (lambda: Lattice(3).extrinsic_log_odds(np.zeros(4)), ValueError, r"L must have shape \(3,\)"),
        (lambda: Lattice(3).learned(np.array([0.0, np.nan, 0.0])), ValueError, "L must be finite"),
        (lambda: Lattice(1).posterior(np.array([1j])), TypeError, "L must be real"),
    ],
)
def test_lattice_rejects(make, error, match):
    with pytest.raises(error, match=match):
        make()
