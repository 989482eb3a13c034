"""Constants after layers without sums of products (docs/theory-networks.md, section 5.2)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from isac_toolbox.nn.export.capture import Node, shape_of
from isac_toolbox.nn.export.known import Knowledge, Known
from isac_toolbox.nn.export.labels import compressed
from isac_toolbox.nn.export.operations import argument, name_of, several

__all__ = ["LayerValues"]


class LayerValues(Knowledge):
    """Rules of layers without sums of products."""

    def _channel_norm(self, node: Node) -> Any:
        x, n_axes = node.args[0], len(shape_of(node.args[0]))
        weight, shift, mean, var = node.args[1:5]
        n = shape_of(x)[1]
        name = name_of(node)
        eps = float(node.args[-1 if "no_training" in name else 7])
        running = isinstance(mean, fx.Node) and not (name == "instance_norm" and bool(node.args[5]))
        if name == "batch_norm" and bool(node.args[5]):
            running = False
        source = self.get(x)
        dtype, shape = (
            node.meta["val"][0].dtype if "native" in name else node.meta["val"].dtype,
            (1, n, *[1] * (n_axes - 2)),
        )
        scale = self._vector(weight, n, 1.0, dtype)
        offset = self._vector(shift, n, 0.0, dtype)
        if running:
            gain = scale * torch.rsqrt(self._vector(var, n, 1.0, dtype) + eps)
            gain, centre = gain.reshape(shape), self._vector(mean, n, 0.0, dtype).reshape(shape)
            value = offset.reshape(shape) + gain * (source.value - centre)
            varies = source.varies & (gain != 0)
        else:
            _, moving = source.along(1, n)
            moving = moving if name == "instance_norm" else torch.ones_like(moving)
            varies = (moving & (scale != 0)).reshape(shape)
            value = offset.reshape(shape) + torch.zeros_like(varies, dtype=dtype)
        removed = self._removed_channels(node, n).reshape(shape)
        value, varies = torch.where(removed | varies, torch.zeros_like(value), value), varies & ~removed
        found = Known(value, varies)
        more = isinstance(node.meta["val"], (tuple, list))
        return (found, *[self._unknown(o) for o in node.meta["val"][1:]]) if more else found

    def _removed_channels(self, node: Node, n: int) -> Tensor:
        for parameter in node.all_input_nodes[1:]:
            for _, removed in self._removed.get(parameter, []):
                return removed
        return torch.zeros(n, dtype=torch.bool, device=self._device)

    def _vector(self, node: Any, n: int, default: float, dtype: torch.dtype) -> Tensor:
        if not isinstance(node, fx.Node):
            return torch.full((n,), default, dtype=dtype, device=self._device)
        return self._tensors[node].detach() if node in self._tensors else self.get(node).value.expand(n)

    def _norm(self, node: Node) -> Any:
        """Normalisation over channels: constant only where its scale is zero."""
        name = name_of(node)
        weight, shift = node.args[2:4] if name == "group_norm" else (*node.args[2:4], None, None)[:2]
        if name == "rms_norm":
            shift = None
        if not isinstance(weight, fx.Node):
            return None
        scale = self.get(weight)
        n_axes = len(shape_of(node))
        wanted = (1, -1, *[1] * (n_axes - 2)) if name == "group_norm" else scale.value.shape
        offset = self.get(shift).value if isinstance(shift, fx.Node) else torch.zeros_like(scale.value)
        varies = ((scale.value != 0) | scale.varies).reshape(wanted)
        offset = torch.where(varies, torch.zeros_like(offset.reshape(wanted)), offset.reshape(wanted))
        lead = (1,) * (n_axes - varies.ndim)
        return Known(offset.reshape(*lead, *offset.shape), varies.reshape(*lead, *varies.shape))

    def _spatial(self, node: Node) -> Any:
        name = name_of(node)
        n = next((int(c) for c in reversed(name) if c.isdigit()), 2)
        source, n_axes = self.get(node.args[0]), len(shape_of(node.args[0]))
        value, varies = source.value, source.varies
        for axis in range(n_axes - n, n_axes):
            first = value.narrow(axis, 0, 1)
            varies = varies.any(axis, keepdim=True) | (value != first).any(axis, keepdim=True)
            value = first
        if name.startswith("avg_pool") and self._uneven(node):
            varies = varies | (value != 0)
        found = Known(torch.where(varies, torch.zeros_like(value), value), varies)
        more = isinstance(node.meta["val"], (tuple, list))
        return (found, self._unknown(node.meta["val"][1])) if more else found

    @staticmethod
    def _uneven(node: Node) -> bool:
        """Return whether an average may count positions beyond the border, or divides by another number."""
        padded = any(several(argument(node, "padding", 0)))
        return (
            padded
            or bool(argument(node, "ceil_mode", False))
            or argument(node, "divisor_override", None) is not None
        )

    def _prelu(self, node: Node) -> Known:
        x, slope = self.get(node.args[0]), self.get(node.args[1])
        n_axes = len(shape_of(node))
        weight = slope.value.reshape(1, -1, *[1] * (n_axes - 2)) if n_axes > 1 else slope.value
        return Known(
            torch.where(x.value > 0, x.value, weight * x.value), x.varies | torch.zeros_like(weight > 0)
        )

    def _glu(self, node: Node) -> Known:
        x, shape = self.get(node.args[0]), shape_of(node.args[0])
        axis = (int(node.args[1]) if len(node.args) > 1 else -1) % len(shape)
        wide = [shape[axis] if a == axis else -1 for a in range(len(shape))]
        (a, b), (moving_a, moving_b) = (t.expand(wide).chunk(2, axis) for t in (x.value, x.varies))
        zero = ~moving_a & (a == 0)
        varies = (moving_a | moving_b) & ~zero
        value = a * torch.sigmoid(b)
        return Known(torch.where(varies, torch.zeros_like(value), value), varies)

    def _cat(self, node: Node) -> Known:
        tensors = list(node.args[0])
        axis = (int(node.args[1]) if len(node.args) > 1 else node.kwargs.get("dim", 0)) % len(
            shape_of(tensors[0])
        )
        known = [self.get(t) for t in tensors]
        joined = []
        for values in ([k.value for k in known], [k.varies for k in known]):
            sizes = torch.broadcast_shapes(
                *[tuple(1 if a == axis else n for a, n in enumerate(v.shape)) for v in values]
            )
            parts = [
                v.expand([shape_of(t)[axis] if a == axis else n for a, n in enumerate(sizes)])
                for v, t in zip(values, tensors)
            ]
            joined.append(compressed(torch.cat(parts, axis)))
        return Known(joined[0], joined[1])

    def _embedding(self, node: Node) -> Known:
        table = self.get(node.args[0])
        value, varies = table.along(1, shape_of(node)[-1])
        shape = (*[1] * (len(shape_of(node)) - 1), -1)
        value = torch.where(varies, torch.zeros_like(value), value)
        return Known(value.reshape(shape), varies.reshape(shape))
