"""Moves of the structure by value: score of a tie, birth, removal, absorption."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from helpers.scenes import (
    BS_M,
    REGION_M,
    SMALL,
    Case,
    dense_atoms,
    dense_inner,
    full_information,
    random_case,
    true_problem,
    unknown,
)
from isac_toolbox.channel.atoms.dense import Measurements, Statistics
from isac_toolbox.channel.atoms.receiver import Receiver
from isac_toolbox.channel.atoms.scene import Paths, Scene, ScenePrior
from isac_toolbox.channel.geometry import unit_vectors
from isac_toolbox.estimators.scene import structure
from isac_toolbox.estimators.scene.fit import evaluate, residual_correlation
from isac_toolbox.estimators.scene.misfit import Residual, Work
from isac_toolbox.estimators.scene.problem import Problem
from isac_toolbox.estimators.scene.structure import absorb_duplicates, give_birth, remove_rejected
from isac_toolbox.estimators.scene.working_set import WorkingSet
from isac_toolbox.estimators.search import PathSearch

# --- score of a tie ----------------------------------------------------------------------------------


def dense_score(case: Case, path: int) -> float:
    """``g^T [H^-1]_dd g`` of a path's own displacement ``d``, the tied scene moving along, by brute force."""
    scene, paths = case.scene, case.paths
    sight, seen, unlocated_user = paths.membership(2, len(scene.points_m))
    user, point = paths.user[path], paths.target[path]
    alone = np.zeros((2, 1), bool)
    alone[user], seen[user, point] = True, False
    split = Scene(
        np.vstack([scene.points_m, scene.points_m[point]]), scene.users_m, scene.offsets_m, scene.unlocated_m
    )
    apart = Paths.build(sight, np.hstack([seen, alone]), unlocated_user)
    names = list(zip(paths.user, paths.target, paths.unlocated, strict=True))
    original = np.where(apart.target == len(scene.points_m), point, apart.target)
    order = [names.index(name) for name in zip(apart.user, original, apart.unlocated, strict=True)]
    other = Case(case.problem, split, apart, case.precision[order])
    fit = other.fit()
    information, _ = full_information(other, fit)
    n = 2 * len(apart)
    hessian = (
        information[n:, n:] - information[n:, :n] @ np.linalg.solve(information[:n, :n], information[:n, n:])
    ) / 2
    own = 3 * len(scene.points_m) + np.arange(3)
    extended = np.eye(split.n_parameters)  # columns: the tied scene, and in the place of the new point d
    extended[own, 3 * point + np.arange(3)] = 1.0
    hessian = extended.T @ hessian @ extended
    gradient = np.zeros(split.n_parameters)
    vector = split.vector()
    for i in own:
        step = 1e-5 * (np.arange(vector.size) == i)
        gradient[i] = (other.objective(vector + step) - other.objective(vector - step)) / 4e-5
    keep = unknown(other, split)[n:]
    inverse = np.zeros_like(hessian)
    inverse[np.ix_(keep, keep)] = np.linalg.inv(hessian[np.ix_(keep, keep)])
    return float(gradient @ inverse @ gradient)


@pytest.mark.parametrize(
    ("wavefront", "stds"),
    [("planar", (0.3, 1.5)), ("spherical", (0.3, 1.5)), ("planar", ([[0, 0, 0], [0.4, 0, 0.2]], [0, 1.0]))],
)
def test_the_score_of_a_tie_is_the_dense_one(wavefront, stds):
    case = random_case(1, wavefront, *stds, n_unlocated=1)
    scores = structure._tie_scores(case.fit())
    shared = np.flatnonzero(case.paths.target == 0)
    assert shared.size == 2
    expected = np.zeros(len(case.paths))
    expected[shared] = [dense_score(case, int(path)) for path in shared]
    assert np.all(expected[shared] > 0.05)
    np.testing.assert_allclose(scores, expected, rtol=2e-3)


# --- birth -------------------------------------------------------------------------------------------

OBSERVATION = SMALL.simulate(0).observation
SEARCH = PathSearch.for_observation(OBSERVATION)
NOISE_PRECISION = 40.0


