"""Files of compressed networks: run-length coded safetensors, and ONNX."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from isac_toolbox._files import naming
from isac_toolbox.nn._tensor_files import read_tensors, write_tensors
from isac_toolbox.nn.export.codings import RunLengthIndex, decode_runs, encode_runs
from isac_toolbox.nn.export.inputs import Inputs, evaluating, flat_tensors, inputs_of, outputs, quiet

__all__ = ["export_onnx", "load_compressed", "open_bias_slots", "save_compressed"]

_FORMAT = "isac-toolbox run-length 1"
#: Largest deviation of onnxruntime's outputs, relative to the largest output; eight bits round.
_ONNX_TOLERANCE, _INT8_TOLERANCE = 1e-4, 0.5


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
        Number format of the kept values, ``torch.float32``, ``torch.float16`` or ``torch.bfloat16``; their
        own (exact) if not given.

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
    return write_tensors(path, tensors, {"format": _FORMAT, "layers": json.dumps(described)})


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
        If the file is of another kind, damaged, or of another architecture; the model is then unchanged.
    """
    tensors, metadata = read_tensors(path)
    if metadata.get("format") != _FORMAT:
        raise ValueError(f"{path} is not a run-length coded model, its format is {metadata.get('format')!r}")
    with naming(path):
        for key, about in json.loads(metadata["layers"]).items():
            _check_layer(model, key, about["shape"])
            tensors[key] = _decode(tensors.pop(f"{key}:values"), tensors.pop(f"{key}:runs"), about)
        _load_all_or_nothing(model, tensors)
    return model


def _check_layer(model: nn.Module, key: str, shape: list[int]) -> None:
    """Refuse a layer that the model does not have, before memory is taken for what the file says of it."""
    own = model.state_dict().get(key)
    if own is None or list(own.shape) != list(shape):
        wanted = "no such weights" if own is None else tuple(own.shape)
        raise ValueError(
            f"does not fit {type(model).__name__}: {key} is {tuple(shape)}, the model has {wanted}"
        )


def _load_all_or_nothing(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Load a state that fits; leave the model as it was if it does not."""
    before = {
        name: value.clone() if isinstance(value, Tensor) else value
        for name, value in model.state_dict().items()
    }
    bare = [m for m in model.modules() if isinstance(m, (nn.Linear, _ConvNd)) and m.bias is None]
    open_bias_slots(model, tensors)
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        for module in bare:
            module.bias = None
        model.load_state_dict(before)
        raise ValueError(f"does not fit {type(model).__name__}: {error}") from None


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
    if values.shape != (int(mask.sum()),):
        shape = tuple(values.shape)
        raise ValueError(f"the index keeps {int(mask.sum())} weights, but values of shape {shape} are stored")
    weight = torch.zeros(index.shape, dtype=torch.promote_types(values.dtype, torch.float32))
    weight[mask] = values.to(weight.dtype)
    return weight


def export_onnx(model: nn.Module, path: str | Path, example: Any, *, int8: bool = False) -> Path:
    """Write a plain model as one ONNX file, for any batch size.

    With onnxruntime, the file is run on the example and compared with the model.

    Parameters
    ----------
    model : nn.Module
        Plain model, for example the result of ``shrink``; its mode does not change.
    path : path
        File to write; the suffix ``.onnx`` is added if missing.
    example : Tensor, tuple of Tensor, mapping of str to Tensor, or tuple of int
        Inputs of a batch, or the shape of one example, which stands for noise. With ``int8``, their ranges
        set the scales of the activations: give real inputs.
    int8 : bool
        Whether weights and activations have eight bits, with a scale for each output channel of a weight.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    ImportError
        If onnx or onnxscript is not installed, or onnxruntime for ``int8``.
    RuntimeError
        If onnxruntime computes something else.
    """
    names = ("onnx", "onnxscript", "onnxruntime") if int8 else ("onnx", "onnxscript")
    missing = [name for name in names if find_spec(name) is None]
    if missing:
        raise ImportError(
            f"ONNX export needs {' and '.join(missing)}, which is not installed; "
            f"get it with: pip install {' '.join(missing)}"
        )
    target = Path(path)
    target = target if target.suffix == ".onnx" else target.with_name(f"{target.name}.onnx")
    inputs = inputs_of(example, model)
    export: Any = torch.onnx.export
    with evaluating(model), quiet():
        program = export(
            model, inputs.args, kwargs=inputs.named or None, dynamo=True, dynamic_shapes=_any_batch(inputs)
        )
    program.save(str(target), external_data=False)  # no second file beside it that could be lost
    if int8:
        _quantize(target, inputs)
    if find_spec("onnxruntime") is not None:
        _compare(model, target, inputs, rounded=int8)
    return target


def _any_batch(inputs: Inputs) -> Any:
    """Return the shapes in which the first axis of every tensor of the batch may have another size."""
    size = inputs.size

    def free(tensor: Any) -> dict[int, Any]:
        whole = isinstance(tensor, Tensor) and tensor.ndim and len(tensor) == size
        return {0: torch.export.Dim.DYNAMIC} if whole else {}

    if inputs.args and inputs.named:
        return None
    return (
        [free(t) for t in inputs.args] if inputs.args else {name: free(t) for name, t in inputs.named.items()}
    )


def _session_inputs(session: Any, inputs: Inputs) -> dict[str, np.ndarray]:
    """Return the inputs of a session by name, in the order of the model's."""
    tensors = flat_tensors((inputs.args, inputs.named))
    return {given.name: tensor.numpy(force=True) for given, tensor in zip(session.get_inputs(), tensors)}


def _quantize(target: Path, inputs: Inputs) -> None:
    """Replace a file by one of eight bits, with the ranges of the activations for some inputs."""
    import onnxruntime
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

    session = onnxruntime.InferenceSession(str(target), providers=["CPUExecutionProvider"])
    batches = iter([_session_inputs(session, inputs)])

    class Reader(CalibrationDataReader):
        """The example, once."""

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(batches, None)

    whole = target.with_name(f"{target.name}.part")
    os.replace(target, whole)
    try:
        with quiet():
            quantize_static(str(whole), str(target), Reader(), quant_format=QuantFormat.QDQ, per_channel=True)
    finally:
        whole.unlink()


def _compare(model: nn.Module, target: Path, inputs: Inputs, rounded: bool) -> None:
    """Raise an error where onnxruntime computes something else, for the example and for a batch of one."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(target), providers=["CPUExecutionProvider"])
    for part in (inputs, inputs.first()):
        found = session.run(None, _session_inputs(session, part))
        wanted = [t.numpy(force=True) for t in outputs(model, part)]
        tolerance = _INT8_TOLERANCE if rounded else _ONNX_TOLERANCE
        for a, b in zip(wanted, found):
            if a.shape != b.shape or not np.all(np.abs(a - b) <= tolerance * (1.0 + np.abs(a).max())):
                raise RuntimeError(f"onnxruntime computes something else from {target} than the model does")
