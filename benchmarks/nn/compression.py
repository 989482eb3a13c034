"""Compression of LeNet-300-100 and LeNet-5 on Fashion-MNIST: Turbo-VBI against other methods.

python benchmarks/nn/compression.py [--network lenet-300-100] [--seeds 3,4,5] [--methods turbo-chain,...]
python benchmarks/nn/compression.py --select [--network lenet-300-100]

Every run gets the same number of epochs: the first part trains the dense network (`dense-start`, shared by
all methods of a seed), the rest compresses and fine-tunes; the reference `dense` trains on for all of it. The
network `dense-start` is the teacher of every method in fine-tuning, and of Turbo-VBI in its fit as well where
the point's `distillation` is not 0. The last 5,000 training images are the validation set (15,000 for the
last choice), by which settings are chosen with another seed (`--select`); of LeNet-5 that holds for the
charge per MAC and the stop, while temperatures, chain and fine-tuning were set on seeds 0 to 2 with the test
figures in sight. All others get the number of weights that the chain kept with the same seed (torch-pruning
on LeNet-5: its MACs). Torch-pruning runs both global and uniform; the better one on validation images counts.
Each finished run is one line of the results file at once, and a restart skips it.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from compression_plans import CANDIDATES, METHODS, MORE_VALIDATION, N_VALIDATION, PLANS, Point
from compression_table import measure_times, print_table
from results import append_line, find_line, read_lines
from torch import Tensor, nn

from isac_toolbox.nn import (
    EpochRecord,
    TensorLoader,
    TurboVBICompressor,
    baselines,
    data,
    load_fashion_mnist,
    mac_gates,
    models,
    training,
)
from isac_toolbox.nn.export.codings import encode_runs
from isac_toolbox.nn.export.report import CompressionReport
from isac_toolbox.nn.training import accuracy, train

RESULTS = Path(__file__).with_name("compression.jsonl")
CACHE = Path(tempfile.gettempdir()) / "isac-toolbox-nn"
#: Its first masks are kept, for the figures.
MASK_SEED = 3
BATCH = 128
FINETUNE_RATE = 2e-3
SELECTION = Path(__file__).parent / "selection" / "compression.jsonl"
SELECTION_SEED = 6


class Bench:
    """Data and cached dense networks of one architecture."""

    def __init__(self, network: str, n_validation: int = N_VALIDATION) -> None:
        self.network, self.plan = network, PLANS[network]
        flat = network == "lenet-300-100"
        x, y = load_fashion_mnist(split="train", flat=flat).tensors
        x_test, y_test = load_fashion_mnist(split="test", flat=flat).tensors
        cut = len(x) - n_validation
        self.train_x, self.train_y = x[:cut], y[:cut]
        self.validation = TensorLoader(x[cut:], y[cut:], batch_size=1000, shuffle=False)
        self.test = TensorLoader(x_test, y_test, batch_size=1000, shuffle=False)

    def loader(self, seed: int) -> TensorLoader:
        """Training batches in the order of the seed."""
        return TensorLoader(self.train_x, self.train_y, batch_size=BATCH, seed=seed)

    def new_network(self, seed: int) -> nn.Module:
        """Weights drawn from the seed."""
        torch.manual_seed(seed)
        if self.network == "lenet-300-100":
            return models.lenet_300_100()
        return models.lenet_5().to(memory_format=torch.channels_last)  # trains 1.6 times faster

    def dense(self, seed: int, epochs: int) -> nn.Module:
        """A trained dense network, kept in a file until the code that trains it changes."""
        CACHE.mkdir(parents=True, exist_ok=True)
        file = CACHE / f"{self.network}-{seed}-{epochs}-{BATCH}-{len(self.train_x)}-{_training_code()}.pt"
        net = self.new_network(seed)
        if file.exists():
            net.load_state_dict(torch.load(file, weights_only=True))
        else:
            train(net, self.loader(seed), epochs=epochs, seed=seed)
            torch.save(net.state_dict(), file)
        return net.eval()

    def run(self, method: str, point: str, seed: int, target: dict[str, Any] | None) -> dict[str, Any]:
        """One run; the line for the results file."""
        start = time.perf_counter()
        if method == "dense":
            net = self.dense(seed, self.plan.epochs)
            return self._line(method, point, seed, net, None, None, {}, start)
        dense = self.dense(seed, self.plan.dense_epochs)
        if method == "dense-start":
            return self._line(method, point, seed, dense, None, None, {}, start)
        if method.startswith("turbo"):
            chosen = self.plan.settings(point, method)
            if target is not None:
                chosen = replace(chosen, weights=sum(layer["n_kept"] for layer in target["layers"]))
            masked, masks, report = self._turbo(chosen, seed, dense)
        else:
            assert target is not None
            result = self._baseline(method, seed, dense, target)
            masked, masks, report = result.model, dict(result.masks), result.report
        line = self._line(method, point, seed, masked, report, dense, masks, start)
        if method.startswith("turbo"):
            line |= {"settings": asdict(chosen)} | self.export_errors
        return line

    def try_out(self, chosen: Point, seed: int) -> dict[str, Any]:
        """One run of a candidate; what a choice may look at."""
        net, _, report = self._turbo(chosen, seed, self.dense(seed, self.plan.dense_epochs))
        line = {"network": self.network, "seed": seed, "settings": asdict(chosen)}
        first = report.layers[0]
        return line | {
            "validation_accuracy": accuracy(net, self.validation),
            "compression": report.compression,
            "neurons": first.neurons_kept,
            "mean_run": first.mean_run,
            "macs": report.macs,
        }

    def _turbo(
        self, chosen: Point, seed: int, dense: nn.Module
    ) -> tuple[nn.Module, dict[str, Tensor], CompressionReport]:
        loader, given = self.loader(seed), chosen.graph()
        if chosen.mac_nats is not None:
            given["gate"] = mac_gates(dense, tuple(self.train_x.shape[1:]), chosen.mac_nats)
        compressor = TurboVBICompressor(
            dense,
            temperature=chosen.temperature,
            temperature_start=chosen.start,
            support_temperature=chosen.support_temperature,
            precision=chosen.precision,
            variance_growth=chosen.variance_growth,
            anneal=chosen.anneal if chosen.macs is None else 1.0,
            temperature_factors=chosen.temperature_factors,
            warmup_epochs=2,
            learning_rate=chosen.learning_rate,
            curvature_decay=chosen.curvature_decay,
            seed=seed,
            **given,
        )
        epochs = self.plan.compress_epochs + chosen.moved_epochs

        def small_enough(record: EpochRecord) -> bool:
            _print_progress(record)
            return chosen.macs is not None and lenet_5_macs(*record.neurons) <= chosen.stop * chosen.macs

        compressor.fit(
            loader,
            epochs=epochs,
            teacher=dense if chosen.distillation else None,
            distillation=chosen.distillation,
            callback=small_enough,
            progress=False,
        )
        if chosen.macs is not None:
            compressor.keep_macs_at_most(chosen.macs).fill_neurons()
            return self._export_first(compressor, loader, dense, seed)
        left = self.plan.compress_epochs + self.plan.finetune_epochs - len(compressor.history)
        tuning: dict[str, Any] = {"learning_rate": FINETUNE_RATE, "teacher": dense, "progress": False}
        if chosen.weights is not None:
            for n_weights, part in chosen.steps:
                compressor.keep_at_most(n_weights).finetune(loader, epochs=part, **tuning)
                left -= part
            compressor.keep_at_most(chosen.weights)
        compressor.finetune(loader, epochs=left, **tuning)
        self._check_export(compressor)
        return compressor.masked_model(), compressor.support(), compressor.report()

    def _check_export(self, compressor: TurboVBICompressor) -> None:
        """Largest difference between the logits of masked and exported network, in both precisions."""
        nets = compressor.masked_model(), compressor.export()
        self.export_errors = {"export_error": _deviation(*nets, self.test.x[:1000])}
        doubled = (net.double() for net in nets)
        self.export_errors["export_error_float64"] = _deviation(*doubled, self.test.x[:1000].double())

    def _export_first(
        self, compressor: TurboVBICompressor, loader: TensorLoader, dense: nn.Module, seed: int
    ) -> tuple[nn.Module, dict[str, Tensor], CompressionReport]:
        """Where MACs count, the exported network is plain and dense, and is fine-tuned as that."""
        tuning = {"teacher": dense, "distillation": 0.95, "weight_decay": 0.02, "learning_rate": 5e-3}
        self._check_export(compressor)
        first = len(compressor.history)
        epochs = self.plan.compress_epochs - first + self.plan.finetune_epochs
        small = train(compressor.export(), loader, epochs=epochs, seed=seed, first_epoch=first, **tuning)
        return small, compressor.support(), compressor.report()

    def _baseline(
        self, method: str, seed: int, dense: nn.Module, target: dict[str, Any]
    ) -> baselines.BaselineResult:
        tuning, loader = baselines.Finetuning(FINETUNE_RATE, teacher=dense, seed=seed), self.loader(seed)
        density, first, last = target["density"], self.plan.compress_epochs, self.plan.finetune_epochs
        if method == "magnitude-one-shot":
            return baselines.magnitude(dense, loader, density=density, epochs=first + last, tuning=tuning)
        if method == "magnitude-iterative":
            return baselines.magnitude(
                dense, loader, density=density, epochs=first + last, steps=20, tuning=tuning
            )
        if method == "torch-pruning":
            goal = {"density": density} if self.network == "lenet-300-100" else {"macs": target["macs"]}
            goal |= {"epochs": first + last, "tuning": tuning}
            tried = [baselines.torch_pruning(dense, loader, global_pruning=g, **goal) for g in (True, False)]
            return max(tried, key=lambda result: accuracy(result.model, self.validation))
        both = {"density": density, "epochs": first, "finetune_epochs": last, "tuning": tuning}
        if method == "group-lasso":
            return baselines.group_lasso(dense, loader, **both)
        return baselines.sparse_variational_dropout(dense, loader, **both)

    def _line(
        self,
        method: str,
        point: str,
        seed: int,
        net: nn.Module,
        report: CompressionReport | None,
        dense: nn.Module | None,
        masks: dict[str, Tensor],
        start: float,
    ) -> dict[str, Any]:
        line: dict[str, Any] = {
            "network": self.network,
            "method": method,
            "point": point,
            "seed": seed,
            "epochs": self.plan.epochs,
            "validation_accuracy": accuracy(net, self.validation),
            "test_accuracy": accuracy(net, self.test),
            "seconds": round(time.perf_counter() - start, 1),
        }
        if report is not None and dense is not None:
            line |= report.to_dict()
        if masks and seed == MASK_SEED:
            line["first_mask"] = _packed(next(iter(masks.values())))
        return line


def _training_code() -> str:
    """Digest of the code that a dense network comes from, and the version of PyTorch."""
    files = [Path(str(module.__file__)).read_bytes() for module in (models, training, data)]
    return hashlib.sha256(b"".join([*files, torch.__version__.encode()])).hexdigest()[:12]


def lenet_5_macs(first: int, second: int, hidden: int, classes: int) -> int:
    """MACs of LeNet-5 with so many filters and units, on 28 x 28 images."""
    return 24**2 * 25 * first + 8**2 * 25 * first * second + 4**2 * second * hidden + hidden * classes


def _print_progress(record: EpochRecord) -> None:
    """Print one epoch of a fit."""
    shown = f"T {record.temperature:.2f}, {record.n_connected} weights, neurons {record.neurons}"
    print(f"  epoch {record.epoch}: {shown}, {record.seconds:.0f} s", flush=True)


def _packed(mask: Tensor) -> dict[str, Any]:
    """A mask as text: its run-length stream."""
    index = encode_runs(mask.numpy(force=True))
    text = base64.b64encode(index.stream.tobytes()).decode()
    return {
        "stream": text,
        "n_runs": index.n_runs,
        "gap_order": index.gap_order,
        "length_order": index.length_order,
        "shape": list(index.shape),
        "n_bits": index.n_bits,
    }


def _deviation(a: nn.Module, b: nn.Module, x: Tensor) -> float:
    with torch.inference_mode():
        return float((a(x) - b(x)).abs().max())


def jobs(network: str, seeds: list[int], methods: list[str]) -> Iterator[tuple[str, str, int]]:
    """(method, point, seed) in the order in which they are wanted."""
    for point in PLANS[network].points:
        for method in METHODS:
            if method in methods:
                for seed in seeds:
                    yield method, "" if method.startswith("dense") else point, seed


def main() -> None:
    """Run what is missing, then print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--network", choices=[*PLANS], default="lenet-300-100")
    parser.add_argument("--seeds", default="3,4,5")
    parser.add_argument("--select", action="store_true", help="only try the candidates, on validation images")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--table", action="store_true", help="only print what is there")
    parser.add_argument("--time", action="store_true", help="only measure the exported networks again")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.time:
        lines = read_lines(RESULTS)
        measure_times(lines)
        RESULTS.write_text("".join(json.dumps(line) + "\n" for line in lines))
    elif options.select:
        select(options.network, SELECTION_SEED)
        return
    elif not options.table:
        seeds = [int(seed) for seed in options.seeds.split(",")]
        run_all(options.network, seeds, options.methods.split(","))
    print_table(read_lines(RESULTS))


