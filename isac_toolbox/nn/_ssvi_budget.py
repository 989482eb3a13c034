"""How many weights each layer keeps, and how many are replaced when (docs/theory-ssvi.md, section 2)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

__all__ = ["LAYER_DENSITIES", "layer_budgets", "replaced_fraction", "updates_at"]

LAYER_DENSITIES = ("uniform", "erk", "first_layer_dense")


def layer_budgets(shapes: Sequence[Sequence[int]], density: float, rule: str = "uniform") -> list[int]:
    """Return the number of active weights of each layer.

    Parameters
    ----------
    shapes : sequence of shapes
        Shapes of the weights in the order of the layers.
    density : float
        Active part, in (0, 1].
    rule : {"uniform", "erk", "first_layer_dense"}
        The same density in every layer; density in proportion to the sum of the dimensions over their product
        (Erdos-Renyi kernel), at most 1; or the first layer whole and `density` in every other, which makes
        the network denser than `density`.

    Returns
    -------
    list of int
        At least one per layer. With `uniform` and `erk` they add up to `round(density * n)` of all `n`
        weights, unless that is less than one per layer.
    """
    sizes = np.array([math.prod(shape) for shape in shapes], dtype=np.int64)
    if rule == "first_layer_dense":
        return [int(sizes[0]), *(max(round(density * int(n)), 1) for n in sizes[1:])]
    target = density * float(sizes.sum())
    exact = _kernel_sizes(shapes, sizes, target) if rule == "erk" else density * sizes
    return _rounded(exact, sizes, round(target))


def _kernel_sizes(shapes: Sequence[Sequence[int]], sizes: np.ndarray, target: float) -> np.ndarray:
    """Erdos-Renyi kernel: `c (sum of dimensions)` weights per layer; layers that would overflow are dense."""
    wanted = np.array([float(sum(shape)) for shape in shapes])
    full = np.zeros(len(sizes), dtype=bool)
    while not full.all():
        scale = (target - float(sizes[full].sum())) / float(wanted[~full].sum())
        over = ~full & (scale * wanted > sizes)
        if not over.any():
            return np.where(full, sizes, scale * wanted)
        full |= over
    return sizes.astype(float)


def _rounded(exact: np.ndarray, sizes: np.ndarray, total: int) -> list[int]:
    """Largest remainders: whole numbers between 1 and the size that add up to `total`."""
    counts = np.clip(np.floor(exact).astype(np.int64), 1, sizes)
    for layer in np.argsort(counts - exact, kind="stable"):
        if counts.sum() >= total:
            break
        counts[layer] += int(counts[layer] < sizes[layer])
    return [int(n) for n in counts]


def replaced_fraction(step: int, last: float, start: float = 0.3) -> float:
    """Return the part of the active weights to replace, `start / 2 (1 + cos(pi step / last))`."""
    return 0.5 * start * (1.0 + math.cos(math.pi * min(step / max(last, 1.0), 1.0)))


def updates_at(step: int, interval: int, last: float) -> bool:
    """Return whether the support changes after this step (steps count from 1)."""
    return step % interval == 0 and step < last
