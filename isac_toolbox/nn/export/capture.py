"""Graph of a model with shapes: ``torch.export`` for example inputs (docs/theory-networks.md, 5.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from isac_toolbox.nn.export.inputs import Inputs, evaluating, flat_tensors, quiet

__all__ = ["Node", "TraceError", "Traced", "parts", "shape_of", "trace"]


#: An ``fx.Node``; the types of its arguments are known to its operation alone.
Node: TypeAlias = Any


class TraceError(ValueError):
    """The model's graph cannot be traced."""


@dataclass(frozen=True)
class Traced:
    """A traced module.

    Attributes
    ----------
    prefix : str
        Name of the module in the model, ``""`` for the model itself.
    module : nn.Module
        The module.
    nodes : list of Node
        Operations without effects on their inputs, in order.
    owned : dict of Node to str
        Parameters and buffers by node: their names in the module.
    constants : dict of Node to Tensor
        Tensors that the module's code made.
    n_examples : int
        Examples of the traced batch.
    """

    prefix: str
    module: nn.Module
    nodes: list[Node]
    owned: dict[Node, str]
    constants: dict[Node, Tensor]
    n_examples: int


def shape_of(node: Node) -> tuple[int, ...]:
    """Return the shape of a node's output."""
    return tuple(int(n) for n in node.meta["val"].shape)


def trace(module: nn.Module, inputs: Inputs, prefix: str = "") -> Traced:
    """Return the graph of a module in evaluation mode.

    Raises
    ------
    TraceError
        If ``torch.export`` cannot trace the module.
    """
    with evaluating(module), quiet():
        try:
            program = torch.export.export(module, inputs.args, inputs.named, strict=False)
            if any(_writes(node) for node in program.graph.nodes):
                program = program.run_decompositions({})  # the same without operations in place
        except Exception as error:  # torch.export raises whatever the model raises
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise TraceError(f"torch.export cannot trace {type(module).__name__}: {reason}") from error
    signature = program.graph_signature
    names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    constants = dict(program.constants)
    owned, held = {}, {}
    for node in program.graph.nodes:
        if node.op != "placeholder":
            continue
        if node.name in names:
            owned[node] = names[node.name]
        elif node.name in signature.inputs_to_lifted_tensor_constants:
            held[node] = constants[signature.inputs_to_lifted_tensor_constants[node.name]]
    return Traced(prefix, module, list(program.graph.nodes), owned, held, inputs.size)


def _writes(node: Node) -> bool:
    """Return whether an operation changes one of its inputs."""
    schema = getattr(node.target, "_schema", None)
    return schema is not None and bool(schema.is_mutable)


def parts(model: nn.Module, inputs: Inputs) -> tuple[list[Traced], str]:
    """Return the graphs of a model: one, or those of the largest parts of it that can be traced.

    Parts are modules that are called once and have at least two layers.

    Returns
    -------
    list of Traced
    str
        Why the model itself cannot be traced; empty if it can.
    """
    try:
        return [trace(model, inputs)], ""
    except TraceError as error:
        reason = str(error)
    calls = _calls(model, inputs)
    found: list[Traced] = []
    _collect(model, "", calls, found)
    return found, reason


def _collect(module: nn.Module, prefix: str, calls: dict[str, list[Inputs]], found: list[Traced]) -> None:
    for name, child in module.named_children():
        path = f"{prefix}.{name}" if prefix else name
        if sum(1 for inner in child.modules() if any(True for _ in inner.parameters(recurse=False))) < 2:
            continue
        called = calls.get(path, [])
        if len(called) == 1 and any(True for _ in flat_tensors((called[0].args, called[0].named))):
            try:
                found.append(trace(child, called[0], path))
                continue
            except TraceError:
                pass
        _collect(child, path, calls, found)


def _calls(model: nn.Module, inputs: Inputs) -> dict[str, list[Inputs]]:
    """Return with which inputs each module of the model is called."""
    calls: dict[str, list[Inputs]] = {}

    def recorder(name: str) -> Any:
        def record(_: nn.Module, args: Any, named: Any) -> None:
            calls.setdefault(name, []).append(Inputs(tuple(args), dict(named)))

        return record

    handles = [
        module.register_forward_pre_hook(recorder(name), with_kwargs=True)
        for name, module in model.named_modules()
        if name
    ]
    try:
        with evaluating(model):
            inputs.run(model)
    finally:
        for handle in handles:
            handle.remove()
    return calls
