"""
MUSIC over locations
====================

The coarse stage ``coarse="music"`` climbs this spectrum: at every location it asks how much of the path over
that location lies in each user's signal subspace (theory, section 7.5). A slice at the height of the
strongest scatterer:
"""

import numpy as np

import isac_toolbox as isac
from isac_toolbox import plotting
from isac_toolbox.estimators.music import music_spectrum

sim = isac.Scenario.load("urban_uplink").simulate(seed=0)
obs, truth = sim.observation, sim.truth
strongest = np.argmax(np.sum(np.abs(truth.scatterer_gain) ** 2, axis=0))
height_m = truth.scatterer_positions_m[strongest, 2]
x, y = (np.arange(obs.region_m[0, axis], obs.region_m[1, axis], 0.5) for axis in (0, 1))
points = np.stack([*np.meshgrid(x, y, indexing="ij"), np.full((x.size, y.size), height_m)], axis=-1)
spectrum = np.exp(music_spectrum(obs, points))
fig, ax = plotting.spectrum_slice(x, y, spectrum, truth_m=truth.scatterer_positions_m, height_m=height_m)

# %%
# Circles are the true scatterers of all heights, so only some lie on a peak of this slice.