def run_all(network: str, seeds: list[int], methods: list[str]) -> None:
    """Every missing job; each result is stored at once."""
    bench = Bench(network)
    for method, point, seed in jobs(network, seeds, methods):
        lines = read_lines(RESULTS)
        key = {"network": network, "method": method, "point": point, "seed": seed}
        if find_line(lines, key):
            continue
        target = find_line(lines, key | {"method": "turbo-chain"})
        if target is None and not method.startswith(("dense", "turbo")):
            print(f"skipped {method} {point} seed {seed}: turbo-chain must come first", flush=True)
            continue
        line = bench.run(method, point, seed, target)
        append_line(RESULTS, line)
        smaller = f"1/{line.get('compression', 1.0):.1f}"
        outcome = f"test {line['test_accuracy']:.4f}, {smaller}, {line['seconds']} s"
        print(f"{network} {method} {point} seed {seed}: {outcome}", flush=True)


def select(network: str, seed: int) -> None:
    """Try every candidate of a network; validation images alone are seen."""
    for group, candidates in CANDIDATES[network].items():
        n_validation = MORE_VALIDATION.get(group, N_VALIDATION)
        bench = Bench(network, n_validation)
        for chosen in candidates:
            key = {"network": network, "seed": seed, "settings": json.loads(json.dumps(asdict(chosen)))}
            key["n_validation"] = n_validation
            if find_line(read_lines(SELECTION), key):
                continue
            line = bench.try_out(chosen, seed) | {"n_validation": n_validation}
            append_line(SELECTION, line)
            print(line, flush=True)


if __name__ == "__main__":
    main()
