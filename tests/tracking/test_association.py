"""Assignment of reports to tracks, and probabilities of existence."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from isac_toolbox.tracking.association import (
    associated,
    existence_if_found,
    existence_if_missed,
    log_density,
)


def _spreads(rng: np.random.Generator, n: int) -> np.ndarray:
    root = rng.normal(size=(n, 3, 3))
    return root @ root.transpose(0, 2, 1) + 10 * np.eye(3)


@pytest.mark.parametrize("seed", range(5))
def test_the_assignment_is_the_likeliest_of_all(seed):
    rng = np.random.default_rng(seed)
    tracks, reports = rng.normal(size=(4, 3)), rng.normal(size=(4, 3))
    of_tracks, of_reports = _spreads(rng, 4), _spreads(rng, 4)

    def cost(order):
        return -sum(
            log_density(reports[s] - tracks[b], of_tracks[b] + of_reports[s]) for b, s in enumerate(order)
        )

    best = min(permutations(range(4)), key=cost)
    np.testing.assert_array_equal(associated(tracks, of_tracks, reports, of_reports), best)


def test_what_is_outside_the_gate_is_nobodys():
    unit = np.tile(0.5 * np.eye(3), (2, 1, 1))
    tracks, reports = np.array([[0.0, 0, 0], [9, 0, 0]]), np.array([[15.0, 0, 0], [0.5, 0, 0]])
    np.testing.assert_array_equal(associated(tracks, unit, reports, unit), [1, -1])


def test_without_tracks_or_reports_there_is_nothing():
    nothing, none = np.zeros((0, 3)), np.zeros((0, 3, 3))
    one, unit = np.zeros((1, 3)), np.eye(3)[None]
    assert associated(nothing, none, one, unit).size == 0
    np.testing.assert_array_equal(associated(one, unit, nothing, none), [-1])


def test_log_density_integrates_to_one():
    covariance = np.array([[0.5, 0.2], [0.2, 0.3]])
    axis = np.linspace(-5, 5, 201)
    total = sum(np.exp(log_density(np.array([x, y]), covariance)) for x in axis for y in axis)
    assert total * (axis[1] - axis[0]) ** 2 == pytest.approx(1, abs=1e-6)


def test_existence_is_bayes_rule():
    prior, detection, density, clutter = 0.6, 0.9, 0.03, 0.001
    found, missed = prior * detection * density, prior * (1 - detection)
    assert existence_if_found(prior, detection, np.log(density), clutter) == pytest.approx(
        found / (found + (1 - prior) * clutter)
    )
    assert existence_if_missed(prior, detection) == pytest.approx(missed / (missed + 1 - prior))


def test_extreme_evidence_is_no_number_trouble():
    assert existence_if_found(1.0, 0.9, -1e6, 1e-5) == 1
    assert existence_if_found(0.5, 0.9, 1e6, 1e-5) == pytest.approx(1)
    assert existence_if_found(0.5, 0.0, -1e6, 1e-5) == pytest.approx(0)
    assert existence_if_missed(0.5, 0.0) == 0.5
