"""
One block in, the whole scene out
=================================

Three users, eight scatterers, one received block. The estimator sees the block alone; the truth is drawn
beside what it found.
"""

import numpy as np

import isac_toolbox as isac
from isac_toolbox import plotting

sim = isac.Scenario.load("urban_uplink").simulate(seed=0)
res = isac.EMTurboBiSVBI().estimate(sim.observation)
fig, axes = plotting.scene_3d(res, sim.truth, observation=sim.observation)

# %%
# Every point comes with its covariance; the bound says what could be hoped for.
bound = isac.bounds.hybrid_crb(sim)
match = isac.metrics.localisation(res.scatterer_positions_m, sim.truth.scatterer_positions_m)
stated = np.sqrt(np.trace(res.scatterer_covariance_m2, axis1=1, axis2=2))
print("point   error    stated   bound (m)")
for error, i, j in zip(match.distances_m, match.estimate_index, match.truth_index):
    print(f"{i + 1:5}   {error:.3f}    {stated[i]:.3f}    {bound.position_rmse_m[j]:.3f}")
