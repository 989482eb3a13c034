"""Figures of network compression, from the runs of benchmarks/nn/compression.py.

python figures/nn_compression.py [RESULTS.jsonl]
"""

from __future__ import annotations

import base64
import json
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import numpy as np
from matplotlib import pyplot

from isac_toolbox.nn.export.codings import RunLengthIndex, decode_runs

RESULTS = Path(__file__).parent.parent / "benchmarks" / "nn" / "compression.jsonl"
FOLDER = Path(__file__).parent.parent / "docs" / "images"
# Okabe and Ito's colours, and a marker each, so that neither colour nor print decides
STYLE = {
    "turbo-chain": ("#0072B2", "o", "Turbo-VBI, gated chain"),
    "turbo-independent": ("#56B4E9", "s", "Turbo-VBI, independent"),
    "magnitude-iterative": ("#D55E00", "^", "magnitude, iterative"),
    "magnitude-one-shot": ("#E69F00", "v", "magnitude, one-shot"),
    "sparse-vd": ("#CC79A7", "D", "sparse variational dropout"),
    "group-lasso": ("#009E73", "P", "group lasso"),
    "torch-pruning": ("#000000", "X", "torch-pruning"),
}

NAMES = {"lenet-300-100": "LeNet-300-100", "lenet-5": "LeNet-5"}
#: Points below the dense network that the picture shows; what is lower stands at its edge.
_SPAN = 6.5
CODINGS = {
    "bitmap": ("#999999", "bitmap"),
    "csr_int32": ("#E69F00", "CSR, int32 indices"),
    "csr": ("#D55E00", "CSR, narrowest indices"),
    "run_length": ("#0072B2", "run lengths"),
}


def main() -> None:
    """Draw everything that the results allow into ``docs/images``."""
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else RESULTS
    lines = [json.loads(text) for text in path.read_text().splitlines()]
    FOLDER.mkdir(parents=True, exist_ok=True)
    for network in sorted({line["network"] for line in lines}):
        chosen = [line for line in lines if line["network"] == network]
        if len({line["method"] for line in chosen if line["method"] in STYLE}) < 2:
            continue  # every picture compares methods
        save(accuracy_against_compression(chosen, network), f"nn_accuracy_{network}")
        save(structure(chosen, network), f"nn_structure_{network}")
        save(sizes(chosen, network), f"nn_sizes_{network}")
        if any("first_mask" in line for line in chosen):
            save(masks(chosen, network), f"nn_masks_{network}")


def save(figure: Any, name: str) -> None:
    """Write one picture."""
    figure.savefig(FOLDER / f"{name}.png", dpi=120)
    pyplot.close(figure)


def groups(lines: list[dict[str, Any]]) -> list[tuple[str, str, list[dict[str, Any]]]]:
    """(method, point, runs) for every method with a style."""
    points = list(dict.fromkeys(line["point"] for line in lines))
    found = []
    for method in STYLE:
        for point in points:
            runs = [line for line in lines if line["method"] == method and line["point"] == point]
            if runs:
                found.append((method, point, runs))
    return found


def accuracy_against_compression(lines: list[dict[str, Any]], network: str) -> Any:
    """Test accuracy against remaining weights and against MACs of the exported module; bars: one sd."""
    figure, axes = pyplot.subplots(1, 2, figsize=(10, 4.2), sharey=True)
    dense = [100 * line["test_accuracy"] for line in lines if line["method"] == "dense"]
    labelled, floor = set(), np.mean(dense) - _SPAN if dense else 0.0
    for method, _, runs in groups(lines):
        colour, marker, label = STYLE[method]
        accuracy = np.array([100 * run["test_accuracy"] for run in runs])
        ratios = (
            [run["compression"] for run in runs],
            [run["macs_dense"] / run["macs"] for run in runs],
        )
        below = accuracy.mean() < floor
        shown = floor if below else accuracy.mean()
        for axis, ratio in zip(axes, ratios):
            if below:  # one network that failed must not squeeze the others together
                axis.annotate(
                    f"{accuracy.mean():.0f} ↓",
                    (np.mean(ratio), shown),
                    (0, 8),
                    textcoords="offset points",
                    ha="center",
                )
            axis.errorbar(
                np.mean(ratio),
                shown,
                yerr=accuracy.std(ddof=1) if len(accuracy) > 1 and not below else None,
                color=colour,
                marker=marker,
                markersize=8,
                capsize=3,
                linestyle="none",
                label=None if method in labelled else label,
            )
        labelled.add(method)
    for axis, text in zip(axes, ("times fewer weights", "times fewer MACs, exported dense module")):
        if dense:
            axis.axhline(np.mean(dense), color="0.4", linestyle="--", label="dense")
        axis.set(xscale="log", xlabel=text)
        axis.margins(y=0.12)
        axis.set_xlim(1.0, 1.3 * max(axis.get_xlim()[1], 8.0))
        ticks = [tick for tick in (1, 2, 5, 10, 20, 50, 100, 200) if tick <= axis.get_xlim()[1]]
        axis.set_xticks(ticks, [str(tick) for tick in ticks])
        axis.minorticks_off()
        axis.grid(alpha=0.3, which="both")
    axes[0].set_ylabel("test accuracy in %")
    axes[0].legend(fontsize=8, loc="lower left")
    figure.suptitle(f"{NAMES[network]} on Fashion-MNIST")
    figure.tight_layout()
    return figure


