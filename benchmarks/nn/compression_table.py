"""Table of the runs of `compression.py`, and times of the exported networks."""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch
from compression_plans import METHODS, PLANS
from results import spread
from rich.console import Console
from rich.table import Table
from torch import nn

from isac_toolbox.nn import models

FOOTNOTE = """\
Mean ± standard deviation over seeds. Weights and MACs: part of the dense network's. Run length / CSR: bits of
all weights, values of 32 bits (in brackets 16), CSR with the narrowest indices or with int32. Faster: the
exported module against dense, batch of 256, one thread, medians taken in turns (`--time`), in the format in
which dense is fastest (convolutions: channels_last; in brackets PyTorch's default format)."""


def print_table(lines: list[dict[str, Any]]) -> None:
    """Mean and standard deviation over the seeds."""
    console = Console(width=300)
    for network in PLANS:
        table = Table(title=f"{network} on Fashion-MNIST, {PLANS[network].epochs} epochs each")
        heads = (
            "point",
            "method",
            "seeds",
            "test accuracy",
            "points below dense",
            "weights",
            "MACs, exported",
        )
        structure = ("neurons, first layer", "mean run, first layer")
        for head in (*heads, *structure, "run length / CSR", "run length / int32 CSR", "times faster"):
            table.add_column(head, no_wrap=True)
        chosen = [line for line in lines if line["network"] == network]
        dense = {line["seed"]: line["test_accuracy"] for line in chosen if line["method"] == "dense"}
        for point in ("", *PLANS[network].points):
            for method in METHODS:
                group = [x for x in chosen if x["method"] == method and x["point"] == point]
                if group:
                    table.add_row(point, method, str(len(group)), *_columns(group, dense))
        console.print(table)
    console.print(FOOTNOTE)


def _columns(group: list[dict[str, Any]], dense: dict[int, float]) -> list[str]:
    """Cells of one method at one point."""
    cells = [spread([100 * x["test_accuracy"] for x in group], "{:.2f}")]
    losses = [100 * (dense[x["seed"]] - x["test_accuracy"]) for x in group if x["seed"] in dense]
    if "layers" not in group[0]:
        return [*cells, "", "1", "1"]
    cells.append(spread(losses, "{:.2f}"))
    cells.append("1/" + spread([x["compression"] for x in group], "{:.1f}"))
    cells.append("1/" + spread([x["macs_dense"] / x["macs"] for x in group], "{:.1f}"))
    cells.append(spread([x["layers"][0]["neurons_kept"] for x in group], "{:.0f}"))
    cells.append(spread([x["layers"][0]["mean_run"] for x in group], "{:.1f}"))
    for other in ("csr", "csr_int32"):
        full, half = ([coding_ratio(x, other, bits) for x in group] for bits in (32, 16))
        cells.append(f"{spread(full, '{:.2f}')} ({spread(half, '{:.2f}')})")
    timed = [x for x in group if "small_ms" in x]
    faster = [
        spread([x[f"dense{k}_ms"] / x[f"small{k}_ms"] for x in timed if f"small{k}_ms" in x], "{:.1f}")
        for k in ("", "_default")
    ]
    return [*cells, faster[0] + (f" ({faster[1]})" if faster[1] else "")]


def coding_ratio(line: dict[str, Any], other: str, value_bits: int) -> float:
    """Bits as run lengths over those of a coding, with values of another width than the line's 32 bits."""
    saved = sum(layer["n_kept"] for layer in line["layers"]) * (32 - value_bits)
    coded = {k: sum(layer["bits"][k] for layer in line["layers"]) - saved for k in ("run_length", other)}
    return coded["run_length"] / coded[other]


def measure_times(lines: list[dict[str, Any]]) -> None:
    """Add the time of the exported network, and that of the dense one in turns with it, to every line.

    A time depends on the shapes alone, so that all can be measured together, on an idle machine.
    """
    for line in lines:
        if "layers" not in line:
            continue
        widths = [[layer[key] for layer in line["layers"]] for key in ("neurons", "neurons_kept")]
        nets = [_network_of(line["network"], w) for w in widths]
        if line["network"] == "lenet-5":
            line["dense_default_ms"], line["small_default_ms"] = _milliseconds(*nets)
            nets = [net.to(memory_format=torch.channels_last) for net in nets]
        line["dense_ms"], line["small_ms"] = _milliseconds(*nets)


def _network_of(network: str, widths: list[int]) -> nn.Module:
    if network == "lenet-300-100":
        return models.mlp(784, widths[:2], 10)
    return models.lenet_5(widths=tuple(widths[:3]))


def _milliseconds(*nets: nn.Module, repeats: int = 30) -> list[float]:
    """Median times of a batch of 256 images on one thread, taken in turns."""
    x, times = torch.rand(256, 1, 28, 28), [[] for _ in nets]
    with torch.inference_mode():
        for k in range(repeats + 3):
            for net, of_net in zip(nets, times):
                start = time.perf_counter()
                net(x)
                if k >= 3:
                    of_net.append(1e3 * (time.perf_counter() - start))
    return [statistics.median(of_net) for of_net in times]
