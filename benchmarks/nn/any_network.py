"""Default settings on twelve kinds of networks: is what is asked for kept, and how many weights go?

python benchmarks/nn/any_network.py [--seeds 11,12] [--epochs 20] [--networks mlp,unet] [--out FILE.jsonl]

Every network is compressed twice by `isac_toolbox.nn.compress(model, loader, val_loader=...)` with no other
setting than loss and epochs: untrained, and after a dense training of as many epochs from the same start. The
dense reference is that training in both cases. Kept means: the exported module loses at most one point of the
metric on the test set (1,491 images of 497 digits, or 1,500 examples), or 1 % of the loss of the regression.
The fit trains for as many epochs again, so that it can win what the dense training, where it was too
short, had not reached yet. Data are scikit-learn's digits, enlarged to 16 x 16 pixels and shifted (validation
and test: three shifts of each), and examples drawn from formulas. The guard of the fit was developed on these
networks and data; the stored runs have other seeds of weights, orders and noise.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from isac_toolbox.nn import TensorLoader, compress, load_digits_split, models
from isac_toolbox.nn.objective import Objective
from isac_toolbox.nn.training import train

HERE = Path(__file__).parent
Split = tuple[Tensor, Tensor]


# ---- networks ------------------------------------------------------------------------------------------


def conv(n_in: int, n_out: int, size: int = 3, groups: int = 1, stride: int = 1) -> nn.Sequential:
    """Convolution, normalisation, rectifier."""
    layer = nn.Conv2d(n_in, n_out, size, stride, size // 2, groups=groups, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(n_out), nn.ReLU())


def vgg() -> nn.Module:
    """Plain stack of convolutions."""
    blocks = [conv(1, 16), conv(16, 16), nn.MaxPool2d(2), conv(16, 32), conv(32, 32), nn.MaxPool2d(2)]
    return nn.Sequential(*blocks, nn.Flatten(), nn.Linear(512, 64), nn.ReLU(), nn.Linear(64, 10))


def mobilenet() -> nn.Module:
    """Depthwise and pointwise convolutions."""
    blocks = [conv(1, 16)]
    for n_in, n_out, stride in ((16, 32, 2), (32, 32, 1), (32, 64, 2)):
        blocks += [conv(n_in, n_in, groups=n_in, stride=stride), conv(n_in, n_out, 1)]
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


class DenseNet(nn.Module):
    """Every convolution reads all channels before it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(1, 12)
        self.layers = nn.ModuleList([conv(12 + 12 * i, 12) for i in range(5)])
        self.head = nn.Linear(72, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.stem(x), 2)
        for layer in self.layers:
            x = torch.cat([x, layer(x)], 1)
        return self.head(x.mean((2, 3)))


class UNet(nn.Module):
    """Two scales with a skip connection; a class for every pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.deep = (
            nn.Sequential(conv(1, 12), conv(12, 12)),
            nn.Sequential(conv(12, 24), conv(24, 24)),
        )
        self.up, self.out = conv(36, 12), nn.Conv2d(12, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        fine = self.down(x)
        coarse = F.interpolate(self.deep(F.max_pool2d(fine, 2)), scale_factor=2.0)
        return self.out(self.up(torch.cat([fine, coarse], 1)))


class Transformer(nn.Module):
    """Encoder over patches of an image, or over tokens."""

    def __init__(self, n_classes: int, n_tokens: int, vocabulary: int | None = None, width: int = 32) -> None:
        super().__init__()
        self.enter = nn.Linear(16, width) if vocabulary is None else nn.Embedding(vocabulary, width)
        self.place = nn.Parameter(0.1 * torch.randn(n_tokens, width))
        layer = nn.TransformerEncoderLayer(width, 4, 4 * width, 0.0, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(width, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        if x.is_floating_point():
            x = x.unfold(2, 4, 4).unfold(3, 4, 4).flatten(1, 3).flatten(2)
        return self.head(self.encoder(self.enter(x) + self.place).mean(1))


class Recurrent(nn.Module):
    """The rows of an image, one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(16, 32, batch_first=True)
        self.head = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 10))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.gru(x[:, 0])[0][:, -1])


def multilabel() -> nn.Module:
    """Three questions about a digit."""
    return nn.Sequential(
        conv(1, 16), nn.MaxPool2d(2), conv(16, 32), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(512, 3)
    )


