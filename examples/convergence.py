"""
Convergence to the bound
========================

A callback is called with the loop after every iteration, and stops it by returning a true value. Here it
records the channel error, which only a simulation can know.
"""

import isac_toolbox as isac
from isac_toolbox import plotting

sim = isac.Scenario.load("urban_uplink").simulate(seed=0)
errors_db = []


def watch(loop):
    errors_db.append(isac.metrics.channel_nmse_db(loop.channel(), sim.truth.channel))


res = isac.EMTurboBiSVBI().estimate(sim.observation, callback=watch)
bound = isac.bounds.hybrid_crb(sim)
fig, ax = plotting.convergence(res, bound_db=bound.channel_nmse_db, nmse_db=errors_db)

# %%
# The first iterations use the pilots alone (``burn_in``); then soft decisions on the data join them.
print(res.status, "after", res.n_iter, "iterations")
