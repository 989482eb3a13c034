"""Single or multiple bounce by value: laws of reflection, mixture of kinds, and being in place.

docs/theory.md, section 6.6. Gains, places and covariances are set by hand, so that every number has a closed
form or an independent computation.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import erf, expit
from scipy.stats import norm

from helpers.scenes import BS_M, random_case
from isac_toolbox.channel.atoms.scene import Paths, Scene
from isac_toolbox.estimators.scene.fit import Fit, evaluate
from isac_toolbox.estimators.scene.plausibility import (
    chance_share,
    ground_reflections,
    reflection_loss_db,
    single_bounce_probability,
    unlocated_wall_reflections,
    wall_reflections,
)

PROBLEM = random_case(0).problem
CELL_M = PROBLEM.length_cell_m
USERS_M = np.array([[45.0, -12.0, 1.5], [62.0, 15.0, 2.0]])
OFFSETS_M = np.array([1.3, -0.7])


@dataclass
class Made:
    """A scene with lines of sight of both users and paths of given losses.

    ``points`` holds (place, user, loss in dB) of paths; those at one place share its point. ``unlocated``
    holds (length, u_h, u_v), user and loss of unlocated paths.
    """

    points: list[tuple[np.ndarray, int, float]]
    unlocated: list[tuple[np.ndarray, int, float]] = field(default_factory=list)
    sight: tuple[bool, bool] = (True, True)

    def fit(self) -> Fit:
        places = np.unique(np.array([p for p, _, _ in self.points]).reshape(-1, 3), axis=0)
        seen = np.zeros((2, len(places)), bool)
        loss = {}
        for place, user, loss_db in self.points:
            index = int(np.flatnonzero((places == place).all(axis=1))[0])
            seen[user, index] = True
            loss[user, index] = loss_db
        unlocated_m = np.array([f for f, _, _ in self.unlocated]).reshape(-1, 3)
        paths = Paths.build(np.array(self.sight), seen, np.array([u for _, u, _ in self.unlocated], np.int64))
        scene = Scene(places, USERS_M, OFFSETS_M, unlocated_m)
        fit = evaluate(PROBLEM, scene, paths, np.ones(len(paths)))
        losses = np.zeros(len(paths))
        for i, (user, target, unlocated) in enumerate(
            zip(paths.user, paths.target, paths.unlocated, strict=True)
        ):
            if target >= 0:
                losses[i] = loss[user, target]
            elif unlocated >= 0:
                losses[i] = self.unlocated[unlocated][2]
        true_length = fit.parameters.length_m - OFFSETS_M[paths.user]
        phase = np.exp(1j * np.arange(len(paths)))
        gains = phase * 10 ** (-losses / 20) / true_length
        return replace(fit, posterior=replace(fit.posterior, mean=gains))


def index_of(fit: Fit, point: np.ndarray) -> int:
    return int(np.flatnonzero((fit.scene.points_m == point).all(axis=1))[0])


def isotropic(fit: Fit, std_m: float) -> np.ndarray:
    return std_m**2 * np.eye(fit.scene.n_parameters)


def random_covariance(size: int, seed: int) -> np.ndarray:
    root = np.random.default_rng(seed).standard_normal((size, size))
    return root @ root.T / size


# --- reflection loss ---------------------------------------------------------------------------------


def test_reflection_loss_is_that_of_free_space_left_out():
    """Clock offsets are no length: they are part of the observed one alone."""
    made = Made([(np.array([50.0, 10.0, 9.0]), 0, 6.5), (np.array([40.0, -20.0, 12.0]), 1, 14.0)])
    made.unlocated = [(np.array([110.0, 0.2, -0.1]), 1, 19.0)]
    fit = made.fit()
    loss = reflection_loss_db(fit)
    np.testing.assert_allclose(loss[fit.paths.is_line_of_sight], 0.0, atol=1e-12)
    by_user = {int(u): x for u, x in zip(fit.paths.user[2:4], loss[2:4], strict=True)}
    assert by_user == pytest.approx({0: 6.5, 1: 14.0})
    assert loss[4] == pytest.approx(19.0)
    made.sight = (True, False)
    blind = made.fit()
    unknown = np.isnan(reflection_loss_db(blind))
    np.testing.assert_array_equal(unknown, blind.paths.user == 1)


# --- laws of reflection ------------------------------------------------------------------------------


def slope_of(function, at: np.ndarray) -> np.ndarray:
    """Central differences of a function with values (D,), shape (D, size)."""
    columns = []
    for i in range(at.size):
        step = np.zeros(at.size)
        step[i] = 1e-4
        columns.append((function(at + step) - function(at - step)) / 2e-4)
    return np.stack(columns, axis=-1)


def ground_error(user: np.ndarray):
    """Horizontal miss (2,) of the place where level ground at a point's height would reflect."""

    def error(point: np.ndarray) -> np.ndarray:
        image = np.array([user[0], user[1], 2 * point[2] - user[2]])
        share = (point[2] - BS_M[2]) / (image[2] - BS_M[2])
        return point[:2] - (BS_M + share * (image - BS_M))[:2]

    return error


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("user", [0, 1])
def test_ground_law_holds_within_three_deviations_of_the_point(seed, user):
    """Height and place of a point are uncertain together; the propagated covariance decides."""
    rng = np.random.default_rng(seed)
    height = rng.uniform(-3.0, 1.0)
    error = ground_error(USERS_M[user])
    exact = -error(np.array([0.0, 0.0, height]))
    point = np.array([*(exact + rng.uniform(-1.5, 1.5, 2)), height])
    fit = Made([(np.array([40.0, 25.0, 9.0]), 0, 8.0), (point, user, 8.0)]).fit()
    index = index_of(fit, point)
    own = slice(3 * index, 3 * index + 3)
    shape = random_covariance(fit.scene.n_parameters, seed)
    slope = slope_of(error, point)
    miss = error(point)
    distance = miss @ np.linalg.solve(slope @ shape[own, own] @ slope.T, miss)
    for factor, within in ((1.03, True), (0.97, False)):
        covariance = factor * distance / 9 * shape  # the miss is then 3 / sqrt(factor) deviations
        assert ground_reflections(fit, covariance)[index] == within