def structure(lines: list[dict[str, Any]], network: str) -> Any:
    """Living neurons and mean run of the first layer."""
    figure, axes = pyplot.subplots(1, 2, figsize=(10, 4.2))
    found = groups(lines)
    names = [f"{STYLE[method][2]}\n{point}" for method, point, _ in found]
    for axis, key, text in (
        (axes[0], "neurons_kept", "neurons (filters) kept"),
        (axes[1], "mean_run", "mean run of kept weights"),
    ):
        values = [np.mean([run["layers"][0][key] for run in runs]) for *_, runs in found]
        axis.barh(range(len(found)), values, color=[STYLE[method][0] for method, *_ in found])
        axis.set(yticks=range(len(found)), xlabel=text)
        axis.set_yticklabels(names if axis is axes[0] else [], fontsize=7)
        axis.invert_yaxis()
        for i, value in enumerate(values):
            axis.text(value, i, f" {value:.3g}", va="center", fontsize=8)
        axis.margins(x=0.15)
    axes[1].set(xscale="log", xlim=(1, None))
    figure.suptitle(f"{NAMES[network]}: structure of the first layer")
    figure.tight_layout()
    return figure


def sizes(lines: list[dict[str, Any]], network: str) -> Any:
    """Kilobytes of each coding, for two widths of the values."""
    figure, axes = pyplot.subplots(1, 2, figsize=(12, 4.2))
    shown = ("turbo-chain", "turbo-independent", "magnitude-iterative")
    found = [(m, p, r) for m, p, r in groups(lines) if m in shown]
    width = 0.8 / len(CODINGS)
    for axis, value_bits in zip(axes, (32, 16)):
        for k, (coding, (colour, label)) in enumerate(CODINGS.items()):
            values = [np.mean([kilobytes(run, coding, value_bits) for run in runs]) for *_, runs in found]
            places = np.arange(len(found)) + k * width
            axis.bar(places, values, width, color=colour, label=label)
            for x, value in zip(places, values):
                axis.text(x, value, f"{value:.0f}", ha="center", va="bottom", fontsize=7)
        axis.set_xticks(np.arange(len(found)) + 0.4 - width / 2)
        axis.set_xticklabels([f"{STYLE[m][2]}\n{p}".replace(", ", ",\n") for m, p, _ in found], fontsize=6)
        axis.set(ylabel="kB", title=f"values of {value_bits} bits")
    axes[1].legend(title="coding", loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.suptitle(f"{NAMES[network]}: size of all weights by coding")
    figure.tight_layout()
    return figure


def kilobytes(run: dict[str, Any], coding: str, value_bits: int) -> float:
    """Size of one run; its line counts values of 32 bits."""
    bits = sum(layer["bits"][coding] - (32 - value_bits) * layer["n_kept"] for layer in run["layers"])
    return bits / 8e3


def masks(lines: list[dict[str, Any]], network: str) -> Any:
    """First-layer masks of one seed side by side, rows sorted by the number of kept weights."""
    point = next(line["point"] for line in lines if "first_mask" in line)
    shown = [line for line in lines if line["point"] == point and "first_mask" in line]
    shown.sort(key=lambda line: list(STYLE).index(line["method"]))
    figure, axes = pyplot.subplots(1, len(shown), figsize=(3.2 * len(shown), 4.2), squeeze=False)
    for axis, line in zip(axes[0], shown):
        mask = unpack(line["first_mask"])
        rows = mask.reshape(len(mask), -1)
        rows = rows[np.argsort(-rows.sum(axis=1), kind="stable")]
        axis.imshow(rows, aspect="auto", cmap="Greys", interpolation="nearest", vmin=0, vmax=1)
        axis.set_title(
            f"{STYLE[line['method']][2]}\nmean run {line['layers'][0]['mean_run']:.1f}", fontsize=9
        )
        axis.set_xlabel("input (raster order)", fontsize=8)
    axes[0, 0].set_ylabel(
        "neuron, most weights first" if network == "lenet-300-100" else "filter, most weights first"
    )
    figure.suptitle(f"{NAMES[network]}, first layer, {point}: kept weights in black")
    figure.tight_layout()
    return figure


def unpack(stored: dict[str, Any]) -> np.ndarray:
    """A mask from its run-length stream."""
    stream = np.frombuffer(base64.b64decode(stored["stream"]), np.uint8)
    orders = (stored["n_runs"], stored["gap_order"], stored["length_order"])
    return decode_runs(RunLengthIndex(stream, *orders, tuple(stored["shape"]), stored["n_bits"]))


if __name__ == "__main__":
    main()
