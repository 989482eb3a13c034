"""Smaller networks: channels removed, files, codings, operations, reports (docs/theory-networks.md)."""

from isac_toolbox.nn.export.files import export_onnx, load_compressed, save_compressed
from isac_toolbox.nn.export.shrink import fold_batch_norm, shrink

__all__ = ["export_onnx", "fold_batch_norm", "load_compressed", "save_compressed", "shrink"]
