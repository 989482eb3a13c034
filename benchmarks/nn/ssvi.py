"""SSVI on Fashion-MNIST against dense variational inference, magnitude-sparse training and pruning.

python benchmarks/nn/ssvi.py [--network lenet-300-100] [--groups density,sigma,...] [--seeds 3,4,5]
                             [--densities 0.05,1]
python benchmarks/nn/ssvi.py --select [--network lenet-300-100]
python benchmarks/nn/ssvi.py --table

All methods of a network have the same epochs, batches, optimiser and prior. The last 5,000 training images
are the validation set. Learning rate and weight decay are chosen on validation images with another seed
(`--select`), before a test image is read: dense inference and SSVI want the same of the grid, on
LeNet-300-100 and on the ResNet, where 15,000 images are kept for the choice. How long LeNet-5 trains, and the
images, epochs and whole layers of the ResNet were set after shorter runs whose test figures had been seen;
its classifier is whole in the narrow one alone, the full one ran before. The ResNet is narrow and has few
epochs, so that a run ends within a quarter of an hour on two cores (`--threads 2`); `resnet-18-quarter` is
for dense inference alone, with 44,000 weights where the narrow one has 36,000 at 0.05; `resnet-18-full` takes
the whole width, for a GPU (`--device cuda`). Each finished run is one line of the results file at once, and a
restart skips it.

The stored lines of the full ResNet were trained by `Bench.run` before it had the neighbour score, with
cuDNN's autotuner on; that score was taken from their features by the same formula on the GPU (50th distance
of unit vectors), and agreed in four digits where both were tried. Lines that came out equal when run
again keep their first time.
"""

from __future__ import annotations

import argparse
import base64
import time
import warnings
from collections.abc import Callable, Collection, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from results import append_line, find_line, read_lines, spread
from rich.console import Console
from rich.table import Column, Table
from torch import Tensor, nn

from isac_toolbox.nn import TensorLoader, load_fashion_mnist, load_mnist_digits, models
from isac_toolbox.nn.evaluation.metrics import prediction_metrics
from isac_toolbox.nn.evaluation.ood import neighbour_distance, ood_auroc, penultimate_features
from isac_toolbox.nn.ssvi import SSVI
from isac_toolbox.nn.ssvi.baselines import DenseVI, MagnitudeSparse, PrunedVI
from isac_toolbox.nn.ssvi.classifier import SparseClassifier

RESULTS = Path(__file__).with_name("ssvi.jsonl")
SELECTION, SELECTION_SEED = Path(__file__).parent / "selection" / "ssvi.jsonl", 6
N_VALIDATION, BATCH, PREDICTED, N_SAMPLES, N_NOISE = 5000, 128, 250, 10, 5000
Output = Callable[[Tensor], Tensor]
#: Its first masks are kept, for the figures.
MASK_SEED = 3


def _rates(learning_rate: float, weight_decay: float) -> dict[str, float]:
    return {"learning_rate": learning_rate, "weight_decay": weight_decay}


@dataclass(frozen=True)
class Plan:
    """Size of the experiment of one network, and the settings that its methods share."""

    epochs: int
    layer_density: str
    n_train: int = 55_000
    width: int = 0
    learning_rate: float = 0.1
    weight_decay: float = 5e-4
    update_interval: int = 100
    erk_power: float | None = None
    sweep_epochs: int = 30


PLANS = {
    "lenet-300-100": Plan(200, "erk"),
    "lenet-5": Plan(60, "erk"),
    "resnet-18": Plan(12, "ends_dense", 55_000, 16, learning_rate=0.2, erk_power=0.2),
    "resnet-18-quarter": Plan(12, "ends_dense", 55_000, 4, learning_rate=0.2, erk_power=0.2),
    "resnet-18-full": Plan(24, "first_layer_dense", 55_000, 64, learning_rate=0.2, erk_power=0.2),
}


