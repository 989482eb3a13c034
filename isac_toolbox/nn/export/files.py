"""Files of compressed networks: run-length coded safetensors, and ONNX."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from isac_toolbox.nn.export.codings import RunLengthIndex, decode_runs, encode_runs
from isac_toolbox.nn.export.inputs import device_of

__all__ = ["export_onnx", "load_compressed", "open_bias_slots", "save_compressed"]

_FORMAT = "isac-toolbox run-length 1"


def save_compressed(
    path: str | Path,
    model: nn.Module,
    masks: Mapping[str, Tensor],
    value_dtype: torch.dtype | None = None,
) -> Path:
    """Write a masked model: values and run-length index of each masked layer, everything else unchanged.

    Parameters
    ----------
    path : path
        A safetensors file; the suffix is added if missing.
    model : nn.Module
        Plain model, zero outside the masks.
    masks : mapping of str to Tensor of bool
        Kept weights by layer name.
    value_dtype : torch.dtype, optional
        Number format of the kept values, ``torch.float32``, ``torch.float16`` or ``torch.bfloat16``; their own
        (exact) if not given.

    Returns
    -------
    Path

    Raises
    ------
    ValueError
        If a mask does not fit its layer or the model is not zero outside it.
    """
    if value_dtype not in (None, torch.float32, torch.float16, torch.bfloat16):
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
        tensors[f"{key}:values"] = weight[mask].to(value_dtype or weight.dtype).contiguous()
        tensors[f"{key}:runs"] = torch.from_numpy(index.stream.copy())
    tensors = {name: value.contiguous() for name, value in tensors.items()}
    save_file(tensors, str(target), metadata={"format": _FORMAT, "layers": json.dumps(described)})
    mask_of_process = os.umask(0)
    os.umask(mask_of_process)
    target.chmod(0o666 & ~mask_of_process)  # the library writes files that only their owner may read
    return target


def load_compressed(path: str | Path, model: nn.Module) -> nn.Module:
    """Load a file of ``save_compressed`` into a model of the same architecture, in place.

    Parameters
    ----------
    path : path
    model : nn.Module
        Of the same architecture; it is changed. Where constants were folded into the bias of a layer that had
        none, its layer gets one.

    Returns
    -------
    nn.Module
        The same model.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is of another kind, damaged, or of another architecture.
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
    open_bias_slots(model, tensors)
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise ValueError(f"{source} does not fit {type(model).__name__}: {error}") from None
    return model


def open_bias_slots(model: nn.Module, state: Mapping[str, Tensor]) -> bool:
    """Give layers without a bias one where a state has it, because constants were folded there.

    Returns
    -------
    bool
        Whether there was such a layer.
    """
    opened = False
    for name, module in model.named_modules():
        key = f"{name}.bias" if name else "bias"
        if isinstance(module, (nn.Linear, _ConvNd)) and module.bias is None and key in state:
            module.bias = nn.Parameter(torch.zeros_like(state[key], device=module.weight.device))
            opened = True
    return opened


def _decode(values: Tensor, stream: Tensor, about: dict[str, Any]) -> Tensor:
    """Return the weights of a layer from its values and its run-length stream."""
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
    weight = torch.zeros(index.shape, dtype=torch.promote_types(values.dtype, torch.float32))
    weight[mask] = values.to(weight.dtype)
    return weight


def export_onnx(model: nn.Module, path: str | Path, input_shape: Sequence[int]) -> Path:
    """Write a plain model as ONNX, for any batch size.

    Parameters
    ----------
    model : nn.Module
        Plain model, for example the result of ``shrink``.
    path : path
        File to write.
    input_shape : sequence of int
        Shape of one example.

    Returns
    -------
    Path
        The file.

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
