"""Kinds and arguments of the operations of a traced network (docs/theory-networks.md, section 5.2)."""

from __future__ import annotations

from typing import Any

import torch

from isac_toolbox.nn.export.capture import Node, shape_of

__all__ = ["MOVES", "SAME", "argument", "is_pointwise", "move", "name_of", "reduced_axes", "several"]

#: Operations that only move entries: run on the labels themselves.
MOVES = {
    *("view", "reshape", "_unsafe_view", "flatten", "unflatten", "permute", "transpose", "t", "squeeze"),
    *("unsqueeze", "expand", "split", "split_with_sizes", "chunk", "tensor_split", "narrow", "slice"),
    *("select", "unbind", "movedim", "flip", "roll", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle"),
    *("native_channel_shuffle", "repeat", "repeat_interleave", "tile", "swapaxes", "numpy_T", "mT"),
}
#: Operations whose output has the entries of the first input, in another format or with noise.
SAME = {
    *("_to_copy", "to", "type_as", "alias", "clone", "contiguous", "detach", "lift_fresh_copy", "dropout"),
    *("native_dropout", "feature_dropout", "alpha_dropout", "tril", "triu", "nan_to_num"),
}
#: Pointwise operations that torch does not mark as such.
_POINTWISE = {"hardswish", "hardsigmoid", "log_sigmoid", "hardshrink", "softshrink", "rrelu", "fill"}


def name_of(node: Node) -> str:
    """Return the name of a node's operation, without its overload."""
    packet = getattr(node.target, "overloadpacket", None)
    return packet.__name__ if packet is not None else getattr(node.target, "__name__", str(node.target))


def move(node: Node) -> Any:
    """Return the operation of a node that moves entries, for tensors of any layout in memory."""
    return torch.reshape if name_of(node) in ("view", "_unsafe_view") else node.target


def is_pointwise(node: Node) -> bool:
    """Return whether every entry of the output depends on the same entry of the inputs alone."""
    return torch.Tag.pointwise in getattr(node.target, "tags", ()) or name_of(node) in _POINTWISE


def reduced_axes(node: Node) -> list[int]:
    """Return the axes that a reduction removes."""
    n_axes = len(shape_of(node.args[0]))
    name = name_of(node)
    at = 2 if name in ("norm", "linalg_vector_norm") else 1
    given = node.args[at] if len(node.args) > at else node.kwargs.get("dim")
    if isinstance(given, int):
        given = [given]
    return [axis % n_axes for axis in given] if given else list(range(n_axes))


def argument(node: Node, name: str, default: Any) -> Any:
    """Return an argument of a torch operation by its name in the schema."""
    if name in node.kwargs:
        return node.kwargs[name]
    schema: Any = node.target
    for i, argument in enumerate(schema._schema.arguments):
        if argument.name == name:
            return node.args[i] if len(node.args) > i else default
    return default


def several(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (tuple, list)) else [value]
