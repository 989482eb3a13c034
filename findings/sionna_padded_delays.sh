#!/usr/bin/env bash
# Sionna PHY: with a line of sight, paths that only fill up arrays of UMi and UMa channels have delays of seconds.
#
# The power of these paths is zero, so channels are right; but the longest delay, from which one would choose the
# taps of a time-domain channel or the window of a search, is 2 to 3 s instead of some microseconds.
# Exits with an error once that has changed. Needs a network for the packages alone.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet sionna-no-rt==2.2.0 torch==2.13.0
"$folder/venv/bin/python" - <<'PYTHON'
import sionna
import torch
from sionna.phy import config
from sionna.phy.channel import gen_single_sector_topology
from sionna.phy.channel.tr38901 import PanelArray, UMi

config.seed = 1
array = PanelArray(
    num_rows_per_panel=1, num_cols_per_panel=1, polarization="single", polarization_type="V",
    antenna_pattern="omni", carrier_frequency=3.5e9,
)
model = UMi(carrier_frequency=3.5e9, o2i_model="low", ut_array=array, bs_array=array, direction="uplink")
topology = gen_single_sector_topology(1, 4, "umi", indoor_probability=0.0)
model.set_topology(*topology, los=True)
a, tau = model(1, 1.0)
power = (a.abs() ** 2).sum(dim=(2, 4, 6))[0, 0]
delays = tau[0, 0]
late = delays > 1e-3
print("sionna", sionna.__version__)
print(f"longest delay {float(delays.max()):.3g} s; paths later than a millisecond: {int(late.sum())} of {late.numel()},",
      f"with {float(power[late].sum() / power.sum()):.2g} of the power; latest other {float(delays[~late].max()):.3g} s")
assert bool(late.any()) and float(power[late].sum()) == 0.0, "the behaviour has changed"
PYTHON
