"""What the block teaches about single and multiple bounces, by value."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.optimize import minimize

from helpers.scenes import random_case
from isac_toolbox.estimators.scene import plausibility
from isac_toolbox.estimators.scene.plausibility import LossDistribution, unlocated_wall_reflections

NOBODY = plausibility._Evidence(np.zeros(0), np.zeros(0, bool))


def test_the_prior_is_that_of_facades():
    """Fresnel reflection at the half spaces of ITU-R P.2040, in any linear polarisation and incidence."""
    permittivities = {"concrete": 5.24, "brick": 3.91, "glass": 6.31, "marble": 7.074}
    incidence = np.deg2rad(np.linspace(0, 89, 400))
    angle = np.linspace(0, np.pi, 181)[:, None]
    cosine, losses = np.cos(incidence), []
    for permittivity in permittivities.values():
        root = np.sqrt(permittivity - np.sin(incidence) ** 2)
        across = (cosine - root) / (cosine + root)
        along = (permittivity * cosine - root) / (permittivity * cosine + root)
        power = (across * np.cos(angle)) ** 2 + (along * np.sin(angle)) ** 2
        losses.append(-10 * np.log10(power))
    assert plausibility._SINGLE_LOSS.mean_db == pytest.approx(np.mean(losses), abs=0.3)
    assert plausibility._SINGLE_LOSS.std_db == pytest.approx(np.hypot(np.std(losses), 3.0), abs=0.3)
    assert plausibility._MULTIPLE_LOSS.mean_db == 2 * plausibility._SINGLE_LOSS.mean_db


@pytest.mark.parametrize("prior_paths", [1.0, 8.0])
def test_a_loss_is_learned_at_the_mode_of_its_posterior(prior_paths):
    """Mode of mean and variance: ``n_0`` losses of the prior's moments beside the weighted ones."""
    rng = np.random.default_rng(0)
    loss_db, weight = rng.normal(11, 3, 6), rng.uniform(0, 1, 6)
    prior = LossDistribution(7.5, 4.5)
    learned = prior.updated(loss_db, weight, prior_paths)

    def negative(parameters):
        mean, log_variance = parameters
        total = prior_paths + weight.sum()
        squares = prior_paths * (prior.std_db**2 + (mean - prior.mean_db) ** 2)
        squares += weight @ (loss_db - mean) ** 2
        return 0.5 * total * log_variance + 0.5 * squares * np.exp(-log_variance)

    best = minimize(negative, (7.5, 3.0), method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-12})
    assert_allclose([learned.mean_db, 2 * np.log(learned.std_db)], best.x, rtol=1e-5)
    assert prior.updated(loss_db, 0 * weight, prior_paths) == prior


def test_many_losses_overrule_the_prior():
    loss_db = np.random.default_rng(1).normal(20, 2, 4000)
    learned = LossDistribution(7.5, 4.5).updated(loss_db, np.ones(4000), 8.0)
    assert learned.mean_db == pytest.approx(20, abs=0.2)
    assert learned.std_db == pytest.approx(2, abs=0.2)


def mixture(doubtful, single=NOBODY, multiple=NOBODY, n_ground=0):
    return plausibility._mixture_probability(doubtful, single, multiple, n_ground)


def evidence(loss_db, lawful=None):
    lawful = np.zeros(len(loss_db), bool) if lawful is None else np.array(lawful)
    return plausibility._Evidence(np.array(loss_db, float), lawful)


def test_the_mixture_is_a_fixed_point_of_em():
    """Responsibilities computed anew from the parameters they imply, in another notation."""
    rng = np.random.default_rng(2)
    loss_db = np.concatenate([rng.normal(6, 2, 9), rng.normal(17, 3, 7), [np.nan]])
    lawful = rng.random(17) < 0.5
    settled, unlocated = (
        evidence([5.0, 9.0], [True, False]),
        evidence([16.0, 12.0, 21.0], [True, True, False]),
    )
    q = mixture(evidence(loss_db, lawful), settled, unlocated, n_ground=2)
    known = np.isfinite(loss_db)
    odds = (9 + 2 + 2 + q.sum()) / (1 + 3 + (1 - q).sum())
    others = 1 - q
    law = [(1 + 1 + q[lawful].sum()) / (2 + 2 + q.sum())]
    law.append((1 + 2 + others[lawful].sum()) / (2 + 3 + others.sum()))
    classes = []
    for prior, weight, sure in ((7.5, q, settled.loss_db), (15.0, others, unlocated.loss_db)):
        x = np.clip(np.concatenate([loss_db[known], sure]), -6.0, 28.5)
        w = np.concatenate([weight[known], np.ones(sure.size)])
        mean = (8 * prior + w @ x) / (8 + w.sum())
        variance = (8 * (4.5**2 + (mean - prior) ** 2) + w @ (x - mean) ** 2) / (8 + w.sum())
        classes.append((mean, np.sqrt(variance)))
    (m1, s1), (m2, s2) = classes
    x = np.clip(loss_db, m1 - s1, m2 + 2 * s2)
    density = [np.exp(-((x - m) ** 2) / (2 * s * s)) / s for m, s in classes]
    ratio = np.where(known, density[0] / density[1], 1.0)
    ratio *= np.where(lawful, law[0] / law[1], (1 - law[0]) / (1 - law[1]))
    assert_allclose(q, odds * ratio / (1 + odds * ratio), atol=1e-3)
    assert np.all(q[:9] > 0.5) and np.mean(q[9:16] < 0.5) > 0.8