# ---- data ----------------------------------------------------------------------------------------------


def images(target: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None) -> list[Split]:
    """Digits of 16 x 16 pixels, shifted by up to two: 1,000, 3 x 300 and 3 x 497 of them."""
    parts = load_digits_split(0)
    x = torch.cat([part.tensors[0] for part in parts]).reshape(-1, 1, 8, 8)
    y = torch.cat([part.tensors[1] for part in parts])
    x = F.interpolate(x, scale_factor=2.0, mode="bilinear")
    generator = torch.Generator().manual_seed(1)
    sets = []
    for start, stop, copies in ((0, 1000, 1), (1000, 1300, 3), (1300, 1797, 3)):
        shifted = []
        for _ in range(copies):
            moves = torch.randint(-2, 3, (stop - start, 2), generator=generator)
            shifted += [
                torch.roll(image, tuple(move), (1, 2))
                for image, move in zip(x[start:stop], moves.tolist(), strict=True)
            ]
        pair = torch.stack(shifted), y[start:stop].repeat(copies)
        sets.append(pair if target is None else target(*pair))
    return sets


def segments(x: Tensor, _: Tensor) -> Split:
    """Which pixels of a noisy image are ink."""
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(2))
    return x + 0.3 * noise, (x[:, 0] > 0.4).long()


def questions(x: Tensor, y: Tensor) -> Split:
    """Is it even, is it above four, has it a loop."""
    loop = (y == 0) | (y == 6) | (y == 8) | (y == 9)
    return x, torch.stack([y % 2 == 0, y > 4, loop], 1).float()