@dataclass(frozen=True)
class Choice:
    """What `--select` compares, on how many validation images, with how many epochs, at which density."""

    rates: tuple[float, ...] = (0.1, 0.2)
    decays: tuple[float, ...] = (1e-4, 5e-4)
    n_validation: int = N_VALIDATION
    epochs: int = 30
    density: float = 0.05


CHOICES = {"resnet-18": Choice((0.1, 0.2, 0.4), (5e-4,), 15_000, 5, 0.1)}


@dataclass(frozen=True)
class Job:
    """One run but for its seed."""

    method: str
    density: float = 1.0
    sweep: bool = False
    settings: dict[str, Any] = field(default_factory=dict)

    def key(self, network: str, seed: int) -> dict[str, Any]:
        """What a finished line must share."""
        return asdict(self) | {"network": network, "seed": seed}


SIGMAS, KL_WEIGHTS = (1e-4, 1e-3, 1e-2, 1e-1), (0.01, 0.1, 1.0, 10.0)
#: Posterior whose sigma is learned from any start: noise at the outputs, descent in sigma itself.
FREE = {"noise": "outputs", "sigma_step": "sigma"}
GROUPS: dict[str, list[Job]] = {
    "density": [
        Job("dense-vi"),
        *(Job("ssvi", density) for density in (0.05, 0.1, 0.02, 0.2)),
        *(Job(method, d) for d in (0.05, 0.1) for method in ("magnitude", "structured")),
    ],
    "main": [Job("dense-vi"), Job("ssvi", 0.05), Job("ssvi", 0.1)],
    "pruned": [Job("pruned-vi", d) for d in (0.05, 0.1)],
    "sigma": [Job("ssvi", 0.05, True, {"initial_sigma": s} | FREE) for s in SIGMAS],
    "sigma_rho": [Job("ssvi", 0.05, True, {"initial_sigma": s}) for s in SIGMAS],
    "sigma_dense": [Job("dense-vi", 1.0, True, {"initial_sigma": s}) for s in SIGMAS],
    "sigma_dense_free": [Job("dense-vi", 1.0, True, {"initial_sigma": s} | FREE) for s in SIGMAS],
    "kl": [Job("ssvi", 0.05, True, {"kl_weight": w} | FREE) for w in KL_WEIGHTS],
    "kl_dense": [Job("dense-vi", 1.0, True, {"kl_weight": w}) for w in KL_WEIGHTS],
    "removal": [
        Job("ssvi", 0.05, True, {"removal": name, "initial_sigma": 1e-2} | FREE)
        for name in ("snr", "magnitude", "mean_abs", "exp_mean", "exp_snr")
    ],
}


FOOTNOTE = """\
Mean ± standard deviation over seeds; accuracy in %. Free sigma: noise at the outputs, descent in sigma
itself. State: parameters, positions, momenta. MNIST, noise: AUROC of telling such images from test images by
the entropy of the mean network, the energy of its logits, the mutual information of class and ten drawn
networks, or the distance of the 50th neighbour among the features of the training images."""
#: Out-of-distribution scores, by their name in the table.
SCORES = {
    "entropy": "ood",
    "energy": "ood_energy",
    "mutual information": "ood_information",
    "neighbour": "ood_neighbours",
}


