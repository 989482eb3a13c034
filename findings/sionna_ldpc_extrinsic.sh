#!/usr/bin/env bash
# Sionna PHY: the difference between what an LDPC decoder says and what it was told, the textbook's extrinsic LLR,
# has the wrong sign for bits that were sure already.
#
# A code word without errors, told with LLRs of magnitude 40: the decoder clips at its default llr_max = 20 and
# says 20, so the difference is -20 times the sign, "the code contradicts all bits". A receiver that iterates with
# the decoder then destroys what it knew. Told with 10 (half of llr_max) the difference has the right sign.
# Exits with an error once that has changed. Needs a network for the packages alone.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet sionna-no-rt==2.2.0 torch==2.13.0
"$folder/venv/bin/python" - <<'PYTHON'
import sionna.phy
import torch
from sionna.phy.fec.ldpc import LDPC5GDecoder, LDPC5GEncoder

torch.manual_seed(0)
encoder = LDPC5GEncoder(500, 1000)
decoder = LDPC5GDecoder(encoder, hard_out=False, return_infobits=False)
bits = encoder(torch.randint(0, 2, (1, 500)).float())
sign = 2 * bits - 1
print("sionna", sionna.phy.__version__ if hasattr(sionna.phy, "__version__") else sionna.__version__)
agreeing = {}
for size in (10.0, 40.0):
    told = size * sign
    extrinsic = decoder(told) - told
    agreeing[size] = float((extrinsic * sign > 0).float().mean())
    print(f"told {size:g}: says up to {float(decoder(told).abs().max()):g}, "
          f"difference agrees with {agreeing[size]:.0%} of the true bits")
assert agreeing[10.0] > 0.99 and agreeing[40.0] < 0.01, "the behaviour has changed"
PYTHON