def bare_working_set(channel: np.ndarray) -> WorkingSet:
    """Lines of sight alone, and the noise-free statistics (four symbols a user) of a channel (K, N, M)."""
    receiver = Receiver.of(OBSERVATION)
    n_users, n_sub, _ = channel.shape
    symbol_gram = np.broadcast_to(4.0 * np.eye(n_users, dtype=complex), (n_sub, n_users, n_users))
    energy = 4.0 * float(np.sum(np.abs(channel) ** 2))
    statistics = Statistics(np.array(symbol_gram), 4.0 * channel, energy, 4 * n_sub * channel.shape[2])
    prior = ScenePrior.of(OBSERVATION)
    problem = Problem(Measurements(statistics, receiver), prior, REGION_M, NOISE_PRECISION)
    scene = Scene(np.zeros((0, 3)), prior.users_m, np.zeros(n_users), np.zeros((0, 3)))
    return WorkingSet.start(problem, scene, np.zeros(0, np.int64), "extrinsic", 1.0, n_cells=768)


def bin_of(point_m: np.ndarray, user: int) -> np.ndarray:
    """Parameters of the bin of the search that is next to the path over a point."""
    receiver = Receiver.of(OBSERVATION)
    direction, to_bs = unit_vectors(receiver.bs_position_m, point_m)
    length = to_bs + np.linalg.norm(point_m - OBSERVATION.user_positions_m[user])
    near = [SEARCH.lengths_m[np.argmin(np.abs(SEARCH.lengths_m - length))]]
    for grid, cosine in zip(SEARCH.cosine_grids, receiver.array.direction_cosines(direction), strict=True):
        near.append(grid[np.argmin(np.abs(grid - cosine))])
    return np.array(near)


def channel_of(parameters: np.ndarray, user: int, gain: float) -> np.ndarray:
    receiver = Receiver.of(OBSERVATION)
    paths = Paths.build(np.zeros(2, bool), np.zeros((2, 0), bool), np.array([user]))
    scene = Scene(np.zeros((0, 3)), OBSERVATION.user_positions_m, np.zeros(2), parameters[None])
    return gain * dense_atoms(receiver, scene, paths)[0]


PLACE_M = np.array([45.0, 8.0, 12.0])


@pytest.mark.parametrize("user", [0, 1])
@pytest.mark.parametrize("rate", [1e-2, 1e-6])
@pytest.mark.parametrize(("share", "is_born"), [(0.98, False), (1.02, True)])
def test_what_is_born_exceeds_the_threshold_at_the_noise_of_the_fit(user, rate, share, is_born):
    """``|x|^2 |phi|^2 > ln(bins / P_fa) / gamma``: the quiet residual's own level would let anything in."""
    parameters = bin_of(PLACE_M, user)
    n_bins = SEARCH.lengths_m.size * np.count_nonzero(
        np.add.outer(SEARCH.cosine_grids[0] ** 2, SEARCH.cosine_grids[1] ** 2) <= (1 + 1 / 8) ** 2
    )
    unit = channel_of(parameters, user, 1.0)
    left = residual_correlation(bare_working_set(unit).fit)  # lines of sight take a little, in proportion
    power = np.abs(np.vdot(unit, left)) ** 2 / (4.0 * np.sum(np.abs(unit) ** 2))
    gain = np.sqrt(share * np.log(n_bins / rate) / NOISE_PRECISION / power)
    working = bare_working_set(gain * unit)
    born = give_birth(working, Residual.of(working, SEARCH), Work(), rate, unlocated_paths=True)
    assert (born is not None) == is_born
    if born is not None:
        assert born.counts[:2] == (1, 0)
        assert np.linalg.norm(born.fit.scene.points_m[0] - PLACE_M) < 5.0


def test_what_cannot_be_a_point_is_born_as_an_unlocated_path_or_not_at_all():
    high = bin_of(np.array([45.0, 8.0, 50.0]), 1)
    working = bare_working_set(channel_of(high, 1, 0.03))
    born = give_birth(working, Residual.of(working, SEARCH), Work(), 1e-2, unlocated_paths=True)
    assert born is not None and born.n_points == 0
    np.testing.assert_allclose(born.fit.scene.unlocated_m[0], high)
    assert born.unlocated_user[0] == 1
    assert give_birth(working, Residual.of(working, SEARCH), Work(), 1e-2, unlocated_paths=False) is None


@pytest.mark.parametrize(("room", "expected"), [(3, None), (4, 1), (7, 1), (8, 2)])
def test_births_leave_room_for_every_user_at_every_point(room, expected, monkeypatch):
    """A birth of each user brings a point that all users may see: users squared paths in all."""
    channel = sum(channel_of(bin_of(np.array(p), 0), 0, 0.05) for p in ([45, 8, 12], [60, -20, 5]))
    working = bare_working_set(channel)
    monkeypatch.setattr(structure, "_MAX_PATHS", len(working.fit.paths) + room)
    born = give_birth(working, Residual.of(working, SEARCH), Work(), 1e-2, unlocated_paths=True)
    assert (None if born is None else born.n_points) == expected


