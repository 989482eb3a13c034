"""The objective that the history keeps, against the likelihood of the whole block, and what is frozen."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
from numpy.testing import assert_allclose

import isac_toolbox as isac
from helpers.scenes import SMALL, dense_atoms, random_case
from isac_toolbox.estimators.bisvbi import BiSVBILoop
from isac_toolbox.estimators.scene.working_set import marginal_objective

TINY = SMALL.replace(
    n_subcarriers=16, array_shape=(3, 3), n_scatterers=2, n_pilot_symbols=2, n_data_symbols=2, snr_db=10
)


def dense_objective(loop: BiSVBILoop) -> float:
    """Return ``y^H C^-1 y + ln det C`` of the pilots, ``C = s2 I + Phi diag(1 / rho) Phi^H``, with priors."""
    fit, block = loop.working.fit, loop.block
    problem = fit.problem
    used = np.all(block.known, axis=0)
    atoms = dense_atoms(problem.receiver, fit.scene, fit.paths)
    columns = np.einsum("lknm,knt->lntm", atoms, block.pilots)[:, used].reshape(len(fit.paths), -1).T
    y = block.received.transpose(0, 2, 1)[used].ravel()
    covariance = np.eye(y.size) / problem.noise_precision + (columns / loop.working.state.precision) @ (
        columns.conj().T
    )
    _, log_det = np.linalg.slogdet(covariance)
    scene, prior = fit.scene, problem.prior
    deviation = scene.vector() - replace(scene, users_m=prior.users_m, offsets_m=0 * scene.offsets_m).vector()
    precision = prior.precision(scene)
    penalty = 0.5 * float(np.sum(precision * deviation**2))
    return float(np.vdot(y, np.linalg.solve(covariance, y)).real) + log_det + penalty


@pytest.mark.parametrize(("coarse", "seed"), [("nomp", 0), ("music", 0), ("music", 3), ("music", 5)])
def test_every_recorded_objective_is_the_likelihood_of_the_block(coarse, seed):
    """Also right after the structure has changed, when the posterior was renewed once more."""
    settings = isac.EMTurboBiSVBI(data_aided=False, max_iter=9, coarse=coarse)
    loop = BiSVBILoop(settings, TINY.simulate(seed).observation)
    dense, counts = [], []

    def look(loop):
        dense.append(dense_objective(loop))
        counts.append(loop.working.counts[:2])

    loop.run(look)
    assert_allclose(loop.history.objective, dense, rtol=1e-7, atol=1e-4)
    assert (len(set(counts)) > 1) == (coarse == "music")  # there the structure did change


def test_the_objective_follows_the_posterior():
    """A fit whose posterior is replaced has the objective of the new one."""
    fit = random_case(0).fit()
    other = fit.under(fit.problem, 3.0 * fit.posterior.prior_precision)
    swapped = replace(fit, posterior=other.posterior)
    assert fit.objective != other.objective
    assert swapped.objective == other.objective


def test_objects_of_an_estimate_are_frozen():
    loop = BiSVBILoop(isac.EMTurboBiSVBI(max_iter=3), TINY.simulate(0).observation)
    loop.run()
    working = loop.working
    for owner, name in (
        (working, "state"),
        (working.graph, "points"),
        (working.fit, "posterior"),
        (working.problem, "noise_precision"),
        (working.problem.data, "statistics"),
        (loop.block, "received"),
    ):
        with pytest.raises(FrozenInstanceError):
            setattr(owner, name, None)


def test_an_e_step_leaves_the_old_working_set_as_it_is():
    loop = BiSVBILoop(isac.EMTurboBiSVBI(max_iter=3), TINY.simulate(1).observation)
    loop.run()
    working = loop.working
    before = (
        working.prior.slab_precision.copy(),
        working.graph.visibility.copy(),
        working.graph.points.gate,
        working.state.precision.copy(),
        marginal_objective(working),
    )
    renewed = working.e_step(4)
    assert_allclose(working.prior.slab_precision, before[0], rtol=0)
    assert_allclose(working.graph.visibility, before[1], rtol=0)
    assert working.graph.points.gate == before[2]
    assert_allclose(working.state.precision, before[3], rtol=0)
    assert marginal_objective(working) == before[4]
    assert np.any(renewed.prior.slab_precision != before[0])