def wall_error(point_and_user: np.ndarray) -> np.ndarray:
    """Vertical miss (1,) of a ray whose slope a vertical wall leaves alone."""
    point, user = point_and_user[:3], point_and_user[3:]
    before, after = np.linalg.norm(point - BS_M), np.linalg.norm(user - point)
    return np.array([point[2] - (after * BS_M[2] + before * user[2]) / (before + after)])


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("user", [0, 1])
def test_wall_law_holds_within_three_deviations_of_point_and_user(seed, user):
    rng = np.random.default_rng(seed)
    point = np.array([rng.uniform(25, 75), rng.uniform(-25, 25), rng.uniform(3, 14)])
    fit = Made([(np.array([40.0, 25.0, 9.0]), 1 - user, 8.0), (point, user, 8.0)]).fit()
    index = index_of(fit, point)
    _, users, _, _ = fit.scene.blocks()
    own = np.concatenate([3 * index + np.arange(3), users.start + 3 * user + np.arange(3)])
    shape = random_covariance(fit.scene.n_parameters, seed)
    both = np.concatenate([point, USERS_M[user]])
    slope, miss = slope_of(wall_error, both)[0], wall_error(both)[0]
    variance = slope @ shape[np.ix_(own, own)] @ slope
    slack = (0.03 * CELL_M) ** 2
    assert miss**2 > 2 * 9 * slack
    for factor, within in ((1.03, True), (0.97, False)):
        covariance = (factor * miss**2 / 9 - slack) / variance * shape
        assert wall_reflections(fit, covariance)[index] == within


