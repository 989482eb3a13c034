"""Random masks on networks of many kinds: how far smaller and simplified networks are from the masked ones.

Run: python benchmarks/nn/fuzz_export.py [cases] > benchmarks/nn/fuzz_export.txt
"""

import sys
import warnings
from copy import deepcopy
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from helpers.families import FAMILIES, draw
from isac_toolbox.nn import shrink
from isac_toolbox.nn.export.shrink import Channels, simplify

CASES = 60


def outputs(model, x):
    """Return the outputs; dropout that is always on draws alike."""
    torch.manual_seed(0)
    with torch.no_grad():
        return model(x)


def gap(model, x, wanted):
    """Return the largest difference of an output."""
    return float((outputs(model, x) - wanted).abs().max())


def weights(model):
    """Return the number of parameters."""
    return sum(p.numel() for p in model.parameters())


def row(family, cases):
    """Return the figures of a family: worst differences, networks made smaller, removals refused."""
    worst, simplified, smaller, refused, before, after = 0.0, 0.0, 0, 0, 0, 0
    for seed in range(cases):
        model, x = draw(family, 1000 + seed)
        wanted = outputs(model, x)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            small = shrink(model, x)
            same = simplify(deepcopy(model), x, channels=Channels(model, x))
        worst, simplified = max(worst, gap(small, x, wanted)), max(simplified, gap(same, x, wanted))
        smaller += weights(small) < weights(model)
        refused += any("stay, because" in str(w.message) for w in caught)
        before, after = before + weights(model), after + weights(small)
    return worst, simplified, smaller, refused, after / before


def main():
    cases = int(sys.argv[1]) if len(sys.argv) > 1 else CASES
    torch.set_num_threads(1)
    print(f"{cases} cases a family; largest difference to the masked network, single precision")
    print("family               shrunk  simplified  smaller  refused  parameters left")
    total = 0.0
    for family in FAMILIES:
        worst, simplified, smaller, refused, left = row(family, cases)
        total = max(total, worst, simplified)
        print(
            f"{family:18s} {worst:8.1e} {simplified:11.1e} {smaller:8d} {refused:8d} {left:16.2f}", flush=True
        )
    print(f"largest of all: {total:.1e}")


if __name__ == "__main__":
    main()