def test_unlocated_paths_teach_what_many_bounces_lose():
    """Where they lose as little as one bounce does elsewhere, a path of that loss is doubted more."""
    doubtful = evidence([12.0, 12.0, 12.0])
    alone = mixture(doubtful)
    strong = mixture(doubtful, multiple=evidence([12.0] * 8))
    weak = mixture(doubtful, multiple=evidence([27.0] * 8))
    assert np.all(strong < alone) and np.all(weak > strong)


def test_the_law_says_nothing_where_both_kinds_obey_it():
    """Several vertical walls keep the slope of a ray as one does."""
    doubtful = evidence([11.0] * 4, [True, True, False, False])
    walls = evidence([15.0] * 20, [True] * 20)
    points = evidence([15.0] * 20, [False] * 20)
    both = mixture(doubtful, single=evidence([7.0] * 20, [True] * 20), multiple=walls)
    told = mixture(doubtful, single=evidence([7.0] * 20, [True] * 20), multiple=points)
    assert told[0] - told[2] > 0.5
    assert both[0] - both[2] < told[0] - told[2]


def test_the_law_speaks_only_where_single_bounces_obey_it():
    """In a city of walls a lawless path is doubted; among point scatterers it is not."""
    doubtful, multiple = (
        evidence([11.0, 11.0], [True, False]),
        evidence([15.0] * 20, [False] * 16 + [True] * 4),
    )
    city = mixture(doubtful, evidence([7.0] * 20, [True] * 20), multiple)
    field = mixture(doubtful, evidence([7.0] * 20, [False] * 16 + [True] * 4), multiple)
    assert city[1] < 0.3 < 0.7 < city[0]
    assert abs(field[1] - field[0]) < 0.1


def test_a_path_stronger_than_one_bounce_does_not_speak_for_two():
    one, more = LossDistribution(7.5, 2.0), LossDistribution(15.0, 9.0)
    ratio = plausibility._loss_log_ratio(np.array([5.5, 0.0, -20.0, np.nan]), one, more)
    assert_allclose(ratio[:3], ratio[0])
    assert ratio[0] > 0 and ratio[3] == 0


def test_unlocated_paths_obey_the_law_of_vertical_walls_or_not():
    """Paths unfolded over vertical walls pass; raised by more than three deviations they do not."""
    case = random_case(4, n_unlocated=6)
    fit, receiver = case.fit(), case.problem.receiver
    scene, user = fit.scene, fit.paths.user[fit.paths.is_unlocated]
    unlocated = scene.unlocated_m.copy()
    length = unlocated[:, 0] - scene.offsets_m[user]
    rise = (scene.users_m[user, 2] - receiver.bs_position_m[2]) / length
    side = np.linspace(-0.3, 0.3, len(unlocated))
    direction = np.column_stack([np.sqrt(1 - rise**2 - side**2), side, rise])
    unlocated[:, 1:] = np.stack(receiver.array.direction_cosines(direction), axis=1)
    lawful = replace(fit, scene=replace(scene, unlocated_m=unlocated))
    covariance = np.zeros((scene.n_parameters, scene.n_parameters))
    in_front = direction @ receiver.array.axes[0] > 0
    assert in_front.any()
    assert_allclose(unlocated_wall_reflections(lawful, covariance), in_front)
    # 3 degrees off, which a spread of one degree in elevation explains and of a tenth does not
    vertical = receiver.array.axes[2]
    off = direction + np.deg2rad(2.0) * np.array([0.0, 0.0, 1.0])
    off /= np.linalg.norm(off, axis=1, keepdims=True)
    unlocated[:, 1:] = np.stack(receiver.array.direction_cosines(off), axis=1)
    raised = replace(fit, scene=replace(scene, unlocated_m=unlocated))
    block = scene.blocks()[3]
    for std, expected in ((np.deg2rad(0.1), False), (np.deg2rad(1.5), True)):
        wide = covariance.copy()
        index = block.start + 3 * np.arange(len(unlocated)) + 2
        wide[index, index] = (std * vertical[2]) ** 2
        found = unlocated_wall_reflections(raised, wide)
        assert np.all(found[in_front] == expected)


@pytest.mark.parametrize("unknown", range(5))
def test_slopes_of_the_law_for_unlocated_paths(unknown):
    """A spread in each unknown widens the gate by its finite difference."""
    case = random_case(5, n_unlocated=3)
    fit = case.fit()
    scene, receiver = fit.scene, case.problem.receiver
    user = fit.paths.user[fit.paths.is_unlocated]
    blocks = scene.blocks()
    index = [blocks[3].start, blocks[3].start + 1, blocks[3].start + 2]
    index += [blocks[2].start + user[0], blocks[1].start + 3 * user[0] + 2]

    def error(vector):
        moved = scene.with_vector(vector)
        u = moved.unlocated_m[0, 1:]
        height = receiver.array.axes[:, 2] @ np.array([np.sqrt(1 - u @ u), *u])
        length = moved.unlocated_m[0, 0] - moved.offsets_m[user[0]]
        return height * length - (moved.users_m[user[0], 2] - receiver.bs_position_m[2])

    vector, step = scene.vector(), 1e-6
    ahead, back = vector.copy(), vector.copy()
    ahead[index[unknown]] += step
    back[index[unknown]] -= step
    slope = (error(ahead) - error(back)) / (2 * step)
    assert abs(slope) > 1e-3
    gate = abs(error(vector)) / 3 / abs(slope)  # spread at which the path just passes
    slack = 0.03 * case.problem.length_cell_m / abs(slope)
    for factor, expected in ((0.97, False), (1.03, True)):
        covariance = np.zeros((vector.size, vector.size))
        covariance[index[unknown], index[unknown]] = (factor * gate) ** 2 - slack**2
        assert unlocated_wall_reflections(fit, covariance)[0] == expected