def test_surfaces_need_not_be_ideal():
    """A vertical miss of three times 0.03 cells is none, however sure the point is."""
    user = 1
    lawful = np.array([50.0, 20.0, 0.0])
    for share in (0.95, 1.05):
        low, high = 0.0, 20.0
        for _ in range(60):
            lawful[2] = (low + high) / 2
            miss = wall_error(np.concatenate([lawful, USERS_M[user]]))[0]
            low, high = (low, lawful[2]) if miss > 3 * share * 0.03 * CELL_M else (lawful[2], high)
        fit = Made([(lawful.copy(), user, 8.0)]).fit()
        assert wall_reflections(fit, isotropic(fit, 1e-6)).tolist() == [share < 1]


@pytest.mark.parametrize("seed", range(4))
def test_unlocated_paths_of_walls_within_three_deviations_of_path_clock_and_user(seed):
    """The rise of the direction times the length, less that of the user; all unknowns are correlated."""
    rng = np.random.default_rng(seed)
    paths = [(np.array([rng.uniform(70, 110), *rng.uniform(-0.25, 0.25, 2)]), u, 10.0) for u in (1, 0)]
    fit = Made([(np.array([40.0, 25.0, 9.0]), 0, 8.0)], paths).fit()
    _, users, offsets, unlocated = fit.scene.blocks()
    axes = PROBLEM.receiver.array.axes
    for i, (parameters, user, _) in enumerate(paths):

        def error(unknowns):
            length, height = unknowns[0] - unknowns[3], unknowns[4]
            forward = np.sqrt(1 - unknowns[1] ** 2 - unknowns[2] ** 2)
            rise = axes[:, 2] @ np.array([forward, unknowns[1], unknowns[2]])
            return np.array([rise * length - (height - BS_M[2])])

        at = np.array([*parameters, OFFSETS_M[user], USERS_M[user, 2]])
        own = [*(unlocated.start + 3 * i + np.arange(3)), offsets.start + user, users.start + 3 * user + 2]
        slope, miss = slope_of(error, at)[0], error(at)[0]
        weight = np.ones(fit.scene.n_parameters)
        weight[own] = 1 / np.abs(slope)  # every unknown counts alike
        shape = random_covariance(weight.size, seed) * np.outer(weight, weight)
        variance, slack = slope @ shape[np.ix_(own, own)] @ slope, (0.03 * CELL_M) ** 2
        assert miss**2 > 2 * 9 * slack
        for factor, within in ((1.03, True), (0.97, False)):
            covariance = (factor * miss**2 / 9 - slack) / variance * shape
            assert unlocated_wall_reflections(fit, covariance)[i] == within


# --- parallax ----------------------------------------------------------------------------------------


def seen_at_angle(degrees: float) -> np.ndarray:
    """A point in the air that both users see at an angle from one another."""
    middle, across = USERS_M.mean(axis=0), np.diff(USERS_M, axis=0)[0]
    half = np.linalg.norm(across) / 2
    away = np.cross(across, [0.0, 0.0, 1.0])
    return middle + away / np.linalg.norm(away) * half / np.tan(np.deg2rad(degrees) / 2)


@pytest.mark.parametrize(("degrees", "certain"), [(14.5, False), (15.5, True)])
def test_users_at_fifteen_degrees_have_parallax(degrees, certain):
    point = seen_at_angle(degrees)
    fit = Made([(point, 0, 20.0), (point, 1, 20.0)]).fit()
    covariance = isotropic(fit, 1e-6)
    assert not ground_reflections(fit, covariance).any()
    probability = single_bounce_probability(fit, covariance)
    assert (probability[0] == 1.0) == certain


def scattered(n_paths: int, rng: np.random.Generator) -> list[tuple[np.ndarray, int, float]]:
    """Unlocated paths of both users over ten resolution cells of length, in any direction."""
    cosines = rng.uniform(-0.6, 0.6, (n_paths, 2))
    lengths = 100.0 + CELL_M * np.concatenate([[0.0, 10.0], rng.uniform(0, 10, n_paths - 2)])
    return [(np.array([x, *u]), i % 2, 12.0) for i, (x, u) in enumerate(zip(lengths, cosines, strict=True))]