def tokens() -> list[Split]:
    """Which of three groups of tokens is the most frequent among sixteen."""
    generator = torch.Generator().manual_seed(3)
    sets = []
    for n in (2000, 500, 1500):
        x = torch.randint(30, (n, 16), generator=generator)
        counts = torch.stack([(x // 10 == group).sum(1) for group in range(3)], 1)
        sets.append((x, (counts + 0.1 * torch.arange(3)).argmax(1)))
    return sets


def curves() -> list[Split]:
    """A smooth function of six numbers, with noise."""
    generator = torch.Generator().manual_seed(4)
    sets = []
    for n in (2000, 500, 1500):
        x = torch.rand(n, 6, generator=generator) * 4.0 - 2.0
        y = torch.sin(2.0 * x[:, 0]) + x[:, 1] * x[:, 2] + 0.3 * torch.randn(n, generator=generator)
        sets.append((x, y[:, None]))
    return sets


def right_labels(output: Tensor, target: Tensor) -> float:
    """Part of the labels that are right."""
    return float(((output > 0.0) == (target > 0.5)).float().mean())


@dataclass(frozen=True)
class Case:
    """A network with its task."""

    make: Callable[[], nn.Module]
    data: Callable[[], list[Split]] = images
    objective: Objective = field(default_factory=Objective)


CASES = {
    "mlp": Case(lambda: models.mlp(256, (128, 64), 10)),
    "lenet-5": Case(lambda: models.lenet_5(image_size=16, widths=(8, 16, 64))),
    "vgg": Case(vgg),
    "resnet-18": Case(lambda: models.resnet18(width=6)),
    "mobilenet": Case(mobilenet),
    "densenet": Case(DenseNet),
    "unet": Case(UNet, lambda: images(segments)),
    "vit": Case(lambda: Transformer(10, 16)),
    "bert": Case(lambda: Transformer(3, 16, 30), tokens),
    "gru": Case(Recurrent),
    "regression": Case(lambda: models.mlp(6, (64, 64), 1), curves, Objective(F.mse_loss)),
    "multilabel": Case(
        multilabel,
        lambda: images(questions),
        Objective(F.binary_cross_entropy_with_logits, right_labels),
    ),
}


# ---- run -----------------------------------------------------------------------------------------------


def run(name: str, seed: int, epochs: int) -> list[dict[str, Any]]:
    """Compress a network untrained and trained."""
    case = CASES[name]
    sets = case.data()
    loader = TensorLoader(*sets[0], batch_size=64, seed=seed)
    validation, test = (TensorLoader(*part, batch_size=256, shuffle=False) for part in sets[1:])
    torch.manual_seed(seed)
    fresh = case.make()
    dense = train(deepcopy(fresh), loader, epochs=epochs, seed=seed, loss=case.objective.loss)
    dense_loss, dense_metric = case.objective.evaluate(dense, test)
    rows = []
    for state, network in (("untrained", fresh), ("trained", dense)):
        start = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = compress(
                network,
                loader,
                val_loader=validation,
                loss=case.objective.loss,
                metric=case.objective.metric,
                epochs=epochs,
                seed=seed,
                progress=False,
            )
        loss, metric = case.objective.evaluate(result.model, test)
        lost = dense_metric - metric if metric == metric else (loss - dense_loss) / dense_loss
        rows.append(
            {
                "network": name,
                "state": state,
                "seed": seed,
                "epochs": epochs,
                "dense": dense_metric if metric == metric else dense_loss,
                "compressed": metric if metric == metric else loss,
                "lost": lost,
                "kept": lost <= 0.01 + 1e-9,
                "compression": result.report.compression,
                "n_parameters": sum(p.numel() for p in result.model.parameters()),
                "n_parameters_dense": sum(p.numel() for p in network.parameters()),
                "macs": result.report.macs,
                "macs_dense": result.report.macs_dense,
                "seconds": time.perf_counter() - start,
            }
        )
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Text of all runs, and how many keep what was asked and have three times fewer weights.

    A loss over the 497 digits of the test has a standard error of about a point itself.
    """
    order = list(CASES)
    rows = sorted(rows, key=lambda r: (order.index(r["network"]), r["seed"]))
    lines = [
        f"{'network':12}{'state':11}{'seed':>4}{'dense':>9}{'small':>9}{'lost':>9}{'weights':>9}{'MACs':>7}{'s':>7}"
    ]
    for r in rows:
        lines.append(
            f"{r['network']:12}{r['state']:11}{r['seed']:4d}{r['dense']:9.4f}{r['compressed']:9.4f}"
            f"{r['lost']:9.4f}{'1/' + format(r['compression'], '.1f'):>9}"
            f"{r['macs'] / max(r['macs_dense'], 1):7.2f}{r['seconds']:7.1f}"
        )
    kept, few = sum(r["kept"] for r in rows), sum(r["compression"] >= 3.0 for r in rows)
    both = sum(r["kept"] and r["compression"] >= 3.0 for r in rows)
    lines += ["", f"{'means':12}{'state':11}{'seeds':>5}{'lost':>9}{'weights':>9}"]
    by_case: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for r in rows:
        by_case.setdefault((r["network"], r["state"]), []).append(r)
    lost = {case: statistics.mean(r["lost"] for r in of) for case, of in by_case.items()}
    fewer = {case: statistics.geometric_mean(r["compression"] for r in of) for case, of in by_case.items()}
    for (name, state), of in by_case.items():
        case = name, state
        lines.append(
            f"{name:12}{state:11}{len(of):5d}{lost[case]:9.4f}{'1/' + format(fewer[case], '.1f'):>9}"
        )
    lines.append(
        f"of {len(by_case)} networks and states: kept {sum(v <= 0.01 for v in lost.values())}; three times "
        f"fewer weights: {sum(v >= 3.0 for v in fewer.values())}"
    )
    missing = [name for name in CASES if name not in {r["network"] for r in rows}]
    lines.append(f"of {len(rows)} runs: kept {kept}; three times fewer weights: {few}; both: {both}")
    if missing:
        lines.append(f"not run: {', '.join(missing)}")
    return "\n".join(lines)


def main() -> None:
    """Run what is asked for, go on where a file was stopped, and write a table beside it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", default="11", help="seeds, separated by commas")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--networks", default=",".join(CASES))
    parser.add_argument("--out", type=Path, default=HERE / "any_network.jsonl")
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = [json.loads(line) for line in given.out.read_text().splitlines()] if given.out.exists() else []
    for seed in map(int, given.seeds.split(",")):
        for name in given.networks.split(","):
            if any((r["network"], r["seed"]) == (name, seed) for r in rows):
                continue
            rows += run(name, seed, given.epochs)
            given.out.write_text("".join(json.dumps(r) + "\n" for r in rows))
            print(name, seed, flush=True)
    text = table(rows)
    given.out.with_suffix(".txt").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
