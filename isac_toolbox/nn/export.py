"""Export: a smaller plain module, and run-length coded files (docs/theory-networks.md, sections 5 and 6)."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from copy import deepcopy
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, fx, nn

from isac_toolbox.nn._channel_math import device_of
from isac_toolbox.nn.channels import ChannelGraph, TraceError
from isac_toolbox.nn.codings import RunLengthIndex, decode_runs, encode_runs

__all__ = ["export_onnx", "fold_batch_norm", "load_compressed", "save_compressed", "shrink"]

_FORMAT = "isac-toolbox run-length 1"
#: Largest relative deviation of a model that was made smaller without a trace.
_TOLERANCE = 1e-4


def shrink(
    model: nn.Module, *, fold_norms: bool = False, input_shape: Sequence[int] | None = None
) -> nn.Module:
    """Return a physically smaller module with the same outputs in evaluation mode.

    Neurons and filters are removed where their weights are all zero (their constant output is folded into the
    next biases) or where nothing reads them. Channels that take part in an addition go only where all
    addends allow it.

    Parameters
    ----------
    model : nn.Module
        Plain model whose dead weights are exactly zero; it is not changed.
    fold_norms : bool
        Whether batch normalisations are folded into the convolutions before them.
    input_shape : sequence of int, optional
        Shape of one example; with it, a model that cannot be traced is checked on noise.

    Returns
    -------
    nn.Module
        In evaluation mode.

    Warns
    -----
    UserWarning
        If torch.fx cannot trace the model: then only the hidden units of its nn.Sequential chains are
        removed, and if even that changes the outputs, nothing is.

    Notes
    -----
    Source: docs/theory-networks.md, section 5.
    """
    small = deepcopy(model).eval()
    try:
        graph = ChannelGraph(small)
    except TraceError as error:
        return _shrink_chains(model, small, error, input_shape)
    graph.simplify()
    graph.slice()
    if fold_norms:
        fold_batch_norm(small)
    return small


def simplify(model: nn.Module, silence: bool = False) -> nn.Module:
    """Zero all channels of a plain model that `shrink` would remove, in place; shapes stay.

    With `silence`, constants that no bias can take (before a padded convolution) become zero as well, which
    changes the function.
    """
    try:
        graph = ChannelGraph(model)
        graph.simplify()
        if silence:
            graph.silence_constants()
            graph.simplify()
    except TraceError:
        for chain in _chains(model):
            _graph_or_none(chain, do_slice=False)
    return model


def _shrink_chains(
    model: nn.Module, small: nn.Module, error: Exception, input_shape: Sequence[int] | None
) -> nn.Module:
    """Make the nn.Sequential chains of an untraceable model smaller, one by one."""
    done = [chain for chain in _chains(small) if _graph_or_none(chain, do_slice=True)]
    reason = f"{error}; "
    if input_shape is not None and not _agree(model, small, input_shape):
        warnings.warn(reason + "its chains are used from outside, so nothing was removed", stacklevel=3)
        return deepcopy(model).eval()
    warnings.warn(
        reason + f"only the hidden units of {len(done)} nn.Sequential chain(s) were removed", stacklevel=3
    )
    return small


def _chains(model: nn.Module) -> list[nn.Module]:
    """Outermost nn.Sequential modules."""
    if type(model) is nn.Sequential and _graph_or_none(deepcopy(model), do_slice=False):
        return [model]
    return [chain for child in model.children() for chain in _chains(child)]


def _graph_or_none(chain: nn.Module, do_slice: bool) -> ChannelGraph | None:
    try:
        graph = ChannelGraph(chain)
    except TraceError:
        return None
    graph.simplify()
    if do_slice:
        graph.slice()
    return graph


def _agree(model: nn.Module, small: nn.Module, input_shape: Sequence[int]) -> bool:
    """Whether both give the same output for noise."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn((4, *input_shape), generator=generator).to(device_of(model))
    reference = deepcopy(model).eval()
    with torch.no_grad():
        try:
            a, b = reference(x), small(x)
        except RuntimeError:  # shapes no longer fit
            return False
    return a.shape == b.shape and bool((a - b).abs().max() <= _TOLERANCE * (1.0 + a.abs().max()))


def fold_batch_norm(model: nn.Module) -> nn.Module:
    """Fold every batch normalisation that alone reads a convolution or linear layer into it, in place.

    Raises
    ------
    TraceError
        If torch.fx cannot trace the model.
    """
    nodes = ChannelGraph(model).nodes
    modules: dict[str, Any] = dict(model.named_modules())
    calls = [str(node.target) for node in nodes if node.op == "call_module"]
    for node in nodes:
        norm = modules.get(str(node.target)) if node.op == "call_module" else None
        if not isinstance(norm, (nn.BatchNorm1d, nn.BatchNorm2d)) or norm.running_mean is None:
            continue
        source = node.args[0]
        assert isinstance(source, fx.Node)
        layer = modules.get(str(source.target)) if source.op == "call_module" else None
        alone = (
            len(source.users) == 1 and calls.count(str(source.target)) == calls.count(str(node.target)) == 1
        )
        if isinstance(layer, (nn.Linear, nn.Conv2d)) and alone:
            _fold_norm(layer, norm)
            parent, _, child = str(node.target).rpartition(".")
            setattr(model.get_submodule(parent), child, nn.Identity())
    return model


