"""Networks drawn from a posterior, and probabilities of their outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from isac_toolbox._validation import check_integer
from isac_toolbox.nn._batches import Batch, as_inputs, concatenated
from isac_toolbox.nn.objective import described_shape
from isac_toolbox.nn.training import evaluating

__all__ = ["class_probabilities", "drawn_outputs"]

#: Losses of logits of independent labels.
_BINARY_LOSSES = (F.binary_cross_entropy_with_logits, F.multilabel_soft_margin_loss)
_BINARY_MODULES = (nn.BCEWithLogitsLoss, nn.MultiLabelSoftMarginLoss)


def drawn_outputs(
    model: nn.Module,
    x: Any,
    n_samples: int,
    set_sampling: Callable[[int | None], None],
    seed: int,
    batch_size: int | None = None,
) -> Iterator[Any]:
    """Yield what every network drawn from the posterior returns for all examples.

    Parameters
    ----------
    model : nn.Module
        Used in evaluation mode; all modes are restored.
    x : Tensor, or tuple, list or dict of Tensor
        Inputs; the examples are along the first axis.
    n_samples : int
        Number of networks; 0 for the mean network alone.
    set_sampling : callable
        Function that turns the noise of the model's layers on with a seed, or off with None.
    seed : int
        Seed of the draws.
    batch_size : int, optional
        Examples per forward pass; all at once if not given.

    Raises
    ------
    TypeError, ValueError
        If ``x`` has no tensor, or a number is out of range.
    """
    n_samples = check_integer("n_samples", n_samples, 0)
    inputs = as_inputs(x, model)
    step = max(inputs.size, 1) if batch_size is None else check_integer("batch_size", batch_size, 1)
    parts = [inputs.part(i, i + step) for i in range(0, max(inputs.size, 1), step)]
    fused = torch.backends.mha.get_fastpath_enabled()
    for number in range(max(n_samples, 1)):
        with evaluating(model), torch.no_grad():
            if number == 0:
                set_sampling(seed if n_samples else None)
            torch.backends.mha.set_fastpath_enabled(fused and not n_samples)  # it would see no noise
            try:
                outputs = _outputs_of_one_network(model, parts)
            finally:
                torch.backends.mha.set_fastpath_enabled(fused)
                if number + 1 >= n_samples:
                    set_sampling(None)
        yield outputs


def _outputs_of_one_network(model: nn.Module, parts: list[Batch]) -> Any:
    """Return the outputs of all parts; the noise starts anew in each, so that the weights are the same."""
    found = [getattr(module, "generator", None) for module in model.modules()]
    generators = [generator for generator in found if isinstance(generator, torch.Generator)]
    starts = [generator.get_state() for generator in generators]
    outputs = []
    for part in parts:
        for generator, state in zip(generators, starts):
            generator.set_state(state)
        outputs.append(part.run(model))
    return outputs[0] if len(outputs) == 1 else concatenated(outputs)


def class_probabilities(output: Any, loss: Callable[[Any, Any], Tensor]) -> Tensor:
    """Return probabilities for logits: of classes along the second axis, or of independent labels.

    Raises
    ------
    ValueError
        If the outputs are not logits of classes and the loss is not one of independent labels.
    """
    if loss in _BINARY_LOSSES or isinstance(loss, _BINARY_MODULES):
        return torch.sigmoid(output)
    if not isinstance(output, Tensor) or output.ndim < 2 or output.shape[1] < 2:
        raise ValueError(
            "predict_proba needs logits (batch, n_classes, ...) with two classes or more, or a loss of binary"
            " labels (binary_cross_entropy_with_logits); the model returns "
            f"{described_shape(output)}. Use predict"
        )
    return F.softmax(output, 1)
