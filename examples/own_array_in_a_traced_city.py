"""
An array of your own in a ray-traced street
===========================================

A scenario takes any planar array, and an environment may come from a ray tracer as an npz file
(:func:`~isac_toolbox.channel.load_traced` lists the keys). Here it is one of the shipped files, by its path.
"""

from importlib.resources import files

import isac_toolbox as isac
from isac_toolbox import plotting

street = isac.load_traced(files("isac_toolbox") / "data" / "traced" / "street_canyon.npz")
print(f"{street.n_users} users, {len(street.scatterer_positions_m)} single-bounce points")

scenario = isac.Scenario.load("traced_street_canyon").replace(
    array_shape=(12, 6), spacing_wavelengths=0.6, elevation_rad=-0.1, snr_db=20
)
sim = scenario.simulate(seed=1, environment=street, users=[0, 5, 11, 17])
res = isac.EMTurboBiSVBI().estimate(sim.observation)
fig, axes = plotting.scene_3d(res, sim.truth, observation=sim.observation)

# %%
# Not every true point can be seen: many paths are weaker than the noise, and neighbours lie within one
# resolution cell. The bound says which are within reach. What no single bounce explains stays in the channel
# as unlocated paths.
bound = isac.bounds.hybrid_crb(sim)
found = isac.metrics.localisation(res.scatterer_positions_m, sim.truth.scatterer_positions_m)
nmse_db = isac.metrics.channel_nmse_db(res.channel, sim.truth.channel)
print(f"{len(res.scatterer_positions_m)} points reported, {found.hits} within 2 m of a true one")
print(f"{(bound.position_rmse_m < 0.7).sum()} true points with a bound below 0.7 m")
print(f"{len(res.unlocated_paths)} unlocated paths")
print(f"channel NMSE {nmse_db:.1f} dB, bound {bound.channel_nmse_db:.1f} dB")