class Bench:
    """Data of one network, and its runs."""

    def __init__(self, network: str, device: str, n_validation: int = N_VALIDATION) -> None:
        self.network, self.plan, self.device = network, PLANS[network], device
        x, y = self._images("train")
        test = self._images("test")
        cut = len(x) - n_validation
        self.x, self.y = x[: min(self.plan.n_train, cut)], y[: min(self.plan.n_train, cut)]
        self.validation = TensorLoader(x[cut:], y[cut:], batch_size=PREDICTED, shuffle=False)
        self.test = TensorLoader(*test, batch_size=PREDICTED, shuffle=False)
        noise = torch.rand((N_NOISE, *x.shape[1:]), generator=torch.Generator().manual_seed(0))
        self.outside = {"noise": noise.to(device)}
        try:
            self.outside["mnist"] = load_mnist_digits().tensors[0].reshape(-1, *x.shape[1:]).to(device)
        except ImportError as error:
            print(f"no MNIST digits: {error}", flush=True)

    def _images(self, split: str) -> tuple[Tensor, Tensor]:
        """Images and labels; convolutions run 1.2 to 1.4 times faster in `channels_last`."""
        flat = self.network == "lenet-300-100"
        x, y = (part.to(self.device) for part in load_fashion_mnist(split=split, flat=flat).tensors)
        return (x if flat else x.to(memory_format=torch.channels_last)), y

    def network_of(self, seed: int) -> nn.Module:
        """Biases drawn from the seed; the weights are drawn again by the method."""
        torch.manual_seed(seed)
        if self.network == "lenet-300-100":
            return models.lenet_300_100()
        return models.lenet_5() if self.network == "lenet-5" else models.resnet18(self.plan.width)

    def method(self, job: Job, seed: int) -> SparseClassifier:
        """The untrained method."""
        net = self.network_of(seed).to(self.device)
        given = _rates(self.plan.learning_rate, self.plan.weight_decay) | job.settings
        spread = {
            "layer_density": self.plan.layer_density,
            "erk_power": self.plan.erk_power,
            "update_interval": self.plan.update_interval,
        }
        if job.method == "dense-vi":
            return DenseVI(net, seed=seed, **given)
        if job.method == "magnitude":
            return MagnitudeSparse(net, job.density, seed=seed, **(spread | given))
        if job.method == "pruned-vi":
            return PrunedVI(net, job.density, seed=seed, **given)
        if job.method == "structured":
            given |= {"removal": "structured", "addition": "structured"}
        return SSVI(net, job.density, seed=seed, **(spread | given))

    def run(self, job: Job, seed: int) -> dict[str, Any]:
        """One run; the line for the results file."""
        fitted = self.method(job, seed)
        start = time.perf_counter()
        epochs = self.plan.sweep_epochs if job.sweep else self.plan.epochs
        line = asdict(self.plan) | job.key(self.network, seed)
        line |= {"epochs": epochs, "device": _device(self.device)}
        loader = TensorLoader(self.x, self.y, batch_size=BATCH, seed=seed)
        try:
            fitted.fit(loader, epochs=epochs, progress=False)
        except FloatingPointError as error:
            return line | {"failed": str(error)}
        line |= {"seconds": round(time.perf_counter() - start, 1), "true_density": fitted.density}
        for name, part in (("validation", self.validation), ("test", self.test)):
            line[name] = fitted.evaluate(part)
        line["validation_sampled"] = fitted.evaluate(self.validation, N_SAMPLES)
        line |= self._drawn_and_outside(fitted)
        report = fitted.report()
        line |= {
            "training_flops": report.training_flops,
            "training_flops_dense": report.training_flops_dense,
            "state_bytes": report.state_bytes["total"],
            "n_updates": report.n_updates,
            "mean_run": report.layers[0].mean_run,
            "neurons_kept": report.neurons_kept,
            "layer_densities": [layer.density for layer in report.layers],
        }
        if seed == MASK_SEED and job.density < 1.0:
            line["first_mask"] = packed(next(iter(fitted.support().values())))
        return line

    def _drawn_and_outside(self, fitted: SparseClassifier) -> dict[str, dict[str, float]]:
        """Return the quality of drawn networks on test images, and the AUROC of every score."""
        mean = fitted.mean_model().eval()
        features = partial(penultimate_features, mean)
        known = _outputs(features, self.x)
        draws = self._outputs(partial(fitted.predict_draws, n_samples=N_SAMPLES))
        averages = {name: outputs.mean(0) for name, outputs in draws.items()}
        distances = {name: neighbour_distance(z, known) for name, z in self._outputs(features).items()}
        return {
            "test_sampled": prediction_metrics(averages["test"], self.test.y.numpy(force=True)),
            "ood": _aurocs_of(self._outputs(fitted.predict_proba), "entropy"),
            "ood_sampled": _aurocs_of(averages, "entropy"),
            "ood_energy": _aurocs_of(self._outputs(mean), "energy"),
            "ood_information": _aurocs_of(draws, "mutual_information"),
            "ood_neighbours": _aurocs_of(distances, "given"),
        }

    def _outputs(self, output: Output) -> dict[str, np.ndarray]:
        """Return the outputs for the test images and for every kind of out-of-distribution images."""
        return {name: _outputs(output, x) for name, x in {"test": self.test.x, **self.outside}.items()}


