#!/usr/bin/env bash
# Sionna PHY: linear interpolation of LS estimates counts subcarriers, not frequencies, across a nulled DC carrier.
#
# One user, noise-free, a channel that is linear in frequency over the few tones around DC, pilots on every second
# effective subcarrier. Across the gap of the nulled carrier the neighbours are three steps apart, and the point
# between them is not in the middle: linear interpolation over frequency is exact there, Sionna's is not.
# Exits with an error once that has changed. Needs a network for the packages alone.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet sionna-no-rt==2.2.0 torch==2.13.0
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
import sionna
import torch
from sionna.phy.ofdm import LSChannelEstimator, ResourceGrid

grid = ResourceGrid(
    1, 48, 30e3, num_tx=2, num_guard_carriers=(3, 2), dc_null=True, pilot_pattern="kronecker",
    pilot_ofdm_symbol_indices=[0],
)
offset = grid.effective_subcarrier_ind - 24  # of every used subcarrier from the carrier
channel = 1 + 0.01 * offset  # linear in frequency
pilots = np.zeros((2, offset.size), complex)
mask = grid.pilot_pattern.mask.numpy()[:, 0, 0].astype(bool)
for k in range(2):
    pilots[k, mask[k]] = grid.pilot_pattern.pilots.numpy()[k, 0]
y = np.zeros((1, 1, 1, 1, 48), complex)
y[..., grid.effective_subcarrier_ind] = channel * pilots.sum(axis=0)
h_hat, _ = LSChannelEstimator(grid, interpolation_type="lin")(
    torch.as_tensor(y, dtype=torch.complex64), torch.tensor(0.0)
)
error = np.abs(h_hat.numpy()[0, 0, 0, 0, 0, 0] - channel)
inside = slice(2, -2)
worst = int(np.argmax(error[inside])) + 2
print("sionna", sionna.__version__)
print(f"largest error {error[inside].max():.5f} at {offset[worst]:+d} subcarriers from DC,",
      f"elsewhere {np.delete(error, worst)[inside].max():.6f}")
assert abs(offset[worst]) <= 2 and error[worst] > 1e-3, "the behaviour has changed"
PYTHON
