"""Physically smaller modules: channels cut out of parameters, sizes in attributes put right."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from isac_toolbox.nn.export.graph import Cut, Rewriting

__all__ = ["FewerHeads", "apply_cut", "apply_rewriting"]


class FewerHeads(nn.MultiheadAttention):
    """Attention whose heads together are narrower than its inputs, as after heads were removed.

    It takes the place of an ``nn.MultiheadAttention`` with one width of query, key and value, has its
    parameters under the same names and its arguments.
    """

    head_dim: int

    @classmethod
    def from_cut(cls, module: nn.MultiheadAttention) -> FewerHeads:
        """Return the module itself, as one of this class."""
        assert module.in_proj_weight is not None
        width = module.embed_dim // module.num_heads
        module.__class__ = cls
        assert isinstance(module, FewerHeads)
        module.head_dim, module.num_heads = width, len(module.in_proj_weight) // (3 * width)
        module._qkv_same_embed_dim = False  # fused layers ask for it, and then leave this module its work
        return module

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Return the attended values, and the weights of the attention if they are wanted."""
        batched = query.ndim == 3
        if not batched:
            query, key, value = (t.unsqueeze(0 if self.batch_first else 1) for t in (query, key, value))
        if not self.batch_first:
            query, key, value = (t.transpose(0, 1) for t in (query, key, value))
        weights = self.in_proj_weight.chunk(3)
        biases: Any = (None,) * 3 if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
        q, k, v = (
            F.linear(t, w, b).unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)
            for t, w, b in zip((query, key, value), weights, biases)
        )
        scores = q @ k.transpose(-2, -1) * self.head_dim**-0.5
        scores = scores + _as_scores(attn_mask, scores, self.num_heads)
        if key_padding_mask is not None:
            scores = scores + _as_scores(key_padding_mask[:, None, None], scores, self.num_heads)
        attention = F.dropout(scores.softmax(-1), self.dropout, self.training)
        out = self.out_proj((attention @ v).transpose(1, 2).flatten(2))
        out = out if self.batch_first else out.transpose(0, 1)
        if not batched:
            out, attention = out.squeeze(0 if self.batch_first else 1), attention.squeeze(0)
        if not need_weights:
            return out, None
        return out, attention.mean(-3) if average_attn_weights else attention


def _as_scores(mask: Tensor | None, scores: Tensor, n_heads: int) -> Tensor:
    """Return a mask as what is added to the scores, (batch, heads, queries, keys)."""
    if mask is None:
        return scores.new_zeros(())
    if mask.ndim == 3:  # one for each example and head
        mask = mask.reshape(-1, mask.shape[0] // len(scores), *mask.shape[1:])[:, :n_heads]
    if mask.dtype == torch.bool:
        return torch.zeros_like(mask, dtype=scores.dtype).masked_fill(mask, -torch.inf)
    return mask


def apply_rewriting(model: nn.Module, new: Rewriting) -> None:
    """Put new values into a model, in place."""
    with torch.no_grad():
        for name, value in new.tensors.items():
            owner, _, last = name.rpartition(".")
            getattr(model.get_submodule(owner), last).copy_(value)
        for layer, bias in new.biases.items():
            model.get_submodule(layer).bias = nn.Parameter(bias.clone())


def apply_cut(model: nn.Module, cut: Cut, adapt: bool = False) -> None:
    """Cut channels out of the parameters of one block, in place.

    Parameters
    ----------
    model : nn.Module
    cut : Cut
    adapt : bool
        Whether sizes that modules with own code keep as attributes are put right as well.
    """
    by_id: dict[int, list[tuple[nn.Module, str]]] = {}
    for module in model.modules():
        for store in (module._parameters, module._buffers):
            for name, tensor in store.items():
                if tensor is not None:
                    by_id.setdefault(id(tensor), []).append((module, name))
    changed: dict[nn.Module, dict[str, tuple[int, ...]]] = {}
    for full, axes in cut.keep.items():
        owner, _, last = full.rpartition(".")
        old = getattr(model.get_submodule(owner), last)
        new = old.detach()
        for axis, keep in axes:
            new = new.index_select(axis, keep.nonzero().flatten().to(new.device))
        new = new.clone(memory_format=torch.contiguous_format)
        value = nn.Parameter(new, requires_grad=old.requires_grad) if isinstance(old, nn.Parameter) else new
        for module, name in by_id[id(old)]:
            setattr(module, name, value)
            changed.setdefault(module, {})[name] = tuple(old.shape)
    for module, shapes in changed.items():
        _set_sizes(module, shapes)
    attentions = [m for m in model.modules() if isinstance(m, nn.MultiheadAttention)]
    for module in attentions:
        if module in changed and "in_proj_weight" in changed[module] and not isinstance(module, FewerHeads):
            FewerHeads.from_cut(module)
        elif module in changed and isinstance(module, FewerHeads):
            module.num_heads = len(module.in_proj_weight) // (3 * module.head_dim)
    if adapt:
        _adapt(model, changed, cut)


def _set_sizes(module: Any, old: Mapping[str, tuple[int, ...]]) -> None:
    """Set the sizes that a module of torch keeps beside its parameters."""
    weight = getattr(module, "weight", None)
    if isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, _ConvNd) and "weight" in old:
        first, second = module.weight.shape[:2]
        transposed = isinstance(module, _ConvTransposeNd)
        if module.groups > 1 and module.groups == module.in_channels:
            width = old["weight"][0] // module.groups
            module.groups = first // width
        module.in_channels = first if transposed else second * module.groups
        module.out_channels = second * module.groups if transposed else first
    elif isinstance(module, _NormBase):
        sized = weight if weight is not None else module.running_mean
        if sized is not None:
            module.num_features = len(sized)
    elif isinstance(module, nn.PReLU):
        module.num_parameters = module.weight.numel()
    elif isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
        module.num_embeddings, module.embedding_dim = module.weight.shape
    elif isinstance(module, nn.LayerNorm):
        module.normalized_shape = tuple(module.weight.shape)
    elif isinstance(weight, Tensor) and weight.ndim == 2 and hasattr(module, "nx") and hasattr(module, "nf"):
        module.nx, module.nf = weight.shape


def _adapt(model: nn.Module, changed: Mapping[nn.Module, Mapping[str, tuple[int, ...]]], cut: Cut) -> None:
    """Replace old sizes in the attributes of the modules around those that changed."""
    for parent in model.modules():
        if isinstance(parent, nn.Unflatten):
            parent.unflattened_size = (-1, *parent.unflattened_size[1:])
        children = [child for child in parent.children() if child in changed]
        if not children or type(parent).__module__.startswith("torch."):
            continue
        sizes: dict[int, int] = {}
        for child in children:
            for name, shape in changed[child].items():
                sizes |= {a: b for a, b in zip(shape, getattr(child, name).shape) if a != b}
        sizes |= {a // 3: b // 3 for a, b in sizes.items() if a % 3 == b % 3 == 0 and a // 3 not in sizes}
        for key, value in list(vars(parent).items()):
            counts_heads = "head" in key and not any(word in key for word in ("dim", "size", "width"))
            new = (cut.heads if counts_heads else sizes).get(value) if type(value) is int else None
            if new is not None and not (key.startswith("_") or "head_" in key):
                setattr(parent, key, new)
