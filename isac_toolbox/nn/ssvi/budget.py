"""Number of active weights per layer, and how many are replaced when (docs/theory-ssvi.md, section 2)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from isac_toolbox._choices import LAYER_DENSITIES

__all__ = ["LAYER_DENSITIES", "layer_budgets", "replaced_fraction", "updates_at"]


def layer_budgets(
    shapes: Sequence[Sequence[int]],
    density: float,
    rule: str = "uniform",
    erk_power: float | None = None,
) -> list[int]:
    """Return the number of active weights of each layer.

    Parameters
    ----------
    shapes : sequence of shapes
        Shapes of the weights in the order of the layers.
    density : float
        Active part, in (0, 1].
    rule : {"uniform", "erk", "first_layer_dense", "ends_dense"}
        The same density in every layer; a density in proportion to a power of the sum of the dimensions over
        their product (Erdos-Renyi kernel), at most 1; or the first layer, or the first and the last one,
        dense and ``density`` in the others, which makes the network denser than ``density``.
    erk_power : float, optional
        That power: with ``"erk"``, 1 if not given; among the sparse layers of the last two rules, 0 (the same
        density) if not given.

    Returns
    -------
    list of int
        At least one per layer. With ``uniform`` and ``erk`` they add up to ``round(density * n)`` of all
        ``n`` weights, unless that is less than one per layer.
    """
    if rule in ("first_layer_dense", "ends_dense"):
        power = 0.0 if erk_power is None else erk_power
        end = len(shapes) - (rule == "ends_dense" and len(shapes) > 1)
        whole = [math.prod(shape) for shape in shapes]
        return [whole[0], *_shared(shapes[1:end], density, power), *whole[end:]]
    power = 1.0 if erk_power is None else erk_power
    return _shared(shapes, density, power if rule == "erk" else 0.0)


def _shared(shapes: Sequence[Sequence[int]], density: float, power: float) -> list[int]:
    """Return the numbers of active weights of layers that share one budget."""
    sizes = np.array([math.prod(shape) for shape in shapes], dtype=np.int64)
    target = density * float(sizes.sum())
    return _rounded(_kernel_sizes(shapes, sizes, target, power), sizes, round(target))


def _kernel_sizes(
    shapes: Sequence[Sequence[int]], sizes: np.ndarray, target: float, power: float
) -> np.ndarray:
    """Return real numbers by the Erdos-Renyi kernel; layers that it would make denser than 1 are dense."""
    wanted = sizes * (np.array([float(sum(shape)) for shape in shapes]) / sizes) ** power
    full = np.zeros(len(sizes), dtype=bool)
    while not full.all():
        scale = (target - float(sizes[full].sum())) / float(wanted[~full].sum())
        over = ~full & (scale * wanted > sizes)
        if not over.any():
            return np.where(full, sizes, scale * wanted)
        full |= over
    return sizes.astype(float)


def _rounded(exact: np.ndarray, sizes: np.ndarray, total: int) -> list[int]:
    """Return integers between 1 and the size that add up to ``total``, by largest remainders."""
    counts = np.clip(np.floor(exact).astype(np.int64), 1, sizes)
    for layer in np.argsort(counts - exact, kind="stable"):
        if counts.sum() >= total:
            break
        counts[layer] += int(counts[layer] < sizes[layer])
    return [int(n) for n in counts]


def replaced_fraction(step: int, last: float, start: float = 0.3) -> float:
    """Return the part of the active weights to replace, ``start / 2 (1 + cos(pi step / last))``."""
    return 0.5 * start * (1.0 + math.cos(math.pi * min(step / max(last, 1.0), 1.0)))


def updates_at(step: int, interval: int, last: float) -> bool:
    """Return whether the support changes after this step (steps count from 1)."""
    return step % interval == 0 and step < last
