"""Patterns that hardware likes: accuracy, size and measured time of each beside the dense network.

An MLP of 256 - 512 - 512 - 10 on scikit-learn's digits of 16 x 16 pixels, trained for 20 epochs and
compressed by `compress(max_loss_drop=0.01)` for 20 more with each pattern. Times are medians of 64 images
on one thread, the forms in turn in the same run: `small` is the exported network, `blocks` the form of
`to_block_sparse` with every layer in blocks, `onnx` and `int8` the files of `export_onnx` in onnxruntime,
where it is installed. `filled` is the part of the blocks of the exported layers that hold a weight. The
last lines are a transformer whose heads have one gate each.

python benchmarks/nn/hardware.py [--seed 31] > benchmarks/nn/hardware.txt
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from any_network import images
from torch import Tensor, nn
from torch.nn import functional as F

from isac_toolbox.nn import (
    BlockSparseLinear,
    CompressionSettings,
    TensorLoader,
    compress,
    export_onnx,
    models,
    save_compressed,
    to_block_sparse,
)
from isac_toolbox.nn.training import accuracy, train

EPOCHS, BATCH, REPEATS = 20, 64, 60
WIDTH, N_HEADS = 32, 4
PATTERNS: dict[str, dict[str, Any]] = {
    "single weights": {"support": "independent"},
    "runs": {},
    "blocks of 4": {"block": 4},
    "blocks of 8": {"block": 8},
    "blocks of 16": {"block": 16},
    "2 of 4": {"n_of_m": (2, 4)},
}


class Attention(nn.Module):
    """Self-attention with a layer for queries, keys and values each."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            f(x).unflatten(2, (-1, WIDTH // N_HEADS)).transpose(1, 2) for f in (self.q, self.k, self.v)
        )
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Transformer(nn.Module):
    """Two layers over patches of 4 x 4 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.head = nn.Linear(16, WIDTH), nn.Linear(WIDTH, 10)
        self.place = nn.Parameter(0.1 * torch.randn(16, WIDTH))
        self.attentions = nn.ModuleList([Attention() for _ in range(2)])
        self.units = nn.ModuleList(
            [
                nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))
                for _ in range(2)
            ]
        )
        self.norms = nn.ModuleList([nn.LayerNorm(WIDTH) for _ in range(4)])

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x.unfold(2, 4, 4).unfold(3, 4, 4).flatten(1, 3).flatten(2)) + self.place
        for i, (attention, units) in enumerate(zip(self.attentions, self.units, strict=True)):
            x = x + attention(self.norms[2 * i](x))
            x = x + units(self.norms[2 * i + 1](x))
        return self.head(x.mean(1))


def milliseconds(forms: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """Return the median time of each form, measured in turn."""
    times: dict[str, list[float]] = {name: [] for name in forms}
    with torch.inference_mode():
        for _ in range(REPEATS):
            for name, call in forms.items():
                start = time.perf_counter()
                call()
                times[name].append(1e3 * (time.perf_counter() - start))
    return {name: statistics.median(found) for name, found in times.items()}


def onnx_forms(model: nn.Module, x: Tensor, folder: Path) -> dict[str, Callable[[], Any]]:
    """Return calls of the float and the eight-bit file, none without onnxruntime."""
    if any(find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime")):
        return {}
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    calls = {}
    for name in ("onnx", "int8"):
        path = export_onnx(model, folder / name, x, int8=name == "int8")
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        given = {session.get_inputs()[0].name: x.numpy()}
        calls[name] = lambda session=session, given=given: session.run(None, given)[0]
    return calls


def part_right(output: Any, target: Tensor) -> float:
    """Part of the right decisions."""
    return float((torch.as_tensor(output).argmax(1) == target).float().mean())


def fit(model: nn.Module, sets: list[Any], seed: int, settings: CompressionSettings) -> Any:
    """Compress a trained network."""
    loader = TensorLoader(*sets[0], batch_size=64, seed=seed)
    validation = TensorLoader(*sets[1], batch_size=256, shuffle=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return compress(
            model,
            loader,
            val_loader=validation,
            settings=settings,
            epochs=EPOCHS,
            seed=seed,
            progress=False,
        )


def row(name: str, settings: dict[str, Any], dense: nn.Module, sets: list[Any], seed: int) -> str:
    """Return the line of a pattern."""
    pattern = CompressionSettings(**settings)
    result = fit(dense, sets, seed, pattern)
    test = TensorLoader(*sets[2], batch_size=256, shuffle=False)
    small, x, y = result.model.eval(), sets[2][0], sets[2][1]
    batch = x[:BATCH]
    side = pattern.block[0]  # type: ignore[index]
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")
        blocks = to_block_sparse(small, side if side > 1 else 4, below=1.0)
        filled = [m.filled for m in blocks.modules() if hasattr(m, "filled")]
        forms = {
            "dense": lambda: dense(batch),
            "small": lambda: small(batch),
            "blocks": lambda: blocks(batch),
        }
        whole = onnx_forms(small, x, Path(folder))
        right = {kind: part_right(call(), y) for kind, call in whole.items()}
        times = milliseconds(forms) | milliseconds(onnx_forms(small, batch, Path(folder)))
        file = save_compressed(
            Path(folder) / "net", result.compressor.masked_model(), result.compressor.support()
        )
        size = file.stat().st_size / 1000
    shown = "".join(
        f"{times[k]:8.3f}" if k in times else "       -" for k in ("dense", "small", "blocks", "onnx", "int8")
    )
    eight = f"{right['int8']:.3f}" if right else "-"
    return (
        f"{name:16}{accuracy(small, test):7.3f}{eight:>7}{result.report.density:9.3f}"
        f"{sum(filled) / max(len(filled), 1):8.2f}{size:8.0f}{shown}"
    )


def heads(sets: list[Any], seed: int) -> str:
    """Return how many heads are left where a head has one gate, and where every row has one."""
    lines = []
    names = [f"attentions.{i}.{part}" for i in range(2) for part in "qkv"]
    torch.manual_seed(seed)
    loader = TensorLoader(*sets[0], batch_size=64, seed=seed)
    dense = train(Transformer(), loader, epochs=2 * EPOCHS, seed=seed)
    test = TensorLoader(*sets[2], batch_size=256, shuffle=False)
    for title, rows in (("a gate a row", {}), ("a gate a head", dict.fromkeys(names, WIDTH // N_HEADS))):
        result = fit(dense, sets, seed, CompressionSettings(gate_rows=rows))
        masks = result.compressor.support()
        left = [int(masks[f"attentions.{i}.v"].reshape(N_HEADS, -1).any(1).sum()) for i in range(2)]
        times = milliseconds(
            {
                "dense": lambda: dense(sets[2][0][:BATCH]),
                "small": lambda r=result: r.model(sets[2][0][:BATCH]),
            }
        )
        lines.append(
            f"{title:16}accuracy {accuracy(dense, test):.3f} -> {accuracy(result.model, test):.3f}, density "
            f"{result.report.density:.2f}, heads left {left} of {[N_HEADS] * 2}, MACs "
            f"{result.report.macs / result.report.macs_dense:.2f}, ms {times['dense']:.2f} -> "
            f"{times['small']:.2f}"
        )
    return "\n".join(lines)


def crossover() -> str:
    """Return the time of a layer of 512 x 512 in blocks over that of the dense product, by what is filled."""
    lines = []
    x = torch.randn(BATCH, 512)
    for side in (4, 8, 16):
        ratios = []
        for filled in (0.05, 0.1, 0.2, 0.3, 0.5):
            layer = nn.Linear(512, 512)
            kept = torch.rand(512 // side, 512 // side) < filled
            layer.weight.data *= kept.repeat_interleave(side, 0).repeat_interleave(side, 1)
            fast = BlockSparseLinear(layer, side)
            times = milliseconds({"dense": lambda layer=layer: layer(x), "blocks": lambda fast=fast: fast(x)})
            ratios.append(f"{filled}: {times['blocks'] / times['dense']:.2f}")
        lines.append(f"blocks of {side}, time over dense by filled part  {'  '.join(ratios)}")
    return "\n".join(lines)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=31)
    seed = parser.parse_args().seed
    torch.set_num_threads(1)
    sets = images()
    torch.manual_seed(seed)
    loader = TensorLoader(*sets[0], batch_size=64, seed=seed)
    dense = train(models.mlp(256, (512, 512), 10), loader, epochs=EPOCHS, seed=seed)
    test = TensorLoader(*sets[2], batch_size=256, shuffle=False)
    print(
        f"seed {seed}; dense accuracy {accuracy(dense, test):.3f}; kB of the compressed file; ms per "
        f"{BATCH} images"
    )
    print(
        f"{'pattern':16}{'accur.':>7}{'int8':>7}{'density':>9}{'filled':>8}{'kB':>8}{'dense':>8}{'small':>8}"
        f"{'blocks':>8}{'onnx':>8}{'int8':>8}"
    )
    for name, settings in PATTERNS.items():
        print(row(name, settings, dense, sets, seed), flush=True)
    print(heads(sets, seed), flush=True)
    print(crossover())


if __name__ == "__main__":
    main()
