"""What engine, counts and a budget of MACs cost beside a training step, for ResNet-18 on 3 x 32 x 32.

CPU seconds of one thread (which other processes change little), the smallest of three; a step is
forward, backward and Adam on 128 images. Also the bytes per weight of what a fit keeps beside weights and
optimiser.

Run: python benchmarks/nn/engine_cost.py > benchmarks/nn/engine_cost.txt
"""

import time

import torch
from torch.nn import functional as F

from isac_toolbox.nn import TurboVBICompressor, count_macs
from isac_toolbox.nn.models import resnet18

WIDTHS = (16, 32, 64)
SHAPE, BATCH, REPEATS = (3, 32, 32), 128, 3


def seconds(function, repeats=REPEATS):
    """Return the smallest CPU time of some calls."""
    found = []
    for _ in range(repeats):
        start = time.process_time()
        function()
        found.append(time.process_time() - start)
    return min(found)


def training_step(width):
    """Return a function that takes one step."""
    model = resnet18(width, SHAPE[0])
    x, y = torch.randn(BATCH, *SHAPE), torch.randint(0, 10, (BATCH,))
    optimiser = torch.optim.Adam(model.parameters(), fused=True)

    def step():
        optimiser.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimiser.step()

    return step


def compressor_with_support(width):
    """Return a compressor whose averages, log-odds and masks are random."""
    compressor = TurboVBICompressor(resnet18(width, SHAPE[0]), warmup_epochs=0)
    compressor.input_shape = compressor.example = SHAPE  # as after a fit
    for name, layer in compressor.layers.items():
        compressor.curvatures[name].add(torch.randn(layer.mask.shape), torch.rand(layer.mask.shape))
        layer.mask.copy_(torch.rand(layer.mask.shape) < 0.3)
    return compressor


def bytes_per_weight(compressor):
    """Return the bytes of priors, averages, precisions, variances and masks per weight."""
    total = sum(prior.n_bytes for prior in compressor.priors.values())  # with the precisions
    tensors = []
    for average in compressor.curvatures.values():
        tensors += [average.gradient, average.curvature]
    for layer in compressor.layers.values():
        tensors += [layer.variance, layer.mask]
    total += sum(t.numel() * t.element_size() for t in tensors)
    return total / sum(layer.mask.numel() for layer in compressor.layers.values())


def row(width):
    """Return the figures of a width."""
    step = seconds(training_step(width))
    compressor = compressor_with_support(width)
    support = {name: layer.mask.clone() for name, layer in compressor.layers.items()}
    n_weights = sum(mask.numel() for mask in support.values())
    trace = seconds(lambda: compressor.channels, 1)
    update = seconds(lambda: compressor._update_priors(0.1, 50_000))
    connected = seconds(lambda: compressor._n_connected(support))
    budget = sum(count_macs(compressor.original, SHAPE).values()) // 3
    compressor.history = [None]  # as after a fit
    compressor._set_masked(True)
    macs = seconds(lambda: compressor.keep_macs_at_most(budget), 1)
    ratios = "  ".join(f"{value:6.2f} {value / step:9.2f} " for value in (update, connected, macs))
    return f"{width:5d} {n_weights:9d} {step:6.2f} {trace:6.2f} {ratios} {bytes_per_weight(compressor):8.1f}"


def main():
    torch.manual_seed(0)
    torch.set_num_threads(1)
    print("width   weights   step  trace  update  of a step  connected  of a step  macs  of a step  bytes")
    for width in WIDTHS:
        print(row(width), flush=True)


if __name__ == "__main__":
    main()
