"""Compression and sparse Bayesian training of neural networks (docs/theory-networks.md, docs/theory-ssvi.md).

Priors, support graphs and messages are those of ``isac_toolbox.inference``, which the channel estimators call
as well. PyTorch is imported by this package alone.

``compress`` makes any ``torch.nn.Module`` smaller as far as it loses no more than asked, or to a budget::

    result = compress(model, train_loader, max_loss_drop=0.01, val_loader=val_loader)
    result.model, result.report.compression  # a smaller plain torch.nn.Module, and how much smaller

``TurboVBICompressor`` has the steps one by one::

    compressor = TurboVBICompressor(model, temperature=0.2)
    compressor.fit(train_loader, epochs=30)
    compressor.finetune(train_loader, epochs=10, teacher=model)
    compressor.report().compression, compressor.report().neurons_kept
    small = compressor.export()  # a smaller plain torch.nn.Module

``SSVI`` trains Bayesian networks that are sparse from the first step::

    SSVI(model, density=0.05).fit(train_loader, epochs=30).predict_proba(x, n_samples=10)
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

_missing = [name for name in ("torch", "safetensors") if find_spec(name) is None]
if _missing:
    raise ImportError(
        f"isac_toolbox.nn needs {' and '.join(_missing)}, which is not installed; "
        'get it with: pip install "isac_toolbox[nn]"'
    )

_PUBLIC = {
    "compress": "one_call",
    "CompressedNetwork": "one_call",
    "TurboVBICompressor": "turbo_vbi",
    "CompressionSettings": "turbo_vbi",
    "EpochRecord": "turbo_vbi",
    "VariationalLinear": "layers",
    "VariationalConv2d": "layers",
    "convert": "layers",
    "gaussian_kl": "layers",
    "CompressionReport": "export.report",
    "LayerReport": "export.report",
    "make_report": "export.report",
    "shrink": "export",
    "save_compressed": "export",
    "load_compressed": "export",
    "export_onnx": "export",
    "to_block_sparse": "export.block_sparse",
    "BlockSparseLinear": "export.block_sparse",
    "count_macs": "export.macs",
    "filter_macs": "export.macs",
    "mac_gates": "export.macs",
    "CSVLog": "csv_log",
    "TensorLoader": "data",
    "load_digits_split": "data",
    "load_fashion_mnist": "data",
    "load_cifar10": "data",
    "load_mnist_digits": "data",
    "SSVI": "ssvi",
    "SSVIReport": "ssvi",
    "SSVISettings": "ssvi",
    "DenseVI": "ssvi",
    "MagnitudeSparse": "ssvi",
    "PrunedVI": "ssvi",
    "neighbour_distance": "evaluation",
    "ood_auroc": "evaluation",
    "penultimate_features": "evaluation",
    "prediction_metrics": "evaluation",
}
# Modules by their public names; some of the names are older than the layout.
_MODULES = {
    "baselines": "baselines",
    "channels": "export.graph",
    "codings": "export.codings",
    "data": "data",
    "evaluation": "evaluation",
    "export": "export",
    "flops": "export.macs",
    "layers": "layers",
    "models": "models",
    "posterior": "turbo_vbi.trainer",
    "priors": "turbo_vbi.prior",
    "report": "export.report",
    "sparse_linear": "ssvi.sparse_linear",
    "ssvi": "ssvi",
    "training": "training",
    "turbo_vbi": "turbo_vbi",
}

__all__ = sorted({*_PUBLIC, *_MODULES})


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        value = getattr(import_module(f"isac_toolbox.nn.{_PUBLIC[name]}"), name)
    elif name in _MODULES:
        value = import_module(f"isac_toolbox.nn.{_MODULES[name]}")
    else:
        raise AttributeError(f"module 'isac_toolbox.nn' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))


if TYPE_CHECKING:
    from isac_toolbox.nn import baselines as baselines
    from isac_toolbox.nn import models as models
    from isac_toolbox.nn.csv_log import CSVLog as CSVLog
    from isac_toolbox.nn.data import TensorLoader as TensorLoader
    from isac_toolbox.nn.data import load_cifar10 as load_cifar10
    from isac_toolbox.nn.data import load_digits_split as load_digits_split
    from isac_toolbox.nn.data import load_fashion_mnist as load_fashion_mnist
    from isac_toolbox.nn.data import load_mnist_digits as load_mnist_digits
    from isac_toolbox.nn.evaluation.metrics import prediction_metrics as prediction_metrics
    from isac_toolbox.nn.evaluation.ood import neighbour_distance as neighbour_distance
    from isac_toolbox.nn.evaluation.ood import ood_auroc as ood_auroc
    from isac_toolbox.nn.evaluation.ood import penultimate_features as penultimate_features
    from isac_toolbox.nn.export.files import export_onnx as export_onnx
    from isac_toolbox.nn.export.files import load_compressed as load_compressed
    from isac_toolbox.nn.export.files import save_compressed as save_compressed
    from isac_toolbox.nn.export.macs import count_macs as count_macs
    from isac_toolbox.nn.export.macs import filter_macs as filter_macs
    from isac_toolbox.nn.export.macs import mac_gates as mac_gates
    from isac_toolbox.nn.export.report import CompressionReport as CompressionReport
    from isac_toolbox.nn.export.report import LayerReport as LayerReport
    from isac_toolbox.nn.export.report import make_report as make_report
    from isac_toolbox.nn.export.shrink import shrink as shrink
    from isac_toolbox.nn.layers import VariationalConv2d as VariationalConv2d
    from isac_toolbox.nn.layers import VariationalLinear as VariationalLinear
    from isac_toolbox.nn.layers import convert as convert
    from isac_toolbox.nn.layers import gaussian_kl as gaussian_kl
    from isac_toolbox.nn.one_call import CompressedNetwork as CompressedNetwork
    from isac_toolbox.nn.one_call import compress as compress
    from isac_toolbox.nn.ssvi.baselines import DenseVI as DenseVI
    from isac_toolbox.nn.ssvi.baselines import MagnitudeSparse as MagnitudeSparse
    from isac_toolbox.nn.ssvi.baselines import PrunedVI as PrunedVI
    from isac_toolbox.nn.ssvi.classifier import SSVI as SSVI
    from isac_toolbox.nn.ssvi.classifier import SSVIReport as SSVIReport
    from isac_toolbox.nn.ssvi.settings import SSVISettings as SSVISettings
    from isac_toolbox.nn.turbo_vbi.compressor import TurboVBICompressor as TurboVBICompressor
    from isac_toolbox.nn.turbo_vbi.settings import CompressionSettings as CompressionSettings
    from isac_toolbox.nn.turbo_vbi.trainer import EpochRecord as EpochRecord