def _fold_norm(layer: nn.Linear | nn.Conv2d, norm: Any) -> None:
    """`W <- s W`, `b <- s (b - mean) + beta` with `s = gamma / sqrt(var + eps)`."""
    with torch.no_grad():
        scale = torch.rsqrt(norm.running_var + norm.eps)
        scale = scale if norm.weight is None else scale * norm.weight
        bias = torch.zeros_like(scale) if layer.bias is None else layer.bias
        shift = torch.zeros_like(scale) if norm.bias is None else norm.bias
        layer.bias = nn.Parameter(scale * (bias - norm.running_mean) + shift)
        layer.weight.mul_(scale.reshape(-1, *([1] * (layer.weight.ndim - 1))))


def save_compressed(
    path: str | Path,
    model: nn.Module,
    masks: Mapping[str, Tensor],
    value_dtype: torch.dtype = torch.float32,
) -> Path:
    """Write a masked model: kept values and run-length index of each layer, all else as it is.

    Parameters
    ----------
    path : path
        A safetensors file; the suffix is added if missing.
    model : nn.Module
        Plain model, zero outside the masks.
    masks : mapping of str to Tensor of bool
        Kept weights by layer name.
    value_dtype : torch.dtype
        ``torch.float32`` (exact) or ``torch.float16`` / ``torch.bfloat16`` for the kept values.

    Returns
    -------
    Path

    Raises
    ------
    ValueError
        If a mask does not fit its layer or the model is not zero outside it.
    """
    if value_dtype not in (torch.float32, torch.float16, torch.bfloat16):
        raise ValueError(f"value_dtype must be float32, float16 or bfloat16, got {value_dtype}")
    target = Path(path)
    target = target if target.suffix == ".safetensors" else target.with_name(f"{target.name}.safetensors")
    tensors = {name: value.detach().clone() for name, value in model.state_dict().items()}
    described: dict[str, Any] = {}
    for name, mask in masks.items():
        key = f"{name}.weight" if name else "weight"
        weight = tensors.get(key)
        if weight is None or weight.shape != mask.shape:
            shape = None if weight is None else tuple(weight.shape)
            raise ValueError(f"masks[{name!r}] must have the shape of {key} {shape}, got {tuple(mask.shape)}")
        if bool(weight[~mask].any()):
            raise ValueError(f"masks[{name!r}] hides weights that are not zero")
        index = encode_runs(mask.numpy(force=True))
        described[key] = {
            "shape": list(index.shape),
            "n_runs": index.n_runs,
            "gap_order": index.gap_order,
            "length_order": index.length_order,
            "n_bits": index.n_bits,
        }
        del tensors[key]
        tensors[f"{key}:values"] = weight[mask].to(value_dtype).contiguous()
        tensors[f"{key}:runs"] = torch.from_numpy(index.stream.copy())
    tensors = {name: value.contiguous() for name, value in tensors.items()}
    save_file(tensors, str(target), metadata={"format": _FORMAT, "layers": json.dumps(described)})
    return target


def load_compressed(path: str | Path, model: nn.Module) -> nn.Module:
    """Fill a model of the same architecture from a file of `save_compressed`, in place.

    Parameters
    ----------
    path : path
    model : nn.Module
        Of the same architecture; it is changed.

    Returns
    -------
    nn.Module
        The same model.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is no file of this kind, is damaged, or was written for another architecture.
    """
    source = Path(path)
    if not source.exists():
        raise FileNotFoundError(f"no such file: {source}")
    try:
        with safe_open(str(source), framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{source} is not a safetensors file: {error}") from None
    if metadata.get("format") != _FORMAT:
        raise ValueError(
            f"{source} is not a run-length coded model, its format is {metadata.get('format')!r}"
        )
    try:
        for key, about in json.loads(metadata["layers"]).items():
            tensors[key] = _decode(tensors.pop(f"{key}:values"), tensors.pop(f"{key}:runs"), about)
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{source} is damaged: {error!r}") from None
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise ValueError(f"{source} does not fit {type(model).__name__}: {error}") from None
    return model


def _decode(values: Tensor, stream: Tensor, about: dict[str, Any]) -> Tensor:
    """Weights from values and run-length stream."""
    index = RunLengthIndex(
        stream.numpy().astype(np.uint8),
        int(about["n_runs"]),
        int(about["gap_order"]),
        int(about["length_order"]),
        tuple(about["shape"]),
        int(about["n_bits"]),
    )
    mask = torch.from_numpy(decode_runs(index))
    if int(mask.sum()) != values.numel():
        raise ValueError(f"the index keeps {int(mask.sum())} weights, but {values.numel()} values are stored")
    weight = torch.zeros(index.shape)
    weight[mask] = values.to(torch.float32)
    return weight


def export_onnx(model: nn.Module, path: str | Path, input_shape: Sequence[int]) -> Path:
    """Write a plain model as ONNX with a free batch size.

    Parameters
    ----------
    model : nn.Module
        Plain model, for example the result of `shrink`.
    path : path
        Where to write.
    input_shape : sequence of int
        Shape of one example.

    Returns
    -------
    Path
        Where the file is.

    Raises
    ------
    ImportError
        If onnx or onnxscript is not installed.
    """
    missing = [name for name in ("onnx", "onnxscript") if find_spec(name) is None]
    if missing:
        raise ImportError(
            f"ONNX export needs {' and '.join(missing)}, which is not installed; "
            f"get it with: pip install {' '.join(missing)}"
        )
    example = torch.zeros((2, *input_shape), device=device_of(model))
    batch = torch.export.Dim("batch")
    torch.onnx.export(model.eval(), (example,), str(path), dynamo=True, dynamic_shapes=({0: batch},))
    return Path(path)
