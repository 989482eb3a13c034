"""Figures of SSVI, from the runs of benchmarks/nn/ssvi.py.

python figures/nn_ssvi.py [RESULTS.jsonl]
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

RESULTS = Path(__file__).parent.parent / "benchmarks" / "nn" / "ssvi.jsonl"
FOLDER = Path(__file__).parent.parent / "docs" / "images"
# Okabe and Ito's colours, and a marker each, so that neither colour nor print decides
STYLE = {
    "ssvi": ("#0072B2", "o", "SSVI"),
    "structured": ("#56B4E9", "s", "SSVI, structured"),
    "magnitude": ("#D55E00", "^", "magnitude-sparse"),
    "pruned-vi": ("#E69F00", "v", "dense VI, pruned"),
    "dense-vi": ("#000000", "X", "dense VI"),
}
NAMES = {
    "lenet-300-100": "LeNet-300-100",
    "lenet-5": "LeNet-5",
    "resnet-18": "ResNet-18, width 16",
    "resnet-18-full": "ResNet-18",
}
VARIED = {"initial_sigma": "initial sigma", "kl_weight": "weight of the KL term"}


def main() -> None:
    """Draw everything that the results allow into ``docs/images``."""
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else RESULTS
    if not path.exists():
        sys.exit(f"no results at {path}; run benchmarks/nn/ssvi.py first")
    lines = [json.loads(text) for text in path.read_text().splitlines()]
    FOLDER.mkdir(parents=True, exist_ok=True)
    for network in sorted({line["network"] for line in lines}):
        chosen = [line for line in lines if line["network"] == network]
        title = NAMES.get(network, network)
        plain = [line for line in chosen if not line["settings"] and "failed" not in line]
        if any(line["method"] != "dense-vi" for line in plain):
            save(quality(plain, title), f"nn_ssvi_quality_{network}")
            save(cost(plain, title), f"nn_ssvi_cost_{network}")
        if any("first_mask" in line for line in plain):
            save(masks(plain, title), f"nn_ssvi_masks_{network}")
        for name in VARIED:
            if any(name in line["settings"] and "removal" not in line["settings"] for line in chosen):
                save(robustness(chosen, title, name), f"nn_ssvi_{name}_{network}")
        if any("removal" in line["settings"] for line in chosen):
            save(removal(chosen, title), f"nn_ssvi_removal_{network}")


def save(figure: Any, name: str) -> None:
    """Write one picture."""
    figure.tight_layout()
    figure.savefig(FOLDER / f"{name}.png", dpi=120)
    pyplot.close(figure)


def curve(axis: Any, points: list[tuple[float, list[float]]], method: str, free: bool | None = None) -> None:
    """Means with one standard deviation over the seeds; dashed where sigma descends in rho."""
    colour, marker, label = STYLE[method]
    points = sorted(points)
    axis.errorbar(
        [x for x, _ in points],
        [np.mean(values) for _, values in points],
        yerr=[np.std(values, ddof=1) if len(values) > 1 else 0.0 for _, values in points],
        color=colour,
        marker=marker,
        capsize=3,
        linestyle="--" if free is False else "-",
        label=label if free is None else f"{label}, descent in {'sigma' if free else 'rho'}",
    )


def density_axis(axis: Any, text: str) -> None:
    """Logarithmic axis with the densities in plain numbers."""
    axis.set(xscale="log", xlabel="density", ylabel=text)
    low, high = axis.get_xlim()
    axis.set_xlim(low := 0.9 * low, high)  # whole layers put a point right of the density that was asked for
    ticks = [tick for tick in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0) if low <= tick <= high]
    axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.minorticks_off()
    axis.grid(alpha=0.3, which="both")


def by_density(lines: list[dict[str, Any]], method: str, value: Any) -> list[tuple[float, list[float]]]:
    """Values of the seeds at every density."""
    chosen = [line for line in lines if line["method"] == method]
    densities = sorted({line["true_density"] for line in chosen})
    return [(d, [value(x) for x in chosen if x["true_density"] == d]) for d in densities]


def quality(lines: list[dict[str, Any]], network: str) -> Any:
    """Accuracy, NLL and ECE of ten draws, and out-of-distribution AUROC against density."""
    figure, axes = pyplot.subplots(1, 4, figsize=(16, 4))
    shown = (
        ("test accuracy in %", lambda x: 100 * x["test_sampled"]["accuracy"]),
        ("negative log-likelihood, nats", lambda x: x["test_sampled"]["nll"]),
        ("expected calibration error", lambda x: x["test_sampled"]["ece"]),
        ("AUROC against MNIST digits, entropy", lambda x: x["ood_sampled"].get("mnist", np.nan)),
    )
    for axis, (text, value) in zip(axes, shown):
        for method in STYLE:
            points = by_density(lines, method, value)
            if points and method != "dense-vi":
                curve(axis, points, method)
            elif points:
                dense = np.concatenate([values for _, values in points])
                axis.axhline(dense.mean(), color="0.3", linestyle="--", label="dense VI")
        density_axis(axis, text)
    axes[0].legend(fontsize=8)
    figure.suptitle(f"{network} on Fashion-MNIST, ten draws of the posterior; bars: one sd over seeds")
    return figure


def cost(lines: list[dict[str, Any]], network: str) -> Any:
    """Operations of training and training state, relative to dense VI."""
    figure, axes = pyplot.subplots(1, 2, figsize=(10, 4))
    dense = [line["state_bytes"] for line in lines if line["method"] == "dense-vi"]
    reference = float(np.mean(dense)) if dense else 1.0
    text = "training state / dense VI" if dense else "training state, bytes"
    shown = (
        ("training FLOPs / dense VI", lambda x: x["training_flops"] / x["training_flops_dense"]),
        (text, lambda x: x["state_bytes"] / reference),
    )
    for axis, (label, value) in zip(axes, shown):
        for method in STYLE:
            points = by_density(lines, method, value)
            if points:
                curve(axis, points, method)
        density_axis(axis, label)
        axis.set(yscale="log")
    axes[0].legend(fontsize=8)
    figure.suptitle(f"{network}: cost of training, changes of the support included")
    return figure


def robustness(lines: list[dict[str, Any]], network: str, name: str) -> Any:
    """Accuracy of SSVI and of dense VI against one setting; a run that failed counts as chance."""
    figure, axis = pyplot.subplots(figsize=(7, 4))
    for method in ("ssvi", "dense-vi"):
        for free in (True, False):
            wanted = {name, "noise", "sigma_step"} if free else {name}
            chosen = [x for x in lines if x["method"] == method and set(x["settings"]) == wanted]
            values = sorted({line["settings"][name] for line in chosen})
            points = [(v, [_accuracy(x) for x in chosen if x["settings"][name] == v]) for v in values]
            if points:
                curve(axis, points, method, free)
    axis.set(xscale="log", xlabel=VARIED[name], ylabel="test accuracy in %, mean network")
    axis.set_title(f"{network} on Fashion-MNIST, SSVI at density 0.05")
    axis.grid(alpha=0.3, which="both")
    axis.legend()
    return figure


def _accuracy(line: dict[str, Any]) -> float:
    return 10.0 if "failed" in line else 100 * line["test"]["accuracy"]


def removal(lines: list[dict[str, Any]], network: str) -> Any:
    """Accuracy and NLL by removal score."""
    chosen = [x for x in lines if "removal" in x["settings"] and "failed" not in x]
    names = list(dict.fromkeys(line["settings"]["removal"] for line in chosen))
    figure, axes = pyplot.subplots(1, 2, figsize=(10, 4))
    for axis, key, text in ((axes[0], "accuracy", "test accuracy in %"), (axes[1], "nll", "NLL, nats")):
        scale = 100 if key == "accuracy" else 1
        groups = [[scale * x["test"][key] for x in chosen if x["settings"]["removal"] == n] for n in names]
        for place, values in enumerate(groups):
            axis.plot(values, [place] * len(values), "o", color="#0072B2", alpha=0.5)
            axis.plot(np.mean(values), place, "|", color="black", markersize=18)
        axis.set(yticks=range(len(names)), xlabel=text)
        axis.set_yticklabels(names if axis is axes[0] else [])
        axis.grid(alpha=0.3)
    figure.suptitle(f"{network}: removal scores at density 0.05; dots: seeds, bars: means")
    return figure


def masks(lines: list[dict[str, Any]], network: str) -> Any:
    """First-layer masks side by side, rows sorted by the number of active weights."""
    shown = [line for line in lines if "first_mask" in line and line["density"] == 0.05]
    shown = shown or [line for line in lines if "first_mask" in line]
    shown.sort(key=lambda line: list(STYLE).index(line["method"]))
    figure, axes = pyplot.subplots(1, len(shown), figsize=(3.2 * len(shown), 4.2), squeeze=False)
    for axis, line in zip(axes[0], shown):
        mask = unpack(line["first_mask"])
        rows = mask.reshape(len(mask), -1)
        rows = rows[np.argsort(-rows.sum(axis=1), kind="stable")]
        axis.imshow(rows, aspect="auto", cmap="Greys", interpolation="nearest", vmin=0, vmax=1)
        axis.set_title(f"{STYLE[line['method']][2]}\nmean run {line['mean_run']:.1f}", fontsize=9)
        axis.set_xlabel("input (raster order)", fontsize=8)
    axes[0, 0].set_ylabel("neuron or filter, sorted")
    figure.suptitle(f"{network}, first layer, density {shown[0]['density']}: active weights in black")
    return figure


def unpack(stored: dict[str, Any]) -> np.ndarray:
    """A mask from its bits."""
    bits = np.unpackbits(np.frombuffer(base64.b64decode(stored["bits"]), np.uint8))
    shape = tuple(stored["shape"])
    return bits[: int(np.prod(shape))].reshape(shape).astype(bool)


if __name__ == "__main__":
    main()