def test_agreements_are_worth_what_chance_leaves_of_them():
    """The expected number counted over many draws: paths in the same cell of length and directions."""
    point = seen_at_angle(60.0)
    agree = [(point, 0, 10.0), (point, 1, 10.0)]
    rng = np.random.default_rng(0)
    everyone = np.ones(1, bool)
    assert chance_share(Made(agree).fit(), everyone) == 0.0
    shares = []
    for n_paths in (10, 20, 40, 400):
        fit = Made(agree, scattered(n_paths, rng)).fit()
        shares.append(chance_share(fit, everyone))
        assert single_bounce_probability(fit, isotropic(fit, 1e-6))[0] == 1 - shares[-1]
        assert chance_share(fit, ~everyone) == 0.0
    assert shares == sorted(shares) and shares[-1] == 1.0
    excess = Made(agree, scattered(40, rng)).fit()
    beside = ~excess.paths.is_line_of_sight
    lengths = (excess.parameters.length_m - excess.scene.offsets_m[excess.paths.user])[beside] / CELL_M
    n_cells = (1 + np.ptp(lengths)) * np.pi / np.prod(PROBLEM.receiver.array.cosine_cells)
    cells = rng.integers(0, int(np.rint(n_cells)), (4000, 2, 20))
    met = np.mean([np.sum(a[:, None] == b) for a, b in cells])
    assert chance_share(excess, everyone) == pytest.approx(min(met, 1.0), rel=0.1)


@pytest.mark.parametrize(("loss_db", "certain"), [(21.5, True), (22.5, False)])
def test_a_witness_is_not_far_weaker_than_any_bounce(loss_db, certain):
    point = seen_at_angle(60.0)
    fit = Made([(point, 0, 20.0), (point, 1, loss_db)]).fit()
    probability = single_bounce_probability(fit, isotropic(fit, 1e-6))
    assert (probability[0] == 1.0) == certain


# --- mixture of one bounce and more ------------------------------------------------------------------


def lawful_point(user: int, x: float, y: float) -> np.ndarray:
    """A point of a user at which a vertical wall would reflect it."""
    low, high = 0.0, 20.0
    for _ in range(60):
        point = np.array([x, y, (low + high) / 2])
        low, high = (
            (low, point[2]) if wall_error(np.concatenate([point, USERS_M[user]]))[0] > 0 else (point[2], high)
        )
    return point


def log_normal(x, mean: float, log_std: float):
    """Log density without its constant."""
    return -0.5 * ((x - mean) * np.exp(-log_std)) ** 2 - log_std


def best_mixture(loss_db, lawful, single, multiple, n_ground: int) -> np.ndarray:
    """Probabilities of one bounce where losses and shares have their greatest posterior, by general search.

    ``single`` and ``multiple`` are (losses, lawful) of paths whose kind is settled. Losses are normal with a
    mean and a spread for each kind, under normal-inverse-gamma priors worth eight paths; shares have Beta
    priors with counts 9 : 1 (single) and 1 : 1 (lawful, of each kind), each a power of the share.
    """
    lawful, known = np.asarray(lawful), np.isfinite(loss_db)

    def joint(parameters):
        """Log densities of each doubtful path together with its kind, and the log prior."""
        share, law_one, law_more = np.log(expit(parameters[:3]))
        others = np.log(expit(-parameters[:3]))
        prior = (9 + n_ground) * share + others[0]
        logs = []
        for kind, (mean, log_std), (law, no_law), (losses, obey), m_0 in (
            (share, parameters[3:5], (law_one, others[1]), single, 7.5),
            (others[0], parameters[5:7], (law_more, others[2]), multiple, 15.0),
        ):
            obey = np.asarray(obey, bool)
            density = partial(log_normal, mean=mean, log_std=log_std)
            logs.append(kind + np.where(known, density(np.where(known, loss_db, 0)), 0.0))
            logs[-1] = logs[-1] + np.where(lawful, law, no_law)
            prior += np.sum(kind + density(losses) + np.where(obey, law, no_law)) + law + no_law
            prior += 8 * density(m_0) - 8 * 4.5**2 / (2 * np.exp(2 * log_std))
        return logs, prior

    def negative_log_posterior(parameters):
        logs, prior = joint(parameters)
        return -np.sum(np.logaddexp(*logs)) - prior

    start = np.array([np.log(9), 0, 0, 7.5, np.log(4.5), 15.0, np.log(4.5)])
    one, more = joint(minimize(negative_log_posterior, start, method="BFGS").x)[0]
    return expit(one - more)