# --- removal -----------------------------------------------------------------------------------------


def started(seed: int = 0, n_unlocated: int = 2) -> WorkingSet:
    case = random_case(seed, n_unlocated=n_unlocated)
    user = case.paths.user[case.paths.is_unlocated]
    return WorkingSet.start(case.problem, case.scene, user, "extrinsic", 1.0, n_cells=100)


def with_evidence(working: WorkingSet, gates: list[float], unlocated: list[float]) -> WorkingSet:
    """A working set whose points and unlocated paths have these probabilities."""
    state, graph = working.state, working.graph
    probability = state.probability.copy()
    probability[working.fit.paths.is_unlocated] = unlocated
    ratio = np.zeros(len(probability))
    prior = (1 + len(gates)) / (1 + graph.n_cells + len(gates))
    for i, gate in enumerate(gates):
        factor = gate / (1 - gate) * (1 - prior) / prior  # of the gate, in the likelihood of one member
        if 2 * factor > 1:
            ratio[2 + 2 * i] = np.log(2 * factor - 1)
        else:
            ratio[2 + 2 * i : 4 + 2 * i] = np.log(2 * np.sqrt(factor) - 1)
    return replace(working, state=replace(state, probability=probability, log_likelihood_ratio=ratio))


def test_the_posterior_rejects_below_a_fiftieth():
    working = with_evidence(started(), [0.021, 0.019, 0.5], [0.019, 0.021])
    np.testing.assert_allclose(working.point_probability, [0.021, 0.019, 0.5])
    kept, dropped = remove_rejected(working)
    assert dropped.tolist() == [1]
    np.testing.assert_array_equal(kept.fit.scene.points_m, working.fit.scene.points_m[[0, 2]])
    np.testing.assert_array_equal(kept.fit.scene.unlocated_m, working.fit.scene.unlocated_m[[1]])
    assert kept.unlocated_user.tolist() == working.unlocated_user[[1]].tolist()
    accepted = with_evidence(started(), [0.021, 0.03, 0.5], [0.03, 0.021])
    assert remove_rejected(accepted)[0] is accepted


# --- absorption --------------------------------------------------------------------------------------


def doubled(offset_m: float) -> tuple[WorkingSet, float]:
    """A true scene in which user 0 has a second, weaker point beside its first, and their coherence."""
    problem, scene, _, _ = true_problem(1, 20.0)
    point = scene.points_m[0]
    longer = unit_vectors(BS_M, point)[0] + unit_vectors(scene.users_m[0], point)[0]
    beside = point + offset_m * longer / np.linalg.norm(longer)
    both = Scene(np.vstack([scene.points_m[0], beside]), scene.users_m, scene.offsets_m, scene.unlocated_m)
    seen = np.array([[True, True], [False, False]])
    paths = Paths.build(np.ones(2, bool), seen, np.zeros(0, np.int64))
    working = WorkingSet.start(problem, scene, np.zeros(0, np.int64), "extrinsic", 1.0, n_cells=768)
    atoms = dense_atoms(problem.receiver, both, paths)
    gram = dense_inner(atoms, problem.statistics.symbol_gram, atoms)
    coherence = np.abs(gram[2, 3]) ** 2 / (gram[2, 2].real * gram[3, 3].real)
    return working.adopt(evaluate(problem, both, paths, np.ones(4))), float(coherence)


@pytest.mark.parametrize(("above", "tried"), [(True, True), (False, False)])
def test_coherent_repetitions_are_tried(above, tried, monkeypatch):
    """A squared correlation of 0.4: on one side a duplicate goes, on the other it is not even tried."""
    tries = []

    def fewer_is_better(fit):
        tries.append(len(fit.paths))
        return fit.objective - len(fit.paths)

    monkeypatch.setattr(structure, "occam_factor", fewer_is_better)
    monkeypatch.setattr(structure, "refine", lambda fit, **_: fit)
    low, high = 0.0, 3.0
    for _ in range(25):
        offset = (low + high) / 2
        low, high = (offset, high) if doubled(offset)[1] > (0.41 if above else 0.39) else (low, offset)
    working, coherence = doubled(offset)
    assert coherence == pytest.approx(0.41 if above else 0.39, abs=1e-6)
    absorbed = absorb_duplicates(working)
    assert (absorbed is not None) == tried == bool(tries)
    if absorbed is not None:  # the stronger path stays
        np.testing.assert_array_equal(absorbed.fit.scene.points_m, working.fit.scene.points_m[:1])
