"""Floating-point operations of training, by one count for all methods (docs/theory-ssvi.md, section 6)."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["step_flops", "topology_flops"]


def step_flops(active: Mapping[str, int], positions: Mapping[str, int], n_examples: int) -> int:
    """Return the operations of one step: ``6 * examples * sum_l active_l * positions_l``.

    There are two (a product and a sum) for each active weight, output position and example in the forward
    pass, two in the gradient of the inputs and two in the gradient of the weights. Normalisations are not
    counted, nor is work that does not grow with the examples (noise, KL, optimiser; all in proportion to the
    active weights).

    Parameters
    ----------
    active : mapping of str to int
        Active weights by layer.
    positions : mapping of str to int
        Output positions by layer; 1 for Linear.
    n_examples : int
        Examples of the minibatch.
    """
    return 6 * n_examples * sum(n * positions.get(name, 0) for name, n in active.items())


def topology_flops(
    active: Mapping[str, int], total: Mapping[str, int], positions: Mapping[str, int], n_examples: int
) -> int:
    """Return what a change of the support adds: ``2 * examples * sum_l (total_l - active_l) * positions_l``.

    These are the operations of the gradient of the inactive weights, for one minibatch.
    """
    inactive = sum((total[name] - n) * positions.get(name, 0) for name, n in active.items())
    return 2 * n_examples * inactive
