"""Density at which the sparse product of a Linear layer beats the dense one, forward and backward.

python benchmarks/nn/ssvi_crossover.py [--shapes 300x784,2048x784,2048x2048] [--batch 128] [--step]

`dense` scatters the active weights into the whole matrix and multiplies (what a layer does above the
crossover), `numba` is isac_toolbox.nn.ssvi.sparse_linear, `torch` the CSR product of torch. `--step` times
whole training steps of an MLP 784-2048-2048-10 at density 0.02 against dense variational inference.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from isac_toolbox.nn.ssvi.sparse_linear import compressed_rows, sparse_linear

DENSITIES = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5)


def milliseconds(call: Callable[[], object], repeats: int) -> float:
    """Median time."""
    call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times)


class Case:
    """One layer, one batch, one density."""

    def __init__(self, shape: tuple[int, int], batch: int, density: float) -> None:
        generator = torch.Generator().manual_seed(0)
        self.shape, n = shape, shape[0] * shape[1]
        self.index = torch.randperm(n, generator=generator)[: max(round(density * n), 1)].sort().values
        self.values = torch.randn(self.index.numel(), generator=generator, requires_grad=True)
        self.x = torch.randn((batch, shape[1]), generator=generator, requires_grad=True)
        self.slope = torch.randn((batch, shape[0]), generator=generator)
        self.starts, self.columns = compressed_rows(self.index, *shape)

    def backward(self, y: Tensor) -> None:
        """Gradients of input and weights."""
        self.x.grad = self.values.grad = None
        y.backward(self.slope)

    def dense(self) -> None:
        """Masked dense product."""
        whole = self.values.new_zeros(self.shape[0] * self.shape[1]).scatter(0, self.index, self.values)
        self.backward(torch.nn.functional.linear(self.x, whole.reshape(self.shape)))

    def numba(self) -> None:
        """Product of the layer."""
        self.backward(sparse_linear(self.x, self.values, self.starts, self.columns))

    def torch(self) -> None:
        """CSR products of torch, with its sampled product for the weights."""
        starts, columns, values = self.starts, self.columns, self.values.detach()
        matrix = torch.sparse_csr_tensor(starts, columns, values, self.shape)
        turned = self.slope.t().contiguous()
        wide = self.x.detach().t().contiguous()
        matrix @ wide
        torch.sparse.sampled_addmm(matrix, turned, self.x.detach(), beta=0.0)
        matrix.transpose(0, 1) @ turned


def crossover(shape: tuple[int, int], batch: int, repeats: int) -> tuple[Table, float]:
    """Times by density, and the density where the times of `numba` and `dense` meet."""
    table = Table(title=f"{shape[1]} -> {shape[0]}, batch {batch}, ms forward and backward")
    for head in ("density", "dense", "numba", "torch", "dense / numba"):
        table.add_column(head, justify="right")
    found, before = 0.0, None
    for density in DENSITIES:
        case = Case(shape, batch, density)
        dense, numba, csr = (milliseconds(f, repeats) for f in (case.dense, case.numba, case.torch))
        gain = dense / numba
        table.add_row(*(f"{v:.3g}" for v in (density, dense, numba, csr, gain)))
        if gain >= 1.0:
            found = density
        elif before is not None and before[1] >= 1.0:  # between the two, in the logarithm of the gain
            low, high = torch.tensor([before[1], gain]).log().tolist()
            found = before[0] + (density - before[0]) * low / (low - high)
            break
        before = (density, gain)
    return table, found


def step_times(repeats: int) -> Table:
    """Training steps of the wide MLP."""
    from isac_toolbox.nn import models
    from isac_toolbox.nn.ssvi import SSVI
    from isac_toolbox.nn.ssvi.baselines import DenseVI

    torch.manual_seed(0)
    net = models.mlp(784, (2048, 2048), 10)
    x, y = torch.rand(128, 784), torch.randint(10, (128,))
    table = Table(title="784-2048-2048-10, batch 128, one step, ms")
    for head in ("method", "ms", "times faster", "state, MB"):
        table.add_column(head, justify="right")
    reference = 0.0
    settings = {"update_interval": 10**9, "layer_density": "erk"}
    for name, make in (
        ("dense VI", lambda: DenseVI(net)),
        ("SSVI 0.02, masked dense", lambda: SSVI(net, 0.02, sparse_below=0.0, **settings)),
        ("SSVI 0.02", lambda: SSVI(net, 0.02, **settings)),
    ):
        fitted = make()
        fitted._set_sampling(0)
        time_ms = milliseconds(lambda fitted=fitted: fitted._step(x, y, 1e-6, 1000), repeats)
        reference = reference or time_ms
        state = fitted.training_state_bytes()["total"] / 1e6
        table.add_row(name, f"{time_ms:.1f}", f"{reference / time_ms:.1f}", f"{state:.1f}")
    return table


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shapes", default="300x784,2048x784,2048x2048")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--step", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.filterwarnings("ignore", message=".*[Ss]parse.*")  # torch calls its CSR tensors a beta
    console = Console(width=100)
    if options.step:
        console.print(step_times(options.repeats))
        return
    for text in options.shapes.split(","):
        rows, columns = (int(part) for part in text.split("x"))
        table, density = crossover((rows, columns), options.batch, options.repeats)
        console.print(table)
        console.print(f"crossover density {density:.3f}\n")


if __name__ == "__main__":
    main()
