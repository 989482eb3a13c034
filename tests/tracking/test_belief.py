"""Filter and smoother against one joint Gaussian of all blocks."""

from __future__ import annotations

import numpy as np
import pytest

from isac_toolbox.tracking.belief import Belief, smoothed


def _covariance(rng: np.random.Generator, size: int) -> np.ndarray:
    root = rng.normal(size=(size, size))
    return root @ root.T + 0.1 * np.eye(size)


def _information(rng: np.random.Generator, size: int, rank: int) -> tuple[np.ndarray, np.ndarray]:
    root = rng.normal(size=(size, rank))
    return root @ root.T, root @ rng.normal(size=rank)


def test_information_is_added_in_any_rank():
    rng = np.random.default_rng(0)
    prior = Belief(rng.normal(size=5), _covariance(rng, 5))
    matrix, vector = _information(rng, 3, 2)
    index = np.array([4, 0, 2])
    after = prior.informed(matrix, vector, index)
    total, pull = np.linalg.inv(prior.covariance), np.linalg.solve(prior.covariance, prior.mean)
    total[np.ix_(index, index)] += matrix
    pull[index] += vector
    np.testing.assert_allclose(after.covariance, np.linalg.inv(total), atol=1e-10)
    np.testing.assert_allclose(after.mean, np.linalg.solve(total, pull), atol=1e-10)


def test_what_is_known_stays():
    rng = np.random.default_rng(1)
    prior = Belief.independent(np.array([1.0, 2.0, 3.0]), np.array([0.0, 1.0, 2.0]))
    matrix, vector = _information(rng, 3, 3)
    after = prior.informed(matrix, vector, np.arange(3))
    assert after.mean[0] == 1.0 and after.std[0] == 0.0
    assert np.all(after.std[1:] < prior.std[1:])


def test_units_far_apart_do_no_harm():
    prior = Belief.independent(np.array([0.0, 0.0]), np.array([1e-6, 1e6]))
    after = prior.informed(np.diag([1e12, 1e-12]), np.array([1e6, 1e-6]), np.arange(2))
    np.testing.assert_allclose(after.std, np.array([1e-6, 1e6]) / np.sqrt(2))
    np.testing.assert_allclose(after.mean, np.array([5e-7, 5e5]))


def test_joined_and_taken_are_inverse():
    rng = np.random.default_rng(2)
    first, second = (Belief(rng.normal(size=n), _covariance(rng, n)) for n in (2, 3))
    both = first.joined(second)
    for part, index in ((first, np.arange(2)), (second, 2 + np.arange(3))):
        np.testing.assert_array_equal(both.taken(index).mean, part.mean)
        np.testing.assert_array_equal(both.taken(index).covariance, part.covariance)
    assert not both.covariance[:2, 2:].any()


@pytest.mark.parametrize("known", [False, True])
def test_filter_and_smoother_are_the_joint_posterior_of_all_blocks(known):
    """Three entries over four blocks; the third is forgotten after the second block."""
    rng = np.random.default_rng(3)
    n, n_blocks, kept = 3, 4, np.array([0, 1])
    start = Belief(rng.normal(size=n), _covariance(rng, n))
    if known:
        start.covariance[1], start.covariance[:, 1] = 0.0, 0.0
    sizes = [3, 3, 2, 2]
    steps = [(np.eye(n) + 0.3 * rng.normal(size=(n, n)), 0.1 * _covariance(rng, n)) for _ in range(3)]
    told = [_information(rng, size, 1) for size in sizes]

    filtered, predictions = [start.informed(*told[0], np.arange(3))], []
    for b in range(1, n_blocks):
        size = sizes[b - 1]
        transition, noise = (part[:size, :size] for part in steps[b - 1])
        predictions.append((transition, filtered[-1].predicted(transition, noise)))
        ahead = predictions[-1][1]
        if b == 2:
            ahead = ahead.taken(kept)
        filtered.append(ahead.informed(*told[b], np.arange(sizes[b])))

    later = [filtered[-1]]
    for b in range(n_blocks - 2, -1, -1):
        transition, ahead = predictions[b]
        later.insert(0, smoothed(filtered[b], transition, ahead, later[0], np.arange(sizes[b + 1])))

    # all blocks' entries as linear functions of the start and of the noises
    sources = [start.covariance, steps[0][1], steps[1][1], steps[2][1][:2, :2]]
    edges = np.cumsum([0, 3, 3, 3, 2])
    maps = [np.zeros((3, edges[-1]))]
    maps[0][:, :3] = np.eye(3)
    means = [start.mean]
    for b in range(1, n_blocks):
        size = sizes[b - 1]
        transition = steps[b - 1][0][:size, :size]
        ahead = transition @ maps[-1]
        ahead[:, edges[b] : edges[b + 1]] += np.eye(size)
        mean = transition @ means[-1]
        maps.append(ahead[kept] if b == 2 else ahead)
        means.append(mean[kept] if b == 2 else mean)
    covariance = np.zeros((edges[-1],) * 2)
    for i, part in enumerate(sources):
        covariance[edges[i] : edges[i + 1], edges[i] : edges[i + 1]] = part
    matrix = sum(m.T @ J @ m for m, (J, _) in zip(maps, told, strict=True))
    pull = sum(m.T @ (v - J @ x) for m, (J, v), x in zip(maps, told, means, strict=True))
    posterior = covariance @ np.linalg.inv(np.eye(edges[-1]) + matrix @ covariance)
    for b in range(n_blocks):
        np.testing.assert_allclose(later[b].mean, means[b] + maps[b] @ posterior @ pull, atol=1e-8)
        np.testing.assert_allclose(later[b].covariance, maps[b] @ posterior @ maps[b].T, atol=1e-8)