def _aurocs_of(outputs: dict[str, np.ndarray], score: str) -> dict[str, float]:
    """Return the AUROC of a score between test images and every kind of out-of-distribution images."""
    return {name: ood_auroc(outputs["test"], z, score) for name, z in outputs.items() if name != "test"}


@torch.inference_mode()
def _outputs(output: Output, x: Tensor) -> np.ndarray:
    """Outputs of all images, which lie on the last axis but one."""
    return torch.cat([output(part) for part in x.split(PREDICTED)], dim=-2).numpy(force=True)


def _device(device: str) -> str:
    """What the run computes on, and with."""
    kind = torch.cuda.get_device_name(device) if device.startswith("cuda") else device
    return f"{kind}, torch {torch.__version__}"


def packed(mask: Tensor) -> dict[str, Any]:
    """A mask as text: its bits."""
    bits = np.packbits(mask.numpy(force=True))
    return {"bits": base64.b64encode(bits.tobytes()).decode(), "shape": list(mask.shape)}


def jobs(groups: list[str], seeds: list[int], densities: list[float]) -> Iterator[tuple[Job, int]]:
    """Runs in the order in which they are wanted; no densities are all."""
    for group in groups:
        for seed in seeds:
            for job in GROUPS[group]:
                if not densities or job.density in densities:
                    yield job, seed


def select(network: str, device: str) -> None:
    """Try the grid with dense inference and SSVI; validation images alone are seen."""
    choice = CHOICES.get(network, Choice())
    bench = Bench(network, device, choice.n_validation)
    grid = [_rates(rate, decay) for rate in choice.rates for decay in choice.decays]
    for job in (
        Job(m, d, True, rates) for rates in grid for m, d in (("dense-vi", 1.0), ("ssvi", choice.density))
    ):
        key = job.key(network, SELECTION_SEED)
        if find_line(read_lines(SELECTION), key):
            continue
        loader = TensorLoader(bench.x, bench.y, batch_size=BATCH, seed=SELECTION_SEED)
        fitted = bench.method(job, SELECTION_SEED).fit(loader, epochs=choice.epochs, progress=False)
        line = key | {"epochs": choice.epochs, "validation": fitted.evaluate(bench.validation)}
        append_line(SELECTION, line)
        print(line, flush=True)


def run_all(network: str, runs: Iterator[tuple[Job, int]], device: str) -> None:
    """Every missing run; each result is stored at once."""
    bench = None
    for job, seed in runs:
        if find_line(read_lines(RESULTS), job.key(network, seed)):
            continue
        bench = bench or Bench(network, device)
        line = bench.run(job, seed)
        append_line(RESULTS, line)
        outcome = line.get("failed") or f"test {line['test']['accuracy']:.4f}, {line['seconds']} s"
        print(f"{network} {job.method} {job.density} {job.settings} seed {seed}: {outcome}", flush=True)