def rising(user: int, length_m: float, is_lawful: bool) -> np.ndarray:
    """An unlocated path that rises as vertical walls would leave it, or 20 degrees more."""
    axes = PROBLEM.receiver.array.axes
    up = (USERS_M[user, 2] - BS_M[2]) / length_m + (0.0 if is_lawful else 0.35)
    direction = np.array([np.sqrt(1 - up**2 - 0.01), 0.1, up])
    return np.array([length_m + OFFSETS_M[user], *(axes[1:] @ direction)])


@pytest.mark.parametrize("n_multiple", [0, 6])
def test_doubtful_points_follow_the_mixture_at_its_best_parameters(n_multiple):
    """Losses on both sides, points that obey the law of a wall and others, settled ones of both kinds."""
    lonely = [  # place, user, loss, lawful
        (lawful_point(0, 30.0, 20.0), 0, 6.0, True),
        (lawful_point(1, 70.0, -10.0), 1, 13.5, True),
        (lawful_point(1, 66.0, -22.0), 1, 19.0, True),
        (np.array([35.0, 5.0, 13.0]), 0, 9.0, False),
        (np.array([28.0, -20.0, 14.0]), 0, 14.0, False),
        (np.array([75.0, 1.0, 14.0]), 1, 5.0, False),
    ]
    agreed = [(lawful_point(0, 50.0, -8.0), 7.5, True), (lawful_point(0, 58.0, -20.0), 6.0, True)]
    ground = np.array([*-ground_error(USERS_M[1])(np.array([0.0, 0.0, 0.0])), 0.0])
    points = [(p, u, loss) for p, u, loss, _ in lonely] + [(ground, 1, 12.0), (ground, 0, 21.0)]
    for place, loss_db, _ in agreed:  # the stronger of the two paths counts
        length = [np.linalg.norm(place - BS_M) + np.linalg.norm(place - u) for u in USERS_M]
        weaker = loss_db + 3 + 20 * np.log10(length[0] / length[1])
        points += [(place, 0, loss_db), (place, 1, weaker)]
    obey = [i % 3 == 0 for i in range(n_multiple)]
    losses = 14.0 + np.arange(n_multiple)
    unlocated = [(rising(i % 2, 100.0 + i, obey[i]), i % 2, losses[i]) for i in range(n_multiple)]
    fit = Made(points, unlocated).fit()
    covariance = isotropic(fit, 1e-4)
    covariance[fit.scene.blocks()[3]] *= 1e-4
    probability = single_bounce_probability(fit, covariance)
    together = np.isin(np.arange(len(probability)), [index_of(fit, p) for p, *_ in agreed])
    np.testing.assert_allclose(probability[together], 1 - chance_share(fit, together), rtol=1e-12)
    np.testing.assert_allclose(probability[index_of(fit, ground)], 1.0, atol=1e-9)
    law = wall_reflections(fit, covariance)
    assert [bool(law[index_of(fit, p)]) for p, *_ in lonely + agreed] == [x for *_, x in lonely + agreed]
    assert unlocated_wall_reflections(fit, covariance).tolist() == obey
    expected = best_mixture(
        np.array([loss for _, _, loss, _ in lonely]),
        [x for *_, x in lonely],
        (np.array([loss for _, loss, _ in agreed]), [x for *_, x in agreed]),
        (losses, obey),
        n_ground=1,
    )
    assert expected.min() < 0.6 and expected.max() > 0.9
    np.testing.assert_allclose([probability[index_of(fit, p)] for p, *_ in lonely], expected, atol=1e-3)


