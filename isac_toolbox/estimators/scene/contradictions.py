"""What a finished scene says against its priors: users far from their places, paths from elsewhere.

docs/theory.md, section 7.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtrc

from isac_toolbox.channel.atoms.scene import ScenePrior
from isac_toolbox.estimators.scene.clocks import users_without_clock
from isac_toolbox.estimators.scene.fit import Fit

__all__ = ["contradictions", "prior_chi_square"]

RealArray = NDArray[np.float64]

# Guard: probability of a deviation from the priors as large as that seen, below which it is said.
_IMPROBABLE = 1e-4
# Mathematics: share of a prior's variance that data must take away for a direction to be compared with it.
_INFORMED = 0.05
# Guard: unlocated paths of one block, at least, before their share of the energy is said.
_MANY_UNLOCATED = 4
# Guard: that share, at least.
_MOST_ENERGY = 0.5


def contradictions(fit: Fit, covariance: RealArray) -> list[str]:
    """Return warnings about priors that a scene contradicts.

    Parameters
    ----------
    fit : Fit
        Of the paths that exist.
    covariance : ndarray, shape (P, P)
        Of its scene.
    """
    if not fit.problem.prior.has_places:
        return []
    sight, seen, _ = fit.paths.membership(len(fit.scene.users_m), len(fit.scene.points_m))
    lost = users_without_clock(fit.problem, sight, seen.sum(axis=1))
    return [
        *_unheard_users(fit),
        *_far_users(fit, covariance),
        *_lost_users(lost),
        *_paths_from_elsewhere(fit, lost),
    ]


def prior_chi_square(fit: Fit, covariance: RealArray) -> tuple[RealArray, RealArray]:
    """Return how far every user's place and clock are from their priors, and the degrees of freedom, (K,).

    A posterior mean lies ``N(0, P_0 - P_1)`` from the prior's, with the covariances before and after the
    data; directions of which the data say little do not count.
    """
    scene, prior = fit.scene, fit.problem.prior
    squared, freedom = np.zeros((2, len(scene.users_m)))
    for k in range(len(scene.users_m)):
        columns, std = _unknowns(fit, prior, k)
        if not columns.size:
            continue
        deviation = prior.deviation(scene)[columns] / std
        after = covariance[np.ix_(columns, columns)] / np.multiply.outer(std, std)
        values, vectors = np.linalg.eigh(np.eye(columns.size) - after)
        informed = values > _INFORMED
        squared[k] = np.sum((vectors.T @ deviation)[informed] ** 2 / values[informed])
        freedom[k] = np.count_nonzero(informed)
    return squared, freedom


def _unknowns(fit: Fit, prior: ScenePrior, user: int) -> tuple[NDArray[np.int64], RealArray]:
    """Columns of a user's place and clock with a prior, and the deviations of those priors."""
    _, users, offsets, _ = fit.scene.blocks()
    columns = np.append(users.start + 3 * user + np.arange(3), offsets.start + user)
    std = np.append(prior.user_stds_m[user], prior.offset_stds_m[user])
    return columns[std > 0], std[std > 0]


def _far_users(fit: Fit, covariance: RealArray) -> list[str]:
    squared, freedom = prior_chi_square(fit, covariance)
    if chdtrc(max(freedom.sum(), 1), squared.sum()) > _IMPROBABLE:
        return []
    typical = np.sqrt(squared / np.maximum(freedom, 1))
    in_words = ", ".join(f"{x:.1f}" for x in typical)
    return [
        f"user_positions_m, time_offset_std_s: users lie {in_words} standard deviations from their stated "
        "places and clocks on average; check these, the array's orientation and spacing, and the order of "
        "its elements: scatterers are displaced with them"
    ]


def _unheard_users(fit: Fit) -> list[str]:
    # Mathematics: the power of noise alone, relative to its mean, exceeds this with that probability.
    stands_out = np.abs(fit.posterior.mean) ** 2 > -np.log(_IMPROBABLE) * fit.posterior.variance
    heard = np.bincount(fit.paths.user[stands_out], minlength=len(fit.scene.users_m)) > 0
    if heard.all():
        return []
    return [
        f"received: no path of user(s) {np.flatnonzero(~heard).tolist()} stands out from the noise; their "
        "channel is the prior's, and their data are guesses; the SNR may be too low, or the pilots others"
    ]


def _lost_users(lost: NDArray[np.bool_]) -> list[str]:
    if not lost.any():
        return []
    return [
        f"time_offset_std_s: the clocks of user(s) {np.flatnonzero(lost).tolist()} are not known, as they "
        "have no line of sight, share too few scatterers with others, and their prior is wide; their paths "
        "are not located"
    ]


def _paths_from_elsewhere(fit: Fit, lost: NDArray[np.bool_]) -> list[str]:
    paths = fit.paths
    scattered = ~paths.is_line_of_sight & ~lost[paths.user]
    unlocated = paths.is_unlocated & scattered
    energy = fit.problem.user_energies[paths.user] * np.abs(fit.posterior.mean) ** 2
    share = float(energy[unlocated].sum() / max(energy[scattered].sum(), 1e-300))
    count = int(np.count_nonzero(unlocated))
    if count < _MANY_UNLOCATED or share < _MOST_ENERGY:
        return []
    return [
        f"region_m: {count} of {np.count_nonzero(scattered)} paths beside the lines of sight "
        f"({100 * share:.0f} % of their energy) fit no single bounce in the region; they may bounce more "
        "than once, or region, units, places or the array's orientation be wrong"
    ]