def print_table(lines: list[dict[str, Any]]) -> None:
    """Mean and standard deviation over the seeds."""
    console = Console(width=400)
    heads = ("method", "density", "settings", "seeds", "accuracy", "NLL", "ECE", "NLL, 10 draws")
    heads += ("ECE, 10 draws", *(f"{kind}, {name}" for kind in ("MNIST", "noise") for name in SCORES))
    heads += ("FLOPs / dense", "state, MB", "run", "s")
    for network in PLANS:
        chosen = [line for line in lines if line["network"] == network]
        if not chosen:
            continue
        table = Table(
            *(Column(head, no_wrap=True) for head in heads),
            title=f"{network} on Fashion-MNIST, {_length(chosen)}",
        )
        for method, density, settings in dict.fromkeys(_name(line) for line in chosen):
            group = [line for line in chosen if _name(line) == (method, density, settings)]
            ended = [line for line in group if "failed" not in line]
            cells = _columns(ended) if ended else ["failed"]
            table.add_row(method, str(density), settings, f"{len(ended)}/{len(group)}", *cells)
        console.print(table)
    console.print(FOOTNOTE)


def _length(lines: list[dict[str, Any]]) -> str:
    plan = lines[0]
    images = f"{plan['n_train']:,} images" + (f", width {plan['width']}" if plan["width"] else "")
    full = f"{PLANS[plan['network']].epochs} epochs"
    return f"{images}, {full}, with other settings {plan['sweep_epochs']}"


def _name(line: dict[str, Any]) -> tuple[str, float, str]:
    settings = dict(line["settings"])
    free = all(settings.get(key) == value for key, value in FREE.items())
    shown = [f"{key} {value}" for key, value in settings.items() if not (free and key in FREE)]
    return line["method"], line["density"], ", ".join([*shown, *(["free sigma"] if free else [])])


def _columns(group: list[dict[str, Any]]) -> list[str]:
    """Cells of one method."""
    test, drawn = [line["test"] for line in group], [line["test_sampled"] for line in group]
    return [
        spread([100 * t["accuracy"] for t in test], "{:.2f}"),
        *(spread([t[key] for t in part], "{:.3f}") for part in (test, drawn) for key in ("nll", "ece")),
        *(spread(_aurocs(group, s, k), "{:.3f}") for k in ("mnist", "noise") for s in SCORES.values()),
        spread([x["training_flops"] / x["training_flops_dense"] for x in group], "{:.3f}"),
        spread([x["state_bytes"] / 1e6 for x in group], "{:.2f}"),
        spread([x["mean_run"] for x in group], "{:.1f}"),
        spread([x["seconds"] for x in group], "{:.0f}"),
    ]


def _aurocs(group: list[dict[str, Any]], score: str, kind: str) -> list[float]:
    """AUROC of the runs that have it: most scores came later than the entropy."""
    return [line[score][kind] for line in group if kind in line.get(score, {})]


def integers(text: str) -> list[int]:
    """Numbers of a list with commas."""
    return [int(part) for part in text.split(",")]


def numbers(text: str) -> list[float]:
    """Numbers of a list with commas, which may be empty."""
    return [float(part) for part in text.split(",") if part]


def check_known(parser: argparse.ArgumentParser, name: str, given: list[Any], known: Collection[Any]) -> None:
    """End with a message that names the argument and what it knows."""
    unknown = [str(one) for one in given if one not in known]
    if unknown:
        parser.error(f"{name} knows {', '.join(map(str, known))}, not {', '.join(unknown)}")


def main() -> None:
    """Run what is missing, then print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--network", choices=[*PLANS], default="lenet-300-100")
    parser.add_argument("--groups", default="density")
    parser.add_argument("--seeds", type=integers, default="3,4,5")
    parser.add_argument(
        "--densities",
        type=numbers,
        default="",
        help="only these, 1 is dense; runs side by side share the file",
    )
    parser.add_argument("--select", action="store_true", help="only try the grid, on validation images")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--table", action="store_true", help="only print what is there")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.filterwarnings("ignore", message=".*exp_snr.*")
    if options.select:
        select(options.network, options.device)
        return
    if not options.table:
        groups = options.groups.split(",")
        check_known(parser, "--groups", groups, GROUPS)
        known = sorted({job.density for group in groups for job in GROUPS[group]})
        check_known(parser, "--densities", options.densities, known)
        run_all(options.network, jobs(groups, options.seeds, options.densities), options.device)
    print_table(read_lines(RESULTS))


if __name__ == "__main__":
    main()