def test_without_a_line_of_sight_the_loss_says_nothing():
    """Two users, one without a line of sight: its lawless point has the odds of the shares alone."""
    places = [np.array([35.0, 5.0, 13.0]), np.array([75.0, 1.0, 14.0])]
    fit = Made([(places[0], 0, 14.0), (places[1], 1, 25.0)], sight=(True, False)).fit()
    probability = single_bounce_probability(fit, isotropic(fit, 1e-4))
    nothing = np.zeros(0), []
    expected = best_mixture(np.array([14.0, np.nan]), [False, False], nothing, nothing, n_ground=0)
    np.testing.assert_allclose([probability[index_of(fit, p)] for p in places], expected, atol=1e-3)


def test_on_a_monostatic_link_every_point_is_a_single_bounce():
    made = Made([(np.array([35.0, 5.0, 13.0]), 0, 40.0)])
    fit = made.fit()
    prior = replace(fit.problem.prior, has_line_of_sight=False)
    fit = replace(fit, problem=replace(fit.problem, prior=prior))
    np.testing.assert_array_equal(single_bounce_probability(fit, isotropic(fit, 100.0)), 1.0)


# --- in place ----------------------------------------------------------------------------------------

LAWLESS_M = np.array([35.0, 5.0, 14.0])


@pytest.mark.parametrize("std_cells", [0.2, 0.65, 2.0])
@pytest.mark.parametrize("seed", range(2))
def test_a_point_is_in_place_along_its_widest_axis(std_cells, seed):
    """Within 0.65 cells of where it is said to be, by the largest eigenvalue of its covariance.

    The widest axis is one that the law of a wall does not see, so that only this factor changes.
    """
    fit = Made([(LAWLESS_M, 0, 12.0), (np.array([75.0, 1.0, 14.0]), 1, 12.0)]).fit()
    sure = single_bounce_probability(fit, isotropic(fit, 1e-5))
    index = index_of(fit, LAWLESS_M)
    slope = slope_of(wall_error, np.concatenate([LAWLESS_M, USERS_M[0]]))[0, :3]
    others = np.random.default_rng(seed).standard_normal((3, 2))
    turn = np.linalg.qr(np.column_stack([slope, others]))[0]
    std = std_cells * CELL_M
    covariance = isotropic(fit, 1e-5)
    own = slice(3 * index, 3 * index + 3)
    covariance[own, own] = turn @ np.diag([0.01, std, 0.03]) ** 2 @ turn.T
    unsure = single_bounce_probability(fit, covariance)
    inside = norm.cdf(0.65 * CELL_M / std) - norm.cdf(-0.65 * CELL_M / std)
    assert wall_reflections(fit, covariance).tolist() == wall_reflections(fit, isotropic(fit, 1e-5)).tolist()
    assert unsure[index] / sure[index] == pytest.approx(inside, rel=1e-9)
    assert unsure[1 - index] == pytest.approx(sure[1 - index], rel=1e-9)


@pytest.mark.parametrize(("excess_cells", "crowded"), [(1.45, True), (1.55, False)])
def test_close_to_the_line_of_sight_the_spread_counts_twice(excess_cells, crowded):
    """A path less than 1.5 cells longer than its line of sight; the clock's offset is no excess."""
    user = 1
    direct = np.linalg.norm(USERS_M[user] - BS_M)
    middle, up = (USERS_M[user] + BS_M) / 2, np.array([0.3, -1.0, 0.4])
    low, high = 0.0, 40.0
    for _ in range(80):
        point = middle + (low + high) / 2 * up
        excess = np.linalg.norm(point - BS_M) + np.linalg.norm(point - USERS_M[user]) - direct
        too_far = excess > excess_cells * CELL_M
        low, high = (low, (low + high) / 2) if too_far else ((low + high) / 2, high)
    fit = Made([(point, user, 12.0)]).fit()
    std = 0.4 * CELL_M
    sure, unsure = (single_bounce_probability(fit, isotropic(fit, s))[0] for s in (1e-5, std))
    assert not wall_reflections(fit, isotropic(fit, std)).any()
    spread = 2 * std if crowded else std
    assert unsure / sure == pytest.approx(erf(0.65 * CELL_M / (np.sqrt(2) * spread)), rel=1e-6)
